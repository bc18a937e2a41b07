//! Unlock: removes what a run left in the repository. The locks of Jobs that the operator knows to be dead, and no other;
//! and the snapshots of which it knows that they are worth nothing.

use std::str::FromStr as _;

use holdfast_engine::Id;
use holdfast_engine::lock::Unlock;
use holdfast_engine::store::{FileKind, FileName};
use holdfast_protocol::{TaskResult, Verdict};

use super::{Job, count};
use crate::failure::{Failure, succeeded};

impl Job {
    pub(super) async fn unlock(&self) -> Result<Verdict, Failure> {
        if self.spec.read_only {
            // No lock was taken, for none can be written.
            return Ok(succeeded(TaskResult::Unlock { removed: 0 }));
        }
        let ids = self.spec.discard.iter().map(|id| Id::from_str(id)).collect::<Result<Vec<Id>, _>>()?;
        let repository = self.open().await?;
        self.reporter.phase("unlock");
        let mut removed = Vec::new();
        if !self.spec.dead_jobs.is_empty() {
            removed = repository.unlock(Unlock::Jobs(self.spec.dead_jobs.clone())).await?;
        }
        for (_, lock) in &removed {
            self.reporter
                .log("info", format!("removed the lock of {} from {}", lock.hostname, lock.time.timestamp));
        }
        // Without a lock, as a backup takes back its own: nobody needs a snapshot to go on, and a prune of the same moment
        // keeps what it refers to until the next one.
        for id in ids {
            repository.store().delete(FileName { kind: FileKind::Snapshot, id }).await?;
            self.reporter.log("info", format!("removed the snapshot {id}, which holds parts of two states"));
        }
        Ok(succeeded(TaskResult::Unlock { removed: count(removed.len()) }))
    }
}
