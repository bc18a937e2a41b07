//! Sources that misbehave: files that grow, shrink, vanish or become something else while they are read, paths that
//! no system call takes whole, directories of very many entries, times that do not tell what changed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what went wrong by failing"
)]

mod memory;
mod restoring;
mod stock;

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_engine::backup::{BackupReport, BackupSpec, Parent, Trust, backup};
use holdfast_engine::crypto::Key;
use holdfast_engine::format::compress::{Compression, Compressor};
use holdfast_engine::format::index_file::{IndexFile, IndexedPack};
use holdfast_engine::format::key_file::KeyFile;
use holdfast_engine::format::pack::{self, BlobKind, PackedBlob};
use holdfast_engine::format::time::{OffsetTime, Time};
use holdfast_engine::lock::{Holder, LockMode};
use holdfast_engine::repository::InitOptions;
use holdfast_engine::store::{FileKind, FileName, PutMode};
use holdfast_engine::{Ctx, ErrorKind, Id, Repository, browse};
use jiff::{SignedDuration, Timestamp};
use memory::{Actor, Call, Hook, Memory};
use restoring::{check_all, init, open, run_clean, scratch, spec};
use rustix::fs::{CWD, Mode, OFlags};
use stock::{PASSWORD, noise};

/// One reader and one upload: while the first pack is held up, what comes behind the large file is unread.
fn backup_of(source: &Path) -> BackupSpec {
    BackupSpec {
        roots: vec![source.to_owned()],
        host: "test".to_owned(),
        readers: 1,
        uploads: 1,
        ..BackupSpec::default()
    }
}

async fn back_up(repo: &Repository, source: &Path) -> BackupReport {
    back_up_as(repo, &backup_of(source)).await
}

async fn back_up_as(repo: &Repository, spec: &BackupSpec) -> BackupReport {
    let holder = Holder::this_process("test", "test");
    let ctx = Ctx::default();
    let lock = repo.lock(LockMode::Shared, &holder, Duration::ZERO, &[], &ctx).await.unwrap();
    let running = tokio::time::timeout(Duration::from_mins(2), backup(repo, &lock, spec, &ctx));
    let report = running.await.expect("a backup that hangs").unwrap_or_else(|e| panic!("{}", e.chain()));
    lock.release().await.unwrap();
    report
}

/// Does `change` once, when the first pack is on its way, and lets it go on only then.
fn at_the_first_pack(change: impl Fn() + Send + Sync + 'static) -> (Hook, Arc<AtomicBool>) {
    let done = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&done);
    let hook: Hook = Box::new(move |call, kind, after| {
        if (call, kind, after) == (Call::Put, FileKind::Pack, false) && !seen.swap(true, Ordering::SeqCst) {
            change();
        }
        Box::pin(async { Ok(()) })
    });
    (hook, done)
}

const LARGE: usize = 64 << 20;

/// What somebody does to a file.
type Change = fn(&Path);

/// A repository whose first pack waits for `change`; backs up `source`, checks all, and restores it to `target`.
async fn changed_meanwhile(
    source: &Path,
    target: &Path,
    change: impl Fn() + Send + Sync + 'static,
) -> (BackupReport, Repository) {
    let memory = Arc::new(Memory::default());
    let options = InitOptions {
        password: PASSWORD.to_owned().into(),
        recovery_password: None,
        version: 2,
        hostname: "test".to_owned(),
        username: "test".to_owned(),
    };
    Repository::init(Actor::plain(&memory), &options, &Ctx::default()).await.unwrap();
    let (hook, done) = at_the_first_pack(change);
    let store = Actor::with(&memory, false, hook);
    let repo = Repository::open(store, &PASSWORD.to_owned().into(), &Ctx::default()).await.unwrap();
    let report = back_up(&repo, source).await;
    assert!(done.load(Ordering::SeqCst), "nothing was changed: the test proved nothing");
    let check = check_all(&repo).await;
    assert!(check.is_sound(), "{:#?}", check.findings);
    run_clean(&repo, &spec(report.snapshot, source, target)).await;
    (report, repo)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_grows_or_shrinks_is_stored_as_far_as_it_was_read() {
    let dir = scratch();
    let (source, content) = (dir.path().join("source"), noise(7, LARGE));
    fs::create_dir(&source).unwrap();
    let large = source.join("large");
    let changes: [(&str, Change, usize); 3] = [
        ("grown", |path| stock::append(path, &noise(8, 9 << 20)), LARGE),
        ("cut", |path| File::options().write(true).open(path).unwrap().set_len(62 << 20).unwrap(), 62 << 20),
        (
            "replaced",
            |path| {
                let other = path.with_file_name("other");
                fs::write(&other, "another file under the same name").unwrap();
                fs::rename(&other, path).unwrap();
            },
            LARGE,
        ),
    ];
    for (what, change, least) in changes {
        fs::write(&large, &content).unwrap();
        let target = dir.path().join(what);
        let path = large.clone();
        let (report, _) = changed_meanwhile(&source, &target, move || change(&path)).await;
        assert_eq!((report.faults.total, report.total_files), (0, 1), "{what}");
        assert_eq!(report.changed_while_reading, 1, "{what}");
        let found = fs::read(target.join("large")).unwrap();
        assert!((least..=LARGE).contains(&found.len()), "{what}: {} bytes", found.len());
        assert!(found == content[..found.len()], "{what}: it holds what the file never held");
        fs::remove_file(&large).unwrap();
    }
}

/// A file system says of a place behind the end of a file what it says of its last hole.
#[tokio::test(flavor = "multi_thread")]
async fn a_sparse_file_that_is_cut_while_it_is_read_gets_no_zeros_that_it_never_held() {
    let dir = scratch();
    let (source, content) = (dir.path().join("source"), noise(7, LARGE));
    fs::create_dir(&source).unwrap();
    let sparse = source.join("sparse");
    let behind = LARGE as u64 + (48 << 20);
    // Within the hole, and where it began.
    for length in [LARGE as u64 + (3 << 20) + 17, LARGE as u64] {
        fs::write(&sparse, &content).unwrap();
        File::options().write(true).open(&sparse).unwrap().write_all_at(&noise(8, 1 << 20), behind).unwrap();
        let stat = fs::metadata(&sparse).unwrap();
        assert!(stat.blocks() * 512 < stat.size(), "no hole, nothing to prove: a file system without them?");
        let target = dir.path().join(length.to_string());
        let path = sparse.clone();
        let cut = move || File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
        let (report, _) = changed_meanwhile(&source, &target, cut).await;
        assert_eq!((report.faults.total, report.total_files, report.changed_while_reading), (0, 1, 1));
        let found = fs::read(target.join("sparse")).unwrap();
        assert!((LARGE..=usize::try_from(length).unwrap()).contains(&found.len()), "{} bytes", found.len());
        assert!(found[..LARGE] == content[..], "it holds what the file never held");
        assert!(found[LARGE..].iter().all(|byte| *byte == 0), "it holds what the file never held");
        fs::remove_file(&sparse).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_vanishes_or_becomes_something_else_is_no_fault_and_no_content() {
    let dir = scratch();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("a large"), noise(7, LARGE)).unwrap();
    // Behind the large one, in the same directory: listed already, opened later.
    let names = ["z directory", "z fifo", "z link", "z removed"];
    for name in names {
        fs::write(source.join(name), noise(9, 600_000)).unwrap();
    }
    let secret = dir.path().join("secret");
    fs::write(&secret, "what a link leads to is not the file's content").unwrap();
    let (at, target) = (source.clone(), dir.path().join("target"));
    let (report, repo) = changed_meanwhile(&source, &target, move || {
        for name in names {
            fs::remove_file(at.join(name)).unwrap();
        }
        fs::create_dir(at.join("z directory")).unwrap();
        rustix::fs::mknodat(CWD, at.join("z fifo"), rustix::fs::FileType::Fifo, Mode::from(0o600), 0)
            .unwrap();
        symlink(&secret, at.join("z link")).unwrap();
    })
    .await;
    assert_eq!((report.vanished, report.faults.total, report.total_files), (4, 0, 1), "{report:?}");
    let left: Vec<_> = fs::read_dir(&target).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["a large"]);
    let again = back_up(&repo, &source).await;
    assert_eq!((again.vanished, again.total_files), (0, 1), "what they became is found by the next run");
}

/// The first name of a file is read for all of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_first_name_vanishes_is_read_under_another() {
    let dir = scratch();
    let source = dir.path().join("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("a large"), noise(7, LARGE)).unwrap();
    // Read alone and in a batch; in the same directory and in another.
    let groups: [(usize, &[&str]); 4] = [
        (600_000, &["z pair 1", "sub/pair 2"]),
        (100_000, &["z three 1", "z three 2", "sub/three 3"]),
        (100_000, &["z four 1", "z four 2", "z four 3", "z four 4"]),
        (100_000, &["z taken 1", "z taken 2"]),
    ];
    for (seed, (length, names)) in groups.iter().enumerate() {
        let first = source.join(names[0]);
        fs::write(&first, noise(20 + seed as u64, *length)).unwrap();
        for name in &names[1..] {
            fs::hard_link(&first, source.join(name)).unwrap();
        }
    }
    let (at, target) = (source.clone(), dir.path().join("target"));
    let (report, _) = changed_meanwhile(&source, &target, move || {
        for name in ["z pair 1", "z three 1", "z four 1", "z four 4"] {
            fs::remove_file(at.join(name)).unwrap();
        }
        fs::write(at.join("new"), "another file under the same name").unwrap();
        fs::rename(at.join("new"), at.join("z taken 1")).unwrap();
    })
    .await;
    assert_eq!(report.faults.first, []);
    assert_eq!((report.vanished, report.total_files, report.changed_while_reading), (4, 8, 0), "{report:?}");
    // Content, and what is the same file as what, of all that is left.
    // But for the time of the directory, which changed after it was listed.
    stock::assert_same_except(&source, &target, &[""], "under another name");
    let found = stock::facts(&target);
    assert_eq!(found.values().filter(|facts| facts.is_linked()).count(), 4, "two of three, and two of four");
}

/// They are read several at a time, long after they were listed.
#[tokio::test(flavor = "multi_thread")]
async fn small_files_are_stored_as_they_are_when_their_turn_comes() {
    let dir = scratch();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("a large"), noise(7, LARGE)).unwrap();
    let names: Vec<String> = (0..20).map(|n| format!("z {n:02}")).collect();
    for (n, name) in names.iter().enumerate() {
        fs::write(source.join(name), noise(100 + n as u64, 100 << 10)).unwrap();
    }
    let cut = |path: &Path, length| File::options().write(true).open(path).unwrap().set_len(length).unwrap();
    let (at, target) = (source.clone(), dir.path().join("target"));
    let (report, _) = changed_meanwhile(&source, &target, move || {
        for (n, name) in names.iter().enumerate() {
            let path = at.join(name);
            match n {
                // Too large for what it was to be read with, and less so.
                3 => stock::append(&path, &noise(8, 9 << 20)),
                _ if n % 5 == 0 => stock::append(&path, &noise(8, 50 << 10)),
                1 => cut(&path, 0),
                _ if n % 5 == 1 => cut(&path, 60 << 10),
                _ if n % 5 == 2 => {
                    let other = at.join("other");
                    fs::write(&other, format!("another file instead of {name}")).unwrap();
                    fs::rename(&other, &path).unwrap();
                }
                _ if n % 5 == 4 => fs::remove_file(&path).unwrap(),
                _ => {}
            }
        }
    })
    .await;
    assert_eq!(report.faults.first, []);
    // All that happened before they were opened: none of them is torn.
    assert_eq!((report.vanished, report.total_files, report.changed_while_reading), (4, 17, 0), "{report:?}");
    // But for the time of the directory, which changed after it was listed.
    stock::assert_same_except(&source, &target, &[""], "small files");
}

/// Opens a directory step by step, as no path of this length may be given to the kernel.
fn descend(from: &Path, names: &[String], make: bool) -> rustix::fd::OwnedFd {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let mut at = rustix::fs::openat(CWD, from, flags, Mode::empty()).unwrap();
    for name in names {
        if make {
            rustix::fs::mkdirat(&at, name, Mode::from(0o755)).unwrap();
        }
        at = rustix::fs::openat(&at, name, flags, Mode::empty()).unwrap();
    }
    at
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_longer_than_the_kernel_takes_come_back() {
    let dir = scratch();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).unwrap();
    // 255 bytes is the longest name; 40 of them are more than twice the longest path.
    let names: Vec<String> = (0..40).map(|i| format!("{i:0>255}")).collect();
    let deepest = descend(&source, &names, true);
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&deepest, "file", flags, Mode::from(0o644)).unwrap();
    assert_eq!(rustix::io::write(&file, b"at the bottom").unwrap(), 13);
    drop(file);
    let repo = init(&dir.path().join("repo")).await;
    let report = back_up(&repo, &source).await;
    assert_eq!((report.faults.total, report.total_files), (0, 1), "{:?}", report.faults);
    let again = back_up(&repo, &source).await;
    // So young a file is looked at again; it is not stored again.
    assert_eq!((again.files_new, again.data_blobs, again.total_files), (0, 0, 1), "{again:?}");
    run_clean(&repo, &spec(report.snapshot, &source, &target)).await;
    let deepest = descend(&target, &names, false);
    let file = rustix::fs::openat(&deepest, "file", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let mut found = [0; 32];
    let length = rustix::io::read(&file, &mut found).unwrap();
    assert_eq!(&found[..length], b"at the bottom");
    assert!(check_all(&repo).await.is_sound());
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_too_deep_to_be_restored_are_told_by_the_backup() {
    let dir = scratch();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    let names: Vec<String> = vec!["d".to_owned(); 2100];
    descend(&source, &names, true);
    let repo = init(&dir.path().join("repo")).await;
    let report = back_up(&repo, &source).await;
    assert_eq!((report.faults.total, report.total_files), (1, 1), "{:?}", report.faults);
    assert!(report.faults.first[0].error.contains("nested 2048 deep"), "{:?}", report.faults);
    // What was saved can be restored, and looked at.
    run_clean(&repo, &spec(report.snapshot, std::path::Path::new("/"), &target)).await;
    assert!(check_all(&repo).await.is_sound());
}

async fn one_wide_directory(entries: u64) {
    let dir = scratch();
    let (source, at) = (dir.path().join("source"), dir.path().join("repo"));
    fs::create_dir(&source).unwrap();
    let directory = File::open(&source).unwrap();
    for i in 0..entries {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&directory, format!("entry {i:07}"), flags, Mode::from(0o644)).unwrap();
    }
    init(&at).await;
    let repo = open(&at).await;
    let report = back_up(&repo, &source).await;
    assert_eq!((report.total_files, report.faults.total), (entries, 0));
    let index = repo.load_index(&Ctx::default()).await.unwrap();
    let snapshot = repo.load_snapshot(&report.snapshot).await.unwrap();
    let (mut seen, mut last) = (0, None);
    browse::ls(&repo, &index, &snapshot, source.to_str().unwrap(), false, |path, _| {
        assert!(last.as_deref() < Some(path), "{} is out of order", path.display());
        (seen, last) = (seen + 1, Some(path.to_owned()));
        Ok(())
    })
    .await
    .unwrap();
    // The directory itself comes first, as in restic's listings.
    assert_eq!(seen, entries + 1);
    assert!(check_all(&repo).await.is_sound());
    assert_ne!(report.snapshot, Id::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_a_hundred_thousand_entries_is_one_tree() {
    one_wide_directory(100_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a million files: some minutes, and a gigabyte of inodes; make scale runs it"]
async fn a_directory_of_a_million_entries_is_one_tree() {
    one_wide_directory(1_000_000).await;
}

/// The snapshot as a run would have written it that had found the file with the change time it has now, and whose clock
/// said `began` when it began.
async fn as_if_begun(repo: &Repository, key: &Key, snapshot: &Id, file: &Path, began: Timestamp) -> Id {
    let store = repo.store();
    let put = async |kind, body: Vec<u8>| {
        let id = Id::hash(&body);
        store.put(FileName { kind, id }, body.into(), PutMode::ContentAddressed).await.unwrap();
        id
    };
    let index = repo.load_index(&Ctx::default()).await.unwrap();
    let mut parent = repo.load_snapshot(snapshot).await.unwrap();
    // The trees from the root down to the file, and then anew from the file up.
    let names: Vec<&[u8]> = file.components().skip(1).map(|c| c.as_os_str().as_bytes()).collect();
    let (mut trees, mut next) = (Vec::new(), Some(parent.tree));
    for name in &names {
        let tree = repo.load_tree(&index, &next.unwrap()).await.unwrap();
        next = tree.find(name).unwrap().subtree;
        trees.push(tree);
    }
    let stat = fs::metadata(file).unwrap();
    let (mut pack, mut blobs) = (Vec::new(), Vec::new());
    for (name, tree) in names.iter().zip(&mut trees).rev() {
        let node = tree.nodes.iter_mut().find(|node| node.name == *name).unwrap();
        match blobs.last() {
            Some(PackedBlob { id, .. }) => node.subtree = Some(*id),
            None => node.ctime = Time::new(stat.ctime(), u32::try_from(stat.ctime_nsec()).unwrap()),
        }
        let mut json = b"{\"nodes\":[".to_vec();
        for (i, node) in tree.nodes.iter().enumerate() {
            json.extend_from_slice(if i > 0 { b"," } else { b"" });
            node.write_json(&mut json);
        }
        json.extend_from_slice(b"]}\n");
        let sealed = key.seal(&json).unwrap();
        let (offset, length) = (u32::try_from(pack.len()).unwrap(), u32::try_from(sealed.len()).unwrap());
        let id = Id::hash(&json);
        blobs.push(PackedBlob { kind: BlobKind::Tree, id, offset, length, uncompressed: None });
        pack.extend_from_slice(&sealed);
    }
    parent.tree = blobs.last().unwrap().id;
    parent.summary.as_mut().unwrap().backup_start = OffsetTime::utc(began);
    let header = key.seal(&pack::encode_header(&blobs)).unwrap();
    pack.extend_from_slice(&header);
    pack.extend_from_slice(&u32::try_from(header.len()).unwrap().to_le_bytes());
    let id = put(FileKind::Pack, pack).await;
    let listed = IndexFile::to_json(&[IndexedPack { id, blobs, marked: false }]).unwrap();
    put(FileKind::Index, key.seal(&listed).unwrap()).await;
    put(FileKind::Snapshot, key.seal(&serde_json::to_vec(&parent).unwrap()).unwrap()).await
}

/// A file system's times have a grain: a file that changes while it is backed up may carry the same ones afterwards. What
/// is as young as the run that read it is read again, also when the clock of that run was wrong by years.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_times_do_not_tell_is_read_again_whatever_the_parents_clock_said() {
    let dir = scratch();
    let (source, at) = (dir.path().join("source"), dir.path().join("repo"));
    fs::create_dir(&source).unwrap();
    let file = source.join("file");
    let years = SignedDuration::from_hours(10 * 365 * 24);
    let (hour, second) = (SignedDuration::from_hours(1), SignedDuration::from_secs(1));
    // When the file says that it was changed, with which trust, when the parent's run began seen from there, and whether
    // that is long enough.
    let now = Timestamp::now();
    let cases = [
        ("long before", now, Trust::Inode, hour, true),
        ("a moment before", now, Trust::Inode, second, false),
        ("while it was read", now, Trust::Inode, -hour, false),
        ("by a clock that was slow", now, Trust::Inode, -years, false),
        // Only this time can be set, which stands for that of a file system with the same clock.
        ("long before, by a fast clock", now + years, Trust::InodeNumber, hour, true),
        ("a moment before, by a fast clock", now + years, Trust::InodeNumber, second, false),
        ("long before, by a slow clock", now - years, Trust::InodeNumber, hour, true),
        ("a moment before, by a slow clock", now - years, Trust::InodeNumber, second, false),
    ];
    let repo = init(&at).await;
    let entry = repo.store().list(FileKind::Key).await.unwrap()[0];
    let key = repo.store().get(FileName { kind: FileKind::Key, id: entry.id }, None).await.unwrap();
    let key = KeyFile::parse(&key).unwrap().open(&PASSWORD.to_owned().into()).unwrap().unwrap();
    for (number, (what, modified, trust, later, is_taken_over)) in cases.into_iter().enumerate() {
        let contents = [noise(2 * number as u64, 10_000), noise(2 * number as u64 + 1, 10_000)];
        let write = |content: &[u8]| {
            // In place: the inode stays.
            fs::write(&file, content).unwrap();
            let file = File::options().write(true).open(&file).unwrap();
            file.set_modified(modified.into()).unwrap();
        };
        write(&contents[0]);
        let first = back_up(&repo, &source).await;
        write(&contents[1]);
        let stat = fs::metadata(&file).unwrap();
        let changed = match trust {
            Trust::Inode => Timestamp::new(stat.ctime(), i32::try_from(stat.ctime_nsec()).unwrap()).unwrap(),
            _ => modified,
        };
        let parent = as_if_begun(&repo, &key, &first.snapshot, &file, changed + later).await;
        let again = BackupSpec { parent: Parent::Id(parent), trust, ..backup_of(&source) };
        let report = back_up_as(&repo, &again).await;
        assert_eq!(report.parent, Some(parent));
        assert_eq!((report.total_files, report.faults.total), (1, 0), "{what}");
        assert_eq!(report.files_unmodified, u64::from(is_taken_over), "{what}: {report:?}");
        let target = dir.path().join(number.to_string());
        run_clean(&repo, &spec(report.snapshot, &source, &target)).await;
        // What is taken over shows that nothing else than this tells the one from the other.
        let expected = &contents[usize::from(!is_taken_over)];
        assert!(fs::read(target.join("file")).unwrap() == *expected, "{what}");
    }
}

/// One key seals everything. Somebody who puts files on a volume and can write to the store, but does not know the key,
/// must not be able to pass off a sealed chunk as a file of the repository.
#[tokio::test]
async fn a_files_chunk_is_no_snapshot_when_it_is_put_among_them() {
    let dir = scratch();
    let (at, source) = (dir.path().join("repo"), dir.path().join("source"));
    let repo = init(&at).await;
    let store = restoring::store_at(&at);
    let json =
        format!(r#"{{"time":"2026-01-01T00:00:00Z","tree":"{}","paths":["/x"]}}"#, Id::hash(b"forged"));
    let mut packed = vec![2];
    Compressor::new(Compression::Auto).unwrap().append(json.as_bytes(), &mut packed).unwrap();
    let mut planted = 0;
    // The first does not become shorter by compression.
    for content in [packed, json.into_bytes()] {
        fs::create_dir(&source).unwrap();
        fs::write(source.join("upload"), &content).unwrap();
        let before: Vec<Id> = store.list(FileKind::Pack).await.unwrap().iter().map(|e| e.id).collect();
        back_up(&repo, &source).await;
        fs::remove_dir_all(&source).unwrap();
        for entry in store.list(FileKind::Pack).await.unwrap() {
            if before.contains(&entry.id) {
                continue;
            }
            let pack = store.get(FileName { kind: FileKind::Pack, id: entry.id }, None).await.unwrap();
            // Its length is tried: only the right one has a fitting MAC.
            for length in 33..pack.len().min(content.len() + 64) {
                let piece = pack.slice(..length);
                let name = FileName { kind: FileKind::Snapshot, id: Id::hash(&piece) };
                store.put(name, piece.into(), PutMode::ContentAddressed).await.unwrap();
                let error = repo.load_snapshot(&name.id).await.unwrap_err();
                planted += u32::from(error.kind() == ErrorKind::Format);
                store.delete(name).await.unwrap();
            }
        }
    }
    assert!(planted >= 2, "chunks were found, and opened, and were no snapshots");
}
