//! What all runs share: how a runner's Job looks, how it is started, watched, judged and removed. What the Jobs
//! are for is decided by the reconcilers.
//!
//! A run is one object (a Backup, Restore, Repository or `BackupStorage`); it has any number of Jobs, each with
//! a Secret of the same name that holds its run spec and credentials. Everything is found again by the label
//! with the run's uid, so a restarted operator needs no memory:
//!
//! ```text
//! JobPlan ──build::job──▶ Job + Secret ──apply::start──▶ API server
//!                                                            │ watch (label run-kind)
//! JobState ◀──outcome::state── Job + Pods ◀──apply::observe──┘
//! ```

pub mod apply;
pub mod build;
pub mod checkpoint;
pub mod denial;
pub mod follow;
pub mod logs;
pub mod outcome;
pub mod pod_config;
pub mod unlock;

pub use holdfast_api::names::Task as JobTask;

use holdfast_api::names;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

pub use apply::{JobError, JobView, Started, observe, remove, start};
pub use build::{ClaimMount, Identity, JobPlan, Placement};
pub use outcome::{End, Ended, JobState, Loss, Running, WaitReason, Waiting};

/// Name of the container of a runner pod.
pub const CONTAINER: &str = "runner";
/// Annotation of Jobs, pods and Secrets: `<namespace>/<name>` of the object they were made for. A label could
/// not hold a long name.
pub const ANNOTATION_RUN: &str = "holdfast.dev/run";
/// Annotation of a Job: the uids of earlier Jobs whose locks its runner removes before it begins, with commas between.
pub const ANNOTATION_DEAD_JOBS: &str = "holdfast.dev/dead-jobs";

/// The kinds whose objects have Jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunKind {
    /// Probes of a storage.
    BackupStorage,
    /// Initialisation and sync of a repository.
    Repository,
    /// Backups.
    Backup,
    /// Restores.
    Restore,
}

impl RunKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::BackupStorage, Self::Repository, Self::Backup, Self::Restore];

    /// Its name, as in `kind:`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BackupStorage => "BackupStorage",
            Self::Repository => "Repository",
            Self::Backup => "Backup",
            Self::Restore => "Restore",
        }
    }

    /// Selects the Jobs, pods and Secrets of all runs of this kind.
    pub fn selector(self) -> String {
        format!("{}={}", names::LABEL_RUN_KIND, self.as_str())
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// The object that Jobs belong to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RunRef {
    /// Its kind.
    pub kind: RunKind,
    /// Its namespace, which is not always that of its Jobs.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

impl RunRef {
    /// The run that an object is.
    pub fn of<K: Resource>(kind: RunKind, object: &K) -> Self {
        Self {
            kind,
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            uid: object.uid().unwrap_or_default(),
        }
    }

    /// The run that a Job, pod or Secret was made for, as its labels and annotations tell.
    pub fn from_child<K: Resource>(child: &K) -> Option<Self> {
        let labels = child.labels();
        let kind = RunKind::parse(labels.get(names::LABEL_RUN_KIND)?)?;
        let uid = labels.get(names::LABEL_RUN_UID)?.clone();
        let (namespace, name) = child.annotations().get(ANNOTATION_RUN)?.split_once('/')?;
        Some(Self { kind, namespace: namespace.to_owned(), name: name.to_owned(), uid })
    }

    /// Selects the Jobs, pods and Secrets of this run.
    pub fn selector(&self) -> String {
        format!("{}={}", names::LABEL_RUN_UID, self.uid)
    }

    /// What the runner is told about whom it works for.
    pub fn identity(&self, cluster: &str, cluster_uid: &str) -> holdfast_protocol::spec::RunIdentity {
        holdfast_protocol::spec::RunIdentity {
            kind: self.kind.as_str().to_owned(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            cluster: cluster.to_owned(),
            cluster_uid: cluster_uid.to_owned(),
        }
    }
}

/// The reference by which an object owns its Jobs and Secrets, so that they go with it. Owners are in the
/// namespace of what they own, always.
pub fn owner_reference<K: Resource<DynamicType = ()>>(owner: &K) -> Option<OwnerReference> {
    owner.controller_owner_ref(&())
}

/// The task of a Job, as its label tells.
pub fn task_label(job: &Job) -> Option<&str> {
    job.labels().get(names::LABEL_TASK).map(String::as_str)
}

/// The full name of the component that a Job or pod works on.
pub fn component_of<K: Resource>(child: &K) -> Option<&str> {
    child.annotations().get(names::ANNOTATION_COMPONENT).map(String::as_str)
}

/// The uid of the Job that a pod belongs to.
pub fn job_uid_of(pod: &Pod) -> Option<&str> {
    pod.labels().get("batch.kubernetes.io/controller-uid").map(String::as_str)
}
