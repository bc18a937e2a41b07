//! All that is known about a storage before anything is decided. The only reader.

use std::collections::BTreeMap;

use holdfast_api::{BackupStorage, Repository};
use holdfast_protocol::spec::FoundRepository;
use jiff::Timestamp;
use kube::ResourceExt;

use super::StorageError;
use crate::access::{AccessError, StorageAccess};
use crate::context::{Attempt, Ctx};
use crate::errors::Chain;
use crate::jobs::{self, JobState, JobTask, JobView, RunKind, RunRef};
use crate::kubernetes;

/// The facts.
pub(super) struct Facts {
    pub storage: BackupStorage,
    pub run: RunRef,
    /// How it is reached, or why that cannot be told.
    pub access: Result<StorageAccess, AccessError>,
    /// Its probe Jobs.
    pub probes: Vec<JobView>,
    /// What an ended probe found.
    pub found: Option<Vec<FoundRepository>>,
    /// Ids of repositories by their directory, as far as Repository objects of this cluster have opened them.
    pub ids: BTreeMap<String, String>,
    /// The last try.
    pub attempt: Option<Attempt>,
    pub period: std::time::Duration,
    pub stuck_after: std::time::Duration,
    pub now: Timestamp,
}

impl Facts {
    /// Digest of all that a probe depends on.
    pub(super) fn inputs(&self) -> String {
        match &self.access {
            Ok(access) => {
                let generation = self.storage.metadata.generation.unwrap_or_default();
                format!("{generation}/{}", access.credentials.fingerprint())
            }
            Err(_) => String::new(),
        }
    }
}

pub(super) async fn dereference(ctx: &Ctx, storage: &BackupStorage) -> Result<Facts, StorageError> {
    let run = RunRef::of(RunKind::BackupStorage, storage);
    let access = match StorageAccess::read(&ctx.client, storage.clone()).await {
        Err(error @ AccessError::Request(_)) => return Err(error.into()),
        other => other,
    };
    let namespace = storage.namespace().unwrap_or_default();
    let probes = jobs::observe(&ctx.client, &namespace, &run).await?;
    let mut found = None;
    for view in &probes {
        if let JobState::Ended(ended) = &view.state
            && let (Some(verdict), Some(pod)) = (ended.verdict(), &ended.pod)
            && verdict.attachment.is_some()
        {
            // The list is a help for people; a storage works without it.
            match jobs::logs::rows(&ctx.client, &namespace, pod, verdict).await {
                Ok(rows) => found = Some(rows),
                Err(error) => {
                    tracing::warn!(
                        error = %Chain(&error),
                        storage = run.name,
                        "the list of repositories is left as it was"
                    );
                }
            }
        }
    }
    let all = kubernetes::list_everywhere::<Repository>(&ctx.client, "").await?;
    let ids = all
        .iter()
        .filter(|repository| crate::repository::is_in(repository, storage))
        .filter_map(|repository| {
            let status = repository.status.as_ref()?;
            Some((status.directory.clone()?, status.repository_id.clone()?))
        })
        .collect();
    Ok(Facts {
        ids,
        attempt: ctx.attempts.last(&run.uid, JobTask::Probe.as_str()),
        storage: storage.clone(),
        run,
        access,
        probes,
        found,
        period: ctx.settings.validation_period,
        stuck_after: ctx.settings.stuck_after,
        now: ctx.now(),
    })
}
