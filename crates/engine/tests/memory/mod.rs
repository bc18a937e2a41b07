//! A store in memory: its state can be copied, its clock set, and each actor's calls watched, failed or held up.
#![allow(dead_code, reason = "each test file uses its part of it")]

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::BoxFuture;
use holdfast_engine::error::{Error, ErrorKind, Result};
use holdfast_engine::repository::InitOptions;
use holdfast_engine::store::{Entry, FileKind, FileName, ObjectLock, PutMode, PutPayload, Retention, Store};
use holdfast_engine::{Ctx, Id, Repository};

/// The files of a repository.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    files: Mutex<BTreeMap<(FileKind, Id), (Bytes, i64)>>,
    /// Files beside the repository's own, by path.
    extras: Mutex<BTreeMap<String, Bytes>>,
    /// Seconds that the store's clock is ahead.
    ahead: AtomicI64,
}

impl Memory {
    /// A copy that goes its own way from here.
    pub(crate) fn copy(&self) -> Arc<Self> {
        let files = self.files.lock().unwrap().clone();
        let extras = self.extras.lock().unwrap().clone();
        Arc::new(Self {
            files: Mutex::new(files),
            extras: Mutex::new(extras),
            ahead: AtomicI64::new(self.ahead.load(Ordering::SeqCst)),
        })
    }

    /// Lets time pass for the store.
    pub(crate) fn pass(&self, hours: i64) {
        self.ahead.fetch_add(hours * 3600, Ordering::SeqCst);
    }

    pub(crate) fn count(&self, kind: FileKind) -> usize {
        self.files.lock().unwrap().keys().filter(|(k, _)| *k == kind).count()
    }

    /// Bytes of all packs.
    pub(crate) fn pack_bytes(&self) -> usize {
        let files = self.files.lock().unwrap();
        files.iter().filter(|((k, _), _)| *k == FileKind::Pack).map(|(_, (body, _))| body.len()).sum()
    }

    pub(crate) fn ids(&self, kind: FileKind) -> Vec<Id> {
        self.files.lock().unwrap().keys().filter(|(k, _)| *k == kind).map(|(_, id)| *id).collect()
    }

    pub(crate) fn remove(&self, kind: FileKind, id: Id) {
        self.files.lock().unwrap().remove(&(kind, id));
    }

    /// Changes a byte in the middle of a file.
    pub(crate) fn damage(&self, kind: FileKind, id: Id, at: usize) {
        let mut files = self.files.lock().unwrap();
        let (body, _) = files.get_mut(&(kind, id)).unwrap();
        let mut bytes = body.to_vec();
        bytes[at] ^= 1;
        *body = bytes.into();
    }

    fn now(&self) -> i64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        i64::try_from(now).unwrap() + self.ahead.load(Ordering::SeqCst)
    }
}

/// An empty memory with a new repository in it.
pub(crate) async fn repository(password: &str) -> (Arc<Memory>, Repository) {
    let memory = Arc::new(Memory::default());
    let options = InitOptions {
        password: password.to_owned().into(),
        recovery_password: None,
        version: 2,
        hostname: "h".into(),
        username: "u".into(),
    };
    let repo = Repository::init(Actor::plain(&memory), &options, &Ctx::default()).await.unwrap();
    (memory, repo)
}

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    List,
    Get,
    Put,
    Delete,
    Retain,
}

/// Asked before each call (`false`) and after each change (`true`); an error is the call's result.
pub(crate) type Hook = Box<dyn Fn(Call, FileKind, bool) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// One actor's way to the memory.
pub(crate) struct Actor {
    memory: Arc<Memory>,
    hook: Hook,
    /// This actor does not see others' locks: as if each had been removed by force.
    blind: bool,
    own_locks: Mutex<HashSet<Id>>,
}

impl Actor {
    /// An ordinary one.
    pub(crate) fn plain(memory: &Arc<Memory>) -> Arc<dyn Store> {
        Self::with(memory, false, Box::new(|_, _, _| Box::pin(async { Ok(()) })))
    }

    /// One with a hook.
    pub(crate) fn with(memory: &Arc<Memory>, blind: bool, hook: Hook) -> Arc<dyn Store> {
        Arc::new(Self { memory: Arc::clone(memory), hook, blind, own_locks: Mutex::default() })
    }

    fn body(&self, name: FileName) -> Result<Bytes> {
        let files = self.memory.files.lock().unwrap();
        let id = if name.kind == FileKind::Config { Id::default() } else { name.id };
        let found = files.get(&(name.kind, id)).map(|(body, _)| body.clone());
        found.ok_or_else(|| Error::new(ErrorKind::Missing, format!("{name} is not there")))
    }
}

#[async_trait::async_trait]
impl Store for Actor {
    async fn list(&self, kind: FileKind) -> Result<Vec<Entry>> {
        (self.hook)(Call::List, kind, false).await?;
        let files = self.memory.files.lock().unwrap();
        let own = self.own_locks.lock().unwrap();
        Ok(files
            .iter()
            .filter(|((k, id), _)| *k == kind && (kind != FileKind::Lock || !self.blind || own.contains(id)))
            .map(|((_, id), (body, at))| Entry { id: *id, size: body.len() as u64, modified: Some(*at) })
            .collect())
    }

    async fn get(&self, name: FileName, range: Option<Range<u64>>) -> Result<Bytes> {
        (self.hook)(Call::Get, name.kind, false).await?;
        let body = self.body(name)?;
        let Some(range) = range else { return Ok(body) };
        let (start, end) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
        if end > body.len() {
            return Err(Error::new(ErrorKind::Corrupt, format!("{name} is shorter than {end}")));
        }
        Ok(body.slice(start..end))
    }

    async fn get_suffix(&self, name: FileName, len: u64) -> Result<Bytes> {
        let body = self.get(name, None).await?;
        Ok(body.slice(body.len().saturating_sub(usize::try_from(len).unwrap())..))
    }

    async fn size(&self, name: FileName) -> Result<u64> {
        (self.hook)(Call::Get, name.kind, false).await?;
        Ok(self.body(name)?.len() as u64)
    }

    async fn put(&self, name: FileName, body: PutPayload, _: PutMode) -> Result<()> {
        (self.hook)(Call::Put, name.kind, false).await?;
        if name.kind == FileKind::Lock {
            self.own_locks.lock().unwrap().insert(name.id);
        }
        let id = if name.kind == FileKind::Config { Id::default() } else { name.id };
        let now = self.memory.now();
        self.memory.files.lock().unwrap().insert((name.kind, id), (body.into(), now));
        (self.hook)(Call::Put, name.kind, true).await
    }

    async fn delete(&self, name: FileName) -> Result<()> {
        (self.hook)(Call::Delete, name.kind, false).await?;
        self.memory.remove(name.kind, name.id);
        (self.hook)(Call::Delete, name.kind, true).await
    }

    async fn is_empty(&self) -> Result<bool> {
        Ok(self.memory.files.lock().unwrap().is_empty())
    }

    async fn prepare(&self) -> Result<()> {
        Ok(())
    }

    async fn get_extra(&self, path: &str) -> Result<Option<Bytes>> {
        Ok(self.memory.extras.lock().unwrap().get(path).cloned())
    }

    async fn put_extra(&self, path: &str, body: Bytes, _: PutMode) -> Result<()> {
        self.memory.extras.lock().unwrap().insert(path.to_owned(), body);
        Ok(())
    }

    async fn delete_extra(&self, path: &str) -> Result<()> {
        self.memory.extras.lock().unwrap().remove(path);
        Ok(())
    }

    async fn list_extra(&self, directory: &str, limit: usize) -> Result<Vec<String>> {
        let extras = self.memory.extras.lock().unwrap();
        let below = extras.keys().filter_map(|path| path.strip_prefix(directory)?.strip_prefix('/'));
        Ok(below.map(str::to_owned).take(limit).collect())
    }

    async fn object_lock(&self) -> Result<Option<ObjectLock>> {
        Ok(Some(ObjectLock::default()))
    }

    async fn retention(&self, name: FileName) -> Result<Option<Retention>> {
        (self.hook)(Call::Get, name.kind, false).await?;
        self.body(name).map(|_| None)
    }

    /// Only the answer: deletions are not refused for it.
    async fn retain(&self, name: FileName, _: Retention) -> Result<()> {
        (self.hook)(Call::Retain, name.kind, false).await?;
        self.body(name).map(drop)
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}
