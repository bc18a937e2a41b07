//! Carrying out a sweep: index entries first, then the packs, our records last. Ends at any moment with a
//! repository that is whole; what is left is done by the next sweep.

use std::collections::{BTreeSet, HashMap, HashSet};

use futures::{StreamExt as _, stream};
use jiff::Timestamp;

use super::facts::Facts;
use super::plan::Sweep;
use crate::error::{ErrorKind, Result};
use crate::event::{Ctx, Event, Progress};
use crate::forget::{files_of_records, snapshot_of};
use crate::format::index_file::{IndexFile, IndexedPack, MAX_BLOBS};
use crate::format::pack::{BlobKind, PackedBlob};
use crate::format::records::{ForgottenRecord, Mark, Records};
use crate::id::Id;
use crate::index::ByPack;
use crate::lock::LockGuard;
use crate::pipeline;
use crate::repository::Repository;
use crate::store::{FileKind, FileName};
use crate::unreadable;
use crate::write::withdraw_restated;

/// Deletions at a time.
const PARALLEL: usize = 8;
/// Between two looks whether our lock is still in the store.
const BATCH: usize = 256;
/// Files with records are put together when there are more than this, where one would do.
const MAX_RECORD_FILES: usize = 8;
/// Marks in one index file, of some 150 bytes each.
pub(super) const MARKS_A_FILE: usize = 50_000;

/// What a sweep did.
#[derive(Debug, Default)]
pub(super) struct Swept {
    pub(super) packs: u64,
    pub(super) bytes: u64,
    pub(super) orphans: u64,
    pub(super) orphan_bytes: u64,
    pub(super) unmarked: u64,
    /// Packs that the store refused to delete, and why.
    pub(super) retained: Vec<(Id, String)>,
    pub(super) retained_bytes: u64,
}

pub(super) async fn carry_out(
    repo: &Repository,
    lock: &LockGuard,
    facts: &Facts,
    sweep: &Sweep,
    apart: &HashSet<Id>,
    instant: bool,
    ctx: &Ctx,
) -> Result<Swept> {
    let mut swept = Swept { unmarked: sweep.unmark.len() as u64, ..Swept::default() };
    let drop: HashSet<Id> = sweep.delete.iter().chain(&sweep.absent).copied().collect();
    lock.confirm().await?;
    ctx.events.event(Event::Phase("index"));
    let left = rewrite_index(repo, lock, facts, &drop, ctx).await?;
    // Packs that an index file lists must not go.
    let still_listed = |pack: &Id| {
        let mut homes = facts.homes.get(pack).into_iter().flatten();
        homes.find_map(|number| left.get(facts.files.get(*number as usize)?))
    };
    let mut delete: Vec<Id> = Vec::with_capacity(sweep.delete.len());
    for id in &sweep.delete {
        match still_listed(id) {
            Some(why) => {
                swept.retained.push((*id, why.clone()));
                let size = facts.listed.get(id).map_or(0, |e| e.size);
                swept.retained_bytes = swept.retained_bytes.saturating_add(size);
            }
            None => delete.push(*id),
        }
    }
    let all_go = delete.len() == sweep.delete.len();
    ctx.events.event(Event::Phase("delete"));
    let going: Vec<Id> = delete.iter().chain(&sweep.orphans).copied().collect();
    let orphans: HashSet<&Id> = sweep.orphans.iter().collect();
    for batch in going.chunks(BATCH) {
        ctx.check()?;
        lock.confirm().await?;
        let names = batch.iter().map(|id| FileName { kind: FileKind::Pack, id: *id });
        for (name, refused) in delete_all(repo, lock, names).await? {
            let size = facts.listed.get(&name.id).map_or(0, |e| e.size);
            match refused {
                Some(why) => {
                    swept.retained.push((name.id, why));
                    swept.retained_bytes = swept.retained_bytes.saturating_add(size);
                }
                None if orphans.contains(&name.id) => {
                    swept.orphans += 1;
                    swept.orphan_bytes = swept.orphan_bytes.saturating_add(size);
                }
                None => {
                    swept.packs += 1;
                    swept.bytes = swept.bytes.saturating_add(size);
                }
            }
        }
        let progress = Progress {
            files_done: swept.packs + swept.orphans,
            files_total: going.len() as u64,
            bytes_done: swept.bytes.saturating_add(swept.orphan_bytes),
            bytes_total: sweep.bytes.saturating_add(sweep.orphan_bytes),
        };
        ctx.events.event(Event::Progress(progress));
    }
    let unmark = &sweep.unmark;
    let forgotten =
        rewrite_records(repo, lock, facts, &Gone { delete, unmark, apart, all: instant && all_go }).await?;
    // Not worth a failure: the work is done, and the next sweep looks again.
    match unreadable::remove_void(repo, &facts.snapshots, &forgotten).await {
        Ok(lists) => tracing::debug!(lists, "lists of unreadable files went with their snapshots"),
        Err(e) => tracing::warn!(error = e.chain(), "lists of unreadable files could not be removed"),
    }
    Ok(swept)
}

/// Forgotten snapshots of which a sweep that died took packs out of the index and did not come to their records: they
/// cannot come back, and what is left of the sweep may be nothing else.
pub(super) fn taken_apart(repo: &Repository, facts: &Facts) -> HashSet<Id> {
    let indexed: HashSet<&Id> = facts.index.packs().iter().map(|p| &p.id).collect();
    let unlisted = facts.marks.iter().filter(|(pack, _)| !indexed.contains(pack));
    let Some(last) = unlisted.map(|(_, since)| *since).max() else { return HashSet::new() };
    let records = facts.records.iter().flat_map(|(_, records)| &records.forgotten);
    let forgotten = records.filter(|record| record.at <= last);
    // A pack that no index ever listed may be marked too, which says nothing of them: the root itself must be gone.
    let is_gone = |record: &&ForgottenRecord| {
        let snapshot = snapshot_of(repo, record);
        snapshot.is_ok_and(|snapshot| facts.index.find(BlobKind::Tree, &snapshot.tree).is_none())
    };
    forgotten.filter(is_gone).map(|record| record.snapshot).collect()
}

/// Deletes files; for each whether the store refused, and why. Other failures end it. Nothing more goes once the lock is
/// known to be lost.
pub(super) async fn delete_all(
    repo: &Repository,
    lock: &LockGuard,
    names: impl Iterator<Item = FileName>,
) -> Result<Vec<(FileName, Option<String>)>> {
    let deletions: Vec<_> = names
        .map(|name| async move {
            let deleted = match lock.check() {
                Ok(()) => repo.store().delete(name).await,
                Err(e) => Err(e),
            };
            (name, deleted)
        })
        .collect();
    let results: Vec<_> = stream::iter(deletions).buffer_unordered(PARALLEL).collect().await;
    results
        .into_iter()
        .map(|(name, result)| match result {
            Ok(()) => Ok((name, None)),
            // Locked objects and missing rights: that one stays, which harms nothing.
            Err(e) if matches!(e.kind(), ErrorKind::AccessDenied | ErrorKind::Retained) => {
                Ok((name, Some(e.chain())))
            }
            Err(e) => Err(e),
        })
        .collect()
}

/// Replaces the index files that list packs of `drop` by ones that do not. The old ones that the store refused to delete,
/// and why.
pub(super) async fn rewrite_index(
    repo: &Repository,
    lock: &LockGuard,
    facts: &Facts,
    drop: &HashSet<Id>,
    ctx: &Ctx,
) -> Result<HashMap<Id, String>> {
    let mut written = Vec::new();
    match replace_index(repo, lock, facts, drop, &mut written, ctx).await {
        // Another prune, which took the lock away, may have deleted packs that these files name.
        Err(e) => Err(withdraw_restated(repo, &written, lock.blame(e).await).await),
        done => done,
    }
}

/// As [`rewrite_index`]; the new files are added to `written` as they are there.
async fn replace_index(
    repo: &Repository,
    lock: &LockGuard,
    facts: &Facts,
    drop: &HashSet<Id>,
    written: &mut Vec<Id>,
    ctx: &Ctx,
) -> Result<HashMap<Id, String>> {
    let numbers: BTreeSet<u32> =
        drop.iter().filter_map(|id| facts.homes.get(id)).flatten().copied().collect();
    let old: Vec<Id> = numbers.iter().filter_map(|n| facts.files.get(*n as usize)).copied().collect();
    if old.is_empty() {
        return Ok(HashMap::new());
    }
    let listings = Listings::new(facts);
    let mut pending: Vec<IndexedPack> = Vec::new();
    let mut blobs = 0_usize;
    let mut records = Records::default();
    // The same pack may be listed by several of the files.
    let mut taken = listed_elsewhere(repo, &listings, &numbers, ctx).await?;
    for id in &old {
        ctx.check()?;
        let (file, ours) = ctx.run(repo.load_index_and_records(id)).await?;
        records.marks.extend(ours.marks);
        records.forgotten.extend(ours.forgotten);
        let mut times: HashMap<Id, u32> = HashMap::new();
        for pack in &file.packs {
            let times = times.entry(pack.id).or_default();
            *times = times.saturating_add(1);
        }
        for mut pack in file.packs {
            if drop.contains(&pack.id) || !taken.insert(pack.id) {
                continue;
            }
            // Its listings may differ, and each blob that one of them has counts.
            if times.get(&pack.id).is_some_and(|times| *times > 1) || listings.homes(&pack.id).len() > 1 {
                pack.blobs = listings.blobs(&pack.id);
            }
            if !pending.is_empty() && blobs.saturating_add(pack.blobs.len()) > MAX_BLOBS {
                written.extend(save_packs(repo, &mut pending).await?);
                blobs = 0;
            }
            blobs = blobs.saturating_add(pack.blobs.len());
            pending.push(pack);
        }
    }
    written.extend(save_packs(repo, &mut pending).await?);
    save_records(repo, &records).await?;
    lock.confirm().await?;
    let names = old.iter().map(|id| FileName { kind: FileKind::Index, id: *id });
    let results = delete_all(repo, lock, names).await?;
    Ok(results.into_iter().filter_map(|(name, refused)| Some((name.id, refused?))).collect())
}

/// What all index files together say of packs.
struct Listings<'a> {
    facts: &'a Facts,
    by_pack: ByPack<'a>,
    numbers: HashMap<Id, u32>,
}

impl<'a> Listings<'a> {
    fn new(facts: &'a Facts) -> Self {
        let numbers = (0_u32..).zip(facts.index.packs()).map(|(number, pack)| (pack.id, number));
        Self { facts, by_pack: facts.index.by_pack(), numbers: numbers.collect() }
    }

    /// The index files that list it.
    fn homes(&self, pack: &Id) -> &[u32] {
        self.facts.homes.get(pack).map(Vec::as_slice).unwrap_or_default()
    }

    /// Each blob once that any of them says is in it.
    fn blobs(&self, pack: &Id) -> Vec<PackedBlob> {
        self.numbers.get(pack).map(|number| self.by_pack.blobs(*number)).unwrap_or_default()
    }
}

/// Packs of the index files of `going` that another one lists in full: they need no further listing. So is what an earlier
/// sweep wrote in the place of a file that the store refused to delete; each sweep would write it again.
async fn listed_elsewhere(
    repo: &Repository,
    listings: &Listings<'_>,
    going: &BTreeSet<u32>,
    ctx: &Ctx,
) -> Result<HashSet<Id>> {
    let facts = listings.facts;
    let goes = |homes: &[u32]| homes.iter().any(|number| going.contains(number));
    let others: BTreeSet<u32> = facts.homes.values().filter(|homes| goes(homes)).flatten().copied().collect();
    let mut whole = HashSet::new();
    for id in others.difference(going).filter_map(|number| facts.files.get(*number as usize)) {
        ctx.check()?;
        let (file, _) = ctx.run(repo.load_index_and_records(id)).await?;
        // A pack that another client means to delete is not one that it lists as it does others.
        for pack in file.packs.iter().filter(|pack| !pack.marked && goes(listings.homes(&pack.id))) {
            let key = |b: &PackedBlob| (b.kind, b.id, b.offset, b.length, b.uncompressed);
            let here: HashSet<_> = pack.blobs.iter().map(key).collect();
            if listings.blobs(&pack.id).iter().all(|b| here.contains(&key(b))) {
                whole.insert(pack.id);
            }
        }
    }
    Ok(whole)
}

/// Writes records into as many index files as it takes for each to be read again.
pub(super) async fn save_records(repo: &Repository, records: &Records) -> Result<()> {
    for part in parts(records) {
        pipeline::save(repo, FileKind::Index, &part.to_json()?).await?;
    }
    Ok(())
}

/// The records of each index file.
pub(super) fn parts(records: &Records) -> impl Iterator<Item = Records> + '_ {
    let mut marks = records.marks.chunks(MARKS_A_FILE);
    let mut forgotten = records.forgotten.chunk_by(files_of_records());
    std::iter::from_fn(move || {
        let part = Records {
            marks: marks.next().unwrap_or_default().to_vec(),
            forgotten: forgotten.next().unwrap_or_default().to_vec(),
        };
        (!part.is_empty()).then_some(part)
    })
}

/// What is gone, or void from now on.
struct Gone<'a> {
    /// Packs that were deleted, or that the store keeps without an index entry.
    delete: Vec<Id>,
    /// Packs that lose their mark.
    unmark: &'a [Id],
    /// Forgotten snapshots that an earlier sweep has taken apart.
    apart: &'a HashSet<Id>,
    /// All that was marked went, without a grace.
    all: bool,
}

async fn save_packs(repo: &Repository, packs: &mut Vec<IndexedPack>) -> Result<Option<Id>> {
    if packs.is_empty() {
        return Ok(None);
    }
    let json = IndexFile::to_json(packs)?;
    packs.clear();
    pipeline::save(repo, FileKind::Index, &json).await.map(Some)
}

/// Drops what is void of our records: marks of packs that lost them or that an earlier sweep deleted, and forgotten
/// snapshots whose data may be gone now. Gives the forgotten snapshots that can still be brought back.
///
/// Marks of packs that this very sweep deleted stay until the next: a writer that listed the index before must
/// find either the pack's entry gone or its mark there.
async fn rewrite_records(
    repo: &Repository,
    lock: &LockGuard,
    facts: &Facts,
    gone: &Gone<'_>,
) -> Result<Vec<ForgottenRecord>> {
    let unmark: HashSet<&Id> = gone.unmark.iter().collect();
    let indexed: HashSet<&Id> = facts.index.packs().iter().map(|p| &p.id).collect();
    // What was needed by a snapshot when it was forgotten got its mark after that.
    let last_swept: Option<Timestamp> =
        gone.delete.iter().filter_map(|id| facts.marks.get(id)).max().copied();
    // One without a time says less than one with.
    let said = |mark: &Mark| (mark.since == Timestamp::MIN, mark.since);
    let mut marks: HashMap<Id, Mark> = HashMap::new();
    let mut kept = Records::default();
    let mut changed = false;
    for (_, records) in &facts.records {
        for mark in &records.marks {
            let void = unmark.contains(&mark.pack)
                || (!indexed.contains(&mark.pack) && !facts.listed.contains_key(&mark.pack));
            changed |= void;
            if !void {
                let kept = marks.entry(mark.pack).or_insert_with(|| mark.clone());
                if said(mark) < said(kept) {
                    *kept = mark.clone();
                }
            }
        }
        for record in &records.forgotten {
            // Without a grace nothing is left of any of them.
            let swept = last_swept.is_some_and(|swept| record.at <= swept);
            if gone.all || swept || gone.apart.contains(&record.snapshot) {
                changed = true;
            } else {
                kept.forgotten.push(record.clone());
            }
        }
    }
    kept.marks = marks.into_values().collect();
    kept.marks.sort_unstable_by_key(|m| m.pack);
    kept.forgotten.sort_unstable_by_key(|f| (f.snapshot, f.at));
    kept.forgotten.dedup();
    let files = kept.forgotten.chunk_by(files_of_records()).count();
    let files = files.max(kept.marks.len().div_ceil(MARKS_A_FILE)).max(1);
    if !changed && facts.records.len() < MAX_RECORD_FILES.saturating_add(files) {
        return Ok(kept.forgotten);
    }
    save_records(repo, &kept).await?;
    lock.confirm().await?;
    let pure = facts.records.iter().filter(|(id, _)| !facts.lists_packs(id));
    let names = pure.map(|(id, _)| FileName { kind: FileKind::Index, id: *id });
    match delete_all(repo, lock, names).await?.into_iter().find_map(|(_, refused)| refused) {
        None => {}
        // They say more than they should, which keeps packs from use but loses nothing.
        Some(why) => tracing::warn!(why, "an index file with marks could not be replaced"),
    }
    Ok(kept.forgotten)
}
