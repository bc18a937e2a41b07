//! One entry of a snapshot after the other: a directory before what is in it, names ascending.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::node::{Node, NodeType};
use crate::format::tree::{MAX_DEPTH, MAX_PATH, too_deep};
use crate::id::Id;
use crate::read::TreeReader;

/// A walk through a tree. Its depth costs heap, not stack: snapshots come from others too.
pub(crate) struct Walk {
    trees: Arc<TreeReader>,
    /// What is left to visit of each directory on the way down, last entry first.
    stack: Vec<(PathBuf, Vec<Node>)>,
    /// The directory that was given last; entered by the next step.
    below: Option<(PathBuf, Id)>,
}

impl Walk {
    /// A walk through what is in `root`, which is named `path`.
    pub(crate) fn new(trees: Arc<TreeReader>, path: PathBuf, root: Id) -> Self {
        Self { trees, stack: Vec::new(), below: Some((path, root)) }
    }

    /// The next entry and its path.
    pub(crate) async fn next(&mut self) -> Result<Option<(PathBuf, Node)>> {
        if let Some((path, id)) = self.below.take() {
            if self.stack.len() > MAX_DEPTH || path.as_os_str().len() > MAX_PATH {
                return Err(too_deep(&path));
            }
            let mut nodes = self.trees.load(&id).await?.nodes.clone();
            nodes.reverse();
            self.stack.push((path, nodes));
        }
        loop {
            let Some((dir, rest)) = self.stack.last_mut() else { return Ok(None) };
            let Some(node) = rest.pop() else {
                self.stack.pop();
                continue;
            };
            let path = dir.join(OsStr::from_bytes(&node.name));
            if node.kind == NodeType::Dir {
                let tree = node.subtree.ok_or_else(|| {
                    Error::new(ErrorKind::Corrupt, format!("the directory {} has no tree", path.display()))
                })?;
                self.below = Some((path.clone(), tree));
            }
            return Ok(Some((path, node)));
        }
    }

    /// Passes over what is in the directory that was given last.
    pub(crate) fn skip(&mut self) {
        self.below = None;
    }
}
