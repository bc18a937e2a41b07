//! Repositories, keys, locks and trees against stock restic: each reads what the other wrote.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's way to fail"
)]

mod stock;

use std::collections::HashSet;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use holdfast_engine::crypto::KdfParams;
use holdfast_engine::format::pack::BlobKind;
use holdfast_engine::format::tree::Tree;
use holdfast_engine::lock::{Holder, LockMode};
use holdfast_engine::repository::{InitOptions, SnapshotFilter};
use holdfast_engine::store::{self, FileKind, Location, Store, StoreOptions};
use holdfast_engine::{Ctx, ErrorKind, Id, Repository};
use stock::{PASSWORD, Restic, VERSIONS};

fn open_store(path: &Path) -> Arc<dyn Store> {
    store::open(&Location::Local(path.to_owned()), &StoreOptions::default(), &Ctx::default()).unwrap()
}

async fn open(path: &Path) -> Repository {
    Repository::open(open_store(path), &PASSWORD.to_owned().into(), &Ctx::default()).await.unwrap()
}

async fn init(path: &Path, version: u32) -> Repository {
    let options = InitOptions {
        password: PASSWORD.to_owned().into(),
        recovery_password: Some("in the safe".to_owned().into()),
        version,
        hostname: "h".to_owned(),
        username: "u".to_owned(),
    };
    Repository::init(open_store(path), &options, &Ctx::default()).await.unwrap()
}

fn holder() -> Holder {
    Holder {
        hostname: "holdfast-some-job".to_owned(),
        username: "tester".to_owned(),
        pid: std::process::id(),
        cluster: Some("c".to_owned()),
        job_uid: Some("some-job".to_owned()),
    }
}

/// A directory with all sorts of names, links, times and contents.
fn make_source(path: &Path, restic: &Restic) {
    let names: [&[u8]; 14] = [
        b"plain",
        b"with space",
        b"quote\"d",
        b"back\\slash",
        b"new\nline",
        b"tab\t",
        b"<html>&amp;",
        b"\x7f",
        b"\xff\xfe",
        "umlaut-\u{e4}".as_bytes(),
        "line\u{2028}separator".as_bytes(),
        "emoji-\u{1F600}".as_bytes(),
        "unassigned-\u{378}".as_bytes(),
        "zero\u{200b}width".as_bytes(),
    ];
    std::fs::create_dir_all(path.join("sub/empty")).unwrap();
    for (number, name) in names.into_iter().enumerate() {
        let file = path.join("sub").join(std::ffi::OsStr::from_bytes(name));
        std::fs::write(&file, vec![b'x'; number * 1000]).unwrap();
    }
    std::os::unix::fs::symlink("sub/plain", path.join("link")).unwrap();
    // restic 0.14 stores a replacement character in place of bytes that are no UTF-8: not to be written alike.
    if restic.version != "0.14" {
        std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(b"to/\xff"), path.join("raw link")).unwrap();
    }
    std::fs::hard_link(path.join("sub/quote\"d"), path.join("hard")).unwrap();
    let noise: Vec<u8> =
        (0..3_000_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(path.join("large"), noise).unwrap();
    let old = std::fs::File::create(path.join("old")).unwrap();
    old.set_modified(std::time::UNIX_EPOCH - Duration::from_millis(1500)).unwrap();
}

/// Reads everything that is in a repository, and demands that trees are written back in the same bytes.
async fn read_all(repo: &Repository) -> usize {
    let snapshots = repo.snapshots().await.unwrap();
    let index = repo.load_index(&Ctx::default()).await.unwrap();
    let mut trees = 0;
    let mut seen = HashSet::new();
    let mut open: Vec<Id> = snapshots.iter().map(|(_, s)| s.tree).collect();
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let json = repo.load_blob(&index, BlobKind::Tree, &id).await.unwrap();
        let tree = Tree::parse(&json).unwrap();
        assert_eq!(String::from_utf8_lossy(&tree.to_json().unwrap()), String::from_utf8_lossy(&json));
        trees += 1;
        for node in &tree.nodes {
            open.extend(node.subtree);
            for content in node.content.iter().flatten() {
                repo.load_blob(&index, BlobKind::Data, content).await.unwrap();
            }
        }
    }
    let sizes: HashSet<_> =
        repo.store().list(FileKind::Pack).await.unwrap().into_iter().map(|e| (e.id, e.size)).collect();
    assert_eq!(sizes, index.packs().iter().map(|p| (p.id, p.size)).collect());
    trees
}

#[tokio::test]
async fn what_restic_writes_is_read_and_trees_are_written_alike() {
    for (restic, _) in VERSIONS {
        for version in ["1", "2"] {
            let directory = tempfile::tempdir().unwrap();
            let (repository, source) = (directory.path().join("repo"), directory.path().join("source"));
            let restic = Restic::new(restic, &repository);
            make_source(&source, &restic);
            restic.run(["init", "--repository-version", version]);
            restic.run(["backup", source.to_str().unwrap(), "--tag", "a,b", "--host", "there"]);
            let repo = open(&repository).await;
            assert_eq!(repo.version().to_string(), version);
            let (_, snapshot) = repo.find_snapshot("latest", &SnapshotFilter::default()).await.unwrap();
            assert_eq!(
                (snapshot.hostname.as_str(), snapshot.tags.as_slice()),
                ("there", &["a".to_owned(), "b".to_owned()][..])
            );
            assert_eq!(snapshot.paths, [source.to_str().unwrap()]);
            assert!(read_all(&repo).await >= 3, "restic {}", restic.version);
        }
    }
}

#[tokio::test]
async fn restic_opens_checks_and_uses_what_we_initialise() {
    for (restic, _) in VERSIONS {
        for version in [1, 2] {
            let directory = tempfile::tempdir().unwrap();
            let (repository, source) = (directory.path().join("repo"), directory.path().join("source"));
            let restic = Restic::new(restic, &repository);
            make_source(&source, &restic);
            let repo = init(&repository, version).await;
            let config: serde_json::Value = serde_json::from_str(&restic.run(["cat", "config"])).unwrap();
            assert_eq!(config["id"], repo.id());
            assert_eq!(config["version"], version);
            restic.run(["backup", source.to_str().unwrap()]);
            restic.run(["check", "--read-data"]);
            assert!(read_all(&repo).await >= 3);
            // The recovery password opens it too.
            let mut command = restic.command(["cat", "masterkey"]);
            assert!(command.env("RESTIC_PASSWORD", "in the safe").output().unwrap().status.success());
        }
    }
}

#[tokio::test]
async fn keys_go_both_ways() {
    for (restic, _) in VERSIONS {
        let directory = tempfile::tempdir().unwrap();
        let repository = directory.path().join("repo");
        let restic = Restic::new(restic, &repository);
        restic.run(["init"]);
        let repo = open(&repository).await;
        repo.add_key(&"ours".to_owned().into(), "me", "here", KdfParams::CHOSEN_PASSWORD).await.unwrap();
        let mut command = restic.command(["key", "list"]);
        let listed = command.env("RESTIC_PASSWORD", "ours").output().unwrap();
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(listed.contains("me") && listed.contains("here"), "{listed}");
        let file = directory.path().join("password");
        std::fs::write(&file, "theirs").unwrap();
        restic.run(["key", "add", "--new-password-file", file.to_str().unwrap()]);
        let store = open_store(&repository);
        Repository::open(Arc::clone(&store), &"theirs".to_owned().into(), &Ctx::default()).await.unwrap();
        let wrong =
            Repository::open(store, &"nobody's".to_owned().into(), &Ctx::default()).await.unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::WrongPassword);
        assert_eq!(repo.keys().await.unwrap().len(), 3);
    }
}

#[tokio::test]
async fn restic_heeds_our_locks() {
    for (restic, _) in VERSIONS {
        let directory = tempfile::tempdir().unwrap();
        let (repository, source) = (directory.path().join("repo"), directory.path().join("source"));
        let restic = Restic::new(restic, &repository);
        make_source(&source, &restic);
        let repo = init(&repository, 2).await;
        let ctx = Ctx::default();
        let backup = ["backup", source.to_str().unwrap()];

        let shared = repo.lock(LockMode::Shared, &holder(), Duration::ZERO, &[], &ctx).await.unwrap();
        assert!(restic.run(["list", "locks", "--no-lock"]).contains(&shared.id().to_hex()));
        let seen: serde_json::Value =
            serde_json::from_str(&restic.run(["cat", "lock", &shared.id().to_hex(), "--no-lock"])).unwrap();
        assert_eq!(seen["hostname"], "holdfast-some-job");
        assert_eq!(seen["exclusive"], false);
        restic.run(backup);
        let check = restic.output(["check"]);
        assert!(!check.status.success(), "restic {} wants to be alone for a check", restic.version);
        assert!(String::from_utf8_lossy(&check.stderr).contains("holdfast-some-job"));
        restic.run(["unlock"]);
        shared.confirm().await.expect("a lock that is fresh is not stale to restic");
        shared.release().await.unwrap();
        restic.run(["check"]);

        let alone = repo.lock(LockMode::Exclusive, &holder(), Duration::ZERO, &[], &ctx).await.unwrap();
        assert!(!restic.output(backup).status.success());
        alone.release().await.unwrap();
        restic.run(backup);
        assert_eq!(repo.locks().await.unwrap(), [], "neither of us leaves a lock");
    }
}

#[tokio::test]
async fn we_heed_restics_locks() {
    for (restic, _) in VERSIONS {
        let directory = tempfile::tempdir().unwrap();
        let repository = directory.path().join("repo");
        let restic = Restic::new(restic, &repository);
        let repo = init(&repository, 2).await;
        let mut backup = restic
            .command(["backup", "--stdin", "--stdin-filename", "pipe"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut waited = 0;
        while repo.locks().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            waited += 1;
            assert!(waited < 600, "restic takes no lock");
        }
        let ctx = Ctx::default();
        let error = repo.lock(LockMode::Exclusive, &holder(), Duration::ZERO, &[], &ctx).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked);
        repo.lock(LockMode::Shared, &holder(), Duration::ZERO, &[], &ctx)
            .await
            .unwrap()
            .release()
            .await
            .unwrap();
        let waiting = repo.clone();
        let alone = tokio::spawn(async move {
            waiting.lock(LockMode::Exclusive, &holder(), Duration::from_mins(1), &[], &Ctx::default()).await
        });
        let mut pipe = backup.stdin.take().unwrap();
        pipe.write_all(b"the end").unwrap();
        drop(pipe);
        assert!(tokio::task::spawn_blocking(move || backup.wait()).await.unwrap().unwrap().success());
        alone.await.unwrap().unwrap().release().await.unwrap();
    }
}
