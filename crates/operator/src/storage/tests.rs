use std::time::Duration;

use holdfast_api::BackupStorage;
use holdfast_api::conditions::find_condition;
use holdfast_protocol::Verdict;
use jiff::Timestamp;

use super::super::dereference::Facts;
use super::super::validate::{Step, validate};
use super::*;
use crate::access::{AccessError, Credentials, StorageAccess};
use crate::context::Attempt;
use crate::jobs::{End, JobState, JobView, Loss, RunKind, RunRef};

fn storage(policy: &str, recovery: &str) -> BackupStorage {
    serde_saphyr::from_str(&format!(
        "
apiVersion: holdfast.dev/v1alpha1
kind: BackupStorage
metadata: {{name: offsite, namespace: backup, uid: s1, generation: 3}}
spec:
  backend: {{s3: {{bucket: b, endpoint: 'https://s3.example', credentialsSecretRef: {{name: keys}}}}}}
  usagePolicy: {{allowedNamespaces: {{from: {policy}}}}}
  {recovery}
"
    ))
    .unwrap()
}

fn now() -> Timestamp {
    "2026-11-20T02:00:00Z".parse().unwrap()
}

fn facts(storage: BackupStorage) -> Facts {
    let access = StorageAccess {
        storage: storage.clone(),
        location: holdfast_protocol::spec::StorageAccess::S3 {
            endpoint: "https://s3.example".into(),
            bucket: "b".into(),
            prefix: String::new(),
            region: "us-east-1".into(),
            virtual_host: false,
        },
        credentials: Credentials::default().with_password(b"a".to_vec()),
    };
    Facts {
        run: RunRef::of(RunKind::BackupStorage, &storage),
        storage,
        access: Ok(access),
        probes: Vec::new(),
        found: None,
        domain: None,
        ids: std::collections::BTreeMap::new(),
        recovery: std::collections::BTreeMap::new(),
        attempt: None,
        period: Duration::from_mins(5),
        stuck_after: Duration::from_mins(15),
        now: now(),
    }
}

fn ended(end: End) -> Ended {
    Ended {
        end,
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

fn failure(reason: &str) -> Ended {
    ended(End::Verdict(Box::new(Verdict::failed(reason, format!("it failed: {reason}"), false))))
}

fn success() -> Ended {
    let mut verdict = Verdict::failed("", "", false);
    verdict.outcome = Outcome::Succeeded;
    verdict.result =
        Some(TaskResult::Probe { repositories: 1, more: false, lifecycle: None, key_scope: None });
    ended(End::Verdict(Box::new(verdict)))
}

fn judge(ended: Ended) -> Step {
    Step::Judge { ended: Box::new(ended), inputs: String::new() }
}

fn ready(status: &BackupStorageStatus) -> (String, String, String) {
    let condition = find_condition(&status.conditions, ConditionType::Ready).unwrap().clone();
    (condition.status, condition.reason, condition.message)
}

#[test]
fn a_new_storage_is_tried_and_one_that_was_tried_rests() {
    let mut facts = facts(storage("Same", ""));
    assert!(matches!(validate(&facts).step, Step::Probe { .. }));
    facts.attempt = Some(Attempt { inputs: facts.inputs(), at: now(), failures: 0 });
    assert_eq!(validate(&facts).step, Step::Rest { until: "2026-11-20T02:05:00Z".parse().unwrap() });
    facts.attempt = Some(Attempt { inputs: facts.inputs(), at: now(), failures: 2 });
    assert_eq!(validate(&facts).step, Step::Rest { until: "2026-11-20T02:00:20Z".parse().unwrap() });
    facts.attempt = Some(Attempt { inputs: facts.inputs(), at: now(), failures: 9 });
    assert_eq!(validate(&facts).step, Step::Rest { until: "2026-11-20T02:01:00Z".parse().unwrap() });
}

#[test]
fn a_changed_secret_or_spec_is_tried_at_once() {
    let mut facts = facts(storage("Same", ""));
    facts.attempt = Some(Attempt { inputs: facts.inputs(), at: now(), failures: 0 });
    let mut changed = facts.storage.clone();
    changed.metadata.generation = Some(4);
    facts.storage = changed;
    assert!(matches!(validate(&facts).step, Step::Probe { .. }));
    facts.storage.metadata.generation = Some(3);
    if let Ok(access) = &mut facts.access {
        access.credentials = Credentials::default().with_password(b"b".to_vec());
    }
    assert!(matches!(validate(&facts).step, Step::Probe { .. }));
}

#[test]
fn a_job_of_an_earlier_try_is_left_over_and_the_current_one_is_not() {
    let mut facts = facts(storage("Same", ""));
    let Step::Probe { job } = validate(&facts).step else { panic!() };
    let view = |name: &str| JobView {
        job: serde_saphyr::from_str(&format!("metadata: {{name: {name}}}")).unwrap(),
        pods: Vec::new(),
        state: JobState::Ended(success()),
    };
    facts.probes = vec![view("old"), view(&job)];
    let plan = validate(&facts);
    assert!(matches!(plan.step, Step::Judge { .. }));
    assert_eq!(plan.stale, ["old"]);
    facts.access = Err(AccessError::NoBackend);
    assert_eq!(validate(&facts).stale.len(), 2);
}

#[test]
fn a_missing_secret_is_told_by_name_without_a_job() {
    let mut facts = facts(storage("Same", ""));
    facts.access = Err(AccessError::NotFound {
        kind: "Secret",
        namespace: "backup".into(),
        name: "keys".into(),
        purpose: "credentials of the store",
    });
    let plan = validate(&facts);
    let outcomes = super::status(&facts, &plan.step);
    let (status, reason, message) = ready(&outcomes.status);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "SecretNotFound"));
    assert!(message.contains("backup/keys"), "{message}");
    assert_eq!(outcomes.status.phase, Some(StoragePhase::Unavailable));
    assert!(outcomes.news.is_some());
}

#[test]
fn every_fault_of_a_store_has_a_reason_of_its_own() {
    let facts = facts(storage("Same", ""));
    for (said, reason) in [
        ("Auth", "InvalidCredentials"),
        ("BucketNotFound", "BucketNotFound"),
        ("Tls", "UntrustedCertificate"),
        ("Unreachable", "EndpointUnreachable"),
        ("AccessDenied", "AccessDenied"),
        ("ClockSkew", "ClockSkew"),
        ("ReadOnly", "ReadOnly"),
        ("UnknownMetadata", "ForeignContent"),
        ("Internal", "ProbeFailed"),
    ] {
        let outcomes = super::status(&facts, &judge(failure(said)));
        let (status, found, message) = ready(&outcomes.status);
        assert_eq!((status.as_str(), found.as_str()), ("False", reason));
        assert!(message.contains(said));
        assert_eq!(outcomes.status.phase, Some(StoragePhase::Unavailable));
    }
    let lost = ended(End::Lost { loss: Loss::DeadlineExceeded, message: "too long".into() });
    assert_eq!(ready(&super::status(&facts, &judge(lost)).status).1, "EndpointUnreachable");
}

#[test]
fn people_are_told_of_a_fault_once_and_of_another_fault_again() {
    let mut facts = facts(storage("Same", ""));
    let mut told = |reason: &str, message: &str| {
        let verdict = Verdict::failed(reason, message, true);
        let outcomes = super::status(&facts, &judge(ended(End::Verdict(Box::new(verdict)))));
        facts.storage.status = Some(outcomes.status);
        outcomes.news.is_some()
    };
    assert!(told("Unreachable", "no answer in 3 ms"));
    assert!(!told("Unreachable", "no answer in 4 ms"));
    assert!(told("Auth", "no such key"));
}

#[test]
fn a_good_probe_makes_it_ready_once_and_lists_what_is_there() {
    let mut facts = facts(storage("Same", ""));
    facts.found = Some(vec![FoundRow { directory: "c/a/x".into(), record: None }]);
    let outcomes = super::status(&facts, &judge(success()));
    assert_eq!(outcomes.status.phase, Some(StoragePhase::Ready));
    assert_eq!((outcomes.status.repository_count, outcomes.status.repositories.len()), (Some(1), 1));
    assert!(outcomes.news.is_some_and(|(good, ..)| good));

    facts.storage.status = Some(outcomes.status.clone());
    facts.found = None;
    let again = super::status(&facts, &judge(success()));
    assert!(again.news.is_none(), "no Event for what stays as it is");
    assert_eq!(again.status.repositories.len(), 1, "a list that could not be read is kept");

    // While it is tried again it stays what it is.
    let probing = super::status(&facts, &Step::Probing { waiting: None });
    assert_eq!(probing.status.phase, Some(StoragePhase::Ready));
}

#[test]
fn warnings_come_and_go_with_what_they_warn_of() {
    let has =
        |status: &BackupStorageStatus, condition| find_condition(&status.conditions, condition).is_some();
    let mut facts = facts(storage("All", ""));
    let warned = super::status(&facts, &judge(success())).status;
    assert!(
        has(&warned, ConditionType::NoRecoveryPassword) && has(&warned, ConditionType::CredentialsNotScoped)
    );
    let message = |status: &BackupStorageStatus| {
        find_condition(&status.conditions, ConditionType::CredentialsNotScoped).unwrap().message.clone()
    };
    assert!(message(&warned).contains("spec.backend.s3.assumeRole"), "{}", message(&warned));
    facts.storage = storage("All", "");
    facts.storage.spec.backend =
        serde_saphyr::from_str("{gcs: {bucket: b, credentialsSecretRef: {name: keys}}}").unwrap();
    let google = super::status(&facts, &judge(success())).status;
    assert!(!message(&google).contains("assumeRole"), "{}", message(&google));
    facts.storage = storage("Same", "recoveryPasswordSecretRef: {name: recovery}");
    facts.storage.status = Some(warned);
    if let Ok(access) = &mut facts.access {
        access.credentials = access.credentials.clone().with_recovery_password(b"r".to_vec(), "v1".into());
    }
    let calm = super::status(&facts, &judge(success())).status;
    assert!(
        !has(&calm, ConditionType::NoRecoveryPassword) && !has(&calm, ConditionType::CredentialsNotScoped)
    );
}

#[test]
fn a_recovery_password_is_not_called_set_before_all_repositories_have_it() {
    let mut facts = facts(storage("Same", "recoveryPasswordSecretRef: {name: recovery}"));
    let Ok(access) = &mut facts.access else { panic!() };
    access.credentials = access.credentials.clone().with_recovery_password(b"r".to_vec(), "v2".into());
    let told = |facts: &Facts| {
        let status = super::status(facts, &Step::Rest { until: now() }).status;
        find_condition(&status.conditions, ConditionType::NoRecoveryPassword)
            .map(|found| (found.reason.clone(), found.message.clone()))
    };
    assert_eq!(told(&facts), None, "there is no repository yet");
    let all = [("shop/main", Some("v2")), ("shop/old", Some("v1")), ("web/main", None)];
    facts.recovery = all.map(|(name, has)| (name.to_owned(), has.map(str::to_owned))).into();
    let (reason, message) = told(&facts).unwrap();
    assert_eq!(reason, "NotInAllRepositories");
    assert!(message.contains("2 of 3 repositories (shop/old, web/main)"), "{message}");
    facts.storage.spec.access_mode = holdfast_api::backup_storage::StorageAccessMode::ReadOnly;
    assert!(told(&facts).unwrap().1.contains("ReadOnly"), "{:?}", told(&facts));
    facts.recovery.values_mut().for_each(|has| *has = Some("v2".into()));
    assert_eq!(told(&facts), None);

    // While the Secret cannot be read, nothing new is known: what was told stays.
    facts.recovery.insert("shop/old".into(), None);
    facts.storage.status = Some(super::status(&facts, &Step::Rest { until: now() }).status);
    facts.access = Err(AccessError::NotFound {
        kind: "Secret",
        namespace: "backup".into(),
        name: "recovery".into(),
        purpose: "recovery password",
    });
    assert!(told(&facts).is_some());
}

#[test]
fn a_spec_that_is_being_tried_is_not_called_observed() {
    let mut facts = facts(storage("Same", ""));
    facts.storage.status = Some(super::status(&facts, &judge(success())).status);
    assert_eq!(facts.storage.status.as_ref().unwrap().observed_generation, Some(3));
    facts.storage.metadata.generation = Some(4);
    let trying = super::status(&facts, &Step::Probing { waiting: None }).status;
    assert_eq!(trying.observed_generation, Some(3), "its Ready is of the spec before");
    assert_eq!(super::status(&facts, &judge(success())).status.observed_generation, Some(4));
}

/// That keys are exchanged is not taken for their being held to anything: it is tried, and what came of it is told.
#[test]
fn keys_of_a_run_are_called_scoped_when_it_was_seen() {
    let mut facts = facts(storage("All", ""));
    let told = |status: &BackupStorageStatus| {
        let found = find_condition(&status.conditions, ConditionType::CredentialsNotScoped).unwrap();
        (found.status.clone(), found.reason.clone(), found.message.clone())
    };
    let after = |facts: &Facts, key_scope| {
        let mut ended = success();
        if let End::Verdict(verdict) = &mut ended.end {
            verdict.result =
                Some(TaskResult::Probe { repositories: 0, more: false, lifecycle: None, key_scope });
        }
        super::status(facts, &judge(ended)).status
    };
    let shared = after(&facts, None);
    assert_eq!(told(&shared).1, "SharedKey");
    facts.storage.status = Some(shared.clone());
    facts.storage.spec.backend.s3.as_mut().unwrap().assume_role = Some(Box::default());
    // A runner of an older release does not try.
    let (status, reason, _) = told(&after(&facts, None));
    assert_eq!((status.as_str(), reason.as_str()), ("Unknown", "CannotTell"));
    let (status, reason, message) = told(&after(&facts, Some(KeyScope::Ignored { left: None })));
    assert_eq!((status.as_str(), reason.as_str()), ("True", "PolicyIgnored"));
    assert!(message.contains("does not look at the session policy"), "{message}");
    assert!(!message.contains("could not be removed"), "{message}");
    let left = Some("holdfast-unscoped/1".to_owned());
    let (status, _, message) = told(&after(&facts, Some(KeyScope::Ignored { left })));
    assert!(status == "True" && message.contains("holdfast-unscoped/1 could not be removed"), "{message}");
    let why = "no answer".to_owned();
    let (status, _, message) = told(&after(&facts, Some(KeyScope::Unknown { why })));
    assert!(status == "Unknown" && message.contains("no answer"), "{message}");
    let kept = after(&facts, Some(KeyScope::Kept));
    assert_eq!((told(&kept).0.as_str(), told(&kept).1.as_str()), ("False", "PolicyKept"));
    // It stands while the storage is tried again, also by one that does not try it.
    facts.storage.status = Some(kept);
    assert_eq!(told(&after(&facts, None)).1, "PolicyKept");
    // A token instead of keys is an exchange as well.
    let keys = std::mem::replace(
        &mut facts.storage.spec.backend,
        serde_saphyr::from_str("{s3: {bucket: b, webIdentity: {serviceAccountName: a}}}").unwrap(),
    );
    assert_eq!(told(&after(&facts, Some(KeyScope::Ignored { left: None }))).1, "PolicyIgnored");
    facts.storage.spec.backend = keys;
    // And goes with the exchange.
    facts.storage.spec.backend.s3.as_mut().unwrap().assume_role = None;
    assert_eq!(told(&after(&facts, Some(KeyScope::Kept))).1, "SharedKey");
}

#[test]
fn a_store_in_the_cluster_is_warned_of_until_it_is_elsewhere() {
    let mut facts = facts(storage("Same", ""));
    let condition = |facts: &Facts| {
        let status = super::status(facts, &judge(success())).status;
        find_condition(&status.conditions, ConditionType::SharedFailureDomain).cloned()
    };
    facts.domain = Some(Domain::Here("Service storage/minio".into()));
    let warned = condition(&facts).unwrap();
    assert_eq!((warned.status.as_str(), warned.reason.as_str()), ("True", "InCluster"));
    assert!(warned.message.contains("storage/minio") && warned.message.contains("elsewhere"));
    facts.storage.status = Some(super::status(&facts, &judge(success())).status);
    facts.domain = Some(Domain::Unknown);
    assert!(condition(&facts).is_some(), "a name that is not resolved today says nothing new");
    facts.domain = Some(Domain::Elsewhere);
    assert_eq!(condition(&facts), None);
}

#[test]
fn rules_of_the_bucket_are_found_not_found_or_not_known() {
    let facts = facts(storage("Same", ""));
    let said = |lifecycle| {
        let mut ended = success();
        if let End::Verdict(verdict) = &mut ended.end {
            verdict.result =
                Some(TaskResult::Probe { repositories: 0, more: false, lifecycle, key_scope: None });
        }
        let status = super::status(&facts, &judge(ended)).status;
        let found = find_condition(&status.conditions, ConditionType::LifecycleRuleFound)?.clone();
        Some((found.status, found.reason, found.message))
    };
    assert_eq!(said(None), None, "a runner that did not look");
    let (status, reason, _) = said(Some(Lifecycle::Harmless)).unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "NoRuleFound"));
    let rules = vec!["\"tidy\" deletes objects after 30 days".to_owned()];
    let (status, reason, message) = said(Some(Lifecycle::Found { rules, count: 1 })).unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("True", "RuleFound"));
    assert!(message.contains("after 30 days") && message.contains("remove"), "{message}");
    let why = "the server answered 403 AccessDenied".to_owned();
    let (status, reason, message) = said(Some(Lifecycle::Unknown { why })).unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("Unknown", "CannotTell"));
    assert!(message.contains("403") && message.contains("GetLifecycleConfiguration"), "{message}");
}

#[test]
fn of_other_clouds_than_s3_it_is_told_what_nobody_looks_at() {
    for (backend, location, advice) in [
        ("{gcs: {bucket: b, prefix: p, credentialsSecretRef: {name: k}}}", "gs:b:/p", "soft delete"),
        (
            "{azure: {account: acct, container: box, credentialsSecretRef: {name: k}}}",
            "azure:acct/box:/",
            "lifecycle management",
        ),
    ] {
        let mut storage = storage("Same", "");
        storage.spec.backend = serde_saphyr::from_str(backend).unwrap();
        let mut facts = facts(storage);
        facts.domain = Some(Domain::Elsewhere);
        let mut ended = success();
        if let End::Verdict(verdict) = &mut ended.end {
            let lifecycle = Some(Lifecycle::Unknown { why: "not S3".to_owned() });
            verdict.result =
                Some(TaskResult::Probe { repositories: 0, more: false, lifecycle, key_scope: None });
        }
        let status = super::status(&facts, &judge(ended)).status;
        assert_eq!(
            status.phase,
            Some(StoragePhase::Ready),
            "an unknown warning keeps nothing from being used"
        );
        assert_eq!(status.location.as_deref(), Some(location));
        let found = find_condition(&status.conditions, ConditionType::LifecycleRuleFound).unwrap();
        assert_eq!(found.status, "Unknown");
        assert!(found.message.contains(advice) && !found.message.contains("s3:"), "{}", found.message);
        assert!(find_condition(&status.conditions, ConditionType::SharedFailureDomain).is_none());
    }
}

#[test]
fn a_repository_that_was_opened_tells_its_id() {
    let mut opened = storage("Same", "");
    opened.status = Some(
        serde_saphyr::from_str("{repositories: [{directory: c/a/x}, {directory: c/b/y, repositoryId: old}]}")
            .unwrap(),
    );
    let mut facts = facts(opened);
    facts.ids.insert("c/a/x".into(), "1234".into());
    let plan = validate(&facts);
    let ids: Vec<Option<String>> = super::status(&facts, &plan.step)
        .status
        .repositories
        .into_iter()
        .map(|found| found.repository_id)
        .collect();
    assert_eq!(ids, [Some("1234".to_owned()), None], "one that is not known any more is not claimed");
}

#[test]
fn a_storage_for_restores_only_is_ready_and_says_so() {
    let facts = facts(storage("Same", "accessMode: ReadOnly"));
    let access = facts.access.as_ref().unwrap();
    assert!(super::super::build::spec(&facts, access, "prod", "c").read_only);
    let status = status(&facts, &judge(success())).status;
    let (ready, reason, message) = ready(&status);
    assert_eq!((ready.as_str(), reason.as_str()), ("True", "Validated"));
    assert!(message.contains("nothing was written"), "{message}");
}
