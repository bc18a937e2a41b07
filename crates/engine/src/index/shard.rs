//! Blobs of one kind whose ids begin with the same byte: which number belongs to which id.
//!
//! 34 bytes a blob: the first byte of the id is the shard's, the second follows from the position.

use std::ops::Range;

use crate::id::Id;

/// A blob while the index is read: the id without its first byte, then the number, most significant byte first.
/// Ordered as ids and then numbers are.
pub(super) type Entry = [u8; 35];
/// The same without the second byte of the id.
type Slot = [u8; 34];

/// Makes an entry.
pub(super) fn entry(id: &Id, number: u32) -> Entry {
    let mut entry = [0; 35];
    let [_, rest @ ..] = id.as_bytes();
    let (head, tail) = entry.split_at_mut(31);
    head.copy_from_slice(rest);
    tail.copy_from_slice(&number.to_be_bytes());
    entry
}

/// Entries while the index is read, one after the other in the memory that the finished shard will keep.
#[derive(Debug, Clone, Default)]
pub(super) struct Loading(Vec<u8>);

impl Loading {
    pub(super) fn push(&mut self, entry: &Entry) {
        let length = self.0.len();
        if self.0.capacity().saturating_sub(length) < entry.len() {
            // By a quarter, not twofold: together the shards are most of the memory there is.
            self.0.reserve_exact((length / 4).max(8 * size_of::<Entry>()));
        }
        self.0.extend_from_slice(entry);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len() / size_of::<Entry>()
    }

    pub(super) fn entries(&self) -> &[Entry] {
        self.0.as_chunks().0
    }

    pub(super) fn sort(&mut self) {
        self.0.as_chunks_mut::<35>().0.sort_unstable();
    }
}

/// The number of an entry or slot: its last four bytes.
pub(super) fn number(entry: &[u8]) -> u32 {
    entry.last_chunk::<4>().map_or(0, |n| u32::from_be_bytes(*n))
}

/// Ascending by id, then number.
#[derive(Debug, Default)]
pub(super) struct Shard {
    /// Where each second byte begins, and the end; empty when the shard is.
    starts: Vec<u32>,
    /// Slots one after the other.
    bytes: Vec<u8>,
}

impl Shard {
    /// Packs sorted entries, in their own memory.
    pub(super) fn new(sorted: Loading) -> Self {
        let mut bytes = sorted.0;
        let count = bytes.len() / size_of::<Entry>();
        if count == 0 {
            return Self::default();
        }
        let mut starts = Vec::with_capacity(257);
        for position in 0..count {
            let from = position * size_of::<Entry>();
            let second = bytes.get(from).copied().unwrap_or(0);
            let here = u32::try_from(position).unwrap_or(u32::MAX);
            starts.resize(usize::from(second).saturating_add(1).max(starts.len()), here);
            bytes.copy_within(from + 1..from + size_of::<Entry>(), position * size_of::<Slot>());
        }
        starts.resize(257, u32::try_from(count).unwrap_or(u32::MAX));
        bytes.truncate(count * size_of::<Slot>());
        bytes.shrink_to_fit();
        Self { starts, bytes }
    }

    fn slots(&self) -> &[Slot] {
        self.bytes.as_chunks().0
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() / size_of::<Slot>()
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
        let id_of = |slot: &Slot| slot.first_chunk::<30>().copied().unwrap_or_default();
        let start = slots.partition_point(|s| id_of(s) < *rest);
        let copies = slots.get(start..).unwrap_or_default().iter().take_while(|s| id_of(s) == *rest).count();
        let start = range.start.saturating_add(start);
        start..start.saturating_add(copies)
    }

    /// Numbers of the blobs at these positions.
    pub(super) fn numbers(&self, positions: Range<usize>) -> impl Iterator<Item = u32> + '_ {
        self.slots().get(positions).unwrap_or_default().iter().map(|s| number(s))
    }

    fn id(first: u8, second: u8, slot: &Slot) -> Id {
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

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        (self.starts.capacity().saturating_mul(4)).saturating_add(self.bytes.capacity())
    }
}
