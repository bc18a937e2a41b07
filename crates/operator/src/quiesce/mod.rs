//! Taking workloads down for a run and bringing them back to the count they had, on every path. Which claims are
//! meant, and when, is decided by the run.
//!
//! [`workload`] is the facts, [`find`] and [`decide`] are pure, [`apply`] is the only one that reads and writes,
//! [`watch`] wakes a run when pods come and go.

pub mod apply;
pub mod decide;
pub mod find;
pub mod watch;
pub mod workload;

pub use apply::{HoldError, ReleaseReport, hold_all, read_inventory, recorded, release_run, sweep};
pub use find::{Inventory, Users};
pub use watch::PodWatch;
pub use workload::{Workload, WorkloadId, WorkloadKind};
