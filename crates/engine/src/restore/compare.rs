//! Whether a file holds the chunks that it should.
//!
//! Not here: what is done about those that it does not (`file`).

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Advice, OFlags};
use rustix::io::Errno;

use crate::id::{Id, IdHasher};

/// What is read at a time, a multiple of [`BLOCK`].
const READ: usize = 512 << 10;
/// A multiple of every block size in use: where reads past the page cache begin, in the file and in memory.
const BLOCK: usize = 4096;

thread_local! {
    /// Room for one read, and to begin it on a block.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A chunk's place in its file, and what must be there.
pub(crate) struct Expected {
    pub(crate) at: u64,
    pub(crate) length: u64,
    pub(crate) id: Id,
}

/// Where a file's content is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// The page cache too: it knows what others have written just now.
    Cache,
    /// The disk, as far as its file system lets: what was written there is what will be there after a crash. It also
    /// costs much less, for the kernel need not find and fill pages of the cache for it.
    Disk,
}

/// The positions of those of the expected chunks that are not there. `Interrupted` when it was stopped: what was compared
/// until then says nothing about the rest.
pub(crate) fn differing(
    fd: &OwnedFd,
    expected: &[Expected],
    ask: Ask,
    stopped: impl Fn() -> bool,
) -> io::Result<Vec<usize>> {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(READ + BLOCK, 0);
        let begin = buffer.as_ptr().align_offset(BLOCK);
        let buffer = buffer.get_mut(begin..begin.saturating_add(READ)).unwrap_or_default();
        let mut blocks = Blocks { fd, buffer, start: 0, filled: 0, direct: false };
        if ask == Ask::Disk {
            blocks.past_the_cache();
        }
        let wrong = blocks.differing(expected, stopped);
        if blocks.direct {
            // The caller may write to it.
            blocks.set_direct(false);
        }
        wrong
    })
}

/// A file, and the part of it that was read last.
struct Blocks<'a> {
    fd: &'a OwnedFd,
    buffer: &'a mut [u8],
    /// Where in the file the buffer's bytes begin, and how many there are.
    start: u64,
    filled: usize,
    /// Reads go past the page cache.
    direct: bool,
}

impl Blocks<'_> {
    /// Lets what is cached of it go, so that the disk is asked on each path, and then reads past the cache where that can
    /// be done.
    fn past_the_cache(&mut self) {
        let _ = rustix::fs::fadvise(self.fd, 0, None, Advice::DontNeed);
        self.direct = self.set_direct(true);
    }

    fn set_direct(&self, on: bool) -> bool {
        let Ok(mut flags) = rustix::fs::fcntl_getfl(self.fd) else { return false };
        flags.set(OFlags::DIRECT, on);
        rustix::fs::fcntl_setfl(self.fd, flags).is_ok()
    }

    fn differing(&mut self, expected: &[Expected], stopped: impl Fn() -> bool) -> io::Result<Vec<usize>> {
        let mut wrong = Vec::new();
        for (position, chunk) in expected.iter().enumerate() {
            if stopped() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if self.digest(chunk)? != Some(chunk.id) {
                wrong.push(position);
            }
        }
        Ok(wrong)
    }

    /// The digest of what is at a chunk's place; `None` when the file ends before.
    fn digest(&mut self, chunk: &Expected) -> io::Result<Option<Id>> {
        let mut digest = IdHasher::new();
        let mut done = 0;
        while done < chunk.length {
            let left = usize::try_from(chunk.length - done).unwrap_or(usize::MAX);
            let found = self.from(chunk.at.saturating_add(done))?;
            let part = found.get(..left.min(found.len())).unwrap_or_default();
            if part.is_empty() {
                return Ok(None);
            }
            digest.update(part);
            done = done.saturating_add(part.len() as u64);
        }
        Ok(Some(digest.finish()))
    }

    /// Some bytes of the file from `offset` on; none at its end.
    fn from(&mut self, offset: u64) -> io::Result<&[u8]> {
        let known = self.start..self.start.saturating_add(self.filled as u64);
        if !known.contains(&offset) {
            self.filled = 0;
            self.filled = self.read(offset)?;
        }
        let skip = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        Ok(self.buffer.get(skip..self.filled).unwrap_or_default())
    }

    /// Fills the buffer with what begins at `offset`, or at the block that has it.
    fn read(&mut self, offset: u64) -> io::Result<usize> {
        self.start = if self.direct { offset - offset % BLOCK as u64 } else { offset };
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(self.fd, &mut *self.buffer, self.start));
        match read {
            // Not this file system, or not this device.
            Err(Errno::INVAL | Errno::OPNOTSUPP) if self.direct => {
                self.direct = false;
                self.set_direct(false);
                self.read(offset)
            }
            read => Ok(read?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// Chunks of these lengths, one after the other, of what `bytes` has.
    fn chunks(bytes: &[u8], lengths: &[usize]) -> Vec<Expected> {
        let mut at = 0;
        let mut of = |length: usize| {
            let id = Id::hash(&bytes[at..at + length]);
            let expected = Expected { at: at as u64, length: length as u64, id };
            at += length;
            expected
        };
        lengths.iter().map(|length| of(*length)).collect()
    }

    fn file(bytes: &[u8]) -> (tempfile::TempDir, OwnedFd) {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        File::open(&path).unwrap().sync_all().unwrap();
        (directory, File::open(&path).unwrap().into())
    }

    #[test]
    fn what_is_there_is_found_and_what_differs_is_named_by_cache_and_disk() {
        let bytes: Vec<u8> = (0..=250).cycle().take(3 * READ + 4871).collect();
        let expected = chunks(&bytes, &[1, BLOCK - 1, 777, READ, 2, READ + BLOCK, READ - BLOCK - 4]);
        for ask in [Ask::Cache, Ask::Disk] {
            let (_kept, fd) = file(&bytes);
            assert!(differing(&fd, &expected, ask, || false).unwrap().is_empty(), "{ask:?}");
            // One byte of a chunk in the middle, and the end is missing.
            let mut wrong = bytes.clone();
            wrong[BLOCK + 777 + 5] ^= 1;
            wrong.truncate(3 * READ);
            let (_kept, fd) = file(&wrong);
            assert_eq!(differing(&fd, &expected, ask, || false).unwrap(), [3, 6], "{ask:?}");
        }
    }

    #[test]
    fn an_empty_file_lacks_every_chunk() {
        for ask in [Ask::Cache, Ask::Disk] {
            let (_kept, fd) = file(&[]);
            assert_eq!(differing(&fd, &chunks(&[7; 9], &[4, 5]), ask, || false).unwrap(), [0, 1]);
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_directly_is_read_all_the_same() {
        // Memory files have no direct way before Linux 6.6, and one that changes nothing since.
        let fd = rustix::fs::memfd_create("compare", rustix::fs::MemfdFlags::empty()).unwrap();
        rustix::io::pwrite(&fd, &[7; 9], 0).unwrap();
        assert_eq!(differing(&fd, &chunks(&[7; 9], &[4, 5]), Ask::Disk, || false).unwrap(), [0_usize; 0]);
    }

    #[test]
    fn what_was_stopped_says_nothing() {
        let (_kept, fd) = file(&[7; 9]);
        let error = differing(&fd, &chunks(&[7; 9], &[4, 5]), Ask::Cache, || true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }
}
