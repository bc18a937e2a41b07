//! Stopping a Job without losing it: it is suspended, which ends its pods as a deletion would, and stays, with the
//! reason written on it, because its uid is what the lock in the repository names.

use holdfast_api::Reason;
use k8s_openapi::api::batch::v1::Job;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::backup::status::loss_reason;
use crate::jobs::{End, JobState, JobView, Loss};
use crate::kubernetes::{MANAGER, RequestError};

/// Annotation of a Job that was stopped: why ([`Stopped`]).
pub const ANNOTATION_STOPPED: &str = "holdfast.dev/stopped";

/// Why a Job was stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// In one word.
    pub reason: String,
    /// Cause and what to do.
    pub message: String,
}

impl Stopped {
    /// For this reason.
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into() }
    }

    /// Because the run itself is to end.
    pub fn with_run() -> Self {
        Self::new(Reason::Deleted.as_str(), "the run was ended before this Job had finished")
    }

    /// Because a Restore is to write what the Job reads.
    pub fn for_restore(name: &str) -> Self {
        let message = format!("stopped: Restore {name} writes to this claim; goes on afterwards");
        Self::new(Reason::ClaimInUse.as_str(), message)
    }

    /// Whether it made room for a Restore, which is no failure of the component.
    pub fn gave_way(&self) -> bool {
        self.reason == Reason::ClaimInUse.as_str()
    }
}

/// Stops a Job. Nothing happens to one that was stopped before.
pub async fn stop(client: &Client, view: &JobView, stopped: &Stopped) -> Result<(), RequestError> {
    if why_stopped(&view.job).is_some() || view.is_being_deleted() {
        return Ok(());
    }
    let text = serde_json::to_string(stopped).unwrap_or_else(|_| stopped.reason.clone());
    let patch = json!({
        "metadata": {"uid": view.uid(), "annotations": {ANNOTATION_STOPPED: text}},
        "spec": {"suspend": true},
    });
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    let api = Api::<Job>::namespaced(client.clone(), view.namespace());
    match api.patch(view.name(), &params, &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        // Gone, or gone and replaced by a namesake: there is nothing to stop.
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        Err(source) => Err(RequestError {
            verb: "stop",
            kind: "Job".into(),
            namespace: view.namespace().into(),
            name: view.name().into(),
            source: Box::new(source),
        }),
    }
}

/// Why a Job was stopped; none when it was not.
pub fn why_stopped(job: &Job) -> Option<Stopped> {
    let text = job.annotations().get(ANNOTATION_STOPPED)?;
    let unreadable = || Stopped::new(Reason::Failed.as_str(), "the Job was stopped");
    Some(serde_json::from_str(text).unwrap_or_else(|_| unreadable()))
}

/// Whether nothing of a Job is at work: it has ended, or was stopped and its pods are gone.
pub fn is_idle(view: &JobView) -> bool {
    matches!(view.state, JobState::Ended(_)) || (abandoned(view).is_some() && !view.has_live_pod())
}

/// Why a Job does not count: it was stopped, or what it did is not known. The next Job of the component finds out.
pub fn abandoned(view: &JobView) -> Option<Stopped> {
    if let Some(stopped) = why_stopped(&view.job) {
        return Some(stopped);
    }
    match &view.state {
        JobState::Ended(ended) => match &ended.end {
            End::Lost { loss: Loss::VerdictLost, message } => {
                Some(Stopped::new(loss_reason(Loss::VerdictLost).as_str(), message.clone()))
            }
            End::Lost { .. } | End::Verdict(_) => None,
        },
        JobState::Waiting(_) | JobState::Running(_) => None,
    }
}
