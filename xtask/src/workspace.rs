//! The tree that is checked: where it is, its files, its crates. Judges nothing.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::Error;

/// The root of the project.
pub(crate) struct Workspace {
    root: PathBuf,
}

/// A rule that is not kept, where, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    place: String,
    message: String,
}

impl Problem {
    pub(crate) fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: place.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// What is used of the answer of `cargo metadata`.
#[derive(Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
}

/// One crate of the workspace.
#[derive(Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) manifest_path: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
}

/// One entry of a crate's dependencies, of any kind (normal, dev, build).
#[derive(Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) kind: Option<String>,
}

impl Workspace {
    /// The workspace that this program was built in, or that cargo runs it in.
    pub(crate) fn open() -> Self {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest.parent().map_or_else(|| manifest.clone(), Path::to_path_buf);
        Self::at(root)
    }

    /// A workspace at a path.
    pub(crate) fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The crates of the workspace.
    pub(crate) fn metadata(&self) -> Result<Metadata, Error> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .current_dir(&self.root)
            .output()
            .map_err(Error::Cargo)?;
        if !output.status.success() {
            return Err(Error::Metadata(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        serde_json::from_slice(&output.stdout).map_err(Error::MetadataJson)
    }

    /// A path as it is named in messages: from the root, with `/`.
    pub(crate) fn name_of(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy().replace('\\', "/")
    }

    /// The path of a name from the root.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The text of a file; none when there is no such file.
    pub(crate) fn read(&self, name: &str) -> Result<Option<String>, Error> {
        match fs::read_to_string(self.path(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { action: "read", path: name.to_owned(), source }),
        }
    }

    /// Writes a file, with the directories above it.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.path(name);
        let failed = |action| move |source| Error::File { action, path: name.to_owned(), source };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed("make the directory of"))?;
        }
        fs::write(&path, text).map_err(failed("write"))
    }

    /// Removes a file.
    pub(crate) fn remove(&self, name: &str) -> Result<(), Error> {
        fs::remove_file(self.path(name)).map_err(|source| Error::File {
            action: "remove",
            path: name.to_owned(),
            source,
        })
    }

    /// Names of all files below a directory (none when it does not exist), sorted; build products and hidden
    /// directories left out.
    pub(crate) fn files(&self, directory: &str) -> Result<Vec<String>, Error> {
        let mut found = Vec::new();
        let mut waiting = vec![self.path(directory)];
        while let Some(current) = waiting.pop() {
            let failed = |source| Error::File { action: "list", path: self.name_of(&current), source };
            let entries = match fs::read_dir(&current) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            for entry in entries {
                let entry = entry.map_err(failed)?;
                let name = entry.file_name();
                let kind = entry.file_type().map_err(failed)?;
                if kind.is_dir() {
                    if name != "target" && !name.to_string_lossy().starts_with('.') {
                        waiting.push(entry.path());
                    }
                } else {
                    found.push(self.name_of(&entry.path()));
                }
            }
        }
        found.sort();
        Ok(found)
    }
}
