//! Stretches of source packs to blobs sealed for the target.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

use super::Wanted;
use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::{BlobKind, may_be_raw};
use crate::index::Index;
use crate::read::fetch::Request;
use crate::read::{BlobOpener, is_damage};
use crate::repository::Repository;
use crate::store::{FileKind, FileName};
use crate::write::{NewBlob, Sealer, seal_stored};

/// Reads one stretch; the blobs in it, sealed for the target, each with its plain length.
pub(super) fn fetch_and_reseal(
    source: &Repository,
    target: &Repository,
    index: &Arc<Index>,
    request: Request,
    wanted: Arc<Vec<Wanted>>,
) -> impl Future<Output = Result<Vec<(NewBlob, u32)>>> + Send + use<> {
    let (source, target, index) = (source.clone(), target.clone(), Arc::clone(index));
    async move {
        let pack = index
            .packs()
            .get(request.pack as usize)
            .map(|p| p.id)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "a pack's number is not in the index"))?;
        let name = FileName { kind: FileKind::Pack, id: pack };
        let bytes = match source.store().get(name, Some(request.range.clone())).await {
            Ok(bytes) => bytes,
            // Each blob is tried on its own below, in other copies too.
            Err(e) if is_damage(&e) => Bytes::new(),
            Err(e) => return Err(e),
        };
        let blobs = wanted.get(request.blobs.clone()).map(<[Wanted]>::to_vec).unwrap_or_default();
        let start = request.range.start;
        let (opening, sealing) = (source.clone(), target.clone());
        let results = target
            .on_pool(move || {
                let mut opener = BlobOpener::new()?;
                let mut writer = Sealer::new()?;
                blobs
                    .into_iter()
                    .map(|blob| {
                        let sealed = slice(&bytes, start, &blob);
                        match reseal(&opening, &sealing, sealed, &blob, &mut opener, &mut writer) {
                            Err(e) if is_damage(&e) => Ok((blob, None)),
                            other => other.map(|new| (blob, Some(new))),
                        }
                    })
                    .collect::<Result<Vec<_>>>()
            })
            .await??;
        let mut out = Vec::with_capacity(results.len());
        for (blob, new) in results {
            let new = match new {
                Some(new) => new,
                None => from_any_copy(&source, &target, &index, &blob).await?,
            };
            out.push((new, blob.plain_length));
        }
        Ok(out)
    }
}

fn slice<'a>(bytes: &'a Bytes, start: u64, blob: &Wanted) -> &'a [u8] {
    let from = u64::from(blob.place.offset).checked_sub(start).and_then(|f| usize::try_from(f).ok());
    from.and_then(|from| bytes.get(from..from.checked_add(blob.place.length as usize)?)).unwrap_or_default()
}

/// Opens, checks and seals one blob, in the form it is stored in unless the target's format cannot have that.
fn reseal(
    source: &Repository,
    target: &Repository,
    sealed: &[u8],
    blob: &Wanted,
    opener: &mut BlobOpener,
    writer: &mut Sealer,
) -> Result<NewBlob> {
    let (stored, plain) = opener.open_stored(source.key(), sealed, blob.kind, &blob.id, blob.uncompressed)?;
    let compresses = target.version() >= 2;
    if compresses && blob.uncompressed.is_some() {
        return seal_stored(target, blob.kind, blob.id, stored, blob.uncompressed);
    }
    // What a compressing source stored raw did not become smaller then and will not now; its directories, and all of
    // a source of version 1, are still to be tried.
    let tried = blob.kind == BlobKind::Data && source.version() >= 2 && may_be_raw(plain);
    if compresses && !tried {
        return writer.seal(target, blob.kind, blob.id, plain);
    }
    seal_stored(target, blob.kind, blob.id, plain, None)
}

/// The first copy is damaged, on the way or in the store: reads it again, and all others.
async fn from_any_copy(
    source: &Repository,
    target: &Repository,
    index: &Index,
    blob: &Wanted,
) -> Result<NewBlob> {
    let plain = source.load_blob(index, blob.kind, &blob.id).await?;
    let (sealing, kind, id) = (target.clone(), blob.kind, blob.id);
    target.on_pool(move || Sealer::new()?.seal(&sealing, kind, id, &plain)).await?
}
