//! Copies into another repository.

use std::path::Path;

use holdfast_engine::copy::copy;
use holdfast_engine::error::Result;
use holdfast_engine::lock::LockMode;
use holdfast_engine::repository::InitOptions;
use holdfast_engine::{Ctx, Repository};

use crate::kills::{again, at_every_point};
use crate::restoring::{open, store_at};
use crate::scene::{Scene, assert_no_lock, assert_nothing_left, locked};
use crate::stock::PASSWORD;

pub(crate) async fn run(from: &Path, target: &Repository, ctx: &Ctx) -> Result<()> {
    let source = open(from).await;
    locked(&source, LockMode::Shared, ctx, async |_| {
        locked(target, LockMode::Shared, ctx, async |lock| {
            let snapshots = source.snapshots().await?;
            copy(&source, target, lock, &snapshots, ctx).await.map(drop)
        })
        .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_killed_at_any_point_leaves_whole_snapshots_and_the_next_one_copies_the_rest_once() {
    let scene = Scene::new().await;
    let template = scene.beside("target repo");
    let options = InitOptions {
        password: PASSWORD.to_owned().into(),
        recovery_password: None,
        version: 2,
        hostname: "test".to_owned(),
        username: "test".to_owned(),
    };
    let source = open(&scene.at).await;
    Repository::init_like(store_at(&template), &options, &source, &Ctx::default()).await.unwrap();
    let changes = [
        "put lock",
        "put pack",
        "put pack",
        "put index",
        "put snapshot",
        "put snapshot",
        "put snapshot",
        "put snapshot",
        "delete lock",
    ];
    let with = [scene.at.to_str().unwrap()];
    at_every_point("copy", &template, &with, &changes, async |at, place| {
        scene.assert_whole(at, &[], place).await;
        again("copy", at, &with, place).await;
        assert_no_lock(&scene.at, place);
        let repo = scene.assert_whole(at, &[], &format!("{place}, done again")).await;
        let copies = repo.snapshots().await.unwrap().into_iter().map(|(_, copy)| copy.original.unwrap());
        assert_eq!(copies.collect::<Vec<_>>(), scene.snapshots, "{place}: each is there once");
        let repo = assert_nothing_left(at, place).await;
        scene.assert_restores(&repo, &[], &[], &format!("{place}, pruned")).await;
    })
    .await;
    // Nothing of it happened to the source.
    scene.assert_whole(&scene.at, &[0, 1, 2, 3], "the source of the copies").await;
}
