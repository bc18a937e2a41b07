//! The report as a page for people. Pure.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::report::{Report, StorageReport};
use crate::cluster::output::age;
use crate::text::{Table, counted, safe};

/// The page.
pub(super) fn page(report: &Report, with_namespace: bool, now: Timestamp) -> String {
    let mut page = headline(report);
    let ago = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| format!("{} ago", age(at, now)));
    let mut section = |title: &str, heading: &[&str], rows: Vec<Vec<String>>| {
        if rows.is_empty() {
            return;
        }
        let mut table = Table::new(heading);
        for row in rows {
            table.row(row);
        }
        // Writing to a string cannot fail.
        let _ = writeln!(page, "\n{title}");
        for line in table.render().lines() {
            let _ = writeln!(page, "  {line}");
        }
    };
    // Storages can be of other namespaces, so theirs is always shown.
    section(
        "Storages",
        &["NAMESPACE", "NAME", "PHASE", "DEFAULT", "REPOSITORIES", "REMARKS"],
        report.storages.iter().map(of_storage).collect(),
    );
    let place = |namespace: &str, row: Vec<String>| {
        if with_namespace { std::iter::once(namespace.to_owned()).chain(row).collect() } else { row }
    };
    let heading = |names: &[&'static str]| -> Vec<&'static str> {
        if with_namespace {
            std::iter::once("NAMESPACE").chain(names.iter().copied()).collect()
        } else {
            names.to_vec()
        }
    };
    section(
        "Repositories",
        &heading(&["NAME", "PHASE", "STORAGE", "SNAPSHOTS", "LAST COMPLETE", "WHY"]),
        report
            .repositories
            .iter()
            .map(|r| {
                place(
                    &r.namespace,
                    vec![
                        r.name.clone(),
                        r.phase.clone(),
                        r.storage.clone(),
                        number(r.snapshots),
                        ago(r.last_successful_backup),
                        safe(r.why.as_deref().unwrap_or_default()),
                    ],
                )
            })
            .collect(),
    );
    section(
        "Claims",
        &heading(&["CLAIM", "STATE", "LAST BACKUP", "SNAPSHOT", "WHY"]),
        report
            .claims
            .iter()
            .map(|c| {
                place(
                    &c.namespace,
                    vec![
                        c.claim.clone(),
                        if c.protection.needs_care() {
                            format!("! {}", c.protection.as_str())
                        } else {
                            c.protection.as_str().to_owned()
                        },
                        ago(c.last_backup),
                        c.snapshot.clone().unwrap_or_else(|| "-".to_owned()),
                        safe(c.why.as_deref().unwrap_or_default()),
                    ],
                )
            })
            .collect(),
    );
    section(
        "Runs at work, and failures",
        &heading(&["RUN", "PHASE", "SINCE", "WHAT"]),
        report
            .runs
            .iter()
            .map(|r| {
                place(
                    &r.namespace,
                    vec![
                        format!("{}/{}", r.kind.to_lowercase(), r.name),
                        r.phase.clone(),
                        ago(r.since),
                        safe(&r.what),
                    ],
                )
            })
            .collect(),
    );
    page
}

fn of_storage(s: &StorageReport) -> Vec<String> {
    let remarks = s.why.iter().chain(&s.warnings).map(|w| safe(w)).collect::<Vec<_>>().join(", ");
    vec![
        s.namespace.clone(),
        s.name.clone(),
        s.phase.clone(),
        if s.default { "yes" } else { "no" }.to_owned(),
        number(s.repositories),
        remarks,
    ]
}

fn number(n: Option<i64>) -> String {
    n.map_or_else(|| "-".to_owned(), |n| n.to_string())
}

/// How many claims are protected, and how many are not.
fn headline(report: &Report) -> String {
    use super::claims::Protection as P;
    let of = |protection: P| report.claims.iter().filter(|c| c.protection == protection).count();
    let wanted = report.claims.iter().filter(|c| !matches!(c.protection, P::Excluded | P::NoDataYet)).count();
    let mut text = match wanted {
        0 => "No claims to protect".to_owned(),
        _ => format!("{} of {} protected", of(P::Protected), counted(wanted as u64, "claim", "claims")),
    };
    let parts = [
        (P::Unprotected, "NOT protected"),
        (P::Incomplete, "with files missing"),
        (P::TooOld, "too old"),
        (P::LastRunFailed, "whose last backup failed"),
        (P::Excluded, "left out by wish"),
        (P::NoDataYet, "without data yet"),
    ];
    for (protection, words) in parts {
        let n = of(protection);
        if n > 0 {
            let _ = write!(text, ", {n} {words}");
        }
    }
    if report.storages.is_empty() {
        text.push_str("\n! There is no storage to back up to");
    }
    text.push('\n');
    text
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
