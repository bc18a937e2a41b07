//! From the rows of a repository to recovery points, and from those to what has to change among the Snapshot
//! objects. Pure. Tags are what somebody wrote into a bucket: everything in them is checked.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_api::conditions::Reason;
use holdfast_api::repository::RepositoryPhase;
use holdfast_api::snapshot::{BackupId, SnapshotComponent, VolumeSource};
use holdfast_api::tags::{ComponentSet, RunTags};
use holdfast_api::{MAX_COMPONENTS, Repository, Snapshot, SnapshotStatus, names};
use holdfast_protocol::spec::SnapshotRow;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;

use super::build;

/// Largest number that the API server takes for an integer; a tag may hold any.
const MOST: u64 = i64::MAX.unsigned_abs();

/// Tags that `rewrite` and `repair snapshots`, stock restic's and ours, give to what they make of a snapshot that stays.
/// restic copies our tags as well, although files may have been left out or lost.
const REWRITTEN: &str = "rewrite";
const REPAIRED: &str = "repaired";

/// One run's worth of data in a repository.
#[derive(Debug, Clone, PartialEq)]
pub struct RecoveryPoint {
    /// The Backup that made it.
    pub backup: BackupId,
    /// When that Backup began.
    pub time: Timestamp,
    /// Cluster that it was made in.
    pub cluster: String,
    /// Namespace that it was made in.
    pub namespace: String,
    /// Nothing is missing: every component of the run is there, and all files of each that matter to it.
    pub complete: bool,
    /// How many components of the run are not there.
    pub missing: u64,
    /// The components that are there, by name.
    pub components: Vec<SnapshotComponent>,
    /// Of a safety snapshot: the Restore that was about to overwrite it; `backup` is that Restore.
    pub undo_of: Option<String>,
}

/// What a repository holds.
#[derive(Debug, Default, PartialEq)]
pub struct Listing {
    /// Recovery points made by Holdfast.
    pub points: Vec<RecoveryPoint>,
    /// restic snapshots of others, which are left alone.
    pub foreign: usize,
    /// restic snapshots that have our tags and cannot be understood, with the reason.
    pub unreadable: Vec<String>,
    /// Ids of those that are damaged: whose they are nobody can tell any more.
    pub damaged: BTreeSet<String>,
}

/// The rows without those that are worth nothing: they have all tags of their run, and would make a whole recovery point of it.
pub fn without(rows: &[SnapshotRow], discarded: &BTreeSet<String>) -> Vec<SnapshotRow> {
    rows.iter().filter(|row| !discarded.contains(&row.id)).cloned().collect()
}

/// Groups the rows of a repository by run.
pub fn points(rows: &[SnapshotRow]) -> Listing {
    let mut listing = Listing::default();
    let mut runs: BTreeMap<String, Vec<(RunTags, &SnapshotRow)>> = BTreeMap::new();
    for row in rows {
        if row.damaged {
            listing.damaged.insert(row.id.clone());
            continue;
        }
        match RunTags::parse(&row.tags) {
            Ok(None) => listing.foreign += 1,
            Err(error) => listing.unreadable.push(format!("{}: {error}", short(&row.id))),
            Ok(Some(tags)) => match refuse(&tags) {
                Some(reason) => listing.unreadable.push(format!("{}: {reason}", short(&row.id))),
                None => runs.entry(tags.run_uid.clone()).or_default().push((tags, row)),
            },
        }
    }
    listing.points = runs.into_values().filter_map(point).collect();
    listing.points.sort_by(|a, b| (a.time, &a.backup.uid).cmp(&(b.time, &b.backup.uid)));
    listing
}

fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// What the schema of a Snapshot would refuse: told here, per row, instead of by an API error for the whole sync.
fn refuse(tags: &RunTags) -> Option<String> {
    let bad = |text: &str, limit: usize| text.is_empty() || text.len() > limit;
    [
        ("run", &tags.run, 253),
        ("run-uid", &tags.run_uid, 63),
        ("cluster", &tags.cluster, 63),
        ("namespace", &tags.namespace, 63),
        ("component", &tags.component, 320),
    ]
    .into_iter()
    .chain(tags.undo_of.as_ref().map(|name| ("undo-of", name, 253)))
    .find(|(_, text, limit)| bad(text, *limit))
    .map(|(key, _, limit)| format!("the tag {key} is empty or longer than {limit} bytes"))
}

fn point(mut members: Vec<(RunTags, &SnapshotRow)>) -> Option<RecoveryPoint> {
    // A component can be there twice when an attempt was killed at the worst moment; the later one is as good. One that
    // was rewritten is worse than what it was made from, and a mended one better.
    members.sort_by(|(a, row_a), (b, row_b)| {
        let key = |row: &SnapshotRow| (!has_tag(row, REWRITTEN), has_tag(row, REPAIRED));
        (&a.component, key(row_a), &row_a.time, &row_a.id).cmp(&(
            &b.component,
            key(row_b),
            &row_b.time,
            &row_b.id,
        ))
    });
    let (first, _) = members.first()?;
    let wanted = first.components.clone();
    let same_set = members.iter().all(|(tags, _)| tags.components == wanted);
    let mut point = RecoveryPoint {
        backup: BackupId { name: first.run.clone(), uid: first.run_uid.clone() },
        time: first.run_start,
        cluster: first.cluster.clone(),
        namespace: first.namespace.clone(),
        complete: false,
        missing: 0,
        components: Vec::new(),
        undo_of: first.undo_of.clone(),
    };
    let by_name: BTreeMap<&str, &(RunTags, &SnapshotRow)> =
        members.iter().map(|member| (member.0.component.as_str(), member)).collect();
    let present = ComponentSet::of(by_name.keys().copied());
    let has_all = same_set && present == wanted;
    let lacking = if has_all {
        0
    } else {
        // Where the members disagree about the set, something is missing by the account of one of them.
        let most = members.iter().map(|(tags, _)| tags.components.count).max().unwrap_or_default();
        most.saturating_sub(by_name.len()).max(1)
    };
    let left_out = by_name.len().saturating_sub(MAX_COMPONENTS);
    point.missing = u64::try_from(lacking.saturating_add(left_out)).unwrap_or(MOST).min(MOST);
    let has_gaps = by_name
        .values()
        .any(|(tags, row)| (tags.unreadable > 0 && !tags.ignores_unreadable) || is_made_over(row));
    point.complete = point.missing == 0 && !has_gaps;
    point.components =
        by_name.into_values().take(MAX_COMPONENTS).map(|(tags, row)| component(tags, row)).collect();
    Some(point)
}

fn has_tag(row: &SnapshotRow, tag: &str) -> bool {
    row.tags.iter().any(|one| one == tag)
}

/// Whether somebody made it of the snapshot of a run, so that what the run says of it need not be so.
fn is_made_over(row: &SnapshotRow) -> bool {
    has_tag(row, REWRITTEN) || has_tag(row, REPAIRED)
}

fn component(tags: &RunTags, row: &SnapshotRow) -> SnapshotComponent {
    let volume = &tags.volume;
    SnapshotComponent {
        name: tags.component.clone(),
        snapshot_id: row.id.clone(),
        size: row.bytes,
        files: row.files,
        // How many files one lacks that was made over by stock restic, nobody knows.
        unreadable: (tags.unreadable > 0 || !is_made_over(row)).then_some(tags.unreadable.min(MOST)),
        source: VolumeSource {
            claim: names::claim_of_component(&tags.component).map(str::to_owned),
            capacity: volume.capacity.clone().map(Quantity),
            storage_class: volume.storage_class.clone(),
            access_modes: volume.access_modes.iter().take(4).cloned().collect(),
            volume_mode: volume.volume_mode.clone(),
            labels: volume.labels.clone(),
            annotations: volume.annotations.clone(),
        },
        ..SnapshotComponent::default()
    }
}

/// A safety snapshot lacks the volumes that held no files. Its Restore knew which ones those were, and made the Snapshot of
/// it when all others were saved. The bucket does not tell them from volumes that could not be saved, so without that
/// Snapshot it is called incomplete.
fn as_its_restore_knew(point: RecoveryPoint, current: Option<&Snapshot>) -> RecoveryPoint {
    let Some(status) = current.and_then(|current| current.status.as_ref()) else { return point };
    let was_whole = status.complete_before_damage.or(status.complete) == Some(true);
    let ids = |components: &[SnapshotComponent]| -> BTreeSet<String> {
        components.iter().map(|component| component.snapshot_id.clone()).collect()
    };
    // Something of it may have been forgotten while it was damaged.
    let was_whole = was_whole && status.missing == Some(0);
    if point.undo_of.is_some() && was_whole && ids(&point.components) == ids(&status.components) {
        return RecoveryPoint { complete: true, missing: 0, ..point };
    }
    point
}

/// What has to change among the Snapshot objects of a repository.
#[derive(Debug, Default)]
pub struct Changes {
    /// To be made or brought up to date.
    pub publish: Vec<RecoveryPoint>,
    /// To be removed: what they mirror is not in the repository any more.
    pub remove: Vec<Snapshot>,
    /// To be marked: what they mirror is there and cannot be read. With their new status.
    pub damaged: Vec<(Snapshot, SnapshotStatus)>,
    /// How many there are afterwards.
    pub total: usize,
    /// When the Backup began that made the newest complete one of those.
    pub last_complete: Option<Timestamp>,
}

impl Changes {
    fn keeps_complete(&mut self, time: Timestamp) {
        self.last_complete = self.last_complete.max(Some(time));
    }

    fn mark(&mut self, snapshot: Snapshot, point: Option<&RecoveryPoint>, damaged: &BTreeSet<String>) {
        if let Some(status) = build::with_damage(&snapshot, point, damaged) {
            self.damaged.push((snapshot, status));
        }
    }
}

/// Compares the recovery points of a listing with the Snapshot objects.
///
/// `running` are the uids of Backups at work: their recovery points are not finished and are left to them.
/// Objects made after `listed` (the start of the listing) are newer than it, and are left alone.
pub fn changes(
    repository: &Repository,
    points: Vec<RecoveryPoint>,
    existing: Vec<Snapshot>,
    running: &BTreeSet<String>,
    damaged: &BTreeSet<String>,
    listed: Timestamp,
) -> Changes {
    // One that refers to a damaged snapshot stays, and says so: what it stands for was not forgotten, a Restore from it is
    // refused, and none takes an older one for the latest because this one is gone.
    let is_hurt = |snapshot: &Snapshot| {
        let components = snapshot.status.iter().flat_map(|status| &status.components);
        components.into_iter().any(|component| damaged.contains(&component.snapshot_id))
    };
    let mut by_name: BTreeMap<String, Snapshot> = existing.into_iter().map(|s| (s.name_any(), s)).collect();
    let mut changes = Changes::default();
    for point in points {
        if running.contains(&point.backup.uid) {
            continue;
        }
        changes.total += 1;
        match by_name.remove(&build::name(&point)) {
            Some(current) if is_hurt(&current) => changes.mark(current, Some(&point), damaged),
            current => {
                let point = as_its_restore_knew(point, current.as_ref());
                if point.complete && point.undo_of.is_none() {
                    changes.keeps_complete(point.time);
                }
                if current.is_none_or(|current| !build::is_up_to_date(repository, &point, &current)) {
                    changes.publish.push(point);
                }
            }
        }
    }
    for (_, snapshot) in by_name {
        let made = snapshot.creation_timestamp().map(|t| t.0);
        let newer = made.is_none_or(|made| made >= listed);
        if newer || running.contains(&snapshot.spec.backup.uid) {
            changes.total += 1;
            if snapshot.is_complete_backup() {
                changes.keeps_complete(snapshot.spec.time.0);
            }
        } else if is_hurt(&snapshot) {
            changes.total += 1;
            changes.mark(snapshot, None, damaged);
        } else {
            changes.remove.push(snapshot);
        }
    }
    changes
}

/// A Snapshot that is there under the name of one to be made.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Namesake {
    /// It is the one.
    Ours,
    /// Another Repository of the namespace leads to the same data and mirrors it. One mirror is enough: two that
    /// replace each other would do so for ever.
    Theirs,
    /// It says what is not so any more, and a spec cannot be changed.
    Outdated,
}

pub(super) fn namesake(existing: &Snapshot, wanted: &Snapshot, its_repository_exists: bool) -> Namesake {
    if existing.spec == wanted.spec {
        return Namesake::Ours;
    }
    let same_repository = existing.spec.repository_ref == wanted.spec.repository_ref;
    if its_repository_exists && !same_repository { Namesake::Theirs } else { Namesake::Outdated }
}

/// Whether a Snapshot can be restored from, and why not.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Usable {
    pub yes: bool,
    pub reason: Reason,
    pub message: String,
}

pub(super) fn usable(snapshot: &Snapshot, repository: Option<&Repository>) -> Usable {
    let no = |reason, message: String| Usable { yes: false, reason, message };
    let name = &snapshot.spec.repository_ref.name;
    let Some(repository) = repository else {
        return no(
            Reason::RepositoryNotFound,
            format!(
                "Repository {name} does not exist; create it again with the same directory to restore from this"
            ),
        );
    };
    // A storage that is away for a moment says so itself; a thousand Snapshots need not flicker with it.
    if repository.status.as_ref().and_then(|status| status.phase) == Some(RepositoryPhase::Failed) {
        return no(
            Reason::RepositoryNotReady,
            format!("Repository {name} cannot be used; its Ready condition says why"),
        );
    }
    let components = snapshot.status.as_ref().map(|status| status.components.as_slice()).unwrap_or_default();
    if components.is_empty() {
        return no(Reason::Pending, "what it holds is not written down yet".to_owned());
    }
    let lost: Vec<&str> = components.iter().filter(|c| c.damaged).map(|c| c.name.as_str()).collect();
    let what_to_do = format!("the condition SnapshotsDamaged of Repository {name} says what can be done");
    if lost.len() == components.len() {
        return no(Reason::SnapshotDamaged, format!("it cannot be read any more; {what_to_do}"));
    }
    let message = if lost.is_empty() {
        "it can be restored from".to_owned()
    } else {
        format!(
            "it can be restored from, but for {}, which cannot be read any more; {what_to_do}",
            listed(&lost)
        )
    };
    Usable { yes: true, reason: Reason::Synced, message }
}

/// The first of them: a message has its limits.
fn listed(names: &[&str]) -> String {
    const MOST: usize = 5;
    let more = names.len().saturating_sub(MOST);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", names.iter().take(MOST).copied().collect::<Vec<_>>().join(", "))
}
