//! Files to measure with: as many files and bytes as the peers were measured with, of what every machine with a test
//! bed has (Go's sources, `/usr/lib`, `/usr/share`, Go programs), and noise.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kubectl::{Failure, Result, run};

/// Files of the big tree, and of the tree that the peers were measured with.
pub const FILES: usize = 31_685;
/// Its bytes.
pub const BYTES: u64 = 2_450_802_867;

/// Noise in it, about; the last of it makes the sum exact.
const NOISE: u64 = 390 << 20;
const NOISE_FILES: usize = 8;
/// What one directory of the system gives at most: files and bytes.
const SHARE: (usize, u64) = (9_000, 250 << 20);
/// Larger files are left out: one of them would be most of a directory's share.
const LARGEST: u64 = 16 << 20;

/// What a tree holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holds {
    /// Regular files.
    pub files: usize,
    /// Bytes in them.
    pub bytes: u64,
}

/// Fills a directory with the big tree; `programs` is a directory of Go programs. Regular files only. The same on
/// every call as long as the machine's software is the same.
pub fn big(root: &Path, programs: &Path) -> Result<Holds> {
    let go = |name: &str| -> Result<PathBuf> {
        let said = run(Command::new("go").args(["env", name]), b"")?;
        Ok(PathBuf::from(String::from_utf8_lossy(&said).trim()))
    };
    let mut copy = Copy { root, holds: Holds::default() };
    for name in files(programs, usize::MAX, BYTES - NOISE, true) {
        let size = fs::metadata(&name).map_or(0, |m| m.len());
        if copy.holds.bytes + size <= BYTES / 2 {
            copy.file(&name, programs, "programs")?;
        }
    }
    let sources = go("GOROOT")?.join("src");
    let modules = go("GOMODCACHE")?;
    for (from, to) in [(Path::new("/usr/lib"), "lib"), (Path::new("/usr/share"), "share"), (&sources, "go")] {
        for name in files(from, SHARE.0, SHARE.1, false) {
            copy.file(&name, from, to)?;
        }
    }
    // Sources of what the test bed is built from make up the number.
    let missing = (FILES - NOISE_FILES).saturating_sub(copy.holds.files);
    for name in files(&modules, missing, BYTES - NOISE / 2 - copy.holds.bytes, false) {
        copy.file(&name, &modules, "modules")?;
    }
    let mut left = BYTES.saturating_sub(copy.holds.bytes);
    for number in 0..NOISE_FILES {
        let size = if number + 1 == NOISE_FILES { left } else { left / (NOISE_FILES - number) as u64 };
        noise(&root.join("noise").join(number.to_string()), size, number as u64)?;
        copy.holds.files += 1;
        copy.holds.bytes += size;
        left -= size;
    }
    Ok(copy.holds)
}

/// Fills a directory with 100 files, 10 MB in all, of noise; another number makes other noise.
pub fn small(root: &Path, seed: u64) -> Result<Holds> {
    for number in 0..100_u64 {
        noise(&root.join(format!("f{number}")), 100_000, seed * 1000 + number)?;
    }
    Ok(Holds { files: 100, bytes: 10_000_000 })
}

struct Copy<'a> {
    root: &'a Path,
    holds: Holds,
}

impl Copy<'_> {
    fn file(&mut self, from: &Path, base: &Path, to: &str) -> Result<()> {
        let relative = from.strip_prefix(base).unwrap_or(from);
        let target = self.root.join(to).join(relative);
        make_parent(&target)?;
        let bytes = fs::copy(from, &target)
            .map_err(|e| Failure(format!("cannot copy {} to {}: {e}", from.display(), target.display())))?;
        self.holds.files += 1;
        self.holds.bytes += bytes;
        Ok(())
    }
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(|e| Failure(format!("cannot make {}: {e}", parent.display())))
}

/// Regular files below a directory by name, until so many or so many bytes are found. Links are followed only where
/// the directory is one of links.
fn files(from: &Path, most: usize, bytes: u64, links: bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = bytes;
    let mut directories = vec![from.to_owned()];
    while let Some(directory) = directories.pop() {
        let mut names: Vec<PathBuf> =
            fs::read_dir(&directory).into_iter().flatten().flatten().map(|e| e.path()).collect();
        names.sort();
        let mut below = Vec::new();
        for name in names {
            let looked = if links { fs::metadata(&name) } else { fs::symlink_metadata(&name) };
            let Ok(meta) = looked else { continue };
            if meta.is_dir() {
                below.push(name);
            } else if meta.is_file() && (links || meta.len() <= LARGEST) && meta.len() <= left {
                if found.len() == most {
                    return found;
                }
                left -= meta.len();
                found.push(name);
            }
        }
        directories.extend(below.into_iter().rev());
    }
    found
}

/// Bytes that nothing compresses, the same for the same seed (splitmix64).
fn noise(path: &Path, size: u64, seed: u64) -> Result<()> {
    let failed = |e: std::io::Error| Failure(format!("cannot write {}: {e}", path.display()));
    make_parent(path)?;
    let mut out = std::io::BufWriter::with_capacity(1 << 20, File::create(path).map_err(failed)?);
    let mut state = seed;
    let mut left = usize::try_from(size).unwrap_or(usize::MAX);
    while left > 0 {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^= word >> 31;
        let bytes = word.to_le_bytes();
        let part = bytes.get(..left.min(8)).unwrap_or(&bytes);
        out.write_all(part).map_err(failed)?;
        left -= part.len();
    }
    out.flush().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("holdfast-corpus-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn noise_is_exact_and_the_same_for_the_same_seed() {
        let dir = place("noise");
        for (name, size, seed) in [("a", 1001, 1), ("b", 1001, 1), ("c", 1001, 2)] {
            noise(&dir.join(name), size, seed).unwrap();
        }
        let read = |name: &str| fs::read(dir.join(name)).unwrap();
        assert_eq!((read("a").len(), read("a") == read("b"), read("a") == read("c")), (1001, true, false));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn files_are_taken_by_name_within_their_bounds_and_no_links() {
        let dir = place("files");
        for name in ["b/2", "a/1", "c"] {
            make_parent(&dir.join(name)).unwrap();
            fs::write(dir.join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("c", dir.join("d")).unwrap();
        let names = |most, bytes| -> Vec<String> {
            let found = files(&dir, most, bytes, false);
            found.iter().map(|p| p.strip_prefix(&dir).unwrap().display().to_string()).collect()
        };
        assert_eq!(names(9, 99), ["c", "a/1", "b/2"]);
        assert_eq!(names(2, 99), ["c", "a/1"]);
        assert_eq!(names(9, 4), ["c", "a/1"]);
        fs::remove_dir_all(&dir).unwrap();
    }
}
