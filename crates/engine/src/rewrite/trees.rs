//! Directories written anew with some of their entries changed or left out, from the root of a snapshot down.
//!
//! A directory in which nothing changes keeps its id, whatever it holds. Not here: what changes ([`Edit`]), and the
//! snapshot.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::event::Ctx;
use crate::format::node::{Node, NodeType};
use crate::format::pack::BlobKind;
use crate::format::tree::{MAX_DEPTH, MAX_PATH, Tree, TreeWriter, too_deep};
use crate::id::Id;
use crate::index::Index;
use crate::lock::LockGuard;
use crate::read::{TreeReader, is_damage};
use crate::repository::Repository;
use crate::write::{PackWriter, Sealer};

/// What becomes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It stays as it is.
    Kept,
    /// It stays, and was changed.
    Changed,
    /// It is left out, with all that is in it.
    LeftOut,
}

/// What is to be changed in a snapshot's directories.
pub(crate) trait Edit {
    /// Whether a directory that changes must be one that is understood whole: otherwise what other programs wrote
    /// into it is lost.
    const LOSSLESS: bool;

    /// Decides on an entry, and may change it. A directory that stays is gone into next.
    fn entry(&mut self, path: &Path, node: &mut Node) -> Fate;

    /// Told of a directory that is damaged or gone. When this is borne, an empty one takes its place; the root has
    /// none.
    fn unreadable(&mut self, path: &Path, error: Error) -> Result<()>;

    /// Told of a directory that no restore would go into, so deep does it lie. When this is borne, it is left out.
    fn too_deep(&mut self, path: &Path) -> Result<()> {
        Err(too_deep(path))
    }

    /// Whether a directory without entries stays. The root, `/`, is asked for too.
    fn keeps_empty(&self, path: &Path) -> bool;
}

/// Rewrites the trees of one snapshot after the other.
pub(crate) struct TreeRewriter<'a> {
    repo: &'a Repository,
    trees: TreeReader,
    index: Arc<Index>,
    /// None for a dry run.
    writer: Option<PackWriter>,
    /// Directories that were handed to the writer: the index does not know them.
    written: HashSet<Id>,
    sealer: Sealer,
    ctx: &'a Ctx,
}

/// A directory on the way down.
struct Frame {
    path: PathBuf,
    /// Its id as the snapshot has it.
    id: Id,
    tree: Arc<Tree>,
    /// Its own entry in the directory above; `None` for the root.
    node: Option<Node>,
    /// How many of its entries were looked at.
    seen: usize,
    done: Vec<Node>,
    changed: bool,
}

impl Frame {
    fn new(path: PathBuf, id: Id, node: Option<Node>, tree: Arc<Tree>) -> Self {
        Self { path, id, tree, node, seen: 0, done: Vec::new(), changed: false }
    }
}

impl<'a> TreeRewriter<'a> {
    /// Reads by `index`, and writes nothing when it is a dry run.
    pub(crate) fn new(repo: &'a Repository, index: Arc<Index>, dry_run: bool, ctx: &'a Ctx) -> Result<Self> {
        Ok(Self {
            repo,
            trees: TreeReader::new(repo.clone(), Arc::clone(&index))?,
            index,
            writer: (!dry_run).then(|| PackWriter::new(repo)),
            written: HashSet::new(),
            sealer: Sealer::new()?,
            ctx,
        })
    }

    /// The index it reads by.
    pub(crate) fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// The tree as `edit` wants it; the same id when nothing changes, `None` when nothing is left of the root. Nothing
    /// may refer to it before [`TreeRewriter::commit`].
    ///
    /// # Errors
    /// `Format` when a directory would have to be written anew of which something is not understood.
    pub(crate) async fn rewrite<E: Edit>(&mut self, root: Id, edit: &mut E) -> Result<Option<Id>> {
        let Some(tree) = self.load(Path::new("/"), Some(root), edit).await? else { return Ok(None) };
        let mut stack = vec![Frame::new(PathBuf::from("/"), root, None, tree)];
        loop {
            let is_deepest = stack.len() >= MAX_DEPTH;
            let Some(top) = stack.last_mut() else {
                return Err(Error::new(ErrorKind::Internal, "a walk ended without its root"));
            };
            if let Some(mut node) = top.tree.nodes.get(top.seen).cloned() {
                top.seen += 1;
                let path = top.path.join(OsStr::from_bytes(&node.name));
                let fate = edit.entry(&path, &mut node);
                top.changed |= fate != Fate::Kept;
                if fate == Fate::LeftOut {
                    continue;
                }
                if node.kind != NodeType::Dir {
                    top.done.push(node);
                    continue;
                }
                self.ctx.check()?;
                if is_deepest || path.as_os_str().len() > MAX_PATH {
                    edit.too_deep(&path)?;
                    top.changed = true;
                    continue;
                }
                if let Some(tree) = self.load(&path, node.subtree, edit).await? {
                    let id = node.subtree.unwrap_or_default();
                    stack.push(Frame::new(path, id, Some(node), tree));
                } else {
                    let empty = self.save(&[]).await?;
                    top.done.push(Node { subtree: Some(empty), ..node });
                    top.changed = true;
                }
                continue;
            }
            let Some(Frame { path, id, tree, node, done, changed, .. }) = stack.pop() else { continue };
            let id_now = match (changed, done.is_empty() && !edit.keeps_empty(&path)) {
                (_, true) => None,
                (false, false) => Some(id),
                (true, false) => {
                    if E::LOSSLESS {
                        understood(&path, id, &tree)?;
                    }
                    Some(self.save(&done).await?)
                }
            };
            let (Some(above), Some(node)) = (stack.last_mut(), node) else { return Ok(id_now) };
            above.changed |= id_now != Some(id);
            if id_now.is_some() {
                above.done.push(Node { subtree: id_now, ..node });
            }
        }
    }

    /// Makes what was written durable. The index files that say where the blobs of the rewritten snapshots are.
    pub(crate) async fn commit(&mut self) -> Result<Vec<Id>> {
        let Some(writer) = &mut self.writer else {
            return Err(Error::new(ErrorKind::Internal, "a dry run has nothing to commit: a bug"));
        };
        writer.flush().await?;
        Ok(self.index.files().iter().chain(writer.index_files()).copied().collect())
    }

    /// A snapshot was written that relies on what was made durable.
    pub(crate) fn rely(&mut self) {
        if let Some(writer) = &mut self.writer {
            writer.rely();
        }
    }

    /// What came of the work. When the lock was lost, what the index says of it is taken back, but for what a snapshot
    /// relies on.
    pub(crate) async fn settle<T>(&self, lock: &LockGuard, outcome: Result<T>) -> Result<T> {
        match (outcome, &self.writer) {
            (Err(e), Some(writer)) => Err(writer.withdraw(lock, e).await),
            (outcome, _) => outcome,
        }
    }

    /// `None` when no copy of the directory is good and `edit` bears it.
    async fn load<E: Edit>(&self, path: &Path, id: Option<Id>, edit: &mut E) -> Result<Option<Arc<Tree>>> {
        let loaded = match id {
            Some(id) => self.ctx.run(self.trees.load(&id)).await,
            None => Err(Error::new(ErrorKind::Corrupt, "the directory has no tree")),
        };
        match loaded {
            Ok(tree) => Ok(Some(tree)),
            Err(e) if is_damage(&e) => edit.unreadable(path, e).map(|()| None),
            Err(e) => Err(e),
        }
    }

    /// Stores a directory with these entries, unless it is a dry run; its id.
    pub(crate) async fn save(&mut self, nodes: &[Node]) -> Result<Id> {
        let mut tree = TreeWriter::new();
        for node in nodes {
            tree.push(node)?;
        }
        let (id, json) = tree.finish_with_id();
        if let Some(writer) = &mut self.writer
            && !self.index.contains(BlobKind::Tree, &id)
            && self.written.insert(id)
        {
            writer.add(&self.sealer.seal(self.repo, BlobKind::Tree, id, &json)?).await?;
        }
        Ok(id)
    }
}

/// Whether writing the directory with all its entries gives the very bytes that were read: then nothing in it is
/// unknown to us.
fn understood(path: &Path, id: Id, tree: &Tree) -> Result<()> {
    if Id::hash(&tree.to_json()?) == id {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Format,
        format!(
            "the directory {} cannot be written anew without losing information: another program wrote something \
             into it that is not known here",
            path.display()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::testing::fixture;

    /// Leaves out what has this name.
    struct Without(&'static str);

    impl Edit for Without {
        const LOSSLESS: bool = true;

        fn entry(&mut self, _: &Path, node: &mut Node) -> Fate {
            if node.name == self.0.as_bytes() { Fate::LeftOut } else { Fate::Kept }
        }

        fn unreadable(&mut self, _: &Path, error: Error) -> Result<()> {
            Err(error)
        }

        fn keeps_empty(&self, _: &Path) -> bool {
            true
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_not_understood_stays_where_nothing_changes_and_is_refused_where_something_would() {
        let f = fixture().await;
        let (mut writer, mut sealer) = (PackWriter::new(&f.repo), Sealer::new().unwrap());
        let file = |name: &str, more: &str| {
            let mut json = Vec::new();
            let node = Node { name: name.into(), content: Some(Vec::new()), ..Node::default() };
            node.write_json(&mut json);
            json.pop();
            format!("{}{more}}}", String::from_utf8(json).unwrap())
        };
        let inner = format!("{{\"nodes\":[{},{}]}}\n", file("a", ",\"from_the_future\":1"), file("b", ""));
        let inner_id = Id::hash(inner.as_bytes());
        let node =
            Node { name: "dir".into(), kind: NodeType::Dir, subtree: Some(inner_id), ..Node::default() };
        let plain = Node { name: "file".into(), content: Some(Vec::new()), ..Node::default() };
        let root = Tree { nodes: vec![node, plain] }.to_json().unwrap();
        let root_id = Id::hash(&root);
        for (id, json) in [(inner_id, inner.as_bytes()), (root_id, &root)] {
            writer.add(&sealer.seal(&f.repo, BlobKind::Tree, id, json).unwrap()).await.unwrap();
        }
        writer.flush().await.unwrap();
        let ctx = Ctx::default();
        let index = f.repo.load_index(&ctx).await.unwrap();
        let mut trees = TreeRewriter::new(&f.repo, index, false, &ctx).unwrap();
        assert_eq!(trees.rewrite(root_id, &mut Without("nothing")).await.unwrap(), Some(root_id));
        let without_file = trees.rewrite(root_id, &mut Without("file")).await.unwrap().unwrap();
        trees.commit().await.unwrap();
        let index = f.repo.load_index(&ctx).await.unwrap();
        let written = f.repo.load_tree(&index, &without_file).await.unwrap();
        assert_eq!((written.nodes.len(), written.nodes[0].subtree), (1, Some(inner_id)));
        let error = trees.rewrite(root_id, &mut Without("b")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Format);
        assert!(error.to_string().contains("the directory /dir "), "{error}");
    }
}
