//! Which paths `repo backup` backs up: those of the command line and those that files list, as restic takes them.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use holdfast_engine::backup::{RelativeRoot, absolute};
use holdfast_engine::event::Fault;
use holdfast_pattern::glob;

use super::patterns::lines;
use crate::failure::{Failure, Result};
use crate::text::decode;

/// The part of `repo backup`'s command line that is about lists of paths.
#[derive(Debug, Default, clap::Args)]
#[group(id = "Sources", multiple = true)]
pub(super) struct Args {
    /// Patterns of what to back up in a file, one a line, `#` begins a comment; `-` is standard input (may be given
    /// several times)
    #[arg(long = "files-from", value_name = "FILE")]
    patterns: Vec<PathBuf>,
    /// Paths to back up in a file, one a line, taken as they are
    #[arg(long = "files-from-verbatim", value_name = "FILE")]
    lines: Vec<PathBuf>,
    /// Paths to back up in a file, each with a NUL byte behind it, taken as they are
    #[arg(long = "files-from-raw", value_name = "FILE")]
    raw: Vec<PathBuf>,
}

/// What is to be backed up.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) absolute: Vec<PathBuf>,
    pub(super) relative: Vec<RelativeRoot>,
    /// Paths that were named and are not there.
    pub(super) missing: Vec<Fault>,
    /// Patterns of a list that match nothing: that is told, and is no fault. As restic has it.
    pub(super) unmatched: Vec<Fault>,
}

impl Args {
    /// Whether any list is given.
    pub(super) fn any(&self) -> bool {
        !(self.patterns.is_empty() && self.lines.is_empty() && self.raw.is_empty())
    }

    /// Reads the lists and looks which paths are there.
    pub(super) fn resolve(&self, named: &[PathBuf]) -> Result<Sources> {
        let mut sources = Sources::default();
        let mut paths = Vec::new();
        for file in &self.patterns {
            let listed = read(file)?;
            let text =
                decode(&listed).ok_or_else(|| unusable(file, &"it is neither UTF-8 nor UTF-16 text"))?;
            for line in lines(&text) {
                let found = glob(line).map_err(holdfast_engine::Error::from)?;
                if found.is_empty() {
                    let error = format!("the pattern, which is in {}, matches nothing", file.display());
                    sources.unmatched.push(Fault { path: line.into(), action: "find", error });
                }
                paths.extend(found);
            }
        }
        for file in &self.lines {
            let listed = read(file)?;
            let whole =
                listed.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
            paths.extend(whole.filter(|line| !line.is_empty()).map(path));
        }
        for file in &self.raw {
            let listed = read(file)?;
            let Some(all) = listed.strip_suffix(b"\0") else {
                if listed.is_empty() {
                    continue;
                }
                return Err(unusable(file, &"there is no NUL byte at its end: it may have been cut off"));
            };
            for name in all.split(|byte| *byte == 0) {
                if name.is_empty() {
                    return Err(unusable(file, &"it holds an empty path"));
                }
                paths.push(path(name));
            }
        }
        paths.extend_from_slice(named);
        if paths.is_empty() {
            return Err(match sources.unmatched.first() {
                Some(fault) => not_backed_up(&fault.path, &fault.error),
                None => Failure::usage("no path was given to back up", "name files or directories"),
            });
        }
        sources.take(paths)?;
        Ok(sources)
    }
}

impl Sources {
    /// Absolute paths of all that is backed up.
    pub(super) fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.absolute.iter().cloned().chain(self.relative.iter().map(RelativeRoot::absolute))
    }

    fn take(&mut self, paths: Vec<PathBuf>) -> Result<()> {
        let here = std::env::current_dir()
            .map_err(|e| Failure::usage(format!("find the current directory: {e}"), "give absolute paths"))?;
        let mut seen = HashSet::new();
        for path in paths {
            match fs::symlink_metadata(&path) {
                _ if !seen.insert(path.clone()) => {}
                Ok(_) if path.is_absolute() => self.absolute.push(absolute(&here, &path)),
                Ok(_) => self.relative.push(RelativeRoot { base: here.clone(), path }),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    self.missing.push(Fault { path, action: "back up", error: e.to_string() });
                }
                Err(e) => return Err(not_backed_up(&path, &e)),
            }
        }
        self.absolute.sort();
        self.absolute.dedup();
        match self.missing.first() {
            Some(fault) if self.paths().next().is_none() => Err(not_backed_up(&fault.path, &fault.error)),
            _ => Ok(()),
        }
    }
}

/// What it means that a path cannot be backed up at all.
pub(super) fn not_backed_up(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::usage(
        format!("{} cannot be backed up: {why}", path.display()),
        "check the path; nothing was stored",
    )
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    if file.as_os_str() == "-" {
        let mut all = Vec::new();
        std::io::stdin().read_to_end(&mut all).map_err(|e| unusable(file, &e))?;
        return Ok(all);
    }
    fs::read(file).map_err(|e| unusable(file, &e))
}

fn unusable(file: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::usage(
        format!("take the paths to back up from {}: {why}", file.display()),
        "check the file; nothing was stored",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_their_kind_says() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for name in ["a.log", " b", "#c", "d.txt"] {
            fs::write(at(name), "").unwrap();
        }
        let here = place.path().display();
        fs::write(at("patterns"), format!("# all\n  {here}/*.log \n{here}/nothing*\n")).unwrap();
        fs::write(at("lines"), format!("{here}/ b\n\n{here}/#c\r\n{here}/gone\n")).unwrap();
        fs::write(at("raw"), format!("{here}/d.txt\0")).unwrap();
        let lists = Args { patterns: vec![at("patterns")], lines: vec![at("lines")], raw: vec![at("raw")] };
        let found = lists.resolve(&[]).unwrap();
        assert_eq!(found.absolute, [at(" b"), at("#c"), at("a.log"), at("d.txt")]);
        assert_eq!((found.missing.len(), found.unmatched.len()), (1, 1));

        for bad in ["x", "x\0\0"] {
            fs::write(at("raw"), bad).unwrap();
            let lists = Args { raw: vec![at("raw")], ..Args::default() };
            assert!(lists.resolve(&[]).is_err(), "{bad:?}");
        }
        fs::write(at("raw"), "").unwrap();
        let lists = Args { raw: vec![at("raw")], ..Args::default() };
        assert!(lists.resolve(&[]).is_err(), "nothing to back up");
        assert!(lists.resolve(&[at("gone")]).is_err(), "all of it is missing");
    }
}
