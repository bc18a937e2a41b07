//! Applications that hold data: a pod with files and PostgreSQL, as a user would deploy them.

use std::sync::OnceLock;
use std::time::Duration;

use holdfast_testbed::{POSTGRES_IMAGE, TOOLS_IMAGE};

use crate::current::Current;
use crate::kubectl::{Failure, Kubectl, Result};

/// What a cluster's images and classes are called.
struct Names {
    tools: String,
    postgres: String,
    class: String,
}

fn names() -> &'static Names {
    static NAMES: OnceLock<Names> = OnceLock::new();
    NAMES.get_or_init(|| {
        let of_bed =
            Names { tools: TOOLS_IMAGE.into(), postgres: POSTGRES_IMAGE.into(), class: String::new() };
        if !Current::wanted() {
            return of_bed;
        }
        // Who misses one of them has been told by `Current::from_env`.
        let named = |name: &str, otherwise: String| {
            std::env::var(name).ok().filter(|v| !v.is_empty()).unwrap_or(otherwise)
        };
        Names {
            tools: named("TOOLS_IMAGE", of_bed.tools),
            postgres: named("POSTGRES_IMAGE", of_bed.postgres),
            class: named("STORAGE_CLASS", of_bed.class),
        }
    })
}

/// The image with a shell, coreutils and findutils: the test bed's small one, or what somebody named for their cluster.
pub fn tools() -> &'static str {
    &names().tools
}

/// The PostgreSQL image, as [`tools`].
fn postgres_image() -> &'static str {
    &names().postgres
}

/// How long a pod may take to start on a busy two-core machine.
pub const START: Duration = Duration::from_mins(3);

/// A claim of the given class; when empty, of the class that somebody named for their cluster, or the cluster's default.
pub fn claim(name: &str, class: &str, size: &str) -> String {
    let class = if class.is_empty() { &names().class } else { class };
    let class = if class.is_empty() { String::new() } else { format!("  storageClassName: {class}\n") };
    format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec:\n{class}  accessModes: [ReadWriteOnce]\n  resources: {{requests: {{storage: {size}}}}}\n---\n"
    )
}

/// Options of [`keeper`].
#[derive(Debug, Clone)]
pub struct Keeper<'a> {
    /// Kind of the workload: `Deployment`, `StatefulSet`, `ReplicaSet`, `Pod`.
    pub kind: &'a str,
    /// Name of workload and label `app`.
    pub name: &'a str,
    /// Claim mounted at `/store`.
    pub claim: &'a str,
    /// Replicas.
    pub replicas: u32,
    /// Node that it must run on; any when empty.
    pub node: &'a str,
    /// User that it runs as.
    pub user: u32,
    /// Image with a shell.
    pub image: &'a str,
}

impl<'a> Keeper<'a> {
    /// One replica of a Deployment, as root, anywhere.
    pub fn deployment(name: &'a str, claim: &'a str) -> Self {
        Self { kind: "Deployment", name, claim, replicas: 1, node: "", user: 0, image: tools() }
    }
}

/// A workload that mounts a claim at `/store` and waits.
pub fn keeper(k: &Keeper<'_>) -> String {
    let Keeper { kind, name, claim, replicas, node, user, image } = k;
    let node = if node.is_empty() {
        String::new()
    } else {
        format!("nodeSelector: {{kubernetes.io/hostname: {node}}}, ")
    };
    let pod = format!(
        "{{{node}terminationGracePeriodSeconds: 1, securityContext: {{runAsUser: {user}, runAsGroup: {user}}}, containers: [{{name: app, image: '{image}', command: [sh, -c, 'trap \"exit 0\" TERM; while :; do sleep 1; done'], volumeMounts: [{{name: store, mountPath: /store}}]}}], volumes: [{{name: store, persistentVolumeClaim: {{claimName: {claim}}}}}]}}"
    );
    if *kind == "Pod" {
        return format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec: {pod}\n---\n"
        );
    }
    let service = if *kind == "StatefulSet" { format!("  serviceName: {name}\n") } else { String::new() };
    format!(
        "apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{service}  replicas: {replicas}\n  selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec: {pod}\n---\n"
    )
}

/// A one-replica PostgreSQL with its data on the claim. Of an image that takes the variables of the official one in a
/// directory below: a volume with a file system of its own is not empty when it is new.
pub fn postgres(name: &str, claim: &str) -> String {
    let image = postgres_image();
    let data =
        if image == POSTGRES_IMAGE { "" } else { ", {name: PGDATA, value: /var/lib/postgresql/data/pgdata}" };
    format!(
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: {name}}}\nspec:\n  serviceName: {name}\n  replicas: 1\n  selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      containers:\n      - name: postgres\n        image: '{image}'\n        env: [{{name: POSTGRES_PASSWORD, value: demo}}, {{name: POSTGRES_DB, value: shop}}, {{name: PGPASSWORD, value: demo}}{data}]\n        readinessProbe: {{exec: {{command: [pg_isready, -h, 127.0.0.1, -U, postgres]}}, periodSeconds: 1}}\n        volumeMounts: [{{name: data, mountPath: /var/lib/postgresql/data}}]\n      volumes: [{{name: data, persistentVolumeClaim: {{claimName: {claim}}}}}]\n---\n"
    )
}

/// Runs SQL in the PostgreSQL pod; the plain rows. By TCP: a server that an image starts for its first set-up listens on
/// a socket only, and is not to be taken for the real one.
pub fn sql(kubectl: &Kubectl, namespace: &str, pod: &str, statement: &str) -> Result<String> {
    kubectl.run(&[
        "-n",
        namespace,
        "exec",
        pod,
        "--",
        "psql",
        "-h",
        "127.0.0.1",
        "-U",
        "postgres",
        "-d",
        "shop",
        "-v",
        "ON_ERROR_STOP=1",
        "-qAt",
        "-c",
        statement,
    ])
}

/// Waits until a pod with the label `app=NAME` is ready; its name.
pub fn ready_pod(kubectl: &Kubectl, namespace: &str, app: &str) -> Result<String> {
    let selector = format!("app={app}");
    let mut found = None;
    kubectl.until_true(&format!("a ready pod of {app} in {namespace}"), START, || {
        found = kubectl.list(namespace, &["pods", "-l", &selector])?.into_iter().find_map(|pod| {
            let ready = pod["metadata"]["deletionTimestamp"].is_null()
                && pod["status"]["conditions"]
                    .as_array()
                    .is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
            ready.then(|| pod["metadata"]["name"].as_str().map(str::to_owned)).flatten()
        });
        Ok(found.is_some())
    })?;
    found.ok_or_else(|| Failure(format!("no pod of {app}")))
}

/// Waits until no pod with the label `app=NAME` is left.
pub fn gone(kubectl: &Kubectl, namespace: &str, app: &str) -> Result<()> {
    let selector = format!("app={app}");
    kubectl.until_true(&format!("no pod of {app} in {namespace}"), START, || {
        Ok(kubectl.list(namespace, &["pods", "-l", &selector])?.is_empty())
    })
}
