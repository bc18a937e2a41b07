//! A snapshot's content is untrusted: whatever its trees say, nothing outside the target is touched, memory stays
//! bounded, and the good files beside the bad ones come back.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets a surprise must fail, in its helpers too"
)]

mod restoring;
mod stock;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_engine::archive::{self, ArchiveSpec, Format};
use holdfast_engine::copy::copy;
use holdfast_engine::crypto::Key;
use holdfast_engine::diff::diff;
use holdfast_engine::format::index_file::{IndexFile, IndexedPack};
use holdfast_engine::format::key_file::KeyFile;
use holdfast_engine::format::node::{Node, NodeType, go_mode};
use holdfast_engine::format::pack::{self, BlobKind, PackedBlob};
use holdfast_engine::format::snapshot::Snapshot;
use holdfast_engine::format::time::Time;
use holdfast_engine::lock::{Holder, LockMode, Locking};
use holdfast_engine::prune::{PruneSpec, prune};
use holdfast_engine::repair::{Mended, RepairSnapshots, RepairedSnapshot, repair_snapshots};
use holdfast_engine::restore::{Ownership, RestoreReport, RestoreSpec};
use holdfast_engine::store::{FileKind, FileName, PutMode, Store};
use holdfast_engine::{Ctx, ErrorKind, Id, Repository, browse};
use restoring::{check_all, init, run, scratch, spec, store_at};
use stock::PASSWORD;

/// Writes a repository that no honest client would write.
struct Forger {
    store: Arc<dyn Store>,
    repo: Repository,
    key: Key,
    blobs: Vec<(PackedBlob, Vec<u8>)>,
    offset: u32,
}

impl Forger {
    async fn new(at: &Path) -> Self {
        let repo = init(at).await;
        let store = store_at(at);
        let entry = store.list(FileKind::Key).await.unwrap()[0];
        let file = store.get(FileName { kind: FileKind::Key, id: entry.id }, None).await.unwrap();
        let key = KeyFile::parse(&file).unwrap().open(&PASSWORD.to_owned().into()).unwrap().unwrap();
        Self { store, repo, key, blobs: Vec::new(), offset: 0 }
    }

    /// Adds a blob under its true id.
    fn blob(&mut self, kind: BlobKind, plain: &[u8]) -> Id {
        self.blob_as(kind, Id::hash(plain), plain, None)
    }

    /// Adds a blob under any id, said to be compressed or not.
    fn blob_as(&mut self, kind: BlobKind, id: Id, stored: &[u8], uncompressed: Option<u32>) -> Id {
        let sealed = self.key.seal(stored).unwrap();
        let length = u32::try_from(sealed.len()).unwrap();
        self.blobs.push((PackedBlob { kind, id, offset: self.offset, length, uncompressed }, sealed));
        self.offset += length;
        id
    }

    fn tree(&mut self, nodes: &[Node]) -> Id {
        let mut json = b"{\"nodes\":[".to_vec();
        for (i, node) in nodes.iter().enumerate() {
            if i > 0 {
                json.push(b',');
            }
            node.write_json(&mut json);
        }
        json.extend_from_slice(b"]}\n");
        self.blob(BlobKind::Tree, &json)
    }

    async fn seal_pack(&mut self) {
        let blobs: Vec<PackedBlob> = self.blobs.iter().map(|(b, _)| *b).collect();
        let mut body: Vec<u8> = self.blobs.drain(..).flat_map(|(_, sealed)| sealed).collect();
        let header = self.key.seal(&pack::encode_header(&blobs)).unwrap();
        body.extend_from_slice(&header);
        body.extend_from_slice(&u32::try_from(header.len()).unwrap().to_le_bytes());
        self.offset = 0;
        let id = self.put(FileKind::Pack, body).await;
        let index = IndexFile::to_json(&[IndexedPack { id, blobs, marked: false }]).unwrap();
        let index = self.key.seal(&index).unwrap();
        self.put(FileKind::Index, index).await;
    }

    async fn put(&self, kind: FileKind, body: Vec<u8>) -> Id {
        let id = Id::hash(&body);
        self.store.put(FileName { kind, id }, body.into(), PutMode::ContentAddressed).await.unwrap();
        id
    }

    async fn snapshot(&mut self, tree: Id) -> Id {
        self.seal_pack().await;
        let json = format!("{{\"time\":\"2026-01-01T00:00:00Z\",\"tree\":\"{tree}\",\"paths\":[\"/x\"]}}");
        let sealed = self.key.seal(json.as_bytes()).unwrap();
        self.put(FileKind::Snapshot, sealed).await
    }

    async fn restore(&self, snapshot: Id, target: &Path) -> RestoreReport {
        self.restore_with(snapshot, target, |_| {}).await
    }

    async fn restore_with(
        &self,
        snapshot: Id,
        target: &Path,
        change: impl FnOnce(&mut RestoreSpec),
    ) -> RestoreReport {
        let mut spec = RestoreSpec { subpath: None, verify: false, ..spec(snapshot, Path::new("/"), target) };
        change(&mut spec);
        run(&self.repo, &spec).await.unwrap_or_else(|e| panic!("{}", e.chain()))
    }

    async fn mend(&self, snapshots: &[(Id, Snapshot)]) -> Vec<RepairedSnapshot> {
        let (holder, ctx) = (Holder::this_process("test", "test"), Ctx::default());
        let lock =
            self.repo.lock(LockMode::Exclusive, &holder, Duration::from_secs(20), &[], &ctx).await.unwrap();
        let mended =
            repair_snapshots(&self.repo, &lock, snapshots, RepairSnapshots::default(), &ctx).await.unwrap();
        lock.release().await.unwrap();
        mended
    }
}

fn me() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

fn node(name: &[u8], kind: NodeType) -> Node {
    let (uid, gid) = me();
    let mtime = Time::new(1_700_000_000, 0);
    let mode = match kind {
        NodeType::Dir => go_mode::DIR | 0o755,
        _ => 0o644,
    };
    Node { name: name.to_vec(), kind, mode, uid, gid, mtime, atime: mtime, links: 1, ..Node::default() }
}

fn file(name: &[u8], content: &[(Id, usize)]) -> Node {
    let size = content.iter().map(|(_, n)| *n as u64).sum();
    Node { content: Some(content.iter().map(|(id, _)| *id).collect()), size, ..node(name, NodeType::File) }
}

fn dir(name: &[u8], subtree: Id) -> Node {
    Node { subtree: Some(subtree), ..node(name, NodeType::Dir) }
}

fn link(name: &[u8], to: &[u8]) -> Node {
    Node { link_target: to.to_vec(), ..node(name, NodeType::Symlink) }
}

/// Everything around the target, to see that nothing of it changed.
fn surroundings(at: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for path in restoring::files_below(at) {
        if !path.starts_with(at.join("target")) && !path.starts_with(at.join("repo")) {
            found.insert(path.clone(), fs::read(&path).unwrap_or_default());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_directory_leads_to_none() {
    let dir = scratch();
    let mut forger = Forger::new(&dir.path().join("repo")).await;
    let content = forger.blob(BlobKind::Data, b"content");
    let odd = Node { subtree: Some(Id::hash(b"nowhere")), ..file(b"a", &[(content, 7)]) };
    let tree = forger.tree(&[odd]);
    forger.snapshot(tree).await;
    assert!(check_all(&forger.repo).await.is_sound());
    // What a check finds whole is nothing that ends a prune.
    let locking =
        Locking { holder: Holder::this_process("h", "u"), wait: Duration::ZERO, dead_holders: Vec::new() };
    let spec = PruneSpec { dry_run: true, ..PruneSpec::default() };
    let report = prune(&forger.repo, &locking, &spec, &Ctx::default()).await.unwrap();
    assert_eq!((report.totals.used_blobs, report.totals.unused_blobs), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_no_names_are_refused_and_the_others_restored() {
    let scratch = scratch();
    let at = scratch.path();
    fs::write(at.join("victim"), "untouched").unwrap();
    let before = surroundings(at);
    let mut forger = Forger::new(&at.join("repo")).await;
    let content = forger.blob(BlobKind::Data, b"evil");
    let inner_nodes = [file(b"inner", &[(content, 4)])];
    let inner = forger.tree(&inner_nodes);
    let bad: [&[u8]; 8] =
        [b"", b".", b"..", b"../victim", b"/etc/holdfast-was-here", b"a/../../victim", b"nul\0byte", b"zz/"];
    let mut snapshots = Vec::new();
    for name in bad {
        for evil in [file(name, &[(content, 4)]), dir(name, inner), link(name, b"/etc")] {
            let mut nodes = vec![evil, file(b"good", &[(content, 4)])];
            nodes.sort_by(|a, b| a.name.cmp(&b.name));
            let tree = forger.tree(&nodes);
            snapshots.push(forger.snapshot(tree).await);
        }
    }
    for (i, snapshot) in snapshots.iter().enumerate() {
        let target = at.join("target").join(i.to_string());
        let report = forger.restore_with(*snapshot, &target, |s| s.delete_extra = true).await;
        assert_eq!(report.faults.total, 1, "{:?}", report.faults.first);
        assert_eq!(report.files_restored, 1);
        let names: Vec<_> = fs::read_dir(&target).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["good"], "{snapshot}");
    }
    assert_eq!(surroundings(at), before);
    assert!(!Path::new("/etc/holdfast-was-here").exists());
    let check = check_all(&forger.repo).await;
    assert_eq!(check.errors, 24, "check names them too: {:?}", check.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn doubled_and_unsorted_names_make_a_directory_unreadable() {
    let scratch = scratch();
    let mut forger = Forger::new(&scratch.path().join("repo")).await;
    let content = forger.blob(BlobKind::Data, b"x");
    let doubled = forger.tree(&[link(b"a", b"/etc"), file(b"a", &[(content, 1)])]);
    let unsorted = forger.tree(&[file(b"b", &[(content, 1)]), file(b"a", &[(content, 1)])]);
    let root =
        forger.tree(&[dir(b"doubled", doubled), file(b"good", &[(content, 1)]), dir(b"unsorted", unsorted)]);
    let snapshot = forger.snapshot(root).await;
    let target = scratch.path().join("target");
    let report = forger.restore(snapshot, &target).await;
    assert_eq!((report.faults.total, report.files_restored), (2, 1), "{:?}", report.faults.first);
    assert_eq!(fs::read_dir(target.join("doubled")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_already_in_the_target_are_not_followed() {
    let scratch = scratch();
    let at = scratch.path();
    fs::create_dir(at.join("outside")).unwrap();
    fs::write(at.join("outside/file"), "untouched").unwrap();
    fs::write(at.join("victim"), "untouched").unwrap();
    let before = surroundings(at);
    let mut forger = Forger::new(&at.join("repo")).await;
    let content = forger.blob(BlobKind::Data, b"evil");
    let first = forger.tree(&[link(b"dir", b"../outside"), link(b"file", b"../victim")]);
    let first = forger.snapshot(first).await;
    let inner = forger.tree(&[file(b"file", &[(content, 4)]), file(b"new", &[(content, 4)])]);
    let second = forger.tree(&[dir(b"dir", inner), file(b"file", &[(content, 4)])]);
    let second = forger.snapshot(second).await;
    let target = at.join("target");
    forger.restore(first, &target).await;
    assert!(target.join("dir").is_symlink());
    let report = forger.restore(second, &target).await;
    assert_eq!(report.faults.first, []);
    assert_eq!(surroundings(at), before);
    assert_eq!(fs::read(target.join("dir/new")).unwrap(), b"evil");
    assert!(!target.join("dir").is_symlink() && !target.join("file").is_symlink());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_swapped_for_a_link_meanwhile_leads_nowhere() {
    let scratch = scratch();
    let at = scratch.path();
    fs::create_dir(at.join("outside")).unwrap();
    let mut forger = Forger::new(&at.join("repo")).await;
    let content = forger.blob(BlobKind::Data, b"evil");
    let nodes: Vec<Node> = (0..400).map(|i| file(format!("f{i:03}").as_bytes(), &[(content, 4)])).collect();
    let inner = forger.tree(&nodes);
    let root = forger.tree(&[dir(b"dir", inner)]);
    let snapshot = forger.snapshot(root).await;
    let target = at.join("target");
    fs::create_dir(&target).unwrap();
    symlink(at.join("outside"), target.join("trap")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = {
        let (stop, target) = (Arc::clone(&stop), target.clone());
        std::thread::spawn(move || {
            let mut swaps = 0_u32;
            while !stop.load(Ordering::SeqCst) {
                // Exchanges the directory and the link in one step, as an attacker in the volume could.
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let (a, b) = (target.join("dir"), target.join("trap"));
                swaps += u32::from(
                    rustix::fs::renameat_with(rustix::fs::CWD, a, rustix::fs::CWD, b, flags).is_ok(),
                );
            }
            swaps
        })
    };
    for _ in 0..10 {
        let spec = RestoreSpec {
            subpath: None,
            verify: true,
            delete_extra: false,
            ..spec(snapshot, Path::new("/"), &target)
        };
        // It may fail; it must not get out.
        let _ = run(&forger.repo, &spec).await;
        assert_eq!(fs::read_dir(at.join("outside")).unwrap().count(), 0);
    }
    stop.store(true, Ordering::SeqCst);
    assert!(swapper.join().unwrap() > 0, "nothing was swapped: the test proved nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn setuid_is_dropped_where_the_owner_is_not_restored() {
    let scratch = scratch();
    let mut forger = Forger::new(&scratch.path().join("repo")).await;
    let content = forger.blob(BlobKind::Data, b"#!/bin/sh");
    let mut evil = file(b"evil", &[(content, 9)]);
    evil.mode = 0o755 | go_mode::SETUID;
    evil.uid += 12_345;
    let root = forger.tree(&[evil]);
    let snapshot = forger.snapshot(root).await;
    let target = scratch.path().join("target");
    let report = forger.restore_with(snapshot, &target, |s| s.ownership = Ownership::Keep).await;
    assert_eq!(report.metadata_faults.by_action.get("setuid"), Some(&1));
    // That it was not given away is no fault, and is told.
    assert_eq!(report.owners_kept.total, 1);
    assert!(report.owners_kept.first[0].path.ends_with("evil"), "{:?}", report.owners_kept);
    assert_eq!(target.join("evil").metadata().unwrap().mode() & 0o7777, 0o755);
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_lie_cost_their_file_and_no_memory() {
    let scratch = scratch();
    let mut forger = Forger::new(&scratch.path().join("repo")).await;
    let good = forger.blob(BlobKind::Data, b"good");
    let other = forger.blob_as(BlobKind::Data, Id::hash(b"what the name says"), b"something else", None);
    let huge = forger.blob_as(BlobKind::Data, Id::hash(b"huge"), b"not a frame", Some(u32::MAX));
    let short = forger.blob_as(BlobKind::Data, Id::hash(b"short"), b"not a frame", Some(5));
    let absent = Id::hash(b"in no index");
    let lying = Node { size: 1 << 60, ..file(b"lying", &[(good, 4)]) };
    let root = forger.tree(&[
        file(b"absent", &[(absent, 9)]),
        file(b"good", &[(good, 4)]),
        lying,
        file(b"other", &[(other, 14)]),
        file(b"short", &[(short, 5)]),
    ]);
    let snapshot = forger.snapshot(root).await;
    let target = scratch.path().join("target");
    let report = forger.restore(snapshot, &target).await;
    let mut bad: Vec<_> = report.faults.first.iter().map(|f| f.path.clone()).collect();
    bad.sort();
    assert_eq!(bad, ["/absent", "/lying", "/other", "/short"].map(PathBuf::from));
    assert_eq!(fs::read(target.join("good")).unwrap(), b"good");
    for name in ["absent", "other", "short"] {
        assert!(!target.join(name).exists(), "{name} looks like a file");
    }

    let root = forger.tree(&[file(b"huge", &[(huge, u32::MAX as usize)])]);
    let snapshot = forger.snapshot(root).await;
    let spec = RestoreSpec {
        subpath: None,
        verify: false,
        ..spec(snapshot, Path::new("/"), &scratch.path().join("two"))
    };
    match run(&forger.repo, &spec).await {
        Ok(report) => assert_eq!(report.faults.total, 1),
        Err(e) => assert_eq!(e.kind(), ErrorKind::TargetFull),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_takes_no_file_whose_length_lies() {
    let scratch = scratch();
    let mut forger = Forger::new(&scratch.path().join("repo")).await;
    let good = forger.blob(BlobKind::Data, b"good");
    let first = Node { inode: 7, device_id: 3, links: 2, ..file(b"a", &[(good, 4)]) };
    let lies = [
        Node { size: 4, content: None, ..file(b"f", &[]) },
        Node { size: 5, ..file(b"f", &[(good, 4)]) },
        Node { size: 3, ..file(b"f", &[(good, 4)]) },
        // As a further name of one that is right.
        Node { size: 5, name: b"f".to_vec(), ..first.clone() },
    ];
    for lie in lies {
        let root = forger.tree(&[first.clone(), lie]);
        let snapshot = forger.snapshot(root).await;
        let snapshot = forger.repo.load_snapshot(&snapshot).await.unwrap();
        let index = forger.repo.load_index(&Ctx::default()).await.unwrap();
        let write = async |path: &str, format| {
            let (path, base) = (PathBuf::from(path), PathBuf::from("/"));
            let spec = ArchiveSpec { snapshot: snapshot.clone(), path, base, format };
            let out = fs::File::create(scratch.path().join("out")).unwrap();
            archive::write(&forger.repo, &index, spec, out, &Ctx::default()).await
        };
        assert_eq!(write("/a", Format::Tar).await.unwrap().bytes, 4);
        let error = write("/f", Format::Tar).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
        assert_eq!(fs::metadata(scratch.path().join("out")).unwrap().len(), 0);
        for format in [Format::Tar, Format::Zip] {
            assert_eq!(write("/", format).await.unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_other_names_is_not_cut_short_for_them() {
    let scratch = scratch();
    let mut forger = Forger::new(&scratch.path().join("repo")).await;
    let good = forger.blob(BlobKind::Data, b"good");
    let (outside, target) = (scratch.path().join("outside"), scratch.path().join("target"));
    fs::create_dir(&target).unwrap();
    fs::write(&outside, "good, and more").unwrap();
    fs::hard_link(&outside, target.join("a")).unwrap();
    let root = forger.tree(&[file(b"a", &[(good, 4)])]);
    let snapshot = forger.snapshot(root).await;
    let report = forger.restore(snapshot, &target).await;
    assert_eq!((report.faults.total, report.files_restored), (0, 1), "{:?}", report.faults.first);
    assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "good");
    assert_eq!(fs::read_to_string(&outside).unwrap(), "good, and more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_no_file_system_takes_is_told_in_short() {
    let scratch = scratch();
    let mut forger = Forger::new(&scratch.path().join("repo")).await;
    let root = forger.tree(&[file(&vec![b'n'; 1 << 20], &[]), file(b"z", &[])]);
    let snapshot = forger.snapshot(root).await;
    let target = scratch.path().join("target");
    let report = forger.restore(snapshot, &target).await;
    assert_eq!(report.faults.total, 1);
    let fault = &report.faults.first[0];
    assert!(fault.error.contains("longer") && fault.path.as_os_str().len() < 4096, "{}", fault.error);
    assert!(target.join("z").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn depth_is_bounded_and_needs_no_stack() {
    let scratch = scratch();
    let mut forger = Forger::new(&scratch.path().join("repo")).await;
    let top = forger.tree(&[]);
    let mut tree = top;
    for _ in 0..5_000 {
        tree = forger.tree(&[dir(b"d", tree)]);
    }
    let snapshot = forger.snapshot(tree).await;
    let target = scratch.path().join("target");
    let report = forger.restore(snapshot, &target).await;
    assert_eq!(report.faults.total, 1, "{:?}", report.faults.first);
    assert!(report.faults.first[0].error.contains("deep"));
    // A walk that keeps each path on the way would need memory by the square of the depth.
    let (ctx, loaded) = (Ctx::default(), forger.repo.load_snapshot(&snapshot).await.unwrap());
    let index = forger.repo.load_index(&ctx).await.unwrap();
    let errors = [
        browse::ls(&forger.repo, &index, &loaded, "/", true, |_, _| Ok(())).await.unwrap_err(),
        diff(&forger.repo, &index, (loaded.tree, top), false, &ctx, |_| Ok(())).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.chain().contains("deep") && error.chain().len() < 300, "{}", error.chain());
    }
    // Deeper than any path the kernel takes: removing it must work too.
    let empty = forger.tree(&[file(b"only", &[])]);
    let empty = forger.snapshot(empty).await;
    let report = forger.restore_with(empty, &target, |s| s.delete_extra = true).await;
    assert_eq!(report.faults.first, []);
    assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
    assert_eq!(check_all(&forger.repo).await.errors, 0, "depth alone damages nothing");

    // Mending leaves out what no restore goes into, and goes on with the other snapshots.
    let damaged = forger.tree(&[file(b"lost", &[(Id::from_bytes([9; 32]), 5)])]);
    let damaged = forger.snapshot(damaged).await;
    let all = forger.repo.snapshots().await.unwrap();
    let mended = forger.mend(&all).await;
    let total = |id| mended.iter().find(|one| one.id == id).map(|one| one.losses.total);
    assert_eq!((total(snapshot), total(empty), total(damaged)), (Some(1), None, Some(1)));
    let Some(Mended::Rewritten(Some(new))) =
        mended.iter().find(|one| one.id == snapshot).map(|one| one.mended)
    else {
        panic!("{mended:?}")
    };
    let report = forger.restore(new, &scratch.path().join("mended")).await;
    assert_eq!(report.faults.first, []);
}

/// A path of few but long names is as bad: every walk keeps the path of each directory on its way.
#[tokio::test(flavor = "multi_thread")]
async fn the_length_of_paths_is_bounded_as_their_depth_is() {
    let scratch = scratch();
    let mut forger = Forger::new(&scratch.path().join("repo")).await;
    let mut tree = forger.tree(&[]);
    for _ in 0..3 {
        tree = forger.tree(&[dir(&vec![b'n'; 30_000], tree)]);
    }
    let snapshot = forger.snapshot(tree).await;
    let loaded = forger.repo.load_snapshot(&snapshot).await.unwrap();
    let index = forger.repo.load_index(&Ctx::default()).await.unwrap();
    let error = browse::ls(&forger.repo, &index, &loaded, "/", true, |_, _| Ok(())).await.unwrap_err();
    assert!(error.chain().contains("bytes of names"), "{}", error.chain());
    let mended = forger.mend(&[(snapshot, loaded)]).await;
    assert_eq!(mended[0].losses.total, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_very_many_entries_comes_back() {
    const ENTRIES: u32 = 100_000;
    let scratch = scratch();
    let mut forger = Forger::new(&scratch.path().join("repo")).await;
    let nodes: Vec<Node> = (0..ENTRIES).map(|i| file(format!("{i:06}").as_bytes(), &[])).collect();
    let wide = forger.tree(&nodes);
    let root = forger.tree(&[dir(b"wide", wide)]);
    let snapshot = forger.snapshot(root).await;
    let target = scratch.path().join("target");
    let report = forger.restore(snapshot, &target).await;
    assert_eq!((report.files_restored, report.faults.total), (ENTRIES.into(), 0));
    assert_eq!(fs::read_dir(target.join("wide")).unwrap().count(), ENTRIES as usize);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_inode_with_two_contents_becomes_two_files() {
    let scratch = scratch();
    let mut forger = Forger::new(&scratch.path().join("repo")).await;
    let (one, two) = (forger.blob(BlobKind::Data, b"one"), forger.blob(BlobKind::Data, b"two"));
    let linked = |name: &[u8], id| Node { inode: 7, device_id: 3, links: 3, ..file(name, &[(id, 3)]) };
    let root = forger.tree(&[linked(b"a", one), linked(b"b", two), linked(b"c", one)]);
    let snapshot = forger.snapshot(root).await;
    let target = scratch.path().join("target");
    let report = forger.restore(snapshot, &target).await;
    assert_eq!((report.files_restored, report.faults.total), (3, 0));
    for (name, content) in [("a", "one"), ("b", "two"), ("c", "one")] {
        assert_eq!(fs::read_to_string(target.join(name)).unwrap(), content);
    }
    let inode = |name: &str| target.join(name).metadata().unwrap().ino();
    assert!(inode("a") == inode("c") && inode("a") != inode("b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_inode_with_two_targets_becomes_two_links() {
    let scratch = scratch();
    let mut forger = Forger::new(&scratch.path().join("repo")).await;
    let linked = |name: &[u8], to: &[u8]| Node { inode: 7, device_id: 3, links: 3, ..link(name, to) };
    let root = forger.tree(&[linked(b"a", b"one"), linked(b"b", b"two"), linked(b"c", b"one")]);
    let snapshot = forger.snapshot(root).await;
    let target = scratch.path().join("target");
    let report = forger.restore(snapshot, &target).await;
    assert_eq!(report.faults.first, []);
    for (name, to) in [("a", "one"), ("b", "two"), ("c", "one")] {
        assert_eq!(fs::read_link(target.join(name)).unwrap(), Path::new(to), "{name}");
    }
    let inode = |at: &Path, name: &str| at.join(name).symlink_metadata().unwrap().ino();
    assert!(inode(&target, "a") == inode(&target, "c") && inode(&target, "a") != inode(&target, "b"));

    // The first one cannot be made: the others are, all the same.
    let second = scratch.path().join("second");
    fs::create_dir_all(second.join("a/full")).unwrap();
    let report = forger.restore(snapshot, &second).await;
    let told: Vec<_> = report.faults.first.iter().map(|f| f.path.as_path()).collect();
    assert_eq!(told, [Path::new("/a")], "{:?}", report.faults.first);
    assert!(second.join("a/full").is_dir());
    assert_eq!(fs::read_link(second.join("c")).unwrap(), Path::new("one"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_copy_stands_in_for_a_damaged_one() {
    let scratch = scratch();
    let mut forger = Forger::new(&scratch.path().join("repo")).await;
    // Two packs claim the same blob; in one of them it is something else.
    let content = forger.blob_as(BlobKind::Data, Id::hash(b"content"), b"damaged", None);
    forger.seal_pack().await;
    forger.blob(BlobKind::Data, b"content");
    let root = forger.tree(&[file(b"f", &[(content, 7)])]);
    let snapshot = forger.snapshot(root).await;
    let target = scratch.path().join("target");
    let report = forger.restore(snapshot, &target).await;
    assert_eq!(report.faults.first, []);
    assert_eq!(fs::read(target.join("f")).unwrap(), b"content");
    let check = check_all(&forger.repo).await;
    assert_eq!(check.errors, 1, "{:?}", check.findings);
    assert!(check.findings.iter().any(|f| f.text.contains("more than once")));
}

/// Content that begins like a file of the repository is stored so that its chunk cannot be taken for one. Another program
/// may have stored it otherwise; a copy mends that.
#[tokio::test]
async fn a_copy_leaves_no_chunk_that_could_pass_for_another_file() {
    let dir = scratch();
    let mut forger = Forger::new(&dir.path().join("repo")).await;
    let contents: Vec<Vec<u8>> =
        [b'{', b'[', 0, 1, 2, 3, b'x'].iter().map(|first| vec![*first, 0xa5, 0x17, 0xff]).collect();
    let ids: Vec<Id> = contents.iter().map(|c| forger.blob(BlobKind::Data, c)).collect();
    let chunks: Vec<(Id, usize)> = ids.iter().map(|id| (*id, 4)).collect();
    let tree = forger.tree(&[file(b"f", &chunks)]);
    forger.snapshot(tree).await;
    let target = init(&dir.path().join("target")).await;
    let ctx = Ctx::default();
    let holder = Holder::this_process("test", "test");
    let lock = target.lock(LockMode::Shared, &holder, Duration::ZERO, &[], &ctx).await.unwrap();
    let snapshots = forger.repo.snapshots().await.unwrap();
    copy(&forger.repo, &target, &lock, &snapshots, &ctx).await.unwrap();
    lock.release().await.unwrap();
    let index = target.load_index(&ctx).await.unwrap();
    let compressed: Vec<bool> =
        ids.iter().map(|id| index.find(BlobKind::Data, id).unwrap().uncompressed.is_some()).collect();
    assert_eq!(compressed, [true, true, true, true, true, true, false]);
    check_all(&target).await;
}
