//! Puts a snapshot's files back: plans, writes by the order of packs, verifies, deletes what is too much.
//!
//! Several walks through the snapshot keep memory bounded whatever its size: the first compares with the target
//! and counts (that is all a dry run does), the second writes files in windows, the third makes links and special
//! files, the last deletes extras and gives directories their attributes. A file appears under its name only when it is
//! whole; a file that exists is changed where it differs. Running again after a stop at any moment goes on from
//! there. Not here: which snapshot, and who must be stopped while its volume is written.

mod attributes;
mod compare;
mod extras;
mod file;
mod finish;
mod names;
mod plan;
mod run;
mod select;
mod target;
mod walk;
mod window;

use futures::future::BoxFuture;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

pub(crate) use select::Selection;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Ctx, FaultList};
use crate::id::Id;
use crate::lock::LockGuard;
use crate::repository::Repository;

/// What to do about owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ownership {
    /// Give files to the users and groups they had. Needs root or `CAP_CHOWN`.
    #[default]
    Restore,
    /// Leave files to whoever restores them. Their group is given back where that needs no right, which is where the
    /// process is in it. What ends as somebody else's than it was is told in `RestoreReport::owners_kept`.
    Keep,
}

/// What happens to what lies in the target already, where the snapshot has a file, a link or a special file. Directories
/// get their attributes back in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overwrite {
    /// It becomes what the snapshot says: the content of files is compared, whatever their size and time look like.
    #[default]
    Always,
    /// As `Always`, but the content of a file with the snapshot's size and modification time is taken for right. With
    /// `RestoreSpec::verify` it is compared all the same.
    IfChanged,
    /// Only where what the snapshot has was modified later; the rest is left as it is.
    IfNewer,
    /// Nothing that is there is touched.
    Never,
}

impl Overwrite {
    /// Whether it may leave something as it is that is not what the snapshot says.
    fn may_keep(self) -> bool {
        matches!(self, Self::IfNewer | Self::Never)
    }
}

/// What a restore of a part may touch that its include patterns do not select.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// As restic has it: what stands where the snapshot has a directory on the way to something selected is replaced; an
    /// extra is deleted where it, or a directory around it, is selected itself.
    #[default]
    Restic,
    /// Nothing: what stands on the way is told, and stays.
    Selected,
    /// As `Selected`; and extras are deleted in whatever directory they lie, also one that the snapshot lacks, with what killed
    /// restores have left. That undoes a restore of a part, of which there may have been nothing before.
    Undo,
}

/// What to restore, where to, and how.
#[derive(Debug, Clone, Default)]
pub struct RestoreSpec {
    /// The snapshot.
    pub snapshot: Id,
    /// This path of the snapshot becomes the target; a file at it is put into the target. `None`: all of it.
    pub subpath: Option<PathBuf>,
    /// The directory to restore into; made when absent.
    pub target: PathBuf,
    /// Restore only what matches one of these patterns (restic's rules); empty: everything.
    pub include: Vec<String>,
    /// Leave out what matches one of these patterns.
    pub exclude: Vec<String>,
    /// As `include`, whatever the case of letters.
    pub include_any_case: Vec<String>,
    /// As `exclude`, whatever the case of letters.
    pub exclude_any_case: Vec<String>,
    /// What happens to what is there.
    pub overwrite: Overwrite,
    /// Remove from the target what the snapshot does not have, once all else has succeeded. Also lets a
    /// directory that stands where a file belongs be removed.
    pub delete_extra: bool,
    /// What include patterns do not protect.
    pub reach: Reach,
    /// With `delete_extra`: let stay what the backup has left out by the patterns that the snapshot keeps. The snapshot lacks
    /// it whether it was there or not. restic deletes it.
    pub spare_left_out: bool,
    /// With `delete_extra`: let stay what lies in a directory of which the snapshot has a `CACHEDIR.TAG` and nothing else. It
    /// does not keep whether its backup left out caches, so this is for one that did, or may have.
    pub spare_caches: bool,
    /// Write everything out, then read it back from the disk and compare; existing files are compared with what the disk
    /// has, not with what is cached of it.
    pub verify: bool,
    /// Only plan; nothing is written. With [`Overwrite::Always`] existing files are read and compared for it.
    pub dry_run: bool,
    /// What to do about owners.
    pub ownership: Ownership,
    /// Make holes of long runs of zeros.
    pub sparse: bool,
    /// Let a restore that selects nothing succeed. It may then, with `delete_extra`, empty the target.
    pub allow_empty: bool,
}

/// Numbers of things by sort.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Plain files.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Links, pipes, devices.
    pub others: u64,
}

impl Counts {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.files.saturating_add(self.dirs).saturating_add(self.others)
    }
}

/// What a restore would do, as found by comparing the snapshot with the target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RestorePlan {
    /// Not there yet.
    pub create: Counts,
    /// There, and changed in place where the content differs.
    pub change: Counts,
    /// There as something else, and put in its place.
    pub replace: Counts,
    /// There and not in the snapshot (only counted with `delete_extra`).
    pub delete: Counts,
    /// There as it should be. Whether a file of the right size and time also has the right content is only looked at by
    /// a dry run with [`Overwrite::Always`], or later, when it is its turn to be restored.
    pub unchanged: Counts,
    /// There, and left as it is, because [`Overwrite`] says so.
    pub kept: Counts,
    /// Bytes of the files to create, change and replace: the most that may be written.
    pub bytes_to_write: u64,
    /// Bytes the target must have free.
    pub bytes_required: u64,
    /// Bytes the target has free.
    pub bytes_available: u64,
    /// Include patterns that match nothing in the snapshot.
    pub unmatched_includes: Vec<String>,
    /// Those of them that match nothing either of what is deleted because the snapshot lacks it.
    pub idle_includes: Vec<String>,
    /// Exclude patterns that match nothing which would be touched without them. One that only matches below what another
    /// one leaves out is among them.
    pub unmatched_excludes: Vec<String>,
}

/// What a restore has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RestoreReport {
    /// What was planned.
    pub plan: RestorePlan,
    /// Files written, linked, or given other attributes.
    pub files_restored: u64,
    /// Files that were left alone.
    pub files_unchanged: u64,
    /// Names removed because the snapshot does not have them.
    pub files_deleted: u64,
    /// Whether extras were left in place because something had failed before.
    pub delete_skipped: bool,
    /// Sockets of old snapshots: they mean nothing without their process and are not made.
    pub sockets_skipped: u64,
    /// Bytes of content written, or left as holes.
    pub bytes_written: u64,
    /// Bytes read back and found right.
    pub bytes_verified: u64,
    /// Everything restored was read back from the disk and is right.
    pub verified: bool,
    /// Owners, modes, times and attributes that could not be set.
    pub metadata_faults: FaultList,
    /// With [`Ownership::Keep`]: what belongs to whoever restored it and not to whom it belonged. A group counts where
    /// it may do more with the file than everybody may. The target itself does not count: it is whose it is.
    pub owners_kept: FaultList,
    /// Files that could not be restored, or not wholly.
    pub faults: FaultList,
    /// How long it took.
    pub duration: Duration,
}

/// Restores (or, with `dry_run`, plans to restore) a snapshot.
///
/// `Ok` means that it ran to its end; the report's `faults` say what is missing all the same. An error means that
/// it stopped: nothing matched, the target is full, the store failed for good, or the caller cancelled. Nothing
/// has been deleted then, and the same call goes on where it stopped.
pub fn restore<'a>(
    repo: &'a Repository,
    lock: Option<&'a LockGuard>,
    spec: &'a RestoreSpec,
    ctx: &'a Ctx,
) -> BoxFuture<'a, Result<RestoreReport>> {
    Box::pin(async move {
        let selection = select::Selection::of(spec)?;
        let snapshot = repo.load_snapshot(&spec.snapshot).await?;
        let excludes: &[String] = if spec.spare_left_out { &snapshot.excludes } else { &[] };
        let selection = selection.sparing(excludes, spec.subpath.as_deref(), spec.spare_caches);
        let index = repo.load_index(ctx).await?;
        let outcome = run::start(repo, index, snapshot.tree, selection, spec, ctx).await;
        // A lost lock cancels the work, so it is the reason to tell.
        if lock.is_some_and(LockGuard::lost)
            && outcome.as_ref().is_err_and(|e| e.kind() == ErrorKind::Cancelled)
        {
            return Err(Error::new(
                ErrorKind::LockLost,
                "the repository's lock was lost while files were restored; run the restore again to go on",
            ));
        }
        outcome
    })
}
