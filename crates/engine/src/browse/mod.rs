//! Looking into a snapshot without restoring it.
//!
//! Nothing here touches a file system: names are given as they are stored, whatever they are.

mod find;
mod objects;
mod view;
mod walk;

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};
use std::sync::Arc;

pub use find::{FindSpec, Finder};
pub use objects::{FoundObject, ObjectFinder, ObjectSpec};
pub use view::{Page, View};
pub(crate) use walk::Walk;

use crate::error::{Error, ErrorKind, Result};
use crate::format::node::{Node, NodeType};
use crate::format::snapshot::Snapshot;
use crate::id::Id;
use crate::index::Index;
use crate::read::TreeReader;
use crate::repository::Repository;

/// The entry of a snapshot at `path`; `None` for the root, which has no entry of its own.
/// `EmptySelection` when there is none.
pub(crate) async fn find(trees: &TreeReader, snapshot: &Snapshot, path: &Path) -> Result<Option<Node>> {
    let mut tree = Some(snapshot.tree);
    let mut found: Option<Node> = None;
    for component in path.components() {
        let name = match component {
            Component::Normal(name) => name.as_bytes(),
            Component::ParentDir => {
                return Err(Error::new(ErrorKind::Usage, "a path within a snapshot must not contain .."));
            }
            _ => continue,
        };
        let node = match tree {
            Some(id) => trees.load(&id).await?.find(name).cloned(),
            None => None,
        };
        let node = node.ok_or_else(|| {
            Error::new(ErrorKind::EmptySelection, format!("the snapshot has no {}", path.display()))
        })?;
        tree = if node.kind == NodeType::Dir { node.subtree } else { None };
        found = Some(node);
    }
    Ok(found)
}

/// The directory at `path`: its tree. `EmptySelection` when there is nothing, `Usage` when it is no directory.
pub async fn subtree(repo: &Repository, index: &Arc<Index>, snapshot: &Snapshot, path: &Path) -> Result<Id> {
    let trees = TreeReader::new(repo.clone(), Arc::clone(index))?;
    match find(&trees, snapshot, path).await? {
        None => Ok(snapshot.tree),
        Some(Node { kind: NodeType::Dir, subtree: Some(tree), .. }) => Ok(tree),
        Some(_) => Err(Error::new(ErrorKind::Usage, format!("{} is no directory", path.display()))),
    }
}

/// Gives the entry at `path` and each below it to `each`, with its path in the snapshot: a directory before what is in
/// it, names ascending. Without `recursive`, only the directory's own entries.
///
/// Ends with the first error of `each`, which is how a caller stops.
pub async fn ls(
    repo: &Repository,
    index: &Arc<Index>,
    snapshot: &Snapshot,
    path: &str,
    recursive: bool,
    mut each: impl FnMut(&Path, &Node) -> Result<()>,
) -> Result<()> {
    let start = Path::new("/").join(Path::new(path.trim_start_matches('/')));
    let trees = Arc::new(TreeReader::new(repo.clone(), Arc::clone(index))?);
    let root = match find(&trees, snapshot, &start).await? {
        None => snapshot.tree,
        Some(node) => match (node.kind, node.subtree) {
            (NodeType::Dir, Some(tree)) => {
                each(&start, &node)?;
                tree
            }
            (NodeType::Dir, None) => {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("the directory {} has no tree", start.display()),
                ));
            }
            _ => return each(&start, &node),
        },
    };
    let mut walk = Walk::new(trees, start, root);
    while let Some((path, node)) = walk.next().await? {
        each(&path, &node)?;
        if !recursive {
            walk.skip();
        }
    }
    Ok(())
}
