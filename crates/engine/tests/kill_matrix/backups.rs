//! Backups.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use holdfast_engine::backup::{BackupSpec, lock_reading_ahead};
use holdfast_engine::format::pack::BlobKind;
use holdfast_engine::lock::{LockMode, Locking};
use holdfast_engine::restore::RestoreSpec;
use holdfast_engine::store::FileKind;
use holdfast_engine::{Ctx, Repository, Result};
use rustix::thread::CapabilitySet;

use crate::deadly::{at_a_server, die};
use crate::kills::killed_at;
use crate::restoring::{
    back_up, check_all, check_structure, init, init_in, open, open_in, run_clean, scratch, spec,
};
use crate::scene::{assert_nothing_left, holder, list};
use crate::stock::{Restic, assert_same, noise, settle};
use crate::versitygw::Server;

pub(crate) async fn run(repo: &Repository, source: &Path, ctx: &Ctx) -> Result<()> {
    let spec = BackupSpec {
        roots: vec![source.to_owned()],
        host: "test".to_owned(),
        uploads: 1,
        ..BackupSpec::default()
    };
    let locking = Locking { holder: holder(), wait: Duration::ZERO, dead_holders: Vec::new() };
    let (lock, ahead) = lock_reading_ahead(repo, &locking, &spec, ctx).await?;
    let report = ahead.finish(&lock).await;
    lock.release().await?;
    report.map(drop)
}

/// Dies between the two halves of a lock's refresh: the new lock file is there and the old one still is.
pub(crate) async fn refresh(repo: &Repository, ctx: &Ctx) -> Result<()> {
    let _first = repo.lock(LockMode::Shared, &holder(), Duration::ZERO, &[], ctx).await?;
    let _second = repo.lock(LockMode::Shared, &holder(), Duration::ZERO, &[], ctx).await?;
    die()
}

/// Gives up the rights by which this thread, and those that it starts, read every file.
pub(crate) fn become_ordinary() {
    let mut own = rustix::thread::capabilities(None).unwrap();
    own.effective.remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
    rustix::thread::set_capabilities(None, own).unwrap();
}

/// Forty megabytes that do not compress: packs of content, one of directories.
pub(crate) fn make_source(at: &Path) {
    fs::create_dir_all(at.join("sub")).unwrap();
    for i in 0..10_u64 {
        fs::write(at.join(format!("sub/f{i}")), noise(i + 1, 4 << 20)).unwrap();
    }
    fs::write(at.join("small"), "a small file").unwrap();
    settle(at);
}

/// Bytes of content that the index knows.
async fn indexed(repo: &Repository) -> u64 {
    let index = repo.load_index(&Ctx::default()).await.unwrap();
    let data = index.iter().filter(|(kind, _, _)| *kind == BlobKind::Data);
    data.map(|(_, id, _)| u64::from(index.plain_length(BlobKind::Data, &id).unwrap())).sum()
}

/// Points of a backup, and how many snapshots are there after it.
const BACKUP_POINTS: [(&str, usize); 30] = [
    ("before put lock 1", 0),
    ("within put lock 1", 0),
    ("after put lock 1", 0),
    ("after list lock 2", 0),
    ("within refresh", 0),
    ("phase prepare", 0),
    ("after list snapshot 1", 0),
    ("after list index 1", 0),
    ("phase read", 0),
    ("before put pack 1", 0),
    ("within put pack 1", 0),
    ("after put pack 1", 0),
    ("within put pack 2", 0),
    ("after put pack 2", 0),
    ("before put pack 3", 0),
    ("within put pack 3", 0),
    ("after put pack 3", 0),
    ("after put pack 4", 0),
    ("before put index 1", 0),
    ("within put index 1", 0),
    ("after put index 1", 0),
    ("phase commit", 0),
    ("before list lock 3", 0),
    ("after list lock 3", 0),
    ("before put snapshot 1", 0),
    ("within put snapshot 1", 0),
    ("after put snapshot 1", 1),
    ("after list lock 4", 1),
    ("before delete lock 1", 1),
    ("after delete lock 1", 1),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_killed_at_any_point_harms_nothing_and_the_next_one_goes_on() {
    let dir = scratch();
    let source = dir.path().join("source");
    make_source(&source);
    for (number, (point, snapshots)) in BACKUP_POINTS.into_iter().enumerate() {
        let at = dir.path().join(format!("repo {number}"));
        init(&at).await;
        let what = if point == "within refresh" { "refresh" } else { "backup" };
        killed_at(point, what, &at, &[source.to_str().unwrap()]);
        let repo = open(&at).await;
        assert_eq!(repo.snapshots().await.unwrap().len(), snapshots, "{point}");
        assert_goes_on(&repo, &source, &dir.path().join("target"), point).await;
        if matches!(point, "within put pack 2" | "within put index 1" | "after put snapshot 1") {
            Restic::newest(&at).check();
        }
        fs::remove_dir_all(&at).unwrap();
    }
}

/// At a server the point in the middle of a write is any, and how often it is listed varies: the writes are the points.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_over_s3_killed_at_any_write_harms_nothing_and_the_next_one_goes_on() {
    let server = Server::start(&["bucket"]);
    let dir = scratch();
    let source = dir.path().join("source");
    make_source(&source);
    let is_write = |point: &str| point.contains("put") || point.contains("delete");
    let writes = BACKUP_POINTS.into_iter().filter(|(point, _)| is_write(point));
    for (number, (point, snapshots)) in writes.enumerate() {
        let place = format!("bucket/repo{number}");
        init_in(server.store(&place)).await;
        let at = at_a_server(&server.location(&place), &server.ca());
        killed_at(point, "backup", &at, &[source.to_str().unwrap()]);
        let repo = open_in(server.store(&place)).await;
        let found = repo.snapshots().await.unwrap().len();
        assert!(
            found == snapshots || (point == "within put snapshot 1" && found == 1),
            "{point}: {found} snapshots"
        );
        assert_goes_on(&repo, &source, &dir.path().join("target"), point).await;
        fs::remove_dir_all(server.bucket(&place)).unwrap();
    }
}

/// Whatever was killed at this point: the repository is sound, what it has is not sent again, and nobody is waited for.
async fn assert_goes_on(repo: &Repository, source: &Path, target: &Path, point: &str) {
    let whole: u64 = (10 * (4 << 20)) + 12;
    let check = check_structure(repo).await;
    assert!(check.is_sound(), "{point}: {:#?}", check.findings);
    let kept = indexed(repo).await;
    // Nobody waits for the dead one's lock, and nobody has to remove it.
    let report = back_up(repo, source).await;
    assert_eq!(report.faults.first, [], "{point}");
    let again = report.data_added;
    assert!(again <= whole - kept + 10_000, "{point}: {again} bytes again, though {kept} were kept");
    assert_eq!(repo.locks().await.unwrap(), [], "{point}");
    let check = check_all(repo).await;
    assert!(check.is_sound(), "{point}: {:#?}", check.findings);
    run_clean(repo, &RestoreSpec { verify: false, ..spec(report.snapshot, source, target) }).await;
    assert_same(source, target, point);
    fs::remove_dir_all(target).unwrap();
}

/// Points about the list of what could not be read, which is written before the snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_killed_about_its_list_of_unreadable_files_leaves_nothing_of_it() {
    let dir = scratch();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("open"), noise(1, 60_000)).unwrap();
    fs::write(source.join("closed"), "secret").unwrap();
    fs::set_permissions(source.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    for (number, point) in
        ["before put extra 1", "within put extra 1", "after put extra 1"].into_iter().enumerate()
    {
        let at = dir.path().join(format!("repo {number}"));
        init(&at).await;
        killed_at(point, "backup with gaps", &at, &[source.to_str().unwrap()]);
        let repo = open(&at).await;
        assert_eq!(list(&repo, FileKind::Snapshot).await, [], "{point}");
        back_up(&repo, &source).await;
        assert_nothing_left(&at, point).await;
    }
}
