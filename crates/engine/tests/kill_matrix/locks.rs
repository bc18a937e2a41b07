//! Locks removed by force.

use std::time::Duration;

use holdfast_engine::error::Result;
use holdfast_engine::lock::{LockMode, Unlock};
use holdfast_engine::{Ctx, Repository};

use crate::kills::{again, at_every_point};
use crate::restoring::open;
use crate::scene::{ALL, Scene, assert_no_lock, assert_nothing_left, holder, let_time_pass};

pub(crate) async fn run(what: &str, repo: &Repository) -> Result<()> {
    let which = if what == "unlock all" { Unlock::All } else { Unlock::Stale };
    repo.unlock(which).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlock_killed_at_any_point_leaves_no_lock_once_it_is_done_again() {
    let scene = Scene::new().await;
    let repo = open(&scene.at).await;
    for _ in 0..2 {
        let guard = repo.lock(LockMode::Shared, &holder(), Duration::ZERO, &[], &Ctx::default()).await;
        // Nobody releases them, and they grow old.
        std::mem::forget(guard.unwrap());
    }
    let_time_pass(&scene.at);
    let own = ["put lock", "delete lock"];
    let others = ["delete lock", "delete lock"];
    for (what, changes) in [("unlock all", others.to_vec()), ("unlock stale", [own, others].concat())] {
        at_every_point(what, &scene.at, &[], &changes, async |at, place| {
            scene.assert_whole(at, &ALL, place).await;
            again(what, at, &[], place).await;
            assert_no_lock(at, place);
            assert_nothing_left(at, place).await;
        })
        .await;
    }
}
