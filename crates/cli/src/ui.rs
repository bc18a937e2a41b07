//! What a command says while it works and at its end: a progress bar on a terminal, status lines in JSON, plain
//! warnings otherwise. Results go to standard output, everything else to standard error.
//!
//! The engine's threads only leave totals and lines here; one thread of ours draws.

use std::collections::VecDeque;
use std::io::{ErrorKind as IoErrorKind, IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use holdfast_engine::event::{Event, EventSink, Fault, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::exit;
use crate::failure::{Failure, Result};
use crate::text::{count, safe, size};

/// Most lines waiting to be written; what comes on top is counted.
const QUEUE: usize = 1000;
/// Between two drawings of the bar.
const DRAW: Duration = Duration::from_millis(100);
/// Between two status lines of JSON.
const STATUS: Duration = Duration::from_millis(500);
/// Between two lines about requests that are tried again.
const RETRY_GAP: Duration = Duration::from_secs(5);
/// Over how many drawings the speed is measured.
const SPEED_WINDOW: usize = 50;

/// How a command talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// One JSON object a line, as restic's.
    Json,
    /// For people, with a progress bar.
    Terminal,
    /// For people, into a file or a pipe.
    Plain,
}

/// Whose status lines in JSON; restic's differ by command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// No status lines.
    Other,
    /// As `restic backup`.
    Backup,
    /// As `restic restore`.
    Restore,
    /// No status lines; what cannot be handled is damage, and so an error.
    Check,
}

/// One command's voice.
pub struct Ui {
    style: Style,
    quiet: bool,
    board: Arc<Board>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Where the engine leaves what it has to tell.
struct Board {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    work: Work,
    phase: &'static str,
    progress: Progress,
    lines: VecDeque<Line>,
    left_out: u64,
    faults: u64,
    last_retry: Option<Instant>,
    waiting_for: Option<String>,
    begun: Instant,
    closed: bool,
}

enum Line {
    Fault(Work, Fault),
    Note(String),
}

impl Ui {
    /// A voice in JSON, or for people as standard error allows; a quiet one tells results and what went wrong.
    pub fn new(json: bool, quiet: bool) -> Self {
        let style = match (json, std::io::stderr().is_terminal()) {
            (true, _) => Style::Json,
            (false, true) => Style::Terminal,
            (false, false) => Style::Plain,
        };
        let board = Arc::new(Board {
            state: Mutex::new(State {
                work: Work::Other,
                phase: "",
                progress: Progress::default(),
                lines: VecDeque::new(),
                left_out: 0,
                faults: 0,
                last_retry: None,
                waiting_for: None,
                begun: Instant::now(),
                closed: false,
            }),
            changed: Condvar::new(),
        });
        let theirs = Arc::clone(&board);
        // Without the thread the command still works; it is only silent until its end.
        let thread = std::thread::Builder::new()
            .name("ui".to_owned())
            .spawn(move || theirs.draw_all(style, quiet))
            .ok();
        Self { style, quiet, board, thread: Mutex::new(thread) }
    }

    /// How this command talks.
    pub fn style(&self) -> Style {
        self.style
    }

    /// Whether results are to be JSON.
    pub fn json(&self) -> bool {
        self.style == Style::Json
    }

    /// Whether nobody wants to hear what was done; what is JSON is for programs, and wanted.
    pub fn quiet(&self) -> bool {
        self.quiet && self.style != Style::Json
    }

    /// Where the engine sends its events.
    pub fn sink(&self) -> Arc<dyn EventSink> {
        Arc::clone(&self.board) as _
    }

    /// From now on progress is that of `work`.
    pub fn begin(&self, work: Work) {
        let mut state = self.board.lock();
        state.work = work;
        state.begun = Instant::now();
        state.progress = Progress::default();
    }

    /// Says something to a person; JSON output leaves it out.
    pub fn say(&self, text: impl Into<String>) {
        if self.style != Style::Json {
            self.board.lock().push(Line::Note(text.into()));
            self.board.changed.notify_all();
        }
    }

    /// Takes the bar away and writes what is left. Results and errors come after it.
    pub fn close(&self) {
        self.board.lock().closed = true;
        self.board.changed.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    /// Prints a part of the result to standard output, with a line feed at its end.
    pub fn print(&self, text: &str) -> Result<()> {
        print(text)
    }

    /// Tells about the failure of the command, on standard error.
    pub fn fail(&self, failure: &Failure) {
        self.close();
        let mut err = std::io::stderr().lock();
        // When even standard error is gone there is nobody left to tell.
        let _ = match self.style {
            Style::Json => writeln!(err, "{}", failure.to_json()),
            Style::Terminal | Style::Plain => writeln!(err, "{}", in_words(failure)),
        };
    }
}

/// Tells about a failure, on standard error, to a person.
pub(crate) fn complain(failure: &Failure) {
    // When even standard error is gone there is nobody left to tell.
    let _ = writeln!(std::io::stderr().lock(), "{}", in_words(failure));
}

/// The same to a program.
pub(crate) fn complain_in_json(failure: &Failure) {
    let _ = writeln!(std::io::stderr().lock(), "{}", failure.to_json());
}

fn in_words(failure: &Failure) -> String {
    let advice = failure.advice.as_ref().map(|a| format!("\n  → {}", safe(a))).unwrap_or_default();
    format!("error: {}{advice}", safe(&failure.cause))
}

/// Writes to standard output. A reader that has gone away (`… | head`) ends the command without a word.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|e| Failure {
        cause: format!("write the result to standard output: {e}"),
        advice: None,
        kind: if e.kind() == IoErrorKind::BrokenPipe { OUTPUT_CLOSED } else { "Output" },
        code: if e.kind() == IoErrorKind::BrokenPipe { exit::OK } else { exit::FATAL },
    })
}

/// Kind of the failure that is none: nobody reads the result any more.
pub const OUTPUT_CLOSED: &str = "OutputClosed";

impl EventSink for Board {
    fn event(&self, event: Event) {
        let mut state = self.lock();
        match event {
            Event::Phase(phase) => state.phase = phase,
            Event::Progress(progress) => {
                state.progress = progress;
                return;
            }
            Event::Fault(fault) => {
                state.faults = state.faults.saturating_add(1);
                let work = state.work;
                state.push(Line::Fault(work, fault));
            }
            Event::SnapshotLeftOut { id, error } => {
                let path = format!("snapshot {id}").into();
                state.push(Line::Fault(Work::Other, Fault { path, action: "read", error }));
            }
            Event::Retry { what, error } if state.last_retry.is_none_or(|at| at.elapsed() >= RETRY_GAP) => {
                state.last_retry = Some(Instant::now());
                state.push(Line::Note(format!("{what}: {error}; trying again")));
            }
            Event::WaitingForLock { holder } => {
                state.phase = "waiting for lock";
                if state.waiting_for.as_ref() != Some(&holder) {
                    state.push(Line::Note(format!("the repository is locked by {holder}; waiting")));
                    state.waiting_for = Some(holder);
                }
            }
            _ => {}
        }
        self.changed.notify_all();
    }
}

impl State {
    fn push(&mut self, line: Line) {
        if self.lines.len() < QUEUE {
            self.lines.push_back(line);
        } else {
            self.left_out = self.left_out.saturating_add(1);
        }
    }
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Totals and lines stay good whatever panicked beside them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw_all(&self, style: Style, quiet: bool) {
        let bar = match style {
            Style::Terminal if !quiet => Some(Bar::new()),
            Style::Json | Style::Plain | Style::Terminal => None,
        };
        let mut bar = bar;
        let mut last_status = Instant::now();
        loop {
            let mut state = self.lock();
            let over = state.closed;
            let lines: Vec<Line> = state.lines.drain(..).collect();
            let left_out = std::mem::take(&mut state.left_out);
            let (work, phase, progress) = (state.work, state.phase, state.progress);
            let (faults, begun) = (state.faults, state.begun);
            drop(state);

            let write = || {
                for line in &lines {
                    say(style, line);
                }
                if left_out > 0 {
                    say(style, &Line::Note(format!("{left_out} more lines were left out here")));
                }
            };
            match &bar {
                Some(bar) if !lines.is_empty() => bar.line.suspend(write),
                _ => write(),
            }
            if over {
                if let Some(bar) = bar {
                    bar.line.finish_and_clear();
                }
                return;
            }
            if let Some(bar) = &mut bar {
                bar.draw(phase, progress);
            }
            if style == Style::Json
                && !quiet
                && matches!(work, Work::Backup | Work::Restore)
                && last_status.elapsed() >= STATUS
            {
                last_status = Instant::now();
                let _ =
                    writeln!(std::io::stdout().lock(), "{}", status(work, progress, faults, begun.elapsed()));
            }
            let state = self.lock();
            if state.lines.is_empty() && !state.closed {
                drop(self.changed.wait_timeout(state, DRAW));
            }
        }
    }
}

fn say(style: Style, line: &Line) {
    let mut err = std::io::stderr().lock();
    let _ = match (style, line) {
        (Style::Json, Line::Fault(Work::Check, Fault { path, error, .. })) => {
            let message = format!("{}: {error}", path.display());
            writeln!(err, "{}", json!({"message_type": "error", "message": message}))
        }
        (Style::Json, Line::Fault(_, fault)) => writeln!(
            err,
            "{}",
            json!({
                "message_type": "error",
                "error": {"message": fault.error},
                "during": fault.action,
                "item": fault.path.to_string_lossy(),
            })
        ),
        (Style::Json, Line::Note(_)) => Ok(()),
        (_, Line::Fault(Work::Check, Fault { path, error, .. })) => {
            writeln!(err, "damaged: {}: {}", safe(&path.to_string_lossy()), safe(error))
        }
        (_, Line::Fault(_, fault)) => {
            let path = fault.path.to_string_lossy();
            writeln!(err, "warning: {} {}: {}", fault.action, safe(&path), safe(&fault.error))
        }
        (_, Line::Note(text)) => writeln!(err, "{}", safe(text)),
    };
}

/// A status line with the fields of restic's.
fn status(work: Work, progress: Progress, faults: u64, elapsed: Duration) -> serde_json::Value {
    let Progress { files_done, bytes_done, files_total, bytes_total } = progress;
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    let percent_done = if bytes_total == 0 { 0.0 } else { (bytes_done as f64 / bytes_total as f64).min(1.0) };
    let seconds_elapsed = elapsed.as_secs();
    match work {
        Work::Restore => json!({
            "message_type": "status",
            "seconds_elapsed": seconds_elapsed,
            "percent_done": percent_done,
            "total_files": files_total,
            "files_restored": files_done,
            "total_bytes": bytes_total,
            "bytes_restored": bytes_done,
        }),
        Work::Backup | Work::Check | Work::Other => {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "an estimate in whole seconds"
            )]
            let seconds_remaining = if percent_done > 0.0 {
                (elapsed.as_secs_f64() * (1.0 - percent_done) / percent_done) as u64
            } else {
                0
            };
            json!({
                "message_type": "status",
                "seconds_elapsed": seconds_elapsed,
                "seconds_remaining": seconds_remaining,
                "percent_done": percent_done,
                "total_files": files_total,
                "files_done": files_done,
                "total_bytes": bytes_total,
                "bytes_done": bytes_done,
                "error_count": faults,
            })
        }
    }
}

/// The bar on a terminal.
struct Bar {
    line: ProgressBar,
    with_total: Option<bool>,
    window: VecDeque<(Instant, u64)>,
}

impl Bar {
    fn new() -> Self {
        let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
        Self { line, with_total: None, window: VecDeque::new() }
    }

    fn draw(&mut self, phase: &'static str, progress: Progress) {
        if phase.is_empty() {
            return;
        }
        let with_total = progress.bytes_total > 0;
        if self.with_total != Some(with_total) {
            self.with_total = Some(with_total);
            let template = if with_total {
                "{spinner:.cyan} {prefix} {bar:24.cyan/dim} {percent:>3} %  {wide_msg}"
            } else {
                "{spinner:.cyan} {prefix}  {wide_msg}"
            };
            // The templates are constants; with a wrong one the bar would keep its plain look.
            if let Ok(style) = ProgressStyle::with_template(template) {
                self.line.set_style(style.progress_chars("━╸─"));
            }
        }
        if with_total {
            self.line.set_length(progress.bytes_total);
            self.line.set_position(progress.bytes_done.min(progress.bytes_total));
        }
        self.line.set_prefix(phase);
        let message = self.message(progress);
        self.line.set_message(message);
        self.line.tick();
    }

    fn message(&mut self, progress: Progress) -> String {
        let now = Instant::now();
        if self.window.back().is_some_and(|(_, bytes)| *bytes > progress.bytes_done) {
            self.window.clear();
        }
        self.window.push_back((now, progress.bytes_done));
        if self.window.len() > SPEED_WINDOW {
            self.window.pop_front();
        }
        let speed = self.window.front().and_then(|(at, bytes)| {
            let millis = u64::try_from(now.duration_since(*at).as_millis()).ok().filter(|ms| *ms >= 500)?;
            let moved = progress.bytes_done.saturating_sub(*bytes);
            Some(moved.saturating_mul(1000) / millis)
        });
        describe(progress, speed)
    }
}

/// Totals and speed in words.
fn describe(progress: Progress, speed: Option<u64>) -> String {
    let Progress { files_done, bytes_done, files_total, bytes_total } = progress;
    let mut parts = Vec::new();
    if files_total > 0 {
        parts.push(format!("{}/{} files", count(files_done), count(files_total)));
    } else if files_done > 0 {
        parts.push(format!("{} files", count(files_done)));
    }
    if bytes_total > 0 {
        parts.push(format!("{} of {}", size(bytes_done), size(bytes_total)));
    } else if bytes_done > 0 {
        parts.push(size(bytes_done));
    }
    if let Some(speed @ 1..) = speed {
        parts.push(format!("{}/s", size(speed)));
        let left = bytes_total.saturating_sub(bytes_done) / speed;
        if left > 0 {
            parts.push(format!("{}:{:02} left", left / 60, left % 60));
        }
    }
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: Progress = Progress { files_done: 5, bytes_done: 512, files_total: 10, bytes_total: 1024 };

    #[test]
    fn status_lines_have_restics_fields() {
        let value = status(Work::Backup, HALF, 2, Duration::from_secs(10));
        assert_eq!(value["percent_done"], 0.5);
        assert_eq!(value["seconds_remaining"], 10);
        assert_eq!(value["error_count"], 2);
        let value = status(Work::Restore, HALF, 0, Duration::from_secs(10));
        assert_eq!(value["bytes_restored"], 512);
        assert_eq!(value["total_files"], 10);
    }

    #[test]
    fn progress_in_words_says_what_is_known_and_no_more() {
        assert_eq!(describe(HALF, Some(128)), "5/10 files  512 B of 1.0 KiB  128 B/s  0:04 left");
        let unknown = Progress { files_total: 0, bytes_total: 0, ..HALF };
        assert_eq!(describe(unknown, None), "5 files  512 B");
        assert_eq!(describe(Progress::default(), Some(0)), "");
    }
}
