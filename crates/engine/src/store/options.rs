//! How to reach each kind of store: credentials, endpoints, trust. Plain values; nothing is read or opened here.

use std::path::PathBuf;

use secrecy::SecretString;

use super::{Pace, RetryPolicy};

/// How to reach a store.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {
    /// For S3 servers.
    pub s3: S3Options,
    /// For Google Cloud Storage.
    pub gcs: GcsOptions,
    /// For Azure Blob Storage.
    pub azure: AzureOptions,
    /// For REST servers.
    pub rest: RestOptions,
    /// Certificates in PEM form to trust besides the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// How long to try again.
    pub retry: RetryPolicy,
    /// How much of the line to take.
    pub pace: Pace,
}

/// Credentials and addressing for an S3 server. `Debug` shows no secret.
#[derive(Debug, Clone, Default)]
pub struct S3Options {
    /// Access key id; it names an account and is no secret.
    pub access_key_id: Option<String>,
    /// Secret access key.
    pub secret_access_key: Option<SecretString>,
    /// Session token of temporary credentials.
    pub session_token: Option<SecretString>,
    /// Where the keys are kept: read when none are given above, and read again, once an operation, when the server
    /// refuses them, since somebody may have rotated them.
    pub keys_from: Option<KeySource>,
    /// Exchanges a token for temporary keys; used when there are no keys.
    pub identity: Option<S3Identity>,
    /// Region; `us-east-1` when absent, which most servers other than AWS take.
    pub region: Option<String>,
    /// `https://BUCKET.host/key` instead of `https://host/BUCKET/key`.
    pub virtual_host: bool,
}

/// Files that hold an S3 server's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A file each, as a mounted Kubernetes Secret has them.
    Files {
        /// Holds the access key id.
        access_key_id: PathBuf,
        /// Holds the secret access key.
        secret_access_key: PathBuf,
        /// Holds the session token; may be absent.
        session_token: PathBuf,
    },
    /// A profile of an AWS credentials file.
    Profile {
        /// The file, usually `~/.aws/credentials`.
        file: PathBuf,
        /// The section in it, usually `default`.
        profile: String,
    },
}

/// Ways to get temporary keys for S3 without storing any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum S3Identity {
    /// A projected service account token, exchanged by `AssumeRoleWithWebIdentity`.
    WebIdentity {
        /// Holds the token; read at each exchange.
        token_file: PathBuf,
        /// The role to take.
        role_arn: String,
        /// How the session is called in the provider's log.
        session_name: Option<String>,
        /// The exchange's address when it is not AWS's of the region; `https` only.
        sts_endpoint: Option<String>,
    },
    /// An agent on the node that hands out keys, such as EKS Pod Identity.
    Container {
        /// The agent's address.
        uri: String,
        /// Holds the token it asks for; read at each exchange.
        token_file: PathBuf,
    },
}

/// Credentials for Google Cloud Storage. Without any, the machine's own service account is asked for.
#[derive(Debug, Clone, Default)]
pub struct GcsOptions {
    /// A service account's key, or application default credentials, as JSON.
    pub credentials_file: Option<PathBuf>,
    /// An access token that somebody else renews.
    pub access_token: Option<SecretString>,
    /// `http(s)://host[:port]` of another server that speaks the same, such as an emulator; nothing is signed then
    /// unless credentials are given.
    pub endpoint: Option<String>,
}

/// Credentials for Azure Blob Storage. Without key, signature and client, the machine's managed identity is asked for.
#[derive(Debug, Clone, Default)]
pub struct AzureOptions {
    /// The storage account; it is part of the host's name.
    pub account: Option<String>,
    /// The account's key, base64.
    pub key: Option<SecretString>,
    /// A shared access signature.
    pub signature: Option<SecretString>,
    /// `core.windows.net` when absent.
    pub endpoint_suffix: Option<String>,
    /// A whole `http(s)://host[:port]/account` instead of account and suffix, for emulators and private clouds.
    pub endpoint: Option<String>,
    /// An application: with `tenant_id`, and with a secret or a file with a federated token.
    pub client_id: Option<String>,
    /// The directory the application belongs to.
    pub tenant_id: Option<String>,
    /// The application's secret.
    pub client_secret: Option<SecretString>,
    /// Holds a Kubernetes service account's token that Azure trusts.
    pub federated_token_file: Option<PathBuf>,
}

/// A login for a REST server, unless the location holds one.
#[derive(Debug, Clone, Default)]
pub struct RestOptions {
    /// Name for HTTP basic authentication.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<SecretString>,
}
