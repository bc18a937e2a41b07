//! Packs being filled: two of data and one of trees.
//!
//! Each data blob goes to a random one of two open packs, so that the order and sizes of blobs in a pack do not
//! tell which known files were stored (restic 0.18 does the same). Not here: writing packs to the store (`upload`).

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::state::locked;
use crate::crypto::{Key, OVERHEAD};
use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::{BlobKind, LENGTH_FIELD, PackedBlob, encode_header};
use crate::id::Id;

/// A pack is closed when it reaches this size, in bytes.
pub(crate) const TARGET_SIZE: usize = 16 << 20;

/// A pack that takes blobs.
#[derive(Default)]
pub(crate) struct OpenPack {
    body: Vec<u8>,
    blobs: Vec<PackedBlob>,
    header: usize,
}

/// A full pack with the right to be on its way.
pub(crate) struct FullPack {
    open: OpenPack,
    flight: OwnedSemaphorePermit,
}

/// A finished pack file.
pub(crate) struct SealedPack {
    pub(crate) id: Id,
    pub(crate) body: Bytes,
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
        self.body.len() + self.header + OVERHEAD + LENGTH_FIELD
    }

    fn add(&mut self, blob: &SealedBlob<'_>) -> Result<()> {
        let length = to_u32(blob.sealed.len())?;
        let offset = to_u32(self.body.len())?;
        let entry =
            PackedBlob { kind: blob.kind, id: blob.id, offset, length, uncompressed: blob.uncompressed };
        self.body.extend_from_slice(blob.sealed);
        self.header += entry.entry_length();
        self.blobs.push(entry);
        Ok(())
    }

    /// Appends all blobs of another pack of the same kind.
    fn merge(&mut self, other: &Self) -> Result<()> {
        for blob in &other.blobs {
            let from = blob.offset as usize;
            let sealed = other.body.get(from..from + blob.length as usize).unwrap_or_default();
            self.add(&SealedBlob { kind: blob.kind, id: blob.id, sealed, uncompressed: blob.uncompressed })?;
        }
        Ok(())
    }
}

impl FullPack {
    /// Writes the header behind the blobs and names the file by its digest.
    pub(crate) fn seal(self, key: &Key) -> Result<SealedPack> {
        let OpenPack { mut body, blobs, .. } = self.open;
        let header = encode_header(&blobs);
        key.seal_into(&header, &mut body)?;
        let length = to_u32(header.len() + OVERHEAD)?;
        body.extend_from_slice(&length.to_le_bytes());
        let id = Id::hash(&body);
        Ok(SealedPack { id, body: Bytes::from(body), blobs, flight: self.flight })
    }
}

/// The open packs of a run, and how many full ones may be on their way.
pub(crate) struct OpenPacks {
    data: [Mutex<OpenPack>; 2],
    trees: Mutex<OpenPack>,
    flights: Arc<Semaphore>,
    /// Buffers of packs that have arrived. Using them again keeps the allocator from holding several times as much.
    spare: Mutex<Vec<Vec<u8>>>,
    runtime: Handle,
}

impl OpenPacks {
    /// Open packs of which `flights` full ones may be on their way at a time.
    pub(crate) fn new(flights: usize, runtime: Handle) -> Self {
        Self {
            data: Default::default(),
            trees: Mutex::default(),
            flights: Arc::new(Semaphore::new(flights)),
            spare: Mutex::default(),
            runtime,
        }
    }

    /// Lets nobody wait any more: the run has stopped.
    pub(crate) fn give_up(&self) {
        self.flights.close();
    }

    /// Takes the buffer of a pack that has arrived, when nobody else refers to it.
    pub(crate) fn take_back(&self, body: Bytes) {
        if body.is_unique() {
            let mut body = Vec::from(body);
            body.clear();
            locked(&self.spare).push(body);
        }
    }

    /// Adds a blob; returns the pack that it filled. Waits while too many packs are on their way, and keeps those
    /// waiting too that want to add to the same pack: there is no room for what they bring. `coin` chooses between
    /// the data packs.
    pub(crate) fn add(&self, blob: &SealedBlob<'_>, coin: bool) -> Result<Option<FullPack>> {
        let [heads, tails] = &self.data;
        let pack = match (blob.kind, coin) {
            (BlobKind::Tree, _) => &self.trees,
            (BlobKind::Data, true) => heads,
            (BlobKind::Data, false) => tails,
        };
        let mut open = locked(pack);
        if open.body.capacity() == 0 {
            // One allocation for the whole pack; the last blob may reach beyond the target.
            let spare = locked(&self.spare).pop();
            open.body = spare.unwrap_or_else(|| Vec::with_capacity(TARGET_SIZE + TARGET_SIZE / 8));
        }
        open.add(blob)?;
        if open.size() < TARGET_SIZE {
            return Ok(None);
        }
        // Closed: the run has stopped, and what is in the pack will not be needed.
        let flight = self.runtime.block_on(Arc::clone(&self.flights).acquire_owned()).ok();
        Ok(flight.map(|flight| FullPack { open: std::mem::take(&mut *open), flight }))
    }

    /// Closes every open pack that holds something, full or not, and hands it over. Waits while too many packs are on
    /// their way.
    pub(crate) fn close_open(&self, mut take: impl FnMut(FullPack) -> Result<()>) -> Result<()> {
        let [heads, tails] = &self.data;
        for pack in [heads, tails, &self.trees] {
            let mut open = locked(pack);
            if open.blobs.is_empty() {
                continue;
            }
            // Closed: the run has stopped, and what is in the packs will not be needed.
            let Ok(flight) = self.runtime.block_on(Arc::clone(&self.flights).acquire_owned()) else {
                return Ok(());
            };
            let open = std::mem::take(&mut *open);
            take(FullPack { open, flight })?;
        }
        Ok(())
    }

    /// What is left at the end: the two data packs as one where they fit.
    pub(crate) async fn take_rest(&self) -> Result<Vec<FullPack>> {
        let [heads, tails] = &self.data;
        let mut first = std::mem::take(&mut *locked(heads));
        let second = std::mem::take(&mut *locked(tails));
        let trees = std::mem::take(&mut *locked(&self.trees));
        let mut rest = Vec::new();
        if first.size() + second.size() <= TARGET_SIZE + TARGET_SIZE / 4 {
            first.merge(&second)?;
        } else {
            rest.push(second);
        }
        rest.push(first);
        rest.push(trees);
        rest.retain(|pack| !pack.blobs.is_empty());
        let mut full = Vec::new();
        for open in rest {
            // More than may be on their way at a time, but these are there already and will not become more.
            self.flights.add_permits(1);
            if let Ok(flight) = Arc::clone(&self.flights).acquire_owned().await {
                full.push(FullPack { open, flight });
            }
        }
        Ok(full)
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
        let contents: Vec<Vec<u8>> = (0..20_u8).map(|i| vec![i; 100 + usize::from(i)]).collect();
        for (i, content) in contents.iter().enumerate() {
            assert!(packs.add(&blob(BlobKind::Data, content), i % 3 == 0).unwrap().is_none());
        }
        packs.add(&blob(BlobKind::Tree, &[99; 64]), true).unwrap();
        let rest = packs.take_rest().await.unwrap();
        assert_eq!(rest.len(), 2, "both data packs merged, trees apart");
        for open in rest {
            let pack = open.seal(&key).unwrap();
            assert_eq!(pack.id, Id::hash(&pack.body));
            assert_eq!(pack_size(&pack.blobs), pack.body.len() as u64);
            let last = pack.body.last_chunk::<4>().unwrap();
            let length = header_length(*last, pack.body.len() as u64).unwrap();
            let end = pack.body.len() - 4;
            let header = key.open(&pack.body[end - length..end]).unwrap();
            let read = decode_header(&header).unwrap();
            assert_eq!(read, pack.blobs);
            for entry in &read {
                let from = entry.offset as usize;
                let content = &pack.body[from..from + entry.length as usize];
                assert_eq!(Id::hash(content), entry.id);
            }
            let kinds: std::collections::HashSet<_> = read.iter().map(|b| b.kind).collect();
            assert_eq!(kinds.len(), 1, "one kind a pack");
        }
        assert!(packs.take_rest().await.unwrap().is_empty());
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
        assert!(packs.take_rest().await.unwrap().is_empty());
    }
}
