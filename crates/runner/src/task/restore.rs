//! `RestoreVolume`: one snapshot's directory becomes the content of a mounted claim, or a plan says what would
//! change.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use holdfast_engine::error::{Error, ErrorKind};
use holdfast_engine::event::FaultList;
use holdfast_engine::id::Id;
use holdfast_engine::lock::LockGuard;
use holdfast_engine::repository::{Repository, SnapshotFilter};
use holdfast_engine::restore::{self, Overwrite, Ownership, Reach, RestoreReport, RestoreSpec};
use holdfast_protocol::spec::{CACHES_TAG, RestoreVolume, UNDO_TAG};
use holdfast_protocol::verdict::{FaultRow, RestoreResult, UNMATCHED_EXCLUDE, UNMATCHED_INCLUDE};
use holdfast_protocol::{Outcome, TaskResult, Verdict};

use super::{Job, SAMPLES, is_fresh, millis};
use crate::failure::{Failure, succeeded};
use crate::stop::Stop;
use crate::{lock, report};

impl Job {
    pub(super) async fn restore(&self, volume: &RestoreVolume) -> Result<Verdict, Failure> {
        let spec = engine_spec(volume)?;
        check_target(&spec.target)?;
        check_access(&spec.target, volume.plan_only)?;
        let repository = Stop::bound(&self.ctx.cancel, self.open()).await?;
        let tags = Stop::bound(&self.ctx.cancel, find(&repository, volume)).await?;
        let safety = is_safety(&tags);
        // What was not there before a restore is undone by deleting it, also where there was nothing else.
        let undoes = safety && spec.delete_extra && !(spec.include.is_empty() && spec.exclude.is_empty());
        let spec = RestoreSpec {
            reach: if undoes { Reach::Undo } else { Reach::Selected },
            spare_left_out: !safety,
            spare_caches: !safety && !tags.iter().any(|tag| tag == CACHES_TAG),
            allow_empty: undoes,
            ..spec
        };
        if volume.plan_only || self.spec.read_only {
            // A plan reads only, and a repository whose lock is held for long must not keep people from planning. Where
            // no lock can be written, data that somebody else removes meanwhile is missed and told.
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
            Ok(report) => Ok(judge(volume, spec, &report)),
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
        include_any_case: Vec::new(),
        exclude_any_case: Vec::new(),
        // A plan goes by the looks of a file, and is not to read a whole volume while its application runs.
        overwrite: if volume.plan_only { Overwrite::IfChanged } else { Overwrite::Always },
        delete_extra: volume.delete_extra,
        reach: Reach::Selected,
        spare_left_out: false,
        spare_caches: false,
        verify: volume.verify,
        dry_run: volume.plan_only,
        ownership: if volume.restore_owners { Ownership::Restore } else { Ownership::Keep },
        sparse: true,
        allow_empty: false,
    })
}

/// Makes sure that the snapshot is there, so that its absence is told from that of anything else. Returns its tags.
async fn find(repository: &Repository, volume: &RestoreVolume) -> Result<Vec<String>, Failure> {
    match repository.find_snapshot(&volume.snapshot_id, &SnapshotFilter::default()).await {
        Ok((_, snapshot)) => Ok(snapshot.tags),
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

/// What a Restore saved of what it was about to overwrite leaves out nothing, and is put back exactly.
fn is_safety(tags: &[String]) -> bool {
    tags.iter().any(|tag| tag.split_once('=').is_some_and(|(key, _)| key == UNDO_TAG))
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

/// A fresh volume belongs to root. A runner that is not could make nothing in it, and where only root may look into it, not
/// even see what is there: better said at once, with the way out, than once a file. One that holds something may be
/// writable further down.
fn check_access(target: &Path, plan_only: bool) -> Result<(), Failure> {
    let denied = |access: rustix::fs::Access| {
        let flags = rustix::fs::AtFlags::EACCESS;
        rustix::fs::accessat(rustix::fs::CWD, target, access, flags) == Err(rustix::io::Errno::ACCESS)
    };
    let (read, write, enter) =
        (rustix::fs::Access::READ_OK, rustix::fs::Access::WRITE_OK, rustix::fs::Access::EXEC_OK);
    let what = if denied(read | enter) {
        "open"
    } else if !plan_only && denied(write | enter) && is_fresh(target) {
        "write to"
    } else {
        return Ok(());
    };
    let owner = target.metadata().map_or(0, |metadata| metadata.uid());
    Err(not_writable(target, owner, rustix::process::geteuid().as_raw(), what))
}

fn not_writable(target: &Path, owner: u32, runner: u32, what: &str) -> Failure {
    Failure::fatal(
        "TargetNotWritable",
        format!(
            "the volume at {} belongs to uid {owner}, and the runner has uid {runner} and may not {what} it. Let the \
             runner be root (annotate the namespace with holdfast.dev/allow-root-runner=true, and leave runAs at Auto); \
             or use a storage class whose driver gives volumes to an fsGroup; or start the workload once, so that it \
             takes the volume over",
            target.display()
        ),
    )
}

/// How many of the faults are about the root of a volume that is not the runner's own: its owner and mode belong to the
/// volume, as kubelet and driver made it, and only root could change them.
fn of_foreign_root(faults: &FaultList, restore_owners: bool, owner: Option<u32>, runner: u32) -> u64 {
    if restore_owners || owner.is_none_or(|owner| owner == runner) {
        return 0;
    }
    let at_root = faults.first.iter().filter(|fault| fault.path == Path::new("/"));
    u64::try_from(at_root.count()).unwrap_or(u64::MAX)
}

/// What the report means: a restore that did not put everything back is no success.
fn judge(volume: &RestoreVolume, spec: &RestoreSpec, report: &RestoreReport) -> Verdict {
    let owner = Path::new(&volume.target).metadata().ok().map(|metadata| metadata.uid());
    let runner = rustix::process::geteuid().as_raw();
    let of_root = of_foreign_root(&report.metadata_faults, volume.restore_owners, owner, runner);
    let result = result(report, of_root, volume.plan_only);
    let metadata_failures = result.metadata_failures;
    let example = result
        .failure_sample
        .first()
        .map(|f| format!(", first {} ({})", f.path, f.error))
        .unwrap_or_default();
    let mut verdict = succeeded(TaskResult::RestoreVolume(result));
    let target = &volume.target;
    // An undo names what was restored, of which there may have been nothing before.
    let undoes = spec.reach == Reach::Undo;
    let plan = &report.plan;
    let includes = if undoes { &plan.idle_includes } else { &plan.unmatched_includes };
    let excludes = &plan.unmatched_excludes;
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
    } else if metadata_failures > 0 {
        Some((
            "MetadataIncomplete",
            format!(
                "the content of {target} is complete, but owners, modes, times or attributes could not be set {metadata_failures} times{example}"
            ),
        ))
    } else if undoes {
        let nothing = !includes.is_empty() && includes.len() == spec.include.len();
        nothing.then(|| {
            let message = "nothing was undone: the patterns match neither what was there before nor anything to delete that could \
                           be seen. Either an earlier attempt has done it, or they do not say what is meant";
            (UNMATCHED_INCLUDE, message.to_owned())
        })
    } else {
        includes.first().map(|pattern| {
            let message = format!(
                "{} of the patterns to restore match nothing in the snapshot, first {pattern:?}",
                includes.len()
            );
            (UNMATCHED_INCLUDE, message)
        })
    };
    let mut remarks = Vec::new();
    if let Some(pattern) = includes.first().filter(|_| gap.is_none()) {
        verdict.reason = Some(UNMATCHED_INCLUDE.to_owned());
        remarks.push(format!(
            "{} of the patterns to undo match neither what was there before nor anything to delete that could be seen, first \
             {pattern:?}",
            includes.len()
        ));
    }
    if let Some(pattern) = excludes.first().filter(|_| gap.is_none()) {
        verdict.reason.get_or_insert_with(|| UNMATCHED_EXCLUDE.to_owned());
        remarks.push(format!(
            "{} of the patterns to leave out match nothing that would be touched without them, first {pattern:?}: see whether \
             they say what is meant",
            excludes.len()
        ));
    }
    if remarks.is_empty() && of_root > 0 && gap.is_none() {
        remarks.push(format!(
            "mode and times of the volume's root at {target} are as they were: it does not belong to the runner"
        ));
    }
    if !remarks.is_empty() {
        verdict.message = Some(remarks.join("; "));
    }
    if let Some((reason, message)) = gap {
        verdict.outcome = Outcome::Partial;
        verdict.reason = Some(reason.to_owned());
        verdict.message = Some(message);
    }
    verdict
}

fn result(report: &RestoreReport, of_root: u64, plan_only: bool) -> RestoreResult {
    let mut metadata_faults = report.metadata_faults.clone();
    if of_root > 0 {
        metadata_faults.first.retain(|fault| fault.path != Path::new("/"));
        metadata_faults.total = metadata_faults.total.saturating_sub(of_root);
    }
    let samples: Vec<FaultRow> = [&report.faults, &metadata_faults, &report.owners_kept]
        .into_iter()
        .flat_map(|faults| report::sample(faults, SAMPLES))
        .take(SAMPLES)
        .collect();
    RestoreResult {
        create: report.plan.create.total(),
        change: report.plan.change.total(),
        replace: report.plan.replace.total(),
        // What was deleted, which is nothing after a fault, and not what was to be.
        delete: if plan_only { report.plan.delete.total() } else { report.files_deleted },
        unchanged: report.plan.unchanged.total(),
        bytes_to_write: report.plan.bytes_to_write,
        bytes_required: report.plan.bytes_required,
        bytes_available: report.plan.bytes_available,
        files_restored: report.files_restored,
        bytes_written: report.bytes_written,
        verified: report.verified,
        metadata_failures: metadata_faults.total,
        owners_kept: report.owners_kept.total,
        failures: report.faults.total,
        failure_sample: samples,
        duration_ms: millis(report.duration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_engine::event::Fault;

    #[test]
    fn the_root_of_a_volume_that_is_not_the_runners_is_the_volumes_own_business() {
        let mut faults = FaultList::default();
        for (path, action) in [("/", "chmod"), ("/", "utimes"), ("/a", "chmod")] {
            faults.push(Fault { path: path.into(), action, error: "Operation not permitted".into() });
        }
        assert_eq!(of_foreign_root(&faults, false, Some(0), 999), 2);
        assert_eq!(of_foreign_root(&faults, false, Some(999), 999), 0, "its own it could have set");
        assert_eq!(of_foreign_root(&faults, true, Some(0), 0), 0, "so could root");
        assert_eq!(of_foreign_root(&faults, false, None, 999), 0);
    }

    #[test]
    fn only_a_volume_without_files_is_fresh() {
        let directory = tempfile::tempdir().unwrap();
        assert!(is_fresh(directory.path()));
        std::fs::create_dir(directory.path().join("lost+found")).unwrap();
        assert!(is_fresh(directory.path()));
        std::fs::write(directory.path().join("file"), "").unwrap();
        assert!(!is_fresh(directory.path()));
        assert!(!is_fresh(&directory.path().join("absent")));
        // Tests may run as root, for whom everything can be written: only what is told can be looked at here.
        assert!(check_access(directory.path(), false).is_ok());
        let told = not_writable(Path::new("/data/x"), 0, 999, "open").message;
        assert!(told.contains("allow-root-runner") && told.contains("uid 999 and may not open it"), "{told}");
    }
}
