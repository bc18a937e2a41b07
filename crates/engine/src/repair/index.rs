//! The index made true again: every pack that is there listed as its own header says, no other.

use futures::future::BoxFuture;
use std::collections::{HashMap, HashSet};

use futures::{StreamExt as _, stream};
use serde::Serialize;

use super::salvage::Salvage;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Ctx, Event, Fault, Progress};
use crate::format::index_file::IndexedPack;
use crate::format::pack::{PackedBlob, pack_size};
use crate::format::records::Records;
use crate::id::Id;
use crate::lock::LockGuard;
use crate::pipeline;
use crate::read::is_damage;
use crate::repository::Repository;
use crate::store::{FileKind, FileName};
use crate::write::save_index;

/// Pack headers that are read at a time.
const PARALLEL: usize = 8;

/// How to mend the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RepairIndex {
    /// Only list packs that no index file lists, e.g. those of a backup that was killed. Removes nothing, so a shared
    /// lock is enough.
    AdoptOrphans,
    /// Also drop what the index says of packs that are gone or of another size, and index files that cannot be read.
    /// Needs an exclusive lock.
    #[default]
    Mend,
    /// Believe no index file: read the header of every pack. Needs an exclusive lock.
    FromScratch,
}

/// A pack that stays out of the index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnreadablePack {
    /// The pack.
    pub id: Id,
    /// Why.
    pub reason: String,
    /// Blobs of it that an index file knew, and that are in another pack now.
    pub saved: u64,
    /// Blobs of it that an index file knew, and that cannot be read in it.
    pub lost: u64,
}

/// What was mended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RepairIndexReport {
    /// Packs in the store.
    pub packs: u64,
    /// Packs whose header was read and that are in the index now.
    pub added: u64,
    /// Packs that the index listed although they are gone, or wrongly.
    pub dropped: u64,
    /// Index files that could not be read and were removed.
    pub damaged_index_files: u64,
    /// Index files that were removed because others replace them, damaged ones included.
    pub removed_index_files: u64,
    /// Packs whose header cannot be read. What of them an index file still knew was saved into new packs; the rest is lost,
    /// unless another pack has it too.
    pub unreadable: Vec<UnreadablePack>,
}

/// Mends the index. The caller holds the lock that `how` needs.
///
/// New index files are durable before any old one is removed: a run that ends at any moment leaves an index that knows
/// at least as much as before.
pub fn repair_index<'a>(
    repo: &'a Repository,
    lock: &'a LockGuard,
    how: RepairIndex,
    ctx: &'a Ctx,
) -> BoxFuture<'a, Result<RepairIndexReport>> {
    Box::pin(async move {
        ctx.events.event(Event::Phase("look"));
        // Index files before packs: a backup beside us writes packs first, so a pack may look like an orphan that is
        // listed a moment later, which does no harm; the other way round a listed pack would look gone.
        let index_files = ctx.run(repo.store().list(FileKind::Index)).await?;
        let packs: HashMap<Id, u64> =
            ctx.run(repo.store().list(FileKind::Pack)).await?.into_iter().map(|e| (e.id, e.size)).collect();
        let mut report = RepairIndexReport { packs: packs.len() as u64, ..RepairIndexReport::default() };
        let mut known: HashSet<Id> = HashSet::new();
        let mut wrong: HashSet<Id> = HashSet::new();
        let mut kept: Vec<IndexedPack> = Vec::new();
        let mut replaced: Vec<Id> = Vec::new();
        let mut records_kept: Vec<Records> = Vec::new();
        let mut named = 0_u64;
        for entry in index_files {
            let (file, records) = match ctx.run(repo.load_index_and_records(&entry.id)).await {
                Ok(found) => found,
                Err(e) if is_damage(&e) && how != RepairIndex::AdoptOrphans => {
                    tell(ctx, format!("index {}", entry.id), e.chain());
                    report.damaged_index_files += 1;
                    replaced.push(entry.id);
                    continue;
                }
                Err(e) => return Err(e),
            };
            named = named.saturating_add(file.packs.iter().filter(|pack| !pack.marked).count() as u64);
            if how == RepairIndex::FromScratch && file.packs.is_empty() {
                // Only records: what a prune noted, and snapshots that can be brought back.
                continue;
            }
            if how == RepairIndex::FromScratch {
                records_kept.extend((!records.is_empty()).then_some(records));
                replaced.push(entry.id);
                continue;
            }
            let is_right = |pack: &IndexedPack| packs.get(&pack.id) == Some(&pack_size(&pack.blobs));
            let (right, bad): (Vec<IndexedPack>, Vec<IndexedPack>) =
                file.packs.into_iter().partition(is_right);
            known.extend(right.iter().map(|p| p.id));
            if how == RepairIndex::AdoptOrphans {
                // Listed wrongly is listed: only mending may judge.
                known.extend(bad.iter().map(|p| p.id));
            } else if !bad.is_empty() {
                wrong.extend(bad.iter().map(|p| p.id));
                kept.extend(right);
                records_kept.extend((!records.is_empty()).then_some(records));
                replaced.push(entry.id);
            }
        }
        // What no client leaves behind, but a place for packs that is not mounted: the index is all that knows of them.
        if packs.is_empty() && named > 0 && how != RepairIndex::AdoptOrphans {
            return Err(Error::new(
                ErrorKind::Guard,
                format!(
                    "no pack is listed in {}, of which the index names {named}; the index is as it was: look whether \
                     all of the repository is mounted, and who removed the packs if it is. If they are lost, so is all \
                     that was saved here: make a new repository",
                    repo.store().describe()
                ),
            ));
        }
        wrong.retain(|id| !known.contains(id));
        report.dropped = wrong.len() as u64;

        let sizes = packs;
        let mut unknown: Vec<(Id, u64)> =
            sizes.iter().map(|(id, size)| (*id, *size)).filter(|(id, _)| !known.contains(id)).collect();
        unknown.sort_unstable();
        let read = read_headers(repo, unknown, &mut report, ctx).await?;
        report.added = read.len() as u64;
        kept.extend(read);
        if how != RepairIndex::AdoptOrphans {
            salvage(repo, &replaced, &sizes, &mut report, ctx).await?;
        }

        ctx.events.event(Event::Phase("write"));
        ctx.check()?;
        lock.confirm().await?;
        let mut written = save_index(repo, kept).await?;
        for records in records_kept {
            written.push(pipeline::save(repo, FileKind::Index, &records.to_json()?).await?);
        }
        if !replaced.is_empty() {
            repo.refuse_append_only()?;
            lock.confirm().await?;
        }
        for id in replaced.into_iter().filter(|id| !written.contains(id)) {
            repo.store().delete(FileName { kind: FileKind::Index, id }).await?;
            report.removed_index_files += 1;
        }
        Ok(report)
    })
}

/// Saves what can be read of packs whose header is damaged: the index files that are about to be replaced are the last that
/// know where their blobs lie.
async fn salvage(
    repo: &Repository,
    replaced: &[Id],
    sizes: &HashMap<Id, u64>,
    report: &mut RepairIndexReport,
    ctx: &Ctx,
) -> Result<()> {
    if report.unreadable.is_empty() {
        return Ok(());
    }
    ctx.events.event(Event::Phase("salvage"));
    let unreadable: HashSet<Id> = report.unreadable.iter().map(|pack| pack.id).collect();
    let mut places: HashMap<Id, Vec<PackedBlob>> = HashMap::new();
    for file in replaced {
        match ctx.run(repo.load_index_file(file)).await {
            Ok(file) => {
                for pack in file.packs.into_iter().filter(|pack| unreadable.contains(&pack.id)) {
                    places.entry(pack.id).or_default().extend(pack.blobs);
                }
            }
            Err(e) if is_damage(&e) => {}
            Err(e) => return Err(e),
        }
    }
    let mut salvage = Salvage::new(repo, false)?;
    for pack in &mut report.unreadable {
        let (Some(blobs), Some(size)) = (places.get_mut(&pack.id), sizes.get(&pack.id)) else { continue };
        // Two index files may list the same.
        blobs.sort_unstable_by_key(|blob| (blob.offset, blob.id));
        blobs.dedup();
        let left = salvage.pack(pack.id, *size, blobs, ctx).await?;
        (pack.saved, pack.lost) = (left.readable.len() as u64, left.lost.len() as u64);
    }
    salvage.finish(ctx).await.map(drop)
}

async fn read_headers(
    repo: &Repository,
    packs: Vec<(Id, u64)>,
    report: &mut RepairIndexReport,
    ctx: &Ctx,
) -> Result<Vec<IndexedPack>> {
    ctx.events.event(Event::Phase("read packs"));
    let mut progress = Progress { files_total: packs.len() as u64, ..Progress::default() };
    let mut headers = stream::iter(packs)
        .map(|(id, size)| async move { (id, repo.load_pack_header(&id, size).await) })
        .buffer_unordered(PARALLEL);
    let mut read = Vec::new();
    while let Some((id, header)) = ctx.run(async { Ok(headers.next().await) }).await? {
        match header {
            Ok(blobs) => read.push(IndexedPack { id, blobs, marked: false }),
            Err(e) if is_damage(&e) => {
                let reason = e.chain();
                tell(ctx, format!("pack {id}"), reason.clone());
                report.unreadable.push(UnreadablePack { id, reason, saved: 0, lost: 0 });
            }
            Err(e) => {
                return Err(Error::with_source(
                    e.kind(),
                    format!("pack {id} could not be looked at; the index is as it was"),
                    e,
                ));
            }
        }
        progress.files_done += 1;
        ctx.events.event(Event::Progress(progress));
    }
    read.sort_unstable_by_key(|p| p.id);
    report.unreadable.sort_unstable_by_key(|p| p.id);
    Ok(read)
}

fn tell(ctx: &Ctx, object: String, error: String) {
    ctx.events.event(Event::Fault(Fault { path: object.into(), action: "read", error }));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::format::pack::BlobKind;
    use crate::lock::{Holder, LockMode};
    use crate::repository::testing::{Fixture, fixture};
    use crate::store::fault::{Fault as Broken, Operation, Trouble};
    use crate::write::{PackWriter, Sealer};

    async fn filled() -> (Fixture, Vec<Id>) {
        let f = fixture().await;
        let mut ids = Vec::new();
        // Two packs in two index files.
        for n in 0..2_u8 {
            let mut writer = PackWriter::new(&f.repo);
            let plain = vec![n; 5000];
            ids.push(Id::hash(&plain));
            let blob = Sealer::new().unwrap().seal(&f.repo, BlobKind::Data, ids[usize::from(n)], &plain);
            writer.add(&blob.unwrap()).await.unwrap();
            writer.flush().await.unwrap();
        }
        (f, ids)
    }

    async fn repair(f: &Fixture, how: RepairIndex) -> Result<RepairIndexReport> {
        let holder = Holder::this_process("h", "u");
        let mode = if how == RepairIndex::AdoptOrphans { LockMode::Shared } else { LockMode::Exclusive };
        let ctx = Ctx::default();
        let lock = f.repo.lock(mode, &holder, Duration::ZERO, &[], &ctx).await.unwrap();
        let report = repair_index(&f.repo, &lock, how, &ctx).await;
        lock.release().await.unwrap();
        report
    }

    async fn readable(f: &Fixture, ids: &[Id]) -> Vec<bool> {
        let index = f.repo.load_index(&Ctx::default()).await.unwrap();
        let mut out = Vec::new();
        for id in ids {
            out.push(f.repo.load_blob(&index, BlobKind::Data, id).await.is_ok());
        }
        out
    }

    async fn all(f: &Fixture, kind: FileKind) -> Vec<Id> {
        f.repo.store().list(kind).await.unwrap().into_iter().map(|e| e.id).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_sound_index_is_left_alone() {
        let (f, _) = filled().await;
        let before = all(&f, FileKind::Index).await;
        for how in [RepairIndex::AdoptOrphans, RepairIndex::Mend] {
            let report = repair(&f, how).await.unwrap();
            assert_eq!(report, RepairIndexReport { packs: 2, ..RepairIndexReport::default() });
            assert_eq!(all(&f, FileKind::Index).await, before);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn packs_without_index_are_adopted_under_a_shared_lock() {
        let (f, ids) = filled().await;
        for id in all(&f, FileKind::Index).await {
            f.repo.store().delete(FileName { kind: FileKind::Index, id }).await.unwrap();
        }
        assert_eq!(readable(&f, &ids).await, [false, false]);
        let report = repair(&f, RepairIndex::AdoptOrphans).await.unwrap();
        assert_eq!((report.added, report.removed_index_files), (2, 0));
        assert_eq!(readable(&f, &ids).await, [true, true]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_gone_or_damaged_leaves_the_index_and_the_rest_stays() {
        let (f, ids) = filled().await;
        let index = f.repo.load_index(&Ctx::default()).await.unwrap();
        let pack = |n: usize| index.find(BlobKind::Data, &ids[n]).unwrap().pack;
        f.repo.store().delete(FileName { kind: FileKind::Pack, id: pack(0) }).await.unwrap();
        let report = repair(&f, RepairIndex::Mend).await.unwrap();
        assert_eq!((report.dropped, report.added, report.removed_index_files), (1, 0, 1));
        assert_eq!(readable(&f, &ids).await, [false, true]);

        // The other pack loses its end: neither size nor header are right.
        let at = f.directory.path().join(FileName { kind: FileKind::Pack, id: pack(1) }.path());
        let bytes = std::fs::read(&at).unwrap();
        std::fs::remove_file(&at).unwrap();
        std::fs::write(&at, &bytes[..bytes.len() - 10]).unwrap();
        let report = repair(&f, RepairIndex::Mend).await.unwrap();
        assert_eq!((report.dropped, report.added), (1, 0));
        let unreadable: Vec<_> = report.unreadable.iter().map(|p| (p.id, p.saved, p.lost)).collect();
        assert_eq!(unreadable, [(pack(1), 1, 0)]);
        assert_eq!(readable(&f, &ids).await, [false, true], "what the old index knew of it was saved");
        // The pack itself nothing refers to any more.
        let index = f.repo.load_index(&Ctx::default()).await.unwrap();
        assert!(index.packs().iter().all(|p| p.id != pack(1)));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_index_is_not_emptied_because_no_pack_is_listed() {
        let (f, ids) = filled().await;
        let (data, aside) = (f.directory.path().join("data"), f.directory.path().join("aside"));
        std::fs::rename(&data, &aside).unwrap();
        // Once it is not there, once as a place where nothing is mounted.
        for mounted in [false, true] {
            if mounted {
                std::fs::create_dir(&data).unwrap();
            }
            for how in [RepairIndex::Mend, RepairIndex::FromScratch] {
                let error = repair(&f, how).await.unwrap_err();
                let expected = if mounted { ErrorKind::Guard } else { ErrorKind::Listing };
                assert_eq!(error.kind(), expected, "{}", error.chain());
                assert!(error.chain().contains("mounted"), "{}", error.chain());
            }
        }
        std::fs::remove_dir(&data).unwrap();
        std::fs::rename(&aside, &data).unwrap();
        assert_eq!(readable(&f, &ids).await, [true, true]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_damaged_index_file_is_replaced_by_what_the_packs_say() {
        let (f, ids) = filled().await;
        let id = all(&f, FileKind::Index).await[0];
        let at = f.directory.path().join(FileName { kind: FileKind::Index, id }.path());
        std::fs::remove_file(&at).unwrap();
        std::fs::write(&at, b"no index").unwrap();
        assert!(f.repo.load_index(&Ctx::default()).await.is_err());
        // Adopting judges nothing and so refuses.
        assert_eq!(repair(&f, RepairIndex::AdoptOrphans).await.unwrap_err().kind(), ErrorKind::Corrupt);
        let report = repair(&f, RepairIndex::Mend).await.unwrap();
        assert_eq!((report.damaged_index_files, report.added, report.removed_index_files), (1, 1, 1));
        assert_eq!(readable(&f, &ids).await, [true, true]);
        let report = repair(&f, RepairIndex::FromScratch).await.unwrap();
        assert_eq!((report.added, report.removed_index_files), (2, 2));
        assert_eq!(readable(&f, &ids).await, [true, true]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_store_that_fails_in_between_leaves_what_was_there() {
        let (f, ids) = filled().await;
        for (operation, kind) in [
            (Operation::List, FileKind::Pack),
            (Operation::Get, FileKind::Pack),
            (Operation::Put, FileKind::Index),
            (Operation::Delete, FileKind::Index),
        ] {
            f.faults.add(Broken::once(operation, kind, Trouble::Fail(ErrorKind::Unreachable)));
            let error = repair(&f, RepairIndex::FromScratch).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unreachable, "{operation:?}");
            f.faults.heal();
            assert_eq!(readable(&f, &ids).await, [true, true], "{operation:?}");
        }
    }
}
