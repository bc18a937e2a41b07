//! Messages of release 0.1, kept as they were written. When the operator is upgraded in the middle of a run, its new
//! version reads verdicts of older runners; and a Job that is already there has a spec of the older operator, which a
//! node may run with the newer image. The files are never changed: what no longer reads them breaks running backups.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's way to fail")]

use std::path::PathBuf;

use holdfast_protocol::spec::{OnUnreadable, StorageAccess};
use holdfast_protocol::{Outcome, RunSpec, Task, TaskResult, VERSION, Verdict};
use serde_json::Value;

fn read(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn spec(name: &str) -> RunSpec {
    let text = read(&format!("spec-{name}.json"));
    let spec: RunSpec = serde_json::from_str(&text).unwrap_or_else(|e| panic!("spec-{name}: {e}"));
    assert_eq!(spec.version, VERSION, "another version refuses every Job of the older operator");
    kept(&text, &serde_json::to_value(&spec).unwrap());
    spec
}

fn verdict(name: &str) -> Verdict {
    let text = read(&format!("verdict-{name}.json"));
    let verdict = Verdict::from_termination_message(&text).unwrap_or_else(|e| panic!("verdict-{name}: {e}"));
    assert_eq!(verdict.version, VERSION);
    kept(&text, &serde_json::to_value(&verdict).unwrap());
    verdict
}

/// All that the older message said is still there after reading it: no field was renamed or passed over.
fn kept(text: &str, now: &Value) {
    fn within(old: &Value, now: &Value, at: &str) {
        match (old, now) {
            (Value::Object(old), Value::Object(now)) => {
                for (key, value) in old {
                    let found = now.get(key).unwrap_or(&Value::Null);
                    within(value, found, &format!("{at}.{key}"));
                }
            }
            (Value::Array(old), Value::Array(now)) if old.len() == now.len() => {
                for (number, (old, now)) in old.iter().zip(now).enumerate() {
                    within(old, now, &format!("{at}[{number}]"));
                }
            }
            (old, now) => assert_eq!(old, now, "{at}"),
        }
    }
    within(&serde_json::from_str(text).unwrap(), now, "");
}

#[test]
fn every_task_of_an_older_operator_is_understood() {
    assert!(matches!(spec("probe").task, Task::Probe { scan_limit: 50 }));
    assert!(matches!(spec("sync").task, Task::Sync));
    assert!(matches!(spec("initialize").task, Task::Initialize { must_exist: false, .. }));
    let unlock = spec("unlock");
    assert!(matches!(unlock.task, Task::Unlock) && unlock.dead_jobs.len() == 1);

    let backup = spec("backup");
    let StorageAccess::S3 { bucket, prefix, virtual_host: false, .. } = &backup.storage else {
        panic!("no S3")
    };
    assert_eq!((bucket.as_str(), prefix.as_str()), ("backups", "prod"));
    let Task::BackupVolume(volume) = backup.task else { panic!("no backup") };
    assert_eq!((volume.path.as_str(), volume.on_unreadable), ("/data/data", OnUnreadable::PartiallyFail));
    assert_eq!((volume.tags.len(), volume.identity_tags.len()), (3, 2));

    let Task::RestoreVolume(volume) = spec("restore").task else { panic!("no restore") };
    assert!(volume.delete_extra && volume.verify && volume.restore_owners && !volume.plan_only);
}

#[test]
fn every_verdict_of_an_older_runner_is_understood() {
    for name in ["probe", "initialize", "sync", "restore"] {
        assert_eq!(verdict(name).outcome, Outcome::Succeeded, "{name}");
    }
    let backup = verdict("backup");
    let Some(TaskResult::BackupVolume(result)) = backup.result else { panic!("no result") };
    assert_eq!((backup.outcome, result.unreadable, result.files_new), (Outcome::Partial, 1, 100));
    assert!(result.snapshot_id.is_some());
    let failed = verdict("failed");
    assert!(failed.retryable && !failed.lock_released && failed.result.is_none());
}

/// Fields that a later release adds are absent in an older message: then they have a value that means what the older
/// release did.
#[test]
fn what_an_older_operator_could_leave_out_may_be_missing() {
    let mut spec: Value = serde_json::from_str(&read("spec-backup.json")).unwrap();
    spec.as_object_mut().unwrap().remove("deadJobs");
    let task = spec.get_mut("task").unwrap().as_object_mut().unwrap();
    task.remove("exclude");
    let spec: RunSpec = serde_json::from_value(spec).unwrap();
    let Task::BackupVolume(volume) = spec.task else { panic!("no backup") };
    assert!(spec.dead_jobs.is_empty() && volume.exclude.is_empty());
}
