//! The program in the Job: reads one run spec, carries out its one task with the engine, tells about it on
//! standard output and leaves a verdict.
//!
//! Not here: what the task means for any Kubernetes object, and the bytes of a repository. Walk through a run:
//! [`spec`] reads the run's Secret, [`stop`] listens for SIGTERM, [`task`] does the work and [`report`] tells of
//! it; [`run`] below turns what came out into the verdict and the exit code, on every path, a panic included.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_protocol::{Outcome, Verdict, exit, files};
use jiff::Timestamp;

mod failure;
mod keys;
mod lock;
mod record;
pub mod report;
mod spec;
mod stop;
pub mod task;

pub use failure::Failure;
pub use stop::Stop;

use keys::Keys;
use report::{Pace, Reporter};

/// Command line of `holdfast run`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Directory with the run's spec and credentials, one file each (the mounted Secret of the run)
    #[arg(long, value_name = "DIR", default_value = files::DIRECTORY)]
    pub directory: PathBuf,
    /// File that the verdict is written to (the container's termination message path)
    #[arg(long, value_name = "FILE", default_value = files::TERMINATION_MESSAGE)]
    pub termination_message: PathBuf,
    /// Directory with the checkpoint of an earlier runner of the same component; need not exist
    #[arg(long, value_name = "DIR", default_value = files::CHECKPOINT_DIRECTORY)]
    pub checkpoint_directory: PathBuf,
}

/// Carries out one run; the result is the exit code of the process (see [`exit`]).
///
/// Boxed, so that the whole runner is compiled here once and not again wherever it is started.
pub fn run(options: Options) -> BoxFuture<'static, i32> {
    carry_out(options).boxed()
}

async fn carry_out(options: Options) -> i32 {
    let reporter = Arc::new(Reporter::start(Box::new(std::io::stdout()), Pace::default()));
    let stop = Stop::new();
    stop.on_signals();

    let attempt = AssertUnwindSafe(attempt(&options, &reporter, &stop)).catch_unwind().await;
    let verdict = attempt.unwrap_or_else(|_| panicked());

    // Rows first: whoever reads the verdict may then rely on the log being complete.
    reporter.close();
    finish(&verdict, stop.asked(), &options.termination_message)
}

/// Everything that may fail in an ordinary way.
async fn attempt(options: &Options, reporter: &Arc<Reporter>, stop: &Stop) -> Verdict {
    let mut keys = Keys::default();
    let result = async {
        let mut run = spec::Run::read(&options.directory)?;
        keys = run.keys();
        run.checkpoint = spec::checkpoint(&options.checkpoint_directory);
        task::perform(run, reporter, stop).await
    }
    .await;
    result.unwrap_or_else(|failure: Failure| keys.explain(failure, Timestamp::now()).into_verdict())
}

fn panicked() -> Verdict {
    let mut verdict = Verdict::failed(
        "Internal",
        "the runner met a state that it does not know how to handle (a bug); the log says where: please report it",
        true,
    );
    verdict.lock_released = false;
    verdict
}

fn finish(verdict: &Verdict, asked_to_stop: bool, path: &Path) -> i32 {
    let reason = verdict.reason.as_deref().unwrap_or_default();
    let message = verdict.message.as_deref().unwrap_or("done");
    match verdict.outcome {
        Outcome::Succeeded => tracing::info!("{message}"),
        Outcome::Partial => tracing::warn!(reason, "{message}"),
        Outcome::Failed => tracing::error!(reason, "{message}"),
    }
    if let Err(e) = std::fs::write(path, verdict.to_termination_message()) {
        tracing::error!("write the verdict to {}: {e}", path.display());
        // Without a verdict nobody knows what happened. What was committed is found again by the next attempt.
        return if asked_to_stop { exit::STOPPED } else { exit::TEMPORARY };
    }
    exit_code(verdict, asked_to_stop)
}

fn exit_code(verdict: &Verdict, asked_to_stop: bool) -> i32 {
    match verdict.outcome {
        Outcome::Succeeded | Outcome::Partial => exit::DONE,
        Outcome::Failed if asked_to_stop => exit::STOPPED,
        Outcome::Failed if verdict.retryable => exit::TEMPORARY,
        Outcome::Failed => exit::FATAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(directory: &Path) -> Options {
        Options {
            directory: directory.to_owned(),
            termination_message: directory.join("verdict"),
            checkpoint_directory: directory.join("checkpoint"),
        }
    }

    fn verdict(directory: &Path) -> Verdict {
        let text = std::fs::read_to_string(directory.join("verdict")).unwrap();
        Verdict::from_termination_message(&text).unwrap()
    }

    #[tokio::test]
    async fn a_missing_spec_leaves_a_verdict() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(run(options(directory.path())).await, exit::FATAL);
        assert_eq!(verdict(directory.path()).reason.as_deref(), Some("BadSpec"));
    }

    #[tokio::test]
    async fn a_spec_of_another_version_leaves_a_verdict_that_says_so() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(files::SPEC), r#"{"version": 99, "surprise": true}"#).unwrap();
        assert_eq!(run(options(directory.path())).await, exit::TEMPORARY);
        let verdict = verdict(directory.path());
        assert_eq!((verdict.reason.as_deref(), verdict.retryable), (Some("SpecVersion"), true));
        assert!(verdict.message.unwrap().contains("99"));
    }

    #[test]
    fn a_verdict_that_cannot_be_written_is_a_temporary_failure() {
        let nowhere = Path::new("/nonexistent/verdict");
        let verdict = Verdict::failed("WrongPassword", "no key opens", false);
        assert_eq!(finish(&verdict, false, nowhere), exit::TEMPORARY);
    }

    #[test]
    fn exit_codes_tell_the_job_whether_to_try_again() {
        let mut verdict = Verdict::failed("Unreachable", "m", true);
        assert_eq!(exit_code(&verdict, false), exit::TEMPORARY);
        assert_eq!(exit_code(&verdict, true), exit::STOPPED);
        verdict.retryable = false;
        assert_eq!(exit_code(&verdict, false), exit::FATAL);
        verdict.outcome = Outcome::Partial;
        // A commit that was over when SIGTERM came has happened.
        assert_eq!(exit_code(&verdict, true), exit::DONE);
    }
}
