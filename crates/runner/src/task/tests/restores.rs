//! Putting a claim back, and what is told when it did not come to that.

use super::*;

#[tokio::test]
async fn a_restore_puts_back_what_was_there_and_proves_it() {
    let place = Place::new();
    place.initialized().await;
    fs::create_dir(place.path("source/sub")).unwrap();
    fs::write(place.path("source/sub/a"), "content").unwrap();
    fs::write(place.path("source/b"), "").unwrap();
    let snapshot = backed_up(&place.run(Task::BackupVolume(place.backup())).await.unwrap());
    fs::write(place.path("target/extra"), "x").unwrap();

    let plan = RestoreVolume { plan_only: true, ..place.restore(&snapshot) };
    let planned = restored(&place.run(Task::RestoreVolume(plan)).await.unwrap());
    assert_eq!((planned.create, planned.bytes_to_write), (3, 7));
    assert!(planned.bytes_available > 0);
    assert_eq!(place.content("target").len(), 1, "a plan writes nothing");

    let task = RestoreVolume { delete_extra: true, ..place.restore(&snapshot) };
    let verdict = place.run(Task::RestoreVolume(task)).await.unwrap();
    assert_eq!((verdict.outcome, verdict.lock_released), (Outcome::Succeeded, true));
    let result = restored(&verdict);
    assert!(result.verified && (result.bytes_written, result.delete) == (7, 1), "{result:?}");
    assert_eq!(place.content("target"), place.content("source"));
    assert_eq!(place.store().list(FileKind::Lock).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_to_be_deleted_is_not_called_deleted_when_something_failed_before() {
    let place = Place::new();
    place.initialized().await;
    fs::write(place.path("source/a"), "content").unwrap();
    let snapshot = backed_up(&place.run(Task::BackupVolume(place.backup())).await.unwrap());
    fs::write(place.path("target/extra"), "x").unwrap();
    let index = place.open().await.load_index(&Ctx::default()).await.unwrap();
    let pack = index.packs().iter().find(|pack| pack.has_data).unwrap().id.to_hex();
    let pack = place.path("store/data").join(&pack[..2]).join(&pack);
    let mut bytes = fs::read(&pack).unwrap();
    bytes[20] ^= 1;
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, bytes).unwrap();

    let task = RestoreVolume { delete_extra: true, ..place.restore(&snapshot) };
    let planned =
        place.run(Task::RestoreVolume(RestoreVolume { plan_only: true, ..task.clone() })).await.unwrap();
    assert_eq!(restored(&planned).delete, 1);
    let verdict = place.run(Task::RestoreVolume(task)).await.unwrap();
    assert_eq!(verdict.reason.as_deref(), Some("RestoreIncomplete"), "{verdict:?}");
    assert_eq!(restored(&verdict).delete, 0);
    assert!(place.path("target/extra").exists());
}

#[tokio::test]
async fn what_a_backup_left_out_stays_but_where_a_restore_is_undone() {
    for (tags, stays) in [(vec![], true), (vec!["holdfast.dev/undo-of=put-back".to_owned()], false)] {
        let place = Place::new();
        place.initialized().await;
        fs::write(place.path("source/a"), "content").unwrap();
        let backup = BackupVolume { exclude: vec!["*.tmp".into()], tags, ..place.backup() };
        let snapshot = backed_up(&place.run(Task::BackupVolume(backup)).await.unwrap());
        fs::write(place.path("target/x.tmp"), "left out").unwrap();
        fs::write(place.path("target/extra"), "extra").unwrap();
        let exact = RestoreVolume { delete_extra: true, ..place.restore(&snapshot) };
        let verdict = place.run(Task::RestoreVolume(exact)).await.unwrap();
        assert_eq!(
            (verdict.outcome, restored(&verdict).delete),
            (Outcome::Succeeded, if stays { 1 } else { 2 })
        );
        assert_eq!(
            (place.path("target/x.tmp").exists(), place.path("target/extra").exists()),
            (stays, false)
        );
    }
}

/// Where caches were saved, the tag alone does not mean that the rest was left out.
#[tokio::test]
async fn extras_beside_a_cache_tag_stay_unless_caches_were_saved() {
    for exclude_caches in [true, false] {
        let place = Place::new();
        place.initialized().await;
        fs::create_dir(place.path("source/cache")).unwrap();
        let tag = "Signature: 8a477f597d28d172789f06886806bc55";
        fs::write(place.path("source/cache/CACHEDIR.TAG"), tag).unwrap();
        let backup = BackupVolume { exclude_caches, ..place.backup() };
        let snapshot = backed_up(&place.run(Task::BackupVolume(backup)).await.unwrap());
        fs::create_dir(place.path("target/cache")).unwrap();
        fs::write(place.path("target/cache/object"), "x").unwrap();
        let exact = RestoreVolume { delete_extra: true, ..place.restore(&snapshot) };
        let verdict = place.run(Task::RestoreVolume(exact)).await.unwrap();
        assert_eq!(verdict.outcome, Outcome::Succeeded);
        assert_eq!(place.path("target/cache/object").exists(), exclude_caches);
    }
}

#[tokio::test]
async fn what_was_not_there_before_is_undone_by_deleting_it_and_nothing_else() {
    let place = Place::new();
    place.initialized().await;
    fs::write(place.path("source/before"), "before").unwrap();
    let tags = vec!["holdfast.dev/undo-of=put-back".to_owned()];
    let backup = BackupVolume { tags, ..place.backup() };
    let snapshot = backed_up(&place.run(Task::BackupVolume(backup)).await.unwrap());
    fs::create_dir_all(place.path("target/new/deep")).unwrap();
    fs::write(place.path("target/new/deep/file"), "put back").unwrap();
    fs::write(place.path("target/new/since"), "written since").unwrap();
    let include = vec!["/new/deep/file".to_owned()];
    let undo = RestoreVolume { include: include.clone(), delete_extra: true, ..place.restore(&snapshot) };

    let verdict = place.run(Task::RestoreVolume(undo.clone())).await.unwrap();
    assert_eq!((verdict.outcome, verdict.reason.as_deref()), (Outcome::Succeeded, None), "{verdict:?}");
    assert_eq!(restored(&verdict).delete, 1);
    assert!(place.path("target/new/since").exists() && !place.path("target/new/deep/file").exists());
    assert!(!place.path("target/before").exists(), "what was not restored is not put back");

    let with = |include: Vec<String>| RestoreVolume { include, ..undo.clone() };
    let half =
        place.run(Task::RestoreVolume(with(vec!["/before".into(), "/new/slip".into()]))).await.unwrap();
    assert_eq!((half.outcome, half.reason.as_deref()), (Outcome::Succeeded, Some("UnmatchedInclude")));
    // A slip, or the next attempt of a runner that was killed before it told.
    let verdict = place.run(Task::RestoreVolume(undo.clone())).await.unwrap();
    assert_eq!((verdict.outcome, verdict.reason.as_deref()), (Outcome::Partial, Some("UnmatchedInclude")));
    let kept = RestoreVolume { delete_extra: false, ..undo };
    let failure = place.run(Task::RestoreVolume(kept)).await.unwrap_err();
    assert_eq!(failure.reason, "EmptySelection", "it cannot be an undo");
}

/// Of a restore that left something alone all else is undone, also where nothing else was there before.
#[tokio::test]
async fn what_was_left_alone_is_left_alone_again() {
    let place = Place::new();
    place.initialized().await;
    fs::write(place.path("source/a.db"), "old").unwrap();
    let tags = vec!["holdfast.dev/undo-of=put-back".to_owned()];
    let snapshot =
        backed_up(&place.run(Task::BackupVolume(BackupVolume { tags, ..place.backup() })).await.unwrap());
    fs::write(place.path("target/a.db"), "written since").unwrap();
    fs::write(place.path("target/b.txt"), "put back").unwrap();
    let exclude = vec!["*.db".to_owned()];
    let undo = RestoreVolume { exclude, delete_extra: true, ..place.restore(&snapshot) };
    let verdict = place.run(Task::RestoreVolume(undo)).await.unwrap();
    assert_eq!((verdict.outcome, restored(&verdict).delete), (Outcome::Succeeded, 1), "{verdict:?}");
    assert_eq!(fs::read_to_string(place.path("target/a.db")).unwrap(), "written since");
    assert!(!place.path("target/b.txt").exists());
}

#[tokio::test]
async fn a_restore_of_nothing_is_no_success() {
    let place = Place::new();
    place.initialized().await;
    fs::write(place.path("source/a"), "content").unwrap();
    let snapshot = backed_up(&place.run(Task::BackupVolume(place.backup())).await.unwrap());
    let reason =
        async |volume: RestoreVolume| place.run(Task::RestoreVolume(volume)).await.unwrap_err().reason;

    let good = || place.restore(&snapshot);
    assert_eq!(reason(RestoreVolume { source_path: "/data/other".into(), ..good() }).await, "EmptySelection");
    assert_eq!(reason(RestoreVolume { include: vec!["*.txt".into()], ..good() }).await, "EmptySelection");
    assert_eq!(reason(RestoreVolume { snapshot_id: "0".repeat(64), ..good() }).await, "SnapshotMissing");
    assert_eq!(reason(RestoreVolume { target: place.text("nowhere"), ..good() }).await, "TargetMissing");
    assert_eq!(place.content("target"), []);

    let half = RestoreVolume { include: vec!["a".into(), "*.txt".into()], ..good() };
    let verdict = place.run(Task::RestoreVolume(half)).await.unwrap();
    assert_eq!((verdict.outcome, verdict.reason.as_deref()), (Outcome::Partial, Some("UnmatchedInclude")));
    let slip = RestoreVolume { exclude: vec!["b".into()], ..good() };
    let verdict = place.run(Task::RestoreVolume(slip)).await.unwrap();
    assert_eq!((verdict.outcome, verdict.reason.as_deref()), (Outcome::Succeeded, Some("UnmatchedExclude")));
    assert!(verdict.message.unwrap().contains("\"b\""));
}
