//! Finding out whether a store can hold repositories: write, read back, list, delete a small object.

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{PutMode, Store};
use crate::error::{Error, ErrorKind, Result};

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    /// The store keeps a second writer from writing over a name that is taken. Without it two initialisations
    /// at the same moment are told apart only by reading back.
    pub create_only: bool,
    /// How long writing, reading, listing and deleting took together.
    pub duration: std::time::Duration,
}

/// Where probe objects lie, below the location.
const DIRECTORY: &str = "holdfast-probe";
/// Where keys that are good for probing alone may not write.
const ELSEWHERE: &str = "holdfast-unscoped";

/// What keys that are said to be good for probe objects alone are good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confinement {
    /// For nothing else: an object that they must not write was refused.
    Kept,
    /// For more: it was taken.
    Broken {
        /// Its path, where it could not be removed again.
        left: Option<String>,
    },
}

/// Tries to write what keys for probe objects must not write. One that is taken is removed at once. An error when it was
/// neither taken nor refused.
pub fn confinement(store: &dyn Store) -> BoxFuture<'_, Result<Confinement>> {
    Box::pin(async move {
        let path = format!("{ELSEWHERE}/{}", unique()?);
        let body =
            Bytes::from_static(b"keys for holdfast-probe/ alone have written this; it can be deleted\n");
        match store.put_extra(&path, body, PutMode::CreateNew).await {
            // It is proved, whether it can be undone or not.
            Ok(()) => Ok(Confinement::Broken { left: store.delete_extra(&path).await.err().map(|_| path) }),
            Err(e) if e.kind() == ErrorKind::AccessDenied => Ok(Confinement::Kept),
            Err(e) => Err(e),
        }
    })
}

/// A name that nobody has used.
fn unique() -> Result<String> {
    let mut random = [0_u8; 8];
    crate::crypto::random(&mut random)?;
    Ok(data_encoding::HEXLOWER.encode(&random))
}

/// Tries everything a repository needs, with an object of unique name beside it. The error's kind says precisely
/// what is wrong; nothing stays behind unless deleting is what fails.
pub fn probe(store: &dyn Store) -> BoxFuture<'_, Result<ProbeReport>> {
    Box::pin(async move {
        let started = std::time::Instant::now();
        let name = unique()?;
        let path = format!("{DIRECTORY}/{name}");
        let body = Bytes::from(format!("holdfast probe {name}\n"));
        // A listing first: many servers answer it with the precise reason when credentials or bucket are wrong.
        store.is_empty().await?;
        store.put_extra(&path, body.clone(), PutMode::CreateNew).await.map_err(|e| read_only(store, e))?;
        let tried = use_object(store, &path, &name, &body).await;
        let removed = store.delete_extra(&path).await.map_err(|e| append_only(store, e));
        let create_only = tried?;
        removed?;
        if store.get_extra(&path).await?.is_some() {
            return Err(Error::new(
                ErrorKind::Guard,
                format!(
                    "an object that was deleted from {} is still read: versions or a stale cache answer",
                    store.describe()
                ),
            ));
        }
        Ok(ProbeReport { create_only, duration: started.elapsed() })
    })
}

/// Listing worked: a refusal to write is no matter of keys or names.
fn read_only(store: &dyn Store, error: Error) -> Error {
    if error.kind() != ErrorKind::AccessDenied {
        return error;
    }
    let message = format!(
        "{} can be listed and not written to: the credentials may only read, or the store is read-only; allow them to \
         write, or restore from it by other means",
        store.describe()
    );
    Error::with_source(ErrorKind::ReadOnly, message, error)
}

fn append_only(store: &dyn Store, error: Error) -> Error {
    if error.kind() != ErrorKind::AccessDenied {
        return error;
    }
    let message = format!(
        "{} can be written to, and nothing can be removed: locks would stay for ever; allow the credentials to delete",
        store.describe()
    );
    Error::with_source(ErrorKind::AccessDenied, message, error)
}

async fn use_object(store: &dyn Store, path: &str, name: &str, body: &Bytes) -> Result<bool> {
    let read = store.get_extra(path).await?;
    if read.as_ref() != Some(body) {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("what was written to {} is not what is read back", store.describe()),
        ));
    }
    let listed = store.list_extra(DIRECTORY, 10_000).await?;
    if !listed.iter().any(|n| n == name) {
        return Err(Error::new(
            ErrorKind::Listing,
            format!("an object just written to {} is not in its listing", store.describe()),
        ));
    }
    match store.put_extra(path, Bytes::from_static(b"second"), PutMode::CreateNew).await {
        Ok(()) => Ok(false),
        Err(e) if e.kind() == ErrorKind::AlreadyInitialized => Ok(true),
        Err(e) => Err(e),
    }
}
