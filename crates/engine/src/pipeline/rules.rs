//! What a walk leaves out: by patterns, by tag files, by size. Never what the caller named.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::ops::Bound;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_pattern::fold;

use super::exclude::Excludes;
use super::source::{self, Stat};
use super::state::join;
use crate::backup::Trust;
use crate::error::{Error, ErrorKind, Result};
use crate::format::node::NodeType;
use crate::format::time::Time;

/// What the walk takes from the caller's wishes.
pub(crate) struct Rules {
    pub(crate) excludes: Excludes,
    /// Patterns in lower case, which are held against paths in lower case.
    pub(crate) iexcludes: Excludes,
    /// The directory that a leading `/` of a pattern means, if it is not the root. No tag in it says anything.
    pub(crate) patterns_from: Option<PathBuf>,
    /// What is mounted below a root is told as what could not be read.
    pub(crate) borders_are_faults: bool,
    pub(crate) exclude_caches: bool,
    /// Files that tell by being there that nothing else of their directory is wanted.
    pub(crate) markers: Vec<Marker>,
    /// No file of more bytes.
    pub(crate) largest: Option<u64>,
    /// The paths that the caller named: no rule leaves them out, nor what is on the way to them.
    pub(crate) named: Arc<Named>,
    /// What tells an unchanged file.
    pub(crate) trust: Trust,
    pub(crate) one_file_system: bool,
    pub(crate) leave_lost_found: bool,
    /// Nothing that changed at or after this time is taken as unchanged: the parent may have read it before the
    /// change, within the same tick of the clock. Only the inode's own change time tells, since any program may set
    /// the other to the future.
    pub(crate) racy_from: Option<Escape>,
    /// The same for the checkpoint of a killed run.
    pub(crate) resume_racy_from: Option<Escape>,
    /// Devices whose times are of this machine's clock.
    pub(crate) own_clock: Vec<u64>,
}

/// From when on a change may have escaped an earlier run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Escape {
    /// Where this machine's clock writes the times.
    pub(crate) by_own_clock: Time,
    /// Where another one may.
    pub(crate) by_another: Time,
}

/// The paths that the caller named.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    /// All of them, as they lie on the disk.
    pub(crate) paths: BTreeSet<PathBuf>,
    /// Whether one of them lies in another path that is backed up whole: only then listings have to be compared
    /// with them.
    pub(crate) nested: bool,
}

impl Named {
    /// Whether this path is one of them, or a directory that leads to one.
    pub(crate) fn leads_to(&self, path: &Path) -> bool {
        // Paths are ordered by their names, so what lies below one comes right after it.
        self.at_or_below(path).next().is_some()
    }

    fn at_or_below<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a PathBuf> {
        self.paths
            .range::<Path, _>((Bound::Included(path), Bound::Unbounded))
            .take_while(move |named| named.starts_with(path))
    }

    /// Those below a directory that its listing, which is in order, does not lead to.
    pub(crate) fn missing<'a>(
        &'a self,
        dir: &'a Path,
        names: &'a [CString],
    ) -> impl Iterator<Item = &'a PathBuf> {
        let is_listed = move |named: &Path| {
            let below = named.strip_prefix(dir).ok().and_then(|below| below.components().next());
            below.is_none_or(|first| {
                let first = first.as_os_str().as_bytes();
                names.binary_search_by(|name| name.to_bytes().cmp(first)).is_ok()
            })
        };
        let nested = if self.nested { Some(self.at_or_below(dir)) } else { None };
        nested.into_iter().flatten().filter(move |named| !is_listed(named))
    }
}

impl Rules {
    /// Takes out of a listing, which is in order, what is not wanted of it. Returns how many.
    pub(crate) fn leave_out(&self, names: &mut Vec<CString>, path: &Path, fd: &OwnedFd) -> u64 {
        let all = names.len();
        let leads = |name: &CString| self.named.leads_to(&join(path, name.to_bytes()));
        let kept: Vec<CString> = if self.named.nested {
            names.iter().filter(|name| leads(name)).cloned().collect()
        } else {
            Vec::new()
        };
        let counts = self.tags_count_in(path);
        let has = |tag: &CStr| counts && names.binary_search_by(|name| name.as_c_str().cmp(tag)).is_ok();
        // The tag itself stays, so that the restored directory is still known for what it is.
        let mut tags: Vec<&CStr> = Vec::new();
        if self.exclude_caches && has(CACHE_TAG) && is_cache_tag(fd) {
            tags.push(CACHE_TAG);
        }
        tags.extend(
            self.markers.iter().filter(|m| has(&m.name) && m.is_in(fd)).map(|marker| marker.name.as_c_str()),
        );
        if !tags.is_empty() {
            names.retain(|name| tags.iter().all(|tag| name.as_c_str() == *tag));
        }
        if !self.excludes.is_empty() || !self.iexcludes.is_empty() {
            names.retain(|name| !self.match_patterns(&join(path, name.to_bytes())));
        }
        for name in kept {
            if let Err(place) = names.binary_search(&name) {
                names.insert(place, name);
            }
        }
        (all - names.len()) as u64
    }

    /// Whether this entry of a directory is not wanted, by its path or by what lies beside it.
    pub(crate) fn leaves_out(&self, above: &OwnedFd, path: &Path, name: &CStr) -> bool {
        if self.named.leads_to(path) {
            return false;
        }
        let is_beside_tag = || {
            (self.exclude_caches && name != CACHE_TAG && is_cache_tag(above))
                || self.markers.iter().any(|marker| marker.name.as_c_str() != name && marker.is_in(above))
        };
        (path.parent().is_none_or(|dir| self.tags_count_in(dir)) && is_beside_tag())
            || self.match_patterns(path)
    }

    /// Whether a tag in this directory leaves out what lies beside it: not where all of it was to be saved.
    fn tags_count_in(&self, dir: &Path) -> bool {
        self.patterns_from.as_deref() != Some(dir)
    }

    /// Whether this is no directory, has more bytes than are wanted, and was not named.
    pub(crate) fn is_too_large(&self, stat: &Stat, path: &Path) -> bool {
        self.largest.is_some_and(|most| stat.size > most)
            && stat.kind != NodeType::Dir
            && !self.named.paths.contains(path)
    }

    fn match_patterns(&self, path: &Path) -> bool {
        let below = match &self.patterns_from {
            None => Some(path),
            Some(from) => path.strip_prefix(from).ok().filter(|below| !below.as_os_str().is_empty()),
        };
        let Some(path) = below else { return false };
        (!self.excludes.is_empty() && self.excludes.matches(path))
            || (!self.iexcludes.is_empty() && self.iexcludes.matches(&fold(path)))
    }
}

const CACHE_TAG: &CStr = c"CACHEDIR.TAG";
/// Cache Directory Tagging Specification, <https://bford.info/cachedir/>.
const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

fn is_cache_tag(dir: &OwnedFd) -> bool {
    begins_with(dir, CACHE_TAG, CACHE_SIGNATURE)
}

fn begins_with(dir: &OwnedFd, name: &CStr, expected: &[u8]) -> bool {
    let mut head = vec![0_u8; expected.len()];
    source::open_file(dir.as_fd(), name)
        .and_then(|fd| source::read_full(fd.as_fd(), &mut head, 0))
        .is_ok_and(|length| head.get(..length) == Some(expected))
}

/// A file that tells by being there that nothing else of its directory is wanted.
pub(crate) struct Marker {
    name: CString,
    /// What it has to begin with.
    head: Vec<u8>,
}

impl Marker {
    /// The marker of this file name. Any head will do where `head` is empty.
    pub(crate) fn new(name: &[u8], head: &[u8]) -> Result<Self> {
        let name =
            CString::new(name).ok().filter(|name| !name.is_empty() && !name.as_bytes().contains(&b'/'));
        let name = name.ok_or_else(|| {
            Error::new(ErrorKind::Usage, "the file that excludes its directory needs a name without a slash")
        })?;
        Ok(Self { name, head: head.to_vec() })
    }

    fn is_in(&self, dir: &OwnedFd) -> bool {
        if self.head.is_empty() {
            return source::stat_at(dir.as_fd(), &self.name).is_ok();
        }
        begins_with(dir, &self.name, &self.head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_named_is_known_and_what_leads_to_it() {
        let paths = ["/a/b/c", "/a/b-d"].into_iter().map(PathBuf::from).collect();
        let named = Named { paths, nested: true };
        for (path, expected) in [
            ("/a", true),
            ("/a/b", true),
            ("/a/b/c", true),
            ("/a/b-d", true),
            ("/a/b/c/d", false),
            ("/a/b/x", false),
            ("/a/bx", false),
            ("/b", false),
        ] {
            assert_eq!(named.leads_to(Path::new(path)), expected, "{path}");
        }
    }
}
