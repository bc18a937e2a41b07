//! Content-defined chunking: the cut points that restic finds.
//!
//! Rabin's rolling hash over the last 64 bytes, modulo the repository's polynomial. A chunk ends after byte `n`
//! when `n` is at least [`MIN_SIZE`] and the hash's low 20 bits are zero, or when `n` is [`MAX_SIZE`].
//! Not here: finding those hashes (`holdfast_simd::rabin`), reading files, hashing chunks.

mod polynomial;

use holdfast_simd::Variant;
use holdfast_simd::rabin::{Scanner, WINDOW};

pub use polynomial::{DEGREE, Polynomial};

/// No chunk but a file's last is smaller, in bytes.
pub const MIN_SIZE: usize = 512 * 1024;
/// No chunk is larger, in bytes.
pub const MAX_SIZE: usize = 8 * 1024 * 1024;

/// The rolling hash of one repository. Cheap to share.
pub struct Chunker {
    scanner: Scanner,
}

/// How far the chunk that is being looked at has been scanned without finding its end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cursor {
    /// Lengths up to this one are no cut.
    ruled_out: usize,
}

/// Names the form of the scan to use, for tests and comparisons: `avx512`, `avx2` or `portable`.
const FORM_VARIABLE: &str = "HOLDFAST_SIMD";

impl Chunker {
    /// Prepares the fastest scan that this machine has, or the one that the variable `HOLDFAST_SIMD` names.
    pub fn new(polynomial: Polynomial) -> Self {
        let wanted = std::env::var(FORM_VARIABLE).ok().and_then(|text| {
            let parsed = text.parse();
            if let Err(error) = &parsed {
                tracing::warn!(%error, "{FORM_VARIABLE} is ignored");
            }
            parsed.ok()
        });
        Self::with_variant(polynomial, wanted.unwrap_or_else(Variant::best))
    }

    /// Prepares a form of one's choice; the portable one where the machine does not have it.
    pub fn with_variant(polynomial: Polynomial, variant: Variant) -> Self {
        let scanner = Scanner::with_variant(polynomial.bits(), variant);
        if let Some(distrusted) = scanner.distrusted() {
            tracing::warn!(
                %distrusted,
                "vector instructions of this machine gave other cut points than plain code and are not used; \
                 backups are slower, and right. Check this machine's memory, processor and hypervisor"
            );
        }
        Self { scanner }
    }

    /// The form of the scan that is used.
    pub fn variant(&self) -> Variant {
        self.scanner.variant()
    }

    /// Looks for the end of the chunk that begins at `data`'s first byte. `None` while `data` is too short to tell:
    /// call again with more of the same data and the same cursor. At the end of a file the rest is the last chunk.
    pub fn find_cut(&self, data: &[u8], cursor: &mut Cursor) -> Option<usize> {
        let end = data.len().min(MAX_SIZE);
        // The byte that makes the length `next` is at `next - 1`; its window begins WINDOW bytes before it.
        let next = (cursor.ruled_out + 1).max(MIN_SIZE);
        if let Some(bytes) = data.get(next - 1 - WINDOW..end)
            && let Some(position) = self.scanner.first_cut(bytes)
        {
            return Some(next + position);
        }
        if end == MAX_SIZE {
            return Some(MAX_SIZE);
        }
        cursor.ruled_out = end;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_simd::rabin::SPLIT_MASK;
    use proptest::prelude::*;

    fn polynomial() -> Polynomial {
        "3da3358b4dc173".parse().unwrap()
    }

    /// The format's description, word for word: one byte at a time, division by long hand.
    fn plain_cut(polynomial: Polynomial, data: &[u8]) -> Option<usize> {
        let old: [u64; 256] = std::array::from_fn(|byte| {
            (0..WINDOW).fold(byte as u64, |value, _| polynomial.append_byte(value, 0))
        });
        let mut hash = 0_u64;
        for n in 1..=data.len().min(MAX_SIZE) {
            if n + WINDOW <= MIN_SIZE {
                continue;
            }
            hash = polynomial.append_byte(hash, data[n - 1]);
            if n > MIN_SIZE {
                hash ^= old[usize::from(data[n - 1 - WINDOW])];
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
        fn every_form_agrees_with_the_description(
            seed in any::<u64>(),
            len in MIN_SIZE - 70..2 * MIN_SIZE + 100_000,
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
            let (expected, expected_repeated) = (plain_cuts(&data), plain_cuts(&repeated));
            for variant in Variant::ALL {
                let chunker = Chunker::with_variant(polynomial(), variant);
                prop_assert_eq!(&cuts(&chunker, &data, piece), &expected);
                prop_assert_eq!(&cuts(&chunker, &repeated, piece), &expected_repeated);
            }
        }
    }
}
