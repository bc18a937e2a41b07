//! `repo protect`: nobody deletes what the snapshots need before a date.

use holdfast_engine::protect::{ProtectReport, ProtectSpec, protect};
use holdfast_engine::store::RetentionMode;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::prune;
use super::session::Session;
use crate::exit;
use crate::failure::Result;
use crate::text::{counted, local_time, safe, size};
use crate::ui::Work;

/// Command line of `repo protect`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// For how long from now, e.g. 30d or 72h. Run it again before half of that is over
    #[arg(long, value_name = "DURATION", value_parser = prune::grace)]
    retain: SignedDuration,
    /// `governance`: who has the special right can take it back; `compliance`: nobody can. By default what the bucket
    /// does by itself, else governance
    #[arg(long, value_name = "MODE")]
    mode: Option<RetentionMode>,
    /// Protect nothing, only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
}

pub(super) async fn run(session: &Session<'_>, args: &Args) -> Result<u8> {
    let repository = session.open().await?;
    session.ui.begin(Work::Other);
    let spec =
        ProtectSpec { retain: args.retain, mode: args.mode, dry_run: args.dry_run, now: Timestamp::now() };
    let report = session
        .locked(&repository, async |guard| {
            session.bound(protect(&repository, guard, &spec, &session.ctx)).await
        })
        .await?;
    session.ui.close();
    let text = if session.ui.json() { summary(&report).to_string() } else { describe(&report, args.dry_run) };
    session.ui.report(&text)?;
    Ok(if report.failed.is_empty() { exit::OK } else { exit::PARTIAL })
}

fn summary(report: &ProtectReport) -> serde_json::Value {
    let kinds: serde_json::Map<_, _> = report
        .kinds
        .iter()
        .map(|(kind, p)| {
            let value = json!({"extended": p.extended, "kept": p.kept, "bytes": p.bytes});
            (kind.directory().to_owned(), value)
        })
        .collect();
    let failed: Vec<_> =
        report.failed.iter().map(|(name, why)| json!({"file": name.to_string(), "reason": why})).collect();
    let total = report.total();
    json!({
        "message_type": "summary",
        "mode": report.mode.as_str().to_lowercase(),
        "until": report.until.to_string(),
        "again_before": report.again.to_string(),
        "extended": total.extended,
        "kept": total.kept,
        "bytes": total.bytes,
        "kinds": kinds,
        "failed": failed,
    })
}

fn describe(report: &ProtectReport, dry_run: bool) -> String {
    let total = report.total();
    let mut lines = vec![format!(
        "{}protected until {} ({}): {}",
        if dry_run { "would be " } else { "" },
        local_time(report.until),
        report.mode.as_str().to_lowercase(),
        counted(total.extended, "file", "files"),
    )];
    lines.push(format!("protected for long enough already: {}", counted(total.kept, "file", "files")));
    lines.push(format!("in all: {}", size(total.bytes)));
    for (name, why) in report.failed.iter().take(3) {
        lines.push(format!("NOT protected: {name}: {}", safe(why)));
    }
    if report.failed.is_empty() {
        lines.push(format!("run it again before {}", local_time(report.again)));
    } else {
        lines.push(format!("not protected: {}", counted(report.failed.len() as u64, "file", "files")));
    }
    lines.join("\n")
}
