//! The backup pipeline: walk → read → hash, compress, seal, pack → upload. One direction, bounded at each step.
//!
//! ```text
//!   walkers ──files──▶ readers ──chunks──▶ workers ──packs──▶ uploads (async)
//!      └────────────closed directories───────▲
//! ```
//! Threads of our own do the first three, so that the runtime's threads stay free for the network. A thread never
//! waits for one to its left, so nothing can lock up; a slow store fills the queues and stops the readers.
//! Not here: what is backed up and what becomes of it (`backup`).

mod buffer;
mod checkpoint;
pub(crate) mod exclude;
mod file;
mod pack;
mod read;
mod roots;
mod rules;
mod source;
mod state;
mod stream;
mod tree;
mod upload;
mod walk;
mod worker;

use std::convert::Infallible;
use std::num::NonZero;
use std::path::Path;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::bounded;
use futures::future::BoxFuture;
use holdfast_pattern::lower_pattern;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::backup::{Checkpoints, Trust, Verify};
use crate::chunk::Chunker;
use crate::error::{Error, ErrorKind, Result};
use crate::format::compress::Compression;
use crate::id::Id;
use crate::index::DedupIndex;
use crate::repository::Repository;

use buffer::Pool;
pub(crate) use exclude::Excludes;
use file::Links;
pub(crate) use pack::{OpenPacks, SealedBlob, SealedPack};
use read::Reader;
pub(crate) use roots::Roots;
pub(crate) use rules::{Escape, Named};
use rules::{Marker, Rules};
pub(crate) use state::State;
pub(crate) use state::locked;
pub(crate) use stream::Feed;
use tree::Dir;
pub(crate) use upload::{Proved, check_size, is_due, put_pack, save};
use walk::Walk;
use worker::Claims;

/// Batches of files that wait for a reader. Each file in them keeps its directory open.
const FILE_QUEUE: usize = 4;
/// Jobs that wait for a worker; the buffers bound those with content.
const JOB_QUEUE: usize = 64;

/// Where the content comes from.
pub(crate) enum Input {
    /// Directories and files below these.
    Walk(Roots),
    /// A stream, which becomes one file.
    Stream(Box<Feed>),
}

/// What one run of the pipeline is to do.
pub(crate) struct Plan {
    pub(crate) input: Input,
    /// Root tree of the snapshot to compare with.
    pub(crate) parent: Option<Id>,
    /// Changes from this time on are not trusted to be visible in the parent.
    pub(crate) racy_from: Option<Escape>,
    /// Root tree of a killed run's checkpoint, and the same for it.
    pub(crate) resume: Option<(Id, Escape)>,
    /// Devices whose times are of this machine's clock.
    pub(crate) own_clock: Vec<u64>,
    /// When to save what is finished.
    pub(crate) checkpoints: Checkpoints,
    pub(crate) excludes: Vec<String>,
    pub(crate) iexcludes: Vec<String>,
    /// The directory that a leading `/` of a pattern means, if it is not the root.
    pub(crate) patterns_from: Option<PathBuf>,
    /// What is mounted below a root is told as what could not be read.
    pub(crate) borders_are_faults: bool,
    pub(crate) markers: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) largest: Option<u64>,
    /// What the rules do not leave out.
    pub(crate) named: Named,
    pub(crate) trust: Trust,
    pub(crate) exclude_caches: bool,
    pub(crate) one_file_system: bool,
    pub(crate) leave_lost_found: bool,
    pub(crate) compression: Compression,
    pub(crate) verify: Verify,
    /// Threads that list, and threads that read.
    pub(crate) readers: usize,
    /// Packs on their way to the store at a time.
    pub(crate) uploads: usize,
    /// What the parent held: files and bytes, an estimate for progress.
    pub(crate) guess: Option<(u64, u64)>,
}

/// What all threads share.
struct Shared {
    state: Arc<State>,
    repository: Repository,
    index: Arc<DedupIndex>,
    chunker: Chunker,
    claims: Claims,
    packs: OpenPacks,
    links: Links,
    compression: Compression,
    verify: Verify,
    /// Id of a smallest chunk of zeros, once that is stored.
    zero_chunk: OnceLock<Id>,
    /// The root directory while it is being backed up, for checkpoints.
    root_dir: OnceLock<Arc<Dir>>,
    /// Id of the root tree, once that is stored.
    root: Mutex<Option<Id>>,
    /// Why a stream does not become a snapshot, although all that was read of it is stored.
    refused: Mutex<Option<Error>>,
}

/// Threads of a run. Dropped early (the caller gave up) it stops them; they end at their next buffer.
struct Threads {
    state: Arc<State>,
    handles: Vec<JoinHandle<()>>,
    /// Held by each thread, so that `ended` tells when the last is gone.
    alive: mpsc::UnboundedSender<Infallible>,
    ended: mpsc::UnboundedReceiver<Infallible>,
}

/// How long a run that was stopped waits for its threads. One that hangs in a dead file system is left behind.
const THREADS_END: Duration = Duration::from_secs(10);

impl Threads {
    fn new(state: &Arc<State>) -> Self {
        let (alive, ended) = mpsc::unbounded_channel();
        Self { state: Arc::clone(state), handles: Vec::new(), alive, ended }
    }

    fn start(&mut self, name: &'static str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let (state, alive) = (Arc::clone(&self.state), self.alive.clone());
        let handle = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                worker::guard(&state, name, work);
                drop(alive);
            })
            .map_err(|e| Error::with_source(ErrorKind::Internal, "the system refused another thread", e))?;
        self.handles.push(handle);
        Ok(())
    }

    /// Waits for threads that have nothing left to do, or were told to stop.
    async fn end(mut self) {
        let alive = std::mem::replace(&mut self.alive, mpsc::unbounded_channel().0);
        drop(alive);
        if tokio::time::timeout(THREADS_END, self.ended.recv()).await.is_ok() {
            for handle in self.handles.drain(..) {
                // A panic was caught inside and is recorded.
                let _ = handle.join();
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.state.stop_signal().cancel();
    }
}

/// Number of CPUs that this process may use, the container's quota respected.
fn cpus() -> usize {
    std::thread::available_parallelism().map_or(2, NonZero::get)
}

/// Runs the pipeline; the id of the root tree. All packs and index files are durable when this returns. Nothing is sent to
/// the store before `gate` opens; what is read until then is bounded by what may be on its way. An error of the gate
/// ends the run.
pub(crate) async fn run(
    repository: &Repository,
    index: Arc<DedupIndex>,
    plan: Plan,
    state: &Arc<State>,
    gate: BoxFuture<'_, Result<()>>,
) -> Result<Id> {
    let shared = Arc::new(Shared {
        state: Arc::clone(state),
        repository: repository.clone(),
        index,
        chunker: Chunker::new(repository.config().chunker_polynomial),
        claims: Claims::default(),
        packs: OpenPacks::new(plan.uploads.max(1), Handle::current()),
        links: Links::default(),
        compression: plan.compression,
        verify: plan.verify,
        zero_chunk: OnceLock::new(),
        root_dir: OnceLock::new(),
        root: Mutex::default(),
        refused: Mutex::default(),
    });
    let named = Arc::new(plan.named);
    state.name(Arc::clone(&named));
    let rules = Rules {
        excludes: Excludes::new(&plan.excludes)?,
        patterns_from: plan.patterns_from,
        borders_are_faults: plan.borders_are_faults,
        iexcludes: Excludes::new(&plan.iexcludes.iter().map(|p| lower_pattern(p)).collect::<Vec<_>>())?,
        markers: plan.markers.iter().map(|(name, head)| Marker::new(name, head)).collect::<Result<_>>()?,
        largest: plan.largest,
        named,
        trust: plan.trust,
        exclude_caches: plan.exclude_caches,
        one_file_system: plan.one_file_system,
        leave_lost_found: plan.leave_lost_found,
        racy_from: plan.racy_from,
        resume_racy_from: plan.resume.map(|(_, racy_from)| racy_from),
        own_clock: plan.own_clock,
    };
    let workers = cpus();
    let readers = plan.readers.max(1);
    let mut threads = Threads::new(state);
    let (files, file_queue) = bounded(FILE_QUEUE);
    let (jobs, job_queue) = bounded(JOB_QUEUE);
    // The flights bound what is on its way; the queue need not.
    let (packs, pack_queue) = mpsc::unbounded_channel();
    // Each reader may hold two and wait for a third.
    let pool = Pool::new((2 * readers + 1).max(readers + workers + 1));
    for _ in 0..workers {
        let (shared, jobs, packs) = (Arc::clone(&shared), job_queue.clone(), packs.clone());
        threads.start("backup-cpu", move || worker::run(shared, &jobs, packs))?;
    }
    match plan.input {
        Input::Walk(roots) => {
            let walk = Arc::new(Walk::new(
                Arc::clone(&shared),
                rules,
                roots,
                (plan.parent, plan.resume.map(|(tree, _)| tree)),
                Handle::current(),
            )?);
            for _ in 0..readers {
                let reader = Reader::new(Arc::clone(&shared), pool.clone(), jobs.clone());
                let queue = file_queue.clone();
                threads.start("backup-read", move || reader.run(&queue))?;
            }
            for _ in 0..readers {
                let (walk, files, jobs) = (Arc::clone(&walk), files.clone(), jobs.clone());
                threads.start("backup-walk", move || walk.run(files, jobs))?;
            }
        }
        Input::Stream(feed) => {
            let (shared, pool, jobs) = (Arc::clone(&shared), pool.clone(), jobs.clone());
            let runtime = Handle::current();
            threads.start("backup-stream", move || stream::run(&shared, &pool, &jobs, *feed, &runtime))?;
        }
    }
    // The queues end when the last thread that fills them does; these would keep them open.
    drop((files, file_queue, jobs, job_queue, packs, pool));

    upload::run(&shared, pack_queue, plan.guess, plan.checkpoints, gate).await;
    let failure = state.take_failure();
    threads.end().await;
    // A thread may have failed on its way out.
    if let Some(error) = failure.or_else(|| state.take_failure()) {
        return Err(error);
    }
    if let Some(refusal) = locked(&shared.refused).take() {
        return Err(refusal);
    }
    let root = locked(&shared.root).take();
    root.ok_or_else(|| {
        Error::new(
            ErrorKind::Internal,
            "the backup ended without a root directory; this is a bug of Holdfast",
        )
    })
}

/// Paths as a snapshot names them.
pub(crate) fn path_text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Error::new(
            ErrorKind::Usage,
            format!(
                "{} is not UTF-8, which the paths of a snapshot must be; back up its parent instead",
                path.display()
            ),
        )
    })
}
