//! Which repository, with which password and credentials: flags first, then `HOLDFAST_…`, then `RESTIC_…` and
//! `AWS_…` of the environment. Parsing and resolving only; nothing is opened here.

use std::fmt;
use std::fs;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_engine::backup::Compression;
use holdfast_engine::store::{Location, Pace, StoreOptions};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::{credentials, password, prompt};
use crate::failure::{Failure, Result};

/// Flags that all commands share.
#[expect(clippy::doc_markdown, reason = "the comments are the help text, which shows backticks as they are")]
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Repository")]
pub(super) struct Access {
    /// The repository: a directory, s3:https://HOST[:PORT]/BUCKET/PREFIX, gs:BUCKET:/PREFIX,
    /// azure:CONTAINER:/PREFIX or rest:https://HOST[:PORT]/PATH/
    /// [env: HOLDFAST_REPOSITORY, RESTIC_REPOSITORY]
    #[arg(short, long, visible_alias = "repo", global = true, value_name = "LOCATION")]
    pub(super) repository: Option<String>,
    /// File that holds the repository's location, for one with a password in it
    /// [env: HOLDFAST_REPOSITORY_FILE, RESTIC_REPOSITORY_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) repository_file: Option<PathBuf>,
    /// File with the repository's password; asked for on a terminal when absent
    /// [env: HOLDFAST_PASSWORD_FILE, RESTIC_PASSWORD_FILE; or the password in HOLDFAST_PASSWORD, RESTIC_PASSWORD]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub(super) password_file: Option<PathBuf>,
    /// Command that prints the password; it is split into words as a shell does, and run without one
    /// [env: HOLDFAST_PASSWORD_COMMAND, RESTIC_PASSWORD_COMMAND]
    #[arg(long, global = true, value_name = "COMMAND")]
    pub(super) password_command: Option<String>,
    /// Id of the key that is tried first, or the beginning of it [env: HOLDFAST_KEY_HINT, RESTIC_KEY_HINT]
    #[arg(long, global = true, value_name = "ID")]
    pub(super) key_hint: Option<String>,
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
    /// Take no lock where a command only reads: for a store that may only be read. What a prune removes meanwhile is missed
    #[arg(long, global = true)]
    pub(super) no_lock: bool,
    /// Print results as JSON with restic's field names, errors as JSON on standard error
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// No progress; `init` and `backup` do not tell what they did, unless with --json
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
    /// With `snapshots` all tags, also those that Holdfast gives the snapshots of its runs; other commands say no more
    /// than without it
    #[arg(
        short, long, global = true, value_name = "LEVEL", num_args = 0..=1, require_equals = true,
        default_missing_value = "1", action = clap::ArgAction::Append
    )]
    pub(super) verbose: Vec<u8>,
    /// How hard `backup` compresses [env: HOLDFAST_COMPRESSION, RESTIC_COMPRESSION] [default: auto]
    #[arg(long, global = true, value_name = "MODE", value_enum)]
    pub(super) compression: Option<CompressionMode>,
    #[command(flatten)]
    accepted: Accepted,
}

/// Flags of restic's that have nothing to act on here, so that its command lines work as they are.
#[expect(clippy::doc_markdown, reason = "the comments are the help text, which shows backticks as they are")]
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Accepted for restic's sake, without any effect")]
struct Accepted {
    /// Holdfast keeps no cache
    #[arg(long, global = true)]
    no_cache: bool,
    /// Holdfast keeps no cache, and does not touch restic's; nor does RESTIC_CACHE_DIR matter
    #[arg(long, global = true, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Holdfast keeps no cache
    #[arg(long, global = true)]
    cleanup_cache: bool,
    /// Holdfast's packs have 16 MiB, restic's default; nor does RESTIC_PACK_SIZE matter
    #[arg(long, global = true, value_name = "MIB", value_parser = clap::value_parser!(u32).range(4..=128))]
    pack_size: Option<u32>,
}

/// How hard to compress, by restic's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum CompressionMode {
    /// Fast and good
    Auto,
    /// Content not at all; directories and metadata always are
    Off,
    /// Faster, larger
    Fastest,
    /// Slower, smaller
    Better,
    /// As small as it gets
    Max,
}

impl CompressionMode {
    fn to_engine(self) -> Compression {
        match self {
            Self::Auto => Compression::Auto,
            Self::Off => Compression::Off,
            Self::Fastest => Compression::Fastest,
            Self::Better => Compression::Better,
            Self::Max => Compression::Max,
        }
    }
}

/// Flags that name a second repository, from which something is taken.
#[expect(clippy::doc_markdown, reason = "the comments are the help text, which shows backticks as they are")]
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Source repository")]
#[expect(
    clippy::struct_field_names,
    reason = "the names of the flags, which stand beside those without `from`"
)]
pub(super) struct SourceAccess {
    /// The repository to take from [env: HOLDFAST_FROM_REPOSITORY, RESTIC_FROM_REPOSITORY]
    #[arg(long, value_name = "LOCATION")]
    pub(super) from_repo: Option<String>,
    /// File with its password; asked for on a terminal when absent
    /// [env: HOLDFAST_FROM_PASSWORD_FILE, RESTIC_FROM_PASSWORD_FILE; or the password in HOLDFAST_FROM_PASSWORD,
    /// RESTIC_FROM_PASSWORD]
    #[arg(long, value_name = "FILE")]
    pub(super) from_password_file: Option<PathBuf>,
    /// File that holds its location [env: HOLDFAST_FROM_REPOSITORY_FILE, RESTIC_FROM_REPOSITORY_FILE]
    #[arg(long, value_name = "FILE")]
    pub(super) from_repository_file: Option<PathBuf>,
    /// Command that prints its password [env: HOLDFAST_FROM_PASSWORD_COMMAND, RESTIC_FROM_PASSWORD_COMMAND]
    #[arg(long, value_name = "COMMAND")]
    pub(super) from_password_command: Option<String>,
    /// Id of its key that is tried first [env: HOLDFAST_FROM_KEY_HINT, RESTIC_FROM_KEY_HINT]
    #[arg(long, value_name = "ID")]
    pub(super) from_key_hint: Option<String>,
}

impl SourceAccess {
    /// Resolves flags and environment; everything but location and password is as in `access`.
    pub(super) fn resolve(&self, access: &Access, env: Environment<'_>) -> Result<Resolved> {
        let missing =
            || Failure::usage("no repository to take from was named", "name it with --from-repo LOCATION");
        let access = Access {
            repository: self.from_repo.clone(),
            repository_file: self.from_repository_file.clone(),
            password_file: self.from_password_file.clone(),
            password_command: self.from_password_command.clone(),
            key_hint: self.from_key_hint.clone(),
            ..access.clone()
        };
        // Only the source's own variables may name it and open it: with the other's password the error would be hard
        // to understand.
        let from = |name: &str| match name.split_once('_') {
            Some((family, rest))
                if ["REPOSITORY", "PASSWORD", "KEY_HINT"].iter().any(|of| rest.starts_with(of)) =>
            {
                env(&format!("{family}_FROM_{rest}"))
            }
            _ => env(name),
        };
        access.location(&from)?.ok_or_else(missing)?;
        access.resolve(&from)
    }
}

/// What the flags and the environment come to.
pub(super) struct Resolved {
    pub(super) location: Location,
    pub(super) options: StoreOptions,
    pub(super) password: Password,
    /// The key to try first.
    pub(super) key_hint: Option<String>,
    pub(super) compression: Compression,
}

/// Where the password comes from.
pub(super) enum Password {
    /// A file, and which flag or variable named it.
    File(PathBuf, &'static str),
    /// What a command prints, and which flag or variable named it.
    Command(String, &'static str),
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
            Self::Command(_, from) => write!(f, "Command({from})"),
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
        let location = self.location(env)?.ok_or_else(|| {
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
        Ok(Resolved {
            location,
            options,
            password: self.password_source(env)?,
            key_hint: self
                .key_hint
                .clone()
                .or_else(|| env("HOLDFAST_KEY_HINT"))
                .or_else(|| env("RESTIC_KEY_HINT")),
            compression: self.compression(env)?.to_engine(),
        })
    }

    /// The location as it was written, by the first of the flags and the two families of variables that names one.
    fn location(&self, env: Environment<'_>) -> Result<Option<String>> {
        let family = |value, file| (env(value), env(file).map(PathBuf::from), [value, file]);
        for (value, file, names) in [
            (
                self.repository.clone(),
                self.repository_file.clone(),
                ["--repository (--from-repo)", "--repository-file"],
            ),
            family("HOLDFAST_REPOSITORY", "HOLDFAST_REPOSITORY_FILE"),
            family("RESTIC_REPOSITORY", "RESTIC_REPOSITORY_FILE"),
        ] {
            match (value, file) {
                (Some(_), Some(_)) => return Err(both(names)),
                (Some(location), None) => return Ok(Some(location)),
                (None, Some(file)) => return read_location(&file).map(Some),
                (None, None) => {}
            }
        }
        Ok(None)
    }

    fn password_source(&self, env: Environment<'_>) -> Result<Password> {
        let family = |file, command| (env(file).map(PathBuf::from), env(command), [file, command]);
        for ((path, command, [of_file, of_command]), value) in [
            (
                (
                    self.password_file.clone(),
                    self.password_command.clone(),
                    ["--password-file", "--password-command"],
                ),
                None,
            ),
            (family("HOLDFAST_PASSWORD_FILE", "HOLDFAST_PASSWORD_COMMAND"), env("HOLDFAST_PASSWORD")),
            (family("RESTIC_PASSWORD_FILE", "RESTIC_PASSWORD_COMMAND"), env("RESTIC_PASSWORD")),
        ] {
            // The value comes last: it is the worst hidden of the three.
            match (path, command, value) {
                (Some(_), Some(_), _) => return Err(both([of_file, of_command])),
                (Some(path), None, _) => return Ok(Password::File(path, of_file)),
                (None, Some(command), _) => return Ok(Password::Command(command, of_command)),
                (None, None, Some(password)) => return Ok(Password::Value(password.into())),
                (None, None, None) => {}
            }
        }
        Ok(Password::Ask)
    }

    fn compression(&self, env: Environment<'_>) -> Result<CompressionMode> {
        if let Some(mode) = self.compression {
            return Ok(mode);
        }
        for name in ["HOLDFAST_COMPRESSION", "RESTIC_COMPRESSION"] {
            let Some(text) = env(name) else { continue };
            return clap::ValueEnum::from_str(&text, false).map_err(|_| {
                Failure::usage(
                    format!("{name} is {text:?}, which is no mode of compression"),
                    "known are auto, off, fastest, better and max",
                )
            });
        }
        Ok(CompressionMode::Auto)
    }
}

fn both(names: [&str; 2]) -> Failure {
    let [one, other] = names;
    Failure::usage(format!("both {one} and {other} are given"), "give one of them")
}

fn read_location(path: &Path) -> Result<String> {
    let bad = |why: &dyn fmt::Display| {
        Failure::usage(
            format!("read the repository's location from {}: {why}", path.display()),
            "check the file: it holds the location as -r takes it",
        )
    };
    let bytes = fs::read(path).map_err(|e| bad(&e))?;
    let text = crate::text::decode(&bytes).ok_or_else(|| bad(&"it is not UTF-8"))?;
    match text.trim() {
        "" => Err(bad(&"it is empty")),
        location => Ok(location.to_owned()),
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
        let mut all = self.read_all(twice)?.into_iter();
        // One that is all blanks opens what an earlier release made, but restic takes none from such a file.
        let first = all.next().filter(|password| !matches!(self, Self::File(..)) || !is_blank(password));
        first.ok_or_else(empty)
    }

    /// Whether a person is asked on the terminal.
    pub(super) fn is_asked(&self) -> bool {
        matches!(self, Self::Ask)
    }

    /// What may be meant, most likely first: a repository was made with one of them.
    pub(super) fn read_all(&self, twice: bool) -> Result<Vec<SecretString>> {
        let mut all = match self {
            Self::File(path, from) => read_file(path, from)?,
            Self::Command(command, from) => vec![password::printed_by(command, from)?],
            Self::Value(password) => vec![password.clone()],
            Self::Ask if twice => vec![prompt::ask_twice()?],
            Self::Ask => vec![prompt::ask("password of the repository: ")?],
        };
        all.retain(|password| !password.expose_secret().is_empty());
        if all.is_empty() { Err(empty()) } else { Ok(all) }
    }
}

fn is_blank(password: &SecretString) -> bool {
    password.expose_secret().trim().is_empty()
}

pub(super) fn empty() -> Failure {
    Failure::usage("the password is empty", "a repository needs a password; choose one")
}

fn read_file(path: &Path, from: &str) -> Result<Vec<SecretString>> {
    let bad = |why: &dyn fmt::Display| {
        Failure::usage(
            format!("read the password from {} ({from}): {why}", path.display()),
            "check the file's name and that you may read it",
        )
    };
    let bytes = Zeroizing::new(fs::read(path).map_err(|e| bad(&e))?);
    password::in_file(&bytes).ok_or_else(|| bad(&"it is not UTF-8"))
}

/// Durations as people write them: `90s`, `10m`, `1h30m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text.parse().map_err(|e| format!("{e}; write e.g. 30s or 10m"))?;
    Duration::try_from(span).map_err(|_| "it must not be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Access = Access {
        repository: None,
        repository_file: None,
        password_file: None,
        password_command: None,
        key_hint: None,
        cacert: None,
        options: Vec::new(),
        limit_upload: None,
        limit_download: None,
        retry_lock: Duration::ZERO,
        no_lock: false,
        json: false,
        quiet: false,
        verbose: Vec::new(),
        compression: None,
        accepted: Accepted { no_cache: false, cache_dir: None, cleanup_cache: false, pack_size: None },
    };

    fn env<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| pairs.iter().find(|(n, v)| *n == name && !v.is_empty()).map(|(_, v)| (*v).to_owned())
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
            ("RESTIC_REPOSITORY_FILE", "/of-the-target"),
            ("RESTIC_KEY_HINT", "1234"),
        ];
        let resolved = SourceAccess::default().resolve(&NONE, &env(&all)).unwrap();
        assert_eq!(resolved.location, Location::Local("/source".into()));
        assert_eq!(resolved.password.read(false).unwrap().expose_secret(), "source");
        assert_eq!(resolved.options.s3.access_key_id.as_deref(), Some("id"));
        assert_eq!(resolved.key_hint, None);
        let without = SourceAccess::default().resolve(&NONE, &env(&all[..1])).err().unwrap();
        assert!(without.advice.unwrap().contains("--from-repo"));
    }

    #[test]
    fn without_a_repository_the_failure_says_how_to_name_one() {
        let failure = NONE.resolve(&env(&[])).err().unwrap();
        assert!(failure.advice.unwrap().contains("HOLDFAST_REPOSITORY"));
    }

    #[test]
    fn a_new_password_is_what_restic_takes_from_the_same_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pw");
        let file = Password::File(path.clone(), "x");
        fs::write(&path, " sec ret \r\n").unwrap();
        assert_eq!(file.read(true).unwrap().expose_secret(), "sec ret");
        assert_eq!(file.read_all(false).unwrap().len(), 2);
        for blank in ["\n", "  \n"] {
            fs::write(&path, blank).unwrap();
            assert!(file.read(true).is_err(), "{blank:?}");
        }
        let value = Password::Value(" as it is ".into());
        assert_eq!(value.read(false).unwrap().expose_secret(), " as it is ");
    }

    #[test]
    fn a_command_and_a_file_of_the_same_family_exclude_each_other() {
        let all = [
            ("RESTIC_REPOSITORY", "/r"),
            ("RESTIC_PASSWORD_FILE", "/f"),
            ("RESTIC_PASSWORD_COMMAND", "pass"),
            ("HOLDFAST_PASSWORD_COMMAND", "ours"),
        ];
        assert!(NONE.resolve(&env(&all[..3])).err().unwrap().cause.contains("RESTIC_PASSWORD_COMMAND"));
        let resolved = NONE.resolve(&env(&all)).unwrap();
        assert!(matches!(resolved.password, Password::Command(_, "HOLDFAST_PASSWORD_COMMAND")));
        let flags = Access { password_command: Some("p".into()), password_file: Some("/f".into()), ..NONE };
        assert!(flags.resolve(&env(&all)).is_err());
    }

    #[test]
    fn the_location_may_be_in_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("location");
        fs::write(&path, "\u{feff} /in/file \n\n").unwrap();
        let named = path.to_str().unwrap();
        let only = [("RESTIC_REPOSITORY_FILE", named), ("RESTIC_REPOSITORY", "/value")];
        let resolved = NONE.resolve(&env(&only[..1])).unwrap();
        assert_eq!(resolved.location, Location::Local("/in/file".into()));
        assert!(NONE.resolve(&env(&only)).is_err(), "which of the two?");
        let flag = Access { repository: Some("/flag".into()), ..NONE };
        assert_eq!(flag.resolve(&env(&only)).unwrap().location, Location::Local("/flag".into()));
        fs::write(&path, "\n").unwrap();
        assert!(NONE.resolve(&env(&only[..1])).is_err());
    }

    #[test]
    fn compression_has_restics_names() {
        let of = |value| {
            let all = [("RESTIC_REPOSITORY", "/r"), ("RESTIC_COMPRESSION", value)];
            NONE.resolve(&env(&all)).map(|resolved| resolved.compression)
        };
        assert_eq!((of("max").unwrap(), of("off").unwrap()), (Compression::Max, Compression::Off));
        assert_eq!(of("").unwrap(), Compression::Auto);
        assert!(of("high").err().unwrap().cause.contains("RESTIC_COMPRESSION"));
    }

    #[test]
    fn durations_are_written_as_people_do() {
        assert_eq!(duration("1h30m").unwrap(), Duration::from_mins(90));
        assert_eq!(duration("0s").unwrap(), Duration::ZERO);
        assert!(duration("-3s").is_err());
        assert!(duration("soon").is_err());
    }
}
