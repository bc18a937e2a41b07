//! Blobs of one kind whose ids begin with the same byte, sorted by id.
//!
//! The first byte of an id is the shard's, the second follows from the position. How many bytes of the rest are kept, and
//! whether a number is kept with them, is the width of a slot.

use std::ops::Range;

use crate::id::Id;

/// Whole ids, each with the number of its blob: 34 bytes a blob.
pub(super) type Numbered = Shard<30, 34>;
/// The first 24 bytes of ids and nothing else: 22 bytes a blob.
pub(super) type Bare = Shard<22, 22>;

/// Makes an entry, which is a blob while the index is read: as much as fits of the id without its first byte, then a
/// number, most significant byte first. Ordered as ids and then numbers are.
pub(super) fn entry<const N: usize>(id: &Id, number: u32) -> [u8; N] {
    let mut entry = [0; N];
    let [_, rest @ ..] = id.as_bytes();
    for (to, from) in entry.iter_mut().zip(rest) {
        *to = *from;
    }
    if let Some(tail) = entry.last_chunk_mut() {
        *tail = number.to_be_bytes();
    }
    entry
}

/// Entries while the index is read, one after the other in the memory that the finished shard will keep.
#[derive(Debug, Clone, Default)]
pub(super) struct Loading<const N: usize>(Vec<u8>);

impl<const N: usize> Loading<N> {
    pub(super) fn push(&mut self, entry: &[u8; N]) {
        let length = self.0.len();
        if self.0.capacity().saturating_sub(length) < N {
            // By a quarter, not twofold: together the shards are most of the memory there is.
            self.0.reserve_exact((length / 4).max(8 * N));
        }
        self.0.extend_from_slice(entry);
    }

    pub(super) fn len(&self) -> usize {
        self.entries().len()
    }

    pub(super) fn entries(&self) -> &[[u8; N]] {
        self.0.as_chunks().0
    }

    pub(super) fn sort(&mut self) {
        self.0.as_chunks_mut::<N>().0.sort_unstable();
    }
}

/// The number of an entry or slot: its last four bytes.
pub(super) fn number(entry: &[u8]) -> u32 {
    entry.last_chunk::<4>().map_or(0, |n| u32::from_be_bytes(*n))
}

/// Ascending by id, then number. A slot has `ID` bytes of an id, from the third on, and in the rest of its `SLOT` bytes
/// the number.
#[derive(Debug, Default)]
pub(super) struct Shard<const ID: usize, const SLOT: usize> {
    /// Where each second byte begins, and the end; empty when the shard is.
    starts: Vec<u32>,
    /// Slots one after the other.
    bytes: Vec<u8>,
}

impl<const ID: usize, const SLOT: usize> Shard<ID, SLOT> {
    /// Packs those of the sorted entries that are wanted, in their own memory. A slot takes what it has room for: what
    /// follows in the entry is dropped.
    pub(super) fn new<const N: usize>(
        sorted: Loading<N>,
        mut is_wanted: impl FnMut(&[u8; N]) -> bool,
    ) -> Self {
        // A slot is never written over an entry that is still to come.
        const { assert!(ID <= SLOT && SLOT < N) };
        let mut bytes = sorted.0;
        let mut starts = Vec::with_capacity(257);
        let mut count = 0;
        for from in (0..bytes.len()).step_by(N) {
            let Some(entry) = bytes.get(from..).and_then(|rest| rest.first_chunk()) else { break };
            if !is_wanted(entry) {
                continue;
            }
            let second = entry.first().copied().unwrap_or(0);
            let here = u32::try_from(count).unwrap_or(u32::MAX);
            starts.resize(usize::from(second).saturating_add(1).max(starts.len()), here);
            bytes.copy_within(from + 1..=from + SLOT, count * SLOT);
            count += 1;
        }
        if count == 0 {
            return Self::default();
        }
        starts.resize(257, u32::try_from(count).unwrap_or(u32::MAX));
        bytes.truncate(count * SLOT);
        bytes.shrink_to_fit();
        Self { starts, bytes }
    }

    fn slots(&self) -> &[[u8; SLOT]] {
        self.bytes.as_chunks().0
    }

    pub(super) fn len(&self) -> usize {
        self.slots().len()
    }

    fn range(&self, second: u8) -> Range<usize> {
        let at = |n: usize| self.starts.get(n).map_or(0, |s| *s as usize);
        at(usize::from(second))..at(usize::from(second).saturating_add(1))
    }

    /// Positions of an id's copies.
    pub(super) fn find(&self, id: &Id) -> Range<usize> {
        let [_, second, rest @ ..] = id.as_bytes();
        let range = self.range(*second);
        let slots = self.slots().get(range.clone()).unwrap_or_default();
        let wanted = rest.first_chunk::<ID>();
        let start = slots.partition_point(|slot| slot.first_chunk::<ID>() < wanted);
        let rest = slots.get(start..).unwrap_or_default();
        let copies = rest.iter().take_while(|slot| slot.first_chunk::<ID>() == wanted).count();
        let start = range.start.saturating_add(start);
        start..start.saturating_add(copies)
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        (self.starts.capacity().saturating_mul(4)).saturating_add(self.bytes.capacity())
    }
}

impl Numbered {
    /// Numbers of the blobs at these positions.
    pub(super) fn numbers(&self, positions: Range<usize>) -> impl Iterator<Item = u32> + '_ {
        self.slots().get(positions).unwrap_or_default().iter().map(|s| number(s))
    }

    fn id(first: u8, second: u8, slot: &[u8]) -> Id {
        let mut id = [first; 32];
        let (head, tail) = id.split_at_mut(2);
        head.copy_from_slice(&[first, second]);
        for (to, from) in tail.iter_mut().zip(slot) {
            *to = *from;
        }
        Id::from_bytes(id)
    }

    /// The id at a position.
    pub(super) fn id_at(&self, first: u8, position: usize) -> Option<Id> {
        let slot = self.slots().get(position)?;
        let second = self.starts.partition_point(|s| *s as usize <= position).checked_sub(1)?;
        Some(Self::id(first, u8::try_from(second).ok()?, slot))
    }

    /// Everything, in order.
    pub(super) fn iter(&self, first: u8) -> impl Iterator<Item = (Id, u32)> + '_ {
        (0..=u8::MAX).flat_map(move |second| {
            let slots = self.slots().get(self.range(second)).unwrap_or_default();
            slots.iter().map(move |slot| (Self::id(first, second, slot), number(slot)))
        })
    }
}
