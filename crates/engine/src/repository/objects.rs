//! Single files of a repository, found by the beginning of their name: for people who look into it or mend it.

use bytes::Bytes;
use futures::future::BoxFuture;

use super::Repository;
use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::{self, PackedBlob};
use crate::id::Id;
use crate::store::{FileKind, FileName};

impl Repository {
    /// The file of this kind whose name begins with `text`; `EmptySelection` when there is none, `Usage` when there are
    /// several or it is no beginning of an id.
    pub fn find_file<'a>(&'a self, kind: FileKind, text: &'a str) -> BoxFuture<'a, Result<Id>> {
        Box::pin(async move {
            let what = kind.singular();
            if let Ok(id) = text.parse::<Id>() {
                // A whole id needs no listing, but it must be there.
                return match self.store().size(FileName { kind, id }).await {
                    Ok(_) => Ok(id),
                    Err(e) if e.kind() == ErrorKind::Missing => Err(self.absent(what, text)),
                    Err(e) => Err(e),
                };
            }
            if text.is_empty()
                || text.len() > 64
                || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("{text:?} is no id of a {what}, nor the beginning of one"),
                ));
            }
            let listed = self.store().list(kind).await?;
            let mut matching = listed.into_iter().filter(|e| e.id.to_hex().starts_with(text));
            let Some(first) = matching.next() else { return Err(self.absent(what, text)) };
            if matching.next().is_some() {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("more than one {what} begins with {text}; write more of the id"),
                ));
            }
            Ok(first.id)
        })
    }

    fn absent(&self, what: &str, text: &str) -> Error {
        // Not `Missing`, which is damage: this is somebody's slip of the pen.
        Error::new(
            ErrorKind::EmptySelection,
            format!("there is no {what} {text} in {}", self.store().describe()),
        )
    }

    /// The JSON of a sealed file outside packs: a snapshot, an index file, a lock.
    pub fn load_json<'a>(&'a self, kind: FileKind, id: &'a Id) -> BoxFuture<'a, Result<Vec<u8>>> {
        Box::pin(async move { self.load_unpacked(kind, id).await })
    }

    /// A whole file as it is stored.
    pub fn load_raw<'a>(&'a self, kind: FileKind, id: &'a Id) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(async move { self.store().get(FileName { kind, id: *id }, None).await })
    }

    /// The blobs of a pack as its own header lists them. `size` is the pack's, from a listing.
    pub fn load_pack_header<'a>(&'a self, id: &'a Id, size: u64) -> BoxFuture<'a, Result<Vec<PackedBlob>>> {
        Box::pin(async move {
            let name = FileName { kind: FileKind::Pack, id: *id };
            let damaged =
                |text: &str| Error::new(ErrorKind::Corrupt, format!("pack {id} is damaged: {text}"));
            let mut tail = self.store().get_suffix(name, pack::FIRST_READ).await?;
            let (_, last) = tail.split_last_chunk::<4>().ok_or_else(|| damaged("it is too short"))?;
            let length = pack::header_length(*last, size)?;
            let whole = length.saturating_add(pack::LENGTH_FIELD);
            if whole > tail.len() {
                tail = self.store().get_suffix(name, whole as u64).await?;
            }
            let sealed = tail
                .len()
                .checked_sub(whole)
                .and_then(|start| tail.get(start..start.checked_add(length)?))
                .ok_or_else(|| damaged("its header is cut off"))?;
            let header = self.key().open(sealed).map_err(|e| {
                Error::with_source(ErrorKind::Corrupt, format!("the header of pack {id} cannot be opened"), e)
            })?;
            let blobs = pack::decode_header(&header)?;
            if pack::pack_size(&blobs) != size {
                return Err(damaged("its header tells of another size than the file has"));
            }
            Ok(blobs)
        })
    }

    /// `Guard` when the repository's config says that nothing is ever removed from it.
    pub(crate) fn refuse_append_only(&self) -> Result<()> {
        if self.config().append_only == Some(true) {
            return Err(Error::new(
                ErrorKind::Guard,
                format!(
                    "{} is append-only by its config: nothing is removed from it",
                    self.store().describe()
                ),
            ));
        }
        Ok(())
    }
}
