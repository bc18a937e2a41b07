//! What came back about a storage, into its status. Pure.

use holdfast_api::BackupStorageStatus;
use holdfast_api::MAX_LISTED_REPOSITORIES;
use holdfast_api::backend::Backend;
use holdfast_api::backup_storage::{FoundRepository, NamespacesFrom, StoragePhase};
use holdfast_api::conditions::{
    ConditionType, ConditionUpdate, Reason, find_condition, remove_condition, set_condition,
};
use holdfast_protocol::spec::FoundRepository as FoundRow;
use holdfast_protocol::verdict::{KeyScope, Lifecycle};
use holdfast_protocol::{Outcome, TaskResult};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::dereference::Facts;
use super::domain::Domain;
use super::validate::Step;
use crate::jobs::Ended;

/// The status after a step, and whether people should be told.
pub(super) struct Outcomes {
    pub status: BackupStorageStatus,
    /// The Ready condition changed to this.
    pub news: Option<(bool, Reason, String)>,
}

pub(super) fn status(facts: &Facts, step: &Step) -> Outcomes {
    let mut status = facts.storage.status.clone().unwrap_or_default();
    let generation = facts.storage.metadata.generation;
    let location = facts.storage.spec.backend.location("");
    status.location = (!location.is_empty()).then_some(location);
    let verdict = match step {
        Step::Unusable { reason, message } => Some((StoragePhase::Unavailable, *reason, message.clone())),
        Step::Judge { ended, .. } => {
            status.last_validation_time = Some(Time(facts.now));
            let (phase, reason, message) = judge(ended, facts.storage.spec.is_read_only());
            if phase == StoragePhase::Ready {
                take_found(&mut status, ended, facts.found.as_deref());
            }
            Some((phase, reason, message))
        }
        // A storage that was tried keeps its state while it is tried again.
        Step::Probe { .. } | Step::Probing { .. } if status.last_validation_time.is_none() => {
            let waiting = if let Step::Probing { waiting: Some(waiting) } = step {
                Some(&waiting.message)
            } else {
                None
            };
            let message = waiting.cloned().unwrap_or_else(|| "the storage is being tried".to_owned());
            Some((StoragePhase::Pending, Reason::Probing, message))
        }
        Step::Probe { .. } | Step::Probing { .. } | Step::Rest { .. } => None,
    };
    for found in &mut status.repositories {
        found.repository_id = facts.ids.get(&found.directory).cloned();
    }
    warnings(facts, &mut status);
    if let Step::Judge { ended, .. } = step {
        surroundings(facts, ended, &mut status);
    }
    // A spec that is still being tried is not described by what was found out about the one before it.
    if verdict.is_some() || matches!(step, Step::Rest { .. }) {
        status.observed_generation = generation;
    }
    let mut news = None;
    if let Some((phase, reason, message)) = verdict {
        // A message can differ from try to try by a duration or a port; that is no news.
        let told = find_condition(&status.conditions, ConditionType::Ready).map(|ready| ready.reason.clone());
        let is_new = status.phase != Some(phase) || told.as_deref() != Some(reason.as_str());
        status.phase = Some(phase);
        let update = match phase {
            StoragePhase::Ready => ConditionUpdate::yes(ConditionType::Ready, reason, message.clone()),
            StoragePhase::Pending => ConditionUpdate::unknown(ConditionType::Ready, reason, message.clone()),
            StoragePhase::Unavailable => ConditionUpdate::no(ConditionType::Ready, reason, message.clone()),
        };
        set_condition(&mut status.conditions, update, generation, facts.now);
        if is_new && phase != StoragePhase::Pending {
            news = Some((phase == StoragePhase::Ready, reason, message));
        }
    }
    Outcomes { status, news }
}

fn judge(ended: &Ended, read_only: bool) -> (StoragePhase, Reason, String) {
    if ended.verdict().is_some_and(|verdict| verdict.outcome != Outcome::Failed) {
        let message = if read_only {
            "it was listed and read; spec.accessMode is ReadOnly, so nothing was written, and only restores use it"
        } else {
            "an object was written, read back, listed and deleted"
        };
        return (StoragePhase::Ready, Reason::Validated, message.to_owned());
    }
    let said = ended.reason().unwrap_or_default();
    let message = ended.message().unwrap_or("the probe left no message; see the log of its pod").to_owned();
    (StoragePhase::Unavailable, reason(said), message)
}

/// The condition's reason for a runner's.
pub(super) fn reason(said: &str) -> Reason {
    match said {
        "Auth" => Reason::InvalidCredentials,
        "AccessDenied" => Reason::AccessDenied,
        "BucketNotFound" => Reason::BucketNotFound,
        "Tls" => Reason::UntrustedCertificate,
        "Unreachable" | "Timeout" | "DeadlineExceeded" => Reason::EndpointUnreachable,
        "ClockSkew" => Reason::ClockSkew,
        "ReadOnly" => Reason::ReadOnly,
        "ForeignContent" | "UnknownMetadata" => Reason::ForeignContent,
        "OutOfMemory" => Reason::OutOfMemory,
        _ => Reason::ProbeFailed,
    }
}

fn take_found(status: &mut BackupStorageStatus, ended: &Ended, rows: Option<&[FoundRow]>) {
    if let Some(TaskResult::Probe { repositories, .. }) =
        ended.verdict().and_then(|verdict| verdict.result.as_ref())
    {
        status.repository_count = Some(i64::from(*repositories));
    }
    let Some(rows) = rows else { return };
    status.repositories = rows
        .iter()
        .take(MAX_LISTED_REPOSITORIES)
        .map(|row| FoundRepository {
            directory: row.directory.clone(),
            repository_id: None,
            cluster: row.record.as_ref().map(|record| record.cluster.clone()),
            namespace: row.record.as_ref().map(|record| record.namespace.clone()),
            name: row.record.as_ref().map(|record| record.name.clone()),
        })
        .collect();
}

fn warnings(facts: &Facts, status: &mut BackupStorageStatus) {
    let spec = &facts.storage.spec;
    let warn = |status: &mut BackupStorageStatus, applies: bool, update: ConditionUpdate| {
        if applies {
            set_condition(&mut status.conditions, update, facts.storage.metadata.generation, facts.now);
        } else {
            remove_condition(&mut status.conditions, update.condition);
        }
    };
    match no_recovery(facts) {
        Recovery::Lacks(update) => warn(status, true, update),
        Recovery::OpensAll => remove_condition(&mut status.conditions, ConditionType::NoRecoveryPassword),
        Recovery::Unknown => {}
    }
    let shared = spec.usage_policy.allowed_namespaces.from != NamespacesFrom::Same;
    let condition = ConditionType::CredentialsNotScoped;
    if spec.backend.has_keys_for_each_run() {
        // What a probe found out stands until the next one; what was said of the one key does not.
        let tried = find_condition(&status.conditions, condition)
            .is_some_and(|told| told.reason != Reason::SharedKey.as_str());
        if !tried {
            let update = ConditionUpdate::unknown(
                condition,
                Reason::CannotTell,
                "whether the keys of a run reach more than its own repository has not been tried yet",
            );
            set_condition(&mut status.conditions, update, facts.storage.metadata.generation, facts.now);
        }
        return;
    }
    let advice = if spec.backend.s3.is_some() {
        "set spec.backend.s3.assumeRole where the store can exchange keys, or "
    } else {
        ""
    };
    let message = format!(
        "runs in all admitted namespaces get this storage's one key, which reaches the repositories of all of them; \
         {advice}give namespaces that do not trust each other storages and keys of their own"
    );
    warn(status, shared, ConditionUpdate::yes(condition, Reason::SharedKey, message));
}

/// Repositories that a message names at most.
const MAX_NAMED: usize = 5;

/// How far the recovery password reaches.
enum Recovery {
    /// Not to all repositories.
    Lacks(ConditionUpdate),
    /// To all that this cluster has.
    OpensAll,
    /// It cannot be read now, which makes the storage unusable and is said elsewhere.
    Unknown,
}

fn no_recovery(facts: &Facts) -> Recovery {
    let condition = ConditionType::NoRecoveryPassword;
    if facts.storage.spec.recovery_password_secret_ref.is_none() {
        return Recovery::Lacks(ConditionUpdate::yes(
            condition,
            Reason::NotConfigured,
            "without spec.recoveryPasswordSecretRef, repositories open only with passwords kept in this cluster: if \
             the cluster is lost, so is the data; set one and keep a copy elsewhere",
        ));
    }
    let access = facts.access.as_ref().ok();
    let Some(wanted) = access.and_then(|access| access.credentials.recovery_version()) else {
        return Recovery::Unknown;
    };
    let without: Vec<&str> = facts
        .recovery
        .iter()
        .filter(|(_, has)| has.as_deref() != Some(wanted))
        .map(|(name, _)| name.as_str())
        .collect();
    if without.is_empty() {
        return Recovery::OpensAll;
    }
    let named = without.iter().take(MAX_NAMED).copied().collect::<Vec<_>>().join(", ");
    let more = without.len().saturating_sub(MAX_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let next = if facts.storage.spec.is_read_only() {
        "and is not added, for spec.accessMode is ReadOnly"
    } else {
        "which get it when they are opened next; a Repository that does not become Ready says why"
    };
    Recovery::Lacks(ConditionUpdate::yes(
        condition,
        Reason::NotInAllRepositories,
        format!(
            "the recovery password is not known to open {} of {} repositories ({named}{more}), {next}",
            without.len(),
            facts.recovery.len()
        ),
    ))
}

/// What a probe tells about the place besides whether it works. What nobody looked at stays as it is.
fn surroundings(facts: &Facts, ended: &Ended, status: &mut BackupStorageStatus) {
    let (condition, generation) = (ConditionType::SharedFailureDomain, facts.storage.metadata.generation);
    match &facts.domain {
        Some(Domain::Here(part)) => {
            let update = ConditionUpdate::yes(
                condition,
                Reason::InCluster,
                format!(
                    "the store is {part} of this cluster: what destroys the cluster destroys the backups with it; keep \
                     them, or a copy of them, in a store elsewhere"
                ),
            );
            set_condition(&mut status.conditions, update, generation, facts.now);
        }
        Some(Domain::Elsewhere) => remove_condition(&mut status.conditions, condition),
        Some(Domain::Unknown) | None => {}
    }
    let Some(TaskResult::Probe { lifecycle, key_scope, .. }) =
        ended.verdict().and_then(|verdict| verdict.result.as_ref())
    else {
        return;
    };
    if let Some(key_scope) = key_scope.as_ref().filter(|_| facts.storage.spec.backend.has_keys_for_each_run())
    {
        set_condition(&mut status.conditions, scope(key_scope), generation, facts.now);
    }
    let condition = ConditionType::LifecycleRuleFound;
    let update = match lifecycle {
        None => return,
        Some(Lifecycle::Harmless) => ConditionUpdate::no(
            condition,
            Reason::NoRuleFound,
            "no enabled rule of the bucket deletes or moves what is stored here",
        ),
        Some(Lifecycle::Found { rules, count }) => ConditionUpdate::yes(
            condition,
            Reason::RuleFound,
            format!(
                "{count} enabled lifecycle rules of the bucket reach what is stored here: {}; repositories need every \
                 one of their files for as long as they exist, so remove these rules or keep them to other prefixes",
                rules.join("; ")
            ),
        ),
        Some(Lifecycle::Unknown { why }) => ConditionUpdate::unknown(
            condition,
            Reason::CannotTell,
            format!(
                "whether a rule of the bucket deletes or moves what is stored here cannot be told: {why}; {}",
                rules_advice(&facts.storage.spec.backend)
            ),
        ),
    };
    set_condition(&mut status.conditions, update, generation, facts.now);
}

/// What it means that keys of a run could, or could not, do what the run does not need.
fn scope(tried: &KeyScope) -> ConditionUpdate {
    let condition = ConditionType::CredentialsNotScoped;
    match tried {
        KeyScope::Kept => ConditionUpdate::no(
            condition,
            Reason::PolicyKept,
            "keys of a run were refused to write an object that their policy does not name",
        ),
        KeyScope::Ignored { left } => {
            let rest = left.as_ref().map_or(String::new(), |path| {
                format!("; the object {path} could not be removed again, and can be deleted")
            });
            ConditionUpdate::yes(
                condition,
                Reason::PolicyIgnored,
                format!(
                    "keys of a run could write an object that their policy does not name: the service that exchanges \
                     the storage's keys does not look at the session policy, so every run can reach the repositories \
                     of all; use a service or a version that does (docs/storages.md), or give namespaces that do not \
                     trust each other storages and keys of their own{rest}"
                ),
            )
        }
        KeyScope::Unknown { why } => ConditionUpdate::unknown(
            condition,
            Reason::CannotTell,
            format!(
                "whether the keys of a run reach more than its own repository cannot be told: {why}; take the keys out \
                 of the Secret of a run and list another directory with them, which has to be refused"
            ),
        ),
    }
}

/// What to do where the rules of the store could not be read.
fn rules_advice(backend: &Backend) -> &'static str {
    if backend.gcs.is_some() {
        "look at the bucket's lifecycle rules and its soft delete yourself"
    } else if backend.azure.is_some() {
        "look at the lifecycle management of the storage account yourself"
    } else {
        "allow the key s3:GetLifecycleConfiguration, or look at the bucket's rules yourself"
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
