//! The probe Job of a storage. Pure.

use std::time::Duration;

use holdfast_api::MAX_LISTED_REPOSITORIES;
use holdfast_protocol::{RunSpec, Task};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::dereference::Facts;
use crate::access::StorageAccess;
use crate::jobs::{Identity, JobPlan, JobTask, Placement};

/// A probe answers within seconds or the store cannot be used.
const DEADLINE: Duration = Duration::from_mins(3);

pub(super) fn plan(facts: &Facts, access: &StorageAccess, owner: OwnerReference, name: &str) -> JobPlan {
    JobPlan {
        name: name.to_owned(),
        namespace: access.namespace(),
        owner,
        run: facts.run.clone(),
        task: JobTask::Probe,
        component: None,
        claim: None,
        identity: Identity::Unprivileged,
        placement: Placement::Anywhere,
        follows: false,
        pod_config: None,
        seat: None,
        // The next try is ours to plan: with fresh credentials, and slower each time.
        retries: 0,
        dead_jobs: Vec::new(),
        deadline: DEADLINE,
    }
}

pub(super) fn spec(facts: &Facts, access: &StorageAccess, cluster: &str, cluster_uid: &str) -> RunSpec {
    RunSpec {
        version: holdfast_protocol::VERSION,
        run: facts.run.identity(cluster, cluster_uid),
        storage: access.location.clone(),
        directory: None,
        repository_id: None,
        dead_jobs: Vec::new(),
        discard: Vec::new(),
        read_only: access.storage.spec.is_read_only(),
        upload_bytes_per_second: None,
        download_bytes_per_second: None,
        keys_end: None,
        task: Task::Probe { scan_limit: u32::try_from(MAX_LISTED_REPOSITORIES).unwrap_or(u32::MAX) },
    }
}
