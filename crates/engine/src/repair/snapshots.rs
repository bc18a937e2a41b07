//! Snapshots from what is left of them: files lose the chunks that are gone, directories that cannot be read become
//! empty ones, and the snapshot says so.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Ctx, Event, Fault};
use crate::format::node::{Node, NodeType};
use crate::format::pack::BlobKind;
use crate::format::snapshot::Snapshot;
use crate::format::tree::{MAX_DEPTH, Tree, TreeWriter, too_deep};
use crate::id::Id;
use crate::index::Index;
use crate::lock::LockGuard;
use crate::read::{TreeReader, is_damage};
use crate::repository::Repository;
use crate::store::{FileKind, FileName};
use crate::tag::replace;
use crate::write::{PackWriter, Sealer, commit_snapshot};

/// The tag that a mended snapshot carries while the damaged one is kept, as restic's.
const REPAIRED: &str = "repaired";

/// How to mend snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RepairSnapshots {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Remove the damaged snapshots once the mended ones are written.
    pub forget: bool,
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
    pub losses: Vec<Loss>,
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
pub async fn repair_snapshots(
    repo: &Repository,
    lock: &LockGuard,
    snapshots: &[(Id, Snapshot)],
    how: RepairSnapshots,
    ctx: &Ctx,
) -> Result<Vec<RepairedSnapshot>> {
    let index = repo.load_index(ctx).await?;
    ctx.events.event(Event::Phase("mend"));
    let mut run = Run {
        repo,
        trees: TreeReader::new(repo.clone(), Arc::clone(&index))?,
        index,
        writer: (!how.dry_run).then(|| PackWriter::new(repo)),
        sealer: Sealer::new()?,
        ctx,
    };
    let mut report = Vec::new();
    for (id, snapshot) in snapshots {
        ctx.check()?;
        let mut losses = Vec::new();
        let mended = match run.tree(snapshot.tree, &mut losses).await? {
            Some(tree) if tree == snapshot.tree => continue,
            Some(_) if how.dry_run => Mended::Rewritten(None),
            Some(tree) => Mended::Rewritten(Some(run.write(lock, *id, snapshot, tree, how.forget).await?)),
            None => {
                if how.forget && !how.dry_run {
                    repo.refuse_append_only()?;
                    repo.store().delete(FileName { kind: FileKind::Snapshot, id: *id }).await?;
                }
                Mended::Lost
            }
        };
        for loss in &losses {
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

struct Run<'a> {
    repo: &'a Repository,
    trees: TreeReader,
    index: Arc<Index>,
    /// None for a dry run.
    writer: Option<PackWriter>,
    sealer: Sealer,
    ctx: &'a Ctx,
}

/// A directory on the way down.
struct Frame {
    path: PathBuf,
    /// Its id as the snapshot has it.
    id: Id,
    /// Its own entry in the directory above; `None` for the root.
    node: Option<Node>,
    /// Entries still to look at, last first.
    rest: Vec<Node>,
    done: Vec<Node>,
    changed: bool,
}

impl Run<'_> {
    /// The mended tree; the same id when it is sound, `None` when the root cannot be read.
    async fn tree(&mut self, root: Id, losses: &mut Vec<Loss>) -> Result<Option<Id>> {
        let Some(tree) = self.load(root).await? else {
            losses.push(Loss { path: "/".into(), bytes: 0, what: "the root cannot be read" });
            return Ok(None);
        };
        let mut stack = vec![frame(PathBuf::from("/"), root, None, &tree)];
        loop {
            let depth = stack.len();
            let Some(top) = stack.last_mut() else {
                return Err(Error::new(ErrorKind::Internal, "a walk ended without its root"));
            };
            if depth > MAX_DEPTH {
                return Err(too_deep(&top.path));
            }
            if let Some(mut node) = top.rest.pop() {
                let path = top.path.join(std::ffi::OsStr::from_bytes(&node.name));
                match node.kind {
                    NodeType::File => {
                        top.changed |= mend_file(&self.index, &path, &mut node, losses);
                        top.done.push(node);
                    }
                    NodeType::Dir => {
                        let below = match node.subtree {
                            Some(id) => self.load(id).await?.map(|tree| (id, tree)),
                            None => None,
                        };
                        if let Some((id, tree)) = below {
                            stack.push(frame(path, id, Some(node), &tree));
                            continue;
                        }
                        let what = "the directory cannot be read and is empty now";
                        losses.push(Loss { path, bytes: 0, what });
                        let empty = self.save(&[]).await?;
                        top.done.push(Node { subtree: Some(empty), ..node });
                        top.changed = true;
                    }
                    NodeType::Irregular => {
                        losses.push(Loss { path, bytes: 0, what: "an entry of no known type was left out" });
                        top.changed = true;
                    }
                    _ => top.done.push(node),
                }
                continue;
            }
            let Some(Frame { id, node, done, changed, .. }) = stack.pop() else { continue };
            let id_now = if changed { self.save(&done).await? } else { id };
            match (stack.last_mut(), node) {
                (Some(above), Some(node)) => {
                    above.changed |= id_now != id;
                    above.done.push(Node { subtree: Some(id_now), ..node });
                }
                _ => return Ok(Some(id_now)),
            }
        }
    }

    /// `None` when no copy of the directory is good.
    async fn load(&self, id: Id) -> Result<Option<Arc<Tree>>> {
        match self.ctx.run(self.trees.load(&id)).await {
            Ok(tree) => Ok(Some(tree)),
            Err(e) if is_damage(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Stores a directory with these entries, unless it is a dry run.
    async fn save(&mut self, nodes: &[Node]) -> Result<Id> {
        let mut writer = TreeWriter::new();
        for node in nodes {
            writer.push(node)?;
        }
        let json = writer.finish();
        let id = Id::hash(&json);
        if let Some(writer) = &mut self.writer
            && !self.index.contains(BlobKind::Tree, &id)
        {
            writer.add(&self.sealer.seal(self.repo, BlobKind::Tree, id, &json)?).await?;
        }
        Ok(id)
    }

    async fn write(
        &mut self,
        lock: &LockGuard,
        id: Id,
        snapshot: &Snapshot,
        tree: Id,
        forget: bool,
    ) -> Result<Id> {
        if let Some(writer) = &mut self.writer {
            writer.flush().await?;
        }
        let written = self.writer.iter().flat_map(PackWriter::index_files);
        let known: Vec<Id> = self.index.files().iter().chain(written).copied().collect();
        let mut mended =
            Snapshot { tree, original: Some(snapshot.original.unwrap_or(id)), ..snapshot.clone() };
        if forget {
            return replace(self.repo, lock, id, mended, &known, self.ctx).await;
        }
        if !mended.tags.iter().any(|t| t == REPAIRED) {
            mended.tags.push(REPAIRED.to_owned());
        }
        commit_snapshot(self.repo, lock, &mended, &known, self.ctx).await
    }
}

fn frame(path: PathBuf, id: Id, node: Option<Node>, tree: &Tree) -> Frame {
    let mut rest = tree.nodes.clone();
    rest.reverse();
    Frame { path, id, node, rest, done: Vec::new(), changed: false }
}

/// Takes out the chunks that are in no index; whether anything changed.
fn mend_file(index: &Index, path: &Path, node: &mut Node, losses: &mut Vec<Loss>) -> bool {
    let before = node.content.take().unwrap_or_default();
    let mut size = 0_u64;
    let mut left = Vec::with_capacity(before.len());
    for id in &before {
        if let Some(length) = index.plain_length(BlobKind::Data, id) {
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
        losses.push(Loss { path: path.to_owned(), bytes: node.size.saturating_sub(size), what });
        node.size = size;
    }
    node.content = Some(left);
    changed
}
