//! The quiesce record: who holds a workload at 0 replicas, and how many it had. The arithmetic only; reading and
//! writing the workload, under its resourceVersion, is the operator's.
//!
//! The record stands in the annotation [`ANNOTATION_QUIESCE`](crate::names::ANNOTATION_QUIESCE) and is written in
//! the same update that changes the replicas. So it is there whenever they were changed, and a second run finds
//! it instead of recording the first one's zero.

use serde::{Deserialize, Serialize};

/// How many replicas a workload had, and which runs hold it at 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QuiesceRecord {
    /// Replicas before the first run scaled the workload down.
    pub replicas: i32,
    /// Uids of the runs that need it at 0.
    pub holders: Vec<String>,
}

/// What to do to a workload when a run lets go of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The record to leave on the workload; none: take the annotation away.
    pub record: Option<QuiesceRecord>,
    /// Replicas to set; none: leave them as they are.
    pub scale_to: Option<i32>,
}

/// An annotation that is not a quiesce record.
#[derive(Debug, thiserror::Error)]
#[error("the annotation {annotation} does not hold a record that Holdfast wrote: set the replicas of the workload \
         by hand and remove the annotation", annotation = crate::names::ANNOTATION_QUIESCE)]
pub struct InvalidRecord {
    #[source]
    source: serde_json::Error,
}

impl QuiesceRecord {
    /// The record to write when a run scales a workload down. `existing` is the record that the workload carries
    /// already; only when there is none do its present replicas count.
    pub fn hold(existing: Option<Self>, replicas: i32, run_uid: &str) -> Self {
        let mut record = existing.unwrap_or(Self { replicas, holders: Vec::new() });
        if !record.is_held_by(run_uid) {
            record.holders.push(run_uid.to_owned());
        }
        record
    }

    /// What to do when a run lets go: the last holder scales back, unless the workload is no longer at 0. Then a
    /// person has decided otherwise, and wins.
    pub fn release(mut self, replicas: i32, run_uid: &str) -> Release {
        self.holders.retain(|holder| holder != run_uid);
        if !self.holders.is_empty() {
            return Release { record: Some(self), scale_to: None };
        }
        let scale_to = (replicas == 0 && self.replicas != 0).then_some(self.replicas);
        Release { record: None, scale_to }
    }

    /// Whether the run is one of the holders.
    pub fn is_held_by(&self, run_uid: &str) -> bool {
        self.holders.iter().any(|holder| holder == run_uid)
    }

    /// Reads the value of the annotation.
    pub fn from_annotation(value: &str) -> Result<Self, InvalidRecord> {
        serde_json::from_str(value).map_err(|source| InvalidRecord { source })
    }

    /// The value of the annotation.
    pub fn to_annotation(&self) -> String {
        serde_json::json!({"replicas": self.replicas, "holders": self.holders}).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_run_keeps_the_first_ones_count() {
        let first = QuiesceRecord::hold(None, 3, "a");
        let both = QuiesceRecord::hold(Some(first), 0, "b");
        assert_eq!(both, QuiesceRecord { replicas: 3, holders: vec!["a".into(), "b".into()] });
        assert_eq!(QuiesceRecord::hold(Some(both.clone()), 0, "b"), both, "holding twice changes nothing");

        let after_a = both.release(0, "a");
        assert_eq!(after_a.scale_to, None, "b still holds it");
        let after_b = after_a.record.unwrap().release(0, "b");
        assert_eq!(after_b, Release { record: None, scale_to: Some(3) });
    }

    #[test]
    fn a_person_who_scaled_meanwhile_wins() {
        let record = QuiesceRecord::hold(None, 3, "a");
        assert_eq!(record.release(5, "a"), Release { record: None, scale_to: None });
    }

    #[test]
    fn what_was_at_zero_stays_at_zero() {
        let record = QuiesceRecord::hold(None, 0, "a");
        assert_eq!(record.release(0, "a"), Release { record: None, scale_to: None });
    }

    #[test]
    fn letting_go_of_what_others_hold_does_nothing() {
        let record = QuiesceRecord::hold(None, 2, "a");
        assert_eq!(record.clone().release(0, "stranger"), Release { record: Some(record), scale_to: None });
    }

    #[test]
    fn the_annotation_is_read_back_and_nonsense_is_refused() {
        let record = QuiesceRecord::hold(None, 2, "a");
        assert_eq!(record.to_annotation(), r#"{"holders":["a"],"replicas":2}"#);
        assert_eq!(QuiesceRecord::from_annotation(&record.to_annotation()).unwrap(), record);
        for nonsense in ["", "3", "{}", r#"{"replicas":"3","holders":[]}"#] {
            assert!(QuiesceRecord::from_annotation(nonsense).is_err(), "{nonsense}");
        }
    }
}
