//! The S3 adapter against a real server: what the store promises, and precise reasons for what goes wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's way to fail"
)]

mod stock;
mod versitygw;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::repository::{InitOptions, SnapshotFilter};
use holdfast_engine::store::{
    self, FileKind, FileName, PutMode, RetryPolicy, S3Options, Store, StoreOptions, probe,
};
use holdfast_engine::{Ctx, Error, ErrorKind, Id, Repository};
use stock::{PASSWORD, Restic};
use versitygw::{ACCESS, SECRET, Server};

fn options(server: &Server) -> StoreOptions {
    StoreOptions {
        s3: S3Options {
            access_key_id: Some(ACCESS.to_owned()),
            secret_access_key: Some(SECRET.to_owned().into()),
            ..S3Options::default()
        },
        ca_pem: Some(std::fs::read(server.ca()).unwrap()),
        retry: RetryPolicy {
            deadline: Duration::from_secs(20),
            first: Duration::from_millis(50),
            max: Duration::from_millis(500),
            ..RetryPolicy::default()
        },
        ..StoreOptions::default()
    }
}

fn open(location: &str, options: &StoreOptions) -> Arc<dyn Store> {
    store::open(&location.parse().unwrap(), options, &Ctx::default()).unwrap()
}

fn init_options() -> InitOptions {
    InitOptions {
        password: PASSWORD.to_owned().into(),
        recovery_password: None,
        version: 2,
        hostname: "h".to_owned(),
        username: "u".to_owned(),
    }
}

fn pack(body: &[u8]) -> FileName {
    FileName { kind: FileKind::Pack, id: Id::hash(body) }
}

#[tokio::test]
async fn a_bucket_keeps_what_a_store_promises() {
    let server = Server::start(&["bucket"]);
    let store = open(&server.location("bucket/some/where"), &options(&server));
    assert!(store.is_empty().await.unwrap());
    assert_eq!(store.list(FileKind::Pack).await.unwrap(), []);
    let body = Bytes::from(vec![b'x'; 3 << 20]);
    let name = pack(&body);
    store.put(name, body.clone().into(), PutMode::ContentAddressed).await.unwrap();
    store.put(name, body.clone().into(), PutMode::ContentAddressed).await.unwrap();
    assert_eq!(store.get(name, None).await.unwrap(), body);
    assert_eq!(store.get(name, Some(5..1_000_005)).await.unwrap(), body[5..1_000_005]);
    assert_eq!(store.get_suffix(name, 651).await.unwrap().len(), 651);
    assert_eq!(store.get_suffix(name, 4 << 20).await.unwrap(), body);
    assert_eq!(store.size(name).await.unwrap(), 3 << 20);
    let beyond = (3 << 20)..(3 << 20) + 5;
    for range in [5..(3 << 20) + 1, beyond] {
        assert_eq!(store.get(name, Some(range)).await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
    let absent = pack(b"absent");
    assert_eq!(store.get(absent, None).await.unwrap_err().kind(), ErrorKind::Missing);
    assert_eq!(store.get(absent, Some(0..4)).await.unwrap_err().kind(), ErrorKind::Missing);
    assert_eq!(store.get_suffix(absent, 4).await.unwrap_err().kind(), ErrorKind::Missing);
    assert_eq!(store.size(absent).await.unwrap_err().kind(), ErrorKind::Missing);
    let listed = store.list(FileKind::Pack).await.unwrap();
    assert_eq!((listed.len(), listed[0].id, listed[0].size), (1, name.id, 3 << 20));
    assert!(listed[0].modified.is_some());
    assert!(server.bucket("bucket").join("some/where").join("data").is_dir());
    store.delete(name).await.unwrap();
    store.delete(name).await.unwrap();

    let config = FileName { kind: FileKind::Config, id: Id::default() };
    store.put(config, "one".into(), PutMode::CreateNew).await.unwrap();
    let taken = store.put(config, "two".into(), PutMode::CreateNew).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyInitialized);
    assert_eq!(store.get(config, None).await.unwrap(), "one");

    store.put_extra("../metadata.yaml", "m".into(), PutMode::ContentAddressed).await.unwrap();
    store.put_extra("repository.yaml", "r".into(), PutMode::CreateNew).await.unwrap();
    let above = open(&server.location("bucket/some"), &options(&server));
    assert_eq!(above.get_extra("metadata.yaml").await.unwrap().unwrap(), "m");
    assert_eq!(above.list_extra("", 10).await.unwrap(), ["metadata.yaml", "where/"]);
    assert_eq!(store.list_extra("", 10).await.unwrap(), ["config", "repository.yaml"]);
    assert_eq!(store.get_extra("nothing").await.unwrap(), None);
    store.delete_extra("repository.yaml").await.unwrap();
    assert!(!store.is_empty().await.unwrap());
}

#[tokio::test]
async fn listings_of_several_pages_are_whole() {
    let server = Server::start(&["bucket"]);
    let store = open(&server.location("bucket"), &options(&server));
    let mut names: Vec<Id> = Vec::new();
    for number in 0..1100_u32 {
        let name = pack(&number.to_le_bytes());
        names.push(name.id);
        store.put(name, "x".into(), PutMode::ContentAddressed).await.unwrap();
    }
    let mut listed: Vec<Id> = store.list(FileKind::Pack).await.unwrap().into_iter().map(|e| e.id).collect();
    names.sort();
    listed.sort();
    assert_eq!(listed, names);
}

#[tokio::test]
async fn probing_succeeds_and_leaves_nothing() {
    let server = Server::start(&["bucket"]);
    let store = open(&server.location("bucket/p"), &options(&server));
    assert!(probe(store.as_ref()).await.unwrap().create_only);
    assert!(store.is_empty().await.unwrap());
}

#[tokio::test]
async fn every_reason_of_failure_is_told_apart() {
    let server = Server::start(&["bucket"]);
    server.add_user("poor", "poor-secret");
    let good = options(&server);
    let with = |change: &dyn Fn(&mut StoreOptions)| {
        let mut options = good.clone();
        change(&mut options);
        options
    };
    let location = server.location("bucket/a");
    let cases: Vec<(&str, String, StoreOptions, ErrorKind)> = vec![
        ("key", location.clone(), with(&|s| s.s3.access_key_id = Some("nobody".into())), ErrorKind::Auth),
        (
            "secret",
            location.clone(),
            with(&|s| s.s3.secret_access_key = Some("wrong".to_owned().into())),
            ErrorKind::Auth,
        ),
        ("bucket", server.location("missing/a"), good.clone(), ErrorKind::BucketNotFound),
        ("no CA", location.clone(), with(&|s| s.ca_pem = None), ErrorKind::Tls),
        (
            "other CA",
            location.clone(),
            with(&|s| s.ca_pem = std::fs::read(server.other_ca()).ok()),
            ErrorKind::Tls,
        ),
        (
            "rights",
            location.clone(),
            with(&|s| {
                s.s3.access_key_id = Some("poor".into());
                s.s3.secret_access_key = Some("poor-secret".to_owned().into());
            }),
            ErrorKind::AccessDenied,
        ),
    ];
    for (what, location, options, kind) in cases {
        let store = open(&location, &options);
        let errors: [Error; 4] = [
            Repository::exists(store.as_ref()).await.unwrap_err(),
            probe(store.as_ref()).await.unwrap_err(),
            Repository::init(Arc::clone(&store), &init_options(), &Ctx::default()).await.unwrap_err(),
            Repository::open(store, &PASSWORD.to_owned().into(), &Ctx::default()).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), kind, "wrong {what}: {}", error.chain());
            assert!(!error.chain().contains("wrong"), "no secret in {}", error.chain());
        }
    }
    assert_eq!(std::fs::read_dir(server.bucket("bucket")).unwrap().count(), 0, "nothing was written");
}

#[tokio::test]
async fn a_server_that_is_away_is_waited_for_until_the_deadline() {
    let mut server = Server::start(&["bucket"]);
    let store = open(&server.location("bucket"), &options(&server));
    let name = pack(b"p");
    store.put(name, "p".into(), PutMode::ContentAddressed).await.unwrap();
    server.stop();
    let mut impatient = options(&server);
    impatient.retry.deadline = Duration::from_millis(300);
    let refused = open(&server.location("bucket"), &impatient).get(name, None).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unreachable, "{}", refused.chain());
    let waiting = tokio::spawn(async move { store.get(name, None).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!waiting.is_finished());
    let server = tokio::task::spawn_blocking(move || {
        server.resume();
        server
    })
    .await
    .unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), "p");
    drop(server);
}

#[tokio::test]
async fn restic_and_we_share_a_bucket() {
    let server = Server::start(&["bucket"]);
    let location = server.location("bucket/repo");
    let store = open(&location, &options(&server));
    let repo = Repository::init(Arc::clone(&store), &init_options(), &Ctx::default()).await.unwrap();
    let again = Repository::init(Arc::clone(&store), &init_options(), &Ctx::default()).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyInitialized);
    let wrong =
        Repository::open(Arc::clone(&store), &"guess".to_owned().into(), &Ctx::default()).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::WrongPassword);
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("file"), b"content").unwrap();
    for arguments in [vec!["backup", source.path().to_str().unwrap()], vec!["check", "--read-data"]] {
        let output = Restic::newest(&location)
            .command(arguments)
            .arg("--cacert")
            .arg(server.ca())
            .env("AWS_ACCESS_KEY_ID", ACCESS)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let (_, snapshot) = repo.find_snapshot("latest", &SnapshotFilter::default()).await.unwrap();
    let index = repo.load_index(&Ctx::default()).await.unwrap();
    assert_eq!(repo.load_tree(&index, &snapshot.tree).await.unwrap().nodes.len(), 1);
}

#[tokio::test]
async fn of_many_that_initialise_one_bucket_at_once_one_wins() {
    let server = Server::start(&["bucket"]);
    let store = open(&server.location("bucket/repo"), &options(&server));
    let attempts = (0..4).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { Repository::init(store, &init_options(), &Ctx::default()).await })
    });
    let mut made = 0;
    for attempt in futures::future::join_all(attempts).await {
        match attempt.unwrap() {
            Ok(_) => made += 1,
            Err(e) => assert_eq!(e.kind(), ErrorKind::AlreadyInitialized, "{}", e.chain()),
        }
    }
    assert_eq!(made, 1);
    assert_eq!(store.list(FileKind::Key).await.unwrap().len(), 1);
    Repository::open(store, &PASSWORD.to_owned().into(), &Ctx::default()).await.unwrap();
}

#[tokio::test]
async fn a_file_too_long_for_one_request_goes_in_parts() {
    let server = Server::start(&["bucket"]);
    let store = open(&server.location("bucket"), &options(&server));
    let body = Bytes::from(stock::noise(7, (64 << 20) + 5));
    let name = pack(&body);
    store.put(name, body.clone().into(), PutMode::ContentAddressed).await.unwrap();
    assert_eq!(store.size(name).await.unwrap(), body.len() as u64);
    let end = body.len() as u64;
    assert_eq!(store.get(name, Some(end - 20..end)).await.unwrap(), body[body.len() - 20..]);
    assert_eq!(Id::hash(&store.get(name, None).await.unwrap()), name.id);
}
