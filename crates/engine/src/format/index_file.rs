//! Index files: which blobs lie where in which packs.
//!
//! Not here: the index in memory (see `index`).

use serde::{Deserialize, Serialize};

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

#[derive(Serialize, Deserialize)]
struct StoredFile {
    #[serde(default, deserialize_with = "null_is_empty")]
    packs: Vec<StoredPack>,
    /// Written by rustic.
    #[serde(default, skip_serializing, deserialize_with = "null_is_empty")]
    packs_to_delete: Vec<StoredPack>,
    /// Ours: packs of this or any other index file that wait to be deleted.
    #[serde(default, skip_serializing, deserialize_with = "null_is_empty")]
    holdfast_marks: Vec<StoredMark>,
}

#[derive(Serialize, Deserialize)]
struct StoredPack {
    id: Id,
    #[serde(deserialize_with = "null_is_empty")]
    blobs: Vec<StoredBlob>,
}

#[derive(Deserialize)]
struct StoredMark {
    pack: Id,
}

#[derive(Serialize, Deserialize)]
struct StoredBlob {
    id: Id,
    #[serde(rename = "type")]
    kind: BlobKind,
    offset: u32,
    length: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uncompressed_length: Option<u32>,
}

fn null_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
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
        let stored: StoredFile = serde_json::from_slice(json).map_err(|e| {
            Error::with_source(ErrorKind::Corrupt, "an index file is not of a form this version can read", e)
        })?;
        let marks = stored.holdfast_marks.iter().map(|m| m.pack).collect();
        let live = stored.packs.into_iter().map(|p| (p, false));
        let dying = stored.packs_to_delete.into_iter().map(|p| (p, true));
        let packs = live
            .chain(dying)
            .map(|(pack, marked)| IndexedPack {
                id: pack.id,
                blobs: pack.blobs.into_iter().map(PackedBlob::from).collect(),
                marked,
            })
            .collect();
        Ok(Self { packs, marks })
    }

    /// The JSON of an index file with these packs.
    pub fn to_json(packs: &[IndexedPack]) -> Result<Vec<u8>> {
        let stored = StoredFile {
            packs: packs
                .iter()
                .map(|p| StoredPack { id: p.id, blobs: p.blobs.iter().map(StoredBlob::from).collect() })
                .collect(),
            packs_to_delete: Vec::new(),
            holdfast_marks: Vec::new(),
        };
        serde_json::to_vec(&stored).map_err(|e| {
            Error::with_source(ErrorKind::Internal, "an index file could not be written as JSON", e)
        })
    }
}

impl From<StoredBlob> for PackedBlob {
    fn from(blob: StoredBlob) -> Self {
        Self {
            kind: blob.kind,
            id: blob.id,
            offset: blob.offset,
            length: blob.length,
            // Some old clients wrote 0 for "not compressed".
            uncompressed: blob.uncompressed_length.filter(|l| *l != 0),
        }
    }
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
