//! Which snapshot a person means: `SNAPSHOT[:PATH]` and the filters of `latest`.

use std::fmt;
use std::str::FromStr;

use holdfast_engine::repository::SnapshotFilter;

use super::session::relative;
use crate::failure::Failure;

/// Flags that narrow down snapshots.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Filter {
    /// Only snapshots of this host (may be given several times)
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
        SnapshotFilter { hosts: self.host.clone(), paths: self.path.clone(), tags: self.tag.clone() }
    }

    /// Whether it lets everything through.
    pub(super) fn is_empty(&self) -> bool {
        self.host.is_empty() && self.tag.is_empty() && self.path.is_empty()
    }
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
