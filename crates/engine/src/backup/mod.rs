//! Backup: a snapshot of directory trees, committed only when everything it refers to is durable.
//!
//! Packs, then index, then snapshot; a run that ends at any moment leaves a repository that is whole, and blobs that
//! the next run finds again. Not here: how content becomes blobs (`pipeline`).

mod ahead;
mod relative;
mod stream;

use futures::FutureExt;
use futures::future::BoxFuture;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Checkpoint, Ctx, FaultList};
use crate::fence;
use crate::file_system::is_of_one_machine;
pub use crate::format::compress::Compression;
use crate::format::snapshot::{Snapshot, SnapshotSummary};
use crate::format::time::{OffsetTime, Time};
use crate::format::tree::TreeWriter;
use crate::id::Id;
use crate::index::DedupIndex;
use crate::lock::LockGuard;
use crate::pipeline::{self, Escape, Input, Named, Plan, Proved, Roots, State, path_text};
use crate::repository::Repository;
use crate::store::{Entry, FileKind, FileName};
use crate::stream::StreamSource;
use crate::unreadable;
use crate::write::withdraw;
pub use ahead::{Ahead, lock_reading_ahead};
pub use relative::{RelativeRoot, absolute};
pub use stream::{backup_stream, rehearse_stream};

/// File systems keep times in ticks of up to two seconds (FAT), so a change may carry a time before it was made.
const CLOCK_TICK_SECONDS: i64 = 2;
/// So far behind this machine's clock a file server's may be. What was changed in as many seconds before a run is read again
/// by the next one.
const OTHER_CLOCK_SECONDS: i64 = 300;

/// Which snapshot to compare with, so that unchanged files need not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Parent {
    /// The newest of the same host and paths.
    #[default]
    Auto,
    /// None: every file is read.
    None,
    /// This one.
    Id(Id),
}

/// What tells that a file is as the parent has it, beside size and modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trust {
    /// The inode's number and its change time.
    #[default]
    Inode,
    /// The inode's number.
    InodeNumber,
    /// Nothing else.
    Times,
}

/// What a file that cannot be read means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unreadable {
    /// It is recorded, and the snapshot is written without it.
    #[default]
    Continue,
    /// The backup fails and writes no snapshot.
    Fail,
    /// So many are recorded; at one more the backup fails and writes no snapshot.
    AtMost(u64),
}

impl Unreadable {
    /// How many things may be unreadable.
    fn limit(self) -> u64 {
        match self {
            Self::Continue => u64::MAX,
            Self::Fail => 0,
            Self::AtMost(limit) => limit,
        }
    }
}

/// How many of the sealed blobs are opened again before they are written, as a guard against broken memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// None.
    Off,
    /// One of 16 with file content, and every directory.
    #[default]
    Sample,
    /// All.
    Full,
}

/// When what a backup has finished is saved, so that a run that takes over need not read it again. Whichever comes
/// first; never without a finished file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoints {
    /// After so much time.
    pub every: Option<Duration>,
    /// After so many files.
    pub files: Option<u64>,
    /// After so many bytes.
    pub bytes: Option<u64>,
}

impl Checkpoints {
    /// None is made.
    pub const NEVER: Self = Self { every: None, files: None, bytes: None };
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self { every: Some(Duration::from_mins(5)), ..Self::NEVER }
    }
}

/// What to back up, and how.
#[derive(Debug, Clone)]
pub struct BackupSpec {
    /// Absolute paths; the snapshot's `paths`.
    pub roots: Vec<PathBuf>,
    /// Further paths; the snapshot's `paths` name them as absolute ones.
    pub relative_roots: Vec<RelativeRoot>,
    /// The snapshot's host.
    pub host: String,
    /// The snapshot's tags.
    pub tags: Vec<String>,
    /// Key of a tag `<key>=<count>` that the snapshot gets when something could not be read.
    pub fault_tag: Option<String>,
    /// The snapshot's time.
    pub time: Timestamp,
    /// Patterns that leave files out, as restic has them; a later one with `!` takes back in.
    pub excludes: Vec<String>,
    /// The same without regard to case. The snapshot does not name them.
    pub iexcludes: Vec<String>,
    /// The directory that a leading `/` of a pattern means. Neither its own path nor what is not below it matches any. Without
    /// it that is the root, as with restic, and a pattern that matches a directory above a path matches the path. Nor is a
    /// tag in the directory itself a reason to leave out what is in it.
    pub patterns_from: Option<PathBuf>,
    /// Files by their name, and what they begin with: nothing else is backed up of a directory that holds one.
    pub exclude_if_present: Vec<(Vec<u8>, Vec<u8>)>,
    /// Leave out what is no directory and has more bytes.
    pub exclude_larger_than: Option<u64>,
    /// Leave out what lies beside a valid `CACHEDIR.TAG`.
    pub exclude_caches: bool,
    /// Leave out what is mounted below a root.
    pub one_file_system: bool,
    /// Tell of each directory at which that was done as of one that could not be read: to whom it is not known that another
    /// file system begins there, its files would be missing without a word.
    pub borders_are_faults: bool,
    /// Leave out the directory `lost+found` that mkfs made in the root of a file system, where nothing is in it, or
    /// where it cannot be looked into because it is root's alone.
    pub leave_lost_found: bool,
    /// Key of a tag. Snapshots with such a tag are set aside: none of them is the parent of one that has no such tag.
    pub aside_tag: Option<String>,
    /// What to compare with.
    pub parent: Parent,
    /// With [`Parent::Auto`] no snapshot that is newer.
    pub parent_until: Option<Timestamp>,
    /// What tells an unchanged file.
    pub trust: Trust,
    /// Write no snapshot when its tree is that of the parent.
    pub skip_if_unchanged: bool,
    /// The checkpoint of a killed run of the same paths, beside the parent.
    pub resume: Option<Checkpoint>,
    /// When to make checkpoints.
    pub checkpoints: Checkpoints,
    /// What unreadable files mean.
    pub unreadable: Unreadable,
    /// The snapshot's user name.
    pub username: String,
    /// The snapshot's user id; 0 is left out.
    pub uid: u32,
    /// The snapshot's group id; 0 is left out.
    pub gid: u32,
    /// The snapshot's `program_version`, e.g. `holdfast 0.1.0`.
    pub program_version: String,
    /// How hard to compress.
    pub compression: Compression,
    /// How much to verify.
    pub verify: Verify,
    /// Threads that list directories, and as many that read files; more help on network file systems.
    pub readers: usize,
    /// Packs (16 MiB each) that are uploaded at a time.
    pub uploads: usize,
}

impl Default for BackupSpec {
    fn default() -> Self {
        Self {
            roots: Vec::new(),
            relative_roots: Vec::new(),
            host: String::new(),
            tags: Vec::new(),
            fault_tag: None,
            time: Timestamp::now(),
            excludes: Vec::new(),
            iexcludes: Vec::new(),
            patterns_from: None,
            exclude_if_present: Vec::new(),
            exclude_larger_than: None,
            exclude_caches: false,
            one_file_system: false,
            borders_are_faults: false,
            leave_lost_found: false,
            aside_tag: None,
            parent: Parent::default(),
            parent_until: None,
            trust: Trust::default(),
            skip_if_unchanged: false,
            resume: None,
            checkpoints: Checkpoints::default(),
            unreadable: Unreadable::default(),
            username: String::new(),
            uid: 0,
            gid: 0,
            program_version: concat!("holdfast ", env!("CARGO_PKG_VERSION")).to_owned(),
            compression: Compression::default(),
            verify: Verify::default(),
            readers: 2,
            uploads: 2,
        }
    }
}

/// What a backup did. Bytes are plain unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackupReport {
    /// The snapshot that was written; all zeros where [`BackupReport::committed`] says that none was.
    pub snapshot: Id,
    /// Whether a snapshot was written. Not by a rehearsal, nor where its spec had it skipped.
    pub committed: bool,
    /// Its root tree.
    pub tree: Id,
    /// What it was compared with.
    pub parent: Option<Id>,
    /// Files that the parent does not have.
    pub files_new: u64,
    /// Files that were read again.
    pub files_changed: u64,
    /// Files that were taken over unread.
    pub files_unmodified: u64,
    /// Of the new and changed files those that a killed run had finished, and that were taken over from its
    /// checkpoint unread.
    pub files_resumed: u64,
    /// Directories that the parent does not have.
    pub dirs_new: u64,
    /// Directories in which something differs from the parent.
    pub dirs_changed: u64,
    /// Directories that are as in the parent.
    pub dirs_unmodified: u64,
    /// Chunks stored.
    pub data_blobs: u64,
    /// Directories stored.
    pub tree_blobs: u64,
    /// Bytes of the blobs stored.
    pub data_added: u64,
    /// Bytes that they take in the repository.
    pub data_added_packed: u64,
    /// Files in the snapshot.
    pub total_files: u64,
    /// Their bytes.
    pub total_bytes: u64,
    /// What could not be read.
    pub faults: FaultList,
    /// Files that changed between opening and the end of reading; what was read is stored.
    pub changed_while_reading: u64,
    /// Entries that were gone between listing and reading.
    pub vanished: u64,
    /// Entries that the spec's rules left out; a directory counts as one.
    pub excluded: u64,
    /// What other file systems are mounted on, and what `mkfs` made: left out by what it is.
    pub passed_over: u64,
    /// Unix sockets: there is nothing in them to back up.
    pub sockets_skipped: u64,
    /// How long it took.
    pub duration: Duration,
}

/// Backs up `spec.roots` into a new snapshot. The caller holds a lock on the repository and keeps it after.
///
/// # Errors
/// Most errors mean that no snapshot was written; `SnapshotInvalid` and those that say so mean that one is there that
/// must not be relied on. Files that cannot be read are in the report, not errors, unless
/// `spec.unreadable` says otherwise.
pub fn backup<'a>(
    repository: &'a Repository,
    lock: &'a LockGuard,
    spec: &'a BackupSpec,
    ctx: &'a Ctx,
) -> BoxFuture<'a, Result<BackupReport>> {
    Box::pin(async move {
        let (paths, source) = from_files(spec)?;
        Box::pin(perform(repository, Some(lock), spec, paths, source, ctx)).await
    })
}

/// Does all that [`backup`] does but write: neither to the repository nor a lock to it. The report says what would have
/// been stored.
///
/// # Errors
/// As [`backup`].
pub fn rehearse<'a>(
    repository: &'a Repository,
    spec: &'a BackupSpec,
    ctx: &'a Ctx,
) -> BoxFuture<'a, Result<BackupReport>> {
    Box::pin(async move {
        let (paths, source) = from_files(spec)?;
        Box::pin(perform(&repository.rehearsing(), None, spec, paths, source, ctx)).await
    })
}

fn from_files(spec: &BackupSpec) -> Result<(Vec<String>, Source)> {
    let relative = spec.relative_roots.iter().map(RelativeRoot::absolute);
    let all: Vec<PathBuf> = spec.roots.iter().cloned().chain(relative).collect();
    let paths = all.iter().map(|root| path_text(root)).collect::<Result<Vec<_>>>()?;
    check_roots(&all)?;
    let (roots, named) = Roots::new(&spec.roots, &spec.relative_roots)?;
    Ok((paths, Source::Roots(roots, named)))
}

/// What a backup takes its content from.
enum Source {
    Roots(Roots, Named),
    Stream(StreamSource),
}

async fn perform(
    repository: &Repository,
    lock: Option<&LockGuard>,
    spec: &BackupSpec,
    paths: Vec<String>,
    source: Source,
    ctx: &Ctx,
) -> Result<BackupReport> {
    let state = Arc::new(State::new(ctx, spec.unreadable.limit()));
    match Box::pin(save(repository, lock, spec, paths, source, &state, ctx)).await {
        // A rehearsal has written nothing.
        Err(e) if lock.is_none() => Err(e),
        Err(e) => Err(withdraw(repository, &state.index_files(), e).await),
        saved => saved,
    }
}

async fn save(
    repository: &Repository,
    lock: Option<&LockGuard>,
    spec: &BackupSpec,
    paths: Vec<String>,
    source: Source,
    state: &Arc<State>,
    ctx: &Ctx,
) -> Result<BackupReport> {
    let held = || lock.map_or(Ok(()), LockGuard::check);
    let checkpoints = if lock.is_some() { spec.checkpoints } else { Checkpoints::NEVER };
    let (begun, index, plan) = prepare(repository, spec, &paths, source, checkpoints, state, ctx).await?;
    held()?;
    state.phase("read");
    let gate = std::future::ready(Ok(())).boxed();
    let tree = match pipeline::run(repository, index, plan, state, gate).await {
        Ok(tree) => tree,
        Err(e) => {
            return Err(match lock {
                Some(lock) => lock.blame(e).await,
                None => e,
            });
        }
    };
    conclude(repository, lock, spec, paths, begun, tree, state, ctx).await
}

/// What a run knows before it reads a file.
struct Begun {
    clock: Instant,
    start: Timestamp,
    parent: Option<(Id, Snapshot)>,
    /// The index files that it goes by.
    known: Vec<Id>,
}

async fn prepare(
    repository: &Repository,
    spec: &BackupSpec,
    paths: &[String],
    source: Source,
    checkpoints: Checkpoints,
    state: &Arc<State>,
    ctx: &Ctx,
) -> Result<(Begun, Arc<DedupIndex>, Plan)> {
    let clock = Instant::now();
    let start = Timestamp::now();
    state.phase("prepare");
    // Snapshots before index: then the index knows all that the parent refers to.
    let listed = match spec.parent {
        Parent::Auto => ctx.run(repository.store().list(FileKind::Snapshot)).await?,
        Parent::None | Parent::Id(_) => Vec::new(),
    };
    let (parent, index) = tokio::try_join!(
        ctx.run(find_parent(repository, spec, paths, listed, ctx)),
        repository.load_dedup_index(ctx),
    )?;
    let known = index.files().to_vec();

    let (input, named) = match source {
        Source::Roots(roots, named) => (Input::Walk(roots), named),
        Source::Stream(source) => {
            let tree = parent.as_ref().map(|(_, snapshot)| snapshot.tree);
            let feed = stream::feed(repository, index.trees(), spec, source, tree);
            (Input::Stream(Box::new(ctx.run(feed).await?)), Named::default())
        }
    };
    let plan = Plan {
        input,
        parent: parent.as_ref().map(|(_, snapshot)| snapshot.tree),
        racy_from: parent.as_ref().map(|(_, snapshot)| racy_from(snapshot)),
        resume: spec.resume.map(|done| (done.tree, escape(done.started))),
        own_clock: of_own_clock(paths),
        checkpoints,
        excludes: spec.excludes.clone(),
        iexcludes: spec.iexcludes.clone(),
        patterns_from: spec.patterns_from.clone(),
        markers: spec.exclude_if_present.clone(),
        largest: spec.exclude_larger_than,
        named,
        trust: spec.trust,
        exclude_caches: spec.exclude_caches,
        one_file_system: spec.one_file_system,
        borders_are_faults: spec.borders_are_faults,
        leave_lost_found: spec.leave_lost_found,
        compression: spec.compression,
        verify: spec.verify,
        readers: spec.readers,
        uploads: spec.uploads,
        guess: parent
            .as_ref()
            .and_then(|(_, snapshot)| snapshot.summary.as_ref())
            .map(|summary| (summary.total_files_processed, summary.total_bytes_processed)),
    };
    Ok((Begun { clock, start, parent, known }, index, plan))
}

/// Writes the snapshot of what was read, and looks whether it will stay.
#[expect(clippy::too_many_arguments, reason = "what a run has come to, beside what it was told")]
async fn conclude(
    repository: &Repository,
    lock: Option<&LockGuard>,
    spec: &BackupSpec,
    paths: Vec<String>,
    begun: Begun,
    tree: Id,
    state: &Arc<State>,
    ctx: &Ctx,
) -> Result<BackupReport> {
    let Begun { clock, start, parent, mut known } = begun;
    if tree == TreeWriter::new().finish_with_id().0 {
        return Err(Error::new(
            ErrorKind::Source,
            "there is nothing to back up: all of it was left out, could not be read, or is gone",
        ));
    }
    let is_unchanged = parent.as_ref().is_some_and(|(_, snapshot)| snapshot.tree == tree);
    let mut report = report(state, tree, parent.map(|(id, _)| id));
    report.duration = clock.elapsed();
    let Some(lock) = lock else { return Ok(report) };
    if spec.skip_if_unchanged && is_unchanged && is_there(repository, report.parent).await? {
        lock.check()?;
        return Ok(report);
    }
    let snapshot = snapshot(spec, paths, start, &report);
    let json = serde_json::to_vec(&snapshot).map_err(|e| {
        Error::with_source(ErrorKind::Internal, "the snapshot could not be written as JSON", e)
    })?;
    let snapshot = Proved::seal(repository, FileKind::Snapshot, &json)?;
    // First, so that a snapshot with gaps is never without them.
    let kept = ctx.run(unreadable::save(repository, &snapshot.name.id, state.unreadable())).await;
    // A lost lock cancels the run; that is the reason to name then.
    lock.check()?;
    kept?;
    // The last look before the commit: whoever took our lock away may have deleted what the snapshot needs.
    lock.confirm().await?;
    ctx.check()?;
    // Not cut short by a cancellation: half a request might still have written it.
    let written = snapshot.write(repository).await?;
    report.snapshot = written.name.id;
    report.committed = true;
    // Three looks that need nothing from each other, and each is to come after the write.
    let (whole, committed, looked) = tokio::join!(
        written.check(repository),
        check_committed(repository, lock, report.snapshot),
        fence::look(repository, ctx),
    );
    // A lost lock first: to whoever took it away, what was written was remains.
    committed?;
    whole?;
    known.extend(state.index_files());
    fence::hold(repository, lock, report.snapshot, report.tree, &known, looked, ctx).await?;
    report.duration = clock.elapsed();
    Ok(report)
}

/// A lock that went away while the snapshot was written: packs may be missing, so the snapshot must not stand.
///
/// # Errors
/// As of [`fence::take_back`].
pub(crate) async fn check_committed(repository: &Repository, lock: &LockGuard, id: Id) -> Result<()> {
    match lock.confirm().await {
        Err(lost) if lost.kind() == ErrorKind::LockLost => Err(fence::take_back(repository, id, lost).await),
        // That the store cannot be asked now says nothing against a snapshot that it has accepted.
        _ => Ok(()),
    }
}

/// Whether a snapshot is still there: somebody may have forgotten it meanwhile.
async fn is_there(repository: &Repository, snapshot: Option<Id>) -> Result<bool> {
    let Some(id) = snapshot else { return Ok(false) };
    match repository.store().size(FileName { kind: FileKind::Snapshot, id }).await {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::Missing => Ok(false),
        Err(e) => Err(e),
    }
}

fn check_roots(roots: &[PathBuf]) -> Result<()> {
    for root in roots {
        std::fs::symlink_metadata(root).map_err(|e| {
            Error::with_source(ErrorKind::Source, format!("{} cannot be backed up", root.display()), e)
        })?;
    }
    Ok(())
}

async fn find_parent(
    repository: &Repository,
    spec: &BackupSpec,
    paths: &[String],
    listed: Vec<Entry>,
    ctx: &Ctx,
) -> Result<Option<(Id, Snapshot)>> {
    match spec.parent {
        Parent::None => Ok(None),
        Parent::Id(id) => Ok(Some((id, repository.load_snapshot(&id).await?))),
        Parent::Auto => {
            let is_aside = |tags: &[String]| {
                let key = spec.aside_tag.as_deref();
                key.is_some_and(|key| {
                    tags.iter().filter_map(|tag| tag.split_once('=')).any(|(theirs, _)| theirs == key)
                })
            };
            let own_is_aside = is_aside(&spec.tags);
            let same = |snapshot: &Snapshot| {
                let mut theirs = snapshot.paths.clone();
                let mut ours = paths.to_vec();
                theirs.sort();
                ours.sort();
                snapshot.hostname == spec.host
                    && spec.parent_until.is_none_or(|until| snapshot.time.timestamp <= until)
                    && theirs == ours
                    && (own_is_aside || !is_aside(&snapshot.tags))
            };
            let list = repository.listed_snapshots(listed).await?;
            Ok(list.readable_only(ctx).into_iter().rfind(|(_, snapshot)| same(snapshot)))
        }
    }
}

/// The devices of those roots whose times are of this machine's clock.
fn of_own_clock(roots: &[String]) -> Vec<u64> {
    let roots = roots.iter().map(Path::new).filter(|root| is_of_one_machine(root));
    roots.filter_map(|root| fs::symlink_metadata(root).ok()).map(|meta| meta.dev()).collect()
}

/// From when on a change may have escaped the run that made `parent`.
fn racy_from(parent: &Snapshot) -> Escape {
    escape(parent.summary.as_ref().map_or(parent.time, |summary| summary.backup_start).timestamp)
}

/// From when on a change may have escaped a run that began then.
fn escape(began: Timestamp) -> Escape {
    Escape { by_own_clock: before(began, CLOCK_TICK_SECONDS), by_another: before(began, OTHER_CLOCK_SECONDS) }
}

/// The last moment before `began` that a change made after it can carry.
fn before(began: Timestamp, seconds: i64) -> Time {
    let nanos = u32::try_from(began.subsec_nanosecond()).unwrap_or(0);
    Time::new(began.as_second().saturating_sub(seconds), nanos)
}

fn report(state: &State, tree: Id, parent: Option<Id>) -> BackupReport {
    let counters = &state.counters;
    let (files, dirs) = (&counters.files, &counters.dirs);
    BackupReport {
        snapshot: Id::default(),
        committed: false,
        tree,
        parent,
        files_new: files.new.get(),
        files_changed: files.changed.get(),
        files_unmodified: files.unmodified.get(),
        files_resumed: counters.resumed.get(),
        dirs_new: dirs.new.get(),
        dirs_changed: dirs.changed.get(),
        dirs_unmodified: dirs.unmodified.get(),
        data_blobs: counters.data_blobs.get(),
        tree_blobs: counters.tree_blobs.get(),
        data_added: counters.plain_added.get(),
        data_added_packed: counters.packed_added.get(),
        total_files: files.total(),
        total_bytes: counters.total_bytes.get(),
        faults: state.take_faults(),
        changed_while_reading: counters.changed_while_reading.get(),
        vanished: counters.vanished.get(),
        excluded: counters.excluded.get(),
        passed_over: counters.passed_over.get(),
        sockets_skipped: counters.sockets_skipped.get(),
        duration: Duration::ZERO,
    }
}

/// The patterns as they mean the same for whoever reads them beside the snapshot's paths, which are absolute.
fn absolute_patterns(spec: &BackupSpec) -> Vec<String> {
    let Some(from) = &spec.patterns_from else { return spec.excludes.clone() };
    let absolute = |pattern: &String| {
        let (back, text) = pattern.strip_prefix('!').map_or(("", pattern.as_str()), |rest| ("!", rest));
        if text.starts_with('/') { format!("{back}{}{text}", from.display()) } else { pattern.clone() }
    };
    spec.excludes.iter().map(absolute).collect()
}

fn snapshot(spec: &BackupSpec, paths: Vec<String>, start: Timestamp, report: &BackupReport) -> Snapshot {
    let mut tags = spec.tags.clone();
    if let Some(key) = &spec.fault_tag
        && !report.faults.is_empty()
    {
        tags.push(format!("{key}={}", report.faults.total));
    }
    Snapshot {
        time: OffsetTime::utc(spec.time),
        parent: report.parent,
        tree: report.tree,
        paths,
        hostname: spec.host.clone(),
        username: spec.username.clone(),
        uid: spec.uid,
        gid: spec.gid,
        excludes: absolute_patterns(spec),
        tags,
        original: None,
        program_version: spec.program_version.clone(),
        summary: Some(SnapshotSummary {
            backup_start: OffsetTime::utc(start),
            backup_end: OffsetTime::utc(Timestamp::now()),
            files_new: report.files_new,
            files_changed: report.files_changed,
            files_unmodified: report.files_unmodified,
            dirs_new: report.dirs_new,
            dirs_changed: report.dirs_changed,
            dirs_unmodified: report.dirs_unmodified,
            data_blobs: report.data_blobs,
            tree_blobs: report.tree_blobs,
            data_added: report.data_added,
            data_added_packed: report.data_added_packed,
            total_files_processed: report.total_files,
            total_bytes_processed: report.total_bytes,
        }),
        other: serde_json::Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_another_clock_writes_the_times_more_may_have_escaped() {
        let of =
            |roots: &[&str]| of_own_clock(&roots.iter().map(|root| (*root).to_owned()).collect::<Vec<_>>());
        let device = |root: &str| fs::metadata(root).unwrap().dev();
        // Made up by a program; and nothing at all.
        let found = of(&["/dev/shm", "/proc", "/proc/nothing of this name"]);
        assert_eq!(found, [device("/dev/shm")]);
        let began = escape(Timestamp::new(1000, 7).unwrap());
        assert_eq!((began.by_own_clock, began.by_another), (Time::new(998, 7), Time::new(700, 7)));
    }
}
