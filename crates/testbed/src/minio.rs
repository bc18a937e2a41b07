//! A second S3 server, minio, for tests that want what the first one has not (temporary credentials by `AssumeRole` and
//! `AssumeRoleWithWebIdentity`) or another opinion. It is built and started by who asks for it, and ends with the bed.

use std::time::Duration;

use rustix::process::Signal;

use crate::cluster;
use crate::command::{command, log_error, output, output_with_input, wait_until};
use crate::error::{Error, Result};
use crate::layout::{self, Layout};
use crate::node::HOST;
use crate::process::{self, Daemon, Process};
use crate::progress::Progress;
use crate::s3::{S3_NAME, S3Env};

const PORT: u16 = 9001;
const ACCESS_KEY: &str = "testbed-minio";
pub(crate) const RECORD: &str = "minio";

/// Audience of the tokens of `ServiceAccounts` that the server takes.
pub const WEB_IDENTITY_AUDIENCE: &str = "minio.testbed";
/// The role that it gives for them. The last part is the SHA-1 of the audience, as minio makes it.
pub const WEB_IDENTITY_ROLE: &str = "arn:minio:iam:us-east-1::role/WbSnfnHQGYcrlo1-Omq6ZlSiFro";
/// Name of the policy that says what the role may do; there is none before somebody makes it.
const WEB_IDENTITY_POLICY: &str = "web-identity";

/// Lets the server read whom the cluster's tokens are of, as an administrator of such a cluster does: it has no identity
/// in it.
const ISSUER_IS_PUBLIC: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: testbed-issuer-is-public}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:service-account-issuer-discovery}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: system:unauthenticated}]
";

/// A handle on the bed's second S3 server.
#[derive(Debug, Clone)]
pub struct Minio {
    layout: Layout,
    first: S3Env,
    /// URL of the API server.
    server: String,
}

impl Minio {
    pub(crate) fn new(layout: Layout, first: &S3Env, server: &str) -> Self {
        Self { layout, first: first.clone(), server: server.to_owned() }
    }

    /// Endpoint, keys and authority. Not before the first start: keys are made then. Objects lie in `data_dir` in a
    /// format of the server's own.
    pub fn env(&self) -> Result<S3Env> {
        let dir = self.layout.minio();
        let secret_key = layout::read(&dir.join("secret-key")).map_err(|_| {
            Error::Unsupported("minio was not started in this bed yet: `testbed minio start`".into())
        })?;
        Ok(S3Env {
            endpoint: format!("https://{HOST}:{PORT}"),
            endpoint_by_name: format!("https://{S3_NAME}:{PORT}"),
            region: self.first.region.clone(),
            access_key: ACCESS_KEY.to_owned(),
            secret_key,
            ca_file: self.first.ca_file.clone(),
            data_dir: dir.join("data"),
        })
    }

    fn process(&self) -> Option<Process> {
        process::find(&self.layout, RECORD).filter(|p| p.is_alive())
    }

    /// Whether the server runs and answers.
    pub fn is_up(&self) -> bool {
        self.process().is_some() && self.answers()
    }

    fn answers(&self) -> bool {
        let url = format!("https://{HOST}:{PORT}/minio/health/live");
        output(command("curl", &["-sf", "-m", "2", "--cacert"]).arg(&self.first.ca_file).arg(url)).is_ok()
    }

    /// Builds the server if it is missing, starts it unless it runs, and waits until it answers.
    pub fn start(&self, progress: &Progress) -> Result<()> {
        crate::build_minio(&self.layout, progress)?;
        let _lock = self.layout.lock(RECORD, || {})?;
        let env = self.prepare()?;
        let issuer = format!("{}/.well-known/openid-configuration", self.server);
        let daemon = Daemon {
            layout: &self.layout,
            name: RECORD,
            node: None,
            environment: &[
                ("MINIO_ROOT_USER", &env.access_key),
                ("MINIO_ROOT_PASSWORD", &env.secret_key),
                ("MINIO_REGION", &env.region),
                ("MINIO_BROWSER", "off"),
                ("MINIO_IDENTITY_OPENID_CONFIG_URL", &issuer),
                ("MINIO_IDENTITY_OPENID_CLIENT_ID", WEB_IDENTITY_AUDIENCE),
                ("MINIO_IDENTITY_OPENID_ROLE_POLICY", WEB_IDENTITY_POLICY),
                // It would ask its makers for a newer one.
                ("MINIO_UPDATE", "off"),
                // It keeps settings in its user's home otherwise.
                ("HOME", &self.layout.minio().display().to_string()),
            ],
        };
        if self.process().is_none() {
            layout::remove(&self.layout.records().join(RECORD))?;
            // It does nothing at all before it has read them.
            output_with_input(
                cluster::kubectl(&self.layout).args(["apply", "-f", "-"]),
                ISSUER_IS_PUBLIC.as_bytes(),
            )?;
            let arguments = [
                "server".to_owned(),
                "--quiet".to_owned(),
                format!("--address={HOST}:{PORT}"),
                format!("--certs-dir={}", self.layout.minio().join("certs").display()),
                env.data_dir.display().to_string(),
            ];
            daemon.start(self.layout.bin().join("minio"), &arguments)?;
        }
        let answers = || Ok(self.answers());
        match wait_until("an answer of minio", Duration::from_mins(1), "", answers) {
            Err(Error::Timeout { .. }) => {
                Err(log_error("starting minio", "no answer after 60 s", &daemon.log()))
            }
            other => other,
        }
    }

    /// Makes its directories, and its key unless there is one.
    fn prepare(&self) -> Result<S3Env> {
        let dir = self.layout.minio();
        layout::make_dir(&dir.join("data"))?;
        // The first server's certificate is for the machine's address and name, and so for this one.
        for (from, to) in [("server.crt", "public.crt"), ("server.key", "private.key")] {
            let text = layout::read(&self.layout.s3().join(from))?;
            layout::write_with_mode(&dir.join("certs").join(to), text, 0o600)?;
        }
        // The API server, which it asks for the keys of tokens, has another authority.
        let cluster = layout::read(&self.layout.pki().join("ca.crt"))?;
        layout::write(&dir.join("certs/CAs/cluster.crt"), cluster)?;
        let key = dir.join("secret-key");
        if !key.exists() {
            let secret = output(&mut command("openssl", &["rand", "-hex", "20"]))?;
            layout::write_with_mode(&key, secret, 0o600)?;
        }
        self.env()
    }

    /// Kills the server, as a crash would; data stays.
    pub fn stop(&self) -> Result<()> {
        let _lock = self.layout.lock(RECORD, || {})?;
        if let Some(process) = self.process() {
            process.signal(Signal::KILL);
            let dead = || Ok(!process.is_alive());
            wait_until("the end of minio", Duration::from_secs(10), "see `ps`", dead)?;
        }
        layout::remove(&self.layout.records().join(RECORD))
    }

    /// Makes a bucket; one that is there already is fine. Names have 3 characters or more.
    pub fn create_bucket(&self, name: &str) -> Result<()> {
        match self.env()?.request("PUT", name, &[]) {
            Err(Error::Command { output, .. }) if output.contains("409") => Ok(()),
            other => other.map(drop),
        }
    }

    /// Makes an account that may do what the policy says (JSON, as in AWS), or gives one that is there this secret and this
    /// policy instead of its own. The key has 3 characters or more, the secret 8 to 40.
    pub fn create_user(&self, access_key: &str, secret_key: &str, policy: &str) -> Result<()> {
        let env = self.env()?;
        let mut admin = command(self.layout.bin().join("minio-admin"), &[format!("{HOST}:{PORT}")]);
        admin.arg(access_key).env("SSL_CERT_FILE", &env.ca_file).env("NEW_SECRET_KEY", secret_key);
        admin.env("MINIO_ROOT_USER", &env.access_key).env("MINIO_ROOT_PASSWORD", &env.secret_key);
        match output_with_input(&mut admin, policy.as_bytes()) {
            // The last step: it is the account's policy already, and says something else now.
            Err(Error::Command { output, .. }) if output.contains("change is already in effect") => Ok(()),
            other => other.map(drop),
        }
    }

    /// Says what whoever comes with a token of the cluster may do ([`WEB_IDENTITY_ROLE`]; JSON, as in AWS). The server
    /// takes every token for its audience, so a policy has to name whose it must be: the condition `jwt:sub`.
    pub fn set_web_identity_policy(&self, policy: &str) -> Result<()> {
        // An account has a policy of its name; that there is an account as well does no harm.
        let secret = output(&mut command("openssl", &["rand", "-hex", "20"]))?;
        self.create_user(WEB_IDENTITY_POLICY, &secret, policy)
    }
}
