//! The one place where it is decided which Job of which Backup or Restore may start, within the limits of nodes,
//! storages, repositories and namespaces. How a Job looks and what it does is not decided here.
//!
//! ```text
//! reconcilers ──ask──▶ Queue ──plan (pure)──▶ Go: a place is kept until the Job is there, or given back
//!      ▲                 ▲                    Wait: for what, and where in line
//!      └──word: your turn┘◀── watch on the runners' Jobs (places taken, places that came free)
//! ```
//! Nothing here is kept: what is taken is told by the Jobs, who waits is told by the runs when they are looked at. Until
//! the Jobs are listed, nobody starts. All is decided under one lock, and a place that was given counts as taken until
//! its Job is seen, so two reconcilers never take the same one.

pub mod gate;
pub mod plan;
mod watch;

pub use gate::{Asker, Demand, Queue};
pub use plan::{Answer, Key, Limit, Place, Scope};
pub use watch::run;

use std::num::NonZeroU32;

use holdfast_api::names;
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};

/// Annotation of a runner's Job: what it takes a place of ([`Seat`]).
pub const ANNOTATION_PLACE: &str = "holdfast.dev/place";
/// Most Jobs of one run at work at a time.
const MOST_OF_A_RUN: u32 = 16;

/// What a Job takes a place of, as it is written on the Job for whoever looks after it next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Seat {
    /// The node that it is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The storage, as `<namespace>/<name>`.
    pub storage: String,
    /// Directory of the repository in the storage.
    pub repository: String,
}

impl Seat {
    /// All that it counts in.
    pub fn place(&self, namespace: &str, run: &str) -> Place {
        let node = self.node.iter().map(|node| Scope::Node(node.clone()));
        let rest = [
            Scope::AllNodes,
            Scope::Storage(self.storage.clone()),
            Scope::Repository(self.repository()),
            Scope::Namespace(namespace.to_owned()),
            Scope::Run(run.to_owned()),
        ];
        Place { namespace: namespace.to_owned(), scopes: node.chain(rest).collect() }
    }

    fn repository(&self) -> String {
        format!("{} ({})", self.repository, self.storage)
    }
}

/// The limits that count for a Job, as its objects and the operator's settings say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Jobs a node.
    pub per_node: Option<NonZeroU32>,
    /// Nodes that can take a Job.
    pub nodes: u32,
    /// Jobs at the storage.
    pub per_storage: Option<NonZeroU32>,
    /// Jobs at the repository.
    pub per_repository: Option<NonZeroU32>,
    /// Jobs of the namespace.
    pub per_namespace: Option<NonZeroU32>,
}

impl Limits {
    fn of(&self, seat: &Seat, namespace: &str, run: &str) -> Vec<Limit> {
        let on_nodes = match &seat.node {
            Some(node) => (Scope::Node(node.clone()), self.per_node.map(NonZeroU32::get)),
            None => (Scope::AllNodes, self.per_node.map(|most| most.get().saturating_mul(self.nodes.max(1)))),
        };
        // The first one that is full is told. What somebody has set comes before what passes by itself in a moment.
        let all = [
            (Scope::Storage(seat.storage.clone()), self.per_storage.map(NonZeroU32::get)),
            (Scope::Repository(seat.repository()), self.per_repository.map(NonZeroU32::get)),
            (Scope::Namespace(namespace.to_owned()), self.per_namespace.map(NonZeroU32::get)),
            on_nodes,
            (Scope::Run(run.to_owned()), Some(MOST_OF_A_RUN)),
        ];
        all.into_iter().filter_map(|(scope, most)| Some(Limit { scope, most: most? })).collect()
    }
}

/// What a Job holds, from what stands on it. A Job of an older operator says nothing of its storage; it counts where it
/// can be counted.
fn place_of(job: &Job) -> Option<(Key, Place)> {
    let run = crate::jobs::RunRef::from_child(job)?;
    let component = crate::jobs::component_of(job)?.to_owned();
    let text = job.annotations().get(ANNOTATION_PLACE);
    let seat: Seat = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let place = seat.place(&run.namespace, &run.uid);
    Some((Key { run: run.uid, component }, place))
}

/// Whether no runner of a Job is at work any more, nor will be, as the Job itself says. It says so a moment after the
/// runner's pod does.
fn is_over(job: &Job) -> bool {
    let Some(status) = &job.status else { return false };
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let ended =
        conditions.iter().any(|c| c.status == "True" && ["Complete", "Failed"].contains(&c.type_.as_str()));
    let suspended = job.spec.as_ref().and_then(|spec| spec.suspend).unwrap_or_default();
    ended
        || (suspended
            && status.active.unwrap_or_default() == 0
            && status.terminating.unwrap_or_default() == 0)
}

/// Selects the Jobs that take a place: those that work on a component.
fn selector() -> String {
    let tasks = [names::Task::Backup, names::Task::Plan, names::Task::Restore].map(names::Task::as_str);
    format!(
        "{}={},{} in ({})",
        names::LABEL_MANAGED_BY,
        names::MANAGED_BY,
        names::LABEL_TASK,
        tasks.join(",")
    )
}
