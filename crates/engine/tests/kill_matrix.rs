//! SIGKILL at every named point of a backup and of a restore. Whatever the moment: the repository is whole, no
//! snapshot is there that was not committed, the next run needs nobody's help, and what an index knows is not
//! uploaded again.
//!
//! The points lie in a store and an event sink that wrap the real ones, so nothing of this is in what is shipped.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what went wrong by failing"
)]

mod restoring;
mod stock;

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::backup::{BackupSpec, backup};
use holdfast_engine::format::pack::BlobKind;
use holdfast_engine::lock::{Holder, LockMode};
use holdfast_engine::restore::{RestoreSpec, restore};
use holdfast_engine::store::{Entry, FileKind, FileName, PutMode, PutPayload, Store};
use holdfast_engine::{Ctx, Event, EventSink, Id, Repository, Result};
use restoring::{back_up, check_all, check_structure, init, open, run_clean, scratch, spec, store_at};
use stock::{PASSWORD, Restic, assert_same, noise, settle};

/// Says in the child's environment what to do, on what, and where to die, divided by `|`.
const ORDER: &str = "HOLDFAST_KILL_ORDER";

fn die() -> ! {
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
    loop {
        std::thread::park();
    }
}

/// Where to die: `before put pack 1`, `within put pack 1` (half of the file is written), `after put pack 1`,
/// `phase commit`, `progress 3`.
struct Point {
    wanted: String,
    counts: Mutex<HashMap<String, u32>>,
}

impl Point {
    fn new(wanted: &str) -> Arc<Self> {
        Arc::new(Self { wanted: wanted.to_owned(), counts: Mutex::default() })
    }

    /// Counts one more of `what` and says whether this is the one.
    fn reached(&self, what: &str) -> bool {
        let mut counts = self.counts.lock().unwrap();
        let count = counts.entry(what.to_owned()).or_default();
        *count += 1;
        self.wanted == format!("{what} {count}")
    }

    fn pass(&self, what: &str) {
        if self.reached(what) {
            die();
        }
    }
}

impl EventSink for Point {
    fn event(&self, event: Event) {
        match event {
            Event::Phase(name) if self.wanted == format!("phase {name}") => die(),
            Event::Progress(_) => self.pass("progress"),
            _ => {}
        }
    }
}

/// Dies before, within or after a call.
struct DeadlyStore {
    inner: Arc<dyn Store>,
    at: PathBuf,
    point: Arc<Point>,
}

fn name_of(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Config => "config",
        FileKind::Key => "key",
        FileKind::Lock => "lock",
        FileKind::Snapshot => "snapshot",
        FileKind::Index => "index",
        FileKind::Pack => "pack",
    }
}

impl DeadlyStore {
    async fn around<T>(
        &self,
        call: &str,
        kind: FileKind,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let call = format!("{call} {}", name_of(kind));
        self.point.pass(&format!("before {call}"));
        let result = work.await;
        self.point.pass(&format!("after {call}"));
        result
    }

    /// What a kill in the middle of a write leaves on a disk: a temporary file beside the name, half written.
    fn tear(&self, name: FileName, body: &[u8]) -> ! {
        let hex = name.id.to_hex();
        let directory = match name.kind {
            FileKind::Pack => self.at.join("data").join(&hex[..2]),
            kind => self.at.join(kind.directory()),
        };
        fs::write(directory.join(format!("{hex}-tmp-0011223344556677")), &body[..body.len() / 2]).unwrap();
        die()
    }
}

#[async_trait::async_trait]
impl Store for DeadlyStore {
    async fn list(&self, kind: FileKind) -> Result<Vec<Entry>> {
        self.around("list", kind, self.inner.list(kind)).await
    }

    async fn get(&self, name: FileName, range: Option<Range<u64>>) -> Result<Bytes> {
        self.around("get", name.kind, self.inner.get(name, range)).await
    }

    async fn get_suffix(&self, name: FileName, len: u64) -> Result<Bytes> {
        self.around("get", name.kind, self.inner.get_suffix(name, len)).await
    }

    async fn size(&self, name: FileName) -> Result<u64> {
        self.inner.size(name).await
    }

    async fn put(&self, name: FileName, body: PutPayload, mode: PutMode) -> Result<()> {
        if self.point.reached(&format!("within put {}", name_of(name.kind))) {
            self.tear(name, &Bytes::from(body.clone()));
        }
        self.around("put", name.kind, self.inner.put(name, body, mode)).await
    }

    async fn delete(&self, name: FileName) -> Result<()> {
        self.around("delete", name.kind, self.inner.delete(name)).await
    }

    async fn is_empty(&self) -> Result<bool> {
        self.inner.is_empty().await
    }

    async fn prepare(&self) -> Result<()> {
        self.inner.prepare().await
    }

    async fn get_extra(&self, path: &str) -> Result<Option<Bytes>> {
        self.inner.get_extra(path).await
    }

    async fn put_extra(&self, path: &str, body: Bytes, mode: PutMode) -> Result<()> {
        self.inner.put_extra(path, body, mode).await
    }

    async fn delete_extra(&self, path: &str) -> Result<()> {
        self.inner.delete_extra(path).await
    }

    async fn list_extra(&self, directory: &str, limit: usize) -> Result<Vec<String>> {
        self.inner.list_extra(directory, limit).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

fn holder() -> Holder {
    Holder::this_process("kill-matrix", "test")
}

/// What is killed; `killed_at` starts it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the process that the other tests start and that dies"]
async fn the_one_that_is_killed() {
    let order = std::env::var(ORDER).expect("started by another test");
    let [what, at, place, snapshot, point] = order.split('|').collect::<Vec<_>>()[..] else {
        panic!("{order}")
    };
    let (at, place, point) = (Path::new(at), Path::new(place), Point::new(point));
    let store = DeadlyStore { inner: store_at(at), at: at.to_owned(), point: Arc::clone(&point) };
    let ctx = Ctx { events: Arc::clone(&point) as Arc<dyn EventSink>, ..Ctx::default() };
    let repo = Repository::open(Arc::new(store), &PASSWORD.to_owned().into(), &ctx).await.unwrap();
    let lock = repo.lock(LockMode::Shared, &holder(), Duration::ZERO, &[], &ctx).await.unwrap();
    if point.wanted == "within refresh" {
        // The new lock file is there and the old one still is.
        let _second = repo.lock(LockMode::Shared, &holder(), Duration::ZERO, &[], &ctx).await.unwrap();
        die();
    }
    if what == "backup" {
        let spec = BackupSpec {
            roots: vec![place.to_owned()],
            host: "test".to_owned(),
            uploads: 1,
            ..BackupSpec::default()
        };
        backup(&repo, &lock, &spec, &ctx).await.unwrap();
    } else {
        let whole = spec(snapshot.parse().unwrap(), Path::new("/"), place);
        let spec = RestoreSpec { subpath: None, ..whole };
        restore(&repo, Some(&lock), &spec, &ctx).await.unwrap();
    }
    lock.release().await.unwrap();
}

/// Starts the process and demands that it died at the point, not of anything else.
fn killed_at(point: &str, what: &str, at: &Path, place: &Path, snapshot: Id) {
    let order = format!("{what}|{}|{}|{snapshot}|{point}", at.display(), place.display());
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_one_that_is_killed", "--ignored", "--nocapture"])
        .env(ORDER, order)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(
        output.status.signal(),
        Some(9),
        "{what} {point}: it was not reached: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Forty megabytes that do not compress: packs of content, one of directories.
fn make_source(at: &Path) {
    fs::create_dir_all(at.join("sub")).unwrap();
    for i in 0..10_u64 {
        fs::write(at.join(format!("sub/f{i}")), noise(i + 1, 4 << 20)).unwrap();
    }
    fs::write(at.join("small"), "a small file").unwrap();
    settle(at);
}

/// Bytes of content that the index knows.
async fn indexed(repo: &Repository) -> u64 {
    let index = repo.load_index(&Ctx::default()).await.unwrap();
    let data = index.iter().filter(|(kind, _, _)| *kind == BlobKind::Data);
    data.map(|(_, id, _)| u64::from(index.plain_length(BlobKind::Data, &id).unwrap())).sum()
}

/// Points of a backup, and how many snapshots are there after it.
const BACKUP_POINTS: [(&str, usize); 30] = [
    ("before put lock 1", 0),
    ("within put lock 1", 0),
    ("after put lock 1", 0),
    ("after list lock 2", 0),
    ("within refresh", 0),
    ("phase prepare", 0),
    ("after list snapshot 1", 0),
    ("after list index 1", 0),
    ("phase read", 0),
    ("before put pack 1", 0),
    ("within put pack 1", 0),
    ("after put pack 1", 0),
    ("within put pack 2", 0),
    ("after put pack 2", 0),
    ("before put pack 3", 0),
    ("within put pack 3", 0),
    ("after put pack 3", 0),
    ("after put pack 4", 0),
    ("before put index 1", 0),
    ("within put index 1", 0),
    ("after put index 1", 0),
    ("phase commit", 0),
    ("before list lock 3", 0),
    ("after list lock 3", 0),
    ("before put snapshot 1", 0),
    ("within put snapshot 1", 0),
    ("after put snapshot 1", 1),
    ("after list lock 4", 1),
    ("before delete lock 1", 1),
    ("after delete lock 1", 1),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_killed_at_any_point_harms_nothing_and_the_next_one_goes_on() {
    let dir = scratch();
    let source = dir.path().join("source");
    make_source(&source);
    let whole: u64 = (10 * (4 << 20)) + 12;
    for (number, (point, snapshots)) in BACKUP_POINTS.into_iter().enumerate() {
        let at = dir.path().join(format!("repo {number}"));
        init(&at).await;
        killed_at(point, "backup", &at, &source, Id::default());

        let repo = open(&at).await;
        assert_eq!(repo.snapshots().await.unwrap().len(), snapshots, "{point}");
        let check = check_structure(&repo).await;
        assert!(check.is_sound(), "{point}: {:#?}", check.findings);
        let kept = indexed(&repo).await;
        // Nobody waits for the dead one's lock, and nobody has to remove it.
        let report = back_up(&repo, &source).await;
        assert_eq!(report.faults.first, [], "{point}");
        let again = report.data_added;
        assert!(again <= whole - kept + 10_000, "{point}: {again} bytes again, though {kept} were kept");
        assert_eq!(repo.locks().await.unwrap(), [], "{point}");
        let check = check_all(&repo).await;
        assert!(check.is_sound(), "{point}: {:#?}", check.findings);
        let target = dir.path().join("target");
        run_clean(&repo, &RestoreSpec { verify: false, ..spec(report.snapshot, &source, &target) }).await;
        assert_same(&source, &target, point);
        if matches!(point, "within put pack 2" | "within put index 1" | "after put snapshot 1") {
            Restic::newest(&at).check();
        }
        fs::remove_dir_all(&target).unwrap();
        fs::remove_dir_all(&at).unwrap();
    }
}

const RESTORE_POINTS: [&str; 10] = [
    "after put lock 1",
    "after list index 1",
    "after get index 1",
    "phase plan",
    "phase restore",
    "before get pack 2",
    "after get pack 3",
    "after get pack 5",
    "phase finish",
    "before delete lock 1",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_killed_at_any_point_leaves_no_wrong_file_and_the_next_one_goes_on() {
    let dir = scratch();
    let (source, at) = (dir.path().join("source"), dir.path().join("repo"));
    make_source(&source);
    let repo = init(&at).await;
    let snapshot = back_up(&repo, &source).await.snapshot;
    for point in RESTORE_POINTS {
        let target = dir.path().join("target");
        killed_at(point, "restore", &at, &target, snapshot);
        let inner = target.join(source.strip_prefix("/").unwrap());
        let left = if target.exists() { restoring::files_below(&target) } else { Vec::new() };
        for path in left {
            // What has its own name is whole.
            if !path.file_name().unwrap().to_string_lossy().starts_with(".holdfast-restore-") {
                let original = source.join(path.strip_prefix(&inner).unwrap());
                assert!(
                    fs::read(&path).unwrap() == fs::read(original).unwrap(),
                    "{point}: {}",
                    path.display()
                );
            }
        }
        let whole = RestoreSpec { subpath: None, ..spec(snapshot, &source, &target) };
        run_clean(&repo, &whole).await;
        assert_same(&source, &inner, point);
        assert_eq!(restoring::temporary_files(&target), Vec::<PathBuf>::new(), "{point}");
        // A restore's lock is shared: only the next exclusive one, or anybody's unlock, has to meet it.
        back_up(&repo, &source).await;
        assert_eq!(repo.locks().await.unwrap(), [], "{point}");
        fs::remove_dir_all(&target).unwrap();
    }
}
