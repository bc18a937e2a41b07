//! The cluster as a command line sees it.

use std::fmt;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

/// What went wrong in a command or a wait, with everything a person needs to see.
#[derive(Debug)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// Result of a command on the cluster.
pub type Result<T> = std::result::Result<T, Failure>;

/// How often a condition is looked at while waiting for it. A look costs a tenth of a second of processor time.
const LOOK: Duration = Duration::from_millis(500);

/// `kubectl` with the test bed's kubeconfig.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// Uses this program with this configuration.
    pub fn new(program: PathBuf, kubeconfig: PathBuf) -> Self {
        Self { program, kubeconfig }
    }

    /// Runs `kubectl ARGS` with `input` on its standard input; its standard output, or what it complained about.
    pub fn run_with(&self, args: &[&str], input: &[u8]) -> Result<Vec<u8>> {
        let mut command = Command::new(&self.program);
        command.args(args).env("KUBECONFIG", &self.kubeconfig);
        run(&mut command, input).map_err(|e| Failure(format!("kubectl {}: {e}", args.join(" "))))
    }

    /// Runs `kubectl ARGS`.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        self.run_with(args, b"").map(|out| String::from_utf8_lossy(&out).into_owned())
    }

    /// Applies YAML documents as a user does, under strict validation.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        self.run_with(&["apply", "--validate=strict", "-f", "-"], yaml.as_bytes())
            .map(|out| String::from_utf8_lossy(&out).into_owned())
    }

    /// One object (or a list) as JSON.
    pub fn get(&self, namespace: &str, what: &[&str]) -> Result<Value> {
        let mut args = vec!["-n", namespace, "get", "-o", "json"];
        args.extend(what);
        let out = self.run_with(&args, b"")?;
        serde_json::from_slice(&out).map_err(|e| Failure(format!("kubectl {}: no JSON: {e}", args.join(" "))))
    }

    /// One object as JSON, `None` when it is not there.
    pub fn find(&self, namespace: &str, kind: &str, name: &str) -> Result<Option<Value>> {
        let out =
            self.run_with(&["-n", namespace, "get", kind, name, "-o", "json", "--ignore-not-found"], b"")?;
        if out.is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(&out).map(Some).map_err(|e| Failure(format!("{kind} {name}: no JSON: {e}")))
    }

    /// Items of a list.
    pub fn list(&self, namespace: &str, what: &[&str]) -> Result<Vec<Value>> {
        let mut list = self.get(namespace, what)?;
        match list.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => Ok(items),
            _ => Err(Failure(format!("{what:?} is no list"))),
        }
    }

    /// Waits until `done` says something about the object; a last look at it is in the error.
    pub fn until<T>(
        &self,
        namespace: &str,
        kind: &str,
        name: &str,
        limit: Duration,
        done: impl Fn(&Value) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        let mut last = None;
        loop {
            if let Some(object) = self.find(namespace, kind, name)? {
                if let Some(found) = done(&object) {
                    return Ok(found);
                }
                last = Some(object);
            }
            if Instant::now() >= deadline {
                let seen = last.map_or_else(
                    || "it is not there".to_owned(),
                    |object| serde_json::to_string_pretty(&object["status"]).unwrap_or_default(),
                );
                return Err(Failure(format!(
                    "{kind} {namespace}/{name} did not come to what was waited for within {} s; its status: {seen}",
                    limit.as_secs()
                )));
            }
            sleep(LOOK);
        }
    }

    /// Waits until a condition about anything holds.
    pub fn until_true(
        &self,
        what: &str,
        limit: Duration,
        mut done: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            if done()? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Failure(format!("waited {} s in vain: {what}", limit.as_secs())));
            }
            sleep(LOOK);
        }
    }

    /// Runs a shell script in a pod.
    pub fn shell(&self, namespace: &str, pod: &str, script: &str) -> Result<String> {
        self.run(&["-n", namespace, "exec", pod, "--", "sh", "-c", script])
    }
}

/// Runs a command to its end, feeding `input`; an error holds its exit code and what it said.
pub fn run(command: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| Failure(format!("cannot start {command:?}: {e}")))?;
    let mut stdin = child.stdin.take();
    let fed = input.to_vec();
    let feeder = std::thread::spawn(move || {
        // A command that does not read its input closes it; its exit code tells whether that was wrong.
        if let Some(pipe) = stdin.as_mut() {
            let _ = pipe.write_all(&fed);
        }
    });
    let output =
        child.wait_with_output().map_err(|e| Failure(format!("cannot wait for {command:?}: {e}")))?;
    let _ = feeder.join();
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(Failure(format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    )))
}

/// The condition of a type in an object's status: (status, reason, message).
pub fn condition(object: &Value, kind: &str) -> Option<(String, String, String)> {
    object["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind).map(|c| {
        let text = |key: &str| c[key].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"), text("message"))
    })
}

/// The phase in an object's status.
pub fn phase(object: &Value) -> &str {
    object["status"]["phase"].as_str().unwrap_or_default()
}
