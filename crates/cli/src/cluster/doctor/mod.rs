//! `holdfast doctor`: looks for what is wrong with an installation, and says what to do about it. Changes nothing.
//!
//! [`gather`] reads, the `*_checks` rooms judge (pure), [`finding`] is what they say. What the caller may not look at is
//! said to be unknown, never to be well.

use jiff::Timestamp;

use super::connect::Connection;
use super::output::{ReportFormat, to_json, to_yaml};
use crate::exit;
use crate::failure::Result;
use crate::ui::report;

mod finding;
mod gather;
mod install_checks;
mod leftover_checks;
mod rights;
mod storage_checks;

use finding::{Finding, Severity};

/// Command line of `doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also list what was looked at and is well
    #[arg(long)]
    all: bool,
    /// Form of the result
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: ReportFormat,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: Args) -> Result<u8> {
    let cluster = args.connection.open().await?;
    let facts = gather::facts(&cluster).await?;
    let findings = examine(&facts, Timestamp::now());
    let shown: Vec<&Finding> = findings.iter().filter(|f| args.all || f.severity != Severity::Ok).collect();
    match args.output {
        ReportFormat::Json => report(&to_json(&shown)?)?,
        ReportFormat::Yaml => report(&to_yaml(&shown)?)?,
        ReportFormat::Table => report(finding::page(&findings, args.all).trim_end())?,
    }
    let wrong = findings.iter().any(|f| f.severity == Severity::Error);
    Ok(if wrong { exit::FOUND } else { exit::OK })
}

/// Every finding, the worst first.
fn examine(facts: &gather::Facts, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    install_checks::examine(facts, now, &mut findings);
    storage_checks::examine(facts, now, &mut findings);
    rights::examine(facts, &mut findings);
    leftover_checks::examine(facts, now, &mut findings);
    findings.sort_by_key(|f| f.severity);
    findings
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
