//! `holdfast undo`: puts back what a Restore has overwritten, from the Snapshot that it made first.

use holdfast_api::refs::{LocalRef, ObjectRef};
use holdfast_api::restore::{RestoreFrom, RestorePaths, RestoreTo, RestoreVolume};
use holdfast_api::{Restore, RestoreSpec, Snapshot, names as api_names};
use jiff::Timestamp;
use kube::ResourceExt;

use super::super::connect::Connection;
use super::super::follow::tell;
use super::super::output::{Format, age};
use super::super::{names, question};
use super::{Choice, plan_and_do};
use crate::failure::Result;
use crate::text::safe;

/// Command line of `undo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The Restore whose effect is to be undone
    #[arg(value_name = "RESTORE")]
    restore: String,
    /// Show the plan, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Go on without being asked
    #[arg(short, long)]
    yes: bool,
    /// Leave as soon as the Restore is made
    #[arg(long)]
    no_wait: bool,
    /// Form of the result
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    connection: Connection,
}

pub(in super::super) async fn run(args: Args) -> Result<u8> {
    if !args.dry_run && !args.yes && !question::somebody_is_there() {
        return Err(names::usage(
            "undoing a restore asks before it changes anything, and there is no terminal to ask on",
            "look at the plan with --dry-run, then give --yes",
        ));
    }
    let cluster = args.connection.open().await?;
    let name = args.restore.strip_prefix("restore/").unwrap_or(&args.restore);
    let done = cluster.get::<Restore>(name).await?;
    let saved = saved(&done)?;
    let place = saved.namespace_or(&cluster.namespace);
    let snapshot = cluster.within(place).get::<Snapshot>(&saved.name).await?;
    let mut wanted = Restore::new(&names::of_run("undo", Timestamp::now())?, spec(&done, saved, &snapshot));
    wanted.metadata.namespace = Some(cluster.namespace.clone());
    for claim in left_as_they_are(&done) {
        tell(&format!(
            "claim {claim} held no files before Restore {}: what that put there stays; delete it by hand if it is not wanted",
            done.name_any()
        ));
    }
    tell(&told(&snapshot, &wanted.spec.volumes));
    let choice = Choice { yes: args.yes, dry_run: args.dry_run, no_wait: args.no_wait, output: args.output };
    plan_and_do(&cluster, wanted, choice).await
}

/// The Snapshot of what was there before, or why there is none.
fn saved(done: &Restore) -> Result<&ObjectRef> {
    let status = done.status.as_ref();
    status.and_then(|s| s.undo_snapshot_ref.as_ref()).ok_or_else(|| {
        let why = status.and_then(|s| s.undo.as_ref()).and_then(|undo| undo.message.clone());
        let name = done.name_any();
        names::usage(
            match why {
                Some(why) => format!("Restore {name} has saved nothing that could be put back: {why}"),
                None => format!("Restore {name} has saved nothing that could be put back"),
            },
            "`holdfast snapshots` lists what there is to restore from",
        )
    })
}

/// What putting back means for each volume: all of it, or what the Restore was to put back of it.
fn told(saved: &Snapshot, volumes: &[RestoreVolume]) -> String {
    let volume = |volume: &RestoreVolume| {
        let claim = safe(api_names::claim_of_component(&volume.component).unwrap_or(&volume.component));
        let list = |patterns: &[String]| patterns.iter().map(|p| safe(p)).collect::<Vec<_>>().join(", ");
        let Some(RestorePaths { include, exclude }) = &volume.paths else {
            return format!("all of {claim}");
        };
        let of = if include.is_empty() { "all".to_owned() } else { list(include) };
        let but = if exclude.is_empty() { String::new() } else { format!(" (but {})", list(exclude)) };
        format!("{of} of {claim}{but}")
    };
    let volumes: Vec<String> = volumes.iter().map(volume).collect();
    format!(
        "will be as it was {} ago: {}. What was written since and is part of that goes too",
        age(saved.spec.time.0, Timestamp::now()),
        volumes.join("; ")
    )
}

/// The claims of which nothing was saved, for there was nothing on them.
fn left_as_they_are(done: &Restore) -> Vec<String> {
    let undo = done.status.as_ref().and_then(|status| status.undo.as_ref());
    undo.iter()
        .flat_map(|undo| &undo.components)
        .filter(|component| component.snapshot_id.is_none())
        .map(|component| safe(api_names::claim_of_component(&component.name).unwrap_or(&component.name)))
        .collect()
}

/// Every volume that held files as it was: also what the first Restore deleted, and without what it made. Of one of which
/// only a part was restored that part, so that what was written elsewhere since stays.
fn spec(done: &Restore, saved: &ObjectRef, snapshot: &Snapshot) -> RestoreSpec {
    let components = snapshot.status.iter().flat_map(|status| &status.components);
    let volume = |name: &String| {
        let claim = api_names::claim_of_component(name)?;
        let to = RestoreTo { existing_claim: Some(LocalRef::new(claim)), new_claim: None };
        let paths = paths(done, claim);
        Some(RestoreVolume { to, paths, delete_extra: true, ..RestoreVolume::back_to(name.clone(), claim) })
    };
    RestoreSpec {
        from: RestoreFrom { snapshot_ref: Some(saved.clone()), ..RestoreFrom::default() },
        volumes: components.filter_map(|component| volume(&component.name)).collect(),
        quiesce: done.spec.quiesce,
        run_as: done.spec.run_as,
        pod_config_ref: done.spec.pod_config_ref.clone(),
        ..RestoreSpec::default()
    }
}

/// Which part of a claim a Restore was to put back; none where it was all of it.
fn paths(done: &Restore, claim: &str) -> Option<RestorePaths> {
    let onto = |volume: &&RestoreVolume| volume.to.existing_claim.as_ref().is_some_and(|to| to.name == claim);
    done.spec.volumes.iter().find(onto)?.paths.clone().filter(|paths| *paths != RestorePaths::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: serde::de::DeserializeOwned>(yaml: &str) -> T {
        serde_saphyr::from_str(yaml).unwrap()
    }

    fn done(status: &str) -> Restore {
        read(&format!(
            "
apiVersion: holdfast.dev/v1alpha1
kind: Restore
metadata: {{name: back, namespace: shop}}
spec: {{from: {{snapshotRef: {{name: first-ae15}}}}, runAs: Root}}
status: {status}
"
        ))
    }

    #[test]
    fn every_volume_is_put_back_exactly_and_as_the_same_user() {
        let done = done("{phase: Succeeded, undoSnapshotRef: {name: back-77aa}}");
        let snapshot: Snapshot = read(
            "
apiVersion: holdfast.dev/v1alpha1
kind: Snapshot
metadata: {name: back-77aa, namespace: shop}
spec:
  repositoryRef: {name: offsite}
  time: 2026-11-20T02:00:00Z
  cluster: prod
  namespace: shop
  backup: {name: back, uid: u}
status: {complete: true, components: [{name: volume/data, snapshotId: a1}, {name: volume/logs, snapshotId: b2}]}
",
        );
        let spec = spec(&done, saved(&done).unwrap(), &snapshot);
        assert_eq!(spec.from.snapshot_ref.unwrap().name, "back-77aa");
        assert_eq!(spec.run_as, holdfast_api::refs::RunAs::Root);
        assert!(spec.undo, "undoing can be undone");
        let volumes: Vec<_> = spec
            .volumes
            .iter()
            .map(|v| {
                (v.component.as_str(), v.to.existing_claim.as_ref().unwrap().name.as_str(), v.delete_extra)
            })
            .collect();
        assert_eq!(volumes, [("volume/data", "data", true), ("volume/logs", "logs", true)]);
    }

    #[test]
    fn of_a_part_that_was_restored_only_that_part_goes_back_and_it_is_told() {
        let done: Restore = read(
            "
apiVersion: holdfast.dev/v1alpha1
kind: Restore
metadata: {name: back, namespace: shop}
spec:
  from: {snapshotRef: {name: first-ae15}}
  volumes:
  - {component: volume/old, to: {existingClaim: {name: data}}, paths: {include: [/etc/app.conf], exclude: ['*.tmp']}}
  - {component: volume/data, to: {newClaim: {name: other}}, paths: {include: [/x]}}
  - {component: volume/logs, to: {existingClaim: {name: logs}}, paths: {}}
status: {phase: Succeeded, undoSnapshotRef: {name: back-77aa}}
",
        );
        let snapshot: Snapshot = read(
            "
apiVersion: holdfast.dev/v1alpha1
kind: Snapshot
metadata: {name: back-77aa, namespace: shop}
spec: {repositoryRef: {name: offsite}, time: 2026-11-20T02:00:00Z, cluster: prod, namespace: shop, backup: {name: back, uid: u}}
status: {components: [{name: volume/data, snapshotId: a1}, {name: volume/logs, snapshotId: b2}]}
",
        );
        let spec = spec(&done, saved(&done).unwrap(), &snapshot);
        let paths: Vec<_> = spec.volumes.iter().map(|volume| volume.paths.clone()).collect();
        let part = RestorePaths { include: vec!["/etc/app.conf".into()], exclude: vec!["*.tmp".into()] };
        assert_eq!(paths, [Some(part), None]);
        let told = told(&snapshot, &spec.volumes);
        assert!(told.starts_with("will be as it was "), "{told}");
        assert!(
            told.contains(": /etc/app.conf of data (but *.tmp); all of logs. What was written"),
            "{told}"
        );
    }

    #[test]
    fn a_claim_that_was_empty_is_told_because_it_stays_as_it_is() {
        let saved = "{name: volume/data, snapshotId: a1, phase: Succeeded}";
        let empty = "{name: volume/logs, phase: Succeeded}";
        let done = done(&format!("{{phase: Succeeded, undo: {{components: [{saved}, {empty}]}}}}"));
        assert_eq!(left_as_they_are(&done), ["logs"]);
    }

    #[test]
    fn a_restore_that_saved_nothing_is_refused_with_its_reason() {
        let failure = saved(&done("{phase: Succeeded}")).unwrap_err();
        assert!(failure.cause.contains("Restore back has saved nothing"), "{}", failure.cause);
    }
}
