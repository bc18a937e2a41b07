//! The Jobs and run specs of a Restore, from the plan. Pure.

use std::time::Duration;

use holdfast_api::Restore;
use holdfast_api::names::{claim_of_component, data_path};
use holdfast_api::restore::{RestoreComponent, RestoreVolume};
use holdfast_protocol::Task;
use holdfast_protocol::spec::RestoreVolume as RestoreTask;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::jobs::{ClaimMount, JobPlan, JobTask, Placement, RunRef};
use crate::volumes::identity::{Access, runner_identity};

/// Where a component goes and which files of it: what the Restore says, else back to where it came from.
pub fn wish(restore: &Restore, component: &str) -> RestoreVolume {
    let own = restore.spec.volumes.iter().find(|volume| volume.component == component);
    own.cloned().unwrap_or_else(|| {
        RestoreVolume::back_to(component, claim_of_component(component).unwrap_or(component))
    })
}

/// The Job of one component: one that writes, or one that only looks.
pub fn job(
    restore: &Restore,
    run: &RunRef,
    owner: OwnerReference,
    component: &RestoreComponent,
    placement: Placement,
    name: String,
    deadline: Duration,
) -> JobPlan {
    let claim = component.claim.clone().unwrap_or_default();
    let plan_only = restore.spec.dry_run;
    let access = if plan_only { Access::Read } else { Access::Write };
    JobPlan {
        name,
        namespace: run.namespace.clone(),
        owner,
        run: run.clone(),
        task: if plan_only { JobTask::Plan } else { JobTask::Restore },
        component: Some(component.name.clone()),
        claim: Some(ClaimMount { path: data_path(&claim), claim, read_only: plan_only }),
        identity: runner_identity(&component.run_as.clone().unwrap_or_default(), access),
        placement,
        follows: false,
        pod_config: None,
        seat: None,
        // Each attempt is a Job of its own.
        retries: 0,
        dead_jobs: Vec::new(),
        deadline,
    }
}

/// What the runner of one component is told.
pub fn task(restore: &Restore, component: &RestoreComponent) -> Task {
    let RestoreVolume { component: _, to: _, paths, delete_extra, verify } = wish(restore, &component.name);
    let paths = paths.unwrap_or_default();
    let came_from = claim_of_component(&component.name).unwrap_or(&component.name);
    Task::RestoreVolume(RestoreTask {
        component: component.name.clone(),
        snapshot_id: component.snapshot_id.clone().unwrap_or_default(),
        source_path: data_path(came_from),
        target: data_path(component.claim.as_deref().unwrap_or_default()),
        include: paths.include,
        exclude: paths.exclude,
        delete_extra,
        verify,
        plan_only: restore.spec.dry_run,
        restore_owners: component.run_as.as_ref().is_some_and(|identity| identity.uid == 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::refs::Identity;

    fn restore(extra: &str) -> Restore {
        serde_saphyr::from_str(&format!(
            "{{metadata: {{name: r, namespace: shop, uid: u}}, spec: {{from: {{snapshotRef: {{name: s}}}} {extra}}}}}"
        ))
        .unwrap()
    }

    fn component(uid: i64) -> RestoreComponent {
        RestoreComponent {
            name: "volume/data".into(),
            claim: Some("other".into()),
            snapshot_id: Some("aa".into()),
            run_as: Some(Identity { uid, ..Identity::default() }),
            ..RestoreComponent::default()
        }
    }

    fn plan(restore: &Restore) -> JobPlan {
        let run = RunRef::of(crate::jobs::RunKind::Restore, restore);
        let (owner, time) = (OwnerReference::default(), Duration::from_secs(1));
        job(restore, &run, owner, &component(0), Placement::Anywhere, "j".into(), time)
    }

    #[test]
    fn a_dry_run_mounts_the_claim_so_that_nothing_can_be_written() {
        let dry = plan(&restore(", dryRun: true"));
        assert!(dry.claim.unwrap().read_only);
        assert_eq!(dry.identity, crate::jobs::Identity::RootReader { selinux_level: None });
        let real = plan(&restore(""));
        assert!(!real.claim.unwrap().read_only);
        assert_eq!(real.identity, crate::jobs::Identity::RootWriter { selinux_level: None });
    }

    #[test]
    fn the_runner_is_told_where_it_came_from_and_where_it_goes() {
        let extra = ", volumes: [{component: volume/data, to: {existingClaim: {name: other}}, paths: {include: [a]}, deleteExtra: true}]";
        let Task::RestoreVolume(task) = task(&restore(extra), &component(999)) else {
            panic!("another task")
        };
        assert_eq!((task.source_path.as_str(), task.target.as_str()), ("/data/data", "/data/other"));
        assert_eq!(task.include, ["a"]);
        assert!(task.delete_extra && task.verify && !task.plan_only);
        assert!(!task.restore_owners, "only root can set owners");
    }
}
