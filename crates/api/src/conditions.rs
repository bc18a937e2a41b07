//! Condition types and reasons, and how a condition is set. Not when: that is decided by the reconcilers.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::text::text_enum;

/// Longest message of a condition, in characters; a longer one is cut.
const MAX_MESSAGE: usize = 1024;

text_enum! {
    /// What a condition speaks about.
    pub enum ConditionType {
        /// The object can be used. On a storage and a repository.
        Ready,
        /// A run is at work. On a Backup and a Restore.
        Progressing,
        /// A run has ended: True when all of it succeeded, False with the reason when not.
        Completed,
        /// Every workload that a restore scaled down is back at the count it had, or was changed by a person.
        QuiesceReverted,
        /// Warning: there are repositories that no recovery password opens: a lost password Secret means lost data.
        NoRecoveryPassword,
        /// Warning: every namespace that uses the storage gets the same key, which can reach all repositories.
        CredentialsNotScoped,
        /// Warning: the store is part of this very cluster, and would be lost with it.
        SharedFailureDomain,
        /// Warning: a rule of the bucket deletes or moves what is stored. Unknown where that cannot be told.
        LifecycleRuleFound,
        /// Warning: the storage holds older repositories of the same name.
        PreviousRepositoriesFound,
        /// The Snapshot objects are those of the repository.
        SnapshotsSynced,
        /// Warning: snapshots of the repository cannot be read, so that their recovery points are missing or incomplete.
        SnapshotsDamaged,
        /// Warning: a volume that was saved holds no files.
        SourceEmpty,
    }
}

text_enum! {
    /// Why a condition has its status. Each stands for one cause, so that people and alerts can tell them apart.
    pub enum Reason {
        // Any kind
        /// Not looked at yet.
        Pending,
        /// At work.
        Running,
        /// All of it succeeded.
        Succeeded,
        /// Some of it succeeded.
        PartiallyFailed,
        /// It failed, and no other reason fits; the message has the error.
        Failed,
        /// The stored object cannot be understood; it waits for a change.
        InvalidSpec,
        /// The object is being deleted.
        Deleted,

        // BackupStorage
        /// An object was written, read back, listed and deleted.
        Validated,
        /// The probe Job is at work.
        Probing,
        /// The store does not know the access key, or the secret key does not fit it.
        InvalidCredentials,
        /// The bucket does not exist.
        BucketNotFound,
        /// The store's certificate is signed by an authority that is not trusted.
        UntrustedCertificate,
        /// No connection to the endpoint: name, address, port or network policy.
        EndpointUnreachable,
        /// The key is known, but may not do what is needed.
        AccessDenied,
        /// Reading works, writing does not, or is not allowed.
        ReadOnly,
        /// A Secret that the object names does not exist.
        SecretNotFound,
        /// A Secret or ConfigMap exists, but lacks the key, or its content cannot be used.
        SecretInvalid,
        /// The Secret or ConfigMap with the certificates does not exist.
        CaBundleNotFound,
        /// The place holds something that Holdfast did not make, and that it leaves alone.
        ForeignContent,
        /// The clocks of store and node differ too much to sign requests.
        ClockSkew,
        /// The probe failed, and no other reason fits.
        ProbeFailed,
        /// What the warning asks for is not set.
        NotConfigured,
        /// The recovery password does not open all repositories yet.
        NotInAllRepositories,
        /// The storage's keys, or the token of its `ServiceAccount`, could not be exchanged for keys of a run, and no other
        /// reason fits.
        AssumeRoleFailed,
        /// The cluster's administrator allows no web identity, or not to this host or for this audience.
        WebIdentityNotAllowed,
        /// The `ServiceAccount` that the storage names does not exist.
        ServiceAccountNotFound,
        /// The `ServiceAccount` does not name the role that storages may assume with it.
        ServiceAccountInvalid,
        /// One static key serves every namespace.
        SharedKey,
        /// Keys of one run were refused what the run does not need.
        PolicyKept,
        /// Keys of one run can do more than the run needs: who gave them does not look at the policy.
        PolicyIgnored,
        /// The store's address is that of a Service, a pod or a node of this cluster.
        InCluster,
        /// A rule of the bucket deletes objects, or moves them to where they cannot be read.
        RuleFound,
        /// No rule of the bucket does anything to what is stored.
        NoRuleFound,
        /// The store did not tell, or may not be asked.
        CannotTell,

        // Repository
        /// The repository was opened, or made.
        Initialized,
        /// The Job that opens or makes the repository is at work.
        Initializing,
        /// The storage does not exist.
        StorageNotFound,
        /// The storage is not Ready.
        StorageNotReady,
        /// The storage's usagePolicy does not admit this namespace.
        StorageNotAllowed,
        /// The directory does not begin with `<cluster>/<namespace>/`.
        DirectoryNotAllowed,
        /// Another Repository object has the same directory.
        DirectoryInUse,
        /// The repository exists and the password does not open it.
        WrongPassword,
        /// The repository could not be made.
        InitFailed,
        /// The repository was made by another cluster of the same name.
        ClusterMismatch,
        /// There is no repository where one is expected: it is gone, or never was there.
        RepositoryMissing,
        /// Another repository is where ours was.
        RepositoryReplaced,
        /// The Snapshot objects are those of the repository.
        Synced,
        /// The repository could not be listed.
        SyncFailed,
        /// Something was found.
        Found,
        /// Files of snapshots are not what their names or MACs say.
        SnapshotsDamaged,

        // Backup and Restore
        /// No storage is named and there is no default.
        NoDefaultStorage,
        /// No storage is named and several call themselves the default.
        AmbiguousDefault,
        /// The Repository does not exist.
        RepositoryNotFound,
        /// The Repository is not Ready.
        RepositoryNotReady,
        /// The repository is locked by another run or another program.
        RepositoryLocked,
        /// Nothing in the namespace is to be saved.
        NothingToBackUp,
        /// More components than one run can have.
        TooManyComponents,
        /// Claims were left out against the user's wish.
        ClaimsSkipped,
        /// Another Backup saves the same claims to the same repository at the same time.
        Overlapping,
        /// Files could not be read.
        UnreadableFiles,
        /// One component or more failed.
        ComponentsFailed,
        /// A saved volume holds no files.
        VolumeEmpty,
        /// The run took longer than its `activeDeadline`.
        DeadlineExceeded,
        /// The runner gave no sign of life for 15 minutes.
        NoSignOfLife,
        /// The runner's pod cannot be placed on any node that can mount the volume.
        Unschedulable,
        /// Pod Security does not admit the runner's pod.
        PodSecurityDenied,
        /// An attempt failed for a reason that may pass; the next one comes after a pause.
        Retrying,
        /// It waits for a free place: a limit of its node, storage, repository or namespace is reached.
        Queued,
        /// The PodConfig that is named does not exist.
        PodConfigNotFound,
        /// The PodConfig sets what it may not set, or what the cluster does not have.
        PodConfigInvalid,
        /// `runAs` is Root, and the namespace does not allow it.
        RootNotAllowed,
        /// The runner's image could not be pulled.
        ImageNotPulled,
        /// The volume could not be mounted into the runner's pod.
        MountFailed,
        /// The runner was killed, or ended without a verdict.
        RunnerKilled,
        /// The runner was killed because it needed more memory than its limit.
        OutOfMemory,
        /// An object of the same name exists and is not ours.
        NameTaken,

        // Restore
        /// The Snapshot does not exist.
        SnapshotNotFound,
        /// The Snapshot cannot be read any more.
        SnapshotDamaged,
        /// The Snapshot has no such component.
        ComponentNotFound,
        /// The selection matches nothing.
        NothingSelected,
        /// The plan is written down.
        Planned,
        /// The Snapshot does not fit its target.
        Incompatible,
        /// The target claim does not exist.
        TargetNotFound,
        /// The claim that is to be made exists already.
        TargetExists,
        /// The runner may not open the volume, or it is fresh and the runner may not write to it.
        TargetNotWritable,
        /// The namespace of the Snapshot does not let this one restore from it.
        SourceNotAllowed,
        /// Several repositories of the storage could be meant, or Snapshots that were made in several places elsewhere, and no
        /// repository is named.
        AmbiguousSource,
        /// The target claim is smaller than what is restored.
        TargetTooSmall,
        /// The target claim is not bound.
        TargetNotBound,
        /// A pod that cannot be scaled down uses the target claim.
        ClaimInUse,
        /// Scaling the StatefulSet down would delete its claims (`whenScaled: Delete`).
        ClaimsDeletedOnScale,
        /// Workloads are being scaled to 0.
        Quiescing,
        /// Workloads are being scaled back.
        Unquiescing,
        /// Someone scaled a workload up while it was to stay at 0.
        QuiesceContested,
        /// A workload could not be scaled.
        QuiesceFailed,
        /// Every workload is back.
        Reverted,
        /// No workload had to be scaled.
        NothingToQuiesce,
        /// The volume is full, or what is restored has no room on it.
        TargetFull,
        /// Restored files differ from the repository.
        VerificationFailed,
        /// Owners, modes, times or attributes of some files could not be set.
        MetadataNotRestored,
        /// All content is back, but some files belong to the runner and not to whom they belonged.
        OwnersNotRestored,
        /// What would be overwritten cannot be saved first, and `undo` asks for that.
        UndoNotPossible,
        /// What would be overwritten could not be saved first, so nothing was overwritten.
        UndoNotSaved,
    }
}

text_enum! {
    /// The status of a condition.
    pub enum ConditionStatus {
        /// It holds.
        True,
        /// It does not hold.
        False,
        /// Nobody knows yet.
        Unknown,
    }
}

/// What a condition is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionUpdate {
    /// What it speaks about.
    pub condition: ConditionType,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why.
    pub reason: Reason,
    /// Why, and what to do, in a sentence or two.
    pub message: String,
}

impl ConditionUpdate {
    /// The condition holds.
    pub fn yes(condition: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Self { condition, status: ConditionStatus::True, reason, message: message.into() }
    }

    /// The condition does not hold.
    pub fn no(condition: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Self { condition, status: ConditionStatus::False, reason, message: message.into() }
    }

    /// Nobody knows yet.
    pub fn unknown(condition: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Self { condition, status: ConditionStatus::Unknown, reason, message: message.into() }
    }
}

/// Puts `update` into `conditions`, as seen at `generation` of the spec. `lastTransitionTime` becomes `now` only
/// when the status changes. Returns whether anything but the generation changed, so that callers know when an
/// Event is due.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    update: ConditionUpdate,
    generation: Option<i64>,
    now: Timestamp,
) -> bool {
    let ConditionUpdate { condition, status, reason, message } = update;
    let message = cut(message);
    if let Some(current) = conditions.iter_mut().find(|c| c.type_ == condition.as_str()) {
        let transition = current.status != status.as_str();
        let changed = transition || current.reason != reason.as_str() || current.message != message;
        if transition {
            current.last_transition_time = Time(now);
            status.as_str().clone_into(&mut current.status);
        }
        reason.as_str().clone_into(&mut current.reason);
        current.message = message;
        current.observed_generation = generation;
        return changed;
    }
    conditions.push(Condition {
        last_transition_time: Time(now),
        message,
        observed_generation: generation,
        reason: reason.as_str().to_owned(),
        status: status.as_str().to_owned(),
        type_: condition.as_str().to_owned(),
    });
    true
}

/// The condition that speaks about `condition`, when there is one.
pub fn find_condition(conditions: &[Condition], condition: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|c| c.type_ == condition.as_str())
}

/// Whether a condition is there and holds.
pub fn is_true(conditions: &[Condition], condition: ConditionType) -> bool {
    find_condition(conditions, condition).is_some_and(|c| c.status == ConditionStatus::True.as_str())
}

/// Takes a condition away, for warnings that no longer apply.
pub fn remove_condition(conditions: &mut Vec<Condition>, condition: ConditionType) {
    conditions.retain(|c| c.type_ != condition.as_str());
}

fn cut(mut message: String) -> String {
    if message.chars().count() > MAX_MESSAGE {
        let end = message.char_indices().nth(MAX_MESSAGE - 1).map_or(message.len(), |(index, _)| index);
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_795_000_000 + second).unwrap()
    }

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let mut conditions = Vec::new();
        let ready = |message: &str| ConditionUpdate::yes(ConditionType::Ready, Reason::Validated, message);
        assert!(set_condition(&mut conditions, ready("ok"), Some(1), at(0)));
        assert!(!set_condition(&mut conditions, ready("ok"), Some(2), at(10)));
        assert_eq!(conditions[0].observed_generation, Some(2));
        assert!(set_condition(&mut conditions, ready("still ok"), Some(2), at(20)));
        assert_eq!(conditions[0].last_transition_time, Time(at(0)));

        let lost = ConditionUpdate::no(ConditionType::Ready, Reason::BucketNotFound, "gone");
        assert!(set_condition(&mut conditions, lost, Some(2), at(30)));
        assert_eq!(conditions.len(), 1);
        assert_eq!(conditions[0].last_transition_time, Time(at(30)));
        assert_eq!(
            (conditions[0].status.as_str(), conditions[0].reason.as_str()),
            ("False", "BucketNotFound")
        );
        assert!(!is_true(&conditions, ConditionType::Ready));

        remove_condition(&mut conditions, ConditionType::Ready);
        assert_eq!(find_condition(&conditions, ConditionType::Ready), None);
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let mut conditions = Vec::new();
        let long = ConditionUpdate::no(ConditionType::Ready, Reason::Failed, "ä".repeat(5000));
        set_condition(&mut conditions, long, None, at(0));
        assert_eq!(conditions[0].message.chars().count(), MAX_MESSAGE);
        assert!(conditions[0].message.ends_with('…'));
    }

    #[test]
    fn reasons_fit_what_the_api_server_accepts() {
        // metav1.Condition: ^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$
        for text in
            Reason::ALL.iter().map(|r| r.as_str()).chain(ConditionType::ALL.iter().map(|t| t.as_str()))
        {
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric()), "{text}");
        }
    }
}
