use holdfast_api::Reason;
use kube::Config;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;

const TOKEN: &str = "eyJhbGciOiJSUzI1NiIs.eyJhdWQiOlsic3RzLmFt.c2lnbmF0dXJl";

fn account() -> Account {
    Account {
        namespace: "backups".into(),
        name: "store".into(),
        audience: "sts.amazonaws.com".into(),
        endpoint: "https://sts.eu-central-1.amazonaws.com".into(),
        region: "eu-central-1".into(),
        duration: Duration::from_hours(1),
    }
}

/// An API server that gives these answers, one a request, and tells what it was asked: the first line and the body.
async fn api_server(answers: Vec<(u16, Value)>) -> (Client, mpsc::UnboundedReceiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, asked) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for (status, answer) in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
            loop {
                let read = stream.read(&mut buffer).await.unwrap_or(0);
                request.extend_from_slice(&buffer[..read]);
                let text = String::from_utf8_lossy(&request);
                let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
                let length = length.map_or(0, |length| length.parse().unwrap());
                if read == 0 || text.split_once("\r\n\r\n").is_some_and(|(_, body)| body.len() >= length) {
                    break;
                }
            }
            let text = String::from_utf8(request).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let line = head.lines().next().unwrap_or_default().to_owned();
            let _ = tell.send((line, serde_json::from_str(body).unwrap_or_default()));
            let answer = answer.to_string();
            let answer_head =
                format!("HTTP/1.1 {status} .\r\ncontent-type: application/json\r\nconnection: close\r\n");
            let all = format!("{answer_head}content-length: {}\r\n\r\n{answer}", answer.len());
            let _ = stream.write_all(all.as_bytes()).await;
        }
    });
    (Client::try_from(Config::new(url.parse().unwrap())).unwrap(), asked)
}

fn service_account(annotations: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "store", "annotations": annotations}})
}

fn given(audience: &str) -> Value {
    json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
        "spec": {"audiences": [audience], "expirationSeconds": 600},
        "status": {"token": TOKEN, "expirationTimestamp": "2026-11-20T02:10:00Z"},
    })
}

fn reviewed(status: &Value) -> Value {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {}, "status": status})
}

fn refused(code: u16, reason: &str) -> (u16, Value) {
    let message = format!("{reason} by the API server");
    (
        code,
        json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code}),
    )
}

#[tokio::test]
async fn a_token_is_short_for_one_audience_and_of_no_use_in_the_cluster() {
    let no = json!({"error": "token audiences are not those of the server"});
    let (client, mut asked) = api_server(vec![(201, given("sts.amazonaws.com")), (201, reviewed(&no))]).await;
    let token = token(&client, &account()).await.unwrap();
    assert_eq!(token.text(), TOKEN);
    assert!(!format!("{token:?}").contains("eyJ"), "{token:?}");
    let (line, body) = asked.recv().await.unwrap();
    assert!(line.starts_with("POST /api/v1/namespaces/backups/serviceaccounts/store/token?"), "{line}");
    assert_eq!(body["spec"], json!({"audiences": ["sts.amazonaws.com"], "expirationSeconds": 600}));
    let (line, body) = asked.recv().await.unwrap();
    assert!(line.starts_with("POST /apis/authentication.k8s.io/v1/tokenreviews?"), "{line}");
    assert_eq!(body["spec"], json!({"token": TOKEN}), "the API server's own audiences are meant");
}

#[tokio::test]
async fn a_token_that_the_api_server_takes_itself_is_not_given_out() {
    for verdict in [json!({"authenticated": true}), Value::Null] {
        let mut answer = reviewed(&verdict);
        if verdict.is_null() {
            answer.as_object_mut().unwrap().remove("status");
        }
        let (client, _asked) = api_server(vec![(201, given("sts.amazonaws.com")), (201, answer)]).await;
        let error = token(&client, &account()).await.unwrap_err();
        assert!(
            matches!(error, ExchangeError::NotAllowed(NotAllowed::ApiServer(_))),
            "{verdict} gave {error}"
        );
        assert_eq!(error.reason(), Reason::WebIdentityNotAllowed);
        assert!(!format!("{error} {error:?}").contains("eyJ"), "{error:?}");
    }
    // Nor one that nobody could judge, nor one for somebody else.
    let (client, _asked) =
        api_server(vec![(201, given("sts.amazonaws.com")), refused(403, "Forbidden")]).await;
    let error = token(&client, &account()).await.unwrap_err();
    assert!(matches!(error, ExchangeError::Account(AccountError::Forbidden { .. })), "{error}");
    let (client, mut asked) = api_server(vec![(201, given("https://kubernetes.default.svc"))]).await;
    let error = token(&client, &account()).await.unwrap_err();
    assert!(matches!(error, ExchangeError::Account(AccountError::OtherAudience(_))), "{error}");
    assert!(asked.recv().await.is_some() && asked.recv().await.is_none());
}

#[tokio::test]
async fn what_the_api_server_refuses_is_told_by_what_to_do() {
    for (answer, reason, word) in [
        (refused(404, "NotFound"), Reason::ServiceAccountNotFound, "create it"),
        (refused(403, "Forbidden"), Reason::WebIdentityNotAllowed, "webIdentity.serviceAccounts"),
        (refused(500, "InternalError"), Reason::AssumeRoleFailed, "asked again"),
    ] {
        let (client, _asked) = api_server(vec![answer]).await;
        let error = token(&client, &account()).await.unwrap_err();
        let text = error.to_string();
        assert_eq!(error.reason(), reason, "{text}");
        assert!(text.contains(word) && text.contains("backups/store"), "{text}");
    }
}

/// The convention of EKS gives a role to the pods of an application. That it may be used for backups, to a bucket that
/// somebody else names, has to be said.
#[tokio::test]
async fn an_account_is_used_only_where_it_says_so() {
    let arn = "arn:aws:iam::123456789012:role/backups";
    for good in [
        arn,
        "arn:aws-cn:iam::123456789012:role/path/backups",
        "arn:minio:iam:us-east-1::role/x_Y-z",
        " arn:aws:iam::1:role/r\n",
    ] {
        let (client, mut asked) =
            api_server(vec![(200, service_account(&json!({"holdfast.dev/role-arn": good})))]).await;
        let role = role(&client, &account()).await.unwrap();
        assert_eq!(role.arn.as_deref(), Some(good.trim()));
        assert_eq!(
            (role.endpoint.as_str(), role.external_id),
            ("https://sts.eu-central-1.amazonaws.com", None)
        );
        let (line, _) = asked.recv().await.unwrap();
        assert!(line.starts_with("GET /api/v1/namespaces/backups/serviceaccounts/store "), "{line}");
    }
    for (annotations, said) in [
        (json!({}), "put the role's name into"),
        (json!({"holdfast.dev/role-arn": " "}), "put the role's name into"),
        (json!({"eks.amazonaws.com/role-arn": arn}), "says nothing about storages"),
        (json!({"holdfast.dev/role-arn": "backups"}), "is no name of a role"),
        (json!({"holdfast.dev/role-arn": "arn:aws:iam::123456789012:user/b"}), "is no name of a role"),
        (json!({"holdfast.dev/role-arn": "arn:aws:s3:::role/b"}), "is no name of a role"),
        (json!({"holdfast.dev/role-arn": "arn:aws:iam::1:role/"}), "is no name of a role"),
        (json!({"holdfast.dev/role-arn": "arn:aws*:iam::1:role/r"}), "is no name of a role"),
        (json!({"holdfast.dev/role-arn": format!("{arn}\r\nX: y")}), "is no name of a role"),
        (json!({"holdfast.dev/role-arn": format!("{arn}{}", "x".repeat(2048))}), "is no name of a role"),
    ] {
        let (client, _asked) = api_server(vec![(200, service_account(&annotations))]).await;
        let error = role(&client, &account()).await.unwrap_err();
        assert_eq!(error.reason(), Reason::ServiceAccountInvalid, "{annotations}");
        let text = error.to_string();
        assert!(text.contains(said) && text.contains("holdfast.dev/role-arn"), "{annotations} gave {text}");
    }
    let (client, _asked) = api_server(vec![refused(404, "NotFound")]).await;
    let error = role(&client, &account()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ServiceAccountNotFound, "{error}");
}

#[test]
fn an_account_is_of_the_storages_own_namespace() {
    let s3: S3Backend =
        serde_saphyr::from_str("{bucket: b, region: cn-north-1, webIdentity: {serviceAccountName: store}}")
            .unwrap();
    let found = Account::of(&s3, "backups").unwrap();
    let expected = Account {
        endpoint: "https://sts.cn-north-1.amazonaws.com.cn".into(),
        region: "cn-north-1".into(),
        ..account()
    };
    assert_eq!(found, expected);
    assert_eq!(Account::of(&S3Backend::default(), "backups"), None);
}
