//! `repo repair`: mends the index, packs, and snapshots that lost content.

use std::io::Write as _;
use std::path::Path;

use holdfast_api::tags::RunTags;
use holdfast_engine::Id;
use holdfast_engine::lock::LockMode;
use holdfast_engine::repair::{
    Mended, RepairIndex, RepairIndexReport, RepairPacks, RepairPacksReport, RepairSnapshots,
    RepairedSnapshot, repair_index, repair_packs, repair_snapshots,
};
use holdfast_engine::repository::Repository;
use holdfast_engine::store::FileKind;
use serde_json::json;

use super::select::Filter;
use super::session::Session;
use crate::exit;
use crate::failure::{Failure, Result};
use crate::text::{count, counted, safe, size};

/// Command line of `repo repair`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make the index say again what the packs hold
    Index(IndexArgs),
    /// Save what can be read of damaged packs into new ones and remove the old ones
    ///
    /// A copy of each old pack is written to the current directory first. What is lost leaves the index, so that the
    /// next backup stores it anew if it is still there on its old place; `repair snapshots` mends what still lacks
    /// something after that.
    Packs(PacksArgs),
    /// Write damaged snapshots anew without what is lost of them; run `repair index` first
    ///
    /// Files lose the parts that are gone, directories that cannot be read become empty. If the data is still there
    /// on its old place, a backup of it is better: it stores what is missing, and the snapshots are whole again.
    Snapshots(Which),
}

#[derive(Debug, clap::Args)]
struct IndexArgs {
    /// Read the header of every pack instead of believing the index where it fits
    #[arg(long)]
    read_all_packs: bool,
    /// Only add packs that are in no index; removes nothing, and others may work meanwhile
    #[arg(long, conflicts_with = "read_all_packs")]
    add_only: bool,
}

#[derive(Debug, clap::Args)]
struct PacksArgs {
    /// Ids of the packs, or beginnings of them, as `check` names them
    #[arg(value_name = "PACK", required = true)]
    packs: Vec<String>,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
struct Which {
    /// Only these snapshots: ids, beginnings of ids, or `latest`
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Remove the damaged snapshots once the mended ones are written
    #[arg(long)]
    forget: bool,
    #[command(flatten)]
    filter: Filter,
}

pub(super) async fn run(session: &Session<'_>, args: &Args) -> Result<u8> {
    match &args.command {
        Command::Index(args) => index(session, args).await,
        Command::Packs(args) => packs(session, args).await,
        Command::Snapshots(args) => snapshots(session, args).await,
    }
}

async fn index(session: &Session<'_>, args: &IndexArgs) -> Result<u8> {
    let (how, mode) = match (args.add_only, args.read_all_packs) {
        (true, _) => (RepairIndex::AdoptOrphans, LockMode::Shared),
        (false, true) => (RepairIndex::FromScratch, LockMode::Exclusive),
        (false, false) => (RepairIndex::Mend, LockMode::Exclusive),
    };
    let repository = session.open().await?;
    let report = session
        .locked_as(&repository, mode, async |guard| {
            session.bound(repair_index(&repository, guard, how, &session.ctx)).await
        })
        .await?;
    session.ui.close();
    let RepairIndexReport { packs, added, dropped, damaged_index_files, removed_index_files, unreadable } =
        &report;
    if session.ui.json() {
        let summary = json!({
            "message_type": "summary",
            "packs": packs,
            "added_packs": added,
            "dropped_packs": dropped,
            "damaged_index_files": damaged_index_files,
            "removed_index_files": removed_index_files,
            "unreadable_packs": unreadable,
        });
        session.ui.report(&summary.to_string())?;
    } else if report == (RepairIndexReport { packs: *packs, ..RepairIndexReport::default() }) {
        session.ui.report(&format!("the index is right: {} listed", counted(*packs, "pack", "packs")))?;
    } else {
        session.ui.report(&format!(
            "{} added to the index, {} dropped from it, {} index files replaced",
            counted(*added, "pack", "packs"),
            count(*dropped),
            count(*removed_index_files)
        ))?;
        for pack in unreadable {
            let saved = match (pack.saved, pack.lost) {
                (0, 0) => "no index file knew what it holds".to_owned(),
                (saved, lost) => {
                    format!("{saved} of its {} were saved", counted(saved + lost, "blob", "blobs"))
                }
            };
            session.ui.report(&format!("not readable: pack {}: {}; {saved}", pack.id, safe(&pack.reason)))?;
        }
        session.ui.say("`holdfast repo check` tells whether any snapshot lacks something now");
    }
    Ok(if unreadable.is_empty() { exit::OK } else { exit::PARTIAL })
}

async fn packs(session: &Session<'_>, args: &PacksArgs) -> Result<u8> {
    let how = RepairPacks { dry_run: args.dry_run };
    let mode = if args.dry_run { LockMode::Shared } else { LockMode::Exclusive };
    let repository = session.open().await?;
    let report = session
        .locked_as(&repository, mode, async |guard| {
            let mut ids = Vec::with_capacity(args.packs.len());
            for text in &args.packs {
                ids.push(session.bound(repository.find_file(FileKind::Pack, text)).await?);
            }
            ids.sort_unstable();
            ids.dedup();
            if !args.dry_run {
                for id in &ids {
                    keep_copy(session, &repository, id).await?;
                }
            }
            session.bound(repair_packs(&repository, guard, &ids, how, &session.ctx)).await
        })
        .await?;
    session.ui.close();
    for line in if session.ui.json() { packs_json(&report, how) } else { packs_text(&report, how) } {
        session.ui.report(&line)?;
    }
    let whole = report.lost().next().is_none() && report.packs.iter().all(|p| p.left.is_none());
    Ok(if whole { exit::OK } else { exit::PARTIAL })
}

/// Writes the pack as it is to the current directory, as restic does: what cannot be read today may be tomorrow.
async fn keep_copy(session: &Session<'_>, repository: &Repository, id: &Id) -> Result<()> {
    let bytes = session.bound(repository.load_raw(FileKind::Pack, id)).await?;
    let name = format!("pack-{id}");
    let path = Path::new(&name);
    let written = match std::fs::File::create_new(path) {
        // Half a copy would stand in the way of the next try, and be none.
        Ok(mut file) => file
            .write_all(&bytes)
            .and_then(|()| file.sync_all())
            .inspect_err(|_| drop(std::fs::remove_file(path))),
        // Of an earlier run that was broken off.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => match std::fs::read(path) {
            Ok(there) if there == bytes => Ok(()),
            Ok(_) => Err(e),
            Err(e) => Err(e),
        },
        Err(e) => Err(e),
    };
    written.map_err(|e| Failure {
        cause: format!("write a copy of the damaged pack to {name} in the current directory: {e}"),
        advice: Some("nothing was changed; run it in a directory that can be written to".to_owned()),
        kind: "Target",
        code: exit::FATAL,
    })?;
    session.ui.say(format!("a copy of the pack as it was is in ./{name}"));
    Ok(())
}

fn packs_json(report: &RepairPacksReport, how: RepairPacks) -> Vec<String> {
    let pack = |p: &holdfast_engine::repair::RepairedPack| {
        json!({
            "message_type": "pack",
            "pack": p.id,
            "saved_blobs": p.saved,
            "lost_blobs": p.lost,
            "left": p.left,
        })
    };
    let summary = json!({
        "message_type": "summary",
        "dry_run": how.dry_run,
        "packs": report.packs.len(),
        "saved_blobs": report.saved(),
        "lost_blobs": report.lost().count(),
        "removed_index_files": report.removed_index_files,
    });
    report.packs.iter().map(pack).chain([summary]).map(|value| value.to_string()).collect()
}

fn packs_text(report: &RepairPacksReport, how: RepairPacks) -> Vec<String> {
    let would = if how.dry_run { "would be" } else { "were" };
    let mut lines = Vec::new();
    for pack in &report.packs {
        let saved = counted(pack.saved, "blob", "blobs");
        let lost = counted(u64::try_from(pack.lost.len()).unwrap_or(u64::MAX), "blob", "blobs");
        lines.push(format!("pack {}: {saved} {would} saved, {lost} lost", pack.id));
        if let Some(why) = &pack.left {
            lines.push(format!("pack {} stays where it is: {}", pack.id, safe(why)));
        }
    }
    if report.lost().next().is_some() {
        lines.push(
            "back up again, which stores anew what is still there; then `holdfast repo repair snapshots --forget` \
             mends the snapshots that lack something"
                .to_owned(),
        );
    }
    lines
}

async fn snapshots(session: &Session<'_>, args: &Which) -> Result<u8> {
    let how = RepairSnapshots { dry_run: args.dry_run, forget: args.forget, tell_losses: Some(tell_losses) };
    let mode = if args.dry_run { LockMode::Shared } else { LockMode::Exclusive };
    let repository = session.open().await?;
    let mended = session
        .locked_as(&repository, mode, async |guard| {
            let chosen = session.select(&repository, &args.snapshots, &args.filter).await?;
            session.bound(repair_snapshots(&repository, guard, &chosen, how, &session.ctx)).await
        })
        .await?;
    session.ui.close();
    for one in &mended {
        session.ui.report(&if session.ui.json() { to_json(one) } else { describe(one, how) })?;
    }
    if session.ui.json() {
        let summary = json!({"message_type": "summary", "changed_snapshots": mended.len()});
        session.ui.report(&summary.to_string())?;
    } else if mended.is_empty() {
        session.ui.report("no snapshot needs mending")?;
    }
    Ok(exit::OK)
}

/// Counts what is lost with what could not be read, in the tags of a snapshot of a cluster's run: the operator then shows
/// its recovery point as incomplete, also where unreadable files were no matter to the run, and can still restore it.
fn tell_losses(tags: &mut Vec<String>, losses: u64) {
    let Ok(Some(mut run)) = RunTags::parse(tags) else { return };
    let before = run.to_tags();
    tags.retain(|tag| !before.contains(tag));
    run.unreadable = run.unreadable.saturating_add(losses);
    run.ignores_unreadable = false;
    tags.extend(run.to_tags());
}

fn to_json(one: &RepairedSnapshot) -> String {
    let (new, lost) = match one.mended {
        Mended::Rewritten(new) => (new, false),
        Mended::Lost => (None, true),
    };
    json!({
        "message_type": "changed",
        "old_snapshot_id": one.id,
        "new_snapshot_id": new,
        "lost": lost,
        "losses": one.losses.first.iter().map(|l| json!({
            "path": l.path.to_string_lossy(), "bytes": l.bytes, "what": l.what,
        })).collect::<Vec<_>>(),
        "losses_total": one.losses.total,
    })
    .to_string()
}

fn describe(one: &RepairedSnapshot, how: RepairSnapshots) -> String {
    let bytes = one.losses.bytes;
    let losses = counted(one.losses.total, "entry", "entries");
    let id = one.id.short();
    match (one.mended, how.forget) {
        (Mended::Rewritten(Some(new)), true) => {
            format!("snapshot {id} was replaced by {}: {losses} lack {}", new.short(), size(bytes))
        }
        (Mended::Rewritten(Some(new)), false) => format!(
            "snapshot {id} was written anew as {} with the tag repaired: {losses} lack {}",
            new.short(),
            size(bytes)
        ),
        (Mended::Rewritten(None), _) => {
            format!("snapshot {id} would be written anew: {losses} lack {}", size(bytes))
        }
        (Mended::Lost, true) if !how.dry_run => format!("snapshot {id} had nothing left and was removed"),
        (Mended::Lost, _) => format!("snapshot {id} has nothing left; --forget removes it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::origin::tagged;

    #[test]
    fn a_run_is_told_what_its_snapshot_lost_and_nobody_elses_is_touched() {
        let mut tags =
            tagged(&["mine", "holdfast.dev/unreadable=2", "holdfast.dev/on-unreadable=Ignore"]).tags;
        tell_losses(&mut tags, 3);
        let run = RunTags::parse(&tags).unwrap().unwrap();
        assert_eq!((run.unreadable, run.ignores_unreadable), (5, false));
        assert!(tags.contains(&"mine".to_owned()) && tags.len() == 12, "{tags:?}");
        let mut plain = vec!["daily".to_owned()];
        tell_losses(&mut plain, 3);
        assert_eq!(plain, ["daily"]);
    }
}
