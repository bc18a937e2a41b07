//! The stories: what a user of Holdfast meets, on a real cluster with a real S3 server.
//!
//! They run side by side, each in a namespace and bucket of its own. Those that stop the S3 server or hurt it for all
//! others take [`alone`].

#![expect(
    clippy::indexing_slicing,
    reason = "looking up a key in a JSON value gives null when it is absent; it never panics"
)]

mod azure;
mod backup;
mod command_line;
mod crashes;
mod faults;
mod isolation;
mod main_job;
mod placement;
mod queue;
mod repositories;
mod restore;
mod restore_anywhere;
mod restore_faults;
mod run_as;
mod scoped_keys;
mod secrets;
mod storage;
mod temporary_keys;
mod undo;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static WORLD: RwLock<()> = RwLock::new(());

/// Held by every story that needs the S3 server and the operator to be left alone.
fn together() -> RwLockReadGuard<'static, ()> {
    WORLD.read().unwrap_or_else(PoisonError::into_inner)
}

/// Held by a story that stops what all share.
fn alone() -> RwLockWriteGuard<'static, ()> {
    WORLD.write().unwrap_or_else(PoisonError::into_inner)
}
