use holdfast_api::backup::{BackupPhase, ComponentPhase, Coverage};
use holdfast_protocol::verdict::BackupResult;
use holdfast_protocol::{Outcome, Verdict};
use k8s_openapi::api::core::v1::Pod;

use super::super::status;
use super::*;
use crate::jobs;

/// A time of one hour: `30:00`, or `30:00.5`.
fn at(text: &str) -> Timestamp {
    format!("2026-11-20T02:{text}Z").parse().unwrap()
}

/// A Restore of the claim `data` in this phase, whose Job began at `from`, and which ended at `until`.
fn restore(phase: &str, from: Option<&str>, until: Option<&str>) -> Restore {
    let time = |key: &str, time: Option<&str>| {
        time.map_or_else(String::new, |time| format!(", {key}: '{}'", at(time)))
    };
    let (from, until) = (time("startTime", from), time("completionTime", until));
    serde_saphyr::from_str(&format!(
        r"
apiVersion: holdfast.dev/v1alpha1
kind: Restore
metadata: {{name: back, namespace: shop}}
spec: {{from: {{latestOf: {{}}}}}}
status: {{phase: {phase}, startTime: '2026-11-20T02:00:00Z'{until}, components: [{{name: volume/old, claim: data{from}}}]}}
"
    ))
    .unwrap()
}

fn component(claim: &str) -> BackupComponent {
    serde_saphyr::from_str(&format!(
        "{{name: volume/{claim}, source: {{claim: {claim}}}, phase: Running, job: j1}}"
    ))
    .unwrap()
}

/// A Job of `volume/data` with a pod in this state, made at 30:00.
fn view(name: &str, annotations: &str, conditions: &str, container: Option<&str>) -> JobView {
    let job: Job = serde_saphyr::from_str(&format!(
        r"
metadata:
  name: {name}
  uid: uid-{name}
  creationTimestamp: '2026-11-20T02:30:00Z'
  labels: {{holdfast.dev/task: Backup}}
  annotations: {{holdfast.dev/component: volume/data, {annotations}}}
spec: {{backoffLimit: 0, template: {{}}}}
status: {{conditions: [{conditions}]}}
"
    ))
    .unwrap();
    let pods: Vec<Pod> = container
        .iter()
        .map(|state| {
            let pod = format!(
                "{{metadata: {{name: p}}, status: {{phase: Running, containerStatuses: [{{name: runner, ready: true, restartCount: 0, image: i, imageID: i, state: {state}}}]}}}}"
            );
            serde_saphyr::from_str(&pod).unwrap()
        })
        .collect();
    JobView { state: jobs::outcome::state(&job, &pods), job, pods }
}

fn running(name: &str) -> JobView {
    view(name, "", "", Some("{running: {startedAt: '2026-11-20T02:30:05Z'}}"))
}

/// A Job that read from 30:05 to 40:00 and committed a snapshot, or took over that of an earlier one.
fn saved(name: &str, takes_over: bool) -> JobView {
    let result = BackupResult {
        snapshot_id: Some("aa".into()),
        already_committed: takes_over,
        files_total: 1,
        ..BackupResult::default()
    };
    let verdict = Verdict {
        outcome: Outcome::Succeeded,
        reason: None,
        message: None,
        result: Some(TaskResult::BackupVolume(result)),
        ..Verdict::failed("", "", false)
    };
    let ended =
        "{terminated: {exitCode: 0, startedAt: '2026-11-20T02:30:05Z', finishedAt: '2026-11-20T02:40:00Z'}}";
    let mut view = view(name, "", "", Some(ended));
    let statuses = view.pods[0].status.as_mut().unwrap().container_statuses.as_mut().unwrap();
    let terminated = statuses[0].state.as_mut().unwrap().terminated.as_mut().unwrap();
    terminated.message = Some(verdict.to_termination_message());
    JobView { state: jobs::outcome::state(&view.job, &view.pods), ..view }
}

fn stopped(name: &str, suspended: &str) -> JobView {
    let text = serde_json::to_string(&Stopped::for_restore("back")).unwrap();
    let condition = format!("{{type: Suspended, status: 'True', lastTransitionTime: '{}'}}", at(suspended));
    view(name, &format!("holdfast.dev/stopped: '{text}'"), &condition, None)
}

#[test]
fn a_job_that_reads_gives_way_to_a_restore_from_when_it_begins_to_quiesce() {
    let of = |view: &JobView, restore: Restore| in_the_way(view, &[component("data")], &[restore]);
    for phase in ["Quiescing", "Saving", "Running", "Unquiescing"] {
        let why = of(&running("j1"), restore(phase, None, None)).unwrap();
        assert!(why.gave_way(), "{phase}");
        assert_eq!(why.message, "stopped: Restore back writes to this claim; goes on afterwards");
        assert!(of(&view("j1", "", "", None), restore(phase, None, None)).is_some(), "its pod may come");
    }
    for phase in ["Pending", "Queued", "Planning", "Planned", "Succeeded", "PartiallyFailed", "Failed"] {
        assert_eq!(of(&running("j1"), restore(phase, None, None)), None, "{phase}");
    }
    let mut look = restore("Running", None, None);
    look.spec.dry_run = true;
    assert_eq!(of(&running("j1"), look), None, "it writes nothing");
}

#[test]
fn a_job_of_another_claim_or_one_that_is_over_or_stopped_does_not() {
    let restores = [restore("Running", Some("35:00"), None)];
    let of = |view: &JobView, claim: &str| {
        let component = BackupComponent { name: "volume/data".into(), ..component(claim) };
        in_the_way(view, &[component], &restores)
    };
    assert!(of(&running("j1"), "data").is_some());
    assert_eq!(of(&running("j1"), "other"), None);
    assert_eq!(of(&saved("j1", false), "data"), None);
    assert_eq!(of(&stopped("j1", "31:00"), "data"), None);
}

#[test]
fn a_component_tells_why_its_job_stops() {
    let mut leaving = stopped("j1", "31:00");
    leaving.pods = running("j1").pods;
    let mut component = component("data");
    component.reason = Some("Stopping".into());
    tell(&mut component.common(), &[stopped("j1", "31:00")]);
    assert_eq!(component.reason.as_deref(), Some("Stopping"), "that one is gone");
    tell(&mut component.common(), &[leaving]);
    assert_eq!(component.reason.as_deref(), Some("ClaimInUse"));
    assert!(component.message.unwrap().starts_with("stopped: Restore back writes"));
}

/// What becomes of a component whose last Job is this one.
fn judged(views: &[JobView], restores: &[Restore]) -> BackupComponent {
    let last = views.last().unwrap();
    let JobState::Ended(end) = &last.state else { panic!("not ended: {:?}", last.state) };
    let mut component = BackupComponent { job: Some(last.name().to_owned()), ..component("data") };
    status::ended(&mut component, end);
    judge(&mut component, end, views, restores, at("50:00"));
    component
}

#[test]
fn what_was_read_while_a_restore_wrote_is_no_backup() {
    let of = |restore: Restore| judged(&[saved("j1", false)], &[restore]);
    let sound = |restore: Restore| {
        let component = of(restore);
        (component.phase, component.snapshot_id.as_deref()) == (ComponentPhase::Succeeded, Some("aa"))
    };
    for mixed in [
        restore("Running", Some("35:00"), None),
        restore("Succeeded", Some("20:00"), Some("31:00")),
        restore("Failed", Some("36:00"), Some("37:00")),
        restore("PartiallyFailed", Some("39:59"), Some("45:00")),
        restore("Succeeded", Some("20:00"), Some("45:00")),
    ] {
        let component = of(mixed);
        assert_eq!(component.phase, ComponentPhase::Failed);
        assert_eq!(
            (component.reason.as_deref(), component.snapshot_id.as_deref()),
            (Some("ClaimInUse"), None)
        );
        let said = component.message.clone().unwrap();
        assert!(said.contains("Restore back wrote to the claim data while it was read"), "{said}");
        assert!(said.contains("snapshot aa"), "{said}");
        let mut components = [component];
        assert_eq!(worthless(&components), ["aa"]);
        for _ in 0..2 {
            removed(&mut components, false);
        }
        let said = components[0].message.clone().unwrap();
        assert_eq!(said.matches("forget it").count(), 1, "{said}");
        assert_eq!(worthless(&components), ["aa"]);
        removed(&mut components, true);
        assert_eq!(worthless(&components), Vec::<String>::new());
        let message = components[0].message.clone().unwrap();
        assert!(!message.contains("forget it"), "{message}");
        assert_eq!(
            components[0].discarded.as_ref().unwrap().snapshot_id,
            "aa",
            "lists go on to leave it out"
        );
    }
    let mixed = of(restore("Running", Some("35:00"), None));
    assert_eq!(status::conclude(&[mixed], &Coverage::default()).phase, BackupPhase::Failed);
    assert!(sound(restore("Succeeded", Some("20:00"), Some("29:00"))), "it was over before");
    assert!(sound(restore("Succeeded", Some("20:00"), Some("30:05.7"))), "the Job waited for that very end");
    assert!(sound(restore("Running", Some("40:01"), None)), "it waited for the Job");
    assert!(sound(restore("Quiescing", None, None)), "it has written nothing");
    assert!(sound(restore("Failed", None, Some("35:00"))), "nor has this one");
    let mut look = restore("Planned", Some("35:00"), Some("36:00"));
    look.spec.dry_run = true;
    assert!(sound(look));
}

#[test]
fn a_snapshot_of_an_earlier_attempt_is_judged_by_the_time_of_all() {
    // The first had committed when it was stopped, before the Restore wrote.
    let attempts = |suspended| {
        let mut last = saved("j2", true);
        let JobState::Ended(end) = &mut last.state else { panic!("not ended") };
        (end.started, end.finished) = (Some(at("45:00")), Some(at("46:00")));
        [stopped("j1", suspended), last]
    };
    let back = || [restore("Succeeded", Some("32:00"), Some("44:00"))];
    assert_eq!(judged(&attempts("31:59"), &back()).phase, ComponentPhase::Succeeded);
    assert_eq!(judged(&attempts("32:30"), &back()).phase, ComponentPhase::Failed);
    // The last one only took over, so what was written meanwhile is of no account.
    let late = [restore("Succeeded", Some("45:10"), Some("45:50"))];
    assert_eq!(judged(&attempts("31:59"), &late).phase, ComponentPhase::Succeeded);
    // What the last one read itself is its own.
    let mut own = attempts("32:30");
    own[1] = saved("j2", false);
    let JobState::Ended(end) = &mut own[1].state else { panic!("not ended") };
    (end.started, end.finished) = (Some(at("45:00")), Some(at("46:00")));
    assert_eq!(judged(&own, &back()).phase, ComponentPhase::Succeeded);
}
