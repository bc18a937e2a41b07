//! What is done to one workload to take it down and to bring it back. Pure; the only place that knows the rules of
//! the quiesce record (principle 2 of the design):
//!
//! - record and count change in one update, so there is no moment between them;
//! - the first run that takes a workload down writes the count, the others only add themselves;
//! - the last run that leaves restores the count;
//! - a person who changes the count meanwhile wins: it is never touched again.

use holdfast_api::quiesce::QuiesceRecord;

use super::workload::Workload;

/// What to do to hold a workload at zero for a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Hold {
    /// This run holds it already, and it is at zero.
    Held,
    /// It is at zero, and not by us: there is nothing to undo, so nothing is written.
    Idle,
    /// Write this change.
    Write(Change),
    /// It must not be touched.
    Refuse(Refusal),
}

/// What to do to let a workload go.
#[derive(Debug, Clone, PartialEq)]
pub enum Release {
    /// This run does not hold it.
    NotHeld,
    /// Write this change.
    Write(Change),
    /// The record is not readable any more: somebody has to look at it.
    Unreadable,
}

/// One update of a workload, to be made under the version that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The record afterwards; `None` removes it.
    pub record: Option<QuiesceRecord>,
    /// The count afterwards; `None` leaves it.
    pub replicas: Option<i32>,
}

/// Why a workload is not taken down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It was scaled up although a run holds it at zero.
    Contested,
    /// Scaling it would delete its claims.
    DeletesClaims,
    /// The annotation of the record holds something else.
    UnreadableRecord,
}

/// What to do to hold a workload at zero for a run.
pub fn hold(workload: &Workload, run: &str) -> Hold {
    let record = match &workload.record {
        Err(_) => return Hold::Refuse(Refusal::UnreadableRecord),
        Ok(record) => record.clone(),
    };
    match &record {
        Some(_) if workload.replicas > 0 => return Hold::Refuse(Refusal::Contested),
        Some(record) if record.is_held_by(run) => return Hold::Held,
        None if workload.replicas == 0 => return Hold::Idle,
        None if workload.deletes_claims => return Hold::Refuse(Refusal::DeletesClaims),
        Some(_) | None => {}
    }
    let replicas = record.is_none().then_some(0);
    Hold::Write(Change { record: Some(QuiesceRecord::hold(record, workload.replicas, run)), replicas })
}

/// What to do to let a workload go, for every holder that `leaves` names.
pub fn release(workload: &Workload, leaves: impl Fn(&str) -> bool) -> Release {
    if workload.has_copy {
        // The count is the Deployment's business. While that is still held, its controller copies anew.
        return Release::Write(Change { record: None, replicas: None });
    }
    let record = match &workload.record {
        Err(_) => return Release::Unreadable,
        Ok(None) => return Release::NotHeld,
        Ok(Some(record)) => record,
    };
    let leaving: Vec<&str> =
        record.holders.iter().map(String::as_str).filter(|holder| leaves(holder)).collect();
    if leaving.is_empty() && !record.holders.is_empty() {
        return Release::NotHeld;
    }
    // A record without holders ends as if its last one left.
    let mut change = Change { record: Some(record.clone()), replicas: None };
    for holder in if leaving.is_empty() { vec![""] } else { leaving } {
        if let Some(record) = change.record.take() {
            let step = record.release(workload.replicas, holder);
            change = Change { record: step.record, replicas: step.scale_to };
        }
    }
    Release::Write(change)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::StatefulSet;

    fn workload(replicas: i32, record: Option<(i32, &[&str])>) -> Workload {
        let mut workload = Workload::from(&StatefulSet::default());
        workload.replicas = replicas;
        workload.record = Ok(record.map(|(replicas, holders)| QuiesceRecord {
            replicas,
            holders: holders.iter().map(|&holder| holder.to_owned()).collect(),
        }));
        workload
    }

    fn apply(workload: &mut Workload, change: Change) {
        workload.record = Ok(change.record);
        workload.replicas = change.replicas.unwrap_or(workload.replicas);
    }

    fn take(workload: &mut Workload, run: &str) {
        let Hold::Write(change) = hold(workload, run) else { panic!("not held by {run}") };
        apply(workload, change);
    }

    fn leave(workload: &mut Workload, run: &str) {
        let Release::Write(change) = release(workload, |holder| holder == run) else {
            panic!("not left by {run}")
        };
        apply(workload, change);
    }

    #[test]
    fn one_run_takes_down_and_brings_back_the_count() {
        let mut set = workload(3, None);
        take(&mut set, "a");
        assert_eq!(set, workload(0, Some((3, &["a"]))));
        assert_eq!(hold(&set, "a"), Hold::Held);
        leave(&mut set, "a");
        assert_eq!(set, workload(3, None));
    }

    #[test]
    fn two_runs_never_record_each_others_zero() {
        let mut set = workload(3, None);
        take(&mut set, "a");
        take(&mut set, "b");
        leave(&mut set, "a");
        assert_eq!(set, workload(0, Some((3, &["b"]))));
        leave(&mut set, "b");
        assert_eq!(set, workload(3, None));
    }

    #[test]
    fn a_person_who_scales_meanwhile_wins() {
        let mut set = workload(3, None);
        take(&mut set, "a");
        set.replicas = 5;
        assert_eq!(hold(&set, "a"), Hold::Refuse(Refusal::Contested));
        assert_eq!(hold(&set, "b"), Hold::Refuse(Refusal::Contested));
        leave(&mut set, "a");
        assert_eq!(set, workload(5, None));
    }

    #[test]
    fn a_workload_that_was_at_zero_stays_untouched() {
        let set = workload(0, None);
        assert_eq!(hold(&set, "a"), Hold::Idle);
        assert_eq!(release(&set, |_| true), Release::NotHeld);
    }

    #[test]
    fn a_run_leaves_only_what_it_holds() {
        let set = workload(0, Some((3, &["b"])));
        assert_eq!(release(&set, |holder| holder == "a"), Release::NotHeld);
    }

    #[test]
    fn a_record_without_holders_is_ended() {
        let mut set = workload(0, Some((2, &[])));
        leave(&mut set, "whoever");
        assert_eq!(set, workload(2, None));
    }

    /// The Deployment controller copies the annotation to the replica set: acting on the copy would scale twice.
    #[test]
    fn a_copied_record_is_taken_away_and_never_acted_on() {
        let copy: k8s_openapi::api::apps::v1::ReplicaSet = serde_saphyr::from_str(
            r#"
metadata:
  name: web-1
  annotations: {holdfast.dev/quiesce: '{"replicas":3,"holders":["a"]}'}
  ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: web, uid: u, controller: true}]
spec: {replicas: 0, selector: {}}
"#,
        )
        .unwrap();
        let copy = Workload::from(&copy);
        assert_eq!(copy.record, Ok(None));
        assert_eq!(
            release(&copy, |holder| holder == "a"),
            Release::Write(Change { record: None, replicas: None })
        );
    }

    #[test]
    fn a_set_that_deletes_its_claims_is_not_scaled() {
        let mut set = workload(3, None);
        set.deletes_claims = true;
        assert_eq!(hold(&set, "a"), Hold::Refuse(Refusal::DeletesClaims));
    }
}
