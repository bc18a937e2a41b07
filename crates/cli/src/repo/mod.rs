//! `holdfast repo …`: commands on one repository, with no cluster.

use crate::exit;
use crate::failure::Failure;
use crate::ui::{OUTPUT_CLOSED, Ui};

mod access;
mod backup;
mod cat;
mod check;
mod copy;
mod credentials;
mod diff;
mod dump;
mod exclude;
mod find;
mod find_objects;
mod forget;
mod init;
mod interrupt;
mod key;
mod list;
mod ls;
mod nearby;
mod origin;
mod password;
mod patterns;
mod prompt;
mod protect;
mod prune;
mod recover;
mod repair;
mod restore;
mod rewrite;
mod select;
mod session;
mod snapshots;
mod sources;
mod stats;
mod stream;
mod tag;
mod unlock;
mod unreadable;

/// Command line of `holdfast repo`.
#[derive(Debug, clap::Args)]
pub struct RepoArgs {
    #[command(flatten)]
    access: access::Access,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a new repository
    Init(init::Args),
    /// Back up files and directories as a new snapshot
    Backup(backup::Args),
    /// Restore a snapshot, or a directory of it, to a target directory
    Restore(restore::Args),
    /// List snapshots
    Snapshots(snapshots::Args),
    /// List the files of a snapshot
    Ls(ls::Args),
    /// Find files in snapshots
    Find(find::Args),
    /// Write a file or directory of a snapshot to standard output or a file
    Dump(dump::Args),
    /// Show what differs between two snapshots
    Diff(diff::Args),
    /// Count what snapshots hold, or what they take in the repository
    Stats(stats::Args),
    /// Change the tags of snapshots
    Tag(tag::Args),
    /// Write snapshots anew, without some of their files or with another host or time
    Rewrite(rewrite::Args),
    /// Copy snapshots from another repository
    Copy(copy::Args),
    /// List, add, remove and change passwords
    Key(key::Args),
    /// List the names of the repository's files
    List(list::Args),
    /// Print a single file or blob of the repository
    Cat(cat::Args),
    /// Verify that the repository is whole
    Check(check::Args),
    /// Forget snapshots, by name or by a policy
    Forget(Box<forget::Args>),
    /// Bring forgotten snapshots back, or list which can be
    Unforget(forget::UnforgetArgs),
    /// Free the space of what no snapshot needs
    Prune(prune::Args),
    /// Keep what the snapshots need from being deleted until a date, by the bucket's object lock
    Protect(protect::Args),
    /// Make a snapshot of all directories that no snapshot reaches
    ///
    /// Such are what was forgotten and not yet pruned away, and what backups stored that broke off. It first mends the
    /// index, and names what is lost of what it finds. Forgotten snapshots come back as they were with `unforget`.
    Recover(recover::Args),
    /// Mend the index, damaged packs or damaged snapshots
    Repair(repair::Args),
    /// List what the backup that made a snapshot could not read
    Unreadable(unreadable::Args),
    /// Remove locks whose holders are gone
    Unlock(unlock::Args),
}

/// Tells of arguments that cannot be parsed, as restic does: in JSON where that is wanted. The result is the exit code.
pub fn refuse(error: &clap::Error, as_json: bool) -> u8 {
    if !error.use_stderr() {
        // Help and version are no failure.
        return if error.print().is_ok() { exit::OK } else { exit::FATAL };
    }
    let failure = Failure::from(error);
    if as_json {
        crate::ui::complain_in_json(&failure);
    } else {
        // In clap's words and colours. When even standard error is gone there is nobody left to tell.
        let _ = error.print();
    }
    failure.code
}

/// Runs one command; the result is the exit code.
///
/// Boxed, so that the commands are compiled here once and not again in the binary.
pub fn run(args: RepoArgs) -> std::pin::Pin<Box<dyn Future<Output = u8>>> {
    Box::pin(perform(args))
}

async fn perform(args: RepoArgs) -> u8 {
    let RepoArgs { access, command } = args;
    let ui = Ui::new(access.json, access.quiet);
    let interrupt = interrupt::Interrupt::default();
    let work = async {
        let session = session::Session::new(&access, &ui, &interrupt)?;
        let code = match command {
            Command::Init(args) => init::run(&session, &access, &args).await,
            Command::Backup(args) => backup::run(&session, &args).await,
            Command::Restore(args) => restore::run(&session, &args).await,
            Command::Snapshots(args) => snapshots::run(&session, &args).await,
            Command::Ls(args) => ls::run(&session, &args).await,
            Command::Find(args) => find::run(&session, &args).await,
            Command::Dump(args) => dump::run(&session, &args).await,
            Command::Repair(args) => repair::run(&session, &args).await,
            Command::Recover(args) => recover::run(&session, &args).await,
            Command::Diff(args) => diff::run(&session, &args).await,
            Command::Stats(args) => stats::run(&session, &args).await,
            Command::Tag(args) => tag::run(&session, &args).await,
            Command::Rewrite(args) => Box::pin(rewrite::run(&session, &args)).await,
            Command::Copy(args) => Box::pin(copy::run(&session, &access, &args)).await,
            Command::Key(args) => key::run(&session, &args).await,
            Command::List(args) => list::run(&session, &args).await,
            Command::Cat(args) => cat::run(&session, &args).await,
            Command::Check(args) => check::run(&session, &args).await,
            Command::Forget(args) => Box::pin(forget::run(&session, &args)).await,
            Command::Unforget(args) => forget::unforget(&session, &args).await,
            Command::Prune(args) => Box::pin(prune::run(&session, &args)).await,
            Command::Protect(args) => Box::pin(protect::run(&session, &args)).await,
            Command::Unreadable(args) => unreadable::run(&session, &args).await,
            Command::Unlock(args) => unlock::run(&session, &args).await,
        }?;
        Ok(session.exit_code(code))
    };
    let result = tokio::select! {
        result = work => result,
        () = interrupt.insisted() => Err(interrupt::abandoned()),
    };
    ui.close();
    match result {
        Ok(code) | Err(Failure { kind: OUTPUT_CLOSED, code, .. }) => code,
        Err(failure) => {
            ui.fail(&failure);
            failure.code
        }
    }
}
