//! `holdfast backup`, `restore`, `snapshots` and so on: commands on a cluster, as kubectl gives them.
//!
//! Nothing here does the work: a command makes an object, follows what the operator makes of it, and tells it to a
//! person. What is shown is made by pure functions from objects; only [`connect`], [`follow`] and the `run` of each
//! command see a client.

use std::pin::Pin;

use crate::failure::Failure;
use crate::ui::{self, OUTPUT_CLOSED};

mod backup;
mod connect;
mod describe;
mod doctor;
mod fault;
mod follow;
mod interrupt;
mod logs;
mod names;
mod operator;
mod output;
mod plan;
mod question;
mod restore;
mod run_view;
mod snapshots;
mod status;
mod summary;
mod target;

/// The commands on a cluster.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Back up the volumes of a namespace now, and follow the run
    Backup(Box<backup::Args>),
    /// Restore volumes from a snapshot: the plan is shown first, and nothing is done without a yes
    Restore(Box<restore::Args>),
    /// Put back what a Restore overwrote, from the snapshot that it made first
    Undo(Box<restore::undo::Args>),
    /// List the snapshots that can be restored from, the newest first
    Snapshots(snapshots::Args),
    /// Show what is protected and what is not, what runs and what failed
    Status(status::Args),
    /// Show what the runners of a Backup or Restore say
    Logs(logs::Args),
    /// Show all that is known about a Backup, Restore, Snapshot, storage or Repository
    Describe(describe::Args),
    /// Look for what is wrong with the installation, and say what to do about it
    Doctor(doctor::Args),
}

/// Runs one command; the result is the exit code.
///
/// Boxed, so that the commands are compiled here once and not again in the binary.
pub fn run(command: Command) -> Pin<Box<dyn Future<Output = u8>>> {
    Box::pin(perform(command))
}

async fn perform(command: Command) -> u8 {
    let result = match command {
        Command::Backup(args) => Box::pin(backup::run(*args)).await,
        Command::Restore(args) => Box::pin(restore::run(*args)).await,
        Command::Undo(args) => Box::pin(restore::undo::run(*args)).await,
        Command::Snapshots(args) => snapshots::run(args).await,
        Command::Status(args) => status::run(args).await,
        Command::Logs(args) => Box::pin(logs::run(args)).await,
        Command::Describe(args) => describe::run(args).await,
        Command::Doctor(args) => Box::pin(doctor::run(args)).await,
    };
    match result {
        Ok(code) | Err(Failure { kind: OUTPUT_CLOSED, code, .. }) => code,
        Err(failure) => {
            ui::complain(&failure);
            failure.code
        }
    }
}
