//! Snapshots from what is left of them: files lose the chunks that are gone, directories that cannot be read become
//! empty ones, and the snapshot says so.

use futures::future::BoxFuture;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::event::{Ctx, Event, Fault};
use crate::format::node::{Node, NodeType};
use crate::format::pack::BlobKind;
use crate::format::snapshot::Snapshot;
use crate::id::Id;
use crate::index::Index;
use crate::lock::LockGuard;
use crate::repository::Repository;
use crate::rewrite::{Edit, Fate, Room, TreeRewriter};
use crate::store::{FileKind, FileName};
use crate::tag::replace;
use crate::write::commit_snapshot;

/// The tag that a mended snapshot carries while the damaged one is kept, as restic's.
const REPAIRED: &str = "repaired";

/// How to mend snapshots.
#[derive(Debug, Clone, Copy, Default)]
pub struct RepairSnapshots {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Remove the damaged snapshots once the mended ones are written.
    pub forget: bool,
    /// Given the tags of a damaged snapshot and how many entries lack something now: makes them say so, for those who
    /// know a whole backup by its tags.
    pub tell_losses: Option<fn(&mut Vec<String>, u64)>,
}

/// What became of a damaged snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mended {
    /// It was, or with a dry run would be, written anew.
    Rewritten(Option<Id>),
    /// Not even its root can be read: there is nothing to keep. With `forget` it is removed.
    Lost,
}

/// A damaged snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepairedSnapshot {
    /// The damaged one.
    pub id: Id,
    /// What became of it.
    pub mended: Mended,
    /// Files of which something is missing, and directories that are empty now.
    pub losses: Losses,
}

/// What a mended snapshot lacks: all of it is counted, the first 100,000 (64 MiB of paths) of a run are told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Losses {
    /// Entries that lack something.
    pub total: u64,
    /// Bytes of files that are gone, by their recorded sizes.
    pub bytes: u64,
    /// The first of them.
    pub first: Vec<Loss>,
}

impl Losses {
    /// Nothing was lost.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// How many are not told.
    pub fn more(&self) -> u64 {
        self.total.saturating_sub(u64::try_from(self.first.len()).unwrap_or(u64::MAX))
    }
}

/// What a mended snapshot lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// Path in the snapshot.
    pub path: PathBuf,
    /// Bytes of a file that are gone, by its recorded size; 0 where that is not known.
    pub bytes: u64,
    /// What happened to it.
    pub what: &'static str,
}

/// Mends those of `snapshots` that need it; the sound ones are not in the result. The index must be right: mend it
/// first. The caller holds an exclusive lock, or a shared one for a dry run.
pub fn repair_snapshots<'a>(
    repo: &'a Repository,
    lock: &'a LockGuard,
    snapshots: &'a [(Id, Snapshot)],
    how: RepairSnapshots,
    ctx: &'a Ctx,
) -> BoxFuture<'a, Result<Vec<RepairedSnapshot>>> {
    Box::pin(async move {
        let forgets = how.forget && !how.dry_run;
        let there = if forgets { ctx.run(repo.list_snapshots()).await?.readable } else { Vec::new() };
        let index = repo.load_index(ctx).await?;
        ctx.events.event(Event::Phase("mend"));
        let mut trees = TreeRewriter::new(repo, index, how.dry_run, ctx)?;
        let outcome = mend_all(repo, lock, snapshots, &there, &how, &mut trees, ctx).await;
        trees.settle(lock, outcome).await
    })
}

/// `there` are the snapshots that could be read, where originals go.
async fn mend_all(
    repo: &Repository,
    lock: &LockGuard,
    snapshots: &[(Id, Snapshot)],
    there: &[(Id, Snapshot)],
    how: &RepairSnapshots,
    trees: &mut TreeRewriter<'_>,
    ctx: &Ctx,
) -> Result<Vec<RepairedSnapshot>> {
    let mut report = Vec::new();
    let mut mending = Mending::new(Arc::clone(trees.index()));
    for (id, snapshot) in snapshots {
        ctx.check()?;
        let tree = trees.rewrite(snapshot.tree, &mut mending).await?;
        let losses = mending.take_losses();
        let mended = match tree {
            Some(tree) if tree == snapshot.tree => continue,
            Some(_) if how.dry_run => Mended::Rewritten(None),
            Some(tree) => {
                let known = trees.commit().await?;
                let original = Some(snapshot.original.unwrap_or(*id));
                let mut new = Snapshot { tree, original, ..snapshot.clone() };
                if let Some(tell) = how.tell_losses {
                    tell(&mut new.tags, losses.total);
                }
                let id = if how.forget {
                    replace(repo, lock, *id, new, &known, there, ctx).await?
                } else {
                    if !new.tags.iter().any(|t| t == REPAIRED) {
                        new.tags.push(REPAIRED.to_owned());
                    }
                    commit_snapshot(repo, lock, &new, &known, ctx).await?
                };
                trees.rely();
                Mended::Rewritten(Some(id))
            }
            None => {
                if how.forget && !how.dry_run {
                    repo.refuse_append_only()?;
                    repo.store().delete(FileName { kind: FileKind::Snapshot, id: *id }).await?;
                }
                Mended::Lost
            }
        };
        for loss in &losses.first {
            ctx.events.event(Event::Fault(Fault {
                path: loss.path.clone(),
                action: "mend",
                error: loss.what.to_owned(),
            }));
        }
        report.push(RepairedSnapshot { id: *id, mended, losses });
    }
    Ok(report)
}

/// Takes out what is lost, and notes it.
pub(super) struct Mending {
    index: Arc<Index>,
    losses: Losses,
    room: Room,
}

impl Mending {
    /// By the index, which must be right.
    pub(super) fn new(index: Arc<Index>) -> Self {
        Self { index, losses: Losses::default(), room: Room::default() }
    }

    /// What was lost since the last time. The room for what is told is that of all.
    pub(super) fn take_losses(&mut self) -> Losses {
        mem::take(&mut self.losses)
    }

    fn lost(&mut self, path: &Path, bytes: u64, what: &'static str) {
        self.losses.total = self.losses.total.saturating_add(1);
        self.losses.bytes = self.losses.bytes.saturating_add(bytes);
        if self.room.take(path) {
            self.losses.first.push(Loss { path: path.to_owned(), bytes, what });
        }
    }

    /// Takes out the chunks that are in no index; whether anything changed.
    fn mend_file(&mut self, path: &Path, node: &mut Node) -> bool {
        let before = node.content.take().unwrap_or_default();
        let mut size = 0_u64;
        let mut left = Vec::with_capacity(before.len());
        for id in &before {
            if let Some(length) = self.index.plain_length(BlobKind::Data, id) {
                size = size.saturating_add(u64::from(length));
                left.push(*id);
            }
        }
        let changed = left.len() != before.len() || size != node.size;
        if changed {
            let what = if left.len() == before.len() {
                "the recorded size was wrong"
            } else {
                "parts of the content are gone"
            };
            self.lost(path, node.size.saturating_sub(size), what);
            node.size = size;
        }
        node.content = Some(left);
        changed
    }
}

impl Edit for Mending {
    // Better a directory without what other programs wrote into it than none.
    const LOSSLESS: bool = false;

    fn entry(&mut self, path: &Path, node: &mut Node) -> Fate {
        let kind = node.kind;
        match kind {
            NodeType::File if self.mend_file(path, node) => Fate::Changed,
            NodeType::Irregular => {
                self.lost(path, 0, "an entry of no known type was left out");
                Fate::LeftOut
            }
            _ => Fate::Kept,
        }
    }

    fn unreadable(&mut self, path: &Path, _: Error) -> Result<()> {
        let what = if path == Path::new("/") {
            "the root cannot be read"
        } else {
            "the directory cannot be read and is empty now"
        };
        self.lost(path, 0, what);
        Ok(())
    }

    fn too_deep(&mut self, path: &Path) -> Result<()> {
        self.lost(path, 0, "the directory lies too deep for any restore and was left out");
        Ok(())
    }

    fn keeps_empty(&self, _: &Path) -> bool {
        true
    }
}
