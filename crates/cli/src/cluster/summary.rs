//! What came of a run, as a page for people. Pure.

use std::fmt::Write as _;

use holdfast_api::backup::{ComponentPhase, FileProblem};
use holdfast_api::{Backup, Restore};
use jiff::Timestamp;

use super::run_view::{ComponentView, Run as _, RunView};
use crate::text::{Table, count, counted, duration, safe, size};

/// What came of a Backup.
pub(super) fn backup(backup: &Backup, now: Timestamp) -> String {
    let view = backup.view();
    let status = backup.status.clone().unwrap_or_default();
    let mut page = first_line(&view, now);
    if let Some(snapshot) = &status.snapshot_ref {
        line(&mut page, "snapshot", &snapshot.name);
    }
    if let Some(repository) = &status.repository_ref {
        line(&mut page, "repository", &repository.name);
    }
    let sum = |field: fn(&holdfast_api::backup::BackupComponent) -> Option<u64>| {
        status.components.iter().filter_map(field).fold(0_u64, u64::saturating_add)
    };
    let saved = status.components.iter().filter(|c| c.snapshot_id.is_some()).count();
    if saved > 0 {
        let files = sum(|c| c.files_new)
            .saturating_add(sum(|c| c.files_changed))
            .saturating_add(sum(|c| c.files_unmodified));
        let text = format!(
            "{} of {}: {}, {}; {} added to the repository",
            count(saved as u64),
            counted(status.components.len() as u64, "volume", "volumes"),
            counted(files, "file", "files"),
            size(sum(|c| c.bytes_processed)),
            size(sum(|c| c.bytes_added)),
        );
        line(&mut page, "saved", &text);
    }
    page.push_str(&components(&view));
    for component in &status.components {
        problems(
            &mut page,
            &component.name,
            "could not be read",
            component.unreadable,
            &component.unreadable_sample,
        );
    }
    let skipped = status.coverage.map(|coverage| coverage.skipped).unwrap_or_default();
    if !skipped.is_empty() {
        page.push_str("\nNot saved:\n");
        let mut table = Table::new(&["  CLAIM", "REASON", "WHY"]);
        for claim in &skipped {
            let mark = if claim.reason.is_harmless() { " " } else { "!" };
            let why = claim.message.as_deref().unwrap_or_default();
            table.row(vec![format!("{mark} {}", safe(&claim.claim)), claim.reason.to_string(), safe(why)]);
        }
        page.push_str(&table.render());
    }
    warnings(&mut page, &view.warnings);
    page
}

/// What came of a Restore.
pub(super) fn restore(restore: &Restore, now: Timestamp) -> String {
    let view = restore.view();
    let status = restore.status.clone().unwrap_or_default();
    let mut page = first_line(&view, now);
    if let Some(snapshot) = &status.snapshot_ref {
        line(&mut page, "snapshot", &snapshot.name);
    }
    if let Some(saved) = &status.undo_snapshot_ref {
        line(&mut page, "undo", &format!("what was there is in snapshot {}", saved.name));
    }
    page.push_str(&components(&view));
    for component in &status.components {
        let name = &component.name;
        problems(&mut page, name, "could not be written", component.failures, &component.failures_sample);
        problems(
            &mut page,
            name,
            "lack owner, mode, times or attributes",
            component.metadata_failures,
            &component.metadata_failures_sample,
        );
        let sample = match component.metadata_failures {
            None | Some(0) => component.metadata_failures_sample.as_slice(),
            Some(_) => &[],
        };
        problems(&mut page, name, "belong to the runner now", component.owners_not_restored, sample);
    }
    warnings(
        &mut page,
        &status.compatibility.map(|compatibility| compatibility.warnings).unwrap_or_default(),
    );
    page
}

/// What is no failure, and to be known.
fn warnings(page: &mut String, all: &[String]) {
    for (n, warning) in all.iter().enumerate() {
        let gap = if n == 0 { "\n" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(page, "{gap}! {}", safe(warning));
    }
}

fn first_line(run: &RunView, now: Timestamp) -> String {
    let phase = if run.phase.is_empty() { "not looked at yet" } else { run.phase };
    let mut page = format!("{}: {phase}", run.title());
    if let Some(took) = run.took(now) {
        let word = if run.ended { "after" } else { "for" };
        let _ = write!(page, " {word} {}", duration(took));
    }
    page.push('\n');
    if let Some(message) = run.message.as_ref().filter(|_| run.phase != "Succeeded") {
        line(&mut page, "message", message);
    }
    page
}

/// One named fact.
fn line(page: &mut String, name: &str, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(page, "  {name:<11} {}", safe(text));
}

/// The table of components, and why those that did not succeed did not.
pub(super) fn components(run: &RunView) -> String {
    if run.components.is_empty() {
        return String::new();
    }
    let mut page = String::from("\n");
    let mut table = Table::new(&["COMPONENT", "PHASE", "TIME", "NODE", "RESULT"]);
    for component in &run.components {
        table.row(vec![
            safe(&component.name),
            component.phase.to_string(),
            component.took.map_or_else(|| "-".to_owned(), duration),
            component.node.clone().unwrap_or_else(|| "-".to_owned()),
            safe(&component.result),
        ]);
    }
    page.push_str(&table.render());
    for component in run.components.iter().filter(|c| c.phase != ComponentPhase::Succeeded) {
        page.push_str(&why(component));
    }
    page
}

fn why(component: &ComponentView) -> String {
    let mut page = String::new();
    let texts: Vec<&str> =
        [&component.reason, &component.message].into_iter().flatten().map(String::as_str).collect();
    if !texts.is_empty() {
        let _ = writeln!(page, "\n{}: {}", safe(&component.name), safe(&texts.join(": ")));
    }
    for log in &component.log_tail {
        let _ = writeln!(page, "  | {}", safe(log));
    }
    page
}

fn problems(page: &mut String, component: &str, what: &str, total: Option<u64>, sample: &[FileProblem]) {
    let Some(total @ 1..) = total else { return };
    let _ = writeln!(page, "\n{}: {} {what}:", safe(component), counted(total, "file", "files"));
    for problem in sample {
        let _ = writeln!(page, "  {}: {}", safe(&problem.path), safe(&problem.error));
    }
    let named = sample.len() as u64;
    if total > named {
        let _ = writeln!(page, "  and {} more", count(total - named));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-20T03:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_backup_is_summed_up_with_what_was_left_out_and_why() {
        let object: Backup = serde_saphyr::from_str(
            r#"
apiVersion: holdfast.dev/v1alpha1
kind: Backup
metadata: {name: first, namespace: shop}
spec: {}
status:
  phase: PartiallyFailed
  message: 1 of 2 volumes is saved.
  startTime: 2026-11-20T02:00:00Z
  completionTime: 2026-11-20T02:01:05Z
  repositoryRef: {name: offsite}
  snapshotRef: {name: first-ae1540cc}
  components:
  - {name: volume/data, phase: PartiallyFailed, node: n1, snapshotId: 4f9c, filesNew: 1000, filesChanged: 0, filesUnmodified: 234, bytesProcessed: 3221225472, bytesAdded: 1048576,
     unreadable: 3, unreadableSample: [{path: /a, error: permission denied}, {path: "/b\e[2J", error: permission denied}],
     reason: UnreadableFiles, message: 3 files could not be read., startTime: 2026-11-20T02:00:01Z, completionTime: 2026-11-20T02:01:00Z}
  - {name: volume/logs, phase: Failed, reason: MountFailed, message: The volume is away., logTail: [last words]}
  coverage:
    protected: 1
    skipped:
    - {claim: scratch, reason: ExcludedByAnnotation, message: it carries the annotation}
    - {claim: raw, reason: BlockVolume, message: it is a block device}
    warnings: [Backup nightly saves data as well, "logs: --files-from\e[2J is not done"]
"#,
        )
        .unwrap();
        assert_eq!(
            backup(&object, now()),
            r"Backup shop/first: PartiallyFailed after 1 min 05 s
  message     1 of 2 volumes is saved.
  snapshot    first-ae1540cc
  repository  offsite
  saved       1 of 2 volumes: 1,234 files, 3.0 GiB; 1.0 MiB added to the repository

COMPONENT    PHASE            TIME  NODE  RESULT
volume/data  PartiallyFailed  59 s  n1    1,234 files, 3.0 GiB, 1,000 new, 0 changed, 1.0 MiB added, 3 files NOT readable
volume/logs  Failed           -     -

volume/data: UnreadableFiles: 3 files could not be read.

volume/logs: MountFailed: The volume is away.
  | last words

volume/data: 3 files could not be read:
  /a: permission denied
  /b\u{1b}[2J: permission denied
  and 1 more

Not saved:
  CLAIM    REASON                WHY
  scratch  ExcludedByAnnotation  it carries the annotation
! raw      BlockVolume           it is a block device

! Backup nightly saves data as well
! logs: --files-from\u{1b}[2J is not done
"
        );
        assert_eq!(object.view().exit_code(), crate::exit::PARTIAL);
    }

    /// Its volume may have been lost and made anew: the run succeeds all the same.
    #[test]
    fn a_volume_that_held_nothing_is_told() {
        let of = |status: &str| {
            let object: Backup = serde_saphyr::from_str(&format!(
                "
apiVersion: holdfast.dev/v1alpha1
kind: Backup
metadata: {{name: b, namespace: shop}}
spec: {{}}
status:
  phase: Succeeded
  components: [{{name: volume/data, phase: Succeeded, filesUnmodified: 0}}]
  conditions:
  - {{type: SourceEmpty, status: '{status}', reason: VolumeEmpty, message: 'holds no files: volume/data', lastTransitionTime: 2026-11-20T02:00:00Z}}
"
            ))
            .unwrap();
            backup(&object, now())
        };
        let page = of("True");
        assert!(page.ends_with("\n\n! SourceEmpty: holds no files: volume/data\n"), "{page}");
        assert!(!of("False").contains("SourceEmpty"));
    }

    #[test]
    fn a_restore_is_summed_up() {
        let object: Restore = serde_saphyr::from_str(
            "
apiVersion: holdfast.dev/v1alpha1
kind: Restore
metadata: {name: back, namespace: shop}
spec: {from: {snapshotRef: {name: first-ae1540cc}}}
status:
  phase: Succeeded
  message: 1 volume is restored.
  startTime: 2026-11-20T02:00:00Z
  completionTime: 2026-11-20T02:00:04Z
  snapshotRef: {name: first-ae1540cc}
  compatibility: {compatible: true, warnings: [owners cannot be restored, another class]}
  components:
  - {name: volume/data, phase: Succeeded, node: n1, filesRestored: 7, filesUnchanged: 1200, filesDeleted: 2, bytesWritten: 2048, verified: true}
",
        )
        .unwrap();
        assert_eq!(
            restore(&object, now()),
            "Restore shop/back: Succeeded after 4.0 s
  snapshot    first-ae1540cc

COMPONENT    PHASE      TIME  NODE  RESULT
volume/data  Succeeded  -     n1    7 files written, 2.0 KiB, 1,200 as they were, 2 deleted, verified

! owners cannot be restored
! another class
"
        );
        assert_eq!(object.view().exit_code(), crate::exit::OK);
    }

    #[test]
    fn a_run_that_nobody_looked_at_is_not_called_a_success() {
        let object = Backup::new("b", holdfast_api::BackupSpec::default());
        assert!(backup(&object, now()).contains("not looked at yet"));
        assert_eq!(object.view().exit_code(), crate::exit::FATAL);
    }
}
