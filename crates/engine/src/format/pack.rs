//! Pack files: blobs one after the other, then a sealed header, then the header's length.
//!
//! Only the header's plain bytes are handled here; sealing them is `crypto`'s, writing packs the pipeline's.

use serde::{Deserialize, Serialize};

use crate::crypto::OVERHEAD;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;

/// Bytes of the length field at the end of a pack.
pub const LENGTH_FIELD: usize = 4;
/// What sealing adds to a blob, as lengths in packs are counted.
pub const BLOB_OVERHEAD: u32 = 32;
/// What a pack holds besides blobs and header entries: the sealed header's IV and MAC, and its length.
pub const FRAME_OVERHEAD: u64 = 36;
const _: () = assert!(OVERHEAD == 32 && LENGTH_FIELD == 4);
/// Header bytes of a blob that is stored raw: type, length, id.
pub const ENTRY_RAW: usize = 37;
/// Header bytes of a compressed blob: type, length, plain length, id.
pub const ENTRY_COMPRESSED: usize = 41;
/// The longest sealed header that is accepted (restic's limit).
pub const MAX_HEADER: usize = 16 << 20;
/// What is read from a pack's end at first: room for 15 compressed entries, IV, MAC and the length.
pub const FIRST_READ: u64 = (15 * ENTRY_COMPRESSED + OVERHEAD + LENGTH_FIELD) as u64;

/// What a blob holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobKind {
    /// A chunk of file content.
    Data,
    /// A directory.
    Tree,
}

impl BlobKind {
    /// The format's word for it: `data` or `tree`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Tree => "tree",
        }
    }
}

/// One blob's place in its pack, as header and index describe it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedBlob {
    /// What it holds.
    pub kind: BlobKind,
    /// SHA-256 of its plain bytes.
    pub id: Id,
    /// First byte in the pack.
    pub offset: u32,
    /// Sealed bytes in the pack (IV and MAC included).
    pub length: u32,
    /// Plain bytes when it is compressed; `None` when it is stored raw.
    pub uncompressed: Option<u32>,
}

impl PackedBlob {
    /// Plain bytes of the blob, compressed or not.
    pub fn plain_length(&self) -> u32 {
        self.uncompressed.unwrap_or_else(|| self.length.saturating_sub(BLOB_OVERHEAD))
    }

    /// Bytes this blob's entry takes in the header.
    pub fn entry_length(&self) -> usize {
        if self.uncompressed.is_some() { ENTRY_COMPRESSED } else { ENTRY_RAW }
    }
}

/// The exact size of a pack with these blobs: what a listing must show.
pub fn pack_size<'a>(blobs: impl IntoIterator<Item = &'a PackedBlob>) -> u64 {
    blobs
        .into_iter()
        .map(|b| u64::from(b.length) + b.entry_length() as u64)
        .sum::<u64>()
        .saturating_add(FRAME_OVERHEAD)
}

/// Whether content may be sealed as it is, without compression.
///
/// One key seals everything, and nothing sealed says what it is but its first byte: a JSON document, a compressed file
/// outside packs (2), the header of a pack (the types of its first blob). Whoever can both put a file on a volume and write
/// to the store could otherwise cut its sealed chunk out of a pack and pass it off as a snapshot, an index or the config. A
/// zstd frame begins with none of these. In format version 1 there is no such way out.
pub(crate) fn may_be_raw(plain: &[u8]) -> bool {
    !matches!(plain.first(), Some(0..=3 | b'{' | b'['))
}

/// The plain bytes of the header for blobs that lie one after the other.
pub fn encode_header(blobs: &[PackedBlob]) -> Vec<u8> {
    let mut out = Vec::with_capacity(blobs.iter().map(PackedBlob::entry_length).sum());
    for blob in blobs {
        let kind = match (blob.kind, blob.uncompressed) {
            (BlobKind::Data, None) => 0_u8,
            (BlobKind::Tree, None) => 1,
            (BlobKind::Data, Some(_)) => 2,
            (BlobKind::Tree, Some(_)) => 3,
        };
        out.push(kind);
        out.extend_from_slice(&blob.length.to_le_bytes());
        if let Some(plain) = blob.uncompressed {
            out.extend_from_slice(&plain.to_le_bytes());
        }
        out.extend_from_slice(blob.id.as_bytes());
    }
    out
}

/// The length of the sealed header from a pack's last four bytes, given the pack's size.
pub fn header_length(last_four: [u8; 4], pack_size: u64) -> Result<usize> {
    let length = u32::from_le_bytes(last_four) as usize;
    let room = pack_size.saturating_sub(LENGTH_FIELD as u64);
    if !(OVERHEAD + ENTRY_RAW..=MAX_HEADER).contains(&length) || length as u64 > room {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("the pack's header claims {length} bytes in a file of {pack_size}"),
        ));
    }
    Ok(length)
}

/// Reads a header's plain bytes. Offsets are running sums, as the format has it.
pub fn decode_header(mut header: &[u8]) -> Result<Vec<PackedBlob>> {
    fn take<'a, const N: usize>(from: &mut &'a [u8]) -> Result<&'a [u8; N]> {
        let (head, rest) = from
            .split_first_chunk::<N>()
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, "a pack header ends in the middle of an entry"))?;
        *from = rest;
        Ok(head)
    }
    let mut blobs = Vec::with_capacity(header.len() / ENTRY_RAW);
    let mut offset = 0_u32;
    while !header.is_empty() {
        let [tag] = *take::<1>(&mut header)?;
        let (kind, compressed) = match tag {
            0 => (BlobKind::Data, false),
            1 => (BlobKind::Tree, false),
            2 => (BlobKind::Data, true),
            3 => (BlobKind::Tree, true),
            other => {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("a pack header holds the unknown blob type {other}"),
                ));
            }
        };
        let length = u32::from_le_bytes(*take::<4>(&mut header)?);
        let uncompressed = if compressed { Some(u32::from_le_bytes(*take::<4>(&mut header)?)) } else { None };
        let id = Id::from_bytes(*take::<32>(&mut header)?);
        if (length as usize) < OVERHEAD {
            return Err(Error::new(ErrorKind::Corrupt, format!("blob {id} is shorter than its own frame")));
        }
        blobs.push(PackedBlob { kind, id, offset, length, uncompressed });
        offset = offset
            .checked_add(length)
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, "the blobs of a pack add up to more than 4 GiB"))?;
    }
    Ok(blobs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs() -> Vec<PackedBlob> {
        let shapes = [
            (BlobKind::Data, None),
            (BlobKind::Tree, None),
            (BlobKind::Data, Some(7)),
            (BlobKind::Tree, Some(u32::MAX)),
        ];
        shapes
            .into_iter()
            .zip(1_u32..)
            .map(|((kind, uncompressed), n)| PackedBlob {
                kind,
                id: Id::hash(&[u8::try_from(n).unwrap()]),
                offset: (n - 1) * 100,
                length: 100,
                uncompressed,
            })
            .collect()
    }

    #[test]
    fn headers_round_trip_and_have_the_formats_bytes() {
        let header = encode_header(&blobs());
        assert_eq!(header.len(), 37 + 37 + 41 + 41);
        assert_eq!(header[..5], [0, 100, 0, 0, 0]);
        assert_eq!(header[74..83], [2, 100, 0, 0, 0, 7, 0, 0, 0]);
        assert_eq!(decode_header(&header).unwrap(), blobs());
        assert_eq!(pack_size(&blobs()), 400 + header.len() as u64 + 36);
        assert_eq!(FIRST_READ, 651);
    }

    #[test]
    fn damaged_headers_are_errors() {
        let header = encode_header(&blobs());
        for cut in 1..37 {
            assert_eq!(decode_header(&header[..cut]).unwrap_err().kind(), ErrorKind::Corrupt, "cut at {cut}");
        }
        let mut unknown = header.clone();
        unknown[0] = 4;
        assert!(decode_header(&unknown).is_err());
        let mut tiny = header;
        tiny[1] = 31;
        assert!(decode_header(&tiny).is_err());
        let huge = PackedBlob { length: u32::MAX, ..blobs()[0] };
        assert!(decode_header(&encode_header(&[huge, huge])).is_err(), "more than 4 GiB");
    }

    #[test]
    fn header_lengths_must_fit_the_file() {
        assert_eq!(header_length(69_u32.to_le_bytes(), 73).unwrap(), 69);
        for (length, size) in
            [(69_u32, 72), (68, 1000), (0, 1000), (u32::MAX, u64::MAX), ((16 << 20) + 1, 1 << 30)]
        {
            assert!(header_length(length.to_le_bytes(), size).is_err(), "{length} in {size}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_header_makes_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            if let Ok(blobs) = decode_header(&bytes) {
                proptest::prop_assert_eq!(encode_header(&blobs), bytes);
            }
        }
    }
}
