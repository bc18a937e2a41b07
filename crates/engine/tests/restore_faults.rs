//! Damaged repositories, failing stores, full disks, restores that are stopped: what is good comes back, what is
//! not is named, and nothing half written has a file's name.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets a surprise must fail, in its helpers too"
)]

mod restoring;
mod stock;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast_engine::check::{CheckSpec, ReadData, Severity, check};
use holdfast_engine::restore::{RestoreSpec, restore};
use holdfast_engine::store::FileKind;
use holdfast_engine::store::fault::{Fault, Operation, Trouble};
use holdfast_engine::{Ctx, ErrorKind, Event, EventSink, Id};
use restoring::{
    back_up, check_all, check_structure, init, open, open_faulty, packs, run, run_clean, scratch, spec,
    temporary_files,
};
use stock::{PASSWORD, Restic, assert_same, noise, settle};

/// Forty files of a megabyte, each with its own content, in several packs.
async fn prepared(dir: &Path) -> RestoreSpec {
    let (source, at) = (dir.join("source"), dir.join("repo"));
    fs::create_dir(&source).unwrap();
    for i in 0..40_u64 {
        fs::write(source.join(format!("f{i:02}")), noise(i + 1, 1 << 20)).unwrap();
    }
    settle(&source);
    let repo = init(&at).await;
    let snapshot = back_up(&repo, &source).await.snapshot;
    spec(snapshot, &source, &dir.join("target"))
}

/// Every file that is there must be right, whatever happened; gives how many.
fn assert_no_wrong_file(dir: &Path) -> usize {
    assert_eq!(temporary_files(&dir.join("target")), Vec::<PathBuf>::new());
    let mut good = 0;
    for entry in fs::read_dir(dir.join("target")).unwrap() {
        let name = entry.unwrap().file_name();
        let same = fs::read(dir.join("source").join(&name)).unwrap()
            == fs::read(dir.join("target").join(&name)).unwrap();
        assert!(same, "{} is there and wrong", name.display());
        good += 1;
    }
    good
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(make_writable(path)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

fn make_writable(path: &Path) -> &Path {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_costs_one_file_and_is_found() {
    let dir = scratch();
    let spec = prepared(dir.path()).await;
    let at = dir.path().join("repo");
    let repo = open(&at).await;
    assert!(check_all(&repo).await.is_sound());
    let pack = packs(&at).remove(0);
    flip(&pack, 1000);
    let report = run(&repo, &RestoreSpec { delete_extra: true, ..spec.clone() }).await.unwrap();
    assert_eq!((report.faults.total, report.files_restored), (1, 39), "{:?}", report.faults.first);
    assert!(!report.verified && report.delete_skipped);
    assert_eq!(assert_no_wrong_file(dir.path()), 39);

    assert!(check_structure(&repo).await.is_sound(), "only reading can find it");
    let found = check_all(&repo).await;
    let name = pack.file_name().unwrap().to_str().unwrap();
    assert!(
        found.findings.iter().all(|f| f.severity == Severity::Error && f.object.contains(name)),
        "{found:?}"
    );
    assert_eq!(found.errors, 2, "the pack's own digest, and one blob: {:?}", found.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_has_one_finding_for_all_its_lost_blobs() {
    let dir = scratch();
    prepared(dir.path()).await;
    let at = dir.path().join("repo");
    let pack = packs(&at).remove(0);
    for place in (1000..pack.metadata().unwrap().len() - 1000).step_by(100_000) {
        flip(&pack, place);
    }
    let found = check_all(&open(&at).await).await;
    assert_eq!(found.errors, 2, "the pack's own digest, and its blobs: {:?}", found.findings);
    assert!(found.findings.iter().any(|f| f.text.contains(" more of its ")), "{:?}", found.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_of_another_size_is_told_and_not_read() {
    let dir = scratch();
    prepared(dir.path()).await;
    let at = dir.path().join("repo");
    let all = packs(&at);
    // No memory holds it.
    File::options().write(true).open(make_writable(&all[0])).unwrap().set_len(200 << 30).unwrap();
    let found = check_all(&open(&at).await).await;
    assert_eq!((found.errors, found.packs_read), (1, all.len() as u64 - 1), "{:?}", found.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_check_together_read_everything() {
    let dir = scratch();
    prepared(dir.path()).await;
    let repo = open(&dir.path().join("repo")).await;
    let all = packs(&dir.path().join("repo"));
    assert!(all.len() > 2, "{} packs", all.len());
    flip(&all[1], 4711);
    let check =
        async |read_data| check(&repo, None, &CheckSpec { read_data }, &Ctx::default()).await.unwrap();
    let mut found = Vec::new();
    let mut read = 0;
    for n in 1..=7 {
        let report = check(ReadData::Subset { n, m: 7 }).await;
        read += report.packs_read;
        found.extend((!report.is_sound()).then_some(n));
    }
    // Which part a pack is in goes by the first byte of its id, as for restic.
    let id: Id = all[1].file_name().unwrap().to_str().unwrap().parse().unwrap();
    assert_eq!(found, [id.as_bytes()[0] % 7 + 1]);
    assert_eq!(read, all.len() as u64);
    assert_eq!(check(ReadData::None).await.packs_read, 0);
    assert!(!check(ReadData::Fraction(1.0)).await.is_sound());
    assert_eq!(check(ReadData::Bytes(1)).await.packs_read, 1, "at least one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_and_a_short_pack_cost_their_files_and_are_found() {
    let dir = scratch();
    let spec = prepared(dir.path()).await;
    let at = dir.path().join("repo");
    let (first, second) = (packs(&at).remove(0), packs(&at).remove(1));
    fs::remove_file(&first).unwrap();
    File::options().write(true).open(make_writable(&second)).unwrap().set_len(5 << 20).unwrap();
    let repo = open(&at).await;
    let report = run(&repo, &spec).await.unwrap();
    assert_eq!(report.faults.total + report.files_restored, 40);
    assert!(report.faults.total > 10 && report.files_restored > 4, "{}", report.files_restored);
    assert_eq!(assert_no_wrong_file(dir.path()) as u64, report.files_restored);

    let found = check_structure(&repo).await;
    let says = |text: &str| found.findings.iter().filter(|f| f.text.contains(text)).count();
    assert_eq!((says("is missing; the index"), says("by the index it should have")), (1, 1), "{found:#?}");
    assert!(says("its content at byte 0") > 5, "the files it costs are named: {found:#?}");
    let stock = Restic::newest(&at).output(["check"]);
    assert!(!stock.status.success(), "stock restic agrees that something is wrong");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_directories_indexes_and_snapshots_are_found() {
    let dir = scratch();
    let spec = prepared(dir.path()).await;
    let at = dir.path().join("repo");
    let repo = open(&at).await;
    let tree_pack = packs(&at).pop().unwrap();
    let kept = fs::read(&tree_pack).unwrap();

    flip(&tree_pack, 200);
    let damaged = check_structure(&repo).await;
    assert!(!damaged.is_sound());
    let error = run(&repo, &spec).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Corrupt), "{error}");
    fs::write(&tree_pack, &kept).unwrap();
    assert!(check_structure(&repo).await.is_sound());

    let index = fs::read_dir(at.join("index")).unwrap().next().unwrap().unwrap().path();
    flip(&index, 50);
    let found = check_structure(&repo).await;
    assert!(found.findings.iter().any(|f| f.object.starts_with("index ")), "{found:#?}");
    assert!(found.findings.iter().any(|f| f.text.contains("in no index")), "{found:#?}");
    flip(&index, 50);

    let snapshot = fs::read_dir(at.join("snapshots")).unwrap().next().unwrap().unwrap().path();
    flip(&snapshot, 50);
    let found = check_structure(&repo).await;
    assert_eq!((found.errors, found.snapshots), (1, 0), "{found:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_on_the_way_is_read_again() {
    let dir = scratch();
    let spec = prepared(dir.path()).await;
    let (repo, faults) = open_faulty(&dir.path().join("repo")).await;
    for after in [1, 3, 5] {
        let fault = Fault { after, ..Fault::once(Operation::Get, FileKind::Pack, Trouble::Flip(70_000)) };
        faults.add(fault);
    }
    faults.add(Fault {
        after: 7,
        ..Fault::once(Operation::Get, FileKind::Pack, Trouble::Fail(ErrorKind::Corrupt))
    });
    run_clean(&repo, &spec).await;
    assert_same(&dir.path().join("source"), &spec.target, "after damage on the way");

    let faulted = Fault { after: 2, ..Fault::once(Operation::Get, FileKind::Pack, Trouble::Flip(9_999)) };
    faults.add(faulted);
    let report = check_all(&repo).await;
    assert!(report.is_sound(), "{:?}", report.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_ends_the_restore_and_the_next_run_goes_on() {
    let dir = scratch();
    let spec = prepared(dir.path()).await;
    let (repo, faults) = open_faulty(&dir.path().join("repo")).await;
    faults.add(Fault {
        after: 6,
        ..Fault::always(Operation::Get, FileKind::Pack, Trouble::Fail(ErrorKind::Unreachable))
    });
    let error = run(&repo, &spec).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    let done = assert_no_wrong_file(dir.path()) as u64;
    assert!(done < 40);
    faults.heal();
    let report = run_clean(&repo, &spec).await;
    assert_eq!((report.files_unchanged, report.files_restored), (done, 40 - done));
    assert_same(&dir.path().join("source"), &spec.target, "after the store came back");
}

/// Does something when a phase begins or so many bytes were written.
struct When<F: Fn(&Event) + Send + Sync>(F);

impl<F: Fn(&Event) + Send + Sync> EventSink for When<F> {
    fn event(&self, event: Event) {
        (self.0)(&event);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_restore_leaves_no_half_file_and_can_go_on() {
    let dir = scratch();
    let spec = prepared(dir.path()).await;
    let (repo, faults) = open_faulty(&dir.path().join("repo")).await;
    // Slow enough that it is cancelled in the middle.
    faults.add(Fault {
        after: 8,
        ..Fault::always(Operation::Get, FileKind::Pack, Trouble::Delay(Duration::from_mins(1)))
    });
    let ctx = Ctx::default();
    let cancel = ctx.cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(700)).await;
        cancel.cancel();
    });
    let began = Instant::now();
    let error = restore(&repo, None, &spec, &ctx).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert!(began.elapsed() < Duration::from_secs(20));
    let done = assert_no_wrong_file(dir.path());
    assert!((1..40).contains(&done), "{done}");
    faults.heal();
    run_clean(&repo, &spec).await;
    assert_same(&dir.path().join("source"), &spec.target, "after going on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_half_compared_is_not_taken_for_done() {
    let dir = scratch();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).unwrap();
    let content = noise(1, 160 << 20);
    fs::write(source.join("large"), &content).unwrap();
    settle(&source);
    let repo = init(&dir.path().join("repo")).await;
    let snapshot = back_up(&repo, &source).await.snapshot;
    // There already, but for its last byte.
    fs::create_dir(&target).unwrap();
    let mut other = content.clone();
    *other.last_mut().unwrap() ^= 1;
    let spec = RestoreSpec { verify: false, ..spec(snapshot, &source, &target) };
    let mut stopped = 0;
    // Comparing takes a tenth of a second, more or less.
    for delay in [5, 10, 20, 40, 80] {
        fs::write(target.join("large"), &other).unwrap();
        let mut ctx = Ctx::default();
        let cancel = ctx.cancel.clone();
        ctx.events = Arc::new(When(move |event: &Event| {
            let cancel = cancel.clone();
            if matches!(event, Event::Phase("restore")) {
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(delay));
                    cancel.cancel();
                });
            }
        }));
        match restore(&repo, None, &spec, &ctx).await {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
                stopped += 1;
            }
            Ok(report) => assert!(report.faults.is_empty()),
        }
        restore(&repo, None, &spec, &Ctx::default()).await.unwrap();
        assert!(fs::read(target.join("large")).unwrap() == content, "stopped after {delay} ms");
    }
    assert!(stopped > 0, "it was never stopped in the middle");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_goes_before_its_links_are_made_is_told() {
    let dir = scratch();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    for sub in ["links", "links/below", "good"] {
        fs::create_dir_all(source.join(sub)).unwrap();
        std::os::unix::fs::symlink("elsewhere", source.join(sub).join("link")).unwrap();
    }
    let repo = init(&dir.path().join("repo")).await;
    let snapshot = back_up(&repo, &source).await.snapshot;
    let gone = target.join("links");
    let remove = When(move |event: &Event| {
        if matches!(event, Event::Phase("finish")) {
            fs::remove_dir_all(&gone).unwrap();
        }
    });
    let ctx = Ctx { events: Arc::new(remove), ..Ctx::default() };
    let report = restore(&repo, None, &spec(snapshot, &source, &target), &ctx).await.unwrap();
    // Once, for it and all that is below it.
    assert_eq!(report.faults.total, 1, "{:?}", report.faults.first);
    assert_eq!(report.faults.first[0].path, Path::new("/links"));
    assert!(!report.verified && target.join("good/link").is_symlink());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_replaces_a_file_that_was_right_but_too_long_is_read_back() {
    let dir = scratch();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir_all(&source).unwrap();
    fs::copy("/bin/sleep", source.join("program")).unwrap();
    settle(&source);
    let repo = init(&dir.path().join("repo")).await;
    let snapshot = back_up(&repo, &source).await.snapshot;
    let spec = spec(snapshot, &source, &target);
    run_clean(&repo, &spec).await;
    // While it runs, nobody may write to it.
    let there = target.join("program");
    fs::OpenOptions::new()
        .append(true)
        .open(&there)
        .unwrap()
        .set_len(there.metadata().unwrap().len() + 1)
        .unwrap();
    let mut running = Command::new(&there).arg("600").spawn().unwrap();
    let report = run(&repo, &spec).await;
    running.kill().unwrap();
    running.wait().unwrap();
    let report = report.unwrap();
    assert_eq!((report.faults.total, report.files_restored), (0, 1), "{:?}", report.faults.first);
    assert_eq!(report.bytes_verified, source.join("program").metadata().unwrap().len());
    assert_same(&source, &target, "the longer program");
}

/// What of a restore is on the disk when it says that it is done: looked at beside the kernel, which has more in memory.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_called_restored_is_on_the_disk() {
    let dir = scratch();
    let (source, image, at) = (dir.path().join("source"), dir.path().join("image"), dir.path().join("disk"));
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::create_dir(&at).unwrap();
    fs::write(source.join("file"), noise(1, 300_000)).unwrap();
    std::os::unix::fs::symlink("../file", source.join("sub/link")).unwrap();
    let repo = init(&dir.path().join("repo")).await;
    let snapshot = back_up(&repo, &source).await.snapshot;
    let must = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    must(Command::new("mkfs.ext4").arg("-q").arg(&image));
    must(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at));
    let disk = SmallDisk(at.clone());
    let plain = RestoreSpec { verify: false, ..spec(snapshot, &source, &at.join("target")) };
    let report = run(&repo, &plain).await.unwrap();
    let ask = |what: &str| must(Command::new("debugfs").args(["-R", what]).arg(&image));
    let (content, link) = (ask("cat /target/file"), ask("stat /target/sub/link"));
    drop(disk);
    assert_eq!((report.faults.total, report.files_restored), (0, 1));
    assert!(content == noise(1, 300_000), "{} of its bytes are on the disk", content.len());
    assert!(String::from_utf8_lossy(&link).contains("../file"), "{}", String::from_utf8_lossy(&link));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_gives_back_otherwise_is_found_by_verifying() {
    let dir = scratch();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).unwrap();
    let length = 160 << 20;
    fs::write(source.join("large"), noise(1, length)).unwrap();
    settle(&source);
    let repo = init(&dir.path().join("repo")).await;
    let snapshot = back_up(&repo, &source).await.snapshot;
    let name = target.join("large");
    // Its last byte changes as soon as the file has its name, long before reading it back comes to that.
    let spoiler = std::thread::spawn(move || {
        let deadline = Instant::now() + Duration::from_mins(1);
        while !name.exists() {
            assert!(Instant::now() < deadline, "nothing was written");
            std::thread::sleep(Duration::from_micros(200));
        }
        flip(&name, length as u64 - 1);
    });
    let spec = RestoreSpec { verify: true, ..spec(snapshot, &source, &target) };
    let report = restore(&repo, None, &spec, &Ctx::default()).await.unwrap();
    spoiler.join().unwrap();
    assert!(!report.verified);
    let fault = &report.faults.first[0];
    assert_eq!((report.faults.total, fault.action), (1, "verify"), "{fault:?}");
    // And mended by the next run, which compares what is there.
    let again = run_clean(&repo, &spec).await;
    assert!(again.verified && again.bytes_verified > 0);
    assert_same(&source, &target, "after the second run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_restore_goes_on_where_it_was() {
    let dir = scratch();
    let (source, at, target) =
        (dir.path().join("source"), dir.path().join("repo"), dir.path().join("target"));
    fs::create_dir(&source).unwrap();
    for i in 0..6_u64 {
        fs::write(source.join(format!("f{i}")), noise(i + 1, 60 << 20)).unwrap();
    }
    settle(&source);
    let repo = init(&at).await;
    let snapshot = back_up(&repo, &source).await.snapshot;
    for megabytes in [20, 150, 280] {
        let mut child = Command::new(restoring::restore_program())
            .args([&at, &target])
            .env("RESTIC_PASSWORD", PASSWORD)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let inner = target.join(source.strip_prefix("/").unwrap());
        let deadline = Instant::now() + Duration::from_mins(1);
        while written(&inner) < megabytes << 20 {
            assert!(Instant::now() < deadline, "nothing is written");
            if child.try_wait().unwrap().is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What has its own name is whole.
        for entry in fs::read_dir(&inner).unwrap() {
            let name = entry.unwrap().file_name();
            if !name.to_string_lossy().starts_with('.') {
                assert!(fs::read(inner.join(&name)).unwrap() == fs::read(source.join(&name)).unwrap());
            }
        }
    }
    let whole = RestoreSpec { subpath: None, ..spec(snapshot, &source, &target) };
    let report = run_clean(&repo, &whole).await;
    assert!(report.bytes_written < 300 << 20, "it began anew: {}", report.bytes_written);
    assert_same(&source, &target.join(source.strip_prefix("/").unwrap()), "after three kills");
}

/// Bytes that take room below a directory.
fn written(at: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(at) else { return 0 };
    entries
        .filter_map(|e| e.ok()?.metadata().ok())
        .map(|m| std::os::unix::fs::MetadataExt::blocks(&m) * 512)
        .sum()
}

/// A file system of its own that is small; gone at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, megabytes: u32) -> Self {
        fs::create_dir(at).unwrap();
        let size = format!("size={megabytes}m,nr_inodes=1000");
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).status().unwrap();
        assert!(status.success(), "this test mounts a small file system: run it as root");
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_too_small_is_refused_before_anything_is_written() {
    let dir = scratch();
    let spec = prepared(dir.path()).await;
    let repo = open(&dir.path().join("repo")).await;
    let disk = SmallDisk::mount(&dir.path().join("disk"), 30);
    let small = RestoreSpec { target: disk.0.join("target"), ..spec };
    let error = run(&repo, &small).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TargetFull);
    assert!(error.to_string().contains("41943040"), "{error}");
    assert!(!small.target.exists());
    let plan = run(&repo, &RestoreSpec { dry_run: true, ..small }).await.unwrap().plan;
    assert!(plan.bytes_required > plan.bytes_available, "a dry run shows it: {plan:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_fills_up_stops_the_restore_at_once() {
    let dir = scratch();
    let spec = prepared(dir.path()).await;
    let repo = open(&dir.path().join("repo")).await;
    let disk = SmallDisk::mount(&dir.path().join("disk"), 60);
    let target = disk.0.join("target");
    let taken = Arc::new(AtomicBool::new(false));
    let ballast = disk.0.join("somebody else's");
    let once = Arc::clone(&taken);
    let path = ballast.clone();
    let take_room = When(move |event: &Event| {
        // After the room was looked at, somebody takes it.
        if matches!(event, Event::Phase("restore")) && !once.swap(true, Ordering::SeqCst) {
            fs::write(&path, vec![1; 35 << 20]).unwrap();
        }
    });
    let ctx = Ctx { events: Arc::new(take_room), ..Ctx::default() };
    let small = RestoreSpec { target: target.clone(), ..spec.clone() };
    let error = restore(&repo, None, &small, &ctx).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TargetFull, "{error}");
    assert!(taken.load(Ordering::SeqCst));
    assert_eq!(temporary_files(&target), Vec::<PathBuf>::new());
    fs::remove_file(&ballast).unwrap();
    run_clean(&repo, &small).await;
    assert_same(&dir.path().join("source"), &target, "after room was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_snapshot_is_missing() {
    let dir = scratch();
    let spec = prepared(dir.path()).await;
    let repo = open(&dir.path().join("repo")).await;
    let error = run(&repo, &RestoreSpec { snapshot: Id::hash(b"none"), ..spec }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
}
