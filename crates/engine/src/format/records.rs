//! Our own records in index files: packs that wait to be deleted, and snapshots that were forgotten.
//!
//! They live in index files because every kind of store has those, they are sealed, every client skips keys it does
//! not know, and a client that rewrites the index after deleting packs drops them with the data they are about.
//! Files with records list no packs. Not here: what follows from them (`prune`, `forget`).

use data_encoding::BASE64;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;

/// A pack that nothing needed when it was looked at. It stays readable until it is swept, and nothing new may rely
/// on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The pack.
    pub pack: Id,
    /// Since when, by the store's clock where it has one; [`Timestamp::MIN`] where who marked it did not know.
    #[serde(default = "distant_past", skip_serializing_if = "is_distant_past")]
    pub since: Timestamp,
    /// Which program marked it, for people.
    #[serde(default)]
    pub by: String,
}

/// A mark without a time is of some other writer, or of one that lost its lock: old enough for any grace would be a guess, so
/// the reader of marks treats this value as "just now".
fn distant_past() -> Timestamp {
    Timestamp::MIN
}

fn is_distant_past(since: &Timestamp) -> bool {
    *since == Timestamp::MIN
}

/// A snapshot that was forgotten and can be brought back until its data are swept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgottenRecord {
    /// The snapshot's id.
    pub snapshot: Id,
    /// When it was forgotten.
    pub at: Timestamp,
    /// Its file, byte for byte, so that it comes back under the same id.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub sealed: Vec<u8>,
}

/// All records of one index file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    /// Packs that wait to be deleted, of this or any other index file.
    #[serde(rename = "holdfast_marks", default, skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<Mark>,
    /// Snapshots that were forgotten.
    #[serde(rename = "holdfast_forgotten", default, skip_serializing_if = "Vec::is_empty")]
    pub forgotten: Vec<ForgottenRecord>,
}

#[derive(Serialize)]
struct File<'a> {
    packs: [(); 0],
    #[serde(flatten)]
    records: &'a Records,
}

impl Records {
    /// The records in an index file's JSON; none in most.
    pub fn parse(json: &[u8]) -> Result<Self> {
        serde_json::from_slice(json).map_err(|e| {
            Error::with_source(
                ErrorKind::Corrupt,
                "an index file's records are not of a form this version can read",
                e,
            )
        })
    }

    /// The JSON of an index file with nothing but these.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(&File { packs: [], records: self })
            .map_err(|e| Error::with_source(ErrorKind::Internal, "records could not be written as JSON", e))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty() && self.forgotten.is_empty()
    }
}

fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    BASE64.decode(text.as_bytes()).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::index_file::IndexFile;

    #[test]
    fn records_round_trip_and_the_index_reads_the_marks() {
        let records = Records {
            marks: vec![Mark {
                pack: Id::from_bytes([1; 32]),
                since: "2026-01-02T03:04:05Z".parse().unwrap(),
                by: "holdfast".to_owned(),
            }],
            forgotten: vec![ForgottenRecord {
                snapshot: Id::from_bytes([2; 32]),
                at: "2026-01-02T03:04:05Z".parse().unwrap(),
                sealed: vec![0, 255, 7],
            }],
        };
        let json = records.to_json().unwrap();
        let (one, two) = ("01".repeat(32), "02".repeat(32));
        assert_eq!(
            String::from_utf8(json.clone()).unwrap(),
            format!(
                r#"{{"packs":[],"holdfast_marks":[{{"pack":"{one}","since":"2026-01-02T03:04:05Z","by":"holdfast"}}],"holdfast_forgotten":[{{"snapshot":"{two}","at":"2026-01-02T03:04:05Z","sealed":"AP8H"}}]}}"#
            )
        );
        assert_eq!(Records::parse(&json).unwrap(), records);
        let file = IndexFile::parse(&json).unwrap();
        assert!(file.packs.is_empty());
        assert_eq!(file.marks, [Id::from_bytes([1; 32])]);
    }

    #[test]
    fn ordinary_index_files_have_none_and_odd_ones_are_errors() {
        assert!(Records::parse(br#"{"packs":[{"id":"whatever"}],"supersedes":null}"#).unwrap().is_empty());
        assert!(Records::parse(br#"{"holdfast_marks":[{"pack":"short"}]}"#).is_err());
        assert!(Records::parse(br#"{"holdfast_forgotten":[{"snapshot":1}]}"#).is_err());
        let one = "01".repeat(32);
        let bare =
            Records::parse(format!(r#"{{"holdfast_marks":[{{"pack":"{one}"}}]}}"#).as_bytes()).unwrap();
        assert_eq!(bare.marks[0].since, Timestamp::MIN);
        let again = Records::parse(&bare.to_json().unwrap()).unwrap();
        assert_eq!((again.marks[0].pack, again.marks[0].since), (bare.marks[0].pack, Timestamp::MIN));
    }
}
