//! `repo unreadable`: what the backup that made a snapshot could not read.

use holdfast_engine::repository::Repository;
use serde_json::json;

use super::select::{Filter, Selector};
use super::session::Session;
use crate::exit;
use crate::failure::Result;
use crate::text::{counted, safe};

/// Command line of `repo unreadable`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Id of the snapshot, the beginning of one, or `latest`
    #[arg(value_name = "SNAPSHOT")]
    snapshot: Selector,
    #[command(flatten)]
    filter: Filter,
}

pub(super) async fn run(session: &Session<'_>, args: &Args) -> Result<u8> {
    let repository = session.open().await?;
    session.reading(&repository, async |_| read(session, &repository, args).await).await
}

async fn read(session: &Session<'_>, repository: &Repository, args: &Args) -> Result<u8> {
    let filter = args.filter.to_engine();
    let (id, snapshot) = session.bound(repository.find_snapshot(&args.snapshot.snapshot, &filter)).await?;
    let list = session.bound(repository.unreadable(&id, &snapshot)).await?;
    session.ui.close();
    let Some(list) = list else {
        session.ui.say(format!("no list of unreadable files is kept for snapshot {}", id.short()));
        return Ok(exit::OK);
    };
    for entry in &list.unreadable {
        let line = if session.ui.json() {
            json!(entry).to_string()
        } else {
            format!("{} {}: {}", entry.action, safe(&entry.path), safe(&entry.error))
        };
        session.ui.print(&line)?;
    }
    let untold = list.total.saturating_sub(list.unreadable.len() as u64);
    if untold > 0 {
        session.ui.say(format!("{} more were too many to keep", counted(untold, "entry", "entries")));
    }
    Ok(exit::OK)
}
