//! What is counted while the operator works: runs that ended and looks at objects. Begins at zero with each start, as
//! counters do; what must not be forgotten is in `objects`.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use holdfast_api::{Backup, Restore};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::family::{Labels, labels};

/// Seconds: from a claim without changes to a night.
const RUN_BUCKETS: [f64; 10] = [1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 10_800.0, 21_600.0, 43_200.0];
/// Seconds: from a look that finds nothing to do to one that waits for a slow API server.
const LOOK_BUCKETS: [f64; 7] = [0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0];
/// Most namespaces told apart in counters; those that come later are counted together.
const MAX_NAMESPACES: usize = 2_000;
/// What namespaces over the limit are called; no namespace can have this name.
const OTHERS: &str = "_other";
/// Most runs followed to their end at the same time. One over it is not counted, and nothing else happens.
const MAX_LIVE: usize = 20_000;

/// How far a run is, as far as counting needs it.
#[derive(Debug, Clone, PartialEq)]
pub enum RunState {
    /// It waits or works.
    Live,
    /// It has ended.
    Ended(EndedRun),
}

/// A run that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct EndedRun {
    /// Its last phase.
    pub outcome: &'static str,
    /// How long it took from its creation on.
    pub took: Option<Duration>,
    /// Bytes read from the source and bytes added to the repository, of a Backup.
    pub bytes: Option<(u64, u64)>,
}

/// Counters and histograms.
#[derive(Debug)]
pub(super) struct Counted {
    ended: Family<Labels, Counter>,
    took: Family<Labels, Histogram, fn() -> Histogram>,
    read: Family<Labels, Counter>,
    added: Family<Labels, Counter>,
    looks: Family<Labels, Counter>,
    looked: Family<Labels, Histogram, fn() -> Histogram>,
    looking: Family<Labels, Gauge>,
    interrupted: Family<Labels, Counter>,
    live: Mutex<HashSet<String>>,
    namespaces: Mutex<HashSet<String>>,
}

fn run_histogram() -> Histogram {
    Histogram::new(RUN_BUCKETS)
}

fn look_histogram() -> Histogram {
    Histogram::new(LOOK_BUCKETS)
}

impl Counted {
    pub(super) fn new() -> Self {
        Self {
            ended: Family::default(),
            took: Family::new_with_constructor(run_histogram),
            read: Family::default(),
            added: Family::default(),
            looks: Family::default(),
            looked: Family::new_with_constructor(look_histogram),
            looking: Family::default(),
            interrupted: Family::default(),
            live: Mutex::default(),
            namespaces: Mutex::default(),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "runs_ended",
            "Runs that ended since the operator began to work, by outcome",
            self.ended.clone(),
        );
        registry.register(
            "run_duration_seconds",
            "From the creation of a run to its end, waiting included",
            self.took.clone(),
        );
        registry.register(
            "backup_read_bytes",
            "Bytes of all files in the snapshots of Backups that ended",
            self.read.clone(),
        );
        registry.register(
            "backup_added_bytes",
            "Bytes that Backups that ended added to their repositories, compressed and encrypted",
            self.added.clone(),
        );
        registry.register("reconciles", "Looks at an object, by result: ok or error", self.looks.clone());
        registry.register(
            "reconcile_duration_seconds",
            "How long a look at an object took",
            self.looked.clone(),
        );
        registry.register("reconciles_under_way", "Looks at objects under way", self.looking.clone());
        registry.register(
            "watch_interruptions",
            "Watches that broke off and were taken up again",
            self.interrupted.clone(),
        );
    }

    /// A look at an object begins.
    pub(super) fn look_begins(&self, kind: &str) {
        self.looking.get_or_create(&labels([("kind", kind)])).inc();
    }

    /// It has ended.
    pub(super) fn look_ended(&self, kind: &str, took: Duration, good: bool) {
        self.looking.get_or_create(&labels([("kind", kind)])).dec();
        let result = if good { "ok" } else { "error" };
        self.looks.get_or_create(&labels([("kind", kind), ("result", result)])).inc();
        self.looked.get_or_create(&labels([("kind", kind)])).observe(took.as_secs_f64());
    }

    /// A watch broke off.
    pub(super) fn watch_interrupted(&self, kind: &str) {
        self.interrupted.get_or_create(&labels([("kind", kind)])).inc();
    }

    /// A run as it is now. It is counted once: when it is seen ended after it was seen at work.
    pub(super) fn seen(&self, kind: &str, namespace: &str, uid: &str, state: &RunState) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = match state {
            RunState::Live => {
                if live.len() < MAX_LIVE {
                    live.insert(uid.to_owned());
                }
                return;
            }
            RunState::Ended(_) if !live.remove(uid) => return,
            RunState::Ended(ended) => ended,
        };
        drop(live);
        let namespace = self.namespace(namespace);
        self.ended
            .get_or_create(&labels([("kind", kind), ("namespace", &namespace), ("outcome", ended.outcome)]))
            .inc();
        if let Some(took) = ended.took {
            self.took
                .get_or_create(&labels([("kind", kind), ("outcome", ended.outcome)]))
                .observe(took.as_secs_f64());
        }
        if let Some((read, added)) = ended.bytes {
            let of_namespace = labels([("namespace", namespace.as_str())]);
            self.read.get_or_create(&of_namespace).inc_by(read);
            self.added.get_or_create(&of_namespace).inc_by(added);
        }
    }

    /// The run is gone.
    pub(super) fn gone(&self, uid: &str) {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    fn namespace(&self, namespace: &str) -> String {
        let mut known = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(namespace) {
            return namespace.to_owned();
        }
        if known.len() >= MAX_NAMESPACES {
            return OTHERS.to_owned();
        }
        known.insert(namespace.to_owned());
        namespace.to_owned()
    }
}

fn took(created: Option<&Time>, ended: Option<&Time>) -> Option<Duration> {
    Duration::try_from(ended?.0.duration_since(created?.0)).ok()
}

pub(super) fn of_backup(backup: &Backup) -> RunState {
    let status = backup.status.as_ref();
    let Some(phase) = status.and_then(|status| status.phase).filter(|phase| phase.is_terminal()) else {
        return RunState::Live;
    };
    let components = status.map(|status| status.components.as_slice()).unwrap_or_default();
    let sum = |of: fn(&holdfast_api::backup::BackupComponent) -> Option<u64>| {
        components.iter().filter_map(of).fold(0_u64, u64::saturating_add)
    };
    RunState::Ended(EndedRun {
        outcome: phase.as_str(),
        took: took(
            backup.metadata.creation_timestamp.as_ref(),
            status.and_then(|status| status.completion_time.as_ref()),
        ),
        bytes: Some((sum(|c| c.bytes_processed), sum(|c| c.bytes_added))),
    })
}

pub(super) fn of_restore(restore: &Restore) -> RunState {
    let status = restore.status.as_ref();
    let ended = |phase: &holdfast_api::restore::RestorePhase| phase.is_terminal(restore.spec.dry_run);
    let Some(phase) = status.and_then(|status| status.phase).filter(ended) else {
        return RunState::Live;
    };
    RunState::Ended(EndedRun {
        outcome: phase.as_str(),
        took: took(
            restore.metadata.creation_timestamp.as_ref(),
            status.and_then(|status| status.completion_time.as_ref()),
        ),
        bytes: None,
    })
}
