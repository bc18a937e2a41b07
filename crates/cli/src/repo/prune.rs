//! `repo prune`: frees the space of what no snapshot needs any more.

use std::str::FromStr;

use holdfast_engine::prune::{self, DEFAULT_GRACE, MaxUnused, PruneReport, PruneSpec};
use holdfast_engine::repository::Repository;
use jiff::SignedDuration;
use serde_json::json;

use super::session::Session;
use crate::exit;
use crate::failure::Result;
use crate::text::{counted, duration, local_time, safe, size};
use crate::ui::Work;

/// Command line of `repo prune`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Delete and move nothing, only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    options: Options,
}

/// How to prune; `repo forget --prune` has these too.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Prune")]
pub(super) struct Options {
    /// Unused data that may stay: a size (100M), a share of what remains (5%), or `unlimited`
    #[arg(long, value_name = "LIMIT", default_value = "5%")]
    max_unused: Limit,
    /// Move at most so much data in this run, e.g. 10G
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    max_repack_size: Option<u64>,
    /// Move only packs of directories, which clients keep in their caches
    #[arg(long)]
    repack_cacheable_only: bool,
    /// Put packs together that are smaller than this, e.g. 8M
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    repack_smaller_than: Option<u64>,
    /// Small packs are always put together; accepted for scripts written for restic
    #[arg(long, hide = true)]
    repack_small: bool,
    /// Delete data only when it was found to be unneeded so long ago, e.g. 24h or 7d; longer than any backup takes
    #[arg(long, value_name = "DURATION", value_parser = grace, conflicts_with = "instant")]
    grace: Option<SignedDuration>,
    /// Delete at once, without grace. The repository is locked for everybody meanwhile
    #[arg(long)]
    instant: bool,
    /// Go on although more than half of all data would be deleted
    #[arg(long)]
    allow_large_removal: bool,
}

/// How much unused data may stay.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Limit(MaxUnused);

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "unlimited" {
            return Ok(Self(MaxUnused::Unlimited));
        }
        if let Some(percent) = text.strip_suffix('%') {
            let share = percent.parse::<f64>().ok().filter(|p| (0.0..100.0).contains(p));
            return share
                .map(|p| Self(MaxUnused::Percent(p)))
                .ok_or_else(|| "a share is from 0% to below 100%".to_owned());
        }
        bytes(text).map(|b| Self(MaxUnused::Bytes(b)))
    }
}

/// A size as restic's flags take it: bytes, or with one of K, M, G, T behind.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let (number, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (text.get(..at), 1 << 10),
        Some((at, 'm' | 'M')) => (text.get(..at), 1 << 20),
        Some((at, 'g' | 'G')) => (text.get(..at), 1 << 30),
        Some((at, 't' | 'T')) => (text.get(..at), 1_u64 << 40),
        Some((at, 'b' | 'B')) => (text.get(..at), 1),
        _ => (Some(text), 1),
    };
    number
        .and_then(|n| n.parse::<u64>().ok())
        .and_then(|n| n.checked_mul(unit))
        .ok_or_else(|| "write a number of bytes, or one with K, M, G or T behind it".to_owned())
}

/// A span as our flags take it: `24h`, `7d`.
pub(super) fn grace(text: &str) -> Result<SignedDuration, String> {
    // Days are 24 hours here: no calendar is meant.
    let days = text.strip_suffix('d').and_then(|d| d.parse::<u32>().ok());
    let span = match days {
        Some(days) => SignedDuration::from_hours(i64::from(days).saturating_mul(24)),
        None => text.parse::<SignedDuration>().map_err(|e| format!("{e}; write e.g. 24h or 7d"))?,
    };
    if span < SignedDuration::ZERO { Err("it must not be negative".to_owned()) } else { Ok(span) }
}

impl Options {
    /// What the engine is told.
    pub(super) fn spec(&self, dry_run: bool) -> PruneSpec {
        PruneSpec {
            dry_run,
            max_unused: self.max_unused.0,
            max_repack: self.max_repack_size,
            repack_below: self.repack_smaller_than,
            trees_only: self.repack_cacheable_only,
            grace: self.grace.unwrap_or(DEFAULT_GRACE),
            instant: self.instant,
            allow_large: self.allow_large_removal,
            program: concat!("holdfast ", env!("CARGO_PKG_VERSION")).to_owned(),
            ..PruneSpec::default()
        }
    }
}

pub(super) async fn run(session: &Session<'_>, args: &Args) -> Result<u8> {
    let no_lock = session.no_lock(args.dry_run)?;
    let repository = session.open().await?;
    perform(session, &repository, &PruneSpec { no_lock, ..args.options.spec(args.dry_run) }).await
}

/// Prunes and says what came of it.
pub(super) async fn perform(session: &Session<'_>, repository: &Repository, spec: &PruneSpec) -> Result<u8> {
    session.ui.begin(Work::Other);
    let locking = session.locking();
    let work = Box::pin(prune::prune(repository, &locking, spec, &session.ctx));
    let report = session.bound(work).await?;
    session.ui.close();
    if session.ui.json() {
        session.ui.report(&summary(&report).to_string())?;
    } else {
        session.ui.report(&describe(&report, spec))?;
    }
    let whole = report.postponed.is_none() && report.damaged.is_empty() && report.no_room.is_none();
    Ok(if whole { exit::OK } else { exit::PARTIAL })
}

/// restic's summary, and under `holdfast` what it has no words for.
fn summary(report: &PruneReport) -> serde_json::Value {
    let t = &report.totals;
    let total_blobs = sum(&[t.used_blobs, t.duplicate_blobs, t.unused_blobs]);
    let total_bytes = sum(&[t.used_bytes, t.duplicate_bytes, t.unused_bytes, t.unindexed_bytes]);
    let removed_blobs = sum(&[t.remove_blobs, t.repack_removed_blobs]);
    let removed_bytes = sum(&[t.remove_bytes, t.repack_removed_bytes, t.unindexed_bytes]);
    let pairs = |list: &[(holdfast_engine::Id, String)]| -> serde_json::Value {
        list.iter().map(|(id, why)| json!({"pack": id.to_hex(), "reason": why})).collect()
    };
    json!({
        "message_type": "summary",
        "blobs": {
            "used": t.used_blobs,
            "duplicate": t.duplicate_blobs,
            "unused": t.unused_blobs,
            "total": total_blobs,
            "repack": t.repack_blobs,
            "repack_remove": t.repack_removed_blobs,
            "remove": t.remove_blobs,
            "remove_total": removed_blobs,
            "remaining": total_blobs.saturating_sub(removed_blobs),
        },
        "bytes": {
            "used": t.used_bytes,
            "duplicate": t.duplicate_bytes,
            "unused": t.unused_bytes,
            "unreferenced": t.unindexed_bytes,
            "uncompressed": 0,
            "total": total_bytes,
            "repack": t.repack_bytes,
            "repack_remove": t.repack_removed_bytes,
            "remove": t.remove_bytes,
            "remove_total": removed_bytes,
            "remaining": total_bytes.saturating_sub(removed_bytes),
            "remaining_unused": sum(&[t.duplicate_bytes, t.unused_bytes])
                .saturating_sub(sum(&[t.remove_bytes, t.repack_removed_bytes])),
        },
        "packfiles": {
            "used": t.packs_used,
            "unused": t.packs_unused,
            "partly_used": t.packs_partly_used,
            "unreferenced": t.packs_unindexed,
            "total": sum(&[t.packs_used, t.packs_unused, t.packs_partly_used, t.packs_unindexed]),
            "keep": t.keep_packs,
            "repack": t.repack_packs,
            "remove": t.remove_packs,
            "remove_total": sum(&[t.remove_packs, t.packs_unindexed]),
        },
        "holdfast": {
            "moved_bytes": report.moved_bytes,
            "marked_packs": report.marked_packs,
            "marked_bytes": report.marked_bytes,
            "deleted_packs": report.deleted_packs,
            "deleted_bytes": report.deleted_bytes,
            "due_packs": report.due_packs,
            "due_bytes": report.due_bytes,
            "waiting_packs": report.waiting_packs,
            "waiting_bytes": report.waiting_bytes,
            "unmarked_packs": report.unmarked_packs,
            "retained": pairs(&report.retained),
            "retained_bytes": report.retained_bytes,
            "damaged": pairs(&report.damaged),
            "next_sweep": report.next_sweep.map(|at| at.to_string()),
            "no_room": report.no_room,
            "postponed": report.postponed,
            "total_duration": report.duration.as_secs_f64(),
        },
    })
}

/// No more than can be said: the sizes are what a store claims.
fn sum(counts: &[u64]) -> u64 {
    counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
}

fn packs(n: u64) -> String {
    counted(n, "pack", "packs")
}

fn describe(report: &PruneReport, spec: &PruneSpec) -> String {
    let t = &report.totals;
    let would = if spec.dry_run { "would be " } else { "" };
    let mut lines = vec![
        format!("needed: {} in {}", size(t.used_bytes), packs(sum(&[t.packs_used, t.packs_partly_used]))),
        format!("unneeded: {}", size(sum(&[t.unused_bytes, t.duplicate_bytes, t.unindexed_bytes]))),
    ];
    if t.repack_packs > 0 {
        lines.push(format!(
            "{would}moved out of {}: {}",
            packs(t.repack_packs),
            size(t.repack_bytes.saturating_sub(t.repack_removed_bytes)),
        ));
    }
    if report.marked_packs > 0 && (spec.dry_run || !spec.instant) {
        lines.push(format!(
            "{would}marked for deletion: {} of {}",
            packs(report.marked_packs),
            size(report.marked_bytes)
        ));
    }
    if spec.dry_run {
        if report.due_packs > 0 {
            lines.push(format!(
                "would be deleted now: {} of {}",
                packs(report.due_packs),
                size(report.due_bytes)
            ));
        }
    } else {
        lines.push(format!("freed: {} in {}", size(report.deleted_bytes), packs(report.deleted_packs)));
    }
    if report.unmarked_packs > 0 {
        lines.push(format!("needed again: {}, whose mark was taken away", packs(report.unmarked_packs)));
    }
    if report.waiting_packs > 0 {
        lines.push(format!(
            "waiting for their time: {} of {}",
            packs(report.waiting_packs),
            size(report.waiting_bytes)
        ));
    }
    if let Some(at) = report.next_sweep {
        lines.push(format!(
            "a prune after {} deletes what is marked; until then `holdfast repo unforget` brings snapshots back",
            local_time(at)
        ));
    }
    for (id, why) in report.retained.iter().take(3) {
        lines.push(format!("the store keeps pack {}: {}", id.short(), safe(why)));
    }
    if !report.retained.is_empty() {
        lines.push(format!(
            "kept by the store: {} of {}",
            packs(report.retained.len() as u64),
            size(report.retained_bytes)
        ));
    }
    for (id, why) in &report.damaged {
        lines.push(format!(
            "DAMAGED, left as it is: pack {}: {}; run `holdfast repo check`",
            id.short(),
            safe(why)
        ));
    }
    if let Some(why) = &report.no_room {
        let waits = if spec.instant { "" } else { " when its time has come (--instant: now)" };
        let said = if t.repack_packs > 0 {
            format!(
                "there is no room to move out of {} what is needed, so only what nothing needs goes{waits}",
                packs(t.repack_packs)
            )
        } else {
            "there is no room to mark what nothing needs any more, so only what was marked before goes"
                .to_owned()
        };
        lines.push(format!("{said}; prune again after that: {}", safe(why)));
    }
    if let Some(why) = &report.postponed {
        lines.push(format!("{} due but not deleted: {}", packs(report.due_packs), safe(why)));
    }
    lines.push(format!("done in {}", duration(report.duration)));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_for_restic() {
        let parse = |t: &str| t.parse::<Limit>().ok().map(|l| l.0);
        assert_eq!(parse("5%"), Some(MaxUnused::Percent(5.0)));
        assert_eq!(parse("unlimited"), Some(MaxUnused::Unlimited));
        assert_eq!(parse("0"), Some(MaxUnused::Bytes(0)));
        assert_eq!(parse("2g"), Some(MaxUnused::Bytes(2 << 30)));
        for bad in ["", "100%", "-1%", "nan%", "5x", "G", "99999999T"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_that_a_store_makes_up_are_told() {
        let mut report = PruneReport::default();
        let huge = u64::MAX - 1;
        (report.totals.unindexed_bytes, report.totals.unused_bytes, report.totals.used_bytes) =
            (huge, huge, huge);
        assert_eq!(summary(&report)["bytes"]["total"], json!(u64::MAX));
        assert!(describe(&report, &PruneSpec::default()).contains("unneeded: "));
    }

    #[test]
    fn a_grace_is_hours_or_days() {
        assert_eq!(grace("7d"), Ok(SignedDuration::from_hours(168)));
        assert_eq!(grace("36h"), Ok(SignedDuration::from_hours(36)));
        assert!(grace("-1h").is_err() && grace("soon").is_err());
    }
}
