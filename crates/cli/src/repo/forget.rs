//! `repo forget`: removes snapshots by name or by a policy. Their data stay until a prune sweeps them.

use std::str::FromStr;

use holdfast_engine::Id;
use holdfast_engine::forget::{self, ForgetReport, ForgetSpec, GroupReport, Selection};
use holdfast_engine::format::snapshot::Snapshot;
use holdfast_engine::prune::PruneSpec;
use holdfast_engine::repository::{Repository, SnapshotFilter};
use holdfast_engine::retention::{GroupBy, Keep, Policy, Span};
use holdfast_engine::store::FileKind;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::origin::{Origin, lines};
use super::session::Session;
use super::snapshots::to_json;
use super::{prune, select};
use crate::exit;
use crate::failure::{Failure, Result};
use crate::text::{Table, counted, local_time, safe};

/// Command line of `repo forget`.
#[expect(clippy::doc_markdown, reason = "the comments are the help text, which shows backticks as they are")]
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Forget these snapshots: ids, beginnings of ids, or `latest`
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    #[command(flatten)]
    keep: KeepArgs,
    /// Which snapshots belong together: any of host, paths, tags; '' puts all together
    #[arg(short, long, value_name = "GROUP", default_value = "host,paths")]
    group_by: GroupBy,
    /// Only snapshots of this host (may be given several times; empty: of any)
    /// [env: HOLDFAST_HOST, RESTIC_HOST]
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
    /// Only snapshots with this tag; `a,b` asks for both, several flags for any of them
    #[arg(long, value_name = "TAG[,TAG…]")]
    tag: Vec<String>,
    /// Only snapshots of this backed-up path (may be given several times: all of them)
    #[arg(long, value_name = "PATH")]
    path: Vec<String>,
    /// Forget nothing, only say what would be forgotten
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Allow that no snapshot of a host and path is left
    #[arg(long)]
    unsafe_allow_remove_all: bool,
    /// Prune afterwards, when something was forgotten
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    prune_options: prune::Options,
}

/// What to keep.
#[expect(clippy::struct_field_names, reason = "the flags are named after the fields")]
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Keep")]
struct KeepArgs {
    /// The newest N (or `unlimited`, also below)
    #[arg(short = 'l', long, value_name = "N")]
    keep_last: Option<Count>,
    /// The newest of each of the last N hours that have one
    #[arg(short = 'H', long, value_name = "N")]
    keep_hourly: Option<Count>,
    /// The newest of each of the last N days that have one
    #[arg(short = 'd', long, value_name = "N")]
    keep_daily: Option<Count>,
    /// The newest of each of the last N weeks that have one
    #[arg(short = 'w', long, value_name = "N")]
    keep_weekly: Option<Count>,
    /// The newest of each of the last N months that have one
    #[arg(short = 'm', long, value_name = "N")]
    keep_monthly: Option<Count>,
    /// The newest of each of the last N years that have one
    #[arg(short = 'y', long, value_name = "N")]
    keep_yearly: Option<Count>,
    /// All that are younger than this, e.g. 1y5m7d2h, counted from the newest
    #[arg(long, value_name = "SPAN")]
    keep_within: Option<Span>,
    /// The newest of each hour, of those younger than this
    #[arg(long, value_name = "SPAN")]
    keep_within_hourly: Option<Span>,
    /// The newest of each day, of those younger than this
    #[arg(long, value_name = "SPAN")]
    keep_within_daily: Option<Span>,
    /// The newest of each week, of those younger than this
    #[arg(long, value_name = "SPAN")]
    keep_within_weekly: Option<Span>,
    /// The newest of each month, of those younger than this
    #[arg(long, value_name = "SPAN")]
    keep_within_monthly: Option<Span>,
    /// The newest of each year, of those younger than this
    #[arg(long, value_name = "SPAN")]
    keep_within_yearly: Option<Span>,
    /// All with these tags: `a,b` asks for both, several flags for any of them
    #[arg(long, value_name = "TAG[,TAG…]")]
    keep_tag: Vec<String>,
}

/// A number, or `unlimited`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Count(Keep);

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            // restic took -1 until it had the word.
            "unlimited" | "-1" => Ok(Self(Keep::All)),
            number => number
                .parse()
                .map(|n| Self(Keep::Number(n)))
                .map_err(|_| "write a number, or unlimited".to_owned()),
        }
    }
}

impl KeepArgs {
    fn policy(&self) -> Policy {
        let count = |c: Option<Count>| c.map_or(Keep::default(), |c| c.0);
        let span = |s: Option<Span>| s.unwrap_or_default();
        let tags = |list: &String| list.split(',').map(|t| t.trim().to_owned()).collect();
        Policy {
            last: count(self.keep_last),
            hourly: count(self.keep_hourly),
            daily: count(self.keep_daily),
            weekly: count(self.keep_weekly),
            monthly: count(self.keep_monthly),
            yearly: count(self.keep_yearly),
            within: span(self.keep_within),
            within_hourly: span(self.keep_within_hourly),
            within_daily: span(self.keep_within_daily),
            within_weekly: span(self.keep_within_weekly),
            within_monthly: span(self.keep_within_monthly),
            within_yearly: span(self.keep_within_yearly),
            tags: self.keep_tag.iter().map(tags).collect(),
        }
    }
}

pub(super) async fn run(session: &Session<'_>, args: &Args) -> Result<u8> {
    let policy = args.keep.policy();
    let filter = select::Filter { host: args.host.clone(), tag: args.tag.clone(), path: args.path.clone() };
    if !args.snapshots.is_empty() && !policy.is_empty() {
        return Err(Failure::usage(
            "snapshots were named and a policy was given",
            "name snapshots, or say what to keep with --keep-…, not both",
        ));
    }
    if args.snapshots.is_empty() && policy.is_empty() && !args.unsafe_allow_remove_all {
        return Err(Failure::usage(
            "neither snapshots nor a policy was given, so nothing is forgotten",
            "name snapshots, or say what to keep, e.g. --keep-daily 7 --keep-weekly 5 --keep-monthly 12",
        ));
    }
    let no_lock = session.no_lock(args.dry_run)?;
    let repository = session.open().await?;
    let filter = filter.to_engine();
    let selection = selection(session, &repository, args, filter, policy.clone()).await?;
    let spec = ForgetSpec {
        selection,
        dry_run: args.dry_run,
        floor: usize::from(!args.unsafe_allow_remove_all),
        known: Vec::new(),
        now: Timestamp::now(),
    };
    let report = if no_lock {
        session.bound(forget::preview(&repository, &spec, &session.ctx)).await?
    } else {
        session
            .locked(&repository, async |guard| {
                session.bound(forget::forget(&repository, guard, &spec, &session.ctx)).await
            })
            .await?
    };
    let gone = !report.forgotten.is_empty() || !report.damaged.is_empty();
    if !args.prune || !gone {
        session.ui.close();
    }
    if session.ui.json() {
        if !report.groups.is_empty() {
            let groups = report.groups.iter().map(group_json).collect::<Result<Vec<_>>>()?;
            session.ui.report(&Value::from(groups).to_string())?;
        }
        if !args.snapshots.is_empty() {
            session.ui.report(&summary(&report, args.dry_run).to_string())?;
        }
    } else {
        if !policy.is_empty() {
            session.ui.report(&format!("policy: {}", safe(&policy.to_string())))?;
        }
        for group in &report.groups {
            session.ui.report(&group_text(group))?;
        }
        session.ui.report(&describe(&report, args.dry_run))?;
    }
    let mut code = code(&report, !args.snapshots.is_empty());
    if args.prune && gone {
        let mut spec = args.prune_options.spec(args.dry_run);
        if args.dry_run {
            // They are there still, and the prune that is foretold would find them gone.
            let damaged = report.damaged.iter().map(|damaged| damaged.id);
            spec.without = report.forgotten.iter().map(|(id, _)| *id).chain(damaged).collect();
        }
        code = code.max(prune::perform(session, &repository, &PruneSpec { no_lock, ..spec }).await?);
    }
    Ok(code)
}

/// What was to go and stays makes it a part. A policy keeps what is held, as it keeps others; a name asks for it.
fn code(report: &ForgetReport, named: bool) -> u8 {
    let whole = report.retained.is_empty() && (!named || report.held.is_empty());
    if whole { exit::OK } else { exit::PARTIAL }
}

/// What became of snapshots that were named, for which restic has no message.
fn summary(report: &ForgetReport, dry_run: bool) -> Value {
    let retained: Vec<Value> =
        report.retained.iter().map(|(id, why)| json!({"id": id.to_hex(), "reason": why})).collect();
    json!({
        "message_type": "summary",
        "dry_run": dry_run,
        "forgotten": report.forgotten.iter().map(|(id, _)| id.to_hex()).collect::<Vec<_>>(),
        "damaged": report.damaged.iter().map(|damaged| damaged.id.to_hex()).collect::<Vec<_>>(),
        "held": report.held.iter().map(Id::to_hex).collect::<Vec<_>>(),
        "retained": retained,
    })
}

async fn selection(
    session: &Session<'_>,
    repository: &Repository,
    args: &Args,
    filter: SnapshotFilter,
    policy: Policy,
) -> Result<Selection> {
    if args.snapshots.is_empty() {
        return Ok(if policy.is_empty() {
            Selection::All(filter)
        } else {
            Selection::Policy { filter, group_by: args.group_by, policy }
        });
    }
    let mut ids: Vec<Id> = Vec::with_capacity(args.snapshots.len());
    for name in &args.snapshots {
        // By its name alone, so that one that cannot be read can go.
        ids.push(if name == "latest" {
            session.bound(repository.find_snapshot(name, &filter)).await?.0
        } else {
            session.bound(repository.find_file(FileKind::Snapshot, name)).await?
        });
    }
    Ok(Selection::Ids(ids))
}

/// A group as restic's JSON has it; empty lists are null there.
fn group_json(group: &GroupReport) -> Result<Value> {
    let list = |keep: bool| -> Result<Value> {
        let rows = group
            .verdicts
            .iter()
            .filter(|(v, _)| v.keep == keep)
            .map(|(v, snapshot)| to_json(&v.id, snapshot))
            .collect::<Result<Vec<_>>>()?;
        Ok(if rows.is_empty() { Value::Null } else { rows.into() })
    };
    let mut reasons = Vec::new();
    for (verdict, snapshot) in group.verdicts.iter().filter(|(v, _)| v.keep) {
        let c = verdict.counters;
        let counters: serde_json::Map<String, Value> = [
            ("last", c.last),
            ("hourly", c.hourly),
            ("daily", c.daily),
            ("weekly", c.weekly),
            ("monthly", c.monthly),
            ("yearly", c.yearly),
        ]
        .into_iter()
        .filter(|(_, keep)| *keep != Keep::Number(0))
        .map(|(name, keep)| (name.to_owned(), keep.count().into()))
        .collect();
        reasons.push(json!({
            "snapshot": to_json(&verdict.id, snapshot)?,
            "matches": verdict.reasons,
            "counters": counters,
        }));
    }
    let names = |list: &Option<Vec<String>>| {
        list.as_ref().filter(|l| !l.is_empty()).map_or(Value::Null, |l| json!(l))
    };
    Ok(json!({
        "tags": names(&group.key.tags),
        "host": group.key.host.as_deref().unwrap_or_default(),
        "paths": names(&group.key.paths),
        "keep": list(true)?,
        "remove": list(false)?,
        "reasons": if reasons.is_empty() { Value::Null } else { reasons.into() },
    }))
}

fn row(id: &Id, snapshot: &Snapshot, last: String) -> Vec<String> {
    vec![
        id.short(),
        local_time(snapshot.time.timestamp),
        safe(&snapshot.hostname),
        lines(&Origin::of(snapshot).tags),
        lines(&snapshot.paths),
        last,
    ]
}

fn group_text(group: &GroupReport) -> String {
    let mut table = Table::new(&["ID", "TIME", "HOST", "TAGS", "PATHS", "KEPT BECAUSE"]);
    for (verdict, snapshot) in &group.verdicts {
        let why = if verdict.keep { safe(&verdict.reasons.join(", ")) } else { "- forget".to_owned() };
        table.row(row(&verdict.id, snapshot, why));
    }
    format!("\n{}:\n{}", safe(&group.key.to_string()), table.render().trim_end())
}

fn describe(report: &ForgetReport, dry_run: bool) -> String {
    let mut lines = Vec::new();
    let snapshots = |n: usize| counted(n as u64, "snapshot", "snapshots");
    for id in &report.held {
        lines.push(format!("snapshot {} is held by the tag {} and stays", id.short(), forget::HOLD_TAG));
    }
    for (id, why) in &report.retained {
        lines.push(format!("the store keeps snapshot {}: {}", id.short(), safe(why)));
    }
    if !report.damaged.is_empty() {
        let ids: Vec<String> = report.damaged.iter().map(|damaged| damaged.id.short()).collect();
        let would = if dry_run { "would remove" } else { "removed" };
        let it = if ids.len() == 1 {
            "that was damaged, and cannot be brought back"
        } else {
            "that were damaged, and cannot be brought back"
        };
        lines.push(format!("{would} {} {it}: {}", snapshots(ids.len()), ids.join(" ")));
    }
    let ids: Vec<String> = report.forgotten.iter().map(|(id, _)| id.short()).collect();
    lines.push(match (ids.is_empty(), dry_run) {
        (true, _) if !report.damaged.is_empty() => return lines.join("\n"),
        (true, _) => "nothing to forget".to_owned(),
        (false, true) => format!("would forget {}: {}", snapshots(ids.len()), ids.join(" ")),
        (false, false) => format!(
            "forgot {}: {}\n`holdfast repo unforget` brings them back until a prune has deleted their data",
            snapshots(ids.len()),
            ids.join(" ")
        ),
    });
    lines.join("\n")
}

/// Command line of `repo unforget`.
#[derive(Debug, clap::Args)]
pub(super) struct UnforgetArgs {
    /// Snapshots to bring back: ids or beginnings of ids; without any they are listed
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    /// Bring back all that are listed
    #[arg(long, conflicts_with = "snapshots")]
    all: bool,
}

pub(super) async fn unforget(session: &Session<'_>, args: &UnforgetArgs) -> Result<u8> {
    let repository = session.open().await?;
    let listed = session.bound(forget::forgotten(&repository, &session.ctx)).await?;
    if args.snapshots.is_empty() && !args.all {
        session.ui.close();
        if session.ui.json() {
            let rows = listed
                .iter()
                .map(|f| {
                    let mut value = to_json(&f.id, &f.snapshot)?;
                    if let Value::Object(fields) = &mut value {
                        fields.insert("forgotten".to_owned(), json!(f.at.to_string()));
                    }
                    Ok(value)
                })
                .collect::<Result<Vec<_>>>()?;
            session.ui.print(&Value::from(rows).to_string())?;
        } else if listed.is_empty() {
            session.ui.say(format!("nothing in {} can be brought back", session.location));
        } else {
            let mut table = Table::new(&["ID", "TIME", "HOST", "TAGS", "PATHS", "FORGOTTEN"]);
            for f in &listed {
                table.row(row(&f.id, &f.snapshot, local_time(f.at)));
            }
            session.ui.print(table.render().trim_end())?;
            session.ui.say("name those to bring back, or give --all (times are local)");
        }
        return Ok(exit::OK);
    }
    let mut chosen = Vec::new();
    for name in &args.snapshots {
        let mut matching = listed.iter().filter(|f| f.id.to_hex().starts_with(name.as_str()));
        match (matching.next(), matching.next()) {
            (Some(one), None) => chosen.push(one.clone()),
            (None, _) => {
                return Err(Failure::usage(
                    format!("no forgotten snapshot begins with {name:?}; nothing was brought back"),
                    "`holdfast repo unforget` without arguments lists what there is",
                ));
            }
            (Some(_), Some(_)) => {
                return Err(Failure::usage(
                    format!("more than one forgotten snapshot begins with {name:?}"),
                    "write more of the id",
                ));
            }
        }
    }
    if args.all {
        chosen = listed;
    }
    session
        .locked(&repository, async |guard| {
            session.bound(forget::unforget(&repository, guard, &chosen, &session.ctx)).await
        })
        .await?;
    session.ui.close();
    if session.ui.json() {
        let ids: Vec<String> = chosen.iter().map(|f| f.id.to_hex()).collect();
        session.ui.report(&json!({"message_type": "summary", "restored": ids}).to_string())?;
    } else {
        let ids: Vec<String> = chosen.iter().map(|f| f.id.short()).collect();
        session.ui.report(&format!(
            "brought back {}: {}",
            counted(ids.len() as u64, "snapshot", "snapshots"),
            ids.join(" ")
        ))?;
    }
    Ok(exit::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_snapshot_that_is_held_is_told_and_no_whole_success() {
        let held = Id::hash(b"held");
        let report = ForgetReport { held: vec![held], ..ForgetReport::default() };
        assert_eq!(code(&report, true), exit::PARTIAL);
        assert_eq!(code(&report, false), exit::OK, "a policy keeps what is held");
        assert_eq!(code(&ForgetReport::default(), true), exit::OK);
        let said = summary(&report, false);
        assert_eq!(said["held"], json!([held.to_hex()]));
        assert_eq!(said["forgotten"], json!([]));
        let snapshot = json!({"time": "2026-01-01T00:00:00Z", "tree": held.to_hex(), "paths": ["/x"]});
        let forgotten = vec![(held, serde_json::from_value(snapshot).unwrap())];
        let gone = ForgetReport { forgotten, ..ForgetReport::default() };
        assert_eq!(summary(&gone, true)["forgotten"], json!([held.to_hex()]));
    }

    #[test]
    fn counts_are_numbers_or_unlimited() {
        assert_eq!("7".parse(), Ok(Count(Keep::Number(7))));
        assert_eq!("unlimited".parse(), Ok(Count(Keep::All)));
        assert_eq!("-1".parse(), Ok(Count(Keep::All)));
        assert!("-2".parse::<Count>().is_err() && "x".parse::<Count>().is_err());
    }
}
