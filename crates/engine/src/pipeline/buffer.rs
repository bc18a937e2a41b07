//! The read buffers of a run: a fixed number of them, each as large as the largest chunk, used again and again.
//!
//! Their number bounds the memory between reading and compressing, and makes a slow store slow the readers down.

use std::ops::Range;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::chunk::MAX_SIZE;

/// A buffer that was filled further is not kept. A fifth of a large file's chunks are longer (their lengths are half a MiB
/// and an exponential distribution's of mean one); each buffer comes to one of the longest in time, and would keep it.
const KEPT_FILLED: usize = 2 << 20;

/// Hands out buffers and takes them back.
#[derive(Clone)]
pub(crate) struct Pool {
    free: Receiver<Vec<u8>>,
    back: Sender<Vec<u8>>,
}

/// A buffer of [`MAX_SIZE`] bytes; goes back to its pool when dropped. What it holds is left from its last use.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    /// How far it was filled by whoever has it.
    filled: usize,
    back: Sender<Vec<u8>>,
}

impl Pool {
    /// A pool of `count` buffers. A reader holds one and asks for another before it lets go, so there must be more
    /// buffers than readers.
    pub(crate) fn new(count: usize) -> Self {
        let (back, free) = bounded(count);
        for _ in 0..count {
            // Room for exactly `count` was made.
            let _ = back.try_send(Vec::new());
        }
        Self { free, back }
    }

    /// Waits for a free buffer.
    pub(crate) fn get(&self) -> Buffer {
        // Never disconnected: this pool holds both ends.
        let mut bytes = self.free.recv().unwrap_or_default();
        if bytes.is_empty() {
            // Untouched zeroed memory costs nothing until it is written to.
            bytes = vec![0; MAX_SIZE];
        }
        Buffer { bytes, filled: 0, back: self.back.clone() }
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Buffer {
    /// A part of it to be filled; empty where it does not reach.
    pub(crate) fn place(&mut self, range: Range<usize>) -> &mut [u8] {
        self.filled = self.filled.max(range.end);
        self.bytes.get_mut(range).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        if self.filled > KEPT_FILLED {
            // Freed here and now: whoever gets the place takes new memory at once.
            bytes = Vec::new();
        }
        let _ = self.back.try_send(bytes);
    }
}
