//! What every command needs: the opened store, the opened repository, and work under its lock.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_engine::backup::Compression;
use holdfast_engine::error::ErrorKind;
use holdfast_engine::event::Ctx;
use holdfast_engine::format::snapshot::Snapshot;
use holdfast_engine::id::Id;
use holdfast_engine::lock::{Holder, LockGuard, LockMode, Locking};
use holdfast_engine::repository::Repository;
use holdfast_engine::store::{self, Location, Store};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::access::{self, Access, Resolved, process_environment};
use super::interrupt::{Interrupt, interrupted};
use super::nearby;
use super::select::Filter;
use crate::exit;
use crate::failure::{Failure, Result};
use crate::ui::Ui;

/// How long the release of a lock may take.
const RELEASE: Duration = Duration::from_secs(30);

/// One command's repository, voice and interruption.
pub(super) struct Session<'a> {
    /// Where the repository lies.
    pub(super) location: Location,
    /// How the command talks.
    pub(super) ui: &'a Ui,
    /// For operations of the engine.
    pub(super) ctx: Ctx,
    interrupt: &'a Interrupt,
    resolved: Resolved,
    retry_lock: Duration,
    /// How much a person wants to hear.
    pub(super) verbosity: u8,
    no_lock: bool,
    /// A snapshot that cannot be read was left out of what the command looked at.
    left_out: Arc<AtomicBool>,
}

impl<'a> Session<'a> {
    /// Resolves what was asked for; opens nothing yet.
    pub(super) fn new(access: &Access, ui: &'a Ui, interrupt: &'a Interrupt) -> Result<Self> {
        let resolved = access.resolve(&process_environment)?;
        Ok(Self {
            location: resolved.location.clone(),
            ui,
            ctx: Ctx { cancel: interrupt.token().child_token(), events: ui.sink() },
            interrupt,
            resolved,
            retry_lock: access.retry_lock,
            verbosity: access.verbose.iter().copied().fold(0, u8::saturating_add),
            no_lock: access.no_lock,
            left_out: Arc::default(),
        })
    }

    /// The session of another repository that the same command works on.
    pub(super) fn beside(&self, resolved: Resolved) -> Self {
        Self {
            location: resolved.location.clone(),
            ui: self.ui,
            ctx: self.ctx.clone(),
            interrupt: self.interrupt,
            resolved,
            retry_lock: self.retry_lock,
            verbosity: self.verbosity,
            no_lock: self.no_lock,
            left_out: Arc::clone(&self.left_out),
        }
    }

    /// The exit code of a command that ended with `code`.
    pub(super) fn exit_code(&self, code: u8) -> u8 {
        if code == exit::OK && self.left_out.load(Ordering::Relaxed) { exit::PARTIAL } else { code }
    }

    /// The store, without looking at what is in it.
    pub(super) fn store(&self) -> Result<Arc<dyn Store>> {
        // Not stopped by the first Ctrl-C: the lock has to be released through it.
        let ctx = Ctx { cancel: CancellationToken::new(), events: self.ui.sink() };
        Ok(store::open(&self.location, &self.resolved.options, &ctx)?)
    }

    /// The password for a new repository.
    pub(super) fn new_password(&self) -> Result<SecretString> {
        self.spare_terminal();
        self.resolved.password.read(true)
    }

    /// A signal must not end the process while a terminal hides what is typed.
    fn spare_terminal(&self) {
        if self.resolved.password.is_asked() {
            self.interrupt.listen();
        }
    }

    /// How hard to compress.
    pub(super) fn compression(&self) -> Compression {
        self.resolved.compression
    }

    /// Opens the repository.
    pub(super) async fn open(&self) -> Result<Repository> {
        let store = self.store()?;
        let hint = self.resolved.key_hint.as_deref();
        let mut opened = None;
        self.spare_terminal();
        for password in self.resolved.password.read_all(false)? {
            let result =
                self.bound(Repository::open_hinted(Arc::clone(&store), &password, hint, &self.ctx)).await;
            let is_wrong = result.as_ref().is_err_and(|e| e.kind == ErrorKind::WrongPassword.as_str());
            // What is said is of the first: the others are guesses.
            if !is_wrong || opened.is_none() {
                opened = Some(result);
            }
            if !is_wrong {
                break;
            }
        }
        match opened.ok_or_else(access::empty)? {
            Err(failure) if nearby::applies(&failure) => Err(self.look_around(failure).await),
            other => other,
        }
    }

    /// Says where there are repositories instead, as far as that is seen soon enough.
    async fn look_around(&self, failure: Failure) -> Failure {
        let open = |place: &Location| store::open(place, &self.resolved.options, &self.ctx);
        let look = nearby::named(failure.clone(), &self.location, open);
        let bound = tokio::time::timeout(nearby::PATIENCE, look);
        self.ctx.cancel.run_until_cancelled(bound).await.and_then(std::result::Result::ok).unwrap_or(failure)
    }

    /// The snapshots that a person named, or all that the filter lets through; oldest first, each once. Of all, those that
    /// cannot be read are told and left out, and the command ends with [`exit::PARTIAL`].
    pub(super) async fn select(
        &self,
        repository: &Repository,
        names: &[String],
        filter: &Filter,
    ) -> Result<Vec<(Id, Snapshot)>> {
        let filter = filter.to_engine();
        let mut found = Vec::new();
        if names.is_empty() {
            let list = self.bound(repository.list_snapshots()).await?;
            if list.has_unread() {
                self.left_out.store(true, Ordering::Relaxed);
            }
            found = list.readable_only(&self.ctx);
            found.retain(|(_, snapshot)| filter.matches(snapshot));
        }
        for name in names {
            found.push(self.bound(repository.find_snapshot(name, &filter)).await?);
        }
        found.sort_by_key(|(id, snapshot)| (snapshot.time.timestamp, *id));
        found.dedup_by_key(|(id, _)| *id);
        Ok(found)
    }

    /// Waits for work of the engine, and not much longer once the command is interrupted.
    pub(super) async fn bound<T>(&self, work: impl Future<Output = holdfast_engine::Result<T>>) -> Result<T> {
        self.interrupt.listen();
        let result = Interrupt::bound(&self.ctx.cancel, work).await;
        if result.is_err() && self.interrupt.token().is_cancelled() {
            return Err(interrupted());
        }
        Ok(result?)
    }

    /// For operations that take their locks themselves.
    pub(super) fn locking(&self) -> Locking {
        Locking { holder: holder(), wait: self.retry_lock, dead_holders: Vec::new() }
    }

    /// Whether a dry run takes no lock. With no dry run, as restic has it, that cannot be asked for.
    pub(super) fn no_lock(&self, dry_run: bool) -> Result<bool> {
        if self.no_lock && !dry_run {
            return Err(Failure::usage(
                "--no-lock was given for a command that deletes",
                "leave it out, or add --dry-run",
            ));
        }
        Ok(self.no_lock)
    }

    /// Does `work`, which only reads, under a shared lock, so that no prune moves or removes what it is about to read; under
    /// none with --no-lock.
    pub(super) async fn reading<T>(
        &self,
        repository: &Repository,
        work: impl AsyncFnOnce(Option<&LockGuard>) -> Result<T>,
    ) -> Result<T> {
        if self.no_lock {
            return Box::pin(work(None)).await;
        }
        let guard = self.take(repository, LockMode::Shared).await.map_err(could_do_without)?;
        let work = async |guard: &LockGuard| {
            let result = Box::pin(work(Some(guard))).await;
            // A lost lock cancels the work, so it is the reason to tell.
            if result.is_err() && !self.interrupt.token().is_cancelled() {
                guard.check()?;
            }
            result
        };
        self.hold(guard, work).await
    }

    /// Does `work` under a shared lock, which is released on every path.
    pub(super) async fn locked<T>(
        &self,
        repository: &Repository,
        work: impl AsyncFnOnce(&LockGuard) -> Result<T>,
    ) -> Result<T> {
        self.locked_as(repository, LockMode::Shared, work).await
    }

    /// Does `work` under a lock of this kind, which is released on every path.
    pub(super) async fn locked_as<T>(
        &self,
        repository: &Repository,
        mode: LockMode,
        work: impl AsyncFnOnce(&LockGuard) -> Result<T>,
    ) -> Result<T> {
        let guard = self.take(repository, mode).await?;
        self.hold(guard, work).await
    }

    /// Does `work` under the lock that `taking` gives, with what comes with it.
    pub(super) async fn locked_by<T, W>(
        &self,
        taking: impl Future<Output = holdfast_engine::Result<(LockGuard, W)>>,
        work: impl AsyncFnOnce(&LockGuard, W) -> Result<T>,
    ) -> Result<T> {
        let (guard, with) = self.bound(taking).await?;
        self.hold(guard, async |guard: &LockGuard| work(guard, with).await).await
    }

    async fn take(&self, repository: &Repository, mode: LockMode) -> Result<LockGuard> {
        let holder = holder();
        self.bound(repository.lock(mode, &holder, self.retry_lock, &[], &self.ctx)).await
    }

    async fn hold<T>(&self, guard: LockGuard, work: impl AsyncFnOnce(&LockGuard) -> Result<T>) -> Result<T> {
        let result = work(&guard).await;
        if self.interrupt.token().is_cancelled() {
            self.ui.say("interrupted: releasing the lock (Ctrl-C again to leave at once)");
        }
        let released = match tokio::time::timeout(RELEASE, guard.release()).await {
            Ok(Ok(())) => None,
            Ok(Err(e)) => Some(e.chain()),
            Err(_) => Some("the store does not answer".to_owned()),
        };
        if let Some(why) = released {
            self.ui
                .say(format!("the lock could not be removed: {why}; `holdfast repo unlock` does it later"));
        }
        result
    }
}

/// A failure to take a lock that a reader can do without.
fn could_do_without(failure: Failure) -> Failure {
    let refused = [ErrorKind::AccessDenied, ErrorKind::Retained, ErrorKind::Full].map(ErrorKind::as_str);
    if !refused.contains(&failure.kind) {
        return failure;
    }
    let advice = "the store takes no lock; if it may only be read, or is full, read without one: --no-lock";
    Failure { advice: Some(advice.to_owned()), ..failure }
}

/// This process, as its locks name it.
fn holder() -> Holder {
    Holder::this_process(hostname(), username())
}

/// This machine's name, as snapshots and locks carry it.
pub(super) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The user's name, or number where nobody says the name: in a container or a timer's job `USER` may be absent.
pub(super) fn username() -> String {
    let uid = rustix::process::geteuid().as_raw();
    ["USER", "LOGNAME"]
        .into_iter()
        .find_map(process_environment)
        .or_else(|| name_of(uid, &std::fs::read_to_string("/etc/passwd").ok()?))
        .unwrap_or_else(|| uid.to_string())
}

/// The name that a user has in this text (passwd(5)).
fn name_of(uid: u32, passwd: &str) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(uid) && !name.is_empty()).then(|| name.to_owned())
    })
}

/// Failure of an argument that names no snapshot path.
pub(super) fn relative(path: &str) -> Failure {
    Failure::usage(
        format!("{path:?} is no path within a snapshot"),
        "paths within a snapshot begin with /, as `holdfast repo ls SNAPSHOT` shows them",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_named_as_the_system_names_it() {
        let passwd = "# comment\nroot:x:0:0:root:/root:/bin/sh\nbroken\nann:x:1000:1000::/home/ann:\n";
        assert_eq!(name_of(0, passwd).as_deref(), Some("root"));
        assert_eq!(name_of(1000, passwd).as_deref(), Some("ann"));
        assert_eq!(name_of(7, passwd), None);
    }
}
