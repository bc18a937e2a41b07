//! The Ready condition of a Snapshot. Pure.

use holdfast_api::conditions::{ConditionType, ConditionUpdate, set_condition};
use holdfast_api::{Snapshot, SnapshotStatus};
use jiff::Timestamp;

use super::validate::Usable;

pub(super) fn with_ready(snapshot: &Snapshot, usable: &Usable, now: Timestamp) -> SnapshotStatus {
    let mut status = snapshot.status.clone().unwrap_or_default();
    let generation = snapshot.metadata.generation;
    let update = if usable.yes {
        ConditionUpdate::yes(ConditionType::Ready, usable.reason, usable.message.clone())
    } else {
        ConditionUpdate::no(ConditionType::Ready, usable.reason, usable.message.clone())
    };
    set_condition(&mut status.conditions, update, generation, now);
    status.observed_generation = generation;
    status
}
