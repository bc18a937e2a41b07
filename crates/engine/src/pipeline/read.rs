//! The readers: open files without side effects, fill buffers, find the cuts, hand chunks to the workers.
//!
//! Small files share a buffer. Holes are not read, and a hole as long as the smallest chunk is not even hashed:
//! zeros are always cut at the minimum, so its chunk is the same everywhere.

use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use rustix::io::Errno;

use super::Shared;
use super::buffer::{Buffer, Pool};
use super::file::{File, Follower, LinkKey, Run, vanished};
use super::source::{self, Carrier, Stat, Stretch};
use super::state::Relation;
use super::tree::Slot;
use super::worker::{Chunk, Job};
use crate::chunk::{Cursor, MAX_SIZE, MIN_SIZE};
use crate::format::node::NodeType;
use crate::format::time::Time;
use crate::id::Id;

/// Files below this size are read several to a buffer; they are never cut.
pub(crate) const SMALL: u64 = MIN_SIZE as u64;
/// Bytes that are read at a time behind the smallest chunk. What lies behind a cut is copied to the next buffer.
const PIECE: usize = 256 * 1024;

/// A file to read.
pub(crate) struct FileTask {
    pub(crate) slot: Slot,
    /// The directory it lies in.
    pub(crate) dir: Arc<OwnedFd>,
    pub(crate) name: CString,
    pub(crate) relation: Relation,
    pub(crate) link: Option<LinkKey>,
    /// Another file had its number before: it is stored as one with a single name.
    pub(crate) alone: bool,
    /// The directory was found by its path, where it may not be the one that was listed: only the file itself counts.
    pub(crate) by_path: bool,
}

/// One reader.
pub(crate) struct Reader {
    shared: Arc<Shared>,
    pool: Pool,
    jobs: Sender<Job>,
}

/// A file that was opened.
struct Open {
    fd: OwnedFd,
    stat: Stat,
    file: Arc<File>,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>, pool: Pool, jobs: Sender<Job>) -> Self {
        Self { shared, pool, jobs }
    }

    /// Reads until the queue ends or the run stops.
    pub(crate) fn run(&self, tasks: &Receiver<Vec<FileTask>>) {
        for batch in tasks {
            self.read_batch(batch);
            if self.shared.state.stopped() {
                return;
            }
        }
    }

    fn with_run<T>(&self, call: impl FnOnce(&Run<'_>) -> T) -> T {
        // A closed queue means that the workers have stopped, and why is known by then.
        let close = |closed| drop(self.jobs.send(Job::Close(closed)));
        call(&Run { state: &self.shared.state, links: &self.shared.links, close: &close })
    }

    fn send(&self, buffer: Buffer, chunks: Vec<Chunk>) {
        if !chunks.is_empty() {
            let _ = self.jobs.send(Job::Chunks(buffer, chunks));
        }
    }

    fn read_batch(&self, batch: Vec<FileTask>) {
        // Fetched for the first small file only: while a large one is read, its buffers must not wait for this one.
        let mut current: Option<Buffer> = None;
        let mut used = 0;
        let mut chunks = Vec::with_capacity(batch.len());
        let mut tasks = VecDeque::from(batch);
        while let Some(task) = tasks.pop_front() {
            if self.shared.state.stopped() {
                return;
            }
            let Some(open) = self.open(task, &mut tasks) else { continue };
            if open.stat.size >= SMALL {
                self.read_large(&open);
                continue;
            }
            if MAX_SIZE - used < MIN_SIZE
                && let Some(full) = current.take()
            {
                self.send(full, std::mem::take(&mut chunks));
                used = 0;
            }
            let buffer = current.get_or_insert_with(|| self.pool.get());
            if let Some(chunk) = self.read_small(&open, buffer, used) {
                used = chunk.range.end;
                chunks.push(chunk);
            }
        }
        if let Some(buffer) = current {
            self.send(buffer, chunks);
        }
    }

    /// Opens a file and takes its metadata from the open file: what is stored belongs together. Where this name does not
    /// lead to the file that others wait for, one of those is put before all other tasks.
    fn open(&self, task: FileTask, tasks: &mut VecDeque<FileTask>) -> Option<Open> {
        let FileTask { slot, dir, name, relation, mut link, alone, by_path } = task;
        let path = || slot.path(name.to_bytes());
        let opened = source::open_file(dir.as_fd(), &name)
            .map_err(|e| ("open", e))
            .and_then(|fd| source::stat_open(fd.as_fd()).map(|stat| (fd, stat)).map_err(|e| ("stat", e)));
        let (fd, stat) = match opened {
            Ok((fd, stat)) if stat.kind == NodeType::File => (fd, stat),
            // It became something else since it was listed: as good as gone.
            Ok(_) | Err((_, Errno::NOENT | Errno::LOOP)) => {
                self.with_run(|run| vanished(slot, name.to_bytes(), run));
                if let Some(task) = link.and_then(|key| self.next_name(key)) {
                    tasks.push_front(task);
                }
                return None;
            }
            Err((action, e)) => {
                let file = File::new(slot, source_name(&name), relation, link);
                self.with_run(|run| file.failed(action, &e, run));
                return None;
            }
        };
        if let Some(key) = link.filter(|key| *key != stat.link_key()) {
            // Another file has taken the name since it was listed. Its content is not that of the names that wait.
            link = None;
            if let Some(task) = self.next_name(key) {
                tasks.push_front(task);
            }
            if by_path {
                let file = File::new(slot, source_name(&name), relation, None);
                self.with_run(|run| file.failed("open", &"another file took its name meanwhile", run));
                return None;
            }
        }
        let mut node = stat.node(name.to_bytes());
        if alone && node.links > 1 {
            // Whoever restores it is not to look for other names by its number.
            (node.links, node.device_id) = (1, 0);
        }
        match source::xattrs(Carrier::Open(fd.as_fd())) {
            Ok(found) => node.xattrs = found,
            Err(e) => {
                self.shared.state.fault(path(), "xattr", &e);
                // The next backup must not take the file over as it is here, without them. No restore can give a file
                // this time, so none misses it.
                node.ctime = Time::default();
            }
        }
        Some(Open { fd, stat, file: File::new(slot, node, relation, link) })
    }

    /// The next of the names that wait for a file, to be read in place of one that is gone. It is read by whoever finds
    /// that out, so nobody is waited for. Those that wait keep no directory open, as there may be any number of them.
    fn next_name(&self, key: LinkKey) -> Option<FileTask> {
        while let Some(Follower { slot, node, relation }) = self.shared.links.pass_on(key) {
            let path = slot.path(&node.name);
            let name = CString::new(node.name.as_slice()).unwrap_or_default();
            match source::open_path_dir(path.parent().unwrap_or(&path)) {
                Ok(dir) => {
                    let dir = Arc::new(dir);
                    return Some(FileTask {
                        slot,
                        dir,
                        name,
                        relation,
                        link: Some(key),
                        alone: false,
                        by_path: true,
                    });
                }
                // Its directory may have been renamed, with the file in it: nothing is left out without a word.
                Err(e) => {
                    let file = File::new(slot, node, relation, None);
                    self.with_run(|run| file.failed("open", &e, run));
                }
            }
        }
        None
    }

    fn read_small(&self, open: &Open, buffer: &mut Buffer, used: usize) -> Option<Chunk> {
        // Files of the kernel's own making say that they are empty and are not.
        let wanted =
            if open.stat.size == 0 { MIN_SIZE } else { usize::try_from(open.stat.size).unwrap_or(MIN_SIZE) };
        let place = buffer.place(used..used + wanted);
        let length = match source::read_full(open.fd.as_fd(), place, 0) {
            Ok(length) => length,
            Err(e) => {
                self.with_run(|run| open.file.failed("read", &e, run));
                return None;
            }
        };
        if open.stat.size == 0 && length == wanted {
            // There may be any amount of it.
            self.read_large(open);
            return None;
        }
        let chunk = (length > 0).then(|| Chunk {
            file: Arc::clone(&open.file),
            index: open.file.next_chunk(),
            range: used..used + length,
        });
        self.finish(open, length as u64);
        chunk
    }

    fn finish(&self, open: &Open, size: u64) {
        let later = source::stat_open(open.fd.as_fd());
        if size != open.stat.size || later.is_ok_and(|later| open.stat.differs(&later)) {
            self.shared.state.counters.changed_while_reading.add(1);
        }
        self.with_run(|run| open.file.read_done(size, run));
    }

    fn read_large(&self, open: &Open) {
        match self.read_chunks(open) {
            Ok(Some(size)) => self.finish(open, size),
            Ok(None) => {}
            Err(e) => self.with_run(|run| open.file.failed("read", &e, run)),
        }
    }

    /// Reads and cuts a file of any size; its length, or `None` when the run was stopped.
    fn read_chunks(&self, open: &Open) -> Result<Option<u64>, Errno> {
        let fd = open.fd.as_fd();
        let mut content = Content::new(fd, &open.stat);
        let mut buffer = self.pool.get();
        let mut filled = 0;
        let mut cursor = Cursor::default();
        loop {
            if self.shared.state.stopped() {
                return Ok(None);
            }
            if filled == 0 && content.take_zero_chunk() {
                self.zero_chunk(&open.file);
                continue;
            }
            // Up to the smallest chunk there is nothing to look for.
            let wanted = MIN_SIZE.saturating_sub(filled).max(PIECE).min(MAX_SIZE - filled);
            let place = buffer.place(filled..filled + wanted);
            let count = content.read(place)?;
            filled += count;
            if count < wanted {
                break;
            }
            while let Some(cut) =
                self.shared.chunker.find_cut(buffer.get(..filled).unwrap_or_default(), &mut cursor)
            {
                let rest = filled - cut;
                let mut next = self.pool.get();
                if let Some(from) = buffer.get(cut..filled) {
                    next.place(0..rest).copy_from_slice(from);
                }
                let chunk =
                    Chunk { file: Arc::clone(&open.file), index: open.file.next_chunk(), range: 0..cut };
                self.send(std::mem::replace(&mut buffer, next), vec![chunk]);
                filled = rest;
                cursor = Cursor::default();
            }
        }
        // The end of the file: what is left is cut as far as it can be, and the rest is the last chunk.
        let mut start = 0;
        let mut chunks = Vec::new();
        while start < filled {
            let mut cursor = Cursor::default();
            let rest = buffer.get(start..filled).unwrap_or_default();
            let length = self.shared.chunker.find_cut(rest, &mut cursor).unwrap_or(rest.len());
            let range = start..start + length;
            chunks.push(Chunk { file: Arc::clone(&open.file), index: open.file.next_chunk(), range });
            start += length;
        }
        self.send(buffer, chunks);
        Ok(Some(content.offset))
    }

    /// Adds a chunk of zeros of the smallest size to a file. The first of the run is stored like any other chunk.
    fn zero_chunk(&self, file: &Arc<File>) {
        if let Some(id) = self.shared.zero_chunk.get() {
            file.known_chunk(*id);
            self.shared.state.counters.bytes_done.add(SMALL);
            return;
        }
        let mut buffer = self.pool.get();
        let zeros = buffer.place(0..MIN_SIZE);
        zeros.fill(0);
        let id = Id::hash(zeros);
        let chunk = Chunk { file: Arc::clone(file), index: file.next_chunk(), range: 0..MIN_SIZE };
        self.send(buffer, vec![chunk]);
        // Set only after the chunk is on its way: whoever sees the id may rely on it.
        let _ = self.shared.zero_chunk.set(id);
    }
}

/// A node that only carries the name, for files that came to nothing.
fn source_name(name: &CString) -> crate::format::node::Node {
    crate::format::node::Node { name: name.as_bytes().to_vec(), ..Default::default() }
}

/// A file's bytes in order, holes included, up to the size it had when it was opened.
struct Content<'a> {
    fd: BorrowedFd<'a>,
    size: u64,
    offset: u64,
    /// What lies at `offset`; `None` when the file has no holes.
    stretch: Option<Stretch>,
}

impl<'a> Content<'a> {
    fn new(fd: BorrowedFd<'a>, stat: &Stat) -> Self {
        let stretch = stat.may_have_holes().then(|| source::stretch(fd, 0, stat.size));
        // One that says it is empty comes here only when it is not: where it ends is found by reading.
        let size = if stat.size == 0 { u64::MAX } else { stat.size };
        Self { fd, size, offset: 0, stretch }
    }

    /// Brings `stretch` up to `offset`; whether a hole lies there, and how many bytes it or the data goes on.
    fn here(&mut self) -> (bool, u64) {
        let left = self.size.saturating_sub(self.offset);
        let Some(mut stretch) = self.stretch else { return (false, left) };
        if self.offset >= stretch.end && left > 0 {
            stretch = source::stretch(self.fd, self.offset, self.size);
            self.stretch = Some(stretch);
            if stretch.end <= self.offset {
                // Cut short while it was read.
                self.size = self.offset;
                return (false, 0);
            }
        }
        (stretch.hole, stretch.end.saturating_sub(self.offset).min(left))
    }

    /// Skips a smallest chunk's worth of hole, when there is one and more of the file behind it. At the very end
    /// of the file the chunk would be the same, but is left to the ordinary path.
    fn take_zero_chunk(&mut self) -> bool {
        let (hole, length) = self.here();
        if !hole || length < SMALL {
            return false;
        }
        self.offset += SMALL;
        true
    }

    /// Fills the buffer as far as the file reaches.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let mut filled = 0_usize;
        loop {
            let (hole, length) = self.here();
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let Some(place) = buffer.get_mut(filled..filled.saturating_add(length).min(buffer.len())) else {
                break;
            };
            if place.is_empty() {
                break;
            }
            if hole {
                place.fill(0);
                filled += place.len();
                self.offset += place.len() as u64;
            } else {
                let wanted = place.len();
                let count = source::read_full(self.fd, place, self.offset)?;
                filled += count;
                self.offset += count as u64;
                if count < wanted {
                    // Cut short while it was read.
                    self.size = self.offset;
                    break;
                }
            }
        }
        Ok(filled)
    }
}
