//! Compares a snapshot with the target and counts what a restore would do. Writes nothing.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use rustix::fs::{FileType, OFlags, Stat, StatVfs};

use super::compare::{Ask, Expected, differing};
use super::extras::Extras;
use super::finish::not_selected;
use super::run::existing;
use super::select::Selection;
use super::target::{Dir, Target};
use super::walk::{Start, Step, TreeSource, Visit, Walk, join, shown};
use super::{Overwrite, Reach, RestorePlan, RestoreSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Ctx, Fault};
use crate::format::node::{Node, NodeType};

/// What lies in the target where a node belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// It looks as it should: a file by size and modification time, a link by what it points to.
    Same,
    /// A plain file of its own whose content can be changed in place.
    Differs,
    /// Something else, to be replaced.
    Other,
    /// Whatever it is, it is to be left as it is.
    Kept,
}

/// Whether what is there is left as it is. Directories are not: they get their attributes in any case.
pub(crate) fn keeps(overwrite: Overwrite, node: &Node, there: &Stat) -> bool {
    let dirs = node.kind == NodeType::Dir && NodeType::from_st_mode(there.st_mode) == NodeType::Dir;
    match overwrite {
        Overwrite::Always | Overwrite::IfChanged => false,
        _ if dirs => false,
        // A directory's time tells when a name in it came or went, which is no reason to remove what is in its place.
        Overwrite::IfNewer if node.kind != NodeType::Dir => {
            (node.mtime.seconds, u64::from(node.mtime.nanos)) <= (there.st_mtime, there.st_mtime_nsec)
        }
        Overwrite::IfNewer | Overwrite::Never => true,
    }
}

/// Compares one node with what lies at its name.
pub(crate) fn compare(dir: &Dir, node: &Node, stat: Option<&Stat>) -> Found {
    let Some(stat) = stat else { return Found::Nothing };
    let same_kind = NodeType::from_st_mode(stat.st_mode) == node.kind;
    match node.kind {
        _ if !same_kind => Found::Other,
        NodeType::File => {
            // Writing into a file that has further names would change those too.
            let alone = stat.st_nlink == 1;
            if !alone && node.links <= 1 {
                Found::Other
            } else if u64::try_from(stat.st_size) == Ok(node.size)
                && (stat.st_mtime, stat.st_mtime_nsec) == (node.mtime.seconds, node.mtime.nanos.into())
            {
                Found::Same
            } else if alone {
                Found::Differs
            } else {
                Found::Other
            }
        }
        NodeType::Symlink => {
            let points_to = rustix::fs::readlinkat(dir, node.name.as_slice(), Vec::new());
            if points_to.is_ok_and(|t| t.as_bytes() == node.link_target) { Found::Same } else { Found::Other }
        }
        NodeType::Dev | NodeType::CharDev if stat.st_rdev != node.device => Found::Other,
        _ => Found::Same,
    }
}

/// Walks the snapshot and the target side by side.
pub(crate) fn make(
    trees: &TreeSource,
    selection: &Selection,
    start: &Start,
    spec: &RestoreSpec,
    fault: &mut dyn FnMut(Fault),
    ctx: &Ctx,
) -> Result<RestorePlan> {
    let target = Target::open(&spec.target)?;
    let mut plan = RestorePlan::default();
    let mut matched = vec![false; selection.includes().count()];
    let mut gone = matched.clone();
    let mut excluded = vec![false; selection.excludes().count()];
    let mut in_the_way = HashSet::new();
    let mut selected = 0_u64;
    let mut seen_links = HashSet::new();
    let mut walk = Walk::new(trees, selection, start);
    while let Some(step) = walk.next(fault)? {
        if ctx.cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "planning the restore was cancelled"));
        }
        let Step::Enter(visit) = step else { continue };
        let dir = open(target.as_ref(), &visit.path);
        if dir.is_none()
            && spec.reach != Reach::Restic
            && let Some(path) = on_the_way(target.as_ref(), selection, &visit)
            && in_the_way.insert(path.clone())
        {
            fault(Fault { path: shown(&path), action: "create directory", error: not_selected(&path) });
        }
        for node in visit.selected() {
            selected = selected.saturating_add(1);
            if selection.is_narrowed() {
                let path = join(&visit.path, &node.name);
                let names: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
                selection.mark(&names, &mut matched);
            }
            let further_link = node.kind == NodeType::File
                && node.links > 1
                && node.inode != 0
                && !seen_links.insert((node.device_id, node.inode));
            add(&mut plan, trees, dir.as_ref(), node, further_link, spec, ctx);
        }
        if selection.has_excludes() {
            mark_excluded(selection, &visit, dir.as_ref(), &mut excluded)
                .map_err(|e| unreadable(&spec.target, &visit.path, e))?;
        }
        if spec.delete_extra
            && visit.whole
            && let (Some(dir), Some(target)) = (&dir, &target)
        {
            Extras { dir, visit: &visit, selection, target, reach: spec.reach }
                .count(&mut plan.delete, &mut excluded, &mut gone)
                .map_err(|e| unreadable(&spec.target, &visit.path, e))?;
        }
    }
    plan.unmatched_excludes = unseen(selection.excludes(), &excluded);
    plan.unmatched_includes = unseen(selection.includes(), &matched);
    let seen: Vec<bool> = matched.iter().zip(&gone).map(|(there, gone)| *there || *gone).collect();
    plan.idle_includes = unseen(selection.includes(), &seen);
    if selected == 0 && !spec.allow_empty {
        return Err(Error::new(ErrorKind::EmptySelection, nothing_selected(selection, spec)));
    }
    let space = space(&spec.target)?;
    plan.bytes_available = space.f_bavail.saturating_mul(space.f_frsize);
    Ok(plan)
}

/// What keeps a directory from being made for something selected: the first path to it that is there, is no directory and is
/// not selected itself.
fn on_the_way(target: Option<&Target>, selection: &Selection, visit: &Visit) -> Option<Vec<u8>> {
    let is_wanted = visit.selected || visit.selected().next().is_some();
    let target = target.filter(|_| is_wanted && selection.is_narrowed())?;
    let mut path = Vec::new();
    for name in visit.path.split(|b| *b == b'/') {
        let above = std::mem::take(&mut path);
        path = join(&above, name);
        let there = target.dir(&above).ok()?.stat(name).ok()??;
        if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
            continue;
        }
        let names: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
        return (!selection.verdict(&names).selected).then_some(path);
    }
    None
}

fn unseen<'p>(patterns: impl Iterator<Item = &'p str>, seen: &[bool]) -> Vec<String> {
    patterns.zip(seen).filter(|(_, seen)| !**seen).map(|(pattern, _)| pattern.to_owned()).collect()
}

/// Marks the exclude patterns that keep something of a directory from being written or deleted.
fn mark_excluded(
    selection: &Selection,
    visit: &Visit,
    dir: Option<&Dir>,
    seen: &mut [bool],
) -> io::Result<()> {
    let mut names: Vec<&[u8]> = visit.path.split(|b| *b == b'/').filter(|n| !n.is_empty()).collect();
    for (node, _) in visit.tree.nodes.iter().zip(&visit.verdicts).filter(|(_, verdict)| !verdict.selected) {
        names.push(&node.name);
        selection.mark_excludes(&names, seen);
        names.pop();
    }
    let there = if seen.contains(&false) { dir.map(Dir::list).transpose()? } else { None };
    for (name, _) in there.iter().flatten().filter(|(name, _)| visit.tree.find(name).is_none()) {
        names.push(name);
        selection.mark_excludes(&names, seen);
        names.pop();
    }
    Ok(())
}

fn nothing_selected(selection: &Selection, spec: &RestoreSpec) -> String {
    let from = spec.subpath.as_deref().unwrap_or(Path::new("/")).display();
    if selection.is_partial() {
        format!(
            "the include and exclude patterns select nothing below {from} of snapshot {}; list what it has with \
             `ls`",
            spec.snapshot.short()
        )
    } else {
        format!("there is nothing below {from} of snapshot {}", spec.snapshot.short())
    }
}

fn unreadable(target: &Path, path: &[u8], error: io::Error) -> Error {
    let what = shown(path);
    Error::with_source(
        ErrorKind::Target,
        format!("cannot list {} below {}", what.display(), target.display()),
        error,
    )
}

/// The directory in the target, if it is one already. Anything that stands in its place will be replaced.
fn open(target: Option<&Target>, path: &[u8]) -> Option<Dir> {
    target.and_then(|t| t.dir(path).ok())
}

fn add(
    plan: &mut RestorePlan,
    trees: &TreeSource,
    dir: Option<&Dir>,
    node: &Node,
    further_link: bool,
    spec: &RestoreSpec,
    ctx: &Ctx,
) {
    let stat = dir.and_then(|d| d.stat(&node.name).ok().flatten());
    let found = match dir {
        None => Found::Nothing,
        Some(_) if stat.as_ref().is_some_and(|there| keeps(spec.overwrite, node, there)) => Found::Kept,
        Some(dir) => match compare(dir, node, stat.as_ref()) {
            Found::Same
                if spec.dry_run
                    && spec.overwrite == Overwrite::Always
                    && node.kind == NodeType::File
                    && !further_link
                    && content_differs(trees, dir, node, ctx) =>
            {
                Found::Differs
            }
            found => found,
        },
    };
    let counts = match found {
        Found::Nothing => &mut plan.create,
        Found::Same => &mut plan.unchanged,
        Found::Differs => &mut plan.change,
        Found::Other => &mut plan.replace,
        Found::Kept => &mut plan.kept,
    };
    let counter = match node.kind {
        NodeType::File => &mut counts.files,
        NodeType::Dir => &mut counts.dirs,
        NodeType::Socket => return,
        _ => &mut counts.others,
    };
    *counter = counter.saturating_add(1);
    if node.kind != NodeType::File || further_link || matches!(found, Found::Same | Found::Kept) {
        return;
    }
    let (size, zeros) = trees.content_bytes(node);
    plan.bytes_to_write = plan.bytes_to_write.saturating_add(size);
    let there = match (&stat, found) {
        (Some(stat), Found::Differs) => u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
        _ => 0,
    };
    let holes = if spec.sparse { zeros } else { 0 };
    plan.bytes_required =
        plan.bytes_required.saturating_add(size.saturating_sub(holes).saturating_sub(there));
}

/// Whether a file that looks right holds something else than the snapshot says. What cannot be compared counts as that: it
/// would be written anew.
fn content_differs(trees: &TreeSource, dir: &Dir, node: &Node, ctx: &Ctx) -> bool {
    let mut at = 0_u64;
    let mut expected = Vec::new();
    for id in node.content.iter().flatten() {
        let Some(length) = trees.chunk_length(id) else { return true };
        expected.push(Expected { at, length: length.into(), id: *id });
        at = at.saturating_add(length.into());
    }
    let Ok(fd) = dir.open_file(&node.name, false) else { return true };
    // A dry run leaves no trace; not being allowed to ask for that is no harm.
    let _ = rustix::fs::fcntl_setfl(&fd, OFlags::NOATIME);
    differing(&fd, &expected, Ask::Cache, || ctx.cancel.is_cancelled())
        .map_or(true, |wrong| !wrong.is_empty())
}

fn space(target: &Path) -> Result<StatVfs> {
    let at = existing(target);
    rustix::fs::statvfs(at).map_err(|e| {
        Error::with_source(
            ErrorKind::Target,
            format!("cannot ask how much room {} has", at.display()),
            io::Error::from(e),
        )
    })
}

/// Refuses a restore that cannot fit, before anything is written.
pub(crate) fn check_space(plan: &RestorePlan, spec: &RestoreSpec) -> Result<()> {
    let target = spec.target.display();
    if plan.bytes_required > plan.bytes_available {
        return Err(Error::new(
            ErrorKind::TargetFull,
            format!(
                "the restore needs {} bytes and {target} has {} free; nothing was written",
                plan.bytes_required, plan.bytes_available
            ),
        ));
    }
    let space = space(&spec.target)?;
    let names = plan.create.total();
    // File systems that make inodes as they need them tell 0.
    if space.f_files > 0 && names > space.f_favail {
        return Err(Error::new(
            ErrorKind::TargetFull,
            format!(
                "the restore makes {names} files and directories and {target} has room for {}; nothing was written",
                space.f_favail
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::fs::AtFlags;

    use super::*;
    use crate::format::time::Time;

    fn node(kind: NodeType) -> Node {
        Node { name: b"n".to_vec(), kind, size: 3, links: 1, mtime: Time::new(5, 7), ..Node::default() }
    }

    fn found(dir: &Dir, node: &Node) -> Found {
        compare(dir, node, dir.stat(&node.name).expect("stat").as_ref())
    }

    #[test]
    fn what_is_there_is_told_apart() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let target = Target::create(temp.path()).expect("target");
        let dir = target.dir(b"").expect("root");
        let path = temp.path().join("n");
        assert_eq!(found(&dir, &node(NodeType::File)), Found::Nothing);
        std::fs::write(&path, "abc").expect("write");
        assert_eq!(found(&dir, &node(NodeType::File)), Found::Differs);
        let times = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec { tv_sec: 5, tv_nsec: 7 },
            last_modification: rustix::fs::Timespec { tv_sec: 5, tv_nsec: 7 },
        };
        rustix::fs::utimensat(&dir, "n", &times, AtFlags::empty()).expect("times");
        assert_eq!(found(&dir, &node(NodeType::File)), Found::Same);
        std::fs::hard_link(&path, temp.path().join("second")).expect("link");
        assert_eq!(found(&dir, &node(NodeType::File)), Found::Other, "a second name would change with it");
        assert_eq!(found(&dir, &Node { links: 2, ..node(NodeType::File) }), Found::Same);
        assert_eq!(found(&dir, &node(NodeType::Dir)), Found::Other);
        std::fs::remove_file(&path).expect("remove");
        std::os::unix::fs::symlink("there", &path).expect("symlink");
        let link = Node { link_target: b"there".to_vec(), ..node(NodeType::Symlink) };
        assert_eq!(found(&dir, &link), Found::Same);
        assert_eq!(found(&dir, &Node { link_target: b"else".to_vec(), ..link }), Found::Other);
    }

    #[test]
    fn what_is_there_is_kept_by_the_rule_that_was_chosen() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("n");
        std::fs::write(&path, "mine").expect("write");
        let there = rustix::fs::stat(&path).expect("stat");
        let (seconds, nanos) = (there.st_mtime, u32::try_from(there.st_mtime_nsec).expect("nanoseconds"));
        let of = |mtime, kind| Node { mtime, ..node(kind) };
        let same = of(Time::new(seconds, nanos), NodeType::File);
        let later = of(Time::new(seconds + 1, nanos), NodeType::File);
        let dir = of(Time::new(seconds + 1, nanos), NodeType::Dir);
        for (overwrite, kept) in [
            (Overwrite::Always, [false, false, false]),
            (Overwrite::IfChanged, [false, false, false]),
            (Overwrite::IfNewer, [true, false, true]),
            (Overwrite::Never, [true, true, true]),
        ] {
            assert_eq!([&same, &later, &dir].map(|n| keeps(overwrite, n, &there)), kept, "{overwrite:?}");
        }
        let there = rustix::fs::stat(temp.path()).expect("stat");
        assert!(!keeps(Overwrite::Never, &dir, &there), "a directory gets its attributes");
        assert!(keeps(Overwrite::Never, &same, &there), "one in the place of a file stays");
    }
}
