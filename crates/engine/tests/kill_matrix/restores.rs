//! Restores: what is killed writes into a directory, and into the repository nothing but its lock.

use std::fs;
use std::path::{Path, PathBuf};

use holdfast_engine::lock::LockMode;
use holdfast_engine::restore::{RestoreSpec, restore};
use holdfast_engine::{Ctx, Id, Repository, Result};

use crate::backups::make_source;
use crate::kills::killed_at;
use crate::restoring::{self, back_up, init, run_clean, scratch, spec};
use crate::scene::locked;
use crate::stock::assert_same;

pub(crate) async fn run(repo: &Repository, snapshot: Id, target: &Path, ctx: &Ctx) -> Result<()> {
    let spec = RestoreSpec { subpath: None, ..spec(snapshot, Path::new("/"), target) };
    locked(repo, LockMode::Shared, ctx, async |lock| restore(repo, Some(lock), &spec, ctx).await.map(drop))
        .await
}

const RESTORE_POINTS: [&str; 10] = [
    "after put lock 1",
    "after list index 1",
    "after get index 1",
    "phase plan",
    "phase restore",
    "before get pack 2",
    "after get pack 3",
    "after get pack 5",
    "phase finish",
    "before delete lock 1",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_killed_at_any_point_leaves_no_wrong_file_and_the_next_one_goes_on() {
    let dir = scratch();
    let (source, at) = (dir.path().join("source"), dir.path().join("repo"));
    make_source(&source);
    let repo = init(&at).await;
    let snapshot = back_up(&repo, &source).await.snapshot;
    for point in RESTORE_POINTS {
        let target = dir.path().join("target");
        killed_at(point, "restore", &at, &[&snapshot.to_string(), target.to_str().unwrap()]);
        let inner = target.join(source.strip_prefix("/").unwrap());
        let left = if target.exists() { restoring::files_below(&target) } else { Vec::new() };
        for path in left {
            // What has its own name is whole.
            if !path.file_name().unwrap().to_string_lossy().starts_with(".holdfast-restore-") {
                let original = source.join(path.strip_prefix(&inner).unwrap());
                assert!(
                    fs::read(&path).unwrap() == fs::read(original).unwrap(),
                    "{point}: {}",
                    path.display()
                );
            }
        }
        let whole = RestoreSpec { subpath: None, ..spec(snapshot, &source, &target) };
        run_clean(&repo, &whole).await;
        assert_same(&source, &inner, point);
        assert_eq!(restoring::temporary_files(&target), Vec::<PathBuf>::new(), "{point}");
        // A restore's lock is shared: only the next exclusive one, or anybody's unlock, has to meet it.
        back_up(&repo, &source).await;
        assert_eq!(repo.locks().await.unwrap(), [], "{point}");
        fs::remove_dir_all(&target).unwrap();
    }
}
