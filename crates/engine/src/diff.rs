//! What differs between two snapshots.
//!
//! Order, letters and counts are restic's, so that scripts can read either.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::event::Ctx;
use crate::format::node::{Node, NodeType};
use crate::format::pack::BlobKind;
use crate::format::tree::{MAX_DEPTH, MAX_PATH, too_deep};
use crate::id::Id;
use crate::index::Index;
use crate::read::TreeReader;
use crate::repository::Repository;
use crate::stats::used_blobs;

/// One entry that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `+` added, `-` removed, `T` another type, `M` other content, `U` other metadata, `M?` other content although
    /// all metadata is the same.
    pub letters: &'static str,
    /// Its path.
    pub path: PathBuf,
    /// Whether it is a directory (in the second snapshot, where it is in both).
    pub is_dir: bool,
}

/// What only one of the snapshots has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OneSide {
    /// Files.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Entries of other kinds.
    pub others: u64,
    /// Blobs of content.
    pub data_blobs: u64,
    /// Blobs of directories.
    pub tree_blobs: u64,
    /// Plain bytes of these blobs.
    pub bytes: u64,
}

/// Counts of a comparison.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiffReport {
    /// Files in both whose content differs.
    pub changed_files: u64,
    /// What only the second has.
    pub added: OneSide,
    /// What only the first has.
    pub removed: OneSide,
}

/// Compares two trees and gives each difference to `each`, in the order of a listing. With `metadata`, differences
/// of metadata alone too.
pub async fn diff(
    repo: &Repository,
    index: &Arc<Index>,
    (left, right): (Id, Id),
    metadata: bool,
    ctx: &Ctx,
    mut each: impl FnMut(&Change) -> Result<()>,
) -> Result<DiffReport> {
    let trees = TreeReader::new(repo.clone(), Arc::clone(index))?;
    let mut run = Run { metadata, report: DiffReport::default(), blobs: Blobs::default() };
    run.blobs.before.insert((BlobKind::Tree, left));
    run.blobs.after.insert((BlobKind::Tree, right));
    let mut stack = vec![Frame {
        path: PathBuf::from("/"),
        left: load(&trees, Some(left)).await?,
        right: load(&trees, Some(right)).await?,
    }];
    while let Some(frame) = stack.last_mut() {
        ctx.check()?;
        let Some((left, right)) = frame.next() else {
            stack.pop();
            continue;
        };
        let Some(node) = right.as_ref().or(left.as_ref()) else { continue };
        let path = frame.path.join(OsStr::from_bytes(&node.name));
        if let Some(change) = run.compare(&path, left.as_ref(), right.as_ref()) {
            each(&change)?;
        }
        let below = |node: &Option<Node>| -> Result<Option<Id>> {
            match node {
                Some(Node { kind: NodeType::Dir, subtree, .. }) => subtree.map(Some).ok_or_else(|| {
                    Error::new(ErrorKind::Corrupt, format!("the directory {} has no tree", path.display()))
                }),
                _ => Ok(None),
            }
        };
        let (left, right) = (below(&left)?, below(&right)?);
        if left.is_some() && left == right {
            if let Some(tree) = left {
                ctx.run(used_blobs(&trees, tree, &mut run.blobs.common)).await?;
            }
            continue;
        }
        if left.is_some() || right.is_some() {
            if stack.len() > MAX_DEPTH || path.as_os_str().len() > MAX_PATH {
                return Err(too_deep(&path));
            }
            stack.push(Frame {
                left: ctx.run(load(&trees, left)).await?,
                right: ctx.run(load(&trees, right)).await?,
                path,
            });
        }
    }
    run.count_blobs(index)?;
    Ok(run.report)
}

async fn load(trees: &TreeReader, id: Option<Id>) -> Result<Vec<Node>> {
    let Some(id) = id else { return Ok(Vec::new()) };
    let mut nodes = trees.load(&id).await?.nodes.clone();
    nodes.reverse();
    Ok(nodes)
}

/// Two directories of the same path, what is left of each; last entry first.
struct Frame {
    path: PathBuf,
    left: Vec<Node>,
    right: Vec<Node>,
}

impl Frame {
    /// The next name that either has.
    fn next(&mut self) -> Option<(Option<Node>, Option<Node>)> {
        let order = match (self.left.last(), self.right.last()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(left), Some(right)) => left.name.cmp(&right.name),
        };
        Some(match order {
            Ordering::Less => (self.left.pop(), None),
            Ordering::Greater => (None, self.right.pop()),
            Ordering::Equal => (self.left.pop(), self.right.pop()),
        })
    }
}

#[derive(Default)]
struct Blobs {
    before: HashSet<(BlobKind, Id)>,
    after: HashSet<(BlobKind, Id)>,
    /// In directories that are the same in both.
    common: HashSet<(BlobKind, Id)>,
}

struct Run {
    metadata: bool,
    report: DiffReport,
    blobs: Blobs,
}

impl Run {
    fn compare(&mut self, path: &Path, left: Option<&Node>, right: Option<&Node>) -> Option<Change> {
        if let Some(node) = left {
            add_blobs(&mut self.blobs.before, node);
        }
        if let Some(node) = right {
            add_blobs(&mut self.blobs.after, node);
        }
        let letters = match (left, right) {
            (Some(node), None) => {
                count(&mut self.report.removed, node);
                "-"
            }
            (None, Some(node)) => {
                count(&mut self.report.added, node);
                "+"
            }
            (Some(left), Some(right)) => self.letters(left, right),
            (None, None) => "",
        };
        let is_dir = right.or(left).is_some_and(|n| n.kind == NodeType::Dir);
        (!letters.is_empty()).then(|| Change { letters, path: path.to_owned(), is_dir })
    }

    fn letters(&mut self, left: &Node, right: &Node) -> &'static str {
        let other_type = left.kind != right.kind;
        if left.kind == NodeType::File && right.kind == NodeType::File && left.content != right.content {
            self.report.changed_files = self.report.changed_files.saturating_add(1);
            let same_metadata =
                Node { content: None, ..left.clone() } == Node { content: None, ..right.clone() };
            return if same_metadata { "M?" } else { "M" };
        }
        match (other_type, self.metadata && left != right) {
            (true, true) => "TU",
            (true, false) => "T",
            (false, true) => "U",
            (false, false) => "",
        }
    }

    fn count_blobs(&mut self, index: &Index) -> Result<()> {
        let Blobs { before, after, common } = &self.blobs;
        for (ours, theirs, side) in
            [(before, after, &mut self.report.removed), (after, before, &mut self.report.added)]
        {
            for (kind, id) in ours.iter().filter(|b| !theirs.contains(*b) && !common.contains(*b)) {
                let size = index.plain_length(*kind, id).ok_or_else(|| {
                    Error::new(
                        ErrorKind::Missing,
                        format!("the {} blob {id} is in no index; run a check", kind.as_str()),
                    )
                })?;
                let blobs = match kind {
                    BlobKind::Data => &mut side.data_blobs,
                    BlobKind::Tree => &mut side.tree_blobs,
                };
                *blobs = blobs.saturating_add(1);
                side.bytes = side.bytes.saturating_add(u64::from(size));
            }
        }
        Ok(())
    }
}

fn add_blobs(blobs: &mut HashSet<(BlobKind, Id)>, node: &Node) {
    match node.kind {
        NodeType::File => blobs.extend(node.content.iter().flatten().map(|id| (BlobKind::Data, *id))),
        NodeType::Dir => blobs.extend(node.subtree.map(|id| (BlobKind::Tree, id))),
        _ => {}
    }
}

fn count(side: &mut OneSide, node: &Node) {
    let counter = match node.kind {
        NodeType::File => &mut side.files,
        NodeType::Dir => &mut side.dirs,
        _ => &mut side.others,
    };
    *counter = counter.saturating_add(1);
}
