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
}

/// Gives pieces to a thread that may block. Ends fetching when dropped.
pub(super) struct ReadAhead {
    pieces: mpsc::Receiver<Result<Piece>>,
    _stop: DropGuard,
}

impl Iterator for ReadAhead {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        self.pieces.blocking_recv()
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
                let Some(piece) = next else { return };
                let over = piece.is_err();
                if send.send(piece).await.is_err() || over {
                    return;
                }
            }
        });
        Self { pieces, _stop: stop.drop_guard() }
    }
}
