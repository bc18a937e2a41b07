//! Trying again: the one layer that does, for all stores.
//!
//! It also keeps what no adapter alone can promise: that every attempt ends, that a read brings exactly the bytes asked
//! for and a listing each file once, and that refused credentials are looked up once more.
//!
//! Not here: telling which failures are worth it (`ErrorKind::class`), and damaged content (`repository`).

use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::answer::transfer;
use super::{Entry, FileKind, FileName, ObjectLock, PutMode, PutPayload, Retention, Store};
use crate::error::{Class, Error, ErrorKind, Result};
use crate::event::{Ctx, Event};

/// How long and how often to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// After this time since an operation began no new attempt is made.
    pub deadline: Duration,
    /// Upper bound of the first pause; doubled each time.
    pub first: Duration,
    /// Upper bound of every pause.
    pub max: Duration,
    /// The longest that a call may bring nothing, plus what its bytes take on a slow line. Longer than an adapter needs
    /// to notice a dead connection by itself.
    pub attempt: Duration,
    /// So long in all a store may be failing while one job uses it; then the job ends, to be started again later,
    /// instead of going from one outage to the next.
    pub budget: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            deadline: Duration::from_mins(15),
            first: Duration::from_millis(500),
            max: Duration::from_secs(30),
            attempt: Duration::from_mins(2),
            budget: Duration::from_hours(2),
        }
    }
}

/// After the caller cancelled, removals (our lock) may still take this long.
const LAST_WORDS: Duration = Duration::from_secs(20);

/// Repeats operations of another store that failed for a passing reason.
pub struct RetryStore {
    inner: Arc<dyn Store>,
    policy: RetryPolicy,
    ctx: Ctx,
    outages: Mutex<Outages>,
}

/// For how long operations have been failing; those that fail side by side count once.
#[derive(Debug, Default)]
struct Outages {
    failing: usize,
    since: Option<Instant>,
    before: Duration,
}

impl Outages {
    fn total(&self) -> Duration {
        self.before.saturating_add(self.since.map_or(Duration::ZERO, |since| since.elapsed()))
    }
}

/// One operation that is failing at the moment.
struct Failing<'a>(&'a Mutex<Outages>);

impl<'a> Failing<'a> {
    fn new(outages: &'a Mutex<Outages>) -> Self {
        let mut all = outages.lock().unwrap_or_else(PoisonError::into_inner);
        if all.failing == 0 {
            all.since = Some(Instant::now());
        }
        all.failing = all.failing.saturating_add(1);
        Self(outages)
    }

    fn total(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).total()
    }
}

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.failing = all.failing.saturating_sub(1);
        if all.failing == 0 {
            all.before = all.total();
            all.since = None;
        }
    }
}

impl RetryStore {
    /// Wraps a store. Retries are told to `ctx`; its cancellation ends waiting and running attempts.
    pub fn new(inner: Arc<dyn Store>, policy: RetryPolicy, ctx: Ctx) -> Self {
        Self { inner, policy, ctx, outages: Mutex::default() }
    }

    /// `attempt` gets its number, from 0; each may take as long as `limit`.
    async fn retry<T, F>(&self, what: &str, limit: Duration, attempt: impl Fn(u32) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.ctx.run(self.attempts(what, limit, attempt)).await
    }

    async fn attempts<T, F>(&self, what: &str, limit: Duration, attempt: impl Fn(u32) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let deadline = self.policy.deadline;
        let end = Instant::now() + deadline;
        let mut bound = self.policy.first;
        let mut number = 0;
        let mut renewed = false;
        let mut failing = None;
        loop {
            let epoch = self.inner.credentials_epoch();
            let begun = Instant::now();
            // An adapter notices a dead connection itself and says so better; a mount that hangs does not.
            let outcome = tokio::time::timeout(limit, attempt(number)).await.unwrap_or_else(|_| {
                let seconds = limit.as_secs();
                Err(Error::new(ErrorKind::Timeout, format!("{what} was given up: nothing for {seconds} s")))
            });
            let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::debug!(what, milliseconds, good = outcome.is_ok(), "asked the store");
            let error = match outcome {
                Err(e) if e.class() == Class::Retryable => e,
                Err(e)
                    if !renewed
                        && matches!(e.kind(), ErrorKind::Auth | ErrorKind::AccessDenied)
                        && self.inner.renew_credentials(epoch) =>
                {
                    tracing::info!(what, error = %e.chain(), "credentials were read again");
                    renewed = true;
                    continue;
                }
                other => return other,
            };
            let failing = failing.get_or_insert_with(|| Failing::new(&self.outages));
            number += 1;
            let pause = jitter(bound);
            // Not how often: the same failure has to read the same each time.
            let given_up = if failing.total() >= self.policy.budget {
                let minutes = self.policy.budget.as_secs() / 60;
                Some(format!("{what} failed, and the store has been failing for {minutes} min in all"))
            } else if Instant::now() + pause >= end {
                Some(format!("{what} kept failing for {} s", deadline.as_secs()))
            } else {
                None
            };
            if let Some(message) = given_up {
                return Err(Error::with_source(error.kind(), message, error));
            }
            tracing::debug!(what, error = %error.chain(), "trying again");
            self.ctx.events.event(Event::Retry { what: what.to_owned(), error: error.chain() });
            tokio::time::sleep(pause).await;
            bound = (bound * 2).min(self.policy.max);
        }
    }

    /// For calls of which nobody knows how much they bring: pages of a listing, a file of unknown length.
    fn open_end(&self) -> Duration {
        self.policy.deadline.max(self.policy.attempt)
    }

    /// For calls that carry or bring so many bytes.
    fn sized(&self, bytes: u64) -> Duration {
        self.policy.attempt.saturating_add(transfer(bytes))
    }

    /// Removals must work after a cancellation too: a lock that stays would stop everybody.
    async fn retry_removal<F>(&self, what: &str, attempt: impl Fn(u32) -> F) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        let all = self.attempts(what, self.policy.attempt, attempt);
        tokio::pin!(all);
        tokio::select! {
            result = &mut all => return result,
            () = self.ctx.cancel.cancelled() => {}
        }
        match tokio::time::timeout(LAST_WORDS, all).await {
            Ok(result) => result,
            Err(_) => {
                Err(Error::new(ErrorKind::Timeout, format!("{what} was given up after the cancellation")))
            }
        }
    }
}

/// Between a quarter and all of `bound`, so that many clients do not come back in step.
fn jitter(bound: Duration) -> Duration {
    let mut byte = [255_u8];
    // Without random bytes the pause is merely not random.
    let _ = crate::crypto::random(&mut byte);
    let [random] = byte;
    bound.mul_f64(0.25 + 0.75 * f64::from(random) / 255.0)
}

#[async_trait::async_trait]
impl Store for RetryStore {
    async fn list(&self, kind: FileKind) -> Result<Vec<Entry>> {
        let what = format!("listing {} of {}", kind.directory(), self.describe());
        self.retry(&what, self.open_end(), |_| async { each_once(kind, self.inner.list(kind).await?) }).await
    }

    async fn get(&self, name: FileName, range: Option<Range<u64>>) -> Result<Bytes> {
        let wanted = range.as_ref().map(|r| r.end.saturating_sub(r.start));
        let limit = wanted.map_or_else(|| self.open_end(), |bytes| self.sized(bytes));
        let attempt = |_| async {
            let bytes = self.inner.get(name, range.clone()).await?;
            match wanted {
                Some(wanted) if wanted != bytes.len() as u64 => Err(Error::new(
                    ErrorKind::Unreachable,
                    format!("{} bytes came of the {wanted} asked for of {name}", bytes.len()),
                )),
                _ => Ok(bytes),
            }
        };
        self.retry(&format!("reading {name}"), limit, attempt).await
    }

    async fn get_suffix(&self, name: FileName, len: u64) -> Result<Bytes> {
        let what = format!("reading the end of {name}");
        self.retry(&what, self.sized(len), |_| self.inner.get_suffix(name, len)).await
    }

    async fn size(&self, name: FileName) -> Result<u64> {
        self.retry(&format!("asking for the size of {name}"), self.policy.attempt, |_| self.inner.size(name))
            .await
    }

    async fn put(&self, name: FileName, body: PutPayload, mode: PutMode) -> Result<()> {
        let attempt = |number| {
            let body = body.clone();
            async move {
                let result = self.inner.put(name, body.clone(), mode).await;
                match result {
                    // An earlier attempt may have got through although its answer did not.
                    Err(e) if number > 0 && e.kind() == ErrorKind::AlreadyInitialized => {
                        let stored = self.inner.get(name, None).await?;
                        if stored == Bytes::from(body) { Ok(()) } else { Err(e) }
                    }
                    other => other,
                }
            }
        };
        self.retry(&format!("writing {name}"), self.sized(body.content_length() as u64), attempt).await
    }

    async fn delete(&self, name: FileName) -> Result<()> {
        self.retry_removal(&format!("removing {name}"), |_| self.inner.delete(name)).await
    }

    async fn is_empty(&self) -> Result<bool> {
        self.retry(&format!("listing {}", self.describe()), self.open_end(), |_| self.inner.is_empty()).await
    }

    async fn prepare(&self) -> Result<()> {
        self.retry(&format!("preparing {}", self.describe()), self.open_end(), |_| self.inner.prepare()).await
    }

    async fn get_extra(&self, path: &str) -> Result<Option<Bytes>> {
        self.retry(&format!("reading {path}"), self.open_end(), |_| self.inner.get_extra(path)).await
    }

    async fn put_extra(&self, path: &str, body: Bytes, mode: PutMode) -> Result<()> {
        let attempt = |number| {
            let body = body.clone();
            async move {
                let result = self.inner.put_extra(path, body.clone(), mode).await;
                match result {
                    Err(e) if number > 0 && e.kind() == ErrorKind::AlreadyInitialized => {
                        if self.inner.get_extra(path).await? == Some(body) { Ok(()) } else { Err(e) }
                    }
                    other => other,
                }
            }
        };
        self.retry(&format!("writing {path}"), self.sized(body.len() as u64), attempt).await
    }

    async fn delete_extra(&self, path: &str) -> Result<()> {
        self.retry_removal(&format!("removing {path}"), |_| self.inner.delete_extra(path)).await
    }

    async fn list_extra(&self, directory: &str, limit: usize) -> Result<Vec<String>> {
        self.retry(&format!("listing {:?} of {}", directory, self.describe()), self.open_end(), |_| {
            self.inner.list_extra(directory, limit)
        })
        .await
    }

    async fn remove_unfinished(&self, age: Duration) -> Result<u64> {
        self.retry("removing unfinished files", self.open_end(), |_| self.inner.remove_unfinished(age)).await
    }

    async fn object_lock(&self) -> Result<Option<ObjectLock>> {
        let what = format!("asking for the object lock of {}", self.describe());
        self.retry(&what, self.policy.attempt, |_| self.inner.object_lock()).await
    }

    async fn retention(&self, name: FileName) -> Result<Option<Retention>> {
        let what = format!("asking until when {name} is protected");
        self.retry(&what, self.policy.attempt, |_| self.inner.retention(name)).await
    }

    async fn retain(&self, name: FileName, retention: Retention) -> Result<()> {
        let what = format!("protecting {name}");
        self.retry(&what, self.policy.attempt, |_| self.inner.retain(name, retention)).await
    }

    async fn lists_at_once(&self) -> bool {
        self.inner.lists_at_once().await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn credentials_epoch(&self) -> u64 {
        self.inner.credentials_epoch()
    }

    fn renew_credentials(&self, epoch: u64) -> bool {
        self.inner.renew_credentials(epoch)
    }
}

/// A server that goes wrong between two pages sends some names twice. The same file with two sizes is no list at all.
fn each_once(kind: FileKind, mut entries: Vec<Entry>) -> Result<Vec<Entry>> {
    entries.sort_by_key(|e| e.id);
    entries.dedup();
    for (entry, next) in entries.iter().zip(entries.iter().skip(1)) {
        if entry.id == next.id && entry.size != next.size {
            return Err(Error::new(
                ErrorKind::Listing,
                format!(
                    "{} {} is listed with {} and with {} bytes",
                    kind.directory(),
                    entry.id,
                    entry.size,
                    next.size
                ),
            ));
        }
    }
    entries.dedup_by_key(|e| e.id);
    Ok(entries)
}
