//! A container of Azure Blob Storage, played by Microsoft's emulator on this machine under the certificate of the bed's S3
//! server. Left out of a plain run, for the emulator needs Node; `make test` runs it where npm is there.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use holdfast_e2e::install::Bed;
use holdfast_e2e::kubectl::{Failure, Result, condition, phase, run};
use holdfast_e2e::story::Story;

use crate::together;

/// The account and key that every Azure emulator knows (Microsoft's documentation of Azurite).
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// A shared access signature for the account made with that key, good until the year 2099: for making the container. The
/// emulator does not take it for removing.
const ACCOUNT_SAS: &str = "sv=2018-11-09&ss=b&srt=sco&sp=rwdlac&se=2099-01-01T00%3A00%3A00Z\
    &sig=CPoOux8rQhR0b5pwICKRhVPCypVOv2XSgLfWcXpc32c%3D";
/// One for the container, as a careful administrator gives it.
const SAS: &str = "sv=2018-11-09&sr=c&sp=racwdl&se=2099-01-01T00%3A00%3A00Z\
    &sig=u5e%2F8vV4nKFHjyZ%2Ff%2B5WG8ogiXQh4agCPrtQq5ZS8Yo%3D";
/// Where it listens, beside the S3 server.
const PORT: u16 = 9020;

/// The emulator with the container `backups`; it ends when dropped.
struct Emulator {
    child: Child,
    directory: PathBuf,
    endpoint: String,
}

impl Emulator {
    fn start(bed: &Bed, name: &str) -> Result<Self> {
        let program = std::env::var_os("HOLDFAST_AZURITE")
            .ok_or_else(|| Failure("set HOLDFAST_AZURITE to the emulator's program".into()))?;
        let host = bed.s3_endpoint.trim_start_matches("https://").split(':').next().unwrap_or_default();
        let directory = std::env::temp_dir().join(format!("holdfast-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).map_err(|e| Failure(e.to_string()))?;
        let keys = bed.ca_path.parent().unwrap_or(Path::new(""));
        let child = Command::new(program)
            .args(["--silent", "--skipApiVersionCheck", "--blobHost", host, "--blobPort"])
            .arg(PORT.to_string())
            .arg("--location")
            .arg(&directory)
            .arg("--cert")
            .arg(keys.join("server.crt"))
            .arg("--key")
            .arg(keys.join("server.key"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| Failure(format!("cannot start the emulator: {e}")))?;
        let endpoint = format!("https://{host}:{PORT}/{ACCOUNT}");
        let emulator = Self { child, directory, endpoint };
        let container = format!("{}/backups?restype=container&{ACCOUNT_SAS}", emulator.endpoint);
        let mut curl = Command::new("curl");
        // It takes a while until it listens.
        curl.args(["-sS", "--fail-with-body", "-m", "60", "--retry", "30", "--retry-delay", "1"])
            .args(["--retry-connrefused", "--request", "PUT", "--header", "Content-Length: 0", "--cacert"])
            .arg(&bed.ca_path)
            .arg(container);
        run(&mut curl, b"")?;
        Ok(emulator)
    }

    /// The YAML of the storage `store` in the container, with a Secret of these keys.
    fn storage(&self, story: &Story, container: &str, keys: &str) -> String {
        let ca = story.bed.ca_pem.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n");
        format!(
            "apiVersion: v1
kind: Secret
metadata: {{name: store-azure}}
stringData: {{{keys}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: store-ca}}
data:
  ca.crt: |
{ca}
---
apiVersion: v1
kind: Secret
metadata: {{name: store-recovery}}
stringData: {{password: 'recovery of azure'}}
---
apiVersion: holdfast.dev/v1alpha1
kind: BackupStorage
metadata: {{name: store}}
spec:
  default: true
  backend:
    azure:
      account: {ACCOUNT}
      container: {container}
      prefix: prod
      endpoint: {}
      credentialsSecretRef: {{name: store-azure}}
      caBundleRef: {{kind: ConfigMap, name: store-ca}}
  recoveryPasswordSecretRef: {{name: store-recovery}}
",
            self.endpoint
        )
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        std::thread::sleep(Duration::from_millis(100));
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Waits until the storage is refused for this reason.
fn refused(story: &Story, reason: &str) -> Result<()> {
    story.until("backupstorage", "store", |o| {
        let (_, found, _) = condition(o, "Ready")?;
        (phase(o) == "Unavailable" && found == reason).then_some(())
    })
}

/// What is wrong with key or container is told by its name; then a volume is saved, lost and put back, with the
/// account's key and with a signature, and nothing of either shows in the cluster.
#[test]
#[ignore = "needs azurite-blob in HOLDFAST_AZURITE"]
fn a_volume_goes_to_azure_and_comes_back() {
    let Some(_world) = together() else { return };
    Story::tell("azure", Story::bare, |story| {
        let server = Emulator::start(story.bed, "azure")?;
        let own = story.namespace.clone();
        let key = format!("AZURE_ACCOUNT_KEY: '{KEY}'");
        story.allow_root()?;
        story.apply(&server.storage(story, "backups", "AZURE_ACCOUNT_KEY: 'not base64'"))?;
        refused(story, "SecretInvalid")?;
        story.apply(&server.storage(story, "backups", "AZURE_ACCOUNT_KEY: 'd3Jvbmc='"))?;
        refused(story, "InvalidCredentials")?;
        story.apply(&server.storage(story, "nowhere", &key))?;
        refused(story, "BucketNotFound")?;
        story.apply(&server.storage(story, "backups", &key))?;
        let ready = story.storage_ready("store")?;
        let location = ready["status"]["location"].as_str().unwrap_or_default();
        if !location.starts_with("azure:https://") || !location.ends_with("/backups:/prod") {
            return Err(Failure(format!("the storage does not say where it is: {location:?}")));
        }
        let rules = condition(&ready, "LifecycleRuleFound");
        if !rules.as_ref().is_some_and(|(status, _, said)| status == "Unknown" && !said.contains("s3:")) {
            return Err(Failure(format!("of the account's rules it says {rules:?}")));
        }

        let pod = story.app_with_a_file()?;
        let snapshot = Story::snapshot_of(&story.backup("first", "{}", "Succeeded")?)?;
        story.apply(&server.storage(story, "backups", &format!("AZURE_ACCOUNT_SAS: '{SAS}'")))?;
        // Applying other stringData keeps what was made of the old one.
        let patch = r#"[{"op": "remove", "path": "/data/AZURE_ACCOUNT_KEY"}]"#;
        story.kubectl.run(&["-n", &own, "patch", "secret", "store-azure", "--type=json", "-p", patch])?;
        story.storage_ready("store")?;
        story.the_file_comes_back(&pod, &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}}}"))?;
        let events = story.kubectl.run(&["-n", &own, "get", "events,jobs,backups,restores", "-o", "yaml"])?;
        if events.contains(KEY) || events.contains("sig=") {
            return Err(Failure("a key shows in the cluster's objects".into()));
        }
        story.nothing_left()
    });
}
