//! Ctrl-C (and SIGTERM): the first stops the work and lets the lock be released, the second leaves at once. SIGHUP does
//! nothing: with it `restic unlock` on the same machine asks whether the owner of a lock still lives.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use holdfast_engine::error::{Error, ErrorKind, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit;
use crate::failure::Failure;

/// How long stopped work may take to end by itself.
const GRACE: Duration = Duration::from_secs(10);

/// Whether somebody wants the command to end.
#[derive(Debug, Default)]
pub(super) struct Interrupt {
    once: CancellationToken,
    twice: CancellationToken,
    listening: OnceLock<()>,
}

impl Interrupt {
    /// Listens from now on. Before that a signal ends the process at once, as it does with any program: also while it waits
    /// for a command that prints the password, or for a list of files, when there is nothing yet to put in order.
    pub(super) fn listen(&self) {
        self.listening.get_or_init(|| self.start());
    }

    fn start(&self) {
        for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
            // Without a listener all stays as it was.
            let Ok(mut stream) = signal(kind) else { continue };
            let (once, twice) = (self.once.clone(), self.twice.clone());
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    if once.is_cancelled() {
                        twice.cancel();
                    }
                    once.cancel();
                }
            });
        }
        if let Ok(mut stream) = signal(SignalKind::hangup()) {
            tokio::spawn(async move { while stream.recv().await.is_some() {} });
        }
    }

    /// Cancelled by the first.
    pub(super) fn token(&self) -> &CancellationToken {
        &self.once
    }

    /// Waits for the second.
    pub(super) async fn insisted(&self) {
        self.twice.cancelled().await;
    }

    /// Waits for `work`, but only a little longer once it is cancelled: a lock is to be released after it.
    pub(super) async fn bound<T>(
        token: &CancellationToken,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let overdue = async {
            token.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            result = work => result,
            () = overdue => Err(Error::new(ErrorKind::Cancelled, "the command was interrupted")),
        }
    }
}

/// The command was ended in good order.
pub(super) fn interrupted() -> Failure {
    Failure { cause: "interrupted".to_owned(), advice: None, kind: "Cancelled", code: exit::INTERRUPTED }
}

/// The command was left at once.
pub(super) fn abandoned() -> Failure {
    Failure {
        cause: "interrupted twice; a lock may be left in the repository".to_owned(),
        advice: Some("`holdfast repo unlock` removes it".to_owned()),
        kind: "Cancelled",
        code: exit::INTERRUPTED,
    }
}
