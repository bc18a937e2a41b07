//! Policies against stock restic's `forget --dry-run --json` on generated histories. In here because histories with
//! times of their own have to be forged.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use jiff::tz::Offset;
use serde_json::{Value, json};

use super::*;
use crate::lock::{Holder, LockMode};
use crate::repository::testing::fixture;
use crate::retention::Keep;

/// The same for every run, and different for each seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// By host, for each time and tags: the reasons it is kept, none when it goes.
type Judged = BTreeMap<String, Vec<(String, Vec<String>)>>;

/// What restic of version 0.19 says.
fn restic(repository: &std::path::Path, arguments: &[&str]) -> Judged {
    let program = std::env::var_os("HOLDFAST_RESTIC_0_19")
        .expect("HOLDFAST_RESTIC_0_19 must name a restic program to compare with; `make test` sets it");
    let output = Command::new(program)
        .args(["--no-cache", "--json", "--repo"])
        .arg(repository)
        .args(["forget", "--dry-run", "--no-lock", "--group-by", "host"])
        .args(arguments)
        .env("RESTIC_PASSWORD", secrecy::ExposeSecret::expose_secret(&crate::repository::testing::password()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let groups: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut judged = Judged::new();
    for group in groups.as_array().unwrap() {
        let rows = judged.entry(group["host"].as_str().unwrap().to_owned()).or_default();
        for reason in group["reasons"].as_array().into_iter().flatten() {
            let matches =
                reason["matches"].as_array().unwrap().iter().map(|m| m.as_str().unwrap().to_owned());
            rows.push((key(&reason["snapshot"]), matches.collect()));
        }
        for removed in group["remove"].as_array().into_iter().flatten() {
            rows.push((key(removed), Vec::new()));
        }
        rows.sort();
    }
    judged
}

/// Snapshots of the same time are told apart by nothing: which of them restic takes depends on how it met them.
fn key(snapshot: &Value) -> String {
    let instant: Timestamp = snapshot["time"].as_str().unwrap().parse().unwrap();
    instant.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn oracle_policies_judge_as_restic_does() {
    let policies: [&[&str]; 10] = [
        &["--keep-last", "3"],
        &["--keep-hourly", "5", "--keep-daily", "4"],
        &["--keep-daily", "7", "--keep-weekly", "5", "--keep-monthly", "12", "--keep-yearly", "3"],
        &["--keep-daily", "unlimited"],
        &["--keep-weekly", "100"],
        &["--keep-within", "1m5d"],
        &["--keep-within", "1y1m1d1h", "--keep-last", "1"],
        &["--keep-within-hourly", "2d", "--keep-within-daily", "7d", "--keep-within-weekly", "1m"],
        &["--keep-within-monthly", "1y", "--keep-within-yearly", "75y", "--keep-hourly", "1"],
        &["--keep-tag", "a,b", "--keep-tag", "c", "--keep-last", "1"],
    ];
    for seed in [11_u64, 12] {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let f = fixture().await;
        let now = Timestamp::now();
        for number in 0..60_u64 {
            // Mostly dense and recent, some years old, one in the future; several at the same instant for others.
            let hours = match dice.roll(6) {
                0..=2 => dice.roll(72),
                3 => dice.roll(24 * 60),
                4 => dice.roll(24 * 365 * 3),
                _ => 24 * dice.roll(10),
            };
            let hours = i64::try_from(hours).unwrap() - if number == 7 { 24 * 400 } else { 0 };
            let second = now.as_second() - hours * 3600 - i64::try_from(number).unwrap();
            let offset = (i32::try_from(dice.roll(27)).unwrap() - 12) * 3600
                + i32::try_from(dice.roll(2)).unwrap() * 1800;
            let at = Timestamp::from_second(second).unwrap();
            let time = at.display_with_offset(Offset::from_seconds(offset).unwrap()).to_string();
            let tags: Vec<&str> = ["a", "b", "c"].into_iter().filter(|_| dice.roll(3) == 0).collect();
            let host = ["one", "two"][usize::try_from(dice.roll(2)).unwrap()];
            let mut snapshot =
                json!({"time": time, "tree": "ab".repeat(32), "paths": ["/x"], "hostname": host});
            if !tags.is_empty() {
                snapshot["tags"] = json!(tags);
            }
            f.repo.save_unpacked(FileKind::Snapshot, snapshot.to_string().as_bytes()).await.unwrap();
        }
        let holder =
            Holder { hostname: "h".into(), username: "u".into(), pid: 1, cluster: None, job_uid: None };
        let guard =
            f.repo.lock(LockMode::Shared, &holder, Duration::ZERO, &[], &Ctx::default()).await.unwrap();
        for arguments in policies {
            let mut policy = Policy::default();
            for pair in arguments.chunks(2) {
                let keep = || match pair[1] {
                    "unlimited" => Keep::All,
                    number => Keep::Number(number.parse().unwrap()),
                };
                match pair[0] {
                    "--keep-last" => policy.last = keep(),
                    "--keep-hourly" => policy.hourly = keep(),
                    "--keep-daily" => policy.daily = keep(),
                    "--keep-weekly" => policy.weekly = keep(),
                    "--keep-monthly" => policy.monthly = keep(),
                    "--keep-yearly" => policy.yearly = keep(),
                    "--keep-within" => policy.within = pair[1].parse().unwrap(),
                    "--keep-within-hourly" => policy.within_hourly = pair[1].parse().unwrap(),
                    "--keep-within-daily" => policy.within_daily = pair[1].parse().unwrap(),
                    "--keep-within-weekly" => policy.within_weekly = pair[1].parse().unwrap(),
                    "--keep-within-monthly" => policy.within_monthly = pair[1].parse().unwrap(),
                    "--keep-within-yearly" => policy.within_yearly = pair[1].parse().unwrap(),
                    "--keep-tag" => policy.tags.push(pair[1].split(',').map(str::to_owned).collect()),
                    other => panic!("{other}"),
                }
            }
            let spec = ForgetSpec {
                selection: Selection::Policy {
                    filter: SnapshotFilter::default(),
                    group_by: "host".parse().unwrap(),
                    policy,
                },
                dry_run: true,
                floor: 0,
                known: Vec::new(),
                now: Timestamp::now(),
            };
            let report = forget(&f.repo, &guard, &spec, &Ctx::default()).await.unwrap();
            let mut ours = Judged::new();
            for group in report.groups {
                let rows = ours.entry(group.key.host.unwrap()).or_default();
                for (verdict, snapshot) in group.verdicts {
                    rows.push((snapshot.time.timestamp.to_string(), verdict.reasons));
                }
                rows.sort();
            }
            assert_eq!(ours, restic(f.directory.path(), arguments), "seed {seed}, {arguments:?}");
        }
        guard.release().await.unwrap();
    }
}
