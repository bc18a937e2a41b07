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
use serde_json::{Value, json};

#[path = "../../engine/tests/versitygw/mod.rs"]
mod versitygw;

use versitygw::Server;

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
    runner(directory)
}

/// The runner with what is in this directory.
fn runner(directory: &Path) -> Child {
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

/// Runs a spec that an operator of release 0.1 wrote, with only the store's address and what `edit` changes put in the place of
/// what it says; gives the result, for it has to succeed.
fn run_of_0_1(server: &Server, name: &str, edit: impl FnOnce(&mut Value)) -> Value {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/tests/golden");
    let text = fs::read_to_string(golden.join(format!("spec-{name}.json"))).unwrap();
    let mut spec: Value = serde_json::from_str(&text).unwrap();
    spec["storage"]["s3"]["endpoint"] = server.address().into();
    edit(&mut spec["task"]);
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("spec.json", spec.to_string().as_str()),
        ("password", "0123456789abcdef0123456789abcdef0123456789abcdef"),
        ("access-key-id", versitygw::ACCESS),
        ("secret-access-key", versitygw::SECRET),
        ("ca.crt", &fs::read_to_string(server.ca()).unwrap()),
    ] {
        fs::write(directory.path().join(name), text).unwrap();
    }
    let output = runner(directory.path()).wait_with_output().unwrap();
    let verdict = verdict(directory.path());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        (output.status.code(), verdict["outcome"].as_str()),
        (Some(0), Some("Succeeded")),
        "{verdict} {said}"
    );
    assert_eq!(verdict["lockReleased"], true, "{verdict}");
    verdict["result"].clone()
}

/// `crates/protocol` looks that such a spec can be read; here what it asks for is done.
#[test]
fn the_specs_of_an_older_operator_are_carried_out() {
    let server = Server::start(&["backups"]);
    let volume = tempfile::tempdir().unwrap();
    let path = volume.path().to_str().unwrap();
    let write = |name: &str, text: &str| fs::write(volume.path().join(name), text).unwrap();
    let read = |name: &str| fs::read_to_string(volume.path().join(name)).ok();
    for name in ["etc", "cache"] {
        fs::create_dir(volume.path().join(name)).unwrap();
    }
    write("etc/conf", "saved");
    write("etc/half.tmp", "no pattern lets it in");
    write("other", "saved");
    write("cache/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55");
    write("cache/blob", "can be made anew");

    let probed = run_of_0_1(&server, "probe", |_| ());
    assert_eq!(probed["repositories"], 0);
    let made = run_of_0_1(&server, "initialize", |_| ());
    assert_eq!((&made["created"], &made["formatVersion"]), (&json!(true), &json!(2)));
    assert!(
        server.bucket("backups").join("prod/prod/shop/offsite-x7k2p/config").is_file(),
        "prefix and directory"
    );
    assert_eq!(run_of_0_1(&server, "probe", |_| ())["repositories"], 1);

    let saved = run_of_0_1(&server, "backup", |task| task["path"] = path.into());
    // etc/conf, other and the tag of the cache.
    assert_eq!((&saved["filesTotal"], &saved["unreadable"]), (&json!(3), &json!(0)), "{saved}");
    let snapshot = saved["snapshotId"].as_str().unwrap();
    let again = run_of_0_1(&server, "backup", |task| task["path"] = path.into());
    assert_eq!((&again["alreadyCommitted"], &again["snapshotId"]), (&json!(true), &json!(snapshot)));
    assert_eq!(run_of_0_1(&server, "sync", |_| ())["snapshots"], 1);

    write("etc/conf", "spoiled");
    write("etc/later", "not in the snapshot");
    write("etc/half.tmp", "left alone");
    write("other", "not asked for");
    let restored = run_of_0_1(&server, "restore", |task| {
        task["snapshotId"] = snapshot.into();
        task["sourcePath"] = path.into();
        task["target"] = path.into();
    });
    assert_eq!((&restored["verified"], &restored["failures"]), (&json!(true), &json!(0)), "{restored}");
    assert_eq!(read("etc/conf").as_deref(), Some("saved"));
    assert_eq!(read("etc/later"), None, "deleteExtra");
    assert_eq!(read("etc/half.tmp").as_deref(), Some("left alone"), "exclude");
    assert_eq!(read("other").as_deref(), Some("not asked for"), "include");

    run_of_0_1(&server, "unlock", |_| ());
}
