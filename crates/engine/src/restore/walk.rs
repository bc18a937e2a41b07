//! The way through a snapshot's trees: every selected directory once on the way down and once on the way up,
//! with names checked before anybody uses them.
//!
//! A snapshot's content is not trusted: names that are no names, cycles and endless depth end in faults, not in
//! files outside the target. Not here: what is done with what is found.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tokio::runtime::Handle;

use super::select::{Selection, Verdict};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Fault;
use crate::format::node::{Node, NodeType};
use crate::format::pack::BlobKind;
use crate::format::tree::{MAX_DEPTH, MAX_PATH, Tree};
use crate::id::Id;
use crate::index::Index;
use crate::read::{TreeReader, is_damage};
use crate::repository::Repository;

/// Bytes of a name. File systems take 255; the rest is for those that take as many characters.
const MAX_NAME: usize = 1024;

/// Reads directories for code that runs on a thread of its own.
pub(crate) struct TreeSource {
    reader: TreeReader,
    runtime: Handle,
}

impl TreeSource {
    pub(crate) fn new(repo: Repository, index: Arc<Index>, runtime: Handle) -> Result<Self> {
        Ok(Self { reader: TreeReader::new(repo, index)?, runtime })
    }

    /// Blocks until the directory is there; not to be called from the runtime's own threads.
    pub(crate) fn load(&self, id: &Id) -> Result<Arc<Tree>> {
        self.runtime.block_on(self.reader.load(id))
    }

    /// Plain bytes of a chunk; `None` when no index has it.
    pub(crate) fn chunk_length(&self, id: &Id) -> Option<u32> {
        self.reader.index().plain_length(BlobKind::Data, id)
    }

    /// Bytes of a file's content, and how many of them are known to be zeros by the name of their chunk alone.
    /// The node's own size is not trusted.
    pub(crate) fn content_bytes(&self, node: &Node) -> (u64, u64) {
        node.content.iter().flatten().fold((0, 0), |(all, zeros): (u64, u64), id| {
            let bytes = u64::from(self.chunk_length(id).unwrap_or(0));
            (all.saturating_add(bytes), zeros.saturating_add(if is_zero_chunk(id) { bytes } else { 0 }))
        })
    }
}

/// Whether a chunk is 512 KiB of zeros: every restic chunker cuts zeros at its minimum of that size.
pub(crate) fn is_zero_chunk(id: &Id) -> bool {
    static ZERO: OnceLock<Id> = OnceLock::new();
    ZERO.get_or_init(|| Id::hash(&vec![0; ZERO_CHUNK])) == id
}

/// Bytes of such a chunk.
pub(crate) const ZERO_CHUNK: usize = 512 << 10;

/// Where a restore begins: the directory whose entries go into the target.
pub(crate) struct Start {
    /// Its entries.
    pub(crate) tree: Arc<Tree>,
    /// Its own attributes, which go onto the target; none for the root of a snapshot or a single file.
    pub(crate) node: Option<Node>,
}

impl Start {
    /// Follows `subpath` from the root tree. A file at its end becomes the only entry.
    pub(crate) fn find(trees: &TreeSource, root: &Id, subpath: Option<&Path>) -> Result<Self> {
        let mut at = Self { tree: trees.load(root)?, node: None };
        for name in subpath.map(Path::components).into_iter().flatten() {
            let name = match name {
                std::path::Component::Normal(name) => name.as_bytes(),
                std::path::Component::ParentDir => {
                    return Err(Error::new(ErrorKind::Usage, "a path within a snapshot must not contain .."));
                }
                _ => continue,
            };
            let missing = || {
                let path = subpath.unwrap_or(Path::new("/")).display();
                Error::new(
                    ErrorKind::EmptySelection,
                    format!("the snapshot has no {path}; list what it has with `ls`"),
                )
            };
            // Only a directory has entries: what was found for the name before must be one.
            if at.node.as_ref().is_some_and(|n| n.kind != NodeType::Dir) {
                return Err(missing());
            }
            let node = at.tree.find(name).cloned().ok_or_else(missing)?;
            let tree = match (node.kind, &node.subtree) {
                (NodeType::Dir, Some(id)) => trees.load(id)?,
                (NodeType::Dir, None) => {
                    return Err(Error::new(ErrorKind::Corrupt, "a directory of the snapshot has no tree"));
                }
                _ => Arc::new(Tree { nodes: vec![node.clone()] }),
            };
            at = Self { tree, node: Some(node) };
        }
        if at.node.as_ref().is_some_and(|n| n.kind != NodeType::Dir) {
            at.node = None;
        }
        Ok(at)
    }
}

/// A directory on the way down.
pub(crate) struct Visit {
    /// From the target, names joined by `/`; empty for the target itself.
    pub(crate) path: Vec<u8>,
    /// Whether the directory itself is to be restored, not only something in it.
    pub(crate) selected: bool,
    /// What it holds.
    pub(crate) tree: Arc<Tree>,
    /// The verdict on each node of the tree, in the same order.
    pub(crate) verdicts: Vec<Verdict>,
    /// The tree was readable and every name in it usable.
    pub(crate) whole: bool,
}

impl Visit {
    /// The selected entries with their paths.
    pub(crate) fn selected(&self) -> impl Iterator<Item = &Node> {
        self.tree.nodes.iter().zip(&self.verdicts).filter(|(_, v)| v.selected).map(|(n, _)| n)
    }
}

/// A directory on the way up: everything in it is done.
pub(crate) struct Left {
    /// As in [`Visit`].
    pub(crate) path: Vec<u8>,
    /// Its own attributes (its content list is empty).
    pub(crate) node: Option<Node>,
    /// As in [`Visit`].
    pub(crate) selected: bool,
}

pub(crate) enum Step {
    Enter(Visit),
    Leave(Box<Left>),
}

struct Frame {
    left: Left,
    /// Subdirectories still to be entered, last first.
    pending: Vec<(Node, bool)>,
}

/// The walk. Memory is bounded by depth times subdirectories, not by the number of files.
pub(crate) struct Walk<'a> {
    trees: &'a TreeSource,
    selection: &'a Selection,
    start: Option<&'a Start>,
    stack: Vec<Frame>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(trees: &'a TreeSource, selection: &'a Selection, start: &'a Start) -> Self {
        Self { trees, selection, start: Some(start), stack: Vec::new() }
    }

    /// The next step. What is wrong with the snapshot goes to `fault`; an error means that the store failed and
    /// nothing more can be read.
    pub(crate) fn next(&mut self, fault: &mut dyn FnMut(Fault)) -> Result<Option<Step>> {
        if let Some(start) = self.start.take() {
            // The target itself always exists; its attributes are restored unless the selection is narrowed.
            let selected = !self.selection.is_narrowed();
            let tree = Arc::clone(&start.tree);
            return Ok(Some(self.enter(Vec::new(), start.node.clone(), selected, tree, true, fault)));
        }
        loop {
            let Some(frame) = self.stack.last_mut() else { return Ok(None) };
            let Some((node, selected)) = frame.pending.pop() else {
                return Ok(self.stack.pop().map(|f| Step::Leave(Box::new(f.left))));
            };
            let path = join(&frame.left.path, &node.name);
            if self.stack.len() >= MAX_DEPTH || path.len() > MAX_PATH {
                let why = format!(
                    "directories are nested more than {MAX_DEPTH} deep, or {MAX_PATH} bytes of names"
                );
                fault(damaged(&path, why));
                continue;
            }
            let Some(id) = node.subtree else {
                fault(damaged(&path, "the directory has no tree".to_owned()));
                continue;
            };
            let (tree, whole) = match self.trees.load(&id) {
                Ok(tree) => (tree, true),
                Err(e) if is_damage(&e) => {
                    fault(damaged(&path, e.chain()));
                    (Arc::new(Tree::default()), false)
                }
                Err(e) => return Err(e),
            };
            return Ok(Some(self.enter(path, Some(node), selected, tree, whole, fault)));
        }
    }

    /// Leaves out what is below the directory entered last.
    pub(crate) fn skip_children(&mut self) {
        if let Some(frame) = self.stack.last_mut() {
            frame.pending.clear();
        }
    }

    fn enter(
        &mut self,
        path: Vec<u8>,
        node: Option<Node>,
        selected: bool,
        tree: Arc<Tree>,
        mut whole: bool,
        fault: &mut dyn FnMut(Fault),
    ) -> Step {
        let mut names: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|n| !n.is_empty()).collect();
        let mut verdicts = Vec::with_capacity(tree.nodes.len());
        let mut pending = Vec::new();
        for node in &tree.nodes {
            let mut verdict = Verdict { selected: false, descend: false };
            if let Some(why) = bad_name(&node.name) {
                // Of what may be as long as the tree, enough to know it by.
                let name = node.name.get(..MAX_NAME).unwrap_or(&node.name);
                fault(damaged(&join(&path, name), why.to_owned()));
                whole = false;
            } else {
                names.push(&node.name);
                verdict = self.selection.verdict(&names);
                names.pop();
            }
            if node.kind == NodeType::Dir && verdict.descend {
                pending.push((node.clone(), verdict.selected));
            }
            verdicts.push(verdict);
        }
        pending.reverse();
        self.stack.push(Frame { left: Left { path: path.clone(), node, selected }, pending });
        Step::Enter(Visit { path, selected, tree, verdicts, whole })
    }
}

/// Why a name must not be used: only what is one single entry of a directory is.
fn bad_name(name: &[u8]) -> Option<&'static str> {
    match name {
        b"" => Some("the entry has no name"),
        b"." | b".." => Some("the entry is named like the directory itself or the one above"),
        _ if name.contains(&b'/') => Some("the entry's name contains a slash"),
        _ if name.contains(&0) => Some("the entry's name contains a zero byte"),
        _ if name.len() > MAX_NAME => Some("the entry's name is longer than any file system takes"),
        _ => None,
    }
}

fn damaged(path: &[u8], error: String) -> Fault {
    Fault { path: shown(path), action: "read snapshot", error }
}

/// `path` and a name in it.
pub(crate) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(path.len().saturating_add(name.len()).saturating_add(1));
    joined.extend_from_slice(path);
    if !path.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name);
    joined
}

/// The directory and the name of a path.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => {
            (path.get(..at).unwrap_or_default(), path.get(at.saturating_add(1)..).unwrap_or_default())
        }
        None => (&[], path),
    }
}

/// A path for reports: as it lies below the target, with a leading slash.
pub(crate) fn shown(path: &[u8]) -> PathBuf {
    Path::new("/").join(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_single_names_are_good() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b"] {
            assert!(bad_name(bad).is_some(), "{bad:?}");
        }
        assert!(bad_name(&[b'a'; MAX_NAME + 1]).is_some() && bad_name(&[b'a'; MAX_NAME]).is_none());
        for good in [&b"a"[..], b"...", b"a\nb", b"\xff", b" "] {
            assert!(bad_name(good).is_none(), "{good:?}");
        }
    }

    #[test]
    fn paths_join_and_split() {
        assert_eq!(join(b"", b"a"), b"a");
        assert_eq!(join(b"a", b"b"), b"a/b");
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"a"), (&b""[..], &b"a"[..]));
        assert_eq!(shown(b"a"), Path::new("/a"));
    }
}
