use holdfast_api::{Backup, crds};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use serde::de::DeserializeOwned;

use super::*;
use crate::cluster::doctor::gather::{Clock, Facts, Workload};
use crate::cluster::doctor::rights::{Asked, of_operator, of_people};
use crate::cluster::status;

fn now() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().unwrap()
}

fn read<T: DeserializeOwned>(yaml: &str) -> T {
    serde_saphyr::from_str(yaml).unwrap()
}

fn operator() -> Deployment {
    read(&format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: holdfast, namespace: sys, labels: {{app.kubernetes.io/version: {}}}}}
spec: {{replicas: 1, selector: {{}}, template: {{spec: {{serviceAccountName: holdfast, containers: []}}}}}}
status: {{readyReplicas: 1}}
",
        env!("CARGO_PKG_VERSION")
    ))
}

fn lease(renewed: &str) -> Lease {
    read(&format!(
        "
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {{name: holdfast-operator}}
spec: {{holderIdentity: holdfast-abc, renewTime: {renewed}}}
"
    ))
}

/// The Lease of a node that says one time, which the API server notes at another.
fn of_node(renewed: &str, noted: &str) -> Lease {
    read(&format!(
        "
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata:
  name: n1
  managedFields:
    - {{manager: kubectl, operation: Update, time: 2026-11-30T00:00:00Z, fieldsV1: {{'f:metadata': {{'f:labels': {{}}}}}}}}
    - {{manager: kubelet, operation: Update, time: {noted}, fieldsV1: {{'f:spec': {{'f:renewTime': {{}}}}}}}}
spec: {{holderIdentity: n1, renewTime: {renewed}}}
"
    ))
}

/// An installation without a fault.
fn healthy() -> Facts {
    let storage = "
apiVersion: holdfast.dev/v1alpha1
kind: BackupStorage
metadata: {name: main, namespace: shop, uid: u-storage}
spec: {default: true, backend: {s3: {bucket: b-b, endpoint: 'https://s3', credentialsSecretRef: {name: s}}}}
status: {phase: Ready, lastValidationTime: 2026-11-20T11:58:00Z, conditions: [{type: Ready, status: 'True', reason: Validated, message: m, lastTransitionTime: 2026-11-20T11:00:00Z}]}";
    let snapshot = "
apiVersion: holdfast.dev/v1alpha1
kind: Snapshot
metadata: {name: s1, namespace: shop}
spec: {repositoryRef: {name: main}, time: 2026-11-20T02:00:00Z, backup: {name: b, uid: u-b}, cluster: c, namespace: shop}
status: {complete: true, components: [{name: volume/data, snapshotId: a}]}";
    let claim = "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: shop}
status: {phase: Bound}";
    let yes = |need| Asked { need, allowed: Some(true) };
    Facts {
        namespace: "shop".to_owned(),
        everywhere: true,
        clock: Ok(Clock { server: now(), here: now() }),
        server_version: Ok("v1.36.3".to_owned()),
        served: Ok(crds().into_iter().map(|crd| crd.spec.names.plural).collect()),
        definitions: Ok(crds()),
        operators: Ok(vec![operator()]),
        leases: vec![("sys".to_owned(), Ok(Some(lease("2026-11-20T11:59:58.000000Z"))))],
        nodes: Ok(vec![of_node("2026-11-20T11:59:55.300000Z", "2026-11-20T11:59:55Z")]),
        namespaces: Ok(Vec::new()),
        objects: status::Facts {
            storages: vec![read(storage)],
            snapshots: vec![read(snapshot)],
            claims: vec![read(claim)],
            ..status::Facts::default()
        },
        unlisted: Vec::new(),
        workloads: Ok(Vec::new()),
        jobs: Ok(Vec::new()),
        pods: Ok(Vec::new()),
        secrets: Ok(Vec::new()),
        mine: of_people().into_iter().map(yes).collect(),
        operators_rights: vec![(
            "ServiceAccount sys/holdfast".to_owned(),
            Ok(of_operator().unwrap().into_iter().map(yes).collect()),
        )],
    }
}

/// What is found when one thing is changed.
fn found(change: impl FnOnce(&mut Facts)) -> Vec<(Severity, &'static str, String)> {
    let mut facts = healthy();
    change(&mut facts);
    examine(&facts, now())
        .into_iter()
        .filter(|f| f.severity != Severity::Ok)
        .map(|f| (f.severity, f.check, format!("{}: {}", f.object.unwrap_or_default(), f.message)))
        .collect()
}

fn only(change: impl FnOnce(&mut Facts)) -> (Severity, &'static str, String) {
    let mut all = found(change);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[test]
fn a_healthy_installation_has_nothing_to_say() {
    assert_eq!(found(|_| {}), []);
    let page = finding::page(&examine(&healthy(), now()), false);
    assert!(page.ends_with("checks are well\n") && page.lines().count() == 1, "{page}");
}

#[test]
fn the_clock_of_a_node_is_looked_at_by_its_lease() {
    let of = |renewed: &str, noted: &str| {
        let lease = of_node(renewed, noted);
        only(|facts| facts.nodes = Ok(vec![lease]))
    };
    let (severity, check, message) = of("2026-11-20T12:20:00.000000Z", "2026-11-20T11:59:55Z");
    assert_eq!((severity, check), (Severity::Warning, "clock"));
    assert_eq!(message, "Node n1: its clock is 1205 s ahead of the API server's");
    let (_, _, message) = of("2026-11-20T11:50:00.000000Z", "2026-11-20T11:59:55Z");
    assert_eq!(message, "Node n1: its clock is 595 s behind the API server's");
    // A node that is gone for long was right when it wrote last.
    assert_eq!(found(|f| f.nodes = Ok(vec![of_node("2026-11-19T12:00:00.1Z", "2026-11-19T12:00:00Z")])), []);
    assert_eq!(only(|facts| facts.nodes = Err("no".to_owned())).0, Severity::Unknown);
}

#[test]
fn a_workload_that_was_left_at_zero_is_an_error_and_says_how_to_put_it_back() {
    let plant = |quiesce: &str| Workload {
        kind: "Deployment",
        namespace: "shop".to_owned(),
        name: "app".to_owned(),
        quiesce: quiesce.to_owned(),
    };
    let record = r#"{"replicas":3,"holders":["u-run"]}"#;
    let (severity, check, text) = only(|facts| facts.workloads = Ok(vec![plant(record)]));
    assert_eq!((severity, check), (Severity::Error, "quiesce"));
    assert_eq!(text, "Deployment shop/app: it is held at 0 replicas (it had 3) by a run that is over");

    let restore = "
apiVersion: holdfast.dev/v1alpha1
kind: Restore
metadata: {name: r, namespace: shop, uid: u-run}
spec: {from: {snapshotRef: {name: s1}}}
status: {phase: Running}";
    assert_eq!(
        found(|facts| {
            facts.workloads = Ok(vec![plant(record)]);
            facts.objects.restores = vec![read(restore)];
        }),
        [],
        "a run that is alive may hold it"
    );
    assert_eq!(only(|facts| facts.workloads = Ok(vec![plant("nonsense")])).0, Severity::Error);
}

#[test]
fn what_runs_left_is_told_once_it_is_old_enough() {
    let job = |made: &str, uid: &str| {
        read(&format!(
            "{{apiVersion: batch/v1, kind: Job, metadata: {{name: j, namespace: shop, creationTimestamp: {made}, labels: {{holdfast.dev/run-uid: {uid}, holdfast.dev/run-name: gone}}}}}}"
        ))
    };
    let (severity, _, text) = only(|facts| facts.jobs = Ok(vec![job("2026-11-20T11:00:00Z", "u-gone")]));
    assert_eq!(severity, Severity::Warning);
    assert_eq!(text, "Job shop/j: the run gone that it was made for is gone");
    assert_eq!(found(|facts| facts.jobs = Ok(vec![job("2026-11-20T11:59:00Z", "u-gone")])), []);
    assert_eq!(found(|facts| facts.jobs = Ok(vec![job("2026-11-20T11:00:00Z", "u-storage")])), []);
}

#[test]
fn an_operator_that_is_away_silent_or_of_another_version_is_told() {
    assert_eq!(only(|facts| facts.operators = Ok(Vec::new())).0, Severity::Error);
    let other = |facts: &mut Facts| {
        let mut operator = operator();
        operator
            .metadata
            .labels
            .get_or_insert_default()
            .insert("app.kubernetes.io/version".into(), "9.9.9".into());
        facts.operators = Ok(vec![operator]);
    };
    assert!(only(other).2.contains("the operator is 9.9.9"));
    let unready = |facts: &mut Facts| {
        let mut operator = operator();
        operator.status = None;
        facts.operators = Ok(vec![operator]);
    };
    assert_eq!(
        only(unready),
        (Severity::Error, "operator", "Deployment sys/holdfast: none of its replicas is ready".to_owned())
    );
    let silent = |facts: &mut Facts| {
        facts.leases = vec![("sys".to_owned(), Ok(Some(lease("2026-11-20T11:50:00.000000Z"))))];
    };
    assert!(only(silent).2.contains("last heard of 600 s ago"));
    let unseen = "
apiVersion: holdfast.dev/v1alpha1
kind: Backup
metadata: {name: b, namespace: shop, creationTimestamp: 2026-11-20T11:50:00Z}
spec: {}";
    let (severity, _, text) = only(|facts| facts.objects.backups = vec![read::<Backup>(unseen)]);
    assert_eq!(
        (severity, text.as_str()),
        (Severity::Error, "Backup shop/b: no operator has looked at it yet")
    );
}

#[test]
fn definitions_of_another_version_are_told_apart() {
    let older = |facts: &mut Facts| {
        let mut crds = crds();
        let schema = crds[2].spec.versions[0].schema.as_mut().unwrap().open_api_v3_schema.as_mut().unwrap();
        schema
            .properties
            .as_mut()
            .unwrap()
            .get_mut("spec")
            .unwrap()
            .properties
            .as_mut()
            .unwrap()
            .remove("tags");
        facts.definitions = Ok(crds);
    };
    let (severity, _, text) = only(older);
    assert_eq!(severity, Severity::Error);
    assert_eq!(
        text,
        "CustomResourceDefinition backups.holdfast.dev: it is older than this version and lacks spec.tags"
    );
    assert!(only(|facts| facts.served = Ok(vec!["backups".to_owned()])).2.contains("restores"));
}

#[test]
fn clocks_and_storages_and_defaults() {
    let behind = |facts: &mut Facts| {
        let here = now() - jiff::SignedDuration::from_secs(90);
        facts.clock = Ok(Clock { server: now(), here });
    };
    assert!(only(behind).2.contains("90 s behind"));
    let two = |facts: &mut Facts| {
        let mut second = facts.objects.storages[0].clone();
        second.metadata.name = Some("second".to_owned());
        facts.objects.storages.push(second);
    };
    assert_eq!(
        only(two),
        (
            Severity::Error,
            "default-storage",
            "Namespace shop: main, second all call themselves the default: Backups that name none are refused".to_owned()
        )
    );
    let away = |facts: &mut Facts| {
        let status = facts.objects.storages[0].status.as_mut().unwrap();
        status.phase = Some(holdfast_api::backup_storage::StoragePhase::Unavailable);
        status.conditions[0].reason = "ClockSkew".to_owned();
    };
    assert!(only(away).2.contains("it is Unavailable: ClockSkew: m"));
    let bare = |facts: &mut Facts| facts.objects.snapshots.clear();
    assert_eq!(only(bare).2, "Namespace shop: nothing in it is backed up (1 claim: data)");
    let forbidden = |facts: &mut Facts| {
        facts.namespaces = Ok(vec![read(
            "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {pod-security.kubernetes.io/enforce: restricted}, annotations: {holdfast.dev/allow-root-runner: 'true'}}}",
        )]);
    };
    assert_eq!(only(forbidden).1, "pod-security");
}

#[test]
fn what_may_not_be_looked_at_is_unknown_and_no_error() {
    let blind = |facts: &mut Facts| {
        facts.everywhere = false;
        facts.operators = Err("forbidden".to_owned());
        facts.leases.clear();
        facts.operators_rights.clear();
        facts.definitions = Err("forbidden".to_owned());
        facts.secrets = Err("forbidden".to_owned());
    };
    let found = found(blind);
    assert!(found.iter().all(|(severity, ..)| *severity == Severity::Unknown), "{found:?}");
    assert_eq!(found.len(), 4);
}

#[test]
fn a_deletion_that_waits_is_told() {
    let stuck = "
apiVersion: holdfast.dev/v1alpha1
kind: Backup
metadata: {name: b, namespace: shop, deletionTimestamp: 2026-11-20T11:30:00Z, finalizers: [holdfast.dev/cleanup]}
spec: {}
status: {phase: Running}";
    assert_eq!(
        only(|facts| facts.objects.backups = vec![read::<Backup>(stuck)]).2,
        "Backup shop/b: it was deleted 30 min ago and waits for holdfast.dev/cleanup"
    );
}

#[test]
fn the_oldest_kubernetes_is_that_of_the_chart() {
    let chart = include_str!("../../../../../deploy/helm/holdfast/Chart.yaml");
    assert!(chart.contains("kubeVersion: \">=1.29.0-0\""), "tell install_checks::KUBERNETES too: {chart}");
    assert_eq!(only(|facts| facts.server_version = Ok("v1.28.9+k3s1".to_owned())).1, "kubernetes");
    assert_eq!(found(|facts| facts.server_version = Ok("v1.29.0".to_owned())), []);
}

/// Its only Snapshot may be a year old: that it is there is no sign of health.
#[test]
fn a_claim_that_no_run_saves_any_more_is_a_warning() {
    let failed = "
apiVersion: holdfast.dev/v1alpha1
kind: Backup
metadata: {name: nightly, namespace: shop}
spec: {}
status: {phase: Failed, startTime: 2026-11-20T03:00:00Z, message: the store is away}";
    let (severity, check, text) = only(|facts| facts.objects.backups = vec![read::<Backup>(failed)]);
    assert_eq!((severity, check), (Severity::Warning, "coverage"));
    assert!(text.contains("the last run") && text.ends_with(": data"), "{text}");
}
