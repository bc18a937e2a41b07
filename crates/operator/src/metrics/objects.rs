//! What the objects say, as gauges: made from the watches' stores at each scrape, so that a restart forgets nothing.
//! Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use holdfast_api::backup::{BackupPhase, ClaimsDefault};
use holdfast_api::backup_storage::StoragePhase;
use holdfast_api::conditions::{ConditionType, find_condition};
use holdfast_api::repository::RepositoryPhase;
use holdfast_api::restore::RestorePhase;
use holdfast_api::{Backup, BackupStorage, Repository, Restore, Snapshot};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::claims::Claim;
use super::defaults::Defaults;
use super::family::{Family, number};

/// All that is looked at. Absent: its watch has not listed yet, so nothing is said about it.
#[derive(Default)]
pub(super) struct Objects {
    pub storages: Option<Vec<Arc<BackupStorage>>>,
    pub repositories: Option<Vec<Arc<Repository>>>,
    pub snapshots: Option<Vec<Arc<Snapshot>>>,
    pub backups: Option<Vec<Arc<Backup>>>,
    pub restores: Option<Vec<Arc<Restore>>>,
    pub claims: Option<Vec<Claim>>,
    pub defaults: Defaults,
}

/// The gauges.
pub(super) fn families(objects: &Objects, cluster: &str) -> Vec<Family> {
    let mut all = Vec::new();
    if let Some(found) = &objects.storages {
        all.extend(storages(found));
    }
    if let Some(found) = &objects.repositories {
        all.extend(repositories(found));
    }
    if let Some(found) = &objects.snapshots {
        all.extend(snapshots(found));
    }
    if let (Some(backups), Some(restores)) = (&objects.backups, &objects.restores) {
        all.push(runs(backups, restores));
    }
    if let Some(backups) = &objects.backups {
        all.extend(last_backups(backups));
    }
    if let (Some(claims), Some(snapshots)) = (&objects.claims, &objects.snapshots) {
        let backups = objects.backups.as_deref().unwrap_or_default();
        all.extend(protection(claims, snapshots, &asked_for(backups), &objects.defaults, cluster));
    }
    all
}

fn namespace(object: &impl ResourceExt) -> &str {
    object.meta().namespace.as_deref().unwrap_or_default()
}

fn name(object: &impl ResourceExt) -> &str {
    object.meta().name.as_deref().unwrap_or_default()
}

fn seconds(time: &Time) -> f64 {
    time.0.as_duration().as_secs_f64()
}

fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

fn storages(all: &[Arc<BackupStorage>]) -> Vec<Family> {
    let mut ready = Family::new("storage_ready", "Whether the last try of the storage succeeded");
    let mut tried =
        Family::new("storage_last_validation_timestamp_seconds", "When the storage was last tried");
    let mut count = Family::new("storage_repositories", "Repositories found in the storage");
    let mut warnings = Family::new(
        "storage_condition",
        "Conditions of the storage other than Ready: 1 while it is true, 0 while it is false, -1 while it cannot be told",
    );
    for storage in all {
        let labels = [("namespace", namespace(&**storage)), ("storage", name(&**storage))];
        let status = storage.status.as_ref();
        // One that was not tried yet is neither up nor down.
        if let Some(phase) = status.and_then(|s| s.phase).filter(|phase| *phase != StoragePhase::Pending) {
            ready.row(labels, flag(phase == StoragePhase::Ready));
        }
        let Some(status) = status else { continue };
        tried.row_if(labels, status.last_validation_time.as_ref().map(seconds));
        let repositories = status.repository_count.and_then(|count| u64::try_from(count).ok());
        count.row_if(labels, repositories.map(number));
        for condition in status.conditions.iter().filter(|condition| condition.type_ != "Ready") {
            let [storage_namespace, storage_name] = labels;
            let value = match condition.status.as_str() {
                "True" => 1.0,
                "False" => 0.0,
                _ => -1.0,
            };
            warnings.row([storage_namespace, storage_name, ("condition", &condition.type_)], value);
        }
    }
    vec![ready, tried, count, warnings]
}

fn repositories(all: &[Arc<Repository>]) -> Vec<Family> {
    let mut ready = Family::new("repository_ready", "Whether the repository can be used");
    let mut success = Family::new(
        "backup_last_success_timestamp_seconds",
        "When the backup began that made the newest complete Snapshot in the repository; of claims that were left out it says nothing",
    );
    let mut conditions = Family::new(
        "repository_condition",
        "Conditions of the repository that warn: 1 while it is true, 0 while it is not",
    );
    for repository in all {
        let labels = [("namespace", namespace(&**repository)), ("repository", name(&**repository))];
        let status = repository.status.as_ref();
        if let Some(phase) = status.and_then(|status| status.phase) {
            ready.row(labels, flag(phase == RepositoryPhase::Ready));
        }
        let damaged = ConditionType::SnapshotsDamaged;
        if let Some(status) = status.filter(|status| status.phase.is_some()) {
            let found = find_condition(&status.conditions, damaged).is_some_and(|c| c.status == "True");
            let [of_namespace, of_repository] = labels;
            conditions.row([of_namespace, of_repository, ("condition", damaged.as_str())], flag(found));
        }
        // Raised with each recovery point, and set by each sync to what is there. The objects by themselves say less: one
        // that somebody deletes comes back.
        let last = status.and_then(|status| status.last_successful_backup.as_ref());
        success.row_if(labels, last.map(seconds));
    }
    vec![ready, conditions, success]
}

/// Whether a Backup made it. What a Restore saved before it overwrote it is complete too, but no recovery point: it goes
/// after a while, and nobody planned it.
fn is_of_backup(snapshot: &Snapshot) -> bool {
    snapshot.spec.undo_of.is_none()
}

fn snapshots(all: &[Arc<Snapshot>]) -> Vec<Family> {
    struct Of {
        complete: u64,
        incomplete: u64,
        newest: Option<(f64, Option<u64>)>,
    }
    let mut groups: BTreeMap<(&str, &str), Of> = BTreeMap::new();
    for snapshot in all.iter().filter(|snapshot| is_of_backup(snapshot)) {
        let key = (namespace(&**snapshot), snapshot.spec.repository_ref.name.as_str());
        let group = groups.entry(key).or_insert(Of { complete: 0, incomplete: 0, newest: None });
        if !snapshot.is_complete() {
            group.incomplete = group.incomplete.saturating_add(1);
            continue;
        }
        group.complete = group.complete.saturating_add(1);
        let time = seconds(&snapshot.spec.time);
        if group.newest.is_none_or(|(newest, _)| newest < time) {
            group.newest = Some((time, snapshot.status.as_ref().and_then(|status| status.total_size)));
        }
    }
    let mut count =
        Family::new("snapshots", "Recovery points in the repository, by whether nothing is missing in them");
    let mut size = Family::new(
        "snapshot_newest_size_bytes",
        "Bytes of all files in the newest complete recovery point, as they were on their volumes",
    );
    for ((namespace, repository), group) in groups {
        let labels = [("namespace", namespace), ("repository", repository)];
        let [of_namespace, of_repository] = labels;
        count.row([of_namespace, of_repository, ("complete", "true")], number(group.complete));
        count.row([of_namespace, of_repository, ("complete", "false")], number(group.incomplete));
        size.row_if(labels, group.newest.and_then(|(_, size)| size).map(number));
    }
    vec![count, size]
}

fn runs(backups: &[Arc<Backup>], restores: &[Arc<Restore>]) -> Family {
    let mut counts: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
    let backups = backups.iter().map(|backup| {
        let phase = backup.status.as_ref().and_then(|status| status.phase).unwrap_or_default();
        (namespace(&**backup), "Backup", phase.as_str())
    });
    let restores = restores.iter().map(|restore| {
        let phase = restore.status.as_ref().and_then(|status| status.phase).unwrap_or(RestorePhase::Pending);
        (namespace(&**restore), "Restore", phase.as_str())
    });
    for key in backups.chain(restores) {
        let count = counts.entry(key).or_default();
        *count = count.saturating_add(1);
    }
    let mut family = Family::new(
        "runs",
        "Backup and Restore objects by their phase: Pending ones wait, the last phases keep ended ones",
    );
    for ((namespace, kind, phase), count) in counts {
        family.row([("namespace", namespace), ("kind", kind), ("phase", phase)], number(count));
    }
    family
}

/// How the last Backup into each repository ended.
fn last_backups(all: &[Arc<Backup>]) -> Vec<Family> {
    type Last<'a> = BTreeMap<(&'a str, &'a str), (f64, BackupPhase)>;
    let mut last: Last<'_> = BTreeMap::new();
    let mut newest: BTreeMap<&str, f64> = BTreeMap::new();
    for backup in all {
        let Some(status) = &backup.status else { continue };
        let (Some(phase), Some(ended)) = (status.phase, status.completion_time.as_ref().map(seconds)) else {
            continue;
        };
        if !phase.is_terminal() {
            continue;
        }
        let repository = status.repository_ref.as_ref().map_or("", |reference| reference.name.as_str());
        let entry = last.entry((namespace(&**backup), repository)).or_insert((ended, phase));
        if entry.0 <= ended {
            *entry = (ended, phase);
        }
        let entry = newest.entry(namespace(&**backup)).or_insert(ended);
        *entry = entry.max(ended);
    }
    // A run that ended before it had a repository is of no account once a later one got further.
    last.retain(|(namespace, repository), (ended, _)| {
        !repository.is_empty() || newest.get(namespace).is_none_or(|newest| *newest <= *ended)
    });
    let mut outcome = Family::new(
        "backup_last_outcome",
        "1 for how the last Backup into the repository ended, 0 for the other outcomes",
    );
    let mut end = Family::new(
        "backup_last_end_timestamp_seconds",
        "When the last Backup into the repository ended, however it did",
    );
    for ((namespace, repository), (ended, phase)) in &last {
        let labels = [("namespace", *namespace), ("repository", *repository)];
        let [of_namespace, of_repository] = labels;
        for possible in BackupPhase::ALL.iter().filter(|phase| phase.is_terminal()) {
            outcome
                .row([of_namespace, of_repository, ("outcome", possible.as_str())], flag(possible == phase));
        }
        end.row(labels, *ended);
    }
    vec![outcome, end]
}

/// The claims, with their namespaces, that a Backup was to save: those are wanted, whatever the default is.
fn asked_for(backups: &[Arc<Backup>]) -> BTreeSet<(&str, &str)> {
    let statuses = backups.iter().filter_map(|backup| Some((namespace(&**backup), backup.status.as_ref()?)));
    statuses
        .flat_map(|(namespace, status)| {
            let saved = status.components.iter().filter_map(|component| {
                component.source.claim.as_deref().or_else(|| component.name.strip_prefix("volume/"))
            });
            let skipped = status.coverage.iter().flat_map(|coverage| &coverage.skipped);
            let not_saved = skipped.filter(|skip| !skip.reason.is_harmless()).map(|skip| skip.claim.as_str());
            saved.chain(not_saved).map(move |claim| (namespace, claim))
        })
        .collect()
}

/// What becomes of a claim, in the order of its counts.
const STATES: [&str; 5] = ["protected", "incomplete", "emptied", "unprotected", "excluded"];

/// When a claim was saved last.
#[derive(Debug, Clone, Copy, Default)]
struct Saved {
    /// With gaps or without.
    any: Option<Timestamp>,
    /// Without gaps.
    whole: Option<Timestamp>,
    /// With files in it.
    with_files: Option<Timestamp>,
    /// Without any file.
    without_files: Option<Timestamp>,
}

impl Saved {
    /// Its volume may have been lost and made anew, which makes a backup without a fault.
    fn is_emptied(&self) -> bool {
        self.with_files.is_some() && self.with_files < self.without_files
    }
}

/// When each claim was saved last, by namespace and name.
fn last_saved<'a>(snapshots: &'a [Arc<Snapshot>], cluster: &str) -> BTreeMap<(&'a str, &'a str), Saved> {
    let mut saved: BTreeMap<(&str, &str), Saved> = BTreeMap::new();
    for snapshot in snapshots.iter().filter(|snapshot| is_of_backup(snapshot)) {
        let own = namespace(&**snapshot);
        // What was adopted from elsewhere protects nothing here.
        if snapshot.spec.cluster != cluster || snapshot.spec.namespace != own {
            continue;
        }
        let components =
            snapshot.status.as_ref().map(|status| status.components.as_slice()).unwrap_or_default();
        for component in components {
            let claim = component.source.claim.as_deref().or_else(|| component.name.strip_prefix("volume/"));
            let Some(claim) = claim else { continue };
            // What cannot be read any more protects nothing.
            if component.damaged {
                continue;
            }
            let time = Some(snapshot.spec.time.0);
            let saved = saved.entry((own, claim)).or_default();
            saved.any = saved.any.max(time);
            if snapshot.has_all_of(&component.name) {
                saved.whole = saved.whole.max(time);
            }
            match component.files {
                Some(0) => saved.without_files = saved.without_files.max(time),
                Some(_) => saved.with_files = saved.with_files.max(time),
                None => {}
            }
        }
    }
    saved
}

/// How many claims are in a recovery point, with all of their files or not, and how many in none; and how old the
/// protection is of the claim that was saved the longest ago.
fn protection(
    claims: &[Claim],
    snapshots: &[Arc<Snapshot>],
    asked_for: &BTreeSet<(&str, &str)>,
    defaults: &Defaults,
    cluster: &str,
) -> Vec<Family> {
    let saved = last_saved(snapshots, cluster);
    let mut counts: BTreeMap<&str, [u64; 5]> = BTreeMap::new();
    let mut oldest: BTreeMap<&str, Timestamp> = BTreeMap::new();
    for claim in claims {
        let [protected, incomplete, emptied, unprotected, excluded] =
            counts.entry(&claim.namespace).or_default();
        let saved = saved.get(&(claim.namespace.as_str(), claim.name.as_str())).copied().unwrap_or_default();
        // What was saved before it was made is of another volume of its name.
        let of_this_one = |saved: Option<Timestamp>| {
            saved.filter(|saved| claim.created.is_none_or(|created| created <= *saved))
        };
        let whole = of_this_one(saved.whole);
        let left_out = is_left_out(claim, asked_for, defaults);
        // What is not to be saved any more may grow old.
        if let Some(time) = whole.filter(|_| !left_out) {
            oldest.entry(&claim.namespace).and_modify(|known| *known = time.min(*known)).or_insert(time);
        }
        let count = if whole.is_some() && saved.is_emptied() {
            emptied
        } else if whole.is_some() {
            protected
        } else if of_this_one(saved.any).is_some() {
            incomplete
        } else if left_out {
            excluded
        } else {
            unprotected
        };
        *count = count.saturating_add(1);
    }
    let mut family = Family::new(
        "claims",
        "Bound volume claims: protected are in a recovery point made since they were, incomplete ones only in such that lack files of theirs, emptied ones held no files when they were last saved and did when they were saved before, excluded ones are in none by their own annotation or, where that is the default, because they did not opt in, unprotected ones are in none",
    );
    for (namespace, counts) in counts {
        for (state, count) in STATES.into_iter().zip(counts) {
            family.row([("namespace", namespace), ("state", state)], number(count));
        }
    }
    let mut age = Family::new(
        "claims_oldest_backup_timestamp_seconds",
        "When the newest backup without gaps began of that claim of the namespace of which it is the oldest; of claims that are to be saved and are in such a backup",
    );
    for (namespace, time) in oldest {
        age.row([("namespace", namespace)], seconds(&Time(time)));
    }
    vec![family, age]
}

/// Whether a claim is in no recovery point because somebody wants it so.
fn is_left_out(claim: &Claim, asked_for: &BTreeSet<(&str, &str)>, defaults: &Defaults) -> bool {
    let default = if asked_for.contains(&(claim.namespace.as_str(), claim.name.as_str())) {
        ClaimsDefault::OptOut
    } else {
        defaults.of(&claim.namespace)
    };
    claim.wish.leaves_out(default)
}
