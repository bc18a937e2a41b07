//! A snapshot: which tree was taken when, of what, by whom.

use serde::{Deserialize, Serialize};

use super::time::OffsetTime;
use crate::id::Id;

/// A snapshot as its file holds it. Fields we do not know are kept and written back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When the backup began.
    pub time: OffsetTime,
    /// The snapshot whose files were compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Id>,
    /// The root tree.
    pub tree: Id,
    /// The paths that were backed up.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub paths: Vec<String>,
    /// Host name; in Holdfast's backups the namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// User name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// User id.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uid: u32,
    /// Group id.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gid: u32,
    /// Patterns that were left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub excludes: Vec<String>,
    /// Tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub tags: Vec<String>,
    /// The first snapshot that this one is a rewritten copy of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Id>,
    /// Which program wrote it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub program_version: String,
    /// Counts of the backup run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<SnapshotSummary>,
    /// Fields of other programs.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// What the backup run counted (since restic 0.17).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSummary {
    /// When the run began.
    pub backup_start: OffsetTime,
    /// When it ended.
    pub backup_end: OffsetTime,
    /// Files not in the parent.
    pub files_new: u64,
    /// Files that differ from the parent's.
    pub files_changed: u64,
    /// Files that are as in the parent.
    pub files_unmodified: u64,
    /// Directories not in the parent.
    pub dirs_new: u64,
    /// Directories that differ from the parent's.
    pub dirs_changed: u64,
    /// Directories that are as in the parent.
    pub dirs_unmodified: u64,
    /// Data blobs added.
    pub data_blobs: u64,
    /// Tree blobs added.
    pub tree_blobs: u64,
    /// Plain bytes added.
    pub data_added: u64,
    /// Bytes added to the store.
    pub data_added_packed: u64,
    /// All files looked at.
    pub total_files_processed: u64,
    /// Their plain bytes.
    pub total_bytes_processed: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde's attribute asks for")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// Go writes `null` for a list that was never made.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_other_programs_survive_a_rewrite() {
        let tree = "01".repeat(32);
        let text = format!(
            r#"{{"time":"2026-03-01T01:30:00.5+05:30","tree":"{tree}","paths":["/data/a"],"hostname":"h","tags":["x=1"],"label":"rustic","summary":null}}"#
        );
        let snapshot: Snapshot = serde_json::from_str(&text).unwrap();
        assert_eq!(snapshot.other.get("label").and_then(|v| v.as_str()), Some("rustic"));
        assert_eq!(snapshot.summary, None);
        let again: Snapshot = serde_json::from_str(&serde_json::to_string(&snapshot).unwrap()).unwrap();
        assert_eq!(again, snapshot);
    }

    #[test]
    fn order_and_omissions_are_the_formats() {
        let snapshot = Snapshot {
            time: "\"2026-01-02T03:04:05Z\""
                .parse::<serde_json::Value>()
                .and_then(serde_json::from_value)
                .unwrap(),
            parent: None,
            tree: Id::from_bytes([1; 32]),
            paths: vec!["/a".into()],
            hostname: String::new(),
            username: "u".into(),
            uid: 0,
            gid: 7,
            excludes: Vec::new(),
            tags: vec!["t".into()],
            original: None,
            program_version: "holdfast 0.1.0".into(),
            summary: None,
            other: serde_json::Map::new(),
        };
        let tree = "01".repeat(32);
        assert_eq!(
            serde_json::to_string(&snapshot).unwrap(),
            format!(
                r#"{{"time":"2026-01-02T03:04:05Z","tree":"{tree}","paths":["/a"],"username":"u","gid":7,"tags":["t"],"program_version":"holdfast 0.1.0"}}"#
            )
        );
    }
}
