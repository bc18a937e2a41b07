//! Changing what a person wrote on a snapshot: its tags. The content stays; the snapshot gets a new id and keeps in
//! `original` the one it was first written with.
//!
//! Not here: which snapshots are meant.

use crate::error::{Error, ErrorKind, Result};
use crate::event::Ctx;
use crate::fence;
use crate::format::snapshot::Snapshot;
use crate::id::Id;
use crate::lock::LockGuard;
use crate::repository::Repository;
use crate::store::{FileKind, FileName};
use crate::write::commit_snapshot;
use futures::future::BoxFuture;

/// What to do with the tags of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagChange {
    /// These instead of those that are there.
    Set(Vec<String>),
    /// Add some and remove some, in this order.
    Edit {
        /// Tags to add where they are not there yet.
        add: Vec<String>,
        /// Tags to remove.
        remove: Vec<String>,
    },
}

impl TagChange {
    /// The tags that come of it.
    pub fn apply(&self, tags: &[String]) -> Vec<String> {
        match self {
            Self::Set(new) => {
                let mut set: Vec<String> = Vec::with_capacity(new.len());
                for tag in new {
                    if !set.contains(tag) {
                        set.push(tag.clone());
                    }
                }
                set
            }
            Self::Edit { add, remove } => {
                let mut tags = tags.to_vec();
                for tag in add {
                    if !tags.contains(tag) {
                        tags.push(tag.clone());
                    }
                }
                tags.retain(|tag| !remove.contains(tag));
                tags
            }
        }
    }
}

/// Changes the tags of a snapshot; its new id, or `None` when nothing had to change. `there` are all snapshots that could be
/// read. The caller holds a lock.
pub fn change_tags<'a>(
    repo: &'a Repository,
    lock: &'a LockGuard,
    id: Id,
    snapshot: &'a Snapshot,
    change: &'a TagChange,
    there: &'a [(Id, Snapshot)],
    ctx: &'a Ctx,
) -> BoxFuture<'a, Result<Option<Id>>> {
    Box::pin(async move {
        let tags = change.apply(&snapshot.tags);
        if tags == snapshot.tags {
            return Ok(None);
        }
        // While the old snapshot is there no mark can be on what it needs; what comes after this look is noticed.
        let known: Vec<Id> = repo.store().list(FileKind::Index).await?.into_iter().map(|e| e.id).collect();
        replace(repo, lock, id, Snapshot { tags, ..snapshot.clone() }, &known, there, ctx).await.map(Some)
    })
}

/// Writes `new` in place of the snapshot `old`: first the new one, then away with the old one, so that at any moment
/// at least one of them is there. `there` are all snapshots that could be read.
pub(crate) async fn replace(
    repo: &Repository,
    lock: &LockGuard,
    old: Id,
    mut new: Snapshot,
    known: &[Id],
    there: &[(Id, Snapshot)],
    ctx: &Ctx,
) -> Result<Id> {
    repo.refuse_append_only()?;
    new.original.get_or_insert(old);
    // A run that died before it removed the old one has written it: a second one would count as another recovery point.
    let mut written = there.iter().find(|(id, theirs)| *id != old && *theirs == new).map(|(id, _)| *id);
    if let Some(id) = written {
        lock.confirm().await?;
        // Whether that run came to its look for marks nobody knows.
        fence::confirm(repo, new.tree, &[], ctx).await?;
        // Somebody may have forgotten it since it was listed.
        match repo.store().size(FileName { kind: FileKind::Snapshot, id }).await {
            Err(e) if e.kind() == ErrorKind::Missing => written = None,
            other => drop(other?),
        }
    }
    let id = match written {
        Some(id) => id,
        None => commit_snapshot(repo, lock, &new, known, ctx).await?,
    };
    // The same fields sealed anew are another file; a clash of ids would lose the snapshot.
    if id != old {
        repo.store().delete(FileName { kind: FileKind::Snapshot, id: old }).await.map_err(|e| {
            Error::with_source(
                e.kind(),
                format!(
                    "snapshot {} was rewritten as {}, but the old one could not be removed",
                    old.short(),
                    id.short()
                ),
                e,
            )
        })?;
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(list: &[&str]) -> Vec<String> {
        list.iter().map(|t| (*t).to_owned()).collect()
    }

    #[test]
    fn tags_are_set_added_and_removed_once() {
        let before = tags(&["a", "b"]);
        let edit = |add: &[&str], remove: &[&str]| TagChange::Edit { add: tags(add), remove: tags(remove) };
        assert_eq!(edit(&["b", "c", "c"], &[]).apply(&before), tags(&["a", "b", "c"]));
        assert_eq!(edit(&["c"], &["a", "c"]).apply(&before), tags(&["b"]));
        assert_eq!(TagChange::Set(tags(&["x", "x"])).apply(&before), tags(&["x"]));
        assert_eq!(TagChange::Set(Vec::new()).apply(&before), tags(&[]));
    }
}
