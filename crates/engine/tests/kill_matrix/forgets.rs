//! Forgetting snapshots, bringing them back, and other tags for them.

use std::path::Path;

use holdfast_engine::error::Result;
use holdfast_engine::forget::{ForgetSpec, Selection, forget, forgotten, unforget};
use holdfast_engine::lock::LockMode;
use holdfast_engine::repository::SnapshotFilter;
use holdfast_engine::tag::{TagChange, change_tags};
use holdfast_engine::{Ctx, Repository};
use jiff::Timestamp;

use crate::kills::{again, at_every_point};
use crate::prunes;
use crate::restoring::open;
use crate::scene::{ALL, GOES, STAY, Scene, assert_nothing_left, ids, locked};

/// The snapshots that are to go.
pub(crate) fn those_that_go() -> SnapshotFilter {
    SnapshotFilter { tags: vec![GOES.to_owned()], ..SnapshotFilter::default() }
}

pub(crate) async fn forget_those_that_go(repo: &Repository, ctx: &Ctx) -> Result<()> {
    let spec = ForgetSpec {
        selection: Selection::All(those_that_go()),
        dry_run: false,
        floor: 0,
        known: Vec::new(),
        now: Timestamp::now(),
    };
    locked(repo, LockMode::Shared, ctx, async |lock| forget(repo, lock, &spec, ctx).await.map(drop)).await
}

pub(crate) async fn unforget_all(repo: &Repository, ctx: &Ctx) -> Result<()> {
    locked(repo, LockMode::Shared, ctx, async |lock| {
        let all = forgotten(repo, ctx).await?;
        unforget(repo, lock, &all, ctx).await
    })
    .await
}

pub(crate) async fn tag(repo: &Repository, ctx: &Ctx) -> Result<()> {
    let change = TagChange::Edit { add: vec!["more".to_owned()], remove: Vec::new() };
    locked(repo, LockMode::Shared, ctx, async |lock| {
        let there = repo.snapshots().await?;
        for (id, snapshot) in there.iter().filter(|(_, snapshot)| those_that_go().matches(snapshot)) {
            change_tags(repo, lock, *id, snapshot, &change, &there, ctx).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forget_killed_at_any_point_leaves_each_snapshot_whole_or_gone_and_to_be_asked_back() {
    let scene = Scene::new().await;
    let changes = ["put lock", "put index", "delete snapshot", "delete snapshot", "delete lock"];
    at_every_point("forget", &scene.at, &[], &changes, async |at, place| {
        let repo = scene.assert_whole(at, &STAY, place).await;
        // Of those that are gone each can come back.
        let mut known = ids(&repo).await;
        known.extend(forgotten(&repo, &Ctx::default()).await.unwrap().into_iter().map(|gone| gone.id));
        known.sort_unstable();
        let mut all = scene.snapshots.clone();
        all.sort_unstable();
        assert_eq!(known, all, "{place}");
        again("forget", at, &[], place).await;
        assert_eq!(ids(&repo).await, scene.ids(&STAY), "{place}");
        let repo = assert_nothing_left(at, place).await;
        scene.assert_restores(&repo, &STAY, &[], &format!("{place}, pruned")).await;
    })
    .await;
}

/// What comes back lies in packs that a prune has marked.
#[tokio::test(flavor = "multi_thread")]
async fn an_unforget_killed_at_any_point_brings_back_what_is_whole_and_the_next_one_the_rest() {
    let scene = Scene::new().await;
    let (repo, ctx) = (open(&scene.at).await, Ctx::default());
    forget_those_that_go(&repo, &ctx).await.unwrap();
    prunes::run(&repo, false, &ctx).await.unwrap();
    let changes = ["put lock", "put snapshot", "put snapshot", "delete lock"];
    at_every_point("unforget", &scene.at, &[], &changes, async |at, place| {
        scene.assert_whole(at, &STAY, place).await;
        again("unforget", at, &[], place).await;
        assert_all_there(&scene, at, place).await;
        // What this one takes the marks from, the next one puts together.
        prunes::run(&open(at).await, true, &Ctx::default()).await.unwrap();
        let repo = assert_nothing_left(at, place).await;
        scene.assert_restores(&repo, &ALL, &[], &format!("{place}, pruned")).await;
    })
    .await;
}

async fn assert_all_there(scene: &Scene, at: &Path, place: &str) {
    let repo = scene.assert_whole(at, &ALL, place).await;
    assert_eq!(ids(&repo).await, scene.snapshots, "{place}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_whose_change_was_killed_at_any_point_are_on_one_snapshot_of_each_kind_in_the_end() {
    let scene = Scene::new().await;
    let changes =
        ["put lock", "put snapshot", "delete snapshot", "put snapshot", "delete snapshot", "delete lock"];
    at_every_point("tag", &scene.at, &[], &changes, async |at, place| {
        let repo = scene.assert_whole(at, &STAY, place).await;
        let mut there: Vec<_> = states(&scene, &repo).await;
        there.dedup();
        assert_eq!(there, ALL, "{place}: each is there, as it was or with its new tag");
        again("tag", at, &[], place).await;
        assert_eq!(states(&scene, &repo).await, ALL, "{place}: each is there once");
        for (_, snapshot) in repo.snapshots().await.unwrap() {
            let stays = STAY.contains(&scene.state_of(&snapshot).unwrap());
            assert_eq!(snapshot.tags.iter().any(|tag| tag == "more"), !stays, "{place}");
        }
        let repo = assert_nothing_left(at, place).await;
        scene.assert_restores(&repo, &STAY, &[], &format!("{place}, pruned")).await;
    })
    .await;
}

/// The states of all snapshots, ascending.
async fn states(scene: &Scene, repo: &Repository) -> Vec<usize> {
    let all = repo.snapshots().await.unwrap();
    let mut states: Vec<_> = all.iter().map(|(_, snapshot)| scene.state_of(snapshot).unwrap()).collect();
    states.sort_unstable();
    states
}
