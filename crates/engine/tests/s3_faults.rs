//! The S3 adapter against a server that answers as it is told: passing troubles are overcome, others are named.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's way to fail"
)]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_engine::store::{
    self, FileKind, FileName, PutMode, RetryPolicy, S3Options, Store, StoreOptions,
};
use holdfast_engine::{Ctx, ErrorKind, Id};

/// Plays answers in order, the last one for ever, each on a connection of its own.
struct Player {
    port: u16,
    asked: Arc<AtomicUsize>,
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\nETag: \"e\"\r\n\
         Last-Modified: Sat, 21 Nov 2026 00:00:00 GMT\r\n{headers}\r\n{body}",
        body.len()
    )
}

fn refusal(status: &str, code: &str) -> String {
    answer(
        status,
        "",
        &format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>because</Message></Error>"),
    )
}

impl Player {
    fn start(answers: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        let answers = Mutex::new(VecDeque::from(answers));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    // A client that hangs up without a word is of no interest.
                    if stream.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                        break;
                    }
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                }
                let _ = stream.read_exact(&mut vec![0; length]);
                counter.fetch_add(1, Ordering::SeqCst);
                let mut answers = answers.lock().unwrap();
                let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
                let _ = stream.get_mut().write_all(answer.unwrap().as_bytes());
            }
        });
        Self { port, asked }
    }

    fn store(&self, scheme: &str) -> Arc<dyn Store> {
        let options = StoreOptions {
            s3: S3Options {
                access_key_id: Some("key".to_owned()),
                secret_access_key: Some("secret".to_owned().into()),
                ..S3Options::default()
            },
            retry: RetryPolicy {
                deadline: Duration::from_secs(2),
                first: Duration::from_millis(5),
                max: Duration::from_millis(20),
                ..RetryPolicy::default()
            },
            ..StoreOptions::default()
        };
        let location = format!("s3:{scheme}://127.0.0.1:{}/bucket", self.port).parse().unwrap();
        store::open(&location, &options, &Ctx::default()).unwrap()
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

const NAME: FileName = FileName { kind: FileKind::Index, id: Id::from_bytes([1; 32]) };

#[tokio::test]
async fn a_busy_server_is_asked_again() {
    let busy = [
        refusal("503 Service Unavailable", "SlowDown"),
        refusal("500 Internal Server Error", "InternalError"),
        refusal("429 Too Many Requests", ""),
        answer("200 OK", "", "content"),
    ];
    let player = Player::start(busy.to_vec());
    assert_eq!(player.store("http").get(NAME, None).await.unwrap(), "content");
    assert_eq!(player.asked(), 4);
    let player = Player::start(busy.to_vec());
    player.store("http").put(NAME, "content".into(), PutMode::ContentAddressed).await.unwrap();
    assert_eq!(player.asked(), 4);
}

#[tokio::test]
async fn answers_cut_short_are_asked_for_again() {
    let whole = answer("200 OK", "", "content");
    let cut = whole.strip_suffix("tent").unwrap().to_owned();
    let player = Player::start(vec![cut.clone(), cut, whole]);
    assert_eq!(player.store("http").get(NAME, None).await.unwrap(), "content");
    assert_eq!(player.asked(), 3);
}

#[tokio::test]
async fn refusals_that_last_are_not_repeated() {
    for (status, code, kind) in [
        ("403 Forbidden", "RequestTimeTooSkewed", ErrorKind::ClockSkew),
        ("403 Forbidden", "SignatureDoesNotMatch", ErrorKind::Auth),
        ("403 Forbidden", "AccessDenied", ErrorKind::AccessDenied),
        ("404 Not Found", "NoSuchBucket", ErrorKind::BucketNotFound),
        ("404 Not Found", "NoSuchKey", ErrorKind::Missing),
        ("507 Insufficient Storage", "XMinioStorageFull", ErrorKind::Full),
        ("301 Moved Permanently", "PermanentRedirect", ErrorKind::Usage),
    ] {
        let player = Player::start(vec![refusal(status, code)]);
        let error = player.store("http").get(NAME, None).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{}", error.chain());
        assert_eq!(player.asked(), 1, "{code}");
        if kind != ErrorKind::Missing {
            assert!(error.chain().contains(code) && error.chain().contains("because"), "{}", error.chain());
        }
    }
}

#[tokio::test]
async fn a_listing_that_stops_at_its_second_page_is_an_error() {
    let page = format!(
        "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>true</IsTruncated>\
         <NextContinuationToken>more</NextContinuationToken><Contents><Key>index/{}</Key><Size>1</Size>\
         <LastModified>2026-11-21T00:00:00.000Z</LastModified></Contents></ListBucketResult>",
        NAME.id
    );
    let last = page
        .replace("true", "false")
        .replace("<NextContinuationToken>more</NextContinuationToken>", "")
        .replace(&NAME.id.to_string(), &Id::from_bytes([2; 32]).to_string());
    let player = Player::start(vec![
        answer("200 OK", "", &page),
        refusal("500 Internal Server Error", "InternalError"),
    ]);
    let error = player.store("http").list(FileKind::Index).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(player.asked() > 2);
    let player = Player::start(vec![answer("200 OK", "", &page), answer("200 OK", "", &last)]);
    assert_eq!(player.store("http").list(FileKind::Index).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_server_without_conditional_writes_is_looked_at_first() {
    let player = Player::start(vec![
        refusal("404 Not Found", "NoSuchKey"),
        refusal("501 Not Implemented", "NotImplemented"),
        answer("200 OK", "", ""),
    ]);
    player.store("http").put(NAME, "x".into(), PutMode::CreateNew).await.unwrap();
    assert_eq!(player.asked(), 3);
    let player = Player::start(vec![answer("200 OK", "", "")]);
    let taken = player.store("http").put(NAME, "x".into(), PutMode::CreateNew).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyInitialized);
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_told_apart_from_one_that_is_away() {
    let player = Player::start(vec![answer("400 Bad Request", "", "this is http")]);
    let error = player.store("https").get(NAME, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls, "{}", error.chain());
}
