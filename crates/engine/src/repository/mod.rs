//! An open repository: its store, its keys, its configuration, and how its files are read and written.
//!
//! Whole operations (backup, restore, check) are built on this and live in their own modules.

mod blobs;
mod init;
mod keys;
mod objects;
mod snapshots;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use futures::future::BoxFuture;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use parking::Parked;

use crate::crypto::Key;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Ctx;
use crate::format::compress::{Compressor, Decompressor, FrameReader};
use crate::format::config::Config;
use crate::format::index_file::IndexFile;
use crate::format::records::Records;
use crate::id::Id;
use crate::index::{DedupBuilder, DedupIndex, Index, IndexBuilder};
use crate::read::BlobOpener;
#[cfg(test)]
use crate::store::PutMode;
use crate::store::rehearsal::Rehearsal;
use crate::store::{FileKind, FileName, Store};
use crate::work_pool::WorkPool;

pub use init::InitOptions;
pub use keys::KeyInfo;
pub use snapshots::{SnapshotFilter, SnapshotList, UnreadSnapshot};

/// The most plain bytes a file outside packs may decompress to; an index of 50,000 blobs has about 10 MB.
const MAX_UNPACKED: usize = 1 << 30;

/// The same for files of which many are read at once. A list of unreadable files is opened as a snapshot and may have
/// some 64 MiB.
fn most_plain(kind: FileKind) -> usize {
    match kind {
        FileKind::Lock => 1 << 20,
        FileKind::Snapshot => 128 << 20,
        _ => MAX_UNPACKED,
    }
}
/// How many small files are fetched at a time.
const PARALLEL: usize = 8;
/// In front of a compressed file outside packs.
const COMPRESSED_MARK: u8 = 2;

/// An open repository. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Repository {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    key: Arc<Key>,
    key_id: Id,
    config: Config,
    pool: WorkPool,
    compressors: Parked<Compressor>,
    decompressors: Parked<Decompressor>,
    openers: Parked<BlobOpener>,
}

/// What a file outside packs holds once its seal is open.
enum Opened {
    /// JSON as it is.
    Json(Vec<u8>),
    /// The mark, then a zstd frame.
    Frame(Vec<u8>),
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository")
            .field("id", &self.inner.config.id)
            .field("at", &self.inner.store.describe())
            .finish_non_exhaustive()
    }
}

impl Repository {
    fn new(
        store: Arc<dyn Store>,
        key: impl Into<Arc<Key>>,
        key_id: Id,
        config: Config,
        pool: WorkPool,
    ) -> Self {
        let inner = Inner {
            store,
            key: key.into(),
            key_id,
            config,
            pool,
            compressors: Parked::default(),
            decompressors: Parked::default(),
            openers: Parked::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The repository's random identity, 64 hex digits.
    pub fn id(&self) -> &str {
        &self.inner.config.id
    }

    /// The format version, 1 or 2.
    pub fn version(&self) -> u32 {
        self.inner.config.version
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Where it lies.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.inner.store
    }

    /// The same repository, to which nothing is written: what would be is dropped.
    pub(crate) fn rehearsing(&self) -> Self {
        let Inner { store, key, key_id, config, pool, .. } = &*self.inner;
        let store = Arc::new(Rehearsal::new(Arc::clone(store)));
        Self::new(store, Arc::clone(key), *key_id, config.clone(), pool.clone())
    }

    /// Runs work that computes on one of the repository's own threads.
    pub(crate) async fn on_pool<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        self.inner.pool.run(work).await
    }

    /// The master key, for the threads that seal and open packs.
    pub(crate) fn key(&self) -> &Key {
        &self.inner.key
    }

    /// The bytes of a file that is sealed but not packed (index, snapshot, lock): checked against its name,
    /// opened, decompressed. Read again when damaged on the way.
    pub(crate) async fn load_unpacked(&self, kind: FileKind, id: &Id) -> Result<Vec<u8>> {
        self.load_as(kind, id, Self::open_unpacked).await
    }

    async fn load_as<T: Send + 'static>(
        &self,
        kind: FileKind,
        id: &Id,
        open: fn(&Self, FileKind, &Id, &[u8]) -> Result<T>,
    ) -> Result<T> {
        let name = FileName { kind, id: *id };
        let mut attempt = 0;
        loop {
            attempt += 1;
            let sealed = self.inner.store.get(name, None).await?;
            let repo = self.clone();
            let expected = *id;
            let opened = self.inner.pool.run(move || open(&repo, kind, &expected, &sealed)).await?;
            match opened {
                Err(e) if e.kind() == ErrorKind::Corrupt && attempt < 3 => {}
                other => return other,
            }
        }
    }

    /// Checks and opens the bytes of such a file; refuses what no store would give back because it is longer than any that is
    /// read, so that none is written. Computes; belongs on a worker thread.
    pub(crate) fn open_unpacked(&self, kind: FileKind, id: &Id, sealed: &[u8]) -> Result<Vec<u8>> {
        // A list of unreadable files is opened as a snapshot, and may be a little longer than one.
        if kind != FileKind::Snapshot && sealed.len() as u64 > kind.longest() {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "{} has {} bytes, and none is read that has more than {}",
                    FileName { kind, id: *id },
                    sealed.len(),
                    kind.longest()
                ),
            ));
        }
        match self.open_seal(kind, id, sealed)? {
            Opened::Json(plain) => Ok(plain),
            Opened::Frame(frame) => self
                .with_decompressor(|d| d.bounded(frame.get(1..).unwrap_or_default(), most_plain(kind)))
                .map_err(|e| self.damaged(kind, id, e)),
        }
    }

    /// As [`Repository::open_unpacked`], for an index file, whose JSON is never held: it may be large.
    fn open_index_file(&self, kind: FileKind, id: &Id, sealed: &[u8]) -> Result<IndexFile> {
        match self.open_seal(kind, id, sealed)? {
            Opened::Json(plain) => IndexFile::read(plain.as_slice()),
            Opened::Frame(frame) => {
                IndexFile::read(FrameReader::new(frame.get(1..).unwrap_or_default(), MAX_UNPACKED))
            }
        }
    }

    fn damaged(&self, kind: FileKind, id: &Id, error: Error) -> Error {
        Error::with_source(
            ErrorKind::Corrupt,
            format!(
                "{} of {} is damaged; run a check",
                FileName { kind, id: *id },
                self.inner.store.describe()
            ),
            error,
        )
    }

    fn open_seal(&self, kind: FileKind, id: &Id, sealed: &[u8]) -> Result<Opened> {
        if Id::hash(sealed) != *id {
            let error = Error::new(ErrorKind::Corrupt, "its content does not fit its name");
            return Err(self.damaged(kind, id, error));
        }
        let plain = self.inner.key.open(sealed).map_err(|e| self.damaged(kind, id, e))?;
        match plain.first() {
            Some(b'{' | b'[') => Ok(Opened::Json(plain)),
            Some(&COMPRESSED_MARK) => Ok(Opened::Frame(plain)),
            Some(other) => Err(Error::new(
                ErrorKind::Format,
                format!("{} has the unknown encoding {other}", FileName { kind, id: *id }),
            )),
            None => Err(self.damaged(kind, id, Error::new(ErrorKind::Corrupt, "it is empty"))),
        }
    }

    /// Seals JSON for a file outside packs and names it: the id and the file's bytes.
    pub(crate) fn seal_unpacked(&self, json: &[u8]) -> Result<(Id, Bytes)> {
        let mut plain = Vec::new();
        if self.inner.config.version >= 2 {
            plain.push(COMPRESSED_MARK);
            self.with_compressor(|c| c.append(json, &mut plain))?;
        } else {
            plain.extend_from_slice(json);
        }
        let sealed = self.inner.key.seal(&plain)?;
        Ok((Id::hash(&sealed), Bytes::from(sealed)))
    }

    /// Writes such a file durably and returns its id: for tests, which forge files. A backup writes through
    /// `pipeline::save`, which proves what it wrote.
    #[cfg(test)]
    pub(crate) async fn save_unpacked(&self, kind: FileKind, json: &[u8]) -> Result<Id> {
        let (id, sealed) = self.seal_unpacked(json)?;
        self.inner.store.put(FileName { kind, id }, sealed.into(), PutMode::ContentAddressed).await?;
        Ok(id)
    }

    fn with_compressor<T>(&self, work: impl FnOnce(&mut Compressor) -> Result<T>) -> Result<T> {
        self.inner.compressors.with(Compressor::for_documents, work)
    }

    fn with_decompressor<T>(&self, work: impl FnOnce(&mut Decompressor) -> Result<T>) -> Result<T> {
        self.inner.decompressors.with(Decompressor::new, work)
    }

    /// One index file.
    pub(crate) async fn load_index_file(&self, id: &Id) -> Result<IndexFile> {
        self.load_as(FileKind::Index, id, Self::open_index_file).await
    }

    /// One index file, with our records in it.
    pub(crate) async fn load_index_and_records(&self, id: &Id) -> Result<(IndexFile, Records)> {
        let json = self.load_unpacked(FileKind::Index, id).await?;
        self.inner.pool.run(move || Ok((IndexFile::parse(&json)?, Records::parse(&json)?))).await?
    }

    /// Reads all index files. List snapshots before this, never after: then every snapshot seen is covered.
    pub fn load_index<'a>(&'a self, ctx: &'a Ctx) -> BoxFuture<'a, Result<Arc<Index>>> {
        Box::pin(async move {
            let builder = self.read_index_files(IndexBuilder::add, ctx).await?;
            self.inner.pool.run(move || Arc::new(builder.finish())).await
        })
    }

    /// The same for who only has to know what need not be stored again: it takes little more than half the memory.
    pub fn load_dedup_index<'a>(&'a self, ctx: &'a Ctx) -> BoxFuture<'a, Result<Arc<DedupIndex>>> {
        Box::pin(async move {
            let builder = self.read_index_files(DedupBuilder::add, ctx).await?;
            self.inner.pool.run(move || Arc::new(builder.finish())).await
        })
    }

    async fn read_index_files<B: Default>(&self, add: fn(&mut B, Id, IndexFile), ctx: &Ctx) -> Result<B> {
        // A file that vanishes after it was listed was replaced by another client's prune: look again.
        for _ in 0..3 {
            match ctx.run(self.read_listed_index_files(add)).await {
                Err(e) if e.kind() == ErrorKind::Missing => {}
                other => return other,
            }
        }
        ctx.run(self.read_listed_index_files(add)).await
    }

    async fn read_listed_index_files<B: Default>(&self, add: fn(&mut B, Id, IndexFile)) -> Result<B> {
        let listed = self.inner.store.list(FileKind::Index).await?;
        stream::iter(listed)
            .map(|entry| async move { Ok::<_, Error>((entry.id, self.load_index_file(&entry.id).await?)) })
            .buffer_unordered(PARALLEL)
            .try_fold(B::default(), |mut builder, (id, file)| async move {
                add(&mut builder, id, file);
                Ok(builder)
            })
            .await
    }
}

/// Values that are costly to make and used by one thread at a time.
mod parking {
    use std::sync::{Mutex, PoisonError};

    use crate::error::Result;

    pub(super) struct Parked<T>(Mutex<Vec<T>>);

    impl<T> Default for Parked<T> {
        fn default() -> Self {
            Self(Mutex::new(Vec::new()))
        }
    }

    impl<T> Parked<T> {
        /// Works with a parked value or a new one and parks it again.
        pub(super) fn with<R>(
            &self,
            make: impl FnOnce() -> Result<T>,
            work: impl FnOnce(&mut T) -> Result<R>,
        ) -> Result<R> {
            let parked = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut value = match parked {
                Some(value) => value,
                None => make()?,
            };
            let result = work(&mut value);
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(value);
            result
        }
    }
}
