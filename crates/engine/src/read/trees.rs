//! Directories of one snapshot after the other, without a request for each.
//!
//! The directories of a snapshot lie close together in a few packs. So what is around a wanted one is read with
//! it and kept, sealed, for those that follow; who wants one of the same stretch meanwhile waits for the same
//! request. Not here: the order in which they are wanted.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{OnceCell, Semaphore};

use super::{BlobOpener, is_damage};
use crate::error::Result;
use crate::format::node::Node;
use crate::format::pack::BlobKind;
use crate::format::tree::Tree;
use crate::id::Id;
use crate::index::{BlobLocation, Index};
use crate::repository::Repository;
use crate::store::{FileKind, FileName};

/// What is read at a time.
const STRETCH: u64 = 1 << 20;
/// How many such stretches are kept.
const STRETCHES: usize = 8;
/// How many are read at the same time: each takes its memory.
const READS: usize = 4;
/// Parsed directories are kept up to about this many bytes, so that a further walk through an ordinary snapshot
/// costs nothing. What comes after is opened again.
const KEPT_BYTES: usize = 12 << 20;
/// After so many bytes it is asked whether reading what lies around is worth it.
const TRIAL: u64 = 16 << 20;
/// It is not when less than this part of what was read was wanted.
const WANTED_PART: u64 = 64;

/// Reads directories.
pub(crate) struct TreeReader {
    repo: Repository,
    index: Arc<Index>,
    /// Parsed directories are kept up to about this many bytes.
    keep: usize,
    reads: Semaphore,
    /// As many as were ever needed at a time.
    openers: Mutex<Vec<BlobOpener>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The most recently used at the back.
    stretches: VecDeque<Arc<Stretch>>,
    kept: HashMap<Id, Arc<Tree>>,
    kept_bytes: usize,
    /// Bytes that were read of packs.
    read: u64,
    /// Bytes of them that were wanted.
    wanted: u64,
}

/// A part of a pack that is read with one request.
struct Stretch {
    pack: u32,
    range: Range<u64>,
    bytes: OnceCell<Bytes>,
}

impl Stretch {
    fn holds(&self, place: &BlobLocation) -> bool {
        let start = u64::from(place.offset);
        self.pack == place.pack_number
            && self.range.start <= start
            && start.saturating_add(place.length.into()) <= self.range.end
    }

    fn slice<'a>(&self, bytes: &'a Bytes, place: &BlobLocation) -> Option<&'a [u8]> {
        let start = usize::try_from(u64::from(place.offset).checked_sub(self.range.start)?).ok()?;
        bytes.get(start..start.checked_add(place.length as usize)?)
    }
}

impl TreeReader {
    /// For walks that may come to the same directory several times.
    pub(crate) fn new(repo: Repository, index: Arc<Index>) -> Result<Self> {
        let openers = Mutex::new(vec![BlobOpener::new()?]);
        let (reads, state) = (Semaphore::new(READS), Mutex::default());
        Ok(Self { repo, index, keep: KEPT_BYTES, reads, openers, state })
    }

    /// For one walk that comes to each directory once: none is kept after it was handed out.
    pub(crate) fn for_one_walk(repo: Repository, index: Arc<Index>) -> Result<Self> {
        Ok(Self { keep: 0, ..Self::new(repo, index)? })
    }

    /// The index it reads by.
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// One directory. Several may be loaded at the same time.
    pub(crate) async fn load(&self, id: &Id) -> Result<Arc<Tree>> {
        if let Some(tree) = self.state().kept.get(id) {
            return Ok(Arc::clone(tree));
        }
        let found = match self.index.find(BlobKind::Tree, id) {
            Some(place) => self.load_with_neighbours(id, &place).await?,
            None => None,
        };
        let tree = match found {
            Some(tree) => Arc::new(tree),
            // This tries all copies, and has the right words for what is wrong.
            None => Arc::new(self.repo.load_tree(&self.index, id).await?),
        };
        self.state().keep(id, &tree, self.keep);
        Ok(tree)
    }

    /// From what was or is read around it; none when that is damaged. A store that fails has been tried long enough.
    async fn load_with_neighbours(&self, id: &Id, place: &BlobLocation) -> Result<Option<Tree>> {
        let stretch = self.stretch(place);
        let read = stretch.bytes.get_or_try_init(|| self.read(place, &stretch.range)).await;
        let opened = read.and_then(|bytes| {
            stretch.slice(bytes, place).map(|sealed| self.open(id, place, sealed)).transpose()
        });
        match opened {
            Ok(Some(tree)) => return Ok(Some(tree)),
            Err(error) if !is_damage(&error) => return Err(error),
            // What was damaged on the way may come whole the next time.
            Ok(None) | Err(_) => self.state().stretches.retain(|kept| !Arc::ptr_eq(kept, &stretch)),
        }
        Ok(None)
    }

    async fn read(&self, place: &BlobLocation, range: &Range<u64>) -> Result<Bytes> {
        // The semaphore is never closed; and should it be, more memory is the lesser evil.
        let _permit = self.reads.acquire().await;
        let name = FileName { kind: FileKind::Pack, id: place.pack };
        let bytes = self.repo.store().get(name, Some(range.clone())).await?;
        let mut state = self.state();
        state.read = state.read.saturating_add(bytes.len() as u64);
        Ok(bytes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stretch that holds a blob: one that is kept, or a new one that is still to be read.
    fn stretch(&self, place: &BlobLocation) -> Arc<Stretch> {
        let mut state = self.state();
        state.wanted = state.wanted.saturating_add(place.length.into());
        let found = state.stretches.iter().position(|stretch| stretch.holds(place));
        let stretch = found.and_then(|at| state.stretches.remove(at)).unwrap_or_else(|| {
            let range = self.around(place, state.is_worth_it());
            Arc::new(Stretch { pack: place.pack_number, range, bytes: OnceCell::new() })
        });
        // One directory alone, or a huge one, is of no use to others.
        let length = stretch.range.end.saturating_sub(stretch.range.start);
        if length == u64::from(place.length) || length > 2 * STRETCH {
            return stretch;
        }
        if state.stretches.len() >= STRETCHES {
            // Rather one that was read: those who wait for another share its request.
            let read = state.stretches.iter().position(|stretch| stretch.bytes.initialized());
            state.stretches.remove(read.unwrap_or_default());
        }
        state.stretches.push_back(Arc::clone(&stretch));
        stretch
    }

    /// The part of the pack to read for a blob.
    fn around(&self, place: &BlobLocation, with_neighbours: bool) -> Range<u64> {
        let offset = u64::from(place.offset);
        let end = offset.saturating_add(place.length.into());
        if !with_neighbours {
            return offset..end;
        }
        let size = self.index.packs().get(place.pack_number as usize).map_or(end, |p| p.size);
        let start = offset.checked_div(STRETCH).unwrap_or(0).saturating_mul(STRETCH);
        start..start.saturating_add(STRETCH).min(size).max(end)
    }

    fn open(&self, id: &Id, place: &BlobLocation, sealed: &[u8]) -> Result<Tree> {
        let spare = self.openers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut opener = spare.map_or_else(BlobOpener::new, Ok)?;
        let mut tree = opener
            .open(self.repo.key(), sealed, BlobKind::Tree, id, place.uncompressed)
            .and_then(Tree::parse)?;
        self.openers.lock().unwrap_or_else(PoisonError::into_inner).push(opener);
        // A list that grew while it was parsed has room for up to twice as many.
        tree.nodes.shrink_to_fit();
        Ok(tree)
    }
}

impl State {
    /// Whether directories lie so close together that reading what is around one saves requests.
    fn is_worth_it(&self) -> bool {
        self.read < TRIAL || self.wanted >= self.read / WANTED_PART
    }

    fn keep(&mut self, id: &Id, tree: &Arc<Tree>, limit: usize) {
        let bytes = tree.nodes.iter().map(footprint).fold(0, usize::saturating_add);
        if self.kept_bytes.saturating_add(bytes) <= limit {
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
