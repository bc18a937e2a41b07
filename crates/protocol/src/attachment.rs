//! Results too long for a verdict: rows on standard output, guarded by a count and a digest in the verdict.
//!
//! The digest is FNV-1a (64 bit): it guards against rotated and cut logs, not against a forger, who would have to
//! be the runner itself.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::event::Event;

/// What the verdict says about the attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seal {
    /// Number of rows.
    pub parts: u32,
    /// Digest over all rows in order, 16 hex digits.
    pub digest: String,
}

/// Why an attachment could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachmentError {
    /// The log does not hold what the verdict announces.
    #[error(
        "the log holds {found} of {expected} rows of the result or other rows than were sent; it was probably rotated"
    )]
    Cut {
        /// Rows found.
        found: u32,
        /// Rows announced.
        expected: u32,
    },
    /// A row is not what was expected.
    #[error("row {row} of the result cannot be read: {reason}")]
    Row {
        /// Number of the row.
        row: usize,
        /// What the parser said.
        reason: String,
    },
}

/// Collects rows on the sending side.
#[derive(Debug)]
pub struct Writer {
    parts: u32,
    state: u64,
}

impl Default for Writer {
    fn default() -> Self {
        Self { parts: 0, state: FNV_OFFSET }
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

fn fold(mut state: u64, row: &str) -> u64 {
    for byte in row.bytes().chain([b'\n']) {
        state = (state ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
    }
    state
}

impl Writer {
    /// The event that carries one more row.
    pub fn row<T: Serialize>(&mut self, value: &T) -> Result<Event, serde_json::Error> {
        let row = serde_json::to_string(value)?;
        let part = self.parts;
        self.state = fold(self.state, &row);
        self.parts = self.parts.saturating_add(1);
        Ok(Event::Attachment { part, row })
    }

    /// What the verdict has to say about the rows sent.
    pub fn seal(&self) -> Seal {
        Seal { parts: self.parts, digest: format!("{:016x}", self.state) }
    }
}

/// Reads all rows out of a log and checks them against the verdict's seal.
pub fn read<T: DeserializeOwned>(log: &str, seal: &Seal) -> Result<Vec<T>, AttachmentError> {
    // Each row is parsed at once: kept as text they would take as much memory again as the log.
    let mut rows = Vec::new();
    let mut broken = None;
    let mut state = FNV_OFFSET;
    let mut next = 0_u32;
    for line in log.lines() {
        let Some(Event::Attachment { part, row }) = Event::from_line(line) else { continue };
        // A retried container starts at part 0 again: what came before is another attempt's.
        if part == 0 {
            rows.clear();
            broken = None;
            state = FNV_OFFSET;
            next = 0;
        }
        if part != next {
            continue;
        }
        next = next.saturating_add(1);
        state = fold(state, &row);
        match serde_json::from_str(&row) {
            Ok(value) => rows.push(value),
            Err(e) => {
                broken.get_or_insert(AttachmentError::Row { row: part as usize, reason: e.to_string() });
            }
        }
    }
    if next != seal.parts || format!("{state:016x}") != seal.digest {
        return Err(AttachmentError::Cut { found: next, expected: seal.parts });
    }
    broken.map_or(Ok(rows), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(rows: &[&str]) -> (String, Seal) {
        let mut writer = Writer::default();
        let lines: Vec<_> = rows.iter().map(|r| writer.row(r).unwrap().to_line()).collect();
        (lines.join("\n"), writer.seal())
    }

    #[test]
    fn whole_log_gives_all_rows() {
        let (log, seal) = sent(&["a", "b", "c"]);
        assert_eq!(read::<String>(&format!("noise\n{log}\n"), &seal).unwrap(), ["a", "b", "c"]);
    }

    #[test]
    fn a_log_that_lost_its_beginning_is_refused() {
        let (log, seal) = sent(&["a", "b", "c"]);
        let rest: String = log.lines().skip(1).collect::<Vec<_>>().join("\n");
        assert!(matches!(read::<String>(&rest, &seal), Err(AttachmentError::Cut { expected: 3, .. })));
    }

    #[test]
    fn a_log_of_other_rows_is_refused() {
        let (_, seal) = sent(&["a", "b"]);
        let (other, _) = sent(&["a", "x"]);
        assert!(read::<String>(&other, &seal).is_err());
    }

    #[test]
    fn an_earlier_attempt_in_the_same_log_is_passed_over() {
        let (first, _) = sent(&["old"]);
        let (second, seal) = sent(&["a", "b"]);
        assert_eq!(read::<String>(&format!("{first}\n{second}"), &seal).unwrap(), ["a", "b"]);
    }

    #[test]
    fn a_row_that_is_something_else_is_named_unless_rows_are_missing() {
        let (log, seal) = sent(&["1", "b", "c"]);
        assert!(matches!(read::<u32>(&log, &seal), Err(AttachmentError::Row { row: 0, .. })));
        let first: String = log.lines().take(2).collect::<Vec<_>>().join("\n");
        assert!(matches!(read::<u32>(&first, &seal), Err(AttachmentError::Cut { found: 2, expected: 3 })));
    }

    #[test]
    fn no_rows_is_a_result_too() {
        let (log, seal) = sent(&[]);
        assert!(read::<String>(&log, &seal).unwrap().is_empty());
    }
}
