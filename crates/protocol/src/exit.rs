//! Exit codes of the runner, which the Job's pod failure policy reads.

/// The verdict says what happened; the run is over (also when it is `Partial`).
pub const DONE: i32 = 0;
/// The run failed and trying again cannot help: somebody has to change something first.
pub const FATAL: i32 = 1;
/// The run failed for a reason that may pass (`EX_TEMPFAIL` of sysexits.h): the Job tries again.
pub const TEMPORARY: i32 = 75;
/// The run was told to stop (SIGTERM), has released its lock and committed nothing.
pub const STOPPED: i32 = 143;
