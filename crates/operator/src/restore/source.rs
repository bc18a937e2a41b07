//! What a Restore is made from: which Snapshot is meant, who may read it, and the Repository object for a directory
//! that the cluster does not know yet. Pure.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_api::backup_storage::FoundRepository;
use holdfast_api::conditions::{ConditionType, find_condition};
use holdfast_api::refs::{PasswordSecretRef, StorageRef};
use holdfast_api::repository::{RepositoryPhase, RepositorySpec};
use holdfast_api::restore::{FromRepository, RestoreFrom};
use holdfast_api::snapshot::SnapshotComponent;
use holdfast_api::{Backup, BackupStorage, Reason, Repository, Restore, Snapshot, names};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::validate::Refusal;

/// Most directories or Snapshots that a message lists.
const LISTED: usize = 10;

/// Which Snapshots are meant; of those that fit, the newest complete one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wanted<'a> {
    /// Namespace of the Snapshots; that of the Restore when absent.
    pub(super) namespace: Option<&'a str>,
    /// Name of their Repository.
    pub(super) repository: Option<&'a str>,
    /// They hold this claim.
    pub(super) claim: Option<&'a str>,
    /// Their Backup began at this time or before it.
    pub(super) until: Option<Timestamp>,
    /// They hold this restic snapshot; at least its first digits.
    pub(super) id: Option<&'a str>,
}

/// What a Restore asks for, when it does not name one Snapshot.
pub(super) fn wanted(from: &RestoreFrom) -> Option<Wanted<'_>> {
    if let Some(latest) = &from.latest_of {
        return Some(Wanted {
            namespace: latest.namespace.as_deref(),
            repository: latest.repository_ref.as_ref().map(|reference| reference.name.as_str()),
            claim: latest.claim.as_deref(),
            ..Wanted::default()
        });
    }
    if let Some(point) = &from.point_in_time {
        return Some(Wanted {
            namespace: point.namespace.as_deref(),
            repository: point.repository_ref.as_ref().map(|reference| reference.name.as_str()),
            claim: point.claim.as_deref(),
            until: Some(point.time.0),
            id: None,
        });
    }
    from.repository.as_ref().map(|found| Wanted {
        claim: found.claim.as_deref(),
        until: found.time.as_ref().map(|time| time.0),
        id: found.snapshot_id.as_deref(),
        ..Wanted::default()
    })
}

/// Namespace of what a Restore reads.
pub(super) fn namespace<'a>(from: &'a RestoreFrom, own: &'a str) -> &'a str {
    let named = from.snapshot_ref.as_ref().and_then(|reference| reference.namespace.as_deref());
    named.or_else(|| wanted(from).and_then(|wanted| wanted.namespace)).unwrap_or(own)
}

/// The components that a Restore is about: those that it names, else the one that its source names. All when empty.
pub(super) fn components(restore: &Restore, snapshot: &Snapshot) -> Vec<String> {
    if !restore.spec.components.is_empty() {
        return restore.spec.components.clone();
    }
    let Some(wanted) = wanted(&restore.spec.from) else { return Vec::new() };
    let by_claim = wanted.claim.map(names::volume_component);
    let by_id = wanted.id.and_then(|id| {
        let all = snapshot.status.as_ref().map(|status| status.components.as_slice()).unwrap_or_default();
        all.iter().find(|component| component.snapshot_id.starts_with(id)).map(|c| c.name.clone())
    });
    by_id.or(by_claim).into_iter().collect()
}

/// The newest complete Snapshot of those that are meant. One that is named by an id need not be complete. Where no
/// Repository is named, what the namespace made itself in this cluster comes before what only is mirrored in it.
pub(super) fn choose<'s>(
    wanted: &Wanted<'_>,
    all: &'s [Snapshot],
    cluster: &str,
) -> Result<&'s Snapshot, Refusal> {
    let component = wanted.claim.map(names::volume_component);
    let holds = |snapshot: &Snapshot| {
        let components =
            snapshot.status.as_ref().map(|status| status.components.as_slice()).unwrap_or_default();
        let is_meant = |c: &SnapshotComponent| {
            component.as_ref().is_none_or(|name| c.name == *name)
                && wanted.id.is_none_or(|id| c.snapshot_id.starts_with(id))
        };
        // An id of another claim, or of a later time, is not what was meant by one of the two.
        let is_in_time = wanted.until.is_none_or(|until| snapshot.spec.time.0 <= until);
        (component.is_none() && wanted.id.is_none() || components.iter().any(is_meant))
            && (wanted.id.is_none() || is_in_time)
    };
    let fitting: Vec<&Snapshot> = all
        .iter()
        .filter(|s| wanted.repository.is_none_or(|name| s.spec.repository_ref.name == name))
        .filter(|s| s.metadata.deletion_timestamp.is_none() && holds(s))
        // What was saved before a restore is what somebody wanted to be rid of: it is restored when it is named.
        .filter(|s| s.spec.undo_of.is_none() || wanted.id.is_some())
        .collect();
    let is_complete =
        |s: &Snapshot| s.is_whole(component.as_deref()) || s.is_damaged_whole(component.as_deref());
    let age = |s: &&&Snapshot| (s.spec.time.0, s.name_any());
    if let Some(id) = wanted.id {
        let mut found = fitting.iter();
        return match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (Some(_), Some(_)) => {
                let text = format!("several Snapshots begin with the id {id}: give more of its digits");
                Err(Refusal::plain(Reason::SnapshotNotFound, text))
            }
            (None, _) => Err(not_found(wanted, &all.iter().collect::<Vec<_>>(), cluster)),
        };
    }
    // Before it is asked which are complete: own Snapshots with gaps are no reason to take somebody else's data.
    let own_first = wanted.repository.is_none() && fitting.iter().any(|s| is_own(s, cluster));
    if wanted.repository.is_none()
        && !own_first
        && let Some(refusal) = of_several_origins(wanted, &fitting)
    {
        return Err(refusal);
    }
    fitting
        .iter()
        .filter(|s| !own_first || is_own(s, cluster))
        .filter(|s| is_complete(s) && wanted.until.is_none_or(|until| s.spec.time.0 <= until))
        .max_by_key(age)
        .copied()
        .ok_or_else(|| not_found(wanted, &fitting, cluster))
}

/// The Snapshots of the same origin that are older than this one, and that Backups made.
fn earlier<'s>(snapshot: &Snapshot, all: &'s [Snapshot]) -> impl Iterator<Item = &'s Snapshot> {
    let origin = |s: &Snapshot| (s.spec.cluster.clone(), s.spec.namespace.clone());
    let (own, time) = (origin(snapshot), snapshot.spec.time.0);
    all.iter()
        .filter(|s| s.spec.undo_of.is_none() && s.metadata.deletion_timestamp.is_none())
        .filter(move |s| origin(s) == own && s.spec.time.0 < time)
}

/// The newest Snapshot of the same origin that is older than this one and holds files of the component, and how many.
/// What was saved before a restore stands for nothing that was lost, and nothing before it.
pub(super) fn with_files<'s>(
    snapshot: &Snapshot,
    component: &str,
    all: &'s [Snapshot],
) -> Option<(&'s Snapshot, u64)> {
    let files = |s: &Snapshot| {
        let components = s.status.iter().flat_map(|status| &status.components);
        components
            .filter(|c| c.name == component && !c.damaged)
            .find_map(|c| c.files.filter(|files| *files > 0))
    };
    if snapshot.spec.undo_of.is_some() {
        return None;
    }
    earlier(snapshot, all)
        .filter_map(|s| files(s).map(|files| (s, files)))
        .max_by_key(|(s, _)| (s.spec.time.0, s.name_any()))
}

/// Whether the Snapshots beside this one matter: a component of it is damaged or holds no files, or all of it is restored, and
/// others may have more.
pub(super) fn asks_for_others(restore: &Restore, snapshot: &Snapshot) -> bool {
    let mut components = snapshot.status.iter().flat_map(|status| &status.components);
    components.any(|component| component.damaged || component.files == Some(0))
        || takes_all(restore, snapshot)
}

/// Whether all that the Snapshot has is restored, by name or not.
pub(super) fn takes_all(restore: &Restore, snapshot: &Snapshot) -> bool {
    let wanted = components(restore, snapshot);
    let mut all = snapshot.status.iter().flat_map(|status| &status.components);
    wanted.is_empty() || all.all(|component| wanted.contains(&component.name))
}

/// The components that this Snapshot lacks and an older one of the same origin has, each with the newest such. A run
/// that could not take a claim knows nothing of it, nor does one that was of other claims.
pub(super) fn only_before<'s>(snapshot: &Snapshot, all: &'s [Snapshot]) -> BTreeMap<&'s str, &'s Snapshot> {
    let components = |s: &'s Snapshot| s.status.iter().flat_map(|status| &status.components);
    let own: BTreeSet<&str> =
        snapshot.status.iter().flat_map(|status| &status.components).map(|c| c.name.as_str()).collect();
    let mut found: BTreeMap<&str, &Snapshot> = BTreeMap::new();
    if snapshot.spec.undo_of.is_some() {
        return found;
    }
    for other in earlier(snapshot, all) {
        for component in components(other).filter(|c| !c.damaged && !own.contains(c.name.as_str())) {
            let newest = found.entry(&component.name).or_insert(other);
            if newest.spec.time.0 < other.spec.time.0 {
                *newest = other;
            }
        }
    }
    found
}

/// The newest Snapshot of the same origin that is older than this one and whose component can be read.
pub(super) fn readable_before<'s>(
    snapshot: &Snapshot,
    component: &str,
    all: &'s [Snapshot],
) -> Option<&'s Snapshot> {
    earlier(snapshot, all).filter(|s| s.has_all_of(component)).max_by_key(|s| (s.spec.time.0, s.name_any()))
}

/// Whether a Snapshot was made in its own namespace, in this cluster. Else its repository came from elsewhere.
fn is_own(snapshot: &Snapshot, cluster: &str) -> bool {
    snapshot.spec.cluster == cluster && snapshot.metadata.namespace.as_ref() == Some(&snapshot.spec.namespace)
}

/// Why none of these is chosen: they were made in several places, all of them elsewhere.
fn of_several_origins(wanted: &Wanted<'_>, fitting: &[&Snapshot]) -> Option<Refusal> {
    let mut origins: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for snapshot in fitting {
        let origin = (snapshot.spec.cluster.as_str(), snapshot.spec.namespace.as_str());
        origins.entry(origin).or_default().insert(&snapshot.spec.repository_ref.name);
    }
    (origins.len() > 1).then(|| {
        let listed: Vec<String> = origins
            .iter()
            .take(LISTED)
            .map(|((cluster, namespace), repositories)| {
                let names: Vec<&str> = repositories.iter().take(LISTED).copied().collect();
                format!("namespace {namespace} of cluster {cluster} (Repository {})", names.join(", "))
            })
            .collect();
        let more = origins.len().saturating_sub(LISTED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let source = if wanted.until.is_some() { "pointInTime" } else { "latestOf" };
        let text = format!(
            "the Snapshots that could be meant were made in several places, all of them elsewhere: make another \
             Restore that names one Repository in spec.from.{source}.repositoryRef, or one Snapshot in \
             spec.from.snapshotRef: {}{more}",
            listed.join("; ")
        );
        Refusal::plain(Reason::AmbiguousSource, text)
    })
}

fn not_found(wanted: &Wanted<'_>, near: &[&Snapshot], cluster: &str) -> Refusal {
    let mut asked = Vec::new();
    let own = near.iter().filter(|s| is_own(s, cluster)).count();
    if wanted.repository.is_none() && own > 0 && own < near.len() {
        asked.push("made in its own namespace and cluster".to_owned());
    }
    asked.extend(wanted.repository.map(|name| format!("of Repository {name}")));
    asked.extend(wanted.claim.map(|claim| format!("that holds the claim {claim}")));
    asked.extend(wanted.until.map(|until| format!("begun at {until} or before")));
    asked.extend(wanted.id.map(|id| format!("with the id {id}")));
    let mut listed = near.to_vec();
    listed.sort_by_key(|s| (s.spec.time.0, s.name_any()));
    let listed: Vec<String> = listed
        .into_iter()
        .rev()
        .take(LISTED)
        .map(|s| {
            let complete = s.status.as_ref().and_then(|status| status.complete) == Some(true);
            let note = if complete { "" } else { ", not complete" };
            let origin = if is_own(s, cluster) {
                String::new()
            } else {
                format!(", of namespace {} of cluster {}", s.spec.namespace, s.spec.cluster)
            };
            format!("{} ({}{note}{origin})", s.name_any(), s.spec.time.0)
        })
        .collect();
    let rest = if listed.is_empty() {
        "there is none at all".to_owned()
    } else {
        format!("there are: {}; name one of them in spec.from.snapshotRef", listed.join(", "))
    };
    let what = if wanted.id.is_some() { "Snapshot" } else { "complete Snapshot" };
    let text =
        format!("there is no {what} {}; {rest}", asked.join(" ")).replace("  ", " ").replace(" ;", ";");
    Refusal::plain(Reason::SnapshotNotFound, text)
}

/// Why a Restore in `own` may not read what is in `source`; none when it may. Snapshots of another namespace hold that
/// namespace's data: it has to have agreed, or the Restore has to be an administrator's.
pub(super) fn refusal(
    source: &str,
    source_namespace: Option<&Namespace>,
    own: &str,
    central: &str,
) -> Option<Refusal> {
    if source == own || own == central {
        return None;
    }
    let granted = source_namespace
        .and_then(|namespace| namespace.annotations().get(names::ANNOTATION_RESTORE_TO))
        .is_some_and(|list| list.split(',').map(str::trim).any(|name| name == own || name == "*"));
    (!granted).then(|| {
        let text = format!(
            "namespace {source} does not let namespace {own} restore from its Snapshots: an administrator has to \
             annotate it, `kubectl annotate namespace {source} {}={own}`",
            names::ANNOTATION_RESTORE_TO
        );
        Refusal::plain(Reason::SourceNotAllowed, text)
    })
}

/// The directory that is meant, out of those that the storage lists.
pub(super) fn directory(
    from: &FromRepository,
    storage: &BackupStorage,
    own: &str,
) -> Result<String, Refusal> {
    if let Some(directory) = &from.directory {
        return Ok(directory.clone());
    }
    let all = storage.status.as_ref().map(|status| status.repositories.as_slice()).unwrap_or_default();
    let ours: Vec<&FoundRepository> =
        all.iter().filter(|found| found.namespace.as_deref() == Some(own)).collect();
    match (ours.as_slice(), all) {
        ([one], _) => Ok(one.directory.clone()),
        // The only one there is, whoever it says it belongs to.
        ([], [only]) => Ok(only.directory.clone()),
        ([], []) => {
            let text = format!(
                "BackupStorage {} holds no repository: look at its bucket and prefix, or name the directory in \
                 spec.from.repository.directory",
                storage.name_any()
            );
            Err(Refusal::plain(Reason::RepositoryNotFound, text))
        }
        (ours, all) => {
            let several: Vec<&FoundRepository> =
                if ours.is_empty() { all.iter().collect() } else { ours.to_vec() };
            let text = format!(
                "BackupStorage {} holds several repositories that could be meant: make another Restore that names one \
                 of them in spec.from.repository.directory: {}",
                storage.name_any(),
                directories(&several)
            );
            Err(Refusal::plain(Reason::AmbiguousSource, text))
        }
    }
}

/// The first directories of these, and how many more there are.
fn directories(found: &[&FoundRepository]) -> String {
    let listed: Vec<&str> = found.iter().take(LISTED).map(|found| found.directory.as_str()).collect();
    let more = found.len().saturating_sub(LISTED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", listed.join(", "))
}

/// The password to open a directory with.
pub(super) fn password(
    from: &FromRepository,
    storage: &BackupStorage,
    own: &str,
) -> Result<PasswordSecretRef, Refusal> {
    if let Some(reference) = &from.password_secret_ref {
        return Ok(reference.clone());
    }
    // The recovery password opens every repository of the storage: it never goes into another namespace.
    let here = storage.namespace().as_deref() == Some(own);
    storage.spec.recovery_password_secret_ref.clone().filter(|_| here).ok_or_else(|| {
        let text = format!(
            "no password is named: set spec.from.repository.passwordSecretRef to a Secret of namespace {own} that holds \
             the repository's password or the recovery password"
        );
        Refusal::plain(Reason::SecretNotFound, text)
    })
}

/// The Repository object for a directory. It belongs to nobody, as every Repository: it stays when the Restore goes, and
/// with it the Snapshots to restore from again.
pub(super) fn repository(
    restore: &Restore,
    storage: &StorageRef,
    directory: String,
    password: PasswordSecretRef,
) -> Repository {
    let own = restore.namespace().unwrap_or_default();
    let name = names::found_repository_name(storage.namespace_or(&own), &storage.name, &directory);
    let mut repository = Repository::new(
        &name,
        RepositorySpec {
            limits: None,
            storage_ref: storage.clone(),
            directory: Some(directory),
            password_secret_ref: Some(password),
        },
    );
    repository.metadata = ObjectMeta {
        name: Some(name),
        namespace: Some(own),
        labels: Some(BTreeMap::from([(names::LABEL_MANAGED_BY.to_owned(), names::MANAGED_BY.to_owned())])),
        annotations: restore
            .spec
            .dry_run
            .then(|| BTreeMap::from([(names::ANNOTATION_FOR_DRY_RUN.to_owned(), "true".to_owned())])),
        ..ObjectMeta::default()
    };
    repository
}

/// Whether a Repository was made by a Restore and has never been opened: what it names is wrong, or could not be reached.
pub(super) fn is_unopened(repository: &Repository) -> bool {
    let own = repository.namespace().unwrap_or_default();
    let reference = &repository.spec.storage_ref;
    let made = repository.spec.directory.as_deref().is_some_and(|directory| {
        repository.name_any()
            == names::found_repository_name(reference.namespace_or(&own), &reference.name, directory)
    });
    made && repository.labels().get(names::LABEL_MANAGED_BY).is_some_and(|by| by == names::MANAGED_BY)
        && !repository.status.as_ref().is_some_and(|status| status.initialized)
}

/// Whether a Restore that has not found its Repository yet could mean this one.
fn could_mean(restore: &Restore, repository: &Repository) -> bool {
    let own = repository.namespace().unwrap_or_default();
    let there = &repository.spec.storage_ref;
    restore.spec.from.repository.as_ref().is_some_and(|from| {
        from.storage_ref.name == there.name
            && from.storage_ref.namespace_or(&own) == there.namespace_or(&own)
            && from.directory.as_ref().is_none_or(|named| repository.spec.directory.as_ref() == Some(named))
            && from
                .password_secret_ref
                .as_ref()
                .is_none_or(|named| repository.spec.password_secret_ref.as_ref() == Some(named))
    })
}

/// Whether a Repository was made for a dry run only, or has never been opened, and nobody else uses it: neither a run, nor
/// a Restore that is about to look for one. `restores` are the others of the namespace, without the one that has ended.
pub(super) fn is_spare(repository: &Repository, restores: &[Restore], backups: &[Backup]) -> bool {
    let name = repository.name_any();
    let uses = |restore: &Restore| {
        let status = restore.status.as_ref();
        let over = status
            .and_then(|status| status.phase)
            .is_some_and(|phase| phase.is_terminal(restore.spec.dry_run));
        let reads = status
            .and_then(|status| status.repository_ref.as_ref())
            .is_some_and(|reference| reference.namespace.is_none() && reference.name == name);
        // One that was really carried out leaves the way to its Snapshots behind.
        if over { reads && !restore.spec.dry_run } else { reads || could_mean(restore, repository) }
    };
    let saves = |backup: &Backup| {
        let status = backup.status.as_ref().and_then(|status| status.repository_ref.as_ref());
        [backup.spec.repository_ref.as_ref(), status]
            .into_iter()
            .flatten()
            .any(|reference| reference.name == name)
    };
    (repository.annotations().contains_key(names::ANNOTATION_FOR_DRY_RUN) || is_unopened(repository))
        && !restores.iter().any(uses)
        && !backups.iter().any(saves)
}

/// The Repository of the namespace that leads to a directory already.
pub(super) fn known<'r>(
    all: &'r [Repository],
    storage: &StorageRef,
    directory: &str,
    own: &str,
) -> Option<&'r Repository> {
    all.iter().find(|repository| {
        let reference = &repository.spec.storage_ref;
        let status = repository.status.as_ref().and_then(|status| status.directory.as_deref());
        reference.name == storage.name
            && reference.namespace_or(own) == storage.namespace_or(own)
            && repository.spec.directory.as_deref().or(status) == Some(directory)
            && repository.metadata.deletion_timestamp.is_none()
    })
}

/// Why a Repository that is there already does not do for a Restore: it is opened with another password than the one that
/// the Restore names, which nobody would try.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Otherwise {
    /// It goes when those who made it have ended.
    NotYet(String),
    /// It stays.
    Refused(Refusal),
}

/// Whether the password that a Restore names (or has by its storage) is another than that of the Repository which leads to
/// its directory already. A Restore that names none takes what opens.
pub(super) fn opens_otherwise(
    known: &Repository,
    from: &FromRepository,
    password: Option<&PasswordSecretRef>,
) -> Option<Otherwise> {
    let password = password.filter(|password| known.spec.password_secret_ref.as_ref() != Some(*password))?;
    let name = known.name_any();
    let directory = from.directory.as_deref().or(known.spec.directory.as_deref()).unwrap_or_default();
    let own = || "the password that was made for it".to_owned();
    let with = known
        .spec
        .password_secret_ref
        .as_ref()
        .map_or_else(own, |it| format!("the key {} of Secret {}", it.key, it.name));
    let asked = format!("the key {} of Secret {}", password.key, password.name);
    if is_unopened(known) {
        // One that names no password may mean this very Repository, which then stays when the other one ends.
        let then = if from.password_secret_ref.is_some() {
            "is tried when that Restore has ended; delete it to go on at once".to_owned()
        } else {
            format!("is not tried while it is there; delete Repository {name} to go on")
        };
        return Some(Otherwise::NotYet(format!(
            "Repository {name}, which another Restore made for the directory {directory}, could not be opened yet with \
             {with}: {asked} {then}"
        )));
    }
    from.password_secret_ref.as_ref().map(|_| {
        let text = format!(
            "Repository {name} of this namespace leads to the directory {directory} already and opens it with {with}, so \
             {asked} would not be tried. To restore, make another Restore without \
             spec.from.repository.passwordSecretRef; to find out whether that password opens it, delete Repository \
             {name} first (nothing in the storage goes with it)"
        );
        Otherwise::Refused(Refusal::plain(Reason::DirectoryInUse, text))
    })
}

/// Why a Repository that a Restore made will never be opened: there is none where it leads to. It was looked at, and is
/// made for another Restore anew.
pub(super) fn never_there(repository: &Repository, found: &[FoundRepository]) -> Option<Refusal> {
    let status = repository.status.as_ref()?;
    let missing = find_condition(&status.conditions, ConditionType::Ready)
        .filter(|ready| ready.reason == Reason::RepositoryMissing.as_str() && ready.status == "False")?;
    is_unopened(repository).then(|| {
        let storage = &repository.spec.storage_ref.name;
        let directory = repository.spec.directory.as_deref().unwrap_or_default();
        let there = if found.is_empty() {
            "; it holds none that was found".to_owned()
        } else {
            let all: Vec<&FoundRepository> = found.iter().collect();
            format!(
                "; it holds {}: name one of them in spec.from.repository.directory of another Restore",
                directories(&all)
            )
        };
        let text = format!(
            "BackupStorage {storage} has no repository in the directory {directory} ({}){there}",
            missing.message
        );
        Refusal::plain(Reason::RepositoryNotFound, text)
    })
}

/// Why a newer state than the newest Snapshot may be in a Repository, as it says itself.
pub(super) fn newer_ones(repository: &Repository) -> Vec<String> {
    let conditions =
        repository.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let damaged = find_condition(conditions, ConditionType::SnapshotsDamaged).map(|condition| {
        format!(
            "a newer state than this may be among those that cannot be read any more: {}",
            condition.message
        )
    });
    let unlisted = find_condition(conditions, ConditionType::SnapshotsSynced)
        .filter(|condition| condition.status == "False")
        .map(|condition| {
            format!(
                "a newer state than this may be in the repository without a Snapshot: the last list of it has failed, or not all \
                 Snapshots could be made ({})",
                condition.message
            )
        });
    damaged.into_iter().chain(unlisted).collect()
}

/// What a Repository still lacks before one of its Snapshots can be chosen; none when it has been opened and listed.
/// `found` is what its storage lists.
pub(super) fn not_listed(repository: &Repository, found: &[FoundRepository]) -> Option<(Reason, String)> {
    let name = repository.name_any();
    let status = repository.status.as_ref();
    match status.and_then(|status| status.phase) {
        Some(RepositoryPhase::Ready) if status.is_some_and(|status| status.last_sync_time.is_some()) => None,
        Some(RepositoryPhase::Ready) => {
            let failed = status
                .and_then(|status| find_condition(&status.conditions, ConditionType::SnapshotsSynced))
                .filter(|condition| condition.status == "False");
            Some(match failed {
                Some(failed) => (Reason::SyncFailed, format!("Repository {name}: {}", failed.message)),
                None => (Reason::Initializing, format!("lists the Snapshots of Repository {name}")),
            })
        }
        Some(RepositoryPhase::Failed | RepositoryPhase::Pending) => {
            let ready = status.and_then(|status| find_condition(&status.conditions, ConditionType::Ready));
            let said = ready.map_or_else(String::new, |ready| format!("{}: {}", ready.reason, ready.message));
            let text = format!("Repository {name} is not ready: {said}{}", what_to_do(repository, found));
            Some((Reason::RepositoryNotReady, text))
        }
        Some(RepositoryPhase::Initializing) | None => {
            Some((Reason::Initializing, format!("opens the repository (Repository {name})")))
        }
    }
}

/// What to do about a repository that cannot be opened, where it is the Restore that named it wrongly.
fn what_to_do(repository: &Repository, found: &[FoundRepository]) -> String {
    let status = repository.status.as_ref();
    let failed = |reason: Reason| {
        status
            .and_then(|status| find_condition(&status.conditions, ConditionType::Ready))
            .is_some_and(|ready| ready.reason == reason.as_str())
    };
    if failed(Reason::WrongPassword) {
        return repository.spec.password_secret_ref.as_ref().map_or_else(String::new, |secret| {
            format!(
                "; put the repository's password, or the recovery password that its storage had when it was made, into \
                 the key {} of Secret {}: it is tried again by itself",
                secret.key, secret.name
            )
        });
    }
    let directory = repository
        .spec
        .directory
        .as_deref()
        .or_else(|| status.and_then(|status| status.directory.as_deref()));
    let missing = failed(Reason::InitFailed) || failed(Reason::RepositoryMissing);
    if !missing || found.is_empty() || found.iter().any(|found| Some(found.directory.as_str()) == directory) {
        return String::new();
    }
    format!(
        "; the storage holds {}: name one of them in spec.from.repository.directory of another Restore, and delete \
         Repository {}, which leads to none",
        directories(&found.iter().collect::<Vec<_>>()),
        repository.name_any()
    )
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
