//! Forget, unforget and prune: what they free, what they must not touch, and that dying at any moment harms nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what went wrong by failing"
)]

mod memory;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::backup::{BackupReport, BackupSpec, backup};
use holdfast_engine::check::{CheckReport, CheckSpec, ReadData, check};
use holdfast_engine::error::{Error, Result};
use holdfast_engine::forget::{ForgetReport, ForgetSpec, Selection, forget, forgotten, unforget};
use holdfast_engine::lock::{Holder, LockMode, Locking, Unlock};
use holdfast_engine::prune::{MaxUnused, PruneReport, PruneSpec, prune};
use holdfast_engine::store::{FileKind, FileName, PutMode, Store};
use holdfast_engine::tag::{TagChange, change_tags};
use holdfast_engine::{Ctx, ErrorKind, Id, Repository};
use jiff::Timestamp;
use memory::{Actor, Call, Hook, Memory};

const PASSWORD: &str = "correct horse battery staple correct horse battery staple 123456";

fn holder() -> Holder {
    Holder::this_process("h", "u")
}

fn locking() -> Locking {
    Locking { holder: holder(), wait: Duration::ZERO, dead_holders: Vec::new() }
}

async fn open(store: Arc<dyn Store>) -> Repository {
    Repository::open(store, &PASSWORD.to_owned().into(), &Ctx::default()).await.unwrap()
}

async fn init() -> Arc<Memory> {
    let (memory, _) = memory::repository(PASSWORD).await;
    memory
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A directory with these numbered files and no others. Its path is always the same, so that a snapshot has a parent.
fn source(at: &Path, files: std::ops::Range<u64>) -> PathBuf {
    let dir = at.join("source");
    let _ = fs::remove_dir_all(&dir);
    for number in files {
        let sub = dir.join(format!("d{}", number % 3));
        fs::create_dir_all(&sub).unwrap();
        fs::write(sub.join(format!("f{number}")), noise(number + 1, 60_000)).unwrap();
    }
    dir
}

async fn try_back_up(repo: &Repository, dir: PathBuf) -> Result<BackupReport> {
    let ctx = Ctx::default();
    let lock = repo.lock(LockMode::Shared, &holder(), Duration::ZERO, &[], &ctx).await?;
    let spec = BackupSpec { roots: vec![dir], host: "h".into(), ..BackupSpec::default() };
    let report = backup(repo, &lock, &spec, &ctx).await;
    lock.release().await?;
    report
}

async fn back_up(repo: &Repository, dir: PathBuf) -> Id {
    try_back_up(repo, dir).await.unwrap().snapshot
}

async fn try_forget(repo: &Repository, ids: &[Id]) -> Result<ForgetReport> {
    let ctx = Ctx::default();
    let lock = repo.lock(LockMode::Shared, &holder(), Duration::ZERO, &[], &ctx).await?;
    let spec = ForgetSpec {
        selection: Selection::Ids(ids.to_vec()),
        dry_run: false,
        floor: 0,
        known: Vec::new(),
        now: Timestamp::now(),
    };
    let report = forget(repo, &lock, &spec, &ctx).await;
    lock.release().await?;
    report
}

async fn try_unforget(repo: &Repository) -> Result<()> {
    let ctx = Ctx::default();
    let lock = repo.lock(LockMode::Shared, &holder(), Duration::ZERO, &[], &ctx).await?;
    let all = forgotten(repo, &ctx).await?;
    let result = unforget(repo, &lock, &all, &ctx).await;
    lock.release().await?;
    result
}

/// Keeps no waste, and goes on whatever the share that goes.
fn thorough() -> PruneSpec {
    PruneSpec { max_unused: MaxUnused::Bytes(0), allow_large: true, ..PruneSpec::default() }
}

async fn try_prune(repo: &Repository, spec: &PruneSpec) -> Result<PruneReport> {
    prune(repo, &locking(), spec, &Ctx::default()).await
}

async fn read_all(repo: &Repository) -> CheckReport {
    check(repo, None, &CheckSpec { read_data: ReadData::All }, &Ctx::default()).await.unwrap()
}

async fn assert_sound(repo: &Repository, what: &str) -> CheckReport {
    let report = read_all(repo).await;
    assert!(report.is_sound(), "{what}: {:?}", report.findings);
    report
}

async fn ids(repo: &Repository) -> Vec<Id> {
    let mut ids: Vec<Id> = repo.snapshots().await.unwrap().into_iter().map(|(id, _)| id).collect();
    ids.sort_unstable();
    ids
}

/// Three snapshots: the second has half of the first, the third some of the second. Made once.
struct Template {
    memory: Arc<Memory>,
    snapshots: [Id; 3],
    /// A directory that stays; the sources of further snapshots.
    dir: tempfile::TempDir,
}

async fn template() -> &'static Template {
    static MADE: tokio::sync::OnceCell<Template> = tokio::sync::OnceCell::const_new();
    MADE.get_or_init(|| async {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let memory = init().await;
        let repo = open(Actor::plain(&memory)).await;
        let mut snapshots = Vec::new();
        for files in [0..12, 6..16, 10..18] {
            snapshots.push(back_up(&repo, source(dir.path(), files)).await);
        }
        Template { memory, snapshots: snapshots.try_into().unwrap(), dir }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_can_count_snapshots_as_gone_and_needs_no_lock() {
    let template = template().await;
    let first = template.snapshots[0];
    let memory = template.memory.copy();
    let repo = open(Actor::plain(&memory)).await;
    let dry = PruneSpec { dry_run: true, ..thorough() };
    let without = PruneSpec { without: vec![first], ..dry.clone() };
    let foretold = try_prune(&repo, &without).await.unwrap().totals;
    assert_ne!(try_prune(&repo, &dry).await.unwrap().totals, foretold);
    let alone =
        repo.lock(LockMode::Exclusive, &holder(), Duration::ZERO, &[], &Ctx::default()).await.unwrap();
    assert_eq!(try_prune(&repo, &without).await.unwrap_err().kind(), ErrorKind::Locked);
    let unlocked = PruneSpec { no_lock: true, ..without };
    assert_eq!(try_prune(&repo, &unlocked).await.unwrap().totals, foretold);
    alone.release().await.unwrap();
    for wrong in [
        PruneSpec { dry_run: false, without: Vec::new(), ..unlocked.clone() },
        PruneSpec { dry_run: false, no_lock: false, ..unlocked },
    ] {
        assert_eq!(try_prune(&repo, &wrong).await.unwrap_err().kind(), ErrorKind::Usage);
    }
    try_forget(&repo, &[first]).await.unwrap();
    assert_eq!(try_prune(&repo, &dry).await.unwrap().totals, foretold);
}

#[tokio::test(flavor = "multi_thread")]
async fn space_is_freed_after_the_grace_and_not_before() {
    let template = template().await;
    let [first, second, third] = template.snapshots;
    let memory = template.memory.copy();
    let repo = open(Actor::plain(&memory)).await;
    try_forget(&repo, &[first]).await.unwrap();
    let before = memory.pack_bytes();

    let dry = try_prune(&repo, &PruneSpec { dry_run: true, ..thorough() }).await.unwrap();
    assert!(dry.marked_packs > 0 && dry.totals.unused_bytes > 6 * 60_000, "{dry:?}");
    assert_eq!(memory.pack_bytes(), before);
    assert_eq!(memory.count(FileKind::Lock), 0);

    let marked = try_prune(&repo, &thorough()).await.unwrap();
    assert_eq!((marked.marked_packs, marked.deleted_packs), (dry.marked_packs, 0));
    assert!(marked.moved_bytes >= 6 * 60_000, "{marked:?}");
    assert!(marked.next_sweep.is_some());
    assert!(memory.pack_bytes() > before, "moved, and nothing is deleted yet");
    assert_sound(&repo, "marked").await;

    // What is marked can be brought back whole, and is not swept then.
    try_unforget(&repo).await.unwrap();
    assert_eq!(ids(&repo).await.len(), 3);
    memory.pass(25);
    let needed = try_prune(&repo, &thorough()).await.unwrap();
    assert!(needed.unmarked_packs > 0, "{needed:?}");
    assert_sound(&repo, "brought back").await;

    try_forget(&repo, &[first]).await.unwrap();
    memory.pass(25);
    try_prune(&repo, &thorough()).await.unwrap();
    memory.pass(23);
    let early = try_prune(&repo, &thorough()).await.unwrap();
    assert_eq!((early.deleted_packs, early.waiting_packs > 0), (0, true), "{early:?}");
    memory.pass(2);
    let swept = try_prune(&repo, &thorough()).await.unwrap();
    assert!(swept.deleted_packs > 0 && swept.waiting_packs == 0, "{swept:?}");
    let report = assert_sound(&repo, "swept").await;
    assert_eq!(report.notes, 0, "no duplicates, no unindexed packs: {:?}", report.findings);
    // 12 files of the second and third snapshot are left, and nothing else.
    assert!(memory.pack_bytes() < 12 * 61_000 + 60_000, "{}", memory.pack_bytes());
    let mut left = vec![second, third];
    left.sort_unstable();
    assert_eq!(ids(&repo).await, left);
    assert_eq!(
        forgotten(&repo, &Ctx::default()).await.unwrap(),
        [],
        "its data are gone, and so is its record"
    );
    // Marks of what is gone go with the next sweep; after that there is nothing to do.
    memory.pass(25);
    for _ in 0..2 {
        let idle = try_prune(&repo, &thorough()).await.unwrap();
        assert_eq!((idle.marked_packs, idle.deleted_packs, idle.moved_bytes), (0, 0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_back_deletes_nothing_early_and_nothing_for_ever() {
    let template = template().await;
    let memory = template.memory.copy();
    let repo = open(Actor::plain(&memory)).await;
    try_forget(&repo, &template.snapshots[..1]).await.unwrap();
    memory.pass(24 * 30);
    try_prune(&repo, &thorough()).await.unwrap();
    // The store's clock was a month ahead, and is put right: the marks lie in the future.
    memory.pass(-24 * 30);
    let early = try_prune(&repo, &thorough()).await.unwrap();
    assert_eq!((early.deleted_packs, early.waiting_packs > 0), (0, true), "{early:?}");
    // It falls behind ours: what is marked now is not older for it.
    memory.pass(-48);
    try_forget(&repo, &template.snapshots[1..2]).await.unwrap();
    let behind = try_prune(&repo, &thorough()).await.unwrap();
    assert_eq!(behind.deleted_packs, 0, "{behind:?}");
    assert_sound(&repo, "marked at odd times").await;
    memory.pass(48 + 25);
    assert!(try_prune(&repo, &thorough()).await.unwrap().deleted_packs > 0);
    memory.pass(24 * 31);
    try_prune(&repo, &thorough()).await.unwrap();
    assert_sound(&repo, "swept").await;
    assert_eq!(try_prune(&repo, &thorough()).await.unwrap().waiting_packs, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_of_a_clock_that_was_far_ahead_is_made_anew() {
    let (memory, _) = prunable().await;
    let repo = open(Actor::plain(&memory)).await;
    memory.pass(24 * 30);
    let marked = try_prune(&repo, &thorough()).await.unwrap().marked_packs;
    memory.pass(-24 * 30);
    let again = try_prune(&repo, &thorough()).await.unwrap();
    assert_eq!((again.marked_packs, again.deleted_packs), (marked, 0), "{again:?}");
    assert_eq!(try_prune(&repo, &thorough()).await.unwrap().marked_packs, 0, "once is enough");
    memory.pass(25);
    assert_eq!(try_prune(&repo, &thorough()).await.unwrap().deleted_packs, marked);
    assert_sound(&repo, "swept").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marked_pack_that_is_gone_is_an_error_where_a_snapshot_needs_it() {
    let (memory, _) = prunable().await;
    let repo = open(Actor::plain(&memory)).await;
    try_prune(&repo, &thorough()).await.unwrap();
    let index = repo.load_index(&Ctx::default()).await.unwrap();
    let marked: Vec<Id> = index.packs().iter().filter(|p| p.marked && p.has_data).map(|p| p.id).collect();
    for again in [false, true] {
        let memory = memory.copy();
        let repo = open(Actor::plain(&memory)).await;
        if again {
            try_unforget(&repo).await.unwrap();
        }
        for id in &marked {
            memory.remove(FileKind::Pack, *id);
        }
        let report = read_all(&repo).await;
        assert!(report.notes >= marked.len() as u64, "{:?}", report.findings);
        assert_eq!(report.errors > 0, again, "{:?}", report.findings);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_unreadable_files_go_when_their_snapshots_cannot_come_back() {
    let template = template().await;
    let [first, second, third] = template.snapshots;
    let memory = template.memory.copy();
    let store = Actor::plain(&memory);
    let repo = open(Arc::clone(&store)).await;
    // Of a backup that died before its snapshot.
    let dead = Id::hash(b"never written");
    for id in [first, second, third, dead] {
        let path = format!("unreadable/{id}");
        store.put_extra(&path, "a list".into(), PutMode::CreateNew).await.unwrap();
    }
    let lists = async || {
        let names = store.list_extra("unreadable", 100).await.unwrap();
        names.iter().map(|name| name.parse::<Id>().unwrap()).collect::<Vec<_>>()
    };
    let sorted = |mut ids: Vec<Id>| {
        ids.sort_unstable();
        ids
    };
    let lock = repo.lock(LockMode::Shared, &holder(), Duration::ZERO, &[], &Ctx::default()).await.unwrap();
    let snapshot = repo.load_snapshot(&second).await.unwrap();
    let change = TagChange::Set(vec!["other".to_owned()]);
    let renamed =
        change_tags(&repo, &lock, second, &snapshot, &change, &[], &Ctx::default()).await.unwrap().unwrap();
    assert_ne!(renamed, second);
    lock.release().await.unwrap();

    // Nothing of the forgotten one is swept yet: it can come back, with its list.
    try_forget(&repo, &[first]).await.unwrap();
    try_prune(&repo, &thorough()).await.unwrap();
    assert_eq!(lists().await, sorted(vec![first, second, third, dead]));
    memory.pass(25);
    assert!(try_prune(&repo, &thorough()).await.unwrap().deleted_packs > 0);
    assert_eq!(forgotten(&repo, &Ctx::default()).await.unwrap(), []);
    assert_eq!(lists().await, sorted(vec![second, third]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instant_prune_frees_at_once_and_locks_everybody_out() {
    let template = template().await;
    let memory = template.memory.copy();
    let repo = open(Actor::plain(&memory)).await;
    try_forget(&repo, &template.snapshots[..2]).await.unwrap();
    let instant = PruneSpec { instant: true, ..thorough() };
    let lock = repo.lock(LockMode::Shared, &holder(), Duration::ZERO, &[], &Ctx::default()).await.unwrap();
    assert_eq!(try_prune(&repo, &instant).await.unwrap_err().kind(), ErrorKind::Locked);
    lock.release().await.unwrap();
    let report = try_prune(&repo, &instant).await.unwrap();
    assert!(report.deleted_packs > 0 && report.waiting_packs == 0, "{report:?}");
    assert_sound(&repo, "pruned").await;
    assert!(memory.pack_bytes() < 8 * 61_000 + 40_000, "{}", memory.pack_bytes());
    assert_eq!(try_unforget(&repo).await.map_err(|e| e.kind()), Ok(()), "there is nothing to bring back");
    assert_eq!(ids(&repo).await.len(), 1);
}

/// Says that there is no room for the first `files` files of this kind.
fn full(kind: FileKind, files: i64) -> Hook {
    let left = AtomicI64::new(files);
    Box::new(move |call, of, after| {
        let full = call == Call::Put && of == kind && !after && left.fetch_sub(1, Ordering::SeqCst) > 0;
        Box::pin(async move { if full { Err(Error::new(ErrorKind::Full, "no room")) } else { Ok(()) } })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_that_finds_no_room_still_makes_some() {
    for (kind, files) in [(FileKind::Pack, i64::MAX), (FileKind::Index, 1)] {
        let (memory, stay) = prunable().await;
        let before = memory.ids(FileKind::Pack);
        let repo = open(Actor::with(&memory, false, full(kind, files))).await;
        let instant = PruneSpec { instant: true, ..thorough() };
        let report = try_prune(&repo, &instant).await.unwrap();
        assert!(report.no_room.is_some() && report.moved_bytes == 0, "{kind:?}: {report:?}");
        assert!(report.deleted_packs > 0, "{kind:?}: {report:?}");
        let left = memory.ids(FileKind::Pack);
        let begun = left.iter().filter(|id| !before.contains(id)).count();
        // Whether an index file whose writing failed lists them cannot be told: they stay for a later prune.
        assert_eq!(begun > 0, kind == FileKind::Index, "{kind:?}: what was begun takes no room");
        assert!(before.iter().any(|id| !left.contains(id)), "{kind:?}");
        assert!(ids(&repo).await.iter().all(|id| stay.contains(id)));
        assert_sound(&repo, "pruned without room").await;

        let repo = open(Actor::plain(&memory)).await;
        let report = try_prune(&repo, &instant).await.unwrap();
        assert!(report.no_room.is_none() && report.moved_bytes > 0, "{kind:?}: {report:?}");
        assert_sound(&repo, "pruned with room").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_that_has_no_room_for_marks_sweeps_what_is_due() {
    let template = template().await;
    for instant in [false, true] {
        let (memory, stay) = prunable().await;
        let repo = open(Actor::plain(&memory)).await;
        try_prune(&repo, &thorough()).await.unwrap();
        memory.pass(25);
        let more = back_up(&repo, source(&template.dir.path().join("more"), 30..34)).await;
        try_forget(&repo, &[more]).await.unwrap();
        let before = memory.pack_bytes();

        let repo = open(Actor::with(&memory, false, full(FileKind::Index, 1))).await;
        let report = try_prune(&repo, &PruneSpec { instant, ..thorough() }).await.unwrap();
        assert!(report.no_room.as_ref().is_some_and(|why| why.contains("marks")), "{report:?}");
        assert_eq!((report.moved_bytes, report.marked_packs, report.marked_bytes), (0, 0, 0), "{report:?}");
        assert!(report.deleted_packs > 0 && memory.pack_bytes() < before, "{report:?}");
        assert!(stay.iter().all(|id| memory.ids(FileKind::Snapshot).contains(id)));
        assert_sound(&repo, "swept without new marks").await;
        assert_eq!(memory.count(FileKind::Lock), 0);

        // There is room now.
        let marked = try_prune(&repo, &thorough()).await.unwrap();
        assert!(marked.no_room.is_none() && marked.marked_packs > 0, "{marked:?}");
        memory.pass(25);
        let swept = try_prune(&repo, &thorough()).await.unwrap();
        assert_eq!(swept.deleted_packs, marked.marked_packs, "{swept:?}");
        assert_sound(&repo, "swept with room").await;
    }
}

/// Lets this many packs of dead writers lie around, and their marks be old enough for a sweep.
async fn due_orphans(memory: &Arc<Memory>, count: u32) -> Vec<Id> {
    let store = Actor::plain(memory);
    let packs: Vec<Id> = (0..count).map(|number| Id::hash(&number.to_le_bytes())).collect();
    for id in &packs {
        let name = FileName { kind: FileKind::Pack, id: *id };
        store
            .put(name, Bytes::from_static(b"a dead writer's").into(), PutMode::ContentAddressed)
            .await
            .unwrap();
    }
    memory.pass(2);
    let repo = open(store).await;
    assert!(try_prune(&repo, &thorough()).await.unwrap().marked_packs >= u64::from(count));
    memory.pass(25);
    packs
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_whose_lock_is_taken_away_ends_with_its_batch() {
    let (memory, stay) = prunable().await;
    due_orphans(&memory, 600).await;
    let before = memory.ids(FileKind::Pack);
    let of = Arc::clone(&memory);
    let hook: Hook = Box::new(move |call, kind, after| {
        if call == Call::Delete && kind == FileKind::Pack && !after {
            for id in of.ids(FileKind::Lock) {
                of.remove(FileKind::Lock, id);
            }
        }
        Box::pin(async { Ok(()) })
    });
    let repo = open(Actor::with(&memory, false, hook)).await;
    let error = try_prune(&repo, &thorough()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LockLost, "{}", error.chain());
    let gone = before.len() - memory.count(FileKind::Pack);
    assert!(gone > 0 && gone <= 256, "{gone} packs went");
    let repo = open(Actor::plain(&memory)).await;
    assert_sound(&repo, "the lock was lost").await;
    assert!(ids(&repo).await.iter().all(|id| stay.contains(id)));
    try_prune(&repo, &thorough()).await.unwrap();
    assert!(before.len() - memory.count(FileKind::Pack) > 600, "the next sweep does the rest");
    assert_sound(&repo, "swept").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_listings_that_differ_delete_nothing() {
    for (kind, instant) in [
        (FileKind::Snapshot, false),
        (FileKind::Snapshot, true),
        (FileKind::Index, false),
        (FileKind::Index, true),
    ] {
        let (memory, _) = prunable().await;
        try_prune(&open(Actor::plain(&memory)).await, &thorough()).await.unwrap();
        memory.pass(25);
        let all = |kind| memory.ids(kind).into_iter().collect::<BTreeSet<Id>>();
        let (snapshots, packs, index) = (all(FileKind::Snapshot), all(FileKind::Pack), all(FileKind::Index));
        let hidden = FileName { kind, id: memory.ids(kind)[0] };
        let body = Actor::plain(&memory).get(hidden, None).await.unwrap();
        // The first half reads each once, the second once more, and then looks again.
        let (of, listings) = (Arc::clone(&memory), AtomicI64::new(0));
        let hook: Hook = Box::new(move |call, what, _| {
            if call == Call::List && what == kind && listings.fetch_add(1, Ordering::SeqCst) == 2 {
                of.remove(kind, hidden.id);
            }
            Box::pin(async { Ok(()) })
        });
        let repo = open(Actor::with(&memory, false, hook)).await;
        let error = try_prune(&repo, &PruneSpec { instant, ..thorough() }).await.unwrap_err();
        let place = format!("{kind:?}, instant {instant}: {}", error.chain());
        assert_eq!(error.kind(), ErrorKind::Guard, "{place}");
        assert!(error.chain().contains("two listings"), "{place}");
        assert!(!memory.ids(kind).contains(&hidden.id), "it was hidden");
        let store = Actor::plain(&memory);
        store.put(hidden, body.into(), PutMode::ContentAddressed).await.unwrap();
        assert!(snapshots.is_subset(&all(FileKind::Snapshot)), "{place}");
        assert!(packs.is_subset(&all(FileKind::Pack)), "{place}");
        assert!(index.is_subset(&all(FileKind::Index)), "{place}");
        assert_eq!(memory.count(FileKind::Lock), 0, "{place}");
        let repo = open(store).await;
        assert_sound(&repo, &place).await;
        assert!(try_prune(&repo, &thorough()).await.unwrap().deleted_packs > 0, "{place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_waits_for_a_running_backup_and_says_so() {
    let template = template().await;
    let memory = template.memory.copy();
    let repo = open(Actor::plain(&memory)).await;
    try_forget(&repo, &template.snapshots[..1]).await.unwrap();
    try_prune(&repo, &thorough()).await.unwrap();
    memory.pass(25);
    let lock = repo.lock(LockMode::Shared, &holder(), Duration::ZERO, &[], &Ctx::default()).await.unwrap();
    let report = try_prune(&repo, &thorough()).await.unwrap();
    assert!(report.postponed.is_some() && report.deleted_packs == 0 && report.due_packs > 0, "{report:?}");
    lock.release().await.unwrap();
    assert!(try_prune(&repo, &thorough()).await.unwrap().deleted_packs > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn guards_refuse() {
    let template = template().await;
    let kind = async |memory: &Arc<Memory>, spec: &PruneSpec| {
        let repo = open(Actor::plain(memory)).await;
        let (packs, index) = (memory.ids(FileKind::Pack), memory.ids(FileKind::Index));
        let result = try_prune(&repo, spec).await;
        assert!(packs.iter().all(|id| memory.ids(FileKind::Pack).contains(id)), "nothing was deleted");
        assert!(index.iter().all(|id| memory.ids(FileKind::Index).contains(id)));
        assert_eq!(memory.count(FileKind::Lock), 0);
        result.unwrap_err().kind()
    };
    let instant = PruneSpec { instant: true, ..thorough() };

    let memory = template.memory.copy();
    let known = PruneSpec { known: vec![Id::hash(b"should be there")], ..instant.clone() };
    assert_eq!(kind(&memory, &known).await, ErrorKind::Guard);

    // All snapshots are gone: more than half of the content would go.
    for id in template.snapshots {
        memory.remove(FileKind::Snapshot, id);
    }
    let careful = PruneSpec { allow_large: false, ..instant.clone() };
    assert_eq!(kind(&memory, &careful).await, ErrorKind::Guard);

    // So are all index files, and the packs are but packs that nobody lists.
    for id in memory.ids(FileKind::Index) {
        memory.remove(FileKind::Index, id);
    }
    memory.pass(2);
    assert_eq!(kind(&memory, &careful).await, ErrorKind::Guard);
    let later = PruneSpec { allow_large: false, ..thorough() };
    let repo = open(Actor::plain(&memory)).await;
    let marked = try_prune(&repo, &later).await.unwrap().marked_packs;
    assert_eq!(marked, memory.count(FileKind::Pack) as u64);
    memory.pass(25);
    assert_eq!(kind(&memory, &later).await, ErrorKind::Guard);
    assert_eq!(try_prune(&repo, &thorough()).await.unwrap().deleted_packs, marked);

    let memory = template.memory.copy();
    memory.remove(FileKind::Snapshot, template.snapshots[0]);
    // The largest pack has the first snapshot's files, half of which the second needs too.
    let repo = open(Actor::plain(&memory)).await;
    let index = repo.load_index(&Ctx::default()).await.unwrap();
    let needed = index.packs().iter().max_by_key(|pack| pack.size).unwrap().id;
    memory.remove(FileKind::Pack, needed);
    let result = kind(&memory, &instant).await;
    assert!(matches!(result, ErrorKind::Guard | ErrorKind::Missing), "{result:?}");

    let memory = template.memory.copy();
    let index = memory.ids(FileKind::Index)[0];
    memory.damage(FileKind::Index, index, 40);
    assert_eq!(kind(&memory, &instant).await, ErrorKind::Corrupt);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_moves_is_no_loss() {
    // Half of the largest pack, which has more than half of all, is needed.
    let (memory, stay) = prunable().await;
    let repo = open(Actor::plain(&memory)).await;
    let careful = PruneSpec { instant: true, allow_large: false, ..thorough() };
    let report = try_prune(&repo, &careful).await.unwrap();
    assert!(report.moved_bytes > 0 && report.deleted_packs > 0, "{report:?}");
    assert!(ids(&repo).await.iter().all(|id| stay.contains(id)));
    assert_sound(&repo, "pruned").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_keeps_its_pack_where_it_is() {
    let template = template().await;
    let memory = template.memory.copy();
    let repo = open(Actor::plain(&memory)).await;
    try_forget(&repo, &template.snapshots[..1]).await.unwrap();
    // In the largest pack, which holds the first snapshot's files, all blobs are damaged.
    let index = repo.load_index(&Ctx::default()).await.unwrap();
    let largest = index.packs().iter().max_by_key(|p| p.size).unwrap();
    for at in (1000..largest.size - 1000).step_by(20_000) {
        memory.damage(FileKind::Pack, largest.id, usize::try_from(at).unwrap());
    }
    let report = try_prune(&repo, &PruneSpec { instant: true, ..thorough() }).await.unwrap();
    assert_eq!(report.damaged.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [largest.id]);
    assert!(memory.ids(FileKind::Pack).contains(&largest.id));
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_of_dead_writers_go_when_they_are_old() {
    let template = template().await;
    let memory = template.memory.copy();
    let repo = open(Actor::plain(&memory)).await;
    // Its index file never came.
    let written = memory.ids(FileKind::Index);
    back_up(&repo, source(&template.dir.path().join("dead"), 30..34)).await;
    for id in memory.ids(FileKind::Index).into_iter().filter(|id| !written.contains(id)) {
        memory.remove(FileKind::Index, id);
    }
    for id in memory.ids(FileKind::Snapshot).into_iter().filter(|id| !template.snapshots.contains(id)) {
        memory.remove(FileKind::Snapshot, id);
    }
    let before = memory.count(FileKind::Pack);
    // Young ones may be those of a writer that is at work.
    for instant in [false, true] {
        let report = try_prune(&repo, &PruneSpec { instant, ..thorough() }).await.unwrap();
        assert_eq!((report.marked_packs, report.deleted_packs), (0, 0));
    }
    memory.pass(2);
    let report = try_prune(&repo, &thorough()).await.unwrap();
    assert!(report.marked_packs > 0 && report.deleted_packs == 0, "{report:?}");
    memory.pass(25);
    let report = try_prune(&repo, &thorough()).await.unwrap();
    assert!(report.deleted_packs > 0 && memory.count(FileKind::Pack) < before, "{report:?}");
    assert_sound(&repo, "without orphans").await;
}

/// Fails everything from the n-th change on: `late` lets the n-th itself happen.
fn dying(left: i64, late: bool) -> (Hook, Arc<AtomicI64>) {
    let left = Arc::new(AtomicI64::new(left));
    let counter = Arc::clone(&left);
    let hook: Hook = Box::new(move |call, kind, after| {
        let counts = matches!(call, Call::Put | Call::Delete) && kind != FileKind::Lock;
        let left = counter.load(Ordering::SeqCst);
        let dead = match (counts, after) {
            (true, false) if left == 0 => {
                counter.store(-1, Ordering::SeqCst);
                !late
            }
            (true, false) if left > 0 => {
                counter.store(left - 1, Ordering::SeqCst);
                false
            }
            (_, _) => left < 0,
        };
        Box::pin(async move { if dead { Err(Error::new(ErrorKind::Unreachable, "dead")) } else { Ok(()) } })
    });
    (hook, left)
}

/// What dies, and the state before.
async fn deaths<F>(memory: &Arc<Memory>, expect: &[Id], what: &str, work: F) -> usize
where
    F: AsyncFn(&Repository) -> Result<()>,
{
    let mut deaths = 0;
    for late in [false, true] {
        for point in 0.. {
            let memory = memory.copy();
            // Opened by an ordinary actor's rules: only what follows counts.
            let (hook, left) = dying(point, late);
            let repo = open(Actor::with(&memory, false, hook)).await;
            let result = work(&repo).await;
            let died = left.load(Ordering::SeqCst) < 0;
            assert!(result.is_err() || !died, "{what} {point} {late}: a death went unnoticed");
            drop(repo);
            let place = format!("{what}, dead at change {point}{}", if late { " after it" } else { "" });
            let repo = open(Actor::plain(&memory)).await;
            repo.unlock(Unlock::All).await.unwrap();
            let there = ids(&repo).await;
            assert!(expect.iter().all(|id| there.contains(id)), "{place}: a snapshot is missing");
            assert_sound(&repo, &place).await;
            if !died {
                break;
            }
            deaths += 1;
            // The next one comes to the same end.
            memory.pass(25);
            work(&repo).await.unwrap();
            try_prune(&repo, &PruneSpec { instant: true, ..thorough() }).await.unwrap();
            let report = assert_sound(&repo, &format!("{place}, done again")).await;
            assert_eq!(report.notes, 0, "{place}: {:?}", report.findings);
        }
    }
    deaths
}

#[tokio::test(flavor = "multi_thread")]
async fn forget_may_die_anywhere() {
    let template = template().await;
    let [first, second, third] = template.snapshots;
    let count = deaths(&template.memory, &[third], "forget", async |repo| {
        let left = ids(repo).await;
        let old: Vec<Id> = [first, second].into_iter().filter(|id| left.contains(id)).collect();
        try_forget(repo, &old).await.map(drop)
    })
    .await;
    assert!(count >= 4, "{count}");
}

/// A repository with something to prune.
async fn prunable() -> (Arc<Memory>, [Id; 2]) {
    let template = template().await;
    let [first, second, third] = template.snapshots;
    let memory = template.memory.copy();
    try_forget(&open(Actor::plain(&memory)).await, &[first]).await.unwrap();
    (memory, [second, third])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marking_prune_may_die_anywhere() {
    let (memory, stay) = prunable().await;
    let count =
        deaths(&memory, &stay, "mark", async |repo| try_prune(repo, &thorough()).await.map(drop)).await;
    assert!(count >= 6, "{count}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweeping_prune_may_die_anywhere() {
    let (memory, stay) = prunable().await;
    try_prune(&open(Actor::plain(&memory)).await, &thorough()).await.unwrap();
    memory.pass(25);
    let count =
        deaths(&memory, &stay, "sweep", async |repo| try_prune(repo, &thorough()).await.map(drop)).await;
    assert!(count >= 6, "{count}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instant_prune_may_die_anywhere() {
    let (memory, stay) = prunable().await;
    let instant = PruneSpec { instant: true, ..thorough() };
    let count =
        deaths(&memory, &stay, "instant", async |repo| try_prune(repo, &instant).await.map(drop)).await;
    assert!(count >= 12, "{count}");
}
