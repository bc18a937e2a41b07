//! A bucket as requests of our own reach it: for what the client library has no call for, signed by the library with
//! the same keys.

use std::sync::OnceLock;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use data_encoding::{BASE64, HEXUPPER};
use http::Method;
use object_store::ClientOptions;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpConnector as _, HttpRequestBody};

use super::watched::{Connector, collect};
use crate::store::answer::{Answer, find};

/// What is signed and sent outside the client library.
#[derive(Debug)]
pub(super) struct Bucket {
    connection: ClientOptions,
    /// Made when it is used: most runs never do.
    http: OnceLock<HttpClient>,
    credentials: AwsCredentialProvider,
    region: String,
    /// Address of the bucket, without a `/` at its end.
    url: String,
}

pub(super) type Result<T, E = object_store::Error> = std::result::Result<T, E>;

pub(super) fn failed(error: impl std::error::Error + Send + Sync + 'static) -> object_store::Error {
    object_store::Error::Generic { store: "S3", source: Box::new(error) }
}

impl Bucket {
    pub(super) fn new(
        connection: ClientOptions,
        credentials: AwsCredentialProvider,
        region: &str,
        url: &str,
    ) -> Self {
        let url = url.trim_end_matches('/').to_owned();
        Self { connection, http: OnceLock::new(), credentials, region: region.to_owned(), url }
    }

    fn http(&self) -> Result<&HttpClient> {
        if let Some(made) = self.http.get() {
            return Ok(made);
        }
        let made = Connector.connect(&self.connection)?;
        Ok(self.http.get_or_init(|| made))
    }

    /// A signed request for a key of the bucket, or for the bucket itself when that is empty; what was answered.
    pub(super) async fn send(&self, method: Method, path: &str, query: &str, body: Bytes) -> Result<Bytes> {
        let uri = format!("{}/{}?{query}=", self.url, encode(path));
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

/// Whether the server refused with one of these codes.
pub(super) fn is(error: &object_store::Error, codes: &[&str]) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_encoded_as_they_are_signed() {
        assert_eq!(encode("a b/ü+%/x~._-"), "a%20b/%C3%BC%2B%25/x~._-");
    }
}
