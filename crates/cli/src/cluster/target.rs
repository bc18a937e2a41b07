//! `KIND/NAME` as people write it, and the kinds that there are to name.

use super::names;
use crate::failure::Result;

/// A kind of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A Backup.
    Backup,
    /// A Restore.
    Restore,
    /// A Snapshot.
    Snapshot,
    /// A BackupStorage.
    Storage,
    /// A Repository.
    Repository,
}

/// Every kind, and what it may be called: singular, plural, short name, and what people say.
const KINDS: [(Kind, &[&str]); 5] = [
    (Kind::Backup, &["backup", "backups", "hfb", "b"]),
    (Kind::Restore, &["restore", "restores", "hfr", "r"]),
    (Kind::Snapshot, &["snapshot", "snapshots", "hfsnap", "snap"]),
    (Kind::Storage, &["backupstorage", "backupstorages", "hfbs", "storage", "storages"]),
    (Kind::Repository, &["repository", "repositories", "hfrepo", "repo"]),
];

/// An object that is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// Its kind.
    pub(super) kind: Kind,
    /// Its name.
    pub(super) name: String,
}

/// Reads `KIND/NAME`, or `KIND.GROUP/NAME` as `-o name` prints it.
pub(super) fn parse(text: &str) -> Result<Target> {
    let Some((kind, name)) = text.split_once('/').filter(|(_, name)| !name.is_empty() && !name.contains('/'))
    else {
        return Err(names::usage(
            format!("{text:?} names no object"),
            "write KIND/NAME, e.g. backup/daily or storage/main",
        ));
    };
    let word = kind.to_lowercase();
    let word = word.split('.').next().unwrap_or_default();
    if let Some((kind, _)) = KINDS.iter().find(|(_, names)| names.contains(&word)) {
        return Ok(Target { kind: *kind, name: name.to_owned() });
    }
    let words: Vec<String> =
        KINDS.iter().filter_map(|(_, names)| names.first()).map(ToString::to_string).collect();
    Err(names::usage(format!("there is no kind {kind:?}"), names::advice(word, &words, "")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_taken_by_all_their_names() {
        for (text, kind) in [
            ("backup/x", Kind::Backup),
            ("hfr/x", Kind::Restore),
            ("Snapshots/x", Kind::Snapshot),
            ("storage/x", Kind::Storage),
            ("repository.holdfast.dev/x", Kind::Repository),
        ] {
            assert_eq!(parse(text).unwrap(), Target { kind, name: "x".to_owned() }, "{text}");
        }
    }

    #[test]
    fn what_is_no_object_says_how_one_is_written() {
        assert!(parse("x").unwrap_err().advice.unwrap().contains("KIND/NAME"));
        assert!(parse("backup/").is_err() && parse("a/b/c").is_err());
        assert_eq!(parse("bakcup/x").unwrap_err().advice.unwrap(), "did you mean backup or backupstorage?");
        assert!(parse("zebra/x").unwrap_err().advice.unwrap().contains("backup, restore"));
    }
}
