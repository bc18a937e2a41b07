//! Reading snapshots: all of them, or the one a person means.

use futures::{StreamExt, TryStreamExt, stream};

use super::{PARALLEL, Repository};
use crate::error::{Error, ErrorKind, Result};
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
}

impl Repository {
    /// One snapshot.
    pub async fn load_snapshot(&self, id: &Id) -> Result<Snapshot> {
        let json = self.load_unpacked(FileKind::Snapshot, id).await?;
        serde_json::from_slice(&json)
            .map_err(|e| Error::with_source(ErrorKind::Corrupt, format!("snapshot {id} is not readable"), e))
    }

    /// All snapshots, oldest first. One that vanishes meanwhile was forgotten by somebody and is left out.
    pub async fn snapshots(&self) -> Result<Vec<(Id, Snapshot)>> {
        self.listed_snapshots(self.store().list(FileKind::Snapshot).await?).await
    }

    /// Those of a listing, oldest first, without those that have vanished since.
    pub(crate) async fn listed_snapshots(&self, listed: Vec<Entry>) -> Result<Vec<(Id, Snapshot)>> {
        let mut snapshots: Vec<(Id, Snapshot)> = stream::iter(listed)
            .map(|entry| async move {
                match self.load_snapshot(&entry.id).await {
                    Ok(snapshot) => Ok(Some((entry.id, snapshot))),
                    Err(e) if e.kind() == ErrorKind::Missing => Ok(None),
                    Err(e) => Err(e),
                }
            })
            .buffer_unordered(PARALLEL)
            .try_filter_map(|found| async move { Ok::<_, Error>(found) })
            .try_collect()
            .await?;
        snapshots.sort_by_key(|(id, s)| (s.time.timestamp, *id));
        Ok(snapshots)
    }

    /// The snapshot that `spec` means: an id, the beginning of exactly one id, or `latest` among those that
    /// `filter` lets through.
    pub async fn find_snapshot(&self, spec: &str, filter: &SnapshotFilter) -> Result<(Id, Snapshot)> {
        if spec == "latest" {
            let all = self.snapshots().await?;
            let count = all.len();
            return all.into_iter().rfind(|(_, s)| filter.matches(s)).ok_or_else(|| {
                Error::new(
                    ErrorKind::EmptySelection,
                    format!("none of the {count} snapshots in {} is meant by \"latest\" with this host, path and tag",
                        self.store().describe()),
                )
            });
        }
        if spec.is_empty() || !spec.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) || spec.len() > 64
        {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("{spec:?} is no snapshot: write an id, the beginning of one, or \"latest\""),
            ));
        }
        let id = self.find_file(FileKind::Snapshot, spec).await?;
        Ok((id, self.load_snapshot(&id).await?))
    }
}
