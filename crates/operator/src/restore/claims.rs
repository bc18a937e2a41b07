//! Claims that a Restore makes: what they look like, and what becomes of them when it fails. Pure.

use std::collections::BTreeMap;

use holdfast_api::backup::ComponentPhase;
use holdfast_api::restore::{ClaimFate, ClaimPlan, NewClaim, OnFailure, RestoreComponent};
use holdfast_api::snapshot::SnapshotComponent;
use holdfast_api::wish::ClaimWish;
use holdfast_api::{Reason, names};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::validate::Findings;
use crate::backup::status::bytes;
use crate::jobs::RunRef;
use crate::volumes::claim::quantity_bytes;

const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// A claim to be made, and what about it is different.
pub(super) type Planned = (ClaimPlan, Vec<String>);

/// What the claim will look like: what the Restore says, else as the saved volume was. `whole`: all files go to it.
pub(super) fn plan(
    wish: &NewClaim,
    component: &SnapshotComponent,
    whole: bool,
    classes: &[StorageClass],
    findings: &mut Findings,
) -> Option<Planned> {
    let NewClaim { name, storage_class_name, capacity, access_modes, on_failure } = wish;
    let mut warnings = Vec::new();
    let class = class(name, storage_class_name.as_deref(), component, classes, &mut warnings, findings);
    let source = &component.source;
    let Some(capacity) = capacity.clone().or_else(|| source.capacity.clone()) else {
        let text = format!(
            "it is not recorded how large the volume of {} was: say in newClaim.capacity how large {name} is to be",
            component.name
        );
        findings.error(Reason::InvalidSpec, text);
        return None;
    };
    match (quantity_bytes(&capacity), component.size) {
        (None | Some(0), _) => {
            let text = format!("the capacity {:?} of the claim {name} is no size: say e.g. 10Gi", capacity.0);
            findings.error(Reason::InvalidSpec, text);
        }
        (Some(room), Some(size)) if whole && room < size => {
            let text = format!(
                "the claim {name} would be too small: it would have {}, and {} holds {}",
                bytes(room),
                component.name,
                bytes(size)
            );
            findings.error(Reason::TargetTooSmall, text);
        }
        (Some(_), _) => {}
    }
    let access_modes: Vec<String> = if access_modes.is_empty() {
        // One that only reads cannot be restored to.
        let had = source.access_modes.iter().filter(|mode| *mode != "ReadOnlyMany").cloned();
        Some(had.collect()).filter(|modes: &Vec<String>| !modes.is_empty())
    } else {
        Some(access_modes.iter().map(ToString::to_string).collect())
    }
    .unwrap_or_else(|| vec!["ReadWriteOnce".to_owned()]);
    // Under another name it is another claim: that it is saved, and by whom it is taken for theirs, is not inherited.
    let again = source.claim.as_ref() == Some(name);
    let marks = |of: &BTreeMap<String, String>| if again { of.clone() } else { BTreeMap::new() };
    let plan = ClaimPlan {
        storage_class_name: class?,
        capacity,
        access_modes,
        on_failure: *on_failure,
        labels: marks(&source.labels),
        annotations: wishes(marks(&source.annotations)),
    };
    Some((plan, warnings))
}

/// Without a word that the claim is not saved: it was saved, and a bucket is not to have a claim left out.
fn wishes(mut annotations: BTreeMap<String, String>) -> BTreeMap<String, String> {
    if matches!(ClaimWish::of(&annotations), ClaimWish::Never(_)) {
        annotations.remove(names::ANNOTATION_BACKUP);
        annotations.remove(names::ANNOTATION_BACKUP_K8UP);
    }
    annotations
}

fn class(
    claim: &str,
    asked: Option<&str>,
    component: &SnapshotComponent,
    classes: &[StorageClass],
    warnings: &mut Vec<String>,
    findings: &mut Findings,
) -> Option<String> {
    let is_there = |name: &str| classes.iter().any(|class| class.name_any() == name);
    let listed = || {
        let names: Vec<String> = classes.iter().take(10).map(ResourceExt::name_any).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    if let Some(asked) = asked {
        if is_there(asked) {
            return Some(asked.to_owned());
        }
        let text = format!("claim {claim}: there is no storage class {asked}; there are: {}", listed());
        findings.error(Reason::Incompatible, text);
        return None;
    }
    let had = component.source.storage_class.as_deref();
    if let Some(had) = had.filter(|had| is_there(had)) {
        return Some(had.to_owned());
    }
    let is_default =
        |class: &&StorageClass| class.annotations().get(DEFAULT_CLASS).is_some_and(|value| value == "true");
    // Of several, the API server takes the newest one, too.
    let default = classes.iter().filter(is_default).max_by_key(|class| {
        (class.creation_timestamp().map(|time| time.0), std::cmp::Reverse(class.name_any()))
    });
    let Some(default) = default else {
        let text = format!(
            "claim {claim}: the storage class that the volume had ({}) is not there, and the cluster has no default \
             class: name one in newClaim.storageClassName; there are: {}",
            had.unwrap_or("none"),
            listed()
        );
        findings.error(Reason::Incompatible, text);
        return None;
    };
    let name = default.name_any();
    if let Some(had) = had {
        warnings
            .push(format!("{claim}: is made of the storage class {name}; it was {had} when it was saved"));
    }
    Some(name)
}

/// The claim itself.
pub(super) fn claim(run: &RunRef, name: &str, plan: &ClaimPlan) -> PersistentVolumeClaim {
    let ClaimPlan { storage_class_name, capacity, access_modes, on_failure: _, labels, annotations } = plan;
    let mut annotations = annotations.clone();
    annotations.insert(names::ANNOTATION_MADE_BY_RESTORE.to_owned(), run.uid.clone());
    PersistentVolumeClaim {
        // Not owned by the Restore: the data stays when that goes.
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(run.namespace.clone()),
            labels: Some(labels.clone()).filter(|labels| !labels.is_empty()),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(access_modes.clone()),
            storage_class_name: Some(storage_class_name.clone()),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), capacity.clone())])),
                limits: None,
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// Whether a claim is the one that this run made.
pub(super) fn is_ours(claim: &PersistentVolumeClaim, run: &RunRef) -> bool {
    claim.annotations().get(names::ANNOTATION_MADE_BY_RESTORE).is_some_and(|uid| *uid == run.uid)
}

/// What has to become of a claim at the end of a run; none when nothing has to.
pub(super) fn fate(component: &RestoreComponent, rule: OnFailure, in_use: bool) -> Option<ClaimFate> {
    if component.new_claim != Some(ClaimFate::Created) || component.phase != ComponentPhase::Failed {
        return None;
    }
    Some(if rule == OnFailure::Delete && !in_use { ClaimFate::Removed } else { ClaimFate::Kept })
}

/// Writes down what became of a claim, with what to do.
pub(super) fn settled(component: &mut RestoreComponent, fate: ClaimFate) {
    let claim = component.claim.clone().unwrap_or_default();
    let note = match fate {
        ClaimFate::Planned | ClaimFate::Created => return,
        ClaimFate::Kept => format!(
            "the claim {claim} that was made for it is kept: another Restore to it, as existingClaim, goes on from there"
        ),
        ClaimFate::Removed => format!("the claim {claim} that was made for it was removed"),
    };
    component.new_claim = Some(fate);
    component.message = Some(match component.message.take() {
        Some(message) => format!("{message}; {note}"),
        None => note,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes() -> Vec<StorageClass> {
        serde_saphyr::from_str(
            "
- {metadata: {name: fast}, provisioner: x}
- {metadata: {name: usual, annotations: {storageclass.kubernetes.io/is-default-class: 'true'}}, provisioner: x}
",
        )
        .unwrap()
    }

    fn component(source: &str) -> SnapshotComponent {
        serde_saphyr::from_str(&format!(
            "{{name: volume/data, snapshotId: aa, size: 1073741824, source: {source}}}"
        ))
        .unwrap()
    }

    fn planned(wish: &str, source: &str) -> Result<Planned, Vec<(Reason, String)>> {
        let wish: NewClaim = serde_saphyr::from_str(wish).unwrap();
        let mut findings = Findings::default();
        let plan = plan(&wish, &component(source), true, &classes(), &mut findings);
        plan.filter(|_| findings.errors.is_empty()).ok_or(findings.errors)
    }

    fn run() -> RunRef {
        RunRef {
            kind: crate::jobs::RunKind::Restore,
            namespace: "shop".into(),
            name: "r".into(),
            uid: "u1".into(),
        }
    }

    const SAVED: &str = "{capacity: 2Gi, storageClass: fast, accessModes: [ReadWriteMany]}";

    #[test]
    fn what_is_not_said_is_as_it_was() {
        let (plan, warnings) = planned("{name: copy}", SAVED).unwrap();
        assert_eq!((plan.storage_class_name.as_str(), plan.capacity.0.as_str()), ("fast", "2Gi"));
        assert_eq!(plan.access_modes, ["ReadWriteMany"]);
        assert!(warnings.is_empty());
        let wish = "{name: copy, storageClassName: usual, capacity: 3Gi, accessModes: [ReadWriteOnce]}";
        let (plan, _) = planned(wish, SAVED).unwrap();
        assert_eq!((plan.storage_class_name.as_str(), plan.capacity.0.as_str()), ("usual", "3Gi"));
        assert_eq!(plan.access_modes, ["ReadWriteOnce"]);
    }

    #[test]
    fn a_claim_that_is_made_again_is_saved_as_before_and_a_copy_is_a_claim_of_its_own() {
        let saved = "{claim: data, capacity: 2Gi, storageClass: fast, labels: {tier: db}, annotations: {holdfast.dev/backup: 'true'}}";
        let run = run();
        let (plan, _) = planned("{name: data}", saved).unwrap();
        let made = claim(&run, "data", &plan);
        assert_eq!(made.labels().get("tier").map(String::as_str), Some("db"));
        assert_eq!(made.annotations().get(names::ANNOTATION_BACKUP).map(String::as_str), Some("true"));
        assert!(is_ours(&made, &run));
        let never = saved.replace("'true'", "'false'");
        assert!(planned("{name: data}", &never).unwrap().0.annotations.is_empty(), "it was saved");
        let (plan, _) = planned("{name: copy}", saved).unwrap();
        let made = claim(&run, "copy", &plan);
        assert!(made.labels().is_empty() && made.annotations().len() == 1, "{made:?}");
    }

    #[test]
    fn a_class_that_is_gone_gives_way_to_the_default_and_says_so() {
        let (plan, warnings) = planned("{name: copy}", "{capacity: 2Gi, storageClass: old}").unwrap();
        assert_eq!(plan.storage_class_name, "usual");
        assert_eq!(plan.access_modes, ["ReadWriteOnce"]);
        assert!(warnings.iter().any(|w| w.contains("usual") && w.contains("old")), "{warnings:?}");
        let errors = planned("{name: copy, storageClassName: old}", SAVED).unwrap_err();
        assert!(errors.iter().any(|(_, text)| text.contains("fast, usual")), "{errors:?}");
    }

    #[test]
    fn a_claim_that_could_not_hold_it_is_not_made() {
        let reason = |wish: &str, source: &str| planned(wish, source).unwrap_err().first().unwrap().0;
        assert_eq!(reason("{name: copy, capacity: 100Mi}", SAVED), Reason::TargetTooSmall);
        assert_eq!(reason("{name: copy, capacity: much}", SAVED), Reason::InvalidSpec);
        assert_eq!(reason("{name: copy}", "{storageClass: fast}"), Reason::InvalidSpec);
    }

    #[test]
    fn only_what_nothing_was_restored_to_is_ever_removed() {
        let component = |phase, fate| RestoreComponent {
            phase,
            new_claim: fate,
            claim: Some("copy".into()),
            ..RestoreComponent::default()
        };
        let made = Some(ClaimFate::Created);
        for (phase, made, rule, in_use, expected) in [
            (ComponentPhase::Succeeded, made, OnFailure::Delete, false, None),
            (ComponentPhase::PartiallyFailed, made, OnFailure::Delete, false, None),
            (ComponentPhase::Failed, made, OnFailure::Delete, false, Some(ClaimFate::Removed)),
            (ComponentPhase::Failed, made, OnFailure::Delete, true, Some(ClaimFate::Kept)),
            (ComponentPhase::Failed, made, OnFailure::Keep, false, Some(ClaimFate::Kept)),
            (ComponentPhase::Failed, Some(ClaimFate::Planned), OnFailure::Delete, false, None),
            (ComponentPhase::Failed, None, OnFailure::Delete, false, None),
        ] {
            assert_eq!(fate(&component(phase, made), rule, in_use), expected, "{phase} {rule} {in_use}");
        }
        let mut failed = component(ComponentPhase::Failed, made);
        settled(&mut failed, ClaimFate::Kept);
        assert!(failed.message.unwrap().contains("existingClaim"));
        assert_eq!(failed.new_claim, Some(ClaimFate::Kept));
    }

    #[test]
    fn a_claim_knows_the_run_that_made_it() {
        let run = run();
        let (plan, _) = planned("{name: copy}", SAVED).unwrap();
        let made = claim(&run, "copy", &plan);
        assert!(is_ours(&made, &run) && !is_ours(&made, &RunRef { uid: "u2".into(), ..run }));
        assert!(made.metadata.owner_references.is_none(), "the data outlives the Restore");
    }
}
