//! What a Restore does, and whether it can be done at all, before anything is touched: spec and facts into one
//! plan. Pure.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use holdfast_api::refs::Identity;
use holdfast_api::restore::{
    ClaimPlan, Compatibility, MissingClaims, NewClaim, Quiesce, Restore, RestoreTo, RestoreVolume,
};
use holdfast_api::snapshot::SnapshotComponent;
use holdfast_api::{Reason, Snapshot, names};
use holdfast_pattern::Pattern;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{StorageClass, VolumeAttachment};
use kube::ResourceExt;

use super::build::wish;
use super::{claims, source};
use crate::backup::status::{bytes, count, unread};
use crate::backup::validate::root_allowed;
use crate::jobs::{RunKind, RunRef};
use crate::quiesce;
use crate::quiesce::apply::explain;
use crate::quiesce::decide::{Hold, hold};
use crate::quiesce::{Inventory, WorkloadId};
use crate::volumes::claim::quantity_bytes;
use crate::volumes::identity::{Access, choose_identity, for_fresh_volume};
use crate::volumes::{Binding, ClaimView, NodeStates, Surroundings, active_pods, node_name, place};

/// Most errors and warnings that a status lists.
const MOST: usize = 64;

/// What the plan is made from, read together.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The Restore's namespace.
    pub namespace: Namespace,
    /// All claims of the namespace.
    pub claims: Vec<PersistentVolumeClaim>,
    /// The storage classes.
    pub classes: Vec<StorageClass>,
    /// Pods and workloads of the namespace.
    pub inventory: Inventory,
    /// The nodes.
    pub nodes: NodeStates,
    /// Which volumes are attached where.
    pub attachments: Vec<VolumeAttachment>,
    /// The volumes of the cluster.
    pub volumes: Vec<PersistentVolume>,
    /// Why the Snapshot's Repository may hold a newer state than its Snapshots show.
    pub newer_ones: Vec<String>,
    /// By claim: the node that a Job of this Restore runs or ran on, or has to.
    pub nodes_taken: BTreeMap<String, String>,
}

impl Facts {
    /// What says where a claim can be mounted.
    pub(crate) fn around(&self) -> Surroundings<'_> {
        Surroundings {
            attachments: &self.attachments,
            volumes: &self.volumes,
            claims: &self.claims,
            nodes: &self.nodes,
        }
    }
}

/// What a Restore does.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What is restored, in the order of the Snapshot.
    pub components: Vec<PlannedComponent>,
    /// What has to be scaled to 0 meanwhile.
    pub workloads: BTreeSet<WorkloadId>,
    /// What is different, but can be done.
    pub warnings: Vec<String>,
}

/// One component and where it goes.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedComponent {
    /// Where it goes and which files of it, as asked for or by default.
    pub wish: RestoreVolume,
    /// The target claim.
    pub claim: String,
    /// How the claim is made, when it is not there.
    pub new_claim: Option<ClaimPlan>,
    /// restic snapshot that holds it.
    pub snapshot_id: String,
    /// Bytes of all its files.
    pub size: Option<u64>,
    /// Number of its files.
    pub files: Option<u64>,
    /// Who the runner is.
    pub identity: Identity,
    /// The workloads that use the claim.
    pub consumers: Vec<String>,
    /// What is different, but can be done.
    pub warnings: Vec<String>,
    /// What the runner may not be able to do. Told in the plan only: at the end it is known what came of it.
    pub limits: Option<String>,
    /// The claim has no volume yet, and gets one when the runner is placed: there is nothing to compare with.
    pub empty: bool,
    /// No second pod can mount the claim at present: a dry run cannot look at it.
    pub out_of_sight: bool,
    /// The node that all its Jobs have to run on, where the volume is the directory of whatever node they run on.
    pub node: Option<String>,
}

/// Why nothing is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// In one word: of the first error.
    pub reason: Reason,
    /// Cause and what to do.
    pub message: String,
    /// All errors.
    pub compatibility: Compatibility,
    may_pass: bool,
}

impl Refusal {
    /// For a single reason that is not about what fits where.
    pub fn plain(reason: Reason, message: String) -> Self {
        Self { reason, message, compatibility: Compatibility::default(), may_pass: false }
    }

    /// Whether it may pass without anybody changing anything.
    pub const fn may_pass(&self) -> bool {
        self.may_pass
    }
}

/// Collects what speaks against a restore.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) errors: Vec<(Reason, String)>,
    /// How many of the errors may pass by themselves.
    passing: usize,
    warnings: Vec<String>,
}

impl Findings {
    pub(super) fn error(&mut self, reason: Reason, message: impl Into<String>) {
        self.errors.push((reason, message.into()));
    }
}

/// Makes the plan. `beside` are the other Snapshots where the chosen one is, as far as a component that is damaged
/// or holds no files makes them matter.
pub fn validate(
    restore: &Restore,
    snapshot: &Snapshot,
    beside: &[Snapshot],
    facts: &Facts,
) -> Result<Plan, Refusal> {
    let mut findings = Findings::default();
    let selected = select(restore, snapshot, &mut findings);
    refuse_damaged(snapshot, beside, &selected, &mut findings);
    check_emptied(snapshot, beside, &selected, &mut findings);
    check_gaps(snapshot, &selected, &mut findings);
    check_newer_ones(restore, facts, &mut findings);
    check_left_out(restore, snapshot, beside, &mut findings);
    let mut components = Vec::new();
    let mut workloads = BTreeSet::new();
    let mut targets = BTreeSet::new();
    let elsewhere = snapshot.spec.namespace != facts.namespace.name_any();
    for (component, wish) in selected {
        refuse_malformed(&wish, &mut findings);
        let wish = with_missing_claim(restore, facts, wish);
        let existing = wish.to.existing_claim.as_ref().map(|claim| claim.name.clone());
        let new = wish.to.new_claim.as_ref().map(|claim| claim.name.clone());
        let Some(claim) = existing.or(new) else {
            findings.error(
                Reason::InvalidSpec,
                format!("{}: spec.volumes names no claim for it", wish.component),
            );
            continue;
        };
        if !targets.insert(claim.clone()) {
            let text = format!("two components are to be restored to the claim {claim}; give each its own");
            findings.error(Reason::Incompatible, text);
            continue;
        }
        if let Some(mut planned) =
            plan_component(restore, facts, component, wish, claim, &mut workloads, &mut findings)
        {
            // There a label may say that it belongs to an application which does not know it: a GitOps controller that
            // tells its own by labels deletes what it does not know.
            if let Some(new) = planned.new_claim.as_mut().filter(|_| elsewhere) {
                new.labels.clear();
            }
            components.push(planned);
        }
    }
    check_workloads(restore, facts, &workloads, &mut findings);
    let all_warnings: Vec<String> = findings
        .warnings
        .iter()
        .cloned()
        .chain(components.iter().flat_map(|component| component.warnings.iter().cloned()))
        .take(MOST)
        .collect();
    if findings.errors.is_empty() {
        findings.warnings.truncate(MOST);
        return Ok(Plan { components, workloads, warnings: findings.warnings });
    }
    let reason = findings.errors.first().map_or(Reason::Incompatible, |(reason, _)| *reason);
    let may_pass = findings.passing == findings.errors.len();
    let errors: Vec<String> = findings.errors.into_iter().map(|(_, text)| text).take(MOST).collect();
    Err(Refusal {
        reason,
        message: errors.join("; "),
        compatibility: Compatibility { compatible: false, errors, warnings: all_warnings },
        may_pass,
    })
}

impl Plan {
    /// The verdict on a plan that can be carried out.
    pub fn compatibility(&self) -> Compatibility {
        let warnings = self
            .warnings
            .iter()
            .chain(self.components.iter().flat_map(|component| &component.warnings))
            .take(MOST)
            .cloned()
            .collect();
        Compatibility { compatible: true, errors: Vec::new(), warnings }
    }
}

/// The components that are meant, each with where it goes.
fn select<'a>(
    restore: &Restore,
    snapshot: &'a Snapshot,
    findings: &mut Findings,
) -> Vec<(&'a SnapshotComponent, RestoreVolume)> {
    let present = snapshot.status.as_ref().map(|status| status.components.as_slice()).unwrap_or_default();
    let known = |name: &str| present.iter().any(|component| component.name == name);
    let listed = || present.iter().map(|component| component.name.as_str()).collect::<Vec<_>>().join(", ");
    let entries = restore.spec.volumes.iter().map(|volume| &volume.component);
    for name in restore.spec.components.iter().chain(entries).collect::<BTreeSet<_>>() {
        if !known(name) {
            let text = format!("the Snapshot has no component {name}; it has: {}", listed());
            findings.error(Reason::ComponentNotFound, text);
        }
    }
    let wanted = source::components(restore, snapshot);
    for name in &wanted {
        if !known(name) && !restore.spec.components.contains(name) {
            let text = format!("the Snapshot has no component {name}; it has: {}", listed());
            findings.error(Reason::ComponentNotFound, text);
        }
    }
    for volume in restore.spec.volumes.iter().filter(|_| !wanted.is_empty()) {
        if !wanted.contains(&volume.component) {
            let text = format!(
                "spec.volumes has an entry for {}, and only {} is restored: name both in spec.components",
                volume.component,
                wanted.join(", ")
            );
            findings.error(Reason::InvalidSpec, text);
        }
    }
    let selected: Vec<_> = present
        .iter()
        .filter(|component| wanted.is_empty() || wanted.contains(&component.name))
        .map(|component| (component, wish(restore, &component.name)))
        .collect();
    if selected.is_empty() && findings.errors.is_empty() {
        findings.error(
            Reason::NothingSelected,
            "the Snapshot holds no component, so there is nothing to restore",
        );
    }
    selected
}

/// Where a Snapshot is chosen by its time, one that is damaged or not there may be the one that is meant.
fn check_newer_ones(restore: &Restore, facts: &Facts, findings: &mut Findings) {
    let by_time = source::wanted(&restore.spec.from).is_some_and(|wanted| wanted.id.is_none());
    if by_time {
        findings.warnings.extend(facts.newer_ones.iter().cloned());
    }
}

/// Components that cannot be read any more: said before anything is stopped or saved for them.
fn refuse_damaged(
    snapshot: &Snapshot,
    beside: &[Snapshot],
    selected: &[(&SnapshotComponent, RestoreVolume)],
    findings: &mut Findings,
) {
    for (component, _) in selected.iter().filter(|(component, _)| component.damaged) {
        let older = match source::readable_before(snapshot, &component.name, beside) {
            Some(older) => format!(
                "the newest one before it that can is Snapshot {} of {}: to have that, make another Restore that names it \
                 in spec.from.snapshotRef",
                older.name_any(),
                older.spec.time.0
            ),
            None => "there is none before it that can".to_owned(),
        };
        findings.error(
            Reason::SnapshotDamaged,
            format!(
                "{} of Snapshot {} of {} cannot be read any more: its restic snapshot {} is damaged; {older}",
                component.name,
                snapshot.name_any(),
                snapshot.spec.time.0,
                component.snapshot_id.get(..8).unwrap_or(&component.snapshot_id),
            ),
        );
    }
}

/// Components that hold no files and once did: their volume may have been lost and made anew before this was saved. It is
/// the first warning, for what is restored then is nothing.
fn check_emptied(
    snapshot: &Snapshot,
    beside: &[Snapshot],
    selected: &[(&SnapshotComponent, RestoreVolume)],
    findings: &mut Findings,
) {
    for (component, wish) in selected.iter().filter(|(component, _)| component.files == Some(0)) {
        let Some((older, files)) = source::with_files(snapshot, &component.name, beside) else { continue };
        let of = component.source.claim.as_ref().unwrap_or(&component.name);
        let extra = if wish.delete_extra { "; deleteExtra deletes all that is on the claim" } else { "" };
        findings.warnings.push(format!(
            "no files of claim {of} were saved in this, and Snapshot {} of {} has {} of it: to have them, make \
             another Restore that names it in spec.from.snapshotRef{extra}",
            older.name_any(),
            older.spec.time.0,
            count(usize::try_from(files).unwrap_or(usize::MAX), "file"),
        ));
    }
}

/// Most volumes that one warning lists.
const LISTED: usize = 5;

/// Volumes that this Snapshot does not have at all and earlier ones do, where everything is to come back.
fn check_left_out(restore: &Restore, snapshot: &Snapshot, beside: &[Snapshot], findings: &mut Findings) {
    if !source::takes_all(restore, snapshot) {
        return;
    }
    let found = source::only_before(snapshot, beside);
    if found.is_empty() {
        return;
    }
    let listed: Vec<String> = found
        .iter()
        .take(LISTED)
        .map(|(component, older)| {
            let of = names::claim_of_component(component).unwrap_or(component);
            format!("{of} (Snapshot {} of {})", older.name_any(), older.spec.time.0)
        })
        .collect();
    let more = found.len().saturating_sub(LISTED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    findings.warnings.push(format!(
        "this Snapshot does not hold all volumes that earlier ones do: {}{more}; to have them too, make another Restore that \
         names that Snapshot and the component",
        listed.join(", ")
    ));
}

/// What the Snapshot lacks of what was there. These come before all other warnings, for the message at the end of a
/// Restore tells the first one.
fn check_gaps(
    snapshot: &Snapshot,
    selected: &[(&SnapshotComponent, RestoreVolume)],
    findings: &mut Findings,
) {
    for (component, wish) in selected {
        let files = component.unreadable.unwrap_or_default();
        if files == 0 {
            continue;
        }
        let of = component.source.claim.as_ref().unwrap_or(&component.name);
        let verb = if files == 1 { "is" } else { "are" };
        let extra =
            if wish.delete_extra { "; deleteExtra deletes what there is of them on the claim" } else { "" };
        findings.warnings.push(format!(
            "{} of claim {of} could not be read when this was saved, and {verb} not in it{extra}",
            unread(files)
        ));
    }
    // A Snapshot of an earlier version does not say of what it lacks something: then it lacks components.
    let status = snapshot.status.as_ref();
    if status.is_some_and(|status| status.complete == Some(false) && status.missing != Some(0)) {
        let more = if snapshot.spec.undo_of.is_some() {
            "it lacks claims of its Restore, which held no files or could not be saved"
        } else {
            "its Backup had more components"
        };
        findings.warnings.push(format!("the Snapshot is not complete: {more}"));
    }
}

fn plan_component(
    restore: &Restore,
    facts: &Facts,
    component: &SnapshotComponent,
    wish: RestoreVolume,
    claim: String,
    workloads: &mut BTreeSet<WorkloadId>,
    findings: &mut Findings,
) -> Option<PlannedComponent> {
    let errors_before = findings.errors.len();
    let there = facts.claims.iter().find(|object| object.name_any() == claim);
    let (object, new_claim, mut warnings) = match (there, &wish.to.new_claim) {
        (Some(_), Some(_)) => {
            let text = format!(
                "there is a claim {claim} already: to restore to it, name it in existingClaim; else give the new one \
                 another name"
            );
            findings.error(Reason::TargetExists, text);
            return None;
        }
        (None, None) => {
            findings.error(Reason::TargetNotFound, not_there(&claim, component));
            return None;
        }
        (None, Some(new)) => {
            let (plan, warnings) = claims::plan(new, component, is_whole(&wish), &facts.classes, findings)?;
            let run = RunRef::of(RunKind::Restore, restore);
            (Cow::Owned(claims::claim(&run, &claim, &plan)), Some(plan), warnings)
        }
        (Some(object), None) => {
            let warnings = check_target(&ClaimView::new(object, &facts.classes), component, &wish, findings);
            (Cow::Borrowed(object), None, warnings)
        }
    };
    let view = ClaimView::new(&object, &facts.classes);

    let pods = active_pods(&facts.inventory.pods, &claim);
    let users = facts.inventory.users_of(&claim);
    for other in &users.others {
        let text = format!(
            "the claim {claim} is used by {other}, which cannot be scaled to 0: delete the pod or what owns it, then \
             make another Restore"
        );
        findings.error(Reason::ClaimInUse, text);
    }
    if restore.spec.quiesce == Quiesce::None && !pods.is_empty() && users.others.is_empty() {
        let users_of_it: Vec<String> = pods.iter().map(|pod| format!("Pod/{}", pod.name_any())).collect();
        let text = format!(
            "the claim {claim} is used by {} and spec.quiesce is None: stop them, or set quiesce to Auto",
            users_of_it.join(", ")
        );
        findings.error(Reason::ClaimInUse, text);
    }
    let placement = place(&view, &pods, facts.around())
        .map_err(|error| findings.error(Reason::Unschedulable, format!("claim {claim}: {error}")))
        .ok();
    warnings.extend(facts.around().doubt(&view, &pods));
    // Its pods are gone when the first Job starts.
    let node = placement.as_ref().filter(|_| facts.around().is_of_any_node(&view)).and_then(node_name);
    let model = facts.inventory.model_pod(&claim);
    let choice = choose_identity(
        restore.spec.run_as,
        Access::Write,
        &claim,
        model.as_ref(),
        root_allowed(&facts.namespace),
    )
    .map_err(|error| findings.error(Reason::RootNotAllowed, error.to_string()))
    .ok();
    let empty = new_claim.is_some() || view.binding() == Binding::WaitsForConsumer;
    let consumers: Vec<String> = users.scalable.iter().take(MOST).map(ToString::to_string).collect();
    if restore.spec.quiesce == Quiesce::Auto {
        workloads.extend(users.scalable);
    }
    let choice = choice?;
    if findings.errors.len() > errors_before {
        return None;
    }
    let limits = choice.limits.map(|limits| format!("{claim}: {limits}"));
    let out_of_sight = view.is_one_pod_only() && !pods.is_empty();
    if out_of_sight && restore.spec.dry_run {
        warnings.push(format!("{claim}: ReadWriteOncePod and in use, so a dry run cannot compare its files"));
    }
    warnings.truncate(MOST);
    Some(PlannedComponent {
        wish,
        snapshot_id: component.snapshot_id.clone(),
        size: component.size,
        files: component.files,
        identity: if empty { for_fresh_volume(choice.identity) } else { choice.identity },
        consumers,
        warnings,
        limits,
        empty,
        out_of_sight,
        node: node.map(str::to_owned),
        claim,
        new_claim,
    })
}

/// A component that goes back to a claim that is not there gets one, where the Restore says so.
fn with_missing_claim(restore: &Restore, facts: &Facts, wish: RestoreVolume) -> RestoreVolume {
    let by_default = !restore.spec.volumes.iter().any(|volume| volume.component == wish.component);
    let missing = wish.to.existing_claim.as_ref().map(|claim| claim.name.clone()).filter(|name| {
        by_default
            && restore.spec.missing_claims == MissingClaims::Create
            && !facts.claims.iter().any(|object| object.name_any() == *name)
    });
    match missing {
        Some(name) => {
            let new = NewClaim { name, ..NewClaim::default() };
            RestoreVolume { to: RestoreTo { existing_claim: None, new_claim: Some(new) }, ..wish }
        }
        None => wish,
    }
}

/// Patterns that the runner could not use: before anything is stopped for it.
fn refuse_malformed(wish: &RestoreVolume, findings: &mut Findings) {
    let patterns = wish.paths.iter().flat_map(|paths| paths.include.iter().chain(&paths.exclude));
    for malformed in patterns.filter_map(|text| Pattern::parse(text).err()) {
        findings.error(Reason::InvalidSpec, format!("{}: {malformed}", wish.component));
    }
}

/// Whether all files of a component are wanted.
fn is_whole(wish: &RestoreVolume) -> bool {
    wish.paths.as_ref().is_none_or(|paths| paths.include.is_empty() && paths.exclude.is_empty())
}

/// What to make when the target is missing.
fn not_there(claim: &str, component: &SnapshotComponent) -> String {
    let capacity =
        component.source.capacity.as_ref().map_or("the size it had", |quantity| quantity.0.as_str());
    let class = component.source.storage_class.as_deref().unwrap_or("(default)");
    format!(
        "there is no claim {claim} to restore {} to: let the Restore make it (spec.missingClaims: Create; it had \
         {capacity}, storage class {class}), or name another one in spec.volumes",
        component.name
    )
}

/// Whether a claim can take a component. Returns what is different, but can be done.
fn check_target(
    view: &ClaimView<'_>,
    component: &SnapshotComponent,
    wish: &RestoreVolume,
    findings: &mut Findings,
) -> Vec<String> {
    let claim = view.name();
    let mut warnings = Vec::new();
    if view.is_terminating() {
        let text = format!("the claim {claim} is being deleted; wait until it is gone and make it anew");
        findings.error(Reason::TargetNotFound, text);
        return warnings;
    }
    if view.is_block() {
        let text =
            format!("the claim {claim} is a block device (volumeMode Block), and only files can be restored");
        findings.error(Reason::Incompatible, text);
    }
    match view.binding() {
        Binding::Bound | Binding::WaitsForConsumer => {}
        Binding::Lost => {
            let text = format!("the claim {claim} has lost its volume; delete it and make it anew");
            findings.error(Reason::TargetNotBound, text);
        }
        Binding::Pending => {
            let text = format!(
                "the claim {claim} is not bound; `kubectl describe pvc {claim}` says what it waits for"
            );
            findings.error(Reason::TargetNotBound, text);
            findings.passing += 1;
        }
    }
    let capacity = view.capacity().and_then(quantity_bytes);
    let whole = is_whole(wish);
    match (capacity, component.size) {
        (Some(capacity), Some(size)) if whole && capacity < size => {
            let text = format!(
                "the claim {claim} is too small: it has {}, and {} holds {}; make the claim larger, or restore to \
                 another one",
                bytes(capacity),
                component.name,
                bytes(size)
            );
            findings.error(Reason::TargetTooSmall, text);
        }
        (Some(capacity), _) => {
            let had = component.source.capacity.as_ref().and_then(quantity_bytes);
            if had.is_some_and(|had| capacity < had) {
                warnings.push(format!("{claim}: the claim is smaller than the one that was saved"));
            }
        }
        (None, _) => {}
    }
    if component.source.storage_class.as_deref().is_some_and(|class| view.storage_class() != Some(class)) {
        warnings.push(format!(
            "{claim}: the storage class is {}, and was {} when it was saved",
            view.storage_class().unwrap_or("(none)"),
            component.source.storage_class.as_deref().unwrap_or_default()
        ));
    }
    let missing: Vec<&str> = component
        .source
        .access_modes
        .iter()
        .map(String::as_str)
        .filter(|mode| !view.access_modes().iter().any(|has| has == mode))
        .collect();
    if !missing.is_empty() {
        warnings.push(format!("{claim}: the claim lacks the access mode {} it had", missing.join(", ")));
    }
    warnings
}

/// Whether every workload may be scaled: known now, so that none is scaled in vain.
fn check_workloads(
    restore: &Restore,
    facts: &Facts,
    workloads: &BTreeSet<WorkloadId>,
    findings: &mut Findings,
) {
    let run = restore.uid().unwrap_or_default();
    for workload in workloads.iter().filter_map(|id| facts.inventory.workload(id)) {
        if let Hold::Refuse(why) = hold(workload, &run) {
            findings.error(quiesce::apply::reason(why), explain(&workload.id, why));
        }
        if let Some(owner) = &workload.owner {
            findings.warnings.push(format!(
                "{} belongs to {}/{}, which may scale it up again meanwhile: stop that first",
                workload.id, owner.kind, owner.name
            ));
        }
    }
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
