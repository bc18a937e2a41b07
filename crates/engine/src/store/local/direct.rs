//! Writing past the page cache.
//!
//! A pack that was just written is not read again soon. In the page cache it costs a copy into pages that have to be
//! found first (a fifth of a backup's processor time where the machine has to be given them) and drives out what the
//! applications of the node are reading. `O_DIRECT` wants memory, offsets and lengths in whole blocks (open(2)), hence the
//! aligned buffer and the zeros after the end, which the caller cuts off.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::store::Body;

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
pub(super) fn write_all(file: &File, body: &Body) -> io::Result<()> {
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
fn write_blocks(file: &File, body: &Body, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.resize(PIECE + BLOCK, 0);
    let start = buffer.as_ptr().align_offset(BLOCK);
    let Some(aligned) = buffer.get_mut(start..start + PIECE) else { return Err(Errno::INVAL.into()) };
    let (mut filled, mut written) = (0, 0);
    for mut piece in body.pieces().iter().map(|piece| &piece[..]) {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

    use std::fs;

    use super::*;

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
        let kind = rustix::fs::statfs(directory.path()).unwrap().f_type;
        // Others may keep a copy, or have no disk.
        if ![0xEF53, 0x5846_5342].contains(&kind) {
            return;
        }
        let cached = |path: &std::path::Path| {
            let mut byte = [0];
            let mut into = [io::IoSliceMut::new(&mut byte)];
            // A read that may not wait gives what is in the cache (preadv2(2), `RWF_NOWAIT`).
            let read = rustix::io::preadv2(
                File::open(path).unwrap(),
                &mut into,
                0,
                rustix::io::ReadWriteFlags::NOWAIT,
            );
            read.map(|count| count == 1)
        };
        let (direct, usual) = (directory.path().join("direct"), directory.path().join("usual"));
        write_all(&File::create(&direct).unwrap(), &vec![7; 2 * PIECE].into()).unwrap();
        fs::write(&usual, vec![7; 2 * PIECE]).unwrap();
        assert_eq!((cached(&direct), cached(&usual)), (Err(Errno::AGAIN), Ok(true)));
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
