//! Keeps a run's status far below the size that the API server takes (1.5 MiB with all its bookkeeping), however many
//! components there are and whatever their runners had to say. What was done is always told; of what was said, a share
//! each. Pure.

use holdfast_api::backup::{BackupComponent, FileProblem};
use holdfast_api::restore::RestoreComponent;
use serde::Serialize;

use crate::events::shorten;

/// Most bytes, as JSON, of all that the components of one list say beyond their results: messages, log lines, files. A
/// run with up to some fifty components is never cut.
const SAID: usize = 384 * 1024;

/// What one component may say.
struct Share(usize);

impl Share {
    fn of(components: usize) -> Self {
        Self(SAID / components.max(1))
    }

    /// Takes the size of a value, if there is so much left.
    fn take(&mut self, value: &impl Serialize) -> bool {
        let size = serde_json::to_vec(value).map_or(usize::MAX, |text| text.len().saturating_add(1));
        let left = self.0.checked_sub(size);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }

    /// A text says the most, so it may take half of what is left, and is cut there.
    fn text(&mut self, text: &mut Option<String>) {
        if let Some(said) = text {
            // A character takes up to six bytes of JSON.
            let half = self.0 / 2;
            if serde_json::to_vec(said).map_or(usize::MAX, |json| json.len()) > half {
                *said = shorten(said, half / 6);
            }
            self.take(said);
        }
    }

    /// The first of a list.
    fn first<T: Serialize>(&mut self, list: &mut Vec<T>) {
        let fitting = list.iter().take_while(|item| self.take(item)).count();
        list.truncate(fitting);
    }

    /// The last of a list.
    fn last<T: Serialize>(&mut self, list: &mut Vec<T>) {
        let fitting = list.iter().rev().take_while(|item| self.take(item)).count();
        list.drain(..list.len().saturating_sub(fitting));
    }
}

fn cut(
    share: &mut Share,
    message: &mut Option<String>,
    log: &mut Vec<String>,
    files: [&mut Vec<FileProblem>; 2],
) {
    share.text(message);
    for list in files {
        share.first(list);
    }
    share.last(log);
}

/// Cuts what the components of a Backup, or of a safety snapshot, say.
pub fn saving(components: &mut [BackupComponent]) {
    let number = components.len();
    for one in components {
        let files = [&mut one.unreadable_sample, &mut Vec::new()];
        cut(&mut Share::of(number), &mut one.message, &mut one.log_tail, files);
    }
}

/// Cuts what the components of a Restore say.
pub fn writing(components: &mut [RestoreComponent]) {
    let number = components.len();
    for one in components {
        let files = [&mut one.failures_sample, &mut one.metadata_failures_sample];
        cut(&mut Share::of(number), &mut one.message, &mut one.log_tail, files);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::{MAX_COMPONENTS, MAX_LOG_LINES, MAX_SAMPLES};

    /// A component of which everything was said that can be said.
    fn worst(number: usize, odd: char) -> BackupComponent {
        let problem = FileProblem { path: odd.to_string().repeat(400), error: "x".repeat(100) };
        let claim = format!("{number:0>250}");
        serde_saphyr::from_str::<BackupComponent>(&format!(
            r"
name: volume/{claim}
source: {{claim: {claim}}}
phase: Failed
node: {node}
job: {node}
attempts: 3
runAs: {{uid: 65532, gid: 65532, supplementalGroups: [1000, 1001]}}
snapshotId: {id}
filesNew: 123456789
filesChanged: 123456789
filesUnmodified: 123456789
bytesProcessed: 123456789012
bytesAdded: 123456789012
unreadable: 123456
startTime: '2026-11-20T02:00:00Z'
completionTime: '2026-11-20T02:00:00Z'
reason: UnreadableFiles
",
            node = "n".repeat(63),
            id = "a".repeat(64),
        ))
        .map(|component| BackupComponent {
            message: Some(odd.to_string().repeat(3000)),
            log_tail: (0..MAX_LOG_LINES).map(|n| format!("{n}{}", odd.to_string().repeat(490))).collect(),
            unreadable_sample: vec![problem; MAX_SAMPLES],
            ..component
        })
        .unwrap()
    }

    #[test]
    fn the_status_of_the_largest_run_fits_whatever_was_said() {
        for odd in ['x', '"', '\u{1}', 'ä'] {
            let mut all: Vec<_> = (0..MAX_COMPONENTS).map(|number| worst(number, odd)).collect();
            assert!(serde_json::to_vec(&all).unwrap().len() > 2 << 20, "it would not have fitted");
            saving(&mut all);
            let size = serde_json::to_vec(&all).unwrap().len();
            assert!(size < 1 << 20, "{odd:?}: {size}");
            let first = all.first().unwrap();
            assert_eq!(first.unreadable, Some(123_456), "what was done is told");
            assert!(first.message.as_ref().is_some_and(|said| said.ends_with('…')), "{first:?}");
            let again = all.clone();
            saving(&mut all);
            assert_eq!(all, again, "cut once and for all, or the status would change at each look");
        }
    }

    #[test]
    fn two_hundred_claims_that_fail_as_most_do_are_told_with_the_end_of_their_logs() {
        let message = "the store does not answer: connect to https://s3.example: connection refused; see to it that ...";
        let lines = || (0..MAX_LOG_LINES).map(|n| format!("info: {n} {}", "x".repeat(60))).collect();
        let mut all: Vec<_> = (0..200)
            .map(|number| BackupComponent {
                message: Some(message.to_owned()),
                log_tail: lines(),
                unreadable_sample: Vec::new(),
                ..worst(number, 'x')
            })
            .collect();
        saving(&mut all);
        assert!(all.iter().all(|one| one.message.as_deref() == Some(message) && one.log_tail == lines()));
    }

    #[test]
    fn a_small_run_is_told_in_full() {
        let before: Vec<_> = (0..10).map(|number| worst(number, 'x')).collect();
        let mut all = before.clone();
        saving(&mut all);
        assert_eq!(all, before);
    }

    #[test]
    fn of_a_log_the_end_is_kept_and_of_a_list_the_beginning() {
        let mut share = Share(40);
        let mut log: Vec<String> = (0..9).map(|n| format!("line {n}")).collect();
        share.last(&mut log);
        assert_eq!(log, ["line 5", "line 6", "line 7", "line 8"]);
        let mut files = vec!["aaaaaaa".to_owned(), "b".to_owned()];
        Share(10).first(&mut files);
        assert_eq!(files, ["aaaaaaa"]);
    }
}
