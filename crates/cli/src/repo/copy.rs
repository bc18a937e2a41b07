//! `repo copy`: snapshots of another repository into this one.

use holdfast_engine::copy::{self, CopyReport};
use serde_json::json;

use super::access::{Access, SourceAccess, process_environment};
use super::select::Filter;
use super::session::Session;
use crate::exit;
use crate::failure::{Failure, Result};
use crate::text::{counted, size};

/// Command line of `repo copy`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only these snapshots of the source: ids, beginnings of ids, or `latest`
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    #[command(flatten)]
    from: SourceAccess,
    #[command(flatten)]
    filter: Filter,
}

pub(super) async fn run(session: &Session<'_>, access: &Access, args: &Args) -> Result<u8> {
    let from = session.beside(args.from.resolve(access, &process_environment)?);
    let source = from.open().await?;
    let target = session.open().await?;
    let report = from
        .reading(&source, async |_| {
            let snapshots = from.select(&source, &args.snapshots, &args.filter).await?;
            if snapshots.is_empty() && !args.filter.is_empty() {
                return Err(Failure::usage(
                    format!("no snapshot in {} matches", from.location),
                    "`holdfast repo snapshots` shows what is there",
                ));
            }
            session
                .locked(&target, async |guard| {
                    session
                        .bound(Box::pin(copy::copy(&source, &target, guard, &snapshots, &session.ctx)))
                        .await
                })
                .await
        })
        .await?;
    session.ui.close();
    tell(session, &report)?;
    Ok(if report.failed.is_empty() { exit::OK } else { exit::PARTIAL })
}

fn tell(session: &Session<'_>, report: &CopyReport) -> Result<()> {
    let CopyReport { copied, present, failed, blobs, bytes } = report;
    if session.ui.json() {
        for one in copied {
            let line = json!({
                "message_type": "copied",
                "source_snapshot_id": one.source,
                "target_snapshot_id": one.target,
            });
            session.ui.report(&line.to_string())?;
        }
        let summary = json!({
            "message_type": "summary",
            "copied_snapshots": copied.len(),
            "skipped_snapshots": present.len(),
            "failed_snapshots": failed.iter().map(|f| f.source).collect::<Vec<_>>(),
            "blobs_added": blobs,
            "data_added_packed": bytes,
        });
        return session.ui.report(&summary.to_string());
    }
    for one in present {
        session.ui.report(&format!(
            "snapshot {} is there already as {}",
            one.source.short(),
            one.target.short()
        ))?;
    }
    for one in copied {
        session.ui.report(&format!("snapshot {} copied as {}", one.source.short(), one.target.short()))?;
    }
    let total = |n: usize| counted(u64::try_from(n).unwrap_or(u64::MAX), "snapshot", "snapshots");
    session.ui.report(&format!("copied {}, {} added", total(copied.len()), size(*bytes)))?;
    if !failed.is_empty() {
        let names: Vec<String> = failed.iter().map(|f| f.source.short()).collect();
        session
            .ui
            .report(&format!("not copied, for they are damaged in the source: {}", names.join(", ")))?;
    }
    Ok(())
}
