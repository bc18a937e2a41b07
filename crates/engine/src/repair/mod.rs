//! Mending a damaged repository: the index from the packs, snapshots from what is left.
//!
//! Nothing here invents content. What is lost is named; what is left can be read again. Not here: finding damage
//! (`check`).

mod index;
mod snapshots;

pub use index::{RepairIndex, RepairIndexReport, UnreadablePack, repair_index};
pub use snapshots::{Loss, Mended, RepairSnapshots, RepairedSnapshot, repair_snapshots};
