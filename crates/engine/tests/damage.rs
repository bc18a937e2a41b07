//! Damage in a repository: what is told of it, what can be saved, and that nothing readable is lost on the way. Stock
//! restic is the judge of what is left.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what went wrong by failing"
)]

mod memory;
mod restoring;
mod stock;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use holdfast_engine::forget::{ForgetSpec, Selection, forget};
use holdfast_engine::format::pack::BlobKind;
use holdfast_engine::lock::{Holder, LockGuard, LockMode, Locking};
use holdfast_engine::prune::{PruneSpec, prune};
use holdfast_engine::repair::{
    Recover, RepairPacks, RepairPacksReport, RepairSnapshots, recover, repair_packs, repair_snapshots,
};
use holdfast_engine::repository::SnapshotFilter;
use holdfast_engine::retention::{GroupBy, Keep, Policy};
use holdfast_engine::store::FileKind;
use holdfast_engine::{Ctx, Error, ErrorKind, Id, Repository, Result};
use jiff::Timestamp;
use memory::{Actor, Call, Hook, Memory};
use restoring::*;
use stock::*;

async fn lock(repo: &Repository) -> LockGuard {
    let holder = Holder::this_process("test", "test");
    repo.lock(LockMode::Exclusive, &holder, Duration::from_secs(20), &[], &Ctx::default()).await.unwrap()
}

async fn try_repair(repo: &Repository, packs: &[Id], dry_run: bool) -> Result<RepairPacksReport> {
    let guard = lock(repo).await;
    let report = repair_packs(repo, &guard, packs, RepairPacks { dry_run }, &Ctx::default()).await;
    let _ = guard.release().await;
    report
}

/// How a file is damaged.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Damage {
    /// One bit in the middle of it.
    Flip,
    Append,
    /// Its last bytes, which are the header's.
    Cut,
    /// A length of nothing.
    Empty,
}

fn damage(path: &Path, how: Damage) {
    let mut bytes = fs::read(path).unwrap();
    match how {
        Damage::Flip => {
            let at = bytes.len() / 3;
            bytes[at] ^= 1;
        }
        Damage::Append => bytes.extend_from_slice(b"more"),
        Damage::Cut => bytes.truncate(bytes.len() - 10),
        Damage::Empty => bytes.clear(),
    }
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

/// One snapshot of several files, whose chunks share one pack. Gives the source, its pack of data, and that pack's id.
async fn one_pack(dir: &Path, repo: &Repository, at: &Path) -> (PathBuf, PathBuf, Id) {
    let source = dir.join("source");
    fs::create_dir_all(&source).unwrap();
    for n in 0..6 {
        fs::write(source.join(format!("f{n}")), noise(n, 200_000)).unwrap();
    }
    settle(&source);
    back_up(repo, &source).await;
    let index = repo.load_index(&Ctx::default()).await.unwrap();
    let data: Vec<Id> = index.packs().iter().filter(|p| p.has_data).map(|p| p.id).collect();
    assert_eq!(data.len(), 1, "the test expects all chunks in one pack");
    let path = packs(at).into_iter().find(|p| p.ends_with(data[0].to_hex())).unwrap();
    (source, path, data[0])
}

/// Files that come back with the content they had.
async fn good_files(repo: &Repository, source: &Path, target: &Path) -> usize {
    let _ = fs::remove_dir_all(target);
    let id = latest(repo).await;
    let _ = run(repo, &spec(id, source, target)).await;
    fs::read_dir(source)
        .unwrap()
        .filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            fs::read(target.join(&name)).is_ok_and(|got| got == fs::read(source.join(&name)).unwrap())
        })
        .count()
}

/// Such a pack is read by stretches: an index file may say that one has 4 GiB.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_pack_loses_no_more_than_a_small_one() {
    let dir = scratch();
    let at = dir.path().join("repo");
    let repo = init(&at).await;
    let source = dir.path().join("source");
    fs::create_dir_all(&source).unwrap();
    for n in 0..5 {
        fs::write(source.join(format!("f{n}")), noise(n, 34 << 20)).unwrap();
    }
    Restic::newest(&at).run(["backup", "--pack-size", "128", source.to_str().unwrap()]);
    let size = |path: &PathBuf| fs::metadata(path).unwrap().len();
    let path = packs(&at).into_iter().max_by_key(size).unwrap();
    assert!(size(&path) > 70 << 20, "the test expects a pack of more than one stretch: {}", size(&path));
    let pack: Id = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
    let blobs = repo.load_pack_header(&pack, size(&path)).await.unwrap().len() as u64;
    damage(&path, Damage::Flip);
    let done = try_repair(&repo, &[pack], false).await.unwrap();
    assert_eq!((done.saved(), done.lost().count()), (blobs - 1, 1));
    assert!(!path.exists());
    back_up(&repo, &source).await;
    Restic::newest(&at).check();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_read_of_a_damaged_pack_is_saved_and_a_backup_brings_back_the_rest() {
    for (how, lost) in [(Damage::Flip, 1), (Damage::Append, 0), (Damage::Cut, 0), (Damage::Empty, 6)] {
        let dir = scratch();
        let at = dir.path().join("repo");
        let repo = init(&at).await;
        let (source, path, pack) = one_pack(dir.path(), &repo, &at).await;
        damage(&path, how);
        let before = fs::read(&path).unwrap();

        let dry = try_repair(&repo, &[pack], true).await.unwrap();
        assert_eq!((dry.saved(), dry.lost().count() as u64), (6 - lost, lost), "{how:?}: {dry:?}");
        assert_eq!(fs::read(&path).unwrap(), before, "{how:?}: a dry run touches nothing");
        assert_eq!(restoring::files_below(&at.join("data")).len(), 2, "{how:?}: a dry run writes nothing");

        let done = try_repair(&repo, &[pack], false).await.unwrap();
        assert_eq!(done.packs, dry.packs, "{how:?}");
        assert!(!path.exists(), "{how:?}");
        let index = repo.load_index(&Ctx::default()).await.unwrap();
        assert!(index.packs().iter().all(|p| p.id != pack), "{how:?}");
        let restic = Restic::newest(&at);
        if lost == 0 {
            restic.check();
            let target = dir.path().join("target");
            restic.restore("latest", &target);
            assert_same_except(&source, &target.join(source.strip_prefix("/").unwrap()), &[], "restored");
            continue;
        }
        // What was lost is not believed to be there any more: nothing has changed, and yet it is stored again.
        back_up(&repo, &source).await;
        restic.check();
        let target = dir.path().join("target");
        assert_eq!(good_files(&repo, &source, &target).await, 6, "{how:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_for_good_leaves_the_snapshots_and_the_rest_stays() {
    let dir = scratch();
    let at = dir.path().join("repo");
    let repo = init(&at).await;
    let (source, path, pack) = one_pack(dir.path(), &repo, &at).await;
    damage(&path, Damage::Flip);
    let done = try_repair(&repo, &[pack], false).await.unwrap();
    assert_eq!(done.lost().count(), 1);
    let all = repo.snapshots().await.unwrap();
    let guard = lock(&repo).await;
    let how = RepairSnapshots { dry_run: false, forget: true, tell_losses: None };
    let mended = repair_snapshots(&repo, &guard, &all, how, &Ctx::default()).await.unwrap();
    guard.release().await.unwrap();
    assert_eq!(mended[0].losses.total, 1);
    Restic::newest(&at).check();
    assert_eq!(good_files(&repo, &source, &dir.path().join("target")).await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn restics_packs_are_repaired_as_ours() {
    let dir = scratch();
    let at = dir.path().join("repo");
    let restic = Restic::newest(&at);
    restic.run(["init"]);
    let source = dir.path().join("source");
    fs::create_dir_all(&source).unwrap();
    for n in 0..6 {
        fs::write(source.join(format!("f{n}")), noise(n, 200_000)).unwrap();
    }
    restic.backup(&source, "test", &[]);
    let path = packs(&at).remove(0);
    damage(&path, Damage::Flip);
    let pack: Id = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
    let repo = open(&at).await;
    let done = try_repair(&repo, &[pack], false).await.unwrap();
    assert_eq!((done.saved(), done.lost().count()), (5, 1));
    // It says with code 3 that it stores the file again, since what is lost is in no index any more.
    let again =
        restic.output([Path::new("backup"), Path::new("--host"), Path::new("test"), source.as_path()]);
    assert_eq!(again.status.code(), Some(3), "{again:?}");
    restic.check();
    assert_eq!(good_files(&repo, &source, &dir.path().join("target")).await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_of_which_nothing_is_known_stays_and_an_absent_one_is_an_error() {
    let dir = scratch();
    let at = dir.path().join("repo");
    let repo = init(&at).await;
    let (_, path, pack) = one_pack(dir.path(), &repo, &at).await;
    let absent = try_repair(&repo, &[pack, Id::hash(b"none")], false).await.unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::Missing);
    for file in fs::read_dir(at.join("index")).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    damage(&path, Damage::Cut);
    let done = try_repair(&repo, &[pack], false).await.unwrap();
    assert!(done.packs[0].left.is_some(), "{done:?}");
    assert!(path.exists());
    // The pack's header alone tells as well.
    let other = packs(&at).into_iter().find(|p| *p != path).unwrap();
    let id: Id = other.file_name().unwrap().to_str().unwrap().parse().unwrap();
    let done = try_repair(&repo, &[id], false).await.unwrap();
    assert!(done.saved() > 0 && done.packs[0].left.is_none(), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_costs_no_other_and_what_only_it_held_is_recovered() {
    let dir = scratch();
    let at = dir.path().join("repo");
    let repo = init(&at).await;
    let source = dir.path().join("source");
    fs::create_dir_all(&source).unwrap();
    let mut ids = Vec::new();
    for n in 0..3 {
        fs::write(source.join("f"), noise(n, 100_000)).unwrap();
        ids.push(back_up(&repo, &source).await.snapshot);
    }
    let (first, lost) = (ids[0], ids[2]);
    damage(&at.join("snapshots").join(lost.to_hex()), Damage::Flip);
    let ctx = Ctx::default();

    // It may be the newest: what can be read is named, and must be chosen.
    let latest = repo.find_snapshot("latest", &SnapshotFilter::default()).await.unwrap_err();
    assert_eq!(latest.kind(), ErrorKind::SnapshotDamaged);
    assert!(
        latest.chain().contains(&lost.to_hex()) && latest.chain().contains(&ids[1].to_hex()),
        "{latest:?}"
    );
    let found = repo.list_snapshots().await.unwrap();
    assert_eq!(found.readable.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids[..2]);
    assert_eq!(found.damaged.iter().map(|damaged| damaged.id).collect::<Vec<_>>(), [lost]);

    // A backup goes on from the newest that can be read; nothing is deleted while what is needed is not known.
    let again = back_up(&repo, &source).await;
    assert_eq!(again.parent, Some(ids[1]));
    let guard = lock(&repo).await;
    let forget_all_but_one = ForgetSpec {
        selection: Selection::Policy {
            filter: SnapshotFilter::default(),
            group_by: GroupBy::default(),
            policy: Policy { last: Keep::Number(1), ..Policy::default() },
        },
        dry_run: false,
        floor: 1,
        known: Vec::new(),
        now: Timestamp::now(),
    };
    let refused = forget(&repo, &guard, &forget_all_but_one, &ctx).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::SnapshotDamaged);
    fs::remove_file(at.join("snapshots").join(again.snapshot.to_hex())).unwrap();
    guard.release().await.unwrap();
    let holder = Holder::this_process("test", "test");
    let locking = Locking { holder, wait: Duration::ZERO, dead_holders: Vec::new() };
    let refused = prune(&repo, &locking, &PruneSpec::default(), &ctx).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::SnapshotDamaged);

    // Now only the damaged one knows of the third state of the file.
    let guard = lock(&repo).await;
    let how = Recover {
        host: "h".into(),
        username: "u".into(),
        uid: 0,
        gid: 0,
        program_version: "test".into(),
        time: Timestamp::now(),
    };
    let recovered = recover(&repo, &guard, &how, &ctx).await.unwrap();
    assert!(recovered.snapshot.is_some(), "{recovered:?}");
    let ids_of = |ids: Vec<Id>, known: Vec<Id>| ForgetSpec {
        selection: Selection::Ids(ids),
        known,
        ..forget_all_but_one.clone()
    };
    let dry = ForgetSpec { dry_run: true, ..ids_of(vec![lost], vec![lost]) };
    let report = forget(&repo, &guard, &dry, &ctx).await.unwrap();
    assert_eq!((report.damaged.len(), report.forgotten.len()), (1, 0));
    assert_eq!(repo.list_snapshots().await.unwrap().damaged.len(), 1, "a dry run removes nothing");
    let report = forget(&repo, &guard, &ids_of(vec![lost, first], vec![lost, first]), &ctx).await.unwrap();
    assert_eq!(report.damaged.iter().map(|damaged| damaged.id).collect::<Vec<_>>(), [lost]);
    assert_eq!(report.forgotten.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [first]);
    guard.release().await.unwrap();
    prune(&repo, &locking, &PruneSpec::default(), &ctx).await.unwrap();

    let restic = Restic::newest(&at);
    restic.check();
    let target = dir.path().join("target");
    restic.restore(&recovered.snapshot.unwrap().to_hex(), &target);
    let files = files_below(&target);
    let saved = files.iter().find(|path| path.ends_with("f")).unwrap();
    assert_eq!(fs::read(saved).unwrap(), noise(2, 100_000));
}

/// Every blob that can be read by the index.
async fn readable(memory: &Arc<Memory>) -> HashSet<(BlobKind, Id)> {
    let repo = open_memory(Actor::plain(memory)).await;
    let index = repo.load_index(&Ctx::default()).await.unwrap();
    let all: HashSet<(BlobKind, Id)> = index.iter().map(|(kind, id, _)| (kind, id)).collect();
    let mut good = HashSet::new();
    for (kind, id) in all {
        if repo.load_blob(&index, kind, &id).await.is_ok() {
            good.insert((kind, id));
        }
    }
    good
}

async fn open_memory(store: Arc<dyn holdfast_engine::store::Store>) -> Repository {
    Repository::open(store, &PASSWORD.to_owned().into(), &Ctx::default()).await.unwrap()
}

/// A hook after whose `allowed` changes of packs and index the process is as good as dead.
fn dies_after(allowed: i64) -> (Hook, Arc<AtomicI64>) {
    let left = Arc::new(AtomicI64::new(allowed));
    let theirs = Arc::clone(&left);
    let hook: Hook = Box::new(move |call, kind, done| {
        let changes = matches!(call, Call::Put | Call::Delete) && kind != FileKind::Lock && !done;
        let dead = changes && theirs.fetch_sub(1, Ordering::SeqCst) <= 0;
        Box::pin(async move {
            if dead { Err(Error::new(ErrorKind::Unreachable, "the test ends here")) } else { Ok(()) }
        })
    });
    (hook, left)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_of_packs_that_dies_between_any_two_changes_loses_nothing_readable() {
    let dir = scratch();
    let (memory, repo) = memory::repository(PASSWORD).await;
    let source = dir.path().join("source");
    fs::create_dir_all(&source).unwrap();
    // Two snapshots: two packs of data and two index files at least.
    for n in 0..4 {
        fs::write(source.join(format!("f{n}")), noise(n, 100_000)).unwrap();
        if n % 2 == 1 {
            back_up(&repo, &source).await;
        }
    }
    let damaged = memory.ids(FileKind::Pack);
    for id in &damaged {
        memory.damage(FileKind::Pack, *id, 100);
    }
    let before = readable(&memory).await;
    assert!(before.len() >= 2, "something of the packs can be read: {before:?}");

    let mut died = 0;
    loop {
        let at = memory.copy();
        let (hook, left) = dies_after(died);
        let repo = open_memory(Actor::with(&at, false, hook)).await;
        let outcome = try_repair(&repo, &damaged, false).await;
        assert!(readable(&at).await.is_superset(&before), "died after {died} changes");
        // What a dead one left is finished by the next, also by one that is told of fewer packs.
        let there: Vec<Id> = at.ids(FileKind::Pack).into_iter().filter(|id| damaged.contains(id)).collect();
        if !there.is_empty() {
            let repo = open_memory(Actor::plain(&at)).await;
            let holder = Holder::this_process("test", "test");
            let guard = repo
                .lock(LockMode::Exclusive, &holder, Duration::from_secs(20), &[], &Ctx::default())
                .await
                .unwrap();
            repair_packs(&repo, &guard, &there, RepairPacks::default(), &Ctx::default()).await.unwrap();
            guard.release().await.unwrap();
        }
        assert_eq!(readable(&at).await, before, "finished after {died} changes");
        assert!(at.ids(FileKind::Pack).iter().all(|id| !damaged.contains(id)));
        if outcome.is_ok() {
            assert!(left.load(Ordering::SeqCst) >= 0);
            break;
        }
        died += 1;
    }
    assert!(died >= 6, "packs, index files, and their removal are steps of their own: {died}");
}
