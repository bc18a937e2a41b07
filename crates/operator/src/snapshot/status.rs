//! The Ready condition of a Snapshot. Pure.

use holdfast_api::conditions::{ConditionType, ConditionUpdate, set_condition};
use holdfast_api::{Repository, Snapshot, SnapshotStatus};
use jiff::Timestamp;

use super::validate::{Usable, usable};

/// Whether a Snapshot says something else than its Repository, as it is now, makes of it. A Repository is written to several
/// times a Backup, and has thousands of Snapshots to which most of it means nothing.
///
/// What stands here may be older than what is in the cluster; each write to a Snapshot wakes it once more.
pub(super) fn is_outdated(snapshot: &Snapshot, repository: Option<&Repository>, now: Timestamp) -> bool {
    snapshot.status.as_ref() != Some(&with_ready(snapshot, &usable(snapshot, repository), now))
}

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
