//! One plain file while it is restored: a temporary file that gets its name when it is whole, or an existing file
//! changed where it differs.
//!
//! Several threads may write to one file at once. Not here: the order of work (`window`).

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::Ownership;
use super::attributes::{self, Handle, Wanted};
use super::compare::{Ask, Expected, differing};
use super::run::{Run, count};
use super::target::{Dir, Target, temp_name};
use super::walk::split;
use crate::format::node::{Node, Xattr, go_mode};
use crate::format::time::Time;

/// Zeros shorter than this are written: a hole costs more than it saves.
const MIN_HOLE: usize = 64 << 10;
/// Holes begin and end at blocks of the file system.
const BLOCK: usize = 4096;

/// Of shorter writes many go to the disk together later, which costs less than each by itself.
const MIN_UNCACHED: usize = 64 << 10;
/// `RWF_DONTCACHE` of Linux 6.14 (pwritev2(2)).
const UNCACHED: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// What is to be done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Write it beside, then move it to its name.
    Create,
    /// Write what differs into the file that is there.
    Change,
    /// Size and time are right: compare, and change what differs.
    Check,
    /// Size and time are right, and believed: only attributes.
    Leave,
}

/// The attributes of a node, without what is not needed to set them.
pub(crate) struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    atime: Time,
    mtime: Time,
    xattrs: Vec<Xattr>,
}

impl From<&Node> for Attributes {
    fn from(node: &Node) -> Self {
        Self {
            mode: go_mode::to_chmod(node.mode),
            uid: node.uid,
            gid: node.gid,
            atime: node.atime,
            mtime: node.mtime,
            xattrs: node.xattrs.clone(),
        }
    }
}

impl Attributes {
    /// Sets them; what fails goes to the run's metadata faults.
    pub(crate) fn apply(&self, run: &Run<'_>, path: &[u8], on: Handle<'_>) {
        let wanted = Wanted {
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            atime: self.atime,
            mtime: self.mtime,
            xattrs: self.xattrs.iter().map(|x| (x.name.as_bytes(), x.value.as_slice())).collect(),
        };
        let owned = attributes::apply(on, &wanted, run.spec.ownership, &mut |action, why| {
            run.metadata_fault(path, action, why);
        });
        // Whose the target itself is, is for whoever made it to say.
        if run.spec.ownership == Ownership::Keep
            && !path.is_empty()
            && let Some(owned) = owned
            && let Some(what) = owned.difference(&wanted, on)
        {
            run.owner_kept(path, what);
        }
    }
}

/// How far a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    /// Being written under its temporary name; `clean` when nothing was in it before, so that what is not
    /// written reads as zeros.
    Temporary {
        clean: bool,
    },
    InPlace,
    Done,
}

struct State {
    stage: Stage,
    fd: Option<Arc<OwnedFd>>,
}

/// One file to restore.
pub(crate) struct FileJob {
    /// From the target.
    pub(crate) path: Vec<u8>,
    pub(crate) attributes: Attributes,
    /// Bytes of content.
    pub(crate) size: u64,
    /// Its chunks in the window's list.
    pub(crate) chunks: Range<usize>,
    pub(crate) action: Action,
    /// Device and inode in the source when it has further names.
    pub(crate) link: Option<(u64, u64)>,
    state: Mutex<State>,
    remaining: AtomicU32,
    failed: AtomicBool,
    /// The comparison found all of it right, so reading it once more proves nothing.
    compared_equal: AtomicBool,
}

/// The directory a thread worked in last, kept open since the next file is most often in it too.
#[derive(Default)]
pub(crate) struct Near {
    path: Vec<u8>,
    dir: Option<Dir>,
}

impl Near {
    pub(crate) fn dir(&mut self, target: &Target, path: &[u8]) -> io::Result<&Dir> {
        if self.dir.is_none() || self.path != path {
            self.dir = None;
            self.path.clear();
            self.path.extend_from_slice(path);
        }
        match &mut self.dir {
            Some(dir) => Ok(dir),
            none => Ok(none.insert(target.dir(path)?)),
        }
    }
}

impl FileJob {
    pub(crate) fn new(
        path: Vec<u8>,
        node: &Node,
        size: u64,
        chunks: Range<usize>,
        action: Action,
        link: Option<(u64, u64)>,
    ) -> Self {
        Self {
            path,
            attributes: Attributes::from(node),
            size,
            chunks,
            action,
            link,
            state: Mutex::new(State { stage: Stage::Waiting, fd: None }),
            remaining: AtomicU32::new(0),
            failed: AtomicBool::new(false),
            compared_equal: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// It has its name, content and attributes.
    pub(crate) fn is_done(&self) -> bool {
        self.state().stage == Stage::Done
    }

    /// Marks it failed; true the first time, so that one file gives one fault.
    pub(crate) fn fail(&self) -> bool {
        !self.failed.swap(true, Ordering::AcqRel)
    }

    fn fail_writing(&self, run: &Run<'_>, action: &'static str, error: &io::Error) {
        if self.fail() {
            run.write_failed(&self.path, action, error);
        }
    }

    fn temp_name(&self, run: &Run<'_>) -> Vec<u8> {
        temp_name(&run.spec.snapshot, &self.path)
    }

    /// Looks at what is there and says which of the expected chunks are still needed: `need(n)` for the n-th.
    /// A file that needs nothing is finished here.
    pub(crate) fn prepare(
        &self,
        run: &Run<'_>,
        near: &mut Near,
        expected: &[Expected],
        need: &mut dyn FnMut(usize),
    ) {
        let outcome = match self.action {
            Action::Leave => {
                self.leave(run, near);
                return;
            }
            Action::Create => self.resume(run, near, expected),
            Action::Change | Action::Check => self.compare_existing(run, near, expected),
        };
        let needed = match outcome {
            Ok(needed) => needed,
            // Nothing was done to it, and the next run begins with it anew.
            Err(e) if e.kind() == io::ErrorKind::Interrupted && run.stopped() => return,
            Err(e) => return self.fail_writing(run, "open", &e),
        };
        self.remaining.store(u32::try_from(needed.len()).unwrap_or(u32::MAX), Ordering::Release);
        if needed.is_empty() {
            self.complete(run, near);
        } else {
            needed.into_iter().for_each(need);
        }
    }

    fn leave(&self, run: &Run<'_>, near: &mut Near) {
        let (parent, name) = split(&self.path);
        match near.dir(run.target, parent).and_then(|d| d.open_file(name, false)) {
            Ok(fd) => self.attributes.apply(run, &self.path, Handle::Open(fd.as_fd())),
            // Without root, a file's mode may deny its own owner; what need not be opened can still be set.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                if let Ok(dir) = near.dir(run.target, parent) {
                    self.attributes.apply(run, &self.path, Handle::Special(dir, name));
                }
            }
            // It was believed to be there as the snapshot has it, and is not.
            Err(e) => return self.fail_writing(run, "open", &e),
        }
        self.state().stage = Stage::Done;
        count(&run.tally.unchanged, 1);
        count(&run.tally.files_done, 1);
    }

    /// A new file: all of it is needed, but for what an interrupted run of this restore has left.
    fn resume(&self, run: &Run<'_>, near: &mut Near, expected: &[Expected]) -> io::Result<Vec<usize>> {
        let all = || (0..expected.len()).collect();
        // Looking for leftovers of every small file would cost more than writing it again.
        if expected.len() < 2 {
            return Ok(all());
        }
        let (parent, _) = split(&self.path);
        let temp = self.temp_name(run);
        let dir = near.dir(run.target, parent)?;
        if dir.stat(&temp)?.is_none() {
            return Ok(all());
        }
        let Ok(fd) = dir.open_file(&temp, true) else {
            // It stands in the way, whatever it is.
            dir.remove_all(&temp)?;
            return Ok(all());
        };
        let needed = differing(&fd, expected, Ask::Cache, || run.stopped())?;
        *self.state() = State { stage: Stage::Temporary { clean: false }, fd: None };
        Ok(needed)
    }

    fn compare_existing(
        &self,
        run: &Run<'_>,
        near: &mut Near,
        expected: &[Expected],
    ) -> io::Result<Vec<usize>> {
        let (parent, name) = split(&self.path);
        let dir = near.dir(run.target, parent)?;
        // Without the right to write, or while it is being executed, it is replaced as a whole instead.
        let Ok(fd) =
            dir.open_file(name, self.action == Action::Change).or_else(|_| dir.open_file(name, false))
        else {
            return Ok((0..expected.len()).collect());
        };
        // What an earlier attempt has written may be in memory only.
        let ask = if run.spec.verify { Ask::Disk } else { Ask::Cache };
        let needed = differing(&fd, expected, ask, || run.stopped())?;
        // Only for one that stays: what replaces it was not compared.
        let stays = || {
            self.compared_equal.store(true, Ordering::Release);
            if self.action == Action::Check && run.spec.verify {
                count(&run.tally.verified, self.size);
            }
        };
        let stat = rustix::fs::fstat(&fd)?;
        let same_size = u64::try_from(stat.st_size) == Ok(self.size);
        // Its further names may be none of the snapshot's. Those that are will be linked to what replaces it. To cut it
        // to another size changes them all, too.
        if stat.st_nlink > 1 && !(needed.is_empty() && same_size) {
            return Ok((0..expected.len()).collect());
        }
        if needed.is_empty() && same_size {
            // Only attributes are left to do, and they need no right to write.
            stays();
            *self.state() = State { stage: Stage::InPlace, fd: Some(Arc::new(fd)) };
            return Ok(needed);
        }
        match dir.open_file(name, true) {
            Ok(fd) => {
                if needed.is_empty() {
                    stays();
                }
                let fd = needed.is_empty().then(|| Arc::new(fd));
                *self.state() = State { stage: Stage::InPlace, fd };
                Ok(needed)
            }
            Err(_) => Ok((0..expected.len()).collect()),
        }
    }

    /// The open file, opened or made as far as that has to be. `true` when it was opened just now.
    fn open(&self, run: &Run<'_>, near: &mut Near) -> io::Result<(Arc<OwnedFd>, Stage, bool)> {
        let mut state = self.state();
        if let Some(fd) = &state.fd {
            return Ok((Arc::clone(fd), state.stage, false));
        }
        let (parent, name) = split(&self.path);
        let dir = near.dir(run.target, parent)?;
        let fd = match state.stage {
            Stage::Waiting => {
                let temp = self.temp_name(run);
                let fd = match dir.create_file(&temp) {
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                        dir.remove_all(&temp)?;
                        dir.create_file(&temp)?
                    }
                    other => other?,
                };
                state.stage = Stage::Temporary { clean: true };
                // Chunks come in the order of packs; those at the end would otherwise set the size only late.
                if run.spec.sparse {
                    rustix::fs::ftruncate(&fd, self.size)?;
                } else if self.chunks.len() > 1 {
                    reserve(&fd, self.size)?;
                }
                fd
            }
            Stage::Temporary { .. } => dir.open_file(&self.temp_name(run), true)?,
            Stage::InPlace => dir.open_file(name, true)?,
            Stage::Done => return Err(io::Error::other("written after its end: a bug")),
        };
        let fd = Arc::new(fd);
        state.fd = Some(Arc::clone(&fd));
        Ok((fd, state.stage, true))
    }

    /// Closes it for now; the next write opens it again.
    pub(crate) fn close(&self) {
        self.state().fd = None;
    }

    /// Writes one chunk. True when the file was opened for it and stays open.
    pub(crate) fn write(&self, run: &Run<'_>, near: &mut Near, at: u64, plain: &[u8]) -> bool {
        if self.failed() {
            return false;
        }
        let opened = match self.open(run, near) {
            Ok((fd, stage, opened)) => {
                let clean = stage == Stage::Temporary { clean: true };
                let written = if run.spec.sparse {
                    write_with_holes(&fd, at, plain, clean)
                } else {
                    write_all(&fd, at, plain)
                };
                if let Err(e) = written {
                    self.fail_writing(run, "write", &e);
                }
                opened
            }
            Err(e) => {
                self.fail_writing(run, "open", &e);
                false
            }
        };
        count(&run.tally.written, plain.len() as u64);
        run.tell();
        opened
    }

    /// One needed chunk is dealt with, well or not; the last one finishes the file.
    pub(crate) fn chunk_done(&self, run: &Run<'_>, near: &mut Near) {
        if self.remaining.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.complete(run, near);
        }
    }

    fn complete(&self, run: &Run<'_>, near: &mut Near) {
        if !self.failed()
            && let Err(e) = self.try_complete(run, near)
        {
            self.fail_writing(run, "finish", &e);
        }
        if self.failed() {
            self.abandon(run, near);
            return;
        }
        let counter = match self.action {
            Action::Check if self.compared_equal.load(Ordering::Acquire) => &run.tally.unchanged,
            _ => &run.tally.restored,
        };
        count(counter, 1);
        count(&run.tally.files_done, 1);
        run.tell();
    }

    fn try_complete(&self, run: &Run<'_>, near: &mut Near) -> io::Result<()> {
        let (fd, stage, _) = self.open(run, near)?;
        if stage != (Stage::Temporary { clean: true })
            && u64::try_from(rustix::fs::fstat(&*fd)?.st_size) != Ok(self.size)
        {
            rustix::fs::ftruncate(&*fd, self.size)?;
        }
        self.attributes.apply(run, &self.path, Handle::Open(fd.as_fd()));
        if let Stage::Temporary { .. } = stage {
            let (parent, _) = split(&self.path);
            let dir = near.dir(run.target, parent)?;
            put_in_place(run, dir, &self.temp_name(run), &self.path)?;
        }
        *self.state() = State { stage: Stage::Done, fd: None };
        Ok(())
    }

    /// Removes what was written of a file that does not become whole.
    pub(crate) fn abandon(&self, run: &Run<'_>, near: &mut Near) {
        let mut state = self.state();
        state.fd = None;
        if let Stage::Temporary { .. } = state.stage {
            let (parent, _) = split(&self.path);
            // Nothing more can be done about a file that cannot be removed; its name says what it is.
            let _ = near.dir(run.target, parent).and_then(|d| d.unlink(&self.temp_name(run)));
            state.stage = Stage::Waiting;
        }
    }

    /// Reads it back from the disk and compares.
    pub(crate) fn verify(&self, run: &Run<'_>, near: &mut Near, expected: &[Expected]) {
        if self.failed() || self.compared_equal.load(Ordering::Acquire) {
            return;
        }
        let (parent, name) = split(&self.path);
        let outcome = near.dir(run.target, parent).and_then(|dir| {
            let fd = dir.open_file(name, false)?;
            // Atime was restored; reading must not renew it. Not being allowed to ask for that is no harm.
            let _ = rustix::fs::fcntl_setfl(&fd, OFlags::NOATIME);
            let size = u64::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(0);
            Ok((size, differing(&fd, expected, Ask::Disk, || run.stopped())?))
        });
        match outcome {
            _ if run.stopped() => {}
            Ok((size, wrong)) if wrong.is_empty() && size == self.size => count(&run.tally.verified, size),
            Ok((size, wrong)) => {
                self.fail();
                let first =
                    wrong.first().and_then(|n| expected.get(*n)).map_or(size.min(self.size), |e| e.at);
                run.fault(
                    &self.path,
                    "verify",
                    format!("what the disk gives back differs from the snapshot from byte {first} on"),
                );
            }
            Err(e) => {
                self.fail();
                run.fault(&self.path, "verify", e.to_string());
            }
        }
    }
}

/// Moves a finished temporary name to its own, at `path` of the target. A directory in its place is removed only when extras
/// may be, and all that is in it.
pub(crate) fn put_in_place(run: &Run<'_>, dir: &Dir, temp: &[u8], path: &[u8]) -> io::Result<()> {
    let (above, name) = split(path);
    let error = match dir.rename(temp, name) {
        Err(e) if Errno::from_io_error(&e) == Some(Errno::ISDIR) => e,
        other => return other,
    };
    if !run.spec.delete_extra {
        return Err(io::Error::new(
            error.kind(),
            "a directory is in its place; with delete it would be removed",
        ));
    }
    let stays = |inner: &[Vec<u8>]| {
        let above = above.split(|b| *b == b'/').filter(|name| !name.is_empty());
        let names: Vec<&[u8]> = above.chain(inner.iter().map(Vec::as_slice)).collect();
        run.selection.spares(&names)
    };
    if run.selection.may_spare() && dir.holds_any(name, &stays)? {
        return Err(io::Error::other("a directory is in its place, and in it is what is not to be deleted"));
    }
    let removed = dir.remove_all(name)?;
    count(&run.tally.deleted, removed);
    dir.rename(temp, name)
}

/// Gives a new file its size and its room at once, so that it lies in one piece and a full disk is met early.
fn reserve(fd: &OwnedFd, size: u64) -> io::Result<()> {
    match rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, size) {
        Ok(()) => Ok(()),
        Err(e @ (Errno::NOSPC | Errno::DQUOT)) => Err(e.into()),
        // Not every file system can.
        Err(_) => Ok(rustix::fs::ftruncate(fd, size)?),
    }
}

/// Writes all of it, and asks the kernel not to keep it in the page cache once it is on the disk: what is restored is not
/// read again at once, and would drive out what the applications of the node are reading.
fn write_all(fd: &OwnedFd, mut at: u64, mut bytes: &[u8]) -> io::Result<()> {
    let mut uncached = bytes.len() >= MIN_UNCACHED;
    while !bytes.is_empty() {
        let written = rustix::io::retry_on_intr(|| {
            if uncached {
                rustix::io::pwritev2(fd, &[IoSlice::new(bytes)], at, UNCACHED)
            } else {
                rustix::io::pwrite(fd, bytes, at)
            }
        });
        let written = match written {
            // Linux before 6.14, file systems that do not know it, and sandboxes that know no such call.
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::PERM) if uncached => {
                uncached = false;
                continue;
            }
            written => written?,
        };
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        at = at.saturating_add(written as u64);
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}

/// Writes bytes, and holes for long runs of zeros. Where something may be in the file, the hole is punched: not
/// writing it would leave the old bytes.
fn write_with_holes(fd: &OwnedFd, at: u64, bytes: &[u8], clean: bool) -> io::Result<()> {
    let mut from = 0;
    for (zeros, end) in runs(bytes, at) {
        let here = at.saturating_add(from as u64);
        let part = bytes.get(from..end).unwrap_or_default();
        if !zeros {
            write_all(fd, here, part)?;
        } else if !clean {
            let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            if rustix::fs::fallocate(fd, how, here, part.len() as u64).is_err() {
                write_all(fd, here, part)?;
            }
        }
        from = end;
    }
    Ok(())
}

/// Cuts bytes that go to `at` into stretches: (are long zeros, end).
fn runs(bytes: &[u8], at: u64) -> Vec<(bool, usize)> {
    let mut out: Vec<(bool, usize)> = Vec::new();
    let mut push = |zeros: bool, end: usize| match out.last_mut() {
        Some(last) if last.0 == zeros => last.1 = end,
        _ => out.push((zeros, end)),
    };
    // The first stretch ends at a block of the file, all others are whole blocks.
    let head =
        usize::try_from(at.next_multiple_of(BLOCK as u64).saturating_sub(at)).unwrap_or(0).min(bytes.len());
    if head > 0 {
        push(false, head);
    }
    let mut zeros_from = None;
    let mut from = head;
    while from < bytes.len() {
        let end = from.saturating_add(BLOCK).min(bytes.len());
        let zero = bytes.get(from..end).is_some_and(is_zero);
        match (zero, zeros_from) {
            (true, None) => zeros_from = Some(from),
            (true, Some(_)) => {}
            (false, Some(start)) => {
                push(from.saturating_sub(start) >= MIN_HOLE, from);
                push(false, end);
                zeros_from = None;
            }
            (false, None) => push(false, end),
        }
        from = end;
    }
    if let Some(start) = zeros_from {
        push(bytes.len().saturating_sub(start) >= MIN_HOLE, bytes.len());
    }
    out
}

fn is_zero(block: &[u8]) -> bool {
    let (words, rest) = block.as_chunks::<32>();
    // Nearly all blocks that are not zero show it in the first byte.
    block.first() == Some(&0) && words.iter().all(|w| *w == [0; 32]) && rest.iter().all(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::event::Ctx;
    use crate::restore::select::Selection;
    use crate::restore::{RestorePlan, RestoreSpec};

    #[test]
    fn what_vanishes_before_it_is_left_as_it_was_is_a_failure_of_the_file() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let target = Target::create(dir.path()).expect("target");
        let (spec, selection, ctx) = (RestoreSpec::default(), Selection::default(), Ctx::default());
        let run = Run::new(&spec, &selection, &target, &ctx, &RestorePlan::default());
        let job = FileJob::new(b"gone".to_vec(), &Node::default(), 0, 0..0, Action::Leave, None);
        job.prepare(&run, &mut Near::default(), &[], &mut |_| {});
        assert!(job.failed() && !job.is_done() && run.has_faults());
        assert_eq!(run.tally.unchanged.load(Ordering::Relaxed), 0);
    }

    fn content() -> Vec<u8> {
        let mut bytes = vec![0_u8; 1 << 20];
        bytes[0] = 1;
        bytes[300_000] = 2;
        bytes[700_000..700_100].fill(3);
        bytes
    }

    #[test]
    fn runs_cover_everything_and_only_zeros_are_holes() {
        let bytes = content();
        for at in [0_u64, 1, 4095, 4096, 123_456] {
            let runs = runs(&bytes, at);
            let mut from = 0;
            for (zeros, end) in &runs {
                assert!(*end > from);
                if *zeros {
                    assert!(end - from >= MIN_HOLE && bytes[from..*end].iter().all(|b| *b == 0));
                    assert_eq!((at + from as u64) % BLOCK as u64, 0);
                }
                from = *end;
            }
            assert_eq!(from, bytes.len());
            assert_eq!(runs.iter().filter(|r| r.0).count(), 3, "{runs:?}");
        }
        assert!(runs(&[], 5).is_empty());
        assert_eq!(runs(&[0; 4096], 0), [(false, 4096)]);
    }

    #[test]
    fn holes_hold_no_old_bytes() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let bytes = content();
        for (name, old, clean) in [("clean", 0_u8, true), ("dirty", 0xaa, false)] {
            let path = dir.path().join(name);
            std::fs::write(&path, vec![old; if clean { 0 } else { bytes.len() }]).expect("write");
            let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).expect("open");
            file.set_len(bytes.len() as u64).expect("size");
            write_with_holes(&file.into(), 0, &bytes, clean).expect("written");
            assert_eq!(std::fs::read(&path).expect("read"), bytes, "{name}");
            let meta = std::fs::metadata(&path).expect("stat");
            assert!(meta.blocks() * 512 < bytes.len() as u64 / 4, "{name} takes {} blocks", meta.blocks());
        }
    }

    #[test]
    fn zeros_are_zeros() {
        assert!(is_zero(&[0; 4096]) && is_zero(&[0; 5]) && !is_zero(&[]));
        for place in [0, 1, 31, 32, 4095] {
            let mut block = [0_u8; 4096];
            block[place] = 1;
            assert!(!is_zero(&block), "{place}");
        }
    }
}
