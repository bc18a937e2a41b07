//! Plain bytes, or bytes that are compressed already, to sealed blobs of one repository.

use crate::crypto::{IV_LENGTH, OVERHEAD};
use crate::error::{Error, ErrorKind, Result};
use crate::format::compress::{Compression, Compressor};
use crate::format::pack::{BlobKind, may_be_raw};
use crate::id::Id;
use crate::repository::Repository;

/// A sealed blob without a place yet.
#[derive(Debug)]
pub(crate) struct NewBlob {
    pub(crate) kind: BlobKind,
    pub(crate) id: Id,
    pub(crate) sealed: Vec<u8>,
    /// Plain bytes when it is compressed.
    pub(crate) uncompressed: Option<u32>,
}

/// Seals blobs one after the other. One for each thread.
pub(crate) struct Sealer {
    compressor: Compressor,
}

impl Sealer {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { compressor: Compressor::new(Compression::Auto)? })
    }

    /// Compresses where the format allows and it helps, and seals.
    pub(crate) fn seal(
        &mut self,
        repo: &Repository,
        kind: BlobKind,
        id: Id,
        plain: &[u8],
    ) -> Result<NewBlob> {
        if repo.version() >= 2 {
            let mut frame = Vec::new();
            let length = self.compressor.append(plain, &mut frame)?;
            // The format wants directories compressed whether it helps or not.
            if length < plain.len() || kind == BlobKind::Tree || !may_be_raw(plain) {
                return seal_stored(repo, kind, id, &frame, u32::try_from(plain.len()).ok());
            }
        }
        seal_stored(repo, kind, id, plain, None)
    }
}

/// Seals bytes as they are to be stored, and opens them again as a guard against broken memory.
pub(crate) fn seal_stored(
    repo: &Repository,
    kind: BlobKind,
    id: Id,
    stored: &[u8],
    uncompressed: Option<u32>,
) -> Result<NewBlob> {
    let mut sealed = Vec::with_capacity(stored.len() + OVERHEAD);
    sealed.extend_from_slice(&[0; IV_LENGTH]);
    sealed.extend_from_slice(stored);
    repo.key().seal_tail(&mut sealed, 0)?;
    if repo.key().open(&sealed)? != stored {
        return Err(Error::new(
            ErrorKind::Internal,
            format!(
                "the {} blob {id} does not read back as it was sealed. Check this machine's memory",
                kind.as_str()
            ),
        ));
    }
    Ok(NewBlob { kind, id, sealed, uncompressed })
}
