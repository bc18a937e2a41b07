//! Makes the claims of a Restore, and sees to them at its end; and to the Repository that it made and nobody needs. What
//! they look like, and what becomes of them, is decided in [`super::claims`] and [`super::source`].

use holdfast_api::restore::{ClaimFate, ClaimPlan, OnFailure, RestoreStatus};
use holdfast_api::{Backup, Repository, Restore, Snapshot};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{Client, ResourceExt};

use super::{claims, dereference, source};
use crate::errors::Chain;
use crate::jobs::RunRef;
use crate::kubernetes::{self, RequestError};
use crate::snapshot;
use crate::volumes::active_pods;

/// The claims that are still to be made, each with its component's place in the status.
fn to_make(status: &RestoreStatus) -> Vec<(usize, String, ClaimPlan)> {
    let volumes = status.plan.as_ref().map(|plan| plan.volumes.as_slice()).unwrap_or_default();
    status
        .components
        .iter()
        .enumerate()
        .filter(|(_, component)| component.new_claim == Some(ClaimFate::Planned))
        .filter_map(|(place, component)| {
            let volume = volumes.iter().find(|volume| volume.component == component.name)?;
            Some((place, volume.claim.clone(), volume.new_claim.clone()?))
        })
        .collect()
}

/// Why the cluster would not admit the claims (a quota, an admission rule), asked before anything is touched.
pub(super) async fn denied(
    client: &Client,
    run: &RunRef,
    status: &RestoreStatus,
) -> Result<Option<String>, RequestError> {
    for (_, name, plan) in to_make(status) {
        let claim = claims::claim(run, &name, &plan);
        match kubernetes::try_create(client, &claim).await {
            Ok(()) => {}
            Err(error) if error.is_refused() && !error.namespace_is_terminating() => {
                return Ok(Some(format!("the claim {name} cannot be made: {}", Chain(&error))));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Makes the claims. A message when a claim of the name has come up meanwhile that is not this run's.
pub(super) async fn make(
    client: &Client,
    run: &RunRef,
    status: &mut RestoreStatus,
) -> Result<Option<String>, RequestError> {
    for (place, name, plan) in to_make(status) {
        let claim = kubernetes::create(client, &claims::claim(run, &name, &plan)).await?.into_inner();
        // Made by an earlier look that ended before it could write that down.
        if !claims::is_ours(&claim, run) {
            let text = format!(
                "a claim {name} was made by somebody else meanwhile: look at it; to restore to it, make another Restore \
                 with existingClaim"
            );
            return Ok(Some(text));
        }
        if let Some(component) = status.components.get_mut(place) {
            component.new_claim = Some(ClaimFate::Created);
        }
    }
    Ok(None)
}

/// At the end: a claim that was made, and the restore to which failed, is kept or removed.
pub(super) async fn settle(
    client: &Client,
    run: &RunRef,
    status: &mut RestoreStatus,
) -> Result<(), RequestError> {
    let rules: Vec<(String, OnFailure)> = status
        .plan
        .iter()
        .flat_map(|plan| &plan.volumes)
        .filter_map(|volume| Some((volume.component.clone(), volume.new_claim.as_ref()?.on_failure)))
        .collect();
    if status.components.iter().all(|component| claims::fate(component, OnFailure::Keep, false).is_none()) {
        return Ok(());
    }
    let namespace = &run.namespace;
    let pods = kubernetes::list::<Pod>(client, namespace, "").await?;
    for component in &mut status.components {
        let rule = rules.iter().find(|(name, _)| *name == component.name).map(|(_, rule)| *rule);
        let name = component.claim.clone().unwrap_or_default();
        let in_use = !active_pods(&pods, &name).is_empty();
        let Some(fate) = claims::fate(component, rule.unwrap_or_default(), in_use) else { continue };
        if fate == ClaimFate::Removed {
            let claim = kubernetes::get::<PersistentVolumeClaim>(client, namespace, &name).await?;
            if let Some(claim) = claim.filter(|claim| claims::is_ours(claim, run)) {
                kubernetes::delete::<PersistentVolumeClaim>(client, namespace, &name, claim.uid().as_deref())
                    .await?;
            }
        }
        claims::settled(component, fate);
    }
    Ok(())
}

/// A Restore is over: the Repository objects go that Restores have made and that were never opened, and after a dry run
/// those that only dry runs have made, with the Snapshots that mirror what is in the repository. Nothing of the repository
/// itself goes.
pub(super) async fn forget_repositories(client: &Client, restore: &Restore) -> Result<(), RequestError> {
    if restore.spec.from.repository.is_none() {
        return Ok(());
    }
    let own = restore.namespace().unwrap_or_default();
    let (repositories, backups, restores) = futures::try_join!(
        kubernetes::list::<Repository>(client, &own, ""),
        kubernetes::list::<Backup>(client, &own, ""),
        dereference::others(client, restore),
    )?;
    let ours = |repository: &&Repository| restore.spec.dry_run || source::is_unopened(repository);
    for repository in repositories.iter().filter(ours).filter(|r| source::is_spare(r, &restores, &backups)) {
        let name = repository.name_any();
        kubernetes::delete::<Repository>(client, &own, &name, repository.uid().as_deref()).await?;
        // Afterwards, or the next sync would make them again.
        for mirror in kubernetes::list::<Snapshot>(client, &own, &snapshot::selector(&name)).await? {
            if mirror.spec.repository_ref.name == name {
                let uid = mirror.uid();
                kubernetes::delete::<Snapshot>(client, &own, &mirror.name_any(), uid.as_deref()).await?;
            }
        }
    }
    Ok(())
}
