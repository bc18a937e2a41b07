//! The S3 server of the bed: a process on the machine, with TLS and an authority of its own, that tests stop and
//! start; and a small client for preparing and inspecting buckets.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::command::{command, log_error, output, output_with_input, wait_until};
use crate::error::{Error, Result};
use crate::layout::{self, Layout};
use crate::node::HOST;
use crate::pki;
use crate::process::{self, Daemon, Process};

const PORT: u16 = 9000;
const REGION: &str = "us-east-1";
/// The server's name inside the cluster. [`NAMED_BUCKET`] may stand before it.
pub(crate) const S3_NAME: &str = "s3.testbed";
/// The one bucket that has a name of its own inside the cluster, `by-host.s3.testbed`: for tests of virtual-host style.
pub const NAMED_BUCKET: &str = "by-host";
const ACCESS_KEY: &str = "testbed-root";
pub(crate) const RECORD: &str = "s3";

/// How to reach the S3 server, from the machine and from pods alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct S3Env {
    /// `https://…`, path style.
    pub endpoint: String,
    /// The same by name; pods only.
    pub endpoint_by_name: String,
    /// The region it signs for.
    pub region: String,
    /// The owner of everything.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// The authority that signed the server's certificate, PEM.
    pub ca_file: PathBuf,
    /// Objects as files: `<data_dir>/<bucket>/<key>`.
    pub data_dir: PathBuf,
}

/// A handle on the bed's S3 server.
#[derive(Debug, Clone)]
pub struct S3 {
    layout: Layout,
    env: S3Env,
}

/// Makes certificates and credentials, before the first start.
pub(crate) fn prepare(layout: &Layout) -> Result<S3Env> {
    let dir = layout.s3();
    for part in ["data", "versions", "accounts"] {
        layout::make_dir(&dir.join(part))?;
    }
    pki::authority(&dir, "testbed S3 authority")?;
    let names = [
        format!("IP:{HOST}"),
        format!("DNS:{S3_NAME}"),
        // Buckets that stand before its name.
        format!("DNS:*.{S3_NAME}"),
        "DNS:localhost".to_owned(),
    ];
    pki::leaf(&dir, "server", &[("CN", S3_NAME)], &names)?;
    Ok(S3Env {
        endpoint: format!("https://{HOST}:{PORT}"),
        endpoint_by_name: format!("https://{S3_NAME}:{PORT}"),
        region: REGION.to_owned(),
        access_key: ACCESS_KEY.to_owned(),
        secret_key: output(&mut command("openssl", &["rand", "-hex", "20"]))?,
        ca_file: dir.join("ca.crt"),
        data_dir: dir.join("data"),
    })
}

impl S3 {
    pub(crate) fn new(layout: Layout, env: S3Env) -> Self {
        Self { layout, env }
    }

    /// Endpoint, keys and paths.
    pub fn env(&self) -> &S3Env {
        &self.env
    }

    fn process(&self) -> Option<Process> {
        process::find(&self.layout, RECORD).filter(|p| p.is_alive())
    }

    /// Whether the server runs and answers.
    pub fn is_up(&self) -> bool {
        self.process().is_some() && self.answers()
    }

    fn answers(&self) -> bool {
        let url = format!("{}/healthz", self.env.endpoint);
        output(command("curl", &["-sf", "-m", "2", "--cacert"]).arg(&self.env.ca_file).arg(url)).is_ok()
    }

    /// Starts the server unless it runs, and waits until it answers.
    pub fn start(&self) -> Result<()> {
        let _lock = self.layout.lock("s3", || {})?;
        let daemon = Daemon {
            layout: &self.layout,
            name: RECORD,
            node: None,
            environment: &[
                ("ROOT_ACCESS_KEY", &self.env.access_key),
                ("ROOT_SECRET_KEY", &self.env.secret_key),
            ],
        };
        if self.process().is_none() {
            layout::remove(&self.layout.records().join(RECORD))?;
            let dir = self.layout.s3();
            let path = |name: &str| dir.join(name).display().to_string();
            let arguments = [
                "--port".to_owned(),
                format!("{HOST}:{PORT}"),
                "--cert".to_owned(),
                path("server.crt"),
                "--key".to_owned(),
                path("server.key"),
                "--region".to_owned(),
                self.env.region.clone(),
                "--iam-dir".to_owned(),
                path("accounts"),
                "--health".to_owned(),
                "/healthz".to_owned(),
                "--quiet".to_owned(),
                // Closes each connection after one answer otherwise, which no real server does.
                "--keep-alive".to_owned(),
                "--virtual-domain".to_owned(),
                S3_NAME.to_owned(),
                "posix".to_owned(),
                "--versioning-dir".to_owned(),
                path("versions"),
                path("data"),
            ];
            daemon.start(self.layout.bin().join("versitygw"), &arguments)?;
        }
        let answers = || Ok(self.answers());
        match wait_until("an answer of the S3 server", Duration::from_mins(1), "", answers) {
            Err(Error::Timeout { .. }) => {
                Err(log_error("starting the S3 server", "no answer after 60 s", &daemon.log()))
            }
            other => other,
        }
    }

    /// Kills the server, as a crash would; data stays.
    pub fn stop(&self) -> Result<()> {
        let _lock = self.layout.lock("s3", || {})?;
        if let Some(process) = self.process() {
            process.signal(Signal::KILL);
            let dead = || Ok(!process.is_alive());
            wait_until("the end of the S3 server", Duration::from_secs(10), "see `ps`", dead)?;
        }
        layout::remove(&self.layout.records().join(RECORD))
    }

    /// Makes a bucket; one that is there already is fine. Names have 3 characters or more.
    pub fn create_bucket(&self, name: &str) -> Result<()> {
        match self.env.request("PUT", name, &[]) {
            Err(Error::Command { output, .. })
                if output.contains("409") && self.bucket_path(name).is_dir() =>
            {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// Stores a file's content as an object.
    pub fn put_object(&self, bucket: &str, key: &str, file: &Path) -> Result<()> {
        self.env.request("PUT", &format!("{bucket}/{key}"), &[Path::new("--upload-file"), file]).map(drop)
    }

    /// Writes an object's content to a file.
    pub fn get_object(&self, bucket: &str, key: &str, file: &Path) -> Result<()> {
        self.env.request("GET", &format!("{bucket}/{key}"), &[Path::new("--output"), file]).map(drop)
    }

    /// Removes an object; none is fine.
    pub fn delete_object(&self, bucket: &str, key: &str) -> Result<()> {
        self.env.request("DELETE", &format!("{bucket}/{key}"), &[]).map(drop)
    }

    /// Keys of a bucket that start with the prefix, sorted; read from the server's disk.
    pub fn list_objects(&self, bucket: &str, prefix: &str) -> Result<Vec<String>> {
        let root = self.bucket_path(bucket);
        let mut keys = Vec::new();
        collect(&root, &root, &mut keys)?;
        keys.retain(|k| k.starts_with(prefix));
        keys.sort();
        Ok(keys)
    }

    /// Where a bucket's objects are as files.
    pub fn bucket_path(&self, bucket: &str) -> PathBuf {
        self.env.data_dir.join(bucket)
    }

    /// Makes an account that owns no bucket: it may sign in and is refused everything else.
    pub fn create_user(&self, access_key: &str, secret_key: &str) -> Result<()> {
        let mut admin = command(self.layout.bin().join("versitygw"), &["admin", "--endpoint-url"]);
        admin.arg(&self.env.endpoint).args(["create-user", "--role", "user", "--access", access_key]);
        admin.args(["--secret", secret_key]).env("SSL_CERT_FILE", &self.env.ca_file);
        admin.env("ADMIN_ACCESS_KEY", &self.env.access_key).env("ADMIN_SECRET_KEY", &self.env.secret_key);
        output(&mut admin).map(drop)
    }

    /// Settings by which `restic` and the AWS tools reach the server: the variables of a child process.
    pub fn apply_to<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("AWS_ACCESS_KEY_ID", &self.env.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &self.env.secret_key)
            .env("AWS_DEFAULT_REGION", &self.env.region)
            .env("AWS_REGION", &self.env.region)
            .env("RESTIC_CACERT", &self.env.ca_file)
    }
}

/// How requests to some S3 server are signed and trusted.
#[derive(Debug, Clone, Copy)]
pub struct Signer<'a> {
    /// URL of the server, without a `/` at its end.
    pub endpoint: &'a str,
    /// Region that it signs for.
    pub region: &'a str,
    /// The key.
    pub access_key: &'a str,
    /// Its secret.
    pub secret_key: &'a str,
    /// An authority to trust besides the well-known ones.
    pub ca_file: Option<&'a Path>,
}

impl Signer<'_> {
    /// A signed request for `path`, which is [encoded](encode) and may have a query; what was answered. `more` are
    /// arguments of `curl`.
    pub fn request(&self, method: &str, path: &str, more: &[&Path]) -> Result<String> {
        let Self { endpoint, region, access_key, secret_key, ca_file } = self;
        // Keys go in by stdin: a command line can be read by every user of the machine.
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let config = format!("user = \"{}:{}\"\n", quoted(access_key), quoted(secret_key));
        let mut curl = command(
            "curl",
            &["--config", "-", "-sS", "--fail-with-body", "-m", "60", "--retry", "3", "--request", method],
        );
        curl.arg("--aws-sigv4").arg(format!("aws:amz:{region}:s3"));
        curl.args(["--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]);
        if let Some(ca) = ca_file {
            curl.arg("--cacert").arg(ca);
        }
        curl.args(more).arg(format!("{endpoint}/{path}"));
        output_with_input(&mut curl, config.as_bytes())
    }
}

impl S3Env {
    /// A signed request to the server; what it answered.
    pub(crate) fn request(&self, method: &str, path: &str, more: &[&Path]) -> Result<String> {
        let S3Env { endpoint, region, access_key, secret_key, ca_file, .. } = self;
        let signer = Signer { endpoint, region, access_key, secret_key, ca_file: Some(ca_file) };
        signer.request(method, &encode(path), more)
    }
}

/// Percent-encodes a key as `SigV4` wants it, but for the slashes.
pub fn encode(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    path.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn collect(root: &Path, dir: &Path, keys: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::file("list", dir))? {
        let entry = entry.map_err(Error::file("list", dir))?;
        let path = entry.path();
        // Parts of uploads that are not complete.
        if entry.file_name() == ".sgwtmp" {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, keys)?;
        } else if let Ok(key) = path.strip_prefix(root) {
            keys.push(key.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_encoded_as_the_signature_wants_them() {
        assert_eq!(encode("bucket/a b+ü/~x.y"), "bucket/a%20b%2B%C3%BC/~x.y");
    }
}
