//! Completions as shells and kubectl use them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, which clippy does not know for such"
)]

use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast");

/// What a program says to this input; None where there is no such program.
fn said(program: &str, arguments: &[&str], input: &str) -> Option<String> {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
        Err(e) => panic!("{program}: {e}"),
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaint.is_empty(), "{program} {arguments:?}: {complaint}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn shells_can_read_their_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let script = said(PROGRAM, &["completion", shell], "").unwrap();
        let read = said(shell, &["-n"], &script);
        assert!(read.is_some() || shell != "bash", "bash is needed for this test");
        if read.is_none() {
            println!("{shell} is not installed: whether it can read its completion is not known");
        }
    }
}

#[test]
fn bash_completes_a_command_and_a_flag() {
    let script = said(PROGRAM, &["completion", "bash"], "").unwrap();
    let completed = |words: &str, last: &str, number: usize| {
        let asked = format!(
            "{script}\nCOMP_WORDS=({words}); COMP_CWORD={number}; _holdfast holdfast {last} x; echo \"${{COMPREPLY[@]}}\""
        );
        said("bash", &["--norc"], &asked).unwrap()
    };
    assert_eq!(completed("holdfast snaps", "snaps", 1), "snapshots\n");
    assert_eq!(completed("holdfast restore --new-c", "--new-c", 2), "--new-claim\n");
}

#[test]
fn kubectls_completion_is_answered_under_the_name_that_it_looks_for() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("kubectl_complete-holdfast");
    symlink(PROGRAM, &link).unwrap();
    let asked = |words: &[&str]| said(link.to_str().unwrap(), words, "").unwrap();
    let answer = asked(&["restore", "--new-c"]);
    assert!(answer.starts_with("--new-claim\t") && answer.ends_with("\n:4\n"), "{answer}");
    // A flag that the program has itself is a word like another here.
    assert!(asked(&["--vers"]).starts_with("--version\t"));
    assert_eq!(asked(&["repo", "backup", "/home"]), ":0\n", "files may be meant");
}
