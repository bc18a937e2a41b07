//! What a storage needs next. Pure.

use std::time::Duration;

use holdfast_api::conditions::Reason;
use holdfast_api::names;
use jiff::Timestamp;

use super::dereference::Facts;
use crate::jobs::{Ended, JobState, JobTask, Waiting};

/// Pause before a storage that failed is tried again; it grows from here.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest pause between tries that fail: Backups and Restores wait for a storage that is away, and somebody may wait for
/// those.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// What comes next.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// It cannot be tried: something that it names is not there.
    Unusable { reason: Reason, message: String },
    /// Start a probe Job of this name.
    Probe { job: String },
    /// A probe Job is at work, or waits.
    Probing { waiting: Option<Waiting> },
    /// A probe Job has ended.
    Judge { ended: Box<Ended>, inputs: String },
    /// Nothing until then.
    Rest { until: Timestamp },
}

/// What comes next, and which Jobs are left over.
#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    pub step: Step,
    /// Names of probe Jobs that are not needed any more.
    pub stale: Vec<String>,
}

pub(super) fn validate(facts: &Facts) -> Plan {
    let all = || facts.probes.iter().map(|view| view.name().to_owned()).collect::<Vec<_>>();
    if let Err(error) = &facts.access {
        let reason = error.reason().unwrap_or(Reason::ProbeFailed);
        return Plan { step: Step::Unusable { reason, message: error.to_string() }, stale: all() };
    }
    let inputs = facts.inputs();
    let job = job_name(facts, &inputs);
    let current = facts.probes.iter().find(|view| view.name() == job && !view.is_being_deleted());
    let mut stale = all();
    stale.retain(|name| current.is_none_or(|view| view.name() != name));
    if let Some(view) = current {
        let step = match &view.state {
            JobState::Ended(ended) => Step::Judge { ended: Box::new(ended.clone()), inputs },
            JobState::Waiting(waiting) => Step::Probing { waiting: Some(waiting.clone()) },
            JobState::Running(_) => Step::Probing { waiting: None },
        };
        return Plan { step, stale };
    }
    let due = match facts.attempt.as_ref().filter(|attempt| attempt.inputs == inputs) {
        Some(attempt) => {
            let longest = if attempt.failures > 0 { facts.period.min(LONGEST_PAUSE) } else { facts.period };
            attempt.next(FIRST_PAUSE, longest)
        }
        None => facts.now,
    };
    let step = if due <= facts.now { Step::Probe { job } } else { Step::Rest { until: due } };
    Plan { step, stale }
}

/// One name for each try: another input or a later try is another Job.
fn job_name(facts: &Facts, inputs: &str) -> String {
    let last = facts.attempt.as_ref().map_or(0, |attempt| attempt.at.as_second());
    let occasion = format!("{inputs}/{last}");
    names::task_job_name(JobTask::Probe, &facts.run.name, &facts.run.uid, &occasion)
}
