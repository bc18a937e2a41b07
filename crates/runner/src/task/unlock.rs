//! Unlock: removes the locks of Jobs that the operator knows to be dead, and no other.

use holdfast_engine::lock::Unlock;
use holdfast_protocol::{TaskResult, Verdict};

use super::{Job, count};
use crate::failure::{Failure, succeeded};

impl Job {
    pub(super) async fn unlock(&self) -> Result<Verdict, Failure> {
        if self.spec.read_only {
            // No lock was taken, for none can be written.
            return Ok(succeeded(TaskResult::Unlock { removed: 0 }));
        }
        let repository = self.open().await?;
        self.reporter.phase("unlock");
        let removed = repository.unlock(Unlock::Jobs(self.spec.dead_jobs.clone())).await?;
        for (_, lock) in &removed {
            self.reporter
                .log("info", format!("removed the lock of {} from {}", lock.hostname, lock.time.timestamp));
        }
        Ok(succeeded(TaskResult::Unlock { removed: count(removed.len()) }))
    }
}
