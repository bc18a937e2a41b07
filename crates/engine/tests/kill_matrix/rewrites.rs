//! Snapshots written anew in place of the old ones, mended ones, and one of what no snapshot reaches.

use std::collections::HashSet;
use std::fs;

use holdfast_engine::error::Result;
use holdfast_engine::lock::LockMode;
use holdfast_engine::repair::{
    Recover, RepairIndex, RepairSnapshots, recover, repair_index, repair_snapshots,
};
use holdfast_engine::restore::RestoreSpec;
use holdfast_engine::rewrite::{Files, Patterns, Rewrite, Rewriter};
use holdfast_engine::store::FileKind;
use holdfast_engine::{Ctx, Id, Repository};
use jiff::Timestamp;

use crate::forgets::{forget_those_that_go, those_that_go};
use crate::kills::{again, at_every_point};
use crate::prunes;
use crate::restoring::{files_below, open, run_clean, spec};
use crate::scene::{STAY, Scene, assert_nothing_left, assert_sound, delete, locked};

/// Takes one file out of the snapshots that go, which both have.
pub(crate) async fn rewrite(repo: &Repository, ctx: &Ctx) -> Result<()> {
    let patterns = Patterns { exact: vec!["f4".to_owned()], any_case: Vec::new() };
    let how = Rewrite {
        files: Files::Without(patterns),
        host: None,
        time: None,
        summary: false,
        forget: true,
        dry_run: false,
        says_whole: |_| false,
    };
    locked(repo, LockMode::Exclusive, ctx, async |lock| {
        let mut rewriter = Rewriter::new(repo, &how, ctx).await?;
        for (id, snapshot) in repo.snapshots().await? {
            if those_that_go().matches(&snapshot) {
                rewriter.rewrite(lock, id, &snapshot).await?;
            }
        }
        Ok(())
    })
    .await
}

pub(crate) async fn repair(repo: &Repository, ctx: &Ctx) -> Result<()> {
    let how = RepairSnapshots { forget: true, ..RepairSnapshots::default() };
    locked(repo, LockMode::Exclusive, ctx, async |lock| {
        let all = repo.snapshots().await?;
        repair_snapshots(repo, lock, &all, how, ctx).await.map(drop)
    })
    .await
}

pub(crate) async fn recover_all(repo: &Repository, ctx: &Ctx) -> Result<()> {
    let how = Recover { time: Timestamp::now(), host: "test".to_owned(), ..Recover::default() };
    locked(repo, LockMode::Exclusive, ctx, async |lock| recover(repo, lock, &how, ctx).await.map(drop)).await
}

/// The first originals of the snapshots that were written anew.
async fn originals(repo: &Repository) -> Vec<Id> {
    let all = repo.snapshots().await.unwrap();
    all.into_iter().filter_map(|(_, snapshot)| snapshot.original).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewrite_killed_at_any_point_leaves_the_old_or_the_new_and_the_next_one_only_the_new() {
    let scene = Scene::new().await;
    let one = ["put pack", "put index", "put snapshot", "delete snapshot"];
    let changes = [&["put lock"][..], &one, &one, &["delete lock"]].concat();
    at_every_point("rewrite", &scene.at, &[], &changes, async |at, place| {
        let repo = scene.assert_whole(at, &STAY, place).await;
        let there: HashSet<Id> = originals(&repo)
            .await
            .into_iter()
            .chain(repo.snapshots().await.unwrap().into_iter().map(|(id, _)| id))
            .collect();
        assert!(scene.snapshots.iter().all(|id| there.contains(id)), "{place}: the old or the new");
        again("rewrite", at, &[], place).await;
        let repo = scene.assert_whole(at, &STAY, &format!("{place}, done again")).await;
        assert_eq!(originals(&repo).await, scene.snapshots[..2], "{place}: the new, once");
        assert_eq!(repo.snapshots().await.unwrap().len(), 4, "{place}");
        let repo = assert_nothing_left(at, place).await;
        scene.assert_restores(&repo, &STAY, &[], &format!("{place}, pruned")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_of_snapshots_killed_at_any_point_is_done_by_the_next_one() {
    let scene = Scene::new().await;
    let (repo, ctx) = (open(&scene.at).await, Ctx::default());
    // The second loses three of its files.
    delete(&repo, FileKind::Pack, scene.pack_of(&repo, 7).await).await;
    let mend = locked(&repo, LockMode::Exclusive, &ctx, async |lock| {
        repair_index(&repo, lock, RepairIndex::Mend, &ctx).await
    });
    assert_eq!(mend.await.unwrap().dropped, 1);
    let changes = ["put lock", "put pack", "put index", "put snapshot", "delete snapshot", "delete lock"];
    at_every_point("repair snapshots", &scene.at, &[], &changes, async |at, place| {
        let stay = [0, 2, 3];
        let repo = open(at).await;
        scene.assert_restores(&repo, &stay, &[1], place).await;
        again("repair snapshots", at, &[], place).await;
        let repo = scene.assert_whole(at, &stay, &format!("{place}, done again")).await;
        assert_eq!(originals(&repo).await, [scene.snapshots[1]], "{place}: the mended one, once");
        assert_eq!(repo.snapshots().await.unwrap().len(), 4, "{place}");
        let repo = assert_nothing_left(at, place).await;
        scene.assert_restores(&repo, &stay, &[], &format!("{place}, pruned")).await;
    })
    .await;
}

/// What is recovered was forgotten, and a prune has marked its packs: the look after the snapshot saves it from them.
#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_killed_at_any_point_is_done_by_the_next_one() {
    let scene = Scene::new().await;
    let (repo, ctx) = (open(&scene.at).await, Ctx::default());
    forget_those_that_go(&repo, &ctx).await.unwrap();
    prunes::run(&repo, false, &ctx).await.unwrap();
    let changes = [
        "put lock",
        "put pack",
        "put index",
        "put snapshot",
        "put pack",
        "put pack",
        "put index",
        "delete lock",
    ];
    at_every_point("recover", &scene.at, &[], &changes, async |at, place| {
        scene.assert_whole(at, &STAY, place).await;
        again("recover", at, &[], place).await;
        let repo = assert_sound(at, place).await;
        // What this one takes the marks from, the next one puts together.
        prunes::run(&repo, true, &Ctx::default()).await.unwrap();
        let repo = assert_nothing_left(at, place).await;
        scene.assert_restores(&repo, &STAY, &[], &format!("{place}, pruned")).await;
        assert_recovered(&scene, &repo, place).await;
    })
    .await;
}

/// Every file of the two that were lost is in a snapshot of what was recovered.
async fn assert_recovered(scene: &Scene, repo: &Repository, place: &str) {
    let target = scene.beside("recovered");
    for (id, snapshot) in repo.snapshots().await.unwrap() {
        if snapshot.tags == ["recovered"] {
            let whole = spec(id, &scene.source, &target);
            run_clean(repo, &RestoreSpec { verify: false, subpath: None, ..whole }).await;
        }
    }
    let found: HashSet<Vec<u8>> =
        files_below(&target).into_iter().map(|file| fs::read(file).unwrap()).collect();
    for lost in scene.states[..2].iter().flat_map(|state| files_below(state)) {
        assert!(found.contains(&fs::read(&lost).unwrap()), "{place}: {}", lost.display());
    }
    fs::remove_dir_all(&target).unwrap();
}
