//! The operator: where it is, what it calls the cluster, and what it was told to do with claims that nobody speaks about.
//! Changes nothing.

use holdfast_api::backup::ClaimsDefault;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Container;
use kube::api::{Api, ListParams};

use super::connect::Cluster;

/// Labels of the operator's Deployment, as the chart sets them.
const LABELS: &str = "app.kubernetes.io/name=holdfast,app.kubernetes.io/component=operator";

/// A setting of the operator: its argument, and the variable that stands for it.
struct Setting {
    argument: &'static str,
    variable: &'static str,
}

/// What becomes of claims that nobody speaks about.
const CLAIMS_DEFAULT: Setting = Setting { argument: "--claims-default", variable: "HOLDFAST_CLAIMS_DEFAULT" };
/// The name of the cluster, which each snapshot is tagged with.
const CLUSTER_NAME: Setting = Setting { argument: "--cluster-name", variable: "HOLDFAST_CLUSTER_NAME" };

/// What a container says of a setting.
enum Said<'a> {
    Text(&'a str),
    /// The operator does what it does by itself.
    Nothing,
    /// It comes from where it cannot be seen.
    Unseen,
}

/// In all namespaces; where that is forbidden, in the command's.
pub(super) async fn deployments(cluster: &Cluster) -> Result<Vec<Deployment>, kube::Error> {
    let filter = ListParams::default().labels(LABELS);
    match Api::<Deployment>::all(cluster.client.clone()).list(&filter).await {
        Ok(found) => Ok(found.items),
        Err(e) => match cluster.api::<Deployment>().list(&filter).await {
            Ok(found) if !found.items.is_empty() => Ok(found.items),
            _ => Err(e),
        },
    }
}

/// What these operators do with claims that nobody speaks about. None when there is none, when they differ, or when
/// their settings come from where it cannot be seen.
pub(super) fn claims_default(operators: &[Deployment]) -> Option<ClaimsDefault> {
    agreed(operators, &CLAIMS_DEFAULT, |said| match said {
        Said::Text(text) => ClaimsDefault::ALL.iter().copied().find(|default| default.as_str() == text),
        Said::Nothing => Some(ClaimsDefault::default()),
        Said::Unseen => None,
    })
}

/// What these operators call the cluster. None in the same cases.
pub(super) fn cluster_name(operators: &[Deployment]) -> Option<String> {
    agreed(operators, &CLUSTER_NAME, |said| match said {
        // What the kubelet puts in the place of a variable is not known here.
        Said::Text(text) if !text.is_empty() && !text.contains("$(") => Some(text.to_owned()),
        Said::Text(_) | Said::Nothing | Said::Unseen => None,
    })
}

/// What all of them say of a setting.
fn agreed<T: PartialEq>(
    operators: &[Deployment],
    setting: &Setting,
    read: impl Fn(Said<'_>) -> Option<T>,
) -> Option<T> {
    let mut told = operators.iter().map(|operator| {
        let pod = operator.spec.as_ref()?.template.spec.as_ref()?;
        let with = pod.containers.iter().find(|container| argument(container, setting).is_some());
        read(of_container(with.or(pod.containers.first())?, setting))
    });
    let first = told.next()??;
    told.all(|other| other.as_ref() == Some(&first)).then_some(first)
}

/// By its argument, else by its variable.
fn of_container<'a>(container: &'a Container, setting: &Setting) -> Said<'a> {
    if let Some(text) = argument(container, setting) {
        return Said::Text(text);
    }
    let variable = container.env.iter().flatten().find(|variable| variable.name == setting.variable);
    match variable {
        Some(variable) => variable.value.as_deref().map_or(Said::Unseen, Said::Text),
        None if container.env_from.iter().flatten().next().is_some() => Said::Unseen,
        None => Said::Nothing,
    }
}

fn argument<'a>(container: &'a Container, setting: &Setting) -> Option<&'a str> {
    let mut all = container.command.iter().chain(&container.args).flatten();
    while let Some(argument) = all.next() {
        let Some(rest) = argument.strip_prefix(setting.argument) else { continue };
        if rest.is_empty() {
            return all.next().map(String::as_str);
        }
        if let Some(value) = rest.strip_prefix('=') {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operators(containers: &[&str]) -> Vec<Deployment> {
        containers
            .iter()
            .map(|container| {
                serde_saphyr::from_str(&format!(
                    "{{spec: {{selector: {{}}, template: {{spec: {{containers: {container}}}}}}}}}"
                ))
                .unwrap()
            })
            .collect()
    }

    #[test]
    fn the_clusters_name_is_the_operators() {
        let told = |containers: &[&str]| cluster_name(&operators(containers));
        let argument = "[{name: o, args: [operator, --claims-default=OptIn, --cluster-name=prod]}]";
        let variable = "[{name: o, env: [{name: HOLDFAST_CLUSTER_NAME, value: prod}]}]";
        assert_eq!(told(&[argument]).as_deref(), Some("prod"));
        assert_eq!(told(&[variable, argument]).as_deref(), Some("prod"));
        assert_eq!(told(&[argument, "[{name: o, args: [--cluster-name, staging]}]"]), None, "they differ");
        for unknown in [
            "[{name: o, args: [operator]}]",
            "[{name: o, args: [--cluster-name=$(NAME)]}]",
            "[{name: o, env: [{name: HOLDFAST_CLUSTER_NAME, valueFrom: {}}]}]",
            "[{name: o, envFrom: [{}]}]",
        ] {
            assert_eq!(told(&[unknown]), None, "{unknown}");
        }
        assert_eq!(told(&[]), None);
    }

    #[test]
    fn the_default_for_claims_is_known_by_the_operators_own_settings() {
        let told = |containers: &[&str]| claims_default(&operators(containers));
        let opt_in = "[{name: proxy}, {name: o, args: [operator, --claims-default=OptIn]}]";
        let by_default = "[{name: o, args: [operator]}]";
        assert_eq!(told(&[opt_in]), Some(ClaimsDefault::OptIn));
        assert_eq!(told(&["[{name: o, args: [--claims-default, OptIn]}]"]), Some(ClaimsDefault::OptIn));
        let variable = "[{name: o, env: [{name: HOLDFAST_CLAIMS_DEFAULT, value: OptIn}]}]";
        assert_eq!(told(&[variable]), Some(ClaimsDefault::OptIn));
        assert_eq!(told(&[by_default]), Some(ClaimsDefault::OptOut));
        for unknown in [
            "[{name: o, args: [--claims-default=later]}]",
            "[{name: o, env: [{name: HOLDFAST_CLAIMS_DEFAULT, valueFrom: {}}]}]",
            "[{name: o, envFrom: [{}]}]",
            "[]",
        ] {
            assert_eq!(told(&[unknown]), None, "{unknown}");
        }
        assert_eq!(told(&[opt_in, by_default]), None, "they differ");
        assert_eq!(told(&[]), None);
    }
}
