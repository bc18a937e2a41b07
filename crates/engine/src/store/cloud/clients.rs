//! A client library's client for each cloud, from our options.

use std::error::Error as StdError;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, Checksum, S3ConditionalPut};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::list::PaginatedListStore;
use object_store::{Certificate, ClientOptions, HeaderValue, ObjectStore, RetryConfig};
use secrecy::ExposeSecret as _;

use super::bucket::Bucket;
use super::keys::Keys;
use super::watched::Connector;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{AzureOptions, GcsOptions, Location, S3Identity, S3Options};

/// A client and what is particular about its cloud.
pub(super) struct Client {
    pub(super) store: Arc<dyn ObjectStore>,
    /// The same, for listings that may end early.
    pub(super) pages: Arc<dyn PaginatedListStore>,
    /// The same, for buckets that demand a checksum with what is written.
    pub(super) checked: Option<Checked>,
    pub(super) prefix: String,
    /// Keys that can be read again.
    pub(super) keys: Option<Arc<Keys>>,
    /// For S3's object lock.
    pub(super) bucket: Option<Bucket>,
    /// The server understands "the last n bytes".
    pub(super) suffix_ranges: bool,
}

/// A client whose writes carry a checksum. Buckets with a default retention demand one, and some servers that have none
/// take none: so it is made when a server asks for it, and used from then on.
#[derive(Debug)]
pub(super) struct Checked {
    builder: AmazonS3Builder,
    made: OnceLock<Arc<dyn ObjectStore>>,
}

impl Checked {
    fn new(builder: AmazonS3Builder) -> Self {
        Self { builder: builder.with_checksum_algorithm(Checksum::SHA256), made: OnceLock::new() }
    }

    /// The client, if a server has asked for it.
    pub(super) fn get(&self) -> Option<&Arc<dyn ObjectStore>> {
        self.made.get()
    }

    /// Makes the client, which `get` gives from now on.
    pub(super) fn make(&self) -> object_store::Result<()> {
        if self.made.get().is_none() {
            let made: Arc<dyn ObjectStore> = Arc::new(self.builder.clone().build()?);
            // Another write may have been quicker: one of the two is as good as the other.
            let _ = self.made.set(made);
        }
        Ok(())
    }
}

/// The client library tries nothing again: see `store::retry`.
fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

pub(super) fn connection(plain: bool, ca_pem: Option<&[u8]>) -> Result<ClientOptions> {
    let mut client = ClientOptions::new()
        .with_allow_http(plain)
        .with_user_agent(HeaderValue::from_static(concat!("holdfast/", env!("CARGO_PKG_VERSION"))))
        .with_connect_timeout(Duration::from_secs(15))
        // Deadlines depend on how much is sent; see `watched`.
        .with_timeout_disabled();
    if let Some(pem) = ca_pem {
        let certificates = Certificate::from_pem_bundle(pem).map_err(|e| bad_ca(e.into()))?;
        if certificates.is_empty() {
            return Err(bad_ca("it holds no certificate".into()));
        }
        for certificate in certificates {
            client = client.with_root_certificate(certificate);
        }
    }
    Ok(client)
}

pub(in crate::store) fn bad_ca(source: Box<dyn StdError + Send + Sync>) -> Error {
    Error::with_source(ErrorKind::Tls, "the CA certificates given are not readable as PEM", source)
}

fn not_made(location: &Location, error: object_store::Error) -> Error {
    Error::with_source(ErrorKind::Usage, format!("a client for {location} could not be made"), error)
}

/// A bucket, for what the client library has no call for.
pub(super) fn s3_bucket(
    location: &Location,
    place: (&str, &str),
    options: &S3Options,
    ca_pem: Option<&[u8]>,
) -> Result<Bucket> {
    s3_client(location, place, options, ca_pem).map(|made| made.bucket)
}

pub(super) fn s3(
    location: &Location,
    (endpoint, bucket, prefix): (&str, &str, &str),
    options: &S3Options,
    ca_pem: Option<&[u8]>,
) -> Result<Client> {
    let made = s3_client(location, (endpoint, bucket), options, ca_pem)?;
    let store = Arc::new(made.store);
    Ok(Client {
        pages: Arc::clone(&store) as _,
        store,
        checked: Some(made.checked),
        prefix: prefix.to_owned(),
        keys: made.keys,
        bucket: Some(made.bucket),
        suffix_ranges: true,
    })
}

/// A client of a bucket, and what goes with it.
struct S3 {
    store: AmazonS3,
    checked: Checked,
    keys: Option<Arc<Keys>>,
    bucket: Bucket,
}

fn s3_client(
    location: &Location,
    (endpoint, bucket): (&str, &str),
    options: &S3Options,
    ca_pem: Option<&[u8]>,
) -> Result<S3> {
    let keys = Keys::new(options)?.map(Arc::new);
    let endpoint = match endpoint.split_once("://") {
        Some((scheme, host)) if options.virtual_host => format!("{scheme}://{bucket}.{host}"),
        _ => endpoint.to_owned(),
    };
    let region = options.region.as_deref().unwrap_or("us-east-1");
    let connection = connection(endpoint.starts_with("http://"), ca_pem)?;
    let address = if options.virtual_host { endpoint.clone() } else { format!("{endpoint}/{bucket}") };
    let mut builder = AmazonS3Builder::new()
        .with_client_options(connection.clone())
        .with_endpoint(endpoint)
        .with_bucket_name(bucket)
        .with_region(region)
        .with_virtual_hosted_style_request(options.virtual_host)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_disable_bulk_delete(true)
        .with_http_connector(Connector)
        .with_retry(no_retries());
    match (&keys, &options.identity) {
        (Some(keys), _) => builder = builder.with_credentials(Arc::clone(keys) as _),
        (None, Some(S3Identity::WebIdentity { token_file, role_arn, session_name, sts_endpoint })) => {
            builder = builder
                .with_config(AmazonS3ConfigKey::WebIdentityTokenFile, token_file.to_string_lossy())
                .with_config(AmazonS3ConfigKey::RoleArn, role_arn);
            if let Some(name) = session_name {
                builder = builder.with_config(AmazonS3ConfigKey::RoleSessionName, name);
            }
            if let Some(sts) = sts_endpoint {
                builder = builder.with_config(AmazonS3ConfigKey::StsEndpoint, sts);
            }
        }
        (None, Some(S3Identity::Container { uri, token_file })) => {
            builder = builder.with_config(AmazonS3ConfigKey::ContainerCredentialsFullUri, uri).with_config(
                AmazonS3ConfigKey::ContainerAuthorizationTokenFile,
                token_file.to_string_lossy(),
            );
        }
        (None, None) => {
            return Err(Error::new(
                ErrorKind::Auth,
                format!(
                    "no access key and secret key were given for {location}; for a command line set AWS_ACCESS_KEY_ID \
                    and AWS_SECRET_ACCESS_KEY"
                ),
            ));
        }
    }
    let checked = Checked::new(builder.clone());
    let store = builder.build().map_err(|e| not_made(location, e))?;
    let requests = Bucket::new(connection, Arc::clone(store.credentials()), region, &address);
    Ok(S3 { store, checked, keys, bucket: requests })
}

pub(super) fn gcs(
    location: &Location,
    (bucket, prefix): (&str, &str),
    options: &GcsOptions,
    ca_pem: Option<&[u8]>,
) -> Result<Client> {
    let plain = options.endpoint.as_deref().is_some_and(|e| e.starts_with("http://"));
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(bucket)
        .with_client_options(connection(plain, ca_pem)?)
        .with_http_connector(Connector)
        .with_retry(no_retries());
    if let Some(token) = &options.access_token {
        builder = builder.with_bearer_token(token.expose_secret());
    } else if let Some(file) = &options.credentials_file {
        if !file.is_file() {
            return Err(Error::new(
                ErrorKind::Auth,
                format!("the Google credentials {} are not there", file.display()),
            ));
        }
        builder = builder.with_application_credentials(file.to_string_lossy());
    } else if options.endpoint.is_some() {
        builder = builder.with_skip_signature(true);
    }
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    let store = Arc::new(builder.build().map_err(|e| not_made(location, e))?);
    Ok(Client {
        pages: Arc::clone(&store) as _,
        store,
        prefix: prefix.to_owned(),
        keys: None,
        checked: None,
        bucket: None,
        suffix_ranges: true,
    })
}

pub(super) fn azure(
    location: &Location,
    (container, prefix): (&str, &str),
    options: &AzureOptions,
    ca_pem: Option<&[u8]>,
) -> Result<Client> {
    let account = options.account.as_deref().ok_or_else(|| {
        Error::new(
            ErrorKind::Auth,
            format!("no storage account was given for {location}; for a command line set AZURE_ACCOUNT_NAME"),
        )
    })?;
    let endpoint = options.endpoint.clone().unwrap_or_else(|| {
        let suffix = options.endpoint_suffix.as_deref().unwrap_or("core.windows.net");
        format!("https://{account}.blob.{suffix}")
    });
    let plain = endpoint.starts_with("http://");
    let mut builder = MicrosoftAzureBuilder::new()
        .with_account(account)
        .with_container_name(container)
        .with_endpoint(endpoint)
        .with_client_options(connection(plain, ca_pem)?)
        .with_http_connector(Connector)
        .with_retry(no_retries());
    if let Some(key) = &options.key {
        builder = builder.with_access_key(key.expose_secret());
    } else if let Some(signature) = &options.signature {
        builder = builder.with_config(AzureConfigKey::SasKey, signature.expose_secret());
    } else {
        for (key, value) in [
            (AzureConfigKey::ClientId, options.client_id.clone()),
            (AzureConfigKey::AuthorityId, options.tenant_id.clone()),
            (
                AzureConfigKey::ClientSecret,
                options.client_secret.as_ref().map(|s| s.expose_secret().to_owned()),
            ),
            (
                AzureConfigKey::FederatedTokenFile,
                options.federated_token_file.as_ref().map(|f| f.to_string_lossy().into_owned()),
            ),
        ] {
            if let Some(value) = value {
                builder = builder.with_config(key, value);
            }
        }
    }
    let store = Arc::new(builder.build().map_err(|e| not_made(location, e))?);
    // Azure's Get Blob knows no suffix ranges.
    Ok(Client {
        pages: Arc::clone(&store) as _,
        store,
        prefix: prefix.to_owned(),
        keys: None,
        checked: None,
        bucket: None,
        suffix_ranges: false,
    })
}
