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

use holdfast_engine::event::{Event, EventSink};
use holdfast_engine::store::{
    self, FileKind, FileName, GcsOptions, KeySource, PutMode, RetryPolicy, S3Options, Store, StoreOptions,
};
use holdfast_engine::{Ctx, ErrorKind, Id};

/// Plays answers in order, the last one for ever, each on a connection of its own.
struct Player {
    port: u16,
    asked: Arc<AtomicUsize>,
    /// The head of each request.
    heard: Arc<Mutex<Vec<String>>>,
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
        let heard = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&heard);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let mut length = 0;
                let mut request = String::new();
                loop {
                    let mut line = String::new();
                    // A client that hangs up without a word is of no interest.
                    if stream.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                        break;
                    }
                    request.push_str(&line);
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                }
                let _ = stream.read_exact(&mut vec![0; length]);
                record.lock().unwrap().push(request);
                counter.fetch_add(1, Ordering::SeqCst);
                let mut answers = answers.lock().unwrap();
                let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
                let _ = stream.get_mut().write_all(answer.unwrap().as_bytes());
            }
        });
        Self { port, asked, heard }
    }

    fn store(&self, scheme: &str) -> Arc<dyn Store> {
        Self::store_with(&format!("s3:{scheme}://127.0.0.1:{}/bucket", self.port), key())
    }

    /// One that asks once.
    fn impatient(&self) -> Arc<dyn Store> {
        let location = format!("s3:http://127.0.0.1:{}/bucket", self.port);
        Self::open(&location, key(), Duration::ZERO)
    }

    fn store_with(location: &str, s3: S3Options) -> Arc<dyn Store> {
        Self::open(location, s3, Duration::from_secs(2))
    }

    fn open(location: &str, s3: S3Options, deadline: Duration) -> Arc<dyn Store> {
        let options = StoreOptions {
            s3,
            retry: RetryPolicy {
                deadline,
                first: Duration::from_millis(5),
                max: Duration::from_millis(20),
                ..RetryPolicy::default()
            },
            ..StoreOptions::default()
        };
        store::open(&location.parse().unwrap(), &options, &Ctx::default()).unwrap()
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn key() -> S3Options {
    S3Options {
        access_key_id: Some("key".to_owned()),
        secret_access_key: Some("secret".to_owned().into()),
        ..S3Options::default()
    }
}

const NAME: FileName = FileName { kind: FileKind::Index, id: Id::from_bytes([1; 32]) };

/// A listing with these keys.
fn listing(keys: &[&str]) -> String {
    page(keys, None)
}

/// A page of one, and by what the next page is asked for.
fn page(keys: &[&str], next: Option<&str>) -> String {
    let token = |next| format!("<NextContinuationToken>{next}</NextContinuationToken>");
    page_with(keys, next.is_some(), &next.map(token).unwrap_or_default())
}

/// A page of one, whether the server says that more follow, and with what it says of the next page.
fn page_with(keys: &[&str], more: bool, token: &str) -> String {
    let row = |key: &&str| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-11-21T00:00:00.000Z</LastModified><ETag>e</ETag>\
             <Size>7</Size></Contents>"
        )
    };
    let rows = keys.iter().map(row).collect::<Vec<_>>().concat();
    let count = keys.len();
    answer(
        "200 OK",
        "",
        &format!(
            "<ListBucketResult><IsTruncated>{more}</IsTruncated>{token}<KeyCount>{count}</KeyCount>{rows}\
             </ListBucketResult>"
        ),
    )
}

/// As AWS answers keys whose right to list has the condition `s3:prefix`.
#[tokio::test]
async fn a_refusal_is_told_from_an_absent_object_by_a_listing() {
    let denied = || refusal("403 Forbidden", "AccessDenied");
    let name = format!("index/{}", "01".repeat(32));
    let earlier = format!("index/{}00", "01".repeat(31));
    let later = format!("index/{}", "02".repeat(32));
    for absent in [listing(&[]), listing(&[&later]), listing(&[&earlier, &later])] {
        let player = Player::start(vec![denied(), absent.clone()]);
        let error = player.store("http").get(NAME, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
        let asked = player.heard.lock().unwrap()[1].clone();
        assert!(asked.contains("prefix=index%2F") && asked.contains("start-after=index%2F0101"), "{asked}");
        let player = Player::start(vec![denied(), absent.clone()]);
        assert_eq!(player.store("http").size(NAME).await.unwrap_err().kind(), ErrorKind::Missing);
        // The look before a write that must not replace anything.
        let player = Player::start(vec![denied(), absent, answer("200 OK", "", "")]);
        player.store("http").put(NAME, "content".into(), PutMode::CreateNew).await.unwrap();
        assert!(player.heard.lock().unwrap()[2].starts_with("PUT "));
    }
    // One that is there may really not be read, nor may who cannot list know.
    for present in [listing(&[&name]), listing(&[&earlier, &name]), denied()] {
        let player = Player::start(vec![denied(), present]);
        let error = player.store("http").get(NAME, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error}");
    }
}

/// HEAD requests are refused without a word of why: AWS answers 400 to keys that have ended, `MinIO` 403.
#[tokio::test]
async fn keys_that_have_ended_are_told_from_missing_rights_by_a_listing() {
    let ended = || refusal("400 Bad Request", "ExpiredToken");
    for status in ["400 Bad Request", "403 Forbidden"] {
        let mute = || answer(status, "", "");
        let player = Player::start(vec![mute(), ended()]);
        assert_eq!(player.store("http").size(NAME).await.unwrap_err().kind(), ErrorKind::Auth, "{status}");
        let heard = player.heard.lock().unwrap().clone();
        assert!(heard[0].starts_with("HEAD ") && heard[1].contains("list-type=2"), "{heard:?}");
        // The look after a write, which is the first that is refused when keys end meanwhile.
        let player = Player::start(vec![mute(), ended()]);
        let created = player.store("http").put(NAME, "content".into(), PutMode::CreateNew).await;
        assert_eq!(created.unwrap_err().kind(), ErrorKind::Auth, "{status}");
        // A listing that fails for now is no answer to the question.
        let player = Player::start(vec![mute(), refusal("503 Service Unavailable", "SlowDown")]);
        let error = player.store("http").size(NAME).await.unwrap_err();
        assert_ne!(error.kind(), ErrorKind::Missing, "{error}");
    }
    // What is refused without a reason is not taken to be absent.
    let player = Player::start(vec![answer("400 Bad Request", "", ""), listing(&[])]);
    assert_eq!(player.store("http").size(NAME).await.unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(player.asked(), 2);
    // A 400 that says why needs no listing.
    let player = Player::start(vec![refusal("400 Bad Request", "InvalidRequest")]);
    assert_eq!(player.store("http").get(NAME, None).await.unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(player.asked(), 1);
}

#[tokio::test]
async fn the_listing_after_a_refusal_asks_for_the_names_as_they_are_and_has_an_end() {
    let denied = || refusal("403 Forbidden", "AccessDenied");
    let s3 = || S3Options {
        access_key_id: Some("key".to_owned()),
        secret_access_key: Some("secret".to_owned().into()),
        ..S3Options::default()
    };
    let prefix = "a~b/c[d]{e}";
    let name = format!("{prefix}/index/{}", "01".repeat(32));
    for (rows, kind) in [(vec![name.as_str()], ErrorKind::AccessDenied), (Vec::new(), ErrorKind::Missing)] {
        let player = Player::start(vec![denied(), listing(&rows)]);
        let location = format!("s3:http://127.0.0.1:{}/bucket/{prefix}", player.port);
        let error = Player::store_with(&location, s3()).size(NAME).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let asked = player.heard.lock().unwrap()[1].clone();
        assert!(!asked.contains("%25"), "a name was escaped twice: {asked}");
    }
    // Pages that begin anew for ever.
    let earlier = format!("index/{}00", "01".repeat(31));
    let circle = page(&[&earlier], Some("t"));
    let player = Player::start(vec![denied(), circle]);
    let asked =
        tokio::time::timeout(Duration::from_secs(20), async { player.store("http").size(NAME).await });
    assert_eq!(asked.await.unwrap().unwrap_err().kind(), ErrorKind::AccessDenied);
}

#[tokio::test]
async fn a_busy_server_is_asked_again() {
    let busy = [
        refusal("503 Service Unavailable", "SlowDown"),
        refusal("500 Internal Server Error", "InternalError"),
        refusal("429 Too Many Requests", ""),
        refusal("408 Request Timeout", ""),
        refusal("502 Bad Gateway", ""),
        refusal("504 Gateway Timeout", ""),
        String::new(),
        answer("200 OK", "", "content"),
    ];
    let player = Player::start(busy.to_vec());
    assert_eq!(player.store("http").get(NAME, None).await.unwrap(), "content");
    assert_eq!(player.asked(), 8, "a connection that is closed without an answer is one of them");
    let player = Player::start(busy.to_vec());
    player.store("http").put(NAME, "content".into(), PutMode::ContentAddressed).await.unwrap();
    assert_eq!(player.asked(), 8);
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
async fn a_server_that_wants_checksums_gets_them_from_then_on() {
    let wanted = answer(
        "400 Bad Request",
        "",
        "<Error><Code>InvalidRequest</Code><Message>Content-MD5 OR x-amz-checksum- HTTP header is required for Put \
         Object requests with Object Lock parameters</Message></Error>",
    );
    let player = Player::start(vec![wanted.clone(), answer("200 OK", "", "")]);
    let store = player.store("http");
    for _ in 0..2 {
        store.put(NAME, "content".into(), PutMode::ContentAddressed).await.unwrap();
    }
    let with: Vec<bool> = player
        .heard
        .lock()
        .unwrap()
        .iter()
        .map(|head| head.to_ascii_lowercase().contains("x-amz-checksum-sha256: "))
        .collect();
    assert_eq!(with, [false, true, true]);
    // One that is not content with it is not asked for ever.
    let player = Player::start(vec![wanted]);
    let error =
        player.store("http").put(NAME, "content".into(), PutMode::ContentAddressed).await.unwrap_err();
    assert_eq!((error.kind(), player.asked()), (ErrorKind::Usage, 2), "{}", error.chain());
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
        // A refusal may mean that there is no such object, which a listing tells.
        assert_eq!(player.asked(), if kind == ErrorKind::AccessDenied { 2 } else { 1 }, "{code}");
        if kind != ErrorKind::Missing {
            assert!(error.chain().contains(code) && error.chain().contains("because"), "{}", error.chain());
        }
    }
}

#[tokio::test]
async fn a_listing_that_stops_at_its_second_page_is_an_error() {
    let key = |id: Id| format!("index/{id}");
    let first = page(&[&key(NAME.id)], Some("more"));
    let player = Player::start(vec![first.clone(), refusal("500 Internal Server Error", "InternalError")]);
    let error = player.store("http").list(FileKind::Index).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(player.asked() > 2);
    let player = Player::start(vec![first, listing(&[&key(Id::from_bytes([2; 32]))])]);
    assert_eq!(player.store("http").list(FileKind::Index).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_listing_whose_next_page_cannot_be_asked_for_is_an_error() {
    let key = format!("index/{}", NAME.id);
    for token in [
        "",
        "<NextContinuationToken></NextContinuationToken>",
        "<NextContinuationToken/>",
        // As a server answers that knows only the first version of the request.
        "<Marker></Marker><NextMarker>index/01</NextMarker>",
    ] {
        let player = Player::start(vec![page_with(&[&key], true, token)]);
        let store = player.impatient();
        let error = store.list(FileKind::Index).await.expect_err(token);
        assert_eq!(error.kind(), ErrorKind::Listing, "{}", error.chain());
        assert!(error.chain().contains("no continuation token"), "{}", error.chain());
        // Neither is it told what else lies there by such a list.
        assert_eq!(store.list_extra("", 10).await.unwrap_err().kind(), ErrorKind::Listing, "{token}");
        // A second page is no better than the first.
        let player = Player::start(vec![page(&[&key], Some("more")), page_with(&[], true, token)]);
        let error = player.impatient().list(FileKind::Index).await.expect_err(token);
        assert_eq!(error.kind(), ErrorKind::Listing, "{}", error.chain());
    }
    // A server that does better when it is asked again.
    let player = Player::start(vec![page_with(&[&key], true, ""), listing(&[&key])]);
    assert_eq!(player.store("http").list(FileKind::Index).await.unwrap().len(), 1);
    // Whether an object is refused or absent is not told by such a list either.
    let player = Player::start(vec![refusal("403 Forbidden", "AccessDenied"), page_with(&[], true, "")]);
    assert_eq!(player.store("http").size(NAME).await.unwrap_err().kind(), ErrorKind::AccessDenied);
}

#[tokio::test]
async fn a_page_of_something_else_is_no_empty_list() {
    for body in ["<html></html>", "<Error><Code>InternalError</Code></Error>", "<html>", "", "ready"] {
        let player = Player::start(vec![answer("200 OK", "", body)]);
        let error = player.impatient().list(FileKind::Index).await.expect_err(body);
        assert_eq!(error.kind(), ErrorKind::Listing, "{}", error.chain());
    }
}

#[tokio::test]
async fn a_listing_that_begins_anew_is_an_error() {
    let player = Player::start(vec![page(&[&format!("index/{}", NAME.id)], Some("more"))]);
    let error = player.store("http").list(FileKind::Index).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Listing);
    assert!(error.chain().contains("is listed again"), "{}", error.chain());
}

#[tokio::test]
async fn what_lies_below_a_directory_is_taken_from_all_pages() {
    let player = Player::start(vec![page(&["a/config"], Some("more")), listing(&["a/note"])]);
    assert_eq!(player.store("http").list_extra("a", 10).await.unwrap(), ["config", "note"]);
    let asked = player.heard.lock().unwrap().clone();
    let all = asked.iter().all(|asked| asked.contains("prefix=a%2F") && asked.contains("delimiter=%2F"));
    assert!(all && asked.len() == 2 && asked[1].contains("continuation-token=more"), "{asked:?}");
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

#[tokio::test]
async fn keys_that_were_rotated_are_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("credentials");
    let write = |id: &str| {
        let text =
            format!("[default]\naws_access_key_id={id}\naws_secret_access_key=s\naws_session_token=t{id}\n");
        std::fs::write(&file, text).unwrap();
    };
    write("old");
    let source = KeySource::Profile { file: file.clone(), profile: "default".to_owned() };
    let s3 = S3Options { keys_from: Some(source), ..S3Options::default() };
    let refused = refusal("403 Forbidden", "ExpiredToken");
    let player = Player::start(vec![
        answer("200 OK", "", "content"),
        refused.clone(),
        answer("200 OK", "", "content"),
        refused,
    ]);
    let store = Player::store_with(&format!("s3:http://127.0.0.1:{}/bucket", player.port), s3);
    store.get(NAME, None).await.unwrap();
    write("new");
    assert_eq!(store.get(NAME, None).await.unwrap(), "content");
    let error = store.get(NAME, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth, "{}", error.chain());
    let heard = player.heard.lock().unwrap();
    let used: Vec<bool> = heard.iter().map(|h| h.contains("Credential=new/")).collect();
    assert_eq!(used, [false, false, true, true], "the same keys are not tried twice");
    assert!(heard[3].to_lowercase().contains("x-amz-security-token: tnew"), "{}", heard[3]);
}

#[tokio::test]
async fn the_bucket_may_stand_in_the_hosts_name() {
    let player = Player::start(vec![answer("200 OK", "", "content")]);
    let s3 = S3Options {
        access_key_id: Some("key".to_owned()),
        secret_access_key: Some("secret".to_owned().into()),
        virtual_host: true,
        ..S3Options::default()
    };
    // Names below localhost lead to this machine.
    let store = Player::store_with(&format!("s3:http://localhost:{}/bucket/a", player.port), s3);
    match store.get(NAME, None).await {
        Ok(content) => assert_eq!(content, "content"),
        // Where the resolver does not know that, the attempt still shows where it went.
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unreachable, "{}", error.chain());
            return;
        }
    }
    let heard = player.heard.lock().unwrap();
    assert!(heard[0].starts_with(&format!("GET /a/index/{} HTTP/1.1", NAME.id)), "{}", heard[0]);
    assert!(heard[0].contains(&format!("host: bucket.localhost:{}", player.port)), "{}", heard[0]);
}

/// What a server with this answer says of the rules of its bucket.
async fn rules(answer: String) -> store::Lifecycle {
    let player = Player::start(vec![answer]);
    let s3 = S3Options {
        access_key_id: Some("key".to_owned()),
        secret_access_key: Some("secret".to_owned().into()),
        ..S3Options::default()
    };
    let location = format!("s3:http://127.0.0.1:{}/bucket/prod", player.port).parse().unwrap();
    let found = store::lifecycle(&location, &StoreOptions { s3, ..StoreOptions::default() }).await;
    let heard = player.heard.lock().unwrap()[0].clone();
    assert!(heard.starts_with("GET /bucket/?lifecycle= ") && heard.contains("AWS4-HMAC-SHA256"), "{heard}");
    found
}

#[tokio::test]
async fn a_bucket_without_rules_is_harmless_and_one_that_does_not_tell_is_not() {
    let none = refusal("404 Not Found", "NoSuchLifecycleConfiguration");
    assert_eq!(rules(none).await, store::Lifecycle::Harmless);
    let month = "<LifecycleConfiguration><Rule><ID>month</ID><Status>Enabled</Status>\
        <Expiration><Days>30</Days></Expiration></Rule></LifecycleConfiguration>";
    let store::Lifecycle::Rules(found) = rules(answer("200 OK", "", month)).await else { panic!("no rule") };
    assert_eq!((found[0].id.as_str(), found[0].effect.as_str()), ("month", "deletes objects after 30 days"));
    for (status, code, word) in [
        ("403 Forbidden", "AccessDenied", "AccessDenied"),
        ("404 Not Found", "NoSuchBucket", "NoSuchBucket"),
        ("501 Not Implemented", "NotImplemented", "does not tell such rules"),
    ] {
        let store::Lifecycle::Unknown(why) = rules(refusal(status, code)).await else { panic!("{code}") };
        assert!(why.contains(word), "{why}");
    }
}

/// There is no server to be had that speaks Google's XML interface, so this holds what is sent against its documentation.
#[tokio::test]
async fn google_is_asked_by_its_xml_interface_with_a_token() {
    let list = format!(
        "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>false</IsTruncated><Contents>\
         <Key>a/index/{}</Key><Size>7</Size><LastModified>2026-11-21T00:00:00.000Z</LastModified></Contents>\
         </ListBucketResult>",
        NAME.id
    );
    let player = Player::start(vec![
        answer("200 OK", "x-goog-generation: 1\r\n", ""),
        answer("200 OK", "x-goog-generation: 1\r\n", "content"),
        answer("200 OK", "", &list),
        answer("404 Not Found", "", "<Error><Code>NoSuchKey</Code></Error>"),
        answer("412 Precondition Failed", "", "<Error><Code>PreconditionFailed</Code></Error>"),
        answer("204 No Content", "", ""),
        answer("404 Not Found", "", "<Error><Code>NoSuchBucket</Code><Message>because</Message></Error>"),
    ]);
    let options = StoreOptions {
        gcs: GcsOptions {
            access_token: Some("token".to_owned().into()),
            endpoint: Some(format!("http://127.0.0.1:{}", player.port)),
            ..GcsOptions::default()
        },
        ..StoreOptions::default()
    };
    let store = store::open(&"gs:bucket:/a".parse().unwrap(), &options, &Ctx::default()).unwrap();
    store.put(NAME, "content".into(), PutMode::ContentAddressed).await.unwrap();
    assert_eq!(store.get(NAME, None).await.unwrap(), "content");
    assert_eq!(store.list(FileKind::Index).await.unwrap()[0].size, 7);
    let taken = store.put(NAME, "x".into(), PutMode::CreateNew).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyInitialized, "{}", taken.chain());
    store.delete(NAME).await.unwrap();
    let gone = store.get(NAME, None).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::BucketNotFound, "{}", gone.chain());
    let heard = player.heard.lock().unwrap();
    let object = format!("/bucket/a%2Findex%2F{}", NAME.id);
    let plain = format!("/bucket/a/index/{}", NAME.id);
    let first = |n: usize| heard[n].lines().next().unwrap_or_default().replace(&object, &plain);
    assert_eq!(first(0), format!("PUT {plain} HTTP/1.1"));
    assert_eq!(first(1), format!("GET {plain} HTTP/1.1"));
    assert!(first(2).starts_with("GET /bucket?") && first(2).contains("list-type=2"), "{}", first(2));
    assert!(heard[4].contains("x-goog-if-generation-match: 0"), "{}", heard[4]);
    assert_eq!(first(5), format!("DELETE {plain} HTTP/1.1"));
    assert!(heard.iter().all(|h| h.contains("Bearer token")), "{heard:?}");
}

#[tokio::test]
async fn a_server_that_falls_silent_is_given_up() {
    // Connections are taken, and nothing ever comes.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let options = StoreOptions {
        s3: S3Options {
            access_key_id: Some("key".to_owned()),
            secret_access_key: Some("secret".to_owned().into()),
            ..S3Options::default()
        },
        retry: RetryPolicy {
            deadline: Duration::from_millis(500),
            first: Duration::from_millis(5),
            max: Duration::from_millis(20),
            attempt: Duration::from_millis(100),
            ..RetryPolicy::default()
        },
        ..StoreOptions::default()
    };
    let location = format!("s3:http://127.0.0.1:{port}/bucket").parse().unwrap();
    let store = store::open(&location, &options, &Ctx::default()).unwrap();
    let read = store.get(NAME, Some(0..10));
    let error = tokio::time::timeout(Duration::from_secs(20), read).await.expect("it must end by itself");
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Timeout);
    let write = store.put(NAME, "x".into(), PutMode::ContentAddressed);
    let error = tokio::time::timeout(Duration::from_secs(20), write).await.expect("it must end by itself");
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Timeout);
    drop(listener);
}

#[tokio::test]
async fn a_host_that_no_name_server_knows_is_tried_again() {
    #[derive(Default)]
    struct Retries(AtomicUsize);
    impl EventSink for Retries {
        fn event(&self, event: Event) {
            if matches!(event, Event::Retry { .. }) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
    let retries = Arc::new(Retries::default());
    let ctx = Ctx { events: Arc::clone(&retries) as Arc<dyn EventSink>, ..Ctx::default() };
    let options = StoreOptions {
        s3: key(),
        retry: RetryPolicy {
            deadline: Duration::from_mins(1),
            first: Duration::from_millis(5),
            max: Duration::from_millis(20),
            // Ends it at the second failure, however slow the resolver is.
            budget: Duration::from_millis(1),
            ..RetryPolicy::default()
        },
        ..StoreOptions::default()
    };
    // RFC 6761: no such name ever exists.
    for location in ["s3:http://name.invalid/bucket", "rest:http://name.invalid/"] {
        let before = retries.0.load(Ordering::SeqCst);
        let store = store::open(&location.parse().unwrap(), &options, &ctx).unwrap();
        let error = store.get(NAME, Some(0..7)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{}", error.chain());
        assert!(retries.0.load(Ordering::SeqCst) > before, "{}", error.chain());
    }
}

#[tokio::test]
async fn no_more_is_read_than_any_such_file_has() {
    // A terabyte is announced.
    let huge = answer("200 OK", "", "content").replace("Length: 7", "Length: 1099511627776");
    assert!(huge.contains("1099511627776"));
    let player = Player::start(vec![huge.clone()]);
    let error = player.store("http").get(NAME, None).await.unwrap_err();
    assert_eq!((error.kind(), player.asked()), (ErrorKind::Corrupt, 1), "{}", error.chain());
    let player = Player::start(vec![huge]);
    let error = player.store("http").get_extra("repository.yaml").await.unwrap_err();
    assert_eq!((error.kind(), player.asked()), (ErrorKind::Corrupt, 1), "{}", error.chain());
}
