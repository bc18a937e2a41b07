//! Carries out a Restore, one step after the other. The decisions are in `validate`, `status` and [`crate::quiesce`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_api::Reason;
use holdfast_api::conditions::{ConditionType, find_condition};
use holdfast_api::names::{self, FINALIZER_CLEANUP};
use holdfast_api::restore::{Quiesce, Restore, RestorePhase, RestoreStatus};
use holdfast_api::{Repository, Snapshot};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;

use super::dereference::Found;
use super::readers::READERS_LOOK;
use super::start::{Ready, claim_of, is_our_pause, nodes_taken, placement};
use super::status::{Writer, conclude, in_the_way};
use super::validate::{Refusal, validate};
use super::{build, dereference, made, status, undo};
use crate::access::RepositoryAccess;
use crate::backup::dereference::{pod_config, ready};
use crate::backup::status::{count, with_progress};
use crate::context::Ctx;
use crate::errors::Chain;
use crate::jobs::{self, JobPlan, JobTask, JobView, RunKind, RunRef, observe};
use crate::kubernetes;
use crate::queue::Demand;
use crate::quiesce::apply::{explain, reason};
use crate::quiesce::{
    HoldError, Inventory, PodWatch, ReleaseReport, WorkloadId, hold_all, read_inventory, release_run,
};
use crate::runs::advance::{Order, retry_news};
use crate::runs::bound;
use crate::runs::lost::Wait;
use crate::runs::settle::locks_left;
use crate::runs::stop::{is_idle, stop};
use crate::runs::{Crew, Fields, LookAgain, RunError, Settled, Stopped, named, settle, stop_all, time_left};
use crate::volumes::{active_pods, node_name};

/// How long a Restore waits for its repository or for a claim to be bound before it is Failed; as long as a Backup.
pub(super) const PATIENCE: Duration = Duration::from_mins(15);
/// How long nothing may go on while workloads are held at 0.
const BLOCKED_PATIENCE: Duration = Duration::from_mins(10);
/// How often it looks anew while it waits; watches tell of most changes before.
pub(super) const WAITING_LOOK: Duration = Duration::from_secs(30);
/// How often it tries again what it cannot do at the moment, while workloads are held.
pub(super) const BLOCKED_LOOK: Duration = Duration::from_secs(10);
/// How long after its end it takes copies of records away that a slow Deployment controller still makes. A sweep takes the others,
/// within the hour; nobody acts on one.
const COPY_PATIENCE: Duration = Duration::from_mins(1);
/// How often it looks for them.
const COPY_LOOK: Duration = Duration::from_secs(1);
/// How long pods of workloads scaled to 0 get beyond their own grace period. A pod on a dead node never goes.
const QUIESCE_PATIENCE: Duration = Duration::from_mins(10);

/// One look at one Restore.
pub async fn reconcile(restore: &Restore, ctx: &Ctx, pods: &PodWatch<Restore>) -> Result<Action, RunError> {
    let run = RunRef::of(RunKind::Restore, restore);
    let look = Look { run, now: ctx.now(), restore, ctx, pods };
    match Box::pin(look.reconcile()).await {
        // Nothing can be started in a namespace that is going away; the Restore goes with it.
        Err(error) if is_namespace_terminating(&error) => Ok(Action::await_change()),
        result => result,
    }
}

/// One look at one Restore.
pub(super) struct Look<'a> {
    pub(super) run: RunRef,
    pub(super) now: Timestamp,
    pub(super) restore: &'a Restore,
    pub(super) ctx: &'a Ctx,
    pods: &'a PodWatch<Restore>,
}

impl Look<'_> {
    async fn reconcile(&self) -> Result<Action, RunError> {
        let status = self.restore.status.clone().unwrap_or_default();
        let phase = status.phase.unwrap_or_default();
        let over = phase.is_terminal(self.restore.spec.dry_run);
        if over || self.restore.metadata.deletion_timestamp.is_some() {
            return self.end().await;
        }
        kubernetes::set_finalizer(&self.ctx.client, self.restore, FINALIZER_CLEANUP, true).await?;
        let started = status.start_time.as_ref().map(|time| time.0);
        match (started, phase) {
            (None, _) => Box::pin(self.plan(status)).await,
            (Some(started), RestorePhase::Pending | RestorePhase::Planning | RestorePhase::Planned) => {
                Box::pin(self.look_only(status, started)).await
            }
            (Some(started), RestorePhase::Quiescing) => Box::pin(self.quiesce(status, started)).await,
            (Some(started), RestorePhase::Saving) => Box::pin(self.save_volumes(status, started)).await,
            (Some(started), RestorePhase::Running) => Box::pin(self.write_volumes(status, started)).await,
            (Some(_), _) => self.unquiesce(status).await,
        }
    }

    pub(super) fn writer<'s>(&self, status: &'s mut RestoreStatus) -> Writer<'s> {
        Writer { status, generation: self.restore.metadata.generation, now: self.now }
    }

    pub(super) async fn save(&self, status: &mut RestoreStatus) -> Result<(), RunError> {
        bound::writing(&mut status.components);
        if let Some(undo) = status.undo.as_mut() {
            bound::saving(&mut undo.components);
        }
        if self.restore.status.as_ref() != Some(&*status) {
            kubernetes::apply_status(&self.ctx.client, self.restore, status).await?;
        }
        Ok(())
    }

    /// Everything of the run goes, workloads come back, then the finalizer goes.
    async fn end(&self) -> Result<Action, RunError> {
        self.pods.stop(&self.run.uid);
        self.ctx.queue.forget(&self.run.uid);
        if !self.restore.finalizers().iter().any(|finalizer| finalizer == FINALIZER_CLEANUP) {
            return Ok(Action::await_change());
        }
        let ns = &self.run.namespace;
        // No workload may start while a runner still writes to its claim.
        let (_, waits) = stop_all(self.ctx, ns, &self.run, &Stopped::with_run()).await?;
        if let Some(waits) = waits {
            return self.wait_for_runners(self.restore.status.clone().unwrap_or_default(), waits).await;
        }
        let report = release_run(&self.ctx.client, ns, &self.run.uid).await?;
        let names = self
            .restore
            .status
            .as_ref()
            .map_or_else(Vec::new, |status| status::unreadable_consumers(status, &report));
        if !names.is_empty() {
            let note = format!(
                "cannot be scaled back, because their quiesce record was changed: {}",
                names.join(", ")
            );
            self.ctx.events.warning(self.restore, Reason::QuiesceFailed, note).await;
        }
        if !report.refused.is_empty() {
            let note = format!("not scaled back yet, and tried again: {}", report.refusals());
            self.ctx.events.warning(self.restore, Reason::QuiesceFailed, note).await;
            return Ok(Action::requeue(WAITING_LOOK));
        }
        if !report.restored.is_empty() || self.may_be_copied(&report) {
            return Ok(Action::requeue(COPY_LOOK));
        }
        let recorded = self.restore.status.as_ref().and_then(|status| status.repository_ref.as_ref());
        let repository = self.recorded_repository(recorded).await?;
        match settle(self.ctx, ns, &self.run, repository.as_ref(), &[]).await? {
            Settled::NotYet { .. } => return Ok(Action::requeue(WAITING_LOOK)),
            Settled::Done { warning: Some(warning) } => {
                self.ctx.events.warning(self.restore, Reason::RepositoryLocked, warning).await;
            }
            Settled::Done { warning: None } => {}
        }
        made::forget_repositories(&self.ctx.client, self.restore).await?;
        kubernetes::set_finalizer(&self.ctx.client, self.restore, FINALIZER_CLEANUP, false).await?;
        Ok(Action::await_change())
    }

    /// Whether a Deployment controller that is behind may still copy the record of a workload that was let go.
    fn may_be_copied(&self, report: &ReleaseReport) -> bool {
        let Some(status) = &self.restore.status else { return false };
        let over = status.completion_time.as_ref().or(self.restore.metadata.deletion_timestamp.as_ref());
        over.is_some_and(|at| time_left(at.0, COPY_PATIENCE, self.now).is_some())
            && !status::of_consumers(status, &report.unseen).is_empty()
    }

    pub(super) async fn recorded_repository(
        &self,
        recorded: Option<&holdfast_api::refs::ObjectRef>,
    ) -> Result<Option<Repository>, RunError> {
        let Some(reference) = recorded else { return Ok(None) };
        let place = reference.namespace_or(&self.run.namespace);
        Ok(dereference::repository(&self.ctx.client, place, &reference.name).await?)
    }

    /// Finds out what would be done and whether it can be done. Touches nothing.
    async fn plan(&self, mut status: RestoreStatus) -> Result<Action, RunError> {
        let client = &self.ctx.client;
        let snapshot = match Box::pin(dereference::snapshot(self.ctx, self.restore)).await? {
            Found::Snapshot(snapshot) => *snapshot,
            Found::NotYet { reason, message } => return self.wait(status, reason, &message).await,
            Found::Refused(refusal) => return self.refuse(status, &refusal).await,
        };
        self.writer(&mut status).chosen(&self.run.namespace, &snapshot);
        let (repository, access) = match self.repository_of(&snapshot).await? {
            Ok(found) => found,
            Err((Reason::StorageNotAllowed, message)) => {
                return self.refuse(status, &Refusal::plain(Reason::StorageNotAllowed, message)).await;
            }
            Err((reason, message)) => return self.wait(status, reason, &message).await,
        };
        let reference = self.restore.spec.pod_config_ref.as_ref();
        let pod_config = match pod_config(client, &self.run.namespace, reference).await? {
            Ok(pod_config) => pod_config,
            Err(refusal) => return self.wait(status, refusal.reason, &refusal.message).await,
        };
        let mut facts = dereference::facts(client, &self.run.namespace).await?;
        facts.newer_ones = super::source::newer_ones(&repository);
        let beside = dereference::beside(client, self.restore, &snapshot).await?;
        let plan = match validate(self.restore, &snapshot, &beside, &facts) {
            Ok(plan) => plan,
            // A claim that was made a moment ago gets its volume any moment now.
            Err(refusal) if refusal.may_pass() => {
                return self.wait(status, refusal.reason, &refusal.message).await;
            }
            Err(refusal) => return self.refuse(status, &refusal).await,
        };
        let dry_run = self.restore.spec.dry_run;
        if !dry_run {
            let claims: Vec<String> = plan.components.iter().map(|planned| planned.claim.clone()).collect();
            let others = dereference::others(client, self.restore).await?;
            if let Some(other) = in_the_way(self.restore, &claims, &others) {
                let message = super::status::why_it_waits(other);
                return self.wait(status, Reason::Pending, &message).await;
            }
        }
        let untouched = status.clone();
        let place = repository.namespace().unwrap_or_default();
        let reference =
            holdfast_api::refs::ObjectRef::seen_from(&self.run.namespace, &place, repository.name_any());
        self.writer(&mut status).planned(&plan, reference, dry_run);
        let undo = undo::planned(self.restore, &plan, &access.storage, &place);
        if let Some(refusal) = undo::refusal(&undo) {
            if !dry_run {
                return self.refuse(untouched, &refusal).await;
            }
            // The plan is worth seeing all the same.
            status.plan.get_or_insert_default().warnings.push(refusal.message);
        }
        status.undo = Some(undo);
        if !dry_run
            && let Some(denial) =
                Box::pin(self.denied(&facts, pod_config.as_ref(), &status.components)).await?
        {
            return self.refuse(untouched, &Refusal::plain(denial.reason, denial.message)).await;
        }
        if let Some(message) = made::denied(client, &self.run, &status).await? {
            return self.refuse(untouched, &Refusal::plain(Reason::Incompatible, message)).await;
        }
        if !dry_run && let Some(message) = self.no_place(&facts, &access, &status.components) {
            return self.wait(untouched, Reason::Queued, &message).await;
        }
        if !dry_run && let Some(denial) = Box::pin(self.no_keys(&access)).await {
            // Whoever gives them may be away for long, and nothing was touched yet.
            let patience = self.restore.spec.active_deadline.into();
            return self.wait_for(untouched, denial.reason, &denial.message, patience).await;
        }
        let mut writer = self.writer(&mut status);
        let volumes = count(plan.components.len(), "volume");
        if dry_run {
            writer.phase(RestorePhase::Planning, Reason::Running, format!("looks at {volumes}"));
            self.save(&mut status).await?;
            return Box::pin(self.look_only(status, self.now)).await;
        }
        let workloads: Vec<String> = plan.workloads.iter().map(ToString::to_string).collect();
        if workloads.is_empty() {
            writer.phase(RestorePhase::Quiescing, Reason::Quiescing, format!("restores {volumes}"));
        } else {
            // Written down before the first workload is touched.
            let text = format!("restores {volumes}; scales to 0: {}", workloads.join(", "));
            writer.holding(&workloads);
            writer.phase(RestorePhase::Quiescing, Reason::Quiescing, text);
        }
        self.save(&mut status).await?;
        let note = status.message.clone().unwrap_or_default();
        self.ctx.events.normal(self.restore, "Started", note).await;
        Box::pin(self.quiesce(status, self.now)).await
    }

    /// The repository of a Snapshot and its storage, when it can be opened.
    async fn repository_of(
        &self,
        snapshot: &Snapshot,
    ) -> Result<Result<(Repository, RepositoryAccess), (Reason, String)>, RunError> {
        let client = &self.ctx.client;
        let name = &snapshot.spec.repository_ref.name;
        let place = snapshot.namespace().unwrap_or_default();
        let Some(repository) = dereference::repository(client, &place, name).await? else {
            let message = format!("Repository {place}/{name} of the Snapshot does not exist: create it");
            return Ok(Err((Reason::RepositoryNotFound, message)));
        };
        let repository = match ready(repository) {
            Ok(repository) => repository,
            Err(refusal) => return Ok(Err((refusal.reason, refusal.message))),
        };
        match RepositoryAccess::read(client, &repository).await {
            Ok(access) => {
                let refusal =
                    dereference::storage_refusal(client, &self.run.namespace, &access.storage).await?;
                Ok(match refusal.filter(|_| place != self.run.namespace) {
                    Some(message) => Err((Reason::StorageNotAllowed, message)),
                    None => Ok((repository, access)),
                })
            }
            Err(error) => match error.reason() {
                Some(reason) => Ok(Err((reason, error.to_string()))),
                None => Err(error.into()),
            },
        }
    }

    pub(super) async fn refuse(
        &self,
        mut status: RestoreStatus,
        refusal: &Refusal,
    ) -> Result<Action, RunError> {
        self.writer(&mut status).refused(refusal);
        self.save(&mut status).await?;
        self.ctx.events.warning(self.restore, refusal.reason, &refusal.message).await;
        self.log_end(&status);
        Ok(Action::await_change())
    }

    pub(super) fn crew(&self, views: Vec<JobView>, started: Timestamp, task: JobTask) -> Crew<'_> {
        let deadline = Duration::from(self.restore.spec.active_deadline);
        let mut crew = Crew {
            ctx: self.ctx,
            run: &self.run,
            named: named(names::RunKind::Restore, &self.run),
            task,
            retries: self.restore.spec.retries,
            started,
            deadline,
            views,
            now: self.now,
            may_start: true,
            answers: BTreeMap::new(),
            look_again: LookAgain::default(),
        };
        crew.look_again.after(time_left(started, deadline, self.now).unwrap_or(WAITING_LOOK));
        crew
    }

    /// Looks at every component that has not ended. True when none is left. After an error, the status tells what was
    /// seen by then.
    async fn advance(&self, crew: &mut Crew<'_>, status: &mut RestoreStatus) -> Result<bool, RunError> {
        let taken = nodes_taken(status);
        let RestoreStatus { components, plan, repository_ref, .. } = status;
        let mut ready: Option<Ready> = None;
        crew.tell_places();
        let open = components.iter().filter(|component| !component.phase.is_terminal());
        let needing = crew.needing(open.map(|component| component.name.as_str()));
        if !needing.is_empty() {
            if let Some(answers) = self.ctx.queue.all_wait(&self.run, &needing) {
                crew.answers = answers;
            } else {
                let found = Box::pin(self.ready(repository_ref.as_ref(), taken)).await?;
                // What can be put nowhere takes no place from what can.
                let wanted = components.iter().filter(|component| {
                    needing.contains(&component.name.as_str())
                        && placement(&found.facts, claim_of(component)).is_ok()
                });
                let demands: Vec<Demand> =
                    wanted.map(|component| found.demand(&component.name, claim_of(component))).collect();
                crew.ask(self.since(), &demands);
                ready = Some(found);
            }
        }
        for component in components.iter_mut().filter(|component| !component.phase.is_terminal()) {
            let order = |name: String, left: Duration| {
                let Ready { facts, access, pod_config } = ready.as_ref()?;
                let owner = jobs::owner_reference(self.restore)?;
                let placement = placement(facts, claim_of(component)).ok()?;
                let seat = access.seat(node_name(&placement));
                let identity = self.run.identity(&self.ctx.settings.cluster_name, &self.ctx.cluster_uid);
                let plan = build::job(self.restore, &self.run, owner, component, placement, name, left);
                Some(Order {
                    plan: JobPlan { pod_config: pod_config.clone(), seat: Some(seat), ..plan },
                    spec: access.spec(identity, build::task(self.restore, component)),
                    credentials: &access.credentials,
                })
            };
            if let Some(Ready { facts, .. }) = &ready
                && crew.needs_job(&component.name)
                && let Err(unplaced) = placement(facts, claim_of(component))
            {
                // Nobody waits for what a dry run would say.
                let may_wait = !self.restore.spec.dry_run;
                if unplaced.tell(component.common(), may_wait, self.now) {
                    crew.look_again.after(BLOCKED_LOOK);
                }
                continue;
            }
            let mut changed = component.clone();
            let before = changed.next_attempt_time.clone();
            let end = crew.advance(&mut changed.common(), order).await?;
            if let Some(news) = retry_news(before.as_ref(), &changed.common()) {
                self.ctx.events.warning(self.restore, Reason::Retrying, news).await;
            }
            if let Some(end) = end {
                let proof = status::Proof::of(self.restore, &changed);
                if self.restore.spec.dry_run {
                    status::looked(&mut changed, plan.as_mut(), &end);
                } else {
                    status::ended(&mut changed, plan.as_mut(), &end, proof);
                }
            }
            *component = changed;
        }
        Ok(components.iter().all(|component| component.phase.is_terminal()))
    }

    /// A dry run: Jobs that only look fill the plan.
    async fn look_only(&self, mut status: RestoreStatus, started: Timestamp) -> Result<Action, RunError> {
        let views = observe(&self.ctx.client, &self.run.namespace, &self.run).await?;
        let mut crew = self.crew(views, started, JobTask::Plan);
        if !Box::pin(self.advance(&mut crew, &mut status)).await? {
            self.save(&mut status).await?;
            return Ok(crew.look_again.action());
        }
        if !locks_left(&crew.views).is_empty() {
            self.save(&mut status).await?;
            let repository = self.recorded_repository(status.repository_ref.as_ref()).await?;
            if let Settled::NotYet { .. } =
                settle(self.ctx, &self.run.namespace, &self.run, repository.as_ref(), &[]).await?
            {
                return Ok(Action::requeue(WAITING_LOOK));
            }
        }
        self.conclude(status).await
    }

    /// Holds the consumers at zero and waits until their pods are gone.
    async fn quiesce(&self, mut status: RestoreStatus, started: Timestamp) -> Result<Action, RunError> {
        let claims = claims_of(&status);
        self.watch_pods(&claims);
        self.ctx.queue.keep(&self.run);
        let client = &self.ctx.client;
        let ns = &self.run.namespace;
        // Before a workload is touched: an application must not be down while a Backup comes to its end.
        if let Some(cause) = self.being_read(&claims).await? {
            return self.wait_for_readers(status, &cause).await;
        }
        let mut inventory = read_inventory(client, ns).await?;
        let mut touched = false;
        let mut workloads: BTreeSet<WorkloadId> = BTreeSet::new();
        let mut others: Vec<String> = Vec::new();
        for claim in &claims {
            let users = inventory.users_of(claim);
            workloads.extend(users.scalable);
            others.extend(users.others);
        }
        if !others.is_empty() {
            let message = format!("used by {}, which cannot be scaled to 0", others.join(", "));
            return self.give_up(status, Reason::ClaimInUse, &message).await;
        }
        if self.restore.spec.quiesce == Quiesce::Auto {
            match hold_all(client, ns, &self.run.uid, &workloads).await {
                Ok(taken) if taken.is_empty() => {}
                Ok(taken) => {
                    touched = true;
                    let list: Vec<String> =
                        taken.iter().map(|(id, count)| format!("{id} (had {count})")).collect();
                    let note = format!("scaled to 0: {}", list.join(", "));
                    self.ctx.events.normal(self.restore, Reason::Quiescing, &note).await;
                }
                Err(HoldError::Request(error)) if error.namespace_is_terminating() => {
                    return Err((*error).into());
                }
                Err(HoldError::Request(error)) => {
                    let cause = Chain(&*error).to_string();
                    return self.blocked(status, Reason::QuiesceFailed, &cause, true).await;
                }
                Err(HoldError::Refused { id, refusal }) => {
                    return self.give_up(status, reason(refusal), &explain(&id, refusal)).await;
                }
            }
        }
        if touched {
            inventory = read_inventory(client, ns).await?;
        }
        let pods = pods_on(&inventory.pods, &claims);
        let users = named_pods(&pods);
        if self.restore.spec.quiesce == Quiesce::None && !pods.is_empty() {
            let message = format!("in use by {}, and spec.quiesce is None", users.join(", "));
            return self.give_up(status, Reason::ClaimInUse, &message).await;
        }
        if pods.is_empty() && !workloads.iter().all(|id| inventory.is_down(id)) {
            // Their controllers have not caught up; no pod will tell when they have. Those that were taken down by an
            // earlier look are asked as well: their record makes them users.
            let cause = "the controllers of workloads have not taken them to 0 yet";
            self.blocked(status, Reason::QuiesceFailed, cause, true).await?;
            return Ok(Action::requeue(Duration::from_secs(1)));
        }
        if pods.is_empty() {
            // One may have been started before it could see that this Restore is there.
            if let Some(cause) = self.being_read(&claims).await? {
                return self.wait_for_readers(status, &cause).await;
            }
            return Box::pin(self.save_or_write(status, started)).await;
        }
        if !touched && overstay(&pods, started, self.now) {
            let text = format!(
                "{} did not go, {} minutes after their time: a node that is not ready, or a finalizer, may hold them",
                users.join(", "),
                QUIESCE_PATIENCE.as_secs() / 60
            );
            return self.give_up(status, Reason::QuiesceFailed, &text).await;
        }
        let message = format!("waits until pods are gone: {}", users.join(", "));
        self.writer(&mut status).phase(RestorePhase::Quiescing, Reason::Quiescing, message);
        self.save(&mut status).await?;
        Ok(Action::requeue(WAITING_LOOK))
    }

    pub(super) fn watch_pods(&self, claims: &[String]) {
        let object = ObjectRef::from_obj(self.restore);
        self.pods.start(&self.ctx.client, &self.run.namespace, &self.run.uid, object, claims.to_vec());
    }

    /// The Jobs write, while nobody else may use the claims.
    pub(super) async fn write_volumes(
        &self,
        mut status: RestoreStatus,
        started: Timestamp,
    ) -> Result<Action, RunError> {
        let claims = claims_of(&status);
        self.watch_pods(&claims);
        let client = &self.ctx.client;
        let ns = &self.run.namespace;
        let inventory = read_inventory(client, ns).await?;
        let contested = self.contested(&inventory, &claims);
        let views = observe(client, ns, &self.run).await?;
        let mut crew = self.crew(views, started, JobTask::Restore);
        // What had ended by the last look counts; nothing more is begun.
        crew.may_start = contested.is_none();
        let open = status.components.iter().filter(|component| !component.phase.is_terminal());
        let is_due = !crew.needing(open.map(|component| component.name.as_str())).is_empty();
        let read = if is_due { self.being_read(&claims).await? } else { None };
        if read.is_some() {
            crew.may_start = false;
            crew.look_again.after(READERS_LOOK);
        }
        let before = status.components.clone();
        let looked = Box::pin(self.advance(&mut crew, &mut status)).await;
        let there = kubernetes::list::<PersistentVolumeClaim>(client, ns, "").await?;
        for lost in status::deleted(&mut status.components, &there, self.now) {
            // Whatever it still writes goes with the claim.
            let why = Stopped::new(Reason::TargetNotFound.as_str(), "its claim was deleted");
            for view in crew.views.iter().filter(|view| view.component() == Some(lost.as_str())) {
                stop(client, view, &why).await?;
            }
        }
        let all_over = status.components.iter().all(|component| component.phase.is_terminal());
        let looked = looked.map(|done| done || all_over);
        let idle = crew.views.iter().all(is_idle);
        if let Some(cause) = contested {
            let message = format!(
                "{cause}. The restore was ended: what it had written is there, the rest is as it was. Stop what scales \
                 up (a person, a GitOps tool, another operator), then make another Restore"
            );
            self.writer(&mut status).contested(&before, &message);
            return self.give_up(status, Reason::QuiesceContested, &message).await;
        }
        match looked {
            Ok(true) => return self.unquiesce_next(status).await,
            Ok(false) => {
                if let Some(cause) = read.filter(|_| idle) {
                    return self.wait_for_readers(status, &cause).await;
                }
                let waits = status::waits(&status).filter(|(reason, _)| idle && !is_our_pause(*reason));
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
                return self.blocked(status, reason.unwrap_or(Reason::Failed), &cause, idle).await;
            }
        }
        let text = format!("writes {}", count(status.components.len(), "volume"));
        if status::blocked_since(&status).is_some() {
            self.writer(&mut status).phase(RestorePhase::Running, Reason::Running, &text);
        }
        status.message = Some(with_progress(&text, &mut status.components));
        self.save(&mut status).await?;
        Ok(crew.look_again.action())
    }

    /// Who has come back to the claims, although they are held.
    pub(super) fn contested(&self, inventory: &Inventory, claims: &[String]) -> Option<String> {
        let raised: Vec<String> = inventory
            .workloads
            .iter()
            .filter(|workload| workload.replicas > 0)
            .filter(|workload| {
                let record = workload.record.as_ref().ok().and_then(Option::as_ref);
                record.is_some_and(|record| record.is_held_by(&self.run.uid))
            })
            .map(|workload| format!("{} to {}", workload.id, workload.replicas))
            .collect();
        let users = named_pods(&pods_on(&inventory.pods, claims));
        if !raised.is_empty() {
            Some(format!("somebody scaled up while the volumes were held: {}", raised.join(", ")))
        } else if !users.is_empty() {
            Some(format!("pods that use a claim were started while it was held: {}", users.join(", ")))
        } else {
            None
        }
    }

    /// Nothing goes on, while workloads are held at zero: that is told, tried again, and with nothing `idle` to be
    /// lost by it given up soon, for an application that is down is worse than a restore that failed.
    pub(super) async fn blocked(
        &self,
        mut status: RestoreStatus,
        reason: Reason,
        cause: &str,
        idle: bool,
    ) -> Result<Action, RunError> {
        let since = status::blocked_since(&status).unwrap_or(self.now);
        match time_left(since, BLOCKED_PATIENCE, self.now) {
            None if idle => {
                let minutes = BLOCKED_PATIENCE.as_secs() / 60;
                let message = format!("given up after {minutes} minutes: {cause}");
                // Rare, and larger than all else here together.
                Box::pin(self.give_up(status, reason, &message)).await
            }
            left => {
                self.writer(&mut status).blocked(reason, cause);
                self.save(&mut status).await?;
                Ok(Action::requeue(left.unwrap_or(BLOCKED_LOOK).min(BLOCKED_LOOK)))
            }
        }
    }

    /// Ends the run early: what has not ended fails for this reason.
    pub(super) async fn give_up(
        &self,
        mut status: RestoreStatus,
        reason: Reason,
        message: &str,
    ) -> Result<Action, RunError> {
        self.ctx.events.warning(self.restore, reason, message).await;
        self.writer(&mut status).fail_rest(reason, message);
        self.unquiesce_next(status).await
    }

    async fn unquiesce_next(&self, mut status: RestoreStatus) -> Result<Action, RunError> {
        let text = "lets go of the workloads";
        self.writer(&mut status).phase(RestorePhase::Unquiescing, Reason::Unquiescing, text);
        // Written down first: from here on there is only one way, also after a crash.
        self.save(&mut status).await?;
        self.unquiesce(status).await
    }

    /// Its runners were told to stop and have not. Whoever waits for the end, or for the Restore to be gone, is told what for:
    /// that of a runner on a dead node never comes by itself.
    async fn wait_for_runners(&self, mut status: RestoreStatus, waits: Wait) -> Result<Action, RunError> {
        let phase = status.phase.unwrap_or_default();
        // One that is deleted is gone in a moment, but for a runner that does not go.
        let is_told = waits.is_on_dead_node || phase == RestorePhase::Unquiescing;
        if is_told && !phase.is_terminal(self.restore.spec.dry_run) {
            if waits.is_on_dead_node && status.message.as_deref() != Some(waits.message.as_str()) {
                self.ctx.events.warning(self.restore, Reason::NoSignOfLife, &waits.message).await;
            }
            self.writer(&mut status).phase(phase, Reason::Unquiescing, waits.message);
            self.save(&mut status).await?;
        }
        // That a pod is late nobody tells us.
        Ok(Action::requeue(WAITING_LOOK))
    }

    /// Runners stop, workloads come back, locks go, and the result is told.
    async fn unquiesce(&self, mut status: RestoreStatus) -> Result<Action, RunError> {
        let (ns, client) = (&self.run.namespace, &self.ctx.client);
        let (views, waits) = stop_all(self.ctx, ns, &self.run, &Stopped::with_run()).await?;
        if let Some(waits) = waits {
            return self.wait_for_runners(status, waits).await;
        }
        let report = release_run(&self.ctx.client, ns, &self.run.uid).await?;
        if !report.restored.is_empty() {
            let back: Vec<String> =
                report.restored.iter().map(|(id, count)| format!("{id} to {count}")).collect();
            let note = format!("scaled back: {}", back.join(", "));
            self.ctx.events.normal(self.restore, Reason::Reverted, note).await;
        }
        if !report.refused.is_empty() {
            self.writer(&mut status).not_released(&report);
            self.save(&mut status).await?;
            return Ok(Action::requeue(BLOCKED_LOOK));
        }
        self.pods.stop(&self.run.uid);
        let told =
            find_condition(&status.conditions, ConditionType::QuiesceReverted).is_some_and(|condition| {
                ![Reason::Quiescing.as_str(), Reason::Unquiescing.as_str()]
                    .contains(&condition.reason.as_str())
            });
        if !told {
            self.writer(&mut status).released(&report);
        }
        if !locks_left(&views).is_empty() {
            self.save(&mut status).await?;
            let repository = self.recorded_repository(status.repository_ref.as_ref()).await?;
            match settle(self.ctx, ns, &self.run, repository.as_ref(), &[]).await? {
                Settled::NotYet { .. } => return Ok(Action::requeue(WAITING_LOOK)),
                Settled::Done { warning: Some(warning) } => {
                    self.ctx.events.warning(self.restore, Reason::RepositoryLocked, warning).await;
                }
                Settled::Done { warning: None } => {}
            }
        }
        made::settle(client, &self.run, &mut status).await?;
        self.conclude(status).await
    }

    async fn conclude(&self, mut status: RestoreStatus) -> Result<Action, RunError> {
        let conclusion = conclude(self.restore, &status);
        self.writer(&mut status).concluded(&conclusion);
        self.save(&mut status).await?;
        let events = &self.ctx.events;
        match conclusion.phase {
            RestorePhase::Succeeded | RestorePhase::Planned => {
                events.normal(self.restore, &conclusion.reason, &conclusion.message).await;
            }
            _ => events.warning(self.restore, &conclusion.reason, &conclusion.message).await,
        }
        self.log_end(&status);
        // The write comes back by the watch, and with it the clean-up.
        Ok(Action::await_change())
    }

    fn log_end(&self, status: &RestoreStatus) {
        tracing::info!(
            namespace = self.run.namespace,
            restore = self.run.name,
            phase = status.phase.map(RestorePhase::as_str),
            message = status.message,
            "a Restore ended"
        );
    }
}

/// Whether nothing can be started because the namespace is going away.
pub(super) fn is_namespace_terminating(error: &RunError) -> bool {
    match error {
        RunError::Request(error) => error.namespace_is_terminating(),
        RunError::Job(error) => error.namespace_is_terminating(),
        RunError::Unlock(_) | RunError::Access(_) | RunError::PodConfig { .. } => false,
    }
}

/// The claims that a run writes to.
pub(super) fn claims_of(status: &RestoreStatus) -> Vec<String> {
    status.components.iter().filter_map(|component| component.claim.clone()).collect()
}

/// The pods on any of the claims.
fn pods_on<'p>(pods: &'p [Pod], claims: &[String]) -> Vec<&'p Pod> {
    claims.iter().flat_map(|claim| active_pods(pods, claim)).collect()
}

/// Pods for people; not too many.
fn named_pods(pods: &[&Pod]) -> Vec<String> {
    let names: BTreeSet<String> = pods.iter().map(|pod| format!("Pod/{}", pod.name_any())).collect();
    names.into_iter().take(10).collect()
}

/// Whether pods that should go have had more than their time: what they were given to end (which their deletion
/// timestamp includes) and our patience on top.
fn overstay(pods: &[&Pod], started: Timestamp, now: Timestamp) -> bool {
    let due =
        pods.iter().map(|pod| pod.metadata.deletion_timestamp.as_ref().map_or(started, |time| time.0)).max();
    due.is_some_and(|due| time_left(due.max(started), QUIESCE_PATIENCE, now).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_get_their_grace_period_and_our_patience() {
        let pod: Pod =
            serde_saphyr::from_str("{metadata: {name: p, deletionTimestamp: '2026-11-20T02:30:00Z'}}")
                .unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let started = at("2026-11-20T02:00:00Z");
        assert!(
            !overstay(&[&pod], started, at("2026-11-20T02:39:59Z")),
            "its grace period alone is half an hour"
        );
        assert!(overstay(&[&pod], started, at("2026-11-20T02:40:00Z")));
        let staying: Pod = serde_saphyr::from_str("{metadata: {name: p}}").unwrap();
        assert!(overstay(&[&staying], started, at("2026-11-20T02:10:00Z")));
        assert!(!overstay(&[], started, at("2026-11-20T05:00:00Z")));
    }
}
