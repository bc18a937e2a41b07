//! Runs a real S3 server with TLS on a loopback port, for tests of the S3 adapter.
#![allow(dead_code, reason = "each test file uses its part of it")]

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use holdfast_engine::Ctx;
use holdfast_engine::store::{self, RetryPolicy, S3Options, Store, StoreOptions};

/// Access key of the server's owner.
pub(crate) const ACCESS: &str = "root-access";
/// Its secret key.
pub(crate) const SECRET: &str = "root-secret";

/// A server; it ends when dropped.
pub(crate) struct Server {
    program: PathBuf,
    directory: tempfile::TempDir,
    /// Where older versions of objects go; buckets have none without.
    versions: Option<PathBuf>,
    port: u16,
    child: Option<Child>,
}

/// A store of a server that another process may have started, as its owner.
pub(crate) fn store_at(location: &str, ca: &Path) -> Arc<dyn Store> {
    let options = StoreOptions {
        s3: S3Options {
            access_key_id: Some(ACCESS.to_owned()),
            secret_access_key: Some(SECRET.to_owned().into()),
            ..S3Options::default()
        },
        ca_pem: Some(std::fs::read(ca).unwrap()),
        retry: RetryPolicy { deadline: Duration::from_secs(20), ..RetryPolicy::default() },
        ..StoreOptions::default()
    };
    store::open(&location.parse().unwrap(), &options, &Ctx::default()).unwrap()
}

fn openssl(directory: &Path, arguments: &[&str]) {
    let output = Command::new("openssl")
        .args(arguments)
        .current_dir(directory)
        .output()
        .expect("openssl makes the test's certificates; install it");
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Server {
    /// Starts the program that `HOLDFAST_VERSITYGW` points to, with these buckets.
    pub(crate) fn start(buckets: &[&str]) -> Self {
        Self::start_as(buckets, false)
    }

    /// One whose buckets with object lock keep versions, as those of the clouds do.
    pub(crate) fn start_with_versions(buckets: &[&str]) -> Self {
        Self::start_as(buckets, true)
    }

    fn start_as(buckets: &[&str], versions: bool) -> Self {
        let program = std::env::var_os("HOLDFAST_VERSITYGW")
            .expect("set HOLDFAST_VERSITYGW to the path of a versitygw binary (`make test` does), or leave this test out");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for name in ["data", "meta", "iam", "other", "versions"] {
            std::fs::create_dir(path.join(name)).unwrap();
        }
        for bucket in buckets {
            std::fs::create_dir(path.join("data").join(bucket)).unwrap();
        }
        for name in ["ca", "other/ca"] {
            let (key, cert) = (format!("{name}.key"), format!("{name}.crt"));
            openssl(
                path,
                &[
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                    "-nodes",
                    "-days",
                    "2",
                    "-subj",
                    "/CN=test CA",
                    "-keyout",
                    &key,
                    "-out",
                    &cert,
                ],
            );
        }
        openssl(
            path,
            &[
                "req",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-subj",
                "/CN=s3",
                "-keyout",
                "s3.key",
                "-out",
                "s3.csr",
            ],
        );
        std::fs::write(path.join("s3.ext"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
            .unwrap();
        openssl(
            path,
            &[
                "x509",
                "-req",
                "-in",
                "s3.csr",
                "-CA",
                "ca.crt",
                "-CAkey",
                "ca.key",
                "-CAcreateserial",
                "-days",
                "2",
                "-extfile",
                "s3.ext",
                "-out",
                "s3.crt",
            ],
        );
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let versions = versions.then(|| path.join("versions"));
        let mut server = Self { program: program.into(), directory, versions, port, child: None };
        server.resume();
        server
    }

    /// Starts it again after [`Server::stop`], on the same port.
    pub(crate) fn resume(&mut self) {
        let path = self.directory.path();
        let versions =
            self.versions.iter().flat_map(|dir| ["--versioning-dir".into(), dir.clone().into_os_string()]);
        let child = Command::new(&self.program)
            .args([
                "--quiet",
                "--keep-alive",
                "--access",
                ACCESS,
                "--secret",
                SECRET,
                "--port",
                &format!("127.0.0.1:{}", self.port),
            ])
            .arg("--cert")
            .arg(path.join("s3.crt"))
            .arg("--key")
            .arg(path.join("s3.key"))
            .arg("--iam-dir")
            .arg(path.join("iam"))
            .arg("posix")
            .arg("--sidecar")
            .arg(path.join("meta"))
            .args(versions)
            .arg(path.join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        for _ in 0..400 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("versitygw does not answer within 10 s");
    }

    /// Ends it; its data stays.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// `s3:https://…` for a bucket and prefix.
    pub(crate) fn location(&self, path: &str) -> String {
        format!("s3:https://127.0.0.1:{}/{path}", self.port)
    }

    /// A store there, as the server's owner.
    pub(crate) fn store(&self, path: &str) -> Arc<dyn Store> {
        store_at(&self.location(path), &self.ca())
    }

    /// The CA that signed the server's certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.crt")
    }

    /// A CA that did not.
    pub(crate) fn other_ca(&self) -> PathBuf {
        self.directory.path().join("other/ca.crt")
    }

    /// Where a bucket's objects lie on disk.
    pub(crate) fn bucket(&self, name: &str) -> PathBuf {
        self.directory.path().join("data").join(name)
    }

    /// Makes an account that owns nothing.
    pub(crate) fn add_user(&self, access: &str, secret: &str) {
        self.admin(&["create-user", "--access", access, "--secret", secret, "--role", "user"]);
    }

    /// Makes a bucket with object lock.
    pub(crate) fn add_locked_bucket(&self, name: &str) {
        let wanted =
            ["create-bucket", "--owner", ACCESS, "--bucket", name, "--object-lock-enabled-for-bucket"];
        self.admin(&wanted);
    }

    fn admin(&self, arguments: &[&str]) {
        let output = Command::new(&self.program)
            .args(["admin", "--allow-insecure", "--access", ACCESS, "--secret", SECRET])
            .args(["--endpoint-url", &format!("https://127.0.0.1:{}", self.port)])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The server's address, without a path.
    pub(crate) fn address(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
