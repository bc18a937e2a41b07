//! `repo list`: the names of a repository's files.

use holdfast_engine::repository::Repository;
use holdfast_engine::store::FileKind;

use super::session::Session;
use crate::exit;
use crate::failure::Result;

/// Command line of `repo list`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to list
    #[arg(value_enum, value_name = "TYPE")]
    kind: What,
    /// With blobs: only those of this pack, as its own header lists them
    #[arg(long, value_name = "ID")]
    pack: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Blobs, as the index lists them: type and id
    Blobs,
    /// Pack files
    Packs,
    /// Index files
    Index,
    /// Snapshots
    Snapshots,
    /// Keys
    Keys,
    /// Locks
    Locks,
}

pub(super) async fn run(session: &Session<'_>, args: &Args) -> Result<u8> {
    let repository = session.open().await?;
    if matches!(args.kind, What::Locks) {
        // Somebody else's lock is what is asked for.
        return read(session, &repository, args).await;
    }
    session.reading(&repository, async |_| read(session, &repository, args).await).await
}

async fn read(session: &Session<'_>, repository: &Repository, args: &Args) -> Result<u8> {
    let kind = match args.kind {
        What::Blobs => {
            if let Some(pack) = &args.pack {
                let id = session.bound(repository.find_file(FileKind::Pack, pack)).await?;
                let size =
                    repository.store().size(holdfast_engine::store::FileName { kind: FileKind::Pack, id });
                let size = session.bound(size).await?;
                let blobs = session.bound(repository.load_pack_header(&id, size)).await?;
                session.ui.close();
                for blob in blobs {
                    session.ui.print(&format!("{} {}", blob.kind.as_str(), blob.id))?;
                }
            } else {
                let index = session.bound(repository.load_index(&session.ctx)).await?;
                session.ui.close();
                for (kind, id, _) in index.iter() {
                    session.ui.print(&format!("{} {id}", kind.as_str()))?;
                }
            }
            return Ok(exit::OK);
        }
        What::Packs => FileKind::Pack,
        What::Index => FileKind::Index,
        What::Snapshots => FileKind::Snapshot,
        What::Keys => FileKind::Key,
        What::Locks => FileKind::Lock,
    };
    let listed = session.bound(repository.store().list(kind)).await?;
    session.ui.close();
    for entry in listed {
        session.ui.print(&entry.id.to_hex())?;
    }
    Ok(exit::OK)
}
