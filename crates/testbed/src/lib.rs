//! A real two-node Kubernetes with storage and an S3 server on one bare machine, for the demo and the tests. This
//! file is the door: building, bringing up and down, and a handle on a bed that is up. No Holdfast logic.
//!
//! ```no_run
//! let bed = holdfast_testbed::Testbed::connect()?;
//! bed.s3().create_bucket("story-1")?;
//! let pods = bed.kubectl().args(["get", "pods", "-A"]).output();
//! # Ok::<(), holdfast_testbed::Error>(())
//! ```
//!
//! | module | |
//! |---|---|
//! | `layout` | the state directory and its locks |
//! | `debian`, `programs`, `images`, `restic`, `rustic` | what is built, once, by content |
//! | `state`, `process` | what is changed on the machine, written down to be undone |
//! | `pki`, `node`, `cluster`, `s3` | the way up |
//! | `minio` | a second S3 server, for who asks for it |
//! | `teardown` | the way down |
//! | `slow_line` | latency, for benchmarks |

mod cluster;
mod command;
mod debian;
mod error;
mod images;
mod layout;
mod minio;
mod node;
mod pki;
mod process;
mod programs;
mod progress;
mod restic;
mod rustic;
mod s3;
mod slow_line;
mod state;
mod teardown;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

pub use cluster::{Env, Health, NodeEnv, health, up};
pub use error::{Error, Result, chain};
pub use images::{HOLDFAST_IMAGE, POSTGRES_IMAGE, TOOLS_IMAGE, archive, build_holdfast_image};
pub use layout::Layout;
pub use minio::{Minio, WEB_IDENTITY_AUDIENCE, WEB_IDENTITY_ROLE};
pub use process::Halted;
pub use progress::Progress;
pub use restic::{Restic, restic, restic_versions};
pub use rustic::{RUSTIC_VERSION, rustic};
pub use s3::{NAMED_BUCKET, S3, S3Env, Signer, encode};
pub use slow_line::slow_line;
pub use teardown::{down, verify};

/// What to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Programs and images.
    All,
    /// Programs only.
    Programs,
    /// Images only.
    Images,
}

/// Installs missing Debian packages and builds what is not there yet; a second caller waits for the first and then
/// finds all done. Returns the content hash of each group of programs.
pub fn build(layout: &Layout, part: Part, progress: &Progress) -> Result<Vec<(String, String)>> {
    let _lock = layout.lock("build", || progress.say("waiting for another build of the test bed"))?;
    debian::install_machine_packages(layout, progress)?;
    programs::build_pause(layout)?;
    // Images are mostly downloads and programs are mostly the compiler: side by side they take no longer.
    std::thread::scope(|scope| {
        let images =
            scope.spawn(|| if part == Part::Programs { Ok(()) } else { images::build(layout, progress) });
        let programs = if part == Part::Images { Ok(Vec::new()) } else { programs::build(layout, progress) };
        let images = images.join().unwrap_or_else(|_| {
            Err(Error::Unsupported("a thread of the test bed ended with a panic".into()))
        });
        programs.and_then(|programs| images.map(|()| programs))
    })
}

/// Builds the second S3 server, which no bed needs and some tests want; a second caller waits for the first. Nobody who
/// only wants a bed does.
pub fn build_minio(layout: &Layout, progress: &Progress) -> Result<()> {
    let _lock = layout.lock("build-minio", || progress.say("waiting for another build of the test bed"))?;
    programs::build_minio(layout, progress)
}

/// The path of kopia, which the benchmark compares with; built if it is missing.
pub fn kopia(layout: &Layout, progress: &Progress) -> Result<PathBuf> {
    let _lock = layout.lock("build-kopia", || progress.say("waiting for another build of kopia"))?;
    programs::build_kopia(layout, progress)
}

/// A handle on a bed that is up.
#[derive(Debug, Clone)]
pub struct Testbed {
    layout: Layout,
    env: Env,
}

impl Testbed {
    /// The bed of this machine, in the directory that the environment names; fails if none is up.
    pub fn connect() -> Result<Self> {
        Self::connect_to(Layout::from_env()?)
    }

    /// The bed in that directory.
    pub fn connect_to(layout: Layout) -> Result<Self> {
        let env = cluster::load_env(&layout)?;
        // The file outlives a machine that was switched off.
        env.nodes.iter().zip(1..).try_for_each(|(_, number)| node::Node::find(&layout, number).map(drop))?;
        Ok(Self { layout, env })
    }

    /// Builds and brings up what is missing, then connects.
    pub fn ensure_up(progress: &Progress) -> Result<Self> {
        let layout = Layout::from_env()?;
        let env = up(&layout, progress)?;
        Ok(Self { layout, env })
    }

    /// Paths, addresses and keys.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// The bed's directory.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The S3 server.
    pub fn s3(&self) -> S3 {
        S3::new(self.layout.clone(), self.env.s3.clone())
    }

    /// The second S3 server; it is not up before somebody starts it.
    pub fn minio(&self) -> Minio {
        Minio::new(self.layout.clone(), &self.env.s3, &self.env.server)
    }

    /// `kubectl` as the cluster's administrator.
    pub fn kubectl(&self) -> Command {
        cluster::kubectl(&self.layout)
    }

    /// `helm` as the cluster's administrator; its caches end with the bed.
    pub fn helm(&self) -> Command {
        let mut helm = command::command::<&str>(self.env.bin.join("helm"), &[]);
        helm.env("KUBECONFIG", &self.env.kubeconfig);
        for (variable, dir) in
            [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
        {
            helm.env(variable, self.layout.run().join("helm").join(dir));
        }
        helm
    }

    /// Imports image archives into every node that does not have them.
    pub fn load_images(&self, archives: &[PathBuf]) -> Result<()> {
        cluster::load(&self.layout, archives)
    }

    /// Makes Holdfast's image of a binary, loads it, and names it: [`HOLDFAST_IMAGE`].
    pub fn load_holdfast(&self, binary: &Path) -> Result<&'static str> {
        let archive = build_holdfast_image(&self.layout, binary, &Progress::quiet())?;
        self.load_images(&[archive])?;
        Ok(HOLDFAST_IMAGE)
    }

    /// A command inside a node ("n1"): its mounts, network and processes; paths must be absolute.
    pub fn node_command(&self, node: &str, program: &str) -> Result<Command> {
        let number = self.env.nodes.iter().zip(1..).find(|(n, _)| n.name == node).map(|(_, number)| number);
        let number = number.ok_or_else(|| Error::Unsupported(format!("the bed has no node {node:?}")))?;
        Ok(node::Node::find(&self.layout, number)?.command(program))
    }

    /// Runs a command inside a node and returns its output, whatever its exit status.
    pub fn exec_in_node(&self, node: &str, program: &str, args: &[&str]) -> Result<Output> {
        command::try_output(self.node_command(node, program)?.args(args))
    }

    /// The pid, seen from the machine, of a daemon ("n1-kubelet", "n2-containerd", "s3"), for tests that kill it.
    /// Names are those of the files in [`Layout::logs`].
    pub fn daemon_pid(&self, name: &str) -> Option<i32> {
        let process = process::find(&self.layout, name).filter(|p| p.is_alive())?;
        // In a node the recorded process only entered it; the daemon is its child.
        Some(process.children().first().copied().unwrap_or(process).pid)
    }

    /// Kills a daemon of a node ("n2-kubelet", "n1-apiserver") as a crash would, and starts it again after a while with
    /// the arguments that it had.
    pub fn restart_daemon(&self, name: &str, pause: Duration) -> Result<()> {
        let halted = self.halt_daemon(name)?;
        std::thread::sleep(pause);
        halted.start()
    }

    /// Kills a daemon of a node as a crash would. It stays away until it is started.
    pub fn halt_daemon(&self, name: &str) -> Result<Halted> {
        process::halt(&self.layout, name)
    }
}
