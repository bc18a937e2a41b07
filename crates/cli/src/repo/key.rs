//! `repo key`: the passwords of a repository.

use std::path::PathBuf;

use holdfast_engine::lock::LockMode;
use holdfast_engine::repository::{KeyInfo, Repository};
use serde_json::{Value, json};

use super::access::Password;
use super::session::{Session, hostname, username};
use crate::exit;
use crate::failure::Result;
use crate::text::{Table, local_time, safe};

/// Command line of `repo key`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the keys; `*` marks the one in use
    List,
    /// Add a password
    Add(NewKey),
    /// Take a password away; never the one in use
    Remove {
        /// Id of the key, or the beginning of it
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Replace the password in use by another
    Passwd(NewKey),
}

#[derive(Debug, clap::Args)]
struct NewKey {
    /// File with the new password; asked for on a terminal when absent
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,
    /// User name written into the key, for people
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Host name written into the key, for people
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
}

pub(super) async fn run(session: &Session<'_>, args: &Args) -> Result<u8> {
    let repository = session.open().await?;
    match &args.command {
        Command::List => {
            session.reading(&repository, async |_| list(session, &repository).await).await?;
        }
        Command::Add(new) => add(session, &repository, new).await?,
        Command::Remove { id } => remove(session, &repository, id).await?,
        Command::Passwd(new) => passwd(session, &repository, new).await?,
    }
    Ok(exit::OK)
}

async fn list(session: &Session<'_>, repository: &Repository) -> Result<()> {
    let keys = session.bound(repository.keys()).await?;
    session.ui.close();
    let created = |key: &KeyInfo| key.created.map(|at| local_time(at.timestamp)).unwrap_or_default();
    if session.ui.json() {
        let rows: Vec<Value> = keys
            .iter()
            .map(|key| {
                json!({
                    "current": key.current,
                    "id": key.id,
                    "userName": key.username,
                    "hostName": key.hostname,
                    "created": created(key),
                })
            })
            .collect();
        return session.ui.print(&Value::from(rows).to_string());
    }
    let mut table = Table::new(&[" ID", "USER", "HOST", "CREATED"]);
    for key in &keys {
        table.row(vec![
            format!("{}{}", if key.current { '*' } else { ' ' }, key.id.short()),
            safe(&key.username),
            safe(&key.hostname),
            created(key),
        ]);
    }
    session.ui.print(table.render().trim_end())
}

impl NewKey {
    fn user(&self) -> String {
        self.user.clone().unwrap_or_else(username)
    }

    fn host(&self) -> String {
        self.host.clone().unwrap_or_else(hostname)
    }
}

async fn add(session: &Session<'_>, repository: &Repository, new: &NewKey) -> Result<()> {
    let password = Password::new_one(new.new_password_file.as_ref()).read(true)?;
    let id = session
        .locked(repository, async |_| {
            session.bound(repository.add_key_for(&password, &new.user(), &new.host())).await
        })
        .await?;
    session.ui.close();
    if session.ui.json() {
        return session.ui.report(&json!({"message_type": "added", "id": id}).to_string());
    }
    session.ui.report(&format!("saved new key with ID {id}"))
}

async fn remove(session: &Session<'_>, repository: &Repository, id: &str) -> Result<()> {
    let removed = session
        .locked_as(repository, LockMode::Exclusive, async |guard| {
            session.bound(repository.remove_key(guard, id)).await
        })
        .await?;
    session.ui.close();
    if session.ui.json() {
        return session.ui.report(&json!({"message_type": "removed", "id": removed}).to_string());
    }
    session.ui.report(&format!("removed key {removed}"))
}

async fn passwd(session: &Session<'_>, repository: &Repository, new: &NewKey) -> Result<()> {
    let password = Password::new_one(new.new_password_file.as_ref()).read(true)?;
    let (user, host) = (new.user(), new.host());
    let (opened, removed) = session
        .locked_as(repository, LockMode::Exclusive, async |guard| {
            session.bound(repository.change_password(guard, &password, &user, &host, &session.ctx)).await
        })
        .await?;
    session.ui.close();
    if session.ui.json() {
        let message = json!({"message_type": "changed", "id": opened.key_id(), "removed": removed});
        return session.ui.report(&message.to_string());
    }
    session.ui.report(&format!("saved new key as {}", opened.key_id()))?;
    session.ui.say(
        "who kept the old password and a copy of the repository's keys can still read it: if the old password leaked, \
         copy into a new repository",
    );
    Ok(())
}
