//! The read buffers of a run: a fixed number of them, each as large as the largest chunk, used again and again.
//!
//! Their number bounds the memory between reading and compressing, and makes a slow store slow the readers down.

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::chunk::MAX_SIZE;

/// Hands out buffers and takes them back.
#[derive(Clone)]
pub(crate) struct Pool {
    free: Receiver<Vec<u8>>,
    back: Sender<Vec<u8>>,
}

/// A buffer of [`MAX_SIZE`] bytes; goes back to its pool when dropped. What it holds is left from its last use.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
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
        Buffer { bytes, back: self.back.clone() }
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let _ = self.back.try_send(std::mem::take(&mut self.bytes));
    }
}
