//! The probes `/healthz` and `/readyz`. Alive: the process answers. Ready: the custom resources are served, so
//! that work can be done or taken over.

use std::sync::{Arc, PoisonError, RwLock};

use hyper::StatusCode;

use crate::http::Reply;

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

    /// What is answered to a probe.
    pub fn answer(&self, path: &str) -> Reply {
        match path {
            "/healthz" => Reply::plain(StatusCode::OK, "ok\n"),
            "/readyz" => match self.unready.read().unwrap_or_else(PoisonError::into_inner).as_deref() {
                None => Reply::plain(StatusCode::OK, "ok\n"),
                Some(reason) => {
                    Reply::plain(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n"))
                }
            },
            _ => Reply::plain(StatusCode::NOT_FOUND, "there is /healthz and /readyz\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_says_what_is_missing() {
        let health = Health::default();
        assert_eq!(health.answer("/healthz").status, StatusCode::OK);
        health.unready("the custom resource Backup is not served");
        let reply = health.answer("/readyz");
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(reply.text.contains("Backup"));
        health.ready();
        assert_eq!(health.answer("/readyz").status, StatusCode::OK);
        assert_eq!(health.answer("/").status, StatusCode::NOT_FOUND);
    }
}
