//! The paths of one backup, put together into the one tree that its snapshot has.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// A place in the tree of roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Roots {
    /// Everything here and below is wanted.
    Here,
    /// Only these, by name.
    Above(BTreeMap<Vec<u8>, Roots>),
}

impl Roots {
    /// Merges absolute paths. A path below another one adds nothing.
    pub(crate) fn new(paths: &[PathBuf]) -> Result<Self> {
        let mut all = Self::Above(BTreeMap::new());
        for path in paths {
            let names = names(path)?;
            all.add(&names);
        }
        match &all {
            Self::Above(children) if children.is_empty() => {
                Err(Error::new(ErrorKind::EmptySelection, "no path was given to back up"))
            }
            _ => Ok(all),
        }
    }

    fn add(&mut self, names: &[Vec<u8>]) {
        let Some((first, rest)) = names.split_first() else {
            *self = Self::Here;
            return;
        };
        if let Self::Above(children) = self {
            children.entry(first.clone()).or_insert_with(|| Self::Above(BTreeMap::new())).add(rest);
        }
    }
}

fn names(path: &Path) -> Result<Vec<Vec<u8>>> {
    let refuse =
        |why: &str| Error::new(ErrorKind::Usage, format!("{} cannot be backed up: {why}", path.display()));
    if !path.is_absolute() {
        return Err(refuse("the path must be absolute"));
    }
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) if name.as_bytes().contains(&0) => {
                return Err(refuse("it holds a NUL byte"));
            }
            Component::Normal(name) => names.push(name.as_bytes().to_vec()),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(refuse("the path must not contain `..`"));
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots(paths: &[&str]) -> Result<Roots> {
        Roots::new(&paths.iter().map(PathBuf::from).collect::<Vec<_>>())
    }

    fn above(children: &[(&str, Roots)]) -> Roots {
        Roots::Above(children.iter().map(|(n, r)| (n.as_bytes().to_vec(), r.clone())).collect())
    }

    #[test]
    fn paths_share_what_lies_above_them() {
        let expected = above(&[("a", above(&[("b", Roots::Here), ("c", Roots::Here)])), ("d", Roots::Here)]);
        assert_eq!(roots(&["/a/b", "/d/", "/a/./c"]).unwrap(), expected);
    }

    #[test]
    fn a_path_below_another_adds_nothing() {
        let expected = above(&[("a", Roots::Here)]);
        assert_eq!(roots(&["/a/b", "/a"]).unwrap(), expected);
        assert_eq!(roots(&["/a", "/a/b"]).unwrap(), expected);
        assert_eq!(roots(&["/", "/a/b"]).unwrap(), Roots::Here);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        assert_eq!(roots(&[]).unwrap_err().kind(), ErrorKind::EmptySelection);
        for bad in ["a", "", "/a/../b"] {
            assert_eq!(roots(&[bad]).unwrap_err().kind(), ErrorKind::Usage, "{bad}");
        }
    }
}
