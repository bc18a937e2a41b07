//! What operator and runner say to each other, as versioned JSON.
//!
//! Three messages, one direction each:
//! - [`RunSpec`]: operator → runner, the file `spec.json` of the run's Secret, beside the credentials ([`files`]);
//! - [`Event`]: runner → operator while it runs, one JSON object a line on standard output. Logs rotate and
//!   die with their pod, so nothing may depend on an event having been seen;
//! - [`Verdict`]: runner → operator at the end, the container's termination message (at most [`VERDICT_LIMIT`]
//!   bytes). What is too long for it travels as an [`attachment`] on standard output, and the verdict says how
//!   long it is and what its digest is, so that a cut log is noticed and never taken for the whole.
//!
//! Not here: what the messages cause. Neither Kubernetes nor the engine is known to this crate.

pub mod attachment;
pub mod event;
pub mod exit;
pub mod files;
pub mod spec;
pub mod verdict;

pub use event::{Checkpoint, Event};
pub use spec::{RunSpec, Task};
pub use verdict::{Outcome, TaskResult, VERDICT_LIMIT, Verdict};

/// Version of the messages. A runner refuses a spec of another version: operator and runner are one image, so a
/// difference means that a Job of an older operator is still there. That attempt fails, and the operator makes another, if
/// the run has one left, with a spec of its own version.
pub const VERSION: u32 = 1;
