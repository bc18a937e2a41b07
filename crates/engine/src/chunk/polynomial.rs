//! Polynomials over GF(2): what a repository's `chunker_polynomial` is, and how a good one is made.
//!
//! Not here: the rolling hash itself (see the parent module).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// Degree of every polynomial that restic accepts for its chunker.
pub const DEGREE: u32 = 53;

/// An irreducible polynomial of degree 53 over GF(2); bit `n` is the coefficient of `x^n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Polynomial(u64);

impl Polynomial {
    /// Checks that `bits` is irreducible and of degree 53; anything else makes a rolling hash that cuts badly.
    pub fn new(bits: u64) -> Result<Self> {
        if degree(bits) == Some(DEGREE) && is_irreducible(bits) {
            return Ok(Self(bits));
        }
        Err(Error::new(
            ErrorKind::Format,
            format!(
                "the chunker polynomial {bits:x} is not irreducible of degree {DEGREE}; the repository's config is damaged"
            ),
        ))
    }

    /// Draws a random one. About one draw in 26 is irreducible.
    pub fn random() -> Result<Self> {
        loop {
            let mut bytes = [0_u8; 8];
            getrandom::fill(&mut bytes).map_err(|e| {
                Error::new(
                    ErrorKind::Internal,
                    format!("the system gave no random bytes for a chunker polynomial: {e}"),
                )
            })?;
            let low = u64::from_le_bytes(bytes) & ((1 << DEGREE) - 1);
            let candidate = (1 << DEGREE) | low | 1;
            if is_irreducible(candidate) {
                return Ok(Self(candidate));
            }
        }
    }

    /// The coefficients.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// `value * x^8 + byte` modulo this polynomial, for `value` of degree below 53.
    #[cfg(test)]
    pub(super) fn append_byte(self, value: u64, byte: u8) -> u64 {
        reduce((u128::from(value) << 8) | u128::from(byte), self.0)
    }
}

impl fmt::Display for Polynomial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl FromStr for Polynomial {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bits = u64::from_str_radix(text, 16).map_err(|e| {
            Error::with_source(
                ErrorKind::Format,
                format!("the chunker polynomial {text:?} is not a hexadecimal number"),
                e,
            )
        })?;
        Self::new(bits)
    }
}

impl Serialize for Polynomial {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Polynomial {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn degree(bits: u64) -> Option<u32> {
    bits.checked_ilog2()
}

fn reduce(mut value: u128, modulus: u64) -> u64 {
    let Some(low) = degree(modulus) else { return 0 };
    while let Some(high) = value.checked_ilog2() {
        if high < low {
            break;
        }
        value ^= u128::from(modulus) << (high - low);
    }
    // Below the modulus's degree, hence below 64 bits.
    u64::try_from(value).unwrap_or(0)
}

/// Squaring over GF(2) spreads the bits: no cross terms survive.
fn square(value: u64) -> u128 {
    (0..64).filter(|bit| value >> bit & 1 == 1).fold(0, |sum, bit| sum | 1_u128 << (2 * bit))
}

/// Rabin's test (1980). 53 is prime, so only `x^(2^53) = x` and the absence of linear factors remain to be shown.
fn is_irreducible(bits: u64) -> bool {
    let has_root = bits & 1 == 0 || bits.count_ones().is_multiple_of(2);
    let mut power = 2_u64;
    for _ in 0..DEGREE {
        power = reduce(square(power), bits);
    }
    !has_root && power == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Polynomials of restic's own documents and tests are accepted, their neighbours are not.
    #[test]
    fn known_polynomials() {
        for good in ["25b468838dcb75", "3da3358b4dc173", "3abc9bff07d9e5"] {
            let parsed: Polynomial = good.parse().unwrap();
            assert_eq!(parsed.to_string(), good);
        }
        for bad in ["25b468838dcb74", "25b468838dcb77", "1", "0", "", "g", "bfe6b8a5bf378d"] {
            let error = bad.parse::<Polynomial>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Format, "{bad}");
        }
    }

    /// A product of two smaller polynomials must be refused although it has no root.
    #[test]
    fn products_are_refused() {
        // (x^2 + x + 1) * q, with q of degree 51 and q(0) = q(1) = 1.
        let q = (1_u128 << 51) | 0b1_0001;
        let product = u64::try_from((q << 2) ^ (q << 1) ^ q).unwrap();
        assert_eq!(degree(product), Some(DEGREE));
        assert_eq!(product & 1, 1);
        assert_eq!(product.count_ones() % 2, 1);
        assert!(Polynomial::new(product).is_err());
    }

    #[test]
    fn random_ones_differ_and_pass() {
        let a = Polynomial::random().unwrap();
        let b = Polynomial::random().unwrap();
        assert_ne!(a, b);
        assert!(Polynomial::new(a.bits()).is_ok());
    }
}
