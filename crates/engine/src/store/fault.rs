//! A store that fails on command or by chance, wrapped around any other: for tests of what faults must lead to.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::{Entry, FileKind, FileName, ObjectLock, PutMode, PutPayload, Retention, Store};
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;

/// Which call a fault is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `list`, `is_empty`, `list_extra`.
    List,
    /// `get`, `get_suffix`, `get_extra`, `size`.
    Get,
    /// `put`, `put_extra`.
    Put,
    /// `delete`, `delete_extra`.
    Delete,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The call fails and has done nothing.
    Fail(ErrorKind),
    /// The call takes so much longer.
    Delay(Duration),
    /// The call never returns.
    Hang,
    /// A read gives all but its last bytes.
    Truncate(usize),
    /// A read has this bit of this byte (counted modulo the length) flipped.
    Flip(usize),
    /// A write says it succeeded, and nothing is there.
    Lose,
    /// A write says it failed, and all is there.
    StoreButFail(ErrorKind),
    /// A write stores all but its last bytes and says it succeeded.
    StoreTruncated(usize),
    /// A listing leaves out what was written last.
    Stale,
    /// A listing has each file twice, as when a page is sent again.
    Duplicate,
    /// A listing comes in the opposite order.
    Reverse,
}

/// Faults by chance, but the same ones for the same seed and order of calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storm {
    /// Where the sequence begins.
    pub seed: u64,
    /// Of a thousand calls so many meet trouble.
    pub per_mille: u64,
    /// What may happen. Trouble that does not fit a call (a truncated write of a listing) lets it through.
    pub troubles: Vec<Trouble>,
}

impl Storm {
    /// What the next call meets.
    fn next(&mut self) -> Option<Trouble> {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        if z % 1000 >= self.per_mille {
            return None;
        }
        let choice = usize::try_from((z >> 32) % self.troubles.len().max(1) as u64).unwrap_or(0);
        self.troubles.get(choice).cloned()
    }
}

/// A fault and when it strikes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// For which call.
    pub operation: Operation,
    /// For which kind of file; any when `None`. Files beside a repository only match `None`.
    pub kind: Option<FileKind>,
    /// So many matching calls go through first.
    pub after: u32,
    /// So many then meet it.
    pub times: u32,
    /// What happens to them.
    pub trouble: Trouble,
}

impl Fault {
    /// A fault that strikes the next matching call once.
    pub fn once(operation: Operation, kind: impl Into<Option<FileKind>>, trouble: Trouble) -> Self {
        Self { operation, kind: kind.into(), after: 0, times: 1, trouble }
    }

    /// A fault that strikes every matching call from now on.
    pub fn always(operation: Operation, kind: impl Into<Option<FileKind>>, trouble: Trouble) -> Self {
        Self { times: u32::MAX, ..Self::once(operation, kind, trouble) }
    }
}

/// Wraps a store and plays faults.
pub struct FaultStore {
    inner: Arc<dyn Store>,
    script: Mutex<Vec<Fault>>,
    storm: Mutex<Option<Storm>>,
    struck: AtomicUsize,
    calls: Mutex<Vec<(Operation, Option<FileKind>)>>,
    newest: Mutex<Option<Id>>,
}

impl FaultStore {
    /// A store without faults so far.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            script: Mutex::default(),
            storm: Mutex::default(),
            struck: AtomicUsize::new(0),
            calls: Mutex::default(),
            newest: Mutex::default(),
        }
    }

    /// Adds a fault to those that wait.
    pub fn add(&self, fault: Fault) {
        self.script.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
    }

    /// Begins a storm; scripted faults strike before it.
    pub fn storm(&self, storm: Storm) {
        *self.storm.lock().unwrap_or_else(PoisonError::into_inner) = Some(storm);
    }

    /// How many calls met a fault.
    pub fn struck(&self) -> usize {
        self.struck.load(Ordering::Relaxed)
    }

    /// Ends all faults.
    pub fn heal(&self) {
        *self.storm.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.script.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// How many calls of an operation on a kind of file were made.
    pub fn count(&self, operation: Operation, kind: FileKind) -> usize {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().filter(|c| **c == (operation, Some(kind))).count()
    }

    /// Notes the call and finds the fault it meets; delays, hangs and plain failures happen here.
    async fn meet(&self, operation: Operation, kind: Option<FileKind>) -> Result<Option<Trouble>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push((operation, kind));
        let met = {
            let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
            script
                .iter_mut()
                .filter(|f| f.operation == operation && (f.kind.is_none() || f.kind == kind) && f.times > 0)
                .find_map(|f| {
                    if f.after > 0 {
                        f.after -= 1;
                        return None;
                    }
                    f.times -= 1;
                    Some(f.trouble.clone())
                })
        };
        let met = met.or_else(|| {
            self.storm.lock().unwrap_or_else(PoisonError::into_inner).as_mut().and_then(Storm::next)
        });
        if met.is_some() {
            self.struck.fetch_add(1, Ordering::Relaxed);
        }
        match met {
            Some(Trouble::Fail(kind)) => Err(Error::new(kind, format!("a fault was played: {operation:?}"))),
            Some(Trouble::Delay(time)) => {
                tokio::time::sleep(time).await;
                Ok(None)
            }
            Some(Trouble::Hang) => std::future::pending().await,
            other => Ok(other),
        }
    }

    fn damage(bytes: Bytes, trouble: Option<&Trouble>) -> Bytes {
        match trouble {
            Some(Trouble::Truncate(cut)) => bytes.slice(..bytes.len().saturating_sub(*cut)),
            Some(Trouble::Flip(place)) if !bytes.is_empty() => {
                let mut changed = bytes.to_vec();
                let place = *place % changed.len();
                if let Some(byte) = changed.get_mut(place) {
                    *byte ^= 1;
                }
                Bytes::from(changed)
            }
            _ => bytes,
        }
    }
}

#[async_trait::async_trait]
impl Store for FaultStore {
    async fn list(&self, kind: FileKind) -> Result<Vec<Entry>> {
        let trouble = self.meet(Operation::List, Some(kind)).await?;
        let mut entries = self.inner.list(kind).await?;
        if trouble == Some(Trouble::Stale) {
            let newest = *self.newest.lock().unwrap_or_else(PoisonError::into_inner);
            entries.retain(|e| Some(e.id) != newest);
        }
        match trouble {
            Some(Trouble::Duplicate) => entries.extend(entries.clone()),
            Some(Trouble::Reverse) => entries.reverse(),
            _ => {}
        }
        Ok(entries)
    }

    async fn get(&self, name: FileName, range: Option<Range<u64>>) -> Result<Bytes> {
        let trouble = self.meet(Operation::Get, Some(name.kind)).await?;
        Ok(Self::damage(self.inner.get(name, range).await?, trouble.as_ref()))
    }

    async fn get_suffix(&self, name: FileName, len: u64) -> Result<Bytes> {
        let trouble = self.meet(Operation::Get, Some(name.kind)).await?;
        Ok(Self::damage(self.inner.get_suffix(name, len).await?, trouble.as_ref()))
    }

    async fn size(&self, name: FileName) -> Result<u64> {
        self.meet(Operation::Get, Some(name.kind)).await?;
        self.inner.size(name).await
    }

    async fn put(&self, name: FileName, body: PutPayload, mode: PutMode) -> Result<()> {
        match self.meet(Operation::Put, Some(name.kind)).await? {
            Some(Trouble::Lose) => return Ok(()),
            Some(Trouble::StoreButFail(kind)) => {
                self.inner.put(name, body, mode).await?;
                return Err(Error::new(
                    kind,
                    format!("a fault was played: {name} is stored, its answer lost"),
                ));
            }
            Some(Trouble::StoreTruncated(cut)) => {
                let whole = Bytes::from(body);
                let shorter = whole.slice(..whole.len().saturating_sub(cut));
                return self.inner.put(name, shorter.into(), mode).await;
            }
            _ => {}
        }
        self.inner.put(name, body, mode).await?;
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(name.id);
        Ok(())
    }

    async fn delete(&self, name: FileName) -> Result<()> {
        match self.meet(Operation::Delete, Some(name.kind)).await? {
            Some(Trouble::Lose) => Ok(()),
            _ => self.inner.delete(name).await,
        }
    }

    async fn is_empty(&self) -> Result<bool> {
        self.meet(Operation::List, None).await?;
        self.inner.is_empty().await
    }

    async fn prepare(&self) -> Result<()> {
        self.inner.prepare().await
    }

    async fn get_extra(&self, path: &str) -> Result<Option<Bytes>> {
        let trouble = self.meet(Operation::Get, None).await?;
        Ok(self.inner.get_extra(path).await?.map(|b| Self::damage(b, trouble.as_ref())))
    }

    async fn put_extra(&self, path: &str, body: Bytes, mode: PutMode) -> Result<()> {
        match self.meet(Operation::Put, None).await? {
            Some(Trouble::Lose) => Ok(()),
            Some(Trouble::StoreButFail(kind)) => {
                self.inner.put_extra(path, body, mode).await?;
                Err(Error::new(kind, format!("a fault was played: {path} is stored, its answer lost")))
            }
            _ => self.inner.put_extra(path, body, mode).await,
        }
    }

    async fn delete_extra(&self, path: &str) -> Result<()> {
        match self.meet(Operation::Delete, None).await? {
            Some(Trouble::Lose) => Ok(()),
            _ => self.inner.delete_extra(path).await,
        }
    }

    async fn list_extra(&self, directory: &str, limit: usize) -> Result<Vec<String>> {
        self.meet(Operation::List, None).await?;
        self.inner.list_extra(directory, limit).await
    }

    async fn remove_unfinished(&self, age: Duration) -> Result<u64> {
        self.inner.remove_unfinished(age).await
    }

    async fn object_lock(&self) -> Result<Option<ObjectLock>> {
        self.inner.object_lock().await
    }

    async fn retention(&self, name: FileName) -> Result<Option<Retention>> {
        self.meet(Operation::Get, Some(name.kind)).await?;
        self.inner.retention(name).await
    }

    async fn retain(&self, name: FileName, retention: Retention) -> Result<()> {
        self.meet(Operation::Put, Some(name.kind)).await?;
        self.inner.retain(name, retention).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
