//! The last walk of a restore: links and special files, extras removed, directories given their attributes. And
//! how directories are made before that.
//!
//! Not here: plain files.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::AsFd;

use rustix::fs::FileType;

use super::attributes::Handle;
use super::extras::Extras;
use super::file::{Attributes, put_in_place};
use super::names::{self, Listing};
use super::plan::{Found, compare};
use super::run::{Links, Run, count};
use super::select::Selection;
use super::target::{Dir, temp_name};
use super::walk::{Left, Start, Step, TreeSource, Visit, Walk, join, shown, split};
use super::{Overwrite, Reach};
use crate::error::Result;
use crate::event::Fault;
use crate::format::node::{Node, NodeType};

/// Makes directories, and remembers which ones on the way to a selected file it made.
#[derive(Default)]
pub(crate) struct DirMaker {
    made: HashSet<Vec<u8>>,
    selection: Selection,
}

impl DirMaker {
    pub(crate) fn new(selection: &Selection) -> Self {
        Self { made: HashSet::new(), selection: selection.clone() }
    }

    /// Makes the directory at `path` and those above it; gives the action that failed and why.
    pub(crate) fn ensure(&mut self, run: &Run<'_>, path: &[u8]) -> Result<(), (&'static str, io::Error)> {
        let found = run.target.dir(path);
        match found {
            Ok(dir) => {
                // Without root, a directory that was restored before may deny its own owner.
                if path.is_empty() || rustix::process::geteuid().is_root() {
                    return Ok(());
                }
                let writable = dir.stat_self().is_ok_and(|s| s.st_mode & 0o300 == 0o300);
                return if writable { Ok(()) } else { unlock(run, path).or(Ok(())) };
            }
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                return unlock(run, path).map_err(|e| ("open directory", e));
            }
            Err(_) => {}
        }
        let (parent, _) = split(path);
        if path.is_empty() || parent == path {
            return Err(("open directory", io::Error::from(io::ErrorKind::NotFound)));
        }
        // Its parent was made on the way down, unless nothing in that is selected.
        let dir = if let Ok(dir) = run.target.dir(parent) {
            dir
        } else {
            self.ensure(run, parent)?;
            run.target.dir(parent).map_err(|e| ("open directory", e))?
        };
        let names: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
        let may_replace = run.spec.reach == Reach::Restic || self.selection.verdict(&names).selected;
        make(&dir, path, run.spec.overwrite, may_replace).map_err(|e| ("create directory", e))?;
        if self.selection.is_narrowed() {
            self.made.insert(path.to_vec());
        }
        Ok(())
    }

    pub(crate) fn made(&self, path: &[u8]) -> bool {
        self.made.contains(path)
    }
}

/// Makes the directory at `path` in the one above it. `may_replace` is whether something else may have to go for it.
fn make(dir: &Dir, path: &[u8], overwrite: Overwrite, may_replace: bool) -> io::Result<()> {
    let (_, name) = split(path);
    if let Some(stat) = dir.stat(name)?
        && FileType::from_raw_mode(stat.st_mode) != FileType::Directory
    {
        if overwrite.may_keep() {
            return Err(io::Error::other("something else is in its place, which is not to be overwritten"));
        }
        if !may_replace {
            return Err(io::Error::other(not_selected(path)));
        }
        // Whatever it is, and wherever it points: the snapshot has a directory here.
        dir.unlink(name)?;
    }
    match dir.make_dir(name) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// What is said of something that stands where a directory belongs that is only on the way to what is selected.
pub(crate) fn not_selected(path: &[u8]) -> String {
    format!(
        "{} is no directory, and the patterns do not select it: to have it replaced, select it",
        shown(path).display()
    )
}

fn unlock(run: &Run<'_>, path: &[u8]) -> io::Result<()> {
    let (parent, name) = split(path);
    run.target.dir(parent)?.unlock_dir(name)
}

/// Walks through it all once more and finishes it.
pub(crate) fn all(
    run: &Run<'_>,
    trees: &TreeSource,
    selection: &Selection,
    start: &Start,
    links: &Links,
) -> Result<()> {
    make_rest(run, trees, selection, start, links)?;
    let delete = run.spec.delete_extra && !run.has_faults();
    if run.spec.delete_extra && !delete {
        count(&run.tally.delete_skipped, 1);
    }
    let mut walk = Walk::new(trees, selection, start);
    while let Some(step) = walk.next(&mut |f| run.dir_fault(f))? {
        run.go_on()?;
        match step {
            Step::Enter(visit) if delete && visit.whole => remove_extras(run, &visit, selection),
            Step::Enter(_) => {}
            Step::Leave(left) => set_dir_attributes(run, &left),
        }
    }
    Ok(())
}

/// Links and special files come last, when no directory will be made in their place any more.
fn make_rest(
    run: &Run<'_>,
    trees: &TreeSource,
    selection: &Selection,
    start: &Start,
    links: &Links,
) -> Result<()> {
    let mut others = OtherLinks::new();
    let mut walk = Walk::new(trees, selection, start);
    while let Some(step) = walk.next(&mut |f| run.dir_fault(f))? {
        run.go_on()?;
        let Step::Enter(visit) = step else { continue };
        let mut here = None;
        for node in visit.selected().filter(|n| n.kind != NodeType::Dir) {
            if run.spec.overwrite.may_keep() {
                let Some(dir) = opened(&mut here, run, &visit.path) else { break };
                if run.keeps(dir, &visit.path, node) {
                    continue;
                }
            }
            let path = join(&visit.path, &node.name);
            let linked = node.links > 1 && node.inode != 0;
            let key = (node.device_id, node.inode);
            let link_to = match node.kind {
                NodeType::Socket => {
                    count(&run.tally.sockets, 1);
                    continue;
                }
                NodeType::File => match links.get(&key).filter(|first| linked && first.is_same(node)) {
                    // A plain file, written before; or the name that was.
                    None => continue,
                    Some(first) if first.path == path => continue,
                    Some(first) if first.failed => {
                        let why = "the file it is a further name of could not be restored";
                        run.fault(&path, "link", why.to_owned());
                        continue;
                    }
                    Some(first) => Some(first.path.clone()),
                },
                _ if linked => others.get(&Same::of(node)).cloned(),
                _ => None,
            };
            let Some(dir) = opened(&mut here, run, &visit.path) else { break };
            let outcome = match &link_to {
                Some(first) => link(run, dir, node, &path, first),
                None => make_other(run, dir, node, &path),
            };
            match outcome {
                Ok(()) => {
                    // Only what is there can get further names.
                    if linked && node.kind != NodeType::File && link_to.is_none() {
                        others.insert(Same::of(node), path);
                    }
                    run.tell();
                }
                Err((action, e)) => run.write_failed(&path, action, &e),
            }
        }
        let made = visit.selected().filter(|node| node.kind != NodeType::Socket);
        let alike = names::alike(made);
        if !alike.is_empty()
            && let Some(dir) = opened(&mut here, run, &visit.path)
            && let Err(e) = tell_merged(run, dir, &visit, &alike)
        {
            run.fault(&visit.path, "list", e.to_string());
        }
    }
    run.go_on()
}

/// Tells of those that the target takes for one.
fn tell_merged(run: &Run<'_>, dir: &Dir, visit: &Visit, alike: &[(&Node, &Node)]) -> io::Result<()> {
    let names = dir.list()?;
    let listing = Listing::new(dir, names.iter().map(|(name, _)| name.as_slice()));
    let lost: Vec<_> = alike.iter().filter(|(one, other)| !listing.has_both(one, other)).collect();
    if lost.is_empty() || !listing.folds(&visit.tree.nodes)? {
        return Ok(());
    }
    for (one, other) in lost {
        run.fault(&join(&visit.path, &other.name), "restore", merged(&join(&visit.path, &one.name)));
    }
    Ok(())
}

/// What is said of a name that is one file with that of `first`.
fn merged(first: &[u8]) -> String {
    format!(
        "it is one file with {}, and they were two: a file system that does not tell capitals apart keeps only one of them; \
         restore to another one",
        shown(first).display()
    )
}

/// The directory, opened the first time that it is asked for.
fn opened<'a>(here: &'a mut Option<Dir>, run: &Run<'_>, path: &[u8]) -> Option<&'a Dir> {
    if here.is_none() {
        match run.target.dir(path) {
            Ok(dir) => *here = Some(dir),
            Err(e) => run.dir_fault(not_opened(path, &e)),
        }
    }
    here.as_ref()
}

fn not_opened(path: &[u8], error: &io::Error) -> Fault {
    Fault { path: shown(path), action: "open directory", error: error.to_string() }
}

/// First names of special files and links with several names.
type OtherLinks = HashMap<Same, Vec<u8>>;

/// What makes two names those of one link or special file. A number alone proves nothing: it may have been used again
/// while the backup ran.
#[derive(PartialEq, Eq, Hash)]
struct Same {
    kind: &'static str,
    device_id: u64,
    inode: u64,
    link_target: Vec<u8>,
    device: u64,
}

impl Same {
    fn of(node: &Node) -> Self {
        Self {
            kind: node.kind.as_str(),
            device_id: node.device_id,
            inode: node.inode,
            link_target: node.link_target.clone(),
            device: node.device,
        }
    }
}

type Outcome = Result<(), (&'static str, io::Error)>;

fn link(run: &Run<'_>, dir: &Dir, node: &Node, path: &[u8], first: &[u8]) -> Outcome {
    let failed = |e| ("link", e);
    let (from, of) = split(first);
    let source = run.target.dir(from).map_err(failed)?;
    let there = source.stat(of).map_err(failed)?.ok_or(("link", io::ErrorKind::NotFound.into()))?;
    let already = dir
        .stat(&node.name)
        .map_err(failed)?
        .is_some_and(|s| (s.st_dev, s.st_ino) == (there.st_dev, there.st_ino));
    let is_file = node.kind == NodeType::File;
    if already {
        count(&run.tally.unchanged, u64::from(is_file));
    } else {
        let temp = temp_name(&run.spec.snapshot, path);
        dir.unlink(&temp).map_err(failed)?;
        dir.make_hard_link(&temp, &source, of).map_err(failed)?;
        put_or_remove(run, dir, &temp, path).map_err(failed)?;
        count(&run.tally.restored, u64::from(is_file));
    }
    count(&run.tally.files_done, u64::from(is_file));
    Ok(())
}

fn make_other(run: &Run<'_>, dir: &Dir, node: &Node, path: &[u8]) -> Outcome {
    let stat = dir.stat(&node.name).map_err(|e| ("stat", e))?;
    let attributes = Attributes::from(node);
    let handle = |name| {
        if node.kind == NodeType::Symlink { Handle::Link(dir, name) } else { Handle::Special(dir, name) }
    };
    if compare(dir, node, stat.as_ref()) == Found::Same {
        attributes.apply(run, path, handle(&node.name));
        return Ok(());
    }
    let temp = temp_name(&run.spec.snapshot, path);
    let action = "create";
    dir.unlink(&temp).map_err(|e| (action, e))?;
    match node.kind {
        NodeType::Symlink => dir.make_symlink(&temp, &node.link_target),
        NodeType::Fifo => dir.make_special(&temp, FileType::Fifo, 0),
        NodeType::Dev => dir.make_special(&temp, FileType::BlockDevice, node.device),
        NodeType::CharDev => dir.make_special(&temp, FileType::CharacterDevice, node.device),
        NodeType::File | NodeType::Dir | NodeType::Socket | NodeType::Irregular => {
            Err(io::Error::other("the snapshot does not say what it was"))
        }
    }
    .map_err(|e| (action, e))?;
    attributes.apply(run, path, handle(&temp));
    put_or_remove(run, dir, &temp, path).map_err(|e| (action, e))
}

fn put_or_remove(run: &Run<'_>, dir: &Dir, temp: &[u8], path: &[u8]) -> io::Result<()> {
    let outcome = put_in_place(run, dir, temp, path);
    if outcome.is_err() {
        // The failure to tell is the first one.
        let _ = dir.unlink(temp);
    }
    outcome
}

fn remove_extras(run: &Run<'_>, visit: &Visit, selection: &Selection) {
    let mut here = None;
    let Some(dir) = opened(&mut here, run, &visit.path) else { return };
    let extras = Extras { dir, visit, selection, target: run.target, reach: run.spec.reach };
    let names = match extras.list() {
        Ok(names) => names,
        Err(e) => return run.fault(&visit.path, "list", e.to_string()),
    };
    for (name, _) in names {
        match extras.remove(&name) {
            Ok(removed) => count(&run.tally.deleted, removed),
            Err(e) => run.fault(&join(&visit.path, &name), "delete", e.to_string()),
        }
    }
}

fn set_dir_attributes(run: &Run<'_>, left: &Left) {
    let Some(node) = &left.node else { return };
    // A directory that is only on the way to what was selected keeps what it has, if it was there.
    if !left.selected && !run.was_made(&left.path) {
        return;
    }
    match run.target.dir(&left.path) {
        Ok(dir) => Attributes::from(node).apply(run, &left.path, Handle::Open(dir.as_fd())),
        // Why it could not be made was told then, or it is gone since.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            run.dir_fault(not_opened(&left.path, &e));
        }
        Err(e) => run.metadata_fault(&left.path, "open", e.to_string()),
    }
}
