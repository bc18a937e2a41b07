//! What all threads of one backup share: the stop signal, the counters, the faults.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::rules::Named;
use crate::error::{Error, ErrorKind};
use crate::event::{Checkpoint, Ctx, Event, Fault, FaultList, Progress};
use crate::id::Id;
use crate::unreadable::Collector;

/// A counter of the run.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// New, changed and unmodified things, compared with the parent.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    pub(crate) new: Counter,
    pub(crate) changed: Counter,
    pub(crate) unmodified: Counter,
}

impl Compared {
    pub(crate) fn total(&self) -> u64 {
        self.new.get() + self.changed.get() + self.unmodified.get()
    }
}

/// How a thing relates to the parent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    New,
    Changed,
    Unmodified,
}

impl Compared {
    pub(crate) fn count(&self, relation: Relation) {
        match relation {
            Relation::New => self.new.add(1),
            Relation::Changed => self.changed.add(1),
            Relation::Unmodified => self.unmodified.add(1),
        }
    }
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) files: Compared,
    pub(crate) dirs: Compared,
    /// Blobs of file content that were stored.
    pub(crate) data_blobs: Counter,
    /// Blobs of directories that were stored.
    pub(crate) tree_blobs: Counter,
    /// Their plain bytes.
    pub(crate) plain_added: Counter,
    /// Their sealed bytes.
    pub(crate) packed_added: Counter,
    /// Plain bytes of all finished files, stored now or known before.
    pub(crate) total_bytes: Counter,
    /// Bytes that went through the workers or were known, for progress.
    pub(crate) bytes_done: Counter,
    /// Files that the walk has met.
    pub(crate) files_found: Counter,
    /// Their bytes.
    pub(crate) bytes_found: Counter,
    pub(crate) changed_while_reading: Counter,
    /// Files that a killed run's checkpoint had, taken over unread.
    pub(crate) resumed: Counter,
    /// Gone between listing and reading.
    pub(crate) vanished: Counter,
    pub(crate) sockets_skipped: Counter,
    /// Left out by a rule: a pattern, a cache tag, a marker, a size.
    pub(crate) excluded: Counter,
    /// Left out by what it is: another file system, or what mkfs made.
    pub(crate) passed_over: Counter,
}

/// The state of one run.
pub(crate) struct State {
    /// Ends this run; a child of the caller's token.
    stop: CancellationToken,
    ctx: Ctx,
    pub(crate) counters: Counters,
    faults: Mutex<FaultList>,
    /// The first error that ended the run.
    fatal: Mutex<Option<Error>>,
    /// One more fault than this ends the run.
    most_faults: u64,
    /// All faults, for the repository.
    unreadable: Collector,
    /// The paths that are to be backed up.
    named: OnceLock<Arc<Named>>,
    /// The walk has met everything: the totals are known.
    walked: AtomicBool,
    /// Index files that this run has written.
    index_files: Mutex<Vec<Id>>,
    /// When the run began.
    started: Timestamp,
}

/// A poisoned lock means that another thread panicked, which ends the run anyway; the data behind is only counted.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A path that was to be backed up is gone.
pub(crate) fn gone(path: &Path) -> Error {
    Error::new(
        ErrorKind::Source,
        format!("{} was there a moment ago and is gone; nothing was committed", path.display()),
    )
}

impl State {
    pub(crate) fn new(ctx: &Ctx, most_faults: u64) -> Self {
        Self {
            stop: ctx.cancel.child_token(),
            ctx: ctx.clone(),
            counters: Counters::default(),
            faults: Mutex::default(),
            fatal: Mutex::default(),
            most_faults,
            unreadable: Collector::default(),
            named: OnceLock::new(),
            walked: AtomicBool::new(false),
            index_files: Mutex::default(),
            started: Timestamp::now(),
        }
    }

    /// Whether to stop at once. Asked before each file and each buffer.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// The signal behind [`State::stopped`].
    pub(crate) fn stop_signal(&self) -> &CancellationToken {
        &self.stop
    }

    /// Ends the run with an error; only the first is kept.
    pub(crate) fn fail(&self, error: Error) {
        locked(&self.fatal).get_or_insert(error);
        self.stop.cancel();
    }

    /// Says which paths are to be backed up; once, before any is read.
    pub(crate) fn name(&self, named: Arc<Named>) {
        let _ = self.named.set(named);
    }

    /// Something was gone when it was to be read. That is no fault, as if it had been deleted a moment before; but without
    /// what it was to save, a run would look as if somebody had deleted all of it.
    pub(crate) fn vanished(&self, path: &Path) {
        self.counters.vanished.add(1);
        if self.named.get().is_some_and(|named| named.paths.contains(path)) {
            self.fail(gone(path));
        }
    }

    /// Why the run ended early, if it did.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        let fatal = locked(&self.fatal).take();
        fatal.or_else(|| {
            self.ctx.cancel.is_cancelled().then(|| {
                Error::new(
                    ErrorKind::Cancelled,
                    "the backup was cancelled before its snapshot was written; nothing was committed",
                )
            })
        })
    }

    /// Records that one thing could not be read. The run goes on unless that was one too many.
    pub(crate) fn fault(&self, path: PathBuf, action: &'static str, error: &dyn std::fmt::Display) {
        let fault = Fault { path, action, error: error.to_string() };
        self.unreadable.add(&fault);
        self.ctx.events.event(Event::Fault(fault.clone()));
        let text = format!("{}: {} failed ({})", fault.path.display(), fault.action, fault.error);
        let total = {
            let mut faults = locked(&self.faults);
            faults.push(fault);
            faults.total
        };
        if total > self.most_faults {
            let limit = match self.most_faults {
                0 => "end at the first thing it cannot read".to_owned(),
                most => format!("bear no more than {most} things that it cannot read"),
            };
            self.fail(Error::new(
                ErrorKind::Source,
                format!("{text}, and the backup was told to {limit}; there is no new snapshot"),
            ));
        }
    }

    /// All that could not be read.
    pub(crate) fn unreadable(&self) -> &Collector {
        &self.unreadable
    }

    /// What could not be read so far.
    pub(crate) fn take_faults(&self) -> FaultList {
        std::mem::take(&mut *locked(&self.faults))
    }

    /// Notes index files that were written.
    pub(crate) fn index_written(&self, files: &[Id]) {
        locked(&self.index_files).extend_from_slice(files);
    }

    /// The index files that were written.
    pub(crate) fn index_files(&self) -> Vec<Id> {
        locked(&self.index_files).clone()
    }

    /// The walk is through: found counts are totals now.
    pub(crate) fn walk_finished(&self) {
        self.walked.store(true, Ordering::Relaxed);
    }

    /// What is finished so far is saved under this root tree.
    pub(crate) fn checkpoint(&self, tree: Id) {
        self.ctx.events.event(Event::Checkpoint(Checkpoint { tree, started: self.started }));
    }

    /// A phase begins.
    pub(crate) fn phase(&self, name: &'static str) {
        self.ctx.events.event(Event::Phase(name));
    }

    /// Tells how far the run is. `guess` is used for the totals while the walk goes on.
    pub(crate) fn report_progress(&self, guess: Option<(u64, u64)>) {
        let found = (self.counters.files_found.get(), self.counters.bytes_found.get());
        let (files_total, bytes_total) = if self.walked.load(Ordering::Relaxed) {
            found
        } else {
            guess.map_or((0, 0), |(files, bytes)| (files.max(found.0), bytes.max(found.1)))
        };
        self.ctx.events.event(Event::Progress(Progress {
            files_done: self.counters.files.total(),
            bytes_done: self.counters.bytes_done.get(),
            files_total,
            bytes_total,
        }));
    }
}

/// Joins a directory's path and a raw name.
pub(crate) fn join(dir: &Path, name: &[u8]) -> PathBuf {
    dir.join(std::ffi::OsStr::from_bytes(name))
}
