use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::backup::{BackupSpec, backup};
use crate::lock::{Holder, LockMode};
use crate::repository::testing::{Fixture, fixture};
use crate::retention::Keep;
use crate::store::fault::{Fault, Operation, Trouble};

fn holder() -> Holder {
    Holder { hostname: "h".into(), username: "u".into(), pid: 1, cluster: None, job_uid: None }
}

async fn lock(f: &Fixture) -> LockGuard {
    f.repo.lock(LockMode::Shared, &holder(), Duration::ZERO, &[], &Ctx::default()).await.unwrap()
}

/// Backs up a directory with this content; times are a day apart.
async fn snapshot(f: &Fixture, number: i64, tags: &[&str]) -> Id {
    let source = tempfile::tempdir_in(f.directory.path().parent().unwrap()).unwrap();
    std::fs::write(source.path().join("file"), format!("content {number}")).unwrap();
    let spec = BackupSpec {
        roots: vec![PathBuf::from(source.path())],
        host: "host".into(),
        tags: tags.iter().map(ToString::to_string).collect(),
        time: Timestamp::from_second(1_700_000_000 + number * 86_400).unwrap(),
        ..BackupSpec::default()
    };
    let guard = lock(f).await;
    let report = backup(&f.repo, &guard, &spec, &Ctx::default()).await.unwrap();
    guard.release().await.unwrap();
    report.snapshot
}

/// One group of everything: the sources lie in directories of changing names.
fn spec(policy: Policy) -> ForgetSpec {
    let group_by = GroupBy { host: true, paths: false, tags: false };
    ForgetSpec {
        selection: Selection::Policy { filter: SnapshotFilter::default(), group_by, policy },
        dry_run: false,
        floor: 0,
        known: Vec::new(),
        now: Timestamp::now(),
    }
}

fn last(n: u32) -> Policy {
    Policy { last: Keep::Number(n), ..Policy::default() }
}

async fn ids(f: &Fixture) -> Vec<Id> {
    f.repo.snapshots().await.unwrap().into_iter().map(|(id, _)| id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn forgotten_snapshots_come_back_under_their_ids() {
    let f = fixture().await;
    let mut all = Vec::new();
    for number in 0..4 {
        all.push(snapshot(&f, number, &[]).await);
    }
    let guard = lock(&f).await;
    let ctx = Ctx::default();
    let dry = ForgetSpec { dry_run: true, ..spec(last(1)) };
    assert_eq!(forget(&f.repo, &guard, &dry, &ctx).await.unwrap().forgotten.len(), 3);
    assert_eq!(ids(&f).await, all, "a dry run changes nothing");
    assert_eq!(forgotten(&f.repo, &ctx).await.unwrap(), []);

    let report = forget(&f.repo, &guard, &spec(last(1)), &ctx).await.unwrap();
    assert_eq!(report.forgotten.len(), 3);
    assert_eq!(ids(&f).await, all[3..]);
    let listed = forgotten(&f.repo, &ctx).await.unwrap();
    assert_eq!(listed.iter().map(|f| f.id).collect::<Vec<_>>(), [all[2], all[1], all[0]]);
    unforget(&f.repo, &guard, &listed[..2], &ctx).await.unwrap();
    assert_eq!(ids(&f).await, all[1..]);
    assert_eq!(forgotten(&f.repo, &ctx).await.unwrap().len(), 1, "what came back is not forgotten");
    // Forgotten again: one record more, the same snapshot once.
    forget(&f.repo, &guard, &spec(last(2)), &ctx).await.unwrap();
    assert_eq!(forgotten(&f.repo, &ctx).await.unwrap().len(), 2);
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_before_its_record_is_there_and_crashes_leave_either() {
    let f = fixture().await;
    let mut all = Vec::new();
    for number in 0..3 {
        all.push(snapshot(&f, number, &[]).await);
    }
    let guard = lock(&f).await;
    let ctx = Ctx::default();
    f.faults.add(Fault::once(Operation::Put, FileKind::Index, Trouble::Fail(ErrorKind::Full)));
    assert_eq!(forget(&f.repo, &guard, &spec(last(1)), &ctx).await.unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(ids(&f).await, all);
    // It dies between two deletions.
    f.faults.add(Fault {
        after: 1,
        ..Fault::once(Operation::Delete, FileKind::Snapshot, Trouble::Fail(ErrorKind::Unreachable))
    });
    assert!(forget(&f.repo, &guard, &spec(last(1)), &ctx).await.is_err());
    assert_eq!(ids(&f).await.len(), 2);
    let listed = forgotten(&f.repo, &ctx).await.unwrap();
    assert_eq!(listed.len(), 1, "those whose files are there still are not forgotten");
    unforget(&f.repo, &guard, &listed, &ctx).await.unwrap();
    assert_eq!(ids(&f).await, all);
    // What the store will not give up is told, and the rest goes.
    f.faults.add(Fault::once(Operation::Delete, FileKind::Snapshot, Trouble::Fail(ErrorKind::AccessDenied)));
    let report = forget(&f.repo, &guard, &spec(last(1)), &ctx).await.unwrap();
    assert_eq!((report.forgotten.len(), report.retained.len()), (1, 1));
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn guards_refuse_and_nothing_is_forgotten() {
    let f = fixture().await;
    let held = snapshot(&f, 0, &[HOLD_TAG]).await;
    let free = snapshot(&f, 1, &["a"]).await;
    let guard = lock(&f).await;
    let ctx = Ctx::default();
    let kind =
        async |spec: ForgetSpec| forget(&f.repo, &guard, &spec, &ctx).await.map_err(|e| e.kind()).err();
    let of = |selection| ForgetSpec { selection, ..spec(last(1)) };

    assert_eq!(kind(spec(Policy::default())).await, Some(ErrorKind::Usage));
    let none = Policy { tags: vec![vec!["nobody has it".to_owned()]], ..Policy::default() };
    assert_eq!(kind(spec(none)).await, Some(ErrorKind::Guard));
    assert_eq!(kind(of(Selection::All(SnapshotFilter::default()))).await, Some(ErrorKind::Usage));
    assert_eq!(kind(of(Selection::Ids(vec![Id::hash(b"x")]))).await, Some(ErrorKind::Missing));
    let known = ForgetSpec { known: vec![Id::hash(b"gone")], ..spec(last(1)) };
    assert_eq!(kind(known).await, Some(ErrorKind::Guard));
    // Each has paths of its own, so each is the last of its kind.
    let floor = ForgetSpec { floor: 1, ..of(Selection::Ids(vec![free])) };
    assert_eq!(kind(floor).await, Some(ErrorKind::Guard));
    f.faults.add(Fault::once(Operation::List, FileKind::Snapshot, Trouble::Fail(ErrorKind::Listing)));
    assert_eq!(kind(spec(last(1))).await, Some(ErrorKind::Listing));
    assert_eq!(ids(&f).await.len(), 2);

    let report = forget(&f.repo, &guard, &of(Selection::Ids(vec![held, free])), &ctx).await.unwrap();
    assert_eq!((report.held, report.forgotten.len()), (vec![held], 1));
    assert_eq!(ids(&f).await, [held]);
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_safety_snapshot_displaces_no_backup_and_has_a_time_of_its_own() {
    let f = fixture().await;
    let backups = [snapshot(&f, 0, &[]).await, snapshot(&f, 1, &[]).await];
    let safety = [
        snapshot(&f, 2, &["holdfast.dev/undo-of=back"]).await,
        snapshot(&f, 40, &["holdfast.dev/undo-of=again"]).await,
    ];
    let guard = lock(&f).await;
    let at = |days: i64| Timestamp::from_second(1_700_000_000 + days * 86_400).unwrap();
    let policy = |now| ForgetSpec { now, ..spec(last(2)) };
    let report = forget(&f.repo, &guard, &policy(at(31)), &Ctx::default()).await.unwrap();
    assert_eq!(
        report.forgotten,
        [],
        "two backups are kept as the last two, and the safety snapshots for their time"
    );
    let reasons: Vec<_> =
        report.groups.iter().flat_map(|g| &g.verdicts).flat_map(|(v, _)| &v.reasons).collect();
    assert!(reasons.iter().any(|r| r.contains("before a restore")), "{reasons:?}");
    let report = forget(&f.repo, &guard, &policy(at(32)), &Ctx::default()).await.unwrap();
    assert_eq!(report.forgotten.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [safety[0]]);
    assert_eq!(ids(&f).await, [backups[0], backups[1], safety[1]]);

    // Nor is it what is left when all backups are to go.
    let all = ForgetSpec { selection: Selection::Ids(backups.to_vec()), floor: 1, ..policy(at(32)) };
    let error = forget(&f.repo, &guard, &all, &Ctx::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Guard, "{}", error.chain());
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_program_wrote_otherwise_is_no_damage() {
    let f = fixture().await;
    let ours = snapshot(&f, 0, &[]).await;
    // Whole, with a right digest and MAC; only that nobody here knows what it means.
    let json = br#"{"time":"2026-11-20T02:00:00Z","tree":7,"paths":["/data"]}"#;
    let theirs = crate::pipeline::save(&f.repo, FileKind::Snapshot, json).await.unwrap();
    let list = f.repo.list_snapshots().await.unwrap();
    assert_eq!((list.readable.len(), list.damaged.len(), list.unknown[0].id), (1, 0, theirs));
    assert_eq!(list.all().unwrap_err().kind(), ErrorKind::Format);
    let latest = f.repo.find_snapshot("latest", &SnapshotFilter::default()).await.unwrap_err();
    assert!(latest.kind() == ErrorKind::Format && latest.chain().contains(&ours.to_hex()), "{latest:?}");
    let guard = lock(&f).await;
    let spec = ForgetSpec { selection: Selection::Ids(vec![theirs]), ..spec(last(1)) };
    let refused = forget(&f.repo, &guard, &spec, &Ctx::default()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Format);
    // It is in nobody else's way.
    let dry = ForgetSpec { selection: Selection::Ids(vec![ours]), dry_run: true, ..spec.clone() };
    assert_eq!(forget(&f.repo, &guard, &dry, &Ctx::default()).await.unwrap().forgotten.len(), 1);
    let left = f.repo.store().list(FileKind::Snapshot).await.unwrap();
    assert!([ours, theirs].iter().all(|id| left.iter().any(|entry| entry.id == *id)), "both are there");
    guard.release().await.unwrap();
}

#[test]
fn files_of_records_are_bounded_by_number_and_by_bytes() {
    let record = |bytes: usize| ForgottenRecord {
        snapshot: Id::default(),
        at: Timestamp::UNIX_EPOCH,
        sealed: vec![0; bytes],
    };
    let parts = |records: &[ForgottenRecord]| -> Vec<usize> {
        records.chunk_by(files_of_records()).map(<[ForgottenRecord]>::len).collect()
    };
    let small: Vec<_> = (0..2001).map(|_| record(500)).collect();
    assert_eq!(parts(&small), [1000, 1000, 1]);
    let large: Vec<_> = (0..5).map(|_| record(30 << 20)).collect();
    assert_eq!(parts(&large), [2, 2, 1]);
    // One that is larger by itself has a file of its own.
    let larger: Vec<_> = [1, 70 << 20, 1, 1].map(record).into();
    assert_eq!(parts(&larger), [1, 1, 2]);
}
