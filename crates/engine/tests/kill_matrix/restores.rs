//! Restores: what is killed writes into a directory, and into the repository nothing but its lock.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use holdfast_engine::lock::LockMode;
use holdfast_engine::restore::{RestoreSpec, restore};
use holdfast_engine::{Ctx, Event, EventSink, Id, Repository, Result};

use crate::backups::make_source;
use crate::deadly::die;
use crate::kills::killed_at;
use crate::restoring::{self, back_up, files_below, init, run_clean, scratch, spec};
use crate::scene::{copy_of, locked};
use crate::stock::{assert_same, noise, settle};

pub(crate) async fn run(repo: &Repository, snapshot: Id, target: &Path, ctx: &Ctx) -> Result<()> {
    let spec = RestoreSpec { subpath: None, ..spec(snapshot, Path::new("/"), target) };
    locked(repo, LockMode::Shared, ctx, async |lock| restore(repo, Some(lock), &spec, ctx).await.map(drop))
        .await
}

const RESTORE_POINTS: [&str; 10] = [
    "after put lock 1",
    "after list index 1",
    "after get index 1",
    "phase plan",
    "phase restore",
    "before get pack 2",
    "after get pack 3",
    "after get pack 5",
    "phase finish",
    "before delete lock 1",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_killed_at_any_point_leaves_no_wrong_file_and_the_next_one_goes_on() {
    let dir = scratch();
    let (source, at) = (dir.path().join("source"), dir.path().join("repo"));
    make_source(&source);
    let repo = init(&at).await;
    let snapshot = back_up(&repo, &source).await.snapshot;
    for point in RESTORE_POINTS {
        let target = dir.path().join("target");
        killed_at(point, "restore", &at, &[&snapshot.to_string(), target.to_str().unwrap()]);
        let inner = target.join(source.strip_prefix("/").unwrap());
        let left = if target.exists() { restoring::files_below(&target) } else { Vec::new() };
        for path in left {
            // What has its own name is whole.
            if !path.file_name().unwrap().to_string_lossy().starts_with(".holdfast-restore-") {
                let original = source.join(path.strip_prefix(&inner).unwrap());
                assert!(
                    fs::read(&path).unwrap() == fs::read(original).unwrap(),
                    "{point}: {}",
                    path.display()
                );
            }
        }
        let whole = RestoreSpec { subpath: None, ..spec(snapshot, &source, &target) };
        run_clean(&repo, &whole).await;
        assert_same(&source, &inner, point);
        assert_eq!(restoring::temporary_files(&target), Vec::<PathBuf>::new(), "{point}");
        // A restore's lock is shared: only the next exclusive one, or anybody's unlock, has to meet it.
        back_up(&repo, &source).await;
        assert_eq!(repo.locks().await.unwrap(), [], "{point}");
        fs::remove_dir_all(&target).unwrap();
    }
}

/// Dies at the first fault; passes all else on.
struct DiesOfFaults(Arc<dyn EventSink>);

impl EventSink for DiesOfFaults {
    fn event(&self, event: Event) {
        if matches!(event, Event::Fault(_)) {
            die();
        }
        self.0.event(event);
    }
}

/// `with` is the snapshot, the directory that was backed up, and the target.
pub(crate) async fn run_in_place(what: &str, repo: &Repository, with: &[&str], ctx: &Ctx) -> Result<()> {
    let mut ctx = ctx.clone();
    if what == "restore that meets a fault" {
        ctx.events = Arc::new(DiesOfFaults(ctx.events));
    }
    let whole =
        in_place(with[0].parse()?, Path::new(with[1]), Path::new(with[2]), what != "restore in place");
    locked(repo, LockMode::Shared, &ctx, async |lock| restore(repo, Some(lock), &whole, &ctx).await.map(drop))
        .await
}

fn in_place(snapshot: Id, source: &Path, target: &Path, delete_extra: bool) -> RestoreSpec {
    RestoreSpec { delete_extra, ..spec(snapshot, source, target) }
}

/// A snapshot, and an older state of the same directory with extras.
struct InPlace {
    dir: tempfile::TempDir,
    at: PathBuf,
    repo: Repository,
    source: PathBuf,
    /// What a target has before.
    old: PathBuf,
    snapshot: Id,
}

/// In the older state alone.
const EXTRAS: [&str; 4] = ["extra", "sub/extra", "sub/more/a", "sub/more/b"];

impl InPlace {
    async fn new() -> Self {
        let dir = scratch();
        let (at, source) = (dir.path().join("repo"), dir.path().join("source"));
        let file = |number: u64| source.join(format!("sub/f{number}"));
        fs::create_dir_all(source.join("sub")).unwrap();
        for number in 0..6 {
            fs::write(file(number), noise(number + 1, 6 << 20)).unwrap();
        }
        fs::write(source.join("small"), "an older state").unwrap();
        settle(&source);
        let old = copy_of(&source);
        for extra in EXTRAS {
            fs::create_dir_all(old.join(extra).parent().unwrap()).unwrap();
            fs::write(old.join(extra), noise(77, 10_000)).unwrap();
        }
        // One changed within, one grown, one shorter, one new, one gone.
        let mut changed = fs::read(file(1)).unwrap();
        changed[2 << 20..4 << 20].copy_from_slice(&noise(90, 2 << 20));
        fs::write(file(1), changed).unwrap();
        fs::write(file(2), [noise(3, 6 << 20), noise(91, 3 << 20)].concat()).unwrap();
        fs::write(file(3), noise(92, 4 << 20)).unwrap();
        fs::write(file(7), noise(93, 5 << 20)).unwrap();
        fs::remove_file(file(5)).unwrap();
        fs::write(source.join("small"), "a newer state").unwrap();
        settle(&source);
        let repo = init(&at).await;
        let snapshot = back_up(&repo, &source).await.snapshot;
        Self { dir, at, repo, source, old, snapshot }
    }

    /// What this snapshot does not have.
    fn is_extra(path: &Path) -> bool {
        path == Path::new("sub/f5") || EXTRAS.iter().any(|extra| path == Path::new(extra))
    }

    /// Dies in a target with the older state; gives the target.
    fn killed(&self, what: &str, point: &str) -> PathBuf {
        let target = copy_of(&self.old);
        self.killed_in(what, point, &target);
        target
    }

    fn killed_in(&self, what: &str, point: &str, target: &Path) {
        let with = [&self.snapshot.to_string(), self.source.to_str().unwrap(), target.to_str().unwrap()];
        killed_at(point, what, &self.at, &with);
    }

    /// Every file of the older state is there but for extras that `may_go`, and every file is old, new, unfinished under its
    /// temporary name, or partly written; and then a restore that believes times would not take it for done.
    fn assert_nothing_wrong(&self, target: &Path, may_go: impl Fn(&Path) -> bool, place: &str) {
        for path in files_below(&self.old) {
            let path = path.strip_prefix(&self.old).unwrap();
            assert!(target.join(path).is_file() || may_go(path), "{place}: {} is gone", path.display());
        }
        for path in files_below(target) {
            if path.file_name().unwrap().to_string_lossy().starts_with(".holdfast-restore-") {
                continue;
            }
            let name = path.strip_prefix(target).unwrap();
            let (old, new) = (fs::read(self.old.join(name)).ok(), fs::read(self.source.join(name)).ok());
            let found = Some(fs::read(&path).unwrap());
            if found == old || found == new {
                continue;
            }
            let place = format!("{place}: {}", name.display());
            let (Some(found), Some(old), Some(new)) = (found, old, new) else {
                panic!("{place} is whole or not there")
            };
            for (at, byte) in found.iter().enumerate() {
                let grown = at >= old.len() && *byte == 0;
                assert!(
                    old.get(at) == Some(byte) || new.get(at) == Some(byte) || grown,
                    "{place}, byte {at}"
                );
            }
            let time = |path: &Path| path.metadata().unwrap().modified().unwrap();
            assert_ne!(time(&path), time(&self.source.join(name)), "{place} looks as if it were done");
        }
    }

    /// The next run ends with the snapshot, and with the extras exactly when they may stay.
    async fn assert_goes_on(&self, target: &Path, delete_extra: bool, place: &str) {
        run_clean(&self.repo, &in_place(self.snapshot, &self.source, target, delete_extra)).await;
        assert_eq!(restoring::temporary_files(target), Vec::<PathBuf>::new(), "{place}");
        if !delete_extra {
            for path in files_below(&self.old) {
                let name = path.strip_prefix(&self.old).unwrap();
                if Self::is_extra(name) {
                    assert_eq!(fs::read(target.join(name)).unwrap(), fs::read(&path).unwrap(), "{place}");
                }
            }
            // Only they make a difference to one that deletes them.
            let report = run_clean(&self.repo, &in_place(self.snapshot, &self.source, target, true)).await;
            assert_eq!(report.files_restored, 0, "{place}: all was in place: {report:?}");
        }
        assert_same(&self.source, target, place);
        fs::remove_dir_all(target).unwrap();
    }
}

/// All of them come before the first extra goes. Progress is told by the clock, and so is none of them.
const IN_PLACE_POINTS: [&str; 7] = [
    "after put lock 1",
    "phase plan",
    "phase restore",
    "before get pack 3",
    "after get pack 3",
    "phase verify",
    "phase finish",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_in_place_killed_at_any_point_leaves_old_or_new_files_and_the_next_one_goes_on() {
    let scene = InPlace::new().await;
    for what in ["restore in place", "restore that deletes"] {
        for point in IN_PLACE_POINTS {
            let place = format!("{what}, killed {point}");
            let target = scene.killed(what, point);
            scene.assert_nothing_wrong(&target, |_| false, &place);
            scene.assert_goes_on(&target, what != "restore in place", &place).await;
        }
        let place = format!("{what}, killed at its end");
        let target = scene.killed(what, "before delete lock 1");
        let deletes = what != "restore in place";
        scene.assert_nothing_wrong(&target, |path| deletes && InPlace::is_extra(path), &place);
        scene.assert_goes_on(&target, deletes, &place).await;
    }
    assert_same(&scene.old, &copy_of(&scene.old), "the older state, outside of all targets");
}

/// A directory on which another file system is mounted.
struct Mounted(PathBuf);

impl Mounted {
    fn at(at: &Path) -> Self {
        fs::create_dir(at).unwrap();
        let status = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(at).status().unwrap();
        assert!(status.success(), "this test mounts a small file system: run it as root");
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_killed_while_it_deletes_extras_takes_nothing_else_and_the_next_one_deletes_the_rest() {
    let scene = InPlace::new().await;
    let beside = scene.dir.path().join("beside");
    fs::write(&beside, "not below the target").unwrap();
    // The target's own extras go first, and then those of `sub`. One that cannot go is told between the two.
    for within in ["", "sub"] {
        let target = copy_of(&scene.old);
        let mounted = Mounted::at(&target.join(within).join("mounted"));
        fs::write(mounted.0.join("file"), "somebody else's").unwrap();
        scene.killed_in("restore that meets a fault", "at its first fault", &target);
        let place = format!("killed at a fault in {within:?}");
        assert_eq!(fs::read(mounted.0.join("file")).unwrap(), b"somebody else's", "{place}");
        drop(mounted);
        // All else was restored before.
        for path in files_below(&scene.source) {
            let name = path.strip_prefix(&scene.source).unwrap();
            assert_eq!(fs::read(target.join(name)).unwrap(), fs::read(&path).unwrap(), "{place}");
        }
        let in_sub = EXTRAS.iter().skip(1).filter(|extra| target.join(extra).exists()).count();
        if within.is_empty() {
            assert_eq!(in_sub, 3, "{place}: its turn had not come");
        } else {
            assert!(!target.join("extra").exists(), "{place}: its turn was over");
        }
        scene.assert_nothing_wrong(&target, InPlace::is_extra, &place);
        assert_eq!(fs::read(&beside).unwrap(), b"not below the target", "{place}");
        scene.assert_goes_on(&target, true, &place).await;
    }
}
