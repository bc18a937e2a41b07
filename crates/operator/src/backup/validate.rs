//! Which claims a Backup saves and which it does not, and why: spec and facts into one plan. Pure.

use std::collections::BTreeMap;

use holdfast_api::backup::{Backup, BackupPhase, ClaimsDefault, Coverage, SkipReason, SkippedClaim};
use holdfast_api::names::{ANNOTATION_ALLOW_ROOT_RUNNER, CLAIM_WISHES, volume_component};
use holdfast_api::refs::Identity;
use holdfast_api::tags::VolumeTags;
use holdfast_api::{BackupStorage, MAX_COMPONENTS, Reason, Restore};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{StorageClass, VolumeAttachment};
use kube::ResourceExt;

use super::excludes::{left_out, malformed};
use super::overlap::{has_target, is_at_work};
use super::select::Wish;
use super::status::count;
use crate::access::AccessError;
use crate::jobs::Placement;
use crate::usage;
use crate::volumes::identity::{Access, choose_identity};
use crate::volumes::{Binding, ClaimView, Moving, NodeStates, Surroundings, active_pods, place};

/// Most warnings that a status lists.
pub const MOST_WARNINGS: usize = 64;

/// What the plan is made from, read together.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The Backup's namespace.
    pub namespace: Namespace,
    /// All claims of the namespace.
    pub claims: Vec<PersistentVolumeClaim>,
    /// The storage classes that claims without a volume name.
    pub classes: Vec<StorageClass>,
    /// All pods of the namespace.
    pub pods: Vec<Pod>,
    /// The nodes.
    pub nodes: NodeStates,
    /// Which volumes are attached where.
    pub attachments: Vec<VolumeAttachment>,
    /// The volumes of the cluster.
    pub volumes: Vec<PersistentVolume>,
    /// What becomes of claims that nobody speaks about.
    pub claims_default: ClaimsDefault,
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

/// What a Backup does.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What is saved, by name of the component.
    pub components: Vec<PlannedComponent>,
    /// What is saved and what is not: first the claims whose absence matters. There may be more of them than a status can
    /// list.
    pub coverage: Coverage,
    /// Why nothing can be saved any more, of a plan that is made while the run is at work.
    pub refusal: Option<Refusal>,
}

impl Plan {
    /// The plan that saves nothing, because of this.
    pub fn refused(refusal: Refusal) -> Self {
        Self { components: Vec::new(), coverage: Coverage::default(), refusal: Some(refusal) }
    }
}

/// One claim that is saved.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedComponent {
    /// `volume/<claim>`.
    pub name: String,
    /// The claim.
    pub claim: String,
    /// Where its runner has to run.
    pub placement: Placement,
    /// Another node can have the volume, and its application with it.
    pub movable: bool,
    /// The pod that takes the volume with it to another node, which has not ended yet.
    pub moving: Option<Moving>,
    /// Who its runner is.
    pub identity: Identity,
    /// What the runner may not be able to read, and how to allow it.
    pub limits: Option<String>,
    /// Patterns of files to leave out.
    pub exclude: Vec<String>,
    /// Leave out what lies beside a `CACHEDIR.TAG`.
    pub exclude_caches: bool,
    /// What the volume is like.
    pub volume: VolumeTags,
}

/// Why nothing is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// In one word.
    pub reason: Reason,
    /// Cause and what to do.
    pub message: String,
}

impl Refusal {
    /// What makes a storage one that nothing is saved to.
    pub fn of_closed(storage: &BackupStorage) -> Option<Self> {
        let why = usage::closed(storage)?;
        let message = format!("{why}: name another one in spec.storageRef, or change its accessMode");
        Some(Self { reason: Reason::ReadOnly, message })
    }

    /// What somebody has to mend before the repository can be reached; none when only asking again can help.
    pub fn of_access(error: &AccessError) -> Option<Self> {
        error.reason().map(|reason| Self { reason, message: error.to_string() })
    }
}

/// Whether runners may be root in a namespace.
pub fn root_allowed(namespace: &Namespace) -> bool {
    namespace.annotations().get(ANNOTATION_ALLOW_ROOT_RUNNER).is_some_and(|value| value == "true")
}

/// Makes the plan.
pub fn validate(backup: &Backup, facts: &Facts) -> Result<Plan, Refusal> {
    let mut components = Vec::new();
    let mut skipped = Vec::new();
    let wish = Wish::of(backup, &facts.namespace, facts.claims_default)?;
    if let Some(refusal) = malformed(backup) {
        return Err(refusal);
    }
    let mut warnings = Vec::new();
    let claims: BTreeMap<String, &PersistentVolumeClaim> =
        facts.claims.iter().map(|claim| (claim.name_any(), claim)).collect();
    for (name, claim) in &claims {
        match wish.leaves_out(claim).or_else(|| obstacle(claim, facts)) {
            Some((reason, message)) => {
                skipped.push(SkippedClaim { claim: name.clone(), reason, message: Some(message) });
            }
            None => match component(backup, claim, facts, &mut warnings)? {
                Ok(component) => components.push(component),
                Err(skip) => skipped.push(skip),
            },
        }
    }
    for name in wish.named().filter(|name| !claims.contains_key(*name)) {
        skipped.push(SkippedClaim {
            claim: name.to_owned(),
            reason: SkipReason::ClaimNotFound,
            message: Some("spec.volumes.claims names it, but there is no such claim".to_owned()),
        });
    }
    let idle = wish.idle_selectors(&facts.claims);
    // Somebody means certain claims: as with a name that is not there, to save nothing is not what they want.
    if components.is_empty() && skipped.iter().all(|skip| skip.reason.is_harmless()) && wish.is_by(&idle) {
        return Err(Refusal {
            reason: Reason::NothingSelected,
            message: format!(
                "no selector of spec.volumes.selectors matches any of the namespace's {}: look at their labels \
                 (kubectl get pvc --show-labels)",
                count(claims.len(), "claim")
            ),
        });
    }
    warnings.extend(
        idle.iter().map(|place| format!("spec.volumes.selectors[{place}] matches no claim of the namespace")),
    );
    if components.len() > MAX_COMPONENTS {
        return Err(Refusal {
            reason: Reason::TooManyComponents,
            message: format!(
                "{} claims are to be saved, and one Backup can have {MAX_COMPONENTS}: make several Backups that each \
                 name some of them in spec.volumes.claims",
                components.len()
            ),
        });
    }
    // What the run's end is judged by comes first, so that it is never what a status has no room for.
    skipped.sort_by(|a, b| (a.reason.is_harmless(), &a.claim).cmp(&(b.reason.is_harmless(), &b.claim)));
    let protected = u32::try_from(components.len()).unwrap_or(u32::MAX);
    warnings.truncate(MOST_WARNINGS);
    Ok(Plan { components, coverage: Coverage { protected, skipped, warnings }, refusal: None })
}

/// The Restore that writes a claim of the plan at the moment. What is half restored is no recovery point, so the
/// Backup waits until it is over.
pub fn being_restored(plan: &Plan, restores: &[Restore]) -> Option<Refusal> {
    restores.iter().find_map(|restore| {
        let is_target = |planned: &&PlannedComponent| has_target(restore, &planned.claim);
        let hit = plan.components.iter().find(is_target).filter(|_| is_at_work(restore))?;
        Some(Refusal {
            reason: Reason::ClaimInUse,
            message: format!(
                "Restore {} writes the claim {}: waits until it is over, since a half-restored volume is no \
                 recovery point",
                restore.name_any(),
                hit.claim
            ),
        })
    })
}

/// Other Backups that save the same claims to the same repository at the moment. Each is sound, but the work is done
/// twice: mostly two schedules whose selections overlap.
pub fn overlaps(plan: &Plan, repository: &str, own: Option<&str>, backups: &[Backup]) -> Vec<String> {
    let at_work = |backup: &&Backup| {
        let status = backup.status.as_ref();
        backup.metadata.uid.as_deref() != own
            && status.is_some_and(|status| {
                status.start_time.is_some()
                    && !status.phase.is_some_and(BackupPhase::is_terminal)
                    && status.repository_ref.as_ref().is_some_and(|reference| reference.name == repository)
            })
    };
    let same = |backup: &Backup| {
        let theirs = backup.status.iter().flat_map(|status| &status.components);
        let both = theirs.filter(|theirs| plan.components.iter().any(|ours| ours.name == theirs.name));
        let claims: Vec<&str> = both.filter_map(|c| c.source.claim.as_deref()).take(5).collect();
        (!claims.is_empty()).then(|| {
            format!(
                "Backup {} saves the same claims to the same repository at the moment: {}",
                backup.name_any(),
                claims.join(", ")
            )
        })
    };
    backups.iter().filter(at_work).filter_map(same).take(10).collect()
}

/// Why a claim cannot be mounted.
fn obstacle(claim: &PersistentVolumeClaim, facts: &Facts) -> Option<(SkipReason, String)> {
    let view = ClaimView::new(claim, &facts.classes);
    let consumers = active_pods(&facts.pods, &view.name());
    if view.is_terminating() {
        return Some((SkipReason::ClaimTerminating, "the claim is being deleted".to_owned()));
    }
    if view.is_block() {
        let message = "the volume is a block device (volumeMode Block), and only filesystems can be saved";
        return Some((SkipReason::BlockVolume, message.to_owned()));
    }
    match view.binding() {
        Binding::Bound => {}
        Binding::Lost => {
            let volume = view.volume_name().unwrap_or("unknown");
            let message = format!(
                "the claim has lost its volume ({volume}): bring the PersistentVolume back, or delete the claim"
            );
            return Some((SkipReason::ClaimLost, message));
        }
        Binding::WaitsForConsumer if consumers.is_empty() => {
            let message = "the claim waits for the first pod that uses it, so nothing was ever written to it";
            return Some((SkipReason::NoDataYet, message.to_owned()));
        }
        Binding::WaitsForConsumer | Binding::Pending => {
            let message = "the claim is not bound to a volume; `kubectl describe pvc` says what it waits for";
            return Some((SkipReason::ClaimPending, message.to_owned()));
        }
    }
    let user = consumers.first().filter(|_| view.is_one_pod_only())?;
    Some((
        SkipReason::ReadWriteOncePodInUse,
        format!(
            "the claim is ReadWriteOncePod and the pod {} uses it, so no second pod can mount it: use the access \
             mode ReadWriteOnce, or back up while the pod is stopped",
            user.name_any()
        ),
    ))
}

fn component(
    backup: &Backup,
    claim: &PersistentVolumeClaim,
    facts: &Facts,
    warnings: &mut Vec<String>,
) -> Result<Result<PlannedComponent, SkippedClaim>, Refusal> {
    let view = ClaimView::new(claim, &facts.classes);
    let name = view.name();
    let consumers = active_pods(&facts.pods, &name);
    let placement = match place(&view, &consumers, facts.around()) {
        Ok(placement) => placement,
        Err(error) => {
            let message = Some(format!(
                "{error}: bring the node back, or move the workload; if the volume is gone with its node, restore the claim \
                 from a Snapshot"
            ));
            return Ok(Err(SkippedClaim { claim: name, reason: SkipReason::NodeNotReady, message }));
        }
    };
    let choice = choose_identity(
        backup.spec.run_as,
        Access::Read,
        &name,
        consumers.first().copied(),
        root_allowed(&facts.namespace),
    )
    .map_err(|error| Refusal { reason: Reason::RootNotAllowed, message: error.to_string() })?;
    warnings.extend(facts.around().doubt(&view, &consumers));
    let excludes = left_out(backup, claim);
    warnings.extend(excludes.warnings);
    let volume = volume_tags(claim);
    warnings.extend(not_kept(claim, &volume));
    Ok(Ok(PlannedComponent {
        name: volume_component(&name),
        placement,
        movable: facts.around().can_move(&view, None),
        moving: facts.around().moving(&view, &consumers),
        identity: choice.identity,
        limits: choice.limits,
        exclude: excludes.patterns,
        exclude_caches: excludes.caches,
        volume,
        claim: name,
    }))
}

/// What of a claim's labels and annotations is too long to be kept with its data, so that a claim that is made again lacks
/// it.
fn not_kept(claim: &PersistentVolumeClaim, kept: &VolumeTags) -> Option<String> {
    let all = claim.annotations();
    // Those after it count only where it is absent.
    let lost = CLAIM_WISHES
        .into_iter()
        .find(|key| all.contains_key(*key) && !kept.annotations.contains_key(*key))
        .map(|key| format!("the annotation {key}, which says how the claim is saved"));
    let labels = claim.labels().len().saturating_sub(kept.labels.len());
    let labels = (labels > 0).then(|| format!("{labels} of the labels, by which selectors find it"));
    let parts: Vec<String> = lost.into_iter().chain(labels).collect();
    (!parts.is_empty()).then(|| {
        format!(
            "{}: too long to be kept with the data: {}. If a Restore makes the claim again, put that back by hand",
            claim.name_any(),
            parts.join(", and ")
        )
    })
}

/// What a claim is like, as the tags and the Snapshot keep it.
pub fn volume_tags(claim: &PersistentVolumeClaim) -> VolumeTags {
    let view = ClaimView::new(claim, &[]);
    VolumeTags {
        capacity: view.capacity().map(|quantity| quantity.0.clone()),
        storage_class: view.storage_class().map(str::to_owned),
        access_modes: view.access_modes().to_vec(),
        volume_mode: Some(view.volume_mode().to_owned()),
        ..VolumeTags::default()
    }
    .with_marks(claim.labels(), claim.annotations())
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
