//! What must hold for any input: what is sealed opens, what is compressed comes back, what is written is read.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what went wrong by failing"
)]

use std::sync::OnceLock;

use holdfast_engine::ErrorKind;
use holdfast_engine::Id;
use holdfast_engine::crypto::{IV_LENGTH, Key, OVERHEAD};
use holdfast_engine::format::compress::{Compression, Compressor, Decompressor};
use holdfast_engine::format::node::{Node, NodeType, Xattr};
use holdfast_engine::format::pack::{self, BlobKind, PackedBlob};
use holdfast_engine::format::time::Time;
use holdfast_engine::format::tree::Tree;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

fn keys() -> &'static [Key; 2] {
    static KEYS: OnceLock<[Key; 2]> = OnceLock::new();
    KEYS.get_or_init(|| [Key::generate().unwrap(), Key::generate().unwrap()])
}

/// Bytes of all sorts: noise, runs, text.
fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..most),
        (any::<u8>(), 0..most).prop_map(|(byte, length)| vec![byte; length]),
        ("[a-e ]{1,40}", 0..most).prop_map(|(text, length)| text
            .into_bytes()
            .into_iter()
            .cycle()
            .take(length)
            .collect()),
    ]
}

fn id() -> impl Strategy<Value = Id> {
    any::<[u8; 32]>().prop_map(Id::from_bytes)
}

/// Every moment that the format can write: years 0 to 9999.
fn time() -> impl Strategy<Value = Time> {
    (-62_167_219_200_i64..=253_402_300_799, 0..1_000_000_000_u32).prop_map(|(s, n)| Time::new(s, n))
}

fn kind() -> impl Strategy<Value = NodeType> {
    prop::sample::select(vec![
        NodeType::File,
        NodeType::Dir,
        NodeType::Symlink,
        NodeType::Dev,
        NodeType::CharDev,
        NodeType::Fifo,
        NodeType::Socket,
        NodeType::Irregular,
    ])
}

fn node() -> impl Strategy<Value = Node> {
    let xattr = (any::<String>(), vec(any::<u8>(), 0..20)).prop_map(|(name, value)| Xattr { name, value });
    let numbers =
        (any::<u32>(), any::<u32>(), any::<u32>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    let texts = (any::<String>(), any::<String>(), any::<String>());
    let rest = (vec(any::<u8>(), 0..20), vec(xattr, 0..3), any::<u64>());
    let contents = (prop::option::of(vec(id(), 0..3)), prop::option::of(id()));
    (kind(), (time(), time(), time()), numbers, texts, rest, contents).prop_map(
        |(
            kind,
            (mtime, atime, ctime),
            (mode, uid, gid, inode, device_id, size, links),
            texts,
            rest,
            contents,
        )| Node {
            name: Vec::new(),
            kind,
            mode,
            mtime,
            atime,
            ctime,
            uid,
            gid,
            user: texts.0,
            group: texts.1,
            inode,
            device_id,
            size,
            links,
            link_target: rest.0,
            xattrs: rest.1,
            device: rest.2,
            content: contents.0,
            subtree: contents.1,
            error: texts.2,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn what_is_sealed_opens_with_its_key_only(plain in bytes(3000), lead in 0..50_usize) {
        let [key, other] = keys();
        let sealed = key.seal(&plain).unwrap();
        prop_assert_eq!(sealed.len(), plain.len() + OVERHEAD);
        prop_assert_eq!(&key.open(&sealed).unwrap(), &plain);
        let mut place = sealed.clone();
        prop_assert_eq!(&*key.open_in_place(&mut place).unwrap(), &plain[..]);
        prop_assert_eq!(other.open(&sealed).unwrap_err().kind(), ErrorKind::Corrupt);
        prop_assert_ne!(&sealed, &key.seal(&plain).unwrap());
        // In place, behind what is in the buffer already, as packs are written.
        let mut buffer = vec![7; lead];
        buffer.extend_from_slice(&[0; IV_LENGTH]);
        buffer.extend_from_slice(&plain);
        key.seal_tail(&mut buffer, lead).unwrap();
        prop_assert_eq!(&buffer[..lead], &vec![7; lead][..]);
        prop_assert_eq!(&key.open(&buffer[lead..]).unwrap(), &plain);
    }

    #[test]
    fn what_is_compressed_comes_back_and_a_wrong_length_is_noticed(plain in bytes(9000), lead in 0..9_usize) {
        for compression in [
            Compression::Off, Compression::Fastest, Compression::Auto, Compression::Better,
        ] {
            let mut compressor = Compressor::new(compression).unwrap();
            let mut out = vec![9; lead];
            let length = compressor.append(&plain, &mut out).unwrap();
            prop_assert_eq!(out.len(), lead + length);
            let frame = &out[lead..];
            let mut decompressor = Decompressor::new().unwrap();
            prop_assert_eq!(&decompressor.exact(frame, plain.len()).unwrap(), &plain);
            prop_assert_eq!(&decompressor.bounded(frame, plain.len()).unwrap(), &plain);
            prop_assert!(decompressor.exact(frame, plain.len() + 1).is_err());
            if !plain.is_empty() {
                prop_assert!(decompressor.exact(frame, plain.len() - 1).is_err());
                prop_assert!(decompressor.bounded(frame, plain.len() - 1).is_err());
                prop_assert!(decompressor.exact(&frame[..length - 1], plain.len()).is_err());
            }
        }
    }

    #[test]
    fn any_directory_is_read_as_it_was_written(nodes in btree_map(vec(any::<u8>(), 1..30), node(), 0..6)) {
        let nodes = nodes.into_iter().map(|(name, node)| Node { name, ..node }).collect();
        let tree = Tree { nodes };
        let json = tree.to_json().unwrap();
        // Valid JSON for everybody, not only for us.
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
        prop_assert_eq!(value["nodes"].as_array().unwrap().len(), tree.nodes.len());
        prop_assert_eq!(&Tree::parse(&json).unwrap(), &tree);
        for node in &tree.nodes {
            prop_assert_eq!(tree.find(&node.name), Some(node));
        }
    }

    #[test]
    fn any_pack_header_is_read_as_it_was_written(
        shapes in vec((any::<bool>(), id(), 32..100_000_u32, prop::option::of(any::<u32>())), 0..60)
    ) {
        let mut offset = 0;
        let mut blobs = Vec::new();
        for (tree, id, length, uncompressed) in shapes {
            let kind = if tree { BlobKind::Tree } else { BlobKind::Data };
            blobs.push(PackedBlob { kind, id, offset, length, uncompressed });
            offset += length;
        }
        let header = pack::encode_header(&blobs);
        prop_assert_eq!(&pack::decode_header(&header).unwrap(), &blobs);
        prop_assert_eq!(pack::pack_size(&blobs), u64::from(offset) + header.len() as u64 + pack::FRAME_OVERHEAD);
        if !header.is_empty() {
            prop_assert!(pack::decode_header(&header[..header.len() - 1]).is_err());
        }
    }

    #[test]
    fn any_time_is_read_as_it_was_written(time in time()) {
        let mut text = Vec::new();
        time.write(&mut text);
        let text = String::from_utf8(text).unwrap();
        prop_assert!(text.ends_with('Z'), "{}", text);
        prop_assert_eq!(Time::parse(&text).unwrap(), time);
    }
}
