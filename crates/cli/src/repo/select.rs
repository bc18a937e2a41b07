//! Which snapshot a person means: `SNAPSHOT[:PATH]` and the filters of `latest`.

use std::fmt;
use std::str::FromStr;

use holdfast_engine::repository::SnapshotFilter;

use super::access::{Environment, process_environment};
use super::session::relative;
use crate::failure::Failure;

/// Flags that narrow down snapshots.
#[expect(clippy::doc_markdown, reason = "the comments are the help text, which shows backticks as they are")]
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Filter {
    /// Only snapshots of this host (may be given several times; empty: of any)
    /// [env: HOLDFAST_HOST, RESTIC_HOST]
    #[arg(short = 'H', long, value_name = "HOST")]
    pub(super) host: Vec<String>,
    /// Only snapshots with this tag; `a,b` asks for both, several flags for any of them
    #[arg(long, value_name = "TAG[,TAG…]")]
    pub(super) tag: Vec<String>,
    /// Only snapshots of this backed-up path (may be given several times: all of them)
    #[arg(long, value_name = "PATH")]
    pub(super) path: Vec<String>,
}

impl Filter {
    /// The engine's form of it.
    pub(super) fn to_engine(&self) -> SnapshotFilter {
        self.resolve(&process_environment)
    }

    fn resolve(&self, env: Environment<'_>) -> SnapshotFilter {
        let hosts = match self.host.as_slice() {
            [] => default_host(env).into_iter().collect(),
            // restic's way to say that the variable does not count.
            [only] if only.is_empty() => Vec::new(),
            hosts => hosts.to_vec(),
        };
        SnapshotFilter { hosts, paths: self.path.clone(), tags: self.tag.clone() }
    }

    /// Whether it lets everything through.
    pub(super) fn is_empty(&self) -> bool {
        self.to_engine().hosts.is_empty() && self.tag.is_empty() && self.path.is_empty()
    }
}

/// The host that the environment names in place of this machine's.
pub(super) fn default_host(env: Environment<'_>) -> Option<String> {
    env("HOLDFAST_HOST").or_else(|| env("RESTIC_HOST"))
}

/// Tags as people give them: `a,b` is two; empty ones are none.
pub(super) fn split_tags(tags: &[String]) -> Vec<String> {
    tags.iter()
        .flat_map(|t| t.split(','))
        .map(str::trim)
        .filter(|t| !t.is_empty())
        .map(str::to_owned)
        .collect()
}

/// `SNAPSHOT[:PATH]`: an id, the beginning of one, or `latest`; and a path within it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selector {
    pub(super) snapshot: String,
    pub(super) path: Option<String>,
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.snapshot)?;
        self.path.as_ref().map_or(Ok(()), |path| write!(f, ":{path}"))
    }
}

impl FromStr for Selector {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let (snapshot, path) = match text.split_once(':') {
            Some((snapshot, path)) => (snapshot, Some(path)),
            None => (text, None),
        };
        if snapshot.is_empty() {
            return Err(Failure::usage(
                format!("{text:?} names no snapshot"),
                "write an id as `holdfast repo snapshots` shows it, or latest",
            ));
        }
        match path {
            Some(path) if !path.starts_with('/') => Err(relative(path)),
            // The root of a snapshot is the snapshot.
            Some("/") | None => Ok(Self { snapshot: snapshot.to_owned(), path: None }),
            Some(path) => {
                Ok(Self { snapshot: snapshot.to_owned(), path: Some(path.trim_end_matches('/').to_owned()) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environments_host_counts_where_no_flag_does() {
        let hosts = |flags: &[&str]| {
            let host = flags.iter().map(|flag| (*flag).to_owned()).collect();
            let filter = Filter { host, ..Filter::default() };
            filter.resolve(&|name| (name == "RESTIC_HOST").then(|| "env".to_owned())).hosts
        };
        assert_eq!(hosts(&[]), ["env"]);
        assert_eq!(hosts(&["a", "b"]), ["a", "b"]);
        assert!(hosts(&[""]).is_empty());
    }

    #[test]
    fn a_path_may_follow_the_snapshot() {
        let parse = |t: &str| t.parse::<Selector>().map(|s| (s.snapshot, s.path)).ok();
        assert_eq!(parse("latest"), Some(("latest".into(), None)));
        assert_eq!(parse("1a2b:/data/db/"), Some(("1a2b".into(), Some("/data/db".into()))));
        assert_eq!(parse("1a2b:/with:colon"), Some(("1a2b".into(), Some("/with:colon".into()))));
        assert_eq!(parse("1a2b:/"), Some(("1a2b".into(), None)));
        assert_eq!(parse("1a2b:data"), None);
        assert_eq!(parse(":/data"), None);
        assert_eq!(parse(""), None);
    }
}
