//! The index in memory: where each blob lies, found by id.
//!
//! Built once from all index files ([`IndexBuilder`]) and then only read; blobs that a running backup adds are kept by
//! its pipeline. 40 bytes a blob and 60 a pack, 41 where blobs are small:
//!
//! ```text
//! shard (kind, first byte of the id) ── sorted: 30 bytes of id, number ──┐   34 bytes a blob
//!                                                                        ▼
//! places, by number: packs' blobs in the order they lie there ── two lengths   6 bytes a blob
//!                    runs of up to 64 neighbours ── pack, first offset        12 bytes a run
//! ```
//!
//! Ids are kept whole: prune and check write and compare them. Every copy of a blob is kept. [`Index::iter`] goes in
//! the order of kinds and ids; [`Index::ordinal`] is a blob's position in it, for sets of a bit a blob.
//! [`Index::by_pack`] lists packs with their blobs; [`PackInfo`] has the size a pack must have and whether it is marked.
//! A backup needs none of that for data blobs and has a smaller form, [`DedupIndex`].
//! Not here: the files' form (`format::index_file`) and loading (`repository`).

mod build;
mod dedup;
mod listings;
mod places;
mod shard;
#[cfg(test)]
mod tests;

use crate::format::pack::{self, BlobKind, PackedBlob};
use crate::id::Id;

pub use build::IndexBuilder;
pub use dedup::{DedupBuilder, DedupIndex};
use places::Places;
use shard::Numbered;

/// One copy of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobLocation {
    /// The pack it lies in.
    pub pack: Id,
    /// The pack's number in [`Index::packs`], for compact plans.
    pub pack_number: u32,
    /// First byte in the pack.
    pub offset: u32,
    /// Sealed bytes.
    pub length: u32,
    /// Plain bytes when compressed; `None` when stored raw.
    pub uncompressed: Option<u32>,
}

impl BlobLocation {
    /// Plain bytes of the blob.
    pub fn plain_length(&self) -> u32 {
        self.uncompressed.unwrap_or_else(|| self.length.saturating_sub(pack::BLOB_OVERHEAD))
    }
}

/// One pack as the index knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackInfo {
    /// Its id.
    pub id: Id,
    /// The size the file must have.
    pub size: u64,
    /// How many blobs it holds.
    pub blobs: u32,
    /// Whether it holds data blobs.
    pub has_data: bool,
    /// Whether it holds tree blobs.
    pub has_trees: bool,
    /// It waits to be deleted: readable, but nothing new may rely on it.
    pub marked: bool,
}

const SHARDS: usize = 256;

/// All blobs of a repository, by id.
#[derive(Debug)]
pub struct Index {
    /// 256 shards of data blobs, then 256 of trees.
    shards: Vec<Numbered>,
    /// How many blobs lie in the shards before each.
    bases: Vec<usize>,
    places: Places,
    packs: Vec<PackInfo>,
    files: Vec<Id>,
}

fn shard_of(kind: BlobKind, id: &Id) -> usize {
    let [first, ..] = id.as_bytes();
    let base = match kind {
        BlobKind::Data => 0,
        BlobKind::Tree => SHARDS,
    };
    base + usize::from(*first)
}

/// The kind and first byte of a shard's blobs.
fn of_shard(number: usize) -> (BlobKind, u8) {
    let kind = if number < SHARDS { BlobKind::Data } else { BlobKind::Tree };
    (kind, u8::try_from(number % SHARDS).unwrap_or(0))
}

impl Index {
    /// An index of nothing.
    pub fn empty() -> Self {
        IndexBuilder::new().finish()
    }

    fn locate(&self, number: u32) -> Option<BlobLocation> {
        let place = self.places.at(number)?;
        let pack = self.packs.get(place.pack as usize)?;
        Some(BlobLocation {
            pack: pack.id,
            pack_number: place.pack,
            offset: place.offset,
            length: place.length,
            uncompressed: (place.plain != 0).then_some(place.plain),
        })
    }

    fn numbers(&self, kind: BlobKind, id: &Id) -> impl Iterator<Item = u32> + '_ {
        let shard = self.shards.get(shard_of(kind, id));
        let copies = shard.map(|s| s.find(id)).unwrap_or_default();
        shard.into_iter().flat_map(move |s| s.numbers(copies.clone()))
    }

    /// All copies of a blob; none when it is not in the repository.
    pub fn lookup(&self, kind: BlobKind, id: &Id) -> impl Iterator<Item = BlobLocation> + '_ {
        self.numbers(kind, id).filter_map(|n| self.locate(n))
    }

    /// The position of a blob's first copy in [`Index::iter`], for sets of a bit a blob.
    pub fn ordinal(&self, kind: BlobKind, id: &Id) -> Option<usize> {
        let number = shard_of(kind, id);
        let copies = self.shards.get(number)?.find(id);
        (!copies.is_empty()).then(|| self.bases.get(number).map(|b| b.saturating_add(copies.start)))?
    }

    /// The blob at a position of [`Index::iter`].
    pub fn at(&self, ordinal: usize) -> Option<(BlobKind, Id, BlobLocation)> {
        // Empty shards begin where the next one does; the last that begins here has the blob.
        let shard = self.bases.partition_point(|b| *b <= ordinal).checked_sub(1)?;
        let (kind, first) = of_shard(shard);
        let position = ordinal.checked_sub(*self.bases.get(shard)?)?;
        let shard = self.shards.get(shard)?;
        let number = shard.numbers(position..position.checked_add(1)?).next()?;
        Some((kind, shard.id_at(first, position)?, self.locate(number)?))
    }

    /// The first copy of a blob.
    pub fn find(&self, kind: BlobKind, id: &Id) -> Option<BlobLocation> {
        self.lookup(kind, id).next()
    }

    /// Whether a new snapshot may rely on this blob: it lies in a pack that does not wait to be deleted.
    pub fn contains(&self, kind: BlobKind, id: &Id) -> bool {
        let packs = self.numbers(kind, id).filter_map(|n| self.packs.get(self.places.pack_of(n)? as usize));
        packs.into_iter().any(|pack| !pack.marked)
    }

    /// Plain bytes of a blob.
    pub fn plain_length(&self, kind: BlobKind, id: &Id) -> Option<u32> {
        self.find(kind, id).map(|l| l.plain_length())
    }

    /// All packs. A blob location's `pack_number` counts in this list.
    pub fn packs(&self) -> &[PackInfo] {
        &self.packs
    }

    /// The index files this was built from.
    pub fn files(&self) -> &[Id] {
        &self.files
    }

    /// Number of blob copies.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is no blob at all.
    pub fn is_empty(&self) -> bool {
        self.places.len() == 0
    }

    /// Every copy of every blob, by kind and id.
    pub fn iter(&self) -> impl Iterator<Item = (BlobKind, Id, BlobLocation)> + '_ {
        self.shards.iter().enumerate().flat_map(move |(shard, entries)| {
            let (kind, first) = of_shard(shard);
            entries.iter(first).filter_map(move |(id, number)| Some((kind, id, self.locate(number)?)))
        })
    }

    /// Packs with their blobs. 4 bytes a blob while it lives.
    pub fn by_pack(&self) -> ByPack<'_> {
        let mut ordinals = vec![0_u32; self.places.len()];
        let numbers = self.shards.iter().flat_map(|s| s.numbers(0..s.len()));
        for (ordinal, number) in (0_u32..).zip(numbers) {
            if let Some(slot) = ordinals.get_mut(number as usize) {
                *slot = ordinal;
            }
        }
        let mut runs: Vec<_> = self.places.runs().collect();
        runs.sort_by_key(|(pack, _)| *pack);
        ByPack { index: self, ordinals, runs }
    }

    /// Bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        let shards = self.shards.iter().map(|s| size_of::<Numbered>().saturating_add(s.bytes()));
        shards
            .chain([
                self.places.bytes(),
                self.packs.capacity().saturating_mul(size_of::<PackInfo>()),
                self.bases.capacity().saturating_mul(size_of::<usize>()),
                self.files.capacity().saturating_mul(size_of::<Id>()),
            ])
            .fold(0, usize::saturating_add)
    }
}

/// Packs with their blobs, made by [`Index::by_pack`].
#[derive(Debug)]
pub struct ByPack<'a> {
    index: &'a Index,
    /// Position of each numbered blob in the order of ids.
    ordinals: Vec<u32>,
    /// Pack and numbers, ascending by pack.
    runs: Vec<(u32, std::ops::Range<u32>)>,
}

impl ByPack<'_> {
    /// The blobs of the pack with this number in [`Index::packs`], in the order they lie there.
    pub fn blobs(&self, pack: u32) -> Vec<PackedBlob> {
        let from = self.runs.partition_point(|(p, _)| *p < pack);
        let runs = self.runs.get(from..).unwrap_or_default().iter().take_while(|(p, _)| *p == pack);
        let mut blobs: Vec<PackedBlob> =
            runs.flat_map(|(_, numbers)| numbers.clone()).filter_map(|number| self.blob(number)).collect();
        blobs.sort_by_key(|b| b.offset);
        blobs
    }

    fn blob(&self, number: u32) -> Option<PackedBlob> {
        let (kind, id, place) = self.index.at(*self.ordinals.get(number as usize)? as usize)?;
        Some(PackedBlob {
            kind,
            id,
            offset: place.offset,
            length: place.length,
            uncompressed: place.uncompressed,
        })
    }
}
