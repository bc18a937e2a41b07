//! What every adapter promises, tried on a directory; S3 is tried against a real server in `tests/s3_store.rs`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;

use super::fault::{Fault, FaultStore, Operation, Trouble};
use super::*;
use crate::error::ErrorKind;
use crate::event::{Event, EventSink};

fn local(path: &Path) -> Arc<dyn Store> {
    let options = StoreOptions { retry: no_retry(), ..StoreOptions::default() };
    open(&Location::Local(path.to_owned()), &options, &Ctx::default()).unwrap()
}

fn no_retry() -> RetryPolicy {
    RetryPolicy { deadline: Duration::ZERO, ..RetryPolicy::default() }
}

fn name(kind: FileKind, body: &[u8]) -> FileName {
    FileName { kind, id: Id::hash(body) }
}

const ABSENT: FileName = FileName { kind: FileKind::Pack, id: Id::from_bytes([7; 32]) };

#[tokio::test]
async fn files_come_back_whole_or_in_exact_parts() {
    let directory = tempfile::tempdir().unwrap();
    let store = local(directory.path());
    store.prepare().await.unwrap();
    let body = Bytes::from_static(b"0123456789");
    let pack = name(FileKind::Pack, &body);
    store.put(pack, body.clone().into(), PutMode::ContentAddressed).await.unwrap();
    store.put(pack, body.clone().into(), PutMode::ContentAddressed).await.unwrap();
    assert_eq!(store.get(pack, None).await.unwrap(), body);
    assert_eq!(store.get(pack, Some(2..5)).await.unwrap(), "234");
    assert_eq!(store.get_suffix(pack, 3).await.unwrap(), "789");
    assert_eq!(store.get_suffix(pack, 30).await.unwrap(), body);
    assert_eq!(store.size(pack).await.unwrap(), 10);
    assert_eq!(store.get(pack, Some(5..11)).await.unwrap_err().kind(), ErrorKind::Corrupt);
    for error in [
        store.get(ABSENT, None).await.unwrap_err(),
        store.get(ABSENT, Some(0..1)).await.unwrap_err(),
        store.get_suffix(ABSENT, 1).await.unwrap_err(),
        store.size(ABSENT).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Missing);
    }
    let listed = store.list(FileKind::Pack).await.unwrap();
    assert_eq!((listed.len(), listed[0].id, listed[0].size), (1, pack.id, 10));
    assert!(listed[0].modified.is_some());
    store.delete(pack).await.unwrap();
    store.delete(pack).await.unwrap();
    assert_eq!(store.list(FileKind::Pack).await.unwrap(), []);
}

#[tokio::test]
async fn modes_are_restics_and_follow_the_config() {
    let directory = tempfile::tempdir().unwrap();
    let store = local(directory.path());
    store.prepare().await.unwrap();
    let mode =
        |path: &str| std::fs::metadata(directory.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("data/00"), 0o700);
    let config = FileName { kind: FileKind::Config, id: Id::default() };
    store.put(config, "c".into(), PutMode::CreateNew).await.unwrap();
    assert_eq!(mode("config"), 0o400);
    let key = name(FileKind::Key, b"k");
    store.put(key, "k".into(), PutMode::ContentAddressed).await.unwrap();
    assert_eq!(mode(&key.path()), 0o400);
    std::fs::set_permissions(directory.path().join("config"), std::fs::Permissions::from_mode(0o440))
        .unwrap();
    let shared = name(FileKind::Key, b"s");
    store.put(shared, "s".into(), PutMode::ContentAddressed).await.unwrap();
    assert_eq!(mode(&shared.path()), 0o440);
}

#[tokio::test]
async fn listings_pass_over_what_is_no_file_of_ours() {
    let directory = tempfile::tempdir().unwrap();
    let store = local(directory.path());
    store.prepare().await.unwrap();
    let lock = name(FileKind::Lock, b"l");
    store.put(lock, "l".into(), PutMode::ContentAddressed).await.unwrap();
    for junk in ["0".repeat(63), "A".repeat(64), format!("{}-tmp-1", "0".repeat(64)), "0".repeat(64)] {
        // The last one is a name, but an empty lock is one that is just being written.
        std::fs::write(directory.path().join("locks").join(junk), b"").unwrap();
    }
    std::fs::create_dir(directory.path().join("locks").join("1".repeat(64))).unwrap();
    assert_eq!(store.list(FileKind::Lock).await.unwrap().len(), 1);
    std::fs::write(directory.path().join("data/readme"), b"x").unwrap();
    assert_eq!(store.list(FileKind::Pack).await.unwrap(), []);
}

#[tokio::test]
async fn create_new_never_replaces() {
    let directory = tempfile::tempdir().unwrap();
    let store = local(directory.path());
    store.prepare().await.unwrap();
    let config = FileName { kind: FileKind::Config, id: Id::default() };
    let (a, b) = tokio::join!(
        store.put(config, "a".into(), PutMode::CreateNew),
        store.put(config, "b".into(), PutMode::CreateNew)
    );
    let (winner, error) = match (a, b) {
        (Ok(()), Err(e)) => ("a", e),
        (Err(e), Ok(())) => ("b", e),
        other => panic!("{other:?}"),
    };
    assert_eq!(error.kind(), ErrorKind::AlreadyInitialized);
    assert_eq!(store.get(config, None).await.unwrap(), winner);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 6, "no temporary file stays");
}

#[tokio::test]
async fn a_lost_data_directory_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let store = local(directory.path());
    store.put(name(FileKind::Pack, b"p"), "p".into(), PutMode::ContentAddressed).await.unwrap();
    assert_eq!(store.list(FileKind::Pack).await.unwrap().len(), 1);
}

/// A repository's directories with a config, a key and, where asked for, some content.
async fn laid_out(path: &Path, full: bool) {
    let store = local(path);
    store.prepare().await.unwrap();
    store.put(name(FileKind::Key, b"k"), "k".into(), PutMode::ContentAddressed).await.unwrap();
    let config = FileName { kind: FileKind::Config, id: Id::default() };
    store.put(config, "config".into(), PutMode::CreateNew).await.unwrap();
    if full {
        for kind in [FileKind::Snapshot, FileKind::Index, FileKind::Pack] {
            store.put(name(kind, b"x"), "x".into(), PutMode::ContentAddressed).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_directory_that_a_repository_lacks_is_no_empty_one() {
    let directory = tempfile::tempdir().unwrap();
    laid_out(directory.path(), true).await;
    let aside = directory.path().join("aside");
    for kind in [FileKind::Key, FileKind::Snapshot, FileKind::Index, FileKind::Pack] {
        let place = directory.path().join(kind.directory());
        std::fs::rename(&place, &aside).unwrap();
        let error = local(directory.path()).list(kind).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Listing, "{}", error.chain());
        assert!(error.chain().contains("mounted"), "{}", error.chain());
        std::fs::rename(&aside, &place).unwrap();
        assert_eq!(local(directory.path()).list(kind).await.unwrap().len(), 1);
    }
    // Copies have none when it was empty.
    std::fs::remove_dir(directory.path().join("locks")).unwrap();
    assert_eq!(local(directory.path()).list(FileKind::Lock).await.unwrap(), []);
}

/// Somebody has moved a part of a repository to another disk.
#[tokio::test]
async fn links_inside_of_a_repository_are_followed_and_lead_somewhere() {
    let directory = tempfile::tempdir().unwrap();
    let (place, elsewhere) = (directory.path().join("repository"), directory.path().join("elsewhere"));
    laid_out(&place, true).await;
    std::fs::create_dir(&elsewhere).unwrap();
    let pack = name(FileKind::Pack, b"x").id.to_string();
    let (of_pack, index) = (place.join("data").join(&pack[..2]), place.join("index"));
    let of_index = index.join(name(FileKind::Index, b"x").id.to_string());
    for (path, kind) in [(&of_pack, FileKind::Pack), (&index, FileKind::Index), (&of_index, FileKind::Index)]
    {
        let before = local(&place).list(kind).await.unwrap();
        assert_eq!(before.len(), 1);
        let target = elsewhere.join("moved");
        std::fs::rename(path, &target).unwrap();
        std::os::unix::fs::symlink(&target, path).unwrap();
        assert_eq!(local(&place).list(kind).await.unwrap(), before, "{}", path.display());
        // The other disk is not mounted.
        std::fs::rename(&target, elsewhere.join("away")).unwrap();
        let error = local(&place).list(kind).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Listing, "{}", error.chain());
        std::fs::remove_file(path).unwrap();
        std::fs::rename(elsewhere.join("away"), path).unwrap();
    }
    // Nor is a directory of locks that leads nowhere one without locks.
    std::fs::remove_dir(place.join("locks")).unwrap();
    std::os::unix::fs::symlink(elsewhere.join("locks"), place.join("locks")).unwrap();
    assert_eq!(local(&place).list(FileKind::Lock).await.unwrap_err().kind(), ErrorKind::Listing);
    // What a link leads to may be somebody else's.
    let target = elsewhere.join("moved");
    std::fs::rename(&of_index, &target).unwrap();
    std::os::unix::fs::symlink(&target, &of_index).unwrap();
    local(&place).delete(name(FileKind::Index, b"x")).await.unwrap();
    assert!(target.exists() && std::fs::symlink_metadata(&of_index).is_err());
}

#[tokio::test]
async fn a_repository_that_holds_nothing_may_lack_directories() {
    let directory = tempfile::tempdir().unwrap();
    laid_out(directory.path(), false).await;
    std::fs::remove_dir(directory.path().join("snapshots")).unwrap();
    std::fs::remove_dir(directory.path().join("index")).unwrap();
    std::fs::remove_dir_all(directory.path().join("data")).unwrap();
    let store = local(directory.path());
    for kind in [FileKind::Snapshot, FileKind::Index, FileKind::Pack] {
        assert_eq!(store.list(kind).await.unwrap(), []);
    }
    store.put(name(FileKind::Pack, b"x"), "x".into(), PutMode::ContentAddressed).await.unwrap();
    assert_eq!(store.list(FileKind::Snapshot).await.unwrap_err().kind(), ErrorKind::Listing);
}

#[tokio::test]
async fn a_repository_that_goes_away_is_not_taken_for_a_place_without_one() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("repository");
    laid_out(&place, true).await;
    let store = local(&place);
    store.get(FileName { kind: FileKind::Config, id: Id::default() }, None).await.unwrap();
    std::fs::rename(&place, directory.path().join("aside")).unwrap();
    for kind in [FileKind::Lock, FileKind::Key, FileKind::Snapshot, FileKind::Index, FileKind::Pack] {
        let error = store.list(kind).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Listing, "{}", error.chain());
        // Who has not seen it finds an empty place.
        assert_eq!(local(&place).list(kind).await.unwrap(), []);
    }
}

#[tokio::test]
async fn files_beside_and_above_a_repository() {
    let directory = tempfile::tempdir().unwrap();
    let store = local(&directory.path().join("repo"));
    assert!(store.is_empty().await.unwrap());
    assert_eq!(store.get_extra("a/b.yaml").await.unwrap(), None);
    store.put_extra("a/b.yaml", "x".into(), PutMode::CreateNew).await.unwrap();
    let again = store.put_extra("a/b.yaml", "y".into(), PutMode::CreateNew).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyInitialized);
    store.put_extra("../up.yaml", "u".into(), PutMode::ContentAddressed).await.unwrap();
    assert_eq!(store.get_extra("../up.yaml").await.unwrap().unwrap(), "u");
    assert!(!store.is_empty().await.unwrap());
    assert_eq!(store.list_extra("", 10).await.unwrap(), ["a/"]);
    assert_eq!(store.list_extra("a", 10).await.unwrap(), ["b.yaml"]);
    assert_eq!(store.list_extra("nothing", 10).await.unwrap(), Vec::<String>::new());
    assert_eq!(store.get_extra("/etc/passwd").await.unwrap_err().kind(), ErrorKind::Usage);
    store.delete_extra("a/b.yaml").await.unwrap();
    store.delete_extra("a/b.yaml").await.unwrap();
    assert_eq!(store.list_extra("a", 10).await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn probing_leaves_nothing_and_says_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let faults = FaultStore::new(local(directory.path()));
    assert!(probe(&faults).await.unwrap().create_only);
    assert!(faults.is_empty().await.unwrap());
    for (fault, kind) in [
        (
            Fault::once(Operation::List, None, Trouble::Fail(ErrorKind::BucketNotFound)),
            ErrorKind::BucketNotFound,
        ),
        (Fault::once(Operation::Put, None, Trouble::Fail(ErrorKind::AccessDenied)), ErrorKind::ReadOnly),
        (Fault::once(Operation::Get, None, Trouble::Flip(3)), ErrorKind::Corrupt),
        (Fault::once(Operation::Put, None, Trouble::Lose), ErrorKind::Corrupt),
        (
            Fault::once(Operation::Delete, None, Trouble::Fail(ErrorKind::AccessDenied)),
            ErrorKind::AccessDenied,
        ),
        (Fault::once(Operation::Delete, None, Trouble::Lose), ErrorKind::Guard),
    ] {
        faults.add(fault.clone());
        assert_eq!(probe(&faults).await.unwrap_err().kind(), kind, "{fault:?}");
        faults.heal();
    }
}

#[tokio::test]
async fn keys_are_confined_where_writing_elsewhere_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let faults = FaultStore::new(local(directory.path()));
    assert_eq!(confinement(&faults).await.unwrap(), Confinement::Broken { left: None });
    assert!(faults.is_empty().await.unwrap(), "what was written is removed again");
    for (trouble, expected) in [
        (Trouble::Fail(ErrorKind::AccessDenied), Ok(Confinement::Kept)),
        (Trouble::Fail(ErrorKind::Unreachable), Err(ErrorKind::Unreachable)),
        (Trouble::Fail(ErrorKind::Auth), Err(ErrorKind::Auth)),
    ] {
        faults.add(Fault::once(Operation::Put, None, trouble));
        assert_eq!(confinement(&faults).await.map_err(|e| e.kind()), expected);
        faults.heal();
    }
    // Rights to write but not to delete, as some have on purpose: it was taken all the same.
    faults.add(Fault::once(Operation::Delete, None, Trouble::Fail(ErrorKind::AccessDenied)));
    let Confinement::Broken { left: Some(path) } = confinement(&faults).await.unwrap() else { panic!() };
    assert!(path.starts_with("holdfast-unscoped/"), "{path}");
    assert!(faults.get_extra(&path).await.unwrap().is_some(), "what is told to be left is there");
}

#[derive(Default)]
struct Told(Mutex<usize>);

impl EventSink for Told {
    fn event(&self, event: Event) {
        if matches!(event, Event::Retry { .. }) {
            *self.0.lock().unwrap() += 1;
        }
    }
}

struct Retrying {
    store: retry::RetryStore,
    faults: Arc<FaultStore>,
    told: Arc<Told>,
    ctx: Ctx,
    _directory: tempfile::TempDir,
}

fn retrying(deadline: Duration) -> Retrying {
    let directory = tempfile::tempdir().unwrap();
    let faults = Arc::new(FaultStore::new(local(directory.path())));
    let told = Arc::new(Told::default());
    let ctx = Ctx { events: Arc::clone(&told) as Arc<dyn EventSink>, ..Ctx::default() };
    let policy = RetryPolicy {
        deadline,
        first: Duration::from_millis(2),
        max: Duration::from_millis(5),
        ..RetryPolicy::default()
    };
    let store = retry::RetryStore::new(Arc::clone(&faults) as Arc<dyn Store>, policy, ctx.clone());
    Retrying { store, faults, told, ctx, _directory: directory }
}

#[tokio::test]
async fn passing_failures_are_retried_and_told_others_are_not() {
    let r = retrying(Duration::from_secs(30));
    let pack = name(FileKind::Pack, b"p");
    for kind in [ErrorKind::Unreachable, ErrorKind::Timeout] {
        r.faults.add(Fault { times: 2, ..Fault::once(Operation::Put, FileKind::Pack, Trouble::Fail(kind)) });
    }
    r.store.put(pack, "p".into(), PutMode::ContentAddressed).await.unwrap();
    assert_eq!(*r.told.0.lock().unwrap(), 4);
    r.faults.add(Fault::once(Operation::Get, FileKind::Pack, Trouble::Fail(ErrorKind::Auth)));
    assert_eq!(r.store.get(pack, None).await.unwrap_err().kind(), ErrorKind::Auth);
    assert_eq!(r.faults.count(Operation::Get, FileKind::Pack), 1);
}

#[tokio::test]
async fn retries_end_at_the_deadline() {
    let r = retrying(Duration::from_millis(60));
    r.faults.add(Fault::always(Operation::List, FileKind::Index, Trouble::Fail(ErrorKind::Unreachable)));
    let error = r.store.list(FileKind::Index).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(r.faults.count(Operation::List, FileKind::Index) > 5);
}

#[tokio::test]
async fn a_creation_whose_answer_was_lost_is_recognised() {
    let r = retrying(Duration::from_secs(30));
    let config = FileName { kind: FileKind::Config, id: Id::default() };
    let lost = Fault::once(Operation::Put, FileKind::Config, Trouble::StoreButFail(ErrorKind::Unreachable));
    r.faults.add(lost.clone());
    r.store.put(config, "mine".into(), PutMode::CreateNew).await.unwrap();
    r.faults.add(Fault::once(Operation::Put, FileKind::Config, Trouble::Fail(ErrorKind::Unreachable)));
    let other = r.store.put(config, "other".into(), PutMode::CreateNew).await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::AlreadyInitialized);
    r.faults.add(Fault { kind: None, ..lost });
    r.store.put_extra("x", "mine".into(), PutMode::CreateNew).await.unwrap();
}

#[tokio::test]
async fn cancelling_ends_waiting_but_not_removals() {
    let r = retrying(Duration::from_mins(10));
    let lock = name(FileKind::Lock, b"l");
    r.store.put(lock, "l".into(), PutMode::ContentAddressed).await.unwrap();
    r.faults.add(Fault::once(Operation::List, FileKind::Lock, Trouble::Hang));
    let (listed, ()) = tokio::join!(r.store.list(FileKind::Lock), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        r.ctx.cancel.cancel();
    });
    assert_eq!(listed.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(r.store.get(lock, None).await.unwrap_err().kind(), ErrorKind::Cancelled);
    r.faults.add(Fault {
        times: 3,
        ..Fault::once(Operation::Delete, FileKind::Lock, Trouble::Fail(ErrorKind::Unreachable))
    });
    r.store.delete(lock).await.unwrap();
    assert_eq!(r.faults.list(FileKind::Lock).await.unwrap(), []);
}

/// Everything a thousand times quicker than in earnest, so that the relations stay.
fn hasty() -> RetryPolicy {
    RetryPolicy {
        deadline: Duration::from_millis(900),
        first: Duration::from_millis(1),
        max: Duration::from_millis(30),
        attempt: Duration::from_millis(120),
        budget: Duration::from_millis(7200),
    }
}

fn patient(inner: Arc<dyn Store>) -> retry::RetryStore {
    retry::RetryStore::new(inner, hasty(), Ctx::default())
}

/// The most a busy machine may add.
const SLACK: Duration = Duration::from_secs(20);

fn broken(fault: Fault) -> (Arc<FaultStore>, retry::RetryStore, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let faults = Arc::new(FaultStore::new(local(directory.path())));
    faults.add(fault);
    let store = patient(Arc::clone(&faults) as Arc<dyn Store>);
    (faults, store, directory)
}

#[test]
fn the_deadlines_are_those_of_the_design() {
    let policy = RetryPolicy::default();
    assert_eq!((policy.first, policy.max), (Duration::from_millis(500), Duration::from_secs(30)));
    assert_eq!((policy.deadline, policy.budget), (Duration::from_mins(15), Duration::from_hours(2)));
}

#[tokio::test]
async fn a_call_that_never_returns_ends_in_a_timeout() {
    for operation in [Operation::Get, Operation::Put, Operation::Delete, Operation::List] {
        let (faults, store, _directory) = broken(Fault::always(operation, None, Trouble::Hang));
        let pack = name(FileKind::Pack, b"p");
        let call = async {
            match operation {
                Operation::Get => store.get(pack, Some(0..9)).await.unwrap_err(),
                Operation::Put => store.put(pack, "p".into(), PutMode::ContentAddressed).await.unwrap_err(),
                Operation::Delete => store.delete(pack).await.unwrap_err(),
                Operation::List => store.list(FileKind::Pack).await.unwrap_err(),
            }
        };
        let error = tokio::time::timeout(SLACK, call).await.expect("it must end by itself");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{}", error.chain());
        assert_eq!(error.class(), crate::error::Class::Retryable);
        assert!(faults.count(operation, FileKind::Pack) >= 1);
    }
}

#[tokio::test]
async fn one_hanging_call_is_made_again() {
    let (faults, store, _directory) = broken(Fault::once(Operation::Get, FileKind::Pack, Trouble::Hang));
    faults.add(Fault::once(Operation::Get, FileKind::Pack, Trouble::Fail(ErrorKind::Missing)));
    let error = store.get(name(FileKind::Pack, b"p"), Some(0..1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "the second answer is what counts");
}

#[tokio::test]
async fn a_job_does_not_go_from_outage_to_outage() {
    let directory = tempfile::tempdir().unwrap();
    let faults = Arc::new(FaultStore::new(local(directory.path())));
    faults.add(Fault::always(Operation::List, None, Trouble::Fail(ErrorKind::Unreachable)));
    let policy =
        RetryPolicy { deadline: Duration::from_millis(100), budget: Duration::from_millis(250), ..hasty() };
    let store = retry::RetryStore::new(faults.clone() as Arc<dyn Store>, policy, Ctx::default());
    for _ in 0..10 {
        store.list(FileKind::Index).await.unwrap_err();
    }
    let spent = store.list(FileKind::Index).await.unwrap_err();
    assert!(spent.chain().contains("in all"), "{}", spent.chain());
    assert_eq!(spent.kind(), ErrorKind::Unreachable);
    let before = faults.count(Operation::List, FileKind::Index);
    store.list(FileKind::Index).await.unwrap_err();
    assert_eq!(faults.count(Operation::List, FileKind::Index), before + 1, "nothing is tried twice any more");
    faults.heal();
    store.list(FileKind::Index).await.unwrap();
}

#[tokio::test]
async fn reads_are_as_long_as_asked_for_and_listings_have_each_file_once() {
    let r = retrying(Duration::from_secs(30));
    let pack = name(FileKind::Pack, b"0123456789");
    r.store.put(pack, "0123456789".into(), PutMode::ContentAddressed).await.unwrap();
    r.store.put(name(FileKind::Pack, b"b"), "b".into(), PutMode::ContentAddressed).await.unwrap();
    let good = r.store.list(FileKind::Pack).await.unwrap();
    r.faults.add(Fault::once(Operation::Get, FileKind::Pack, Trouble::Truncate(2)));
    assert_eq!(r.store.get(pack, Some(2..8)).await.unwrap(), "234567");
    assert_eq!(*r.told.0.lock().unwrap(), 1);
    for trouble in [Trouble::Duplicate, Trouble::Reverse] {
        r.faults.add(Fault::once(Operation::List, FileKind::Pack, trouble));
        assert_eq!(r.store.list(FileKind::Pack).await.unwrap(), good);
    }
    r.faults.add(Fault::always(Operation::Get, FileKind::Pack, Trouble::Truncate(1)));
    let r = Retrying {
        store: retry::RetryStore::new(Arc::clone(&r.faults) as _, no_retry(), r.ctx.clone()),
        ..r
    };
    assert_eq!(r.store.get(pack, Some(2..8)).await.unwrap_err().kind(), ErrorKind::Unreachable);
}

/// Lists one file with two sizes, and takes the second pair of credentials only.
struct Odd {
    inner: Arc<dyn Store>,
    epoch: std::sync::atomic::AtomicU64,
    asked: std::sync::atomic::AtomicU64,
}

#[async_trait::async_trait]
impl Store for Odd {
    async fn list(&self, _: FileKind) -> Result<Vec<Entry>> {
        let entry = Entry { id: Id::hash(b"x"), size: 1, modified: None };
        Ok(vec![entry, Entry { size: 2, ..entry }])
    }
    async fn get(&self, _: FileName, _: Option<Range<u64>>) -> Result<Bytes> {
        use std::sync::atomic::Ordering::SeqCst;
        self.asked.fetch_add(1, SeqCst);
        if self.epoch.load(SeqCst) == 1 {
            Ok("x".into())
        } else {
            Err(crate::Error::new(ErrorKind::AccessDenied, "old"))
        }
    }
    async fn get_suffix(&self, name: FileName, len: u64) -> Result<Bytes> {
        self.inner.get_suffix(name, len).await
    }
    async fn size(&self, name: FileName) -> Result<u64> {
        self.inner.size(name).await
    }
    async fn put(&self, name: FileName, body: PutPayload, mode: PutMode) -> Result<()> {
        self.inner.put(name, body, mode).await
    }
    async fn delete(&self, name: FileName) -> Result<()> {
        self.inner.delete(name).await
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
        "odd".to_owned()
    }
    fn credentials_epoch(&self) -> u64 {
        self.epoch.load(std::sync::atomic::Ordering::SeqCst)
    }
    fn renew_credentials(&self, epoch: u64) -> bool {
        // There are newer ones twice: the second ones are refused as well when an operation asks again.
        self.epoch.store(epoch + 1, std::sync::atomic::Ordering::SeqCst);
        true
    }
}

#[tokio::test]
async fn refused_credentials_are_looked_up_once_an_operation() {
    use std::sync::atomic::Ordering::SeqCst;
    let directory = tempfile::tempdir().unwrap();
    let odd = Arc::new(Odd { inner: local(directory.path()), epoch: 0.into(), asked: 0.into() });
    let store = patient(Arc::clone(&odd) as Arc<dyn Store>);
    assert_eq!(store.get(ABSENT, None).await.unwrap(), "x");
    assert_eq!(odd.asked.load(SeqCst), 2);
    odd.epoch.store(7, SeqCst);
    assert_eq!(store.get(ABSENT, None).await.unwrap_err().kind(), ErrorKind::AccessDenied);
    assert_eq!(odd.asked.load(SeqCst), 4, "once, not for ever");
}

#[tokio::test]
async fn a_listing_that_contradicts_itself_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let odd = Arc::new(Odd { inner: local(directory.path()), epoch: 0.into(), asked: 0.into() });
    assert_eq!(patient(odd).list(FileKind::Pack).await.unwrap_err().kind(), ErrorKind::Listing);
}

#[tokio::test]
async fn what_dead_writers_left_goes_when_it_is_old() {
    let directory = tempfile::tempdir().unwrap();
    let store = local(directory.path());
    store.prepare().await.unwrap();
    let pack = name(FileKind::Pack, b"p");
    store.put(pack, "p".into(), PutMode::ContentAddressed).await.unwrap();
    let old = std::time::SystemTime::now() - Duration::from_hours(25);
    let left = |path: String, aged: bool| {
        let path = directory.path().join(path);
        std::fs::write(&path, "half").unwrap();
        if aged {
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        }
        path
    };
    let zeros = "0".repeat(64);
    std::fs::create_dir(directory.path().join("unreadable")).unwrap();
    let gone = [
        left(format!("data/00/{zeros}-tmp-0123456789abcdef"), true),
        left(format!("index/{zeros}-tmp-42"), true),
        left("config-tmp-1f".to_owned(), true),
        left("repository.yaml-tmp-1f".to_owned(), true),
        left(format!("unreadable/{zeros}-tmp-1f"), true),
    ];
    let kept = [
        left(format!("data/00/{zeros}-tmp-1123456789abcdef"), false),
        left(format!("locks/{zeros}"), true),
        left("my-tmp-notes".to_owned(), true),
        left("keys/x-tmp-1".to_owned(), true),
        directory.path().join(pack.path()),
    ];
    assert_eq!(store.remove_unfinished(Duration::from_hours(24)).await.unwrap(), 5);
    assert!(gone.iter().all(|p| !p.exists()));
    assert!(kept.iter().all(|p| p.exists()));
    assert_eq!(store.remove_unfinished(Duration::from_hours(24)).await.unwrap(), 0);
}

#[tokio::test]
async fn only_what_one_kernel_keeps_is_trusted_to_be_listed_at_once() {
    let at = async |path: &str| local::LocalStore::new(path.into()).unwrap().lists_at_once().await;
    assert!(at("/dev/shm").await);
    // Made up when it is read; and nothing at all.
    assert!(!at("/proc").await);
    assert!(!at("/proc/nothing of this name").await);
}

/// Three files of half a second each: the third goes when the first two have had their time. Locks go at once.
#[tokio::test]
async fn a_limited_line_keeps_its_average_and_lets_locks_pass() {
    let directory = tempfile::tempdir().unwrap();
    let pace = Pace { upload: std::num::NonZeroU64::new(2000), download: None };
    let options = StoreOptions { retry: no_retry(), pace, ..StoreOptions::default() };
    let cancel = Ctx::default();
    let store = open(&Location::Local(directory.path().to_owned()), &options, &cancel).unwrap();
    store.prepare().await.unwrap();
    let put = async |kind: FileKind, fill: u8| {
        let body = Bytes::from(vec![fill; 1000]);
        store.put(name(kind, &body), body.into(), PutMode::ContentAddressed).await
    };
    let begin = std::time::Instant::now();
    for fill in 0..3 {
        put(FileKind::Pack, fill).await.unwrap();
    }
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(850), "{took:?}");
    let begin = std::time::Instant::now();
    put(FileKind::Lock, 9).await.unwrap();
    assert!(begin.elapsed() < Duration::from_millis(300), "a lock was held up");
    // Whoever waits for the line is let go by a cancellation.
    cancel.cancel.cancel();
    assert_eq!(put(FileKind::Pack, 4).await.unwrap_err().kind(), ErrorKind::Cancelled);
}

/// Of known length, at the end and of unknown length: each has its time before the next one comes. Locks come at once.
#[tokio::test]
async fn a_limited_line_keeps_its_average_of_what_comes_too() {
    let directory = tempfile::tempdir().unwrap();
    let pace = Pace { upload: None, download: std::num::NonZeroU64::new(500) };
    let options = StoreOptions { retry: no_retry(), pace, ..StoreOptions::default() };
    let cancel = Ctx::default();
    let store = open(&Location::Local(directory.path().to_owned()), &options, &cancel).unwrap();
    store.prepare().await.unwrap();
    let body = vec![7; 1000];
    let (content, lock) = (name(FileKind::Pack, &body), name(FileKind::Lock, &body));
    for name in [content, lock] {
        store.put(name, Bytes::from(body.clone()).into(), PutMode::ContentAddressed).await.unwrap();
    }
    let begin = std::time::Instant::now();
    assert_eq!(store.get(content, Some(100..600)).await.unwrap().len(), 500);
    assert_eq!(store.get_suffix(content, 500).await.unwrap().len(), 500);
    assert!(begin.elapsed() >= Duration::from_millis(850), "the second one waits for the first");
    assert_eq!(store.get(content, None).await.unwrap().len(), 1000);
    let of_lock = std::time::Instant::now();
    assert_eq!(store.get(lock, None).await.unwrap().len(), 1000);
    assert!(of_lock.elapsed() < Duration::from_millis(1500), "a lock was held up");
    assert_eq!(store.get(content, Some(0..1)).await.unwrap().len(), 1);
    assert!(begin.elapsed() >= Duration::from_millis(3800), "what was read whole has its time afterwards");
    cancel.cancel.cancel();
    assert_eq!(store.get(content, Some(0..900)).await.unwrap_err().kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn files_longer_than_any_of_their_kind_are_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = local(directory.path());
    store.prepare().await.unwrap();
    // Holes: what would be read would be there.
    let put = |path: &str, length: u64| {
        let path = directory.path().join(path);
        std::fs::File::create(path).unwrap().set_len(length).unwrap();
    };
    for kind in [FileKind::Config, FileKind::Key, FileKind::Lock, FileKind::Snapshot, FileKind::Index] {
        let name = name(kind, b"planted");
        put(&name.path(), kind.longest() + 1);
        let error = store.get(name, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
        assert_eq!(store.get(name, Some(5..9)).await.unwrap().len(), 4);
        put(&name.path(), 1 << 20);
        assert_eq!(store.get(name, None).await.unwrap().len(), 1 << 20);
    }
    put("repository.yaml", LONGEST_EXTRA + 1);
    assert_eq!(store.get_extra("repository.yaml").await.unwrap_err().kind(), ErrorKind::Corrupt);
}
