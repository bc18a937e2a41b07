//! Arithmetic modulo the polynomial by long hand: slow, short and plain, for making tables and for judging them.

use super::{DEGREE, WINDOW};

/// Polynomials over GF(2) modulo one of degree 53; bit `n` is the coefficient of `x^n`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field(u64);

impl Field {
    /// Modulo this one. What lies above degree 53 is ignored.
    pub(super) fn new(polynomial: u64) -> Self {
        Self((polynomial & ((1 << DEGREE) - 1)) | 1 << DEGREE)
    }

    fn times_x(self, value: u64) -> u64 {
        let shifted = value << 1;
        if shifted >> DEGREE & 1 == 1 { shifted ^ self.0 } else { shifted }
    }

    /// `value * x^8 + byte`, reduced.
    pub(super) fn append(self, value: u64, byte: u8) -> u64 {
        (0..8).rev().fold(value, |value, bit| self.times_x(value) ^ u64::from(byte >> bit & 1))
    }

    /// The hash of some bytes.
    pub(super) fn hash(self, bytes: &[u8]) -> u64 {
        bytes.iter().fold(0, |value, &byte| self.append(value, byte))
    }

    /// `byte * x^53`, reduced: what a byte that a shift pushes beyond the degree adds back.
    pub(super) fn above(self, byte: u8) -> u64 {
        (0..DEGREE).fold(u64::from(byte), |value, _| self.times_x(value))
    }

    /// `byte * x^512`, reduced: what the oldest byte of the window contributes once the next one is in.
    pub(super) fn leaving(self, byte: u8) -> u64 {
        (0..WINDOW).fold(u64::from(byte), |value, _| self.append(value, 0))
    }
}
