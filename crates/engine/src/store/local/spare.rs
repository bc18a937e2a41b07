//! Memory for what is read, used again.
//!
//! Fresh memory for each pack costs the kernel a fault a page, which is more than the copying from the page cache.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Shorter reads come from the allocator's heap, which is quick.
const SMALLEST: usize = 1 << 20;
/// Longer ones are rare: what they took goes back.
const LARGEST: usize = 20 << 20;
/// How many pieces are kept. No more than were in use at one time anyway.
const KEPT: usize = 3;

/// Pieces that nobody uses now.
#[derive(Clone, Default)]
pub(super) struct Spare(Arc<Mutex<Vec<Vec<u8>>>>);

/// A piece in use; comes back when it is dropped.
struct Lent {
    bytes: Vec<u8>,
    spare: Spare,
}

impl Spare {
    fn kept(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many bytes as `fill` leaves in a piece of that length, whose content is arbitrary before.
    pub(super) fn filled<E>(
        &self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Bytes, E> {
        self.filled_aligned(length, 1, fill)
    }

    /// The same, beginning at an address that is a multiple of `alignment`.
    pub(super) fn filled_aligned<E>(
        &self,
        length: usize,
        alignment: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Bytes, E> {
        let wanted = length;
        // Room to begin anywhere.
        let length = length + alignment - 1;
        if length < SMALLEST {
            let mut bytes = vec![0; length];
            let start = bytes.as_ptr().align_offset(alignment);
            fill(bytes.get_mut(start..start + wanted).unwrap_or_default())?;
            return Ok(Bytes::from(bytes).slice(start..start + wanted));
        }
        // Not one that is far too large: whoever keeps a short piece would keep its memory.
        let fits = |bytes: &Vec<u8>| (length..=2 * length).contains(&bytes.capacity());
        let kept = {
            let mut kept = self.kept();
            kept.iter().position(fits).map(|found| kept.swap_remove(found))
        };
        let mut bytes = kept.unwrap_or_default();
        if bytes.capacity() == 0 {
            // Packs differ a little in length, and the next may be longer: what is not touched costs nothing.
            bytes = vec![0; length.next_multiple_of((length / 8).next_power_of_two())];
        }
        bytes.resize(length, 0);
        let mut lent = Lent { bytes, spare: self.clone() };
        let start = lent.bytes.as_ptr().align_offset(alignment);
        fill(lent.bytes.get_mut(start..start + wanted).unwrap_or_default())?;
        Ok(Bytes::from_owner(lent).slice(start..start + wanted))
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut kept = self.spare.kept();
        if bytes.capacity() > LARGEST {
            return;
        }
        if kept.len() >= KEPT {
            // What came back first is of a length that is asked for no more.
            kept.remove(0);
        }
        kept.push(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full_of(spare: &Spare, byte: u8, length: usize) -> Bytes {
        let fill = |bytes: &mut [u8]| {
            bytes.fill(byte);
            Ok::<_, ()>(())
        };
        spare.filled(length, fill).unwrap()
    }

    #[test]
    fn memory_is_used_again_and_never_shared() {
        let spare = Spare::default();
        let first = full_of(&spare, 1, 2 * SMALLEST);
        let at = first.as_ptr();
        let part = first.slice(5..SMALLEST);
        drop(first);
        let second = full_of(&spare, 2, 2 * SMALLEST);
        assert_ne!(second.as_ptr(), at, "a part of it is still in use");
        assert!(part.iter().all(|b| *b == 1) && second.iter().all(|b| *b == 2));
        drop(part);
        let third = full_of(&spare, 3, SMALLEST + 1);
        assert_eq!((third.as_ptr(), third.len()), (at, SMALLEST + 1));
        assert!(third.iter().all(|b| *b == 3));
        drop((second, third));
        for _ in 0..2 {
            let many: Vec<_> = (0..2 * KEPT).map(|_| full_of(&spare, 4, SMALLEST)).collect();
            drop(many);
        }
        assert_eq!(spare.kept().len(), KEPT);
        drop(spare.filled(LARGEST + SMALLEST, |_| Err(())));
        assert_eq!(spare.kept().len(), KEPT);
        assert!(
            spare.kept().iter().all(|bytes| bytes.capacity() <= LARGEST),
            "what is too large is not kept"
        );

        let large = full_of(&spare, 5, 8 * SMALLEST + 1);
        let at = large.as_ptr();
        drop(large);
        let small = full_of(&spare, 6, SMALLEST);
        assert_ne!(small.as_ptr(), at, "a short piece does not take a long one's memory");
        assert_eq!(full_of(&spare, 7, 6 * SMALLEST).as_ptr(), at);
        assert_eq!(full_of(&spare, 8, 8 * SMALLEST + SMALLEST / 3).as_ptr(), at, "a little longer fits too");
    }
}
