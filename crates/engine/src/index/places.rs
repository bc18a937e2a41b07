//! Where numbered blobs lie: 6 bytes a blob, and 12 for each run of up to 64 neighbours.
//!
//! Blobs are numbered in the order in which they lie in their packs, so that offsets follow from lengths. Not here:
//! which blob has which number (`shard`).

use std::collections::HashMap;

use crate::format::pack::PackedBlob;

/// Blobs of a run; finding an offset adds at most as many lengths.
const RUN: u32 = 64;
/// The first length that does not fit 24 bits with this mark left over.
const LONG: u32 = 0x00ff_ffff;

/// Neighbours in one pack, without gaps.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// Number of its first blob.
    first: u32,
    pack: u32,
    /// Where that blob begins.
    offset: u32,
}

/// Place of one blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pack: u32,
    pub(super) offset: u32,
    /// Sealed bytes.
    pub(super) length: u32,
    /// Plain bytes; 0 when stored raw.
    pub(super) plain: u32,
}

/// Places of all blobs by number.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Ascending by `first`.
    runs: Vec<Run>,
    /// Sealed and plain length, 24 bits each.
    sizes: Vec<[[u8; 3]; 2]>,
    /// Lengths that need more bits, by number.
    long: HashMap<u32, (u32, u32)>,
    /// Where the blob after the last one would begin.
    end: u64,
}

/// The lower 24 bits.
fn low(value: u32) -> [u8; 3] {
    let [_, low @ ..] = value.to_be_bytes();
    low
}

fn wide(low: [u8; 3]) -> u32 {
    low.into_iter().fold(0, |value, byte| (value << 8) | u32::from(byte))
}

impl Places {
    /// Gives a blob the next number; none when 2^32 are given, which is 400 GB of index files.
    pub(super) fn push(&mut self, pack: u32, blob: &PackedBlob) -> Option<u32> {
        let number = u32::try_from(self.sizes.len()).ok()?;
        let goes_on = self.runs.last().is_some_and(|run| {
            run.pack == pack && self.end == u64::from(blob.offset) && number.saturating_sub(run.first) < RUN
        });
        if !goes_on {
            self.runs.push(Run { first: number, pack, offset: blob.offset });
        }
        self.end = u64::from(blob.offset).saturating_add(blob.length.into());
        let plain = blob.uncompressed.unwrap_or(0);
        let (length, plain) = if blob.length >= LONG || plain >= LONG {
            self.long.insert(number, (blob.length, plain));
            (LONG, 0)
        } else {
            (blob.length, plain)
        };
        self.sizes.push([low(length), low(plain)]);
        Some(number)
    }

    fn size(&self, number: u32) -> Option<(u32, u32)> {
        let [length, plain] = self.sizes.get(number as usize)?.map(wide);
        if length == LONG {
            return self.long.get(&number).copied();
        }
        Some((length, plain))
    }

    fn run(&self, number: u32) -> Option<&Run> {
        self.runs.get(self.runs.partition_point(|r| r.first <= number).checked_sub(1)?)
    }

    /// Where a blob lies.
    pub(super) fn at(&self, number: u32) -> Option<Place> {
        let run = self.run(number)?;
        let (length, plain) = self.size(number)?;
        let before: u32 =
            (run.first..number).filter_map(|n| self.size(n)).fold(0, |sum, (l, _)| sum.saturating_add(l));
        Some(Place { pack: run.pack, offset: run.offset.saturating_add(before), length, plain })
    }

    /// The pack of a blob.
    pub(super) fn pack_of(&self, number: u32) -> Option<u32> {
        self.run(number).map(|r| r.pack)
    }

    /// How many blobs are numbered.
    pub(super) fn len(&self) -> usize {
        self.sizes.len()
    }

    /// The numbers in each run, with its pack.
    pub(super) fn runs(&self) -> impl Iterator<Item = (u32, std::ops::Range<u32>)> + '_ {
        let all = u32::try_from(self.sizes.len()).unwrap_or(u32::MAX);
        let ends = self.runs.iter().skip(1).map(|r| r.first).chain([all]);
        self.runs.iter().zip(ends).map(|(run, end)| (run.pack, run.first..end))
    }

    pub(super) fn shrink(&mut self) {
        self.runs.shrink_to_fit();
        self.sizes.shrink_to_fit();
        self.long.shrink_to_fit();
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        // A hash table's entry: key, value and a control byte, at a load of at most 7/8.
        let long = self.long.capacity().saturating_mul(16);
        (self.runs.capacity().saturating_mul(size_of::<Run>()))
            .saturating_add(self.sizes.capacity().saturating_mul(6))
            .saturating_add(long)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::pack::BlobKind;
    use crate::id::Id;

    proptest::proptest! {
        #[test]
        fn places_come_back_as_they_were_given(
            blobs in proptest::collection::vec((0_u32..4, 0_u32..3, 0_u32..200, 0_usize..6), 1..400),
        ) {
            let mut places = Places::default();
            let mut model = Vec::new();
            let mut next = 0_u32;
            for (pack, gap, length, special) in blobs {
                // Packs in a row without gaps are the rule; gaps, steps back and long blobs are not.
                let pack = if gap == 0 { 0 } else { pack };
                next = if gap == 2 { next / 3 } else { next.saturating_add(gap) };
                let length = if special == 0 { [LONG - 1, LONG, LONG + 1, u32::MAX][length as usize % 4] } else { length };
                let plain = [0, 5, LONG - 1, LONG, u32::MAX, 70_000][special];
                let blob = PackedBlob {
                    kind: BlobKind::Data, id: Id::default(), offset: next, length,
                    uncompressed: (plain != 0).then_some(plain),
                };
                let number = places.push(pack, &blob).unwrap();
                proptest::prop_assert_eq!(number as usize, model.len());
                model.push(Place { pack, offset: next, length, plain });
                next = next.checked_add(length).unwrap_or(0);
            }
            for (number, place) in (0_u32..).zip(&model) {
                proptest::prop_assert_eq!(places.at(number), Some(*place));
                proptest::prop_assert_eq!(places.pack_of(number), Some(place.pack));
            }
            proptest::prop_assert_eq!(places.at(u32::try_from(model.len()).unwrap()), None);
            let covered: Vec<u32> = places.runs().flat_map(|(_, numbers)| numbers).collect();
            proptest::prop_assert_eq!(covered.len(), model.len());
        }
    }
}
