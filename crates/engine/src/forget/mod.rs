//! Forgetting snapshots, softly: a snapshot's file goes, and its bytes stay in the repository until a prune sweeps
//! the data that only it needed. Until then `unforget` brings it back under the same id.
//!
//! The bytes are kept in a record in the index (`format::records`), written before the first file goes. Not here:
//! which snapshots a policy keeps (`retention`), and freeing space (`prune`).

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
mod undo;

use futures::future::BoxFuture;
use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Ctx, Event};
use crate::format::records::{ForgottenRecord, Records};
use crate::format::snapshot::Snapshot;
use crate::id::Id;
use crate::lock::LockGuard;
use crate::pipeline;
use crate::repository::{Repository, SnapshotFilter, UnreadSnapshot};
use crate::retention::{self, Candidate, Counters, GroupBy, GroupKey, Policy, Verdict};
use crate::store::{FileKind, FileName};

pub(crate) use undo::snapshot_of;
pub use undo::{Forgotten, forgotten, unforget};

/// Snapshots with this tag are never forgotten.
pub const HOLD_TAG: &str = "holdfast.dev/hold=true";
/// How the tag of a safety snapshot begins, which a restore made of what it was about to overwrite.
pub const UNDO_TAG: &str = "holdfast.dev/undo-of=";
/// How long a policy keeps safety snapshots. They count for none of its rules, and no rule keeps them longer.
pub const UNDO_KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Records in one index file; a sealed snapshot has about 500 bytes.
const RECORDS_A_FILE: usize = 1000;
/// Sealed bytes in one index file, where snapshots are that large: a third more in base64, which every reader still takes.
const BYTES_A_FILE: usize = 64 << 20;

/// Which snapshots to forget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// These.
    Ids(Vec<Id>),
    /// Of those that the filter lets through, what a policy does not keep of each group.
    Policy {
        /// Which snapshots are looked at.
        filter: SnapshotFilter,
        /// Which of them belong together.
        group_by: GroupBy,
        /// What to keep of each group.
        policy: Policy,
    },
    /// All that the filter lets through. An empty filter is refused.
    All(SnapshotFilter),
}

/// What to forget.
#[derive(Debug, Clone)]
pub struct ForgetSpec {
    /// Which snapshots.
    pub selection: Selection,
    /// Only say what would be done.
    pub dry_run: bool,
    /// So many snapshots of each host and paths stay in any case; else nothing is forgotten.
    pub floor: usize,
    /// Snapshots that the caller knows to be there. When one is missing, something else deletes snapshots, or the
    /// store's listing cannot be trusted: nothing is forgotten.
    pub known: Vec<Id>,
    /// The present time, which decides what is in the future.
    pub now: Timestamp,
}

/// What was decided for one group.
#[derive(Debug, Clone)]
pub struct GroupReport {
    /// What its snapshots have in common.
    pub key: GroupKey,
    /// What becomes of each, newest first. Held ones are kept, with the reason `held by tag …`.
    pub verdicts: Vec<(Verdict, Snapshot)>,
}

/// What was forgotten.
#[derive(Debug, Clone, Default)]
pub struct ForgetReport {
    /// The groups that a policy was applied to; none when snapshots were named.
    pub groups: Vec<GroupReport>,
    /// What was forgotten, or would be.
    pub forgotten: Vec<(Id, Snapshot)>,
    /// Damaged snapshots that were named and are removed, or would be. They cannot be brought back, nor could they be used.
    pub damaged: Vec<UnreadSnapshot>,
    /// What was to be forgotten but bears [`HOLD_TAG`].
    pub held: Vec<Id>,
    /// What the store refused to delete, and why: locked objects, missing rights.
    pub retained: Vec<(Id, String)>,
}

/// What [`forget`] would do, for which no lock is needed.
///
/// # Errors
/// As of [`forget`].
pub fn preview<'a>(
    repo: &'a Repository,
    spec: &'a ForgetSpec,
    ctx: &'a Ctx,
) -> BoxFuture<'a, Result<ForgetReport>> {
    Box::pin(async move {
        ctx.events.event(Event::Phase("snapshots"));
        let mut list = ctx.run(repo.list_snapshots()).await?;
        let unread = list.damaged.iter().chain(&list.unknown).map(|unread| unread.id);
        let there: HashSet<Id> = list.readable.iter().map(|(id, _)| *id).chain(unread).collect();
        let mut report = ForgetReport::default();
        if let Selection::Ids(ids) = &spec.selection {
            // To be rid of it is the one thing that can be done with a damaged one; one that is not understood must not be
            // named, and is in nobody's way otherwise.
            list.unknown.retain(|unknown| ids.contains(&unknown.id));
            report.damaged = std::mem::take(&mut list.damaged);
            report.damaged.retain(|damaged| ids.contains(&damaged.id));
        }
        let all = list.all()?;
        select(&all, spec, &mut report)?;
        check_known(&there, &spec.known)?;
        check_floor(&all, &report, spec.floor)?;
        Ok(report)
    })
}

/// Forgets snapshots. The caller holds a shared lock, or an exclusive one.
///
/// # Errors
/// `Usage` and `Guard` when a rule refuses it, and whatever the store fails with: nothing was forgotten then. Files
/// that cannot be deleted are in the report.
pub fn forget<'a>(
    repo: &'a Repository,
    lock: &'a LockGuard,
    spec: &'a ForgetSpec,
    ctx: &'a Ctx,
) -> BoxFuture<'a, Result<ForgetReport>> {
    Box::pin(async move {
        let mut report = preview(repo, spec, ctx).await?;
        lock.check()?;
        if spec.dry_run || (report.forgotten.is_empty() && report.damaged.is_empty()) {
            return Ok(report);
        }
        if repo.config().append_only == Some(true) {
            return Err(Error::new(
                ErrorKind::Guard,
                "the repository's config says append-only: nothing may be deleted from it",
            ));
        }

        ctx.events.event(Event::Phase("forget"));
        let mut records = Vec::with_capacity(report.forgotten.len());
        for (id, _) in &report.forgotten {
            let name = FileName { kind: FileKind::Snapshot, id: *id };
            let sealed = ctx.run(repo.store().get(name, None)).await?;
            // What does not fit its name could not be brought back.
            if Id::hash(&sealed) != *id {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("snapshot {id} came back damaged; nothing was forgotten, try again"),
                ));
            }
            records.push(ForgottenRecord { snapshot: *id, at: spec.now, sealed: sealed.to_vec() });
        }
        for UnreadSnapshot { id, .. } in &report.damaged {
            match ctx.run(repo.load_snapshot(id)).await {
                Err(e) if e.kind() == ErrorKind::Corrupt => {}
                Ok(_) => {
                    return Err(Error::new(
                        ErrorKind::Listing,
                        format!(
                            "snapshot {id} was damaged a moment ago and is not now; nothing was forgotten, look again"
                        ),
                    ));
                }
                Err(e) => return Err(e),
            }
            // One that is as it was written, and is refused all the same, can be brought back.
            let name = FileName { kind: FileKind::Snapshot, id: *id };
            if let Ok(sealed) = ctx.run(repo.store().get(name, None)).await
                && Id::hash(&sealed) == *id
            {
                records.push(ForgottenRecord { snapshot: *id, at: spec.now, sealed: sealed.to_vec() });
            }
        }
        for part in records.chunk_by(files_of_records()) {
            let json = Records { forgotten: part.to_vec(), ..Records::default() }.to_json()?;
            pipeline::save(repo, FileKind::Index, &json).await?;
        }
        // The last look before the first deletion.
        lock.confirm().await?;
        let mut retained = HashMap::new();
        let going = report.forgotten.iter().map(|(id, _)| id).chain(report.damaged.iter().map(|d| &d.id));
        for id in going {
            ctx.check()?;
            lock.check()?;
            match repo.store().delete(FileName { kind: FileKind::Snapshot, id: *id }).await {
                Ok(()) => {}
                // The store's decision about this file; the others may go.
                Err(e) if matches!(e.kind(), ErrorKind::AccessDenied | ErrorKind::Retained) => {
                    retained.insert(*id, e.chain());
                }
                Err(e) => return Err(e),
            }
        }
        report.forgotten.retain(|(id, _)| !retained.contains_key(id));
        report.damaged.retain(|damaged| !retained.contains_key(&damaged.id));
        report.retained = retained.into_iter().collect();
        report.retained.sort_unstable();
        Ok(report)
    })
}

/// Tells for each record after the first whether it goes into the same index file.
pub(crate) fn files_of_records() -> impl FnMut(&ForgottenRecord, &ForgottenRecord) -> bool {
    let (mut count, mut bytes) = (1, 0_usize);
    move |before, next| {
        bytes = bytes.saturating_add(before.sealed.len());
        let fits = count < RECORDS_A_FILE && bytes.saturating_add(next.sealed.len()) <= BYTES_A_FILE;
        (count, bytes) = if fits { (count.saturating_add(1), bytes) } else { (1, 0) };
        fits
    }
}

/// Applies the selection.
fn select(all: &[(Id, Snapshot)], spec: &ForgetSpec, report: &mut ForgetReport) -> Result<()> {
    let chosen: Vec<(Id, Snapshot)> = match &spec.selection {
        Selection::Ids(ids) => {
            let by_id: HashMap<&Id, &Snapshot> = all.iter().map(|(id, s)| (id, s)).collect();
            let mut seen = HashSet::new();
            ids.iter()
                .filter(|id| seen.insert(**id) && !report.damaged.iter().any(|damaged| damaged.id == **id))
                .map(|id| {
                    by_id.get(id).map(|snapshot| (*id, (*snapshot).clone())).ok_or_else(|| {
                        Error::new(
                            ErrorKind::Missing,
                            format!("there is no snapshot {id}; nothing was forgotten"),
                        )
                    })
                })
                .collect::<Result<_>>()?
        }
        Selection::All(filter) => {
            if *filter == SnapshotFilter::default() {
                return Err(Error::new(
                    ErrorKind::Usage,
                    "to forget everything, say of which host, paths or tags",
                ));
            }
            all.iter().filter(|(_, s)| filter.matches(s)).cloned().collect()
        }
        Selection::Policy { filter, group_by, policy } => {
            let (safety, matching): (Vec<(Id, Snapshot)>, Vec<_>) =
                all.iter().filter(|(_, s)| filter.matches(s)).cloned().partition(|(_, s)| is_safety(s));
            if policy.is_empty() {
                return Err(Error::new(
                    ErrorKind::Usage,
                    "no policy was given, so nothing is forgotten; say what to keep, e.g. the last 7 of each day",
                ));
            }
            let mut chosen = Vec::new();
            for group in retention::group(&matching, *group_by) {
                let candidates: Vec<Candidate<'_>> =
                    group.snapshots.iter().map(|(id, s)| Candidate::of(*id, s)).collect();
                let verdicts = retention::plan(&candidates, policy, spec.now).map_err(|e| {
                    Error::with_source(e.kind(), format!("nothing was forgotten: group {}", group.key), e)
                })?;
                let by_id: HashMap<Id, &Snapshot> = group.snapshots.iter().map(|(id, s)| (*id, s)).collect();
                let mut judged = Vec::with_capacity(verdicts.len());
                for mut verdict in verdicts {
                    let Some(snapshot) = by_id.get(&verdict.id) else { continue };
                    if is_held(snapshot) {
                        verdict.keep = true;
                        verdict.reasons.push(format!("held by tag {HOLD_TAG}"));
                    }
                    if !verdict.keep {
                        chosen.push((verdict.id, (*snapshot).clone()));
                    }
                    judged.push((verdict, (*snapshot).clone()));
                }
                report.groups.push(GroupReport { key: group.key, verdicts: judged });
            }
            for group in retention::group(&safety, *group_by) {
                let judged =
                    group.snapshots.iter().map(|(id, s)| (judge_safety(*id, s, spec.now), s.clone()));
                let verdicts: Vec<_> = judged.collect();
                let gone = verdicts.iter().filter(|(verdict, _)| !verdict.keep);
                chosen.extend(gone.map(|(verdict, snapshot)| (verdict.id, snapshot.clone())));
                report.groups.push(GroupReport { key: group.key, verdicts });
            }
            chosen
        }
    };
    for (id, snapshot) in chosen {
        if is_held(&snapshot) {
            report.held.push(id);
        } else {
            report.forgotten.push((id, snapshot));
        }
    }
    Ok(())
}

fn is_held(snapshot: &Snapshot) -> bool {
    snapshot.tags.iter().any(|tag| tag == HOLD_TAG)
}

/// Whether a restore made it of what it was about to overwrite.
pub(crate) fn is_safety(snapshot: &Snapshot) -> bool {
    snapshot.tags.iter().any(|tag| tag.starts_with(UNDO_TAG))
}

/// A safety snapshot has its time, and is no recovery point that would keep another one from being kept.
fn judge_safety(id: Id, snapshot: &Snapshot, now: Timestamp) -> Verdict {
    let mut reasons = Vec::new();
    if now.duration_since(snapshot.time.timestamp) < UNDO_KEPT {
        reasons.push(format!("saved before a restore, within {}d", UNDO_KEPT.as_hours() / 24));
    }
    if is_held(snapshot) {
        reasons.push(format!("held by tag {HOLD_TAG}"));
    }
    Verdict { id, keep: !reasons.is_empty(), reasons, counters: Counters::default() }
}

/// Refuses when a snapshot that must be there is not in the listing.
pub(crate) fn check_known(there: &HashSet<Id>, known: &[Id]) -> Result<()> {
    let missing: Vec<String> = known.iter().filter(|id| !there.contains(id)).map(Id::short).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Guard,
        format!(
            "{} snapshots that should be there are not in the listing ({}): nothing is deleted until that is \
             explained",
            missing.len(),
            missing.iter().take(5).cloned().collect::<Vec<_>>().join(", ")
        ),
    ))
}

/// Refuses to leave fewer than `floor` snapshots of any host and paths.
fn check_floor(all: &[(Id, Snapshot)], report: &ForgetReport, floor: usize) -> Result<()> {
    let going: HashSet<Id> = report.forgotten.iter().map(|(id, _)| *id).collect();
    let mut left: BTreeMap<GroupKey, (usize, bool)> = BTreeMap::new();
    // What a restore saved before it overwrote it is no backup that anybody could fall back to.
    let backups: Vec<(Id, Snapshot)> = all.iter().filter(|(_, s)| !is_safety(s)).cloned().collect();
    for group in retention::group(&backups, GroupBy::default()) {
        let stay = group.snapshots.iter().filter(|(id, _)| !going.contains(id)).count();
        left.insert(group.key, (stay, stay < group.snapshots.len()));
    }
    // Groups that are small already and lose nothing are no concern.
    let Some((key, (stay, _))) = left.iter().find(|(_, (stay, loses))| *loses && *stay < floor) else {
        return Ok(());
    };
    Err(Error::new(
        ErrorKind::Guard,
        format!("only {stay} snapshots of {key} would be left, and {floor} must stay; nothing was forgotten"),
    ))
}
