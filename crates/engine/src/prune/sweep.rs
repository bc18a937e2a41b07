//! Carrying out a sweep: index entries first, then the packs, our records last. Ends at any moment with a
//! repository that is whole; what is left is done by the next sweep.

use std::collections::{BTreeSet, HashMap, HashSet};

use futures::{StreamExt as _, stream};
use jiff::Timestamp;

use super::facts::Facts;
use super::plan::Sweep;
use crate::error::{ErrorKind, Result};
use crate::event::{Ctx, Event, Progress};
use crate::forget::snapshot_of;
use crate::format::index_file::{IndexFile, IndexedPack, MAX_BLOBS};
use crate::format::pack::BlobKind;
use crate::format::records::{ForgottenRecord, Mark, Records};
use crate::id::Id;
use crate::lock::LockGuard;
use crate::pipeline;
use crate::repository::Repository;
use crate::store::{FileKind, FileName};
use crate::unreadable;

/// Deletions at a time.
const PARALLEL: usize = 8;
/// Between two looks whether our lock is still in the store.
const BATCH: usize = 256;
/// Files with records are put together when there are more than this.
const MAX_RECORD_FILES: usize = 8;

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
    let saved = rewrite_index(repo, lock, facts, &drop, ctx).await?;
    if let Some(why) = saved {
        // Packs that an index file lists must not go.
        swept.retained = sweep.delete.iter().map(|id| (*id, why.clone())).collect();
        swept.retained_bytes = sweep.bytes;
        return Ok(swept);
    }
    ctx.events.event(Event::Phase("delete"));
    let going: Vec<Id> = sweep.delete.iter().chain(&sweep.orphans).copied().collect();
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
            bytes_done: swept.bytes + swept.orphan_bytes,
            bytes_total: sweep.bytes + sweep.orphan_bytes,
        };
        ctx.events.event(Event::Progress(progress));
    }
    let forgotten = rewrite_records(repo, lock, facts, sweep, apart, instant).await?;
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

/// Replaces the index files that list packs of `drop` by ones that do not. When the store refuses to delete an old
/// one, the reason.
async fn rewrite_index(
    repo: &Repository,
    lock: &LockGuard,
    facts: &Facts,
    drop: &HashSet<Id>,
    ctx: &Ctx,
) -> Result<Option<String>> {
    let numbers: BTreeSet<u32> =
        drop.iter().filter_map(|id| facts.homes.get(id)).flatten().copied().collect();
    let old: Vec<Id> = numbers.iter().filter_map(|n| facts.files.get(*n as usize)).copied().collect();
    if old.is_empty() {
        return Ok(None);
    }
    let mut pending: Vec<IndexedPack> = Vec::new();
    let mut blobs = 0_usize;
    let mut records = Records::default();
    // The same pack may be listed by several of the files.
    let mut taken: HashSet<Id> = HashSet::new();
    for id in &old {
        ctx.check()?;
        let (file, ours) = ctx.run(repo.load_index_and_records(id)).await?;
        records.marks.extend(ours.marks);
        records.forgotten.extend(ours.forgotten);
        for pack in file.packs {
            if drop.contains(&pack.id) || !taken.insert(pack.id) {
                continue;
            }
            if !pending.is_empty() && blobs.saturating_add(pack.blobs.len()) > MAX_BLOBS {
                save_packs(repo, &mut pending).await?;
                blobs = 0;
            }
            blobs = blobs.saturating_add(pack.blobs.len());
            pending.push(pack);
        }
    }
    save_packs(repo, &mut pending).await?;
    if !records.is_empty() {
        pipeline::save(repo, FileKind::Index, &records.to_json()?).await?;
    }
    lock.confirm().await?;
    let names = old.iter().map(|id| FileName { kind: FileKind::Index, id: *id });
    let refused = delete_all(repo, lock, names).await?.into_iter().find_map(|(_, refused)| refused);
    Ok(refused)
}

async fn save_packs(repo: &Repository, packs: &mut Vec<IndexedPack>) -> Result<()> {
    if packs.is_empty() {
        return Ok(());
    }
    let json = IndexFile::to_json(packs)?;
    packs.clear();
    pipeline::save(repo, FileKind::Index, &json).await.map(std::mem::drop)
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
    sweep: &Sweep,
    apart: &HashSet<Id>,
    instant: bool,
) -> Result<Vec<ForgottenRecord>> {
    let unmark: HashSet<&Id> = sweep.unmark.iter().collect();
    let indexed: HashSet<&Id> = facts.index.packs().iter().map(|p| &p.id).collect();
    // What was needed by a snapshot when it was forgotten got its mark after that.
    let last_swept: Option<Timestamp> =
        sweep.delete.iter().filter_map(|id| facts.marks.get(id)).max().copied();
    let mut marks: HashMap<Id, Mark> = HashMap::new();
    let mut kept = Records::default();
    let mut changed = facts.records.len() > MAX_RECORD_FILES;
    for (_, records) in &facts.records {
        for mark in &records.marks {
            let void = unmark.contains(&mark.pack)
                || (!indexed.contains(&mark.pack) && !facts.listed.contains_key(&mark.pack));
            changed |= void;
            if !void {
                let kept = marks.entry(mark.pack).or_insert_with(|| mark.clone());
                if mark.since < kept.since {
                    *kept = mark.clone();
                }
            }
        }
        for record in &records.forgotten {
            // Without a grace nothing is left of any of them.
            let swept = last_swept.is_some_and(|swept| record.at <= swept);
            if instant || swept || apart.contains(&record.snapshot) {
                changed = true;
            } else {
                kept.forgotten.push(record.clone());
            }
        }
    }
    if !changed {
        return Ok(kept.forgotten);
    }
    kept.marks = marks.into_values().collect();
    kept.marks.sort_unstable_by_key(|m| m.pack);
    kept.forgotten.sort_unstable_by_key(|f| (f.snapshot, f.at));
    kept.forgotten.dedup();
    if !kept.is_empty() {
        pipeline::save(repo, FileKind::Index, &kept.to_json()?).await?;
    }
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
