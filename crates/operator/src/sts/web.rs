//! Web identity: which role a storage's `ServiceAccount` names, and a token of it, asked of the API server. Not whether it
//! may be used, which the administrator says ([`super::allowed`]), nor its exchange.
//!
//! Source: Kubernetes API, `TokenRequest` and `TokenReview` of `authentication.k8s.io/v1`.

use std::time::Duration;

use holdfast_api::backend::S3Backend;
use holdfast_api::names::{ANNOTATION_ROLE_ARN, ANNOTATION_ROLE_ARN_EKS};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec, TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use secrecy::{ExposeSecret, SecretString};

use super::allowed::NotAllowed;
use super::{ExchangeError, Role, answer};
use crate::kubernetes::{self, RequestError};

/// How long a token is good: the least that the API server gives. It is used at once, and never again.
const LIFETIME: i64 = 600;
/// Longest name of a role.
const MOST_ARN: usize = 2048;

/// Whose token is exchanged, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Namespace of the `ServiceAccount`: the storage's.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// For whom its token is.
    pub audience: String,
    /// URL of the service, without a slash at its end.
    pub endpoint: String,
    /// Region of the store.
    pub region: String,
    /// How long the keys are to be good.
    pub duration: Duration,
}

impl Account {
    /// The account that a storage of this namespace names, if it names one.
    pub fn of(s3: &S3Backend, namespace: &str) -> Option<Self> {
        let identity = s3.web_identity.as_ref()?;
        Some(Self {
            namespace: namespace.to_owned(),
            name: identity.service_account_name.clone(),
            audience: identity.audience.clone(),
            endpoint: s3.sts_url()?,
            region: s3.region.clone(),
            duration: identity.session_duration.into(),
        })
    }

    fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// A token of a `ServiceAccount`. Shows nothing of it.
#[derive(Debug)]
pub struct Token(SecretString);

impl Token {
    /// A token as it is.
    pub fn new(text: String) -> Self {
        Self(text.into())
    }

    /// The token itself.
    pub(super) fn text(&self) -> &str {
        self.0.expose_secret()
    }

    /// Whether a text has a part of the token in it: one of its three, or how one begins.
    pub(super) fn is_in(&self, text: &str) -> bool {
        self.text()
            .split('.')
            .filter_map(|part| part.get(..part.len().min(16)))
            .any(|part| !part.is_empty() && text.contains(part))
    }
}

/// Why an account cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// It is not there.
    #[error(
        "ServiceAccount {0} of webIdentity does not exist: create it, with the role in its annotation {ANNOTATION_ROLE_ARN}"
    )]
    NotFound(String),
    /// Nobody said that storages may use it.
    #[error(
        "ServiceAccount {account} does not say which role storages may assume with it: put the role's name into its \
         annotation {ANNOTATION_ROLE_ARN}{hint}"
    )]
    Silent {
        /// Which.
        account: String,
        /// About an annotation that is there instead.
        hint: &'static str,
    },
    /// The annotation is no name of a role.
    #[error(
        "the annotation {ANNOTATION_ROLE_ARN} of ServiceAccount {0} is no name of a role, which has the form \
         arn:aws:iam::123456789012:role/backups"
    )]
    Role(String),
    /// The operator may not.
    #[error(
        "the operator may not use ServiceAccount {account}: the cluster's administrator allows it with \
         webIdentity.enabled of the chart, and adds its name to webIdentity.serviceAccounts where that is not empty"
    )]
    Forbidden {
        /// Which.
        account: String,
        /// What the API server said.
        #[source]
        source: Box<RequestError>,
    },
    /// The API server could not be asked, or its answer is none.
    #[error("the API server gave no token of ServiceAccount {account}; it is asked again")]
    NoToken {
        /// Which.
        account: String,
        /// What it said.
        #[source]
        source: Box<RequestError>,
    },
    /// The token is for somebody else than was asked.
    #[error(
        "the API server gave a token of ServiceAccount {0} for another audience than webIdentity.audience, and it is not \
         sent: something in the cluster changes such requests"
    )]
    OtherAudience(String),
}

const HINT: &str = " too; eks.amazonaws.com/role-arn gives the role to pods and says nothing about storages";

/// The role that the account names for storages.
pub async fn role(client: &Client, account: &Account) -> Result<Role, ExchangeError> {
    let found = kubernetes::get::<ServiceAccount>(client, &account.namespace, &account.name).await;
    let found = found.map_err(|source| failed(account, source))?;
    let arn = arn_of(account, found.as_ref())?;
    Ok(Role {
        endpoint: account.endpoint.clone(),
        region: account.region.clone(),
        arn: Some(arn),
        external_id: None,
        duration: account.duration,
    })
}

fn arn_of(account: &Account, found: Option<&ServiceAccount>) -> Result<String, AccountError> {
    let found = found.ok_or_else(|| AccountError::NotFound(account.full_name()))?;
    let annotations = found.annotations();
    let Some(arn) = annotations.get(ANNOTATION_ROLE_ARN).map(|arn| arn.trim()).filter(|arn| !arn.is_empty())
    else {
        let hint = if annotations.contains_key(ANNOTATION_ROLE_ARN_EKS) { HINT } else { "" };
        return Err(AccountError::Silent { account: account.full_name(), hint });
    };
    // arn:partition:service:region:account:role/name
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let is_word =
        |text: &str| text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
    let is_role = match parts.as_slice() {
        // The partition stands in the session policy, too.
        ["arn", partition, "iam", _, _, name] => {
            !partition.is_empty()
                && is_word(partition)
                && name.strip_prefix("role/").is_some_and(|name| !name.is_empty())
        }
        _ => false,
    };
    if is_role && arn.len() <= MOST_ARN && answer::is_line(arn) {
        Ok(arn.to_owned())
    } else {
        Err(AccountError::Role(account.full_name()))
    }
}

/// A token of the account, for its audience and for nobody else.
pub async fn token(client: &Client, account: &Account) -> Result<Token, ExchangeError> {
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(vec![account.audience.clone()]),
            expiration_seconds: Some(LIFETIME),
            bound_object_ref: None,
        }),
        ..TokenRequest::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &account.namespace);
    let given = accounts
        .create_token_request(&account.name, &PostParams::default(), &request)
        .await
        .map_err(|error| failed(account, refused("create", "TokenRequest", account, error)))?;
    let audiences = given.spec.and_then(|spec| spec.audiences).unwrap_or_default();
    if audiences != [account.audience.as_str()] {
        return Err(AccountError::OtherAudience(account.full_name()).into());
    }
    let token = Token::new(given.status.and_then(|status| status.token).unwrap_or_default());
    if is_taken_by_api_server(client, account, &token).await? {
        return Err(NotAllowed::ApiServer(account.audience.clone()).into());
    }
    Ok(token)
}

/// Whether the API server itself takes the token: what its audiences are is known to it alone. A token that it takes would
/// let whoever gets it act in the cluster.
async fn is_taken_by_api_server(
    client: &Client,
    account: &Account,
    token: &Token,
) -> Result<bool, ExchangeError> {
    let review = TokenReview {
        // Without audiences the API server's own are meant.
        spec: TokenReviewSpec { token: token.text().to_owned(), audiences: None },
        ..TokenReview::default()
    };
    let reviews: Api<TokenReview> = Api::all(client.clone());
    let judged = reviews
        .create(&PostParams::default(), &review)
        .await
        .map_err(|error| failed(account, refused("create", "TokenReview", account, error)))?;
    // No verdict is none in favour.
    Ok(judged.status.is_none_or(|status| status.authenticated == Some(true)))
}

fn refused(verb: &'static str, kind: &str, account: &Account, source: kube::Error) -> RequestError {
    RequestError {
        verb,
        kind: kind.to_owned(),
        namespace: account.namespace.clone(),
        name: account.name.clone(),
        source: Box::new(source),
    }
}

fn failed(account: &Account, source: RequestError) -> AccountError {
    let (account, source) = (account.full_name(), Box::new(source));
    if source.is_not_found() {
        AccountError::NotFound(account)
    } else if source.is_refused() {
        AccountError::Forbidden { account, source }
    } else {
        AccountError::NoToken { account, source }
    }
}

#[cfg(test)]
#[path = "web_tests.rs"]
mod tests;
