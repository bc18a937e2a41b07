//! What a Restore waits for before it begins, and for how long.

use std::time::Duration;

use holdfast_api::Reason;
use holdfast_api::restore::{Restore, RestorePhase, RestoreStatus};
use kube::runtime::controller::Action;

use super::apply::{Look, PATIENCE, WAITING_LOOK};
use super::validate::Refusal;
use crate::runs::{RunError, time_left, waits};

/// How long it waits until a repository that was not known before is opened and its snapshots are listed. What goes wrong
/// with it in between counts in, so it is no reason to give up sooner.
const LISTING_PATIENCE: Duration = Duration::from_hours(1);
/// How often it tells anew where in line it is; its turn is told by the queue.
const QUEUE_LOOK: Duration = Duration::from_mins(2);

impl Look<'_> {
    /// Waits for repository or another Restore, but not for ever.
    pub(super) async fn wait(
        &self,
        status: RestoreStatus,
        reason: Reason,
        message: &str,
    ) -> Result<Action, RunError> {
        self.wait_for(status, reason, message, patience(self.restore, reason)).await
    }

    /// Waits no longer than `allowed` since this kind of wait began.
    pub(super) async fn wait_for(
        &self,
        mut status: RestoreStatus,
        reason: Reason,
        message: &str,
        allowed: Duration,
    ) -> Result<Action, RunError> {
        let since = waits::since(&status.conditions, reason, self.now);
        let Some(left) = time_left(since, allowed, self.now) else {
            let text = format!("waited {} minutes in vain: {message}", allowed.as_secs() / 60);
            return self.refuse(status, &Refusal::plain(reason, text)).await;
        };
        let before = status.message.clone();
        let stands_in_line = status.phase == Some(RestorePhase::Queued);
        self.writer(&mut status).waiting(reason, message);
        self.save(&mut status).await?;
        if reason == Reason::Queued {
            // The place in line changes all the time, which is no news.
            if !stands_in_line {
                self.ctx.events.normal(self.restore, reason, message).await;
            }
            return Ok(Action::requeue(left.min(QUEUE_LOOK)));
        }
        self.ctx.queue.forget(&self.run.uid);
        if before != status.message {
            match reason {
                Reason::Pending | Reason::Initializing => {
                    self.ctx.events.normal(self.restore, reason, message).await;
                }
                _ => self.ctx.events.warning(self.restore, reason, message).await,
            }
        }
        Ok(Action::requeue(left.min(WAITING_LOOK)))
    }
}

/// How long a Restore waits for this before it begins.
fn patience(restore: &Restore, reason: Reason) -> Duration {
    match reason {
        // Behind another Restore the time is its, not ours.
        Reason::Pending => Duration::MAX,
        Reason::PodConfigNotFound | Reason::PodConfigInvalid | Reason::Queued => {
            restore.spec.active_deadline.into()
        }
        // A claim has nothing to do with how long a repository takes.
        _ if restore.spec.from.repository.is_some() && reason != Reason::TargetNotBound => LISTING_PATIENCE,
        _ => PATIENCE,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::status::Writer;
    use super::*;

    fn restore(from: &str) -> Restore {
        serde_saphyr::from_str(&format!(
            "{{apiVersion: holdfast.dev/v1alpha1, kind: Restore, metadata: {{name: r}}, spec: {{from: {from}}}}}"
        ))
        .unwrap()
    }

    #[test]
    fn a_restore_that_stood_in_line_for_long_has_its_full_patience_for_what_comes_next() {
        let restore = restore("{snapshotRef: {name: s}}");
        let at = |minute: i64| Timestamp::from_second(minute * 60).unwrap();
        let mut status = RestoreStatus::default();
        let left = |status: &mut RestoreStatus, reason: Reason, minute: i64| {
            let since = waits::since(&status.conditions, reason, at(minute));
            Writer { status, generation: None, now: at(minute) }.waiting(reason, "m");
            time_left(since, patience(&restore, reason), at(minute)).map(|left| left.as_secs() / 60)
        };
        // Behind another Restore, then in line, for longer than the patience for a repository.
        assert!(left(&mut status, Reason::Pending, 0).is_some());
        assert!(left(&mut status, Reason::Pending, 30).is_some());
        assert!(left(&mut status, Reason::Queued, 31).is_some());
        assert!(left(&mut status, Reason::Queued, 60).is_some());
        assert_eq!(left(&mut status, Reason::RepositoryNotReady, 61), Some(15));
        assert_eq!(left(&mut status, Reason::Initializing, 65), Some(11));
        assert_eq!(left(&mut status, Reason::RepositoryNotReady, 76), None, "a wait of long ago still ends");
        // Nobody looked while the operator was down: the first look is the first wait.
        assert_eq!(left(&mut RestoreStatus::default(), Reason::RepositoryNotReady, 90), Some(15));
    }

    #[test]
    fn a_repository_that_is_opened_for_a_restore_has_one_time_for_all_that_may_go_wrong() {
        let from = restore("{repository: {storageRef: {name: s}}}");
        assert_eq!(patience(&from, Reason::Initializing), LISTING_PATIENCE);
        assert_eq!(patience(&from, Reason::RepositoryNotReady), LISTING_PATIENCE);
        assert_eq!(patience(&from, Reason::TargetNotBound), PATIENCE);
    }
}
