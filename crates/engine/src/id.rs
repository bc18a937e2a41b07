//! 32-byte names: blob, pack, index, snapshot and key ids are SHA-256 digests written as lower-case hex.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use holdfast_simd::sha256;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// A SHA-256 digest used as a name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Id([u8; 32]);

impl Id {
    /// Wraps a digest.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw digest.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// SHA-256 of `data`.
    pub fn hash(data: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, data);
        let mut bytes = [0_u8; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }

    /// SHA-256 of each, in hardly more time than of the longer one.
    pub fn hash_two(a: &[u8], b: &[u8]) -> (Self, Self) {
        let (mut of_a, mut of_b) = (IdHasher::new(), IdHasher::new());
        IdHasher::update_two(&mut of_a, a, &mut of_b, b);
        (of_a.finish(), of_b.finish())
    }

    /// Reads exactly 64 lower-case hex digits; anything else is no id.
    pub fn from_hex(hex: &[u8]) -> Result<Self, Error> {
        let mut bytes = [0_u8; 32];
        let decoded = hex.len() == 64 && HEXLOWER.decode_mut(hex, &mut bytes) == Ok(32);
        decoded.then_some(Self(bytes)).ok_or_else(|| {
            let shown = String::from_utf8_lossy(hex.get(..hex.len().min(80)).unwrap_or_default());
            Error::new(ErrorKind::Format, format!("{shown:?} is not an id of 64 lower-case hex digits"))
        })
    }

    /// 64 lower-case hex digits.
    pub fn to_hex(&self) -> String {
        HEXLOWER.encode(&self.0)
    }

    /// The first eight hex digits, as people write ids.
    pub fn short(&self) -> String {
        let [a, b, c, d, ..] = self.0;
        HEXLOWER.encode(&[a, b, c, d])
    }
}

/// SHA-256 of bytes that come one after the other.
pub(crate) struct IdHasher(Hashing);

/// Both give the same; the first does two messages in the time of one, where the processor can.
enum Hashing {
    Paired(sha256::Hasher),
    Single(aws_lc_rs::digest::Context),
}

impl IdHasher {
    pub(crate) fn new() -> Self {
        let single = || Hashing::Single(aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256));
        Self(sha256::Hasher::new().map_or_else(single, Hashing::Paired))
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        match &mut self.0 {
            Hashing::Paired(hasher) => hasher.update(data),
            Hashing::Single(context) => context.update(data),
        }
    }

    /// Adds to two at once, which takes hardly longer than to one of them.
    pub(crate) fn update_two(a: &mut Self, to_a: &[u8], b: &mut Self, to_b: &[u8]) {
        if let (Hashing::Paired(a), Hashing::Paired(b)) = (&mut a.0, &mut b.0) {
            sha256::Hasher::update_two(a, to_a, b, to_b);
        } else {
            a.update(to_a);
            b.update(to_b);
        }
    }

    pub(crate) fn finish(self) -> Id {
        let mut bytes = [0_u8; 32];
        match self.0 {
            Hashing::Paired(hasher) => bytes = hasher.finish(),
            Hashing::Single(context) => bytes.copy_from_slice(context.finish().as_ref()),
        }
        Id(bytes)
    }
}

/// Bytes whose digest is found bit by bit, beside others that have to be hashed anyway.
pub(crate) struct Beside<'a> {
    hasher: IdHasher,
    rest: &'a [u8],
}

impl<'a> Beside<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { hasher: IdHasher::new(), rest: bytes }
    }

    /// The id of `data`; takes as many of these bytes along as `data` has.
    pub(crate) fn hash(&mut self, data: &[u8]) -> Id {
        let mut hasher = IdHasher::new();
        let (now, later) = self.rest.split_at(self.rest.len().min(data.len()));
        IdHasher::update_two(&mut self.hasher, now, &mut hasher, data);
        self.rest = later;
        hasher.finish()
    }

    /// The id of all these bytes.
    pub(crate) fn finish(mut self) -> Id {
        self.hasher.update(self.rest);
        self.hasher.finish()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for Id {
    type Err = Error;

    /// Exactly 64 lower-case hex digits; anything else is no id.
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::from_hex(text.as_bytes())
    }
}

impl Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.to_hex())
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_str(HexVisitor)
    }
}

/// Reads the digits in place: an index holds tens of thousands of ids.
struct HexVisitor;

impl serde::de::Visitor<'_> for HexVisitor {
    type Value = Id;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("64 lower-case hex digits")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Id, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn side_by_side_is_as_one_after_the_other() {
        let data: Vec<u8> = (0..=250).cycle().take(100_000).collect();
        for (a, b) in [(0, 0), (1, 70_000), (64, 63), (99_999, 5), (100_000, 100_000)] {
            let (a, b) = (&data[..a], &data[data.len() - b..]);
            assert_eq!(Id::hash_two(a, b), (Id::hash(a), Id::hash(b)));
        }
        let mut beside = Beside::new(&data[..70_000]);
        for piece in [&data[..30_000], &data[..], &data[5..6]] {
            assert_eq!(beside.hash(piece), Id::hash(piece));
        }
        assert_eq!(beside.finish(), Id::hash(&data[..70_000]));
    }

    #[test]
    fn only_64_lower_case_digits_are_an_id() {
        let id = Id::hash(b"");
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(id.to_hex(), hex);
        assert_eq!(id.short(), "e3b0c442");
        assert_eq!(hex.parse::<Id>().unwrap(), id);
        assert_eq!(serde_json::from_str::<Id>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        for bad in [&hex[1..], &format!("{hex}0"), &hex.to_uppercase(), &hex.replace('e', "g"), ""] {
            assert!(bad.parse::<Id>().is_err(), "{bad}");
        }
    }
}
