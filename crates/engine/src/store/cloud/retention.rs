//! Object lock of S3, which the client library does not know: `GetObjectLockConfiguration`, `GetObjectRetention` and
//! `PutObjectRetention` ("Amazon S3 API Reference"), signed by the library with the same keys.

use std::sync::OnceLock;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use data_encoding::{BASE64, HEXUPPER};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use object_store::ClientOptions;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpConnector as _, HttpRequestBody};
use object_store::path::Path;

use super::watched::{Connector, collect};
use crate::store::answer::{Answer, element, find};
use crate::store::retention::{ObjectLock, Retention, RetentionMode};

/// What is signed and sent outside the client library.
#[derive(Debug)]
pub(super) struct Locker {
    connection: ClientOptions,
    /// Made when it is used: most runs never do.
    http: OnceLock<HttpClient>,
    credentials: AwsCredentialProvider,
    region: String,
    /// Address of the bucket, without a `/` at its end.
    bucket: String,
}

type Result<T, E = object_store::Error> = std::result::Result<T, E>;

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> object_store::Error {
    object_store::Error::Generic { store: "S3", source: Box::new(error) }
}

impl Locker {
    pub(super) fn new(
        connection: ClientOptions,
        credentials: AwsCredentialProvider,
        region: &str,
        bucket: &str,
    ) -> Self {
        let bucket = bucket.trim_end_matches('/').to_owned();
        Self { connection, http: OnceLock::new(), credentials, region: region.to_owned(), bucket }
    }

    fn http(&self) -> Result<&HttpClient> {
        if let Some(made) = self.http.get() {
            return Ok(made);
        }
        let made = Connector.connect(&self.connection)?;
        Ok(self.http.get_or_init(|| made))
    }

    /// What the bucket does by itself; `None` when it has no object lock.
    pub(super) async fn configuration(&self) -> Result<Option<ObjectLock>> {
        match self.send(Method::GET, "", "object-lock", Bytes::new()).await {
            Ok(answer) => configuration(&String::from_utf8_lossy(&answer)).map_err(failed),
            Err(e) if is(&e, &["ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration"]) => {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// The protection of an object; `None` when it has none.
    pub(super) async fn get(&self, path: &Path) -> Result<Option<Retention>> {
        match self.send(Method::GET, path.as_ref(), "retention", Bytes::new()).await {
            Ok(answer) => retention(&String::from_utf8_lossy(&answer)).map_err(failed),
            Err(e) if is(&e, &["NoSuchObjectLockConfiguration"]) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Protects an object.
    pub(super) async fn put(&self, path: &Path, retention: Retention) -> Result<()> {
        let body = format!(
            "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>{}</Mode>\
             <RetainUntilDate>{}</RetainUntilDate></Retention>",
            retention.mode,
            // Whole seconds, rounded up: never shorter than what was asked for.
            Timestamp::from_second(
                retention
                    .until
                    .as_second()
                    .saturating_add(i64::from(retention.until.subsec_nanosecond() > 0))
            )
            .unwrap_or(Timestamp::MAX),
        );
        self.send(Method::PUT, path.as_ref(), "retention", body.into()).await.map(drop)
    }

    async fn send(&self, method: Method, path: &str, query: &str, body: Bytes) -> Result<Bytes> {
        let uri = format!("{}/{}?{query}=", self.bucket, encode(path));
        let mut request = http::Request::builder().method(method).uri(uri);
        let hash = digest(&SHA256, &body);
        if !body.is_empty() {
            // The protocol demands one of several checksums for these requests.
            request = request
                .header("x-amz-sdk-checksum-algorithm", "SHA256")
                .header("x-amz-checksum-sha256", BASE64.encode(hash.as_ref()))
                .header("content-type", "application/xml");
        }
        let mut request = request.body(HttpRequestBody::from(body)).map_err(failed)?;
        let credentials = self.credentials.get_credential().await?;
        AwsAuthorizer::new(&credentials, "s3", &self.region)
            .try_authorize(&mut request, Some(hash.as_ref()))?;
        let response = self.http()?.execute(request).await.map_err(failed)?;
        let status = response.status().as_u16();
        let bytes = collect(response.into_body()).await.map_err(failed)?;
        if (200..300).contains(&status) {
            return Ok(bytes);
        }
        // Refusals that the library has names of its own for come through as responses.
        Err(failed(Answer::new(status, None, &bytes)))
    }
}

fn is(error: &object_store::Error, codes: &[&str]) -> bool {
    find::<Answer>(error).is_some_and(|answer| codes.contains(&answer.code.as_str()))
}

/// All bytes but those that no server reads differently, as the signature demands.
fn encode(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                text.push(char::from(byte));
            }
            other => {
                text.push('%');
                text.push_str(&HEXUPPER.encode(&[other]));
            }
        }
    }
    text
}

/// The server's answer makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("the server's answer about object lock makes no sense: {0:?}")]
struct Odd(String);

fn odd(xml: &str) -> Odd {
    Odd(xml.chars().take(200).collect())
}

fn configuration(xml: &str) -> Result<Option<ObjectLock>, Odd> {
    if element(xml, "ObjectLockEnabled") != "Enabled" {
        return Ok(None);
    }
    let mode = element(xml, "Mode");
    if mode.is_empty() {
        return Ok(Some(ObjectLock::default()));
    }
    let mode = mode.parse().map_err(|_| odd(xml))?;
    let number = |name| element(xml, name).parse::<u32>().ok();
    let days = number("Days").or_else(|| number("Years").and_then(|years| years.checked_mul(365)));
    let hours = i64::from(days.ok_or_else(|| odd(xml))?).saturating_mul(24);
    Ok(Some(ObjectLock { default: Some((mode, SignedDuration::from_hours(hours))) }))
}

fn retention(xml: &str) -> Result<Option<Retention>, Odd> {
    let (mode, until) = (element(xml, "Mode"), element(xml, "RetainUntilDate"));
    if mode.is_empty() && until.is_empty() {
        return Ok(None);
    }
    let mode = mode.parse::<RetentionMode>().map_err(|_| odd(xml))?;
    let until = until.parse::<Timestamp>().map_err(|_| odd(xml))?;
    Ok(Some(Retention { mode, until }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_and_odd_ones_are_errors() {
        let all = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
            <Mode>COMPLIANCE</Mode><Days>30</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
        let month = Some((RetentionMode::Compliance, SignedDuration::from_hours(720)));
        assert_eq!(configuration(all).unwrap(), Some(ObjectLock { default: month }));
        let bare = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>";
        assert_eq!(configuration(bare).unwrap(), Some(ObjectLock::default()));
        assert_eq!(configuration("<ObjectLockConfiguration/>").unwrap(), None);
        assert!(configuration(&all.replace("30", "many")).is_err());
        assert!(configuration(&all.replace("COMPLIANCE", "SOMEHOW")).is_err());

        let one = "<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>2027-01-02T03:04:05.000Z</RetainUntilDate></Retention>";
        let until = "2027-01-02T03:04:05Z".parse().unwrap();
        assert_eq!(retention(one).unwrap(), Some(Retention { mode: RetentionMode::Governance, until }));
        assert_eq!(retention("<Retention/>").unwrap(), None);
        assert!(retention(&one.replace("2027", "soon")).is_err());
        assert!(
            retention("<Retention><RetainUntilDate>2027-01-02T03:04:05Z</RetainUntilDate></Retention>")
                .is_err()
        );
    }

    #[test]
    fn paths_are_encoded_as_they_are_signed() {
        assert_eq!(encode("a b/ü+%/x~._-"), "a%20b/%C3%BC%2B%25/x~._-");
    }
}
