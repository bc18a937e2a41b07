//! A comparison of a vector form with the portable one, on bytes with cuts planted in them; about a millisecond.
//!
//! Guards against processors, hypervisors and compilers that get an instruction wrong: a wrong cut would not lose
//! data, but would store everything a second time.

use super::field::Field;
use super::{Scanner, WINDOW};

/// Positions that are scanned: a few blocks of all lanes, and a rest that fits no block.
const POSITIONS: usize = 3 * 4096 + 1000;
/// Cuts are planted this far apart, in bytes; no divisor or multiple of what the lanes are cut by.
const APART: usize = 461;

/// Bytes that pass for random.
pub(super) struct Noise(pub(super) u64);

impl Noise {
    /// Marsaglia's xorshift64.
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[3]).collect()
    }
}

/// Changes the three bytes before `end` so that the hash of the 64 bytes before `end` ends in the 24 bits `low`.
/// They enter the hash as they are, since they lie below the polynomial's degree.
pub(super) fn plant(field: Field, bytes: &mut [u8], end: usize, low: u32) {
    let Some(window) = end.checked_sub(WINDOW).and_then(|start| bytes.get_mut(start..end)) else { return };
    let Some((_, last)) = window.split_last_chunk_mut::<3>() else { return };
    *last = [0; 3];
    let [.., a, b, c] = (field.hash(window) ^ u64::from(low)).to_be_bytes();
    if let Some(last) = window.last_chunk_mut::<3>() {
        *last = [a, b, c];
    }
}

/// Whether the scanner finds what its tables find.
pub(super) fn agrees(scanner: &Scanner, field: Field) -> bool {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut bytes = noise.bytes(WINDOW + POSITIONS);
    let mut planted = 0_usize;
    for (number, end) in (0_u32..).zip((WINDOW + 1..=bytes.len()).step_by(APART)) {
        // Every third one misses by a single bit, another one each time; the others are cuts, whatever lies above.
        let miss = number % 3 == 2;
        let low = if miss { 1 << (number / 3 % 20) } else { (number % 16) << 20 };
        plant(field, &mut bytes, end, low);
        planted += usize::from(!miss);
    }
    let mut found = 0;
    let mut from = 0;
    while let Some(rest) = bytes.get(from..) {
        let expected = scanner.tables.first_cut(rest);
        if scanner.kernel.first_cut(&scanner.tables, rest) != expected {
            return false;
        }
        let Some(at) = expected else { break };
        found += 1;
        from += at + 1;
    }
    // Without cuts to find there would have been nothing to compare.
    found >= planted
}
