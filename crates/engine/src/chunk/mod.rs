//! Content-defined chunking: finds the cut points that restic finds, several lanes at a time.
//!
//! Rabin's rolling hash over the last 64 bytes, modulo the repository's polynomial. A chunk ends after byte `n`
//! when `n` is at least [`MIN_SIZE`] and the hash's low 20 bits are zero, or when `n` is [`MAX_SIZE`].
//! Not here: reading files, hashing chunks.

mod polynomial;

pub use polynomial::{DEGREE, Polynomial};

/// No chunk but a file's last is smaller, in bytes.
pub const MIN_SIZE: usize = 512 * 1024;
/// No chunk is larger, in bytes.
pub const MAX_SIZE: usize = 8 * 1024 * 1024;

/// Bytes that the rolling hash depends on.
const WINDOW: usize = 64;
/// A cut is where these bits of the hash are all zero: one position in 2^20.
const SPLIT_MASK: u64 = (1 << 20) - 1;
/// Positions that are scanned side by side. The hash of one position waits for the one before it (a table load);
/// six independent chains keep a core's load ports busy.
const LANES: usize = 6;
/// Consecutive positions of one lane. Longer wastes work behind a cut, shorter spends more on warming up.
const LANE_LEN: usize = 8 * 1024;
/// What one pass over all lanes looks at: the positions, and the window before the first.
const BLOCK: usize = WINDOW + LANES * LANE_LEN;
/// Bits of the hash that a shift by one byte pushes beyond the polynomial's degree.
const TOP_SHIFT: u32 = DEGREE - 8;

/// The rolling hash of one repository: its polynomial as lookup tables. Cheap to share, 4 KiB.
pub struct Chunker {
    /// What a byte pushed beyond the degree adds back, with the bits that clear it.
    modulo: [u64; 256],
    /// What a byte that leaves the window still contributes once the next byte is in.
    leave: [u64; 256],
}

/// How far the chunk that is being looked at has been scanned without finding its end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cursor {
    /// Lengths up to this one are no cut.
    ruled_out: usize,
}

impl Chunker {
    /// Tables for a polynomial.
    pub fn new(polynomial: Polynomial) -> Self {
        let mut modulo = [0_u64; 256];
        let mut leave = [0_u64; 256];
        for byte in 0..=u8::MAX {
            let high = u128::from(byte) << DEGREE;
            // The product fits: a byte above degree 53 has at most 61 bits.
            let clear = u64::from(byte) << DEGREE;
            let gone = (0..WINDOW)
                .fold(polynomial.append_byte(0, byte), |value, _| polynomial.append_byte(value, 0));
            if let (Some(m), Some(l)) = (modulo.get_mut(usize::from(byte)), leave.get_mut(usize::from(byte)))
            {
                *m = polynomial.reduce(high) | clear;
                *l = gone;
            }
        }
        Self { modulo, leave }
    }

    /// Looks for the end of the chunk that begins at `data`'s first byte. `None` while `data` is too short to tell:
    /// call again with more of the same data and the same cursor. At the end of a file the rest is the last chunk.
    pub fn find_cut(&self, data: &[u8], cursor: &mut Cursor) -> Option<usize> {
        let end = data.len().min(MAX_SIZE);
        let mut next = (cursor.ruled_out + 1).max(MIN_SIZE);
        while next <= end {
            let (found, scanned) = self.scan(data, next, end);
            if found.is_some() {
                return found;
            }
            next = scanned;
        }
        if end == MAX_SIZE {
            return Some(MAX_SIZE);
        }
        cursor.ruled_out = next.saturating_sub(1).min(end);
        None
    }

    /// Tests the lengths from `next` on, at most to `end`: the first cut, and the first length not yet tested.
    fn scan(&self, data: &[u8], next: usize, end: usize) -> (Option<usize>, usize) {
        // The byte that makes the length `next` is at `next - 1`; its window begins WINDOW bytes before it.
        let Some(window) = data.get(next - 1 - WINDOW..end) else { return (None, end + 1) };
        if let Some(block) = window.first_chunk::<BLOCK>() {
            return match self.scan_block(block) {
                Some(position) => (Some(next + position), next),
                None => (None, next + LANES * LANE_LEN),
            };
        }
        let mut hash = self.warm(window.get(..WINDOW).unwrap_or_default());
        for (position, (&enter, &old)) in window.iter().skip(WINDOW).zip(window).enumerate() {
            hash = self.roll(hash, old, enter);
            if hash & SPLIT_MASK == 0 {
                return (Some(next + position), next);
            }
        }
        (None, end + 1)
    }

    /// Index of the first position of the block that is a cut.
    // Each index is below the array's length by the constants alone, which the compiler sees and drops the checks.
    #[allow(clippy::indexing_slicing, clippy::needless_range_loop)]
    fn scan_block(&self, block: &[u8; BLOCK]) -> Option<usize> {
        let mut hashes: [u64; LANES] =
            std::array::from_fn(|lane| self.warm(&block[lane * LANE_LEN..lane * LANE_LEN + WINDOW]));
        let mut first = [usize::MAX; LANES];
        'steps: for step in 0..LANE_LEN {
            for lane in 0..LANES {
                let at = lane * LANE_LEN + step;
                hashes[lane] = self.roll(hashes[lane], block[at], block[at + WINDOW]);
                if hashes[lane] & SPLIT_MASK == 0 {
                    remember(&mut first, lane, at);
                    if lane == 0 {
                        // Nothing earlier can come any more. In runs of zeros every position is a cut.
                        break 'steps;
                    }
                }
            }
        }
        first.into_iter().min().filter(|at| *at != usize::MAX)
    }

    /// Hash of a whole window.
    fn warm(&self, window: &[u8]) -> u64 {
        window.iter().fold(0, |hash, &byte| self.roll(hash, 0, byte))
    }

    /// Moves the window by one byte: `old` leaves, `enter` comes.
    // Both tables have an entry for each byte.
    #[allow(clippy::indexing_slicing)]
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "the whole cost of chunking is here")]
    fn roll(&self, hash: u64, old: u8, enter: u8) -> u64 {
        let top = usize::from((hash >> TOP_SHIFT).to_le_bytes()[0]);
        ((hash << 8) | u64::from(enter)) ^ self.leave[usize::from(old)] ^ self.modulo[top]
    }
}

#[cold]
#[inline(never)]
fn remember(first: &mut [usize; LANES], lane: usize, at: usize) {
    if let Some(slot) = first.get_mut(lane)
        && *slot == usize::MAX
    {
        *slot = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn polynomial() -> Polynomial {
        "3da3358b4dc173".parse().unwrap()
    }

    /// The format's description, word for word: one byte at a time, division by long hand.
    fn plain_cut(polynomial: Polynomial, data: &[u8]) -> Option<usize> {
        let mut hash = 0_u64;
        for n in 1..=data.len().min(MAX_SIZE) {
            if n + WINDOW <= MIN_SIZE {
                continue;
            }
            hash = polynomial.append_byte(hash, data[n - 1]);
            if n > MIN_SIZE {
                let old =
                    (0..WINDOW).fold(u64::from(data[n - 1 - WINDOW]), |v, _| polynomial.append_byte(v, 0));
                hash ^= old;
            }
            if n >= MIN_SIZE && (hash & SPLIT_MASK == 0 || n == MAX_SIZE) {
                return Some(n);
            }
        }
        None
    }

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed | 1;
        (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect()
    }

    fn cuts(chunker: &Chunker, mut data: &[u8], piece: usize) -> Vec<usize> {
        let mut found = Vec::new();
        while !data.is_empty() {
            let mut cursor = Cursor::default();
            let mut seen = 0;
            let length = loop {
                seen = (seen + piece).min(data.len());
                if let Some(cut) = chunker.find_cut(&data[..seen], &mut cursor) {
                    break cut;
                }
                if seen == data.len() {
                    break seen;
                }
            };
            found.push(length);
            data = &data[length..];
        }
        found
    }

    fn plain_cuts(mut data: &[u8]) -> Vec<usize> {
        let mut found = Vec::new();
        while !data.is_empty() {
            let length = plain_cut(polynomial(), data).unwrap_or(data.len());
            found.push(length);
            data = &data[length..];
        }
        found
    }

    #[test]
    fn zeros_are_cut_at_the_minimum() {
        let chunker = Chunker::new(polynomial());
        let data = vec![0; 3 * MIN_SIZE + 5];
        assert_eq!(cuts(&chunker, &data, usize::MAX / 2), [MIN_SIZE, MIN_SIZE, MIN_SIZE, 5]);
    }

    #[test]
    fn a_chunk_never_exceeds_the_maximum() {
        let chunker = Chunker::new(polynomial());
        // Ones everywhere: the hash is the same at every position, and not zero there.
        let data = vec![1; MAX_SIZE + 100];
        assert_eq!(cuts(&chunker, &data, 1 << 20), [MAX_SIZE, 100]);
    }

    #[test]
    fn noise_of_several_chunks_is_cut_like_the_description_says() {
        let chunker = Chunker::new(polynomial());
        let data = noise(7, 12 << 20);
        let expected = plain_cuts(&data);
        assert!(expected.len() > 4, "{expected:?}");
        assert_eq!(cuts(&chunker, &data, usize::MAX / 2), expected);
        assert_eq!(cuts(&chunker, &data, 256 * 1024), expected);
        assert_eq!(cuts(&chunker, &data, 99_991), expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Noise with runs of zeros and repeats, any length around the limits, in pieces of any size.
        #[test]
        fn lanes_agree_with_the_description(
            seed in any::<u64>(),
            len in MIN_SIZE - 70..2 * MIN_SIZE + BLOCK,
            zeros in 0..2 * MIN_SIZE,
            run in 0..200_usize,
            period in 1..9000_usize,
            piece in 1000..MIN_SIZE,
        ) {
            let mut data = noise(seed, len);
            for (index, byte) in data.iter_mut().enumerate() {
                if (zeros..zeros + run).contains(&index) {
                    *byte = 0;
                }
            }
            let repeated: Vec<u8> = data.iter().copied().take(period).cycle().take(len).collect();
            let chunker = Chunker::new(polynomial());
            prop_assert_eq!(cuts(&chunker, &data, piece), plain_cuts(&data));
            prop_assert_eq!(cuts(&chunker, &repeated, piece), plain_cuts(&repeated));
        }
    }
}
