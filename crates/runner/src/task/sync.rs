//! Sync: all snapshots of the repository as rows.

use holdfast_engine::store::FileKind;
use holdfast_protocol::spec::SnapshotRow;
use holdfast_protocol::{TaskResult, Verdict, attachment};

use super::{Job, count};
use crate::failure::{Failure, succeeded};

impl Job {
    pub(super) async fn sync(&self) -> Result<Verdict, Failure> {
        // Reading snapshots needs no lock: a snapshot that goes meanwhile is gone at the next sync too.
        let repository = self.open().await?;
        self.reporter.phase("list");
        let snapshots = repository.snapshots().await?;
        // By their names alone: how many there are must not depend on whether all can be read.
        let locks = self.store.list(FileKind::Lock).await?;

        let mut rows = attachment::Writer::default();
        for (id, snapshot) in &snapshots {
            let row = SnapshotRow {
                id: id.to_hex(),
                time: snapshot.time.timestamp.to_string(),
                host: snapshot.hostname.clone(),
                paths: snapshot.paths.clone(),
                tags: snapshot.tags.clone(),
                files: snapshot.summary.as_ref().map(|s| s.total_files_processed),
                bytes: snapshot.summary.as_ref().map(|s| s.total_bytes_processed),
            };
            let event = rows
                .row(&row)
                .map_err(|e| Failure::fatal("Internal", format!("put snapshot {id} into a row: {e}")))?;
            self.reporter.row(event);
        }

        let mut verdict =
            succeeded(TaskResult::Sync { snapshots: count(snapshots.len()), locks: count(locks.len()) });
        verdict.attachment = Some(rows.seal());
        Ok(verdict)
    }
}
