//! What a writer said in the index is taken back when its lock was lost.
//!
//! Whoever took the lock away may have deleted packs of the writer that no index file named yet: to a prune they are
//! remains of a killed run. An index file that names them all the same is worse than none, since the next writer relies
//! on it: it stores nothing again, and its snapshot cannot be restored.
//!
//! Packs that are there stay in the index: others may have read it meanwhile, and committed what relies on them.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;

use super::save_index;
use crate::error::{Error, ErrorKind, Result};
use crate::format::index_file::IndexFile;
use crate::format::records::{Mark, Records};
use crate::id::Id;
use crate::pipeline;
use crate::repository::Repository;
use crate::store::{FileKind, FileName};

/// How long all of it may take: the loss may have come of a store that does not answer.
const PATIENCE: Duration = Duration::from_mins(2);

/// Replaces the index files that a writer has written by ones that name only packs that are there. `why` the run ended; it
/// is returned, with what to do when that did not work. For other reasons than a lost lock and what came of it, all is as it
/// should be.
pub(crate) async fn withdraw(repo: &Repository, files: &[Id], why: Error) -> Error {
    take_back(repo, files, true, why).await
}

/// As [`withdraw`], for files that say anew what others have said: who deletes one of their packs has marked it before, so
/// they need no marks of ours, and would be all of the repository.
pub(crate) async fn withdraw_restated(repo: &Repository, files: &[Id], why: Error) -> Error {
    take_back(repo, files, false, why).await
}

async fn take_back(repo: &Repository, files: &[Id], new: bool, why: Error) -> Error {
    if files.is_empty() || !matches!(why.kind(), ErrorKind::LockLost | ErrorKind::SnapshotInvalid) {
        return why;
    }
    // The run's own cancellation, which the loss has caused, must not keep it from this.
    let cause = match tokio::time::timeout(PATIENCE, replace(repo, files, new)).await {
        Ok(Ok(())) => return why,
        Ok(Err(e)) => e.chain(),
        Err(_) => "the store did not answer in time".to_owned(),
    };
    Error::with_source(
        why.kind(),
        format!(
            "the index may name packs that are gone, and could not be mended ({cause}): repair the index before the next \
             backup (`holdfast repo repair index`)"
        ),
        why,
    )
}

async fn replace(repo: &Repository, files: &[Id], new: bool) -> Result<()> {
    // Locks before packs. A prune that read the index before these files were written held its lock before that, and
    // holds it until it has deleted the last pack: where no lock is seen now, the listing shows all that it did.
    let settled = match repo.locks().await {
        Ok(locks) => !locks.iter().any(|(_, lock)| lock.exclusive),
        Err(_) => false,
    };
    let listed: HashSet<Id> =
        repo.store().list(FileKind::Pack).await?.into_iter().map(|entry| entry.id).collect();
    if new && !settled {
        mark(repo, files, &listed).await?;
    }
    for id in files {
        let Some(file) = load(repo, id).await? else { continue };
        let all = file.packs.len();
        let kept: Vec<_> = file.packs.into_iter().filter(|pack| listed.contains(&pack.id)).collect();
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

/// Sees to it that nothing new relies on packs of these files. What a prune that is still at work will delete, nobody knows:
/// what is needed of them and stays loses its mark at the next prune.
async fn mark(repo: &Repository, files: &[Id], listed: &HashSet<Id>) -> Result<()> {
    let mut marks = Vec::new();
    for id in files {
        let Some(file) = load(repo, id).await? else { continue };
        let packs = file.packs.into_iter().map(|pack| pack.id).filter(|pack| listed.contains(pack));
        marks.extend(packs.map(|pack| Mark { pack, since: Timestamp::MIN, by: "holdfast".to_owned() }));
    }
    let records = Records { marks, ..Records::default() };
    if !records.is_empty() {
        pipeline::save(repo, FileKind::Index, &records.to_json()?).await?;
    }
    Ok(())
}

/// None where a prune has replaced the file by its own.
async fn load(repo: &Repository, id: &Id) -> Result<Option<IndexFile>> {
    match repo.load_index_file(id).await {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == ErrorKind::Missing => Ok(None),
        Err(e) => Err(e),
    }
}
