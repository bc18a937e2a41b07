//! The readers: open files without side effects, fill segments with their bytes, hand chunks to the workers.
//!
//! Small files share a segment. Holes are not read, and a hole as long as the smallest chunk is not even hashed:
//! zeros are always cut at the minimum, so its chunk is the same everywhere.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use rustix::io::Errno;

use super::Shared;
use super::buffer::{Piece, Pool, SEGMENT, Segment};
use super::cut::Cutter;
use super::file::{File, LinkKey, Run};
use super::source::{self, Carrier, Stat, Stretch};
use super::state::{Relation, join};
use super::tree::Slot;
use super::worker::{Chunk, Job};
use crate::chunk::MIN_SIZE;
use crate::format::node::NodeType;
use crate::id::IdHasher;

/// Files below this size are queued several at a time; they are never cut.
pub(crate) const SMALL: u64 = MIN_SIZE as u64;

/// A file to read.
pub(crate) struct FileTask {
    pub(crate) slot: Slot,
    /// The directory it lies in.
    pub(crate) dir: Arc<OwnedFd>,
    pub(crate) name: CString,
    pub(crate) relation: Relation,
    pub(crate) link: Option<LinkKey>,
}

/// Bytes that are looked for in a file that says that it is empty. One with more is read as a large one.
const UNKNOWN: usize = 4096;

/// A segment that small files are read into.
struct Filling {
    segment: Segment,
    used: usize,
    /// Each with the number of its chunk, and where that begins and ends.
    files: Vec<(Arc<File>, usize, usize, usize)>,
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

    fn read_batch(&self, batch: Vec<FileTask>) {
        // Fetched for the first small file only: while a large one is read, its memory must not wait for this one.
        let mut current: Option<Filling> = None;
        for task in batch {
            if self.shared.state.stopped() {
                return;
            }
            let Some(open) = self.open(task) else { continue };
            if open.stat.size >= SEGMENT as u64 {
                if let Some(full) = current.take() {
                    self.flush(full);
                }
                self.read_large(&open);
                continue;
            }
            // Files of the kernel's own making say that they are empty and are not.
            let wanted = if open.stat.size == 0 {
                UNKNOWN
            } else {
                usize::try_from(open.stat.size).unwrap_or(SEGMENT)
            };
            if let Some(full) = current.take_if(|filling| SEGMENT - filling.used < wanted) {
                self.flush(full);
            }
            let filling = current.get_or_insert_with(|| Filling {
                segment: self.pool.get(),
                used: 0,
                files: Vec::new(),
            });
            if self.read_small(&open, filling, wanted) {
                continue;
            }
            if let Some(full) = current.take() {
                self.flush(full);
            }
            self.read_large(&open);
        }
        if let Some(filling) = current {
            self.flush(filling);
        }
    }

    fn flush(&self, filling: Filling) {
        let Filling { segment, files, .. } = filling;
        if files.is_empty() {
            return;
        }
        let segment = Arc::new(segment);
        let chunks = files.into_iter().map(|(file, index, start, end)| {
            let content = vec![Piece { segment: Arc::clone(&segment), start, end }];
            Chunk { file, index, content }
        });
        let _ = self.jobs.send(Job::Chunks(chunks.collect()));
    }

    /// Opens a file and takes its metadata from the open file: what is stored belongs together.
    fn open(&self, task: FileTask) -> Option<Open> {
        let FileTask { slot, dir, name, relation, link } = task;
        let path = || join(&slot.dir().path, name.to_bytes());
        let opened = source::open_file(dir.as_fd(), &name)
            .map_err(|e| ("open", e))
            .and_then(|fd| source::stat_open(fd.as_fd()).map(|stat| (fd, stat)).map_err(|e| ("stat", e)));
        let (fd, stat) = match opened {
            Ok((fd, stat)) if stat.kind == NodeType::File => (fd, stat),
            // It became something else since it was listed: as good as gone.
            Ok(_) | Err((_, Errno::NOENT | Errno::LOOP)) => {
                let file = File::new(slot, source_name(&name), relation, link);
                self.with_run(|run| file.vanished(run));
                return None;
            }
            Err((action, e)) => {
                let file = File::new(slot, source_name(&name), relation, link);
                self.with_run(|run| file.failed(action, &e, run));
                return None;
            }
        };
        let mut node = stat.node(name.to_bytes());
        match source::xattrs(Carrier::Open(fd.as_fd())) {
            Ok(found) => node.xattrs = found,
            Err(e) => self.shared.state.fault(path(), "xattr", &e),
        }
        Some(Open { fd, stat, file: File::new(slot, node, relation, link) })
    }

    /// Reads a small file into a segment; `false` when it has more than it said and is to be read as a large one.
    fn read_small(&self, open: &Open, filling: &mut Filling, wanted: usize) -> bool {
        let start = filling.used;
        let place = filling.segment.content_mut().get_mut(start..start + wanted).unwrap_or_default();
        let length = match source::read_full(open.fd.as_fd(), place, 0) {
            Ok(length) => length,
            Err(e) => {
                self.with_run(|run| open.file.failed("read", &e, run));
                return true;
            }
        };
        if open.stat.size == 0 && length == wanted {
            return false;
        }
        if length > 0 {
            filling.used += length;
            let index = open.file.next_chunk();
            filling.files.push((Arc::clone(&open.file), index, start, start + length));
        }
        self.finish(open, length as u64);
        true
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
        let _turn = self.pool.turn();
        let mut content = Content::new(open.fd.as_fd(), &open.stat);
        let mut cutter = Cutter::new(&self.shared, &self.pool, &self.jobs, &open.file);
        loop {
            if self.shared.state.stopped() {
                return Ok(None);
            }
            if cutter.at_start() && content.take_zero_chunk() {
                self.zero_chunk(&open.file);
                continue;
            }
            let (mut segment, wanted) = cutter.segment();
            let count = content.read(segment.content_mut().get_mut(..wanted).unwrap_or_default())?;
            cutter.take(segment, count);
            if count < wanted {
                break;
            }
        }
        cutter.end();
        Ok(Some(content.offset))
    }

    /// Adds a chunk of zeros of the smallest size to a file. The first of the run is stored like any other chunk.
    fn zero_chunk(&self, file: &Arc<File>) {
        if let Some(id) = self.shared.zero_chunk.get() {
            file.known_chunk(*id);
            self.shared.state.counters.bytes_done.add(SMALL);
            return;
        }
        let mut segment = self.pool.get();
        segment.content_mut().fill(0);
        let segment = Arc::new(segment);
        // The same zeros again and again.
        let content: Vec<Piece> = (0..MIN_SIZE / SEGMENT)
            .map(|_| Piece { segment: Arc::clone(&segment), start: 0, end: SEGMENT })
            .collect();
        let mut digest = IdHasher::new();
        for piece in &content {
            digest.update(piece.bytes());
        }
        let id = digest.finish();
        let chunk = Chunk { file: Arc::clone(file), index: file.next_chunk(), content };
        let _ = self.jobs.send(Job::Chunks(vec![chunk]));
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
        Self { fd, size: stat.size, offset: 0, stretch }
    }

    /// Brings `stretch` up to `offset`; whether a hole lies there, and how many bytes it or the data goes on.
    fn here(&mut self) -> (bool, u64) {
        let left = self.size.saturating_sub(self.offset);
        let Some(mut stretch) = self.stretch else { return (false, left) };
        if self.offset >= stretch.end && left > 0 {
            stretch = source::stretch(self.fd, self.offset, self.size);
            self.stretch = Some(stretch);
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
