//! SIGKILL at every named point of every operation that writes into a repository or deletes from it, and of a restore.
//! Whatever the moment: nothing that a snapshot needs is missing, no snapshot is half there, the next run needs nobody's
//! help and comes to the same end, and what the dead left goes.
//!
//! | room | operations |
//! |---|---|
//! | `backups` | backup, into a directory and over S3, also one with a list of what it could not read |
//! | `restores` | restore into nothing, into an older state, with extras deleted |
//! | `prunes` | mark (with repack), sweep, both at once |
//! | `forgets` | forget, unforget, tags |
//! | `rewrites` | rewrite and repair snapshots in place of the old ones, recover |
//! | `copies` | copy, looked at in the target |
//! | `indexes` | repair index, from scratch too, adopt orphans, repair packs |
//! | `keys` | init, key add, remove, and another password |
//! | `locks` | unlock |
//!
//! The points lie in a store and an event sink that wrap the real ones (`deadly`), so nothing of this is in what is shipped.
//! Those of a backup and a restore are named one by one. Those of all others are derived (`kills`) from the list of the
//! changes that the operation makes: between two changes it leaves what it left after the first.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what went wrong by failing"
)]

mod backups;
mod copies;
mod deadly;
mod forgets;
mod indexes;
mod keys;
mod kills;
mod locks;
mod prunes;
mod restores;
#[path = "../restoring/mod.rs"]
mod restoring;
mod rewrites;
mod scene;
#[path = "../stock/mod.rs"]
mod stock;
#[path = "../versitygw/mod.rs"]
mod versitygw;

use std::path::Path;
use std::sync::Arc;

use holdfast_engine::store::Store;
use holdfast_engine::{Ctx, EventSink, Repository, Result};

use deadly::{DeadlyStore, Point};
use stock::PASSWORD;

/// Carries an operation out, with the locks that it needs.
async fn run(what: &str, store: Arc<dyn Store>, with: &[&str], ctx: &Ctx) -> Result<()> {
    match what {
        // These two have no repository yet, or not by this password any more.
        "init" => return keys::init(store, ctx).await,
        "change password" => return keys::change_password(store, ctx).await,
        _ => {}
    }
    let repo = Repository::open(store, &PASSWORD.to_owned().into(), ctx).await?;
    match what {
        "backup" | "backup with gaps" => backups::run(&repo, Path::new(with[0]), ctx).await,
        "refresh" => backups::refresh(&repo, ctx).await,
        "restore" => restores::run(&repo, with[0].parse()?, Path::new(with[1]), ctx).await,
        "restore in place" | "restore that deletes" | "restore that meets a fault" => {
            restores::run_in_place(what, &repo, with, ctx).await
        }
        "prune" => prunes::run(&repo, false, ctx).await,
        "instant prune" => prunes::run(&repo, true, ctx).await,
        "forget" => forgets::forget_those_that_go(&repo, ctx).await,
        "unforget" => forgets::unforget_all(&repo, ctx).await,
        "tag" => forgets::tag(&repo, ctx).await,
        "rewrite" => rewrites::rewrite(&repo, ctx).await,
        "repair snapshots" => rewrites::repair(&repo, ctx).await,
        "recover" => rewrites::recover_all(&repo, ctx).await,
        "copy" => copies::run(Path::new(with[0]), &repo, ctx).await,
        "repair index" | "index from scratch" | "adopt orphans" => indexes::repair(what, &repo, ctx).await,
        "repair packs" => indexes::repair_pack(&repo, with[0].parse()?, ctx).await,
        "add key" => keys::add(&repo, ctx).await,
        "remove key" => keys::remove(&repo, with[0], ctx).await,
        "unlock all" | "unlock stale" => locks::run(what, &repo).await,
        other => panic!("{other}"),
    }
}

/// What is killed; `kills::killed_at` starts it.
#[test]
#[ignore = "the process that the other tests start and that dies"]
fn the_one_that_is_killed() {
    let order = std::env::var(kills::ORDER).expect("started by another test");
    let order: Vec<&str> = order.split('|').collect();
    let [what, point, at, with @ ..] = &order[..] else { panic!("{order:?}") };
    if *what == "backup with gaps" {
        backups::become_ordinary();
    }
    let point = Point::new(point);
    let ctx = Ctx { events: Arc::clone(&point) as Arc<dyn EventSink>, ..Ctx::default() };
    let store = DeadlyStore::on(Path::new(at), &point);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let done = runtime.block_on(run(what, store, with, &ctx));
    done.unwrap_or_else(|e| panic!("{}", e.chain()));
}
