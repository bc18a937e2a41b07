//! What Prometheus is told on `/metrics`: the state of storages, repositories, claims and runs, made from the objects
//! at each scrape, so that a restart forgets nothing that matters; and counters of what the operator did.
//!
//! Labels are bounded: namespaces, kinds, phases, storages and repositories, never runs, snapshots or claims. A replica
//! that stands by says only that it does: what it remembers of an earlier time would be wrong.

#[cfg(test)]
mod alerts_tests;
mod claims;
mod defaults;
mod family;
mod objects;
mod runs;
#[cfg(test)]
mod tests;
mod watch;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use holdfast_api::backup::ClaimsDefault;
use holdfast_api::{Backup, BackupStorage, Repository, Restore, Snapshot};
use hyper::StatusCode;
use kube::Client;
use kube::api::{Api, ListParams};
use kube::runtime::reflector::Store;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::http::Reply;
use crate::kubernetes::Namespaced;
use claims::Claims;
use defaults::{Defaults, Namespaces};
use family::{Family, number};
use objects::Objects;
use runs::Counted;
pub use runs::{EndedRun, RunState};

/// Prefix of all names but those of the process.
const PREFIX: &str = "holdfast";

/// A kind that metrics know something about.
pub trait Observed: Namespaced {
    /// Keeps the store of the kind's watch, to read it at each scrape.
    fn keep(_store: Store<Self>, _stores: &Stores) {}

    /// How far it is, for kinds that are runs.
    fn run_state(&self) -> Option<RunState> {
        None
    }
}

impl Observed for BackupStorage {
    fn keep(store: Store<Self>, stores: &Stores) {
        let _ = stores.storages.set(store);
    }
}

impl Observed for Repository {
    fn keep(store: Store<Self>, stores: &Stores) {
        let _ = stores.repositories.set(store);
    }
}

impl Observed for Snapshot {
    fn keep(store: Store<Self>, stores: &Stores) {
        let _ = stores.snapshots.set(store);
    }
}

impl Observed for Backup {
    fn keep(store: Store<Self>, stores: &Stores) {
        let _ = stores.backups.set(store);
    }

    fn run_state(&self) -> Option<RunState> {
        Some(runs::of_backup(self))
    }
}

impl Observed for Restore {
    fn keep(store: Store<Self>, stores: &Stores) {
        let _ = stores.restores.set(store);
    }

    fn run_state(&self) -> Option<RunState> {
        Some(runs::of_restore(self))
    }
}

/// The stores of the controllers' watches, each from the moment on in which all of its objects were listed once.
#[derive(Default)]
pub struct Stores {
    storages: OnceLock<Store<BackupStorage>>,
    repositories: OnceLock<Store<Repository>>,
    snapshots: OnceLock<Store<Snapshot>>,
    backups: OnceLock<Store<Backup>>,
    restores: OnceLock<Store<Restore>>,
    claims: Claims,
    namespaces: Namespaces,
}

impl Stores {
    fn objects(&self, operator: ClaimsDefault) -> Objects {
        Objects {
            storages: self.storages.get().map(Store::state),
            repositories: self.repositories.get().map(Store::state),
            snapshots: self.snapshots.get().map(Store::state),
            backups: self.backups.get().map(Store::state),
            restores: self.restores.get().map(Store::state),
            claims: self.claims.all(),
            defaults: Defaults { operator, namespaces: self.namespaces.said() },
        }
    }
}

/// All metrics of one operator.
pub struct Metrics {
    shared: Arc<Shared>,
    /// Said by every replica.
    of_process: Registry,
    /// Said by the one that works.
    of_leader: Registry,
}

struct Shared {
    stores: Stores,
    counted: Counted,
    leads: AtomicBool,
    cluster: String,
    claims_default: ClaimsDefault,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Metrics of the operator of this cluster, with what becomes of claims that nobody speaks about. It does not work yet.
    pub fn new(cluster: &str, claims_default: ClaimsDefault) -> Self {
        let shared = Arc::new(Shared {
            stores: Stores::default(),
            counted: Counted::new(),
            leads: AtomicBool::new(false),
            cluster: cluster.to_owned(),
            claims_default,
        });
        let mut of_process = Registry::default();
        of_process.register_collector(Box::new(OfProcess(Arc::clone(&shared))));
        let mut of_leader = Registry::with_prefix(PREFIX);
        shared.counted.register(&mut of_leader);
        of_leader.register_collector(Box::new(OfObjects(Arc::clone(&shared))));
        Self { shared, of_process, of_leader }
    }

    /// This replica works from now on, or does not any more.
    pub fn leads(&self, leads: bool) {
        self.shared.leads.store(leads, Ordering::Relaxed);
    }

    /// Follows what no controller follows, until told to stop.
    pub async fn follow(&self, client: Client, stop: CancellationToken) {
        let stores = &self.shared.stores;
        tokio::join!(
            stores.claims.clone().follow(client.clone(), stop.clone()),
            stores.namespaces.clone().follow(client, stop),
        );
    }

    /// Keeps the store of a kind's watch as soon as it is filled.
    ///
    /// Not by `Store::wait_until_ready`: the controller waits for that too, and of several who wait only the last to ask is
    /// told (kube-runtime 5, `DelayedInit`). A store is filled at once when all objects were listed, so one that holds something
    /// is ready; an empty one is when there is nothing to hold.
    pub fn keep<K: Observed>(&self, store: Store<K>, client: Client, stop: CancellationToken) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            while store.is_empty() && !none_there::<K>(&client).await {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(BETWEEN_LOOKS) => {}
                }
            }
            K::keep(store, &shared.stores);
        });
    }

    /// A look at an object of a kind begins.
    pub fn look<K: Observed>(&self) -> Look<'_> {
        let kind = K::kind(&()).into_owned();
        self.shared.counted.look_begins(&kind);
        Look { counted: &self.shared.counted, kind, begun: Instant::now(), good: false }
    }

    /// An object as it is now.
    pub fn seen<K: Observed>(&self, object: &K) {
        if let Some(state) = object.run_state()
            && let Some(uid) = &object.meta().uid
        {
            let namespace = object.meta().namespace.as_deref().unwrap_or_default();
            self.shared.counted.seen(&K::kind(&()), namespace, uid, &state);
        }
    }

    /// The object with this uid is gone.
    pub fn gone(&self, uid: &str) {
        self.shared.counted.gone(uid);
    }

    /// The watch of a kind broke off.
    pub fn watch_interrupted(&self, kind: &str) {
        self.shared.counted.watch_interrupted(kind);
    }

    /// What is answered to a scrape.
    pub fn answer(&self, path: &str) -> Reply {
        if path != "/metrics" {
            return Reply::plain(StatusCode::NOT_FOUND, "there is /metrics\n");
        }
        let mut text = String::new();
        let mut written = prometheus_text::encode(&mut text, &self.of_process);
        if self.shared.leads.load(Ordering::Relaxed) {
            written = written.and_then(|()| prometheus_text::encode(&mut text, &self.of_leader));
        }
        match written {
            Ok(()) => Reply { status: StatusCode::OK, content_type: prometheus_text::CONTENT_TYPE, text },
            Err(error) => Reply::plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("the metrics could not be written: {error}\n"),
            ),
        }
    }
}

/// How long a store that is empty, while there are objects, is given to be filled.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// Whether the cluster has no object of a kind. Not while it cannot be asked.
async fn none_there<K: Observed>(client: &Client) -> bool {
    let all = Api::<K>::all(client.clone());
    all.list(&ListParams::default().limit(1)).await.is_ok_and(|list| list.items.is_empty())
}

/// A look at an object under way.
pub struct Look<'a> {
    counted: &'a Counted,
    kind: String,
    begun: Instant,
    good: bool,
}

impl Look<'_> {
    /// It ended well. Dropped without it, it counts as an error.
    pub fn ended_well(&mut self) {
        self.good = true;
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        self.counted.look_ended(&self.kind, self.begun.elapsed(), self.good);
    }
}

#[derive(Debug)]
struct OfProcess(Arc<Shared>);

impl Collector for OfProcess {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut leader = Family::new("holdfast_leader", "Whether this replica is the one that works");
        leader.row([], if self.0.leads.load(Ordering::Relaxed) { 1.0 } else { 0.0 });
        let mut build = Family::new("holdfast_build_info", "Version of the operator");
        build.row([("version", env!("CARGO_PKG_VERSION"))], 1.0);
        let mut memory = Family::new("process_resident_memory_bytes", "Resident memory of the operator");
        memory.row_if([], resident().map(number));
        for family in [leader, build, memory] {
            family.encode(&mut encoder)?;
        }
        Ok(())
    }
}

/// Resident memory of this process in bytes (proc(5), `VmRSS`).
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[derive(Debug)]
struct OfObjects(Arc<Shared>);

impl Collector for OfObjects {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut left_out = 0_usize;
        for family in objects::families(&self.0.stores.objects(self.0.claims_default), &self.0.cluster) {
            left_out = left_out.saturating_add(family.encode(&mut encoder)?);
        }
        let mut rest =
            Family::new("series_left_out", "Series of this scrape that were over the limit of a metric");
        rest.row([], number(u64::try_from(left_out).unwrap_or(u64::MAX)));
        rest.encode(&mut encoder)?;
        Ok(())
    }
}
