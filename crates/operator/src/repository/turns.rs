//! How many repositories are opened or listed at a time. After a night without an operator, or when a hundred namespaces
//! are made at once, all of them are due in the same moment, each with a pod of its own, and none of them is a Backup or
//! a Restore, for which the queue looks.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

/// Pods that open or list repositories at a time, in the whole cluster.
const MOST: usize = 10;
/// After so long a turn counts no more, whatever became of it: a pod that no node takes must not keep all others waiting.
const LONGEST: SignedDuration = SignedDuration::from_mins(2);

/// Whose turn it is, by the uid of the Repository, and since when. Empty after a restart, and then filled by the Jobs that are
/// there.
#[derive(Default)]
pub struct Turns(Mutex<HashMap<String, Timestamp>>);

impl Turns {
    /// Whether a repository may have a Job now. It keeps its turn until it gives it back.
    pub(super) fn take(&self, uid: &str, now: Timestamp) -> bool {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let others = turns.iter().filter(|(who, since)| *who != uid && now.duration_since(**since) < LONGEST);
        if others.count() >= MOST {
            return false;
        }
        turns.insert(uid.to_owned(), now);
        true
    }

    /// One that has a Job, whoever let it.
    pub(super) fn has(&self, uid: &str, now: Timestamp) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(uid.to_owned()).or_insert(now);
    }

    /// It is the turn of another one.
    pub(super) fn give_back(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_some_have_their_turn_and_each_of_them_once() {
        let at = |seconds: i64| Timestamp::from_second(1_790_000_000 + seconds).unwrap();
        let turns = Turns::default();
        for number in 0..MOST {
            assert!(turns.take(&format!("r{number}"), at(0)));
        }
        assert!(turns.take("r3", at(1)), "it has its turn already");
        turns.has("r3", at(1));
        assert!(!turns.take("late", at(1)));
        turns.give_back("r3");
        assert!(turns.take("late", at(2)) && !turns.take("r3", at(2)));
        // Jobs of before a restart count, and do not end because of it.
        turns.has("old", at(2));
        turns.give_back("r4");
        assert!(!turns.take("r3", at(3)));
        // Nobody gave them back; one that still waits for a node does not begin anew.
        turns.has("r5", at(200));
        for number in 0..MOST {
            assert!(turns.take(&format!("next{number}"), at(200)), "{number}");
        }
    }
}
