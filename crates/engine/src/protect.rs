//! Protection of a repository by its store ("object lock"): what its snapshots need cannot be deleted or replaced
//! until a date, not even with the credentials that wrote it.
//!
//! A bucket's default protection counts from when an object was written, and deduplication lets old packs carry new
//! snapshots; so the dates have to be moved on while snapshots live. Locks are left out, and so are packs that
//! nothing needs. Not here: how a store does it (`store`), and what deletions make of it (`forget`, `prune`).

use futures::future::BoxFuture;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Ctx, Event, Progress};
use crate::format::snapshot::Snapshot;
use crate::id::Id;
use crate::index::Index;
use crate::lock::LockGuard;
use crate::prune;
use crate::reach::BlobSet;
use crate::read::is_damage;
use crate::repository::{Repository, SnapshotList, UnreadSnapshot};
use crate::store::{Entry, FileKind, FileName, Retention, RetentionMode};

/// Files asked about, and protected, at a time.
const PARALLEL: usize = 16;
/// A protection that nobody can take back is not given for longer: a slip of the pen would be paid for ever since.
const LONGEST_COMPLIANCE: SignedDuration = SignedDuration::from_hours(10 * 366 * 24);
/// And none for longer than this, which is what servers take.
const LONGEST: SignedDuration = SignedDuration::from_hours(100 * 365 * 24);

/// How to protect.
#[derive(Debug, Clone)]
pub struct ProtectSpec {
    /// For how long from now. A file of which less than half of this is left is protected anew, so this has to be
    /// done again before half of it is over.
    pub retain: SignedDuration,
    /// Who may take the protection back; by default the bucket's own mode, else governance. A file that is protected
    /// more strictly stays so.
    pub mode: Option<RetentionMode>,
    /// Only say what would be done.
    pub dry_run: bool,
    /// The present time.
    pub now: Timestamp,
}

/// Files of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Protected {
    /// Whose protection was moved on, or would be.
    pub extended: u64,
    /// That are protected for long enough.
    pub kept: u64,
    /// Their bytes, of both.
    pub bytes: u64,
}

/// What was protected.
#[derive(Debug, Clone)]
pub struct ProtectReport {
    /// The mode that was asked for.
    pub mode: RetentionMode,
    /// Until when what was extended is protected.
    pub until: Timestamp,
    /// When it has to be done again at the latest: half of the time from now.
    pub again: Timestamp,
    /// By kind.
    pub kinds: BTreeMap<FileKind, Protected>,
    /// Files that the store did not protect, snapshots that cannot be read, and those of which something is missing or damaged:
    /// and why.
    pub failed: Vec<(FileName, String)>,
}

impl ProtectReport {
    /// Of all kinds.
    pub fn total(&self) -> Protected {
        self.kinds.values().fold(Protected::default(), |sum, kind| Protected {
            extended: sum.extended.saturating_add(kind.extended),
            kept: sum.kept.saturating_add(kind.kept),
            bytes: sum.bytes.saturating_add(kind.bytes),
        })
    }
}

/// Moves the protection of everything that the snapshots need on. The caller holds a lock, so that nothing is swept
/// meanwhile.
///
/// # Errors
/// `Usage` where the store has no object lock, or the bucket was made without it; `Guard` for a time that cannot be
/// meant; `LockLost` when the lock was. Files that the store refuses are in the report, and damage: where what the snapshots
/// need cannot be told, all packs are protected.
pub fn protect<'a>(
    repo: &'a Repository,
    lock: &'a LockGuard,
    spec: &'a ProtectSpec,
    ctx: &'a Ctx,
) -> BoxFuture<'a, Result<ProtectReport>> {
    Box::pin(async move {
        match move_on(repo, lock, spec, ctx).await {
            // What the loss of the lock has cancelled, not the caller.
            Err(e) if e.kind() == ErrorKind::Cancelled => lock.check().and(Err(e)),
            other => other,
        }
    })
}

fn move_on<'a>(
    repo: &'a Repository,
    lock: &'a LockGuard,
    spec: &'a ProtectSpec,
    ctx: &'a Ctx,
) -> BoxFuture<'a, Result<ProtectReport>> {
    Box::pin(async move {
        let Some(bucket) = ctx.run(repo.store().object_lock()).await? else {
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "the bucket of {} has no object lock, so nothing in it can be protected; most servers only give it \
                 to a bucket when that is made",
                    repo.store().describe()
                ),
            ));
        };
        let mode = spec.mode.or(bucket.default.map(|(mode, _)| mode)).unwrap_or(RetentionMode::Governance);
        let (until, again) = dates(spec, mode)?;
        ctx.events.event(Event::Phase("snapshots"));
        let (files, damaged) = needed_files(repo, ctx).await?;
        ctx.events.event(Event::Phase("protect"));
        let mut report = ProtectReport { mode, until, again, kinds: BTreeMap::new(), failed: damaged };
        let total = files.len() as u64;
        let mut all = stream::iter(files)
            .map(|(name, size)| async move {
                (name, size, one(repo, name, mode, until, again, spec.dry_run).await)
            })
            .buffer_unordered(PARALLEL);
        let mut done: u64 = 0;
        while let Some((name, size, outcome)) = ctx.run(async { Ok(all.next().await) }).await? {
            lock.check()?;
            match outcome {
                Ok(extended) => {
                    let kind = report.kinds.entry(name.kind).or_default();
                    let count = if extended { &mut kind.extended } else { &mut kind.kept };
                    *count = count.saturating_add(1);
                    kind.bytes = kind.bytes.saturating_add(size);
                }
                // Forgotten by somebody since it was listed.
                Err(e) if e.kind() == ErrorKind::Missing && name.kind == FileKind::Snapshot => {}
                // Damage, or the store's decision about this file; the others are protected all the same.
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::AccessDenied | ErrorKind::Retained | ErrorKind::Missing
                    ) =>
                {
                    report.failed.push((name, e.chain()));
                }
                Err(e) => return Err(e),
            }
            done = done.saturating_add(1);
            ctx.events.event(Event::Progress(Progress {
                files_done: done,
                files_total: total,
                ..Progress::default()
            }));
        }
        report.failed.sort_by_key(|(name, _)| (name.kind, name.id));
        Ok(report)
    })
}

/// Until when, and when again.
fn dates(spec: &ProtectSpec, mode: RetentionMode) -> Result<(Timestamp, Timestamp)> {
    let longest = if mode == RetentionMode::Compliance { LONGEST_COMPLIANCE } else { LONGEST };
    if spec.retain <= SignedDuration::ZERO {
        return Err(Error::new(ErrorKind::Usage, "the time of protection must be above 0"));
    }
    if spec.retain > longest {
        return Err(Error::new(
            ErrorKind::Guard,
            format!(
                "{} days of protection in the mode {mode} are more than {}: nobody could take it back if it was not \
                 meant",
                spec.retain.as_hours() / 24,
                longest.as_hours() / 24
            ),
        ));
    }
    let far = |e| Error::with_source(ErrorKind::Usage, "the time of protection ends beyond all calendars", e);
    let until = spec.now.checked_add(spec.retain).map_err(far)?;
    let half = SignedDuration::from_secs(spec.retain.as_secs() / 2);
    let again = spec.now.checked_add(half).map_err(far)?;
    Ok((until, again))
}

/// Whether its protection was, or would be, moved on.
async fn one(
    repo: &Repository,
    name: FileName,
    mode: RetentionMode,
    until: Timestamp,
    again: Timestamp,
    dry_run: bool,
) -> Result<bool> {
    let found = repo.store().retention(name).await?;
    let mode = found.map_or(mode, |r| r.mode.max(mode));
    if found.is_some_and(|r| r.mode == mode && r.until >= again) {
        return Ok(false);
    }
    if !dry_run {
        let until = found.map_or(until, |r| r.until.max(until));
        repo.store().retain(name, Retention { mode, until }).await?;
    }
    Ok(true)
}

/// Everything that a restore of the snapshots needs, with its size: config and keys, packs, index files, and last the
/// snapshots themselves. Beside it the snapshots that cannot be read, or not be followed to their end: what they need is not
/// known, and the protection of the others must not end for them. All packs are among the files for one of the latter: it is
/// not known which of them are needed, and one that is not costs its space for a while.
async fn needed_files(
    repo: &Repository,
    ctx: &Ctx,
) -> Result<(Vec<(FileName, u64)>, Vec<(FileName, String)>)> {
    let SnapshotList { readable: snapshots, damaged, unknown } = ctx.run(repo.list_snapshots()).await?;
    let unread = damaged.into_iter().chain(unknown).map(|UnreadSnapshot { id, reason }| {
        (FileName { kind: FileKind::Snapshot, id }, format!("{reason}; what it needs is not known"))
    });
    let mut failed: Vec<(FileName, String)> = unread.collect();
    let index = repo.load_index(ctx).await?;
    let listed: HashMap<Id, Entry> =
        ctx.run(repo.store().list(FileKind::Pack)).await?.into_iter().map(|e| (e.id, e)).collect();
    let roots: Vec<Id> = snapshots.iter().map(|(_, s)| s.tree).collect();
    let needed = Arc::new(BlobSet::new(&index));
    let needed = match prune::walk(repo, &index, &listed, roots, needed, ctx).await {
        Ok(needed) => Some(needed),
        Err(e) if is_damage(&e) => {
            let (needed, mut broken) = walk_apart(repo, &index, &listed, &snapshots, ctx).await?;
            let all = broken.is_empty().then_some(needed);
            failed.append(&mut broken);
            all
        }
        Err(e) => return Err(e),
    };
    let config = FileName { kind: FileKind::Config, id: Id::default() };
    let mut files = vec![(config, ctx.run(repo.store().size(config)).await?)];
    let mut add = |kind, entries: Vec<Entry>| {
        files.extend(entries.iter().map(|e| (FileName { kind, id: e.id }, e.size)));
    };
    add(FileKind::Key, ctx.run(repo.store().list(FileKind::Key)).await?);
    let mut packs: Vec<Entry> = match needed {
        Some(needed) => packs_of(&index, &needed).iter().filter_map(|id| listed.get(id)).copied().collect(),
        None => listed.into_values().collect(),
    };
    packs.sort_unstable_by_key(|e| e.id);
    add(FileKind::Pack, packs);
    add(FileKind::Index, ctx.run(repo.store().list(FileKind::Index)).await?);
    // Those that were looked at: what came since, its own writer's next run finds.
    let looked: HashSet<Id> = snapshots.iter().map(|(id, _)| *id).collect();
    let mut entries = ctx.run(repo.store().list(FileKind::Snapshot)).await?;
    entries.retain(|e| looked.contains(&e.id));
    add(FileKind::Snapshot, entries);
    Ok((files, failed))
}

/// What the snapshots need, and those of which something is missing or damaged. Slower than all at once.
async fn walk_apart(
    repo: &Repository,
    index: &Arc<Index>,
    listed: &HashMap<Id, Entry>,
    snapshots: &[(Id, Snapshot)],
    ctx: &Ctx,
) -> Result<(Arc<BlobSet>, Vec<(FileName, String)>)> {
    let needed = Arc::new(BlobSet::new(index));
    let mut broken = Vec::new();
    for (id, snapshot) in snapshots {
        // What a broken one has in common with others was seen by then, and would count as whole with them.
        let seen = if broken.is_empty() { Arc::clone(&needed) } else { Arc::new(BlobSet::new(index)) };
        match prune::walk(repo, index, listed, vec![snapshot.tree], seen, ctx).await {
            Ok(_) => {}
            Err(e) if is_damage(&e) => {
                let why = format!("{}; what it needs is not known, so all packs are protected", e.chain());
                broken.push((FileName { kind: FileKind::Snapshot, id: *id }, why));
            }
            Err(e) => return Err(e),
        }
    }
    Ok((needed, broken))
}

/// The packs with a copy of a needed blob; all copies, since each may be the one that is whole.
fn packs_of(index: &Index, needed: &BlobSet) -> HashSet<Id> {
    let mut packs = HashSet::new();
    let mut first = None;
    for (position, (kind, id, location)) in index.iter().enumerate() {
        // The bit of a blob's first copy counts for all.
        let is_needed = match first {
            Some((k, i, is_needed)) if (k, i) == (kind, id) => is_needed,
            _ => needed.contains(position),
        };
        first = Some((kind, id, is_needed));
        if is_needed {
            packs.insert(location.pack);
        }
    }
    packs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(hours: i64) -> ProtectSpec {
        ProtectSpec {
            retain: SignedDuration::from_hours(hours),
            mode: None,
            dry_run: false,
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn it_is_due_again_at_half_time() {
        let (until, again) = dates(&spec(48), RetentionMode::Governance).unwrap();
        assert_eq!(until.to_string(), "2026-01-03T00:00:00Z");
        assert_eq!(again.to_string(), "2026-01-02T00:00:00Z");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let refused = |hours, mode| dates(&spec(hours), mode).map_err(|e| e.kind());
        for hours in [0, -1] {
            assert_eq!(refused(hours, RetentionMode::Governance), Err(ErrorKind::Usage));
        }
        let years = 11 * 366 * 24;
        assert_eq!(refused(years, RetentionMode::Compliance), Err(ErrorKind::Guard));
        assert!(refused(years, RetentionMode::Governance).is_ok());
        assert_eq!(refused(101 * 366 * 24, RetentionMode::Governance), Err(ErrorKind::Guard));
    }
}
