//! A store to which nothing is written: what would be is dropped, and only its size kept, which writers ask for.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::{Entry, FileKind, FileName, PutMode, PutPayload, Store};
use crate::error::{Error, ErrorKind, Result};

/// Reads go to the store behind it.
pub(crate) struct Rehearsal {
    inner: Arc<dyn Store>,
    dropped: Mutex<HashMap<FileName, u64>>,
}

impl Rehearsal {
    pub(crate) fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, dropped: Mutex::default() }
    }

    fn refuse(&self, what: &str) -> Error {
        Error::new(ErrorKind::Internal, format!("{what} {} in a rehearsal", self.inner.describe()))
    }
}

#[async_trait::async_trait]
impl Store for Rehearsal {
    async fn list(&self, kind: FileKind) -> Result<Vec<Entry>> {
        self.inner.list(kind).await
    }

    async fn get(&self, name: FileName, range: Option<Range<u64>>) -> Result<Bytes> {
        self.inner.get(name, range).await
    }

    async fn get_suffix(&self, name: FileName, len: u64) -> Result<Bytes> {
        self.inner.get_suffix(name, len).await
    }

    async fn size(&self, name: FileName) -> Result<u64> {
        let dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner).get(&name).copied();
        match dropped {
            Some(size) => Ok(size),
            None => self.inner.size(name).await,
        }
    }

    async fn put(&self, name: FileName, body: PutPayload, _mode: PutMode) -> Result<()> {
        let size = body.content_length() as u64;
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner).insert(name, size);
        Ok(())
    }

    async fn delete(&self, name: FileName) -> Result<()> {
        Err(self.refuse(&format!("delete {name} of")))
    }

    async fn is_empty(&self) -> Result<bool> {
        self.inner.is_empty().await
    }

    async fn prepare(&self) -> Result<()> {
        Err(self.refuse("prepare"))
    }

    async fn get_extra(&self, path: &str) -> Result<Option<Bytes>> {
        self.inner.get_extra(path).await
    }

    async fn put_extra(&self, path: &str, _body: Bytes, _mode: PutMode) -> Result<()> {
        Err(self.refuse(&format!("write {path} to")))
    }

    async fn delete_extra(&self, path: &str) -> Result<()> {
        Err(self.refuse(&format!("delete {path} of")))
    }

    async fn list_extra(&self, directory: &str, limit: usize) -> Result<Vec<String>> {
        self.inner.list_extra(directory, limit).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
