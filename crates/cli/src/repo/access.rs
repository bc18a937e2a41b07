//! Which repository, with which password and credentials: flags first, then `HOLDFAST_…`, then `RESTIC_…` and
//! `AWS_…` of the environment. Parsing and resolving only; nothing is opened here.

use std::fmt;
use std::fs;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_engine::store::{Location, Pace, StoreOptions};
use secrecy::SecretString;

use super::{credentials, prompt};
use crate::failure::{Failure, Result};

/// Flags that all commands share.
#[expect(clippy::doc_markdown, reason = "the comments are the help text, which shows backticks as they are")]
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Repository")]
pub(super) struct Access {
    /// The repository: a directory, s3:https://HOST[:PORT]/BUCKET/PREFIX, gs:BUCKET:/PREFIX,
    /// azure:CONTAINER:/PREFIX or rest:https://HOST[:PORT]/PATH/
    /// [env: HOLDFAST_REPOSITORY, RESTIC_REPOSITORY]
    #[arg(short, long, global = true, value_name = "LOCATION")]
    pub(super) repository: Option<String>,
    /// File with the repository's password; asked for on a terminal when absent
    /// [env: HOLDFAST_PASSWORD_FILE, RESTIC_PASSWORD_FILE; or the password in HOLDFAST_PASSWORD, RESTIC_PASSWORD]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) password_file: Option<PathBuf>,
    /// File with certificates (PEM) to trust beside the system's
    /// [env: HOLDFAST_CACERT, RESTIC_CACERT]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) cacert: Option<PathBuf>,
    /// Set one of the store: s3.bucket-lookup=dns|path|auto, s3.region=REGION; may be repeated
    #[arg(short = 'o', long = "option", global = true, value_name = "KEY=VALUE")]
    pub(super) options: Vec<String>,
    /// Send at most so many KiB a second to the repository
    #[arg(long, global = true, value_name = "KIB")]
    pub(super) limit_upload: Option<NonZeroU32>,
    /// Take at most so many KiB a second from the repository
    #[arg(long, global = true, value_name = "KIB")]
    pub(super) limit_download: Option<NonZeroU32>,
    /// Wait so long for a lock that somebody else holds, e.g. 30s or 10m
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration, default_value = "0s")]
    pub(super) retry_lock: Duration,
    /// Print results as JSON with restic's field names, errors as JSON on standard error
    #[arg(long, global = true)]
    pub(super) json: bool,
}

/// Flags that name a second repository, from which something is taken.
#[expect(clippy::doc_markdown, reason = "the comments are the help text, which shows backticks as they are")]
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Source repository")]
pub(super) struct From {
    /// The repository to take from [env: HOLDFAST_FROM_REPOSITORY, RESTIC_FROM_REPOSITORY]
    #[arg(long, value_name = "LOCATION")]
    pub(super) from_repo: Option<String>,
    /// File with its password; asked for on a terminal when absent
    /// [env: HOLDFAST_FROM_PASSWORD_FILE, RESTIC_FROM_PASSWORD_FILE; or the password in HOLDFAST_FROM_PASSWORD,
    /// RESTIC_FROM_PASSWORD]
    #[arg(long, value_name = "FILE")]
    pub(super) from_password_file: Option<PathBuf>,
}

impl From {
    /// Resolves flags and environment; everything but location and password is as in `access`.
    pub(super) fn resolve(&self, access: &Access, env: Environment<'_>) -> Result<Resolved> {
        let named = self
            .from_repo
            .clone()
            .or_else(|| env("HOLDFAST_FROM_REPOSITORY"))
            .or_else(|| env("RESTIC_FROM_REPOSITORY"))
            .ok_or_else(|| {
                Failure::usage("no repository to take from was named", "name it with --from-repo LOCATION")
            })?;
        let access = Access {
            repository: Some(named),
            password_file: self.from_password_file.clone(),
            ..access.clone()
        };
        // Only the source's own password may open it: with the other's the error would be hard to understand.
        access.resolve(&|name| match name.split_once("_PASSWORD") {
            Some((family, rest)) => env(&format!("{family}_FROM_PASSWORD{rest}")),
            None => env(name),
        })
    }
}

/// What the flags and the environment come to.
pub(super) struct Resolved {
    pub(super) location: Location,
    pub(super) options: StoreOptions,
    pub(super) password: Password,
}

/// Where the password comes from.
pub(super) enum Password {
    /// A file, and which flag or variable named it.
    File(PathBuf, &'static str),
    /// The environment.
    Value(SecretString),
    /// The person at the terminal.
    Ask,
}

impl Password {
    /// A new password from a file, or from the person at the terminal.
    pub(super) fn new_one(file: Option<&PathBuf>) -> Self {
        file.map_or(Self::Ask, |path| Self::File(path.clone(), "--new-password-file"))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, from) => write!(f, "File({}, {from})", path.display()),
            Self::Value(_) => f.write_str("Value(…)"),
            Self::Ask => f.write_str("Ask"),
        }
    }
}

/// Looks up a variable; empty ones count as absent, as in restic.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's own environment.
pub(super) fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Access {
    /// Resolves flags and environment.
    pub(super) fn resolve(&self, env: Environment<'_>) -> Result<Resolved> {
        let location = self
            .repository
            .clone()
            .or_else(|| env("HOLDFAST_REPOSITORY"))
            .or_else(|| env("RESTIC_REPOSITORY"))
            .ok_or_else(|| {
                Failure::usage(
                    "no repository was named",
                    "name one with -r LOCATION or HOLDFAST_REPOSITORY: a directory, s3:https://host/bucket/prefix, \
                     gs:bucket:/prefix, azure:container:/prefix or rest:https://host/path/",
                )
            })?;
        let location: Location = location.parse()?;
        let ca_pem = match self
            .cacert
            .clone()
            .or_else(|| env("HOLDFAST_CACERT").map(PathBuf::from))
            .or_else(|| env("RESTIC_CACERT").map(PathBuf::from))
        {
            Some(path) => Some(fs::read(&path).map_err(|e| {
                Failure::usage(
                    format!("read the certificates in {}: {e}", path.display()),
                    "give --cacert the PEM file of the authority that signed the store's certificate",
                )
            })?),
            None => None,
        };
        let pace = Pace { upload: pace(self.limit_upload), download: pace(self.limit_download) };
        let options = StoreOptions { ca_pem, pace, ..credentials::resolve(env, &self.options)? };
        Ok(Resolved { location, options, password: self.password_source(env) })
    }

    fn password_source(&self, env: Environment<'_>) -> Password {
        // Within each family the file wins: it is the better hidden of the two.
        if let Some(path) = &self.password_file {
            return Password::File(path.clone(), "--password-file");
        }
        for (file, value) in
            [("HOLDFAST_PASSWORD_FILE", "HOLDFAST_PASSWORD"), ("RESTIC_PASSWORD_FILE", "RESTIC_PASSWORD")]
        {
            if let Some(path) = env(file) {
                return Password::File(path.into(), file);
            }
            if let Some(password) = env(value) {
                return Password::Value(password.into());
            }
        }
        Password::Ask
    }
}

/// KiB a second, as people say it, in bytes.
fn pace(kib: Option<NonZeroU32>) -> Option<NonZeroU64> {
    kib.and_then(|kib| NonZeroU64::from(kib).checked_mul(KIB))
}

const KIB: NonZeroU64 = NonZeroU64::MIN.saturating_mul(NonZeroU64::MIN.saturating_add(1023));

impl Password {
    /// The password itself; `twice` when a new one is made and a slip would lock everybody out.
    pub(super) fn read(&self, twice: bool) -> Result<SecretString> {
        let password = match self {
            Self::File(path, from) => read_file(path, from)?,
            Self::Value(password) => password.clone(),
            Self::Ask if twice => prompt::ask_twice()?,
            Self::Ask => prompt::ask("password of the repository: ")?,
        };
        if secrecy::ExposeSecret::expose_secret(&password).is_empty() {
            return Err(Failure::usage("the password is empty", "a repository needs a password; choose one"));
        }
        Ok(password)
    }
}

fn read_file(path: &Path, from: &str) -> Result<SecretString> {
    let text = fs::read_to_string(path).map_err(|e| {
        Failure::usage(
            format!("read the password from {} ({from}): {e}", path.display()),
            "check the file's name and that you may read it",
        )
    })?;
    // Editors end files with a line feed; nobody means it as part of the password. restic trims it as well.
    let password = SecretString::from(text.trim_end_matches(['\n', '\r']));
    drop(zeroize::Zeroizing::new(text));
    Ok(password)
}

/// Durations as people write them: `90s`, `10m`, `1h30m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text.parse().map_err(|e| format!("{e}; write e.g. 30s or 10m"))?;
    Duration::try_from(span).map_err(|_| "it must not be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    const NONE: Access = Access {
        repository: None,
        password_file: None,
        cacert: None,
        options: Vec::new(),
        limit_upload: None,
        limit_download: None,
        retry_lock: Duration::ZERO,
        json: false,
    };

    fn env<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
    }

    #[test]
    fn limits_are_kib_a_second() {
        assert_eq!(pace(NonZeroU32::new(3)).map(NonZeroU64::get), Some(3072));
        assert_eq!(pace(None), None);
    }

    #[test]
    fn flags_win_over_holdfast_over_restic() {
        let all = [
            ("RESTIC_REPOSITORY", "/restic"),
            ("HOLDFAST_REPOSITORY", "/holdfast"),
            ("RESTIC_PASSWORD_FILE", "/restic.pw"),
            ("HOLDFAST_PASSWORD", "ours"),
        ];
        let resolved = NONE.resolve(&env(&all)).unwrap();
        assert_eq!(resolved.location, Location::Local("/holdfast".into()));
        let Password::Value(password) = resolved.password else { panic!("{:?}", resolved.password) };
        assert_eq!(password.expose_secret(), "ours");

        let resolved = NONE.resolve(&env(&all[..1])).unwrap();
        assert_eq!(resolved.location, Location::Local("/restic".into()));
        assert!(matches!(resolved.password, Password::Ask));

        let flags = Access { repository: Some("/flag".into()), password_file: Some("/f".into()), ..NONE };
        let resolved = flags.resolve(&env(&all)).unwrap();
        assert_eq!(resolved.location, Location::Local("/flag".into()));
        assert!(matches!(resolved.password, Password::File(_, "--password-file")));
    }

    #[test]
    fn credentials_come_from_the_variables_that_every_s3_client_reads() {
        let all = [
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_SESSION_TOKEN", "token"),
            ("AWS_DEFAULT_REGION", "eu"),
            ("HOLDFAST_REPOSITORY", "s3:https://host/bucket/a/b"),
        ];
        let s3 = NONE.resolve(&env(&all)).unwrap().options.s3;
        assert_eq!((s3.access_key_id.as_deref(), s3.region.as_deref()), (Some("id"), Some("eu")));
        assert_eq!(s3.secret_access_key.unwrap().expose_secret(), "secret");
        assert!(s3.session_token.is_some());
    }

    #[test]
    fn the_source_has_variables_of_its_own() {
        let all = [
            ("RESTIC_PASSWORD", "target"),
            ("RESTIC_FROM_PASSWORD", "source"),
            ("RESTIC_FROM_REPOSITORY", "/source"),
            ("AWS_ACCESS_KEY_ID", "id"),
        ];
        let resolved = From::default().resolve(&NONE, &env(&all)).unwrap();
        assert_eq!(resolved.location, Location::Local("/source".into()));
        assert_eq!(resolved.password.read(false).unwrap().expose_secret(), "source");
        assert_eq!(resolved.options.s3.access_key_id.as_deref(), Some("id"));
        let without = From::default().resolve(&NONE, &env(&all[..1])).err().unwrap();
        assert!(without.advice.unwrap().contains("--from-repo"));
    }

    #[test]
    fn without_a_repository_the_failure_says_how_to_name_one() {
        let failure = NONE.resolve(&env(&[])).err().unwrap();
        assert!(failure.advice.unwrap().contains("HOLDFAST_REPOSITORY"));
    }

    #[test]
    fn the_line_end_of_a_password_file_is_no_part_of_the_password() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pw");
        fs::write(&path, " sec ret \r\n").unwrap();
        assert_eq!(Password::File(path.clone(), "x").read(false).unwrap().expose_secret(), " sec ret ");
        fs::write(&path, "\n").unwrap();
        assert!(Password::File(path, "x").read(false).is_err());
    }

    #[test]
    fn durations_are_written_as_people_do() {
        assert_eq!(duration("1h30m").unwrap(), Duration::from_mins(90));
        assert_eq!(duration("0s").unwrap(), Duration::ZERO);
        assert!(duration("-3s").is_err());
        assert!(duration("soon").is_err());
    }
}
