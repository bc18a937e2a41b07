//! Directories on their way to becoming trees: each waits for its entries and is closed by the last of them.
//!
//! Not here: serialising and storing the closed tree (`worker`).

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::state::{Relation, State, join, locked};
use crate::error::Result as EngineResult;
use crate::format::node::Node;
use crate::format::tree::TreeWriter;
use crate::id::Id;

/// A directory that is being backed up.
pub(crate) struct Dir {
    /// Where it goes in the directory above; `None` for the snapshot's root.
    up: Option<Slot>,
    /// Absolute path, for faults and patterns.
    pub(crate) path: PathBuf,
    inner: Mutex<Inner>,
    /// Entries that are not there yet, and one while the directory is still being listed.
    pending: AtomicUsize,
}

#[derive(Default)]
struct Inner {
    /// Its own metadata; `None` for the snapshot's root.
    node: Option<Node>,
    /// What the parent snapshot has in its place.
    previous: Option<Node>,
    /// Entries in ascending order; `None` where nothing came of it.
    entries: Vec<Option<Node>>,
    /// The directories among its entries that are not there yet, for checkpoints.
    open: BTreeMap<usize, Weak<Dir>>,
}

/// A place in a directory that one entry will fill.
#[derive(Clone)]
pub(crate) struct Slot {
    dir: Arc<Dir>,
    index: usize,
    /// Where the entry lies on the disk and what it is called in the tree, where neither follows from the directory:
    /// for some roots.
    aside: Option<Arc<Aside>>,
}

/// An entry that lies elsewhere on the disk than its directory in the tree says.
pub(crate) struct Aside {
    /// The directory that it lies in.
    pub(crate) above: PathBuf,
    /// Its name in the tree.
    pub(crate) name: Vec<u8>,
}

/// A directory whose entries are all there.
pub(crate) struct Closed {
    pub(crate) dir: Arc<Dir>,
}

/// The finished part of a directory that is open.
pub(crate) struct Partial {
    pub(crate) id: Id,
    /// The tree's JSON.
    pub(crate) json: Vec<u8>,
    /// The directory's own metadata.
    pub(crate) node: Option<Node>,
}

/// What a closed directory consists of.
pub(crate) struct Content {
    pub(crate) node: Option<Node>,
    pub(crate) previous: Option<Node>,
    pub(crate) entries: Vec<Node>,
}

impl Dir {
    /// A directory that is about to be listed.
    pub(crate) fn new(up: Option<Slot>, path: PathBuf, previous: Option<Node>) -> Arc<Self> {
        let inner = Inner { previous, ..Inner::default() };
        let dir = Arc::new(Self { up, path, inner: Mutex::new(inner), pending: AtomicUsize::new(1) });
        if let Some(slot) = &dir.up {
            locked(&slot.dir.inner).open.insert(slot.index, Arc::downgrade(&dir));
        }
        dir
    }

    /// The directories in it that are open, by the index of their place.
    pub(crate) fn open_below(&self) -> Vec<(usize, Weak<Self>)> {
        locked(&self.inner).open.iter().map(|(index, dir)| (*index, Weak::clone(dir))).collect()
    }

    /// What is finished of it, as a tree. `below` are the nodes of
    /// open directories, by the index of their place. `None` while there is nothing to tell.
    pub(crate) fn partial(&self, below: &HashMap<usize, Node>) -> EngineResult<Option<Partial>> {
        let inner = locked(&self.inner);
        let mut writer = TreeWriter::new();
        let mut some = false;
        for (index, entry) in inner.entries.iter().enumerate() {
            if let Some(node) = entry.as_ref().or_else(|| below.get(&index)) {
                writer.push(node)?;
                some = true;
            }
        }
        let node = inner.node.clone();
        drop(inner);
        if !some {
            return Ok(None);
        }
        let (id, json) = writer.finish_with_id();
        Ok(Some(Partial { id, json, node }))
    }

    /// Its metadata, once it is open.
    pub(crate) fn set_node(&self, mut node: Node) {
        if let Some(aside) = self.up.as_ref().and_then(|slot| slot.aside.as_ref()) {
            node.name.clone_from(&aside.name);
        }
        locked(&self.inner).node = Some(node);
    }

    /// Makes room for `count` entries. Called once, before the first slot is handed out.
    pub(crate) fn expect(&self, count: usize) {
        locked(&self.inner).entries.resize_with(count, || None);
        self.pending.fetch_add(count, Ordering::AcqRel);
    }

    /// The place of the entry at `index`.
    pub(crate) fn slot(self: &Arc<Self>, index: usize) -> Slot {
        Slot { dir: Arc::clone(self), index, aside: None }
    }

    /// All slots are handed out. Returns the directory when all are filled already.
    pub(crate) fn listed(self: &Arc<Self>) -> Option<Closed> {
        self.arrived()
    }

    fn arrived(self: &Arc<Self>) -> Option<Closed> {
        (self.pending.fetch_sub(1, Ordering::AcqRel) == 1).then(|| Closed { dir: Arc::clone(self) })
    }
}

impl Slot {
    /// The same place for an entry that lies elsewhere on the disk.
    pub(crate) fn aside(self, aside: Aside) -> Self {
        Self { aside: Some(Arc::new(aside)), ..self }
    }

    /// Path on the disk of the entry, which has this name there.
    pub(crate) fn path(&self, name: &[u8]) -> PathBuf {
        join(self.aside.as_ref().map_or(&self.dir.path, |aside| &aside.above), name)
    }

    /// Fills the place, with nothing where the entry could not be read or is left out. Returns the directory when
    /// this was the last one it waited for.
    pub(crate) fn fill(self, mut node: Option<Node>) -> Option<Closed> {
        if let (Some(node), Some(aside)) = (&mut node, &self.aside) {
            node.name.clone_from(&aside.name);
        }
        if node.is_some() {
            let mut inner = locked(&self.dir.inner);
            inner.open.remove(&self.index);
            if let Some(place) = inner.entries.get_mut(self.index) {
                *place = node;
            }
        }
        self.dir.arrived()
    }
}

impl Closed {
    /// Takes the content out; the memory goes with it.
    pub(crate) fn take(&self) -> Content {
        let inner = std::mem::take(&mut *locked(&self.dir.inner));
        Content {
            node: inner.node,
            previous: inner.previous,
            entries: inner.entries.into_iter().flatten().collect(),
        }
    }

    /// Hands the stored tree to the directory above. `Err` with the id when this was the root.
    pub(crate) fn hand_up(self, node: Option<Node>, tree: Id) -> Result<Option<Closed>, Id> {
        match (&self.dir.up, node) {
            (Some(slot), Some(mut node)) => {
                node.subtree = Some(tree);
                Ok(slot.clone().fill(Some(node)))
            }
            (Some(slot), None) => Ok(slot.clone().fill(None)),
            (None, _) => Err(tree),
        }
    }
}

/// Counts a directory against the parent's.
pub(crate) fn count_dir(state: &State, node: &Node, tree: Id, previous: Option<&Node>) {
    let relation = match previous {
        None => Relation::New,
        Some(before) if before.subtree == Some(tree) && same_metadata(before, node) => Relation::Unmodified,
        Some(_) => Relation::Changed,
    };
    state.counters.dirs.count(relation);
}

fn same_metadata(a: &Node, b: &Node) -> bool {
    a.mode == b.mode && a.mtime == b.mtime && a.uid == b.uid && a.gid == b.gid && a.xattrs == b.xattrs
}
