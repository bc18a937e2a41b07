//! Forget and prune against stock restic: it reads, checks and prunes what ours left, and the other way round.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what went wrong by failing"
)]

mod stock;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_engine::backup::{BackupSpec, backup};
use holdfast_engine::check::{CheckSpec, ReadData, check};
use holdfast_engine::forget::{ForgetSpec, Selection, forget, forgotten, unforget};
use holdfast_engine::lock::{Holder, LockGuard, LockMode, Locking};
use holdfast_engine::prune::{MaxUnused, PruneReport, PruneSpec, prune};
use holdfast_engine::repository::InitOptions;
use holdfast_engine::store::{self, Location, StoreOptions};
use holdfast_engine::{Ctx, Id, Repository};
use jiff::{SignedDuration, Timestamp};
use stock::{PASSWORD, Restic, assert_same, noise};

fn holder() -> Holder {
    Holder::this_process("h", "u")
}

fn open_store(at: &Path) -> std::sync::Arc<dyn store::Store> {
    store::open(&Location::Local(at.to_owned()), &StoreOptions::default(), &Ctx::default()).unwrap()
}

async fn init(at: &Path) -> Repository {
    let options = InitOptions {
        password: PASSWORD.to_owned().into(),
        recovery_password: None,
        version: 2,
        hostname: "h".into(),
        username: "u".into(),
    };
    Repository::init(open_store(at), &options, &Ctx::default()).await.unwrap()
}

async fn open(at: &Path) -> Repository {
    Repository::open(open_store(at), &PASSWORD.to_owned().into(), &Ctx::default()).await.unwrap()
}

async fn shared(repo: &Repository) -> LockGuard {
    repo.lock(LockMode::Shared, &holder(), Duration::from_secs(20), &[], &Ctx::default()).await.unwrap()
}

async fn back_up(repo: &Repository, dir: &Path) -> Id {
    let lock = shared(repo).await;
    let spec = BackupSpec { roots: vec![dir.to_owned()], host: "h".into(), ..BackupSpec::default() };
    let report = backup(repo, &lock, &spec, &Ctx::default()).await.unwrap();
    lock.release().await.unwrap();
    report.snapshot
}

async fn forget_these(repo: &Repository, ids: &[Id]) {
    let lock = shared(repo).await;
    let spec = ForgetSpec {
        selection: Selection::Ids(ids.to_vec()),
        dry_run: false,
        floor: 0,
        known: Vec::new(),
        now: Timestamp::now(),
    };
    assert_eq!(forget(repo, &lock, &spec, &Ctx::default()).await.unwrap().forgotten.len(), ids.len());
    lock.release().await.unwrap();
}

async fn run_prune(repo: &Repository, spec: &PruneSpec) -> PruneReport {
    let locking = Locking { holder: holder(), wait: Duration::from_secs(20), dead_holders: Vec::new() };
    prune(repo, &locking, spec, &Ctx::default()).await.unwrap()
}

/// Keeps no waste.
fn thorough() -> PruneSpec {
    PruneSpec { max_unused: MaxUnused::Bytes(0), allow_large: true, ..PruneSpec::default() }
}

/// Files of half a megabyte or so with these numbers, and a text.
fn source(at: PathBuf, files: std::ops::Range<u64>) -> PathBuf {
    fs::create_dir_all(at.join("sub")).unwrap();
    for number in files {
        fs::write(at.join("sub").join(number.to_string()), noise(number + 1, 500_000)).unwrap();
    }
    fs::write(at.join("text"), "the same line again\n".repeat(20_000)).unwrap();
    at
}

fn bytes_of_packs(at: &Path) -> u64 {
    let mut bytes = 0;
    for directory in fs::read_dir(at.join("data")).unwrap() {
        for file in fs::read_dir(directory.unwrap().path()).unwrap() {
            bytes += file.unwrap().metadata().unwrap().len();
        }
    }
    bytes
}

fn restored(restic: &Restic, snapshot: &Id, dir: &Path, scratch: &Path) {
    let target = scratch.join(format!("target-{}", restic.version));
    let _ = fs::remove_dir_all(&target);
    restic.restore(&snapshot.to_hex(), &target);
    assert_same(dir, &target.join(dir.strip_prefix("/").unwrap()), restic.version);
}

async fn assert_sound(repo: &Repository) {
    let report = check(repo, None, &CheckSpec { read_data: ReadData::All }, &Ctx::default()).await.unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn restic_finds_everything_in_order_after_each_step() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let at = scratch.path().join("repo");
    let repo = init(&at).await;
    let (all, half) = (source(scratch.path().join("all"), 0..8), source(scratch.path().join("half"), 5..12));
    let first = back_up(&repo, &all).await;
    let second = back_up(&repo, &half).await;
    let restics = Restic::all(&at);
    let step = |what: &str| {
        for restic in &restics {
            let said = restic.run(["check", "--read-data"]);
            assert!(said.contains("no errors were found"), "{what}, {}: {said}", restic.version);
        }
        restored(&restics[2], &second, &half, scratch.path());
    };
    let before = bytes_of_packs(&at);

    forget_these(&repo, &[first]).await;
    step("forget");
    // The oldest that reads this format restores what ours brought back.
    let lock = shared(&repo).await;
    let listed = forgotten(&repo, &Ctx::default()).await.unwrap();
    unforget(&repo, &lock, &listed, &Ctx::default()).await.unwrap();
    lock.release().await.unwrap();
    restored(&restics[0], &first, &all, scratch.path());
    forget_these(&repo, &[first]).await;

    let marked = run_prune(&repo, &thorough()).await;
    assert!(marked.marked_packs > 0 && marked.moved_bytes > 0, "{marked:?}");
    step("mark");
    // restic stores into, and relies on, whatever it finds; marks do not hold it back.
    restics[0].backup(&all, "r", &[]);
    // Marks are read by the second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let soon = PruneSpec { grace: SignedDuration::ZERO, ..thorough() };
    let swept = run_prune(&repo, &soon).await;
    assert!(swept.unmarked_packs > 0, "restic's snapshot needs marked packs again: {swept:?}");
    step("needed again");

    restics[2].run(["forget", "--host", "r", "--unsafe-allow-remove-all", "--group-by", ""]);
    run_prune(&repo, &soon).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let swept = run_prune(&repo, &soon).await;
    assert!(swept.deleted_packs > 0, "{swept:?}");
    step("sweep");
    assert!(bytes_of_packs(&at) + 4 * 500_000 < before, "{} of {before}", bytes_of_packs(&at));
}

#[tokio::test(flavor = "multi_thread")]
async fn prunes_take_turns() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let at = scratch.path().join("repo");
    let restics = Restic::all(&at);
    // restic's repository; ours prunes it, and restic again.
    restics[0].run(["init", "--repository-version", "2"]);
    let (all, half) = (source(scratch.path().join("all"), 0..8), source(scratch.path().join("half"), 5..12));
    restics[0].backup(&all, "a", &[]);
    restics[1].backup(&half, "b", &[]);
    let repo = open(&at).await;
    let (_, gone) =
        repo.snapshots().await.unwrap().into_iter().map(|(id, s)| (s.hostname.clone(), id)).next().unwrap();
    forget_these(&repo, &[gone]).await;

    // The same state twice: ours against theirs.
    let theirs = scratch.path().join("theirs");
    let copied = std::process::Command::new("cp").arg("-r").arg(&at).arg(&theirs).status().unwrap();
    assert!(copied.success());
    Restic::new("0.19", &theirs).run(["prune", "--max-unused", "0"]);
    let report = run_prune(&repo, &PruneSpec { instant: true, ..thorough() }).await;
    assert!(report.deleted_packs > 0, "{report:?}");
    let (ours, theirs) = (bytes_of_packs(&at), bytes_of_packs(&theirs));
    assert!(ours <= theirs + theirs / 50, "{ours} bytes after our prune, {theirs} after restic's");
    for restic in &restics {
        restic.check();
    }

    // Ours marks, and restic's prune deletes what is marked, marks and all; then ours again.
    let extra = back_up(&repo, &all).await;
    forget_these(&repo, &[extra]).await;
    assert!(run_prune(&repo, &thorough()).await.marked_packs > 0);
    restics[2].run(["prune", "--max-unused", "0"]);
    restics[2].check();
    let idle = run_prune(&repo, &PruneSpec { instant: true, ..thorough() }).await;
    assert_eq!((idle.moved_bytes, idle.marked_packs), (0, 0), "{idle:?}");
    assert_sound(&repo).await;
    for restic in &restics {
        restic.check();
    }
    let left = repo.snapshots().await.unwrap();
    assert_eq!(left.len(), 1);
    restored(&restics[1], &left[0].0, &half, scratch.path());
}
