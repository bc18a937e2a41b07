use super::*;
use crate::sts::{Keys, Token};

const KEYS: Proof<'static> = Proof::Keys(Keys { id: "i", secret: "s", token: None });

fn now() -> Timestamp {
    "2026-11-20T02:00:00Z".parse().unwrap()
}

/// An answer in the form that AWS documents; that of `MinIO` lacks the role.
fn success(id: &str, secret: &str, token: &str, expires: &str) -> String {
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <AssumeRoleResult>
    <AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/r/s</Arn><AssumedRoleId>A:s</AssumedRoleId></AssumedRoleUser>
    <Credentials>
      <AccessKeyId>{id}</AccessKeyId>
      <SecretAccessKey>{secret}</SecretAccessKey>
      <SessionToken>{token}</SessionToken>
      <Expiration>{expires}</Expiration>
    </Credentials>
    <PackedPolicySize>6</PackedPolicySize>
  </AssumeRoleResult>
  <ResponseMetadata><RequestId>c6104cbe</RequestId></ResponseMetadata>
</AssumeRoleResponse>"#
    )
}

#[test]
fn keys_are_taken_out_of_an_answer() {
    let keys =
        granted(success("ASIA", "s/e+c=", "t/o+k&amp;=", "2026-11-20T03:00:00Z").as_bytes(), now()).unwrap();
    assert_eq!((keys.id.as_str(), keys.secret.as_str(), keys.token.as_str()), ("ASIA", "s/e+c=", "t/o+k&="));
    assert_eq!(keys.expires, "2026-11-20T03:00:00Z".parse().unwrap());
    assert!(!format!("{keys:?}").contains("ASIA"));
}

#[test]
fn keys_for_a_token_come_in_an_answer_of_another_name() {
    // With what AWS adds for this operation.
    let answer = success("ASIA", "s", "t", "2026-11-20T03:00:00Z")
        .replace("AssumeRoleRe", "AssumeRoleWithWebIdentityRe")
        .replace("<PackedPolicySize>", "<SubjectFromWebIdentityToken>system:serviceaccount:n:a</SubjectFromWebIdentityToken><Provider>arn:aws:iam::1:oidc-provider/o</Provider><Audience>sts.amazonaws.com</Audience><PackedPolicySize>");
    assert!(answer.contains("AssumeRoleWithWebIdentityResult") && answer.contains("<Audience>"));
    let keys = granted(answer.as_bytes(), now()).unwrap();
    assert_eq!((keys.id.as_str(), keys.secret.as_str(), keys.token.as_str()), ("ASIA", "s", "t"));
}

#[test]
fn what_gives_no_usable_keys_is_refused() {
    let late = "2026-11-20T03:00:00Z";
    for body in [
        String::new(),
        "<html><body>login</body></html>".to_owned(),
        "<AssumeRoleResponse/>".to_owned(),
        success("", "s", "t", late),
        success("id", "", "t", late),
        success("id", "s", "", late),
        success("i d", "s", "t", late),
        success("id\r\nX-Header: 1", "s", "t", late),
        success("id", "s", &"t".repeat((16 << 10) + 1), late),
        success("id", "s", "t", "tomorrow"),
        success("id", "s", "t", late).replace("AccessKeyId", "Other"),
        success("id", "s", "t", late).chars().take(300).collect(),
        format!("<!DOCTYPE x [<!ENTITY e \"id\">]>{}", success("&e;", "s", "t", late)),
    ] {
        let error = granted(body.as_bytes(), now()).unwrap_err();
        assert!(matches!(error, ExchangeError::Garbled(_)), "{body:.200} gave {error}");
        assert_eq!(error.reason(), Reason::AssumeRoleFailed);
    }
    let error = granted(b"\xff\xfe", now()).unwrap_err();
    assert!(matches!(error, ExchangeError::Garbled(_)), "{error}");
    for over in ["2026-11-20T01:00:00Z", "2026-11-20T02:00:30Z"] {
        let error = granted(success("id", "s", "t", over).as_bytes(), now()).unwrap_err();
        assert!(matches!(error, ExchangeError::Skew), "{over} gave {error}");
    }
}

fn refused(status: u16, code: &str, message: &str) -> (Reason, String) {
    refused_to(KEYS, status, code, message)
}

fn refused_to(proof: Proof<'_>, status: u16, code: &str, message: &str) -> (Reason, String) {
    let body = format!(
        r#"<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error><RequestId>q</RequestId></ErrorResponse>"#
    );
    let error = refusal(status, body.as_bytes(), None, now(), proof);
    (error.reason(), error.to_string())
}

#[test]
fn refusals_say_what_to_do() {
    for (status, code, message, reason, advice) in [
        (403, "InvalidClientTokenId", "invalid", Reason::InvalidCredentials, "credentialsSecretRef"),
        (403, "SignatureDoesNotMatch", "does not match", Reason::InvalidCredentials, "credentialsSecretRef"),
        (
            403,
            "SignatureDoesNotMatch",
            "Signature expired: 2026 is now earlier",
            Reason::ClockSkew,
            "set them",
        ),
        (403, "RequestTimeTooSkewed", "", Reason::ClockSkew, "set them"),
        (
            403,
            "AccessDenied",
            "The request signature we calculated",
            Reason::InvalidCredentials,
            "credentialsSecretRef",
        ),
        (
            403,
            "AccessDenied",
            "The Access Key Id you provided",
            Reason::InvalidCredentials,
            "credentialsSecretRef",
        ),
        (403, "AccessDenied", "The difference between the request time", Reason::ClockSkew, "set them"),
        (403, "AccessDenied", "User may not", Reason::AccessDenied, "sts:AssumeRole"),
        (403, "", "", Reason::AccessDenied, "sts:AssumeRole"),
        (400, "ValidationError", "MaxSessionDuration", Reason::AssumeRoleFailed, "sessionDuration"),
        (404, "NoSuchEntity", "no role", Reason::AssumeRoleFailed, "roleArn"),
        (400, "PackedPolicyTooLarge", "", Reason::AssumeRoleFailed, "shorter"),
        (405, "MethodNotAllowed", "", Reason::AssumeRoleFailed, "stsEndpoint"),
        (501, "", "", Reason::AssumeRoleFailed, "stsEndpoint"),
        (307, "", "", Reason::AssumeRoleFailed, "stsEndpoint"),
        (503, "", "", Reason::AssumeRoleFailed, "tried again"),
        (400, "Throttling", "", Reason::AssumeRoleFailed, "tried again"),
    ] {
        let (found, text) = refused(status, code, message);
        assert_eq!(found, reason, "{status} {code}: {text}");
        assert!(text.contains(advice), "{status} {code}: {text}");
        if found != Reason::ClockSkew {
            assert!(text.contains(code) && text.contains(message), "{text}");
        }
    }
    let bare = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>";
    assert!(refusal(403, bare, None, now(), KEYS).to_string().contains("403 AccessDenied no"));
}

#[test]
fn a_refusal_by_a_server_of_another_time_is_a_matter_of_clocks() {
    let at = |date| refusal(403, b"", Some(date), now(), KEYS).reason();
    assert_eq!(at("Fri, 20 Nov 2026 02:10:00 GMT"), Reason::ClockSkew);
    assert_eq!(at("Fri, 20 Nov 2026 01:50:00 GMT"), Reason::ClockSkew);
    assert_eq!(at("Fri, 20 Nov 2026 02:01:00 GMT"), Reason::AccessDenied);
    assert_eq!(at("yesterday"), Reason::AccessDenied);
    assert_eq!(
        refusal(503, b"", Some("Fri, 20 Nov 2026 05:00:00 GMT"), now(), KEYS).reason(),
        Reason::AssumeRoleFailed
    );
}

#[test]
fn nothing_of_a_page_that_is_no_refusal_is_repeated() {
    let page = b"<html><body>internal secrets of another service</body></html>";
    let text = refusal(403, page, None, now(), KEYS).to_string();
    assert!(!text.contains("internal"), "{text}");
    let (_, text) = refused(400, &"c".repeat(5000), &format!("\u{1b}[2J{}", "m".repeat(100_000)));
    assert!(text.len() < 900 && !text.contains(char::is_control), "{text:?}");
}

#[test]
fn refusals_of_a_token_say_what_to_do_and_repeat_nothing_of_it() {
    let token = Token::new("eyJhbGciOiJSUzI1NiIs.eyJhdWQiOlsic3RzLmFt.c2lnbmF0dXJlLW9mLWl0".into());
    let proof = Proof::Token(&token);
    for (status, code, message, reason, advice) in [
        (
            400,
            "InvalidIdentityToken",
            "No OpenIDConnect provider found",
            Reason::InvalidCredentials,
            "OpenID Connect provider",
        ),
        (
            400,
            "InvalidIdentityToken",
            "Incorrect token audience",
            Reason::InvalidCredentials,
            "webIdentity.audience",
        ),
        (400, "ExpiredTokenException", "Token expired", Reason::InvalidCredentials, "issuer"),
        (400, "ExpiredToken", "expired or is not valid", Reason::InvalidCredentials, "issuer"),
        (403, "IDPRejectedClaim", "", Reason::InvalidCredentials, "issuer"),
        (
            400,
            "InvalidParameterValue",
            "Role arn does not exist",
            Reason::InvalidCredentials,
            "holdfast.dev/role-arn",
        ),
        (
            400,
            "IDPCommunicationError",
            "Couldn't retrieve verification key",
            Reason::AssumeRoleFailed,
            "asked again",
        ),
        (
            403,
            "AccessDenied",
            "Not authorized to perform sts:AssumeRoleWithWebIdentity",
            Reason::AccessDenied,
            "system:serviceaccount:",
        ),
        (403, "", "", Reason::AccessDenied, "trust policy"),
        (
            400,
            "ValidationError",
            "MaxSessionDuration",
            Reason::AssumeRoleFailed,
            "webIdentity.sessionDuration",
        ),
        (400, "PackedPolicyTooLarge", "", Reason::AssumeRoleFailed, "shorter"),
        (503, "", "", Reason::AssumeRoleFailed, "tried again"),
        (307, "", "", Reason::AssumeRoleFailed, "webIdentity.stsEndpoint"),
        (501, "NotImplemented", "", Reason::AssumeRoleFailed, "webIdentity.stsEndpoint"),
    ] {
        let (found, text) = refused_to(proof, status, code, message);
        assert_eq!(found, reason, "{status} {code}: {text}");
        assert!(text.contains(advice), "{status} {code}: {text}");
        assert!(text.contains(code) && text.contains(message), "{text}");
        assert!(!text.contains("credentialsSecretRef") && !text.contains("assumeRole"), "{text}");
    }
    let whole = token.text().to_owned();
    let cut = format!("{}{}", "x".repeat(MOST_MESSAGE - 20), whole);
    for echo in [whole.as_str(), "token eyJhdWQiOlsic3RzLmFt is bad", "c2lnbmF0dXJlLW9mLWl0", cut.as_str()] {
        for (code, message) in [("InvalidIdentityToken", echo), (echo, "no")] {
            let (_, text) = refused_to(proof, 400, code, message);
            assert!(whole.split('.').all(|part| !text.contains(&part[..16])), "{text}");
            assert!(!text.contains("xx"), "{text}");
        }
    }
}
