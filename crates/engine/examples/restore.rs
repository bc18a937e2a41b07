//! Restores the latest snapshot of a repository and prints the report as JSON:
//! `restore REPOSITORY TARGET [verify] [keep-owners] [delete]`, with the password in `RESTIC_PASSWORD`. With `check`
//! as the target, reads and checks the whole repository instead.

use std::error::Error;
use std::path::PathBuf;

use holdfast_engine::check::{CheckSpec, ReadData, check};
use holdfast_engine::repository::SnapshotFilter;
use holdfast_engine::restore::{Ownership, RestoreSpec, restore};
use holdfast_engine::store::{self, StoreOptions};
use holdfast_engine::{Ctx, Repository};

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(location), Some(target)) = (arguments.next(), arguments.next()) else {
        return Err("usage: restore REPOSITORY TARGET|check [verify] [keep-owners] [delete]".into());
    };
    let options: Vec<String> = arguments.collect();
    let asked = |option: &str| options.iter().any(|o| o == option);
    let ctx = Ctx::default();
    let store = store::open(&location.parse()?, &StoreOptions::default(), &ctx)?;
    let repo = Repository::open(store, &std::env::var("RESTIC_PASSWORD")?.into(), &ctx).await?;
    if target == "check" {
        let report = check(&repo, None, &CheckSpec { read_data: ReadData::All }, &ctx).await?;
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    let (snapshot, _) = repo.find_snapshot("latest", &SnapshotFilter::default()).await?;
    let spec = RestoreSpec {
        snapshot,
        target: PathBuf::from(target),
        delete_extra: asked("delete"),
        verify: asked("verify"),
        ownership: if asked("keep-owners") { Ownership::Keep } else { Ownership::Restore },
        ..RestoreSpec::default()
    };
    let report = restore(&repo, None, &spec, &ctx).await.inspect_err(|e| eprintln!("{}", e.chain()))?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
