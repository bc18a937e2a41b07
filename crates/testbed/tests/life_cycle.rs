//! The test bed itself, on the machine: up, crashes of its parts and of its own commands, down, nothing left.
//! Ignored unless asked for, because they take the machine's one bed up and down; `make test` asks.

// Clippy's exception for tests does not cover the functions that tests share.
#![expect(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use holdfast_testbed::{Health, Layout, Progress, Testbed, down, health, verify};

/// Pods with every kind of device that a node can leave behind: an ext4 image and a raw block volume.
const DEVICES: &str = r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: small}
spec: {storageClassName: csi-small, accessModes: [ReadWriteOnce], resources: {requests: {storage: 32Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: raw}
spec: {storageClassName: csi-disk, volumeMode: Block, accessModes: [ReadWriteOnce], resources: {requests: {storage: 32Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: devices}
spec:
  containers:
  - name: main
    image: testbed.local/tools:1
    command: [sleep, "1000"]
    volumeMounts: [{name: small, mountPath: /small}]
    volumeDevices: [{name: raw, devicePath: /dev/xvda}]
  volumes:
  - {name: small, persistentVolumeClaim: {claimName: small}}
  - {name: raw, persistentVolumeClaim: {claimName: raw}}
"#;

fn layout() -> Layout {
    Layout::from_env().unwrap()
}

/// A bed that somebody works with is not ours to take down.
fn none_is_up() {
    assert_eq!(health(&layout()).unwrap(), Health::Down, "a test bed is up; take it down first");
}

fn down_and_clean() {
    down(&layout(), &Progress::new()).unwrap();
    verify(&layout()).unwrap();
    assert_eq!(health(&layout()).unwrap(), Health::Down);
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn start_devices(bed: &Testbed) {
    let file = std::env::temp_dir().join(format!("testbed-devices-{}.yaml", std::process::id()));
    std::fs::write(&file, DEVICES).unwrap();
    run(bed.kubectl().args(["apply", "-f"]).arg(&file));
    std::fs::remove_file(&file).unwrap();
    run(bed.kubectl().args(["wait", "--for=condition=Ready", "pod/devices", "--timeout=120s"]));
}

fn kill(pid: i32) {
    run(Command::new("kill").args(["-9", &pid.to_string()]));
}

#[test]
#[ignore = "takes the machine's test bed up and down; make test runs it"]
fn a_bed_works_survives_the_loss_of_its_parts_and_leaves_nothing() {
    none_is_up();
    let bed = Testbed::ensure_up(&Progress::new()).unwrap();
    start_devices(&bed);

    // A volume of that class is really as small as its claim.
    let write_too_much = ["exec", "devices", "--", "dd", "if=/dev/zero", "of=/small/x", "bs=1M", "count=64"];
    let full = bed.kubectl().args(write_too_much).output().unwrap();
    assert!(String::from_utf8_lossy(&full.stderr).contains("No space left on device"), "{full:?}");

    // A second `up` finds it well and changes nothing.
    let before = bed.env().clone();
    assert_eq!(Testbed::ensure_up(&Progress::new()).unwrap().env(), &before);

    for name in ["n1-kubelet", "n2-containerd", "n1-csi-hostpath"] {
        kill(bed.daemon_pid(name).unwrap());
    }
    // nsenter ends a moment after what it entered for.
    let begun = Instant::now();
    while health(&layout()).unwrap() == Health::Up && begun.elapsed() < Duration::from_secs(10) {
        sleep(Duration::from_millis(100));
    }
    assert!(matches!(health(&layout()).unwrap(), Health::Broken(_)));

    // `up` mends it by a new bed, of which nothing of the old one is a part.
    let bed = Testbed::ensure_up(&Progress::new()).unwrap();
    assert_ne!(bed.env().nodes, before.nodes);
    start_devices(&bed);

    // The node dies under its pods, with both devices in use.
    for node in &bed.env().nodes {
        kill(node.init_pid);
    }
    down_and_clean();
}

#[test]
#[ignore = "takes the machine's test bed up and down; make test runs it"]
fn an_up_that_is_killed_at_any_moment_can_be_taken_down() {
    none_is_up();
    for milliseconds in [150, 600, 1500, 3000, 6000, 9000] {
        let mut up = Command::new(env!("CARGO_BIN_EXE_testbed"))
            .arg("up")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        sleep(Duration::from_millis(milliseconds));
        up.kill().unwrap();
        up.wait().unwrap();
        down_and_clean();
    }
}

#[test]
#[ignore = "takes the machine's test bed up and down; make test runs it"]
fn the_s3_server_keeps_its_objects_over_a_crash_and_refuses_strangers() {
    none_is_up();
    let bed = Testbed::ensure_up(&Progress::new()).unwrap();
    let (s3, dir) = (bed.s3(), tempfile::tempdir().unwrap());
    let (sent, received) = (dir.path().join("sent"), dir.path().join("received"));
    std::fs::write(&sent, "content").unwrap();

    s3.create_bucket("life").unwrap();
    s3.create_bucket("life").unwrap();
    for key in ["a/1", "a/odd name+ü", "b"] {
        s3.put_object("life", key, &sent).unwrap();
    }
    assert_eq!(s3.list_objects("life", "a/").unwrap(), ["a/1", "a/odd name+ü"]);
    s3.delete_object("life", "a/1").unwrap();

    s3.stop().unwrap();
    assert!(!s3.is_up());
    assert!(s3.get_object("life", "b", &received).is_err());
    s3.start().unwrap();
    s3.get_object("life", "a/odd name+ü", &received).unwrap();
    assert_eq!(std::fs::read_to_string(&received).unwrap(), "content");
    assert_eq!(s3.list_objects("life", "").unwrap(), ["a/odd name+ü", "b"]);

    s3.create_user("stranger", "stranger-secret").unwrap();
    let status = |user: &str, authority: &Path| {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--aws-sigv4", "aws:amz:us-east-1:s3"]);
        curl.args(["--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "--user", user, "--cacert"])
            .arg(authority);
        let output = curl.arg(format!("{}/life/b", s3.env().endpoint)).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (ours, another) = (&s3.env().ca_file, bed.layout().run().join("pki/ca.crt"));
    assert_eq!(status(&format!("{}:{}", s3.env().access_key, s3.env().secret_key), ours), "200");
    assert_eq!(status("stranger:stranger-secret", ours), "403");
    assert_eq!(
        status("stranger:stranger-secret", &another),
        "000",
        "a certificate of another authority was trusted"
    );
    down_and_clean();
}
