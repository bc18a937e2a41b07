//! Sync: all snapshots of the repository as rows.

use holdfast_engine::Id;
use holdfast_engine::format::snapshot::Snapshot;
use holdfast_engine::repository::SnapshotList;
use holdfast_engine::store::FileKind;
use holdfast_protocol::spec::SnapshotRow;
use holdfast_protocol::{TaskResult, Verdict, attachment};

use super::{Job, count};
use crate::failure::{Failure, succeeded};

/// Most snapshots told of. The operator holds all rows of a repository at once, beside those of others.
const SNAPSHOTS: usize = 100_000;
/// Most tags and paths of a snapshot, most bytes of one of them, and most bytes of all: many times what Holdfast writes.
/// Whoever has the repository's key may write a snapshot of any size, and must not be able to fill the operator's memory.
const TEXTS: usize = 64;
const TEXT: usize = 4096;
const ALL_TEXTS: usize = 16 << 10;
/// How tags begin that mean something to the operator.
const OURS: &str = "holdfast.dev/";

impl Job {
    pub(super) async fn sync(&self) -> Result<Verdict, Failure> {
        // Reading snapshots needs no lock: a snapshot that goes meanwhile is gone at the next sync too.
        let repository = self.open().await?;
        self.reporter.phase("list");
        let SnapshotList { readable: snapshots, damaged, unknown } = repository.list_snapshots().await?;
        // By their names alone: how many there are must not depend on whether all can be read.
        let locks = self.store.list(FileKind::Lock).await?;

        let rows_total = snapshots.len().saturating_add(damaged.len()).saturating_add(unknown.len());
        if rows_total > SNAPSHOTS {
            return Err(Failure::fatal(
                "TooManySnapshots",
                format!(
                    "{} holds {} snapshots and at most {SNAPSHOTS} can be told of; forget some, or begin another repository",
                    self.store.describe(),
                    rows_total
                ),
            ));
        }
        let mut rows = attachment::Writer::default();
        let readable = snapshots.iter().map(|(id, snapshot)| (id, row(id, snapshot)));
        let damaged = damaged.iter().map(|one| (&one.id, unread_row(&one.id, true)));
        // What only another program understands is none of Holdfast's.
        let unknown = unknown.iter().map(|one| (&one.id, unread_row(&one.id, false)));
        for (id, row) in readable.chain(damaged).chain(unknown) {
            let event = rows
                .row(&row)
                .map_err(|e| Failure::fatal("Internal", format!("put snapshot {id} into a row: {e}")))?;
            self.reporter.row(event);
        }

        let mut verdict =
            succeeded(TaskResult::Sync { snapshots: count(rows_total), locks: count(locks.len()) });
        verdict.attachment = Some(rows.seal());
        Ok(verdict)
    }
}

/// What the operator is told of a snapshot.
fn row(id: &Id, snapshot: &Snapshot) -> SnapshotRow {
    SnapshotRow {
        id: id.to_hex(),
        time: snapshot.time.timestamp.to_string(),
        host: snapshot.hostname.chars().take(TEXT / 4).collect(),
        paths: short(&snapshot.paths),
        tags: short(&snapshot.tags),
        files: snapshot.summary.as_ref().map(|s| s.total_files_processed),
        bytes: snapshot.summary.as_ref().map(|s| s.total_bytes_processed),
        damaged: false,
    }
}

/// All that can be told of one that cannot be read.
fn unread_row(id: &Id, damaged: bool) -> SnapshotRow {
    SnapshotRow {
        id: id.to_hex(),
        time: String::new(),
        host: String::new(),
        paths: Vec::new(),
        tags: Vec::new(),
        files: None,
        bytes: None,
        damaged,
    }
}

/// The texts without those that are too long or too many; Holdfast's own tags come first.
fn short(texts: &[String]) -> Vec<String> {
    let mut left = ALL_TEXTS;
    let (ours, theirs): (Vec<&String>, Vec<&String>) =
        texts.iter().filter(|text| text.len() <= TEXT).partition(|text| text.starts_with(OURS));
    ours.into_iter()
        .chain(theirs)
        .take(TEXTS)
        .take_while(|text| {
            let fits = text.len() <= left;
            left = left.saturating_sub(text.len());
            fits
        })
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(change: impl FnOnce(&mut serde_json::Value)) -> Snapshot {
        let mut json = serde_json::json!({"time": "2026-01-01T00:00:00Z", "tree": "ab".repeat(32)});
        change(&mut json);
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_row_stays_short_whatever_the_snapshot_holds() {
        let ours = "holdfast.dev/run=x";
        let vile = ["t".repeat(1 << 20), "\u{1}".repeat(TEXT), String::new()];
        for text in vile {
            let many: Vec<&str> = std::iter::repeat_n(text.as_str(), 1000).chain([ours]).collect();
            let snapshot = snapshot(|json| {
                (json["tags"], json["paths"], json["hostname"]) =
                    (many.clone().into(), many.into(), text.clone().into());
            });
            let row = row(&Id::hash(b"s"), &snapshot);
            assert_eq!(row.tags[0], ours);
            assert!(row.tags.len() <= TEXTS && row.paths.len() <= TEXTS);
            // An escape takes six bytes where the character takes one.
            assert!(serde_json::to_string(&row).unwrap().len() < 256 << 10);
        }
    }

    #[test]
    fn an_honest_row_is_whole() {
        let tags: Vec<String> =
            (0..30).map(|n| format!("holdfast.dev/key-{n}={}", "v".repeat(300))).collect();
        let snapshot = snapshot(|json| {
            (json["tags"], json["paths"], json["hostname"]) =
                (tags.clone().into(), vec!["/data/a"].into(), "shop".into());
        });
        let row = row(&Id::hash(b"s"), &snapshot);
        assert_eq!((row.tags, row.paths, row.host), (tags, vec!["/data/a".to_owned()], "shop".to_owned()));
    }
}
