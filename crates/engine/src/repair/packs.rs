//! Damaged packs replaced by new ones with all of theirs that can be read.
//!
//! Order: new packs and their index are durable and were read back before an old index file goes, and no index file
//! lists an old pack any more when it goes. Ends at any moment with everything readable that was readable before.

use futures::future::BoxFuture;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use futures::{StreamExt as _, stream};
use serde::Serialize;

use super::salvage::{LostBlob, Salvage};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Ctx, Event, Fault, Progress};
use crate::format::index_file::IndexFile;
use crate::format::pack::{BlobKind, PackedBlob};
use crate::format::records::Records;
use crate::id::Id;
use crate::index::{Index, IndexBuilder};
use crate::lock::LockGuard;
use crate::pipeline;
use crate::read::is_damage;
use crate::repository::Repository;
use crate::store::{FileKind, FileName};
use crate::write::save_index;

/// Index files read at a time.
const PARALLEL: usize = 8;

/// How to repair packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RepairPacks {
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What was found in one pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepairedPack {
    /// The pack.
    pub id: Id,
    /// Blobs that were saved, or with a dry run would be.
    pub saved: u64,
    /// Blobs that cannot be read here nor in another pack.
    pub lost: Vec<LostBlob>,
    /// Why it was left where it is; `None` when it was removed, or with a dry run would be.
    pub left: Option<String>,
}

/// What was repaired.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct RepairPacksReport {
    /// The packs that were named, by id.
    pub packs: Vec<RepairedPack>,
    /// Index files that were removed because others replace them.
    pub removed_index_files: u64,
}

impl RepairPacksReport {
    /// Blobs that were saved.
    pub fn saved(&self) -> u64 {
        self.packs.iter().map(|p| p.saved).sum()
    }

    /// Blobs that are lost.
    pub fn lost(&self) -> impl Iterator<Item = &LostBlob> {
        self.packs.iter().flat_map(|p| &p.lost)
    }
}

/// Saves what can be read of these packs into new ones, takes the old ones out of the index and removes them. The caller
/// holds an exclusive lock, or a shared one for a dry run.
///
/// A pack of which neither the index nor its own header tells what it holds stays where it is.
///
/// # Errors
/// `Usage` without a pack, `Missing` when one is not there, `Corrupt` when an index file cannot be read; nothing was
/// changed then. After any other error what was readable still is, and the repair can be run again.
pub fn repair_packs<'a>(
    repo: &'a Repository,
    lock: &'a LockGuard,
    packs: &'a [Id],
    how: RepairPacks,
    ctx: &'a Ctx,
) -> BoxFuture<'a, Result<RepairPacksReport>> {
    Box::pin(async move {
        if packs.is_empty() {
            return Err(Error::new(ErrorKind::Usage, "no pack was named"));
        }
        if !how.dry_run {
            repo.refuse_append_only()?;
        }
        ctx.events.event(Event::Phase("look"));
        let mut named: BTreeMap<Id, u64> = BTreeMap::new();
        let sizes: BTreeMap<Id, u64> =
            ctx.run(repo.store().list(FileKind::Pack)).await?.into_iter().map(|e| (e.id, e.size)).collect();
        for id in packs {
            let size = sizes.get(id).ok_or_else(|| {
                Error::new(
                    ErrorKind::Missing,
                    format!("there is no pack {id} in {}; nothing was changed", repo.store().describe()),
                )
            })?;
            named.insert(*id, *size);
        }
        let known = Known::load(repo, &named, ctx).await?;

        ctx.events.event(Event::Phase("salvage"));
        let mut salvage = Salvage::new(repo, how.dry_run)?;
        let mut report = RepairPacksReport::default();
        let mut missing: Vec<(usize, PackedBlob, String)> = Vec::new();
        let mut progress = Progress { files_total: named.len() as u64, ..Progress::default() };
        for (id, size) in &named {
            let mut blobs = known.blobs.get(id).cloned().unwrap_or_default();
            let header = ctx.run(repo.load_pack_header(id, *size)).await;
            let why = match header {
                Ok(listed) => {
                    blobs.extend(listed.iter().map(key));
                    None
                }
                Err(e) if is_damage(&e) => Some(e.chain()),
                Err(e) => return Err(e),
            };
            let blobs: Vec<PackedBlob> = blobs.into_iter().map(blob).collect();
            let left = salvage.pack(*id, *size, &blobs, ctx).await?;
            missing.extend(left.lost.into_iter().map(|(blob, why)| (report.packs.len(), blob, why)));
            let unknown = blobs.is_empty().then(|| {
                let why = why.unwrap_or_else(|| "its header lists nothing".to_owned());
                format!("nothing tells what it holds: it is in no index, and {why}")
            });
            let saved = left.readable.len() as u64;
            report.packs.push(RepairedPack { id: *id, saved, lost: Vec::new(), left: unknown });
            progress.files_done += 1;
            ctx.events.event(Event::Progress(progress));
        }
        for (position, blob, reason) in missing {
            let saved = salvage.saved().contains(&(blob.kind, blob.id));
            if saved || known.elsewhere(repo, &named, &blob, ctx).await? {
                continue;
            }
            let lost = LostBlob { kind: blob.kind.as_str(), id: blob.id, reason };
            if let Some(pack) = report.packs.get_mut(position) {
                ctx.events.event(Event::Fault(Fault {
                    path: format!("pack {}", pack.id).into(),
                    action: "salvage",
                    error: format!("{} blob {} is lost: {}", lost.kind, lost.id, lost.reason),
                }));
                pack.lost.push(lost);
            }
        }
        if how.dry_run {
            return Ok(report);
        }

        ctx.events.event(Event::Phase("write"));
        let saved = salvage.saved().clone();
        salvage.finish(ctx).await?;
        ctx.events.event(Event::Phase("index"));
        let going: HashSet<Id> = report.packs.iter().filter(|p| p.left.is_none()).map(|p| p.id).collect();
        report.removed_index_files = known.replace(repo, lock, &going, ctx).await?;
        confirm(repo, &going, &saved, ctx).await?;

        ctx.events.event(Event::Phase("delete"));
        lock.confirm().await?;
        for pack in report.packs.iter_mut().filter(|p| p.left.is_none()) {
            ctx.check()?;
            lock.check()?;
            match repo.store().delete(FileName { kind: FileKind::Pack, id: pack.id }).await {
                Ok(()) => {}
                // It is in no index any more, which harms nothing.
                Err(e) if matches!(e.kind(), ErrorKind::AccessDenied | ErrorKind::Retained) => {
                    pack.left = Some(e.chain());
                }
                Err(e) => return Err(e),
            }
        }
        Ok(report)
    })
}

/// A blob's place in an order that has each once.
type Key = (u32, BlobKind, Id, u32, Option<u32>);

fn key(blob: &PackedBlob) -> Key {
    (blob.offset, blob.kind, blob.id, blob.length, blob.uncompressed)
}

fn blob((offset, kind, id, length, uncompressed): Key) -> PackedBlob {
    PackedBlob { kind, id, offset, length, uncompressed }
}

/// What the index says, of the named packs in full.
struct Known {
    index: Index,
    /// Blobs of the named packs.
    blobs: BTreeMap<Id, BTreeSet<Key>>,
    /// Index files that list any of them.
    homes: BTreeSet<Id>,
}

impl Known {
    async fn load(repo: &Repository, named: &BTreeMap<Id, u64>, ctx: &Ctx) -> Result<Self> {
        let listed = ctx.run(repo.store().list(FileKind::Index)).await?;
        let mut loads = stream::iter(listed)
            .map(|entry| async move { (entry.id, repo.load_index_file(&entry.id).await) })
            .buffer_unordered(PARALLEL);
        let mut builder = IndexBuilder::new();
        let (mut blobs, mut homes) = (BTreeMap::<Id, BTreeSet<Key>>::new(), BTreeSet::new());
        while let Some((id, file)) = ctx.run(async { Ok(loads.next().await) }).await? {
            let file: IndexFile = file.map_err(|e| match e.kind() {
                ErrorKind::Corrupt | ErrorKind::Format => Error::with_source(
                    e.kind(),
                    format!("index {id} cannot be read; nothing was changed. Repair the index first"),
                    e,
                ),
                _ => e,
            })?;
            for pack in file.packs.iter().filter(|p| named.contains_key(&p.id)) {
                homes.insert(id);
                blobs.entry(pack.id).or_default().extend(pack.blobs.iter().map(key));
            }
            builder.add(id, file);
        }
        let index = repo.on_pool(move || builder.finish()).await?;
        Ok(Self { index, blobs, homes })
    }

    /// Whether a pack that stays has a good copy.
    async fn elsewhere(
        &self,
        repo: &Repository,
        named: &BTreeMap<Id, u64>,
        blob: &PackedBlob,
        ctx: &Ctx,
    ) -> Result<bool> {
        let others = self.index.lookup(blob.kind, &blob.id).any(|copy| !named.contains_key(&copy.pack));
        if !others {
            return Ok(false);
        }
        match ctx.run(repo.load_blob(&self.index, blob.kind, &blob.id)).await {
            Ok(_) => Ok(true),
            Err(e) if is_damage(&e) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Replaces the index files that list packs that go by ones that do not; how many.
    async fn replace(
        &self,
        repo: &Repository,
        lock: &LockGuard,
        going: &HashSet<Id>,
        ctx: &Ctx,
    ) -> Result<u64> {
        let mut written = Vec::new();
        let mut records = Records::default();
        for home in &self.homes {
            let (file, ours) = ctx.run(repo.load_index_and_records(home)).await?;
            records.marks.extend(ours.marks);
            records.forgotten.extend(ours.forgotten);
            let stay = file.packs.into_iter().filter(|p| !going.contains(&p.id)).collect();
            written.extend(save_index(repo, stay).await?);
        }
        if !records.is_empty() {
            written.push(pipeline::save(repo, FileKind::Index, &records.to_json()?).await?);
        }
        ctx.check()?;
        lock.confirm().await?;
        let mut removed = 0;
        for id in self.homes.iter().filter(|id| !written.contains(id)) {
            repo.store().delete(FileName { kind: FileKind::Index, id: *id }).await?;
            removed += 1;
        }
        Ok(removed)
    }
}

/// The last look before packs go: the index as the store has it now knows another place of everything that was saved,
/// and lists none of what goes.
async fn confirm(
    repo: &Repository,
    going: &HashSet<Id>,
    saved: &HashSet<(BlobKind, Id)>,
    ctx: &Ctx,
) -> Result<()> {
    let index = repo.load_index(ctx).await?;
    let listed = index.packs().iter().any(|p| going.contains(&p.id));
    if listed || saved.iter().any(|(kind, id)| !index.contains(*kind, id)) {
        return Err(Error::new(
            ErrorKind::Guard,
            "the index is not as it was just written although the repository is locked; no pack was removed, \
             run it again",
        ));
    }
    Ok(())
}
