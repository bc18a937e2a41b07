use super::*;
use crate::quiesce::WorkloadKind;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Node, Pod};

fn restore(spec: &str) -> Restore {
    serde_saphyr::from_str(&format!("{{metadata: {{name: r, namespace: shop, uid: run}}, spec: {spec}}}"))
        .unwrap()
}

fn validate(restore: &Restore, facts: &Facts) -> Result<Plan, Refusal> {
    super::validate(restore, &snapshot(), &[], facts)
}

const ALL: &str = "{from: {snapshotRef: {name: s}}}";

fn facts() -> Facts {
    let nodes: Vec<Node> = serde_saphyr::from_str(
        "[{metadata: {name: n1}, status: {conditions: [{type: Ready, status: 'True'}]}}]",
    )
    .unwrap();
    Facts {
        namespace: serde_saphyr::from_str("{metadata: {name: shop}}").unwrap(),
        claims: serde_saphyr::from_str(
            r"
- metadata: {name: data}
  spec: {accessModes: [ReadWriteOnce], storageClassName: fast, volumeName: v1}
  status: {phase: Bound, capacity: {storage: 1Gi}}
- metadata: {name: logs}
  spec: {accessModes: [ReadWriteOnce], storageClassName: fast, volumeName: v2}
  status: {phase: Bound, capacity: {storage: 1Gi}}
",
        )
        .unwrap(),
        classes: serde_saphyr::from_str(
            "[{metadata: {name: local}, provisioner: x, volumeBindingMode: WaitForFirstConsumer}]",
        )
        .unwrap(),
        inventory: Inventory::default(),
        nodes: NodeStates::new(&nodes),
        attachments: vec![],
        volumes: vec![],
        newer_ones: vec![],
        nodes_taken: BTreeMap::new(),
    }
}

fn snapshot() -> Snapshot {
    serde_saphyr::from_str(r"
metadata: {name: s, namespace: shop}
spec:
  repositoryRef: {name: main}
  time: '2026-11-20T02:00:00Z'
  backup: {name: b, uid: u}
  cluster: c
  namespace: shop
status:
  complete: true
  components:
    - {name: volume/data, snapshotId: aa, size: 1000, files: 3, source: {claim: data, capacity: 1Gi, storageClass: fast, accessModes: [ReadWriteOnce]}}
    - {name: volume/logs, snapshotId: bb, size: 10, source: {claim: logs}}
",
    )
        .unwrap()
}

#[test]
fn an_emptied_volume_is_told_with_the_snapshot_that_still_has_files_of_it() {
    let with = |name: &str, time: &str, files: u64| {
        let mut made = snapshot();
        made.metadata.name = Some(name.into());
        made.spec.time.0 = time.parse().unwrap();
        made.status.as_mut().unwrap().components[0].files = Some(files);
        made
    };
    let empty = with("emptied", "2026-11-20T02:00:00Z", 0);
    let mut saved = with("saved", "2026-11-19T12:00:00Z", 12);
    saved.spec.undo_of = Some("r".into());
    let mut theirs = with("theirs", "2026-11-19T13:00:00Z", 12);
    theirs.spec.namespace = "prod".into();
    let older = [
        with("monday", "2026-11-16T02:00:00Z", 9),
        with("tuesday", "2026-11-17T02:00:00Z", 7),
        with("wednesday", "2026-11-18T02:00:00Z", 0),
        with("later", "2026-11-21T02:00:00Z", 8),
        saved,
        theirs,
    ];
    let warnings = |spec: &str, snapshot: &Snapshot, beside: &[Snapshot]| {
        super::validate(&restore(spec), snapshot, beside, &facts()).unwrap().compatibility().warnings
    };
    let found = warnings(ALL, &empty, &older);
    let [only] = found.as_slice() else { panic!("{found:?}") };
    assert!(
        only.contains("no files of claim data were saved") && only.contains("Snapshot tuesday of 2026-11-17"),
        "{only}"
    );
    assert!(only.contains("7 files"), "{only}");
    let logs = "{from: {snapshotRef: {name: s}}, components: [volume/logs]}";
    assert!(warnings(logs, &empty, &older).is_empty(), "nothing of it is restored");
    assert!(warnings(ALL, &empty, &older[2..]).is_empty(), "it never held anything");
    assert!(warnings(ALL, &with("full", "2026-11-20T02:00:00Z", 1), &older).is_empty());
    let mut undo = empty.clone();
    undo.spec.undo_of = Some("r".into());
    assert!(warnings(ALL, &undo, &older).is_empty(), "it is to be as empty as it was");
}

/// A StatefulSet `db` of one pod that uses the claim `data` on `n1`.
fn with_database(mut facts: Facts, set_extra: &str) -> Facts {
    let pods: Vec<Pod> = serde_saphyr::from_str(
        r"
- metadata:
    name: db-0
    ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: db, uid: db-uid, controller: true}]
  spec:
    nodeName: n1
    containers: [{name: db, securityContext: {runAsUser: 999}, volumeMounts: [{name: d, mountPath: /d}]}]
    volumes: [{name: d, persistentVolumeClaim: {claimName: data}}]
  status: {phase: Running}
",
    )
    .unwrap();
    let sets: Vec<StatefulSet> = serde_saphyr::from_str(&format!(
        "[{{metadata: {{name: db, uid: db-uid}}, spec: {{replicas: 1, selector: {{}}, template: {{}} {set_extra}}}}}]"
    ))
    .unwrap();
    facts.inventory = Inventory::new(pods, &Vec::<Deployment>::new(), &sets, &Vec::<ReplicaSet>::new());
    facts
}

/// Its pods are gone when the first Job starts, and another node may have another directory there.
#[test]
fn a_directory_of_a_node_is_restored_on_the_node_that_uses_it() {
    let with = |spec: &str| {
        let volumes = serde_saphyr::from_str(&format!(
            "[{{metadata: {{name: v1}}, spec: {spec}}}, {{metadata: {{name: v2}}, spec: {spec}}}]"
        ))
        .unwrap();
        let facts = with_database(Facts { volumes, ..facts() }, "");
        let plan = validate(&restore(ALL), &facts).unwrap();
        plan.components.into_iter().map(|component| component.node).collect::<Vec<_>>()
    };
    assert_eq!(with("{hostPath: {path: /x}}"), [Some("n1".to_owned()), None]);
    assert_eq!(with("{}"), [None, None]);
}

fn reason(restore: &Restore, facts: &Facts) -> (Reason, String) {
    let refusal = validate(restore, facts).unwrap_err();
    assert!(!refusal.compatibility.compatible);
    (refusal.reason, refusal.message)
}

#[test]
fn everything_goes_back_to_its_own_claim_by_default() {
    let plan = validate(&restore(ALL), &facts()).unwrap();
    let goes: Vec<_> = plan
        .components
        .iter()
        .map(|c| (c.wish.component.as_str(), c.claim.as_str(), c.snapshot_id.as_str()))
        .collect();
    assert_eq!(goes, [("volume/data", "data", "aa"), ("volume/logs", "logs", "bb")]);
    assert!(plan.components.iter().all(|c| c.wish.verify && !c.wish.delete_extra));
    assert!(plan.workloads.is_empty());
}

#[test]
fn what_could_not_be_read_when_it_was_saved_is_the_first_warning() {
    let mut gaps = snapshot();
    let status = gaps.status.as_mut().unwrap();
    (status.complete, status.missing) = (Some(false), Some(0));
    status.components[0].unreadable = Some(3112);
    status.components[1].unreadable = Some(0);
    let warnings = |spec: &str, snapshot: &Snapshot| {
        super::validate(&restore(spec), snapshot, &[], &facts()).unwrap().compatibility().warnings
    };
    let data =
        "3112 files or directories of claim data could not be read when this was saved, and are not in it";
    assert_eq!(warnings(ALL, &gaps), [data]);
    let logs = "{from: {snapshotRef: {name: s}}, components: [volume/logs]}";
    assert!(warnings(logs, &gaps).is_empty(), "nothing is missing of what is restored");
    let extra = "{from: {snapshotRef: {name: s}}, components: [volume/data], volumes: [{component: volume/data, to: {existingClaim: {name: data}}, deleteExtra: true}]}";
    let deleted = warnings(extra, &gaps).remove(0);
    assert!(deleted.starts_with(data) && deleted.contains("deleteExtra"), "{deleted}");
    // Components that are missing are told beside it.
    let status = gaps.status.as_mut().unwrap();
    status.components[0].unreadable = Some(1);
    status.missing = Some(1);
    let both = warnings(ALL, &gaps);
    assert_eq!(both.len(), 2, "{both:?}");
    assert!(
        both[0].starts_with("1 file or directory of claim data") && both[0].ends_with("is not in it"),
        "{both:?}"
    );
    assert!(both[1].contains("more components"), "{both:?}");
    // Files that were to be ignored are missing all the same; of an old Snapshot only `complete` is known.
    let mut ignored = snapshot();
    ignored.status.as_mut().unwrap().components[0].unreadable = Some(3112);
    assert_eq!(warnings(ALL, &ignored), [data]);
    let mut old = snapshot();
    old.status.as_mut().unwrap().complete = Some(false);
    assert!(warnings(ALL, &old)[0].contains("more components"));
}

#[test]
fn consumers_are_planned_to_be_scaled_and_lend_their_identity() {
    let plan = validate(&restore(ALL), &with_database(facts(), "")).unwrap();
    let db = WorkloadId { kind: WorkloadKind::StatefulSet, name: "db".into() };
    assert_eq!(plan.workloads, BTreeSet::from([db]));
    let data = plan.components.first().unwrap();
    assert_eq!(
        (data.identity.uid, data.consumers.as_slice()),
        (999, ["StatefulSet/db".to_owned()].as_slice())
    );
}

#[test]
fn a_component_can_go_to_another_claim() {
    let spec = r"{from: {snapshotRef: {name: s}}, components: [volume/data], volumes: [{component: volume/data, to: {existingClaim: {name: logs}}}]}";
    let plan = validate(&restore(spec), &facts()).unwrap();
    let only = plan.components.first().unwrap();
    assert_eq!(only.claim, "logs");
    assert_eq!(plan.components.len(), 1);
}

#[test]
fn a_selection_that_matches_nothing_is_refused() {
    let (found, message) =
        reason(&restore("{from: {snapshotRef: {name: s}}, components: [volume/x]}"), &facts());
    assert_eq!(found, Reason::ComponentNotFound);
    assert!(message.contains("volume/data, volume/logs"), "{message}");
    let mut empty = snapshot();
    empty.status.as_mut().unwrap().components.clear();
    let refusal = super::validate(&restore(ALL), &empty, &[], &facts()).unwrap_err();
    assert_eq!(refusal.reason, Reason::NothingSelected);
}

#[test]
fn two_components_never_go_to_one_claim() {
    let spec = "{from: {snapshotRef: {name: s}}, volumes: [{component: volume/data, to: {existingClaim: {name: logs}}}]}";
    assert_eq!(reason(&restore(spec), &facts()).0, Reason::Incompatible);
}

#[test]
fn a_missing_target_says_what_to_make() {
    let mut facts = facts();
    facts.claims.retain(|claim| claim.name_any() != "data");
    let (found, message) = reason(&restore(ALL), &facts);
    assert_eq!(found, Reason::TargetNotFound);
    assert!(message.contains("1Gi") && message.contains("fast"), "{message}");
}

#[test]
fn a_target_that_is_too_small_is_refused_unless_only_some_files_are_wanted() {
    let mut large = snapshot();
    large.status.as_mut().unwrap().components.first_mut().unwrap().size = Some(2 << 30);
    let refusal = super::validate(&restore(ALL), &large, &[], &facts()).unwrap_err();
    assert_eq!(refusal.reason, Reason::TargetTooSmall);
    let spec = r"{from: {snapshotRef: {name: s}}, volumes: [{component: volume/data, to: {existingClaim: {name: data}}, paths: {include: [a]}}]}";
    assert!(super::validate(&restore(spec), &large, &[], &facts()).is_ok());
}

#[test]
fn targets_that_cannot_be_mounted_are_refused() {
    for (change, expected, may_pass) in [
        ("{spec: {volumeMode: Block, volumeName: v}, status: {phase: Bound}}", Reason::Incompatible, false),
        ("{spec: {volumeName: v}, status: {phase: Lost}}", Reason::TargetNotBound, false),
        ("{spec: {storageClassName: none}, status: {phase: Pending}}", Reason::TargetNotBound, true),
    ] {
        let mut facts = facts();
        let mut claim: PersistentVolumeClaim = serde_saphyr::from_str(change).unwrap();
        claim.metadata.name = Some("data".into());
        *facts.claims.first_mut().unwrap() = claim;
        let refusal = validate(&restore(ALL), &facts).unwrap_err();
        assert_eq!(refusal.reason, expected, "{change}");
        assert_eq!(refusal.may_pass(), may_pass, "{change}");
    }
}

#[test]
fn a_claim_that_waits_for_its_first_consumer_can_be_restored_to() {
    let mut facts = facts();
    let mut claim: PersistentVolumeClaim = serde_saphyr::from_str(
        "{spec: {storageClassName: local, resources: {requests: {storage: 1Gi}}}, status: {phase: Pending}}",
    )
    .unwrap();
    claim.metadata.name = Some("data".into());
    *facts.claims.first_mut().unwrap() = claim;
    let plan = validate(&restore(ALL), &facts).unwrap();
    assert!(plan.components.first().unwrap().empty);
    assert!(plan.compatibility().warnings.iter().any(|warning| warning.contains("storage class is local")));
}

#[test]
fn a_pod_that_cannot_be_scaled_away_is_named() {
    let mut facts = with_database(facts(), "");
    facts.inventory.pods.first_mut().unwrap().metadata.owner_references = None;
    let (found, message) = reason(&restore(ALL), &facts);
    assert_eq!(found, Reason::ClaimInUse);
    assert!(message.contains("Pod/db-0"), "{message}");
}

#[test]
fn without_quiesce_a_claim_in_use_is_refused() {
    let spec = "{from: {snapshotRef: {name: s}}, quiesce: None}";
    let (found, message) = reason(&restore(spec), &with_database(facts(), ""));
    assert_eq!(found, Reason::ClaimInUse);
    assert!(message.contains("db-0"), "{message}");
    assert!(validate(&restore(spec), &facts()).unwrap().workloads.is_empty());
}

#[test]
fn a_set_that_deletes_its_claims_when_scaled_is_refused() {
    let facts = with_database(facts(), ", persistentVolumeClaimRetentionPolicy: {whenScaled: Delete}");
    let (found, message) = reason(&restore(ALL), &facts);
    assert_eq!(found, Reason::ClaimsDeletedOnScale);
    assert!(message.contains("StatefulSet/db") && message.contains("Retain"), "{message}");
}

#[test]
fn all_errors_are_told_at_once() {
    let mut facts = with_database(facts(), ", persistentVolumeClaimRetentionPolicy: {whenScaled: Delete}");
    facts.claims.retain(|claim| claim.name_any() != "logs");
    let refusal = validate(&restore(ALL), &facts).unwrap_err();
    assert_eq!(refusal.compatibility.errors.len(), 2, "{:?}", refusal.compatibility.errors);
}

const TO_COPY: &str = "{from: {snapshotRef: {name: s}}, components: [volume/data], volumes: [{component: volume/data, to: {newClaim: {name: copy, storageClassName: local, capacity: 2Gi}}}]}";

#[test]
fn a_new_claim_is_planned_with_what_will_use_it() {
    let plan = validate(&restore(TO_COPY), &facts()).unwrap();
    let only = plan.components.first().unwrap();
    let new = only.new_claim.as_ref().unwrap();
    assert_eq!(
        (only.claim.as_str(), new.storage_class_name.as_str(), new.capacity.0.as_str()),
        ("copy", "local", "2Gi")
    );
    assert!(only.empty, "everything is made new in it");
    assert_eq!(
        only.identity.fs_group, only.identity.gid,
        "else a runner that is not root could write nothing"
    );
    // A workload that waits for the claim lends its identity and stays down meanwhile.
    let mut waiting = with_database(facts(), "");
    let pod = waiting.inventory.pods.first_mut().unwrap();
    let spec = pod.spec.as_mut().unwrap();
    spec.node_name = None;
    spec.volumes
        .as_mut()
        .unwrap()
        .first_mut()
        .unwrap()
        .persistent_volume_claim
        .as_mut()
        .unwrap()
        .claim_name = "copy".into();
    let plan = validate(&restore(TO_COPY), &waiting).unwrap();
    assert_eq!(plan.components.first().unwrap().identity.uid, 999);
    assert_eq!(plan.workloads.len(), 1);
}

#[test]
fn a_new_claim_never_takes_the_place_of_one_that_is_there() {
    let spec = TO_COPY.replace("name: copy", "name: logs");
    let (found, message) = reason(&restore(&spec), &facts());
    assert_eq!(found, Reason::TargetExists);
    assert!(message.contains("existingClaim"), "{message}");
}

#[test]
fn missing_claims_are_made_only_where_that_is_asked_for_and_the_others_are_used() {
    let mut facts = facts();
    facts.claims.retain(|claim| claim.name_any() != "data");
    facts.classes.push(serde_saphyr::from_str("{metadata: {name: fast}, provisioner: x}").unwrap());
    assert_eq!(reason(&restore(ALL), &facts).0, Reason::TargetNotFound);
    let plan = validate(&restore("{from: {snapshotRef: {name: s}}, missingClaims: Create}"), &facts).unwrap();
    let made: Vec<_> = plan.components.iter().map(|c| (c.claim.as_str(), c.new_claim.is_some())).collect();
    assert_eq!(made, [("data", true), ("logs", false)]);
    // A claim that somebody names is expected to be there.
    let named = "{from: {snapshotRef: {name: s}}, missingClaims: Create, volumes: [{component: volume/data, to: {existingClaim: {name: data}}}]}";
    assert_eq!(reason(&restore(named), &facts).0, Reason::TargetNotFound);
}

/// The runner would end by it, and the application have been down for nothing.
#[test]
fn a_pattern_that_cannot_be_used_is_refused_before_anything_is_stopped() {
    let with = |paths: &str| {
        restore(&format!(
            "{{from: {{snapshotRef: {{name: s}}}}, volumes: [{{component: volume/data, to: {{existingClaim: {{name: data}}}}, paths: {paths}}}]}}"
        ))
    };
    for paths in ["{include: ['/etc/[ab']}", "{exclude: [../x]}", "{include: [a], exclude: ['!b']}"] {
        let (reason, message) = reason(&with(paths), &facts());
        assert_eq!(reason, Reason::InvalidSpec);
        assert!(
            message.starts_with("volume/data: the pattern ") && message.contains("cannot be used"),
            "{message}"
        );
    }
    assert!(validate(&with("{include: ['/etc/[ab]'], exclude: ['*.tmp']}"), &facts()).is_ok());
}

#[test]
fn a_source_that_names_a_claim_restores_that_one_only() {
    let plan = validate(&restore("{from: {latestOf: {claim: logs}}}"), &facts()).unwrap();
    assert_eq!(plan.components.iter().map(|c| c.claim.as_str()).collect::<Vec<_>>(), ["logs"]);
    let both = "{from: {latestOf: {claim: logs}}, volumes: [{component: volume/data, to: {existingClaim: {name: data}}}]}";
    assert_eq!(reason(&restore(both), &facts()).0, Reason::InvalidSpec);
    assert_eq!(reason(&restore("{from: {latestOf: {claim: other}}}"), &facts()).0, Reason::ComponentNotFound);
}

/// The claim could not be taken that night, or another Backup of the namespace is the one that saves it.
#[test]
fn volumes_that_only_earlier_snapshots_have_are_told_where_all_is_restored() {
    let with = |name: &str, time: &str, both: bool| {
        let mut made = snapshot();
        made.metadata.name = Some(name.into());
        made.spec.time.0 = time.parse().unwrap();
        if !both {
            made.status.as_mut().unwrap().components.pop();
        }
        made
    };
    let newest = with("newest", "2026-11-20T02:00:00Z", false);
    let older = [
        with("monday", "2026-11-16T02:00:00Z", true),
        with("tuesday", "2026-11-17T02:00:00Z", true),
        with("wednesday", "2026-11-18T02:00:00Z", false),
        with("later", "2026-11-21T02:00:00Z", true),
    ];
    let warnings = |spec: &str, beside: &[Snapshot]| {
        super::validate(&restore(spec), &newest, beside, &facts()).unwrap().compatibility().warnings
    };
    let all = "{from: {snapshotRef: {name: s}}}";
    let told = warnings(all, &older);
    assert!(told.iter().any(|one| one.contains("logs (Snapshot tuesday of 2026-11-17")), "{told:?}");
    assert_eq!(warnings(all, &older[2..]), Vec::<String>::new());
    // As `holdfast restore` names what it has shown.
    let named = "{from: {snapshotRef: {name: s}}, components: [volume/data]}";
    assert_eq!(warnings(named, &older), told);
    assert!(source::asks_for_others(&restore(all), &newest));
    let whole = with("whole", "2026-11-20T02:00:00Z", true);
    assert!(!source::asks_for_others(&restore(named), &whole), "the other one is there and not asked for");
    let mut hurt = whole.clone();
    hurt.status.as_mut().unwrap().components[0].damaged = true;
    assert!(source::asks_for_others(&restore(named), &hurt));
}

#[test]
fn what_cannot_be_read_any_more_is_refused_with_the_newest_that_can() {
    let with = |name: &str, time: &str, damaged: bool| {
        let mut made = snapshot();
        made.metadata.name = Some(name.into());
        made.spec.time.0 = time.parse().unwrap();
        made.status.as_mut().unwrap().components[0].damaged = damaged;
        made
    };
    let hurt = with("hurt", "2026-11-20T02:00:00Z", true);
    let older = [
        with("monday", "2026-11-16T02:00:00Z", false),
        with("tuesday", "2026-11-17T02:00:00Z", false),
        with("wednesday", "2026-11-18T02:00:00Z", true),
        with("later", "2026-11-21T02:00:00Z", false),
    ];
    let of = |spec: &str, beside: &[Snapshot]| super::validate(&restore(spec), &hurt, beside, &facts());
    let refusal = of(ALL, &older).unwrap_err();
    assert_eq!(refusal.reason, Reason::SnapshotDamaged);
    assert!(
        refusal.message.contains("volume/data of Snapshot hurt")
            && refusal.message.contains("Snapshot tuesday of 2026-11-17"),
        "{}",
        refusal.message
    );
    assert!(of(ALL, &older[2..]).unwrap_err().message.contains("there is none before it"));
    of("{from: {snapshotRef: {name: s}}, components: [volume/logs]}", &older).unwrap();
}

#[test]
fn a_state_that_is_chosen_by_its_time_is_told_with_what_may_be_newer() {
    let warnings = |spec: &str, newer: Option<&str>| {
        let facts = Facts { newer_ones: newer.map(str::to_owned).into_iter().collect(), ..facts() };
        super::validate(&restore(spec), &snapshot(), &[], &facts).unwrap().compatibility().warnings
    };
    let by_time = "{from: {latestOf: {claim: data}}}";
    assert_eq!(warnings(by_time, Some("1 snapshot cannot be read")), ["1 snapshot cannot be read"]);
    assert_eq!(warnings(by_time, None), Vec::<String>::new());
    assert_eq!(warnings(ALL, Some("1 snapshot")), Vec::<String>::new(), "it was named");
}
