//! The lock is taken away under a backup: nothing is committed, and nothing that was said of it misleads the next.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_engine::backup::backup;
use holdfast_engine::lock::{Holder, LockMode, Locking};
use holdfast_engine::prune::{PruneSpec, prune};
use holdfast_engine::store::fault::{Fault, Operation, Trouble};
use holdfast_engine::store::{self, FileKind, FileName, Location, StoreOptions};
use holdfast_engine::{Ctx, ErrorKind, Event, Repository};

use crate::{Listener, Scene, fastrand, noise};

/// One runtime thread is enough: files and CPU have their own.
#[tokio::test(flavor = "current_thread")]
async fn a_lock_that_is_taken_away_ends_the_backup_before_its_snapshot() {
    let mut scene = Scene::new().await;
    let locks = scene.dir.path().join("repo/locks");
    scene.ctx.events = Arc::new(Listener(move |event: &Event| {
        if matches!(event, Event::Phase("commit")) {
            for lock in fs::read_dir(&locks).unwrap() {
                fs::remove_file(lock.unwrap().path()).unwrap();
            }
        }
    }));
    let error = scene.back_up(&scene.spec()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LockLost, "{}", error.chain());
    assert_eq!(scene.count("snapshots"), 0);
}

/// Somebody takes the lock away and prunes: what no index file names yet is deleted. The run after that must not rely on
/// what the broken one said of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_prune_deleted_after_it_took_the_lock_away_is_stored_again() {
    let mut scene = Scene::new().await;
    let repo = scene.dir.path().join("repo");
    // The loss of the lock cancels what was locked with, not the store.
    scene.ctx = Ctx::default();
    scene.ctx.events = Arc::new(Listener(move |event: &Event| {
        if matches!(event, Event::Phase("commit")) {
            for lock in fs::read_dir(repo.join("locks")).unwrap() {
                fs::remove_file(lock.unwrap().path()).unwrap();
            }
            for part in fs::read_dir(repo.join("data")).unwrap() {
                for pack in fs::read_dir(part.unwrap().path()).unwrap() {
                    fs::remove_file(pack.unwrap().path()).unwrap();
                }
            }
        }
    }));
    // Packs that have arrived before the end.
    for n in 0..4 {
        fs::write(scene.source().join(format!("large-{n}")), noise(fastrand(), 20 << 20)).unwrap();
    }
    let error = scene.back_up(&scene.spec()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LockLost, "{}", error.chain());
    assert_eq!(scene.count("snapshots"), 0);

    scene.ctx = Ctx::default();
    scene.back_up(&scene.spec()).await.unwrap();
    scene.assert_whole().await;
}

/// Whether a prune that took the lock away is done, nobody knows while an exclusive lock is seen. What was said of packs that are
/// there stays, since others may have committed what relies on it; nothing new does.
#[tokio::test(flavor = "multi_thread")]
async fn while_a_prune_may_be_at_work_what_was_said_in_the_index_stays_and_is_not_relied_on() {
    let mut scene = Scene::new().await;
    let locks = scene.dir.path().join("repo/locks");
    let files =
        |at: &Path| -> Vec<PathBuf> { fs::read_dir(at).unwrap().map(|f| f.unwrap().path()).collect() };
    let holder = Holder::this_process("test", "test");
    let lock = scene.repo.lock(LockMode::Exclusive, &holder, Duration::ZERO, &[], &scene.ctx).await.unwrap();
    let path = files(&locks).remove(0);
    let exclusive = (path.clone(), fs::read(&path).unwrap());
    lock.release().await.unwrap();
    scene.ctx = Ctx::default();
    scene.ctx.events = Arc::new(Listener(move |event: &Event| {
        if matches!(event, Event::Phase("commit")) {
            for lock in files(&locks) {
                fs::remove_file(lock).unwrap();
            }
            fs::write(&exclusive.0, &exclusive.1).unwrap();
        }
    }));
    for n in 0..4 {
        fs::write(scene.source().join(format!("large-{n}")), noise(fastrand(), 20 << 20)).unwrap();
    }
    let error = scene.back_up(&scene.spec()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LockLost, "{}", error.chain());
    let index = scene.repo.load_index(&Ctx::default()).await.unwrap();
    let marked = index.packs().iter().filter(|pack| pack.marked).count();
    assert!(marked > 2, "packs had arrived and were listed");
    assert_eq!(marked, index.packs().len());

    fs::remove_file(path).unwrap();
    scene.ctx = Ctx::default();
    let report = scene.back_up(&scene.spec()).await.unwrap();
    assert!(report.data_added >= 80 << 20, "{report:?}");
    scene.assert_whole().await;
}

/// The lock goes while the fence looks, after the snapshot was written: it must not stand, for its index is taken back.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_lost_while_the_fence_looks_takes_the_snapshot_back() {
    let scene = Scene::new().await;
    let unneeded = scene.back_up(&scene.spec()).await.unwrap();
    let first = FileName { kind: FileKind::Snapshot, id: unneeded.snapshot };
    scene.repo.store().delete(first).await.unwrap();
    fs::remove_dir_all(scene.source()).unwrap();
    fs::create_dir(scene.source()).unwrap();
    fs::write(scene.source().join("new"), noise(fastrand(), 20 << 20)).unwrap();

    scene.faults.add(Fault::once(Operation::Put, FileKind::Snapshot, Trouble::Delay(Duration::from_secs(2))));
    scene.faults.add(Fault::always(Operation::List, FileKind::Pack, Trouble::Hang));
    let puts = scene.faults.count(Operation::Put, FileKind::Snapshot);
    let holder = Holder::this_process("test", "test");
    let lock = scene.repo.lock(LockMode::Shared, &holder, Duration::ZERO, &[], &scene.ctx).await.unwrap();
    let spec = scene.spec();
    let watch = async {
        while scene.faults.count(Operation::Put, FileKind::Snapshot) == puts {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Marks that the fence has to look into.
        let ctx = Ctx::default();
        let local = Location::Local(scene.dir.path().join("repo"));
        let local = store::open(&local, &StoreOptions::default(), &ctx).unwrap();
        let other = Repository::open(local, &"password".to_owned().into(), &ctx).await.unwrap();
        let locking = Locking { holder: holder.clone(), wait: Duration::ZERO, dead_holders: Vec::new() };
        let spec = PruneSpec { allow_large: true, ..PruneSpec::default() };
        assert!(prune(&other, &locking, &spec, &ctx).await.unwrap().marked_packs > 0);
        while scene.faults.count(Operation::List, FileKind::Pack) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(scene.count("snapshots"), 1, "it was written");
        for file in fs::read_dir(scene.dir.path().join("repo/locks")).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
        scene.faults.heal();
        lock.confirm().await.unwrap_err()
    };
    let (result, _) = tokio::join!(backup(&scene.repo, &lock, &spec, &scene.ctx), watch);
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LockLost, "{}", error.chain());
    assert_eq!(scene.count("snapshots"), 0);
    scene.assert_whole().await;
}

/// A lock that somebody else removed is noticed at its next refresh, while the store hangs: nothing but the loss can
/// end the run then, and nothing is written after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lock_stops_the_writes_that_are_under_way() {
    let scene = Scene::new().await;
    scene.faults.add(Fault { after: 1, ..Fault::always(Operation::Put, FileKind::Pack, Trouble::Hang) });
    let holder = Holder::this_process("test", "test");
    let lock = scene.repo.lock(LockMode::Shared, &holder, Duration::ZERO, &[], &scene.ctx).await.unwrap();
    let spec = scene.spec();
    let watch = async {
        while scene.faults.count(Operation::Put, FileKind::Pack) < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for file in fs::read_dir(scene.dir.path().join("repo/locks")).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
        let error = lock.confirm().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LockLost);
        scene.faults.count(Operation::Put, FileKind::Pack)
    };
    let (result, puts) = tokio::join!(backup(&scene.repo, &lock, &spec, &scene.ctx), watch);
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LockLost, "{}", error.chain());
    let _ = lock.release().await;
    let after = scene.faults.count(Operation::Put, FileKind::Pack);
    assert!(after <= puts + 1, "{} packs were sent after the lock was lost", after - puts);
    assert_eq!((scene.count("snapshots"), scene.count("index")), (0, 0));
}
