//! The index against a model, and its size.

use std::collections::{BTreeMap, HashSet};

use super::*;
use crate::format::index_file::{IndexFile, IndexedPack};

fn blob(kind: BlobKind, name: &[u8], offset: u32, uncompressed: Option<u32>) -> PackedBlob {
    PackedBlob { kind, id: Id::hash(name), offset, length: 100, uncompressed }
}

fn file(packs: Vec<IndexedPack>) -> IndexFile {
    IndexFile { packs, marks: Vec::new() }
}

/// The index of a backup from files that are named by their position.
fn dedup(files: impl IntoIterator<Item = IndexFile>) -> DedupIndex {
    let mut builder = DedupBuilder::new();
    for (number, file) in (0_u8..).zip(files) {
        builder.add(Id::hash(&[number]), file);
    }
    builder.finish()
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
    let number = index.find(BlobKind::Data, &Id::hash(b"b")).unwrap().pack_number;
    assert_eq!(index.by_pack().blobs(number), first.blobs);
}

#[test]
fn marked_packs_are_readable_but_not_relied_on() {
    let mark = |marked, marks: Vec<Id>| {
        let mut builder = IndexBuilder::new();
        let blobs = vec![blob(BlobKind::Data, b"a", 0, None), blob(BlobKind::Tree, b"t", 100, None)];
        let pack = IndexedPack { id: Id::hash(b"p"), blobs, marked };
        let files = [
            IndexFile { packs: vec![pack], marks: Vec::new() },
            // A mark may come after what it is about.
            IndexFile { packs: Vec::new(), marks },
        ];
        builder.add(Id::hash(b"f1"), files[0].clone());
        builder.add(Id::hash(b"f2"), files[1].clone());
        (builder.finish(), dedup(files))
    };
    for (kind, name) in [(BlobKind::Data, b"a"), (BlobKind::Tree, b"t")] {
        let id = Id::hash(name);
        let (index, small) = mark(false, Vec::new());
        assert!(index.contains(kind, &id) && small.contains(kind, &id));
        for (index, small) in [mark(true, Vec::new()), mark(false, vec![Id::hash(b"p")])] {
            assert!(!index.contains(kind, &id) && !small.contains(kind, &id));
            assert!(index.find(kind, &id).is_some());
            assert_eq!(small.trees().find(kind, &id).is_some(), kind == BlobKind::Tree);
        }
    }
}

#[test]
fn a_blob_with_a_copy_outside_marked_packs_is_known_to_a_backup() {
    let pack = |name: &[u8], marked| IndexedPack {
        id: Id::hash(name),
        blobs: vec![blob(BlobKind::Data, b"a", 0, None), blob(BlobKind::Data, name, 100, None)],
        marked,
    };
    for order in [[true, false], [false, true]] {
        let files = order.map(|marked| file(vec![pack(if marked { b"m" } else { b"u" }, marked)]));
        let index = dedup(files);
        assert_eq!(index.data_len(), 2);
        for (name, known) in [(b"a", true), (b"u", true), (b"m", false)] {
            assert_eq!(index.contains(BlobKind::Data, &Id::hash(name)), known, "{name:?}");
        }
    }
}

#[test]
fn a_backup_compares_24_bytes_of_data_and_whole_ids_of_trees() {
    let id = Id::hash(b"in the index");
    let with = |kind| {
        let blobs = vec![PackedBlob { id, ..blob(kind, b"", 0, None) }];
        dedup([file(vec![IndexedPack { id: Id::hash(b"p"), blobs, marked: false }])])
    };
    let (data, tree) = (with(BlobKind::Data), with(BlobKind::Tree));
    assert!(data.contains(BlobKind::Data, &id) && tree.contains(BlobKind::Tree, &id));
    assert!(!data.contains(BlobKind::Tree, &id) && !tree.contains(BlobKind::Data, &id));
    for position in 0..32 {
        for bit in [1, 0x80] {
            let mut other = *id.as_bytes();
            other[position] ^= bit;
            let other = Id::from_bytes(other);
            assert_eq!(data.contains(BlobKind::Data, &other), position >= 24, "byte {position}");
            assert!(!tree.contains(BlobKind::Tree, &other), "byte {position}");
        }
    }
}

#[test]
fn an_empty_index_knows_nothing() {
    let id = Id::hash(b"a");
    let all_marked = IndexedPack {
        id: Id::hash(b"p"),
        blobs: vec![PackedBlob { id, ..blob(BlobKind::Data, b"", 0, None) }],
        marked: true,
    };
    for index in
        [DedupBuilder::new().finish(), dedup([IndexFile::default()]), dedup([file(vec![all_marked])])]
    {
        for kind in [BlobKind::Data, BlobKind::Tree] {
            assert!(!index.contains(kind, &id));
        }
        assert_eq!((index.data_len(), index.trees().len()), (0, 0));
    }
}

#[test]
fn a_backup_knows_packs_with_trees_as_they_are() {
    let mixed = vec![blob(BlobKind::Data, b"a", 0, None), blob(BlobKind::Tree, b"t", 100, Some(300))];
    let packs = vec![
        IndexedPack {
            id: Id::hash(b"data"),
            blobs: vec![blob(BlobKind::Data, b"d", 0, None)],
            marked: false,
        },
        IndexedPack { id: Id::hash(b"mixed"), blobs: mixed.clone(), marked: false },
    ];
    let index = dedup([file(packs.clone()), file(packs)]);
    assert_eq!(index.files().len(), 2);
    assert_eq!(index.data_len(), 2);
    let [info] = index.trees().packs() else { panic!("a pack of data alone is none of these") };
    assert_eq!((info.id, info.size, info.blobs), (Id::hash(b"mixed"), pack::pack_size(&mixed), 2));
    let place = index.trees().find(BlobKind::Tree, &Id::hash(b"t")).unwrap();
    assert_eq!((place.pack, place.offset, place.uncompressed), (info.id, 100, Some(300)));
    assert_eq!(index.trees().len(), 1);
}

/// A listing: pack, blobs of (name, is a tree, length, plain length), how it is listed.
type Listing = (u8, Vec<(u8, bool, u32, u32)>, u8);

/// Pack, offset, length, plain length.
type Copy = (Id, u32, u32, Option<u32>);

fn listings() -> impl proptest::strategy::Strategy<Value = Vec<Listing>> {
    let blob = (0_u8..40, proptest::bool::ANY, 1_u32..5, 0_u32..3);
    proptest::collection::vec((0_u8..6, proptest::collection::vec(blob, 0..90), 0_u8..4), 0..12)
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn behaves_as_a_sorted_map_of_copies(listings in listings()) {
        let (mut builder, mut small) = (IndexBuilder::new(), DedupBuilder::new());
        let mut model: BTreeMap<(BlobKind, Id), HashSet<Copy>> = BTreeMap::new();
        let mut marks = HashSet::new();
        for (number, (pack, content, how)) in (0_u8..).zip(listings) {
            let id = Id::hash(&[b'p', pack]);
            let mut offset = 0;
            let mut blobs = Vec::new();
            for (name, tree, length, plain) in content {
                let kind = if tree { BlobKind::Tree } else { BlobKind::Data };
                blobs.push(PackedBlob {
                    kind, id: Id::hash(&[name]), offset, length, uncompressed: (plain != 0).then_some(plain),
                });
                offset += length;
            }
            if how == 1 {
                blobs.reverse();
            } else if how == 2 {
                // As an index damaged by an old client would: gaps, and a blob twice.
                blobs.retain(|b| b.offset % 3 != 0);
                blobs.extend(blobs.first().copied());
            }
            for b in &blobs {
                model.entry((b.kind, b.id)).or_default().insert((id, b.offset, b.length, b.uncompressed));
            }
            if how == 3 {
                marks.insert(id);
            }
            let file = IndexFile {
                packs: vec![IndexedPack { id, blobs, marked: how == 3 && number % 2 == 0 }],
                marks: if how == 3 && number % 2 == 1 { vec![id] } else { Vec::new() },
            };
            builder.add(Id::hash(&[number]), file.clone());
            small.add(Id::hash(&[number]), file);
        }
        let (index, small) = (builder.finish(), small.finish());
        proptest::prop_assert_eq!(index.files(), small.files());
        proptest::prop_assert_eq!(index.len(), model.values().map(HashSet::len).sum::<usize>());
        for name in 0_u8..40 {
            for kind in [BlobKind::Data, BlobKind::Tree] {
                let id = Id::hash(&[name]);
                let found: HashSet<_> =
                    index.lookup(kind, &id).map(|l| (l.pack, l.offset, l.length, l.uncompressed)).collect();
                let expected = model.get(&(kind, id)).cloned().unwrap_or_default();
                let relied = expected.iter().any(|(pack, ..)| !marks.contains(pack));
                proptest::prop_assert_eq!(index.contains(kind, &id), relied);
                proptest::prop_assert_eq!(small.contains(kind, &id), relied);
                let known: HashSet<_> = small.trees().lookup(kind, &id)
                    .map(|l| (l.pack, l.offset, l.length, l.uncompressed)).collect();
                let trees = if kind == BlobKind::Tree { expected.clone() } else { HashSet::new() };
                proptest::prop_assert_eq!(known, trees);
                proptest::prop_assert_eq!(found, expected);
            }
        }
        let relied = |kind| model.iter().filter(move |(key, _)| key.0 == kind)
            .filter(|(_, copies)| copies.iter().any(|(pack, ..)| !marks.contains(pack))).count();
        proptest::prop_assert_eq!(small.data_len(), relied(BlobKind::Data));
        let with_trees = |index: &Index| -> HashSet<_> {
            index.packs().iter().filter(|pack| pack.has_trees).map(|pack| (pack.id, pack.marked)).collect()
        };
        proptest::prop_assert_eq!(with_trees(&index), with_trees(small.trees()));
        proptest::prop_assert_eq!(with_trees(small.trees()).len(), small.trees().packs().len());
        let order: Vec<_> = index.iter().map(|(kind, id, _)| (kind, id)).collect();
        let expected: Vec<_> = model.iter().flat_map(|(k, v)| std::iter::repeat_n(*k, v.len())).collect();
        proptest::prop_assert_eq!(&order, &expected);
        for (kind, id) in &order {
            let first = order.iter().position(|e| e == &(*kind, *id));
            proptest::prop_assert_eq!(index.ordinal(*kind, id), first);
        }
        for (position, entry) in index.iter().enumerate() {
            proptest::prop_assert_eq!(index.at(position), Some(entry));
        }
        proptest::prop_assert_eq!(index.at(index.len()), None);
        let by_pack = index.by_pack();
        for (number, info) in (0_u32..).zip(index.packs()) {
            let blobs = by_pack.blobs(number);
            let found: HashSet<_> =
                blobs.iter().map(|b| ((b.kind, b.id), (info.id, b.offset, b.length, b.uncompressed))).collect();
            let expected: HashSet<_> = model.iter()
                .flat_map(|(k, v)| v.iter().filter(|c| c.0 == info.id).map(|c| (*k, *c))).collect();
            proptest::prop_assert_eq!(info.blobs as usize, blobs.len());
            proptest::prop_assert_eq!(info.size, pack::pack_size(&blobs));
            proptest::prop_assert_eq!(info.has_trees, blobs.iter().any(|b| b.kind == BlobKind::Tree));
            proptest::prop_assert_eq!(info.marked, marks.contains(&info.id));
            proptest::prop_assert_eq!(found, expected);
        }
    }
}

/// Index files of 50,000 blobs in packs of 12, without hashing anything: ids from a counter, well mixed.
fn synthetic(blobs: u64) -> impl Iterator<Item = (Id, IndexFile)> {
    let id = |seed: u64| {
        let mut bytes = [0; 32];
        let mut state = seed;
        for word in bytes.as_chunks_mut::<8>().0 {
            // SplitMix64: its constants are from Steele, Lea and Flood, 2014.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *word = (z ^ (z >> 31)).to_le_bytes();
        }
        Id::from_bytes(bytes)
    };
    (0..blobs.div_ceil(50_000)).map(move |file| {
        let first = file * 50_000;
        let last = (first + 50_000).min(blobs);
        let packs = (first..last)
            .step_by(12)
            .map(|from| {
                let mut offset = 0;
                let blobs = (from..(from + 12).min(last))
                    .map(|n| {
                        let length = 1_000_000 + u32::try_from(n % 777_777).unwrap();
                        let kind = if n % 50 == 0 { BlobKind::Tree } else { BlobKind::Data };
                        offset += length;
                        let uncompressed = Some(length * 2);
                        PackedBlob { kind, id: id(n), offset: offset - length, length, uncompressed }
                    })
                    .collect();
                IndexedPack { id: id(u64::MAX - from), blobs, marked: false }
            })
            .collect();
        (id(u64::MAX / 2 + file), IndexFile { packs, marks: Vec::new() })
    })
}

/// Bytes of this process in memory: `VmRSS` now, `VmHWM` at the most since [`forget_peak`].
fn resident(what: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}

/// The most that is resident counts from now on (proc(5), `clear_refs`).
fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// Builds an index and says what it takes and what is resident at the most and in the end. The budget is for what it takes.
fn measure<T>(what: &str, budget: usize, build: impl FnOnce() -> T, bytes: impl Fn(&T) -> usize) -> T {
    forget_peak();
    let before = resident("VmRSS");
    let index = build();
    let (after, most) = (resident("VmRSS").saturating_sub(before), resident("VmHWM").saturating_sub(before));
    let bytes = bytes(&index);
    println!("{what}: {bytes} bytes; resident: {most} more at the most, {after} after");
    assert!(bytes <= budget, "{what}: {bytes} bytes, {budget} expected");
    // Loosely: other tests run in the same process.
    assert!(after < budget + budget / 2 + (256 << 20));
    index
}

/// Tables of so many shards, one number for each second byte, and what small things take.
fn tables(shards: usize) -> usize {
    shards * 257 * 4 + (64 << 10)
}

fn packs_of(blobs: u64) -> usize {
    synthetic(blobs).map(|(_, file)| file.packs.len()).sum()
}

/// Builds an index of that many blobs and holds its size against 40 bytes a blob and 60 a pack.
fn measure_whole(blobs: u64) -> Index {
    let (count, packs) = (usize::try_from(blobs).unwrap(), packs_of(blobs));
    let build = || {
        let mut builder = IndexBuilder::new();
        synthetic(blobs).for_each(|(id, file)| builder.add(id, file));
        builder.finish()
    };
    let what = format!("{blobs} blobs in {packs} packs, the whole index");
    let index = measure(&what, count * 40 + packs * 60 + tables(512), build, Index::bytes);
    assert_eq!((index.len(), index.packs().len()), (count, packs));
    index
}

/// The same for a backup: 22 bytes a data blob, 40 and 12 for a run a tree, each of which lies in a pack of its own.
fn measure_dedup(blobs: u64) -> DedupIndex {
    let count = usize::try_from(blobs).unwrap();
    let trees = count / 50;
    let build = || {
        let mut builder = DedupBuilder::new();
        synthetic(blobs).for_each(|(id, file)| builder.add(id, file));
        builder.finish()
    };
    let what = format!("{blobs} blobs, {trees} of them trees, the index of a backup");
    let budget = (count - trees) * 22 + trees * (40 + 12 + 60) + tables(512);
    let index = measure(&what, budget, build, DedupIndex::bytes);
    assert_eq!((index.data_len(), index.trees().len()), (count - trees, trees));
    index
}

#[test]
fn an_index_takes_40_bytes_a_blob() {
    let index = measure_whole(200_000);
    for (_, file) in synthetic(200_000).step_by(3) {
        for pack in file.packs.iter().step_by(97) {
            for blob in &pack.blobs {
                let found = index.find(blob.kind, &blob.id).unwrap();
                assert_eq!((found.pack, found.offset, found.length), (pack.id, blob.offset, blob.length));
            }
        }
    }
}

#[test]
fn the_index_of_a_backup_takes_22_bytes_a_data_blob() {
    let index = measure_dedup(200_000);
    for (_, file) in synthetic(200_000).step_by(3) {
        for pack in file.packs.iter().step_by(97) {
            for blob in &pack.blobs {
                assert!(index.contains(blob.kind, &blob.id));
                let found = index.trees().find(blob.kind, &blob.id).map(|l| (l.pack, l.offset, l.length));
                let expected = (blob.kind == BlobKind::Tree).then_some((pack.id, blob.offset, blob.length));
                assert_eq!(found, expected);
            }
        }
    }
}

#[test]
#[ignore = "takes 600 MB and half a minute; run alone, it also measures what is resident"]
fn ten_million_blobs() {
    // As the program does; what the first index leaves to the allocator would not be counted with the second.
    holdfast_simd::allocator::give_back_early();
    drop(measure_dedup(10_000_000));
    holdfast_simd::allocator::give_back_now();
    measure_whole(10_000_000);
}
