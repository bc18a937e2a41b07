//! Reading snapshots: all of them, or the one a person means.

use futures::future::BoxFuture;
use futures::{StreamExt, stream};

use super::{PARALLEL, Repository};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Ctx, Event};
use crate::forget::{self, UNDO_TAG};
use crate::format::snapshot::Snapshot;
use crate::id::Id;
use crate::store::{Entry, FileKind};

/// Which snapshots are meant; each empty list means any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotFilter {
    /// One of these hosts.
    pub hosts: Vec<String>,
    /// All of these paths.
    pub paths: Vec<String>,
    /// One of these; each may name several tags with commas between, all of which must be there.
    pub tags: Vec<String>,
}

impl SnapshotFilter {
    /// Whether `snapshot` is meant.
    pub fn matches(&self, snapshot: &Snapshot) -> bool {
        let host = self.hosts.is_empty() || self.hosts.contains(&snapshot.hostname);
        let paths = self.paths.iter().all(|p| snapshot.paths.contains(p));
        let tags = self.tags.is_empty()
            || self.tags.iter().any(|all| {
                all.split(',')
                    .map(str::trim)
                    .filter(|t| !t.is_empty())
                    .all(|t| snapshot.tags.iter().any(|s| s == t))
            });
        host && paths && tags
    }

    /// Whether `latest` may mean `snapshot`: what a restore saved of what it was about to overwrite is what somebody wanted to be
    /// rid of, and is meant only by an id or its tag.
    fn may_be_latest(&self, snapshot: &Snapshot) -> bool {
        let names_it = self.tags.iter().any(|tags| tags.contains(UNDO_TAG));
        self.matches(snapshot) && (names_it || !forget::is_safety(snapshot))
    }
}

/// A snapshot that cannot be read: nobody here can tell what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadSnapshot {
    /// The snapshot.
    pub id: Id,
    /// Why it cannot be read.
    pub reason: String,
}

/// The snapshots of a repository, those that cannot be read set apart. One that vanished while they were read was forgotten
/// by somebody and is in no list.
#[derive(Debug, Clone, Default)]
pub struct SnapshotList {
    /// Those that can be read, oldest first.
    pub readable: Vec<(Id, Snapshot)>,
    /// Those whose files are not what their names or MACs say, by id.
    pub damaged: Vec<UnreadSnapshot>,
    /// Those that are intact and not understood, by id: another program, or a newer release, wrote them.
    pub unknown: Vec<UnreadSnapshot>,
}

impl SnapshotList {
    /// Whether there is one that cannot be read.
    pub fn has_unread(&self) -> bool {
        !self.damaged.is_empty() || !self.unknown.is_empty()
    }

    /// All snapshots, for work that must not overlook one.
    ///
    /// # Errors
    /// `SnapshotDamaged` or `Format` when there is one that cannot be read.
    pub fn all(self) -> Result<Vec<(Id, Snapshot)>> {
        self.demand_all("so that what is needed of the repository is not known")?;
        Ok(self.readable)
    }

    /// Tells of those that cannot be read, and returns the others.
    pub fn readable_only(self, ctx: &Ctx) -> Vec<(Id, Snapshot)> {
        for UnreadSnapshot { id, reason } in self.damaged.into_iter().chain(self.unknown) {
            ctx.events.event(Event::SnapshotLeftOut { id, error: reason });
        }
        self.readable
    }

    /// Fails, with what follows from it, when there is one that cannot be read.
    fn demand_all(&self, so: &str) -> Result<()> {
        let (kind, what, unread) = if self.damaged.is_empty() {
            (ErrorKind::Format, "is not understood", &self.unknown)
        } else {
            (ErrorKind::SnapshotDamaged, "is damaged", &self.damaged)
        };
        let Some((first, others)) = unread.split_first() else { return Ok(()) };
        let more = if others.is_empty() { String::new() } else { format!(", as are {} more", others.len()) };
        Err(Error::new(kind, format!("snapshot {} {what} ({}){more}, {so}", first.id, first.reason)))
    }
}

impl Repository {
    /// One snapshot.
    pub async fn load_snapshot(&self, id: &Id) -> Result<Snapshot> {
        let json = self.load_unpacked(FileKind::Snapshot, id).await?;
        // Its digest and its MAC are right: somebody meant it so, and another program may understand it.
        serde_json::from_slice(&json)
            .map_err(|e| Error::with_source(ErrorKind::Format, format!("snapshot {id} is not understood"), e))
    }

    /// All snapshots, oldest first: for work that must not overlook one, as a prune.
    ///
    /// # Errors
    /// As of [`SnapshotList::all`].
    pub async fn snapshots(&self) -> Result<Vec<(Id, Snapshot)>> {
        self.list_snapshots().await?.all()
    }

    /// The snapshots, for work that does not need all of them.
    pub fn list_snapshots(&self) -> BoxFuture<'_, Result<SnapshotList>> {
        Box::pin(async move { self.listed_snapshots(self.store().list(FileKind::Snapshot).await?).await })
    }

    /// Those of a listing.
    pub(crate) async fn listed_snapshots(&self, listed: Vec<Entry>) -> Result<SnapshotList> {
        let mut loads = stream::iter(listed)
            .map(|entry| async move { (entry.id, self.load_snapshot(&entry.id).await) })
            .buffer_unordered(PARALLEL);
        let mut list = SnapshotList::default();
        while let Some((id, loaded)) = loads.next().await {
            match loaded {
                Ok(snapshot) => list.readable.push((id, snapshot)),
                Err(e) if e.kind() == ErrorKind::Missing => {}
                Err(e) => {
                    let set_apart = match e.kind() {
                        ErrorKind::Corrupt => &mut list.damaged,
                        ErrorKind::Format => &mut list.unknown,
                        _ => return Err(e),
                    };
                    set_apart.push(UnreadSnapshot { id, reason: e.chain() });
                }
            }
        }
        list.readable.sort_by_key(|(id, s)| (s.time.timestamp, *id));
        for unread in [&mut list.damaged, &mut list.unknown] {
            unread.sort_by_key(|unread| unread.id);
        }
        Ok(list)
    }

    /// The snapshot that `spec` means: an id, the beginning of exactly one id, or `latest` among those that
    /// `filter` lets through. The latest is never what a restore saved of what it overwrote, unless its tag is asked for.
    ///
    /// # Errors
    /// `SnapshotDamaged` or `Format` for `latest` where one cannot be read: it may be the newest.
    pub fn find_snapshot<'a>(
        &'a self,
        spec: &'a str,
        filter: &'a SnapshotFilter,
    ) -> BoxFuture<'a, Result<(Id, Snapshot)>> {
        Box::pin(async move {
            if spec == "latest" {
                let list = self.list_snapshots().await?;
                let readable = list.readable.iter().rfind(|(_, s)| filter.may_be_latest(s)).map_or_else(
                    || "no other one is meant by it".to_owned(),
                    |(id, s)| format!("the newest that can be read is {id} of {}", s.time.timestamp),
                );
                list.demand_all(&format!("so that \"latest\" cannot be told; {readable}"))?;
                let count = list.readable.len();
                let newest = list.readable.into_iter().rfind(|(_, s)| filter.may_be_latest(s));
                return newest.ok_or_else(|| {
                Error::new(
                    ErrorKind::EmptySelection,
                    format!("none of the {count} snapshots in {} is meant by \"latest\" with this host, path and tag",
                        self.store().describe()),
                )
            });
            }
            if spec.is_empty()
                || !spec.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
                || spec.len() > 64
            {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("{spec:?} is no snapshot: write an id, the beginning of one, or \"latest\""),
                ));
            }
            let id = self.find_file(FileKind::Snapshot, spec).await?;
            Ok((id, self.load_snapshot(&id).await?))
        })
    }
}
