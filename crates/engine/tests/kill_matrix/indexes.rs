//! The index and packs mended.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use holdfast_engine::error::Result;
use holdfast_engine::lock::LockMode;
use holdfast_engine::repair::{RepairIndex, RepairPacks, repair_index, repair_packs};
use holdfast_engine::store::FileKind;
use holdfast_engine::{Ctx, Id, Repository};

use crate::kills::{again, at_every_point};
use crate::restoring::{open, packs};
use crate::scene::{ALL, STAYS, Scene, assert_nothing_left, delete, list, locked};

pub(crate) async fn repair(what: &str, repo: &Repository, ctx: &Ctx) -> Result<()> {
    let (how, mode) = match what {
        "repair index" => (RepairIndex::Mend, LockMode::Exclusive),
        "index from scratch" => (RepairIndex::FromScratch, LockMode::Exclusive),
        _ => (RepairIndex::AdoptOrphans, LockMode::Shared),
    };
    locked(repo, mode, ctx, async |lock| repair_index(repo, lock, how, ctx).await.map(drop)).await
}

/// Repairs a pack, if it is there: nobody who looks names one that is gone.
pub(crate) async fn repair_pack(repo: &Repository, pack: Id, ctx: &Ctx) -> Result<()> {
    locked(repo, LockMode::Exclusive, ctx, async |lock| {
        if !list(repo, FileKind::Pack).await.contains(&pack) {
            return Ok(());
        }
        repair_packs(repo, lock, &[pack], RepairPacks::default(), ctx).await.map(drop)
    })
    .await
}

/// Two packs that a dead backup left without an index file.
async fn add_orphans(scene: &Scene, repo: &Repository) {
    let index = list(repo, FileKind::Index).await;
    let (id, _) = scene.back_up(repo, 20..23, STAYS).await;
    delete(repo, FileKind::Snapshot, id).await;
    for id in list(repo, FileKind::Index).await.into_iter().filter(|id| !index.contains(id)) {
        delete(repo, FileKind::Index, id).await;
    }
}

/// Appends something to a pack: neither its size nor its header is right, and all blobs of it can still be read.
fn spoil(at: &Path, pack: Id) {
    let path = packs(at).into_iter().find(|path| path.ends_with(pack.to_hex())).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    fs::File::options().append(true).open(&path).unwrap().write_all(b"more").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_of_the_index_killed_at_any_point_knows_no_less_than_before() {
    let scene = Scene::new().await;
    let repo = open(&scene.at).await;
    add_orphans(&scene, &repo).await;
    // A snapshot and its pack are gone, and the index still lists the pack.
    delete(&repo, FileKind::Snapshot, scene.snapshots[1]).await;
    delete(&repo, FileKind::Pack, scene.pack_of(&repo, 7).await).await;
    // What is in this pack has to be saved from it.
    spoil(&scene.at, scene.pack_of(&repo, 0).await);
    let changes =
        ["put lock", "put pack", "put index", "put index", "delete index", "delete index", "delete lock"];
    at_every_point("repair index", &scene.at, &[], &changes, async |at, place| {
        let stay = [0, 2, 3];
        scene.assert_restores(&open(at).await, &stay, &[], place).await;
        again("repair index", at, &[], place).await;
        scene.assert_whole(at, &stay, &format!("{place}, done again")).await;
        let repo = assert_nothing_left(at, place).await;
        scene.assert_restores(&repo, &stay, &[], &format!("{place}, pruned")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_made_anew_and_killed_at_any_point_knows_no_less_than_before() {
    let scene = Scene::new().await;
    let removed = ["delete index"; 4];
    let changes = [&["put lock", "put index"][..], &removed, &["delete lock"]].concat();
    at_every_point("index from scratch", &scene.at, &[], &changes, async |at, place| {
        scene.assert_whole(at, &ALL, place).await;
        again("index from scratch", at, &[], place).await;
        let repo = scene.assert_whole(at, &ALL, &format!("{place}, done again")).await;
        assert_eq!(list(&repo, FileKind::Index).await.len(), 1, "{place}");
        let repo = assert_nothing_left(at, place).await;
        scene.assert_restores(&repo, &ALL, &[], &format!("{place}, pruned")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_whose_adoption_was_killed_at_any_point_are_adopted_by_the_next_one() {
    let scene = Scene::new().await;
    add_orphans(&scene, &open(&scene.at).await).await;
    let changes = ["put lock", "put index", "delete lock"];
    at_every_point("adopt orphans", &scene.at, &[], &changes, async |at, place| {
        scene.assert_whole(at, &ALL, place).await;
        again("adopt orphans", at, &[], place).await;
        let repo = scene.assert_whole(at, &ALL, &format!("{place}, done again")).await;
        let index = repo.load_index(&Ctx::default()).await.unwrap();
        assert_eq!(index.packs().len(), list(&repo, FileKind::Pack).await.len(), "{place}: all are listed");
        let repo = assert_nothing_left(at, place).await;
        scene.assert_restores(&repo, &ALL, &[], &format!("{place}, pruned")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_of_a_pack_killed_at_any_point_loses_nothing_that_can_be_read() {
    let scene = Scene::new().await;
    let pack = scene.pack_of(&open(&scene.at).await, 0).await;
    spoil(&scene.at, pack);
    let changes =
        ["put lock", "put pack", "put index", "put index", "delete index", "delete pack", "delete lock"];
    let with = [&pack.to_string()[..]];
    at_every_point("repair packs", &scene.at, &with, &changes, async |at, place| {
        scene.assert_restores(&open(at).await, &ALL, &[], place).await;
        again("repair packs", at, &with, place).await;
        scene.assert_whole(at, &ALL, &format!("{place}, done again")).await;
        let repo = assert_nothing_left(at, place).await;
        scene.assert_restores(&repo, &ALL, &[], &format!("{place}, pruned")).await;
    })
    .await;
}
