//! What Backups and Restores share: one Job a component, started, followed, judged and tried again, and the end of
//! a run, which leaves no pod, Secret or lock. What the Jobs do, and what follows from their results, is decided by
//! the two reconcilers.
//!
//! A component may need several Jobs, one after the other: a Job that was stopped because it gave no sign of life, or
//! whose result was lost, is followed by the next at once, one that failed for a passing reason after a pause. Their names are counted ([`names::job_name`]) and the ones
//! before stay until the run ends, so that no count has to be kept anywhere: what there is tells what comes next.

pub mod advance;
pub mod bound;
pub mod lost;
pub mod retry;
pub mod settle;
pub mod stop;
pub mod waits;

pub use advance::{Common, Crew, Fields};
pub use settle::{Settled, settle, stop_all};
pub use stop::Stopped;

use holdfast_api::{Reason, names};
use jiff::{SignedDuration, Timestamp};

use crate::access::AccessError;
use crate::jobs::JobError;
use crate::jobs::unlock::UnlockError;
use crate::kubernetes::RequestError;

/// Why a run could not be looked after; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The API server refused or could not be asked.
    #[error("the API server did not do what the run needs")]
    Request(#[from] RequestError),
    /// A Job could not be looked after.
    #[error("a Job of the run could not be looked after")]
    Job(#[from] JobError),
    /// A lock could not be removed.
    #[error("a lock of the run could not be removed")]
    Unlock(#[from] UnlockError),
    /// The repository could not be reached.
    #[error("the repository of the run could not be reached")]
    Access(#[from] AccessError),
    /// The PodConfig that it names cannot be used.
    #[error("{message}")]
    PodConfig {
        /// In one word.
        reason: Reason,
        /// Cause and what to do.
        message: String,
    },
}

/// The soonest of several moments at which to look again.
#[derive(Debug, Default, Clone, Copy)]
pub struct LookAgain(Option<std::time::Duration>);

impl LookAgain {
    /// Look again after this time, or before.
    pub fn after(&mut self, time: std::time::Duration) {
        self.0 = Some(self.0.map_or(time, |earlier| earlier.min(time)));
    }

    /// What the controller is told: at the soonest moment, or when something changes.
    pub fn action(self) -> kube::runtime::controller::Action {
        use kube::runtime::controller::Action;
        // Never at once: what is awaited is one tick away at the least.
        self.0.map_or_else(Action::await_change, |time| {
            Action::requeue(time.max(std::time::Duration::from_millis(200)))
        })
    }
}

/// What is left of `allowed` since `start`; none when it is over.
pub fn time_left(
    start: Timestamp,
    allowed: std::time::Duration,
    now: Timestamp,
) -> Option<std::time::Duration> {
    let allowed = SignedDuration::try_from(allowed).unwrap_or(SignedDuration::MAX);
    let left = allowed.checked_sub(now.duration_since(start))?;
    std::time::Duration::try_from(left).ok().filter(|left| !left.is_zero())
}

/// The run as names are made from it.
pub fn named(kind: names::RunKind, run: &crate::jobs::RunRef) -> names::Run<'_> {
    names::Run { kind, name: &run.name, uid: &run.uid }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn time_runs_out_once_and_for_all() {
        let start = Timestamp::UNIX_EPOCH;
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(time_left(start, Duration::from_secs(10), at(4)), Some(Duration::from_secs(6)));
        assert_eq!(time_left(start, Duration::from_secs(10), at(10)), None);
        assert_eq!(time_left(start, Duration::from_secs(10), at(99)), None);
        // A clock that was set back gives more time, never a panic.
        assert_eq!(time_left(at(5), Duration::from_secs(10), at(0)), Some(Duration::from_secs(15)));
    }
}
