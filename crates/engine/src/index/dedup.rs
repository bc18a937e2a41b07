//! The index of a writer of snapshots: which data blobs need not be stored again, and where trees lie.
//!
//! A backup asks of a data blob only whether the new snapshot may rely on it. So nothing is kept of one but the first 24
//! bytes of its id, in 22 bytes; and nothing of a pack that holds data alone. Trees of earlier snapshots are read while
//! files are compared, so of them all is kept, as [`Index`] keeps it.
//!
//! Two blobs whose ids differ only after 24 bytes are taken for one, and the second is not stored. Decision 21 says why
//! 192 bits are enough. Nothing comes back wrong even then: trees name blobs by whole ids, so a check and a restore find
//! the second one missing.

use std::sync::Arc;

use super::build::{IndexBuilder, give_back, sort};
use super::listings::{Listing, Listings};
use super::shard::{self, Bare, Loading};
use super::{Index, SHARDS, shard_of};
use crate::format::index_file::IndexFile;
use crate::format::pack::{BlobKind, PackedBlob};
use crate::id::Id;

/// Bytes of an id in an [`Entry`]: its first is the shard's.
const ID: usize = 23;
/// A data blob while the index is read: the beginning of its id, and the number of its pack, of which it is known only at
/// the end whether it is marked.
type Entry = [u8; ID + 4];

/// What a new snapshot may rely on: 22 bytes a data blob, 40 a tree, and 60 a pack that holds trees.
#[derive(Debug)]
pub struct DedupIndex {
    /// 256 shards of the data blobs outside packs that wait to be deleted.
    data: Vec<Bare>,
    trees: Arc<Index>,
}

impl DedupIndex {
    /// Whether a new snapshot may rely on this blob: it lies in a pack that does not wait to be deleted. Of a data blob's
    /// id the first 24 bytes are compared.
    pub fn contains(&self, kind: BlobKind, id: &Id) -> bool {
        match kind {
            BlobKind::Data => {
                self.data.get(shard_of(kind, id)).is_some_and(|shard| !shard.find(id).is_empty())
            }
            BlobKind::Tree => self.trees.contains(kind, id),
        }
    }

    /// The tree blobs, and the packs that hold any. It knows of no data blob.
    pub fn trees(&self) -> &Arc<Index> {
        &self.trees
    }

    /// The index files this was built from.
    pub fn files(&self) -> &[Id] {
        self.trees.files()
    }

    /// Bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        let data = self.data.iter().map(|shard| size_of::<Bare>().saturating_add(shard.bytes()));
        data.fold(self.trees.bytes(), usize::saturating_add)
    }

    /// Number of data blobs.
    #[cfg(test)]
    pub(super) fn data_len(&self) -> usize {
        self.data.iter().map(Bare::len).sum()
    }
}

/// Collects index files into a [`DedupIndex`].
#[derive(Debug)]
pub struct DedupBuilder {
    data: Vec<Loading<{ size_of::<Entry>() }>>,
    /// Packs that hold data.
    listings: Listings,
    trees: IndexBuilder,
}

impl Default for DedupBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl DedupBuilder {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            data: vec![Loading::default(); SHARDS],
            listings: Listings::default(),
            trees: IndexBuilder::of_trees(),
        }
    }

    /// Adds one index file.
    pub fn add(&mut self, id: Id, mut file: IndexFile) {
        let is_data = |blob: &&PackedBlob| blob.kind == BlobKind::Data;
        for pack in &mut file.packs {
            if !pack.blobs.iter().any(|blob| is_data(&blob)) {
                continue;
            }
            // What a further listing repeats goes when all is sorted.
            let (Listing::First(number) | Listing::Other(number)) = self.listings.note(pack) else {
                continue;
            };
            for blob in pack.blobs.iter().filter(is_data) {
                if let Some(shard) = self.data.get_mut(shard_of(blob.kind, &blob.id)) {
                    shard.push(&shard::entry(&blob.id, number));
                }
            }
        }
        self.trees.add(id, file);
    }

    /// Sorts everything, and drops what lies only in packs that wait to be deleted.
    pub fn finish(self) -> DedupIndex {
        let Self { mut data, listings, trees } = self;
        let marked = listings.numbers(trees.marks());
        drop(listings);
        let trees = Arc::new(trees.finish());
        sort(&mut data);
        let pack = |sorted| {
            let mut last = None;
            Bare::new(sorted, |entry: &Entry| {
                let id = entry.first_chunk::<ID>().copied();
                !marked.contains(&shard::number(entry)) && last.replace(id) != Some(id)
            })
        };
        let entries = data.iter().map(Loading::len).sum();
        // One after the other, so that there are never two of all.
        let data = data.into_iter().map(pack).collect();
        give_back(entries);
        DedupIndex { data, trees }
    }
}
