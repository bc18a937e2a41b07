//! A repository below a prefix of a bucket on an S3 server: path-style addresses, static keys, custom CA.
//!
//! The client library's own retries are off (see `retry`), and its view of failures is sharpened: every answer
//! passes through [`Watched`], which reads the server's error code before the library turns it into text.

use std::error::Error as StdError;
use std::io;
use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService, ReqwestConnector,
};
use object_store::path::Path;
use object_store::{
    Certificate, ClientOptions, GetOptions, GetRange, HeaderValue, ObjectStore, ObjectStoreExt, PutOptions,
    PutPayload, RetryConfig,
};
use secrecy::ExposeSecret;

use super::{Entry, FileKind, FileName, Location, PutMode, S3Options, Store};
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;

/// No byte for so long means that the connection is dead.
const STALL: Duration = Duration::from_mins(1);
/// The slowest upload that is waited for, bytes a second.
const SLOWEST_UPLOAD: u64 = 256 << 10;
/// The most that is read of an answer that is not file content.
const MAX_ANSWER: usize = 16 << 20;

pub(super) struct S3Store {
    client: AmazonS3,
    prefix: Vec<String>,
    description: String,
}

impl S3Store {
    pub(super) fn new(location: &Location, options: &S3Options) -> Result<Self> {
        let Location::S3 { endpoint, bucket, prefix } = location else {
            return Err(Error::new(ErrorKind::Internal, format!("{location} is no S3 location")));
        };
        let (Some(key), Some(secret)) = (&options.access_key_id, &options.secret_access_key) else {
            return Err(Error::new(
                ErrorKind::Auth,
                format!(
                    "no access key and secret key were given for {location}; for a command line set AWS_ACCESS_KEY_ID \
                    and AWS_SECRET_ACCESS_KEY"
                ),
            ));
        };
        let mut client = ClientOptions::new()
            .with_allow_http(endpoint.starts_with("http://"))
            .with_user_agent(HeaderValue::from_static(concat!("holdfast/", env!("CARGO_PKG_VERSION"))))
            .with_connect_timeout(Duration::from_secs(15))
            // Deadlines depend on how much is sent; they are kept here.
            .with_timeout_disabled();
        if let Some(pem) = &options.ca_pem {
            let certificates = Certificate::from_pem_bundle(pem).map_err(|e| bad_ca(e.into()))?;
            if certificates.is_empty() {
                return Err(bad_ca("it holds no certificate".into()));
            }
            for certificate in certificates {
                client = client.with_root_certificate(certificate);
            }
        }
        let mut builder = AmazonS3Builder::new()
            .with_endpoint(endpoint)
            .with_bucket_name(bucket)
            .with_region(options.region.as_deref().unwrap_or("us-east-1"))
            .with_access_key_id(key)
            .with_secret_access_key(secret.expose_secret())
            .with_virtual_hosted_style_request(false)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_disable_bulk_delete(true)
            .with_client_options(client)
            .with_http_connector(Connector)
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() });
        if let Some(token) = &options.session_token {
            builder = builder.with_token(token.expose_secret());
        }
        let client = builder.build().map_err(|e| {
            Error::with_source(ErrorKind::Usage, format!("a client for {location} could not be made"), e)
        })?;
        Ok(Self {
            client,
            prefix: prefix.split('/').filter(|p| !p.is_empty()).map(str::to_owned).collect(),
            description: location.to_string(),
        })
    }

    #[expect(clippy::needless_pass_by_value, reason = "errors come here by `map_err`")]
    fn error(&self, what: &str, error: object_store::Error) -> Error {
        classify(&format!("{what} in {}", self.description), &error)
    }

    /// The object's path for one relative to the location; `..` may climb up to the bucket's root.
    fn path(&self, relative: &str) -> Result<Path> {
        let usage = |why: String| {
            Error::new(ErrorKind::Usage, format!("{relative:?} is no path in {}: {why}", self.description))
        };
        let mut parts: Vec<&str> = self.prefix.iter().map(String::as_str).collect();
        for part in relative.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop().ok_or_else(|| usage("it leads out of the bucket".to_owned()))?;
                }
                part => parts.push(part),
            }
        }
        Path::parse(parts.join("/")).map_err(|e| usage(e.to_string()))
    }

    async fn read(&self, what: &str, path: &Path, range: Option<GetRange>) -> Result<(Range<u64>, Bytes)> {
        let options = GetOptions { range, ..GetOptions::default() };
        let result = self.client.get_opts(path, options).await.map_err(|e| self.error(what, e))?;
        let range = result.range.clone();
        let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(|_| {
            Error::new(ErrorKind::Corrupt, format!("{what}: the object is larger than memory"))
        })?;
        let mut stream = result.into_stream();
        let mut bytes = BytesMut::with_capacity(length.min(64 << 20));
        loop {
            let chunk = tokio::time::timeout(STALL, stream.next()).await.map_err(|_| {
                Error::new(ErrorKind::Timeout, format!("{what}: no byte came for {} s", STALL.as_secs()))
            })?;
            match chunk {
                None => break,
                Some(chunk) => bytes.extend_from_slice(&chunk.map_err(|e| self.error(what, e))?),
            }
        }
        if bytes.len() != length {
            return Err(Error::new(
                ErrorKind::Unreachable,
                format!("{what}: {} bytes came where {length} were announced", bytes.len()),
            ));
        }
        Ok((range, bytes.freeze()))
    }

    async fn write(&self, what: &str, path: &Path, body: Bytes, mode: PutMode) -> Result<()> {
        let mode = match mode {
            PutMode::ContentAddressed => object_store::PutMode::Overwrite,
            PutMode::CreateNew => object_store::PutMode::Create,
        };
        let create = mode == object_store::PutMode::Create;
        if create && self.exists(what, path).await? {
            return Err(Error::new(ErrorKind::AlreadyInitialized, format!("{what}: it is there already")));
        }
        let options = PutOptions { mode, ..PutOptions::default() };
        let payload = PutPayload::from(body.clone());
        match self.client.put_opts(path, payload, options).await {
            Ok(_) => Ok(()),
            // The server does not know conditional writes; the look beforehand has to do.
            Err(e) if create && find::<Answer>(&e).is_some_and(|a| a.status == 501) => self
                .client
                .put(path, PutPayload::from(body))
                .await
                .map(|_| ())
                .map_err(|e| self.error(what, e)),
            Err(e) => Err(self.error(what, e)),
        }
    }

    async fn exists(&self, what: &str, path: &Path) -> Result<bool> {
        match self.client.head(path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(e) => Err(self.error(what, e)),
        }
    }

    async fn remove(&self, what: &str, path: &Path) -> Result<()> {
        match self.client.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.error(what, e)),
        }
    }
}

fn bad_ca(source: Box<dyn StdError + Send + Sync>) -> Error {
    Error::with_source(ErrorKind::Tls, "the CA certificates given are not readable as PEM", source)
}

#[async_trait::async_trait]
impl Store for S3Store {
    async fn list(&self, kind: FileKind) -> Result<Vec<Entry>> {
        let prefix = self.path(kind.directory())?;
        let mut stream = self.client.list(Some(&prefix));
        let mut entries = Vec::new();
        while let Some(meta) = stream.try_next().await.map_err(|e| {
            match self.error(&format!("listing {}", kind.directory()), e) {
                e if e.kind() == ErrorKind::Missing => Error::with_source(
                    ErrorKind::BucketNotFound,
                    format!("{} cannot be listed: its bucket does not exist", self.description),
                    e,
                ),
                e => e,
            }
        })? {
            let Some(id) = meta.location.filename().and_then(|n| n.parse::<Id>().ok()) else { continue };
            if kind == FileKind::Lock && meta.size == 0 {
                continue;
            }
            entries.push(Entry { id, size: meta.size, modified: Some(meta.last_modified.timestamp()) });
        }
        Ok(entries)
    }

    async fn get(&self, name: FileName, range: Option<Range<u64>>) -> Result<Bytes> {
        let path = self.path(&name.path())?;
        let what = format!("reading {name}");
        let wanted = range.clone();
        let (got, bytes) = self.read(&what, &path, range.map(GetRange::Bounded)).await?;
        match wanted {
            Some(wanted) if wanted != got => Err(Error::new(
                ErrorKind::Corrupt,
                format!("{what}: the object ends at byte {}, the index says it has {}", got.end, wanted.end),
            )),
            _ => Ok(bytes),
        }
    }

    async fn get_suffix(&self, name: FileName, len: u64) -> Result<Bytes> {
        let path = self.path(&name.path())?;
        let (_, bytes) =
            self.read(&format!("reading the end of {name}"), &path, Some(GetRange::Suffix(len))).await?;
        Ok(bytes)
    }

    async fn size(&self, name: FileName) -> Result<u64> {
        let path = self.path(&name.path())?;
        let meta = self.client.head(&path).await.map_err(|e| self.error(&format!("looking at {name}"), e))?;
        Ok(meta.size)
    }

    async fn put(&self, name: FileName, body: Bytes, mode: PutMode) -> Result<()> {
        let path = self.path(&name.path())?;
        self.write(&format!("writing {name}"), &path, body, mode).await
    }

    async fn delete(&self, name: FileName) -> Result<()> {
        let path = self.path(&name.path())?;
        self.remove(&format!("removing {name}"), &path).await
    }

    async fn is_empty(&self) -> Result<bool> {
        let prefix = self.path("")?;
        let first = self.client.list(Some(&prefix)).try_next().await.map_err(|e| self.error("listing", e))?;
        Ok(first.is_none())
    }

    async fn prepare(&self) -> Result<()> {
        Ok(())
    }

    async fn get_extra(&self, path: &str) -> Result<Option<Bytes>> {
        match self.read(&format!("reading {path}"), &self.path(path)?, None).await {
            Ok((_, bytes)) => Ok(Some(bytes)),
            Err(e) if e.kind() == ErrorKind::Missing => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn put_extra(&self, path: &str, body: Bytes, mode: PutMode) -> Result<()> {
        self.write(&format!("writing {path}"), &self.path(path)?, body, mode).await
    }

    async fn delete_extra(&self, path: &str) -> Result<()> {
        self.remove(&format!("removing {path}"), &self.path(path)?).await
    }

    async fn list_extra(&self, directory: &str, limit: usize) -> Result<Vec<String>> {
        let prefix = self.path(directory)?;
        let listed = self
            .client
            .list_with_delimiter(Some(&prefix))
            .await
            .map_err(|e| self.error(&format!("listing {directory:?}"), e))?;
        let directories = listed.common_prefixes.iter().filter_map(|p| Some(format!("{}/", p.filename()?)));
        let files = listed.objects.iter().filter_map(|o| o.location.filename().map(str::to_owned));
        let mut names: Vec<String> = directories.chain(files).take(limit).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn describe(&self) -> String {
        self.description.clone()
    }
}

/// A failure that the server explained.
#[derive(Debug, thiserror::Error)]
#[error("the server answered {status}{}{code}{}{message}", if code.is_empty() { "" } else { " " },
    if message.is_empty() { "" } else { ": " })]
struct Answer {
    status: u16,
    /// S3's error code; empty when the answer has no body (to HEAD requests).
    code: String,
    message: String,
}

impl Answer {
    /// What S3's codes mean ("Error responses" of the S3 API reference, and what other servers send).
    fn kind(&self) -> ErrorKind {
        match self.code.as_str() {
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "InvalidToken"
            | "ExpiredToken"
            | "TokenRefreshRequired"
            | "AuthorizationHeaderMalformed"
            | "InvalidSecurity"
            | "InvalidAccessKey"
            | "AuthFailure"
            | "MissingAuthenticationToken"
            | "UnrecognizedClientException" => ErrorKind::Auth,
            "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "AuthorizationError"
            | "MethodNotAllowed" => ErrorKind::AccessDenied,
            "NoSuchBucket" | "InvalidBucketName" => ErrorKind::BucketNotFound,
            "RequestTimeTooSkewed" | "RequestExpired" => ErrorKind::ClockSkew,
            "NoSuchKey" => ErrorKind::Missing,
            "InvalidRange" => ErrorKind::Corrupt,
            "XMinioStorageFull" | "QuotaExceeded" | "InsufficientStorage" => ErrorKind::Full,
            "SlowDown" | "RequestTimeout" | "InternalError" | "ServiceUnavailable" | "OperationAborted" => {
                ErrorKind::Unreachable
            }
            _ => match self.status {
                401 => ErrorKind::Auth,
                403 => ErrorKind::AccessDenied,
                404 => ErrorKind::Missing,
                416 => ErrorKind::Corrupt,
                507 => ErrorKind::Full,
                501 => ErrorKind::Usage,
                408 | 425 | 429 | 500.. => ErrorKind::Unreachable,
                // A redirection: the bucket lives in another region, or the endpoint is not an S3 server.
                _ => ErrorKind::Usage,
            },
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("no answer within {} s", .0.as_secs())]
struct Stalled(Duration);

/// The first cause of type `T` in a chain.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(found) = e.downcast_ref::<T>() {
            return Some(found);
        }
        // An I/O error's `source` skips the error it wraps, which may be another I/O error.
        if let Some(inner) = e.downcast_ref::<io::Error>().and_then(io::Error::get_ref)
            && let Some(found) = find::<T>(inner)
        {
            return Some(found);
        }
        next = e.source();
    }
    None
}

fn classify(what: &str, error: &object_store::Error) -> Error {
    let (kind, advice) = if let Some(answer) = find::<Answer>(error) {
        let kind = answer.kind();
        let advice = match kind {
            ErrorKind::Auth => "the server refuses the credentials: check access key, secret key and region",
            ErrorKind::AccessDenied => "the credentials are not allowed to do this: check the key's policy",
            ErrorKind::BucketNotFound => "the bucket does not exist: create it, or check its name",
            ErrorKind::ClockSkew => "this machine's clock and the server's differ too much: set the clock",
            ErrorKind::Missing => "the object does not exist",
            ErrorKind::Full => "the server has no space left",
            ErrorKind::Unreachable => "the server has a problem",
            ErrorKind::Corrupt => "the object is shorter than expected",
            _ => "the server does not understand the request: check endpoint and region",
        };
        (kind, advice)
    } else if find::<rustls::Error>(error).is_some() {
        (
            ErrorKind::Tls,
            "a trusted connection could not be made: check the CA certificate and the endpoint's name",
        )
    } else if matches!(error, object_store::Error::NotFound { .. }) {
        (ErrorKind::Missing, "the object does not exist")
    } else if matches!(
        error,
        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }
    ) {
        (ErrorKind::AlreadyInitialized, "it is there already")
    } else if find::<Stalled>(error).is_some() {
        (ErrorKind::Timeout, "the server does not answer")
    } else if find::<HttpError>(error).is_some() {
        (ErrorKind::Unreachable, "the server cannot be reached: check endpoint and network")
    } else {
        // What the client library itself finds wrong with an answer, e.g. a listing that is no XML.
        (
            ErrorKind::Unreachable,
            "the server's answer makes no sense: check that the endpoint is an S3 server",
        )
    };
    Error::with_source(kind, format!("{what} failed; {advice}"), innermost(error))
}

/// The cause below all that the client library wraps around it: the request, its own names, how long it took.
/// That tells people nothing, and words that differ each time would make the same failure look like a new one.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    match inner.map(|e| e as &(dyn StdError + 'static)).or_else(|| error.source()) {
        Some(cause) => innermost(cause),
        None => error.to_string(),
    }
}

#[derive(Debug)]
struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Watched { inner }))
    }
}

/// Keeps deadlines, and turns the server's refusals into [`Answer`]s that survive the client library.
#[derive(Debug)]
struct Watched {
    inner: HttpClient,
}

#[async_trait::async_trait]
impl HttpService for Watched {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let sent = u64::try_from(request.body().content_length()).unwrap_or(u64::MAX);
        let limit = STALL.saturating_add(Duration::from_secs(sent / SLOWEST_UPLOAD));
        let head = request.method() == "HEAD";
        let listing = request.uri().query().is_some_and(|q| q.contains("list-type"));
        let response =
            tokio::time::timeout(limit, self.inner.execute(request)).await.map_err(|_| stalled(limit))??;
        let status = response.status();
        if status.is_success() && !listing {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let bytes = if head { Bytes::new() } else { collect(body).await? };
        if status.is_success() {
            return Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(bytes)));
        }
        let text = String::from_utf8_lossy(&bytes);
        let code = element(&text, "Code").to_owned();
        // The library has its own names for these: absent, unchanged, taken.
        let known = match status.as_u16() {
            304 | 412 => true,
            404 => code.is_empty() || code == "NoSuchKey",
            409 => code == "ConditionalRequestConflict",
            _ => false,
        };
        if known {
            return Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(bytes)));
        }
        let message = element(&text, "Message").chars().take(300).collect();
        Err(HttpError::new(HttpErrorKind::Unknown, Answer { status: status.as_u16(), code, message }))
    }
}

fn stalled(limit: Duration) -> HttpError {
    HttpError::new(HttpErrorKind::Timeout, Stalled(limit))
}

async fn collect(body: HttpResponseBody) -> Result<Bytes, HttpError> {
    let mut stream = body.bytes_stream();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = tokio::time::timeout(STALL, stream.next()).await.map_err(|_| stalled(STALL))? {
        bytes.extend_from_slice(&chunk?);
        if bytes.len() > MAX_ANSWER {
            let error = io::Error::other("the server's answer is far too long");
            return Err(HttpError::new(HttpErrorKind::Decode, error));
        }
    }
    Ok(bytes.freeze())
}

/// The text of the first XML element of this name.
fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split_once(&open).and_then(|(_, rest)| rest.split_once(&close)).map_or("", |(text, _)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, code: &str) -> ErrorKind {
        Answer { status, code: code.into(), message: String::new() }.kind()
    }

    #[test]
    fn codes_decide_and_statuses_help_out() {
        assert_eq!(answer(403, "InvalidAccessKeyId"), ErrorKind::Auth);
        assert_eq!(answer(403, "SignatureDoesNotMatch"), ErrorKind::Auth);
        assert_eq!(answer(403, "RequestTimeTooSkewed"), ErrorKind::ClockSkew);
        assert_eq!(answer(403, "AccessDenied"), ErrorKind::AccessDenied);
        assert_eq!(answer(403, ""), ErrorKind::AccessDenied);
        assert_eq!(answer(401, ""), ErrorKind::Auth);
        assert_eq!(answer(404, "NoSuchBucket"), ErrorKind::BucketNotFound);
        assert_eq!(answer(503, "SlowDown"), ErrorKind::Unreachable);
        assert_eq!(answer(502, ""), ErrorKind::Unreachable);
        assert_eq!(answer(301, "PermanentRedirect"), ErrorKind::Usage);
        assert_eq!(answer(507, ""), ErrorKind::Full);
    }

    #[test]
    fn causes_are_found_below_an_io_error() {
        let answer = Answer { status: 403, code: "AccessDenied".into(), message: String::new() };
        let answer = io::Error::other(answer);
        let inner = io::Error::other(answer);
        let outer = Error::with_source(ErrorKind::Internal, "outer", inner);
        assert_eq!(find::<Answer>(&outer).unwrap().status, 403);
        assert!(find::<Stalled>(&outer).is_none());
    }

    #[test]
    fn a_failure_reads_the_same_each_time() {
        let answer = Answer { status: 404, code: "NoSuchBucket".into(), message: "none".into() };
        let said = answer.to_string();
        let wrapped = io::Error::other(HttpError::new(HttpErrorKind::Unknown, answer));
        let error = object_store::Error::Generic { store: "S3", source: Box::new(wrapped) };
        let text = classify("listing", &error).chain();
        assert_eq!(
            text,
            format!("listing failed; the bucket does not exist: create it, or check its name: {said}")
        );
    }

    #[test]
    fn extra_paths_stay_in_the_bucket() {
        let options = S3Options {
            access_key_id: Some("k".into()),
            secret_access_key: Some("s".to_owned().into()),
            ..S3Options::default()
        };
        let store = S3Store::new(&"s3:https://localhost/bucket/a/b".parse().unwrap(), &options).unwrap();
        assert_eq!(store.path("../metadata.yaml").unwrap().to_string(), "a/metadata.yaml");
        assert_eq!(store.path("x//y/./z").unwrap().to_string(), "a/b/x/y/z");
        assert_eq!(store.path("../../../x").unwrap_err().kind(), ErrorKind::Usage);
        assert!(!format!("{options:?}").contains("\"s\""), "the secret must not show");
    }

    #[test]
    fn missing_keys_are_said_before_anything_is_sent() {
        let error = S3Store::new(&"s3:https://localhost/bucket".parse().unwrap(), &S3Options::default())
            .err()
            .unwrap();
        assert_eq!(error.kind(), ErrorKind::Auth);
    }
}
