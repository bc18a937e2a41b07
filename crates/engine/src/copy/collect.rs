//! Which blobs of a snapshot the other repository does not have yet.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::node::NodeType;
use crate::format::pack::BlobKind;
use crate::id::Id;
use crate::index::{DedupIndex, Index};
use crate::read::TreeReader;
use crate::read::fetch::Place;

/// A blob to copy, and where its first copy lies in the source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) place: Place,
    pub(super) kind: BlobKind,
    pub(super) id: Id,
    /// Plain bytes when it is compressed.
    pub(super) uncompressed: Option<u32>,
    pub(super) plain_length: u32,
}

/// Remembers what was copied before.
pub(super) struct Collector {
    target: Arc<DedupIndex>,
    /// Blobs that this run has handed to the writer.
    stored: HashSet<(BlobKind, Id)>,
    /// Directories below which all is in the target or in `stored`.
    whole: HashSet<Id>,
    /// The same for the snapshot that is being copied.
    seen: HashSet<Id>,
}

impl Collector {
    pub(super) fn new(target: Arc<DedupIndex>) -> Self {
        Self { target, stored: HashSet::new(), whole: HashSet::new(), seen: HashSet::new() }
    }

    /// What of the tree is missing in the target, by its place in the source. `Missing` or `Corrupt` when a
    /// directory cannot be read or a blob is in no index of the source.
    ///
    /// A directory that the target has is walked all the same: that it is there does not say that what it names is.
    pub(super) async fn collect(&mut self, trees: &TreeReader, root: Id) -> Result<Vec<Wanted>> {
        self.seen.clear();
        let mut wanted = Vec::new();
        let mut asked: HashSet<Id> = HashSet::new();
        let mut stack = vec![root];
        while let Some(id) = stack.pop() {
            if self.whole.contains(&id) || !self.seen.insert(id) {
                continue;
            }
            let tree = trees.load(&id).await?;
            self.want(trees.index(), BlobKind::Tree, id, &mut wanted)?;
            for node in &tree.nodes {
                match (node.kind, node.subtree) {
                    (NodeType::Dir, Some(subtree)) => stack.push(subtree),
                    (NodeType::Dir, None) => {
                        return Err(Error::new(
                            ErrorKind::Corrupt,
                            format!("a directory in {id} has no tree"),
                        ));
                    }
                    _ => {}
                }
                for data in node.content.iter().flatten() {
                    if asked.insert(*data) {
                        self.want(trees.index(), BlobKind::Data, *data, &mut wanted)?;
                    }
                }
            }
        }
        wanted.sort_unstable_by_key(|w| w.place);
        Ok(wanted)
    }

    fn want(&self, source: &Index, kind: BlobKind, id: Id, wanted: &mut Vec<Wanted>) -> Result<()> {
        if self.target.contains(kind, &id) || self.stored.contains(&(kind, id)) {
            return Ok(());
        }
        let location = source.find(kind, &id).ok_or_else(|| {
            Error::new(
                ErrorKind::Missing,
                format!("the {} blob {id} is in no index of the source", kind.as_str()),
            )
        })?;
        wanted.push(Wanted {
            place: Place { pack: location.pack_number, offset: location.offset, length: location.length },
            kind,
            id,
            uncompressed: location.uncompressed,
            plain_length: location.plain_length(),
        });
        Ok(())
    }

    /// The snapshot of the last [`Collector::collect`] is whole with these.
    pub(super) fn keep(&mut self, stored: HashSet<(BlobKind, Id)>) {
        self.stored.extend(stored);
        self.whole.extend(self.seen.drain());
    }
}
