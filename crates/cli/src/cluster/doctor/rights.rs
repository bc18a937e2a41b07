//! Who needs which rights: people for the commands, the operator by the rules of the chart. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde::Deserialize;

use super::finding::Finding;
use super::gather::Facts;

/// The rules that the chart of this version gives to the operator.
const CLUSTER_ROLE: &str = include_str!("../../../../../deploy/helm/holdfast/templates/clusterrole.yaml");
/// Those in its own namespace.
const ROLE: &str = include_str!("../../../../../deploy/helm/holdfast/templates/role.yaml");

/// One thing to be allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) group: String,
    pub(super) resource: String,
    pub(super) subresource: Option<String>,
    pub(super) verb: String,
    pub(super) name: Option<String>,
    /// Whether it is needed in the operator's own namespace only.
    pub(super) own_namespace: bool,
    /// The commands that need it.
    pub(super) used_by: &'static str,
}

/// A need, and whether it is met; unknown when nobody could tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) need: Need,
    pub(super) allowed: Option<bool>,
}

impl Need {
    fn new(group: &str, resource: &str, verb: &str, used_by: &'static str) -> Self {
        let (resource, subresource) = match resource.split_once('/') {
            Some((resource, sub)) => (resource, Some(sub.to_owned())),
            None => (resource, None),
        };
        Self {
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource,
            verb: verb.to_owned(),
            name: None,
            own_namespace: false,
            used_by,
        }
    }

    /// `verb resource.group`.
    fn words(&self) -> String {
        let sub = self.subresource.as_ref().map(|s| format!("/{s}")).unwrap_or_default();
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        format!("{} {}{sub}{group}", self.verb, self.resource)
    }
}

/// What the commands need of the person who gives them, in the namespace.
pub(super) fn of_people() -> Vec<Need> {
    let ours = holdfast_api::GROUP;
    let mut needs = Vec::new();
    for resource in ["backupstorages", "repositories", "backups", "restores", "snapshots"] {
        needs.push(Need::new(ours, resource, "list", "status, snapshots"));
        needs.push(Need::new(ours, resource, "get", "describe"));
    }
    needs.extend([
        Need::new(ours, "backups", "create", "backup"),
        Need::new(ours, "backups", "watch", "backup, logs -f"),
        Need::new(ours, "restores", "create", "restore"),
        Need::new(ours, "restores", "watch", "restore, logs -f"),
        Need::new(ours, "restores", "delete", "restore (its dry run is removed)"),
        Need::new("", "persistentvolumeclaims", "list", "status"),
        Need::new("", "pods", "list", "logs"),
        Need::new("", "pods/log", "get", "logs"),
        Need::new("", "events", "list", "describe"),
    ]);
    needs
}

/// What the operator needs, by the rules of the chart of this version.
pub(super) fn of_operator() -> Result<Vec<Need>, String> {
    let mut needs = Vec::new();
    for (template, own_namespace) in [(CLUSTER_ROLE, false), (ROLE, true)] {
        for rule in rules(template)? {
            let names = rule.resource_names.unwrap_or_default();
            for group in rule.api_groups.iter().flatten() {
                for resource in rule.resources.iter().flatten() {
                    for verb in &rule.verbs {
                        let need = Need::new(group, resource, verb, "the operator");
                        needs.push(Need { name: names.first().cloned(), own_namespace, ..need });
                    }
                }
            }
        }
    }
    Ok(needs)
}

/// The rules of a role in a template: only its metadata holds placeholders.
fn rules(template: &str) -> Result<Vec<PolicyRule>, String> {
    #[derive(Deserialize)]
    struct Rules {
        rules: Vec<PolicyRule>,
    }
    let from = template.find("\nrules:").ok_or("the chart's role has no rules")?;
    let part = template.get(from..).unwrap_or_default();
    let part = part.split("\n---").next().unwrap_or_default();
    let rules: Rules = serde_saphyr::from_str(part).map_err(|e| format!("the chart's role: {e}"))?;
    Ok(rules.rules)
}

/// Judges the rights of the caller and of the operator.
pub(super) fn examine(facts: &Facts, findings: &mut Vec<Finding>) {
    findings.extend(of_caller(&facts.mine, &facts.namespace));
    for (account, asked) in &facts.operators_rights {
        findings.push(match asked {
            Err(why) => {
                Finding::unknown("operator-rights", format!("what the operator may do is not known: {why}"))
            }
            Ok(asked) => operator(asked).about(account.clone()),
        });
    }
}

fn of_caller(asked: &[Asked], namespace: &str) -> Vec<Finding> {
    let mut lacking: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for one in asked.iter().filter(|a| a.allowed == Some(false)) {
        lacking.entry(one.need.used_by).or_default().push(one.need.words());
    }
    if asked.iter().any(|a| a.allowed.is_none()) {
        return vec![Finding::unknown("your-rights", "the API server does not tell what you may do")];
    }
    if lacking.is_empty() {
        return vec![Finding::ok(
            "your-rights",
            format!("you may do all that the commands need in {namespace}"),
        )];
    }
    lacking
        .into_iter()
        .map(|(commands, words)| {
            Finding::warning(
                "your-rights",
                format!("in namespace {namespace} you may not {}: needed by {commands}", words.join(", ")),
            )
            .remedy("ask an administrator for the role `edit` in the namespace (`view` to look only)")
        })
        .collect()
}

fn operator(asked: &[Asked]) -> Finding {
    let lacking: Vec<String> =
        asked.iter().filter(|a| a.allowed == Some(false)).map(|a| a.need.words()).collect();
    if lacking.is_empty() {
        return Finding::ok(
            "operator-rights",
            "it has all the rights that the chart of this version gives it",
        );
    }
    Finding::error("operator-rights", format!("it may not: {}", lacking.join(", ")))
        .remedy("upgrade the chart to the version of the operator (helm upgrade), or give it these rights")
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    #[test]
    fn the_charts_rules_are_understood() {
        let needs = of_operator().unwrap();
        let words: Vec<String> = needs.iter().map(Need::words).collect();
        for expected in [
            "patch backups/status.holdfast.dev",
            "create jobs.batch",
            "get pods/log",
            "update leases.coordination.k8s.io",
        ] {
            assert!(words.iter().any(|w| w == expected), "{expected} is not in {words:?}");
        }
        let lease = needs.iter().find(|n| n.verb == "update" && n.resource == "leases").unwrap();
        assert!(lease.own_namespace && lease.name.as_deref() == Some("holdfast-operator"));
        assert!(needs.iter().any(|n| n.resource == "secrets" && !n.own_namespace));
    }

    /// What the chart adds to the roles of Kubernetes, by the role that it adds it to.
    fn added_to(role: &str) -> Vec<PolicyRule> {
        let users = include_str!("../../../../../deploy/helm/holdfast/templates/users.yaml");
        let parts =
            users.split("\n---").filter(|part| part.contains(&format!("aggregate-to-{role}: \"true\"")));
        parts.flat_map(|part| rules(part).unwrap()).collect()
    }

    fn gives(rules: &[PolicyRule], need: &Need) -> bool {
        let has = |list: &Option<Vec<String>>, word: &str| list.iter().flatten().any(|known| known == word);
        rules.iter().any(|rule| {
            has(&rule.api_groups, &need.group)
                && has(&rule.resources, &need.resource)
                && rule.verbs.contains(&need.verb)
                && rule.resource_names.is_none()
        })
    }

    #[test]
    fn who_may_edit_a_namespace_may_do_all_that_the_commands_need_and_write_no_status() {
        let (view, edit, admin) = (added_to("view"), added_to("edit"), added_to("admin"));
        let ours = || of_people().into_iter().filter(|need| need.group == holdfast_api::GROUP);
        for need in ours() {
            assert!(gives(&edit, &need) && gives(&admin, &need), "{}", need.words());
            let looks = ["get", "list", "watch"].contains(&need.verb.as_str());
            assert_eq!(gives(&view, &need), looks, "{}", need.words());
        }
        assert!(ours().any(|need| need.verb == "create") && ours().any(|need| need.verb == "delete"));
        for rule in [view, edit, admin].concat() {
            assert_eq!(rule.api_groups, Some(vec![holdfast_api::GROUP.to_owned()]));
            let words = rule.resources.iter().flatten().chain(&rule.verbs);
            assert!(words.into_iter().all(|word| !word.contains(['/', '*'])), "{rule:?}");
        }
    }

    #[test]
    fn a_right_that_is_missing_names_the_commands_that_need_it() {
        let all = |allowed: Option<bool>| -> Vec<Asked> {
            of_people().into_iter().map(|need| Asked { need, allowed }).collect()
        };
        assert_eq!(of_caller(&all(Some(true)), "shop")[0].severity, Severity::Ok);
        assert_eq!(of_caller(&all(None), "shop")[0].severity, Severity::Unknown);
        let mut some = all(Some(true));
        some.iter_mut().find(|a| a.need.verb == "create" && a.need.resource == "backups").unwrap().allowed =
            Some(false);
        let findings = of_caller(&some, "shop");
        assert_eq!(findings.len(), 1);
        assert_eq!(
            findings[0].message,
            "in namespace shop you may not create backups.holdfast.dev: needed by backup"
        );
        assert_eq!(operator(&some).severity, Severity::Error);
    }
}
