//! One file or part of a file, as a store may hand it out.

use std::sync::OnceLock;

use holdfast_engine::crypto::{KdfParams, Key, OVERHEAD};
use holdfast_engine::format::compress::Decompressor;
use holdfast_engine::format::config::Config;
use holdfast_engine::format::gojson;
use holdfast_engine::format::index_file::IndexFile;
use holdfast_engine::format::key_file::KeyFile;
use holdfast_engine::format::lock_file::Lock;
use holdfast_engine::format::pack;
use holdfast_engine::format::snapshot::Snapshot;
use holdfast_engine::format::tree::Tree;
use holdfast_engine::store::Location;

/// More than any seed decompresses to, and little enough to allocate at every turn.
const DECOMPRESSED: usize = 1 << 20;

/// The plain bytes of a pack's header, and the length field that leads to it.
pub fn pack_header(data: &[u8]) {
    if let Ok(blobs) = pack::decode_header(data) {
        assert_eq!(pack::encode_header(&blobs), data);
        let stored: u64 = blobs.iter().map(|b| u64::from(b.length)).sum();
        assert_eq!(pack::pack_size(&blobs), stored + data.len() as u64 + pack::FRAME_OVERHEAD);
        let mut offset = 0;
        for blob in &blobs {
            assert_eq!(blob.offset, offset);
            offset += blob.length;
            // Whatever it claims, asking for the plain length must be safe.
            let _ = blob.plain_length();
        }
    }
    if let Some((last, rest)) = data.split_first_chunk::<4>() {
        let size = rest.first_chunk::<8>().map_or(rest.len() as u64, |b| u64::from_le_bytes(*b));
        if let Ok(length) = pack::header_length(*last, size) {
            assert!(length as u64 + 4 <= size && length <= pack::MAX_HEADER);
        }
    }
}

fn test_key() -> &'static Key {
    static KEY: OnceLock<Key> = OnceLock::new();
    KEY.get_or_init(|| {
        let json = concat!(
            r#"{"mac":{"k":"AAECAwQFBgcICQoLDA0ODw==","r":"EBESExQVFhcYGRobHB0eHw=="},"#,
            r#""encrypt":"ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="}"#
        );
        Key::from_json(json.as_bytes()).expect("the test's key")
    })
}

/// Sealed bytes: as they come, and honest ones of which one byte was changed or that were cut.
pub fn sealed(data: &[u8]) {
    let key = test_key();
    if let Ok(plain) = key.open(data) {
        assert_eq!(plain.len() + OVERHEAD, data.len());
    }
    let honest = key.seal(data).expect("sealing");
    assert_eq!(key.open(&honest).expect("just sealed"), data);
    let place = data.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    let mut changed = honest.clone();
    if let Some(byte) = changed.get_mut(place % honest.len()) {
        *byte ^= 1 << (place % 8);
    }
    assert!(key.open(&changed).is_err(), "a changed byte went unnoticed");
    assert!(
        key.open(honest.get(..place % honest.len()).unwrap_or_default()).is_err(),
        "a cut went unnoticed"
    );
}

/// A directory's JSON. What is accepted may be written differently (foreign clients), but only once.
pub fn tree(data: &[u8]) {
    let Ok(tree) = Tree::parse(data) else { return };
    let once = tree.to_json().expect("a tree that was read can be written");
    let again = Tree::parse(&once).expect("what we write we read");
    assert_eq!(again.nodes.len(), tree.nodes.len());
    assert_eq!(again.to_json().expect("a tree that was read can be written"), once);
    for node in &tree.nodes {
        assert_eq!(tree.find(&node.name), Some(node));
    }
}

/// An index file's JSON.
pub fn index(data: &[u8]) {
    let Ok(file) = IndexFile::parse(data) else { return };
    let mut packs = file.packs;
    for pack in &mut packs {
        pack.marked = false;
        // `0` means "not compressed" to old clients and is read so.
        let _ = pack::pack_size(&pack.blobs);
    }
    let json = IndexFile::to_json(&packs).expect("an index that was read can be written");
    assert_eq!(IndexFile::parse(&json).expect("what we write we read").packs, packs);
}

/// The configuration's JSON.
pub fn config(data: &[u8]) {
    let Ok(config) = Config::parse(data) else { return };
    assert!((1..=2).contains(&config.version));
    let json = serde_json::to_vec(&config).expect("a config that was read can be written");
    let again = Config::parse(&json).expect("what we write we read");
    assert_eq!(
        (again.version, again.id, again.chunker_polynomial, again.append_only),
        (config.version, config.id, config.chunker_polynomial, config.append_only)
    );
    assert!(again.other.keys().eq(config.other.keys()));
}

/// A key file's JSON; opened only where it asks for next to no work.
pub fn key(data: &[u8]) {
    let Ok(file) = KeyFile::parse(data) else { return };
    let params = KdfParams { n: file.n, r: file.r, p: file.p };
    let bounded = params.check().is_ok();
    if bounded {
        // The table and the blocks beside it.
        let memory = 128 * (file.n + u64::from(file.p)) * u64::from(file.r);
        assert!(memory <= KdfParams::MAX_MEMORY + (KdfParams::MAX_MEMORY >> 4));
    }
    if !bounded || file.n * u64::from(file.r) <= 64 && file.p <= 2 {
        // An endless or huge derivation would show here.
        let _ = file.open(&"password".to_owned().into());
    }
    let json = file.to_json().expect("a key file that was read can be written");
    assert_eq!(KeyFile::parse(&json).expect("what we write we read"), file);
}

/// A lock's JSON.
pub fn lock(data: &[u8]) {
    let Ok(lock) = serde_json::from_slice::<Lock>(data) else { return };
    let json = serde_json::to_vec(&lock).expect("a lock that was read can be written");
    assert_eq!(serde_json::from_slice::<Lock>(&json).expect("what we write we read"), lock);
}

/// A snapshot's JSON.
pub fn snapshot(data: &[u8]) {
    let Ok(mut snapshot) = serde_json::from_slice::<Snapshot>(data) else { return };
    let json = serde_json::to_vec(&snapshot).expect("a snapshot that was read can be written");
    let mut again = serde_json::from_slice::<Snapshot>(&json).expect("what we write we read");
    assert!(again.other.keys().eq(snapshot.other.keys()));
    // Foreign fields may hold numbers of more digits than a double has.
    again.other.clear();
    snapshot.other.clear();
    assert_eq!(again, snapshot);
}

/// A zstd frame. The first four bytes say what length was recorded for it.
pub fn zstd_frame(data: &[u8]) {
    let Some((length, frame)) = data.split_first_chunk::<4>() else { return };
    let length = u32::from_le_bytes(*length) as usize % DECOMPRESSED;
    let mut decompressor = Decompressor::new().expect("a decompressor");
    if let Ok(plain) = decompressor.exact(frame, length) {
        assert_eq!(plain.len(), length);
    }
    if let Ok(plain) = decompressor.bounded(frame, DECOMPRESSED) {
        assert!(plain.len() <= DECOMPRESSED);
    }
    // A damaged frame must not spoil the next one.
    let good = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x03, 0x19, 0, 0, b'a', b'b', b'c'];
    assert_eq!(decompressor.exact(&good, 3).expect("a good frame"), b"abc");
}

/// File names as Go quotes them, and names that are quoted.
pub fn unquote(data: &[u8]) {
    if let Some(name) = std::str::from_utf8(data).ok().and_then(|text| gojson::unquote(text).ok()) {
        round_trip(&name);
    }
    round_trip(data);
}

fn round_trip(name: &[u8]) {
    let mut quoted = Vec::new();
    gojson::quote(&mut quoted, name);
    let quoted = std::str::from_utf8(&quoted).expect("quoted names are text");
    assert_eq!(gojson::unquote(quoted).expect("what we quote we unquote"), name);
    let mut json = Vec::new();
    gojson::write_name(&mut json, name);
    assert_eq!(serde_json::from_slice::<String>(&json).expect("a JSON string"), quoted);
}

/// Where a repository lies, as people write it.
pub fn location(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(location) = text.parse::<Location>() {
        let below = location.join("cluster/namespace").to_string();
        assert!(!below.is_empty());
    }
}
