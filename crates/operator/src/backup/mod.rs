//! The reconciler of Backups: one Job a claim, one Snapshot of all that was saved.
//!
//! ```text
//! Pending ──repository Ready, plan made──▶ Running ──each Job ended──▶ Succeeded │ PartiallyFailed │ Failed
//!    │                                        │ a runner was killed      ▲
//!    │ nothing to save: Skipped               └──▶ Finishing ── locks ───┘
//! ```
//! The components are fixed in the status before the first Job starts, because their names and number go into the
//! tags of each snapshot. Everything else is derived anew at each look.

pub mod apply;
pub mod build;
pub mod dereference;
mod excludes;
mod overlap;
mod select;
pub mod status;
pub mod validate;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use holdfast_api::backup::{Backup, BackupComponent, BackupPhase, BackupStatus, ComponentPhase};
use holdfast_api::conditions::{ConditionStatus, ConditionType, find_condition};
use holdfast_api::names::{self, FINALIZER_CLEANUP};
use holdfast_api::tags::ComponentSet;
use holdfast_api::{BackupStorage, PodConfig, Reason, Repository, Restore};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::runtime::controller::Action;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};

use crate::access::RepositoryAccess;
use crate::context::Ctx;
use crate::controllers::{self, Wakes};
use crate::errors::Chain;
use crate::jobs::{self, JobPlan, JobView, RunKind, RunRef, observe};
use crate::kubernetes::{self, RequestError};
use crate::queue::{Answer, Asker, Demand};
use crate::runs::advance::{Order, not_started, refusal_news, retry_news};
use crate::runs::bound;
use crate::runs::lost::leave_behind;
use crate::runs::settle::locks_left;
use crate::runs::{Crew, Fields, LookAgain, RunError, Settled, named, settle, time_left, waits};
use crate::volumes::node_name;
use build::Cluster;
use status::Conclusion;
use validate::{Plan, PlannedComponent, Refusal};

/// How long a Backup waits for its storage and repository before it is Failed. Long enough for a store that is
/// started again, for an outage that a run at work sits out as well (its requests are made again for as long), and for objects
/// that are applied in any order.
const PATIENCE: Duration = Duration::from_mins(15);
/// How often it tells anew where in line it is; its turn is told by the queue.
const QUEUE_LOOK: Duration = Duration::from_mins(2);
/// How often it looks anew while it waits; watches tell of most changes before.
const WAITING_LOOK: Duration = Duration::from_secs(30);

/// How often it looks for a pod that is moved to another node.
const MOVING_LOOK: Duration = Duration::from_secs(10);

/// Looks after all Backups until the operator stops.
pub async fn run(ctx: Arc<Ctx>) {
    let controller = controllers::controller::<Backup>(&ctx, RunKind::Backup);
    let (of_repository, of_storage, of_restore) =
        (controller.store(), controller.store(), controller.store());
    let of_config = controller.store();
    let client = &ctx.client;
    let controller = controller
        .wakes_on(
            &ctx.metrics,
            Api::<Repository>::all(client.clone()),
            watcher::Config::default(),
            move |repository| {
                let namespace = repository.namespace();
                waiting_backups(&of_repository, |backup| backup.namespace() == namespace)
            },
        )
        .wakes_on(
            &ctx.metrics,
            Api::<BackupStorage>::all(client.clone()),
            watcher::Config::default(),
            move |_| waiting_backups(&of_storage, |_| true),
        )
        .wakes_on(
            &ctx.metrics,
            Api::<PodConfig>::all(client.clone()),
            watcher::Config::default(),
            move |config| {
                let namespace = config.namespace();
                waiting_backups(&of_config, |backup| {
                    backup.namespace() == namespace && backup.spec.pod_config_ref.is_some()
                })
            },
        )
        .wakes_on(
            &ctx.metrics,
            Api::<Restore>::all(client.clone()),
            watcher::Config::default(),
            move |restore| {
                let namespace = restore.namespace();
                unfinished_backups(&of_restore, |backup| backup.namespace() == namespace)
            },
        )
        .reconcile_on(ctx.queue.words(RunKind::Backup).map(|run| controllers::reference(&run)));
    controllers::run(controller, ctx, reconcile).await;
}

/// The Backups that wait for something before they begin, or before they start one of their Jobs.
fn waiting_backups(store: &Store<Backup>, which: impl Fn(&Backup) -> bool) -> Vec<ObjectRef<Backup>> {
    let waits = |backup: &Backup| {
        backup.status.as_ref().is_none_or(|status| {
            let begun = status.start_time.is_some();
            !begun || status.components.iter().any(|component| component.phase == ComponentPhase::Pending)
        })
    };
    let found = store.state_filter(|backup| waits(backup) && which(backup));
    found.iter().map(|backup| ObjectRef::from_obj(&**backup)).collect()
}

/// The Backups that have not ended. Also one that only reads: it gives way to a Restore.
fn unfinished_backups(store: &Store<Backup>, which: impl Fn(&Backup) -> bool) -> Vec<ObjectRef<Backup>> {
    let is_over = |backup: &Backup| {
        let phase = backup.status.as_ref().and_then(|status| status.phase);
        phase.is_some_and(BackupPhase::is_terminal)
    };
    let found = store.state_filter(|backup| !is_over(backup) && which(backup));
    found.iter().map(|backup| ObjectRef::from_obj(&**backup)).collect()
}

async fn reconcile(backup: Arc<Backup>, ctx: Arc<Ctx>) -> Result<Action, RunError> {
    let look = Look {
        run: RunRef::of(RunKind::Backup, &*backup),
        generation: backup.metadata.generation,
        now: ctx.now(),
        backup: &backup,
        ctx: &ctx,
    };
    match Box::pin(look.reconcile()).await {
        // Nothing can be started in a namespace that is going away; the Backup goes with it.
        Err(error) if namespace_is_terminating(&error) => Ok(Action::await_change()),
        result => result,
    }
}

fn namespace_is_terminating(error: &RunError) -> bool {
    match error {
        RunError::Request(error) => error.namespace_is_terminating(),
        RunError::Job(error) => error.namespace_is_terminating(),
        RunError::Unlock(_) | RunError::Access(_) | RunError::PodConfig { .. } => false,
    }
}

/// What it takes to start Jobs.
struct Ready {
    plan: Plan,
    access: RepositoryAccess,
    namespace: Namespace,
    pod_config: Option<PodConfig>,
    /// Number of nodes that are ready.
    nodes: u32,
}

impl Ready {
    /// What the Jobs of these components take.
    fn demands(&self, which: impl Fn(&str) -> bool) -> Vec<Demand> {
        let planned = self.plan.components.iter().filter(|planned| which(&planned.name));
        let demand = |planned: &PlannedComponent| Demand {
            component: planned.name.clone(),
            seat: self.access.seat(node_name(&planned.placement)),
            limits: self.access.limits(self.nodes),
        };
        planned.map(demand).collect()
    }
}

/// One look at one Backup.
struct Look<'a> {
    run: RunRef,
    generation: Option<i64>,
    now: Timestamp,
    backup: &'a Backup,
    ctx: &'a Ctx,
}

impl Look<'_> {
    async fn reconcile(&self) -> Result<Action, RunError> {
        let status = self.backup.status.clone().unwrap_or_default();
        let over = status.phase.is_some_and(BackupPhase::is_terminal);
        if over || self.backup.metadata.deletion_timestamp.is_some() {
            return self.end().await;
        }
        kubernetes::set_finalizer(&self.ctx.client, self.backup, FINALIZER_CLEANUP, true).await?;
        match status.start_time.as_ref().map(|time| time.0) {
            Some(started) => Box::pin(self.work(status, started, None)).await,
            None => Box::pin(self.begin(status)).await,
        }
    }

    /// The run is over or unwanted: everything of it goes, then the finalizer.
    async fn end(&self) -> Result<Action, RunError> {
        self.ctx.queue.forget(&self.run.uid);
        if !self.backup.finalizers().iter().any(|finalizer| finalizer == FINALIZER_CLEANUP) {
            return Ok(Action::await_change());
        }
        let repository = self.recorded_repository().await?;
        let components = self.backup.status.as_ref().map(|s| s.components.as_slice()).unwrap_or_default();
        let worthless = overlap::worthless(components);
        // It could not be removed at the end of the run: once more when the Backup goes, and with it what keeps lists from
        // showing the snapshot.
        if !worthless.is_empty() && self.backup.metadata.deletion_timestamp.is_none() {
            return Ok(Action::await_change());
        }
        match settle(self.ctx, &self.run.namespace, &self.run, repository.as_ref(), &worthless).await? {
            Settled::NotYet { message } => {
                tracing::debug!(
                    namespace = self.run.namespace,
                    backup = self.run.name,
                    message,
                    "a run is being ended"
                );
                // The state of a node changes without a word to us.
                return Ok(Action::requeue(WAITING_LOOK));
            }
            Settled::Done { warning } => {
                if let Some(warning) = warning {
                    self.ctx.events.warning(self.backup, Reason::RepositoryLocked, warning).await;
                }
                kubernetes::set_finalizer(&self.ctx.client, self.backup, FINALIZER_CLEANUP, false).await?;
            }
        }
        Ok(Action::await_change())
    }

    async fn recorded_repository(&self) -> Result<Option<Repository>, RunError> {
        let recorded = self.backup.status.as_ref().and_then(|status| status.repository_ref.as_ref());
        let Some(reference) = recorded else { return Ok(None) };
        Ok(kubernetes::get(&self.ctx.client, &self.run.namespace, &reference.name).await?)
    }

    /// Finds repository and claims, and fixes the components.
    async fn begin(&self, mut status: BackupStatus) -> Result<Action, RunError> {
        let client = &self.ctx.client;
        let namespace = dereference::namespace(client, &self.run.namespace).await?;
        let (chosen, facts) = futures::try_join!(
            dereference::repository(self.ctx, self.backup, &namespace),
            dereference::facts(client, namespace.clone(), self.ctx.settings.claims_default),
        )?;
        let repository = match chosen {
            Ok(repository) => repository,
            Err(refusal) if refusal.reason == Reason::ReadOnly => {
                return self.refuse(status, &refusal, &namespace).await;
            }
            Err(refusal) => return self.wait(status, &refusal).await,
        };
        let access = match RepositoryAccess::read(client, &repository).await {
            Ok(access) => access,
            Err(error) => match Refusal::of_access(&error) {
                Some(refusal) => return self.wait(status, &refusal).await,
                None => return Err(error.into()),
            },
        };
        if let Some(refusal) = Refusal::of_closed(&access.storage) {
            return self.refuse(status, &refusal, &namespace).await;
        }
        let pod_config = match self.pod_config().await? {
            Ok(pod_config) => pod_config,
            Err(refusal) => return self.wait(status, &refusal).await,
        };
        let plan = match validate::validate(self.backup, &facts) {
            Ok(plan) => plan,
            Err(refusal) => return self.refuse(status, &refusal, &namespace).await,
        };
        if let Some(refusal) = self.restore_at_work(&plan).await? {
            return self.wait(status, &refusal).await;
        }
        let nothing = plan.components.is_empty();
        let nodes = facts.nodes.ready();
        let mut ready = Ready { plan, access, namespace, pod_config, nodes };
        if !nothing {
            // The components are fixed, and the run's time begins, when the first of them has a place.
            let asker = Asker { run: &self.run, since: self.since() };
            let answers = self.ctx.queue.ask(&asker, &ready.demands(|_| true));
            if !answers.values().any(|answer| *answer == Answer::Go) {
                let message = status::queued(&answers);
                return self.wait(status, &Refusal { reason: Reason::Queued, message }).await;
            }
        }
        let others = kubernetes::list::<Backup>(client, &self.run.namespace, "").await?;
        let uid = self.backup.metadata.uid.as_deref();
        let overlaps = validate::overlaps(&ready.plan, &repository.name_any(), uid, &others);
        for overlap in overlaps {
            self.ctx.events.warning(self.backup, Reason::Overlapping, &overlap).await;
            ready.plan.coverage.warnings.push(overlap);
        }
        ready.plan.coverage.warnings.truncate(validate::MOST_WARNINGS);
        status::begun(&mut status, &ready.plan, &repository.name_any(), self.generation, self.now);
        self.write(&mut status).await?;
        if nothing {
            return Box::pin(self.work(status, self.now, Some(ready))).await;
        }
        let note = format!(
            "{} into Repository {}",
            status.message.as_deref().unwrap_or_default(),
            repository.name_any()
        );
        self.ctx.events.normal(self.backup, "Started", note).await;
        Box::pin(self.work(status, self.now, Some(ready))).await
    }

    /// Ends the run before it begins, for a reason that does not pass.
    async fn refuse(
        &self,
        mut status: BackupStatus,
        refusal: &Refusal,
        namespace: &Namespace,
    ) -> Result<Action, RunError> {
        status::refused(&mut status, refusal, self.generation, self.now);
        self.finish(status, Vec::new(), namespace).await
    }

    /// When the run was made.
    fn since(&self) -> Timestamp {
        self.backup.creation_timestamp().map_or(self.now, |time| time.0)
    }

    /// The settings of its pods, or why it has to wait for them.
    async fn pod_config(&self) -> Result<Result<Option<PodConfig>, Refusal>, RunError> {
        let reference = self.backup.spec.pod_config_ref.as_ref();
        Ok(dereference::pod_config(&self.ctx.client, &self.run.namespace, reference).await?)
    }

    /// The Restore that the plan has to wait for.
    async fn restore_at_work(&self, plan: &Plan) -> Result<Option<Refusal>, RunError> {
        let restores = kubernetes::list::<Restore>(&self.ctx.client, &self.run.namespace, "").await?;
        Ok(validate::being_restored(plan, &restores))
    }

    /// Waits for storage and repository, or for a Restore, but not for ever.
    async fn wait(&self, mut status: BackupStatus, refusal: &Refusal) -> Result<Action, RunError> {
        let since = waits::since(&status.conditions, refusal.reason, self.now);
        let patience = match refusal.reason {
            // A Restore may take hours; this run may take as long as its own deadline says.
            // What somebody has to write may be written any time.
            Reason::ClaimInUse | Reason::PodConfigNotFound | Reason::PodConfigInvalid | Reason::Queued => {
                PATIENCE.max(self.backup.spec.active_deadline.into())
            }
            _ => PATIENCE,
        };
        let Some(left) = time_left(since, patience, self.now) else {
            let message = format!("waited {} minutes in vain: {}", patience.as_secs() / 60, refusal.message);
            let reason = match refusal.reason {
                Reason::Queued => Reason::DeadlineExceeded,
                reason => reason,
            };
            let refusal = Refusal { reason, message };
            status::refused(&mut status, &refusal, self.generation, self.now);
            self.write(&mut status).await?;
            self.ctx.events.warning(self.backup, refusal.reason, &refusal.message).await;
            return Ok(Action::await_change());
        };
        let before = status.message.clone();
        let stands_in_line = status.phase == Some(BackupPhase::Queued);
        status::waiting(&mut status, refusal, self.generation, self.now);
        self.write(&mut status).await?;
        if refusal.reason == Reason::Queued {
            // The place in line changes all the time, which is no news.
            if !stands_in_line {
                self.ctx.events.normal(self.backup, refusal.reason, &refusal.message).await;
            }
            return Ok(Action::requeue(left.min(QUEUE_LOOK)));
        }
        self.ctx.queue.forget(&self.run.uid);
        if before != status.message {
            match refusal.reason {
                Reason::Initializing | Reason::ClaimInUse => {
                    self.ctx.events.normal(self.backup, refusal.reason, &refusal.message).await;
                }
                _ => self.ctx.events.warning(self.backup, refusal.reason, &refusal.message).await,
            }
        }
        Ok(Action::requeue(left.min(WAITING_LOOK)))
    }

    /// Looks at each component, and ends the run when each has ended.
    async fn work(
        &self,
        mut status: BackupStatus,
        started: Timestamp,
        fresh: Option<Ready>,
    ) -> Result<Action, RunError> {
        let ctx = self.ctx;
        let (mut views, restores) = Box::pin(self.make_room(&status)).await?;
        leave_behind(&ctx.client, &self.run, &mut views, &mut Vec::new(), self.now).await?;
        let deadline = Duration::from(self.backup.spec.active_deadline);
        let mut crew = Crew {
            ctx,
            run: &self.run,
            named: named(names::RunKind::Backup, &self.run),
            task: jobs::JobTask::Backup,
            retries: self.backup.spec.failure_policy.retries,
            started,
            deadline,
            views,
            now: self.now,
            may_start: true,
            answers: BTreeMap::new(),
            look_again: LookAgain::default(),
        };
        crew.look_again.after(time_left(started, deadline, self.now).unwrap_or(WAITING_LOOK));
        let set = ComponentSet::of(status.components.iter().map(|component| component.name.as_str()));
        let known = crew.views.len();
        // What stands in the way of new Jobs does not keep those that are there from their end.
        let (ready, mut trouble) = match Box::pin(self.ask(&mut crew, &mut status, fresh)).await {
            Ok(ready) => (ready, None),
            Err(error) if namespace_is_terminating(&error) => return Err(error),
            Err(error) => {
                let open = status.components.iter_mut().filter(|component| !component.phase.is_terminal());
                for component in open.filter(|component| crew.needs_job(&component.name)) {
                    not_started(&mut component.common(), &error);
                }
                crew.may_start = false;
                (None, Some(error))
            }
        };
        for component in status.components.iter_mut().filter(|component| !component.phase.is_terminal()) {
            let planned = ready.as_ref().and_then(|ready| {
                ready.plan.components.iter().find(|planned| planned.name == component.name)
            });
            if let (Some(ready), None) = (&ready, planned)
                && crew.needs_job(&component.name)
                && self.gives_up(component, &mut crew, &ready.plan)
            {
                continue;
            }
            let order = |name: String, left: Duration| {
                let (Ready { access, pod_config, .. }, planned) = (ready.as_ref()?, planned?);
                let cluster = Cluster { name: &ctx.settings.cluster_name, uid: &ctx.cluster_uid };
                let task = build::task(self.backup, cluster, started, &set, planned);
                let owner = jobs::owner_reference(self.backup)?;
                let plan = build::job(&self.run, owner, planned, name, left);
                Some(Order {
                    plan: JobPlan {
                        pod_config: pod_config.clone(),
                        seat: Some(access.seat(node_name(&planned.placement))),
                        ..plan
                    },
                    spec: access.spec(self.run.identity(cluster.name, cluster.uid), task),
                    credentials: &access.credentials,
                })
            };
            let before = (component.next_attempt_time.clone(), component.reason.clone());
            match crew.advance(&mut component.common(), order).await {
                Ok(Some(end)) => {
                    status::ended(component, &end);
                    overlap::judge(component, &end, &crew.views, &restores, self.now);
                }
                Ok(None) => overlap::tell(&mut component.common(), &crew.views),
                Err(error) if error.namespace_is_terminating() => return Err(error.into()),
                // The others are looked at all the same: what is saved of them is to be told.
                Err(error) => {
                    trouble.get_or_insert(RunError::Job(error));
                }
            }
            if let Some(news) = retry_news(before.0.as_ref(), &component.common()) {
                ctx.events.warning(self.backup, Reason::Retrying, news).await;
            }
            if let Some((reason, news)) = refusal_news(before.1.as_deref(), &component.common()) {
                ctx.events.warning(self.backup, reason, news).await;
            }
        }
        // A Restore that began since they were listed may not have seen the Jobs that were started meanwhile.
        if crew.views.len() > known
            && let Err(error) = Box::pin(self.make_room(&status)).await
        {
            trouble.get_or_insert(error);
        }
        if let Some(error) = trouble {
            status.message = Some(status::under_way(&mut status.components));
            return self.told(status, error).await;
        }
        if status.components.iter().any(|component| !component.phase.is_terminal()) {
            status.message = Some(status::under_way(&mut status.components));
            self.write(&mut status).await?;
            return Ok(crew.look_again.action());
        }
        let views = crew.views;
        let namespace = match ready {
            Some(ready) => ready.namespace,
            None => dereference::namespace(&ctx.client, &self.run.namespace).await?,
        };
        self.finish(status, views, &namespace).await
    }

    /// A component that cannot be saved any more fails, unless it has had a runner until a moment ago and its node may be
    /// back soon. Whether it failed.
    fn gives_up(&self, component: &mut BackupComponent, crew: &mut Crew<'_>, plan: &Plan) -> bool {
        let patience = self.ctx.settings.stuck_after;
        let ended = crew.last_ended(&component.name);
        let waits = ended.and_then(|end| time_left(end, patience, self.now)).is_some()
            && status::waits_for_node(component, plan);
        if waits {
            crew.look_again.after(WAITING_LOOK);
        } else {
            status::vanished(component, plan, self.now);
        }
        !waits
    }

    /// Its Jobs, and the Restores of the namespace as they are after that. Jobs that read what one of these writes are
    /// stopped.
    async fn make_room(&self, status: &BackupStatus) -> Result<(Vec<JobView>, Vec<Restore>), RunError> {
        let (client, own) = (&self.ctx.client, &self.run.namespace);
        let views = observe(client, own, &self.run).await?;
        if views.is_empty() {
            return Ok((views, Vec::new()));
        }
        let restores = kubernetes::list::<Restore>(client, own, "").await?;
        if overlap::give_way(client, &status.components, &views, &restores).await? {
            return Ok((observe(client, own, &self.run).await?, restores));
        }
        Ok((views, restores))
    }

    /// Asks for places for the Jobs that are to be started, and finds out what it takes to start them when there may be
    /// one.
    async fn ask(
        &self,
        crew: &mut Crew<'_>,
        status: &mut BackupStatus,
        fresh: Option<Ready>,
    ) -> Result<Option<Ready>, RunError> {
        crew.tell_places();
        let open = status.components.iter().filter(|component| !component.phase.is_terminal());
        let names: Vec<String> = open.map(|component| component.name.clone()).collect();
        let needing = crew.needing(names.iter().map(String::as_str));
        if needing.is_empty() {
            return Ok(fresh);
        }
        let ready = if let Some(ready) = fresh {
            ready
        } else {
            if let Some(answers) = self.ctx.queue.all_wait(&self.run, &needing) {
                crew.answers = answers;
                return Ok(None);
            }
            let ready = match self.replan().await? {
                Ok(ready) => self.restore_at_work(&ready.plan).await?.map_or(Ok(ready), Err),
                refused => refused,
            };
            match ready {
                Ok(ready) => ready,
                Err(refusal) => {
                    // Jobs that are there are followed; new ones wait for a Restore, a Secret, or a PodConfig.
                    crew.may_start = false;
                    crew.look_again.after(WAITING_LOOK);
                    self.ctx.queue.forget(&self.run.uid);
                    status::held_up(&mut status.components, &needing, &refusal);
                    return Ok(None);
                }
            }
        };
        let moving = status::moving(&mut status.components, &needing, &ready.plan, self.now);
        if !moving.is_empty() {
            // Nobody tells us of the pod.
            crew.look_again.after(MOVING_LOOK);
        }
        let wanted = |name: &str| needing.contains(&name) && !moving.contains(name);
        crew.ask(self.since(), &ready.demands(wanted));
        Ok(Some(ready))
    }

    /// What it takes to start Jobs after the first look, or why none may be started.
    async fn replan(&self) -> Result<Result<Ready, Refusal>, RunError> {
        let client = &self.ctx.client;
        let namespace = dereference::namespace(client, &self.run.namespace).await?;
        let facts = dereference::facts(client, namespace.clone(), self.ctx.settings.claims_default).await?;
        let nodes = facts.nodes.ready();
        let plan = validate::validate(self.backup, &facts).unwrap_or_else(Plan::refused);
        let Some(repository) = self.recorded_repository().await? else {
            let name = self.backup.status.as_ref().and_then(|status| status.repository_ref.as_ref());
            let name = name.map_or("", |reference| reference.name.as_str());
            let message = format!("Repository {}/{name} is gone; create it again", self.run.namespace);
            return Ok(Err(Refusal { reason: Reason::RepositoryNotFound, message }));
        };
        let access = match RepositoryAccess::read(client, &repository).await {
            Ok(access) => access,
            Err(error) => match Refusal::of_access(&error) {
                Some(refusal) => return Ok(Err(refusal)),
                None => return Err(error.into()),
            },
        };
        if let Some(refusal) = Refusal::of_closed(&access.storage) {
            return Ok(Err(refusal));
        }
        let pod_config = match self.pod_config().await? {
            Ok(pod_config) => pod_config,
            Err(refusal) => return Ok(Err(refusal)),
        };
        Ok(Ok(Ready { plan, access, namespace, pod_config, nodes }))
    }

    /// Each component has ended: the locks of killed runners go, the Snapshot is made, the result is told, and what
    /// is left of the run is removed.
    async fn finish(
        &self,
        mut status: BackupStatus,
        views: Vec<JobView>,
        namespace: &Namespace,
    ) -> Result<Action, RunError> {
        let worthless = overlap::worthless(&status.components);
        let is_over = status.phase.is_some_and(BackupPhase::is_terminal);
        if !locks_left(&views).is_empty() || !(worthless.is_empty() || is_over) {
            status.phase = Some(BackupPhase::Finishing);
            let waits = "waits until what its runners left in the repository is gone: locks, or a snapshot that is worth nothing";
            status.message = Some(waits.to_owned());
            self.write(&mut status).await?;
            let repository = self.recorded_repository().await?;
            match settle(self.ctx, &self.run.namespace, &self.run, repository.as_ref(), &worthless).await? {
                Settled::NotYet { .. } => return Ok(Action::requeue(WAITING_LOOK)),
                Settled::Done { warning: Some(warning) } => {
                    overlap::removed(&mut status.components, false);
                    self.ctx.events.warning(self.backup, Reason::RepositoryLocked, warning).await;
                }
                Settled::Done { warning: None } => overlap::removed(&mut status.components, true),
            }
        }
        if !status.phase.is_some_and(BackupPhase::is_terminal) {
            let snapshot = match apply::snapshot(self.ctx, self.backup, &status).await {
                Ok(snapshot) => snapshot,
                Err(error) if error.namespace_is_terminating() => return Err(error.into()),
                Err(error) => return self.snapshot_refused(status, error).await,
            };
            status.snapshot_ref = snapshot.map(holdfast_api::refs::LocalRef::new);
            let coverage = status.coverage.clone().unwrap_or_default();
            let conclusion = status::conclude(&status.components, &coverage);
            status::concluded(&mut status, &conclusion, self.generation, self.now);
        }
        self.write(&mut status).await?;
        self.tell(&status).await;
        tracing::info!(
            namespace = namespace.name_any(),
            backup = self.run.name,
            phase = status.phase.map(BackupPhase::as_str),
            message = status.message,
            "a Backup ended"
        );
        self.end_of(&status).await
    }

    /// What could be saved is saved, and the Snapshot that shows it cannot be made: that is told, and tried again.
    async fn snapshot_refused(
        &self,
        mut status: BackupStatus,
        error: RequestError,
    ) -> Result<Action, RunError> {
        let was_told = status.phase == Some(BackupPhase::Finishing)
            && find_condition(&status.conditions, ConditionType::Progressing)
                .is_some_and(|condition| condition.status == ConditionStatus::False.as_str());
        // Another text each time would be written, and so wake us, without any pause; a refusal says the same again.
        if !was_told || error.is_refused() {
            let cause = Chain(&error).to_string();
            status::snapshot_refused(&mut status, &cause, self.generation, self.now);
        }
        if !was_told && let Some(message) = &status.message {
            self.ctx.events.warning(self.backup, Reason::Failed, message).await;
        }
        self.told(status, error.into()).await
    }

    /// Writes down what was seen before an error ends the look. Should that fail, the error is the one that counts.
    async fn told(&self, mut status: BackupStatus, error: RunError) -> Result<Action, RunError> {
        if let Err(other) = self.write(&mut status).await {
            tracing::warn!(
                namespace = self.run.namespace,
                backup = self.run.name,
                error = %Chain(&other),
                "what was seen of a Backup could not be written down"
            );
        }
        Err(error)
    }

    /// The clean-up that follows a result at once, so that it need not wait for its own echo.
    async fn end_of(&self, status: &BackupStatus) -> Result<Action, RunError> {
        let name = &self.run.name;
        let Some(fresh) = kubernetes::get::<Backup>(&self.ctx.client, &self.run.namespace, name).await?
        else {
            return Ok(Action::await_change());
        };
        if fresh.uid() != self.backup.uid() || fresh.status.as_ref() != Some(status) {
            // Somebody else is at it; the watch brings us back.
            return Ok(Action::await_change());
        }
        let look = Look {
            run: self.run.clone(),
            generation: self.generation,
            now: self.now,
            backup: &fresh,
            ctx: self.ctx,
        };
        look.end().await
    }

    async fn tell(&self, status: &BackupStatus) {
        let Conclusion { phase, reason, message } = conclusion_of(status);
        match phase {
            BackupPhase::Succeeded | BackupPhase::Skipped => {
                self.ctx.events.normal(self.backup, reason, message).await;
            }
            _ => self.ctx.events.warning(self.backup, reason, message).await,
        }
    }

    /// Writes the status, if it is another one.
    async fn write(&self, status: &mut BackupStatus) -> Result<(), RunError> {
        bound::saving(&mut status.components);
        if self.backup.status.as_ref() != Some(status) {
            kubernetes::apply_status(&self.ctx.client, self.backup, status).await?;
        }
        Ok(())
    }
}

/// What a terminal status says.
fn conclusion_of(status: &BackupStatus) -> Conclusion {
    let completed = find_condition(&status.conditions, ConditionType::Completed);
    let reason = completed
        .and_then(|condition| Reason::ALL.iter().copied().find(|reason| reason.as_str() == condition.reason))
        .unwrap_or(Reason::Failed);
    Conclusion {
        phase: status.phase.unwrap_or(BackupPhase::Failed),
        reason,
        message: status.message.clone().unwrap_or_default(),
    }
}
