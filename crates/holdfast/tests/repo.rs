//! `holdfast repo …` as a person and as a script meets it: output, exit codes, interruption, and restic beside it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, which clippy does not know for such"
)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Long enough to be taken for a random one, whose key is quick to derive.
const PASSWORD: &str = "0123456789abcdef0123456789abcdef0123456789abcdef";

struct Place {
    directory: TempDir,
}

impl Place {
    /// An empty place with a source tree.
    fn new() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir_all(place.path("source/sub")).unwrap();
        fs::write(place.path("source/a"), "content of a").unwrap();
        fs::write(place.path("source/sub/b"), "").unwrap();
        std::os::unix::fs::symlink("a", place.path("source/link")).unwrap();
        fs::write(place.path("password"), format!("{PASSWORD}\n")).unwrap();
        place
    }

    /// A place with a repository in it.
    fn initialized() -> Self {
        let place = Self::new();
        place.ok(&["init"]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command
            .arg("repo")
            .args(args)
            .env_clear()
            .env("HOLDFAST_REPOSITORY", self.path("repository"))
            .env("HOLDFAST_PASSWORD_FILE", self.path("password"))
            .env("TZ", "UTC")
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Standard output of a command that must succeed.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Exit code and standard error of a command that must not.
    fn fails(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        assert_ne!(output.status.code(), Some(0), "{args:?}");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(&[args, &["--json"]].concat());
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    }

    /// What stock restic prints as JSON in its last line.
    fn restic(&self, args: &[&str]) -> Value {
        let text = self.restic_text(&[&["--json"], args].concat());
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    }

    /// What stock restic prints.
    fn restic_text(&self, args: &[&str]) -> String {
        let program = std::env::var("HOLDFAST_RESTIC_0_19").expect(
            "set HOLDFAST_RESTIC_0_19 to stock restic 0.19.1: `testbed restic 0.19.1` prints its path",
        );
        let output = Command::new(program)
            .arg("--no-cache")
            .args(args)
            .env("RESTIC_REPOSITORY", self.path("repository"))
            .env("RESTIC_PASSWORD_FILE", self.path("password"))
            .env("TZ", "UTC")
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Locks in force: a file that is still being written has another name, and stops nobody.
    fn locks(&self) -> usize {
        fs::read_dir(self.path("repository/locks"))
            .unwrap()
            .map(Result::unwrap)
            .filter(|e| e.file_name().len() == 64 && e.metadata().is_ok_and(|m| m.len() > 0))
            .count()
    }

    /// Waits until the source's files are old enough to be taken over unread: a file that was changed less than two
    /// seconds before a backup began is read again by the next one.
    fn settle(&self) {
        let newest = fs::metadata(self.path("source")).unwrap().modified().unwrap();
        while newest.elapsed().unwrap() < Duration::from_millis(2500) {
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn snapshots(&self) -> usize {
        fs::read_dir(self.path("repository/snapshots")).unwrap().count()
    }
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap_or_else(|| panic!("no object: {value}")).keys().cloned().collect()
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let place = Place::initialized();
    place.settle();
    let said = place.ok(&["backup", &place.text("source")]);
    assert!(said.contains("2 new") && said.contains("12 B in 2 files"), "{said}");
    let said = place.ok(&["backup", &place.text("source")]);
    assert!(said.contains("0 new, 0 changed, 2 unchanged"), "{said}");

    let source = place.text("source");
    let plan = place.ok(&["restore", &format!("latest:{source}"), "--target", "out", "--dry-run"]);
    assert!(plan.contains("create") && plan.contains("2 files"), "{plan}");
    assert!(!place.path("out").exists());

    let said = place.ok(&["restore", &format!("latest:{source}"), "--target", "out", "--verify"]);
    assert!(said.contains("12 B read back and found right"), "{said}");
    assert_eq!(fs::read_to_string(place.path("out/a")).unwrap(), "content of a");
    assert_eq!(fs::read(place.path("out/sub/b")).unwrap(), b"");
    assert_eq!(fs::read_link(place.path("out/link")).unwrap(), Path::new("a"));

    let listed = place.ok(&["ls", "latest", &source]);
    assert_eq!(
        listed.lines().collect::<Vec<_>>(),
        ["", "/a", "/link", "/sub"].map(|n| format!("{source}{n}"))
    );
    let table = place.ok(&["snapshots"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(place.ok(&["check", "--read-data"]).contains("no errors found"));
    assert_eq!(place.locks(), 0);
}

#[test]
fn extras_go_only_when_asked_for() {
    let place = Place::initialized();
    place.ok(&["backup", &place.text("source")]);
    let from = format!("latest:{}", place.text("source"));
    fs::create_dir(place.path("out")).unwrap();
    fs::write(place.path("out/extra"), "x").unwrap();
    place.ok(&["restore", &from, "--target", "out"]);
    assert!(place.path("out/extra").exists());
    place.ok(&["restore", &from, "--target", "out", "--delete"]);
    assert!(!place.path("out/extra").exists());
    assert!(place.path("out/a").exists());
    // The repository lies beside it.
    let (code, said) = place.fails(&["restore", &from, "--target", ".", "--delete"]);
    assert!(code != 0 && said.contains("the repository lies in"), "{code}: {said}");
    assert!(place.path("out/a").exists() && place.path("repository/config").exists());
}

#[test]
fn scripts_that_read_restics_json_can_read_ours() {
    let place = Place::new();
    let theirs = place.restic(&["init"]);
    fs::remove_dir_all(place.path("repository")).unwrap();
    let contains = |ours: &Value, theirs: &Value| {
        let missing: Vec<_> = keys(theirs).difference(&keys(ours)).cloned().collect();
        assert!(missing.is_empty(), "{missing:?} missing in {ours}");
    };
    contains(&place.json(&["init"]), &theirs);

    let source = place.text("source");
    let ours = place.json(&["backup", &place.text("source"), "--tag", "one"]);
    // With a file that is new, so that it has a summary of its own.
    let theirs = place.restic(&["backup", &source, "--tag", "two"]);
    contains(&ours, &theirs);

    let listed = place.json(&["snapshots"]);
    assert_eq!(listed.as_array().unwrap().len(), 2);
    for (ours, theirs) in
        listed.as_array().unwrap().iter().zip(place.restic(&["snapshots"]).as_array().unwrap())
    {
        assert_eq!(ours, theirs);
    }

    // A node of the same tree, field for field.
    let ours = place.json(&["ls", "latest", &source, "--recursive"]);
    let theirs = place.restic(&["ls", "latest", &source, "--recursive"]);
    assert_eq!(ours, theirs);

    contains(&place.json(&["check"]), &place.restic(&["check"]));
    let from = format!("latest:{source}");
    contains(
        &place.json(&["restore", &from, "--target", "ours"]),
        &place.restic(&["restore", &from, "--target", &place.text("theirs")]),
    );
}

#[test]
fn failures_are_one_line_of_cause_and_one_of_advice() {
    let place = Place::initialized();
    fs::write(place.path("wrong"), "another").unwrap();
    let (code, said) = place.fails(&["snapshots", "--password-file", "wrong"]);
    assert_eq!(code, 12);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(lines[0].starts_with("error: ") && lines[1].starts_with("  → "), "{said}");

    let (code, said) = place.fails(&["snapshots", "--password-file", "wrong", "--json"]);
    let message: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (code, &message["message_type"], &message["kind"]),
        (12, &"exit_error".into(), &"WrongPassword".into())
    );

    for (args, kind) in [
        (vec!["snapshots", "-r", "nowhere"], "NotARepository"),
        (vec!["init"], "AlreadyInitialized"),
        (vec!["restore", "latest", "--target", "out"], "EmptySelection"),
        (vec!["restore", "12345678", "--target", "out"], "EmptySelection"),
        (vec!["cat", "pack", "12345678"], "EmptySelection"),
        (vec!["backup", "nothing"], "Usage"),
        (vec!["snapshots", "-r", "sftp:host:/path"], "Usage"),
        (vec!["init", "-r", "source"], "ForeignContent"),
    ] {
        let (code, said) = place.fails(&[&args[..], &["--json"]].concat());
        let message: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{args:?}: {e}: {said}"));
        let expected = if kind == "NotARepository" { 10 } else { 1 };
        assert_eq!((code, message["kind"].as_str()), (expected, Some(kind)), "{args:?}: {said}");
    }
    assert!(!place.path("out").exists());
}

#[test]
fn a_source_with_unreadable_files_is_backed_up_in_part() {
    let place = Place::initialized();
    // Holds a file that not even root can read.
    let output = place.run(&["backup", "/proc/sys/vm"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("compact_memory"));
    assert_eq!(place.snapshots(), 1);
}

#[test]
fn damage_is_found_named_and_fatal() {
    let place = Place::initialized();
    fs::write(place.path("source/a"), vec![7; 100_000]).unwrap();
    place.ok(&["backup", &place.text("source")]);
    let data: Vec<_> = fs::read_dir(place.path("repository/data"))
        .unwrap()
        .flat_map(|d| fs::read_dir(d.unwrap().path()).unwrap())
        .map(|f| f.unwrap().path())
        .collect();
    for pack in &data {
        let mut bytes = fs::read(pack).unwrap();
        bytes[20] ^= 1;
        fs::remove_file(pack).unwrap();
        fs::write(pack, bytes).unwrap();
    }
    let output = place.run(&["check", "--read-data", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(summary["num_errors"].as_u64().unwrap() > 0);
    let pack = data[0].file_name().unwrap().to_str().unwrap();
    assert!(summary["broken_packs"].as_array().unwrap().iter().any(|p| p == pack), "{summary}");
    assert_eq!(place.locks(), 0);
}

#[test]
fn a_reader_that_has_enough_ends_the_listing_without_a_word() {
    let place = Place::initialized();
    for n in 0..3000 {
        fs::write(place.path(&format!("source/{n}")), "").unwrap();
    }
    place.ok(&["backup", &place.text("source")]);
    let mut child =
        place.command(&["ls", "latest"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn a_reader_that_has_gone_away_changes_no_verdict() {
    let (place, _, second) = two_snapshots();
    let unread = |args: &[&str]| {
        let mut child = place.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = unread(&["backup", &place.text("source"), &place.text("nowhere")]);
    assert_eq!(code, 3, "{said}");
    assert_eq!(place.snapshots(), 3);
    assert_eq!(unread(&["dump", &second, "/"]), (1, String::new()), "what came is not whole");
    assert_eq!(unread(&["tag", "--add", "read", &second]).0, 0);
    let (code, said) = unread(&["forget", "--keep-last", "1", "--prune"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(place.snapshots(), 2);
}

#[test]
fn a_password_has_to_come_from_somewhere() {
    let place = Place::initialized();
    // A session of its own has no terminal to ask on.
    let mut command = Command::new("setsid");
    command
        .args(["--wait", env!("CARGO_BIN_EXE_holdfast"), "repo", "snapshots", "--json", "-r"])
        .arg(place.path("repository"))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    let message: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!((output.status.code(), &message["kind"]), (Some(1), &"Usage".into()));
    assert!(message["advice"].as_str().unwrap().contains("--password-file"));
}

#[test]
fn ctrl_c_ends_a_backup_without_snapshot_or_lock() {
    let place = Place::initialized();
    // More than any machine stores before it notices the signal, and nothing that compresses or repeats.
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()
    })
    .flatten()
    .take(64 << 20)
    .collect();
    for n in 0..12_u8 {
        let shifted: Vec<u8> = noise.iter().map(|b| b.wrapping_add(n)).collect();
        fs::write(place.path(&format!("source/large{n}")), shifted).unwrap();
    }
    let child = place
        .command(&["backup", &place.text("source")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_mins(1);
    while place.locks() == 0 {
        assert!(Instant::now() < deadline, "the backup took no lock");
        std::thread::sleep(Duration::from_millis(2));
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((place.snapshots(), place.locks()), (0, 0));
    place.ok(&["check"]);
}

/// With SIGHUP `restic unlock` asks whether the owner of a lock lives.
#[test]
fn a_hangup_ends_nothing() {
    let place = Place::initialized();
    let mut child = place
        .command(&["backup", "--stdin", "--stdin-filename", "late"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_mins(1);
    while place.locks() == 0 {
        assert!(Instant::now() < deadline, "the backup took no lock");
        std::thread::sleep(Duration::from_millis(2));
    }
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    child.stdin.take().unwrap().write_all(b"content").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((place.snapshots(), place.locks()), (1, 0));
}

#[test]
fn a_dump_that_nobody_hurries_holds_off_a_prune() {
    let place = Place::initialized();
    // More than a pipe takes.
    let content: Vec<u8> = (0..=255).cycle().take(4 << 20).collect();
    fs::write(place.path("source/large"), &content).unwrap();
    place.ok(&["backup", &place.text("source")]);
    let path = place.text("source/large");
    let dump = place.command(&["dump", "latest", &path]).stdout(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_mins(10);
    while place.locks() == 0 {
        assert!(Instant::now() < deadline, "the dump took no lock");
        std::thread::sleep(Duration::from_millis(5));
    }
    let (_, said) = place.fails(&["prune", "--instant", "--json"]);
    assert!(said.contains("Locked"), "{said}");
    let output = dump.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(output.stdout == content, "{} bytes came", output.stdout.len());
    assert_eq!(place.locks(), 0);
}

#[test]
fn a_foreign_lock_stops_a_backup_until_somebody_removes_it() {
    let place = Place::initialized();
    place.ok(&["backup", &place.text("source")]);
    // A stranger's lock, made by restic itself: a check that is stopped keeps its exclusive lock.
    let program = std::env::var("HOLDFAST_RESTIC_0_19")
        .expect("set HOLDFAST_RESTIC_0_19 to stock restic 0.19.1: `testbed restic 0.19.1` prints its path");
    let mut child = (0..20)
        .find_map(|_| {
            let mut child = Command::new(&program)
                .args(["--no-cache", "check", "--read-data"])
                .env("RESTIC_REPOSITORY", place.path("repository"))
                .env("RESTIC_PASSWORD_FILE", place.path("password"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            while place.locks() == 0 && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
            kill_process(Pid::from_child(&child), Signal::STOP).ok();
            if place.locks() == 1 {
                return Some(child);
            }
            child.kill().unwrap();
            child.wait().unwrap();
            None
        })
        .expect("restic was quicker than this test, twenty times");
    let refused = place.run(&["backup", &place.text("source"), "--json"]);
    child.kill().unwrap();
    child.wait().unwrap();
    let message: Value = serde_json::from_slice(&refused.stderr).unwrap();
    assert_eq!((refused.status.code(), &message["kind"]), (Some(11), &"Locked".into()));
    // Whoever reads waits too, or says that it goes without.
    let (other, target) = (place.text("other"), place.text("target"));
    place.ok(&["-r", &other, "init"]);
    let from = place.text("repository");
    let password = place.text("password");
    for reads in [
        &["snapshots"][..],
        &["ls", "latest"],
        &["find", "a"],
        &["dump", "latest", "/"],
        &["diff", "latest", "latest"],
        &["stats"],
        &["cat", "config"],
        &["list", "snapshots"],
        &["key", "list"],
        &["unreadable", "latest"],
        &["check"],
        &["restore", "latest", "--target", &target],
        &["restore", "latest", "--target", &target, "--dry-run"],
        &["-r", &other, "copy", "--from-repo", &from, "--from-password-file", &password],
        &["forget", "latest", "--dry-run", "--prune", "--unsafe-allow-remove-all"],
        &["prune", "--dry-run"],
    ] {
        let (_, said) = place.fails(&[reads, &["--json"]].concat());
        let message: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        assert_eq!(message["kind"], "Locked", "{reads:?}: {said}");
        place.ok(&[&["--no-lock"], reads].concat());
    }
    place.ok(&["list", "locks"]);
    let (_, said) = place.fails(&["prune", "--no-lock"]);
    assert!(said.contains("--dry-run"), "{said}");

    assert_eq!(place.locks(), 1, "restic was killed and left its lock");
    // Its host name and process number prove nothing, for containers share both: it stays until it is old, or until
    // a person who knows better says so.
    let said = place.ok(&["unlock"]);
    assert!(said.contains("no lock to remove"), "{said}");
    assert_eq!(place.locks(), 1);
    let said = place.ok(&["unlock", "--remove-all"]);
    assert!(said.contains("removed lock"), "{said}");
    assert_eq!(place.locks(), 0);
    place.ok(&["backup", &place.text("source")]);
}

/// A repository with two snapshots of a source that changed in between; their ids.
fn two_snapshots() -> (Place, String, String) {
    let place = Place::initialized();
    fs::hard_link(place.path("source/a"), place.path("source/same")).unwrap();
    fs::write(place.path("source/sub/B.txt"), vec![b'b'; 3000]).unwrap();
    let first = place.json(&["backup", &place.text("source"), "--tag", "one"]);
    fs::write(place.path("source/a"), "other content").unwrap();
    fs::remove_file(place.path("source/link")).unwrap();
    fs::create_dir(place.path("source/new")).unwrap();
    fs::write(place.path("source/new/n"), "n").unwrap();
    let second = place.restic(&["backup", &place.text("source"), "--tag", "two", "--host", "another"]);
    let id = |summary: &Value| summary["snapshot_id"].as_str().unwrap()[..10].to_owned();
    let ids = (id(&first), id(&second));
    (place, ids.0, ids.1)
}

#[test]
fn what_looks_into_a_repository_says_what_restic_says() {
    let (place, first, second) = two_snapshots();
    let source = place.text("source");
    let (one, two) = (format!("{first}:{source}"), format!("{second}:{source}"));
    for args in [
        vec!["stats"],
        vec!["stats", "--mode", "raw-data"],
        vec!["stats", "--mode", "files-by-contents"],
        vec!["stats", "--mode", "blobs-per-file"],
        vec!["stats", &first],
        vec!["stats", "--host", "another", "--mode", "raw-data"],
        vec!["find", "a"],
        vec!["find", "-i", "b.TXT", "sub"],
        vec!["find", "--snapshot", &second, "n", "--oldest", "2020-01-01"],
        vec!["find", "--newest", "2020-01-01", "*"],
        vec!["find", "nothing"],
        vec!["diff", &first, &second],
        vec!["diff", &second, &first],
        vec!["diff", "--metadata", &one, &two],
        vec!["key", "list"],
        vec!["snapshots", "--latest", "1"],
        vec!["snapshots", "--group-by", "host"],
        vec!["ls", &second],
        vec!["ls", &second, &source],
        vec!["ls", "--recursive", &second, &source],
        vec!["ls", &two],
    ] {
        // All lines, in any order of the fields; groups in any order, for restic's is chance.
        let lines = |text: &str| -> Vec<Value> {
            let mut lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
            if args.contains(&"--group-by") {
                lines[0].as_array_mut().unwrap().sort_by_key(|g| g["group_key"].to_string());
            }
            lines
        };
        let ours = lines(&place.ok(&[&args[..], &["--json"]].concat()));
        let theirs = lines(&place.restic_text(&[&["--json"], &args[..]].concat()));
        assert!(!ours.is_empty(), "{args:?}");
        assert_eq!(ours, theirs, "{args:?}");
    }
    for args in [
        vec!["cat", "config"],
        vec!["cat", "snapshot", &first],
        vec!["cat", "tree", &two],
        vec!["list", "snapshots"],
        vec!["list", "packs"],
        vec!["list", "index"],
        vec!["list", "keys"],
        vec!["list", "blobs"],
    ] {
        let sorted = |text: String| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            if args[0] == "list" {
                lines.sort();
            }
            lines
        };
        assert_eq!(sorted(place.ok(&args)), sorted(place.restic_text(&args)), "{args:?}");
    }
    let (code, said) = place.fails(&["cat", "masterkey"]);
    assert!(code == 1 && said.contains("key add"), "{said}");
}

#[test]
fn tags_keys_and_copies_are_restics_too() {
    let (place, first, _) = two_snapshots();
    let changed = place.ok(&["tag", "--add", "x,y", &first, "--json"]);
    let lines: Vec<Value> = changed.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((&lines[0]["message_type"], &lines[1]["changed_snapshots"]), (&"changed".into(), &1.into()));
    let listed = place.restic(&["snapshots", "--tag", "one,x,y"]);
    assert_eq!(listed[0]["original"].as_str().map(|id| id.starts_with(&first)), Some(true), "{listed}");

    fs::write(place.path("second"), format!("{PASSWORD}{PASSWORD}")).unwrap();
    let added = place.json(&["key", "add", "--new-password-file", "second"]);
    let key = added["id"].as_str().unwrap();
    assert_eq!(place.ok(&["snapshots", "--password-file", "second"]).lines().count(), 5);
    let own = place.json(&["key", "list"]);
    let own = own.as_array().unwrap().iter().find(|k| k["current"] == true).unwrap();
    let (code, said) = place.fails(&["key", "remove", own["id"].as_str().unwrap(), "--json"]);
    assert!(code == 1 && said.contains("Guard"), "{said}");
    place.ok(&["key", "remove", key]);
    place.fails(&["snapshots", "--password-file", "second"]);

    let source = place.text("repository");
    let target = |args: &[&str]| {
        let from = ["--from-repo", &source, "--from-password-file", "password"];
        place.run(&[args, &["-r", "copies"], &from].concat())
    };
    assert!(target(&["init", "--copy-chunker-params"]).status.success());
    let config = |at: &str| place.ok(&["cat", "config", "-r", at]);
    let polynomial = |text: String| text.lines().find(|l| l.contains("polynomial")).unwrap().to_owned();
    assert_eq!(polynomial(config("copies")), polynomial(config("repository")));
    let copied = target(&["copy", "--json"]);
    assert_eq!(copied.status.code(), Some(0), "{}", String::from_utf8_lossy(&copied.stderr));
    let summary: Value =
        serde_json::from_str(String::from_utf8_lossy(&copied.stdout).lines().last().unwrap()).unwrap();
    assert_eq!(summary["copied_snapshots"], 2);
    assert!(place.ok(&["check", "--read-data", "-r", "copies"]).contains("no errors found"));
    let to_itself = place.run(&["copy", "--from-repo", &source, "--from-password-file", "password"]);
    assert!(String::from_utf8_lossy(&to_itself.stderr).contains("the same repository"));
    assert_eq!(place.locks(), 0);
}

#[test]
fn a_dump_is_there_when_it_is_whole() {
    let (place, first, second) = two_snapshots();
    let source = place.text("source");
    assert_eq!(place.ok(&["dump", &first, &format!("{source}/a")]), "content of a");
    assert_eq!(place.ok(&["dump", &format!("{second}:{source}"), "/a"]), "other content");
    place.ok(&["dump", &second, &source, "--target", "a.tar"]);
    let listed = Command::new("tar").arg("tf").arg(place.path("a.tar")).output().unwrap();
    let inner = source.trim_start_matches('/');
    let names = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(names.lines().next(), Some(&format!("{inner}/")[..]), "{names}");
    assert!(names.contains(&format!("{inner}/sub/B.txt")), "{names}");
    place.ok(&["dump", &second, "/", "--archive", "zip", "--target", "a.zip"]);

    // A damaged pack: no archive under the name, none under another.
    for entry in fs::read_dir(place.path("repository/data")).unwrap() {
        for pack in fs::read_dir(entry.unwrap().path()).unwrap() {
            let pack = pack.unwrap().path();
            let mut bytes = fs::read(&pack).unwrap();
            bytes[40] ^= 1;
            fs::remove_file(&pack).unwrap();
            fs::write(&pack, bytes).unwrap();
        }
    }
    let (code, said) = place.fails(&["dump", &second, &source, "--target", "b.tar"]);
    assert_eq!(code, 1, "{said}");
    let left: Vec<_> = fs::read_dir(place.directory.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.starts_with("b.tar"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn a_lost_index_comes_back_from_the_packs() {
    let (place, _, _) = two_snapshots();
    for entry in fs::read_dir(place.path("repository/index")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    place.fails(&["check"]);
    let added = place.json(&["repair", "index", "--add-only"]);
    assert!(added["added_packs"].as_u64().unwrap() >= 2, "{added}");
    assert!(place.ok(&["check", "--read-data"]).contains("no errors found"));
    assert!(place.ok(&["repair", "index"]).contains("the index is right"));
    assert!(place.ok(&["repair", "snapshots", "--dry-run"]).contains("no snapshot needs mending"));
    place.restic(&["check", "--read-data"]);
}

#[test]
fn completions_and_manual_pages_come_from_the_program() {
    let place = Place::new();
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(args)
            .current_dir(place.directory.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run(&["completion", "bash"]).contains("complete -F _holdfast"));
    run(&["man", "pages"]);
    assert!(place.path("pages/holdfast-repo-dump.1").is_file());
}

#[test]
fn a_commands_output_becomes_one_file_and_nothing_else_does() {
    let place = Place::initialized();
    let from = |name: &str, command: &str| {
        let args =
            ["backup", "--json", "--stdin-from-command", "--stdin-filename", name, "--", "sh", "-c", command];
        place.run(&args)
    };
    for (command, said) in [
        ("echo half of it; exit 3", "exit status 3"),
        ("echo half of it; kill -9 $$", "killed by signal 9"),
        ("true", "0 bytes"),
    ] {
        let output = from("dump", command);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{command}: {error}");
        assert!(error.contains(said), "{command}: {error}");
    }
    let hangs = ["backup", "--stdin-from-command", "--stdin-idle-timeout", "100ms", "--", "sleep", "600"];
    let begun = Instant::now();
    assert_eq!(place.run(&hangs).status.code(), Some(1));
    assert!(begun.elapsed() < Duration::from_mins(5), "the command was waited for");
    assert_eq!(place.run(&["backup", "--stdin-from-command", "--", "/nonexistent"]).status.code(), Some(1));
    assert_eq!(place.ok(&["--json", "snapshots"]).trim(), "[]");

    let output = from("dumps/db.sql", "printf 'all of it'");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let target = place.text("target");
    place.ok(&["restore", "latest", "--target", &target]);
    assert_eq!(fs::read_to_string(place.path("target/dumps/db.sql")).unwrap(), "all of it");
}

#[test]
fn standard_input_becomes_one_file_when_it_is_as_expected() {
    let place = Place::initialized();
    let source = place.path("source/a");
    let with = |more: &[&str]| {
        let args: Vec<&str> = ["backup", "--stdin"].iter().chain(more).copied().collect();
        let input = fs::File::open(&source).unwrap();
        place.command(&args).stdin(Stdio::from(input)).output().unwrap()
    };
    for bad in [&["--stdin-head", "PGDMP"][..], &["--stdin-tail", "complete"], &["source"]] {
        assert_eq!(with(bad).status.code(), Some(1), "{bad:?}");
    }
    assert_eq!(place.ok(&["--json", "snapshots"]).trim(), "[]");
    let output = with(&["--stdin-head", "content", "--stdin-tail", "of a", "--stdin-min-share", "50"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    place.ok(&["restore", "latest", "--target", &place.text("target")]);
    assert_eq!(fs::read_to_string(place.path("target/stdin")).unwrap(), "content of a");
    fs::write(&source, "c").unwrap();
    assert_eq!(with(&["--stdin-min-share", "50"]).status.code(), Some(1), "it shrank");
}

#[test]
fn a_damaged_snapshot_is_told_and_stands_in_no_others_way() {
    let (place, ..) = two_snapshots();
    let rows: Value = serde_json::from_str(&place.ok(&["--json", "snapshots"])).unwrap();
    let id = |n: usize| rows[n]["id"].as_str().unwrap().to_owned();
    let (good, bad) = (id(0), id(1));
    let file = place.path("repository/snapshots").join(&bad);
    let mut bytes = fs::read(&file).unwrap();
    bytes[20] ^= 1;
    fs::remove_file(&file).unwrap();
    fs::write(&file, bytes).unwrap();
    let answer = |args: &[&str], code: i32| {
        let output = place.run(args);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        (String::from_utf8(output.stdout).unwrap(), error)
    };

    for args in [&["--json", "snapshots"][..], &["--json", "stats"], &["--json", "find", "a"]] {
        let (_, error) = answer(args, 3);
        assert!(error.contains(&bad), "{args:?}: {error}");
    }
    let (listed, _) = answer(&["--json", "snapshots"], 3);
    assert_eq!(serde_json::from_str::<Value>(&listed).unwrap().as_array().unwrap().len(), 1);
    // Whether it is the newest nobody can tell: the person who restores has to know.
    let target = place.text("target");
    let (_, error) = answer(&["restore", "latest", "--target", &target], 1);
    assert!(error.contains(&bad) && error.contains(&good), "{error}");
    answer(&["restore", &good, "--target", &target], 0);
    answer(&["backup", "source"], 0);
    answer(&["prune"], 1);
    let (_, error) = answer(&["check"], 1);
    assert!(error.contains("repo recover`") && error.contains(&format!("repo forget {bad}`")), "{error}");

    answer(&["recover"], 0);
    let (said, _) = answer(&["forget", "--dry-run", "--prune", &bad], 0);
    assert!(said.contains("would remove 1 snapshot that was damaged"), "{said}");
    let (said, _) = answer(&["forget", "--prune", &bad], 0);
    assert!(said.contains("removed 1 snapshot that was damaged"), "{said}");
    answer(&["check", "--read-data"], 0);
    answer(&["--json", "snapshots"], 0);
    place.restic(&["check", "--read-data"]);
}
