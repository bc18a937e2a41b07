//! What a runner's log is read for: the last lines for people, and results too long for the verdict.

use holdfast_api::MAX_LOG_LINES;
use holdfast_protocol::attachment::{self, AttachmentError, Seal};
use holdfast_protocol::{Event, Verdict};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, LogParams};
use serde::de::DeserializeOwned;

use super::CONTAINER;
use crate::errors::Chain;
use crate::events::shorten;

/// Lines looked at for the last ten that a person wants.
const TAIL: i64 = 200;
/// Longest line kept, in bytes.
const LINE_LIMIT: usize = 500;
/// Longest log read for an attachment, in bytes: some 100,000 snapshots.
const ATTACHMENT_LIMIT: i64 = 128 << 20;

/// Why an attachment is not there.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The verdict has none.
    #[error("the runner sent no result")]
    None,
    /// The log cannot be read.
    #[error("the log of pod {namespace}/{pod} cannot be read")]
    Log {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        pod: String,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
    /// The log does not hold the result.
    #[error("the result in the log of pod {namespace}/{pod} is not whole")]
    Attachment {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        pod: String,
        /// What is wrong with it.
        #[source]
        source: AttachmentError,
    },
}

/// The rows that a runner sent, whole or not at all.
pub async fn rows<T: DeserializeOwned>(
    client: &Client,
    namespace: &str,
    pod: &str,
    verdict: &Verdict,
) -> Result<Vec<T>, ReadError> {
    let seal: &Seal = verdict.attachment.as_ref().ok_or(ReadError::None)?;
    if seal.parts == 0 {
        return Ok(Vec::new());
    }
    let params = LogParams {
        container: Some(CONTAINER.into()),
        limit_bytes: Some(ATTACHMENT_LIMIT),
        ..LogParams::default()
    };
    let log = Api::<Pod>::namespaced(client.clone(), namespace)
        .logs(pod, &params)
        .await
        .map_err(|source| ReadError::Log { namespace: namespace.into(), pod: pod.into(), source })?;
    attachment::read(&log, seal).map_err(|source| ReadError::Attachment {
        namespace: namespace.into(),
        pod: pod.into(),
        source,
    })
}

/// The last lines of a runner's log that a person wants, at most ten; none when the log is gone.
pub async fn tail(client: &Client, namespace: &str, pod: &str) -> Vec<String> {
    let params =
        LogParams { container: Some(CONTAINER.into()), tail_lines: Some(TAIL), ..LogParams::default() };
    match Api::<Pod>::namespaced(client.clone(), namespace).logs(pod, &params).await {
        Ok(log) => readable(&log),
        Err(error) => {
            tracing::debug!(error = %Chain(&error), namespace, pod, "a log cannot be read");
            Vec::new()
        }
    }
}

/// When the runner last wrote a line: the sign of life of a runner that nobody listened to.
pub async fn last_line_at(client: &Client, namespace: &str, pod: &str) -> Option<Timestamp> {
    let params = LogParams {
        container: Some(CONTAINER.into()),
        tail_lines: Some(1),
        timestamps: true,
        ..LogParams::default()
    };
    let log = Api::<Pod>::namespaced(client.clone(), namespace).logs(pod, &params).await.ok()?;
    log.split_whitespace().next()?.parse().ok()
}

fn readable(log: &str) -> Vec<String> {
    let mut lines: Vec<String> = log.lines().filter_map(readable_line).collect();
    lines.split_off(lines.len().saturating_sub(MAX_LOG_LINES))
}

fn readable_line(line: &str) -> Option<String> {
    let text = match Event::from_line(line) {
        Some(Event::Progress { .. } | Event::Attachment { .. } | Event::Checkpoint(_)) => return None,
        Some(Event::Log { level, message }) => format!("{level}: {message}"),
        Some(Event::Fault { path, action, error }) => format!("{action} {path}: {error}"),
        None if line.trim().is_empty() => return None,
        None => line.trim_end().to_owned(),
    };
    Some(shorten(&text, LINE_LIMIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_get_the_last_ten_lines_without_progress() {
        let mut log = String::new();
        for n in 0..30 {
            log.push_str(&Event::Log { level: "info".into(), message: format!("step {n}") }.to_line());
            log.push('\n');
            let progress = Event::Progress {
                phase: "read".into(),
                files_done: n,
                bytes_done: 0,
                files_total: 0,
                bytes_total: 0,
            };
            log.push_str(&progress.to_line());
            log.push('\n');
        }
        log.push_str("\nthread panicked\n");
        let lines = readable(&log);
        assert_eq!(lines.len(), MAX_LOG_LINES);
        assert_eq!(lines.first().map(String::as_str), Some("info: step 21"));
        assert_eq!(lines.last().map(String::as_str), Some("thread panicked"));
    }

    #[test]
    fn a_long_line_is_cut() {
        assert!(readable(&"x".repeat(10_000)).iter().all(|line| line.len() <= LINE_LIMIT));
    }
}
