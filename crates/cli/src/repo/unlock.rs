//! `repo unlock`: removes locks whose holders are gone.

use holdfast_engine::lock::Unlock;
use holdfast_engine::store::FileKind;
use serde_json::json;

use super::session::Session;
use crate::exit;
use crate::failure::Result;
use crate::text::{counted, local_time, safe};

/// Command line of `repo unlock`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Remove all locks, also those of processes that may still be at work
    #[arg(long)]
    remove_all: bool,
}

pub(super) async fn run(session: &Session<'_>, args: &Args) -> Result<u8> {
    let repository = session.open().await?;
    let which = if args.remove_all { Unlock::All } else { Unlock::Stale };
    let removed = session.bound(repository.unlock(which)).await?;
    // By their names alone: a lock that cannot be read is there all the same.
    let left = session.bound(repository.store().list(FileKind::Lock)).await?.len();
    session.ui.close();
    let (gone, kept) = (count(removed.len()), count(left));
    if session.ui.json() {
        return session
            .ui
            .report(&json!({"message_type": "summary", "removed": gone, "left": kept}).to_string())
            .map(|()| exit::OK);
    }
    for (id, lock) in &removed {
        session.ui.report(&format!(
            "removed lock {} of {}@{} (process {}) from {}",
            id.short(),
            safe(&lock.username),
            safe(&lock.hostname),
            lock.pid,
            local_time(lock.time.timestamp)
        ))?;
    }
    if gone == 0 {
        session.ui.report("no lock to remove")?;
    }
    if kept > 0 {
        session.ui.say(format!(
            "{} of a holder that may be at work stays; --remove-all removes it too",
            counted(kept, "lock", "locks")
        ));
    }
    Ok(exit::OK)
}

fn count(items: usize) -> u64 {
    u64::try_from(items).unwrap_or(u64::MAX)
}
