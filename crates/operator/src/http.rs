//! A small HTTP server for what is asked of the operator itself: probes and metrics. It answers GET with a text.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::errors::Chain;

/// Longest time that a client may take over its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest life of a connection: probes and scrapes come back, whoever holds on to one does neither.
const CONNECTION_TIMEOUT: Duration = Duration::from_mins(5);
/// Most connections at the same time; the next ones wait.
const CONNECTIONS: usize = 64;

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The media type.
    pub content_type: &'static str,
    /// The text.
    pub text: String,
}

impl Reply {
    /// Plain text.
    pub fn plain(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", text: text.into() }
    }
}

/// Opens a port.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Answers with what `answer` says to a path, until told to stop.
pub async fn serve(
    listener: TcpListener,
    answer: impl Fn(&str) -> Reply + Send + Sync + 'static,
    stop: CancellationToken,
) {
    let answer = Arc::new(answer);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = tokio::select! {
            () = stop.cancelled() => return,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let answer = Arc::clone(&answer);
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(move |request: Request<Incoming>| {
                let response = respond(request.method(), request.uri().path(), &*answer);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
                tracing::debug!(error = %Chain(&error), "a connection broke");
            }
        });
    }
}

fn respond(method: &Method, path: &str, answer: &impl Fn(&str) -> Reply) -> Response<Full<Bytes>> {
    let reply = if method == Method::GET || method == Method::HEAD {
        answer(path)
    } else {
        Reply::plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n")
    };
    let mut response = Response::new(Full::new(Bytes::from(reply.text)));
    *response.status_mut() = reply.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_questions_are_answered() {
        let answer = |path: &str| Reply::plain(StatusCode::OK, path);
        let get = respond(&Method::GET, "/metrics", &answer);
        assert_eq!(get.status(), StatusCode::OK);
        assert_eq!(get.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(respond(&Method::POST, "/", &answer).status(), StatusCode::METHOD_NOT_ALLOWED);
    }
}
