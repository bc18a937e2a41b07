//! `holdfast run` as the kubelet meets it: exit codes, the verdict, SIGTERM.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, which clippy does not know for such"
)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn start(directory: &Path, task: &str) -> Child {
    // Nobody listens on port 1, so the store is unreachable for as long as the runner tries.
    let spec = format!(
        r#"{{
            "version": 1,
            "run": {{"kind": "Repository", "namespace": "shop", "name": "main", "uid": "u", "cluster": "c", "clusterUid": "k"}},
            "storage": {{"s3": {{"endpoint": "http://127.0.0.1:1", "bucket": "b", "prefix": "", "region": "us-east-1"}}}},
            "directory": "c/shop/main",
            "task": {task}
        }}"#
    );
    for (name, text) in [
        ("spec.json", spec.as_str()),
        ("password", "0123456789abcdef0123456789abcdef0123456789abcdef"),
        ("access-key-id", "id"),
        ("secret-access-key", "a secret that nobody may see"),
    ] {
        fs::write(directory.join(name), text).unwrap();
    }
    Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["run", "--directory"])
        .arg(directory)
        .arg("--termination-message")
        .arg(directory.join("verdict"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn verdict(directory: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(directory.join("verdict")).unwrap()).unwrap()
}

#[test]
fn sigterm_ends_a_run_in_time_with_a_verdict() {
    let directory = tempfile::tempdir().unwrap();
    let child = start(directory.path(), r#"{"type": "sync"}"#);
    std::thread::sleep(Duration::from_secs(2));
    let asked = Instant::now();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    // The kubelet kills after 30 s.
    assert!(asked.elapsed() < Duration::from_secs(25), "{:?}", asked.elapsed());
    assert_eq!(output.status.code(), Some(143));
    let verdict = verdict(directory.path());
    assert_eq!((verdict["outcome"].as_str(), verdict["reason"].as_str()), (Some("Failed"), Some("Stopped")));

    // It said meanwhile that it tries again, as events that the operator reads.
    let events = String::from_utf8(output.stdout).unwrap();
    let events: Vec<Value> = events.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(events.iter().any(|e| e["event"] == "log" && e["level"] == "warn"), "{events:?}");
    assert!(events.iter().any(|e| e["event"] == "progress"), "{events:?}");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("nobody may see"));
}

#[test]
fn a_store_that_cannot_be_reached_is_a_temporary_failure() {
    let directory = tempfile::tempdir().unwrap();
    let output = start(directory.path(), r#"{"type": "probe", "scanLimit": 1}"#).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{}", String::from_utf8_lossy(&output.stderr));
    let verdict = verdict(directory.path());
    assert_eq!(
        (verdict["reason"].as_str(), verdict["retryable"].as_bool()),
        (Some("Unreachable"), Some(true))
    );
    assert_eq!(verdict["lockReleased"], true);
}
