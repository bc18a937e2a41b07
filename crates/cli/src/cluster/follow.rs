//! Follows a run to its end: bars on a terminal, plain lines otherwise. Watches; changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, pin_mut};
use holdfast_api::backup::{ComponentPhase, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use kube::ResourceExt;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watch_object};

use super::connect::Cluster;
use super::fault::{self, Fault};
use super::interrupt::Interrupt;
use super::run_view::{ComponentView, Run, RunView, progress_words};
use crate::exit;
use crate::failure::{Failure, Result};
use crate::text::{duration, safe};

/// Between two plain lines about the same component's progress.
const PLAIN: Duration = Duration::from_secs(15);
/// A run that the operator has not looked at for so long is remarked upon.
const UNSEEN: Duration = Duration::from_secs(20);
/// How long the API server may be away before following is given up.
const PATIENCE: Duration = Duration::from_mins(2);
/// Most bars at a time.
const BARS: usize = 12;
/// Between two turns of the spinner.
const TICK: Duration = Duration::from_millis(120);

/// How following ended.
pub(super) enum End<K> {
    /// The run has ended; its last state.
    Ended(Box<K>),
    /// Ctrl-C: the run goes on.
    LeftAlone,
}

/// Watches a run until it ends.
pub(super) async fn follow<K: Run>(
    cluster: &Cluster,
    object: &K,
    interrupt: &mut Interrupt,
) -> Result<End<K>> {
    let (name, uid) = (object.name_any(), object.uid());
    let mut screen = Screen::new();
    let mut narrator = Narrator::default();
    let events = watch_object(cluster.api::<K>(), &name).default_backoff();
    pin_mut!(events);
    let begun = Instant::now();
    let mut seen = false;
    let mut away: Option<Instant> = None;
    let unseen = tokio::time::sleep(UNSEEN);
    pin_mut!(unseen);
    let mut remarked = false;
    let result = loop {
        let event = tokio::select! {
            () = interrupt.next() => break Ok(End::LeftAlone),
            () = &mut unseen, if !remarked => {
                remarked = true;
                if !seen {
                    screen.say("the operator has not looked at it yet; `holdfast doctor` tells whether it runs");
                }
                continue;
            }
            event = events.next() => event,
        };
        match event {
            Some(Ok(Some(now))) if now.uid() == uid => {
                if away.take().is_some() {
                    screen.say("the API server answers again");
                }
                let view = now.view();
                seen |= !view.phase.is_empty();
                for line in narrator.lines(&view, begun.elapsed(), screen.is_plain()) {
                    screen.say(&line);
                }
                screen.draw(&view);
                if view.ended {
                    break Ok(End::Ended(Box::new(now)));
                }
            }
            Some(Ok(_)) | None => break Err(deleted(&object.view())),
            Some(Err(e)) => {
                let since = *away.get_or_insert_with(|| {
                    screen.say(&format!("the API server is away: {}; trying again", short(&e)));
                    Instant::now()
                });
                if is_hopeless(&e) || since.elapsed() > PATIENCE {
                    break Err(lost(&object.view(), &e));
                }
            }
        }
    };
    screen.clear();
    result
}

fn short(error: &watcher::Error) -> String {
    let text = error.to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect()
}

/// Whether trying again cannot help.
fn is_hopeless(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(e) | watcher::Error::WatchStartFailed(e) => {
            matches!(fault::sort(e), Fault::Forbidden | Fault::NotServed | Fault::Incomprehensible)
        }
        _ => false,
    }
}

fn deleted(run: &RunView) -> Failure {
    Failure {
        cause: format!("{} was deleted while it was followed", run.title()),
        advice: Some("what it changed is put back; run the command again if that was not meant".to_owned()),
        kind: "Deleted",
        code: exit::FATAL,
    }
}

fn lost(run: &RunView, error: &watcher::Error) -> Failure {
    Failure {
        cause: format!("{} cannot be followed any longer: {}", run.title(), short(error)),
        advice: Some(format!("it goes on without us; {}", look_later(run))),
        kind: "Unreachable",
        code: exit::FATAL,
    }
}

/// How to see what becomes of a run.
pub(super) fn look_later(run: &RunView) -> String {
    let kind = run.kind.to_lowercase();
    format!("`kubectl -n {} get {kind} {}` tells what becomes of it", run.namespace, run.name)
}

/// Says that a run goes on although nobody follows it.
pub(super) fn say_goes_on(run: &RunView) {
    tell(&format!("no longer following: {} goes on. {}", run.title(), look_later(run)));
    tell(&format!(
        "to end it: `kubectl -n {} delete {} {}`",
        run.namespace,
        run.kind.to_lowercase(),
        run.name
    ));
}

/// One line of talk.
pub(super) fn tell(line: &str) {
    // When even standard error is gone there is nobody left to tell.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Decides what is worth a line. Pure.
#[derive(Debug, Default)]
struct Narrator {
    head: String,
    warned: BTreeSet<String>,
    seen: BTreeMap<String, Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    ended: bool,
    attempts: u32,
    waits: Option<String>,
    told: Option<Duration>,
}

impl Narrator {
    /// The lines that are due, at a time since the beginning. With `plain`, also about progress.
    fn lines(&mut self, run: &RunView, at: Duration, plain: bool) -> Vec<String> {
        let mut lines = Vec::new();
        let head = headline(run);
        if plain && !run.ended && head != self.head {
            lines.push(head.clone());
        }
        self.head = head;
        for warning in &run.warnings {
            if self.warned.insert(warning.clone()) {
                lines.push(format!("! {warning}"));
            }
        }
        for component in &run.components {
            let seen = self.seen.entry(component.name.clone()).or_default();
            if component.phase.is_terminal() {
                if !std::mem::replace(&mut seen.ended, true) {
                    lines.push(ended_line(component));
                }
                continue;
            }
            if component.attempts > seen.attempts {
                if component.attempts > 1 {
                    lines.push(format!("~ {}: trying again, attempt {}", component.name, component.attempts));
                }
                seen.attempts = component.attempts;
            }
            if component.message.is_some() && component.message != seen.waits {
                lines.push(format!("· {}: {}", component.name, because(component)));
                seen.waits.clone_from(&component.message);
            }
            let due = seen.told.is_none_or(|told| at.saturating_sub(told) >= PLAIN);
            if let (true, true, Some(progress)) = (plain, due, &component.progress) {
                lines.push(format!("· {}: {}", component.name, with_percent(progress)));
                seen.told = Some(at);
            }
        }
        lines.iter().map(|line| safe(line)).collect()
    }
}

pub(super) fn with_percent(progress: &Progress) -> String {
    match progress.percent {
        Some(percent) => format!("{percent} %  {}", progress_words(progress)),
        None => progress_words(progress),
    }
}

/// What the run does, in a line.
fn headline(run: &RunView) -> String {
    let phase = if run.phase.is_empty() { "waiting for the operator" } else { run.phase };
    match &run.message {
        Some(message) if !message.is_empty() => format!("{}: {phase}: {message}", run.title()),
        _ => format!("{}: {phase}", run.title()),
    }
}

/// Why a component is as it is.
fn because(component: &ComponentView) -> String {
    match (&component.reason, &component.message) {
        (Some(reason), Some(message)) => format!("{reason}: {message}"),
        (Some(text), None) | (None, Some(text)) => text.clone(),
        (None, None) => component.phase.to_string(),
    }
}

/// A component that has ended, in a line.
pub(super) fn ended_line(component: &ComponentView) -> String {
    let took = component.took.map(|d| format!(" ({})", duration(d))).unwrap_or_default();
    match component.phase {
        ComponentPhase::Succeeded => format!("✓ {}  {}{took}", component.name, component.result),
        ComponentPhase::PartiallyFailed => {
            format!("! {}  {}{took}: {}", component.name, component.result, because(component))
        }
        _ => format!("✗ {}  {}{took}", component.name, because(component)),
    }
}

/// Where the lines go.
enum Screen {
    Plain,
    Terminal(Box<Bars>),
}

struct Bars {
    all: MultiProgress,
    head: ProgressBar,
    components: BTreeMap<String, ProgressBar>,
}

impl Screen {
    fn new() -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if dumb || !std::io::stderr().is_terminal() {
            return Self::Plain;
        }
        let screen = Self::drawn_on(ProgressDrawTarget::stderr());
        if let Self::Terminal(bars) = &screen {
            bars.head.enable_steady_tick(TICK);
        }
        screen
    }

    fn drawn_on(terminal: ProgressDrawTarget) -> Self {
        let all = MultiProgress::with_draw_target(terminal);
        let head = all.add(ProgressBar::new_spinner());
        // The templates are constants; with a wrong one the bar would keep its plain look.
        if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {wide_msg}  {elapsed}") {
            head.set_style(style);
        }
        Self::Terminal(Box::new(Bars { all, head, components: BTreeMap::new() }))
    }

    fn is_plain(&self) -> bool {
        matches!(self, Self::Plain)
    }

    fn say(&self, line: &str) {
        match self {
            Self::Plain => tell(line),
            Self::Terminal(bars) => bars.all.suspend(|| tell(line)),
        }
    }

    fn draw(&mut self, run: &RunView) {
        let Self::Terminal(screen) = self else { return };
        let waiting = run.components.iter().filter(|c| c.phase == ComponentPhase::Pending).count();
        let mut head = safe(&headline(run));
        if waiting > 0 && run.components.len() > 1 {
            let _ = write!(head, "  ({waiting} of {} waiting)", run.components.len());
        }
        screen.head.set_message(head);
        let running: Vec<&ComponentView> =
            run.components.iter().filter(|c| c.phase == ComponentPhase::Running).take(BARS).collect();
        screen.components.retain(|name, bar| {
            let stays = running.iter().any(|c| c.name == *name);
            if !stays {
                bar.finish_and_clear();
                screen.all.remove(bar);
            }
            stays
        });
        let width = running.iter().map(|c| c.name.chars().count()).max().unwrap_or(0).min(32);
        for component in running {
            let bar = screen
                .components
                .entry(component.name.clone())
                .or_insert_with(|| screen.all.add(ProgressBar::new(100)));
            draw_bar(bar, component, width);
        }
    }

    fn clear(&mut self) {
        if let Self::Terminal(screen) = self {
            for bar in screen.components.values() {
                bar.finish_and_clear();
            }
            screen.head.finish_and_clear();
        }
    }
}

fn draw_bar(bar: &ProgressBar, component: &ComponentView, width: usize) {
    let progress = component.progress.clone().unwrap_or_default();
    let template = if progress.percent.is_some() {
        "  {prefix} {bar:24.cyan/dim} {pos:>3} %  {wide_msg}"
    } else {
        "  {prefix} {wide_msg}"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar.set_prefix(format!("{:<width$}", safe(&component.name)));
    bar.set_position(u64::from(progress.percent.unwrap_or(0)));
    let node = component.node.as_ref().map(|node| format!("on {node}")).unwrap_or_default();
    let words = match (&component.progress, &component.message) {
        (Some(progress), _) => progress_words(progress),
        (None, Some(message)) => message.clone(),
        (None, None) => node,
    };
    bar.set_message(safe(&words));
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use holdfast_api::Backup;
    use indicatif::TermLike;

    use super::*;

    /// A terminal of 80 columns: the lines that stand on it.
    #[derive(Debug, Clone, Default)]
    struct Paper(Arc<Mutex<(Vec<String>, usize)>>);

    impl Paper {
        fn lines(&self) -> Vec<String> {
            let lines = &self.0.lock().unwrap().0;
            lines.iter().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect()
        }

        fn write(&self, text: &str, ends: bool) {
            let (lines, at) = &mut *self.0.lock().unwrap();
            lines.resize(lines.len().max(*at + 1), String::new());
            // Lines are filled up to the width, and the terminal goes on in the next one.
            for c in plain(text).chars() {
                if lines[*at].chars().count() == 80 {
                    *at += 1;
                    lines.resize(lines.len().max(*at + 1), String::new());
                }
                lines[*at].push(c);
            }
            *at += usize::from(ends);
        }
    }

    /// Without colours.
    fn plain(line: &str) -> String {
        let mut parts = line.split('\u{1b}');
        let first = parts.next().unwrap().to_owned();
        let rest = parts.map(|part| part.split_once('m').unwrap().1);
        rest.fold(first, |line, part| line + part)
    }

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            80
        }
        fn move_cursor_up(&self, lines: usize) -> io::Result<()> {
            self.0.lock().unwrap().1 -= lines;
            Ok(())
        }
        fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
            self.0.lock().unwrap().1 += lines;
            Ok(())
        }
        fn move_cursor_right(&self, _columns: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _columns: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write(text, true);
            Ok(())
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.write(text, false);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            let (lines, at) = &mut *self.0.lock().unwrap();
            if let Some(line) = lines.get_mut(*at) {
                line.clear();
            }
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_drawn_are_the_volumes_at_work_each_in_a_line_of_its_own() {
        let paper = Paper::default();
        let mut screen = Screen::drawn_on(ProgressDrawTarget::term_like(Box::new(paper.clone())));
        assert!(!screen.is_plain());
        // Of the head the spinner and the time are not foreseen.
        let mut drawn = |status: &str| {
            screen.draw(&view(status));
            let lines = paper.lines();
            assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:?}");
            (lines[0].clone(), lines[1..].to_vec())
        };

        let half = "progress: {bytesDone: 1024, bytesTotal: 2048, percent: 50, filesDone: 2}";
        let (head, bars) = drawn(&format!(
            "{{phase: Running, components: [
                {{name: volume/data, phase: Running, {half}}},
                {{name: volume/db, phase: Running, progress: {{bytesDone: 3072}}}},
                {{name: volume/new, phase: Running, node: n1}},
                {{name: volume/later, phase: Pending}}, {{name: volume/done, phase: Succeeded}}]}}"
        ));
        assert!(head.contains("Backup shop/b") && head.contains("(1 of 5 waiting)"), "{head}");
        assert_eq!(bars.len(), 3, "{bars:?}");
        assert_eq!(bars[0].split_whitespace().next(), Some("volume/data"));
        assert!(
            bars[0].contains("━╸─") && bars[0].ends_with(" 50 %  1.0 KiB of 2.0 KiB  2 files"),
            "{bars:?}"
        );
        assert_eq!(bars[1..], ["  volume/db   3.0 KiB", "  volume/new  on n1"]);

        // What has ended has no bar any more, and what a cluster says cannot steer the terminal.
        let (_, bars) = drawn(
            r#"{phase: Running, components: [{name: volume/data, phase: Succeeded},
                {name: "volume/\e[2Jdb", phase: Running, message: "\e]0;title\a"}]}"#,
        );
        assert_eq!(bars.len(), 1, "{bars:?}");
        assert!(bars[0].contains("db") && !bars[0].contains(['\u{1b}', '\u{7}']), "{bars:?}");

        screen.clear();
        assert_eq!(paper.lines(), Vec::<String>::new());
    }

    fn view(status: &str) -> RunView {
        let yaml = format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Backup\nmetadata: {{name: b, namespace: shop}}\nspec: {{}}\nstatus: {status}"
        );
        serde_saphyr::from_str::<Backup>(&yaml).unwrap().view()
    }

    #[test]
    fn a_run_is_told_once_and_progress_now_and_then() {
        let mut narrator = Narrator::default();
        let mut at = |seconds: u64, status: &str| {
            narrator.lines(&view(status), Duration::from_secs(seconds), true).join("\n")
        };
        assert_eq!(at(0, "{}"), "Backup shop/b: waiting for the operator");
        let running = |done: u64| {
            format!(
                "{{phase: Running, components: [{{name: volume/data, phase: Running, attempts: 1, progress: {{bytesDone: {done}, bytesTotal: 2048, percent: 50, filesDone: 2}}}}]}}"
            )
        };
        assert_eq!(
            at(1, &running(1024)),
            "Backup shop/b: Running\n· volume/data: 50 %  1.0 KiB of 2.0 KiB  2 files"
        );
        assert_eq!(at(2, &running(1025)), "", "one line in 15 seconds");
        assert_eq!(at(17, &running(1024)), "· volume/data: 50 %  1.0 KiB of 2.0 KiB  2 files");
        let ended = "{phase: Succeeded, components: [{name: volume/data, phase: Succeeded, filesNew: 1, filesChanged: 2, filesUnmodified: 3, bytesProcessed: 2048, bytesAdded: 100, startTime: 2026-11-20T02:00:00Z, completionTime: 2026-11-20T02:00:12Z}]}";
        assert_eq!(at(18, ended), "✓ volume/data  6 files, 2.0 KiB, 1 new, 2 changed, 100 B added (12 s)");
        assert_eq!(at(19, ended), "");
        let torn = "{phase: Succeeded, components: [{name: volume/db, phase: Succeeded, filesUnmodified: 3, changedWhileReading: 2, message: 2 files changed}]}";
        assert_eq!(at(20, torn), "✓ volume/db  3 files, 0 new, 0 changed, 2 files changed while read");
    }

    #[test]
    fn what_a_run_waits_for_and_what_fails_is_told_with_the_reason() {
        let mut narrator = Narrator::default();
        let mut of = |status: &str| narrator.lines(&view(status), Duration::ZERO, false).join("\n");
        assert_eq!(
            of(
                "{phase: Running, components: [{name: volume/a, phase: Pending, reason: Unschedulable, message: no node}, {name: volume/b, phase: Running, attempts: 2}]}"
            ),
            "· volume/a: Unschedulable: no node\n~ volume/b: trying again, attempt 2"
        );
        assert_eq!(
            of(
                "{phase: PartiallyFailed, components: [{name: volume/a, phase: Failed, reason: MountFailed, message: 'it is away'}, {name: volume/b, phase: PartiallyFailed, filesUnmodified: 1, unreadable: 1, reason: UnreadableFiles, message: one}]}"
            ),
            "✗ volume/a  MountFailed: it is away\n! volume/b  1 file, 0 new, 0 changed, 1 file NOT readable: UnreadableFiles: one"
        );
    }

    #[test]
    fn a_warning_is_told_once_as_soon_as_it_is_known() {
        let mut narrator = Narrator::default();
        let mut of = |warnings: &str| {
            let status = format!("{{phase: Running, coverage: {{protected: 1, warnings: {warnings}}}}}");
            narrator.lines(&view(&status), Duration::ZERO, false).join("\n")
        };
        assert_eq!(of("[]"), "");
        assert_eq!(of("[Backup other saves data as well]"), "! Backup other saves data as well");
        assert_eq!(of("[a wish is not done, Backup other saves data as well]"), "! a wish is not done");
    }

    #[test]
    fn texts_from_a_cluster_cannot_steer_the_terminal() {
        let mut narrator = Narrator::default();
        let lines = narrator.lines(&view(r#"{phase: Pending, message: "\e[31mred"}"#), Duration::ZERO, true);
        assert!(lines.iter().all(|line| !line.contains('\u{1b}')), "{lines:?}");
    }
}
