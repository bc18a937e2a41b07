//! Going easy on a line that others need too: no more than so many bytes a second to a store, and from it.
//!
//! Whole files and ranges are what is let through, one after the other, each when those before it have had their time:
//! the average is kept, and a single file goes as fast as the line takes it. Locks are not held up, for one that is not
//! refreshed in time is lost. Outside the layer that tries again, whose clock must not run while a file waits here.

use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Entry, FileKind, FileName, ObjectLock, PutMode, PutPayload, Retention, Store};
use crate::error::Result;
use crate::event::Ctx;

/// Most bytes a second; what is absent is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    /// To the store.
    pub upload: Option<NonZeroU64>,
    /// From the store.
    pub download: Option<NonZeroU64>,
}

/// What was let through may be this much ahead of its time, so that small files need not wait for each other.
const AHEAD: Duration = Duration::from_millis(100);

/// One direction of the line.
struct Line {
    bytes_per_second: NonZeroU64,
    /// When all that was let through so far has had its time.
    free: Mutex<Option<Instant>>,
}

impl Line {
    fn new(bytes_per_second: NonZeroU64) -> Self {
        Self { bytes_per_second, free: Mutex::default() }
    }

    /// Takes the time for so many bytes, from `now` on; gives when they may go.
    fn take(&self, bytes: u64, now: Instant) -> Instant {
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.get());
        let time = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        // Time that nobody used is gone: a line that was idle is no faster afterwards.
        let start = free.map_or(now, |free| free.max(now));
        // A moment that no clock reaches is as good as one far away.
        *free = Some(start.checked_add(time).unwrap_or(start + Duration::from_hours(24 * 365)));
        start.checked_sub(AHEAD).map_or(start, |early| early.max(now))
    }
}

/// Holds back what goes to and comes from another store.
pub(super) struct PacedStore {
    inner: Arc<dyn Store>,
    upload: Option<Line>,
    download: Option<Line>,
    ctx: Ctx,
}

impl PacedStore {
    /// Wraps a store. The cancellation of `ctx` ends waiting.
    pub(super) fn new(inner: Arc<dyn Store>, pace: Pace, ctx: Ctx) -> Self {
        Self { inner, upload: pace.upload.map(Line::new), download: pace.download.map(Line::new), ctx }
    }

    async fn wait(&self, line: Option<&Line>, bytes: u64) -> Result<()> {
        let Some(line) = line else { return Ok(()) };
        let now = Instant::now();
        let start = line.take(bytes, now);
        if start <= now {
            return Ok(());
        }
        let sleep = async {
            tokio::time::sleep_until(start).await;
            Ok(())
        };
        self.ctx.run(sleep).await
    }

    /// What came of a read of unknown length takes its time afterwards.
    fn came(&self, bytes: usize) {
        if let Some(line) = &self.download {
            line.take(u64::try_from(bytes).unwrap_or(u64::MAX), Instant::now());
        }
    }

    fn download_of(&self, name: FileName) -> Option<&Line> {
        self.download.as_ref().filter(|_| name.kind != FileKind::Lock)
    }
}

#[async_trait::async_trait]
impl Store for PacedStore {
    async fn list(&self, kind: FileKind) -> Result<Vec<Entry>> {
        self.inner.list(kind).await
    }

    async fn get(&self, name: FileName, range: Option<Range<u64>>) -> Result<Bytes> {
        let wanted = range.as_ref().map_or(0, |range| range.end.saturating_sub(range.start));
        self.wait(self.download_of(name), wanted).await?;
        let whole = range.is_none();
        let bytes = self.inner.get(name, range).await?;
        if whole && name.kind != FileKind::Lock {
            self.came(bytes.len());
        }
        Ok(bytes)
    }

    async fn get_suffix(&self, name: FileName, len: u64) -> Result<Bytes> {
        self.wait(self.download_of(name), len).await?;
        self.inner.get_suffix(name, len).await
    }

    async fn size(&self, name: FileName) -> Result<u64> {
        self.inner.size(name).await
    }

    async fn put(&self, name: FileName, body: PutPayload, mode: PutMode) -> Result<()> {
        if name.kind != FileKind::Lock {
            self.wait(self.upload.as_ref(), body.content_length() as u64).await?;
        }
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
        self.wait(self.download.as_ref(), 0).await?;
        let found = self.inner.get_extra(path).await?;
        self.came(found.as_ref().map_or(0, Bytes::len));
        Ok(found)
    }

    async fn put_extra(&self, path: &str, body: Bytes, mode: PutMode) -> Result<()> {
        self.wait(self.upload.as_ref(), body.len() as u64).await?;
        self.inner.put_extra(path, body, mode).await
    }

    async fn delete_extra(&self, path: &str) -> Result<()> {
        self.inner.delete_extra(path).await
    }

    async fn list_extra(&self, directory: &str, limit: usize) -> Result<Vec<String>> {
        self.inner.list_extra(directory, limit).await
    }

    async fn remove_unfinished(&self, age: Duration) -> Result<u64> {
        self.inner.remove_unfinished(age).await
    }

    async fn object_lock(&self) -> Result<Option<ObjectLock>> {
        self.inner.object_lock().await
    }

    async fn retention(&self, name: FileName) -> Result<Option<Retention>> {
        self.inner.retention(name).await
    }

    async fn retain(&self, name: FileName, retention: Retention) -> Result<()> {
        self.inner.retain(name, retention).await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_is_kept_and_idle_time_is_not_saved_up() {
        let line = Line::new(NonZeroU64::new(1000).unwrap());
        let begin = Instant::now();
        let at = |seconds: f64| begin + Duration::from_secs_f64(seconds);
        assert_eq!(line.take(5000, at(0.0)), at(0.0), "the first goes at once");
        assert_eq!(line.take(1000, at(0.0)), at(4.9));
        assert_eq!(line.take(0, at(0.0)), at(5.9), "whoever only asks waits for those before it");
        // Idle from 6 s to 60 s.
        assert_eq!(line.take(2000, at(60.0)), at(60.0));
        assert_eq!(line.take(1, at(60.0)), at(61.9));
    }

    #[test]
    fn amounts_beyond_all_measure_do_not_break_the_clock() {
        let line = Line::new(NonZeroU64::MIN);
        let now = Instant::now();
        line.take(u64::MAX, now);
        assert!(line.take(u64::MAX, now) > now + Duration::from_hours(24));
    }
}
