//! The tasks on a directory instead of a bucket: everything but the network. Backups and restores have rooms of their own.

mod backups;
mod restores;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use holdfast_engine::error::ErrorKind;
use holdfast_engine::event::Ctx;
use holdfast_engine::lock::{Holder, LockMode};
use holdfast_engine::repository::Repository;
use holdfast_engine::store::{self, FileKind, Location, Store, StoreOptions};
use holdfast_protocol::spec::{
    BackupVolume, CACHES_TAG, FoundRepository, OnUnreadable, RepositoryRecord, RestoreVolume, RunIdentity,
    SnapshotRow, StorageAccess, UNREADABLE_TAG,
};
use holdfast_protocol::verdict::{BackupResult, KeyScope, Lifecycle, RestoreResult};
use holdfast_protocol::{Outcome, RunSpec, Task, TaskResult, Verdict, attachment};
use secrecy::SecretString;
use tempfile::TempDir;

use super::Job;
use crate::failure::Failure;
use crate::report::{Pace, Reporter};
use crate::{record, stop::Stop};

/// Long enough to be taken for a random one, whose key is quick to derive.
const PASSWORD: &str = "0123456789abcdef0123456789abcdef0123456789abcdef";
const RECOVERY: &str = "fedcba9876543210fedcba9876543210fedcba9876543210";

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(data)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// A place for a storage or repository, a source and a target.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["store", "source", "target"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self { directory }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn store(&self) -> Arc<dyn Store> {
        store::open(&Location::Local(self.path("store")), &StoreOptions::default(), &Ctx::default()).unwrap()
    }

    fn job(&self, task: Task) -> (Job, Lines) {
        let lines = Lines::default();
        let reporter = Arc::new(Reporter::start(Box::new(lines.clone()), Pace::default()));
        let job = Job {
            spec: RunSpec {
                version: holdfast_protocol::VERSION,
                run: RunIdentity {
                    kind: "Backup".into(),
                    namespace: "shop".into(),
                    name: "daily".into(),
                    uid: "run-uid".into(),
                    cluster: "prod".into(),
                    cluster_uid: "cluster-a".into(),
                },
                storage: StorageAccess::S3 {
                    endpoint: String::new(),
                    bucket: String::new(),
                    prefix: String::new(),
                    region: String::new(),
                    virtual_host: false,
                },
                directory: None,
                repository_id: None,
                dead_jobs: Vec::new(),
                discard: Vec::new(),
                read_only: false,
                upload_bytes_per_second: None,
                download_bytes_per_second: None,
                keys_end: None,
                task,
            },
            store: self.store(),
            place: (Location::Local(self.path("store")), StoreOptions::default()),
            password: Some(PASSWORD.into()),
            recovery_password: Some(RECOVERY.into()),
            checkpoint: None,
            ctx: Ctx { events: Arc::clone(&reporter) as _, ..Ctx::default() },
            reporter,
        };
        (job, lines)
    }

    async fn run(&self, task: Task) -> Result<Verdict, Failure> {
        self.job(task).0.perform().await
    }

    /// Does a task on a store that nothing may be written to.
    async fn run_closed(&self, task: Task) -> Result<Verdict, Failure> {
        let mut job = self.job(task).0;
        job.spec.read_only = true;
        job.perform().await
    }

    async fn initialized(&self) {
        self.run(initialize("cluster-a")).await.unwrap();
    }

    async fn open(&self) -> Repository {
        Repository::open(self.store(), &SecretString::from(PASSWORD), &Ctx::default()).await.unwrap()
    }

    fn backup(&self) -> BackupVolume {
        BackupVolume {
            component: "volume/data".into(),
            path: self.text("source"),
            host: "shop".into(),
            tags: vec!["run=1".into(), "component=volume/data".into(), "extra".into()],
            identity_tags: vec!["run=1".into(), "component=volume/data".into()],
            time: "2026-11-20T02:00:00Z".into(),
            exclude: Vec::new(),
            exclude_caches: false,
            on_unreadable: OnUnreadable::PartiallyFail,
            skip_empty: false,
        }
    }

    fn restore(&self, snapshot: &BackupResult) -> RestoreVolume {
        RestoreVolume {
            component: "volume/data".into(),
            snapshot_id: snapshot.snapshot_id.clone().unwrap(),
            source_path: self.text("source"),
            target: self.text("target"),
            include: Vec::new(),
            exclude: Vec::new(),
            delete_extra: false,
            verify: true,
            plan_only: false,
            restore_owners: false,
        }
    }

    /// Files, and what is in them, below a directory.
    fn content(&self, name: &str) -> Vec<(String, Option<Vec<u8>>)> {
        let root = self.path(name);
        let mut found = Vec::new();
        let mut waiting = vec![root.clone()];
        while let Some(directory) = waiting.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let content = path.is_file().then(|| fs::read(&path).unwrap());
                found.push((path.strip_prefix(&root).unwrap().display().to_string(), content));
                if path.is_dir() {
                    waiting.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

fn initialize(cluster_uid: &str) -> Task {
    Task::Initialize {
        record: RepositoryRecord {
            version: 1,
            cluster: "prod".into(),
            cluster_uid: cluster_uid.into(),
            namespace: "shop".into(),
            name: "main".into(),
            created: "2026-11-20T02:00:00Z".into(),
        },
        must_exist: false,
        read_only: false,
    }
}

/// Whether it was made, whether the recovery password opens it, and whose it was.
fn initialized(verdict: Verdict) -> (bool, bool, Option<String>) {
    let Some(TaskResult::Initialize { created, recovery_key, foreign_record, .. }) = verdict.result else {
        panic!("{verdict:?}")
    };
    (created, recovery_key, foreign_record)
}

fn backed_up(verdict: &Verdict) -> BackupResult {
    let Some(TaskResult::BackupVolume(result)) = &verdict.result else { panic!("{verdict:?}") };
    result.clone()
}

fn restored(verdict: &Verdict) -> RestoreResult {
    let Some(TaskResult::RestoreVolume(result)) = &verdict.result else { panic!("{verdict:?}") };
    result.clone()
}

#[tokio::test]
async fn initializing_again_opens_what_is_there() {
    let place = Place::new();
    assert_eq!(initialized(place.run(initialize("cluster-a")).await.unwrap()), (true, true, None));
    assert_eq!(initialized(place.run(initialize("cluster-a")).await.unwrap()), (false, true, None));
    Repository::open(place.store(), &SecretString::from(RECOVERY), &Ctx::default()).await.unwrap();
    assert!(
        fs::read_to_string(place.path("store/repository.yaml")).unwrap().contains("clusterUid: cluster-a")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_initialize_at_once_one_makes_it_and_both_can_use_it() {
    for _ in 0..3 {
        let place = Place::new();
        let (a, b) = tokio::join!(place.run(initialize("cluster-a")), place.run(initialize("cluster-a")));
        let made = [a, b].map(|verdict| initialized(verdict.unwrap()).0);
        assert_eq!(made.iter().filter(|made| **made).count(), 1, "{made:?}");
        place.open().await;
        Repository::open(place.store(), &SecretString::from(RECOVERY), &Ctx::default()).await.unwrap();
    }
}

#[tokio::test]
async fn a_recovery_password_that_comes_later_becomes_a_key() {
    let place = Place::new();
    let (mut job, _) = place.job(initialize("cluster-a"));
    job.recovery_password = None;
    assert_eq!(initialized(job.perform().await.unwrap()), (true, false, None));
    assert_eq!(initialized(place.run(initialize("cluster-a")).await.unwrap()), (false, true, None));
    let keys = place.store().list(FileKind::Key).await.unwrap().len();
    assert_eq!(keys, 2);
    place.run(initialize("cluster-a")).await.unwrap();
    assert_eq!(
        place.store().list(FileKind::Key).await.unwrap().len(),
        keys,
        "a second key for the same password"
    );
}

#[tokio::test]
async fn a_look_at_a_repository_writes_nothing() {
    let place = Place::new();
    let (mut job, _) = place.job(initialize("cluster-a"));
    job.recovery_password = None;
    job.perform().await.unwrap();
    fs::remove_file(place.path("store/repository.yaml")).unwrap();
    let before = place.content("store");
    let Task::Initialize { record, .. } = initialize("cluster-b") else { panic!() };
    let look = Task::Initialize { record, must_exist: true, read_only: true };
    assert_eq!(initialized(place.run(look.clone()).await.unwrap()), (false, false, None));
    assert_eq!(place.content("store"), before, "no key, no record");
    place.initialized().await;
    let (created, recovery_key, foreign) = initialized(place.run(look).await.unwrap());
    assert!(!created && recovery_key && foreign.unwrap().contains("cluster-a"));

    let empty = Place::new();
    let Task::Initialize { record, .. } = initialize("cluster-b") else { panic!() };
    let look = Task::Initialize { record, must_exist: false, read_only: true };
    assert_eq!(empty.run(look).await.unwrap_err().reason, "NotARepository");
    assert_eq!(empty.content("store"), []);
}

#[tokio::test]
async fn an_adopted_repository_is_never_made() {
    let place = Place::new();
    let Task::Initialize { record, .. } = initialize("cluster-a") else { panic!() };
    let adopt = Task::Initialize { record, must_exist: true, read_only: false };
    let failure = place.run(adopt).await.unwrap_err();
    assert_eq!(failure.reason, "NotARepository");
    assert_eq!(place.content("store"), []);
}

/// Somebody made a new one in its place, with the same password.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_with_another_repository_than_the_one_that_was_known() {
    let place = Place::new();
    place.initialized().await;
    fs::write(place.path("source/file"), "precious").unwrap();
    let id = place.open().await.id().to_owned();
    for task in [Task::BackupVolume(place.backup()), Task::Sync, Task::Unlock] {
        let before = place.content("store");
        let (mut job, _) = place.job(task.clone());
        job.spec.repository_id = Some("0".repeat(64));
        let failure = job.perform().await.unwrap_err();
        assert_eq!((failure.reason, failure.retryable), ("RepositoryReplaced", false), "{task:?}");
        assert!(failure.message.contains(&id), "{}", failure.message);
        assert_eq!(place.content("store"), before, "{task:?}");
        let (mut job, _) = place.job(task);
        job.spec.repository_id = Some(id.clone());
        job.perform().await.unwrap();
    }
}

#[tokio::test]
async fn nothing_is_made_over_what_is_no_repository() {
    let place = Place::new();
    fs::write(place.path("store/holiday.jpg"), "x").unwrap();
    assert_eq!(place.run(initialize("cluster-a")).await.unwrap_err().reason, "ForeignContent");
    assert_eq!(place.content("store").len(), 1);
}

#[tokio::test]
async fn another_password_is_a_clear_failure_and_changes_nothing() {
    let place = Place::new();
    place.initialized().await;
    let before = place.content("store");
    let (mut job, _) = place.job(initialize("cluster-a"));
    job.password = Some("another".into());
    let failure = job.perform().await.unwrap_err();
    assert_eq!((failure.reason, failure.retryable), ("WrongPassword", false));
    assert_eq!(place.content("store"), before);
}

#[tokio::test]
async fn a_repository_of_another_cluster_of_the_same_name_is_noticed() {
    let place = Place::new();
    place.initialized().await;
    let (_, _, foreign) = initialized(place.run(initialize("cluster-b")).await.unwrap());
    assert!(foreign.unwrap().contains("cluster-a"));
}

/// A directory with a file that not even root can read.
const UNREADABLE: &str = "/proc/sys/vm";

#[tokio::test]
async fn a_sync_lists_every_snapshot_with_its_tags() {
    let place = Place::new();
    place.initialized().await;
    fs::write(place.path("source/a"), "content").unwrap();
    let snapshot = backed_up(&place.run(Task::BackupVolume(place.backup())).await.unwrap());

    let (job, lines) = place.job(Task::Sync);
    let verdict = job.perform().await.unwrap();
    job.reporter.close();
    assert_eq!(verdict.result, Some(TaskResult::Sync { snapshots: 1, locks: 0 }));
    let rows: Vec<SnapshotRow> = attachment::read(&lines.text(), &verdict.attachment.unwrap()).unwrap();
    assert_eq!(rows[0].id, snapshot.snapshot_id.unwrap());
    let backup = place.backup();
    let caches = (!backup.exclude_caches).then(|| CACHES_TAG.to_owned());
    // Ours come first.
    assert_eq!(rows[0].tags, caches.into_iter().chain(backup.tags).collect::<Vec<_>>());
    assert_eq!(
        (rows[0].time.as_str(), rows[0].files, rows[0].bytes),
        ("2026-11-20T02:00:00Z", Some(1), Some(7))
    );

    // One that is damaged does not hide the others, and is told.
    let damaged = "a".repeat(64);
    fs::write(place.path("store/snapshots").join(&damaged), "no snapshot").unwrap();
    let (job, lines) = place.job(Task::Sync);
    let verdict = job.perform().await.unwrap();
    job.reporter.close();
    let rows: Vec<SnapshotRow> = attachment::read(&lines.text(), &verdict.attachment.unwrap()).unwrap();
    let told: Vec<_> = rows.iter().map(|row| (row.id.as_str(), row.damaged)).collect();
    assert_eq!(told, [(rows[0].id.as_str(), false), (damaged.as_str(), true)]);
    // Nor does it stand in the way of the next backup.
    let next = BackupVolume { identity_tags: vec!["holdfast.dev/run=2".into()], ..place.backup() };
    let next = backed_up(&place.run(Task::BackupVolume(next)).await.unwrap());
    assert_eq!(next.parent, Some(rows[0].id.clone()), "the readable one is its parent");
}

#[tokio::test]
async fn unlock_removes_the_locks_of_dead_jobs_and_no_other() {
    let place = Place::new();
    place.initialized().await;
    let repository = place.open().await;
    for uid in ["dead", "alive"] {
        let holder = Holder {
            hostname: format!("holdfast-{uid}"),
            username: "holdfast".into(),
            pid: 1,
            cluster: Some("prod".into()),
            job_uid: Some(uid.into()),
        };
        let wait = std::time::Duration::ZERO;
        let guard = repository.lock(LockMode::Shared, &holder, wait, &[], &Ctx::default()).await.unwrap();
        // As a runner that was killed leaves it.
        std::mem::forget(guard);
    }
    let (mut job, _) = place.job(Task::Unlock);
    job.spec.dead_jobs = vec!["dead".into()];
    assert_eq!(job.perform().await.unwrap().result, Some(TaskResult::Unlock { removed: 1 }));
    let left = repository.locks().await.unwrap();
    assert_eq!(left[0].1.hostname, "holdfast-alive");
}

#[tokio::test]
async fn unlock_removes_the_snapshots_that_are_worth_nothing_and_no_other() {
    let place = Place::new();
    place.initialized().await;
    fs::write(place.path("source").join("file"), "content").unwrap();
    let mut saved = Vec::new();
    for component in ["volume/a", "volume/b"] {
        let mut backup = place.backup();
        backup.component = component.into();
        backup.identity_tags = vec![format!("component={component}")];
        backup.tags.clone_from(&backup.identity_tags);
        let result = backed_up(&place.run(Task::BackupVolume(backup)).await.unwrap());
        saved.push(result.snapshot_id.unwrap());
    }
    let (mut job, _) = place.job(Task::Unlock);
    job.spec.discard = vec![saved[0].clone()];
    // The second time there is nothing to do, as after an operator that was killed in between.
    for _ in 0..2 {
        assert_eq!(job.perform().await.unwrap().result, Some(TaskResult::Unlock { removed: 0 }));
    }
    let left = place.open().await.snapshots().await.unwrap();
    assert_eq!(left.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>(), [saved[1].clone()]);
    job.spec.discard = vec!["latest".into()];
    assert!(job.perform().await.is_err(), "that is no id");
}

/// Repositories found and whether there are more. A directory has no rules, which is not the same as harmless ones.
#[track_caller]
fn probed(verdict: &Verdict) -> (u32, bool) {
    let Some(TaskResult::Probe { repositories, more, lifecycle, .. }) = &verdict.result else {
        panic!("{verdict:?}")
    };
    assert!(matches!(lifecycle, Some(Lifecycle::Unknown { .. })), "{lifecycle:?}");
    (*repositories, *more)
}

#[tokio::test]
async fn a_probe_describes_the_storage_once() {
    let place = Place::new();
    let verdict = place.run(Task::Probe { scan_limit: 10 }).await.unwrap();
    assert_eq!(probed(&verdict), (0, false));
    let written = fs::read_to_string(place.path("store/metadata.yaml")).unwrap();
    assert!(written.contains("createdBy: prod"), "{written}");
    place.run(Task::Probe { scan_limit: 10 }).await.unwrap();
    assert_eq!(fs::read_to_string(place.path("store/metadata.yaml")).unwrap(), written);
    let files: Vec<_> = place.content("store").into_iter().filter(|(_, content)| content.is_some()).collect();
    assert_eq!(files.len(), 1, "the probe's object stays behind: {files:?}");
}

/// A store that takes what the run's keys are not for is told, and what it took is removed. Nothing is tried with keys that
/// were not exchanged, nor where nothing may be written.
#[tokio::test]
async fn exchanged_keys_are_tried_with_what_has_to_be_refused() {
    let scope = |verdict: Verdict| match verdict.result {
        Some(TaskResult::Probe { key_scope, .. }) => key_scope,
        other => panic!("{other:?}"),
    };
    let place = Place::new();
    assert_eq!(scope(place.run(Task::Probe { scan_limit: 10 }).await.unwrap()), None);
    let before = place.content("store");
    let (mut job, _) = place.job(Task::Probe { scan_limit: 10 });
    job.spec.keys_end = Some("2126-11-28T12:00:00Z".into());
    assert_eq!(scope(job.perform().await.unwrap()), Some(KeyScope::Ignored { left: None }));
    let files = |all: Vec<(String, Option<Vec<u8>>)>| -> Vec<_> {
        all.into_iter().filter(|(_, content)| content.is_some()).collect()
    };
    assert_eq!(files(place.content("store")), files(before), "what it tried with stays behind");
    job.spec.read_only = true;
    let told = scope(job.perform().await.unwrap());
    assert!(matches!(&told, Some(KeyScope::Unknown { why }) if why.contains("restores only")), "{told:?}");
}

#[tokio::test]
async fn a_storage_that_is_not_ours_is_refused_for_the_right_reason() {
    for (text, reason) in [
        ("version: 2\ncreatedBy: later\n", "UnknownMetadata"),
        ("title: my metadata\n", "ForeignContent"),
        ("", "ForeignContent"),
        ("version: 1\nauthor: somebody\n", "ForeignContent"),
    ] {
        let place = Place::new();
        fs::write(place.path("store").join(record::METADATA), text).unwrap();
        assert_eq!(place.run(Task::Probe { scan_limit: 1 }).await.unwrap_err().reason, reason, "{text:?}");
    }
}

#[tokio::test]
async fn a_probe_finds_repositories_and_passes_over_all_else() {
    let place = Place::new();
    for directory in
        ["prod/shop/main", "prod/shop/second", "prod/blog/adopted", "photos/2026/may", "too/shallow"]
    {
        fs::create_dir_all(place.path("store").join(directory)).unwrap();
    }
    let Task::Initialize { mut record, .. } = initialize("cluster-a") else { panic!() };
    let yaml = serde_saphyr::to_string(&record).unwrap();
    fs::write(place.path("store/prod/shop/main/repository.yaml"), &yaml).unwrap();
    // Whoever can write to the bucket can write this, and all of it goes into one object's status.
    record.cluster = "x".repeat(60_000);
    let yaml = serde_saphyr::to_string(&record).unwrap();
    fs::write(place.path("store/prod/shop/second/repository.yaml"), yaml).unwrap();
    fs::write(place.path("store/prod/blog/adopted/config"), "sealed").unwrap();
    fs::write(place.path("store/photos/2026/may/a.jpg"), "x").unwrap();
    fs::write(place.path("store/too/shallow/config"), "x").unwrap();

    let (job, lines) = place.job(Task::Probe { scan_limit: 10 });
    let verdict = job.perform().await.unwrap();
    job.reporter.close();
    assert_eq!(probed(&verdict), (3, false));
    let rows: Vec<FoundRepository> = attachment::read(&lines.text(), &verdict.attachment.unwrap()).unwrap();
    let directories: Vec<_> = rows.iter().map(|r| (r.directory.as_str(), r.record.is_some())).collect();
    assert_eq!(
        directories,
        [("prod/blog/adopted", false), ("prod/shop/main", true), ("prod/shop/second", true)]
    );
    let longest = rows.iter().filter_map(|row| Some(row.record.as_ref()?.cluster.len())).max();
    assert_eq!(longest, Some(253));

    let verdict = place.run(Task::Probe { scan_limit: 2 }).await.unwrap();
    assert_eq!(probed(&verdict), (2, true));
}

#[test]
fn engine_kinds_are_the_reasons() {
    let failure = Failure::from(holdfast_engine::Error::new(ErrorKind::ClockSkew, "m"));
    assert_eq!((failure.reason, failure.retryable), ("ClockSkew", false));
    let failure = Failure::from(holdfast_engine::Error::new(ErrorKind::Unreachable, "m"));
    assert_eq!((failure.reason, failure.retryable), ("Unreachable", true));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_to_a_store_that_is_only_read() {
    let empty = Place::new();
    let probe = Task::Probe { scan_limit: 10 };
    empty.run_closed(probe.clone()).await.unwrap();
    assert_eq!(empty.run_closed(initialize("cluster-a")).await.unwrap_err().reason, "NotARepository");
    assert_eq!(empty.content("store"), [], "no probe object, no description, no repository");
    fs::write(empty.path("store/metadata.yaml"), "photos: 12\n").unwrap();
    assert_eq!(empty.run_closed(probe.clone()).await.unwrap_err().reason, "ForeignContent");

    let place = Place::new();
    place.initialized().await;
    fs::write(place.path("source/file"), "precious").unwrap();
    let saved = backed_up(&place.run(Task::BackupVolume(place.backup())).await.unwrap());
    let before = place.content("store");
    place.run_closed(probe).await.unwrap();
    let opened = initialized(place.run_closed(initialize("cluster-a")).await.unwrap());
    assert_eq!((opened.0, opened.1), (false, true));
    place.run_closed(Task::Sync).await.unwrap();
    let verdict = place.run_closed(Task::RestoreVolume(place.restore(&saved))).await.unwrap();
    assert_eq!((verdict.outcome, verdict.lock_released), (Outcome::Succeeded, true));
    assert_eq!(fs::read(place.path("target/file")).unwrap(), b"precious");
    let nothing = place.run_closed(Task::Unlock).await.unwrap();
    assert_eq!(nothing.result, Some(TaskResult::Unlock { removed: 0 }));
    let refused = place.run_closed(Task::BackupVolume(place.backup())).await.unwrap_err();
    assert_eq!((refused.reason, refused.retryable), ("ReadOnly", false));
    assert_eq!(place.content("store"), before);
}
