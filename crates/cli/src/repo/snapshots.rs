//! `repo snapshots`: what there is to restore.

use holdfast_engine::format::snapshot::Snapshot;
use holdfast_engine::id::Id;
use holdfast_engine::repository::Repository;
use holdfast_engine::retention::{GroupBy, GroupKey, group};
use serde_json::{Value, json};

use super::origin::{Origin, lines};
use super::select::Filter;
use super::session::Session;
use crate::exit;
use crate::failure::{Failure, Result};
use crate::text::{Table, counted, local_time, safe, size};

/// Command line of `repo snapshots`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only these snapshots: ids, beginnings of ids, or `latest`
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    /// Only the newest N of each host and paths
    #[arg(long, value_name = "N")]
    latest: Option<usize>,
    /// In groups of the same host, paths or tags; any of these with commas between
    #[arg(short, long, value_name = "GROUP")]
    group_by: Option<GroupBy>,
    /// Without files and paths
    #[arg(short, long)]
    compact: bool,
    #[command(flatten)]
    filter: Filter,
}

/// The snapshots of a group, or all of them without a key.
type Part = (Option<GroupKey>, Vec<(Id, Snapshot)>);

pub(super) async fn run(session: &Session<'_>, args: &Args) -> Result<u8> {
    let repository = session.open().await?;
    session.reading(&repository, async |_| read(session, &repository, args).await).await
}

async fn read(session: &Session<'_>, repository: &Repository, args: &Args) -> Result<u8> {
    let found = session.select(repository, &args.snapshots, &args.filter).await?;
    session.ui.close();
    let groups: Vec<Part> = match args.group_by {
        Some(by) => group(&found, by).into_iter().map(|g| (Some(g.key), owned(g.snapshots))).collect(),
        None => vec![(None, found.clone())],
    };
    let groups: Vec<Part> = groups
        .into_iter()
        .map(|(key, snapshots)| (key, args.latest.map_or(snapshots.clone(), |n| newest(&snapshots, n))))
        .collect();
    if session.ui.json() {
        return session.ui.print(&json_of(&groups)?.to_string()).map(|()| exit::OK);
    }
    if found.is_empty() {
        let all = if args.filter.is_empty() { "no snapshots yet" } else { "no snapshot matches" };
        session.ui.say(format!("{all} in {}", session.location));
        return Ok(exit::OK);
    }
    let mut gap = "";
    for (key, snapshots) in &groups {
        if let Some(key) = key {
            session.ui.print(&format!("{gap}snapshots of {}:", safe(&key.to_string())))?;
            gap = "\n";
        }
        session.ui.print(table(snapshots, args.compact, session.verbosity > 0).trim_end())?;
    }
    let total: usize = groups.iter().map(|(_, snapshots)| snapshots.len()).sum();
    let total = u64::try_from(total).unwrap_or(u64::MAX);
    session.ui.say(format!("{} (times are local)", counted(total, "snapshot", "snapshots")));
    Ok(exit::OK)
}

fn owned(snapshots: Vec<&(Id, Snapshot)>) -> Vec<(Id, Snapshot)> {
    snapshots.into_iter().cloned().collect()
}

/// The newest of each host and paths, oldest first.
fn newest(snapshots: &[(Id, Snapshot)], count: usize) -> Vec<(Id, Snapshot)> {
    let mut kept: Vec<(Id, Snapshot)> = group(snapshots, GroupBy::default())
        .into_iter()
        .flat_map(|g| {
            let mut of_group = owned(g.snapshots);
            of_group.sort_by_key(|(id, s)| (s.time.timestamp, *id));
            of_group.split_off(of_group.len().saturating_sub(count))
        })
        .collect();
    kept.sort_by_key(|(id, s)| (s.time.timestamp, *id));
    kept
}

/// A list, or with groups a list of them, as restic writes it.
fn json_of(groups: &[Part]) -> Result<Value> {
    let rows = |snapshots: &[(Id, Snapshot)]| {
        snapshots.iter().map(|(id, snapshot)| to_json(id, snapshot)).collect::<Result<Vec<_>>>()
    };
    let mut out = Vec::new();
    for (key, snapshots) in groups {
        match key {
            None => out.extend(rows(snapshots)?),
            Some(key) => out.push(json!({
                "group_key": {
                    "hostname": key.host.clone().unwrap_or_default(),
                    "paths": key.paths,
                    "tags": key.tags,
                },
                "snapshots": rows(snapshots)?,
            })),
        }
    }
    Ok(Value::from(out))
}

/// A snapshot as restic writes it in JSON: its file's fields, and its ids.
pub(super) fn to_json(id: &Id, snapshot: &Snapshot) -> Result<Value> {
    let mut value = serde_json::to_value(snapshot).map_err(|e| Failure {
        cause: format!("write snapshot {id} as JSON: {e}"),
        advice: None,
        kind: "Internal",
        code: exit::FATAL,
    })?;
    if let Value::Object(fields) = &mut value {
        fields.insert("id".to_owned(), json!(id.to_hex()));
        fields.insert("short_id".to_owned(), json!(id.short()));
    }
    Ok(value)
}

/// The table for people. What runs of a cluster have made tells of which run it is, where any does.
fn table(snapshots: &[(Id, Snapshot)], compact: bool, verbose: bool) -> String {
    let read = if verbose { Origin::verbose } else { Origin::of };
    let origins: Vec<Origin> = snapshots.iter().map(|(_, snapshot)| read(snapshot)).collect();
    let with_runs = origins.iter().any(|origin| !origin.run.is_empty());
    let mut heading = vec!["ID", "TIME", "HOST"];
    heading.extend(with_runs.then_some("RUN"));
    // Without paths nothing else tells the volumes of a run apart.
    heading.extend((with_runs && compact).then_some("COMPONENT"));
    heading.push("TAGS");
    heading.extend((!compact).then_some("FILES"));
    heading.push("SIZE");
    heading.extend((!compact).then_some("PATHS"));
    let mut table = Table::new(&heading);
    for ((id, snapshot), origin) in snapshots.iter().zip(&origins) {
        let summary = snapshot.summary.as_ref();
        let mut row = vec![id.short(), local_time(snapshot.time.timestamp), safe(&snapshot.hostname)];
        row.extend(with_runs.then(|| lines(&origin.run)));
        row.extend((with_runs && compact).then(|| safe(&origin.component)));
        row.push(lines(&origin.tags));
        let files = || summary.map(|s| crate::text::count(s.total_files_processed)).unwrap_or_default();
        row.extend((!compact).then(files));
        row.push(summary.map(|s| size(s.total_bytes_processed)).unwrap_or_default());
        row.extend((!compact).then(|| lines(&snapshot.paths)));
        table.row(row);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::origin::tagged;

    fn columns(text: &str) -> Vec<Vec<&str>> {
        text.lines().map(|l| l.split("  ").map(str::trim).filter(|c| !c.is_empty()).collect()).collect()
    }

    #[test]
    fn a_run_is_told_in_a_word_and_its_tags_only_when_they_are_asked_for() {
        let of_run = (Id::default(), tagged(&["release-42"]));
        let text = table(std::slice::from_ref(&of_run), false, false);
        let rows = columns(&text);
        assert_eq!(rows[0], ["ID", "TIME", "HOST", "RUN", "TAGS", "FILES", "SIZE", "PATHS"]);
        assert_eq!(rows[1][2..], ["shop", "daily-1", "release-42", "/data/data"]);
        assert_eq!(rows.len(), 2, "{text}");
        let short = table(std::slice::from_ref(&of_run), true, false);
        assert_eq!(columns(&short)[0], ["ID", "TIME", "HOST", "RUN", "COMPONENT", "TAGS", "SIZE"]);
        assert_eq!(columns(&short)[1][3..], ["daily-1", "volume/data", "release-42"]);
        let all = table(std::slice::from_ref(&of_run), false, true);
        assert_eq!(all.lines().count(), 12, "{all}");
    }

    #[test]
    fn without_runs_the_table_is_as_resticians_know_it() {
        let mut plain = tagged(&[]);
        plain.tags = vec!["one".into(), "two".into()];
        let text = table(&[(Id::default(), plain)], true, false);
        assert_eq!(columns(&text)[0], ["ID", "TIME", "HOST", "TAGS", "SIZE"]);
        assert_eq!(columns(&text)[2], ["two"]);
    }
}
