//! Prune: frees the space of what no snapshot needs, in two halves that may lie days apart.
//!
//! 1. **Mark** (shared lock, beside running backups): blobs that are needed move out of packs that are mostly waste,
//!    and packs that nothing needs get a mark. Marked packs stay readable for everybody; writers of Holdfast do not
//!    rely on them for new snapshots, and check so after writing one (`fence`).
//! 2. **Sweep** (exclusive lock, at the next run after the grace): everything is read afresh, what became needed
//!    again loses its mark, and the rest goes: index entries first, then packs.
//!
//! A writer looks for marks after its snapshot is there; a sweep looks for snapshots after its marks were there. So
//! one of them sees the other, whatever became of locks and clocks. Not here: which snapshots go (`forget`).

mod facts;
mod plan;
pub(crate) mod repack;
mod sweep;
#[cfg(test)]
mod tests;

use futures::future::BoxFuture;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Ctx, Event};
use crate::forget::check_known;
use crate::format::records::{Mark, Records};
use crate::id::Id;
use crate::lock::{LockGuard, LockMode, Locking};
use crate::reach::BlobSet;
use crate::read::own_thread;
use crate::repository::Repository;
use crate::store::FileKind;
use crate::write::withdraw;
use repack::{How, IndexFiles, written_so_far};

pub(crate) use facts::walk;
use facts::{Facts, store_now};
pub use plan::Totals;
use plan::{Fate, Plan, plan, plan_sweep};

/// How many unused bytes may stay in packs that are used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MaxUnused {
    /// A share of what remains, in percent; at least 0 and below 100.
    Percent(f64),
    /// So many bytes.
    Bytes(u64),
    /// Any: nothing is moved to save space.
    Unlimited,
}

/// How to prune.
#[derive(Debug, Clone)]
pub struct PruneSpec {
    /// Only say what would be done.
    pub dry_run: bool,
    /// A dry run's: these snapshots count as gone.
    pub without: Vec<Id>,
    /// A dry run's: take no lock, for a store that may only be read. What others remove meanwhile may be missed.
    pub no_lock: bool,
    /// How much waste may stay.
    pub max_unused: MaxUnused,
    /// At most so many bytes of packs are moved in one run.
    pub max_repack: Option<u64>,
    /// Packs below this size are put together; by default those far below the usual size.
    pub repack_below: Option<u64>,
    /// Only packs of directories are moved, which are read often.
    pub trees_only: bool,
    /// How long a mark stands before its pack may be swept. Longer than any backup takes.
    pub grace: SignedDuration,
    /// Sweeps at once, with nobody else at work from beginning to end.
    pub instant: bool,
    /// Goes on when more than half of the data would be deleted.
    pub allow_large: bool,
    /// Snapshots that the caller knows to be there; see [`crate::forget::ForgetSpec::known`].
    pub known: Vec<Id>,
    /// Packs on their way to the store at a time.
    pub uploads: usize,
    /// Written into marks, for people.
    pub program: String,
}

/// The grace of a prune when nothing else is said.
pub const DEFAULT_GRACE: SignedDuration = SignedDuration::from_hours(24);

impl Default for PruneSpec {
    fn default() -> Self {
        Self {
            dry_run: false,
            without: Vec::new(),
            no_lock: false,
            max_unused: MaxUnused::Percent(5.0),
            max_repack: None,
            repack_below: None,
            trees_only: false,
            grace: DEFAULT_GRACE,
            instant: false,
            allow_large: false,
            known: Vec::new(),
            uploads: 2,
            program: concat!("holdfast ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// What a prune did, or would do.
#[derive(Debug, Clone, Default)]
pub struct PruneReport {
    /// The state of the repository before, and what was planned.
    pub totals: Totals,
    /// Bytes moved into new packs.
    pub moved_bytes: u64,
    /// Packs that got a mark in this run.
    pub marked_packs: u64,
    /// Their bytes: what a later sweep frees.
    pub marked_bytes: u64,
    /// Packs deleted in this run, unindexed ones included.
    pub deleted_packs: u64,
    /// Bytes freed in this run.
    pub deleted_bytes: u64,
    /// Packs that a sweep could delete now: those that were deleted, in a dry run those that would be.
    pub due_packs: u64,
    /// Their bytes.
    pub due_bytes: u64,
    /// Marked packs whose time has not come, without those marked in this run.
    pub waiting_packs: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// Packs that lost their mark because something needs them again.
    pub unmarked_packs: u64,
    /// Packs that the store refused to delete, and why.
    pub retained: Vec<(Id, String)>,
    /// Their bytes.
    pub retained_bytes: u64,
    /// Packs that had to stay because a needed blob in them cannot be read, and why.
    pub damaged: Vec<(Id, String)>,
    /// Why packs that are needed in part stay, or packs that nothing needs got no mark: the store has no room to move what is
    /// needed out of all of them, or for the marks. What was due goes all the same, and the next prune may find room.
    pub no_room: Option<String>,
    /// When the next marks are old enough for a sweep.
    pub next_sweep: Option<Timestamp>,
    /// Why packs that are due were not swept, when somebody else was at work.
    pub postponed: Option<String>,
    /// How long it took.
    pub duration: Duration,
}

/// Longer than any writer needs for one file.
const UNFINISHED_AFTER: std::time::Duration = std::time::Duration::from_hours(24);

/// Prunes. Takes the locks it needs: a shared one for the first half, an exclusive one for the second.
///
/// # Errors
/// `Guard` when a rule forbids it, with nothing deleted; `Locked` when the first lock cannot be had. When only the
/// second cannot, the report says so in [`PruneReport::postponed`]. `Full` when there is not even room for a lock, or for the
/// index files without what goes.
pub fn prune<'a>(
    repo: &'a Repository,
    locking: &'a Locking,
    spec: &'a PruneSpec,
    ctx: &'a Ctx,
) -> BoxFuture<'a, Result<PruneReport>> {
    Box::pin(async move {
        let clock = Instant::now();
        if spec.grace < SignedDuration::ZERO {
            return Err(Error::new(ErrorKind::Usage, "the grace must not be negative"));
        }
        if let MaxUnused::Percent(p) = spec.max_unused
            && !(0.0..100.0).contains(&p)
        {
            return Err(Error::new(
                ErrorKind::Usage,
                "the share of unused bytes is from 0 to below 100 percent",
            ));
        }
        if !spec.dry_run && (spec.no_lock || !spec.without.is_empty()) {
            return Err(Error::new(
                ErrorKind::Usage,
                "only a dry run prunes without a lock, or as if snapshots were gone that are there",
            ));
        }
        if repo.config().append_only == Some(true) && !spec.dry_run {
            return Err(Error::new(
                ErrorKind::Guard,
                "the repository's config says append-only: nothing may be deleted from it",
            ));
        }
        let mode = if spec.instant && !spec.dry_run { LockMode::Exclusive } else { LockMode::Shared };
        // Each half has a context of its own: its lock's loss ends it, not the caller.
        let half = Ctx { cancel: ctx.cancel.child_token(), events: Arc::clone(&ctx.events) };
        if spec.no_lock {
            let first = first_half(repo, None, spec, &IndexFiles::default(), &half).await?;
            return Ok(PruneReport { duration: clock.elapsed(), ..first.report });
        }
        if !spec.dry_run {
            // The beginning of a file whose writer died; nobody ever reads it. Without a lock: on a full disk there is room for
            // one only afterwards.
            match repo.store().remove_unfinished(UNFINISHED_AFTER).await {
                Ok(0) => {}
                Ok(files) => tracing::info!(files, "unfinished files of writers that died were removed"),
                Err(e) => tracing::warn!(error = %e.chain(), "unfinished files could not be removed"),
            }
        }
        let guard = repo
            .lock(mode, &locking.holder, locking.wait, &locking.dead_holders, &half)
            .await
            .map_err(|e| say_full(repo, e))?;
        let moved = IndexFiles::default();
        let outcome = match first_half(repo, Some(&guard), spec, &moved, &half).await {
            Err(e) => Err(withdraw(repo, &written_so_far(&moved), guard.blame(e).await).await),
            done => done,
        };
        let mut first = match finish(guard, outcome, spec.instant && !spec.dry_run).await? {
            (first, Some(guard)) => {
                let outcome =
                    second_half(repo, &guard, spec, first, &half).await.map_err(|e| say_full(repo, e));
                let (report, _) = finish(guard, outcome, false).await?;
                return Ok(PruneReport { duration: clock.elapsed(), ..report });
            }
            (first, None) => first,
        };
        if !first.due || spec.dry_run {
            return Ok(PruneReport { duration: clock.elapsed(), ..first.report });
        }
        let half = Ctx { cancel: ctx.cancel.child_token(), events: Arc::clone(&ctx.events) };
        match repo
            .lock(LockMode::Exclusive, &locking.holder, locking.wait, &locking.dead_holders, &half)
            .await
        {
            Ok(guard) => {
                let outcome =
                    second_half(repo, &guard, spec, first, &half).await.map_err(|e| say_full(repo, e));
                let (report, _) = finish(guard, outcome, false).await?;
                Ok(PruneReport { duration: clock.elapsed(), ..report })
            }
            Err(e) if e.kind() == ErrorKind::Locked => {
                first.report.postponed = Some(e.chain());
                Ok(PruneReport { duration: clock.elapsed(), ..first.report })
            }
            Err(e) => Err(say_full(repo, e)),
        }
    })
}

/// What to do when there is no room even for what makes some.
fn say_full(repo: &Repository, error: Error) -> Error {
    if error.kind() != ErrorKind::Full {
        return error;
    }
    let message = format!(
        "{} is too full to prune: that takes a little room at first, for a lock and for index files; give it more space, or \
         remove something else from it, and prune again. Nothing that is needed was deleted",
        repo.store().describe()
    );
    Error::with_source(ErrorKind::Full, message, error)
}

/// Releases the lock unless it is still needed. An error of the work comes before one of the release, and a lost
/// lock before the cancellation that it caused.
async fn finish<T>(guard: LockGuard, outcome: Result<T>, keep: bool) -> Result<(T, Option<LockGuard>)> {
    let outcome = match outcome {
        Err(e) if e.kind() == ErrorKind::Cancelled => guard.check().and(Err(e)),
        other => other,
    };
    match outcome {
        Ok(value) if keep => Ok((value, Some(guard))),
        Ok(value) => guard.release().await.map(|()| (value, None)),
        Err(e) => {
            if let Err(release) = guard.release().await {
                tracing::warn!(error = %release.chain(), "the lock of a failed prune stays behind");
            }
            Err(e)
        }
    }
}

/// What the first half hands to the second.
struct First {
    report: PruneReport,
    facts: Facts,
    needed: Arc<BlobSet>,
    /// Something can be swept.
    due: bool,
}

/// `written` are the index files of what was moved.
async fn first_half(
    repo: &Repository,
    lock: Option<&LockGuard>,
    spec: &PruneSpec,
    written: &IndexFiles,
    ctx: &Ctx,
) -> Result<First> {
    ctx.events.event(Event::Phase("index"));
    let mut facts = facts::load(repo, &spec.without, ctx).await?;
    check_known(&facts.snapshot_ids(), &spec.known)?;
    facts.snapshots.retain(|(id, _)| !spec.without.contains(id));
    ctx.events.event(Event::Phase("reach"));
    let needed = facts.walk(repo, Arc::new(BlobSet::new(&facts.index)), ctx).await?;
    let now = store_now(repo, lock).await?;
    let view = facts.view(&needed);
    let planned = plan(&view, spec)?;
    let sweep = plan_sweep(&view, spec.grace, now)?;
    let ours = usize::from(lock.is_some());
    let alone = ctx.run(repo.store().list(FileKind::Lock)).await?.len() <= ours;
    let orphans = plan::orphans_to_mark(&view, now, alone);
    let mut report = PruneReport {
        totals: planned.totals,
        due_packs: sweep.delete.len() as u64 + sweep.orphans.len() as u64,
        due_bytes: sweep.bytes.saturating_add(sweep.orphan_bytes),
        waiting_packs: sweep.waiting,
        waiting_bytes: sweep.waiting_bytes,
        next_sweep: sweep.next,
        ..PruneReport::default()
    };
    if spec.instant {
        let going = |number: u32, needed: bool| match planned.fates.get(number as usize) {
            Some(Fate::Mark | Fate::Waits | Fate::Absent) => true,
            // What is needed of it only moves.
            Some(Fate::Repack) => !needed,
            Some(Fate::Keep | Fate::NeededAgain) | None => false,
        };
        let found: HashSet<&Id> = orphans.iter().map(|orphan| &orphan.id).collect();
        let unindexed_going = |id: &Id| facts.marks.contains_key(id) || found.contains(id);
        // Before anything is moved, rather than after.
        plan::check_loss(&view, going, unindexed_going, spec.allow_large)?;
    }
    if spec.dry_run {
        let (packs, bytes) = to_mark(&facts, &planned, now.max(Timestamp::now()))
            .fold((0_u64, 0_u64), |(packs, bytes), (_, pack)| (packs + 1, bytes.saturating_add(pack.size)));
        (report.marked_packs, report.marked_bytes) = (packs, bytes);
        return Ok(First { report, facts, needed, due: false });
    }
    let lock = lock.ok_or_else(|| {
        Error::new(ErrorKind::Internal, "a prune without a lock went on after its forecast: a bug")
    })?;
    lock.check()?;
    let Plan { moves, .. } = &planned;
    let mut damaged = std::collections::BTreeMap::new();
    if !moves.is_empty() {
        ctx.events.event(Event::Phase("repack"));
        let (repo, index, wanted) = (repo.clone(), Arc::clone(&facts.index), moves.clone());
        let runtime = tokio::runtime::Handle::current();
        // An instant prune holds an exclusive lock from its beginning.
        let how = How { uploads: spec.uploads, alone: spec.instant, written: Arc::clone(written) };
        let moved =
            own_thread("repack", ctx, move |ctx| repack::copy(&repo, &index, wanted, how, &runtime, ctx))
                .await;
        match moved {
            Ok(moved) => {
                (report.moved_bytes, damaged) = (moved.bytes, moved.damaged);
                // Whoever took the lock away took the new packs for remains while no index file named them.
                lock.confirm().await?;
            }
            // To make room is what a prune is for: what needs none of it goes on.
            Err(e) if e.kind() == ErrorKind::Full => report.no_room = Some(e.chain()),
            Err(e) => return Err(e),
        }
    }
    report.damaged = damaged
        .iter()
        .filter_map(|(number, why)| Some((facts.index.packs().get(*number as usize)?.id, why.clone())))
        .collect();
    // The time of the marks is read after all else, so that the grace is never too short.
    let since = store_now(repo, Some(lock)).await?.max(Timestamp::now());
    let mut marks = Vec::new();
    for (number, pack) in to_mark(&facts, &planned, since) {
        let moves = planned.fates.get(number as usize) == Some(&Fate::Repack);
        if damaged.contains_key(&number) || (moves && report.no_room.is_some()) {
            continue;
        }
        report.marked_packs += 1;
        report.marked_bytes = report.marked_bytes.saturating_add(pack.size);
        marks.push(Mark { pack: pack.id, since, by: spec.program.clone() });
    }
    for orphan in orphans {
        report.marked_packs += 1;
        report.marked_bytes = report.marked_bytes.saturating_add(orphan.size);
        marks.push(Mark { pack: orphan.id, since, by: spec.program.clone() });
    }
    if !marks.is_empty() {
        ctx.events.event(Event::Phase("mark"));
        lock.confirm().await?;
        save_marks(repo, marks, since, spec.grace, &mut report).await?;
    }
    let due = !sweep.is_empty() || spec.instant || !sweep::taken_apart(repo, &facts).is_empty();
    Ok(First { report, facts, needed, due })
}

/// Writes the marks of this run. Without room for them the sweep goes on with what got its mark before, which may make the
/// room that they need. It goes by the marks that it finds: if these are there after all, it takes them for what they are.
async fn save_marks(
    repo: &Repository,
    marks: Vec<Mark>,
    since: Timestamp,
    grace: SignedDuration,
    report: &mut PruneReport,
) -> Result<()> {
    let packs = marks.len();
    match sweep::save_records(repo, &Records { marks, ..Records::default() }).await {
        Ok(()) => {
            let next = since.checked_add(grace).ok();
            report.next_sweep = [report.next_sweep, next].into_iter().flatten().min();
            Ok(())
        }
        Err(e) if e.kind() == ErrorKind::Full => {
            tracing::warn!(packs, error = %e.chain(), "no room for the marks of packs that nothing needs");
            let why = format!("the marks of {packs} packs could not be written: {}", e.chain());
            (report.marked_packs, report.marked_bytes) = (0, 0);
            report.no_room.get_or_insert(why);
            Ok(())
        }
        Err(e) => Err(e),
    }
}

/// Packs to give a mark, and those that another client's mark keeps waiting without a time, or a mark of the far future.
fn to_mark<'a>(
    facts: &'a Facts,
    plan: &'a Plan,
    now: Timestamp,
) -> impl Iterator<Item = (u32, &'a crate::index::PackInfo)> + 'a {
    (0_u32..)
        .zip(facts.index.packs())
        .zip(&plan.fates)
        .filter(move |((_, pack), fate)| match fate {
            Fate::Mark | Fate::Repack => true,
            Fate::Waits => !plan::has_mark(&facts.marks, &pack.id, now),
            Fate::Keep | Fate::NeededAgain | Fate::Absent => false,
        })
        .map(|(pack, _)| pack)
}

async fn second_half(
    repo: &Repository,
    lock: &LockGuard,
    spec: &PruneSpec,
    first: First,
    ctx: &Ctx,
) -> Result<PruneReport> {
    let First { mut report, facts: before, needed: seen, due: _ } = first;
    ctx.events.event(Event::Phase("sweep"));
    // Before the look, so that a mark which another prune makes during it is never old enough. Those of an instant run
    // are as old as this moment.
    let mut now = store_now(repo, Some(lock)).await?;
    if spec.instant {
        now = now.max(Timestamp::now());
    }
    // Afresh, and snapshots first: whoever wrote one that is not seen here looks for our marks after this.
    let facts = facts::load(repo, &[], ctx).await?;
    check_known(&facts.snapshot_ids(), &spec.known)?;
    // What was needed before counts as needed still, and need not be walked again.
    let needed = Arc::new(seen.translate(&before.index, &facts.index)?);
    drop((before, seen));
    let needed = facts.walk(repo, needed, ctx).await?;
    facts.confirm(repo, ctx).await?;
    let grace = if spec.instant { SignedDuration::ZERO } else { spec.grace };
    let view = facts.view(&needed);
    let sweep = plan_sweep(&view, grace, now)?;
    let going: HashSet<&Id> = sweep.delete.iter().chain(&sweep.absent).chain(&sweep.orphans).collect();
    let packs = facts.index.packs();
    plan::check_loss(
        &view,
        |number, _| packs.get(number as usize).is_some_and(|p| going.contains(&p.id)),
        |id| going.contains(id),
        spec.allow_large,
    )?;
    report.waiting_packs = sweep.waiting;
    report.waiting_bytes = sweep.waiting_bytes;
    report.next_sweep = sweep.next;
    let apart = sweep::taken_apart(repo, &facts);
    if sweep.is_empty() && apart.is_empty() {
        return Ok(report);
    }
    let swept = sweep::carry_out(repo, lock, &facts, &sweep, &apart, spec.instant, ctx).await?;
    report.deleted_packs = swept.packs.saturating_add(swept.orphans);
    report.deleted_bytes = swept.bytes.saturating_add(swept.orphan_bytes);
    report.due_packs = sweep.delete.len() as u64 + sweep.orphans.len() as u64;
    report.due_bytes = sweep.bytes.saturating_add(sweep.orphan_bytes);
    report.unmarked_packs = swept.unmarked;
    report.retained = swept.retained;
    report.retained_bytes = swept.retained_bytes;
    Ok(report)
}
