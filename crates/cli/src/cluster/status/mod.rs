//! `holdfast status`: what is protected, what is not and why, what runs and what failed, at a glance.

use std::collections::BTreeSet;

use holdfast_api::{Backup, BackupStorage, Duration, Repository, Restore, Snapshot};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim};
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use super::connect::{Cluster, Connection};
use super::follow::tell;
use super::operator;
use super::output::{ReportFormat, to_json, to_yaml};
use crate::exit;
use crate::failure::Result;
use crate::ui;
use defaults::Defaults;

pub(super) mod claims;
pub(super) mod defaults;
mod page;
mod report;

/// Command line of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// For scripts: exit with 5 when a claim is not protected, its last backup failed, or its last good one is older than --max-age
    #[arg(long)]
    check: bool,
    /// How old the last good backup of a claim may be, e.g. 26h
    #[arg(long, value_name = "DURATION")]
    max_age: Option<Duration>,
    /// Form of the result
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: ReportFormat,
    #[command(flatten)]
    connection: Connection,
}

/// What a report is made from, read together.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub(super) storages: Vec<BackupStorage>,
    pub(super) repositories: Vec<Repository>,
    pub(super) backups: Vec<Backup>,
    pub(super) restores: Vec<Restore>,
    pub(super) snapshots: Vec<Snapshot>,
    pub(super) claims: Vec<PersistentVolumeClaim>,
    pub(super) defaults: Defaults,
    /// What the operator calls this cluster; none when it cannot be seen.
    pub(super) cluster_name: Option<String>,
}

pub(super) async fn run(args: Args) -> Result<u8> {
    let cluster = args.connection.open().await?;
    let facts = read(&cluster, args.all_namespaces).await?;
    let now = Timestamp::now();
    let report = report::report(&facts, args.max_age.map(Duration::to_std), now);
    match args.output {
        ReportFormat::Json => ui::report(&to_json(&report)?)?,
        ReportFormat::Yaml => ui::report(&to_yaml(&report)?)?,
        ReportFormat::Table => {
            if facts.claims.is_empty() && !args.all_namespaces {
                cluster.check_namespace().await?;
            }
            ui::report(page::page(&report, args.all_namespaces, now).trim_end())?;
        }
    }
    if args.check && !report.is_protected() {
        tell("not everything is protected");
        return Ok(exit::FOUND);
    }
    Ok(exit::OK)
}

pub(super) async fn read(cluster: &Cluster, everywhere: bool) -> Result<Facts> {
    let (storages, repositories, backups, restores, snapshots, claims) = tokio::try_join!(
        cluster.list::<BackupStorage>(everywhere),
        cluster.list::<Repository>(everywhere),
        cluster.list::<Backup>(everywhere),
        cluster.list::<Restore>(everywhere),
        cluster.list::<Snapshot>(everywhere),
        cluster.list::<PersistentVolumeClaim>(everywhere),
    )?;
    let (defaults, cluster_name) = settings(cluster, everywhere).await;
    let mut facts =
        Facts { storages, repositories, backups, restores, snapshots, claims, defaults, cluster_name };
    if !everywhere {
        foreign_storages(cluster, &mut facts).await;
    }
    Ok(facts)
}

/// What becomes of claims that nobody speaks about, and what this cluster is called, as far as the caller may look.
async fn settings(cluster: &Cluster, everywhere: bool) -> (Defaults, Option<String>) {
    let api = Api::<Namespace>::all(cluster.client.clone());
    let namespaces = async {
        if everywhere {
            api.list(&ListParams::default()).await.map(|list| list.items)
        } else {
            api.get(&cluster.namespace).await.map(|namespace| vec![namespace])
        }
    };
    let (operators, namespaces) = tokio::join!(operator::deployments(cluster), namespaces);
    let operators = operators.as_deref().ok();
    (Defaults::new(operators, namespaces.as_deref().ok()), operators.and_then(operator::cluster_name))
}

/// Adds the storages of other namespaces that the repositories of this one are in, as far as they may be looked at.
async fn foreign_storages(cluster: &Cluster, facts: &mut Facts) {
    let own = cluster.namespace.as_str();
    let elsewhere: BTreeSet<(String, String)> = facts
        .repositories
        .iter()
        .map(|r| &r.spec.storage_ref)
        .filter(|storage| storage.namespace_or(own) != own)
        .map(|storage| (storage.namespace_or(own).to_owned(), storage.name.clone()))
        .collect();
    for (namespace, name) in elsewhere {
        if let Ok(storage) = cluster.within(&namespace).api::<BackupStorage>().get(&name).await {
            facts.storages.push(storage);
        }
    }
    facts.storages.sort_by_key(|s| (s.namespace(), s.name_any()));
}
