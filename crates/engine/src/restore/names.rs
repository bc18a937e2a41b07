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

/// A name with small letters for capitals, and capitals for small letters, of the Latin ones.
fn flipped(name: &[u8]) -> Vec<u8> {
    let flip = |byte: &u8| if byte.is_ascii_alphabetic() { byte ^ 0x20 } else { *byte };
    name.iter().map(flip).collect()
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

/// What a directory of the target finds by names of the snapshot, and lists otherwise or not at all.
pub(crate) struct Listing<'a> {
    dir: &'a Dir,
    listed: HashSet<&'a [u8]>,
}

impl<'a> Listing<'a> {
    /// Of a directory that lists these names.
    pub(crate) fn new(dir: &'a Dir, listed: impl Iterator<Item = &'a [u8]>) -> Self {
        Self { dir, listed: listed.collect() }
    }

    /// Whether both are listed, as two.
    pub(crate) fn has_both(&self, one: &Node, other: &Node) -> bool {
        [one, other].iter().all(|node| self.listed.contains(node.name.as_slice()))
    }

    /// Whether the directory finds a name with other capitals than it lists it by. That is asked with a spelling that none of
    /// these nodes has, if there is one: what the kernel remembers of theirs may be older than the files.
    pub(crate) fn folds(&self, nodes: &[Node]) -> io::Result<bool> {
        let names: HashSet<&[u8]> = nodes.iter().map(|node| node.name.as_slice()).collect();
        let others = self.listed.iter().map(|name| flipped(name));
        let unlisted = others.filter(|name| !self.listed.contains(name.as_slice()));
        match unlisted.min_by_key(|name| names.contains(name.as_slice())) {
            Some(name) => Ok(self.dir.stat(&name)?.is_some()),
            None => Ok(false),
        }
    }

    /// Those of the nodes that are found and not listed: the directory calls them otherwise.
    pub(crate) fn unlisted<'n>(&self, nodes: &'n [Node]) -> io::Result<Unlisted<'n>> {
        let mut unlisted = Unlisted::default();
        for node in nodes.iter().filter(|node| !self.listed.contains(node.name.as_slice())) {
            if let Some(stat) = self.dir.stat(&node.name)? {
                unlisted.names.insert(folded(&node.name));
                unlisted.files.insert((stat.st_dev, stat.st_ino));
            }
        }
        Ok(unlisted)
    }
}

/// What a directory calls otherwise than the snapshot.
#[derive(Default)]
pub(crate) struct Unlisted<'n> {
    names: HashSet<Cow<'n, [u8]>>,
    files: HashSet<(u64, u64)>,
}

impl Unlisted<'_> {
    /// Whether `name` may be how the directory calls one of them: by its letters, or by its file.
    pub(crate) fn is(&self, dir: &Dir, name: &[u8]) -> io::Result<bool> {
        if self.names.is_empty() || self.names.contains(&folded(name)) {
            return Ok(!self.names.is_empty());
        }
        Ok(dir.stat(name)?.is_some_and(|s| self.files.contains(&(s.st_dev, s.st_ino))))
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

    #[test]
    fn a_directory_that_tells_capitals_apart_is_known_by_a_spelling_that_nobody_has() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let target = Target::create(temp.path()).expect("target");
        let dir = target.dir(b"").expect("root");
        let folds = |listed: &[&str], nodes: &[&str]| {
            let nodes: Vec<Node> = nodes.iter().map(|name| node(name)).collect();
            Listing::new(&dir, listed.iter().map(|name| name.as_bytes())).folds(&nodes).expect("stat")
        };
        std::fs::write(temp.path().join("name"), "").expect("write");
        std::fs::write(temp.path().join("other"), "").expect("write");
        assert!(!folds(&["name", "other"], &["name", "NAME"]));
        // Further names that are not listed look as those do that a file system does not tell from others.
        std::fs::write(temp.path().join("OTHER"), "").expect("write");
        assert!(folds(&["name", "other"], &["name", "NAME"]), "asked by OTHER");
        assert!(!folds(&["name"], &["name", "NAME"]), "there is only NAME to ask by");
        assert!(!folds(&["other", "OTHER"], &["other"]), "both are listed");
        assert!(!folds(&["1", "2"], &["1"]), "no letters");
    }

    /// A further hard link, left out of what is listed, looks as a name does by which a file is found and not listed.
    #[test]
    fn what_stands_for_a_name_of_the_snapshot_is_told_from_what_is_there_besides() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let target = Target::create(temp.path()).expect("target");
        let dir = target.dir(b"").expect("root");
        let at = |name: &str| temp.path().join(name);
        std::fs::write(at("File"), "x").expect("write");
        std::fs::hard_link(at("File"), at("composed")).expect("link");
        for name in ["FILE", "other"] {
            std::fs::write(at(name), "y").expect("write");
        }
        let nodes = [node("File"), node("gone")];
        let stands = |listed: &[&str], name: &str| {
            let listing = Listing::new(&dir, listed.iter().map(|name| name.as_bytes()));
            listing.unlisted(&nodes).and_then(|unlisted| unlisted.is(&dir, name.as_bytes())).expect("stat")
        };
        let listed = ["FILE", "composed", "other"];
        assert!(stands(&listed, "FILE"), "by its letters, whatever number the kernel remembers");
        assert!(stands(&listed, "composed"), "by its file");
        assert!(!stands(&listed, "other"));
        assert!(!stands(&["FILE", "File"], "FILE"), "both are listed");
        std::fs::remove_file(at("File")).expect("remove");
        assert!(!stands(&listed, "FILE"), "not found");
    }
}
