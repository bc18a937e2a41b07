//! Bringing forgotten snapshots back.

use futures::future::BoxFuture;
use std::collections::HashMap;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Ctx, Event};
use crate::fence;
use crate::format::records::{ForgottenRecord, Records};
use crate::format::snapshot::Snapshot;
use crate::id::Id;
use crate::lock::LockGuard;
use crate::repository::Repository;
use crate::store::{FileKind, FileName, PutMode};

/// Index files read at a time.
const PARALLEL: usize = 8;

/// A snapshot that was forgotten and whose file is gone.
#[derive(Debug, Clone, PartialEq)]
pub struct Forgotten {
    /// Its id, which it gets back.
    pub id: Id,
    /// What it was.
    pub snapshot: Snapshot,
    /// When it was forgotten, the last time.
    pub at: Timestamp,
    sealed: Bytes,
}

/// The records in all index files.
pub(crate) async fn load_records(repo: &Repository, ctx: &Ctx) -> Result<Vec<(Id, Records)>> {
    let listed = ctx.run(repo.store().list(FileKind::Index)).await?;
    let all = stream::iter(listed)
        .map(|entry| async move {
            match repo.load_unpacked(FileKind::Index, &entry.id).await {
                Ok(json) => Ok(Some((entry.id, Records::parse(&json)?))),
                // Replaced by somebody's prune since it was listed; what it said is in another file, or void.
                Err(e) if e.kind() == ErrorKind::Missing => Ok(None),
                Err(e) => Err(e),
            }
        })
        .buffer_unordered(PARALLEL)
        .try_filter_map(|found| async move { Ok::<_, Error>(found.filter(|(_, r)| !r.is_empty())) })
        .try_collect();
    ctx.run(all).await
}

/// The snapshot that a record keeps.
pub(crate) fn snapshot_of(repo: &Repository, record: &ForgottenRecord) -> Result<Snapshot> {
    let json = repo.open_unpacked(FileKind::Snapshot, &record.snapshot, &record.sealed)?;
    serde_json::from_slice(&json).map_err(|e| {
        let what = format!("the record of the forgotten snapshot {} is not readable", record.snapshot);
        Error::with_source(ErrorKind::Corrupt, what, e)
    })
}

/// Snapshots that can be asked back, the last forgotten first. Whether their data are still there is found out by
/// [`unforget`].
pub fn forgotten<'a>(repo: &'a Repository, ctx: &'a Ctx) -> BoxFuture<'a, Result<Vec<Forgotten>>> {
    Box::pin(async move {
        let there: std::collections::HashSet<Id> =
            ctx.run(repo.store().list(FileKind::Snapshot)).await?.into_iter().map(|e| e.id).collect();
        let mut newest: HashMap<Id, ForgottenRecord> = HashMap::new();
        for (_, records) in load_records(repo, ctx).await? {
            for record in records.forgotten {
                // A record is written before its snapshot goes; one that never went is not forgotten.
                if there.contains(&record.snapshot) {
                    continue;
                }
                let at = record.at;
                let kept = newest.entry(record.snapshot).or_insert_with(|| record.clone());
                if at > kept.at {
                    *kept = record;
                }
            }
        }
        let mut all = Vec::with_capacity(newest.len());
        for record in newest.into_values() {
            let snapshot = snapshot_of(repo, &record)?;
            all.push(Forgotten {
                id: record.snapshot,
                snapshot,
                at: record.at,
                sealed: Bytes::from(record.sealed),
            });
        }
        all.sort_by_key(|f| (std::cmp::Reverse(f.at), std::cmp::Reverse(f.snapshot.time.timestamp), f.id));
        Ok(all)
    })
}

/// Brings forgotten snapshots back under their ids, after a look whether all their data are there. The caller holds
/// a lock.
///
/// # Errors
/// `Missing` when data of one were swept: none of them is brought back then.
pub fn unforget<'a>(
    repo: &'a Repository,
    lock: &'a LockGuard,
    these: &'a [Forgotten],
    ctx: &'a Ctx,
) -> BoxFuture<'a, Result<()>> {
    Box::pin(async move {
        ctx.events.event(Event::Phase("verify"));
        let trees: Vec<Id> = these.iter().map(|f| f.snapshot.tree).collect();
        fence::all_there(repo, &trees, ctx).await.map_err(|e| match e.kind() {
            ErrorKind::Missing => Error::with_source(
                ErrorKind::Missing,
                "data that these snapshots need were pruned already; nothing was brought back",
                e,
            ),
            _ => e,
        })?;
        lock.confirm().await?;
        for forgotten in these {
            ctx.check()?;
            let name = FileName { kind: FileKind::Snapshot, id: forgotten.id };
            repo.store().put(name, forgotten.sealed.clone().into(), PutMode::ContentAddressed).await?;
        }
        // Our lock kept every sweep away; without it the data may have gone meanwhile.
        lock.confirm().await?;
        fence::all_there(repo, &trees, ctx).await
    })
}
