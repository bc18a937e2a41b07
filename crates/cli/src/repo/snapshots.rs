//! `repo snapshots`: what there is to restore.

use holdfast_engine::format::snapshot::Snapshot;
use holdfast_engine::id::Id;
use holdfast_engine::retention::{GroupBy, GroupKey, group};
use serde_json::{Value, json};

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
    /// Without tags on lines of their own, files and paths
    #[arg(short, long)]
    compact: bool,
    #[command(flatten)]
    filter: Filter,
}

/// The snapshots of a group, or all of them without a key.
type Part = (Option<GroupKey>, Vec<(Id, Snapshot)>);

pub(super) async fn run(session: &Session<'_>, args: &Args) -> Result<u8> {
    let repository = session.open().await?;
    let found = session.select(&repository, &args.snapshots, &args.filter).await?;
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
        let table = if args.compact { compact(snapshots) } else { table(snapshots) };
        session.ui.print(table.trim_end())?;
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

fn compact(snapshots: &[(Id, Snapshot)]) -> String {
    let mut table = Table::new(&["ID", "TIME", "HOST", "TAGS", "SIZE"]);
    for (id, snapshot) in snapshots {
        table.row(vec![
            id.short(),
            local_time(snapshot.time.timestamp),
            safe(&snapshot.hostname),
            safe(&snapshot.tags.join(",")),
            snapshot.summary.as_ref().map(|s| size(s.total_bytes_processed)).unwrap_or_default(),
        ]);
    }
    table.render()
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

fn table(snapshots: &[(Id, Snapshot)]) -> String {
    let mut table = Table::new(&["ID", "TIME", "HOST", "TAGS", "FILES", "SIZE", "PATHS"]);
    for (id, snapshot) in snapshots {
        let lines = |values: &[String]| values.iter().map(|v| safe(v)).collect::<Vec<_>>().join("\n");
        let summary = snapshot.summary.as_ref();
        table.row(vec![
            id.short(),
            local_time(snapshot.time.timestamp),
            safe(&snapshot.hostname),
            lines(&snapshot.tags),
            summary.map(|s| crate::text::count(s.total_files_processed)).unwrap_or_default(),
            summary.map(|s| size(s.total_bytes_processed)).unwrap_or_default(),
            lines(&snapshot.paths),
        ]);
    }
    table.render()
}
