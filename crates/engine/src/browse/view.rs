//! A snapshot as something to click through: directories page by page, one entry, a range of a file.
//!
//! Takes no lock and writes nothing. What was read is kept while there is room.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

use super::find;
use crate::error::{Error, ErrorKind, Result};
use crate::format::node::{Node, NodeType};
use crate::format::pack::BlobKind;
use crate::format::snapshot::Snapshot;
use crate::id::Id;
use crate::index::Index;
use crate::read::TreeReader;
use crate::repository::Repository;

/// Plain bytes of content that are kept for the next read.
const KEPT_BYTES: usize = 64 << 20;
/// The most bytes that one read gives.
const MAX_READ: u64 = 64 << 20;

/// Part of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Its entries, names ascending.
    pub entries: Vec<Node>,
    /// The name to go on behind; `None` at the end.
    pub next: Option<Vec<u8>>,
}

/// One snapshot, opened for looking into it.
pub struct View {
    repo: Repository,
    index: Arc<Index>,
    trees: TreeReader,
    snapshot: Snapshot,
    kept: Mutex<Kept>,
}

impl View {
    /// Opens a snapshot. `index` must have been loaded after the snapshot was found.
    pub fn new(repo: &Repository, index: &Arc<Index>, snapshot: Snapshot) -> Result<Self> {
        Ok(Self {
            repo: repo.clone(),
            index: Arc::clone(index),
            trees: TreeReader::new(repo.clone(), Arc::clone(index))?,
            snapshot,
            kept: Mutex::default(),
        })
    }

    /// The entry at `path`; `None` for the root, which has no entry of its own. `EmptySelection` when there is none.
    pub async fn stat(&self, path: &Path) -> Result<Option<Node>> {
        find(&self.trees, &self.snapshot, path).await
    }

    /// At most `limit` entries of a directory, those behind the name `after` or from the beginning.
    pub async fn list_dir(&self, path: &Path, after: Option<&[u8]>, limit: usize) -> Result<Page> {
        let id = match self.stat(path).await? {
            None => self.snapshot.tree,
            Some(Node { kind: NodeType::Dir, subtree: Some(tree), .. }) => tree,
            Some(_) => {
                return Err(Error::new(ErrorKind::Usage, format!("{} is no directory", path.display())));
            }
        };
        let tree = self.trees.load(&id).await?;
        let start = after.map_or(0, |after| tree.nodes.partition_point(|n| n.name.as_slice() <= after));
        let rest = tree.nodes.get(start..).unwrap_or_default();
        let entries: Vec<Node> = rest.iter().take(limit).cloned().collect();
        let next = (entries.len() < rest.len()).then(|| entries.last().map(|n| n.name.clone())).flatten();
        Ok(Page { entries, next })
    }

    /// Bytes of a file from `offset` on: `length` of them, fewer at the file's end, at most 64 MiB at a time.
    pub async fn read_range(&self, file: &Node, offset: u64, length: u64) -> Result<Bytes> {
        let (NodeType::File, Some(content)) = (file.kind, &file.content) else {
            return Err(Error::new(ErrorKind::Usage, "only files have content to read"));
        };
        let end = offset.saturating_add(length.min(MAX_READ));
        let mut out = BytesMut::new();
        let mut start = 0_u64;
        for id in content {
            if start >= end {
                break;
            }
            let size = self.index.plain_length(BlobKind::Data, id).ok_or_else(|| {
                Error::new(ErrorKind::Missing, format!("the data blob {id} is in no index; run a check"))
            })?;
            let next = start.saturating_add(u64::from(size));
            if next > offset {
                let blob = self.blob(id).await?;
                let from = usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX);
                let to = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX).min(blob.len());
                out.extend_from_slice(blob.get(from..to).unwrap_or_default());
            }
            start = next;
        }
        Ok(out.freeze())
    }

    async fn blob(&self, id: &Id) -> Result<Bytes> {
        if let Some(bytes) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(id) {
            return Ok(bytes);
        }
        let bytes = self.repo.load_blob(&self.index, BlobKind::Data, id).await?;
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).put(*id, bytes.clone(), KEPT_BYTES);
        Ok(bytes)
    }
}

/// Blobs, the least recently used of which goes first.
#[derive(Default)]
struct Kept {
    blobs: HashMap<Id, (Bytes, u64)>,
    by_use: BTreeMap<u64, Id>,
    uses: u64,
    bytes: usize,
}

impl Kept {
    fn get(&mut self, id: &Id) -> Option<Bytes> {
        self.uses = self.uses.saturating_add(1);
        let (bytes, used) = self.blobs.get_mut(id)?;
        self.by_use.remove(used);
        *used = self.uses;
        self.by_use.insert(self.uses, *id);
        Some(bytes.clone())
    }

    fn put(&mut self, id: Id, bytes: Bytes, limit: usize) {
        self.uses = self.uses.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes.len());
        if let Some((old, used)) = self.blobs.insert(id, (bytes, self.uses)) {
            self.by_use.remove(&used);
            self.bytes = self.bytes.saturating_sub(old.len());
        }
        self.by_use.insert(self.uses, id);
        while self.bytes > limit
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            let gone = self.blobs.remove(&oldest).map_or(0, |(bytes, _)| bytes.len());
            self.bytes = self.bytes.saturating_sub(gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first_and_the_limit_holds() {
        let id = |n: u8| Id::from_bytes([n; 32]);
        let mut kept = Kept::default();
        for n in 0..4 {
            kept.put(id(n), Bytes::from(vec![n; 10]), 40);
        }
        assert_eq!(kept.get(&id(0)).as_deref(), Some(&[0; 10][..]));
        kept.put(id(4), Bytes::from(vec![4; 15]), 40);
        assert_eq!(kept.get(&id(1)), None, "the oldest");
        assert_eq!(kept.get(&id(2)), None, "one was not enough");
        assert!(kept.get(&id(0)).is_some() && kept.get(&id(3)).is_some());
        assert_eq!((kept.bytes, kept.by_use.len()), (35, 3));
        kept.put(id(4), Bytes::from(vec![4; 5]), 40);
        assert_eq!(kept.bytes, 25, "a second time it counts once");
        kept.put(id(9), Bytes::from(vec![9; 100]), 40);
        assert_eq!((kept.bytes, kept.blobs.len(), kept.by_use.len()), (0, 0, 0), "too large to keep");
    }
}
