//! Backing up streams: equal to restic's, and never a snapshot of a dump that broke off.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what went wrong by failing"
)]

mod stock;

use std::future::{pending, ready};
use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};
use std::time::Duration;

use holdfast_engine::backup::{BackupReport, BackupSpec, backup_stream};
use holdfast_engine::error::{ErrorKind, Result};
use holdfast_engine::event::{Event, EventSink};
use holdfast_engine::lock::{Holder, LockMode};
use holdfast_engine::repository::InitOptions;
use holdfast_engine::store::{self, Location, StoreOptions};
use holdfast_engine::stream::{ProducerOutcome, StreamChecks, StreamSource};
use holdfast_engine::{Ctx, Repository};
use stock::{PASSWORD, Restic};
use tempfile::TempDir;
use tokio::io::{AsyncRead, ReadBuf};

/// What a scripted producer does next.
#[derive(Clone)]
enum Step {
    Bytes(Vec<u8>),
    Fails,
    Hangs,
    /// Bytes without end.
    Floods,
}

/// Plays steps, then ends. Gives at most a pipe's worth at a time.
struct Script {
    steps: Vec<Step>,
    done: usize,
}

fn script(steps: impl Into<Vec<Step>>) -> Script {
    let mut steps = steps.into();
    steps.reverse();
    Script { steps, done: 0 }
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let done = self.done;
            match self.steps.last() {
                None => return Poll::Ready(Ok(())),
                Some(Step::Fails) => return Poll::Ready(Err(io::Error::other("the pipe is gone"))),
                Some(Step::Hangs) => return Poll::Pending,
                Some(Step::Floods) => {
                    buf.put_slice(&vec![7; buf.remaining().min(4096)]);
                    return Poll::Ready(Ok(()));
                }
                Some(Step::Bytes(bytes)) if done < bytes.len() => {
                    let count = buf.remaining().min(65_536).min(bytes.len() - done);
                    buf.put_slice(&bytes[done..done + count]);
                    self.done += count;
                    return Poll::Ready(Ok(()));
                }
                Some(Step::Bytes(_)) => {
                    self.steps.pop();
                    self.done = 0;
                }
            }
        }
    }
}

struct Scene {
    dir: TempDir,
    repo: Repository,
}

fn done() -> ProducerOutcome {
    ProducerOutcome::Done { bytes: None, sha256: None }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

impl Scene {
    async fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let ctx = Ctx::default();
        let local = Location::Local(dir.path().join("repo"));
        let store = store::open(&local, &StoreOptions::default(), &ctx).unwrap();
        let options = InitOptions {
            password: PASSWORD.to_owned().into(),
            recovery_password: None,
            version: 2,
            hostname: "test".to_owned(),
            username: "test".to_owned(),
        };
        let repo = Repository::init(store, &options, &ctx).await.unwrap();
        Self { dir, repo }
    }

    fn restic(&self) -> Restic {
        Restic::newest(self.dir.path().join("repo"))
    }

    async fn back_up(&self, source: StreamSource, ctx: &Ctx) -> Result<BackupReport> {
        let holder = Holder::this_process("test", "test");
        let spec = BackupSpec {
            host: "h".to_owned(),
            time: "2026-01-02T03:04:05Z".parse().unwrap(),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            ..BackupSpec::default()
        };
        let lock = self.repo.lock(LockMode::Shared, &holder, Duration::ZERO, &[], ctx).await?;
        let report = backup_stream(&self.repo, &lock, &spec, source, ctx).await;
        let _ = lock.release().await;
        report
    }

    async fn try_it(
        &self,
        steps: &[Step],
        outcome: ProducerOutcome,
        checks: StreamChecks,
    ) -> Result<BackupReport> {
        let source = StreamSource {
            path: "/dumps/db.sql".to_owned(),
            reader: Box::new(script(steps)),
            outcome: Box::pin(ready(outcome)),
            checks,
        };
        self.back_up(source, &Ctx::default()).await
    }

    fn snapshots(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("repo/snapshots")).unwrap().count()
    }
}

/// Sizes around every border of the chunker, and one of several chunks.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_stored_as_restic_stores_it() {
    let scene = Scene::new().await;
    for (seed, size) in [(1, 1), (2, 512 * 1024), (3, 512 * 1024 + 1), (4, 20 << 20)] {
        let content = noise(seed, size);
        let report =
            scene.try_it(&[Step::Bytes(content.clone())], done(), StreamChecks::default()).await.unwrap();
        assert_eq!((report.total_files, report.total_bytes), (1, size as u64));
        let file = scene.dir.path().join("content");
        std::fs::write(&file, &content).unwrap();
        let mut theirs = scene.restic().command([
            "backup",
            "--stdin",
            "--stdin-filename",
            "dumps/db.sql",
            "--time",
            "2026-01-02 03:04:05",
            "--host",
            "theirs",
        ]);
        let output = theirs.stdin(Stdio::from(std::fs::File::open(&file).unwrap())).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (id, _) =
            scene.repo.snapshots().await.unwrap().into_iter().rfind(|(_, s)| s.hostname == "theirs").unwrap();
        let theirs = scene.repo.load_snapshot(&id).await.unwrap();
        let ours = scene.repo.load_snapshot(&report.snapshot).await.unwrap();
        assert_eq!((ours.tree, &ours.paths), (theirs.tree, &theirs.paths), "{size} bytes");
        let name = report.snapshot.to_hex();
        for restic in Restic::all(scene.dir.path().join("repo")) {
            let dumped = restic.output(["dump", &name, "/dumps/db.sql"]);
            assert!(
                dumped.stdout == content,
                "restic {} dumps another content of {size} bytes",
                restic.version
            );
        }
        scene.restic().run(["forget", &id.to_hex()]);
    }
    scene.restic().check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_did_not_end_well_leaves_no_snapshot() {
    let scene = Scene::new().await;
    let content = Step::Bytes(noise(9, 3 << 20));
    let short = Some(Duration::from_millis(50));
    let plain = StreamChecks::default();
    let idle = StreamChecks { idle_timeout: short, ..plain.clone() };
    let total = StreamChecks { total_timeout: short, ..plain.clone() };
    let failed = ProducerOutcome::Failed("exit status 3".to_owned());
    let head = StreamChecks { head: vec![b"PGDMP".to_vec()], ..plain.clone() };
    for (steps, outcome, checks, kind, said) in [
        (vec![content.clone()], failed.clone(), &plain, ErrorKind::Source, "exit status 3"),
        (vec![], done(), &plain, ErrorKind::Source, "0 bytes"),
        (vec![], failed, &plain, ErrorKind::Source, "exit status 3"),
        (vec![content.clone(), Step::Fails], done(), &plain, ErrorKind::Source, "pipe is gone"),
        (vec![content.clone(), Step::Hangs], done(), &idle, ErrorKind::Timeout, "nothing came"),
        (vec![Step::Floods], done(), &total, ErrorKind::Timeout, "longer than allowed"),
        (vec![Step::Floods], done(), &head, ErrorKind::Source, "PGDMP"),
    ] {
        let error = scene.try_it(&steps, outcome, checks.clone()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{}", error.chain());
        assert!(error.chain().contains(said), "{}", error.chain());
        assert_eq!(scene.snapshots(), 0, "{}", error.chain());
    }
    // The producer closes its output and then hangs.
    let source = StreamSource {
        path: "/d".to_owned(),
        reader: Box::new(script([content.clone()])),
        outcome: Box::pin(pending()),
        checks: idle,
    };
    let error = scene.back_up(source, &Ctx::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{}", error.chain());
    assert_eq!(scene.snapshots(), 0);
    // What was read is there for the retry, and the repository is whole.
    let report = scene.try_it(&[content], done(), plain).await.unwrap();
    assert_eq!(report.data_blobs, 0, "stored by the failed tries");
    scene.restic().check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_shrank_is_held_for_approval() {
    let scene = Scene::new().await;
    let guarded = StreamChecks { min_share: Some(50), ..StreamChecks::default() };
    let of = |size| [Step::Bytes(noise(5, size))];
    scene.try_it(&of(100_000), done(), guarded.clone()).await.expect("there is nothing to compare with");
    let error = scene.try_it(&of(49_999), done(), guarded.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Guard, "{}", error.chain());
    assert_eq!(scene.snapshots(), 1);
    scene.try_it(&of(50_000), done(), guarded).await.unwrap();
    scene.try_it(&of(1), done(), StreamChecks::default()).await.expect("without the limit all is as told");
}

/// Cancels once something has been read.
struct CancelOnProgress(tokio_util::sync::CancellationToken);

impl EventSink for CancelOnProgress {
    fn event(&self, event: Event) {
        if matches!(event, Event::Progress(progress) if progress.bytes_done > 0) {
            self.0.cancel();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_hangs_can_be_cancelled() {
    let scene = Scene::new().await;
    let mut ctx = Ctx::default();
    ctx.events = std::sync::Arc::new(CancelOnProgress(ctx.cancel.clone()));
    let source = StreamSource {
        path: "/d".to_owned(),
        reader: Box::new(script([Step::Bytes(noise(6, 9 << 20)), Step::Hangs])),
        outcome: Box::pin(pending()),
        checks: StreamChecks::default(),
    };
    let error = scene.back_up(source, &ctx).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{}", error.chain());
    assert_eq!(scene.snapshots(), 0);
}
