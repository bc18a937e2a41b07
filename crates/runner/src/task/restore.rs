//! `RestoreVolume`: one snapshot's directory becomes the content of a mounted claim, or a plan says what would
//! change.

use std::path::{Path, PathBuf};

use holdfast_engine::error::{Error, ErrorKind};
use holdfast_engine::id::Id;
use holdfast_engine::lock::LockGuard;
use holdfast_engine::repository::{Repository, SnapshotFilter};
use holdfast_engine::restore::{self, Ownership, RestoreReport, RestoreSpec};
use holdfast_protocol::spec::RestoreVolume;
use holdfast_protocol::verdict::{FaultRow, RestoreResult};
use holdfast_protocol::{Outcome, TaskResult, Verdict};

use super::{Job, SAMPLES, millis};
use crate::failure::{Failure, succeeded};
use crate::stop::Stop;
use crate::{lock, report};

impl Job {
    pub(super) async fn restore(&self, volume: &RestoreVolume) -> Result<Verdict, Failure> {
        let spec = engine_spec(volume)?;
        check_target(&spec.target)?;
        let repository = Stop::bound(&self.ctx.cancel, self.open()).await?;
        Stop::bound(&self.ctx.cancel, find(&repository, volume)).await?;
        if volume.plan_only {
            // A plan reads only, and a repository whose lock is held for long must not keep people from planning.
            return self.carry_out(&repository, None, &spec, volume).await;
        }
        lock::shared(&repository, &self.spec, &self.ctx, async |guard| {
            self.carry_out(&repository, Some(guard), &spec, volume).await
        })
        .await
    }

    async fn carry_out(
        &self,
        repository: &Repository,
        guard: Option<&LockGuard>,
        spec: &RestoreSpec,
        volume: &RestoreVolume,
    ) -> Result<Verdict, Failure> {
        let work = restore::restore(repository, guard, spec, &self.ctx);
        match Stop::bound(&self.ctx.cancel, work).await {
            Ok(report) => Ok(judge(volume, &report)),
            Err(e) => Err(self.broken_off(e)),
        }
    }

    /// The failure of a restore, with the files that were in the way.
    fn broken_off(&self, error: Error) -> Failure {
        let faults = self.reporter.faults();
        Failure::from(error).with_result(TaskResult::RestoreVolume(RestoreResult {
            failures: faults.total,
            failure_sample: report::sample(&faults, SAMPLES),
            ..RestoreResult::default()
        }))
    }
}

fn engine_spec(volume: &RestoreVolume) -> Result<RestoreSpec, Failure> {
    let snapshot: Id = volume.snapshot_id.parse().map_err(|e: Error| {
        Failure::fatal("BadSpec", format!("the snapshot to restore is not named: {e}"))
    })?;
    let target = PathBuf::from(&volume.target);
    if !target.is_absolute() {
        return Err(Failure::fatal(
            "BadSpec",
            format!("{:?} is no absolute path of a volume", volume.target),
        ));
    }
    Ok(RestoreSpec {
        snapshot,
        subpath: Some(PathBuf::from(&volume.source_path)),
        target,
        include: volume.include.clone(),
        exclude: volume.exclude.clone(),
        delete_extra: volume.delete_extra,
        verify: volume.verify,
        dry_run: volume.plan_only,
        ownership: if volume.restore_owners { Ownership::Restore } else { Ownership::Keep },
        sparse: true,
        allow_empty: false,
    })
}

/// Makes sure that the snapshot is there, so that its absence is told from that of anything else.
async fn find(repository: &Repository, volume: &RestoreVolume) -> Result<(), Failure> {
    match repository.find_snapshot(&volume.snapshot_id, &SnapshotFilter::default()).await {
        Ok(_) => Ok(()),
        Err(e) if matches!(e.kind(), ErrorKind::Missing | ErrorKind::EmptySelection) => Err(Failure::fatal(
            "SnapshotMissing",
            format!(
                "snapshot {} is not in {} any more; choose another one",
                volume.snapshot_id,
                repository.store().describe()
            ),
        )),
        Err(e) => Err(e.into()),
    }
}

/// The engine would make a missing target; a claim that is not mounted must be noticed instead.
fn check_target(target: &Path) -> Result<(), Failure> {
    let problem = match target.metadata() {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => "it is not a directory".to_owned(),
        Err(e) => e.to_string(),
    };
    Err(Failure::fatal(
        "TargetMissing",
        format!(
            "the volume cannot be reached at {}: {problem}; is the claim mounted there?",
            target.display()
        ),
    ))
}

/// What the report means: a restore that did not put everything back is no success.
fn judge(volume: &RestoreVolume, report: &RestoreReport) -> Verdict {
    let result = result(report);
    let example = result
        .failure_sample
        .first()
        .map(|f| format!(", first {} ({})", f.path, f.error))
        .unwrap_or_default();
    let mut verdict = succeeded(TaskResult::RestoreVolume(result));
    let target = &volume.target;
    let unmatched = &report.plan.unmatched_includes;
    let gap = if report.faults.total > 0 {
        let kept = if report.delete_skipped {
            "; what the snapshot does not hold was therefore left in place"
        } else {
            ""
        };
        Some((
            "RestoreIncomplete",
            format!("{} entries could not be restored to {target}{example}{kept}", report.faults.total),
        ))
    } else if report.metadata_faults.total > 0 {
        Some((
            "MetadataIncomplete",
            format!(
                "the content of {target} is complete, but owners, modes, times or attributes could not be set {} times{example}",
                report.metadata_faults.total
            ),
        ))
    } else {
        unmatched.first().map(|pattern| {
            let message = format!(
                "{} of the patterns to restore match nothing in the snapshot, first {pattern:?}",
                unmatched.len()
            );
            ("UnmatchedInclude", message)
        })
    };
    if let Some((reason, message)) = gap {
        verdict.outcome = Outcome::Partial;
        verdict.reason = Some(reason.to_owned());
        verdict.message = Some(message);
    }
    verdict
}

fn result(report: &RestoreReport) -> RestoreResult {
    let samples: Vec<FaultRow> = [&report.faults, &report.metadata_faults]
        .into_iter()
        .flat_map(|faults| report::sample(faults, SAMPLES))
        .take(SAMPLES)
        .collect();
    RestoreResult {
        create: report.plan.create.total(),
        change: report.plan.change.total(),
        replace: report.plan.replace.total(),
        delete: report.plan.delete.total(),
        unchanged: report.plan.unchanged.total(),
        bytes_to_write: report.plan.bytes_to_write,
        bytes_required: report.plan.bytes_required,
        bytes_available: report.plan.bytes_available,
        files_restored: report.files_restored,
        bytes_written: report.bytes_written,
        verified: report.verified,
        metadata_failures: report.metadata_faults.total,
        failures: report.faults.total,
        failure_sample: samples,
        duration_ms: millis(report.duration),
    }
}
