//! What becomes of claims that nobody speaks about, as far as whoever asks may know it. Pure.

use std::collections::BTreeMap;

use holdfast_api::backup::ClaimsDefault;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;

use crate::cluster::operator;

/// By the operator, and by namespaces.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Defaults {
    /// None when it cannot be seen.
    operator: Option<ClaimsDefault>,
    /// What namespaces say instead; none when they cannot be seen.
    namespaces: Option<BTreeMap<String, ClaimsDefault>>,
}

impl Defaults {
    /// From the operator's Deployments and the namespaces, where they may be read.
    pub(in super::super) fn new(operators: Option<&[Deployment]>, namespaces: Option<&[Namespace]>) -> Self {
        let said = |all: &[Namespace]| {
            let said = all
                .iter()
                .filter_map(|n| Some((n.name_any(), ClaimsDefault::of_namespace(n.annotations())?)));
            said.collect()
        };
        Self { operator: operators.and_then(operator::claims_default), namespaces: namespaces.map(said) }
    }

    /// For the claims of a namespace; none when it is not known. A namespace that cannot be seen may have claims saved
    /// that the operator leaves out.
    pub(super) fn of(&self, namespace: &str) -> Option<ClaimsDefault> {
        match &self.namespaces {
            Some(said) => said.get(namespace).copied().or(self.operator),
            None => self.operator.filter(|default| *default == ClaimsDefault::OptOut),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_counts_before_the_operator_and_nothing_is_guessed() {
        use ClaimsDefault::{OptIn, OptOut};
        let operator = |default: &str| -> Vec<Deployment> {
            let text = format!(
                "[{{spec: {{selector: {{}}, template: {{spec: {{containers: [{{name: o, args: [--claims-default={default}]}}]}}}}}}}}]"
            );
            serde_saphyr::from_str(&text).unwrap()
        };
        let namespaces: Vec<Namespace> = serde_saphyr::from_str(
            "[{metadata: {name: all, annotations: {holdfast.dev/claims: OptOut}}}, {metadata: {name: silent}}]",
        )
        .unwrap();
        let (strict, open) = (operator("OptIn"), operator("OptOut"));
        let known = Defaults::new(Some(&strict), Some(&namespaces));
        assert_eq!((known.of("all"), known.of("silent")), (Some(OptOut), Some(OptIn)));
        assert_eq!(Defaults::new(Some(&strict), None).of("all"), None);
        assert_eq!(Defaults::new(Some(&open), None).of("silent"), Some(OptOut));
        let half = Defaults::new(None, Some(&namespaces));
        assert_eq!((half.of("all"), half.of("silent")), (Some(OptOut), None));
    }
}
