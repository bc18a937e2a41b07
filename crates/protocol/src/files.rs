//! Names of the files in the Secret of a run, as the runner finds them in its spec directory.

/// The [`RunSpec`](crate::RunSpec).
pub const SPEC: &str = "spec.json";
/// Password of the repository.
pub const PASSWORD: &str = "password";
/// The storage's recovery password, the second key of every repository. Never in a tenant's namespace.
pub const RECOVERY_PASSWORD: &str = "recovery-password";
/// S3 access key id.
pub const ACCESS_KEY_ID: &str = "access-key-id";
/// S3 secret access key.
pub const SECRET_ACCESS_KEY: &str = "secret-access-key";
/// S3 session token, where the credentials are temporary.
pub const SESSION_TOKEN: &str = "session-token";
/// Key of a Google service account, as JSON.
pub const GOOGLE_SERVICE_ACCOUNT: &str = "google-service-account.json";
/// Key of an Azure storage account.
pub const AZURE_ACCOUNT_KEY: &str = "azure-account-key";
/// Shared access signature for an Azure storage account.
pub const AZURE_ACCOUNT_SAS: &str = "azure-account-sas";
/// Id of an application in Azure.
pub const AZURE_CLIENT_ID: &str = "azure-client-id";
/// Directory that the application belongs to.
pub const AZURE_TENANT_ID: &str = "azure-tenant-id";
/// The application's secret.
pub const AZURE_CLIENT_SECRET: &str = "azure-client-secret";
/// Certificates (PEM) that the store's certificate is checked against, beside the system's.
pub const CA: &str = "ca.crt";

/// Where the Secret is mounted in the runner's container.
pub const DIRECTORY: &str = "/holdfast/run";
/// Where the checkpoint of an earlier runner of the same component is mounted, when there is one.
pub const CHECKPOINT_DIRECTORY: &str = "/holdfast/checkpoint";
/// The [`Checkpoint`](crate::event::Checkpoint) in it, as JSON.
pub const CHECKPOINT: &str = "checkpoint.json";
/// Below which claims are mounted, each under its own name (`/data/<claim>`).
pub const DATA: &str = "/data";
/// Environment variable with the uid of the Job that the runner belongs to (downward API).
pub const JOB_UID_VARIABLE: &str = "HOLDFAST_JOB_UID";
/// Environment variable with the name of the runner's pod (downward API).
pub const POD_NAME_VARIABLE: &str = "HOLDFAST_POD_NAME";
/// Where the runner writes its verdict (the container's `terminationMessagePath`).
pub const TERMINATION_MESSAGE: &str = "/dev/termination-log";
