use super::*;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

const RUN: names::Run<'static> = names::Run { kind: names::RunKind::Backup, name: "b", uid: "u" };
const COMPONENT: &str = "volume/data";

fn view(number: u32, annotations: &str, conditions: &str, pod: Option<&str>) -> JobView {
    let name = names::job_name(RUN, names::Task::Backup, COMPONENT, number);
    let job: Job = serde_saphyr::from_str(&format!(
        r"
metadata:
  name: {name}
  uid: uid-{number}
  labels: {{holdfast.dev/task: Backup}}
  annotations: {{holdfast.dev/component: {COMPONENT}, {annotations}}}
spec: {{backoffLimit: 0, template: {{}}}}
status: {{conditions: [{conditions}]}}
"
    ))
    .unwrap();
    let pods: Vec<Pod> = pod
        .iter()
        .map(|phase| {
            serde_saphyr::from_str(&format!("{{metadata: {{name: p}}, status: {{phase: {phase}}}}}")).unwrap()
        })
        .collect();
    JobView { state: jobs::outcome::state(&job, &pods), job, pods }
}

const STOPPED: &str = r#"holdfast.dev/stopped: '{"reason":"NoSignOfLife","message":"silent"}'"#;
const COMPLETE: &str = "{type: Complete, status: 'True'}";

fn of(views: &[JobView], retries: u32) -> String {
    match current(views, RUN, names::Task::Backup, COMPONENT, retries) {
        Current::Next(number, None) => format!("next {number}"),
        Current::Next(number, Some(failed)) => format!("next {number} after {}", failed.uid()),
        Current::Stopping => "stopping".into(),
        Current::Job(view) => format!("job {}", view.uid()),
        Current::UsedUp(stopped) => format!("used up: {}", stopped.reason),
    }
}

#[test]
fn a_job_that_was_given_up_is_followed_by_the_next_once_its_pods_are_gone() {
    assert_eq!(of(&[], 2), "next 0");
    assert_eq!(of(&[view(0, "", "", Some("Running"))], 2), "job uid-0");
    assert_eq!(of(&[view(0, STOPPED, "", Some("Running"))], 2), "stopping");
    assert_eq!(of(&[view(0, STOPPED, "", None)], 2), "next 1");
    assert_eq!(of(&[view(0, STOPPED, "", None), view(1, "", "", Some("Pending"))], 2), "job uid-1");
}

#[test]
fn a_job_whose_result_was_lost_is_run_again() {
    assert_eq!(of(&[view(0, "", COMPLETE, None)], 2), "next 1");
}

#[test]
fn tries_are_bounded() {
    assert_eq!(of(&[view(0, STOPPED, "", None)], 0), "used up: NoSignOfLife");
    assert_eq!(of(&[view(0, "", COMPLETE, None), view(1, STOPPED, "", None)], 1), "used up: NoSignOfLife");
}

#[test]
fn a_job_that_made_room_for_a_restore_costs_no_try() {
    let stopped = serde_json::to_string(&Stopped::for_restore("back")).unwrap();
    let gave_way = |number| view(number, &format!("holdfast.dev/stopped: '{stopped}'"), "", None);
    assert_eq!(of(&[gave_way(0)], 0), "next 1");
    assert_eq!(of(&[gave_way(0), gave_way(1)], 0), "next 2");
    assert_eq!(of(&[gave_way(0), ended(1, 137)], 0), "job uid-1", "its own failure is one");
    assert_eq!(of(&[gave_way(0), ended(1, 137), ended(2, 137)], 1), "job uid-2");
    assert_eq!(of(&[gave_way(0), view(1, STOPPED, "", None)], 0), "used up: NoSignOfLife");
}

/// A Job whose only pod ended with this exit code and without a verdict.
fn ended(number: u32, code: i32) -> JobView {
    let JobView { job, .. } = view(number, "", "", None);
    let pod: Pod = serde_saphyr::from_str(&format!(
        r"
metadata: {{name: p}}
status:
  phase: Failed
  containerStatuses:
    - {{name: runner, ready: false, restartCount: 0, image: i, imageID: i, state: {{terminated: {{exitCode: {code}, finishedAt: '2026-11-20T02:00:00Z'}}}}}}
"
    ))
    .unwrap();
    let pods = vec![pod];
    JobView { state: jobs::outcome::state(&job, &pods), job, pods }
}

#[test]
fn what_failed_for_a_passing_reason_is_tried_again_while_there_are_retries() {
    assert_eq!(of(&[ended(0, 137)], 2), "next 1 after uid-0");
    assert_eq!(of(&[ended(0, 137), ended(1, 75)], 2), "next 2 after uid-1");
    assert_eq!(of(&[ended(0, 137), ended(1, 75)], 1), "job uid-1", "the last failure is the component's");
    assert_eq!(of(&[ended(0, 75)], 0), "job uid-0");
    assert_eq!(of(&[ended(0, 1)], 2), "job uid-0", "it would fail again");
    assert_eq!(of(&[view(0, STOPPED, "", None), ended(1, 75)], 2), "next 2 after uid-1");
    assert_eq!(of(&[ended(0, 75), view(1, STOPPED, "", None)], 2), "next 2", "the pause is over already");
}

/// A Job that ended because its pod was evicted; the pod is gone.
fn evicted(number: u32) -> JobView {
    let failed = "{type: Failed, status: 'True', reason: PodFailurePolicy, message: 'Pod shop/p has condition \
                  DisruptionTarget matching FailJob rule at index 0'}";
    view(number, "", failed, None)
}

#[test]
fn a_runner_that_was_evicted_costs_no_try() {
    assert_eq!(of(&[evicted(0)], 0), "next 1 after uid-0");
    assert_eq!(of(&[evicted(0), evicted(1)], 0), "next 2 after uid-1");
    assert_eq!(of(&[evicted(0), ended(1, 137)], 0), "job uid-1", "its own failure is one");
    assert_eq!(of(&[ended(0, 137), evicted(1)], 1), "next 2 after uid-1");
    let often: Vec<JobView> = (0..6).map(evicted).collect();
    assert_eq!(of(&often[..5], 0), "next 5 after uid-4");
    assert_eq!(of(&often, 0), "job uid-5", "somebody who is evicted each time ends");
    assert_eq!(of(&often, 1), "next 6 after uid-5");
    let mut component = BackupComponent::default();
    pausing(&mut component.common(), &evicted(0), 1, Timestamp::UNIX_EPOCH);
    let said = component.message.unwrap();
    assert!(
        said.starts_with("attempt 1 ended because its pod was evicted; the next one begins at "),
        "{said}"
    );
    assert_eq!(component.reason.as_deref(), Some("Retrying"));
}

#[test]
fn a_pause_tells_what_failed_and_when_it_goes_on_and_is_news_once() {
    let mut component = BackupComponent { name: COMPONENT.into(), ..BackupComponent::default() };
    let due: Timestamp = "2026-11-20T02:00:11Z".parse().unwrap();
    pausing(&mut component.common(), &ended(0, 137), 1, due);
    let said = component.message.clone().unwrap();
    assert!(
        said.starts_with("attempt 1 failed (RunnerKilled: the runner was killed (exit code 137)"),
        "{said}"
    );
    assert!(said.ends_with("; the next one begins at 2026-11-20T02:00:11Z"), "{said}");
    assert_eq!(component.phase, ComponentPhase::Pending, "nothing of it is told as done");
    assert_eq!((component.reason.as_deref(), component.attempts), (Some("Retrying"), Some(1)));
    let next = component.next_attempt_time.clone();
    assert_eq!(next, Some(Time(due)));
    let news = retry_news(None, &component.common()).unwrap();
    assert!(news.starts_with("volume/data: attempt 1 failed"), "{news}");
    assert_eq!(retry_news(next.as_ref(), &component.common()), None);
    component.common().wait("Starting", "the runner's pod is being started");
    assert_eq!(component.next_attempt_time, None);
    assert_eq!(retry_news(next.as_ref(), &component.common()), None);
}

#[test]
fn a_refusal_is_news_once_and_waits_of_each_run_are_none() {
    let mut component = BackupComponent { name: COMPONENT.into(), ..BackupComponent::default() };
    component.common().wait("Failed", "the quota leaves no room, 10 used");
    let news = Some((Reason::Failed, "volume/data: the quota leaves no room, 10 used".to_owned()));
    assert_eq!(refusal_news(None, &component.common()), news);
    assert_eq!(refusal_news(Some("Queued"), &component.common()), news);
    assert_eq!(refusal_news(Some("Failed"), &component.common()), None);
    for reason in ["Starting", "PodNotCreated", "Stopping", "Queued", "Retrying", "Unschedulable"] {
        component.common().wait(reason, "m");
        assert_eq!(refusal_news(None, &component.common()), None, "{reason}");
    }
    component.common().fail("Failed", "m", Timestamp::UNIX_EPOCH);
    assert_eq!(refusal_news(None, &component.common()), None, "the end is told by the run");
}

#[test]
fn an_error_at_a_start_is_told_once_whatever_it_says_next() {
    let taken =
        |name: &str| JobError::NameTaken { kind: "Job".into(), namespace: "shop".into(), name: name.into() };
    let mut component = BackupComponent::default();
    not_started(&mut component.common(), &taken("a"));
    let seen = component.clone();
    assert!(seen.message.as_deref().unwrap().contains("shop/a"));
    assert_eq!((seen.phase, seen.reason.as_deref()), (ComponentPhase::Pending, Some("Failed")));
    not_started(&mut component.common(), &taken("b"));
    assert_eq!(component, seen);
}

#[test]
fn a_long_cause_is_cut_in_a_pause() {
    let mut component = BackupComponent::default();
    let mut failed = ended(0, 75);
    let verdict = holdfast_protocol::Verdict::failed("Unreachable", "x".repeat(5000), true);
    let JobState::Ended(end) = &mut failed.state else { panic!("not ended") };
    end.end = jobs::End::Verdict(Box::new(verdict));
    pausing(&mut component.common(), &failed, 2, Timestamp::UNIX_EPOCH);
    assert!(component.message.unwrap().len() < 800);
}

#[test]
fn jobs_of_another_task_or_component_do_not_count() {
    let mut other = view(0, "", "", Some("Running"));
    other.job.metadata.labels.as_mut().unwrap().insert("holdfast.dev/task".into(), "Unlock".into());
    assert_eq!(of(&[other], 2), "next 0");
}

#[test]
fn a_job_whose_time_was_up_before_it_could_run_says_what_it_waited_for() {
    let late = "{type: Failed, status: 'True', reason: DeadlineExceeded}";
    let said = |component: &str| {
        let JobState::Ended(ended) = view(0, "", late, None).state else { panic!("the Job has not ended") };
        let mut component: BackupComponent = serde_saphyr::from_str(component).unwrap();
        with_wait(&component.common(), ended).message().unwrap_or_default().to_owned()
    };
    let waits = "{name: v, source: {}, phase: Pending, reason: Unschedulable, message: no node takes it}";
    assert!(said(waits).ends_with("it waited for this: no node takes it"), "{}", said(waits));
    let ran = "{name: v, source: {}, phase: Running}";
    assert!(said(ran).ends_with("what took so long"), "{}", said(ran));
}
