//! What a server's refusal means, whatever it speaks: S3, Google, Azure or restic's REST protocol.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use crate::error::ErrorKind;

/// No byte for so long means that the connection is dead.
pub(super) const STALL: Duration = Duration::from_mins(1);
/// The slowest transfer that is waited for, bytes a second.
const SLOWEST: u64 = 256 << 10;

/// How long a request that carries or brings so many bytes may take.
pub(super) fn patience(bytes: u64) -> Duration {
    STALL.saturating_add(transfer(bytes))
}

/// How long so many bytes take on the slowest line that is waited for.
pub(super) fn transfer(bytes: u64) -> Duration {
    Duration::from_secs(bytes / SLOWEST)
}

/// A failure that the server explained.
#[derive(Debug, thiserror::Error)]
#[error("the server answered {status}{}{code}{}{message}", if code.is_empty() { "" } else { " " },
    if message.is_empty() { "" } else { ": " })]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The provider's error code; empty when the answer has no body (to HEAD requests).
    pub(super) code: String,
    pub(super) message: String,
}

impl Answer {
    /// Reads an error's body: XML (S3, Google, Azure) or JSON (token endpoints, emulators). `header` is the code
    /// where the server also gives it in a header.
    pub(super) fn new(status: u16, header: Option<&str>, body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let (mut code, mut message) =
            (element(&text, "Code").to_owned(), element(&text, "Message").to_owned());
        if let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) {
            // {"error":"invalid_grant","error_description":"…"} or {"error":{"code":404,"message":"…"}}
            let error = json.get("error");
            let said = |v: Option<&serde_json::Value>| {
                v.and_then(|v| v.as_str()).map(str::to_owned).unwrap_or_default()
            };
            code = said(error);
            message = said(json.get("error_description").or_else(|| error.and_then(|e| e.get("message"))));
        }
        if code.is_empty() {
            header.unwrap_or_default().clone_into(&mut code);
        }
        Self { status, code: told(&code, 100), message: told(&message, 300) }
    }

    /// What the providers' codes mean ("Error responses" of the S3 API reference, "Blob service error codes" of
    /// Azure, "HTTP status and error codes for XML" of Google, and what other servers send).
    pub(super) fn kind(&self) -> ErrorKind {
        // AWS and those who copy its words, and MinIO: the code alone does not tell it from a missing right.
        if self.message.contains("object lock") || self.message.contains("WORM protected") {
            return ErrorKind::Retained;
        }
        match self.code.as_str() {
            // Azure and Google tell a wrong clock by their words only.
            "AuthenticationFailed" if self.message.contains("date header") => ErrorKind::ClockSkew,
            "invalid_grant" if self.message.contains("iat") => ErrorKind::ClockSkew,
            // Of Azure's emulator; Azure itself has a code for it, and uses this one for its firewall.
            "AuthorizationFailure" if self.message.contains("failed to authenticate") => ErrorKind::Auth,
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "InvalidToken"
            // MinIO's, of a session token that is wrong or has ended.
            | "InvalidTokenId"
            | "InvalidClientTokenId"
            | "ExpiredToken"
            | "ExpiredTokenException"
            | "InvalidIdentityToken"
            | "TokenRefreshRequired"
            | "AuthorizationHeaderMalformed"
            | "InvalidSecurity"
            | "InvalidAccessKey"
            | "AuthFailure"
            | "MissingAuthenticationToken"
            | "UnrecognizedClientException"
            | "AuthenticationFailed"
            | "InvalidAuthenticationInfo"
            | "NoAuthenticationInformation"
            | "AuthenticationRequired"
            | "invalid_grant"
            | "invalid_client"
            | "unauthorized_client" => ErrorKind::Auth,
            "AccessDenied"
            | "AllAccessDisabled"
            | "AccountProblem"
            | "AuthorizationError"
            | "MethodNotAllowed"
            | "AuthorizationFailure"
            | "AuthorizationPermissionMismatch"
            | "AuthorizationServiceMismatch"
            | "AuthorizationResourceTypeMismatch"
            | "InsufficientAccountPermissions"
            | "AccountIsDisabled" => ErrorKind::AccessDenied,
            "NoSuchBucket"
            | "InvalidBucketName"
            | "ContainerNotFound"
            | "ContainerBeingDeleted"
            | "ContainerDisabled" => ErrorKind::BucketNotFound,
            "RequestTimeTooSkewed" | "RequestExpired" => ErrorKind::ClockSkew,
            "NoSuchKey" | "BlobNotFound" => ErrorKind::Missing,
            "InvalidRange" => ErrorKind::Corrupt,
            "XMinioStorageFull" | "QuotaExceeded" | "InsufficientStorage" => ErrorKind::Full,
            "SlowDown" | "RequestTimeout" | "InternalError" | "ServiceUnavailable" | "OperationAborted"
            | "ServerBusy" | "OperationTimedOut" => ErrorKind::Unreachable,
            _ => match self.status {
                401 => ErrorKind::Auth,
                403 => ErrorKind::AccessDenied,
                404 => ErrorKind::Missing,
                416 => ErrorKind::Corrupt,
                507 => ErrorKind::Full,
                501 => ErrorKind::Usage,
                408 | 425 | 429 | 500.. => ErrorKind::Unreachable,
                // A redirection: the bucket lives in another region, or the endpoint is not of this kind.
                _ => ErrorKind::Usage,
            },
        }
    }
}

/// What a server says, fit to be repeated in logs, status and on a terminal: so many characters at most, none of which is
/// obeyed instead of shown.
pub(super) fn told(text: &str, most: usize) -> String {
    text.trim().chars().take(most).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The text of the first XML element of this name.
pub(super) fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split_once(&open).and_then(|(_, rest)| rest.split_once(&close)).map_or("", |(text, _)| text)
}

/// Nothing came for that long.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {} s", .0.as_secs())]
pub(super) struct Stalled(pub(super) Duration);

/// The first cause of type `T` in a chain.
pub(super) fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
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

/// The cause below all that a client library wraps around it: the request, its own names, how long it took.
/// That tells people nothing, and words that differ each time would make the same failure look like a new one.
pub(super) fn innermost(error: &(dyn StdError + 'static)) -> String {
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    match inner.map(|e| e as &(dyn StdError + 'static)).or_else(|| error.source()) {
        Some(cause) => innermost(cause),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn answer(status: u16, code: &str) -> ErrorKind {
        Answer { status, code: code.into(), message: String::new() }.kind()
    }

    #[test]
    fn the_more_is_carried_the_longer_it_may_take() {
        assert_eq!(patience(0), STALL);
        assert_eq!(patience(SLOWEST - 1), STALL);
        assert_eq!(patience(SLOWEST), STALL + Duration::from_secs(1));
        // A part of a large file at 256 KiB/s.
        assert_eq!(patience(16 << 20), STALL + Duration::from_secs(64));
        assert_eq!(transfer(16 << 20), Duration::from_secs(64));
        // What says nothing of its length may take as long as it likes, and nothing overflows.
        assert_eq!(patience(u64::MAX), STALL + Duration::from_secs(u64::MAX / SLOWEST));
    }

    #[test]
    fn codes_decide_and_statuses_help_out() {
        assert_eq!(answer(403, "InvalidAccessKeyId"), ErrorKind::Auth);
        assert_eq!(answer(403, "SignatureDoesNotMatch"), ErrorKind::Auth);
        assert_eq!(answer(403, "AuthenticationFailed"), ErrorKind::Auth);
        assert_eq!(answer(403, "InvalidTokenId"), ErrorKind::Auth);
        assert_eq!(answer(403, "AuthorizationFailure"), ErrorKind::AccessDenied);
        let message = "Server failed to authenticate the request. Make sure …".to_owned();
        let emulated = Answer { status: 403, code: "AuthorizationFailure".into(), message };
        assert_eq!(emulated.kind(), ErrorKind::Auth);
        assert_eq!(answer(403, "RequestTimeTooSkewed"), ErrorKind::ClockSkew);
        assert_eq!(answer(403, "AccessDenied"), ErrorKind::AccessDenied);
        assert_eq!(answer(403, ""), ErrorKind::AccessDenied);
        assert_eq!(answer(401, ""), ErrorKind::Auth);
        assert_eq!(answer(404, "NoSuchBucket"), ErrorKind::BucketNotFound);
        assert_eq!(answer(404, "ContainerNotFound"), ErrorKind::BucketNotFound);
        assert_eq!(answer(503, "SlowDown"), ErrorKind::Unreachable);
        assert_eq!(answer(502, ""), ErrorKind::Unreachable);
        assert_eq!(answer(301, "PermanentRedirect"), ErrorKind::Usage);
        assert_eq!(answer(507, ""), ErrorKind::Full);
    }

    #[test]
    fn bodies_and_headers_are_understood() {
        let read = |header, body: &str| {
            let a = Answer::new(400, header, body.as_bytes());
            (a.code.clone(), a.message.clone(), a.kind())
        };
        assert_eq!(
            read(None, "<Error><Code>AccessDenied</Code><Message>no</Message></Error>"),
            ("AccessDenied".into(), "no".into(), ErrorKind::AccessDenied)
        );
        let locked = "<Error><Code>AccessDenied</Code><Message>Access Denied because object protected by object lock.\
            </Message></Error>";
        assert_eq!(read(None, locked).2, ErrorKind::Retained);
        let worm = "<Error><Code>InvalidRequest</Code><Message>Object is WORM protected and cannot be overwritten\
            </Message></Error>";
        assert_eq!(read(None, worm).2, ErrorKind::Retained);
        assert_eq!(read(Some("ContainerNotFound"), "").2, ErrorKind::BucketNotFound);
        let skew = r#"{"error":"invalid_grant","error_description":"check your iat and exp values"}"#;
        assert_eq!(read(None, skew).2, ErrorKind::ClockSkew);
        let other = r#"{"error":"invalid_grant","error_description":"account not found"}"#;
        assert_eq!(read(None, other).2, ErrorKind::Auth);
        let late =
            "<Error><Code>AuthenticationFailed</Code><Message>Request date header too old</Message></Error>";
        assert_eq!(read(None, late).2, ErrorKind::ClockSkew);
        assert_eq!(read(None, r#"{"error":{"code":404,"message":"gone"}}"#).1, "gone");
    }

    #[test]
    fn what_a_server_says_is_short_and_harmless() {
        let long = format!(
            "<Error><Code>\u{1b}[2J{}</Code><Message>a\r\nb{}</Message></Error>",
            "c".repeat(1 << 20),
            "m".repeat(1 << 20)
        );
        for answer in [
            Answer::new(400, None, long.as_bytes()),
            Answer::new(400, Some(&"h".repeat(10_000)), b""),
            Answer::new(400, None, format!(r#"{{"error":"{}"}}"#, "e".repeat(10_000)).as_bytes()),
        ] {
            let said = answer.to_string();
            assert!(said.len() < 600 && !said.contains(char::is_control), "{said:?}");
        }
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
}
