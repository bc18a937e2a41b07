//! 32-byte names: blob, pack, index, snapshot and key ids are SHA-256 digests written as lower-case hex.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
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
pub(crate) struct IdHasher(aws_lc_rs::digest::Context);

impl IdHasher {
    pub(crate) fn new() -> Self {
        Self(aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256))
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    pub(crate) fn finish(self) -> Id {
        let mut bytes = [0_u8; 32];
        bytes.copy_from_slice(self.0.finish().as_ref());
        Id(bytes)
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
