//! The memory between reading and compressing: segments of one size, a fixed number of them, used again and again.
//!
//! They are the run's budget for file content: a slow store leaves no free ones, and that slows the readers down.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::chunk::{LOOK_BACK, MAX_SIZE};

/// Bytes of content in a segment. Small enough to stay in a core's own cache from reading to scanning.
pub(crate) const SEGMENT: usize = 256 << 10;
/// Segments that one unfinished chunk takes at most: a full one, and those that are not filled because the chunk
/// begins or may end there.
const CHUNK_SEGMENTS: usize = MAX_SIZE / SEGMENT + 4;
/// Segments for each worker: chunks that are worked on or wait for it. 4 MiB, two to three chunks.
const WORKER_SEGMENTS: usize = 16;

/// Hands out segments and takes them back.
#[derive(Clone)]
pub(crate) struct Pool {
    free: Receiver<Vec<u8>>,
    back: Sender<Vec<u8>>,
    turns: Receiver<()>,
    turns_back: Sender<()>,
}

/// The right to hold a whole unfinished chunk in segments. With more readers waiting in the middle of a chunk than
/// there are segments for, none could go on.
pub(crate) struct Turn {
    back: Sender<()>,
}

/// Memory for [`SEGMENT`] bytes of content, and for what is looked back at before them. Goes back to its pool when
/// dropped. What it holds is left from its last use.
pub(crate) struct Segment {
    bytes: Vec<u8>,
    back: Sender<Vec<u8>>,
}

/// Consecutive bytes of a segment.
pub(crate) struct Piece {
    pub(crate) segment: Arc<Segment>,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Pool {
    /// Segments for so many threads that read, and workers. Of the readers half read large files at a time.
    pub(crate) fn new(readers: usize, workers: usize) -> Self {
        let large = readers.div_ceil(2).max(1);
        let count = large * CHUNK_SEGMENTS + readers + workers * WORKER_SEGMENTS;
        let (back, free) = bounded(count);
        for _ in 0..count {
            // Room for exactly `count` was made.
            let _ = back.try_send(Vec::new());
        }
        let (turns_back, turns) = bounded(large);
        for _ in 0..large {
            let _ = turns_back.try_send(());
        }
        Self { free, back, turns, turns_back }
    }

    /// Waits for a free segment. Whoever holds more than one has a [`Turn`].
    pub(crate) fn get(&self) -> Segment {
        // Never disconnected: this pool holds both ends.
        let mut bytes = self.free.recv().unwrap_or_default();
        if bytes.is_empty() {
            // Untouched zeroed memory costs nothing until it is written to.
            bytes = vec![0; LOOK_BACK + SEGMENT];
        }
        Segment { bytes, back: self.back.clone() }
    }

    /// Waits until a large file may be read.
    pub(crate) fn turn(&self) -> Turn {
        let _ = self.turns.recv();
        Turn { back: self.turns_back.clone() }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let _ = self.back.try_send(());
    }
}

impl Segment {
    /// Where content goes.
    pub(crate) fn content_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(LOOK_BACK..).unwrap_or_default()
    }

    /// The content.
    pub(crate) fn content(&self) -> &[u8] {
        self.bytes.get(LOOK_BACK..).unwrap_or_default()
    }

    /// Puts what came before the content where it can be looked back at.
    pub(super) fn set_before(&mut self, before: &[u8; LOOK_BACK]) {
        if let Some(place) = self.bytes.first_chunk_mut() {
            *place = *before;
        }
    }

    /// The last bytes before `end` of the content; of what was before the content, if need be.
    pub(super) fn before(&self, end: usize) -> [u8; LOOK_BACK] {
        self.bytes.get(end..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; LOOK_BACK])
    }

    /// `start..end` of the content, and what is before it.
    pub(super) fn with_before(&self, start: usize, end: usize) -> &[u8] {
        self.bytes.get(start..LOOK_BACK + end).unwrap_or_default()
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        let _ = self.back.try_send(std::mem::take(&mut self.bytes));
    }
}

impl Piece {
    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.segment.content().get(self.start..self.end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_come_back_and_are_no_more_than_was_said() {
        let pool = Pool::new(2, 1);
        let count = CHUNK_SEGMENTS + 2 + WORKER_SEGMENTS;
        let all: Vec<Segment> = (0..count).map(|_| pool.get()).collect();
        assert!(pool.free.is_empty());
        drop(all);
        assert_eq!(pool.free.len(), count);
        let turn = pool.turn();
        assert!(pool.turns.is_empty(), "of two readers one reads large files");
        drop(turn);
        assert_eq!(pool.turns.len(), 1);
    }

    #[test]
    fn what_is_before_reaches_over_the_beginning() {
        let pool = Pool::new(1, 1);
        let mut segment = pool.get();
        segment.set_before(&[1; LOOK_BACK]);
        segment.content_mut()[..10].fill(2);
        let before = segment.before(10);
        assert_eq!((before[LOOK_BACK - 11], before[LOOK_BACK - 10]), (1, 2));
        assert_eq!(segment.before(0), [1; LOOK_BACK]);
        assert_eq!(segment.with_before(0, 10).len(), LOOK_BACK + 10);
        assert_eq!(segment.with_before(4, 10)[LOOK_BACK - 5..LOOK_BACK - 3], [1, 2]);
    }
}
