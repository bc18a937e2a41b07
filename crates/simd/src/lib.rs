//! Code for one processor family: the parts of the engine that are several times faster with vector instructions.
//!
//! The only crate of the workspace with `unsafe`: calling code for instructions that were found at run time, and
//! loading vectors from slices whose length was checked, and advice to the system and its allocator about memory. It knows no files, no network and no repository.
//! Each fast form gives the same results as a portable one, which is what it is tested against: in the tests, and
//! for about a millisecond whenever it is about to be used.

pub mod allocator;
pub mod rabin;
pub mod scrypt;
pub mod sha256;

use std::fmt;
use std::str::FromStr;

/// A form of the code, by the instructions that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variant {
    /// 64 bytes at a time: AVX-512 (F, BW) and GFNI.
    Avx512,
    /// 32 bytes at a time: AVX2.
    Avx2,
    /// Any processor.
    Portable,
}

impl Variant {
    /// All of them, the fastest first.
    pub const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Portable];

    /// Whether this processor, and the system on it, can run it.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return match self {
            Self::Avx512 => {
                std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("gfni")
            }
            Self::Avx2 => std::arch::is_x86_feature_detected!("avx2"),
            Self::Portable => true,
        };
        #[cfg(not(target_arch = "x86_64"))]
        return self == Self::Portable;
    }

    /// The fastest that is available.
    pub fn best() -> Self {
        Self::ALL.into_iter().find(|variant| variant.is_available()).unwrap_or(Self::Portable)
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        })
    }
}

/// The text names no [`Variant`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownVariant(String);

impl fmt::Display for UnknownVariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not one of avx512, avx2, portable", self.0)
    }
}

impl std::error::Error for UnknownVariant {}

impl FromStr for Variant {
    type Err = UnknownVariant;

    fn from_str(text: &str) -> Result<Self, UnknownVariant> {
        let found = Self::ALL.into_iter().find(|variant| variant.to_string() == text);
        found.ok_or_else(|| UnknownVariant(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_are_named_as_they_are_read() {
        for variant in Variant::ALL {
            assert_eq!(variant.to_string().parse(), Ok(variant));
        }
        assert!("AVX2".parse::<Variant>().is_err());
        assert!(Variant::Portable.is_available());
        assert!(Variant::best().is_available());
    }
}
