//! Directories of one snapshot after the other, without a request for each.
//!
//! The directories of a snapshot lie close together in a few packs. So what is around a wanted one is read with
//! it and kept, sealed, for those that follow. Not here: the order in which they are wanted.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::BlobOpener;
use crate::error::{Error, Result};
use crate::format::node::Node;
use crate::format::pack::BlobKind;
use crate::format::tree::Tree;
use crate::id::Id;
use crate::index::{BlobLocation, Index};
use crate::repository::Repository;
use crate::store::{FileKind, FileName};

/// What is read at a time.
const STRETCH: u64 = 2 << 20;
/// How many such stretches are kept.
const STRETCHES: usize = 4;
/// Parsed directories are kept up to about this many bytes, so that a further walk through an ordinary snapshot
/// costs nothing. What comes after is opened again.
const KEPT_BYTES: usize = 12 << 20;

/// Reads directories.
pub(crate) struct TreeReader {
    repo: Repository,
    index: Arc<Index>,
    state: Mutex<State>,
}

struct State {
    opener: BlobOpener,
    /// The most recently used at the back.
    stretches: VecDeque<Stretch>,
    kept: HashMap<Id, Arc<Tree>>,
    kept_bytes: usize,
}

struct Stretch {
    pack: u32,
    start: u64,
    bytes: Bytes,
}

impl Stretch {
    fn slice(&self, place: &BlobLocation) -> Option<&[u8]> {
        if self.pack != place.pack_number {
            return None;
        }
        let start = usize::try_from(u64::from(place.offset).checked_sub(self.start)?).ok()?;
        self.bytes.get(start..start.checked_add(place.length as usize)?)
    }
}

impl TreeReader {
    pub(crate) fn new(repo: Repository, index: Arc<Index>) -> Result<Self> {
        let state = State {
            opener: BlobOpener::new()?,
            stretches: VecDeque::new(),
            kept: HashMap::new(),
            kept_bytes: 0,
        };
        Ok(Self { repo, index, state: Mutex::new(state) })
    }

    /// The index it reads by.
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// One directory.
    pub(crate) async fn load(&self, id: &Id) -> Result<Arc<Tree>> {
        if let Some(tree) = self.state().kept.get(id) {
            return Ok(Arc::clone(tree));
        }
        if let Some(place) = self.index.find(BlobKind::Tree, id) {
            if let Some(tree) = self.open(id, &place) {
                return Ok(tree);
            }
            let range = self.around(&place);
            let name = FileName { kind: FileKind::Pack, id: place.pack };
            let start = range.start;
            if let Ok(bytes) = self.repo.store().get(name, Some(range)).await {
                {
                    let mut state = self.state();
                    if state.stretches.len() >= STRETCHES {
                        state.stretches.pop_front();
                    }
                    state.stretches.push_back(Stretch { pack: place.pack_number, start, bytes });
                }
                if let Some(tree) = self.open(id, &place) {
                    return Ok(tree);
                }
            }
        }
        // Whatever went wrong: this tries all copies, and has the right words for what is wrong.
        let tree = Arc::new(self.repo.load_tree(&self.index, id).await?);
        self.state().keep(id, &tree);
        Ok(tree)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stretch of the pack to read for a blob.
    fn around(&self, place: &BlobLocation) -> Range<u64> {
        let offset = u64::from(place.offset);
        let end = offset.saturating_add(place.length.into());
        let size = self.index.packs().get(place.pack_number as usize).map_or(end, |p| p.size);
        let start = offset.checked_div(STRETCH).unwrap_or(0).saturating_mul(STRETCH);
        start..start.saturating_add(STRETCH).min(size).max(end)
    }

    /// Opens it from what was read before.
    fn open(&self, id: &Id, place: &BlobLocation) -> Option<Arc<Tree>> {
        let mut guard = self.state();
        let State { opener, stretches, .. } = &mut *guard;
        let found = stretches.iter().position(|s| s.slice(place).is_some())?;
        let stretch = stretches.remove(found)?;
        let opened = stretch
            .slice(place)
            .ok_or(())
            .and_then(|sealed| {
                let key = self.repo.key();
                opener.open(key, sealed, BlobKind::Tree, id, place.uncompressed).map_err(drop)
            })
            .and_then(|json| Tree::parse(json).map_err(|_: Error| ()));
        match opened {
            Ok(mut tree) => {
                stretches.push_back(stretch);
                // A list that grew while it was parsed has room for up to twice as many.
                tree.nodes.shrink_to_fit();
                let tree = Arc::new(tree);
                guard.keep(id, &tree);
                Some(tree)
            }
            // Read again what may have been damaged on the way.
            Err(()) => None,
        }
    }
}

impl State {
    fn keep(&mut self, id: &Id, tree: &Arc<Tree>) {
        let bytes = tree.nodes.iter().map(footprint).fold(0, usize::saturating_add);
        if self.kept_bytes.saturating_add(bytes) <= KEPT_BYTES {
            self.kept_bytes = self.kept_bytes.saturating_add(bytes);
            self.kept.insert(*id, Arc::clone(tree));
        }
    }
}

fn footprint(node: &Node) -> usize {
    size_of::<Node>()
        .saturating_add(node.name.len())
        .saturating_add(node.content.as_ref().map_or(0, |c| c.len().saturating_mul(32)))
        .saturating_add(node.xattrs.iter().map(|x| x.value.len().saturating_add(64)).sum())
}
