//! S3 keys that can be read again: somebody rotates them while a long backup runs.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use secrecy::ExposeSecret as _;

use crate::error::{Error, ErrorKind, Result};
use crate::store::{KeySource, S3Options};

/// The keys in use and where newer ones may be found.
#[derive(Debug)]
pub(super) struct Keys {
    /// With how often they were changed.
    current: Mutex<(Arc<AwsCredential>, u64)>,
    from: Option<KeySource>,
}

impl Keys {
    /// The keys given, or those of the files named; `None` when neither is.
    pub(super) fn new(options: &S3Options) -> Result<Option<Self>> {
        let first = match (&options.access_key_id, &options.secret_access_key, &options.keys_from) {
            (Some(id), Some(secret), _) => AwsCredential {
                key_id: id.clone(),
                secret_key: secret.expose_secret().to_owned(),
                token: options.session_token.as_ref().map(|t| t.expose_secret().to_owned()),
            },
            (None, None, Some(from)) => read(from)?,
            (None, None, None) => return Ok(None),
            _ => {
                return Err(Error::new(
                    ErrorKind::Auth,
                    "of access key and secret key only one was given; for a command line set both \
                     AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
                ));
            }
        };
        Ok(Some(Self { current: Mutex::new((Arc::new(first), 0)), from: options.keys_from.clone() }))
    }

    /// How often the keys were changed.
    pub(super) fn epoch(&self) -> u64 {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Whether there are other keys than those of `epoch`, which the server refused.
    pub(super) fn renew(&self, epoch: u64) -> bool {
        if self.epoch() > epoch {
            return true;
        }
        let Some(found) = self.from.as_ref().and_then(|from| read(from).ok()) else { return false };
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if *current.0 == found {
            // Another call may have been quicker.
            return current.1 > epoch;
        }
        *current = (Arc::new(found), current.1.saturating_add(1));
        true
    }
}

#[async_trait::async_trait]
impl CredentialProvider for Keys {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        Ok(Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner).0))
    }
}

fn read(from: &KeySource) -> Result<AwsCredential> {
    match from {
        KeySource::Files { access_key_id, secret_access_key, session_token } => Ok(AwsCredential {
            key_id: line(access_key_id)?,
            secret_key: line(secret_access_key)?,
            token: match fs::read_to_string(session_token) {
                Ok(text) => Some(text.trim().to_owned()).filter(|t| !t.is_empty()),
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                Err(e) => return Err(unreadable(session_token, e)),
            },
        }),
        KeySource::Profile { file, profile } => {
            let text = fs::read_to_string(file).map_err(|e| unreadable(file, e))?;
            section(&text, profile).ok_or_else(|| {
                Error::new(
                    ErrorKind::Auth,
                    format!(
                        "{} holds no profile {profile:?} with aws_access_key_id and aws_secret_access_key",
                        file.display()
                    ),
                )
            })
        }
    }
}

fn line(path: &Path) -> Result<String> {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).map_err(|e| unreadable(path, e))
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    Error::with_source(
        ErrorKind::Auth,
        format!("reading the credentials in {} failed", path.display()),
        error,
    )
}

/// The keys of one `[profile]` of an AWS credentials file.
fn section(text: &str, profile: &str) -> Option<AwsCredential> {
    let (mut id, mut secret, mut token) = (None, None, None);
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            inside = name.trim() == profile;
            continue;
        }
        if !inside || line.starts_with(['#', ';']) {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else { continue };
        let value = value.trim().to_owned();
        match name.trim() {
            "aws_access_key_id" => id = Some(value),
            "aws_secret_access_key" => secret = Some(value),
            "aws_session_token" => token = Some(value),
            _ => {}
        }
    }
    Some(AwsCredential { key_id: id?, secret_key: secret?, token })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_found_among_others() {
        let text = "[default]\naws_access_key_id = a\naws_secret_access_key=b\n\n# [other]\n[ work ]\n\
                    aws_access_key_id=c\nregion=x\naws_secret_access_key = d=e\naws_session_token=t\n";
        let found = section(text, "work").unwrap();
        assert_eq!((found.key_id.as_str(), found.secret_key.as_str()), ("c", "d=e"));
        assert_eq!(found.token.as_deref(), Some("t"));
        assert_eq!(section(text, "default").unwrap().token, None);
        assert!(section(text, "none").is_none());
        assert!(section("[x]\naws_access_key_id=a\n", "x").is_none(), "half of a pair is none");
    }

    #[test]
    fn keys_are_new_only_once_they_changed() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        fs::write(file("id"), "first\n").unwrap();
        fs::write(file("secret"), "s").unwrap();
        let options = S3Options {
            keys_from: Some(KeySource::Files {
                access_key_id: file("id"),
                secret_access_key: file("secret"),
                session_token: file("token"),
            }),
            ..S3Options::default()
        };
        let keys = Keys::new(&options).unwrap().unwrap();
        assert!(!keys.renew(0), "the same keys would be refused again");
        fs::write(file("id"), "second").unwrap();
        assert!(keys.renew(0));
        assert_eq!(keys.current.lock().unwrap().0.key_id, "second");
        assert!(keys.renew(0), "another operation that failed with the first keys");
        assert!(!keys.renew(1));
        fs::remove_file(file("id")).unwrap();
        assert!(!keys.renew(1), "a half-written Secret is waited for by nobody");
        assert!(Keys::new(&S3Options::default()).unwrap().is_none());
        let half = S3Options { access_key_id: Some("a".into()), ..S3Options::default() };
        assert_eq!(Keys::new(&half).unwrap_err().kind(), ErrorKind::Auth);
    }
}
