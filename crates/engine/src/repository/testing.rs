//! A fresh repository in a temporary directory behind a store that plays faults, for unit tests.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secrecy::SecretString;

use super::{InitOptions, Repository};
use crate::event::Ctx;
use crate::store::fault::FaultStore;
use crate::store::{self, FileName, Location, Store, StoreOptions};

/// Drops everything at its end.
pub(crate) struct Fixture {
    pub(crate) repo: Repository,
    pub(crate) faults: Arc<FaultStore>,
    pub(crate) directory: tempfile::TempDir,
}

impl Fixture {
    /// Makes a file look as if it was written so many seconds ago.
    pub(crate) fn age(&self, name: FileName, seconds: u64) {
        let file = std::fs::File::open(self.directory.path().join(name.path())).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    }
}

/// 64 characters, so that opening is quick.
pub(crate) fn password() -> SecretString {
    "correct horse battery staple correct horse battery staple 123456".to_owned().into()
}

pub(crate) fn options() -> InitOptions {
    InitOptions {
        password: password(),
        recovery_password: None,
        version: 2,
        hostname: "h".to_owned(),
        username: "u".to_owned(),
    }
}

/// The faults are below the layer that tries again, which is left out: each call is made once.
pub(crate) fn store() -> (Arc<FaultStore>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let location = Location::Local(directory.path().to_owned());
    let mut options = StoreOptions::default();
    options.retry.deadline = Duration::ZERO;
    let inner = store::open(&location, &options, &Ctx::default()).unwrap();
    (Arc::new(FaultStore::new(inner)), directory)
}

pub(crate) async fn fixture() -> Fixture {
    let (faults, directory) = store();
    let repo =
        Repository::init(Arc::clone(&faults) as Arc<dyn Store>, &options(), &Ctx::default()).await.unwrap();
    Fixture { repo, faults, directory }
}
