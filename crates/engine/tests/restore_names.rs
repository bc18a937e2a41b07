//! Restores to a file system that does not tell capitals apart: NTFS by FUSE, which also lists all names without capitals.
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

use holdfast_engine::restore::{RestoreReport, RestoreSpec, restore};
use holdfast_engine::{Ctx, Id, Repository};
use restoring::{back_up, init, scratch, spec};

/// The file system; gone at the end.
struct Ntfs(PathBuf);

impl Ntfs {
    fn mount(directory: &Path) -> Self {
        let (image, at) = (directory.join("image"), directory.join("disk"));
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        fs::create_dir(&at).unwrap();
        let must = |command: &mut Command| {
            let output = command.output().expect("ntfs-3g, which `make test` installs");
            assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        must(Command::new("mkntfs").args(["-F", "-q", "-Q"]).arg(&image));
        must(Command::new("lowntfs-3g").args(["-o", "ignore_case,permissions"]).arg(&image).arg(&at));
        Self(at)
    }
}

impl Drop for Ntfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

async fn run(repo: &Repository, spec: &RestoreSpec) -> RestoreReport {
    restore(repo, None, spec, &Ctx::default()).await.unwrap()
}

/// The snapshot of a directory with these files, whose content is their name, in a subdirectory.
async fn saved(repo: &Repository, source: &Path, names: &[&str]) -> Id {
    fs::create_dir_all(source.join("sub")).unwrap();
    for name in names {
        fs::write(source.join("sub").join(name), name).unwrap();
    }
    back_up(repo, source).await.snapshot
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_names_that_are_one_the_loss_is_told() {
    let dir = scratch();
    let source = dir.path().join("source");
    let repo = init(&dir.path().join("repo")).await;
    let snapshot = saved(&repo, &source, &["name", "Name", "other"]).await;
    let disk = Ntfs::mount(dir.path());
    let target = disk.0.join("target");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("extra"), "").unwrap();
    let spec = RestoreSpec { delete_extra: true, verify: false, ..spec(snapshot, &source, &target) };
    let report = run(&repo, &spec).await;
    let told: Vec<_> = report.faults.first.iter().map(|f| (f.path.clone(), f.error.clone())).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    let (path, why) = &told[0];
    let names = ["/sub/name", "/sub/Name"];
    assert!(
        names.iter().any(|name| *path == Path::new(name)) && names.iter().any(|name| why.contains(name)),
        "{told:?}"
    );
    assert_eq!(fs::read(target.join("sub/other")).unwrap(), b"other");
    assert!(target.join("extra").exists(), "after a fault nothing is deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_listed_by_another_name_than_it_was_restored_by_is_no_extra() {
    let dir = scratch();
    let source = dir.path().join("source");
    let repo = init(&dir.path().join("repo")).await;
    let snapshot = saved(&repo, &source, &["File", "other"]).await;
    let disk = Ntfs::mount(dir.path());
    let target = disk.0.join("target");
    fs::create_dir_all(target.join("sub")).unwrap();
    fs::write(target.join("sub/extra"), "").unwrap();
    // What was there before is one of them too, and the kernel remembers it.
    fs::write(target.join("sub/FILE"), "of another length").unwrap();
    fs::metadata(target.join("sub/file")).unwrap();
    let spec = RestoreSpec { delete_extra: true, ..spec(snapshot, &source, &target) };
    let planned = run(&repo, &RestoreSpec { dry_run: true, ..spec.clone() }).await.plan;
    assert_eq!(planned.delete.files, 1);
    let report = run(&repo, &spec).await;
    assert_eq!((report.faults.total, report.files_deleted), (0, 1), "{report:?}");
    let mut names: Vec<_> =
        fs::read_dir(target.join("sub")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["file", "other"], "as this file system lists them");
    assert_eq!(fs::read(target.join("sub/File")).unwrap(), b"File");
    // And again, with all in its place.
    let planned = run(&repo, &RestoreSpec { dry_run: true, ..spec.clone() }).await.plan;
    assert_eq!(planned.delete.files, 0);
    assert_eq!(run(&repo, &spec).await.files_deleted, 0);
    assert_eq!(fs::read(target.join("sub/File")).unwrap(), b"File");
}
