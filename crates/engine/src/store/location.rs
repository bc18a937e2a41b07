//! Locations: what a person or a run spec writes to say where a repository lies.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

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
}

impl Location {
    /// The location `path` below this one.
    #[must_use]
    pub fn join(&self, path: &str) -> Self {
        match self {
            Self::Local(base) => Self::Local(base.join(path)),
            Self::S3 { endpoint, bucket, prefix } => Self::S3 {
                endpoint: endpoint.clone(),
                bucket: bucket.clone(),
                prefix: clean_prefix(&format!("{prefix}/{path}")),
            },
        }
    }
}

fn clean_prefix(prefix: &str) -> String {
    prefix.split('/').filter(|p| !p.is_empty()).collect::<Vec<_>>().join("/")
}

impl FromStr for Location {
    type Err = Error;

    /// A path, `local:PATH`, `s3:https://host[:port]/bucket/prefix` or `s3:host/bucket/prefix`.
    fn from_str(text: &str) -> Result<Self> {
        let usage = |why: &str| {
            Error::new(
                ErrorKind::Usage,
                format!(
                    "{text:?} is no repository location: {why}; write a path or s3:https://host/bucket/prefix"
                ),
            )
        };
        if let Some(path) = text.strip_prefix("local:") {
            return Self::local(path).ok_or_else(|| usage("the path is empty"));
        }
        if let Some(rest) = text.strip_prefix("s3:") {
            let rest = rest.strip_prefix("//").unwrap_or(rest);
            let (scheme, rest) = match rest.split_once("://") {
                Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
                Some(_) => return Err(usage("only http and https are known")),
                None => ("https", rest),
            };
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            let path = clean_prefix(path);
            let (bucket, prefix) = path.split_once('/').unwrap_or((&path, ""));
            if host.is_empty() || host.contains(['@', '?', '#', ' ']) {
                return Err(usage("the host is missing or malformed"));
            }
            if bucket.is_empty() {
                return Err(usage("the bucket is missing"));
            }
            if path.split('/').any(|p| p == "." || p == "..") {
                return Err(usage("the prefix holds . or .."));
            }
            return Ok(Self::S3 {
                endpoint: format!("{scheme}://{host}"),
                bucket: bucket.to_owned(),
                prefix: prefix.to_owned(),
            });
        }
        let scheme = text.split_once(':').map(|(s, _)| s);
        if let Some(
            scheme @ ("sftp" | "rest" | "rclone" | "b2" | "azure" | "gs" | "swift" | "http" | "https"),
        ) = scheme
        {
            return Err(usage(&format!("stores of the kind {scheme:?} are not supported")));
        }
        Self::local(text).ok_or_else(|| usage("it is empty"))
    }
}

impl Location {
    fn local(path: &str) -> Option<Self> {
        (!path.is_empty()).then(|| Self::Local(PathBuf::from(path)))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::S3 { endpoint, bucket, prefix } => {
                write!(f, "s3:{endpoint}/{bucket}")?;
                if prefix.is_empty() { Ok(()) } else { write!(f, "/{prefix}") }
            }
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
            "sftp:host:/repo",
            "rest:https://host/",
        ] {
            assert_eq!(text.parse::<Location>().unwrap_err().kind(), ErrorKind::Usage, "{text}");
        }
    }
}
