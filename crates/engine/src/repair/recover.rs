//! A snapshot of the directories that no snapshot reaches: what was forgotten and not yet pruned, or stored by backups
//! that broke off.
//!
//! Not here: forgotten snapshots that can be brought back as they were (`forget`).

use futures::future::BoxFuture;
use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::index::{RepairIndex, repair_index};
use super::snapshots::{Losses, Mending};
use crate::error::Result;
use crate::event::{Ctx, Event, Progress};
use crate::format::node::{Node, NodeType, go_mode};
use crate::format::pack::BlobKind;
use crate::format::snapshot::Snapshot;
use crate::format::time::{OffsetTime, Time};
use crate::id::Id;
use crate::index::Index;
use crate::lock::LockGuard;
use crate::reach::{BlobSet, place};
use crate::read::{TreeReader, is_damage};
use crate::repository::Repository;
use crate::rewrite::TreeRewriter;
use crate::write::commit_snapshot;

/// The path and the tag of the new snapshot, as restic's.
const PATH: &str = "/recover";
const RECOVERED: &str = "recovered";
/// Permissions of the directories that it is made of.
const PERMISSIONS: u32 = 0o755;

/// What the new snapshot says of itself.
#[derive(Debug, Clone, Default)]
pub struct Recover {
    /// When it is made.
    pub time: Timestamp,
    /// Host name.
    pub host: String,
    /// User name.
    pub username: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Name and version of the program.
    pub program_version: String,
}

/// A directory that no other one and no snapshot refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecoveredRoot {
    /// Its tree as it was found.
    pub tree: Id,
    /// Its name in the root of the new snapshot.
    pub name: String,
    /// What is missing of it, with paths from this directory.
    pub losses: Losses,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RecoverReport {
    /// The directories that the new snapshot is made of, by name.
    pub roots: Vec<RecoveredRoot>,
    /// Directories that cannot be read. What only they lead to stands in the snapshot by itself.
    pub unreadable: Vec<Id>,
    /// The new snapshot; none when there is nothing to make it of.
    pub snapshot: Option<Id>,
}

/// Makes one snapshot of all directories that no snapshot reaches; the index is mended first, since what it does not
/// know cannot be found. Of what is no longer whole the rest is taken. The caller holds an exclusive lock: the
/// directories of a backup that is at work would be taken too.
pub fn recover<'a>(
    repo: &'a Repository,
    lock: &'a LockGuard,
    how: &'a Recover,
    ctx: &'a Ctx,
) -> BoxFuture<'a, Result<RecoverReport>> {
    Box::pin(async move {
        repair_index(repo, lock, RepairIndex::Mend, ctx).await?;
        let index = repo.load_index(ctx).await?;
        ctx.events.event(Event::Phase("recover"));
        // What a damaged one needs no other may reach, and then it is what is to be recovered.
        let snapshots = ctx.run(repo.list_snapshots()).await?.readable_only(ctx);
        let (found, unreadable) = roots(repo, &index, &snapshots, ctx).await?;
        let report = RecoverReport { unreadable, ..RecoverReport::default() };
        let mut trees = TreeRewriter::new(repo, index, false, ctx)?;
        let outcome = gather(repo, lock, how, found, report, &mut trees, ctx).await;
        trees.settle(lock, outcome).await
    })
}

/// Makes a snapshot of the directories that were found.
async fn gather(
    repo: &Repository,
    lock: &LockGuard,
    how: &Recover,
    found: Vec<Id>,
    mut report: RecoverReport,
    trees: &mut TreeRewriter<'_>,
    ctx: &Ctx,
) -> Result<RecoverReport> {
    let mut nodes = Vec::with_capacity(found.len());
    let mut mending = Mending::new(Arc::clone(trees.index()));
    for (name, tree) in named(found) {
        let mended = trees.rewrite(tree, &mut mending).await?;
        let losses = mending.take_losses();
        let Some(mended) = mended else { continue };
        let now = Time::from(how.time);
        nodes.push(Node {
            name: name.clone().into_bytes(),
            kind: NodeType::Dir,
            mode: go_mode::DIR | PERMISSIONS,
            mtime: now,
            atime: now,
            ctime: now,
            subtree: Some(mended),
            ..Node::default()
        });
        report.roots.push(RecoveredRoot { tree, name, losses });
    }
    if nodes.is_empty() {
        return Ok(report);
    }
    let tree = trees.save(&nodes).await?;
    trees.commit().await?;
    let snapshot = Snapshot {
        time: OffsetTime::utc(how.time),
        parent: None,
        tree,
        paths: vec![PATH.to_owned()],
        hostname: how.host.clone(),
        username: how.username.clone(),
        uid: how.uid,
        gid: how.gid,
        excludes: Vec::new(),
        tags: vec![RECOVERED.to_owned()],
        original: None,
        program_version: how.program_version.clone(),
        summary: None,
        other: serde_json::Map::new(),
    };
    // No index file counts as known: nothing kept a prune from marking these blobs before we came, so the snapshot is
    // walked, and what lies in marked packs is saved from them.
    report.snapshot = Some(commit_snapshot(repo, lock, &snapshot, &[], ctx).await?);
    trees.rely();
    Ok(report)
}

/// Directories with something in them that no directory and no snapshot refers to, and those that cannot be read.
async fn roots(
    repo: &Repository,
    index: &Arc<Index>,
    snapshots: &[(Id, Snapshot)],
    ctx: &Ctx,
) -> Result<(Vec<Id>, Vec<Id>)> {
    let referenced = BlobSet::new(index);
    let refer = |tree: &Id| {
        if let Some(position) = index.ordinal(BlobKind::Tree, tree) {
            referenced.insert(position);
        }
    };
    for (_, snapshot) in snapshots {
        refer(&snapshot.tree);
    }
    // By the order in which they lie in the packs, so that one request serves many.
    let mut all: Vec<_> = index.iter().filter(|(kind, ..)| *kind == BlobKind::Tree).collect();
    all.dedup_by_key(|(_, id, _)| *id);
    all.sort_unstable_by_key(|(_, _, location)| place(location));
    let reader = TreeReader::for_one_walk(repo.clone(), Arc::clone(index))?;
    let (mut unreadable, mut useless) = (Vec::new(), HashSet::new());
    for (done, (_, id, _)) in (1_u64..).zip(&all) {
        ctx.check()?;
        match ctx.run(reader.load(id)).await {
            Ok(tree) => {
                if tree.nodes.is_empty() {
                    useless.insert(*id);
                }
                tree.nodes.iter().filter_map(|node| node.subtree.as_ref()).for_each(refer);
            }
            Err(e) if is_damage(&e) => {
                unreadable.push(*id);
                useless.insert(*id);
            }
            Err(e) => return Err(e),
        }
        ctx.events.event(Event::Progress(Progress { files_done: done, ..Progress::default() }));
    }
    let wanted = |id: &Id| {
        let position = index.ordinal(BlobKind::Tree, id);
        position.is_some_and(|position| !referenced.contains(position)) && !useless.contains(id)
    };
    let roots = all.into_iter().map(|(_, id, _)| id).filter(wanted).collect();
    Ok((roots, unreadable))
}

/// Each with a name in the new snapshot: the beginning of its id, as restic has it, or all of it where two begin alike.
/// Ascending by name.
fn named(mut roots: Vec<Id>) -> Vec<(String, Id)> {
    roots.sort_unstable();
    let alike = roots.array_windows().any(|[a, b]| a.short() == b.short());
    roots.into_iter().map(|id| (if alike { id.to_hex() } else { id.short() }, id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_directories_never_have_one_name() {
        let (one, other, third) = (
            Id::from_bytes([1; 32]),
            Id::from_bytes([2; 32]),
            Id::from_bytes([[1; 16], [9; 16]].concat().try_into().unwrap()),
        );
        assert_eq!(named(vec![other, one]), [("01010101".to_owned(), one), ("02020202".to_owned(), other)]);
        let names: HashSet<String> =
            named(vec![one, other, third]).into_iter().map(|(name, _)| name).collect();
        assert!(names.len() == 3 && names.iter().all(|name| name.len() == 64), "{names:?}");
    }
}
