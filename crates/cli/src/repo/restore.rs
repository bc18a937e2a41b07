//! `repo restore`: a snapshot, or a directory of it, goes to a target directory.

use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

use holdfast_engine::lock::LockGuard;
use holdfast_engine::repository::Repository;
use holdfast_engine::restore::{
    self, Counts, Overwrite, Ownership, Reach, RestorePlan, RestoreReport, RestoreSpec,
};
use holdfast_engine::rewrite::Patterns;
use holdfast_engine::store::Location;
use serde_json::json;

use super::access::process_environment;
use super::patterns::{Given, PatternFlags};
use super::select::{Filter, Selector};
use super::session::Session;
use crate::exit;
use crate::failure::{Failure, Result};
use crate::text::{count, counted, duration, local_time, safe, size};
use crate::ui::Work;

/// Command line of `repo restore`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Id of the snapshot, the beginning of one, or `latest`; with :PATH that directory becomes the target
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    snapshot: Selector,
    /// Directory to restore to; made when absent
    #[arg(short, long, value_name = "DIR")]
    target: PathBuf,
    #[command(flatten)]
    patterns: PatternFlags,
    /// What happens to files that are there already
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    overwrite: When,
    /// Make holes of long runs of zeros, which is always done
    #[arg(long)]
    sparse: bool,
    /// Remove from the target what the snapshot does not hold
    #[arg(long)]
    delete: bool,
    /// Read everything back from the disk and compare
    #[arg(long)]
    verify: bool,
    /// Show what would be done, and do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum When {
    /// they become what the snapshot says: their content is compared, and put back where it differs
    #[default]
    Always,
    /// as always, but one of the same size and time of change is taken for right
    IfChanged,
    /// only where the snapshot's was changed later; all others stay as they are
    IfNewer,
    /// they stay as they are
    Never,
}

impl From<When> for Overwrite {
    fn from(when: When) -> Self {
        match when {
            When::Always => Self::Always,
            When::IfChanged => Self::IfChanged,
            When::IfNewer => Self::IfNewer,
            When::Never => Self::Never,
        }
    }
}

pub(super) async fn run(session: &Session<'_>, args: &Args) -> Result<u8> {
    let patterns = args.patterns.read(&process_environment)?;
    let target = std::path::absolute(&args.target).map_err(|e| {
        Failure::usage(
            format!("{} is no target: {e}", args.target.display()),
            "name a directory with --target",
        )
    })?;
    if args.delete && !args.dry_run {
        let repository = match &session.location {
            Location::Local(path) => Some(real(path)),
            _ => None,
        };
        may_delete(&real(&target), repository.as_deref(), &patterns)?;
    }
    let repository = session.open().await?;
    let work = async |guard: Option<&LockGuard>| {
        carry_out(session, &repository, guard, args, patterns, target).await
    };
    let (spec, report) = session.reading(&repository, work).await?;
    session.ui.close();
    let text = match (session.ui.json(), args.dry_run) {
        (true, _) => summary(&report, args.dry_run).to_string(),
        (false, true) => plan(&report.plan, args.delete),
        (false, false) => describe(&report, &spec),
    };
    session.ui.report(&text)?;
    Ok(if complete(&report) { exit::OK } else { exit::PARTIAL })
}

/// Finds the snapshot and restores it: what was asked of the engine, and what came of it.
async fn carry_out(
    session: &Session<'_>,
    repository: &Repository,
    guard: Option<&LockGuard>,
    args: &Args,
    patterns: Given,
    target: PathBuf,
) -> Result<(RestoreSpec, RestoreReport)> {
    let filter = args.filter.to_engine();
    let (id, snapshot) = session.bound(repository.find_snapshot(&args.snapshot.snapshot, &filter)).await?;
    let what = args.snapshot.path.as_deref().unwrap_or("everything");
    session.ui.say(format!(
        "snapshot {} of {} on {}, taken {}: {what} to {}",
        id.short(),
        snapshot.paths.join(", "),
        snapshot.hostname,
        local_time(snapshot.time.timestamp),
        target.display(),
    ));
    let spec = RestoreSpec {
        snapshot: id,
        subpath: args.snapshot.path.clone().map(PathBuf::from),
        target,
        include: patterns.include.exact,
        exclude: patterns.exclude.exact,
        include_any_case: patterns.include.any_case,
        exclude_any_case: patterns.exclude.any_case,
        overwrite: args.overwrite.into(),
        delete_extra: args.delete,
        // As restic has it.
        reach: Reach::Restic,
        spare_left_out: false,
        spare_caches: false,
        verify: args.verify,
        dry_run: args.dry_run,
        // Only root can give files away; anybody else would get one fault a file.
        ownership: if rustix::process::geteuid().is_root() { Ownership::Restore } else { Ownership::Keep },
        sparse: true,
        allow_empty: false,
    };
    session.ui.begin(Work::Restore);
    let report = session.bound(restore::restore(repository, guard, &spec, &session.ctx)).await?;
    Ok((spec, report))
}

fn complete(report: &RestoreReport) -> bool {
    report.faults.is_empty() && report.metadata_faults.is_empty() && report.plan.unmatched_includes.is_empty()
}

/// restic's summary message, with what it leaves unsaid added.
fn summary(report: &RestoreReport, dry_run: bool) -> serde_json::Value {
    let plan = &report.plan;
    let total_files: u64 =
        [plan.create, plan.change, plan.replace, plan.unchanged, plan.kept].iter().map(Counts::total).sum();
    json!({
        "message_type": "summary",
        "dry_run": dry_run,
        "seconds_elapsed": report.duration.as_secs(),
        "total_files": total_files,
        "files_restored": report.files_restored,
        "files_skipped": report.files_unchanged,
        "files_deleted": report.files_deleted,
        "total_bytes": plan.bytes_to_write,
        "bytes_restored": report.bytes_written,
        "bytes_verified": report.bytes_verified,
        "verified": report.verified,
        "errors": report.faults.total,
        "metadata_errors": report.metadata_faults.total,
        "owners_not_restored": report.owners_kept.total,
        "plan": plan,
    })
}

/// The path without symbolic links, of which the end may not be there yet.
fn real(path: &Path) -> PathBuf {
    for there in path.ancestors() {
        let Ok(mut real) = std::fs::canonicalize(there) else { continue };
        // What is not there will be made as directories, so `..` leads to the one above.
        for part in path.strip_prefix(there).into_iter().flat_map(Path::components) {
            match part {
                Component::Normal(name) => real.push(name),
                Component::ParentDir => {
                    real.pop();
                }
                Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
            }
        }
        return real;
    }
    path.to_owned()
}

/// Refuses what can only be a mistake: to remove from this machine whatever one snapshot does not hold, or the repository
/// that is restored from.
///
/// Patterns to include say what may be touched on the machine. None makes the repository safe: one that is meant for
/// something else may match it too, and those to exclude only spare what they name.
fn may_delete(target: &Path, repository: Option<&Path>, patterns: &Given) -> Result<()> {
    if target == Path::new("/") && patterns.include == Patterns::default() {
        return Err(Failure::usage(
            "--delete with the target / would remove everything on this machine that the snapshot does not hold",
            "restore to the directory that is meant (--target), with SNAPSHOT:PATH for a part of the snapshot, or say \
             with --include what may be touched",
        ));
    }
    let advice = "restore to another directory, or leave --delete out";
    match repository {
        Some(repository) if repository.starts_with(target) => Err(Failure::usage(
            format!("the repository lies in {}, and --delete could remove it", target.display()),
            advice,
        )),
        Some(repository) if target.starts_with(repository) => Err(Failure::usage(
            format!("{} lies in the repository, of which --delete could remove a part", target.display()),
            advice,
        )),
        Some(_) | None => Ok(()),
    }
}

/// What would be done.
fn plan(plan: &RestorePlan, delete: bool) -> String {
    let mut out = String::from("plan (nothing was written):\n");
    let mut line = |what: &str, counts: Counts| {
        if counts.total() > 0 {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "  {what:<10} {}", sorts(counts));
        }
    };
    line("create", plan.create);
    line("change", plan.change);
    line("replace", plan.replace);
    line("unchanged", plan.unchanged);
    line("kept", plan.kept);
    line("delete", plan.delete);
    let _ = writeln!(out, "  {:<10} at most {}", "write", size(plan.bytes_to_write));
    let _ = write!(
        out,
        "  {:<10} {} needed, {} free",
        "space",
        size(plan.bytes_required),
        size(plan.bytes_available)
    );
    if plan.bytes_required > plan.bytes_available {
        out.push_str(": NOT ENOUGH, the restore would be refused");
    }
    if !delete {
        out.push_str("\n  what the target holds besides stays (--delete removes it)");
    }
    out + &unmatched(plan)
}

fn sorts(counts: Counts) -> String {
    let Counts { files, dirs, others } = counts;
    let parts = [
        (files, counted(files, "file", "files")),
        (dirs, counted(dirs, "directory", "directories")),
        (others, counted(others, "link or special file", "links and special files")),
    ];
    parts.into_iter().filter(|(n, _)| *n > 0).map(|(_, text)| text).collect::<Vec<_>>().join(", ")
}

fn unmatched(plan: &RestorePlan) -> String {
    let patterns =
        plan.unmatched_includes.iter().map(|p| format!("\n  nothing in the snapshot matches {}", safe(p)));
    let excludes = plan.unmatched_excludes.iter().map(|p| format!("\n  {} leaves out nothing", safe(p)));
    patterns.chain(excludes).collect()
}

fn describe(report: &RestoreReport, spec: &RestoreSpec) -> String {
    let mut lines = vec![
        format!("restored to {}", spec.target.display()),
        format!(
            "  files    {} written, {} left as they were, {} removed",
            count(report.files_restored),
            count(report.files_unchanged),
            count(report.files_deleted)
        ),
        format!("  content  {} written", size(report.bytes_written)),
        format!("  time     {}", duration(report.duration)),
    ];
    if spec.verify {
        lines.push(if report.verified {
            format!("  verified {} read back and found right", size(report.bytes_verified))
        } else {
            "  verified NO: not everything could be read back and compared".to_owned()
        });
    }
    if report.sockets_skipped > 0 {
        lines.push(format!("  left out {}", counted(report.sockets_skipped, "socket", "sockets")));
    }
    if !report.faults.is_empty() {
        lines.push(format!(
            "  {} could not be restored (named above)",
            counted(report.faults.total, "entry", "entries")
        ));
    }
    if !report.metadata_faults.is_empty() {
        lines.push(format!(
            "  {} of owner, mode, time or attributes could not be set (named above)",
            counted(report.metadata_faults.total, "case", "cases")
        ));
    }
    if !report.owners_kept.is_empty() {
        lines.push(format!(
            "  {} of other users or groups are yours now: only root can give them away",
            counted(report.owners_kept.total, "entry", "entries")
        ));
    }
    if report.delete_skipped {
        lines.push("  nothing was removed, because not everything could be restored".to_owned());
    }
    lines.join("\n") + &unmatched(&report.plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_the_machine_nor_the_repository_is_what_the_snapshot_does_not_hold() {
        let refused = |target: &str, repository: Option<&str>| {
            let repository = repository.map(Path::new);
            may_delete(Path::new(target), repository, &Given::default()).map_err(|failure| failure.cause)
        };
        assert!(refused("/", None).unwrap_err().contains("this machine"));
        assert!(refused("/srv", Some("/srv/repo")).unwrap_err().contains("the repository lies in /srv"));
        assert!(refused("/srv/repo", Some("/srv/repo")).is_err());
        assert_eq!(refused("/srv/data", Some("/srv/repo")), Ok(()));
        assert_eq!(refused("/srv/re", Some("/srv/repo")), Ok(()), "by whole names");
        assert_eq!(refused("/srv", None), Ok(()));
        assert!(refused("/srv/repo/data", Some("/srv/repo")).unwrap_err().contains("lies in the repository"));
    }

    #[test]
    fn no_pattern_makes_the_repository_safe_from_delete() {
        let some = || Patterns { exact: vec!["*".into()], any_case: Vec::new() };
        let include = Given { include: some(), ..Given::default() };
        let exclude = Given { exclude: some(), ..Given::default() };
        let allowed = |target: &str, repository: Option<&str>, patterns: &Given| {
            may_delete(Path::new(target), repository.map(Path::new), patterns).is_ok()
        };
        for patterns in [&include, &exclude] {
            assert!(!allowed("/srv", Some("/srv/repo"), patterns));
            assert!(!allowed("/srv/repo/data", Some("/srv/repo"), patterns));
            assert!(!allowed("/", Some("/srv/repo"), patterns));
            assert!(allowed("/srv/data", Some("/srv/repo"), patterns));
        }
        assert!(allowed("/", None, &include));
        assert!(!allowed("/", None, &exclude), "what is excluded is spared, and all else would go");
    }

    #[test]
    fn a_target_is_where_its_links_lead_even_before_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let top = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir(top.join("repo")).unwrap();
        std::os::unix::fs::symlink("repo", top.join("link")).unwrap();
        assert_eq!(real(&top.join("link")), top.join("repo"));
        assert_eq!(real(&top.join("link/new/er")), top.join("repo/new/er"));
        assert_eq!(real(&top.join("new/../repo")), top.join("repo"));
    }

    #[test]
    fn a_plan_names_what_it_would_do_and_nothing_else() {
        let create = Counts { files: 1, dirs: 2, others: 0 };
        let text = plan(
            &RestorePlan { create, bytes_required: 2048, bytes_available: 1024, ..RestorePlan::default() },
            true,
        );
        assert!(text.contains("create     1 file, 2 directories\n"), "{text}");
        assert!(text.contains("2.0 KiB needed, 1.0 KiB free: NOT ENOUGH"), "{text}");
        assert!(!text.contains("change") && !text.contains("--delete"), "{text}");
    }

    #[test]
    fn a_pattern_that_matched_nothing_is_not_a_whole_success() {
        let mut report = RestoreReport::default();
        assert!(complete(&report));
        report.plan.unmatched_includes.push("*.txt".into());
        assert!(!complete(&report));
    }
}
