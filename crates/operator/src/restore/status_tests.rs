use super::*;
use crate::quiesce::{WorkloadId, WorkloadKind};
use holdfast_api::refs::Identity;

fn restore(name: &str, made: &str, rest: &str) -> Restore {
    serde_saphyr::from_str(&format!(
        r"
metadata: {{name: {name}, namespace: shop, uid: {name}, creationTimestamp: '2026-11-20T0{made}:00:00Z'}}
spec: {{from: {{snapshotRef: {{name: s}}}}}}
{rest}
"
    ))
    .unwrap()
}

fn component(name: &str) -> RestoreComponent {
    RestoreComponent {
        name: format!("volume/{name}"),
        claim: Some(name.into()),
        run_as: Some(Identity { uid: 999, ..Identity::default() }),
        ..RestoreComponent::default()
    }
}

fn verdict(outcome: Outcome, result: RestoreResult) -> Verdict {
    Verdict {
        outcome,
        reason: None,
        message: None,
        result: Some(TaskResult::RestoreVolume(result)),
        ..Verdict::failed("", "", false)
    }
}

fn judge(name: &str, verdict: &Verdict) -> RestoreComponent {
    let mut component = component(name);
    judged(&mut component, None, verdict, Proof { verify: true, owners: true });
    component
}

fn good() -> RestoreComponent {
    let result = RestoreResult {
        verified: true,
        files_restored: 3,
        bytes_written: 2048,
        unchanged: 4,
        ..RestoreResult::default()
    };
    judge("good", &verdict(Outcome::Succeeded, result))
}

fn bad() -> RestoreComponent {
    judge("bad", &Verdict::failed("TargetFull", "the volume is full", false))
}

fn concluded(components: Vec<RestoreComponent>) -> Conclusion {
    let status = RestoreStatus { components, ..RestoreStatus::default() };
    conclude(&restore("r", "1", ""), &status)
}

#[test]
fn success_without_the_proof_that_was_asked_for_is_a_failure() {
    let unproved = judge("x", &verdict(Outcome::Succeeded, RestoreResult::default()));
    assert_eq!(
        (unproved.phase, unproved.reason.as_deref()),
        (ComponentPhase::Failed, Some("VerificationFailed"))
    );
    let silent = judge("x", &Verdict { outcome: Outcome::Succeeded, ..Verdict::failed("", "", false) });
    assert_eq!(silent.phase, ComponentPhase::Failed);
}

#[test]
fn lost_metadata_is_told_apart_from_lost_content() {
    let result = RestoreResult {
        verified: true,
        metadata_failures: 2,
        failure_sample: vec![holdfast_protocol::verdict::FaultRow {
            path: "/x".into(),
            error: "chown".into(),
        }],
        ..RestoreResult::default()
    };
    let component = judge("x", &verdict(Outcome::Partial, result));
    assert_eq!(component.reason.as_deref(), Some("MetadataNotRestored"));
    assert_eq!((component.failures_sample.len(), component.metadata_failures_sample.len()), (0, 1));
    assert!(component.message.unwrap().contains("allow-root-runner"));
}

#[test]
fn files_that_changed_hands_are_no_success_unless_that_was_wanted() {
    let result = RestoreResult { verified: true, owners_kept: 2, ..RestoreResult::default() };
    let verdict = verdict(Outcome::Succeeded, result);
    let kept = judge("x", &verdict);
    assert_eq!(
        (kept.phase, kept.reason.as_deref(), kept.owners_not_restored),
        (ComponentPhase::PartiallyFailed, Some("OwnersNotRestored"), Some(2))
    );
    let told = kept.message.clone().unwrap();
    assert!(
        told.contains("2 entries of other users belong to uid 999") && told.contains("allow-root"),
        "{told}"
    );
    let all = concluded(vec![kept]);
    assert_eq!((all.phase, all.reason.as_str()), (RestorePhase::PartiallyFailed, "OwnersNotRestored"));

    let mut wanted = component("x");
    judged(&mut wanted, None, &verdict, Proof { verify: true, owners: false });
    assert_eq!((wanted.phase, wanted.reason.as_deref()), (ComponentPhase::Succeeded, None));
    let all = concluded(vec![wanted]);
    assert_eq!(all.phase, RestorePhase::Succeeded);
    assert!(all.message.contains("belong to uid 999 now, as runAs: Workload has it"), "{}", all.message);
}

#[test]
fn only_who_wants_the_workloads_user_and_gets_it_wants_its_files_to_be_that_users() {
    let asked = |run_as: &str, mode: Option<RunAs>| {
        let restore: Restore = serde_saphyr::from_str(&format!(
            "{{metadata: {{name: r}}, spec: {{from: {{snapshotRef: {{name: s}}}}, runAs: {run_as}}}}}"
        ))
        .unwrap();
        let run_as = Some(Identity { uid: 1000, mode, ..Identity::default() });
        Proof::of(&restore, &RestoreComponent { run_as, ..component("x") })
    };
    assert_eq!(asked("Workload", Some(RunAs::Workload)), Proof { verify: true, owners: false });
    assert!(asked("Workload", None).owners, "nobody's user was not asked for");
    assert!(asked("Auto", Some(RunAs::Workload)).owners, "it was not chosen");
    assert!(asked("Root", Some(RunAs::Root)).owners);
}

#[test]
fn the_phase_follows_from_the_components_and_nothing_is_never_success() {
    let all = concluded(vec![good()]);
    assert_eq!((all.phase, all.reason.as_str()), (RestorePhase::Succeeded, "Succeeded"));
    assert_eq!(
        all.message,
        "restored 1 volume: 3 files and 2.0 KiB written, 4 already as they should be, verified"
    );
    let some = concluded(vec![good(), bad()]);
    assert_eq!((some.phase, some.reason.as_str()), (RestorePhase::PartiallyFailed, "TargetFull"));
    assert!(some.message.contains("the volume is full"), "{}", some.message);
    let none = concluded(vec![bad()]);
    assert_eq!((none.phase, none.reason.as_str()), (RestorePhase::Failed, "TargetFull"));
    assert_eq!(concluded(vec![]).phase, RestorePhase::Failed);
}

#[test]
fn the_plan_is_filled_from_what_the_runner_found() {
    let mut plan = RestorePlan {
        volumes: vec![VolumePlan { component: "volume/x".into(), ..VolumePlan::default() }],
        warnings: vec![],
    };
    let result = RestoreResult {
        create: 5,
        delete: 1,
        bytes_to_write: 10,
        verified: true,
        ..RestoreResult::default()
    };
    let mut x = component("x");
    judged(
        &mut x,
        Some(&mut plan),
        &verdict(Outcome::Succeeded, result),
        Proof { verify: true, owners: true },
    );
    let volume = plan.volumes.first().unwrap();
    assert_eq!((volume.create, volume.delete, volume.bytes_to_write), (Some(5), Some(1), Some(10)));
}

#[test]
fn a_pattern_that_protects_nothing_is_in_the_plan_and_in_the_message() {
    let mut plan = RestorePlan {
        volumes: vec![VolumePlan { component: "volume/good".into(), ..VolumePlan::default() }],
        ..RestorePlan::default()
    };
    let mut verdict =
        verdict(Outcome::Succeeded, RestoreResult { verified: true, ..RestoreResult::default() });
    verdict.reason = Some(UNMATCHED_EXCLUDE.into());
    verdict.message = Some("1 of the patterns to leave out match nothing".into());
    let mut component = component("good");
    for _look in 0..2 {
        judged(&mut component, Some(&mut plan), &verdict, Proof { verify: true, owners: true });
    }
    assert_eq!(plan.volumes[0].warnings.len(), 1);
    let status = RestoreStatus { components: vec![component], ..RestoreStatus::default() };
    let end = conclude(&restore("r", "1", ""), &status);
    assert_eq!(end.phase, RestorePhase::Succeeded);
    assert!(end.message.contains("match nothing") && !end.message.contains("says more"), "{}", end.message);
    // Of several the first is told, and where the others are.
    let other = RestoreComponent { name: "volume/other".into(), ..status.components[0].clone() };
    let both = RestoreStatus { components: vec![status.components[0].clone(), other], ..status };
    let end = conclude(&restore("r", "1", ""), &both);
    assert!(
        end.message.contains("match nothing; status.components says more of volume/other"),
        "{}",
        end.message
    );
}

#[test]
fn a_pattern_that_matches_nothing_is_told_beside_the_owners() {
    let result = RestoreResult { verified: true, owners_kept: 2, ..RestoreResult::default() };
    let mut told = verdict(Outcome::Succeeded, result);
    told.reason = Some(UNMATCHED_EXCLUDE.into());
    told.message = Some("1 of the patterns to leave out match nothing".into());
    for owners in [true, false] {
        let mut component = component("good");
        judged(&mut component, None, &told, Proof { verify: true, owners });
        let message = component.message.unwrap();
        assert!(
            message.contains("2 entries of other users") && message.ends_with("match nothing"),
            "{message}"
        );
    }
}

#[test]
fn a_success_does_not_hide_what_was_warned_of() {
    let with = |warnings: &[&str]| {
        let warnings = warnings.iter().map(|&text| text.to_owned()).collect();
        let compatibility =
            Some(holdfast_api::restore::Compatibility { compatible: true, warnings, ..Default::default() });
        let status = RestoreStatus { components: vec![good()], compatibility, ..RestoreStatus::default() };
        let end = conclude(&restore("r", "1", ""), &status);
        assert_eq!(end.phase, RestorePhase::Succeeded);
        end.message
    };
    assert!(with(&[]).ends_with(", verified"));
    assert!(with(&["no owners"]).ends_with(", verified; but: no owners"));
    let several = with(&["no owners", "another class", "small"]);
    assert!(several.ends_with("; but: no owners; 2 more in status.compatibility.warnings"), "{several}");
}

fn used_by(consumers: &[&str]) -> RestoreStatus {
    let consumers = consumers.iter().map(|&name| name.to_owned()).collect();
    let volumes = vec![VolumePlan { consumers, ..VolumePlan::default() }];
    RestoreStatus {
        plan: Some(RestorePlan { volumes, ..RestorePlan::default() }),
        ..RestoreStatus::default()
    }
}

#[test]
fn an_application_that_stays_down_is_no_success() {
    let mut status = used_by(&["StatefulSet/db"]);
    status.components = vec![good()];
    let db = WorkloadId { kind: WorkloadKind::StatefulSet, name: "db".into() };
    let mut writer = Writer { status: &mut status, generation: Some(1), now: Timestamp::UNIX_EPOCH };
    writer.released(&ReleaseReport { unreadable: vec![db], ..ReleaseReport::default() });
    let end = conclude(&restore("r", "1", ""), &status);
    assert_eq!((end.phase, end.reason.as_str()), (RestorePhase::PartiallyFailed, "QuiesceFailed"));
    assert!(end.message.contains("StatefulSet/db cannot be scaled back"), "{}", end.message);
}

#[test]
fn what_was_written_while_others_used_it_is_not_called_whole() {
    let late = || RestoreComponent { name: "volume/late".into(), ..good() };
    let before = [good(), RestoreComponent { phase: ComponentPhase::Running, ..late() }];
    let mut status = RestoreStatus { components: vec![good(), late(), bad()], ..RestoreStatus::default() };
    let mut writer = Writer { status: &mut status, generation: Some(1), now: Timestamp::UNIX_EPOCH };
    writer.contested(&before, "a pod was started");
    let phases: Vec<_> = status.components.iter().map(|c| c.phase).collect();
    assert_eq!(phases, [ComponentPhase::Succeeded, ComponentPhase::PartiallyFailed, ComponentPhase::Failed]);
    assert_eq!(status.components[1].reason.as_deref(), Some("QuiesceContested"));
}

#[test]
fn the_time_in_which_nothing_goes_on_counts_from_its_beginning() {
    let mut status = RestoreStatus::default();
    let mut at = |second: i64, blocked: bool| {
        let now = Timestamp::from_second(second).unwrap();
        let mut writer = Writer { status: &mut status, generation: Some(1), now };
        if blocked {
            writer.blocked(Reason::SecretNotFound, &format!("no Secret, {second}"));
        } else {
            writer.phase(RestorePhase::Running, Reason::Running, "writes");
        }
        blocked_since(&status).map(Timestamp::as_second)
    };
    assert_eq!(at(1, false), None);
    assert_eq!(at(5, true), Some(5));
    assert_eq!(at(9, true), Some(5));
    assert_eq!(at(10, false), None, "it went on");
    assert_eq!(at(12, true), Some(12));
    assert_eq!(status.message.as_deref(), Some("cannot go on, and tries again: no Secret, 12"));
}

#[test]
fn letting_go_is_told_as_it_happened() {
    let db = || WorkloadId { kind: WorkloadKind::StatefulSet, name: "db".into() };
    let told = |held: bool, report: ReleaseReport| {
        let mut status = used_by(&["StatefulSet/db"]);
        let mut writer = Writer { status: &mut status, generation: Some(1), now: Timestamp::UNIX_EPOCH };
        if held {
            writer.holding(&["StatefulSet/db".into()]);
        }
        writer.released(&report);
        let condition = find_condition(&status.conditions, ConditionType::QuiesceReverted).unwrap();
        (condition.status.clone(), condition.reason.clone(), condition.message.clone())
    };
    let none = ReleaseReport::default;
    assert_eq!(told(false, none()).1, "NothingToQuiesce");
    let other = WorkloadId { kind: WorkloadKind::Deployment, name: "other".into() };
    assert_eq!(told(false, ReleaseReport { unreadable: vec![other], ..none() }).1, "NothingToQuiesce");
    assert_eq!(told(true, none()).1, "Reverted");
    let back = told(true, ReleaseReport { restored: vec![(db(), 3)], ..none() });
    assert_eq!((back.0.as_str(), back.2.as_str()), ("True", "scaled back: StatefulSet/db to 3"));
    let left = told(true, ReleaseReport { left: vec![db()], ..none() });
    assert!(left.2.contains("somebody else"), "{}", left.2);
    let broken = told(true, ReleaseReport { unreadable: vec![db()], ..none() });
    assert_eq!((broken.0.as_str(), broken.1.as_str()), ("False", "QuiesceFailed"));
}

#[test]
fn a_workload_that_does_not_come_back_is_named_with_the_cause() {
    let db = WorkloadId { kind: WorkloadKind::StatefulSet, name: "db".into() };
    let mut status = used_by(&["StatefulSet/db"]);
    let mut writer = Writer { status: &mut status, generation: Some(1), now: Timestamp::UNIX_EPOCH };
    let refused = vec![(db, "denied by a webhook".to_owned())];
    writer.not_released(&ReleaseReport { refused, ..ReleaseReport::default() });
    let condition = find_condition(&status.conditions, ConditionType::QuiesceReverted).unwrap();
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "Unquiescing"));
    assert!(condition.message.contains("StatefulSet/db: denied by a webhook"), "{}", condition.message);
}

#[test]
fn two_restores_never_write_to_one_claim_at_a_time() {
    let me = restore("me", "2", "");
    let claims = ["data".to_owned()];
    let blocks = |other: &Restore| in_the_way(&me, &claims, std::slice::from_ref(other)).is_some();
    let at = |claim: &str, phase: &str| {
        format!("status: {{phase: {phase}, components: [{{name: volume/{claim}, claim: {claim}}}]}}")
    };
    assert!(blocks(&restore("running", "3", &at("data", "Running"))));
    assert!(!blocks(&restore("elsewhere", "1", &at("logs", "Running"))));
    assert!(!blocks(&restore("over", "1", &at("data", "Succeeded"))));
    assert!(blocks(&restore("older", "1", "")));
    assert!(!blocks(&restore("younger", "3", "")));
    let said = |other: &Restore| why_it_waits(other);
    assert!(said(&restore("running", "3", &at("data", "Running"))).ends_with("writes to the same claims"));
    let stuck = said(&restore("older", "1", "status: {phase: Pending, message: there is no storage s}"));
    assert!(
        stuck.contains("has not begun (there is no storage s)") && stuck.contains("delete it"),
        "{stuck}"
    );
}

#[test]
fn a_claim_that_is_deleted_meanwhile_takes_its_success_with_it() {
    let claims: Vec<PersistentVolumeClaim> = serde_saphyr::from_str(
        "
- {metadata: {name: good}}
- {metadata: {name: going, deletionTimestamp: '2026-11-20T02:00:00Z'}}
",
    )
    .unwrap();
    let done = |name: &str| RestoreComponent { phase: ComponentPhase::Succeeded, ..component(name) };
    let mut components =
        vec![good(), done("going"), RestoreComponent { phase: ComponentPhase::Running, ..component("gone") }];
    components.push(RestoreComponent {
        reason: Some("TargetFull".into()),
        phase: ComponentPhase::Failed,
        ..component("full")
    });
    assert_eq!(deleted(&mut components, &claims, Timestamp::UNIX_EPOCH), ["volume/going", "volume/gone"]);
    let phases: Vec<_> = components.iter().map(|c| c.phase).collect();
    let failed = ComponentPhase::Failed;
    assert_eq!(phases, [ComponentPhase::Succeeded, failed, failed, failed]);
    assert_eq!(components[1].reason.as_deref(), Some("TargetNotFound"));
    assert_eq!(components[3].reason.as_deref(), Some("TargetFull"), "the first reason stands");
    assert!(deleted(&mut components, &claims, Timestamp::UNIX_EPOCH).is_empty(), "told once");
}

#[test]
fn it_is_written_down_where_the_snapshot_was_made() {
    let snapshot: Snapshot = serde_saphyr::from_str(
        "
metadata: {name: s, namespace: shop}
spec: {repositoryRef: {name: r}, time: 2026-11-20T02:00:00Z, backup: {name: b, uid: u}, cluster: old, namespace: theirs}",
    )
    .unwrap();
    let mut status = RestoreStatus::default();
    Writer { status: &mut status, generation: Some(1), now: Timestamp::UNIX_EPOCH }.chosen("shop", &snapshot);
    let made = status.snapshot_origin.unwrap();
    assert_eq!((made.cluster.as_str(), made.namespace.as_str()), ("old", "theirs"));
    assert_eq!(status.snapshot_ref.unwrap().name, "s");
}

/// A volume that stands in line may not fail because another one can be mounted nowhere, whichever comes first.
#[test]
fn what_is_in_the_way_of_one_is_no_end_of_another_that_stands_in_line() {
    let status = |components: &str| -> RestoreStatus {
        serde_saphyr::from_str(&format!("{{components: [{components}]}}")).unwrap()
    };
    let queued = "{name: volume/a, kind: Volume, phase: Pending, reason: Queued, message: in line}";
    let held = "{name: volume/b, kind: Volume, phase: Pending, reason: Unschedulable, message: held}";
    let over = "{name: volume/c, kind: Volume, phase: Succeeded}";
    for components in [format!("{queued}, {held}, {over}"), format!("{over}, {held}, {queued}")] {
        assert_eq!(waits(&status(&components)), Some((Reason::Queued, "volume/a: in line".into())));
    }
    assert_eq!(
        waits(&status(&format!("{over}, {held}"))),
        Some((Reason::Unschedulable, "volume/b: held".into()))
    );
    assert_eq!(waits(&status(over)), None);
}
