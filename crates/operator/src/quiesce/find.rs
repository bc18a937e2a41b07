//! Which workloads have to be scaled so that nobody uses a claim, and which pods nobody can scale away. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::workload::{Workload, WorkloadId, WorkloadKind, controller_of};
use crate::volumes::active_pods;

/// The pods and workloads of one namespace, as they were read together.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// Pods.
    pub pods: Vec<Pod>,
    /// Deployments, stateful and replica sets.
    pub workloads: Vec<Workload>,
}

/// Who uses a claim.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Users {
    /// Workloads to scale, also those whose pods are not there at the moment.
    pub scalable: BTreeSet<WorkloadId>,
    /// Pods that no scaling removes, with what owns them, as text for people: `Pod/x of DaemonSet/y`.
    pub others: Vec<String>,
}

impl Inventory {
    /// All of a namespace.
    pub fn new(
        pods: Vec<Pod>,
        deployments: &[Deployment],
        stateful_sets: &[StatefulSet],
        replica_sets: &[ReplicaSet],
    ) -> Self {
        let workloads = deployments
            .iter()
            .map(Workload::from)
            .chain(stateful_sets.iter().map(Workload::from))
            .chain(replica_sets.iter().map(Workload::from))
            .collect();
        Self { pods, workloads }
    }

    /// The workload of this kind and name.
    pub fn workload(&self, id: &WorkloadId) -> Option<&Workload> {
        self.workloads.iter().find(|workload| workload.id == *id)
    }

    /// Whether no controller starts pods of this workload any more. A Deployment is down when its replica sets are:
    /// they are told a moment after it.
    pub fn is_down(&self, id: &WorkloadId) -> bool {
        let Some(workload) = self.workload(id) else { return true };
        let below = |child: &&Workload| child.owner.as_ref().is_some_and(|owner| owner.uid == workload.uid);
        workload.is_down && self.workloads.iter().filter(below).all(|child| child.is_down)
    }

    /// Who uses a claim, or would as soon as it can start a pod. One that a run holds at zero counts: it comes back
    /// when that run lets go, unless another holds it too.
    pub fn users_of(&self, claim: &str) -> Users {
        let mut users = Users::default();
        for pod in active_pods(&self.pods, claim) {
            match self.starter_of(pod) {
                Ok(id) => {
                    users.scalable.insert(id);
                }
                Err(owner) => users.others.push(owner),
            }
        }
        let comes_back =
            |workload: &&Workload| workload.replicas > 0 || matches!(workload.record, Ok(Some(_)));
        let idle = self.workloads.iter().filter(comes_back).filter(|workload| workload.would_use(claim));
        users.scalable.extend(idle.filter_map(|workload| self.top_of(workload).ok()));
        users
    }

    /// A pod as it would use the claim: one that is there, else one made up from a workload's template.
    pub fn model_pod(&self, claim: &str) -> Option<Pod> {
        if let Some(pod) = active_pods(&self.pods, claim).first() {
            return Some((*pod).clone());
        }
        let workload = self.workloads.iter().find(|workload| workload.would_use(claim))?;
        let template = workload.template.clone()?;
        let mut spec = template.spec?;
        // In a template, a claim made from a claim template is only a mount name; give it its volume.
        for name in &workload.claim_templates {
            if claim.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('-')) {
                spec.volumes.get_or_insert_default().push(claim_volume(name, claim));
            }
        }
        Some(Pod { metadata: template.metadata.unwrap_or_default(), spec: Some(spec), status: None })
    }

    /// What has to be scaled so that a pod goes, or why nothing does.
    fn starter_of(&self, pod: &Pod) -> Result<WorkloadId, String> {
        let name = pod.name_any();
        let Some(owner) = controller_of(&pod.metadata) else {
            return Err(format!("Pod/{name}, which nothing owns"));
        };
        let workload = match owner.kind.as_str() {
            "StatefulSet" | "ReplicaSet" => {
                self.workloads.iter().find(|workload| workload.uid == owner.uid && !owner.uid.is_empty())
            }
            _ => None,
        };
        match workload {
            Some(workload) => self.top_of(workload).map_err(|top| format!("Pod/{name} of {top}")),
            None => Err(format!("Pod/{name} of {}/{}", owner.kind, owner.name)),
        }
    }

    /// The Deployment above a replica set, or the workload itself. A replica set of anything else would be scaled up
    /// again by its owner.
    fn top_of(&self, workload: &Workload) -> Result<WorkloadId, String> {
        match (&workload.owner, workload.id.kind) {
            (Some(owner), WorkloadKind::ReplicaSet) => self
                .workloads
                .iter()
                .find(|above| above.id.kind == WorkloadKind::Deployment && above.uid == owner.uid)
                .map(|above| above.id.clone())
                .ok_or_else(|| format!("{} of {}/{}", workload.id, owner.kind, owner.name)),
            _ => Ok(workload.id.clone()),
        }
    }
}

fn claim_volume(name: &str, claim: &str) -> k8s_openapi::api::core::v1::Volume {
    use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, Volume};
    Volume {
        name: name.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.to_owned(),
            read_only: None,
        }),
        ..Volume::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(kind: WorkloadKind, name: &str) -> WorkloadId {
        WorkloadId { kind, name: name.into() }
    }

    fn pods(yaml: &str) -> Vec<Pod> {
        serde_saphyr::from_str(yaml).unwrap()
    }

    fn owned(pod: &str, kind: &str, name: &str) -> String {
        format!(
            r"
- metadata:
    name: {pod}
    ownerReferences: [{{apiVersion: x, kind: {kind}, name: {name}, uid: {name}-uid, controller: true}}]
  spec: {{containers: [], volumes: [{{name: d, persistentVolumeClaim: {{claimName: data}}}}]}}
  status: {{phase: Running}}
"
        )
    }

    fn deployments() -> Vec<Deployment> {
        serde_saphyr::from_str(
            "[{metadata: {name: web, uid: web-uid}, spec: {replicas: 2, selector: {}, template: {}}}]",
        )
        .unwrap()
    }

    fn replica_sets() -> Vec<ReplicaSet> {
        serde_saphyr::from_str(
            r"
- metadata:
    {name: web-1, uid: web-1-uid, ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: web, uid: web-uid, controller: true}]}
  spec: {replicas: 2, selector: {}}
- metadata: {name: bare, uid: bare-uid}
  spec: {replicas: 1, selector: {}}
- metadata:
    {name: roll-1, uid: roll-1-uid, ownerReferences: [{apiVersion: argoproj.io/v1alpha1, kind: Rollout, name: roll, uid: roll-uid, controller: true}]}
  spec: {replicas: 1, selector: {}}
",
        )
        .unwrap()
    }

    #[test]
    fn the_deployment_above_a_replica_set_is_scaled_and_a_bare_one_itself() {
        let yaml = owned("web-1-a", "ReplicaSet", "web-1") + &owned("bare-a", "ReplicaSet", "bare");
        let users = Inventory::new(pods(&yaml), &deployments(), &[], &replica_sets()).users_of("data");
        let expected =
            [id(WorkloadKind::Deployment, "web"), id(WorkloadKind::ReplicaSet, "bare")].into_iter().collect();
        assert_eq!(users, Users { scalable: expected, others: vec![] });
    }

    #[test]
    fn a_deployment_is_down_when_its_replica_sets_are() {
        let deployments: Vec<Deployment> = serde_saphyr::from_str(
            r"
- metadata: {name: web, uid: web-uid, generation: 3}
  spec: {replicas: 0, selector: {}, template: {}}
  status: {observedGeneration: 3, replicas: 0}
",
        )
        .unwrap();
        let sets = |replicas: u32, observed: u32, pods: u32| -> Vec<ReplicaSet> {
            serde_saphyr::from_str(&format!(
                r"
- metadata:
    {{name: web-1, uid: x, generation: 2, ownerReferences: [{{apiVersion: apps/v1, kind: Deployment, name: web, uid: web-uid, controller: true}}]}}
  spec: {{replicas: {replicas}, selector: {{}}}}
  status: {{observedGeneration: {observed}, replicas: {pods}}}
"
            ))
            .unwrap()
        };
        let web = id(WorkloadKind::Deployment, "web");
        for (replicas, observed, pods, down) in
            [(0, 2, 0, true), (1, 2, 0, false), (0, 1, 0, false), (0, 2, 1, false)]
        {
            let inventory = Inventory::new(vec![], &deployments, &[], &sets(replicas, observed, pods));
            assert_eq!(inventory.is_down(&web), down, "{replicas} {observed} {pods}");
        }
    }

    #[test]
    fn every_other_pod_is_named_with_its_owner() {
        let yaml = owned("logs-x", "DaemonSet", "logs")
            + &owned("job-x", "Job", "import")
            + &owned("roll-1-a", "ReplicaSet", "roll-1")
            + "- {metadata: {name: shell}, spec: {containers: [], volumes: [{name: d, persistentVolumeClaim: {claimName: data}}]}}\n";
        let users = Inventory::new(pods(&yaml), &deployments(), &[], &replica_sets()).users_of("data");
        assert!(users.scalable.is_empty());
        let text = users.others.join("; ");
        for part in [
            "Pod/logs-x of DaemonSet/logs",
            "Pod/job-x of Job/import",
            "Pod/roll-1-a of ReplicaSet/roll-1 of Rollout/roll",
            "Pod/shell, which nothing owns",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn pods_that_ended_and_our_own_runners_do_not_count() {
        let yaml = r"
- {metadata: {name: done}, spec: {containers: [], volumes: [{name: d, persistentVolumeClaim: {claimName: data}}]}, status: {phase: Succeeded}}
- {metadata: {name: ours, labels: {app.kubernetes.io/managed-by: holdfast, holdfast.dev/run-uid: r}}, spec: {containers: [], volumes: [{name: d, persistentVolumeClaim: {claimName: data}}]}}
";
        let users = Inventory::new(pods(yaml), &[], &[], &[]).users_of("data");
        assert_eq!(users, Users::default());
    }

    #[test]
    fn a_workload_that_could_start_a_pod_at_any_time_counts_without_one() {
        let sets: Vec<StatefulSet> = serde_saphyr::from_str(
            r"
- metadata: {name: db, uid: db-uid}
  spec: {replicas: 1, selector: {}, serviceName: db, template: {}, volumeClaimTemplates: [{metadata: {name: data}}]}
",
        )
        .unwrap();
        let inventory = Inventory::new(vec![], &[], &sets, &[]);
        assert!(inventory.users_of("data-db-0").scalable.contains(&id(WorkloadKind::StatefulSet, "db")));
        assert!(inventory.users_of("data-db-x").scalable.is_empty());
        assert!(inventory.users_of("data-other-0").scalable.is_empty());
    }

    /// Another run that did not join would see it come back while it writes.
    #[test]
    fn a_workload_that_another_run_holds_at_zero_counts_and_one_at_rest_does_not() {
        let deployment = |annotations: &str| -> Vec<Deployment> {
            serde_saphyr::from_str(&format!(
                r"
- metadata: {{name: web, uid: web-uid, annotations: {annotations}}}
  spec:
    replicas: 0
    selector: {{}}
    template: {{spec: {{containers: [], volumes: [{{name: d, persistentVolumeClaim: {{claimName: two}}}}]}}}}
"
            ))
            .unwrap()
        };
        let users = |annotations: &str| {
            Inventory::new(vec![], &deployment(annotations), &[], &[]).users_of("two").scalable
        };
        let held = users(r#"{holdfast.dev/quiesce: '{"replicas":3,"holders":["a"]}'}"#);
        assert_eq!(held, [id(WorkloadKind::Deployment, "web")].into_iter().collect());
        assert!(users("{}").is_empty());
    }
}
