//! How a task fails: the typed reason, the sentence and the facts that the verdict carries.

use holdfast_engine::error::{Class, Error, ErrorKind};
use holdfast_protocol::{Outcome, TaskResult, VERSION, Verdict};

/// A task that was not done.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Typed reason: the engine's kinds by their names, and the runner's own.
    pub reason: &'static str,
    /// One sentence: what was tried, on what, why it failed, what to do.
    pub message: String,
    /// Whether the same run may work later without anybody changing anything.
    pub retryable: bool,
    /// Whether no lock is left.
    pub lock_released: bool,
    /// What is known of the result all the same (counts, samples).
    pub result: Option<Box<TaskResult>>,
}

impl Failure {
    /// A failure that somebody has to do something about.
    pub fn fatal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), retryable: false, lock_released: true, result: None }
    }

    /// The run was told to stop.
    pub fn stopped() -> Self {
        Self {
            reason: "Stopped",
            message: "the run was told to stop and has committed nothing".to_owned(),
            retryable: true,
            lock_released: true,
            result: None,
        }
    }

    /// The same failure, with a result to show.
    #[must_use]
    pub fn with_result(mut self, result: TaskResult) -> Self {
        self.result = Some(Box::new(result));
        self
    }

    /// The verdict that tells of it.
    pub fn into_verdict(self) -> Verdict {
        Verdict {
            version: VERSION,
            outcome: Outcome::Failed,
            reason: Some(self.reason.to_owned()),
            message: Some(self.message),
            retryable: self.retryable,
            lock_released: self.lock_released,
            result: self.result.map(|r| *r),
            attachment: None,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        if error.kind() == ErrorKind::Cancelled {
            return Self::stopped();
        }
        Self {
            reason: error.kind().as_str(),
            message: error.chain(),
            retryable: error.class() == Class::Retryable,
            lock_released: true,
            result: None,
        }
    }
}

/// The verdict of a task that was done.
pub(crate) fn succeeded(result: TaskResult) -> Verdict {
    Verdict {
        version: VERSION,
        outcome: Outcome::Succeeded,
        reason: None,
        message: None,
        retryable: false,
        lock_released: true,
        result: Some(result),
        attachment: None,
    }
}
