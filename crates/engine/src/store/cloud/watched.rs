//! Requests of the cloud client library, watched: deadlines are kept here, and the server's refusals become
//! [`Answer`]s before the library turns them into text. Pages of listings are looked at before it takes them for all.

use std::io;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService, ReqwestConnector,
};

use super::listing;
use crate::store::answer::{Answer, STALL, Stalled, patience};

/// The most that is read of an answer that is not file content.
const MAX_ANSWER: usize = 16 << 20;

#[derive(Debug)]
pub(super) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Watched { inner }))
    }
}

#[derive(Debug)]
struct Watched {
    inner: HttpClient,
}

#[async_trait::async_trait]
impl HttpService for Watched {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let limit = patience(u64::try_from(request.body().content_length()).unwrap_or(u64::MAX));
        let head = request.method() == "HEAD";
        let listing =
            request.uri().query().is_some_and(|q| q.contains("list-type=") || q.contains("comp=list"));
        let response = tokio::time::timeout(limit, self.inner.execute(request))
            .await
            .map_err(|_| HttpError::new(HttpErrorKind::Timeout, Stalled(limit)))??;
        let status = response.status();
        if status.is_success() && !listing {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let bytes = if head { Bytes::new() } else { collect(body).await? };
        if status.is_success() {
            listing::usable(&bytes).map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
            return Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(bytes)));
        }
        // Azure gives the code in a header too, which is all there is to a HEAD request.
        let header = parts.headers.get("x-ms-error-code").and_then(|v| v.to_str().ok());
        let answer = Answer::new(status.as_u16(), header, &bytes);
        // The library has its own names for these: absent, unchanged, taken.
        let known = match status.as_u16() {
            304 | 412 => true,
            404 => matches!(answer.code.as_str(), "" | "NoSuchKey" | "BlobNotFound"),
            409 => matches!(answer.code.as_str(), "ConditionalRequestConflict" | "BlobAlreadyExists"),
            _ => false,
        };
        if known {
            return Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(bytes)));
        }
        Err(HttpError::new(HttpErrorKind::Unknown, answer))
    }
}

pub(super) async fn collect(body: HttpResponseBody) -> Result<Bytes, HttpError> {
    let mut stream = body.bytes_stream();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = tokio::time::timeout(STALL, stream.next())
        .await
        .map_err(|_| HttpError::new(HttpErrorKind::Timeout, Stalled(STALL)))?
    {
        bytes.extend_from_slice(&chunk?);
        if bytes.len() > MAX_ANSWER {
            let error = io::Error::other("the server's answer is far too long");
            return Err(HttpError::new(HttpErrorKind::Decode, error));
        }
    }
    Ok(bytes.freeze())
}
