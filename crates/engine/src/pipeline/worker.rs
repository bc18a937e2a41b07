//! The CPU workers: each takes a buffer through hash, lookup, compression and sealing while it is in its cache,
//! and turns closed directories into trees.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use crossbeam_channel::Receiver;
use tokio::sync::mpsc;

use super::Shared;
use super::buffer::Buffer;
use super::file::{File, Run};
use super::pack::{SealedBlob, SealedPack};
use super::state::{State, locked};
use super::tree::{Closed, count_dir};
use crate::backup::Verify;
use crate::crypto::{IV_LENGTH, OVERHEAD};
use crate::error::{Error, ErrorKind, Result};
use crate::format::compress::{Compression, Compressor, Decompressor};
use crate::format::pack::{BlobKind, may_be_raw};
use crate::format::tree::TreeWriter;
use crate::id::Id;

/// Work for a CPU.
pub(crate) enum Job {
    /// Chunks of files, all in one buffer.
    Chunks(Buffer, Vec<Chunk>),
    /// A directory whose entries are all there.
    Close(Closed),
}

/// One chunk in a buffer.
pub(crate) struct Chunk {
    pub(crate) file: Arc<File>,
    /// Which of the file's chunks it is.
    pub(crate) index: usize,
    pub(crate) range: Range<usize>,
}

/// Blobs that this run has stored or is storing, so that each is stored once.
pub(crate) struct Claims {
    shards: [Mutex<HashSet<(BlobKind, Id)>>; 64],
}

impl Default for Claims {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Claims {
    /// Whether the caller is the first to bring this blob.
    fn claim(&self, kind: BlobKind, id: Id) -> bool {
        let [first, ..] = *id.as_bytes();
        // 64 shards: the index of the first byte's upper bits is always there.
        self.shards.get(usize::from(first >> 2)).is_none_or(|shard| locked(shard).insert((kind, id)))
    }
}

/// Bytes of a buffer for verifying that are kept for the next blob.
const SCRATCH_KEPT: usize = 1 << 20;
/// Memory for sealed blobs is kept when no more than so many bytes of it were used; see the buffers of readers.
const SEALED_KEPT: usize = 2 << 20;

/// One worker's own tools.
pub(super) struct Worker {
    shared: Arc<Shared>,
    packs: mpsc::UnboundedSender<SealedPack>,
    compressor: Compressor,
    decompressor: Decompressor,
    sealed: Vec<u8>,
    check: Vec<u8>,
    plain: Vec<u8>,
    /// Decides which open pack a blob goes to and which blobs are verified.
    dice: Dice,
    /// Plays broken memory: a bit of each blob turns over between sealing and verifying.
    #[cfg(test)]
    broken_memory: bool,
}

/// Works until the queue ends or the run stops.
pub(crate) fn run(shared: Arc<Shared>, jobs: &Receiver<Job>, packs: mpsc::UnboundedSender<SealedPack>) {
    let state = Arc::clone(&shared);
    let result = Worker::new(shared, packs).and_then(|mut worker| {
        for job in jobs {
            if worker.shared.state.stopped() {
                break;
            }
            worker.work(job)?;
        }
        Ok(())
    });
    if let Err(error) = result {
        state.state.fail(error);
    }
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, packs: mpsc::UnboundedSender<SealedPack>) -> Result<Self> {
        Ok(Self {
            compressor: Compressor::new(shared.compression)?,
            decompressor: Decompressor::new()?,
            shared,
            packs,
            sealed: Vec::new(),
            check: Vec::new(),
            plain: Vec::new(),
            dice: Dice::new()?,
            #[cfg(test)]
            broken_memory: false,
        })
    }

    fn work(&mut self, job: Job) -> Result<()> {
        // Directories that the finished chunks complete; usually none or one.
        let complete = Mutex::new(Vec::new());
        match job {
            Job::Close(closed) => return self.close(closed),
            Job::Chunks(buffer, chunks) => {
                let content = |chunk: &Chunk| buffer.get(chunk.range.clone()).unwrap_or_default();
                // Two at a time: their digests are found together.
                let mut chunks = chunks.into_iter();
                while let Some(first) = chunks.next() {
                    let second = chunks.next();
                    let data = content(&first);
                    let (id, other) = second.as_ref().map_or_else(
                        || (Id::hash(data), None),
                        |second| {
                            let (id, other) = Id::hash_two(data, content(second));
                            (id, Some(other))
                        },
                    );
                    for (chunk, id) in [(Some(first), Some(id)), (second, other)] {
                        let (Some(chunk), Some(id)) = (chunk, id) else { continue };
                        let data = content(&chunk);
                        self.store(BlobKind::Data, id, data)?;
                        self.shared.state.counters.bytes_done.add(data.len() as u64);
                        let close = |closed| locked(&complete).push(closed);
                        let run = Run { state: &self.shared.state, links: &self.shared.links, close: &close };
                        chunk.file.chunk_done(chunk.index, id, &run);
                    }
                }
            }
        }
        let complete = complete.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        complete.into_iter().try_for_each(|closed| self.close(closed))
    }

    /// Stores a closed directory's tree, and those above it that it completes.
    fn close(&mut self, closed: Closed) -> Result<()> {
        let mut next = Some(closed);
        while let Some(closed) = next.take() {
            let content = closed.take();
            let mut writer = TreeWriter::new();
            for node in &content.entries {
                writer.push(node).map_err(|e| {
                    let what = format!("{} cannot be saved", closed.dir.path.display());
                    Error::with_source(e.kind(), what, e)
                })?;
            }
            let (id, json) = writer.finish_with_id();
            self.store(BlobKind::Tree, id, &json)?;
            if let Some(node) = &content.node {
                count_dir(&self.shared.state, node, id, content.previous.as_ref());
            }
            match closed.hand_up(content.node, id) {
                Ok(above) => next = above,
                Err(root) => *locked(&self.shared.root) = Some(root),
            }
        }
        Ok(())
    }

    /// Compresses, seals and packs a blob unless the repository or this run has it.
    pub(super) fn store(&mut self, kind: BlobKind, id: Id, plain: &[u8]) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        if shared.index.contains(kind, &id) || !shared.claims.claim(kind, id) {
            return Ok(());
        }
        let uncompressed = self.seal(kind, plain)?;
        #[cfg(test)]
        self.play_broken_memory();
        if self.is_to_be_verified(kind) {
            self.verify(kind, id, plain.len(), uncompressed)?;
        }
        let counters = &shared.state.counters;
        match kind {
            BlobKind::Data => counters.data_blobs.add(1),
            BlobKind::Tree => counters.tree_blobs.add(1),
        }
        counters.plain_added.add(plain.len() as u64);
        counters.packed_added.add(self.sealed.len() as u64);
        let blob = SealedBlob { kind, id, sealed: &self.sealed, uncompressed };
        if let Some(full) = shared.packs.add(&blob, self.dice.coin())? {
            let pack = full.seal(shared.repository.key())?;
            // An error means that the uploader gave up and said why.
            let _ = self.packs.send(pack);
        }
        if self.sealed.len() > SEALED_KEPT {
            self.sealed = Vec::new();
        }
        Ok(())
    }

    /// Leaves the sealed blob in `self.sealed`; returns the plain length when it is compressed.
    fn seal(&mut self, kind: BlobKind, plain: &[u8]) -> Result<Option<u32>> {
        self.sealed.clear();
        self.sealed.extend_from_slice(&[0; IV_LENGTH]);
        let mut uncompressed = None;
        let always = kind == BlobKind::Tree || !may_be_raw(plain);
        if self.shared.repository.version() >= 2 && (always || self.shared.compression != Compression::Off) {
            let length = self.compressor.append(plain, &mut self.sealed)?;
            if length < plain.len() || always {
                uncompressed = u32::try_from(plain.len()).ok();
            } else {
                self.sealed.truncate(IV_LENGTH);
            }
        }
        if uncompressed.is_none() {
            if u32::try_from(plain.len() + OVERHEAD).is_err() {
                return Err(Error::new(
                    ErrorKind::Internal,
                    format!("a blob of {} bytes is too large for the format", plain.len()),
                ));
            }
            self.sealed.truncate(IV_LENGTH);
            self.sealed.extend_from_slice(plain);
        }
        self.shared.repository.key().seal_tail(&mut self.sealed, 0)?;
        Ok(uncompressed)
    }

    fn is_to_be_verified(&mut self, kind: BlobKind) -> bool {
        match self.shared.verify {
            Verify::Off => false,
            Verify::Full => true,
            Verify::Sample => kind == BlobKind::Tree || self.dice.one_in_sixteen(),
        }
    }

    /// Whether what was just sealed gives back what it was made of. Why it does not is of no interest: nothing was
    /// stored yet, so whatever it is, it is not the repository.
    fn reads_back(&mut self, id: Id, length: usize, uncompressed: Option<u32>) -> bool {
        self.check.clear();
        self.check.extend_from_slice(&self.sealed);
        let Ok(stored) = self.shared.repository.key().open_in_place(&mut self.check) else { return false };
        if uncompressed.is_none() {
            return Id::hash(stored) == id;
        }
        self.decompressor.exact_into(stored, length, &mut self.plain).is_ok() && Id::hash(&self.plain) == id
    }

    #[cfg(test)]
    fn play_broken_memory(&mut self) {
        let middle = self.sealed.len() / 2;
        if self.broken_memory
            && let Some(byte) = self.sealed.get_mut(middle)
        {
            *byte ^= 0x10;
        }
    }

    /// Opens what was just sealed and compares its digest: a guard against broken memory and our own faults.
    fn verify(&mut self, kind: BlobKind, id: Id, length: usize, uncompressed: Option<u32>) -> Result<()> {
        let right = self.reads_back(id, length, uncompressed);
        // Large chunks are rare, and verified ones rarer: what they took is worth more elsewhere.
        for scratch in [&mut self.check, &mut self.plain] {
            if scratch.capacity() > SCRATCH_KEPT {
                *scratch = Vec::new();
            }
        }
        if right {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Internal,
            format!(
                "the {} blob {id} does not read back as it was sealed; nothing was committed. Check this machine's memory",
                kind.as_str()
            ),
        ))
    }
}

/// A small generator of random bits, seeded from the system. Not for keys.
struct Dice(u64);

impl Dice {
    fn new() -> Result<Self> {
        let mut seed = [0; 8];
        crate::crypto::random(&mut seed)?;
        Ok(Self(u64::from_le_bytes(seed) | 1))
    }

    /// Marsaglia's xorshift64.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn coin(&mut self) -> bool {
        (self.next() >> 40).is_multiple_of(2)
    }

    fn one_in_sixteen(&mut self) -> bool {
        (self.next() >> 40).is_multiple_of(16)
    }
}

/// Tells the state about a thread that panicked; the run must not end as if it had done its part.
pub(crate) fn guard(state: &State, name: &str, work: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
        state.fail(Error::new(
            ErrorKind::Internal,
            format!("the {name} thread of the backup panicked; this is a bug of Holdfast"),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::super::OpenPacks;
    use super::*;
    use crate::chunk::Chunker;
    use crate::event::Ctx;
    use crate::index::DedupBuilder;

    fn shared(repository: crate::Repository, verify: Verify) -> Arc<Shared> {
        Arc::new(Shared {
            state: Arc::new(State::new(&Ctx::default(), u64::MAX)),
            chunker: Chunker::new(repository.config().chunker_polynomial),
            repository,
            index: Arc::new(DedupBuilder::new().finish()),
            claims: Claims::default(),
            packs: OpenPacks::new(2, tokio::runtime::Handle::current()),
            links: super::super::Links::default(),
            compression: Compression::Auto,
            verify,
            zero_chunk: std::sync::OnceLock::new(),
            root_dir: std::sync::OnceLock::new(),
            root: Mutex::default(),
            refused: Mutex::default(),
        })
    }

    /// Of so many blobs that broken memory spoils, how many are noticed.
    fn noticed(repository: &crate::Repository, verify: Verify, kind: BlobKind, count: u32) -> u32 {
        let (packs, _arriving) = mpsc::unbounded_channel();
        let mut worker = Worker::new(shared(repository.clone(), verify), packs).unwrap();
        worker.broken_memory = true;
        let mut noticed = 0;
        for number in 0..count {
            // One that compresses and one that does not.
            let plain = if number % 2 == 0 { vec![7; 2000] } else { number.to_le_bytes().to_vec() };
            let plain = [plain.as_slice(), &number.to_be_bytes()].concat();
            if let Err(error) = worker.store(kind, Id::hash(&plain), &plain) {
                assert_eq!(error.kind(), ErrorKind::Internal, "it is this machine and not the repository");
                assert!(error.to_string().contains("memory"), "{error}");
                noticed += 1;
            }
        }
        noticed
    }

    #[tokio::test]
    async fn broken_memory_between_sealing_and_writing_is_noticed_as_far_as_was_asked() {
        let fixture = crate::repository::testing::fixture().await;
        let noticed = |verify, kind| noticed(&fixture.repo, verify, kind, 2000);
        for kind in [BlobKind::Data, BlobKind::Tree] {
            assert_eq!(noticed(Verify::Full, kind), 2000);
            assert_eq!(noticed(Verify::Off, kind), 0);
        }
        assert_eq!(noticed(Verify::Sample, BlobKind::Tree), 2000);
        // One of 16: 125 on average, and never so far from it by chance.
        let sampled = noticed(Verify::Sample, BlobKind::Data);
        assert!((50..250).contains(&sampled), "{sampled}");
    }

    #[tokio::test]
    async fn what_was_sealed_well_passes() {
        let fixture = crate::repository::testing::fixture().await;
        let (packs, _arriving) = mpsc::unbounded_channel();
        let mut worker = Worker::new(shared(fixture.repo.clone(), Verify::Full), packs).unwrap();
        for length in [1, 100, 100_000] {
            let plain = vec![3; length];
            worker.store(BlobKind::Data, Id::hash(&plain), &plain).unwrap();
            worker.store(BlobKind::Tree, Id::hash(&plain), &plain).unwrap();
        }
    }
}
