//! `repo backup`: files and directories become a snapshot.

use std::path::{Component, Path, PathBuf};

use holdfast_engine::backup::{self, BackupReport, BackupSpec, Parent, Unreadable};
use holdfast_engine::event::{Event, Fault};
use jiff::Timestamp;
use serde_json::json;

use super::access::process_environment;
use super::select::{default_host, split_tags};
use super::session::{Session, hostname, username};
use super::stream;
use crate::exit;
use crate::failure::{Failure, Result};
use crate::text::{count, counted, duration, size};
use crate::ui::Work;

/// Command line of `repo backup`.
#[expect(clippy::doc_markdown, reason = "the comments are the help text, which shows backticks as they are")]
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Files and directories to back up; with --stdin-from-command the command and its arguments
    #[arg(required_unless_present_any = ["stdin", "stdin_from_command"], value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Tag of the snapshot; `a,b` gives two (may be given several times)
    #[arg(long, value_name = "TAG[,TAG…]")]
    tag: Vec<String>,
    /// Host name of the snapshot; this machine's when absent [env: HOLDFAST_HOST, RESTIC_HOST]
    #[arg(short = 'H', long, value_name = "HOST")]
    host: Option<String>,
    /// Leave out what matches this pattern (restic's rules; may be given several times)
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Leave out the content of directories that hold a CACHEDIR.TAG
    #[arg(long)]
    exclude_caches: bool,
    /// Do not go into other file systems that are mounted below a path
    #[arg(short = 'x', long)]
    one_file_system: bool,
    /// Read every file again instead of trusting size and times of the last snapshot
    #[arg(short, long)]
    force: bool,
    /// Write no snapshot when more than so many files cannot be read; all are borne when absent
    #[arg(long, value_name = "N")]
    max_errors: Option<u64>,
    #[command(flatten)]
    stream: stream::Args,
}

pub(super) async fn run(session: &Session<'_>, args: &Args) -> Result<u8> {
    let (spec, missing) = spec(session, args)?;
    let repository = session.open().await?;
    for fault in &missing {
        session.ctx.events.event(Event::Fault(fault.clone()));
    }
    session.ui.begin(Work::Backup);
    let begin = Timestamp::now();
    let report = session
        .locked(&repository, async |guard| {
            if args.stream.wanted() {
                // Not before the lock is held: a dump that waits is an old one.
                let source = args.stream.start(&args.paths)?;
                let work = backup::backup_stream(&repository, guard, &spec, source, &session.ctx);
                return Box::pin(session.bound(work)).await;
            }
            Box::pin(session.bound(backup::backup(&repository, guard, &spec, &session.ctx))).await
        })
        .await?;
    session.ui.close();
    if session.ui.json() {
        session.ui.print(&summary(&report, begin).to_string())?;
    } else if !session.ui.quiet() {
        session.ui.print(&describe(&report))?;
    }
    Ok(if report.faults.is_empty() && missing.is_empty() { exit::OK } else { exit::PARTIAL })
}

/// The paths to back up, and those that are not there: they are told, and the others backed up. As restic does.
fn roots(args: &Args) -> Result<(Vec<PathBuf>, Vec<Fault>)> {
    args.stream.check(&args.paths)?;
    if args.stream.wanted() {
        return Ok((Vec::new(), Vec::new()));
    }
    let here = std::env::current_dir()
        .map_err(|e| Failure::usage(format!("find the current directory: {e}"), "give absolute paths"))?;
    let mut roots: Vec<PathBuf> = args.paths.iter().map(|path| absolute(&here, path)).collect();
    roots.sort();
    roots.dedup();
    let mut missing = Vec::new();
    for root in &roots {
        match std::fs::symlink_metadata(root) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                missing.push(Fault { path: root.clone(), action: "back up", error: e.to_string() });
            }
            Err(e) => {
                return Err(Failure::usage(
                    format!("{} cannot be backed up: {e}", root.display()),
                    "check the path; nothing was stored",
                ));
            }
            Ok(_) => {}
        }
    }
    roots.retain(|root| missing.iter().all(|fault| fault.path != *root));
    let too_many = args.max_errors.is_some_and(|most| u64::try_from(missing.len()).is_ok_and(|n| n > most));
    match missing.first() {
        Some(fault) if roots.is_empty() || too_many => Err(Failure::usage(
            format!("{} cannot be backed up: {}", fault.path.display(), fault.error),
            "check the path; nothing was stored",
        )),
        _ => Ok((roots, missing)),
    }
}

fn spec(session: &Session<'_>, args: &Args) -> Result<(BackupSpec, Vec<Fault>)> {
    let (roots, missing) = roots(args)?;
    let spec = BackupSpec {
        roots,
        host: args.host.clone().or_else(|| default_host(&process_environment)).unwrap_or_else(hostname),
        tags: split_tags(&args.tag),
        time: Timestamp::now(),
        excludes: args.exclude.clone(),
        exclude_caches: args.exclude_caches,
        one_file_system: args.one_file_system,
        parent: if args.force { Parent::None } else { Parent::Auto },
        unreadable: args.max_errors.map_or(Unreadable::Continue, Unreadable::AtMost),
        username: username(),
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        program_version: concat!("holdfast ", env!("CARGO_PKG_VERSION")).to_owned(),
        compression: session.compression(),
        ..BackupSpec::default()
    };
    Ok((spec, missing))
}

/// The path from the root, without `.` and `..`, by its words alone: what was asked for is what the snapshot
/// shows, also where a symbolic link is on the way. As restic does.
pub(super) fn absolute(here: &Path, path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in here.join(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => out.push(component),
        }
    }
    out
}

/// restic's summary message, with our counts of what was left out added.
fn summary(report: &BackupReport, begin: Timestamp) -> serde_json::Value {
    json!({
        "message_type": "summary",
        "files_new": report.files_new,
        "files_changed": report.files_changed,
        "files_unmodified": report.files_unmodified,
        "dirs_new": report.dirs_new,
        "dirs_changed": report.dirs_changed,
        "dirs_unmodified": report.dirs_unmodified,
        "data_blobs": report.data_blobs,
        "tree_blobs": report.tree_blobs,
        "data_added": report.data_added,
        "data_added_packed": report.data_added_packed,
        "total_files_processed": report.total_files,
        "total_bytes_processed": report.total_bytes,
        "total_duration": report.duration.as_secs_f64(),
        "backup_start": begin.to_string(),
        "backup_end": Timestamp::now().to_string(),
        "snapshot_id": report.snapshot.to_hex(),
        "unreadable": report.faults.total,
        "changed_while_reading": report.changed_while_reading,
    })
}

fn describe(report: &BackupReport) -> String {
    let parent = report.parent.map_or_else(
        || "no earlier snapshot to compare with".to_owned(),
        |parent| format!("compared with {}", parent.short()),
    );
    let mut lines = vec![
        format!("snapshot {} saved, {parent}", report.snapshot.short()),
        format!(
            "  files    {} new, {} changed, {} unchanged",
            count(report.files_new),
            count(report.files_changed),
            count(report.files_unmodified)
        ),
        format!(
            "  content  {} in {}, {} of it new, stored as {}",
            size(report.total_bytes),
            counted(report.total_files, "file", "files"),
            size(report.data_added),
            size(report.data_added_packed)
        ),
        format!("  time     {}", duration(report.duration)),
    ];
    if report.sockets_skipped > 0 {
        lines.push(format!("  left out {}", counted(report.sockets_skipped, "socket", "sockets")));
    }
    if report.changed_while_reading > 0 {
        lines.push(format!(
            "  {} changed while being read: stored as read",
            counted(report.changed_while_reading, "file", "files")
        ));
    }
    if !report.faults.is_empty() {
        lines.push(format!(
            "  {} could not be read (named above, and by `holdfast repo unreadable {}`); the snapshot holds all \
             others",
            counted(report.faults.total, "entry", "entries"),
            report.snapshot.short()
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_absolute_by_their_words() {
        let of = |path: &str| absolute(Path::new("/home/ann"), Path::new(path)).display().to_string();
        assert_eq!(of("docs"), "/home/ann/docs");
        assert_eq!(of("./a/../b/."), "/home/ann/b");
        assert_eq!(of("../../../x"), "/x");
        assert_eq!(of("/srv//data/"), "/srv/data");
        assert_eq!(of("."), "/home/ann");
    }

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_path_that_is_not_there_costs_only_itself() {
        let directory = tempfile::tempdir().unwrap();
        let there = directory.path().to_str().unwrap();
        let gone = format!("{there}/gone");
        let of = |words: &[&str]| {
            let line = <Line as clap::Parser>::try_parse_from([&["backup"], words].concat()).unwrap();
            roots(&line.args).map(|(roots, missing)| (roots, missing.len()))
        };
        assert_eq!(of(&[there, &gone]).unwrap(), (vec![directory.path().to_owned()], 1));
        assert_eq!(of(&[there, &gone, "--max-errors=1"]).unwrap().1, 1);
        assert!(of(&[there, &gone, "--max-errors=0"]).is_err());
        assert!(of(&[&gone]).unwrap_err().cause.contains("gone cannot be backed up"));
    }

    #[test]
    fn tags_are_split_at_commas_as_restic_does() {
        assert_eq!(split_tags(&["a,b".into(), " c ".into(), ",".into()]), ["a", "b", "c"]);
    }
}
