//! Copying snapshots into another repository.
//!
//! Blobs keep their compressed form: they are opened, checked against their names and sealed again under the other
//! repository's key. Directories go over byte for byte. A snapshot is written only when all it needs is there; one
//! that is damaged in the source is left out and named, and the others go on.

mod collect;
mod reseal;

use futures::future::BoxFuture;
use std::collections::HashSet;
use std::sync::Arc;

use futures::{StreamExt as _, stream};
use serde::Serialize;

use self::collect::{Collector, Wanted};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Ctx, Event, Fault, Progress};
use crate::format::pack::BlobKind;
use crate::format::snapshot::Snapshot;
use crate::id::Id;
use crate::index::Index;
use crate::lock::LockGuard;
use crate::read::fetch;
use crate::read::{TreeReader, is_damage};
use crate::repository::Repository;
use crate::write::{PackWriter, commit_snapshot};

/// Stretches of source packs that are fetched and worked on at a time.
const IN_FLIGHT: usize = 6;
/// Snapshots are written at the latest when so many bytes were copied for them, so that a run that is broken off
/// leaves most of its work done.
const COMMIT_BYTES: u64 = 512 << 20;

/// A snapshot and what became of it in the other repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// The snapshot in the source.
    pub source: Id,
    /// Its copy.
    pub target: Id,
}

/// A snapshot that was not copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotCopied {
    /// The snapshot in the source.
    pub source: Id,
    /// Why: what of it is damaged or missing.
    pub reason: String,
}

/// What a copy did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CopyReport {
    /// Snapshots that were copied now.
    pub copied: Vec<Copied>,
    /// Snapshots that were there already.
    pub present: Vec<Copied>,
    /// Snapshots that are damaged in the source.
    pub failed: Vec<NotCopied>,
    /// Blobs written.
    pub blobs: u64,
    /// Bytes they take.
    pub bytes: u64,
}

/// Copies `snapshots` of `source` into `target`, oldest first. The caller holds a lock on each repository, and chose
/// the snapshots after it had taken the source's.
///
/// # Errors
/// `Usage` when both are the same repository. Damage in the source is in the report; any other failure of a store
/// ends the copy, and what was committed before stays.
pub fn copy<'a>(
    source: &'a Repository,
    target: &'a Repository,
    lock: &'a LockGuard,
    snapshots: &'a [(Id, Snapshot)],
    ctx: &'a Ctx,
) -> BoxFuture<'a, Result<CopyReport>> {
    Box::pin(async move {
        if source.id() == target.id() {
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "{} and {} are the same repository: there is nothing to copy between them",
                    source.store().describe(),
                    target.store().describe()
                ),
            ));
        }
        ctx.events.event(Event::Phase("prepare"));
        // One that cannot be read is at worst copied once more.
        let there = ctx.run(target.list_snapshots()).await?.readable_only(ctx);
        let source_index = source.load_index(ctx).await?;
        let target_index = target.load_dedup_index(ctx).await?;
        let mut run = Run {
            source,
            target,
            lock,
            ctx,
            trees: TreeReader::new(source.clone(), Arc::clone(&source_index))?,
            source_index,
            writer: PackWriter::new(target),
            known: target_index.files().to_vec(),
            collector: Collector::new(target_index),
            ready: Vec::new(),
            ready_since: 0,
            report: CopyReport::default(),
            progress: Progress::default(),
        };
        ctx.events.event(Event::Phase("copy"));
        if let Err(e) = run.all(snapshots, &there).await {
            return Err(run.writer.withdraw(lock, e).await);
        }
        let written = run.writer.written();
        Ok(CopyReport { blobs: written.blobs, bytes: written.bytes, ..run.report })
    })
}

/// Whether `theirs` is a copy of the snapshot, or what it is a copy of: of the same first original, or that itself, and the
/// same in all that a person set. As restic judges it.
fn is_copy(id: Id, snapshot: &Snapshot, (their_id, theirs): &(Id, Snapshot)) -> bool {
    let original = snapshot.original.unwrap_or(id);
    // In whatever order they are written.
    let same = |a: &[String], b: &[String]| a.len() == b.len() && b.iter().all(|name| a.contains(name));
    (theirs.original == Some(original) || *their_id == original)
        && theirs.tree == snapshot.tree
        && theirs.time.timestamp == snapshot.time.timestamp
        && theirs.hostname == snapshot.hostname
        && theirs.username == snapshot.username
        && (theirs.uid, theirs.gid) == (snapshot.uid, snapshot.gid)
        && same(&theirs.paths, &snapshot.paths)
        && theirs.excludes == snapshot.excludes
        && same(&theirs.tags, &snapshot.tags)
}

struct Run<'a> {
    source: &'a Repository,
    target: &'a Repository,
    lock: &'a LockGuard,
    ctx: &'a Ctx,
    trees: TreeReader,
    source_index: Arc<Index>,
    writer: PackWriter,
    collector: Collector,
    /// Index files of the target that were read.
    known: Vec<Id>,
    /// Snapshots whose blobs were handed to the writer.
    ready: Vec<(Id, Snapshot)>,
    /// Bytes written when the last of them were committed.
    ready_since: u64,
    report: CopyReport,
    progress: Progress,
}

impl Run<'_> {
    /// Copies all of them; what was committed before a failure stays.
    async fn all(&mut self, snapshots: &[(Id, Snapshot)], there: &[(Id, Snapshot)]) -> Result<()> {
        let mut oldest_first: Vec<&(Id, Snapshot)> = snapshots.iter().collect();
        oldest_first.sort_by_key(|(id, snapshot)| (snapshot.time.timestamp, *id));
        for (id, snapshot) in oldest_first {
            self.ctx.check()?;
            if let Some((copy, _)) = there.iter().find(|theirs| is_copy(*id, snapshot, theirs)) {
                self.report.present.push(Copied { source: *id, target: *copy });
                continue;
            }
            match self.blobs_of(snapshot).await? {
                Ok(()) => self.ready.push((*id, snapshot.clone())),
                Err(e) => {
                    let reason = e.chain();
                    self.ctx.events.event(Event::Fault(Fault {
                        path: format!("snapshot {}", id.short()).into(),
                        action: "copy",
                        error: reason.clone(),
                    }));
                    self.report.failed.push(NotCopied { source: *id, reason });
                }
            }
            if self.writer.written().bytes.saturating_sub(self.ready_since) >= COMMIT_BYTES {
                self.commit().await?;
            }
        }
        self.commit().await
    }

    /// Hands all blobs of a snapshot to the writer that the target does not have. The inner error is damage in the
    /// source, the outer one anything else.
    async fn blobs_of(&mut self, snapshot: &Snapshot) -> Result<Result<()>> {
        let wanted = match self.ctx.run(self.collector.collect(&self.trees, snapshot.tree)).await {
            Ok(wanted) => wanted,
            Err(e) if is_damage(&e) => return Ok(Err(e)),
            Err(e) => return Err(e),
        };
        let bytes: u64 = wanted.iter().map(|w| u64::from(w.plain_length)).sum();
        self.progress.bytes_total = self.progress.bytes_total.saturating_add(bytes);
        self.ctx.events.event(Event::Progress(self.progress));
        let places = wanted.iter().map(|w| w.place);
        let requests = fetch::requests(places);
        let wanted = Arc::new(wanted);
        let (source, target, index) = (self.source, self.target, &self.source_index);
        let work = stream::iter(requests)
            .map(|request| {
                let wanted = Arc::clone(&wanted);
                reseal::fetch_and_reseal(source, target, index, request, wanted)
            })
            .buffer_unordered(IN_FLIGHT);
        let mut work = std::pin::pin!(work);
        let mut stored: HashSet<(BlobKind, Id)> = HashSet::with_capacity(wanted.len());
        while let Some(blobs) = self.ctx.run(async { Ok(work.next().await) }).await? {
            let blobs = match blobs {
                Ok(blobs) => blobs,
                Err(e) if is_damage(&e) => return Ok(Err(e)),
                Err(e) => return Err(e),
            };
            for (blob, plain_length) in blobs {
                self.writer.add(&blob).await?;
                stored.insert((blob.kind, blob.id));
                self.progress.bytes_done = self.progress.bytes_done.saturating_add(u64::from(plain_length));
            }
            self.ctx.events.event(Event::Progress(self.progress));
        }
        self.collector.keep(stored);
        Ok(Ok(()))
    }

    /// Makes the blobs durable, then writes the snapshots that need them.
    async fn commit(&mut self) -> Result<()> {
        self.ctx.check()?;
        self.writer.flush().await?;
        for (id, snapshot) in std::mem::take(&mut self.ready) {
            let copy = Snapshot { parent: None, original: Some(snapshot.original.unwrap_or(id)), ..snapshot };
            let known: Vec<Id> = self.known.iter().chain(self.writer.index_files()).copied().collect();
            let target = commit_snapshot(self.target, self.lock, &copy, &known, self.ctx).await?;
            self.writer.rely();
            self.report.copied.push(Copied { source: id, target });
        }
        self.ready_since = self.writer.written().bytes;
        Ok(())
    }
}
