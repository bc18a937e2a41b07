//! What it takes to start the Jobs of a Restore: facts, access, the settings of their pods, and where they run.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_api::refs::ObjectRef;
use holdfast_api::restore::{RestoreComponent, RestoreStatus};
use holdfast_api::{PodConfig, Reason, names};
use holdfast_protocol::Task;
use jiff::Timestamp;
use kube::ResourceExt;

use super::apply::Look;
use super::validate::Facts;
use super::{build, dereference};
use crate::access::{AccessError, RepositoryAccess};
use crate::backup::dereference::pod_config;
use crate::backup::status::queued;
use crate::backup::validate as backup;
use crate::jobs::denial::Denial;
use crate::jobs::{self, JobPlan, JobTask, Placement};
use crate::queue::{Answer, Asker, Demand};
use crate::runs::Common;
use crate::runs::{RunError, named};
use crate::volumes::placement::NoPlace;
use crate::volumes::{ClaimView, active_pods, node_name, place_writer, stay};

/// What it takes to start Jobs.
pub(super) struct Ready {
    pub(super) facts: Facts,
    pub(super) access: RepositoryAccess,
    pub(super) pod_config: Option<PodConfig>,
}

impl Ready {
    /// What the Job of a component on this claim takes a place of.
    pub(super) fn demand(&self, component: &str, claim: &str) -> Demand {
        demand(&self.facts, &self.access, claim, component)
    }
}

impl Look<'_> {
    /// What the run waits for when it has a place for none of its components: before any workload is touched, for an
    /// application must not be down while a restore stands in line.
    pub(super) fn no_place(
        &self,
        facts: &Facts,
        access: &RepositoryAccess,
        components: &[RestoreComponent],
    ) -> Option<String> {
        let open = components.iter().filter(|component| !component.phase.is_terminal());
        let demands: Vec<Demand> =
            open.map(|component| demand(facts, access, claim_of(component), &component.name)).collect();
        if demands.is_empty() {
            return None;
        }
        let answers = self.ctx.queue.ask(&Asker { run: &self.run, since: self.since() }, &demands);
        (!answers.values().any(|answer| *answer == Answer::Go)).then(|| queued(&answers))
    }

    /// When the run was made.
    pub(super) fn since(&self) -> Timestamp {
        self.restore.creation_timestamp().map_or(self.now, |time| time.0)
    }

    /// Why the cluster would not admit the pod of a runner that writes, asked before any workload is touched. A quota
    /// is not asked about: the pods of the workloads may be what fills it.
    pub(super) async fn denied(
        &self,
        facts: &Facts,
        pod_config: Option<&PodConfig>,
        components: &[RestoreComponent],
    ) -> Result<Option<Denial>, RunError> {
        let mut asked = Vec::new();
        for component in components {
            // Where the pod of a claim that is yet to be made will run makes no difference to who admits it.
            let to_be_made = component.new_claim.map(|_| Placement::Anywhere);
            let (Some(placement), Some(owner)) = (
                placement(facts, claim_of(component)).ok().or(to_be_made),
                jobs::owner_reference(self.restore),
            ) else {
                continue;
            };
            if asked.contains(&&component.run_as) {
                continue;
            }
            asked.push(&component.run_as);
            let run = named(names::RunKind::Restore, &self.run);
            let name = names::job_name(run, JobTask::Restore, &component.name, 0);
            let deadline = Duration::from(self.restore.spec.active_deadline);
            let plan = build::job(self.restore, &self.run, owner, component, placement, name, deadline);
            let plan = JobPlan { pod_config: pod_config.cloned(), ..plan };
            let job = jobs::build::job(&plan, &self.ctx.settings);
            let denial = jobs::denial::ask(&self.ctx.client, &job).await?;
            if let Some(denial) = denial.filter(|denial| !denial.may_pass) {
                return Ok(Some(denial));
            }
        }
        Ok(None)
    }

    /// Why there would be no keys for the runners, asked before any workload is touched: an application must not be down
    /// while nobody can restore it.
    pub(super) async fn no_keys(&self, access: &RepositoryAccess) -> Option<Denial> {
        let identity = self.run.identity(&self.ctx.settings.cluster_name, &self.ctx.cluster_uid);
        // Reads the same directory; who gives keys for that gives those for a restore.
        let spec = access.spec(identity, Task::Sync);
        let web_identity = &self.ctx.settings.web_identity;
        let around = jobs::apply::Around { client: &self.ctx.client, web_identity, now: self.now };
        jobs::apply::no_keys(around, &self.run, &spec, &access.credentials).await
    }

    /// What it takes to start a Job. `taken` are the [`nodes_taken`] by now.
    pub(super) async fn ready(
        &self,
        recorded: Option<&ObjectRef>,
        taken: BTreeMap<String, String>,
    ) -> Result<Ready, RunError> {
        let mut facts = dereference::facts(&self.ctx.client, &self.run.namespace).await?;
        facts.nodes_taken = taken;
        let Some(repository) = self.recorded_repository(recorded).await? else {
            let own = self.run.namespace.as_str();
            return Err(RunError::Access(AccessError::RepositoryNotReady {
                namespace: recorded.map_or(own, |reference| reference.namespace_or(own)).to_owned(),
                name: recorded.map_or_else(String::new, |reference| reference.name.clone()),
            }));
        };
        let access = RepositoryAccess::read(&self.ctx.client, &repository).await?;
        let reference = self.restore.spec.pod_config_ref.as_ref();
        let pod_config = pod_config(&self.ctx.client, &self.run.namespace, reference)
            .await?
            .map_err(|backup::Refusal { reason, message }| RunError::PodConfig { reason, message })?;
        Ok(Ready { facts, access, pod_config })
    }
}

/// Whether a component waits for nothing that could be in the way: it stands in line, or is tried again after a pause.
pub(super) fn is_our_pause(reason: Reason) -> bool {
    matches!(reason, Reason::Queued | Reason::Retrying)
}

/// What the Job of a component on a claim takes a place of.
pub(super) fn demand(facts: &Facts, access: &RepositoryAccess, claim: &str, component: &str) -> Demand {
    let placement = placement(facts, claim).ok();
    Demand {
        component: component.to_owned(),
        seat: access.seat(placement.as_ref().and_then(node_name)),
        limits: access.limits(facts.nodes.ready()),
    }
}

/// The claim of a component.
pub(super) fn claim_of(component: &RestoreComponent) -> &str {
    component.claim.as_deref().unwrap_or_default()
}

/// Where a runner of a claim has to run, or why it can run nowhere.
pub(super) fn placement(facts: &Facts, claim: &str) -> Result<Placement, Unplaced> {
    let gone = || Unplaced::Gone { claim: claim.to_owned() };
    let claim = facts.claims.iter().find(|object| object.name_any() == claim).ok_or_else(gone)?;
    let view = ClaimView::new(claim, &facts.classes);
    let consumers = active_pods(&facts.inventory.pods, &view.name());
    let model = facts.inventory.model_pod(&view.name());
    let placement = place_writer(&view, &consumers, model.as_ref(), facts.around())?;
    let taken = facts.nodes_taken.get(&view.name()).map(String::as_str);
    Ok(stay(placement, taken, &view, facts.around()))
}

/// Why the next Job of a claim can be put nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unplaced {
    /// Somebody deleted it.
    #[error("the claim {claim} is gone")]
    Gone {
        /// Its name.
        claim: String,
    },
    /// No node can mount its volume now. That may pass: the volume of a dead node comes free some minutes after Kubernetes knows
    /// that the node is off.
    #[error(transparent)]
    NoNode(#[from] NoPlace),
}

impl Unplaced {
    /// Writes it down: for a claim that is gone this is the end, and else the component waits, if it may. Whether it waits.
    pub(super) fn tell(&self, mut component: Common<'_>, may_wait: bool, now: Timestamp) -> bool {
        match self {
            Self::Gone { .. } => component.fail(Reason::TargetNotFound.as_str(), self.to_string(), now),
            Self::NoNode(_) if !may_wait => {
                component.fail(Reason::Unschedulable.as_str(), self.to_string(), now);
            }
            Self::NoNode(_) => component
                .wait(Reason::Unschedulable.as_str(), format!("{self}; waits until it can be mounted")),
        }
        may_wait && matches!(self, Self::NoNode(_))
    }
}

/// On which node the Jobs of each claim run or ran, or have to: those that write follow the one that saved what was there.
pub(super) fn nodes_taken(status: &RestoreStatus) -> BTreeMap<String, String> {
    let written =
        status.components.iter().map(|component| (component.claim.as_ref(), component.node.as_ref()));
    let saved = status.undo.iter().flat_map(|undo| &undo.components);
    let saved = saved.map(|component| (component.source.claim.as_ref(), component.node.as_ref()));
    written.chain(saved).filter_map(|(claim, node)| Some((claim?.clone(), node?.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use holdfast_api::backup::ComponentPhase;

    use super::*;
    use crate::runs::Fields as _;

    #[test]
    fn what_is_written_is_written_where_it_was_saved() {
        let status: RestoreStatus = serde_saphyr::from_str(
            "
components:
- {name: volume/data, claim: data, node: planned}
- {name: volume/logs, claim: logs, node: began}
- {name: volume/new, claim: new}
undo: {state: Saved, components: [{name: volume/data, source: {claim: data}, node: saved}, {name: volume/x, source: {claim: x}}]}
",
        )
        .unwrap();
        let taken = nodes_taken(&status);
        let all: Vec<_> = taken.iter().map(|(claim, node)| (claim.as_str(), node.as_str())).collect();
        assert_eq!(all, [("data", "saved"), ("logs", "began")]);
    }

    /// The volume of a dead node comes free minutes after the node is given up: a Restore that failed by then would leave its
    /// application with half of its data.
    #[test]
    fn a_volume_that_no_node_can_mount_now_is_waited_for_and_a_claim_that_is_gone_is_not() {
        let mut component: RestoreComponent =
            serde_saphyr::from_str("{name: volume/data, kind: Volume, phase: Pending}").unwrap();
        let now = Timestamp::UNIX_EPOCH;
        let held = Unplaced::from(NoPlace::HeldByDeadNode { node: "n2".into() });
        assert!(held.tell(component.common(), true, now));
        assert_eq!(
            (component.phase, component.reason.as_deref()),
            (ComponentPhase::Pending, Some("Unschedulable"))
        );
        assert!(component.message.as_deref().unwrap().contains("node n2, which is not ready"));
        let gone = Unplaced::Gone { claim: "data".into() };
        assert!(!gone.tell(component.common(), true, now));
        assert_eq!(
            (component.phase, component.reason.as_deref()),
            (ComponentPhase::Failed, Some("TargetNotFound"))
        );
    }
}
