//! Runs a real REST server on a loopback port, for tests of the REST adapter.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The one user.
pub(crate) const USER: &str = "user";
/// The user's password.
pub(crate) const LOGIN: &str = "pass:word@";

/// A server; it ends when dropped.
pub(crate) struct Server {
    program: PathBuf,
    directory: tempfile::TempDir,
    port: u16,
    append_only: bool,
    child: Option<Child>,
}

impl Server {
    pub(crate) fn start(append_only: bool) -> Self {
        let program = std::env::var_os("HOLDFAST_REST_SERVER").expect(
            "set HOLDFAST_REST_SERVER to the path of a rest-server binary (`make test` does), or leave this test out",
        );
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("data")).unwrap();
        let digest =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, LOGIN.as_bytes());
        let line = format!("{USER}:{{SHA}}{}\n", data_encoding::BASE64.encode(digest.as_ref()));
        std::fs::write(directory.path().join("htpasswd"), line).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { program: program.into(), directory, port, append_only, child: None };
        server.resume();
        server
    }

    /// Starts it again after [`Server::stop`], on the same port.
    pub(crate) fn resume(&mut self) {
        let path = self.directory.path();
        let mut command = Command::new(&self.program);
        command
            .arg("--path")
            .arg(path.join("data"))
            .arg("--htpasswd-file")
            .arg(path.join("htpasswd"))
            .args(["--listen", &format!("127.0.0.1:{}", self.port)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if self.append_only {
            command.arg("--append-only");
        }
        self.child = Some(command.spawn().unwrap());
        for _ in 0..400 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("rest-server does not answer within 10 s");
    }

    /// Ends it; its data stays.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// `rest:http://…` for a path, without login.
    pub(crate) fn location(&self, path: &str) -> String {
        format!("rest:http://127.0.0.1:{}/{path}", self.port)
    }

    /// The same with the right login in it.
    pub(crate) fn with_login(&self, path: &str) -> String {
        format!("rest:http://{USER}:pass%3Aword%40@127.0.0.1:{}/{path}", self.port)
    }

    /// Where the server keeps a path's files.
    pub(crate) fn data(&self, path: &str) -> PathBuf {
        self.directory.path().join("data").join(path)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
