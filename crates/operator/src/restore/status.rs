//! What came of planning, quiescing and the Jobs into the status of a Restore. Pure.

use holdfast_api::backup::{ComponentKind, ComponentPhase};
use holdfast_api::conditions::{ConditionType, ConditionUpdate, find_condition, set_condition};
use holdfast_api::refs::{ObjectRef, RunAs};
use holdfast_api::restore::{
    ClaimFate, RestoreComponent, RestorePhase, RestorePlan, RestoreStatus, SnapshotOrigin, UndoState,
    VolumePlan,
};
use holdfast_api::{Reason, Restore, Snapshot};
use holdfast_protocol::verdict::{RestoreResult, UNMATCHED_EXCLUDE, UNMATCHED_INCLUDE};
use holdfast_protocol::{Outcome, TaskResult, Verdict};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::build::wish;
use super::start::is_our_pause;
use super::validate::{Plan, Refusal};
use crate::backup::status::{bytes, count, loss_reason, samples};
use crate::jobs::{End, Ended};
use crate::quiesce::{ReleaseReport, WorkloadId};
use crate::runs::{Fields, waits};
use crate::volumes::identity::advice;

/// A status and what every change of it needs.
pub struct Writer<'a> {
    /// The status.
    pub status: &'a mut RestoreStatus,
    /// Generation of the spec.
    pub generation: Option<i64>,
    /// Now.
    pub now: Timestamp,
}

impl Writer<'_> {
    fn set(&mut self, update: ConditionUpdate) {
        set_condition(&mut self.status.conditions, update, self.generation, self.now);
    }

    /// Another phase, with what happens in it.
    pub fn phase(&mut self, phase: RestorePhase, reason: Reason, message: impl Into<String>) {
        let message = message.into();
        self.status.observed_generation = self.generation;
        self.status.phase = Some(phase);
        self.set(ConditionUpdate::yes(ConditionType::Progressing, reason, &message));
        self.status.message = Some(message);
    }

    /// The Snapshot is chosen, once and for all.
    pub fn chosen(&mut self, own: &str, snapshot: &Snapshot) {
        let namespace = snapshot.namespace().unwrap_or_default();
        self.status.snapshot_ref = Some(ObjectRef::seen_from(own, &namespace, snapshot.name_any()));
        self.status.snapshot_time = Some(snapshot.spec.time.clone());
        self.status.snapshot_origin = Some(SnapshotOrigin {
            cluster: snapshot.spec.cluster.clone(),
            namespace: snapshot.spec.namespace.clone(),
        });
    }

    /// It waits for something before it begins.
    pub fn waiting(&mut self, reason: Reason, message: &str) {
        self.status.observed_generation = self.generation;
        self.status.phase = Some(match reason {
            Reason::Queued => RestorePhase::Queued,
            _ => RestorePhase::Pending,
        });
        self.status.message = Some(message.to_owned());
        waits::tell(&mut self.status.conditions, reason, message, self.generation, self.now);
    }

    /// Nothing goes on at the moment; since when, tells [`blocked_since`].
    pub fn blocked(&mut self, reason: Reason, cause: &str) {
        self.status.message = Some(format!("cannot go on, and tries again: {cause}"));
        self.set(ConditionUpdate::no(ConditionType::Progressing, reason, cause));
    }

    /// The plan is made: from now on the components are fixed.
    ///
    /// Of a dry run, components that need no Job, or can have none, have ended with it.
    pub fn planned(&mut self, plan: &Plan, repository: ObjectRef, dry_run: bool) {
        let status = &mut *self.status;
        status.start_time = Some(Time(self.now));
        status.repository_ref = Some(repository);
        status.compatibility = Some(plan.compatibility());
        status.plan = Some(RestorePlan {
            volumes: plan
                .components
                .iter()
                .map(|planned| {
                    // Into an empty claim everything is made new: no Job has to look.
                    let new = |value: Option<u64>| value.filter(|_| planned.empty);
                    VolumePlan {
                        component: planned.wish.component.clone(),
                        claim: planned.claim.clone(),
                        new_claim: planned.new_claim.clone(),
                        create: new(planned.files),
                        bytes_to_write: new(planned.size),
                        bytes_required: new(planned.size),
                        consumers: planned.consumers.clone(),
                        warnings: planned.warnings.iter().chain(&planned.limits).cloned().collect(),
                        ..VolumePlan::default()
                    }
                })
                .collect(),
            warnings: plan.warnings.clone(),
        });
        status.components = plan
            .components
            .iter()
            .map(|planned| RestoreComponent {
                name: planned.wish.component.clone(),
                kind: ComponentKind::Volume,
                claim: Some(planned.claim.clone()),
                new_claim: planned.new_claim.as_ref().map(|_| ClaimFate::Planned),
                node: planned.node.clone(),
                run_as: Some(planned.identity.clone()),
                snapshot_id: Some(planned.snapshot_id.clone()),
                phase: if dry_run && (planned.empty || planned.out_of_sight) {
                    ComponentPhase::Succeeded
                } else {
                    ComponentPhase::Pending
                },
                ..RestoreComponent::default()
            })
            .collect();
    }

    /// Workloads are held at zero from now on, until [`Self::released`].
    pub fn holding(&mut self, workloads: &[String]) {
        let message = format!("held at 0 replicas: {}", workloads.join(", "));
        self.set(ConditionUpdate::no(ConditionType::QuiesceReverted, Reason::Quiescing, message));
    }

    /// Some workloads were let go, and others could not be: it is tried again.
    pub fn not_released(&mut self, report: &ReleaseReport) {
        let text = format!("not scaled back yet, and tried again: {}", report.refusals());
        self.set(ConditionUpdate::no(ConditionType::QuiesceReverted, Reason::Unquiescing, &text));
        self.status.message = Some(text);
    }

    /// Every workload was let go.
    pub fn released(&mut self, report: &ReleaseReport) {
        let consumers =
            self.status.plan.iter().flat_map(|plan| plan.volumes.iter().flat_map(|v| &v.consumers)).count();
        let list = |ids: &[WorkloadId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let mut parts = Vec::new();
        if !report.restored.is_empty() {
            let back: Vec<String> =
                report.restored.iter().map(|(id, replicas)| format!("{id} to {replicas}")).collect();
            parts.push(format!("scaled back: {}", back.join(", ")));
        }
        if !report.left.is_empty() {
            parts.push(format!("changed by somebody else and left at that: {}", list(&report.left)));
        }
        if !report.shared.is_empty() {
            parts.push(format!("still held by another run: {}", list(&report.shared)));
        }
        let unreadable = unreadable_consumers(self.status, report);
        if !unreadable.is_empty() {
            let text = format!(
                "{} cannot be scaled back, because the annotation {} was changed: set the replicas by hand and remove \
                 the annotation",
                unreadable.join(", "),
                holdfast_api::names::ANNOTATION_QUIESCE
            );
            self.set(ConditionUpdate::no(ConditionType::QuiesceReverted, Reason::QuiesceFailed, text));
            return;
        }
        let held = find_condition(&self.status.conditions, ConditionType::QuiesceReverted).is_some();
        let update = if parts.is_empty() && held {
            // Let go before, by a look that ended before it could be written down.
            let text = "every workload is back at the count it had";
            ConditionUpdate::yes(ConditionType::QuiesceReverted, Reason::Reverted, text)
        } else if consumers == 0 && parts.is_empty() {
            let text = "no workload uses the claims";
            ConditionUpdate::yes(ConditionType::QuiesceReverted, Reason::NothingToQuiesce, text)
        } else if parts.is_empty() {
            let text = "no workload was scaled";
            ConditionUpdate::yes(ConditionType::QuiesceReverted, Reason::NothingToQuiesce, text)
        } else {
            ConditionUpdate::yes(ConditionType::QuiesceReverted, Reason::Reverted, parts.join("; "))
        };
        self.set(update);
    }

    /// Somebody used the claims while they were written: of what ended in this look, and was not over in `before`,
    /// nobody can say that it is whole.
    pub fn contested(&mut self, before: &[RestoreComponent], message: &str) {
        let was_over = |name: &str| before.iter().any(|c| c.name == name && c.phase.is_terminal());
        let ended = self.status.components.iter_mut().filter(|c| !was_over(&c.name));
        for component in ended.filter(|component| component.phase == ComponentPhase::Succeeded) {
            component.phase = ComponentPhase::PartiallyFailed;
            component.reason = Some(Reason::QuiesceContested.as_str().to_owned());
            component.message = Some(message.to_owned());
        }
    }

    /// Every component that has not ended fails for the same reason.
    pub fn fail_rest(&mut self, reason: Reason, message: &str) {
        let now = self.now;
        if let Some(undo) = &mut self.status.undo
            && matches!(undo.state, UndoState::Planned | UndoState::Saving)
        {
            undo.state = UndoState::Failed;
            undo.message = Some("the run ended before all was saved, and nothing was overwritten".to_owned());
            for component in undo.components.iter_mut().filter(|c| !c.phase.is_terminal()) {
                component.common().fail(reason.as_str(), "the run ended before it was saved", now);
            }
        }
        for component in self.status.components.iter_mut().filter(|component| !component.phase.is_terminal())
        {
            component.common().fail(reason.as_str(), message, now);
        }
    }

    /// The run has to end before anything was touched.
    pub fn refused(&mut self, refusal: &Refusal) {
        self.status.start_time.get_or_insert(Time(self.now));
        if !refusal.compatibility.errors.is_empty() {
            self.status.compatibility = Some(refusal.compatibility.clone());
        }
        self.concluded(&Conclusion {
            phase: RestorePhase::Failed,
            reason: refusal.reason.as_str().to_owned(),
            message: refusal.message.clone(),
        });
    }

    /// The run is over.
    pub fn concluded(&mut self, conclusion: &Conclusion) {
        let Conclusion { phase, reason, message } = conclusion;
        self.status.observed_generation = self.generation;
        self.status.phase = Some(*phase);
        self.status.completion_time = Some(Time(self.now));
        self.status.message = Some(message.clone());
        let known = known_reason(reason);
        self.set(ConditionUpdate::no(ConditionType::Progressing, known, "the run is over"));
        self.set(match phase {
            RestorePhase::Succeeded | RestorePhase::Planned => {
                ConditionUpdate::yes(ConditionType::Completed, known, message)
            }
            _ => ConditionUpdate::no(ConditionType::Completed, known, message),
        });
    }
}

/// The workloads of the plan whose record cannot be read any more. Others of the namespace are not this run's.
pub fn unreadable_consumers(status: &RestoreStatus, report: &ReleaseReport) -> Vec<String> {
    of_consumers(status, &report.unreadable)
}

/// Those that used the claims.
pub fn of_consumers(status: &RestoreStatus, workloads: &[WorkloadId]) -> Vec<String> {
    let volumes = status.plan.as_ref().map(|plan| plan.volumes.as_slice()).unwrap_or_default();
    let ours = |name: &String| volumes.iter().any(|volume| volume.consumers.contains(name));
    workloads.iter().map(ToString::to_string).filter(ours).collect()
}

/// Since when a run that has begun could not go on.
pub fn blocked_since(status: &RestoreStatus) -> Option<Timestamp> {
    find_condition(&status.conditions, ConditionType::Progressing)
        .filter(|condition| condition.status == "False")
        .map(|condition| condition.last_transition_time.0)
}

/// What the components that have not ended wait for.
pub fn waits(status: &RestoreStatus) -> Option<(Reason, String)> {
    let open = status.components.iter().filter(|component| !component.phase.is_terminal());
    first_wait(open.map(|component| (component.name.as_str(), &component.reason, &component.message)))
}

/// Of these components (name, reason, message) the first that waits for nothing that is in the way, if there is one: what the
/// others wait for must not be the end of it. Else the first.
pub fn first_wait<'c>(
    open: impl Iterator<Item = (&'c str, &'c Option<String>, &'c Option<String>)>,
) -> Option<(Reason, String)> {
    let waits = open.map(|(name, reason, message)| {
        let reason = reason.as_deref().map_or(Reason::Failed, known_reason);
        let what = message.as_deref().unwrap_or("its Job is not started yet");
        (reason, format!("{name}: {what}"))
    });
    let mut waits: Vec<_> = waits.collect();
    let place = waits.iter().position(|(reason, _)| is_our_pause(*reason)).unwrap_or(0);
    (place < waits.len()).then(|| waits.swap_remove(place))
}

/// Fails every component whose claim was deleted meanwhile, also one that was restored before: its data is not there. Their
/// names.
pub fn deleted(
    components: &mut [RestoreComponent],
    claims: &[PersistentVolumeClaim],
    now: Timestamp,
) -> Vec<String> {
    let is_there = |name: &str| {
        claims.iter().any(|claim| claim.name_any() == name && claim.metadata.deletion_timestamp.is_none())
    };
    let lost = |component: &&mut RestoreComponent| {
        component.phase != ComponentPhase::Failed
            && component.claim.as_deref().is_some_and(|claim| !is_there(claim))
    };
    let mut names = Vec::new();
    for component in components.iter_mut().filter(lost) {
        let claim = component.claim.clone().unwrap_or_default();
        let message = format!(
            "the claim {claim} was deleted while the restore was at work, and what was restored goes with it: make it \
             anew, then make another Restore"
        );
        component.common().fail(Reason::TargetNotFound.as_str(), message, now);
        component.verified = None;
        names.push(component.name.clone());
    }
    names
}

/// A component's reason as a reason of the run.
pub fn known_reason(text: &str) -> Reason {
    Reason::ALL.iter().copied().find(|reason| reason.as_str() == text).unwrap_or(Reason::ComponentsFailed)
}

/// What has to be so for a component to be Succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// Every file was read back and compared.
    pub verify: bool,
    /// Every file belongs to whom it belonged.
    pub owners: bool,
}

impl Proof {
    /// What a Restore asks for. Who wants the workload's user to write, and gets it, wants files to belong to that user:
    /// under the strictest Pod Security there is no other way, and everything that the workload wrote is as it was.
    pub fn of(restore: &Restore, component: &RestoreComponent) -> Self {
        let as_workload = restore.spec.run_as == RunAs::Workload
            && component.run_as.as_ref().is_some_and(|identity| identity.mode == Some(RunAs::Workload));
        Self { verify: wish(restore, &component.name).verify, owners: !as_workload }
    }
}

/// What the end of a Job means for its component, and for the plan of its volume.
pub fn ended(component: &mut RestoreComponent, plan: Option<&mut RestorePlan>, ended: &Ended, proof: Proof) {
    match &ended.end {
        End::Lost { loss, message } => {
            component.phase = ComponentPhase::Failed;
            component.reason = Some(loss_reason(*loss).as_str().to_owned());
            component.message = Some(message.clone());
        }
        End::Verdict(verdict) => judged(component, plan, verdict, proof),
    }
}

fn judged(component: &mut RestoreComponent, plan: Option<&mut RestorePlan>, verdict: &Verdict, proof: Proof) {
    component.reason.clone_from(&verdict.reason);
    component.message.clone_from(&verdict.message);
    component.phase = match verdict.outcome {
        Outcome::Succeeded => ComponentPhase::Succeeded,
        Outcome::Partial => ComponentPhase::PartiallyFailed,
        Outcome::Failed => ComponentPhase::Failed,
    };
    let mut fail = |reason: Reason, message: &str| {
        component.phase = ComponentPhase::Failed;
        component.reason = Some(reason.as_str().to_owned());
        component.message = Some(message.to_owned());
    };
    let Some(TaskResult::RestoreVolume(result)) = &verdict.result else {
        if verdict.outcome != Outcome::Failed {
            fail(Reason::Failed, "the runner ended well but told nothing of what it restored");
        }
        return;
    };
    // Success is proved, not assumed.
    if proof.verify && !result.verified && verdict.outcome == Outcome::Succeeded {
        fail(
            Reason::VerificationFailed,
            "the restored files were not read back and compared, although that was asked",
        );
    }
    counted(component, result);
    if let Some(volume) =
        plan.and_then(|plan| plan.volumes.iter_mut().find(|volume| volume.component == component.name))
    {
        planned(volume, result);
        // A plan that meets what is in the way has not failed, but says so.
        let told = is_unmatched(verdict.reason.as_deref()) || result.failures > 0;
        if let Some(message) =
            verdict.message.as_ref().filter(|_| told).filter(|message| !volume.warnings.contains(message))
        {
            volume.warnings.push(message.clone());
        }
    }
    if component.phase == ComponentPhase::PartiallyFailed
        && result.failures == 0
        && result.metadata_failures > 0
    {
        component.reason = Some(Reason::MetadataNotRestored.as_str().to_owned());
        component.message = Some(format!(
            "all content is back, but owners, modes, times or attributes of {} could not be set: {}",
            count(usize::try_from(result.metadata_failures).unwrap_or(usize::MAX), "file"),
            advice(component.run_as.as_ref())
        ));
    }
    if component.phase == ComponentPhase::Succeeded && result.owners_kept > 0 {
        let uid = component.run_as.as_ref().map_or(0, |identity| identity.uid);
        let kept = format!("{} of other users belong to uid {uid} now", entries(result.owners_kept));
        let unmatched = component.message.take().filter(|_| is_unmatched(component.reason.as_deref()));
        let unmatched = unmatched.map(|told| format!("; {told}")).unwrap_or_default();
        if proof.owners {
            component.phase = ComponentPhase::PartiallyFailed;
            component.reason = Some(Reason::OwnersNotRestored.as_str().to_owned());
            component.message = Some(format!(
                "all content is back, but {kept}: {}. Where that is as it should be, runAs: Workload says so while a \
                 workload uses the claim{unmatched}",
                advice(component.run_as.as_ref())
            ));
        } else {
            component.message = Some(format!("{kept}, as runAs: Workload has it{unmatched}"));
        }
    }
}

fn is_unmatched(reason: Option<&str>) -> bool {
    matches!(reason, Some(UNMATCHED_EXCLUDE | UNMATCHED_INCLUDE))
}

fn entries(number: u64) -> String {
    if number == 1 { "1 entry".to_owned() } else { format!("{number} entries") }
}

fn counted(component: &mut RestoreComponent, result: &RestoreResult) {
    component.files_restored = Some(result.files_restored);
    component.files_unchanged = Some(result.unchanged);
    component.files_deleted = Some(result.delete);
    component.bytes_written = Some(result.bytes_written);
    component.verified = Some(result.verified);
    component.failures = Some(result.failures);
    component.metadata_failures = Some(result.metadata_failures);
    component.owners_not_restored = Some(result.owners_kept);
    let rows = samples(&result.failure_sample);
    // The verdict has one sample for all; it is shown where there is something to explain.
    if result.failures > 0 {
        component.failures_sample = rows;
    } else {
        component.metadata_failures_sample = rows;
    }
}

fn planned(volume: &mut VolumePlan, result: &RestoreResult) {
    volume.create = Some(result.create);
    volume.change = Some(result.change);
    volume.replace = Some(result.replace);
    volume.delete = Some(result.delete);
    volume.unchanged = Some(result.unchanged);
    volume.bytes_to_write = Some(result.bytes_to_write);
    volume.bytes_required = Some(result.bytes_required);
}

/// What the end of a Job that only looked means.
pub fn looked(component: &mut RestoreComponent, plan: Option<&mut RestorePlan>, ended: &Ended) {
    self::ended(component, plan, ended, Proof { verify: false, owners: false });
    // Nothing was done, so nothing of it is told but the plan.
    component.files_restored = None;
    component.files_unchanged = None;
    component.files_deleted = None;
    component.bytes_written = None;
    component.verified = None;
    component.failures = None;
    component.metadata_failures = None;
    component.owners_not_restored = None;
}

/// What a run ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conclusion {
    /// The phase.
    pub phase: RestorePhase,
    /// Why, as one word.
    pub reason: String,
    /// In a sentence, with what to do.
    pub message: String,
}

/// What a run comes to, once each component has ended.
pub fn conclude(restore: &Restore, status: &RestoreStatus) -> Conclusion {
    let components = &status.components;
    let with = |phase| components.iter().filter(move |component| component.phase == phase);
    let done = components.len() - with(ComponentPhase::Failed).count();
    let failed: Vec<String> = with(ComponentPhase::Failed)
        .map(|c| format!("{} ({})", c.name, c.reason.as_deref().unwrap_or("Failed")))
        .take(5)
        .collect();
    let partial: Vec<&str> = with(ComponentPhase::PartiallyFailed).map(|c| c.name.as_str()).take(5).collect();
    let mut parts = Vec::new();
    if restore.spec.dry_run && failed.is_empty() {
        let message = planned_summary(status);
        return Conclusion {
            phase: RestorePhase::Planned,
            reason: Reason::Planned.as_str().to_owned(),
            message,
        };
    }
    if done > 0 && !restore.spec.dry_run {
        parts.push(summary(components, done));
    }
    let wrote = components.iter().any(|component| component.bytes_written.is_some());
    if let Some(reference) = status.undo_snapshot_ref.as_ref().filter(|_| done > 0 || wrote) {
        parts.push(format!("what was there before is in Snapshot {}", reference.name));
    }
    if !partial.is_empty() {
        parts.push(format!("not everything is back in: {}", partial.join(", ")));
    }
    if !failed.is_empty() {
        parts.push(format!("failed: {}", failed.join(", ")));
    }
    let worst = with(ComponentPhase::Failed).chain(with(ComponentPhase::PartiallyFailed)).next();
    // Whose the files of a component are now, and that a pattern matched nothing, is told when nothing is worse.
    let remarked: Vec<&RestoreComponent> = components
        .iter()
        .filter(|component| {
            component.owners_not_restored.is_some_and(|n| n > 0) || is_unmatched(component.reason.as_deref())
        })
        .collect();
    let told = worst.or(remarked.first().copied());
    parts.extend(told.and_then(|component| component.message.clone()));
    let others: Vec<&str> = remarked
        .iter()
        .map(|component| component.name.as_str())
        .filter(|name| told.is_none_or(|told| told.name != *name))
        .collect();
    if !others.is_empty() {
        let more = if others.len() > 5 { ", …" } else { "" };
        let first: Vec<&str> = others.into_iter().take(5).collect();
        parts.push(format!("status.components says more of {}{more}", first.join(", ")));
    }
    let reason = worst.and_then(|component| component.reason.clone());
    let (phase, reason) = match (done, worst) {
        // An empty run is never a success.
        (0, None) => (RestorePhase::Failed, Reason::NothingSelected.as_str().to_owned()),
        (0, Some(_)) => (RestorePhase::Failed, reason.unwrap_or_else(|| Reason::Failed.as_str().to_owned())),
        (_, Some(_)) if restore.spec.dry_run => {
            (RestorePhase::Failed, reason.unwrap_or_else(|| Reason::Failed.as_str().to_owned()))
        }
        (_, Some(_)) => (
            RestorePhase::PartiallyFailed,
            reason.unwrap_or_else(|| Reason::PartiallyFailed.as_str().to_owned()),
        ),
        (_, None) => (RestorePhase::Succeeded, Reason::Succeeded.as_str().to_owned()),
    };
    // The data is back, but an application that stays down is no success.
    let stays_down = find_condition(&status.conditions, ConditionType::QuiesceReverted)
        .filter(|condition| condition.reason == Reason::QuiesceFailed.as_str());
    parts.extend(stays_down.map(|condition| condition.message.clone()));
    let (phase, reason) = match (phase, stays_down) {
        (RestorePhase::Succeeded, Some(condition)) => {
            (RestorePhase::PartiallyFailed, condition.reason.clone())
        }
        unchanged => (unchanged.0, reason),
    };
    if done > 0 && !restore.spec.dry_run {
        parts.extend(warned(status));
    }
    Conclusion { phase, reason, message: parts.join("; ") }
}

/// What was warned of before, such as another storage class: nobody is told that all is well without it.
fn warned(status: &RestoreStatus) -> Option<String> {
    let all = status.compatibility.as_ref().map(|compatibility| compatibility.warnings.as_slice())?;
    let first = all.first()?;
    Some(match all.len() {
        1 => format!("but: {first}"),
        n => format!("but: {first}; {} more in status.compatibility.warnings", n.saturating_sub(1)),
    })
}

fn summary(components: &[RestoreComponent], done: usize) -> String {
    let sum = |field: fn(&RestoreComponent) -> Option<u64>| {
        components.iter().filter_map(field).fold(0, u64::saturating_add)
    };
    let of = if done == components.len() { String::new() } else { format!(" of {}", components.len()) };
    let verified =
        components.iter().filter(|c| c.phase != ComponentPhase::Failed).all(|c| c.verified == Some(true));
    format!(
        "restored {}{of}: {} files and {} written, {} already as they should be{}",
        count(done, "volume"),
        sum(|c| c.files_restored),
        bytes(sum(|c| c.bytes_written)),
        sum(|c| c.files_unchanged),
        if verified { ", verified" } else { "" }
    )
}

fn planned_summary(status: &RestoreStatus) -> String {
    let volumes = status.plan.as_ref().map(|plan| plan.volumes.as_slice()).unwrap_or_default();
    let sum =
        |field: fn(&VolumePlan) -> Option<u64>| volumes.iter().filter_map(field).fold(0, u64::saturating_add);
    let text = format!(
        "would create {}, change {}, replace {} and delete {} entries in {} and write {}",
        sum(|v| v.create),
        sum(|v| v.change),
        sum(|v| v.replace),
        sum(|v| v.delete),
        count(volumes.len(), "volume"),
        bytes(sum(|v| v.bytes_to_write))
    );
    let consumers: Vec<&str> =
        volumes.iter().flat_map(|volume| volume.consumers.iter().map(String::as_str)).collect();
    let mut parts = vec![text];
    if !consumers.is_empty() {
        parts.push(format!("meanwhile scaled to 0: {}", consumers.join(", ")));
    }
    let undo = status.undo.as_ref().filter(|undo| undo.state != UndoState::Off);
    parts.extend(undo.and_then(|undo| undo.message.clone()));
    parts.join("; ")
}

/// Why a Restore has to wait for others of its namespace: two never write to one claim at a time. The older goes
/// first; one that has not been planned yet may want any claim.
pub fn in_the_way<'a>(restore: &Restore, claims: &[String], others: &'a [Restore]) -> Option<&'a Restore> {
    let age = |restore: &Restore| (restore.creation_timestamp().map(|time| time.0), restore.uid());
    others.iter().find(|other| {
        let status = other.status.as_ref();
        let over = status.and_then(|s| s.phase).is_some_and(|phase| phase.is_terminal(other.spec.dry_run));
        if over || other.spec.dry_run {
            return false;
        }
        match status.filter(|status| !status.components.is_empty()) {
            Some(status) => {
                status.components.iter().filter_map(|c| c.claim.as_ref()).any(|claim| claims.contains(claim))
            }
            None => age(other) < age(restore) && other.metadata.deletion_timestamp.is_none(),
        }
    })
}

/// What a Restore says that waits for another one. That one may itself wait, for something that nobody brings.
pub fn why_it_waits(other: &Restore) -> String {
    let name = other.name_any();
    let status = other.status.as_ref();
    if status.is_some_and(|status| !status.components.is_empty()) {
        return format!("waits for Restore {name}, which writes to the same claims");
    }
    // A place in line changes all the time, and one that waits for another Restore would quote that one's quote.
    let quotable = status.filter(|status| status.phase == Some(RestorePhase::Pending));
    let message = quotable.and_then(|status| status.message.as_deref());
    let message = message.filter(|message| !message.is_empty() && !message.starts_with("waits for Restore "));
    let says = message.map(|message| format!(" ({message})")).unwrap_or_default();
    format!(
        "waits for Restore {name}, which is older and has not begun{says}: it may want the same claims; delete it if it is not \
         wanted"
    )
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
