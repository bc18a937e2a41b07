//! Backs up directories into a repository and prints the report as JSON: `backup REPOSITORY PATH…`, with the
//! password in `RESTIC_PASSWORD`. Makes the repository where there is none.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_engine::backup::{BackupSpec, Verify, backup};
use holdfast_engine::lock::{Holder, LockMode};
use holdfast_engine::repository::InitOptions;
use holdfast_engine::store::{self, StoreOptions};
use holdfast_engine::{Ctx, Repository};

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let location = arguments.next().ok_or("usage: backup REPOSITORY PATH…")?;
    let roots: Vec<PathBuf> = arguments.map(PathBuf::from).collect();
    let password = std::env::var("RESTIC_PASSWORD")?;
    let ctx = Ctx::default();
    let store = store::open(&location.parse()?, &StoreOptions::default(), &ctx)?;
    let repo = if Repository::exists(store.as_ref()).await? {
        Repository::open(store, &password.into(), &ctx).await?
    } else {
        let options = InitOptions {
            password: password.into(),
            recovery_password: None,
            version: 2,
            hostname: "example".to_owned(),
            username: "example".to_owned(),
        };
        Repository::init(store, &options, &ctx).await?
    };
    let holder = Holder::this_process("example", "example");
    let lock = repo.lock(LockMode::Shared, &holder, Duration::ZERO, &[], &ctx).await?;
    let verify = match std::env::var("VERIFY").as_deref() {
        Ok("off") => Verify::Off,
        Ok("full") => Verify::Full,
        _ => Verify::Sample,
    };
    let spec = BackupSpec { roots, host: "example".to_owned(), verify, ..BackupSpec::default() };
    let report = backup(&repo, &lock, &spec, &ctx).await;
    lock.release().await?;
    println!("{}", serde_json::to_string_pretty(&report?)?);
    Ok(())
}
