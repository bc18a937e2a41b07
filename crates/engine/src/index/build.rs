//! From index files to the index.

use std::collections::HashSet;

use holdfast_simd::allocator::give_back_now;

use super::listings::{Listing, Listings, order};
use super::places::Places;
use super::shard::{self, Loading, Numbered};
use super::{Index, PackInfo, SHARDS, shard_of};
use crate::format::index_file::{IndexFile, IndexedPack};
use crate::format::pack::{self, BlobKind, PackedBlob};
use crate::id::Id;

/// Fewer entries than this are sorted by one thread.
const WORTH_THREADS: usize = 200_000;
/// After so many files what lies free between the shards, which grow piece by piece, goes back to the system: with ten
/// million blobs it would be half of what they take.
const GIVE_BACK_FILES: usize = 16;

/// A blob while the index is read: 31 bytes of its id, and its number.
type Entry = [u8; 35];

/// Collects index files into an [`Index`].
#[derive(Debug)]
pub struct IndexBuilder {
    shards: Vec<Loading<{ size_of::<Entry>() }>>,
    places: Places,
    packs: Vec<PackInfo>,
    listings: Listings,
    /// Data blobs are left out, and packs that hold nothing else.
    trees_only: bool,
    /// Further listings of packs that differ from the first.
    others: Vec<(u32, Vec<PackedBlob>)>,
    marks: HashSet<Id>,
    files: Vec<Id>,
}

impl Default for IndexBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl IndexBuilder {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            shards: vec![Loading::default(); 2 * SHARDS],
            places: Places::default(),
            packs: Vec::new(),
            listings: Listings::default(),
            trees_only: false,
            others: Vec::new(),
            marks: HashSet::new(),
            files: Vec::new(),
        }
    }

    /// The same for an index of tree blobs alone, and of the packs that hold some.
    pub(super) fn of_trees() -> Self {
        Self { trees_only: true, ..Self::new() }
    }

    /// Adds one index file.
    pub fn add(&mut self, id: Id, file: IndexFile) {
        self.files.push(id);
        self.marks.extend(file.marks);
        if self.files.len().is_multiple_of(GIVE_BACK_FILES) {
            give_back_now();
        }
        for pack in file.packs {
            if pack.marked {
                self.marks.insert(pack.id);
            }
            if !self.trees_only || pack.blobs.iter().any(|blob| self.takes(blob)) {
                self.add_pack(pack);
            }
        }
    }

    fn add_pack(&mut self, mut pack: IndexedPack) {
        let number = match self.listings.note(&mut pack) {
            Listing::First(number) => number,
            Listing::Same => return,
            Listing::Other(number) => return self.others.push((number, pack.blobs)),
        };
        self.packs.push(PackInfo {
            id: pack.id,
            size: pack::FRAME_OVERHEAD,
            blobs: 0,
            has_data: false,
            has_trees: false,
            marked: false,
        });
        for blob in &pack.blobs {
            self.push(number, blob);
        }
    }

    fn takes(&self, blob: &PackedBlob) -> bool {
        !self.trees_only || blob.kind == BlobKind::Tree
    }

    fn push(&mut self, pack: u32, blob: &PackedBlob) {
        if self.takes(blob) {
            let Some(number) = self.places.push(pack, blob) else { return };
            if let Some(shard) = self.shards.get_mut(shard_of(blob.kind, &blob.id)) {
                shard.push(&shard::entry(&blob.id, number));
            }
        }
        if let Some(pack) = self.packs.get_mut(pack as usize) {
            let entry = blob.entry_length() as u64;
            pack.size = pack.size.saturating_add(u64::from(blob.length)).saturating_add(entry);
            pack.blobs = pack.blobs.saturating_add(1);
            match blob.kind {
                BlobKind::Data => pack.has_data = true,
                BlobKind::Tree => pack.has_trees = true,
            }
        }
    }

    /// Packs that wait to be deleted, as far as the files that were added say so.
    pub(super) fn marks(&self) -> &HashSet<Id> {
        &self.marks
    }

    /// Sorts everything.
    pub fn finish(mut self) -> Index {
        self.listings = Listings::default();
        sort(&mut self.shards);
        self.add_others();
        let Self { shards, mut places, mut packs, marks, mut files, .. } = self;
        // One after the other, so that there are never two of all.
        let entries = shards.iter().map(Loading::len).sum();
        let shards: Vec<Numbered> = shards.into_iter().map(|s| Numbered::new(s, |_| true)).collect();
        files.sort_unstable();
        packs.shrink_to_fit();
        places.shrink();
        for pack in packs.iter_mut().filter(|_| !marks.is_empty()) {
            pack.marked = marks.contains(&pack.id);
        }
        let bases = shards
            .iter()
            .scan(0_usize, |sum, shard| {
                let base = *sum;
                *sum = sum.saturating_add(shard.len());
                Some(base)
            })
            .collect();
        give_back(entries);
        Index { shards, bases, places, packs, files }
    }

    /// Adds what only further listings of packs have.
    fn add_others(&mut self) {
        if self.others.is_empty() {
            return;
        }
        let mut all: Vec<(u32, PackedBlob)> = std::mem::take(&mut self.others)
            .into_iter()
            .flat_map(|(pack, blobs)| blobs.into_iter().map(move |blob| (pack, blob)))
            .collect();
        all.sort_unstable_by_key(|(pack, blob)| (*pack, order(blob)));
        all.dedup();
        all.retain(|(pack, blob)| self.takes(blob) && !self.has(*pack, blob));
        for (pack, blob) in &all {
            self.push(*pack, blob);
        }
        sort(&mut self.shards);
    }

    /// Whether a blob is among the sorted entries, at that very place.
    fn has(&self, pack: u32, blob: &PackedBlob) -> bool {
        let Some(shard) = self.shards.get(shard_of(blob.kind, &blob.id)) else { return false };
        let shard = shard.entries();
        let wanted: Entry = shard::entry(&blob.id, 0);
        let same_id = |entry: &Entry| entry.get(..31) == wanted.get(..31);
        let start = shard.partition_point(|entry| *entry < wanted);
        let copies = shard.get(start..).unwrap_or_default().iter().take_while(|e| same_id(e));
        copies.filter_map(|entry| self.places.at(shard::number(entry))).any(|place| {
            (place.pack, place.offset, place.length, place.plain)
                == (pack, blob.offset, blob.length, blob.uncompressed.unwrap_or(0))
        })
    }
}

/// To be called when so many entries were packed: returns to the system what is left free of their memory.
pub(super) fn give_back(entries: usize) {
    if entries >= WORTH_THREADS {
        give_back_now();
    }
}

/// Sorts each shard, with several threads where that is worth it.
pub(super) fn sort<const N: usize>(shards: &mut [Loading<N>]) {
    let entries: usize = shards.iter().map(Loading::len).sum();
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
    if entries < WORTH_THREADS || threads < 2 {
        shards.iter_mut().for_each(Loading::sort);
        return;
    }
    // Small shares, dealt out as the threads come: shards of trees are much smaller than those of data.
    let queue = std::sync::Mutex::new(shards.iter_mut());
    let work = || {
        loop {
            let next = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
            let Some(shard) = next else { return };
            shard.sort();
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Without further threads this one does it all.
            let _ = std::thread::Builder::new().name("index".to_owned()).spawn_scoped(scope, work);
        }
        work();
    });
}
