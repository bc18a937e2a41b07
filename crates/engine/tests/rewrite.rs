//! Snapshots written anew, with stock restic beside: the same patterns make the same trees.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets a surprise must fail, in its helpers too"
)]

mod memory;
mod restoring;
mod stock;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_engine::backup::{BackupSpec, backup};
use holdfast_engine::check::{CheckSpec, ReadData, check};
use holdfast_engine::error::Error;
use holdfast_engine::format::snapshot::Snapshot;
use holdfast_engine::lock::{Holder, LockGuard, LockMode};
use holdfast_engine::repair::{
    Recover, RepairIndex, RepairSnapshots, recover, repair_index, repair_snapshots,
};
use holdfast_engine::rewrite::{Files, NewSnapshot, Patterns, Rewrite, Rewriter, Rewritten};
use holdfast_engine::store::{FileKind, FileName};
use holdfast_engine::{Ctx, ErrorKind, Id, Repository};
use memory::{Actor, Call, Hook, Memory};
use restoring::{back_up, init, scratch};
use stock::{PASSWORD, Restic, build_source, noise, settle};

const NOTHING: Rewrite = Rewrite {
    files: Files::All,
    host: None,
    time: None,
    summary: false,
    forget: false,
    dry_run: false,
    says_whole: |_| false,
};

fn own(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn without(exact: &[&str], any_case: &[&str]) -> Files {
    Files::Without(Patterns { exact: own(exact), any_case: own(any_case) })
}

fn only(exact: &[&str], any_case: &[&str]) -> Files {
    Files::Only(Patterns { exact: own(exact), any_case: own(any_case) })
}

async fn lock(repo: &Repository, mode: LockMode) -> LockGuard {
    let holder = Holder::this_process("test", "test");
    repo.lock(mode, &holder, Duration::from_secs(20), &[], &Ctx::default()).await.unwrap()
}

async fn try_rewrite(repo: &Repository, how: &Rewrite, id: Id) -> holdfast_engine::Result<Rewritten> {
    let ctx = Ctx::default();
    let guard = lock(repo, if how.forget { LockMode::Exclusive } else { LockMode::Shared }).await;
    let snapshot = repo.load_snapshot(&id).await.unwrap();
    let mut rewriter = Rewriter::new(repo, how, &ctx).await.unwrap();
    let done = rewriter.rewrite(&guard, id, &snapshot).await;
    guard.release().await.unwrap();
    done
}

async fn rewrite(repo: &Repository, how: &Rewrite, id: Id) -> NewSnapshot {
    match try_rewrite(repo, how, id).await.unwrap() {
        Rewritten::Written(new) => new,
        other => panic!("{other:?}"),
    }
}

async fn ids(repo: &Repository) -> BTreeSet<Id> {
    repo.snapshots().await.unwrap().into_iter().map(|(id, _)| id).collect()
}

/// What restic's `rewrite` makes of a snapshot with these arguments; `None` when it leaves it alone.
async fn restics(repo: &Repository, at: &Path, id: Id, arguments: &[String]) -> Option<Snapshot> {
    let before = ids(repo).await;
    let words = ["rewrite".to_owned()].into_iter().chain(arguments.iter().cloned()).chain([id.to_hex()]);
    let said = Restic::newest(at).run(words);
    let made: Vec<Id> = ids(repo).await.difference(&before).copied().collect();
    match made.as_slice() {
        [] => None,
        [new] => Some(repo.load_snapshot(new).await.unwrap()),
        more => panic!("{more:?}: {said}"),
    }
}

fn flags(files: &Files) -> Vec<String> {
    let (patterns, exact, any_case) = match files {
        Files::All => return Vec::new(),
        Files::Without(patterns) => (patterns, "--exclude", "--iexclude"),
        Files::Only(patterns) => (patterns, "--include", "--iinclude"),
    };
    let flag = |name: &str, list: &[String]| -> Vec<String> {
        list.iter().map(|pattern| format!("{name}={pattern}")).collect()
    };
    [flag(exact, &patterns.exact), flag(any_case, &patterns.any_case)].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_patterns_make_the_same_trees_as_restics() {
    let dir = scratch();
    let at = dir.path().join("repo");
    let repo = init(&at).await;
    let source = dir.path().join("source");
    build_source(&source);
    // Names and attributes matter here, content does not.
    fs::remove_dir_all(source.join("sizes")).unwrap();
    fs::create_dir_all(source.join("Cases/EMPTY/deeper")).unwrap();
    fs::write(source.join("Cases/Shout.LOG"), noise(7, 2_000)).unwrap();
    fs::write(source.join("Cases/whisper.log"), noise(8, 3_000)).unwrap();
    settle(&source);
    let ours = back_up(&repo, &source).await.snapshot;
    let theirs: Id =
        Restic::newest(&at).backup(&source, "other", &[])["snapshot_id"].as_str().unwrap().parse().unwrap();
    let anchored = format!("{}/Cases", source.display());
    let cases = [
        without(&["*.log"], &[]),
        without(&[], &["*.LoG"]),
        without(&["*.log", "!whisper.log"], &["shout.*"]),
        without(&[&anchored], &[]),
        without(&["Cases/*"], &[]),
        without(&["many", "**/sub*", "[a-m]*"], &[]),
        without(&["*"], &[]),
        without(&["there-is-no-such-name"], &[]),
        only(&["*.log"], &[]),
        only(&[], &["*.log"]),
        only(&[&anchored], &[]),
        only(&["EMPTY"], &["WHISPER*"]),
        only(&["there-is-no-such-name"], &[]),
    ];
    let mut changed = 0;
    // Of a snapshot that restic made the first few: its trees have names of users and groups.
    for (id, cases) in [(ours, &cases[..]), (theirs, &cases[..4])] {
        for files in cases {
            let expected = restics(&repo, &at, id, &flags(files)).await;
            let done = try_rewrite(&repo, &Rewrite { files: files.clone(), ..NOTHING }, id).await.unwrap();
            let Some(expected) = expected else {
                assert!(!matches!(done, Rewritten::Written(_)), "{files:?}: {done:?}");
                continue;
            };
            let Rewritten::Written(new) = done else { panic!("{files:?}: {done:?}") };
            let made = repo.load_snapshot(&new.id.unwrap()).await.unwrap();
            assert_eq!(made, expected, "{files:?}");
            assert_eq!((made.original, made.tags.as_slice()), (Some(id), &["rewrite".to_owned()][..]));
            changed += 1;
        }
    }
    assert_eq!(changed, cases.len() - 2 + 4, "all but those that match nothing");
    Restic::newest(&at).check();
}

#[tokio::test(flavor = "multi_thread")]
async fn host_time_and_summary_are_restics() {
    let dir = scratch();
    let at = dir.path().join("repo");
    let repo = init(&at).await;
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("a"), noise(1, 5_000)).unwrap();
    settle(&source);
    let id = back_up(&repo, &source).await.snapshot;
    let time = serde_json::from_str("\"2026-03-01T14:30:00Z\"").unwrap();
    let how = Rewrite { host: Some("elsewhere".into()), time: Some(time), ..NOTHING };
    let new = rewrite(&repo, &how, id).await;
    let made = repo.load_snapshot(&new.id.unwrap()).await.unwrap();
    let words = own(&["--new-host", "elsewhere", "--new-time", "2026-03-01 14:30:00"]);
    assert_eq!(made, restics(&repo, &at, id, &words).await.unwrap());
    assert_eq!((new.lacks_files, made.hostname.as_str()), (false, "elsewhere"));
    // It has both already.
    let again = Rewrite { forget: true, ..how };
    assert_eq!(try_rewrite(&repo, &again, new.id.unwrap()).await.unwrap(), Rewritten::Unchanged);

    // Before 0.17 no counts were kept.
    let old = Restic::new("0.14", &at);
    old.backup(&source, "old", &[]);
    let (old, snapshot) = repo.snapshots().await.unwrap().pop().unwrap();
    assert_eq!(snapshot.summary, None);
    let count = Rewrite { summary: true, ..NOTHING };
    let made = repo.load_snapshot(&rewrite(&repo, &count, old).await.id.unwrap()).await.unwrap();
    assert_eq!(made, restics(&repo, &at, old, &own(&["--snapshot-summary"])).await.unwrap());
    let summary = made.summary.unwrap();
    assert_eq!((summary.total_files_processed, summary.total_bytes_processed), (1, 5_000));
    assert_eq!(try_rewrite(&repo, &count, id).await.unwrap(), Rewritten::Unchanged);
}

#[tokio::test(flavor = "multi_thread")]
async fn originals_go_only_when_they_are_to_be_forgotten_and_a_dry_run_writes_nothing() {
    let dir = scratch();
    let at = dir.path().join("repo");
    let repo = init(&at).await;
    let source = dir.path().join("source");
    fs::create_dir_all(source.join("sub/deeper")).unwrap();
    fs::write(source.join("secret"), noise(1, 5_000)).unwrap();
    fs::write(source.join("sub/deeper/secret"), noise(2, 500)).unwrap();
    fs::write(source.join("sub/kept"), "kept").unwrap();
    settle(&source);
    let guard = lock(&repo, LockMode::Shared).await;
    let spec = BackupSpec {
        roots: vec![source.clone()],
        host: "test".into(),
        tags: own(&["whole=yes", "daily"]),
        ..BackupSpec::default()
    };
    let id = backup(&repo, &guard, &spec, &Ctx::default()).await.unwrap().snapshot;
    guard.release().await.unwrap();
    let files = |at: &Path| -> usize {
        ["data", "index", "snapshots"].iter().map(|kind| count_files(&at.join(kind))).sum()
    };
    let before = files(&at);
    let says_whole: fn(&str) -> bool = |tag| tag.starts_with("whole=");
    let how = Rewrite { files: without(&["secret"], &[]), forget: true, says_whole, ..NOTHING };
    let would = rewrite(&repo, &Rewrite { dry_run: true, ..how.clone() }, id).await;
    let excluded = vec![source.join("secret"), source.join("sub/deeper/secret")];
    let dropped_tags = own(&["whole=yes"]);
    assert_eq!(
        would,
        NewSnapshot {
            id: None,
            lacks_files: true,
            excluded_total: excluded.len() as u64,
            excluded,
            dropped_tags
        }
    );
    assert_eq!((files(&at), ids(&repo).await), (before, BTreeSet::from([id])));

    // Only what changed its content loses the tag.
    let moved = rewrite(&repo, &Rewrite { host: Some("b".into()), says_whole, ..NOTHING }, id).await;
    let moved = repo.load_snapshot(&moved.id.unwrap()).await.unwrap();
    assert_eq!(moved.tags, own(&["whole=yes", "daily", "rewrite"]));
    let new = rewrite(&repo, &how, id).await;
    assert_eq!(NewSnapshot { id: None, ..new.clone() }, would);
    let new = new.id.unwrap();
    let left = ids(&repo).await;
    assert!(left.contains(&new) && !left.contains(&id), "{left:?}");
    let made = repo.load_snapshot(&new).await.unwrap();
    assert_eq!((made.tags, made.original), (own(&["daily"]), Some(id)));
    // Of one that was rewritten before the first is remembered.
    let last = rewrite(&repo, &Rewrite { host: Some("c".into()), forget: true, ..NOTHING }, new).await;
    assert_eq!(repo.load_snapshot(&last.id.unwrap()).await.unwrap().original, Some(id));
    Restic::newest(&at).check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_with_a_directory_that_is_lost_is_left_as_it_is() {
    let dir = scratch();
    let at = dir.path().join("repo");
    let repo = init(&at).await;
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("a"), "").unwrap();
    let id = back_up(&repo, &source).await.snapshot;
    for entry in repo.store().list(FileKind::Pack).await.unwrap() {
        repo.store().delete(FileName { kind: FileKind::Pack, id: entry.id }).await.unwrap();
    }
    let how = Rewrite { files: without(&["a"], &[]), forget: true, ..NOTHING };
    let error = try_rewrite(&repo, &how, id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing);
    assert_eq!(ids(&repo).await, BTreeSet::from([id]));
}

fn count_files(at: &Path) -> usize {
    fs::read_dir(at)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| if path.is_dir() { count_files(&path) } else { 1 })
        .sum()
}

/// The repository of one whom somebody takes the lock from, and prunes, when what is new is in the index and in no snapshot
/// yet. `silent` is whether the store then does not answer to the index file that it got.
async fn robbed(memory: &Arc<Memory>, silent: bool) -> Repository {
    let before = memory.ids(FileKind::Pack);
    let there = Arc::clone(memory);
    let hook: Hook = Box::new(move |call, kind, after| {
        let mut result = Ok(());
        if (call, kind, after) == (Call::Put, FileKind::Index, true) {
            there.ids(FileKind::Lock).into_iter().for_each(|id| there.remove(FileKind::Lock, id));
            let new = there.ids(FileKind::Pack).into_iter().filter(|id| !before.contains(id));
            new.for_each(|id| there.remove(FileKind::Pack, id));
            if silent {
                result = Err(Error::new(ErrorKind::Unreachable, "no answer"));
            }
        }
        Box::pin(async { result })
    });
    let store = Actor::with(memory, false, hook);
    Repository::open(store, &PASSWORD.to_owned().into(), &Ctx::default()).await.unwrap()
}

/// The lock is lost, and the index names no pack that is gone: whoever writes the same again must not rely on it.
async fn assert_taken_back(memory: &Memory, repo: &Repository, lost: &Error) {
    assert_eq!(lost.kind(), ErrorKind::LockLost, "{}", lost.chain());
    let there = memory.ids(FileKind::Pack);
    let index = repo.load_index(&Ctx::default()).await.unwrap();
    assert!(index.packs().iter().all(|pack| there.contains(&pack.id)), "{:?}", index.packs());
}

/// A repository in memory with one snapshot of two files.
async fn of_two_files(dir: &Path) -> (Arc<Memory>, Repository, Id) {
    let (memory, repo) = memory::repository(PASSWORD).await;
    let source = dir.join("source");
    fs::create_dir(&source).unwrap();
    for name in ["kept", "secret"] {
        fs::write(source.join(name), name).unwrap();
    }
    let id = back_up(&repo, &source).await.snapshot;
    (memory, repo, id)
}

async fn assert_sound(repo: &Repository) {
    let all = CheckSpec { read_data: ReadData::All };
    let report = check(repo, None, &all, &Ctx::default()).await.unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rewrite_said_in_the_index_before_it_lost_its_lock_is_taken_back() {
    let how = Rewrite { files: without(&["secret"], &[]), ..NOTHING };
    let ctx = Ctx::default();
    for silent in [false, true] {
        let dir = scratch();
        let (memory, repo, id) = of_two_files(dir.path()).await;
        let robbed = robbed(&memory, silent).await;
        let guard = lock(&robbed, LockMode::Shared).await;
        let snapshot = robbed.load_snapshot(&id).await.unwrap();
        let mut rewriter = Rewriter::new(&robbed, &how, &ctx).await.unwrap();
        let lost = rewriter.rewrite(&guard, id, &snapshot).await.unwrap_err();
        drop(guard.release().await);
        assert_taken_back(&memory, &repo, &lost).await;
        assert_eq!(memory.ids(FileKind::Snapshot), [id]);

        rewrite(&repo, &how, id).await;
        assert_sound(&repo).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_recovery_said_in_the_index_before_it_lost_its_lock_is_taken_back() {
    let (how, ctx) =
        (Recover { host: "h".into(), username: "u".into(), ..Recover::default() }, Ctx::default());
    for silent in [false, true] {
        let dir = scratch();
        let (memory, repo, id) = of_two_files(dir.path()).await;
        memory.remove(FileKind::Snapshot, id);
        let robbed = robbed(&memory, silent).await;
        let guard = lock(&robbed, LockMode::Exclusive).await;
        let lost = recover(&robbed, &guard, &how, &ctx).await.unwrap_err();
        drop(guard.release().await);
        assert_taken_back(&memory, &repo, &lost).await;

        let guard = lock(&repo, LockMode::Exclusive).await;
        assert_eq!(recover(&repo, &guard, &how, &ctx).await.unwrap().roots.len(), 1);
        guard.release().await.unwrap();
        assert_sound(&repo).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_repair_said_in_the_index_before_it_lost_its_lock_is_taken_back() {
    let (how, ctx) = (RepairSnapshots { forget: true, ..RepairSnapshots::default() }, Ctx::default());
    for silent in [false, true] {
        let dir = scratch();
        let (memory, repo, id) = of_two_files(dir.path()).await;
        let index = repo.load_index(&ctx).await.unwrap();
        let files = index.packs().iter().find(|pack| pack.has_data).unwrap().id;
        memory.remove(FileKind::Pack, files);
        let guard = lock(&repo, LockMode::Exclusive).await;
        repair_index(&repo, &guard, RepairIndex::Mend, &ctx).await.unwrap();
        guard.release().await.unwrap();
        let all = repo.snapshots().await.unwrap();

        let robbed = robbed(&memory, silent).await;
        let guard = lock(&robbed, LockMode::Exclusive).await;
        let lost = repair_snapshots(&robbed, &guard, &all, how, &ctx).await.unwrap_err();
        drop(guard.release().await);
        assert_taken_back(&memory, &repo, &lost).await;
        assert_eq!(memory.ids(FileKind::Snapshot), [id], "the damaged one stays until the other is there");

        let guard = lock(&repo, LockMode::Exclusive).await;
        assert_eq!(repair_snapshots(&repo, &guard, &all, how, &ctx).await.unwrap()[0].losses.total, 2);
        guard.release().await.unwrap();
        assert_sound(&repo).await;
    }
}
