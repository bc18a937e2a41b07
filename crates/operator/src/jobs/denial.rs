//! Finding out whether the cluster admits a runner's pod, before its Job is made, and whether there are keys for it. A Job
//! whose pods are refused would wait for ever, with the reason only in an Event. Here is also told why a Job or its Secret
//! was not taken.

use holdfast_api::conditions::Reason;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};

use super::build;
use crate::access::StorageName;
use crate::errors::Chain;
use crate::kubernetes::{self, RequestError};
use crate::sts::ExchangeError;

/// The cluster does not admit the Job, its pod or its Secret, or there are no keys for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// In one word.
    pub reason: Reason,
    /// Cause and what to do.
    pub message: String,
    /// Whether it may pass without anybody changing anything that we watch, as a used-up quota does.
    pub may_pass: bool,
}

impl Denial {
    /// There are no keys for a run of an object in this namespace. Roles and their policies change outside the cluster,
    /// so that all of it may pass.
    ///
    /// What a service says names accounts, users and roles of the storage's owner: only their namespace reads it.
    pub fn no_keys(error: &ExchangeError, storage: Option<&StorageName>, namespace: &str) -> Self {
        let reason = error.reason();
        let is_own = storage.is_some_and(|storage| storage.namespace == namespace);
        let message = match (error, storage) {
            // About names that the run itself has.
            (ExchangeError::Policy(_), _) => Chain(error).to_string(),
            _ if is_own => Chain(error).to_string(),
            (_, Some(StorageName { namespace, name })) => {
                format!(
                    "the storage gives no keys for the run ({reason}): see BackupStorage {namespace}/{name}"
                )
            }
            (_, None) => {
                let reason = reason.as_str();
                format!("the storage gives no keys for the run ({reason}): see its BackupStorage")
            }
        };
        Self { reason, message, may_pass: true }
    }

    /// The cluster does not take the Job or its Secret: a quota, an admission rule. None for any other error.
    ///
    /// All of it may pass: a quota has room again, and nothing tells us of a rule that was changed.
    pub fn not_taken(error: &RequestError) -> Option<Self> {
        let kube::Error::Api(status) = &*error.source else { return None };
        if error.verb != "create" || !error.is_refused() || error.namespace_is_terminating() {
            return None;
        }
        let RequestError { kind, namespace, .. } = error;
        let said = &status.message;
        let message = if said.contains("exceeded quota") {
            format!(
                "the quota of namespace {namespace} leaves no room for the runner's {kind}; raise it: {said}"
            )
        } else {
            format!("namespace {namespace} does not admit the runner's {kind}: {said}")
        };
        Some(Self { reason: Reason::Failed, message, may_pass: true })
    }
}

/// Asks by a dry run whether the pod of this Job would be made.
pub async fn ask(client: &Client, job: &Job) -> Result<Option<Denial>, RequestError> {
    let Some(pod) = build::pod(job) else { return Ok(None) };
    let namespace = job.namespace().unwrap_or_default();
    let params = PostParams { dry_run: true, field_manager: Some(kubernetes::MANAGER.into()) };
    match Api::<Pod>::namespaced(client.clone(), &namespace).create(&params, &pod).await {
        Ok(_) => Ok(None),
        Err(error) if kubernetes::is_namespace_terminating(&error) => Err(RequestError {
            verb: "create",
            kind: "Pod".into(),
            namespace,
            name: job.name_any(),
            source: Box::new(error),
        }),
        Err(kube::Error::Api(status)) if status.is_forbidden() || status.is_invalid() => {
            Ok(Some(judge(&status.message, &namespace)))
        }
        // Anything else is the server's trouble, not a verdict on the pod: the Job itself will tell.
        Err(error) => {
            tracing::debug!(
                error = %Chain(&error),
                namespace,
                "the dry run of a pod gave no answer"
            );
            Ok(None)
        }
    }
}

fn judge(said: &str, namespace: &str) -> Denial {
    if said.contains("violates PodSecurity") {
        return Denial {
            reason: Reason::PodSecurityDenied,
            message: format!(
                "Pod Security of namespace {namespace} does not admit the runner's pod; set runAs: Workload, or let \
                 an administrator lower the namespace's level: {said}"
            ),
            may_pass: false,
        };
    }
    if let Some(kind) =
        [("no PriorityClass with name", "PriorityClass"), ("pod rejected: RuntimeClass", "RuntimeClass")]
            .into_iter()
            .find_map(|(text, kind)| said.contains(text).then_some(kind))
    {
        return Denial {
            reason: Reason::PodConfigInvalid,
            message: format!(
                "the PodConfig of the run names a {kind} that the cluster does not have; create it, or name another \
                 one: {said}"
            ),
            may_pass: false,
        };
    }
    if said.contains("failed quota") || said.contains("usage per Container") || said.contains("usage per Pod")
    {
        return Denial {
            reason: Reason::Failed,
            message: format!(
                "a LimitRange or ResourceQuota of namespace {namespace} wants other resources than the runner's; set \
                 them in a PodConfig and name it in spec.podConfigRef: {said}"
            ),
            may_pass: false,
        };
    }
    if said.contains("exceeded quota") {
        return Denial {
            reason: Reason::Failed,
            message: format!(
                "the quota of namespace {namespace} leaves no room for the runner's pod; raise it: {said}"
            ),
            may_pass: true,
        };
    }
    Denial {
        reason: Reason::Failed,
        message: format!("namespace {namespace} does not admit the runner's pod: {said}"),
        may_pass: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sts::{NotAllowed, PolicyError};

    #[test]
    fn what_a_token_service_says_is_read_by_the_storages_namespace_only() {
        let said =
            "403 AccessDenied User: arn:aws:iam::123456789012:user/backup is not authorized".to_owned();
        let refused = || ExchangeError::Refused {
            reason: Reason::AccessDenied,
            said: said.clone(),
            advice: "allow it",
        };
        let endpoint = || "https://sts.internal.example".to_owned();
        let errors = [
            refused(),
            ExchangeError::Unreachable { endpoint: endpoint(), cause: "refused".into() },
            ExchangeError::Certificate { endpoint: endpoint(), cause: "it has expired", advice: "name it" },
            NotAllowed::Service { endpoint: endpoint(), audience: "sts".into() }.into(),
        ];
        let storage = StorageName { namespace: "storage".into(), name: "main".into() };
        for error in &errors {
            let own = Denial::no_keys(error, Some(&storage), "storage");
            assert_eq!(own.message, error.to_string());
            for (storage, see) in
                [(Some(&storage), "see BackupStorage storage/main"), (None, "its BackupStorage")]
            {
                let elsewhere = Denial::no_keys(error, storage, "shop");
                assert!(elsewhere.message.contains(see), "{}", elsewhere.message);
                assert!(elsewhere.message.contains(error.reason().as_str()), "{}", elsewhere.message);
                for word in ["arn:", "1234", "backup ", "internal"] {
                    assert!(!elsewhere.message.contains(word), "{}", elsewhere.message);
                }
                assert_eq!((elsewhere.reason, elsewhere.may_pass), (error.reason(), true));
            }
        }
        // What only whoever named the directory can mend is told there.
        let unsafe_name = PolicyError::Unsafe { what: "directory", name: "shop/*".into() };
        let denial = Denial::no_keys(&unsafe_name.into(), Some(&storage), "shop");
        assert!(denial.message.contains("shop/*"), "{}", denial.message);
    }

    #[test]
    fn pod_security_is_told_from_quota_and_the_rest() {
        let denial = judge(
            r#"pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true"#,
            "shop",
        );
        assert_eq!((denial.reason, denial.may_pass), (Reason::PodSecurityDenied, false));
        assert!(denial.message.contains("runAs: Workload") && denial.message.contains("shop"));
        let denial = judge(r#"pods "x" is forbidden: exceeded quota: q, requested: pods=1"#, "shop");
        assert_eq!((denial.reason, denial.may_pass), (Reason::Failed, true));
        let denial = judge(r#"pods "x" is forbidden: no PriorityClass with name low was found"#, "shop");
        assert_eq!((denial.reason, denial.may_pass), (Reason::PodConfigInvalid, false));
        for said in [
            r#"pods "x" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi"#,
            r#"pods "x" is forbidden: failed quota: q: must specify limits.cpu for: runner"#,
        ] {
            assert!(judge(said, "shop").message.contains("spec.podConfigRef"), "{said}");
        }
        assert!(!judge(r#"admission webhook "w" denied the request"#, "shop").may_pass);
    }

    /// What a request to make an object of this kind comes to when the server answers so.
    fn answered(verb: &'static str, kind: &str, code: u16, said: &str, cause: &str) -> RequestError {
        let status: kube::core::Status = serde_json::from_value(serde_json::json!({
            "status": "Failure",
            "code": code,
            "message": said,
            "details": {"causes": [{"reason": cause}]},
        }))
        .unwrap();
        RequestError {
            verb,
            kind: kind.into(),
            namespace: "shop".into(),
            name: "x".into(),
            source: Box::new(kube::Error::Api(Box::new(status))),
        }
    }

    #[test]
    fn a_secret_or_job_that_is_refused_is_waited_for_and_said() {
        let quota =
            r#"secrets "x" is forbidden: exceeded quota: few, requested: secrets=1, used: secrets=10"#;
        let denial = Denial::not_taken(&answered("create", "Secret", 403, quota, "")).unwrap();
        assert!(denial.may_pass);
        assert!(
            denial.message.starts_with("the quota of namespace shop leaves no room for the runner's Secret")
        );
        assert!(denial.message.ends_with(quota), "{}", denial.message);
        let large = answered("create", "Secret", 500, "etcdserver: request is too large", "");
        assert!(Denial::not_taken(&large).is_some());
        for code in [400, 403, 413, 422] {
            let said = r#"admission webhook "w" denied the request"#;
            let denial = Denial::not_taken(&answered("create", "Job", code, said, "")).unwrap();
            assert!(denial.may_pass && denial.message.contains("the runner's Job: admission webhook"));
        }
    }

    #[test]
    fn trouble_of_the_server_is_no_refusal() {
        for code in [401, 404, 409, 429, 500, 503] {
            let error = answered("create", "Secret", code, "no", "");
            assert_eq!(Denial::not_taken(&error), None, "{code}");
        }
        let going = answered("create", "Job", 403, "no", "NamespaceTerminating");
        assert_eq!(Denial::not_taken(&going), None, "the run goes with its namespace");
        let other = answered("delete", "Secret", 403, "no", "");
        assert_eq!(Denial::not_taken(&other), None, "that is a right that the operator lacks");
    }
}
