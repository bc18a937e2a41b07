//! Reads stretches of packs: neighbouring blobs in one request, several requests at once, within a budget of
//! memory.
//!
//! Not here: which blobs are needed, and what becomes of the bytes.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::Receiver;
use futures::StreamExt as _;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::store::{FileKind, FileName, Store};

/// Bytes read for nothing between two blobs rather than asking twice.
const MAX_GAP: u64 = 512 << 10;
/// Bytes of one request. Small enough that several fit the budget and the threads share the work evenly.
const MAX_REQUEST: u64 = 2 << 20;
/// Requests at once. Enough to hide a remote store's answer time.
const IN_FLIGHT: usize = 8;
/// Fetched bytes that wait or are worked on. A single longer blob is let through alone.
const BUDGET: u32 = 24 << 20;

/// Where a wanted blob lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The pack's number in the index.
    pub(crate) pack: u32,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

/// One stretch of one pack, with the wanted blobs in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) pack: u32,
    pub(crate) range: Range<u64>,
    /// Positions in the list of wanted blobs.
    pub(crate) blobs: Range<usize>,
}

/// Cuts wanted blobs, ascending by place, into requests.
pub(crate) fn requests(wanted: impl Iterator<Item = Place>) -> Vec<Request> {
    let mut out: Vec<Request> = Vec::new();
    for (position, place) in wanted.enumerate() {
        let start = u64::from(place.offset);
        let end = start.saturating_add(u64::from(place.length));
        let next = position.saturating_add(1);
        if let Some(last) = out.last_mut()
            && last.pack == place.pack
            && start <= last.range.end.saturating_add(MAX_GAP)
            && end.saturating_sub(last.range.start) <= MAX_REQUEST
        {
            last.range.end = last.range.end.max(end);
            last.blobs.end = next;
        } else {
            out.push(Request { pack: place.pack, range: start..end, blobs: position..next });
        }
    }
    out
}

/// What a request brought.
pub(crate) struct Fetched {
    pub(crate) request: Request,
    pub(crate) bytes: Result<Bytes>,
    /// Gives the memory back to the budget when the bytes are done with.
    _permit: OwnedSemaphorePermit,
}

impl Fetched {
    /// The sealed bytes of the blob at `place`, which lies within the request.
    pub(crate) fn slice(&self, place: Place) -> Option<&[u8]> {
        let bytes = self.bytes.as_ref().ok()?;
        let start = usize::try_from(u64::from(place.offset).checked_sub(self.request.range.start)?).ok()?;
        bytes.get(start..start.checked_add(place.length as usize)?)
    }
}

/// Fetches all requests, in order and ahead of the receiver as far as the budget allows. Ends early when
/// `cancel` fires or the receiver is dropped.
pub(crate) fn spawn(
    store: Arc<dyn Store>,
    packs: impl Fn(u32) -> Option<Id> + Send + Sync + 'static,
    requests: Vec<Request>,
    cancel: CancellationToken,
    runtime: &Handle,
) -> Receiver<Fetched> {
    spawn_within(BUDGET, store, packs, requests, cancel, runtime)
}

/// As [`spawn`], with another budget of bytes.
pub(crate) fn spawn_within(
    bytes: u32,
    store: Arc<dyn Store>,
    packs: impl Fn(u32) -> Option<Id> + Send + Sync + 'static,
    requests: Vec<Request>,
    cancel: CancellationToken,
    runtime: &Handle,
) -> Receiver<Fetched> {
    let (send, receive) = crossbeam_channel::unbounded();
    let budget = Arc::new(Semaphore::new(bytes as usize));
    runtime.spawn(async move {
        let fetches = futures::stream::iter(requests).map(|request| {
            let (store, budget) = (Arc::clone(&store), Arc::clone(&budget));
            let pack = packs(request.pack);
            async move {
                let length = request.range.end.saturating_sub(request.range.start);
                let permits = u32::try_from(length).unwrap_or(bytes).min(bytes);
                let permit = budget.acquire_many_owned(permits).await.ok()?;
                let bytes = match pack {
                    Some(id) => {
                        store.get(FileName { kind: FileKind::Pack, id }, Some(request.range.clone())).await
                    }
                    None => Err(Error::new(ErrorKind::Internal, "a pack's number is not in the index")),
                };
                Some(Fetched { request, bytes, _permit: permit })
            }
        });
        let mut fetches = std::pin::pin!(fetches.buffered(IN_FLIGHT));
        loop {
            let next = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                next = fetches.next() => next,
            };
            let Some(Some(answer)) = next else { return };
            if send.send(answer).is_err() {
                return;
            }
        }
    });
    receive
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(pack: u32, offset: u32, length: u32) -> Place {
        Place { pack, offset, length }
    }

    #[test]
    fn neighbours_share_a_request() {
        let list = [place(0, 0, 100), place(0, 100, 50), place(0, 200, 10), place(1, 0, 5)];
        let requests = requests(list.into_iter());
        assert_eq!(requests.len(), 2);
        assert_eq!((requests[0].range.clone(), requests[0].blobs.clone()), (0..210, 0..3));
        assert_eq!((requests[1].pack, requests[1].blobs.clone()), (1, 3..4));
    }

    #[test]
    fn far_and_long_ones_do_not() {
        let far = u32::try_from(MAX_GAP).expect("small") + 101;
        assert_eq!(requests([place(0, 0, 100), place(0, far, 1)].into_iter()).len(), 2);
        let half = u32::try_from(MAX_REQUEST).expect("small") / 2;
        let three = [place(0, 0, half), place(0, half, half), place(0, 2 * half, half)];
        let requests = requests(three.into_iter());
        assert_eq!(requests.iter().map(|r| r.blobs.clone()).collect::<Vec<_>>(), [0..2, 2..3]);
    }

    #[test]
    fn a_blob_longer_than_a_request_gets_its_own() {
        let long = u32::try_from(MAX_REQUEST).expect("small") * 3;
        assert_eq!(requests([place(0, 0, long), place(0, long, 1)].into_iter()).len(), 2);
    }
}
