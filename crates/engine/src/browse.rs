//! Looking into a snapshot without restoring it.
//!
//! Nothing here touches a file system: names are given as they are stored, whatever they are.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::node::{Node, NodeType};
use crate::format::snapshot::Snapshot;
use crate::id::Id;
use crate::index::Index;
use crate::read::TreeReader;
use crate::repository::Repository;

/// The entry of a snapshot at `path`; `None` for the root, which has no entry of its own.
/// `EmptySelection` when there is none.
pub async fn find(
    repo: &Repository,
    index: &Index,
    snapshot: &Snapshot,
    path: &Path,
) -> Result<Option<Node>> {
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
            Some(id) => repo.load_tree(index, &id).await?.find(name).cloned(),
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

/// Gives each entry below `path` (or the file at it) to `each`, with its path in the snapshot: a directory before
/// what is in it, names ascending. Without `recursive`, only the directory's own entries.
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
    let root = match find(repo, index, snapshot, &start).await? {
        None => snapshot.tree,
        Some(node) => match (node.kind, node.subtree) {
            (NodeType::Dir, Some(tree)) => tree,
            (NodeType::Dir, None) => {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("the directory {} has no tree", start.display()),
                ));
            }
            _ => return each(&start, &node),
        },
    };
    // What is left to list of each directory on the way down, last entry first.
    let trees = TreeReader::new(repo.clone(), Arc::clone(index))?;
    let mut stack: Vec<(PathBuf, Vec<Node>)> = vec![(start, entries(&trees, &root).await?)];
    while let Some((dir, rest)) = stack.last_mut() {
        let Some(node) = rest.pop() else {
            stack.pop();
            continue;
        };
        let path = dir.join(OsStr::from_bytes(&node.name));
        each(&path, &node)?;
        if recursive
            && node.kind == NodeType::Dir
            && let Some(tree) = node.subtree
        {
            stack.push((path, entries(&trees, &tree).await?));
        }
    }
    Ok(())
}

async fn entries(trees: &TreeReader, id: &Id) -> Result<Vec<Node>> {
    let mut nodes = trees.load(id).await?.nodes.clone();
    nodes.reverse();
    Ok(nodes)
}
