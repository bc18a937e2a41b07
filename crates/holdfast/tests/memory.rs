//! What the program has resident at most while it works: the budget of 100 MB and the program itself, however much there is
//! to save.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, which clippy does not know for such"
)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Long enough to be taken for a random one, whose key is quick to derive.
const PASSWORD: &str = "0123456789abcdef0123456789abcdef0123456789abcdef";
/// Data: more than ten times what may be resident of it, in bytes.
const SOURCE: u64 = 1 << 30;
/// 100 MB, and what the program takes of itself: its code, its threads' stacks, the C library's heaps; in bytes.
const MOST: u64 = 130 << 20;

/// Files of every size, half of their content noise and half of it text.
fn fill(source: &Path) {
    fs::create_dir(source).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = Vec::with_capacity(1 << 20);
    let (mut written, mut number) = (0, 0_u32);
    for size in [64 << 20, 700_000, 9 << 20, 3_000, 2 << 20, 40_000].into_iter().cycle() {
        if written >= SOURCE {
            return;
        }
        let mut file = fs::File::create(source.join(format!("f{number}"))).unwrap();
        let mut left = size;
        while left > 0 {
            block.clear();
            while block.len() < left.min(1 << 20) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                block.extend_from_slice(&state.to_le_bytes());
                block.extend_from_slice(b"words of text that compress ");
            }
            block.truncate(left.min(1 << 20));
            std::io::Write::write_all(&mut file, &block).unwrap();
            left -= block.len();
        }
        written += size as u64;
        number += 1;
    }
}

/// Runs a command to its end; the most that it had resident, as the kernel counts it, in bytes.
fn peak(at: &Path, args: &[&str]) -> u64 {
    let mut child = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .arg("repo")
        .args(args)
        .env_clear()
        .env("HOLDFAST_REPOSITORY", at.join("repository"))
        .env("HOLDFAST_PASSWORD", PASSWORD)
        .current_dir(at)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    // The kernel's own high-water mark: what is missed is what came in the last moment only.
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let mark = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = mark.and_then(|mark| mark.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        most = most.max(kib.unwrap_or_default() << 10);
        if let Some(ended) = child.try_wait().unwrap() {
            assert!(ended.success(), "{args:?}: {ended}");
            assert!(most > 10 << 20, "{args:?}: nothing was measured");
            return most;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_backup_a_check_and_a_restore_keep_to_the_budget() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let at = dir.path();
    fill(&at.join("source"));
    peak(at, &["init"]);
    for args in [
        &["backup", "source"][..],
        &["check", "--read-data"],
        &["restore", "latest", "--target", "target", "--verify"],
    ] {
        let most = peak(at, args);
        assert!(most <= MOST, "{args:?} had {} MiB resident", most >> 20);
    }
}
