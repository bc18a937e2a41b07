//! Prune: its two halves apart, and both at once.

use std::time::{Duration, Instant};

use holdfast_engine::error::Result;
use holdfast_engine::forget::forgotten;
use holdfast_engine::lock::LockMode;
use holdfast_engine::prune::PruneSpec;
use holdfast_engine::repair::{RepairIndex, repair_index};
use holdfast_engine::store::PutMode;
use holdfast_engine::{Ctx, Repository};

use crate::forgets::forget_those_that_go;
use crate::kills::{again, at_every_point};
use crate::restoring::open;
use crate::scene::{STAY, Scene, assert_nothing_left, ids, locked, thorough, try_prune};

pub(crate) async fn run(repo: &Repository, instant: bool, ctx: &Ctx) -> Result<()> {
    try_prune(repo, &PruneSpec { instant, ..thorough() }, ctx).await.map(drop)
}

/// Two snapshots were forgotten, one with a list of what its backup could not read. One index file lists all packs: those
/// that go and those that stay.
async fn prunable() -> Scene {
    let scene = Scene::new().await;
    let (repo, ctx) = (open(&scene.at).await, Ctx::default());
    let list = format!("unreadable/{}", scene.snapshots[0]);
    repo.store().put_extra(&list, "a list".into(), PutMode::CreateNew).await.unwrap();
    let mend = locked(&repo, LockMode::Exclusive, &ctx, async |lock| {
        repair_index(&repo, lock, RepairIndex::FromScratch, &ctx).await
    });
    mend.await.unwrap();
    forget_those_that_go(&repo, &ctx).await.unwrap();
    scene
}

/// Runs the operation to its end at every point; afterwards all is gone that the two forgotten snapshots alone needed.
async fn prune_at_every_point(scene: &Scene, what: &str, changes: &[&str]) {
    at_every_point(what, &scene.at, &[], changes, async |at, place| {
        scene.assert_whole(at, &STAY, place).await;
        again(what, at, &[], place).await;
        scene.assert_whole(at, &STAY, &format!("{place}, done again")).await;
        let repo = assert_nothing_left(at, place).await;
        assert_eq!(ids(&repo).await, scene.ids(&STAY), "{place}");
        assert_eq!(forgotten(&repo, &Ctx::default()).await.unwrap(), [], "{place}: nothing is left of them");
        scene.assert_restores(&repo, &STAY, &[], &format!("{place}, pruned")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_killed_at_any_point_of_its_first_half_loses_nothing() {
    let scene = prunable().await;
    let changes = ["put lock", "put pack", "put pack", "put index", "put index", "delete lock"];
    prune_at_every_point(&scene, "prune", &changes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_killed_at_any_point_of_its_second_half_loses_nothing() {
    let scene = prunable().await;
    let (repo, ctx) = (open(&scene.at).await, Ctx::default());
    run(&repo, false, &ctx).await.unwrap();
    let dry = PruneSpec { dry_run: true, ..thorough() };
    let end = Instant::now() + Duration::from_secs(10);
    while try_prune(&repo, &dry, &ctx).await.unwrap().due_packs < 4 {
        assert!(Instant::now() < end, "marks are due once the second is over in which they were made");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let changes = [
        // The look, beside others.
        "put lock",
        "delete lock",
        // Alone.
        "put lock",
        "put index",
        "delete index",
        "delete pack",
        "delete pack",
        "delete pack",
        "delete pack",
        // The records.
        "put index",
        "delete index",
        "delete index",
        "delete extra",
        "delete lock",
    ];
    prune_at_every_point(&scene, "prune", &changes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instant_prune_killed_at_any_point_loses_nothing() {
    let scene = prunable().await;
    let changes = [
        "put lock",
        "put pack",
        "put pack",
        "put index",
        "put index",
        "put index",
        "delete index",
        "delete pack",
        "delete pack",
        "delete pack",
        "delete pack",
        "put index",
        "delete index",
        "delete index",
        "delete extra",
        "delete lock",
    ];
    prune_at_every_point(&scene, "instant prune", &changes).await;
}
