//! Object lock of a real S3 server: what the snapshots need is protected, stays so while it lives, and what the store
//! refuses to delete is told and is no failure.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's way to fail"
)]

mod versitygw;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::backup::{BackupSpec, backup};
use holdfast_engine::check::{CheckSpec, ReadData, check};
use holdfast_engine::forget::{ForgetReport, ForgetSpec, Selection, forget};
use holdfast_engine::lock::{Holder, LockMode, Locking};
use holdfast_engine::protect::{ProtectReport, ProtectSpec, protect};
use holdfast_engine::prune::{MaxUnused, PruneSpec, prune};
use holdfast_engine::repository::InitOptions;
use holdfast_engine::store::{
    self, FileKind, FileName, Retention, RetentionMode, S3Options, Store, StoreOptions,
};
use holdfast_engine::{Ctx, ErrorKind, Id, Repository, Result};
use jiff::{SignedDuration, Timestamp};
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::{HttpConnector as _, HttpRequestBody, ReqwestConnector};
use object_store::{Certificate, ClientOptions};
use versitygw::{ACCESS, SECRET, Server};

const PASSWORD: &str = "correct horse battery staple correct horse battery staple 123456";
const HOUR: SignedDuration = SignedDuration::from_hours(1);

fn open_store(server: &Server, path: &str) -> Arc<dyn Store> {
    let options = StoreOptions {
        s3: S3Options {
            access_key_id: Some(ACCESS.to_owned()),
            secret_access_key: Some(SECRET.to_owned().into()),
            ..S3Options::default()
        },
        ca_pem: Some(std::fs::read(server.ca()).unwrap()),
        ..StoreOptions::default()
    };
    store::open(&server.location(path).parse().unwrap(), &options, &Ctx::default()).unwrap()
}

async fn init(store: &Arc<dyn Store>) -> Repository {
    let options = InitOptions {
        password: PASSWORD.to_owned().into(),
        recovery_password: None,
        version: 2,
        hostname: "h".into(),
        username: "u".into(),
    };
    Repository::init(Arc::clone(store), &options, &Ctx::default()).await.unwrap()
}

fn holder() -> Holder {
    Holder::this_process("h", "u")
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

async fn back_up(repo: &Repository, dir: &Path) -> Id {
    let lock = repo.lock(LockMode::Shared, &holder(), Duration::ZERO, &[], &Ctx::default()).await.unwrap();
    let spec = BackupSpec { roots: vec![dir.to_owned()], host: "h".into(), ..BackupSpec::default() };
    let report = backup(repo, &lock, &spec, &Ctx::default()).await.unwrap();
    lock.release().await.unwrap();
    report.snapshot
}

async fn try_protect(repo: &Repository, spec: &ProtectSpec) -> Result<ProtectReport> {
    let lock = repo.lock(LockMode::Shared, &holder(), Duration::ZERO, &[], &Ctx::default()).await.unwrap();
    let report = protect(repo, &lock, spec, &Ctx::default()).await;
    lock.release().await.unwrap();
    report
}

fn spec(hours: i64) -> ProtectSpec {
    ProtectSpec {
        retain: SignedDuration::from_hours(hours),
        mode: None,
        dry_run: false,
        now: Timestamp::now(),
    }
}

async fn forget_one(repo: &Repository, id: Id) -> ForgetReport {
    let lock = repo.lock(LockMode::Shared, &holder(), Duration::ZERO, &[], &Ctx::default()).await.unwrap();
    let spec = ForgetSpec {
        selection: Selection::Ids(vec![id]),
        dry_run: false,
        floor: 0,
        known: Vec::new(),
        now: Timestamp::now(),
    };
    let report = forget(repo, &lock, &spec, &Ctx::default()).await.unwrap();
    lock.release().await.unwrap();
    report
}

async fn assert_sound(repo: &Repository) {
    let report = check(repo, None, &CheckSpec { read_data: ReadData::All }, &Ctx::default()).await.unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
}

/// All files of a repository but its locks.
async fn files(store: &Arc<dyn Store>) -> Vec<FileName> {
    let mut names = vec![FileName { kind: FileKind::Config, id: Id::default() }];
    for kind in [FileKind::Key, FileKind::Pack, FileKind::Index, FileKind::Snapshot] {
        names.extend(store.list(kind).await.unwrap().into_iter().map(|e| FileName { kind, id: e.id }));
    }
    names
}

/// A request that the engine has no need of, signed with the owner's keys.
async fn put(server: &Server, path: &str, body: &'static str) {
    let certificates = Certificate::from_pem_bundle(&std::fs::read(server.ca()).unwrap()).unwrap();
    let options = certificates.into_iter().fold(ClientOptions::new(), ClientOptions::with_root_certificate);
    let client = ReqwestConnector::default().connect(&options).unwrap();
    let keys = AwsCredential { key_id: ACCESS.into(), secret_key: SECRET.into(), token: None };
    let hash = data_encoding::BASE64
        .encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body.as_bytes()).as_ref());
    let mut request = http::Request::put(format!("{}/{path}", server.address()))
        .header("x-amz-checksum-sha256", hash)
        .body(HttpRequestBody::from(Bytes::from_static(body.as_bytes())))
        .unwrap();
    AwsAuthorizer::new(&keys, "s3", "us-east-1").try_authorize(&mut request, None).unwrap();
    let answer = client.execute(request).await.unwrap();
    let status = answer.status();
    let said = answer.into_body().bytes().await.unwrap();
    let said = String::from_utf8_lossy(&said);
    assert!(status.is_success(), "{status}: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_snapshots_need_is_protected_and_stays_so() {
    let server = Server::start(&[]);
    server.add_locked_bucket("locked");
    let store = open_store(&server, "locked/a b+c/repo");
    let repo = init(&store).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("both"), noise(1, 700_000)).unwrap();
    std::fs::write(dir.path().join("only the first"), noise(2, 700_000)).unwrap();
    let first = back_up(&repo, dir.path()).await;
    assert_eq!(store.object_lock().await.unwrap().unwrap().default, None);
    for name in files(&store).await {
        assert_eq!(store.retention(name).await.unwrap(), None, "{name}");
    }

    let dry = try_protect(&repo, &ProtectSpec { dry_run: true, ..spec(48) }).await.unwrap();
    let all = files(&store).await;
    assert_eq!((dry.total().extended, dry.total().kept), (all.len() as u64, 0));
    assert_eq!(store.retention(all[0]).await.unwrap(), None);

    let report = try_protect(&repo, &spec(48)).await.unwrap();
    assert_eq!((report.total().extended, report.failed.len()), (all.len() as u64, 0));
    assert_eq!(report.mode, RetentionMode::Governance);
    for name in &all {
        let found =
            store.retention(*name).await.unwrap().unwrap_or_else(|| panic!("{name} is not protected"));
        assert_eq!(found.mode, RetentionMode::Governance);
        assert!(found.until >= report.until, "{name}: {}", found.until);
        let refused = store.delete(*name).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Retained, "{name}: {}", refused.chain());
    }
    assert_eq!(store.list(FileKind::Lock).await.unwrap(), [], "locks are not protected");

    // Enough is left: nothing is done. Less than half of it: everything is moved on.
    let again = try_protect(&repo, &spec(48)).await.unwrap();
    assert_eq!((again.total().extended, again.total().kept), (0, all.len() as u64));
    let later = ProtectSpec { now: Timestamp::now() + SignedDuration::from_hours(25), ..spec(48) };
    let moved = try_protect(&repo, &later).await.unwrap();
    assert_eq!((moved.total().extended, moved.total().kept), (all.len() as u64, 0));
    for name in &all {
        assert!(store.retention(*name).await.unwrap().unwrap().until >= moved.until, "{name}");
    }

    // Never for a shorter time, and never in a milder way.
    let strict = ProtectSpec { mode: Some(RetentionMode::Compliance), ..spec(1) };
    let kept = FileName { kind: FileKind::Snapshot, id: first };
    let before = store.retention(kept).await.unwrap().unwrap();
    let refused = try_protect(&repo, &strict).await.unwrap();
    assert_eq!(refused.failed.len(), all.len(), "the server does not let governance become compliance");
    assert_eq!(store.retention(kept).await.unwrap().unwrap(), before);

    // What is new is not protected until the next time; the store's refusals are told and harm nothing.
    std::fs::remove_file(dir.path().join("only the first")).unwrap();
    let second = back_up(&repo, dir.path()).await;
    let forgotten = forget_one(&repo, first).await;
    assert_eq!(forgotten.forgotten.len(), 0);
    assert_eq!(forgotten.retained.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [first]);
    assert_eq!(forget_one(&repo, second).await.forgotten.len(), 1);
    assert_sound(&repo).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_leaves_what_is_protected_and_says_so() {
    let server = Server::start(&[]);
    server.add_locked_bucket("locked");
    let store = open_store(&server, "locked/repo");
    let repo = init(&store).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("gone soon"), noise(3, 900_000)).unwrap();
    let first = back_up(&repo, dir.path()).await;
    std::fs::write(dir.path().join("gone soon"), noise(4, 900_000)).unwrap();
    back_up(&repo, dir.path()).await;
    // Only the packs: the snapshot can be forgotten, and its index files replaced.
    let until = Timestamp::now() + HOUR;
    for entry in store.list(FileKind::Pack).await.unwrap() {
        let name = FileName { kind: FileKind::Pack, id: entry.id };
        let retention = Retention { mode: RetentionMode::Compliance, until };
        store.retain(name, retention).await.unwrap();
        // The owner cannot take that back.
        let less = Retention { until: Timestamp::now() + HOUR / 2, ..retention };
        assert_eq!(store.retain(name, less).await.unwrap_err().kind(), ErrorKind::Retained);
        let milder = Retention { mode: RetentionMode::Governance, ..retention };
        assert_eq!(store.retain(name, milder).await.unwrap_err().kind(), ErrorKind::Retained);
    }
    assert_eq!(forget_one(&repo, first).await.forgotten.len(), 1);
    let packs = store.list(FileKind::Pack).await.unwrap();
    let locking = Locking { holder: holder(), wait: Duration::ZERO, dead_holders: Vec::new() };
    let thorough = PruneSpec {
        max_unused: MaxUnused::Bytes(0),
        instant: true,
        allow_large: true,
        ..PruneSpec::default()
    };
    let report = prune(&repo, &locking, &thorough, &Ctx::default()).await.unwrap();
    assert!(!report.retained.is_empty() && report.retained_bytes >= 900_000, "{report:?}");
    let left = store.list(FileKind::Pack).await.unwrap();
    assert!(packs.iter().all(|pack| left.contains(pack)), "nothing protected is gone");
    assert_sound(&repo).await;
    assert_eq!(store.list(FileKind::Lock).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_protects_everything_by_itself_is_used_as_any_other() {
    let server = Server::start(&[]);
    server.add_locked_bucket("locked");
    put(
        &server,
        "locked?object-lock=",
        "<ObjectLockConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
         <ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>COMPLIANCE</Mode>\
         <Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>",
    )
    .await;
    let store = open_store(&server, "locked/repo");
    let day = SignedDuration::from_hours(24);
    assert_eq!(store.object_lock().await.unwrap().unwrap().default, Some((RetentionMode::Compliance, day)));
    let repo = init(&store).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), noise(5, 600_000)).unwrap();
    // Locks cannot be removed here; they are in nobody's way, and a run does not fail at its end for them.
    let first = back_up(&repo, dir.path()).await;
    assert!(!store.list(FileKind::Lock).await.unwrap().is_empty());
    std::fs::write(dir.path().join("file"), noise(6, 600_000)).unwrap();
    back_up(&repo, dir.path()).await;
    assert_eq!(forget_one(&repo, first).await.retained.len(), 1);
    let report = try_protect(&repo, &spec(72)).await.unwrap();
    assert_eq!((report.mode, report.failed.len()), (RetentionMode::Compliance, 0));
    assert_sound(&repo).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_bucket_with_versions_what_is_deleted_is_kept_below() {
    let server = Server::start_with_versions(&[]);
    server.add_locked_bucket("locked");
    let store = open_store(&server, "locked/repo");
    let repo = init(&store).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), noise(7, 600_000)).unwrap();
    let first = back_up(&repo, dir.path()).await;
    let report = try_protect(&repo, &spec(48)).await.unwrap();
    assert!(report.failed.is_empty() && report.total().extended >= 6, "{report:?}");
    // The clouds' way: a deletion only hides the protected version.
    assert_eq!(forget_one(&repo, first).await.forgotten.len(), 1);
    assert_eq!(store.list(FileKind::Snapshot).await.unwrap(), []);
    assert_eq!(store.list(FileKind::Lock).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_object_lock_the_reason_is_said() {
    let server = Server::start(&["plain"]);
    let store = open_store(&server, "plain/repo");
    let repo = init(&store).await;
    assert_eq!(store.object_lock().await.unwrap(), None);
    let error = try_protect(&repo, &spec(24)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("no object lock"), "{error}");

    let dir = tempfile::tempdir().unwrap();
    let location = store::Location::Local(dir.path().join("repo"));
    let local = store::open(&location, &StoreOptions::default(), &Ctx::default()).unwrap();
    let repo = init(&local).await;
    let error = try_protect(&repo, &spec(24)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("only S3 servers"), "{error}");
}
