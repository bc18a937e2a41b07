//! The index in memory: where each blob lies, found by id.
//!
//! Built once from all index files and then only read; blobs that a running backup adds are kept by its
//! pipeline. 48 bytes a blob. Not here: the files' form (`format::index_file`) and loading (`repository`).

use std::collections::{HashMap, HashSet};

use crate::format::index_file::IndexFile;
use crate::format::pack::{self, BlobKind, PackedBlob};
use crate::id::Id;

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

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    id: Id,
    pack: u32,
    offset: u32,
    length: u32,
    /// 0 when stored raw.
    plain: u32,
}

const SHARDS: usize = 256;

/// All blobs of a repository, by id.
#[derive(Debug)]
pub struct Index {
    /// 256 shards of data blobs, then 256 of trees; each ascending by id.
    shards: Vec<Vec<Slot>>,
    /// How many slots lie in the shards before each.
    bases: Vec<usize>,
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

impl Index {
    /// An index of nothing.
    pub fn empty() -> Self {
        IndexBuilder::new().finish()
    }

    fn slots(&self, kind: BlobKind, id: &Id) -> &[Slot] {
        let Some(shard) = self.shards.get(shard_of(kind, id)) else { return &[] };
        let start = shard.partition_point(|s| s.id < *id);
        let rest = shard.get(start..).unwrap_or_default();
        let count = rest.iter().take_while(|s| s.id == *id).count();
        rest.get(..count).unwrap_or_default()
    }

    fn locate(&self, slot: &Slot) -> Option<BlobLocation> {
        let pack = self.packs.get(slot.pack as usize)?;
        Some(BlobLocation {
            pack: pack.id,
            pack_number: slot.pack,
            offset: slot.offset,
            length: slot.length,
            uncompressed: (slot.plain != 0).then_some(slot.plain),
        })
    }

    /// All copies of a blob; none when it is not in the repository.
    pub fn lookup(&self, kind: BlobKind, id: &Id) -> impl Iterator<Item = BlobLocation> + '_ {
        self.slots(kind, id).iter().filter_map(|s| self.locate(s))
    }

    /// The position of a blob's first copy in [`Index::iter`], for sets of a bit a blob.
    pub fn ordinal(&self, kind: BlobKind, id: &Id) -> Option<usize> {
        let number = shard_of(kind, id);
        let shard = self.shards.get(number)?;
        let start = shard.partition_point(|s| s.id < *id);
        shard.get(start).filter(|s| s.id == *id)?;
        Some(self.bases.get(number)?.saturating_add(start))
    }

    /// The first copy of a blob.
    pub fn find(&self, kind: BlobKind, id: &Id) -> Option<BlobLocation> {
        self.lookup(kind, id).next()
    }

    /// Whether a new snapshot may rely on this blob: it lies in a pack that does not wait to be deleted.
    pub fn contains(&self, kind: BlobKind, id: &Id) -> bool {
        self.slots(kind, id).iter().any(|s| self.packs.get(s.pack as usize).is_some_and(|p| !p.marked))
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
        self.shards.iter().map(Vec::len).sum()
    }

    /// Whether there is no blob at all.
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(Vec::is_empty)
    }

    /// Every copy of every blob, by kind and id.
    pub fn iter(&self) -> impl Iterator<Item = (BlobKind, Id, BlobLocation)> + '_ {
        self.shards.iter().enumerate().flat_map(move |(number, shard)| {
            let kind = if number < SHARDS { BlobKind::Data } else { BlobKind::Tree };
            shard.iter().filter_map(move |slot| Some((kind, slot.id, self.locate(slot)?)))
        })
    }

    /// The blobs of each pack in the order they lie there; `blobs[n]` belongs to `packs()[n]`.
    pub fn blobs_by_pack(&self) -> Vec<Vec<PackedBlob>> {
        let mut packs: Vec<Vec<PackedBlob>> =
            self.packs.iter().map(|p| Vec::with_capacity(p.blobs as usize)).collect();
        for (kind, id, location) in self.iter() {
            if let Some(pack) = packs.get_mut(location.pack_number as usize) {
                pack.push(PackedBlob {
                    kind,
                    id,
                    offset: location.offset,
                    length: location.length,
                    uncompressed: location.uncompressed,
                });
            }
        }
        for pack in &mut packs {
            pack.sort_unstable_by_key(|b| b.offset);
        }
        packs
    }
}

/// Collects index files into an [`Index`].
#[derive(Debug)]
pub struct IndexBuilder {
    shards: Vec<Vec<Slot>>,
    packs: Vec<PackInfo>,
    numbers: HashMap<Id, u32>,
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
            shards: vec![Vec::new(); 2 * SHARDS],
            packs: Vec::new(),
            numbers: HashMap::new(),
            marks: HashSet::new(),
            files: Vec::new(),
        }
    }

    /// Adds one index file.
    pub fn add(&mut self, id: Id, file: IndexFile) {
        self.files.push(id);
        self.marks.extend(file.marks);
        for pack in file.packs {
            // More than 2^32 packs would be 2^56 bytes of them.
            let Ok(next) = u32::try_from(self.packs.len()) else { return };
            let number = *self.numbers.entry(pack.id).or_insert_with(|| {
                self.packs.push(PackInfo {
                    id: pack.id,
                    size: 0,
                    blobs: 0,
                    has_data: false,
                    has_trees: false,
                    marked: false,
                });
                next
            });
            if pack.marked {
                self.marks.insert(pack.id);
            }
            for blob in pack.blobs {
                if let Some(shard) = self.shards.get_mut(shard_of(blob.kind, &blob.id)) {
                    shard.push(Slot {
                        id: blob.id,
                        pack: number,
                        offset: blob.offset,
                        length: blob.length,
                        plain: blob.uncompressed.unwrap_or(0),
                    });
                }
            }
        }
    }

    /// Sorts everything; a pack listed by several files counts once.
    pub fn finish(self) -> Index {
        let Self { mut shards, mut packs, numbers: _, marks, mut files } = self;
        files.sort_unstable();
        for (number, shard) in shards.iter_mut().enumerate() {
            shard.sort_unstable();
            shard.dedup();
            shard.shrink_to_fit();
            for slot in shard.iter() {
                let Some(pack) = packs.get_mut(slot.pack as usize) else { continue };
                let entry = if slot.plain == 0 { pack::ENTRY_RAW } else { pack::ENTRY_COMPRESSED };
                pack.size += u64::from(slot.length) + entry as u64;
                pack.blobs += 1;
                if number < SHARDS {
                    pack.has_data = true;
                } else {
                    pack.has_trees = true;
                }
            }
        }
        for pack in &mut packs {
            pack.size += pack::FRAME_OVERHEAD;
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
        Index { shards, bases, packs, files }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::index_file::IndexedPack;

    fn blob(kind: BlobKind, name: &[u8], offset: u32, uncompressed: Option<u32>) -> PackedBlob {
        PackedBlob { kind, id: Id::hash(name), offset, length: 100, uncompressed }
    }

    fn file(packs: Vec<IndexedPack>) -> IndexFile {
        IndexFile { packs, marks: Vec::new() }
    }

    #[test]
    fn every_copy_is_found_and_a_pack_listed_twice_counts_once() {
        let (one, two) = (Id::hash(b"pack 1"), Id::hash(b"pack 2"));
        let first = IndexedPack {
            id: one,
            blobs: vec![blob(BlobKind::Data, b"a", 0, None), blob(BlobKind::Data, b"b", 100, Some(500))],
            marked: false,
        };
        let second = IndexedPack {
            id: two,
            blobs: vec![blob(BlobKind::Tree, b"a", 0, Some(9)), blob(BlobKind::Data, b"a", 100, None)],
            marked: false,
        };
        let mut builder = IndexBuilder::new();
        builder.add(Id::hash(b"f1"), file(vec![first.clone()]));
        builder.add(Id::hash(b"f2"), file(vec![second, first.clone()]));
        let index = builder.finish();
        assert_eq!(index.len(), 4);
        assert_eq!(index.packs().len(), 2);
        let copies: Vec<_> = index.lookup(BlobKind::Data, &Id::hash(b"a")).map(|l| l.pack).collect();
        assert_eq!(copies.len(), 2);
        assert!(copies.contains(&one) && copies.contains(&two));
        assert_eq!(index.plain_length(BlobKind::Data, &Id::hash(b"b")), Some(500));
        assert_eq!(index.plain_length(BlobKind::Data, &Id::hash(b"a")), Some(68));
        assert_eq!(index.find(BlobKind::Tree, &Id::hash(b"b")), None);
        let info = index.packs().iter().find(|p| p.id == one).unwrap();
        assert_eq!(info.size, pack::pack_size(&first.blobs));
        assert_eq!((info.blobs, info.has_data, info.has_trees), (2, true, false));
        assert_eq!(
            index.blobs_by_pack()[index.find(BlobKind::Data, &Id::hash(b"b")).unwrap().pack_number as usize],
            first.blobs
        );
    }

    #[test]
    fn marked_packs_are_readable_but_not_relied_on() {
        let mark = |marked, marks: Vec<Id>| {
            let mut builder = IndexBuilder::new();
            let pack =
                IndexedPack { id: Id::hash(b"p"), blobs: vec![blob(BlobKind::Data, b"a", 0, None)], marked };
            builder.add(Id::hash(b"f1"), IndexFile { packs: vec![pack], marks: Vec::new() });
            builder.add(Id::hash(b"f2"), IndexFile { packs: Vec::new(), marks });
            builder.finish()
        };
        assert!(mark(false, Vec::new()).contains(BlobKind::Data, &Id::hash(b"a")));
        for index in [mark(true, Vec::new()), mark(false, vec![Id::hash(b"p")])] {
            assert!(!index.contains(BlobKind::Data, &Id::hash(b"a")));
            assert!(index.find(BlobKind::Data, &Id::hash(b"a")).is_some());
        }
    }

    proptest::proptest! {
        #[test]
        fn behaves_as_a_map_of_lists(blobs in proptest::collection::vec((0_u8..40, 0_u8..5, proptest::bool::ANY), 0..300)) {
            let mut builder = IndexBuilder::new();
            let mut model: HashMap<(BlobKind, Id), HashSet<(Id, u32)>> = HashMap::new();
            for (number, (name, pack, tree)) in blobs.into_iter().enumerate() {
                let kind = if tree { BlobKind::Tree } else { BlobKind::Data };
                let offset = u32::try_from(number).unwrap() * 100;
                let entry = blob(kind, &[name], offset, None);
                let pack = Id::hash(&[b'p', pack]);
                model.entry((kind, entry.id)).or_default().insert((pack, offset));
                builder.add(Id::hash(&offset.to_le_bytes()), file(vec![IndexedPack { id: pack, blobs: vec![entry], marked: false }]));
            }
            let index = builder.finish();
            let order: Vec<_> = index.iter().map(|(kind, id, _)| (kind, id)).collect();
            for (position, entry) in order.iter().enumerate() {
                let first = order.iter().position(|e| e == entry);
                proptest::prop_assert_eq!(index.ordinal(entry.0, &entry.1), first, "{}", position);
            }
            proptest::prop_assert_eq!(index.len(), model.values().map(HashSet::len).sum::<usize>());
            for name in 0_u8..40 {
                for kind in [BlobKind::Data, BlobKind::Tree] {
                    let id = Id::hash(&[name]);
                    let found: HashSet<_> = index.lookup(kind, &id).map(|l| (l.pack, l.offset)).collect();
                    let expected = model.get(&(kind, id)).cloned().unwrap_or_default();
                    proptest::prop_assert_eq!(index.contains(kind, &id), !expected.is_empty());
                    proptest::prop_assert_eq!(found, expected);
                }
            }
        }
    }
}
