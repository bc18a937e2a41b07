//! `holdfast snapshots`: what there is to restore from.

use holdfast_api::{Snapshot, names::volume_component};
use jiff::Timestamp;
use kube::ResourceExt;

use super::connect::Connection;
use super::follow::tell;
use super::names;
use super::output::{self, Format, age};
use crate::exit;
use crate::failure::Result;
use crate::text::{Table, count, counted, local_time, safe, size};
use crate::ui::print;

/// Command line of `snapshots`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only those that hold this claim
    #[arg(short, long, value_name = "CLAIM")]
    claim: Option<String>,
    /// Only those of this Repository
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
    /// Only those of this Backup
    #[arg(long, value_name = "NAME")]
    backup: Option<String>,
    /// Only complete ones
    #[arg(long)]
    complete: bool,
    /// Only the newest N of each namespace
    #[arg(long, value_name = "N")]
    latest: Option<usize>,
    /// Of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Form of the result
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: Args) -> Result<u8> {
    let cluster = args.connection.open().await?;
    let all = cluster.list::<Snapshot>(args.all_namespaces).await?;
    let there = all.len();
    let found = select(all, &args);
    if !args.output.for_people() {
        return output::list(&found, args.output).map(|()| exit::OK);
    }
    if found.is_empty() {
        if !args.all_namespaces {
            cluster.check_namespace().await?;
        }
        let place = if args.all_namespaces {
            "any namespace".to_owned()
        } else {
            format!("namespace {}", cluster.namespace)
        };
        tell(&if there == 0 {
            format!("no snapshots in {place}; `holdfast backup` makes one")
        } else {
            format!("none of the {} in {place} matches", counted(there as u64, "snapshot", "snapshots"))
        });
        return Ok(exit::OK);
    }
    let wide = args.output == Format::Wide;
    print(table(&found, args.all_namespaces, wide, Timestamp::now()).trim_end())?;
    Ok(exit::OK)
}

/// Those that are asked for, the newest first.
fn select(mut snapshots: Vec<Snapshot>, args: &Args) -> Vec<Snapshot> {
    snapshots.retain(|s| {
        args.claim.as_ref().is_none_or(|claim| holds(s, claim))
            && args.repository.as_ref().is_none_or(|name| s.spec.repository_ref.name == *name)
            && args.backup.as_ref().is_none_or(|name| s.spec.backup.name == *name)
            && (!args.complete || s.is_complete())
    });
    newest_first(&mut snapshots);
    if let Some(most) = args.latest {
        let mut kept = std::collections::BTreeMap::<Option<String>, usize>::new();
        snapshots.retain(|s| {
            let of_namespace = kept.entry(s.namespace()).or_default();
            *of_namespace += 1;
            *of_namespace <= most
        });
    }
    snapshots
}

/// Sorts by the time at which their Backups began.
pub(super) fn newest_first(snapshots: &mut [Snapshot]) {
    snapshots.sort_by(|a, b| {
        b.spec
            .time
            .0
            .cmp(&a.spec.time.0)
            .then_with(|| a.namespace().cmp(&b.namespace()))
            .then_with(|| a.name_any().cmp(&b.name_any()))
    });
}

/// Whether a claim's volume is in it.
pub(super) fn holds(snapshot: &Snapshot, claim: &str) -> bool {
    let component = volume_component(claim);
    snapshot.status.iter().flat_map(|s| &s.components).any(|c| c.name == component)
}

/// What a name on the command line means: a Snapshot, the beginning of one's name, or the Backup that made it.
pub(super) fn find<'a>(typed: &str, snapshots: &'a [Snapshot], namespace: &str) -> Result<&'a Snapshot> {
    let all: Vec<String> = snapshots.iter().map(ResourceExt::name_any).collect();
    let of_backup: Vec<&Snapshot> = snapshots.iter().filter(|s| s.spec.backup.name == typed).collect();
    let named = |name: &str| snapshots.iter().find(|s| s.name_any() == name);
    let several = |names: &[String]| {
        names::usage(
            format!("{typed} could be any of {}", names.join(", ")),
            "give the whole name of the one that you mean",
        )
    };
    match (names::meant(typed, &all), of_backup.as_slice()) {
        (names::Meant::One(name), _) if name == typed => named(name),
        (_, [one]) => Some(*one),
        (_, [_, ..]) => {
            return Err(several(&of_backup.iter().map(|s| s.name_any()).collect::<Vec<_>>()));
        }
        (names::Meant::One(name), _) => named(name),
        (names::Meant::Several(found), _) => {
            return Err(several(&found.iter().map(ToString::to_string).collect::<Vec<_>>()));
        }
        (names::Meant::Nothing, _) => None,
    }
    .ok_or_else(|| {
        names::usage(
            format!("there is no Snapshot {typed} in namespace {namespace}"),
            names::advice(typed, &all, &format!("`holdfast snapshots -n {namespace}` lists them")),
        )
    })
}

fn table(snapshots: &[Snapshot], with_namespace: bool, wide: bool, now: Timestamp) -> String {
    let mut heading = vec!["NAME", "TAKEN", "AGE", "COMPLETE", "SIZE", "COMPONENTS", "BACKUP"];
    if with_namespace {
        heading.insert(0, "NAMESPACE");
    }
    if wide {
        heading.extend(["REPOSITORY", "CLUSTER", "FILES"]);
    }
    let mut table = Table::new(&heading);
    for snapshot in snapshots {
        let status = snapshot.status.clone().unwrap_or_default();
        let dash = || "-".to_owned();
        let names: Vec<String> = status.components.iter().map(|c| safe(&c.name)).collect();
        let components = if wide || names.len() <= 3 {
            names.join(",")
        } else {
            format!("{},… ({})", names.iter().take(2).cloned().collect::<Vec<_>>().join(","), names.len())
        };
        let mut row = vec![
            snapshot.name_any(),
            local_time(snapshot.spec.time.0),
            age(snapshot.spec.time.0, now),
            match status.complete {
                // Some of it, or all: which, its object says.
                _ if snapshot.is_damaged(None) => "DAMAGED".to_owned(),
                Some(true) => "yes".to_owned(),
                Some(false) => "NO".to_owned(),
                None => "unknown".to_owned(),
            },
            status.total_size.map_or_else(dash, size),
            if components.is_empty() { dash() } else { components },
            match &snapshot.spec.undo_of {
                // Nobody's backup: what a Restore was about to overwrite.
                Some(restore) => format!("before Restore {}", safe(restore)),
                None => safe(&snapshot.spec.backup.name),
            },
        ];
        if with_namespace {
            row.insert(0, snapshot.namespace().unwrap_or_default());
        }
        if wide {
            let files = status.components.iter().filter_map(|c| c.files).reduce(u64::saturating_add);
            row.extend([
                safe(&snapshot.spec.repository_ref.name),
                safe(&snapshot.spec.cluster),
                files.map_or_else(dash, count),
            ]);
        }
        table.row(row);
    }
    table.render()
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

    fn args(line: &str) -> Args {
        Line::try_parse_from(std::iter::once("x").chain(line.split_whitespace())).unwrap().args
    }

    fn snapshot(name: &str, backup: &str, time: &str, status: &str) -> Snapshot {
        serde_saphyr::from_str(&format!(
            "
apiVersion: holdfast.dev/v1alpha1
kind: Snapshot
metadata: {{name: {name}, namespace: shop}}
spec: {{repositoryRef: {{name: offsite}}, time: {time}, backup: {{name: {backup}, uid: u-{backup}}}, cluster: prod, namespace: shop}}
status: {status}
"
        ))
        .unwrap()
    }

    fn three() -> Vec<Snapshot> {
        vec![
            snapshot(
                "daily-1-aa",
                "daily-1",
                "2026-11-18T02:00:00Z",
                "{complete: true, totalSize: 1536, components: [{name: volume/data, snapshotId: a, files: 3}]}",
            ),
            snapshot(
                "daily-2-bb",
                "daily-2",
                "2026-11-20T02:00:00Z",
                "{complete: false, totalSize: 10, components: [{name: volume/logs, snapshotId: b}]}",
            ),
            snapshot(
                "by-hand-cc",
                "by-hand",
                "2026-11-19T02:00:00Z",
                "{complete: true, components: [{name: volume/a, snapshotId: a}, {name: volume/b, snapshotId: b}, {name: volume/c, snapshotId: c}, {name: volume/data, snapshotId: d}]}",
            ),
        ]
    }

    fn names(line: &str) -> Vec<String> {
        select(three(), &args(line)).iter().map(ResourceExt::name_any).collect()
    }

    #[test]
    fn the_newest_come_first_and_filters_hold() {
        assert_eq!(names(""), ["daily-2-bb", "by-hand-cc", "daily-1-aa"]);
        assert_eq!(names("--claim data"), ["by-hand-cc", "daily-1-aa"]);
        assert_eq!(names("--claim data --latest 1"), ["by-hand-cc"]);
        assert_eq!(names("--complete"), ["by-hand-cc", "daily-1-aa"]);
        assert_eq!(names("--backup daily-1"), ["daily-1-aa"]);
        assert_eq!(names("--repository other"), Vec::<String>::new());
    }

    #[test]
    fn the_table_says_what_is_not_whole() {
        // Local time is left out: it depends on the machine.
        let mut found = select(three(), &args(""));
        let now = "2026-11-20T03:00:00Z".parse().unwrap();
        let text = table(&found, false, false, now);
        let rows: Vec<Vec<&str>> =
            text.lines().map(|l| l.split("  ").map(str::trim).filter(|c| !c.is_empty()).collect()).collect();
        assert_eq!(rows[0], ["NAME", "TAKEN", "AGE", "COMPLETE", "SIZE", "COMPONENTS", "BACKUP"]);
        assert_eq!(
            [rows[1][0], rows[1][2], rows[1][3], rows[1][4], rows[1][5], rows[1][6]],
            ["daily-2-bb", "60m", "NO", "10 B", "volume/logs", "daily-2"]
        );
        assert_eq!([rows[2][3], rows[2][4], rows[2][5]], ["yes", "-", "volume/a,volume/b,… (4)"]);
        found.truncate(1);
        found[0].spec.undo_of = Some("put-back".into());
        let safety = table(&found, false, false, now);
        assert!(safety.lines().nth(1).unwrap().ends_with("before Restore put-back"), "{safety}");
        let wide = table(&found, true, true, now);
        assert!(wide.starts_with("NAMESPACE") && wide.contains("prod"), "{wide}");
    }

    #[test]
    fn a_snapshot_is_found_by_its_name_its_beginning_or_its_backup() {
        let all = three();
        let found = |typed: &str| find(typed, &all, "shop").map(ResourceExt::name_any).map_err(|f| f.advice);
        assert_eq!(found("daily-1-aa").unwrap(), "daily-1-aa");
        assert_eq!(found("by").unwrap(), "by-hand-cc");
        assert_eq!(found("daily-2").unwrap(), "daily-2-bb");
        assert_eq!(found("daily").unwrap_err().unwrap(), "give the whole name of the one that you mean");
        assert!(found("daily-1-ab").unwrap_err().unwrap().contains("daily-1-aa"));
    }
}
