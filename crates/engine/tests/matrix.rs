//! Every client goes on where another left: Holdfast and three versions of restic initialise, back up one after the
//! other into the same repository, each with the other's snapshot as its parent, and all read what all wrote.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what went wrong by failing"
)]

mod restoring;
mod stock;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use restoring::{back_up, check_all, init, open, run_clean, scratch, spec};
use stock::{Restic, VERSIONS, assert_same, noise, settle};

/// Ours, and restic's versions.
fn clients() -> impl Iterator<Item = &'static str> {
    std::iter::once("holdfast").chain(VERSIONS.iter().map(|(version, _)| *version))
}

fn make_source(at: &Path) {
    fs::create_dir_all(at.join("sub/empty")).unwrap();
    fs::write(at.join("large"), noise(1, 1_500_000)).unwrap();
    fs::write(at.join("text"), "the same line again\n".repeat(4000)).unwrap();
    fs::write(at.join("umlaut \u{e4} \"quoted\"\n"), "x").unwrap();
    fs::hard_link(at.join("text"), at.join("sub/hard")).unwrap();
    std::os::unix::fs::symlink("../text", at.join("sub/link")).unwrap();
    settle(at);
}

/// What each client finds changed since the one before.
fn change(source: &Path, client: &str) {
    let new = source.join("sub").join(client);
    fs::write(&new, noise(client.len() as u64, 5000)).unwrap();
    settle(&new);
    stock::append(&source.join("text"), client.as_bytes());
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_reads_and_goes_on_with_what_every_other_wrote() {
    let dir = scratch();
    for first in clients() {
        let source = dir.path().join("source");
        make_source(&source);
        let at = dir.path().join(format!("repo of {first}"));
        if first == "holdfast" {
            init(&at).await;
        } else {
            Restic::new(first, &at).run(["init", "--repository-version", "2"]);
        }
        let kept = |writer: &str| dir.path().join(format!("kept by {writer} in {first}"));
        let mut written = Vec::new();
        for writer in clients() {
            change(&source, writer);
            let id = if writer == "holdfast" {
                let report = back_up(&open(&at).await, &source).await;
                assert_eq!(report.faults.first, [], "{first}, {writer}");
                assert_eq!(report.parent, written.last().copied(), "{first}, {writer}");
                report.snapshot
            } else {
                let summary = Restic::new(writer, &at).backup(&source, "test", &[]);
                if !written.is_empty() {
                    let counts = ["files_new", "files_changed"].map(|key| summary[key].as_u64().unwrap());
                    // A new file, and one that grew under its two names.
                    assert_eq!(counts, [1, 2], "{first}, {writer}: {summary}");
                }
                let snapshots = open(&at).await.snapshots().await.unwrap();
                snapshots.into_iter().map(|(id, _)| id).find(|id| !written.contains(id)).unwrap()
            };
            written.push(id);
            copy(&source, &kept(writer));
            let repo = open(&at).await;
            let check = check_all(&repo).await;
            assert!(check.is_sound(), "{first}, {writer}: {:#?}", check.findings);
            let target = dir.path().join("target");
            run_clean(&repo, &spec(id, &source, &target)).await;
            assert_same(
                &kept(writer),
                &target,
                &format!("made by {first}, written by {writer}, read by holdfast"),
            );
            fs::remove_dir_all(&target).unwrap();
        }
        for (version, _) in VERSIONS {
            let restic = Restic::new(version, &at);
            restic.check();
            // All that all wrote in our own repository, the last of all in the others'.
            let oldest = if first == "holdfast" { 0 } else { written.len() - 1 };
            for (writer, id) in clients().zip(&written).skip(oldest) {
                let target = dir.path().join("target");
                restic.restore(&id.to_hex(), &target);
                let restored: PathBuf = target.join(source.strip_prefix("/").unwrap());
                assert_same(
                    &kept(writer),
                    &restored,
                    &format!("made by {first}, written by {writer}, read by restic {version}"),
                );
                fs::remove_dir_all(&target).unwrap();
            }
        }
        fs::remove_dir_all(&source).unwrap();
    }
}
