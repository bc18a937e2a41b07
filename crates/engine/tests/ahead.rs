//! A backup that reads ahead of its lock: what it reads until then counts only if it would read the same under the lock, and
//! nothing of it reaches the store before.
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
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_engine::backup::{BackupReport, BackupSpec, lock_reading_ahead};
use holdfast_engine::check::{CheckSpec, ReadData, check};
use holdfast_engine::error::{Error, Result};
use holdfast_engine::event::{Event, EventSink};
use holdfast_engine::forget::{ForgetSpec, Selection, forget};
use holdfast_engine::lock::{Holder, LockMode, Locking};
use holdfast_engine::prune::{MaxUnused, PruneSpec, prune};
use holdfast_engine::store::{FileKind, Store};
use holdfast_engine::{Ctx, ErrorKind, Id, Repository};
use jiff::Timestamp;
use memory::{Actor, Call, Hook, Memory};
use tokio::sync::Notify;

const PASSWORD: &str = "correct horse battery staple correct horse battery staple 123456";
/// For what another task is to do; only a fault takes so long.
const PATIENCE: Duration = Duration::from_mins(1);

/// Keeps what it is told, and tells when files are being read.
#[derive(Default)]
struct Ears {
    heard: Mutex<Vec<Event>>,
    reading: Notify,
    waiting: Notify,
}

impl EventSink for Ears {
    fn event(&self, event: Event) {
        match &event {
            Event::Phase("read") => self.reading.notify_one(),
            Event::WaitingForLock { .. } => self.waiting.notify_one(),
            _ => {}
        }
        self.heard.lock().unwrap().push(event);
    }
}

impl Ears {
    fn count(&self, which: impl Fn(&Event) -> bool) -> usize {
        self.heard.lock().unwrap().iter().filter(|event| which(event)).count()
    }

    /// How often the reading of files began.
    fn readings(&self) -> usize {
        self.count(|event| matches!(event, Event::Phase("read")))
    }

    fn faults(&self) -> u64 {
        self.count(|event| matches!(event, Event::Fault(_))) as u64
    }
}

fn ctx(ears: &Arc<Ears>) -> Ctx {
    Ctx { events: Arc::clone(ears) as Arc<dyn EventSink>, ..Ctx::default() }
}

fn locking(wait: Duration) -> Locking {
    Locking { holder: Holder::this_process("h", "u"), wait, dead_holders: Vec::new() }
}

async fn open(store: Arc<dyn Store>) -> Repository {
    Repository::open(store, &PASSWORD.to_owned().into(), &Ctx::default()).await.unwrap()
}

async fn back_up(repo: &Repository, source: &Path, wait: Duration, ctx: &Ctx) -> Result<BackupReport> {
    let spec = BackupSpec { roots: vec![source.to_owned()], host: "h".into(), ..BackupSpec::default() };
    let locking = locking(wait);
    let (lock, ahead) = lock_reading_ahead(repo, &locking, &spec, ctx).await?;
    let report = ahead.finish(&lock).await;
    lock.release().await?;
    report
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

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

async fn assert_sound(memory: &Arc<Memory>, snapshots: usize) {
    let repo = open(Actor::plain(memory)).await;
    let report = check(&repo, None, &CheckSpec { read_data: ReadData::All }, &Ctx::default()).await.unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
    assert_eq!(memory.count(FileKind::Snapshot), snapshots);
    assert_eq!(memory.count(FileKind::Lock), 0);
}

/// Forgets a snapshot and deletes at once what only it needs, as another client's prune does.
async fn forget_and_prune(memory: &Arc<Memory>, snapshot: Id) {
    // It sees no lock: its own was taken and released before the other was written.
    let repo = open(Actor::with(memory, true, Box::new(|_, _, _| Box::pin(async { Ok(()) })))).await;
    let ctx = Ctx::default();
    let lock = repo
        .lock(LockMode::Shared, &Holder::this_process("h", "u"), Duration::ZERO, &[], &ctx)
        .await
        .unwrap();
    let spec = ForgetSpec {
        selection: Selection::Ids(vec![snapshot]),
        dry_run: false,
        floor: 0,
        known: Vec::new(),
        now: Timestamp::now(),
    };
    forget(&repo, &lock, &spec, &ctx).await.unwrap();
    lock.release().await.unwrap();
    let spec = PruneSpec {
        instant: true,
        max_unused: MaxUnused::Bytes(0),
        allow_large: true,
        ..PruneSpec::default()
    };
    let report = prune(&repo, &locking(Duration::ZERO), &spec, &ctx).await.unwrap();
    assert!(report.deleted_packs > 0);
}

/// Does something before the n-th call of a kind, once.
fn before(
    (call, kind, nth): (Call, FileKind, usize),
    then: impl Fn() -> futures::future::BoxFuture<'static, Result<()>> + Send + Sync + 'static,
) -> Hook {
    let seen = AtomicUsize::new(0);
    Box::new(move |c, k, after| {
        let hit = (c, k, after) == (call, kind, false) && seen.fetch_add(1, Ordering::SeqCst) == nth;
        let work = hit.then(&then);
        Box::pin(async move {
            match work {
                Some(work) => work.await,
                None => Ok(()),
            }
        })
    })
}

/// Where the lock is written and it is looked who else has one.
const SECOND_LOOK: (Call, FileKind, usize) = (Call::List, FileKind::Lock, 1);

/// Files are being read, the lock is not held yet, and a prune deletes what the index that was read ahead names.
fn pruned_before_the_lock(memory: &Arc<Memory>, ears: &Arc<Ears>, snapshot: Id) -> Hook {
    let (memory, ears) = (Arc::clone(memory), Arc::clone(ears));
    before(SECOND_LOOK, move || {
        let (memory, ears) = (Arc::clone(&memory), Arc::clone(&ears));
        Box::pin(async move {
            tokio::time::timeout(PATIENCE, ears.reading.notified()).await.unwrap();
            forget_and_prune(&memory, snapshot).await;
            Ok(())
        })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_while_the_lock_settles_and_nothing_is_sent_before_it_is_held() {
    let dir = scratch();
    let source = source(dir.path(), 0..8);
    let (memory, _) = memory::repository(PASSWORD).await;
    let ears = Arc::new(Ears::default());
    let (held, sent_early) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let hook: Hook = {
        let (ears, held, sent_early) = (Arc::clone(&ears), Arc::clone(&held), Arc::clone(&sent_early));
        let seen = AtomicUsize::new(0);
        Box::new(move |call, kind, after| {
            let second = (call, kind, after) == (Call::List, FileKind::Lock, false)
                && seen.fetch_add(1, Ordering::SeqCst) == 1;
            if call == Call::Put && kind != FileKind::Lock && !held.load(Ordering::SeqCst) {
                sent_early.store(true, Ordering::SeqCst);
            }
            let (ears, held) = (Arc::clone(&ears), Arc::clone(&held));
            Box::pin(async move {
                if second {
                    // The lock is not to be had before files are being read.
                    tokio::time::timeout(PATIENCE, ears.reading.notified()).await.unwrap();
                    // Long enough for what may not be sent to be sent.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    held.store(true, Ordering::SeqCst);
                }
                Ok(())
            })
        })
    };
    let repo = open(Actor::with(&memory, false, hook)).await;
    let report = back_up(&repo, &source, Duration::ZERO, &ctx(&ears)).await.unwrap();
    assert_eq!((report.total_files, ears.readings()), (8, 1), "what was read ahead is what was saved");
    assert!(!sent_early.load(Ordering::SeqCst));
    assert_sound(&memory, 1).await;
}

/// The index that was read ahead names packs that a prune deletes before the lock is held.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_by_an_index_that_has_changed_is_read_again() {
    let dir = scratch();
    let source = source(dir.path(), 0..8);
    let (memory, repo) = memory::repository(PASSWORD).await;
    let first = back_up(&repo, &source, Duration::ZERO, &Ctx::default()).await.unwrap().snapshot;
    // As if restored from elsewhere: there is no parent that would hide what the index says.
    let moved = dir.path().join("moved");
    fs::rename(&source, &moved).unwrap();
    let ears = Arc::new(Ears::default());
    let repo = open(Actor::with(&memory, false, pruned_before_the_lock(&memory, &ears, first))).await;
    let report = back_up(&repo, &moved, Duration::ZERO, &ctx(&ears)).await.unwrap();
    assert_eq!((report.total_files, ears.readings()), (8, 2));
    assert!(report.data_blobs > 0, "all of it is stored anew");
    assert_sound(&memory, 1).await;
}

/// The store answers wrongly as long as nothing is locked.
#[tokio::test(flavor = "multi_thread")]
async fn what_fails_before_the_lock_is_held_is_tried_again_under_it() {
    let dir = scratch();
    let source = source(dir.path(), 0..8);
    let (memory, _) = memory::repository(PASSWORD).await;
    let ears = Arc::new(Ears::default());
    let hook = before((Call::List, FileKind::Index, 0), || {
        Box::pin(async { Err(Error::new(ErrorKind::Corrupt, "half of it was replaced")) })
    });
    let repo = open(Actor::with(&memory, false, hook)).await;
    let report = back_up(&repo, &source, Duration::ZERO, &ctx(&ears)).await.unwrap();
    assert_eq!((report.total_files, ears.readings()), (8, 1));
    assert_eq!(ears.count(|event| matches!(event, Event::Phase("prepare"))), 2);
    assert_sound(&memory, 1).await;
}

/// And what fails under it too is the run's failure, with nothing left.
#[tokio::test(flavor = "multi_thread")]
async fn what_fails_under_the_lock_too_is_told_and_the_lock_goes() {
    let dir = scratch();
    let source = source(dir.path(), 0..8);
    let (memory, _) = memory::repository(PASSWORD).await;
    let hook: Hook = Box::new(|call, kind, _| {
        Box::pin(async move {
            match (call, kind) {
                (Call::List, FileKind::Index) => Err(Error::new(ErrorKind::AccessDenied, "no")),
                _ => Ok(()),
            }
        })
    });
    let repo = open(Actor::with(&memory, false, hook)).await;
    let error = back_up(&repo, &source, Duration::ZERO, &Ctx::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessDenied, "{}", error.chain());
    assert_sound(&memory, 0).await;
}

/// A store that does not answer is not asked a second time from the beginning.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_answer_is_given_up_once() {
    let dir = scratch();
    let source = source(dir.path(), 0..8);
    let (memory, _) = memory::repository(PASSWORD).await;
    let ears = Arc::new(Ears::default());
    let lists = Arc::new(AtomicUsize::new(0));
    let hook: Hook = {
        let lists = Arc::clone(&lists);
        Box::new(move |call, kind, _| {
            let is_gate =
                (call, kind) == (Call::List, FileKind::Index) && lists.fetch_add(1, Ordering::SeqCst) > 0;
            Box::pin(async move {
                if is_gate { Err(Error::new(ErrorKind::Unreachable, "no answer for long")) } else { Ok(()) }
            })
        })
    };
    let repo = open(Actor::with(&memory, false, hook)).await;
    let error = back_up(&repo, &source, Duration::ZERO, &ctx(&ears)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{}", error.chain());
    assert_eq!(lists.load(Ordering::SeqCst), 2, "the early one, and that under the lock");
    assert_sound(&memory, 0).await;
}

/// Somebody stops the run before its lock is held, or right after.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_stopped_before_it_may_write_leaves_nothing() {
    for moment in [SECOND_LOOK, (Call::List, FileKind::Index, 1)] {
        let dir = scratch();
        let source = source(dir.path(), 0..8);
        let (memory, _) = memory::repository(PASSWORD).await;
        let ears = Arc::new(Ears::default());
        let ctx = ctx(&ears);
        let hook = {
            let (ears, cancel, source) = (Arc::clone(&ears), ctx.cancel.clone(), source.clone());
            let first = Arc::new(AtomicBool::new(true));
            before(moment, move || {
                let (ears, cancel, source) = (Arc::clone(&ears), cancel.clone(), source.clone());
                let first = Arc::clone(&first);
                Box::pin(async move {
                    tokio::time::timeout(PATIENCE, ears.reading.notified()).await.unwrap();
                    if first.swap(false, Ordering::SeqCst) {
                        // It is not looked at any more either.
                        fs::remove_dir_all(&source).unwrap();
                        cancel.cancel();
                    }
                    Ok(())
                })
            })
        };
        let repo = open(Actor::with(&memory, false, hook)).await;
        let error = back_up(&repo, &source, Duration::ZERO, &ctx).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{moment:?}: {}", error.chain());
        // What was dropped removes its lock in the background.
        for _ in 0..100 {
            if memory.count(FileKind::Lock) == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_sound(&memory, 0).await;
        assert_eq!((memory.count(FileKind::Pack), memory.count(FileKind::Index)), (0, 0));
    }
}

/// Whoever holds the repository may do so for hours: what was read before would be old.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_read_while_others_locks_are_in_the_way() {
    let dir = scratch();
    let source = source(dir.path(), 0..8);
    let (memory, repo) = memory::repository(PASSWORD).await;
    let other = Holder::this_process("elsewhere", "u");
    let lock = repo.lock(LockMode::Exclusive, &other, Duration::ZERO, &[], &Ctx::default()).await.unwrap();
    let error = back_up(&repo, &source, Duration::ZERO, &Ctx::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);

    let ears = Arc::new(Ears::default());
    let writer = {
        let (repo, ears, source) = (repo.clone(), Arc::clone(&ears), source.clone());
        tokio::spawn(async move { back_up(&repo, &source, PATIENCE, &ctx(&ears)).await })
    };
    tokio::time::timeout(PATIENCE, ears.waiting.notified()).await.unwrap();
    // Written after the first try: only who reads after the lock sees it.
    fs::write(source.join("late"), "late").unwrap();
    lock.release().await.unwrap();
    let report = writer.await.unwrap().unwrap();
    assert_eq!(report.total_files, 9);
    assert_sound(&memory, 1).await;
}

/// More than are kept back end the reading ahead, and are told when it is read again.
async fn many_faults(at: &Path) {
    let source = source(at, 0..1);
    for n in 0..300 {
        let path = source.join(format!("locked-{n}"));
        fs::write(&path, "x").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
    }
    let (memory, _) = memory::repository(PASSWORD).await;
    let ears = Arc::new(Ears::default());
    let hook = before(SECOND_LOOK, || {
        Box::pin(async {
            // Until all have been met, of which nobody is told; a hundredth of it is enough.
            tokio::time::sleep(Duration::from_secs(4)).await;
            Ok(())
        })
    });
    let repo = open(Actor::with(&memory, false, hook)).await;
    let report = back_up(&repo, &source, Duration::ZERO, &ctx(&ears)).await.unwrap();
    assert_eq!((report.faults.total, ears.faults(), report.total_files), (300, 300, 1));
    assert_eq!(ears.readings(), 2);
    assert_sound(&memory, 1).await;
}

#[test]
fn faults_of_what_is_read_again_are_told_once() {
    // On a thread of its own, whose lost rights harm no other test.
    std::thread::spawn(|| {
        let mut own = rustix::thread::capabilities(None).unwrap();
        own.effective.remove(
            rustix::thread::CapabilitySet::DAC_OVERRIDE | rustix::thread::CapabilitySet::DAC_READ_SEARCH,
        );
        rustix::thread::set_capabilities(None, own).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = scratch();
            let source = source(dir.path(), 0..8);
            fs::set_permissions(source.join("3"), fs::Permissions::from_mode(0o000)).unwrap();
            many_faults(&dir.path().join("many")).await;
            let (memory, repo) = memory::repository(PASSWORD).await;
            // Read ahead, and what was read counts.
            let ears = Arc::new(Ears::default());
            let first = back_up(&repo, &source, Duration::ZERO, &ctx(&ears)).await.unwrap();
            assert_eq!((first.faults.total, ears.faults(), ears.readings()), (1, 1, 1));
            // Read ahead, and read again.
            let ears = Arc::new(Ears::default());
            let hook = pruned_before_the_lock(&memory, &ears, first.snapshot);
            let repo = open(Actor::with(&memory, false, hook)).await;
            let report = back_up(&repo, &source, Duration::ZERO, &ctx(&ears)).await.unwrap();
            assert_eq!((report.faults.total, ears.faults(), ears.readings()), (1, 1, 2));
            assert_sound(&memory, 1).await;
        });
    })
    .join()
    .unwrap();
}
