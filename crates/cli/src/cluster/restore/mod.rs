//! `holdfast restore`: shows what a Restore would do, asks, makes it, and follows it.

use holdfast_api::refs::ObjectRef;
use holdfast_api::restore::RestoreFrom;
use holdfast_api::{Restore, Snapshot, names as api_names};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::DeleteParams;

use super::connect::Cluster;
use super::fault::{self, Fault};
use super::follow::{End, follow, look_later, say_goes_on, tell};
use super::interrupt::Interrupt;
use super::output::{self, Format};
use super::plan;
use super::run_view::Run as _;
use super::snapshots::newest_first;
use super::{names, question, summary};
use crate::exit;
use crate::failure::Result;
use crate::ui::report;

mod args;
mod request;
pub(super) mod undo;

#[expect(
    unreachable_pub,
    reason = "it is part of the public `Command`, which the lint does not see through this"
)]
pub use args::Args;

pub(super) async fn run(args: Args) -> Result<u8> {
    args.check()?;
    if !args.dry_run && !args.yes && !question::somebody_is_there() {
        return Err(names::usage(
            "a restore asks before it changes anything, and there is no terminal to ask on",
            "look at the plan with --dry-run, then give --yes",
        ));
    }
    let now = Timestamp::now();
    let source = args.connection.open().await?;
    let target = args.to_namespace.as_ref().map_or_else(|| source.clone(), |name| source.within(name));
    let snapshots = if args.from_storage.is_some() {
        Vec::new()
    } else {
        let mut all = source.list::<Snapshot>(false).await?;
        if all.is_empty() {
            source.check_namespace().await?;
        }
        newest_first(&mut all);
        all
    };
    let spec = request::spec(&args, &source.namespace, &target.namespace, &snapshots, now)?;
    let choice = Choice { yes: args.yes, dry_run: args.dry_run, no_wait: args.no_wait, output: args.output };
    let name = match args.name {
        Some(name) => name,
        None => names::of_run("restore", now)?,
    };
    let mut wanted = Restore::new(&name, spec);
    wanted.metadata.namespace = Some(target.namespace.clone());
    plan_and_do(&target, wanted, choice).await
}

/// How far to go, and in which form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice {
    /// Without being asked.
    pub(super) yes: bool,
    /// Only the plan.
    pub(super) dry_run: bool,
    /// Without following.
    pub(super) no_wait: bool,
    /// Form of the result.
    pub(super) output: Format,
}

/// Shows the plan, asks, does it, follows it.
pub(super) async fn plan_and_do(cluster: &Cluster, mut wanted: Restore, choice: Choice) -> Result<u8> {
    let mut interrupt = Interrupt::listen();
    let Some(planned) = look(cluster, &wanted, &mut interrupt).await? else {
        tell("interrupted while the plan was made; nothing was changed");
        return Ok(exit::INTERRUPTED);
    };
    let code = planned.view().exit_code();
    if choice.dry_run && !choice.output.for_people() {
        output::object(&planned, choice.output)?;
        return Ok(code);
    }
    let mut page = plan::page(&planned, Timestamp::now());
    if let Some(text) = plan::prospect(&planned) {
        page.push('\n');
        page.push_str(&text);
    }
    // The plan is the result only where nothing follows; where an object does, it is talk.
    if choice.output.for_people() {
        report(page.trim_end())?;
    } else {
        tell(page.trim_end());
    }
    if choice.dry_run || code != exit::OK {
        return Ok(code);
    }
    let volumes = planned.status.as_ref().and_then(|s| s.plan.as_ref()).map_or(0, |p| p.volumes.len());
    if !choice.yes {
        let what = crate::text::counted(volumes as u64, "volume", "volumes");
        let question = format!("Restore {what} in namespace {}?", cluster.namespace);
        if !question::ask(&question, &mut interrupt).await? {
            tell("nothing was changed");
            return Ok(exit::DECLINED);
        }
    }
    as_planned(&mut wanted, &planned);
    let made = cluster.create(&wanted).await?;
    if choice.no_wait {
        let format = if choice.output.for_people() { Format::Name } else { choice.output };
        output::object(&made, format)?;
        tell(&look_later(&made.view()));
        return Ok(exit::OK);
    }
    tell(&format!("{} is made; Ctrl-C stops following, not the restore", made.view().title()));
    match follow(cluster, &made, &mut interrupt).await? {
        End::LeftAlone => {
            say_goes_on(&made.view());
            Ok(exit::INTERRUPTED)
        }
        End::Ended(restore) => {
            if choice.output.for_people() {
                report(summary::restore(&restore, Timestamp::now()).trim_end())?;
            } else {
                output::object(&*restore, choice.output)?;
            }
            Ok(restore.view().exit_code())
        }
    }
}

/// Makes a dry run of it, waits for its end, and removes it, whatever happens. None when interrupted.
async fn look(cluster: &Cluster, wanted: &Restore, interrupt: &mut Interrupt) -> Result<Option<Restore>> {
    let mut dry = wanted.clone();
    dry.spec.dry_run = true;
    dry.metadata.name = Some(names::of_run("plan", Timestamp::now())?);
    let made = cluster.create(&dry).await?;
    let ended = follow(cluster, &made, interrupt).await;
    remove(cluster, &made).await;
    match ended? {
        End::Ended(planned) => Ok(Some(*planned)),
        End::LeftAlone => Ok(None),
    }
}

async fn remove(cluster: &Cluster, dry: &Restore) {
    let name = dry.name_any();
    match cluster.api::<Restore>().delete(&name, &DeleteParams::background()).await {
        Err(e) if fault::sort(&e) != Fault::NotFound => {
            let failure = cluster.failed(&e, "remove the dry run");
            tell(&format!(
                "{}; remove it with `kubectl -n {} delete restore {name}`",
                failure.cause, cluster.namespace
            ));
        }
        _ => {}
    }
}

/// Holds the Restore to what the plan showed: the same Snapshot, and the same components.
fn as_planned(wanted: &mut Restore, planned: &Restore) {
    let Some(status) = &planned.status else { return };
    if let Some(repository) = wanted.spec.from.repository.as_mut() {
        // The Snapshot that was chosen goes with the dry run where nothing else needs its Repository.
        if repository.snapshot_id.is_none() {
            repository.time = status.snapshot_time.clone().or(repository.time.take());
        }
    } else if let Some(snapshot) = &status.snapshot_ref {
        let namespace = wanted.metadata.namespace.clone().unwrap_or_default();
        let from = snapshot.namespace_or(&namespace);
        wanted.spec.from = RestoreFrom {
            snapshot_ref: Some(ObjectRef::seen_from(&namespace, from, &snapshot.name)),
            ..RestoreFrom::default()
        };
    }
    if wanted.spec.components.is_empty() {
        let volumes = status.plan.iter().flat_map(|plan| &plan.volumes);
        wanted.spec.components = volumes.map(|volume| volume.component.clone()).collect();
    }
}

/// The component of a claim.
fn component(claim: &str) -> String {
    api_names::volume_component(claim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_what_was_planned() {
        let read = |yaml: &str| serde_saphyr::from_str::<Restore>(yaml).unwrap();
        let mut wanted = read(
            "
apiVersion: holdfast.dev/v1alpha1
kind: Restore
metadata: {name: back, namespace: shop}
spec: {from: {latestOf: {claim: data}}}
",
        );
        let planned = read(
            "
apiVersion: holdfast.dev/v1alpha1
kind: Restore
metadata: {name: plan, namespace: shop}
spec: {from: {latestOf: {claim: data}}, dryRun: true}
status: {phase: Planned, snapshotRef: {name: first-ae15}, plan: {volumes: [{component: volume/data, claim: data}]}}
",
        );
        as_planned(&mut wanted, &planned);
        assert_eq!(
            output::to_yaml(&wanted.spec).unwrap(),
            "activeDeadline: 12h
components:
- volume/data
dryRun: false
from:
  snapshotRef:
    name: first-ae15
missingClaims: Refuse
quiesce: Auto
retries: 2
runAs: Auto
undo: true"
        );
    }

    /// The dry run takes the Repository that it made with it, and the Snapshots.
    #[test]
    fn a_repository_that_the_cluster_does_not_know_is_named_again_with_the_time_that_was_chosen() {
        let read = |spec: &str, status: &str| {
            let head =
                "apiVersion: holdfast.dev/v1alpha1\nkind: Restore\nmetadata: {name: r, namespace: shop}\n";
            serde_saphyr::from_str::<Restore>(&format!("{head}spec: {spec}\nstatus: {status}\n")).unwrap()
        };
        let from = |more: &str| format!("{{from: {{repository: {{storageRef: {{name: offsite}}{more}}}}}}}");
        let planned = read(
            &from(""),
            "{phase: Planned, snapshotRef: {name: first-ae15}, snapshotTime: 2026-11-20T02:00:00Z,
              plan: {volumes: [{component: volume/data, claim: data}]}}",
        );
        let asked = |more: &str| {
            let mut wanted = read(&from(more), "{}");
            as_planned(&mut wanted, &planned);
            assert_eq!(wanted.spec.components, ["volume/data"]);
            assert!(wanted.spec.from.snapshot_ref.is_none());
            let repository = wanted.spec.from.repository.unwrap();
            (repository.time.map(|time| time.0.to_string()), repository.snapshot_id)
        };
        let then = Some("2026-11-20T02:00:00Z".to_owned());
        assert_eq!(asked(""), (then.clone(), None));
        assert_eq!(asked(", time: 2026-11-25T00:00:00Z"), (then, None));
        assert_eq!(asked(", snapshotId: aabbccdd"), (None, Some("aabbccdd".to_owned())));
    }
}
