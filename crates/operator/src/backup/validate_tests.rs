use super::*;
use crate::volumes::node_name;
use k8s_openapi::api::core::v1::Node;

fn backup(spec: &str) -> Backup {
    serde_saphyr::from_str(&format!("{{metadata: {{name: b, namespace: shop}}, spec: {spec}}}")).unwrap()
}

fn facts(claims: &str, pods: &str) -> Facts {
    let nodes: Vec<Node> = serde_saphyr::from_str(
        r"
- {metadata: {name: n1}, status: {conditions: [{type: Ready, status: 'True'}]}}
- {metadata: {name: dead}, status: {conditions: [{type: Ready, status: Unknown}]}}
",
    )
    .unwrap();
    Facts {
        namespace: serde_saphyr::from_str("{metadata: {name: shop}}").unwrap(),
        claims: serde_saphyr::from_str(claims).unwrap(),
        classes: serde_saphyr::from_str(
            "[{metadata: {name: local}, provisioner: x, volumeBindingMode: WaitForFirstConsumer}]",
        )
        .unwrap(),
        pods: serde_saphyr::from_str(pods).unwrap(),
        nodes: NodeStates::new(&nodes),
        attachments: vec![],
        volumes: vec![],
        claims_default: ClaimsDefault::OptOut,
    }
}

fn bound(name: &str, annotations: &str) -> String {
    format!(
        r"
- metadata: {{name: {name}, annotations: {annotations}}}
  spec:
    {{accessModes: [ReadWriteOnce], storageClassName: local, volumeName: pv-{name}, resources: {{requests: {{storage: 1Gi}}}}}}
  status: {{phase: Bound, capacity: {{storage: 2Gi}}}}
"
    )
}

fn pod(name: &str, claim: &str, node: &str) -> String {
    format!(
        r"
- metadata: {{name: {name}}}
  spec:
    nodeName: {node}
    containers: [{{name: c, securityContext: {{runAsUser: 999}}, volumeMounts: [{{name: d, mountPath: /d}}]}}]
    volumes: [{{name: d, persistentVolumeClaim: {{claimName: {claim}}}}}]
  status: {{phase: Running}}
"
    )
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.components.iter().map(|component| component.claim.as_str()).collect()
}

fn skipped(plan: &Plan) -> Vec<(&str, SkipReason)> {
    plan.coverage.skipped.iter().map(|skip| (skip.claim.as_str(), skip.reason)).collect()
}

#[test]
fn every_claim_is_saved_beside_its_pod_as_its_user() {
    let plan = validate(&backup("{}"), &facts(&(bound("a", "{}") + &bound("b", "{}")), &pod("p", "b", "n1")))
        .unwrap();
    assert_eq!(names(&plan), ["a", "b"]);
    assert_eq!(plan.coverage, Coverage { protected: 2, ..Coverage::default() });
    assert_eq!(plan.refusal, None);
    let [a, b] = plan.components.as_slice() else { panic!("two components") };
    assert_eq!((node_name(&b.placement), b.identity.uid, &b.limits), (Some("n1"), 999, &None));
    assert_eq!((node_name(&a.placement), a.identity.uid), (None, 65_532));
    assert!(a.limits.as_ref().unwrap().contains("allow-root-runner"));
    assert_eq!(a.volume.capacity.as_deref(), Some("2Gi"));
}

#[test]
fn what_cannot_be_kept_of_a_claim_is_told() {
    let long = bound(
        "a",
        &format!("{{holdfast.dev/exclude: {}, k8up.io/backup: 'true', note: x}}", "x".repeat(2100)),
    );
    let plan =
        validate(&backup("{}"), &facts(&(long + &bound("b", "{holdfast.dev/exclude: y}")), "[]")).unwrap();
    let [only] = plan.coverage.warnings.as_slice() else { panic!("{:?}", plan.coverage.warnings) };
    assert!(only.starts_with("a: too long") && only.contains("annotation holdfast.dev/exclude"), "{only}");
    assert!(!only.contains("k8up.io") && !only.contains("labels"), "{only}");
    let many: Vec<String> = (0..40).map(|n| format!("label-{n}: {}", "x".repeat(60))).collect();
    let labelled = bound("a", "{}")
        .replace("annotations: {}", &format!("annotations: {{}}, labels: {{{}}}", many.join(", ")));
    let plan = validate(&backup("{}"), &facts(&labelled, "[]")).unwrap();
    assert!(plan.coverage.warnings[0].contains("of the labels"), "{:?}", plan.coverage.warnings);
}

#[test]
fn that_nobody_can_say_on_which_node_a_claims_data_is_is_told() {
    let volumes =
        || serde_saphyr::from_str("[{metadata: {name: pv-a}, spec: {hostPath: {path: /x}}}]").unwrap();
    let warned = |pods: &str| {
        let facts = Facts { volumes: volumes(), ..facts(&bound("a", "{}"), pods) };
        validate(&backup("{}"), &facts).unwrap().coverage.warnings
    };
    let [only] = &warned("[]")[..] else { panic!("{:?}", warned("[]")) };
    assert!(only.starts_with("a: ") && only.contains("hostPath"), "{only}");
    assert_eq!(warned(&pod("p", "a", "n1")), [""; 0]);
}

/// As with a name that is not there: who means certain claims does not want to save nothing.
#[test]
fn selectors_that_match_nothing_are_no_backup() {
    let labelled = |name: &str, label: &str| {
        bound(name, "{}").replace("annotations: {}", &format!("annotations: {{}}, labels: {{app: {label}}}"))
    };
    let claims = labelled("a", "db") + &labelled("b", "web");
    let plan = |volumes: &str, claims: &str| {
        validate(&backup(&format!("{{volumes: {volumes}}}")), &facts(claims, "[]"))
    };
    let refusal = plan("{selectors: [{matchLabels: {app: bd}}]}", &claims).unwrap_err();
    assert_eq!(refusal.reason, Reason::NothingSelected);
    assert!(refusal.message.contains("any of the namespace's 2 claims"), "{}", refusal.message);
    let half = plan("{selectors: [{matchLabels: {app: db}}, {matchLabels: {app: x}}]}", &claims).unwrap();
    assert_eq!(names(&half), ["a"]);
    assert_eq!(half.coverage.warnings, ["spec.volumes.selectors[1] matches no claim of the namespace"]);
    let named = plan("{claims: [b], selectors: [{matchLabels: {app: x}}]}", &claims).unwrap();
    assert_eq!((names(&named), named.coverage.warnings.len()), (vec!["b"], 1));
    let none = plan("{selectors: [{matchLabels: {app: db}}]}", "[]").unwrap();
    assert!(
        none.components.is_empty() && none.coverage.warnings.is_empty(),
        "no claims, and no selector is wrong"
    );
    let wished_out =
        labelled("a", "db").replace("annotations: {}", "annotations: {holdfast.dev/backup: 'false'}");
    let none = plan("{selectors: [{matchLabels: {app: db}}]}", &wished_out).unwrap();
    assert_eq!(skipped(&none), [("a", SkipReason::ExcludedByAnnotation)]);
}

#[test]
fn annotations_win_over_the_list_of_claims() {
    let claims = bound("in", "{}")
        + &bound("out", "{holdfast.dev/backup: 'false'}")
        + &bound("always", "{holdfast.dev/backup: 'true'}")
        + &bound("k8up", "{k8up.io/backup: 'false'}")
        + &bound("ours-first", "{k8up.io/backup: 'false', holdfast.dev/backup: 'true'}")
        + &bound("other", "{}")
        + &bound("slip", "{holdfast.dev/backup: 'no'}");
    let plan = validate(&backup("{volumes: {claims: [in, out, slip]}}"), &facts(&claims, "[]")).unwrap();
    assert_eq!(names(&plan), ["always", "in", "ours-first", "slip"]);
    assert_eq!(
        skipped(&plan),
        [
            ("k8up", SkipReason::ExcludedByAnnotation),
            ("other", SkipReason::NotSelected),
            ("out", SkipReason::ExcludedByAnnotation),
        ]
    );
}

#[test]
fn a_claim_that_cannot_be_mounted_is_reported_with_the_reason() {
    let claims = r"
- {metadata: {name: block}, spec: {volumeMode: Block, volumeName: v}, status: {phase: Bound}}
- {metadata: {name: fresh}, spec: {storageClassName: local}, status: {phase: Pending}}
- {metadata: {name: going, deletionTimestamp: '2026-11-20T02:00:00Z'}, spec: {volumeName: v}, status: {phase: Bound}}
- {metadata: {name: lost}, spec: {volumeName: v}, status: {phase: Lost}}
- {metadata: {name: one-pod}, spec: {accessModes: [ReadWriteOncePod], volumeName: v}, status: {phase: Bound}}
- {metadata: {name: on-dead}, spec: {accessModes: [ReadWriteOnce], volumeName: v}, status: {phase: Bound}}
- {metadata: {name: pending}, spec: {storageClassName: none}, status: {phase: Pending}}
- {metadata: {name: waiting}, spec: {storageClassName: local}, status: {phase: Pending}}
";
    let pods = pod("p1", "one-pod", "n1") + &pod("p2", "on-dead", "dead") + &pod("p3", "waiting", "''");
    let plan = validate(&backup("{volumes: {claims: [missing]}}"), &facts(claims, &pods)).unwrap();
    assert_eq!(skipped(&plan).len(), 9, "a list of other claims leaves all out: {:?}", skipped(&plan));
    let plan = validate(&backup("{}"), &facts(claims, &pods)).unwrap();
    assert_eq!(names(&plan), Vec::<&str>::new());
    assert_eq!(
        skipped(&plan),
        [
            ("block", SkipReason::BlockVolume),
            ("going", SkipReason::ClaimTerminating),
            ("lost", SkipReason::ClaimLost),
            ("on-dead", SkipReason::NodeNotReady),
            ("one-pod", SkipReason::ReadWriteOncePodInUse),
            ("pending", SkipReason::ClaimPending),
            ("waiting", SkipReason::ClaimPending),
            ("fresh", SkipReason::NoDataYet),
        ]
    );
}

#[test]
fn a_named_claim_that_is_not_there_is_reported() {
    let plan =
        validate(&backup("{volumes: {claims: [a, nowhere]}}"), &facts(&bound("a", "{}"), "[]")).unwrap();
    assert_eq!(names(&plan), ["a"]);
    assert_eq!(skipped(&plan), [("nowhere", SkipReason::ClaimNotFound)]);
}

#[test]
fn root_is_refused_where_it_is_not_allowed_and_used_where_it_is() {
    let mut facts = facts(&bound("a", "{}"), "[]");
    let refusal = validate(&backup("{runAs: Root}"), &facts).unwrap_err();
    assert_eq!(refusal.reason, Reason::RootNotAllowed);
    facts.namespace.annotations_mut().insert(ANNOTATION_ALLOW_ROOT_RUNNER.into(), "true".into());
    for run_as in ["Root", "Auto"] {
        let plan = validate(&backup(&format!("{{runAs: {run_as}}}")), &facts).unwrap();
        assert_eq!(plan.components.first().unwrap().identity.uid, 0, "{run_as}");
    }
}

#[test]
fn more_claims_than_one_run_can_have_are_refused() {
    let claims: String = (0..=MAX_COMPONENTS).map(|n| bound(&format!("c{n}"), "{}")).collect();
    let refusal = validate(&backup("{}"), &facts(&claims, "[]")).unwrap_err();
    assert_eq!(refusal.reason, Reason::TooManyComponents);
}

/// The status of a run that begins with this plan, as far as claims are left out.
fn begun(plan: &Plan) -> Coverage {
    let mut status = holdfast_api::BackupStatus::default();
    super::super::status::begun(&mut status, plan, "main", Some(1), jiff::Timestamp::UNIX_EPOCH);
    status.coverage.unwrap()
}

#[test]
fn a_claim_that_was_to_be_saved_is_never_cut_for_claims_that_were_not() {
    let unselected: String = (0..600).map(|n| bound(&format!("c{n:03}"), "{}")).collect();
    let lost = "\n- {metadata: {name: zz}, spec: {volumeName: v}, status: {phase: Lost}}\n";
    let claims = unselected + &bound("good", "{}") + lost;
    let plan = validate(&backup("{volumes: {claims: [good, zz]}}"), &facts(&claims, "[]")).unwrap();
    assert_eq!((names(&plan), plan.coverage.skipped.len()), (vec!["good"], 601));
    let coverage = begun(&plan);
    assert_eq!(coverage.skipped.len(), MAX_COMPONENTS);
    let first = coverage.skipped.first().map(|skip| (skip.claim.as_str(), skip.reason));
    assert_eq!(first, Some(("zz", SkipReason::ClaimLost)));
    assert!(coverage.warnings.first().unwrap().starts_with("89 claims left out"), "{:?}", coverage.warnings);
    let saved = holdfast_api::backup::BackupComponent {
        phase: holdfast_api::backup::ComponentPhase::Succeeded,
        snapshot_id: Some("aa".into()),
        ..holdfast_api::backup::BackupComponent::default()
    };
    let conclusion = super::super::status::conclude(&[saved], &coverage);
    assert_eq!((conclusion.phase, conclusion.reason), (BackupPhase::PartiallyFailed, Reason::ClaimsSkipped));
    assert!(conclusion.message.contains("not saved: zz (ClaimLost)"), "{}", conclusion.message);
    assert!(!conclusion.message.contains("more"), "{}", conclusion.message);
}

#[test]
fn more_claims_than_a_status_lists_are_told_as_that() {
    let lost: Vec<String> = (0..600)
        .map(|n| {
            format!("- {{metadata: {{name: l{n:03}}}, spec: {{volumeName: v}}, status: {{phase: Lost}}}}")
        })
        .collect();
    let lost = format!("\n{}\n", lost.join("\n"));
    let plan = validate(&backup("{}"), &facts(&lost, "[]")).unwrap();
    let conclusion = super::super::status::conclude(&[], &begun(&plan));
    assert_eq!((conclusion.phase, conclusion.reason), (BackupPhase::Failed, Reason::ClaimsSkipped));
    assert!(
        conclusion.message.ends_with("more may be left out than status.coverage lists"),
        "{conclusion:?}"
    );
    let never = "{holdfast.dev/backup: 'false'}";
    let excluded: String = (0..600).map(|n| bound(&format!("c{n:03}"), never)).collect();
    let plan = validate(&backup("{}"), &facts(&excluded, "[]")).unwrap();
    let conclusion = super::super::status::conclude(&[], &begun(&plan));
    assert_eq!(conclusion.phase, BackupPhase::Skipped);
    assert!(conclusion.message.contains("512 claims or more left out"), "{}", conclusion.message);
}

/// Reason and message of a component whose claim is not in the plan any more.
fn vanished(claim: &str, plan: &Plan) -> (String, String) {
    let mut component: holdfast_api::backup::BackupComponent =
        serde_saphyr::from_str(&format!("{{name: volume/{claim}, source: {{claim: {claim}}}}}")).unwrap();
    super::super::status::vanished(&mut component, plan, jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(component.phase, holdfast_api::backup::ComponentPhase::Failed);
    (component.reason.unwrap(), component.message.unwrap())
}

#[test]
fn a_component_that_cannot_be_saved_any_more_says_what_became_of_its_claim() {
    let excluded = bound("zz", "{holdfast.dev/backup: 'false'}");
    // More are left out than a status lists, and this one is the last of them.
    let unselected: String = (0..600).map(|n| bound(&format!("c{n:03}"), "{}")).collect();
    let plan =
        validate(&backup("{volumes: {claims: [zz]}}"), &facts(&(unselected + &excluded), "[]")).unwrap();
    assert_eq!(vanished("zz", &plan).0, "ExcludedByAnnotation");
    assert_eq!(vanished("gone", &plan), ("ClaimNotFound".into(), "the claim gone is gone".into()));
}

#[test]
fn a_component_that_may_not_be_saved_any_more_says_why() {
    // The namespace had the annotation when the run began.
    let refusal = validate(&backup("{runAs: Root}"), &facts(&bound("a", "{}"), "[]")).unwrap_err();
    let plan = Plan::refused(refusal.clone());
    assert_eq!(vanished("a", &plan), ("RootNotAllowed".into(), refusal.message));
    let claims: String = (0..=MAX_COMPONENTS).map(|n| bound(&format!("c{n}"), "{}")).collect();
    let plan = Plan::refused(validate(&backup("{}"), &facts(&claims, "[]")).unwrap_err());
    let (reason, message) = vanished("c1", &plan);
    assert_eq!(reason, "TooManyComponents");
    assert!(message.contains("make several Backups"), "{message}");
}

#[test]
fn excludes_of_backup_and_claim_add_up() {
    let claims = bound("a", "{holdfast.dev/exclude: 'cache/, *.bak,'}");
    let plan = validate(&backup("{volumes: {exclude: ['*.tmp']}}"), &facts(&claims, "[]")).unwrap();
    assert_eq!(plan.components.first().unwrap().exclude, ["*.tmp", "cache/", "*.bak"]);
}

#[test]
fn a_claim_that_a_restore_writes_makes_the_backup_wait_for_it() {
    let plan = validate(&backup("{}"), &facts(&(bound("data", "{}") + &bound("other", "{}")), "[]")).unwrap();
    assert_eq!(names(&plan), ["data", "other"]);
    let wait = |phase: &str, claim: &str, spec: &str| {
        let restore: Restore = serde_saphyr::from_str(&format!(
            r"
metadata: {{name: back, namespace: shop}}
spec: {{from: {{snapshotRef: {{name: s}}}}{spec}}}
status: {{phase: {phase}, components: [{{name: volume/x, claim: {claim}}}]}}
"
        ))
        .unwrap();
        being_restored(&plan, &[restore])
    };
    for phase in ["Quiescing", "Saving", "Running", "Unquiescing"] {
        let refusal = wait(phase, "data", "").unwrap();
        assert_eq!(refusal.reason, Reason::ClaimInUse);
        assert!(refusal.message.contains("Restore back writes the claim data"), "{}", refusal.message);
    }
    for phase in ["Pending", "Planning", "Planned", "Succeeded", "PartiallyFailed", "Failed"] {
        assert_eq!(wait(phase, "data", ""), None, "{phase}");
    }
    assert_eq!(wait("Running", "third", ""), None, "a claim that is not saved");
    assert_eq!(wait("Running", "data", ", dryRun: true"), None, "a dry run writes nothing");
}

#[test]
fn two_backups_that_do_the_same_work_are_told() {
    let plan = validate(&backup("{}"), &facts(&(bound("data", "{}") + &bound("logs", "{}")), "[]")).unwrap();
    let told = |uid: &str, phase: &str, repository: &str, claim: &str| {
        let other: Backup = serde_saphyr::from_str(&format!(
            r"
metadata: {{name: other, namespace: shop, uid: {uid}}}
spec: {{}}
status:
  phase: {phase}
  startTime: '2026-11-20T02:00:00Z'
  repositoryRef: {{name: {repository}}}
  components: [{{name: volume/{claim}, source: {{claim: {claim}}}}}]
"
        ))
        .unwrap();
        overlaps(&plan, "main", Some("own"), &[other])
    };
    let told_once = told("u", "Running", "main", "data");
    let [only] = told_once.as_slice() else { panic!("{told_once:?}") };
    assert!(only.contains("Backup other") && only.ends_with("data"), "{only}");
    for (uid, phase, repository, claim) in [
        ("own", "Running", "main", "data"),
        ("u", "Succeeded", "main", "data"),
        ("u", "Running", "second", "data"),
        ("u", "Running", "main", "else"),
    ] {
        assert!(told(uid, phase, repository, claim).is_empty(), "{uid} {phase} {repository} {claim}");
    }
}

#[test]
fn a_secret_that_is_gone_during_a_run_is_named_and_nothing_is_told_as_done() {
    let gone = AccessError::NotFound {
        kind: "Secret",
        namespace: "backup".into(),
        name: "holdfast-repo-1".into(),
        purpose: "password of the repository",
    };
    let refusal = Refusal::of_access(&gone).unwrap();
    assert_eq!(refusal.reason, Reason::SecretNotFound);
    assert!(refusal.message.contains("Secret backup/holdfast-repo-1"), "{}", refusal.message);
    let empty = AccessError::KeyMissing {
        kind: "Secret",
        namespace: "backup".into(),
        name: "p".into(),
        purpose: "password of the repository",
        key: "password".into(),
    };
    assert_eq!(Refusal::of_access(&empty).unwrap().reason, Reason::SecretInvalid);

    let mut components: Vec<holdfast_api::backup::BackupComponent> = serde_saphyr::from_str(
        r"
- {name: volume/at-work, source: {claim: at-work}, phase: Running}
- {name: volume/next, source: {claim: next}, phase: Pending, reason: Retrying, nextAttemptTime: '2026-11-20T02:00:00Z'}
",
    )
    .unwrap();
    super::super::status::held_up(&mut components, &["volume/next"], &refusal);
    let [at_work, next] = components.as_slice() else { panic!("two components") };
    assert_eq!((at_work.reason.as_deref(), at_work.message.as_deref()), (None, None), "its Job has a copy");
    assert_eq!(next.reason.as_deref(), Some("SecretNotFound"));
    assert_eq!((next.message.as_deref(), &next.next_attempt_time), (Some(refusal.message.as_str()), &None));
    let told = super::super::status::under_way(&mut components);
    assert!(told.contains("0 of them done; volume/next: Secret backup/holdfast-repo-1"), "{told}");
}

#[test]
fn two_hundred_claims_of_one_namespace_are_one_plan_with_a_component_each() {
    let claims: String = (0..200).map(|n| bound(&format!("c{n:03}"), "{}")).collect();
    let pods: String = (0..200).map(|n| pod(&format!("p{n:03}"), &format!("c{n:03}"), "n1")).collect();
    let plan = validate(&backup("{}"), &facts(&claims, &pods)).unwrap();
    assert_eq!((plan.components.len(), plan.coverage.protected), (200, 200));
    assert!(plan.coverage.skipped.is_empty() && plan.coverage.warnings.is_empty());
    let mut status = holdfast_api::BackupStatus::default();
    super::super::status::begun(&mut status, &plan, "main", Some(1), jiff::Timestamp::UNIX_EPOCH);
    let size = serde_json::to_vec(&status).unwrap().len();
    assert!(size < 100_000, "{size}");
}

#[test]
fn nothing_is_saved_to_a_storage_for_restores_only() {
    let storage = |mode: &str| -> BackupStorage {
        serde_saphyr::from_str(&format!(
            "{{metadata: {{name: vault, namespace: backup}}, spec: {{backend: {{}}{mode}}}}}"
        ))
        .unwrap()
    };
    assert_eq!(Refusal::of_closed(&storage("")), None, "what older objects say");
    assert_eq!(Refusal::of_closed(&storage(", accessMode: ReadWrite")), None);
    let refusal = Refusal::of_closed(&storage(", accessMode: ReadOnly")).unwrap();
    assert_eq!(refusal.reason, Reason::ReadOnly);
    assert!(
        refusal.message.contains("backup/vault") && refusal.message.contains("spec.storageRef"),
        "{refusal:?}"
    );
}
