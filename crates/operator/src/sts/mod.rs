//! Keys for one run: a storage's own keys, or a token of its `ServiceAccount`, are exchanged at a security token service
//! (`AssumeRole`, `AssumeRoleWithWebIdentity`) for temporary ones that a session policy holds to the directory of the run's
//! repository. Not who may run.
//!
//! The storage's author chooses the service, and so where the operator sends a request: one of fixed form, that follows
//! no redirection, and of whose answer nothing is told but what a service says in its own words, cut short. Keys only sign
//! it. A token is in it as it is, so it goes to none but the hosts that the cluster's administrator lists ([`allowed`]).

mod allowed;
mod answer;
mod policy;
mod sign;
pub mod web;

use std::time::Duration;

use holdfast_api::backend::S3Backend;
use holdfast_api::conditions::Reason;
use jiff::Timestamp;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE};
use reqwest::{Certificate, Client, RequestBuilder, Url};

pub use allowed::{NotAllowed, Service, StsHost, WebIdentityOptions};
pub use answer::TemporaryKeys;
pub use policy::{PolicyError, session_policy};
pub use sign::Keys;
pub use web::{Account, AccountError, Token};

/// How long a connection and the whole exchange may take.
const CONNECT: Duration = Duration::from_secs(5);
const WHOLE: Duration = Duration::from_secs(15);
/// Most bytes that are read of an answer.
const MOST: usize = 64 << 10;
const FORM: &str = "application/x-www-form-urlencoded";
const AMZ_DATE: &str = "x-amz-date";
const AMZ_TOKEN: &str = "x-amz-security-token";

/// Which role is assumed, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// URL of the service, without a slash at its end.
    pub endpoint: String,
    /// Region that requests are signed for.
    pub region: String,
    /// Name of the role; servers without roles need none.
    pub arn: Option<String>,
    /// What the role's trust policy may ask for.
    pub external_id: Option<String>,
    /// How long the keys are to be good.
    pub duration: Duration,
}

impl Role {
    /// The role that a storage names, if it names one.
    pub fn of(s3: &S3Backend) -> Option<Self> {
        let role = s3.assume_role.as_ref()?;
        Some(Self {
            endpoint: s3.sts_url()?,
            region: s3.region.clone(),
            arn: role.role_arn.clone(),
            external_id: role.external_id.clone(),
            duration: role.session_duration.into(),
        })
    }

    /// The partition of AWS that names of resources begin with.
    pub fn partition(&self) -> &str {
        let of_arn = self.arn.as_deref().and_then(|arn| arn.split(':').nth(1));
        // Roles of MinIO are named in a partition of its own, buckets are not.
        of_arn.filter(|partition| partition.starts_with("aws")).unwrap_or("aws")
    }
}

/// What a storage has exchanged for the keys of each run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exchange {
    /// The keys in its Secret.
    Keys(Role),
    /// A token of its `ServiceAccount`, which names the role.
    Account(Account),
}

impl Exchange {
    /// What a storage of this namespace has exchanged, if anything.
    pub fn of(s3: &S3Backend, namespace: &str) -> Option<Self> {
        // A token wins: then keys that were in the way are not handed out.
        let account = Account::of(s3, namespace).map(Self::Account);
        account.or_else(|| Role::of(s3).map(Self::Keys))
    }
}

/// Why there are no keys for a run. Nothing in it is a secret.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// There is no policy that would hold the keys to the run's directory.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The storage's own keys cannot sign.
    #[error(
        "the keys in the Secret of credentialsSecretRef cannot sign a request: they hold spaces or other characters that \
         no key has; copy them again"
    )]
    Keys,
    /// The cluster's administrator does not allow it.
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    /// There is no role, or no token, of the storage's `ServiceAccount`.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The certificates to trust cannot be read.
    #[error("the certificates of caBundleRef are not readable as PEM")]
    Ca,
    /// Keys come only over a connection that nobody reads.
    #[error("{0} is no https address, and keys are not taken over any other: correct stsEndpoint")]
    Endpoint(String),
    /// No answer.
    #[error(
        "the security token service at {endpoint} cannot be reached: {cause}; check the address and network policies"
    )]
    Unreachable {
        /// Where.
        endpoint: String,
        /// In a few words.
        cause: String,
    },
    /// The server is not who it has to be.
    #[error("the certificate of the security token service at {endpoint} is not trusted ({cause}): {advice}")]
    Certificate {
        /// Where.
        endpoint: String,
        /// In a few words of ours.
        cause: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// The answer cannot be used.
    #[error("the security token service gave an answer that cannot be used: {0}; check stsEndpoint")]
    Garbled(&'static str),
    /// The clocks differ.
    #[error("the clocks of the security token service and of the operator's node differ too much: set them")]
    Skew,
    /// It gave none.
    #[error("the security token service refuses to give keys for a run ({said}); {advice}")]
    Refused {
        /// In one word.
        reason: Reason,
        /// Its words.
        said: String,
        /// What to do.
        advice: &'static str,
    },
}

impl ExchangeError {
    /// In one word.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Policy(_) | Self::Endpoint(_) => Reason::InvalidSpec,
            Self::NotAllowed(_) | Self::Account(AccountError::Forbidden { .. }) => {
                Reason::WebIdentityNotAllowed
            }
            Self::Account(AccountError::NotFound(_)) => Reason::ServiceAccountNotFound,
            Self::Account(AccountError::Silent { .. } | AccountError::Role(_)) => {
                Reason::ServiceAccountInvalid
            }
            Self::Account(AccountError::NoToken { .. } | AccountError::OtherAudience(_)) => {
                Reason::AssumeRoleFailed
            }
            Self::Keys | Self::Ca => Reason::SecretInvalid,
            Self::Unreachable { .. } => Reason::EndpointUnreachable,
            Self::Certificate { .. } => Reason::UntrustedCertificate,
            Self::Garbled(_) => Reason::AssumeRoleFailed,
            Self::Skew => Reason::ClockSkew,
            Self::Refused { reason, .. } => *reason,
        }
    }
}

/// What an exchange is asked for.
#[derive(Debug)]
pub struct Request<'a> {
    /// The role.
    pub role: &'a Role,
    /// What shows that the role may be assumed.
    pub proof: Proof<'a>,
    /// Certificates to trust besides the well-known ones.
    pub ca: Option<&'a [u8]>,
    /// What the new keys may do at most: [`session_policy`].
    pub policy: &'a str,
    /// Name of the session in the service's own records: that of the run's Job.
    pub session: &'a str,
    /// Now.
    pub now: Timestamp,
}

/// What shows that a role may be assumed.
#[derive(Debug, Clone, Copy)]
pub enum Proof<'a> {
    /// Keys, which sign the request.
    Keys(Keys<'a>),
    /// A token, which is sent in it.
    Token(&'a Token),
}

/// Exchanges keys or a token.
pub async fn assume_role(request: &Request<'_>) -> Result<TemporaryKeys, ExchangeError> {
    let endpoint = &request.role.endpoint;
    if !endpoint.starts_with("https://") {
        return Err(ExchangeError::Endpoint(endpoint.clone()));
    }
    exchange(request, WHOLE).await
}

async fn exchange(request: &Request<'_>, patience: Duration) -> Result<TemporaryKeys, ExchangeError> {
    let Request { role, proof, now, .. } = *request;
    let endpoint = &role.endpoint;
    let url = Url::parse(endpoint).map_err(|_| ExchangeError::Endpoint(endpoint.clone()))?;
    let failed = |error: reqwest::Error| broken(endpoint, &error, patience, proof);
    let body = form(request);
    let post = client(request.ca, patience)?.post(url.clone()).header(CONTENT_TYPE, FORM);
    let post = match proof {
        Proof::Keys(keys) => signed(post, &url, request, keys, &body)?,
        Proof::Token(token) if answer::is_line(token.text()) && !token.text().is_empty() => post,
        Proof::Token(_) => return Err(ExchangeError::Garbled("the API server gave no token to send")),
    };
    let mut response = post.body(body).send().await.map_err(failed)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MOST {
            return Err(ExchangeError::Garbled("it is far too long"));
        }
    }
    if response.status().is_success() {
        return answer::granted(&bytes, now);
    }
    let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
    Err(answer::refusal(response.status().as_u16(), &bytes, date, now, proof))
}

/// The request with a signature by the storage's keys.
fn signed(
    post: RequestBuilder,
    url: &Url,
    request: &Request<'_>,
    keys: Keys<'_>,
    body: &str,
) -> Result<RequestBuilder, ExchangeError> {
    let Role { endpoint, region, .. } = request.role;
    let host = url.host_str().ok_or_else(|| ExchangeError::Endpoint(endpoint.clone()))?;
    let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let signs = |text: &str| !text.is_empty() && answer::is_line(text);
    if !signs(keys.id) || !signs(keys.secret) || !keys.token.is_none_or(signs) {
        return Err(ExchangeError::Keys);
    }
    let date = sign::amz_date(request.now);
    let mut headers = vec![("content-type", FORM), ("host", host.as_str()), (AMZ_DATE, date.as_str())];
    headers.extend(keys.token.map(|token| (AMZ_TOKEN, token)));
    let scope = sign::Scope { region, service: "sts" };
    let signature = sign::authorization(keys, &scope, &date, &headers, body.as_bytes());
    let post = post.header(AMZ_DATE, &date).header(AUTHORIZATION, signature);
    Ok(match keys.token {
        Some(token) => post.header(AMZ_TOKEN, token),
        None => post,
    })
}

fn client(ca: Option<&[u8]>, patience: Duration) -> Result<Client, ExchangeError> {
    let mut client = Client::builder()
        .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .timeout(patience)
        // One request; and what it is signed for, or what the token may be sent to, is this host.
        .pool_max_idle_per_host(0)
        .redirect(reqwest::redirect::Policy::none());
    if let Some(pem) = ca {
        let certificates = Certificate::from_pem_bundle(pem).map_err(|_| ExchangeError::Ca)?;
        if certificates.is_empty() {
            return Err(ExchangeError::Ca);
        }
        for certificate in certificates {
            client = client.add_root_certificate(certificate);
        }
    }
    client.build().map_err(|_| ExchangeError::Ca)
}

/// What is posted.
fn form(request: &Request<'_>) -> String {
    let role = request.role;
    let seconds = role.duration.as_secs().to_string();
    // A server without roles reads over it; those that have them demand one, and say so.
    let arn = role.arn.as_deref().map(|arn| ("RoleArn", arn));
    let external = role.external_id.as_deref().map(|id| ("ExternalId", id));
    let (action, token) = match request.proof {
        Proof::Keys(_) => ("AssumeRole", None),
        Proof::Token(token) => ("AssumeRoleWithWebIdentity", Some(("WebIdentityToken", token.text()))),
    };
    let fields = [("Action", action), ("Version", "2011-06-15"), ("DurationSeconds", seconds.as_str())];
    let fields = fields.into_iter().chain(arn).chain(external);
    let fields =
        fields.chain([("RoleSessionName", request.session), ("Policy", request.policy)]).chain(token);
    form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

/// Why no answer came, in words that are the same for the same cause each time.
fn broken(endpoint: &str, error: &reqwest::Error, patience: Duration, proof: Proof<'_>) -> ExchangeError {
    let endpoint = endpoint.to_owned();
    if error.is_timeout() {
        return ExchangeError::Unreachable {
            endpoint,
            cause: format!("no answer within {} s", patience.as_secs()),
        };
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let cause: String = cause.to_string().chars().take(200).collect();
    match distrust(&cause) {
        Some(cause) => {
            let advice = match proof {
                Proof::Keys(_) => "name its authority in caBundleRef",
                // Whom a token is sent to is not for the storage's author to vouch for.
                Proof::Token(_) => {
                    "the cluster's administrator names its authority in webIdentity.caBundle of the chart"
                }
            };
            ExchangeError::Certificate { endpoint, cause, advice }
        }
        None => ExchangeError::Unreachable { endpoint, cause },
    }
}

/// What is wrong with a certificate, if that is what a failure is about. In words of ours: those of the TLS library
/// list the names in it, which whoever chooses the address is not to learn by us.
fn distrust(cause: &str) -> Option<&'static str> {
    if !cause.contains("certificate") {
        return None;
    }
    let of = |words: &[&str]| words.iter().any(|word| cause.contains(word));
    Some(if of(&["not valid for", "NotValidForName"]) {
        "it is for another host"
    } else if of(&["expired", "Expired"]) {
        "it has expired"
    } else if of(&["not valid yet", "NotValidYet"]) {
        "it is not valid yet"
    } else if of(&["UnknownIssuer"]) {
        "its authority is not known"
    } else if of(&["evoked"]) {
        "it was revoked"
    } else {
        "it does not hold"
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
