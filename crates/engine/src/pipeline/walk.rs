//! The walk: lists directories, compares each entry with the parent snapshot, and queues what must be read.
//!
//! Several threads take directories from one stack, so that a slow file system answers several questions at once;
//! the order does not matter, since every entry has its place in its directory. Not here: reading content.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crossbeam_channel::Sender;
use rustix::io::Errno;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use super::Shared;
use super::file::{Follower, Met, Run, finish};
use super::read::{FileTask, SMALL};
use super::roots::{Root, Roots};
use super::rules::{Escape, Rules};
use super::source::{self, Carrier, Stat};
use super::state::{Relation, gone, join, locked};
use super::tree::{Aside, Closed, Dir, Slot};
use super::worker::Job;
use crate::backup::Trust;
use crate::error::{Error, ErrorKind, Result};
use crate::format::node::{Node, NodeType};
use crate::format::pack::BlobKind;
use crate::format::time::Time;
use crate::format::tree::{MAX_DEPTH, MAX_PATH, Tree};
use crate::id::Id;
use crate::read::TreeReader;

/// Trees of the parent that are loaded ahead, at most. Each waits in memory until its directory's turn.
const PREFETCH: usize = 32;
/// Files that go to a reader together, at most. Each keeps its directory open until it is read.
const BATCH_FILES: usize = 32;
/// Bytes of small files that go to a reader together.
const BATCH_BYTES: u64 = 1 << 20;

/// A directory to list.
struct DirTask {
    dir: Arc<Dir>,
    place: Place,
    before: Before,
    /// The device to stay on.
    device: Option<u64>,
    /// One of the paths that the caller named: without it there is nothing to back up.
    is_root: bool,
}

/// How to get at a directory.
enum Place {
    /// A name in an open directory.
    Entry(Arc<OwnedFd>, CString, Stat),
    /// A path above the roots, of which only these children are wanted.
    Above(PathBuf, BTreeMap<Vec<u8>, Roots>),
    /// A path, of which all is wanted, and nothing of what lies above it.
    All(PathBuf),
}

/// What there is to compare a directory with.
#[derive(Default)]
struct Before {
    /// In the parent snapshot.
    parent: Option<Previous>,
    /// In the checkpoint of a killed run.
    resumed: Option<Previous>,
}

/// The same, loaded; or one entry of it.
struct Known<T> {
    parent: T,
    resumed: T,
}

/// An earlier tree of a directory.
struct Previous {
    id: Id,
    loading: Option<(JoinHandle<Result<Arc<Tree>>>, OwnedSemaphorePermit)>,
}

/// Directories that wait to be listed.
#[derive(Default)]
struct Frontier {
    waiting: Vec<DirTask>,
    /// Threads that are listing one, and may add more.
    busy: usize,
}

/// What the walking threads share.
pub(crate) struct Walk {
    shared: Arc<Shared>,
    rules: Rules,
    frontier: Mutex<Frontier>,
    more: Condvar,
    /// Reads what there is to compare with.
    trees: Arc<TreeReader>,
    prefetch: Arc<Semaphore>,
    runtime: Handle,
}

/// One walking thread's own things.
struct Walker<'a> {
    walk: &'a Walk,
    files: Sender<Vec<FileTask>>,
    jobs: Sender<Job>,
    names: Vec<MaybeUninit<u8>>,
    batch: Vec<FileTask>,
    batch_bytes: u64,
}

impl Walk {
    /// A walk over `roots`, compared with the trees of the parent and of a checkpoint.
    pub(crate) fn new(
        shared: Arc<Shared>,
        rules: Rules,
        roots: Roots,
        (parent, resumed): (Option<Id>, Option<Id>),
        runtime: Handle,
    ) -> Result<Self> {
        let previous = |id| Previous { id, loading: None };
        let before = Before { parent: parent.map(previous), resumed: resumed.map(previous) };
        let dir = Dir::new(None, PathBuf::from("/"), None);
        let _ = shared.root_dir.set(Arc::clone(&dir));
        let is_root = matches!(roots, Roots::Here(_));
        let place = match roots {
            Roots::Above(disk, children) => Place::Above(disk, children),
            // The whole file system is wanted.
            Roots::Here(root) => Place::All(root.disk),
        };
        let first = DirTask { dir, place, before, device: None, is_root };
        let trees = TreeReader::for_one_walk(shared.repository.clone(), Arc::clone(shared.index.trees()))?;
        Ok(Self {
            shared,
            rules,
            frontier: Mutex::new(Frontier { waiting: vec![first], busy: 0 }),
            more: Condvar::new(),
            trees: Arc::new(trees),
            prefetch: Arc::new(Semaphore::new(PREFETCH)),
            runtime,
        })
    }

    /// Walks until nothing is left or the run stops. Called by each walking thread.
    pub(crate) fn run(&self, files: Sender<Vec<FileTask>>, jobs: Sender<Job>) {
        let mut walker = Walker {
            walk: self,
            files,
            jobs,
            names: source::list_buffer(),
            batch: Vec::new(),
            batch_bytes: 0,
        };
        while let Some(task) = self.next(&mut walker) {
            let children = walker.list(task);
            let mut frontier = locked(&self.frontier);
            frontier.busy -= 1;
            frontier.waiting.extend(children);
            drop(frontier);
            self.more.notify_all();
        }
        walker.flush();
        self.shared.state.walk_finished();
    }

    fn next(&self, walker: &mut Walker<'_>) -> Option<DirTask> {
        let mut frontier = locked(&self.frontier);
        loop {
            if self.shared.state.stopped() {
                return None;
            }
            if let Some(task) = frontier.waiting.pop() {
                frontier.busy += 1;
                return Some(task);
            }
            if frontier.busy == 0 {
                return None;
            }
            if !walker.batch.is_empty() {
                // Others may be busy for long; what was found must not wait for them.
                drop(frontier);
                walker.flush();
                frontier = locked(&self.frontier);
                continue;
            }
            // Woken by the others; the time only matters when the run is stopped from outside.
            let wait = std::time::Duration::from_millis(100);
            frontier = self.more.wait_timeout(frontier, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn load_both(&self, before: Before) -> Known<Tree> {
        Known {
            parent: self.load(before.parent).unwrap_or_default(),
            resumed: self.load(before.resumed).unwrap_or_default(),
        }
    }

    fn load(&self, previous: Option<Previous>) -> Option<Tree> {
        let previous = previous?;
        let stop = self.shared.state.stop_signal();
        let loading = async {
            match previous.loading {
                Some((handle, _permit)) => handle.await.unwrap_or_else(|e| {
                    let what = "loading a directory of the parent snapshot was broken off";
                    Err(Error::with_source(ErrorKind::Internal, what, e))
                }),
                None => self.trees.load(&previous.id).await,
            }
        };
        // A store that hangs must not keep a run that was stopped.
        let loaded = self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = stop.cancelled() => None,
                loaded = loading => Some(loaded),
            }
        })?;
        match loaded {
            // Nobody else has it.
            Ok(tree) => Some(Arc::unwrap_or_clone(tree)),
            // The parent only saves work: without this tree everything below is read again, and so mended.
            Err(e) if matches!(e.kind(), ErrorKind::Missing | ErrorKind::Corrupt) => {
                tracing::warn!(tree = %previous.id, error = e.chain(), "a directory of the parent snapshot cannot be read");
                None
            }
            Err(e) => {
                self.shared.state.fail(e);
                None
            }
        }
    }

    /// Begins to load what there is to compare a subdirectory with.
    fn prefetch_both(&self, old: &Known<Option<Node>>) -> Before {
        let subtree = |node: &Option<Node>| node.as_ref().and_then(|node| node.subtree);
        let parent = subtree(&old.parent);
        // The same where the killed run found nothing new.
        let resumed = subtree(&old.resumed).filter(|id| Some(*id) != parent);
        Before { parent: parent.map(|id| self.prefetch(id)), resumed: resumed.map(|id| self.prefetch(id)) }
    }

    fn prefetch(&self, id: Id) -> Previous {
        let loading = Arc::clone(&self.prefetch).try_acquire_owned().ok().map(|permit| {
            let trees = Arc::clone(&self.trees);
            (self.runtime.spawn(async move { trees.load(&id).await }), permit)
        });
        Previous { id, loading }
    }
}

impl Walker<'_> {
    fn close(&self, closed: Option<Closed>) {
        if let Some(closed) = closed {
            // A closed queue means that the workers have stopped, and why is known by then.
            let _ = self.jobs.send(Job::Close(closed));
        }
    }

    fn fault(&self, path: PathBuf, action: &'static str, error: Errno) {
        self.walk.shared.state.fault(path, action, &error);
    }

    /// A directory cannot be read: a fault, but the end of the run when it is what was to be backed up.
    fn dir_fault(&self, dir: &Dir, is_root: bool, action: &'static str, error: Errno) {
        self.fault(dir.path.clone(), action, error);
        if is_root {
            let message = format!(
                "{} cannot be read ({action}), so there is nothing to back up; check that it is mounted and that this \
                 user may read it",
                dir.path.display()
            );
            self.walk.shared.state.fail(Error::with_source(ErrorKind::Source, message, error));
        }
    }

    /// What leads to something that is to be backed up cannot be opened: a fault, but the end of the run when it is gone.
    fn way_fault(&self, path: &Path, error: Errno) {
        if matches!(error, Errno::NOENT | Errno::NOTDIR) && self.walk.rules.named.leads_to(path) {
            self.walk.shared.state.fail(gone(path));
        } else {
            self.fault(path.to_owned(), "open", error);
        }
    }

    fn flush(&mut self) {
        self.batch_bytes = 0;
        if !self.batch.is_empty() {
            let _ = self.files.send(std::mem::take(&mut self.batch));
        }
    }

    /// Lists one directory; returns its subdirectories, the first one last.
    fn list(&mut self, task: DirTask) -> Vec<DirTask> {
        let DirTask { dir, place, before, device, is_root } = task;
        let mut children = match place {
            Place::Above(path, wanted) => self.list_above(&dir, &path, wanted, before),
            Place::All(path) => match source::open_path_dir(&path) {
                Ok(fd) => self.list_all(&dir, (&fd, c"."), None, before, device, is_root),
                Err(e) => {
                    self.dir_fault(&dir, is_root, "open", e);
                    Vec::new()
                }
            },
            Place::Entry(above, name, stat) => {
                let own = Some((stat, name.to_bytes()));
                self.list_all(&dir, (above.as_ref(), &name), own, before, device, is_root)
            }
        };
        self.close(dir.listed());
        children.reverse();
        children
    }

    /// A directory that lies above the roots: its own metadata, and of its entries only the way down.
    fn list_above(
        &mut self,
        dir: &Arc<Dir>,
        path: &Path,
        wanted: BTreeMap<Vec<u8>, Roots>,
        before: Before,
    ) -> Vec<DirTask> {
        let fd = match source::open_path_dir(path) {
            Ok(fd) => Arc::new(fd),
            Err(e) => {
                self.way_fault(path, e);
                return Vec::new();
            }
        };
        if let Some(name) = path.file_name() {
            match source::stat_path(path) {
                Ok(stat) => {
                    let mut node = stat.node(name.as_bytes());
                    match source::xattrs(Carrier::Name(fd.as_fd(), c".")) {
                        Ok(found) => node.xattrs = found,
                        Err(e) => self.fault(path.to_owned(), "xattr", e),
                    }
                    dir.set_node(node);
                }
                Err(e) => self.fault(path.to_owned(), "stat", e),
            }
        }
        let mut known = self.walk.load_both(before);
        dir.expect(wanted.len());
        let mut children = Vec::new();
        for (index, (name, roots)) in wanted.into_iter().enumerate() {
            let old = known.take(&name);
            let mut slot = dir.slot(index);
            let (Roots::Here(Root { disk, .. }) | Roots::Above(disk, _)) = &roots;
            let above = disk.parent().unwrap_or(path).to_owned();
            if disk.file_name().map(OsStrExt::as_bytes) != Some(&name) || above != path {
                slot = slot.aside(Aside { above: above.clone(), name });
            }
            match roots {
                Roots::Above(disk, below) => {
                    let before = self.walk.prefetch_both(&old);
                    let dir = Dir::new(Some(slot), disk.clone(), old.parent);
                    let place = Place::Above(disk, below);
                    children.push(DirTask { dir, place, before, device: None, is_root: false });
                }
                Roots::Here(root) => {
                    let own = if above == path { Some(&fd) } else { None };
                    children.extend(self.root(own, &root, slot, old));
                }
            }
        }
        children
    }

    /// One of the paths that are to be backed up. `above` is the open directory that it lies in, where there is one.
    fn root(
        &mut self,
        above: Option<&Arc<OwnedFd>>,
        root: &Root,
        slot: Slot,
        old: Known<Option<Node>>,
    ) -> Option<DirTask> {
        let opened = match (above, root.disk.parent()) {
            (Some(fd), _) => Ok(Arc::clone(fd)),
            (None, above) => source::open_path_dir(above.unwrap_or(&root.disk)).map(Arc::new),
        };
        let name = root.disk.file_name().and_then(|name| CString::new(name.as_bytes()).ok());
        let (fd, name) = match (opened, name) {
            (Ok(fd), Some(name)) => (fd, name),
            (Err(e), _) => {
                self.way_fault(&root.disk, e);
                self.close(slot.fill(None));
                return None;
            }
            (Ok(_), None) => {
                self.fault(root.disk.clone(), "open", Errno::INVAL);
                self.close(slot.fill(None));
                return None;
            }
        };
        if !root.is_named && self.walk.rules.leaves_out(&fd, &root.disk, &name) {
            self.walk.shared.state.counters.excluded.add(1);
            self.close(slot.fill(None));
            return None;
        }
        self.entry(&fd, &name, slot, old, None).map(|task| DirTask { is_root: root.is_named, ..task })
    }

    fn list_all(
        &mut self,
        dir: &Arc<Dir>,
        at: (&OwnedFd, &CStr),
        own: Option<(Stat, &[u8])>,
        before: Before,
        device: Option<u64>,
        is_root: bool,
    ) -> Vec<DirTask> {
        let (above, name) = at;
        let opened = source::open_dir(above.as_fd(), name)
            .map_err(|e| ("open", e))
            .and_then(|fd| source::stat_open(fd.as_fd()).map(|stat| (fd, stat)).map_err(|e| ("stat", e)));
        let (fd, stat) = match opened {
            Ok((fd, stat)) => (Arc::new(fd), stat),
            Err((_, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) if !is_root => {
                self.walk.shared.state.vanished(&dir.path);
                return Vec::new();
            }
            Err((action, e)) => {
                // Its metadata is known: it is kept, empty, rather than lost altogether.
                if let Some((stat, name)) = own {
                    dir.set_node(stat.node(name));
                }
                self.dir_fault(dir, is_root, action, e);
                return Vec::new();
            }
        };
        if let Some((_, name)) = own {
            let mut node = stat.node(name);
            match source::xattrs(Carrier::Open(fd.as_fd())) {
                Ok(found) => node.xattrs = found,
                Err(e) => self.fault(dir.path.clone(), "xattr", e),
            }
            dir.set_node(node);
        }
        let wanted = &self.walk.rules.named;
        let is_other =
            device.is_some_and(|device| device != stat.device) && !wanted.paths.contains(&dir.path);
        // Only on the way to what was named further down.
        let passes = is_other && wanted.nested && wanted.leads_to(&dir.path);
        if is_other && !passes {
            // The directory that another file system is mounted on is kept, what is mounted is not.
            self.walk.shared.state.counters.passed_over.add(1);
            let name = dir.path.file_name().unwrap_or_default().as_bytes();
            if self.walk.rules.borders_are_faults && !VIEWS_OF_THE_PAST.contains(&name) {
                let why = "another file system, or a subvolume, begins here and is not saved; exclude the directory if that \
                           is as it should be";
                self.walk.shared.state.fault(dir.path.clone(), "enter", &why);
            }
            return Vec::new();
        }
        let device = if passes { device } else { self.walk.rules.one_file_system.then_some(stat.device) };
        let mut names = match source::list(fd.as_fd(), &mut self.names) {
            Ok(names) => names,
            Err(e) => {
                self.dir_fault(dir, is_root, "list", e);
                return Vec::new();
            }
        };
        for path in wanted.missing(&dir.path, &names) {
            self.walk.shared.state.vanished(path);
        }
        if passes {
            names.retain(|name| wanted.leads_to(&join(&dir.path, name.to_bytes())));
        }
        let left_out = self.walk.rules.leave_out(&mut names, &dir.path, &fd);
        self.walk.shared.state.counters.excluded.add(left_out);
        if is_root && self.walk.rules.leave_lost_found {
            self.leave_lost_found(&mut names, &fd);
        }
        let mut known = self.walk.load_both(before);
        dir.expect(names.len());
        let mut children = Vec::new();
        for (index, name) in names.iter().enumerate() {
            if self.walk.shared.state.stopped() {
                // Nothing is committed any more; the slots that stay empty close nothing.
                return Vec::new();
            }
            let old = known.take(name.to_bytes());
            children.extend(self.entry(&fd, name, dir.slot(index), old, device));
        }
        children
    }

    /// Takes the file system's own `lost+found` out of the listing of its root.
    fn leave_lost_found(&mut self, names: &mut Vec<CString>, fd: &OwnedFd) {
        let Ok(place) = names.binary_search_by(|name| name.as_c_str().cmp(LOST_FOUND)) else { return };
        let Ok(stat) = source::stat_at(fd.as_fd(), LOST_FOUND) else { return };
        let inside = source::open_dir(fd.as_fd(), LOST_FOUND)
            .and_then(|inside| source::list(inside.as_fd(), &mut self.names))
            .map(|names| names.len());
        if is_made_by_mkfs(&stat, inside) {
            names.remove(place);
            self.walk.shared.state.counters.passed_over.add(1);
        }
    }

    /// One entry: a directory becomes a task, a file is compared or queued, all else becomes a node at once.
    fn entry(
        &mut self,
        fd: &Arc<OwnedFd>,
        name: &CStr,
        slot: Slot,
        old: Known<Option<Node>>,
        device: Option<u64>,
    ) -> Option<DirTask> {
        let path = slot.path(name.to_bytes());
        let stat = match source::stat_at(fd.as_fd(), name) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => {
                self.walk.shared.state.vanished(&path);
                self.close(slot.fill(None));
                return None;
            }
            Err(e) => {
                self.fault(path, "stat", e);
                self.close(slot.fill(None));
                return None;
            }
        };
        if self.walk.rules.is_too_large(&stat, &path) {
            self.walk.shared.state.counters.excluded.add(1);
            self.close(slot.fill(None));
            return None;
        }
        match stat.kind {
            NodeType::Dir if path.as_os_str().len() > MAX_PATH || path.components().count() >= MAX_DEPTH => {
                let error = format!(
                    "directories are nested {MAX_DEPTH} deep here, or {MAX_PATH} bytes of names; what is below could \
                     not be restored"
                );
                self.walk.shared.state.fault(path, "open", &error);
                self.close(slot.fill(None));
            }
            NodeType::Dir => {
                let is_dir = |node: &Node| node.kind == NodeType::Dir;
                let old = Known { parent: old.parent.filter(is_dir), resumed: old.resumed.filter(is_dir) };
                let before = self.walk.prefetch_both(&old);
                let dir = Dir::new(Some(slot), path, old.parent);
                let place = Place::Entry(Arc::clone(fd), name.to_owned(), stat);
                return Some(DirTask { dir, place, before, device, is_root: false });
            }
            NodeType::File => self.file(fd, name, slot, old, &stat),
            NodeType::Socket => {
                self.walk.shared.state.counters.sockets_skipped.add(1);
                self.close(slot.fill(None));
            }
            NodeType::Irregular => {
                self.walk.shared.state.fault(path, "stat", &"the file is of a kind that no backup can hold");
                self.close(slot.fill(None));
            }
            NodeType::Symlink | NodeType::Dev | NodeType::CharDev | NodeType::Fifo => {
                let node = self.special(fd, name, &stat, &path);
                self.close(slot.fill(node));
            }
        }
        None
    }

    fn special(&self, fd: &OwnedFd, name: &CStr, stat: &Stat, path: &Path) -> Option<Node> {
        let mut node = stat.node(name.to_bytes());
        if stat.kind == NodeType::Symlink {
            match source::read_link(fd.as_fd(), name) {
                Ok(target) => node.link_target = target,
                Err(e) => {
                    self.fault(path.to_owned(), "readlink", e);
                    return None;
                }
            }
        }
        match source::xattrs(Carrier::Name(fd.as_fd(), name)) {
            Ok(found) => node.xattrs = found,
            Err(e) => self.fault(path.to_owned(), "xattr", e),
        }
        Some(node)
    }

    fn file(&mut self, fd: &Arc<OwnedFd>, name: &CStr, slot: Slot, old: Known<Option<Node>>, stat: &Stat) {
        let shared = &self.walk.shared;
        let counters = &shared.state.counters;
        counters.files_found.add(1);
        counters.bytes_found.add(stat.size);
        let rules = &self.walk.rules;
        let is_file = |node: &Node| node.kind == NodeType::File;
        let (parent, resumed) = (old.parent.filter(is_file), old.resumed.filter(is_file));
        let relation = if parent.is_some() { Relation::Changed } else { Relation::New };
        let unchanged = match parent.filter(|old| self.is_unchanged(stat, old, rules.racy_from)) {
            Some(old) => Some((old, Relation::Unmodified)),
            None => resumed.filter(|old| self.is_unchanged(stat, old, rules.resume_racy_from)).map(|old| {
                counters.resumed.add(1);
                (old, relation)
            }),
        };
        if let Some((old, relation)) = unchanged {
            let mut node = stat.node(name.to_bytes());
            node.size = old.size;
            node.content = old.content;
            node.xattrs = if rules.trust == Trust::Inode {
                // The inode did not change, so neither did these.
                old.xattrs
            } else {
                source::xattrs(Carrier::Name(fd.as_fd(), name)).unwrap_or_else(|e| {
                    self.fault(slot.path(name.to_bytes()), "xattr", e);
                    // They may be older than this time says, and the next backup is to ask again.
                    node.ctime = Time::default();
                    old.xattrs
                })
            };
            counters.bytes_done.add(stat.size);
            if stat.links > 1 {
                shared.links.take_over(stat.link_key());
            }
            self.with_run(|run| finish(slot, node, relation, run));
            return;
        }
        let (mut link, mut alone) = ((stat.links > 1).then(|| stat.link_key()), false);
        let follower = Follower { slot, node: stat.node(name.to_bytes()), relation };
        let follower = match link {
            None => follower,
            Some(key) => match shared.links.meet(key, follower, stat.size) {
                Met::Read(follower) => follower,
                Met::Alone(follower) => {
                    (link, alone) = (None, true);
                    follower
                }
                Met::Follows => return,
                Met::Known(follower, content) => {
                    counters.bytes_done.add(stat.size);
                    let node = content.give_to(follower.node);
                    self.with_run(|run| finish(follower.slot, node, relation, run));
                    return;
                }
            },
        };
        let dir = Arc::clone(fd);
        let task = FileTask {
            slot: follower.slot,
            dir,
            name: name.to_owned(),
            relation,
            link,
            alone,
            by_path: false,
        };
        if stat.size >= SMALL {
            // On its own, so that small files do not wait behind it.
            let _ = self.files.send(vec![task]);
            return;
        }
        self.batch.push(task);
        self.batch_bytes += stat.size;
        if self.batch.len() >= BATCH_FILES || self.batch_bytes >= BATCH_BYTES {
            self.flush();
        }
    }

    fn with_run(&self, call: impl FnOnce(&Run<'_>)) {
        let close = |closed| self.close(Some(closed));
        call(&Run { state: &self.walk.shared.state, links: &self.walk.shared.links, close: &close });
    }

    /// Whether an earlier content can be taken over: nothing that the kernel notes of a change differs, no change
    /// came too late for the parent to see, and every chunk is still there.
    fn is_unchanged(&self, stat: &Stat, old: &Node, escape: Option<Escape>) -> bool {
        let trust = self.walk.rules.trust;
        // Where the change time tells nothing, the other has to do.
        let changed = if trust == Trust::Inode { stat.ctime } else { stat.mtime };
        let own_clock = self.walk.rules.own_clock.contains(&stat.device);
        let racy =
            escape.is_some_and(|from| changed >= if own_clock { from.by_own_clock } else { from.by_another });
        old.size == stat.size
            && old.mtime == stat.mtime
            && (trust != Trust::Inode || old.ctime == stat.ctime)
            && (trust == Trust::Times || old.inode == stat.inode)
            && !racy
            && old
                .content
                .as_ref()
                .is_some_and(|ids| ids.iter().all(|id| self.walk.shared.index.contains(BlobKind::Data, id)))
    }
}

impl Known<Tree> {
    /// Takes the entries of this name out.
    fn take(&mut self, name: &[u8]) -> Known<Option<Node>> {
        Known { parent: take_named(&mut self.parent, name), resumed: take_named(&mut self.resumed, name) }
    }
}

/// Takes the entry of this name out of a tree that is gone through in ascending order.
fn take_named(tree: &mut Tree, name: &[u8]) -> Option<Node> {
    let place = tree.nodes.binary_search_by(|node| node.name.as_slice().cmp(name)).ok()?;
    let found = tree.nodes.get_mut(place)?;
    // The name stays, so that the order still holds for the next search.
    let name = found.name.clone();
    Some(std::mem::replace(found, Node { name, ..Node::default() }))
}

/// Directories in which servers and file systems show snapshots of their own: nothing of the volume.
const VIEWS_OF_THE_PAST: [&[u8]; 4] = [b".snapshot", b"~snapshot", b".snap", b".zfs"];

const LOST_FOUND: &CStr = c"lost+found";
/// Whether a `lost+found` is what mkfs makes: root's, and either empty (kubelet may have given it to a group) or closed to
/// all but root. What fsck has put into one that can be read is somebody's data.
fn is_made_by_mkfs(stat: &Stat, inside: std::result::Result<usize, Errno>) -> bool {
    let is_closed = stat.mode & 0o7777 == 0o700;
    stat.kind == NodeType::Dir
        && stat.uid == 0
        && match inside {
            Ok(entries) => entries == 0,
            Err(Errno::ACCESS | Errno::PERM) => is_closed,
            Err(_) => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_mkfs_made_and_nobody_filled_is_the_file_systems_own() {
        let place = tempfile::tempdir().unwrap();
        let fd = source::open_path_dir(place.path()).unwrap();
        let with = |uid: u32, mode: u32| Stat { mode, uid, ..source::stat_at(fd.as_fd(), c".").unwrap() };
        let mkfs = with(0, 0o040_700);
        assert!(is_made_by_mkfs(&mkfs, Ok(0)));
        assert!(
            is_made_by_mkfs(&mkfs, Err(Errno::ACCESS)),
            "root's alone: nobody else has put anything there"
        );
        assert!(!is_made_by_mkfs(&mkfs, Ok(1)), "fsck has put something there");
        assert!(!is_made_by_mkfs(&mkfs, Err(Errno::IO)), "a fault is told");
        let users = with(1000, 0o040_700);
        assert!(!is_made_by_mkfs(&users, Ok(0)), "somebody's own");
        let given = with(0, 0o042_770);
        assert!(is_made_by_mkfs(&given, Ok(0)), "an fsGroup was set, and it is still empty");
        assert!(!is_made_by_mkfs(&given, Err(Errno::ACCESS)), "somebody else may have put something there");
    }
}
