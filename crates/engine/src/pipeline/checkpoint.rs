//! Checkpoints: what of the tree is finished is saved now and then as ordinary tree blobs, so that a run that takes
//! over from a killed one need not read the finished files again.
//!
//! A checkpoint only saves work, and nothing is believed because of it: the next run takes a file from it under the
//! same conditions as from a snapshot, its content known to the index among them. So it may refer to what was lost
//! with the run. No object of another kind is made, and no snapshot refers to it: when it is not used, it is
//! unneeded like any other blob and goes with the next prune.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Shared;
use super::pack::SealedPack;
use super::tree::{Dir, Partial};
use super::worker::Worker;
use crate::backup::Checkpoints;
use crate::error::{Error, ErrorKind, Result};
use crate::format::node::Node;
use crate::format::pack::BlobKind;
use crate::id::Id;

/// When checkpoints are made, and the one that is being made.
pub(super) struct Checkpointer {
    when: Checkpoints,
    /// Time, files and bytes at the last one.
    last: (Instant, u64, u64),
    step: Step,
}

enum Step {
    Idle,
    /// A thread makes the trees and closes the open packs.
    Building(JoinHandle<Result<Option<Id>>>, mpsc::UnboundedReceiver<SealedPack>),
    /// The trees are made; these packs have to arrive before they can be relied on.
    Waiting(Id, HashSet<Id>),
}

/// What the thread that makes a checkpoint brings.
pub(super) enum Brought {
    /// A pack to be uploaded.
    Pack(SealedPack),
    /// All packs were brought. The root tree; `None` when nothing is finished yet.
    Built(Option<Id>),
}

impl Checkpointer {
    pub(super) fn new(when: Checkpoints) -> Self {
        Self { when, last: (Instant::now(), 0, 0), step: Step::Idle }
    }

    /// Whether it is time for the next one.
    pub(super) fn is_due(&self, files: u64, bytes: u64) -> bool {
        let (at, files_before, bytes_before) = self.last;
        matches!(self.step, Step::Idle)
            && files > files_before
            && (self.when.every.is_some_and(|every| at.elapsed() >= every)
                || self.when.files.is_some_and(|most| files - files_before >= most)
                || self.when.bytes.is_some_and(|most| bytes.saturating_sub(bytes_before) >= most))
    }

    /// Starts to make one.
    pub(super) fn begin(&mut self, shared: &Arc<Shared>, files: u64, bytes: u64) {
        self.last = (Instant::now(), files, bytes);
        let Some(root) = shared.root_dir.get().cloned() else { return };
        let (packs, brought) = mpsc::unbounded_channel();
        let shared = Arc::clone(shared);
        // Compresses, and waits for its turn to upload: not for a thread of the runtime.
        let task = tokio::task::spawn_blocking(move || {
            let mut worker = Worker::new(Arc::clone(&shared), packs.clone())?;
            let tree = save(&mut worker, &root)?;
            if tree.is_some() {
                shared.packs.close_open(|full| {
                    let pack = full.seal(shared.repository.key())?;
                    // An error means that the uploader gave up and said why.
                    let _ = packs.send(pack);
                    Ok(())
                })?;
            }
            Ok(tree)
        });
        self.step = Step::Building(task, brought);
    }

    pub(super) fn is_building(&self) -> bool {
        matches!(self.step, Step::Building(..))
    }

    /// The next thing that the building thread brings; never when there is none.
    pub(super) async fn brought(&mut self) -> Result<Brought> {
        let Step::Building(task, packs) = &mut self.step else { return std::future::pending().await };
        // Ends when the thread has dropped its sender.
        if let Some(pack) = packs.recv().await {
            return Ok(Brought::Pack(pack));
        }
        let built = task
            .await
            .map_err(|e| Error::with_source(ErrorKind::Internal, "making a checkpoint was broken off", e))?;
        self.step = Step::Idle;
        Ok(Brought::Built(built?))
    }

    /// The trees are made; they can be relied on once `packs` have arrived.
    pub(super) fn wait_for(&mut self, tree: Id, packs: HashSet<Id>) {
        self.step = Step::Waiting(tree, packs);
    }

    /// A pack is durable.
    pub(super) fn arrived(&mut self, pack: &Id) {
        if let Step::Waiting(_, packs) = &mut self.step {
            packs.remove(pack);
        }
    }

    /// The checkpoint whose packs are all durable, once.
    pub(super) fn take_durable(&mut self) -> Option<Id> {
        let Step::Waiting(tree, packs) = &self.step else { return None };
        let durable = packs.is_empty().then_some(*tree)?;
        self.step = Step::Idle;
        Some(durable)
    }
}

/// An open directory; the number of the one above and the index of the place in that, but for the root.
type Open = (Weak<Dir>, Option<(usize, usize)>);

/// Stores the finished part of all open directories; the root's tree, or `None` when nothing is finished yet.
fn save(worker: &mut Worker, root: &Arc<Dir>) -> Result<Option<Id>> {
    // Those above come before those below.
    let mut open: Vec<Open> = vec![(Arc::downgrade(root), None)];
    let mut next = 0;
    while let Some((dir, _)) = open.get(next) {
        let below = dir.upgrade().map(|dir| dir.open_below()).unwrap_or_default();
        open.extend(below.into_iter().map(|(index, dir)| (dir, Some((next, index)))));
        next += 1;
    }
    let mut partial: HashMap<usize, HashMap<usize, Node>> = HashMap::new();
    for (number, (dir, above)) in open.into_iter().enumerate().rev() {
        let below = partial.remove(&number).unwrap_or_default();
        let Some(dir) = dir.upgrade() else { continue };
        let Some(Partial { id, json, node }) = dir.partial(&below)? else { continue };
        match (above, node) {
            (None, _) => {
                worker.store(BlobKind::Tree, id, &json)?;
                return Ok(Some(id));
            }
            (Some((above, index)), Some(mut node)) => {
                worker.store(BlobKind::Tree, id, &json)?;
                node.subtree = Some(id);
                partial.entry(above).or_default().insert(index, node);
            }
            // Not opened yet.
            (Some(_), None) => {}
        }
    }
    Ok(None)
}
