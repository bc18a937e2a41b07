//! Where in snapshots blobs, directories and packs are used, by their ids: for people who look into a damaged repository.

use futures::future::BoxFuture;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::walk::Walk;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Ctx, Event, Fault};
use crate::format::pack::BlobKind;
use crate::format::snapshot::Snapshot;
use crate::id::Id;
use crate::index::Index;
use crate::read::{TreeReader, is_damage};
use crate::repository::Repository;
use crate::store::FileKind;

/// The fewest digits of an id that are taken for one: as many as ids are shown with.
const FEWEST_DIGITS: usize = 8;

/// What to look for: ids, or beginnings of at least 8 digits. Blobs and directories need not be in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectSpec {
    /// Pieces of files.
    Blobs(Vec<String>),
    /// Directories.
    Trees(Vec<String>),
    /// All that is in packs, as the packs themselves say, or the index says of those that cannot be read.
    Packs(Vec<String>),
}

/// A place where something is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundObject {
    /// What it is.
    pub kind: BlobKind,
    /// Its whole id.
    pub id: Id,
    /// The file it is a piece of, or the directory it is.
    pub path: PathBuf,
    /// The directory of the file; none of a directory.
    pub parent: Option<Id>,
}

/// Looks through snapshots; keeps the directories it has read.
pub struct ObjectFinder {
    trees: Arc<TreeReader>,
    blobs: Wanted,
    directories: Wanted,
}

#[derive(Default)]
struct Wanted {
    ids: HashSet<Id>,
    beginnings: Vec<String>,
}

impl Wanted {
    fn new(texts: &[String]) -> Result<Self> {
        let mut wanted = Self::default();
        for text in texts {
            if let Ok(id) = text.parse::<Id>() {
                wanted.ids.insert(id);
            } else {
                wanted.beginnings.push(beginning(text)?.to_owned());
            }
        }
        Ok(wanted)
    }

    fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.beginnings.is_empty()
    }

    fn has(&self, id: &Id) -> bool {
        self.ids.contains(id)
            || (!self.beginnings.is_empty() && {
                let hex = id.to_hex();
                self.beginnings.iter().any(|text| hex.starts_with(text))
            })
    }
}

fn beginning(text: &str) -> Result<&str> {
    let digits = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if digits && (FEWEST_DIGITS..64).contains(&text.len()) {
        return Ok(text);
    }
    Err(Error::new(
        ErrorKind::Usage,
        format!("{text:?} is no id: write all of its 64 digits, or its first {FEWEST_DIGITS} or more"),
    ))
}

impl ObjectFinder {
    /// Reads what the packs hold, where packs are looked for.
    pub fn new<'a>(
        repo: &'a Repository,
        index: &'a Arc<Index>,
        spec: &'a ObjectSpec,
        ctx: &'a Ctx,
    ) -> BoxFuture<'a, Result<Self>> {
        Box::pin(async move {
            let (blobs, directories) = match spec {
                ObjectSpec::Blobs(texts) => (Wanted::new(texts)?, Wanted::default()),
                ObjectSpec::Trees(texts) => (Wanted::default(), Wanted::new(texts)?),
                ObjectSpec::Packs(texts) => in_packs(repo, index, texts, ctx).await?,
            };
            let trees = Arc::new(TreeReader::new(repo.clone(), Arc::clone(index))?);
            Ok(Self { trees, blobs, directories })
        })
    }

    /// All places in one snapshot, in the order of a listing. Directories that cannot be read are told as faults and
    /// passed over: whether what they held is used in them is not known.
    pub fn find<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        ctx: &'a Ctx,
    ) -> BoxFuture<'a, Result<Vec<FoundObject>>> {
        Box::pin(async move {
            let mut found = Vec::new();
            let root = PathBuf::from("/");
            if self.directories.has(&snapshot.tree) {
                found.push(FoundObject {
                    kind: BlobKind::Tree,
                    id: snapshot.tree,
                    path: root.clone(),
                    parent: None,
                });
            }
            // The tree of each directory on the way down, to name it as the parent of a file.
            let mut above: Vec<(PathBuf, Id)> = vec![(root.clone(), snapshot.tree)];
            let mut last = root.clone();
            let mut walk = Walk::new(Arc::clone(&self.trees), root, snapshot.tree);
            loop {
                let (path, node) = match ctx.run(walk.next()).await {
                    Ok(Some(entry)) => entry,
                    Ok(None) => return Ok(found),
                    Err(e) if is_damage(&e) => {
                        let fault = Fault { path: last.clone(), action: "look into", error: e.chain() };
                        ctx.events.event(Event::Fault(fault));
                        continue;
                    }
                    Err(e) => return Err(e),
                };
                let directory = path.parent().unwrap_or(Path::new("/"));
                while above.len() > 1 && above.last().is_some_and(|(at, _)| at != directory) {
                    above.pop();
                }
                let parent = above.last().map(|(_, id)| *id);
                if let Some(tree) = node.subtree {
                    above.push((path.clone(), tree));
                    if self.directories.has(&tree) {
                        let path = path.clone();
                        found.push(FoundObject { kind: BlobKind::Tree, id: tree, path, parent: None });
                    }
                }
                if !self.blobs.is_empty() {
                    let pieces = node.content.iter().flatten().filter(|id| self.blobs.has(id));
                    found.extend(pieces.map(|id| FoundObject {
                        kind: BlobKind::Data,
                        id: *id,
                        path: path.clone(),
                        parent,
                    }));
                }
                last = path;
            }
        })
    }
}

/// What these packs hold: pieces of files, and directories.
async fn in_packs(
    repo: &Repository,
    index: &Arc<Index>,
    texts: &[String],
    ctx: &Ctx,
) -> Result<(Wanted, Wanted)> {
    let packs = Wanted::new(texts)?;
    let (mut blobs, mut directories) = (Wanted::default(), Wanted::default());
    let mut add = |kind, id| match kind {
        BlobKind::Data => blobs.ids.insert(id),
        BlobKind::Tree => directories.ids.insert(id),
    };
    let mut read: HashSet<Id> = HashSet::new();
    for entry in ctx.run(repo.store().list(FileKind::Pack)).await? {
        if packs.has(&entry.id) {
            match ctx.run(repo.load_pack_header(&entry.id, entry.size)).await {
                Ok(header) => {
                    for blob in header {
                        add(blob.kind, blob.id);
                    }
                    read.insert(entry.id);
                }
                // The index may know.
                Err(e) if is_damage(&e) => {}
                Err(e) => return Err(e),
            }
        }
    }
    let rest: HashSet<Id> =
        index.packs().iter().map(|pack| pack.id).filter(|id| packs.has(id) && !read.contains(id)).collect();
    if !rest.is_empty() {
        for (kind, id, _) in index.iter().filter(|(.., place)| rest.contains(&place.pack)) {
            add(kind, id);
        }
    }
    read.extend(rest);
    let known = |text: &&String| !read.iter().any(|id| id.to_hex().starts_with(text.as_str()));
    match texts.iter().find(known) {
        None => Ok((blobs, directories)),
        Some(text) => Err(Error::new(
            ErrorKind::EmptySelection,
            format!("there is no pack {text} in {}, nor does the index know it", repo.store().describe()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_whole_or_long_enough_beginnings() {
        let id = Id::from_bytes([0xab; 32]);
        let wanted = |texts: &[&str]| Wanted::new(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        assert!(wanted(&["abababab"]).unwrap().has(&id));
        assert!(wanted(&[&id.to_hex()]).unwrap().has(&id));
        assert!(!wanted(&["ababababcc"]).unwrap().has(&id));
        for bad in ["", "abababa", "xyzxyzxyz", "ABABABAB"] {
            assert!(wanted(&[bad]).is_err(), "{bad}");
        }
    }
}
