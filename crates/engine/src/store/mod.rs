//! Where a repository's files lie: one narrow trait, with an adapter a kind of store.
//!
//! Not here: what the files mean (see `format`), or when to try again (see `store::retry`).

mod answer;
mod cloud;
pub mod fault;
mod local;
pub mod location;
mod options;
mod pace;
mod probe;
pub(crate) mod rehearsal;
mod rest;
mod retention;
pub mod retry;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::event::Ctx;
use crate::id::Id;

pub use cloud::lifecycle::{Lifecycle, LifecycleRule, lifecycle};
pub use location::{Location, Login};
/// What is written: bytes in one piece or in several, which are shared and not copied.
pub use object_store::PutPayload;
pub use options::{AzureOptions, GcsOptions, KeySource, RestOptions, S3Identity, S3Options, StoreOptions};
pub use pace::Pace;
pub use probe::{Confinement, ProbeReport, confinement, probe};
pub use retention::{ObjectLock, Retention, RetentionMode};
pub use retry::RetryPolicy;

/// The longest file beside the repository's own that is read, in bytes.
const LONGEST_EXTRA: u64 = 80 << 20;

/// The error for a file that is longer than any of its kind, of which nothing was read.
fn too_long(what: &str, length: u64, most: u64) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "{what}: it has {length} bytes and no such file has more than {most}; somebody else put it there"
        ),
    )
}

/// The name that a file was to get whose writer died, by the name that its beginning has on a disk, of ours and of restic's
/// making: `<name>-tmp-<random>`.
pub(crate) fn unfinished(name: &str) -> Option<&str> {
    let (of, random) = name.split_once("-tmp-")?;
    (!random.is_empty() && random.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(of)
}

/// Opens a store, with the layer that tries again, and the one that goes easy on the line where that is asked for.
pub fn open(location: &Location, options: &StoreOptions, ctx: &Ctx) -> Result<Arc<dyn Store>> {
    let inner: Arc<dyn Store> = match location {
        Location::Local(path) => Arc::new(local::LocalStore::new(path.clone())?),
        Location::S3 { .. } | Location::Gcs { .. } | Location::Azure { .. } => {
            Arc::new(cloud::CloudStore::new(location, options)?)
        }
        Location::Rest { url, login } => Arc::new(rest::RestStore::new(url, login.as_ref(), options)?),
    };
    let store: Arc<dyn Store> = Arc::new(retry::RetryStore::new(inner, options.retry.clone(), ctx.clone()));
    if options.pace == Pace::default() {
        return Ok(store);
    }
    Ok(Arc::new(pace::PacedStore::new(store, options.pace, ctx.clone())))
}

/// The kinds of file a repository consists of (restic format, "Repository Layout").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileKind {
    /// `config`: one file of fixed name.
    Config,
    /// `keys/<id>`.
    Key,
    /// `locks/<id>`.
    Lock,
    /// `snapshots/<id>`.
    Snapshot,
    /// `index/<id>`.
    Index,
    /// `data/<first two hex digits>/<id>`.
    Pack,
}

/// One file's name within a repository. The id of `Config` is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileName {
    /// Which kind of file.
    pub kind: FileKind,
    /// Its id.
    pub id: Id,
}

impl FileKind {
    /// The directory of these files (for `Config`: the file's name).
    pub fn directory(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Key => "keys",
            Self::Lock => "locks",
            Self::Snapshot => "snapshots",
            Self::Index => "index",
            Self::Pack => "data",
        }
    }
}

impl FileKind {
    /// What a repository is for: it is empty when it has none of these.
    const CONTENT: [Self; 3] = [Self::Snapshot, Self::Index, Self::Pack];

    /// The longest such file that is read whole, in bytes: many times what any client writes. Whoever can write to the
    /// store could otherwise have every run die of a single file, for nothing can be told of one before it is read.
    pub(crate) fn longest(self) -> u64 {
        match self {
            Self::Config | Self::Key | Self::Lock => 1 << 20,
            Self::Snapshot => 64 << 20,
            Self::Index => 256 << 20,
            Self::Pack => 4 << 30,
        }
    }

    /// One of them, in words.
    pub fn singular(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Key => "key",
            Self::Lock => "lock",
            Self::Snapshot => "snapshot",
            Self::Index => "index file",
            Self::Pack => "pack",
        }
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            FileKind::Config => f.write_str("config"),
            kind => write!(f, "{}/{}", kind.directory(), self.id),
        }
    }
}

impl FileName {
    /// Path below the repository's location, on disks and in buckets alike.
    pub(crate) fn path(&self) -> String {
        match self.kind {
            FileKind::Config => "config".to_owned(),
            FileKind::Pack => {
                let hex = self.id.to_hex();
                format!("data/{}/{hex}", hex.get(..2).unwrap_or_default())
            }
            kind => format!("{}/{}", kind.directory(), self.id),
        }
    }
}

/// One row of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The file's id.
    pub id: Id,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last written by the store's clock, in seconds since 1970, where the store tells.
    pub modified: Option<i64>,
}

/// Whether a write may find the name taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutMode {
    /// The name is the content's digest: finding it there with the same size is success.
    ContentAddressed,
    /// Nothing may be there yet; `ErrorKind::AlreadyInitialized` if there is.
    CreateNew,
}

/// A place that holds one repository. All calls are safe to run side by side.
///
/// Every adapter: a listing is whole or an error; a read returns exactly the bytes asked for or an error;
/// "absent" (`ErrorKind::Missing`) only for a definite not-found.
#[async_trait::async_trait]
pub trait Store: Send + Sync {
    /// All files of one kind. Names that are no ids are left out, as are empty lock files. A directory that a repository
    /// should have and has not is no empty one: `ErrorKind::Listing`.
    async fn list(&self, kind: FileKind) -> Result<Vec<Entry>>;

    /// The whole file, or `range` of it; exactly that many bytes, else an error.
    async fn get(&self, name: FileName, range: Option<Range<u64>>) -> Result<Bytes>;

    /// The last `len` bytes of the file (all of it when it is shorter).
    async fn get_suffix(&self, name: FileName, len: u64) -> Result<Bytes>;

    /// Size in bytes.
    async fn size(&self, name: FileName) -> Result<u64>;

    /// Writes a whole file durably; it is visible under its name only when complete.
    async fn put(&self, name: FileName, body: PutPayload, mode: PutMode) -> Result<()>;

    /// Removes a file; `Ok` when it was not there.
    async fn delete(&self, name: FileName) -> Result<()>;

    /// Whether anything at all (of a repository or not) lies at this location, looked at by a real listing.
    async fn is_empty(&self) -> Result<bool>;

    /// Prepares an empty location for a new repository (directories where the store has such).
    async fn prepare(&self) -> Result<()>;

    /// Reads a file beside the repository's own (`repository.yaml`, `../metadata.yaml`), by its path
    /// relative to the location. `None` when it is definitely absent.
    async fn get_extra(&self, path: &str) -> Result<Option<Bytes>>;

    /// Writes such a file; with `CreateNew`, `ErrorKind::AlreadyInitialized` when it is there.
    async fn put_extra(&self, path: &str, body: Bytes, mode: PutMode) -> Result<()>;

    /// Removes such a file.
    async fn delete_extra(&self, path: &str) -> Result<()>;

    /// What lies directly below a directory, which is relative to the location (empty: the location itself):
    /// names of files, and names of directories with a `/` at their end; at most `limit`. One level only, so
    /// that looking for repositories in a storage never walks through their packs. Nothing there: empty.
    async fn list_extra(&self, directory: &str, limit: usize) -> Result<Vec<String>>;

    /// Removes what writers that died left half written for longer than `age`; gives how many files. Stores where a
    /// file is whole or not there have none.
    async fn remove_unfinished(&self, _age: Duration) -> Result<u64> {
        Ok(0)
    }

    /// What the store does by itself to keep files from being deleted; `None` when it could, but is not set up to.
    /// `Usage` where it never can.
    async fn object_lock(&self) -> Result<Option<ObjectLock>> {
        Err(retention::not_offered(&self.describe()))
    }

    /// How the store keeps this file from being deleted; `None` when it does not.
    async fn retention(&self, _name: FileName) -> Result<Option<Retention>> {
        Err(retention::not_offered(&self.describe()))
    }

    /// Keeps this file from being deleted. A date that is earlier than the file's is refused by the store.
    async fn retain(&self, _name: FileName, _retention: Retention) -> Result<()> {
        Err(retention::not_offered(&self.describe()))
    }

    /// Whether a listing that begins after a write has returned shows what was written, whoever lists and however
    /// soon. Only where that is certain.
    async fn lists_at_once(&self) -> bool {
        false
    }

    /// The location for people and error messages, without secrets.
    fn describe(&self) -> String;

    /// How often the credentials were changed since the store was opened.
    fn credentials_epoch(&self) -> u64 {
        0
    }

    /// Reads the credentials again after the store refused those of `epoch`. Whether there are other ones now.
    fn renew_credentials(&self, _epoch: u64) -> bool {
        false
    }
}
