//! The reader of a stream: takes bytes as they come, finds the cuts, hands chunks to the workers, and lets the file
//! be finished only when its producer and the checks agree. Otherwise what was read stays in the repository without
//! a snapshot, so that the next try has little to store.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::Shared;
use super::buffer::{Buffer, Pool};
use super::file::{File, Run};
use super::state::{Relation, locked};
use super::tree::{Closed, Dir};
use super::worker::{Chunk, Job};
use crate::chunk::{Cursor, MAX_SIZE, MIN_SIZE};
use crate::error::{Error, ErrorKind, Result};
use crate::format::node::{Node, NodeType, go_mode};
use crate::format::time::Time;
use crate::stream::{Seen, StreamSource};

/// Bytes that are waited for behind the smallest chunk before the next cut is looked for.
const PIECE: usize = 256 * 1024;
/// Modes that a stream's directories and file get, as restic gives them.
const DIR_MODE: u32 = go_mode::DIR | 0o755;
const FILE_MODE: u32 = 0o644;

/// A stream and what its file is to look like.
pub(crate) struct Feed {
    pub(crate) source: StreamSource,
    /// The names on its path, at least one.
    pub(crate) names: Vec<Vec<u8>>,
    /// Time of the file and its directories.
    pub(crate) time: Time,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Size of the file in the newest snapshot.
    pub(crate) previous: Option<u64>,
}

/// Reads the stream to its end. Called by a thread of its own.
pub(super) fn run(shared: &Arc<Shared>, pool: &Pool, jobs: &Sender<Job>, feed: Feed, runtime: &Handle) {
    let Feed { source, names, time, uid, gid, previous } = feed;
    let StreamSource { reader, outcome, checks, .. } = source;
    let node = |name: &[u8], kind, mode| Node {
        name: name.to_vec(),
        kind,
        mode,
        mtime: time,
        atime: time,
        ctime: time,
        uid,
        gid,
        ..Node::default()
    };
    let deadline = checks.total_timeout.map(|time| Instant::now() + time);
    let patience = Patience { shared, idle: checks.idle_timeout, deadline };
    let mut input = Input { patience: &patience, reader, seen: Seen::new(checks) };

    let mut dirs = vec![Dir::new(None, "/".into(), None)];
    let mut path = std::path::PathBuf::from("/");
    let (last, above) =
        names.split_last().map_or((&[][..], &[][..]), |(last, above)| (last.as_slice(), above));
    for name in above {
        let Some(slot) = dirs.last().map(only_slot) else { return };
        path = super::state::join(&path, name);
        let dir = Dir::new(Some(slot), path.clone(), None);
        dir.set_node(node(name, NodeType::Dir, DIR_MODE));
        dirs.push(dir);
    }
    let Some(slot) = dirs.last().map(only_slot) else { return };
    let file = File::new(slot, node(last, NodeType::File, FILE_MODE), Relation::New, None);
    for dir in &dirs {
        // None is complete before the file, which comes last.
        drop(dir.listed());
    }
    drop(dirs);
    shared.state.counters.files_found.add(1);

    let feeder = Feeder { shared, pool, jobs, file: &file };
    let result = runtime.block_on(async {
        if !feeder.read(&mut input).await? {
            return Ok(None);
        }
        let size = input.seen.size;
        let Some(outcome) = patience.wait(outcome, "its producer closed it but did not end").await? else {
            return Ok(None);
        };
        input.seen.judge(outcome, previous)?;
        Ok(Some(size))
    });
    match result {
        Ok(Some(size)) => {
            let close = |closed: Closed| drop(jobs.send(Job::Close(closed)));
            let run = Run { state: &shared.state, links: &shared.links, close: &close };
            file.read_done(size, &run);
        }
        // Stopped from elsewhere, where the reason is known.
        Ok(None) => {}
        // Not a failure of the run: what was read is stored to the end first.
        Err(error) => drop(locked(&shared.refused).get_or_insert(error)),
    }
}

fn only_slot(dir: &Arc<Dir>) -> super::tree::Slot {
    dir.expect(1);
    dir.slot(0)
}

/// How long a producer is waited for.
struct Patience<'a> {
    shared: &'a Shared,
    idle: Option<Duration>,
    deadline: Option<Instant>,
}

impl Patience<'_> {
    /// Waits for something of the producer's; `None` when the run was stopped meanwhile.
    async fn wait<T>(&self, work: impl Future<Output = T>, idle_means: &str) -> Result<Option<T>> {
        let idle = self.idle.map(|idle| Instant::now() + idle);
        let until = [idle, self.deadline].into_iter().flatten().min();
        let overdue = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.shared.state.stop_signal().cancelled() => Ok(None),
            // Before the work, or a producer that always has something would never be late.
            () = overdue => {
                let why = if until == self.deadline { "it took longer than allowed" } else { idle_means };
                Err(Error::new(
                    ErrorKind::Timeout,
                    format!("the stream was given up, there is no new snapshot: {why}"),
                ))
            }
            done = work => Ok(Some(done)),
        }
    }
}

/// The stream and what was seen of it.
struct Input<'a> {
    patience: &'a Patience<'a>,
    reader: Box<dyn AsyncRead + Send + Unpin>,
    seen: Seen,
}

impl Input<'_> {
    /// Fills `place` as far as the stream reaches; `None` when the run was stopped.
    async fn fill(&mut self, place: &mut [u8]) -> Result<Option<usize>> {
        let mut filled = 0;
        while let Some(rest) = place.get_mut(filled..)
            && !rest.is_empty()
        {
            let read = self.reader.read(rest);
            let Some(read) = self.patience.wait(read, "nothing came for longer than allowed").await? else {
                return Ok(None);
            };
            let count = read.map_err(|e| {
                let what = "the stream was not backed up, there is no new snapshot: it cannot be read";
                Error::with_source(ErrorKind::Source, what, e)
            })?;
            if count == 0 {
                break;
            }
            self.seen.take(rest.get(..count).unwrap_or_default())?;
            self.patience.shared.state.counters.bytes_found.add(count as u64);
            filled += count;
        }
        Ok(Some(filled))
    }
}

struct Feeder<'a> {
    shared: &'a Shared,
    pool: &'a Pool,
    jobs: &'a Sender<Job>,
    file: &'a Arc<File>,
}

impl Feeder<'_> {
    /// Reads and cuts until the end of the stream; `false` when the run was stopped.
    async fn read(&self, input: &mut Input<'_>) -> Result<bool> {
        let mut buffer = self.pool.get();
        let mut filled = 0;
        let mut cursor = Cursor::default();
        loop {
            let wanted = MIN_SIZE.saturating_sub(filled).max(PIECE).min(MAX_SIZE - filled);
            let place = buffer.place(filled..filled + wanted);
            let Some(count) = input.fill(place).await? else { return Ok(false) };
            filled += count;
            while let Some(cut) =
                self.shared.chunker.find_cut(buffer.get(..filled).unwrap_or_default(), &mut cursor)
            {
                let rest = filled - cut;
                let mut next = self.pool.get();
                if let Some(from) = buffer.get(cut..filled) {
                    next.place(0..rest).copy_from_slice(from);
                }
                self.send(std::mem::replace(&mut buffer, next), cut);
                filled = rest;
                cursor = Cursor::default();
            }
            if count < wanted {
                break;
            }
        }
        if filled > 0 {
            self.send(buffer, filled);
        }
        Ok(true)
    }

    fn send(&self, buffer: Buffer, length: usize) {
        let chunk = Chunk { file: Arc::clone(self.file), index: self.file.next_chunk(), range: 0..length };
        // A closed queue means that the workers have stopped, and why is known by then.
        let _ = self.jobs.send(Job::Chunks(buffer, vec![chunk]));
    }
}
