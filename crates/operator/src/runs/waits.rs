//! Since when a run that has not begun waits, so that its patience counts from there. Pure. How long that patience is,
//! decides the reconciler.

use holdfast_api::Reason;
use holdfast_api::conditions::{
    ConditionStatus, ConditionType, ConditionUpdate, find_condition, remove_condition, set_condition,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// The kinds of waits that have a time of their own; all others are for storage and repository, and count as one: a
/// repository that is opened, fails and is opened again must not be waited for without end.
const KINDS: [&[Reason]; 6] = [
    &[Reason::ClaimInUse],
    // Another run that is at work on the same claims.
    &[Reason::Pending],
    &[Reason::PodConfigNotFound, Reason::PodConfigInvalid],
    &[Reason::Queued],
    &[Reason::TargetNotBound],
    // Keys that are exchanged for each run.
    &[
        Reason::InvalidCredentials,
        Reason::AccessDenied,
        Reason::EndpointUnreachable,
        Reason::UntrustedCertificate,
        Reason::ClockSkew,
        Reason::AssumeRoleFailed,
        Reason::WebIdentityNotAllowed,
        Reason::ServiceAccountNotFound,
        Reason::ServiceAccountInvalid,
    ],
];

/// Since when a run waits for what it waits for now. Not since it was made: it may have waited for something else, or the
/// operator may have been down.
pub fn since(conditions: &[Condition], reason: Reason, now: Timestamp) -> Timestamp {
    find_condition(conditions, ConditionType::Progressing)
        .filter(|condition| is_same_wait(condition, reason))
        .map_or(now, |condition| condition.last_transition_time.0)
}

fn is_same_wait(condition: &Condition, reason: Reason) -> bool {
    condition.status == ConditionStatus::False.as_str()
        && KINDS.iter().all(|kind| {
            let is_of_kind = |reason: &str| kind.iter().any(|known| known.as_str() == reason);
            is_of_kind(&condition.reason) == is_of_kind(reason.as_str())
        })
}

/// Writes down what a run waits for. Another kind of wait begins anew, with its own time.
pub fn tell(
    conditions: &mut Vec<Condition>,
    reason: Reason,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) {
    if since(conditions, reason, now) == now {
        remove_condition(conditions, ConditionType::Progressing);
    }
    let update = ConditionUpdate::no(ConditionType::Progressing, reason, message);
    set_condition(conditions, update, generation, now);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn each_kind_of_wait_has_its_own_time() {
        let mut conditions = Vec::new();
        assert_eq!(since(&conditions, Reason::Queued, at(1000)), at(1000), "whenever the run was made");
        let mut wait = |reason: Reason, second: i64| {
            let began = since(&conditions, reason, at(second));
            tell(&mut conditions, reason, "m", None, at(second));
            assert_eq!(since(&conditions, reason, at(second + 1)), began, "{reason}");
            began
        };
        assert_eq!(wait(Reason::RepositoryNotReady, 1000), at(1000));
        assert_eq!(
            wait(Reason::Initializing, 1100),
            at(1000),
            "a repository that comes and goes is one wait"
        );
        assert_eq!(wait(Reason::StorageNotReady, 1200), at(1000));
        assert_eq!(wait(Reason::Queued, 1300), at(1300));
        assert_eq!(wait(Reason::Queued, 9000), at(1300));
        assert_eq!(wait(Reason::RepositoryNotReady, 9100), at(9100));
        assert_eq!(wait(Reason::AssumeRoleFailed, 9200), at(9200));
        assert_eq!(wait(Reason::AccessDenied, 9300), at(9200), "the service said no, and why");
        assert_eq!(wait(Reason::Pending, 9400), at(9400));
        assert_eq!(wait(Reason::TargetNotBound, 9500), at(9500));
        assert_eq!(wait(Reason::PodConfigInvalid, 9600), at(9600));
        assert_eq!(wait(Reason::PodConfigNotFound, 9700), at(9600));
    }

    #[test]
    fn a_run_that_went_on_in_between_begins_its_next_wait_anew() {
        let mut conditions = Vec::new();
        tell(&mut conditions, Reason::Queued, "m", None, at(1000));
        let update = ConditionUpdate::yes(ConditionType::Progressing, Reason::Running, "m");
        set_condition(&mut conditions, update, None, at(1100));
        assert_eq!(since(&conditions, Reason::Queued, at(1200)), at(1200));
    }
}
