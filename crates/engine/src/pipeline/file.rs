//! Files on their way to becoming nodes: each waits for the ids of its chunks.
//!
//! A file with several hard links is read once; its other names wait here for the first one, and one of them takes its
//! place when it leads to the file no more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::state::{Relation, State, locked};
use super::tree::{Closed, Slot};
use crate::format::node::{Node, Xattr};
use crate::id::Id;

/// Device and inode: what hard links share.
pub(crate) type LinkKey = (u64, u64);

/// A file whose content is being read.
pub(crate) struct File {
    relation: Relation,
    link: Option<LinkKey>,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Taken when the file is complete or has failed.
    place: Option<(Slot, Node)>,
    chunks: Vec<Id>,
    /// Chunks whose id is not known yet, and one while the file is still being read.
    waiting: usize,
}

impl File {
    /// A file that is about to be read.
    pub(crate) fn new(slot: Slot, node: Node, relation: Relation, link: Option<LinkKey>) -> Arc<Self> {
        let inner = Inner { place: Some((slot, node)), chunks: Vec::new(), waiting: 1 };
        Arc::new(Self { relation, link, inner: Mutex::new(inner) })
    }

    /// Makes room for the next chunk and says which it is.
    pub(crate) fn next_chunk(&self) -> usize {
        let mut inner = locked(&self.inner);
        inner.chunks.push(Id::default());
        inner.waiting += 1;
        inner.chunks.len() - 1
    }

    /// The next chunk is one that is known and stored.
    pub(crate) fn known_chunk(&self, id: Id) {
        locked(&self.inner).chunks.push(id);
    }

    /// A chunk is stored.
    pub(crate) fn chunk_done(&self, index: usize, id: Id, run: &Run<'_>) {
        let mut inner = locked(&self.inner);
        if let Some(place) = inner.chunks.get_mut(index) {
            *place = id;
        }
        self.arrived(inner, run);
    }

    /// Everything was read: `size` bytes.
    pub(crate) fn read_done(&self, size: u64, run: &Run<'_>) {
        let mut inner = locked(&self.inner);
        if let Some((_, node)) = &mut inner.place {
            node.size = size;
        }
        self.arrived(inner, run);
    }

    fn arrived(&self, mut inner: std::sync::MutexGuard<'_, Inner>, run: &Run<'_>) {
        inner.waiting = inner.waiting.saturating_sub(1);
        if inner.waiting > 0 {
            return;
        }
        let Some((slot, mut node)) = inner.place.take() else { return };
        node.content = Some(std::mem::take(&mut inner.chunks));
        drop(inner);
        let followers = self.link.map(|key| run.links.finish(key, &node)).unwrap_or_default();
        finish(slot, node, self.relation, run);
        for (follower, shared) in followers {
            let node = shared.give_to(follower.node);
            finish(follower.slot, node, follower.relation, run);
        }
    }

    /// Reading failed: the file is left out, and so are the other names that waited for it.
    pub(crate) fn failed(&self, action: &'static str, error: &dyn std::fmt::Display, run: &Run<'_>) {
        let Some((slot, node)) = locked(&self.inner).place.take() else { return };
        run.state.fault(slot.path(&node.name), action, error);
        if let Some(closed) = slot.fill(None) {
            (run.close)(closed);
        }
        for follower in self.link.map(|key| run.links.give_up(key)).unwrap_or_default() {
            run.state.fault(follower.slot.path(&follower.node.name), action, error);
            if let Some(closed) = follower.slot.fill(None) {
                (run.close)(closed);
            }
        }
    }
}

/// What finishing a file needs.
pub(crate) struct Run<'a> {
    pub(crate) state: &'a State,
    pub(crate) links: &'a Links,
    /// Takes directories that became complete.
    pub(crate) close: &'a dyn Fn(Closed),
}

/// A name was gone when it was to be read: left out without a fault, as if it had been deleted a moment before.
pub(crate) fn vanished(slot: Slot, name: &[u8], run: &Run<'_>) {
    run.state.vanished(&slot.path(name));
    if let Some(closed) = slot.fill(None) {
        (run.close)(closed);
    }
}

/// Counts a finished file and puts it in its place.
pub(crate) fn finish(slot: Slot, node: Node, relation: Relation, run: &Run<'_>) {
    run.state.counters.files.count(relation);
    run.state.counters.total_bytes.add(node.size);
    if let Some(closed) = slot.fill(Some(node)) {
        (run.close)(closed);
    }
}

/// A further name of a file that is being read.
pub(crate) struct Follower {
    pub(crate) slot: Slot,
    pub(crate) node: Node,
    pub(crate) relation: Relation,
}

/// What all names of a file share.
#[derive(Clone)]
pub(crate) struct SharedContent {
    size: u64,
    content: Vec<Id>,
    xattrs: Vec<Xattr>,
}

impl SharedContent {
    /// The node of another name with this content.
    pub(crate) fn give_to(self, mut node: Node) -> Node {
        node.size = self.size;
        node.content = Some(self.content);
        node.xattrs = self.xattrs;
        node
    }
}

enum Link {
    Reading(Vec<Follower>),
    Done(SharedContent),
}

/// What to do about one name of a file with several.
pub(crate) enum Met {
    /// The first: read it.
    Read(Follower),
    /// The first is being read; this name will be filled in when that is done.
    Follows,
    /// The content is known.
    Known(Follower, SharedContent),
}

/// Files with several names that were met.
#[derive(Default)]
pub(crate) struct Links(Mutex<HashMap<LinkKey, Link>>);

impl Links {
    /// Registers one name.
    pub(crate) fn meet(&self, key: LinkKey, name: Follower) -> Met {
        let mut all = locked(&self.0);
        match all.get_mut(&key) {
            None => {
                all.insert(key, Link::Reading(Vec::new()));
                Met::Read(name)
            }
            Some(Link::Reading(followers)) => {
                followers.push(name);
                Met::Follows
            }
            Some(Link::Done(shared)) => Met::Known(name, shared.clone()),
        }
    }

    fn finish(&self, key: LinkKey, node: &Node) -> Vec<(Follower, SharedContent)> {
        let shared = SharedContent {
            size: node.size,
            content: node.content.clone().unwrap_or_default(),
            xattrs: node.xattrs.clone(),
        };
        match locked(&self.0).insert(key, Link::Done(shared.clone())) {
            Some(Link::Reading(followers)) => followers.into_iter().map(|f| (f, shared.clone())).collect(),
            _ => Vec::new(),
        }
    }

    /// The name that was to be read does not lead to the file any more: one of those that wait, to be read in its
    /// place while the others go on waiting. `None` when no other was met; the next that is will be the first again.
    pub(crate) fn pass_on(&self, key: LinkKey) -> Option<Follower> {
        let mut all = locked(&self.0);
        if let Some(Link::Reading(followers)) = all.get_mut(&key)
            && let Some(next) = followers.pop()
        {
            return Some(next);
        }
        all.remove(&key);
        None
    }

    fn give_up(&self, key: LinkKey) -> Vec<Follower> {
        match locked(&self.0).remove(&key) {
            Some(Link::Reading(followers)) => followers,
            _ => Vec::new(),
        }
    }
}
