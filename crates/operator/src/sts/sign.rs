//! Signature Version 4 of AWS, for the one shape of request that is sent: a form, posted to the root of a host.
//!
//! Source: AWS IAM User Guide, "Create a signed AWS API request". A crate for it brings a dozen others, and the object
//! stores' client library, which has it too, is not for the operator.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Keys that sign. Shows nothing of them.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    /// The access key.
    pub id: &'a str,
    /// The secret key.
    pub secret: &'a str,
    /// The session token of keys that are temporary themselves.
    pub token: Option<&'a str>,
}

impl std::fmt::Debug for Keys<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

/// What a signature is for.
pub(super) struct Scope<'a> {
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

/// The moment as `x-amz-date` has it.
pub(super) fn amz_date(now: Timestamp) -> String {
    now.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// The header `authorization` of a form posted to `/`. `headers` are all that are signed, in lower case and in the order
/// of their names, with `host` and `x-amz-date` among them; `date` is the latter.
pub(super) fn authorization(
    keys: Keys<'_>,
    scope: &Scope<'_>,
    date: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> String {
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let mut request = "POST\n/\n\n".to_owned();
    for (name, value) in headers {
        // Writing to a String does not fail.
        let _ = writeln!(request, "{name}:{}", value.trim());
    }
    let _ = write!(request, "\n{names}\n{}", hex(body));
    let day = date.get(..8).unwrap_or(date);
    let Scope { region, service } = scope;
    let within = format!("{day}/{region}/{service}/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{within}\n{}", hex(request.as_bytes()));
    let mut key = format!("AWS4{}", keys.secret).into_bytes();
    for part in [day, region, service, "aws4_request", &text] {
        key = hmac::sign(&hmac::Key::new(HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
    }
    let signature = HEXLOWER.encode(&key);
    format!("AWS4-HMAC-SHA256 Credential={}/{within}, SignedHeaders={names}, Signature={signature}", keys.id)
}

fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "20150830T123600Z";
    const SCOPE: Scope<'static> = Scope { region: "us-east-1", service: "service" };
    const KEYS: Keys<'static> =
        Keys { id: "AKIDEXAMPLE", secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", token: None };

    /// From the test suite that AWS publishes for this signature: `post-x-www-form-urlencoded` and
    /// `post-vanilla`.
    #[test]
    fn published_requests_get_their_published_signatures() {
        let host = ("host", "example.amazonaws.com");
        let form = [("content-type", "application/x-www-form-urlencoded"), host, ("x-amz-date", DATE)];
        let signed = authorization(KEYS, &SCOPE, DATE, &form, b"Param1=value1");
        let head =
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=";
        let end = "Signature=ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a";
        assert_eq!(signed, format!("{head}content-type;host;x-amz-date, {end}"));
        let signed = authorization(KEYS, &SCOPE, DATE, &[host, ("x-amz-date", DATE)], b"");
        let end = "Signature=5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b";
        assert_eq!(signed, format!("{head}host;x-amz-date, {end}"));
    }

    #[test]
    fn a_moment_is_written_without_separators() {
        assert_eq!(amz_date("2015-08-30T12:36:00Z".parse().unwrap()), DATE);
        assert!(!format!("{KEYS:?}").contains("EXAMPLE"));
    }
}
