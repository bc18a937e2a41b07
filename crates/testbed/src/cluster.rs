//! Bringing the cluster up: control plane, nodes, DNS, storage, images; and asking whether it is well.
//! Sandboxes and links are in `node`, the way down is in `teardown`.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::command::{command, log_error, output, try_output, wait_until};
use crate::debian;
use crate::error::{Error, Result};
use crate::images::{self, PAUSE_IMAGE};
use crate::layout::{self, Layout, render};
use crate::minio;
use crate::node::{self, NODES, Node, POD_NETWORK, SERVICE_API, SERVICE_NETWORK};
use crate::pki;
use crate::process::{self, Daemon};
use crate::programs;
use crate::progress::Progress;
use crate::s3::{self, S3, S3Env};
use crate::state::State;
use crate::teardown;

const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
const PLUGINS: &str = "/var/lib/kubelet/plugins";
const HOSTPATH_DRIVER: &str = "hostpath.csi.testbed";
const DISK_DRIVER: &str = "disk.csi.testbed";

/// Everything that a caller needs to use a running bed; `run/env.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Env {
    /// The bed's directory.
    pub root: PathBuf,
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// `https://…` of the API server.
    pub server: String,
    /// The directory of `kubectl`, `helm` and the other programs.
    pub bin: PathBuf,
    /// The nodes.
    pub nodes: Vec<NodeEnv>,
    /// The S3 server.
    pub s3: S3Env,
}

/// A node of a running bed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEnv {
    /// `n1`, `n2`.
    pub name: String,
    /// Its address, reachable from the machine.
    pub address: String,
    /// Its first process, whose namespaces are the node's.
    pub init_pid: i32,
}

/// How a bed is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Nothing is up.
    Down,
    /// The cluster works. The S3 servers are not looked at: tests stop them on purpose.
    Up,
    /// It came up half, or something of it died; the reason.
    Broken(String),
}

/// Looks at a bed without changing it.
pub fn health(layout: &Layout) -> Result<Health> {
    let state = match State::load(layout) {
        Ok(Some(state)) => state,
        Ok(None) if layout.run().exists() => return Ok(Health::Broken("it was never begun properly".into())),
        Ok(None) => return Ok(Health::Down),
        Err(error) => return Ok(Health::Broken(error.to_string())),
    };
    if !state.is_of_this_boot() {
        return Ok(Health::Broken("the machine was started again since".into()));
    }
    if !state.ready {
        return Ok(Health::Broken("it did not come up whole".into()));
    }
    let processes = process::recorded(layout);
    let stoppable = [s3::RECORD, minio::RECORD];
    if let Some((name, _)) = processes.iter().find(|(n, p)| !stoppable.contains(&n.as_str()) && !p.is_alive())
    {
        return Ok(Health::Broken(format!("{name} died; see {}/{name}.log", layout.logs().display())));
    }
    if !api_is_ready(layout) {
        return Ok(Health::Broken("the API server does not answer".into()));
    }
    let ready = "{.items[*].status.conditions[?(@.type=='Ready')].status}";
    let said = output(kubectl(layout).args(["get", "nodes", "-o", &format!("jsonpath={ready}")]))?;
    if said.split_whitespace().filter(|s| *s == "True").count() != usize::from(NODES) {
        return Ok(Health::Broken(format!("not all nodes are Ready: {said}")));
    }
    Ok(Health::Up)
}

/// `kubectl` of the bed as its administrator.
pub(crate) fn kubectl(layout: &Layout) -> Command {
    let mut kubectl = command::<&str>(layout.bin().join("kubectl"), &[]);
    kubectl.env("KUBECONFIG", layout.kubeconfig()).env("KUBECACHEDIR", layout.run().join("kubectl-cache"));
    process::set_mark(layout, &mut kubectl);
    kubectl
}

/// Brings the bed up, or does nothing if it is up and well; what is half up is taken down first.
pub fn up(layout: &Layout, progress: &Progress) -> Result<Env> {
    debian::require_root()?;
    let programs = crate::build(layout, crate::Part::All, progress)?;
    let archives = images::standard_archives(layout)?;
    let _lock =
        layout.lock("run", || progress.say("waiting for another caller that brings the bed up or down"))?;
    match health(layout)? {
        Health::Up => {
            let env = load_env(layout)?;
            if State::load(layout)?.is_some_and(|s| s.programs != programs) {
                progress
                    .say("the bed that is up was made of other programs; `testbed down` and `up` renews it");
            }
            S3::new(layout.clone(), env.s3.clone()).start()?;
            load(layout, &archives)?;
            return Ok(env);
        }
        Health::Broken(reason) => {
            progress.say(&format!("taking a bed down first: {reason}"));
            teardown::take_down(layout)?;
        }
        Health::Down => {}
    }
    if node::host_link_exists() {
        return Err(Error::Unsupported(format!(
            "there is a link {} already: another test bed is up, in another HOLDFAST_TESTBED_DIR; take it down first",
            node::HOST_LINK
        )));
    }
    start(layout, programs, &archives, progress)
}

pub(crate) fn load_env(layout: &Layout) -> Result<Env> {
    let path = layout.run().join("env.json");
    let text = fs::read_to_string(&path).map_err(|_| Error::NotUp { root: layout.root().to_owned() })?;
    serde_json::from_str(&text).map_err(|source| Error::State { path, source })
}

fn start(
    layout: &Layout,
    programs: Vec<(String, String)>,
    archives: &[PathBuf],
    progress: &Progress,
) -> Result<Env> {
    layout::remove(&layout.run())?;
    let mut state = State::begin(layout, programs)?;
    for dir in layout.volumes() {
        layout::make_dir(&dir)?;
    }
    // Independent of each other: certificates, and each node's sandbox.
    let (nodes, s3_env) = thread::scope(|scope| {
        let certificates = scope.spawn(|| certificates(layout));
        let sandboxes: Vec<_> = (1..=NODES).map(|n| scope.spawn(move || Node::start(layout, n))).collect();
        let nodes = sandboxes.into_iter().map(joined).collect::<Result<Vec<_>>>()?;
        joined(certificates).map(|s3| (nodes, s3))
    })?;
    node::connect(&nodes)?;
    node::make_cgroups(&nodes)?;
    progress.say("certificates, nodes and network are there");

    let bed = Bed { layout, nodes: &nodes };
    let s3 = S3::new(layout.clone(), s3_env);
    thread::scope(|scope| -> Result<()> {
        bed.start_control_plane()?;
        let s3_start = scope.spawn(|| s3.start());
        let runtimes: Vec<_> = nodes
            .iter()
            .map(|node| {
                scope.spawn(move || bed.start_runtime(node).and_then(|()| import(layout, node, archives)))
            })
            .collect();
        bed.wait_for_api()?;
        progress.say("the API server is ready");
        bed.start_controllers()?;
        bed.start_dns()?;
        for node in bed.nodes {
            bed.start_kubelet(node)?;
        }
        bed.apply_manifests()?;
        bed.start_storage()?;
        joined(s3_start)?;
        bed.wait_for_nodes()?;
        progress.say("nodes are Ready");
        for runtime in runtimes {
            joined(runtime)?;
        }
        bed.wait_for_drivers()
    })?;

    let env = Env {
        root: layout.root().to_owned(),
        kubeconfig: layout.kubeconfig(),
        server: server(),
        bin: layout.bin(),
        nodes: nodes
            .iter()
            .map(|n| NodeEnv { name: n.name.clone(), address: n.address(), init_pid: n.init.pid })
            .collect(),
        s3: s3.env().clone(),
    };
    let path = layout.run().join("env.json");
    let text =
        serde_json::to_string_pretty(&env).map_err(|source| Error::State { path: path.clone(), source })?;
    layout::write_with_mode(&path, text, 0o600)?;
    state.ready = true;
    state.write(layout)?;
    progress.say("the bed is up: 2 nodes, storage, S3");
    Ok(env)
}

fn joined<T>(handle: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    handle
        .join()
        .unwrap_or_else(|_| Err(Error::Unsupported("a thread of the test bed ended with a panic".into())))
}

fn server() -> String {
    format!("https://{}:6443", node::address_of(1))
}

/// Everything that is signed, and the kubeconfigs that use it.
fn certificates(layout: &Layout) -> Result<S3Env> {
    let pki = layout.pki();
    layout::make_dir(&pki)?;
    pki::authority(&pki, "testbed authority")?;
    let api_names: Vec<String> = ["127.0.0.1", &node::address_of(1), SERVICE_API]
        .iter()
        .map(|a| format!("IP:{a}"))
        .chain(
            ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
                .iter()
                .map(|n| format!("DNS:{n}")),
        )
        .chain(["DNS:kubernetes.default.svc.cluster.local".to_owned()])
        .collect();
    let masters = ("O", "system:masters");
    pki::leaf(&pki, "apiserver", &[("CN", "kube-apiserver")], &api_names)?;
    pki::leaf(&pki, "kubelet-client", &[masters, ("CN", "kube-apiserver-kubelet-client")], &[])?;
    let mut users: Vec<String> = Vec::new();
    for (user, subject) in [
        ("admin", &[masters, ("CN", "admin")][..]),
        ("controller-manager", &[("CN", "system:kube-controller-manager")][..]),
        ("scheduler", &[("CN", "system:kube-scheduler")][..]),
        ("proxy", &[("CN", "system:kube-proxy")][..]),
    ] {
        pki::leaf(&pki, user, subject, &[])?;
        users.push(user.to_owned());
    }
    for (number, name) in (1..=NODES).zip(node::node_names()) {
        let subject = [("O", "system:nodes"), ("CN", &format!("system:node:{name}"))];
        let names = [format!("IP:{}", node::address_of(number)), format!("DNS:{name}")];
        pki::leaf(&pki, &name, &subject, &names)?;
        users.push(name);
    }
    pki::service_account_keys(&pki)?;
    for user in &users {
        let values = [("server", server()), ("pki", pki.display().to_string()), ("user", user.clone())];
        let values = values.each_ref().map(|(k, v)| (*k, v.as_str()));
        let text = render(include_str!("../config/kubeconfig.yaml"), &values)?;
        layout::write_with_mode(&kubeconfig_of(layout, user), text, 0o600)?;
    }
    s3::prepare(layout)
}

fn kubeconfig_of(layout: &Layout, user: &str) -> PathBuf {
    layout.run().join(format!("{user}.kubeconfig"))
}

fn api_is_ready(layout: &Layout) -> bool {
    let mut curl = command("curl", &["-sf", "-m", "2", "--cacert"]);
    output(curl.arg(layout.pki().join("ca.crt")).arg(format!("{}/readyz", server()))).is_ok()
}

/// A bed whose sandboxes stand.
#[derive(Clone, Copy)]
struct Bed<'a> {
    layout: &'a Layout,
    nodes: &'a [Node],
}

impl Bed<'_> {
    fn first(&self) -> Result<&Node> {
        self.nodes.first().ok_or_else(|| Error::NotUp { root: self.layout.root().to_owned() })
    }

    /// Starts one of our programs in a node.
    fn daemon(&self, node: &Node, name: &str, program: &str, args: &[String]) -> Result<()> {
        let record = format!("{}-{name}", node.name);
        let environment = [("NODE_NAME", node.name.as_str())];
        let daemon = Daemon {
            layout: self.layout,
            name: &record,
            node: Some(node.init.pid),
            environment: &environment,
        };
        daemon.start(self.layout.bin().join(program), args)
    }

    /// The node's path and name and the like, for its configuration files.
    fn configure(&self, node: &Node, template: &str, file: &str) -> Result<PathBuf> {
        let dir = node.dir(self.layout);
        let text = |path: &Path| path.display().to_string();
        let values = [
            ("node", node.name.as_str()),
            ("node_dir", &text(&dir)),
            ("pki", &text(&self.layout.pki())),
            ("kubeconfig", &text(&kubeconfig_of(self.layout, "proxy"))),
            ("pause_image", PAUSE_IMAGE),
            ("pod_subnet", &node.pod_subnet()),
            ("pods", POD_NETWORK),
            ("dns", &node::address_of(1)),
        ];
        let path = dir.join(file);
        layout::write(&path, render(template, &values)?)?;
        Ok(path)
    }

    fn start_control_plane(&self) -> Result<()> {
        let first = self.first()?;
        let run = self.layout.run();
        let pki = |name: &str| self.layout.pki().join(name).display().to_string();
        let etcd = [
            format!("--data-dir={}", run.join("etcd").display()),
            "--listen-client-urls=http://127.0.0.1:2379".into(),
            "--advertise-client-urls=http://127.0.0.1:2379".into(),
            "--listen-peer-urls=http://127.0.0.1:2380".into(),
            // The data is thrown away with the bed.
            "--unsafe-no-fsync".into(),
            "--log-level=warn".into(),
        ];
        self.daemon(first, "etcd", "etcd", &etcd)?;
        let api = [
            "--etcd-servers=http://127.0.0.1:2379".into(),
            "--secure-port=6443".into(),
            "--bind-address=0.0.0.0".into(),
            format!("--advertise-address={}", first.address()),
            format!("--service-cluster-ip-range={SERVICE_NETWORK}"),
            "--authorization-mode=Node,RBAC".into(),
            // In addition to the defaults, PodSecurity among them.
            "--enable-admission-plugins=NodeRestriction".into(),
            format!("--client-ca-file={}", pki("ca.crt")),
            format!("--tls-cert-file={}", pki("apiserver.crt")),
            format!("--tls-private-key-file={}", pki("apiserver.key")),
            format!("--kubelet-client-certificate={}", pki("kubelet-client.crt")),
            format!("--kubelet-client-key={}", pki("kubelet-client.key")),
            "--kubelet-preferred-address-types=InternalIP,Hostname".into(),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            format!("--service-account-key-file={}", pki("sa.pub")),
            format!("--service-account-signing-key-file={}", pki("sa.key")),
            // Without these, controller-manager and scheduler log errors without end.
            format!("--requestheader-client-ca-file={}", pki("ca.crt")),
            "--requestheader-allowed-names=front-proxy".into(),
            "--requestheader-username-headers=X-Remote-User".into(),
            "--requestheader-group-headers=X-Remote-Group".into(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
            "--allow-privileged=true".into(),
            "--event-ttl=1h".into(),
        ];
        self.daemon(first, "apiserver", "kube-apiserver", &api)
    }

    fn wait_for_api(&self) -> Result<()> {
        let address = SocketAddr::from(([10, 77, 0, 11], 6443));
        let open = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok();
        let ready = || Ok(open() && api_is_ready(self.layout));
        self.explain("n1-apiserver", wait_until("the API server", Duration::from_mins(3), "", ready))
    }

    /// Turns a time-out into an error that quotes the log of the daemon which was waited for.
    fn explain(&self, record: &str, outcome: Result<()>) -> Result<()> {
        match outcome {
            Err(Error::Timeout { what, seconds, .. }) => Err(log_error(
                &format!("waiting for {what}"),
                &format!("not there after {seconds} s"),
                &self.layout.logs().join(format!("{record}.log")),
            )),
            other => other,
        }
    }

    fn start_controllers(&self) -> Result<()> {
        let first = self.first()?;
        let pki = |name: &str| self.layout.pki().join(name).display().to_string();
        let kubeconfigs = |user: &str| {
            let path = kubeconfig_of(self.layout, user).display().to_string();
            ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"]
                .map(|f| format!("--{f}={path}"))
        };
        let mut manager = kubeconfigs("controller-manager").to_vec();
        manager.extend([
            "--use-service-account-credentials=true".into(),
            format!("--service-account-private-key-file={}", pki("sa.key")),
            format!("--root-ca-file={}", pki("ca.crt")),
            format!("--cluster-signing-cert-file={}", pki("ca.crt")),
            format!("--cluster-signing-key-file={}", pki("ca.key")),
            "--leader-elect=false".into(),
            "--allocate-node-cidrs=false".into(),
            "--enable-hostpath-provisioner=true".into(),
            "--terminated-pod-gc-threshold=100".into(),
            "--node-monitor-grace-period=20s".into(),
        ]);
        self.daemon(first, "controller-manager", "kube-controller-manager", &manager)?;
        let mut scheduler = kubeconfigs("scheduler").to_vec();
        scheduler.push("--leader-elect=false".into());
        self.daemon(first, "scheduler", "kube-scheduler", &scheduler)
    }

    fn start_dns(&self) -> Result<()> {
        let path = self.layout.run().join("Corefile");
        let kubeconfig = self.layout.kubeconfig().display().to_string();
        let values = [
            ("host", node::HOST),
            ("s3_name", s3::S3_NAME),
            ("named_bucket", s3::NAMED_BUCKET),
            ("kubeconfig", kubeconfig.as_str()),
        ];
        layout::write(&path, render(include_str!("../config/Corefile"), &values)?)?;
        self.daemon(self.first()?, "dns", "dns", &["-conf".into(), path.display().to_string()])
    }

    fn start_runtime(&self, node: &Node) -> Result<()> {
        self.configure(node, include_str!("../config/cni.conflist"), "etc-cni/10-bridge.conflist")?;
        let config = self.configure(node, include_str!("../config/containerd.toml"), "containerd.toml")?;
        self.daemon(node, "containerd", "containerd", &["--config".into(), config.display().to_string()])?;
        let mut version = ctr(self.layout, node);
        version.arg("version");
        let ready = || Ok(try_output(&mut version)?.status.success());
        self.explain(
            &format!("{}-containerd", node.name),
            wait_until("containerd", Duration::from_mins(1), "", ready),
        )
    }

    fn start_kubelet(&self, node: &Node) -> Result<()> {
        layout::write(
            &node.dir(self.layout).join("resolv.conf"),
            format!("nameserver {}\n", node::address_of(1)),
        )?;
        let config = self.configure(node, include_str!("../config/kubelet.yaml"), "kubelet.yaml")?;
        let kubelet = [
            format!("--config={}", config.display()),
            format!("--kubeconfig={}", kubeconfig_of(self.layout, &node.name).display()),
            format!("--hostname-override={}", node.name),
            format!("--node-ip={}", node.address()),
            "--root-dir=/var/lib/kubelet".into(),
        ];
        self.daemon(node, "kubelet", "kubelet", &kubelet)?;
        let config = self.configure(node, include_str!("../config/kube-proxy.yaml"), "kube-proxy.yaml")?;
        self.daemon(node, "kube-proxy", "kube-proxy", &[format!("--config={}", config.display())])
    }

    fn apply_manifests(&self) -> Result<()> {
        let path = self.layout.run().join("cluster.yaml");
        layout::write(&path, include_str!("../config/cluster.yaml"))?;
        let apply = |files: &[PathBuf]| {
            let mut kubectl = kubectl(self.layout);
            kubectl.args(["apply", "--server-side"]);
            for file in files {
                kubectl.arg("-f").arg(file);
            }
            output(&mut kubectl)
        };
        apply(&programs::snapshot_definitions(self.layout))?;
        // The snapshot classes are refused until their definitions are served, which no status says exactly.
        let mut last = None;
        let applied = || Ok(apply(std::slice::from_ref(&path)).map_err(|e| last = Some(e)).is_ok());
        match wait_until("the storage classes", Duration::from_secs(30), "", applied) {
            Ok(()) => Ok(()),
            Err(error) => Err(last.unwrap_or(error)),
        }
    }

    /// The CSI drivers with their side-cars. The side-cars are processes with the administrator's kubeconfig: no
    /// rules and no images for them.
    fn start_storage(&self) -> Result<()> {
        let kubeconfig = format!("--kubeconfig={}", self.layout.kubeconfig().display());
        let socket = |driver: &str| format!("{PLUGINS}/{driver}/csi.sock");
        let side_car = |node: &Node, name: &str, program: &str, driver: &str, more: &[&str]| {
            let mut args = vec![format!("--csi-address={}", socket(driver)), kubeconfig.clone()];
            args.extend(more.iter().map(|a| (*a).to_owned()));
            self.daemon(node, name, program, &args)
        };
        let [hostpath_data, disk_data] = self.layout.volumes();
        for node in self.nodes {
            for (name, driver, data, more) in [
                ("csi-hostpath", HOSTPATH_DRIVER, &hostpath_data, &[][..]),
                ("csi-disk", DISK_DRIVER, &disk_data, &["-attach", "-topology=false"][..]),
            ] {
                let mut args = vec![
                    format!("-name={driver}"),
                    format!("-node={}", node.name),
                    format!("-data={}", data.display()),
                    format!("-endpoint={}", socket(driver)),
                    format!("-registration=/var/lib/kubelet/plugins_registry/{driver}-reg.sock"),
                ];
                args.extend(more.iter().map(|a| (*a).to_owned()));
                self.daemon(node, name, "hostcsi", &args)?;
            }
            let provisioner = [
                "--node-deployment",
                "--strict-topology",
                "--immediate-topology=false",
                "--feature-gates=Topology=true",
                "--default-fstype=ext4",
                "--extra-create-metadata",
            ];
            side_car(node, "csi-provisioner", "csi-provisioner", HOSTPATH_DRIVER, &provisioner)?;
            let snapshotter = ["--node-deployment", "--extra-create-metadata"];
            side_car(node, "csi-snapshotter", "csi-snapshotter", HOSTPATH_DRIVER, &snapshotter)?;
        }
        let first = self.first()?;
        let controller = [kubeconfig.clone(), "--enable-distributed-snapshotting".into()];
        self.daemon(first, "snapshot-controller", "snapshot-controller", &controller)?;
        let provisioner = ["--default-fstype=ext4", "--extra-create-metadata"];
        side_car(first, "disk-provisioner", "csi-provisioner", DISK_DRIVER, &provisioner)?;
        side_car(first, "disk-snapshotter", "csi-snapshotter", DISK_DRIVER, &[])?;
        side_car(first, "disk-attacher", "csi-attacher", DISK_DRIVER, &[])?;
        side_car(first, "disk-resizer", "csi-resizer", DISK_DRIVER, &[])?;
        // Expansion of the node-local volumes; the driver's calls work from any node.
        side_car(first, "csi-resizer", "csi-resizer", HOSTPATH_DRIVER, &[])
    }

    fn wait_for_nodes(&self) -> Result<()> {
        for node in self.nodes {
            for condition in ["--for=create", "--for=condition=Ready"] {
                let mut wait = kubectl(self.layout);
                wait.args(["wait", condition, "--timeout=180s", &format!("node/{}", node.name)]);
                output(&mut wait).map_err(|_| {
                    let log = self.layout.logs().join(format!("{}-kubelet.log", node.name));
                    log_error(&format!("waiting for node {}", node.name), "not Ready after 180 s", &log)
                })?;
            }
        }
        let mut account = kubectl(self.layout);
        output(account.args(["wait", "--for=create", "--timeout=180s", "serviceaccount/default"])).map(drop)
    }

    fn wait_for_drivers(&self) -> Result<()> {
        let ready = || {
            let mut get = kubectl(self.layout);
            let said =
                output(get.args(["get", "csinodes", "-o", "jsonpath={.items[*].spec.drivers[*].name}"]))?;
            let count = |driver| said.split_whitespace().filter(|d| *d == driver).count();
            let all = usize::from(NODES);
            Ok(count(HOSTPATH_DRIVER) == all && count(DISK_DRIVER) == all)
        };
        self.explain("n1-csi-hostpath", wait_until("the CSI drivers", Duration::from_mins(1), "", ready))
    }
}

fn ctr(layout: &Layout, node: &Node) -> Command {
    let mut ctr = node.command(&layout.bin().join("ctr").display().to_string());
    ctr.args(["-a", CONTAINERD_SOCKET, "-n", "k8s.io"]);
    ctr
}

/// Imports archives into every node of a running bed, both at once; what a node has already is left out.
pub(crate) fn load(layout: &Layout, archives: &[PathBuf]) -> Result<()> {
    let _lock = layout.lock("load", || {})?;
    let nodes = (1..=NODES).map(|n| Node::find(layout, n)).collect::<Result<Vec<_>>>()?;
    thread::scope(|scope| {
        let imports: Vec<_> =
            nodes.iter().map(|n| scope.spawn(move || import(layout, n, archives))).collect();
        imports.into_iter().try_for_each(joined)
    })
}

/// Which archive each tag of a node came from.
type Loaded = BTreeMap<String, String>;

fn import(layout: &Layout, node: &Node, archives: &[PathBuf]) -> Result<()> {
    let path = node.dir(layout).join("images.json");
    let state = |source| Error::State { path: path.clone(), source };
    let mut loaded: Loaded = match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map_err(state)?,
        Err(_) => Loaded::new(),
    };
    for archive in archives {
        let version = version_of(archive)?;
        let tags = images::tags(archive)?;
        if !tags.is_empty() && tags.iter().all(|t| loaded.get(t) == Some(&version)) {
            continue;
        }
        output(
            ctr(layout, node)
                .args(["images", "import", "--local"])
                .arg(fs::canonicalize(archive).map_err(Error::file("find", archive))?),
        )?;
        loaded.extend(tags.into_iter().map(|t| (t, version.clone())));
        layout::write(&path, serde_json::to_string(&loaded).map_err(state)?)?;
    }
    Ok(())
}

/// Tells one content of an archive from another without reading it.
fn version_of(archive: &Path) -> Result<String> {
    let path = fs::canonicalize(archive).map_err(Error::file("find", archive))?;
    let meta = fs::metadata(&path).map_err(Error::file("read", &path))?;
    let changed = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    Ok(format!("{} {} {}", path.display(), meta.len(), changed.as_nanos()))
}
