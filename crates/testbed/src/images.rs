//! Image archives without a registry: layers from Debian packages, written as `docker save` would write them.
//! Each is kept by the content of its recipe; loading them into nodes is in `cluster`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::command::{command, logged, output, sha256, sha256_of};
use crate::debian::{self, IMAGE_SUITE, Suite};
use crate::error::{Error, Result};
use crate::layout::{self, Layout, entries};
use crate::progress::Progress;

/// The tag of a Holdfast image that was just built from the working tree.
pub const HOLDFAST_IMAGE: &str = "testbed.local/holdfast:dev";
/// Shell, files, attributes: for test and demo applications.
pub const TOOLS_IMAGE: &str = "testbed.local/tools:1";
/// PostgreSQL 15; see `images/postgres-entrypoint.sh`.
pub const POSTGRES_IMAGE: &str = "testbed.local/postgres:1";
pub(crate) const PAUSE_IMAGE: &str = "testbed.local/pause:1";

/// The user that Holdfast's image runs as unless a pod says otherwise.
const NONROOT: &str = "65532:65532";

const COMMON: &str = include_str!("../images/common.sh");

/// How an image's root directory is made of packages.
struct Recipe {
    name: &'static str,
    tag: &'static str,
    packages: &'static [&'static str],
    /// Whether all that the packages depend on goes in too, but for `unwanted`.
    dependencies: bool,
    unwanted: &'static [&'static str],
    files: &'static [(&'static str, &'static str)],
    finish: &'static str,
    entrypoint: &'static [&'static str],
}

/// What Holdfast's binary stands on; no shell, no package manager.
const BASE: Recipe = Recipe {
    name: "base",
    tag: "",
    packages: &["base-files", "netbase", "libc6", "libgcc-s1", "ca-certificates"],
    dependencies: false,
    unwanted: &[],
    files: &[],
    finish: "rm -rf usr/sbin/* usr/share/base-files usr/share/common-licenses\n",
    entrypoint: &[],
};

const TOOLS: Recipe = Recipe {
    name: "tools",
    tag: TOOLS_IMAGE,
    packages: &["base-files", "netbase", "busybox", "attr", "acl", "coreutils", "util-linux", "findutils"],
    dependencies: true,
    unwanted: &["debconf", "perl*", "libperl*", "mawk", "passwd", "adduser", "dpkg", "tar"],
    files: &[],
    finish: include_str!("../images/tools.sh"),
    entrypoint: &[],
};

const POSTGRES: Recipe = Recipe {
    name: "postgres",
    tag: POSTGRES_IMAGE,
    packages: &[
        "postgresql-15",
        "ca-certificates",
        "netbase",
        "base-files",
        "dash",
        "coreutils",
        "util-linux",
        "sed",
        "grep",
        "tar",
        "gzip",
        "findutils",
    ],
    dependencies: true,
    unwanted: &[
        "perl*",
        "libperl*",
        "lib*-perl",
        "libllvm14",
        "libz3-4",
        "locales",
        "libc-l10n",
        "debconf",
        "ucf",
        "dpkg",
        "usrmerge",
        "adduser",
        "passwd",
        "ssl-cert",
        "init-system-helpers",
        "postgresql-common",
        "postgresql-client-common",
    ],
    files: &[("usr/bin/entrypoint", include_str!("../images/postgres-entrypoint.sh"))],
    finish: include_str!("../images/postgres.sh"),
    entrypoint: &["/usr/bin/entrypoint"],
};

const RECIPES: &[&Recipe] = &[&TOOLS, &POSTGRES];

/// A finished layer.
struct Layer {
    tar: PathBuf,
    digest: String,
}

/// Builds every image that is not there yet, but Holdfast's.
pub(crate) fn build(layout: &Layout, progress: &Progress) -> Result<()> {
    pause(layout)?;
    base_layer(layout, progress)?;
    for recipe in RECIPES {
        recipe.archive(layout, progress)?;
    }
    Ok(())
}

/// The archives that a cluster gets when it comes up.
pub(crate) fn standard_archives(layout: &Layout) -> Result<Vec<PathBuf>> {
    let mut archives = vec![pause(layout)?];
    for recipe in RECIPES {
        archives.push(recipe.archive(layout, &Progress::quiet())?);
    }
    Ok(archives)
}

/// The archive of an image by its name ("pause", "tools", "postgres"), built if it is missing.
pub fn archive(layout: &Layout, name: &str, progress: &Progress) -> Result<PathBuf> {
    if name == "pause" {
        return pause(layout);
    }
    match RECIPES.iter().find(|r| r.name == name) {
        Some(recipe) => recipe.archive(layout, progress),
        None => Err(Error::Unsupported(format!(
            "no image {name:?} is known; there are pause, tools, postgres and (with --binary) holdfast"
        ))),
    }
}

/// The tags that an archive carries.
pub(crate) fn tags(archive: &Path) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Entry {
        repo_tags: Option<Vec<String>>,
    }
    let text = output(command("tar", &["-xOf"]).arg(archive).arg("manifest.json"))?;
    let entries: Vec<Entry> =
        serde_json::from_str(&text).map_err(|source| Error::State { path: archive.to_owned(), source })?;
    Ok(entries.into_iter().filter_map(|e| e.repo_tags).flatten().collect())
}

/// Makes Holdfast's image of a release binary, tagged [`HOLDFAST_IMAGE`] and with the content's hash.
pub fn build_holdfast_image(layout: &Layout, binary: &Path, progress: &Progress) -> Result<PathBuf> {
    let base = base_layer(layout, progress)?;
    let _lock = layout.lock("holdfast-image", || {})?;
    let stamp: String =
        sha256(format!("{} {}", sha256_of(binary)?, base.digest).as_bytes())?.chars().take(12).collect();
    let archive = layout.images().join(format!("holdfast-{stamp}.tar"));
    if archive.exists() {
        return Ok(archive);
    }
    let work = Work::new(layout, "holdfast")?;
    let program = work.root().join("usr/bin/holdfast");
    layout::make_dir(&work.root().join("usr/bin"))?;
    // Line tables are three quarters of the file; names of functions stay for backtraces.
    output(command("objcopy", &["--strip-debug"]).arg(binary).arg(&program))?;
    output(command("chmod", &["755"]).arg(&program))?;
    let layer = work.layer()?;
    let config = json!({"Entrypoint": ["/usr/bin/holdfast"], "User": NONROOT, "WorkingDir": "/", "Env": [environment()]});
    let content = format!("testbed.local/holdfast:{stamp}");
    assemble(&work, &[&base, &layer], &config, &[HOLDFAST_IMAGE, &content], &archive)?;
    forget_others(layout, "holdfast", &archive)?;
    Ok(archive)
}

fn environment() -> String {
    format!("PATH={}", crate::command::SYSTEM_PATH)
}

impl Recipe {
    fn stamp(&self) -> Result<String> {
        let mut text =
            format!("{IMAGE_SUITE}\0{COMMON}\0{}\0{}\0{}\0", self.finish, self.tag, self.dependencies);
        for list in [self.packages, self.unwanted, self.entrypoint] {
            text.push_str(&list.join(" "));
            text.push('\0');
        }
        for (path, content) in self.files {
            text.extend([*path, "\0", *content, "\0"]);
        }
        Ok(sha256(text.as_bytes())?.chars().take(12).collect())
    }

    fn archive(&self, layout: &Layout, progress: &Progress) -> Result<PathBuf> {
        let archive = layout.images().join(format!("{}-{}.tar", self.name, self.stamp()?));
        let _lock = layout.lock(&format!("image-{}", self.name), || {})?;
        if !archive.exists() {
            progress.step(&format!("making the {} image", self.name), String::new, || {
                let work = Work::new(layout, self.name)?;
                self.fill(layout, &work)?;
                let layer = work.layer()?;
                let mut config = json!({"Env": [environment()], "WorkingDir": "/"});
                if let (false, Some(fields)) = (self.entrypoint.is_empty(), config.as_object_mut()) {
                    fields.insert("Entrypoint".into(), json!(self.entrypoint));
                }
                assemble(&work, &[&layer], &config, &[self.tag], &archive)
            })?;
            forget_others(layout, self.name, &archive)?;
        }
        Ok(archive)
    }

    /// Fetches and unpacks the packages and runs the recipe's scripts.
    fn fill(&self, layout: &Layout, work: &Work) -> Result<()> {
        let suite = Suite::open(layout, IMAGE_SUITE)?;
        let packages =
            suite.fetch(self.packages, self.dependencies, self.unwanted, &work.dir.join("packages"))?;
        debian::unpack(&packages, &work.root())?;
        layout::remove(&work.dir.join("packages"))?;
        for (path, content) in self.files {
            layout::write_with_mode(&work.root().join(path), content, 0o755)?;
        }
        let script = format!("{COMMON}\n{}", self.finish);
        logged(
            &format!("finishing the {} image", self.name),
            command("bash", &["-c", &script]).env("ROOT", work.root()),
            &layout.build_logs().join(format!("image-{}.log", self.name)),
        )
    }
}

/// The layer below Holdfast's binary.
fn base_layer(layout: &Layout, progress: &Progress) -> Result<Layer> {
    let tar = layout.images().join(format!("base-{}.layer", BASE.stamp()?));
    let _lock = layout.lock("image-base", || {})?;
    if !tar.exists() {
        progress.step("making the base layer", String::new, || {
            let work = Work::new(layout, BASE.name)?;
            BASE.fill(layout, &work)?;
            let layer = work.layer()?;
            fs::rename(&layer.tar, &tar).map_err(Error::file("rename", &layer.tar))
        })?;
        forget_others(layout, BASE.name, &tar)?;
    }
    let digest = sha256_of(&tar)?;
    Ok(Layer { tar, digest })
}

fn pause(layout: &Layout) -> Result<PathBuf> {
    let program = layout.bin().join("pause");
    let digest = sha256_of(&program)?;
    let archive = layout.images().join(format!("pause-{}.tar", digest.chars().take(12).collect::<String>()));
    let _lock = layout.lock("image-pause", || {})?;
    if !archive.exists() {
        let work = Work::new(layout, "pause")?;
        fs::copy(&program, work.root().join("pause")).map_err(Error::file("copy", &program))?;
        let layer = work.layer()?;
        assemble(&work, &[&layer], &json!({"Entrypoint": ["/pause"]}), &[PAUSE_IMAGE], &archive)?;
        forget_others(layout, "pause", &archive)?;
    }
    Ok(archive)
}

/// A directory for making one image; gone when dropped.
struct Work {
    dir: PathBuf,
}

impl Work {
    fn new(layout: &Layout, name: &str) -> Result<Self> {
        debian::require_root()?; // files of an image belong to other users than the caller
        let dir = layout.images().join(format!("{name}.work"));
        layout::remove(&dir)?;
        let work = Self { dir };
        layout::make_dir(&work.root())?;
        output(command("chmod", &["755"]).arg(work.root()))?;
        Ok(work)
    }

    fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// The root directory as a layer; the same files give the same bytes.
    fn layer(&self) -> Result<Layer> {
        let tar = self.dir.join("layer.tar");
        let mut pack = command("tar", &["--sort=name", "--mtime=@0", "--numeric-owner", "-cf"]);
        output(pack.arg(&tar).arg("-C").arg(self.root()).arg("."))?;
        let digest = sha256_of(&tar)?;
        Ok(Layer { tar, digest })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Left-overs are removed by the next build of the image anyway.
        let _ = layout::remove(&self.dir);
    }
}

/// Writes the archive: a manifest, a configuration and the layers.
fn assemble(
    work: &Work,
    layers: &[&Layer],
    config: &serde_json::Value,
    tags: &[&str],
    archive: &Path,
) -> Result<()> {
    let dir = work.dir.join("archive");
    layout::make_dir(&dir)?;
    let mut names = Vec::new();
    for layer in layers {
        let name = format!("{}.tar", layer.digest);
        std::os::unix::fs::symlink(&layer.tar, dir.join(&name))
            .map_err(Error::file("link", dir.join(&name)))?;
        names.push(name);
    }
    let digests: Vec<String> = layers.iter().map(|l| format!("sha256:{}", l.digest)).collect();
    let history: Vec<_> = layers.iter().map(|_| json!({"created_by": "holdfast testbed"})).collect();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let configuration = json!({
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": digests},
        "history": history,
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": tags, "Layers": names}]);
    layout::write(&dir.join("config.json"), configuration.to_string())?;
    layout::write(&dir.join("manifest.json"), manifest.to_string())?;
    let temporary = work.dir.join("archive.tar");
    let mut pack = command("tar", &["--dereference", "--sort=name", "--mtime=@0", "-cf"]);
    output(pack.arg(&temporary).arg("-C").arg(&dir).args(["manifest.json", "config.json"]).args(&names))?;
    fs::rename(&temporary, archive).map_err(Error::file("rename", &temporary))
}

/// Removes the image's archives of other contents.
fn forget_others(layout: &Layout, name: &str, keep: &Path) -> Result<()> {
    for path in entries(&layout.images()) {
        let of_name = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.rsplit_once('-'));
        if path != keep && of_name.is_some_and(|(n, rest)| n == name && rest.contains('.')) {
            layout::remove(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_recipe_is_part_of_its_stamp() {
        let plain = || Recipe { name: "x", tag: "t", finish: "f", packages: &["a"], ..BASE };
        let stamps = [
            plain().stamp().unwrap(),
            Recipe { tag: "u", ..plain() }.stamp().unwrap(),
            Recipe { finish: "g", ..plain() }.stamp().unwrap(),
            Recipe { packages: &["b"], ..plain() }.stamp().unwrap(),
            Recipe { unwanted: &["b"], ..plain() }.stamp().unwrap(),
            Recipe { dependencies: true, ..plain() }.stamp().unwrap(),
            Recipe { entrypoint: &["e"], ..plain() }.stamp().unwrap(),
            Recipe { files: &[("p", "c")], ..plain() }.stamp().unwrap(),
        ];
        let different: std::collections::BTreeSet<_> = stamps.iter().collect();
        assert_eq!(different.len(), stamps.len());
    }

    #[test]
    fn only_older_archives_of_the_same_image_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path()).unwrap();
        let file = |name: &str| layout.images().join(name);
        for name in ["tools-1.tar", "tools-2.tar", "tools-extra-1.tar", "base-1.layer"] {
            layout::write(&file(name), "").unwrap();
        }
        forget_others(&layout, "tools", &file("tools-2.tar")).unwrap();
        assert_eq!(
            entries(&layout.images()),
            [file("base-1.layer"), file("tools-2.tar"), file("tools-extra-1.tar")]
        );
    }
}
