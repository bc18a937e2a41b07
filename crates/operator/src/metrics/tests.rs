use std::time::Duration;

use holdfast_api::wish::ClaimWish;

use super::claims::Claim;
use super::defaults::Defaults;
use super::*;

pub(super) fn yaml<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_saphyr::from_str(text).unwrap()
}

#[expect(clippy::unnecessary_wraps, reason = "as the objects hold them")]
pub(super) fn all<T: serde::de::DeserializeOwned>(texts: &[&str]) -> Option<Vec<Arc<T>>> {
    Some(texts.iter().map(|text| Arc::new(yaml(text))).collect())
}

/// The objects as a scrape has them.
pub(super) fn scraped(objects: &Objects) -> String {
    #[derive(Debug)]
    struct Given(Vec<Family>);
    impl Collector for Given {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
            self.0.iter().try_for_each(|family| family.encode(&mut encoder).map(drop))
        }
    }
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Given(objects::families(objects, "prod"))));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry).unwrap();
    text
}

#[track_caller]
fn has(text: &str, line: &str) {
    assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
}

pub(super) fn storage(status: &str) -> String {
    format!(
        "
metadata: {{name: offsite, namespace: backup}}
spec: {{backend: {{s3: {{bucket: b, endpoint: 'https://s3.example', credentialsSecretRef: {{name: keys}}}}}}}}
status: {status}"
    )
}

#[test]
fn a_storage_is_up_down_or_not_yet_known() {
    let of = |status: &str| scraped(&Objects { storages: all(&[&storage(status)]), ..Objects::default() });
    let labels = r#"namespace="backup",storage="offsite""#;
    let up = of(
        "{phase: Ready, lastValidationTime: '2026-11-20T02:00:00Z', repositoryCount: 7, conditions: [\
         {type: Ready, status: 'True', reason: R, message: '', lastTransitionTime: '2026-11-20T02:00:00Z'},\
         {type: NoRecoveryPassword, status: 'True', reason: R, message: '', lastTransitionTime: '2026-11-20T02:00:00Z'}]}",
    );
    has(&up, &format!("holdfast_storage_ready{{{labels}}} 1.0"));
    has(&up, &format!("holdfast_storage_repositories{{{labels}}} 7.0"));
    has(&up, &format!("holdfast_storage_last_validation_timestamp_seconds{{{labels}}} 1795140000.0"));
    has(&up, &format!(r#"holdfast_storage_condition{{{labels},condition="NoRecoveryPassword"}} 1.0"#));
    has(&of("{phase: Unavailable}"), &format!("holdfast_storage_ready{{{labels}}} 0.0"));
    assert!(!of("{phase: Pending}").contains("storage_ready"), "what was not tried is not down");
}

pub(super) const REPOSITORY: &str = "
metadata: {name: main, namespace: shop}
spec: {storageRef: {name: offsite}}
status: {phase: Ready, lastSuccessfulBackup: '2026-11-20T02:00:00Z'}";

pub(super) fn snapshot(cluster: &str, time: &str, complete: bool) -> String {
    format!(
        "
metadata: {{name: s, namespace: shop}}
spec: {{repositoryRef: {{name: main}}, time: '{time}', backup: {{name: b, uid: u}}, cluster: {cluster}, namespace: shop}}
status: {{complete: {complete}, totalSize: 42, components: [{{name: volume/data, snapshotId: abc, source: {{claim: data}}}}]}}"
    )
}

#[test]
fn the_last_success_is_what_the_repository_tells_whatever_objects_there_are() {
    let of = |repository: &str, snapshots: &[&str]| {
        scraped(&Objects {
            repositories: all(&[repository]),
            snapshots: all(snapshots),
            ..Objects::default()
        })
    };
    let line = r#"holdfast_backup_last_success_timestamp_seconds{namespace="shop",repository="main"}"#;
    has(&of(REPOSITORY, &[]), &format!("{line} 1795140000.0"));
    let newer = snapshot("prod", "2026-11-20T03:00:00Z", true);
    let gaps = snapshot("prod", "2026-11-20T04:00:00Z", false);
    let text = of(REPOSITORY, &[&newer, &gaps]);
    has(&text, &format!("{line} 1795140000.0"));
    let labels = r#"namespace="shop",repository="main""#;
    has(&text, &format!(r#"holdfast_snapshots{{{labels},complete="true"}} 1.0"#));
    has(&text, &format!(r#"holdfast_snapshots{{{labels},complete="false"}} 1.0"#));
    has(&text, &format!("holdfast_snapshot_newest_size_bytes{{{labels}}} 42.0"));
    let lost = REPOSITORY.replace(", lastSuccessfulBackup: '2026-11-20T02:00:00Z'", "");
    assert_ne!(lost, REPOSITORY);
    let text = of(&lost, &[]);
    assert!(!text.contains("last_success_timestamp_seconds{"), "{text}");
    has(&text, &format!("holdfast_repository_ready{{{labels}}} 1.0"));
}

#[test]
fn claims_in_no_recovery_point_of_this_cluster_are_unprotected() {
    let of = |cluster: &str, created: &str| {
        let snapshot = snapshot(cluster, "2026-11-20T03:00:00Z", true);
        let claim = |name: &str, wish| {
            let created = Some(created.parse().unwrap());
            Claim { namespace: "shop".into(), name: name.into(), created, wish }
        };
        scraped(&Objects {
            snapshots: all(&[&snapshot]),
            claims: Some(vec![
                claim("data", ClaimWish::Unsaid),
                claim("new", ClaimWish::Unsaid),
                claim("scratch", ClaimWish::Never("k")),
            ]),
            ..Objects::default()
        })
    };
    let before = "2026-11-20T02:00:00Z";
    let here = of("prod", before);
    for state in ["protected", "unprotected", "excluded"] {
        has(&here, &format!(r#"holdfast_claims{{namespace="shop",state="{state}"}} 1.0"#));
    }
    let none = r#"holdfast_claims{namespace="shop",state="unprotected"} 2.0"#;
    has(&of("other", before), none);
    // Restored or made anew since: what was saved is of an earlier volume of that name.
    has(&of("prod", "2026-11-20T04:00:00Z"), none);
}

#[test]
fn a_claim_that_did_not_opt_in_is_left_out_by_wish_unless_a_backup_was_to_save_it() {
    let claim = |name: &str, wish| Claim { namespace: "shop".into(), name: name.into(), created: None, wish };
    let claims = vec![
        claim("silent", ClaimWish::Unsaid),
        claim("in", ClaimWish::Always),
        claim("slip", ClaimWish::Slip),
        claim("failed", ClaimWish::Unsaid),
        claim("away", ClaimWish::Unsaid),
    ];
    let backup = "
metadata: {name: b, namespace: shop}
spec: {volumes: {claims: [failed, away]}}
status:
  phase: Failed
  components: [{name: volume/failed, phase: Failed, source: {claim: failed}}]
  coverage: {skipped: [{claim: away, reason: NodeNotReady}, {claim: silent, reason: NotSelected}]}";
    let of = |operator, namespaces: Option<&[(&str, ClaimsDefault)]>| {
        let namespaces = namespaces.map(|all| all.iter().map(|(n, d)| ((*n).to_owned(), *d)).collect());
        let text = scraped(&Objects {
            snapshots: Some(Vec::new()),
            backups: all(&[backup]),
            claims: Some(claims.clone()),
            defaults: Defaults { operator, namespaces },
            ..Objects::default()
        });
        let count = |state: &str| {
            let row = format!(r#"holdfast_claims{{namespace="shop",state="{state}"}} "#);
            text.lines().find_map(|line| line.strip_prefix(&row)).unwrap().to_owned()
        };
        (count("unprotected"), count("excluded"))
    };
    let (one, four, five, none) = ("1.0".to_owned(), "4.0".to_owned(), "5.0".to_owned(), "0.0".to_owned());
    let left_out = (four, one);
    let wanted = (five, none);
    assert_eq!(of(ClaimsDefault::OptIn, Some(&[])), left_out);
    assert_eq!(of(ClaimsDefault::OptOut, Some(&[])), wanted);
    assert_eq!(of(ClaimsDefault::OptOut, Some(&[("shop", ClaimsDefault::OptIn)])), left_out);
    assert_eq!(of(ClaimsDefault::OptIn, Some(&[("shop", ClaimsDefault::OptOut)])), wanted);
    assert_eq!(of(ClaimsDefault::OptIn, None), wanted, "what namespaces say is not known yet");
}

#[test]
fn a_claim_is_not_protected_by_a_recovery_point_that_lacks_files_of_it() {
    let of = |complete: &str, unreadable: &str, older: Option<&str>| {
        let newest = snapshot("prod", "2026-11-20T03:00:00Z", true)
            .replace("complete: true", complete)
            .replace("snapshotId: abc", &format!("snapshotId: abc{unreadable}"));
        let created = Some("2026-11-20T01:00:00Z".parse().unwrap());
        let claim = Claim { namespace: "shop".into(), name: "data".into(), created, wish: ClaimWish::Unsaid };
        let older = older.map(|time| snapshot("prod", time, true));
        let snapshots: Vec<&str> = older.iter().map(String::as_str).chain([newest.as_str()]).collect();
        scraped(&Objects { snapshots: all(&snapshots), claims: Some(vec![claim]), ..Objects::default() })
    };
    let state = |state: &str| format!(r#"holdfast_claims{{namespace="shop",state="{state}"}} 1.0"#);
    let gaps = of("complete: false, missing: 0", ", unreadable: 3", None);
    has(&gaps, &state("incomplete"));
    has(&gaps, r#"holdfast_claims{namespace="shop",state="protected"} 0.0"#);
    has(
        &of("complete: false, missing: 0", ", unreadable: 3", Some("2026-11-20T02:00:00Z")),
        &state("protected"),
    );
    has(
        &of("complete: false, missing: 0", ", unreadable: 3", Some("2026-11-20T00:00:00Z")),
        &state("incomplete"),
    );
    // The gaps are another claim's, or do not matter to whoever made it.
    has(&of("complete: false, missing: 1", ", unreadable: 0", None), &state("protected"));
    has(&of("complete: true", ", unreadable: 3", None), &state("protected"));
    // What was mirrored before gaps were known is judged anew by the next listing.
    has(&of("complete: false", "", None), &state("incomplete"));
}

#[test]
fn a_claim_is_not_protected_by_what_cannot_be_read_or_holds_nothing_any_more() {
    let claim = Claim {
        namespace: "shop".into(),
        name: "data".into(),
        created: Some("2026-11-20T01:00:00Z".parse().unwrap()),
        wish: ClaimWish::Unsaid,
    };
    let with = |time: &str, more: &str, complete: bool| {
        let made = snapshot("prod", time, complete);
        assert!(made.contains("snapshotId: abc"), "{made}");
        made.replace("snapshotId: abc", &format!("snapshotId: abc, {more}"))
    };
    let of = |snapshots: &[&str]| {
        let claims = Some(vec![claim.clone()]);
        scraped(&Objects { snapshots: all(snapshots), claims, ..Objects::default() })
    };
    let state = |state: &str| format!(r#"holdfast_claims{{namespace="shop",state="{state}"}} 1.0"#);
    let older = with("2026-11-20T02:00:00Z", "files: 7", true);
    let damaged = with("2026-11-20T03:00:00Z", "files: 7, damaged: true", false);
    has(&of(&[&damaged]), &state("unprotected"));
    has(&of(&[&older, &damaged]), &state("protected"));
    let empty = with("2026-11-20T03:00:00Z", "files: 0", true);
    has(&of(&[&older, &empty]), &state("emptied"));
    has(&of(&[&empty]), &state("protected"));
    has(&of(&[&older, &empty, &with("2026-11-20T04:00:00Z", "files: 1", true)]), &state("protected"));
}

#[test]
fn the_claim_that_was_saved_the_longest_ago_is_told_however_young_the_backups_of_others_are() {
    let claim = |name: &str, wish| Claim { namespace: "shop".into(), name: name.into(), created: None, wish };
    let saved = |claim: &str, time: &str, more: &str| {
        let made = snapshot("prod", time, !more.contains("unreadable"));
        assert!(made.contains("volume/data") && made.contains("claim: data"), "{made}");
        made.replace("volume/data", &format!("volume/{claim}"))
            .replace("claim: data", &format!("claim: {claim}"))
            .replace("snapshotId: abc", &format!("snapshotId: abc, {more}"))
    };
    let oldest = |db: ClaimWish, snapshots: &[&str]| {
        let unsaid = ClaimWish::Unsaid;
        let claims = vec![claim("db", db), claim("files", unsaid), claim("new", unsaid)];
        let objects = Objects { snapshots: all(snapshots), claims: Some(claims), ..Objects::default() };
        let text = scraped(&objects);
        let row = r#"holdfast_claims_oldest_backup_timestamp_seconds{namespace="shop"} "#;
        text.lines().find_map(|line| line.strip_prefix(row)).map(str::to_owned)
    };
    let unsaid = ClaimWish::Unsaid;
    let last_year = saved("db", "2025-11-20T02:00:00Z", "files: 7");
    let last_night = saved("files", "2026-11-20T02:00:00Z", "files: 7");
    let (old, young) = (Some("1763604000.0".to_owned()), Some("1795140000.0".to_owned()));
    assert_eq!(oldest(unsaid, &[&last_year, &last_night]), old);
    assert_eq!(oldest(unsaid, &[&last_night]), young, "what is in no backup has an alert of its own");
    // Every night since with files that could not be read.
    let gaps = saved("db", "2026-11-20T03:00:00Z", "files: 6, unreadable: 1");
    assert_eq!(oldest(unsaid, &[&last_year, &last_night, &gaps]), old);
    let whole = saved("db", "2026-11-20T03:00:00Z", "files: 7");
    assert_eq!(oldest(unsaid, &[&last_year, &last_night, &whole]), young);
    let emptied = saved("db", "2025-11-20T02:00:00Z", "files: 0");
    let before = saved("db", "2025-11-19T02:00:00Z", "files: 7");
    assert_eq!(oldest(unsaid, &[&before, &emptied, &last_night]), old);
    // Somebody does not want it saved any more.
    let never = ClaimWish::Never("k");
    assert_eq!(oldest(never, &[&last_year, &last_night]), young);
    assert_eq!(oldest(never, &[&last_year]), None);
}

#[test]
fn a_repository_with_damaged_snapshots_is_told() {
    let of = |conditions: &str| {
        let repository = REPOSITORY.replace("status: {", &format!("status: {{conditions: [{conditions}], "));
        scraped(&Objects { repositories: all(&[&repository]), ..Objects::default() })
    };
    let labels = r#"namespace="shop",repository="main",condition="SnapshotsDamaged""#;
    has(&of(""), &format!("holdfast_repository_condition{{{labels}}} 0.0"));
    let hurt = "{type: SnapshotsDamaged, status: 'True', reason: R, message: '', lastTransitionTime: '2026-11-20T02:00:00Z'}";
    has(&of(hurt), &format!("holdfast_repository_condition{{{labels}}} 1.0"));
}

#[test]
fn what_a_restore_saved_before_it_overwrote_it_is_neither_a_recovery_point_nor_protection() {
    let older = snapshot("prod", "2026-11-20T03:00:00Z", true);
    let safety = snapshot("prod", "2026-11-20T05:00:00Z", true)
        .replace("namespace: shop}\nstatus", "namespace: shop, undoOf: back}\nstatus")
        .replace("totalSize: 42", "totalSize: 99");
    assert!(safety.contains("undoOf") && safety.contains("99"), "{safety}");
    let of = |created: &str, snapshots: &[&str]| {
        let created = Some(created.parse().unwrap());
        let claim = Claim { namespace: "shop".into(), name: "data".into(), created, wish: ClaimWish::Unsaid };
        scraped(&Objects { snapshots: all(snapshots), claims: Some(vec![claim]), ..Objects::default() })
    };
    let labels = r#"namespace="shop",repository="main""#;
    let text = of("2026-11-20T02:00:00Z", &[&older, &safety]);
    has(&text, &format!(r#"holdfast_snapshots{{{labels},complete="true"}} 1.0"#));
    has(&text, &format!("holdfast_snapshot_newest_size_bytes{{{labels}}} 42.0"));
    has(&text, r#"holdfast_claims{namespace="shop",state="protected"} 1.0"#);
    // The claim was made anew after the backup, and a Restore saved it since.
    let text = of("2026-11-20T04:00:00Z", &[&older, &safety]);
    has(&text, r#"holdfast_claims{namespace="shop",state="unprotected"} 1.0"#);
    let text = of("2026-11-20T02:00:00Z", &[&safety]);
    assert!(!text.contains("holdfast_snapshots{"), "{text}");
    has(&text, r#"holdfast_claims{namespace="shop",state="unprotected"} 1.0"#);
}

#[test]
fn what_was_not_listed_yet_is_not_spoken_of() {
    let claims = Some(vec![Claim {
        namespace: "shop".into(),
        name: "data".into(),
        created: None,
        wish: ClaimWish::Unsaid,
    }]);
    assert_eq!(scraped(&Objects { claims, ..Objects::default() }), "");
}

pub(super) fn backup(repository: &str, ended: &str, phase: &str) -> String {
    format!(
        "
metadata: {{name: b, namespace: shop, uid: u, creationTimestamp: '2026-11-20T02:00:00Z'}}
spec: {{}}
status: {{phase: {phase}, {repository} completionTime: '{ended}', components: [
  {{name: volume/a, bytesProcessed: 100, bytesAdded: 10}}, {{name: volume/b, bytesProcessed: 5, bytesAdded: 1}}]}}"
    )
}

#[test]
fn the_last_outcome_is_of_the_run_that_ended_last() {
    let main = "repositoryRef: {name: main},";
    let good = backup(main, "2026-11-20T02:10:00Z", "Succeeded");
    let bad = backup(main, "2026-11-20T03:10:00Z", "Failed");
    let lost = backup("", "2026-11-20T02:00:00Z", "Failed");
    let works = backup(main, "2026-11-20T04:10:00Z", "Running");
    let text = scraped(&Objects {
        backups: all(&[&bad, &good, &lost, &works]),
        restores: Some(Vec::new()),
        ..Objects::default()
    });
    let labels = r#"namespace="shop",repository="main""#;
    has(&text, &format!(r#"holdfast_backup_last_outcome{{{labels},outcome="Failed"}} 1.0"#));
    has(&text, &format!(r#"holdfast_backup_last_outcome{{{labels},outcome="Succeeded"}} 0.0"#));
    has(&text, &format!("holdfast_backup_last_end_timestamp_seconds{{{labels}}} 1795144200.0"));
    assert!(!text.contains(r#"repository="""#), "a later run got further");
    has(&text, r#"holdfast_runs{namespace="shop",kind="Backup",phase="Failed"} 2.0"#);
    has(&text, r#"holdfast_runs{namespace="shop",kind="Backup",phase="Running"} 1.0"#);

    let text = scraped(&Objects { backups: all(&[&lost]), ..Objects::default() });
    has(&text, r#"holdfast_backup_last_outcome{namespace="shop",repository="",outcome="Failed"} 1.0"#);
}

#[test]
fn a_run_is_counted_once_and_only_when_its_end_was_seen() {
    let metrics = Metrics::new("prod", ClaimsDefault::OptOut);
    metrics.leads(true);
    let end: Backup = yaml(&backup("", "2026-11-20T02:10:00Z", "Succeeded"));
    metrics.seen(&end);
    assert!(
        !metrics.answer("/metrics").text.contains("runs_ended_total{"),
        "it ended before this operator began"
    );
    metrics.seen(&yaml::<Backup>(&backup("", "2026-11-20T02:10:00Z", "Running")));
    metrics.seen(&end);
    metrics.seen(&end);
    let text = metrics.answer("/metrics").text;
    has(&text, r#"holdfast_runs_ended_total{kind="Backup",namespace="shop",outcome="Succeeded"} 1"#);
    has(&text, r#"holdfast_run_duration_seconds_sum{kind="Backup",outcome="Succeeded"} 600.0"#);
    has(&text, r#"holdfast_run_duration_seconds_bucket{kind="Backup",outcome="Succeeded",le="900"} 1"#);
    has(&text, r#"holdfast_backup_read_bytes_total{namespace="shop"} 105"#);
    has(&text, r#"holdfast_backup_added_bytes_total{namespace="shop"} 11"#);
}

#[test]
fn a_replica_that_stands_by_says_only_that_it_does() {
    let metrics = Metrics::new("prod", ClaimsDefault::OptOut);
    metrics.look::<Backup>().ended_well();
    let text = metrics.answer("/metrics").text;
    has(&text, "holdfast_leader 0.0");
    assert!(!text.contains("holdfast_reconciles"), "{text}");
    assert!(text.contains("process_resident_memory_bytes "));
    metrics.leads(true);
    let text = metrics.answer("/metrics").text;
    has(&text, "holdfast_leader 1.0");
    has(&text, r#"holdfast_reconciles_total{kind="Backup",result="ok"} 1"#);
    drop(metrics.look::<Backup>());
    has(&metrics.answer("/metrics").text, r#"holdfast_reconciles_total{kind="Backup",result="error"} 1"#);
    has(&metrics.answer("/metrics").text, r#"holdfast_reconciles_under_way{kind="Backup"} 0"#);
    metrics.leads(false);
    assert!(!metrics.answer("/metrics").text.contains("holdfast_reconciles"));
    assert_eq!(metrics.answer("/").status, StatusCode::NOT_FOUND);
}

#[test]
fn namespaces_without_end_share_one_row() {
    let counted = Counted::new();
    let ended = |uid: &str, namespace: &str| {
        counted.seen("Backup", namespace, uid, &RunState::Live);
        let end = EndedRun { outcome: "Failed", took: Some(Duration::from_secs(1)), bytes: None };
        counted.seen("Backup", namespace, uid, &RunState::Ended(end));
    };
    for number in 0..2_010 {
        ended(&number.to_string(), &format!("ns-{number}"));
    }
    let mut registry = Registry::with_prefix(PREFIX);
    counted.register(&mut registry);
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry).unwrap();
    has(&text, r#"holdfast_runs_ended_total{kind="Backup",namespace="_other",outcome="Failed"} 10"#);
}

#[test]
fn rows_over_the_limit_are_left_out_and_counted() {
    let storages: Vec<Arc<BackupStorage>> = (0..family::MAX_ROWS + 3)
        .map(|number| {
            let mut storage: BackupStorage = yaml(&storage("{phase: Ready}"));
            storage.metadata.name = Some(format!("s{number}"));
            Arc::new(storage)
        })
        .collect();
    let text = scraped(&Objects { storages: Some(storages), ..Objects::default() });
    assert_eq!(
        text.lines().filter(|line| line.starts_with("holdfast_storage_ready{")).count(),
        family::MAX_ROWS
    );
}
