//! Reads the mounted Secret of a run: the spec and the credentials beside it.

use std::fs;
use std::io::ErrorKind as IoErrorKind;
use std::path::Path;

use holdfast_engine::event::Checkpoint;
use holdfast_engine::store::{KeySource, Location, Pace, S3Options, StoreOptions};
use holdfast_protocol::spec::StorageAccess;
use holdfast_protocol::{RunSpec, VERSION, files};
use secrecy::SecretString;
use serde::Deserialize;

use crate::failure::Failure;

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
        let StorageAccess::S3 { region, .. } = &spec.storage;
        let s3 = S3Options {
            access_key_id: optional(directory, files::ACCESS_KEY_ID)?,
            secret_access_key: optional(directory, files::SECRET_ACCESS_KEY)?.map(SecretString::from),
            session_token: optional(directory, files::SESSION_TOKEN)?.map(SecretString::from),
            // Who rotates keys while a long run goes on renews the Secret; the mounted files follow it.
            keys_from: Some(KeySource::Files {
                access_key_id: directory.join(files::ACCESS_KEY_ID),
                secret_access_key: directory.join(files::SECRET_ACCESS_KEY),
                session_token: directory.join(files::SESSION_TOKEN),
            }),
            region: Some(region.clone()).filter(|r| !r.is_empty()),
            ..S3Options::default()
        };
        let pace = Pace { upload: spec.upload_bytes_per_second, download: spec.download_bytes_per_second };
        let ca_pem = optional(directory, files::CA)?.map(String::into_bytes);
        Ok(Self {
            options: StoreOptions { s3, ca_pem, pace, ..StoreOptions::default() },
            password: optional(directory, files::PASSWORD)?.map(SecretString::from),
            recovery_password: optional(directory, files::RECOVERY_PASSWORD)?.map(SecretString::from),
            spec,
            checkpoint: None,
        })
    }

    /// Where the storage, or the repository within it, lies.
    pub(crate) fn location(&self) -> Location {
        let StorageAccess::S3 { endpoint, bucket, prefix, .. } = &self.spec.storage;
        let root = Location::S3 { endpoint: endpoint.clone(), bucket: bucket.clone(), prefix: String::new() };
        root.join(prefix).join(self.spec.directory.as_deref().unwrap_or_default())
    }
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
        return Err(Failure::fatal(
            "SpecVersion",
            format!(
                "the run's spec is of version {version} and this runner understands version {VERSION}; operator and \
                 runner have to be the same release"
            ),
        ));
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
