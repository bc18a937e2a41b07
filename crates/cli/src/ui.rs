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
use crate::text::{count, counted, safe, size};

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
    style: Style,
    work: Work,
    phase: &'static str,
    progress: Progress,
    lines: VecDeque<Line>,
    left_out: u64,
    faults: u64,
    last_retry: Option<Instant>,
    waiting_for: Option<String>,
    begun: Instant,
    /// No bar is wanted any more, and what is left is to be written.
    closed: bool,
    /// Nothing draws or writes any more; who has something to say writes it.
    silent: bool,
}

enum Line {
    Fault(Work, Fault),
    Note(String),
    /// So many lines were too many to keep.
    LeftOut(Work, u64),
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
                style,
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
                silent: false,
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
        self.board.lock().push(Line::Note(text.into()));
        self.board.changed.notify_all();
    }

    /// Takes the bar away and writes what is left. Results and errors come after it; what is said later is written at
    /// once.
    pub fn close(&self) {
        self.board.lock().closed = true;
        self.board.changed.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
        let mut state = self.board.lock();
        state.silent = true;
        // What came after the thread's last look, or all when there was no thread.
        state.take_lines().iter().for_each(|line| say(self.style, line));
    }

    /// Prints a part of a listing to standard output, with a line feed at its end; see [`print()`].
    pub fn print(&self, text: &str) -> Result<()> {
        print(text)
    }

    /// Prints a piece of a line.
    pub fn print_piece(&self, text: &str) -> Result<()> {
        write_out(&mut std::io::stdout().lock(), format_args!("{text}"))
    }

    /// Prints a part of what was done or found to standard output, with a line feed at its end; see [`report`].
    pub fn report(&self, text: &str) -> Result<()> {
        report(text)
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

/// Writes a part of a listing to standard output. A reader that has gone away (`… | head`) has seen enough, and ends
/// the command without a word. Not for a command whose exit code says what came of it: that one uses [`report`].
pub fn print(text: &str) -> Result<()> {
    write_line(&mut std::io::stdout().lock(), text)
}

/// Writes to standard output what was done or found. That nobody reads it changes nothing in what is still to be done,
/// nor in the exit code.
pub fn report(text: &str) -> Result<()> {
    though_closed(print(text))
}

fn write_line(out: &mut impl Write, text: &str) -> Result<()> {
    write_out(out, format_args!("{text}\n"))
}

fn write_out(out: &mut impl Write, text: std::fmt::Arguments<'_>) -> Result<()> {
    out.write_fmt(text).and_then(|()| out.flush()).map_err(|e| Failure {
        cause: format!("write the result to standard output: {e}"),
        advice: None,
        kind: if e.kind() == IoErrorKind::BrokenPipe { OUTPUT_CLOSED } else { "Output" },
        code: if e.kind() == IoErrorKind::BrokenPipe { exit::OK } else { exit::FATAL },
    })
}

fn though_closed(written: Result<()>) -> Result<()> {
    match written {
        Err(Failure { kind: OUTPUT_CLOSED, .. }) => Ok(()),
        other => other,
    }
}

/// Kind of the failure that is told to nobody: the result is not read any more. Its code is that of the command.
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
        // What JSON leaves out must not take the place of what it tells.
        if self.style == Style::Json && matches!(line, Line::Note(_)) {
            return;
        }
        if self.silent {
            say(self.style, &line);
        } else if self.lines.len() < QUEUE {
            self.lines.push_back(line);
        } else {
            self.left_out = self.left_out.saturating_add(1);
        }
    }

    /// What waits to be written, the number of those that were too many at its end.
    fn take_lines(&mut self) -> Vec<Line> {
        let mut lines: Vec<Line> = self.lines.drain(..).collect();
        match std::mem::take(&mut self.left_out) {
            0 => {}
            more => lines.push(Line::LeftOut(self.work, more)),
        }
        lines
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
            let lines = state.take_lines();
            let (work, phase, progress) = (state.work, state.phase, state.progress);
            let (faults, begun) = (state.faults, state.begun);
            drop(state);

            let write = || lines.iter().for_each(|line| say(style, line));
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
    if let Some(text) = worded(style, line) {
        // When even standard error is gone there is nobody left to tell.
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }
}

/// A line as it is written; nothing when it is for people and programs listen.
fn worded(style: Style, line: &Line) -> Option<String> {
    let error = |work: Work, message: &str, during: &str, item: &str| match work {
        Work::Check if item.is_empty() => json!({"message_type": "error", "message": message}).to_string(),
        Work::Check => json!({"message_type": "error", "message": format!("{item}: {message}")}).to_string(),
        Work::Other | Work::Backup | Work::Restore => json!({
            "message_type": "error",
            "error": {"message": message},
            "during": during,
            "item": item,
        })
        .to_string(),
    };
    Some(match (style, line) {
        (Style::Json, Line::Note(_)) => return None,
        (Style::Json, Line::Fault(work, fault)) => {
            error(*work, &fault.error, fault.action, &fault.path.to_string_lossy())
        }
        (Style::Json, Line::LeftOut(work, more)) => error(
            *work,
            &format!("{} were left out here", counted(*more, "more error", "more errors")),
            "report",
            "",
        ),
        (_, Line::Fault(Work::Check, Fault { path, error, .. })) => {
            format!("damaged: {}: {}", safe(&path.to_string_lossy()), safe(error))
        }
        (_, Line::Fault(_, fault)) => {
            let path = fault.path.to_string_lossy();
            format!("warning: {} {}: {}", fault.action, safe(&path), safe(&fault.error))
        }
        (_, Line::Note(text)) => safe(text),
        (_, Line::LeftOut(_, more)) => format!("{more} more lines were left out here"),
    })
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

    /// An output whose reader has gone away.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(IoErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_gone_away_ends_a_listing_and_changes_no_verdict() {
        let listed = write_line(&mut Closed, "a").unwrap_err();
        assert_eq!((listed.kind, listed.code), (OUTPUT_CLOSED, exit::OK));
        assert!(though_closed(write_line(&mut Closed, "a")).is_ok());
        let full = Failure { kind: "Output", code: exit::FATAL, ..listed };
        assert_eq!(
            though_closed(Err(full)).unwrap_err().code,
            exit::FATAL,
            "a full disk is not a reader gone"
        );
    }

    #[test]
    fn nothing_waits_for_a_thread_that_has_gone() {
        let ui = Ui::new(false, true);
        ui.say("before");
        ui.close();
        ui.say("after");
        let state = ui.board.lock();
        assert!(state.silent && state.lines.is_empty(), "what is said now is written now");
    }

    #[test]
    fn what_is_too_much_is_counted_in_json_too() {
        let ui = Ui::new(true, true);
        ui.close();
        let mut state = ui.board.lock();
        state.silent = false;
        state.work = Work::Restore;
        state.push(Line::Note("for people".to_owned()));
        assert!(state.lines.is_empty());
        for _ in 0..QUEUE + 7 {
            let fault = Fault { path: "/a".into(), action: "open", error: "no".to_owned() };
            state.push(Line::Fault(Work::Restore, fault));
        }
        let lines = state.take_lines();
        assert_eq!(lines.len(), QUEUE + 1);
        let last: serde_json::Value =
            serde_json::from_str(&worded(Style::Json, lines.last().unwrap()).unwrap()).unwrap();
        assert_eq!(last["message_type"], "error");
        assert!(last["error"]["message"].as_str().unwrap().starts_with("7 more errors"), "{last}");
        let last = worded(Style::Plain, lines.last().unwrap()).unwrap();
        assert!(last.starts_with("7 more lines"), "{last}");
    }

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
