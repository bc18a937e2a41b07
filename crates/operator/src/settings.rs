//! Settings of the operator, read once from flags and environment. Not what users set on their objects.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::{ArgAction, Args};
use holdfast_api::backup::ClaimsDefault;

use crate::sts::WebIdentityOptions;

/// Settings of the operator. Every flag can be given by the environment variable named with it.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// Name of this cluster: the first part of every repository's directory. Never change it once it is used.
    #[arg(long, env = "HOLDFAST_CLUSTER_NAME", value_parser = cluster_name)]
    pub cluster_name: String,

    /// Namespace that the operator runs in: of its Lease and of the default storage for all namespaces.
    #[arg(long, env = "HOLDFAST_NAMESPACE")]
    pub namespace: String,

    /// Image of the runner, the same as the operator's own.
    #[arg(long, env = "HOLDFAST_RUNNER_IMAGE")]
    pub runner_image: String,

    /// When the runner's image is pulled: `Always`, `IfNotPresent` or `Never`.
    #[arg(long, env = "HOLDFAST_RUNNER_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    pub runner_image_pull_policy: String,

    /// Secret to pull the runner's image with, looked for in the namespace of each runner. Can be given several times;
    /// when it is, those of the ServiceAccount `default` are not used.
    #[arg(
        long = "runner-image-pull-secret",
        env = "HOLDFAST_RUNNER_IMAGE_PULL_SECRETS",
        value_delimiter = ','
    )]
    pub runner_image_pull_secrets: Vec<String>,

    /// CPU that a runner asks for.
    #[arg(long, env = "HOLDFAST_RUNNER_CPU_REQUEST", default_value = "50m")]
    pub runner_cpu_request: String,

    /// Memory that a runner asks for.
    #[arg(long, env = "HOLDFAST_RUNNER_MEMORY_REQUEST", default_value = "128Mi")]
    pub runner_memory_request: String,

    /// Memory at which a runner is killed; empty for no limit.
    #[arg(long, env = "HOLDFAST_RUNNER_MEMORY_LIMIT", default_value = "2Gi")]
    pub runner_memory_limit: String,

    /// What becomes of claims that neither an annotation nor a Backup speaks about: `OptOut` saves them, `OptIn` does not.
    /// The annotation `holdfast.dev/claims` of a namespace wins.
    #[arg(long, env = "HOLDFAST_CLAIMS_DEFAULT", default_value = "OptOut", value_parser = claims_default)]
    pub claims_default: ClaimsDefault,

    /// Most runners at work on a node at a time, or `unlimited`.
    #[arg(long, env = "HOLDFAST_JOBS_PER_NODE", default_value = "2", value_parser = limit)]
    pub jobs_per_node: Most,

    /// Most runners at work for a namespace at a time, or `unlimited`.
    #[arg(long, env = "HOLDFAST_JOBS_PER_NAMESPACE", default_value = "unlimited", value_parser = limit)]
    pub jobs_per_namespace: Most,

    /// Take a Lease before working, so that several replicas can stand by.
    #[arg(long, env = "HOLDFAST_LEADER_ELECTION", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub leader_election: bool,

    /// Name of this replica in the Lease: the name of the pod.
    #[arg(long, env = "HOLDFAST_POD_NAME", default_value = "")]
    pub pod_name: String,

    /// Address of the probes `/healthz` and `/readyz`.
    #[arg(long, env = "HOLDFAST_PROBE_ADDRESS", default_value = "0.0.0.0:8081")]
    pub probe_address: std::net::SocketAddr,

    /// Address of the metrics for Prometheus, `/metrics`.
    #[arg(long, env = "HOLDFAST_METRICS_ADDRESS", default_value = "0.0.0.0:8080")]
    pub metrics_address: std::net::SocketAddr,

    /// A run that gives no sign of life for so long is ended.
    #[arg(long, env = "HOLDFAST_STUCK_AFTER", default_value = "15m", value_parser = duration)]
    pub stuck_after: Duration,

    /// How often a storage is tried again.
    #[arg(long, env = "HOLDFAST_VALIDATION_PERIOD", default_value = "5m", value_parser = duration)]
    pub validation_period: Duration,

    /// How often the Snapshot objects are compared with their repository.
    #[arg(long, env = "HOLDFAST_SYNC_PERIOD", default_value = "1h", value_parser = duration)]
    pub sync_period: Duration,

    /// How often leftovers are looked for.
    #[arg(long, env = "HOLDFAST_SWEEP_PERIOD", default_value = "1h", value_parser = duration)]
    pub sweep_period: Duration,

    /// Which storages may be reached with tokens of `ServiceAccounts`.
    #[command(flatten)]
    pub web_identity: WebIdentityOptions,
}

/// A limit, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Most(pub Option<NonZeroU32>);

/// A number above zero, or `unlimited`.
fn limit(text: &str) -> Result<Most, String> {
    if text == "unlimited" {
        return Ok(Most(None));
    }
    let number = text.parse().map_err(|_| "a limit is a number above zero, or `unlimited`".to_owned())?;
    Ok(Most(Some(number)))
}

/// A cluster's name becomes a directory in the bucket and a label, so it is held to what both take.
fn cluster_name(text: &str) -> Result<String, String> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if text.len() > 63 || !text.starts_with(edge) || !text.ends_with(edge) || !text.chars().all(inner) {
        return Err(
            "a cluster's name is 1 to 63 lower-case letters, digits and dashes, and neither begins nor \
                    ends with a dash"
                .to_owned(),
        );
    }
    Ok(text.to_owned())
}

/// What becomes of claims that nobody speaks about.
fn claims_default(text: &str) -> Result<ClaimsDefault, String> {
    let known = ClaimsDefault::ALL.iter().copied().find(|default| default.as_str() == text);
    known.ok_or_else(|| "the default for claims is OptOut or OptIn".to_owned())
}

/// A length of time as in the custom resources: `15m`, `1h30m`. Never zero.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed: holdfast_api::Duration =
        text.parse().map_err(|e: holdfast_api::duration::ParseDurationError| e.to_string())?;
    let value = Duration::from(parsed);
    if value.is_zero() { Err("a period cannot be zero".to_owned()) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_name_that_would_break_a_directory_is_refused() {
        for bad in ["", "-a", "a-", "A", "a/b", "a.b", "ä", &"a".repeat(64)] {
            assert!(cluster_name(bad).is_err(), "{bad}");
        }
        for good in ["a", "prod", "prod-eu-1", &"a".repeat(63)] {
            assert!(cluster_name(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_limit_is_a_number_or_said_to_be_none() {
        assert_eq!(limit("2"), Ok(Most(NonZeroU32::new(2))));
        assert_eq!(limit("unlimited"), Ok(Most(None)));
        for bad in ["0", "", "-1", "none", "1.5"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_period_of_zero_is_refused() {
        assert!(duration("0s").is_err());
        assert_eq!(duration("15m").unwrap(), Duration::from_mins(15));
    }
}
