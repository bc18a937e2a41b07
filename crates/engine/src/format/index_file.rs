//! Index files: which blobs lie where in which packs.
//!
//! Not here: the index in memory (see `index`).

use std::io::Read;

use serde::Serialize;

use super::json_stream::JsonReader;
use super::pack::{BlobKind, PackedBlob};
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;

/// The most blobs one index file holds.
pub const MAX_BLOBS: usize = 50_000;

/// One pack's blobs as an index file lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedPack {
    /// The pack.
    pub id: Id,
    /// Its blobs in any order.
    pub blobs: Vec<PackedBlob>,
    /// The pack waits to be deleted: readable, but nothing new may rely on it.
    pub marked: bool,
}

#[derive(Serialize)]
struct StoredFile {
    packs: Vec<StoredPack>,
}

#[derive(Serialize)]
struct StoredPack {
    id: Id,
    blobs: Vec<StoredBlob>,
}

#[derive(Serialize)]
struct StoredBlob {
    id: Id,
    #[serde(rename = "type")]
    kind: BlobKind,
    offset: u32,
    length: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    uncompressed_length: Option<u32>,
}

/// What one index file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IndexFile {
    /// Its packs.
    pub packs: Vec<IndexedPack>,
    /// Packs of any index file that wait to be deleted.
    pub marks: Vec<Id>,
}

impl IndexFile {
    /// Reads an index file's JSON.
    pub fn parse(json: &[u8]) -> Result<Self> {
        Self::read(json)
    }

    /// Reads an index file's JSON from a stream: the document itself, some 200 bytes a blob, is never held.
    pub fn read(json: impl Read) -> Result<Self> {
        let mut file = Self::default();
        file.fill(&mut JsonReader::new(json)).map_err(|e| {
            Error::with_source(ErrorKind::Corrupt, "an index file is not of a form this version can read", e)
        })?;
        Ok(file)
    }

    fn fill<R: Read>(&mut self, json: &mut JsonReader<R>) -> Result<()> {
        enum Key {
            Packs,
            /// Written by rustic.
            PacksToDelete,
            /// Ours: packs of this or any other index file that wait to be deleted.
            Marks,
            Other,
        }
        let name = |key: &[u8]| match key {
            b"packs" => Key::Packs,
            b"packs_to_delete" => Key::PacksToDelete,
            b"holdfast_marks" => Key::Marks,
            _ => Key::Other,
        };
        json.object(name, |json, key| match key {
            Key::Packs => json.list(|json| read_pack(json, false).map(|pack| self.packs.push(pack))),
            Key::PacksToDelete => json.list(|json| read_pack(json, true).map(|pack| self.packs.push(pack))),
            Key::Marks => json.list(|json| read_mark(json).map(|pack| self.marks.push(pack))),
            Key::Other => json.skip(),
        })?;
        json.end()
    }

    /// The JSON of an index file with these packs.
    pub fn to_json(packs: &[IndexedPack]) -> Result<Vec<u8>> {
        let stored = StoredFile {
            packs: packs
                .iter()
                .map(|p| StoredPack { id: p.id, blobs: p.blobs.iter().map(StoredBlob::from).collect() })
                .collect(),
        };
        serde_json::to_vec(&stored).map_err(|e| {
            Error::with_source(ErrorKind::Internal, "an index file could not be written as JSON", e)
        })
    }
}

fn missing(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("an entry has no {what}"))
}

fn read_id<R: Read>(json: &mut JsonReader<R>) -> Result<Id> {
    Id::from_hex(json.string()?)
}

fn read_pack<R: Read>(json: &mut JsonReader<R>, marked: bool) -> Result<IndexedPack> {
    enum Key {
        Id,
        Blobs,
        Other,
    }
    let (mut id, mut blobs) = (None, None);
    let name = |key: &[u8]| match key {
        b"id" => Key::Id,
        b"blobs" => Key::Blobs,
        _ => Key::Other,
    };
    json.object(name, |json, key| {
        match key {
            Key::Id => id = Some(read_id(json)?),
            Key::Blobs => {
                let blobs = blobs.get_or_insert_with(Vec::new);
                json.list(|json| read_blob(json).map(|blob| blobs.push(blob)))?;
            }
            Key::Other => json.skip()?,
        }
        Ok(())
    })?;
    let id = id.ok_or_else(|| missing("pack id"))?;
    Ok(IndexedPack { id, blobs: blobs.ok_or_else(|| missing("blobs"))?, marked })
}

fn read_blob<R: Read>(json: &mut JsonReader<R>) -> Result<PackedBlob> {
    enum Key {
        Id,
        Kind,
        Offset,
        Length,
        Uncompressed,
        Other,
    }
    let (mut id, mut kind, mut offset, mut length, mut uncompressed) = (None, None, None, None, None);
    let name = |key: &[u8]| match key {
        b"id" => Key::Id,
        b"type" => Key::Kind,
        b"offset" => Key::Offset,
        b"length" => Key::Length,
        b"uncompressed_length" => Key::Uncompressed,
        _ => Key::Other,
    };
    json.object(name, |json, key| {
        match key {
            Key::Id => id = Some(read_id(json)?),
            Key::Kind => {
                kind = Some(match json.string()? {
                    b"data" => BlobKind::Data,
                    b"tree" => BlobKind::Tree,
                    _ => return Err(Error::new(ErrorKind::Corrupt, "a blob is of an unknown type")),
                });
            }
            Key::Offset => offset = Some(json.u32()?),
            Key::Length => length = Some(json.u32()?),
            // Some old clients wrote 0 for "not compressed".
            Key::Uncompressed => uncompressed = json.u32_or_null()?.filter(|length| *length != 0),
            Key::Other => json.skip()?,
        }
        Ok(())
    })?;
    Ok(PackedBlob {
        id: id.ok_or_else(|| missing("blob id"))?,
        kind: kind.ok_or_else(|| missing("type"))?,
        offset: offset.ok_or_else(|| missing("offset"))?,
        length: length.ok_or_else(|| missing("length"))?,
        uncompressed,
    })
}

fn read_mark<R: Read>(json: &mut JsonReader<R>) -> Result<Id> {
    let mut pack = None;
    json.object(
        |key| key == b"pack",
        |json, is_pack| {
            if is_pack {
                pack = Some(read_id(json)?);
                Ok(())
            } else {
                json.skip()
            }
        },
    )?;
    pack.ok_or_else(|| missing("pack id"))
}

impl From<&PackedBlob> for StoredBlob {
    fn from(blob: &PackedBlob) -> Self {
        Self {
            id: blob.id,
            kind: blob.kind,
            offset: blob.offset,
            length: blob.length,
            uncompressed_length: blob.uncompressed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack() -> IndexedPack {
        let blob = |kind, uncompressed| PackedBlob {
            kind,
            id: Id::from_bytes([2; 32]),
            offset: 3,
            length: 44,
            uncompressed,
        };
        IndexedPack {
            id: Id::from_bytes([1; 32]),
            blobs: vec![blob(BlobKind::Data, None), blob(BlobKind::Tree, Some(5))],
            marked: false,
        }
    }

    #[test]
    fn written_as_the_format_has_it_and_read_back() {
        let json = IndexFile::to_json(&[pack()]).unwrap();
        let (one, two) = ("01".repeat(32), "02".repeat(32));
        assert_eq!(
            String::from_utf8(json.clone()).unwrap(),
            format!(
                r#"{{"packs":[{{"id":"{one}","blobs":[{{"id":"{two}","type":"data","offset":3,"length":44}},{{"id":"{two}","type":"tree","offset":3,"length":44,"uncompressed_length":5}}]}}]}}"#
            )
        );
        assert_eq!(IndexFile::parse(&json).unwrap(), IndexFile { packs: vec![pack()], marks: Vec::new() });
    }

    #[test]
    fn other_clients_forms_are_read() {
        let one = "01".repeat(32);
        let file = IndexFile::parse(
            format!(r#"{{"supersedes":["{one}"],"packs":null,"packs_to_delete":[{{"id":"{one}","blobs":null,"time":"x"}}],
                "holdfast_marks":[{{"pack":"{one}","since":"2026-01-01T00:00:00Z","by":"x"}}]}}"#)
            .as_bytes(),
        )
        .unwrap();
        assert_eq!(file.packs.len(), 1);
        assert!(file.packs[0].marked);
        assert_eq!(file.marks, [Id::from_bytes([1; 32])]);
        assert!(IndexFile::parse(b"{\"packs\":[{\"id\":\"short\",\"blobs\":[]}]}").is_err());
        assert!(IndexFile::parse(format!(r#"{{"packs":[{{"id":"{one}","blobs":[{{"id":"{one}","type":"data","offset":4294967296,"length":1}}]}}]}}"#).as_bytes()).is_err());
    }
}
