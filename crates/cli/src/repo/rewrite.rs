//! `repo rewrite`: snapshots anew without some of their files, or with another host or time.

use holdfast_api::tags::is_reserved;
use holdfast_engine::error::ErrorKind;
use holdfast_engine::format::snapshot::Snapshot;
use holdfast_engine::format::time::OffsetTime;
use holdfast_engine::id::Id;
use holdfast_engine::lock::{LockGuard, LockMode};
use holdfast_engine::repository::Repository;
use holdfast_engine::rewrite::{Files, NewSnapshot, Patterns, Rewrite, Rewriter, Rewritten};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::json;

use super::access::{Environment, process_environment};
use super::patterns::{Given, PatternFlags};
use super::select::Filter;
use super::session::Session;
use crate::exit;
use crate::failure::{Failure, Result};
use crate::text::{counted, local_time, safe};

/// Command line of `repo rewrite`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only these snapshots: ids, beginnings of ids, or `latest`; all that the filters let through when absent
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    #[command(flatten)]
    patterns: PatternFlags,
    /// Give the snapshots this host name
    #[arg(long, value_name = "HOST")]
    new_host: Option<String>,
    /// Give the snapshots this time, e.g. "2026-03-01 14:30:00"
    #[arg(long, value_name = "TIME", value_parser = time)]
    new_time: Option<OffsetTime>,
    /// Count files and bytes of snapshots that do not say how many they have
    #[arg(short, long)]
    snapshot_summary: bool,
    /// Remove the originals once the new ones are written; what only they need is freed by the next prune
    #[arg(long)]
    forget: bool,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    filter: Filter,
}

pub(super) async fn run(session: &Session<'_>, args: &Args) -> Result<u8> {
    let how = plan(args, &process_environment)?;
    let mode = if args.forget && !args.dry_run { LockMode::Exclusive } else { LockMode::Shared };
    let repository = session.open().await?;
    let totals = session
        .locked_as(&repository, mode, async |guard| {
            let chosen = session.select(&repository, &args.snapshots, &args.filter).await?;
            Box::pin(rewrite(session, &repository, guard, &chosen, &how)).await
        })
        .await?;
    session.ui.close();
    let Totals { changed, failed } = totals;
    if session.ui.json() {
        let summary =
            json!({"message_type": "summary", "changed_snapshots": changed, "failed_snapshots": failed});
        session.ui.report(&summary.to_string())?;
    } else {
        let would = if how.dry_run { "would modify" } else { "modified" };
        session.ui.report(&match changed {
            0 if how.dry_run => "no snapshots would be modified".to_owned(),
            0 => "no snapshots were modified".to_owned(),
            n => format!("{would} {}", counted(n, "snapshot", "snapshots")),
        })?;
    }
    Ok(if failed == 0 { exit::OK } else { exit::PARTIAL })
}

/// What was asked for, as the engine takes it.
fn plan(args: &Args, env: Environment<'_>) -> Result<Rewrite> {
    let Given { include: included, exclude: excluded } = args.patterns.read(env)?;
    let files = match (excluded == Patterns::default(), included == Patterns::default()) {
        (true, true) => Files::All,
        (false, true) => Files::Without(excluded),
        (true, false) => Files::Only(included),
        (false, false) => {
            return Err(Failure::usage(
                "patterns to leave out and patterns to keep do not go together",
                "rewrite twice, first with the ones, then with the others",
            ));
        }
    };
    if files == Files::All && args.new_host.is_none() && args.new_time.is_none() && !args.snapshot_summary {
        return Err(Failure::usage(
            "nothing to do",
            "give --exclude, --include, --new-host, --new-time or --snapshot-summary",
        ));
    }
    if args.new_host.as_deref() == Some("") {
        return Err(Failure::usage("--new-host is empty", "name a host"));
    }
    Ok(Rewrite {
        files,
        host: args.new_host.clone(),
        time: args.new_time,
        summary: args.snapshot_summary,
        forget: args.forget,
        dry_run: args.dry_run,
        // By these tags the operator takes a snapshot for all of a run's component.
        says_whole: is_reserved,
    })
}

struct Totals {
    changed: u64,
    failed: u64,
}

async fn rewrite(
    session: &Session<'_>,
    repository: &Repository,
    guard: &LockGuard,
    chosen: &[(Id, Snapshot)],
    how: &Rewrite,
) -> Result<Totals> {
    let mut rewriter = session.bound(Rewriter::new(repository, how, &session.ctx)).await?;
    let mut totals = Totals { changed: 0, failed: 0 };
    for (id, snapshot) in chosen {
        let failure = match session.bound(rewriter.rewrite(guard, *id, snapshot)).await {
            Ok(Rewritten::Unchanged) => continue,
            Ok(Rewritten::NothingStays) => {
                session
                    .ui
                    .say(format!("snapshot {} has nothing that matches: it is left as it is", id.short()));
                continue;
            }
            Ok(Rewritten::Written(new)) => {
                totals.changed += 1;
                tell(session, id, snapshot, &new, how)?;
                continue;
            }
            Err(failure) => failure,
        };
        if ![ErrorKind::Missing, ErrorKind::Corrupt, ErrorKind::Format]
            .iter()
            .any(|k| k.as_str() == failure.kind)
        {
            return Err(failure);
        }
        totals.failed += 1;
        if session.ui.json() {
            let line = json!({
                "message_type": "error",
                "error": {"message": failure.cause},
                "during": "rewrite",
                "item": id,
            });
            session.ui.report(&line.to_string())?;
        } else {
            session.ui.say(format!("snapshot {} is left as it is: {}", id.short(), safe(&failure.cause)));
        }
    }
    Ok(totals)
}

fn tell(session: &Session<'_>, id: &Id, snapshot: &Snapshot, new: &NewSnapshot, how: &Rewrite) -> Result<()> {
    if session.ui.json() {
        let line = json!({
            "message_type": "changed",
            "old_snapshot_id": id,
            "new_snapshot_id": new.id,
            "excluded": new.excluded.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>(),
            "excluded_total": new.excluded_total,
            "dropped_tags": new.dropped_tags,
        });
        return session.ui.report(&line.to_string());
    }
    for line in describe(id, snapshot, new, how) {
        session.ui.report(&line)?;
    }
    Ok(())
}

/// With the lines that restic has for them, since scripts look for these.
fn describe(id: &Id, snapshot: &Snapshot, new: &NewSnapshot, how: &Rewrite) -> Vec<String> {
    let mut lines = vec![format!(
        "snapshot {} of [{}] at {} by {}@{}",
        id.short(),
        safe(&snapshot.paths.join(" ")),
        local_time(snapshot.time.timestamp),
        safe(&snapshot.username),
        safe(&snapshot.hostname)
    )];
    lines.extend(new.excluded.iter().map(|path| format!("excluding {}", safe(&path.to_string_lossy()))));
    let told = u64::try_from(new.excluded.len()).unwrap_or(u64::MAX);
    if let more @ 1.. = new.excluded_total.saturating_sub(told) {
        lines.push(format!("excluding {more} more"));
    }
    if !new.dropped_tags.is_empty() {
        lines.push(
            "it was made by a run of a cluster; without these files the operator does not take it for a backup of \
             that run any more"
                .to_owned(),
        );
    }
    let (saved, removed) = match new.id {
        Some(new) => (format!("saved new snapshot {}", new.short()), "removed old snapshot"),
        None => ("would save new snapshot".to_owned(), "would remove old snapshot"),
    };
    lines.push(saved);
    lines.extend(how.forget.then(|| format!("{removed} {}", id.short())));
    lines
}

/// A time as people write it, in the local time zone unless it says another.
fn time(text: &str) -> std::result::Result<OffsetTime, String> {
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Ok(OffsetTime::utc(timestamp));
    }
    text.parse::<DateTime>()
        .and_then(|at| at.to_zoned(TimeZone::system()))
        .map(|at| OffsetTime { timestamp: at.timestamp(), offset: at.offset().seconds() })
        .map_err(|_| "write it as \"2026-03-01 14:30:00\"".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn planned(line: &[&str]) -> Result<Rewrite> {
        let line = Line::try_parse_from([&["rewrite"], line].concat()).unwrap();
        plan(&line.args, &|_| None)
    }

    #[test]
    fn there_must_be_something_to_do_and_no_contradiction_in_it() {
        for line in [
            &[][..],
            &["--forget"],
            &["-e", "a", "-i", "b"],
            &["--iexclude", "a", "--iinclude", "b"],
            &["--new-host="],
        ] {
            assert!(planned(line).is_err(), "{line:?}");
        }
        let plan = planned(&["-e", "a", "--iexclude", "B", "--new-time", "2026-03-01T00:00:00Z"]).unwrap();
        let patterns = Patterns { exact: vec!["a".into()], any_case: vec!["B".into()] };
        assert_eq!((plan.files, plan.time.unwrap().offset), (Files::Without(patterns), 0));
        assert!((plan.says_whole)("holdfast.dev/component=volume/data") && !(plan.says_whole)("daily"));
    }
}
