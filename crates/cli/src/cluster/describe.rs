//! `holdfast describe`: all that is known about an object, in the order in which a person asks.

use std::fmt::Write as _;

use holdfast_api::snapshot::SnapshotStatus;
use holdfast_api::{Backup, BackupStorage, Repository, Restore, Snapshot};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ListParams;
use kube::{Resource, ResourceExt};

use super::connect::{Cluster, Connection};
use super::output::age;
use super::plan;
use super::summary;
use super::target::{self, Kind};
use crate::exit;
use crate::failure::Result;
use crate::text::{Table, count, counted, local_time, safe, size};
use crate::ui::print;

/// Most Events that are shown.
const EVENTS: usize = 15;

/// Command line of `describe`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The object: backup/NAME, restore/NAME, snapshot/NAME, storage/NAME or repository/NAME
    #[arg(value_name = "KIND/NAME")]
    object: String,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: Args) -> Result<u8> {
    let target = target::parse(&args.object)?;
    let cluster = args.connection.open().await?;
    let now = Timestamp::now();
    let name = target.name.as_str();
    let page = match target.kind {
        Kind::Backup => whole(&cluster, name, now, backup).await?,
        Kind::Restore => whole(&cluster, name, now, restore).await?,
        Kind::Snapshot => whole(&cluster, name, now, snapshot).await?,
        Kind::Storage => whole(&cluster, name, now, storage).await?,
        Kind::Repository => whole(&cluster, name, now, repository).await?,
    };
    print(page.trim_end())?;
    Ok(exit::OK)
}

/// The page about an object, with its Events.
async fn whole<K: super::connect::Kind>(
    cluster: &Cluster,
    name: &str,
    now: Timestamp,
    page: fn(&K, Timestamp) -> String,
) -> Result<String> {
    let object = cluster.get::<K>(name).await?;
    let mut text = page(&object, now);
    let mut fields = format!("involvedObject.kind={},involvedObject.name={name}", K::kind(&()));
    if let Some(uid) = object.uid() {
        let _ = write!(fields, ",involvedObject.uid={uid}");
    }
    match cluster.list_where::<Event>(false, &ListParams::default().fields(&fields)).await {
        Ok(found) => text.push_str(&events(found, now)),
        // Whoever may not see Events still sees the object.
        Err(failure) => {
            let _ = writeln!(text, "\nEvents cannot be shown: {}", safe(&failure.cause));
        }
    }
    Ok(text)
}

fn head<K: Resource<DynamicType = ()>>(object: &K, now: Timestamp) -> String {
    let made = object.creation_timestamp();
    let age = made.map(|t| format!(", made {} ago", age(t.0, now))).unwrap_or_default();
    let mut text =
        format!("{} {}/{}{age}\n", K::kind(&()), object.namespace().unwrap_or_default(), object.name_any());
    if object.meta().deletion_timestamp.is_some() {
        text.push_str("! It is being deleted\n");
    }
    text
}

fn fact(page: &mut String, name: &str, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(page, "  {name:<17} {}", safe(text));
}

fn backup(object: &Backup, now: Timestamp) -> String {
    let mut page = summary::backup(object, now);
    let spec = &object.spec;
    page.push_str("\nAsked for:\n");
    match (&spec.repository_ref, &spec.storage_ref) {
        (Some(repository), _) => fact(&mut page, "repository", &repository.name),
        (None, Some(storage)) => {
            let place = storage.namespace.as_ref().map(|n| format!("{n}/")).unwrap_or_default();
            fact(&mut page, "storage", &format!("{place}{}", storage.name));
        }
        (None, None) => fact(&mut page, "storage", "the default one"),
    }
    let claims = &spec.volumes.claims;
    let selectors = spec.volumes.selectors.len();
    let mut chosen = claims.clone();
    if selectors > 0 {
        chosen.push(format!("those that match {}", counted(selectors as u64, "selector", "selectors")));
    }
    let all = "all of the namespace".to_owned();
    fact(&mut page, "claims", &if chosen.is_empty() { all } else { chosen.join(", ") });
    if !spec.volumes.exclude.is_empty() {
        fact(&mut page, "leaving out", &spec.volumes.exclude.join(", "));
    }
    if !spec.tags.is_empty() {
        fact(&mut page, "tags", &spec.tags.join(", "));
    }
    fact(&mut page, "run as", spec.run_as.as_str());
    fact(&mut page, "deadline", &spec.active_deadline.to_string());
    conditions(&mut page, object.status.as_ref().map(|s| s.conditions.as_slice()), now);
    page
}

fn restore(object: &Restore, now: Timestamp) -> String {
    let mut page = summary::restore(object, now);
    let status = object.status.as_ref();
    if status.and_then(|s| s.plan.as_ref()).is_some() {
        page.push_str("\nPlan:\n");
        for line in plan::page(object, now).lines() {
            let _ = writeln!(page, "  {line}");
        }
    }
    conditions(&mut page, status.map(|s| s.conditions.as_slice()), now);
    page
}

/// Whether anything is missing in a Snapshot, and what.
fn completeness(status: &SnapshotStatus, of_a_restore: bool) -> String {
    let unreadable: u64 = status.components.iter().filter_map(|component| component.unreadable).sum();
    let gaps = format!("{} files or directories could not be read when it was made", count(unreadable));
    match (status.complete, status.missing) {
        (Some(false), missing) if of_a_restore && missing != Some(0) => {
            "NO: it lacks claims of its Restore, which held no files or could not be saved; the bucket does not tell which"
                .to_owned()
        }
        (Some(true), _) if unreadable > 0 => {
            format!("yes, as onUnreadableFile: Ignore has it; but {gaps}, and are not in it")
        }
        (Some(true), _) => "yes: all that its Backup began to save is in the repository".to_owned(),
        (Some(false), Some(0)) => format!("NO: {gaps}"),
        (Some(false), Some(missing)) if unreadable > 0 => {
            format!("NO: {} components of its Backup are missing, and {gaps}", count(missing))
        }
        (Some(false), Some(missing)) => {
            format!("NO: {} components of its Backup are missing", count(missing))
        }
        (Some(false), None) => "NO: components of its Backup are missing".to_owned(),
        (None, _) => "not known yet".to_owned(),
    }
}

fn snapshot(object: &Snapshot, now: Timestamp) -> String {
    let mut page = head(object, now);
    let status = object.status.clone().unwrap_or_default();
    let taken = object.spec.time.0;
    fact(&mut page, "taken", &format!("{} ({} ago)", local_time(taken), age(taken, now)));
    fact(&mut page, "complete", &completeness(&status, object.spec.undo_of.is_some()));
    fact(&mut page, "backup", &object.spec.backup.name);
    fact(&mut page, "repository", &object.spec.repository_ref.name);
    fact(
        &mut page,
        "made in",
        &format!("namespace {} of cluster {}", object.spec.namespace, object.spec.cluster),
    );
    if let Some(bytes) = status.total_size {
        fact(&mut page, "size", &size(bytes));
    }
    if !status.components.is_empty() {
        page.push('\n');
        let mut table = Table::new(&[
            "COMPONENT",
            "FILES",
            "NOT READ",
            "SIZE",
            "CAPACITY",
            "CLASS",
            "MODES",
            "RESTIC SNAPSHOT",
        ]);
        for component in &status.components {
            let dash = || "-".to_owned();
            let source = &component.source;
            table.row(vec![
                safe(&component.name),
                component.files.map_or_else(dash, count),
                component.unreadable.map_or_else(dash, count),
                component.size.map_or_else(dash, size),
                source.capacity.as_ref().map_or_else(dash, |q| safe(&q.0)),
                source.storage_class.as_deref().map_or_else(dash, safe),
                if source.access_modes.is_empty() { dash() } else { safe(&source.access_modes.join(",")) },
                safe(component.snapshot_id.get(..8).unwrap_or(&component.snapshot_id)),
            ]);
        }
        page.push_str(&table.render());
    }
    let namespace = object.namespace().unwrap_or_default();
    let _ = writeln!(page, "\nTo restore it: `holdfast restore -n {namespace} {}`", object.name_any());
    conditions(&mut page, Some(&status.conditions), now);
    page
}

fn storage(object: &BackupStorage, now: Timestamp) -> String {
    let mut page = head(object, now);
    let status = object.status.clone().unwrap_or_default();
    fact(&mut page, "phase", status.phase.unwrap_or_default().as_str());
    let backend = &object.spec.backend;
    fact(&mut page, "place", &backend.location(""));
    if let Some(s3) = &backend.s3 {
        fact(&mut page, "region", &s3.region);
    }
    if let Some(identity) = backend.web_identity() {
        let account = &identity.service_account_name;
        fact(&mut page, "credentials", &format!("web identity of ServiceAccount {account}"));
    } else if let Some(credentials) = backend.credentials() {
        fact(&mut page, "credentials", &format!("Secret {}", credentials.name));
    }
    fact(&mut page, "default", if object.spec.default { "yes" } else { "no" });
    fact(&mut page, "used by", object.spec.usage_policy.allowed_namespaces.from.as_str());
    let recovery = object.spec.recovery_password_secret_ref.as_ref();
    let recovery = recovery.map_or_else(
        || "none: with a lost password Secret the data is lost".to_owned(),
        |secret| format!("Secret {}, key {}", secret.name, secret.key),
    );
    fact(&mut page, "recovery password", &recovery);
    if let Some(at) = &status.last_validation_time {
        fact(&mut page, "last tried", &format!("{} ({} ago)", local_time(at.0), age(at.0, now)));
    }
    if !status.repositories.is_empty() {
        page.push_str("\nRepositories in it:\n");
        let mut table = Table::new(&["  DIRECTORY", "CLUSTER", "NAMESPACE", "NAME", "ID"]);
        let or_dash = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), safe);
        for found in &status.repositories {
            let id = found.repository_id.as_ref().map(|id| id.chars().take(8).collect());
            table.row(vec![
                format!("  {}", safe(&found.directory)),
                or_dash(&found.cluster),
                or_dash(&found.namespace),
                or_dash(&found.name),
                or_dash(&id),
            ]);
        }
        page.push_str(&table.render());
    }
    conditions(&mut page, Some(&status.conditions), now);
    page
}

fn repository(object: &Repository, now: Timestamp) -> String {
    let mut page = head(object, now);
    let status = object.status.clone().unwrap_or_default();
    fact(&mut page, "phase", status.phase.unwrap_or_default().as_str());
    let storage = &object.spec.storage_ref;
    let place = storage.namespace.as_ref().map(|n| format!("{n}/")).unwrap_or_default();
    fact(&mut page, "storage", &format!("{place}{}", storage.name));
    if let Some(directory) = &status.directory {
        fact(&mut page, "directory", directory);
    }
    if let Some(id) = &status.repository_id {
        fact(&mut page, "id", id);
    }
    if let Some(secret) = &status.password_secret {
        fact(&mut page, "password", &format!("Secret {}/{}", secret.namespace, secret.name));
    }
    if let Some(n) = status.snapshot_count {
        fact(&mut page, "snapshots", &n.to_string());
    }
    for (name, at) in [
        ("last complete Snapshot", &status.last_successful_backup),
        ("last compared", &status.last_sync_time),
    ] {
        let text = at.as_ref().map(|at| format!("{} ({} ago)", local_time(at.0), age(at.0, now)));
        fact(&mut page, name, text.as_deref().unwrap_or("never"));
    }
    if !status.previous_repositories.is_empty() {
        fact(&mut page, "older ones", &status.previous_repositories.join(", "));
    }
    conditions(&mut page, Some(&status.conditions), now);
    page
}

fn conditions(page: &mut String, conditions: Option<&[Condition]>, now: Timestamp) {
    let conditions = conditions.unwrap_or_default();
    if conditions.is_empty() {
        return;
    }
    page.push_str("\nConditions:\n");
    let mut table = Table::new(&["  TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"]);
    for c in conditions {
        table.row(vec![
            format!("  {}", c.type_),
            c.status.clone(),
            age(c.last_transition_time.0, now),
            c.reason.clone(),
            safe(&c.message),
        ]);
    }
    page.push_str(&table.render());
}

/// When an Event was last seen.
fn seen(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().and_then(|s| s.last_observed_time.as_ref()).map(|t| t.0);
    series.or(event.last_timestamp.as_ref().map(|t| t.0)).or(event.event_time.as_ref().map(|t| t.0)).or(event
        .metadata
        .creation_timestamp
        .as_ref()
        .map(|t| t.0))
}

fn events(mut found: Vec<Event>, now: Timestamp) -> String {
    if found.is_empty() {
        return String::from(
            "\nEvents: none in the API server's memory (it forgets them after an hour or so)\n",
        );
    }
    found.sort_by_key(seen);
    let left_out = found.len().saturating_sub(EVENTS);
    let mut table = Table::new(&["  AGE", "TYPE", "REASON", "MESSAGE"]);
    for event in found.iter().skip(left_out) {
        let times = event.series.as_ref().and_then(|s| s.count).or(event.count).unwrap_or(1);
        let times = if times > 1 { format!(" (x{times})") } else { String::new() };
        table.row(vec![
            format!("  {}{times}", seen(event).map_or_else(|| "-".to_owned(), |at| age(at, now))),
            event.type_.clone().unwrap_or_default(),
            event.reason.clone().unwrap_or_default(),
            safe(event.message.as_deref().unwrap_or_default()),
        ]);
    }
    let more = if left_out > 0 { format!(" (the last {EVENTS}; {left_out} before)") } else { String::new() };
    format!("\nEvents{more}:\n{}", table.render())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-20T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_snapshot_says_what_is_missing_in_it() {
        for (status, said) in [
            (
                "{complete: true, missing: 0, components: [{name: a, snapshotId: i, unreadable: 0}]}",
                "yes: all that its Backup began",
            ),
            (
                "{complete: true, components: [{name: a, snapshotId: i, unreadable: 2}]}",
                "Ignore has it; but 2 files",
            ),
            (
                "{complete: false, missing: 0, components: [{name: a, snapshotId: i, unreadable: 2}]}",
                "NO: 2 files",
            ),
            (
                "{complete: false, missing: 3, components: [{name: a, snapshotId: i, unreadable: 2}]}",
                "NO: 3 components",
            ),
            ("{complete: false, missing: 3}", "NO: 3 components of its Backup are missing"),
            ("{complete: false}", "NO: components"),
            ("{}", "not known yet"),
        ] {
            let status: SnapshotStatus = serde_saphyr::from_str(status).unwrap();
            let found = completeness(&status, false);
            assert!(found.contains(said), "{found}");
        }
        let of_a_restore = |status: &str| completeness(&serde_saphyr::from_str(status).unwrap(), true);
        assert!(of_a_restore("{complete: false, missing: 1}").contains("claims of its Restore"));
        assert!(of_a_restore("{complete: true, missing: 0}").starts_with("yes"));
        assert!(of_a_restore("{complete: false, missing: 0}").starts_with("NO: 0 files"));
    }

    #[test]
    fn a_storage_says_where_it_is_and_what_is_wrong() {
        let object: BackupStorage = serde_saphyr::from_str(
            "
apiVersion: holdfast.dev/v1alpha1
kind: BackupStorage
metadata: {name: offsite, namespace: shop, creationTimestamp: 2026-11-20T11:00:00Z}
spec: {default: true, backend: {s3: {bucket: backups, prefix: prod, endpoint: 'https://s3', credentialsSecretRef: {name: keys}}}}
status:
  phase: Unavailable
  repositories: [{directory: prod/shop/main-x, cluster: prod, namespace: shop, name: main, repositoryId: 0123456789abcdef}]
  conditions: [{type: Ready, status: 'False', reason: BucketNotFound, message: Make the bucket., lastTransitionTime: 2026-11-20T11:30:00Z}]
",
        )
        .unwrap();
        assert_eq!(
            storage(&object, now()),
            "BackupStorage shop/offsite, made 60m ago
  phase             Unavailable
  place             s3:https://s3/backups/prod
  region            us-east-1
  credentials       Secret keys
  default           yes
  used by           Same
  recovery password none: with a lost password Secret the data is lost

Repositories in it:
  DIRECTORY         CLUSTER  NAMESPACE  NAME  ID
  prod/shop/main-x  prod     shop       main  01234567

Conditions:
  TYPE   STATUS  SINCE  REASON          MESSAGE
  Ready  False   30m    BucketNotFound  Make the bucket.
"
        );
    }

    #[test]
    fn events_are_in_order_and_bounded() {
        let event = |minute: usize| {
            serde_saphyr::from_str::<Event>(&format!(
                "
apiVersion: v1
kind: Event
metadata: {{name: e, namespace: shop}}
involvedObject: {{}}
type: Normal
reason: R{minute}
message: m
count: 2
lastTimestamp: 2026-11-20T11:{minute:02}:00Z
"
            ))
            .unwrap()
        };
        let text = events((0..20).rev().map(event).collect(), now());
        assert!(text.starts_with("\nEvents (the last 15; 5 before):\n"), "{text}");
        assert!(text.contains("55m (x2)  Normal  R5 "), "{text}");
        assert!(text.trim_end().lines().last().unwrap().contains("R19"), "{text}");
        assert!(events(Vec::new(), now()).contains("none"));
    }
}
