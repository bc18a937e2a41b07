//! A repository with four snapshots, and what is demanded of it whatever was killed.

use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use holdfast_engine::backup::{BackupSpec, backup};
use holdfast_engine::check::CheckReport;
use holdfast_engine::format::pack::BlobKind;
use holdfast_engine::format::snapshot::Snapshot;
use holdfast_engine::lock::{Holder, LockGuard, LockMode, Locking};
use holdfast_engine::prune::{MaxUnused, PruneReport, PruneSpec, prune};
use holdfast_engine::restore::RestoreSpec;
use holdfast_engine::store::{FileKind, FileName};
use holdfast_engine::{Ctx, Id, Repository, Result};
use jiff::SignedDuration;

use crate::restoring::{check_all, files_below, init, open, run_clean, scratch, spec};
use crate::stock::{assert_same, noise};

/// The tag of the first two snapshots.
pub(crate) const GOES: &str = "goes";
/// The tag of the other two.
pub(crate) const STAYS: &str = "stays";
/// Their numbers.
pub(crate) const STAY: [usize; 2] = [2, 3];
pub(crate) const ALL: [usize; 4] = [0, 1, 2, 3];
/// The numbered files of each state. A directory beside them is the same in all.
const FILES: [Range<u64>; 4] = [0..6, 3..9, 9..14, 12..16];

pub(crate) fn holder() -> Holder {
    Holder::this_process("kill-matrix", "test")
}

/// Works with a lock, which is released however it ends.
pub(crate) async fn locked<T>(
    repo: &Repository,
    mode: LockMode,
    ctx: &Ctx,
    work: impl AsyncFnOnce(&LockGuard) -> Result<T>,
) -> Result<T> {
    let guard = repo.lock(mode, &holder(), Duration::ZERO, &[], ctx).await?;
    let done = work(&guard).await;
    guard.release().await?;
    done
}

/// Keeps no waste, lets no time pass, and goes on whatever the share that goes.
pub(crate) fn thorough() -> PruneSpec {
    PruneSpec {
        max_unused: MaxUnused::Bytes(0),
        grace: SignedDuration::ZERO,
        allow_large: true,
        ..PruneSpec::default()
    }
}

pub(crate) async fn try_prune(repo: &Repository, spec: &PruneSpec, ctx: &Ctx) -> Result<PruneReport> {
    let locking = Locking { holder: holder(), wait: Duration::ZERO, dead_holders: Vec::new() };
    prune(repo, &locking, spec, ctx).await
}

pub(crate) async fn ids(repo: &Repository) -> Vec<Id> {
    repo.snapshots().await.unwrap().into_iter().map(|(id, _)| id).collect()
}

pub(crate) async fn delete(repo: &Repository, kind: FileKind, id: Id) {
    repo.store().delete(FileName { kind, id }).await.unwrap();
}

pub(crate) async fn list(repo: &Repository, kind: FileKind) -> Vec<Id> {
    repo.store().list(kind).await.unwrap().into_iter().map(|entry| entry.id).collect()
}

/// Another directory with all that is in this one, beside it.
pub(crate) fn copy_of(directory: &Path) -> PathBuf {
    static COPIES: AtomicU32 = AtomicU32::new(0);
    let number = COPIES.fetch_add(1, Ordering::SeqCst);
    let copy = directory.with_extension(number.to_string());
    let status = Command::new("cp").arg("-a").args([directory, &copy]).status().unwrap();
    assert!(status.success(), "{}", copy.display());
    copy
}

/// Lets two days pass for every file of a repository.
pub(crate) fn let_time_pass(at: &Path) {
    let then = SystemTime::now() - Duration::from_hours(48);
    for file in files_below(at) {
        File::open(file).unwrap().set_modified(then).unwrap();
    }
}

/// Reads all of a repository and finds nothing missing.
pub(crate) async fn assert_sound(at: &Path, place: &str) -> Repository {
    let repo = open(at).await;
    sound(&repo, place).await;
    repo
}

async fn sound(repo: &Repository, place: &str) -> CheckReport {
    let report = check_all(repo).await;
    assert!(report.is_sound(), "{place}: {:#?}", report.findings);
    report
}

pub(crate) fn assert_no_lock(at: &Path, place: &str) {
    let left = files_below(&at.join("locks"));
    let left: Vec<_> = left.iter().filter(|path| !is_temporary(path)).collect();
    assert!(left.is_empty(), "{place}: a lock stays behind: {left:?}");
}

fn is_temporary(path: &Path) -> bool {
    path.file_name().unwrap().to_string_lossy().contains("-tmp-")
}

/// When the operation was done again there is no lock; and two days later a prune leaves nothing of the dead: no half file,
/// no pack that no index lists, no blob twice.
pub(crate) async fn assert_nothing_left(at: &Path, place: &str) -> Repository {
    assert_no_lock(at, place);
    let_time_pass(at);
    let repo = open(at).await;
    let instant = PruneSpec { instant: true, ..thorough() };
    try_prune(&repo, &instant, &Ctx::default()).await.unwrap_or_else(|e| panic!("{place}: {}", e.chain()));
    let report = sound(&repo, &format!("{place}, pruned")).await;
    assert_eq!(report.notes, 0, "{place}: {:#?}", report.findings);
    assert_no_lock(at, place);
    let left: Vec<_> = files_below(at).into_iter().filter(|path| is_temporary(path)).collect();
    assert!(left.is_empty(), "{place}: half files stay behind: {left:?}");
    repo
}

/// Four snapshots of one directory as it changed. When the first two go, packs of each kind are needed in part and packs of
/// each kind not at all.
pub(crate) struct Scene {
    dir: tempfile::TempDir,
    /// The repository. What is killed works on copies of it.
    pub(crate) at: PathBuf,
    pub(crate) source: PathBuf,
    /// Copies of the source as each snapshot has it.
    pub(crate) states: Vec<PathBuf>,
    /// Oldest first.
    pub(crate) snapshots: Vec<Id>,
    trees: Vec<Id>,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let dir = scratch();
        let (at, source) = (dir.path().join("repo"), dir.path().join("source"));
        let repo = init(&at).await;
        fs::create_dir_all(source.join("sub")).unwrap();
        for number in 100..102_u64 {
            fs::write(source.join(format!("sub/f{number}")), noise(number, 60_000)).unwrap();
        }
        let (states, snapshots, trees) = (Vec::new(), Vec::new(), Vec::new());
        let mut scene = Self { dir, at, source, states, snapshots, trees };
        for (number, files) in FILES.into_iter().enumerate() {
            let tag = if STAY.contains(&number) { STAYS } else { GOES };
            let (id, snapshot) = scene.back_up(&repo, files, tag).await;
            scene.states.push(copy_of(&scene.source));
            scene.snapshots.push(id);
            scene.trees.push(snapshot.tree);
        }
        scene
    }

    /// A place for something else beside the repository.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A snapshot of the source with these numbered files and no others.
    pub(crate) async fn back_up(&self, repo: &Repository, files: Range<u64>, tag: &str) -> (Id, Snapshot) {
        for number in 0..100 {
            let path = self.source.join(format!("f{number}"));
            match (files.contains(&number), path.exists()) {
                (true, false) => fs::write(path, noise(number + 1, 60_000)).unwrap(),
                (false, true) => fs::remove_file(path).unwrap(),
                _ => {}
            }
        }
        let ctx = Ctx::default();
        let spec = BackupSpec {
            roots: vec![self.source.clone()],
            host: "test".to_owned(),
            tags: vec![tag.to_owned()],
            ..BackupSpec::default()
        };
        let report =
            locked(repo, LockMode::Shared, &ctx, async |lock| backup(repo, lock, &spec, &ctx).await).await;
        let id = report.unwrap().snapshot;
        (id, repo.load_snapshot(&id).await.unwrap())
    }

    /// Snapshots of the scene by their numbers.
    pub(crate) fn ids(&self, numbers: &[usize]) -> Vec<Id> {
        numbers.iter().map(|number| self.snapshots[*number]).collect()
    }

    /// Which state of the source a snapshot has.
    pub(crate) fn state_of(&self, snapshot: &Snapshot) -> Option<usize> {
        self.trees.iter().position(|tree| *tree == snapshot.tree)
    }

    /// Those of `stay` are there, and every snapshot that is there restores; byte for byte where it is of a state of the
    /// source. `lost` are of states that were damaged before.
    pub(crate) async fn assert_restores(
        &self,
        repo: &Repository,
        stay: &[usize],
        lost: &[usize],
        place: &str,
    ) {
        let all = repo.snapshots().await.unwrap();
        for id in self.ids(stay) {
            assert!(all.iter().any(|(there, _)| *there == id), "{place}: snapshot {id} is gone");
        }
        for (id, snapshot) in all {
            let state = self.state_of(&snapshot);
            if state.is_some_and(|state| lost.contains(&state)) {
                continue;
            }
            let target = self.beside("target");
            let whole = spec(id, &self.source, &target);
            match state {
                Some(state) => {
                    run_clean(repo, &RestoreSpec { verify: false, ..whole }).await;
                    assert_same(&self.states[state], &target, place);
                }
                None => {
                    run_clean(repo, &RestoreSpec { verify: false, subpath: None, ..whole }).await;
                }
            }
            fs::remove_dir_all(&target).unwrap();
        }
    }

    /// All that is demanded at once of a repository that was sound before.
    pub(crate) async fn assert_whole(&self, at: &Path, stay: &[usize], place: &str) -> Repository {
        let repo = assert_sound(at, place).await;
        self.assert_restores(&repo, stay, &[], place).await;
        repo
    }

    /// The pack with the content of a numbered file.
    pub(crate) async fn pack_of(&self, repo: &Repository, number: u64) -> Id {
        let index = repo.load_index(&Ctx::default()).await.unwrap();
        let blob = Id::hash(&noise(number + 1, 60_000));
        index.find(BlobKind::Data, &blob).unwrap().pack
    }
}
