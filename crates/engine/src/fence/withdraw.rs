//! What a writer said in the index is taken back when its lock was lost.
//!
//! Whoever took the lock away may have deleted packs of the writer that no index file named yet: to a prune they are
//! remains of a killed run. An index file that names them all the same is worse than none, since the next writer relies
//! on it: it stores nothing again, and its snapshot cannot be restored.

use std::collections::HashSet;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::repository::Repository;
use crate::store::{FileKind, FileName};
use crate::write::save_index;

/// How long all of it may take: the loss may have come of a store that does not answer.
const PATIENCE: Duration = Duration::from_mins(2);

/// Replaces the index files that a writer has written, and on which no snapshot of its relies, by ones that name only
/// packs that are there. `lost` is why; it is returned, with what to do when that did not work.
pub(crate) async fn withdraw(repo: &Repository, files: &[Id], lost: Error) -> Error {
    if files.is_empty() || lost.kind() != ErrorKind::LockLost {
        return lost;
    }
    // The run's own cancellation, which the loss has caused, must not keep it from this.
    let why = match tokio::time::timeout(PATIENCE, replace(repo, files)).await {
        Ok(Ok(())) => return lost,
        Ok(Err(e)) => e.chain(),
        Err(_) => "the store did not answer in time".to_owned(),
    };
    Error::with_source(
        ErrorKind::LockLost,
        format!(
            "nothing was committed, but the index may name packs that are gone, and could not be mended ({why}): repair \
             the index before the next backup (`holdfast repo repair index`)"
        ),
        lost,
    )
}

async fn replace(repo: &Repository, files: &[Id]) -> Result<()> {
    // Locks before packs. A prune that read the index before these files were written held its lock before that, and
    // holds it until it has deleted the last pack: where no lock is seen now, the listing shows all that it did.
    let settled = match repo.locks().await {
        Ok(locks) => !locks.iter().any(|(_, lock)| lock.exclusive),
        Err(_) => false,
    };
    let listed: HashSet<Id> =
        repo.store().list(FileKind::Pack).await?.into_iter().map(|entry| entry.id).collect();
    for id in files {
        let file = match repo.load_index_file(id).await {
            Ok(file) => file,
            // A prune has replaced it by its own.
            Err(e) if e.kind() == ErrorKind::Missing => continue,
            Err(e) => return Err(e),
        };
        let all = file.packs.len();
        // What a prune that is still at work will delete, nobody knows. What it leaves is stored once more.
        let kept: Vec<_> =
            file.packs.into_iter().filter(|pack| settled && listed.contains(&pack.id)).collect();
        if kept.len() == all {
            continue;
        }
        save_index(repo, kept).await?;
        match repo.store().delete(FileName { kind: FileKind::Index, id: *id }).await {
            Err(e) if e.kind() == ErrorKind::Missing => {}
            other => other?,
        }
    }
    Ok(())
}
