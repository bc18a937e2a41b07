//! A story: a namespace, a bucket and a storage of its own, and what is printed when it fails.

use std::io::{Write as _, stderr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::install::{Bed, bed};
use crate::kubectl::{Failure, Kubectl, Result, phase, run};
use crate::tree::fill_script;
use crate::workload::{self, Keeper};

/// How long a run may take on a busy two-core machine before a story calls it stuck.
pub const RUN: Duration = Duration::from_mins(4);

/// Phases in which a Backup or Restore has come to its end.
pub const ENDED: [&str; 6] = ["Succeeded", "PartiallyFailed", "Failed", "Skipped", "Planned", "Cancelled"];

/// One story. Its namespace and bucket are removed when it ends well and kept for a look when it does not.
pub struct Story {
    /// The test bed.
    pub bed: &'static Bed,
    /// The cluster.
    pub kubectl: Kubectl,
    /// Namespace of this story alone.
    pub namespace: String,
    /// Bucket of this story alone; on somebody's cluster theirs, of which it has the part below [`Story::prefix`].
    pub bucket: String,
    extra_namespaces: Vec<String>,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A name that no other story of this machine uses.
fn unique(base: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("{base}-{:05x}{number}", now % 0xf_ffff)
}

impl Story {
    /// Makes namespace and bucket; no storage yet.
    pub fn bare(name: &str) -> Result<Self> {
        let bed = bed()?;
        let namespace = match bed.current() {
            None => unique(name),
            Some(current) => unique(&format!("{name}-{}", current.suffix)),
        };
        let kubectl = bed.kubectl();
        bed.make_namespace(&namespace)?;
        kubectl.until(&namespace, "serviceaccount", "default", RUN, |_| Some(()))?;
        let bucket = match bed.current() {
            None => {
                bed.make_bucket(&namespace)?;
                namespace.clone()
            }
            Some(current) => current.place.bucket.clone(),
        };
        Ok(Self { bed, kubectl, bucket, namespace, extra_namespaces: Vec::new() })
    }

    /// The part of somebody's bucket that this story has for itself; none where the whole bucket is its own.
    fn prefix(&self) -> Option<String> {
        self.bed.current().map(|current| format!("{}/{}", current.place.prefix, self.namespace))
    }

    /// A node that pods which share a volume can be put on, by its label `kubernetes.io/hostname`.
    pub fn one_node(&self) -> Result<String> {
        if self.bed.current().is_none() {
            return Ok("n1".into());
        }
        let nodes = self.kubectl.list("default", &["nodes"])?;
        let takes_pods = |node: &&Value| {
            let tainted = node["spec"]["taints"].as_array().is_some_and(|all| !all.is_empty());
            !tainted && node["spec"]["unschedulable"] != true
        };
        nodes
            .iter()
            .find(takes_pods)
            .and_then(|node| node["metadata"]["labels"]["kubernetes.io/hostname"].as_str())
            .map(str::to_owned)
            .ok_or_else(|| Failure("no node takes pods without tolerations".into()))
    }

    /// Versions of stock restic that can look at the bucket, for [`Story::restic`]: three with the test bed; elsewhere the
    /// one in `PATH`, if any.
    pub fn restics(&self) -> &'static [&'static str] {
        match self.bed.current() {
            None => &["0.14.0", "0.18.0", "0.19.1"],
            Some(_) if Command::new("restic").arg("version").output().is_ok() => &["of yours"],
            Some(_) => &[],
        }
    }

    /// Makes namespace, bucket, and a default BackupStorage `store` that is Ready; root runners are allowed.
    pub fn begin(name: &str) -> Result<Self> {
        let story = Self::bare(name)?;
        story.allow_root()?;
        story.apply(&story.storage_yaml("store"))?;
        story.storage_ready("store")?;
        Ok(story)
    }

    /// Lets runners be root in the story's namespace, as an administrator does.
    pub fn allow_root(&self) -> Result<()> {
        let namespace = format!("namespace/{}", self.namespace);
        self.kubectl.run(&["annotate", &namespace, "holdfast.dev/allow-root-runner=true"]).map(drop)
    }

    /// The YAML of a storage in the story's bucket with its Secret and CA.
    pub fn storage_yaml(&self, name: &str) -> String {
        let ca = Some(self.bed.ca_pem.as_str()).filter(|pem| !pem.is_empty());
        self.storage_with(name, &self.bucket, &self.bed.access_key, &self.bed.secret_key, ca)
    }

    /// The YAML of a storage with its Secret and, when given, its CA in a ConfigMap.
    pub fn storage_with(
        &self,
        name: &str,
        bucket: &str,
        key: &str,
        secret: &str,
        ca: Option<&str>,
    ) -> String {
        use std::fmt::Write as _;
        let mut yaml = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}-s3}}\nstringData: {{AWS_ACCESS_KEY_ID: '{key}', AWS_SECRET_ACCESS_KEY: '{secret}'}}\n---\n"
        );
        let mut reference = "";
        if let Some(pem) = ca {
            let body = pem.lines().map(|l| format!("    {l}")).collect::<Vec<_>>().join("\n");
            let _ = write!(
                yaml,
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}-ca}}\ndata:\n  ca.crt: |\n{body}\n---\n"
            );
            reference = "\n      caBundleRef: {kind: ConfigMap, name: NAME-ca}";
        }
        let reference = reference.replace("NAME", name);
        let endpoint = &self.bed.s3_endpoint;
        // On somebody's cluster a story has a part of somebody's bucket.
        let part = self.bed.current().zip(self.prefix()).map_or(String::new(), |(current, prefix)| {
            format!("      prefix: {prefix}\n      region: {}\n", current.place.region)
        });
        let _ = write!(
            yaml,
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}-recovery}}\nstringData: {{password: 'recovery of {bucket}'}}\n---\napiVersion: holdfast.dev/v1alpha1\nkind: BackupStorage\nmetadata: {{name: {name}}}\nspec:\n  default: true\n  backend:\n    s3:\n      endpoint: {endpoint}\n      bucket: {bucket}\n{part}      credentialsSecretRef: {{name: {name}-s3}}{reference}\n  recoveryPasswordSecretRef: {{name: {name}-recovery}}\n"
        );
        yaml
    }

    /// Waits until a storage is Ready.
    pub fn storage_ready(&self, name: &str) -> Result<Value> {
        self.until("backupstorage", name, |o| (phase(o) == "Ready").then(|| o.clone()))
    }

    /// Makes another namespace that goes with the story.
    pub fn another_namespace(&mut self, suffix: &str) -> Result<String> {
        let name = format!("{}-{suffix}", self.namespace);
        self.bed.make_namespace(&name)?;
        self.kubectl.until(&name, "serviceaccount", "default", RUN, |_| Some(()))?;
        self.extra_namespaces.push(name.clone());
        Ok(name)
    }

    /// Makes many more namespaces at once, in which runners may be root; they go with the story.
    pub fn many_namespaces(&mut self, count: usize) -> Result<Vec<String>> {
        let names: Vec<String> = (0..count).map(|n| format!("{}-n{n:03}", self.namespace)).collect();
        let allowed = "annotations: {holdfast.dev/allow-root-runner: 'true'}";
        let documents: Vec<_> = names
            .iter()
            .map(|name| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, {allowed}}}\n"))
            .collect();
        self.extra_namespaces.extend(names.iter().cloned());
        self.kubectl.apply(&documents.join("---\n"))?;
        self.kubectl.until_true("a ServiceAccount in each namespace", RUN, || {
            let there = self.kubectl.list(
                &self.namespace,
                &["serviceaccounts", "--all-namespaces", "--field-selector=metadata.name=default"],
            )?;
            let has = |name: &String| {
                there.iter().any(|account| account["metadata"]["namespace"].as_str() == Some(name))
            };
            Ok(names.iter().all(has))
        })?;
        Ok(names)
    }

    /// Applies YAML in the story's namespace.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        self.apply_in(&self.namespace, yaml)
    }

    /// Applies YAML in a namespace.
    pub fn apply_in(&self, namespace: &str, yaml: &str) -> Result<()> {
        self.kubectl
            .run_with(&["-n", namespace, "apply", "--validate=strict", "-f", "-"], yaml.as_bytes())
            .map(drop)
            .map_err(|e| Failure(format!("{e}\nof:\n{yaml}")))
    }

    /// Merges JSON into an object of the story's namespace.
    pub fn patch(&self, kind: &str, name: &str, patch: &str) -> Result<()> {
        let args = ["-n", &self.namespace, "patch", kind, name, "--type=merge", "-p", patch];
        self.kubectl.run(&args).map(drop)
    }

    /// Waits for something about an object of the story's namespace.
    pub fn until<T>(&self, kind: &str, name: &str, done: impl Fn(&Value) -> Option<T>) -> Result<T> {
        self.kubectl.until(&self.namespace, kind, name, RUN, done)
    }

    /// Waits until a Deployment of one replica has it again, and no run holds it.
    pub fn scaled_back(&self, deployment: &str) -> Result<()> {
        self.until("deployment", deployment, |o| {
            (o["spec"]["replicas"] == 1 && o["metadata"]["annotations"]["holdfast.dev/quiesce"].is_null())
                .then_some(())
        })
    }

    /// Creates a Backup with this spec (YAML flow, `{}` for the default) without waiting.
    pub fn start_backup(&self, name: &str, spec: &str) -> Result<()> {
        self.apply(&format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Backup\nmetadata: {{name: {name}}}\nspec: {spec}\n"
        ))
    }

    /// Creates a Restore with this spec (YAML flow) without waiting.
    pub fn start_restore(&self, name: &str, spec: &str) -> Result<()> {
        self.apply(&format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Restore\nmetadata: {{name: {name}}}\nspec: {spec}\n"
        ))
    }

    /// Waits until a Backup or Restore has ended; the object.
    pub fn ended(&self, kind: &str, name: &str) -> Result<Value> {
        self.until(kind, name, |o| ENDED.contains(&phase(o)).then(|| o.clone()))
    }

    /// Creates a Backup and waits for its end, which must be in `expected`.
    pub fn backup(&self, name: &str, spec: &str, expected: &str) -> Result<Value> {
        self.start_backup(name, spec)?;
        self.expect_end("backup", name, expected)
    }

    /// Creates a Restore and waits for its end, which must be in `expected`.
    pub fn restore(&self, name: &str, spec: &str, expected: &str) -> Result<Value> {
        self.start_restore(name, spec)?;
        self.expect_end("restore", name, expected)
    }

    /// Waits for the end of a run, which must be the expected phase.
    pub fn expect_end(&self, kind: &str, name: &str, expected: &str) -> Result<Value> {
        let object = self.ended(kind, name)?;
        if phase(&object) == expected {
            return Ok(object);
        }
        Err(Failure(format!(
            "{kind} {name} ended {}, not {expected}: {}",
            phase(&object),
            serde_json::to_string_pretty(&object["status"]).unwrap_or_default()
        )))
    }

    /// An application, `app`, whose claim `data` has a file; its pod.
    pub fn app_with_a_file(&self) -> Result<String> {
        self.apply(&format!(
            "{}{}",
            workload::claim("data", "", "1Gi"),
            workload::keeper(&Keeper::deployment("app", "data"))
        ))?;
        let pod = workload::ready_pod(&self.kubectl, &self.namespace, "app")?;
        self.shell(&pod, "echo precious > /store/file")?;
        Ok(pod)
    }

    /// Takes the file away; a Restore, `back`, must bring it again.
    pub fn the_file_comes_back(&self, pod: &str, restore: &str) -> Result<()> {
        self.shell(pod, "rm /store/file")?;
        self.restore("back", restore, "Succeeded")?;
        let pod = workload::ready_pod(&self.kubectl, &self.namespace, "app")?;
        match self.shell(&pod, "cat /store/file")?.trim() {
            "precious" => Ok(()),
            other => Err(Failure(format!("the file is not back: {other:?}"))),
        }
    }

    /// Name of the Snapshot that a Backup made.
    pub fn snapshot_of(backup: &Value) -> Result<String> {
        backup["status"]["snapshotRef"]["name"]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| Failure(format!("the Backup names no Snapshot: {}", backup["status"])))
    }

    /// Runs a shell script in a pod of the story.
    pub fn shell(&self, pod: &str, script: &str) -> Result<String> {
        self.kubectl.shell(&self.namespace, pod, script)
    }

    /// Fills `/store` in a pod with so many small files and one of each odd thing ([`crate::tree`]). Whether extended
    /// attributes are among them: an image of somebody's may not be able to set them.
    pub fn fill(&self, pod: &str, files: u32) -> Result<bool> {
        let can = self.bed.current().is_none()
            || self.shell(pod, "for t in setfattr getfattr; do command -v $t; done | wc -l")?.trim() == "2";
        let without = if can { "" } else { "setfattr() { :; }\n" };
        self.shell(pod, &format!("cd /store\n{without}{}", fill_script(files))).map(|_| can)
    }

    /// The story's repositories as directories on the S3 server's disk.
    pub fn repositories_on_disk(&self) -> Vec<PathBuf> {
        fn walk(dir: &std::path::Path, found: &mut Vec<PathBuf>, depth: u32) {
            if dir.join("config").is_file() && dir.join("keys").is_dir() {
                found.push(dir.to_owned());
            } else if depth > 0 {
                for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                    walk(&entry.path(), found, depth - 1);
                }
            }
        }
        let mut found = Vec::new();
        if let Ok(root) = self.bed.bucket_directory(&self.bucket) {
            walk(&root, &mut found, 5);
        }
        found
    }

    /// The story's only repository, by its directory in the storage: below the bucket, or below the part of it that the
    /// story has.
    pub fn repository_directory(&self) -> Result<String> {
        if let Some((current, prefix)) = self.bed.current().zip(self.prefix()) {
            let objects = current.place.objects_below(&prefix)?;
            let below = |key: &str| {
                key.strip_prefix(&prefix)?.strip_prefix('/')?.strip_suffix("/config").map(str::to_owned)
            };
            let found: Vec<_> = objects.iter().filter_map(|object| below(&object.key)).collect();
            return match found.as_slice() {
                [one] => Ok(one.clone()),
                _ => Err(Failure(format!("{} repositories in the bucket, not one: {found:?}", found.len()))),
            };
        }
        let root = self.bed.bucket_directory(&self.bucket)?;
        let found = self.repositories_on_disk();
        match found.as_slice() {
            [one] => Ok(one.strip_prefix(&root).unwrap_or(one).to_string_lossy().into_owned()),
            _ => Err(Failure(format!("{} repositories in the bucket, not one: {found:?}", found.len()))),
        }
    }

    /// Names of the lock files in all repositories of the story.
    pub fn locks(&self) -> Result<Vec<String>> {
        if let Some(current) = self.bed.current() {
            let objects = current.place.objects_below(&self.prefix().unwrap_or_default())?;
            return Ok(objects.into_iter().map(|o| o.key).filter(|key| key.contains("/locks/")).collect());
        }
        Ok(self
            .repositories_on_disk()
            .iter()
            .flat_map(|repository| {
                std::fs::read_dir(repository.join("locks")).into_iter().flatten().flatten()
            })
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.len() == 64)
            .collect())
    }

    /// The password of the story's only repository, as an administrator finds it in the storage's namespace.
    pub fn repository_password(&self) -> Result<String> {
        let secrets = self.kubectl.list(&self.namespace, &["secrets"])?;
        let secret = secrets
            .iter()
            .find(|s| s["metadata"]["name"].as_str().is_some_and(|n| n.starts_with("holdfast-repo-")))
            .ok_or_else(|| Failure("there is no Secret holdfast-repo-…".into()))?;
        let name = secret["metadata"]["name"].as_str().unwrap_or_default();
        self.kubectl.run(&[
            "-n",
            &self.namespace,
            "get",
            "secret",
            name,
            "-o",
            "go-template={{.data.password | base64decode}}",
        ])
    }

    /// Runs stock restic on the story's repository.
    pub fn restic(&self, version: &str, args: &[&str]) -> Result<String> {
        let part = self.prefix().map_or(String::new(), |prefix| prefix + "/");
        let directory = self.repository_directory()?;
        let mut restic = self.restic_at(version, &format!("{part}{directory}"))?;
        let out = run(
            restic.arg("--no-cache").args(args).env("RESTIC_PASSWORD", self.repository_password()?),
            b"",
        )?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }

    /// Stock restic with the storage's keys on a directory of the bucket, to which command, arguments and password are to
    /// be added.
    pub fn restic_at(&self, version: &str, directory: &str) -> Result<Command> {
        let repository = format!("s3:{}/{}/{directory}", self.bed.s3_endpoint, self.bucket);
        let (program, region) = match self.bed.current() {
            None => (self.bed.restic(version)?, "us-east-1"),
            // Theirs, whatever its version.
            Some(current) => ("restic".into(), current.place.region.as_str()),
        };
        let mut restic = Command::new(program);
        if !self.bed.ca_pem.is_empty() {
            restic.arg("--cacert").arg(&self.bed.ca_path);
        }
        restic
            .args(["-r", &repository])
            .env("AWS_ACCESS_KEY_ID", &self.bed.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &self.bed.secret_key)
            .env("AWS_DEFAULT_REGION", region);
        Ok(restic)
    }

    /// What a run must never leave: locks, run Secrets, Jobs that still run, runner pods, quiesce records.
    pub fn nothing_left(&self) -> Result<()> {
        self.kubectl
            .until_true("no lock, run Secret, live runner pod or quiesce record left", RUN, || {
                Ok(self.leftovers()?.is_empty())
            })
            .map_err(|e| Failure(format!("{e}: {:?}", self.leftovers())))
    }

    fn leftovers(&self) -> Result<Vec<String>> {
        let mut left: Vec<String> = self.locks()?.iter().map(|l| format!("lock {l}")).collect();
        let name = |o: &Value| o["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        for namespace in self.extra_namespaces.iter().chain([&self.namespace]) {
            for secret in self.kubectl.list(namespace, &["secrets", "-l", "holdfast.dev/run-uid"])? {
                left.push(format!("secret {}", name(&secret)));
            }
            for pod in self.kubectl.list(namespace, &["pods", "-l", "holdfast.dev/run-uid"])? {
                if !matches!(phase(&pod), "Succeeded" | "Failed") {
                    left.push(format!("pod {} {}", name(&pod), phase(&pod)));
                }
            }
            for workload in self.kubectl.list(namespace, &["deployments,statefulsets,replicasets"])? {
                if workload["metadata"]["annotations"].get("holdfast.dev/quiesce").is_some() {
                    left.push(format!("quiesce record on {}", name(&workload)));
                }
            }
        }
        Ok(left)
    }

    /// Kills the operator's pods as a crash does: no warning, no clean-up.
    pub fn kill_operator(&self) -> Result<()> {
        self.kubectl
            .run(&[
                "-n",
                self.bed.operator_namespace(),
                "delete",
                "pod",
                "-l",
                "app.kubernetes.io/component=operator",
                "--force",
                "--grace-period=0",
            ])
            .map(drop)
    }

    /// What the operator that works tells a scraper.
    pub fn metrics(&self) -> Result<String> {
        let namespace = self.bed.operator_namespace();
        let lease = self.kubectl.get(namespace, &["lease", "holdfast-operator"])?;
        let pod = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        self.kubectl.run(&[
            "get",
            "--raw",
            &format!("/api/v1/namespaces/{namespace}/pods/{pod}:8080/proxy/metrics"),
        ])
    }

    /// Prints what a person needs to understand a failure.
    pub fn dump(&self) {
        let show = |title: &str, args: &[&str]| {
            let text = self.kubectl.run(args).unwrap_or_else(|e| e.to_string());
            eprintln!("---- {title}\n{text}");
        };
        let n = self.namespace.as_str();
        show(
            "objects",
            &["-n", n, "get", "holdfast,pods,jobs,pvc,deployments,statefulsets,replicasets", "-o", "wide"],
        );
        show("holdfast objects", &["-n", n, "get", "holdfast", "-o", "yaml"]);
        show("events", &["-n", n, "get", "events", "--sort-by=.lastTimestamp"]);
        show("runner logs", &["-n", n, "logs", "-l", "holdfast.dev/run-uid", "--tail=15", "--prefix"]);
        show(
            "operator",
            &[
                "-n",
                self.bed.operator_namespace(),
                "logs",
                "-l",
                "app.kubernetes.io/component=operator",
                "--tail=60",
            ],
        );
    }

    /// Runs a story: prints its name and outcome, dumps on failure, removes everything on success.
    ///
    /// # Panics
    /// When the story fails: it is a test.
    #[expect(clippy::panic, reason = "the test runner's way to hear of a failure")]
    pub fn tell(
        name: &str,
        begin: impl FnOnce(&str) -> Result<Self>,
        body: impl FnOnce(&mut Self) -> Result<()>,
    ) {
        let clock = Instant::now();
        let mut story = begin(name).unwrap_or_else(|e| panic!("{name} could not begin: {e}"));
        match body(&mut story) {
            Ok(()) => {
                story.end();
                // Not by a macro, whose output the test runner keeps to itself: the long ones are to be seen.
                let _ = writeln!(stderr(), "story {name}: {} s", clock.elapsed().as_secs());
            }
            Err(e) => {
                eprintln!("==== story {name} failed in namespace {}: {e}", story.namespace);
                story.dump();
                panic!("story {name}: {e}");
            }
        }
    }

    fn end(self) {
        for namespace in self.extra_namespaces.iter().chain([&self.namespace]) {
            let _ = self.kubectl.run(&["delete", "namespace", namespace, "--wait=false"]);
        }
    }
}
