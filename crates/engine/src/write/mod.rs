//! Blobs on their way into packs, and the index of the packs that arrived: for operations that move or mend blobs.
//!
//! Not here: a backup's own path, which is made for speed (`pipeline`), and which blobs are needed.

mod seal;
mod withdraw;

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

pub(crate) use seal::{NewBlob, Sealer, seal_stored};
pub(crate) use withdraw::{withdraw, withdraw_restated};

use crate::backup::check_committed;
use crate::crypto::OVERHEAD;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Ctx;
use crate::fence;
use crate::format::index_file::{IndexFile, IndexedPack, MAX_BLOBS};
use crate::format::pack::{BlobKind, LENGTH_FIELD, PackedBlob, encode_header};
use crate::format::snapshot::Snapshot;
use crate::id::Id;
use crate::lock::LockGuard;
use crate::pipeline::{self, Proved, check_size, is_due};
use crate::repository::Repository;
use crate::store::{FileKind, FileName, PutMode};

/// A pack is closed when it reaches this size, in bytes.
const TARGET_SIZE: usize = 16 << 20;
/// How long a run that failed looks for its lock.
const LOOK: Duration = Duration::from_secs(30);
/// Packs that are uploaded at a time.
const UPLOADS: usize = 2;

/// What was written so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// Blobs.
    pub(crate) blobs: u64,
    /// Their sealed bytes.
    pub(crate) bytes: u64,
}

/// Packs sealed blobs, uploads the packs and lists them in index files. Nothing may refer to a blob before
/// [`PackWriter::flush`] has returned.
pub(crate) struct PackWriter {
    repo: Repository,
    data: OpenPack,
    trees: OpenPack,
    flying: JoinSet<Result<IndexedPack>>,
    /// Durable packs that no index file lists yet.
    arrived: Vec<IndexedPack>,
    arrived_blobs: usize,
    arrived_bytes: u64,
    /// Since when the oldest of them waits.
    arrived_since: Instant,
    index_files: Vec<Id>,
    /// How many of these, the first ones, are needed by snapshots that were committed.
    relied_on: usize,
    written: Written,
}

#[derive(Default)]
struct OpenPack {
    body: Vec<u8>,
    blobs: Vec<PackedBlob>,
    header: usize,
}

impl OpenPack {
    fn size(&self) -> usize {
        self.body.len() + self.header + OVERHEAD + LENGTH_FIELD
    }

    fn add(&mut self, blob: &NewBlob) -> Result<()> {
        let to_u32 = |length: usize| {
            u32::try_from(length).map_err(|e| {
                Error::with_source(ErrorKind::Internal, format!("{length} bytes do not fit into a pack"), e)
            })
        };
        let entry = PackedBlob {
            kind: blob.kind,
            id: blob.id,
            offset: to_u32(self.body.len())?,
            length: to_u32(blob.sealed.len())?,
            uncompressed: blob.uncompressed,
        };
        self.body.extend_from_slice(&blob.sealed);
        self.header += entry.entry_length();
        self.blobs.push(entry);
        Ok(())
    }
}

impl PackWriter {
    /// Nothing written yet.
    pub(crate) fn new(repo: &Repository) -> Self {
        Self {
            repo: repo.clone(),
            data: OpenPack::default(),
            trees: OpenPack::default(),
            flying: JoinSet::new(),
            arrived: Vec::new(),
            arrived_blobs: 0,
            arrived_bytes: 0,
            arrived_since: Instant::now(),
            index_files: Vec::new(),
            relied_on: 0,
            written: Written::default(),
        }
    }

    /// What was handed in so far, durable or not.
    pub(crate) fn written(&self) -> Written {
        self.written
    }

    /// The index files written so far.
    pub(crate) fn index_files(&self) -> &[Id] {
        &self.index_files
    }

    /// A snapshot was committed that needs what is durable by now.
    pub(crate) fn rely(&mut self) {
        self.relied_on = self.index_files.len();
    }

    /// Why a run ended before it committed what it wrote. When it lost its lock, what the index says of that is taken back.
    pub(crate) async fn withdraw(&self, lock: &LockGuard, why: Error) -> Error {
        let open = self.index_files.get(self.relied_on..).unwrap_or_default();
        // A lost lock cancels the run; that is the reason to name then, unless there is a snapshot to be warned of. Where
        // something is to be taken back, the store is asked: what ended the run may have come before the loss was seen.
        let lost = match lock.check() {
            Ok(()) if !open.is_empty() => {
                tokio::time::timeout(LOOK, lock.confirm()).await.ok().and_then(Result::err)
            }
            checked => checked.err(),
        };
        let lost =
            lost.filter(|e| e.kind() == ErrorKind::LockLost && why.kind() != ErrorKind::SnapshotInvalid);
        withdraw(&self.repo, open, lost.unwrap_or(why)).await
    }

    /// Takes a blob. Waits while too many packs are on their way.
    pub(crate) async fn add(&mut self, blob: &NewBlob) -> Result<()> {
        self.written.blobs += 1;
        self.written.bytes += blob.sealed.len() as u64;
        let open = match blob.kind {
            BlobKind::Data => &mut self.data,
            BlobKind::Tree => &mut self.trees,
        };
        open.add(blob)?;
        if open.size() < TARGET_SIZE {
            return Ok(());
        }
        let full = std::mem::take(open);
        self.send(full).await
    }

    /// Makes everything durable that was handed in, packs first, and lists it in the index.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        for open in [std::mem::take(&mut self.data), std::mem::take(&mut self.trees)] {
            if !open.blobs.is_empty() {
                self.send(open).await?;
            }
        }
        while !self.flying.is_empty() {
            self.land().await?;
        }
        self.write_index().await
    }

    async fn send(&mut self, open: OpenPack) -> Result<()> {
        while self.flying.len() >= UPLOADS {
            self.land().await?;
        }
        let repo = self.repo.clone();
        self.flying.spawn(async move {
            let sealing = repo.clone();
            let (id, body, blobs) = repo
                .on_pool(move || {
                    let OpenPack { mut body, blobs, .. } = open;
                    let header = encode_header(&blobs);
                    sealing.key().seal_into(&header, &mut body)?;
                    let length = u32::try_from(header.len() + OVERHEAD).map_err(|e| {
                        Error::with_source(ErrorKind::Internal, "a pack's header is too long", e)
                    })?;
                    body.extend_from_slice(&length.to_le_bytes());
                    Ok::<_, Error>((Id::hash(&body), bytes::Bytes::from(body), blobs))
                })
                .await??;
            let name = FileName { kind: FileKind::Pack, id };
            let size = body.len() as u64;
            repo.store().put(name, body.into(), PutMode::ContentAddressed).await?;
            check_size(repo.store().as_ref(), name, size).await?;
            Ok(IndexedPack { id, blobs, marked: false })
        });
        Ok(())
    }

    async fn land(&mut self) -> Result<()> {
        let Some(done) = self.flying.join_next().await else { return Ok(()) };
        let done = done
            .map_err(|e| Error::with_source(ErrorKind::Internal, "an upload was broken off", e))
            .and_then(|landed| landed);
        let pack = match done {
            Ok(pack) => pack,
            Err(error) => {
                // The caller gives up now, and then its lock: what is on its way arrives, or fails, before that.
                while self.flying.join_next().await.is_some() {}
                return Err(error);
            }
        };
        if self.arrived.is_empty() {
            self.arrived_since = Instant::now();
        }
        let bytes = pack.blobs.iter().map(|blob| u64::from(blob.length)).sum();
        self.arrived_blobs += pack.blobs.len();
        self.arrived_bytes = self.arrived_bytes.saturating_add(bytes);
        self.arrived.push(pack);
        // A run that is killed leaves its work to the next, and to a prune beside it a pack that waits is of a dead one.
        if is_due(self.arrived_blobs, self.arrived_bytes, self.arrived_since) {
            self.write_index().await
        } else {
            Ok(())
        }
    }

    async fn write_index(&mut self) -> Result<()> {
        (self.arrived_blobs, self.arrived_bytes) = (0, 0);
        for packs in in_files(std::mem::take(&mut self.arrived)) {
            let file = Proved::seal(&self.repo, FileKind::Index, &IndexFile::to_json(&packs)?)?;
            // It may be there also when its writing fails.
            self.index_files.push(file.name.id);
            file.put(&self.repo).await?;
        }
        Ok(())
    }
}

/// Lists packs in index files; the files' ids.
pub(crate) async fn save_index(repo: &Repository, packs: Vec<IndexedPack>) -> Result<Vec<Id>> {
    let mut ids = Vec::new();
    for file in in_files(packs) {
        ids.push(pipeline::save(repo, FileKind::Index, &IndexFile::to_json(&file)?).await?);
    }
    Ok(ids)
}

/// Packs by the index files that list them: of at most [`MAX_BLOBS`] blobs, unless one pack alone has more.
fn in_files(packs: Vec<IndexedPack>) -> Vec<Vec<IndexedPack>> {
    let mut files: Vec<Vec<IndexedPack>> = Vec::new();
    let mut blobs = 0;
    for pack in packs {
        blobs += pack.blobs.len();
        match files.last_mut() {
            Some(file) if blobs <= MAX_BLOBS => file.push(pack),
            _ => {
                blobs = pack.blobs.len();
                files.push(vec![pack]);
            }
        }
    }
    files
}

/// Writes a snapshot whose blobs are all durable and listed. Our lock must be there before and after, and a prune that
/// began meanwhile must not have marked what the snapshot needs: `known` are the index files that say where its blobs
/// are, those we have read and those we have written.
pub(crate) async fn commit_snapshot(
    repo: &Repository,
    lock: &LockGuard,
    snapshot: &Snapshot,
    known: &[Id],
    ctx: &Ctx,
) -> Result<Id> {
    let json = serde_json::to_vec(snapshot)
        .map_err(|e| Error::with_source(ErrorKind::Internal, "a snapshot could not be written as JSON", e))?;
    lock.confirm().await?;
    ctx.check()?;
    let id = pipeline::save(repo, FileKind::Snapshot, &json).await?;
    check_committed(repo, lock, id).await?;
    let looked = fence::look(repo, ctx).await;
    fence::hold(repo, lock, id, snapshot.tree, known, looked, ctx).await?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::testing::fixture;
    use crate::store::fault::{Fault, Operation, Trouble};

    /// Different contents of 1 MiB that do not compress.
    fn contents(count: u32) -> Vec<Vec<u8>> {
        (0..count)
            .map(|n| {
                (0..1_u32 << 18)
                    .flat_map(|i| (i ^ n << 20).wrapping_mul(2_654_435_761).to_le_bytes())
                    .collect()
            })
            .collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn when_a_pack_cannot_be_written_nothing_is_on_its_way_any_more_after_it_was_said() {
        let f = fixture().await;
        let put = |trouble| Fault::once(Operation::Put, FileKind::Pack, trouble);
        f.faults.add(put(Trouble::Fail(ErrorKind::Full)));
        f.faults.add(put(Trouble::Delay(Duration::from_millis(300))));
        let mut writer = PackWriter::new(&f.repo);
        // Two packs: the one that fails, and the one that takes its time.
        let mut sealer = Sealer::new().unwrap();
        for plain in contents(20) {
            let blob = sealer.seal(&f.repo, BlobKind::Data, Id::hash(&plain), &plain).unwrap();
            writer.add(&blob).await.unwrap();
        }
        let failed = writer.flush().await.unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::Full);
        assert_eq!(f.repo.store().list(FileKind::Pack).await.unwrap().len(), 1, "the other one has arrived");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_handed_in_is_found_by_the_index_after_a_flush() {
        let f = fixture().await;
        let mut writer = PackWriter::new(&f.repo);
        let mut sealer = Sealer::new().unwrap();
        // Two packs of data and one of trees.
        let contents = contents(20);
        let tree = b"{\"nodes\":[]}\n".to_vec();
        for plain in &contents {
            let id = Id::hash(plain);
            writer.add(&sealer.seal(&f.repo, BlobKind::Data, id, plain).unwrap()).await.unwrap();
        }
        writer.add(&sealer.seal(&f.repo, BlobKind::Tree, Id::hash(&tree), &tree).unwrap()).await.unwrap();
        assert_eq!(writer.written().blobs, 21);
        writer.flush().await.unwrap();
        let index = f.repo.load_index(&Ctx::default()).await.unwrap();
        assert_eq!(index.len(), 21);
        for plain in &contents {
            let back = f.repo.load_blob(&index, BlobKind::Data, &Id::hash(plain)).await.unwrap();
            assert!(back == plain[..]);
        }
        assert_eq!(f.repo.load_blob(&index, BlobKind::Tree, &Id::hash(&tree)).await.unwrap(), tree);
        for entry in f.repo.store().list(FileKind::Pack).await.unwrap() {
            let info = index.packs().iter().find(|p| p.id == entry.id).unwrap();
            assert_eq!((info.size, info.has_data == info.has_trees), (entry.size, false));
        }
    }
}
