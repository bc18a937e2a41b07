//! `repo init`: makes a repository.

use holdfast_engine::repository::{InitOptions, Repository};
use serde_json::json;

use super::access::{Access, SourceAccess, process_environment};
use super::session::{Session, hostname, username};
use crate::exit;
use crate::failure::Result;

/// Command line of `repo init`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Format of the repository; 1 is for clients older than restic 0.14 and does not compress
    #[arg(long, value_name = "VERSION", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=2))]
    repository_version: u32,
    /// Cut files at the same places as the repository that --from-repo names, so that copies share content
    #[arg(long)]
    copy_chunker_params: bool,
    #[command(flatten)]
    from: SourceAccess,
}

pub(super) async fn run(session: &Session<'_>, access: &Access, args: &Args) -> Result<u8> {
    let store = session.store()?;
    let options = InitOptions {
        password: session.new_password()?,
        recovery_password: None,
        version: args.repository_version,
        hostname: hostname(),
        username: username(),
    };
    let repository = if args.copy_chunker_params {
        let other = session.beside(args.from.resolve(access, &process_environment)?).open().await?;
        session.bound(Repository::init_like(store, &options, &other, &session.ctx)).await?
    } else {
        session.bound(Repository::init(store, &options, &session.ctx)).await?
    };
    session.ui.close();
    if session.ui.json() {
        let message = json!({"message_type": "initialized", "id": repository.id(), "repository": session.location.to_string()});
        session.ui.report(&message.to_string())?;
    } else if !session.ui.quiet() {
        session.ui.report(&format!("made repository {} at {}", short(repository.id()), session.location))?;
        session.ui.report("Keep its password safe: without it nobody can read what will be stored there.")?;
    }
    Ok(exit::OK)
}

/// As many digits of an id as people write.
pub(super) fn short(id: &str) -> &str {
    id.get(..10).unwrap_or(id)
}
