//! What a backup does when things go wrong: nothing is committed that is not whole, and everything is said.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what went wrong by failing"
)]

mod lost_lock;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_engine::backup::{BackupReport, BackupSpec, Unreadable, backup, lock_reading_ahead};
use holdfast_engine::browse::View;
use holdfast_engine::check::{CheckSpec, ReadData, check};
use holdfast_engine::error::Result;
use holdfast_engine::event::EventSink;
use holdfast_engine::lock::{Holder, LockMode, Locking};
use holdfast_engine::repository::InitOptions;
use holdfast_engine::restore::{Reach, RestoreSpec, restore};
use holdfast_engine::store::fault::{Fault, FaultStore, Operation, Trouble};
use holdfast_engine::store::{self, FileKind, Location, Store, StoreOptions};
use holdfast_engine::{Ctx, ErrorKind, Event, Repository};
use jiff::{SignedDuration, Timestamp};
use rustix::thread::CapabilitySet;
use tempfile::TempDir;

/// A repository behind a store that fails on command, and a source of several packs.
struct Scene {
    dir: TempDir,
    faults: Arc<FaultStore>,
    repo: Repository,
    ctx: Ctx,
}

impl Scene {
    async fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let ctx = Ctx::default();
        let local = Location::Local(dir.path().join("repo"));
        let local = store::open(&local, &StoreOptions::default(), &ctx).unwrap();
        let faults = Arc::new(FaultStore::new(local));
        let options = InitOptions {
            password: "password".to_owned().into(),
            recovery_password: None,
            version: 2,
            hostname: "test".to_owned(),
            username: "test".to_owned(),
        };
        let store: Arc<dyn Store> = Arc::clone(&faults) as Arc<dyn Store>;
        let repo = Repository::init(store, &options, &ctx).await.unwrap();
        let scene = Self { dir, faults, repo, ctx };
        fs::create_dir(scene.source()).unwrap();
        for i in 0..12_u64 {
            fs::write(scene.source().join(format!("f{i}")), noise(i, 4 << 20)).unwrap();
        }
        scene
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    fn spec(&self) -> BackupSpec {
        BackupSpec { roots: vec![self.source()], host: "h".to_owned(), ..BackupSpec::default() }
    }

    async fn back_up(&self, spec: &BackupSpec) -> Result<BackupReport> {
        let holder = Holder::this_process("test", "test");
        let locking = Locking { holder, wait: Duration::ZERO, dead_holders: Vec::new() };
        let (lock, ahead) = lock_reading_ahead(&self.repo, &locking, spec, &self.ctx).await?;
        let report = ahead.finish(&lock).await;
        let _ = lock.release().await;
        report
    }

    /// Files of one kind, whatever state this process's own store is in.
    fn count(&self, directory: &str) -> usize {
        fs::read_dir(self.dir.path().join("repo").join(directory)).unwrap().count()
    }

    /// Reads the whole repository; packs that no index lists are no error.
    async fn assert_whole(&self) {
        let ctx = Ctx::default();
        let local = Location::Local(self.dir.path().join("repo"));
        let local = store::open(&local, &StoreOptions::default(), &ctx).unwrap();
        let repo = Repository::open(local, &"password".to_owned().into(), &ctx).await.unwrap();
        let report = check(&repo, None, &CheckSpec { read_data: ReadData::All }, &ctx).await.unwrap();
        assert_eq!(report.errors, 0, "{report:?}");
    }
}

/// Bytes that do not compress and differ with `seed`.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

/// Calls a closure on each event.
struct Listener<F>(F);

impl<F: Fn(&Event) + Send + Sync> EventSink for Listener<F> {
    fn event(&self, event: Event) {
        (self.0)(&event);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_gets_no_snapshot_and_the_next_run_mends_it() {
    let scene = Scene::new().await;
    let put = |kind, trouble| Fault::once(Operation::Put, kind, trouble);
    for (fault, expected) in [
        (put(FileKind::Pack, Trouble::Fail(ErrorKind::Full)), ErrorKind::Full),
        (Fault { after: 2, ..put(FileKind::Pack, Trouble::Fail(ErrorKind::Auth)) }, ErrorKind::Auth),
        (put(FileKind::Pack, Trouble::StoreButFail(ErrorKind::Unreachable)), ErrorKind::Unreachable),
        (put(FileKind::Pack, Trouble::Lose), ErrorKind::Corrupt),
        (put(FileKind::Pack, Trouble::StoreTruncated(100)), ErrorKind::Corrupt),
        (put(FileKind::Index, Trouble::Lose), ErrorKind::Corrupt),
        (put(FileKind::Index, Trouble::Fail(ErrorKind::AccessDenied)), ErrorKind::AccessDenied),
        (put(FileKind::Snapshot, Trouble::Fail(ErrorKind::Unreachable)), ErrorKind::Unreachable),
        (
            // Not only before the lock is held.
            Fault::always(Operation::List, FileKind::Snapshot, Trouble::Fail(ErrorKind::Listing)),
            ErrorKind::Listing,
        ),
    ] {
        // New content each time, so that each run has packs to write.
        fs::write(scene.source().join("new"), noise(fastrand(), 20 << 20)).unwrap();
        scene.faults.add(fault.clone());
        let error = scene.back_up(&scene.spec()).await.unwrap_err();
        assert_eq!(error.kind(), expected, "{fault:?}: {}", error.chain());
        scene.faults.heal();
        assert_eq!(scene.count("snapshots"), 0, "{fault:?}");
    }
    let report = scene.back_up(&scene.spec()).await.unwrap();
    assert_eq!((report.total_files, scene.count("snapshots")), (13, 1));
    scene.assert_whole().await;
}

/// All packs of a small run are those left at the end, and their index is made before they have arrived.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_names_no_pack_that_has_not_arrived() {
    let scene = Scene::new().await;
    fs::remove_dir_all(scene.source()).unwrap();
    fs::create_dir(scene.source()).unwrap();
    fs::write(scene.source().join("small"), noise(fastrand(), 1 << 20)).unwrap();
    for (trouble, expected) in [
        (Trouble::Fail(ErrorKind::Full), ErrorKind::Full),
        (Trouble::Lose, ErrorKind::Corrupt),
        (Trouble::StoreTruncated(1), ErrorKind::Corrupt),
    ] {
        // The second one: that the first has arrived is not enough.
        let fault = Fault { after: 1, ..Fault::always(Operation::Put, FileKind::Pack, trouble) };
        scene.faults.add(fault.clone());
        let error = scene.back_up(&scene.spec()).await.unwrap_err();
        assert_eq!(error.kind(), expected, "{fault:?}: {}", error.chain());
        assert_eq!((scene.count("index"), scene.count("snapshots")), (0, 0), "{fault:?}");
        scene.faults.heal();
    }
    scene.back_up(&scene.spec()).await.unwrap();
    scene.assert_whole().await;
}

/// A number that differs from call to call.
fn fastrand() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1000);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_backup_ends_at_once_and_commits_nothing() {
    let mut scene = Scene::new().await;
    // The store hangs: nothing but the cancellation can end this.
    scene.faults.add(Fault::always(Operation::Put, FileKind::Pack, Trouble::Hang));
    let cancel = scene.ctx.cancel.clone();
    let faults = Arc::clone(&scene.faults);
    scene.ctx.events = Arc::new(Listener(move |event: &Event| {
        if matches!(event, Event::Progress(_)) && faults.count(Operation::Put, FileKind::Pack) > 0 {
            cancel.cancel();
        }
    }));
    let begun = Instant::now();
    let error = scene.back_up(&scene.spec()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{}", error.chain());
    assert!(begun.elapsed() < Duration::from_secs(20));
    scene.faults.heal();
    assert_eq!((scene.count("snapshots"), scene.count("locks")), (0, 0));
    scene.assert_whole().await;
}

/// Gives up root's right to read everything, for this thread and those it starts.
fn become_ordinary() {
    let mut own = rustix::thread::capabilities(None).unwrap();
    own.effective.remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
    rustix::thread::set_capabilities(None, own).unwrap();
}

fn lock_up(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
}

#[test]
fn what_cannot_be_read_is_named_and_all_else_is_stored() {
    // On a thread of its own, whose lost rights harm no other test.
    std::thread::spawn(|| {
        become_ordinary();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let scene = Scene::new().await;
            let source = scene.source();
            fs::create_dir(source.join("secret")).unwrap();
            fs::write(source.join("secret/inside"), "unseen").unwrap();
            fs::hard_link(source.join("f3"), source.join("f3 again")).unwrap();
            lock_up(&source.join("secret"));
            lock_up(&source.join("f3"));
            let spec = BackupSpec { fault_tag: Some("gaps".to_owned()), ..scene.spec() };
            let report = scene.back_up(&spec).await.unwrap();
            let mut paths: Vec<_> = report.faults.first.iter().map(|fault| fault.path.clone()).collect();
            paths.sort();
            assert_eq!(paths, ["f3", "f3 again", "secret"].map(|name| source.join(name)));
            assert!(report.faults.first.iter().all(|fault| fault.action == "open"), "{:?}", report.faults);
            assert_eq!((report.faults.total, report.total_files), (3, 11));
            let snapshot = scene.repo.load_snapshot(&report.snapshot).await.unwrap();
            assert_eq!(snapshot.tags, ["gaps=3"]);
            let list =
                scene.repo.unreadable(&report.snapshot, &snapshot).await.unwrap().expect("the list is kept");
            let mut kept: Vec<_> = list.unreadable.iter().map(|entry| PathBuf::from(&entry.path)).collect();
            kept.sort();
            assert_eq!((list.total, kept), (3, paths));
            scene.assert_whole().await;

            let spare = BackupSpec { unreadable: Unreadable::AtMost(3), ..scene.spec() };
            scene.back_up(&spare).await.unwrap();
            let tight = BackupSpec { unreadable: Unreadable::AtMost(2), ..scene.spec() };
            let error = scene.back_up(&tight).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Source, "{}", error.chain());

            let strict = BackupSpec { unreadable: Unreadable::Fail, ..scene.spec() };
            let error = scene.back_up(&strict).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Source);
            assert!(error.to_string().contains("source/"), "{error}");
            assert_eq!(scene.count("snapshots"), 2, "only the first, and the one that could bear it");
            fs::set_permissions(source.join("secret"), fs::Permissions::from_mode(0o700)).unwrap();
        });
    })
    .join()
    .unwrap();
}

/// The snapshot's own time was wrong by years, in either way. `tests/bad_input` has what the clock means for a file's times.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_between_two_runs_hides_no_change() {
    let scene = Scene::new().await;
    for (number, hours) in [87_600, -87_600].into_iter().enumerate() {
        let wrong = Timestamp::now() + SignedDuration::from_hours(hours);
        scene.back_up(&BackupSpec { time: wrong, ..scene.spec() }).await.unwrap();
        // As long as before, and its own time is put back: only the inode tells.
        let (path, content) = (scene.source().join("f3"), noise(100 + number as u64, 4 << 20));
        let modified = path.metadata().unwrap().modified().unwrap();
        fs::write(&path, &content).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        let report = scene.back_up(&scene.spec()).await.unwrap();
        assert_eq!((report.files_new, report.total_files), (0, 12), "{hours} hours: {report:?}");
        let index = scene.repo.load_index(&scene.ctx).await.unwrap();
        let snapshot = scene.repo.load_snapshot(&report.snapshot).await.unwrap();
        let view = View::new(&scene.repo, &index, snapshot).unwrap();
        let node = view.stat(&path).await.unwrap().unwrap();
        let stored = view.read_range(&node, 0, 4 << 20).await.unwrap();
        assert!(stored == content, "{hours} hours: the change is not in the snapshot");
    }
    scene.assert_whole().await;
}

#[tokio::test]
async fn a_root_that_is_missing_is_no_empty_backup() {
    let scene = Scene::new().await;
    let spec = BackupSpec { roots: vec![scene.source(), scene.dir.path().join("nowhere")], ..scene.spec() };
    let error = scene.back_up(&spec).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Source);
    assert!(error.to_string().contains("nowhere"), "{error}");
    assert_eq!(scene.count("snapshots"), 0);
}

/// `/proc` is another file system everywhere.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_mounted_below_a_root_is_left_out_on_demand() {
    let scene = Scene::new().await;
    let spec = BackupSpec {
        roots: vec![PathBuf::from("/")],
        excludes: vec!["/*".to_owned(), "!/proc".to_owned()],
        one_file_system: true,
        ..scene.spec()
    };
    let report = scene.back_up(&spec).await.unwrap();
    let index = scene.repo.load_index(&scene.ctx).await.unwrap();
    let root = scene.repo.load_tree(&index, &report.tree).await.unwrap();
    let [proc] = root.nodes.as_slice() else { panic!("{root:?}") };
    assert_eq!(proc.name, b"proc");
    let below = scene.repo.load_tree(&index, &proc.subtree.unwrap()).await.unwrap();
    assert_eq!(below.nodes, [], "the directory is there, what is mounted on it is not");
}

#[test]
fn a_root_that_cannot_be_read_is_no_empty_backup() {
    std::thread::spawn(|| {
        become_ordinary();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let scene = Scene::new().await;
            lock_up(&scene.source());
            let error = scene.back_up(&scene.spec()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Source, "{}", error.chain());
            assert_eq!(scene.count("snapshots"), 0);
            fs::set_permissions(scene.source(), fs::Permissions::from_mode(0o700)).unwrap();
        });
    })
    .join()
    .unwrap();
}

/// Damage in the parent costs work, not the new snapshot: what it cannot vouch for is read and stored again.
#[tokio::test(flavor = "multi_thread")]
async fn content_that_the_index_lost_is_stored_again() {
    let scene = Scene::new().await;
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let first = scene.back_up(&scene.spec()).await.unwrap();
    for directory in ["index", "data"] {
        let directory = scene.dir.path().join("repo").join(directory);
        fs::remove_dir_all(&directory).unwrap();
        fs::create_dir(&directory).unwrap();
    }
    for i in 0..=255_u8 {
        fs::create_dir(scene.dir.path().join(format!("repo/data/{i:02x}"))).unwrap();
    }
    let second = scene.back_up(&scene.spec()).await.unwrap();
    assert_eq!(second.parent, Some(first.snapshot));
    // Not the trees: the root's holds the directories above the source, which other tests change. For the same reason
    // the first snapshot may have lost its root for good: what is to be whole is the second.
    assert_eq!(second.data_blobs, first.data_blobs);
    let lost = scene.dir.path().join("repo/snapshots").join(first.snapshot.to_string());
    fs::remove_file(lost).unwrap();
    scene.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parents_directories_are_read_many_at_a_time() {
    let scene = Scene::new().await;
    // Wide and deep, as people have it.
    for outer in 0..20 {
        for inner in 0..20 {
            let directory = scene.source().join(format!("d{outer}/e{inner}/f"));
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("file"), format!("{outer} {inner}")).unwrap();
        }
    }
    // Long enough ago that no file could have changed after the parent has read it.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let first = scene.back_up(&scene.spec()).await.unwrap();
    assert!(first.dirs_new > 800, "{first:?}");
    let before = scene.faults.count(Operation::Get, FileKind::Pack);
    let second = scene.back_up(&scene.spec()).await.unwrap();
    let requests = scene.faults.count(Operation::Get, FileKind::Pack) - before;
    assert_eq!((second.files_unmodified, second.files_changed), (412, 0), "{second:?}");
    assert!(requests < 20, "{requests} requests for {} directories", first.dirs_new);
    scene.assert_whole().await;
}

/// ext4 has it in the root of each file system, for root alone: a runner that is not root would call it unreadable.
#[tokio::test(flavor = "multi_thread")]
async fn what_mkfs_put_into_the_root_is_left_out_on_demand_unless_fsck_filled_it() {
    let scene = Scene::new().await;
    let lost = scene.source().join("lost+found");
    fs::create_dir(&lost).unwrap();
    fs::set_permissions(&lost, fs::Permissions::from_mode(0o700)).unwrap();
    let by_root = fs::metadata(&lost).unwrap().uid() == 0;
    let spec = BackupSpec { leave_lost_found: true, ..scene.spec() };
    let left = scene.back_up(&spec).await.unwrap();
    assert_eq!(left.passed_over, u64::from(by_root), "only root's is the file system's own");
    assert_eq!(left.excluded, 0, "no rule of anybody's");
    let kept = scene.back_up(&scene.spec()).await.unwrap();
    assert_eq!(kept.passed_over, 0, "as restic does");
    assert_eq!(kept.dirs_new + kept.dirs_changed + kept.dirs_unmodified, left.dirs_new + u64::from(by_root));
    fs::write(lost.join("#12"), "found by fsck").unwrap();
    let filled = scene.back_up(&spec).await.unwrap();
    assert_eq!((filled.passed_over, filled.total_files), (0, left.total_files + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_aside_is_no_parent_but_of_its_own_kind() {
    let scene = Scene::new().await;
    let aside = |tags: &[&str]| BackupSpec {
        aside_tag: Some("aside".to_owned()),
        tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
        ..scene.spec()
    };
    let first = scene.back_up(&aside(&["asides=1"])).await.unwrap();
    let second = scene.back_up(&aside(&["aside=x"])).await.unwrap();
    assert_eq!(second.parent, Some(first.snapshot), "it takes over what is there");
    let third = scene.back_up(&aside(&[])).await.unwrap();
    assert_eq!(third.parent, Some(first.snapshot), "not the one that was set aside");
    let fourth = scene.back_up(&aside(&["aside=y"])).await.unwrap();
    assert_eq!(fourth.parent, Some(third.snapshot));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_goes_after_the_run_has_begun_is_no_empty_backup() {
    let mut scene = Scene::new().await;
    let other = scene.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    let gone = other.clone();
    scene.ctx.events = Arc::new(Listener(move |event: &Event| {
        if matches!(event, Event::Phase("prepare")) {
            fs::remove_dir(&gone).unwrap();
        }
    }));
    let spec = BackupSpec { roots: vec![scene.source(), other], ..scene.spec() };
    let error = scene.back_up(&spec).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Source);
    assert!(error.to_string().contains("other"), "{error}");
    assert_eq!(scene.count("snapshots"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_path_within_another_root_is_saved_or_ends_the_run() {
    let scene = Scene::new().await;
    let disk = InMemory::mount(scene.source().join("mounted"));
    let (deep, beside) = (disk.0.join("way/deep"), disk.0.join("way/beside"));
    for dir in [&deep, &beside] {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("file"), "on another file system").unwrap();
    }
    let saved = async |roots: Vec<PathBuf>| {
        let spec = BackupSpec { roots, one_file_system: true, ..scene.spec() };
        let report = scene.back_up(&spec).await.unwrap();
        let index = scene.repo.load_index(&scene.ctx).await.unwrap();
        let snapshot = scene.repo.load_snapshot(&report.snapshot).await.unwrap();
        let view = View::new(&scene.repo, &index, snapshot).unwrap();
        let mut found = Vec::new();
        for dir in [&deep, &beside] {
            found.push(view.stat(&dir.join("file")).await.is_ok_and(|node| node.is_some()));
        }
        found
    };
    assert_eq!(saved(vec![scene.source()]).await, [false, false]);
    assert_eq!(saved(vec![scene.source(), disk.0.clone()]).await, [true, true]);
    assert_eq!(saved(vec![scene.source(), deep.clone()]).await, [true, false]);

    // A file that goes while the run begins, and one whose directory goes.
    for (named, goes) in [(scene.source().join("f3"), scene.source().join("f3")), (deep.join("file"), deep)] {
        let spec = BackupSpec { roots: vec![scene.source(), named.clone()], ..scene.spec() };
        let events = Arc::new(Listener(move |event: &Event| {
            if matches!(event, Event::Phase("prepare")) {
                let _ = fs::remove_file(&goes).or_else(|_| fs::remove_dir_all(&goes));
            }
        }));
        let ctx = Ctx { events, ..Ctx::default() };
        let holder = Holder::this_process("test", "test");
        let lock = scene.repo.lock(LockMode::Shared, &holder, Duration::ZERO, &[], &ctx).await.unwrap();
        let error = backup(&scene.repo, &lock, &spec, &ctx).await.unwrap_err();
        lock.release().await.unwrap();
        assert_eq!(error.kind(), ErrorKind::Source);
        assert!(error.to_string().contains(named.to_str().unwrap()), "{error}");
    }
}

/// A command line lies in `/proc` as a file of length 0, as other files of the kernel's and of some network mounts do.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_says_it_is_empty_is_read_to_its_end() {
    let scene = Scene::new().await;
    let word = "x".repeat(120_000);
    let mut child = std::process::Command::new("sleep")
        .arg("600")
        .env_clear()
        .envs((0..10).map(|n| (format!("V{n}"), word.clone())))
        .spawn()
        .unwrap();
    let path = PathBuf::from(format!("/proc/{}/environ", child.id()));
    let deadline = Instant::now() + Duration::from_mins(1);
    while fs::read(&path).unwrap().len() < 1_000_000 {
        assert!(Instant::now() < deadline, "the program was not started");
    }
    let content = fs::read(&path).unwrap();
    let spec = BackupSpec { roots: vec![path.clone()], ..scene.spec() };
    let report = scene.back_up(&spec).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let report = report.unwrap();
    assert_eq!((report.total_files, report.total_bytes), (1, content.len() as u64), "{report:?}");
    let index = scene.repo.load_index(&scene.ctx).await.unwrap();
    let snapshot = scene.repo.load_snapshot(&report.snapshot).await.unwrap();
    let view = View::new(&scene.repo, &index, snapshot).unwrap();
    let node = view.stat(&path).await.unwrap().unwrap();
    assert!(view.read_range(&node, 0, content.len() as u64).await.unwrap() == content);
}

/// A file system of its own in memory; gone at the end.
struct InMemory(PathBuf);

impl InMemory {
    fn mount(at: PathBuf) -> Self {
        fs::create_dir(&at).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"])
            .arg(&at)
            .status()
            .unwrap();
        assert!(mounted.success(), "this test mounts a file system: run it as root");
        Self(at)
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The snapshot lacks what the backup left out whether it was there or not: that is no reason to delete it.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_backup_left_out_is_not_deleted_as_extra() {
    let scene = Scene::new().await;
    let volume = scene.dir.path().join("volume");
    let left_out = ["uploads/a", "deep/x.tmp", "cache/object"];
    for file in left_out.iter().chain(&["file", "deep/file"]) {
        fs::create_dir_all(volume.join(file).parent().unwrap()).unwrap();
        fs::write(volume.join(file), "content").unwrap();
    }
    fs::write(volume.join("cache/CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55").unwrap();
    let spec = BackupSpec {
        roots: vec![volume.clone()],
        patterns_from: Some(volume.clone()),
        excludes: vec!["/uploads".into(), "*.tmp".into()],
        exclude_caches: true,
        ..scene.spec()
    };
    let report = scene.back_up(&spec).await.unwrap();
    assert_eq!((report.total_files, report.excluded), (3, 3));
    fs::create_dir(volume.join("new")).unwrap();
    for file in ["new/y.tmp", "new/goes", "goes"] {
        fs::write(volume.join(file), "later").unwrap();
    }
    let exact = RestoreSpec {
        snapshot: report.snapshot,
        subpath: Some(volume.clone()),
        target: volume.clone(),
        delete_extra: true,
        spare_left_out: true,
        spare_caches: true,
        ..RestoreSpec::default()
    };
    let restored = restore(&scene.repo, None, &exact, &scene.ctx).await.unwrap();
    assert_eq!((restored.faults.total, restored.files_deleted, restored.plan.delete.total()), (0, 2, 2));
    assert!(left_out.iter().chain(&["new/y.tmp", "file"]).all(|file| volume.join(file).exists()));
    assert!(!volume.join("goes").exists() && !volume.join("new/goes").exists());
    let as_restic = RestoreSpec { spare_left_out: false, spare_caches: false, ..exact };
    let restored = restore(&scene.repo, None, &as_restic, &scene.ctx).await.unwrap();
    assert_eq!((restored.faults.total, restored.files_deleted), (0, 6), "with the two directories");
    assert!(!left_out.iter().any(|file| volume.join(file).exists()));
}

/// A tag in the root of a volume would leave out all of it, and what is mounted below it is not known to who backs it up.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_not_left_out_for_a_tag_and_what_is_mounted_on_it_is_told_and_not_deleted() {
    const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55";
    let scene = Scene::new().await;
    let volume = scene.dir.path().join("volume");
    fs::create_dir_all(volume.join("cache")).unwrap();
    let disk = InMemory::mount(volume.join("mounted"));
    let _snapshots_of_the_server = InMemory::mount(volume.join(".snapshot"));
    for (file, content) in
        [("CACHEDIR.TAG", TAG), ("file", "kept"), ("cache/CACHEDIR.TAG", TAG), ("cache/file", "lost")]
    {
        fs::write(volume.join(file), content).unwrap();
    }
    let precious = disk.0.join("deep/precious");
    fs::create_dir(disk.0.join("deep")).unwrap();
    fs::write(&precious, "in no snapshot").unwrap();
    let spec = BackupSpec {
        roots: vec![volume.clone()],
        patterns_from: Some(volume.clone()),
        exclude_caches: true,
        one_file_system: true,
        borders_are_faults: true,
        ..scene.spec()
    };
    let report = scene.back_up(&spec).await.unwrap();
    assert_eq!(report.total_files, 3, "both tags and the file beside the first");
    assert_eq!((report.excluded, report.passed_over), (1, 2), "a rule left out one, two are mounted");
    assert_eq!((report.faults.total, &report.faults.first[0].path), (1, &disk.0), "{:?}", report.faults);
    let excluded = BackupSpec { excludes: vec!["/mounted".into()], ..spec.clone() };
    assert_eq!(scene.back_up(&excluded).await.unwrap().faults.total, 0, "somebody knows of it");

    let back = RestoreSpec {
        snapshot: report.snapshot,
        subpath: Some(volume.clone()),
        target: volume.clone(),
        delete_extra: true,
        ..RestoreSpec::default()
    };
    fs::remove_file(volume.join("cache/file")).unwrap();
    fs::write(volume.join("extra"), "goes").unwrap();
    let planned =
        restore(&scene.repo, None, &RestoreSpec { dry_run: true, ..back.clone() }, &scene.ctx).await.unwrap();
    assert_eq!(planned.plan.delete.total(), 1);
    let restored = restore(&scene.repo, None, &back, &scene.ctx).await.unwrap();
    assert_eq!((restored.faults.total, restored.files_deleted), (0, 1), "{:?}", restored.faults);
    assert!(precious.exists() && !volume.join("extra").exists());

    // Nor what is mounted where the snapshot has nothing, which keeps nobody from the rest.
    fs::create_dir(volume.join("extra")).unwrap();
    let later = InMemory::mount(volume.join("extra/later"));
    fs::write(later.0.join("x.log"), "in no snapshot").unwrap();
    fs::write(volume.join("extra/goes"), "goes").unwrap();
    fs::write(volume.join("file"), "changed").unwrap();
    let planned =
        restore(&scene.repo, None, &RestoreSpec { dry_run: true, ..back.clone() }, &scene.ctx).await.unwrap();
    assert_eq!((planned.faults.total, planned.plan.delete.total()), (0, 1));
    let restored = restore(&scene.repo, None, &back, &scene.ctx).await.unwrap();
    assert!(restored.faults.first[0].error.contains("mounted"), "{:?}", restored.faults);
    assert_eq!(fs::read_to_string(volume.join("file")).unwrap(), "kept");
    assert!(later.0.join("x.log").exists());

    // Where only a part is undone, nobody meant it.
    fs::write(volume.join("y.log"), "goes").unwrap();
    let include = vec!["*.log".into(), "/file".into()];
    let narrowed = RestoreSpec { include, reach: Reach::Undo, ..back };
    let restored = restore(&scene.repo, None, &narrowed, &scene.ctx).await.unwrap();
    assert_eq!((restored.faults.total, restored.plan.delete.total(), restored.files_deleted), (0, 1, 1));
    assert!(later.0.join("x.log").exists() && !volume.join("y.log").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_that_could_not_be_read_are_asked_for_again_by_the_next_backup() {
    let scene = Scene::new().await;
    let disk = InMemory::mount(scene.dir.path().join("disk"));
    let file = disk.0.join("file");
    fs::write(&file, "content").unwrap();
    // Their names together are longer than the kernel's list of them may be.
    for n in 0..300 {
        let name = format!("user.{n:0>240}");
        rustix::fs::setxattr(&file, name, b"value", rustix::fs::XattrFlags::empty()).unwrap();
    }
    let spec = BackupSpec { roots: vec![disk.0.clone()], ..scene.spec() };
    for run in 0..2 {
        // Old enough to be taken over unread, if it was whole.
        let changed = fs::metadata(&file).unwrap().ctime();
        while Timestamp::now().as_second() < changed + 4 {
            std::thread::sleep(Duration::from_millis(100));
        }
        let report = scene.back_up(&spec).await.unwrap();
        assert_eq!((report.faults.total, report.total_files), (1, 1), "run {run}: {:?}", report.faults);
        assert_eq!((report.files_unmodified, report.faults.first[0].action), (0, "xattr"), "run {run}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_as_young_as_the_last_backup_is_read_again() {
    let scene = Scene::new().await;
    for entry in fs::read_dir(scene.source()).unwrap() {
        // A change of the moment, to the file's inode.
        fs::set_permissions(entry.unwrap().path(), PermissionsExt::from_mode(0o600)).unwrap();
    }
    scene.back_up(&scene.spec()).await.unwrap();
    let young = scene.back_up(&scene.spec()).await.unwrap();
    assert_eq!((young.files_unmodified, young.files_changed, young.data_blobs), (0, 12, 0), "{young:?}");
    let newest =
        fs::read_dir(scene.source()).unwrap().map(|e| e.unwrap().metadata().unwrap().ctime()).max().unwrap();
    while Timestamp::now().as_second() < newest + 4 {
        std::thread::sleep(Duration::from_millis(100));
    }
    scene.back_up(&scene.spec()).await.unwrap();
    let old = scene.back_up(&scene.spec()).await.unwrap();
    assert_eq!((old.files_unmodified, old.files_changed), (12, 0), "{old:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_backups_into_one_repository_at_once_are_both_whole() {
    let scene = Scene::new().await;
    let other = scene.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    // Half of it is what the other one stores at the same time.
    for i in 6..18_u64 {
        fs::write(other.join(format!("g{i}")), noise(i, 4 << 20)).unwrap();
    }
    let second = BackupSpec { roots: vec![other.clone()], ..scene.spec() };
    let first = scene.spec();
    let (one, two) = tokio::join!(scene.back_up(&first), scene.back_up(&second));
    scene.assert_whole().await;
    let index = scene.repo.load_index(&scene.ctx).await.unwrap();
    for (report, root) in [(one.unwrap(), scene.source()), (two.unwrap(), other)] {
        let snapshot = scene.repo.load_snapshot(&report.snapshot).await.unwrap();
        let view = View::new(&scene.repo, &index, snapshot).unwrap();
        for entry in fs::read_dir(root).unwrap() {
            let path = entry.unwrap().path();
            let node = view.stat(&path).await.unwrap().unwrap();
            let stored = view.read_range(&node, 0, 4 << 20).await.unwrap();
            assert!(stored == fs::read(&path).unwrap(), "{}", path.display());
        }
    }
}
