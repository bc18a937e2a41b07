//! Protection of a repository in which something is damaged, goes or is taken away meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what went wrong by failing"
)]

mod memory;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_engine::backup::{BackupSpec, backup};
use holdfast_engine::lock::{Holder, LockMode};
use holdfast_engine::protect::{ProtectReport, ProtectSpec, protect};
use holdfast_engine::store::{FileKind, Store};
use holdfast_engine::{Ctx, ErrorKind, Id, Repository, Result};
use jiff::{SignedDuration, Timestamp};
use memory::{Actor, Call, Hook, Memory};

const PASSWORD: &str = "correct horse battery staple correct horse battery staple 123456";

fn holder() -> Holder {
    Holder::this_process("h", "u")
}

/// Saves a file of this content, which has packs of its own.
async fn back_up(repo: &Repository, dir: &Path, content: u8) -> Id {
    fs::write(dir.join("file"), [content; 3000]).unwrap();
    let ctx = Ctx::default();
    let lock = repo.lock(LockMode::Shared, &holder(), Duration::ZERO, &[], &ctx).await.unwrap();
    let spec = BackupSpec { roots: vec![dir.to_owned()], host: "h".into(), ..BackupSpec::default() };
    let report = backup(repo, &lock, &spec, &ctx).await.unwrap();
    lock.release().await.unwrap();
    report.snapshot
}

async fn two_snapshots() -> (Arc<Memory>, [Id; 2]) {
    let (memory, repo) = memory::repository(PASSWORD).await;
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (back_up(&repo, dir.path(), 1).await, back_up(&repo, dir.path(), 2).await);
    (memory, [first, second])
}

async fn try_protect(store: Arc<dyn Store>) -> Result<ProtectReport> {
    let opening = Ctx::default();
    let repo = Repository::open(store, &PASSWORD.to_owned().into(), &opening).await.unwrap();
    let ctx = Ctx { cancel: opening.cancel.child_token(), events: Arc::clone(&opening.events) };
    let lock = repo.lock(LockMode::Shared, &holder(), Duration::ZERO, &[], &ctx).await.unwrap();
    let spec = ProtectSpec {
        retain: SignedDuration::from_hours(48),
        mode: None,
        dry_run: false,
        now: Timestamp::now(),
    };
    let report = protect(&repo, &lock, &spec, &ctx).await;
    let _ = lock.release().await;
    report
}

fn count(report: &ProtectReport, kind: FileKind) -> usize {
    usize::try_from(report.kinds.get(&kind).copied().unwrap_or_default().extended).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_of_one_snapshot_does_not_end_the_protection_of_the_others() {
    let (whole, [first, second]) = two_snapshots().await;
    let sound = try_protect(Actor::plain(&whole)).await.unwrap();
    assert_eq!((count(&sound, FileKind::Pack), sound.failed.len()), (whole.count(FileKind::Pack), 0));

    let repo =
        Repository::open(Actor::plain(&whole), &PASSWORD.to_owned().into(), &Ctx::default()).await.unwrap();
    let index = repo.load_index(&Ctx::default()).await.unwrap();
    for pack in index.packs() {
        for damage in [false, true] {
            let memory = whole.copy();
            if damage {
                memory.damage(FileKind::Pack, pack.id, 20);
            } else {
                memory.remove(FileKind::Pack, pack.id);
            }
            let report = try_protect(Actor::plain(&memory)).await.unwrap();
            let place = format!("damaged: {damage}, {pack:?}: {:?}", report.failed);
            assert_eq!(count(&report, FileKind::Pack), memory.count(FileKind::Pack), "{place}");
            assert_eq!(count(&report, FileKind::Snapshot), 2, "{place}");
            // What is damaged of a file is not read here; a check finds it.
            assert_eq!(report.failed.is_empty(), damage && !pack.has_trees, "{place}");
            let named = report.failed.iter().map(|(name, _)| (name.kind, name.id));
            assert!(named.clone().count() < 2, "{place}");
            assert!(
                named.clone().all(|name| [first, second].map(|id| (FileKind::Snapshot, id)).contains(&name))
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_forgotten_meanwhile_is_no_failure_and_a_pack_that_goes_is_told() {
    for (kind, failed) in [(FileKind::Snapshot, 0), (FileKind::Pack, 1)] {
        let (memory, [first, _]) = two_snapshots().await;
        let pack = memory.ids(FileKind::Pack)[0];
        let of = Arc::clone(&memory);
        // As soon as the first file, the config, is protected.
        let hook: Hook = Box::new(move |call, what, _| {
            if call == Call::Retain && what == FileKind::Config {
                of.remove(kind, if kind == FileKind::Pack { pack } else { first });
            }
            Box::pin(async { Ok(()) })
        });
        // Those that are asked about beside it may be through already.
        let report = try_protect(Actor::with(&memory, false, hook)).await.unwrap();
        assert!(report.failed.len() <= failed, "{:?}", report.failed);
        assert!(count(&report, FileKind::Index) == 2 && count(&report, FileKind::Snapshot) >= 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lock_is_no_cancellation() {
    let (memory, _) = two_snapshots().await;
    let ctx = Ctx::default();
    let repo = Repository::open(Actor::plain(&memory), &PASSWORD.to_owned().into(), &ctx).await.unwrap();
    let lock = repo.lock(LockMode::Shared, &holder(), Duration::ZERO, &[], &ctx).await.unwrap();
    memory.ids(FileKind::Lock).into_iter().for_each(|id| memory.remove(FileKind::Lock, id));
    assert_eq!(lock.confirm().await.unwrap_err().kind(), ErrorKind::LockLost);
    assert!(ctx.cancel.is_cancelled());
    let spec = ProtectSpec {
        retain: SignedDuration::from_hours(48),
        mode: None,
        dry_run: false,
        now: Timestamp::now(),
    };
    assert_eq!(protect(&repo, &lock, &spec, &ctx).await.unwrap_err().kind(), ErrorKind::LockLost);
}
