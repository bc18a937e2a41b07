//! Cuts the bytes of one file, which come in order, into chunks and hands those to the workers. Nothing is copied:
//! a chunk is pieces of the segments that were read into.
//!
//! Not here: where the bytes come from (`read`, `stream`).

use std::sync::Arc;

use crossbeam_channel::Sender;

use super::Shared;
use super::buffer::{Piece, Pool, SEGMENT, Segment};
use super::file::File;
use super::worker::{Chunk, Job};
use crate::chunk::{LOOK_BACK, MIN_SIZE};

/// The state between two segments of a file. Whoever has one has a turn of the pool, too.
pub(crate) struct Cutter<'a> {
    shared: &'a Shared,
    pool: &'a Pool,
    jobs: &'a Sender<Job>,
    file: &'a Arc<File>,
    /// The chunk that has not ended yet.
    pieces: Vec<Piece>,
    /// Its bytes so far.
    length: usize,
    /// The last bytes of the last segment.
    before: [u8; LOOK_BACK],
}

impl<'a> Cutter<'a> {
    pub(crate) fn new(
        shared: &'a Shared,
        pool: &'a Pool,
        jobs: &'a Sender<Job>,
        file: &'a Arc<File>,
    ) -> Self {
        Self { shared, pool, jobs, file, pieces: Vec::new(), length: 0, before: [0; LOOK_BACK] }
    }

    /// Whether the next byte begins a chunk.
    pub(crate) fn at_start(&self) -> bool {
        self.length == 0
    }

    /// A segment for the next bytes, and how many of them it should take. Up to the smallest chunk there is nothing
    /// to look for, and a chunk of zeros ends there exactly.
    pub(crate) fn segment(&self) -> (Segment, usize) {
        let mut segment = self.pool.get();
        segment.set_before(&self.before);
        let left = MIN_SIZE.saturating_sub(self.length);
        (segment, if left > 0 { left.min(SEGMENT) } else { SEGMENT })
    }

    /// Takes the segment with its first `count` bytes filled.
    pub(crate) fn take(&mut self, segment: Segment, count: usize) {
        self.before = segment.before(count);
        let segment = Arc::new(segment);
        let mut start = 0;
        while start < count {
            let cut = self.shared.chunker.find_cut_in(self.length, segment.with_before(start, count));
            let end = cut.map_or(count, |length| start + length);
            self.pieces.push(Piece { segment: Arc::clone(&segment), start, end });
            self.length += end - start;
            start = end;
            if cut.is_some() {
                self.send();
            }
        }
    }

    /// The file's end: what is left is the last chunk.
    pub(crate) fn end(mut self) {
        if !self.pieces.is_empty() {
            self.send();
        }
    }

    fn send(&mut self) {
        self.length = 0;
        let content = std::mem::take(&mut self.pieces);
        let chunk = Chunk { file: Arc::clone(self.file), index: self.file.next_chunk(), content };
        // A closed queue means that the workers have stopped, and why is known by then.
        let _ = self.jobs.send(Job::Chunks(vec![chunk]));
    }
}
