//! `holdfast run` on Azure Blob Storage, tried on Microsoft's emulator: what the operator writes for such a storage is
//! enough, refusals are told by their names, and no key shows. Left out of a plain `cargo test`, for the emulator needs
//! Node; `make test` runs it where npm is there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, which clippy does not know for such"
)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

/// The account and key that every Azure emulator knows (Microsoft's documentation of Azurite).
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// A shared access signature for the account made with that key, good until the year 2099: for making the container. The
/// emulator does not take it for removing.
const ACCOUNT_SAS: &str = "sv=2018-11-09&ss=b&srt=sco&sp=rwdlac&se=2099-01-01T00%3A00%3A00Z\
    &sig=CPoOux8rQhR0b5pwICKRhVPCypVOv2XSgLfWcXpc32c%3D";
/// One for the container, as a careful administrator gives it.
const SAS: &str = "sv=2018-11-09&sr=c&sp=racwdl&se=2099-01-01T00%3A00%3A00Z\
    &sig=llXkdpeM73nvwvY4FUnpmnKo6kkWQO0%2FHRc3SpspLVU%3D";

/// An emulator with the container `box`; it ends when dropped.
struct Emulator {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Emulator {
    fn start() -> Self {
        let program = std::env::var_os("HOLDFAST_AZURITE")
            .expect("set HOLDFAST_AZURITE to the emulator's program, or leave this test out");
        let directory = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(program)
            .args(["--blobHost", "127.0.0.1", "--silent", "--skipApiVersionCheck", "--blobPort"])
            .arg(port.to_string())
            .arg("--location")
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let emulator = Self { child, port, _directory: directory };
        let answers = (0..1200).any(|_| {
            std::thread::sleep(Duration::from_millis(25));
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        assert!(answers, "the emulator does not answer within 30 s");
        emulator.make_container();
        emulator
    }

    fn make_container(&self) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(
            stream,
            "PUT /{ACCOUNT}/box?restype=container&{ACCOUNT_SAS} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n",
            self.port
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }

    /// Runs a task on a container with these files of the run's Secret. Returns the verdict and all that was printed.
    fn run(&self, container: &str, task: &Value, keys: &[(&str, &str)]) -> (Value, String) {
        let directory = tempfile::tempdir().unwrap();
        let mut spec = json!({
            "version": 1,
            "run": {"kind": "Repository", "namespace": "shop", "name": "main", "uid": "u", "cluster": "c", "clusterUid": "k"},
            "storage": {"azure": {
                "account": ACCOUNT,
                "container": container,
                "prefix": "prod",
                "endpoint": format!("http://127.0.0.1:{}/{ACCOUNT}", self.port),
            }},
            "task": task,
        });
        if task["type"] != "probe" {
            spec["directory"] = json!("c/shop/main-x");
        }
        let spec = spec.to_string();
        let password = "0123456789abcdef0123456789abcdef0123456789abcdef";
        for (name, text) in [("spec.json", spec.as_str()), ("password", password)].iter().chain(keys) {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(["run", "--directory"])
            .arg(directory.path())
            .arg("--termination-message")
            .arg(directory.path().join("verdict"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let verdict = fs::read_to_string(directory.path().join("verdict")).unwrap();
        let said = [verdict.as_bytes(), &output.stdout, &output.stderr].map(String::from_utf8_lossy).concat();
        (serde_json::from_str(&verdict).unwrap(), said)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs azurite-blob in HOLDFAST_AZURITE"]
fn a_runner_works_on_azure_with_a_key_and_with_a_signature() {
    let server = Emulator::start();
    let probe = json!({"type": "probe", "scanLimit": 50});
    let key = [("azure-account-key", KEY)];
    let signature = [("azure-account-sas", SAS)];

    let (verdict, said) = server.run("box", &probe, &key);
    assert_eq!(verdict["outcome"], "Succeeded", "{said}");
    let record = json!({"version": 1, "cluster": "c", "clusterUid": "k", "namespace": "shop", "name": "main",
        "created": "2026-11-20T02:00:00Z"});
    let initialize = json!({"type": "initialize", "record": record, "mustExist": false});
    let (verdict, said) = server.run("box", &initialize, &signature);
    assert_eq!(verdict["outcome"], "Succeeded", "{said}");
    let (verdict, said) = server.run("box", &json!({"type": "sync"}), &key);
    assert_eq!(verdict["outcome"], "Succeeded", "{said}");
    let (verdict, said) = server.run("box", &probe, &signature);
    assert_eq!(verdict["outcome"], "Succeeded", "{said}");
    assert!(said.contains("c/shop/main-x"), "the repository is found again: {said}");

    let (verdict, said) = server.run("nowhere", &probe, &key);
    assert_eq!(verdict["reason"], "BucketNotFound", "{said}");
    let (verdict, said) = server.run("box", &probe, &[("azure-account-key", "d3Jvbmc=")]);
    assert!(verdict["reason"] == "Auth" && verdict["retryable"] != true, "{said}");
    assert!(!said.contains("d3Jvbmc"), "{said}");
    let wrong = SAS.replace("llXkdpeM", "WRONGWRO");
    let (verdict, said) = server.run("box", &probe, &[("azure-account-sas", &wrong)]);
    assert!(verdict["reason"] == "Auth" && verdict["retryable"] == true, "{said}");
    assert!(!said.contains("WRONGWRO") && !said.contains("sig="), "{said}");
    let (verdict, said) = server.run("box", &probe, &[]);
    assert_eq!(verdict["reason"], "BadSpec", "the identity of the machine is not asked for: {said}");
}
