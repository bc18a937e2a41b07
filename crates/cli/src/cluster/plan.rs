//! What a Restore would do, as a page for people who have to say yes to it. Pure.

use std::fmt::Write as _;

use holdfast_api::Restore;
use holdfast_api::restore::{RestorePhase, UndoState, VolumePlan};
use jiff::Timestamp;

use super::output::age;
use crate::text::{count, local_time, safe, size};

/// What would be done, from an ended dry run.
pub(super) fn page(restore: &Restore, now: Timestamp) -> String {
    let status = restore.status.clone().unwrap_or_default();
    let namespace = restore.metadata.namespace.as_deref().unwrap_or_default();
    let mut page = String::new();
    // Writing to a string cannot fail.
    let snapshot = status.snapshot_ref.as_ref().map_or("?", |s| s.name.as_str());
    let _ = write!(page, "Restore of snapshot {}", safe(snapshot));
    if let Some(taken) = &status.snapshot_time {
        let _ = write!(page, " (taken {}, {} ago)", local_time(taken.0), age(taken.0, now));
    }
    if let Some(made) = &status.snapshot_origin {
        let _ =
            write!(page, ", made in cluster {}, namespace {},", safe(&made.cluster), safe(&made.namespace));
    }
    let _ = writeln!(page, " into namespace {namespace}");
    let plan = status.plan.clone().unwrap_or_default();
    for volume in &plan.volumes {
        page.push_str(&of_volume(volume));
    }
    let compatibility = status.compatibility.clone().unwrap_or_default();
    let mut warnings: Vec<&String> = compatibility.warnings.iter().chain(&plan.warnings).collect();
    let of_volumes: Vec<&String> = plan.volumes.iter().flat_map(|v| &v.warnings).collect();
    warnings.retain(|w| !of_volumes.contains(w));
    warnings.dedup();
    if !warnings.is_empty() {
        page.push('\n');
    }
    for warning in warnings {
        let _ = writeln!(page, "! {}", safe(warning));
    }
    if status.phase == Some(RestorePhase::Failed) || !compatibility.errors.is_empty() {
        let _ = writeln!(page, "\nThis restore cannot be done:");
        let errors: Vec<&String> = compatibility.errors.iter().collect();
        let errors = if errors.is_empty() { status.message.iter().collect() } else { errors };
        for error in errors {
            let _ = writeln!(page, "✗ {}", safe(error));
        }
        return page;
    }
    page
}

/// What becomes of what is there, for somebody who is about to say yes to an ended dry run. None when it cannot be done.
pub(super) fn prospect(restore: &Restore) -> Option<String> {
    let status = restore.status.as_ref()?;
    if status.phase != Some(RestorePhase::Planned) {
        return None;
    }
    if !status.plan.iter().flat_map(|plan| &plan.volumes).any(overwrites) {
        return Some(
            "No content that is there is changed or deleted; owners, modes and times become those of the snapshot."
                .to_owned(),
        );
    }
    let undo = status.undo.clone().unwrap_or_default();
    let why = undo.message.map(|message| format!(" ({})", safe(&message))).unwrap_or_default();
    Some(match undo.state {
        // Without a word about it the operator is one that cannot.
        UndoState::Planned if status.undo.is_some() => {
            "What is overwritten is saved first, as a Snapshot: `holdfast undo` puts back what was there."
                .to_owned()
        }
        UndoState::NotPossible => {
            format!(
                "! What is overwritten cannot be saved first{why}. To be safe, restore to a new claim (--new-claim)."
            )
        }
        _ => format!(
            "! What is overwritten is lost{why}. To be safe, make a backup before, or restore to a new claim (--new-claim)."
        ),
    })
}

/// Whether anything that is there changes. What could not be counted may.
pub(super) fn overwrites(volume: &VolumePlan) -> bool {
    volume.new_claim.is_none()
        && [volume.change, volume.replace, volume.delete].into_iter().any(|count| count != Some(0))
}

fn of_volume(volume: &VolumePlan) -> String {
    let mut page = format!("\n{} → claim {}", safe(&volume.component), safe(&volume.claim));
    if let Some(new) = &volume.new_claim {
        let class = if new.storage_class_name.is_empty() { "the default" } else { &new.storage_class_name };
        let _ = write!(
            page,
            ", which is made: {}, class {}, {}",
            safe(&new.capacity.0),
            safe(class),
            safe(&new.access_modes.join(" "))
        );
    }
    page.push('\n');
    let mut line = |name: &str, text: String| {
        let _ = writeln!(page, "  {name:<10} {text}");
    };
    let counts = [
        ("create", volume.create, ""),
        ("change", volume.change, ""),
        ("replace", volume.replace, " (of another type)"),
        ("delete", volume.delete, " (the snapshot does not have them)"),
        ("unchanged", volume.unchanged, ""),
    ];
    if counts.iter().all(|(_, n, _)| n.is_none()) {
        line("changes", "not counted: nothing can look at this volume before the restore begins".to_owned());
    }
    for (name, n, more) in counts {
        match n {
            Some(0) if name != "create" => {}
            Some(n) => line(name, format!("{}{more}", count(n))),
            None => {}
        }
    }
    if let Some(bytes) = volume.bytes_to_write {
        let free = volume.bytes_required.map(|b| format!(" ({} must be free)", size(b))).unwrap_or_default();
        line("write", format!("{}{free}", size(bytes)));
    }
    for consumer in &volume.consumers {
        line("stop", format!("{}, until it is done", safe(consumer)));
    }
    for warning in &volume.warnings {
        let _ = writeln!(page, "  ! {}", safe(warning));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restore(status: &str) -> Restore {
        serde_saphyr::from_str(&format!(
            "
apiVersion: holdfast.dev/v1alpha1
kind: Restore
metadata: {{name: plan, namespace: shop}}
spec: {{from: {{snapshotRef: {{name: s}}}}, dryRun: true}}
status:
{status}
"
        ))
        .unwrap()
    }

    fn now() -> Timestamp {
        "2026-11-20T03:00:00Z".parse().unwrap()
    }

    const PLANNED: &str = "
  phase: Planned
  snapshotRef: {name: first-ae15}
  compatibility: {compatible: true, warnings: [small]}
  plan:
    warnings: [two versions apart]
    volumes:
    - {component: volume/data, claim: data, create: 12, change: 3, replace: 0, delete: 7, unchanged: 1200, bytesToWrite: 2048, bytesRequired: 4096, consumers: [Deployment/app], warnings: [small]}
    - {component: volume/logs, claim: copy, newClaim: {storageClassName: fast, capacity: 10Gi, accessModes: [ReadWriteOnce]}, create: 5, bytesToWrite: 10}
    - {component: volume/x, claim: x}";

    #[test]
    fn the_plan_says_all_that_will_happen() {
        assert_eq!(
            page(&restore(PLANNED), now()),
            "Restore of snapshot first-ae15 into namespace shop

volume/data → claim data
  create     12
  change     3
  delete     7 (the snapshot does not have them)
  unchanged  1,200
  write      2.0 KiB (4.0 KiB must be free)
  stop       Deployment/app, until it is done
  ! small

volume/logs → claim copy, which is made: 10Gi, class fast, ReadWriteOnce
  create     5
  write      10 B

volume/x → claim x
  changes    not counted: nothing can look at this volume before the restore begins

! two versions apart
"
        );
        let elsewhere = format!("{PLANNED}\n  snapshotOrigin: {{cluster: staging, namespace: other}}");
        let elsewhere = page(&restore(&elsewhere), now());
        let first =
            "Restore of snapshot first-ae15, made in cluster staging, namespace other, into namespace shop\n";
        assert!(elsewhere.starts_with(first), "{elsewhere}");
        let with = |undo: &str| prospect(&restore(&format!("{PLANNED}\n  undo: {undo}"))).unwrap_or_default();
        assert!(prospect(&restore(PLANNED)).is_some_and(|text| text.contains("is lost.")));
        assert!(with("{state: Planned, message: m}").starts_with("What is overwritten is saved first"));
        assert!(with("{state: Off, message: m}").contains("is lost (m)."));
        assert!(with("{state: NotPossible, message: m}").contains("cannot be saved first (m)."));
    }

    #[test]
    fn what_changes_nothing_says_so() {
        let nothing = restore(
            "  phase: Planned\n  plan: {volumes: [{component: volume/a, claim: a, create: 1, change: 0, replace: 0, delete: 0}]}",
        );
        assert!(
            prospect(&nothing).unwrap().starts_with("No content that is there is changed or deleted; owners")
        );
        assert_eq!(prospect(&restore("  phase: Failed\n  message: It does not fit.")), None);
    }

    #[test]
    fn a_restore_that_cannot_be_done_says_why() {
        let text = page(
            &restore(
                "  phase: Failed\n  message: It does not fit.\n  compatibility: {compatible: false, errors: [the claim is too small, 'the class is gone']}",
            ),
            now(),
        );
        assert!(
            text.ends_with("This restore cannot be done:\n✗ the claim is too small\n✗ the class is gone\n"),
            "{text}"
        );
        let text = page(&restore("  phase: Failed\n  message: It does not fit."), now());
        assert!(text.contains("✗ It does not fit.\n"), "{text}");
    }
}
