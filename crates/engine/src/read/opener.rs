//! Sealed bytes to checked plain bytes, with buffers that are used again.
//!
//! Not here: where the bytes come from.

use crate::crypto::Key;
use crate::error::{Error, ErrorKind, Result};
use crate::format::compress::Decompressor;
use crate::format::pack::BlobKind;
use crate::format::tree::MAX_JSON;
use crate::id::{Beside, Id};

/// A chunk of content is at most 8 MiB in every known writer; this leaves room for other chunker settings and
/// keeps a forged length from taking the memory.
const MAX_DATA: u32 = 64 << 20;
/// Buffers of which no more was used are used again. One chunk in thirty is larger, and each thread comes to one in time.
const KEPT: usize = 4 << 20;

/// Opens blobs one after the other. One for each thread.
pub(crate) struct BlobOpener {
    zstd: Decompressor,
    sealed: Vec<u8>,
    plain: Vec<u8>,
}

impl BlobOpener {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { zstd: Decompressor::new()?, sealed: Vec::new(), plain: Vec::new() })
    }

    /// Checks the MAC, decrypts, decompresses and compares the digest: what comes back is what was backed up.
    pub(crate) fn open(
        &mut self,
        key: &Key,
        sealed: &[u8],
        kind: BlobKind,
        id: &Id,
        uncompressed: Option<u32>,
    ) -> Result<&[u8]> {
        self.open_stored(key, sealed, kind, id, uncompressed).map(|(_, plain)| plain)
    }

    /// As [`BlobOpener::open`]; takes other bytes along that have to be hashed too.
    pub(crate) fn open_beside(
        &mut self,
        key: &Key,
        sealed: &[u8],
        kind: BlobKind,
        id: &Id,
        uncompressed: Option<u32>,
        beside: &mut Beside<'_>,
    ) -> Result<&[u8]> {
        self.open_hashed(key, sealed, kind, (id, |plain| beside.hash(plain)), uncompressed)
            .map(|(_, plain)| plain)
    }

    /// As [`BlobOpener::open`], with the bytes as they were before they were sealed: compressed or plain.
    pub(crate) fn open_stored(
        &mut self,
        key: &Key,
        sealed: &[u8],
        kind: BlobKind,
        id: &Id,
        uncompressed: Option<u32>,
    ) -> Result<(&[u8], &[u8])> {
        self.open_hashed(key, sealed, kind, (id, Id::hash), uncompressed)
    }

    /// The digest that `hash` finds must be `id`.
    fn open_hashed(
        &mut self,
        key: &Key,
        sealed: &[u8],
        kind: BlobKind,
        (id, hash): (&Id, impl FnOnce(&[u8]) -> Id),
        uncompressed: Option<u32>,
    ) -> Result<(&[u8], &[u8])> {
        // A huge directory or a large chunk must not be remembered by its memory.
        if self.plain.len() > KEPT || self.sealed.len() > KEPT {
            (self.plain, self.sealed) = (Vec::new(), Vec::new());
        }
        self.sealed.clear();
        self.sealed.extend_from_slice(sealed);
        let opened: &[u8] = key.open_in_place(&mut self.sealed)?;
        let plain: &[u8] = match uncompressed {
            None => opened,
            Some(length) => {
                let limit = match kind {
                    BlobKind::Data => MAX_DATA,
                    BlobKind::Tree => MAX_JSON,
                };
                if length > limit {
                    return Err(Error::new(
                        ErrorKind::Corrupt,
                        format!("blob {} claims {length} bytes, more than any writer makes", id.short()),
                    ));
                }
                self.zstd.exact_into(opened, length as usize, &mut self.plain)?;
                &self.plain
            }
        };
        if hash(plain) != *id {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("blob {} holds other bytes than its name says", id.short()),
            ));
        }
        Ok((opened, plain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::compress::{Compression, Compressor};

    #[test]
    fn good_blobs_open_and_bad_ones_do_not() {
        let key = Key::generate().expect("key");
        let plain = b"some content that compresses some content that compresses".repeat(20);
        let id = Id::hash(&plain);
        let mut frame = Vec::new();
        Compressor::new(Compression::Auto).expect("zstd").append(&plain, &mut frame).expect("compress");
        let raw = key.seal(&plain).expect("seal");
        let packed = key.seal(&frame).expect("seal");
        let length = u32::try_from(plain.len()).expect("small");
        let mut opener = BlobOpener::new().expect("opener");
        let mut open = |sealed: &[u8], id: &Id, plain: Option<u32>| {
            opener.open(&key, sealed, BlobKind::Data, id, plain).map(<[u8]>::to_vec).map_err(|e| e.kind())
        };
        assert_eq!(open(&raw, &id, None), Ok(plain.clone()));
        assert_eq!(open(&packed, &id, Some(length)), Ok(plain.clone()));
        assert_eq!(open(&packed, &Id::hash(b"other"), Some(length)), Err(ErrorKind::Corrupt));
        assert_eq!(open(&packed, &id, Some(length - 1)), Err(ErrorKind::Corrupt));
        assert_eq!(open(&packed, &id, Some(u32::MAX)), Err(ErrorKind::Corrupt));
        let mut flipped = raw.clone();
        flipped[20] ^= 1;
        assert_eq!(open(&flipped, &id, None), Err(ErrorKind::Corrupt));
        assert_eq!(open(&raw[..10], &id, None), Err(ErrorKind::Corrupt));
    }
}
