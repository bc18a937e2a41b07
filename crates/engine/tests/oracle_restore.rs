//! What stock restic wrote must come back as it was; and what a restore does to a target that is not empty.

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
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use holdfast_engine::restore::{Counts, Overwrite, Reach, RestoreSpec};
use holdfast_engine::{ErrorKind, Repository, browse};
use restoring::{back_up, check_all, init, latest, open, run, run_clean, scratch, spec, temporary_files};
use stock::{Restic, assert_same, build_source, facts, noise, settle};

#[tokio::test(flavor = "multi_thread")]
async fn what_every_restic_wrote_comes_back() {
    let dir = scratch();
    for (version, format) in [("0.19", "2"), ("0.18", "1"), ("0.14", "2")] {
        let (source, at) =
            (dir.path().join(format!("source {version}")), dir.path().join(format!("repo {version}")));
        build_source(&source);
        if version == "0.14" {
            // It writes link targets that are not text with replacement characters.
            fs::remove_file(source.join("links/raw")).unwrap();
            settle(&source.join("links"));
        }
        let restic = Restic::new(version, &at);
        restic.run(["init", "--repository-version", format]);
        restic.backup(&source, "oracle", &[]);
        let repo = open(&at).await;
        assert_eq!(repo.version().to_string(), format);
        let target = dir.path().join(format!("target {version}"));
        let report = run_clean(&repo, &spec(latest(&repo).await, &source, &target)).await;
        assert_same(&source, &target, &format!("written by restic {version}"));
        assert_eq!(temporary_files(&target), Vec::<PathBuf>::new());
        assert!(report.bytes_verified >= report.bytes_written);
        let sparse = target.join("sizes/sparse").metadata().unwrap();
        assert!(sparse.blocks() * 512 < sparse.size() / 4, "{} blocks", sparse.blocks());
        let check = check_all(&repo).await;
        assert!(check.is_sound(), "{:#?}", check.findings);
        assert_eq!(check.packs_read, check.packs);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_subpath_the_snapshots_own_paths_are_made() {
    let dir = scratch();
    let (source, at, target) =
        (dir.path().join("source"), dir.path().join("repo"), dir.path().join("target"));
    build_source(&source);
    let repo = init(&at).await;
    let snapshot = back_up(&repo, &source).await.snapshot;
    let whole =
        RestoreSpec { subpath: None, sparse: false, verify: false, ..spec(snapshot, &source, &target) };
    run_clean(&repo, &whole).await;
    assert_same(&source, &target.join(source.strip_prefix("/").unwrap()), "the whole snapshot");
}

/// A small source in a repository of ours.
async fn prepared(dir: &Path) -> (Repository, RestoreSpec) {
    let (source, at) = (dir.join("source"), dir.join("repo"));
    fs::create_dir_all(source.join("sub/deep")).unwrap();
    fs::write(source.join("large"), noise(1, 20 << 20)).unwrap();
    fs::write(source.join("sub/a.txt"), "a").unwrap();
    fs::write(source.join("sub/b.bin"), noise(2, 3000)).unwrap();
    fs::write(source.join("sub/deep/c.txt"), "c").unwrap();
    fs::write(source.join("empty"), "").unwrap();
    symlink("sub/a.txt", source.join("link")).unwrap();
    settle(&source);
    let repo = init(&at).await;
    let snapshot = back_up(&repo, &source).await.snapshot;
    let spec = spec(snapshot, &source, &dir.join("target"));
    (repo, spec)
}

/// More files than are written together: one window is written while the next is filled, and the one before read back.
#[tokio::test(flavor = "multi_thread")]
async fn more_files_than_one_window_holds_come_back() {
    /// A window holds 8,000 files.
    const FILES: usize = 16_500;
    /// And one more name.
    const NAMES: u64 = FILES as u64 + 1;
    let dir = scratch();
    let (source, at, target) =
        (dir.path().join("source"), dir.path().join("repo"), dir.path().join("target"));
    let path = |n: usize| format!("{:02}/{n:05}", n / 500);
    for n in 0..FILES {
        if n % 500 == 0 {
            fs::create_dir_all(source.join(path(n)).parent().unwrap()).unwrap();
        }
        fs::write(source.join(path(n)), format!("file {n}")).unwrap();
    }
    // Two names, of which each is in another window.
    fs::hard_link(source.join(path(3)), source.join("32/zz linked")).unwrap();
    for n in 0..FILES.div_ceil(500) {
        settle(&source.join(format!("{n:02}")));
    }
    settle(&source);
    let repo = init(&at).await;
    let snapshot = back_up(&repo, &source).await.snapshot;
    let spec = spec(snapshot, &source, &target);
    let report = run_clean(&repo, &spec).await;
    assert_eq!(report.files_restored, NAMES);
    assert_same(&source, &target, "of three windows");
    // Of each window one is gone and one is another: of the same length, and too short.
    let spoilt = [(40, "FILE 40"), (9_000, "file 9001"), (16_499, "file")];
    for (n, text) in spoilt {
        fs::write(target.join(path(n)), text).unwrap();
        fs::remove_file(target.join(path(n - 1))).unwrap();
    }
    let report = run_clean(&repo, &spec).await;
    assert_eq!((report.files_restored, report.files_unchanged), (6, NAMES - 6));
    assert_same(&source, &target, "of three windows, again");
}

#[tokio::test(flavor = "multi_thread")]
async fn running_again_leaves_everything_alone() {
    let dir = scratch();
    let (source, at, target) =
        (dir.path().join("source"), dir.path().join("repo"), dir.path().join("target"));
    build_source(&source);
    let repo = init(&at).await;
    let snapshot = back_up(&repo, &source).await.snapshot;
    let spec = spec(snapshot, &source, &target);
    let first = run_clean(&repo, &spec).await;
    let changed = |at: &Path| {
        let stat = at.symlink_metadata().unwrap();
        (stat.ino(), stat.ctime(), stat.ctime_nsec())
    };
    let paths: Vec<PathBuf> = facts(&target).into_keys().map(|p| target.join(p)).collect();
    let before: Vec<_> = paths.iter().map(|p| changed(p)).collect();
    for verify in [false, true] {
        let again = run_clean(&repo, &RestoreSpec { verify, ..spec.clone() }).await;
        assert_eq!((again.files_restored, again.bytes_written), (0, 0));
        assert_eq!(again.files_unchanged, first.files_restored);
        assert_eq!(again.plan.unchanged.total(), first.plan.create.total());
    }
    let after: Vec<_> = paths.iter().map(|p| changed(p)).collect();
    assert_eq!(before, after, "a backup after it would read changed files again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_target_becomes_what_the_snapshot_says() {
    let dir = scratch();
    let (repo, mut spec) = prepared(dir.path()).await;
    let (source, target) = (dir.path().join("source"), spec.target.clone());
    run_clean(&repo, &spec).await;

    // Some bytes in the middle of a large file: only their chunk is written, and into the same file.
    let large = target.join("large");
    let inode = large.metadata().unwrap().ino();
    File::options().write(true).open(&large).unwrap().write_all_at(b"changed", 10 << 20).unwrap();
    let report = run_clean(&repo, &spec).await;
    assert!(report.bytes_written > 0 && report.bytes_written <= 8 << 20, "{}", report.bytes_written);
    assert_eq!((report.plan.change.files, report.files_restored), (1, 1));
    assert_eq!(large.metadata().unwrap().ino(), inode);
    assert_same(&source, &target, "bytes changed");

    // All sorts of damage at once.
    File::options().write(true).open(&large).unwrap().set_len(1 << 20).unwrap();
    fs::write(target.join("empty"), "no longer").unwrap();
    fs::remove_file(target.join("sub/a.txt")).unwrap();
    symlink("/etc/passwd", target.join("sub/a.txt")).unwrap();
    fs::remove_file(target.join("sub/b.bin")).unwrap();
    fs::create_dir_all(target.join("sub/b.bin/with/content")).unwrap();
    fs::remove_dir_all(target.join("sub/deep")).unwrap();
    fs::write(target.join("sub/deep"), "a file in place of a directory").unwrap();
    fs::remove_file(target.join("link")).unwrap();
    symlink("elsewhere", target.join("link")).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o700)).unwrap();
    fs::create_dir_all(target.join("extra/of/several")).unwrap();
    fs::write(target.join("extra/of/several/levels"), "x").unwrap();
    fs::create_dir(target.join("lost+found")).unwrap();

    // Without leave to delete, a directory stays, and that is told.
    let report = run(&repo, &spec).await.unwrap();
    assert_eq!(report.faults.total, 1, "{:?}", report.faults.first);
    assert_eq!(report.faults.first[0].path, Path::new("/sub/b.bin"));
    assert!(target.join("extra/of/several/levels").exists());
    assert_eq!(fs::read(target.join("sub/a.txt")).unwrap(), b"a");

    spec.delete_extra = true;
    let plan = run_clean(&repo, &RestoreSpec { dry_run: true, verify: false, ..spec.clone() }).await.plan;
    assert_eq!(plan.delete, Counts { files: 1, dirs: 3, others: 0 });
    assert_eq!(plan.replace, Counts { files: 1, ..Counts::default() });
    let report = run_clean(&repo, &spec).await;
    assert!(report.files_deleted >= 4 && !report.delete_skipped);
    fs::remove_dir(target.join("lost+found")).expect("the file system's own directory was left");
    settle_root(&source, &target);
    assert_same(&source, &target, "after all sorts of damage");
}

/// Taking lost+found away has renewed the directory's time.
fn settle_root(source: &Path, target: &Path) {
    let modified = source.metadata().unwrap().modified().unwrap();
    File::open(target).unwrap().set_modified(modified).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn same_size_and_time_is_believed_only_where_that_is_asked_for() {
    let dir = scratch();
    let (repo, spec) = prepared(dir.path()).await;
    run_clean(&repo, &spec).await;
    let path = spec.target.join("sub/b.bin");
    let trusting = RestoreSpec { overwrite: Overwrite::IfChanged, verify: false, ..spec.clone() };
    for comparing in [
        RestoreSpec { verify: false, ..spec.clone() },
        spec.clone(),
        RestoreSpec { overwrite: Overwrite::IfChanged, ..spec.clone() },
    ] {
        rot(&path);
        let report = run_clean(&repo, &trusting).await;
        assert_eq!((report.files_restored, report.files_unchanged), (0, 5));
        assert_ne!(fs::read(&path).unwrap(), noise(2, 3000));
        let report = run_clean(&repo, &comparing).await;
        assert_eq!((report.files_restored, report.files_unchanged), (1, 4), "{comparing:?}");
        assert_eq!(fs::read(&path).unwrap(), noise(2, 3000), "{comparing:?}");
    }
}

/// Changes bytes of a file, and neither its size nor its time.
fn rot(path: &Path) {
    let modified = path.metadata().unwrap().modified().unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(b"rot", 100).unwrap();
    file.set_modified(modified).unwrap();
}

/// Fills a target with what is rotten, newer and older than in the snapshot, as it should be, or not there.
fn fill(source: &Path, target: &Path) {
    fs::create_dir_all(target.join("sub")).unwrap();
    let seconds = |name: &str| source.join(name).symlink_metadata().unwrap().mtime();
    let stamp = |name: &str, later: i64| {
        let at = rustix::fs::Timespec { tv_sec: seconds(name) + later, tv_nsec: 0 };
        let at = rustix::fs::Timestamps { last_access: at, last_modification: at };
        let no_follow = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, target.join(name), &at, no_follow).unwrap();
    };
    for name in ["large", "empty"] {
        fs::copy(source.join(name), target.join(name)).unwrap();
        let modified = source.join(name).metadata().unwrap().modified().unwrap();
        File::options().write(true).open(target.join(name)).unwrap().set_modified(modified).unwrap();
    }
    rot(&target.join("large"));
    fs::write(target.join("sub/a.txt"), "newer").unwrap();
    stamp("sub/a.txt", 100);
    fs::write(target.join("sub/b.bin"), "older").unwrap();
    stamp("sub/b.bin", -100);
    symlink("newer", target.join("link")).unwrap();
    stamp("link", 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_overwritten_as_restic_does_it() {
    let dir = scratch();
    let (repo, spec) = prepared(dir.path()).await;
    let source = dir.path().join("source");
    let restic = Restic::newest(dir.path().join("repo"));
    let within = |target: &Path| target.join(source.strip_prefix("/").unwrap());
    // Files that a dry run would make, change, leave because they are right, and keep because of the rule; and links.
    for (overwrite, word, files, links_kept) in [
        (Overwrite::Always, "always", [1, 3, 1, 0], 0),
        (Overwrite::IfChanged, "if-changed", [1, 2, 2, 0], 0),
        (Overwrite::IfNewer, "if-newer", [1, 1, 0, 3], 1),
        (Overwrite::Never, "never", [1, 0, 0, 4], 1),
    ] {
        let (ours, theirs) =
            (dir.path().join(format!("ours {word}")), dir.path().join(format!("theirs {word}")));
        for target in [&ours, &theirs] {
            fill(&source, &within(target));
        }
        let before = facts(&ours);
        let spec =
            RestoreSpec { subpath: None, verify: false, overwrite, target: ours.clone(), ..spec.clone() };
        let plan = run_clean(&repo, &RestoreSpec { dry_run: true, ..spec.clone() }).await.plan;
        assert_eq!(
            [plan.create, plan.change, plan.unchanged, plan.kept].map(|c| c.files),
            files,
            "{word}: {plan:?}"
        );
        assert_eq!(plan.kept.others, links_kept, "{word}");
        assert_eq!(facts(&ours), before, "{word}: a dry run changes nothing");

        let report = run_clean(&repo, &spec).await;
        assert_eq!(
            [report.files_restored, report.files_unchanged],
            [files[0] + files[1], files[2] + files[3]],
            "{word}"
        );
        let id = spec.snapshot.to_string();
        restic.run(["restore", &id, "--target", theirs.to_str().unwrap(), "--overwrite", word]);
        assert_same(&within(&theirs), &within(&ours), word);
        if overwrite == Overwrite::Always {
            assert_same(&source, &within(&ours), "always");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn further_names_of_what_is_there_are_neither_written_through_nor_linked_to() {
    let dir = scratch();
    let (source, at, target) =
        (dir.path().join("source"), dir.path().join("repo"), dir.path().join("target"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("a"), noise(3, 3000)).unwrap();
    fs::hard_link(source.join("a"), source.join("b")).unwrap();
    fs::hard_link(source.join("a"), source.join("c")).unwrap();
    settle(&source);
    let repo = init(&at).await;
    let spec =
        RestoreSpec { verify: false, ..spec(back_up(&repo, &source).await.snapshot, &source, &target) };
    run_clean(&repo, &spec).await;

    // A name that is none of the snapshot's shares the content; that is not to change with what is put right.
    let foreign = dir.path().join("foreign");
    fs::hard_link(target.join("a"), &foreign).unwrap();
    rot(&foreign);
    let rotten = fs::read(&foreign).unwrap();
    run_clean(&repo, &spec).await;
    assert_same(&source, &target, "three names of one file");
    assert_eq!(fs::read(&foreign).unwrap(), rotten);

    // What is kept is not what the others are names of.
    for name in ["a", "b", "c"] {
        fs::remove_file(target.join(name)).unwrap();
    }
    fs::write(target.join("a"), "mine").unwrap();
    run_clean(&repo, &RestoreSpec { overwrite: Overwrite::Never, ..spec }).await;
    assert_eq!(fs::read(target.join("a")).unwrap(), b"mine");
    assert_eq!(fs::read(target.join("b")).unwrap(), noise(3, 3000));
    let inode = |name: &str| target.join(name).metadata().unwrap().ino();
    assert_eq!(inode("b"), inode("c"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_place_of_a_directory_is_kept_and_told() {
    let dir = scratch();
    let (repo, spec) = prepared(dir.path()).await;
    fs::create_dir(&spec.target).unwrap();
    fs::write(spec.target.join("sub"), "mine").unwrap();
    for overwrite in [Overwrite::Never, Overwrite::IfNewer] {
        let report = run(&repo, &RestoreSpec { overwrite, ..spec.clone() }).await.unwrap();
        assert!(report.faults.first.iter().any(|f| f.path == Path::new("/sub")), "{:?}", report.faults.first);
        assert_eq!(fs::read(spec.target.join("sub")).unwrap(), b"mine");
    }
    run_clean(&repo, &spec).await;
    assert_same(&dir.path().join("source"), &spec.target, "always");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_writes_nothing() {
    let dir = scratch();
    let (repo, spec) = prepared(dir.path()).await;
    let dry = RestoreSpec { dry_run: true, verify: false, ..spec };
    let report = run_clean(&repo, &dry).await;
    assert_eq!(report.plan.create, Counts { files: 5, dirs: 2, others: 1 });
    assert_eq!(report.plan.bytes_to_write, (20 << 20) + 3002);
    assert!(report.plan.bytes_available > report.plan.bytes_required);
    assert_eq!(report.bytes_written, 0);
    assert!(!dry.target.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_choose_and_leave_what_is_around_alone() {
    let dir = scratch();
    let (repo, spec) = prepared(dir.path()).await;
    let target = &spec.target;
    fs::create_dir_all(target.join("sub")).unwrap();
    fs::set_permissions(target.join("sub"), fs::Permissions::from_mode(0o711)).unwrap();
    fs::write(target.join("sub/mine"), "mine").unwrap();
    let include = vec!["*.txt".to_owned(), "/nothing".to_owned()];
    let chosen = RestoreSpec { include, delete_extra: true, ..spec.clone() };
    let report = run_clean(&repo, &chosen).await;
    assert_eq!(report.plan.unmatched_includes, ["/nothing"]);
    assert_eq!(report.files_restored, 2);
    let found: Vec<PathBuf> = facts(target).into_keys().collect();
    assert_eq!(found, ["", "sub", "sub/a.txt", "sub/deep", "sub/deep/c.txt", "sub/mine"].map(PathBuf::from));
    assert_eq!(target.join("sub").metadata().unwrap().mode() & 0o7777, 0o711, "it was there before");
    let made =
        (target.join("sub/deep").metadata().unwrap(), dir.path().join("source/sub/deep").metadata().unwrap());
    assert_eq!((made.0.mode(), made.0.mtime()), (made.1.mode(), made.1.mtime()), "it was made on the way");

    let exclude = vec!["sub".to_owned(), "large".to_owned()];
    let rest = RestoreSpec { exclude, target: dir.path().join("rest"), ..spec };
    let report = run_clean(&repo, &rest).await;
    assert_eq!(report.plan.unmatched_excludes, [""; 0]);
    assert_eq!(facts(&rest.target).into_keys().collect::<Vec<_>>(), ["", "empty", "link"].map(PathBuf::from));
}

/// What is not to be touched stays, however deep it lies in what the snapshot does not have; and a pattern that protects
/// nothing is named, for a slip of the pen would cost what it was to protect.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_excluded_is_not_deleted_with_the_directory_around_it() {
    let dir = scratch();
    let (repo, spec) = prepared(dir.path()).await;
    run_clean(&repo, &spec).await;
    let target = &spec.target;
    let extra =
        ["extra/deep/keep.db", "extra/deep/goes", "extra/other/goes", "gone/goes", "sub/keep.db", "sub/goes"];
    for file in extra {
        fs::create_dir_all(target.join(file).parent().unwrap()).unwrap();
        fs::write(target.join(file), "mine").unwrap();
    }
    let exclude = ["keep.db", "/sub/a.txt", "/extra/absent"].map(str::to_owned).to_vec();
    fs::write(target.join("sub/a.txt"), "changed").unwrap();
    let protecting = RestoreSpec { exclude, delete_extra: true, ..spec.clone() };
    let plan =
        run_clean(&repo, &RestoreSpec { dry_run: true, verify: false, ..protecting.clone() }).await.plan;
    assert_eq!(plan.delete, Counts { files: 4, dirs: 2, others: 0 });
    let report = run_clean(&repo, &protecting).await;
    assert_eq!(
        (report.files_deleted, &report.plan.unmatched_excludes),
        (6, &vec!["/extra/absent".to_owned()])
    );
    for file in extra {
        assert_eq!(target.join(file).exists(), file.ends_with("keep.db"), "{file}");
    }
    assert!(!target.join("gone").exists() && !target.join("extra/other").exists());
    let deep = RestoreSpec { exclude: vec!["/extra/deep/keep.db".to_owned()], ..protecting.clone() };
    let plan = run_clean(&repo, &RestoreSpec { dry_run: true, verify: false, ..deep }).await.plan;
    assert_eq!(plan.unmatched_excludes, [""; 0], "it protects what lies deep in an extra");
    // Nor with a directory that stands where a file belongs: that file is not restored then, and it is told.
    fs::remove_file(target.join("sub/b.bin")).unwrap();
    fs::create_dir_all(target.join("sub/b.bin/in")).unwrap();
    for file in ["sub/b.bin/in/keep.db", "sub/b.bin/other"] {
        fs::write(target.join(file), "mine").unwrap();
    }
    let report = run(&repo, &protecting).await.unwrap();
    assert_eq!(report.faults.total, 1, "{:?}", report.faults);
    assert!(target.join("sub/b.bin/in/keep.db").exists() && target.join("sub/b.bin/other").exists());
    assert_eq!(fs::read_to_string(target.join("sub/a.txt")).unwrap(), "changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_deletes_what_is_selected_also_in_directories_that_are_not() {
    let dir = scratch();
    let (repo, spec) = prepared(dir.path()).await;
    run_clean(&repo, &spec).await;
    let target = &spec.target;
    // (file, whether it goes)
    let extra = [
        ("extra/deep/goes.log", true),
        ("extra/deep/stays", false),
        ("extra/whole/a", true),
        ("extra/whole/keep.db", false),
        ("extra/whole/sub/b", true),
        ("extra/other/goes.log", true),
        ("sub/goes.log", true),
        ("sub/stays", false),
        ("elsewhere/stays", false),
    ];
    for (file, _) in extra {
        fs::create_dir_all(target.join(file).parent().unwrap()).unwrap();
        fs::write(target.join(file), "mine").unwrap();
    }
    let narrowed = RestoreSpec {
        include: ["*.log", "/extra/whole", "/sub/a.txt", "/absent"].map(str::to_owned).to_vec(),
        exclude: vec!["keep.db".to_owned()],
        delete_extra: true,
        reach: Reach::Undo,
        ..spec.clone()
    };
    // restic looks at what it meets in the directories that it restores, and no further.
    let dry = RestoreSpec { dry_run: true, verify: false, ..narrowed.clone() };
    for reach in [Reach::Restic, Reach::Selected] {
        let plan = run_clean(&repo, &RestoreSpec { reach, ..dry.clone() }).await.plan;
        assert_eq!(plan.delete, Counts { files: 1, dirs: 0, others: 0 }, "{reach:?}");
    }
    let plan = run_clean(&repo, &dry).await.plan;
    assert_eq!(plan.delete, Counts { files: 5, dirs: 1, others: 0 });
    assert_eq!(plan.unmatched_includes, ["*.log", "/extra/whole", "/absent"]);
    assert_eq!(plan.idle_includes, ["/absent"], "the others match what goes");
    assert_eq!(plan.unmatched_excludes, [""; 0]);
    let report = run_clean(&repo, &narrowed).await;
    assert_eq!(report.files_deleted, 6);
    for (file, goes) in extra {
        assert_eq!(target.join(file).exists(), !goes, "{file}");
    }
    assert!(!target.join("extra/whole/sub").exists() && target.join("extra/other").exists());
}

/// What is on the way to a selected file and is not selected itself is not the restore's to replace.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_selected_is_not_replaced_by_a_directory() {
    let dir = scratch();
    let (repo, spec) = prepared(dir.path()).await;
    fs::create_dir_all(spec.target.join("elsewhere")).unwrap();
    symlink("elsewhere", spec.target.join("sub")).unwrap();
    let include = vec!["/sub/a.txt".to_owned()];
    let one = RestoreSpec { include, reach: Reach::Selected, ..spec.clone() };
    let planned = run(&repo, &RestoreSpec { dry_run: true, verify: false, ..one.clone() }).await.unwrap();
    let report = run(&repo, &one).await.unwrap();
    assert_eq!((planned.faults.total, report.faults.total), (1, 1), "{:?}", report.faults);
    assert_eq!(planned.faults.first[0].path, report.faults.first[0].path);
    assert!(report.faults.first[0].error.starts_with("/sub is no directory"), "{:?}", report.faults);
    let deep = RestoreSpec { include: vec!["/sub/deep/c.txt".to_owned()], ..one.clone() };
    let planned = run(&repo, &RestoreSpec { dry_run: true, verify: false, ..deep.clone() }).await.unwrap();
    let report = run(&repo, &deep).await.unwrap();
    for faults in [planned.faults, report.faults] {
        assert!(faults.total == 1 && faults.first[0].error.starts_with("/sub is no directory"), "{faults:?}");
    }
    assert_eq!(fs::read_link(spec.target.join("sub")).unwrap(), Path::new("elsewhere"));
    assert!(!spec.target.join("elsewhere/a.txt").exists());
    // Selected, it goes; and so it does for restic.
    for replacing in [
        RestoreSpec { include: vec!["/sub".into()], ..one.clone() },
        RestoreSpec { reach: Reach::Restic, ..one },
    ] {
        run_clean(&repo, &replacing).await;
        assert_eq!(fs::read_to_string(spec.target.join("sub/a.txt")).unwrap(), "a");
        fs::remove_dir_all(spec.target.join("sub")).unwrap();
        symlink("elsewhere", spec.target.join("sub")).unwrap();
    }
}

/// A killed restore's temporary files go when it is undone, whatever was selected.
#[tokio::test(flavor = "multi_thread")]
async fn leftovers_of_a_killed_restore_go_when_it_is_undone() {
    let dir = scratch();
    let (repo, spec) = prepared(dir.path()).await;
    run_clean(&repo, &spec).await;
    let left = spec.target.join("sub/.holdfast-restore-0123456789abcdef01234567");
    fs::write(&left, "half").unwrap();
    let mine = spec.target.join("sub/.holdfast-restore-notes");
    fs::write(&mine, "of a user").unwrap();
    let include = vec!["/sub/a.txt".to_owned()];
    let narrowed = RestoreSpec { include, delete_extra: true, ..spec.clone() };
    assert_eq!(run_clean(&repo, &narrowed).await.files_deleted, 0, "it may be of a restore at work");
    assert_eq!(run_clean(&repo, &RestoreSpec { reach: Reach::Undo, ..narrowed }).await.files_deleted, 1);
    assert!(!left.exists() && mine.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_selected_is_an_error_unless_it_is_meant() {
    let dir = scratch();
    let (repo, spec) = prepared(dir.path()).await;
    let none = vec!["*.nothing".to_owned()];
    let missing = Some(dir.path().join("source/absent"));
    for wrong in [
        RestoreSpec { include: none.clone(), ..spec.clone() },
        RestoreSpec { exclude: vec!["*".to_owned()], ..spec.clone() },
        RestoreSpec { subpath: missing, ..spec.clone() },
        RestoreSpec { subpath: Some(dir.path().join("source/large/no directory")), ..spec.clone() },
    ] {
        let error = run(&repo, &wrong).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::EmptySelection, "{error}");
        assert!(!spec.target.exists());
    }
    run_clean(&repo, &RestoreSpec { include: none, allow_empty: true, ..spec }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_file_goes_into_the_target() {
    let dir = scratch();
    let (repo, spec) = prepared(dir.path()).await;
    let one = RestoreSpec { subpath: Some(dir.path().join("source/sub/b.bin")), ..spec };
    run_clean(&repo, &one).await;
    assert_eq!(facts(&one.target).into_keys().collect::<Vec<_>>(), ["", "b.bin"].map(PathBuf::from));
    assert_eq!(fs::read(one.target.join("b.bin")).unwrap(), noise(2, 3000));
}

/// Without root, what was restored before may deny its own owner: directories without write permission, files
/// without any.
#[tokio::test(flavor = "multi_thread")]
async fn without_root_a_restore_can_be_run_again() {
    const NOBODY: u32 = 65_534;
    let dir = tempfile::tempdir().unwrap();
    let (source, at, target) =
        (dir.path().join("source"), dir.path().join("repo"), dir.path().join("target"));
    fs::create_dir_all(source.join("closed/inner")).unwrap();
    fs::write(source.join("closed/readonly"), "readonly").unwrap();
    fs::write(source.join("closed/nothing"), "nothing").unwrap();
    fs::write(source.join("closed/inner/f"), "f").unwrap();
    settle(&source);
    for (path, mode) in
        [("closed/readonly", 0o444), ("closed/nothing", 0o000), ("closed/inner", 0o000), ("closed", 0o555)]
    {
        fs::set_permissions(source.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let repo = init(&at).await;
    back_up(&repo, &source).await;
    // All of it is readable for, and the target belongs to, somebody without rights.
    let program = dir.path().join("restore");
    fs::copy(restoring::restore_program(), &program).unwrap();
    for path in restoring::files_below(&at).iter().chain([&program]) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for path in restoring::directories_below(dir.path()).iter().filter(|p| !p.starts_with(&source)) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::create_dir(&target).unwrap();
    std::os::unix::fs::chown(&target, Some(NOBODY), Some(NOBODY)).unwrap();
    let restore = || {
        let output = std::process::Command::new(&program)
            .args([at.as_os_str(), target.as_os_str(), "keep-owners".as_ref()])
            .env("RESTIC_PASSWORD", stock::PASSWORD)
            .uid(NOBODY)
            .gid(NOBODY)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let restored = target.join(source.strip_prefix("/").unwrap());
    let check = |report: &serde_json::Value, files: u64| {
        assert_eq!(report["faults"]["total"], 0, "{report:#}");
        assert_eq!(report["files_restored"], files, "{report:#}");
        for path in ["closed/readonly", "closed/nothing", "closed/inner", "closed", "closed/inner/f"] {
            let (found, expected) =
                (restored.join(path).metadata().unwrap(), source.join(path).metadata().unwrap());
            assert_eq!((found.mode(), found.mtime()), (expected.mode(), expected.mtime()), "{path}");
        }
        assert_eq!(fs::read(restored.join("closed/readonly")).unwrap(), b"readonly");
    };
    check(&restore(), 3);
    // What may not even be read cannot be compared, and is written anew.
    check(&restore(), 1);
    // Root changes what the owner may not even write to; the next restore of nobody's mends it.
    fs::write(restored.join("closed/readonly"), "changed").unwrap();
    fs::write(restored.join("closed/inner/f"), "changed").unwrap();
    check(&restore(), 3);
    assert_eq!(fs::read(restored.join("closed/inner/f")).unwrap(), b"f");
}

#[tokio::test(flavor = "multi_thread")]
async fn listing_gives_every_entry_once_and_in_order() {
    let dir = scratch();
    let (repo, spec) = prepared(dir.path()).await;
    let index = repo.load_index(&holdfast_engine::Ctx::default()).await.unwrap();
    let snapshot = repo.load_snapshot(&spec.snapshot).await.unwrap();
    let source = dir.path().join("source");
    let list = async |path: &Path, recursive| {
        let mut found = Vec::new();
        let outcome =
            browse::ls(&repo, &index, &snapshot, path.to_str().unwrap(), recursive, |path, node| {
                found.push((path.strip_prefix(&source).unwrap().to_owned(), node.size));
                Ok(())
            });
        outcome.await.map(|()| found)
    };
    // The directory itself comes first, as in restic's listings.
    let expected =
        ["", "empty", "large", "link", "sub", "sub/a.txt", "sub/b.bin", "sub/deep", "sub/deep/c.txt"];
    let all = list(&source, true).await.unwrap();
    assert_eq!(all.iter().map(|(p, _)| p.as_path()).collect::<Vec<_>>(), expected.map(Path::new));
    assert_eq!(list(&source, false).await.unwrap().len(), 5);
    assert_eq!(list(&source.join("sub/b.bin"), true).await.unwrap(), [(PathBuf::from("sub/b.bin"), 3000)]);
    assert_eq!(list(&source.join("absent"), true).await.unwrap_err().kind(), ErrorKind::EmptySelection);
}
