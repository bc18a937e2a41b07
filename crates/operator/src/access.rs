//! How a storage and a repository are reached: where they are, and with which credentials. Reads Secrets, and
//! keeps them out of every `Debug` and error text.

use std::collections::BTreeMap;
use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};

use holdfast_api::backend::{Addressing, AzureBackend, Backend, CaBundleKind, GcsBackend, S3Backend};
use holdfast_api::backup_storage::StorageLimits;
use holdfast_api::conditions::Reason;
use holdfast_api::{BackupStorage, Repository};
use holdfast_protocol::spec::{RunIdentity, StorageAccess as StorageLocation};
use holdfast_protocol::{RunSpec, Task, files};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{Client, ResourceExt};

use crate::kubernetes::{self, RequestError};
use crate::queue::{Limits, Seat};
use crate::sts::{Exchange, Keys, TemporaryKeys};
use crate::volumes::claim::quantity_bytes;

/// Why a storage or repository cannot be reached as it is described.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The API server could not be asked: try again.
    #[error("the cluster could not be asked about the storage")]
    Request(#[from] RequestError),
    /// The storage is gone.
    #[error("BackupStorage {namespace}/{name} does not exist; create it, or name another one")]
    StorageNotFound {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The storage has no backend that this version knows.
    #[error(
        "the storage sets no backend that this version of Holdfast knows; set one of spec.backend.s3, gcs and azure"
    )]
    NoBackend,
    /// The storage says neither with keys nor with whose identity it is reached, which its schema refuses.
    #[error("the storage names no credentials; set credentialsSecretRef")]
    NoCredentials,
    /// A Secret or ConfigMap is not there.
    #[error("{kind} {namespace}/{name} ({purpose}) does not exist; create it")]
    NotFound {
        /// `Secret` or `ConfigMap`.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What it is for.
        purpose: &'static str,
    },
    /// A Secret or ConfigMap lacks a key, or has nothing under it.
    #[error("{kind} {namespace}/{name} ({purpose}) has nothing under the key {key}; add it")]
    KeyMissing {
        /// `Secret` or `ConfigMap`.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What it is for.
        purpose: &'static str,
        /// The key.
        key: String,
    },
    /// What a Secret holds under a key cannot be what it has to be.
    #[error("Secret {namespace}/{name} ({CREDENTIALS_PURPOSE}), key {key}: {why}")]
    KeyInvalid {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The key.
        key: &'static str,
        /// What is wrong with it, and what to do. Nothing of the content.
        why: &'static str,
    },
    /// The repository has no directory or password yet.
    #[error("Repository {namespace}/{name} is not initialised yet")]
    RepositoryNotReady {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl AccessError {
    /// The reason for a condition; `None` when only asking again can help.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Request(_) => None,
            Self::StorageNotFound { .. } => Some(Reason::StorageNotFound),
            Self::NoBackend | Self::NoCredentials => Some(Reason::InvalidSpec),
            Self::NotFound { purpose: CA_PURPOSE, .. } => Some(Reason::CaBundleNotFound),
            Self::NotFound { .. } => Some(Reason::SecretNotFound),
            Self::KeyMissing { .. } | Self::KeyInvalid { .. } => Some(Reason::SecretInvalid),
            Self::RepositoryNotReady { .. } => Some(Reason::RepositoryNotReady),
        }
    }
}

const CA_PURPOSE: &str = "certificates of the store";
const CREDENTIALS_PURPOSE: &str = "credentials of the store";
const RECOVERY_PURPOSE: &str = "recovery password of the storage";
const PASSWORD_PURPOSE: &str = "password of the repository";

/// Credentials of a store and of what lies in it, as files. Shows nothing of them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    files: BTreeMap<&'static str, Vec<u8>>,
    /// What is exchanged for keys of each run, where that is wanted.
    exchange: Option<Box<Exchange>>,
    /// Whose they are.
    storage: Option<StorageName>,
    /// Which recovery password is among them.
    recovery: Option<String>,
}

/// Which storage credentials are those of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The files of credentials that a runner gets: its Secret is made of these and of no others.
#[derive(Clone, PartialEq, Eq)]
pub struct RunnerFiles(BTreeMap<&'static str, Vec<u8>>);

impl RunnerFiles {
    /// The files, as a Secret's data.
    pub fn data(&self) -> BTreeMap<String, ByteString> {
        self.0.iter().map(|(&name, content)| (name.to_owned(), ByteString(content.clone()))).collect()
    }
}

impl fmt::Debug for RunnerFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RunnerFiles").field(&self.0.keys().collect::<Vec<_>>()).finish()
    }
}

impl Credentials {
    /// Those of a store, out of the Secret that the storage names.
    pub fn of_store(backend: &Backend, secret: &Secret) -> Result<Self, AccessError> {
        let has = |key| key_of(secret, key, CREDENTIALS_PURPOSE).is_ok();
        let mut wanted = Vec::new();
        if backend.s3.is_some() {
            wanted.push((files::ACCESS_KEY_ID, S3Backend::ACCESS_KEY_ID));
            wanted.push((files::SECRET_ACCESS_KEY, S3Backend::SECRET_ACCESS_KEY));
            if has(S3Backend::SESSION_TOKEN) {
                wanted.push((files::SESSION_TOKEN, S3Backend::SESSION_TOKEN));
            }
        } else if backend.gcs.is_some() {
            wanted.push((files::GOOGLE_SERVICE_ACCOUNT, GcsBackend::SERVICE_ACCOUNT));
        } else if has(AzureBackend::ACCOUNT_KEY) {
            wanted.push((files::AZURE_ACCOUNT_KEY, AzureBackend::ACCOUNT_KEY));
        } else if has(AzureBackend::ACCOUNT_SAS) {
            wanted.push((files::AZURE_ACCOUNT_SAS, AzureBackend::ACCOUNT_SAS));
        } else if has(AzureBackend::CLIENT_ID) || has(AzureBackend::CLIENT_SECRET) {
            wanted.push((files::AZURE_CLIENT_ID, AzureBackend::CLIENT_ID));
            wanted.push((files::AZURE_TENANT_ID, AzureBackend::TENANT_ID));
            wanted.push((files::AZURE_CLIENT_SECRET, AzureBackend::CLIENT_SECRET));
        } else {
            return Err(KeyMistake { key: AzureBackend::ACCOUNT_KEY, why: NO_AZURE_KEY }.of(secret));
        }
        let mut found = BTreeMap::new();
        for (file, key) in wanted {
            // Keys are often made with `echo`, and a line end is no part of any of them.
            let content = key_of(secret, key, CREDENTIALS_PURPOSE)?.trim_ascii().to_vec();
            check_key(backend, key, &content).map_err(|why| KeyMistake { key, why }.of(secret))?;
            found.insert(file, content);
        }
        let namespace = secret.namespace().unwrap_or_default();
        Ok(Self { files: found, ..Self::without_keys(backend, &namespace) })
    }

    /// Those of a store in this namespace that has no keys, as far as its backend says.
    fn without_keys(backend: &Backend, namespace: &str) -> Self {
        let exchange = backend.s3.as_ref().and_then(|s3| Exchange::of(s3, namespace)).map(Box::new);
        Self { files: BTreeMap::new(), exchange, storage: None, recovery: None }
    }

    /// What has to be exchanged before a runner gets any keys.
    pub fn exchange(&self) -> Option<&Exchange> {
        self.exchange.as_deref()
    }

    /// The storage that they are those of, where it is known.
    pub fn storage(&self) -> Option<&StorageName> {
        self.storage.as_ref()
    }

    /// What a runner gets; `None` where its keys have to be exchanged first, for which there is
    /// [`Credentials::with_keys`].
    pub fn as_they_are(&self) -> Option<RunnerFiles> {
        self.exchange.is_none().then(|| RunnerFiles(self.files.clone()))
    }

    /// What a runner gets with keys of its own instead of the store's.
    pub fn with_keys(&self, keys: &TemporaryKeys) -> RunnerFiles {
        let mut files = self.files.clone();
        files.insert(files::ACCESS_KEY_ID, keys.id.clone().into_bytes());
        files.insert(files::SECRET_ACCESS_KEY, keys.secret.clone().into_bytes());
        files.insert(files::SESSION_TOKEN, keys.token.clone().into_bytes());
        RunnerFiles(files)
    }

    /// The store's keys, to sign with; what is no text is empty, and signs nothing.
    pub fn signing_keys(&self) -> Keys<'_> {
        let text =
            |name| self.files.get(name).map(|content| std::str::from_utf8(content).unwrap_or_default());
        Keys {
            id: text(files::ACCESS_KEY_ID).unwrap_or_default(),
            secret: text(files::SECRET_ACCESS_KEY).unwrap_or_default(),
            token: text(files::SESSION_TOKEN),
        }
    }

    /// Certificates to trust besides the well-known ones.
    pub fn ca(&self) -> Option<&[u8]> {
        self.files.get(files::CA).map(Vec::as_slice)
    }

    /// Adds the repository's password.
    #[must_use]
    pub fn with_password(mut self, password: Vec<u8>) -> Self {
        self.files.insert(files::PASSWORD, password);
        self
    }

    /// Leaves the recovery password out: it never enters a tenant's namespace.
    #[must_use]
    pub fn without_recovery_password(mut self) -> Self {
        self.files.remove(files::RECOVERY_PASSWORD);
        self.recovery = None;
        self
    }

    /// Adds the storage's recovery password. `version` names it without telling anything about it.
    #[must_use]
    pub fn with_recovery_password(mut self, password: Vec<u8>, version: String) -> Self {
        self.files.insert(files::RECOVERY_PASSWORD, password);
        self.recovery = Some(version);
        self
    }

    /// Which recovery password is among them, for comparison with the one that a repository got. It names the Secret's
    /// object and version, not the content: tenants may read it where it is written down, and a digest of a password
    /// that a person chose would help to guess it.
    pub fn recovery_version(&self) -> Option<&str> {
        self.recovery.as_deref()
    }

    /// Whether the storage's recovery password is among them.
    pub fn has_recovery_password(&self) -> bool {
        self.files.contains_key(files::RECOVERY_PASSWORD)
    }

    /// A digest that changes when any of them changes. Not reversible, still never shown.
    pub fn fingerprint(&self) -> String {
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        let exchange = self.exchange.as_ref().map(|of| ("exchange", format!("{of:?}").into_bytes()));
        let files = self.files.iter().map(|(name, content)| (*name, content));
        for (name, content) in files.chain(exchange.as_ref().map(|(name, text)| (*name, text))) {
            for part in [name.as_bytes(), content.as_slice()] {
                context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
                context.update(part);
            }
        }
        data_encoding::HEXLOWER.encode(context.finish().as_ref())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credentials").field(&self.files.keys().collect::<Vec<_>>()).finish()
    }
}

/// A storage with what it takes to reach it.
#[derive(Debug, Clone)]
pub struct StorageAccess {
    /// The storage.
    pub storage: BackupStorage,
    /// Where it is, as runners are told.
    pub location: StorageLocation,
    /// Its credentials, with the recovery password where there is one.
    pub credentials: Credentials,
}

impl StorageAccess {
    /// Reads all that the storage names.
    pub async fn read(client: &Client, storage: BackupStorage) -> Result<Self, AccessError> {
        let namespace = storage.namespace().unwrap_or_default();
        let backend = &storage.spec.backend;
        let location = location(backend)?;
        let credentials = match (backend.web_identity(), backend.credentials()) {
            // Even where the schema let keys through beside it.
            (Some(_), _) => Credentials::without_keys(backend, &namespace),
            (None, Some(keys)) => {
                let secret = secret(client, &namespace, &keys.name, CREDENTIALS_PURPOSE).await?;
                Credentials::of_store(backend, &secret)?
            }
            (None, None) => return Err(AccessError::NoCredentials),
        };
        let Credentials { mut files, exchange, .. } = credentials;
        if let Some(reference) = backend.ca_bundle() {
            let content = match reference.kind {
                CaBundleKind::Secret => {
                    let secret = self::secret(client, &namespace, &reference.name, CA_PURPOSE).await?;
                    key_of(&secret, &reference.key, CA_PURPOSE)?
                }
                CaBundleKind::ConfigMap => {
                    config_map_key(client, &namespace, &reference.name, &reference.key).await?
                }
            };
            files.insert(files::CA, content);
        }
        let mut recovery = None;
        if let Some(reference) = &storage.spec.recovery_password_secret_ref {
            let secret = self::secret(client, &namespace, &reference.name, RECOVERY_PURPOSE).await?;
            let password = password_of(&secret, &reference.key, RECOVERY_PURPOSE)?;
            recovery = Some((password, recovery_version(&secret, &reference.key)));
        }
        let name = StorageName { namespace, name: storage.name_any() };
        let mut credentials = Credentials { files, exchange, storage: Some(name), recovery: None };
        if let Some((password, version)) = recovery {
            credentials = credentials.with_recovery_password(password, version);
        }
        Ok(Self { storage, location, credentials })
    }

    /// Namespace of the storage.
    pub fn namespace(&self) -> String {
        self.storage.namespace().unwrap_or_default()
    }
}

/// A repository with what it takes to open it.
#[derive(Debug, Clone)]
pub struct RepositoryAccess {
    /// The storage that it lies in.
    pub storage: BackupStorage,
    /// Where the storage is, as runners are told.
    pub location: StorageLocation,
    /// Directory below the storage's prefix.
    pub directory: String,
    /// Its id, as far as it is known.
    pub repository_id: Option<String>,
    /// Credentials of the storage and the repository's password; no recovery password.
    pub credentials: Credentials,
    /// Most Jobs that may use the repository at a time.
    pub concurrent_jobs: Option<NonZeroU32>,
}

impl RepositoryAccess {
    /// Reads all that is needed to open a repository that is initialised.
    pub async fn read(client: &Client, repository: &Repository) -> Result<Self, AccessError> {
        let namespace = repository.namespace().unwrap_or_default();
        let reference = &repository.spec.storage_ref;
        let storage_namespace = reference.namespace_or(&namespace).to_owned();
        let storage: BackupStorage =
            kubernetes::get(client, &storage_namespace, &reference.name).await?.ok_or_else(|| {
                AccessError::StorageNotFound { namespace: storage_namespace, name: reference.name.clone() }
            })?;
        let StorageAccess { storage, location, credentials } = StorageAccess::read(client, storage).await?;
        let status = repository.status.as_ref();
        let (Some(directory), Some(password)) =
            (status.and_then(|s| s.directory.clone()), status.and_then(|s| s.password_secret.as_ref()))
        else {
            return Err(AccessError::RepositoryNotReady { namespace, name: repository.name_any() });
        };
        let password = repository_password(client, repository, &password.namespace, &password.name).await?;
        let credentials = credentials.without_recovery_password().with_password(password);
        let concurrent_jobs = repository.spec.limits.as_ref().and_then(|limits| limits.concurrent_jobs);
        let concurrent_jobs = concurrent_jobs.and_then(NonZeroU32::new);
        let repository_id = status.and_then(|status| status.repository_id.clone());
        Ok(Self { storage, location, directory, repository_id, credentials, concurrent_jobs })
    }

    /// What a Job on this repository takes a place of, when it is bound to this node.
    pub fn seat(&self, node: Option<&str>) -> Seat {
        let storage = &self.storage;
        Seat {
            node: node.map(str::to_owned),
            storage: format!("{}/{}", storage.namespace().unwrap_or_default(), storage.name_any()),
            repository: self.directory.clone(),
        }
    }

    /// How many Jobs its storage and its repository take, with so many nodes to run them on.
    pub fn limits(&self, nodes: u32) -> Limits {
        let at_storage = self.storage.spec.limits.as_ref().and_then(|limits| limits.concurrent_jobs);
        Limits {
            nodes,
            per_storage: at_storage.and_then(NonZeroU32::new),
            per_repository: self.concurrent_jobs,
            ..Limits::default()
        }
    }

    /// The run spec of a task on this repository.
    pub fn spec(&self, run: RunIdentity, task: Task) -> RunSpec {
        RunSpec {
            version: holdfast_protocol::VERSION,
            run,
            storage: self.location.clone(),
            directory: Some(self.directory.clone()),
            repository_id: self.repository_id.clone(),
            dead_jobs: Vec::new(),
            discard: Vec::new(),
            read_only: self.storage.spec.is_read_only(),
            upload_bytes_per_second: pace(&self.storage, |limits| limits.upload_bytes_per_second.as_ref()),
            download_bytes_per_second: pace(&self.storage, |limits| {
                limits.download_bytes_per_second.as_ref()
            }),
            keys_end: None,
            task,
        }
    }
}

/// A limit of a storage in whole bytes a second.
pub fn pace(
    storage: &BackupStorage,
    which: impl Fn(&StorageLimits) -> Option<&Quantity>,
) -> Option<NonZeroU64> {
    let limit = storage.spec.limits.as_ref().and_then(which)?;
    // The schema refuses what is no amount; what is below a byte a second is one.
    quantity_bytes(limit).map(|bytes| NonZeroU64::new(bytes).unwrap_or(NonZeroU64::MIN))
}

/// The password in the Secret that a repository's status names.
pub async fn repository_password(
    client: &Client,
    repository: &Repository,
    namespace: &str,
    name: &str,
) -> Result<Vec<u8>, AccessError> {
    let key = repository
        .spec
        .password_secret_ref
        .as_ref()
        .map_or(files::PASSWORD, |reference| reference.key.as_str());
    password_of(&secret(client, namespace, name, PASSWORD_PURPOSE).await?, key, PASSWORD_PURPOSE)
}

/// Where a storage is, as runners are told.
fn location(backend: &Backend) -> Result<StorageLocation, AccessError> {
    if let Some(s3) = &backend.s3 {
        Ok(StorageLocation::S3 {
            endpoint: s3.url(),
            bucket: s3.bucket.clone(),
            prefix: s3.prefix.clone().unwrap_or_default(),
            region: s3.region.clone(),
            virtual_host: s3.addressing == Addressing::VirtualHost,
        })
    } else if let Some(gcs) = &backend.gcs {
        let prefix = gcs.prefix.clone().unwrap_or_default();
        Ok(StorageLocation::Gcs { bucket: gcs.bucket.clone(), prefix })
    } else if let Some(azure) = &backend.azure {
        Ok(StorageLocation::Azure {
            account: azure.account.clone(),
            container: azure.container.clone(),
            prefix: azure.prefix.clone().unwrap_or_default(),
            endpoint_suffix: azure.endpoint_suffix.clone(),
            endpoint: azure.endpoint.as_ref().map(|url| url.trim_end_matches('/').to_owned()),
        })
    } else {
        Err(AccessError::NoBackend)
    }
}

/// A key of a credentials Secret that cannot be used.
struct KeyMistake {
    key: &'static str,
    why: &'static str,
}

impl KeyMistake {
    fn of(self, secret: &Secret) -> AccessError {
        let (namespace, name) = (secret.namespace().unwrap_or_default(), secret.name_any());
        AccessError::KeyInvalid { namespace, name, key: self.key, why: self.why }
    }
}

const NO_AZURE_KEY: &str = "it is not there, nor are its alternatives: set AZURE_ACCOUNT_KEY, or AZURE_ACCOUNT_SAS, or \
    AZURE_CLIENT_ID with AZURE_TENANT_ID and AZURE_CLIENT_SECRET";

/// What would fail in a runner with words that help less, or would send a secret where it must not go.
fn check_key(backend: &Backend, key: &str, content: &[u8]) -> Result<(), &'static str> {
    match key {
        GcsBackend::SERVICE_ACCOUNT => check_service_account(content),
        AzureBackend::ACCOUNT_KEY => match data_encoding::BASE64.decode(content) {
            Ok(_) => Ok(()),
            Err(_) => Err("it is not in base64, as the keys of storage accounts are; copy it again"),
        },
        AzureBackend::ACCOUNT_SAS | AzureBackend::CLIENT_SECRET => {
            let plain = backend.azure.as_ref().and_then(|azure| azure.endpoint.as_deref());
            if plain.is_some_and(|url| url.starts_with("http://")) {
                return Err(
                    "over http it, or a token that it is exchanged for, could be read on the wire; use an https \
                            endpoint, or AZURE_ACCOUNT_KEY, which only signs",
                );
            }
            let text = String::from_utf8_lossy(content);
            if key == AzureBackend::ACCOUNT_SAS && !text.contains("sig=") {
                return Err("it is no shared access signature, which has the form sv=…&sig=…; copy it again");
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Only what Google hands out for a service account: a person's own login does not belong into a cluster, and what
/// names another server in the file would store data elsewhere than the storage says.
fn check_service_account(json: &[u8]) -> Result<(), &'static str> {
    let parsed: serde_json::Value = serde_json::from_slice(json)
        .map_err(|_| "it is not the JSON file of a service account's key; copy the whole file")?;
    if parsed.get("type").and_then(serde_json::Value::as_str) != Some("service_account") {
        return Err(
            "its \"type\" is not \"service_account\": make a key of a service account in Google's console and \
                    copy the whole file",
        );
    }
    if ["private_key", "private_key_id", "client_email"].iter().any(|field| parsed.get(field).is_none()) {
        return Err("private_key, private_key_id or client_email is missing in it; copy the whole file");
    }
    if ["gcs_base_url", "disable_oauth"].iter().any(|field| parsed.get(field).is_some()) {
        return Err(
            "gcs_base_url and disable_oauth are not allowed in it: data goes to Google Cloud Storage only",
        );
    }
    Ok(())
}

async fn secret(
    client: &Client,
    namespace: &str,
    name: &str,
    purpose: &'static str,
) -> Result<Secret, AccessError> {
    kubernetes::get(client, namespace, name).await?.ok_or_else(|| AccessError::NotFound {
        kind: "Secret",
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        purpose,
    })
}

/// Names what this key of a Secret holds now.
fn recovery_version(secret: &Secret, key: &str) -> String {
    let part = |text: Option<String>| text.unwrap_or_default();
    let place = format!("{}/{}/{key}", part(secret.uid()), part(secret.resource_version()));
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, place.as_bytes());
    data_encoding::HEXLOWER.encode(digest.as_ref()).chars().take(16).collect()
}

fn key_of(secret: &Secret, key: &str, purpose: &'static str) -> Result<Vec<u8>, AccessError> {
    let content = secret.data.as_ref().and_then(|data| data.get(key)).map(|value| value.0.clone());
    content.filter(|content| !content.trim_ascii().is_empty()).ok_or_else(|| AccessError::KeyMissing {
        kind: "Secret",
        namespace: secret.namespace().unwrap_or_default(),
        name: secret.name_any(),
        purpose,
        key: key.to_owned(),
    })
}

/// A password without the line end that an editor or `echo` put after it; restic reads password files the same.
fn password_of(secret: &Secret, key: &str, purpose: &'static str) -> Result<Vec<u8>, AccessError> {
    let content = key_of(secret, key, purpose)?;
    let end = content.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |last| last + 1);
    Ok(content.get(..end).unwrap_or_default().to_vec())
}

async fn config_map_key(
    client: &Client,
    namespace: &str,
    name: &str,
    key: &str,
) -> Result<Vec<u8>, AccessError> {
    let (kind, purpose) = ("ConfigMap", CA_PURPOSE);
    let map: ConfigMap = kubernetes::get(client, namespace, name).await?.ok_or_else(|| {
        AccessError::NotFound { kind, namespace: namespace.to_owned(), name: name.to_owned(), purpose }
    })?;
    let text = map.data.as_ref().and_then(|data| data.get(key)).filter(|text| !text.trim().is_empty());
    text.map(|text| text.clone().into_bytes()).ok_or_else(|| AccessError::KeyMissing {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        purpose,
        key: key.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_credential_is_shown() {
        let credentials = Credentials::default().with_password(b"hunter2".to_vec());
        let shown = format!("{credentials:?}");
        assert!(
            shown.contains("password") && !shown.contains("hunter2") && !shown.contains("104"),
            "{shown}"
        );
    }

    fn keys(backend: &str, secret: &str) -> Result<Vec<(&'static str, String)>, AccessError> {
        let backend: Backend = serde_saphyr::from_str(backend).unwrap();
        let data: BTreeMap<String, String> = serde_saphyr::from_str(secret).unwrap();
        let data = data.into_iter().map(|(key, value)| (key, ByteString(value.into_bytes()))).collect();
        let secret = Secret { data: Some(data), ..Secret::default() };
        let files = Credentials::of_store(&backend, &secret)?.files;
        Ok(files.into_iter().map(|(file, text)| (file, String::from_utf8(text).unwrap())).collect())
    }

    const S3: &str = "{s3: {bucket: b, credentialsSecretRef: {name: keys}}}";
    const GCS: &str = "{gcs: {bucket: b, credentialsSecretRef: {name: keys}}}";
    const AZURE: &str = "{azure: {account: acct, container: box, credentialsSecretRef: {name: keys}}}";
    const PLAIN_AZURE: &str = "{azure: {account: acct, container: box, endpoint: 'http://host/acct', credentialsSecretRef: {name: keys}}}";
    const ACCOUNT: &str =
        r#"{"type": "service_account", "private_key": "k", "private_key_id": "i", "client_email": "e"}"#;

    #[test]
    fn each_store_takes_the_keys_that_it_knows() {
        let pair = "AWS_ACCESS_KEY_ID: \"id\\n\", AWS_SECRET_ACCESS_KEY: key";
        let two = [("access-key-id", "id".to_owned()), ("secret-access-key", "key".to_owned())];
        assert_eq!(keys(S3, &format!("{{{pair}}}")).unwrap(), two);
        let temporary = keys(S3, &format!("{{{pair}, AWS_SESSION_TOKEN: token}}")).unwrap();
        assert!(temporary.contains(&("session-token", "token".to_owned())), "{temporary:?}");
        let json = keys(GCS, &format!("{{GOOGLE_SERVICE_ACCOUNT_JSON_KEY: '{ACCOUNT}'}}")).unwrap();
        assert_eq!(json, [("google-service-account.json", ACCOUNT.to_owned())]);
        let application = "{AZURE_CLIENT_ID: c, AZURE_TENANT_ID: t, AZURE_CLIENT_SECRET: s}";
        for (backend, secret, files) in [
            (AZURE, "{AZURE_ACCOUNT_KEY: a2V5}", vec!["azure-account-key"]),
            (AZURE, "{AZURE_ACCOUNT_KEY: a2V5, AZURE_ACCOUNT_SAS: '?sv=1&sig=x'}", vec!["azure-account-key"]),
            (AZURE, "{AZURE_ACCOUNT_SAS: '?sv=1&sig=x'}", vec!["azure-account-sas"]),
            (AZURE, application, vec!["azure-client-id", "azure-client-secret", "azure-tenant-id"]),
            (PLAIN_AZURE, "{AZURE_ACCOUNT_KEY: a2V5}", vec!["azure-account-key"]),
        ] {
            let found = keys(backend, secret).unwrap();
            assert_eq!(found.into_iter().map(|(file, _)| file).collect::<Vec<_>>(), files, "{secret}");
        }
    }

    #[test]
    fn a_secret_that_cannot_work_is_named_without_its_content() {
        let google = |text: &str| format!("{{GOOGLE_SERVICE_ACCOUNT_JSON_KEY: '{text}'}}");
        for (backend, secret, said) in [
            (S3, "{AWS_ACCESS_KEY_ID: hidden}".to_owned(), "AWS_SECRET_ACCESS_KEY"),
            (S3, "{AWS_SESSION_TOKEN: hidden}".to_owned(), "AWS_ACCESS_KEY_ID"),
            (GCS, "{other: hidden}".to_owned(), "GOOGLE_SERVICE_ACCOUNT_JSON_KEY"),
            (GCS, google("hidden"), "not the JSON file"),
            (GCS, google(r#"{"type": "authorized_user", "refresh_token": "hidden"}"#), "service_account"),
            (GCS, google(r#"{"type": "service_account", "private_key": "hidden"}"#), "client_email"),
            (GCS, google(&ACCOUNT.replace('}', r#", "gcs_base_url": "http://hidden"}"#)), "gcs_base_url"),
            (AZURE, "{other: hidden}".to_owned(), "AZURE_ACCOUNT_SAS"),
            (AZURE, "{AZURE_CLIENT_ID: hidden, AZURE_CLIENT_SECRET: hidden}".to_owned(), "AZURE_TENANT_ID"),
            (AZURE, "{AZURE_ACCOUNT_KEY: 'hidden!'}".to_owned(), "base64"),
            (AZURE, "{AZURE_ACCOUNT_SAS: hidden}".to_owned(), "shared access signature"),
            (PLAIN_AZURE, "{AZURE_ACCOUNT_SAS: 'sv=1&sig=hidden'}".to_owned(), "https"),
        ] {
            let error = keys(backend, &secret).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(text.contains(said) && !text.contains("hidden"), "{secret} gave {text}");
            assert_eq!(error.reason(), Some(Reason::SecretInvalid), "{text}");
        }
    }

    #[test]
    fn runners_are_told_where_each_store_is() {
        let of =
            |text: &str| serde_json::to_string(&location(&serde_saphyr::from_str(text).unwrap()).unwrap());
        let hosted =
            S3.replace("bucket: b", "bucket: b, prefix: p, addressing: VirtualHost, region: eu-west-1");
        for (backend, expected) in [
            (
                S3,
                r#"{"s3":{"endpoint":"https://s3.us-east-1.amazonaws.com","bucket":"b","prefix":"","region":"us-east-1"}}"#,
            ),
            (
                hosted.as_str(),
                r#"{"s3":{"endpoint":"https://s3.eu-west-1.amazonaws.com","bucket":"b","prefix":"p","region":"eu-west-1","virtualHost":true}}"#,
            ),
            (GCS, r#"{"gcs":{"bucket":"b","prefix":""}}"#),
            (AZURE, r#"{"azure":{"account":"acct","container":"box","prefix":""}}"#),
            (
                PLAIN_AZURE,
                r#"{"azure":{"account":"acct","container":"box","prefix":"","endpoint":"http://host/acct"}}"#,
            ),
        ] {
            assert_eq!(of(backend).unwrap(), expected);
        }
        assert_eq!(location(&Backend::default()).unwrap_err().reason(), Some(Reason::InvalidSpec));
    }

    #[test]
    fn keys_that_are_to_be_exchanged_reach_no_runner_as_they_are() {
        let of = |role: &str| {
            let backend = format!("{{s3: {{bucket: b, credentialsSecretRef: {{name: keys}}{role}}}}}");
            let secret: Secret = serde_saphyr::from_str(
                "data: {AWS_ACCESS_KEY_ID: YnJvYWQtaWQ=, AWS_SECRET_ACCESS_KEY: YnJvYWQtc2VjcmV0}",
            )
            .unwrap();
            Credentials::of_store(&serde_saphyr::from_str(&backend).unwrap(), &secret).unwrap()
        };
        let broad = of("");
        assert!(broad.exchange().is_none() && broad.as_they_are().is_some());
        let scoped = of(", assumeRole: {roleArn: 'arn:aws:iam::123456789012:role/r'}");
        assert_eq!(scoped.as_they_are(), None);
        assert_ne!(scoped.fingerprint(), broad.fingerprint(), "another role is tried anew");
        assert_eq!((scoped.signing_keys().id, scoped.signing_keys().secret), ("broad-id", "broad-secret"));
        let keys = TemporaryKeys {
            id: "new-id".into(),
            secret: "new-secret".into(),
            token: "new-token".into(),
            expires: jiff::Timestamp::UNIX_EPOCH,
        };
        let files = scoped.with_password(b"p".to_vec()).with_keys(&keys);
        let data = files.data();
        let text = |name: &str| String::from_utf8(data[name].0.clone()).unwrap();
        assert_eq!(text("access-key-id"), "new-id");
        assert_eq!(
            (text("secret-access-key"), text("session-token")),
            ("new-secret".into(), "new-token".into())
        );
        assert_eq!(text("password"), "p");
        assert!(!data.values().any(|content| content.0.starts_with(b"broad")));
        assert!(!format!("{files:?} {keys:?}").contains("new-"), "{files:?} {keys:?}");
    }

    #[test]
    fn a_fingerprint_tells_every_change() {
        let one = Credentials::default().with_password(b"a".to_vec());
        assert_eq!(one.fingerprint(), one.clone().fingerprint());
        assert_ne!(one.fingerprint(), Credentials::default().with_password(b"b".to_vec()).fingerprint());
        assert_ne!(one.fingerprint(), Credentials::default().fingerprint());
    }

    #[test]
    fn a_password_loses_its_line_end_and_nothing_else() {
        let secret: Secret = serde_saphyr::from_str("data: {password: cGFzcyAK, empty: Cg==}").unwrap();
        assert_eq!(password_of(&secret, "password", PASSWORD_PURPOSE).unwrap(), b"pass ");
        let error = password_of(&secret, "empty", PASSWORD_PURPOSE).unwrap_err();
        assert!(matches!(error.reason(), Some(Reason::SecretInvalid)), "{error}");
        assert!(password_of(&secret, "other", PASSWORD_PURPOSE).is_err());
    }
}
