//! `repo recover`: a snapshot of what no snapshot reaches.

use holdfast_engine::lock::LockMode;
use holdfast_engine::repair::{self, Recover, RecoverReport};
use jiff::Timestamp;
use serde_json::json;

use super::session::{Session, hostname, username};
use crate::exit;
use crate::failure::Result;
use crate::text::{counted, safe};

/// Command line of `repo recover`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(session: &Session<'_>, _: &Args) -> Result<u8> {
    let how = Recover {
        time: Timestamp::now(),
        host: hostname(),
        username: username(),
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        program_version: concat!("holdfast ", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    let repository = session.open().await?;
    let report = session
        .locked_as(&repository, LockMode::Exclusive, async |guard| {
            Box::pin(session.bound(repair::recover(&repository, guard, &how, &session.ctx))).await
        })
        .await?;
    session.ui.close();
    if session.ui.json() {
        session.ui.report(&to_json(&report))?;
    } else {
        for line in describe(&report) {
            session.ui.report(&line)?;
        }
    }
    let whole = report.unreadable.is_empty() && report.roots.iter().all(|root| root.losses.is_empty());
    Ok(if whole { exit::OK } else { exit::PARTIAL })
}

fn to_json(report: &RecoverReport) -> String {
    let RecoverReport { roots, unreadable, snapshot } = report;
    json!({
        "message_type": "summary",
        "snapshot_id": snapshot,
        "roots": roots.iter().map(|root| json!({
            "name": root.name,
            "tree": root.tree,
            "losses_total": root.losses.total,
            "losses": root.losses.first.iter().map(|l| json!({
                "path": l.path.to_string_lossy(), "bytes": l.bytes, "what": l.what,
            })).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "unreadable_trees": unreadable,
    })
    .to_string()
}

fn describe(report: &RecoverReport) -> Vec<String> {
    let RecoverReport { roots, unreadable, snapshot } = report;
    let total = u64::try_from(roots.len()).unwrap_or(u64::MAX);
    let mut lines = vec![format!("found {}", counted(total, "unreferenced root", "unreferenced roots"))];
    lines.extend(unreadable.iter().map(|tree| format!("not readable: directory {tree}")));
    for root in roots {
        lines.extend(
            root.losses
                .first
                .iter()
                .map(|loss| format!("/{}{}: {}", root.name, safe(&loss.path.to_string_lossy()), loss.what)),
        );
        if root.losses.more() > 0 {
            let more = counted(root.losses.more(), "more entry lacks", "more entries lack");
            lines.push(format!("/{}: {more} something", root.name));
        }
    }
    lines.push(snapshot.map_or_else(
        || "no snapshot to write".to_owned(),
        |id| format!("saved new snapshot {}", id.short()),
    ));
    lines
}
