//! What a security token service answers: keys, or why there are none. Pure.
//!
//! Source: AWS Security Token Service API Reference, `AssumeRole`, `AssumeRoleWithWebIdentity` and "Common Errors"; `MinIO`
//! and Ceph answer alike.

use holdfast_api::conditions::Reason;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::{ExchangeError, Proof};

/// Most characters of a code and of a message that are repeated.
const MOST_CODE: usize = 64;
const MOST_MESSAGE: usize = 300;
/// Most bytes of a key and of a token.
const MOST_KEY: usize = 1024;
const MOST_TOKEN: usize = 16 << 10;
/// Keys that end sooner are of no use to anybody.
const SHORTEST: SignedDuration = SignedDuration::from_mins(1);
/// Clocks that differ by more are the likely reason of a refusal: what servers allow.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// Keys of one run. Shows nothing of them.
#[derive(Clone, PartialEq, Eq)]
pub struct TemporaryKeys {
    /// The access key.
    pub id: String,
    /// The secret key.
    pub secret: String,
    /// The session token.
    pub token: String,
    /// When they end.
    pub expires: Timestamp,
}

impl std::fmt::Debug for TemporaryKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TemporaryKeys").field("expires", &self.expires).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Granted {
    #[serde(alias = "AssumeRoleWithWebIdentityResult")]
    assume_role_result: Outcome,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Outcome {
    credentials: Credentials,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Credentials {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
    expiration: String,
}

/// `<ErrorResponse><Error>…`, as services of AWS have it, or `<Error>…`, as object stores do.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Refused {
    error: Option<Said>,
    code: Option<String>,
    message: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Said {
    code: String,
    message: String,
}

/// The keys in an answer of success.
pub(super) fn granted(body: &[u8], now: Timestamp) -> Result<TemporaryKeys, ExchangeError> {
    let parsed: Option<Granted> =
        std::str::from_utf8(body).ok().and_then(|text| quick_xml::de::from_str(text).ok());
    let Some(Granted { assume_role_result: Outcome { credentials: given } }) = parsed else {
        return Err(ExchangeError::Garbled("it is no answer to the question for keys"));
    };
    let fits = |text: &str, most: usize| !text.is_empty() && text.len() <= most && is_line(text);
    if !fits(&given.access_key_id, MOST_KEY)
        || !fits(&given.secret_access_key, MOST_KEY)
        || !fits(&given.session_token, MOST_TOKEN)
    {
        return Err(ExchangeError::Garbled("what it gives are no keys"));
    }
    let expires: Timestamp = given
        .expiration
        .trim()
        .parse()
        .map_err(|_| ExchangeError::Garbled("it does not say when the keys end"))?;
    if expires.duration_since(now) < SHORTEST {
        return Err(ExchangeError::Skew);
    }
    Ok(TemporaryKeys {
        id: given.access_key_id,
        secret: given.secret_access_key,
        token: given.session_token,
        expires,
    })
}

/// Whether a key is a line of visible characters, as all are.
pub(super) fn is_line(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What a refusal means. `date` is the server's clock, as it says.
pub(super) fn refusal(
    status: u16,
    body: &[u8],
    date: Option<&str>,
    now: Timestamp,
    proof: Proof<'_>,
) -> ExchangeError {
    let advice = match proof {
        Proof::Keys(_) => &FOR_KEYS,
        Proof::Token(_) => &FOR_TOKEN,
    };
    let text = std::str::from_utf8(body).unwrap_or_default();
    let Refused { error, code, message } = quick_xml::de::from_str(text).unwrap_or_default();
    let Said { code, message } = error
        .unwrap_or_else(|| Said { code: code.unwrap_or_default(), message: message.unwrap_or_default() });
    // A service has no reason to repeat a token. Whoever reads what it says could use it meanwhile.
    let kept = |text: String| match proof {
        Proof::Token(token) if token.is_in(&text) => String::new(),
        _ => text,
    };
    let (code, message) = (told(&kept(code), MOST_CODE), told(&kept(message), MOST_MESSAGE));
    let theirs = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()).map(|date| date.timestamp());
    let skewed = theirs.is_some_and(|theirs| theirs.duration_since(now).abs() > SKEW);
    let (reason, advice) = match code.as_str() {
        "RequestTimeTooSkewed" | "RequestExpired" => return ExchangeError::Skew,
        // AWS tells a wrong clock by its words only.
        "SignatureDoesNotMatch"
            if ["expired", "not yet current"].iter().any(|word| message.contains(word)) =>
        {
            return ExchangeError::Skew;
        }
        // MinIO has one code for all that is wrong with who asks.
        "AccessDenied" if message.contains("request time") => return ExchangeError::Skew,
        "AccessDenied"
            if ["request signature", "Access Key Id"].iter().any(|word| message.contains(word)) =>
        {
            (Reason::InvalidCredentials, advice.proof)
        }
        _ if skewed && matches!(status, 400..=403) => return ExchangeError::Skew,
        "InvalidClientTokenId"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "InvalidToken"
        | "InvalidTokenId"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "MissingAuthenticationToken"
        | "UnrecognizedClientException"
        | "AuthFailure" => (Reason::InvalidCredentials, advice.proof),
        "InvalidIdentityToken" | "IDPRejectedClaim" | "InvalidClientGrantsToken" => {
            (Reason::InvalidCredentials, advice.proof)
        }
        // MinIO says this of all that is wrong with a token, and of a role that it does not know.
        "InvalidParameterValue" if matches!(proof, Proof::Token(_)) => {
            (Reason::InvalidCredentials, advice.proof)
        }
        "IDPCommunicationError" => (Reason::AssumeRoleFailed, ISSUER_ADVICE),
        "AccessDenied" | "AccessDeniedException" | "NotAuthorized" | "RegionDisabledException" => {
            (Reason::AccessDenied, advice.role)
        }
        "MalformedPolicyDocument" | "PackedPolicyTooLarge" | "PackedPolicyTooLargeException" => (
            Reason::AssumeRoleFailed,
            "it does not take the session policy: use a shorter prefix or directory",
        ),
        "ValidationError"
        | "InvalidParameterValue"
        | "InvalidParameterCombination"
        | "MissingParameter"
        | "NoSuchEntity" => (Reason::AssumeRoleFailed, advice.values),
        "Throttling"
        | "ThrottlingException"
        | "SlowDown"
        | "ServiceUnavailable"
        | "InternalFailure"
        | "InternalError" => (Reason::AssumeRoleFailed, LATER_ADVICE),
        "NotImplemented" | "MethodNotAllowed" | "InvalidAction" | "UnsupportedOperation" => {
            (Reason::AssumeRoleFailed, advice.service)
        }
        _ => match status {
            401 | 403 => (Reason::AccessDenied, advice.role),
            408 | 429 | 500 | 502..=504 => (Reason::AssumeRoleFailed, LATER_ADVICE),
            // A redirection is not followed: the signature is for this host.
            300..=399 | 404 | 405 | 501 => (Reason::AssumeRoleFailed, advice.service),
            _ => (Reason::AssumeRoleFailed, advice.values),
        },
    };
    let mut said = status.to_string();
    for part in [code, message] {
        if !part.is_empty() {
            said.push(' ');
            said.push_str(&part);
        }
    }
    ExchangeError::Refused { reason, said, advice }
}

/// What to do about a refusal, by what it is about.
struct Advice {
    /// Who asks.
    proof: &'static str,
    /// Who may assume the role.
    role: &'static str,
    /// What was asked for.
    values: &'static str,
    /// Who was asked.
    service: &'static str,
}

const FOR_KEYS: Advice = Advice {
    proof: "check the keys in the Secret of credentialsSecretRef",
    role: "allow these keys sts:AssumeRole on the role, and see that its trust policy names them (and the externalId)",
    values: "check assumeRole: roleArn, externalId, and sessionDuration, which a role may limit further",
    service: "there is no such service: set assumeRole.stsEndpoint, or leave assumeRole out where the store has none",
};

const FOR_TOKEN: Advice = Advice {
    proof: "see that the service knows the cluster's issuer as an OpenID Connect provider, with the audience of \
            webIdentity.audience, and the role in the annotation holdfast.dev/role-arn of the ServiceAccount",
    role: "see that the role's trust policy allows sts:AssumeRoleWithWebIdentity to the cluster's issuer, for the subject \
           system:serviceaccount:NAMESPACE:NAME of the ServiceAccount and the audience of webIdentity.audience",
    values: "check the annotation holdfast.dev/role-arn of the ServiceAccount, and webIdentity.sessionDuration, which a \
             role may limit further",
    service: "there is no such service: set webIdentity.stsEndpoint",
};

const ISSUER_ADVICE: &str = "it could not ask the cluster's issuer for its keys, and is asked again: see that it reaches the issuer's address";
const LATER_ADVICE: &str = "it is tried again";
/// What a server says, fit to be repeated: short, and on one line.
fn told(text: &str, most: usize) -> String {
    text.trim().chars().take(most).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
