//! Names that a file system may take for one: where capitals are not told apart (SMB, NTFS, FAT, directories with `chattr +F`),
//! two names of the snapshot are one file, which has what was written last.
//!
//! Pairs are found by their capitals alone. Other forms of one letter (`chattr +F`, and ZFS with normalization, take those of
//! Unicode for one too) are not reported.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io;

use super::target::Dir;
use crate::format::node::Node;

/// A name without capitals.
pub(crate) fn folded(name: &[u8]) -> Cow<'_, [u8]> {
    match std::str::from_utf8(name) {
        Ok(text) if !text.is_ascii() => {
            text.chars().flat_map(char::to_lowercase).collect::<String>().into_bytes().into()
        }
        _ if name.iter().any(u8::is_ascii_uppercase) => name.to_ascii_lowercase().into(),
        _ => name.into(),
    }
}

/// Pairs of nodes of one directory whose names differ in capitals only; of three, the second and the third with the first.
pub(crate) fn alike<'n>(nodes: impl Iterator<Item = &'n Node>) -> Vec<(&'n Node, &'n Node)> {
    let mut all: Vec<(Cow<'n, [u8]>, &'n Node)> = nodes.map(|node| (folded(&node.name), node)).collect();
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    let same = all.chunk_by(|(one, _), (other, _)| one == other);
    same.filter_map(|group| group.split_first())
        .flat_map(|((_, first), further)| further.iter().map(|(_, node)| (*first, *node)))
        .collect()
}

/// Whether both names lead to one file, though they were two in the snapshot.
pub(crate) fn are_one(dir: &Dir, one: &Node, other: &Node) -> io::Result<bool> {
    let linked =
        one.links > 1 && one.inode != 0 && (one.device_id, one.inode) == (other.device_id, other.inode);
    if linked {
        return Ok(false);
    }
    let place = |node: &Node| Ok::<_, io::Error>(dir.stat(&node.name)?.map(|s| (s.st_dev, s.st_ino)));
    let first = place(one)?;
    Ok(first.is_some() && first == place(other)?)
}

/// What a directory finds by names of the snapshot that it does not list: it calls these files otherwise.
pub(crate) struct Unlisted(HashSet<(u64, u64)>);

impl Unlisted {
    /// Of a directory that lists these names.
    pub(crate) fn find<'a>(
        dir: &Dir,
        nodes: &[Node],
        listed: impl Iterator<Item = &'a [u8]>,
    ) -> io::Result<Self> {
        let listed: HashSet<&[u8]> = listed.collect();
        let mut found = HashSet::new();
        for node in nodes.iter().filter(|node| !listed.contains(node.name.as_slice())) {
            found.extend(dir.stat(&node.name)?.map(|s| (s.st_dev, s.st_ino)));
        }
        Ok(Self(found))
    }

    /// Whether `name` is how the directory calls one of them.
    pub(crate) fn is(&self, dir: &Dir, name: &[u8]) -> io::Result<bool> {
        Ok(!self.0.is_empty() && dir.stat(name)?.is_some_and(|s| self.0.contains(&(s.st_dev, s.st_ino))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::target::Target;
    use super::*;

    fn node(name: &str) -> Node {
        Node { name: name.into(), links: 1, ..Node::default() }
    }

    #[test]
    fn names_that_differ_in_capitals_are_found() {
        let nodes: Vec<Node> =
            ["Makefile", "README", "a", "b", "makefile", "readme", "ReadMe", "ÄRGER", "ärger"]
                .map(node)
                .into();
        let names: Vec<(&[u8], &[u8])> =
            alike(nodes.iter()).iter().map(|(a, b)| (a.name.as_slice(), b.name.as_slice())).collect();
        let expected =
            [("Makefile", "makefile"), ("README", "readme"), ("README", "ReadMe"), ("ÄRGER", "ärger")];
        assert_eq!(names, expected.map(|(a, b)| (a.as_bytes(), b.as_bytes())));
        // What is no text has no capitals but the Latin ones.
        assert_eq!(folded(b"\xffA"), Cow::from(&b"\xffa"[..]));
    }

    /// A further hard link looks as a name does that a file system does not tell from another.
    #[test]
    fn two_names_of_one_file_are_seen() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let target = Target::create(temp.path()).expect("target");
        let dir = target.dir(b"").expect("root");
        let at = |name: &str| temp.path().join(name);
        std::fs::write(at("name"), "one").expect("write");
        assert!(!are_one(&dir, &node("name"), &node("NAME")).expect("stat"));
        std::fs::hard_link(at("name"), at("NAME")).expect("link");
        assert!(are_one(&dir, &node("name"), &node("NAME")).expect("stat"));
        let linked = |name| Node { links: 2, inode: 7, ..node(name) };
        assert!(!are_one(&dir, &linked("name"), &linked("NAME")).expect("stat"));
        std::fs::remove_file(at("NAME")).expect("remove");
        std::fs::write(at("NAME"), "other").expect("write");
        assert!(!are_one(&dir, &node("name"), &node("NAME")).expect("stat"));
    }

    /// A further hard link, left out of what is listed, looks as a name does by which a file is found and not listed.
    #[test]
    fn what_stands_for_a_name_of_the_snapshot_is_told_from_what_is_there_besides() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let target = Target::create(temp.path()).expect("target");
        let dir = target.dir(b"").expect("root");
        let at = |name: &str| temp.path().join(name);
        std::fs::write(at("File"), "x").expect("write");
        std::fs::hard_link(at("File"), at("FILE")).expect("link");
        std::fs::write(at("other"), "y").expect("write");
        let nodes = [node("File"), node("gone")];
        let stands = |listed: &[&str], name: &str| {
            let unlisted = Unlisted::find(&dir, &nodes, listed.iter().map(|name| name.as_bytes()));
            unlisted.and_then(|unlisted| unlisted.is(&dir, name.as_bytes())).expect("stat")
        };
        assert!(stands(&["FILE", "other"], "FILE"), "found by its name, and listed by another");
        assert!(!stands(&["FILE", "other"], "other"));
        assert!(!stands(&["FILE", "File", "other"], "FILE"), "both are listed");
        std::fs::remove_file(at("File")).expect("remove");
        assert!(!stands(&["FILE", "other"], "FILE"), "not found");
    }
}
