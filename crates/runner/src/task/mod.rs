//! The tasks, one file each: from an opened store to a verdict.
//!
//! Each task is given its store, so that it works on a directory in a test as it does on a bucket.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_engine::event::{Checkpoint, Ctx};
use holdfast_engine::repository::Repository;
use holdfast_engine::store::{self, Location, Store, StoreOptions};
use holdfast_protocol::{RunSpec, Task, Verdict};
use secrecy::SecretString;

use crate::failure::Failure;
use crate::report::Reporter;
use crate::spec::Run;
use crate::stop::Stop;

mod backup;
mod initialize;
mod probe;
mod restore;
mod sync;
#[cfg(test)]
mod tests;
mod unlock;

/// How long a probe tries again before it calls a store unreachable: people wait for its answer.
const PROBE_PATIENCE: Duration = Duration::from_secs(30);
/// Most files named in a verdict. A termination message is short; the log names more.
const SAMPLES: usize = 20;

/// One task with all that it needs.
pub(crate) struct Job {
    /// The spec, with the task in it.
    pub(crate) spec: RunSpec,
    /// The storage's root, or the repository's directory where the spec names one.
    pub(crate) store: Arc<dyn Store>,
    /// Where that is, and how it is reached: for questions about the place itself.
    pub(crate) place: (Location, StoreOptions),
    /// Password of the repository.
    pub(crate) password: Option<SecretString>,
    /// The storage's recovery password.
    pub(crate) recovery_password: Option<SecretString>,
    /// What an earlier runner of the same component had finished.
    pub(crate) checkpoint: Option<Checkpoint>,
    /// How to stop the work, and who is told about it.
    pub(crate) ctx: Ctx,
    /// For rows and for lines of our own.
    pub(crate) reporter: Arc<Reporter>,
}

/// Opens the store and does the task.
pub(crate) async fn perform(mut run: Run, reporter: &Arc<Reporter>, stop: &Stop) -> Result<Verdict, Failure> {
    if matches!(run.spec.task, Task::Probe { .. }) {
        run.options.retry.deadline = PROBE_PATIENCE;
    }
    let store_ctx = Ctx { cancel: stop.store().clone(), events: Arc::clone(reporter) as _ };
    let location = run.location();
    let store = store::open(&location, &run.options, &store_ctx)?;
    let job = Job {
        spec: run.spec,
        store,
        place: (location, run.options),
        password: run.password,
        recovery_password: run.recovery_password,
        checkpoint: run.checkpoint,
        ctx: Ctx { cancel: stop.work().child_token(), events: Arc::clone(reporter) as _ },
        reporter: Arc::clone(reporter),
    };
    job.perform().await
}

impl Job {
    /// Does the task.
    pub(crate) async fn perform(&self) -> Result<Verdict, Failure> {
        let token = &self.ctx.cancel;
        let closed = self.spec.read_only;
        match &self.spec.task {
            Task::Probe { scan_limit } => Stop::bound(token, self.probe(*scan_limit)).await,
            Task::Initialize { record, must_exist: _, read_only } if *read_only || closed => {
                Stop::bound(token, self.open_only(record)).await
            }
            Task::Initialize { record, must_exist, read_only: _ } => {
                Stop::bound(token, self.initialize(record, *must_exist)).await
            }
            Task::Sync => Stop::bound(token, self.sync()).await,
            Task::Unlock => Stop::bound(token, self.unlock()).await,
            // These two bound their work themselves: they have a lock to release after it.
            Task::BackupVolume(_) if closed => Err(Failure::fatal(
                "ReadOnly",
                format!("{} is read-only for this run, so nothing can be saved to it", self.store.describe()),
            )),
            Task::BackupVolume(volume) => self.backup(volume).await,
            Task::RestoreVolume(volume) => self.restore(volume).await,
        }
    }

    /// The password that the task cannot do without.
    fn password(&self) -> Result<&SecretString, Failure> {
        self.password
            .as_ref()
            .ok_or_else(|| Failure::fatal("BadSpec", "the run's Secret holds no password for the repository"))
    }

    /// Opens the repository.
    async fn open(&self) -> Result<Repository, Failure> {
        self.reporter.phase("open");
        let repository = Repository::open(Arc::clone(&self.store), self.password()?, &self.ctx).await?;
        match &self.spec.repository_id {
            Some(wanted) if wanted != repository.id() => Err(Failure::fatal(
                "RepositoryReplaced",
                format!(
                    "{} holds repository {}, and it held {wanted} before; somebody has replaced it: put the old one \
                     back, or make another Repository",
                    self.store.describe(),
                    repository.id()
                ),
            )),
            _ => Ok(repository),
        }
    }
}

/// A count for a field of 32 bits, which no storage or repository comes near.
fn count(items: usize) -> u32 {
    u32::try_from(items).unwrap_or(u32::MAX)
}

/// A duration in whole milliseconds.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whether a volume holds nothing but what ext4 makes in the root of each file system. One that cannot be listed is taken
/// to hold something.
fn is_fresh(volume: &Path) -> bool {
    let Ok(entries) = volume.read_dir() else { return false };
    entries.into_iter().all(|entry| entry.is_ok_and(|entry| entry.file_name() == "lost+found"))
}
