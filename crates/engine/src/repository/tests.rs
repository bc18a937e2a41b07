use std::path::Path;
use std::sync::Arc;

use super::testing::{fixture, options, password, store};
use super::*;
use crate::format::snapshot::Snapshot;
use crate::store::fault::{Fault, Operation, Trouble};

fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(path) = open.pop() {
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(directory).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn init_then_open_with_either_password_and_no_other() {
    let (store, directory) = store();
    let store: Arc<dyn Store> = store;
    let recovery: secrecy::SecretString = "in the safe".to_owned().into();
    assert!(!Repository::exists(store.as_ref()).await.unwrap());
    let options = InitOptions { recovery_password: Some(recovery.clone()), ..options() };
    let made = Repository::init(Arc::clone(&store), &options, &Ctx::default()).await.unwrap();
    assert!(Repository::exists(store.as_ref()).await.unwrap());
    assert_eq!((made.version(), made.id().len()), (2, 64));
    for password in [password(), recovery] {
        let opened = Repository::open(Arc::clone(&store), &password, &Ctx::default()).await.unwrap();
        assert_eq!(opened.id(), made.id());
        let keys = opened.keys().await.unwrap();
        assert_eq!(keys.len(), 2);
        assert_eq!(keys.iter().filter(|k| k.current).count(), 1);
    }
    let wrong =
        Repository::open(Arc::clone(&store), &"guess".to_owned().into(), &Ctx::default()).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::WrongPassword);
    assert_eq!(files(directory.path()).len(), 3, "two keys and a config, nothing temporary");
    assert_eq!(std::fs::read_dir(directory.path().join("data")).unwrap().count(), 256);
}

#[tokio::test]
async fn passwords_can_be_added() {
    let fixture = fixture().await;
    let another: secrecy::SecretString = "another".to_owned().into();
    let id = fixture
        .repo
        .add_key(&another, "me", "here", crate::crypto::KdfParams::RANDOM_PASSWORD)
        .await
        .unwrap();
    let opened = Repository::open(Arc::clone(fixture.repo.store()), &another, &Ctx::default()).await.unwrap();
    let current: Vec<_> = opened.keys().await.unwrap().into_iter().filter(|k| k.current).collect();
    assert_eq!((current[0].id, current[0].username.as_str()), (id, "me"));
}

#[tokio::test]
async fn opening_where_nothing_is() {
    let (store, _directory) = store();
    let error = Repository::open(store, &password(), &Ctx::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotARepository);
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_not_absent() {
    let (store, _directory) = store();
    store.add(Fault::once(Operation::List, None, Trouble::Fail(ErrorKind::AccessDenied)));
    assert_eq!(Repository::exists(store.as_ref()).await.unwrap_err().kind(), ErrorKind::AccessDenied);
    let gone: Location = "/nonexistent/mount/repo".parse().unwrap();
    let options = StoreOptions { retry: quick(), ..StoreOptions::default() };
    let store = crate::store::open(&gone, &options, &Ctx::default()).unwrap();
    assert_eq!(Repository::exists(store.as_ref()).await.unwrap_err().kind(), ErrorKind::BucketNotFound);
}

use crate::store::{Location, RetryPolicy, StoreOptions};

fn quick() -> RetryPolicy {
    RetryPolicy {
        deadline: std::time::Duration::ZERO,
        first: std::time::Duration::from_millis(1),
        max: std::time::Duration::from_millis(1),
        ..RetryPolicy::default()
    }
}

#[tokio::test]
async fn init_never_writes_over_anything() {
    let fixture = fixture().await;
    let before = files(fixture.directory.path());
    let store = Arc::clone(fixture.repo.store());
    let error = Repository::init(store, &options(), &Ctx::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyInitialized);
    assert_eq!(files(fixture.directory.path()), before);

    let (faults, directory) = super::testing::store();
    std::fs::write(directory.path().join("photos.zip"), b"precious").unwrap();
    let error = Repository::init(faults, &options(), &Ctx::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ForeignContent);
    assert!(error.to_string().contains("photos.zip"), "{error}");
    assert_eq!(files(directory.path()), ["photos.zip"]);

    // A repository whose config was lost.
    std::fs::remove_file(fixture.directory.path().join("config")).unwrap();
    fixture.repo.save_unpacked(FileKind::Snapshot, b"{}").await.unwrap();
    let error = Repository::init(fixture.faults, &options(), &Ctx::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ForeignContent);
}

#[tokio::test]
async fn our_own_description_may_lie_there_first() {
    let (store, directory) = store();
    std::fs::write(directory.path().join("repository.yaml"), b"x").unwrap();
    Repository::init(store, &options(), &Ctx::default()).await.unwrap();
}

#[tokio::test]
async fn of_many_that_initialise_at_once_one_wins_and_the_rest_leave_nothing() {
    for _ in 0..3 {
        let (store, directory) = store();
        let store: Arc<dyn Store> = store;
        let attempts = (0..4).map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { Repository::init(store, &options(), &Ctx::default()).await })
        });
        let mut made = Vec::new();
        for attempt in futures::future::join_all(attempts).await {
            match attempt.unwrap() {
                Ok(repo) => made.push(repo),
                Err(e) => assert_eq!(e.kind(), ErrorKind::AlreadyInitialized, "{}", e.chain()),
            }
        }
        assert_eq!(made.len(), 1);
        assert_eq!(files(directory.path()).len(), 2, "one config, one key: {:?}", files(directory.path()));
        let opened = Repository::open(store, &password(), &Ctx::default()).await.unwrap();
        assert_eq!(opened.id(), made[0].id());
    }
}

#[tokio::test]
async fn an_initialisation_that_died_is_made_good_by_the_next() {
    for fault in [
        Fault::once(Operation::Put, FileKind::Config, Trouble::Fail(ErrorKind::Unreachable)),
        Fault::once(Operation::Put, FileKind::Key, Trouble::StoreButFail(ErrorKind::Unreachable)),
    ] {
        let (store, directory) = store();
        store.add(fault);
        let store: Arc<dyn Store> = store;
        assert!(Repository::init(Arc::clone(&store), &options(), &Ctx::default()).await.is_err());
        Repository::init(Arc::clone(&store), &options(), &Ctx::default()).await.unwrap();
        assert_eq!(files(directory.path()).len(), 2, "the dead attempt's key is gone");
        Repository::open(store, &password(), &Ctx::default()).await.unwrap();
    }
}

#[tokio::test]
async fn a_config_whose_answer_was_lost_keeps_its_keys() {
    let (store, _directory) = store();
    store.add(Fault::once(Operation::Put, FileKind::Config, Trouble::StoreButFail(ErrorKind::Unreachable)));
    let store: Arc<dyn Store> = store;
    assert!(Repository::init(Arc::clone(&store), &options(), &Ctx::default()).await.is_err());
    Repository::open(store, &password(), &Ctx::default()).await.unwrap();
}

#[tokio::test]
async fn a_store_that_loses_the_config_is_noticed() {
    let (store, _directory) = store();
    store.add(Fault::once(Operation::Put, FileKind::Config, Trouble::Lose));
    assert!(Repository::init(store, &options(), &Ctx::default()).await.is_err());
}

#[tokio::test]
async fn damage_on_the_way_is_read_again_damage_that_stays_is_corrupt() {
    let fixture = fixture().await;
    let id = fixture.repo.save_unpacked(FileKind::Index, b"{\"packs\":[]}").await.unwrap();
    for trouble in [Trouble::Flip(20), Trouble::Truncate(1)] {
        fixture
            .faults
            .add(Fault { times: 2, ..Fault::once(Operation::Get, FileKind::Index, trouble.clone()) });
        assert_eq!(fixture.repo.load_unpacked(FileKind::Index, &id).await.unwrap(), b"{\"packs\":[]}");
        fixture.faults.add(Fault::always(Operation::Get, FileKind::Index, trouble));
        let error = fixture.repo.load_index(&Ctx::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.chain().contains(&id.to_hex()), "names the file: {}", error.chain());
        fixture.faults.heal();
    }
}

#[tokio::test]
async fn version_1_repositories_hold_plain_json() {
    let (store, directory) = store();
    let options = InitOptions { version: 1, ..options() };
    let repo = Repository::init(store, &options, &Ctx::default()).await.unwrap();
    let id = repo.save_unpacked(FileKind::Snapshot, b"{\"a\":1}").await.unwrap();
    let size = std::fs::metadata(directory.path().join(FileName { kind: FileKind::Snapshot, id }.path()))
        .unwrap()
        .len();
    assert_eq!(size, 7 + 32);
    assert_eq!(repo.load_unpacked(FileKind::Snapshot, &id).await.unwrap(), b"{\"a\":1}");
}

async fn save(repo: &Repository, second: i64, host: &str, tags: &[&str]) -> Id {
    let json = serde_json::json!({
        "time": format!("2026-01-01T00:00:{second:02}Z"),
        "tree": "01".repeat(32),
        "paths": ["/data/a", "/data/b"],
        "hostname": host,
        "tags": tags,
    });
    repo.save_unpacked(FileKind::Snapshot, json.to_string().as_bytes()).await.unwrap()
}

#[tokio::test]
async fn snapshots_are_found_by_time_beginning_and_filter() {
    let fixture = fixture().await;
    let repo = &fixture.repo;
    let (b, a, c) = (
        save(repo, 2, "x", &["t", "u"]).await,
        save(repo, 1, "x", &["t"]).await,
        save(repo, 3, "y", &[]).await,
    );
    let all: Vec<Id> = repo.snapshots().await.unwrap().into_iter().map(|(id, _)| id).collect();
    assert_eq!(all, [a, b, c]);
    let any = SnapshotFilter::default();
    let found = |spec: String, filter: SnapshotFilter| async move {
        repo.find_snapshot(&spec, &filter).await.map(|(id, _): (Id, Snapshot)| id).map_err(|e| e.kind())
    };
    assert_eq!(found("latest".into(), any.clone()).await, Ok(c));
    assert_eq!(
        found("latest".into(), SnapshotFilter { hosts: vec!["x".into()], ..any.clone() }).await,
        Ok(b)
    );
    assert_eq!(
        found("latest".into(), SnapshotFilter { tags: vec!["z".into(), "t,u".into()], ..any.clone() }).await,
        Ok(b)
    );
    // What a restore saved of what it overwrote is newer, and meant only by its tag.
    let safety = save(repo, 4, "y", &["holdfast.dev/undo-of=back"]).await;
    assert_eq!(found("latest".into(), any.clone()).await, Ok(c));
    let by_tag = SnapshotFilter { tags: vec!["holdfast.dev/undo-of=back".into()], ..any.clone() };
    assert_eq!(found("latest".into(), by_tag).await, Ok(safety));
    let paths =
        |p: &str| SnapshotFilter { paths: vec![p.to_owned(), "/data/a".into()], ..SnapshotFilter::default() };
    assert_eq!(found("latest".into(), paths("/data/b")).await, Ok(c));
    assert_eq!(found("latest".into(), paths("/data/c")).await, Err(ErrorKind::EmptySelection));
    assert_eq!(found(a.to_hex(), any.clone()).await, Ok(a));
    assert_eq!(found(b.short(), any.clone()).await, Ok(b));
    assert_eq!(found("0".repeat(63), any.clone()).await, Err(ErrorKind::EmptySelection));
    for nonsense in ["", "Latest", "zz", &"0".repeat(65)] {
        assert_eq!(found(nonsense.to_owned(), any.clone()).await, Err(ErrorKind::Usage), "{nonsense:?}");
    }
}

#[tokio::test]
async fn a_beginning_of_several_ids_is_refused() {
    let fixture = fixture().await;
    let mut firsts = std::collections::HashSet::new();
    let mut second = 0;
    let shared = loop {
        second += 1;
        let first = save(&fixture.repo, second, "x", &[]).await.to_hex()[..1].to_owned();
        if !firsts.insert(first.clone()) {
            break first;
        }
    };
    let error = fixture.repo.find_snapshot(&shared, &SnapshotFilter::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
}

mod blobs {
    use super::*;
    use crate::format::compress::{Compression, Compressor};
    use crate::format::index_file::IndexedPack;
    use crate::format::pack::{BlobKind, PackedBlob};
    use crate::index::IndexBuilder;

    /// Two packs that hold the same blob, raw and compressed.
    async fn two_copies(repo: &Repository, plain: &[u8]) -> (Index, [Id; 2]) {
        let mut builder = IndexBuilder::new();
        let mut packs = [Id::default(); 2];
        for (place, compressed) in packs.iter_mut().zip([false, true]) {
            let mut body = Vec::new();
            if compressed {
                let mut frame = Vec::new();
                Compressor::new(Compression::Auto).unwrap().append(plain, &mut frame).unwrap();
                repo.key().seal_into(&frame, &mut body).unwrap();
            } else {
                repo.key().seal_into(plain, &mut body).unwrap();
            }
            let blob = PackedBlob {
                kind: BlobKind::Data,
                id: Id::hash(plain),
                offset: 0,
                length: u32::try_from(body.len()).unwrap(),
                uncompressed: compressed.then(|| u32::try_from(plain.len()).unwrap()),
            };
            *place = Id::hash(&body);
            let name = FileName { kind: FileKind::Pack, id: *place };
            repo.store().put(name, body.into(), PutMode::ContentAddressed).await.unwrap();
            let pack = IndexedPack { id: *place, blobs: vec![blob], marked: false };
            builder.add(*place, IndexFile { packs: vec![pack], marks: Vec::new() });
        }
        (builder.finish(), packs)
    }

    #[tokio::test]
    async fn a_blob_is_read_from_any_copy_that_is_whole() {
        let fixture = fixture().await;
        let plain = b"content that repeats ".repeat(500);
        let id = Id::hash(&plain);
        let (index, packs) = two_copies(&fixture.repo, &plain).await;
        assert_eq!(fixture.repo.load_blob(&index, BlobKind::Data, &id).await.unwrap(), plain);
        // Three damaged answers: the first copy twice, the second once.
        fixture
            .faults
            .add(Fault { times: 3, ..Fault::once(Operation::Get, FileKind::Pack, Trouble::Flip(50)) });
        assert_eq!(fixture.repo.load_blob(&index, BlobKind::Data, &id).await.unwrap(), plain);
        for pack in packs {
            fixture.repo.store().delete(FileName { kind: FileKind::Pack, id: pack }).await.unwrap();
            let result = fixture.repo.load_blob(&index, BlobKind::Data, &id).await;
            if pack == packs[0] {
                assert_eq!(result.unwrap(), plain);
            } else {
                assert_eq!(result.unwrap_err().kind(), ErrorKind::Missing);
            }
        }
        let unknown = fixture.repo.load_blob(&index, BlobKind::Tree, &id).await.unwrap_err();
        assert_eq!(unknown.kind(), ErrorKind::Missing);
    }
}

/// Key files are not sealed: whoever can write to the store can put any number of them there.
#[tokio::test]
async fn planted_key_files_neither_delay_nor_prevent_opening() {
    let fixture = fixture().await;
    let store = fixture.repo.store();
    let own = FileName { kind: FileKind::Key, id: fixture.repo.key_id() };
    let good: serde_json::Value = serde_json::from_slice(&store.get(own, None).await.unwrap()).unwrap();
    let forged = |n: u64, r: u32, p: u32| {
        let mut file = good.clone();
        (file["N"], file["r"], file["p"]) = (n.into(), r.into(), p.into());
        file
    };
    // As costly as is allowed, then more memory than there is, then a file too long to be read.
    let mut planted: Vec<Vec<u8>> = (0..30)
        .map(|number| {
            let mut file = forged(1 << 18, 8, 4);
            file["hostname"] = number.to_string().into();
            serde_json::to_vec(&file).unwrap()
        })
        .collect();
    planted.push(serde_json::to_vec(&forged(2, 1 << 20, 64)).unwrap());
    planted.push(vec![b' '; 2 << 20]);
    for file in planted {
        let name = FileName { kind: FileKind::Key, id: Id::hash(&file) };
        store.put(name, file.into(), PutMode::ContentAddressed).await.unwrap();
    }
    let (password, ctx) = (password(), Ctx::default());
    let opening = Repository::open(Arc::clone(store), &password, &ctx);
    let opened = tokio::time::timeout(std::time::Duration::from_secs(30), opening).await;
    assert_eq!(opened.expect("the costly ones were tried first").unwrap().id(), fixture.repo.id());
}

/// A few kilobytes can give any number of bytes, to whoever has the key.
#[tokio::test]
async fn locks_and_snapshots_that_grow_beyond_any_are_damaged() {
    let fixture = fixture().await;
    for (kind, most) in [(FileKind::Lock, 1 << 20), (FileKind::Snapshot, 128 << 20)] {
        let mut json = vec![b' '; most];
        json[0] = b'{';
        let id = fixture.repo.save_unpacked(kind, &json).await.unwrap();
        assert_eq!(fixture.repo.load_unpacked(kind, &id).await.unwrap().len(), most);
        json.push(b' ');
        let id = fixture.repo.save_unpacked(kind, &json).await.unwrap();
        assert_eq!(fixture.repo.load_unpacked(kind, &id).await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
