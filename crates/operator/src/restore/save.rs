//! The step between the quiesce and the first byte: saves what will be overwritten. What is saved, and what it means,
//! is decided in [`super::undo`].

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_api::Reason;
use holdfast_api::backup::BackupComponent;
use holdfast_api::names;
use holdfast_api::refs::ObjectRef;
use holdfast_api::restore::{RestorePhase, RestoreStatus, UndoState};
use holdfast_api::tags::{ComponentSet, VolumeTags};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;

use super::apply::{BLOCKED_LOOK, Look, claims_of, is_namespace_terminating};
use super::start::{Ready, is_our_pause, nodes_taken, placement};
use super::{dereference, made, undo};
use crate::backup::apply::write_snapshot;
use crate::backup::build::Cluster;
use crate::backup::status::{count, with_progress};
use crate::backup::validate::volume_tags;
use crate::errors::Chain;
use crate::jobs::{self, JobPlan, JobTask, observe};
use crate::queue::Demand;
use crate::quiesce::read_inventory;
use crate::runs::advance::{Order, retry_news};
use crate::runs::stop::is_idle;
use crate::runs::{Crew, Fields, RunError};
use crate::volumes::node_name;

impl Look<'_> {
    /// Nobody uses the claims any more: what is in them is saved, or there is nothing to save and the writing begins.
    pub(super) async fn save_or_write(
        &self,
        mut status: RestoreStatus,
        started: Timestamp,
    ) -> Result<Action, RunError> {
        let Some(undo) = status.undo.as_mut().filter(|undo| undo.state == UndoState::Planned) else {
            return Box::pin(self.begin_writing(status, started)).await;
        };
        undo.state = UndoState::Saving;
        let text = format!("saves what is there first: {}", count(undo.components.len(), "volume"));
        self.writer(&mut status).phase(RestorePhase::Saving, Reason::Running, text);
        self.save(&mut status).await?;
        Box::pin(self.save_volumes(status, started)).await
    }

    /// The Jobs save what will be overwritten, while nobody may use the claims.
    pub(super) async fn save_volumes(
        &self,
        mut status: RestoreStatus,
        started: Timestamp,
    ) -> Result<Action, RunError> {
        let claims = claims_of(&status);
        self.watch_pods(&claims);
        let (client, ns) = (&self.ctx.client, &self.run.namespace);
        let inventory = read_inventory(client, ns).await?;
        if let Some(cause) = self.contested(&inventory, &claims) {
            let message = format!(
                "{cause}. Nothing was overwritten. Stop what scales up (a person, a GitOps tool, another operator), \
                 then make another Restore"
            );
            return self.give_up(status, Reason::QuiesceContested, &message).await;
        }
        let views = observe(client, ns, &self.run).await?;
        let mut crew = self.crew(views, started, JobTask::Backup);
        let looked = Box::pin(self.advance_saving(&mut crew, &mut status, started)).await;
        let idle = crew.views.iter().all(is_idle);
        if let Some(message) = status.undo.as_ref().and_then(undo::failure) {
            return self.give_up(status, Reason::UndoNotSaved, &message).await;
        }
        match looked {
            Ok(true) => return Box::pin(self.saved(status, started)).await,
            Ok(false) => {
                let waits = undo::waits(&status).filter(|(reason, _)| idle && !is_our_pause(*reason));
                if let Some((reason, cause)) = waits {
                    return self.blocked(status, reason, &cause, true).await;
                }
            }
            Err(error) if is_namespace_terminating(&error) => return Err(error),
            Err(error) => {
                let reason = match &error {
                    RunError::Access(error) => error.reason(),
                    RunError::PodConfig { reason, .. } => Some(*reason),
                    _ => None,
                };
                let cause = Chain(&error).to_string();
                return self.blocked(status, reason.unwrap_or(Reason::UndoNotSaved), &cause, idle).await;
            }
        }
        if let Some(undo) = status.undo.as_mut() {
            let text = format!("saves what is there first: {}", count(undo.components.len(), "volume"));
            let told = with_progress(&text, &mut undo.components);
            self.writer(&mut status).phase(RestorePhase::Saving, Reason::Running, told);
        }
        self.save(&mut status).await?;
        Ok(crew.look_again.action())
    }

    /// Looks at every component of the safety snapshot that has not ended. True when none is left.
    async fn advance_saving(
        &self,
        crew: &mut Crew<'_>,
        status: &mut RestoreStatus,
        started: Timestamp,
    ) -> Result<bool, RunError> {
        let taken = nodes_taken(status);
        let RestoreStatus { undo, repository_ref, .. } = status;
        let Some(undo) = undo.as_mut() else { return Ok(true) };
        let all: Vec<String> = undo.components.iter().map(|component| component.name.clone()).collect();
        let set = ComponentSet::of(all.iter().map(String::as_str));
        let mut ready: Option<Ready> = None;
        crew.tell_places();
        let open = undo.components.iter().filter(|component| !component.phase.is_terminal());
        let needing = crew.needing(open.map(|component| component.name.as_str()));
        if !needing.is_empty() {
            if let Some(answers) = self.ctx.queue.all_wait(&self.run, &needing) {
                crew.answers = answers;
            } else {
                let found = Box::pin(self.ready(repository_ref.as_ref(), taken)).await?;
                let claim = |one: &BackupComponent| one.source.claim.clone().unwrap_or_default();
                // What can be put nowhere takes no place from what can.
                let wanted = undo.components.iter().filter(|one| {
                    needing.contains(&one.name.as_str()) && placement(&found.facts, &claim(one)).is_ok()
                });
                let demands: Vec<Demand> = wanted.map(|one| found.demand(&one.name, &claim(one))).collect();
                crew.ask(self.since(), &demands);
                ready = Some(found);
            }
        }
        for component in undo.components.iter_mut().filter(|component| !component.phase.is_terminal()) {
            let claim = component.source.claim.clone().unwrap_or_default();
            if let Some(Ready { facts, .. }) = &ready
                && crew.needs_job(&component.name)
                && let Err(unplaced) = placement(facts, &claim)
            {
                if unplaced.tell(component.common(), true, self.now) {
                    crew.look_again.after(BLOCKED_LOOK);
                }
                continue;
            }
            let mut changed = component.clone();
            let order = |name: String, left: Duration| {
                let Ready { facts, access, pod_config } = ready.as_ref()?;
                let owner = jobs::owner_reference(self.restore)?;
                let placement = placement(facts, &claim).ok()?;
                let volume =
                    facts.claims.iter().find(|object| object.name_any() == claim).map(volume_tags)?;
                let cluster = Cluster { name: &self.ctx.settings.cluster_name, uid: &self.ctx.cluster_uid };
                let task = undo::task(self.restore, cluster, started, &set, component, volume);
                let place = access.seat(node_name(&placement));
                let plan = undo::job(&self.run, owner, component, placement, name, left);
                Some(Order {
                    plan: JobPlan { pod_config: pod_config.clone(), seat: Some(place), ..plan },
                    spec: access.spec(self.run.identity(cluster.name, cluster.uid), task),
                    credentials: &access.credentials,
                })
            };
            let before = changed.next_attempt_time.clone();
            let end = crew.advance(&mut changed.common(), order).await?;
            if let Some(news) = retry_news(before.as_ref(), &changed.common()) {
                self.ctx.events.warning(self.restore, Reason::Retrying, news).await;
            }
            if let Some(end) = end {
                undo::ended(&mut changed, &end);
            }
            *component = changed;
        }
        Ok(undo.components.iter().all(|component| component.phase.is_terminal()))
    }

    /// All is saved: the Snapshot object is made, and only then the writing begins.
    async fn saved(&self, mut status: RestoreStatus, started: Timestamp) -> Result<Action, RunError> {
        if let Some(cause) = self.being_read(&claims_of(&status)).await? {
            return self.wait_for_readers(status, &cause).await;
        }
        let (client, own) = (&self.ctx.client, &self.run.namespace);
        let repository = status.repository_ref.clone().unwrap_or_default();
        let place = repository.namespace_or(own).to_owned();
        let facts = dereference::facts(client, own).await?;
        let volumes: BTreeMap<String, VolumeTags> = facts
            .claims
            .iter()
            .map(|claim| (names::volume_component(&claim.name_any()), volume_tags(claim)))
            .collect();
        let volume = |component: &str| volumes.get(component).cloned();
        let cluster = &self.ctx.settings.cluster_name;
        let made = undo::snapshot(self.restore, cluster, &repository.name, &place, &status, volume);
        let mut name = None;
        if let Some(snapshot) = made {
            let wanted = snapshot.name_any();
            match write_snapshot(self.ctx, &snapshot).await {
                Ok(Some(written)) => name = Some(written),
                Ok(None) => {
                    let message = format!(
                        "a Snapshot {wanted} of another run is there, so what is overwritten could not be kept under \
                         its name, and nothing was overwritten: make another Restore"
                    );
                    return self.give_up(status, Reason::UndoNotSaved, &message).await;
                }
                Err(error) if error.namespace_is_terminating() => return Err(error.into()),
                Err(error) => {
                    let cause = Chain(&error).to_string();
                    return self.blocked(status, Reason::UndoNotSaved, &cause, true).await;
                }
            }
        }
        if let Some(undo) = status.undo.as_mut() {
            undo::concluded(undo, name.as_deref());
            let note = undo.message.clone().unwrap_or_default();
            self.ctx.events.normal(self.restore, "Saved", note).await;
        }
        status.undo_snapshot_ref = name.map(|name| ObjectRef::seen_from(own, &place, name));
        // Written down before the first byte: from here on there is a way back, also after a crash.
        Box::pin(self.begin_writing(status, started)).await
    }

    /// Makes the claims that are to be made, and starts to write.
    pub(super) async fn begin_writing(
        &self,
        mut status: RestoreStatus,
        started: Timestamp,
    ) -> Result<Action, RunError> {
        match made::make(&self.ctx.client, &self.run, &mut status).await {
            Ok(None) => {}
            Ok(Some(message)) => return self.give_up(status, Reason::TargetExists, &message).await,
            Err(error) if error.namespace_is_terminating() => return Err(error.into()),
            Err(error) => {
                let cause = Chain(&error).to_string();
                return self.blocked(status, Reason::TargetNotFound, &cause, true).await;
            }
        }
        let text = format!("writes {}", count(status.components.len(), "volume"));
        self.writer(&mut status).phase(RestorePhase::Running, Reason::Running, text);
        self.save(&mut status).await?;
        Box::pin(self.write_volumes(status, started)).await
    }
}
