//! Reading many blobs at once, by the order in which they lie in the packs.
//!
//! Not here: single blobs (`repository`), and what the bytes are for (`restore`, `check`).

pub(crate) mod fetch;
mod opener;
mod trees;

pub(crate) use opener::BlobOpener;
pub(crate) use trees::TreeReader;

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::event::Ctx;

/// Whether an error says that stored bytes are bad or absent, so that others may still be good; any other error
/// of a store concerns all of it.
pub(crate) fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Missing | ErrorKind::Corrupt | ErrorKind::Format)
}

/// Threads for work that mostly computes: one for each core this process may use.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 16)
}

/// Runs an operation that blocks and computes on a thread of its own and waits for it. Its context is cancelled
/// when the caller's is, or when the caller stops waiting.
pub(crate) async fn own_thread<T: Send + 'static>(
    name: &str,
    ctx: &Ctx,
    work: impl FnOnce(&Ctx) -> Result<T> + Send + 'static,
) -> Result<T> {
    let inner = Ctx { cancel: ctx.cancel.child_token(), events: Arc::clone(&ctx.events) };
    let stop_when_dropped = inner.cancel.clone().drop_guard();
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let outcome = work(&inner);
            // Nobody listens any more when the caller went away.
            let _ = tell.send(outcome);
        })
        .map_err(|e| {
            Error::with_source(ErrorKind::Internal, format!("cannot start a thread for the {name}"), e)
        })?;
    let outcome = told
        .await
        .map_err(|_| Error::new(ErrorKind::Internal, format!("the {name} ended without a result: a bug")))?;
    stop_when_dropped.disarm();
    if ctx.cancel.is_cancelled() && outcome.is_ok() {
        return Err(Error::new(ErrorKind::Cancelled, format!("the {name} was cancelled")));
    }
    outcome
}
