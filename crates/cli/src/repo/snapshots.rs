//! `repo snapshots`: what there is to restore.

use holdfast_engine::format::snapshot::Snapshot;
use holdfast_engine::id::Id;
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
    #[command(flatten)]
    filter: Filter,
}

pub(super) async fn run(session: &Session<'_>, args: &Args) -> Result<u8> {
    let repository = session.open().await?;
    let filter = args.filter.to_engine();
    let mut found = Vec::new();
    if args.snapshots.is_empty() {
        found = session.bound(repository.snapshots()).await?;
        found.retain(|(_, snapshot)| filter.matches(snapshot));
    }
    for name in &args.snapshots {
        found.push(session.bound(repository.find_snapshot(name, &filter)).await?);
    }
    session.ui.close();
    if session.ui.json() {
        let rows = found.iter().map(|(id, snapshot)| to_json(id, snapshot)).collect::<Result<Vec<_>>>()?;
        session.ui.print(&Value::from(rows).to_string())?;
    } else if found.is_empty() {
        let all = if args.filter.is_empty() { "no snapshots yet" } else { "no snapshot matches" };
        session.ui.say(format!("{all} in {}", session.location));
    } else {
        session.ui.print(table(&found).trim_end())?;
        let total = u64::try_from(found.len()).unwrap_or(u64::MAX);
        session.ui.say(format!("{} (times are local)", counted(total, "snapshot", "snapshots")));
    }
    Ok(exit::OK)
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
