//! The command line of `restore`, and what of it makes no sense together.

use holdfast_api::refs::RunAs;
use holdfast_api::restore::AccessMode;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

use super::super::backup::run_as;
use super::super::connect::Connection;
use super::super::names;
use super::super::output::Format;
use crate::failure::Result;

/// Command line of `restore`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The Snapshot, the beginning of its name, or the name of the Backup that made it
    #[arg(value_name = "SNAPSHOT", conflicts_with_all = ["latest", "at", "from_storage"])]
    pub(super) snapshot: Option<String>,
    /// The newest complete Snapshot
    #[arg(long, conflicts_with = "at")]
    pub(super) latest: bool,
    /// The newest complete Snapshot at this time or before: 2026-11-19T14:00:00Z, '2026-11-19 14:00' (local), or
    /// '3h ago'
    #[arg(long, value_name = "TIME")]
    pub(super) at: Option<String>,
    /// From a repository in this storage, of which the cluster need not know anything
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    pub(super) from_storage: Option<String>,
    /// Directory of the repository in the storage; can be left out when there is only one for this namespace
    #[arg(long, value_name = "DIRECTORY", requires = "from_storage")]
    pub(super) directory: Option<String>,
    /// Secret with a password that opens the repository; the storage's recovery password when absent
    #[arg(long, value_name = "NAME[:KEY]", requires = "from_storage")]
    pub(super) password_secret: Option<String>,
    /// Id of the restic snapshot in the repository, or its beginning
    #[arg(long, value_name = "ID", requires = "from_storage", conflicts_with_all = ["latest", "at"])]
    pub(super) snapshot_id: Option<String>,
    /// With --latest or --at: only Snapshots of this Repository
    #[arg(long, value_name = "NAME", conflicts_with_all = ["snapshot", "from_storage"])]
    pub(super) repository: Option<String>,
    /// Only the volume of this claim, into itself or into another claim that exists (may be given several times)
    #[arg(short, long = "claim", value_name = "CLAIM[=TARGET]")]
    pub(super) claims: Vec<String>,
    /// Only the volume of this claim, into a claim that is made for it (may be given several times)
    #[arg(long = "new-claim", value_name = "CLAIM=NEW")]
    pub(super) new_claims: Vec<String>,
    /// Storage class of claims that are made; as it was when absent
    #[arg(long, value_name = "CLASS", requires = "new_claims")]
    pub(super) storage_class: Option<String>,
    /// Size of claims that are made, e.g. 10Gi; as it was when absent
    #[arg(long, value_name = "SIZE", requires = "new_claims")]
    pub(super) size: Option<String>,
    /// Access mode of claims that are made, e.g. `ReadWriteOnce`; as it was when absent
    #[arg(long, value_name = "MODE", requires = "new_claims", value_parser = access_mode)]
    pub(super) access_mode: Vec<AccessMode>,
    /// Make claims that are not there any more as they were
    #[arg(long)]
    pub(super) create_missing: bool,
    /// Only files that match this pattern (may be given several times)
    #[arg(short, long = "path", value_name = "PATTERN")]
    pub(super) paths: Vec<String>,
    /// No files that match this pattern (may be given several times)
    #[arg(short, long, value_name = "PATTERN")]
    pub(super) exclude: Vec<String>,
    /// Delete from the claims what the Snapshot does not have
    #[arg(long)]
    pub(super) delete_extra: bool,
    /// Do not save first what is overwritten: there is no way back
    #[arg(long)]
    pub(super) no_undo: bool,
    /// Restore into this namespace, which the one of the Snapshot has to allow
    #[arg(long, value_name = "NAMESPACE")]
    pub(super) to_namespace: Option<String>,
    /// Leave workloads running: refused while one uses a claim
    #[arg(long)]
    pub(super) no_quiesce: bool,
    /// Who writes the files: Auto, Workload or Root
    #[arg(long, value_name = "WHO", default_value = "Auto", value_parser = run_as, ignore_case = true)]
    pub(super) run_as: RunAs,
    /// Name of the Restore; one with the time in it is made up when absent
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
    /// Show the plan, and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Go on without being asked
    #[arg(short, long)]
    pub(super) yes: bool,
    /// Follow the run to its end; this is the default
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Leave as soon as the Restore is made
    #[arg(long)]
    pub(super) no_wait: bool,
    /// Form of the result
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(super) output: Format,
    #[command(flatten)]
    pub(super) connection: Connection,
}

fn access_mode(text: &str) -> Result<AccessMode, String> {
    let of = |mode: &&AccessMode| mode.as_str().eq_ignore_ascii_case(text);
    let all = || AccessMode::ALL.iter().map(|m| m.as_str()).collect::<Vec<_>>().join(", ");
    AccessMode::ALL.iter().find(of).copied().ok_or_else(|| format!("it is one of {}", all()))
}

impl Args {
    /// Refuses what clap cannot know to be senseless.
    pub(super) fn check(&self) -> Result<()> {
        let said = self.snapshot.is_some() || self.latest || self.at.is_some() || self.from_storage.is_some();
        if !said {
            return Err(names::usage(
                "nothing says what to restore from",
                "name a Snapshot (`holdfast snapshots` lists them), or give --latest, --at or --from-storage",
            ));
        }
        let by_file = !self.paths.is_empty() || !self.exclude.is_empty() || self.delete_extra;
        let any_claim = !self.claims.is_empty() || !self.new_claims.is_empty();
        if self.from_storage.is_some() && by_file && !any_claim {
            return Err(names::usage(
                "what the repository holds is not known yet, so --path, --exclude and --delete-extra need to be told of which volume",
                "add --claim CLAIM",
            ));
        }
        if self.delete_extra && (!self.paths.is_empty() || !self.exclude.is_empty()) && !any_claim {
            return Err(names::usage(
                "--delete-extra together with --path or --exclude is only done for claims that are named",
                "add --claim CLAIM",
            ));
        }
        Ok(())
    }
}

/// A time as people write it. What is in the future is refused.
pub(super) fn time(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp> {
    let refuse = |why: &str| {
        names::usage(
            format!("--at {text:?}: {why}"),
            "write 2026-11-19T14:00:00Z, '2026-11-19 14:00' for local time, or '3h ago'",
        )
    };
    let local = || text.parse::<DateTime>().ok()?.to_zoned(zone.clone()).ok().map(|t| t.timestamp());
    let ago = || {
        let span: Span = text.parse().ok()?;
        now.to_zoned(zone.clone()).checked_sub(span.abs()).ok().map(|t| t.timestamp())
    };
    let at = text.parse::<Timestamp>().ok().or_else(local).or_else(ago);
    match at {
        None => Err(refuse("this is no time")),
        Some(at) if at > now => Err(refuse("this is in the future")),
        Some(at) => Ok(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_taken_as_people_write_them() {
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        let of = |text: &str| time(text, now, &zone).map(|t| t.to_string());
        assert_eq!(of("2026-11-19T14:00:00Z").unwrap(), "2026-11-19T14:00:00Z");
        assert_eq!(of("2026-11-19 14:00").unwrap(), "2026-11-19T13:00:00Z");
        assert_eq!(of("2026-11-19").unwrap(), "2026-11-18T23:00:00Z");
        assert_eq!(of("3h ago").unwrap(), "2026-11-20T09:00:00Z");
        assert_eq!(of("1 day 1h").unwrap(), "2026-11-19T11:00:00Z");
        for bad in ["", "yesterdy", "2026-13-01", "2026-11-20T12:00:01Z"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
