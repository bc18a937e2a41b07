//! What the tests of restore and check share: opening, backing up, restoring with defaults.
#![allow(dead_code, reason = "each test file uses its part of it")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_engine::backup::{BackupReport, BackupSpec, lock_reading_ahead};
use holdfast_engine::check::{CheckReport, CheckSpec, ReadData, check};
use holdfast_engine::lock::{Holder, Locking};
use holdfast_engine::repository::{InitOptions, SnapshotFilter};
use holdfast_engine::restore::{RestoreReport, RestoreSpec, restore};
use holdfast_engine::store::fault::FaultStore;
use holdfast_engine::store::{self, Location, Store, StoreOptions};
use holdfast_engine::{Ctx, Id, Repository, Result};

use crate::stock::PASSWORD;

/// A directory that is removed at the end, on the disk of the build.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

pub(crate) fn store_at(at: &Path) -> Arc<dyn Store> {
    let mut options = StoreOptions::default();
    options.retry.deadline = Duration::ZERO;
    store::open(&Location::Local(at.to_owned()), &options, &Ctx::default()).unwrap()
}

pub(crate) async fn init(at: &Path) -> Repository {
    init_in(store_at(at)).await
}

pub(crate) async fn init_in(store: Arc<dyn Store>) -> Repository {
    let options = InitOptions {
        password: PASSWORD.to_owned().into(),
        recovery_password: None,
        version: 2,
        hostname: "test".to_owned(),
        username: "test".to_owned(),
    };
    Repository::init(store, &options, &Ctx::default()).await.unwrap()
}

pub(crate) async fn open(at: &Path) -> Repository {
    open_in(store_at(at)).await
}

pub(crate) async fn open_in(store: Arc<dyn Store>) -> Repository {
    Repository::open(store, &PASSWORD.to_owned().into(), &Ctx::default()).await.unwrap()
}

/// The repository behind a store that plays faults. Each call is made once.
pub(crate) async fn open_faulty(at: &Path) -> (Repository, Arc<FaultStore>) {
    let faults = Arc::new(FaultStore::new(store_at(at)));
    let store = Arc::clone(&faults) as Arc<dyn Store>;
    (Repository::open(store, &PASSWORD.to_owned().into(), &Ctx::default()).await.unwrap(), faults)
}

pub(crate) async fn back_up(repo: &Repository, source: &Path) -> BackupReport {
    let holder = Holder::this_process("test", "test");
    let ctx = Ctx::default();
    let locking = Locking { holder, wait: Duration::from_secs(20), dead_holders: Vec::new() };
    let spec =
        BackupSpec { roots: vec![source.to_owned()], host: "test".to_owned(), ..BackupSpec::default() };
    let (lock, ahead) = lock_reading_ahead(repo, &locking, &spec, &ctx).await.unwrap();
    let report = ahead.finish(&lock).await.unwrap();
    lock.release().await.unwrap();
    report
}

/// Everything below `subpath` of the snapshot goes to `target`, and is verified.
pub(crate) fn spec(snapshot: Id, subpath: &Path, target: &Path) -> RestoreSpec {
    RestoreSpec {
        snapshot,
        subpath: Some(subpath.to_owned()),
        target: target.to_owned(),
        verify: true,
        sparse: true,
        ..RestoreSpec::default()
    }
}

pub(crate) async fn latest(repo: &Repository) -> Id {
    repo.find_snapshot("latest", &SnapshotFilter::default()).await.unwrap().0
}

pub(crate) async fn run(repo: &Repository, spec: &RestoreSpec) -> Result<RestoreReport> {
    restore(repo, None, spec, &Ctx::default()).await
}

/// Restores and demands that nothing was wrong.
pub(crate) async fn run_clean(repo: &Repository, spec: &RestoreSpec) -> RestoreReport {
    let report = run(repo, spec).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert_eq!(report.faults.first, []);
    assert_eq!(report.metadata_faults.first, []);
    assert_eq!(report.verified, spec.verify);
    report
}

pub(crate) async fn check_all(repo: &Repository) -> CheckReport {
    check(repo, None, &CheckSpec { read_data: ReadData::All }, &Ctx::default()).await.unwrap()
}

pub(crate) async fn check_structure(repo: &Repository) -> CheckReport {
    check(repo, None, &CheckSpec::default(), &Ctx::default()).await.unwrap()
}

/// All files below a directory.
pub(crate) fn files_below(at: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![at.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                pending.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// Packs of a repository in a local directory, the largest first: those with file content come before those with
/// directories in all tests here. What is still being written has another name, and loses it at any moment.
pub(crate) fn packs(at: &Path) -> Vec<PathBuf> {
    let mut packs = files_below(&at.join("data"));
    packs.retain(|pack| pack.file_name().is_some_and(|name| name.len() == 64));
    packs.sort_by_key(|p| std::cmp::Reverse(p.metadata().unwrap().len()));
    packs
}

/// Leftovers of a restore that did not clean up.
pub(crate) fn temporary_files(at: &Path) -> Vec<PathBuf> {
    let is_temporary =
        |p: &PathBuf| p.file_name().unwrap().to_string_lossy().starts_with(".holdfast-restore-");
    files_below(at).into_iter().filter(is_temporary).collect()
}

/// Where `cargo test` puts the examples: beside the directory of the test programs.
pub(crate) fn restore_program() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let program = here.parent().unwrap().parent().unwrap().join("examples/restore");
    assert!(program.is_file(), "{} is missing: cargo builds it with the tests", program.display());
    program
}

/// All directories below a directory, and itself.
pub(crate) fn directories_below(at: &Path) -> Vec<PathBuf> {
    let mut found = vec![at.to_owned()];
    let mut next = 0;
    while let Some(dir) = found.get(next).cloned() {
        next += 1;
        let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap());
        found.extend(entries.filter(|e| e.file_type().unwrap().is_dir()).map(|e| e.path()));
    }
    found
}
