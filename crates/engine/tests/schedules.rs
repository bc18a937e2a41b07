//! A writer and a pruner that do not see each other's locks, held up at every moment that matters: a snapshot that a
//! backup has reported must be restorable after all that followed. The same is proved of the protocol in
//! `prune_model.rs`, for every schedule; here the real code walks through the essential ones.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test says what went wrong by failing"
)]

mod memory;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use holdfast_engine::backup::{BackupSpec, backup, lock_reading_ahead};
use holdfast_engine::check::{CheckSpec, ReadData, check};
use holdfast_engine::error::Result;
use holdfast_engine::forget::{ForgetSpec, Selection, forget};
use holdfast_engine::lock::{Holder, LockMode, Locking};
use holdfast_engine::prune::{MaxUnused, PruneSpec, prune};
use holdfast_engine::store::{FileKind, Store};
use holdfast_engine::{Ctx, ErrorKind, Id, Repository};
use jiff::Timestamp;
use memory::{Actor, Call, Hook, Memory};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

const PASSWORD: &str = "correct horse battery staple correct horse battery staple 123456";

/// A moment of an actor: before or after its n-th call of a kind.
type Moment = (Call, FileKind, bool, usize);

/// Moments of a writer, in their order. The first is where it reads the index.
const WRITER: [Moment; 6] = [
    (Call::List, FileKind::Index, false, 0),
    (Call::Put, FileKind::Pack, false, 0),
    (Call::Put, FileKind::Index, false, 0),
    (Call::Put, FileKind::Snapshot, false, 0),
    (Call::Put, FileKind::Snapshot, true, 0),
    (Call::List, FileKind::Index, false, 2),
];

/// Moments of a writer that reads ahead of its lock: before it looks who else has one, after that, and the others.
const WRITER_AHEAD: [Moment; 7] = [
    (Call::List, FileKind::Lock, false, 1),
    (Call::List, FileKind::Index, false, 1),
    (Call::Put, FileKind::Pack, false, 0),
    (Call::Put, FileKind::Index, false, 0),
    (Call::Put, FileKind::Snapshot, false, 0),
    (Call::Put, FileKind::Snapshot, true, 0),
    (Call::List, FileKind::Index, false, 3),
];

/// Moments of a sweep: its first half looks first, its second half again, then a third time; then it changes things.
const SWEEP: [Moment; 7] = [
    (Call::List, FileKind::Snapshot, false, 1),
    (Call::List, FileKind::Index, false, 1),
    (Call::List, FileKind::Snapshot, false, 2),
    (Call::Put, FileKind::Index, false, 0),
    (Call::Delete, FileKind::Index, true, 0),
    (Call::Delete, FileKind::Pack, false, 0),
    (Call::Delete, FileKind::Pack, true, 0),
];

fn holder() -> Holder {
    Holder::this_process("h", "u")
}

async fn open(store: Arc<dyn Store>) -> Repository {
    Repository::open(store, &PASSWORD.to_owned().into(), &Ctx::default()).await.unwrap()
}

fn source(at: &Path, files: std::ops::Range<u8>) -> PathBuf {
    let dir = at.join("source");
    fs::create_dir_all(&dir).unwrap();
    for number in files {
        let bytes: Vec<u8> =
            (0..30_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 ^ number).collect();
        fs::write(dir.join(number.to_string()), bytes).unwrap();
    }
    dir
}

async fn back_up(repo: &Repository, dir: PathBuf) -> Result<Id> {
    let ctx = Ctx::default();
    let lock = repo.lock(LockMode::Shared, &holder(), Duration::ZERO, &[], &ctx).await?;
    let report = backup(repo, &lock, &spec(dir), &ctx).await;
    lock.release().await?;
    Ok(report?.snapshot)
}

async fn back_up_ahead(repo: &Repository, dir: PathBuf) -> Result<Id> {
    let (ctx, spec, locking) = (Ctx::default(), spec(dir), locking());
    let (lock, ahead) = lock_reading_ahead(repo, &locking, &spec, &ctx).await?;
    let report = ahead.finish(&lock).await;
    lock.release().await?;
    Ok(report?.snapshot)
}

fn spec(dir: PathBuf) -> BackupSpec {
    BackupSpec { roots: vec![dir], host: "h".into(), ..BackupSpec::default() }
}

fn locking() -> Locking {
    Locking { holder: holder(), wait: Duration::ZERO, dead_holders: Vec::new() }
}

async fn run_prune(repo: &Repository) -> Result<u64> {
    let spec = PruneSpec { max_unused: MaxUnused::Bytes(0), allow_large: true, ..PruneSpec::default() };
    Ok(prune(repo, &locking(), &spec, &Ctx::default()).await?.deleted_packs)
}

/// A snapshot of 8 files, of which another holds 4; the first is forgotten and nothing is marked yet. And a directory
/// with the 8 files, which a writer will find all stored.
async fn scene() -> (Arc<Memory>, tempfile::TempDir) {
    let (memory, repo) = memory::repository(PASSWORD).await;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let first = back_up(&repo, source(&dir.path().join("all"), 0..8)).await.unwrap();
    back_up(&repo, source(&dir.path().join("half"), 4..8)).await.unwrap();
    let ctx = Ctx::default();
    let lock = repo.lock(LockMode::Shared, &holder(), Duration::ZERO, &[], &ctx).await.unwrap();
    let spec = ForgetSpec {
        selection: Selection::Ids(vec![first]),
        dry_run: false,
        floor: 0,
        known: Vec::new(),
        now: Timestamp::now(),
    };
    forget(&repo, &lock, &spec, &ctx).await.unwrap();
    lock.release().await.unwrap();
    (memory, dir)
}

/// Stops an actor at one moment until it may go on.
#[derive(Default)]
struct Gate {
    reached: Notify,
    go: Notify,
    open: AtomicBool,
}

/// Calls `then` at the moment, once.
fn at(
    moment: Moment,
    then: impl Fn() -> futures::future::BoxFuture<'static, ()> + Send + Sync + 'static,
) -> Hook {
    let seen = AtomicUsize::new(0);
    let (call, kind, after, nth) = moment;
    Box::new(move |c, k, a| {
        let hit = (c, k, a) == (call, kind, after) && seen.fetch_add(1, Ordering::SeqCst) == nth;
        let work = hit.then(&then);
        Box::pin(async move {
            if let Some(work) = work {
                work.await;
            }
            Ok(())
        })
    })
}

/// What came of a schedule.
#[derive(Debug, Default)]
struct Outcome {
    reported: bool,
    swept: bool,
    /// The fence stored blobs again, or took the snapshot back.
    acted: bool,
}

/// The writer begins and is held at one moment. Then a pruner marks, a day goes by, and its sweep begins: it is held
/// at a moment of its own until the writer is through, or goes on to its end first.
async fn play(memory: &Memory, dir: &Path, is_ahead: bool, writer: Moment, sweep: Option<Moment>) -> Outcome {
    let memory = memory.copy();
    let marker = open(Actor::with(&memory, true, Box::new(|_, _, _| Box::pin(async { Ok(()) })))).await;
    let gate = Arc::new(Gate::default());
    let sweeping: Arc<Mutex<Option<JoinHandle<Result<u64>>>>> = Arc::default();
    let hook = {
        let (memory, gate, sweeping) = (Arc::clone(&memory), Arc::clone(&gate), Arc::clone(&sweeping));
        let marker = marker.clone();
        at(writer, move || {
            let marker = marker.clone();
            let (memory, gate, sweeping) = (Arc::clone(&memory), Arc::clone(&gate), Arc::clone(&sweeping));
            Box::pin(async move {
                run_prune(&marker).await.unwrap();
                memory.pass(25);
                let held = Arc::clone(&gate);
                let hook: Hook = match sweep {
                    None => Box::new(|_, _, _| Box::pin(async { Ok(()) })),
                    Some(moment) => at(moment, move || {
                        let gate = Arc::clone(&held);
                        Box::pin(async move {
                            gate.reached.notify_one();
                            if !gate.open.load(Ordering::SeqCst) {
                                gate.go.notified().await;
                            }
                        })
                    }),
                };
                let sweeper = open(Actor::with(&memory, true, hook)).await;
                let ended = Arc::clone(&gate);
                let task = tokio::spawn(async move {
                    let result = run_prune(&sweeper).await;
                    ended.reached.notify_one();
                    result
                });
                *sweeping.lock().unwrap() = Some(task);
                gate.reached.notified().await;
            })
        })
    };
    let repo = open(Actor::with(&memory, true, hook)).await;
    let source = dir.join("all/source");
    let result = if is_ahead { back_up_ahead(&repo, source).await } else { back_up(&repo, source).await };
    gate.open.store(true, Ordering::SeqCst);
    gate.go.notify_one();
    let task = sweeping.lock().unwrap().take();
    let mut outcome = Outcome::default();
    if let Some(task) = task {
        // It may have found that somebody is at work, which is as good.
        outcome.swept = task.await.unwrap().is_ok_and(|deleted| deleted > 0);
    }
    let what = format!("writer at {writer:?}, ahead {is_ahead}, sweep at {sweep:?}: {result:?}");
    // Whatever is left to sweep goes as well, and then all that is there is read.
    for _ in 0..2 {
        memory.pass(25);
        run_prune(&marker).await.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
    }
    let report =
        check(&marker, None, &CheckSpec { read_data: ReadData::All }, &Ctx::default()).await.unwrap();
    assert!(report.is_sound(), "{what}: {:?}", report.findings);
    let there = memory.ids(FileKind::Snapshot);
    match &result {
        Ok(id) => {
            assert!(there.contains(id), "{what}: the snapshot is gone");
            outcome.reported = true;
        }
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::LockLost, "{what}");
            assert_eq!(there.len(), 1, "{what}: the snapshot was not taken back");
            outcome.acted = true;
        }
    }
    outcome
}

/// Plays all schedules of these moments.
async fn survives(writers: &[Moment], is_ahead: bool) {
    let (memory, dir) = scene().await;
    let mut cases: Vec<(Moment, Option<Moment>)> = Vec::new();
    for writer in writers {
        cases.push((*writer, None));
        cases.extend(SWEEP.map(|sweep| (*writer, Some(sweep))));
    }
    let total = cases.len();
    let outcomes: Vec<Outcome> = stream::iter(cases)
        .map(|(writer, sweep)| play(&memory, dir.path(), is_ahead, writer, sweep))
        .buffer_unordered(12)
        .collect()
        .await;
    assert_eq!(outcomes.len(), total);
    let reported = outcomes.iter().filter(|o| o.reported).count();
    let swept = outcomes.iter().filter(|o| o.swept).count();
    let taken_back = outcomes.iter().filter(|o| o.acted).count();
    // Otherwise the schedules prove nothing: data must have gone, and snapshots been taken back because of it.
    assert!(reported > total / 2 && swept > total / 2 && taken_back > 0, "{reported} {swept} {taken_back}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_backup_has_reported_survives_every_prune() {
    survives(&WRITER, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_backup_that_read_ahead_has_reported_survives_every_prune() {
    survives(&WRITER_AHEAD, true).await;
}
