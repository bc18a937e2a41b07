//! The kinds of store that a `BackupStorage` can be, and what each needs to be reached. Not who may use it.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;
use crate::refs::LocalRef;
use crate::text::text_enum;

/// A path inside a bucket or container: no empty elements, none that begin with a dot.
const PREFIX: &str = r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$";

/// Where the data goes. Exactly one field is set.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("[has(self.s3), has(self.gcs), has(self.azure)].filter(x, x).size() == 1")
    .message("exactly one backend must be set: s3, gcs or azure"))]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// A bucket of an S3-compatible object store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Backend>,
    /// A bucket of Google Cloud Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<GcsBackend>,
    /// A container of Azure Blob Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<Box<AzureBackend>>,
}

impl Backend {
    /// The place of a directory in this store, always spelled the same for the same place; empty without a backend.
    /// An empty `directory` is the storage itself.
    ///
    /// Names are made from the hash of this text ([`crate::names::repository_password_secret_name`]), so its form
    /// never changes.
    pub fn location(&self, directory: &str) -> String {
        if let Some(s3) = &self.s3 {
            s3.location(directory)
        } else if let Some(gcs) = &self.gcs {
            format!("gs:{}:/{}", gcs.bucket, path([gcs.prefix.as_deref().unwrap_or_default(), directory]))
        } else if let Some(azure) = &self.azure {
            azure.location(directory)
        } else {
            String::new()
        }
    }

    /// The Secret with the credentials; none without a backend, and where a `ServiceAccount` stands for them.
    pub fn credentials(&self) -> Option<&LocalRef> {
        let s3 = self.s3.as_ref().and_then(|s3| s3.credentials_secret_ref.as_ref());
        let gcs = self.gcs.as_ref().map(|gcs| &gcs.credentials_secret_ref);
        s3.or(gcs).or_else(|| self.azure.as_ref().map(|azure| &azure.credentials_secret_ref))
    }

    /// Whose identity in the cloud the storage is reached with, instead of keys in a Secret.
    pub fn web_identity(&self) -> Option<&WebIdentity> {
        self.s3.as_ref().and_then(|s3| s3.web_identity.as_deref())
    }

    /// Whether each run gets keys that reach its own repository alone.
    pub fn has_keys_for_each_run(&self) -> bool {
        self.s3.as_ref().is_some_and(|s3| s3.assume_role.is_some() || s3.web_identity.is_some())
    }

    /// The certificates of a private authority.
    pub fn ca_bundle(&self) -> Option<&CaBundleRef> {
        let s3 = self.s3.as_ref().and_then(|s3| s3.ca_bundle_ref.as_ref());
        s3.or_else(|| self.azure.as_ref().and_then(|azure| azure.ca_bundle_ref.as_ref()))
    }

    /// The URL that the user gave. None where the cloud's own is meant, which is never part of a cluster of the
    /// user's.
    pub fn own_endpoint(&self) -> Option<&str> {
        let s3 = self.s3.as_ref().and_then(|s3| s3.endpoint.as_deref());
        s3.or_else(|| self.azure.as_ref().and_then(|azure| azure.endpoint.as_deref()))
    }
}

/// The parts of a path without empty elements.
fn path<const N: usize>(parts: [&str; N]) -> String {
    let parts = parts.iter().flat_map(|part| part.split('/')).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("/")
}

/// A bucket of an S3-compatible object store.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new(
    "!has(self.addressing) || self.addressing != 'VirtualHost' || !has(self.endpoint) || \
     !(self.endpoint.matches('^https?://[0-9.]+(:[0-9]+)?/?$') || self.endpoint.contains('['))")
    .message("addressing VirtualHost puts the bucket before the host's name, so endpoint needs a name and no IP address"),
    validation = Rule::new("!has(self.assumeRole) || has(self.assumeRole.roleArn) || has(self.endpoint)")
    .message("AWS assumes no role without its name: set assumeRole.roleArn"),
    validation = Rule::new(
    "!has(self.assumeRole) || has(self.assumeRole.stsEndpoint) || !has(self.endpoint) || self.endpoint.startsWith('https://')")
    .message("assumeRole is answered with keys, which must not be readable on the wire: use an https endpoint, or set \
        assumeRole.stsEndpoint"),
    validation = Rule::new("has(self.credentialsSecretRef) != has(self.webIdentity)")
    .message("the store is reached either with keys or with web identity: set credentialsSecretRef, or webIdentity"),
    validation = Rule::new("!has(self.webIdentity) || !has(self.assumeRole)")
    .message("webIdentity exchanges a token for keys of each run as assumeRole does with keys: set one of them"),
    validation = Rule::new(
    "!has(self.webIdentity) || has(self.webIdentity.stsEndpoint) || !has(self.endpoint) || self.endpoint.startsWith('https://')")
    .message("webIdentity sends a token and is answered with keys, which must not be readable on the wire: use an https \
        endpoint, or set webIdentity.stsEndpoint"))]
#[serde(rename_all = "camelCase")]
pub struct S3Backend {
    /// Name of the bucket. It must exist: Holdfast never makes one.
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$"))]
    pub bucket: String,
    /// Path inside the bucket under which everything is kept; the root of the bucket when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = PREFIX))]
    pub prefix: Option<String>,
    /// URL of the object store, with scheme and without a path: `https://minio.storage.svc:9000`. When absent, AWS of
    /// the region. With `http` the data is still encrypted (by the repository), but names and sizes can be watched on
    /// the wire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512), regex(pattern = r"^https?://[^/?#@\s]+/?$"))]
    pub endpoint: Option<String>,
    /// Region used to sign requests.
    #[serde(default = "S3Backend::default_region")]
    #[schemars(length(min = 1, max = 64))]
    pub region: String,
    /// How the bucket is named in requests: `Path` (`https://host/bucket/…`) or `VirtualHost`
    /// (`https://bucket.host/…`), as some providers demand.
    #[serde(default)]
    pub addressing: Addressing,
    /// Secret in the storage's namespace with the keys `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` and, for
    /// temporary keys, `AWS_SESSION_TOKEN`. Whoever renews temporary keys changes the Secret: the next Job uses them.
    /// Either this or `webIdentity` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<LocalRef>,
    /// Exchanges the keys for temporary ones for each run, which reach only the directory of the run's repository. When
    /// absent, each run gets the keys as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assume_role: Option<Box<AssumeRole>>,
    /// Has no keys at all: for each run, a token of a `ServiceAccount` is exchanged for temporary ones, which reach only the
    /// directory of the run's repository. The cluster's administrator has to allow it (`webIdentity` of the chart), and the
    /// `ServiceAccount` has to name the role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub web_identity: Option<Box<WebIdentity>>,
    /// Certificates (PEM) to trust besides the well-known ones, for a store with its own authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle_ref: Option<CaBundleRef>,
}

/// How keys are exchanged for those of one run: the operation `AssumeRole` of a security token service (STS), with a
/// session policy that allows what the run needs and no more.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new(
    "duration(self.sessionDuration) >= duration('15m') && duration(self.sessionDuration) <= duration('12h')")
    .message("sessionDuration must be 15m to 12h"))]
#[serde(rename_all = "camelCase")]
pub struct AssumeRole {
    /// The role to assume: `arn:aws:iam::123456789012:role/backups`. AWS and Ceph need one; MinIO has none and gives the
    /// rights of the keys' own user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 20, max = 2048),
        regex(pattern = r"^arn:[a-z0-9-]+:[a-z]+:[a-z0-9-]*:[^:\s]*:role/[!-~]+$")
    )]
    pub role_arn: Option<String>,
    /// What the role's trust policy may ask for as `sts:ExternalId`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 1224), regex(pattern = r"^[A-Za-z0-9_+=,.@:/-]+$"))]
    pub external_id: Option<String>,
    /// URL of the service, with `https` and without a path. When absent: `endpoint`, as MinIO and Ceph have it, or AWS
    /// of the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 9, max = 512), regex(pattern = r"^https://[^/?#@\s]+/?$"))]
    pub sts_endpoint: Option<String>,
    /// How long the keys of a run are good, 15m to 12h; the role's own longest session counts as well. A run that takes
    /// longer goes on from its checkpoint in another attempt, with new keys.
    #[serde(default = "AssumeRole::default_duration")]
    pub session_duration: Duration,
}

impl Default for AssumeRole {
    fn default() -> Self {
        Self {
            role_arn: None,
            external_id: None,
            sts_endpoint: None,
            session_duration: Self::default_duration(),
        }
    }
}

impl AssumeRole {
    fn default_duration() -> Duration {
        Duration::from_hours(1)
    }
}

/// How a token of a `ServiceAccount` is exchanged for the keys of one run: the operation `AssumeRoleWithWebIdentity` of a
/// security token service (STS), with the same session policy as [`AssumeRole`] has.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new(
    "duration(self.sessionDuration) >= duration('15m') && duration(self.sessionDuration) <= duration('12h')")
    .message("sessionDuration must be 15m to 12h"))]
#[serde(rename_all = "camelCase")]
pub struct WebIdentity {
    /// Name of a `ServiceAccount` in the storage's namespace. Its annotation `holdfast.dev/role-arn` names the role that is
    /// assumed; without it, it is not used. No pod needs to run as it.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"))]
    pub service_account_name: String,
    /// For whom the token is: what the role's trust policy, or the service, demands as audience. The administrator allows it
    /// together with the host; never the API server's own.
    #[serde(default = "WebIdentity::default_audience")]
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[!-~]+$"))]
    pub audience: String,
    /// URL of the service, with `https` and without a path, at a host that the administrator allows. When absent:
    /// `endpoint`, as MinIO has it, or AWS of the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 9, max = 512), regex(pattern = r"^https://[^/?#@\s]+/?$"))]
    pub sts_endpoint: Option<String>,
    /// How long the keys of a run are good, 15m to 12h; the role's own longest session counts as well. A run that takes
    /// longer goes on from its checkpoint in another attempt, with new keys.
    #[serde(default = "AssumeRole::default_duration")]
    pub session_duration: Duration,
}

impl WebIdentity {
    fn default_audience() -> String {
        "sts.amazonaws.com".to_owned()
    }
}

text_enum! {
    /// How a bucket is named in requests: `Path` or `VirtualHost`.
    #[derive(Default)]
    pub enum Addressing {
        /// In the path.
        #[default]
        Path,
        /// As the first part of the host's name.
        VirtualHost,
    }
}

impl S3Backend {
    /// Key of the access key in the credentials Secret.
    pub const ACCESS_KEY_ID: &'static str = "AWS_ACCESS_KEY_ID";
    /// Key of the secret key in the credentials Secret.
    pub const SECRET_ACCESS_KEY: &'static str = "AWS_SECRET_ACCESS_KEY";
    /// Key of the session token in the credentials Secret, where the keys are temporary.
    pub const SESSION_TOKEN: &'static str = "AWS_SESSION_TOKEN";

    fn default_region() -> String {
        "us-east-1".to_owned()
    }

    /// The URL of the server, without a slash at its end and without the bucket.
    ///
    /// Source of AWS's: AWS General Reference, "Amazon S3 endpoints and quotas". Other partitions than the public one
    /// and China's need `endpoint`.
    pub fn url(&self) -> String {
        match &self.endpoint {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None if self.region.starts_with("cn-") => format!("https://s3.{}.amazonaws.com.cn", self.region),
            None => format!("https://s3.{}.amazonaws.com", self.region),
        }
    }

    /// The URL of the security token service, without a slash at its end; none where keys are not exchanged.
    ///
    /// Source of AWS's: AWS General Reference, "AWS Security Token Service endpoints and quotas".
    pub fn sts_url(&self) -> Option<String> {
        let named = match (&self.web_identity, &self.assume_role) {
            (Some(identity), _) => &identity.sts_endpoint,
            (None, Some(role)) => &role.sts_endpoint,
            (None, None) => return None,
        };
        let own = named.as_ref().or(self.endpoint.as_ref());
        Some(match own {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None if self.region.starts_with("cn-") => format!("https://sts.{}.amazonaws.com.cn", self.region),
            None => format!("https://sts.{}.amazonaws.com", self.region),
        })
    }

    /// In restic's notation, `s3:<scheme>://<host>/<bucket>/<prefix>/<directory>`: scheme and host in lower case, no
    /// default port, no empty path element; the same for both ways of addressing. See [`Backend::location`].
    fn location(&self, directory: &str) -> String {
        let endpoint = self.url().to_ascii_lowercase();
        let endpoint = match endpoint.split_once("://") {
            Some(("https", _)) => endpoint.strip_suffix(":443").unwrap_or(&endpoint),
            Some(("http", _)) => endpoint.strip_suffix(":80").unwrap_or(&endpoint),
            _ => &endpoint,
        };
        let path = path([self.bucket.as_str(), self.prefix.as_deref().unwrap_or_default(), directory]);
        format!("s3:{endpoint}/{path}")
    }
}

/// A bucket of Google Cloud Storage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GcsBackend {
    /// Name of the bucket. It must exist: Holdfast never makes one.
    #[schemars(length(min = 3, max = 222), regex(pattern = r"^[a-z0-9][a-z0-9._-]*[a-z0-9]$"))]
    pub bucket: String,
    /// Path inside the bucket under which everything is kept; the root of the bucket when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = PREFIX))]
    pub prefix: Option<String>,
    /// Secret in the storage's namespace with the key `GOOGLE_SERVICE_ACCOUNT_JSON_KEY`: the JSON file of a service
    /// account's key, as Google hands it out.
    pub credentials_secret_ref: LocalRef,
}

impl GcsBackend {
    /// Key of the service account's JSON in the credentials Secret.
    pub const SERVICE_ACCOUNT: &'static str = "GOOGLE_SERVICE_ACCOUNT_JSON_KEY";
}

/// A container of Azure Blob Storage.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!(has(self.endpoint) && has(self.endpointSuffix))")
    .message("endpoint and endpointSuffix exclude each other: the one is a whole URL, the other ends one"))]
#[serde(rename_all = "camelCase")]
pub struct AzureBackend {
    /// Name of the storage account.
    #[schemars(length(min = 3, max = 24), regex(pattern = r"^[a-z0-9]+$"))]
    pub account: String,
    /// Name of the container: letters, digits and single hyphens. It must exist: Holdfast never makes one.
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9]+(-[a-z0-9]+)*$"))]
    pub container: String,
    /// Path inside the container under which everything is kept; the root of the container when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = PREFIX))]
    pub prefix: Option<String>,
    /// End of the host's name in another cloud than Azure's public one, e.g. `core.chinacloudapi.cn`;
    /// `core.windows.net` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 253), regex(pattern = r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$"))]
    pub endpoint_suffix: Option<String>,
    /// Whole URL of the account instead, for private clouds and emulators: `https://host:10000/account`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512), regex(pattern = r"^https?://[^?#@\s]+$"))]
    pub endpoint: Option<String>,
    /// Secret in the storage's namespace with one of these: the key `AZURE_ACCOUNT_KEY`; the key `AZURE_ACCOUNT_SAS`
    /// (a shared access signature); the keys `AZURE_CLIENT_ID`, `AZURE_TENANT_ID` and `AZURE_CLIENT_SECRET` of an
    /// application.
    pub credentials_secret_ref: LocalRef,
    /// Certificates (PEM) to trust besides the well-known ones, for a store with its own authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle_ref: Option<CaBundleRef>,
}

impl AzureBackend {
    /// Key of the account's key in the credentials Secret.
    pub const ACCOUNT_KEY: &'static str = "AZURE_ACCOUNT_KEY";
    /// Key of a shared access signature.
    pub const ACCOUNT_SAS: &'static str = "AZURE_ACCOUNT_SAS";
    /// Key of an application's id.
    pub const CLIENT_ID: &'static str = "AZURE_CLIENT_ID";
    /// Key of the directory that the application belongs to.
    pub const TENANT_ID: &'static str = "AZURE_TENANT_ID";
    /// Key of the application's secret.
    pub const CLIENT_SECRET: &'static str = "AZURE_CLIENT_SECRET";

    /// `azure:<account>/<container>:/<path>`, with the cloud where it is not the public one. Two accounts may have
    /// containers of one name, so this says more than restic's notation. See [`Backend::location`].
    fn location(&self, directory: &str) -> String {
        let cloud = match (&self.endpoint, &self.endpoint_suffix) {
            (Some(endpoint), _) => format!("{}/", endpoint.trim_end_matches('/').to_ascii_lowercase()),
            (None, Some(suffix)) => format!("{suffix}/"),
            (None, None) => String::new(),
        };
        let path = path([self.prefix.as_deref().unwrap_or_default(), directory]);
        format!("azure:{cloud}{}/{}:/{path}", self.account, self.container)
    }
}

/// Where the certificates of a private authority are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaBundleRef {
    /// What holds the certificates.
    #[serde(default)]
    pub kind: CaBundleKind,
    /// Name of the Secret or ConfigMap, in the storage's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key with the certificates in PEM form.
    #[serde(default = "CaBundleRef::default_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

impl CaBundleRef {
    fn default_key() -> String {
        "ca.crt".to_owned()
    }
}

text_enum! {
    /// What holds certificates: a Secret or a ConfigMap.
    #[derive(Default)]
    pub enum CaBundleKind {
        /// A Secret.
        #[default]
        Secret,
        /// A ConfigMap.
        ConfigMap,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(endpoint: &str, prefix: Option<&str>) -> S3Backend {
        S3Backend {
            bucket: "backups".into(),
            prefix: prefix.map(str::to_owned),
            endpoint: Some(endpoint.into()),
            ..S3Backend::default()
        }
    }

    #[test]
    fn one_place_has_one_location() {
        let expected = "s3:https://minio.storage:9000/backups/prod/c/ns/data-x7k2p";
        for (endpoint, prefix) in [
            ("https://minio.storage:9000", "prod"),
            ("https://MinIO.storage:9000/", "prod"),
            ("HTTPS://minio.storage:9000", "/prod/"),
        ] {
            assert_eq!(s3(endpoint, Some(prefix)).location("c/ns/data-x7k2p"), expected);
            let in_host = S3Backend { addressing: Addressing::VirtualHost, ..s3(endpoint, Some(prefix)) };
            assert_eq!(in_host.location("c/ns/data-x7k2p"), expected);
        }
        assert_eq!(s3("https://s3.example:443", None).location(""), "s3:https://s3.example/backups");
        assert_eq!(s3("http://s3.example:80", None).location("a"), "s3:http://s3.example/backups/a");
        assert_eq!(s3("http://s3.example:443", None).location("a"), "s3:http://s3.example:443/backups/a");
    }

    #[test]
    fn aws_is_where_the_region_is() {
        let of = |region: &str| {
            S3Backend { bucket: "b".into(), region: region.into(), ..S3Backend::default() }.location("d")
        };
        assert_eq!(of("eu-central-1"), "s3:https://s3.eu-central-1.amazonaws.com/b/d");
        assert_eq!(of("cn-north-1"), "s3:https://s3.cn-north-1.amazonaws.com.cn/b/d");
    }

    #[test]
    fn keys_are_exchanged_where_the_store_is_unless_said_otherwise() {
        let of = |endpoint: Option<&str>, sts: Option<&str>, region: &str| {
            let role = AssumeRole { sts_endpoint: sts.map(str::to_owned), ..AssumeRole::default() };
            let assume_role = Some(Box::new(role));
            let endpoint = endpoint.map(str::to_owned);
            S3Backend { endpoint, assume_role, region: region.into(), ..S3Backend::default() }
                .sts_url()
                .unwrap()
        };
        assert_eq!(of(Some("https://minio:9000/"), None, "us-east-1"), "https://minio:9000");
        assert_eq!(of(Some("http://s3"), Some("https://sts/"), "us-east-1"), "https://sts");
        assert_eq!(of(None, None, "eu-central-1"), "https://sts.eu-central-1.amazonaws.com");
        assert_eq!(of(None, None, "cn-north-1"), "https://sts.cn-north-1.amazonaws.com.cn");
        assert_eq!(s3("https://minio:9000", None).sts_url(), None);
        let identity = |sts: Option<&str>, region: &str| {
            let identity = WebIdentity {
                service_account_name: "backups".into(),
                audience: WebIdentity::default_audience(),
                sts_endpoint: sts.map(str::to_owned),
                session_duration: Duration::from_hours(1),
            };
            let web_identity = Some(Box::new(identity));
            S3Backend { web_identity, region: region.into(), ..S3Backend::default() }.sts_url().unwrap()
        };
        assert_eq!(identity(None, "eu-central-1"), "https://sts.eu-central-1.amazonaws.com");
        assert_eq!(identity(None, "cn-north-1"), "https://sts.cn-north-1.amazonaws.com.cn");
        assert_eq!(identity(Some("https://sts.amazonaws.com/"), "eu-central-1"), "https://sts.amazonaws.com");
    }

    #[test]
    fn other_clouds_have_locations_of_their_own() {
        let gcs = GcsBackend { bucket: "b".into(), prefix: Some("/p/".into()), ..GcsBackend::default() };
        let backend = Backend { gcs: Some(gcs), ..Backend::default() };
        assert_eq!(
            (backend.location("c/n/r"), backend.location("")),
            ("gs:b:/p/c/n/r".into(), "gs:b:/p".into())
        );
        let azure = |endpoint: Option<&str>, suffix: Option<&str>| {
            let azure = AzureBackend {
                account: "acct".into(),
                container: "box".into(),
                endpoint: endpoint.map(str::to_owned),
                endpoint_suffix: suffix.map(str::to_owned),
                ..AzureBackend::default()
            };
            Backend { azure: Some(Box::new(azure)), ..Backend::default() }.location("d")
        };
        assert_eq!(azure(None, None), "azure:acct/box:/d");
        assert_eq!(azure(None, Some("core.chinacloudapi.cn")), "azure:core.chinacloudapi.cn/acct/box:/d");
        assert_eq!(azure(Some("https://Host:1/acct/"), None), "azure:https://host:1/acct/acct/box:/d");
        assert_eq!(Backend::default().location("d"), "");
    }
}
