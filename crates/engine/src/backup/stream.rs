//! Backup of a stream: one file of a snapshot, made as restic makes it from standard input.

use super::{BackupReport, BackupSpec, Source, perform};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Ctx;
use crate::format::node::NodeType;
use crate::format::time::Time;
use crate::id::Id;
use crate::index::Index;
use crate::lock::LockGuard;
use crate::pipeline::Feed;
use crate::repository::Repository;
use crate::stream::StreamSource;
use futures::future::BoxFuture;

/// Backs up a stream into a new snapshot whose only file it is. Of `spec` neither roots nor what is said about files
/// counts. The caller holds a lock on the repository and keeps it after.
///
/// # Errors
/// Any error means that no snapshot was written: `Source` when the producer failed or what arrived did not pass the
/// checks, `Timeout` when it took too long, `Guard` when it is smaller than the last one allows. What was read by then
/// stays in the repository, so that the next try has little to store.
pub fn backup_stream<'a>(
    repository: &'a Repository,
    lock: &'a LockGuard,
    spec: &'a BackupSpec,
    source: StreamSource,
    ctx: &'a Ctx,
) -> BoxFuture<'a, Result<BackupReport>> {
    Box::pin(async move {
        // Refused before anything is asked of the store.
        names(&source.path)?;
        let paths = vec![source.path.clone()];
        Box::pin(perform(repository, Some(lock), spec, paths, Source::Stream(source), ctx)).await
    })
}

/// Does all that [`backup_stream`] does but write, as [`super::rehearse`].
///
/// # Errors
/// As [`backup_stream`].
pub fn rehearse_stream<'a>(
    repository: &'a Repository,
    spec: &'a BackupSpec,
    source: StreamSource,
    ctx: &'a Ctx,
) -> BoxFuture<'a, Result<BackupReport>> {
    Box::pin(async move {
        names(&source.path)?;
        let paths = vec![source.path.clone()];
        Box::pin(perform(&repository.rehearsing(), None, spec, paths, Source::Stream(source), ctx)).await
    })
}

/// The names on an absolute path.
fn names(path: &str) -> Result<Vec<Vec<u8>>> {
    let refuse = |why: &str| {
        Error::new(ErrorKind::Usage, format!("{path:?} cannot be the path of a stream in a snapshot: {why}"))
    };
    let below = path.strip_prefix('/').ok_or_else(|| refuse("it must be absolute"))?;
    let names: Vec<Vec<u8>> = below.split('/').map(|name| name.as_bytes().to_vec()).collect();
    for name in &names {
        match name.as_slice() {
            b"" => return Err(refuse("it holds an empty name")),
            b"." | b".." => return Err(refuse("it holds `.` or `..`")),
            name if name.contains(&0) => return Err(refuse("it holds a NUL byte")),
            _ => {}
        }
    }
    Ok(names)
}

/// What the pipeline needs to know of the stream. `tree` is the root of the snapshot before; of blobs, `index` needs to
/// know trees alone.
pub(super) async fn feed(
    repository: &Repository,
    index: &Index,
    spec: &BackupSpec,
    source: StreamSource,
    tree: Option<Id>,
) -> Result<Feed> {
    let names = names(&source.path)?;
    let previous = match (tree, source.checks.min_share) {
        (Some(tree), Some(_)) => size_in(repository, index, tree, &names).await?,
        _ => None,
    };
    let nanos = u32::try_from(spec.time.subsec_nanosecond()).unwrap_or(0);
    let time = Time::new(spec.time.as_second(), nanos);
    Ok(Feed { source, names, time, uid: spec.uid, gid: spec.gid, previous })
}

/// Size of the file of this path below a tree; `None` where there is none.
async fn size_in(
    repository: &Repository,
    index: &Index,
    mut tree: Id,
    names: &[Vec<u8>],
) -> Result<Option<u64>> {
    let Some((last, above)) = names.split_last() else { return Ok(None) };
    for name in above {
        let found = repository.load_tree(index, &tree).await?.find(name).and_then(|node| node.subtree);
        let Some(below) = found else { return Ok(None) };
        tree = below;
    }
    let found = repository.load_tree(index, &tree).await?;
    Ok(found.find(last).filter(|node| node.kind == NodeType::File).map(|node| node.size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_absolute_and_plain() {
        assert_eq!(names("/a/b.sql").unwrap(), [b"a".to_vec(), b"b.sql".to_vec()]);
        for bad in ["", "a", "/", "/a//b", "/a/", "/../a", "/a/./b", "/a\0"] {
            assert_eq!(names(bad).unwrap_err().kind(), ErrorKind::Usage, "{bad:?}");
        }
    }
}
