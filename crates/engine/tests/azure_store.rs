//! Azure Blob Storage, tried on Microsoft's emulator: what the adapter promises, a whole backup, and reasons of failure.
//! Left out of a plain `cargo test`, for the emulator needs Node; `make test` runs it where npm is there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's way to fail"
)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::backup::{BackupSpec, backup};
use holdfast_engine::check::{CheckSpec, ReadData, check};
use holdfast_engine::lock::{Holder, LockMode};
use holdfast_engine::repository::InitOptions;
use holdfast_engine::store::{
    self, AzureOptions, FileKind, FileName, PutMode, RetryPolicy, Store, StoreOptions,
};
use holdfast_engine::{Ctx, ErrorKind, Id, Repository};

/// An emulator; it ends when dropped.
struct Emulator {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Emulator {
    fn start(variable: &str, arguments: impl Fn(u16, &Path) -> Vec<String>) -> Self {
        let program = std::env::var_os(variable)
            .unwrap_or_else(|| panic!("set {variable} to the emulator's program, or leave this test out"));
        let directory = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(program)
            .args(arguments(port, directory.path()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let emulator = Self { child, port, _directory: directory };
        for _ in 0..1200 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return emulator;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("the emulator does not answer within 30 s");
    }

    fn send(&self, head: &str, body: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let length = body.len();
        let host = format!("Host: 127.0.0.1:{}", self.port);
        write!(stream, "{head}\r\n{host}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn quick() -> RetryPolicy {
    RetryPolicy {
        deadline: Duration::from_secs(5),
        first: Duration::from_millis(20),
        max: Duration::from_millis(200),
        ..RetryPolicy::default()
    }
}

fn open(location: &str, options: &StoreOptions) -> Arc<dyn Store> {
    store::open(&location.parse().unwrap(), options, &Ctx::default()).unwrap()
}

/// What every adapter promises; `above` is the location one level up.
async fn promises(store: &dyn Store, above: &dyn Store) {
    assert!(store.is_empty().await.unwrap());
    assert_eq!(store.list(FileKind::Pack).await.unwrap(), []);
    let body = Bytes::from(vec![b'x'; 3 << 20]);
    let name = FileName { kind: FileKind::Pack, id: Id::hash(&body) };
    store.put(name, body.clone().into(), PutMode::ContentAddressed).await.unwrap();
    store.put(name, body.clone().into(), PutMode::ContentAddressed).await.unwrap();
    assert_eq!(store.get(name, None).await.unwrap(), body);
    assert_eq!(store.get(name, Some(5..1_000_005)).await.unwrap(), body[5..1_000_005]);
    assert_eq!(store.get_suffix(name, 651).await.unwrap().len(), 651);
    assert_eq!(store.get_suffix(name, 4 << 20).await.unwrap(), body);
    assert_eq!(store.size(name).await.unwrap(), 3 << 20);
    assert_eq!(store.get(name, Some(5..(3 << 20) + 1)).await.unwrap_err().kind(), ErrorKind::Corrupt);
    let absent = FileName { kind: FileKind::Pack, id: Id::hash(b"absent") };
    assert_eq!(store.get(absent, None).await.unwrap_err().kind(), ErrorKind::Missing);
    assert_eq!(store.get_suffix(absent, 4).await.unwrap_err().kind(), ErrorKind::Missing);
    assert_eq!(store.size(absent).await.unwrap_err().kind(), ErrorKind::Missing);
    let listed = store.list(FileKind::Pack).await.unwrap();
    assert_eq!((listed.len(), listed[0].id, listed[0].size), (1, name.id, 3 << 20));
    assert!(listed[0].modified.is_some());
    store.delete(name).await.unwrap();
    store.delete(name).await.unwrap();
    assert_eq!(store.list(FileKind::Pack).await.unwrap(), []);

    let config = FileName { kind: FileKind::Config, id: Id::default() };
    store.put(config, "one".into(), PutMode::CreateNew).await.unwrap();
    let taken = store.put(config, "two".into(), PutMode::CreateNew).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyInitialized);
    assert_eq!(store.get(config, None).await.unwrap(), "one");
    store.put_extra("../metadata.yaml", "m".into(), PutMode::ContentAddressed).await.unwrap();
    assert_eq!(above.get_extra("metadata.yaml").await.unwrap().unwrap(), "m");
    assert_eq!(above.list_extra("", 10).await.unwrap(), ["metadata.yaml", "where/"]);
    assert_eq!(store.get_extra("nothing").await.unwrap(), None);
    store.delete(config).await.unwrap();
    assert!(store.is_empty().await.unwrap());
}

/// A repository is made, filled, and checked byte by byte.
async fn whole_backup(store: Arc<dyn Store>) {
    let ctx = Ctx::default();
    let options = InitOptions {
        password: "correct horse battery staple correct horse battery staple".to_owned().into(),
        recovery_password: None,
        version: 2,
        hostname: "h".to_owned(),
        username: "u".to_owned(),
    };
    let repo = Repository::init(store, &options, &ctx).await.unwrap();
    let source = tempfile::tempdir().unwrap();
    for number in 0..30_u8 {
        std::fs::write(source.path().join(format!("f{number}")), vec![number; 100_000]).unwrap();
    }
    let holder = Holder::this_process("test", "test");
    let lock = repo.lock(LockMode::Shared, &holder, Duration::ZERO, &[], &ctx).await.unwrap();
    let spec =
        BackupSpec { roots: vec![source.path().to_owned()], host: "h".to_owned(), ..BackupSpec::default() };
    backup(&repo, &lock, &spec, &ctx).await.unwrap();
    lock.release().await.unwrap();
    let found = check(&repo, None, &CheckSpec { read_data: ReadData::All }, &ctx).await.unwrap();
    assert!(found.is_sound() && found.snapshots == 1, "{:?}", found.findings);
}

/// The account and key that every Azure emulator knows (Microsoft's documentation of Azurite).
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

#[tokio::test]
#[ignore = "needs azurite-blob in HOLDFAST_AZURITE"]
async fn azure_keeps_what_a_store_promises() {
    let server = Emulator::start("HOLDFAST_AZURITE", |port, directory| {
        let mut arguments: Vec<String> =
            ["--blobHost", "127.0.0.1", "--silent", "--skipApiVersionCheck", "--blobPort"]
                .map(str::to_owned)
                .to_vec();
        arguments.extend([port.to_string(), "--location".to_owned(), directory.display().to_string()]);
        arguments
    });
    // Containers are not made by us, so the test asks for one, signed as "Authorize with Shared Key" says.
    let date = jiff::fmt::rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&jiff::Timestamp::now())
        .unwrap();
    let text = format!(
        "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:2021-08-06\n/{ACCOUNT}/{ACCOUNT}/container\n\
         restype:container"
    );
    let key = data_encoding::BASE64.decode(KEY.as_bytes()).unwrap();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &key);
    let signature = data_encoding::BASE64.encode(aws_lc_rs::hmac::sign(&key, text.as_bytes()).as_ref());
    server.send(
        &format!(
            "PUT /{ACCOUNT}/container?restype=container HTTP/1.1\r\nx-ms-date: {date}\r\nx-ms-version: 2021-08-06\r\n\
             Authorization: SharedKey {ACCOUNT}:{signature}"
        ),
        "",
    );
    let azure = AzureOptions {
        account: Some(ACCOUNT.to_owned()),
        key: Some(KEY.to_owned().into()),
        endpoint: Some(format!("http://127.0.0.1:{}/{ACCOUNT}", server.port)),
        ..AzureOptions::default()
    };
    let options = StoreOptions { azure: azure.clone(), retry: quick(), ..StoreOptions::default() };
    let store = open("azure:container:/some/where", &options);
    promises(store.as_ref(), open("azure:container:/some", &options).as_ref()).await;
    whole_backup(store).await;

    let missing = open("azure:nowhere:/a", &options).list(FileKind::Key).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::BucketNotFound, "{}", missing.chain());
    let wrong = AzureOptions { key: Some("d3Jvbmc=".to_owned().into()), ..azure };
    let wrong = StoreOptions { azure: wrong, retry: quick(), ..StoreOptions::default() };
    let refused = open("azure:container:/some", &wrong).list(FileKind::Key).await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Auth | ErrorKind::AccessDenied), "{}", refused.chain());
    assert!(!refused.chain().contains("d3Jvbmc"), "{}", refused.chain());
}
