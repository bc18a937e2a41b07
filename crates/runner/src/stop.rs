//! How a run is stopped: SIGTERM cancels the work, and what then still hangs is abandoned in time for the lock to
//! be released before the kubelet kills the process.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_engine::error::{Error, ErrorKind};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long cancelled work may take to end by itself. A pod has 30 s from SIGTERM to SIGKILL: ten for the work,
/// ten for the lock, the rest for a busy machine.
const WORK_GRACE: Duration = Duration::from_secs(10);
/// How long after the request the store may still be talked to.
const STORE_GRACE: Duration = Duration::from_secs(20);

/// Whether, and how urgently, the run has been told to stop.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    work: CancellationToken,
    store: CancellationToken,
}

impl Stop {
    /// Nobody has asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled at once when the run is told to stop.
    pub fn work(&self) -> &CancellationToken {
        &self.work
    }

    /// Cancelled some seconds later, so that the lock can be released between the two.
    pub fn store(&self) -> &CancellationToken {
        &self.store
    }

    /// Whether the run has been told to stop.
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Tells the run to stop.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
        self.work.cancel();
    }

    /// From now on SIGTERM and SIGINT tell the run to stop.
    pub fn on_signals(&self) {
        let streams = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
        for stream in streams {
            let stop = self.clone();
            match stream {
                Ok(mut stream) => {
                    tokio::spawn(async move {
                        stream.recv().await;
                        stop.ask();
                        tokio::time::sleep(STORE_GRACE).await;
                        stop.store.cancel();
                    });
                }
                // Then SIGTERM kills at once and the operator removes the lock, as after any kill.
                Err(e) => tracing::warn!("listen for signals: {e}"),
            }
        }
    }

    /// Waits for `work`, but only [`WORK_GRACE`] longer once `token` is cancelled.
    pub async fn bound<T, E: From<Error>>(
        token: &CancellationToken,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let overdue = async {
            token.cancelled().await;
            tokio::time::sleep(WORK_GRACE).await;
        };
        tokio::select! {
            result = work => result,
            () = overdue => Err(Error::new(ErrorKind::Cancelled, "the work was abandoned after it was cancelled").into()),
        }
    }
}
