//! Passwords: the first ones, more of them, fewer of them. Whatever is killed, one that is known opens the repository.

use std::path::Path;
use std::sync::Arc;

use holdfast_engine::error::{ErrorKind, Result};
use holdfast_engine::lock::LockMode;
use holdfast_engine::repository::InitOptions;
use holdfast_engine::store::{FileKind, Store};
use holdfast_engine::{Ctx, Repository};

use crate::kills::{again, at_every_point, killed_at};
use crate::restoring::{open, scratch, store_at};
use crate::scene::{ALL, Scene, assert_nothing_left, list, locked};
use crate::stock::PASSWORD;

/// Long, so that our own key derivation is quick.
const OTHER: &str = "another password, another password, another password, another one";

pub(crate) async fn init(store: Arc<dyn Store>, ctx: &Ctx) -> Result<()> {
    let options = InitOptions {
        password: PASSWORD.to_owned().into(),
        recovery_password: Some(OTHER.to_owned().into()),
        version: 2,
        hostname: "test".to_owned(),
        username: "test".to_owned(),
    };
    match Repository::init(store, &options, ctx).await {
        Err(e) if e.kind() != ErrorKind::AlreadyInitialized => Err(e),
        _ => Ok(()),
    }
}

pub(crate) async fn add(repo: &Repository, ctx: &Ctx) -> Result<()> {
    locked(repo, LockMode::Shared, ctx, async |_| {
        repo.add_key_for(&OTHER.to_owned().into(), "me", "here").await.map(drop)
    })
    .await
}

/// Removes a key, if it is there.
pub(crate) async fn remove(repo: &Repository, key: &str, ctx: &Ctx) -> Result<()> {
    locked(repo, LockMode::Exclusive, ctx, async |lock| match repo.remove_key(lock, key).await {
        Err(e) if e.kind() != ErrorKind::EmptySelection => Err(e),
        _ => Ok(()),
    })
    .await
}

/// Puts the other password in place of the first, if the first still opens.
pub(crate) async fn change_password(store: Arc<dyn Store>, ctx: &Ctx) -> Result<()> {
    let repo = match Repository::open(Arc::clone(&store), &PASSWORD.to_owned().into(), ctx).await {
        Err(e) if e.kind() == ErrorKind::WrongPassword => {
            // A run that died after all its work has left its lock, as a run that has nothing to do finds it.
            let repo = Repository::open(store, &OTHER.to_owned().into(), ctx).await?;
            return locked(&repo, LockMode::Exclusive, ctx, async |_| Ok(())).await;
        }
        other => other?,
    };
    locked(&repo, LockMode::Exclusive, ctx, async |lock| {
        repo.change_password(lock, &OTHER.to_owned().into(), "me", "here", ctx).await.map(drop)
    })
    .await
}

/// Whether a password opens the repository; any trouble but a wrong password fails the test.
async fn opens(at: &Path, password: &str) -> bool {
    match Repository::open(store_at(at), &password.to_owned().into(), &Ctx::default()).await {
        Ok(_) => true,
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::WrongPassword, "{}", e.chain());
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_killed_at_any_point_can_be_done_again_and_what_it_made_opens() {
    let dir = scratch();
    // One was killed before: its key fits no config, and goes.
    let template = dir.path().join("repo");
    killed_at("after put key 1", "init", &template, &[]);
    let changes = ["make directories", "put key", "put key", "put config", "delete key"];
    at_every_point("init", &template, &[], &changes, async |at, place| {
        let made = Repository::exists(store_at(at).as_ref()).await.unwrap();
        assert!(!made || (opens(at, PASSWORD).await && opens(at, OTHER).await), "{place}");
        again("init", at, &[], place).await;
        assert!(opens(at, PASSWORD).await && opens(at, OTHER).await, "{place}");
        assert_nothing_left(at, place).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_adding_was_killed_at_any_point_opens_in_the_end() {
    let scene = Scene::new().await;
    let changes = ["put lock", "put key", "delete lock"];
    at_every_point("add key", &scene.at, &[], &changes, async |at, place| {
        assert!(opens(at, PASSWORD).await, "{place}");
        again("add key", at, &[], place).await;
        assert!(opens(at, PASSWORD).await && opens(at, OTHER).await, "{place}");
        scene.assert_whole(at, &ALL, place).await;
        assert_nothing_left(at, place).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_removal_was_killed_at_any_point_is_gone_in_the_end_and_the_other_opens() {
    let scene = Scene::new().await;
    let repo = open(&scene.at).await;
    let key = repo.add_key_for(&OTHER.to_owned().into(), "me", "here").await.unwrap().to_string();
    let changes = ["put lock", "delete key", "delete lock"];
    at_every_point("remove key", &scene.at, &[&key], &changes, async |at, place| {
        assert!(opens(at, PASSWORD).await, "{place}");
        again("remove key", at, &[&key], place).await;
        assert!(opens(at, PASSWORD).await && !opens(at, OTHER).await, "{place}");
        scene.assert_whole(at, &ALL, place).await;
        assert_nothing_left(at, place).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_password_killed_at_any_point_leaves_one_that_opens_and_in_the_end_only_the_new() {
    let scene = Scene::new().await;
    let changes = ["put lock", "put key", "delete key", "delete lock"];
    at_every_point("change password", &scene.at, &[], &changes, async |at, place| {
        assert!(opens(at, PASSWORD).await || opens(at, OTHER).await, "{place}");
        again("change password", at, &[], place).await;
        assert!(!opens(at, PASSWORD).await && opens(at, OTHER).await, "{place}");
        let repo = Repository::open(store_at(at), &OTHER.to_owned().into(), &Ctx::default()).await.unwrap();
        assert_eq!(
            list(&repo, FileKind::Key).await.len(),
            1,
            "{place}: a second key has the new password too"
        );
        scene.assert_restores(&repo, &ALL, &[], place).await;
        // What looks for leftovers opens with the first password.
        repo.add_key_for(&PASSWORD.to_owned().into(), "test", "test").await.unwrap();
        assert_nothing_left(at, place).await;
    })
    .await;
}
