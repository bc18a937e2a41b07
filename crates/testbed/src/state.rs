//! What a bed changed on the machine and must undo, written down before it is changed; and what a machine looks
//! like, to compare before and after. Processes record themselves (`process`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::command::{command, output};
use crate::error::{Error, Result};
use crate::layout::{self, Layout};
use crate::node;
use crate::process;

/// What the kubelet sets for the whole machine.
const SYSCTLS: &[&str] = &[
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// The journal of a bed, `run/state.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    /// Everything of another boot is gone by itself.
    boot_id: String,
    sysctls: BTreeMap<String, String>,
    /// Directories that were made outside the state directory, in order.
    directories: Vec<PathBuf>,
    /// What the programs of this bed were built from.
    pub(crate) programs: Vec<(String, String)>,
    /// The machine before the bed.
    pub(crate) before: Census,
    /// Whether the bed came up whole.
    pub(crate) ready: bool,
}

impl State {
    fn path(layout: &Layout) -> PathBuf {
        layout.run().join("state.json")
    }

    /// Writes down what is about to be changed, then makes the mount points.
    pub(crate) fn begin(layout: &Layout, programs: Vec<(String, String)>) -> Result<Self> {
        let value = |name: &&str| Some(((*name).to_owned(), sysctl(name)?));
        let missing = node::MOUNT_POINTS.iter().flat_map(|p| missing_parts(Path::new(p)));
        let directories: BTreeSet<PathBuf> = missing.collect();
        let state = Self {
            boot_id: boot_id(),
            sysctls: SYSCTLS.iter().filter_map(value).collect(),
            directories: directories.into_iter().collect(),
            programs,
            before: Census::take(layout)?,
            ready: false,
        };
        state.write(layout)?;
        for mount_point in node::MOUNT_POINTS {
            layout::make_dir(Path::new(mount_point))?;
        }
        Ok(state)
    }

    pub(crate) fn write(&self, layout: &Layout) -> Result<()> {
        let path = Self::path(layout);
        let text = serde_json::to_string_pretty(self)
            .map_err(|source| Error::State { path: path.clone(), source })?;
        layout::write(&path, text)
    }

    /// The journal, if a bed was begun.
    pub(crate) fn load(layout: &Layout) -> Result<Option<Self>> {
        let path = Self::path(layout);
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map(Some).map_err(|source| Error::State { path, source }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::file("read", path)(error)),
        }
    }

    /// Whether the machine was started again since.
    pub(crate) fn is_of_this_boot(&self) -> bool {
        self.boot_id == boot_id()
    }

    /// Puts the machine's settings back and removes the directories that were made.
    pub(crate) fn undo(&self) -> Result<()> {
        if self.is_of_this_boot() {
            for (name, old) in &self.sysctls {
                if sysctl(name).as_ref() != Some(old) {
                    let path = Path::new("/proc/sys").join(name);
                    fs::write(&path, old).map_err(Error::file("restore", path))?;
                }
            }
        }
        for directory in self.directories.iter().rev() {
            // Somebody else may have put something in meanwhile: then it is theirs.
            let _ = fs::remove_dir(directory);
        }
        Ok(())
    }
}

/// The directories of a path that do not exist yet, the outermost first.
fn missing_parts(path: &Path) -> Vec<PathBuf> {
    let mut parts: Vec<PathBuf> = path.ancestors().take_while(|p| !p.exists()).map(Path::to_owned).collect();
    parts.reverse();
    parts
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn sysctl(name: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/sys").join(name)).ok().map(|v| v.trim().to_owned())
}

/// What a bed could leave on a machine, told from what others do there meanwhile: a service with a network
/// namespace of its own, a user's mount, another tool's link are not ours to judge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Census {
    processes: BTreeSet<String>,
    network_namespaces: BTreeSet<String>,
    mounts: BTreeSet<String>,
    links: BTreeSet<String>,
    routes: BTreeSet<String>,
    loop_devices: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    mount_points: BTreeSet<String>,
    sysctls: BTreeSet<String>,
}

impl Census {
    pub(crate) fn take(layout: &Layout) -> Result<Self> {
        let root = layout.root().display().to_string();
        let (processes, network_namespaces) = processes(layout);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let routes = output(&mut command("ip", &["route", "show", "table", "all"]))?;
        let loops = output(&mut command("losetup", &["-n", "-O", "NAME,BACK-FILE"]))?;
        let places: Vec<&str> =
            node::MOUNT_POINTS.iter().copied().chain([root.as_str(), "/run/containerd"]).collect();
        let networks = ["10.77.0.", "10.244.", "10.96.0."];
        Ok(Self {
            processes,
            network_namespaces,
            // Fields 1 to 3 are numbers that are given anew; the rest says what is mounted where.
            mounts: lines_with(&mounts, &places)
                .map(|l| l.split_whitespace().skip(3).collect::<Vec<_>>().join(" "))
                .collect(),
            links: layout::entries(Path::new("/sys/class/net"))
                .iter()
                .filter_map(|p| p.file_name()?.to_str())
                .filter(|n| n.starts_with("tb-") || ["br0", "cni0"].contains(n))
                .map(str::to_owned)
                .collect(),
            routes: lines_with(&routes, &networks).map(|l| l.trim().to_owned()).collect(),
            // All of them: what a stacked device shows after its node died does not say whose it was.
            loop_devices: loops.lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect(),
            cgroups: node::cgroup_roots()
                .into_iter()
                .map(|r| r.join(node::CGROUP))
                .filter(|p| p.exists())
                .map(|p| p.display().to_string())
                .collect(),
            mount_points: node::MOUNT_POINTS
                .iter()
                .filter(|p| Path::new(p).exists())
                .map(|p| (*p).to_owned())
                .collect(),
            sysctls: SYSCTLS.iter().filter_map(|n| Some(format!("{n} = {}", sysctl(n)?))).collect(),
        })
    }

    /// What is there now and was not before; empty if the machine is as it was.
    pub(crate) fn left(&self, now: &Self) -> Vec<String> {
        // Destructured whole: a kind of thing that is counted is compared.
        let Self {
            processes,
            network_namespaces,
            mounts,
            links,
            routes,
            loop_devices,
            cgroups,
            mount_points,
            sysctls,
        } = now;
        let pairs = [
            ("process", processes, &self.processes),
            ("network namespace", network_namespaces, &self.network_namespaces),
            ("mount", mounts, &self.mounts),
            ("link", links, &self.links),
            ("route", routes, &self.routes),
            ("loop device", loop_devices, &self.loop_devices),
            ("cgroup", cgroups, &self.cgroups),
            ("directory", mount_points, &self.mount_points),
            ("sysctl", sysctls, &self.sysctls),
        ];
        let mut found = Vec::new();
        for (kind, now, before) in pairs {
            found.extend(now.difference(before).map(|what| format!("  {kind}: {what}")));
        }
        found
    }
}

fn lines_with<'a>(text: &'a str, parts: &'a [&str]) -> impl Iterator<Item = &'a str> {
    text.lines().filter(move |line| parts.iter().any(|part| line.contains(part)))
}

/// Processes of a bed, by three marks of which each has at least one, and the network namespaces that they are in: a
/// program of the bed's, the variable that every daemon is started with, the cgroup of the pods.
fn processes(layout: &Layout) -> (BTreeSet<String>, BTreeSet<String>) {
    let mark = process::mark(layout);
    let pods = format!(":/{}/", node::CGROUP);
    let text = |p: PathBuf| fs::read(p).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let (mut ours, mut namespaces) = (BTreeSet::new(), BTreeSet::new());
    for dir in layout::entries(Path::new("/proc")) {
        let Some(pid) = dir.file_name().and_then(|n| n.to_str()).filter(|n| n.parse::<u32>().is_ok()) else {
            continue;
        };
        // A zombie has none any more, and is gone when its parent has read its status.
        let Ok(program) = fs::read_link(dir.join("exe")) else { continue };
        if program.starts_with(layout.store())
            || text(dir.join("environ")).split('\0').any(|v| v == mark)
            || text(dir.join("cgroup")).contains(&pods)
        {
            ours.insert(format!("{pid} {}", program.display()));
            if let Ok(namespace) = fs::read_link(dir.join("ns/net")) {
                namespaces.insert(namespace.display().to_string());
            }
        }
    }
    // The machine's own: the S3 server is in it.
    if let Ok(own) = fs::read_link("/proc/self/ns/net") {
        namespaces.remove(&own.display().to_string());
    }
    (ours, namespaces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_not_there_before_counts_as_left() {
        let dir = tempfile::tempdir().unwrap();
        let mut before = Census::take(&Layout::at(dir.path()).unwrap()).unwrap();
        assert_eq!(before.left(&before.clone()), Vec::<String>::new());
        before.loop_devices.insert("/dev/loop7 /of/somebody.img".into());
        let mut after = before.clone();
        after.loop_devices.clear();
        after.links.insert("tb-left".into());
        assert_eq!(before.left(&after), ["  link: tb-left"]);
    }

    #[test]
    fn missing_directories_are_listed_from_the_outside_in() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        assert_eq!(missing_parts(&deep), [dir.path().join("a"), deep.clone()]);
        fs::create_dir_all(&deep).unwrap();
        assert_eq!(missing_parts(&deep), Vec::<PathBuf>::new());
    }
}
