//! What every reconciler is given: client, settings, clock, events, progress of the runners. No state that
//! would be missed after a restart.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::events::Events;
use crate::jobs::follow::Board;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::settings::Options;

/// What every reconciler is given.
pub struct Ctx {
    /// Client of the API server.
    pub client: Client,
    /// Settings, read once.
    pub settings: Options,
    /// Uid of the namespace `kube-system`: tells two clusters of one name apart.
    pub cluster_uid: String,
    /// Where Events are published.
    pub events: Events,
    /// What running runners tell.
    pub board: Board,
    /// Which Job may start.
    pub queue: Queue,
    /// When to try again after an error, by object.
    pub backoff: Backoff,
    /// What was tried last, by object and task.
    pub attempts: Attempts,
    /// What Prometheus is told.
    pub metrics: Arc<Metrics>,
    /// Cancelled when the operator stops.
    pub stop: CancellationToken,
    clock: fn() -> Timestamp,
}

impl Ctx {
    /// The context of one operator.
    pub fn new(
        client: Client,
        settings: Options,
        cluster_uid: String,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> Self {
        let events = Events::new(client.clone(), &settings.pod_name);
        let board = Board::new(client.clone(), stop.clone());
        let backoff = Backoff::default();
        let attempts = Attempts::default();
        let queue = Queue::new(settings.jobs_per_node.0, settings.jobs_per_namespace.0);
        Self {
            client,
            settings,
            cluster_uid,
            events,
            board,
            queue,
            backoff,
            attempts,
            metrics,
            stop,
            clock: Timestamp::now,
        }
    }

    /// Now, to the second: what a status keeps, and what compares equal after a round trip.
    pub fn now(&self) -> Timestamp {
        let now = (self.clock)();
        Timestamp::from_second(now.as_second()).unwrap_or(now)
    }
}

/// Growing pauses between tries that failed, by object; bounded by the number of objects that fail.
#[derive(Default)]
pub struct Backoff {
    failures: Mutex<HashMap<String, u32>>,
}

impl Backoff {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_mins(5);
    const REMEMBERED: usize = 10_000;

    /// The pause before the next try of the object with this uid.
    pub fn next(&self, uid: &str) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        // Objects that were deleted while they failed are never reset: forget everything now and then.
        if failures.len() >= Self::REMEMBERED {
            failures.clear();
        }
        let count = failures.entry(uid.to_owned()).or_default();
        let pause = Self::FIRST.saturating_mul(2_u32.saturating_pow(*count)).min(Self::LONGEST);
        *count = count.saturating_add(1);
        pause
    }

    /// A try succeeded: the next failure begins with the shortest pause again.
    pub fn reset(&self, uid: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// The last try of a task: with what, when, and how often it has failed since it last succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Digest of all that the try depends on; another one makes the next try due at once.
    pub inputs: String,
    /// When it ended.
    pub at: Timestamp,
    /// Failures since the last success.
    pub failures: u32,
}

impl Attempt {
    /// When the next try is due: `period` after a success, and after failures a pause that grows from `first`
    /// to `period`.
    pub fn next(&self, first: Duration, period: Duration) -> Timestamp {
        let pause = match self.failures {
            0 => period,
            n => first.saturating_mul(2_u32.saturating_pow(n.saturating_sub(1))).min(period),
        };
        self.at.saturating_add(pause).unwrap_or(self.at)
    }
}

/// What was tried last, by uid of the object and task. Kept in memory only: after a restart everything is tried
/// once more, which does no harm and finds what changed meanwhile.
#[derive(Default)]
pub struct Attempts {
    last: Mutex<HashMap<String, HashMap<&'static str, Attempt>>>,
}

impl Attempts {
    /// The last try.
    pub fn last(&self, uid: &str, task: &'static str) -> Option<Attempt> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).get(uid)?.get(task).cloned()
    }

    /// A try ended.
    pub fn ended(&self, uid: &str, task: &'static str, inputs: &str, success: bool, now: Timestamp) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let tasks = last.entry(uid.to_owned()).or_default();
        let before = tasks.get(task).filter(|attempt| attempt.inputs == inputs).map_or(0, |a| a.failures);
        let failures = if success { 0 } else { before.saturating_add(1) };
        tasks.insert(task, Attempt { inputs: inputs.to_owned(), at: now, failures });
    }

    /// The object is gone.
    pub fn forget(&self, uid: &str) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_follow_each_other_ever_slower_until_one_succeeds_or_something_changes() {
        let attempts = Attempts::default();
        let now = Timestamp::UNIX_EPOCH;
        let next = || {
            let attempt = attempts.last("u", "Probe").unwrap();
            attempt.next(Duration::from_secs(10), Duration::from_mins(1)).as_second()
        };
        assert_eq!(attempts.last("u", "Probe"), None);
        let pauses: Vec<_> = (0..5)
            .map(|_| {
                attempts.ended("u", "Probe", "a", false, now);
                next()
            })
            .collect();
        assert_eq!(pauses, [10, 20, 40, 60, 60]);
        attempts.ended("u", "Probe", "b", false, now);
        assert_eq!(next(), 10);
        attempts.ended("u", "Probe", "b", true, now);
        assert_eq!(next(), 60);
        attempts.forget("u");
        assert_eq!(attempts.last("u", "Probe"), None);
    }

    #[test]
    fn pauses_grow_to_a_limit_and_begin_again_after_success() {
        let backoff = Backoff::default();
        let pauses: Vec<_> = (0..12).map(|_| backoff.next("a").as_secs()).collect();
        assert_eq!(pauses.get(..4), Some([1, 2, 4, 8].as_slice()));
        assert_eq!(pauses.last(), Some(&300));
        assert_eq!(backoff.next("b").as_secs(), 1);
        backoff.reset("a");
        assert_eq!(backoff.next("a").as_secs(), 1);
    }
}
