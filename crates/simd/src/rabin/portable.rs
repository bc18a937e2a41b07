//! The scan for any processor: lookup tables, six positions side by side.

use super::field::Field;
use super::{DEGREE, SPLIT_MASK, WINDOW};

/// Positions that are scanned side by side. The hash of one position waits for the one before it (a table load);
/// six independent chains keep a core's load ports busy.
const LANES: usize = 6;
/// Consecutive positions of one lane. Longer wastes work behind a cut, shorter spends more on warming up.
const LANE_LEN: usize = 8 * 1024;
/// What one pass over all lanes looks at: the positions, and the window before the first.
const PASS: usize = WINDOW + LANES * LANE_LEN;
/// Bits of the hash that a shift by one byte pushes beyond the polynomial's degree.
const TOP_SHIFT: u32 = DEGREE - 8;

/// The polynomial as lookup tables, 4 KiB.
pub(super) struct Tables {
    /// What a byte pushed beyond the degree adds back, with the bits that clear it.
    modulo: [u64; 256],
    /// What a byte that leaves the window still contributes once the next byte is in.
    leave: [u64; 256],
}

impl Tables {
    pub(super) fn new(field: Field) -> Self {
        let mut tables = Self { modulo: [0; 256], leave: [0; 256] };
        for (byte, (modulo, leave)) in (0..=u8::MAX).zip(tables.modulo.iter_mut().zip(&mut tables.leave)) {
            *modulo = field.above(byte) | u64::from(byte) << DEGREE;
            *leave = field.leaving(byte);
        }
        tables
    }

    /// As [`super::Scanner::first_cut`].
    pub(super) fn first_cut(&self, bytes: &[u8]) -> Option<usize> {
        let mut passed = 0;
        while let Some(pass) = bytes.get(passed..).and_then(|rest| rest.first_chunk::<PASS>()) {
            if let Some(at) = self.scan_pass(pass) {
                return Some(passed + at);
            }
            passed += LANES * LANE_LEN;
        }
        let rest = bytes.get(passed..)?;
        let mut hash = self.warm(rest.get(..WINDOW)?);
        for (position, (&enter, &old)) in rest.iter().skip(WINDOW).zip(rest).enumerate() {
            hash = self.roll(hash, old, enter);
            if hash & SPLIT_MASK == 0 {
                return Some(passed + position);
            }
        }
        None
    }

    /// The first position of the pass that is a cut.
    #[allow(
        clippy::indexing_slicing,
        clippy::needless_range_loop,
        reason = "each index is below the array's length by the constants alone, and the checks are dropped"
    )]
    fn scan_pass(&self, pass: &[u8; PASS]) -> Option<usize> {
        let mut hashes: [u64; LANES] =
            std::array::from_fn(|lane| self.warm(&pass[lane * LANE_LEN..lane * LANE_LEN + WINDOW]));
        let mut first = [usize::MAX; LANES];
        'steps: for step in 0..LANE_LEN {
            for lane in 0..LANES {
                let at = lane * LANE_LEN + step;
                hashes[lane] = self.roll(hashes[lane], pass[at], pass[at + WINDOW]);
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
    #[expect(clippy::indexing_slicing, reason = "both tables have an entry for each byte")]
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the whole cost of this form is here")]
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
