//! Are the storages and repositories in order, and is every namespace protected? Pure.

use std::collections::BTreeMap;

use holdfast_api::backup_storage::StoragePhase;
use holdfast_api::conditions::{ConditionStatus, ConditionType};
use holdfast_api::names::ANNOTATION_ALLOW_ROOT_RUNNER;
use holdfast_api::repository::RepositoryPhase;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use super::super::status::claims::{Protection, claims};
use super::finding::Finding;
use super::gather::Facts;
use crate::text::counted;

/// A storage that was not tried for so long is not looked after.
const TRIED: SignedDuration = SignedDuration::from_hours(1);
/// Label by which Pod Security refuses pods.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
/// Most claims that a message names.
const NAMED: usize = 5;

/// Judges storages, repositories, namespaces.
pub(super) fn examine(facts: &Facts, now: Timestamp, findings: &mut Vec<Finding>) {
    storages(facts, now, findings);
    defaults(facts, findings);
    repositories(facts, findings);
    coverage(facts, now, findings);
    pod_security(facts, findings);
}

fn storages(facts: &Facts, now: Timestamp, findings: &mut Vec<Finding>) {
    if facts.objects.storages.is_empty() {
        findings.push(
            Finding::warning("storage", "there is no storage to back up to")
                .remedy("make a BackupStorage; the notes of the chart show one"),
        );
    }
    for storage in &facts.objects.storages {
        let about =
            format!("BackupStorage {}/{}", storage.namespace().unwrap_or_default(), storage.name_any());
        let status = storage.status.clone().unwrap_or_default();
        let ready = status.conditions.iter().find(|c| c.type_ == ConditionType::Ready.as_str());
        let why = ready.map(|c| format!("{}: {}", c.reason, c.message)).unwrap_or_default();
        findings.push(
            match status.phase.unwrap_or_default() {
                StoragePhase::Ready => {
                    let tried = status.last_validation_time.as_ref().map(|t| now.duration_since(t.0));
                    match tried {
                        Some(age) if age > TRIED => Finding::warning(
                            "storage",
                            format!("it was Ready when it was last tried, {} min ago", age.as_mins()),
                        )
                        .remedy("the operator tries every few minutes: see whether it is at work"),
                        _ => Finding::ok("storage", "it is Ready"),
                    }
                }
                StoragePhase::Unavailable => Finding::error("storage", format!("it is Unavailable: {why}"))
                    .remedy("mend what the reason names; it is tried again by itself"),
                StoragePhase::Pending => {
                    Finding::warning("storage", format!("it was not tried yet {why}").trim_end())
                        .remedy("wait a minute; if it stays so, see whether the operator is at work")
                }
            }
            .about(about.clone()),
        );
        findings.extend(warnings(&status.conditions).map(|finding| finding.about(about.clone())));
    }
}

/// The warnings among conditions: what is True and no sign of health.
fn warnings(conditions: &[Condition]) -> impl Iterator<Item = Finding> {
    conditions
        .iter()
        .filter(|c| c.status == ConditionStatus::True.as_str())
        .filter(|c| {
            c.type_ != ConditionType::Ready.as_str() && c.type_ != ConditionType::SnapshotsSynced.as_str()
        })
        .map(|c| Finding::warning("condition", format!("{}: {}", c.type_, c.message)))
}

fn defaults(facts: &Facts, findings: &mut Vec<Finding>) {
    let mut by_namespace: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for storage in facts.objects.storages.iter().filter(|s| s.spec.default) {
        by_namespace.entry(storage.namespace().unwrap_or_default()).or_default().push(storage.name_any());
    }
    let mut unique = true;
    for (namespace, names) in by_namespace.iter().filter(|(_, names)| names.len() > 1) {
        unique = false;
        findings.push(
            Finding::error(
                "default-storage",
                format!(
                    "{} all call themselves the default: Backups that name none are refused",
                    names.join(", ")
                ),
            )
            .about(format!("Namespace {namespace}"))
            .remedy("leave `spec.default: true` to one of them"),
        );
    }
    if unique && !by_namespace.is_empty() {
        findings.push(Finding::ok("default-storage", "no namespace has several default storages"));
    }
}

fn repositories(facts: &Facts, findings: &mut Vec<Finding>) {
    for repository in &facts.objects.repositories {
        let about =
            format!("Repository {}/{}", repository.namespace().unwrap_or_default(), repository.name_any());
        let status = repository.status.clone().unwrap_or_default();
        let ready = status.conditions.iter().find(|c| c.type_ == ConditionType::Ready.as_str());
        let why = ready.map(|c| format!("{}: {}", c.reason, c.message)).unwrap_or_default();
        let synced = status.conditions.iter().find(|c| {
            c.type_ == ConditionType::SnapshotsSynced.as_str() && c.status == ConditionStatus::False.as_str()
        });
        findings.push(
            match (status.phase.unwrap_or_default(), synced) {
                (RepositoryPhase::Failed, _) => {
                    Finding::error("repository", format!("it cannot be used: {why}"))
                        .remedy("mend what the reason names")
                }
                (RepositoryPhase::Pending | RepositoryPhase::Initializing, _) => {
                    Finding::warning("repository", format!("it is not ready yet {why}").trim_end())
                }
                (RepositoryPhase::Ready, Some(c)) => Finding::warning(
                    "repository",
                    format!("its Snapshots are not in line with it: {}: {}", c.reason, c.message),
                ),
                (RepositoryPhase::Ready, None) => Finding::ok("repository", "it is Ready"),
            }
            .about(about.clone()),
        );
        findings.extend(warnings(&status.conditions).map(|finding| finding.about(about.clone())));
    }
}

/// Namespaces with claims that no backup holds, or that the last one did not save. How old a backup may be is not for
/// the doctor to say.
fn coverage(facts: &Facts, now: Timestamp, findings: &mut Vec<Finding>) {
    let mut by_namespace: BTreeMap<String, (Vec<String>, Vec<String>, usize)> = BTreeMap::new();
    for claim in claims(&facts.objects, None, now) {
        let (unprotected, failed, others) = by_namespace.entry(claim.namespace).or_default();
        match claim.protection {
            Protection::Unprotected | Protection::Incomplete => unprotected.push(claim.claim),
            Protection::LastRunFailed | Protection::NotThere => failed.push(claim.claim),
            Protection::Protected | Protection::TooOld => *others += 1,
            Protection::Excluded | Protection::NoDataYet => {}
        }
    }
    for (namespace, (unprotected, failed, others)) in by_namespace {
        let about = format!("Namespace {namespace}");
        if !failed.is_empty() {
            let message = format!(
                "only an earlier backup holds {}, the last run that was to save it failed: {}",
                counted(failed.len() as u64, "claim", "claims"),
                named(&failed)
            );
            findings.push(
                Finding::warning("coverage", message)
                    .about(about.clone())
                    .remedy(format!("`holdfast status -n {namespace}` tells why")),
            );
        }
        if unprotected.is_empty() && failed.is_empty() {
            findings.push(
                Finding::ok("coverage", "every claim with data is backed up or left out by wish")
                    .about(about.clone()),
            );
        }
        if unprotected.is_empty() {
            continue;
        }
        let names = named(&unprotected);
        let message = if others == 0 && failed.is_empty() {
            format!(
                "nothing in it is backed up ({}: {names})",
                counted(unprotected.len() as u64, "claim", "claims")
            )
        } else {
            format!(
                "{} not or not wholly backed up: {names}",
                counted(unprotected.len() as u64, "claim is", "claims are")
            )
        };
        findings.push(
            Finding::warning("coverage", message).about(about).remedy(format!(
                "`holdfast backup -n {namespace}`; `holdfast status -n {namespace}` tells why"
            )),
        );
    }
}

/// The first of these, as a message names them.
fn named(claims: &[String]) -> String {
    let more = if claims.len() > NAMED { ", …" } else { "" };
    format!("{}{more}", claims.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", "))
}

/// Namespaces whose Pod Security forbids what they are to allow.
fn pod_security(facts: &Facts, findings: &mut Vec<Finding>) {
    let Ok(namespaces) = &facts.namespaces else { return };
    for namespace in namespaces {
        let root = namespace.annotations().get(ANNOTATION_ALLOW_ROOT_RUNNER).is_some_and(|v| v == "true");
        let restricted = namespace.labels().get(ENFORCE).is_some_and(|level| level == "restricted");
        if root && restricted {
            findings.push(
                Finding::warning(
                    "pod-security",
                    format!("{ANNOTATION_ALLOW_ROOT_RUNNER} allows root runners, and {ENFORCE}: restricted forbids them"),
                )
                .about(format!("Namespace {}", namespace.name_any()))
                .remedy("take the annotation away, or set the label to baseline"),
            );
        }
    }
}
