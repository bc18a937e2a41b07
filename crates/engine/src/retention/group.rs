//! Which snapshots belong together: a policy is applied to each group by itself.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};
use crate::format::snapshot::Snapshot;
use crate::id::Id;

/// What snapshots of a group have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupBy {
    /// The host.
    pub host: bool,
    /// The paths.
    pub paths: bool,
    /// The tags.
    pub tags: bool,
}

impl Default for GroupBy {
    fn default() -> Self {
        Self { host: true, paths: true, tags: false }
    }
}

impl FromStr for GroupBy {
    type Err = Error;

    /// `host`, `paths` and `tags` with commas between; nothing at all makes one group of everything.
    fn from_str(text: &str) -> Result<Self> {
        let mut by = Self { host: false, paths: false, tags: false };
        for word in text.split(',') {
            match word {
                "host" | "hosts" => by.host = true,
                "path" | "paths" => by.paths = true,
                "tag" | "tags" => by.tags = true,
                "" => {}
                other => {
                    return Err(Error::new(
                        ErrorKind::Usage,
                        format!("{other:?} is nothing to group by: write host, paths, tags"),
                    ));
                }
            }
        }
        Ok(by)
    }
}

/// What the snapshots of a group have in common; `None` and empty where it does not count.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKey {
    /// The host.
    pub host: Option<String>,
    /// The paths, ascending.
    pub paths: Option<Vec<String>>,
    /// The tags, ascending.
    pub tags: Option<Vec<String>>,
}

impl fmt::Display for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let Some(host) = self.host.as_ref().filter(|h| !h.is_empty()) {
            parts.push(format!("host {host}"));
        }
        if let Some(paths) = self.paths.as_ref().filter(|p| !p.is_empty()) {
            parts.push(format!("paths {}", paths.join(", ")));
        }
        if let Some(tags) = self.tags.as_ref().filter(|t| !t.is_empty()) {
            parts.push(format!("tags {}", tags.join(", ")));
        }
        if parts.is_empty() { f.write_str("all") } else { f.write_str(&parts.join(", ")) }
    }
}

/// Snapshots that belong together.
#[derive(Debug, Clone)]
pub struct Group<'a> {
    /// What they have in common.
    pub key: GroupKey,
    /// They, in the order they came in.
    pub snapshots: Vec<&'a (Id, Snapshot)>,
}

/// Sorts snapshots into groups.
pub fn group(snapshots: &[(Id, Snapshot)], by: GroupBy) -> Vec<Group<'_>> {
    let sorted = |list: &[String]| {
        let mut list = list.to_vec();
        list.sort_unstable();
        list
    };
    let mut groups: BTreeMap<GroupKey, Vec<&(Id, Snapshot)>> = BTreeMap::new();
    for entry in snapshots {
        let (_, snapshot) = entry;
        let key = GroupKey {
            host: by.host.then(|| snapshot.hostname.clone()),
            paths: by.paths.then(|| sorted(&snapshot.paths)),
            tags: by.tags.then(|| sorted(&snapshot.tags)),
        };
        groups.entry(key).or_default().push(entry);
    }
    groups.into_iter().map(|(key, snapshots)| Group { key, snapshots }).collect()
}
