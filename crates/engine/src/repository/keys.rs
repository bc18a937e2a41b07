//! Opening with a password, and the key files that make it possible.

use futures::future::BoxFuture;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use secrecy::SecretString;

use super::{PARALLEL, Repository};
use crate::crypto::{KdfParams, Key};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Ctx;
use crate::format::config::Config;
use crate::format::key_file::KeyFile;
use crate::format::time::OffsetTime;
use crate::id::Id;
use crate::lock::LockGuard;
use crate::store::{FileKind, FileName, PutMode, Store};
use crate::work_pool::WorkPool;

/// User name in the key file of a recovery password: such keys are tried last.
pub(super) const RECOVERY_USER: &str = "holdfast-recovery";

/// The name of the one config file.
pub(super) const CONFIG: FileName = FileName { kind: FileKind::Config, id: Id::from_bytes([0; 32]) };

/// A key of the repository, without anything secret.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyInfo {
    /// Its file's id.
    pub id: Id,
    /// Who made it.
    pub username: String,
    /// Where.
    pub hostname: String,
    /// When.
    pub created: Option<OffsetTime>,
    /// Whether the repository was opened with it.
    pub current: bool,
}

impl Repository {
    /// Opens a repository. `NotARepository` when there is definitely none, `WrongPassword` when no key opens.
    pub async fn open(store: Arc<dyn Store>, password: &SecretString, ctx: &Ctx) -> Result<Self> {
        Self::open_hinted(store, password, None, ctx).await
    }

    /// As [`Repository::open`]; the key whose id begins with `hint` is tried before the others, where there is one.
    pub fn open_hinted<'a>(
        store: Arc<dyn Store>,
        password: &'a SecretString,
        hint: Option<&'a str>,
        ctx: &'a Ctx,
    ) -> BoxFuture<'a, Result<Self>> {
        Box::pin(async move { ctx.run(Self::open_inner(store, password, hint)).await })
    }

    async fn open_inner(store: Arc<dyn Store>, password: &SecretString, hint: Option<&str>) -> Result<Self> {
        let (sealed_config, keys) = tokio::join!(store.get(CONFIG, None), load_keys(&store));
        let sealed_config = match sealed_config {
            Err(e) if e.kind() == ErrorKind::Missing => {
                return Err(Error::with_source(
                    ErrorKind::NotARepository,
                    format!(
                        "there is no repository at {}; check the location, or initialise one",
                        store.describe()
                    ),
                    e,
                ));
            }
            other => other?,
        };
        let Keys { mut files, mut damaged } = keys?;
        if let Some(hint) = hint.filter(|hint| !hint.is_empty()) {
            // Stable: the others keep their order.
            files.sort_by_key(|(id, _)| !id.to_hex().starts_with(hint));
        }
        // One at a time: each attempt takes tens of MiB.
        let pool = WorkPool::new(
            "holdfast-work",
            std::thread::available_parallelism().map_or(2, |n| n.get().min(4)),
        )?;
        let (mut misfit, mut tried) = (false, false);
        for (id, file) in files {
            let password = password.clone();
            let key = match pool.run(move || file.open(&password)).await? {
                Ok(Some(key)) => key,
                Ok(None) => {
                    tried = true;
                    continue;
                }
                Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Format) => {
                    damaged.push(e);
                    continue;
                }
                Err(e) => return Err(e),
            };
            // A key of an initialisation that lost a race may be left: it opens, but not this config.
            let Ok(json) = key.open(&sealed_config) else {
                misfit = true;
                continue;
            };
            let config = Config::parse(&json)?;
            return Ok(Self::new(store, key, id, config, pool));
        }
        let place = store.describe();
        if misfit {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "the password opens a key of {place}, but the key does not open the config: the config is damaged"
                ),
            ));
        }
        match damaged.into_iter().next() {
            // No password was even tried: it must not be called wrong.
            Some(e) if !tried => Err(Error::with_source(
                e.kind(),
                format!(
                    "every key file of {place} is damaged, and without one no password opens it; put keys/ back from \
                     a copy of the repository"
                ),
                e,
            )),
            None if !tried => Err(Error::new(
                ErrorKind::Missing,
                format!(
                    "{place} has a config but no key file, and without one no password opens it; put keys/ back from \
                     a copy of the repository"
                ),
            )),
            Some(e) => Err(Error::with_source(
                ErrorKind::WrongPassword,
                format!(
                    "no readable key of {place} opens with this password, and at least one key file is damaged"
                ),
                e,
            )),
            None => Err(Error::new(
                ErrorKind::WrongPassword,
                format!("no key of {place} opens with this password"),
            )),
        }
    }

    /// Adds a password that opens the repository. `username` and `hostname` say who added it, for people.
    pub fn add_key<'a>(
        &'a self,
        password: &'a SecretString,
        username: &'a str,
        hostname: &'a str,
        params: KdfParams,
    ) -> BoxFuture<'a, Result<Id>> {
        Box::pin(async move {
            let (repo, password) = (self.clone(), password.clone());
            let (username, hostname) = (username.to_owned(), hostname.to_owned());
            let file = self
                .inner
                .pool
                .run(move || make_key(repo.key(), &password, params, &username, &hostname))
                .await??;
            save_key(self.store().as_ref(), file).await
        })
    }

    /// All readable keys, by id.
    pub fn keys(&self) -> BoxFuture<'_, Result<Vec<KeyInfo>>> {
        Box::pin(async move {
            let mut keys: Vec<KeyInfo> = load_keys(self.store())
                .await?
                .files
                .into_iter()
                .map(|(id, file)| KeyInfo {
                    id,
                    username: file.username,
                    hostname: file.hostname,
                    created: file.created,
                    current: id == self.inner.key_id,
                })
                .collect();
            keys.sort_by_key(|k| k.id);
            Ok(keys)
        })
    }
}

impl Repository {
    /// Takes a password away. `id` is a key's id or the beginning of exactly one.
    ///
    /// `Guard` for the key that the repository was opened with: so there is always one left, whose password somebody
    /// just proved to know. The caller holds an exclusive lock: two that remove each other's key would leave none.
    pub fn remove_key<'a>(&'a self, lock: &'a LockGuard, id: &'a str) -> BoxFuture<'a, Result<Id>> {
        Box::pin(async move {
            let id = self.find_file(FileKind::Key, id).await?;
            if id == self.inner.key_id {
                return Err(Error::new(
                    ErrorKind::Guard,
                    format!(
                        "key {} is the one that {} was opened with; open it with another password to remove this one",
                        id.short(),
                        self.store().describe()
                    ),
                ));
            }
            self.refuse_append_only()?;
            lock.confirm().await?;
            self.store().delete(FileName { kind: FileKind::Key, id }).await?;
            Ok(id)
        })
    }

    /// Replaces the password that the repository was opened with: adds the new one, proves that it opens, removes
    /// the old one. The repository as it was opened with the new one, and the removed key.
    ///
    /// Whoever knew the old password and kept a copy of its key file can still derive the master key; only copying
    /// into a new repository ends that.
    pub fn change_password<'a>(
        &'a self,
        lock: &'a LockGuard,
        password: &'a SecretString,
        username: &'a str,
        hostname: &'a str,
        ctx: &'a Ctx,
    ) -> BoxFuture<'a, Result<(Self, Id)>> {
        Box::pin(async move {
            self.refuse_append_only()?;
            let old = self.inner.key_id;
            if let Some(opened) = self.opened_by_added(password, username, hostname, ctx).await? {
                lock.confirm().await?;
                self.store().delete(FileName { kind: FileKind::Key, id: old }).await?;
                return Ok((opened, old));
            }
            let new = self.add_key_for(password, username, hostname).await?;
            let opened = Self::open(Arc::clone(self.store()), password, ctx).await?;
            if opened.inner.key_id == old {
                // The same password as before: the old key opens with it too, and which is tried first is chance.
                let file = self.store().get(FileName { kind: FileKind::Key, id: new }, None).await?;
                let (parsed, trial) = (KeyFile::parse(&file)?, password.clone());
                if self.inner.pool.run(move || parsed.open(&trial)).await??.is_none() {
                    return Err(Error::new(
                        ErrorKind::Internal,
                        format!("the new key {new} does not open with its password; the old one stays"),
                    ));
                }
            }
            lock.confirm().await?;
            self.store().delete(FileName { kind: FileKind::Key, id: old }).await?;
            Ok((opened, old))
        })
    }

    /// The repository as another key of this person opens it with this password, if there is one: a change of the password
    /// that died before it removed the old key has left it. A second one would outlive the next change.
    async fn opened_by_added(
        &self,
        password: &SecretString,
        username: &str,
        hostname: &str,
        ctx: &Ctx,
    ) -> Result<Option<Self>> {
        let opened = match Self::open(Arc::clone(self.store()), password, ctx).await {
            // No key of the repository opens with it; one that fits no config is no key of it.
            Err(e)
                if matches!(e.kind(), ErrorKind::WrongPassword | ErrorKind::Corrupt | ErrorKind::Format) =>
            {
                return Ok(None);
            }
            other => other?,
        };
        let by = opened.inner.key_id;
        let keys = self.keys().await?;
        let added =
            keys.iter().any(|key| key.id == by && key.username == username && key.hostname == hostname);
        Ok((added && by != self.inner.key_id).then_some(opened))
    }

    /// Adds a password, as costly to guess as its length calls for.
    pub async fn add_key_for(&self, password: &SecretString, username: &str, hostname: &str) -> Result<Id> {
        self.add_key(password, username, hostname, super::init::kdf_params(password)).await
    }

    /// The id of the key that the repository was opened with.
    pub fn key_id(&self) -> Id {
        self.inner.key_id
    }
}

struct Keys {
    /// Those most likely to be meant first.
    files: Vec<(Id, KeyFile)>,
    damaged: Vec<Error>,
}

async fn load_keys(store: &Arc<dyn Store>) -> Result<Keys> {
    let listed = store.list(FileKind::Key).await?;
    let read: Vec<(Id, Result<KeyFile>)> = stream::iter(listed)
        .map(|entry| async move {
            let bytes = match store.get(FileName { kind: FileKind::Key, id: entry.id }, None).await {
                Err(e) if e.kind() == ErrorKind::Missing => return Ok(None),
                // Too long for a key file.
                Err(e) if e.kind() == ErrorKind::Corrupt => return Ok(Some((entry.id, Err(e)))),
                other => other?,
            };
            let parsed = if Id::hash(&bytes) == entry.id {
                KeyFile::parse(&bytes)
            } else {
                Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("the content of key {} does not fit its name", entry.id),
                ))
            };
            Ok::<_, Error>(Some((entry.id, parsed)))
        })
        .buffer_unordered(PARALLEL)
        .try_filter_map(|found| async move { Ok(found) })
        .try_collect()
        .await?;
    let mut keys = Keys { files: Vec::new(), damaged: Vec::new() };
    for (id, parsed) in read {
        match parsed {
            Ok(file) => keys.files.push((id, file)),
            Err(e) => keys.damaged.push(e),
        }
    }
    // Key files need no key to be written: a heap of costly ones must not keep the good one waiting.
    keys.files.sort_by_key(|(id, file)| (file.username == RECOVERY_USER, file.params().work(), *id));
    Ok(keys)
}

/// Makes a key file's bytes. Takes the time that `params` say.
pub(super) fn make_key(
    master: &Key,
    password: &SecretString,
    params: KdfParams,
    username: &str,
    hostname: &str,
) -> Result<Bytes> {
    let created = OffsetTime::utc(Timestamp::now());
    let file = KeyFile::create(master, password, params, username, hostname, created)?;
    Ok(Bytes::from(file.to_json()?))
}

/// Stores a key file under its digest.
pub(super) async fn save_key(store: &dyn Store, file: Bytes) -> Result<Id> {
    let id = Id::hash(&file);
    store.put(FileName { kind: FileKind::Key, id }, file.into(), PutMode::ContentAddressed).await?;
    Ok(id)
}
