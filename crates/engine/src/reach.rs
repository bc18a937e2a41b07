//! Reachability: which blobs snapshots need. One bit a blob, trees read by the order in which they lie in packs.
//!
//! Not here: what follows for the packs (`prune`), and whether the blobs are what they should be (`check`).

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Ctx, Event, Progress};
use crate::format::node::NodeType;
use crate::format::pack::BlobKind;
use crate::format::tree::Tree;
use crate::id::Id;
use crate::index::{BlobLocation, Index};
use crate::read::fetch::{self, Place};
use crate::read::{self, BlobOpener, is_damage};
use crate::repository::Repository;

/// Directories looked at together: sorted by pack, so that each pack is read in few requests.
const WAVE: usize = 20_000;
/// Missing blobs named in an error.
const NAMED: usize = 3;

/// A set of blobs of one index: a bit for each position in [`Index::iter`]; the bit of a blob's first copy counts.
#[derive(Debug)]
pub(crate) struct BlobSet {
    bits: Vec<AtomicU64>,
}

impl BlobSet {
    /// None of the index's blobs.
    pub(crate) fn new(index: &Index) -> Self {
        let words = index.len().div_ceil(64);
        Self { bits: std::iter::repeat_with(AtomicU64::default).take(words).collect() }
    }

    /// Adds the blob at this position; whether it was not there.
    pub(crate) fn insert(&self, position: usize) -> bool {
        let bit = 1_u64 << (position & 63);
        self.bits.get(position >> 6).is_some_and(|word| word.fetch_or(bit, Ordering::Relaxed) & bit == 0)
    }

    /// Whether the blob at this position is in.
    pub(crate) fn contains(&self, position: usize) -> bool {
        let bit = 1_u64 << (position & 63);
        self.bits.get(position >> 6).is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// The same blobs in another index. `Missing` when it lacks one.
    pub(crate) fn translate(&self, from: &Index, to: &Index) -> Result<Self> {
        let there = Self::new(to);
        let mut lost = Lost::default();
        let mut previous = None;
        for (position, (kind, id, _)) in from.iter().enumerate() {
            // Further copies of the same blob have no bit of their own.
            if previous.replace((kind, id)) == Some((kind, id)) || !self.contains(position) {
                continue;
            }
            match to.ordinal(kind, &id) {
                Some(position) => {
                    there.insert(position);
                }
                None => lost.add(kind, id),
            }
        }
        lost.check()?;
        Ok(there)
    }
}

/// Needed blobs that are nowhere.
#[derive(Debug, Default)]
struct Lost {
    count: u64,
    first: Vec<String>,
}

impl Lost {
    fn add(&mut self, kind: BlobKind, id: Id) {
        self.count = self.count.saturating_add(1);
        if self.first.len() < NAMED {
            self.first.push(format!("{} {id}", kind.as_str()));
        }
    }

    fn check(self) -> Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Missing,
            format!(
                "{} blobs that snapshots need are not in the repository: {}",
                self.count,
                self.first.join(", ")
            ),
        ))
    }
}

/// Where trees are read from.
pub(crate) struct Walk<'a> {
    pub(crate) repo: &'a Repository,
    pub(crate) index: &'a Arc<Index>,
    /// Numbers of packs that the index lists and the store does not have: what only they hold is missing.
    pub(crate) absent: &'a HashSet<u32>,
    pub(crate) runtime: &'a Handle,
    pub(crate) ctx: &'a Ctx,
}

impl Walk<'_> {
    /// Adds everything that these root trees need to `needed`; what is in there already is not walked again.
    /// Blocks; belongs on a thread of its own.
    ///
    /// # Errors
    /// `Missing` when a needed blob is in no pack; whatever reading a tree fails with.
    pub(crate) fn run(&self, roots: &[Id], needed: &BlobSet) -> Result<()> {
        let lost = Mutex::new(Lost::default());
        let mut pending: Vec<Id> = Vec::new();
        for root in roots {
            self.need(BlobKind::Tree, root, needed, &lost, &mut pending);
        }
        let mut done = 0_u64;
        while !pending.is_empty() {
            self.ctx.check()?;
            // From the end: the frontier stays small, as in a walk depth first.
            let wave = pending.split_off(pending.len().saturating_sub(WAVE));
            pending.append(&mut self.wave(&wave, needed, &lost)?);
            done = done.saturating_add(wave.len() as u64);
            let progress = Progress { files_done: done, ..Progress::default() };
            self.ctx.events.event(Event::Progress(progress));
        }
        lost.into_inner().unwrap_or_else(PoisonError::into_inner).check()
    }

    fn copy(&self, kind: BlobKind, id: &Id) -> Option<BlobLocation> {
        self.index.lookup(kind, id).find(|copy| !self.absent.contains(&copy.pack_number))
    }

    /// Notes that a blob is needed; a tree that was not yet goes to `next`.
    fn need(&self, kind: BlobKind, id: &Id, needed: &BlobSet, lost: &Mutex<Lost>, next: &mut Vec<Id>) {
        let position =
            self.index.ordinal(kind, id).filter(|_| self.absent.is_empty() || self.copy(kind, id).is_some());
        match position {
            None => lost.lock().unwrap_or_else(PoisonError::into_inner).add(kind, *id),
            Some(position) => {
                if needed.insert(position) && kind == BlobKind::Tree {
                    next.push(*id);
                }
            }
        }
    }

    /// Reads these trees and returns those below them that were not met before.
    fn wave(&self, wave: &[Id], needed: &BlobSet, lost: &Mutex<Lost>) -> Result<Vec<Id>> {
        let mut found: Vec<(Id, BlobLocation)> =
            wave.iter().filter_map(|id| Some((*id, self.copy(BlobKind::Tree, id)?))).collect();
        found.sort_unstable_by_key(|(_, location)| place(location));
        let requests = fetch::requests(found.iter().map(|(_, location)| place(location)));
        let total = requests.len();
        let index = Arc::clone(self.index);
        let fetched = fetch::spawn(
            Arc::clone(self.repo.store()),
            move |number| index.packs().get(number as usize).map(|p| p.id),
            requests,
            self.ctx.cancel.clone(),
            self.runtime,
        );
        let next = Mutex::new(Vec::new());
        let done = AtomicUsize::new(0);
        on_threads(|| {
            let mut opener = BlobOpener::new()?;
            let mut inner = Vec::new();
            for got in &fetched {
                self.ctx.check()?;
                if let Err(e) = &got.bytes
                    && !is_damage(e)
                {
                    return Err(Error::new(
                        e.kind(),
                        format!("directories could not be read: {}", e.chain()),
                    ));
                }
                for (id, location) in found.get(got.request.blobs.clone()).unwrap_or_default() {
                    let sealed = got.slice(place(location)).unwrap_or_default();
                    let tree = self.open(&mut opener, id, location, sealed)?;
                    for node in &tree.nodes {
                        // As in a check, a copy and a restore: nothing else leads to a directory.
                        if let (NodeType::Dir, Some(subtree)) = (node.kind, &node.subtree) {
                            self.need(BlobKind::Tree, subtree, needed, lost, &mut inner);
                        }
                        for content in node.content.iter().flatten() {
                            self.need(BlobKind::Data, content, needed, lost, &mut inner);
                        }
                    }
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
            next.lock().unwrap_or_else(PoisonError::into_inner).append(&mut inner);
            Ok(())
        })?;
        self.ctx.check()?;
        if done.into_inner() != total {
            return Err(Error::new(ErrorKind::Internal, "not all directories were looked at: a bug"));
        }
        Ok(next.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn open(&self, opener: &mut BlobOpener, id: &Id, location: &BlobLocation, sealed: &[u8]) -> Result<Tree> {
        let key = self.repo.key();
        if let Ok(json) = opener.open(key, sealed, BlobKind::Tree, id, location.uncompressed)
            && let Ok(tree) = Tree::parse(json)
        {
            return Ok(tree);
        }
        // Damaged on the way, or in this copy only; its errors have the right words for the rest.
        self.runtime.block_on(self.ctx.run(self.repo.load_tree(self.index, id)))
    }
}

pub(crate) fn place(location: &BlobLocation) -> Place {
    Place { pack: location.pack_number, offset: location.offset, length: location.length }
}

/// Runs `work` on as many threads as there are cores and waits for all; the first error.
pub(crate) fn on_threads(work: impl Fn() -> Result<()> + Sync) -> Result<()> {
    let first = Mutex::new(Ok(()));
    let run = || {
        if let Err(e) = work() {
            let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
            if first.is_ok() {
                *first = Err(e);
            }
        }
    };
    let broken = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..read::threads())
            .map_while(|n| {
                std::thread::Builder::new().name(format!("reach-{n}")).spawn_scoped(scope, run).ok()
            })
            .collect();
        if threads.is_empty() {
            run();
        }
        threads.into_iter().any(|thread| thread.join().is_err())
    });
    if broken {
        return Err(Error::new(ErrorKind::Internal, "a thread met a bug and gave up"));
    }
    first.into_inner().unwrap_or_else(PoisonError::into_inner)
}
