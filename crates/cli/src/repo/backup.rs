//! `repo backup`: files and directories become a snapshot.

use std::path::PathBuf;

use holdfast_engine::backup::{
    self, Ahead, BackupReport, BackupSpec, Checkpoints, Parent, Trust, Unreadable,
};
use holdfast_engine::event::Event;
use holdfast_engine::format::snapshot::Snapshot;
use holdfast_engine::id::Id;
use holdfast_engine::lock::LockGuard;
use holdfast_engine::repository::{Repository, SnapshotFilter};
use jiff::Timestamp;
use serde_json::json;

use super::access::{Environment, process_environment};
use super::select::{default_host, split_tags};
use super::session::{Session, hostname, username};
use super::sources::{self, Sources};
use super::{exclude, stream};
use crate::exit;
use crate::failure::{Failure, Result};
use crate::text::{count, counted, duration, size};
use crate::ui::Work;

/// Command line of `repo backup`.
#[expect(clippy::doc_markdown, reason = "the comments are the help text, which shows backticks as they are")]
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Files and directories to back up; with --stdin-from-command the command and its arguments
    #[arg(required_unless_present_any = ["stdin", "stdin_from_command", "Sources"], value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Tag of the snapshot; `a,b` gives two (may be given several times)
    #[arg(long, value_name = "TAG[,TAG…]")]
    tag: Vec<String>,
    /// Host name of the snapshot; this machine's when absent [env: HOLDFAST_HOST, RESTIC_HOST]
    #[arg(short = 'H', long, value_name = "HOST")]
    host: Option<String>,
    #[command(flatten)]
    sources: sources::Args,
    #[command(flatten)]
    exclude: exclude::Args,
    /// Do not go into other file systems that are mounted below a path
    #[arg(short = 'x', long)]
    one_file_system: bool,
    /// Read every file again instead of trusting size and times of the last snapshot
    #[arg(short, long)]
    force: bool,
    /// The snapshot to compare with, where not --force is given: an id, the beginning of one, or `latest`
    #[arg(long, value_name = "SNAPSHOT")]
    parent: Option<String>,
    /// Take a file for unchanged although the change time of its inode differs
    #[arg(long)]
    ignore_ctime: bool,
    /// The same although number and change time of its inode differ
    #[arg(long)]
    ignore_inode: bool,
    /// Write no snapshot when it would be the same as the last one
    #[arg(long)]
    skip_if_unchanged: bool,
    /// Write nothing at all, and say what would be stored
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Time of the snapshot, as `2026-01-31 23:59:00` by this machine's clock; now when absent
    #[arg(long, value_name = "TIME", value_parser = local_time)]
    time: Option<Timestamp>,
    /// Read so many files at a time [env: HOLDFAST_READ_CONCURRENCY, RESTIC_READ_CONCURRENCY] [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=128))]
    read_concurrency: Option<u16>,
    /// Accepted for restic's sake: Holdfast looks for no files ahead of the backup
    #[arg(long)]
    no_scan: bool,
    /// Write no snapshot when more than so many files cannot be read; all are borne when absent
    #[arg(long, value_name = "N")]
    max_errors: Option<u64>,
    #[command(flatten)]
    stream: stream::Args,
}

pub(super) async fn run(session: &Session<'_>, args: &Args) -> Result<u8> {
    args.stream.check(&args.paths)?;
    if args.stream.wanted() && args.sources.any() {
        return Err(Failure::usage(
            "a stream and lists of paths were given",
            "back them up with a command each",
        ));
    }
    let sources =
        if args.stream.wanted() { Sources::default() } else { args.sources.resolve(&args.paths)? };
    let too_many = args.max_errors.is_some_and(|most| sources.missing.len() as u64 > most);
    if let Some(fault) = sources.missing.first().filter(|_| too_many) {
        return Err(sources::not_backed_up(&fault.path, &fault.error));
    }
    let mut spec = spec(session, args, &sources)?;
    let repository = session.open().await?;
    for fault in sources.unmatched.iter().chain(&sources.missing) {
        session.ctx.events.event(Event::Fault(fault.clone()));
    }
    if let Some(parent) = args.parent.as_deref().filter(|_| !args.force) {
        spec.parent = Parent::Id(find_parent(session, &repository, parent, &spec, &sources).await?);
    }
    session.ui.begin(Work::Backup);
    let begin = Timestamp::now();
    let report = if args.dry_run {
        // Nothing is written, so neither is a lock.
        rehearse(session, &repository, args, &spec).await?
    } else if args.stream.wanted() {
        let work = async |guard: &LockGuard| {
            // Not before the lock is held: a dump that waits is an old one.
            let source = args.stream.start(&args.paths)?;
            let work = backup::backup_stream(&repository, guard, &spec, source, &session.ctx);
            Box::pin(session.bound(work)).await
        };
        session.locked(&repository, work).await?
    } else {
        let locking = session.locking();
        let taking = backup::lock_reading_ahead(&repository, &locking, &spec, &session.ctx);
        let work =
            async |guard: &LockGuard, ahead: Ahead<'_>| Box::pin(session.bound(ahead.finish(guard))).await;
        session.locked_by(taking, work).await?
    };
    session.ui.close();
    if session.ui.json() {
        session.ui.report(&summary(&report, begin, args.dry_run).to_string())?;
    } else if !session.ui.quiet() {
        session.ui.report(&describe(&report, args.dry_run))?;
    }
    let whole = report.faults.is_empty() && sources.missing.is_empty();
    Ok(if whole { exit::OK } else { exit::PARTIAL })
}

async fn rehearse(
    session: &Session<'_>,
    repository: &Repository,
    args: &Args,
    spec: &BackupSpec,
) -> Result<BackupReport> {
    if args.stream.wanted() {
        let source = args.stream.start(&args.paths)?;
        let work = backup::rehearse_stream(repository, spec, source, &session.ctx);
        return Box::pin(session.bound(work)).await;
    }
    Box::pin(session.bound(backup::rehearse(repository, spec, &session.ctx))).await
}

fn spec(session: &Session<'_>, args: &Args, sources: &Sources) -> Result<BackupSpec> {
    let patterns = args.exclude.patterns.read_leniently(&process_environment)?;
    let missing = sources.missing.len() as u64;
    Ok(BackupSpec {
        roots: sources.absolute.clone(),
        relative_roots: sources.relative.clone(),
        host: args.host.clone().or_else(|| default_host(&process_environment)).unwrap_or_else(hostname),
        tags: split_tags(&args.tag),
        time: args.time.unwrap_or_else(Timestamp::now),
        excludes: patterns.exact,
        iexcludes: patterns.any_case,
        exclude_if_present: args.exclude.exclude_if_present.clone(),
        exclude_larger_than: args.exclude.exclude_larger_than,
        exclude_caches: args.exclude.exclude_caches,
        one_file_system: args.one_file_system,
        parent: if args.force { Parent::None } else { Parent::Auto },
        parent_until: args.time,
        trust: match (args.ignore_inode, args.ignore_ctime) {
            (true, _) => Trust::Times,
            (false, true) => Trust::InodeNumber,
            (false, false) => Trust::Inode,
        },
        skip_if_unchanged: args.skip_if_unchanged,
        unreadable: args
            .max_errors
            .map_or(Unreadable::Continue, |most| Unreadable::AtMost(most.saturating_sub(missing))),
        username: username(),
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        program_version: concat!("holdfast ", env!("CARGO_PKG_VERSION")).to_owned(),
        compression: session.compression(),
        readers: readers(args.read_concurrency, &process_environment)?,
        // Nothing goes on with a run that was killed.
        checkpoints: Checkpoints::NEVER,
        ..BackupSpec::default()
    })
}

/// The snapshot that --parent means; `latest` is that of this host and of these paths, as with restic.
async fn find_parent(
    session: &Session<'_>,
    repository: &Repository,
    wanted: &str,
    spec: &BackupSpec,
    sources: &Sources,
) -> Result<Id> {
    if wanted != "latest" {
        let any = SnapshotFilter::default();
        return Ok(session.bound(repository.find_snapshot(wanted, &any)).await?.0);
    }
    let paths = sources.paths().map(|path| path.display().to_string()).collect();
    let filter = SnapshotFilter { hosts: vec![spec.host.clone()], paths, tags: Vec::new() };
    let is_meant = |snapshot: &Snapshot| {
        spec.parent_until.is_none_or(|until| snapshot.time.timestamp <= until) && filter.matches(snapshot)
    };
    // A parent only saves work: one that cannot be read is passed over, as where none is named.
    let list = session.bound(repository.list_snapshots()).await?;
    let mut all = list.readable_only(&session.ctx).into_iter().rev();
    all.find(|(_, snapshot)| is_meant(snapshot)).map(|(id, _)| id).ok_or_else(|| {
        Failure::usage(
            "there is no snapshot of this host and these paths to compare with",
            "leave --parent out, or name another snapshot",
        )
    })
}

fn readers(flag: Option<u16>, env: Environment<'_>) -> Result<usize> {
    let name =
        ["HOLDFAST_READ_CONCURRENCY", "RESTIC_READ_CONCURRENCY"].into_iter().find(|name| env(name).is_some());
    let Some(name) = name.filter(|_| flag.is_none()) else { return Ok(flag.map_or(2, usize::from)) };
    let text = env(name).unwrap_or_default();
    text.parse().ok().filter(|n| (1..=128).contains(n)).ok_or_else(|| {
        Failure::usage(format!("{name} is {text:?}, which is no number of files"), "give one from 1 to 128")
    })
}

fn local_time(text: &str) -> Result<Timestamp, String> {
    let bad = |e: jiff::Error| format!("{e}; write it as 2026-01-31 23:59:00");
    let local = jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S", text).map_err(bad)?;
    Ok(local.to_zoned(jiff::tz::TimeZone::system()).map_err(bad)?.timestamp())
}

/// restic's summary message, with our counts of what was left out added.
fn summary(report: &BackupReport, begin: Timestamp, dry_run: bool) -> serde_json::Value {
    let mut message = json!({
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
        "unreadable": report.faults.total,
        "changed_while_reading": report.changed_while_reading,
        "vanished": report.vanished,
    });
    if let Some(fields) = message.as_object_mut() {
        if report.committed {
            fields.insert("snapshot_id".to_owned(), report.snapshot.to_hex().into());
        }
        if dry_run {
            fields.insert("dry_run".to_owned(), true.into());
        }
    }
    message
}

fn describe(report: &BackupReport, dry_run: bool) -> String {
    let parent = report.parent.map_or_else(
        || "no earlier snapshot to compare with".to_owned(),
        |parent| format!("compared with {}", parent.short()),
    );
    let first = match (report.committed, dry_run) {
        (true, _) => format!("snapshot {} saved, {parent}", report.snapshot.short()),
        (false, true) => format!("dry run: nothing was written, {parent}"),
        (false, false) => format!("nothing has changed, so no snapshot was made; {parent}"),
    };
    let stored = if dry_run { "would be stored as" } else { "stored as" };
    let mut lines = vec![
        first,
        format!(
            "  files    {} new, {} changed, {} unchanged",
            count(report.files_new),
            count(report.files_changed),
            count(report.files_unmodified)
        ),
        format!(
            "  content  {} in {}, {} of it new, {stored} {}",
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
    if report.vanished > 0 {
        lines.push(format!(
            "  {} gone before they could be read",
            counted(report.vanished, "entry was", "entries were")
        ));
    }
    if !report.faults.is_empty() {
        let entries = counted(report.faults.total, "entry", "entries");
        lines.push(if report.committed {
            format!(
                "  {entries} could not be read (named above, and by `holdfast repo unreadable {}`); the snapshot holds \
                 all others",
                report.snapshot.short()
            )
        } else {
            format!("  {entries} could not be read (named above)")
        });
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_in_restic() {
        assert!(local_time("2026-01-31 23:59:00").is_ok());
        for bad in ["", "2026-01-31", "yesterday", "2026-01-31T23:59:00Z"] {
            assert!(local_time(bad).unwrap_err().contains("write it as"), "{bad}");
        }
    }

    #[test]
    fn how_many_files_are_read_at_a_time_may_come_from_the_environment() {
        let env = |value: &'static str| {
            move |name: &str| (name == "RESTIC_READ_CONCURRENCY").then(|| value.to_owned())
        };
        assert_eq!(readers(None, &env("8")).unwrap(), 8);
        assert_eq!(readers(Some(3), &env("8")).unwrap(), 3);
        assert_eq!(readers(None, &|_| None).unwrap(), 2);
        assert!(readers(None, &env("0")).is_err() && readers(None, &env("many")).is_err());
    }

    #[test]
    fn tags_are_split_at_commas_as_restic_does() {
        assert_eq!(split_tags(&["a,b".into(), " c ".into(), ",".into()]), ["a", "b", "c"]);
    }
}
