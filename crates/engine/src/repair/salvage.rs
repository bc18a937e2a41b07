//! Blobs of damaged packs, saved into new packs: sealed bytes as they are, each checked against its MAC and its name.
//!
//! Not here: which packs, and what becomes of the old ones.

use std::collections::HashSet;
use std::ops::Range;

use bytes::Bytes;
use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::event::Ctx;
use crate::format::pack::{BlobKind, PackedBlob};
use crate::id::Id;
use crate::read::{BlobOpener, is_damage};
use crate::repository::Repository;
use crate::store::{FileKind, FileName};
use crate::write::{NewBlob, PackWriter};

/// Bytes of a pack that are read at once: all of a usual one. An index file may say that one has 4 GiB.
const STRETCH: u64 = 64 << 20;

/// A blob that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostBlob {
    /// `data` or `tree`.
    pub kind: &'static str,
    /// The blob.
    pub id: Id,
    /// Why it cannot be read.
    pub reason: String,
}

/// Which blobs a pack holds, as far as anything tells, and what is left of them.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// Blobs that can be read.
    pub(super) readable: Vec<(BlobKind, Id)>,
    /// Blobs that cannot.
    pub(super) lost: Vec<(PackedBlob, String)>,
}

/// A stretch of a pack that was asked for, and its bytes, if it could be read.
#[derive(Debug, Default)]
struct Stretch {
    range: Range<u64>,
    bytes: Bytes,
}

impl Stretch {
    fn was_asked_for(&self, start: u64, end: u64) -> bool {
        self.range.start <= start && end <= self.range.end
    }

    /// The bytes at these places of the pack; none where they were not read.
    fn get(&self, start: u64, end: u64) -> &[u8] {
        let within = |place: u64| usize::try_from(place.checked_sub(self.range.start)?).ok();
        let range = within(start).zip(within(end));
        range.and_then(|(from, to)| self.bytes.get(from..to)).unwrap_or_default()
    }
}

/// Takes what is readable out of packs, one after the other.
pub(super) struct Salvage<'a> {
    repo: &'a Repository,
    /// None for a dry run.
    writer: Option<PackWriter>,
    opener: BlobOpener,
    saved: HashSet<(BlobKind, Id)>,
}

impl<'a> Salvage<'a> {
    pub(super) fn new(repo: &'a Repository, dry_run: bool) -> Result<Self> {
        Ok(Self {
            repo,
            writer: (!dry_run).then(|| PackWriter::new(repo)),
            opener: BlobOpener::new()?,
            saved: HashSet::new(),
        })
    }

    /// What was saved so far; durable only after [`Salvage::finish`].
    pub(super) fn saved(&self) -> &HashSet<(BlobKind, Id)> {
        &self.saved
    }

    /// Saves what can be read of the blobs that `pack`, a file of `size` bytes, should hold at these places.
    pub(super) async fn pack(
        &mut self,
        pack: Id,
        size: u64,
        blobs: &[PackedBlob],
        ctx: &Ctx,
    ) -> Result<Left> {
        let name = FileName { kind: FileKind::Pack, id: pack };
        let last = blobs.iter().map(end_of).max().unwrap_or(0).min(size);
        let mut stretch = Stretch::default();
        let mut left = Left::default();
        for blob in blobs {
            ctx.check()?;
            let (start, end) = (u64::from(blob.offset), end_of(blob));
            if end <= size && !stretch.was_asked_for(start, end) {
                stretch =
                    self.read(name, start..end.max(start.saturating_add(STRETCH)).min(last), ctx).await?;
            }
            let sealed = stretch.get(start, end);
            let mut opened = self.open(blob, sealed);
            let again;
            let sealed = if opened.is_ok() {
                sealed
            } else if end > size {
                opened = Err(Error::new(ErrorKind::Corrupt, "the pack ends before it"));
                &[]
            } else {
                // Damaged on the way, maybe: only what is wrong twice is wrong in the store.
                again = match ctx.run(self.repo.store().get(name, Some(start..end))).await {
                    Ok(bytes) => {
                        opened = self.open(blob, &bytes);
                        bytes
                    }
                    Err(e) if may_be_here(&e) => {
                        opened = Err(e);
                        Bytes::new()
                    }
                    Err(e) => return Err(e),
                };
                again.as_ref()
            };
            match opened {
                Ok(()) => {
                    left.readable.push((blob.kind, blob.id));
                    self.save(blob, sealed).await?;
                }
                Err(e) if is_damage(&e) => left.lost.push((*blob, e.chain())),
                Err(e) => return Err(e),
            }
        }
        Ok(left)
    }

    /// One request where that works; a disk that cannot read one place of the file may read all others.
    async fn read(&self, name: FileName, range: Range<u64>, ctx: &Ctx) -> Result<Stretch> {
        let bytes = match ctx.run(self.repo.store().get(name, Some(range.clone()))).await {
            Ok(bytes) => bytes,
            Err(e) if may_be_here(&e) => Bytes::new(),
            Err(e) => return Err(e),
        };
        Ok(Stretch { range, bytes })
    }

    fn open(&mut self, blob: &PackedBlob, sealed: &[u8]) -> Result<()> {
        let key = self.repo.key();
        self.opener.open(key, sealed, blob.kind, &blob.id, blob.uncompressed).map(|_| ())
    }

    async fn save(&mut self, blob: &PackedBlob, sealed: &[u8]) -> Result<()> {
        if !self.saved.insert((blob.kind, blob.id)) {
            return Ok(());
        }
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let PackedBlob { kind, id, uncompressed, .. } = *blob;
        writer.add(&NewBlob { kind, id, sealed: sealed.to_vec(), uncompressed }).await
    }

    /// Makes all of it durable, lists it in the index and reads it back; the new index files.
    pub(super) async fn finish(self, ctx: &Ctx) -> Result<Vec<Id>> {
        let Some(mut writer) = self.writer else { return Ok(Vec::new()) };
        writer.flush().await?;
        let files = writer.index_files().to_vec();
        for file in &files {
            for pack in ctx.run(self.repo.load_index_file(file)).await?.packs {
                let name = FileName { kind: FileKind::Pack, id: pack.id };
                let bytes = ctx.run(self.repo.store().get(name, None)).await?;
                if Id::hash(&bytes) != pack.id {
                    return Err(Error::new(
                        ErrorKind::Corrupt,
                        format!(
                            "the new pack {} reads back other than it was written; no old file was removed",
                            pack.id
                        ),
                    ));
                }
            }
        }
        Ok(files)
    }
}

fn end_of(blob: &PackedBlob) -> u64 {
    u64::from(blob.offset).saturating_add(blob.length.into())
}

/// Whether the trouble may be with these bytes alone.
fn may_be_here(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Format)
}
