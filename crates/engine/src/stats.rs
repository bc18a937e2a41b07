//! How much is in a repository, counted in the ways restic knows.
//!
//! Not here: how much a prune would free.

use futures::future::BoxFuture;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::browse::Walk;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Ctx, Event, Progress};
use crate::format::node::{Node, NodeType};
use crate::format::pack::{BLOB_OVERHEAD, BlobKind};
use crate::format::snapshot::Snapshot;
use crate::id::Id;
use crate::index::{BlobLocation, Index};
use crate::read::TreeReader;
use crate::repository::Repository;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CountMode {
    /// What restoring each snapshot would write; hard links once a snapshot.
    #[default]
    RestoreSize,
    /// Files of different content.
    FilesByContents,
    /// Blobs in the repository that the snapshots need.
    RawData,
    /// Blobs a file, for files of different content.
    BlobsPerFile,
}

/// The result. Bytes are plain unless said otherwise; what a mode does not count is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Snapshots that were counted.
    pub snapshots: u64,
    /// Plain bytes; with `RawData` the sealed bytes in the repository.
    pub total_size: u64,
    /// Files, or with `RestoreSize` entries of any kind.
    pub files: u64,
    /// Blobs.
    pub blobs: u64,
    /// `RawData`: the bytes that the blobs would take uncompressed, sealed.
    pub uncompressed: u64,
    /// `RawData`: sealed bytes of compressed blobs.
    pub compressed_blobs: u64,
    /// `RawData`: the bytes that these would take uncompressed, sealed.
    pub compressed_blobs_plain: u64,
}

/// Counts. The index is loaded here, after the caller chose the snapshots.
pub fn stats<'a>(
    repo: &'a Repository,
    snapshots: &'a [(Id, Snapshot)],
    mode: CountMode,
    ctx: &'a Ctx,
) -> BoxFuture<'a, Result<Stats>> {
    Box::pin(async move {
        let index = repo.load_index(ctx).await?;
        let trees = Arc::new(TreeReader::new(repo.clone(), Arc::clone(&index))?);
        let mut count = Count { mode, ..Count::new(&index) };
        ctx.events.event(Event::Phase("count"));
        for (_, snapshot) in snapshots {
            count.stats.snapshots = count.stats.snapshots.saturating_add(1);
            if mode == CountMode::RawData {
                ctx.run(count.blobs_of(&trees, snapshot.tree)).await?;
                continue;
            }
            count.links.clear();
            let mut walk = Walk::new(Arc::clone(&trees), PathBuf::from("/"), snapshot.tree);
            while let Some((path, node)) = ctx.run(walk.next()).await? {
                count.entry(path, &node)?;
                let Stats { files, total_size, .. } = count.stats;
                let progress = Progress { files_done: files, bytes_done: total_size, ..Progress::default() };
                ctx.events.event(Event::Progress(progress));
            }
        }
        if mode == CountMode::RawData {
            count.raw_data(repo.version() >= 2)?;
        }
        Ok(count.stats)
    })
}

struct Count<'a> {
    mode: CountMode,
    index: &'a Index,
    stats: Stats,
    /// Hard links of this snapshot, by inode and device.
    links: HashSet<(u64, u64)>,
    /// Digests of content lists.
    contents: HashSet<Id>,
    blobs_of_files: HashMap<PathBuf, HashSet<Id>>,
    used: HashSet<(BlobKind, Id)>,
}

impl<'a> Count<'a> {
    fn new(index: &'a Index) -> Self {
        Self {
            mode: CountMode::default(),
            index,
            stats: Stats::default(),
            links: HashSet::new(),
            contents: HashSet::new(),
            blobs_of_files: HashMap::new(),
            used: HashSet::new(),
        }
    }

    fn entry(&mut self, path: PathBuf, node: &Node) -> Result<()> {
        match self.mode {
            CountMode::RestoreSize => {
                self.stats.files = self.stats.files.saturating_add(1);
                let alone = node.links == 1 || node.kind == NodeType::Dir || node.inode == 0;
                if alone || self.links.insert((node.inode, node.device_id)) {
                    self.stats.total_size = self.stats.total_size.saturating_add(node.size);
                }
            }
            CountMode::FilesByContents => {
                if self.contents.insert(digest(node)) {
                    self.stats.files = self.stats.files.saturating_add(1);
                    self.stats.total_size = self.stats.total_size.saturating_add(node.size);
                }
            }
            CountMode::BlobsPerFile => {
                if self.contents.insert(digest(node)) {
                    self.blobs_of_file(path, node)?;
                }
            }
            CountMode::RawData => {}
        }
        Ok(())
    }

    fn blobs_of_file(&mut self, path: PathBuf, node: &Node) -> Result<()> {
        let content = node.content.as_deref().unwrap_or_default();
        if content.is_empty() {
            return Ok(());
        }
        let files = &mut self.stats.files;
        let known = self.blobs_of_files.entry(path).or_insert_with(|| {
            *files = files.saturating_add(1);
            HashSet::new()
        });
        for id in content {
            if known.insert(*id) {
                let size =
                    self.index.plain_length(BlobKind::Data, id).ok_or_else(|| lost(BlobKind::Data, id))?;
                self.stats.total_size = self.stats.total_size.saturating_add(u64::from(size));
                self.stats.blobs = self.stats.blobs.saturating_add(1);
            }
        }
        Ok(())
    }

    async fn blobs_of(&mut self, trees: &TreeReader, root: Id) -> Result<()> {
        used_blobs(trees, root, &mut self.used).await
    }

    fn raw_data(&mut self, compresses: bool) -> Result<()> {
        for (kind, id) in &self.used {
            let place = self.index.find(*kind, id).ok_or_else(|| lost(*kind, id))?;
            let BlobLocation { length, uncompressed, .. } = place;
            let add = |to: &mut u64, bytes: u32| *to = to.saturating_add(u64::from(bytes));
            add(&mut self.stats.total_size, length);
            add(&mut self.stats.blobs, 1);
            if compresses {
                let plain = place.plain_length().saturating_add(BLOB_OVERHEAD);
                add(&mut self.stats.uncompressed, plain);
                if uncompressed.is_some() {
                    add(&mut self.stats.compressed_blobs, length);
                    add(&mut self.stats.compressed_blobs_plain, plain);
                }
            }
        }
        Ok(())
    }
}

/// Adds every blob that a tree needs. Directories that are in `used` already are not entered again.
pub(crate) async fn used_blobs(
    trees: &TreeReader,
    root: Id,
    used: &mut HashSet<(BlobKind, Id)>,
) -> Result<()> {
    let mut stack = vec![root];
    while let Some(id) = stack.pop() {
        if !used.insert((BlobKind::Tree, id)) {
            continue;
        }
        let tree = trees.load(&id).await?;
        for node in &tree.nodes {
            used.extend(node.content.iter().flatten().map(|id| (BlobKind::Data, *id)));
            if node.kind == NodeType::Dir {
                stack.extend(node.subtree);
            }
        }
    }
    Ok(())
}

/// What a file's content is told apart by.
fn digest(node: &Node) -> Id {
    let ids = node.content.as_deref().unwrap_or_default();
    Id::hash(&ids.iter().flat_map(|id| *id.as_bytes()).collect::<Vec<u8>>())
}

fn lost(kind: BlobKind, id: &Id) -> Error {
    Error::new(ErrorKind::Missing, format!("the {} blob {id} is in no index; run a check", kind.as_str()))
}
