//! Which listings of packs say something new.
//!
//! A pack is often listed by several index files, mostly with the same blobs (a client was interrupted while it
//! rewrote its index), rarely with others: every blob of it counts once, and none is lost. Not here: what becomes of
//! the blobs (`build`, `dedup`).

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};

use crate::format::index_file::IndexedPack;
use crate::format::pack::{BlobKind, PackedBlob};
use crate::id::Id;

/// What a listing is, with the number of its pack.
pub(super) enum Listing {
    /// The pack's first.
    First(u32),
    /// The same as the first.
    Same,
    /// It differs from the first.
    Other(u32),
}

/// Packs by their id, numbered as they came.
#[derive(Debug, Default)]
pub(super) struct Listings {
    /// Number of each pack, and a digest of its first listing.
    known: HashMap<Id, (u32, u64)>,
    digests: RandomState,
}

/// The order of blobs in a pack; equal only for equal entries.
pub(super) fn order(blob: &PackedBlob) -> (u32, BlobKind, Id, u32, u32) {
    (blob.offset, blob.kind, blob.id, blob.length, blob.uncompressed.unwrap_or(0))
}

impl Listings {
    /// Takes note of a listing. Its blobs are put in the order in which they lie, each once.
    pub(super) fn note(&mut self, pack: &mut IndexedPack) -> Listing {
        pack.blobs.sort_unstable_by_key(order);
        pack.blobs.dedup();
        let digest = self.digests.hash_one(pack.blobs.iter().map(order).collect::<Vec<_>>());
        match self.known.get(&pack.id) {
            Some((_, first)) if *first == digest => Listing::Same,
            Some((number, _)) => Listing::Other(*number),
            None => {
                // More than 2^32 packs would be 2^56 bytes of them.
                let Ok(number) = u32::try_from(self.known.len()) else { return Listing::Same };
                self.known.insert(pack.id, (number, digest));
                Listing::First(number)
            }
        }
    }

    /// Numbers of those of these packs that were listed.
    pub(super) fn numbers(&self, packs: &HashSet<Id>) -> HashSet<u32> {
        packs.iter().filter_map(|id| self.known.get(id)).map(|(number, _)| *number).collect()
    }
}
