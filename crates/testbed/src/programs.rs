//! The programs of the test bed, built from source at pinned versions and kept by content: Kubernetes, etcd,
//! containerd, `CoreDNS`, the CSI side-cars and our driver, the S3 servers, the REST server, helm, kopia, and the pause
//! program.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{command, log_error, logged, output, sha256};
use crate::error::{Error, Result};
use crate::layout::{self, Layout};
use crate::progress::Progress;

/// One Go module of ours and what is built from it in one `go build`.
struct Group {
    name: &'static str,
    sources: &'static [(&'static str, &'static str)],
    arguments: &'static [&'static str],
    /// Programs whose name is not the last part of their import path.
    renamed: &'static [(&'static str, &'static str)],
    /// Programs that must be there after the build.
    programs: &'static [&'static str],
}

macro_rules! source {
    ($path:literal in $group:literal) => {
        ($path, include_str!(concat!("../go/", $group, "/", $path)))
    };
}

/// Without the version the server calls itself v0.0.0 and version checks of charts and tools fail.
const KUBERNETES_VERSION: &str = "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 \
    -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36 \
    -X k8s.io/component-base/version.gitTreeState=clean";
const HELM_VERSION: &str = "-s -w -X helm.sh/helm/v3/internal/version.version=v3.21.4 \
    -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=36";

/// In the order in which they are built: what stories need first comes first.
const GROUPS: &[Group] = &[
    Group {
        name: "k8s",
        sources: &[source!("go.mod" in "k8s"), source!("go.sum" in "k8s")],
        arguments: &["-ldflags", KUBERNETES_VERSION, "tool"],
        renamed: &[("server", "etcd")],
        programs: &[
            "etcd",
            "etcdctl",
            "kube-apiserver",
            "kube-controller-manager",
            "kube-proxy",
            "kube-scheduler",
            "kubectl",
            "kubelet",
        ],
    },
    Group {
        name: "addons",
        sources: &[
            source!("go.mod" in "addons"),
            source!("go.sum" in "addons"),
            source!("dns/main.go" in "addons"),
            source!("hostcsi/main.go" in "addons"),
            source!("hostcsi/controller.go" in "addons"),
            source!("hostcsi/node.go" in "addons"),
            source!("hostcsi/volume.go" in "addons"),
        ],
        arguments: &[
            "-tags",
            "no_btrfs no_devmapper no_zfs",
            "-ldflags",
            "-s -w",
            "tool",
            "./dns",
            "./hostcsi",
        ],
        renamed: &[],
        programs: &[
            "containerd",
            "containerd-shim-runc-v2",
            "ctr",
            "csi-attacher",
            "csi-provisioner",
            "csi-resizer",
            "csi-snapshotter",
            "snapshot-controller",
            "dns",
            "hostcsi",
        ],
    },
    Group {
        name: "versitygw",
        sources: &[source!("go.mod" in "versitygw"), source!("go.sum" in "versitygw")],
        arguments: &["-ldflags", "-s -w", "tool"],
        renamed: &[],
        programs: &["versitygw"],
    },
    Group {
        name: "rest-server",
        sources: &[source!("go.mod" in "rest-server"), source!("go.sum" in "rest-server")],
        arguments: &["-ldflags", "-s -w", "tool"],
        renamed: &[],
        programs: &["rest-server"],
    },
    Group {
        name: "helm",
        sources: &[source!("go.mod" in "helm"), source!("go.sum" in "helm")],
        arguments: &["-ldflags", HELM_VERSION, "tool"],
        renamed: &[],
        programs: &["helm"],
    },
];

/// Built only for who asks for it: no cluster needs it, and it takes minutes.
const MINIO: Group = Group {
    name: "minio",
    sources: &[
        source!("go.mod" in "minio"),
        source!("go.sum" in "minio"),
        source!("admin/main.go" in "minio"),
    ],
    arguments: &["-ldflags", "-s -w", "tool", "./admin"],
    renamed: &[("admin", "minio-admin")],
    programs: &["minio", "minio-admin"],
};

/// A backup program with a repository format of its own. Only the benchmark wants it.
const KOPIA: Group = Group {
    name: "kopia",
    sources: &[source!("go.mod" in "kopia"), source!("go.sum" in "kopia")],
    // Without its web pages.
    arguments: &[
        "-tags",
        "nohtmlui",
        "-ldflags",
        "-s -w -X github.com/kopia/kopia/repo.BuildVersion=0.22.3",
        "tool",
    ],
    renamed: &[],
    programs: &["kopia"],
};

const PAUSE: &str = include_str!("../images/pause.c");
const PAUSE_FLAGS: &[&str] = &["-Os", "-static", "-s", "-Wall", "-Werror"];

/// The module whose release carries the snapshot API's definitions, which the cluster gets applied.
const SNAPSHOT_API: &str = "github.com/kubernetes-csi/external-snapshotter/client/v8";
const SNAPSHOT_KINDS: &[&str] = &["volumesnapshotclasses", "volumesnapshotcontents", "volumesnapshots"];

/// The snapshot API's definitions, after the build.
pub(crate) fn snapshot_definitions(layout: &Layout) -> Vec<PathBuf> {
    let dir = layout.bin().join("snapshot-api");
    SNAPSHOT_KINDS.iter().map(|k| dir.join(format!("snapshot.storage.k8s.io_{k}.yaml"))).collect()
}

/// Builds what is not there yet. Returns each group's content hash.
pub(crate) fn build(layout: &Layout, progress: &Progress) -> Result<Vec<(String, String)>> {
    let mut stamps = vec![("pause".to_owned(), build_pause(layout)?)];
    let go = Go::find(layout)?;
    for group in GROUPS {
        stamps.push((group.name.to_owned(), group.ensure(layout, &go, progress)?));
    }
    Ok(stamps)
}

/// Builds the second S3 server unless it is there.
pub(crate) fn build_minio(layout: &Layout, progress: &Progress) -> Result<()> {
    MINIO.ensure(layout, &Go::find(layout)?, progress).map(drop)
}

/// Builds kopia unless it is there. Returns the program's path.
pub(crate) fn build_kopia(layout: &Layout, progress: &Progress) -> Result<PathBuf> {
    KOPIA.ensure(layout, &Go::find(layout)?, progress)?;
    Ok(layout.bin().join("kopia"))
}

impl Group {
    /// Builds the group unless it is there, and publishes it. Returns its content hash.
    fn ensure(&self, layout: &Layout, go: &Go, progress: &Progress) -> Result<String> {
        let log = layout.build_logs().join(format!("go-{}.log", self.name));
        let stamp = self.stamp(&go.version)?;
        let dir = layout.store().join(format!("{}-{stamp}", self.name));
        if !dir.exists() {
            layout::remove(&log)?;
            progress.step(
                &format!("building {} ({} programs)", self.name, self.programs.len()),
                || match std::fs::read_to_string(&log).map_or(0, |t| t.lines().count()) {
                    // The first line is the command; the compiler names each package it is done with.
                    lines @ 2.. => format!(", {} packages compiled", lines - 1),
                    _ => ", downloading modules or compiling".to_owned(),
                },
                || self.build(layout, go, &dir, &log),
            )?;
        }
        publish(layout, self.name, &dir)?;
        Ok(stamp)
    }

    /// What the programs are made of; the same stamp means the same programs.
    fn stamp(&self, go_version: &str) -> Result<String> {
        let mut text = format!("{go_version}\0{}\0", self.arguments.join("\0"));
        for (path, content) in self.sources {
            text.extend([*path, "\0", *content, "\0"]);
        }
        Ok(sha256(text.as_bytes())?.chars().take(12).collect())
    }

    fn build(&self, layout: &Layout, go: &Go, dir: &Path, log: &Path) -> Result<()> {
        // Everything happens beside the final name: a build that was cut short is never taken for a whole one.
        let work = layout.store().join(format!("{}.work", self.name));
        layout::remove(&work)?;
        let (source, out) = (work.join("source"), work.join("out"));
        layout::make_dir(&out)?;
        for (path, content) in self.sources {
            layout::write(&source.join(path), content)?;
        }
        let mut build = go.command(&source, &["build", "-v", "-o"]);
        build.arg(format!("{}/", out.display())).args(self.arguments);
        logged(&format!("building the {} programs", self.name), &mut build, log)?;
        for (from, to) in self.renamed {
            std::fs::rename(out.join(from), out.join(to)).map_err(Error::file("rename", out.join(from)))?;
        }
        if let Some(missing) = self.programs.iter().find(|p| !out.join(p).exists()) {
            return Err(log_error(&format!("building {missing}"), "the build made no such program", log));
        }
        if self.name == "addons" {
            let api = output(&mut go.command(&source, &["list", "-m", "-f", "{{.Dir}}", SNAPSHOT_API]))?;
            for kind in SNAPSHOT_KINDS {
                let name = format!("snapshot.storage.k8s.io_{kind}.yaml");
                let text = layout::read(&Path::new(&api).join("config/crd").join(&name))?;
                layout::write(&out.join("snapshot-api").join(&name), text)?;
            }
        }
        std::fs::rename(&out, dir).map_err(Error::file("rename", &out))?;
        layout::remove(&work)
    }
}

/// Points `bin/` at a group's programs and forgets the group's other builds, unless a running bed uses them.
fn publish(layout: &Layout, group: &str, dir: &Path) -> Result<()> {
    layout::make_dir(&layout.bin())?;
    for program in layout::entries(dir) {
        let Some(name) = program.file_name() else { continue };
        let link = layout.bin().join(name);
        if std::fs::read_link(&link).is_ok_and(|t| t == program) {
            continue;
        }
        let mut temporary = link.clone().into_os_string();
        temporary.push(".tmp");
        layout::remove(Path::new(&temporary))?;
        std::os::unix::fs::symlink(&program, &temporary).map_err(Error::file("link", &link))?;
        std::fs::rename(&temporary, &link).map_err(Error::file("replace", &link))?;
    }
    if layout.run().exists() {
        return Ok(());
    }
    for other in layout::entries(&layout.store()) {
        let of_group = other
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.rsplit_once('-'))
            .is_some_and(|(name, _)| name == group);
        if of_group && other != dir {
            layout::remove(&other)?;
        }
    }
    Ok(())
}

/// Compiles the pause program, which the images need too. Returns its content hash.
pub(crate) fn build_pause(layout: &Layout) -> Result<String> {
    let stamp: String =
        sha256(format!("{}\0{PAUSE}", PAUSE_FLAGS.join(" ")).as_bytes())?.chars().take(12).collect();
    let dir = layout.store().join(format!("pause-{stamp}"));
    if !dir.exists() {
        let work = layout.store().join("pause.work");
        layout::remove(&work)?;
        layout::write(&work.join("pause.c"), PAUSE)?;
        layout::make_dir(&work.join("out"))?;
        let mut gcc = command("gcc", PAUSE_FLAGS);
        output(gcc.arg("-o").arg(work.join("out/pause")).arg(work.join("pause.c")))?;
        std::fs::rename(work.join("out"), &dir).map_err(Error::file("rename", &work))?;
        layout::remove(&work)?;
    }
    publish(layout, "pause", &dir)?;
    Ok(stamp)
}

/// The Go toolchain.
struct Go {
    program: PathBuf,
    version: String,
    /// Where modules and compiled packages are kept if there is no home directory.
    homeless: Option<PathBuf>,
}

impl Go {
    fn find(layout: &Layout) -> Result<Self> {
        let homeless =
            std::env::var_os("HOME").is_none_or(|h| h.is_empty()).then(|| layout.root().join("go"));
        let mut tried = Vec::new();
        for program in ["go", "/usr/local/go/bin/go", "/usr/lib/go/bin/go"] {
            let mut go = Self { program: program.into(), version: String::new(), homeless: homeless.clone() };
            match output(&mut go.command(Path::new("/"), &["env", "GOVERSION"])) {
                Ok(version) => {
                    go.version = version;
                    return Ok(go);
                }
                Err(error) => tried.push(error.to_string()),
            }
        }
        Err(Error::Unsupported(format!(
            "the test bed builds Kubernetes from source and needs Go 1.26 or newer (https://go.dev/dl/) in PATH or \
             in /usr/local/go: {}",
            tried.join("; ")
        )))
    }

    fn command(&self, dir: &Path, args: &[&str]) -> Command {
        let mut go = command(&self.program, args);
        go.current_dir(dir)
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-buildvcs=false -trimpath")
            .env("GOWORK", "off");
        if let Some(home) = &self.homeless {
            go.env("GOPATH", home.join("path")).env("GOCACHE", home.join("cache"));
        }
        go
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stamp_changes_with_sources_flags_and_compiler() {
        let group = |sources, arguments| Group { name: "x", sources, arguments, renamed: &[], programs: &[] };
        let stamps = [
            group(&[("go.mod", "a")], &["tool"]).stamp("go1.26.8").unwrap(),
            group(&[("go.mod", "b")], &["tool"]).stamp("go1.26.8").unwrap(),
            group(&[("go.mod", "a")], &["tool", "./dns"]).stamp("go1.26.8").unwrap(),
            group(&[("go.mod", "a")], &["tool"]).stamp("go1.26.9").unwrap(),
        ];
        let different: std::collections::BTreeSet<_> = stamps.iter().collect();
        assert_eq!(different.len(), stamps.len());
        assert_eq!(stamps[0], group(&[("go.mod", "a")], &["tool"]).stamp("go1.26.8").unwrap());
    }

    #[test]
    fn publishing_replaces_the_links_and_forgets_older_builds_of_that_group_only() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path()).unwrap();
        for (build, program) in [("csi-1", "p"), ("csi-2", "p"), ("csi-extra-1", "q")] {
            layout::write(&layout.store().join(build).join(program), build).unwrap();
        }
        publish(&layout, "csi", &layout.store().join("csi-1")).unwrap();
        assert!(!layout.store().join("csi-2").exists() && layout.store().join("csi-extra-1").exists());

        layout::write(&layout.store().join("csi-3/p"), "csi-3").unwrap();
        layout::make_dir(&layout.run()).unwrap();
        publish(&layout, "csi", &layout.store().join("csi-3")).unwrap();
        assert_eq!(layout::read(&layout.bin().join("p")).unwrap(), "csi-3");
        assert!(layout.store().join("csi-1").exists(), "a running bed may still use it");
    }
}
