//! Where the test bed keeps its files, and the locks between callers. Nothing is kept inside the source tree.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The test bed's directory: `bin/` and `img/` are caches by content, `run/` is the state of a running bed.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The directory named by `HOLDFAST_TESTBED_DIR`, else `$XDG_CACHE_HOME/holdfast/testbed`, else
    /// `$HOME/.cache/holdfast/testbed`, else (no home) `/var/cache/holdfast/testbed`.
    pub fn from_env() -> Result<Self> {
        let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let cache = || variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|h| h.join(".cache")));
        let root = variable("HOLDFAST_TESTBED_DIR").unwrap_or_else(|| {
            cache().unwrap_or_else(|| PathBuf::from("/var/cache")).join("holdfast/testbed")
        });
        Self::at(root)
    }

    /// A test bed in a directory of the caller's choice.
    pub fn at(root: impl Into<PathBuf>) -> Result<Self> {
        let root = std::path::absolute(root.into()).map_err(Error::file("resolve", "the state directory"))?;
        // These are replaced inside a node, where the programs and certificates must be seen too.
        for hidden in
            ["/run", "/var/run", "/var/log", "/var/lib/kubelet", "/var/lib/cni", "/proc", "/sys", "/dev"]
        {
            if root.starts_with(hidden) {
                return Err(Error::Unsupported(format!(
                    "the test bed cannot live in {}: a node has its own {hidden}; set HOLDFAST_TESTBED_DIR",
                    root.display()
                )));
            }
        }
        Ok(Self { root })
    }

    /// The test bed's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// Programs, as links into the store.
    pub fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }
    /// Built programs by content: `<group>-<hash>/`.
    pub(crate) fn store(&self) -> PathBuf {
        self.root.join("store")
    }
    /// Image archives.
    pub fn images(&self) -> PathBuf {
        self.root.join("img")
    }
    /// State of the running bed; thrown away by `down`.
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }
    /// Logs of the running bed's daemons.
    pub fn logs(&self) -> PathBuf {
        self.run().join("log")
    }
    /// Logs of the last bed that was taken down.
    pub fn last_logs(&self) -> PathBuf {
        self.root.join("log/last-run")
    }
    /// Logs of build steps.
    pub(crate) fn build_logs(&self) -> PathBuf {
        self.root.join("log/build")
    }
    pub(crate) fn records(&self) -> PathBuf {
        self.run().join("processes")
    }
    pub(crate) fn pki(&self) -> PathBuf {
        self.run().join("pki")
    }
    pub(crate) fn s3(&self) -> PathBuf {
        self.run().join("s3")
    }
    pub(crate) fn minio(&self) -> PathBuf {
        self.run().join("minio")
    }
    pub(crate) fn node(&self, name: &str) -> PathBuf {
        self.run().join(name)
    }
    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.run().join("admin.kubeconfig")
    }
    /// The driver's directories of volumes, one per driver.
    pub(crate) fn volumes(&self) -> [PathBuf; 2] {
        [self.run().join("csi-hostpath"), self.run().join("csi-disk")]
    }

    /// Takes one of the test bed's locks; it is released when the file is dropped, also by a crash.
    /// `waiting` is called once if somebody else holds it.
    pub(crate) fn lock(&self, name: &str, waiting: impl FnOnce()) -> Result<File> {
        make_dir(&self.root)?;
        let path = self.root.join(format!("{name}.lock"));
        let file = File::create(&path).map_err(Error::file("create", &path))?;
        if file.try_lock().is_err() {
            waiting();
            file.lock().map_err(Error::file("lock", &path))?;
        }
        Ok(file)
    }
}

pub(crate) fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::file("create", path))
}

pub(crate) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(Error::file("read", path))
}

/// Writes a file whole: readers see the old or the new content, never half of it.
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    write_with_mode(path, content, 0o644)
}

pub(crate) fn write_with_mode(path: &Path, content: impl AsRef<[u8]>, mode: u32) -> Result<()> {
    if let Some(parent) = path.parent() {
        make_dir(parent)?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(temporary);
    fs::write(&temporary, content).map_err(Error::file("write", &temporary))?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(mode))
        .map_err(Error::file("chmod", &temporary))?;
    fs::rename(&temporary, path).map_err(Error::file("replace", path))
}

/// Removes a file or a tree if it is there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let outcome = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match outcome {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Names of a directory's entries, sorted; none if there is no such directory.
pub(crate) fn entries(path: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(path).map(|d| d.flatten().map(|e| e.path()).collect()).unwrap_or_default();
    found.sort();
    found
}

/// Fills `{{name}}` placeholders; one without a value is an error of ours, not of the user.
pub(crate) fn render(template: &str, values: &[(&str, &str)]) -> Result<String> {
    let mut text = template.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("{{{{{name}}}}}"), value);
    }
    match text.split_once("{{") {
        Some((_, rest)) => Err(Error::Unsupported(format!(
            "a template of the test bed has no value for {:?}",
            rest.split("}}").next().unwrap_or_default()
        ))),
        None => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn render_fills_every_placeholder_and_names_a_missing_one() {
        assert_eq!(render("a {{x}} {{y}} {{x}}", &[("x", "1"), ("y", "2")]).unwrap(), "a 1 2 1");
        let error = render("{{x}} {{forgotten}}", &[("x", "1")]).unwrap_err();
        assert!(error.to_string().contains("forgotten"), "{error}");
    }

    #[test]
    fn a_directory_that_nodes_cannot_see_is_refused() {
        for bad in ["/run/x", "/var/log/bed", "/var/lib/kubelet"] {
            assert!(Layout::at(bad).is_err(), "{bad}");
        }
        assert!(Layout::at("/var/cache/bed").is_ok());
    }

    #[test]
    fn a_written_file_has_its_mode_and_leaves_no_temporary_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/secret");
        write_with_mode(&path, "x", 0o600).unwrap();
        write_with_mode(&path, "y", 0o600).unwrap();
        assert_eq!(read(&path).unwrap(), "y");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(entries(path.parent().unwrap()), [path]);
    }
}
