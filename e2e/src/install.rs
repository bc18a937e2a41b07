//! The test bed with Holdfast installed in it, once a process: image, chart, operator ready. Or a cluster that was there
//! before, with Holdfast installed by `hack/on-current`, which has no daemons to kill and no disk to look at.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use holdfast_testbed::{
    HOLDFAST_IMAGE, NAMED_BUCKET, POSTGRES_IMAGE, Progress, S3Env, Signer, TOOLS_IMAGE, Testbed,
    WEB_IDENTITY_AUDIENCE, archive,
};
use serde_json::Value;

use crate::current::Current;
use crate::holdfast::Holdfast;
use crate::kubectl::{Failure, Kubectl, Result, condition, run};

/// Namespace that the chart is installed into.
pub const OPERATOR_NAMESPACE: &str = "holdfast-system";
/// Name that the operator is told for the test bed's cluster.
pub const CLUSTER_NAME: &str = "testbed";
/// Another name for the loaded image of Holdfast, to upgrade to.
pub const OTHER_IMAGE: &str = "testbed.local/holdfast:other";
/// A lifecycle rule that deletes all objects of a bucket, and its MD5 digest, without which minio takes none.
const RULE: (&str, &str) = (
    "<LifecycleConfiguration><Rule><ID>month</ID><Status>Enabled</Status><Filter><Prefix></Prefix></Filter>\
     <Expiration><Days>30</Days></Expiration></Rule></LifecycleConfiguration>",
    "dqnbRcAJAy23icTRtZ7ASg==",
);
/// Host of the second S3 server.
const SECOND_S3: &str = "10.77.0.1:9001";
/// CSI drivers of a node.
const DRIVERS: usize = 2;
/// How long the operator may take to start on a busy two-core machine.
const INSTALL: Duration = Duration::from_mins(3);

/// The cluster and the S3 server, with Holdfast installed.
pub struct Bed {
    cluster: Cluster,
    /// `https://address:port` of the S3 server, as pods and this machine reach it.
    pub s3_endpoint: String,
    /// Its access key.
    pub access_key: String,
    /// Its secret key.
    pub secret_key: String,
    /// Its CA as a file.
    pub ca_path: PathBuf,
    /// Its CA as text; empty when it needs none.
    pub ca_pem: String,
}

/// Whose cluster it is.
enum Cluster {
    /// Ours, to be broken.
    Bed(Box<Testbed>),
    /// Somebody's.
    Current(Box<Current>),
}

/// The bed of this process: brought up, images loaded, chart installed by whoever asks first.
pub fn bed() -> Result<&'static Bed> {
    static BED: OnceLock<std::result::Result<Bed, String>> = OnceLock::new();
    BED.get_or_init(|| Bed::prepare().map_err(|e| e.0)).as_ref().map_err(|e| Failure(e.clone()))
}

/// A failure of the test bed, as the stories report it.
#[expect(clippy::needless_pass_by_value, reason = "handed to map_err")]
pub fn bed_failure(error: holdfast_testbed::Error) -> Failure {
    Failure(holdfast_testbed::chain(&error))
}

impl Bed {
    fn prepare() -> Result<Self> {
        if Current::wanted() {
            return Self::of_current(Current::from_env()?);
        }
        let progress = Progress::new();
        let testbed = Testbed::ensure_up(&progress).map_err(bed_failure)?;
        let s3 = testbed.env().s3.clone();
        let ca_pem = std::fs::read_to_string(&s3.ca_file)
            .map_err(|e| Failure(format!("cannot read {}: {e}", s3.ca_file.display())))?;
        let bed = Self {
            s3_endpoint: s3.endpoint,
            access_key: s3.access_key,
            secret_key: s3.secret_key,
            ca_path: s3.ca_file,
            ca_pem,
            cluster: Cluster::Bed(Box::new(testbed)),
        };
        bed.install(&progress)?;
        Ok(bed)
    }

    /// Somebody's cluster, in which `hack/on-current` has installed Holdfast already.
    fn of_current(current: Current) -> Result<Self> {
        let place = current.place.clone();
        let ca_pem = match &place.ca_path {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|e| Failure(format!("cannot read {}: {e}", path.display())))?,
        };
        Ok(Self {
            s3_endpoint: place.endpoint,
            access_key: place.access_key,
            secret_key: place.secret_key,
            ca_path: place.ca_path.unwrap_or_default(),
            ca_pem,
            cluster: Cluster::Current(Box::new(current)),
        })
    }

    /// The cluster of a user's kubeconfig, when it is one.
    pub fn current(&self) -> Option<&Current> {
        match &self.cluster {
            Cluster::Bed(_) => None,
            Cluster::Current(current) => Some(current),
        }
    }

    /// The test bed, for what only it can do.
    fn testbed(&self) -> Result<&Testbed> {
        match &self.cluster {
            Cluster::Bed(testbed) => Ok(testbed),
            Cluster::Current(current) => Err(Failure(format!(
                "this needs the test bed (its daemons, images or S3 server), and the cluster is {}",
                current.context
            ))),
        }
    }

    /// Namespace of the operator.
    pub fn operator_namespace(&self) -> &str {
        self.current().map_or(OPERATOR_NAMESPACE, |current| &current.operator_namespace)
    }

    /// Makes a namespace for a story.
    pub fn make_namespace(&self, name: &str) -> Result<()> {
        match &self.cluster {
            Cluster::Bed(_) => self.kubectl().run(&["create", "namespace", name]).map(drop),
            Cluster::Current(current) => current.make_namespace(name),
        }
    }

    /// Loads the images and installs or upgrades the chart, then waits until the operator leads and is ready.
    fn install(&self, progress: &Progress) -> Result<()> {
        let testbed = self.testbed()?;
        // A story that was ended in the middle may have left a node closed.
        for node in &testbed.env().nodes {
            let open = r#"{"spec":{"unschedulable":null,"taints":null}}"#;
            self.kubectl().run(&["patch", "node", &node.name, "--type=merge", "-p", open])?;
        }
        let image = load_images(testbed, progress)?;
        self.upgrade(image, "")?;
        // The tag is the same for every build: a new binary needs new pods.
        self.kubectl().run(&["-n", OPERATOR_NAMESPACE, "rollout", "restart", "deployment"])?;
        self.rolled_out()
    }

    /// Has the chart's release run this image, which the nodes have, and waits until its operator is the only one.
    pub fn change_image(&self, image: &str) -> Result<()> {
        self.upgrade(image, "")?;
        self.rolled_out()
    }

    /// Does something while the chart's release has these values besides (`name=value`, with commas between), and then takes
    /// them back, whatever came of it.
    pub fn with_values<T>(&self, values: &str, told: impl FnOnce() -> Result<T>) -> Result<T> {
        let told =
            self.upgrade(HOLDFAST_IMAGE, values).and_then(|()| self.rolled_out()).and_then(|()| told());
        let back = self.upgrade(HOLDFAST_IMAGE, "").and_then(|()| self.rolled_out());
        // What went wrong first is what to look at.
        told.and_then(|told| back.map(|()| told))
    }

    /// Names the loaded image of Holdfast [`OTHER_IMAGE`] on all nodes.
    pub fn name_other_image(&self) -> Result<()> {
        for node in &self.testbed()?.env().nodes {
            self.ctr(&node.name, &["images", "tag", "--local", "--force", HOLDFAST_IMAGE, OTHER_IMAGE])?;
        }
        Ok(())
    }

    /// Installs or upgrades the chart's release with this image, and with these values besides.
    fn upgrade(&self, image: &str, values: &str) -> Result<()> {
        let testbed = self.testbed()?;
        let (repository, tag) = image.rsplit_once(':').unwrap_or((image, "dev"));
        let chart = repository_root().join("deploy/helm/holdfast");
        // The second S3 server, of the same authority as the first, is where tokens may go.
        let ca = self.ca_path.display();
        let web_identity = [
            "webIdentity.enabled=true".to_owned(),
            format!("webIdentity.services[0].host={SECOND_S3}"),
            format!("webIdentity.services[0].audience={WEB_IDENTITY_AUDIENCE}"),
        ];
        run(
            testbed.helm().args(["upgrade", "--install", "holdfast"]).arg(&chart).args([
                "--namespace",
                OPERATOR_NAMESPACE,
                "--create-namespace",
                "--set",
                &format!("clusterName={CLUSTER_NAME},image.repository={repository},image.tag={tag},image.pullPolicy=IfNotPresent"),
                "--set",
                &web_identity.join(","),
                "--set",
                values,
                "--set-file",
                &format!("webIdentity.caBundle={ca}"),
            ]),
            b"",
        )
        .map(drop)
        .map_err(|e| Failure(format!("helm upgrade --install: {e}")))
    }

    /// Waits until the operator's new pods are there and the old ones gone.
    fn rolled_out(&self) -> Result<()> {
        let kubectl = self.kubectl();
        kubectl.run(&[
            "-n",
            OPERATOR_NAMESPACE,
            "rollout",
            "status",
            "deployment",
            &format!("--timeout={}s", INSTALL.as_secs()),
        ])?;
        kubectl.until_true("only the new operator's pod is left", INSTALL, || {
            Ok(kubectl.list(OPERATOR_NAMESPACE, &["pods"])?.len() == 1)
        })
    }

    /// `kubectl` as the cluster's administrator.
    pub fn kubectl(&self) -> Kubectl {
        match &self.cluster {
            Cluster::Bed(testbed) => {
                Kubectl::new(testbed.env().bin.join("kubectl"), testbed.env().kubeconfig.clone())
            }
            Cluster::Current(current) => current.kubectl(),
        }
    }

    /// `holdfast` as the cluster's administrator.
    pub fn holdfast(&self) -> Result<Holdfast> {
        Ok(match &self.cluster {
            Cluster::Bed(testbed) => Holdfast::new(binary()?, testbed.env().kubeconfig.clone()),
            Cluster::Current(current) => current.holdfast(binary()?),
        })
    }

    /// How to look around in the cluster after a demo.
    pub fn hint(&self) -> String {
        match &self.cluster {
            Cluster::Bed(testbed) => format!("export KUBECONFIG={}", testbed.env().kubeconfig.display()),
            Cluster::Current(current) => format!("kubectl config use-context {}", current.context),
        }
    }

    /// Makes a bucket.
    pub fn make_bucket(&self, name: &str) -> Result<()> {
        self.testbed()?.s3().create_bucket(name).map_err(bed_failure)
    }

    /// The S3 server by its name, for pods alone, and the one bucket that may stand before that.
    pub fn s3_by_name(&self) -> Result<(String, &'static str)> {
        Ok((self.testbed()?.env().s3.endpoint_by_name.clone(), NAMED_BUCKET))
    }

    /// Where the S3 server keeps a bucket's objects on this machine's disk.
    pub fn bucket_directory(&self, bucket: &str) -> Result<PathBuf> {
        Ok(self.testbed()?.s3().bucket_path(bucket))
    }

    /// Stores an object.
    pub fn put_object(&self, bucket: &str, key: &str, body: &[u8]) -> Result<()> {
        let file = std::env::temp_dir().join(format!("holdfast-object-{}-{bucket}", std::process::id()));
        std::fs::write(&file, body).map_err(|e| Failure(format!("cannot write {}: {e}", file.display())))?;
        let done = self.testbed()?.s3().put_object(bucket, key, &file).map_err(bed_failure);
        let _ = std::fs::remove_file(&file);
        done
    }

    /// Stops the S3 server, for everybody.
    pub fn stop_s3(&self) -> Result<()> {
        self.testbed()?.s3().stop().map_err(bed_failure)
    }

    /// Starts it again.
    pub fn start_s3(&self) -> Result<()> {
        self.testbed()?.s3().start().map_err(bed_failure)
    }

    /// Starts the second S3 server, which hands out temporary keys as the first does not, and makes a bucket in it.
    pub fn second_s3(&self, bucket: &str) -> Result<S3Env> {
        let minio = self.testbed()?.minio();
        minio.start(&Progress::new()).map_err(bed_failure)?;
        minio.create_bucket(bucket).map_err(bed_failure)?;
        minio.env().map_err(bed_failure)
    }

    /// Makes an account of the second S3 server that may do all with one bucket; it has to be started already.
    pub fn second_s3_account(&self, key: &str, secret: &str, bucket: &str) -> Result<()> {
        self.second_s3_account_may(key, secret, bucket, &["s3:*"])
    }

    /// The same, of an account that may do only this (`s3:GetObject`); one that is there already may do nothing else from now
    /// on.
    pub fn second_s3_account_may(
        &self,
        key: &str,
        secret: &str,
        bucket: &str,
        actions: &[&str],
    ) -> Result<()> {
        let policy = serde_json::json!({"Version": "2012-10-17", "Statement": [{
            "Effect": "Allow",
            "Action": actions,
            "Resource": [format!("arn:aws:s3:::{bucket}"), format!("arn:aws:s3:::{bucket}/*")],
        }]});
        self.testbed()?.minio().create_user(key, secret, &policy.to_string()).map_err(bed_failure)
    }

    /// Gives a bucket of the second S3 server a lifecycle rule, `month`, that deletes all its objects after 30 days.
    pub fn second_s3_rule(&self, bucket: &str) -> Result<()> {
        let (rule, digest) = RULE;
        let header = format!("Content-MD5: {digest}");
        let more = ["--header", &header, "--data-binary", rule].map(Path::new);
        self.second_s3_lifecycle("PUT", bucket, &more)
    }

    /// Takes all lifecycle rules of a bucket of the second S3 server away.
    pub fn second_s3_no_rule(&self, bucket: &str) -> Result<()> {
        self.second_s3_lifecycle("DELETE", bucket, &[])
    }

    fn second_s3_lifecycle(&self, method: &str, bucket: &str, more: &[&Path]) -> Result<()> {
        let S3Env { endpoint, region, access_key, secret_key, ca_file, .. } =
            &self.testbed()?.minio().env().map_err(bed_failure)?;
        let signer = Signer { endpoint, region, access_key, secret_key, ca_file: Some(ca_file) };
        signer.request(method, &format!("{bucket}/?lifecycle="), more).map(drop).map_err(bed_failure)
    }

    /// Lets who comes to the second S3 server with a token of this ServiceAccount do all with one bucket.
    pub fn second_s3_web_identity(&self, namespace: &str, account: &str, bucket: &str) -> Result<()> {
        let policy = serde_json::json!({"Version": "2012-10-17", "Statement": [{
            "Effect": "Allow",
            "Action": ["s3:*"],
            "Resource": [format!("arn:aws:s3:::{bucket}"), format!("arn:aws:s3:::{bucket}/*")],
            "Condition": {"StringEquals": {"jwt:sub": format!("system:serviceaccount:{namespace}:{account}")}},
        }]});
        self.testbed()?.minio().set_web_identity_policy(&policy.to_string()).map_err(bed_failure)
    }

    /// The unpacked stock restic of a version.
    pub fn restic(&self, version: &str) -> Result<PathBuf> {
        holdfast_testbed::restic(self.testbed()?.layout(), version).map(|r| r.program).map_err(bed_failure)
    }

    /// The directory of the test bed's programs.
    pub fn programs(&self) -> Result<PathBuf> {
        Ok(self.testbed()?.env().bin.clone())
    }

    /// A node's file system, seen from this machine.
    pub fn node_root(&self, node: &str) -> Result<PathBuf> {
        let found = self.testbed()?.env().nodes.iter().find(|n| n.name == node);
        let node = found.ok_or_else(|| Failure(format!("there is no node {node:?}")))?;
        Ok(format!("/proc/{}/root", node.init_pid).into())
    }

    /// Kills a daemon of the bed (`n2-kubelet`, `n1-apiserver`) and starts it again after a while.
    pub fn restart_daemon(&self, name: &str, pause: Duration) -> Result<()> {
        self.testbed()?.restart_daemon(name, pause).map_err(bed_failure)
    }

    /// Does something while a node is dead: its kubelet and all its containers were killed, as if it lost its power. Then the
    /// node is started again, whatever came of it, and takes pods and volumes as before when this returns.
    pub fn while_dead<T>(&self, node: &str, told: impl FnOnce() -> Result<T>) -> Result<T> {
        let kubelet = self.testbed()?.halt_daemon(&format!("{node}-kubelet")).map_err(bed_failure)?;
        let told = self.kill_containers(node).and_then(|()| told());
        let started = kubelet.start().map_err(bed_failure);
        // It stands there only if nobody came to delete the Node object.
        let _ = self.kubectl().run(&["taint", "node", node, "node.kubernetes.io/out-of-service-"]);
        let back = self.kubectl().until_true("the node with its drivers", INSTALL, || {
            let Some(found) = self.kubectl().find("default", "node", node)? else { return Ok(false) };
            let drivers = self.kubectl().find("default", "csinode", node)?.unwrap_or_default();
            let ready = condition(&found, "Ready").is_some_and(|(status, ..)| status == "True");
            let all = drivers["spec"]["drivers"].as_array().is_some_and(|drivers| drivers.len() == DRIVERS);
            Ok(ready && all && found["spec"]["taints"].is_null())
        });
        // What went wrong first is what to look at.
        told.and_then(|told| started.and(back).map(|()| told))
    }

    fn kill_containers(&self, node: &str) -> Result<()> {
        let containers = self.ctr_says(node, &["tasks", "ls", "--quiet"])?;
        for id in containers.split_whitespace() {
            // One may have ended meanwhile, with its pod.
            let _ = self.ctr(node, &["tasks", "kill", "-s", "SIGKILL", id]);
        }
        Ok(())
    }

    /// Kills a pod's first container with SIGKILL, as the kernel's out-of-memory killer does.
    pub fn kill_container(&self, pod: &Value) -> Result<()> {
        self.signal_container(pod, "SIGKILL")
    }

    /// Sends a signal to a pod's first container: SIGSTOP holds it where it is until SIGCONT.
    pub fn signal_container(&self, pod: &Value, signal: &str) -> Result<()> {
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default();
        let id =
            id.strip_prefix("containerd://").ok_or_else(|| Failure(format!("no container id: {id:?}")))?;
        self.ctr(node, &["tasks", "kill", "-s", signal, id])
    }

    /// Runs containerd's own client on a node, with what Kubernetes has there.
    fn ctr(&self, node: &str, args: &[&str]) -> Result<()> {
        self.ctr_says(node, args).map(drop)
    }

    /// The same; what it said.
    fn ctr_says(&self, node: &str, args: &[&str]) -> Result<String> {
        let ctr = self.testbed()?.env().bin.join("ctr");
        let mut command: Command =
            self.testbed()?.node_command(node, &ctr.to_string_lossy()).map_err(bed_failure)?;
        command.args(["-a", "/run/containerd/containerd.sock", "-n", "k8s.io"]).args(args);
        run(&mut command, b"").map(|said| String::from_utf8_lossy(&said).into_owned())
    }
}

/// Brings the applications' images and Holdfast's to the nodes of a test bed; the name of Holdfast's.
pub fn load_images(testbed: &Testbed, progress: &Progress) -> Result<&'static str> {
    let images = [TOOLS_IMAGE, POSTGRES_IMAGE]
        .iter()
        .map(|name| archive(testbed.layout(), short(name), progress).map_err(bed_failure))
        .collect::<Result<Vec<_>>>()?;
    testbed.load_images(&images).map_err(bed_failure)?;
    testbed.load_holdfast(&binary()?).map_err(bed_failure)
}

/// `tools` of `testbed.local/tools:1`.
fn short(image: &str) -> &str {
    image.rsplit('/').next().unwrap_or(image).split(':').next().unwrap_or(image)
}

/// The project's root.
pub fn repository_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// The `holdfast` binary that the image is made of: `HOLDFAST_BINARY`, else the release build of this tree.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("HOLDFAST_BINARY") {
        return Ok(path.into());
    }
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository_root().join("target"), PathBuf::from);
    let path = target.join("release/holdfast");
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure(format!(
        "{} is not there: run `cargo build --release -p holdfast`, or `make test`",
        path.display()
    )))
}
