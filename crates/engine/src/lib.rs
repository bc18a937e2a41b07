//! The repository engine: backup, restore and check in the restic repository format.
//!
//! It knows bytes, files and storage, and nothing of Kubernetes. Start at [`repository::Repository`].
//!
//! Operations give boxed futures. What an `async fn` does is compiled where it is awaited: in each program and each test
//! program again, which took them most of their time to compile.

pub mod archive;
pub mod backup;
pub mod browse;
pub mod check;
pub mod chunk;
pub mod copy;
pub mod crypto;
pub mod diff;
pub mod error;
pub mod event;
pub mod fence;
mod file_system;
pub mod forget;
pub mod format;
pub mod id;
pub mod index;
pub mod lock;
pub mod pipeline;
pub mod protect;
pub mod prune;
mod reach;
mod read;
pub mod repair;
pub mod repository;
pub mod restore;
pub mod retention;
pub mod rewrite;
pub mod stats;
pub mod store;
pub mod stream;
pub mod tag;
pub mod unreadable;
mod work_pool;
mod write;

pub use error::{Class, Error, ErrorKind, Result};
pub use event::{Ctx, Event, EventSink, Fault, Progress};
pub use id::Id;
pub use repository::Repository;
