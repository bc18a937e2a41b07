use super::*;

fn snapshot(name: &str, time: &str, repository: &str, complete: bool, components: &str) -> Snapshot {
    serde_saphyr::from_str(&format!(
        "
metadata: {{name: {name}, namespace: shop}}
spec: {{repositoryRef: {{name: {repository}}}, time: '{time}', backup: {{name: b, uid: u}}, cluster: c, namespace: shop}}
status: {{complete: {complete}, components: [{components}]}}
"
    ))
    .unwrap()
}

const DATA: &str = "{name: volume/data, snapshotId: aabbccdd01}";
const BOTH: &str = "{name: volume/data, snapshotId: aabbccdd02}, {name: volume/logs, snapshotId: ffeeddcc02}";

fn all() -> Vec<Snapshot> {
    vec![
        snapshot("monday", "2026-11-16T02:00:00Z", "main", true, DATA),
        snapshot("wednesday", "2026-11-18T02:00:00Z", "other", true, DATA),
        snapshot("tuesday", "2026-11-17T02:00:00Z", "main", true, BOTH),
        snapshot("thursday", "2026-11-19T02:00:00Z", "main", false, BOTH),
    ]
}

fn restore(from: &str) -> Restore {
    serde_saphyr::from_str(&format!("{{metadata: {{name: r, namespace: shop}}, spec: {{from: {from}}}}}"))
        .unwrap()
}

fn chosen(from: &str) -> Result<String, Refusal> {
    let restore = restore(from);
    choose(&wanted(&restore.spec.from).unwrap(), &all(), "c").map(ResourceExt::name_any)
}

#[test]
fn the_newest_complete_one_is_chosen() {
    assert_eq!(chosen("{latestOf: {}}").unwrap(), "wednesday");
    assert_eq!(chosen("{latestOf: {repositoryRef: {name: main}}}").unwrap(), "tuesday");
    assert_eq!(chosen("{latestOf: {claim: logs}}").unwrap(), "tuesday");
}

#[test]
fn a_point_in_time_takes_the_one_that_began_then_or_before() {
    let at = |time: &str| chosen(&format!("{{pointInTime: {{time: '{time}'}}}}"));
    assert_eq!(at("2026-11-17T02:00:00Z").unwrap(), "tuesday");
    assert_eq!(at("2026-11-17T01:59:59Z").unwrap(), "monday");
    assert_eq!(at("2026-11-25T00:00:00Z").unwrap(), "wednesday", "one that is not complete is never chosen");
    let refusal = at("2026-11-01T00:00:00Z").unwrap_err();
    assert_eq!(refusal.reason, Reason::SnapshotNotFound);
    assert!(
        refusal.message.contains("monday") && refusal.message.contains("2026-11-01"),
        "{}",
        refusal.message
    );
    assert!(refusal.message.contains("not complete"), "{}", refusal.message);
}

/// As it is mirrored in the namespace `shop`, from another one or from another cluster.
fn mirrored(name: &str, time: &str, repository: &str, cluster: &str, namespace: &str) -> Snapshot {
    let mut made = snapshot(name, time, repository, true, BOTH);
    made.spec.cluster = cluster.into();
    made.spec.namespace = namespace.into();
    made
}

fn chosen_of(list: &[Snapshot], from: &str) -> Result<String, Refusal> {
    let restore = restore(from);
    choose(&wanted(&restore.spec.from).unwrap(), list, "c").map(ResourceExt::name_any)
}

/// An older one that is taken in its stead would hide that the newest is lost: it is chosen, and then refused.
#[test]
fn a_damaged_one_is_not_passed_over_in_silence() {
    let mut list = all();
    for snapshot in list.iter_mut().filter(|snapshot| snapshot.name_any() == "wednesday") {
        let status = snapshot.status.as_mut().unwrap();
        (status.complete, status.missing) = (Some(false), Some(0));
        status.components[0].damaged = true;
        status.components[0].unreadable = Some(0);
    }
    assert_eq!(chosen_of(&list, "{latestOf: {}}").unwrap(), "wednesday");
    assert_eq!(chosen_of(&list, "{latestOf: {claim: data}}").unwrap(), "wednesday");
    assert_eq!(chosen_of(&list, "{latestOf: {claim: logs}}").unwrap(), "tuesday");
}

#[test]
fn what_the_namespace_made_itself_comes_before_what_is_mirrored_in_it() {
    let mut list = all();
    list.push(mirrored("friday", "2026-11-20T02:00:00Z", "prods", "prod", "shop"));
    list.push(mirrored("saturday", "2026-11-21T02:00:00Z", "webs", "c", "web"));
    assert_eq!(chosen_of(&list, "{latestOf: {}}").unwrap(), "wednesday");
    assert_eq!(chosen_of(&list, "{latestOf: {claim: logs}}").unwrap(), "tuesday");
    let late = "{pointInTime: {time: '2026-11-25T00:00:00Z'}}";
    assert_eq!(chosen_of(&list, late).unwrap(), "wednesday");
    // Asked for, it is taken.
    assert_eq!(chosen_of(&list, "{latestOf: {repositoryRef: {name: prods}}}").unwrap(), "friday");
    let late = "{pointInTime: {time: '2026-11-25T00:00:00Z', repositoryRef: {name: webs}}}";
    assert_eq!(chosen_of(&list, late).unwrap(), "saturday");
}

#[test]
fn mirrored_data_is_not_taken_because_the_own_does_not_do() {
    let list = [
        snapshot("own", "2026-11-19T02:00:00Z", "main", false, DATA),
        mirrored("prods", "2026-11-18T02:00:00Z", "adopted", "prod", "shop"),
    ];
    for from in ["{latestOf: {}}", "{pointInTime: {time: '2026-11-18T12:00:00Z'}}"] {
        let refusal = chosen_of(&list, from).unwrap_err();
        assert_eq!(refusal.reason, Reason::SnapshotNotFound, "{from}");
        assert!(
            refusal.message.contains("no complete Snapshot made in its own namespace and cluster"),
            "{}",
            refusal.message
        );
        assert!(
            refusal.message.contains("own (2026-11-19T02:00:00Z, not complete)")
                && refusal
                    .message
                    .contains("prods (2026-11-18T02:00:00Z, of namespace shop of cluster prod)"),
            "{}",
            refusal.message
        );
    }
}

#[test]
fn the_only_origin_there_is_is_meant_and_of_several_one_has_to_be_named() {
    let one = mirrored("prods", "2026-11-18T02:00:00Z", "adopted", "prod", "shop");
    let again = mirrored("later", "2026-11-19T02:00:00Z", "again", "prod", "shop");
    let old = mirrored("olds", "2026-11-20T02:00:00Z", "old-one", "old", "shop");
    assert_eq!(chosen_of(&[one.clone(), again.clone()], "{latestOf: {}}").unwrap(), "later");
    let several = [one, again, old];
    for (from, field) in [
        ("{latestOf: {}}", "spec.from.latestOf.repositoryRef"),
        ("{pointInTime: {time: '2026-11-25T00:00:00Z'}}", "spec.from.pointInTime.repositoryRef"),
    ] {
        let refusal = chosen_of(&several, from).unwrap_err();
        assert_eq!(refusal.reason, Reason::AmbiguousSource, "{from}");
        for part in [
            field,
            "namespace shop of cluster old (Repository old-one)",
            "namespace shop of cluster prod (Repository adopted, again)",
        ] {
            assert!(refusal.message.contains(part), "{part} in {}", refusal.message);
        }
    }
    assert_eq!(chosen_of(&several, "{latestOf: {repositoryRef: {name: old-one}}}").unwrap(), "olds");
}

#[test]
fn an_id_names_one_and_its_component() {
    let from = "{repository: {storageRef: {name: s}, snapshotId: ffeeddcc}}";
    let several = chosen(from).unwrap_err();
    assert!(several.message.contains("more of its digits"), "{}", several.message);
    let from = "{repository: {storageRef: {name: s}, snapshotId: aabbccdd01}}";
    let one = all().into_iter().find(|s| s.name_any() == "tuesday").unwrap();
    assert!(chosen(from).is_err(), "two hold it");
    let restore = restore("{repository: {storageRef: {name: s}, snapshotId: ffeeddcc02}}");
    assert_eq!(components(&restore, &one), ["volume/logs"]);
}

#[test]
fn a_claim_that_is_named_is_the_one_that_is_restored() {
    let one = all().into_iter().next_back().unwrap();
    assert_eq!(components(&restore("{latestOf: {claim: logs}}"), &one), ["volume/logs"]);
    assert!(components(&restore("{latestOf: {}}"), &one).is_empty());
    let mut both = restore("{latestOf: {claim: logs}}");
    both.spec.components = vec!["volume/data".into()];
    assert_eq!(components(&both, &one), ["volume/data"]);
}

#[test]
fn another_namespace_has_to_agree() {
    let source = |list: &str| -> Namespace {
        serde_saphyr::from_str(&format!(
            "{{metadata: {{name: shop, annotations: {{holdfast.dev/restore-to: '{list}'}}}}}}"
        ))
        .unwrap()
    };
    let may = |list: &str, own: &str| refusal("shop", Some(&source(list)), own, "holdfast").is_none();
    assert!(may("staging, test", "test") && may("*", "anyone"));
    assert!(!may("staging", "test") && !may("", "test") && !may("staging-2", "staging"));
    assert!(may("", "shop"), "its own");
    assert!(may("", "holdfast"), "the operator's namespace is the administrators'");
    let refused = refusal("shop", None, "test", "holdfast").unwrap();
    assert_eq!(refused.reason, Reason::SourceNotAllowed);
    assert!(refused.message.contains("kubectl annotate namespace shop"), "{}", refused.message);
}

fn storage(repositories: &str) -> BackupStorage {
    serde_saphyr::from_str(&format!(
        "
metadata: {{name: offsite, namespace: shop}}
spec:
  backend: {{s3: {{bucket: b, endpoint: 'https://s3.example', credentialsSecretRef: {{name: keys}}}}}}
  recoveryPasswordSecretRef: {{name: recovery}}
status: {{repositories: [{repositories}]}}
"
    ))
    .unwrap()
}

fn from(extra: &str) -> FromRepository {
    serde_saphyr::from_str(&format!("{{storageRef: {{name: offsite}} {extra}}}")).unwrap()
}

#[test]
fn the_directory_is_found_when_only_one_can_be_meant() {
    let one = "{directory: old/web/main-aaaaa, namespace: web}";
    let ours = "{directory: old/shop/main-bbbbb, namespace: shop}";
    let again = "{directory: old/shop/main-ccccc, namespace: shop}";
    let find = |all: &str| directory(&from(""), &storage(all), "shop");
    assert_eq!(find(one).unwrap(), "old/web/main-aaaaa");
    assert_eq!(find(&format!("{one}, {ours}")).unwrap(), "old/shop/main-bbbbb");
    assert_eq!(find("").unwrap_err().reason, Reason::RepositoryNotFound);
    let several = find(&format!("{one}, {ours}, {again}")).unwrap_err();
    assert_eq!(several.reason, Reason::AmbiguousSource);
    assert!(several.message.contains("main-bbbbb, old/shop/main-ccccc"), "{}", several.message);
    assert!(!several.message.contains("main-aaaaa"), "{}", several.message);
    let named = from(", directory: other/x");
    assert_eq!(directory(&named, &storage(one), "shop").unwrap(), "other/x");
}

#[test]
fn the_recovery_password_stays_in_its_namespace() {
    assert_eq!(password(&from(""), &storage(""), "shop").unwrap().name, "recovery");
    assert_eq!(password(&from(""), &storage(""), "web").unwrap_err().reason, Reason::SecretNotFound);
    let named = from(", passwordSecretRef: {name: mine}");
    assert_eq!(password(&named, &storage(""), "web").unwrap().name, "mine");
}

#[test]
fn a_repository_that_leads_there_already_is_used() {
    let restore = restore("{repository: {storageRef: {name: offsite}}}");
    let place = StorageRef { name: "offsite".into(), namespace: Some("shop".into()) };
    let secret = PasswordSecretRef { name: "recovery".into(), key: "password".into() };
    let made = repository(&restore, &place, "old/shop/main-bbbbb".into(), secret);
    assert_eq!(made.namespace().as_deref(), Some("shop"));
    assert!(made.spec.password_secret_ref.is_some(), "so that it is opened, and never made");
    let all = [made];
    let short = StorageRef { name: "offsite".into(), namespace: None };
    assert!(known(&all, &short, "old/shop/main-bbbbb", "shop").is_some());
    assert!(known(&all, &short, "old/shop/other", "shop").is_none());
    let elsewhere = StorageRef { name: "offsite".into(), namespace: Some("backup".into()) };
    assert!(known(&all, &elsewhere, "old/shop/main-bbbbb", "shop").is_none());
}

#[test]
fn nothing_is_chosen_before_everything_is_listed() {
    let with = |status: &str| -> Repository {
        serde_saphyr::from_str(&format!(
            "{{metadata: {{name: r, namespace: shop}}, spec: {{storageRef: {{name: s}}}}, status: {status}}}"
        ))
        .unwrap()
    };
    assert_eq!(not_listed(&with("{}"), &[]).unwrap().0, Reason::Initializing);
    assert_eq!(not_listed(&with("{phase: Ready}"), &[]).unwrap().0, Reason::Initializing);
    assert_eq!(not_listed(&with("{phase: Ready, lastSyncTime: '2026-11-20T02:00:00Z'}"), &[]), None);
    let wrong = "{phase: Failed, conditions: [{type: Ready, status: 'False', reason: WrongPassword, message: no key opens, lastTransitionTime: '2026-11-20T02:00:00Z'}]}";
    let (reason, message) = not_listed(&with(wrong), &[]).unwrap();
    assert_eq!(reason, Reason::RepositoryNotReady);
    assert!(message.contains("no key opens"), "{message}");
}

#[test]
fn a_repository_that_was_named_wrongly_is_told_with_what_to_do() {
    let failed = |reason: &str| -> Repository {
        serde_saphyr::from_str(&format!(
            "
metadata: {{name: main-1234, namespace: shop}}
spec: {{storageRef: {{name: s}}, directory: old/shop/main-typo, passwordSecretRef: {{name: recovery, key: word}}}}
status: {{phase: Failed, conditions: [{{type: Ready, status: 'False', reason: {reason}, message: it is not, lastTransitionTime: '2026-11-20T02:00:00Z'}}]}}
"
        ))
        .unwrap()
    };
    let storage =
        storage("{directory: old/web/main-aaaaa, namespace: web}, {directory: old/shop/main-bbbbb}");
    let found = storage.status.unwrap().repositories;
    let told = |reason: &str, found: &[FoundRepository]| not_listed(&failed(reason), found).unwrap().1;

    let password = told("WrongPassword", &found);
    assert!(password.contains("the key word of Secret recovery: it is tried again by itself"), "{password}");
    for reason in ["InitFailed", "RepositoryMissing"] {
        let text = told(reason, &found);
        assert!(
            text.contains("the storage holds old/web/main-aaaaa, old/shop/main-bbbbb: name one"),
            "{text}"
        );
        assert!(text.contains("another Restore, and delete Repository main-1234, which"), "{text}");
    }
    // What is there, or cannot be known, is not told to be elsewhere; nor is a store that does not answer.
    let mut there = found.clone();
    there.push(FoundRepository { directory: "old/shop/main-typo".into(), ..found[0].clone() });
    for (reason, found) in
        [("InitFailed", there.as_slice()), ("InitFailed", &[]), ("EndpointUnreachable", &found)]
    {
        let whole = format!("Repository main-1234 is not ready: {reason}: it is not");
        assert_eq!(told(reason, found), whole);
    }
}

#[test]
fn what_was_saved_before_a_restore_is_restored_only_when_it_is_named() {
    let mut list = all();
    let mut safety =
        snapshot("friday", "2026-11-20T02:00:00Z", "main", true, "{name: volume/data, snapshotId: 99887766}");
    safety.spec.undo_of = Some("r".to_owned());
    list.push(safety);
    let chosen = |from: &str| {
        let restore = restore(from);
        choose(&wanted(&restore.spec.from).unwrap(), &list, "c").map(ResourceExt::name_any)
    };
    assert_eq!(chosen("{latestOf: {}}").unwrap(), "wednesday");
    assert_eq!(chosen("{pointInTime: {time: '2026-11-25T00:00:00Z'}}").unwrap(), "wednesday");
    assert_eq!(chosen("{repository: {storageRef: {name: s}}}").unwrap(), "wednesday");
    assert_eq!(chosen("{repository: {storageRef: {name: s}, snapshotId: '99887766'}}").unwrap(), "friday");
}

#[test]
fn an_id_that_contradicts_the_claim_or_the_time_beside_it_is_not_found() {
    let list = [snapshot("friday", "2026-11-20T02:00:00Z", "main", true, BOTH)];
    let chosen = |more: &str| {
        let restore =
            restore(&format!("{{repository: {{storageRef: {{name: s}}, snapshotId: ffeeddcc02{more}}}}}"));
        choose(&wanted(&restore.spec.from).unwrap(), &list, "c").map(ResourceExt::name_any)
    };
    for fits in ["", ", claim: logs", ", time: '2026-11-20T02:00:00Z'"] {
        assert_eq!(chosen(fits).unwrap(), "friday", "{fits}");
    }
    for contradicts in [", claim: data", ", time: '2026-11-20T01:00:00Z'"] {
        assert_eq!(chosen(contradicts).unwrap_err().reason, Reason::SnapshotNotFound, "{contradicts}");
    }
}

#[test]
fn a_repository_of_a_dry_run_goes_when_nobody_else_uses_it() {
    let made = |dry_run: bool| {
        let mut restore = restore("{repository: {storageRef: {name: s}}}");
        restore.spec.dry_run = dry_run;
        let password = PasswordSecretRef { name: "p".into(), key: "password".into() };
        let mut made = repository(
            &restore,
            &StorageRef { name: "s".into(), namespace: None },
            "c/shop/x".into(),
            password,
        );
        made.metadata.name = Some("x".into());
        made
    };
    let spare = made(true);
    assert!(is_spare(&spare, &[], &[]));
    assert!(!is_spare(&made(false), &[], &[]), "it was made for good");
    let other = |dry_run: bool, status: &str, from: &str| -> Restore {
        serde_saphyr::from_str(&format!(
            "{{metadata: {{name: o, namespace: shop}}, spec: {{dryRun: {dry_run}, from: {from}}}, status: {status}}}"
        ))
        .unwrap()
    };
    let (named, searching) = ("{snapshotRef: {name: s}}", "{repository: {storageRef: {name: s}}}");
    for (dry_run, status, from, expected) in [
        (true, "{phase: Planned, repositoryRef: {name: x}}", searching, true),
        (true, "{phase: Planning, repositoryRef: {name: x}}", searching, false),
        (true, "{phase: Pending}", searching, false),
        (false, "{phase: Succeeded, repositoryRef: {name: x}}", searching, false),
        (false, "{phase: Succeeded, repositoryRef: {name: y}}", searching, true),
        (false, "{phase: Running, repositoryRef: {name: x}}", named, false),
        (false, "{phase: Pending}", named, true),
    ] {
        assert_eq!(
            is_spare(&spare, &[other(dry_run, status, from)], &[]),
            expected,
            "{dry_run} {status} {from}"
        );
    }
    let backup: Backup =
        serde_saphyr::from_str("{metadata: {name: b}, spec: {repositoryRef: {name: x}}}").unwrap();
    assert!(!is_spare(&spare, &[], &[backup]));
}

/// A Repository as a Restore makes it, with this status.
fn made_for(secret: &str, status: &str) -> Repository {
    let restore = restore("{repository: {storageRef: {name: offsite}}}");
    let place = StorageRef { name: "offsite".into(), namespace: Some("shop".into()) };
    let password = PasswordSecretRef { name: secret.into(), key: "password".into() };
    let mut made = repository(&restore, &place, "old/shop/main-bbbbb".into(), password);
    made.status = Some(serde_saphyr::from_str(status).unwrap());
    made
}

const NONE_THERE: &str = "{phase: Failed, conditions: [{type: Ready, status: 'False', reason: RepositoryMissing, message: it holds no repository, lastTransitionTime: '2026-11-20T02:00:00Z'}]}";

#[test]
fn a_directory_without_a_repository_ends_the_restore_at_once() {
    let found = storage("{directory: old/shop/main-aaaaa, namespace: shop}").status.unwrap().repositories;
    let refused = never_there(&made_for("recovery", NONE_THERE), &found).unwrap();
    assert_eq!(refused.reason, Reason::RepositoryNotFound);
    assert!(
        refused
            .message
            .contains("no repository in the directory old/shop/main-bbbbb (it holds no repository)")
            && refused.message.contains("it holds old/shop/main-aaaaa: name one of them"),
        "{}",
        refused.message
    );
    assert!(never_there(&made_for("recovery", NONE_THERE), &[]).is_some());
    // One that was there, one that somebody else made, and one that is not known yet: that may be put right.
    let gone = NONE_THERE.replacen('{', "{initialized: true, ", 1);
    assert_eq!(never_there(&made_for("recovery", &gone), &found), None);
    let mut theirs = made_for("recovery", NONE_THERE);
    theirs.metadata.name = Some("main".into());
    assert_eq!(never_there(&theirs, &found), None);
    assert_eq!(never_there(&made_for("recovery", "{phase: Initializing}"), &found), None);
}

#[test]
fn another_password_is_not_passed_over() {
    let secret = |name: &str| PasswordSecretRef { name: name.into(), key: "password".into() };
    let named = |name: &str| from(&format!(", passwordSecretRef: {{name: {name}}}"));
    let opened = made_for("first", "{phase: Ready, initialized: true}");
    let otherwise =
        |known: &Repository, name: &str| opens_otherwise(known, &named(name), Some(&secret(name)));
    assert_eq!(otherwise(&opened, "first"), None);
    let Some(Otherwise::Refused(refusal)) = otherwise(&opened, "second") else {
        panic!("it was not refused")
    };
    assert_eq!(refusal.reason, Reason::DirectoryInUse);
    assert!(
        refusal.message.contains("opens it with the key password of Secret first")
            && refusal.message.contains("without spec.from.repository.passwordSecretRef"),
        "{}",
        refusal.message
    );
    // Who names none takes what opens.
    assert_eq!(opens_otherwise(&opened, &from(""), Some(&secret("recovery"))), None);
    assert_eq!(opens_otherwise(&opened, &from(""), None), None);
    // One that does not open goes with the Restore that made it.
    let shut = made_for("first", "{phase: Failed}");
    let Some(Otherwise::NotYet(message)) = otherwise(&shut, "second") else { panic!("it does not wait") };
    assert!(message.contains("is tried when that Restore has ended"), "{message}");
    // Who names none may mean it, so it stays.
    let Some(Otherwise::NotYet(message)) = opens_otherwise(&shut, &from(""), Some(&secret("recovery")))
    else {
        panic!("it does not wait")
    };
    assert!(message.contains("is not tried while it is there; delete Repository"), "{message}");
}

#[test]
fn a_repository_that_was_never_opened_goes_with_the_last_restore_that_could_mean_it() {
    let other = |from: &str| restore(&format!("{{repository: {from}}}"));
    let shut = made_for("first", NONE_THERE);
    assert!(is_unopened(&shut) && is_spare(&shut, &[], &[]));
    assert!(!is_spare(&shut, &[other("{storageRef: {name: offsite}}")], &[]));
    let same =
        "{storageRef: {name: offsite}, directory: old/shop/main-bbbbb, passwordSecretRef: {name: first}}";
    assert!(!is_spare(&shut, &[other(same)], &[]));
    for another in [
        "{storageRef: {name: elsewhere}}",
        "{storageRef: {name: offsite}, directory: old/shop/other}",
        "{storageRef: {name: offsite}, passwordSecretRef: {name: second}}",
    ] {
        assert!(is_spare(&shut, &[other(another)], &[]), "{another}");
    }
    let opened = made_for("first", "{phase: Failed, initialized: true}");
    assert!(!is_unopened(&opened) && !is_spare(&opened, &[], &[]), "the way to its Snapshots stays");
    let mut theirs = shut;
    theirs.metadata.labels = None;
    assert!(!is_unopened(&theirs) && !is_spare(&theirs, &[], &[]));
}

#[test]
fn a_repository_says_why_it_may_hold_something_newer() {
    let of = |conditions: &str| {
        let repository: Repository = serde_saphyr::from_str(&format!(
            "{{metadata: {{name: main}}, spec: {{storageRef: {{name: s}}}}, status: {{conditions: [{conditions}]}}}}"
        ))
        .unwrap();
        newer_ones(&repository)
    };
    let condition = |kind: &str, status: &str| {
        format!(
            "{{type: {kind}, status: '{status}', reason: R, message: 2 of them, lastTransitionTime: 2026-11-20T02:00:00Z}}"
        )
    };
    assert_eq!(of(""), Vec::<String>::new());
    assert_eq!(of(&condition("SnapshotsSynced", "True")), Vec::<String>::new());
    let unlisted = of(&condition("SnapshotsSynced", "False"));
    assert!(unlisted.len() == 1 && unlisted[0].contains("without a Snapshot"), "{unlisted:?}");
    let both =
        of(&format!("{}, {}", condition("SnapshotsDamaged", "True"), condition("SnapshotsSynced", "False")));
    assert!(
        both.len() == 2 && both[0].contains("cannot be read") && both[0].contains("2 of them"),
        "{both:?}"
    );
}
