//! `holdfast repo forget`, `unforget` and `prune` as a person and as a script meet them, and restic beside them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, which clippy does not know for such"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

const PASSWORD: &str = "0123456789abcdef0123456789abcdef0123456789abcdef";

struct Place(TempDir);

/// Bytes that do not compress and differ with the seed.
fn noise(seed: u8) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 + u64::from(seed);
    let mut bytes = Vec::new();
    while bytes.len() < 100_000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

impl Place {
    /// A repository with three snapshots of one directory, which got a file more each time.
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.path("source")).unwrap();
        place.ok(&["init"]);
        for number in 0..3_u8 {
            fs::write(place.path("source").join(number.to_string()), noise(number)).unwrap();
            place.ok(&["backup", "source", "--tag", &format!("t{number}")]);
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("RESTIC_REPOSITORY", self.path("repository"))
            .env("RESTIC_PASSWORD", PASSWORD)
            .env("TZ", "UTC")
            .current_dir(self.0.path());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(Path::new(env!("CARGO_BIN_EXE_holdfast"))).arg("repo").args(args).output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(&[args, &["--json"]].concat());
        serde_json::from_str(text.lines().last().unwrap()).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
    }

    fn restic(&self, args: &[&str]) -> Value {
        let text = self.restic_text(&[args, &["--json"]].concat());
        serde_json::from_str(text.lines().last().unwrap_or("null"))
            .unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
    }

    fn restic_text(&self, args: &[&str]) -> String {
        let program = std::env::var_os("HOLDFAST_RESTIC_0_19")
            .expect("HOLDFAST_RESTIC_0_19 must name a restic program to compare with; `make test` sets it");
        let output = self.command(Path::new(&program)).arg("--no-cache").args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn snapshots(&self) -> usize {
        self.json(&["snapshots"]).as_array().unwrap().len()
    }
}

/// Takes away what only some releases of restic say, and sorts the groups, which restic leaves to chance.
fn without_counters(mut groups: Value) -> Value {
    groups.as_array_mut().unwrap().sort_by_key(|group| group["tags"].to_string());
    for group in groups.as_array_mut().unwrap() {
        for reason in group["reasons"].as_array_mut().into_iter().flatten() {
            reason.as_object_mut().unwrap().remove("counters");
        }
    }
    groups
}

#[test]
fn forget_prints_what_restic_prints() {
    let place = Place::new();
    for policy in [
        &["--keep-last", "1"][..],
        &["--keep-last", "1", "--keep-tag", "t0", "--keep-monthly", "3", "--group-by", "host,paths"],
        &["--keep-daily", "3", "--group-by", ""],
        &["--keep-within", "1d", "--group-by", "tags"],
    ] {
        let args = [&["forget", "--dry-run"], policy].concat();
        assert_eq!(without_counters(place.json(&args)), without_counters(place.restic(&args)), "{policy:?}");
    }
    assert_eq!(place.snapshots(), 3);
}

#[test]
fn forgotten_snapshots_come_back_until_their_data_are_gone() {
    let place = Place::new();
    place.ok(&["forget", "--keep-last", "1"]);
    assert_eq!(place.snapshots(), 1);
    let listed = place.json(&["unforget"]);
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let id = listed[0]["id"].as_str().unwrap().to_owned();
    place.ok(&["unforget", &id[..8]]);
    assert_eq!(place.restic(&["snapshots"]).as_array().unwrap().len(), 2);
    place.ok(&["unforget", "--all"]);
    assert_eq!(place.snapshots(), 3);

    let said = place.ok(&["forget", "--keep-last", "1", "--prune", "--max-unused", "0"]);
    assert!(said.contains("marked for deletion") && said.contains("freed: 0 B"), "{said}");
    place.ok(&["unforget", "--all"]);
    assert_eq!(place.snapshots(), 3, "a mark takes nothing away");
    place.ok(&["check", "--read-data"]);

    place.ok(&["forget", "--keep-last", "1"]);
    let summary = place.json(&["prune", "--instant", "--max-unused", "0"]);
    assert_eq!(summary["message_type"], "summary");
    assert!(summary["holdfast"]["deleted_packs"].as_u64().unwrap() > 0, "{summary}");
    assert_eq!(place.json(&["unforget"]).as_array().unwrap().len(), 0);
    place.ok(&["check", "--read-data"]);
    let theirs = place.restic_text(&["prune", "--dry-run", "--max-unused", "0"]);
    assert!(
        theirs.contains("total prune:           0 blobs / 0 B"),
        "restic finds nothing left to prune: {theirs}"
    );
    place.restic_text(&["check", "--read-data"]);
}

#[test]
fn what_makes_no_sense_is_refused_with_advice() {
    let place = Place::new();
    let refused = |args: &[&str], what: &str| {
        let output = place.run(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains(what), "{args:?}: {said}");
        assert_eq!(place.snapshots(), 3);
    };
    refused(&["forget"], "neither snapshots nor a policy");
    refused(&["forget", "latest", "--keep-last", "1"], "not both");
    refused(&["forget", "--keep-tag", "nobody-has-it"], "would keep none");
    refused(&["forget", "--unsafe-allow-remove-all"], "say of which host");
    refused(&["unforget", "abcd"], "no forgotten snapshot");
    let all: Vec<String> = place
        .json(&["snapshots"])
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["id"].as_str().unwrap().to_owned())
        .collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    refused(&[&["forget"], all.as_slice()].concat(), "must stay");
    place.ok(&[&["forget", "--unsafe-allow-remove-all"], all.as_slice()].concat());
    let output = place.run(&["prune", "--instant"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("--allow-large-removal"));
    place.ok(&["unforget", "--all"]);
    assert_eq!(place.snapshots(), 3);
}

#[test]
fn a_dry_run_foretells_what_is_free_without_what_would_be_forgotten() {
    let place = Place::new();
    let foretold = place.json(&["forget", "latest", "--prune", "--dry-run"]);
    assert_eq!(place.snapshots(), 3);
    assert_ne!(place.json(&["prune", "--dry-run"])["blobs"], foretold["blobs"]);
    place.ok(&["forget", "latest"]);
    assert_eq!(place.json(&["prune", "--dry-run"])["blobs"], foretold["blobs"]);
    assert!(foretold["blobs"]["unused"].as_u64().unwrap() > 0, "{foretold}");
}
