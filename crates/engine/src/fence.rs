//! The fence: a writer's look, after its snapshot is written, whether everything the snapshot relies on is still
//! there to stay.
//!
//! A prune marks packs first and deletes them later, after another look at the snapshots. A writer that reads the
//! index before the mark and writes its snapshot after that look would be missed, were it not for this: it looks for
//! marks after its snapshot is there. So one of the two sees the other, without a clock and without locks. Usually it
//! costs two listings; only when they show marks or losses the snapshot is walked. Not here: marking (`prune`).

use futures::future::BoxFuture;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Ctx, Event};
use crate::id::Id;
use crate::index::Index;
use crate::lock::LockGuard;
use crate::prune::repack::{self, How, IndexFiles, Wanted, written_so_far};
use crate::prune::walk;
use crate::reach::{BlobSet, place};
use crate::read::own_thread;
use crate::repository::Repository;
use crate::store::{Entry, FileKind, FileName};
use crate::write::withdraw;

/// Rounds of looking and saving before it is given up: each needs another prune to come in between.
const ROUNDS: usize = 4;
/// Listings until two in a row are the same.
const LOOKS: usize = 20;
/// Packs on their way at a time while blobs are saved from marked packs.
const UPLOADS: usize = 2;

/// What the fence did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Confirmed {
    /// Blobs that lay in marked packs only and were copied into new ones.
    pub saved_blobs: u64,
}

/// Index files as two listings in a row show them. One listing of many pages may miss a file that was replaced while
/// it went on; what two show alike was there in between.
async fn settled(repo: &Repository) -> Result<HashSet<Id>> {
    let look = async || -> Result<HashSet<Id>> {
        Ok(repo.store().list(FileKind::Index).await?.into_iter().map(|e| e.id).collect())
    };
    let mut last = look().await?;
    for _ in 0..LOOKS {
        let next = look().await?;
        if next == last {
            return Ok(next);
        }
        last = next;
    }
    Err(Error::new(
        ErrorKind::Listing,
        "the index files changed with every look: many others are at work; try again later",
    ))
}

/// Whether anything in the index calls for a closer look, given the files that the writer knew or wrote itself.
async fn suspicious(repo: &Repository, known: &HashSet<Id>, listed: &HashSet<Id>) -> Result<bool> {
    if known.difference(listed).next().is_some() {
        return Ok(true);
    }
    for id in listed.difference(known) {
        match repo.load_index_and_records(id).await {
            Ok((file, records)) => {
                // Another client's marks are marks too.
                if !records.marks.is_empty() || file.packs.iter().any(|pack| pack.marked) {
                    return Ok(true);
                }
            }
            Err(e) if e.kind() == ErrorKind::Missing => return Ok(true),
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

/// The index as it is now, and the files it was read from, which were all there at one moment. The whole one: the walk
/// needs positions, and what is saved from marked packs its places. So a writer that comes here needs the memory of that,
/// about twice what a backup goes by until then.
async fn fresh(repo: &Repository, ctx: &Ctx) -> Result<(Arc<Index>, HashSet<Id>)> {
    for _ in 0..LOOKS {
        let index = repo.load_index(ctx).await.map_err(|e| match e.kind() {
            // Of index files that vanish with every look, which says nothing about the data.
            ErrorKind::Missing => Error::with_source(ErrorKind::Listing, "the index cannot be read", e),
            _ => e,
        })?;
        let loaded: HashSet<Id> = index.files().iter().copied().collect();
        if ctx.run(settled(repo)).await? == loaded {
            return Ok((index, loaded));
        }
    }
    Err(Error::new(
        ErrorKind::Listing,
        "the index files changed with every look: many others are at work; try again later",
    ))
}

async fn packs(repo: &Repository, ctx: &Ctx) -> Result<HashMap<Id, Entry>> {
    let listed = ctx.run(repo.store().list(FileKind::Pack)).await?;
    Ok(listed.into_iter().map(|entry| (entry.id, entry)).collect())
}

/// Whether every blob of these trees is in a pack that is there. `Missing` names what is not.
pub fn all_there<'a>(repo: &'a Repository, trees: &'a [Id], ctx: &'a Ctx) -> BoxFuture<'a, Result<()>> {
    Box::pin(async move {
        let (index, _) = fresh(repo, ctx).await?;
        let listed = packs(repo, ctx).await?;
        let needed = Arc::new(BlobSet::new(&index));
        walk(repo, &index, &listed, trees.to_vec(), needed, ctx).await.map(drop)
    })
}

/// Makes sure that the snapshot with this root tree, which is written, stays restorable: every blob of it is in a
/// pack without a mark. What lies in marked packs only is copied out of them. `known` are the index files that its
/// writer has read or written; without any the snapshot is walked in any case.
///
/// # Errors
/// `Missing` when blobs are gone: the snapshot cannot be restored. Any other error leaves it unconfirmed.
pub fn confirm<'a>(
    repo: &'a Repository,
    tree: Id,
    known: &'a [Id],
    ctx: &'a Ctx,
) -> BoxFuture<'a, Result<Confirmed>> {
    Box::pin(async move {
        let looked = look(repo, ctx).await;
        confirm_looked(repo, tree, known, looked, &mut Vec::new(), ctx).await
    })
}

/// The index files that there are now. The first look of the fence: to be begun after the snapshot is there.
pub(crate) async fn look(repo: &Repository, ctx: &Ctx) -> Result<HashSet<Id>> {
    ctx.run(settled(repo)).await
}

/// As [`confirm`], after that look. `written` are the index files of what was copied out of marked packs.
async fn confirm_looked(
    repo: &Repository,
    tree: Id,
    known: &[Id],
    looked: Result<HashSet<Id>>,
    written: &mut Vec<Id>,
    ctx: &Ctx,
) -> Result<Confirmed> {
    let mut looked = Some(looked);
    let mut known: HashSet<Id> = known.iter().copied().collect();
    let mut done = Confirmed::default();
    for _ in 0..ROUNDS {
        let listed = match looked.take() {
            Some(looked) => looked?,
            None => look(repo, ctx).await?,
        };
        if !known.is_empty() && !ctx.run(suspicious(repo, &known, &listed)).await? {
            return Ok(done);
        }
        ctx.events.event(Event::Phase("fence"));
        let (index, files) = fresh(repo, ctx).await?;
        let listed = packs(repo, ctx).await?;
        let needed = walk(repo, &index, &listed, vec![tree], Arc::new(BlobSet::new(&index)), ctx).await?;
        let at_risk = at_risk(&index, &needed, &listed);
        known = files;
        if at_risk.is_empty() {
            // Read whole after the snapshot was there, and without a mark on what it needs.
            return Ok(done);
        }
        let (repo, runtime) = (repo.clone(), tokio::runtime::Handle::current());
        let copied = IndexFiles::default();
        let how = How { uploads: UPLOADS, alone: false, written: Arc::clone(&copied) };
        let moved =
            own_thread("fence", ctx, move |ctx| repack::copy(&repo, &index, at_risk, how, &runtime, ctx))
                .await;
        let copied = written_so_far(&copied);
        written.extend(&copied);
        let moved = moved?;
        if let Some(why) = moved.damaged.into_values().next() {
            return Err(Error::new(ErrorKind::Missing, why));
        }
        done.saved_blobs = done.saved_blobs.saturating_add(moved.blobs);
        // Ours are no surprise in the next look.
        known.extend(copied);
    }
    Err(Error::new(
        ErrorKind::Listing,
        "packs that the snapshot needs were marked again and again: too many prunes are at work",
    ))
}

/// Needed blobs without a copy in a pack that is there and has no mark; with the copy to save them from.
fn at_risk(index: &Index, needed: &BlobSet, listed: &HashMap<Id, Entry>) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = Vec::new();
    let mut last = None;
    for (position, (kind, id, location)) in index.iter().enumerate() {
        if last.replace((kind, id)) == Some((kind, id)) || !needed.contains(position) {
            continue;
        }
        if index.contains(kind, &id) && index.lookup(kind, &id).any(|copy| safe(index, &copy, listed)) {
            continue;
        }
        let there = index.lookup(kind, &id).find(|copy| listed.contains_key(&copy.pack));
        let location = there.unwrap_or(location);
        wanted.push(Wanted { kind, id, place: place(&location), uncompressed: location.uncompressed });
    }
    wanted
}

fn safe(index: &Index, copy: &crate::index::BlobLocation, listed: &HashMap<Id, Entry>) -> bool {
    let marked = index.packs().get(copy.pack_number as usize).is_none_or(|pack| pack.marked);
    !marked && listed.contains_key(&copy.pack)
}

/// The fence of a writer that has just written `snapshot` and had a [`look`] after that. When data of it are gone, or the lock
/// is, the snapshot is taken back.
///
/// # Errors
/// `LockLost` when it was taken back: nothing was committed, and it can be tried again. `SnapshotInvalid` when it
/// could not be: it is there and cannot be restored. Others: it is there, and whether it stays restorable is not
/// known; [`confirm`] finds out.
pub(crate) async fn hold(
    repo: &Repository,
    lock: &LockGuard,
    snapshot: Id,
    tree: Id,
    known: &[Id],
    looked: Result<HashSet<Id>>,
    ctx: &Ctx,
) -> Result<Confirmed> {
    let mut written = Vec::new();
    let why = match confirm_looked(repo, tree, known, looked, &mut written, ctx).await {
        Ok(confirmed) => return Ok(confirmed),
        Err(gone) if gone.kind() == ErrorKind::Missing => Error::with_source(
            ErrorKind::LockLost,
            "data that the new snapshot relies on were deleted while it was made; back up again",
            gone,
        ),
        Err(e) => match lock.check() {
            // A lost lock cancels the run; that is the reason to name then.
            Err(lost) => lost,
            Ok(()) => {
                return Err(Error::with_source(
                    e.kind(),
                    format!(
                        "snapshot {snapshot} is written, but whether all it relies on will stay could not be looked up; \
                         do not count on it, and back up again"
                    ),
                    e,
                ));
            }
        },
    };
    let why = take_back(repo, snapshot, why).await;
    Err(withdraw(repo, &written, why).await)
}

/// Removes a snapshot that must not stand, for a reason of the kind `LockLost`. That is returned; `SnapshotInvalid` where the
/// snapshot stands all the same.
pub(crate) async fn take_back(repo: &Repository, snapshot: Id, why: Error) -> Error {
    match repo.store().delete(FileName { kind: FileKind::Snapshot, id: snapshot }).await {
        Ok(()) => why,
        Err(e) if e.kind() == ErrorKind::Missing => why,
        Err(e) => Error::with_source(
            ErrorKind::SnapshotInvalid,
            format!(
                "snapshot {snapshot} was written, must not be relied on, and could not be taken back ({}); forget it and \
                 back up again",
                e.chain()
            ),
            why,
        ),
    }
}
