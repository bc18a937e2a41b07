use std::collections::BTreeSet;

use holdfast_api::refs::LocalRef;
use holdfast_api::tags::{ComponentSet, RunTags, VolumeTags};
use holdfast_api::{Reason, SnapshotSpec};
use holdfast_protocol::spec::SnapshotRow;
use jiff::Timestamp;

use super::*;

fn tags(run_uid: &str, component: &str, set: &[&str]) -> RunTags {
    RunTags {
        cluster: "prod".into(),
        cluster_uid: "k".into(),
        namespace: "shop".into(),
        run: "daily".into(),
        run_uid: run_uid.into(),
        run_start: "2026-11-20T02:00:00Z".parse().unwrap(),
        component: component.into(),
        components: ComponentSet::of(set.iter().copied()),
        volume: VolumeTags { capacity: Some("1Gi".into()), ..VolumeTags::default() },
        unreadable: 0,
        ignores_unreadable: false,
        undo_of: None,
    }
}

fn row(id: &str, tags: Vec<String>) -> SnapshotRow {
    SnapshotRow {
        id: id.repeat(64).chars().take(64).collect(),
        time: "2026-11-20T02:00:00Z".into(),
        host: "shop".into(),
        paths: vec!["/data/data".into()],
        tags,
        files: Some(3),
        bytes: Some(10),
        damaged: false,
    }
}

fn repository() -> Repository {
    serde_saphyr::from_str(
        "
apiVersion: holdfast.dev/v1alpha1
kind: Repository
metadata: {name: main, namespace: shop, uid: r1}
spec: {storageRef: {name: offsite}}
",
    )
    .unwrap()
}

/// The object as it stands in the cluster after `publish`.
fn mirrored(point: &RecoveryPoint, created: &str) -> Snapshot {
    let mut snapshot = build::snapshot(&repository(), point);
    snapshot.status = Some(build::status(point, None));
    snapshot.metadata.creation_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(created.parse().unwrap()));
    snapshot
}

const BOTH: [&str; 2] = ["volume/a", "volume/b"];

fn listed() -> Timestamp {
    "2026-11-20T03:00:00Z".parse().unwrap()
}

#[test]
fn components_of_a_run_become_one_recovery_point() {
    let rows = [
        row("b", tags("u1", "volume/b", &BOTH).to_tags()),
        row("a", tags("u1", "volume/a", &BOTH).to_tags()),
        row("c", tags("u2", "volume/a", &BOTH).to_tags()),
        row("d", vec!["somebody's".into()]),
        row("e", vec!["holdfast.dev/format=9".into()]),
    ];
    let listing = points(&rows);
    assert_eq!((listing.points.len(), listing.foreign, listing.unreadable.len()), (2, 1, 1));
    let [whole, half] = listing.points.as_slice() else { panic!() };
    assert!(whole.complete && !half.complete);
    assert_eq!((whole.missing, half.missing), (0, 1));
    let names: Vec<_> = whole.components.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, BOTH);
    let first = &whole.components[0];
    assert_eq!((first.size, first.source.claim.as_deref()), (Some(10), Some("a")));
    assert_eq!(first.source.capacity.as_ref().unwrap().0, "1Gi");
    assert!(listing.unreadable[0].starts_with("eeeeeeee: "), "{}", listing.unreadable[0]);
}

#[test]
fn a_component_that_is_there_twice_counts_once() {
    let rows = [
        row("a", tags("u1", "volume/a", &["volume/a"]).to_tags()),
        row("b", tags("u1", "volume/a", &["volume/a"]).to_tags()),
    ];
    let listing = points(&rows);
    assert_eq!(listing.points[0].components.len(), 1);
    assert!(listing.points[0].complete);
}

#[test]
fn runs_that_disagree_about_their_parts_are_not_complete() {
    let rows = [
        row("a", tags("u1", "volume/a", &BOTH).to_tags()),
        row("b", tags("u1", "volume/b", &["volume/a", "volume/b", "volume/c"]).to_tags()),
    ];
    let point = points(&rows).points.remove(0);
    assert_eq!((point.complete, point.missing), (false, 1));
}

/// A run of which `volume/b` had files that could not be read, as the runner tells it.
fn with_gaps(ignore: bool) -> RecoveryPoint {
    let tagged =
        |component: &str| RunTags { ignores_unreadable: ignore, ..tags("u1", component, &BOTH) }.to_tags();
    let mut gaps = tagged("volume/b");
    gaps.push("holdfast.dev/unreadable=5".into());
    points(&[row("a", tagged("volume/a")), row("b", gaps)]).points.remove(0)
}

#[test]
fn what_could_not_be_read_is_known_from_the_bucket_and_makes_it_incomplete() {
    let point = with_gaps(false);
    let unreadable: Vec<_> = point.components.iter().map(|c| c.unreadable).collect();
    assert_eq!(unreadable, [Some(0), Some(5)]);
    assert_eq!((point.complete, point.missing), (false, 0), "files are missing, and no component");
    let status = build::status(&point, None);
    assert_eq!((status.complete, status.missing), (Some(false), Some(0)));
    // To whom such files do not matter, as those that are excluded.
    let ignored = with_gaps(true);
    assert_eq!((ignored.complete, ignored.components[1].unreadable), (true, Some(5)));
}

#[test]
fn a_mirror_that_was_written_before_gaps_were_known_is_judged_again() {
    let point = with_gaps(false);
    let mut old = mirrored(&point, "2026-11-20T02:01:00Z");
    let status = old.status.as_mut().unwrap();
    (status.complete, status.missing) = (Some(true), None);
    status.components.iter_mut().for_each(|component| component.unreadable = None);
    let changes = changes(
        &repository(),
        vec![point.clone()],
        vec![old.clone()],
        &BTreeSet::new(),
        &BTreeSet::new(),
        listed(),
    );
    assert_eq!(changes.publish, std::slice::from_ref(&point));
    old.status = Some(build::status(&point, old.status.as_ref()));
    assert!(build::is_up_to_date(&repository(), &point, &old));
    assert_eq!(old.status.unwrap().complete, Some(false));
}

/// Stock restic copies all tags to what it rewrites and repairs.
#[test]
fn what_restic_made_over_is_not_taken_for_what_the_run_saved() {
    let made = |id: &str, mark: &[&str]| {
        let marks = mark.iter().map(|mark| (*mark).to_owned());
        row(id, tags("u1", "volume/a", &["volume/a"]).to_tags().into_iter().chain(marks).collect())
    };
    let of = |rows: &[SnapshotRow]| {
        let point = points(rows).points.remove(0);
        let [component] = &point.components[..] else { panic!("{point:?}") };
        (component.snapshot_id.get(..1).unwrap().to_owned(), component.unreadable, point.complete)
    };
    let (original, rewritten, repaired) = (made("5", &[]), made("9", &["rewrite"]), made("1", &["repaired"]));
    assert_eq!(of(std::slice::from_ref(&original)), ("5".into(), Some(0), true));
    assert_eq!(of(&[original.clone(), rewritten.clone()]), ("5".into(), Some(0), true), "it may lack files");
    assert_eq!(of(&[original, repaired]), ("1".into(), None, false), "the original is damaged");
    assert_eq!(of(&[rewritten]), ("9".into(), None, false), "the original was forgotten");
}

#[test]
fn a_volume_is_whole_beside_another_one_that_has_gaps() {
    let snapshot = mirrored(&with_gaps(false), "2026-11-20T02:01:00Z");
    let asked = [None, Some("volume/a"), Some("volume/b"), Some("volume/c")];
    assert_eq!(asked.map(|component| snapshot.is_whole(component)), [false, true, false, false]);
    let ignored = mirrored(&with_gaps(true), "2026-11-20T02:01:00Z");
    assert!(ignored.is_whole(None) && ignored.is_whole(Some("volume/b")));
    let half = points(&[row("a", tags("u1", "volume/a", &BOTH).to_tags())]).points.remove(0);
    let half = mirrored(&half, "2026-11-20T02:01:00Z");
    assert!(half.has_all_of("volume/a") && !half.has_all_of("volume/b"));
    assert!(!half.is_whole(Some("volume/a")), "a run that lost a component is never chosen by itself");
}

#[test]
fn tags_that_no_object_could_hold_are_told_and_stop_nothing() {
    let mut long = tags("u1", "volume/a", &["volume/a"]);
    long.run = "x".repeat(300);
    let rows = [row("a", long.to_tags()), row("b", tags("u2", "volume/a", &["volume/a"]).to_tags())];
    let listing = points(&rows);
    assert_eq!((listing.points.len(), listing.unreadable.len()), (1, 1));
    assert!(listing.unreadable[0].contains("run"), "{}", listing.unreadable[0]);
    // Nor would the API server take such numbers.
    let mut huge = RunTags { unreadable: u64::MAX, ..tags("u1", "volume/a", &BOTH) };
    huge.components.count = usize::MAX;
    let point = points(&[row("a", huge.to_tags())]).points.remove(0);
    let numbers = [point.missing, point.components[0].unreadable.unwrap()];
    assert!(numbers.iter().all(|&number| i64::try_from(number).is_ok()), "{numbers:?}");
}

#[test]
fn deleted_mirrors_come_back_and_good_ones_are_left_alone() {
    let rows = [
        row("a", tags("u1", "volume/a", &["volume/a"]).to_tags()),
        row("b", tags("u2", "volume/a", &["volume/a"]).to_tags()),
    ];
    let found = points(&rows).points;
    let kept = mirrored(&found[0], "2026-11-20T02:01:00Z");
    let changes =
        changes(&repository(), found.clone(), vec![kept], &BTreeSet::new(), &BTreeSet::new(), listed());
    assert_eq!(changes.last_complete, Some(found[1].time));
    assert_eq!((changes.publish, changes.remove.len(), changes.total), (vec![found[1].clone()], 0, 2));
}

#[test]
fn mirrors_of_what_is_gone_go_unless_they_are_newer_than_the_listing() {
    let point = points(&[row("a", tags("u1", "volume/a", &["volume/a"]).to_tags())]).points.remove(0);
    let old = mirrored(&point, "2026-11-20T02:01:00Z");
    let gone =
        changes(&repository(), Vec::new(), vec![old.clone()], &BTreeSet::new(), &BTreeSet::new(), listed());
    assert_eq!((gone.remove.len(), gone.total, gone.last_complete), (1, 0, None));
    let new = mirrored(&point, "2026-11-20T03:00:01Z");
    let kept = changes(&repository(), Vec::new(), vec![new], &BTreeSet::new(), &BTreeSet::new(), listed());
    assert_eq!((kept.remove.len(), kept.total, kept.last_complete), (0, 1, Some(point.time)));
    let running = BTreeSet::from(["u1".to_owned()]);
    let kept = changes(&repository(), Vec::new(), vec![old], &running, &BTreeSet::new(), listed());
    assert_eq!((kept.remove.len(), kept.total), (0, 1));
}

#[test]
fn mirrors_of_what_is_damaged_stay_and_say_so() {
    let both = ["volume/a", "volume/b"];
    let rows = [
        row("a", tags("u1", "volume/a", &both).to_tags()),
        row("b", tags("u1", "volume/b", &both).to_tags()),
        row("c", tags("u2", "volume/a", &["volume/a"]).to_tags()),
    ];
    let before = points(&rows).points;
    let mirrors: Vec<Snapshot> = before.iter().map(|p| mirrored(p, "2026-11-20T02:01:00Z")).collect();
    let damaged = |row: &SnapshotRow| SnapshotRow { tags: Vec::new(), damaged: true, ..row.clone() };
    let listing = points(&[damaged(&rows[0]), rows[1].clone(), damaged(&rows[2])]);
    assert_eq!((listing.foreign, listing.damaged.len(), listing.points.len()), (0, 2, 1));
    let none = BTreeSet::new();
    let found = changes(&repository(), listing.points, mirrors.clone(), &none, &listing.damaged, listed());
    assert_eq!((found.publish.len(), found.remove.len(), found.total), (0, 0, 2));
    assert_eq!(found.last_complete, None, "what cannot be read is no success");
    let marks: Vec<_> = found.damaged.iter().map(|(_, status)| status).collect();
    let [first, second] = marks.as_slice() else { panic!("{marks:?}") };
    assert_eq!(first.components.iter().map(|c| c.damaged).collect::<Vec<_>>(), [true, false]);
    assert_eq!(second.components.iter().map(|c| c.damaged).collect::<Vec<_>>(), [true]);
    assert_eq!((first.complete, first.missing, first.total_size), (Some(false), Some(0), Some(20)));
    assert_eq!((first.complete_before_damage, second.complete_before_damage), (Some(true), Some(true)));
    // What can be read and is there under another id is taken from the list; what is in neither was forgotten.
    let other = RecoveryPoint { components: vec![], ..before[0].clone() };
    let gone = build::with_damage(&mirrors[0], Some(&other), &listing.damaged).unwrap();
    assert_eq!((gone.components.len(), gone.missing), (1, Some(1)));
    let mut other = before[0].clone();
    other.components[1].snapshot_id = "new".into();
    let moved = build::with_damage(&mirrors[0], Some(&other), &listing.damaged).unwrap();
    assert_eq!((moved.components[1].snapshot_id.as_str(), moved.missing), ("new", Some(0)));
    // Marked once; and once it can be read again it is as it was.
    let mut marked = mirrors.clone();
    for (snapshot, status) in &found.damaged {
        let one = marked.iter_mut().find(|one| one.name_any() == snapshot.name_any()).unwrap();
        one.status = Some(status.clone());
    }
    let points_now = points(&[damaged(&rows[0]), rows[1].clone(), damaged(&rows[2])]).points;
    let again = changes(&repository(), points_now, marked.clone(), &none, &listing.damaged, listed());
    assert_eq!((again.damaged.len(), again.publish.len(), again.total), (0, 0, 2));
    let readable = changes(&repository(), before.clone(), marked.clone(), &none, &none, listed());
    assert_eq!((readable.publish.len(), readable.last_complete), (2, Some(before[0].time)));
    assert!(!build::status(&before[0], marked[0].status.as_ref()).components[0].damaged);
    let ready = |snapshot: &Snapshot| validate::usable(snapshot, Some(&repository()));
    let of = |uid: &str| marked.iter().find(|one| one.spec.backup.uid == uid).unwrap();
    assert_eq!((ready(of("u2")).yes, ready(of("u2")).reason), (false, Reason::SnapshotDamaged));
    assert!(
        ready(of("u1")).yes && ready(of("u1")).message.contains("but for volume/a"),
        "{}",
        ready(of("u1")).message
    );
    // They were forgotten: now they are gone, or incomplete.
    let found = changes(&repository(), points(&rows[1..2]).points, mirrors, &none, &none, listed());
    assert_eq!((found.publish.len(), found.remove.len(), found.total), (1, 1, 1));
}

#[test]
fn the_last_success_is_the_newest_complete_one_that_a_backup_made() {
    let one = |uid: &str, hour: i64, set: &[&str]| {
        let started = listed().checked_add(jiff::SignedDuration::from_hours(hour)).unwrap();
        RunTags { run_start: started, ..tags(uid, "volume/a", set) }
    };
    let alone = ["volume/a"];
    let safety = RunTags { undo_of: Some("back".into()), ..one("u3", -1, &alone) };
    let all = [one("u1", -3, &alone), one("u2", -2, &BOTH), safety, one("u4", -1, &alone)];
    let rows: Vec<SnapshotRow> =
        all.iter().zip(["a", "b", "c", "d"]).map(|(tags, id)| row(id, tags.to_tags())).collect();
    let none = BTreeSet::new();
    let last = |running: &BTreeSet<String>| {
        changes(&repository(), points(&rows).points, Vec::new(), running, &none, listed()).last_complete
    };
    assert_eq!(last(&none), Some(all[3].run_start));
    // It may add to it, or give it up: it tells itself when it has ended.
    assert_eq!(last(&BTreeSet::from(["u4".to_owned()])), Some(all[0].run_start));
}

#[test]
fn what_is_worth_nothing_makes_no_recovery_point_whole() {
    let rows = [
        row("a", tags("u1", "volume/a", &BOTH).to_tags()),
        row("b", tags("u1", "volume/b", &BOTH).to_tags()),
    ];
    let of = |discarded: &[&SnapshotRow]| {
        let ids = discarded.iter().map(|row| row.id.clone()).collect();
        let found = points(&without(&rows, &ids)).points;
        found.first().map(|point| (point.complete, point.missing, point.components.len()))
    };
    assert_eq!(of(&[]), Some((true, 0, 2)));
    assert_eq!(of(&[&rows[0]]), Some((false, 1, 1)));
    assert_eq!(of(&[&rows[0], &rows[1]]), None);
}

#[test]
fn the_unfinished_recovery_point_of_a_running_backup_is_left_to_it() {
    let found = points(&[row("a", tags("u1", "volume/a", &BOTH).to_tags())]).points;
    let running = BTreeSet::from(["u1".to_owned()]);
    let changes = changes(&repository(), found, Vec::new(), &running, &BTreeSet::new(), listed());
    assert_eq!((changes.publish.len(), changes.total), (0, 0));
}

#[test]
fn a_mirror_with_other_content_or_of_another_name_is_brought_up_to_date() {
    let point = points(&[row("a", tags("u1", "volume/a", &["volume/a"]).to_tags())]).points.remove(0);
    let current = mirrored(&point, "2026-11-20T02:01:00Z");
    assert!(build::is_up_to_date(&repository(), &point, &current));
    let mut renamed = repository();
    renamed.metadata.name = Some("other".into());
    assert!(!build::is_up_to_date(&renamed, &point, &current));
    let mut incomplete = current;
    incomplete.status.as_mut().unwrap().complete = Some(false);
    assert!(!build::is_up_to_date(&repository(), &point, &incomplete));
}

#[test]
fn a_snapshot_says_when_it_cannot_be_restored_from() {
    let point = points(&[row("a", tags("u1", "volume/a", &["volume/a"]).to_tags())]).points.remove(0);
    let snapshot = mirrored(&point, "2026-11-20T02:01:00Z");
    let mut repository = repository();
    assert!(validate::usable(&snapshot, Some(&repository)).yes);
    let missing = validate::usable(&snapshot, None);
    assert_eq!((missing.yes, missing.reason.as_str()), (false, "RepositoryNotFound"));
    repository.status = Some(serde_saphyr::from_str("phase: Failed").unwrap());
    assert_eq!(validate::usable(&snapshot, Some(&repository)).reason.as_str(), "RepositoryNotReady");
    let written = status::with_ready(&snapshot, &missing, listed());
    assert_eq!(written.components, snapshot.status.unwrap().components, "the content stays");
}

#[test]
fn a_snapshot_is_looked_at_when_its_repository_changes_what_it_says() {
    let point = points(&[row("a", tags("u1", "volume/a", &["volume/a"]).to_tags())]).points.remove(0);
    let mut snapshot = mirrored(&point, "2026-11-20T02:01:00Z");
    let mut repository = repository();
    let woken = |snapshot: &Snapshot, seen: Seen<Repository>| {
        let of_another = Snapshot {
            spec: SnapshotSpec { repository_ref: LocalRef::new("other"), ..snapshot.spec.clone() },
            ..snapshot.clone()
        };
        let all = [Arc::new(snapshot.clone()), Arc::new(of_another)];
        concerned(&seen, &all, "2026-11-21T03:00:00Z".parse().unwrap()).len()
    };
    assert_eq!(woken(&snapshot, Seen::There(repository.clone())), 1, "nothing was said yet");
    let ready = validate::usable(&snapshot, Some(&repository));
    snapshot.status = Some(status::with_ready(&snapshot, &ready, listed()));
    assert_eq!(woken(&snapshot, Seen::There(repository.clone())), 0);
    repository.status = Some(serde_saphyr::from_str("{phase: Ready, snapshotCount: 7}").unwrap());
    assert_eq!(woken(&snapshot, Seen::There(repository.clone())), 0, "a Backup has ended");
    assert_eq!(woken(&snapshot, Seen::Gone(repository.clone())), 1, "it was deleted as it was");
    repository.status = Some(serde_saphyr::from_str("phase: Failed").unwrap());
    assert_eq!(woken(&snapshot, Seen::There(repository)), 1);
}

#[test]
fn two_repositories_with_the_same_data_do_not_fight_over_the_mirror() {
    let point = points(&[row("a", tags("u1", "volume/a", &["volume/a"]).to_tags())]).points.remove(0);
    let theirs = mirrored(&point, "2026-11-20T02:01:00Z");
    let mut other = repository();
    other.metadata.name = Some("second".into());
    let wanted = build::snapshot(&other, &point);
    assert_eq!(validate::namesake(&theirs, &wanted, true), validate::Namesake::Theirs);
    assert_eq!(
        validate::namesake(&theirs, &wanted, false),
        validate::Namesake::Outdated,
        "its Repository is gone"
    );
    assert_eq!(
        validate::namesake(&theirs, &build::snapshot(&repository(), &point), true),
        validate::Namesake::Ours
    );
    let mut forged = theirs;
    forged.spec.cluster = "elsewhere".into();
    let again = build::snapshot(&repository(), &point);
    assert_eq!(validate::namesake(&forged, &again, true), validate::Namesake::Outdated);
}

#[test]
fn a_safety_snapshot_is_known_by_its_tag_and_whole_where_its_restore_said_so() {
    let tags = |component: &str| {
        let tags = RunTags { undo_of: Some("back".into()), ..tags("r1", component, &BOTH) };
        tags.to_tags()
    };
    let listing = points(&[row("a", tags("volume/a"))]);
    let [point] = listing.points.as_slice() else { panic!("{listing:?}") };
    // Whether the other volume was empty or could not be saved, the bucket does not tell.
    assert_eq!((point.undo_of.as_deref(), point.complete, point.missing), (Some("back"), false, 1));
    let both = points(&[row("a", tags("volume/a")), row("b", tags("volume/b"))]).points.remove(0);
    assert!(both.complete);
    let snapshot = mirrored(point, "2026-11-20T02:00:00Z");
    assert_eq!(snapshot.spec.undo_of.as_deref(), Some("back"));
    assert_eq!(snapshot.labels().get(names::LABEL_UNDO_OF).map(String::as_str), Some("back"));
    assert!(build::is_up_to_date(&repository(), point, &snapshot));
    let none = BTreeSet::new();
    let published = |existing: Vec<Snapshot>, point: &RecoveryPoint| {
        changes(&repository(), vec![point.clone()], existing, &none, &none, listed()).publish
    };
    // Its Restore could not save the other one, and made no Snapshot.
    assert_eq!(published(Vec::new(), point), std::slice::from_ref(point));
    // As the Restore makes it after it found the other one empty.
    let mut made = snapshot;
    let status = made.status.as_mut().unwrap();
    (status.complete, status.missing) = (Some(true), Some(0));
    assert_eq!(published(vec![made.clone()], point), [], "it stays as it is");
    // It was damaged, and can be read again.
    let status = made.status.as_mut().unwrap();
    (status.complete, status.complete_before_damage) = (Some(false), Some(true));
    let [again] = &published(vec![made.clone()], point)[..] else { panic!() };
    assert_eq!((again.complete, again.missing), (true, 0));
    // Part of it was forgotten while it was damaged.
    made.status.as_mut().unwrap().missing = Some(1);
    assert_eq!(published(vec![made.clone()], point), std::slice::from_ref(point));
    made.status.as_mut().unwrap().missing = Some(0);
    // What it knew was of other content.
    let status = made.status.as_mut().unwrap();
    (status.complete, status.complete_before_damage) = (Some(true), None);
    status.components[0].snapshot_id = "other".into();
    assert_eq!(published(vec![made], point), std::slice::from_ref(point));
}
