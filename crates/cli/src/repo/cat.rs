//! `repo cat`: single files and blobs of a repository, for looking into it.

use std::io::Write as _;
use std::path::Path;

use holdfast_engine::browse;
use holdfast_engine::format::key_file::KeyFile;
use holdfast_engine::format::pack::BlobKind;
use holdfast_engine::format::snapshot::Snapshot;
use holdfast_engine::id::Id;
use holdfast_engine::lock::Lock;
use holdfast_engine::repository::{Repository, SnapshotFilter};
use holdfast_engine::store::FileKind;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::select::Selector;
use super::session::Session;
use crate::exit;
use crate::failure::{Failure, Result};
use crate::ui::OUTPUT_CLOSED;

/// Command line of `repo cat`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to print; JSON for all but blob and pack, which come as they are
    #[arg(value_enum, value_name = "TYPE")]
    kind: What,
    /// Its id or the beginning of it (whole for a blob); for a tree SNAPSHOT:PATH; none for config
    #[arg(value_name = "ID")]
    id: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// The repository's configuration
    Config,
    /// A snapshot
    Snapshot,
    /// A directory of a snapshot
    Tree,
    /// An index file
    Index,
    /// A key file; what is secret in it is sealed with its password
    Key,
    /// A lock
    Lock,
    /// The plain bytes of a blob
    Blob,
    /// A pack file as it is stored
    Pack,
    /// Refused: whoever has it can read the repository for ever
    Masterkey,
}

pub(super) async fn run(session: &Session<'_>, args: &Args) -> Result<u8> {
    if args.kind == What::Masterkey {
        return Err(Failure::usage(
            "the master key is not printed",
            "to let somebody in, add a password with `holdfast repo key add`, which can be taken away again",
        ));
    }
    let repository = session.open().await?;
    let bytes =
        session.reading(&repository, async |_| session_bytes(session, &repository, args).await).await?;
    session.ui.close();
    let mut out = std::io::stdout().lock();
    let raw = matches!(args.kind, What::Blob | What::Pack);
    let end: &[u8] = if raw || bytes.ends_with(b"\n") { b"" } else { b"\n" };
    out.write_all(&bytes).and_then(|()| out.write_all(end)).and_then(|()| out.flush()).map_err(|e| {
        let closed = e.kind() == std::io::ErrorKind::BrokenPipe;
        Failure {
            cause: format!("write the result to standard output: {e}"),
            advice: None,
            kind: if closed { OUTPUT_CLOSED } else { "Output" },
            code: if closed { exit::OK } else { exit::FATAL },
        }
    })?;
    Ok(exit::OK)
}

async fn session_bytes(session: &Session<'_>, repository: &Repository, args: &Args) -> Result<Vec<u8>> {
    if args.kind == What::Config {
        return pretty(repository.config());
    }
    let named = args.id.as_deref().ok_or_else(|| {
        Failure::usage("no id was given", "`holdfast repo list TYPE` shows the ids there are")
    })?;
    let any = SnapshotFilter::default();
    let file = async |kind| session.bound(repository.find_file(kind, named)).await;
    match args.kind {
        What::Snapshot => {
            let found = repository.find_snapshot(named, &any);
            let (_, snapshot): (Id, Snapshot) = session.bound(found).await?;
            pretty(&snapshot)
        }
        What::Index => {
            let id = file(FileKind::Index).await?;
            session.bound(repository.load_json(FileKind::Index, &id)).await
        }
        What::Lock => {
            let id = file(FileKind::Lock).await?;
            reprinted::<Lock>(&session.bound(repository.load_json(FileKind::Lock, &id)).await?)
        }
        What::Key => {
            let id = file(FileKind::Key).await?;
            reprinted::<KeyFile>(&session.bound(repository.load_raw(FileKind::Key, &id)).await?)
        }
        What::Pack => {
            let id = file(FileKind::Pack).await?;
            Ok(session.bound(repository.load_raw(FileKind::Pack, &id)).await?.to_vec())
        }
        What::Blob => {
            let id: Id = named.parse()?;
            let index = session.bound(repository.load_index(&session.ctx)).await?;
            let kind =
                if index.find(BlobKind::Data, &id).is_some() { BlobKind::Data } else { BlobKind::Tree };
            Ok(session.bound(repository.load_blob(&index, kind, &id)).await?.to_vec())
        }
        What::Tree => {
            let Selector { snapshot, path } = named.parse()?;
            let found = repository.find_snapshot(&snapshot, &any);
            let (_, snapshot) = session.bound(found).await?;
            let index = session.bound(repository.load_index(&session.ctx)).await?;
            let path = path.unwrap_or_else(|| "/".to_owned());
            let tree = browse::subtree(repository, &index, &snapshot, Path::new(&path));
            let id = session.bound(tree).await?;
            Ok(session.bound(repository.load_blob(&index, BlobKind::Tree, &id)).await?.to_vec())
        }
        What::Config | What::Masterkey => Ok(Vec::new()),
    }
}

fn reprinted<T: Serialize + DeserializeOwned>(json: &[u8]) -> Result<Vec<u8>> {
    pretty(&serde_json::from_slice::<T>(json).map_err(|e| broken(&e))?)
}

/// JSON with two spaces a level, as restic prints it.
fn pretty(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|e| broken(&e))
}

fn broken(error: &serde_json::Error) -> Failure {
    Failure {
        cause: format!("read the file as JSON: {error}"),
        advice: Some("run `holdfast repo check`".to_owned()),
        kind: "Corrupt",
        code: exit::FATAL,
    }
}
