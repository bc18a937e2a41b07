//! Everything a prune looks at, read in the order that makes it safe: snapshots, then index, then packs. What a
//! snapshot of the listing needs was written before it, so it is in what is read after.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;

use super::plan::View;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Ctx;
use crate::format::records::Records;
use crate::format::snapshot::Snapshot;
use crate::id::Id;
use crate::index::{Index, IndexBuilder};
use crate::lock::LockGuard;
use crate::reach::{BlobSet, Walk};
use crate::read::own_thread;
use crate::repository::Repository;
use crate::store::{Entry, FileKind};

/// Small files read at a time.
const PARALLEL: usize = 8;

/// What was read.
pub(super) struct Facts {
    pub(super) snapshots: Vec<(Id, Snapshot)>,
    pub(super) index: Arc<Index>,
    /// The index files; `homes` counts in this list.
    pub(super) files: Vec<Id>,
    /// Which index files list a pack.
    pub(super) homes: HashMap<Id, Vec<u32>>,
    /// Index files with records of ours.
    pub(super) records: Vec<(Id, Records)>,
    /// Since when each pack is marked: the earliest of its marks.
    pub(super) marks: HashMap<Id, Timestamp>,
    pub(super) listed: HashMap<Id, Entry>,
}

impl Facts {
    pub(super) fn snapshot_ids(&self) -> HashSet<Id> {
        self.snapshots.iter().map(|(id, _)| *id).collect()
    }
}

/// Reads everything, but does not stumble over the snapshots of `without`, which the caller leaves out. Any failure is one of
/// the whole: nothing is deleted on half a view.
pub(super) async fn load(repo: &Repository, without: &[Id], ctx: &Ctx) -> Result<Facts> {
    let mut list = ctx.run(repo.list_snapshots()).await?;
    list.damaged.retain(|damaged| !without.contains(&damaged.id));
    let snapshots = list.all()?;
    // A file that vanishes after it was listed was replaced by somebody: look again.
    let mut attempt = 0;
    let (index, files, homes, records) = loop {
        attempt += 1;
        match ctx.run(load_index(repo)).await {
            Err(e) if e.kind() == ErrorKind::Missing && attempt < 4 => {}
            other => break other?,
        }
    };
    let listed = ctx.run(repo.store().list(FileKind::Pack)).await?;
    let mut marks: HashMap<Id, Timestamp> = HashMap::new();
    for mark in records.iter().flat_map(|(_, r)| &r.marks).filter(|m| m.since != Timestamp::MIN) {
        let since = marks.entry(mark.pack).or_insert(mark.since);
        *since = (*since).min(mark.since);
    }
    let listed = listed.into_iter().map(|entry| (entry.id, entry)).collect();
    Ok(Facts { snapshots, index: Arc::new(index), files, homes, records, marks, listed })
}

type Loaded = (Index, Vec<Id>, HashMap<Id, Vec<u32>>, Vec<(Id, Records)>);

async fn load_index(repo: &Repository) -> Result<Loaded> {
    let listed = repo.store().list(FileKind::Index).await?;
    let loads = stream::iter(listed)
        .map(|entry| async move { Ok::<_, Error>((entry.id, repo.load_index_and_records(&entry.id).await?)) })
        .buffer_unordered(PARALLEL);
    let start = (IndexBuilder::new(), Vec::new(), HashMap::new(), Vec::new());
    let (builder, files, homes, records) = loads
        .try_fold(start, |(mut builder, mut files, mut homes, mut records), (id, (file, ours))| async move {
            let number = u32::try_from(files.len()).unwrap_or(u32::MAX);
            files.push(id);
            for pack in &file.packs {
                let homes: &mut Vec<u32> = homes.entry(pack.id).or_default();
                if homes.last() != Some(&number) {
                    homes.push(number);
                }
            }
            builder.add(id, file);
            if !ours.is_empty() {
                records.push((id, ours));
            }
            Ok((builder, files, homes, records))
        })
        .await?;
    Ok((builder.finish(), files, homes, records))
}

impl Facts {
    /// What the plans look at.
    pub(super) fn view<'a>(&'a self, needed: &'a BlobSet) -> View<'a> {
        View { index: &self.index, needed, marks: &self.marks, listed: &self.listed }
    }

    /// Whether this index file lists packs.
    pub(super) fn lists_packs(&self, file: &Id) -> bool {
        let number = self.files.iter().position(|f| f == file).and_then(|n| u32::try_from(n).ok());
        number.is_some_and(|number| self.homes.values().any(|homes| homes.contains(&number)))
    }

    /// What the snapshots need, in addition to what is in `needed` already.
    pub(super) async fn walk(
        &self,
        repo: &Repository,
        needed: Arc<BlobSet>,
        ctx: &Ctx,
    ) -> Result<Arc<BlobSet>> {
        let roots: Vec<Id> = self.snapshots.iter().map(|(_, s)| s.tree).collect();
        walk(repo, &self.index, &self.listed, roots, needed, ctx).await
    }

    /// Looks a second time at what decides over life and death, and refuses when the two looks differ: then the
    /// store's listings cannot be trusted, or somebody works without a lock.
    pub(super) async fn confirm(&self, repo: &Repository, ctx: &Ctx) -> Result<()> {
        let again: HashSet<Id> =
            ctx.run(repo.store().list(FileKind::Snapshot)).await?.into_iter().map(|e| e.id).collect();
        let index: HashSet<Id> =
            ctx.run(repo.store().list(FileKind::Index)).await?.into_iter().map(|e| e.id).collect();
        let same = again == self.snapshots.iter().map(|(id, _)| *id).collect()
            && index == self.files.iter().copied().collect();
        if same {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Guard,
            "two listings one after the other differ although the repository is locked; nothing was deleted, \
             run it again",
        ))
    }
}

/// Adds what these trees need to `needed`, a set of `index`'s blobs.
pub(crate) async fn walk(
    repo: &Repository,
    index: &Arc<Index>,
    listed: &HashMap<Id, Entry>,
    roots: Vec<Id>,
    needed: Arc<BlobSet>,
    ctx: &Ctx,
) -> Result<Arc<BlobSet>> {
    let absent: HashSet<u32> = (0_u32..)
        .zip(index.packs())
        .filter(|(_, pack)| !listed.contains_key(&pack.id))
        .map(|(number, _)| number)
        .collect();
    let (repo, index, runtime) = (repo.clone(), Arc::clone(index), tokio::runtime::Handle::current());
    own_thread("walk", ctx, move |ctx| {
        let walk = Walk { repo: &repo, index: &index, absent: &absent, runtime: &runtime, ctx };
        walk.run(&roots, &needed)?;
        Ok(needed)
    })
    .await
}

/// Now, by the clock that stamps the store's files, never later than that: our own lock file tells. Ours where the
/// store does not stamp, or where there is no lock.
pub(super) async fn store_now(repo: &Repository, lock: Option<&LockGuard>) -> Result<Timestamp> {
    let Some(lock) = lock else { return Ok(Timestamp::now()) };
    let listed = repo.store().list(FileKind::Lock).await?;
    let stamped = listed.iter().find(|e| e.id == lock.id()).and_then(|e| e.modified);
    Ok(stamped.and_then(|at| Timestamp::from_second(at).ok()).unwrap_or_else(Timestamp::now))
}
