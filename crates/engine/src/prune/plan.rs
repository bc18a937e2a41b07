//! What to do with each pack. Pure: computed from the index, the needed blobs, the marks and the listing.
//!
//! Two plans. [`plan`] decides what to keep, to move together and to mark; it deletes nothing. [`plan_sweep`]
//! decides which marked packs may go now, and is made afresh from a later look at everything.

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};

use super::repack::Wanted;
use super::{MaxUnused, PruneSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::BlobKind;
use crate::id::Id;
use crate::index::{BlobLocation, Index};
use crate::reach::{BlobSet, place};
use crate::store::Entry;

/// The smallest size that pack sizes are judged by (restic's lower bound of pack sizes).
const MIN_PACK: u64 = 4 << 20;
/// Fewer small packs than this are left alone, so that nothing is moved again and again.
const MIN_SMALL: usize = 10;
/// Unindexed packs younger than this are not marked: they may be those of a writer that has not come to its index
/// yet. Index files are written a minute after the first pack, and an upload is tried for 15 minutes.
const ORPHAN_AGE: SignedDuration = SignedDuration::from_hours(1);
/// A mark that lies further in the future than this was made by a clock that was wrong.
const FAR_AHEAD: SignedDuration = SignedDuration::from_hours(24);

/// Everything a plan looks at.
pub(super) struct View<'a> {
    pub(super) index: &'a Index,
    pub(super) needed: &'a BlobSet,
    /// Since when each marked pack is marked.
    pub(super) marks: &'a HashMap<Id, Timestamp>,
    /// Packs in the store.
    pub(super) listed: &'a HashMap<Id, Entry>,
}

/// What becomes of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It stays as it is.
    Keep,
    /// Nothing needs it: it gets a mark.
    Mark,
    /// What is needed of it moves to a new pack, and then it gets a mark.
    Repack,
    /// It is marked, and not needed.
    Waits,
    /// It is marked, and something needs it again.
    NeededAgain,
    /// The index lists it, the store does not have it, and nothing needs it: its entries go at the next sweep.
    Absent,
}

/// Blobs and bytes of one pack, by what becomes of them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Share {
    pub(super) used_blobs: u64,
    pub(super) unused_blobs: u64,
    /// Blobs of which other packs hold copies; among the unused until one of the copies is chosen.
    duplicates: u64,
    /// Sealed bytes of needed blobs.
    pub(super) used: u64,
    /// Sealed bytes of the others.
    pub(super) unused: u64,
    raw: bool,
}

/// Counts of the whole repository, as restic's `prune --json` has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Needed blobs, one copy of each.
    pub used_blobs: u64,
    /// Their sealed bytes, with the headers of their packs.
    pub used_bytes: u64,
    /// Further copies of needed blobs.
    pub duplicate_blobs: u64,
    /// Their sealed bytes.
    pub duplicate_bytes: u64,
    /// Blobs that nothing needs.
    pub unused_blobs: u64,
    /// Their sealed bytes.
    pub unused_bytes: u64,
    /// Packs of needed blobs only.
    pub packs_used: u64,
    /// Packs of which some blobs are needed.
    pub packs_partly_used: u64,
    /// Packs of which none is.
    pub packs_unused: u64,
    /// Packs that no index lists.
    pub packs_unindexed: u64,
    /// Their bytes.
    pub unindexed_bytes: u64,
    /// Packs whose content moves.
    pub repack_packs: u64,
    /// Blobs in them.
    pub repack_blobs: u64,
    /// Their bytes.
    pub repack_bytes: u64,
    /// Of those blobs, the ones that nothing needs.
    pub repack_removed_blobs: u64,
    /// Their bytes.
    pub repack_removed_bytes: u64,
    /// Whole packs that nothing needs: newly found ones.
    pub remove_packs: u64,
    /// Blobs in them.
    pub remove_blobs: u64,
    /// Their bytes.
    pub remove_bytes: u64,
    /// Packs that stay as they are.
    pub keep_packs: u64,
}

/// The plan of a prune's first half.
#[derive(Debug)]
pub(super) struct Plan {
    /// By pack number.
    pub(super) fates: Vec<Fate>,
    /// What to move.
    pub(super) moves: Vec<Wanted>,
    pub(super) totals: Totals,
}

/// One blob with all its copies.
struct Copies<'a> {
    position: usize,
    kind: BlobKind,
    id: Id,
    all: &'a [BlobLocation],
}

/// Calls `each` for every blob with its copies.
fn for_each_blob(index: &Index, mut each: impl FnMut(&Copies<'_>)) {
    let mut all: Vec<BlobLocation> = Vec::new();
    let mut current: Option<(usize, BlobKind, Id)> = None;
    for (position, (kind, id, location)) in index.iter().enumerate() {
        match current {
            Some((_, k, i)) if (k, i) == (kind, id) => {}
            _ => {
                if let Some((position, kind, id)) = current.replace((position, kind, id)) {
                    each(&Copies { position, kind, id, all: &all });
                }
                all.clear();
            }
        }
        all.push(location);
    }
    if let Some((position, kind, id)) = current {
        each(&Copies { position, kind, id, all: &all });
    }
}

/// Which copy of each needed blob counts, and what that makes of the packs.
struct Choice {
    shares: Vec<Share>,
    /// The pack chosen for blobs that have several copies.
    chosen: HashMap<(BlobKind, Id), u32>,
    totals: Totals,
}

impl View<'_> {
    fn marked(&self, number: u32) -> bool {
        self.pack(number).is_some_and(|p| p.marked)
    }

    fn pack(&self, number: u32) -> Option<&crate::index::PackInfo> {
        self.index.packs().get(number as usize)
    }

    /// Whether the pack is in the store with the size that the index says.
    fn whole(&self, number: u32) -> bool {
        self.pack(number).is_some_and(|p| self.listed.get(&p.id).is_some_and(|e| e.size == p.size))
    }

    /// Copies that may be kept: whole ones in packs without a mark, else whole ones in marked packs.
    fn eligible<'c>(&self, copies: &'c [BlobLocation]) -> Vec<&'c BlobLocation> {
        let whole: Vec<&BlobLocation> = copies.iter().filter(|c| self.whole(c.pack_number)).collect();
        let unmarked: Vec<&BlobLocation> =
            whole.iter().copied().filter(|c| !self.marked(c.pack_number)).collect();
        if unmarked.is_empty() { whole } else { unmarked }
    }

    fn choose(&self) -> Result<Choice> {
        let mut shares = vec![Share::default(); self.index.packs().len()];
        let mut totals = Totals::default();
        let mut several: Vec<(BlobKind, Id)> = Vec::new();
        let (mut missing, mut example) = (0_u64, None);
        for_each_blob(self.index, |blob| {
            let needed = self.needed.contains(blob.position);
            let eligible = if needed { self.eligible(blob.all) } else { Vec::new() };
            if needed && eligible.is_empty() {
                missing = missing.saturating_add(1);
                example.get_or_insert((blob.kind, blob.id, blob.all.first().map(|l| l.pack)));
            }
            let only = match eligible.as_slice() {
                [one] => Some(one.pack_number),
                _ => None,
            };
            if eligible.len() > 1 {
                several.push((blob.kind, blob.id));
            }
            for copy in blob.all {
                let Some(share) = shares.get_mut(copy.pack_number as usize) else { continue };
                let length = u64::from(copy.length);
                share.raw |= copy.uncompressed.is_none();
                if only == Some(copy.pack_number) && needed {
                    share.used_blobs += 1;
                    share.used += length;
                    totals.used_blobs += 1;
                    totals.used_bytes += length;
                    continue;
                }
                share.unused_blobs += 1;
                share.unused += length;
                if needed {
                    if eligible.len() > 1 {
                        share.duplicates += 1;
                    }
                    totals.duplicate_blobs += 1;
                    totals.duplicate_bytes += length;
                } else {
                    totals.unused_blobs += 1;
                    totals.unused_bytes += length;
                }
            }
        });
        if let Some((kind, id, pack)) = example {
            let pack = pack.map(|p| format!(", said to be in pack {p}")).unwrap_or_default();
            return Err(Error::new(
                ErrorKind::Guard,
                format!(
                    "{missing} blobs that snapshots need are missing, or in packs of the wrong size (the first: {} \
                     {id}{pack}); nothing is pruned before that is repaired",
                    kind.as_str()
                ),
            ));
        }
        let mut chosen = HashMap::with_capacity(several.len());
        for (kind, id) in several {
            let all: Vec<BlobLocation> = self.index.lookup(kind, &id).collect();
            let eligible = self.eligible(&all);
            // A pack that is needed anyway; else one of duplicates alone, as an interrupted repack leaves it; so
            // that the others have nothing left that is needed.
            let best = eligible.iter().max_by_key(|copy| {
                let share = shares.get(copy.pack_number as usize).copied().unwrap_or_default();
                (
                    share.used_blobs > 0,
                    share.duplicates == share.unused_blobs,
                    std::cmp::Reverse(share.unused),
                    std::cmp::Reverse(copy.pack_number),
                )
            });
            let Some(best) = best else { continue };
            let length = u64::from(best.length);
            if let Some(share) = shares.get_mut(best.pack_number as usize) {
                share.used_blobs += 1;
                share.used += length;
                share.unused_blobs = share.unused_blobs.saturating_sub(1);
                share.unused = share.unused.saturating_sub(length);
                share.duplicates = share.duplicates.saturating_sub(1);
            }
            totals.used_blobs += 1;
            totals.used_bytes += length;
            totals.duplicate_blobs = totals.duplicate_blobs.saturating_sub(1);
            totals.duplicate_bytes = totals.duplicate_bytes.saturating_sub(length);
            chosen.insert((kind, id), best.pack_number);
        }
        Ok(Choice { shares, chosen, totals })
    }
}

/// A pack that could be moved.
struct Candidate {
    number: usize,
    share: Share,
    /// Holds trees, or both kinds.
    trees: bool,
    size: u64,
}

/// The first half: what to move and to mark.
pub(super) fn plan(view: &View<'_>, spec: &PruneSpec) -> Result<Plan> {
    let Choice { shares, chosen, mut totals } = view.choose()?;
    let mut fates = Vec::with_capacity(shares.len());
    let mut candidates: Vec<Candidate> = Vec::new();
    let mut small: Vec<Candidate> = Vec::new();
    for entry in unindexed(view) {
        totals.packs_unindexed += 1;
        // A store may claim any size.
        totals.unindexed_bytes = totals.unindexed_bytes.saturating_add(entry.size);
    }
    let target = small_limit(view, spec);
    for (number, (pack, share)) in view.index.packs().iter().zip(&shares).enumerate() {
        let needed = share.used_blobs > 0;
        if !view.listed.contains_key(&pack.id) {
            fates.push(Fate::Absent);
            continue;
        }
        match (needed, share.unused_blobs > 0) {
            (false, _) => totals.packs_unused += 1,
            (true, false) => totals.packs_used += 1,
            (true, true) => totals.packs_partly_used += 1,
        }
        if pack.marked {
            fates.push(if needed { Fate::NeededAgain } else { Fate::Waits });
            continue;
        }
        if !needed {
            totals.remove_packs += 1;
            totals.remove_blobs += share.unused_blobs;
            totals.remove_bytes += pack.size;
            fates.push(Fate::Mark);
            continue;
        }
        fates.push(Fate::Keep);
        let mixed = pack.has_data && pack.has_trees;
        if pack.has_data && !mixed && spec.trees_only {
            continue;
        }
        let candidate = Candidate { number, share: *share, trees: pack.has_trees, size: pack.size };
        if share.unused_blobs > 0 || mixed {
            candidates.push(candidate);
        } else if pack.size < target {
            small.push(candidate);
        }
    }
    if small.len() >= MIN_SMALL {
        candidates.append(&mut small);
    }
    candidates.sort_by_key(|c| {
        // The largest unused share first; packs of trees and small ones before all others.
        let share = u128::from(c.share.unused) * 1_000_000 / u128::from(c.size.max(1));
        (!c.trees, c.size >= target, std::cmp::Reverse(share), c.number)
    });
    let tolerated = tolerated(spec.max_unused, totals.used_bytes);
    // What is in packs that go as a whole, now or when their time has come, needs no moving.
    let gone: u64 = fates
        .iter()
        .zip(&shares)
        .filter(|(fate, _)| matches!(fate, Fate::Mark | Fate::Waits | Fate::Absent))
        .map(|(_, share)| share.unused)
        .sum();
    let mut unused = (totals.unused_bytes + totals.duplicate_bytes).saturating_sub(gone);
    for candidate in candidates {
        let limited =
            spec.max_repack.is_some_and(|max| totals.repack_bytes.saturating_add(candidate.size) > max);
        let enough = unused <= tolerated && candidate.size >= target && !candidate.trees;
        if limited || enough {
            continue;
        }
        let Share { used_blobs, unused_blobs, unused: bytes, .. } = candidate.share;
        unused = unused.saturating_sub(bytes);
        totals.repack_packs += 1;
        totals.repack_blobs += used_blobs + unused_blobs;
        totals.repack_bytes += candidate.size;
        totals.repack_removed_blobs += unused_blobs;
        totals.repack_removed_bytes += bytes;
        if let Some(fate) = fates.get_mut(candidate.number) {
            *fate = Fate::Repack;
        }
    }
    totals.keep_packs = fates.iter().filter(|f| matches!(f, Fate::Keep | Fate::NeededAgain)).count() as u64;
    let moves = moves(view, &fates, &chosen);
    Ok(Plan { fates, moves, totals })
}

/// The needed blobs whose counting copy lies in a pack that is to be moved.
fn moves(view: &View<'_>, fates: &[Fate], chosen: &HashMap<(BlobKind, Id), u32>) -> Vec<Wanted> {
    let mut moves = Vec::new();
    for_each_blob(view.index, |blob| {
        if !view.needed.contains(blob.position) {
            return;
        }
        let copy = match chosen.get(&(blob.kind, blob.id)) {
            Some(number) => blob.all.iter().find(|c| c.pack_number == *number),
            None => view.eligible(blob.all).into_iter().next(),
        };
        if let Some(copy) = copy
            && fates.get(copy.pack_number as usize) == Some(&Fate::Repack)
        {
            moves.push(Wanted {
                kind: blob.kind,
                id: blob.id,
                place: place(copy),
                uncompressed: copy.uncompressed,
            });
        }
    });
    moves
}

/// Packs below this size are small: four fifths of the third percentile of all sizes, as in restic.
fn small_limit(view: &View<'_>, spec: &PruneSpec) -> u64 {
    if let Some(below) = spec.repack_below {
        return below;
    }
    let mut sizes: Vec<u64> =
        view.index.packs().iter().filter(|p| view.listed.contains_key(&p.id)).map(|p| p.size).collect();
    sizes.sort_unstable();
    let third = sizes.get(sizes.len().saturating_mul(3) / 100).copied().unwrap_or(0);
    third.max(MIN_PACK) / 5 * 4
}

/// Unused bytes that may stay.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a size needs no more precision, and is not negative"
)]
fn tolerated(max: MaxUnused, used: u64) -> u64 {
    match max {
        MaxUnused::Unlimited => u64::MAX,
        MaxUnused::Bytes(bytes) => bytes,
        // So that unused / (used + unused) is the share.
        MaxUnused::Percent(p) => (p / (100.0 - p) * used as f64) as u64,
    }
}

/// Packs in the store that no index file lists.
fn unindexed<'a>(view: &View<'a>) -> impl Iterator<Item = &'a Entry> + use<'a> {
    let indexed: HashSet<&Id> = view.index.packs().iter().map(|p| &p.id).collect();
    view.listed.values().filter(move |e| !indexed.contains(&e.id))
}

/// Unindexed packs to mark: those that have no mark and are old enough; where the store does not tell their age, when
/// nobody else is at work (`alone`). A writer that comes to index one after all finds the mark when it is through, as
/// with any pack it relies on.
pub(super) fn orphans_to_mark(view: &View<'_>, now: Timestamp, alone: bool) -> Vec<Entry> {
    let young = now.as_second().saturating_sub(ORPHAN_AGE.as_secs());
    unindexed(view)
        .filter(|e| !has_mark(view.marks, &e.id, now) && e.modified.map_or(alone, |at| at <= young))
        .copied()
        .collect()
}

/// Whether a pack has a mark to go by. One that lies far in the future would keep its pack until then: such a pack gets
/// another mark, and the earlier one counts.
pub(super) fn has_mark(marks: &HashMap<Id, Timestamp>, pack: &Id, now: Timestamp) -> bool {
    let latest = now.checked_add(FAR_AHEAD).unwrap_or(Timestamp::MAX);
    marks.get(pack).is_some_and(|since| *since <= latest)
}

/// The plan of a prune's second half.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sweep {
    /// Packs to delete, and to take out of the index.
    pub(super) delete: Vec<Id>,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Packs that lose their mark: something needs them.
    pub(super) unmark: Vec<Id>,
    /// Packs to take out of the index alone: the store does not have them, and nothing needs them.
    pub(super) absent: Vec<Id>,
    /// Unindexed packs to delete.
    pub(super) orphans: Vec<Id>,
    /// Their bytes.
    pub(super) orphan_bytes: u64,
    /// Marked packs whose time has not come.
    pub(super) waiting: u64,
    /// Their bytes.
    pub(super) waiting_bytes: u64,
    /// When the next of them may go.
    pub(super) next: Option<Timestamp>,
}

impl Sweep {
    fn wait(&mut self, bytes: u64, until: Option<Timestamp>) {
        self.waiting = self.waiting.saturating_add(1);
        self.waiting_bytes = self.waiting_bytes.saturating_add(bytes);
        self.next = [self.next, until].into_iter().flatten().min();
    }

    /// Whether there is nothing to change.
    pub(super) fn is_empty(&self) -> bool {
        let Self {
            delete,
            unmark,
            absent,
            orphans,
            bytes: _,
            orphan_bytes: _,
            waiting: _,
            waiting_bytes: _,
            next: _,
        } = self;
        delete.is_empty() && unmark.is_empty() && absent.is_empty() && orphans.is_empty()
    }
}

/// The second half: which packs go. A marked pack goes when its mark is older than `grace` and every needed blob in
/// it has another copy that stays.
pub(super) fn plan_sweep(view: &View<'_>, grace: SignedDuration, now: Timestamp) -> Result<Sweep> {
    let Choice { shares, .. } = view.choose()?;
    let mut sweep = Sweep::default();
    let due = |since: Timestamp| since.checked_add(grace).unwrap_or(Timestamp::MAX);
    // A mark without a time, or of another client's making, has only just begun.
    let since = |id: &Id| view.marks.get(id).copied().filter(|since| *since != Timestamp::MIN);
    for (pack, share) in view.index.packs().iter().zip(&shares) {
        let needed = share.used_blobs > 0;
        if !view.listed.contains_key(&pack.id) {
            if !needed {
                sweep.absent.push(pack.id);
            }
            continue;
        }
        if !pack.marked {
            continue;
        }
        if needed {
            sweep.unmark.push(pack.id);
            continue;
        }
        match since(&pack.id) {
            Some(at) if due(at) <= now => {
                sweep.delete.push(pack.id);
                sweep.bytes = sweep.bytes.saturating_add(pack.size);
            }
            at => sweep.wait(pack.size, at.map(due)),
        }
    }
    for entry in unindexed(view) {
        match since(&entry.id) {
            Some(at) if due(at) <= now => {
                sweep.orphans.push(entry.id);
                sweep.orphan_bytes = sweep.orphan_bytes.saturating_add(entry.size);
            }
            Some(at) => sweep.wait(entry.size, Some(due(at))),
            None => {}
        }
    }
    for list in [&mut sweep.delete, &mut sweep.unmark, &mut sweep.absent, &mut sweep.orphans] {
        list.sort_unstable();
    }
    Ok(sweep)
}

/// Refuses to delete more than half of all stored content: rather than that nobody needs it any more, somebody has
/// lost the snapshots that do, or a listing lies. Content that another pack still holds is not counted.
///
/// `going` tells of a pack's number whether its needed (`true`) or its other blobs go with it, `unindexed_going` of a pack
/// that no index file lists whether it goes: where index files were lost together with the snapshots, that is all there is.
pub(super) fn check_loss(
    view: &View<'_>,
    going: impl Fn(u32, bool) -> bool,
    unindexed_going: impl Fn(&Id) -> bool,
    allowed: bool,
) -> Result<()> {
    if allowed {
        return Ok(());
    }
    let (mut all, mut lost) = (0_u64, 0_u64);
    for_each_blob(view.index, |blob| {
        let Some(first) = blob.all.first() else { return };
        let length = u64::from(first.length);
        let needed = view.needed.contains(blob.position);
        all = all.saturating_add(length);
        if blob.all.iter().all(|copy| going(copy.pack_number, needed) || !view.whole(copy.pack_number)) {
            lost = lost.saturating_add(length);
        }
    });
    // By itself first: packs of dead writers that stay must not make the share of what goes look small.
    refuse_most(lost, all, 0)?;
    let mut unindexed_lost = 0_u64;
    for entry in unindexed(view) {
        all = all.saturating_add(entry.size);
        if unindexed_going(&entry.id) {
            unindexed_lost = unindexed_lost.saturating_add(entry.size);
        }
    }
    refuse_most(lost.saturating_add(unindexed_lost), all, unindexed_lost)
}

/// `Guard` when more than half of `all` would go; `unindexed` of what goes is in no index.
fn refuse_most(lost: u64, all: u64, unindexed: u64) -> Result<()> {
    if lost <= all / 2 {
        return Ok(());
    }
    let why = match unindexed {
        0 => String::new(),
        bytes => format!(
            ". {bytes} of them are in packs that no index file lists: if index files were lost, bring them back or run \
             `holdfast repo repair index`"
        ),
    };
    Err(Error::new(
        ErrorKind::Guard,
        format!(
            "{lost} of the {all} bytes stored would be deleted, more than half; nothing was deleted{why}. If that is \
             meant, say so with --allow-large-removal"
        ),
    ))
}
