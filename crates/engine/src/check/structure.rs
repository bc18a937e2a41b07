//! Structure: index files, packs against the index, and every directory that a snapshot reaches.
//!
//! Not here: what the packs' bytes are (`data`).

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt as _, stream};

use super::{Findings, Tools, on_threads};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Progress};
use crate::format::node::{Node, NodeType};
use crate::format::pack::BlobKind;
use crate::format::snapshot::Snapshot;
use crate::format::tree::Tree;
use crate::id::Id;
use crate::index::{BlobLocation, Index, IndexBuilder};
use crate::read::fetch::{self, Place};
use crate::read::{BlobOpener, is_damage};
use crate::store::{Entry, FileKind};

/// Directories looked at together: sorted by pack, so that each pack is read in few requests.
const WAVE: usize = 20_000;
/// Small files read at once.
const PARALLEL: usize = 8;

/// What the structure check has learned and the data check needs.
pub(super) struct Known {
    pub(super) index: Arc<Index>,
    /// Packs in the store with their sizes.
    pub(super) packs: HashMap<Id, u64>,
}

/// A directory to look at, and where it was met first.
struct Pending {
    tree: Id,
    path: String,
}

pub(super) fn check(tools: &Tools, findings: &Findings<'_>) -> Result<Known> {
    // In this order everything a snapshot needs was written before what is listed here: a backup that runs
    // meanwhile is no damage.
    let snapshots = tools.runtime.block_on(findings.ctx.run(load_snapshots(tools, findings)))?;
    let index = tools.runtime.block_on(findings.ctx.run(load_index(tools, findings)))?;
    let listed = tools.runtime.block_on(findings.ctx.run(tools.repo.store().list(FileKind::Pack)))?;
    let packs: HashMap<Id, u64> = listed.iter().map(|e| (e.id, e.size)).collect();
    findings.update(|report| {
        report.snapshots = snapshots.len() as u64;
        report.packs = packs.len() as u64;
        report.pack_bytes = packs.values().fold(0, |sum, size| sum.saturating_add(*size));
        report.blobs = index.len() as u64;
    });
    let unusable = compare_packs(&index, &packs, &listed, findings);
    note_duplicates(&index, findings);
    let mut trees = Trees { tools, findings, index: &index, unusable, seen: HashSet::new() };
    trees.check_all(&snapshots)?;
    Ok(Known { index, packs })
}

async fn load_snapshots(tools: &Tools, findings: &Findings<'_>) -> Result<Vec<(Id, Snapshot)>> {
    let listed = tools.repo.store().list(FileKind::Snapshot).await?;
    let mut loads = stream::iter(listed)
        .map(|entry| async move { (entry.id, tools.repo.load_snapshot(&entry.id).await) })
        .buffer_unordered(PARALLEL);
    let mut snapshots = Vec::new();
    while let Some((id, loaded)) = loads.next().await {
        match loaded {
            Ok(snapshot) => snapshots.push((id, snapshot)),
            // Forgotten by somebody since it was listed.
            Err(e) if e.kind() == ErrorKind::Missing => {}
            // Intact, and nothing to be removed: whoever wrote it can read it.
            Err(e) if e.kind() == ErrorKind::Format => {
                findings.error(format!("unknown snapshot {id}"), e.chain());
            }
            Err(e) if is_damage(&e) => findings.error(format!("snapshot {id}"), e.chain()),
            Err(e) => return Err(e),
        }
    }
    snapshots.sort_by_key(|(id, s)| (s.time.timestamp, *id));
    Ok(snapshots)
}

/// Loads what can be loaded of the index, so that one bad file does not hide all else.
async fn load_index(tools: &Tools, findings: &Findings<'_>) -> Result<Arc<Index>> {
    let listed = tools.repo.store().list(FileKind::Index).await?;
    let mut loads = stream::iter(listed)
        .map(|entry: Entry| async move { (entry.id, tools.repo.load_index_file(&entry.id).await) })
        .buffer_unordered(PARALLEL);
    let mut builder = IndexBuilder::new();
    let mut vanished = 0_u32;
    while let Some((id, loaded)) = loads.next().await {
        match loaded {
            Ok(file) => builder.add(id, file),
            Err(e) if e.kind() == ErrorKind::Missing => vanished += 1,
            Err(e) if is_damage(&e) => findings.error(
                format!("index {id}"),
                format!("{}; the packs only it lists count as unindexed", e.chain()),
            ),
            Err(e) => return Err(e),
        }
    }
    if vanished > 0 {
        return Err(Error::new(
            ErrorKind::Listing,
            format!(
                "{vanished} index files vanished while they were read: another client prunes; check again"
            ),
        ));
    }
    Ok(Arc::new(builder.finish()))
}

/// Compares packs with what the index says of them; returns the numbers of those whose blobs cannot be read.
fn compare_packs(
    index: &Index,
    packs: &HashMap<Id, u64>,
    listed: &[Entry],
    findings: &Findings<'_>,
) -> HashSet<u32> {
    let mut unusable = HashSet::new();
    let mut indexed = HashSet::with_capacity(index.packs().len());
    for (number, pack) in (0_u32..).zip(index.packs()) {
        indexed.insert(pack.id);
        let object = format!("pack {}", pack.id);
        match packs.get(&pack.id) {
            None => {
                unusable.insert(number);
                if pack.marked {
                    // As a sweep that died leaves it. What a snapshot needs of it is told where that is needed.
                    findings.note(object, "waits to be deleted and is gone already");
                } else {
                    findings
                        .error(object, format!("is missing; the index says it holds {} blobs", pack.blobs));
                }
            }
            Some(size) if *size != pack.size => {
                findings
                    .error(object, format!("has {size} bytes; by the index it should have {}", pack.size));
            }
            Some(_) if pack.has_data && pack.has_trees => {
                findings.note(object, "holds both data and directories; very old clients wrote such packs");
            }
            Some(_) => {}
        }
    }
    let unindexed: Vec<&Entry> = listed.iter().filter(|e| !indexed.contains(&e.id)).collect();
    if let Some(first) = unindexed.first() {
        // A store may claim any size.
        let bytes = unindexed.iter().fold(0_u64, |sum, e| sum.saturating_add(e.size));
        findings.note(
            format!("pack {}", first.id),
            format!(
                "{} packs of {bytes} bytes are in no index: left by an interrupted backup, or being written now",
                unindexed.len()
            ),
        );
    }
    unusable
}

fn note_duplicates(index: &Index, findings: &Findings<'_>) {
    let (mut count, mut bytes) = (0_u64, 0_u64);
    let mut last: Option<(BlobKind, Id)> = None;
    for (kind, id, location) in index.iter() {
        if last.replace((kind, id)) == Some((kind, id)) {
            count = count.saturating_add(1);
            bytes = bytes.saturating_add(location.length.into());
        }
    }
    if count > 0 {
        findings.note("index", format!("{count} blobs of {bytes} bytes are stored more than once"));
    }
}

struct Trees<'a> {
    tools: &'a Tools,
    findings: &'a Findings<'a>,
    index: &'a Arc<Index>,
    unusable: HashSet<u32>,
    seen: HashSet<Id>,
}

impl Trees<'_> {
    fn check_all(&mut self, snapshots: &[(Id, Snapshot)]) -> Result<()> {
        let mut pending: Vec<Pending> = Vec::new();
        for (id, snapshot) in snapshots {
            if self.seen.insert(snapshot.tree) {
                pending.push(Pending { tree: snapshot.tree, path: format!("snapshot {}:/", id.short()) });
            }
        }
        while !pending.is_empty() {
            self.findings.go_on()?;
            // From the end: the frontier stays small, as in a walk depth first.
            let wave = pending.split_off(pending.len().saturating_sub(WAVE));
            for next in self.check_wave(&wave)? {
                if self.seen.insert(next.tree) {
                    pending.push(next);
                }
            }
            let trees = self.seen.len() as u64;
            let files = self.findings.update(|report| {
                report.trees = trees.saturating_sub(pending.len() as u64);
                report.files
            });
            self.findings
                .ctx
                .events
                .event(Event::Progress(Progress { files_done: files, ..Progress::default() }));
        }
        Ok(())
    }

    /// Reads directories and returns those in them.
    fn check_wave(&self, wave: &[Pending]) -> Result<Vec<Pending>> {
        let mut found: Vec<(&Pending, BlobLocation)> = Vec::with_capacity(wave.len());
        for pending in wave {
            let usable = self
                .index
                .lookup(BlobKind::Tree, &pending.tree)
                .find(|copy| !self.unusable.contains(&copy.pack_number));
            match usable {
                Some(location) => found.push((pending, location)),
                None => self.findings.error(
                    pending.path.clone(),
                    format!("the directory {} is missing, and all that is in it", pending.tree),
                ),
            }
        }
        found.sort_unstable_by_key(|(_, l)| place(l));
        let requests = fetch::requests(found.iter().map(|(_, l)| place(l)));
        let total = requests.len();
        let index = Arc::clone(self.index);
        let fetched = fetch::spawn(
            Arc::clone(self.tools.repo.store()),
            move |number| index.packs().get(number as usize).map(|p| p.id),
            requests,
            self.findings.ctx.cancel.clone(),
            &self.tools.runtime,
        );
        let next = Mutex::new(Vec::new());
        let done = Mutex::new(0_usize);
        on_threads(|| {
            let mut opener = BlobOpener::new()?;
            for got in &fetched {
                self.findings.go_on()?;
                if let Err(e) = &got.bytes
                    && !is_damage(e)
                {
                    return Err(Error::new(
                        e.kind(),
                        format!("directories could not be read: {}", e.chain()),
                    ));
                }
                for (pending, location) in found.get(got.request.blobs.clone()).unwrap_or_default() {
                    let sealed = got.slice(place(location)).unwrap_or_default();
                    if let Some(tree) = self.open(&mut opener, pending, location, sealed)? {
                        let inner = self.check_tree(pending, &tree);
                        next.lock().unwrap_or_else(PoisonError::into_inner).extend(inner);
                    }
                }
                *done.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            }
            Ok(())
        })?;
        self.findings.go_on()?;
        if done.into_inner().unwrap_or_else(PoisonError::into_inner) != total {
            return Err(Error::new(ErrorKind::Internal, "not all directories were looked at: a bug"));
        }
        Ok(next.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn open(
        &self,
        opener: &mut BlobOpener,
        pending: &Pending,
        location: &BlobLocation,
        sealed: &[u8],
    ) -> Result<Option<Tree>> {
        let key = self.tools.repo.key();
        let again;
        let json = if let Ok(plain) =
            opener.open(key, sealed, BlobKind::Tree, &pending.tree, location.uncompressed)
        {
            plain
        } else {
            // Damaged on the way, or in this copy only.
            let load = self.tools.repo.load_blob(self.index, BlobKind::Tree, &pending.tree);
            again = match self.tools.runtime.block_on(self.findings.ctx.run(load)) {
                Ok(plain) => plain,
                Err(e) if is_damage(&e) => {
                    self.findings
                        .error(pending.path.clone(), format!("the directory is lost: {}", e.chain()));
                    return Ok(None);
                }
                Err(e) => return Err(e),
            };
            &again
        };
        match Tree::parse(json) {
            Ok(tree) => Ok(Some(tree)),
            Err(e) => {
                self.findings.error(pending.path.clone(), e.chain());
                Ok(None)
            }
        }
    }

    /// Looks at each entry of a directory and returns the directories among them.
    fn check_tree(&self, dir: &Pending, tree: &Tree) -> Vec<Pending> {
        let mut inner = Vec::new();
        let mut files = 0_u64;
        for node in &tree.nodes {
            if let Some(problem) = self.problem(node) {
                self.findings.error(join(&dir.path, &node.name), problem);
            }
            match (node.kind, node.subtree) {
                (NodeType::Dir, Some(tree)) => {
                    inner.push(Pending { tree, path: join(&dir.path, &node.name) });
                }
                (NodeType::File, _) => files = files.saturating_add(1),
                _ => {}
            }
        }
        self.findings.update(|report| report.files = report.files.saturating_add(files));
        inner
    }

    fn problem(&self, node: &Node) -> Option<String> {
        let name = node.name.as_slice();
        if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') || name.contains(&0) {
            return Some("its name is none that a file can have".to_owned());
        }
        match node.kind {
            NodeType::Dir if node.subtree.is_none() => Some("the directory has no tree".to_owned()),
            // No system makes one.
            NodeType::Symlink if node.link_target.is_empty() || node.link_target.contains(&0) => {
                Some("the link leads to nothing that has a name".to_owned())
            }
            NodeType::File => {
                let Some(content) = &node.content else {
                    return Some("the file has no content list".to_owned());
                };
                let mut size = 0_u64;
                for id in content {
                    let copy = self
                        .index
                        .lookup(BlobKind::Data, id)
                        .find(|copy| !self.unusable.contains(&copy.pack_number));
                    let Some(copy) = copy else {
                        return Some(format!("its content at byte {size}, chunk {id}, is missing"));
                    };
                    size = size.saturating_add(copy.plain_length().into());
                }
                (size != node.size)
                    .then(|| format!("it should have {} bytes, and its chunks have {size}", node.size))
            }
            _ => None,
        }
    }
}

fn place(location: &BlobLocation) -> Place {
    Place { pack: location.pack_number, offset: location.offset, length: location.length }
}

fn join(dir: &str, name: &[u8]) -> String {
    let mut path = dir.to_owned();
    if !path.ends_with('/') {
        path.push('/');
    }
    // Writing to a string cannot fail.
    let _ = write!(path, "{}", String::from_utf8_lossy(name));
    path
}
