//! The operator: where it is, and what it was told to do with claims that nobody speaks about. Changes nothing.

use holdfast_api::backup::ClaimsDefault;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Container;
use kube::api::{Api, ListParams};

use super::connect::Cluster;

/// Labels of the operator's Deployment, as the chart sets them.
const LABELS: &str = "app.kubernetes.io/name=holdfast,app.kubernetes.io/component=operator";
/// The operator's argument and its variable for what becomes of claims that nobody speaks about.
const ARGUMENT: &str = "--claims-default";
const VARIABLE: &str = "HOLDFAST_CLAIMS_DEFAULT";

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
    let mut told = operators.iter().map(|operator| {
        let pod = operator.spec.as_ref()?.template.spec.as_ref()?;
        let with = pod.containers.iter().find(|container| argument(container).is_some());
        of_container(with.or(pod.containers.first())?)
    });
    let first = told.next()??;
    told.all(|other| other == Some(first)).then_some(first)
}

/// By its argument, else by its variable, else what the operator does by itself.
fn of_container(container: &Container) -> Option<ClaimsDefault> {
    let known = |text: &str| ClaimsDefault::ALL.iter().copied().find(|default| default.as_str() == text);
    if let Some(text) = argument(container) {
        return known(text);
    }
    let variable = container.env.iter().flatten().find(|variable| variable.name == VARIABLE);
    match variable {
        Some(variable) => known(variable.value.as_deref()?),
        None if container.env_from.iter().flatten().next().is_some() => None,
        None => Some(ClaimsDefault::default()),
    }
}

fn argument(container: &Container) -> Option<&str> {
    let mut all = container.command.iter().chain(&container.args).flatten();
    while let Some(argument) = all.next() {
        let Some(rest) = argument.strip_prefix(ARGUMENT) else { continue };
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

    #[test]
    fn the_default_for_claims_is_known_by_the_operators_own_settings() {
        let told = |containers: &[&str]| {
            let all: Vec<Deployment> = containers
                .iter()
                .map(|container| {
                    serde_saphyr::from_str(&format!(
                        "{{spec: {{selector: {{}}, template: {{spec: {{containers: {container}}}}}}}}}"
                    ))
                    .unwrap()
                })
                .collect();
            claims_default(&all)
        };
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
