//! What the files of a repository look like: the restic repository format, versions 1 and 2.
//!
//! Pure conversions between bytes and values; nothing here reads a store or knows a key.

pub mod compress;
pub mod config;
pub mod gojson;
mod goprint;
pub mod index_file;
mod json_stream;
pub mod key_file;
pub mod lock_file;
pub mod node;
pub mod pack;
pub mod records;
pub mod snapshot;
pub mod time;
pub mod tree;
