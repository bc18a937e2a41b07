//! Single blobs: fetched from any of their copies, checked, opened.
//!
//! Bulk reading (restore, check) plans whole ranges itself; see `read`.

use bytes::Bytes;

use super::Repository;
use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::BlobKind;
use crate::format::tree::Tree;
use crate::id::Id;
use crate::index::{BlobLocation, Index};
use crate::read::BlobOpener;
use crate::store::{FileKind, FileName};

impl Repository {
    /// The plain bytes of a blob. Every copy is tried, each is read twice when it looks damaged.
    pub async fn load_blob(&self, index: &Index, kind: BlobKind, id: &Id) -> Result<Bytes> {
        let mut failure = None;
        for location in index.lookup(kind, id) {
            for _ in 0..2 {
                match self.read_copy(kind, id, &location).await {
                    Ok(plain) => return Ok(plain),
                    Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Missing) => {
                        let missing = e.kind() == ErrorKind::Missing;
                        failure = Some(e);
                        if missing {
                            break;
                        }
                    }
                    Err(e) => return Err(e),
                }
            }
        }
        Err(failure.unwrap_or_else(|| {
            Error::new(
                ErrorKind::Missing,
                format!(
                    "the {} blob {id} is in no index of {}; run a check",
                    kind.as_str(),
                    self.store().describe()
                ),
            )
        }))
    }

    async fn read_copy(&self, kind: BlobKind, id: &Id, location: &BlobLocation) -> Result<Bytes> {
        let start = u64::from(location.offset);
        let name = FileName { kind: FileKind::Pack, id: location.pack };
        let sealed = self.store().get(name, Some(start..start + u64::from(location.length))).await?;
        let open = |opener: &mut BlobOpener| {
            opener.open(self.key(), &sealed, kind, id, location.uncompressed).map(Bytes::copy_from_slice)
        };
        self.inner.openers.with(BlobOpener::new, open).map_err(|e| {
            Error::with_source(
                e.kind(),
                format!("the {} blob {id} in pack {} is damaged", kind.as_str(), location.pack),
                e,
            )
        })
    }

    /// A directory. Ascending names are checked; whether they are safe to create is not.
    pub async fn load_tree(&self, index: &Index, id: &Id) -> Result<Tree> {
        let json = self.load_blob(index, BlobKind::Tree, id).await?;
        Tree::parse(&json)
            .map_err(|e| Error::with_source(e.kind(), format!("the directory {id} is not readable"), e))
    }
}
