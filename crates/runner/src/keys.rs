//! Keys of a store that end by themselves, and what a refusal means once they have.

use holdfast_engine::ErrorKind;
use jiff::{SignedDuration, Timestamp};

use crate::failure::Failure;

/// How far this node's clock may be behind the one that ends the keys.
const LEEWAY: SignedDuration = SignedDuration::from_mins(1);

/// What is known of the store's keys.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// They end by themselves.
    pub(crate) temporary: bool,
    /// When, where they were made for this run.
    pub(crate) end: Option<Timestamp>,
}

impl Keys {
    /// Temporary keys end in the middle of a run, too. The next attempt has new ones, made for it or out of the storage's
    /// Secret: such a refusal may pass, and what was saved before it is not sent again.
    ///
    /// Servers do not agree on how to say it: keys that have ended are refused as such, as missing rights (Ceph) or as a
    /// bad request (AWS, where the answer has no body). After their time all of these mean the same.
    pub(crate) fn explain(&self, mut failure: Failure, now: Timestamp) -> Failure {
        let is = |kinds: &[ErrorKind]| kinds.iter().any(|kind| failure.reason == kind.as_str());
        let ended = self.end.filter(|end| now.duration_since(*end) >= -LEEWAY);
        match ended {
            Some(end) if is(&[ErrorKind::Auth, ErrorKind::AccessDenied, ErrorKind::Usage]) => {
                failure.retryable = true;
                failure.message = format!(
                    "the run's keys ended at {end}, and another attempt gets new ones; a longer sessionDuration of the \
                     storage saves it ({})",
                    failure.message
                );
            }
            _ => failure.retryable |= self.temporary && is(&[ErrorKind::Auth]),
        }
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_refusal_of_temporary_keys_is_tried_again_and_nothing_else_is() {
        let now = at("2026-11-20T02:00:00Z");
        for (reason, temporary, again) in [
            ("Auth", true, true),
            ("Auth", false, false),
            ("AccessDenied", true, false),
            ("Usage", true, false),
            ("WrongPassword", true, false),
        ] {
            let keys = Keys { temporary, end: None };
            assert_eq!(keys.explain(Failure::fatal(reason, "m"), now).retryable, again, "{reason}");
        }
        assert!(Keys::default().explain(Failure::stopped(), now).retryable);
    }

    #[test]
    fn once_the_keys_have_ended_every_refusal_of_the_store_may_pass() {
        let keys = Keys { temporary: true, end: Some(at("2026-11-20T03:00:00Z")) };
        for (reason, now, again) in [
            ("AccessDenied", "2026-11-20T02:58:00Z", false),
            ("Usage", "2026-11-20T02:58:00Z", false),
            ("Auth", "2026-11-20T02:58:00Z", true),
            // A clock that is a little behind.
            ("AccessDenied", "2026-11-20T02:59:30Z", true),
            ("AccessDenied", "2026-11-20T03:00:00Z", true),
            ("Usage", "2026-11-20T04:00:00Z", true),
            ("Auth", "2026-11-20T04:00:00Z", true),
            ("WrongPassword", "2026-11-20T04:00:00Z", false),
            ("Corrupt", "2026-11-20T04:00:00Z", false),
        ] {
            let failure = keys.explain(Failure::fatal(reason, "what was refused"), at(now));
            assert_eq!(failure.retryable, again, "{reason} at {now}");
            assert!(failure.message.contains("what was refused"));
        }
        let failure = keys.explain(Failure::fatal("Usage", "m"), at("2026-11-20T04:00:00Z"));
        assert!(failure.message.contains("sessionDuration"), "{}", failure.message);
    }
}
