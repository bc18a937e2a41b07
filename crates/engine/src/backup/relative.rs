//! Paths that are relative to the current directory, and what they are as absolute ones.

use std::path::{Component, Path, PathBuf};

/// A path that is backed up as restic does one that was given relative to the current directory: the snapshot's tree
/// has it without what lies above that directory. Of one of nothing but `.` and `..` the tree has what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelativeRoot {
    /// The directory that it is relative to, absolute.
    pub base: PathBuf,
    /// The path; leading `..` lead out of `base`.
    pub path: PathBuf,
}

impl RelativeRoot {
    /// The absolute path, as [`absolute`] makes it.
    pub fn absolute(&self) -> PathBuf {
        absolute(&self.base, &self.path)
    }
}

/// The path from the root, without `.` and `..`, by its words alone: what was asked for is what the snapshot
/// shows, also where a symbolic link is on the way. As restic does.
pub fn absolute(base: &Path, path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in base.join(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => out.push(component),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_absolute_by_their_words() {
        let of = |path: &str| absolute(Path::new("/home/ann"), Path::new(path)).display().to_string();
        assert_eq!(of("docs"), "/home/ann/docs");
        assert_eq!(of("./a/../b/."), "/home/ann/b");
        assert_eq!(of("../../../x"), "/x");
        assert_eq!(of("/srv//data/"), "/srv/data");
        assert_eq!(of("."), "/home/ann");
    }
}
