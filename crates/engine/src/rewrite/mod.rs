//! Snapshots written anew: without some of their files, with another host or time, with the counts they lack.
//!
//! The packs stay as they are until a prune. Not here: snapshots that lost content (`repair`), tags (`tag`).

mod filter;
mod room;
mod trees;

use futures::future::BoxFuture;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

pub use filter::{Files, Patterns};
pub(crate) use room::Room;
pub(crate) use trees::{Edit, Fate, TreeRewriter};

use crate::error::{Error, ErrorKind, Result};
use crate::event::Ctx;
use crate::format::node::{Node, NodeType};
use crate::format::snapshot::{Snapshot, SnapshotSummary};
use crate::format::time::OffsetTime;
use crate::id::Id;
use crate::lock::LockGuard;
use crate::repository::Repository;
use crate::tag::replace;
use crate::write::commit_snapshot;
use filter::Filter;

/// The tag of a rewritten snapshot whose original stays, as restic's.
const REWRITTEN: &str = "rewrite";
/// Seconds from 1970 to what Go writes for a time that was never set: 0001-01-01 00:00:00 UTC.
const GO_ZERO_TIME: i64 = -62_135_596_800;

/// What to change in snapshots.
#[derive(Debug, Clone)]
pub struct Rewrite {
    /// Which files stay.
    pub files: Files,
    /// Another host.
    pub host: Option<String>,
    /// Another time.
    pub time: Option<OffsetTime>,
    /// Count files and bytes where the snapshot does not say how many it has.
    pub summary: bool,
    /// Remove the original once the new one is written.
    pub forget: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Whether a tag says that the snapshot is all of some backup: one that lost files is written without such tags.
    pub says_whole: fn(&str) -> bool,
}

/// What became of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rewritten {
    /// There is nothing to change in it.
    Unchanged,
    /// None of its files were to stay: it is left as it is.
    NothingStays,
    /// It was, or with a dry run would be, written anew.
    Written(NewSnapshot),
}

/// A snapshot that was written anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Its id; none with a dry run.
    pub id: Option<Id>,
    /// Whether files were left out.
    pub lacks_files: bool,
    /// What was excluded: files, and directories with all that is in them; the first 100,000 (64 MiB). Not told of
    /// [`Files::Only`].
    pub excluded: Vec<PathBuf>,
    /// How many there were.
    pub excluded_total: u64,
    /// Tags of the original that it does not have.
    pub dropped_tags: Vec<String>,
}

/// Rewrites one snapshot after the other.
pub struct Rewriter<'a> {
    how: &'a Rewrite,
    filter: Filter,
    trees: TreeRewriter<'a>,
    /// The snapshots that could be read, where originals are to be forgotten.
    there: Vec<(Id, Snapshot)>,
    repo: &'a Repository,
    ctx: &'a Ctx,
}

impl<'a> Rewriter<'a> {
    /// Parses the patterns and reads the index. The caller holds a lock: an exclusive one to forget originals.
    pub fn new(repo: &'a Repository, how: &'a Rewrite, ctx: &'a Ctx) -> BoxFuture<'a, Result<Self>> {
        Box::pin(async move {
            let filter = Filter::new(&how.files)?;
            let mut there = Vec::new();
            if how.forget && !how.dry_run {
                repo.refuse_append_only()?;
                there = ctx.run(repo.list_snapshots()).await?.readable;
            }
            let index = repo.load_index(ctx).await?;
            Ok(Self {
                how,
                filter,
                trees: TreeRewriter::new(repo, index, how.dry_run, ctx)?,
                there,
                repo,
                ctx,
            })
        })
    }

    /// Rewrites a snapshot, unless there is nothing to change in it.
    ///
    /// # Errors
    /// `Missing`, `Corrupt` or `Format` when a directory cannot be read, or cannot be written anew without losing
    /// what another program wrote into it: this snapshot is as it was, and others can still be rewritten.
    pub fn rewrite<'b>(
        &'b mut self,
        lock: &'b LockGuard,
        id: Id,
        snapshot: &'b Snapshot,
    ) -> BoxFuture<'b, Result<Rewritten>> {
        Box::pin(async move {
            let outcome = self.write(lock, id, snapshot).await;
            self.trees.settle(lock, outcome).await
        })
    }

    async fn write(&mut self, lock: &LockGuard, id: Id, snapshot: &Snapshot) -> Result<Rewritten> {
        let mut edit = Filtering::new(&self.filter);
        let looked = self.how.summary || !matches!(self.filter, Filter::All);
        let tree =
            if looked { self.trees.rewrite(snapshot.tree, &mut edit).await? } else { Some(snapshot.tree) };
        let Filtering { files, bytes, excluded, excluded_total, .. } = edit;
        let Some(tree) = tree else { return Ok(Rewritten::NothingStays) };
        let mut new = Snapshot { tree, ..snapshot.clone() };
        let lacks_files = tree != snapshot.tree;
        if lacks_files || self.how.summary {
            new.summary = Some(counted(snapshot.summary.as_ref(), files, bytes)?);
        }
        if let Some(host) = &self.how.host {
            new.hostname.clone_from(host);
        }
        if let Some(time) = self.how.time {
            new.time = time;
        }
        if new == *snapshot {
            return Ok(Rewritten::Unchanged);
        }
        let mut dropped_tags = Vec::new();
        if lacks_files {
            (dropped_tags, new.tags) = new.tags.into_iter().partition(|tag| (self.how.says_whole)(tag));
        }
        // The first one, also of a snapshot that was rewritten before: by it the list of what could not be read is
        // found, and a copy of it in another repository.
        new.original.get_or_insert(id);
        let id = match (self.how.dry_run, self.how.forget) {
            (true, _) => None,
            (false, true) => {
                let known = self.trees.commit().await?;
                Some(replace(self.repo, lock, id, new, &known, &self.there, self.ctx).await?)
            }
            (false, false) => {
                let known = self.trees.commit().await?;
                if !new.tags.iter().any(|tag| tag == REWRITTEN) {
                    new.tags.push(REWRITTEN.to_owned());
                }
                Some(commit_snapshot(self.repo, lock, &new, &known, self.ctx).await?)
            }
        };
        self.trees.rely();
        Ok(Rewritten::Written(NewSnapshot { id, lacks_files, excluded, excluded_total, dropped_tags }))
    }
}

/// The counts of a snapshot with so many files and plain bytes; what else the backup counted stays.
fn counted(before: Option<&SnapshotSummary>, files: u64, bytes: u64) -> Result<SnapshotSummary> {
    let mut summary = before.map_or_else(never_counted, |before| Ok(before.clone()))?;
    (summary.total_files_processed, summary.total_bytes_processed) = (files, bytes);
    Ok(summary)
}

/// Of a snapshot whose backup kept no counts, as restic makes them.
fn never_counted() -> Result<SnapshotSummary> {
    let never = Timestamp::from_second(GO_ZERO_TIME).map_err(|e| {
        Error::with_source(ErrorKind::Internal, "the first moment of year 1 cannot be said", e)
    })?;
    Ok(SnapshotSummary {
        backup_start: OffsetTime::utc(never),
        backup_end: OffsetTime::utc(never),
        files_new: 0,
        files_changed: 0,
        files_unmodified: 0,
        dirs_new: 0,
        dirs_changed: 0,
        dirs_unmodified: 0,
        data_blobs: 0,
        tree_blobs: 0,
        data_added: 0,
        data_added_packed: 0,
        total_files_processed: 0,
        total_bytes_processed: 0,
    })
}

/// Leaves entries out and counts the files that stay.
struct Filtering<'a> {
    filter: &'a Filter,
    files: u64,
    bytes: u64,
    excluded: Vec<PathBuf>,
    excluded_total: u64,
    room: Room,
}

impl<'a> Filtering<'a> {
    fn new(filter: &'a Filter) -> Self {
        let room = Room::default();
        Self { filter, files: 0, bytes: 0, excluded: Vec::new(), excluded_total: 0, room }
    }
}

impl Edit for Filtering<'_> {
    const LOSSLESS: bool = true;

    fn entry(&mut self, path: &Path, node: &mut Node) -> Fate {
        if !self.filter.verdict(path, node.kind == NodeType::Dir).stays {
            if matches!(self.filter, Filter::Without { .. }) {
                self.excluded_total = self.excluded_total.saturating_add(1);
                if self.room.take(path) {
                    self.excluded.push(path.to_owned());
                }
            }
            return Fate::LeftOut;
        }
        if node.kind == NodeType::File {
            self.files = self.files.saturating_add(1);
            self.bytes = self.bytes.saturating_add(node.size);
        }
        Fate::Kept
    }

    fn unreadable(&mut self, path: &Path, error: Error) -> Result<()> {
        Err(Error::with_source(
            error.kind(),
            format!("the directory {} cannot be read", path.display()),
            error,
        ))
    }

    fn keeps_empty(&self, path: &Path) -> bool {
        self.filter.verdict(path, true).stays_empty
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_that_was_never_made_begins_at_gos_zero_time() {
        let json = serde_json::to_value(counted(None, 3, 17).unwrap()).unwrap();
        assert_eq!(json["backup_start"], "0001-01-01T00:00:00Z");
        assert_eq!((&json["total_files_processed"], &json["total_bytes_processed"]), (&3.into(), &17.into()));
        let before = SnapshotSummary { data_added: 7, ..counted(None, 1, 1).unwrap() };
        let after = counted(Some(&before), 0, 0).unwrap();
        assert_eq!((after.data_added, after.total_files_processed), (7, 0));
    }
}
