//! `BackupVolume`: one mounted claim becomes one restic snapshot, committed once however often the Job is retried.

use std::path::{Path, PathBuf};

use holdfast_engine::backup::{self, Ahead, BackupReport, BackupSpec, Parent, Unreadable};
use holdfast_engine::error::{Error, ErrorKind};
use holdfast_engine::fence;
use holdfast_engine::format::snapshot::Snapshot;
use holdfast_engine::id::Id;
use holdfast_engine::lock::LockGuard;
use holdfast_engine::repository::Repository;
use holdfast_engine::store::{FileKind, FileName};
use holdfast_protocol::spec::{BackupVolume, CACHES_TAG, OnUnreadable, UNDO_TAG, UNREADABLE_TAG};
use holdfast_protocol::verdict::BackupResult;
use holdfast_protocol::{Outcome, TaskResult, Verdict};
use jiff::Timestamp;

use super::{Job, SAMPLES, is_fresh, millis};
use crate::failure::{Failure, succeeded};
use crate::stop::Stop;
use crate::{lock, report};

impl Job {
    pub(super) async fn backup(&self, volume: &BackupVolume) -> Result<Verdict, Failure> {
        let spec = BackupSpec { resume: self.checkpoint, ..engine_spec(volume)? };
        let repository = Stop::bound(&self.ctx.cancel, self.open()).await?;

        // Before anything else: an earlier pod of this Job may have been killed after its commit. Then the source
        // may meanwhile be gone or changed, and neither matters.
        self.reporter.phase("look for an earlier attempt");
        let earlier = Stop::bound(&self.ctx.cancel, earlier_attempt(&repository, volume)).await?;
        if let Some((id, snapshot)) = earlier {
            match self.take_over(&repository, volume, id, &snapshot).await? {
                Some(verdict) => return Ok(verdict),
                None => self.reporter.log(
                    "warning",
                    format!("snapshot {id} of an earlier attempt has lost data since, and is replaced"),
                ),
            }
        }

        check_source(Path::new(&volume.path))?;
        if volume.skip_empty && is_fresh(Path::new(&volume.path)) {
            self.reporter.log("info", format!("{} holds no files: there is nothing to save", volume.path));
            let nothing = BackupResult { empty: true, ..BackupResult::default() };
            return Ok(succeeded(TaskResult::BackupVolume(nothing)));
        }
        let locking = lock::locking(&self.spec);
        let taking = backup::lock_reading_ahead(&repository, &locking, &spec, &self.ctx);
        let (guard, ahead) = lock::take(&repository, &locking.holder, &self.ctx, taking).await?;
        let result = self.read(&repository, volume, &guard, ahead).await;
        lock::give_back(&repository, &locking.holder, guard, result).await
    }

    async fn read(
        &self,
        repository: &Repository,
        volume: &BackupVolume,
        guard: &LockGuard,
        ahead: Ahead<'_>,
    ) -> Result<Verdict, Failure> {
        let report = match Stop::bound(&self.ctx.cancel, ahead.finish(guard)).await {
            Ok(report) => report,
            Err(e) => return Err(self.refused(e)),
        };
        if report.files_resumed > 0 {
            let message =
                format!("{} files were taken over from a killed run's checkpoint", report.files_resumed);
            self.reporter.log("info", message);
        }
        self.reporter.phase("read back");
        Stop::bound(&self.ctx.cancel, prove(repository, report.snapshot)).await?;
        Ok(judge(volume, result(&report)))
    }

    /// Takes over the snapshot of an earlier attempt, whose writer may have died before it looked whether all its data
    /// will stay. One that has lost data is removed.
    async fn take_over(
        &self,
        repository: &Repository,
        volume: &BackupVolume,
        id: Id,
        snapshot: &Snapshot,
    ) -> Result<Option<Verdict>, Failure> {
        self.reporter.phase("confirm the earlier attempt");
        let lost = std::sync::atomic::AtomicBool::new(false);
        let verdict = lock::shared(repository, &self.spec, &self.ctx, async |_| {
            let look = fence::confirm(repository, snapshot.tree, &[], &self.ctx);
            match Stop::bound(&self.ctx.cancel, look).await {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::Missing => {
                    lost.store(true, std::sync::atomic::Ordering::Relaxed);
                    repository.store().delete(FileName { kind: FileKind::Snapshot, id }).await?;
                }
                Err(e) => return Err(e.into()),
            }
            Ok(judge(volume, taken_over(id, snapshot)))
        })
        .await?;
        if lost.into_inner() {
            return Ok(None);
        }
        self.reporter.log("info", format!("snapshot {id} of an earlier attempt is taken over"));
        Ok(Some(verdict))
    }

    /// The failure of a backup, with the files that were in the way.
    fn refused(&self, error: Error) -> Failure {
        let faults = self.reporter.faults();
        let source = error.kind() == ErrorKind::Source && !faults.is_empty();
        let mut failure = Failure::from(error);
        if source {
            failure.reason = "Unreadable";
        }
        failure.with_result(TaskResult::BackupVolume(BackupResult {
            unreadable: faults.total,
            unreadable_sample: report::sample(&faults, SAMPLES),
            ..BackupResult::default()
        }))
    }
}

/// What the result means under the wish of the user.
fn judge(volume: &BackupVolume, result: BackupResult) -> Verdict {
    let unreadable = result.unreadable;
    let example = result.unreadable_sample.first().map(|f| format!(", first {} ({})", f.path, f.error));
    let mut verdict = succeeded(TaskResult::BackupVolume(result));
    if unreadable > 0 && volume.on_unreadable != OnUnreadable::Ignore {
        verdict.outcome = Outcome::Partial;
        verdict.reason = Some("Unreadable".to_owned());
        verdict.message = Some(format!(
            "{unreadable} entries below {} could not be read{}; the snapshot holds all others",
            volume.path,
            example.unwrap_or_default(),
        ));
    }
    verdict
}

fn engine_spec(volume: &BackupVolume) -> Result<BackupSpec, Failure> {
    let time: Timestamp = volume
        .time
        .parse()
        .map_err(|e| Failure::fatal("BadSpec", format!("{:?} is no time of a snapshot: {e}", volume.time)))?;
    let root = PathBuf::from(&volume.path);
    if !root.is_absolute() {
        return Err(Failure::fatal("BadSpec", format!("{:?} is no absolute path of a volume", volume.path)));
    }
    let mut tags = volume.tags.clone();
    tags.extend((!volume.exclude_caches).then(|| CACHES_TAG.to_owned()));
    Ok(BackupSpec {
        // Nobody who writes a pattern knows where the runner mounts the claim. Were it part of the paths, `data`, or the
        // claim's own name, would leave out everything.
        patterns_from: Some(root.clone()),
        roots: vec![root],
        host: volume.host.clone(),
        tags,
        fault_tag: Some(UNREADABLE_TAG.to_owned()),
        time,
        excludes: volume.exclude.clone(),
        exclude_caches: volume.exclude_caches,
        one_file_system: true,
        borders_are_faults: true,
        leave_lost_found: true,
        aside_tag: Some(UNDO_TAG.to_owned()),
        parent: Parent::Auto,
        unreadable: match volume.on_unreadable {
            OnUnreadable::PartiallyFail | OnUnreadable::Ignore => Unreadable::Continue,
            OnUnreadable::Fail => Unreadable::Fail,
        },
        username: "holdfast".to_owned(),
        program_version: concat!("holdfast ", env!("CARGO_PKG_VERSION")).to_owned(),
        ..BackupSpec::default()
    })
}

/// The snapshot of this very component of this very run.
async fn earlier_attempt(
    repository: &Repository,
    volume: &BackupVolume,
) -> Result<Option<(Id, Snapshot)>, Failure> {
    if volume.identity_tags.is_empty() {
        return Err(Failure::fatal(
            "BadSpec",
            "the spec names no tags by which an earlier attempt could be recognised",
        ));
    }
    // One that is damaged is nothing to go on from: the claim is saved again.
    let snapshots = repository.list_snapshots().await?.readable;
    Ok(snapshots.into_iter().rev().find(|(_, snapshot)| is_attempt(snapshot, volume)))
}

fn is_attempt(snapshot: &Snapshot, volume: &BackupVolume) -> bool {
    snapshot.hostname == volume.host
        && snapshot.paths.iter().eq([&volume.path])
        && volume.identity_tags.iter().all(|tag| snapshot.tags.contains(tag))
}

fn check_source(path: &Path) -> Result<(), Failure> {
    let problem = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => "it is not a directory".to_owned(),
        Err(e) => e.to_string(),
    };
    Err(Failure::fatal(
        "SourceMissing",
        format!("the volume cannot be read at {}: {problem}; is the claim mounted there?", path.display()),
    ))
}

/// Reads the committed snapshot back: what the store shows is what was written.
async fn prove(repository: &Repository, id: Id) -> Result<(), Failure> {
    let bytes = repository.store().get(FileName { kind: FileKind::Snapshot, id }, None).await?;
    if Id::hash(&bytes) == id {
        return Ok(());
    }
    Err(Failure::fatal(
        "Corrupt",
        format!("snapshot {id} reads back from {} other than it was written", repository.store().describe()),
    ))
}

fn result(report: &BackupReport) -> BackupResult {
    BackupResult {
        snapshot_id: Some(report.snapshot.to_hex()),
        empty: false,
        already_committed: false,
        parent: report.parent.map(|id| id.to_hex()),
        files_new: report.files_new,
        files_changed: report.files_changed,
        files_unmodified: report.files_unmodified,
        files_total: report.total_files,
        bytes_processed: report.total_bytes,
        bytes_added: report.data_added,
        bytes_stored: report.data_added_packed,
        excluded: report.excluded,
        unreadable: report.faults.total,
        unreadable_sample: report::sample(&report.faults, SAMPLES),
        changed_while_reading: report.changed_while_reading,
        duration_ms: millis(report.duration),
    }
}

/// What an earlier attempt's snapshot tells of its backup.
fn taken_over(id: Id, snapshot: &Snapshot) -> BackupResult {
    let mut result = BackupResult {
        snapshot_id: Some(id.to_hex()),
        already_committed: true,
        parent: snapshot.parent.map(|id| id.to_hex()),
        unreadable: unreadable(&snapshot.tags),
        ..BackupResult::default()
    };
    if let Some(summary) = &snapshot.summary {
        result.files_new = summary.files_new;
        result.files_changed = summary.files_changed;
        result.files_unmodified = summary.files_unmodified;
        result.files_total = summary.total_files_processed;
        result.bytes_processed = summary.total_bytes_processed;
        result.bytes_added = summary.data_added;
        result.bytes_stored = summary.data_added_packed;
    }
    result
}

/// How many entries the backup could not read, as its snapshot's tags say.
fn unreadable(tags: &[String]) -> u64 {
    tags.iter()
        .filter_map(|tag| tag.strip_prefix(UNREADABLE_TAG)?.strip_prefix('='))
        // A count that cannot be read still says that there was something.
        .map(|count| count.parse().unwrap_or(1))
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_unreadable_entries_is_read_from_the_tags() {
        let tags = |t: &[&str]| t.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(unreadable(&tags(&["a", "b=3"])), 0);
        assert_eq!(unreadable(&tags(&["a", &format!("{UNREADABLE_TAG}=12")])), 12);
        assert_eq!(unreadable(&tags(&[&format!("{UNREADABLE_TAG}=x")])), 1);
        assert_eq!(unreadable(&tags(&[&format!("{UNREADABLE_TAG}s=4")])), 0);
    }
}
