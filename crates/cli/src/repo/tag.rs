//! `repo tag`: changes the tags of snapshots.

use holdfast_engine::tag::{TagChange, change_tags};
use serde_json::json;

use super::select::{Filter, split_tags};
use super::session::Session;
use crate::exit;
use crate::failure::{Failure, Result};
use crate::text::counted;

/// Command line of `repo tag`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only these snapshots: ids, beginnings of ids, or `latest`; all that the filters let through when absent
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    /// These tags instead of those that are there; '' for none
    #[arg(long, value_name = "TAG[,TAG…]", conflicts_with_all = ["add", "remove"])]
    set: Vec<String>,
    /// Add these tags
    #[arg(long, value_name = "TAG[,TAG…]")]
    add: Vec<String>,
    /// Remove these tags
    #[arg(long, value_name = "TAG[,TAG…]")]
    remove: Vec<String>,
    #[command(flatten)]
    filter: Filter,
}

pub(super) async fn run(session: &Session<'_>, args: &Args) -> Result<u8> {
    let change = match (args.set.is_empty(), args.add.is_empty() && args.remove.is_empty()) {
        (false, _) => TagChange::Set(split_tags(&args.set)),
        (true, false) => TagChange::Edit { add: split_tags(&args.add), remove: split_tags(&args.remove) },
        (true, true) => return Err(Failure::usage("nothing to do", "give --set, --add or --remove")),
    };
    let repository = session.open().await?;
    let mut changed = Vec::new();
    session
        .locked(&repository, async |guard| {
            let chosen = session.select(&repository, &args.snapshots, &args.filter).await?;
            let there = session.bound(repository.list_snapshots()).await?.readable;
            for (id, snapshot) in chosen {
                let new = session
                    .bound(change_tags(&repository, guard, id, &snapshot, &change, &there, &session.ctx))
                    .await?;
                changed.extend(new.map(|new| (id, new)));
            }
            Ok(())
        })
        .await?;
    session.ui.close();
    if session.ui.json() {
        for (old, new) in &changed {
            let line = json!({"message_type": "changed", "old_snapshot_id": old, "new_snapshot_id": new});
            session.ui.report(&line.to_string())?;
        }
        let summary = json!({"message_type": "summary", "changed_snapshots": changed.len()});
        session.ui.report(&summary.to_string())?;
    } else {
        for (old, new) in &changed {
            session.ui.report(&format!("snapshot {} is now {}", old.short(), new.short()))?;
        }
        let total = u64::try_from(changed.len()).unwrap_or(u64::MAX);
        session.ui.report(&format!("modified {}", counted(total, "snapshot", "snapshots")))?;
    }
    Ok(exit::OK)
}
