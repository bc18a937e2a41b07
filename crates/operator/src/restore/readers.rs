//! Which runners of Backups may still read the claims that a Restore is about to write. They are told to stop by their
//! Backup ([`crate::backup::overlap`]), as soon as the Restore has written down that it begins.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_api::Reason;
use holdfast_api::restore::RestoreStatus;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::controller::Action;

use super::apply::Look;
use crate::jobs::RunKind;
use crate::kubernetes;
use crate::runs::RunError;
use crate::volumes::consumers::{is_over, node_of};
use crate::volumes::uses_claim;

/// How often it looks whether Backups have stopped to read: the end of a pod wakes the Restore, that of a Job does not.
pub(super) const READERS_LOOK: Duration = Duration::from_secs(1);

impl Look<'_> {
    /// What a Restore waits for while a Backup may still read one of the claims. To be asked after its own phase is
    /// written down: a Job that is started later finds that.
    pub(super) async fn being_read(&self, claims: &[String]) -> Result<Option<String>, RunError> {
        let (client, ns) = (&self.ctx.client, &self.run.namespace);
        let selector = RunKind::Backup.selector();
        // Jobs first: the pod of one that could still make some is then among the pods, or the Job counts.
        let jobs = kubernetes::list::<Job>(client, ns, &selector).await?;
        let pods = kubernetes::list::<Pod>(client, ns, &selector).await?;
        Ok(readers(&jobs, &pods, claims))
    }

    /// A Backup still reads what is to be written. The phase of this Restore tells it to stop.
    pub(super) async fn wait_for_readers(
        &self,
        status: RestoreStatus,
        cause: &str,
    ) -> Result<Action, RunError> {
        self.blocked(status, Reason::ClaimInUse, cause, true).await?;
        Ok(Action::requeue(READERS_LOOK))
    }
}

/// The pods that may read one of the claims, and the Jobs that may start one, for people.
fn readers(jobs: &[Job], pods: &[Pod], claims: &[String]) -> Option<String> {
    let reads = |pod: &&Pod| {
        let name = pod.metadata.name.as_deref();
        let spec = pod.spec.as_ref();
        !is_over(pod) && spec.is_some_and(|spec| claims.iter().any(|claim| uses_claim(spec, name, claim)))
    };
    let at_work: BTreeSet<String> = pods
        .iter()
        .filter(reads)
        .map(|pod| format!("the pod {} on the node {}", pod.name_any(), node_of(pod).unwrap_or("(none)")))
        .collect();
    if !at_work.is_empty() {
        let shown: Vec<String> = at_work.into_iter().take(5).collect();
        return Some(format!(
            "waits until Backups have stopped to read the claims: {}; if that node is gone for good, delete its Node \
             object",
            shown.join(", ")
        ));
    }
    let may_read = |job: &&Job| {
        let template = job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        may_start_pods(job)
            && template.is_some_and(|spec| claims.iter().any(|claim| uses_claim(spec, None, claim)))
    };
    let job = jobs.iter().find(may_read)?;
    Some(format!(
        "waits until the Job {} of a Backup, which reads a claim, is stopped or over",
        job.name_any()
    ))
}

/// Whether Kubernetes may still start a pod of a Job. That it is to be suspended is not enough: who makes the pods has
/// to have seen it.
fn may_start_pods(job: &Job) -> bool {
    const OVER: [&str; 5] = ["Complete", "Failed", "SuccessCriteriaMet", "FailureTarget", "Suspended"];
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut said = conditions.filter(|one| one.status == "True");
    job.metadata.deletion_timestamp.is_none() && !said.any(|one| OVER.contains(&one.type_.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(status: &str) -> Job {
        serde_saphyr::from_str(&format!(
            r"
metadata: {{name: hf-run}}
spec:
  template:
    spec: {{containers: [], volumes: [{{name: data, persistentVolumeClaim: {{claimName: data}}}}]}}
status: {status}
"
        ))
        .unwrap()
    }

    fn pod(phase: &str) -> Pod {
        serde_saphyr::from_str(&format!(
            r"
metadata: {{name: hf-run-x}}
spec:
  nodeName: n1
  containers: []
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: data}}}}]
status: {{phase: {phase}}}
"
        ))
        .unwrap()
    }

    #[test]
    fn a_restore_waits_for_every_pod_that_may_read_its_claims() {
        let of = |phase: &str, claim: &str| readers(&[], &[pod(phase)], &[claim.to_owned()]);
        for phase in ["Pending", "Running", "Unknown"] {
            let said = of(phase, "data").unwrap();
            assert!(said.contains("hf-run-x on the node n1"), "{said}");
            assert_eq!(of(phase, "other"), None);
        }
        assert_eq!(of("Succeeded", "data"), None);
        assert_eq!(of("Failed", "data"), None);
    }

    #[test]
    fn and_for_every_job_that_may_still_start_one() {
        let claims = ["data".to_owned()];
        let of = |status: &str| readers(&[job(status)], &[], &claims);
        assert!(of("{}").unwrap().contains("hf-run"));
        assert!(of("{conditions: [{type: Suspended, status: 'False'}]}").is_some());
        for said in ["Suspended", "Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"] {
            assert_eq!(of(&format!("{{conditions: [{{type: {said}, status: 'True'}}]}}")), None, "{said}");
        }
        assert_eq!(readers(&[job("{}")], &[], &["other".to_owned()]), None);
        let mut going = job("{}");
        let when = "2026-11-20T02:00:00Z".parse().unwrap();
        going.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(when));
        assert_eq!(readers(&[going], &[], &claims), None);
    }
}
