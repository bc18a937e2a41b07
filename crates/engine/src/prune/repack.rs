//! Moving blobs into new packs: sealed bytes as they are, each checked against its MAC and its name first, and
//! neither encrypted nor compressed again.
//!
//! Not here: which blobs (`plan`), and what becomes of the packs they came from.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Ctx, Event, Progress};
use crate::format::index_file::{IndexFile, IndexedPack, MAX_BLOBS};
use crate::format::pack::BlobKind;
use crate::id::Id;
use crate::index::Index;
use crate::pipeline::{self, OpenPacks, Proved, SealedBlob, SealedPack, is_due};
use crate::reach::on_threads;
use crate::read::fetch::{self, Fetched, Place};
use crate::read::{BlobOpener, is_damage};
use crate::repository::Repository;
use crate::store::{FileKind, FileName};

/// A blob to move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) kind: BlobKind,
    pub(crate) id: Id,
    /// The copy to read.
    pub(crate) place: Place,
    /// Plain bytes when it is compressed.
    pub(crate) uncompressed: Option<u32>,
}

/// How blobs are moved.
pub(crate) struct How {
    /// Packs on their way at a time.
    pub(crate) uploads: usize,
    /// Nobody else works on the repository.
    pub(crate) alone: bool,
    /// Gets the index files.
    pub(crate) written: IndexFiles,
}

/// Index files that name what was moved, as they are written: they are there, or may be, also when the move broke off.
pub(crate) type IndexFiles = Arc<Mutex<Vec<Id>>>;

/// Those that were written so far.
pub(crate) fn written_so_far(files: &IndexFiles) -> Vec<Id> {
    files.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// What was moved.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    pub(crate) blobs: u64,
    /// Sealed bytes.
    pub(crate) bytes: u64,
    pub(crate) packs: u64,
    /// Bytes of the new packs.
    pub(crate) pack_bytes: u64,
    /// Packs of which a blob could not be read, and why: they must stay.
    pub(crate) damaged: BTreeMap<u32, String>,
}

/// Copies blobs into new packs and lists those in the index; durable when this returns. Blocks; belongs on a
/// thread of its own. A blob that cannot be read in this copy nor any other is in [`Moved::damaged`].
///
/// # Errors
/// `Full` when the store has no room for all of it: under an exclusive lock (`alone`) what no index file lists is removed
/// again, else a later prune does it.
pub(crate) fn copy(
    repo: &Repository,
    index: &Arc<Index>,
    mut wanted: Vec<Wanted>,
    how: How,
    runtime: &Handle,
    ctx: &Ctx,
) -> Result<Moved> {
    let How { uploads, alone, written } = how;
    if wanted.is_empty() {
        return Ok(Moved::default());
    }
    wanted.sort_unstable_by_key(|w| w.place);
    let bytes_total = wanted.iter().map(|w| u64::from(w.place.length)).sum();
    let requests = fetch::requests(wanted.iter().map(|w| w.place));
    let total = requests.len();
    // Ends the fetching when something else fails.
    let inner = Ctx { cancel: ctx.cancel.child_token(), events: Arc::clone(&ctx.events) };
    let _stop = inner.cancel.clone().drop_guard();
    let packs = Arc::clone(index);
    let fetched = fetch::spawn(
        Arc::clone(repo.store()),
        move |number| packs.packs().get(number as usize).map(|p| p.id),
        requests,
        inner.cancel.clone(),
        runtime,
    );
    let open = Arc::new(OpenPacks::new(uploads.max(1), runtime.clone()));
    let (full, queue) = mpsc::unbounded_channel();
    let uploader = Uploader {
        repo: repo.clone(),
        open: Arc::clone(&open),
        moved: Moved::default(),
        alone,
        written,
        index_unsure: false,
    };
    let uploading = runtime.spawn(uploader.run(queue));
    let counts = Mutex::new((0_usize, 0_u64, 0_u64, BTreeMap::new()));
    let hand = Mover {
        repo,
        index,
        wanted: &wanted,
        open: &open,
        runtime,
        ctx: &inner,
        counts: &counts,
        bytes_total,
    };
    let mut result = on_threads(|| hand.run(&fetched, &full));
    if result.is_ok() {
        result = inner.check().and_then(|()| {
            for pack in open.take_rest()? {
                // None: the upload failed, which is told at the end.
                let Some(flight) = runtime.block_on(open.flight()) else { break };
                let pack = pack.fly(flight);
                send(&full, pack.seal(repo.key())?);
            }
            Ok(())
        });
    }
    drop(full);
    if result.is_err() {
        open.give_up();
    }
    let sent = runtime
        .block_on(uploading)
        .map_err(|e| Error::with_source(ErrorKind::Internal, "the uploads were broken off", e))?;
    // When both failed the upload's failure is the cause: workers see it as a cancellation.
    let mut moved = match (sent, result) {
        (Ok(moved), Ok(())) => moved,
        (Err(e), _) | (Ok(_), Err(e)) => return Err(e),
    };
    ctx.check()?;
    let (requests_done, blobs, bytes, damaged) = counts.into_inner().unwrap_or_else(PoisonError::into_inner);
    if requests_done != total {
        return Err(Error::new(ErrorKind::Internal, "not all blobs were moved: a bug"));
    }
    (moved.blobs, moved.bytes, moved.damaged) = (blobs, bytes, damaged);
    Ok(moved)
}

/// The receiver is only gone when the upload failed, which is told at the end.
fn send(full: &mpsc::UnboundedSender<SealedPack>, pack: SealedPack) {
    let _ = full.send(pack);
}

/// What the threads share.
struct Mover<'a> {
    repo: &'a Repository,
    index: &'a Arc<Index>,
    wanted: &'a [Wanted],
    open: &'a OpenPacks,
    runtime: &'a Handle,
    ctx: &'a Ctx,
    /// Requests, blobs, bytes, damaged packs.
    counts: &'a Mutex<(usize, u64, u64, BTreeMap<u32, String>)>,
    bytes_total: u64,
}

impl Mover<'_> {
    fn run(
        &self,
        fetched: &crossbeam_channel::Receiver<Fetched>,
        full: &mpsc::UnboundedSender<SealedPack>,
    ) -> Result<()> {
        let mut opener = BlobOpener::new()?;
        for got in fetched {
            self.ctx.check()?;
            if full.is_closed() {
                return Ok(());
            }
            if let Err(e) = &got.bytes
                && !is_damage(e)
            {
                return Err(Error::new(e.kind(), format!("a pack could not be read: {}", e.chain())));
            }
            let (mut blobs, mut bytes) = (0_u64, 0_u64);
            for wanted in self.wanted.get(got.request.blobs.clone()).unwrap_or_default() {
                if self.one(&mut opener, wanted, &got, full)? {
                    blobs = blobs.saturating_add(1);
                    bytes = bytes.saturating_add(wanted.place.length.into());
                }
            }
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            counts.0 = counts.0.saturating_add(1);
            counts.1 = counts.1.saturating_add(blobs);
            counts.2 = counts.2.saturating_add(bytes);
            let progress = Progress {
                files_done: counts.1,
                bytes_done: counts.2,
                bytes_total: self.bytes_total,
                ..Progress::default()
            };
            drop(counts);
            self.ctx.events.event(Event::Progress(progress));
        }
        Ok(())
    }

    /// Moves one blob; `false` when it is damaged.
    fn one(
        &self,
        opener: &mut BlobOpener,
        wanted: &Wanted,
        got: &Fetched,
        full: &mpsc::UnboundedSender<SealedPack>,
    ) -> Result<bool> {
        let Wanted { kind, id, place, uncompressed } = *wanted;
        let sealed = got.slice(place).unwrap_or_default();
        let again;
        let (sealed, uncompressed) = match opener.open(self.repo.key(), sealed, kind, &id, uncompressed) {
            Ok(_) => (sealed, uncompressed),
            // Damaged on the way, or in this copy only: the others are asked before the pack is called damaged.
            Err(_) => match self.any_copy(opener, wanted)? {
                Ok(other) => {
                    again = other;
                    (again.0.as_ref(), again.1)
                }
                Err(why) => {
                    let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
                    counts.3.entry(place.pack).or_insert(why);
                    return Ok(false);
                }
            },
        };
        let [.., coin] = id.as_bytes();
        let blob = SealedBlob { kind, id, sealed, uncompressed };
        if let Some(pack) = self.open.add(&blob, coin & 1 == 0)? {
            send(full, pack.seal(self.repo.key())?);
        }
        Ok(true)
    }

    /// Sealed bytes of any copy that is whole, this one read again first; else why there is none.
    fn any_copy(
        &self,
        opener: &mut BlobOpener,
        wanted: &Wanted,
    ) -> Result<Result<(bytes::Bytes, Option<u32>), String>> {
        let mut why = "it is not in the index".to_owned();
        let mut copies: Vec<_> = self.index.lookup(wanted.kind, &wanted.id).collect();
        copies.sort_by_key(|copy| copy.pack_number != wanted.place.pack);
        for copy in copies {
            let name = FileName { kind: FileKind::Pack, id: copy.pack };
            let start = u64::from(copy.offset);
            let range = start..start.saturating_add(copy.length.into());
            let read = self.runtime.block_on(self.ctx.run(self.repo.store().get(name, Some(range))));
            let found = read.and_then(|sealed| {
                opener.open(self.repo.key(), &sealed, wanted.kind, &wanted.id, copy.uncompressed)?;
                Ok(sealed)
            });
            match found {
                Ok(sealed) => return Ok(Ok((sealed, copy.uncompressed))),
                Err(e) if is_damage(&e) => why = e.chain(),
                Err(e) => return Err(e),
            }
        }
        Ok(Err(format!("{} blob {} cannot be read: {why}", wanted.kind.as_str(), wanted.id)))
    }
}

/// A pack on its way, with its size.
type Flight = Result<(IndexedPack, u64)>;

/// Writes packs, and index files of those that have arrived.
struct Uploader {
    repo: Repository,
    open: Arc<OpenPacks>,
    moved: Moved,
    /// Nobody else works on the repository.
    alone: bool,
    written: IndexFiles,
    /// Whether an index file lists the packs that have arrived cannot be told.
    index_unsure: bool,
}

impl Uploader {
    async fn run(mut self, queue: mpsc::UnboundedReceiver<SealedPack>) -> Result<Moved> {
        let (mut flying, mut arrived) = (JoinSet::new(), Vec::new());
        let Err(e) = self.drive(queue, &mut flying, &mut arrived).await else { return Ok(self.moved) };
        // Workers that wait for a flight go on, and see that nobody takes packs any more.
        self.open.give_up();
        // Beside others a pack may have been adopted meanwhile, and an index file whose writing failed may be there after all.
        if e.kind() == ErrorKind::Full && self.alone && !self.index_unsure {
            self.take_back(flying, arrived).await;
        }
        Err(e)
    }

    /// Removes packs that no index file lists: they take the room that there is not. A pack's name is that of its content
    /// with random bytes in it, so nobody else's has it. What cannot be removed a later prune finds.
    async fn take_back(&self, mut flying: JoinSet<Flight>, mut arrived: Vec<IndexedPack>) {
        while let Some(done) = flying.join_next().await {
            arrived.extend(done.ok().and_then(Result::ok).map(|(pack, _)| pack));
        }
        for IndexedPack { id, .. } in arrived {
            if let Err(e) = self.repo.store().delete(FileName { kind: FileKind::Pack, id }).await {
                tracing::warn!(pack = %id, error = %e.chain(), "a pack of a prune that found no room stays behind");
            }
        }
    }

    async fn drive(
        &mut self,
        mut queue: mpsc::UnboundedReceiver<SealedPack>,
        flying: &mut JoinSet<Flight>,
        arrived: &mut Vec<IndexedPack>,
    ) -> Result<()> {
        let (mut blobs, mut bytes, mut since) = (0_usize, 0_u64, Instant::now());
        let mut feeding = true;
        while feeding || !flying.is_empty() {
            tokio::select! {
                biased;
                Some(done) = flying.join_next() => {
                    let (pack, size) = done
                        .map_err(|e| Error::with_source(ErrorKind::Internal, "an upload was broken off", e))??;
                    self.moved.packs = self.moved.packs.saturating_add(1);
                    self.moved.pack_bytes = self.moved.pack_bytes.saturating_add(size);
                    if !arrived.is_empty() && blobs.saturating_add(pack.blobs.len()) > MAX_BLOBS {
                        self.flush(arrived).await?;
                        (blobs, bytes) = (0, 0);
                    }
                    if arrived.is_empty() {
                        since = Instant::now();
                    }
                    blobs = blobs.saturating_add(pack.blobs.len());
                    bytes = bytes.saturating_add(size);
                    arrived.push(pack);
                    if is_due(blobs, bytes, since) {
                        self.flush(arrived).await?;
                        (blobs, bytes) = (0, 0);
                    }
                }
                pack = queue.recv(), if feeding => match pack {
                    Some(pack) => {
                        let repo = self.repo.clone();
                        flying.spawn(async move {
                            let SealedPack { id, body, blobs, flight } = pack;
                            let size = body.content_length() as u64;
                            pipeline::put_pack(&repo, id, body, || drop(flight)).await?;
                            Ok((IndexedPack { id, blobs, marked: false }, size))
                        });
                    }
                    None => feeding = false,
                },
            }
        }
        self.flush(arrived).await
    }

    async fn flush(&mut self, packs: &mut Vec<IndexedPack>) -> Result<()> {
        if packs.is_empty() {
            return Ok(());
        }
        let file = Proved::seal(&self.repo, FileKind::Index, &IndexFile::to_json(packs)?)?;
        self.index_unsure = true;
        self.written.lock().unwrap_or_else(PoisonError::into_inner).push(file.name.id);
        file.put(&self.repo).await?;
        self.index_unsure = false;
        packs.clear();
        Ok(())
    }
}
