//! `holdfast restore` and `undo` at a terminal: the plan is shown, the question is asked, and only a yes makes a Restore. The
//! terminal is one of `script` (util-linux), the API server a few lines of ours that keep what they are given and plan at once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, which clippy does not know for such"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast");
const KINDS: &str = "/apis/holdfast.dev/v1alpha1/namespaces/shop";

fn object(kind: &str, name: &str, spec: &Value, status: &Value) -> Value {
    let metadata = json!({"name": name, "namespace": "shop", "uid": format!("uid-of-{name}"), "resourceVersion": "1",
        "creationTimestamp": "2026-11-20T02:00:00Z"});
    json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec, "status": status})
}

fn snapshot() -> Value {
    let backup = json!({"name": "first", "uid": "u"});
    object(
        "Snapshot",
        "first-ae15",
        &json!({"repositoryRef": {"name": "main"}, "time": "2026-11-20T02:00:00Z", "backup": backup, "cluster": "prod",
            "namespace": "shop"}),
        &json!({"complete": true, "components": [
            {"name": "volume/data", "snapshotId": "abc", "source": {"claim": "data"}}]}),
    )
}

/// What the cluster is told.
#[derive(Default)]
struct Told {
    /// Restores that are there, beside the one that was done long ago.
    restores: Vec<Value>,
    /// Those that were made, dry runs or not.
    made: Vec<Value>,
}

struct Server {
    directory: tempfile::TempDir,
    told: Arc<Mutex<Told>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let told = Arc::new(Mutex::new(Told::default()));
        let theirs = Arc::clone(&told);
        // It ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let theirs = Arc::clone(&theirs);
                std::thread::spawn(move || answer(&stream.unwrap(), &theirs));
            }
        });
        let directory = tempfile::tempdir().unwrap();
        let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
            "users": [{"name": "u", "user": {}}]});
        std::fs::write(directory.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
        Self { directory, told }
    }

    fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    /// Types `answer` when the question of `holdfast COMMAND` stands on the terminal. The exit code, and all that stood there.
    fn ask(&self, command: &str, answer: &[u8]) -> (Option<i32>, String) {
        let mut script = Command::new("script")
            .args(["--quiet", "--return", "--command", &format!("exec '{PROGRAM}' {command}"), "/dev/null"])
            .env("KUBECONFIG", self.kubeconfig())
            .env("TERM", "dumb")
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script of util-linux gives the test a terminal; install it");
        let mut terminal = script.stdout.take().unwrap();
        let mut keyboard = script.stdin.take().unwrap();
        let (mut seen, mut byte) = (Vec::new(), [0]);
        while !seen.ends_with(b"[y/N] ") {
            let length = terminal.read(&mut byte).unwrap();
            assert_eq!(length, 1, "nothing was asked: {}", String::from_utf8_lossy(&seen));
            seen.push(byte[0]);
        }
        keyboard.write_all(answer).unwrap();
        keyboard.flush().unwrap();
        terminal.read_to_end(&mut seen).unwrap();
        (script.wait().unwrap().code(), String::from_utf8(seen).unwrap())
    }

    /// Names of the Restores that were made and were no dry runs; those that were are gone.
    fn made(&self) -> Vec<String> {
        let told = self.told.lock().unwrap();
        assert!(told.made.iter().any(is_dry), "no plan was made");
        assert!(!told.restores.iter().any(is_dry), "a dry run is left");
        let real = told.made.iter().filter(|restore| !is_dry(restore));
        real.map(|restore| restore["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }
}

fn is_dry(restore: &Value) -> bool {
    restore["spec"]["dryRun"] == true
}

/// One request, and the end of the connection.
fn answer(stream: &TcpStream, told: &Mutex<Told>) {
    let mut reader = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    reader.read_line(&mut line).unwrap();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        let header = header.trim().to_lowercase();
        if header.is_empty() {
            break;
        }
        length =
            header.strip_prefix("content-length:").map_or(length, |number| number.trim().parse().unwrap());
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let (code, reply) = reply(method, path, &body, &mut told.lock().unwrap());
    let reply = reply.to_string();
    let head = format!("HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nConnection: close\r\n");
    let mut stream = stream;
    write!(stream, "{head}Content-Length: {}\r\n\r\n{reply}", reply.len()).unwrap();
}

fn reply(method: &str, path: &str, body: &[u8], told: &mut Told) -> (u16, Value) {
    let list = |kind: &str, items: Vec<Value>| {
        let kind = format!("{kind}List");
        json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": kind, "metadata": {"resourceVersion": "1"}, "items": items})
    };
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let missing = || {
        (
            404,
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}),
        )
    };
    let Some(what) = path.strip_prefix(KINDS) else { return missing() };
    match (method, what) {
        ("GET", "/snapshots") => (200, list("Snapshot", vec![snapshot()])),
        ("GET", "/snapshots/first-ae15") => (200, snapshot()),
        ("GET", "/restores/back") => {
            let spec = json!({"from": {"snapshotRef": {"name": "first-ae15"}}});
            let status = json!({"phase": "Succeeded", "undoSnapshotRef": {"name": "first-ae15"}});
            (200, object("Restore", "back", &spec, &status))
        }
        ("GET", "/restores") => {
            let asked = |restore: &&Value| query.contains(restore["metadata"]["name"].as_str().unwrap());
            (200, list("Restore", told.restores.iter().filter(asked).cloned().collect()))
        }
        ("POST", "/restores") => {
            let given: Value = serde_json::from_slice(body).unwrap();
            let phase = if is_dry(&given) { "Planned" } else { "Succeeded" };
            let plan = json!({"volumes": [{"component": "volume/data", "claim": "data"}]});
            let status = json!({"phase": phase, "snapshotRef": {"name": "first-ae15"}, "plan": plan});
            let name = given["metadata"]["name"].as_str().unwrap();
            let made = object("Restore", name, &given["spec"], &status);
            told.made.push(made.clone());
            told.restores.push(made.clone());
            (201, made)
        }
        ("DELETE", what) => {
            let name = what.strip_prefix("/restores/").unwrap();
            told.restores.retain(|restore| restore["metadata"]["name"] != name);
            (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
        }
        _ => missing(),
    }
}

#[test]
fn without_a_yes_nothing_is_restored() {
    // A no, nothing, a word that only begins like a yes, the end of the input, Ctrl-C.
    for answer in ["no\n", "\n", "yesterday\n", "\u{4}", "\u{3}"] {
        for command in ["restore first", "undo back"] {
            let server = Server::start();
            let (code, seen) = server.ask(command, answer.as_bytes());
            assert_eq!(code, Some(6), "{command}, {answer:?}: {seen}");
            assert!(seen.contains("Restore 1 volume in namespace shop?"), "{seen}");
            assert!(seen.contains("nothing was changed"), "{command}, {answer:?}: {seen}");
            assert_eq!(server.made(), Vec::<String>::new(), "{command}, {answer:?}");
        }
    }
}

#[test]
fn a_yes_makes_the_restore_that_was_planned() {
    for (command, answer) in [("restore first --name wanted", "y\n"), ("undo back", "yes\n")] {
        let server = Server::start();
        let (code, seen) = server.ask(command, answer.as_bytes());
        assert_eq!(code, Some(0), "{command}: {seen}");
        // The plan stands before the question.
        let (plan, after) = seen.split_once("Restore 1 volume in namespace shop?").unwrap();
        assert!(plan.contains("volume/data"), "{seen}");
        assert!(after.contains("Succeeded"), "{seen}");
        let made = server.made();
        assert_eq!(made.len(), 1, "{made:?}");
        assert!(made[0] == "wanted" || command.starts_with("undo"), "{made:?}");
    }
}

#[test]
fn where_there_is_nobody_to_ask_nothing_is_even_planned() {
    let server = Server::start();
    for command in [["restore", "first"], ["undo", "back"]] {
        let output = Command::new(PROGRAM)
            .args(command)
            .env("KUBECONFIG", server.kubeconfig())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("no terminal to ask on"));
    }
    assert!(server.told.lock().unwrap().made.is_empty());
}
