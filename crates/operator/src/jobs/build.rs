//! How a runner's Job and its Secret look: a plan into objects. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_api::{PodConfig, names};
use holdfast_protocol::{exit, files};
use k8s_openapi::ByteString;
use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, EnvVar, EnvVarSource, LocalObjectReference, NodeAffinity,
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectFieldSelector,
    PersistentVolumeClaimVolumeSource, Pod, PodSecurityContext, PodSpec, PodTemplateSpec,
    ResourceRequirements, SELinuxOptions, SeccompProfile, Secret, SecretVolumeSource, SecurityContext,
    Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::outcome::DISRUPTED;
use super::{ANNOTATION_DEAD_JOBS, ANNOTATION_RUN, CONTAINER, JobTask, RunRef, checkpoint, pod_config};
use crate::access::RunnerFiles;
use crate::queue::{ANNOTATION_PLACE, Seat};
use crate::settings::Options;

/// Uid and gid of a runner that needs no identity: nobody's in particular, never root.
pub const UNPRIVILEGED: i64 = 65532;
/// Seconds that a runner gets between SIGTERM and SIGKILL to release its lock.
const GRACE_SECONDS: i64 = 30;
const RUN_VOLUME: &str = "run";
const CLAIM_VOLUME: &str = "data";
const CHECKPOINT_VOLUME: &str = "checkpoint";

/// All that tells one Job from another.
#[derive(Debug, Clone)]
pub struct JobPlan {
    /// Name of the Job and of its Secret: [`names::job_name`] or [`names::task_job_name`].
    pub name: String,
    /// Namespace of both: the claim's, or the storage's.
    pub namespace: String,
    /// Who owns both; in the same namespace.
    pub owner: OwnerReference,
    /// For whom.
    pub run: RunRef,
    /// What it does.
    pub task: JobTask,
    /// For which component, where the run has such.
    pub component: Option<String>,
    /// The claim to mount.
    pub claim: Option<ClaimMount>,
    /// Who the runner is.
    pub identity: Identity,
    /// Where it runs.
    pub placement: Placement,
    /// An application waits for the volume where the runner's node is drained: the Job ends with a runner that is evicted, and
    /// the next one is placed by where the volume is then. Without it Kubernetes starts the runner again on its node.
    pub follows: bool,
    /// What the user says about its pod.
    pub pod_config: Option<PodConfig>,
    /// What it takes a place of in the queue, when it takes one.
    pub seat: Option<Seat>,
    /// How often the Job controller tries again after a failure that may pass.
    pub retries: u32,
    /// Uids of earlier Jobs of the component whose locks its runner removes before it begins.
    pub dead_jobs: Vec<String>,
    /// When the Job is ended, counted from its start.
    pub deadline: Duration,
}

/// A claim in a runner's pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimMount {
    /// Name of the claim.
    pub claim: String,
    /// Where it is mounted: [`names::data_path`].
    pub path: String,
    /// Mounted so that nothing can be written.
    pub read_only: bool,
}

/// Who a runner is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Uid 65532 without any right: for tasks that mount no claim.
    Unprivileged,
    /// The identity of the workload that uses the claim. Never uid 0.
    Workload {
        /// User.
        uid: i64,
        /// Group; that of uid 65532 when the workload names none.
        gid: Option<i64>,
        /// Further groups, with the pod's `fsGroup` among them.
        supplemental_groups: Vec<i64>,
        /// Group that the volume is given to when it is mounted: only for a volume without data.
        fs_group: Option<i64>,
        /// SELinux level.
        selinux_level: Option<String>,
    },
    /// Uid 0 with what reading needs: past file modes, nothing else.
    RootReader {
        /// SELinux level.
        selinux_level: Option<String>,
    },
    /// Uid 0 with what restoring needs: also owners, modes, devices, file capabilities.
    RootWriter {
        /// SELinux level.
        selinux_level: Option<String>,
    },
}

impl Identity {
    /// Uid 0.
    pub const fn is_root(&self) -> bool {
        matches!(self, Self::RootReader { .. } | Self::RootWriter { .. })
    }

    /// The user id.
    pub const fn uid(&self) -> i64 {
        match self {
            Self::Unprivileged => UNPRIVILEGED,
            Self::Workload { uid, .. } => *uid,
            Self::RootReader { .. } | Self::RootWriter { .. } => 0,
        }
    }

    /// The capabilities that are kept; all of the Pod Security baseline.
    fn capabilities(&self) -> &'static [&'static str] {
        match self {
            Self::Unprivileged | Self::Workload { .. } => &[],
            // DAC_READ_SEARCH would be enough, but the baseline does not hold it.
            Self::RootReader { .. } => &["DAC_OVERRIDE"],
            Self::RootWriter { .. } => &["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP"],
        }
    }

    fn pod_security_context(&self) -> PodSecurityContext {
        let (gid, groups, fs_group, level) = match self {
            Self::Unprivileged => (UNPRIVILEGED, Vec::new(), None, None),
            Self::Workload { uid: _, gid, supplemental_groups, fs_group, selinux_level } => {
                (gid.unwrap_or(UNPRIVILEGED), supplemental_groups.clone(), *fs_group, selinux_level.clone())
            }
            Self::RootReader { selinux_level } | Self::RootWriter { selinux_level } => {
                (0, Vec::new(), None, selinux_level.clone())
            }
        };
        PodSecurityContext {
            run_as_user: Some(self.uid()),
            run_as_group: Some(gid),
            run_as_non_root: Some(!self.is_root()),
            supplemental_groups: (!groups.is_empty()).then_some(groups),
            // Never on a volume with data: kubelet would change the owner of every file of the application.
            fs_group,
            // Nor again on the next attempt, when the files have the modes they should have.
            fs_group_change_policy: fs_group.map(|_| "OnRootMismatch".to_owned()),
            se_linux_options: level
                .map(|level| SELinuxOptions { level: Some(level), ..SELinuxOptions::default() }),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }
    }

    fn container_security_context(&self) -> SecurityContext {
        let add: Vec<String> = self.capabilities().iter().map(|&c| c.to_owned()).collect();
        SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".into()]),
                add: (!add.is_empty()).then_some(add),
            }),
            ..SecurityContext::default()
        }
    }
}

/// Where a runner runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Placement {
    /// Where the scheduler likes; it knows where a volume can be mounted.
    Anywhere,
    /// On the node of the pod that uses the claim, with that pod's tolerations.
    Node {
        /// Name of the node.
        name: String,
        /// Tolerations of the pod that uses the claim.
        tolerations: Vec<Toleration>,
    },
    /// Where a pod of the workload that will use the claim could run: the claim has no volume yet, and gets one on
    /// the node that the runner is placed on.
    Like {
        /// Node labels that the workload asks for.
        node_selector: BTreeMap<String, String>,
        /// Node affinity of the workload.
        node_affinity: Option<Box<NodeAffinity>>,
        /// Tolerations of the workload.
        tolerations: Vec<Toleration>,
    },
}

impl Placement {
    fn affinity(&self) -> Option<Affinity> {
        let name = match self {
            Self::Anywhere => return None,
            Self::Like { node_affinity, .. } => {
                let node_affinity = node_affinity.as_deref().cloned()?;
                return Some(Affinity { node_affinity: Some(node_affinity), ..Affinity::default() });
            }
            Self::Node { name, .. } => name,
        };
        // By the node's name and not by its label `kubernetes.io/hostname`, which may differ from it.
        let term = NodeSelectorTerm {
            match_fields: Some(vec![NodeSelectorRequirement {
                key: "metadata.name".into(),
                operator: "In".into(),
                values: Some(vec![name.clone()]),
            }]),
            match_expressions: None,
        };
        Some(Affinity {
            node_affinity: Some(NodeAffinity {
                required_during_scheduling_ignored_during_execution: Some(NodeSelector {
                    node_selector_terms: vec![term],
                }),
                ..NodeAffinity::default()
            }),
            ..Affinity::default()
        })
    }

    fn node_selector(&self) -> Option<BTreeMap<String, String>> {
        match self {
            Self::Like { node_selector, .. } if !node_selector.is_empty() => Some(node_selector.clone()),
            Self::Like { .. } | Self::Anywhere | Self::Node { .. } => None,
        }
    }

    fn tolerations(&self) -> Option<Vec<Toleration>> {
        let tolerations = match self {
            Self::Anywhere => return None,
            Self::Like { tolerations, .. } => return (!tolerations.is_empty()).then(|| tolerations.clone()),
            Self::Node { tolerations, .. } => tolerations,
        };
        let mut all = tolerations.clone();
        // A cordoned node still has the volume.
        all.push(Toleration {
            key: Some("node.kubernetes.io/unschedulable".into()),
            operator: Some("Exists".into()),
            effect: Some("NoSchedule".into()),
            ..Toleration::default()
        });
        Some(all)
    }
}

impl JobPlan {
    /// Metadata of the Job, its pod and its Secret.
    fn metadata(&self) -> ObjectMeta {
        let mut labels = BTreeMap::from([
            (names::LABEL_MANAGED_BY.to_owned(), names::MANAGED_BY.to_owned()),
            (names::LABEL_RUN_KIND.to_owned(), self.run.kind.as_str().to_owned()),
            (names::LABEL_RUN_NAME.to_owned(), names::label_value(&self.run.name)),
            (names::LABEL_RUN_UID.to_owned(), self.run.uid.clone()),
            (names::LABEL_TASK.to_owned(), self.task.as_str().to_owned()),
        ]);
        let mut annotations = BTreeMap::from([(
            ANNOTATION_RUN.to_owned(),
            format!("{}/{}", self.run.namespace, self.run.name),
        )]);
        if let Some(component) = &self.component {
            labels.insert(names::LABEL_COMPONENT.to_owned(), names::component_label(component));
            annotations.insert(names::ANNOTATION_COMPONENT.to_owned(), component.clone());
        }
        ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..ObjectMeta::default() }
    }

    /// Metadata of the Job: what it takes a place of stands on it.
    fn job_metadata(&self) -> ObjectMeta {
        let mut metadata = self.owned_metadata();
        if let Some(seat) = &self.seat {
            // A struct of texts always serialises; a Job that says nothing counts where it can be counted.
            let text = serde_json::to_string(seat).unwrap_or_default();
            metadata.annotations.get_or_insert_default().insert(ANNOTATION_PLACE.to_owned(), text);
        }
        if !self.dead_jobs.is_empty() {
            let uids = self.dead_jobs.join(",");
            metadata.annotations.get_or_insert_default().insert(ANNOTATION_DEAD_JOBS.to_owned(), uids);
        }
        metadata
    }

    fn owned_metadata(&self) -> ObjectMeta {
        ObjectMeta {
            name: Some(self.name.clone()),
            namespace: Some(self.namespace.clone()),
            owner_references: Some(vec![self.owner.clone()]),
            ..self.metadata()
        }
    }
}

/// The Secret that a Job's pods read: run spec and credentials, as files.
pub fn secret(plan: &JobPlan, spec: &str, credentials: &RunnerFiles) -> Secret {
    let mut data: BTreeMap<String, ByteString> = credentials.data();
    data.insert(files::SPEC.to_owned(), ByteString(spec.as_bytes().to_vec()));
    Secret {
        metadata: plan.owned_metadata(),
        data: Some(data),
        // What a run was started with never changes under it; kubelet need not watch it either.
        immutable: Some(true),
        type_: Some("Opaque".into()),
        ..Secret::default()
    }
}

/// The Job.
pub fn job(plan: &JobPlan, settings: &Options) -> Job {
    let mut template =
        PodTemplateSpec { metadata: Some(plan.metadata()), spec: Some(pod_spec(plan, settings)) };
    if let Some(config) = &plan.pod_config {
        pod_config::apply(&mut template, config);
    }
    Job {
        metadata: plan.job_metadata(),
        spec: Some(JobSpec {
            completions: Some(1),
            parallelism: Some(1),
            backoff_limit: Some(i32::try_from(plan.retries).unwrap_or(i32::MAX)),
            active_deadline_seconds: Some(i64::try_from(plan.deadline.as_secs()).unwrap_or(i64::MAX).max(1)),
            pod_failure_policy: Some(failure_policy(plan.follows)),
            // A second runner never starts beside one that is still stopping.
            pod_replacement_policy: Some("Failed".into()),
            template,
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// The pod that a Job's controller would make, for asking beforehand whether it is admitted.
pub fn pod(job: &Job) -> Option<Pod> {
    let template = &job.spec.as_ref()?.template;
    let metadata = template.metadata.clone().unwrap_or_default();
    Some(Pod {
        metadata: ObjectMeta {
            generate_name: job.metadata.name.as_ref().map(|name| format!("{name}-")),
            namespace: job.metadata.namespace.clone(),
            ..metadata
        },
        spec: template.spec.clone(),
        status: None,
    })
}

/// What the Job controller does when a pod fails.
///
/// A runner that `follows` its volume and was evicted is not started again by it: the Job names the node, and would hold the
/// volume on the one that is drained while the application waits for it on another. Where it goes on is planned anew. Of all
/// others the data is on this node alone, or nobody waits for it: they come back when the node does.
fn failure_policy(follows: bool) -> PodFailurePolicy {
    let disrupted = PodFailurePolicyRule {
        action: if follows { "FailJob" } else { "Ignore" }.into(),
        on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
            type_: DISRUPTED.into(),
            status: Some("True".into()),
        }]),
        on_exit_codes: None,
    };
    let fatal = PodFailurePolicyRule {
        action: "FailJob".into(),
        on_pod_conditions: None,
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: Some(CONTAINER.into()),
            operator: "In".into(),
            values: vec![exit::FATAL],
        }),
    };
    // The order counts: a drained node is nobody's failure, whatever the exit code.
    PodFailurePolicy { rules: vec![disrupted, fatal] }
}

fn pod_spec(plan: &JobPlan, settings: &Options) -> PodSpec {
    let mut volumes = vec![Volume {
        name: RUN_VOLUME.into(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(plan.name.clone()),
            // The runner may have any uid, and an fsGroup is out of the question.
            default_mode: Some(0o444),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }];
    let mut mounts = vec![VolumeMount {
        name: RUN_VOLUME.into(),
        mount_path: files::DIRECTORY.into(),
        read_only: Some(true),
        ..VolumeMount::default()
    }];
    if let Some(claim) = &plan.claim {
        volumes.push(Volume {
            name: CLAIM_VOLUME.into(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.claim.clone(),
                read_only: Some(claim.read_only),
            }),
            ..Volume::default()
        });
        mounts.push(VolumeMount {
            name: CLAIM_VOLUME.into(),
            mount_path: claim.path.clone(),
            read_only: Some(claim.read_only),
            ..VolumeMount::default()
        });
    }
    if let (JobTask::Backup, Some(component)) = (plan.task, &plan.component) {
        volumes.push(Volume {
            name: CHECKPOINT_VOLUME.into(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(checkpoint::name(&plan.run, component)),
                default_mode: Some(0o444),
                // There is none before the first one was made.
                optional: Some(true),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        });
        mounts.push(VolumeMount {
            name: CHECKPOINT_VOLUME.into(),
            mount_path: files::CHECKPOINT_DIRECTORY.into(),
            read_only: Some(true),
            ..VolumeMount::default()
        });
    }
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        restart_policy: Some("Never".into()),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        security_context: Some(plan.identity.pod_security_context()),
        affinity: plan.placement.affinity(),
        node_selector: plan.placement.node_selector(),
        tolerations: plan.placement.tolerations(),
        image_pull_secrets: pull_secrets(settings),
        volumes: Some(volumes),
        containers: vec![Container {
            name: CONTAINER.into(),
            image: Some(settings.runner_image.clone()),
            image_pull_policy: Some(settings.runner_image_pull_policy.clone()),
            args: Some(vec!["run".into()]),
            env: Some(vec![
                field(files::JOB_UID_VARIABLE, "metadata.labels['batch.kubernetes.io/controller-uid']"),
                field(files::POD_NAME_VARIABLE, "metadata.name"),
            ]),
            resources: Some(resources(settings)),
            security_context: Some(plan.identity.container_security_context()),
            termination_message_path: Some(files::TERMINATION_MESSAGE.into()),
            // A runner that could not write its verdict left its last words in the log.
            termination_message_policy: Some("FallbackToLogsOnError".into()),
            volume_mounts: Some(mounts),
            ..Container::default()
        }],
        ..PodSpec::default()
    }
}

/// None where none is set: then those of the ServiceAccount count.
fn pull_secrets(settings: &Options) -> Option<Vec<LocalObjectReference>> {
    let all: Vec<LocalObjectReference> = settings
        .runner_image_pull_secrets
        .iter()
        .filter(|name| !name.is_empty())
        .map(|name| LocalObjectReference { name: name.clone() })
        .collect();
    (!all.is_empty()).then_some(all)
}

fn field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.into(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: path.into(), api_version: None }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

fn resources(settings: &Options) -> ResourceRequirements {
    let quantities = |all: &[(&str, &String)]| -> Option<BTreeMap<String, Quantity>> {
        let set: BTreeMap<_, _> = all
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| ((*name).to_owned(), Quantity((*value).clone())))
            .collect();
        (!set.is_empty()).then_some(set)
    };
    ResourceRequirements {
        requests: quantities(&[
            ("cpu", &settings.runner_cpu_request),
            ("memory", &settings.runner_memory_request),
        ]),
        limits: quantities(&[("memory", &settings.runner_memory_limit)]),
        claims: None,
    }
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
