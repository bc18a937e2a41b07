//! Tells about a run while it runs: engine events become JSON lines on standard output, at a bounded pace.
//!
//! The engine's threads never wait here: they leave the newest totals, or put a line into a bounded queue, and one
//! thread writes. A log says how much was left out. Nothing that matters may depend on a line having been read;
//! the verdict is written elsewhere.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use holdfast_engine::event::{Event as EngineEvent, EventSink, Fault, FaultList, Progress};
use holdfast_protocol::verdict::FaultRow;
use holdfast_protocol::{Checkpoint, Event};

/// Most lines about single files in one run's log.
const MAX_FAULT_LINES: u64 = 1000;
/// Most lines waiting to be written.
const QUEUE: usize = 256;
/// Between two lines about requests that are tried again.
const RETRY_GAP: Duration = Duration::from_secs(5);

/// How often progress is told.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Shortest time between two lines of progress.
    pub least: Duration,
    /// Longest time between two lines while the engine gives signs of life.
    pub most: Duration,
    /// When the engine has given no sign of life for so long, the runner gives none either, so that the operator
    /// notices a run that hangs.
    pub silent_after: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            least: Duration::from_millis(500),
            most: Duration::from_secs(15),
            silent_after: Duration::from_mins(5),
        }
    }
}

/// Takes events of the engine and of the tasks and writes lines.
pub struct Reporter {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    state: Mutex<State>,
    /// Something is to be written, or room has become free, or it is over.
    changed: Condvar,
}

struct State {
    queue: VecDeque<Event>,
    phase: String,
    progress: Progress,
    /// Whether phase or totals differ from the last line written.
    fresh: bool,
    alive: Instant,
    faults: FaultList,
    dropped: u64,
    last_retry: Option<Instant>,
    retries_untold: u64,
    waiting_for: Option<String>,
    closed: bool,
}

impl Reporter {
    /// Starts the writing thread.
    pub fn start(out: Box<dyn Write + Send>, pace: Pace) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                phase: "start".to_owned(),
                progress: Progress::default(),
                fresh: true,
                alive: Instant::now(),
                faults: FaultList::default(),
                dropped: 0,
                last_retry: None,
                retries_untold: 0,
                waiting_for: None,
                closed: false,
            }),
            changed: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("report".to_owned())
            .spawn(move || theirs.write_all(out, pace))
            .inspect_err(|e| {
                tracing::warn!("start the reporting thread: {e}; the run goes on without progress");
            })
            .ok();
        if writer.is_none() {
            shared.lock().closed = true;
        }
        Self { shared, writer: Mutex::new(writer) }
    }

    /// Begins a phase of the runner's own.
    pub fn phase(&self, name: &str) {
        let mut state = self.shared.lock();
        state.set_phase(name);
        self.shared.changed.notify_all();
    }

    /// Tells a person something.
    pub fn log(&self, level: &str, message: impl Into<String>) {
        self.shared.lock().push(Event::Log { level: level.to_owned(), message: message.into() });
        self.shared.changed.notify_all();
    }

    /// Writes a row of the result. Unlike all else it is never left out: it waits for room in the queue.
    pub fn row(&self, event: Event) {
        let mut state = self.shared.lock();
        while state.queue.len() >= QUEUE && !state.closed {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.alive = Instant::now();
        state.queue.push_back(event);
        self.shared.changed.notify_all();
    }

    /// Everything that could not be handled so far.
    pub fn faults(&self) -> FaultList {
        self.shared.lock().faults.clone()
    }

    /// Writes what is left and ends the thread.
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // A panic of the writing thread costs lines of the log and nothing else.
            let _ = writer.join();
        }
    }
}

impl EventSink for Reporter {
    fn event(&self, event: EngineEvent) {
        let mut state = self.shared.lock();
        state.alive = Instant::now();
        match event {
            EngineEvent::Phase(name) => state.set_phase(name),
            EngineEvent::Progress(progress) => {
                state.fresh |= state.progress != progress;
                state.progress = progress;
                // The writer looks by itself, at its pace: waking it for each total would cost more than the work.
                return;
            }
            EngineEvent::Fault(fault) => state.fault(fault),
            EngineEvent::SnapshotLeftOut { id, error } => {
                let message = format!("snapshot {id} cannot be read and is left out: {error}");
                state.push(Event::Log { level: "warn".to_owned(), message });
            }
            EngineEvent::Retry { what, error } => state.retry(&what, &error),
            EngineEvent::WaitingForLock { holder } => state.waiting(holder),
            // Few, and each may save hours: never left out.
            EngineEvent::Checkpoint(checkpoint) => state.queue.push_back(Event::Checkpoint(Checkpoint {
                tree: checkpoint.tree.to_hex(),
                started: checkpoint.started.to_string(),
            })),
            _ => {}
        }
        self.shared.changed.notify_all();
    }
}

impl State {
    fn set_phase(&mut self, name: &str) {
        self.alive = Instant::now();
        if self.phase != name {
            name.clone_into(&mut self.phase);
            self.fresh = true;
        }
    }

    /// Puts a line into the queue, or counts it when there is no room: the engine must not wait.
    fn push(&mut self, event: Event) {
        self.alive = Instant::now();
        if self.queue.len() < QUEUE {
            self.queue.push_back(event);
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    fn fault(&mut self, fault: Fault) {
        if self.faults.total < MAX_FAULT_LINES {
            self.push(Event::Fault {
                path: fault.path.to_string_lossy().into_owned(),
                action: fault.action.to_owned(),
                error: fault.error.clone(),
            });
        } else if self.faults.total == MAX_FAULT_LINES {
            self.push(Event::Log {
                level: "warn".to_owned(),
                message: format!(
                    "more than {MAX_FAULT_LINES} files could not be handled; the rest is only counted"
                ),
            });
        }
        self.faults.push(fault);
    }

    fn retry(&mut self, what: &str, error: &str) {
        let now = Instant::now();
        if self.last_retry.is_some_and(|last| now.duration_since(last) < RETRY_GAP) {
            self.retries_untold = self.retries_untold.saturating_add(1);
            return;
        }
        let more = match std::mem::take(&mut self.retries_untold) {
            0 => String::new(),
            n => format!(" (and {n} more since the last such line)"),
        };
        self.last_retry = Some(now);
        self.push(Event::Log {
            level: "warn".to_owned(),
            message: format!("{what}: {error}; trying again{more}"),
        });
    }

    fn waiting(&mut self, holder: String) {
        self.set_phase("waiting for lock");
        if self.waiting_for.as_ref() != Some(&holder) {
            self.push(Event::Log {
                level: "info".to_owned(),
                message: format!("the repository is locked by {holder}; waiting"),
            });
            self.waiting_for = Some(holder);
        }
    }

    fn progress_line(&mut self) -> Event {
        self.fresh = false;
        Event::Progress {
            phase: self.phase.clone(),
            files_done: self.progress.files_done,
            bytes_done: self.progress.bytes_done,
            files_total: self.progress.files_total,
            bytes_total: self.progress.bytes_total,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is totals and lines: whatever a panicking thread left is still good to be told.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, mut out: Box<dyn Write + Send>, pace: Pace) {
        let mut last: Option<Instant> = None;
        loop {
            let mut state = self.lock();
            let over = state.closed;
            let mut lines: Vec<Event> = state.queue.drain(..).collect();
            if let n @ 1.. = std::mem::take(&mut state.dropped) {
                lines.push(Event::Log {
                    level: "warn".to_owned(),
                    message: format!("{n} lines were left out here"),
                });
            }
            if state.is_due(last, pace) || (over && state.fresh) {
                lines.push(state.progress_line());
                last = Some(Instant::now());
            }
            if lines.is_empty() {
                if over {
                    return;
                }
                drop(self.changed.wait_timeout(state, pace.least));
                continue;
            }
            drop(state);
            self.changed.notify_all();
            for line in lines {
                // Whoever read standard output has gone away: the run is more important than its log.
                let _ = writeln!(out, "{}", line.to_line());
            }
            let _ = out.flush();
        }
    }
}

impl State {
    fn is_due(&self, last: Option<Instant>, pace: Pace) -> bool {
        let since = last.map_or(Duration::MAX, |at| at.elapsed());
        let heartbeat = since >= pace.most && self.alive.elapsed() < pace.silent_after;
        heartbeat || (self.fresh && since >= pace.least)
    }
}

/// The first `count` faults as the verdict shows them.
pub fn sample(faults: &FaultList, count: usize) -> Vec<FaultRow> {
    faults
        .first
        .iter()
        .take(count)
        .map(|fault| FaultRow {
            path: fault.path.to_string_lossy().into_owned(),
            error: format!("{}: {}", fault.action, fault.error),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[derive(Clone, Default)]
    struct Out(Arc<Mutex<Vec<u8>>>);

    impl Write for Out {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(data)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Out {
        fn events(&self) -> Vec<Event> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.lines().map(|l| Event::from_line(l).expect("every line is an event")).collect()
        }
        fn progress_lines(&self) -> usize {
            self.events().iter().filter(|e| matches!(e, Event::Progress { .. })).count()
        }
    }

    fn pace(least: u64, most: u64, silent_after: u64) -> Pace {
        let ms = Duration::from_millis;
        Pace { least: ms(least), most: ms(most), silent_after: ms(silent_after) }
    }

    fn progress(files_done: u64) -> EngineEvent {
        EngineEvent::Progress(Progress { files_done, ..Progress::default() })
    }

    #[test]
    fn a_thousand_totals_are_a_few_lines_and_the_last_is_the_newest() {
        let out = Out::default();
        let reporter = Reporter::start(Box::new(out.clone()), pace(10_000, 20_000, 20_000));
        for n in 1..=1000 {
            reporter.event(progress(n));
        }
        reporter.close();
        assert!(out.progress_lines() <= 2);
        let Some(Event::Progress { files_done: 1000, .. }) = out.events().pop() else {
            panic!("{:?}", out.events())
        };
    }

    #[test]
    fn a_run_without_news_still_gives_signs_of_life_until_the_engine_gives_none() {
        let out = Out::default();
        let reporter = Reporter::start(Box::new(out.clone()), pace(5, 20, 300));
        reporter.event(EngineEvent::WaitingForLock { holder: "restic@laptop".into() });
        std::thread::sleep(Duration::from_millis(700));
        let beats = out.progress_lines();
        assert!(beats >= 3, "{beats}");
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(out.progress_lines(), beats, "the engine has been silent for too long to speak for it");
        reporter.close();
    }

    #[test]
    fn rows_are_never_left_out() {
        let out = Out::default();
        let reporter = Reporter::start(Box::new(out.clone()), Pace::default());
        for part in 0..5000 {
            reporter.row(Event::Attachment { part, row: "{}".into() });
        }
        reporter.close();
        let rows = out.events().into_iter().filter(|e| matches!(e, Event::Attachment { .. })).count();
        assert_eq!(rows, 5000);
    }

    #[test]
    fn faults_are_all_counted_and_the_log_is_bounded() {
        let out = Out::default();
        let reporter = Reporter::start(Box::new(out.clone()), Pace::default());
        for n in 0..3000 {
            let path = PathBuf::from(format!("/data/{n}"));
            reporter.event(EngineEvent::Fault(Fault { path, action: "open", error: "denied".into() }));
        }
        reporter.close();
        assert_eq!(reporter.faults().total, 3000);
        assert!(out.events().len() <= usize::try_from(MAX_FAULT_LINES).unwrap() + 10);
        assert_eq!(
            sample(&reporter.faults(), 1),
            [FaultRow { path: "/data/0".into(), error: "open: denied".into() }]
        );
    }
}
