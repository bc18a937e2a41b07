//! `repo ls`: what is in a snapshot.

use std::path::Path;

use holdfast_engine::browse;
use holdfast_engine::error::{Error, ErrorKind};
use holdfast_engine::format::node::{Node, NodeType};
use holdfast_engine::repository::Repository;
use serde_json::{Value, json};

use super::select::{Filter, Selector};
use super::session::{Session, relative};
use super::snapshots;
use crate::exit;
use crate::failure::{Failure, Result};
use crate::text::{local_time, mode, safe};

/// Command line of `repo ls`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Id of the snapshot, the beginning of one, or `latest`; with :PATH as if that directory were all of it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    snapshot: Selector,
    /// Only these directories of the snapshot, each with what is directly in it
    #[arg(value_name = "PATH")]
    paths: Vec<String>,
    /// Show mode, owner, size and time
    #[arg(short, long)]
    long: bool,
    /// With a path: also what lies deeper (a whole snapshot is always listed so)
    #[arg(long)]
    recursive: bool,
    #[command(flatten)]
    filter: Filter,
}

pub(super) async fn run(session: &Session<'_>, args: &Args) -> Result<u8> {
    if let Some(path) = args.paths.iter().find(|p| !p.starts_with('/')) {
        return Err(relative(path));
    }
    let repository = session.open().await?;
    session.reading(&repository, async |_| read(session, &repository, args).await).await
}

async fn read(session: &Session<'_>, repository: &Repository, args: &Args) -> Result<u8> {
    let mut paths = args.paths.clone();
    let recursive = args.recursive || paths.is_empty();
    if paths.is_empty() {
        paths.push("/".to_owned());
    }

    let filter = args.filter.to_engine();
    // The snapshot first, the index after: then the index knows all that the snapshot refers to.
    let (id, snapshot) = session.bound(repository.find_snapshot(&args.snapshot.snapshot, &filter)).await?;
    let index = session.bound(repository.load_index(&session.ctx)).await?;
    let mut listed = snapshot.clone();
    if let Some(path) = &args.snapshot.path {
        listed.tree = session.bound(browse::subtree(repository, &index, &snapshot, Path::new(path))).await?;
    }
    session.ui.close();

    if session.ui.json() {
        let mut heading = snapshots::to_json(&id, &listed)?;
        if let Value::Object(fields) = &mut heading {
            fields.insert("message_type".to_owned(), json!("snapshot"));
            fields.insert("struct_type".to_owned(), json!("snapshot"));
        }
        session.ui.print(&heading.to_string())?;
    }
    for path in &paths {
        // The engine takes its own errors only; one of the output's travels beside them.
        let mut broken: Option<Failure> = None;
        let listing = browse::ls(repository, &index, &listed, path, recursive, |path, node| {
            session.ctx.check()?;
            let line = if session.ui.json() {
                to_json(path, node).to_string()
            } else if args.long {
                long(path, node)
            } else {
                safe(&path.to_string_lossy())
            };
            session.ui.print(&line).map_err(|failure| {
                broken = Some(failure);
                Error::new(ErrorKind::Cancelled, "the output was closed")
            })
        });
        let result = session.bound(listing).await;
        if let Some(failure) = broken {
            return Err(failure);
        }
        result?;
    }
    Ok(exit::OK)
}

/// A node as restic's `ls --json` writes it.
fn to_json(path: &Path, node: &Node) -> Value {
    let mut value = json!({
        "name": String::from_utf8_lossy(&node.name),
        "type": node.kind.as_str(),
        "path": path.to_string_lossy(),
        "uid": node.uid,
        "gid": node.gid,
        "mode": node.mode,
        "permissions": mode(node.mode),
        "mtime": node.mtime.to_string(),
        "atime": node.atime.to_string(),
        "ctime": node.ctime.to_string(),
        "inode": node.inode,
        "message_type": "node",
        "struct_type": "node",
    });
    if let (NodeType::File, Value::Object(fields)) = (node.kind, &mut value) {
        fields.insert("size".to_owned(), json!(node.size));
    }
    value
}

/// A line as restic's `ls --long` writes it.
pub(super) fn long(path: &Path, node: &Node) -> String {
    let target = if node.kind == NodeType::Symlink {
        format!(" -> {}", safe(&String::from_utf8_lossy(&node.link_target)))
    } else {
        String::new()
    };
    format!(
        "{} {:5} {:5} {:>10} {} {}{target}",
        mode(node.mode),
        node.uid,
        node.gid,
        node.size,
        local_time(node.mtime.to_timestamp()),
        safe(&path.to_string_lossy())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_restics_fields() {
        let node = Node { name: b"a".to_vec(), mode: 0o644, ..Node::default() };
        let value = to_json(Path::new("/d/a"), &node);
        assert_eq!(
            (&value["path"], &value["permissions"], &value["size"]),
            (&json!("/d/a"), &json!("-rw-r--r--"), &json!(0))
        );
        let directory = to_json(Path::new("/d"), &Node { kind: NodeType::Dir, ..node });
        assert!(directory.get("size").is_none());
    }
}
