//! Signals that come before a repository is open: they end the process at once, for there is nothing yet to put in order.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, which clippy does not know for such"
)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

fn repo(directory: &tempfile::TempDir, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command
        .args(["repo", "-r"])
        .arg(directory.path())
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// The signal that ends the child after SIGTERM was sent to it. SIGINT does the same, but what runs in a shell's background may
/// have been told to ignore that.
fn ended_by(mut child: Child) -> Option<i32> {
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return status.signal();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    panic!("it heard nothing");
}

#[test]
fn a_list_of_files_that_does_not_end_can_be_interrupted() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = repo(&directory, &["backup", "--files-from", "-"])
        .env("HOLDFAST_PASSWORD", "secret")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    // More than a pipe holds: when it is written, the program reads.
    let mut list = child.stdin.take().unwrap();
    list.write_all(&vec![b'\n'; 1 << 20]).unwrap();
    assert_eq!(ended_by(child), Some(Signal::TERM.as_raw()));
}

#[test]
fn a_command_that_prints_no_password_can_be_interrupted() {
    let directory = tempfile::tempdir().unwrap();
    let (script, began) = (directory.path().join("script"), directory.path().join("began"));
    let text =
        format!("#!/bin/sh\necho $$ > '{0}.new'\nmv '{0}.new' '{0}'\nexec sleep 120\n", began.display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let child =
        repo(&directory, &["--password-command", script.to_str().unwrap(), "snapshots"]).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_mins(1);
    while !began.exists() {
        assert!(Instant::now() < deadline, "the command was not started");
        std::thread::sleep(Duration::from_millis(5));
    }
    let asleep: i32 = fs::read_to_string(&began).unwrap().trim().parse().unwrap();
    // Ours alone, as `kill` does it; a terminal would send it to both.
    let ended = ended_by(child);
    kill_process(Pid::from_raw(asleep).unwrap(), Signal::KILL).unwrap();
    assert_eq!(ended, Some(Signal::TERM.as_raw()));
}
