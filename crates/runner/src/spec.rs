//! Reads the mounted Secret of a run: the spec and the credentials beside it.

use std::fs;
use std::io::ErrorKind as IoErrorKind;
use std::path::Path;

use holdfast_engine::event::Checkpoint;
use holdfast_engine::store::{AzureOptions, KeySource, Location, Pace, S3Options, StoreOptions};
use holdfast_protocol::spec::StorageAccess;
use holdfast_protocol::{RunSpec, VERSION, files};
use secrecy::SecretString;
use serde::Deserialize;

use crate::failure::Failure;
use crate::keys::Keys;

/// A run spec with its credentials.
pub(crate) struct Run {
    /// What to do.
    pub(crate) spec: RunSpec,
    /// How to talk to the store.
    pub(crate) options: StoreOptions,
    /// Password of the repository, where the task is about one.
    pub(crate) password: Option<SecretString>,
    /// The storage's recovery password.
    pub(crate) recovery_password: Option<SecretString>,
    /// What an earlier runner of the same component had finished.
    pub(crate) checkpoint: Option<Checkpoint>,
}

impl Run {
    /// Reads and checks all files of the run.
    pub(crate) fn read(directory: &Path) -> Result<Self, Failure> {
        let text = required(directory, files::SPEC)?;
        let spec = parse(&text)?;
        if let Some(repository) = &spec.directory {
            check_directory(repository)?;
        }
        let mut options = store_options(&spec.storage, directory)?;
        options.pace =
            Pace { upload: spec.upload_bytes_per_second, download: spec.download_bytes_per_second };
        options.ca_pem = optional(directory, files::CA)?.map(String::into_bytes);
        Ok(Self {
            options,
            password: optional(directory, files::PASSWORD)?.map(SecretString::from),
            recovery_password: optional(directory, files::RECOVERY_PASSWORD)?.map(SecretString::from),
            spec,
            checkpoint: None,
        })
    }

    /// Where the storage, or the repository within it, lies.
    pub(crate) fn location(&self) -> Location {
        let (root, prefix) = match &self.spec.storage {
            StorageAccess::S3 { endpoint, bucket, prefix, .. } => {
                let (endpoint, bucket) = (endpoint.clone(), bucket.clone());
                (Location::S3 { endpoint, bucket, prefix: String::new() }, prefix)
            }
            StorageAccess::Gcs { bucket, prefix } => {
                (Location::Gcs { bucket: bucket.clone(), prefix: String::new() }, prefix)
            }
            StorageAccess::Azure { container, prefix, .. } => {
                (Location::Azure { container: container.clone(), prefix: String::new() }, prefix)
            }
        };
        root.join(prefix).join(self.spec.directory.as_deref().unwrap_or_default())
    }

    /// Whether the store's keys end by themselves, and when.
    pub(crate) fn keys(&self) -> Keys {
        let temporary = self.options.s3.session_token.is_some() || self.options.azure.signature.is_some();
        // A time that cannot be read is none: it only tells what a refusal means.
        Keys { temporary, end: self.spec.keys_end.as_deref().and_then(|end| end.parse().ok()) }
    }
}

/// How the store is reached, by the credentials in the run's Secret and by nothing else: what a cloud gives to a pod or
/// a node of its own accord is not the storage's to use (`docs/decisions/0032-stores-are-reached-with-keys.md`).
fn store_options(storage: &StorageAccess, directory: &Path) -> Result<StoreOptions, Failure> {
    let secret = |name: &str| optional(directory, name).map(|text| text.map(SecretString::from));
    let mut options = StoreOptions::default();
    match storage {
        StorageAccess::S3 { region, virtual_host, .. } => {
            options.s3 = S3Options {
                access_key_id: optional(directory, files::ACCESS_KEY_ID)?,
                secret_access_key: secret(files::SECRET_ACCESS_KEY)?,
                session_token: secret(files::SESSION_TOKEN)?,
                // Who rotates keys while a long run goes on renews the Secret; the mounted files follow it.
                keys_from: Some(KeySource::Files {
                    access_key_id: directory.join(files::ACCESS_KEY_ID),
                    secret_access_key: directory.join(files::SECRET_ACCESS_KEY),
                    session_token: directory.join(files::SESSION_TOKEN),
                }),
                region: Some(region.clone()).filter(|r| !r.is_empty()),
                virtual_host: *virtual_host,
                ..S3Options::default()
            };
        }
        StorageAccess::Gcs { .. } => {
            // Without a file the client library would ask for the node's identity.
            required(directory, files::GOOGLE_SERVICE_ACCOUNT)?;
            options.gcs.credentials_file = Some(directory.join(files::GOOGLE_SERVICE_ACCOUNT));
        }
        StorageAccess::Azure { account, endpoint_suffix, endpoint, .. } => {
            let azure = AzureOptions {
                account: Some(account.clone()),
                key: secret(files::AZURE_ACCOUNT_KEY)?,
                signature: secret(files::AZURE_ACCOUNT_SAS)?,
                endpoint_suffix: endpoint_suffix.clone(),
                endpoint: endpoint.clone(),
                client_id: optional(directory, files::AZURE_CLIENT_ID)?,
                tenant_id: optional(directory, files::AZURE_TENANT_ID)?,
                client_secret: secret(files::AZURE_CLIENT_SECRET)?,
                federated_token_file: None,
            };
            let application =
                azure.client_id.is_some() && azure.tenant_id.is_some() && azure.client_secret.is_some();
            // Here too, of the node.
            if azure.key.is_none() && azure.signature.is_none() && !application {
                return Err(Failure::fatal(
                    "BadSpec",
                    format!(
                        "{} holds no credentials for Azure: the run's Secret is incomplete",
                        directory.display()
                    ),
                ));
            }
            options.azure = azure;
        }
    }
    Ok(options)
}

/// The checkpoint in this directory. One that cannot be read only costs the work that it would have saved.
pub(crate) fn checkpoint(directory: &Path) -> Option<Checkpoint> {
    let path = directory.join(files::CHECKPOINT);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == IoErrorKind::NotFound => return None,
        Err(e) => {
            tracing::warn!("read the checkpoint {}: {e}; all files are read again", path.display());
            return None;
        }
    };
    let told: Option<holdfast_protocol::Checkpoint> = serde_json::from_str(&text).ok();
    let found = told.and_then(|told| {
        Some(Checkpoint { tree: told.tree.parse().ok()?, started: told.started.parse().ok()? })
    });
    if found.is_none() {
        tracing::warn!("the checkpoint {} is not readable; all files are read again", path.display());
    }
    found
}

fn parse(text: &str) -> Result<RunSpec, Failure> {
    /// Read first, so that a spec of another version is named as such and not as a list of unknown fields.
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }

    let bad = |e: serde_json::Error| {
        Failure::fatal("BadSpec", format!("the run's {} cannot be read: {e}", files::SPEC))
    };
    let Versioned { version } = serde_json::from_str(text).map_err(bad)?;
    if version != VERSION {
        // The operator that sees this is of another release than the one that made the Job, and makes the next one.
        return Err(Failure {
            retryable: true,
            ..Failure::fatal(
                "SpecVersion",
                format!(
                    "the run's spec is of version {version} and this runner understands version {VERSION}; operator \
                     and runner have to be the same release"
                ),
            )
        });
    }
    serde_json::from_str(text).map_err(bad)
}

/// A repository's directory comes from a custom resource: it must stay below the storage's prefix.
fn check_directory(directory: &str) -> Result<(), Failure> {
    let good = !directory.is_empty()
        && directory
            .split('/')
            .all(|part| !matches!(part, "" | "." | "..") && !part.contains(char::is_control));
    if good {
        Ok(())
    } else {
        Err(Failure::fatal(
            "BadSpec",
            format!("{directory:?} is no directory of a repository below its storage"),
        ))
    }
}

fn required(directory: &Path, name: &str) -> Result<String, Failure> {
    optional(directory, name)?.ok_or_else(|| {
        Failure::fatal(
            "BadSpec",
            format!("{} holds no file {name}: the run's Secret is incomplete", directory.display()),
        )
    })
}

/// The content of a file of the Secret without the line end that a person's editor may have left.
fn optional(directory: &Path, name: &str) -> Result<Option<String>, Failure> {
    let path = directory.join(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned()).filter(|t| !t.is_empty())),
        Err(e) if e.kind() == IoErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failure::fatal("BadSpec", format!("read {}: {e}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_taken_when_it_is_there_and_whole() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(checkpoint(directory.path()), None);
        let write = |text: &str| fs::write(directory.path().join(files::CHECKPOINT), text).unwrap();
        let tree = "ab".repeat(32);
        write(&format!(r#"{{"tree":"{tree}","started":"2026-11-20T02:00:00Z"}}"#));
        let found = checkpoint(directory.path()).unwrap();
        assert_eq!((found.tree.to_hex(), found.started.to_string()), (tree, "2026-11-20T02:00:00Z".into()));
        for bad in ["", "{}", r#"{"tree":"ab","started":"2026-11-20T02:00:00Z"}"#] {
            write(bad);
            assert_eq!(checkpoint(directory.path()), None, "{bad}");
        }
    }

    use secrecy::ExposeSecret;

    const SPEC: &str = r#"{
        "version": 1,
        "run": {"kind": "Repository", "namespace": "shop", "name": "main", "uid": "u", "cluster": "c", "clusterUid": "k"},
        "storage": {"s3": {"endpoint": "https://s3:9000", "bucket": "b", "prefix": "/prod/", "region": "eu"}},
        "directory": "c/shop/main-x",
        "task": {"type": "sync"}
    }"#;

    fn mounted(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    #[test]
    fn spec_and_credentials_are_read_from_their_files() {
        let directory = mounted(&[
            (files::SPEC, SPEC),
            (files::PASSWORD, "secret\n"),
            (files::ACCESS_KEY_ID, "id"),
            (files::SECRET_ACCESS_KEY, "key"),
        ]);
        let run = Run::read(directory.path()).map_err(|f| f.message).unwrap();
        assert_eq!(run.password.as_ref().unwrap().expose_secret(), "secret");
        assert_eq!(run.options.s3.access_key_id.as_deref(), Some("id"));
        assert!(run.recovery_password.is_none());
        let Location::S3 { endpoint, bucket, prefix } = run.location() else { panic!("not S3") };
        assert_eq!((endpoint.as_str(), bucket.as_str()), ("https://s3:9000", "b"));
        assert_eq!(prefix, "prod/c/shop/main-x");
    }

    #[test]
    fn a_pace_is_kept_where_one_is_given_and_older_specs_give_none() {
        let read = |spec: &str| {
            Run::read(mounted(&[(files::SPEC, spec)]).path()).map_err(|f| f.message).unwrap().options.pace
        };
        assert_eq!(read(SPEC), Pace::default());
        let paced = SPEC.replace(r#""directory""#, r#""uploadBytesPerSecond": 1000, "directory""#);
        assert_eq!(read(&paced).upload.map(std::num::NonZeroU64::get), Some(1000));
    }

    fn options(storage: &str, files: &[(&str, &str)]) -> Result<StoreOptions, Failure> {
        store_options(&serde_json::from_str(storage).unwrap(), mounted(files).path())
    }

    const GCS: &str = r#"{"gcs": {"bucket": "b", "prefix": "p"}}"#;
    const AZURE: &str =
        r#"{"azure": {"account": "acct", "container": "box", "endpointSuffix": "core.example"}}"#;

    #[test]
    fn temporary_keys_and_buckets_in_the_hosts_name_are_told_to_the_engine() {
        let keys = [
            (files::ACCESS_KEY_ID, "id"),
            (files::SECRET_ACCESS_KEY, "key"),
            (files::SESSION_TOKEN, "token\n"),
        ];
        let storage =
            r#"{"s3": {"endpoint": "https://s3", "bucket": "b", "region": "eu", "virtualHost": true}}"#;
        let s3 = options(storage, &keys).map_err(|f| f.message).unwrap().s3;
        assert_eq!(s3.session_token.unwrap().expose_secret(), "token");
        assert!(s3.virtual_host && s3.identity.is_none());
        let mut files = vec![(files::SPEC, SPEC)];
        assert!(!Run::read(mounted(&files).path()).map_err(|f| f.message).unwrap().keys().temporary);
        files.extend(keys);
        let run = Run::read(mounted(&files).path()).map_err(|f| f.message).unwrap();
        assert!(run.keys().temporary && !run.options.s3.virtual_host);
        assert_eq!(run.keys().end, None, "a spec of before");
        let dated = SPEC.replacen('{', r#"{"keysEnd": "2026-11-20T03:00:00Z","#, 1);
        let files = [(files::SPEC, dated.as_str())].into_iter().chain(keys).collect::<Vec<_>>();
        let run = Run::read(mounted(&files).path()).map_err(|f| f.message).unwrap();
        assert_eq!(run.keys().end, Some("2026-11-20T03:00:00Z".parse().unwrap()));
        let old =
            r#"{"s3": {"endpoint": "https://s3:9000", "bucket": "b", "prefix": "/prod/", "region": "eu"}}"#;
        let signed = [(files::SPEC, &*SPEC.replace(old, AZURE)), (files::AZURE_ACCOUNT_SAS, "sv=1&sig=x")];
        assert!(Run::read(mounted(&signed).path()).map_err(|f| f.message).unwrap().keys().temporary);
    }

    #[test]
    fn google_and_azure_take_the_keys_of_the_secret() {
        let gcs = options(GCS, &[(files::GOOGLE_SERVICE_ACCOUNT, "{}")]).map_err(|f| f.message).unwrap().gcs;
        assert!(gcs.credentials_file.unwrap().ends_with(files::GOOGLE_SERVICE_ACCOUNT));

        let azure = |files: &[(&str, &str)]| options(AZURE, files).map_err(|f| f.message).unwrap().azure;
        let key = azure(&[(files::AZURE_ACCOUNT_KEY, "a2V5")]);
        assert_eq!(key.key.unwrap().expose_secret(), "a2V5");
        assert_eq!(
            (key.account.as_deref(), key.endpoint_suffix.as_deref()),
            (Some("acct"), Some("core.example"))
        );
        let signature = azure(&[(files::AZURE_ACCOUNT_SAS, "sv=1&sig=x")]).signature.unwrap();
        assert_eq!(signature.expose_secret(), "sv=1&sig=x");
        let application = azure(&[
            (files::AZURE_CLIENT_ID, "client"),
            (files::AZURE_TENANT_ID, "tenant"),
            (files::AZURE_CLIENT_SECRET, "secret"),
        ]);
        assert_eq!(
            (application.client_id.as_deref(), application.tenant_id.as_deref()),
            (Some("client"), Some("tenant"))
        );
        assert_eq!(application.client_secret.unwrap().expose_secret(), "secret");
    }

    #[test]
    fn without_keys_the_identity_of_the_node_is_not_used() {
        let half = [(files::AZURE_CLIENT_ID, "client"), (files::AZURE_TENANT_ID, "tenant")];
        for (storage, files) in [(GCS, [].as_slice()), (AZURE, &[]), (AZURE, &half)] {
            let failure = options(storage, files).unwrap_err();
            assert_eq!((failure.reason, failure.retryable), ("BadSpec", false), "{storage}");
        }
    }

    #[test]
    fn each_kind_of_store_has_its_location() {
        let old =
            r#"{"s3": {"endpoint": "https://s3:9000", "bucket": "b", "prefix": "/prod/", "region": "eu"}}"#;
        assert!(SPEC.contains(old));
        for (storage, key, location) in [
            (GCS, files::GOOGLE_SERVICE_ACCOUNT, "gs:b:/p/c/shop/main-x"),
            (AZURE, files::AZURE_ACCOUNT_KEY, "azure:box:/c/shop/main-x"),
        ] {
            let directory = mounted(&[(files::SPEC, &SPEC.replace(old, storage)), (key, "{}")]);
            let run = Run::read(directory.path()).map_err(|f| f.message).unwrap();
            assert!(!run.keys().temporary);
            assert_eq!(run.location().to_string(), location);
        }
    }

    #[test]
    fn a_directory_that_leaves_the_storage_is_refused() {
        for bad in ["../other", "/abs", "a//b", "a/./b", "", "a/b/", "a\u{0}b"] {
            assert_eq!(check_directory(bad).unwrap_err().reason, "BadSpec", "{bad:?}");
        }
        assert!(check_directory("prod/shop/daily-x7k2p").is_ok());
    }

    #[test]
    fn an_unknown_task_is_a_bad_spec() {
        let directory = mounted(&[(files::SPEC, &SPEC.replace("sync", "sing"))]);
        assert_eq!(Run::read(directory.path()).err().unwrap().reason, "BadSpec");
    }
}
