//! Trying again: the one layer that does, for all stores.
//!
//! Not here: telling which failures are worth it (`ErrorKind::class`), and damaged content (`repository`).

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Entry, FileKind, FileName, PutMode, Store};
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
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            deadline: Duration::from_mins(15),
            first: Duration::from_millis(500),
            max: Duration::from_secs(30),
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
}

impl RetryStore {
    /// Wraps a store. Retries are told to `ctx`; its cancellation ends waiting and running attempts.
    pub fn new(inner: Arc<dyn Store>, policy: RetryPolicy, ctx: Ctx) -> Self {
        Self { inner, policy, ctx }
    }

    /// `attempt` gets its number, from 0.
    async fn retry<T, F>(&self, what: &str, attempt: impl Fn(u32) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.ctx.run(self.attempts(what, self.policy.deadline, attempt)).await
    }

    async fn attempts<T, F>(&self, what: &str, deadline: Duration, attempt: impl Fn(u32) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let end = Instant::now() + deadline;
        let mut bound = self.policy.first;
        let mut number = 0;
        loop {
            let error = match attempt(number).await {
                Err(e) if e.class() == Class::Retryable => e,
                other => return other,
            };
            number += 1;
            let pause = jitter(bound);
            if Instant::now() + pause >= end {
                return Err(Error::with_source(
                    error.kind(),
                    // Not how often: the same failure has to read the same each time.
                    format!("{what} kept failing for {} s", deadline.as_secs()),
                    error,
                ));
            }
            tracing::debug!(what, error = %error.chain(), "trying again");
            self.ctx.events.event(Event::Retry { what: what.to_owned(), error: error.chain() });
            tokio::time::sleep(pause).await;
            bound = (bound * 2).min(self.policy.max);
        }
    }

    /// Removals must work after a cancellation too: a lock that stays would stop everybody.
    async fn retry_removal<F>(&self, what: &str, attempt: impl Fn(u32) -> F) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        let all = self.attempts(what, self.policy.deadline, attempt);
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
        self.retry(&format!("listing {} of {}", kind.directory(), self.describe()), |_| self.inner.list(kind))
            .await
    }

    async fn get(&self, name: FileName, range: Option<Range<u64>>) -> Result<Bytes> {
        self.retry(&format!("reading {name}"), |_| self.inner.get(name, range.clone())).await
    }

    async fn get_suffix(&self, name: FileName, len: u64) -> Result<Bytes> {
        self.retry(&format!("reading the end of {name}"), |_| self.inner.get_suffix(name, len)).await
    }

    async fn size(&self, name: FileName) -> Result<u64> {
        self.retry(&format!("asking for the size of {name}"), |_| self.inner.size(name)).await
    }

    async fn put(&self, name: FileName, body: Bytes, mode: PutMode) -> Result<()> {
        let attempt = |number| {
            let body = body.clone();
            async move {
                let result = self.inner.put(name, body.clone(), mode).await;
                match result {
                    // An earlier attempt may have got through although its answer did not.
                    Err(e) if number > 0 && e.kind() == ErrorKind::AlreadyInitialized => {
                        if self.inner.get(name, None).await? == body { Ok(()) } else { Err(e) }
                    }
                    other => other,
                }
            }
        };
        self.retry(&format!("writing {name}"), attempt).await
    }

    async fn delete(&self, name: FileName) -> Result<()> {
        self.retry_removal(&format!("removing {name}"), |_| self.inner.delete(name)).await
    }

    async fn is_empty(&self) -> Result<bool> {
        self.retry(&format!("listing {}", self.describe()), |_| self.inner.is_empty()).await
    }

    async fn prepare(&self) -> Result<()> {
        self.retry(&format!("preparing {}", self.describe()), |_| self.inner.prepare()).await
    }

    async fn get_extra(&self, path: &str) -> Result<Option<Bytes>> {
        self.retry(&format!("reading {path}"), |_| self.inner.get_extra(path)).await
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
        self.retry(&format!("writing {path}"), attempt).await
    }

    async fn delete_extra(&self, path: &str) -> Result<()> {
        self.retry_removal(&format!("removing {path}"), |_| self.inner.delete_extra(path)).await
    }

    async fn list_extra(&self, directory: &str, limit: usize) -> Result<Vec<String>> {
        self.retry(&format!("listing {:?} of {}", directory, self.describe()), |_| {
            self.inner.list_extra(directory, limit)
        })
        .await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
