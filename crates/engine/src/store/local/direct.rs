//! Writing and reading past the page cache.
//!
//! A pack that was just written is not read again soon, and one that was read neither. In the page cache it costs a copy
//! and pages that have to be found first (a fifth of a backup's processor time, and half the speed of a read, where the
//! machine has to be given them) and drives out what the applications of the node are reading. `O_DIRECT` wants memory,
//! offsets and lengths in whole blocks (open(2)), hence the aligned buffers and the zeros after the end, which the caller
//! cuts off.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use rustix::fs::{Advice, OFlags};
use rustix::io::Errno;

use super::spare::Spare;
use crate::store::PutPayload;

/// A multiple of every block size in use.
const BLOCK: usize = 4096;

/// What is written at once, a multiple of [`BLOCK`].
const PIECE: usize = 1 << 20;

thread_local! {
    /// One piece, and room to begin it on a block.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Writes all of `body` from the file's beginning. The file may be longer afterwards, by less than a block of zeros.
/// Where the file system does not take it all goes through the page cache.
pub(super) fn write_all(file: &File, body: &PutPayload) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    if rustix::fs::fcntl_setfl(file, flags | OFlags::DIRECT).is_err() {
        return super::write_all(file, body);
    }
    let result = BUFFER.with_borrow_mut(|buffer| write_blocks(file, body, buffer));
    rustix::fs::fcntl_setfl(file, flags)?;
    match result {
        // Also what is left when only some bytes were taken does not begin on a block.
        Err(e) if Errno::from_io_error(&e) == Some(Errno::INVAL) => super::write_all(file, body),
        result => result,
    }
}

/// Gathers the body in the buffer, which begins on a block, and writes that whenever it is full.
fn write_blocks(file: &File, body: &PutPayload, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.resize(PIECE + BLOCK, 0);
    let start = buffer.as_ptr().align_offset(BLOCK);
    let Some(aligned) = buffer.get_mut(start..start + PIECE) else { return Err(Errno::INVAL.into()) };
    let (mut filled, mut written) = (0, 0);
    for mut piece in body.iter().map(|piece| &piece[..]) {
        while !piece.is_empty() {
            let (now, later) = piece.split_at(piece.len().min(PIECE - filled));
            if let Some(place) = aligned.get_mut(filled..filled + now.len()) {
                place.copy_from_slice(now);
            }
            (filled, piece) = (filled + now.len(), later);
            if filled == PIECE {
                file.write_all_at(aligned, written)?;
                (filled, written) = (0, written + PIECE as u64);
            }
        }
    }
    let end = filled.next_multiple_of(BLOCK);
    if let Some(zeros) = aligned.get_mut(filled..end) {
        zeros.fill(0);
    }
    file.write_all_at(aligned.get(..end).unwrap_or_default(), written)
}

/// The bytes of `range`, which the file has, read past the page cache. `None` where that is not the better way: what is in
/// the cache is had from there, and not every file system has the other.
pub(super) fn read(file: &File, range: &Range<u64>, spare: &Spare) -> io::Result<Option<Bytes>> {
    let start = range.start - range.start % BLOCK as u64;
    let (Ok(skip), Ok(length)) =
        (usize::try_from(range.start - start), usize::try_from(range.end.saturating_sub(range.start)))
    else {
        return Ok(None);
    };
    if is_in_cache(file, range.start) {
        return Ok(None);
    }
    let flags = rustix::fs::fcntl_getfl(file)?;
    if rustix::fs::fcntl_setfl(file, flags | OFlags::DIRECT).is_err() {
        return Ok(None);
    }
    // Whole blocks; of the last one the file may have only a part.
    let wanted = skip + length;
    let from_start = |place: &mut [u8]| read_blocks(file, place, wanted, start);
    let filled = spare.filled_aligned(wanted.next_multiple_of(BLOCK), BLOCK, from_start);
    rustix::fs::fcntl_setfl(file, flags)?;
    forget_asked(file, start);
    match filled {
        Ok(bytes) => Ok(Some(bytes.slice(skip..wanted))),
        Err(e) if Errno::from_io_error(&e) == Some(Errno::INVAL) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether the byte at `offset` is in the page cache: a read that may not wait gives it then (preadv2(2), `RWF_NOWAIT`).
/// Where that cannot be asked it is taken to be there. Asking makes the kernel fetch what is not there: its page, and not
/// more where nothing is read ahead; see [`forget_asked`].
fn is_in_cache(file: &File, offset: u64) -> bool {
    let _ = rustix::fs::fadvise(file, 0, None, Advice::Random);
    let mut byte = [0];
    let mut into = [io::IoSliceMut::new(&mut byte)];
    let read = rustix::io::preadv2(file, &mut into, offset, rustix::io::ReadWriteFlags::NOWAIT);
    read != Err(Errno::AGAIN)
}

/// Lets go of the page that was fetched because it was asked for, which begins at `block`: the next one to ask must not take
/// all for cached.
fn forget_asked(file: &File, block: u64) {
    // Only whole pages are let go of.
    let page = rustix::param::page_size() as u64;
    let _ = rustix::fs::fadvise(file, block - block % page, NonZeroU64::new(page), Advice::DontNeed);
}

/// Reads at least `wanted` bytes, in whole blocks as far as the file has them.
fn read_blocks(file: &File, place: &mut [u8], wanted: usize, start: u64) -> io::Result<()> {
    let mut filled = 0;
    while filled < wanted {
        let rest = place.get_mut(filled..).unwrap_or_default();
        match file.read_at(rest, start + filled as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            // A read that was broken off within a block cannot go on there.
            Ok(count) if filled + count < wanted && !count.is_multiple_of(BLOCK) => {
                return Err(Errno::INVAL.into());
            }
            Ok(count) => filled += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Whether it is ext4 or XFS: others may keep a copy, or have no disk.
    fn has_a_disk(path: &std::path::Path) -> bool {
        [0xEF53, 0x5846_5342].contains(&rustix::fs::statfs(path).unwrap().f_type)
    }

    #[test]
    fn what_is_written_is_what_was_given_at_every_length() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = directory.path().join("file");
        for length in [1, BLOCK - 1, BLOCK, BLOCK + 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 777] {
            let body: Vec<u8> = (0..=250).cycle().take(length).collect();
            let file = File::create(&path).unwrap();
            for piece in [length, 999_983, 4096] {
                let pieces = body.chunks(piece).map(bytes::Bytes::copy_from_slice);
                write_all(&file, &pieces.collect()).unwrap();
                file.set_len(length as u64).unwrap();
                assert!(fs::read(&path).unwrap() == body, "{length} in pieces of {piece}");
            }
            assert!(!rustix::fs::fcntl_getfl(&file).unwrap().contains(OFlags::DIRECT));
        }
    }

    #[test]
    fn what_was_written_is_on_the_disk_and_not_in_the_page_cache() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        if !has_a_disk(directory.path()) {
            return;
        }
        let new = |name: &str| {
            let path = directory.path().join(name);
            write_all(&File::create(&path).unwrap(), &vec![7; 2 * PIECE].into()).unwrap();
            File::open(path).unwrap()
        };
        // Of so many places, each asked for once: the kernel begins to fetch what is asked for, and may be so quick that
        // it seems to have been there. On a busy machine even with all of them, hence so many files.
        let places = 16;
        let tries = 16;
        let cached = |file: &File| {
            (0..places).filter(|place| is_in_cache(file, place * 2 * PIECE as u64 / places)).count()
        };
        let usual = directory.path().join("usual");
        fs::write(&usual, vec![7; 2 * PIECE]).unwrap();
        let usual = File::open(usual).unwrap();
        assert!((0..tries).any(|n| cached(&new(&format!("written {n}"))) < 16));
        assert_eq!(cached(&usual), 16);

        // What is not in the cache is read and still is not; what is there is had from there.
        let (spare, range) = (Spare::default(), 5..2 * PIECE as u64);
        assert!((0..tries).any(|n| {
            let file = new(&format!("read {n}"));
            let bytes = read(&file, &range, &spare).unwrap();
            assert!(bytes.as_ref().is_none_or(|bytes| *bytes == vec![7; 2 * PIECE - 5]));
            bytes.is_some() && cached(&file) < 16
        }));
        assert_eq!(read(&usual, &range, &spare).unwrap(), None);
    }

    #[test]
    fn every_range_is_read_as_it_is() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = directory.path().join("file");
        let body: Vec<u8> = (0..=250).cycle().take(2 * PIECE + 777).collect();
        let spare = Spare::default();
        let mut directly = 0;
        for (from, to) in [
            (0, 1),
            (0, body.len()),
            (BLOCK - 1, BLOCK + 1),
            (BLOCK, 3 * BLOCK),
            (777, PIECE + 778),
            (body.len() - 1, body.len()),
            (2 * PIECE, body.len()),
            (5, 5),
        ] {
            // Anew each time: the page that was asked for may still be on its way into the cache.
            let _ = fs::remove_file(&path);
            let file = File::create(&path).unwrap();
            write_all(&file, &body.clone().into()).unwrap();
            file.set_len(body.len() as u64).unwrap();
            let range = from as u64..to as u64;
            let found = read(&File::open(&path).unwrap(), &range, &spare).unwrap();
            directly += usize::from(found.is_some());
            assert!(found.is_none_or(|found| found == body[from..to]), "{from}..{to}");
        }
        // Where the file system has no other way the store reads through the cache.
        assert!(directly > 0 || !has_a_disk(directory.path()));
    }

    #[test]
    fn a_file_that_cannot_be_written_directly_is_written_all_the_same() {
        // Memory files have no direct way before Linux 6.6, and one that changes nothing since.
        let file = File::from(rustix::fs::memfd_create("direct", rustix::fs::MemfdFlags::empty()).unwrap());
        let body = vec![7; PIECE + 5];
        write_all(&file, &body.clone().into()).unwrap();
        let mut read = vec![0; body.len()];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read == body);
    }

    #[test]
    fn a_full_disk_is_told() {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error = write_all(&full, &vec![1; PIECE].into()).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::NOSPC));
    }
}
