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
        let mut builder = IndexBuilder::new();
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
            builder.add(Id::hash(&[number]), IndexFile {
                packs: vec![IndexedPack { id, blobs, marked: how == 3 && number % 2 == 0 }],
                marks: if how == 3 && number % 2 == 1 { vec![id] } else { Vec::new() },
            });
        }
        let index = builder.finish();
        proptest::prop_assert_eq!(index.len(), model.values().map(HashSet::len).sum::<usize>());
        for name in 0_u8..40 {
            for kind in [BlobKind::Data, BlobKind::Tree] {
                let id = Id::hash(&[name]);
                let found: HashSet<_> =
                    index.lookup(kind, &id).map(|l| (l.pack, l.offset, l.length, l.uncompressed)).collect();
                let expected = model.get(&(kind, id)).cloned().unwrap_or_default();
                let relied = expected.iter().any(|(pack, ..)| !marks.contains(pack));
                proptest::prop_assert_eq!(index.contains(kind, &id), relied);
                proptest::prop_assert_eq!(found, expected);
            }
        }
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

/// Bytes of this process in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// Builds an index of that many blobs and holds its size against 40 bytes a blob and 60 a pack.
fn measure(blobs: u64) -> Index {
    let before = resident();
    let mut builder = IndexBuilder::new();
    for (id, file) in synthetic(blobs) {
        builder.add(id, file);
    }
    let loaded = resident();
    let index = builder.finish();
    let after = resident();
    let count = usize::try_from(blobs).unwrap();
    assert_eq!(index.len(), count);
    let packs = index.packs().len();
    // Tables of 512 shards, one for each second byte.
    let budget = count * 40 + packs * 60 + 512 * 257 * 4 + (64 << 10);
    assert!(index.bytes() <= budget, "{} bytes for {blobs} blobs and {packs} packs", index.bytes());
    println!(
        "{blobs} blobs in {packs} packs take {} bytes; resident: {} more while loading, {} after",
        index.bytes(),
        loaded.saturating_sub(before),
        after.saturating_sub(before),
    );
    // Loosely: other tests run in the same process.
    assert!(after.saturating_sub(before) < budget + budget / 2 + (256 << 20));
    index
}

#[test]
fn an_index_takes_40_bytes_a_blob() {
    let index = measure(200_000);
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
#[ignore = "takes 600 MB and half a minute; run alone, it also measures what is resident"]
fn ten_million_blobs() {
    measure(10_000_000);
}
