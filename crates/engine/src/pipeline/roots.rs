//! The paths of one backup, put together into the one tree that its snapshot has.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use super::rules::Named;
use super::state::join;
use crate::backup::RelativeRoot;
use crate::error::{Error, ErrorKind, Result};

/// A place in the tree of roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Roots {
    /// Everything here and below is wanted.
    Here(Root),
    /// Of this directory on the disk only these, by their names in the tree.
    Above(PathBuf, BTreeMap<Vec<u8>, Roots>),
}

/// A path that is wanted with all that is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root {
    /// Where it lies on the disk.
    pub(crate) disk: PathBuf,
    /// Somebody named it: without it there is nothing to back up. Others are what was found in a named directory.
    pub(crate) is_named: bool,
}

impl Roots {
    /// Merges absolute paths, and relative ones, which begin at the tree's root. A path below another one adds nothing
    /// but that it is named.
    pub(crate) fn new(paths: &[PathBuf], relative: &[RelativeRoot]) -> Result<(Self, Named)> {
        if paths.is_empty() && relative.is_empty() {
            return Err(Error::new(ErrorKind::EmptySelection, "no path was given to back up"));
        }
        let mut all = Self::Above(PathBuf::from("/"), BTreeMap::new());
        let mut asked_for = BTreeSet::new();
        for path in paths {
            let names = absolute(path)?;
            asked_for.insert(joined(Path::new("/"), &names));
            all.add(Path::new("/"), &names, true);
        }
        for RelativeRoot { base, path } in relative {
            let (start, names) = from_base(base, path)?;
            if names.is_empty() {
                // Nothing but `.` and `..`: restic takes what is in that directory, and not the directory.
                for name in listed(&start)? {
                    all.add_beside(&start, &[name], false);
                }
            } else {
                asked_for.insert(joined(&start, &names));
                all.add_beside(&start, &names, true);
            }
        }
        let mut whole = BTreeSet::new();
        all.whole(&mut whole);
        let lies_in_another = |path: &PathBuf| path.ancestors().skip(1).any(|above| whole.contains(above));
        let nested = asked_for.iter().any(lies_in_another);
        Ok((all, Named { paths: asked_for, nested }))
    }

    /// The paths of which all is wanted.
    fn whole<'a>(&'a self, found: &mut BTreeSet<&'a Path>) {
        match self {
            Self::Here(root) => {
                found.insert(&root.disk);
            }
            Self::Above(_, children) => children.values().for_each(|child| child.whole(found)),
        }
    }

    fn disk(&self) -> &Path {
        match self {
            Self::Here(root) => &root.disk,
            Self::Above(disk, _) => disk,
        }
    }

    /// Adds to the tree's root what lies elsewhere on the disk; under a further name, as restic does, where something
    /// from another place has the name already.
    fn add_beside(&mut self, start: &Path, names: &[Vec<u8>], is_named: bool) {
        let (Self::Above(_, children), Some((first, rest))) = (self, names.split_first()) else { return };
        let taken =
            |name: &Vec<u8>| children.get(name).is_some_and(|other| other.disk() != join(start, first));
        let mut name = first.clone();
        let mut further = 0_u32;
        while taken(&name) {
            further += 1;
            name.clone_from(first);
            name.extend_from_slice(format!("-{further}").as_bytes());
        }
        let disk = join(start, first);
        children
            .entry(name)
            .or_insert_with(|| Self::Above(disk.clone(), BTreeMap::new()))
            .add(&disk, rest, is_named);
    }

    fn add(&mut self, disk: &Path, names: &[Vec<u8>], is_named: bool) {
        let Some((first, rest)) = names.split_first() else {
            let is_named = is_named || matches!(self, Self::Here(Root { is_named: true, .. }));
            *self = Self::Here(Root { disk: disk.to_owned(), is_named });
            return;
        };
        if let Self::Above(_, children) = self {
            let disk = join(disk, first);
            children
                .entry(first.clone())
                .or_insert_with(|| Self::Above(disk.clone(), BTreeMap::new()))
                .add(&disk, rest, is_named);
        }
    }
}

/// The directory that a relative path begins in, and the names from there on.
fn from_base(base: &Path, path: &Path) -> Result<(PathBuf, Vec<Vec<u8>>)> {
    let mut start = absolute(base)?;
    let mut below: Vec<Vec<u8>> = Vec::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                if below.pop().is_none() {
                    start.pop();
                }
            }
            Component::Normal(name) => below.push(plain(path, name)?),
            Component::RootDir | Component::Prefix(_) => {
                return Err(refuse(path, "the path must be relative"));
            }
        }
    }
    Ok((joined(Path::new("/"), &start), below))
}

fn joined(start: &Path, names: &[Vec<u8>]) -> PathBuf {
    names.iter().fold(start.to_owned(), |above, name| join(&above, name))
}

fn listed(directory: &Path) -> Result<Vec<Vec<u8>>> {
    let bad =
        |e| Error::with_source(ErrorKind::Source, format!("{} cannot be listed", directory.display()), e);
    let entries = std::fs::read_dir(directory).map_err(bad)?;
    entries.map(|entry| Ok(entry.map_err(bad)?.file_name().into_vec())).collect()
}

fn refuse(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("{} cannot be backed up: {why}", path.display()))
}

fn plain(path: &Path, name: &std::ffi::OsStr) -> Result<Vec<u8>> {
    if name.as_bytes().contains(&0) {
        return Err(refuse(path, "it holds a NUL byte"));
    }
    Ok(name.as_bytes().to_vec())
}

fn absolute(path: &Path) -> Result<Vec<Vec<u8>>> {
    if !path.is_absolute() {
        return Err(refuse(path, "the path must be absolute"));
    }
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => names.push(plain(path, name)?),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(refuse(path, "the path must not contain `..`"));
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots(paths: &[&str]) -> Result<Roots> {
        Ok(Roots::new(&paths.iter().map(PathBuf::from).collect::<Vec<_>>(), &[])?.0)
    }

    fn relative(base: &str, paths: &[&str]) -> Roots {
        let root = |path: &&str| RelativeRoot { base: base.into(), path: path.into() };
        Roots::new(&[], &paths.iter().map(root).collect::<Vec<_>>()).unwrap().0
    }

    fn here(disk: &str) -> Roots {
        Roots::Here(Root { disk: disk.into(), is_named: true })
    }

    fn above(disk: &str, children: &[(&str, Roots)]) -> Roots {
        Roots::Above(disk.into(), children.iter().map(|(n, r)| (n.as_bytes().to_vec(), r.clone())).collect())
    }

    #[test]
    fn paths_share_what_lies_above_them() {
        let a = above("/a", &[("b", here("/a/b")), ("c", here("/a/c"))]);
        assert_eq!(roots(&["/a/b", "/d/", "/a/./c"]).unwrap(), above("/", &[("a", a), ("d", here("/d"))]));
    }

    #[test]
    fn a_path_below_another_adds_nothing() {
        let expected = above("/", &[("a", here("/a"))]);
        assert_eq!(roots(&["/a/b", "/a"]).unwrap(), expected);
        assert_eq!(roots(&["/a", "/a/b"]).unwrap(), expected);
        assert_eq!(roots(&["/", "/a/b"]).unwrap(), here("/"));
    }

    #[test]
    fn what_is_named_within_another_is_known() {
        let of = |paths: &[&str]| {
            let named = Roots::new(&paths.iter().map(PathBuf::from).collect::<Vec<_>>(), &[]).unwrap().1;
            (named.paths.len(), named.nested)
        };
        assert_eq!(of(&["/a", "/a/b/c"]), (2, true));
        assert_eq!(of(&["/a/b/c", "/a"]), (2, true));
        assert_eq!(of(&["/a/b", "/a/c", "/a/b/"]), (2, false));
        assert_eq!(of(&["/", "/a"]), (2, true));
    }

    #[test]
    fn a_relative_path_begins_at_the_trees_root() {
        let sub = above("/home/ann/sub", &[("x", here("/home/ann/sub/x"))]);
        assert_eq!(
            relative("/home/ann", &["./foo/", "sub/y/../x", "../bob"]),
            above("/", &[("bob", here("/home/bob")), ("foo", here("/home/ann/foo")), ("sub", sub)])
        );
        assert_eq!(relative("/home", &["../../../etc"]), above("/", &[("etc", here("/etc"))]));
    }

    #[test]
    fn one_name_from_several_places_is_numbered() {
        assert_eq!(
            relative("/home/ann", &["foo", "../foo", "foo", "../foo"]),
            above("/", &[("foo", here("/home/ann/foo")), ("foo-1", here("/home/foo"))])
        );
    }

    #[test]
    fn of_a_directory_that_only_dots_name_what_is_in_it_is_taken() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("a"), "").unwrap();
        std::fs::create_dir(place.path().join("sub")).unwrap();
        let found = |name: &str| Roots::Here(Root { disk: place.path().join(name), is_named: false });
        let expected = above("/", &[("a", found("a")), ("sub", found("sub"))]);
        assert_eq!(relative(place.path().to_str().unwrap(), &["."]), expected);
        assert_eq!(relative(place.path().join("sub").to_str().unwrap(), &[".."]), expected);
        assert_eq!(relative(place.path().join("sub").to_str().unwrap(), &["."]), above("/", &[]));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        assert_eq!(roots(&[]).unwrap_err().kind(), ErrorKind::EmptySelection);
        for bad in ["a", "", "/a/../b"] {
            assert_eq!(roots(&[bad]).unwrap_err().kind(), ErrorKind::Usage, "{bad}");
        }
    }
}
