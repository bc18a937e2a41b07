//! Ctrl-C (and SIGTERM) while a run is followed: it ends the following, never the run.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for either signal.
pub(super) struct Interrupt {
    signals: Vec<Signal>,
}

impl Interrupt {
    /// Listens from now on.
    pub(super) fn listen() -> Self {
        // Without a listener the signal ends the process at once, as it does with any program.
        let signals = [SignalKind::interrupt(), SignalKind::terminate()];
        Self { signals: signals.into_iter().filter_map(|kind| signal(kind).ok()).collect() }
    }

    /// Waits for the next signal; for ever when there is nothing to listen to.
    pub(super) async fn next(&mut self) {
        if self.signals.is_empty() {
            return std::future::pending().await;
        }
        let waiting = self.signals.iter_mut().map(|signal| Box::pin(signal.recv()));
        futures::future::select_all(waiting).await;
    }
}
