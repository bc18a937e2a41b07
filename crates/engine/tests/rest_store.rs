//! The REST adapter against a real server: what the store promises, also append-only, and precise reasons for what
//! goes wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's way to fail"
)]

mod rest_server;
mod stock;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::repository::{InitOptions, SnapshotFilter};
use holdfast_engine::store::{
    self, FileKind, FileName, PutMode, RestOptions, RetryPolicy, Store, StoreOptions,
};
use holdfast_engine::{Ctx, Error, ErrorKind, Id, Repository};
use rest_server::{LOGIN, Server, USER};
use stock::{PASSWORD, Restic};

fn options(password: &str) -> StoreOptions {
    StoreOptions {
        rest: RestOptions { username: Some(USER.to_owned()), password: Some(password.to_owned().into()) },
        retry: RetryPolicy {
            deadline: Duration::from_secs(3),
            first: Duration::from_millis(20),
            max: Duration::from_millis(200),
            ..RetryPolicy::default()
        },
        ..StoreOptions::default()
    }
}

fn open(location: &str) -> Arc<dyn Store> {
    store::open(&location.parse().unwrap(), &options(LOGIN), &Ctx::default()).unwrap()
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

fn named(kind: FileKind, body: &[u8]) -> FileName {
    FileName { kind, id: Id::hash(body) }
}

#[tokio::test]
async fn a_server_keeps_what_a_store_promises() {
    let server = Server::start(false);
    let store = open(&server.location("some/where"));
    assert!(store.is_empty().await.unwrap());
    assert_eq!(store.list(FileKind::Pack).await.unwrap(), []);
    store.prepare().await.unwrap();
    store.prepare().await.unwrap();
    assert!(store.is_empty().await.unwrap());
    let body = Bytes::from(vec![b'x'; 3 << 20]);
    let name = named(FileKind::Pack, &body);
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
    let absent = named(FileKind::Pack, b"absent");
    assert_eq!(store.get(absent, None).await.unwrap_err().kind(), ErrorKind::Missing);
    assert_eq!(store.get(absent, Some(0..4)).await.unwrap_err().kind(), ErrorKind::Missing);
    assert_eq!(store.get_suffix(absent, 4).await.unwrap_err().kind(), ErrorKind::Missing);
    assert_eq!(store.size(absent).await.unwrap_err().kind(), ErrorKind::Missing);
    let listed = store.list(FileKind::Pack).await.unwrap();
    assert_eq!((listed.len(), listed[0].id, listed[0].size), (1, name.id, 3 << 20));
    assert!(!store.is_empty().await.unwrap());
    store.delete(name).await.unwrap();
    store.delete(name).await.unwrap();
    assert_eq!(store.list(FileKind::Pack).await.unwrap(), []);

    let config = FileName { kind: FileKind::Config, id: Id::default() };
    assert_eq!(store.list(FileKind::Config).await.unwrap(), []);
    store.put(config, "one".into(), PutMode::CreateNew).await.unwrap();
    let taken = store.put(config, "two".into(), PutMode::CreateNew).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyInitialized);
    assert_eq!(store.get(config, None).await.unwrap(), "one");
    assert_eq!(store.list(FileKind::Config).await.unwrap()[0].size, 3);
    assert_eq!(store.list_extra("", 10).await.unwrap(), ["config"]);

    assert_eq!(store.get_extra("repository.yaml").await.unwrap(), None);
    let refused = store.put_extra("repository.yaml", "r".into(), PutMode::CreateNew).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Usage);
}

#[tokio::test]
async fn the_login_is_taken_from_the_location_or_from_the_options() {
    let server = Server::start(false);
    let with = |location: &str, password: &str| {
        store::open(&location.parse().unwrap(), &options(password), &Ctx::default()).unwrap()
    };
    assert!(with(&server.with_login("a"), "wrong").is_empty().await.unwrap());
    assert!(with(&server.location("a"), LOGIN).is_empty().await.unwrap());
    for store in [
        with(&server.location("a"), "wrong"),
        store::open(&server.location("a").parse().unwrap(), &StoreOptions::default(), &Ctx::default())
            .unwrap(),
    ] {
        let errors: [Error; 3] = [
            Repository::exists(store.as_ref()).await.unwrap_err(),
            Repository::init(Arc::clone(&store), &init_options(), &Ctx::default()).await.unwrap_err(),
            Repository::open(store, &PASSWORD.to_owned().into(), &Ctx::default()).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Auth, "{}", error.chain());
            assert!(!error.chain().contains("wrong") && !error.chain().contains(LOGIN), "{}", error.chain());
        }
    }
    assert_eq!(std::fs::read_dir(server.data("")).unwrap().count(), 0, "nothing was written");
}

fn restic(server: &Server, arguments: &[&str]) {
    let output = Restic::newest(server.location("repo/"))
        .command(arguments)
        .env("RESTIC_REST_USERNAME", USER)
        .env("RESTIC_REST_PASSWORD", LOGIN)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn restic_and_we_share_a_server() {
    let server = Server::start(false);
    let store = open(&server.location("repo"));
    let repo = Repository::init(Arc::clone(&store), &init_options(), &Ctx::default()).await.unwrap();
    let again = Repository::init(Arc::clone(&store), &init_options(), &Ctx::default()).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyInitialized);
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("file"), b"content").unwrap();
    restic(&server, &["backup", source.path().to_str().unwrap()]);
    restic(&server, &["check", "--read-data"]);
    let (_, snapshot) = repo.find_snapshot("latest", &SnapshotFilter::default()).await.unwrap();
    let index = repo.load_index(&Ctx::default()).await.unwrap();
    assert_eq!(repo.load_tree(&index, &snapshot.tree).await.unwrap().nodes.len(), 1);
}

#[tokio::test]
async fn an_append_only_server_keeps_everything_but_locks() {
    let server = Server::start(true);
    let store = open(&server.location("repo"));
    Repository::init(Arc::clone(&store), &init_options(), &Ctx::default()).await.unwrap();
    let pack = named(FileKind::Pack, b"p");
    store.put(pack, "p".into(), PutMode::ContentAddressed).await.unwrap();
    let refused = store.delete(pack).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AccessDenied);
    assert!(refused.chain().contains("append-only"), "{}", refused.chain());
    assert_eq!(store.list(FileKind::Pack).await.unwrap().len(), 1);
    let lock = named(FileKind::Lock, b"l");
    store.put(lock, "l".into(), PutMode::ContentAddressed).await.unwrap();
    store.delete(lock).await.unwrap();
    assert_eq!(store.list(FileKind::Lock).await.unwrap(), []);
    // Another content under a name that is taken: the server keeps the first.
    let wrong = store.put(pack, "other".into(), PutMode::ContentAddressed).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::AccessDenied);
    Repository::open(store, &PASSWORD.to_owned().into(), &Ctx::default()).await.unwrap();
}

#[tokio::test]
async fn what_arrives_damaged_is_not_kept() {
    let server = Server::start(false);
    let store = open(&server.location("repo"));
    store.prepare().await.unwrap();
    let pack = named(FileKind::Pack, b"what it should be");
    let error = store.put(pack, "what it is".into(), PutMode::ContentAddressed).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage, "{}", error.chain());
    assert_eq!(store.list(FileKind::Pack).await.unwrap(), []);
}

#[tokio::test]
async fn a_server_that_is_away_is_waited_for() {
    let mut server = Server::start(false);
    let store = open(&server.location("repo"));
    store.prepare().await.unwrap();
    let pack = named(FileKind::Pack, b"p");
    store.put(pack, "p".into(), PutMode::ContentAddressed).await.unwrap();
    server.stop();
    let error = store.get(pack, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{}", error.chain());
    server.resume();
    assert_eq!(store.get(pack, None).await.unwrap(), "p");
}

/// Answers each request with the next of these, the last one for ever.
fn player(answers: Vec<String>) -> (String, Arc<AtomicUsize>) {
    play(move |number, _| answers[number.min(answers.len() - 1)].clone())
}

/// Answers each request by its number and its first line.
fn play(answers: impl Fn(usize, &str) -> String + Send + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let location = format!("rest:http://{}/", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            let number = counter.fetch_add(1, Ordering::SeqCst);
            let head = String::from_utf8_lossy(&head);
            let _ = stream.write_all(answers(number, head.lines().next().unwrap_or_default()).as_bytes());
        }
    });
    (location, asked)
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn passing_troubles_are_overcome_and_others_are_named() {
    let name = FileName { kind: FileKind::Index, id: Id::from_bytes([1; 32]) };
    let whole = answer("200 OK", "content");
    let cut = whole.strip_suffix("tent").unwrap().to_owned();
    let (location, asked) = player(vec![
        answer("503 Service Unavailable", "busy"),
        answer("500 Internal Server Error", ""),
        String::new(),
        cut,
        whole,
    ]);
    assert_eq!(open(&location).get(name, None).await.unwrap(), "content");
    assert_eq!(asked.load(Ordering::SeqCst), 5);
    for (status, kind) in [
        ("401 Unauthorized", ErrorKind::Auth),
        ("403 Forbidden", ErrorKind::AccessDenied),
        ("404 Not Found", ErrorKind::Missing),
        ("507 Insufficient Storage", ErrorKind::Full),
        ("302 Found", ErrorKind::Usage),
    ] {
        let (location, asked) = player(vec![answer(status, "because")]);
        let error = open(&location).get(name, None).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{}", error.chain());
        assert!(error.chain().contains("because"), "{}", error.chain());
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }
    // A range that the server ignores; the old protocol's list of names; a list that breaks off.
    let (location, _) = player(vec![answer("200 OK", "content")]);
    assert_eq!(open(&location).get(name, Some(3..7)).await.unwrap(), "tent");
    assert_eq!(open(&location).get_suffix(name, 2).await.unwrap(), "nt");
    assert_eq!(open(&location).get(name, Some(3..9)).await.unwrap_err().kind(), ErrorKind::Corrupt);
    for listing in [format!("[\"{}\"]", name.id), "[{\"name\":\"".to_owned(), "<html>".to_owned()] {
        let (location, _) = player(vec![answer("200 OK", &listing)]);
        let error = open(&location).list(FileKind::Index).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Listing, "{}", error.chain());
    }
}

/// A server that has these directories, each with one file in it or with none, and a config where asked for.
fn server_with(config: bool, directories: &'static [(&'static str, bool)]) -> String {
    let file = format!("[{{\"name\":\"{}\",\"size\":7}}]", Id::from_bytes([1; 32]));
    let answers = move |_: usize, line: &str| {
        let path = line.split(' ').nth(1).unwrap_or_default();
        if path == "/config" && config {
            // Without its body to a HEAD request.
            let whole = answer("200 OK", "config");
            return if line.starts_with("HEAD") {
                whole.replace("\r\n\r\nconfig", "\r\n\r\n")
            } else {
                whole
            };
        }
        match directories.iter().find(|(name, _)| path == format!("/{name}/")) {
            Some((_, full)) => answer("200 OK", if *full { &file } else { "[]" }),
            None => answer("404 Not Found", "404 page not found"),
        }
    };
    play(answers).0
}

#[tokio::test]
async fn a_directory_that_a_repository_lacks_is_no_empty_one() {
    // Asks once.
    let open = |location: &str| {
        let mut options = options(LOGIN);
        options.retry.deadline = Duration::ZERO;
        store::open(&location.parse().unwrap(), &options, &Ctx::default()).unwrap()
    };
    let kinds = [FileKind::Key, FileKind::Lock, FileKind::Snapshot, FileKind::Index, FileKind::Pack];
    let refused = async |location: &str, kind: FileKind| {
        let error = open(location).list(kind).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Listing, "{}", error.chain());
        assert!(error.chain().contains("no such directory"), "{}", error.chain());
    };
    let location = server_with(true, &[("keys", true), ("index", true), ("data", true)]);
    refused(&location, FileKind::Snapshot).await;
    // Copies lack it when it was empty.
    assert_eq!(open(&location).list(FileKind::Lock).await.unwrap(), []);
    let location = server_with(true, &[("snapshots", true), ("data", false)]);
    refused(&location, FileKind::Index).await;
    refused(&location, FileKind::Key).await;
    refused(&server_with(true, &[("keys", true), ("index", true)]), FileKind::Pack).await;
    // A repository that holds nothing, and none at all.
    let location = server_with(true, &[("keys", true), ("data", false)]);
    for kind in [FileKind::Snapshot, FileKind::Index, FileKind::Pack] {
        assert_eq!(open(&location).list(kind).await.unwrap(), []);
    }
    let location = server_with(false, &[]);
    for kind in kinds {
        assert_eq!(open(&location).list(kind).await.unwrap(), []);
    }
    assert!(open(&location).is_empty().await.unwrap());
    // Something else answers for the server from the second request on.
    for kind in kinds {
        let (location, _) = player(vec![answer("200 OK", "config"), answer("404 Not Found", "no backend")]);
        let store = open(&location);
        store.get(FileName { kind: FileKind::Config, id: Id::default() }, None).await.unwrap();
        let error = store.list(kind).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Listing, "{}", error.chain());
        assert!(error.chain().contains("no backend"), "{}", error.chain());
    }
}

/// Taken for no locks, it would have a backup that others respect take its snapshot back.
#[tokio::test]
async fn a_directory_with_a_lock_of_ours_is_there() {
    let answers = |_: usize, line: &str| match line.split(' ').next().unwrap_or_default() {
        "HEAD" => answer("200 OK", "config").replace("\r\n\r\nconfig", "\r\n\r\n"),
        "GET" => answer("404 Not Found", "no backend"),
        _ => answer("200 OK", ""),
    };
    let mut options = options(LOGIN);
    options.retry.deadline = Duration::ZERO;
    let store = store::open(&play(answers).0.parse().unwrap(), &options, &Ctx::default()).unwrap();
    assert_eq!(store.list(FileKind::Lock).await.unwrap(), []);
    let lock = FileName { kind: FileKind::Lock, id: Id::from_bytes([1; 32]) };
    store.put(lock, "lock".into(), PutMode::CreateNew).await.unwrap();
    let error = store.list(FileKind::Lock).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Listing, "{}", error.chain());
    assert!(error.chain().contains("has just written a lock"), "{}", error.chain());
    store.delete(lock).await.unwrap();
    assert_eq!(store.list(FileKind::Lock).await.unwrap(), []);
}

#[tokio::test]
async fn no_more_is_read_than_any_such_file_has() {
    let name = FileName { kind: FileKind::Key, id: Id::from_bytes([1; 32]) };
    let announced = |status: &str, bytes: u64| {
        answer(status, "content").replace("Length: 7", &format!("Length: {bytes}"))
    };
    for (bytes, range) in [(2 << 20, None), (998, Some(3..7)), (2 << 20, Some(3..7))] {
        let partial = range.is_some() && bytes == 998;
        let (location, asked) =
            player(vec![announced(if partial { "206 Partial Content" } else { "200 OK" }, bytes)]);
        let error = open(&location).get(name, range).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }
}
