//! A tree: the entries of one directory, ascending by raw name, without doubles.

use serde::Deserialize;

use super::node::Node;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;

/// Directories nested deeper than this are refused: no path that the kernel takes whole has more names. A walk keeps the
/// path of each directory that it is in, so that without a limit a long enough chain would take all memory.
pub(crate) const MAX_DEPTH: usize = 2048;

/// The error for a directory that lies deeper.
pub(crate) fn too_deep(path: &std::path::Path) -> Error {
    // The path itself has thousands of names.
    let begin: String = path.to_string_lossy().chars().take(100).collect();
    Error::new(ErrorKind::Corrupt, format!("directories are nested more than {MAX_DEPTH} deep at {begin}…"))
}

/// A directory's entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// Ascending by raw name bytes; checked when read.
    pub nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Stored {
    nodes: Option<Vec<Node>>,
}

impl Tree {
    /// Reads a tree's JSON. Names that are not strictly ascending make it `Corrupt`: such a tree could
    /// name one file twice. Whether a name is safe to create is the restorer's question.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let stored: Stored = serde_json::from_slice(json)
            .map_err(|e| Error::with_source(ErrorKind::Corrupt, "a directory's tree is not readable", e))?;
        let nodes = stored.nodes.unwrap_or_default();
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
}

impl Default for TreeWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl TreeWriter {
    /// An empty directory so far.
    pub fn new() -> Self {
        Self { json: b"{\"nodes\":[".to_vec(), last: None }
    }

    /// Adds the next entry; names must strictly ascend by raw bytes.
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
