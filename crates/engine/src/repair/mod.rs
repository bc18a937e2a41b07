//! Mending a damaged repository: the index from the packs, packs and snapshots from what is left, or a snapshot from what
//! none reaches.
//!
//! Nothing here invents content. What is lost is named; what is left can be read again. Not here: finding damage
//! (`check`).

mod index;
mod packs;
mod recover;
mod salvage;
mod snapshots;

pub use index::{RepairIndex, RepairIndexReport, UnreadablePack, repair_index};
pub use packs::{RepairPacks, RepairPacksReport, RepairedPack, repair_packs};
pub use recover::{Recover, RecoverReport, RecoveredRoot, recover};
pub use salvage::LostBlob;
pub use snapshots::{Loss, Losses, Mended, RepairSnapshots, RepairedSnapshot, repair_snapshots};
