use std::time::Duration;

use holdfast_api::Backup;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde::de::DeserializeOwned;

use super::*;
use crate::cluster::status::Facts;
use crate::cluster::status::defaults::Defaults;
use crate::cluster::status::report::report;

fn now() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().unwrap()
}

fn objects<T: DeserializeOwned>(kind: &str, bodies: &[&str]) -> Vec<T> {
    let version = if kind == "PersistentVolumeClaim" { "v1" } else { "holdfast.dev/v1alpha1" };
    bodies
        .iter()
        .map(|body| serde_saphyr::from_str(&format!("apiVersion: {version}\nkind: {kind}\n{body}")).unwrap())
        .collect()
}

fn facts() -> Facts {
    let claim = |name: &str, more: &str| {
        format!("metadata: {{name: {name}, namespace: shop{more}}}\nstatus: {{phase: Bound}}")
    };
    let claims = [
        claim("data", ""),
        claim("logs", ""),
        claim("mail", ""),
        claim("raw", ""),
        claim("scratch", ", annotations: {k8up.io/backup: 'False'}"),
        "metadata: {name: wait, namespace: shop}\nstatus: {phase: Pending}".to_owned(),
        claim("going", ", deletionTimestamp: 2026-11-20T11:00:00Z"),
    ];
    let claims: Vec<&str> = claims.iter().map(String::as_str).collect();
    Facts {
        storages: objects("BackupStorage", &["
metadata: {name: offsite, namespace: sys}
spec: {default: true, backend: {s3: {bucket: b-b, endpoint: 'https://s3', credentialsSecretRef: {name: s}}}}
status: {phase: Unavailable, repositoryCount: 1, conditions: [
  {type: Ready, status: 'False', reason: BucketNotFound, message: make it, lastTransitionTime: 2026-11-20T11:00:00Z},
  {type: NoRecoveryPassword, status: 'True', reason: NotConfigured, message: m, lastTransitionTime: 2026-11-20T11:00:00Z}]}"]),
        repositories: objects("Repository", &["
metadata: {name: offsite-b325, namespace: shop}
spec: {storageRef: {name: offsite, namespace: sys}}
status: {phase: Ready, snapshotCount: 2, lastSuccessfulBackup: 2026-11-20T02:00:00Z}"]),
        backups: objects("Backup", &[
            "
metadata: {name: good, namespace: shop, uid: u-good}
spec: {}
status: {phase: PartiallyFailed, startTime: 2026-11-20T02:00:00Z, completionTime: 2026-11-20T02:01:00Z, message: 2 of 3.,
  components: [{name: volume/data, phase: Succeeded}, {name: volume/mail, phase: PartiallyFailed, reason: UnreadableFiles, message: 3 files}],
  coverage: {protected: 2, skipped: [{claim: raw, reason: BlockVolume, message: a block device}]}}",
            "
metadata: {name: now, namespace: shop, uid: u-now}
spec: {}
status: {phase: Running, startTime: 2026-11-20T11:59:00Z, components: [{name: volume/data, phase: Running, progress: {bytesDone: 512, bytesTotal: 1024, percent: 50}}]}",
            "
metadata: {name: old-failure, namespace: shop, uid: u-f}
spec: {}
status: {phase: Failed, startTime: 2026-11-10T02:00:00Z, completionTime: 2026-11-10T02:01:00Z, message: it was away}",
            "
metadata: {name: mended, namespace: shop, uid: u-m}
spec: {}
status: {phase: Succeeded, startTime: 2026-11-11T02:00:00Z, completionTime: 2026-11-11T02:01:00Z}",
        ]),
        restores: Vec::new(),
        snapshots: objects("Snapshot", &[
            "
metadata: {name: good-1, namespace: shop}
spec: {repositoryRef: {name: offsite-b325}, time: 2026-11-20T02:00:00Z, backup: {name: good, uid: u-good}, cluster: c, namespace: shop}
status: {complete: true, components: [{name: volume/data, snapshotId: a}, {name: volume/mail, snapshotId: b}]}",
            // What a Restore saved before it overwrote it, and what is mirrored from another namespace.
            "
metadata: {name: safety, namespace: shop}
spec: {repositoryRef: {name: offsite-b325}, time: 2026-11-20T11:30:00Z, backup: {name: r, uid: u-r}, cluster: c, namespace: shop, undoOf: r}
status: {complete: true, components: [{name: volume/raw, snapshotId: a}, {name: volume/logs, snapshotId: b}]}",
            "
metadata: {name: theirs, namespace: shop}
spec: {repositoryRef: {name: mirrored}, time: 2026-11-20T11:31:00Z, backup: {name: b, uid: u-b}, cluster: c, namespace: prod}
status: {complete: true, components: [{name: volume/raw, snapshotId: a}, {name: volume/logs, snapshotId: b}]}",
            "
metadata: {name: older-1, namespace: shop}
spec: {repositoryRef: {name: offsite-b325}, time: 2026-11-18T02:00:00Z, backup: {name: older, uid: u-gone}, cluster: c, namespace: shop}
status: {complete: true, components: [{name: volume/data, snapshotId: a}, {name: volume/logs, snapshotId: b}]}",
        ]),
        claims: objects("PersistentVolumeClaim", &claims),
        defaults: Defaults::default(),
        cluster_name: None,
    }
}

#[test]
fn the_page_says_what_is_protected_and_what_is_not_and_why() {
    let report = report(&facts(), Some(Duration::from_hours(26)), now());
    assert!(!report.is_protected());
    assert_eq!(
        page(&report, false, now()),
        "1 of 4 claims protected, 1 NOT protected, 1 with files missing, 1 too old, 1 left out by wish, 1 without data yet

Storages
  NAMESPACE  NAME     PHASE        DEFAULT  REPOSITORIES  REMARKS
  sys        offsite  Unavailable  yes      1             BucketNotFound: make it, NoRecoveryPassword

Repositories
  NAME          PHASE  STORAGE      SNAPSHOTS  LAST COMPLETE  WHY
  offsite-b325  Ready  sys/offsite  2          10h ago

Claims
  CLAIM    STATE          LAST BACKUP  SNAPSHOT  WHY
  data     Protected      10h ago      good-1
  logs     ! TooOld       2d10h ago    older-1   no good backup since
  mail     ! Incomplete   10h ago      good-1    UnreadableFiles: 3 files
  raw      ! Unprotected  -            -         BlockVolume: a block device
  scratch  Excluded       -            -         an annotation of the claim says so
  wait     NoDataYet      -            -         no volume is bound to it yet

Runs at work, and failures
  RUN          PHASE            SINCE    WHAT
  backup/now   Running          60s ago  volume/data 50 %  512 B of 1.0 KiB
  backup/good  PartiallyFailed  9h ago   2 of 3.
"
    );
}

#[test]
fn what_was_saved_before_the_claim_was_made_is_of_another_volume() {
    for (made, state, why) in [
        ("2026-11-20T01:59:00Z", "Protected", None),
        ("2026-11-20T02:01:00Z", "Unprotected", Some("no backup since this claim was made")),
    ] {
        let mut facts = facts();
        facts.claims.retain(|claim| claim.name_any() == "data");
        for claim in &mut facts.claims {
            claim.metadata.creation_timestamp = Some(Time(made.parse().unwrap()));
        }
        let report = report(&facts, None, now());
        let [found] = &report.claims[..] else { panic!("{report:?}") };
        assert_eq!((found.protection.as_str(), found.why.as_deref()), (state, why));
    }
}

#[test]
fn a_claim_that_did_not_opt_in_is_left_out_and_what_is_not_known_is_said() {
    let backup = |reason: &str| {
        format!(
            "
metadata: {{name: b, namespace: shop, uid: u-b}}
spec: {{}}
status: {{phase: Skipped, startTime: 2026-11-20T02:00:00Z, coverage: {{skipped: [{{claim: data, reason: {reason}, message: m}}]}}}}"
        )
    };
    let found = |default: Option<&str>, annotations: &str, skipped: Option<&str>| {
        let claim = format!(
            "metadata: {{name: data, namespace: shop, annotations: {annotations}}}\nstatus: {{phase: Bound}}"
        );
        let operator = default.map(|default| {
            serde_saphyr::from_str(&format!(
                "{{spec: {{selector: {{}}, template: {{spec: {{containers: [{{name: o, args: [--claims-default={default}]}}]}}}}}}}}"
            ))
            .unwrap()
        });
        let backups: Vec<String> = skipped.map(backup).into_iter().collect();
        let facts = Facts {
            claims: objects("PersistentVolumeClaim", &[&claim]),
            backups: objects("Backup", &backups.iter().map(String::as_str).collect::<Vec<_>>()),
            defaults: Defaults::new(operator.as_slice().into(), Some(&[])),
            ..Facts::default()
        };
        let claim = report(&facts, None, now()).claims.remove(0);
        (claim.protection.as_str(), claim.why.unwrap())
    };
    let (state, why) = found(Some("OptIn"), "{}", None);
    assert!(state == "Excluded" && why.contains("OptIn"), "{why}");
    assert_eq!(found(Some("OptOut"), "{}", None), ("Unprotected", "no backup holds it".to_owned()));
    assert_eq!(
        found(Some("OptIn"), "{holdfast.dev/backup: 'yes'}", None).0,
        "Unprotected",
        "a slip leaves nothing out"
    );
    // A Backup was to save it all the same.
    assert_eq!(found(Some("OptIn"), "{}", Some("NodeNotReady")).0, "Unprotected");
    // The operator cannot be looked at: its last word counts, and without one it is said what is taken for granted.
    assert_eq!(found(None, "{}", Some("NotOptedIn")), ("Excluded", "NotOptedIn: m".to_owned()));
    let (state, why) = found(None, "{}", None);
    assert!(state == "Unprotected" && why.contains("cannot be read"), "{why}");
    assert_eq!(
        found(Some("OptOut"), "{}", Some("NotOptedIn")).0,
        "Unprotected",
        "the default has changed since"
    );
}

/// What was saved of an earlier claim of its name is nothing of it, and it did not opt in.
#[test]
fn a_claim_that_was_made_anew_is_left_out_like_any_other() {
    let state = |annotations: &str| {
        let claim = format!(
            "metadata: {{name: data, namespace: shop, creationTimestamp: 2026-11-20T11:00:00Z, annotations: {annotations}}}"
        );
        let operator = serde_saphyr::from_str(
            "{spec: {selector: {}, template: {spec: {containers: [{name: o, args: [--claims-default=OptIn]}]}}}}",
        );
        let facts = Facts {
            claims: objects("PersistentVolumeClaim", &[&claim]),
            backups: Vec::new(),
            defaults: Defaults::new(Some(&[operator.unwrap()]), Some(&[])),
            ..facts()
        };
        report(&facts, None, now()).claims.remove(0).protection.as_str()
    };
    assert_eq!(state("{}"), "Excluded");
    assert_eq!(state("{holdfast.dev/backup: 'true'}"), "Unprotected");
}

#[test]
fn a_claim_whose_last_run_failed_is_not_well_however_young_its_backup_is() {
    let of = |spec: &str, later: &[(&str, &str)]| {
        let mut facts = facts();
        facts.claims.retain(|claim| claim.name_any() == "data");
        let bodies: Vec<String> = later
            .iter()
            .map(|(time, status)| {
                format!("metadata: {{name: later, namespace: shop}}\nspec: {spec}\nstatus: {{startTime: 2026-11-20T{time}:00Z, {status}}}")
            })
            .collect();
        facts
            .backups
            .extend(objects::<Backup>("Backup", &bodies.iter().map(String::as_str).collect::<Vec<_>>()));
        let report = report(&facts, None, now());
        let [claim] = &report.claims[..] else { panic!("{report:?}") };
        let care = claim.protection.needs_care();
        assert_eq!(report.is_protected(), !care);
        (claim.protection.as_str(), claim.why.clone().unwrap_or_default())
    };
    let failed = "phase: PartiallyFailed, components: [{name: volume/data, phase: Failed, reason: MountFailed, message: away}]";
    let well = "phase: Succeeded, components: [{name: volume/data, phase: Succeeded}]";
    let another = "phase: Failed, coverage: {skipped: [{claim: data, reason: NotSelected}]}";
    let away = "phase: Failed, message: the store is away";
    let skipped = "phase: PartiallyFailed, coverage: {skipped: [{claim: data, reason: NodeNotReady}]}";
    let left_out = "phase: Skipped, coverage: {skipped: [{claim: data, reason: NotOptedIn}]}";
    let because = ("LastRunFailed", "MountFailed: away".to_owned());
    assert_eq!(of("{}", &[("03:00", failed)]), because);
    assert_eq!(of("{}", &[("03:00", failed), ("04:00", another)]), because, "which says nothing about it");
    assert_eq!(of("{}", &[("03:00", failed), ("04:00", well)]).0, "Protected");
    assert_eq!(of("{}", &[("01:00", failed)]).0, "Protected", "it was saved since");
    assert_eq!(of("{}", &[("03:00", skipped)]).0, "LastRunFailed");
    assert_eq!(of("{}", &[("03:00", left_out)]).0, "Protected", "somebody wanted it so");
    // Ended before it came to its claims.
    let early = ("LastRunFailed", "Backup later failed: the store is away".to_owned());
    assert_eq!(of("{}", &[("03:00", away)]), early);
    assert_eq!(of("{volumes: {claims: [data]}}", &[("03:00", away)]), early);
    assert_eq!(of("{volumes: {selectors: [{}]}}", &[("03:00", away)]), early);
    assert_eq!(of("{volumes: {claims: [logs]}}", &[("03:00", away)]).0, "Protected");
}

/// It is in no list of claims, and what else the run was to save may be well.
#[test]
fn a_claim_that_a_backup_names_and_that_is_gone_needs_care() {
    let of = |later: Option<&str>| {
        let mut facts = facts();
        let run = |name: &str, time: &str, status: &str| {
            format!(
                "metadata: {{name: {name}, namespace: shop}}\nspec: {{volumes: {{claims: [data, lost]}}}}\nstatus: {{startTime: 2026-11-20T{time}:00Z, {status}}}"
            )
        };
        let skipped = "phase: PartiallyFailed, components: [{name: volume/data, phase: Succeeded}], coverage: {skipped: [{claim: lost, reason: ClaimNotFound}]}";
        let mut bodies = vec![run("nightly", "05:00", skipped)];
        bodies.extend(later.map(|status| run("again", "06:00", status)));
        facts
            .backups
            .extend(objects::<Backup>("Backup", &bodies.iter().map(String::as_str).collect::<Vec<_>>()));
        let report = report(&facts, None, now());
        let lost = report.claims.iter().find(|claim| claim.claim == "lost");
        lost.map(|claim| {
            (claim.protection.as_str(), claim.protection.needs_care(), claim.why.clone().unwrap())
        })
    };
    let why = "Backup nightly was to save it, and there is no such claim".to_owned();
    assert_eq!(of(None), Some(("NotThere", true, why)));
    assert_eq!(of(Some("phase: Succeeded")), None, "the last run of the same choice was content");
}

#[test]
fn a_claim_that_was_emptied_is_told_with_the_snapshot_that_has_files_of_it() {
    let files = |newest: u64, older: u64| {
        let mut facts = facts();
        facts.claims.retain(|claim| claim.name_any() == "data");
        for claim in &mut facts.claims {
            claim.metadata.creation_timestamp = Some(Time("2026-11-19T02:00:00Z".parse().unwrap()));
        }
        for (snapshot, files) in [(0, newest), (3, older)] {
            facts.snapshots[snapshot].status.as_mut().unwrap().components[0].files = Some(files);
        }
        let mut found = report(&facts, None, now()).claims.remove(0);
        assert_eq!((found.claim.as_str(), found.protection.as_str()), ("data", "Protected"));
        found.why.take()
    };
    let why = "it held no files when it was saved; Snapshot older-1 has 1,200 files of it";
    assert_eq!(files(0, 1200).as_deref(), Some(why));
    assert_eq!(files(0, 0), None, "it never held anything");
    assert_eq!(files(1, 1200), None);
}

#[test]
fn what_cannot_be_read_any_more_protects_nothing() {
    let of = |damaged: &[usize]| {
        let mut facts = facts();
        facts.claims.retain(|claim| claim.name_any() == "data");
        for claim in &mut facts.claims {
            claim.metadata.creation_timestamp = Some(Time("2026-11-01T02:00:00Z".parse().unwrap()));
        }
        for snapshot in damaged {
            facts.snapshots[*snapshot].status.as_mut().unwrap().components[0].damaged = true;
        }
        let found = report(&facts, None, now()).claims.remove(0);
        (found.protection.as_str(), found.snapshot, found.why)
    };
    let (protection, newest, _) = of(&[]);
    assert_eq!(protection, "Protected");
    let (_, snapshot, why) = of(&[0]);
    assert_eq!(snapshot.as_deref(), Some("older-1"));
    let why = why.unwrap();
    assert!(
        why.starts_with(&format!("its data in Snapshot {} cannot be read any more", newest.unwrap())),
        "{why}"
    );
    let (protection, _, why) = of(&[0, 3]);
    assert_eq!(protection, "Unprotected");
    assert!(why.unwrap().contains("cannot be read any more"));
}

/// A Repository of the test cluster leads to the production's data, to try restores.
#[test]
fn what_was_saved_in_another_cluster_protects_nothing_here() {
    let of = |own: Option<&str>, newer: &str, older: &str| {
        let mut facts = facts();
        facts.claims.retain(|claim| claim.name_any() == "data");
        facts.cluster_name = own.map(str::to_owned);
        for (snapshot, cluster) in [(0, newer), (3, older)] {
            facts.snapshots[snapshot].spec.cluster = cluster.to_owned();
        }
        let found = report(&facts, None, now()).claims.remove(0);
        (found.protection.as_str(), found.snapshot, found.why)
    };
    let (protection, snapshot, why) = of(Some("test"), "prod", "prod");
    assert_eq!((protection, snapshot), ("Unprotected", None));
    let why = why.unwrap();
    let because = "what Snapshot good-1 holds was saved in cluster prod, and protects nothing here";
    assert!(why.ends_with(because), "{why}");
    assert_eq!(of(Some("test"), "prod", "test"), ("Protected", Some("older-1".to_owned()), None));
    assert_eq!(of(Some("prod"), "prod", "test"), ("Protected", Some("good-1".to_owned()), None));
    // The operator cannot be looked at.
    let (protection, _, why) = of(None, "prod", "test");
    assert_eq!(protection, "Protected");
    let why = why.unwrap();
    assert!(why.starts_with("Snapshots of several clusters hold it (prod, test), "), "{why}");
    assert_eq!(of(None, "prod", "prod"), ("Protected", Some("good-1".to_owned()), None));
}

/// The object of the Backup was deleted, or never was in this cluster.
#[test]
fn what_a_snapshot_lacks_is_known_without_its_backup() {
    let mut facts = facts();
    facts.claims.retain(|claim| ["data", "mail"].contains(&claim.name_any().as_str()));
    facts.backups.clear();
    let status = facts.snapshots[0].status.as_mut().unwrap();
    (status.complete, status.missing) = (Some(false), Some(0));
    for (component, unreadable) in status.components.iter_mut().zip([0, 3]) {
        component.unreadable = Some(unreadable);
    }
    let found = report(&facts, None, now()).claims;
    let found: Vec<_> =
        found.iter().map(|c| (c.claim.as_str(), c.protection.as_str(), c.why.as_deref())).collect();
    let why = "UnreadableFiles: 3 of its files or directories could not be read when it was saved";
    assert_eq!(found, [("data", "Protected", None), ("mail", "Incomplete", Some(why))]);
}

#[test]
fn without_a_greatest_age_no_backup_is_too_old() {
    let report = report(&facts(), None, now());
    let logs = report.claims.iter().find(|c| c.claim == "logs").unwrap();
    assert_eq!(logs.protection.as_str(), "Protected");
}

#[test]
fn an_empty_namespace_is_not_called_protected() {
    let report = report(&Facts::default(), None, now());
    assert!(report.is_protected());
    assert_eq!(page(&report, true, now()), "No claims to protect\n! There is no storage to back up to\n");
}
