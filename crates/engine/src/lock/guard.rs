//! A held lock: refreshed in the background, removed on every way out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Lock, LockTimes};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Ctx;
use crate::format::time::OffsetTime;
use crate::id::Id;
use crate::repository::Repository;
use crate::store::{FileKind, FileName};

/// How long a release waits for a refresh that is under way.
const LAST_REFRESH: Duration = Duration::from_secs(30);

/// A lock that is held. Call [`LockGuard::release`] at the end; dropping it removes the lock too, but nobody
/// hears whether that worked.
#[derive(Debug)]
pub struct LockGuard {
    shared: Arc<Shared>,
    keeper: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    repo: Repository,
    lock: Lock,
    cancel: CancellationToken,
    times: LockTimes,
    /// Ends the refreshing.
    stop: CancellationToken,
    lost: AtomicBool,
    /// Every lock file of ours that may exist, the valid one last. Names go in before the file is written.
    files: Mutex<Vec<Id>>,
}

impl Shared {
    fn files(&self) -> std::sync::MutexGuard<'_, Vec<Id>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Id {
        self.files().last().copied().unwrap_or_default()
    }

    /// Writes a lock file with the present time.
    async fn write(&self) -> Result<Id> {
        let lock = Lock { time: OffsetTime::utc(Timestamp::now()), ..self.lock.clone() };
        let json = serde_json::to_vec(&lock)
            .map_err(|e| Error::with_source(ErrorKind::Internal, "a lock could not be written as JSON", e))?;
        let (id, sealed) = self.repo.seal_unpacked(&json)?;
        self.files().push(id);
        let name = FileName { kind: FileKind::Lock, id };
        self.repo.store().put(name, sealed.into(), crate::store::PutMode::ContentAddressed).await?;
        Ok(id)
    }

    async fn delete(&self, id: Id) -> Result<()> {
        match self.repo.store().delete(FileName { kind: FileKind::Lock, id }).await {
            // A bucket that protects everything protects locks too: what was done stays done.
            Err(e) if e.kind() == ErrorKind::Retained => {
                tracing::warn!(lock = %id, error = %e.chain(), "a lock stays until its protection ends");
            }
            other => other?,
        }
        self.files().retain(|f| *f != id);
        Ok(())
    }

    /// Removes every file of ours.
    async fn remove(&self) -> Result<()> {
        let files = self.files().clone();
        let mut result = Ok(());
        for id in files {
            if let Err(e) = self.delete(id).await {
                result = Err(Error::with_source(
                    e.kind(),
                    format!(
                        "our lock {id} on {} could not be removed; remove it with unlock",
                        self.repo.store().describe()
                    ),
                    e,
                ));
            }
        }
        result
    }

    async fn listed(&self, id: Id) -> Result<bool> {
        Ok(self.repo.store().list(FileKind::Lock).await?.iter().any(|e| e.id == id))
    }

    /// Puts a fresh file in place of the old one; `LockLost` when somebody removed the old one.
    async fn refresh(&self) -> Result<()> {
        let old = self.current();
        let gone = || {
            Error::new(
                ErrorKind::LockLost,
                format!("our lock {old} on {} was removed by somebody else", self.repo.store().describe()),
            )
        };
        if !self.listed(old).await? {
            return Err(gone());
        }
        let new = match self.write().await {
            Ok(new) => new,
            Err(e) => {
                // The old file is the valid one still; what may have been written goes at the end.
                let mut files = self.files();
                files.retain(|f| *f != old);
                files.push(old);
                return Err(e);
            }
        };
        // Removed between the two looks: whoever did it may have a lock of its own by now.
        if !self.listed(old).await? {
            self.delete(new).await?;
            return Err(gone());
        }
        self.delete(old).await
    }

    fn lose(&self, error: &Error) {
        tracing::error!(error = %error.chain(), "the repository's lock is lost; stopping");
        self.lost.store(true, Ordering::SeqCst);
        self.cancel.cancel();
    }

    async fn keep(self: Arc<Self>) {
        let mut refreshed = Instant::now();
        let mut pause = self.times.refresh;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let left = self.times.lost_after.saturating_sub(refreshed.elapsed());
            // A sleep of the whole machine can make this late; then the refresh itself finds out whether
            // the lock survived.
            let result = match tokio::time::timeout(left.max(self.times.refresh_again), self.refresh()).await
            {
                Ok(result) => result,
                Err(_) => Err(Error::new(ErrorKind::Timeout, "refreshing the lock took too long")),
            };
            match result {
                Ok(()) => {
                    refreshed = Instant::now();
                    pause = self.times.refresh;
                }
                Err(e) if e.kind() == ErrorKind::LockLost => return self.lose(&e),
                Err(e) if refreshed.elapsed() >= self.times.lost_after => return self.lose(&e),
                Err(e) => {
                    tracing::warn!(error = %e.chain(), "the repository's lock could not be refreshed");
                    pause = self.times.refresh_again;
                }
            }
        }
    }
}

impl LockGuard {
    /// Writes a first lock file; nothing keeps it fresh yet.
    pub(super) async fn write(repo: Repository, lock: Lock, ctx: Ctx, times: LockTimes) -> Result<Self> {
        let shared = Shared {
            repo,
            lock,
            cancel: ctx.cancel,
            times,
            stop: CancellationToken::new(),
            lost: AtomicBool::new(false),
            files: Mutex::default(),
        };
        let guard = Self { shared: Arc::new(shared), keeper: None };
        guard.shared.write().await?;
        Ok(guard)
    }

    /// Starts the refreshing.
    pub(super) fn keep(&mut self) {
        self.keeper = Some(tokio::spawn(Arc::clone(&self.shared).keep()));
    }

    /// Removes a lock that was not obtained; a failure is left to `unlock`.
    pub(super) async fn abandon(&mut self) {
        if let Err(e) = self.shared.remove().await {
            tracing::warn!(error = %e.chain(), "a lock that was not obtained stays behind");
        }
    }

    /// The id of the lock file that is valid now.
    pub fn id(&self) -> Id {
        self.shared.current()
    }

    /// Whether the lock was lost: removed by somebody, or not refreshed for too long. The operation's context is
    /// cancelled then.
    pub fn lost(&self) -> bool {
        self.shared.lost.load(Ordering::SeqCst)
    }

    /// `LockLost` when [`LockGuard::lost`]; the error to report instead of the cancellation it caused.
    pub fn check(&self) -> Result<()> {
        if self.lost() {
            return Err(Error::new(
                ErrorKind::LockLost,
                format!(
                    "our lock on {} was lost; nothing was committed, run it again",
                    self.shared.repo.store().describe()
                ),
            ));
        }
        Ok(())
    }

    /// What to tell of work that ended with `why`: that the lock was lost, when it was. The loss cancels the work; and what was
    /// written before it was noticed may be gone by then, as if the store had lost it.
    pub(crate) async fn blame(&self, why: Error) -> Error {
        if let Err(lost) = self.check() {
            return lost;
        }
        if why.kind() == ErrorKind::Corrupt
            && let Err(lost) = self.confirm().await
            && lost.kind() == ErrorKind::LockLost
        {
            return lost;
        }
        why
    }

    /// Looks into the store whether the lock is still there. Called right before and after a commit.
    pub async fn confirm(&self) -> Result<()> {
        self.check()?;
        // A refresh writes a new file before it removes the old one: at each moment one of those that we know of is
        // there, and which one may change while we look.
        for _ in 0..3 {
            let before = self.shared.files().clone();
            let listed = self.shared.repo.store().list(FileKind::Lock).await?;
            let after = self.shared.files().clone();
            if listed.iter().any(|e| before.contains(&e.id) || after.contains(&e.id)) {
                return self.check();
            }
            if before == after {
                break;
            }
        }
        let error = Error::new(ErrorKind::LockLost, "our lock is not in the store any more");
        self.shared.lose(&error);
        self.check()
    }

    /// Removes the lock.
    pub async fn release(mut self) -> Result<()> {
        self.shared.stop.cancel();
        if let Some(mut keeper) = self.keeper.take()
            && tokio::time::timeout(LAST_REFRESH, &mut keeper).await.is_err()
        {
            keeper.abort();
        }
        self.shared.remove().await
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        if self.shared.files().is_empty() {
            return;
        }
        // A guard dropped on an error's way out: remove the lock from the background, if a runtime is left.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (shared, keeper) = (Arc::clone(&self.shared), self.keeper.take());
            runtime.spawn(async move {
                if let Some(keeper) = keeper {
                    let _ = tokio::time::timeout(LAST_REFRESH, keeper).await;
                }
                if let Err(e) = shared.remove().await {
                    tracing::warn!(error = %e.chain(), "a lock stays behind");
                }
            });
        }
    }
}
