use super::*;
use futures::{FutureExt, StreamExt};

fn run(kind: RunKind, namespace: &str, uid: &str) -> RunRef {
    RunRef { kind, namespace: namespace.into(), name: uid.into(), uid: uid.into() }
}

fn backup(namespace: &str, uid: &str) -> RunRef {
    run(RunKind::Backup, namespace, uid)
}

fn demand(component: &str, node: Option<&str>) -> Demand {
    Demand {
        component: component.into(),
        seat: Seat {
            node: node.map(str::to_owned),
            storage: "s/store".into(),
            repository: "c/shop/main".into(),
        },
        limits: Limits { nodes: 2, per_storage: NonZeroU32::new(3), ..Limits::default() },
    }
}

fn ask(queue: &Queue, run: &RunRef, demands: &[Demand]) -> Vec<bool> {
    let asker = Asker { run, since: Timestamp::UNIX_EPOCH };
    queue.ask(&asker, demands).into_values().map(|answer| answer == Answer::Go).collect()
}

/// The Job that was started for a demand.
fn job(run: &RunRef, demand: &Demand, status: &str) -> Job {
    serde_saphyr::from_str(&format!(
        r"
metadata:
  name: {uid}-{component}
  namespace: {namespace}
  labels: {{holdfast.dev/run-kind: {kind}, holdfast.dev/run-uid: {uid}}}
  annotations:
    holdfast.dev/run: {namespace}/{uid}
    holdfast.dev/component: {component}
    holdfast.dev/place: '{place}'
spec: {{template: {{}}}}
status: {status}
",
        uid = run.uid,
        component = demand.component,
        namespace = run.namespace,
        kind = run.kind.as_str(),
        place = serde_json::to_string(&demand.seat).unwrap(),
    ))
    .unwrap()
}

const DONE: &str = "{conditions: [{type: Complete, status: 'True'}]}";

fn queue(per_node: u32) -> Queue {
    let queue = Queue::new(NonZeroU32::new(per_node), None);
    queue.all_listed(&[], Instant::now());
    queue
}

fn words(queue: &Queue, kind: RunKind) -> impl FnMut() -> Vec<String> + use<> {
    let mut words = Box::pin(queue.words(kind));
    move || {
        let mut heard = Vec::new();
        while let Some(Some(run)) = words.next().now_or_never() {
            heard.push(run.uid);
        }
        heard
    }
}

#[test]
fn nobody_starts_before_it_is_known_who_is_at_work() {
    let queue = Queue::new(NonZeroU32::new(1), None);
    let mut words = words(&queue, RunKind::Backup);
    let (a, one) = (backup("a", "a"), demand("volume/x", Some("n1")));
    let asker = Asker { run: &a, since: Timestamp::UNIX_EPOCH };
    let told = queue.ask(&asker, std::slice::from_ref(&one));
    assert_eq!(told["volume/x"], Answer::NotKnown);
    // Another run's Job is at work since before the restart.
    queue.seen(&job(&backup("b", "b"), &one, "{active: 1}"));
    queue.all_listed(&[("b".into(), "b-volume/x".into())], Instant::now());
    assert_eq!(words(), Vec::<String>::new(), "the only place is taken");
    assert_eq!(ask(&queue, &a, std::slice::from_ref(&one)), [false]);
    queue.seen(&job(&backup("b", "b"), &one, DONE));
    assert_eq!(words(), ["a"]);
    assert_eq!(ask(&queue, &a, &[one]), [true]);
}

#[test]
fn a_place_that_was_given_is_taken_before_its_job_is_there_and_while_it_is() {
    let queue = queue(1);
    let (a, b, one) = (backup("a", "a"), backup("b", "b"), demand("volume/x", Some("n1")));
    assert_eq!(ask(&queue, &a, std::slice::from_ref(&one)), [true]);
    assert_eq!(ask(&queue, &b, std::slice::from_ref(&one)), [false], "kept for the first");
    assert_eq!(ask(&queue, &a, std::slice::from_ref(&one)), [true], "asked again, it is still its own");
    let started = job(&a, &one, "{active: 1}");
    queue.started(&a, "volume/x", &started);
    assert_eq!(ask(&queue, &b, std::slice::from_ref(&one)), [false]);
    // A list that began before the Job was made does not show it.
    queue.all_listed(&[], Instant::now().checked_sub(Duration::from_secs(5)).unwrap());
    assert_eq!(ask(&queue, &b, std::slice::from_ref(&one)), [false]);
    queue.over(&started);
    assert_eq!(ask(&queue, &b, std::slice::from_ref(&one)), [true]);
}

#[test]
fn whoever_is_next_gets_word_once_and_nobody_else_takes_its_place_meanwhile() {
    let queue = queue(1);
    let mut words = words(&queue, RunKind::Backup);
    let one = demand("volume/x", Some("n1"));
    let [a, b, c] = ["a", "b", "c"].map(|name| backup(name, name));
    assert_eq!(ask(&queue, &a, std::slice::from_ref(&one)), [true]);
    assert_eq!(ask(&queue, &b, std::slice::from_ref(&one)), [false]);
    queue.give_back(&a, "volume/x");
    assert_eq!(words(), ["b"]);
    assert_eq!(ask(&queue, &c, std::slice::from_ref(&one)), [false], "it is the turn of b");
    assert!(queue.all_wait(&b, &["volume/x"]).is_none(), "it has to come and ask");
    assert!(queue.all_wait(&c, &["volume/x"]).is_some());
    assert_eq!(words(), Vec::<String>::new());
    assert_eq!(ask(&queue, &b, std::slice::from_ref(&one)), [true]);
}

#[test]
fn a_run_that_is_deleted_in_line_leaves_its_place_to_the_next() {
    let queue = queue(1);
    let mut words = words(&queue, RunKind::Backup);
    let one = demand("volume/x", Some("n1"));
    let [a, b, c] = ["a", "b", "c"].map(|name| backup(name, name));
    for (run, expected) in [(&a, true), (&b, false), (&c, false)] {
        assert_eq!(ask(&queue, run, std::slice::from_ref(&one)), [expected]);
    }
    queue.forget("b");
    queue.forget("a");
    assert_eq!(words(), ["c"]);
    let inner = queue.lock();
    assert!(inner.kept.is_empty());
    assert_eq!(inner.waiting.len(), 1);
}

#[test]
fn a_restore_takes_the_next_place_before_backups_that_waited_longer() {
    let queue = queue(1);
    let one = demand("volume/x", Some("n1"));
    let [a, b] = ["a", "b"].map(|name| backup(name, name));
    let restore = run(RunKind::Restore, "a", "r");
    assert_eq!(ask(&queue, &a, std::slice::from_ref(&one)), [true]);
    assert_eq!(ask(&queue, &b, std::slice::from_ref(&one)), [false]);
    assert_eq!(ask(&queue, &restore, std::slice::from_ref(&one)), [false]);
    let mut words = words(&queue, RunKind::Restore);
    let started = job(&a, &one, "{}");
    queue.started(&a, "volume/x", &started);
    queue.gone(&started);
    assert_eq!(words(), ["r"]);
    assert_eq!(ask(&queue, &b, std::slice::from_ref(&one)), [false]);
    assert_eq!(ask(&queue, &restore, std::slice::from_ref(&one)), [true]);
}

#[test]
fn a_runner_that_may_run_anywhere_counts_on_the_node_it_came_to() {
    let queue = queue(1);
    let [a, b, c] = ["a", "b", "c"].map(|name| backup(name, name));
    let (anywhere, bound) = (demand("volume/x", None), demand("volume/x", Some("n1")));
    assert_eq!(ask(&queue, &a, std::slice::from_ref(&anywhere)), [true]);
    let started = job(&a, &anywhere, "{active: 1}");
    queue.started(&a, "volume/x", &started);
    queue.is_on(&started, "n1");
    assert_eq!(ask(&queue, &b, &[bound]), [false]);
    // Two nodes with one place each: one more may run anywhere, and then none.
    assert_eq!(ask(&queue, &b, std::slice::from_ref(&anywhere)), [true]);
    assert_eq!(ask(&queue, &c, &[anywhere]), [false]);
}

#[test]
fn a_run_never_has_more_jobs_than_its_storage_takes() {
    let queue = queue(100);
    let a = backup("a", "a");
    let demands: Vec<Demand> = (0..200).map(|n| demand(&format!("volume/{n:03}"), Some("n1"))).collect();
    let mut open = demands.clone();
    let mut rounds = 0;
    while !open.is_empty() {
        let asker = Asker { run: &a, since: Timestamp::UNIX_EPOCH };
        let answers = queue.ask(&asker, &open);
        let (go, stay): (Vec<_>, Vec<_>) =
            open.into_iter().partition(|demand| answers[&demand.component] == Answer::Go);
        assert_eq!(go.len(), stay.len().saturating_add(go.len()).min(3));
        for demand in &go {
            queue.started(&a, &demand.component, &job(&a, demand, "{active: 1}"));
        }
        for demand in &go {
            queue.seen(&job(&a, demand, DONE));
        }
        open = stay;
        rounds += 1;
    }
    assert_eq!(rounds, 67);
}

#[test]
fn a_stopped_job_is_over_when_its_pods_are_gone() {
    let (a, one) = (backup("a", "a"), demand("volume/x", Some("n1")));
    let stopped = |status: &str| {
        let mut job = job(&a, &one, status);
        job.spec.as_mut().unwrap().suspend = Some(true);
        is_over(&job)
    };
    assert!(!stopped("{active: 1}"));
    assert!(!stopped("{terminating: 1}"));
    assert!(stopped("{}"));
    assert!(!is_over(&job(&a, &one, "{}")));
    assert!(is_over(&job(&a, &one, DONE)));
}
