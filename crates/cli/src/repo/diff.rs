//! `repo diff`: what differs between two snapshots.

use std::path::Path;

use holdfast_engine::browse;
use holdfast_engine::diff::{Change, DiffReport, OneSide, diff};
use holdfast_engine::error::{Error, ErrorKind};
use holdfast_engine::repository::{Repository, SnapshotFilter};
use serde_json::{Value, json};

use super::select::Selector;
use super::session::Session;
use crate::exit;
use crate::failure::{Failure, Result};
use crate::text::{count, safe, size};

/// Command line of `repo diff`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The earlier snapshot: an id, the beginning of one, or `latest`; with :PATH only that directory
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    first: Selector,
    /// The later one
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    second: Selector,
    /// Also show what differs in metadata alone
    #[arg(long)]
    metadata: bool,
}

pub(super) async fn run(session: &Session<'_>, args: &Args) -> Result<u8> {
    let repository = session.open().await?;
    session.reading(&repository, async |_| read(session, &repository, args).await).await
}

async fn read(session: &Session<'_>, repository: &Repository, args: &Args) -> Result<u8> {
    let any = SnapshotFilter::default();
    let mut snapshots = Vec::new();
    for selector in [&args.first, &args.second] {
        snapshots.push(session.bound(repository.find_snapshot(&selector.snapshot, &any)).await?);
    }
    let index = session.bound(repository.load_index(&session.ctx)).await?;
    let mut trees = Vec::new();
    for (selector, (_, snapshot)) in [&args.first, &args.second].into_iter().zip(&snapshots) {
        let path = Path::new(selector.path.as_deref().unwrap_or("/"));
        trees.push(session.bound(browse::subtree(repository, &index, snapshot, path)).await?);
    }
    let [left, right] = trees[..] else { return Ok(exit::FATAL) };
    session.ui.close();
    if !session.ui.json() {
        session.ui.say(format!("comparing snapshot {} to {}", args.first, args.second));
    }
    // The engine takes its own errors only; one of the output's travels beside them.
    let mut broken: Option<Failure> = None;
    let comparing = diff(repository, &index, (left, right), args.metadata, &session.ctx, |change| {
        session.ui.print(&line(change, session.ui.json())).map_err(|failure| {
            broken = Some(failure);
            Error::new(ErrorKind::Cancelled, "the output was closed")
        })
    });
    let result = session.bound(comparing).await;
    if let Some(failure) = broken {
        return Err(failure);
    }
    let report = result?;
    if session.ui.json() {
        session.ui.print(&to_json(&report, args).to_string())?;
    } else {
        session.ui.print(&describe(&report))?;
    }
    Ok(exit::OK)
}

fn line(change: &Change, json: bool) -> String {
    let slash = if change.is_dir { "/" } else { "" };
    let path = format!("{}{slash}", change.path.to_string_lossy());
    if json {
        json!({"message_type": "change", "path": path, "modifier": change.letters}).to_string()
    } else {
        format!("{:<5}{}", change.letters, safe(&path))
    }
}

fn to_json(report: &DiffReport, args: &Args) -> Value {
    let side = |side: &OneSide| {
        json!({
            "files": side.files,
            "dirs": side.dirs,
            "others": side.others,
            "data_blobs": side.data_blobs,
            "tree_blobs": side.tree_blobs,
            "bytes": side.bytes,
        })
    };
    json!({
        "message_type": "statistics",
        "source_snapshot": args.first.to_string(),
        "target_snapshot": args.second.to_string(),
        "changed_files": report.changed_files,
        "added": side(&report.added),
        "removed": side(&report.removed),
    })
}

fn describe(report: &DiffReport) -> String {
    let DiffReport { changed_files, added, removed } = report;
    let row = |name: &str, new: u64, gone: u64| {
        format!("{:<12} {:>8} new, {:>8} removed", format!("{name}:"), count(new), count(gone))
    };
    [
        String::new(),
        format!("{}, {:>8} changed", row("Files", added.files, removed.files), count(*changed_files)),
        row("Dirs", added.dirs, removed.dirs),
        row("Others", added.others, removed.others),
        row("Data Blobs", added.data_blobs, removed.data_blobs),
        row("Tree Blobs", added.tree_blobs, removed.tree_blobs),
        format!("  Added:   {}", size(added.bytes)),
        format!("  Removed: {}", size(removed.bytes)),
    ]
    .join("\n")
}
