//! Locations: what a person or a run spec writes to say where a repository lies.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::str::FromStr;

use secrecy::{ExposeSecret as _, SecretString};

use crate::error::{Error, ErrorKind, Result};

/// Where a repository lies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// A directory.
    Local(PathBuf),
    /// A prefix in a bucket of an S3 server.
    S3 {
        /// `https://host[:port]`, without a path.
        endpoint: String,
        /// The bucket.
        bucket: String,
        /// Path inside the bucket without leading or trailing slash; may be empty.
        prefix: String,
    },
    /// A prefix in a bucket of Google Cloud Storage.
    Gcs {
        /// The bucket.
        bucket: String,
        /// Path inside the bucket without leading or trailing slash; may be empty.
        prefix: String,
    },
    /// A prefix in a container of Azure Blob Storage.
    Azure {
        /// The container.
        container: String,
        /// Path inside the container without leading or trailing slash; may be empty.
        prefix: String,
    },
    /// A restic REST server.
    Rest {
        /// `http(s)://host[:port]/path/`, with a slash at its end and without login.
        url: String,
        /// The login that was written into the location.
        login: Option<Login>,
    },
}

/// Name and password for HTTP basic authentication. `Debug` shows no password.
#[derive(Debug, Clone)]
pub struct Login {
    username: String,
    password: SecretString,
}

impl Login {
    /// A login.
    pub fn new(username: impl Into<String>, password: SecretString) -> Self {
        Self { username: username.into(), password }
    }

    /// The name.
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The password.
    pub fn password(&self) -> &SecretString {
        &self.password
    }
}

impl PartialEq for Login {
    fn eq(&self, other: &Self) -> bool {
        self.username == other.username && self.password.expose_secret() == other.password.expose_secret()
    }
}

impl Eq for Login {}

impl Hash for Login {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.username.hash(state);
    }
}

impl Location {
    /// The location `path` below this one.
    #[must_use]
    pub fn join(&self, path: &str) -> Self {
        let below = |prefix: &str| clean_prefix(&format!("{prefix}/{path}"));
        match self {
            Self::Local(base) => Self::Local(base.join(path)),
            Self::S3 { endpoint, bucket, prefix } => {
                Self::S3 { endpoint: endpoint.clone(), bucket: bucket.clone(), prefix: below(prefix) }
            }
            Self::Gcs { bucket, prefix } => Self::Gcs { bucket: bucket.clone(), prefix: below(prefix) },
            Self::Azure { container, prefix } => {
                Self::Azure { container: container.clone(), prefix: below(prefix) }
            }
            Self::Rest { url, login } => {
                let path = clean_prefix(path);
                let slash = if path.is_empty() { "" } else { "/" };
                Self::Rest { url: format!("{url}{path}{slash}"), login: login.clone() }
            }
        }
    }
}

fn clean_prefix(prefix: &str) -> String {
    prefix.split('/').filter(|p| !p.is_empty()).collect::<Vec<_>>().join("/")
}

fn climbs(path: &str) -> bool {
    path.split('/').any(|p| p == "." || p == "..")
}

impl FromStr for Location {
    type Err = Error;

    /// A path, `local:PATH`, `s3:https://host[:port]/bucket/prefix`, `s3:host/bucket/prefix`,
    /// `gs:bucket:/prefix`, `azure:container:/prefix` or `rest:https://[user:password@]host[:port]/path/`.
    fn from_str(text: &str) -> Result<Self> {
        let (scheme, rest) = match text.split_once(':') {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, text),
        };
        let parsed = match scheme {
            Some("local") => parse_local(rest),
            Some("s3") => parse_s3(rest),
            Some("gs") => parse_bucket(rest)
                .map(|(bucket, prefix)| Self::Gcs { bucket, prefix })
                .map_err(|why| why.replace('#', "gs:BUCKET:/PREFIX")),
            Some("azure") => parse_bucket(rest)
                .map(|(container, prefix)| Self::Azure { container, prefix })
                .map_err(|why| why.replace('#', "azure:CONTAINER:/PREFIX")),
            Some("rest") => parse_rest(rest),
            Some(scheme @ ("sftp" | "rclone" | "b2" | "swift" | "http" | "https")) => Err(format!(
                "stores of the kind {scheme:?} are not supported (B2 and Swift have an S3 interface; \
                 `rclone serve restic` makes a REST server of anything)"
            )),
            _ => parse_local(text),
        };
        parsed.map_err(|why| {
            // Only what stands before a login may be repeated, whatever the store.
            let shown = match (text.contains('@'), scheme) {
                (false, _) => text.to_owned(),
                (true, Some(scheme)) if !scheme.contains('@') => format!("{scheme}:…"),
                (true, _) => "…".to_owned(),
            };
            Error::new(
                ErrorKind::Usage,
                format!(
                    "{shown:?} is no repository location: {why}; write a path, s3:https://host/bucket/prefix, \
                     gs:bucket:/prefix, azure:container:/prefix or rest:https://host/path/"
                ),
            )
        })
    }
}

fn parse_local(path: &str) -> Result<Location, String> {
    if path.is_empty() { Err("the path is empty".to_owned()) } else { Ok(Location::Local(path.into())) }
}

fn parse_s3(rest: &str) -> Result<Location, String> {
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (scheme, rest) = match rest.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some(_) => return Err("only http and https are known".to_owned()),
        None => ("https", rest),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = clean_prefix(path);
    let (bucket, prefix) = path.split_once('/').unwrap_or((&path, ""));
    if host.is_empty() || host.contains(['@', '?', '#', ' ']) {
        return Err("the host is missing or malformed".to_owned());
    }
    if bucket.is_empty() {
        return Err("the bucket is missing".to_owned());
    }
    if climbs(&path) {
        return Err("the prefix holds . or ..".to_owned());
    }
    Ok(Location::S3 {
        endpoint: format!("{scheme}://{host}"),
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
    })
}

/// `bucket:/prefix`, restic's form for Google and Azure.
fn parse_bucket(rest: &str) -> Result<(String, String), String> {
    let (bucket, prefix) = rest.split_once(':').unwrap_or((rest, ""));
    if bucket.is_empty() || bucket.contains(['/', '@', '?', '#', ' ']) {
        return Err("the form is #".to_owned());
    }
    if climbs(prefix) {
        return Err("the prefix holds . or ..".to_owned());
    }
    Ok((bucket.to_owned(), clean_prefix(prefix)))
}

fn parse_rest(rest: &str) -> Result<Location, String> {
    let Some((scheme @ ("http" | "https"), rest)) = rest.split_once("://") else {
        return Err("a REST server's address begins with http:// or https://".to_owned());
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    // A password may hold an @ of its own.
    let (login, host) = match authority.rsplit_once('@') {
        None => (None, authority),
        Some((login, host)) => {
            let (name, password) = login.split_once(':').unwrap_or((login, ""));
            let (name, password) = (unescape(name)?, unescape(password)?);
            (Some(Login::new(name, password.into())), host)
        }
    };
    if host.is_empty() || host.contains([' ', '?', '#']) {
        return Err("the host is missing or malformed".to_owned());
    }
    // What follows a colon would be the port: with a / in a password that is half of the password, and the other half
    // would be shown with the path.
    let name_end = host.rfind(']').map_or(0, |bracket| bracket.saturating_add(1));
    let port = host.get(name_end..).and_then(|rest| rest.split_once(':')).map(|(_, port)| port);
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err("the port is no number (in a login, write / as %2F)".to_owned());
    }
    if path.contains(['?', '#']) || climbs(path) {
        return Err("the path holds one of ? # . ..".to_owned());
    }
    let path = clean_prefix(path);
    let slash = if path.is_empty() { "" } else { "/" };
    Ok(Location::Rest { url: format!("{scheme}://{host}/{path}{slash}"), login })
}

/// Undoes the `%xx` with which a URL's login writes what has a meaning of its own there.
fn unescape(text: &str) -> Result<String, String> {
    let bad = || "the login holds a % that is not followed by two hex digits".to_owned();
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next().ok_or_else(bad)?, bytes.next().ok_or_else(bad)?];
            let digits = std::str::from_utf8(&digits).map_err(|_| bad())?;
            out.push(u8::from_str_radix(digits, 16).map_err(|_| bad())?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).map_err(|_| "the login is not UTF-8".to_owned())
}

impl fmt::Display for Location {
    /// Without secrets: a login's password is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::S3 { endpoint, bucket, prefix } => {
                write!(f, "s3:{endpoint}/{bucket}")?;
                if prefix.is_empty() { Ok(()) } else { write!(f, "/{prefix}") }
            }
            Self::Gcs { bucket, prefix } => write!(f, "gs:{bucket}:/{prefix}"),
            Self::Azure { container, prefix } => write!(f, "azure:{container}:/{prefix}"),
            Self::Rest { url, .. } => write!(f, "rest:{url}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_s3_mean_the_same() {
        let expected = Location::S3 {
            endpoint: "https://s3.example.com:9000".into(),
            bucket: "backups".into(),
            prefix: "a/b".into(),
        };
        for text in [
            "s3:https://s3.example.com:9000/backups/a/b",
            "s3:s3.example.com:9000/backups/a/b/",
            "s3://s3.example.com:9000/backups//a/b",
        ] {
            assert_eq!(text.parse::<Location>().unwrap(), expected, "{text}");
        }
        assert_eq!(expected.to_string().parse::<Location>().unwrap(), expected);
        assert_eq!(expected.join("c/").to_string(), "s3:https://s3.example.com:9000/backups/a/b/c");
        let plain: Location = "s3:http://localhost/bucket".parse().unwrap();
        assert_eq!(plain.to_string(), "s3:http://localhost/bucket");
    }

    #[test]
    fn paths_are_local() {
        for text in ["/srv/repo", "local:/srv/repo"] {
            assert_eq!(text.parse::<Location>().unwrap(), Location::Local("/srv/repo".into()));
        }
        assert_eq!("repo".parse::<Location>().unwrap(), Location::Local("repo".into()));
    }

    #[test]
    fn google_and_azure_are_written_as_for_restic() {
        for (text, shown) in [
            ("gs:bucket:/a/b/", "gs:bucket:/a/b"),
            ("gs:bucket:/", "gs:bucket:/"),
            ("gs:bucket", "gs:bucket:/"),
            ("azure:container:/a", "azure:container:/a"),
            ("azure:container:a", "azure:container:/a"),
        ] {
            let location: Location = text.parse().unwrap();
            assert_eq!(location.to_string(), shown);
            assert_eq!(shown.parse::<Location>().unwrap(), location);
        }
        let joined = "gs:bucket:/a".parse::<Location>().unwrap().join("b//c");
        assert_eq!(joined, Location::Gcs { bucket: "bucket".into(), prefix: "a/b/c".into() });
    }

    #[test]
    fn a_login_is_taken_out_of_the_address_and_never_shown() {
        let location: Location = "rest:https://me:p%40ss:@word@host:8000/a//b".parse().unwrap();
        let Location::Rest { url, login: Some(login) } = &location else { panic!("{location:?}") };
        assert_eq!(url, "https://host:8000/a/b/");
        assert_eq!((login.username(), login.password().expose_secret()), ("me", "p@ss:@word"));
        assert_eq!(location.to_string(), "rest:https://host:8000/a/b/");
        assert!(!format!("{location:?}").contains("@word"));
        assert_eq!(location.join("c").to_string(), "rest:https://host:8000/a/b/c/");
        let plain: Location = "rest:http://host".parse().unwrap();
        assert_eq!(plain, Location::Rest { url: "http://host/".into(), login: None });
        for bad in [
            "rest:https://me:secret%@host/",
            "rest:https://me:half/secret@host/",
            "s3:https://key:secret@host/bucket",
            "s3:key:secret@host/bucket",
            "gs:key:secret@/../x",
            "https://me:secret@host/",
            "sftp:me:secret@host:/repo",
        ] {
            let error = bad.parse::<Location>().unwrap_err();
            assert!(!error.chain().contains("secret"), "{}", error.chain());
        }
        for good in [
            "rest:https://host:8000/a",
            "rest:https://[::1]:8000/a",
            "rest:https://[::1]/a",
            "rest:https://me:p@[::1]/a",
        ] {
            assert!(good.parse::<Location>().is_ok(), "{good}");
        }
    }

    #[test]
    fn what_cannot_work_is_said_at_once() {
        for text in [
            "",
            "local:",
            "s3:",
            "s3:https://host",
            "s3:https:///bucket",
            "s3:ftp://host/bucket",
            "s3:https://key:secret@host/bucket",
            "s3:host/bucket/../other",
            "gs:",
            "gs:/bucket",
            "azure::/prefix",
            "azure:container:/a/../b",
            "rest:host/path",
            "rest:https:///path",
            "rest:https://host/a?b",
            "rest:https://host/../a",
            "sftp:host:/repo",
            "rclone:remote:",
        ] {
            assert_eq!(text.parse::<Location>().unwrap_err().kind(), ErrorKind::Usage, "{text}");
        }
    }
}
