//! Checkpoints: what a killed backup had finished is not read again, and nothing is believed because of one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what went wrong by failing"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use holdfast_engine::backup::{BackupReport, BackupSpec, Checkpoints, backup};
use holdfast_engine::check::{CheckSpec, ReadData, check};
use holdfast_engine::error::Result;
use holdfast_engine::event::{Checkpoint, EventSink};
use holdfast_engine::lock::{Holder, LockMode};
use holdfast_engine::repository::InitOptions;
use holdfast_engine::store::{self, Location, StoreOptions};
use holdfast_engine::{Ctx, ErrorKind, Event, Id, Repository};
use tokio_util::sync::CancellationToken;

const FILES: u64 = 24;
/// Opens, and fails when it is read: what a reader reports, and is held up at.
const UNREADABLE: &str = "/proc/self/mem";

/// Holds a reader up at the unreadable file until the first checkpoint is there, and then ends the run.
struct KillAtCheckpoint {
    cancel: CancellationToken,
    found: Mutex<Option<Checkpoint>>,
    there: Condvar,
}

impl EventSink for KillAtCheckpoint {
    fn event(&self, event: Event) {
        match event {
            Event::Fault(_) => {
                let found = self.found.lock().unwrap();
                let limit = Duration::from_mins(2);
                let (found, _) =
                    self.there.wait_timeout_while(found, limit, |found| found.is_none()).unwrap();
                assert!(found.is_some(), "no checkpoint came");
            }
            Event::Checkpoint(checkpoint) => {
                self.found.lock().unwrap().get_or_insert(checkpoint);
                self.cancel.cancel();
                self.there.notify_all();
            }
            _ => {}
        }
    }
}

async fn repository(dir: &Path) -> Repository {
    let ctx = Ctx::default();
    let store = store::open(&Location::Local(dir.to_owned()), &StoreOptions::default(), &ctx).unwrap();
    let options = InitOptions {
        password: "password".to_owned().into(),
        recovery_password: None,
        version: 2,
        hostname: "test".to_owned(),
        username: "test".to_owned(),
    };
    Repository::init(store, &options, &ctx).await.unwrap()
}

async fn back_up(repo: &Repository, spec: &BackupSpec, ctx: &Ctx) -> Result<BackupReport> {
    let holder = Holder::this_process("test", "test");
    let lock = repo.lock(LockMode::Shared, &holder, Duration::ZERO, &[], ctx).await?;
    let report = backup(repo, &lock, spec, ctx).await;
    let _ = lock.release().await;
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_takes_over_does_not_read_what_was_finished() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let source = dir.path().join("source");
    for i in 0..FILES {
        // In directories that are closed by then and in one that is not; each file large enough to go on its own.
        let below = source.join(["", "a", "a/b"][usize::try_from(i % 3).unwrap()]);
        fs::create_dir_all(&below).unwrap();
        let mut content = vec![u8::try_from(i).unwrap(); 600_000];
        content.extend_from_slice(&i.to_le_bytes());
        fs::write(below.join(format!("f{i}")), content).unwrap();
    }
    // Older than the tick in which a change may hide.
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let repo = repository(&dir.path().join("repo")).await;
    let spec = BackupSpec {
        roots: vec![source.clone(), PathBuf::from(UNREADABLE)],
        host: "h".to_owned(),
        checkpoints: Checkpoints { files: Some(FILES), ..Checkpoints::NEVER },
        ..BackupSpec::default()
    };
    let mut ctx = Ctx::default();
    let kill = Arc::new(KillAtCheckpoint {
        cancel: ctx.cancel.clone(),
        found: Mutex::default(),
        there: Condvar::new(),
    });
    ctx.events = Arc::clone(&kill) as Arc<dyn EventSink>;
    let error = back_up(&repo, &spec, &ctx).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{}", error.chain());
    let checkpoint = kill.found.lock().unwrap().expect("the run was ended by its checkpoint");
    assert!(repo.snapshots().await.unwrap().is_empty(), "a checkpoint is no snapshot");

    // One changes between the two runs, and one goes away.
    let (changed, gone) = (source.join("f0"), source.join("a/f1"));
    fs::write(&changed, vec![99; 600_008]).unwrap();
    fs::remove_file(&gone).unwrap();
    let never = Checkpoints::NEVER;
    let again = BackupSpec { resume: Some(checkpoint), checkpoints: never, ..spec.clone() };
    let report = back_up(&repo, &again, &Ctx::default()).await.unwrap();
    assert_eq!((report.files_resumed, report.total_files), (FILES - 2, FILES - 1));
    assert_eq!(
        (report.files_new, report.files_unmodified),
        (FILES - 1, 0),
        "there is no snapshot to be equal to"
    );
    assert_eq!((report.data_blobs, report.faults.total), (1, 1), "{report:?}");

    // A snapshot comes first, and a checkpoint that is not there costs nothing but work.
    let lost = Checkpoint { tree: Id::hash(b"no such tree"), started: checkpoint.started };
    for resume in [Some(checkpoint), Some(lost), None] {
        let report = back_up(&repo, &BackupSpec { resume, ..again.clone() }, &Ctx::default()).await.unwrap();
        assert_eq!((report.files_resumed, report.total_files), (0, FILES - 1), "{resume:?}");
    }
    let fresh = BackupSpec { resume: Some(lost), host: "other".to_owned(), ..again };
    let report = back_up(&repo, &fresh, &Ctx::default()).await.unwrap();
    assert_eq!((report.files_resumed, report.total_files, report.data_blobs), (0, FILES - 1, 0));
    let report = check(&repo, None, &CheckSpec { read_data: ReadData::All }, &Ctx::default()).await.unwrap();
    assert_eq!(report.errors, 0, "{report:?}");
}
