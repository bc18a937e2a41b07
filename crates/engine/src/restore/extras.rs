//! What the target has and the snapshot does not: which of it may be deleted, how much that is, and its end.
//!
//! Not here: when it is deleted, which is after all else has succeeded (`finish`).

use std::collections::BTreeSet;
use std::io;

use rustix::fs::FileType;

use super::names::Listing;
use super::select::{Selection, Verdict};
use super::target::{Dir, Fate, Target, is_temp_name};
use super::walk::Visit;
use super::{Counts, Reach};
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
    /// What else may be touched.
    pub(crate) reach: Reach,
}

impl Extras<'_> {
    /// Names that the snapshot does not have, the selection covers and the backup has not left out; and, to undo something,
    /// directories in which it may cover something. None where another file system is mounted on a directory that is empty in
    /// the snapshot: it was empty because a backup does not enter what is mounted.
    pub(crate) fn list(&self) -> io::Result<Vec<(Vec<u8>, FileType)>> {
        let Self { dir, visit, selection, target, .. } = self;
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
        let listed = dir.list()?;
        let is_extra = |name: &[u8]| {
            let names: Vec<&[u8]> = path.iter().copied().chain([name]).collect();
            visit.tree.find(name).is_none()
                // ext4 keeps this for fsck in the root of each file system; it belongs to no backup.
                && !(path.is_empty() && name == b"lost+found")
                && self.fate(&names) != Fate::Stays
        };
        let candidates: Vec<_> = listed.iter().filter(|(name, _)| is_extra(name)).collect();
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        // Where names are not told apart, it may be what was restored, by another spelling of its name.
        let listing = Listing::new(dir, listed.iter().map(|(name, _)| name.as_slice()));
        let unlisted = listing.unlisted(&visit.tree.nodes)?;
        let mut extras = Vec::new();
        for (name, kind) in candidates {
            if !unlisted.is(dir, name)? {
                extras.push((name.clone(), *kind));
            }
        }
        Ok(extras)
    }

    /// Adds to `counts` what [`Self::list`] has, with all that is in it and goes. Marks in `excluded` the exclude patterns
    /// for which something of it stays, in `included` the include patterns for which something goes.
    pub(crate) fn count(
        &self,
        counts: &mut Counts,
        excluded: &mut [bool],
        included: &mut [bool],
    ) -> io::Result<()> {
        let device = self.dir.device()?;
        // (names from `dir`, type); reopened from `dir` each time, so that depth costs no descriptors.
        let mut pending: Vec<(Vec<Vec<u8>>, FileType)> =
            self.list()?.into_iter().map(|(name, kind)| (vec![name], kind)).collect();
        // Directories that would go, but stay for what is in them.
        let mut kept: BTreeSet<Vec<Vec<u8>>> = BTreeSet::new();
        while let Some((path, mut kind)) = pending.pop() {
            let Some((name, above)) = path.split_last() else { continue };
            if kind == FileType::Unknown {
                let Some(stat) = self.dir.walk(above)?.stat(name)? else { continue };
                kind = FileType::from_raw_mode(stat.st_mode);
            }
            let names = self.below(&path);
            let mut fate = self.fate(&names);
            if fate == Fate::Stays {
                self.selection.mark_excludes(&names, excluded);
            } else if kind == FileType::Directory {
                match self.dir.listed(&path, fate, device)? {
                    Some((_, inner)) => {
                        let path = |inner| path.iter().cloned().chain([inner]).collect();
                        pending.extend(inner.into_iter().map(|(inner, kind)| (path(inner), kind)));
                    }
                    // What is mounted is not emptied: the run tells it, and goes on with the rest.
                    None => fate = Fate::Stays,
                }
            }
            if fate != Fate::Goes {
                let mut above = path;
                while above.pop().is_some() && !above.is_empty() {
                    if self.fate(&self.below(&above)) == Fate::Goes && !kept.insert(above.clone()) {
                        break;
                    }
                }
                continue;
            }
            self.selection.mark(&names, included);
            let counter = match kind {
                FileType::Directory => &mut counts.dirs,
                FileType::RegularFile => &mut counts.files,
                _ => &mut counts.others,
            };
            *counter = counter.saturating_add(1);
        }
        counts.dirs = counts.dirs.saturating_sub(u64::try_from(kept.len()).unwrap_or(u64::MAX));
        Ok(())
    }

    /// Removes one of them, a directory with all it holds but for what stays. Returns how many names were removed.
    pub(crate) fn remove(&self, name: &[u8]) -> io::Result<u64> {
        self.dir.remove_by(name, &|path| self.fate(&self.below(path)))
    }

    /// What becomes of a path that the snapshot does not have, by its names from the target.
    fn fate(&self, names: &[&[u8]]) -> Fate {
        if self.selection.spares(names) {
            return Fate::Stays;
        }
        let undoes = self.reach == Reach::Undo;
        match self.selection.verdict(names) {
            Verdict { selected: true, .. } => Fate::Goes,
            // What a killed restore had begun to write.
            Verdict { .. } if undoes && names.last().is_some_and(|name| is_temp_name(name)) => Fate::Goes,
            Verdict { descend: true, .. } if undoes => Fate::GoesInPart,
            Verdict { .. } => Fate::Stays,
        }
    }

    fn names(&self) -> Vec<&[u8]> {
        self.visit.path.split(|b| *b == b'/').filter(|name| !name.is_empty()).collect()
    }

    fn below<'p>(&'p self, path: &'p [Vec<u8>]) -> Vec<&'p [u8]> {
        self.names().into_iter().chain(path.iter().map(Vec::as_slice)).collect()
    }
}
