//! `repo find`: in which snapshots a file is.

use std::path::Path;

use holdfast_engine::browse::{FindSpec, Finder};
use holdfast_engine::format::node::Node;
use holdfast_engine::format::snapshot::Snapshot;
use holdfast_engine::format::time::Time;
use holdfast_engine::repository::Repository;
use holdfast_engine::{Error, ErrorKind, Id};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::find_objects;
use super::ls::long;
use super::select::Filter;
use super::session::Session;
use crate::exit;
use crate::failure::{Failure, Result};
use crate::text::{local_time, mode, safe};

/// Command line of `repo find`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names or paths to look for, with * ? [a-z] and ** (any depth); or ids, with --blob, --tree or --pack
    #[arg(required = true, value_name = "PATTERN")]
    patterns: Vec<String>,
    /// Only in this snapshot: an id, the beginning of one, or `latest` (may be given several times)
    #[arg(short, long, value_name = "SNAPSHOT")]
    snapshot: Vec<String>,
    /// Capital and small letters are the same
    #[arg(short, long)]
    ignore_case: bool,
    /// Only what was changed at this time or later, e.g. 2026-03-01 or "2026-03-01 14:30"
    #[arg(short = 'O', long, value_name = "TIME", value_parser = time)]
    oldest: Option<Time>,
    /// Only what was changed at this time or before
    #[arg(short = 'N', long, value_name = "TIME", value_parser = time)]
    newest: Option<Time>,
    /// Show mode, owner, size and time
    #[arg(short, long)]
    long: bool,
    /// Oldest snapshot first
    #[arg(short = 'R', long)]
    reverse: bool,
    #[command(flatten)]
    objects: find_objects::Flags,
    #[command(flatten)]
    filter: Filter,
}

pub(super) async fn run(session: &Session<'_>, args: &Args) -> Result<u8> {
    let repository = session.open().await?;
    session.reading(&repository, async |_| read(session, &repository, args).await).await
}

async fn read(session: &Session<'_>, repository: &Repository, args: &Args) -> Result<u8> {
    let mut snapshots = session.select(repository, &args.snapshot, &args.filter).await?;
    if !args.reverse {
        snapshots.reverse();
    }
    let index = session.bound(repository.load_index(&session.ctx)).await?;
    if let Some(spec) = args.objects.spec(&args.patterns) {
        return find_objects::run(session, repository, &index, &snapshots, &spec, &args.objects).await;
    }
    let spec = FindSpec {
        patterns: args.patterns.clone(),
        ignore_case: args.ignore_case,
        oldest: args.oldest,
        newest: args.newest,
    };
    let finder = Finder::new(repository, &index, &spec)?;
    let mut printed = Printed { session, long: args.long, snapshots: 0 };
    for (id, snapshot) in &snapshots {
        printed.snapshot(&finder, id, snapshot).await?;
    }
    session.ui.close();
    if session.ui.json() {
        session.ui.print(if printed.snapshots == 0 { "[]" } else { "]" })?;
    } else if printed.snapshots == 0 {
        session.ui.say(format!("nothing found in {} snapshots", snapshots.len()));
    }
    Ok(exit::OK)
}

/// What is printed of the finds, one after the other: a snapshot may have more of them than any memory holds.
struct Printed<'s> {
    session: &'s Session<'s>,
    long: bool,
    /// In how many snapshots something was found.
    snapshots: usize,
}

impl Printed<'_> {
    async fn snapshot(&mut self, finder: &Finder, id: &Id, snapshot: &Snapshot) -> Result<()> {
        let (session, long_form, before) = (self.session, self.long, self.snapshots);
        let mut hits = 0_u64;
        // The engine takes its own errors only; one of the output's travels beside them.
        let mut broken: Option<Failure> = None;
        let mut each = |path: &Path, node: &Node| {
            hits += 1;
            let told = if session.ui.json() {
                to_json(&path.to_string_lossy(), node).map(|row| match (hits, before) {
                    (1, 0) => format!("[{{\"matches\":[{row}"),
                    (1, _) => format!(",{{\"matches\":[{row}"),
                    _ => format!(",{row}"),
                })
            } else {
                let line = if long_form { long(path, node) } else { safe(&path.to_string_lossy()) };
                Ok(if hits == 1 { format!("{}\n{line}", head(id, snapshot, before > 0)) } else { line })
            };
            let print = |told: &String| {
                // One line, as of restic, whose readers go by lines.
                if session.ui.json() { session.ui.print_piece(told) } else { session.ui.print(told) }
            };
            told.and_then(|told| print(&told)).map_err(|failure| {
                broken = Some(failure);
                Error::new(ErrorKind::Cancelled, "the output was closed")
            })
        };
        let result = session.bound(finder.find(snapshot, &session.ctx, &mut each)).await;
        if let Some(failure) = broken {
            return Err(failure);
        }
        result?;
        if hits > 0 {
            self.snapshots += 1;
            if session.ui.json() {
                session.ui.print_piece(&format!("],\"hits\":{hits},\"snapshot\":{}}}", json!(id)))?;
            }
        }
        Ok(())
    }
}

/// The line above what was found in a snapshot.
fn head(id: &Id, snapshot: &Snapshot, after_another: bool) -> String {
    let gap = if after_another { "\n" } else { "" };
    let time = local_time(snapshot.time.timestamp);
    format!("{gap}Found matching entries in snapshot {} from {time}", id.short())
}

/// An entry as restic's `find --json` writes it: the node without name and content.
fn to_json(path: &str, node: &Node) -> Result<Value> {
    let mut json = Vec::new();
    node.write_json(&mut json);
    let mut value: Value = serde_json::from_slice(&json).map_err(|e| Failure {
        cause: format!("write {path} as JSON: {e}"),
        advice: None,
        kind: "Internal",
        code: exit::FATAL,
    })?;
    if let Value::Object(fields) = &mut value {
        for hidden in ["name", "extended_attributes", "device", "content", "subtree"] {
            fields.remove(hidden);
        }
        fields.insert("path".to_owned(), json!(path));
        fields.insert("permissions".to_owned(), json!(mode(node.mode)));
    }
    Ok(value)
}

/// A time as people write it, in the local time zone unless it says another.
fn time(text: &str) -> Result<Time, String> {
    let at = text.parse::<Timestamp>().or_else(|_| {
        text.parse::<DateTime>().and_then(|at| at.to_zoned(TimeZone::system())).map(|at| at.timestamp())
    });
    at.map(Time::from).map_err(|_| "write it as 2026-03-01 or \"2026-03-01 14:30:00\"".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_people_do() {
        assert_eq!(time("1970-01-01T00:00:05Z").unwrap(), Time::new(5, 0));
        let day = time("2026-03-01").unwrap();
        assert_eq!(time("2026-03-01 00:01").unwrap().seconds - day.seconds, 60);
        assert!(time("yesterday").is_err());
    }
}
