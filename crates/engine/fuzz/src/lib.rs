//! What each fuzz target does with the bytes it is given, and what must hold whatever they are. The same functions
//! run under libFuzzer (`fuzz_targets/`) and, for a few seconds with seeded mutations, in `cargo test`
//! (`tests/fuzz.rs`).
//!
//! Every target: no panic, no more memory than the input justifies, and what was accepted can be written again.

mod formats;
mod scene;

pub use formats::{
    config, index, key, location, lock, pack_header, sealed, snapshot, tree, unquote, zstd_frame,
};
pub use scene::{OUTCOMES, paths, repository};

/// A target's name and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets. Names are those of the programs in `fuzz_targets/` and of the directories in `corpus/`.
pub const TARGETS: [Target; 13] = [
    ("config", config),
    ("index", index),
    ("key", key),
    ("location", location),
    ("lock", lock),
    ("pack_header", pack_header),
    ("paths", paths),
    ("repository", repository),
    ("sealed", sealed),
    ("snapshot", snapshot),
    ("tree", tree),
    ("unquote", unquote),
    ("zstd_frame", zstd_frame),
];
