//! Object lock of S3, which the client library does not know: `GetObjectLockConfiguration`, `GetObjectRetention` and
//! `PutObjectRetention` ("Amazon S3 API Reference").

use bytes::Bytes;
use http::Method;
use jiff::{SignedDuration, Timestamp};
use object_store::path::Path;

use super::bucket::{Bucket, Result, failed, is};
use crate::store::answer::element;
use crate::store::retention::{ObjectLock, Retention, RetentionMode};

impl Bucket {
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
}
