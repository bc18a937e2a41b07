//! Restores a bounded number of files at once: compares what exists, fetches what is needed in the order it lies
//! in the packs, writes it, and reads it back when asked.
//!
//! Not here: which files (`run`), how one file is written (`file`).

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::FileType;
use tokio::runtime::Handle;

use super::Overwrite;
use super::compare::Expected;
use super::file::{Action, FileJob, Near};
use super::plan::{Found, compare};
use super::run::{LinkKey, Run};
use super::target::Dir;
use super::walk::{ZERO_CHUNK, is_zero_chunk, join, shown};
use crate::error::{Error, ErrorKind, Result};
use crate::format::node::Node;
use crate::format::pack::BlobKind;
use crate::id::Id;
use crate::index::{BlobLocation, Index};
use crate::read::fetch::{self, Fetched, Place};
use crate::read::{self, BlobOpener, is_damage};
use crate::repository::Repository;

/// Files of a window, each some 300 bytes and its path. While one window is written the next one is filled, and the one
/// before it may be read back.
const MAX_FILES: usize = 8_000;
/// Chunks of a window, each 17 bytes, and some 50 more while it is fetched. Packs are read once a window, so more is
/// better.
const MAX_CHUNKS: usize = 125_000;
/// Bytes of their paths and extended attributes. Those of common files take a tenth of it.
const MAX_BYTES: usize = 16 << 20;
/// Files that wait, half written, with an open descriptor.
const MAX_OPEN: usize = 64;

/// Threads that read back what was written, each with a buffer of half a megabyte.
const MAX_READERS: usize = 16;

/// How a restore reaches the repository.
pub(crate) struct Tools {
    pub(crate) repo: Repository,
    pub(crate) index: Arc<Index>,
    pub(crate) runtime: Handle,
}

impl Tools {
    /// A blob of the index by its position.
    fn blob(&self, position: u32) -> Option<(Id, BlobLocation)> {
        self.index.at(position as usize).map(|(_, id, location)| (id, location))
    }

    /// A chunk's position in the index, and its plain bytes.
    fn locate(&self, id: &Id) -> Option<(u32, u32)> {
        let position = u32::try_from(self.index.ordinal(BlobKind::Data, id)?).ok()?;
        Some((position, self.blob(position)?.1.plain_length()))
    }
}

/// One chunk of one file.
struct Chunk {
    at: u64,
    file: u32,
    /// Position of its blob in the index.
    blob: u32,
}

/// Files waiting to be restored together.
#[derive(Default)]
pub(crate) struct Window {
    files: Vec<FileJob>,
    chunks: Vec<Chunk>,
    /// Of their paths and extended attributes.
    bytes: usize,
}

impl Window {
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.files.len() >= MAX_FILES || self.chunks.len() >= MAX_CHUNKS || self.bytes >= MAX_BYTES
    }

    /// Takes a file in. False, with a fault, when the repository does not have its content.
    pub(crate) fn add(
        &mut self,
        run: &Run<'_>,
        tools: &Tools,
        dir: &Dir,
        parent: &[u8],
        node: &Node,
        link: Option<(u64, u64)>,
    ) -> bool {
        let path = join(parent, &node.name);
        let stat = match dir.stat(&node.name) {
            Ok(stat) => stat,
            Err(e) => {
                run.fault(&path, "stat", e.to_string());
                return false;
            }
        };
        let action = match compare(dir, node, stat.as_ref()) {
            Found::Same if run.spec.overwrite == Overwrite::IfChanged && !run.spec.verify => Action::Leave,
            Found::Same => Action::Check,
            Found::Differs => Action::Change,
            // What is kept was left out before.
            Found::Nothing | Found::Other | Found::Kept => Action::Create,
        };
        if stat.is_some_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory)
            && !run.spec.delete_extra
        {
            run.fault(
                &path,
                "create",
                "a directory is in its place; with delete it would be removed".to_owned(),
            );
            return false;
        }
        let from = self.chunks.len();
        let mut size = 0_u64;
        let file = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        for id in node.content.iter().flatten() {
            let Some((blob, length)) = tools.locate(id) else {
                run.fault(&path, "read snapshot", format!("its chunk {id} is in no index of the repository"));
                self.chunks.truncate(from);
                return false;
            };
            self.chunks.push(Chunk { at: size, file, blob });
            size = size.saturating_add(length.into());
        }
        if size != node.size {
            let error = format!("the snapshot says {} bytes, the chunks it names have {size}", node.size);
            run.fault(&path, "read snapshot", error);
        }
        let chunks = from..self.chunks.len();
        self.bytes = self.bytes.saturating_add(kept_bytes(&path, node));
        self.files.push(FileJob::new(path, node, size, chunks, action, link));
        true
    }

    /// Writes all of it.
    pub(crate) fn write(&self, run: &Run<'_>, tools: &Tools) -> Result<()> {
        let outcome = self.prepare(run, tools).and_then(|needed| self.fetch(run, tools, &needed));
        if run.stopped() {
            let mut near = Near::default();
            for file in &self.files {
                file.abandon(run, &mut near);
            }
        }
        outcome?;
        run.go_on()?;
        if let Some(file) = self.files.iter().find(|f| !f.failed() && !f.is_done()) {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("{} was neither restored nor given up: a bug", shown(&file.path).display()),
            ));
        }
        Ok(())
    }

    /// Looks at what is there, and says which chunks are needed.
    fn prepare(&self, run: &Run<'_>, tools: &Tools) -> Result<Vec<AtomicBool>> {
        let needed: Vec<AtomicBool> = self.chunks.iter().map(|_| AtomicBool::new(false)).collect();
        parallel(run, read::threads(), self.files.len(), |number, near| {
            let Some(file) = self.files.get(number) else { return };
            file.prepare(run, near, &self.expected(tools, file), &mut |n| {
                if let Some(flag) = needed.get(file.chunks.start.saturating_add(n)) {
                    flag.store(true, Ordering::Relaxed);
                }
            });
        })?;
        Ok(needed)
    }

    /// Reads what was written back from the disk and compares.
    pub(crate) fn read_back(&self, run: &Run<'_>, tools: &Tools) -> Result<()> {
        run.go_on()?;
        // Reading back proves something only once it has been written out.
        run.target.write_out()?;
        parallel(run, readers(), self.files.len(), |number, near| {
            let Some(file) = self.files.get(number) else { return };
            if file.action != Action::Leave {
                file.verify(run, near, &self.expected(tools, file));
            }
        })
    }

    /// Those files with further names that failed.
    pub(crate) fn failed_links(&self) -> impl Iterator<Item = LinkKey> {
        self.files.iter().filter(|f| f.failed()).filter_map(|f| f.link)
    }

    fn expected(&self, tools: &Tools, file: &FileJob) -> Vec<Expected> {
        let chunks = self.chunks.get(file.chunks.clone()).unwrap_or_default();
        let blobs = chunks.iter().filter_map(|c| Some((c, tools.blob(c.blob)?)));
        blobs.map(|(c, (id, place))| Expected { at: c.at, length: place.plain_length().into(), id }).collect()
    }

    fn fetch(&self, run: &Run<'_>, tools: &Tools, needed: &[AtomicBool]) -> Result<()> {
        // Chunks by blob, so that each blob is opened once and written wherever it belongs.
        let mut by_blob: Vec<u32> = (0_u32..)
            .zip(needed)
            .filter(|(_, n)| n.load(Ordering::Relaxed))
            .map(|(number, _)| number)
            .collect();
        let blob_of = |chunk: &u32| self.chunks.get(*chunk as usize).map_or(u32::MAX, |c| c.blob);
        by_blob.sort_unstable_by_key(|chunk| (blob_of(chunk), *chunk));
        let mut tasks: Vec<Task> = Vec::new();
        let mut zeros: Vec<Task> = Vec::new();
        let mut from = 0_usize;
        for chunks in by_blob.chunk_by(|a, b| blob_of(a) == blob_of(b)) {
            let to = from.saturating_add(chunks.len());
            let blob = chunks.first().map_or(u32::MAX, blob_of);
            let (id, location) = tools.blob(blob).ok_or_else(|| {
                Error::new(ErrorKind::Internal, "a blob of a window is not in the index: a bug")
            })?;
            let place =
                Place { pack: location.pack_number, offset: location.offset, length: location.length };
            let task = Task { place, blob, chunks: from..to };
            if is_zero_chunk(&id) {
                zeros.push(task);
            } else {
                tasks.push(task);
            }
            from = to;
        }
        tasks.sort_unstable_by_key(|t| t.place);

        let requests = fetch::requests(tasks.iter().map(|t| t.place));
        let index = Arc::clone(&tools.index);
        let fetched = fetch::spawn(
            Arc::clone(tools.repo.store()),
            move |number| index.packs().get(number as usize).map(|p| p.id),
            requests,
            run.ctx.cancel.clone(),
            &tools.runtime,
        );
        let work =
            Work { window: self, run, tools, tasks: &tasks, by_blob: &by_blob, open: Mutex::default() };
        let zeros_done = AtomicUsize::new(0);
        threads(run, read::threads(), |near| {
            while let Some(task) = zeros.get(zeros_done.fetch_add(1, Ordering::Relaxed)) {
                work.give(task, &vec![0; ZERO_CHUNK], near);
            }
            let mut opener = match BlobOpener::new() {
                Ok(opener) => opener,
                Err(e) => return run.stop(e),
            };
            for got in &fetched {
                if run.stopped() {
                    return;
                }
                work.take(&got, &mut opener, near);
            }
        })
    }
}

/// A blob and the chunks it is for.
struct Task {
    place: Place,
    /// Its position in the index.
    blob: u32,
    /// Where its chunks are listed.
    chunks: Range<usize>,
}

/// What the writing threads share.
struct Work<'a> {
    window: &'a Window,
    run: &'a Run<'a>,
    tools: &'a Tools,
    tasks: &'a [Task],
    /// Numbers of chunks, those of one blob together.
    by_blob: &'a [u32],
    /// Files with an open descriptor, the longest open first.
    open: Mutex<VecDeque<u32>>,
}

impl Work<'_> {
    fn take(&self, fetched: &Fetched, opener: &mut BlobOpener, near: &mut Near) {
        if let Err(e) = &fetched.bytes
            && !is_damage(e)
        {
            let error = Error::new(e.kind(), format!("a pack could not be read: {}", e.chain()));
            return self.run.stop(error);
        }
        for task in self.tasks.get(fetched.request.blobs.clone()).unwrap_or_default() {
            if self.run.stopped() {
                return;
            }
            let Some((id, location)) = self.tools.blob(task.blob) else { continue };
            let sealed = fetched.slice(task.place).unwrap_or_default();
            match opener.open(self.tools.repo.key(), sealed, BlobKind::Data, &id, location.uncompressed) {
                Ok(plain) => self.give(task, plain, near),
                // Damaged on the way, or in this copy only: ask again, and for all copies.
                Err(_) => match self.again(&id) {
                    Ok(plain) => self.give(task, &plain, near),
                    Err(e) if is_damage(&e) => self.lost(task, &e, near),
                    Err(e) => return self.run.stop(e),
                },
            }
        }
    }

    fn again(&self, id: &Id) -> Result<bytes::Bytes> {
        self.tools.runtime.block_on(self.run.ctx.run(self.tools.repo.load_blob(
            &self.tools.index,
            BlobKind::Data,
            id,
        )))
    }

    fn files<'b>(&'b self, task: &'b Task) -> impl Iterator<Item = (u32, &'b FileJob, u64)> {
        let chunks = self.by_blob.get(task.chunks.clone()).unwrap_or_default();
        chunks.iter().filter_map(|number| {
            let chunk = self.window.chunks.get(*number as usize)?;
            Some((chunk.file, self.window.files.get(chunk.file as usize)?, chunk.at))
        })
    }

    fn give(&self, task: &Task, plain: &[u8], near: &mut Near) {
        for (number, file, at) in self.files(task) {
            if self.run.stopped() {
                return;
            }
            let opened = file.write(self.run, near, at, plain);
            file.chunk_done(self.run, near);
            if opened && file.chunks.len() > 1 {
                self.keep_open(number);
            }
        }
    }

    fn lost(&self, task: &Task, error: &Error, near: &mut Near) {
        for (_, file, at) in self.files(task) {
            if file.fail() {
                let error = format!("its content at byte {at} is lost: {}", error.chain());
                self.run.fault(&file.path, "read", error);
            }
            file.chunk_done(self.run, near);
        }
    }

    fn keep_open(&self, number: u32) {
        let oldest = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.push_back(number);
            if open.len() > MAX_OPEN { open.pop_front() } else { None }
        };
        if let Some(file) = oldest.and_then(|n| self.window.files.get(n as usize)) {
            file.close();
        }
    }
}

/// Bytes of a file's path and extended attributes, which the snapshot chooses freely.
fn kept_bytes(path: &[u8], node: &Node) -> usize {
    node.xattrs
        .iter()
        .map(|xattr| xattr.name.len().saturating_add(xattr.value.len()))
        .fold(path.len(), usize::saturating_add)
}

/// Threads that read back: they wait for the disk more than they work.
fn readers() -> usize {
    read::threads().saturating_mul(4).min(MAX_READERS)
}

/// Runs `work` on so many threads.
fn threads(run: &Run<'_>, count: usize, work: impl Fn(&mut Near) + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let mut handles = Vec::with_capacity(count);
        for number in 0..count {
            let started = std::thread::Builder::new()
                .name(format!("restore-{number}"))
                .spawn_scoped(scope, || work(&mut Near::default()));
            match started {
                Ok(handle) => handles.push(handle),
                // Fewer threads do; none does not.
                Err(_) if number > 0 => break,
                Err(e) => run.stop(Error::with_source(ErrorKind::Internal, "cannot start a thread", e)),
            }
        }
        let mut panicked = false;
        for handle in handles {
            panicked |= handle.join().is_err();
        }
        if panicked {
            run.stop(Error::new(ErrorKind::Internal, "a thread of the restore met a bug"));
        }
    });
    run.go_on()
}

/// Does `work` for each number below `count`.
fn parallel(
    run: &Run<'_>,
    threads_at_work: usize,
    count: usize,
    work: impl Fn(usize, &mut Near) + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    threads(run, threads_at_work, |near| {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count || run.stopped() {
                return;
            }
            work(number, near);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::node::Xattr;

    #[test]
    fn what_a_snapshot_says_of_a_file_fills_a_window_too() {
        let xattr = |bytes: usize| Xattr { name: "user.a".into(), value: vec![0; bytes] };
        let node = Node { xattrs: vec![xattr(1000), xattr(2000)], ..Node::default() };
        assert_eq!(kept_bytes(b"some/path", &node), 9 + 6 + 1000 + 6 + 2000);
        assert!(Window { bytes: MAX_BYTES, ..Window::default() }.is_full());
        assert!(!Window { bytes: MAX_BYTES - 1, ..Window::default() }.is_full());
    }
}
