use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::access::StorageName;
use crate::jobs::denial::Denial;

const SHORT: Duration = Duration::from_millis(400);

fn now() -> Timestamp {
    "2026-11-20T02:00:00Z".parse().unwrap()
}

fn role(endpoint: &str) -> Role {
    Role {
        endpoint: endpoint.to_owned(),
        region: "us-east-1".into(),
        arn: Some("arn:aws:iam::123456789012:role/backups".into()),
        external_id: Some("a/b=c".into()),
        duration: Duration::from_mins(90),
    }
}

const KEYS: Keys<'static> = Keys { id: "AKID", secret: "topsecret", token: None };

fn request<'a>(role: &'a Role, keys: Keys<'a>) -> Request<'a> {
    Request {
        role,
        proof: Proof::Keys(keys),
        ca: None,
        policy: r#"{"a":"b/*"}"#,
        session: "holdfast-job",
        now: now(),
    }
}

/// A server that takes one request, gives this answer, and tells what it was asked. An empty answer never comes.
async fn server(answer: String) -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (heard, asked) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let read = stream.read(&mut buffer).await.unwrap_or(0);
            request.extend_from_slice(&buffer[..read]);
            let text = String::from_utf8_lossy(&request);
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
            let body = text.split_once("\r\n\r\n").map_or(0, |(_, body)| body.len());
            if read == 0 || length.is_some_and(|length| body >= length.parse::<usize>().unwrap()) {
                break;
            }
        }
        let _ = heard.send(String::from_utf8_lossy(&request).into_owned());
        if answer.is_empty() {
            std::future::pending::<()>().await;
        }
        let _ = stream.write_all(answer.as_bytes()).await;
    });
    (endpoint, asked)
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

const GRANTED: &str = "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>new</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>2026-11-20T03:30:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>";

#[tokio::test]
async fn keys_are_asked_for_with_role_policy_and_time_and_the_secret_is_not_sent() {
    let (endpoint, mut asked) = server(http("200 OK", GRANTED)).await;
    let role = role(&endpoint);
    let own = Keys { token: Some("session"), ..KEYS };
    let keys = exchange(&request(&role, own), SHORT).await.unwrap();
    assert_eq!((keys.id.as_str(), keys.token.as_str()), ("new", "t"));
    let text = asked.recv().await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST / HTTP/1.1\r\n"), "{head}");
    let host = endpoint.strip_prefix("http://").unwrap();
    for line in [
        "content-type: application/x-www-form-urlencoded",
        "x-amz-date: 20261120T020000Z",
        "x-amz-security-token: session",
        &format!("host: {host}"),
        "authorization: AWS4-HMAC-SHA256 Credential=AKID/20261120/us-east-1/sts/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, Signature=",
    ] {
        assert!(head.lines().any(|have| have.starts_with(line)), "no {line} in {head}");
    }
    assert_eq!(
        body,
        "Action=AssumeRole&Version=2011-06-15&DurationSeconds=5400&\
         RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fbackups&ExternalId=a%2Fb%3Dc&\
         RoleSessionName=holdfast-job&Policy=%7B%22a%22%3A%22b%2F*%22%7D"
    );
    assert!(!text.contains("topsecret"));
}

const TOKEN: &str = "eyJhbGciOiJSUzI1NiIs.eyJhdWQiOlsic3RzLmFt.c2lnbmF0dXJlLW9m+/=";

/// The body is the only place of the token, and nothing is signed: it is the whole proof.
#[tokio::test]
async fn a_token_is_sent_in_the_body_and_nowhere_else() {
    let answer = GRANTED.replace("AssumeRoleRe", "AssumeRoleWithWebIdentityRe");
    let (endpoint, mut asked) = server(http("200 OK", &answer)).await;
    let role = Role { external_id: None, ..role(&endpoint) };
    let token = Token::new(TOKEN.to_owned());
    let request = Request { proof: Proof::Token(&token), ..request(&role, KEYS) };
    assert!(!format!("{request:?}").contains("eyJ"), "{request:?}");
    let keys = exchange(&request, SHORT).await.unwrap();
    assert_eq!((keys.id.as_str(), keys.token.as_str()), ("new", "t"));
    let text = asked.recv().await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST / HTTP/1.1\r\n"), "{head}");
    let lower = head.to_ascii_lowercase();
    for word in ["authorization", "x-amz-", "cookie", "eyj"] {
        assert!(!lower.contains(word), "{head}");
    }
    assert_eq!(
        body,
        "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&DurationSeconds=5400&\
         RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fbackups&\
         RoleSessionName=holdfast-job&Policy=%7B%22a%22%3A%22b%2F*%22%7D&\
         WebIdentityToken=eyJhbGciOiJSUzI1NiIs.eyJhdWQiOlsic3RzLmFt.c2lnbmF0dXJlLW9m%2B%2F%3D"
    );
}

/// A service that sends the request on would have the token sent to whoever it names.
#[tokio::test]
async fn no_bad_end_tells_or_passes_on_a_token() {
    let echo = format!(
        "<ErrorResponse><Error><Code>InvalidIdentityToken</Code><Message>{TOKEN}</Message></Error></ErrorResponse>"
    );
    let (elsewhere, mut asked_there) = server(http("200 OK", GRANTED)).await;
    let sent_on =
        format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {elsewhere}/\r\ncontent-length: 0\r\n\r\n");
    for (answer, reason) in [
        (http("400 Bad Request", &echo), Reason::InvalidCredentials),
        (sent_on, Reason::AssumeRoleFailed),
        (http("200 OK", TOKEN), Reason::AssumeRoleFailed),
        ("no http at all\r\n\r\n".to_owned(), Reason::EndpointUnreachable),
        (String::new(), Reason::EndpointUnreachable),
    ] {
        let (endpoint, _asked) = server(answer.clone()).await;
        let role = role(&endpoint);
        let token = Token::new(TOKEN.to_owned());
        let error = exchange(&Request { proof: Proof::Token(&token), ..request(&role, KEYS) }, SHORT)
            .await
            .unwrap_err();
        assert_eq!(error.reason(), reason, "{answer:.80} gave {error}");
        let shown = format!("{error} {error:?}");
        assert!(TOKEN.split('.').all(|part| !shown.contains(&part[..12])), "{shown}");
    }
    assert!(asked_there.try_recv().is_err(), "the request was sent on");
    let token = Token::new(TOKEN.to_owned());
    let plain = role("http://127.0.0.1:1");
    let error =
        assume_role(&Request { proof: Proof::Token(&token), ..request(&plain, KEYS) }).await.unwrap_err();
    assert!(matches!(&error, ExchangeError::Endpoint(_)), "{error}");
    let role = role("https://127.0.0.1:1");
    for bad in ["", "a b", "x\r\ny"] {
        let token = Token::new(bad.to_owned());
        let error =
            assume_role(&Request { proof: Proof::Token(&token), ..request(&role, KEYS) }).await.unwrap_err();
        assert!(matches!(&error, ExchangeError::Garbled(_)), "{bad:?} gave {error}");
    }
}

#[tokio::test]
async fn every_bad_end_has_a_reason_and_shows_no_key() {
    let denied =
        "<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>";
    let elsewhere =
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    for (answer, reason) in [
        (http("403 Forbidden", denied), Reason::AccessDenied),
        (http("200 OK", "<html>hello</html>"), Reason::AssumeRoleFailed),
        (http("200 OK", &"x".repeat(MOST + 1)), Reason::AssumeRoleFailed),
        (http("503 Service Unavailable", ""), Reason::AssumeRoleFailed),
        (elsewhere.to_owned(), Reason::AssumeRoleFailed),
        ("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n<Assume".to_owned(), Reason::EndpointUnreachable),
        ("no http at all\r\n\r\n".to_owned(), Reason::EndpointUnreachable),
        (String::new(), Reason::EndpointUnreachable),
    ] {
        let (endpoint, _asked) = server(answer.clone()).await;
        let role = role(&endpoint);
        let error = exchange(&request(&role, KEYS), SHORT).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{answer:.80} gave {error}");
        let storage = StorageName { namespace: "n".into(), name: "s".into() };
        let denial = Denial::no_keys(&error, Some(&storage), "n");
        assert!(denial.may_pass, "somebody may mend it elsewhere");
        assert!(!denial.message.contains("topsecret") && denial.message.len() < 1000, "{}", denial.message);
    }
}

#[tokio::test]
async fn a_service_that_is_not_there_is_told_in_the_same_words_each_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let role = role(&format!("http://{}", listener.local_addr().unwrap()));
    drop(listener);
    let first = exchange(&request(&role, KEYS), SHORT).await.unwrap_err().to_string();
    assert!(first.contains(&role.endpoint) && first.contains("refused"), "{first}");
    assert_eq!(exchange(&request(&role, KEYS), SHORT).await.unwrap_err().to_string(), first);
}

#[tokio::test]
async fn keys_are_taken_over_https_only_and_signed_with_by_keys_only() {
    let plain = role("http://127.0.0.1:1");
    let error = assume_role(&request(&plain, KEYS)).await.unwrap_err();
    assert!(matches!(&error, ExchangeError::Endpoint(_)), "{error}");
    assert_eq!(error.reason(), Reason::InvalidSpec);
    let role = role("https://127.0.0.1:1");
    for keys in [
        Keys { id: "a b", ..KEYS },
        Keys { id: "", ..KEYS },
        Keys { secret: "", ..KEYS },
        Keys { token: Some("x\r\ny"), ..KEYS },
        Keys { secret: "schlüssel", ..KEYS },
    ] {
        let error = assume_role(&request(&role, keys)).await.unwrap_err();
        assert!(matches!(error, ExchangeError::Keys), "{error}");
        assert_eq!(error.reason(), Reason::SecretInvalid);
    }
    for bad in ["no certificate", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"] {
        let request = Request { ca: Some(bad.as_bytes()), ..request(&role, KEYS) };
        let error = assume_role(&request).await.unwrap_err();
        assert!(matches!(error, ExchangeError::Ca), "{bad} gave {error}");
    }
}

#[test]
fn a_role_says_in_which_part_of_the_world_it_is() {
    let with = |arn: Option<&str>| Role { arn: arn.map(str::to_owned), ..role("https://sts") };
    assert_eq!(with(None).partition(), "aws");
    assert_eq!(with(Some("arn:aws-cn:iam::123456789012:role/r")).partition(), "aws-cn");
    assert_eq!(with(Some("arn:aws:iam:::role/r")).partition(), "aws");
    // Its buckets are in AWS's, as those of all others.
    assert_eq!(with(Some("arn:minio:iam:us-east-1::role/r")).partition(), "aws");
}

#[test]
fn what_is_wrong_with_a_certificate_is_said_without_the_names_in_it() {
    use rustls::pki_types::ServerName;
    use rustls::{CertificateError, Error};
    let other = CertificateError::NotValidForNameContext {
        expected: ServerName::try_from("sts.example").unwrap(),
        presented: vec!["DnsName(\"secret.internal\")".into()],
    };
    for (error, words) in [
        (other, "another host"),
        (CertificateError::NotValidForName, "another host"),
        (CertificateError::Expired, "expired"),
        (CertificateError::NotValidYet, "not valid yet"),
        (CertificateError::UnknownIssuer, "authority"),
        (CertificateError::Revoked, "revoked"),
        (CertificateError::BadSignature, "does not hold"),
    ] {
        let said = Error::InvalidCertificate(error).to_string();
        let cause = distrust(&said).unwrap();
        assert!(cause.contains(words) && !cause.contains("internal"), "{said} gave {cause}");
    }
    assert_eq!(distrust("Connection refused (os error 111)"), None);
}
