//! Where tokens may be exchanged, and for which audience there: what the cluster's administrator allows. Pure.
//!
//! A token of a `ServiceAccount` is worth a role in somebody's cloud. Who writes a `BackupStorage` does not say where it is
//! sent; they choose among the hosts that are listed here.

use reqwest::{Certificate, Url};

/// What the administrator allows. Nothing, unless told otherwise.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct WebIdentityOptions {
    /// Let storages be reached with web identity: tokens of `ServiceAccounts` in their namespaces, exchanged for keys.
    #[arg(
        long = "web-identity",
        env = "HOLDFAST_WEB_IDENTITY",
        default_value_t = false,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    pub enabled: bool,

    /// Where tokens may be exchanged, and for which audience there: `HOST=AUDIENCE`. The host with its port unless that is
    /// 443 (`minio.storage.svc:9000=minio`), or AWS in every region: `sts.*.amazonaws.com=sts.amazonaws.com`. Can be given
    /// several times. Audiences that the API server itself takes are refused.
    #[arg(
        long = "web-identity-service",
        env = "HOLDFAST_WEB_IDENTITY_SERVICES",
        value_name = "HOST=AUDIENCE",
        value_delimiter = ',',
        value_parser = Service::parse
    )]
    pub services: Vec<Service>,

    /// Certificates (PEM) of authorities to trust at those hosts, besides the well-known ones. A storage's own are not.
    #[arg(long = "web-identity-ca", env = "HOLDFAST_WEB_IDENTITY_CA", default_value = "", value_parser = certificates)]
    pub ca: String,
}

/// What the administrator has not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    /// Web identity as such.
    #[error(
        "web identity is off in this cluster: its administrator turns it on with webIdentity.enabled of the chart"
    )]
    Off,
    /// The host, or this audience there.
    #[error(
        "tokens for the audience {audience} may not be exchanged at {endpoint}: the cluster's administrator adds host and \
         audience to webIdentity.services of the chart, or name some of those in webIdentity.stsEndpoint and \
         webIdentity.audience"
    )]
    Service {
        /// Where.
        endpoint: String,
        /// For whom.
        audience: String,
    },
    /// The audience is the API server's own, as it says itself.
    #[error(
        "the API server takes tokens for the audience {0} itself, so none is sent anywhere: name another one in \
         webIdentity.audience, and take this one out of webIdentity.services of the chart"
    )]
    ApiServer(String),
}

impl WebIdentityOptions {
    /// Whether a token for this audience may be sent to this address.
    pub fn check(&self, endpoint: &str, audience: &str) -> Result<(), NotAllowed> {
        if !self.enabled {
            return Err(NotAllowed::Off);
        }
        let url = Url::parse(endpoint).ok().filter(is_bare);
        let is_listed = |url: &Url| self.services.iter().any(|service| service.is(url, audience));
        if url.as_ref().is_some_and(is_listed) {
            return Ok(());
        }
        Err(NotAllowed::Service { endpoint: endpoint.to_owned(), audience: audience.to_owned() })
    }

    /// Certificates to trust besides the well-known ones.
    pub fn ca(&self) -> Option<&[u8]> {
        (!self.ca.is_empty()).then_some(self.ca.as_bytes())
    }
}

/// A service that tokens may be exchanged at. A pair, since a service that gets a token for the audience of another could use
/// it there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Where it is.
    pub host: StsHost,
    /// For whom tokens that go there are.
    pub audience: String,
}

impl Service {
    /// Out of an option.
    fn parse(text: &str) -> Result<Self, String> {
        let parts = text
            .split_once('=')
            .ok_or("a service is a host and an audience: sts.example.com=sts.example.com")?;
        Ok(Self { host: StsHost::parse(parts.0)?, audience: audience(parts.1)? })
    }

    fn is(&self, url: &Url, audience: &str) -> bool {
        self.audience == audience && self.host.is_host_of(url)
    }
}

/// A host, or AWS's in all regions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StsHost {
    /// This one, as a URL has it: in lower case.
    One {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// `sts.<region>.` before this name, where the part between has the form of a region. Not any name: of what ends in
    /// `amazonaws.com`, most belongs to customers, `sts.s3.amazonaws.com` to the owner of the bucket `sts`.
    EveryRegionOf(&'static str),
}

/// AWS's domains with a service of each region: the public clouds and those of the United States' government, and China's.
const DOMAINS: [&str; 2] = ["amazonaws.com", "amazonaws.com.cn"];

impl StsHost {
    /// Out of an option.
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(domain) = text.strip_prefix("sts.*.") {
            let known = DOMAINS.into_iter().find(|known| *known == domain);
            return known.map(Self::EveryRegionOf).ok_or_else(|| NO_PATTERN.to_owned());
        }
        if text.contains('*') {
            return Err(NO_PATTERN.to_owned());
        }
        let known = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
        let url =
            Url::parse(&format!("https://{text}")).ok().filter(|url| text.chars().all(known) && is_bare(url));
        let port = url.as_ref().and_then(Url::port_or_known_default);
        match (url.as_ref().and_then(Url::host_str), port) {
            (Some(host), Some(port)) if !host.ends_with('.') => Ok(Self::One { host: host.to_owned(), port }),
            _ => Err("a host is a name or an address, with a port unless it is 443: sts.example.com:8443"
                .to_owned()),
        }
    }

    fn is_host_of(&self, url: &Url) -> bool {
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else { return false };
        match self {
            Self::One { host: mine, port: ours } => host == mine && port == *ours,
            Self::EveryRegionOf(domain) => {
                let rest = host.strip_prefix("sts.").and_then(|rest| rest.strip_suffix(domain));
                port == 443 && rest.and_then(|rest| rest.strip_suffix('.')).is_some_and(is_region)
            }
        }
    }
}

const NO_PATTERN: &str =
    "the only patterns are sts.*.amazonaws.com and sts.*.amazonaws.com.cn; list other hosts one by one";

/// `eu-central-1`, `us-gov-west-1`: two letters, words, a number.
fn is_region(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [land, words @ .., number] = parts.as_slice() else { return false };
    let are_letters = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase());
    land.len() == 2
        && are_letters(land)
        && !words.is_empty()
        && words.iter().all(|word| are_letters(word))
        && matches!(number.as_bytes(), [b'1'..=b'9'] | [b'1'..=b'9', b'0'..=b'9'])
}

/// An https address of a host's root, and nothing besides.
fn is_bare(url: &Url) -> bool {
    url.scheme() == "https"
        && url.username().is_empty()
        && url.password().is_none()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
}

/// An audience out of an option. Which ones the API server takes is asked of it before a token is sent; the usual name is
/// refused at once.
fn audience(text: &str) -> Result<String, String> {
    let is_line = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_line {
        return Err("an audience is a word without spaces".to_owned());
    }
    let lower = text.to_ascii_lowercase();
    let host = lower.split_once("://").map_or(lower.as_str(), |(_, host)| host);
    if host == "kubernetes" || host.starts_with("kubernetes.default") {
        return Err("that is the API server's own audience, whose tokens are never sent elsewhere".to_owned());
    }
    Ok(text.to_owned())
}

/// Certificates out of an option: at least one, or none at all.
fn certificates(text: &str) -> Result<String, String> {
    let is_good =
        text.is_empty() || Certificate::from_pem_bundle(text.as_bytes()).is_ok_and(|found| !found.is_empty());
    if is_good { Ok(text.to_owned()) } else { Err("they are not certificates in PEM form".to_owned()) }
}

#[cfg(test)]
#[path = "allowed_tests.rs"]
mod tests;
