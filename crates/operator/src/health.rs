//! The probes `/healthz` and `/readyz`. Alive: the process answers. Ready: the custom resources are served, so
//! that work can be done or taken over.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::errors::Chain;

/// Longest time that a client may take over its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether the operator is ready, and why not.
#[derive(Clone)]
pub struct Health {
    unready: Arc<RwLock<Option<String>>>,
}

impl Default for Health {
    fn default() -> Self {
        Self { unready: Arc::new(RwLock::new(Some("starting".to_owned()))) }
    }
}

impl Health {
    /// Ready from now on.
    pub fn ready(&self) {
        *self.unready.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Not ready, for this reason.
    pub fn unready(&self, reason: impl Into<String>) {
        *self.unready.write().unwrap_or_else(PoisonError::into_inner) = Some(reason.into());
    }

    fn answer(&self, method: &Method, path: &str) -> (StatusCode, String) {
        if method != Method::GET && method != Method::HEAD {
            return (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
        }
        match path {
            "/healthz" => (StatusCode::OK, "ok\n".into()),
            "/readyz" => match self.unready.read().unwrap_or_else(PoisonError::into_inner).as_deref() {
                None => (StatusCode::OK, "ok\n".into()),
                Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
            },
            _ => (StatusCode::NOT_FOUND, "there is /healthz and /readyz\n".into()),
        }
    }
}

/// Opens the port of the probes.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Answers probes until told to stop.
pub async fn serve(listener: TcpListener, health: Health, stop: CancellationToken) {
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "a probe's connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let health = health.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (status, text) = health.answer(request.method(), request.uri().path());
                let mut response = Response::new(Full::new(Bytes::from(text)));
                *response.status_mut() = status;
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(error = %Chain(&error), "a probe's connection broke");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_says_what_is_missing() {
        let health = Health::default();
        assert_eq!(health.answer(&Method::GET, "/healthz").0, StatusCode::OK);
        health.unready("the custom resource Backup is not served");
        let (status, text) = health.answer(&Method::GET, "/readyz");
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(text.contains("Backup"));
        health.ready();
        assert_eq!(health.answer(&Method::GET, "/readyz").0, StatusCode::OK);
        assert_eq!(health.answer(&Method::POST, "/readyz").0, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(health.answer(&Method::GET, "/").0, StatusCode::NOT_FOUND);
    }
}
