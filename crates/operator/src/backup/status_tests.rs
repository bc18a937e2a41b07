use super::super::validate::PlannedComponent;
use super::*;
use crate::volumes::Moving;
use holdfast_api::backup::{SkipReason, SkippedClaim};
use holdfast_api::refs::Identity;

fn component(name: &str, verdict: &Verdict) -> BackupComponent {
    let mut component = BackupComponent {
        name: format!("volume/{name}"),
        run_as: Some(Identity { uid: 65_532, ..Identity::default() }),
        ..BackupComponent::default()
    };
    judged(&mut component, verdict);
    component
}

fn verdict(outcome: Outcome, result: BackupResult) -> Verdict {
    Verdict {
        outcome,
        reason: None,
        message: None,
        result: Some(TaskResult::BackupVolume(result)),
        ..Verdict::failed("", "", false)
    }
}

fn good() -> BackupComponent {
    let result = BackupResult {
        snapshot_id: Some("aa".into()),
        files_new: 2,
        files_total: 2,
        bytes_processed: 3 << 30,
        bytes_added: 1536,
        ..BackupResult::default()
    };
    component("good", &verdict(Outcome::Succeeded, result))
}

fn partial() -> BackupComponent {
    let row = FaultRow { path: "/data/x".into(), error: "open: permission denied".into() };
    let result = BackupResult {
        snapshot_id: Some("bb".into()),
        files_total: 1,
        unreadable: 700,
        unreadable_sample: vec![row; 30],
        ..BackupResult::default()
    };
    component("partial", &verdict(Outcome::Partial, result))
}

fn bad() -> BackupComponent {
    component("bad", &Verdict::failed("AccessDenied", "the store refuses the key", false))
}

fn skipped(reason: SkipReason) -> Coverage {
    let skipped = vec![SkippedClaim { claim: "c".into(), reason, message: None }];
    Coverage { skipped, ..Coverage::default() }
}

#[test]
fn files_that_changed_while_they_were_read_are_told_and_fail_nothing() {
    let torn = |outcome, files, unreadable| {
        let result = BackupResult {
            snapshot_id: Some("aa".into()),
            files_total: 9,
            unreadable,
            changed_while_reading: files,
            ..BackupResult::default()
        };
        component("x", &verdict(outcome, result))
    };
    let some = torn(Outcome::Succeeded, 3, 0);
    assert_eq!((some.phase, some.changed_while_reading), (ComponentPhase::Succeeded, Some(3)));
    assert!(some.message.unwrap().starts_with("3 files changed while they were read and are saved"));
    let one = torn(Outcome::Succeeded, 1, 0).message.unwrap();
    assert!(one.starts_with("1 file changed while it was read and is saved"), "{one}");
    let none = torn(Outcome::Succeeded, 0, 0);
    assert_eq!((none.message, none.changed_while_reading), (None, None));
    let both = torn(Outcome::Partial, 3, 2).message.unwrap();
    assert!(
        both.starts_with("2 files or directories could not be read") && both.contains("; 3 files changed"),
        "{both}"
    );
    assert_eq!(
        conclude(&[torn(Outcome::Succeeded, 3, 0)], &Coverage::default()).phase,
        BackupPhase::Succeeded
    );
}

#[test]
fn unreadable_files_are_listed_with_what_to_do() {
    let partial = partial();
    assert_eq!(partial.phase, ComponentPhase::PartiallyFailed);
    assert_eq!(partial.reason.as_deref(), Some("UnreadableFiles"));
    assert_eq!((partial.unreadable, partial.unreadable_sample.len()), (Some(700), MAX_SAMPLES));
    let message = partial.message.unwrap();
    assert!(message.contains("700 files") && message.contains("allow-root-runner"), "{message}");
}

#[test]
fn success_without_a_committed_snapshot_is_a_failure() {
    for outcome in [Outcome::Succeeded, Outcome::Partial] {
        let component = component("x", &verdict(outcome, BackupResult::default()));
        assert_eq!(component.phase, ComponentPhase::Failed, "{outcome:?}");
    }
    let silent = component("x", &Verdict { outcome: Outcome::Succeeded, ..Verdict::failed("", "", false) });
    assert_eq!(silent.phase, ComponentPhase::Failed);
}

#[test]
fn a_lost_runner_fails_its_component_with_the_reason() {
    let mut component = BackupComponent::default();
    let end = End::Lost { loss: Loss::OutOfMemory, message: "raise the limit".into() };
    let end = Ended {
        end,
        attempts: 1,
        pod: None,
        node: None,
        started: None,
        finished: None,
        retryable: false,
        disrupted: false,
        lock_may_remain: true,
    };
    ended(&mut component, &end);
    assert_eq!((component.phase, component.reason.as_deref()), (ComponentPhase::Failed, Some("OutOfMemory")));
}

/// Of a component whose runner was at work and is not: what it was is told no more.
fn interrupted() -> BackupComponent {
    let progress = Some(serde_json::from_str("{}").unwrap());
    let source = ComponentSource { claim: Some("c".into()) };
    let phase = ComponentPhase::Running;
    BackupComponent { name: "volume/c".into(), phase, source, progress, ..BackupComponent::default() }
}

#[test]
fn the_node_of_an_interrupted_runner_is_waited_for_and_nothing_else_is() {
    let plan = |coverage| Plan { components: Vec::new(), coverage, refusal: None };
    let mut component = interrupted();
    assert!(waits_for_node(&mut component, &plan(skipped(SkipReason::NodeNotReady))));
    assert_eq!((component.phase, component.progress.is_none()), (ComponentPhase::Pending, true));
    assert_eq!(component.reason.as_deref(), Some("VolumeNotMounted"));
    let mut component = interrupted();
    assert!(!waits_for_node(&mut component, &plan(skipped(SkipReason::ClaimLost))));
    assert!(!waits_for_node(&mut component, &plan(Coverage::default())));
    assert_eq!(component.phase, ComponentPhase::Running);
}

#[test]
fn the_phase_of_a_run_follows_from_components_and_coverage() {
    use BackupPhase::{Failed, PartiallyFailed, Skipped, Succeeded};
    let none = Coverage::default();
    let wish = skipped(SkipReason::ExcludedByAnnotation);
    let lost = skipped(SkipReason::ClaimLost);
    for (components, coverage, phase, reason) in [
        (vec![good()], &none, Succeeded, Reason::Succeeded),
        (vec![good()], &wish, Succeeded, Reason::Succeeded),
        (vec![good()], &skipped(SkipReason::NoDataYet), Succeeded, Reason::Succeeded),
        (vec![good()], &lost, PartiallyFailed, Reason::ClaimsSkipped),
        (vec![good(), partial()], &none, PartiallyFailed, Reason::UnreadableFiles),
        (vec![good(), bad()], &none, PartiallyFailed, Reason::ComponentsFailed),
        (vec![bad()], &none, Failed, Reason::ComponentsFailed),
        (vec![], &lost, Failed, Reason::ClaimsSkipped),
        (vec![], &wish, Skipped, Reason::NothingToBackUp),
        (vec![], &none, Skipped, Reason::NothingToBackUp),
    ] {
        let conclusion = conclude(&components, coverage);
        assert_eq!((conclusion.phase, conclusion.reason), (phase, reason), "{}", conclusion.message);
    }
}

#[test]
fn the_message_tells_people_what_was_saved_and_what_was_not() {
    let message = conclude(&[good(), bad()], &skipped(SkipReason::ClaimLost)).message;
    for part in [
        "saved 1 volume of 2: 2 files, 3.0 GiB, of which 1.5 KiB new",
        "failed: volume/bad (AccessDenied)",
        "not saved: c (ClaimLost)",
        "the store refuses the key",
    ] {
        assert!(message.contains(part), "{part} in {message}");
    }
}

#[test]
fn what_the_rules_left_out_is_counted() {
    let result = BackupResult { snapshot_id: Some("aa".into()), excluded: 3, ..BackupResult::default() };
    let components = vec![good(), component("x", &verdict(Outcome::Succeeded, result))];
    assert_eq!((components[0].excluded, components[1].excluded), (None, Some(3)));
    let conclusion = conclude(&components, &Coverage::default());
    assert!(
        conclusion.message.ends_with("new; left out by rules: 3 files or directories"),
        "{}",
        conclusion.message
    );
    let mut status = BackupStatus { components, ..BackupStatus::default() };
    concluded(&mut status, &conclusion, Some(1), Timestamp::UNIX_EPOCH);
    let empty =
        holdfast_api::conditions::find_condition(&status.conditions, ConditionType::SourceEmpty).unwrap();
    assert_eq!(
        empty.message,
        "no files were saved of: volume/x (3 files or directories in it left out by rules)"
    );
}

#[test]
fn what_was_not_saved_is_not_called_protected() {
    let coverage = Some(Coverage { protected: 2, ..Coverage::default() });
    let mut status = BackupStatus { components: vec![good(), bad()], coverage, ..BackupStatus::default() };
    let conclusion = conclude(&status.components, &Coverage::default());
    concluded(&mut status, &conclusion, Some(1), Timestamp::UNIX_EPOCH);
    assert_eq!(status.coverage.unwrap().protected, 1);
}

#[test]
fn an_empty_volume_raises_a_warning() {
    let result = BackupResult { snapshot_id: Some("aa".into()), ..BackupResult::default() };
    let empty = component("empty", &verdict(Outcome::Succeeded, result));
    let mut status = BackupStatus { components: vec![empty], ..BackupStatus::default() };
    let conclusion = conclude(&status.components, &Coverage::default());
    concluded(&mut status, &conclusion, Some(1), Timestamp::UNIX_EPOCH);
    assert_eq!((status.phase, status.coverage.as_ref()), (Some(BackupPhase::Succeeded), None));
    assert!(holdfast_api::conditions::is_true(&status.conditions, ConditionType::SourceEmpty));
    assert!(holdfast_api::conditions::is_true(&status.conditions, ConditionType::Completed));
}

#[test]
fn sizes_are_for_people() {
    for (size, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_572_864, "1.5 MiB")] {
        assert_eq!(bytes(size), text);
    }
    assert_eq!(bytes(u64::MAX), "15.9 EiB");
}

#[test]
fn a_run_that_is_held_up_says_by_what() {
    let waits = |reason: WaitReason| BackupComponent {
        name: "volume/x".into(),
        reason: Some(reason.as_str().into()),
        message: Some("no node takes it".into()),
        ..BackupComponent::default()
    };
    assert_eq!(under_way(&mut [good(), waits(WaitReason::Starting)]), "saves 2 volumes, 1 of them done");
    let held_up = under_way(&mut [good(), waits(WaitReason::Unschedulable)]);
    assert_eq!(held_up, "saves 2 volumes, 1 of them done; volume/x: no node takes it");
}

/// What is given back asks for no place: its runner would hold the volume on the node that the pod leaves.
#[test]
fn a_component_waits_for_the_pod_that_takes_its_volume_away_and_not_for_ever() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let moving_pod = Moving { pod: "app-0".into(), node: Some("n1".into()), since: at(1000) };
    let planned = super::super::build::tests::planned();
    let still = PlannedComponent { name: "volume/still".into(), ..planned.clone() };
    let plan = Plan {
        components: vec![PlannedComponent { moving: Some(moving_pod), ..planned }, still],
        coverage: Coverage::default(),
        refusal: None,
    };
    let named = |name: &str| BackupComponent { name: name.into(), ..BackupComponent::default() };
    let mut components = [named("volume/data"), named("volume/still")];
    let all = ["volume/data", "volume/still"];
    assert_eq!(moving(&mut components, &all, &plan, at(1010)), BTreeSet::from(["volume/data".to_owned()]));
    let [data, other] = &components;
    assert_eq!(data.reason.as_deref(), Some(WaitReason::VolumeNotMounted.as_str()));
    let said = data.message.as_deref().unwrap();
    assert!(said.contains("app-0") && said.contains("n1"), "{said}");
    assert_eq!((&other.reason, &other.message), (&None, &None));
    assert_eq!(
        moving(&mut components, &["volume/still"], &plan, at(1010)),
        BTreeSet::new(),
        "it has its Job"
    );
    assert_eq!(moving(&mut components, &all, &plan, at(1000 + 3600)), BTreeSet::new(), "it may never go");
}

#[test]
fn patience_counts_from_the_first_look_that_had_to_wait() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let refusal = |reason| Refusal { reason, message: "m".into() };
    let waits_since =
        |status: &BackupStatus, refusal: &Refusal, now| waits::since(&status.conditions, refusal.reason, now);
    let (repository, restore) = (refusal(Reason::RepositoryNotReady), refusal(Reason::ClaimInUse));
    let mut status = BackupStatus::default();
    assert_eq!(waits_since(&status, &repository, at(1000)), at(1000), "whenever it was made");
    waiting(&mut status, &repository, None, at(1000));
    waiting(&mut status, &refusal(Reason::Initializing), None, at(1100));
    assert_eq!(waits_since(&status, &repository, at(1200)), at(1000));
    assert_eq!(waits_since(&status, &restore, at(1200)), at(1200), "a Restore is another wait");
    waiting(&mut status, &restore, None, at(1200));
    assert_eq!(waits_since(&status, &restore, at(9000)), at(1200));
    assert_eq!(waits_since(&status, &repository, at(9000)), at(9000));
}

#[test]
fn a_snapshot_object_that_is_refused_is_told_and_the_end_told_after_it() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let mut status = BackupStatus { components: vec![good()], ..BackupStatus::default() };
    let running = ConditionUpdate::yes(ConditionType::Progressing, Reason::Running, "m");
    set_condition(&mut status.conditions, running, None, at(1000));
    snapshot_refused(&mut status, "exceeded quota: few", None, at(2000));
    assert_eq!(status.phase, Some(BackupPhase::Finishing), "it is tried again");
    let said = status.message.clone().unwrap();
    assert!(said.contains("is in the repository") && said.ends_with("exceeded quota: few"), "{said}");
    let seen = status.clone();
    snapshot_refused(&mut status, "exceeded quota: few", None, at(3000));
    assert_eq!(status, seen, "the next look has no news");
    concluded(&mut status, &conclude(&[good()], &Coverage::default()), None, at(4000));
    assert_eq!(status.phase, Some(BackupPhase::Succeeded));
}
