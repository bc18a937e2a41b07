//! Packs being filled: two of data and one of trees.
//!
//! Each data blob goes to a random one of two open packs, so that the order and sizes of blobs in a pack do not
//! tell which known files were stored (restic 0.18 does the same). A pack is sent in the pieces that it was filled in, so
//! that it never takes its memory twice. Not here: writing packs to the store (`upload`).

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::state::locked;
use crate::crypto::{Key, OVERHEAD};
use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::{BlobKind, LENGTH_FIELD, PackedBlob, encode_header};
use crate::id::{Id, IdHasher};
use crate::store::PutPayload;

/// A pack is closed when it reaches this size, in bytes.
pub(crate) const TARGET_SIZE: usize = 16 << 20;

/// What an open pack's memory grows by, in bytes.
const SEGMENT: usize = 256 << 10;
/// When the two open data packs have more than this together, the fuller one is filled up: at most one and a quarter
/// times the target is held, and a blob. Two packs that fill up side by side would hold twice the target.
const OPEN_DATA: usize = TARGET_SIZE / 2;
/// When packs have more than this in memory beside all that may be on their way, and all of those are, nothing is added
/// until one has arrived. It is what open data packs may hold when one of them is full and waits for its flight: less would
/// leave the store without a next pack, more (that of trees, and what goes to the other one) does not make it quicker.
const BESIDE_FLIGHTS: usize = TARGET_SIZE + OPEN_DATA / 2;

/// A pack that takes blobs. Its bytes lie in segments, so that it takes no more memory than it has bytes.
#[derive(Default)]
pub(crate) struct OpenPack {
    segments: Vec<Segment>,
    length: usize,
    blobs: Vec<PackedBlob>,
    header: usize,
}

/// A full pack with the right to be on its way.
pub(crate) struct FullPack {
    open: OpenPack,
    flight: OwnedSemaphorePermit,
}

/// Memory that is used again: neither given back to the allocator nor left to it to find again. As much as was in
/// use at the same time.
#[derive(Default)]
struct Memory {
    spare: Mutex<Vec<Vec<u8>>>,
    /// Segments that are in use.
    used: AtomicUsize,
}

/// A part of a pack, at most [`SEGMENT`] bytes. Its memory goes back when the last who refers to it is done.
struct Segment {
    bytes: Vec<u8>,
    home: Weak<Memory>,
}

impl AsRef<[u8]> for Segment {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if let Some(home) = self.home.upgrade() {
            let mut bytes = std::mem::take(&mut self.bytes);
            bytes.clear();
            locked(&home.spare).push(bytes);
            home.used.fetch_sub(1, Relaxed);
        }
    }
}

impl Memory {
    fn segment(self: &Arc<Self>) -> Segment {
        self.used.fetch_add(1, Relaxed);
        let spare = locked(&self.spare).pop();
        Segment { bytes: spare.unwrap_or_else(|| Vec::with_capacity(SEGMENT)), home: Arc::downgrade(self) }
    }
}

/// A finished pack file.
pub(crate) struct SealedPack {
    pub(crate) id: Id,
    pub(crate) body: PutPayload,
    pub(crate) blobs: Vec<PackedBlob>,
    /// Given back when the pack has arrived.
    pub(crate) flight: OwnedSemaphorePermit,
}

/// A sealed blob on its way into a pack.
pub(crate) struct SealedBlob<'a> {
    pub(crate) kind: BlobKind,
    pub(crate) id: Id,
    pub(crate) sealed: &'a [u8],
    /// Plain bytes when it is compressed.
    pub(crate) uncompressed: Option<u32>,
}

impl OpenPack {
    fn size(&self) -> usize {
        self.length + self.header + OVERHEAD + LENGTH_FIELD
    }

    fn add(&mut self, blob: &SealedBlob<'_>, memory: &Arc<Memory>) -> Result<()> {
        let length = to_u32(blob.sealed.len())?;
        let offset = to_u32(self.length)?;
        let entry =
            PackedBlob { kind: blob.kind, id: blob.id, offset, length, uncompressed: blob.uncompressed };
        self.append(blob.sealed, memory);
        self.header += entry.entry_length();
        self.blobs.push(entry);
        Ok(())
    }

    fn append(&mut self, mut bytes: &[u8], memory: &Arc<Memory>) {
        self.length += bytes.len();
        while !bytes.is_empty() {
            match self.segments.last_mut() {
                Some(last) if last.bytes.len() < SEGMENT => {
                    let (now, later) = bytes.split_at(bytes.len().min(SEGMENT - last.bytes.len()));
                    last.bytes.extend_from_slice(now);
                    bytes = later;
                }
                _ => self.segments.push(memory.segment()),
            }
        }
    }

    /// Closed, with the right to be on its way.
    pub(crate) fn fly(self, flight: OwnedSemaphorePermit) -> FullPack {
        FullPack { open: self, flight }
    }

    /// Appends all blobs of another pack of the same kind.
    fn merge(&mut self, other: Self, memory: &Arc<Memory>) -> Result<()> {
        let before = to_u32(self.length)?;
        for segment in other.segments {
            self.append(&segment.bytes, memory);
        }
        for blob in other.blobs {
            let offset = to_u32(before as usize + blob.offset as usize)?;
            self.blobs.push(PackedBlob { offset, ..blob });
        }
        self.header += other.header;
        Ok(())
    }
}

impl FullPack {
    /// Writes the header behind the blobs and names the file by its digest.
    pub(crate) fn seal(self, key: &Key) -> Result<SealedPack> {
        let Self { open, flight } = self;
        let mut end = key.seal(&encode_header(&open.blobs))?;
        let length = to_u32(end.len())?;
        end.extend_from_slice(&length.to_le_bytes());
        let mut digest = IdHasher::new();
        open.segments.iter().for_each(|segment| digest.update(&segment.bytes));
        digest.update(&end);
        let pieces = open.segments.into_iter().map(Bytes::from_owner).chain([Bytes::from(end)]);
        Ok(SealedPack { id: digest.finish(), body: pieces.collect(), blobs: open.blobs, flight })
    }
}

/// The open packs of a run, and how many full ones may be on their way.
pub(crate) struct OpenPacks {
    data: [Mutex<OpenPack>; 2],
    /// Sizes of the data packs as of late: which is fuller may be asked without waiting for either.
    sizes: [AtomicUsize; 2],
    trees: Mutex<OpenPack>,
    flights: Arc<Semaphore>,
    /// Segments in use from which on blobs wait for a flight to end, if all are under way.
    crowded: usize,
    memory: Arc<Memory>,
    runtime: Handle,
}

impl OpenPacks {
    /// Open packs of which `flights` full ones may be on their way at a time.
    pub(crate) fn new(flights: usize, runtime: Handle) -> Self {
        Self {
            data: Default::default(),
            sizes: Default::default(),
            trees: Mutex::default(),
            flights: Arc::new(Semaphore::new(flights)),
            crowded: flights.saturating_mul(TARGET_SIZE).saturating_add(BESIDE_FLIGHTS) / SEGMENT,
            memory: Arc::default(),
            runtime,
        }
    }

    /// Lets nobody wait any more: the run has stopped.
    pub(crate) fn give_up(&self) {
        self.flights.close();
    }

    /// Adds a blob; returns the pack that it filled. Waits while too many packs are on their way, and keeps those
    /// waiting too that want to add to the same pack: there is no room for what they bring. `coin` chooses between
    /// the data packs, as long as both together are not too large: then the fuller one is filled up.
    pub(crate) fn add(&self, blob: &SealedBlob<'_>, coin: bool) -> Result<Option<FullPack>> {
        let [heads, tails] = &self.data;
        let [heads_size, tails_size] = &self.sizes;
        let (pack, size) = match blob.kind {
            BlobKind::Tree => (&self.trees, None),
            BlobKind::Data => {
                let (first, second) = (heads_size.load(Relaxed), tails_size.load(Relaxed));
                let is_heads = if first + second > OPEN_DATA { first >= second } else { coin };
                if is_heads { (heads, Some(heads_size)) } else { (tails, Some(tails_size)) }
            }
        };
        self.wait_for_room();
        let mut open = locked(pack);
        open.add(blob, &self.memory)?;
        let full = if open.size() < TARGET_SIZE {
            None
        } else {
            // Closed: the run has stopped, and what is in the pack will not be needed.
            let flight = self.runtime.block_on(Arc::clone(&self.flights).acquire_owned()).ok();
            flight.map(|flight| std::mem::take(&mut *open).fly(flight))
        };
        if let Some(size) = size {
            size.store(open.length, Relaxed);
        }
        Ok(full)
    }

    /// Waits for a flight to end while packs take too much memory. Holds no pack meanwhile.
    fn wait_for_room(&self) {
        if self.memory.used.load(Relaxed) > self.crowded {
            // Given back at once: that there is one is enough. If none is under way there is nothing to wait for.
            drop(self.runtime.block_on(self.flights.acquire()));
        }
    }

    /// Closes every open pack that holds something, full or not, and hands it over. Waits while too many packs are on
    /// their way.
    pub(crate) fn close_open(&self, mut take: impl FnMut(FullPack) -> Result<()>) -> Result<()> {
        let [heads, tails] = &self.data;
        let [heads_size, tails_size] = &self.sizes;
        for (pack, size) in [(heads, Some(heads_size)), (tails, Some(tails_size)), (&self.trees, None)] {
            let mut open = locked(pack);
            if open.blobs.is_empty() {
                continue;
            }
            // Closed: the run has stopped, and what is in the packs will not be needed.
            let Ok(flight) = self.runtime.block_on(Arc::clone(&self.flights).acquire_owned()) else {
                return Ok(());
            };
            let closed = std::mem::take(&mut *open);
            if let Some(size) = size {
                size.store(0, Relaxed);
            }
            take(closed.fly(flight))?;
        }
        Ok(())
    }

    /// What is left at the end: the two data packs as one where they fit. That of trees is mostly the smallest and comes first, so
    /// that none of the others waits long for its flight.
    pub(crate) fn take_rest(&self) -> Result<Vec<OpenPack>> {
        let [heads, tails] = &self.data;
        let mut first = std::mem::take(&mut *locked(heads));
        let second = std::mem::take(&mut *locked(tails));
        let trees = std::mem::take(&mut *locked(&self.trees));
        let mut rest = vec![trees];
        if first.size() + second.size() <= TARGET_SIZE + TARGET_SIZE / 4 {
            first.merge(second, &self.memory)?;
        } else {
            rest.push(second);
        }
        rest.push(first);
        rest.retain(|pack| !pack.blobs.is_empty());
        Ok(rest)
    }

    /// The right to be on its way, as soon as another pack has arrived. `None` when the run has stopped.
    pub(crate) async fn flight(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.flights).acquire_owned().await.ok()
    }
}

fn to_u32(length: usize) -> Result<u32> {
    u32::try_from(length).map_err(|e| {
        Error::with_source(ErrorKind::Internal, format!("{length} bytes do not fit into a pack"), e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::pack::{decode_header, header_length, pack_size};

    fn blob(kind: BlobKind, content: &[u8]) -> SealedBlob<'_> {
        SealedBlob { kind, id: Id::hash(content), sealed: content, uncompressed: Some(9) }
    }

    #[tokio::test]
    async fn a_sealed_pack_describes_itself() {
        let key = Key::generate().unwrap();
        let packs = OpenPacks::new(1, Handle::current());
        // The last few reach over the border of a segment, or of two.
        let lengths = |i: u8| if i < 17 { 100 + usize::from(i) } else { 100_000 * usize::from(i) };
        let contents: Vec<Vec<u8>> = (0..20_u8).map(|i| vec![i; lengths(i)]).collect();
        for (i, content) in contents.iter().enumerate() {
            assert!(packs.add(&blob(BlobKind::Data, content), i % 3 == 0).unwrap().is_none());
        }
        packs.add(&blob(BlobKind::Tree, &[99; 64]), true).unwrap();
        let rest = packs.take_rest().unwrap();
        assert_eq!(rest.len(), 2, "both data packs merged, trees apart");
        for open in rest {
            // Only one at a time may be on its way: the second has to wait until the first is gone.
            let pack = open.fly(packs.flight().await.unwrap()).seal(&key).unwrap();
            let body = Bytes::from(pack.body.clone());
            assert_eq!(pack.id, Id::hash(&body));
            assert_eq!(pack_size(&pack.blobs), body.len() as u64);
            let last = body.last_chunk::<4>().unwrap();
            let length = header_length(*last, body.len() as u64).unwrap();
            let end = body.len() - 4;
            let header = key.open(&body[end - length..end]).unwrap();
            let read = decode_header(&header).unwrap();
            assert_eq!(read, pack.blobs);
            for entry in &read {
                let from = entry.offset as usize;
                let content = &body[from..from + entry.length as usize];
                assert_eq!(Id::hash(content), entry.id);
            }
            let kinds: std::collections::HashSet<_> = read.iter().map(|b| b.kind).collect();
            assert_eq!(kinds.len(), 1, "one kind a pack");
        }
        assert!(packs.take_rest().unwrap().is_empty());
    }

    #[test]
    fn the_open_data_packs_are_bounded_together_and_memory_is_used_again() {
        let key = Key::generate().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let packs = OpenPacks::new(2, runtime.handle().clone());
        let content = vec![7; 1 << 20];
        let bound = TARGET_SIZE + OPEN_DATA / 2 + content.len();
        let mut full = 0;
        for number in 0..200 {
            // The worst of coins: both packs would grow side by side.
            if let Some(pack) = packs.add(&blob(BlobKind::Data, &content), number % 2 == 0).unwrap() {
                let pack = pack.seal(&key).unwrap();
                assert!(pack.body.content_length() >= TARGET_SIZE, "no pack is closed early");
                full += 1;
            }
            let open: usize = packs.data.iter().map(|pack| locked(pack).length).sum();
            assert!(open <= bound, "{open}");
        }
        assert!(full >= 11, "{full}");
        let rest = packs.take_rest().unwrap();
        let rest: usize = rest.iter().map(|pack| pack.segments.len()).sum();
        let segments = locked(&packs.memory.spare).len() + rest;
        assert!(segments * SEGMENT <= bound + content.len() + 2 * SEGMENT, "{segments}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn blobs_wait_while_all_flights_are_under_way_and_memory_is_short() {
        let key = Key::generate().unwrap();
        let packs = Arc::new(OpenPacks::new(1, Handle::current()));
        let filler = Arc::clone(&packs);
        let (added, adding) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let content = vec![3; 1 << 20];
            for number in 0..60_usize {
                // Data until a pack is on its way; then directories too, of which no pack is full yet.
                let kind = if number > 24 && number % 2 == 0 { BlobKind::Tree } else { BlobKind::Data };
                let full = filler.add(&blob(kind, &content), number % 3 == 0).unwrap();
                added.send(full).unwrap();
            }
        });
        // On its way until the end of this test's first half.
        let mut flying = None;
        let mut count = 0;
        while let Ok(full) = adding.recv_timeout(std::time::Duration::from_secs(1)) {
            count += 1;
            if let Some(full) = full {
                assert!(flying.replace(full.seal(&key).unwrap()).is_none(), "one may be on its way");
            }
        }
        let used = packs.memory.used.load(Relaxed) * SEGMENT;
        assert!(flying.is_some() && count < 60);
        assert!(used <= TARGET_SIZE + BESIDE_FLIGHTS + 2 * (1 << 20), "{used}");
        drop(flying);
        while let Ok(full) = adding.recv() {
            count += 1;
            drop(full);
        }
        thread.join().unwrap();
        assert_eq!(count, 60, "all go on");
        drop(packs.take_rest().unwrap());
        assert_eq!(packs.memory.used.load(Relaxed), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn full_packs_come_out_as_fast_as_they_may_fly() {
        let packs = Arc::new(OpenPacks::new(1, Handle::current()));
        let filler = Arc::clone(&packs);
        let (full, flying) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let big = vec![1; TARGET_SIZE / 4];
            for _ in 0..8 {
                if let Some(pack) = filler.add(&blob(BlobKind::Data, &big), true).unwrap() {
                    full.send(pack).unwrap();
                }
            }
        });
        let first = flying.recv().unwrap();
        // The second is full but has to wait for the first.
        assert!(flying.recv_timeout(std::time::Duration::from_millis(200)).is_err());
        drop(first);
        drop(flying.recv().unwrap());
        thread.join().unwrap();
        assert!(packs.take_rest().unwrap().is_empty());
    }
}
