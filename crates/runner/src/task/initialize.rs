//! Initialize: a repository is there, opens with both passwords, and says whose it is. Doing it twice, or at the
//! same time, is the same as doing it once.

use std::sync::Arc;

use holdfast_engine::crypto::KdfParams;
use holdfast_engine::error::ErrorKind;
use holdfast_engine::repository::{InitOptions, Repository};
use holdfast_protocol::spec::RepositoryRecord;
use holdfast_protocol::{TaskResult, Verdict};
use secrecy::SecretString;

use super::Job;
use crate::failure::{Failure, succeeded};
use crate::{lock, record};

/// Format that new repositories get.
const FORMAT: u32 = 2;
/// User name in the key file of the recovery password.
const RECOVERY_USER: &str = "holdfast-recovery";
/// How often to look again when somebody else makes the repository at the same moment. Once is enough unless it is
/// removed again right then.
const TRIES: u32 = 3;

impl Job {
    pub(super) async fn initialize(
        &self,
        record: &RepositoryRecord,
        must_exist: bool,
    ) -> Result<Verdict, Failure> {
        let password = self.password()?;
        self.reporter.phase("open");
        let (repository, created) = self.make_or_open(password, must_exist).await?;

        let recovery_key = match &self.recovery_password {
            Some(recovery) => {
                self.ensure_key(&repository, recovery).await?;
                true
            }
            None => false,
        };

        let found = record::ensure_record(self.store.as_ref(), record).await?;
        Ok(succeeded(TaskResult::Initialize {
            repository_id: repository.id().to_owned(),
            created,
            format_version: repository.version(),
            recovery_key,
            foreign_record: foreign(found.as_ref(), record),
        }))
    }

    /// Opens a repository that is there, and writes nothing.
    pub(super) async fn open_only(&self, record: &RepositoryRecord) -> Result<Verdict, Failure> {
        let (repository, created) = self.make_or_open(self.password()?, true).await?;
        let recovery_key = match &self.recovery_password {
            Some(recovery) => match Repository::open(Arc::clone(&self.store), recovery, &self.ctx).await {
                Ok(_) => true,
                Err(e) if e.kind() == ErrorKind::WrongPassword => false,
                Err(e) => return Err(e.into()),
            },
            None => false,
        };
        let text = self.store.get_extra(record::REPOSITORY).await?;
        let foreign_record = text.and_then(|text| foreign(record::parse(&text).as_ref(), record));
        Ok(succeeded(TaskResult::Initialize {
            repository_id: repository.id().to_owned(),
            created,
            format_version: repository.version(),
            recovery_key,
            foreign_record,
        }))
    }

    async fn make_or_open(
        &self,
        password: &SecretString,
        must_exist: bool,
    ) -> Result<(Repository, bool), Failure> {
        let mut tries = 0;
        loop {
            tries += 1;
            if Repository::exists(self.store.as_ref()).await? {
                return Ok((self.open().await?, false));
            }
            if must_exist {
                return Err(Failure::fatal(
                    "NotARepository",
                    format!(
                        "{} holds no repository. Nothing was made there, since one that exists is to be used: check \
                         the directory, or whether this is the right bucket",
                        self.store.describe()
                    ),
                ));
            }
            self.reporter.phase("initialize");
            match Repository::init(Arc::clone(&self.store), &self.init_options(password), &self.ctx).await {
                Ok(repository) => return Ok((repository, true)),
                // Another run was quicker: what it made is as good.
                Err(e) if e.kind() == ErrorKind::AlreadyInitialized && tries < TRIES => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn init_options(&self, password: &SecretString) -> InitOptions {
        InitOptions {
            password: password.clone(),
            recovery_password: self.recovery_password.clone(),
            version: FORMAT,
            hostname: lock::holder(&self.spec).hostname,
            username: "holdfast".to_owned(),
        }
    }

    /// Adds a key unless one opens already with that password.
    async fn ensure_key(&self, repository: &Repository, password: &SecretString) -> Result<(), Failure> {
        match Repository::open(Arc::clone(&self.store), password, &self.ctx).await {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == ErrorKind::WrongPassword => {
                self.reporter.phase("add recovery key");
                let hostname = lock::holder(&self.spec).hostname;
                // Its strength is unknown: as costly to guess as a person's.
                repository.add_key(password, RECOVERY_USER, &hostname, KdfParams::CHOSEN_PASSWORD).await?;
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// How the record reads when it names another owner than `ours`.
fn foreign(found: Option<&RepositoryRecord>, ours: &RepositoryRecord) -> Option<String> {
    let Some(found) = found else {
        return Some(format!("its {} cannot be read", record::REPOSITORY));
    };
    let same = found.cluster == ours.cluster
        && found.cluster_uid == ours.cluster_uid
        && found.namespace == ours.namespace;
    (!same).then(|| {
        format!(
            "cluster {} (uid {}), namespace {}, Repository {}, made {}",
            found.cluster, found.cluster_uid, found.namespace, found.name, found.created
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(cluster_uid: &str, namespace: &str, name: &str) -> RepositoryRecord {
        RepositoryRecord {
            version: 1,
            cluster: "prod".into(),
            cluster_uid: cluster_uid.into(),
            namespace: namespace.into(),
            name: name.into(),
            created: "2026-11-20T02:00:00Z".into(),
        }
    }

    #[test]
    fn only_another_owner_is_foreign() {
        let ours = record("a", "shop", "main");
        assert_eq!(foreign(Some(&ours), &ours), None);
        // A Repository made anew for the same directory may have another name.
        assert_eq!(foreign(Some(&record("a", "shop", "again")), &ours), None);
        assert!(foreign(Some(&record("b", "shop", "main")), &ours).unwrap().contains("uid b"));
        assert!(foreign(Some(&record("a", "other", "main")), &ours).is_some());
        assert!(foreign(None, &ours).is_some());
    }
}
