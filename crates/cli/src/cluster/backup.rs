//! `holdfast backup`: makes a Backup and follows it.

use std::collections::BTreeSet;

use holdfast_api::backup::BackupVolumes;
use holdfast_api::refs::{LocalRef, RunAs, StorageRef};
use holdfast_api::{Backup, BackupSpec, Duration};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use kube::api::ListParams;

use super::connect::{Cluster, Connection};
use super::follow::{End, follow, look_later, say_goes_on, tell};
use super::interrupt::Interrupt;
use super::names;
use super::output::{self, Format};
use super::run_view::Run as _;
use super::summary;
use crate::exit;
use crate::failure::Result;
use crate::ui::report;

/// Command line of `backup`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the Backup; one with the time in it is made up when absent
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Only this claim (may be given several times, or with commas between); all of the namespace when absent
    #[arg(short, long = "claim", value_name = "CLAIM", value_delimiter = ',')]
    claims: Vec<String>,
    /// Only the claims with these labels, e.g. app=shop
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "claims")]
    selector: Option<String>,
    /// Save to this storage; the default one when absent
    #[arg(long, value_name = "[NAMESPACE/]NAME", conflicts_with = "repository")]
    storage: Option<String>,
    /// Save to this Repository of the namespace
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
    /// Leave out files that match this pattern, e.g. '*.tmp' (may be given several times)
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Also save directories that say they are caches (by a file CACHEDIR.TAG)
    #[arg(long)]
    include_caches: bool,
    /// A word to find the snapshots by (may be given several times)
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Who reads the files: Auto, Workload or Root
    #[arg(long, value_name = "WHO", default_value = "Auto", value_parser = run_as, ignore_case = true)]
    run_as: RunAs,
    /// End the run as failed after this time, e.g. 12h
    #[arg(long, value_name = "DURATION")]
    deadline: Option<Duration>,
    /// Follow the run to its end; this is the default
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Make the Backup, and leave at once
    #[arg(long)]
    no_wait: bool,
    /// Print the Backup that would be made, and make none
    #[arg(long)]
    dry_run: bool,
    /// Form of the result
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    connection: Connection,
}

/// Reads a `runAs`.
pub(super) fn run_as(text: &str) -> Result<RunAs, String> {
    let of = |who: &&RunAs| who.as_str().eq_ignore_ascii_case(text);
    RunAs::ALL.iter().find(of).copied().ok_or_else(|| "it is one of Auto, Workload, Root".to_owned())
}

pub(super) async fn run(args: Args) -> Result<u8> {
    let now = Timestamp::now();
    let cluster = args.connection.open().await?;
    let claims = claims(&cluster, &args).await?;
    let backup = build(&args, &cluster.namespace, claims, now)?;
    if args.dry_run {
        let format = if args.output.for_people() { Format::Yaml } else { args.output };
        return output::object(&backup, format).map(|()| exit::OK);
    }
    let mut interrupt = Interrupt::listen();
    let made = cluster.create(&backup).await?;
    if args.no_wait {
        output::object(&made, if args.output.for_people() { Format::Name } else { args.output })?;
        tell(&look_later(&made.view()));
        return Ok(exit::OK);
    }
    tell(&format!("{} is made; Ctrl-C stops following, not the backup", made.view().title()));
    match follow(&cluster, &made, &mut interrupt).await? {
        End::LeftAlone => {
            say_goes_on(&made.view());
            Ok(exit::INTERRUPTED)
        }
        End::Ended(backup) => {
            if args.output.for_people() {
                report(summary::backup(&backup, Timestamp::now()).trim_end())?;
            } else {
                output::object(&*backup, args.output)?;
            }
            Ok(backup.view().exit_code())
        }
    }
}

/// The claims to name in the Backup; none for all.
async fn claims(cluster: &Cluster, args: &Args) -> Result<Vec<String>> {
    if let Some(selector) = &args.selector {
        let filter = ListParams::default().labels(selector);
        let found = cluster.list_where::<PersistentVolumeClaim>(false, &filter).await?;
        if found.is_empty() {
            cluster.check_namespace().await?;
            return Err(names::usage(
                format!("no claim in namespace {} has the labels {selector}", cluster.namespace),
                format!("`kubectl -n {} get pvc --show-labels` shows them", cluster.namespace),
            ));
        }
        return Ok(found.iter().map(ResourceExt::name_any).collect());
    }
    if !args.claims.is_empty() {
        // Whoever may not list claims may still back them up: the operator looks again.
        if let Ok(there) = cluster.list::<PersistentVolumeClaim>(false).await {
            let there: Vec<String> = there.iter().map(ResourceExt::name_any).collect();
            known_claims(&cluster.namespace, &args.claims, &there)?;
        }
    }
    Ok(args.claims.clone())
}

/// Refuses claims that are not there, and proposes others.
pub(super) fn known_claims(namespace: &str, wanted: &[String], there: &[String]) -> Result<()> {
    let Some(absent) = wanted.iter().find(|claim| !there.contains(claim)) else { return Ok(()) };
    Err(names::usage(
        format!("there is no claim {absent} in namespace {namespace}"),
        names::advice(absent, there, &format!("`kubectl -n {namespace} get pvc` lists them")),
    ))
}

/// The Backup that is asked for.
fn build(args: &Args, namespace: &str, claims: Vec<String>, now: Timestamp) -> Result<Backup> {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => names::of_run("backup", now)?,
    };
    let storage_ref = match &args.storage {
        Some(storage) => {
            let (namespace, name) = names::placed(storage)?;
            Some(StorageRef { name, namespace })
        }
        None => None,
    };
    let unique: BTreeSet<String> = claims.into_iter().collect();
    let defaults = BackupSpec::default();
    let spec = BackupSpec {
        storage_ref,
        repository_ref: args.repository.clone().map(LocalRef::new),
        volumes: BackupVolumes {
            claims: unique.into_iter().collect(),
            exclude: args.exclude.clone(),
            exclude_caches: !args.include_caches,
            ..defaults.volumes.clone()
        },
        active_deadline: args.deadline.unwrap_or(defaults.active_deadline),
        run_as: args.run_as,
        tags: args.tags.clone(),
        ..defaults
    };
    let mut backup = Backup::new(&name, spec);
    backup.metadata.namespace = Some(namespace.to_owned());
    Ok(backup)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn built(line: &str) -> String {
        let args = Line::try_parse_from(std::iter::once("x").chain(line.split_whitespace())).unwrap().args;
        let backup =
            build(&args, "shop", args.claims.clone(), "2026-11-20T02:00:00Z".parse().unwrap()).unwrap();
        output::to_yaml(&backup.spec).unwrap()
    }

    #[test]
    fn arguments_become_a_spec() {
        assert_eq!(
            built(
                "first -c logs,data --claim data --storage sys/offsite --tag a --tag b -e *.tmp --deadline 1h --run-as root"
            ),
            "activeDeadline: 1h
failurePolicy:
  onUnreadableFile: PartiallyFail
  retries: 2
runAs: Root
storageRef:
  name: offsite
  namespace: sys
tags:
- a
- b
volumes:
  claims:
  - data
  - logs
  exclude:
  - \"*.tmp\"
  excludeCaches: true"
        );
        assert!(built("--repository r --include-caches").contains("repositoryRef:\n  name: r"));
    }

    #[test]
    fn what_excludes_each_other_is_refused() {
        for line in ["--claim a --selector b=c", "--storage a --repository b", "--run-as me", "a b"] {
            assert!(
                Line::try_parse_from(std::iter::once("x").chain(line.split_whitespace())).is_err(),
                "{line}"
            );
        }
    }

    #[test]
    fn a_claim_that_is_not_there_is_named_with_what_was_meant() {
        let there = ["data".to_owned(), "logs".to_owned()];
        assert!(known_claims("shop", &["data".to_owned()], &there).is_ok());
        let failure = known_claims("shop", &["dtaa".to_owned()], &there).unwrap_err();
        assert_eq!(failure.code, exit::USAGE);
        assert_eq!(failure.advice.as_deref(), Some("did you mean data?"));
    }
}
