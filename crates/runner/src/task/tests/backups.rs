//! Saving a claim: what is saved, what is told of the rest, and what an attempt takes over.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_without_files_is_not_saved_where_that_is_asked_and_says_so() {
    let place = Place::new();
    place.initialized().await;
    let spec = BackupVolume { skip_empty: true, ..place.backup() };
    fs::create_dir(place.path("source/lost+found")).unwrap();
    let nothing = backed_up(&place.run(Task::BackupVolume(spec.clone())).await.unwrap());
    assert_eq!((nothing.empty, nothing.snapshot_id), (true, None));
    assert!(place.open().await.snapshots().await.unwrap().is_empty());
    fs::create_dir(place.path("source/directory")).unwrap();
    let saved = backed_up(&place.run(Task::BackupVolume(spec)).await.unwrap());
    assert!(!saved.empty && saved.snapshot_id.is_some(), "a directory is something to put back");
}

/// Where the runner mounts the claim, `/data/<claim>`, is nothing that a pattern could mean.
#[tokio::test(flavor = "multi_thread")]
async fn patterns_count_from_the_root_of_the_volume() {
    let place = Place::new();
    place.initialized().await;
    fs::create_dir_all(place.path("source/top/deep/source")).unwrap();
    fs::create_dir(place.path("source/deep")).unwrap();
    for file in ["kept", "top/kept", "top/deep/lost", "top/deep/source/lost", "deep/kept"] {
        fs::write(place.path("source").join(file), "x").unwrap();
    }
    let above = place.directory.path().file_name().unwrap().to_str().unwrap().to_owned();
    // Names of what lies above the volume, the volume's own, and its whole path.
    let exclude = vec![
        above,
        "source".into(),
        place.text("source"),
        "/kept/".into(),
        "!/kept".into(),
        "/top/deep".into(),
    ];
    let spec = BackupVolume { exclude, ..place.backup() };
    let verdict = place.run(Task::BackupVolume(spec)).await.unwrap();
    place.run(Task::RestoreVolume(place.restore(&backed_up(&verdict)))).await.unwrap();
    let files: Vec<String> = place
        .content("target")
        .into_iter()
        .filter(|(_, content)| content.is_some())
        .map(|(name, _)| name)
        .collect();
    assert_eq!(files, ["deep/kept", "kept", "top/kept"]);
    // For whoever looks at the snapshot by itself.
    let saved = place.open().await.snapshots().await.unwrap().remove(0).1;
    let absolute = place.text("source");
    assert_eq!(
        saved.excludes.get(1..).unwrap(),
        [
            "source".to_owned(),
            format!("{absolute}{absolute}"),
            format!("{absolute}/kept/"),
            format!("!{absolute}/kept"),
            format!("{absolute}/top/deep"),
        ]
    );
}

#[tokio::test]
async fn a_retried_backup_takes_over_what_was_committed() {
    let place = Place::new();
    place.initialized().await;
    fs::write(place.path("source/a"), "content").unwrap();
    let task = Task::BackupVolume(place.backup());
    let first = place.run(task.clone()).await.unwrap();
    assert_eq!((first.outcome, first.lock_released), (Outcome::Succeeded, true));
    let first = backed_up(&first);
    assert_eq!((first.files_total, first.files_new, first.already_committed), (1, 1, false));

    // The source is gone meanwhile: what was committed counts.
    fs::remove_dir_all(place.path("source")).unwrap();
    let second = backed_up(&place.run(task).await.unwrap());
    assert!(second.already_committed);
    assert_eq!((second.snapshot_id, second.files_total), (first.snapshot_id, 1));
    assert_eq!(place.open().await.snapshots().await.unwrap().len(), 1);
    assert_eq!(place.store().list(FileKind::Lock).await.unwrap(), []);
}

#[tokio::test]
async fn the_next_run_compares_with_the_last_one() {
    let place = Place::new();
    place.initialized().await;
    fs::write(place.path("source/a"), "content").unwrap();
    let first = backed_up(&place.run(Task::BackupVolume(place.backup())).await.unwrap());
    let next = BackupVolume {
        identity_tags: vec!["run=2".into()],
        tags: vec!["run=2".into()],
        time: "2026-11-21T02:00:00Z".into(),
        ..place.backup()
    };
    let second = backed_up(&place.run(Task::BackupVolume(next)).await.unwrap());
    assert_eq!(second.parent, first.snapshot_id);
    assert_eq!((second.already_committed, second.files_new), (false, 0));
}

#[tokio::test]
async fn an_empty_volume_is_backed_up_and_says_that_it_is_empty() {
    let place = Place::new();
    place.initialized().await;
    let verdict = place.run(Task::BackupVolume(place.backup())).await.unwrap();
    assert_eq!(verdict.outcome, Outcome::Succeeded);
    assert_eq!(backed_up(&verdict).files_total, 0);
}

#[tokio::test]
async fn a_volume_that_is_not_mounted_is_not_an_empty_one() {
    let place = Place::new();
    place.initialized().await;
    fs::remove_dir(place.path("source")).unwrap();
    let failure = place.run(Task::BackupVolume(place.backup())).await.unwrap_err();
    assert_eq!((failure.reason, failure.retryable), ("SourceMissing", false));
    assert_eq!(place.open().await.snapshots().await.unwrap().len(), 0);
}

#[tokio::test]
async fn unreadable_files_do_what_the_user_asked_for() {
    assert!(
        fs::File::open(Path::new(UNREADABLE).join("compact_memory")).is_err(),
        "this kernel lacks the test's file"
    );
    let place = Place::new();
    place.initialized().await;
    let task = |on_unreadable, run: &str| {
        let tags = vec![format!("run={run}")];
        let path = UNREADABLE.to_owned();
        Task::BackupVolume(BackupVolume {
            path,
            on_unreadable,
            identity_tags: tags.clone(),
            tags,
            ..place.backup()
        })
    };

    let verdict = place.run(task(OnUnreadable::PartiallyFail, "partial")).await.unwrap();
    assert_eq!((verdict.outcome, verdict.reason.as_deref()), (Outcome::Partial, Some("Unreadable")));
    let result = backed_up(&verdict);
    assert!(result.unreadable > 0 && result.snapshot_id.is_some());
    assert!(result.unreadable_sample.iter().any(|f| f.path.ends_with("compact_memory")), "{result:?}");

    // A later attempt learns from the snapshot itself that it has gaps.
    let again = place.run(task(OnUnreadable::PartiallyFail, "partial")).await.unwrap();
    assert_eq!(again.outcome, Outcome::Partial);
    assert_eq!(
        (backed_up(&again).already_committed, backed_up(&again).unreadable),
        (true, result.unreadable)
    );
    let (_, snapshot) = place.open().await.snapshots().await.unwrap().remove(0);
    assert!(
        snapshot.tags.contains(&format!("{UNREADABLE_TAG}={}", result.unreadable)),
        "{:?}",
        snapshot.tags
    );

    let verdict = place.run(task(OnUnreadable::Ignore, "ignore")).await.unwrap();
    assert_eq!((verdict.outcome, backed_up(&verdict).unreadable), (Outcome::Succeeded, result.unreadable));

    let failure = place.run(task(OnUnreadable::Fail, "fail")).await.unwrap_err();
    assert_eq!((failure.reason, failure.retryable), ("Unreadable", false));
    let Some(TaskResult::BackupVolume(shown)) = failure.result.as_deref() else { panic!("{failure:?}") };
    assert!(shown.unreadable > 0 && shown.snapshot_id.is_none());
    assert_eq!(place.open().await.snapshots().await.unwrap().len(), 2);
    assert_eq!(place.store().list(FileKind::Lock).await.unwrap(), []);
}

#[tokio::test]
async fn a_stopped_backup_commits_nothing_and_leaves_no_lock() {
    let place = Place::new();
    place.initialized().await;
    fs::write(place.path("source/a"), vec![1; 1 << 20]).unwrap();
    let (job, _) = place.job(Task::BackupVolume(place.backup()));
    let stop = Stop::new();
    let repository = place.open().await;
    // Somebody holds the repository, so that the backup is certainly still at its beginning.
    let holder =
        Holder { hostname: "laptop".into(), username: "ann".into(), pid: 1, cluster: None, job_uid: None };
    let guard = repository
        .lock(LockMode::Exclusive, &holder, std::time::Duration::ZERO, &[], &Ctx::default())
        .await
        .unwrap();
    let job = Job { ctx: Ctx { cancel: stop.work().child_token(), ..job.ctx.clone() }, ..job };
    let (result, ()) = tokio::join!(job.perform(), async {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        stop.ask();
    });
    let failure = result.unwrap_err();
    assert_eq!((failure.reason, failure.retryable), ("Stopped", true));
    guard.release().await.unwrap();
    assert_eq!(place.store().list(FileKind::Lock).await.unwrap(), []);
    assert_eq!(repository.snapshots().await.unwrap().len(), 0);
}
