//! One restore while it runs: its thread, what all its threads share, and its three walks.
//!
//! Not here: the single steps (`plan`, `window`, `finish`).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tokio::runtime::Handle;

use super::select::Selection;
use super::target::{Dir, Target};
use super::walk::{Start, Step, TreeSource, Walk, join, shown};
use super::window::{Tools, Window};
use super::{RestorePlan, RestoreReport, RestoreSpec, finish, plan};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Ctx, Event, Fault, FaultList, Progress};
use crate::format::node::{Node, NodeType};
use crate::id::Id;
use crate::index::Index;
use crate::read;
use crate::repository::Repository;

/// How often counters are told.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Runs a restore on a thread of its own and waits for it. Dropping the future stops the work.
pub(crate) async fn start(
    repo: &Repository,
    index: Arc<Index>,
    root: Id,
    selection: Selection,
    spec: &RestoreSpec,
    ctx: &Ctx,
) -> Result<RestoreReport> {
    let tools = Tools { repo: repo.clone(), index, runtime: Handle::current() };
    let spec = spec.clone();
    read::own_thread("restore", ctx, move |ctx| all(&tools, &root, &selection, &spec, ctx)).await
}

fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "the restore was cancelled; run it again to go on")
}

fn all(
    tools: &Tools,
    root: &Id,
    selection: &Selection,
    spec: &RestoreSpec,
    ctx: &Ctx,
) -> Result<RestoreReport> {
    let began = Instant::now();
    ctx.events.event(Event::Phase("plan"));
    let trees = TreeSource::new(tools.repo.clone(), Arc::clone(&tools.index), tools.runtime.clone())?;
    let start = Start::find(&trees, root, spec.subpath.as_deref())?;
    let mut seen = FaultList::default();
    let plan = plan::make(&trees, selection, &start, spec, &mut |f| seen.push(f), ctx)?;
    if spec.dry_run {
        return Ok(RestoreReport {
            plan,
            faults: seen,
            duration: began.elapsed(),
            ..RestoreReport::default()
        });
    }
    plan::check_space(&plan, spec)?;
    let target = Target::create(&spec.target)?;
    let run = Run::new(spec, selection, &target, ctx, &plan);
    ctx.events.event(Event::Phase("restore"));
    let links = write_files(&run, tools, &trees, selection, &start)?;
    ctx.events.event(Event::Phase("finish"));
    finish::all(&run, &trees, selection, &start, &links)?;
    target.write_out()?;
    let mut report = run.into_report(plan);
    report.duration = began.elapsed();
    Ok(report)
}

/// Device and inode in the source of a file with several names.
pub(crate) type LinkKey = (u64, u64);

/// Files with several names.
pub(crate) type Links = HashMap<LinkKey, FirstName>;

/// The name under which such a file is restored; the others are linked to it.
pub(crate) struct FirstName {
    pub(crate) path: Vec<u8>,
    /// Digest of its list of chunks. A file that changed while it was backed up may be there twice, with the same
    /// inode and different content: then each name gets its own.
    content: Id,
    /// Its content could not be restored.
    pub(crate) failed: bool,
}

impl FirstName {
    fn new(path: Vec<u8>, node: &Node) -> Self {
        Self { path, content: content_digest(node), failed: false }
    }

    /// Whether this node is another name of the same content.
    pub(crate) fn is_same(&self, node: &Node) -> bool {
        self.content == content_digest(node)
    }
}

fn content_digest(node: &Node) -> Id {
    let ids: Vec<u8> = node.content.iter().flatten().flat_map(|id| *id.as_bytes()).collect();
    Id::hash(&ids)
}

/// Writes all files: one thread walks ahead, makes directories and fills the next window while others write this one, and
/// others again read the last one back when that is asked for.
fn write_files(
    run: &Run<'_>,
    tools: &Tools,
    trees: &TreeSource,
    selection: &Selection,
    start: &Start,
) -> Result<Links> {
    // Nothing waits in between: there are never more than three windows.
    let (send, windows) = crossbeam_channel::bounded::<Window>(0);
    let (send_written, written) = crossbeam_channel::bounded::<Window>(0);
    let write = move || {
        for window in windows {
            window.write(run, tools)?;
            send_written.send(window).map_err(|_| cancelled())?;
        }
        if run.spec.verify {
            run.ctx.events.event(Event::Phase("verify"));
        }
        Ok(())
    };
    let read_back = move || {
        let mut failed = Vec::new();
        for window in written {
            if run.spec.verify {
                window.read_back(run, tools)?;
            }
            failed.extend(window.failed_links());
        }
        Ok(failed)
    };
    let (walk, write, check) = std::thread::scope(|scope| {
        let writer = on_thread(scope, run, "restore-windows", write);
        let reader = on_thread(scope, run, "restore-verify", read_back);
        let walk = walk_files(run, tools, trees, selection, start, &mut |window| send.send(window).is_ok());
        drop(send);
        if walk.is_err() {
            run.ctx.cancel.cancel();
        }
        (walk, joined(writer), joined(reader))
    });
    // Each stops the others; the reason is with the one that was not merely stopped.
    let (mut links, failed) = match (walk, write, check) {
        (Ok(links), Ok(()), Ok(failed)) => (links, failed),
        (walk, write, check) => {
            let errors = [walk.err(), write.err(), check.err()].into_iter().flatten();
            let reason = errors.min_by_key(|error| error.kind() == ErrorKind::Cancelled);
            return Err(reason.unwrap_or_else(cancelled));
        }
    };
    for key in failed {
        if let Some(first) = links.get_mut(&key) {
            first.failed = true;
        }
    }
    Ok(links)
}

type Joined<'scope, T> = Result<std::thread::ScopedJoinHandle<'scope, Result<T>>>;

/// Starts a thread of the restore; when that fails, or when its work does, all of it stops.
fn on_thread<'scope, T: Send + 'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    run: &'scope Run<'_>,
    name: &str,
    work: impl FnOnce() -> Result<T> + Send + 'scope,
) -> Joined<'scope, T> {
    let stop = |_: &Error| run.ctx.cancel.cancel();
    let work = move || work().inspect_err(stop);
    std::thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, work).map_err(|e| {
        run.ctx.cancel.cancel();
        Error::with_source(ErrorKind::Internal, "cannot start a thread", e)
    })
}

fn joined<T>(thread: Joined<'_, T>) -> Result<T> {
    let bug = |_| Err(Error::new(ErrorKind::Internal, "a thread of the restore met a bug"));
    thread?.join().unwrap_or_else(bug)
}

/// The walk of [`write_files`]. `give` takes a full window and is false when nobody writes any more.
fn walk_files(
    run: &Run<'_>,
    tools: &Tools,
    trees: &TreeSource,
    selection: &Selection,
    start: &Start,
    give: &mut dyn FnMut(Window) -> bool,
) -> Result<Links> {
    let mut links = Links::new();
    let mut walk = Walk::new(trees, selection, start);
    let mut window = Window::default();
    let mut dirs = finish::DirMaker::new(selection);
    while let Some(step) = walk.next(&mut |f| run.dir_fault(f))? {
        run.go_on()?;
        let Step::Enter(visit) = step else { continue };
        let wanted = visit.selected || visit.verdicts.iter().any(|v| v.selected);
        if wanted && let Err((action, e)) = dirs.ensure(run, &visit.path) {
            run.told(&visit.path);
            run.write_failed(&visit.path, action, &e);
            walk.skip_children();
            continue;
        }
        if !visit.selected().any(|n| n.kind == NodeType::File) {
            continue;
        }
        let dir = match run.target.dir(&visit.path) {
            Ok(dir) => dir,
            Err(e) => {
                run.told(&visit.path);
                run.fault(&visit.path, "open directory", e.to_string());
                continue;
            }
        };
        for node in visit.selected().filter(|n| n.kind == NodeType::File) {
            if run.keeps(&dir, &visit.path, node) {
                count(&run.tally.unchanged, 1);
                count(&run.tally.files_done, 1);
                continue;
            }
            let mut link = (node.links > 1 && node.inode != 0).then_some((node.device_id, node.inode));
            if let Some(key) = link {
                match links.entry(key) {
                    // A further name of a file that another name brings.
                    Entry::Occupied(first) if first.get().is_same(node) => continue,
                    Entry::Occupied(_) => link = None,
                    Entry::Vacant(free) => {
                        free.insert(FirstName::new(join(&visit.path, &node.name), node));
                    }
                }
            }
            if !window.add(run, tools, &dir, &visit.path, node, link) {
                if let Some(first) = link.and_then(|key| links.get_mut(&key)) {
                    first.failed = true;
                }
                continue;
            }
            if window.is_full() && !give(std::mem::take(&mut window)) {
                return Err(cancelled());
            }
        }
    }
    if !window.is_empty() && !give(window) {
        return Err(cancelled());
    }
    run.made_dirs(dirs);
    Ok(links)
}

/// What all threads of one restore share.
pub(crate) struct Run<'a> {
    pub(crate) spec: &'a RestoreSpec,
    pub(crate) selection: &'a Selection,
    pub(crate) target: &'a Target,
    pub(crate) ctx: &'a Ctx,
    pub(crate) tally: Tally,
    faults: Mutex<FaultList>,
    metadata_faults: Mutex<FaultList>,
    owners_kept: Mutex<FaultList>,
    fatal: Mutex<Option<Error>>,
    dirs: Mutex<finish::DirMaker>,
    /// Directories of which a walk has told that they, or what is in them, could not be restored.
    told_of: Mutex<HashSet<PathBuf>>,
    totals: Progress,
    began: Instant,
    told: AtomicU64,
}

/// Counters of one restore.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) files_done: AtomicU64,
    pub(crate) restored: AtomicU64,
    pub(crate) unchanged: AtomicU64,
    pub(crate) deleted: AtomicU64,
    pub(crate) sockets: AtomicU64,
    pub(crate) written: AtomicU64,
    pub(crate) verified: AtomicU64,
    pub(crate) delete_skipped: AtomicU64,
}

/// Adds to a counter that is only ever read at the end or for display.
pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Run<'a> {
    pub(super) fn new(
        spec: &'a RestoreSpec,
        selection: &'a Selection,
        target: &'a Target,
        ctx: &'a Ctx,
        plan: &RestorePlan,
    ) -> Self {
        let all = [plan.create, plan.change, plan.replace, plan.unchanged, plan.kept];
        let files = all.iter().map(|c| c.files).sum();
        let totals = Progress { files_total: files, bytes_total: plan.bytes_to_write, ..Progress::default() };
        Self {
            spec,
            selection,
            target,
            ctx,
            tally: Tally::default(),
            faults: Mutex::default(),
            metadata_faults: Mutex::default(),
            owners_kept: Mutex::default(),
            fatal: Mutex::default(),
            dirs: Mutex::default(),
            told_of: Mutex::default(),
            totals,
            began: Instant::now(),
            told: AtomicU64::new(0),
        }
    }

    /// An error when the restore must stop: the first fatal one, or the caller's wish.
    pub(crate) fn go_on(&self) -> Result<()> {
        if !self.ctx.cancel.is_cancelled() {
            return Ok(());
        }
        Err(lock(&self.fatal).take().unwrap_or_else(cancelled))
    }

    /// Whether all threads should stop.
    pub(crate) fn stopped(&self) -> bool {
        self.ctx.cancel.is_cancelled()
    }

    /// Stops everything because of `error`. The first one counts.
    pub(crate) fn stop(&self, error: Error) {
        if error.kind() != ErrorKind::Cancelled {
            lock(&self.fatal).get_or_insert(error);
        }
        self.ctx.cancel.cancel();
    }

    /// Whether what lies where this node belongs is left as it is.
    pub(crate) fn keeps(&self, dir: &Dir, parent: &[u8], node: &Node) -> bool {
        if !self.spec.overwrite.may_keep() {
            return false;
        }
        match dir.stat(&node.name) {
            Ok(there) => there.is_some_and(|there| plan::keeps(self.spec.overwrite, node, &there)),
            Err(e) => {
                self.fault(&join(parent, &node.name), "stat", e.to_string());
                true
            }
        }
    }

    /// Records that something could not be restored.
    pub(crate) fn fault(&self, path: &[u8], action: &'static str, error: String) {
        self.fault_event(Fault { path: shown(path), action, error });
    }

    pub(crate) fn fault_event(&self, fault: Fault) {
        self.ctx.events.event(Event::Fault(fault.clone()));
        lock(&self.faults).push(fault);
    }

    /// Records that a directory could not be read or reached, unless that was told of it, or of one above it, before: each
    /// walk of a restore comes by.
    pub(crate) fn dir_fault(&self, fault: Fault) {
        let mut told = lock(&self.told_of);
        if fault.path.ancestors().any(|path| told.contains(path)) {
            return;
        }
        told.insert(fault.path.clone());
        drop(told);
        self.fault_event(fault);
    }

    /// Notes that what there is to say of a directory is said.
    fn told(&self, path: &[u8]) {
        lock(&self.told_of).insert(shown(path));
    }

    /// Records that an attribute could not be set.
    pub(crate) fn metadata_fault(&self, path: &[u8], action: &'static str, error: String) {
        let fault = Fault { path: shown(path), action, error };
        self.ctx.events.event(Event::Fault(fault.clone()));
        lock(&self.metadata_faults).push(fault);
    }

    /// Records that something was left to whoever restores it. No fault: nobody tried to give it away.
    pub(crate) fn owner_kept(&self, path: &[u8], what: String) {
        lock(&self.owners_kept).push(Fault { path: shown(path), action: "owner", error: what });
    }

    /// Records a failed write: a full disk or a read-only file system stops the restore, since every further
    /// file would fail alike; anything else concerns this file only.
    pub(crate) fn write_failed(&self, path: &[u8], action: &'static str, error: &std::io::Error) {
        match Errno::from_io_error(error) {
            Some(Errno::NOSPC | Errno::DQUOT) => self.stop(self.full(path)),
            Some(Errno::ROFS) => self.stop(Error::new(
                ErrorKind::Target,
                format!("{} is mounted read-only", self.target.path().display()),
            )),
            _ => self.fault(path, action, error.to_string()),
        }
    }

    fn full(&self, path: &[u8]) -> Error {
        let free =
            rustix::fs::fstatvfs(self.target.root()).map_or(0, |s| s.f_bavail.saturating_mul(s.f_frsize));
        Error::new(
            ErrorKind::TargetFull,
            format!(
                "the target {} is full ({free} bytes or its quota left) while writing {}; make room and run the \
                 restore again, it goes on where it stopped",
                self.target.path().display(),
                shown(path).display()
            ),
        )
    }

    pub(crate) fn has_faults(&self) -> bool {
        !lock(&self.faults).is_empty()
    }

    /// Directories that were made on the way to what is selected.
    pub(crate) fn made_dirs(&self, dirs: finish::DirMaker) {
        *lock(&self.dirs) = dirs;
    }

    pub(crate) fn was_made(&self, path: &[u8]) -> bool {
        lock(&self.dirs).made(path)
    }

    /// Tells the counters, unless that was done a moment ago.
    pub(crate) fn tell(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let last = self.told.load(Ordering::Relaxed);
        let step = u64::try_from(TELL_EVERY.as_millis()).unwrap_or(100);
        if now.saturating_sub(last) < step
            || self.told.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return;
        }
        self.ctx.events.event(Event::Progress(self.progress()));
    }

    fn progress(&self) -> Progress {
        Progress {
            files_done: self.tally.files_done.load(Ordering::Relaxed),
            bytes_done: self.tally.written.load(Ordering::Relaxed),
            ..self.totals
        }
    }

    fn into_report(self, plan: RestorePlan) -> RestoreReport {
        self.ctx.events.event(Event::Progress(self.progress()));
        let take = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let faults = self.faults.into_inner().unwrap_or_else(PoisonError::into_inner);
        RestoreReport {
            plan,
            files_restored: take(&self.tally.restored),
            files_unchanged: take(&self.tally.unchanged),
            files_deleted: take(&self.tally.deleted),
            delete_skipped: take(&self.tally.delete_skipped) > 0,
            sockets_skipped: take(&self.tally.sockets),
            bytes_written: take(&self.tally.written),
            bytes_verified: take(&self.tally.verified),
            verified: self.spec.verify && faults.is_empty(),
            metadata_faults: self.metadata_faults.into_inner().unwrap_or_else(PoisonError::into_inner),
            owners_kept: self.owners_kept.into_inner().unwrap_or_else(PoisonError::into_inner),
            faults,
            duration: self.began.elapsed(),
        }
    }
}

/// The nearest existing directory above (or at) `path`.
pub(crate) fn existing(path: &Path) -> &Path {
    path.ancestors().find(|p| p.exists() && !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
