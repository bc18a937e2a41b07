//! A tree: the entries of one directory, ascending by raw name, without doubles.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

use super::node::Node;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;

/// Directories nested deeper than this are refused: no path that the kernel takes whole has more names. A walk keeps the
/// path of each directory that it is in, so that without a limit a long enough chain would take all memory.
pub(crate) const MAX_DEPTH: usize = 2048;

/// The longest JSON of a directory that is read or written, in bytes.
pub(crate) const MAX_JSON: u32 = 2 << 30;
/// The most entries of a directory. What any client writes of one is longer than 128 bytes, so this keeps nobody from
/// anything; but entries of nothing but a name would take sixteen times the memory that their JSON takes.
pub(crate) const MAX_ENTRIES: usize = (MAX_JSON / 128) as usize;

/// The error for a directory with more than a repository can hold.
fn too_large() -> Error {
    Error::new(
        ErrorKind::Source,
        format!(
            "a directory may have {MAX_ENTRIES} entries at most, and {} GiB of names, attributes and lists of chunks: \
             exclude it, or distribute its files over several directories",
            MAX_JSON >> 30
        ),
    )
}

/// Most bytes of a directory's path, of which a walk keeps one for each level. The kernel takes 4,096 at once.
pub(crate) const MAX_PATH: usize = 64 << 10;

/// The error for a directory that lies deeper, or has a longer path.
pub(crate) fn too_deep(path: &std::path::Path) -> Error {
    // The path itself has thousands of names.
    let begin: String = path.to_string_lossy().chars().take(100).collect();
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "directories are nested more than {MAX_DEPTH} deep, or {MAX_PATH} bytes of names, at {begin}…"
        ),
    )
}

/// A directory's entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// Ascending by raw name bytes; checked when read.
    pub nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Stored<const MOST: usize> {
    nodes: Option<Entries<MOST>>,
}

/// At most so many entries.
struct Entries<const MOST: usize>(Vec<Node>);

impl<'de, const MOST: usize> Deserialize<'de> for Entries<MOST> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        from.deserialize_seq(EntriesVisitor::<MOST>)
    }
}

struct EntriesVisitor<const MOST: usize>;

impl<'de, const MOST: usize> Visitor<'de> for EntriesVisitor<MOST> {
    type Value = Entries<MOST>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MOST} entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Self::Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element()? {
            if nodes.len() >= MOST {
                return Err(de::Error::custom(format!("it has more than {MOST} entries")));
            }
            nodes.push(node);
        }
        Ok(Entries(nodes))
    }
}

impl Tree {
    /// Reads a tree's JSON. Names that are not strictly ascending make it `Corrupt`: such a tree could
    /// name one file twice. Whether a name is safe to create is the restorer's question.
    pub fn parse(json: &[u8]) -> Result<Self> {
        Self::parse_up_to::<MAX_ENTRIES>(json)
    }

    fn parse_up_to<const MOST: usize>(json: &[u8]) -> Result<Self> {
        let stored: Stored<MOST> = serde_json::from_slice(json)
            .map_err(|e| Error::with_source(ErrorKind::Corrupt, "a directory's tree is not readable", e))?;
        let nodes = stored.nodes.map(|entries| entries.0).unwrap_or_default();
        if let Some([a, b]) = nodes.array_windows().find(|[a, b]| a.name >= b.name) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "a directory's tree lists {:?} before {:?}; names must ascend",
                    String::from_utf8_lossy(&a.name),
                    String::from_utf8_lossy(&b.name)
                ),
            ));
        }
        Ok(Self { nodes })
    }

    /// The entry of this name.
    pub fn find(&self, name: &[u8]) -> Option<&Node> {
        let place = self.nodes.binary_search_by(|n| n.name.as_slice().cmp(name)).ok()?;
        self.nodes.get(place)
    }

    /// The tree's JSON, as restic writes it.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut writer = TreeWriter::new();
        for node in &self.nodes {
            writer.push(node)?;
        }
        Ok(writer.finish())
    }
}

/// Builds a tree's JSON node by node, in the exact bytes restic writes, so that equal directories have equal ids.
#[derive(Debug)]
pub struct TreeWriter {
    json: Vec<u8>,
    last: Option<Vec<u8>>,
    entries: usize,
    most_entries: usize,
    longest: usize,
}

impl Default for TreeWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl TreeWriter {
    /// An empty directory so far.
    pub fn new() -> Self {
        Self {
            json: b"{\"nodes\":[".to_vec(),
            last: None,
            entries: 0,
            most_entries: MAX_ENTRIES,
            longest: MAX_JSON as usize,
        }
    }

    /// Adds the next entry; names must strictly ascend by raw bytes. `Source` when the directory then had more than is ever
    /// read: better not saved than saved and never restored.
    pub fn push(&mut self, node: &Node) -> Result<()> {
        if let Some(last) = &mut self.last {
            if node.name <= *last {
                return Err(Error::new(
                    ErrorKind::Internal,
                    format!(
                        "directory entries out of order: {:?} after {:?}",
                        String::from_utf8_lossy(&node.name),
                        String::from_utf8_lossy(last)
                    ),
                ));
            }
            self.json.push(b',');
            last.clear();
            last.extend_from_slice(&node.name);
        } else {
            self.last = Some(node.name.clone());
        }
        node.write_json(&mut self.json);
        self.entries += 1;
        // Three bytes end it.
        if self.entries > self.most_entries || self.json.len() + 3 > self.longest {
            return Err(too_large());
        }
        Ok(())
    }

    /// The finished JSON; its SHA-256 is the tree's id.
    pub fn finish(mut self) -> Vec<u8> {
        self.json.extend_from_slice(b"]}\n");
        self.json
    }

    /// The finished JSON and its id.
    pub fn finish_with_id(self) -> (Id, Vec<u8>) {
        let json = self.finish();
        (Id::hash(&json), json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> Node {
        Node { name: name.as_bytes().to_vec(), content: Some(Vec::new()), ..Node::default() }
    }

    #[test]
    fn an_empty_directory_has_restics_well_known_bytes() {
        assert_eq!(TreeWriter::new().finish(), b"{\"nodes\":[]}\n");
        assert_eq!(Tree::parse(b"{\"nodes\":null}\n").unwrap(), Tree::default());
    }

    #[test]
    fn no_directory_is_written_that_would_not_be_read() {
        let filled = |most_entries: usize, longest: usize| {
            let mut writer = TreeWriter { most_entries, longest, ..TreeWriter::new() };
            ["a", "b", "c"]
                .into_iter()
                .try_for_each(|name| writer.push(&node(name)))
                .map(|()| writer.finish())
        };
        let json = filled(3, usize::MAX).unwrap();
        assert_eq!(filled(3, json.len()).unwrap(), json);
        for (most_entries, longest) in [(2, usize::MAX), (3, json.len() - 1)] {
            let error = filled(most_entries, longest).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Source);
            assert!(error.to_string().contains("exclude it"), "{error}");
        }
        assert_eq!(Tree::parse_up_to::<3>(&json).unwrap().nodes.len(), 3);
        let error = Tree::parse_up_to::<2>(&json).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.chain().contains("more than 2 entries"), "{}", error.chain());
        // The shortest that is written of an entry is longer than the bound counts with, and in memory it takes less than
        // what docs/reviews/2026-11-parsing-and-unsafe.md says of them all.
        assert!(json.len() / 3 > 128, "{}", json.len() / 3);
        assert!(size_of::<Node>() <= 352, "{}", size_of::<Node>());
    }

    #[test]
    fn order_is_kept_by_the_writer_and_demanded_by_the_reader() {
        let mut writer = TreeWriter::new();
        // By bytes, not by letters: "B" < "a" < "a!" < "aa".
        for name in ["B", "a", "a!", "aa"] {
            writer.push(&node(name)).unwrap();
        }
        let tree = Tree::parse(&writer.finish()).unwrap();
        assert_eq!(tree.nodes.len(), 4);
        assert_eq!(tree.find(b"a!").unwrap().name, b"a!");
        assert!(tree.find(b"b").is_none());
        for (first, second) in [("b", "a"), ("a", "a")] {
            let mut writer = TreeWriter::new();
            writer.push(&node(first)).unwrap();
            assert!(writer.push(&node(second)).is_err());
            let mut json = b"{\"nodes\":[".to_vec();
            node(first).write_json(&mut json);
            json.push(b',');
            node(second).write_json(&mut json);
            json.extend_from_slice(b"]}");
            assert_eq!(Tree::parse(&json).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
