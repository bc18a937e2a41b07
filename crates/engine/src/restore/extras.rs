//! What the target has and the snapshot does not: which of it may be deleted, how much that is, and its end.
//!
//! Not here: when it is deleted, which is after all else has succeeded (`finish`).

use std::collections::BTreeSet;
use std::io;

use rustix::fs::FileType;

use super::Counts;
use super::select::Selection;
use super::target::{Dir, Target};
use super::walk::Visit;
use crate::format::node::{Node, NodeType};

/// The extras of one directory.
pub(crate) struct Extras<'a> {
    /// The directory in the target.
    pub(crate) dir: &'a Dir,
    /// The same in the snapshot.
    pub(crate) visit: &'a Visit,
    /// What may be touched.
    pub(crate) selection: &'a Selection,
    /// The root of the target.
    pub(crate) target: &'a Target,
}

impl Extras<'_> {
    /// Names that the snapshot does not have, the selection covers and the backup has not left out. None where another file
    /// system is mounted on a directory that is empty in the snapshot: it was empty because a backup does not enter what is
    /// mounted.
    pub(crate) fn list(&self) -> io::Result<Vec<(Vec<u8>, FileType)>> {
        let Self { dir, visit, selection, target } = self;
        if visit.tree.nodes.is_empty() && dir.device()? != target.dir(b"")?.device()? {
            return Ok(Vec::new());
        }
        let path = self.names();
        let plain = |node: &&Node| node.kind == NodeType::File;
        if visit.tree.nodes.iter().all(|node| plain(&node))
            && selection.spares_cache(&path, visit.tree.nodes.iter().map(|node| &node.name))
        {
            return Ok(Vec::new());
        }
        let mut extras = dir.list()?;
        extras.retain(|(name, _)| {
            let mut names = path.clone();
            names.push(name);
            visit.tree.find(name).is_none()
                // ext4 keeps this for fsck in the root of each file system; it belongs to no backup.
                && !(path.is_empty() && name == b"lost+found")
                && selection.verdict(&names).selected
                && !selection.spares(&names)
        });
        Ok(extras)
    }

    /// Adds to `counts` what [`Self::list`] has, with all that is in it and goes. Marks in `excluded` the exclude patterns
    /// for which something of it stays.
    pub(crate) fn count(&self, counts: &mut Counts, excluded: &mut [bool]) -> io::Result<()> {
        // (names from `dir`, type); reopened from `dir` each time, so that depth costs no descriptors.
        let mut pending: Vec<(Vec<Vec<u8>>, FileType)> =
            self.list()?.into_iter().map(|(name, kind)| (vec![name], kind)).collect();
        // Directories that stay for what is in them.
        let mut kept: BTreeSet<Vec<Vec<u8>>> = BTreeSet::new();
        while let Some((path, mut kind)) = pending.pop() {
            let Some((name, above)) = path.split_last() else { continue };
            let parent = self.dir.walk(above)?;
            if kind == FileType::Unknown {
                let Some(stat) = parent.stat(name)? else { continue };
                kind = FileType::from_raw_mode(stat.st_mode);
            }
            match kind {
                FileType::Directory => {
                    counts.dirs = counts.dirs.saturating_add(1);
                    for (inner, kind) in parent.subdir(name)?.list()? {
                        let mut path = path.clone();
                        path.push(inner);
                        if self.stays(&path) {
                            self.selection.mark_excludes(&self.below(&path), excluded);
                            path.pop();
                            while !path.is_empty() && kept.insert(path.clone()) {
                                path.pop();
                            }
                            continue;
                        }
                        pending.push((path, kind));
                    }
                }
                FileType::RegularFile => counts.files = counts.files.saturating_add(1),
                _ => counts.others = counts.others.saturating_add(1),
            }
        }
        counts.dirs = counts.dirs.saturating_sub(u64::try_from(kept.len()).unwrap_or(u64::MAX));
        Ok(())
    }

    /// Removes one of them, a directory with all it holds but for what stays. Returns how many names were removed.
    pub(crate) fn remove(&self, name: &[u8]) -> io::Result<u64> {
        self.dir.remove_all_but(name, &|path| self.stays(path))
    }

    fn names(&self) -> Vec<&[u8]> {
        self.visit.path.split(|b| *b == b'/').filter(|name| !name.is_empty()).collect()
    }

    /// Whether something within an extra, by its names from the directory, stays.
    fn stays(&self, path: &[Vec<u8>]) -> bool {
        self.selection.spares(&self.below(path))
    }

    fn below<'p>(&'p self, path: &'p [Vec<u8>]) -> Vec<&'p [u8]> {
        self.names().into_iter().chain(path.iter().map(Vec::as_slice)).collect()
    }
}
