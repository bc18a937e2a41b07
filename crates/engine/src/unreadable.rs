//! The whole list of what a backup could not read, kept in the repository beside its snapshot.
//!
//! Reports and logs name the first few and are soon gone; who restores a year later has the snapshot only. The list
//! is a file of ours, `unreadable/<snapshot>`, sealed like an index: restic does not look at it, and a snapshot
//! stays whole without it. Where a store takes no such files (a REST server), the snapshot's tag with the count is
//! all that is kept.

use futures::future::BoxFuture;
use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::event::Fault;
use crate::forget::snapshot_of;
use crate::format::records::ForgottenRecord;
use crate::format::snapshot::Snapshot;
use crate::id::Id;
use crate::pipeline::locked;
use crate::repository::Repository;
use crate::store::{FileKind, PutMode};

/// Most bytes of one list, before compression: some 400,000 entries. What comes after is only counted.
const LIMIT: usize = 64 << 20;
/// Version of the list's format.
const VERSION: u32 = 1;

/// One thing that a backup could not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    /// Its path in the source; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// The path's bytes in base64, where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_raw: Option<String>,
    /// What was tried: `open`, `read`, `list`, `xattr` ….
    pub action: String,
    /// The operating system's reason.
    pub error: String,
}

/// What a backup could not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    version: u32,
    /// The snapshot it belongs to.
    pub snapshot: Id,
    /// How many there were.
    pub total: u64,
    /// All of them, unless they were too many to keep.
    pub unreadable: Vec<Unread>,
}

/// Collects the list while the backup runs.
#[derive(Debug, Default)]
pub(crate) struct Collector(Mutex<Collected>);

#[derive(Debug, Default)]
struct Collected {
    total: u64,
    /// The entries' JSON, with commas between.
    json: Vec<u8>,
}

impl Collector {
    /// Adds one.
    pub(crate) fn add(&self, fault: &Fault) {
        let bytes = fault.path.as_os_str().as_bytes();
        let entry = Unread {
            path: fault.path.to_string_lossy().into_owned(),
            path_raw: fault.path.to_str().is_none().then(|| data_encoding::BASE64.encode(bytes)),
            action: fault.action.to_owned(),
            error: fault.error.clone(),
        };
        // A struct of strings always serialises.
        let json = serde_json::to_vec(&entry).unwrap_or_default();
        let mut collected = locked(&self.0);
        collected.total += 1;
        if !json.is_empty() && collected.json.len() + json.len() < LIMIT {
            if !collected.json.is_empty() {
                collected.json.push(b',');
            }
            collected.json.extend_from_slice(&json);
        }
    }

    /// The list's JSON; `None` when it is empty.
    fn take(&self, snapshot: &Id) -> Option<Vec<u8>> {
        let Collected { total, json } = std::mem::take(&mut *locked(&self.0));
        if total == 0 {
            return None;
        }
        let mut list =
            format!(r#"{{"version":{VERSION},"snapshot":"{snapshot}","total":{total},"unreadable":["#)
                .into_bytes();
        list.extend_from_slice(&json);
        list.extend_from_slice(b"]}");
        Some(list)
    }
}

/// Where the lists are, below the repository's location.
pub(crate) const DIRECTORY: &str = "unreadable";
/// Lists that are looked at in one sweep; what there is beyond waits for the next.
const MOST_LISTED: usize = 100_000;

fn path(snapshot: &Id) -> String {
    format!("{DIRECTORY}/{snapshot}")
}

/// Removes the lists of snapshots that are neither there nor can be brought back. The caller holds the exclusive lock:
/// a backup keeps its list just before its snapshot.
///
/// How many were removed; none where the store takes no such files.
pub(crate) async fn remove_void(
    repository: &Repository,
    snapshots: &[(Id, Snapshot)],
    forgotten: &[ForgottenRecord],
) -> Result<u64> {
    let listed = match repository.store().list_extra(DIRECTORY, MOST_LISTED).await {
        Err(e) if e.kind() == ErrorKind::Usage => return Ok(0),
        other => other?,
    };
    if listed.is_empty() {
        return Ok(0);
    }
    // A list stays where the backup put it when its snapshot gets other tags, which is another file.
    let mut kept: HashSet<Id> =
        snapshots.iter().flat_map(|(id, s)| [Some(*id), s.original]).flatten().collect();
    for record in forgotten {
        kept.insert(record.snapshot);
        kept.extend(snapshot_of(repository, record)?.original);
    }
    let mut removed = 0;
    for id in listed.iter().filter_map(|name| name.parse::<Id>().ok()).filter(|id| !kept.contains(id)) {
        match repository.store().delete_extra(&path(&id)).await {
            Ok(()) => removed += 1,
            // Locked, or not ours to delete.
            Err(e) if matches!(e.kind(), ErrorKind::AccessDenied | ErrorKind::Retained) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(removed)
}

/// Keeps the list for a snapshot that is about to be written.
pub(crate) async fn save(repository: &Repository, snapshot: &Id, list: &Collector) -> Result<()> {
    let Some(json) = list.take(snapshot) else { return Ok(()) };
    let (_, sealed) = repository.seal_unpacked(&json)?;
    match repository.store().put_extra(&path(snapshot), sealed, PutMode::CreateNew).await {
        Err(e) if e.kind() == ErrorKind::Usage => {
            tracing::warn!(error = e.chain(), "the list of unreadable files is not kept in the repository");
            Ok(())
        }
        other => other,
    }
}

impl Repository {
    /// What the backup that made this snapshot could not read; `None` when no list is kept, either because
    /// everything was read or because another program or an older release made the snapshot. A snapshot that was
    /// rewritten since (`original`) has the list of the first.
    pub fn unreadable<'a>(
        &'a self,
        id: &'a Id,
        snapshot: &'a Snapshot,
    ) -> BoxFuture<'a, Result<Option<List>>> {
        Box::pin(async move {
            match (self.unreadable_list(id).await?, snapshot.original) {
                (None, Some(original)) => self.unreadable_list(&original).await,
                (found, _) => Ok(found),
            }
        })
    }

    async fn unreadable_list(&self, snapshot: &Id) -> Result<Option<List>> {
        let path = path(snapshot);
        let Some(sealed) = self.store().get_extra(&path).await? else { return Ok(None) };
        let what = format!("the list of unreadable files {path} in {}", self.store().describe());
        let damaged = |e| Error::with_source(ErrorKind::Corrupt, format!("{what} is damaged"), e);
        // It has no digest for a name; its seal proves it, and the id inside that it is this snapshot's.
        let opened = self.open_unpacked(FileKind::Snapshot, &Id::hash(&sealed), &sealed);
        let json = opened.map_err(|e| Error::with_source(e.kind(), format!("{what} cannot be opened"), e))?;
        let list: List = serde_json::from_slice(&json).map_err(damaged)?;
        if list.version != VERSION {
            return Err(Error::new(
                ErrorKind::Format,
                format!("{what} has the version {}, which is not known here", list.version),
            ));
        }
        if list.snapshot != *snapshot {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{what} is that of snapshot {}", list.snapshot),
            ));
        }
        Ok(Some(list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::path::PathBuf;

    #[tokio::test]
    async fn every_entry_comes_back_under_its_snapshot_and_no_other() {
        let fixture = crate::repository::testing::fixture().await;
        let list = Collector::default();
        let names = (0..1000).map(|n| PathBuf::from(format!("/data/{n}")));
        let vile = PathBuf::from(OsStr::from_bytes(b"/data/\xff\"\n"));
        for path in names.chain([vile]) {
            list.add(&Fault { path, action: "open", error: "permission denied".into() });
        }
        let (ours, other) = (Id::hash(b"a"), Id::hash(b"b"));
        save(&fixture.repo, &ours, &list).await.unwrap();
        save(&fixture.repo, &other, &Collector::default()).await.unwrap();
        let read = fixture.repo.unreadable_list(&ours).await.unwrap().unwrap();
        assert_eq!((read.total, read.unreadable.len()), (1001, 1001));
        assert_eq!(read.unreadable[999].path, "/data/999");
        assert_eq!(read.unreadable[1000].path_raw.as_deref(), Some("L2RhdGEv/yIK"));
        assert_eq!(fixture.repo.unreadable_list(&other).await.unwrap(), None);
        let stored = std::fs::read(fixture.directory.path().join(path(&ours))).unwrap();
        assert!(!stored.windows(6).any(|part| part == b"/data/"), "sealed");
    }
}
