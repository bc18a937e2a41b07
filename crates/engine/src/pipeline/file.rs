//! Files on their way to becoming nodes: each waits for the ids of its chunks.
//!
//! A file with several hard links is read once; its other names wait here for the first one, and one of them takes its
//! place when it leads to the file no more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::state::{Relation, State, locked};
use super::tree::{Closed, Slot};
use crate::format::node::{Node, Xattr};
use crate::format::time::Time;
use crate::id::Id;

/// What tells that two names are one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LinkKey {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// A number is given again as soon as its file is gone; when it was made tells the two apart. `None` where the file
    /// system does not keep it.
    pub(crate) born: Option<Time>,
}

impl LinkKey {
    fn number(&self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

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
    mtime: Time,
    content: Vec<Id>,
    xattrs: Vec<Xattr>,
}

impl SharedContent {
    /// Whether it is this name's: where the key cannot tell, its file must not have changed since, for what is read again
    /// is true in any case.
    fn is_of(&self, key: LinkKey, node: &Node, size: u64) -> bool {
        key.born.is_some() || (self.mtime == node.mtime && self.size == size)
    }

    /// The node of another name with this content.
    pub(crate) fn give_to(self, mut node: Node) -> Node {
        node.size = self.size;
        node.content = Some(self.content);
        node.xattrs = self.xattrs;
        node
    }
}

enum Link {
    /// Names of it have their content from the parent; none was read.
    TakenOver,
    Reading(Vec<Follower>),
    /// Apart, for there may be a million files that only wait here.
    Done(Box<SharedContent>),
}

/// A file with several names, by when it was made.
struct Linked {
    born: Option<Time>,
    link: Link,
}

/// What to do about one name of a file with several.
pub(crate) enum Met {
    /// The first: read it.
    Read(Follower),
    /// The first is being read; this name will be filled in when that is done.
    Follows,
    /// The content is known.
    Known(Follower, SharedContent),
    /// Another file had its number before: read it for itself. Who restores a snapshot knows the number alone, so that it is
    /// to look like a file with one name.
    Alone(Follower),
}

/// Files with several names that were met, by device and inode.
#[derive(Default)]
pub(crate) struct Links(Mutex<HashMap<(u64, u64), Linked>>);

impl Links {
    /// Registers one name, of a file that had `size` bytes when it was listed.
    pub(crate) fn meet(&self, key: LinkKey, name: Follower, size: u64) -> Met {
        let mut all = locked(&self.0);
        match all.get_mut(&key.number()) {
            None => {
                all.insert(key.number(), Linked { born: key.born, link: Link::Reading(Vec::new()) });
                Met::Read(name)
            }
            Some(Linked { born, .. }) if *born != key.born => Met::Alone(name),
            Some(Linked { link: link @ Link::TakenOver, .. }) => {
                *link = Link::Reading(Vec::new());
                Met::Read(name)
            }
            Some(Linked { link: Link::Reading(followers), .. }) => {
                followers.push(name);
                Met::Follows
            }
            Some(Linked { link: Link::Done(shared), .. }) if shared.is_of(key, &name.node, size) => {
                Met::Known(name, SharedContent::clone(shared))
            }
            Some(_) => Met::Alone(name),
        }
    }

    /// Notes a name that keeps the content that the parent has of it: what has the number later may be another file.
    pub(crate) fn take_over(&self, key: LinkKey) {
        let linked = || Linked { born: key.born, link: Link::TakenOver };
        locked(&self.0).entry(key.number()).or_insert_with(linked);
    }

    fn finish(&self, key: LinkKey, node: &Node) -> Vec<(Follower, SharedContent)> {
        let shared = SharedContent {
            size: node.size,
            mtime: node.mtime,
            content: node.content.clone().unwrap_or_default(),
            xattrs: node.xattrs.clone(),
        };
        let done = Linked { born: key.born, link: Link::Done(Box::new(shared.clone())) };
        match locked(&self.0).insert(key.number(), done).map(|linked| linked.link) {
            Some(Link::Reading(followers)) => followers.into_iter().map(|f| (f, shared.clone())).collect(),
            _ => Vec::new(),
        }
    }

    /// The name that was to be read does not lead to the file any more: one of those that wait, to be read in its
    /// place while the others go on waiting. `None` when no other was met; the next that is will be the first again.
    pub(crate) fn pass_on(&self, key: LinkKey) -> Option<Follower> {
        let mut all = locked(&self.0);
        if let Some(Linked { link: Link::Reading(followers), .. }) = all.get_mut(&key.number())
            && let Some(next) = followers.pop()
        {
            return Some(next);
        }
        all.remove(&key.number());
        None
    }

    fn give_up(&self, key: LinkKey) -> Vec<Follower> {
        match locked(&self.0).remove(&key.number()).map(|linked| linked.link) {
            Some(Link::Reading(followers)) => followers,
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;

    use super::super::source;
    use super::super::tree::Dir;
    use super::*;

    fn key(born: Option<Time>) -> LinkKey {
        LinkKey { device: 1, inode: 2, born }
    }

    fn made(seconds: i64) -> LinkKey {
        key(Some(Time::new(seconds, 0)))
    }

    /// Meets a name whose file was changed at this time and has one byte a second of it.
    fn meet(links: &Links, key: LinkKey, changed: i64) -> &'static str {
        let slot = Dir::new(None, "/".into(), None).slot(0);
        let node = Node { mtime: Time::new(changed, 0), size: changed.unsigned_abs(), ..Node::default() };
        match links.meet(key, Follower { slot, node, relation: Relation::New }, changed.unsigned_abs()) {
            Met::Read(_) => "read",
            Met::Follows => "follows",
            Met::Known(..) => "known",
            Met::Alone(_) => "alone",
        }
    }

    fn finish(links: &Links, key: LinkKey, changed: i64) -> usize {
        let node = Node { mtime: Time::new(changed, 0), size: changed.unsigned_abs(), ..Node::default() };
        links.finish(key, &node).len()
    }

    #[test]
    fn a_number_that_is_given_again_is_another_file() {
        let links = Links::default();
        assert_eq!(meet(&links, made(5), 7), "read");
        assert_eq!(meet(&links, made(5), 7), "follows");
        assert_eq!(meet(&links, made(6), 7), "alone", "while the first is read");
        assert_eq!(finish(&links, made(5), 7), 1);
        assert_eq!(meet(&links, made(6), 7), "alone");
        // The same file, whatever was written since: its names get one content.
        assert_eq!(meet(&links, made(5), 9), "known");
        // Some of its names were taken over as they were.
        let links = Links::default();
        links.take_over(made(5));
        assert_eq!(meet(&links, made(6), 7), "alone");
        assert_eq!(meet(&links, made(5), 7), "read");
        assert_eq!(meet(&links, made(5), 7), "follows");
    }

    #[test]
    fn where_nobody_says_when_a_file_was_made_its_content_is_shared_as_long_as_it_did_not_change() {
        let links = Links::default();
        assert_eq!(meet(&links, key(None), 7), "read");
        assert_eq!(finish(&links, key(None), 7), 0);
        assert_eq!(meet(&links, key(None), 7), "known");
        assert_eq!(meet(&links, key(None), 9), "alone");
    }

    #[test]
    fn files_say_when_they_were_made() {
        let place = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        fs::write(place.path().join("one"), "1").unwrap();
        fs::hard_link(place.path().join("one"), place.path().join("two")).unwrap();
        let dir = source::open_path_dir(place.path()).unwrap();
        let key = |name| source::stat_at(dir.as_fd(), name).unwrap().link_key();
        assert_eq!(key(c"one"), key(c"two"));
        // Rust's library asks the kernel by itself.
        let known = fs::metadata(place.path().join("one")).unwrap().created().is_ok();
        assert_eq!(key(c"one").born.is_some(), known);
    }
}
