//! The runner's lines in words. Pure.

use holdfast_protocol::Event;

use crate::text::{counted, safe, size};

/// Progress is told when so many hundredths more are done.
const STEP: u64 = 10;

/// One runner's lines, as they come.
#[derive(Debug)]
pub(super) struct Voice {
    label: Option<String>,
    raw: bool,
    phase: String,
    /// Tens of hundredths that were told last.
    told: u64,
    /// Progress that was not worth a line when it came.
    held: Option<String>,
}

impl Voice {
    /// With a label before each line, when there are several voices.
    pub(super) fn new(label: Option<String>, raw: bool) -> Self {
        Self { label, raw, phase: String::new(), told: 0, held: None }
    }

    /// What to print for a line; none when it says nothing new.
    pub(super) fn say(&mut self, line: &str) -> Option<String> {
        if self.raw {
            return Some(self.labelled(line));
        }
        let text = match Event::from_line(line) {
            // A line of a library, or of a newer runner.
            None => line.to_owned(),
            Some(Event::Progress { phase, files_done, bytes_done, files_total, bytes_total }) => {
                return self.progress(phase, (files_done, files_total), (bytes_done, bytes_total));
            }
            Some(Event::Log { level, message }) if level == "info" => message,
            Some(Event::Log { level, message }) => format!("{level}: {message}"),
            Some(Event::Fault { path, action, error }) => format!("error: {action} {path}: {error}"),
            Some(Event::Checkpoint(_)) => "what is done so far is saved (checkpoint)".to_owned(),
            // Reports for the operator, which shows what they say elsewhere.
            Some(_) => return None,
        };
        Some(self.labelled(&text))
    }

    /// The last progress, when it was not told.
    pub(super) fn rest(&mut self) -> Option<String> {
        let held = self.held.take()?;
        Some(self.labelled(&held))
    }

    fn progress(&mut self, phase: String, files: (u64, u64), bytes: (u64, u64)) -> Option<String> {
        let of = |done: String, total: Option<String>| match total {
            Some(total) => format!("{done} of {total}"),
            None => done,
        };
        let text = format!(
            "{phase}: {}, {}",
            of(size(bytes.0), (bytes.1 > 0).then(|| size(bytes.1))),
            counted(files.0, "file", "files"),
        );
        let tens = (u128::from(bytes.0) * 100).checked_div(u128::from(bytes.1)).unwrap_or(0);
        let tens = u64::try_from(tens).unwrap_or(u64::MAX) / STEP;
        if phase == self.phase && tens <= self.told {
            self.held = Some(text);
            return None;
        }
        self.phase = phase;
        self.told = tens;
        self.held = None;
        Some(self.labelled(&text))
    }

    fn labelled(&self, text: &str) -> String {
        match &self.label {
            Some(label) => format!("[{}] {}", safe(label), safe(text)),
            None => safe(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(phase: &str, bytes: u64) -> String {
        Event::Progress {
            phase: phase.to_owned(),
            files_done: 1,
            bytes_done: bytes,
            files_total: 0,
            bytes_total: 1000,
        }
        .to_line()
    }

    #[test]
    fn events_become_words_and_other_lines_stay() {
        let mut voice = Voice::new(Some("volume/data".to_owned()), false);
        let log = Event::Log { level: "info".into(), message: "opened".into() }.to_line();
        let warn = Event::Log { level: "warn".into(), message: "slow".into() }.to_line();
        let fault =
            Event::Fault { path: "/a".into(), action: "read".into(), error: "denied".into() }.to_line();
        assert_eq!(voice.say(&log).unwrap(), "[volume/data] opened");
        assert_eq!(voice.say(&warn).unwrap(), "[volume/data] warn: slow");
        assert_eq!(voice.say(&fault).unwrap(), "[volume/data] error: read /a: denied");
        assert_eq!(
            voice.say("thread \u{1b}[1m panicked").unwrap(),
            "[volume/data] thread \\u{1b}[1m panicked"
        );
        assert_eq!(voice.say(&Event::Attachment { part: 0, row: "{}".into() }.to_line()), None);
        let mut raw = Voice::new(None, true);
        assert_eq!(raw.say(&log).unwrap(), log);
    }

    #[test]
    fn progress_is_told_in_steps_and_at_the_end() {
        let mut voice = Voice::new(None, false);
        assert_eq!(voice.say(&progress("scan", 0)).unwrap(), "scan: 0 B of 1000 B, 1 file");
        assert_eq!(voice.say(&progress("read", 0)).unwrap(), "read: 0 B of 1000 B, 1 file");
        assert_eq!(voice.say(&progress("read", 50)), None);
        assert_eq!(voice.say(&progress("read", 100)).unwrap(), "read: 100 B of 1000 B, 1 file");
        assert_eq!(voice.say(&progress("read", 190)), None);
        assert_eq!(voice.rest().unwrap(), "read: 190 B of 1000 B, 1 file");
        assert_eq!(voice.rest(), None);
    }
}
