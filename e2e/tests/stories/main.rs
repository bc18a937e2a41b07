//! The stories: what a user of Holdfast meets, on a real cluster with a real S3 server.
//!
//! They run side by side, each in a namespace and bucket of its own. Those that stop the S3 server or hurt it for all
//! others take [`alone`]. Those that ask a cluster for nothing that only the test bed has take [`anywhere`], and run with
//! `make stories CLUSTER=current` too.

#![expect(
    clippy::indexing_slicing,
    reason = "looking up a key in a JSON value gives null when it is absent; it never panics"
)]

mod azure;
mod backup;
mod backup_faults;
mod command_line;
mod crashes;
mod faults;
mod gone_node;
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
mod web_identity;

use std::io::{Write as _, stderr};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use holdfast_e2e::current::Current;

static WORLD: RwLock<()> = RwLock::new(());

/// Held by a story that can be told on any cluster, and needs the operator to be left alone.
fn anywhere() -> RwLockReadGuard<'static, ()> {
    WORLD.read().unwrap_or_else(PoisonError::into_inner)
}

/// Held by a story that needs the test bed, with the S3 server and the operator left alone. None on somebody's cluster,
/// where it is left out.
fn together() -> Option<RwLockReadGuard<'static, ()>> {
    has_bed().then(anywhere)
}

/// Held by a story that stops what all share. None on somebody's cluster, where nobody stops anything.
fn alone() -> Option<RwLockWriteGuard<'static, ()>> {
    has_bed().then(|| WORLD.write().unwrap_or_else(PoisonError::into_inner))
}

/// Whether the stories have the test bed; a story that is left out for it says so.
fn has_bed() -> bool {
    let has = !Current::wanted();
    if !has {
        let thread = std::thread::current();
        // Not by a macro, whose output the test runner keeps to itself.
        let _ = writeln!(stderr(), "LEFT OUT, it needs the test bed: {}", thread.name().unwrap_or_default());
    }
    has
}
