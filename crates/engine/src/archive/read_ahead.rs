//! Blobs fetched ahead of the thread that writes them, in order and within a budget of memory.

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Entry, Step, Steps};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Ctx;
use crate::format::pack::BlobKind;
use crate::id::Id;
use crate::index::Index;
use crate::repository::Repository;

/// Blobs that are fetched at a time. Enough to hide a remote store's answer time with small files.
const BLOBS: usize = 32;
/// Their plain bytes. A single longer blob is let through alone.
const BUDGET: u32 = 32 << 20;

/// What the writing thread gets.
pub(super) enum Piece {
    Entry(Box<Entry>),
    /// Content; the memory counts until the permit is dropped.
    Data(Bytes, OwnedSemaphorePermit),
    /// All has come. Without it something broke off, however quietly.
    End,
}

/// Gives pieces to a thread that may block. Ends fetching when dropped.
pub(super) struct ReadAhead {
    pieces: mpsc::Receiver<Result<Piece>>,
    /// The caller's wish to stop, of which `_stop` is a child.
    cancel: CancellationToken,
    ended: bool,
    _stop: DropGuard,
}

impl Iterator for ReadAhead {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.pieces.blocking_recv().unwrap_or_else(|| {
            Err(if self.cancel.is_cancelled() {
                Error::new(ErrorKind::Cancelled, "the operation was cancelled")
            } else {
                Error::new(ErrorKind::Internal, "reading ahead ended before the end of what is read: a bug")
            })
        });
        self.ended = matches!(next, Err(_) | Ok(Piece::End));
        Some(next)
    }
}

impl ReadAhead {
    /// All entries and their content.
    pub(super) fn of_steps(repo: &Repository, index: &Arc<Index>, steps: Steps, ctx: &Ctx) -> Self {
        let steps = stream::unfold(Some(steps), |state| async move {
            let mut steps = state?;
            match steps.next().await {
                Ok(Some(step)) => Some((Ok(step), Some(steps))),
                Ok(None) => None,
                Err(e) => Some((Err(e), None)),
            }
        });
        Self::start(repo, index, steps, ctx)
    }

    /// The content of one file.
    pub(super) fn of_file(repo: &Repository, index: &Arc<Index>, content: Vec<Id>, ctx: &Ctx) -> Self {
        let known = Arc::clone(index);
        let steps = stream::iter(content).map(move |id| {
            let length = known.plain_length(BlobKind::Data, &id).ok_or_else(|| {
                Error::new(ErrorKind::Missing, format!("the data blob {id} is in no index; run a check"))
            })?;
            Ok(Step::Blob(id, length))
        });
        Self::start(repo, index, steps, ctx)
    }

    fn start(
        repo: &Repository,
        index: &Arc<Index>,
        steps: impl Stream<Item = Result<Step>> + Send + 'static,
        ctx: &Ctx,
    ) -> Self {
        let stop: CancellationToken = ctx.cancel.child_token();
        let (repo, index, stopped) = (repo.clone(), Arc::clone(index), stop.clone());
        let (send, pieces) = mpsc::channel(BLOBS);
        tokio::spawn(async move {
            let budget = Arc::new(Semaphore::new(BUDGET as usize));
            // Permits are taken one after the other, so that a blob never waits for memory that later ones hold.
            let with_memory = steps.then(|step| {
                let budget = Arc::clone(&budget);
                async move {
                    let next = step?;
                    let permit = match &next {
                        Step::Blob(_, length) => budget.acquire_many_owned((*length).min(BUDGET)).await.ok(),
                        Step::Entry(_) => None,
                    };
                    Ok::<_, Error>((next, permit))
                }
            });
            let fetching = with_memory.map(|step| {
                let (repo, index) = (repo.clone(), Arc::clone(&index));
                async move {
                    match step? {
                        (Step::Entry(entry), _) => Ok(Piece::Entry(entry)),
                        (Step::Blob(id, _), Some(permit)) => {
                            let bytes = repo.load_blob(&index, BlobKind::Data, &id).await?;
                            Ok(Piece::Data(bytes, permit))
                        }
                        (Step::Blob(..), None) => {
                            Err(Error::new(ErrorKind::Internal, "the memory for a blob was refused"))
                        }
                    }
                }
            });
            let mut fetched = std::pin::pin!(fetching.buffered(BLOBS));
            loop {
                let next = tokio::select! {
                    biased;
                    () = stopped.cancelled() => return,
                    next = fetched.next() => next,
                };
                let piece = next.unwrap_or(Ok(Piece::End));
                let over = matches!(piece, Err(_) | Ok(Piece::End));
                if send.send(piece).await.is_err() || over {
                    return;
                }
            }
        });
        Self { pieces, cancel: ctx.cancel.clone(), ended: false, _stop: stop.drop_guard() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ahead(given: Vec<Result<Piece>>, cancel: &CancellationToken) -> ReadAhead {
        let (send, pieces) = mpsc::channel(given.len().max(1));
        for piece in given {
            send.try_send(piece).unwrap();
        }
        let stop = cancel.child_token().drop_guard();
        ReadAhead { pieces, cancel: cancel.clone(), ended: false, _stop: stop }
    }

    #[test]
    fn what_ends_without_saying_so_broke_off() {
        let cancel = CancellationToken::new();
        let kinds = |ahead: ReadAhead| -> Vec<Option<ErrorKind>> {
            ahead.map(|piece| piece.err().map(|e| e.kind())).collect()
        };
        assert_eq!(kinds(ahead(vec![Ok(Piece::End)], &cancel)), [None]);
        assert_eq!(kinds(ahead(Vec::new(), &cancel)), [Some(ErrorKind::Internal)]);
        cancel.cancel();
        assert_eq!(kinds(ahead(Vec::new(), &cancel)), [Some(ErrorKind::Cancelled)]);
    }
}
