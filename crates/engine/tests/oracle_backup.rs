//! What Holdfast backs up must be, to stock restic, what restic itself would have written.
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
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use holdfast_engine::backup::{BackupReport, BackupSpec, Parent, backup};
use holdfast_engine::lock::{Holder, LockMode, Unlock};
use holdfast_engine::repository::InitOptions;
use holdfast_engine::store::{self, Location, StoreOptions};
use holdfast_engine::{Ctx, Id, Repository};
use stock::{PASSWORD, Restic, assert_same, assert_same_except, build_source};

const HOST: &str = "oracle";

fn holder() -> Holder {
    Holder::this_process("oracle-test", "test")
}

fn open_store(at: &Path) -> std::sync::Arc<dyn store::Store> {
    store::open(&Location::Local(at.to_owned()), &StoreOptions::default(), &Ctx::default()).unwrap()
}

async fn init(at: &Path, version: u32) -> Repository {
    let options = InitOptions {
        password: PASSWORD.to_owned().into(),
        recovery_password: None,
        version,
        hostname: "test".to_owned(),
        username: "test".to_owned(),
    };
    Repository::init(open_store(at), &options, &Ctx::default()).await.unwrap()
}

async fn open(at: &Path) -> Repository {
    Repository::open(open_store(at), &PASSWORD.to_owned().into(), &Ctx::default()).await.unwrap()
}

async fn back_up_with(repo: &Repository, spec: BackupSpec) -> BackupReport {
    let ctx = Ctx::default();
    let lock = repo.lock(LockMode::Shared, &holder(), Duration::from_secs(20), &[], &ctx).await.unwrap();
    let report = backup(repo, &lock, &spec, &ctx).await.unwrap();
    lock.release().await.unwrap();
    report
}

async fn back_up(repo: &Repository, source: &Path) -> BackupReport {
    let spec = BackupSpec { roots: vec![source.to_owned()], host: HOST.to_owned(), ..BackupSpec::default() };
    let report = back_up_with(repo, spec).await;
    assert_eq!(report.faults.first, []);
    report
}

/// Files that changed within the last two seconds are read again, whatever they look like.
async fn outlive_the_racy_window() {
    tokio::time::sleep(Duration::from_millis(2_100)).await;
}

/// The tree that a snapshot has at a path.
async fn subtree(repo: &Repository, snapshot: &Id, path: &Path) -> Id {
    let index = repo.load_index(&Ctx::default()).await.unwrap();
    let mut id = repo.load_snapshot(snapshot).await.unwrap().tree;
    for component in path.components().skip(1) {
        let tree = repo.load_tree(&index, &id).await.unwrap();
        let name = std::os::unix::ffi::OsStrExt::as_bytes(component.as_os_str());
        id = tree.find(name).and_then(|node| node.subtree).unwrap();
    }
    id
}

/// Fails with the first entry that is not the same.
async fn assert_same_tree(repo: &Repository, ours: Id, theirs: Id) {
    if ours == theirs {
        return;
    }
    let index = repo.load_index(&Ctx::default()).await.unwrap();
    let (mut a, mut b) = (ours, theirs);
    'down: loop {
        let (left, right) =
            (repo.load_tree(&index, &a).await.unwrap(), repo.load_tree(&index, &b).await.unwrap());
        for (x, y) in left.nodes.iter().zip(&right.nodes) {
            if x == y {
                continue;
            }
            if let (Some(s), Some(t)) = (x.subtree, y.subtree)
                && s != t
            {
                (a, b) = (s, t);
                continue 'down;
            }
            panic!("ours:   {x:#?}\ntheirs: {y:#?}");
        }
        panic!("{} against {} entries, or only the JSON differs", left.nodes.len(), right.nodes.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_are_identical_to_restics() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (source, at) = (dir.path().join("source"), dir.path().join("repo"));
    build_source(&source);
    let repo = init(&at, 2).await;
    let ours = back_up(&repo, &source).await;
    assert_eq!(ours.sockets_skipped, 1);
    let restic = Restic::new("0.19", &at);
    let summary = restic.backup(&source, HOST, &["--force"]);
    let theirs: Id = summary["snapshot_id"].as_str().unwrap().parse().unwrap();
    assert_eq!(summary["data_blobs"], 0, "every chunk was cut and named alike: {summary}");
    let (a, b) = (subtree(&repo, &ours.snapshot, &source).await, subtree(&repo, &theirs, &source).await);
    assert_same_tree(&repo, a, b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_restic_checks_and_restores_what_we_write() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for version in [2, 1] {
        let source = dir.path().join(format!("source{version}"));
        build_source(&source);
        let at = dir.path().join(format!("repo{version}"));
        let repo = init(&at, version).await;
        let report = back_up(&repo, &source).await;
        for restic in Restic::all(&at) {
            restic.check();
            let target = dir.path().join(format!("restored {} {version}", restic.version));
            restic.restore(&report.snapshot.to_hex(), &target);
            let restored = target.join(source.strip_prefix("/").unwrap());
            // restic 0.14 does not know link targets that are not text, in its own snapshots neither.
            let except: &[&str] = if restic.version == "0.14" { &["links/raw"] } else { &[] };
            assert_same_except(
                &source,
                &restored,
                except,
                &format!("restic {} on version {version}", restic.version),
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_is_the_others_parent() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let source = dir.path().join("source");
    build_source(&source);
    outlive_the_racy_window().await;
    for (version, _) in stock::VERSIONS {
        let at = dir.path().join(format!("repo {version}"));
        let repo = init(&at, 2).await;
        let restic = Restic::new(version, &at);
        let first = restic.backup(&source, HOST, &[]);
        let ours = back_up(&repo, &source).await;
        // Old restics print the short form.
        let named = first["snapshot_id"].as_str().unwrap();
        assert!(ours.parent.is_some_and(|id| id.to_hex().starts_with(named)), "restic {version}: {ours:?}");
        assert_eq!(
            (ours.files_new, ours.files_changed, ours.data_blobs),
            (0, 0, 0),
            "restic {version}: {ours:?}"
        );
        // Owners' names and device numbers differ, so some directories are new; no content is.
        assert!(ours.data_added < 200_000, "restic {version}: {ours:?}");

        let again = back_up(&repo, &source).await;
        // Not the trees: those of the directories above the source change with other tests.
        assert_eq!(
            (again.files_new, again.files_changed, again.data_blobs),
            (0, 0, 0),
            "restic {version}: {again:?}"
        );
        let theirs = restic.backup(&source, HOST, &[]);
        let counts = ["files_new", "files_changed", "data_blobs"].map(|key| theirs[key].as_u64());
        assert_eq!(counts, [Some(0); 3], "restic {version}: {theirs}");
        restic.check();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_found_and_only_they_are_stored() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (source, at) = (dir.path().join("source"), dir.path().join("repo"));
    build_source(&source);
    outlive_the_racy_window().await;
    let repo = init(&at, 2).await;
    let first = back_up(&repo, &source).await;
    assert!(first.parent.is_none() && first.files_new == first.total_files && first.total_files > 250);

    stock::append(&source.join("sizes/5000000"), b"one more line");
    fs::write(source.join("many/d3/new"), "a new file").unwrap();
    fs::remove_file(source.join("many/d4/f4")).unwrap();
    fs::rename(source.join("many/d5"), source.join("many/moved")).unwrap();
    let second = back_up(&repo, &source).await;
    assert_eq!(second.parent, Some(first.snapshot));
    assert_eq!((second.files_changed, second.data_blobs), (1, 2), "{second:?}");
    assert_eq!(second.files_new, 1 + 20, "the new file, and those of the renamed directory: {second:?}");
    assert_eq!(second.total_files, first.total_files);

    let restic = Restic::new("0.19", &at);
    restic.check();
    let target = dir.path().join("restored");
    restic.restore(&second.snapshot.to_hex(), &target);
    assert_same(&source, &target.join(source.strip_prefix("/").unwrap()), "the second snapshot");
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_leave_out_what_restic_leaves_out() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (source, at) = (dir.path().join("source"), dir.path().join("repo"));
    build_source(&source);
    fs::write(source.join("empty/CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55\n").unwrap();
    fs::write(source.join("empty/cached"), "worth nothing").unwrap();
    stock::settle(&source.join("empty"));
    let absolute = source.join("many/d1").to_str().unwrap().to_owned();
    let excludes: Vec<String> = ["f1?", "meta/mode *", "[!]*", "**/links/*a", "!f12", "{brace}"]
        .into_iter()
        .map(str::to_owned)
        .chain([absolute])
        .collect();
    let repo = init(&at, 2).await;
    let spec = BackupSpec {
        roots: vec![source.clone()],
        host: HOST.to_owned(),
        excludes: excludes.clone(),
        exclude_caches: true,
        ..BackupSpec::default()
    };
    let ours = back_up_with(&repo, spec).await;
    assert!(ours.excluded > 10, "{ours:?}");
    let restic = Restic::new("0.19", &at);
    let mut arguments = vec!["--force", "--exclude-caches"];
    arguments.extend(excludes.iter().flat_map(|pattern| ["--exclude", pattern]));
    let summary = restic.backup(&source, HOST, &arguments);
    let theirs: Id = summary["snapshot_id"].as_str().unwrap().parse().unwrap();
    let (a, b) = (subtree(&repo, &ours.snapshot, &source).await, subtree(&repo, &theirs, &source).await);
    assert_same_tree(&repo, a, b).await;
}

/// The example program that this test may kill. Cargo builds it beside the tests.
fn backup_program() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.set_file_name("examples");
    let path = path.join("backup");
    assert!(
        path.is_file(),
        "{} is missing: build the examples (`cargo test` without --test does)",
        path.display()
    );
    path
}

fn pack_count(repo: &Path) -> usize {
    fs::read_dir(repo.join("data"))
        .unwrap()
        .map(|dir| fs::read_dir(dir.unwrap().path()).unwrap().count())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_backup_leaves_a_repository_that_is_whole() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (source, at) = (dir.path().join("source"), dir.path().join("repo"));
    fs::create_dir(&source).unwrap();
    for i in 0..24_u64 {
        fs::write(source.join(format!("f{i}")), stock::noise(i, 8 << 20)).unwrap();
    }
    init(&at, 2).await;
    let restic = Restic::new("0.19", &at);
    for packs in [1, 3, 6] {
        let before = pack_count(&at);
        let mut child = Command::new(backup_program())
            .args([&at, &source])
            .env("RESTIC_PASSWORD", PASSWORD)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_mins(1);
        while pack_count(&at) < before + packs {
            assert!(Instant::now() < deadline, "no pack appeared");
            assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let repo = open(&at).await;
        assert!(repo.snapshots().await.unwrap().is_empty(), "a killed backup has no snapshot");
        // Its process is gone, so its lock is stale.
        repo.unlock(Unlock::All).await.unwrap();
        restic.check();
    }
    let repo = open(&at).await;
    let report = back_up(&repo, &source).await;
    restic.check();
    let target = dir.path().join("restored");
    restic.restore(&report.snapshot.to_hex(), &target);
    assert_same(&source, &target.join(source.strip_prefix("/").unwrap()), "after three kills");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_roots_are_one_tree_as_restic_makes_it() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (source, at) = (dir.path().join("source"), dir.path().join("repo"));
    build_source(&source);
    let repo = init(&at, 2).await;
    let roots = ["many/d1", "meta/attributes", "links", "many/d2/f2"].map(|name| source.join(name)).to_vec();
    let spec = BackupSpec {
        roots: roots.clone(),
        host: HOST.to_owned(),
        parent: Parent::None,
        ..BackupSpec::default()
    };
    let ours = back_up_with(&repo, spec).await;
    let restic = Restic::new("0.19", &at);
    let mut more = vec!["--force"];
    more.extend(roots.iter().take(3).map(|root| root.to_str().unwrap()));
    let summary = restic.backup(&roots[3], HOST, &more);
    let theirs: Id = summary["snapshot_id"].as_str().unwrap().parse().unwrap();
    let (a, b) = (subtree(&repo, &ours.snapshot, &source).await, subtree(&repo, &theirs, &source).await);
    assert_same_tree(&repo, a, b).await;
}
