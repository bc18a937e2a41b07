use super::*;
use crate::restore::validate::PlannedComponent;
use holdfast_api::refs::Identity;
use holdfast_api::restore::{RestoreVolume, UndoState};
use holdfast_api::tags;
use holdfast_protocol::Verdict;
use holdfast_protocol::verdict::BackupResult;

fn restore(extra: &str) -> Restore {
    serde_saphyr::from_str(&format!(
        "{{metadata: {{name: back, namespace: shop, uid: u-1}}, spec: {{from: {{snapshotRef: {{name: s}}}} {extra}}}}}"
    ))
    .unwrap()
}

fn storage(status: &str) -> BackupStorage {
    serde_saphyr::from_str(&format!(
        "{{metadata: {{name: offsite, namespace: shop}}, spec: {{backend: {{}}}}, status: {status}}}"
    ))
    .unwrap()
}

fn component(from: &str, claim: &str, empty: bool) -> PlannedComponent {
    PlannedComponent {
        node: None,
        wish: RestoreVolume::back_to(from, claim),
        claim: claim.into(),
        new_claim: None,
        snapshot_id: "aa".into(),
        size: None,
        files: None,
        identity: Identity { uid: 999, ..Identity::default() },
        consumers: Vec::new(),
        warnings: Vec::new(),
        limits: None,
        empty,
        out_of_sight: false,
    }
}

fn plan(components: Vec<PlannedComponent>) -> Plan {
    Plan { components, workloads: std::collections::BTreeSet::new(), warnings: Vec::new() }
}

fn ready() -> BackupStorage {
    storage("{phase: Ready}")
}

fn started() -> Timestamp {
    "2026-11-20T02:00:00Z".parse().unwrap()
}

#[test]
fn what_is_overwritten_is_saved_under_the_name_of_the_claim_it_is_in() {
    let two = plan(vec![component("volume/data", "copy", false), component("volume/logs", "fresh", true)]);
    let undo = planned(&restore(""), &two, &ready(), "shop");
    assert_eq!(undo.state, UndoState::Planned);
    let [only] = undo.components.as_slice() else { panic!("{undo:?}") };
    assert_eq!((only.name.as_str(), only.source.claim.as_deref()), ("volume/copy", Some("copy")));
    assert_eq!(only.run_as.as_ref().unwrap().uid, 999, "whoever may write there can read there");
    assert_eq!(undo.message.as_deref(), Some("will be saved first: what is in copy"));
    let elsewhere = planned(&restore(""), &two, &ready(), "other");
    assert!(elsewhere.message.unwrap().contains("namespace other"), "whose eyes will see it is told");
}

#[test]
fn nothing_is_saved_where_nothing_is_overwritten_or_nobody_wants_it() {
    let fresh = plan(vec![component("volume/logs", "fresh", true)]);
    assert_eq!(planned(&restore(""), &fresh, &ready(), "shop").state, UndoState::NotNeeded);
    let full = plan(vec![component("volume/data", "data", false)]);
    assert_eq!(planned(&restore(", undo: false"), &full, &ready(), "shop").state, UndoState::Off);
    assert!(restore("").spec.undo, "the safe way is the one that need not be asked for");
}

#[test]
fn a_storage_that_cannot_be_written_to_is_known_before_anything_is_touched() {
    let full = plan(vec![component("volume/data", "data", false)]);
    let closed = storage(
        "{phase: Unavailable, conditions: [{type: Ready, status: 'False', reason: ReadOnly, message: may not write, \
         lastTransitionTime: '2026-11-20T02:00:00Z'}]}",
    );
    let undo = planned(&restore(""), &full, &closed, "shop");
    assert_eq!(undo.state, UndoState::NotPossible);
    let refusal = refusal(&undo).unwrap();
    assert_eq!(refusal.reason, Reason::UndoNotPossible);
    assert!(
        refusal.message.contains("may not write") && refusal.message.contains("undo: false"),
        "{refusal:?}"
    );
    let without = planned(&restore(", undo: false"), &full, &closed, "shop");
    assert!(super::refusal(&without).is_none());
}

#[test]
fn a_storage_for_restores_only_keeps_no_way_back_and_says_how_to_go_on() {
    let read_only: BackupStorage = serde_saphyr::from_str(
        "{metadata: {name: offsite, namespace: shop}, spec: {backend: {}, accessMode: ReadOnly}, status: {phase: Ready}}",
    )
    .unwrap();
    let full = plan(vec![component("volume/data", "data", false)]);
    let undo = planned(&restore(""), &full, &read_only, "shop");
    let refusal = refusal(&undo).unwrap();
    assert_eq!(refusal.reason, Reason::UndoNotPossible);
    for needle in ["shop/offsite", "accessMode: ReadOnly", "undo: false"] {
        assert!(refusal.message.contains(needle), "{refusal:?}");
    }
    let fresh = plan(vec![component("volume/logs", "fresh", true)]);
    let undo = planned(&restore(""), &fresh, &read_only, "shop");
    assert!(super::refusal(&undo).is_none(), "disaster recovery goes into new claims");
}

#[test]
fn the_runner_saves_all_or_nothing_and_its_snapshot_is_known_for_what_it_is() {
    let undo = planned(&restore(""), &plan(vec![component("volume/data", "copy", false)]), &ready(), "shop");
    let only = undo.components.first().unwrap();
    let set = ComponentSet::of(["volume/copy"]);
    let cluster = Cluster { name: "prod", uid: "c" };
    let Task::BackupVolume(task) = task(&restore(""), cluster, started(), &set, only, VolumeTags::default())
    else {
        panic!("another task")
    };
    assert_eq!((task.on_unreadable, task.skip_empty, task.exclude_caches), (OnUnreadable::Fail, true, false));
    assert_eq!((task.path.as_str(), task.host.as_str()), ("/data/copy", "shop"));
    let tags = tags::RunTags::parse(&task.tags).unwrap().unwrap();
    assert_eq!((tags.undo_of.as_deref(), tags.run_uid.as_str()), (Some("back"), "u-1"));
    assert_eq!(task.identity_tags, ["holdfast.dev/component=volume/copy", "holdfast.dev/run-uid=u-1"]);
    assert!(task.tags.iter().any(|tag| tag.starts_with(&format!("{}=", holdfast_protocol::spec::UNDO_TAG))));

    let run = RunRef::of(crate::jobs::RunKind::Restore, &restore(""));
    let (owner, deadline) = (OwnerReference::default(), Duration::from_mins(1));
    let job = job(&run, owner, only, Placement::Anywhere, "j".into(), deadline);
    assert!(job.claim.unwrap().read_only);
}

fn ended_with(verdict: Verdict) -> BackupComponent {
    let mut component = BackupComponent {
        name: "volume/data".into(),
        source: ComponentSource { claim: Some("data".into()) },
        ..BackupComponent::default()
    };
    let end = Ended {
        end: End::Verdict(Box::new(verdict)),
        attempts: 1,
        pod: None,
        node: None,
        started: None,
        finished: None,
        retryable: false,
        disrupted: false,
        lock_may_remain: false,
    };
    ended(&mut component, &end);
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

#[test]
fn an_empty_claim_needs_no_way_back_and_one_with_gaps_has_none() {
    let empty =
        ended_with(verdict(Outcome::Succeeded, BackupResult { empty: true, ..BackupResult::default() }));
    assert_eq!((empty.phase, empty.reason.as_deref()), (ComponentPhase::Succeeded, Some("VolumeEmpty")));
    let gaps = BackupResult { snapshot_id: Some("aa".into()), unreadable: 2, ..BackupResult::default() };
    let gaps = ended_with(verdict(Outcome::Partial, gaps));
    assert_eq!(gaps.phase, ComponentPhase::Failed);
    let silent = ended_with(verdict(Outcome::Succeeded, BackupResult::default()));
    assert_eq!(silent.phase, ComponentPhase::Failed, "no snapshot and not said to be empty");

    let mut undo = Undo { components: vec![empty.clone(), gaps], ..Undo::default() };
    let told = failure(&undo).unwrap();
    assert!(told.contains("nothing was overwritten") && told.contains("undo: false"), "{told}");
    undo.components = vec![empty];
    assert_eq!(failure(&undo), None);
    concluded(&mut undo, None);
    assert_eq!(undo.state, UndoState::NotNeeded);
    assert!(undo.message.unwrap().contains("held no files: data"));
}

#[test]
fn the_snapshot_says_which_restore_it_undoes_and_lies_with_its_repository() {
    let saved =
        BackupResult { snapshot_id: Some("aa".into()), bytes_processed: 7, ..BackupResult::default() };
    let saved = ended_with(verdict(Outcome::Succeeded, saved));
    let empty =
        ended_with(verdict(Outcome::Succeeded, BackupResult { empty: true, ..BackupResult::default() }));
    let status = |components| RestoreStatus {
        start_time: Some(Time(started())),
        undo: Some(Undo { components, ..Undo::default() }),
        ..RestoreStatus::default()
    };
    let made =
        snapshot(&restore(""), "prod", "main", "vault", &status(vec![saved.clone(), empty.clone()]), |_| {
            None
        });
    let made = made.unwrap();
    assert_eq!(made.namespace().as_deref(), Some("vault"));
    assert_eq!(made.labels().get(names::LABEL_UNDO_OF).map(String::as_str), Some("back"));
    assert_eq!((made.spec.undo_of.as_deref(), made.spec.namespace.as_str()), (Some("back"), "shop"));
    let content = made.status.unwrap();
    assert_eq!((content.components.len(), content.complete, content.total_size), (1, Some(true), Some(7)));
    assert!(snapshot(&restore(""), "prod", "main", "shop", &status(vec![empty]), |_| None).is_none());
}
