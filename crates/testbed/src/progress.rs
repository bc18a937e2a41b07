//! Telling a person what is going on, with the time since the start. On stderr: stdout is for data.

use std::io::Write as _;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How often a long step says that it is still alive.
const STILL: Duration = Duration::from_secs(20);

/// Prints steps with the seconds since it was made.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    started: Instant,
    quiet: bool,
}

impl Progress {
    /// Starts the clock.
    pub fn new() -> Self {
        Self { started: Instant::now(), quiet: false }
    }

    /// Says nothing; for callers that have their own display.
    pub fn quiet() -> Self {
        Self { started: Instant::now(), quiet: true }
    }

    /// One line.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            // Nobody listens any more: the work goes on.
            let _ = writeln!(std::io::stderr(), "[{:6.1} s] {text}", self.started.elapsed().as_secs_f64());
        }
    }

    /// Runs a step that may take minutes: says when it starts, that it goes on, and how long it took.
    pub fn step<T, E>(
        &self,
        what: &str,
        detail: impl Fn() -> String + Send,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let started = Instant::now();
        self.say(&format!("{what} …"));
        let (done, wait) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while wait.recv_timeout(STILL) == Err(mpsc::RecvTimeoutError::Timeout) {
                    self.say(&format!("{what}: {:.0} s so far{}", started.elapsed().as_secs_f64(), detail()));
                }
            });
            let outcome = work();
            drop(done);
            let ended = if outcome.is_ok() { "done" } else { "FAILED" };
            self.say(&format!("{what}: {ended} after {:.1} s", started.elapsed().as_secs_f64()));
            outcome
        })
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}
