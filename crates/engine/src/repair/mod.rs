//! Mending a damaged repository: the index from the packs, snapshots from what is left, or from what none reaches.
//!
//! Nothing here invents content. What is lost is named; what is left can be read again. Not here: finding damage
//! (`check`).

mod index;
mod recover;
mod snapshots;

pub use index::{RepairIndex, RepairIndexReport, UnreadablePack, repair_index};
pub use recover::{Recover, RecoverReport, RecoveredRoot, recover};
pub use snapshots::{Loss, Mended, RepairSnapshots, RepairedSnapshot, repair_snapshots};
