use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_api::conditions::{ConditionType, Reason, find_condition};
use holdfast_api::repository::RepositoryPhase;
use holdfast_api::{BackupStorage, Repository, RepositoryStatus};
use holdfast_protocol::{Outcome, TaskResult, Verdict};
use jiff::Timestamp;

use super::dereference::{Facts, NamespaceFacts};
use super::status::{Synced, status};
use super::validate::{Plan, Step, validate};
use super::*;
use crate::access::{Credentials, StorageAccess};
use crate::context::Attempt;
use crate::jobs::{End, Ended, JobState, JobTask, JobView, RunRef};

fn now() -> Timestamp {
    "2026-11-20T02:00:00Z".parse().unwrap()
}

fn storage(policy: &str, status: &str) -> BackupStorage {
    serde_saphyr::from_str(&format!(
        "
apiVersion: holdfast.dev/v1alpha1
kind: BackupStorage
metadata: {{name: offsite, namespace: backup, uid: s1}}
spec:
  backend: {{s3: {{bucket: b, endpoint: 'https://s3.example', credentialsSecretRef: {{name: keys}}}}}}
  usagePolicy: {{allowedNamespaces: {{from: {policy}}}}}
status: {status}
"
    ))
    .unwrap()
}

fn repository(spec: &str, status: &str) -> Repository {
    serde_saphyr::from_str(&format!(
        "
apiVersion: holdfast.dev/v1alpha1
kind: Repository
metadata: {{name: main, namespace: shop, uid: r1, generation: 1}}
spec: {{storageRef: {{name: offsite, namespace: backup}}{spec}}}
status: {status}
"
    ))
    .unwrap()
}

const READY: &str = "{initialized: true, observedGeneration: 1, directory: prod/shop/main-x7k2p, phase: Ready, \
                     repositoryId: aa, snapshotCount: 0, lastSyncTime: '2026-11-20T01:30:00Z'}";
const NEW: &str = "{directory: prod/shop/main-x7k2p}";

fn facts(repository: Repository) -> Facts {
    let storage = storage("All", "{phase: Ready}");
    let access = StorageAccess {
        storage: storage.clone(),
        location: holdfast_protocol::spec::StorageAccess::S3 {
            endpoint: "https://s3.example".into(),
            bucket: "b".into(),
            prefix: String::new(),
            region: "us-east-1".into(),
            virtual_host: false,
        },
        credentials: Credentials::default(),
    };
    Facts {
        run: RunRef::of(RunKind::Repository, &repository),
        repository,
        cluster: "prod".into(),
        namespace: NamespaceFacts { labels: BTreeMap::new(), terminating: false },
        storage: Some(storage),
        access: Some(Ok(access)),
        password: Some(Ok(b"secret".to_vec())),
        rival: None,
        jobs: Vec::new(),
        snapshots: Vec::new(),
        running: Vec::new(),
        discarded: BTreeSet::new(),
        rows: None,
        opened: None,
        synced: None,
        sync_period: Duration::from_hours(1),
        now: now(),
    }
}

fn job(task: JobTask, name: &str, state: JobState) -> JobView {
    let job = serde_saphyr::from_str(&format!(
        "metadata: {{name: {name}, creationTimestamp: '2026-11-20T01:59:50Z', labels: {{holdfast.dev/task: {task}}}}}"
    ))
    .unwrap();
    JobView { job, pods: Vec::new(), state }
}

fn ended(verdict: Verdict) -> Ended {
    Ended {
        end: End::Verdict(Box::new(verdict)),
        attempts: 1,
        pod: Some("p".into()),
        node: None,
        started: None,
        finished: None,
        retryable: false,
        disrupted: false,
        lock_may_remain: false,
    }
}

fn opened(id: &str, created: bool, foreign: Option<&str>) -> Ended {
    let mut verdict = Verdict::failed("", "", false);
    verdict.outcome = Outcome::Succeeded;
    verdict.result = Some(TaskResult::Initialize {
        repository_id: id.into(),
        created,
        format_version: 2,
        recovery_key: false,
        foreign_record: foreign.map(str::to_owned),
    });
    ended(verdict)
}

fn judged(repository: Repository, ended: Ended) -> RepositoryStatus {
    let facts = facts(repository);
    let mut plan = validate(&facts);
    plan.step = Step::JudgeOpen { ended: Box::new(ended), inputs: String::new() };
    status(&facts, &plan, None).status
}

fn ready(status: &RepositoryStatus) -> (&str, &str) {
    let condition = find_condition(&status.conditions, ConditionType::Ready).unwrap();
    (condition.status.as_str(), condition.reason.as_str())
}

fn refused(facts: &Facts) -> String {
    let plan = validate(facts);
    let Step::Refuse { reason, message, .. } = &plan.step else { panic!("{:?}", plan.step) };
    assert!(!message.is_empty());
    reason.to_string()
}

#[test]
fn a_new_repository_gets_a_directory_a_password_and_then_a_job() {
    let mut facts = facts(repository("", "{}"));
    let Plan { directory, step, .. } = validate(&facts);
    assert_eq!(step, Step::SetDirectory);
    assert!(directory.starts_with("prod/shop/main-") && directory.len() == "prod/shop/main-x7k2p".len());
    facts.repository.status =
        Some(RepositoryStatus { directory: Some(directory.clone()), ..Default::default() });
    facts.password = Some(Err(AccessError::NotFound {
        kind: "Secret",
        namespace: "backup".into(),
        name: "x".into(),
        purpose: "password",
    }));
    let plan = validate(&facts);
    assert_eq!(plan.directory, directory, "chosen once");
    let Step::MakePassword { place } = plan.step else { panic!("{:?}", plan.step) };
    assert_eq!(place.namespace, "backup", "it outlives the repository's namespace");
    facts.password = Some(Ok(b"p".to_vec()));
    assert!(matches!(validate(&facts).step, Step::Open { must_exist: false, .. }));
}

#[test]
fn a_lost_password_is_never_replaced_by_a_new_one() {
    let mut facts = facts(repository("", READY));
    facts.password = Some(Err(AccessError::NotFound {
        kind: "Secret",
        namespace: "backup".into(),
        name: "x".into(),
        purpose: "password",
    }));
    assert_eq!(refused(&facts), "SecretNotFound");
}

#[test]
fn what_is_adopted_or_was_there_is_never_made() {
    let adopted = facts(repository(
        ", directory: prod/shop/old, passwordSecretRef: {name: p}",
        "{directory: prod/shop/old}",
    ));
    assert!(matches!(validate(&adopted).step, Step::Open { must_exist: true, .. }));
    let mut again = facts(repository("", READY));
    again.repository.metadata.generation = Some(2);
    assert!(matches!(validate(&again).step, Step::Open { must_exist: true, .. }));
}

#[test]
fn nothing_is_made_in_a_storage_for_restores_only() {
    let mut facts = facts(repository("", NEW));
    facts.storage = facts.storage.map(|mut storage| {
        storage.spec.access_mode = holdfast_api::backup_storage::StorageAccessMode::ReadOnly;
        storage
    });
    assert!(matches!(validate(&facts).step, Step::Open { must_exist: true, .. }));
}

#[test]
fn who_may_not_be_where_it_wants_is_refused() {
    let mut all = facts(repository("", NEW));
    all.storage = Some(storage("Same", "{phase: Ready}"));
    assert_eq!(refused(&all), "StorageNotAllowed");
    all.storage = None;
    assert_eq!(refused(&all), "StorageNotFound");
    let elsewhere = facts(repository(", directory: prod/bank/main", "{directory: prod/bank/main}"));
    assert_eq!(refused(&elsewhere), "DirectoryNotAllowed");
    let mut rival = facts(repository("", NEW));
    rival.rival = Some("a/one".into());
    assert_eq!(refused(&rival), "DirectoryInUse");
    let mut away = facts(repository("", NEW));
    away.storage = Some(storage("All", "{phase: Unavailable}"));
    assert_eq!(refused(&away), "StorageNotReady");
}

#[test]
fn what_a_storages_token_service_says_stays_in_the_storages_namespace() {
    let status = "{phase: Unavailable, conditions: [{type: Ready, status: 'False', reason: AccessDenied, \
                  message: 'User: arn:aws:iam::1234:user/b', lastTransitionTime: '2026-11-20T01:30:00Z'}]}";
    let mut all = facts(repository("", NEW));
    let mut told = |exchanges: bool, namespace: &str| {
        let mut storage = storage("All", status);
        if exchanges {
            let role = serde_saphyr::from_str("{roleArn: 'arn:aws:iam::1234:role/r'}").unwrap();
            storage.spec.backend.s3.as_mut().unwrap().assume_role = Some(role);
        }
        storage.metadata.namespace = Some(namespace.to_owned());
        all.storage = Some(storage);
        let Step::Refuse { message, .. } = validate(&all).step else { panic!("it is not refused") };
        assert!(message.contains("AccessDenied") && message.contains("offsite"), "{message}");
        message.contains("arn:")
    };
    assert!(!told(true, "backup"));
    assert!(told(true, "shop") && told(false, "backup"));
}

#[test]
fn nothing_is_begun_in_a_namespace_that_goes_away() {
    let mut facts = facts(repository("", NEW));
    facts.namespace.terminating = true;
    assert_eq!(validate(&facts).step, Step::Nothing);
}

#[test]
fn a_job_that_failed_is_tried_again_later_and_at_once_with_another_password() {
    let mut facts = facts(repository("", NEW));
    let Step::Open { job: name, .. } = validate(&facts).step else { panic!() };
    facts.jobs =
        vec![job(JobTask::Init, &name, JobState::Ended(ended(Verdict::failed("WrongPassword", "m", false))))];
    let Step::JudgeOpen { inputs, .. } = validate(&facts).step else { panic!() };
    facts.jobs = Vec::new();
    facts.opened = Some(Attempt { inputs, at: now(), failures: 1 });
    assert!(matches!(validate(&facts).step, Step::Rest { .. }));
    facts.password = Some(Ok(b"other".to_vec()));
    assert!(matches!(validate(&facts).step, Step::Open { .. }));
}

#[test]
fn a_new_repository_is_ready_and_synced_in_one_step() {
    let status = judged(repository("", NEW), opened("aa", true, None));
    assert_eq!(ready(&status), ("True", "Initialized"));
    assert_eq!((status.phase, status.initialized), (Some(RepositoryPhase::Ready), true));
    assert_eq!((status.snapshot_count, status.last_sync_time.map(|t| t.0)), (Some(0), Some(now())));
    // One that was found has to be listed.
    let found = judged(repository("", NEW), opened("aa", false, None));
    assert_eq!(found.last_sync_time, None);
}

#[test]
fn every_fault_of_a_repository_has_a_reason_of_its_own() {
    let fail = |said: &str| ended(Verdict::failed(said, "m", false));
    for (said, reason) in [
        ("WrongPassword", "WrongPassword"),
        ("ForeignContent", "ForeignContent"),
        ("Auth", "InvalidCredentials"),
        ("Tls", "UntrustedCertificate"),
        ("NotARepository", "RepositoryMissing"),
        ("Internal", "InitFailed"),
    ] {
        let status = judged(repository("", NEW), fail(said));
        assert_eq!(ready(&status), ("False", reason));
        assert_eq!((status.phase, status.initialized), (Some(RepositoryPhase::Failed), false));
    }
    assert_eq!(ready(&judged(repository("", READY), fail("NotARepository"))), ("False", "RepositoryMissing"));
    assert_eq!(
        ready(&judged(repository("", READY), opened("bb", false, None))),
        ("False", "RepositoryReplaced")
    );
    let foreign = Some("cluster prod (uid k2)");
    assert_eq!(
        ready(&judged(repository("", NEW), opened("aa", false, foreign))),
        ("False", "ClusterMismatch")
    );
    let adopted = repository(", passwordSecretRef: {name: p}", NEW);
    assert_eq!(
        ready(&judged(adopted, opened("aa", false, foreign))),
        ("True", "Initialized"),
        "adopted on purpose"
    );
}

#[test]
fn a_repository_that_failed_is_opened_again_also_after_its_storage_was_away() {
    let failed = judged(repository("", READY), ended(Verdict::failed("WrongPassword", "m", false)));
    let mut facts = facts(repository("", READY));
    facts.repository.status = Some(failed);
    assert!(matches!(validate(&facts).step, Step::Open { .. }));
    facts.storage = Some(storage("All", "{phase: Unavailable}"));
    let plan = validate(&facts);
    facts.repository.status = Some(status(&facts, &plan, None).status);
    assert_eq!(ready(facts.repository.status.as_ref().unwrap()), ("False", "StorageNotReady"));
    facts.storage = Some(storage("All", "{phase: Ready}"));
    assert!(matches!(validate(&facts).step, Step::Open { .. }), "it must not become Ready by the way");
}

#[test]
fn a_sync_is_due_when_asked_for_when_mirrors_were_deleted_and_when_it_is_time() {
    let mut facts = facts(repository("", READY));
    assert_eq!(validate(&facts).step, Step::Rest { until: "2026-11-20T02:30:00Z".parse().unwrap() });
    facts.now = "2026-11-20T02:30:00Z".parse().unwrap();
    assert!(matches!(validate(&facts).step, Step::Sync { .. }));

    facts.now = now();
    facts.repository.status.as_mut().unwrap().snapshot_count = Some(1);
    assert!(matches!(validate(&facts).step, Step::Sync { .. }), "one mirror is missing");

    facts.repository.status.as_mut().unwrap().snapshot_count = Some(0);
    let annotations = BTreeMap::from([("holdfast.dev/sync-now".to_owned(), "1".to_owned())]);
    facts.repository.metadata.annotations = Some(annotations);
    let Step::Sync { job: name } = validate(&facts).step else { panic!() };
    facts.jobs = vec![job(JobTask::Sync, &name, JobState::Ended(ended(Verdict::failed("Tls", "m", false))))];
    assert!(matches!(validate(&facts).step, Step::JudgeSync { answers: Some(answer), .. } if answer == "1"));
    // Asked again meanwhile: what has ended does not answer it.
    facts.repository.metadata.annotations =
        Some(BTreeMap::from([("holdfast.dev/sync-now".to_owned(), "2".to_owned())]));
    assert!(matches!(validate(&facts).step, Step::JudgeSync { answers: None, .. }));
}

#[test]
fn a_sync_that_failed_says_so_and_leaves_the_repository_ready() {
    let facts = facts(repository("", READY));
    let mut plan = validate(&facts);
    plan.step = Step::JudgeSync {
        ended: Box::new(ended(Verdict::failed("Unreachable", "no answer", true))),
        inputs: String::new(),
        answers: Some("1".into()),
        listed: now(),
    };
    let failed = status(&facts, &plan, None).status;
    let synced = find_condition(&failed.conditions, ConditionType::SnapshotsSynced).unwrap();
    assert_eq!((synced.status.as_str(), synced.reason.as_str()), ("False", "SyncFailed"));
    assert_eq!((failed.phase, failed.last_sync_request), (Some(RepositoryPhase::Ready), None));

    // What lies there is not what was opened: nobody may believe that it can be used.
    for (said, reason) in [
        ("WrongPassword", "WrongPassword"),
        ("NotARepository", "RepositoryMissing"),
        ("RepositoryReplaced", "RepositoryReplaced"),
    ] {
        if let Step::JudgeSync { ended: end, .. } = &mut plan.step {
            **end = ended(Verdict::failed(said, "m", false));
        }
        let failed = status(&facts, &plan, None).status;
        assert_eq!((failed.phase, ready(&failed)), (Some(RepositoryPhase::Failed), ("False", reason)));
        let again = repository("", READY);
        let again = Repository { status: Some(failed), ..again };
        assert!(super::validate::needs_opening(&again), "{said}: it is looked at again");
    }

    let found = |damaged| Synced {
        foreign: 2,
        unreadable: vec!["ab: bad".into()],
        damaged,
        total: 3,
        refused: Vec::new(),
        last_complete: None,
    };
    let outcomes = status(&facts, &plan, Some(&found((1..=7).map(|n| format!("c{n}")).collect())));
    let told = find_condition(&outcomes.status.conditions, ConditionType::SnapshotsDamaged).unwrap();
    assert!(
        told.status == "True" && told.message.starts_with("7 snapshots") && told.message.contains("c5, …")
    );
    assert!(outcomes.news.iter().any(|news| !news.good && news.reason == Reason::SnapshotsDamaged));
    // They were removed, or the store gives them back as they were.
    let mended = Repository { status: Some(outcomes.status), ..repository("", READY) };
    let facts = Facts { repository: mended, ..facts };
    let good = status(&facts, &plan, Some(&found(BTreeSet::new()))).status;
    assert!(find_condition(&good.conditions, ConditionType::SnapshotsDamaged).is_none());
    let synced = find_condition(&good.conditions, ConditionType::SnapshotsSynced).unwrap();
    assert_eq!(synced.status, "True");
    assert!(synced.message.contains("2 snapshots of other programs") && synced.message.contains("ab: bad"));
    assert_eq!((good.snapshot_count, good.last_sync_request.as_deref()), (Some(3), Some("1")));

    // One that the API server will not have: the others are there, and it is told.
    let refused = vec!["cannot create Snapshot shop/huge: request is too large".to_owned()];
    let outcomes = status(&facts, &plan, Some(&Synced { refused, ..found(BTreeSet::new()) }));
    let synced = find_condition(&outcomes.status.conditions, ConditionType::SnapshotsSynced).unwrap();
    assert_eq!((synced.status.as_str(), outcomes.status.last_sync_time.is_some()), ("False", true));
    assert!(
        synced.message.contains("refuses what is to become of 1 of") && synced.message.contains("shop/huge"),
        "{}",
        synced.message
    );
    assert!(outcomes.news.iter().all(|news| !news.good && news.reason == Reason::SyncFailed));
}

#[test]
fn the_last_successful_backup_is_the_newest_in_which_nothing_is_missing() {
    let snapshot = |hour: &str, complete: bool| -> holdfast_api::Snapshot {
        serde_saphyr::from_str(&format!(
            "{{metadata: {{name: s{hour}, namespace: shop}}, spec: {{repositoryRef: {{name: main}}, \
             time: '2026-11-20T{hour}:00:00Z', backup: {{name: b, uid: u{hour}}}, cluster: prod, namespace: shop}}, \
             status: {{complete: {complete}}}}}"
        ))
        .unwrap()
    };
    let last = |told: &str, snapshots: Vec<holdfast_api::Snapshot>| {
        let mut facts = facts(repository("", READY));
        facts.repository.status.as_mut().unwrap().last_successful_backup =
            (!told.is_empty()).then(|| serde_json::from_value(told.into()).unwrap());
        facts.snapshots = snapshots;
        let plan = validate(&facts);
        status(&facts, &plan, None).status.last_successful_backup.map(|time| time.0.to_string())
    };
    let (older, newer) = ("2026-11-20T00:00:00Z", "2026-11-20T01:00:00Z");
    let both = vec![snapshot("00", true), snapshot("01", false)];
    assert_eq!(last("", both.clone()).as_deref(), Some(older));
    assert_eq!(last(older, vec![snapshot("01", true)]).as_deref(), Some(newer));
    let mut safety = snapshot("01", true);
    safety.spec.undo_of = Some("back".into());
    let mut damaged = snapshot("01", true);
    damaged.status.as_mut().unwrap().components =
        vec![serde_saphyr::from_str("{name: volume/a, snapshotId: abc, damaged: true}").unwrap()];
    assert_eq!(last("", vec![safety, damaged]), None);
    // Objects that are gone may come back: only a sync takes a success back.
    assert_eq!(last(newer, both).as_deref(), Some(newer));
    assert_eq!(last(newer, Vec::new()).as_deref(), Some(newer));
}

/// The bucket was emptied by somebody: what is gone must not go on to be told as the last success.
#[test]
fn a_sync_sets_the_last_successful_backup_to_what_is_left() {
    let older: Timestamp = "2026-11-20T00:00:00Z".parse().unwrap();
    let mut facts = facts(repository("", READY));
    let told = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
    facts.repository.status.as_mut().unwrap().last_successful_backup.clone_from(&told);
    let mut plan = validate(&facts);
    let mut verdict = Verdict::failed("", "", false);
    verdict.outcome = Outcome::Succeeded;
    plan.step = Step::JudgeSync {
        ended: Box::new(ended(verdict)),
        inputs: String::new(),
        answers: None,
        listed: now(),
    };
    let after = |last_complete| {
        let (unreadable, damaged, refused) = (Vec::new(), BTreeSet::new(), Vec::new());
        let found = Synced { foreign: 0, unreadable, damaged, total: 1, refused, last_complete };
        status(&facts, &plan, Some(&found)).status
    };
    assert_eq!(after(Some(older)).last_successful_backup.map(|time| time.0), Some(older));
    let nothing = after(None);
    assert_eq!(nothing.last_successful_backup, None);
    // It stays so.
    let mut next = self::facts(Repository { status: Some(nothing), ..repository("", READY) });
    let plan_of_next = validate(&next);
    next.repository.status = Some(status(&next, &plan_of_next, None).status);
    assert_eq!(next.repository.status.unwrap().last_successful_backup, None);
    // A list that could not be read says nothing.
    assert_eq!(status(&facts, &plan, None).status.last_successful_backup, told);
}

#[test]
fn older_repositories_of_the_same_name_are_pointed_out() {
    let mut facts = facts(repository("", READY));
    let listed = "{phase: Ready, repositories: [{directory: prod/shop/main-abcde}, {directory: prod/shop/main-x7k2p}, \
                  {directory: prod/shop/mainly-other}, {directory: prod/bank/main-abcde}]}";
    facts.storage = Some(storage("All", listed));
    let plan = validate(&facts);
    let status = status(&facts, &plan, None).status;
    assert_eq!(status.previous_repositories, ["prod/shop/main-abcde"]);
    assert!(find_condition(&status.conditions, ConditionType::PreviousRepositoriesFound).is_some());
    assert_eq!(ready(&status), ("True", "Initialized"), "it is no error");
}

#[test]
fn a_storage_that_moves_to_another_endpoint_keeps_the_passwords_of_its_repositories() {
    let moved = |status: &str| {
        let mut facts = facts(repository("", status));
        let s3 = facts.storage.as_mut().and_then(|storage| storage.spec.backend.s3.as_mut()).unwrap();
        s3.endpoint = Some("https://moved.example".into());
        validate(&facts).password.unwrap()
    };
    let before = validate(&facts(repository("", READY))).password.unwrap();
    let known = |extra: &str, namespace: &str, name: &str| {
        format!(
            "{{{extra}directory: prod/shop/main-x7k2p, passwordSecret: {{namespace: {namespace}, name: {name}}}}}"
        )
    };
    assert_eq!(moved(&known("initialized: true, ", "backup", &before.name)), before);
    // What was never opened, and what was a user's Secret, is no password of ours.
    assert_ne!(moved(&known("", "backup", &before.name)), before);
    assert!(moved(&known("initialized: true, ", "backup", "theirs")).name.starts_with("holdfast-repo-"));
    assert_eq!(moved(&known("initialized: true, ", "shop", &before.name)).namespace, "backup");
}

#[test]
fn a_password_that_was_changed_is_tried_before_the_next_run_meets_it() {
    let mut facts = facts(repository("", NEW));
    let Step::Open { job: name, .. } = validate(&facts).step else { panic!() };
    facts.jobs = vec![job(JobTask::Init, &name, JobState::Ended(opened("aa", true, None)))];
    let Step::JudgeOpen { inputs, .. } = validate(&facts).step else { panic!() };
    facts.jobs = Vec::new();
    facts.repository = repository("", READY);
    facts.opened = Some(Attempt { inputs: inputs.clone(), at: now(), failures: 0 });
    assert!(matches!(validate(&facts).step, Step::Rest { .. }), "it opens with this one");

    facts.password = Some(Ok(b"changed".to_vec()));
    assert!(matches!(validate(&facts).step, Step::Open { must_exist: true, .. }), "and is never made anew");
    let wrong = judged(repository("", READY), ended(Verdict::failed("WrongPassword", "m", false)));
    assert_eq!(ready(&wrong), ("False", "WrongPassword"));
    assert_eq!(wrong.phase, Some(RepositoryPhase::Failed), "no Backup begins");

    // The store's key is another matter: it changes for all repositories at once, and the storage tries it.
    facts.password = Some(Ok(b"secret".to_vec()));
    if let Some(Ok(access)) = &mut facts.access {
        access.credentials = Credentials::default().with_password(b"rotated".to_vec());
    }
    assert!(matches!(validate(&facts).step, Step::Rest { .. }));
    // Nobody remembers, after a restart of the operator.
    facts.opened = None;
    facts.password = Some(Ok(b"changed".to_vec()));
    assert!(matches!(validate(&facts).step, Step::Rest { .. }));
}

/// Both ways: the storage got one after the repository was made, or its password was changed.
#[test]
fn a_recovery_password_of_later_is_added_to_the_repositories_that_exist() {
    let mut facts = facts(repository("", READY));
    let give = |facts: &mut Facts, version: &str| {
        let Some(Ok(access)) = &mut facts.access else { panic!() };
        access.credentials =
            Credentials::default().with_recovery_password(version.as_bytes().to_vec(), version.into());
        for spec in [&mut access.storage.spec, &mut facts.storage.as_mut().unwrap().spec] {
            spec.recovery_password_secret_ref = Some(serde_saphyr::from_str("{name: recovery}").unwrap());
        }
    };
    assert!(matches!(validate(&facts).step, Step::Rest { .. }), "there is none");
    let mut names = Vec::new();
    for version in ["first", "second"] {
        give(&mut facts, version);
        let plan = validate(&facts);
        let Step::Open { job: name, must_exist: true } = &plan.step else { panic!("{:?}", plan.step) };
        names.push(name.clone());
        let meanwhile = status(&facts, &plan, None).status;
        assert_eq!(meanwhile.phase, Some(RepositoryPhase::Ready), "it is used as before");

        let mut end = opened("aa", false, None);
        let End::Verdict(verdict) = &mut end.end else { panic!() };
        let Some(TaskResult::Initialize { recovery_key, .. }) = &mut verdict.result else { panic!() };
        *recovery_key = true;
        facts.jobs = vec![job(JobTask::Init, name, JobState::Ended(end))];
        let plan = validate(&facts);
        let after = status(&facts, &plan, None).status;
        assert_eq!(after.recovery_password.as_deref(), Some(version));
        assert_eq!(ready(&after), ("True", "Initialized"));
        facts.jobs = Vec::new();
        facts.repository.status = Some(after);
        assert!(matches!(validate(&facts).step, Step::Rest { .. }), "once is enough");
    }
    assert_ne!(names[0], names[1], "what the first Job finds out is not taken for the second password");

    // A runner that could not add it, and a storage that has none any more.
    let not_added = {
        let mut plan = validate(&facts);
        plan.step = Step::JudgeOpen { ended: Box::new(opened("aa", false, None)), inputs: String::new() };
        status(&facts, &plan, None).status
    };
    assert_eq!(not_added.recovery_password, None);
    let mut closed = facts.repository.clone();
    closed.status.as_mut().unwrap().recovery_password = None;
    facts.repository = closed;
    assert!(matches!(validate(&facts).step, Step::Open { .. }));
    facts.repository.annotations_mut().insert(names::ANNOTATION_FOR_DRY_RUN.into(), "r".into());
    assert!(matches!(validate(&facts).step, Step::Rest { .. }), "a dry run writes nothing");
    facts.repository.annotations_mut().clear();
    let Some(Ok(access)) = &mut facts.access else { panic!() };
    access.storage.spec.access_mode = holdfast_api::backup_storage::StorageAccessMode::ReadOnly;
    assert!(matches!(validate(&facts).step, Step::Rest { .. }), "nothing is written there");
}

#[test]
fn a_repository_hears_of_its_password_wherever_it_is_kept() {
    let generated = repository(
        "",
        "{directory: prod/shop/main-x7k2p, passwordSecret: {namespace: backup, name: holdfast-repo-1}}",
    );
    assert!(super::has_password_in(&generated, "backup", "holdfast-repo-1"));
    assert!(!super::has_password_in(&generated, "shop", "holdfast-repo-1"));
    let named = repository(", passwordSecretRef: {name: mine}", "{}");
    assert!(super::has_password_in(&named, "shop", "mine"));
    assert!(!super::has_password_in(&named, "backup", "mine"));
}
