//! Which claims are protected, and by what. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_api::backup::{BackupPhase, ClaimsDefault, ComponentPhase, SkipReason};
use holdfast_api::names::{ANNOTATION_BACKUP, volume_component};
use holdfast_api::snapshot::SnapshotComponent;
use holdfast_api::wish::ClaimWish;
use holdfast_api::{Backup, Snapshot};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt as _};
use serde::Serialize;

use super::Facts;
use crate::text::counted;

/// Clusters named at most.
const CLUSTERS_NAMED: usize = 3;

/// A Snapshot, and what it holds of a claim.
type Held<'a> = (&'a Snapshot, &'a SnapshotComponent);

/// How a claim stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(in super::super) enum Protection {
    /// It has a good backup that is young enough.
    Protected,
    /// Its last backup lacks files.
    Incomplete,
    /// Its last good backup is too old.
    TooOld,
    /// It has a good backup, and a later run was to save it and did not.
    LastRunFailed,
    /// It has no backup.
    Unprotected,
    /// The last Backup was to save it, and it is not there.
    NotThere,
    /// Somebody wants it left out.
    Excluded,
    /// Nothing was ever written to it.
    NoDataYet,
}

impl Protection {
    /// Whether somebody has to look after it.
    pub(in super::super) fn needs_care(self) -> bool {
        matches!(
            self,
            Self::Incomplete | Self::TooOld | Self::LastRunFailed | Self::Unprotected | Self::NotThere
        )
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Protected => "Protected",
            Self::Incomplete => "Incomplete",
            Self::TooOld => "TooOld",
            Self::LastRunFailed => "LastRunFailed",
            Self::Unprotected => "Unprotected",
            Self::NotThere => "NotThere",
            Self::Excluded => "Excluded",
            Self::NoDataYet => "NoDataYet",
        }
    }
}

/// A claim, and what protects it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in super::super) struct ClaimReport {
    pub(in super::super) namespace: String,
    pub(in super::super) claim: String,
    pub(in super::super) protection: Protection,
    /// When the newest backup that holds it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_backup: Option<Timestamp>,
    /// The Snapshot of that backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) snapshot: Option<String>,
    /// Why it stands so, or what went wrong since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in super::super) why: Option<String>,
}

/// How each claim stands, by namespace and name. Claims that are being deleted are left out.
pub(in super::super) fn claims(facts: &Facts, max_age: Option<Duration>, now: Timestamp) -> Vec<ClaimReport> {
    let mut reports: Vec<ClaimReport> = facts
        .claims
        .iter()
        .filter(|claim| claim.metadata.deletion_timestamp.is_none())
        .map(|claim| of_claim(claim, facts, max_age, now))
        .collect();
    reports.extend(not_there(facts));
    reports.sort_by(|a, b| (&a.namespace, &a.claim).cmp(&(&b.namespace, &b.claim)));
    reports
}

/// Claims that a Backup names and that are not there, by the last run with the same Backups' place and choice: nothing else
/// would tell of them.
fn not_there(facts: &Facts) -> Vec<ClaimReport> {
    let mut backups: Vec<&Backup> = facts.backups.iter().filter(|b| has_ended(b)).collect();
    backups.sort_by_key(|b| std::cmp::Reverse(began(b)));
    let mut places = Vec::new();
    let mut found = BTreeSet::new();
    for backup in backups {
        let (namespace, spec) = (backup.namespace().unwrap_or_default(), &backup.spec);
        let place = (namespace.clone(), &spec.repository_ref, &spec.storage_ref, &spec.volumes);
        if places.contains(&place) {
            continue;
        }
        places.push(place);
        let there = |name: &str| {
            let mut claims = facts.claims.iter();
            claims.any(|claim| claim.namespace().as_ref() == Some(&namespace) && claim.name_any() == name)
        };
        let coverage = backup.status.as_ref().and_then(|status| status.coverage.as_ref());
        for skipped in coverage.iter().flat_map(|coverage| &coverage.skipped) {
            if skipped.reason == SkipReason::ClaimNotFound && !there(&skipped.claim) {
                found.insert((namespace.clone(), skipped.claim.clone(), backup.name_any()));
            }
        }
    }
    let report = |(namespace, claim, backup): (String, String, String)| ClaimReport {
        why: Some(format!("Backup {backup} was to save it, and there is no such claim")),
        protection: Protection::NotThere,
        last_backup: None,
        snapshot: None,
        namespace,
        claim,
    };
    found.into_iter().map(report).collect()
}

fn has_ended(backup: &Backup) -> bool {
    backup.status.as_ref().and_then(|status| status.phase).is_some_and(BackupPhase::is_terminal)
}

fn of_claim(
    claim: &PersistentVolumeClaim,
    facts: &Facts,
    max_age: Option<Duration>,
    now: Timestamp,
) -> ClaimReport {
    let (namespace, name) = (claim.namespace().unwrap_or_default(), claim.name_any());
    let component = volume_component(&name);
    let (here, elsewhere): (Vec<Held<'_>>, Vec<Held<'_>>) = held(facts, &namespace, &component)
        .into_iter()
        .partition(|(s, _)| facts.cluster_name.as_deref().is_none_or(|own| s.spec.cluster == own));
    let (lost, saved): (Vec<Held<'_>>, Vec<Held<'_>>) =
        here.into_iter().partition(|(_, component)| component.damaged);
    let newest = saved.iter().max_by_key(|(s, _)| s.spec.time.0);
    let holding = newest.map(|(snapshot, _)| *snapshot);
    let mut backups: Vec<&Backup> =
        facts.backups.iter().filter(|b| b.namespace().as_deref() == Some(namespace.as_str())).collect();
    backups.sort_by_key(|b| std::cmp::Reverse(began(b)));
    let wish = ClaimWish::of(claim.annotations());
    let default = facts.defaults.of(&namespace);
    let unbound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Pending");
    let made = claim.creation_timestamp().map(|made| made.0);
    // A run that did not come to its claims is held against what there was to save, and was not saved before it.
    let open_since = holding.map(|s| s.spec.time.0).max(made);
    // What the last run that had anything to do with the claim says against it.
    let complaint = backups.iter().find_map(|backup| {
        complaint(backup, &name, &component)
            .or_else(|| refused(backup, claim, default).filter(|_| !unbound && began(backup) > open_since))
    });
    let mut report = ClaimReport {
        namespace,
        claim: name,
        protection: Protection::Protected,
        last_backup: holding.map(|s| s.spec.time.0),
        snapshot: holding.map(ResourceExt::name_any),
        why: None,
    };
    let complaint_of_last = complaint.unwrap_or_default();
    let is_held = holding.is_some_and(|s| made.is_none_or(|made| made <= s.spec.time.0));
    let (protection, why) = match holding {
        _ if matches!(wish, ClaimWish::Never(_)) => {
            (Protection::Excluded, Some("an annotation of the claim says so".to_owned()))
        }
        _ if !is_held && wish == ClaimWish::Unsaid && complaint_of_last.leaves_out(default) => {
            let why = complaint_of_last.text.unwrap_or_else(|| {
                format!(
                    "the default for claims is OptIn here, and it has no annotation {ANNOTATION_BACKUP}=true"
                )
            });
            (Protection::Excluded, Some(why))
        }
        None if complaint_of_last.no_data || (unbound && complaint_of_last.text.is_none()) => {
            (Protection::NoDataYet, Some("no volume is bound to it yet".to_owned()))
        }
        None => {
            let why = complaint_of_last.text.unwrap_or_else(|| match default {
                None if wish == ClaimWish::Unsaid => {
                    "no backup holds it; taken for one to be saved, for the operator's default for claims cannot be read"
                        .to_owned()
                }
                _ => "no backup holds it".to_owned(),
            });
            (Protection::Unprotected, Some(why))
        }
        // Its name is all that it has in common with what was saved: a claim that was restored, or made anew.
        Some(_) if !is_held => {
            let why =
                complaint_of_last.text.unwrap_or_else(|| "no backup since this claim was made".to_owned());
            (Protection::Unprotected, Some(why))
        }
        Some(snapshot) => {
            let age = Duration::try_from(now.duration_since(snapshot.spec.time.0)).unwrap_or_default();
            if max_age.is_some_and(|most| age > most) {
                let since = complaint_of_last.text.unwrap_or_else(|| "no good backup since".to_owned());
                (Protection::TooOld, Some(since))
            } else if let Some(lacks) = lacks(snapshot, facts, &component) {
                (Protection::Incomplete, Some(lacks))
            } else {
                let failed = complaint_of_last.failed.is_some_and(|began| began >= snapshot.spec.time.0);
                let protection = if failed { Protection::LastRunFailed } else { Protection::Protected };
                let remarks: Vec<String> =
                    complaint_of_last.text.into_iter().chain(emptied(newest, &saved)).collect();
                (protection, (!remarks.is_empty()).then(|| remarks.join("; ")))
            }
        }
    };
    let is_wanted = protection != Protection::Excluded;
    let told = is_wanted.then(|| damaged(&lost, holding)).flatten();
    let of_others = is_wanted.then(|| of_other_clusters(facts, &saved, &elsewhere)).flatten();
    let remarks: Vec<String> = told.into_iter().chain(why).chain(of_others).collect();
    report.protection = protection;
    report.why = (!remarks.is_empty()).then(|| remarks.join("; "));
    report
}

/// The Snapshots that hold a claim, of whichever cluster. What a Restore saved before it overwrote it, and what is mirrored
/// from another namespace, protects nothing here.
fn held<'a>(facts: &'a Facts, namespace: &str, component: &str) -> Vec<Held<'a>> {
    facts
        .snapshots
        .iter()
        .filter(|s| s.namespace().as_deref() == Some(namespace))
        .filter(|s| s.spec.undo_of.is_none() && s.spec.namespace == namespace)
        .filter_map(|s| Some((s, s.status.as_ref()?.components.iter().find(|c| c.name == component)?)))
        .collect()
}

/// What was saved in another cluster is of another claim. Told where nothing else holds this one, and where nobody can say
/// which cluster this is.
fn of_other_clusters(facts: &Facts, saved: &[Held<'_>], elsewhere: &[Held<'_>]) -> Option<String> {
    if facts.cluster_name.is_some() {
        let newest = elsewhere.iter().max_by_key(|(s, _)| s.spec.time.0);
        let (newest, _) = newest.filter(|_| saved.is_empty())?;
        return Some(format!(
            "what Snapshot {} holds was saved in cluster {}, and protects nothing here",
            newest.name_any(),
            newest.spec.cluster
        ));
    }
    let clusters: BTreeSet<&str> = saved.iter().map(|(s, _)| s.spec.cluster.as_str()).collect();
    let named: Vec<&str> = clusters.iter().copied().take(CLUSTERS_NAMED).collect();
    let more = if clusters.len() > named.len() { ", …" } else { "" };
    (clusters.len() > 1).then(|| {
        format!(
            "Snapshots of several clusters hold it ({}{more}), and which of them this is cannot be read from \
             its operator: it may be that only another one saves it",
            named.join(", ")
        )
    })
}

/// That a newer backup of the claim than the one that holds it cannot be read any more.
fn damaged(lost: &[(&Snapshot, &SnapshotComponent)], holding: Option<&Snapshot>) -> Option<String> {
    let (newest, _) = lost.iter().max_by_key(|(snapshot, _)| snapshot.spec.time.0)?;
    let newer = holding.is_none_or(|holding| holding.spec.time.0 < newest.spec.time.0);
    newer.then(|| format!("its data in Snapshot {} cannot be read any more", newest.name_any()))
}

/// That the newest backup of the claim holds nothing and an earlier one does: its volume may have been lost and made anew,
/// which makes a backup without a fault. It may have been made before the claim that is there now.
fn emptied(
    newest: Option<&(&Snapshot, &SnapshotComponent)>,
    saved: &[(&Snapshot, &SnapshotComponent)],
) -> Option<String> {
    let (newest, _) = newest.filter(|(_, component)| component.files == Some(0))?;
    let (older, files) = saved
        .iter()
        .filter(|(snapshot, _)| snapshot.spec.cluster == newest.spec.cluster)
        .filter(|(snapshot, _)| snapshot.spec.time.0 < newest.spec.time.0)
        .filter_map(|(snapshot, component)| Some((snapshot, component.files.filter(|files| *files > 0)?)))
        .max_by_key(|(snapshot, _)| snapshot.spec.time.0)?;
    Some(format!(
        "it held no files when it was saved; Snapshot {} has {} of it",
        older.name_any(),
        counted(files, "file", "files")
    ))
}

fn began(backup: &Backup) -> Option<Timestamp> {
    let started = backup.status.as_ref().and_then(|s| s.start_time.as_ref());
    started.or(backup.metadata.creation_timestamp.as_ref()).map(|t| t.0)
}

/// What a run says against a claim.
#[derive(Debug, Default)]
struct Complaint {
    text: Option<String>,
    no_data: bool,
    /// The operator said that the default is `OptIn`, and the claim did not opt in.
    not_opted_in: bool,
    /// When the run began, if it was to save the claim and saved nothing of it.
    failed: Option<Timestamp>,
}

impl Complaint {
    /// Whether a claim without an annotation is left out by wish. Where the default is not known now, by what the last
    /// run said; a run that was to save it all the same has something else to say.
    fn leaves_out(&self, default: Option<ClaimsDefault>) -> bool {
        match default {
            Some(default) => default == ClaimsDefault::OptIn && (self.not_opted_in || self.text.is_none()),
            None => self.not_opted_in,
        }
    }
}

/// None when the run had nothing to do with the claim, or has not ended.
fn complaint(backup: &Backup, claim: &str, component: &str) -> Option<Complaint> {
    let status = backup.status.as_ref()?;
    if !status.phase?.is_terminal() {
        return None;
    }
    let because = |reason: &str, message: Option<&String>| {
        let what = message.map(|m| format!(": {m}")).unwrap_or_default();
        format!("{reason}{what}")
    };
    if let Some(of_run) = status.components.iter().find(|c| c.name == component) {
        let fine = of_run.phase == ComponentPhase::Succeeded;
        let reason = of_run.reason.as_deref().unwrap_or(of_run.phase.as_str());
        let text = (!fine).then(|| because(reason, of_run.message.as_ref()));
        let failed = began(backup).filter(|_| of_run.phase == ComponentPhase::Failed);
        return Some(Complaint { text, failed, ..Complaint::default() });
    }
    let skipped = status.coverage.as_ref()?.skipped.iter().find(|s| s.claim == claim)?;
    match skipped.reason {
        // A run for other claims says nothing about this one.
        SkipReason::NotSelected => None,
        SkipReason::NoDataYet => Some(Complaint { no_data: true, ..Complaint::default() }),
        reason => Some(Complaint {
            text: Some(because(reason.as_str(), skipped.message.as_ref())),
            not_opted_in: reason == SkipReason::NotOptedIn,
            failed: began(backup).filter(|_| !reason.is_harmless()),
            ..Complaint::default()
        }),
    }
}

/// What a run says that was to save the claim and failed before it came to its claims, as one whose storage is away.
fn refused(
    backup: &Backup,
    claim: &PersistentVolumeClaim,
    default: Option<ClaimsDefault>,
) -> Option<Complaint> {
    let status = backup.status.as_ref().filter(|status| status.phase == Some(BackupPhase::Failed))?;
    let name = claim.name_any();
    let mut skipped = status.coverage.iter().flat_map(|coverage| &coverage.skipped);
    if !status.components.is_empty() || skipped.any(|skip| skip.claim == name) {
        return None;
    }
    let volumes = &backup.spec.volumes;
    let wish = ClaimWish::of(claim.annotations());
    let asked_for = match wish {
        ClaimWish::Always => true,
        ClaimWish::Never(_) => false,
        ClaimWish::Slip | ClaimWish::Unsaid if volumes.claims.is_empty() && volumes.selectors.is_empty() => {
            !wish.leaves_out(default.unwrap_or(ClaimsDefault::OptOut))
        }
        ClaimWish::Slip | ClaimWish::Unsaid => {
            let matches = |selector: &LabelSelector| {
                Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(claim.labels()))
            };
            volumes.claims.contains(&name) || volumes.selectors.iter().any(matches)
        }
    };
    let message = status.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
    asked_for.then(|| Complaint {
        text: Some(format!("Backup {} failed{message}", backup.name_any())),
        failed: began(backup),
        ..Complaint::default()
    })
}

/// What the backup behind a Snapshot could not save of the component. Its object tells more, but may be gone, or have
/// been of another cluster.
fn lacks(snapshot: &Snapshot, facts: &Facts, component: &str) -> Option<String> {
    told(snapshot, facts, component).or_else(|| {
        let saved =
            snapshot.status.iter().flat_map(|status| &status.components).find(|c| c.name == component)?;
        let count = saved.unreadable.filter(|_| !snapshot.has_all_of(component))?;
        Some(format!(
            "UnreadableFiles: {count} of its files or directories could not be read when it was saved"
        ))
    })
}

/// What the run itself says that it could not save.
fn told(snapshot: &Snapshot, facts: &Facts, component: &str) -> Option<String> {
    let backup = facts.backups.iter().find(|b| b.uid().as_deref() == Some(&snapshot.spec.backup.uid))?;
    let of_run = backup.status.as_ref()?.components.iter().find(|c| c.name == component)?;
    if of_run.phase != ComponentPhase::PartiallyFailed {
        return None;
    }
    let message = of_run.message.as_deref().unwrap_or("some files are missing");
    Some(format!("{}: {message}", of_run.reason.as_deref().unwrap_or("PartiallyFailed")))
}
