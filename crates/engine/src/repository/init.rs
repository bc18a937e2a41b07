//! Making a new repository, once, even when several try at the same moment.

use futures::future::BoxFuture;
use std::sync::Arc;

use bytes::Bytes;
use secrecy::SecretString;

use super::Repository;
use super::keys::{CONFIG, RECOVERY_USER, make_key, save_key};
use crate::chunk::Polynomial;
use crate::crypto::{KdfParams, Key};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Ctx;
use crate::format::config::Config;
use crate::id::Id;
use crate::store::{FileKind, FileName, PutMode, Store, unfinished};
use crate::work_pool::WorkPool;

/// What a new repository shall be like.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// The password for daily use.
    pub password: SecretString,
    /// The storage's recovery password: a second key.
    pub recovery_password: Option<SecretString>,
    /// Format version: 2, or 1 for clients older than restic 0.14.
    pub version: u32,
    /// Written into the key files, for people.
    pub hostname: String,
    /// Written into the key files, for people.
    pub username: String,
}

/// What may lie beside a new repository: our own descriptions, and what file systems put at a volume's root.
const TOLERATED: [&str; 3] = ["repository.yaml", "metadata.yaml", "lost+found/"];
/// Directories of the format itself; an interrupted initialisation leaves them empty.
const OWN: [&str; 6] = ["data/", "index/", "keys/", "locks/", "snapshots/", "config"];

impl Repository {
    /// Whether a repository lies there. Only definite answers: what cannot be looked at is an error, not "no".
    pub fn exists(store: &dyn Store) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move {
            // The listing comes first: it tells wrong credentials and missing buckets apart from an absent file,
            // which the answer to a single request cannot on every server.
            let empty = store.is_empty().await?;
            if empty {
                return Ok(false);
            }
            match store.size(CONFIG).await {
                Ok(_) => Ok(true),
                Err(e) if e.kind() == ErrorKind::Missing => Ok(false),
                Err(e) => Err(e),
            }
        })
    }

    /// Makes a repository.
    ///
    /// `AlreadyInitialized` when there is one, or another process makes one at the same moment;
    /// `ForeignContent` when the place holds other things, or a repository that lost its config.
    pub fn init<'a>(
        store: Arc<dyn Store>,
        options: &'a InitOptions,
        ctx: &'a Ctx,
    ) -> BoxFuture<'a, Result<Self>> {
        Box::pin(async move { Self::init_with(store, options, None, ctx).await })
    }

    /// As [`Repository::init`], with the chunker polynomial of another repository: files that are backed up into both
    /// are cut at the same places, so that snapshots copied between them share their content.
    pub fn init_like<'a>(
        store: Arc<dyn Store>,
        options: &'a InitOptions,
        other: &'a Self,
        ctx: &'a Ctx,
    ) -> BoxFuture<'a, Result<Self>> {
        Box::pin(async move {
            Self::init_with(store, options, Some(other.config().chunker_polynomial), ctx).await
        })
    }

    async fn init_with(
        store: Arc<dyn Store>,
        options: &InitOptions,
        polynomial: Option<Polynomial>,
        ctx: &Ctx,
    ) -> Result<Self> {
        if Self::exists(store.as_ref()).await? {
            return Err(already(store.as_ref()));
        }
        refuse_foreign(store.as_ref()).await?;
        let mut config = Config::generate(options.version)?;
        config.chunker_polynomial = polynomial.unwrap_or(config.chunker_polynomial);
        let master = Key::generate()?;
        let pool = WorkPool::new(
            "holdfast-work",
            std::thread::available_parallelism().map_or(2, |n| n.get().min(4)),
        )?;
        store.prepare().await?;

        // Keys that are here before our config cannot be for our master key: they are left from an
        // initialisation that died, or belong to one that is about to lose.
        let stale = store.list(FileKind::Key).await?;
        let mut passwords = vec![(&options.password, options.username.as_str())];
        if let Some(recovery) = &options.recovery_password {
            passwords.push((recovery, RECOVERY_USER));
        }
        let master = Arc::new(master);
        let mut ours: Vec<Id> = Vec::new();
        for (password, username) in passwords {
            let (password, username, hostname) =
                (password.clone(), username.to_owned(), options.hostname.clone());
            let params = kdf_params(&password);
            let sealing = Arc::clone(&master);
            let made =
                ctx.run(pool.run(move || make_key(&sealing, &password, params, &username, &hostname))).await;
            let saved = match made {
                Ok(Ok(file)) => save_key(store.as_ref(), file).await,
                Ok(Err(e)) | Err(e) => Err(e),
            };
            match saved {
                Ok(id) => ours.push(id),
                Err(e) => {
                    remove_keys(store.as_ref(), &ours).await;
                    return Err(e);
                }
            }
        }

        let json = serde_json::to_vec(&config).map_err(|e| {
            Error::with_source(ErrorKind::Internal, "the config could not be written as JSON", e)
        })?;
        let sealed = Bytes::from(master.seal(&json)?);
        let written = match store.put(CONFIG, sealed.clone().into(), PutMode::CreateNew).await {
            // Some servers do not know "only if absent" and write over; what lies there decides.
            Ok(()) => store.get(CONFIG, None).await.map(|stored| stored == sealed),
            Err(e) if e.kind() == ErrorKind::AlreadyInitialized => Ok(false),
            Err(e) => Err(e),
        };
        match written {
            Ok(true) => {}
            Ok(false) => {
                remove_keys(store.as_ref(), &ours).await;
                return Err(already(store.as_ref()));
            }
            // The config may or may not be there: our keys must stay, else it could never be opened.
            Err(e) => return Err(e),
        }
        let stale: Vec<Id> = stale.into_iter().map(|e| e.id).collect();
        remove_keys(store.as_ref(), &stale).await;
        let Some(key_id) = ours.first().copied() else {
            return Err(Error::new(ErrorKind::Internal, "a repository was made without a key"));
        };
        let master = Arc::into_inner(master)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "the master key is still in use"))?;
        Ok(Self::new(store, master, key_id, config, pool))
    }
}

fn already(store: &dyn Store) -> Error {
    Error::new(
        ErrorKind::AlreadyInitialized,
        format!("there is a repository at {} already", store.describe()),
    )
}

/// Passwords that programs make are long and random; people's are neither, so guessing them must cost more.
pub(super) fn kdf_params(password: &SecretString) -> KdfParams {
    use secrecy::ExposeSecret as _;
    if password.expose_secret().len() >= 40 { KdfParams::RANDOM_PASSWORD } else { KdfParams::CHOSEN_PASSWORD }
}

/// Ours, or half of a file of ours: an initialisation that was killed in the middle of a write leaves that on a disk.
fn is_ours(name: &str) -> bool {
    let name = unfinished(name).unwrap_or(name);
    TOLERATED.contains(&name) || OWN.contains(&name)
}

async fn refuse_foreign(store: &dyn Store) -> Result<()> {
    let names = store.list_extra("", 1000).await?;
    let foreign: Vec<&str> = names.iter().map(String::as_str).filter(|n| !is_ours(n)).take(3).collect();
    if !foreign.is_empty() {
        return Err(Error::new(
            ErrorKind::ForeignContent,
            format!(
                "{} holds something that is no repository ({}); choose an empty place",
                store.describe(),
                foreign.join(", ")
            ),
        ));
    }
    for (kind, what) in [(FileKind::Snapshot, "snapshots"), (FileKind::Index, "index files")] {
        if !store.list(kind).await?.is_empty() {
            return Err(Error::new(
                ErrorKind::ForeignContent,
                format!(
                    "{} holds {what} but no config: a damaged repository, which must not be written over; \
                    bring its config back, or choose another place",
                    store.describe()
                ),
            ));
        }
    }
    Ok(())
}

/// Best effort: a key that stays opens nothing.
async fn remove_keys(store: &dyn Store, ids: &[Id]) {
    for id in ids {
        if let Err(e) = store.delete(FileName { kind: FileKind::Key, id: *id }).await {
            tracing::warn!(key = %id, error = %e.chain(), "a key that opens nothing could not be removed");
        }
    }
}
