//! Is Holdfast there, at work, and of this version; do the clocks agree? Pure.

use std::collections::BTreeSet;

use holdfast_api::crds;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::ResourceExt;

use super::finding::Finding;
use super::gather::{Clock, Facts, Read};
use crate::text::counted;

/// Version of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Label with the version of the operator.
const LABEL_VERSION: &str = "app.kubernetes.io/version";
/// Clocks that differ by more are remarked upon.
const CLOCKS: SignedDuration = SignedDuration::from_secs(30);
/// A Lease that is not renewed for so long is nobody's.
const LEASE: SignedDuration = SignedDuration::from_secs(30);
/// Oldest version of Kubernetes that the chart takes.
const KUBERNETES: (u32, u32) = (1, 29);
/// Most names that a message lists.
const LISTED: usize = 6;

/// Judges the installation.
pub(super) fn examine(facts: &Facts, now: Timestamp, findings: &mut Vec<Finding>) {
    findings.push(server(&facts.server_version));
    findings.push(clock(&facts.clock));
    findings.extend(nodes(&facts.nodes));
    findings.push(served(&facts.served));
    findings.extend(definitions(&facts.definitions));
    findings.extend(operators(&facts.operators));
    // The server's clock, when it is known: ours may be wrong, and the Lease is not ours.
    let now = facts.clock.as_ref().map_or(now, |clock| clock.server);
    for (namespace, lease) in &facts.leases {
        findings.push(leader(lease, now).about(format!("Lease {namespace}/holdfast-operator")));
    }
    if !facts.everywhere {
        findings.push(Finding::unknown(
            "scope",
            format!("you may not look into all namespaces: only {} was looked at", facts.namespace),
        ));
    }
    for why in &facts.unlisted {
        findings.push(Finding::unknown("scope", why.clone()));
    }
}

fn server(version: &Read<String>) -> Finding {
    let version = match version {
        Ok(version) => version,
        Err(why) => return Finding::unknown("kubernetes", why.clone()),
    };
    let mut numbers = version.trim_start_matches('v').split(['.', '-', '+']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < KUBERNETES => Finding::warning(
            "kubernetes",
            format!(
                "the API server is {version}; Holdfast is made for {}.{} and later",
                KUBERNETES.0, KUBERNETES.1
            ),
        )
        .remedy("upgrade the cluster"),
        (Some(Ok(_)), Some(Ok(_))) => Finding::ok("kubernetes", format!("the API server is {version}")),
        _ => Finding::unknown("kubernetes", format!("the API server calls its version {version:?}")),
    }
}

fn clock(clock: &Read<Clock>) -> Finding {
    match clock {
        Err(why) => Finding::unknown("clock", why.clone()),
        Ok(Clock { server, here }) => {
            let apart = here.duration_since(*server);
            if apart.abs() <= CLOCKS {
                return Finding::ok("clock", "this machine and the API server agree about the time");
            }
            let side = if apart.is_negative() { "behind" } else { "ahead of" };
            Finding::warning(
                "clock",
                format!("this machine's clock is {} s {side} the API server's", apart.as_secs().unsigned_abs()),
            )
            .remedy("set the clocks by NTP: ages shown here are wrong by as much, and object stores refuse requests of nodes that are 15 minutes off")
        }
    }
}

/// The clocks of the nodes, which is where runners are: a node writes its time into its Lease, and the API server notes by its
/// own clock when it did.
fn nodes(leases: &Read<Vec<Lease>>) -> Vec<Finding> {
    let leases = match leases {
        Ok(leases) => leases,
        Err(why) => return vec![Finding::unknown("clock", why.clone())],
    };
    let mut findings = Vec::new();
    let mut agree = 0_u64;
    for lease in leases {
        let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
        // Not of whoever else has written something there.
        let renews = |one: &&ManagedFieldsEntry| {
            one.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer("/f:spec/f:renewTime").is_some())
        };
        let noted =
            lease.managed_fields().iter().filter(renews).filter_map(|one| Some(one.time.as_ref()?.0)).max();
        let (Some(renewed), Some(noted)) = (renewed, noted) else { continue };
        let apart = renewed.0.duration_since(noted);
        if apart.abs() <= CLOCKS {
            agree += 1;
            continue;
        }
        let side = if apart.is_negative() { "behind" } else { "ahead of" };
        let seconds = apart.as_secs().unsigned_abs();
        let message = format!("its clock is {seconds} s {side} the API server's");
        let remedy = "set the clocks of the nodes by NTP: object stores refuse requests of nodes that are 15 minutes off, and a \
                      lock that seems old is taken for one that was left behind";
        findings.push(
            Finding::warning("clock", message).about(format!("Node {}", lease.name_any())).remedy(remedy),
        );
    }
    if agree > 0 {
        let clocks = counted(agree, "node and", "nodes and");
        findings.push(Finding::ok("clock", format!("{clocks} the API server agree about the time")));
    }
    findings
}

fn served(served: &Read<Vec<String>>) -> Finding {
    let served = match served {
        Ok(served) => served,
        Err(why) => return Finding::unknown("kinds", why.clone()),
    };
    let absent: Vec<String> = crds()
        .into_iter()
        .map(|crd| crd.spec.names.plural)
        .filter(|plural| !served.contains(plural))
        .collect();
    if absent.is_empty() {
        return Finding::ok("kinds", "all kinds are served");
    }
    Finding::error("kinds", format!("the API server does not know {}", absent.join(", "))).remedy(
        "install the chart, or apply deploy/crds of this version: kubectl apply --server-side -f deploy/crds",
    )
}

fn definitions(installed: &Read<Vec<CustomResourceDefinition>>) -> Vec<Finding> {
    let installed = match installed {
        Ok(installed) => installed,
        Err(why) => return vec![Finding::unknown("definitions", why.clone())],
    };
    let mut findings = Vec::new();
    for ours in crds() {
        let name = ours.name_any();
        // One that is absent is told about by `served`.
        let Some(theirs) = installed.iter().find(|crd| crd.name_any() == name) else { continue };
        let (ours, theirs) = (fields(&ours), fields(theirs));
        let list = |fields: Vec<&String>| {
            let shown = fields.iter().take(LISTED).map(ToString::to_string).collect::<Vec<_>>().join(", ");
            if fields.len() > LISTED { format!("{shown}, … ({} in all)", fields.len()) } else { shown }
        };
        let lacking: Vec<&String> = ours.difference(&theirs).collect();
        let more: Vec<&String> = theirs.difference(&ours).collect();
        let about = format!("CustomResourceDefinition {name}");
        if !lacking.is_empty() {
            findings.push(
                Finding::error(
                    "definitions",
                    format!("it is older than this version and lacks {}", list(lacking)),
                )
                .about(about)
                .remedy("apply those of this version: kubectl apply --server-side -f deploy/crds"),
            );
        } else if !more.is_empty() {
            findings.push(
                Finding::warning(
                    "definitions",
                    format!("it is newer than this program, which does not know {}", list(more)),
                )
                .about(about)
                .remedy("use the `holdfast` of the version that is installed"),
            );
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok("definitions", "the definitions are those of this version"));
    }
    findings
}

/// The paths of all fields that a definition knows.
fn fields(crd: &CustomResourceDefinition) -> BTreeSet<String> {
    fn walk(place: &str, schema: &JSONSchemaProps, into: &mut BTreeSet<String>) {
        for (name, inner) in schema.properties.iter().flatten() {
            let path = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
            walk(&path, inner, into);
            into.insert(path);
        }
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
            walk(&format!("{place}[]"), items, into);
        }
    }
    let mut found = BTreeSet::new();
    for version in crd.spec.versions.iter().filter(|v| v.served && v.name == holdfast_api::VERSION) {
        if let Some(schema) = version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref()) {
            for part in ["spec", "status"] {
                if let Some(props) = schema.properties.as_ref().and_then(|p| p.get(part)) {
                    walk(part, props, &mut found);
                }
            }
        }
    }
    found
}

fn operators(found: &Read<Vec<Deployment>>) -> Vec<Finding> {
    let found = match found {
        Ok(found) => found,
        Err(why) => return vec![Finding::unknown("operator", why.clone())],
    };
    if found.is_empty() {
        return vec![
            Finding::error("operator", "there is no operator in this cluster: no run will begin")
                .remedy("helm install holdfast deploy/helm/holdfast -n holdfast-system --create-namespace --set clusterName=…"),
        ];
    }
    let mut findings = Vec::new();
    if found.len() > 1 {
        let places: Vec<String> = found.iter().filter_map(ResourceExt::namespace).collect();
        findings.push(
            Finding::error("operator", format!("there are several operators, in {}", places.join(", ")))
                .remedy("remove all but one: they would do the same work twice"),
        );
    }
    for operator in found {
        let about =
            format!("Deployment {}/{}", operator.namespace().unwrap_or_default(), operator.name_any());
        let wanted = operator.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
        let ready = operator.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
        findings.push(
            if wanted == 0 {
                Finding::error("operator", "it is scaled to 0: no run will begin").remedy("scale it to 1")
            } else if ready == 0 {
                Finding::error("operator", "none of its replicas is ready").remedy(format!(
                    "kubectl -n {} describe pods -l app.kubernetes.io/component=operator",
                    operator.namespace().unwrap_or_default()
                ))
            } else {
                Finding::ok("operator", format!("{ready} of {wanted} replicas are ready"))
            }
            .about(about.clone()),
        );
        findings.push(
            match operator.labels().get(LABEL_VERSION) {
                Some(version) if version == VERSION => {
                    Finding::ok("version", format!("operator and this program are {VERSION}"))
                }
                Some(version) => Finding::warning(
                    "version",
                    format!("the operator is {version}, this program is {VERSION}"),
                )
                .remedy("use the `holdfast` of the operator's version"),
                None => {
                    Finding::unknown("version", format!("it does not tell its version ({LABEL_VERSION})"))
                }
            }
            .about(about),
        );
    }
    findings
}

fn leader(lease: &Read<Option<Lease>>, now: Timestamp) -> Finding {
    let lease = match lease {
        Err(why) => return Finding::unknown("leader", why.clone()),
        Ok(None) => {
            return Finding::warning("leader", "no replica of the operator has ever taken the lead")
                .remedy("without leader election (--leader-election=false) this is as it should be; else look at the operator's log");
        }
        Ok(Some(lease)) => lease,
    };
    let spec = lease.spec.clone().unwrap_or_default();
    let (Some(holder), Some(renewed)) = (spec.holder_identity.filter(|h| !h.is_empty()), spec.renew_time)
    else {
        return Finding::error("leader", "no replica of the operator leads: no run will begin")
            .remedy("look at the operator's log");
    };
    let age = now.duration_since(renewed.0);
    if age > LEASE {
        return Finding::error(
            "leader",
            format!("{holder} leads, but was last heard of {} s ago", age.as_secs()),
        )
        .remedy("look at the operator's log; another replica takes over when one is ready");
    }
    if age < -CLOCKS {
        return Finding::warning(
            "clock",
            format!(
                "the clock of the operator's node is {} s ahead of the API server's",
                age.as_secs().unsigned_abs()
            ),
        )
        .remedy("set the clocks of the nodes by NTP");
    }
    Finding::ok("leader", format!("{holder} leads"))
}
