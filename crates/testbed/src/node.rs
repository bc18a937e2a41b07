//! Nodes as sandboxes: a set of namespaces each, held by one process, and the links and routes between them and
//! the machine. What runs in a node is in `cluster`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command::{command, log_error, output, output_with_input, wait_until};
use crate::error::{Error, Result};
use crate::layout::{self, Layout, render};
use crate::process::{self, Daemon, Process, enter};

/// How many nodes a cluster has.
pub(crate) const NODES: u8 = 2;
/// The machine's end of the link to the cluster; it vanishes with the first node.
pub(crate) const HOST_LINK: &str = "tb-host";
/// The machine as pods and nodes see it.
pub(crate) const HOST: &str = "10.77.0.1";
pub(crate) const POD_NETWORK: &str = "10.244.0.0/16";
pub(crate) const SERVICE_NETWORK: &str = "10.96.0.0/16";
/// The first address of the service network: `kubernetes.default`.
pub(crate) const SERVICE_API: &str = "10.96.0.1";
/// The cgroup of all pods, below each controller.
pub(crate) const CGROUP: &str = "testbed";

/// Directories that a node covers with its own; made on the machine if they are missing.
pub(crate) const MOUNT_POINTS: &[&str] = &["/var/lib/kubelet", "/var/lib/cni", "/tmp/hostpath_pv"];

const INIT: &str = include_str!("../config/node-init.sh");

/// A running node.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    number: u8,
    pub(crate) name: String,
    /// Its first process, seen from the machine.
    pub(crate) init: Process,
}

pub(crate) fn node_names() -> Vec<String> {
    (1..=NODES).map(name_of).collect()
}

fn name_of(number: u8) -> String {
    format!("n{number}")
}

pub(crate) fn address_of(number: u8) -> String {
    format!("10.77.0.{}", 10 + number)
}

fn pod_subnet(number: u8) -> String {
    format!("10.244.{number}.0/24")
}

impl Node {
    /// Starts a node's sandbox and waits until it is furnished.
    pub(crate) fn start(layout: &Layout, number: u8) -> Result<Self> {
        let name = name_of(number);
        let dir = layout.node(&name);
        for part in ["kubelet", "cni", "varlog", "containerd", "etc-cni"] {
            layout::make_dir(&dir.join(part))?;
        }
        layout::make_dir(&layout.run().join("hostpath"))?;
        let text = |path: &Path| path.display().to_string();
        let values = [
            ("node", name.as_str()),
            ("node_dir", &text(&dir)),
            ("run", &text(&layout.run())),
            ("bin", &text(&layout.bin())),
        ];
        let script = dir.join("init.sh");
        layout::write(&script, render(INIT, &values)?)?;
        let record = format!("{name}-sandbox");
        let daemon = Daemon { layout, name: &record, node: None, environment: &[] };
        // With --kill-child the sandbox dies with the recorded process, whoever kills that.
        let mut arguments: Vec<String> =
            ["--fork", "--kill-child", "--pid", "--mount", "--mount-proc", "--net", "--uts", "--ipc", "sh"]
                .map(String::from)
                .to_vec();
        arguments.push(text(&script));
        daemon.start("unshare", &arguments)?;
        let ready = || Ok(dir.join("ready").exists());
        if wait_until("the sandbox", Duration::from_mins(1), "", ready).is_err() {
            return Err(log_error(
                &format!("starting the sandbox of {name}"),
                "not ready after 60 s",
                &daemon.log(),
            ));
        }
        Self::find(layout, number)
    }

    /// The running node of that number.
    pub(crate) fn find(layout: &Layout, number: u8) -> Result<Self> {
        let name = name_of(number);
        let sandbox = process::find(layout, &format!("{name}-sandbox")).filter(|p| p.is_alive());
        let init = sandbox.and_then(|s| s.children().into_iter().next());
        match init {
            Some(init) => Ok(Self { number, name, init }),
            None => Err(Error::NotUp { root: layout.root().to_owned() }),
        }
    }

    pub(crate) fn address(&self) -> String {
        address_of(self.number)
    }

    pub(crate) fn pod_subnet(&self) -> String {
        pod_subnet(self.number)
    }

    pub(crate) fn dir(&self, layout: &Layout) -> PathBuf {
        layout.node(&self.name)
    }

    /// A command that runs in the node. Paths must be absolute: entering the mount namespace changes the directory.
    pub(crate) fn command(&self, program: &str) -> std::process::Command {
        let words = enter(self.init.pid);
        let (first, rest) = words.split_first().map_or(("nsenter", &[][..]), |(f, r)| (f.as_str(), r));
        let mut command = command(first, rest);
        command.arg(program);
        command
    }

    /// Runs `ip` commands in the node, one per line.
    fn ip(&self, lines: &[String]) -> Result<()> {
        output_with_input(self.command("ip").args(["-batch", "-"]), lines.join("\n").as_bytes()).map(drop)
    }
}

/// Connects the nodes with each other and with the machine: a bridge in the first node, a link from it to every
/// other node and to the machine. All links vanish with the first node.
pub(crate) fn connect(nodes: &[Node]) -> Result<()> {
    let Some((first, others)) = nodes.split_first() else { return Ok(()) };
    first.ip(&[
        "link add br0 type bridge".into(),
        format!("address add {}/24 dev br0", first.address()),
        "link set br0 up".into(),
    ])?;
    machine_ip(&[
        format!("link add {HOST_LINK} type veth peer name tb-h netns {}", first.init.pid),
        format!("address add {HOST}/24 dev {HOST_LINK}"),
        format!("link set {HOST_LINK} up"),
    ])?;
    first.ip(&["link set tb-h master br0 up".into(), format!("route add default via {HOST}")])?;
    for node in others {
        let link = format!("tb-{}", node.name);
        machine_ip(&[format!(
            "link add {link} netns {} type veth peer name eth0 netns {}",
            first.init.pid, node.init.pid
        )])?;
        first.ip(&[format!("link set {link} master br0 up")])?;
        node.ip(&[
            format!("address add {}/24 dev eth0", node.address()),
            "link set eth0 up".into(),
            format!("route add default via {HOST}"),
        ])?;
    }
    let mut routes = vec![format!("route add {SERVICE_NETWORK} via {} dev {HOST_LINK}", first.address())];
    for node in nodes {
        // Each by its own node: replies through another one are asymmetric and kube-proxy drops them as invalid.
        routes.push(format!("route add {} via {} dev {HOST_LINK}", node.pod_subnet(), node.address()));
        let others = nodes.iter().filter(|n| n.number != node.number);
        let lines: Vec<String> =
            others.map(|o| format!("route add {} via {}", o.pod_subnet(), o.address())).collect();
        node.ip(&lines)?;
    }
    machine_ip(&routes)
}

fn machine_ip(lines: &[String]) -> Result<()> {
    output_with_input(&mut command("ip", &["-batch", "-"]), lines.join("\n").as_bytes()).map(drop)
}

/// Whether the machine's end of a bed's link exists.
pub(crate) fn host_link_exists() -> bool {
    Path::new("/sys/class/net").join(HOST_LINK).exists()
}

pub(crate) fn delete_host_link() -> Result<()> {
    if host_link_exists() {
        // The kernel may be taking it away at this moment, with the node's namespace.
        let outcome = output(&mut command("ip", &["link", "delete", HOST_LINK]));
        if host_link_exists() {
            outcome?;
        }
    }
    Ok(())
}

/// The roots of the cgroup hierarchies that hold pods.
pub(crate) fn cgroup_roots() -> Vec<PathBuf> {
    let base = Path::new("/sys/fs/cgroup");
    if base.join("cgroup.controllers").exists() {
        return vec![base.to_owned()];
    }
    let mut roots: Vec<PathBuf> =
        layout::entries(base).into_iter().filter(|p| p.join("cgroup.procs").exists()).collect();
    // Links like cpu -> cpu,cpuacct would be visited twice.
    roots.retain(|p| !p.is_symlink());
    roots
}

/// Makes the cgroups that the kubelets put their pods below.
pub(crate) fn make_cgroups(nodes: &[Node]) -> Result<()> {
    for root in cgroup_roots() {
        let unified = root.join("cgroup.controllers").exists();
        let bed = root.join(CGROUP);
        layout::make_dir(&bed)?;
        if unified {
            let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
            for dir in [&root, &bed] {
                for controller in controllers.split_whitespace() {
                    // One that cannot be passed on is one that this machine's pods do without.
                    let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
                }
            }
        }
        for node in nodes {
            let dir = bed.join(&node.name);
            layout::make_dir(&dir)?;
            if unified {
                continue;
            }
            for dir in [&bed, &dir] {
                // A new cpuset is empty and takes no process; without the prefix where mounted so.
                for file in ["cpuset.cpus", "cpuset.mems", "cpus", "mems"] {
                    if dir.join(file).exists() {
                        let value = layout::read(&root.join(file))?;
                        fs::write(dir.join(file), value).map_err(Error::file("write", dir.join(file)))?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Removes the pods' cgroups, the deepest first.
pub(crate) fn remove_cgroups() -> Result<()> {
    let remaining = || cgroup_roots().into_iter().map(|r| r.join(CGROUP)).filter(|p| p.exists());
    wait_until("the removal of the pods' cgroups", Duration::from_secs(10), "see /sys/fs/cgroup", || {
        remaining().for_each(|dir| remove_tree(&dir));
        Ok(remaining().next().is_none())
    })
}

fn remove_tree(dir: &Path) {
    for child in layout::entries(dir).into_iter().filter(|p| p.is_dir()) {
        remove_tree(&child);
    }
    // Busy for a moment after its last process died; the caller asks again.
    let _ = fs::remove_dir(dir);
}
