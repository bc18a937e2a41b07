//! Data: packs read whole, compared with their names, their headers, the index, and each blob with its name.
//!
//! Not here: whether anything needs those blobs (`structure`).

use std::cmp::Ordering as Order;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::structure::Known;
use super::{Findings, ReadData, Tools, on_threads};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Progress};
use crate::format::pack::{self, PackedBlob};
use crate::id::{Beside, Id};
use crate::read::fetch::{self, Request};
use crate::read::{BlobOpener, is_damage};
use crate::store::{FileKind, FileName};

/// Bytes of packs that wait or are worked on: three of the usual size, so that one is on its way while two are looked
/// at. One that is longer is let through alone.
const BUDGET: u32 = 54 << 20;

/// A pack to read.
struct Chosen {
    id: Id,
    number: u32,
    size: u64,
}

pub(super) fn check(tools: &Tools, known: &Known, how: ReadData, findings: &Findings<'_>) -> Result<()> {
    let mut chosen: Vec<Chosen> = (0_u32..)
        .zip(known.index.packs())
        // Those that are missing, or of another size than the index says, were told with the structure. No bytes are asked
        // for because a listing claims them.
        .filter(|(_, pack)| known.packs.get(&pack.id) == Some(&pack.size))
        .map(|(number, pack)| Chosen { id: pack.id, number, size: pack.size })
        .collect();
    choose(&mut chosen, how)?;
    let requests = chosen
        .iter()
        .enumerate()
        .map(|(position, c)| Request {
            pack: c.number,
            range: 0..c.size,
            blobs: position..position.saturating_add(1),
        })
        .collect();
    let by_pack = known.index.by_pack();
    let index = Arc::clone(&known.index);
    let fetched = fetch::spawn_within(
        BUDGET,
        Arc::clone(tools.repo.store()),
        move |number| index.packs().get(number as usize).map(|p| p.id),
        requests,
        findings.ctx.cancel.clone(),
        &tools.runtime,
    );
    let done = AtomicU64::new(0);
    let bytes_total = chosen.iter().fold(0_u64, |sum, c| sum.saturating_add(c.size));
    on_threads(|| {
        let mut opener = BlobOpener::new()?;
        for got in &fetched {
            findings.go_on()?;
            let Some(pack) = chosen.get(got.request.blobs.start) else { continue };
            check_pack(tools, pack, &by_pack.blobs(pack.number), &got.bytes, &mut opener, findings)?;
            let (files_done, bytes_done) = findings.update(|report| {
                report.packs_read = report.packs_read.saturating_add(1);
                report.bytes_read = report.bytes_read.saturating_add(pack.size);
                (report.packs_read, report.bytes_read)
            });
            done.fetch_add(1, Ordering::Relaxed);
            let files_total = chosen.len() as u64;
            findings.ctx.events.event(Event::Progress(Progress {
                files_done,
                bytes_done,
                files_total,
                bytes_total,
            }));
        }
        Ok(())
    })?;
    findings.go_on()?;
    if done.into_inner() != chosen.len() as u64 {
        return Err(Error::new(ErrorKind::Internal, "not all packs were read: a bug"));
    }
    Ok(())
}

fn choose(packs: &mut Vec<Chosen>, how: ReadData) -> Result<()> {
    match how {
        ReadData::None => packs.clear(),
        ReadData::All => {}
        ReadData::Subset { n, m } => packs.retain(|p| in_part(&p.id, n, m)),
        ReadData::Fraction(share) => {
            shuffle(packs)?;
            packs.truncate(share_of(packs.len(), share));
        }
        ReadData::Bytes(bytes) => {
            shuffle(packs)?;
            packs.truncate(enough(packs.iter().map(|p| p.size), bytes));
        }
    }
    packs.sort_unstable_by_key(|p| p.number);
    Ok(())
}

fn shuffle(packs: &mut [Chosen]) -> Result<()> {
    let mut keys = HashMap::with_capacity(packs.len());
    for pack in packs.iter() {
        let mut random = [0_u8; 8];
        crate::crypto::random(&mut random)?;
        keys.insert(pack.id, random);
    }
    packs.sort_unstable_by_key(|p| keys.get(&p.id).copied());
    Ok(())
}

/// How many packs in a row have no more than so many bytes; at least one.
fn enough(sizes: impl Iterator<Item = u64>, bytes: u64) -> usize {
    let mut left = bytes;
    let fitting = sizes.take_while(|size| match left.checked_sub(*size) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    });
    fitting.count().max(1)
}

/// The parts are those of restic, so that both can take turns.
fn in_part(id: &Id, n: u8, m: u8) -> bool {
    let [first, ..] = id.as_bytes();
    first.checked_rem(m) == n.checked_sub(1)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a count needs no more precision, and lies between 0 and the count"
)]
fn share_of(count: usize, share: f64) -> usize {
    ((count as f64 * share).ceil() as usize).clamp(1, count.max(1))
}

fn check_pack(
    tools: &Tools,
    pack: &Chosen,
    blobs: &[PackedBlob],
    fetched: &Result<Bytes>,
    opener: &mut BlobOpener,
    findings: &Findings<'_>,
) -> Result<()> {
    let object = format!("pack {}", pack.id);
    let seen = match fetched {
        Ok(bytes) => Ok((bytes, look_through(tools, blobs, bytes, opener, findings)?)),
        Err(e) => Err(e),
    };
    let again;
    let (bytes, lost) = match seen {
        Ok((bytes, seen)) if seen.id == pack.id => (bytes, seen.lost),
        Err(e) if !is_damage(e) => {
            return Err(Error::new(e.kind(), format!("pack {} could not be read: {}", pack.id, e.chain())));
        }
        // Damaged on the way, maybe: only what is wrong twice is wrong in the store.
        first => {
            let name = FileName { kind: FileKind::Pack, id: pack.id };
            let whole = tools.repo.store().get(name, Some(0..pack.size));
            let second = tools.runtime.block_on(findings.ctx.run(whole));
            let bytes = match second {
                Ok(bytes) => bytes,
                Err(e) if is_damage(&e) => {
                    findings.error(object, format!("cannot be read: {}", e.chain()));
                    return Ok(());
                }
                Err(e) => return Err(e),
            };
            let seen = look_through(tools, blobs, &bytes, opener, findings)?;
            if seen.id == pack.id {
                let why = first.err().map_or_else(|| "damaged on the way".to_owned(), Error::chain);
                findings.note(object.clone(), format!("came whole only when it was read again ({why})"));
            } else {
                findings.error(
                    object.clone(),
                    "its bytes are not those its name stands for: it was changed or damaged",
                );
            }
            again = bytes;
            (&again, seen.lost)
        }
    };
    if let Err(e) = compare_header(tools, blobs, bytes) {
        findings.error(object.clone(), e.chain());
    }
    if let Some(first) = lost.first {
        // One for all: a pack may hold hundreds of thousands.
        let further = match lost.count.saturating_sub(1) {
            0 => String::new(),
            more => format!("; and {more} more of its {} blobs", blobs.len()),
        };
        findings.error(object, format!("{first}{further}"));
    }
    Ok(())
}

/// What the bytes of a pack are.
struct Seen {
    /// Their digest, which is the name that they should have.
    id: Id,
    lost: Lost,
}

/// Blobs that cannot be read.
#[derive(Default)]
struct Lost {
    count: u64,
    /// Which one is the first, and why.
    first: Option<String>,
}

/// Opens all blobs; the digest of the whole is found meanwhile, beside those of the blobs. `Cancelled` when the check is.
fn look_through(
    tools: &Tools,
    blobs: &[PackedBlob],
    bytes: &[u8],
    opener: &mut BlobOpener,
    findings: &Findings<'_>,
) -> Result<Seen> {
    let mut whole = Beside::new(bytes);
    let mut lost = Lost::default();
    for blob in blobs {
        findings.go_on()?;
        let start = blob.offset as usize;
        let sealed = bytes.get(start..start.saturating_add(blob.length as usize)).unwrap_or_default();
        let outcome =
            opener.open_beside(tools.repo.key(), sealed, blob.kind, &blob.id, blob.uncompressed, &mut whole);
        if let Err(e) = outcome {
            lost.count = lost.count.saturating_add(1);
            lost.first.get_or_insert_with(|| {
                format!("its {} blob {} is lost: {}", blob.kind.as_str(), blob.id, e.chain())
            });
        }
    }
    Ok(Seen { id: whole.finish(), lost })
}

/// The header must list exactly the blobs that the index lists.
fn compare_header(tools: &Tools, indexed: &[PackedBlob], bytes: &Bytes) -> Result<()> {
    let damaged = |text: &str| Error::new(ErrorKind::Corrupt, text);
    let (rest, last) =
        bytes.split_last_chunk::<4>().ok_or_else(|| damaged("it is too short to be a pack"))?;
    let length = pack::header_length(*last, bytes.len() as u64)?;
    let sealed = rest
        .len()
        .checked_sub(length)
        .and_then(|start| rest.get(start..))
        .ok_or_else(|| damaged("its header claims more bytes than there are"))?;
    let header = tools
        .repo
        .key()
        .open(sealed)
        .map_err(|e| Error::with_source(ErrorKind::Corrupt, "its header cannot be opened", e))?;
    match differences(pack::decode_header(&header)?, indexed.to_vec()) {
        (0, 0) => Ok(()),
        (missing, unknown) => Err(damaged(&format!(
            "its header and the index disagree: {missing} blobs are only in the header, {unknown} only in the index"
        ))),
    }
}

/// How many of these are only among the first, and how many only among the second. Either may be hundreds of thousands.
fn differences(mut ones: Vec<PackedBlob>, mut others: Vec<PackedBlob>) -> (u64, u64) {
    let key = |b: &PackedBlob| (b.offset, b.kind, b.id, b.length, b.uncompressed);
    ones.sort_unstable_by_key(key);
    others.sort_unstable_by_key(key);
    let (mut ones, mut others) = (ones.iter().map(key).peekable(), others.iter().map(key).peekable());
    let (mut only_first, mut only_second) = (0_u64, 0_u64);
    loop {
        let order = match (ones.peek(), others.peek()) {
            (None, None) => return (only_first, only_second),
            (Some(_), None) => Order::Less,
            (None, Some(_)) => Order::Greater,
            (Some(one), Some(other)) => one.cmp(other),
        };
        if order.is_le() {
            ones.next();
        }
        if order.is_ge() {
            others.next();
        }
        match order {
            Order::Less => only_first = only_first.saturating_add(1),
            Order::Greater => only_second = only_second.saturating_add(1),
            Order::Equal => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_header_and_index_do_not_share_is_counted_in_any_order_and_number() {
        let blob = |offset: u32| PackedBlob {
            kind: crate::format::pack::BlobKind::Data,
            id: Id::hash(&offset.to_le_bytes()),
            offset,
            length: 40,
            uncompressed: None,
        };
        assert_eq!(differences(vec![], vec![]), (0, 0));
        assert_eq!(differences(vec![blob(2), blob(1)], vec![blob(1), blob(2)]), (0, 0));
        assert_eq!(differences(vec![blob(1), blob(2)], vec![blob(3), blob(2), blob(0)]), (1, 2));
        let other = PackedBlob { uncompressed: Some(9), ..blob(1) };
        assert_eq!(differences(vec![blob(1)], vec![other]), (1, 1));
        // As many as a header can list. Each compared with each, this would take minutes.
        let all = |from: u32| (from..from + 240_000).map(blob).collect::<Vec<_>>();
        assert_eq!(differences(all(0), all(120_000)), (120_000, 120_000));
    }

    #[test]
    fn parts_cover_everything_once() {
        for m in [1_u8, 2, 3, 7, 255] {
            for first in 0..=255_u8 {
                let mut bytes = [0; 32];
                bytes[0] = first;
                let id = Id::from_bytes(bytes);
                assert_eq!((1..=m).filter(|n| in_part(&id, *n, m)).count(), 1);
            }
        }
    }

    #[test]
    fn an_amount_is_at_least_one_pack_and_never_more_than_asked() {
        assert_eq!(enough([10, 20, 30].into_iter(), 5), 1);
        assert_eq!(enough([10, 20, 30].into_iter(), 30), 2);
        assert_eq!(enough([10, 20, 30].into_iter(), 59), 2);
        assert_eq!(enough([10, 20, 30].into_iter(), u64::MAX), 3);
    }

    #[test]
    fn a_share_is_at_least_one_pack_and_at_most_all() {
        assert_eq!(share_of(0, 0.5), 1);
        assert_eq!(share_of(10, 0.001), 1);
        assert_eq!(share_of(10, 0.25), 3);
        assert_eq!(share_of(10, 1.0), 10);
    }
}
