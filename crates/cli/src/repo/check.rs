//! `repo check`: is everything there, and is it what it should be.

use std::str::FromStr;

use holdfast_engine::check::{self, CheckReport, CheckSpec, Finding, ReadData, Severity};
use serde_json::json;

use super::session::Session;
use crate::exit;
use crate::failure::{Failure, Result};
use crate::text::{count, counted, duration, safe, size};
use crate::ui::Work;

/// Command line of `repo check`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Read and verify all stored data, not only the structure
    #[arg(long, conflicts_with = "read_data_subset")]
    read_data: bool,
    /// Read a part: N/M (the n-th of m parts), P% or an amount such as 50M or 2G (packs chosen at random)
    #[arg(long, value_name = "N/M|P%|SIZE")]
    read_data_subset: Option<Subset>,
}

/// Which part of the data to read.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Subset(ReadData);

impl FromStr for Subset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = if let Some(percent) = text.strip_suffix('%') {
            let share = percent.parse::<f64>().ok().map(|p| p / 100.0).filter(|s| *s > 0.0 && *s <= 1.0);
            share.map(ReadData::Fraction)
        } else if let Some((n, m)) = text.split_once('/') {
            let part = n.parse::<u8>().ok().zip(m.parse::<u8>().ok());
            part.filter(|(n, m)| (1..=*m).contains(n)).map(|(n, m)| ReadData::Subset { n, m })
        } else {
            bytes(text).filter(|b| *b > 0).map(ReadData::Bytes)
        };
        parsed.map(Self).ok_or_else(|| {
            "write N/M with 1 ≤ N ≤ M ≤ 255, a percentage up to 100%, or an amount such as 50M or 2G"
                .to_owned()
        })
    }
}

/// A number of bytes as restic takes it: with k, m, g or t in either case, each 1024 times the one before.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..)?.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

pub(super) async fn run(session: &Session<'_>, args: &Args) -> Result<u8> {
    let read_data = match (args.read_data, args.read_data_subset) {
        (true, _) => ReadData::All,
        (false, Some(Subset(part))) => part,
        (false, None) => ReadData::None,
    };
    let spec = CheckSpec { read_data };
    let repository = session.open().await?;
    session.ui.begin(Work::Check);
    let report = session
        .reading(&repository, async |guard| {
            session.bound(check::check(&repository, guard, &spec, &session.ctx)).await
        })
        .await?;
    session.ui.close();
    let text = if session.ui.json() { summary(&report).to_string() } else { describe(&report) };
    session.ui.report(&text)?;
    if report.is_sound() {
        return Ok(exit::OK);
    }
    Err(Failure {
        cause: format!(
            "the repository at {} is damaged: {}",
            session.location,
            counted(report.errors, "error", "errors")
        ),
        advice: Some(advice(&report)),
        kind: "Corrupt",
        code: exit::FATAL,
    })
}

/// Most packs that the advice spells out.
const SPELLED_OUT: usize = 4;

/// What mends this damage, in the order in which it does. A damaged blob is still in the index, so that no backup stores
/// it anew before its pack is repaired; and any snapshot may need it, since check tells what is damaged and not for whom.
fn advice(report: &CheckReport) -> String {
    let mut packs: Vec<&str> = Vec::new();
    let mut snapshots: Vec<&str> = Vec::new();
    let (mut index, mut unreadable_index, mut content, mut unknown) = (false, false, false, false);
    for finding in errors(report) {
        if let Some(pack) = finding.object.strip_prefix("pack ") {
            content = true;
            // One that is gone is the index's matter.
            if finding.text.starts_with("is missing") {
                index = true;
            } else if !packs.contains(&pack) {
                packs.push(pack);
            }
        } else if finding.object.starts_with("unknown snapshot ") {
            unknown = true;
        } else if finding.object.starts_with("index ") {
            (index, unreadable_index) = (true, true);
        } else if let Some(id) = finding.object.strip_prefix("snapshot ").filter(|id| !id.contains(':')) {
            snapshots.push(id);
        } else {
            content = true;
        }
    }
    let mut steps = Vec::new();
    if unknown {
        steps.push(
            "read what is not understood with the program that wrote it, or with a newer release".to_owned(),
        );
    }
    let repair_index = "run `holdfast repo repair index`".to_owned();
    // Packs first, whose repair takes the damaged ones away, unless there is an index file that nobody can read.
    if unreadable_index {
        steps.push(repair_index.clone());
    }
    if packs.len() > SPELLED_OUT {
        steps.push(format!(
            "run `holdfast repo repair packs` with the {} that are named above",
            counted(u64::try_from(packs.len()).unwrap_or(u64::MAX), "pack", "packs")
        ));
    } else if !packs.is_empty() {
        steps.push(format!("run `holdfast repo repair packs {}`", packs.join(" ")));
    }
    if index && !unreadable_index {
        steps.push(repair_index);
    }
    if let Some(first) = snapshots.first() {
        steps.push(
            "run `holdfast repo recover`, which makes a snapshot of what only a damaged one held".to_owned(),
        );
        let others = if snapshots.len() > 1 { " and so on, with all that are named above" } else { "" };
        steps.push(format!("run `holdfast repo forget {first}`{others}"));
    }
    if content || index {
        steps.push("back up again, which stores anew what is still on its old place".to_owned());
        steps.push(
            "mend what lacks something after that with `holdfast repo repair snapshots --forget`".to_owned(),
        );
    }
    let unsure = if content || index {
        let which = packs.first().map_or_else(String::new, |pack| {
            format!(" (`holdfast repo find --pack {pack}` shows which files of which do)")
        });
        format!("any snapshot may need what is damaged, also one not named above{which}. ")
    } else {
        String::new()
    };
    format!("{unsure}In this order: {}", steps.join("; "))
}

/// restic's summary message, with what was looked at added.
fn summary(report: &CheckReport) -> serde_json::Value {
    let broken: Vec<&str> = errors(report).filter_map(|f| f.object.strip_prefix("pack ")).collect();
    json!({
        "message_type": "summary",
        "num_errors": report.errors,
        "broken_packs": broken,
        "suggest_repair_index": false,
        "suggest_prune": false,
        "findings": report.findings,
        "snapshots": report.snapshots,
        "packs": report.packs,
        "packs_read": report.packs_read,
        "bytes_read": report.bytes_read,
        "total_duration": report.duration.as_secs_f64(),
    })
}

fn errors(report: &CheckReport) -> impl Iterator<Item = &Finding> {
    report.findings.iter().filter(|f| f.severity == Severity::Error)
}

fn describe(report: &CheckReport) -> String {
    let mut lines: Vec<String> = report
        .findings
        .iter()
        .filter(|f| f.severity == Severity::Note)
        .map(|f| format!("note: {}: {}", safe(&f.object), safe(&f.text)))
        .collect();
    let kept = u64::try_from(lines.len()).unwrap_or(u64::MAX);
    if report.notes > kept {
        lines.push(format!("… and {} more", counted(report.notes - kept, "note", "notes")));
    }
    lines.push(format!(
        "looked at {} with {} in {}, and at {} with {}",
        counted(report.snapshots, "snapshot", "snapshots"),
        counted(report.files, "file", "files"),
        counted(report.trees, "directory", "directories"),
        counted(report.packs, "pack", "packs"),
        counted(report.blobs, "blob", "blobs"),
    ));
    lines.push(if report.packs_read == 0 {
        "no data was read (--read-data does that)".to_owned()
    } else {
        format!(
            "read {} of {} packs, {}",
            count(report.packs_read),
            count(report.packs),
            size(report.bytes_read)
        )
    });
    let verdict = if report.is_sound() { "no errors found" } else { "ERRORS FOUND" };
    lines.push(format!("{verdict} in {}", duration(report.duration)));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_written_as_for_restic() {
        assert_eq!("2/5".parse(), Ok(Subset(ReadData::Subset { n: 2, m: 5 })));
        assert_eq!("10%".parse(), Ok(Subset(ReadData::Fraction(0.1))));
        assert_eq!("50M".parse(), Ok(Subset(ReadData::Bytes(50 << 20))));
        assert_eq!("2g".parse(), Ok(Subset(ReadData::Bytes(2 << 30))));
        assert_eq!("1000".parse(), Ok(Subset(ReadData::Bytes(1000))));
        for bad in [
            "0",
            "M",
            "5X",
            "5MM",
            "-1M",
            "99999999T",
            "0/5",
            "6/5",
            "1/256",
            "0%",
            "101%",
            "x",
            "/",
            "%",
            "nan%",
        ] {
            assert!(bad.parse::<Subset>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_advice_mends_packs_before_it_backs_up_and_vouches_for_no_snapshot() {
        let found = |list: &[(&str, &str)]| CheckReport {
            findings: list
                .iter()
                .map(|(object, text)| Finding {
                    severity: Severity::Error,
                    object: (*object).into(),
                    text: (*text).into(),
                })
                .collect(),
            errors: 1,
            ..CheckReport::default()
        };
        let text = advice(&found(&[
            ("pack 12ab", "its bytes are not those its name stands for: it was changed or damaged"),
            ("pack 12ab", "its data blob 77 is lost: damaged"),
        ]));
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what:?} is not in {text:?}"));
        assert!(
            at("repair packs 12ab`") < at("back up again") && at("back up again") < at("repair snapshots")
        );
        assert!(text.contains("also one not named") && !text.contains("repair index"), "{text}");

        // A pack that is gone cannot be repaired: the index has to forget it.
        let text = advice(&found(&[("pack 12ab", "is missing; the index says it holds 3 blobs")]));
        assert!(text.contains("repair index") && !text.contains("repair packs"), "{text}");

        // The index knows what is in a pack that was cut short, and repairing it first would forget that.
        let text = advice(&found(&[
            ("pack 77ff", "is missing; the index says it holds 3 blobs"),
            ("pack 12ab", "its size"),
        ]));
        assert!(text.find("repair packs 12ab`") < text.find("repair index"), "{text}");
        let text = advice(&found(&[("index 55ee", "is damaged"), ("pack 12ab", "its size is wrong")]));
        assert!(text.find("repair index") < text.find("repair packs"), "{text}");

        // What another program wrote and is whole must not be removed.
        let text = advice(&found(&[("unknown snapshot 99ff", "is not understood")]));
        assert!(text.contains("newer release") && !text.contains("forget"), "{text}");

        // What a snapshot's own file has lost, no backup brings back.
        let text = advice(&found(&[("snapshot 99ff", "is damaged")]));
        assert!(text.contains("repo recover`") && text.contains("repo forget 99ff`"), "{text}");
        assert!(!text.contains("back up again"), "{text}");
        let text = advice(&found(&[("snapshot 99ff:/a/b", "its content at byte 0 is missing")]));
        assert!(text.contains("back up again") && !text.contains("move"), "{text}");
    }

    #[test]
    fn broken_packs_are_named_for_scripts() {
        let finding = |severity, object: &str| Finding { severity, object: object.into(), text: "t".into() };
        let report = CheckReport {
            findings: vec![
                finding(Severity::Error, "pack 1234"),
                finding(Severity::Error, "snapshot 99"),
                finding(Severity::Note, "pack 5678"),
            ],
            errors: 2,
            ..CheckReport::default()
        };
        assert_eq!(summary(&report)["broken_packs"], json!(["1234"]));
        assert_eq!(summary(&report)["num_errors"], 2);
    }
}
