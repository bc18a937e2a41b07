//! Packs on their way to the store, and the index of those that arrived.
//!
//! An index file is written early, of durable packs only, so that a run that is killed leaves its work to the next.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::Shared;
use super::checkpoint::{Brought, Checkpointer};
use super::pack::SealedPack;
use crate::backup::Checkpoints;
use crate::error::{Error, ErrorKind, Result};
use crate::format::index_file::{IndexFile, IndexedPack, MAX_BLOBS};
use crate::id::Id;
use crate::repository::Repository;
use crate::store::{FileKind, FileName, PutMode, PutPayload, Store};

/// An index file is written at the latest this long after its first pack.
const FLUSH_AFTER: Duration = Duration::from_mins(1);
/// And when its packs hold this many bytes.
const FLUSH_BYTES: u64 = 2 << 30;
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// Uploads until all packs are durable and indexed, once the gate is open; a failure ends up in the run's state.
pub(super) async fn run(
    shared: &Arc<Shared>,
    mut packs: mpsc::UnboundedReceiver<SealedPack>,
    guess: Option<(u64, u64)>,
    checkpoints: Checkpoints,
    gate: BoxFuture<'_, Result<()>>,
) {
    let mut uploads = Uploads {
        shared,
        flying: JoinSet::new(),
        last: JoinSet::new(),
        index: PendingIndex::new(shared.repository.clone()),
        outstanding: HashSet::new(),
        checkpoint: Checkpointer::new(checkpoints),
    };
    // Whatever it is waiting for, a hanging store too, ends with the run.
    let result = tokio::select! {
        biased;
        () = shared.state.stop_signal().cancelled() => Ok(()),
        result = async {
            gate.await?;
            uploads.run(&mut packs, guess).await
        } => result,
    };
    if let Err(error) = result {
        shared.state.fail(error);
    }
    shared.state.index_written(&uploads.index.written);
    // Workers that wait for a flight go on, see the stop, and end.
    shared.packs.give_up();
    packs.close();
    uploads.flying.shutdown().await;
    uploads.last.shutdown().await;
    shared.state.report_progress(guess);
}

struct Uploads<'a> {
    shared: &'a Arc<Shared>,
    flying: JoinSet<Result<IndexedPack>>,
    /// What was left in the open packs at the end. The index is made while these fly, and names them already.
    last: JoinSet<Result<()>>,
    index: PendingIndex,
    /// Packs that were sent and have not arrived.
    outstanding: HashSet<Id>,
    checkpoint: Checkpointer,
}

impl Uploads<'_> {
    async fn run(
        &mut self,
        packs: &mut mpsc::UnboundedReceiver<SealedPack>,
        guess: Option<(u64, u64)>,
    ) -> Result<()> {
        let mut tick = tokio::time::interval(PROGRESS_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        self.drive(packs, guess, &mut tick).await?;
        let state = Arc::clone(&self.shared.state);
        state.phase("commit");
        let mut commit = std::pin::pin!(self.commit());
        loop {
            tokio::select! {
                biased;
                result = &mut commit => return result,
                _ = tick.tick() => state.report_progress(guess),
            }
        }
    }

    /// Sends packs until the workers and a checkpoint that is being made are through.
    async fn drive(
        &mut self,
        packs: &mut mpsc::UnboundedReceiver<SealedPack>,
        guess: Option<(u64, u64)>,
        tick: &mut Interval,
    ) -> Result<()> {
        let mut feeding = true;
        // A checkpoint that is being made brings blobs too: the open packs are emptied after it.
        while feeding || self.checkpoint.is_building() {
            tokio::select! {
                biased;
                Some(done) = self.flying.join_next() => self.arrived(done).await?,
                brought = self.checkpoint.brought() => match brought? {
                    Brought::Pack(pack) => self.send(pack),
                    Brought::Built(tree) => {
                        while let Ok(pack) = packs.try_recv() {
                            self.send(pack);
                        }
                        if let Some(tree) = tree {
                            self.checkpoint.wait_for(tree, self.outstanding.clone());
                            self.tell_checkpoint().await?;
                        }
                    }
                },
                pack = packs.recv(), if feeding => match pack {
                    Some(pack) => self.send(pack),
                    None => feeding = false,
                },
                _ = tick.tick() => {
                    self.shared.state.report_progress(guess);
                    let counters = &self.shared.state.counters;
                    let (files, bytes) = (counters.files.total(), counters.bytes_done.get());
                    if feeding && self.checkpoint.is_due(files, bytes) {
                        self.checkpoint.begin(self.shared, files, bytes);
                    }
                    if self.index.is_due() {
                        self.index.flush().await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends what is left in the open packs, and the index of all that no index file lists yet. That is sealed while
    /// the packs are on their way, and written when all have arrived.
    async fn commit(&mut self) -> Result<()> {
        let (sealed, mut named) = mpsc::unbounded_channel();
        for open in self.shared.packs.take_rest()? {
            // One after the other, as those before: only so many fit into memory.
            let Some(flight) = self.shared.packs.flight().await else { return Ok(()) };
            let (repository, sealed) = (self.shared.repository.clone(), sealed.clone());
            self.last.spawn(async move {
                let (full, key) = (open.fly(flight), repository.clone());
                let SealedPack { id, body, blobs, flight } =
                    repository.on_pool(move || full.seal(key.key())).await??;
                // Nobody waits for it when the run has stopped.
                let _ = sealed.send(IndexedPack { id, blobs, marked: false });
                put_pack(&repository, id, body, || drop(flight)).await
            });
        }
        drop(sealed);
        while let Some(done) = self.flying.join_next().await {
            self.arrived(done).await?;
        }
        while let Some(pack) = named.recv().await {
            self.index.add(pack);
        }
        let index = self.index.seal().await?;
        while let Some(done) = self.last.join_next().await {
            done.map_err(broken_off)??;
        }
        self.index.write(index).await
    }

    fn send(&mut self, pack: SealedPack) {
        let shared = Arc::clone(self.shared);
        self.outstanding.insert(pack.id);
        self.flying.spawn(async move {
            let SealedPack { id, body, blobs, flight } = pack;
            put_pack(&shared.repository, id, body, || drop(flight)).await?;
            Ok(IndexedPack { id, blobs, marked: false })
        });
    }

    async fn arrived(&mut self, done: Result<Result<IndexedPack>, JoinError>) -> Result<()> {
        let pack = done.map_err(broken_off)??;
        self.outstanding.remove(&pack.id);
        self.checkpoint.arrived(&pack.id);
        self.index.add(pack);
        if self.index.is_due() {
            self.index.flush().await?;
        }
        self.tell_checkpoint().await
    }

    /// Once all that a checkpoint needs is durable, it is indexed and told.
    async fn tell_checkpoint(&mut self) -> Result<()> {
        if let Some(tree) = self.checkpoint.take_durable() {
            self.index.flush().await?;
            self.shared.state.checkpoint(tree);
        }
        Ok(())
    }
}

fn broken_off(e: JoinError) -> Error {
    Error::with_source(ErrorKind::Internal, "an upload was broken off", e)
}

/// Packs that no index file lists yet.
struct PendingIndex {
    repository: Repository,
    packs: Vec<IndexedPack>,
    blobs: usize,
    bytes: u64,
    since: Instant,
    /// Index files written by this run, or begun.
    written: Vec<Id>,
}

impl PendingIndex {
    fn new(repository: Repository) -> Self {
        Self { repository, packs: Vec::new(), blobs: 0, bytes: 0, since: Instant::now(), written: Vec::new() }
    }

    fn add(&mut self, pack: IndexedPack) {
        if self.packs.is_empty() {
            self.since = Instant::now();
        }
        self.blobs += pack.blobs.len();
        self.bytes += pack.blobs.iter().map(|blob| u64::from(blob.length)).sum::<u64>();
        self.packs.push(pack);
    }

    fn is_due(&self) -> bool {
        !self.packs.is_empty() && is_due(self.blobs, self.bytes, self.since)
    }

    /// Writes index files of what is pending, all of it durable.
    async fn flush(&mut self) -> Result<()> {
        let files = self.seal().await?;
        self.write(files).await
    }

    /// Makes index files of at most [`MAX_BLOBS`] blobs, unless one pack alone has more. Nothing is pending then.
    async fn seal(&mut self) -> Result<Vec<Proved>> {
        let packs = std::mem::take(&mut self.packs);
        (self.blobs, self.bytes) = (0, 0);
        let mut groups: Vec<Vec<IndexedPack>> = Vec::new();
        let mut blobs = 0;
        for pack in packs {
            match groups.last_mut() {
                Some(group) if blobs + pack.blobs.len() <= MAX_BLOBS => {
                    blobs += pack.blobs.len();
                    group.push(pack);
                }
                _ => {
                    blobs = pack.blobs.len();
                    groups.push(vec![pack]);
                }
            }
        }
        let mut files = Vec::new();
        for group in groups {
            let repository = self.repository.clone();
            let seal = move || Proved::seal(&repository, FileKind::Index, &IndexFile::to_json(&group)?);
            files.push(self.repository.on_pool(seal).await??);
        }
        Ok(files)
    }

    /// Writes files whose packs are all durable.
    async fn write(&mut self, files: Vec<Proved>) -> Result<()> {
        for file in files {
            // Also one of which it is not known whether it arrived.
            self.written.push(file.name.id);
            file.put(&self.repository).await?;
        }
        Ok(())
    }
}

/// Writes a pack and looks whether it arrived whole. `sent` is called in between, when the pack's memory is free again:
/// the next one need not wait for the look.
pub(crate) async fn put_pack(
    repository: &Repository,
    id: Id,
    body: PutPayload,
    sent: impl FnOnce(),
) -> Result<()> {
    let name = FileName { kind: FileKind::Pack, id };
    let size = body.content_length() as u64;
    repository.store().put(name, body, PutMode::ContentAddressed).await?;
    sent();
    check_size(repository.store().as_ref(), name, size).await
}

/// Seals and writes an index or a snapshot: it is opened again first, a guard against broken memory, and looked for
/// in the store after.
pub(crate) async fn save(repository: &Repository, kind: FileKind, json: &[u8]) -> Result<Id> {
    Proved::seal(repository, kind, json)?.put(repository).await
}

/// Whether durable packs with so many blobs and bytes, which wait to be listed since then, are to be listed now: a run that is
/// killed leaves to the next what the index names.
pub(crate) fn is_due(blobs: usize, bytes: u64, since: Instant) -> bool {
    blobs >= MAX_BLOBS || bytes >= FLUSH_BYTES || since.elapsed() >= FLUSH_AFTER
}

/// A sealed index or snapshot of which it is known that it can be opened again.
pub(crate) struct Proved {
    pub(crate) name: FileName,
    sealed: Bytes,
}

impl Proved {
    pub(crate) fn seal(repository: &Repository, kind: FileKind, json: &[u8]) -> Result<Self> {
        let (id, sealed) = repository.seal_unpacked(json)?;
        let name = FileName { kind, id };
        if repository.open_unpacked(kind, &id, &sealed)? != json {
            return Err(Error::new(
                ErrorKind::Internal,
                format!(
                    "{name} does not read back as it was sealed and was not written. Check this machine's memory"
                ),
            ));
        }
        Ok(Self { name, sealed })
    }

    pub(crate) async fn put(self, repository: &Repository) -> Result<Id> {
        let written = self.write(repository).await?;
        written.check(repository).await?;
        Ok(written.name.id)
    }

    /// Writes it; whether it arrived whole is to be asked.
    pub(crate) async fn write(self, repository: &Repository) -> Result<Written> {
        let Self { name, sealed } = self;
        let size = sealed.len() as u64;
        repository.store().put(name, sealed.into(), PutMode::ContentAddressed).await?;
        Ok(Written { name, size })
    }
}

/// A file that a store has accepted.
pub(crate) struct Written {
    pub(crate) name: FileName,
    size: u64,
}

impl Written {
    /// Asks whether it arrived whole.
    pub(crate) async fn check(&self, repository: &Repository) -> Result<()> {
        check_size(repository.store().as_ref(), self.name, self.size).await
    }
}

/// Asks whether a file arrived whole. Some servers answer a write before they know, or after they have failed;
/// what refers to the file must not be written then.
pub(crate) async fn check_size(store: &dyn Store, name: FileName, expected: u64) -> Result<()> {
    let refuse = |found: String| {
        Error::new(
            ErrorKind::Corrupt,
            format!(
                "{} accepted {name} of {expected} bytes, but has {found}; there is no new snapshot. \
                 Do not trust this store with backups",
                store.describe()
            ),
        )
    };
    match store.size(name).await {
        Ok(size) if size == expected => Ok(()),
        Ok(size) => Err(refuse(format!("{size} bytes of it"))),
        Err(e) if e.kind() == ErrorKind::Missing => Err(refuse("nothing of it".to_owned())),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::pack::{BlobKind, PackedBlob};
    use crate::repository::testing::fixture;

    /// A pack of so many blobs, all of one length.
    fn pack(number: u8, blobs: usize, length: u32) -> IndexedPack {
        let id = Id::from_bytes([number; 32]);
        let blob = PackedBlob { kind: BlobKind::Data, id, offset: 0, length, uncompressed: None };
        IndexedPack { id, blobs: vec![blob; blobs], marked: false }
    }

    #[tokio::test]
    async fn an_index_file_is_due_when_it_is_full_or_old_or_lists_much() {
        let f = fixture().await;
        let with = |packs: Vec<IndexedPack>| {
            let mut pending = PendingIndex::new(f.repo.clone());
            for pack in packs {
                pending.add(pack);
            }
            pending
        };
        let mut nothing = with(vec![]);
        nothing.since -= 2 * FLUSH_AFTER;
        assert!(!nothing.is_due());
        assert!(!with(vec![pack(1, MAX_BLOBS - 1, 100)]).is_due());
        assert!(with(vec![pack(1, MAX_BLOBS - 1, 100), pack(2, 1, 100)]).is_due());
        assert!(!with(vec![pack(1, 2, 1 << 29)]).is_due());
        assert!(with(vec![pack(1, 2, 1 << 29), pack(2, 2, 1 << 29)]).is_due());
        let mut old = with(vec![pack(1, 1, 100)]);
        old.since -= FLUSH_AFTER;
        assert!(old.is_due());
        // The time of what was listed is not that of what comes after it.
        old.seal().await.unwrap();
        assert!(!old.is_due());
        old.add(pack(2, 1, 100));
        assert!(!old.is_due());
    }

    #[tokio::test]
    async fn an_index_file_lists_whole_packs_and_only_one_alone_makes_it_too_long() {
        let f = fixture().await;
        let half = MAX_BLOBS / 2;
        let mut pending = PendingIndex::new(f.repo.clone());
        for (number, blobs) in [(1, half), (2, half), (3, 1), (4, MAX_BLOBS + 1), (5, 7)] {
            pending.add(pack(number, blobs, 100));
        }
        pending.flush().await.unwrap();
        let mut files = Vec::new();
        for id in pending.written {
            let bytes = f.repo.load_unpacked(FileKind::Index, &id).await.unwrap();
            let packs = IndexFile::parse(&bytes).unwrap().packs;
            files.push(packs.iter().map(|pack| pack.id.as_bytes()[0]).collect::<Vec<_>>());
        }
        assert_eq!(files, [vec![1, 2], vec![3], vec![4], vec![5]]);
    }
}
