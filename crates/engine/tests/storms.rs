//! Random faults over whole backups and restores. What is said must be true: a backup reported good restores byte for
//! byte; anything else is a typed error, in time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's way to fail"
)]

mod restoring;
mod stock;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use holdfast_engine::backup::{BackupSpec, backup};
use holdfast_engine::copy::{CopyReport, copy};
use holdfast_engine::forget::{ForgetSpec, Selection, forget};
use holdfast_engine::lock::{Holder, LockGuard, LockMode, Locking, Unlock};
use holdfast_engine::prune::{MaxUnused, PruneReport, PruneSpec, prune};
use holdfast_engine::repair::{RepairIndex, repair_index};
use holdfast_engine::repository::InitOptions;
use holdfast_engine::restore::restore;
use holdfast_engine::store::fault::{FaultStore, Storm, Trouble};
use holdfast_engine::store::retry::RetryStore;
use holdfast_engine::store::{self, Location, RetryPolicy, Store, StoreOptions};
use holdfast_engine::{Ctx, ErrorKind, Id, Repository, Result};
use restoring::{check_all, open, scratch, spec, temporary_files};
use stock::{PASSWORD, noise};

/// Longer than any run can take with this policy; a run that hangs fails the test here.
const TOO_LONG: Duration = Duration::from_mins(2);

fn policy() -> RetryPolicy {
    RetryPolicy {
        deadline: Duration::from_secs(3),
        first: Duration::from_millis(1),
        max: Duration::from_millis(20),
        attempt: Duration::from_millis(300),
        budget: Duration::from_secs(30),
    }
}

/// Trouble that passes: with enough patience all must go well.
fn passing() -> Vec<Trouble> {
    vec![
        Trouble::Fail(ErrorKind::Unreachable),
        Trouble::Fail(ErrorKind::Timeout),
        Trouble::Fail(ErrorKind::Listing),
        Trouble::StoreButFail(ErrorKind::Unreachable),
        Trouble::Delay(Duration::from_millis(3)),
        Trouble::Duplicate,
        Trouble::Reverse,
    ]
}

/// Stores that lie, fill up, lock us out, hang.
fn nasty() -> Vec<Trouble> {
    vec![
        Trouble::Lose,
        Trouble::StoreTruncated(7),
        Trouble::Truncate(3),
        Trouble::Flip(11),
        Trouble::Stale,
        Trouble::Hang,
        Trouble::Fail(ErrorKind::Full),
        Trouble::Fail(ErrorKind::AccessDenied),
        Trouble::Fail(ErrorKind::Missing),
        Trouble::StoreButFail(ErrorKind::Timeout),
        Trouble::Fail(ErrorKind::Unreachable),
        Trouble::Duplicate,
    ]
}

type Content = BTreeMap<PathBuf, Vec<u8>>;

fn content(directory: &Path) -> Content {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        all.insert(path.file_name().unwrap().into(), fs::read(&path).unwrap());
    }
    all
}

/// A repository, its stormy store with the retry layer above, and a source.
struct Sea {
    directory: tempfile::TempDir,
    faults: Arc<FaultStore>,
    store: Arc<dyn Store>,
}

impl Sea {
    async fn new() -> Self {
        let directory = scratch();
        restoring::init(&directory.path().join("repo")).await;
        fs::create_dir(directory.path().join("source")).unwrap();
        let mut options = StoreOptions::default();
        options.retry.deadline = Duration::ZERO;
        let local = Location::Local(directory.path().join("repo"));
        let local = store::open(&local, &options, &Ctx::default()).unwrap();
        let faults = Arc::new(FaultStore::new(local));
        let store = RetryStore::new(Arc::clone(&faults) as Arc<dyn Store>, policy(), Ctx::default());
        Self { directory, faults, store: Arc::new(store) }
    }

    fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    /// A few files change from one backup to the next.
    fn write(&self, round: u64) {
        for file in 0..6 {
            let seed = if file < 3 { file } else { file + 100 * round };
            fs::write(self.source().join(format!("f{file}")), noise(seed + 1, 300_000)).unwrap();
        }
    }

    async fn back_up(&self) -> Result<Id> {
        let repo =
            Repository::open(Arc::clone(&self.store), &PASSWORD.to_owned().into(), &Ctx::default()).await?;
        let holder = Holder::this_process("test", "test");
        let ctx = Ctx::default();
        let lock = repo.lock(LockMode::Shared, &holder, Duration::ZERO, &[], &ctx).await?;
        let spec = BackupSpec { roots: vec![self.source()], host: "h".to_owned(), ..BackupSpec::default() };
        let report = backup(&repo, &lock, &spec, &ctx).await;
        let _ = lock.release().await;
        report.map(|r| r.snapshot)
    }

    /// Restores through the storm; whatever is there afterwards must be right.
    async fn restore_in_storm(&self, snapshot: Id, expected: &Content, target: &Path) -> Result<bool> {
        let repo =
            Repository::open(Arc::clone(&self.store), &PASSWORD.to_owned().into(), &Ctx::default()).await;
        let outcome = match repo {
            Ok(repo) => restore(&repo, None, &spec(snapshot, &self.source(), target), &Ctx::default()).await,
            Err(e) => Err(e),
        };
        if !target.exists() {
            return outcome.map(|report| {
                assert!(!report.faults.is_empty(), "nothing was restored, and nothing is said");
                false
            });
        }
        assert_eq!(temporary_files(target), Vec::<PathBuf>::new(), "nothing half written stays");
        let there = content(target);
        let wrong: Vec<_> =
            there.iter().filter(|(name, bytes)| expected.get(*name) != Some(*bytes)).collect();
        assert!(wrong.is_empty(), "{} is there and wrong", wrong[0].0.display());
        let report = outcome?;
        let whole = report.faults.is_empty();
        assert_eq!(whole, there == *expected, "the report says what is there: {:?}", report.faults.first);
        Ok(whole)
    }
}

fn typed(error: &holdfast_engine::Error) {
    assert_ne!(error.kind(), ErrorKind::Internal, "{}", error.chain());
    assert!(!error.chain().is_empty());
}

/// Two backups and a restore in a storm, then the truth in calm weather. Gives how many of the three went well.
async fn voyage(seed: u64, per_mille: u64, troubles: Vec<Trouble>) -> (usize, usize) {
    let sea = Sea::new().await;
    let target = |name: &str| sea.directory.path().join(name);
    let mut good: Vec<(Id, Content)> = Vec::new();
    sea.faults.storm(Storm { seed, per_mille, troubles });
    for round in 0..2 {
        sea.write(round);
        let outcome = tokio::time::timeout(TOO_LONG, sea.back_up()).await;
        match outcome.unwrap_or_else(|_| panic!("seed {seed}: the backup hangs")) {
            Ok(snapshot) => good.push((snapshot, content(&sea.source()))),
            Err(e) => typed(&e),
        }
    }
    let mut went_well = good.len();
    if let Some((snapshot, expected)) = good.last() {
        let to = target("stormy");
        let outcome = tokio::time::timeout(TOO_LONG, sea.restore_in_storm(*snapshot, expected, &to)).await;
        match outcome.unwrap_or_else(|_| panic!("seed {seed}: the restore hangs")) {
            Ok(whole) => went_well += usize::from(whole),
            Err(e) => typed(&e),
        }
    }
    let struck = sea.faults.struck();
    sea.faults.heal();
    let repo = open(&sea.directory.path().join("repo")).await;
    for (number, (snapshot, expected)) in good.iter().enumerate() {
        let to = target(&format!("calm{number}"));
        restoring::run_clean(&repo, &spec(*snapshot, &sea.source(), &to)).await;
        assert_eq!(content(&to), *expected, "seed {seed}: snapshot {snapshot} was reported good");
    }
    // Whatever the storm left behind, the next run works, and the whole of it is sound.
    sea.write(9);
    let last = sea.back_up().await.unwrap_or_else(|e| panic!("seed {seed}: {}", e.chain()));
    let to = target("last");
    restoring::run_clean(&repo, &spec(last, &sea.source(), &to)).await;
    assert_eq!(content(&to), content(&sea.source()));
    if good.len() == 2 {
        let found = check_all(&repo).await;
        assert!(found.is_sound(), "seed {seed}: {:?}", found.findings);
    }
    (went_well, struck)
}

/// What a voyage of all that deletes came to.
#[derive(Debug, Default)]
struct Tally {
    /// Prunes that deleted packs.
    swept: usize,
    /// Prunes that failed.
    failed: usize,
    copied: usize,
    mended: usize,
}

impl Sea {
    async fn open_in_storm(&self) -> Result<Repository> {
        Repository::open(Arc::clone(&self.store), &PASSWORD.to_owned().into(), &Ctx::default()).await
    }

    async fn locked<T>(
        &self,
        mode: LockMode,
        work: impl AsyncFnOnce(&Repository, &LockGuard) -> Result<T>,
    ) -> Result<T> {
        let repo = self.open_in_storm().await?;
        let lock = repo.lock(mode, &holder(), Duration::ZERO, &[], &Ctx::default()).await?;
        let done = work(&repo, &lock).await;
        let _ = lock.release().await;
        done
    }

    async fn forget(&self, snapshot: Id) -> Result<()> {
        let spec = forget_spec(snapshot);
        self.locked(LockMode::Shared, async |repo, lock| {
            forget(repo, lock, &spec, &Ctx::default()).await.map(drop)
        })
        .await
    }

    async fn prune(&self, spec: &PruneSpec) -> Result<PruneReport> {
        prune(&self.open_in_storm().await?, &locking(), spec, &Ctx::default()).await
    }

    async fn mend_index(&self) -> Result<()> {
        self.locked(LockMode::Exclusive, async |repo, lock| {
            repair_index(repo, lock, RepairIndex::Mend, &Ctx::default()).await.map(drop)
        })
        .await
    }

    /// Copies out of the storm into a calm repository.
    async fn copy_to(&self, target: &Repository) -> Result<CopyReport> {
        let ctx = Ctx::default();
        self.locked(LockMode::Shared, async |repo, _| {
            let all = repo.snapshots().await?;
            let lock = target.lock(LockMode::Shared, &holder(), Duration::ZERO, &[], &ctx).await?;
            let report = copy(repo, target, &lock, &all, &ctx).await;
            lock.release().await?;
            report
        })
        .await
    }
}

fn holder() -> Holder {
    Holder::this_process("test", "test")
}

fn locking() -> Locking {
    Locking { holder: holder(), wait: Duration::ZERO, dead_holders: Vec::new() }
}

fn forget_spec(snapshot: Id) -> ForgetSpec {
    ForgetSpec {
        selection: Selection::Ids(vec![snapshot]),
        dry_run: false,
        floor: 0,
        known: Vec::new(),
        now: jiff::Timestamp::now(),
    }
}

/// Keeps no waste, lets no time pass, and goes on whatever the share that goes.
fn thorough() -> PruneSpec {
    PruneSpec {
        max_unused: MaxUnused::Bytes(0),
        grace: jiff::SignedDuration::ZERO,
        allow_large: true,
        ..PruneSpec::default()
    }
}

async fn in_time<T>(what: &str, seed: u64, work: impl Future<Output = Result<T>>) -> Option<T> {
    let outcome = tokio::time::timeout(TOO_LONG, work).await;
    match outcome.unwrap_or_else(|_| panic!("seed {seed}: {what} hangs")) {
        Ok(done) => Some(done),
        Err(e) => {
            typed(&e);
            None
        }
    }
}

/// Everything that deletes, in a storm. What was reported good and nobody wanted to go restores afterwards.
async fn voyage_of_what_deletes(seed: u64, per_mille: u64, troubles: Vec<Trouble>, tally: &mut Tally) {
    let sea = Sea::new().await;
    let calm = open(&sea.directory.path().join("repo")).await;
    let options = InitOptions {
        password: PASSWORD.to_owned().into(),
        recovery_password: None,
        version: 2,
        hostname: "test".to_owned(),
        username: "test".to_owned(),
    };
    let other = restoring::store_at(&sea.directory.path().join("copies"));
    let other = Repository::init_like(other, &options, &calm, &Ctx::default()).await.unwrap();
    let mut good: Vec<(Id, Content)> = Vec::new();
    for round in 0..4 {
        sea.write(round);
        good.push((sea.back_up().await.unwrap(), content(&sea.source())));
    }
    sea.faults.storm(Storm { seed, per_mille, troubles });
    let later = PruneSpec { grace: PruneSpec::default().grace, ..thorough() };
    let instant = PruneSpec { instant: true, ..thorough() };
    // Each prune finds something to do: one marks, one sweeps it when its second is over, one does both.
    for (round, prunes) in
        [vec![&later], vec![&thorough(), &thorough()], vec![&instant]].into_iter().enumerate()
    {
        // Whether it went or not: nobody counts on it any more.
        let (going, _) = good.remove(0);
        in_time("forget", seed, sea.forget(going)).await;
        for spec in prunes {
            // A lock whose removal the storm has swallowed is nobody's: there is one of us.
            calm.unlock(Unlock::All).await.unwrap();
            match in_time("prune", seed, sea.prune(spec)).await {
                Some(report) => tally.swept += usize::from(report.deleted_packs > 0),
                None => tally.failed += 1,
            }
        }
        calm.unlock(Unlock::All).await.unwrap();
        if round == 1 {
            tally.mended += usize::from(in_time("repair index", seed, sea.mend_index()).await.is_some());
            calm.unlock(Unlock::All).await.unwrap();
        }
        sea.write(10 + round as u64);
        if let Some(snapshot) = in_time("backup", seed, sea.back_up()).await {
            good.push((snapshot, content(&sea.source())));
        }
    }
    calm.unlock(Unlock::All).await.unwrap();
    let copied = in_time("copy", seed, sea.copy_to(&other)).await.unwrap_or_default();
    sea.faults.heal();
    calm.unlock(Unlock::All).await.unwrap();

    let target = |name: &str| sea.directory.path().join(name);
    let restores = async |repo: &Repository, snapshot: Id, expected: &Content, what: &str| {
        let to = target("restored");
        restoring::run_clean(repo, &spec(snapshot, &sea.source(), &to)).await;
        assert!(content(&to) == *expected, "seed {seed}: {what} {snapshot} is not what was backed up");
        fs::remove_dir_all(&to).unwrap();
    };
    let there = calm.snapshots().await.unwrap();
    for (snapshot, expected) in &good {
        assert!(there.iter().any(|(id, _)| id == snapshot), "seed {seed}: snapshot {snapshot} is gone");
        restores(&calm, *snapshot, expected, "snapshot").await;
        if let Some(copy) = copied.copied.iter().find(|copy| copy.source == *snapshot) {
            restores(&other, copy.target, expected, "the copy of").await;
            tally.copied += 1;
        }
    }
    // Whatever was left behind, in calm weather all of it works, and takes nothing with it.
    let report = prune(&calm, &locking(), &instant, &Ctx::default()).await;
    report.unwrap_or_else(|e| panic!("seed {seed}: {}", e.chain()));
    for (snapshot, expected) in &good {
        restores(&calm, *snapshot, expected, "after a prune, snapshot").await;
    }
    for repo in [&calm, &other] {
        let found = check_all(repo).await;
        assert!(found.is_sound(), "seed {seed}: {:?}", found.findings);
    }
}

/// `HOLDFAST_STORMS=100` sails through a hundred times as many, for a night.
fn times() -> u64 {
    std::env::var("HOLDFAST_STORMS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_that_passes_costs_nothing_but_time() {
    let mut all = 0;
    for seed in 0..4 * times() {
        let (went_well, struck) = voyage(seed, 150, passing()).await;
        assert_eq!(went_well, 3, "seed {seed}");
        all += struck;
    }
    assert!(all > 20, "only {all} faults");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_store_does_what_is_reported_good_restores() {
    let (mut went_well, mut runs) = (0, 0);
    for seed in 1000..1000 + 8 * times() {
        let (well, _) = voyage(seed, if seed % 2 == 0 { 15 } else { 60 }, nasty()).await;
        went_well += well;
        runs += 3;
    }
    assert!(went_well > 0 && went_well < runs, "{went_well} of {runs}: some must fail, some must not");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_store_does_what_deletes_takes_nothing_that_is_needed() {
    // A listing that lacks a snapshot looks like one of which somebody has removed it: no client can tell.
    let troubles: Vec<Trouble> = nasty().into_iter().filter(|trouble| *trouble != Trouble::Stale).collect();
    let mut tally = Tally::default();
    for seed in 2000..2000 + 8 * times() {
        voyage_of_what_deletes(seed, if seed % 2 == 0 { 15 } else { 60 }, troubles.clone(), &mut tally).await;
    }
    let Tally { swept, failed, copied, mended } = tally;
    assert!(swept > 0 && failed > 0 && copied > 0 && mended > 0, "some must fail, some must not: {tally:?}");
}

/// A file system of a few megabytes.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, megabytes: u32) -> Self {
        fs::create_dir(at).unwrap();
        let size = format!("size={megabytes}m");
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).status().unwrap();
        assert!(status.success(), "this test mounts a small file system: run it as root");
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A pack's temporary file.
fn unfinished(at: &Path) -> Option<String> {
    let directories = fs::read_dir(at.join("data")).unwrap();
    let names = directories.flat_map(|d| fs::read_dir(d.unwrap().path()).unwrap());
    names.map(|f| f.unwrap().file_name().into_string().unwrap()).find(|n| n.len() != 64)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_repository_disk_ends_the_backup_and_spares_what_is_there() {
    let directory = scratch();
    let disk = SmallDisk::mount(&directory.path().join("disk"), 24);
    let (at, source) = (disk.0.join("repo"), directory.path().join("source"));
    let repo = restoring::init(&at).await;
    fs::create_dir(&source).unwrap();
    fs::write(source.join("small"), noise(1, 1 << 20)).unwrap();
    let snapshot = restoring::back_up(&repo, &source).await.snapshot;
    fs::write(source.join("large"), noise(2, 40 << 20)).unwrap();
    let holder = Holder::this_process("test", "test");
    let ctx = Ctx::default();
    let lock = repo.lock(LockMode::Shared, &holder, Duration::ZERO, &[], &ctx).await.unwrap();
    let backup_spec =
        BackupSpec { roots: vec![source.clone()], host: "h".to_owned(), ..BackupSpec::default() };
    let error = backup(&repo, &lock, &backup_spec, &ctx).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{}", error.chain());
    lock.release().await.unwrap();
    let snapshots = fs::read_dir(at.join("snapshots")).unwrap().count();
    assert_eq!(snapshots, 1, "no snapshot of a backup that did not fit");
    // The other upload may still be on its way when the first one's failure ends the backup.
    let patience = std::time::Instant::now() + Duration::from_secs(20);
    while let Some(left) = unfinished(&at) {
        assert!(std::time::Instant::now() < patience, "what did not fit must go: {left}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let target = directory.path().join("target");
    restoring::run_clean(&repo, &spec(snapshot, &source, &target)).await;
    assert_eq!(fs::read(target.join("small")).unwrap(), fs::read(source.join("small")).unwrap());
    let found = restoring::check_structure(&repo).await;
    assert!(found.is_sound(), "{:?}", found.findings);
}

/// Blocks of the small disk.
const BLOCK: u64 = 4096;

/// Fills a small disk with a file until so many blocks are left.
fn fill(at: &Path, left: u64) {
    let filler = fs::File::create(at).unwrap();
    let mut length = 0;
    for step in [64 * BLOCK, BLOCK] {
        let bytes = vec![1; usize::try_from(step).unwrap()];
        while filler.write_all_at(&bytes, length).is_ok() {
            length += step;
        }
    }
    filler.set_len(length - left * BLOCK).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_repository_disk_is_pruned_as_soon_as_there_is_room_for_a_lock() {
    for instant in [false, true] {
        let directory = scratch();
        let disk = SmallDisk::mount(&directory.path().join("disk"), 24);
        let (at, filler) = (disk.0.join("repo"), disk.0.join("filler"));
        let repo = restoring::init(&at).await;
        let mut snapshots = Vec::new();
        for number in 0..3 {
            let source = directory.path().join(format!("source{number}"));
            fs::create_dir(&source).unwrap();
            fs::write(source.join("file"), noise(number + 1, 2 << 20)).unwrap();
            snapshots.push((restoring::back_up(&repo, &source).await.snapshot, source));
        }
        let try_forget = async |snapshot: Id| {
            let ctx = Ctx::default();
            let lock = repo.lock(LockMode::Shared, &holder(), Duration::ZERO, &[], &ctx).await?;
            let done = forget(&repo, &lock, &forget_spec(snapshot), &ctx).await;
            lock.release().await?;
            done
        };
        let try_prune = async |spec: &PruneSpec| prune(&repo, &locking(), spec, &Ctx::default()).await;
        // The first is marked, the second is not yet, the third stays.
        try_forget(snapshots[0].0).await.unwrap();
        let marked = try_prune(&thorough()).await.unwrap();
        assert!(marked.marked_packs > 0 && marked.deleted_packs == 0, "{marked:?}");
        try_forget(snapshots[1].0).await.unwrap();
        let dry = PruneSpec { dry_run: true, ..thorough() };
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while try_prune(&dry).await.unwrap().due_packs == 0 {
            assert!(
                std::time::Instant::now() < end,
                "marks are due once the second is over in which they were made"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let stays = async |place: &str| {
            let found = check_all(&repo).await;
            assert!(found.is_sound(), "{place}: {:?}", found.findings);
            let (snapshot, source) = &snapshots[2];
            let target = directory.path().join("target");
            restoring::run_clean(&repo, &spec(*snapshot, source, &target)).await;
            assert_eq!(content(&target), content(source), "{place}");
            fs::remove_dir_all(&target).unwrap();
        };

        fill(&filler, 0);
        let before = restoring::packs(&at).len();
        let error = try_forget(snapshots[2].0).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full, "{}", error.chain());
        let error = try_prune(&PruneSpec { instant, ..thorough() }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full, "{}", error.chain());
        assert!(error.chain().contains("give it more space"), "what to do: {}", error.chain());
        assert_eq!(restoring::packs(&at).len(), before);
        stays("no room at all").await;

        fill(&filler, 1);
        let report = try_prune(&PruneSpec { instant, ..thorough() }).await;
        let report = report.unwrap_or_else(|e| panic!("room for a lock: {}", e.chain()));
        assert!(report.no_room.is_some() && report.marked_packs == 0, "{report:?}");
        assert!(report.deleted_packs > 0 && report.deleted_bytes > 2 << 20, "{report:?}");
        stays("room for a lock").await;

        // What that has freed is enough for all else.
        let report = try_prune(&PruneSpec { instant: true, ..thorough() }).await.unwrap();
        assert!(report.no_room.is_none() && report.deleted_bytes > 2 << 20, "{report:?}");
        stays("pruned").await;
        assert_eq!(restoring::files_below(&at.join("locks")), Vec::<PathBuf>::new());
    }
}
