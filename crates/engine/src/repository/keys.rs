//! Opening with a password, and the key files that make it possible.

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
        ctx.run(Self::open_inner(store, password)).await
    }

    async fn open_inner(store: Arc<dyn Store>, password: &SecretString) -> Result<Self> {
        let sealed_config = match store.get(CONFIG, None).await {
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
        // One at a time: each attempt takes tens of MiB.
        let pool = WorkPool::new(
            "holdfast-work",
            std::thread::available_parallelism().map_or(2, |n| n.get().min(4)),
        )?;
        let Keys { files, mut damaged } = load_keys(&store).await?;
        let mut misfit = false;
        for (id, file) in files {
            let password = password.clone();
            let key = match pool.run(move || file.open(&password)).await? {
                Ok(Some(key)) => key,
                Ok(None) => continue,
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
    pub async fn add_key(
        &self,
        password: &SecretString,
        username: &str,
        hostname: &str,
        params: KdfParams,
    ) -> Result<Id> {
        let (repo, password) = (self.clone(), password.clone());
        let (username, hostname) = (username.to_owned(), hostname.to_owned());
        let file = self
            .inner
            .pool
            .run(move || make_key(repo.key(), &password, params, &username, &hostname))
            .await??;
        save_key(self.store().as_ref(), file).await
    }

    /// All readable keys, by id.
    pub async fn keys(&self) -> Result<Vec<KeyInfo>> {
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
    keys.files.sort_by_key(|(id, file)| (file.username == RECOVERY_USER, *id));
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
    store.put(FileName { kind: FileKind::Key, id }, file, PutMode::ContentAddressed).await?;
    Ok(id)
}
