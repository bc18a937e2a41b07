//! Looks whether a repository is sound: that everything a snapshot needs is there (structure), and that it is
//! what it should be (data).
//!
//! A damaged repository is no error of this module: what is wrong is in the report. Not here: mending.

mod data;
mod structure;

use futures::future::BoxFuture;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::runtime::Handle;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Ctx, Event, Fault};
use crate::lock::LockGuard;
use crate::read;
use crate::repository::Repository;

/// How much of the packs to read.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum ReadData {
    /// Nothing: structure only.
    #[default]
    None,
    /// Every pack.
    All,
    /// The `n`-th of `m` parts, counted from 1: after `m` checks with all `n`, everything was read. The same parts
    /// as restic's `--read-data-subset=n/m`.
    Subset {
        /// Which part, 1 to `m`.
        n: u8,
        /// How many parts, 1 to 255.
        m: u8,
    },
    /// A share of the packs chosen at random, above 0 up to 1; at least one pack.
    Fraction(f64),
    /// Packs chosen at random that together have no more than so many bytes; at least one pack.
    Bytes(u64),
}

/// What to check.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CheckSpec {
    /// How much of the packs to read.
    pub read_data: ReadData,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something cannot be restored, or may soon not be.
    Error,
    /// Worth knowing; nothing is lost.
    Note,
}

/// Something found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it concerns: `pack <id>`, `index <id>`, `snapshot <id>`, or a path in a snapshot.
    pub object: String,
    /// What is wrong with it.
    pub text: String,
}

/// What a check has found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// The first of the errors and of the notes, at most [`CheckReport::KEPT`] of each.
    pub findings: Vec<Finding>,
    /// All errors. 0: the repository is sound as far as it was looked at.
    pub errors: u64,
    /// All notes.
    pub notes: u64,
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Different directories looked at.
    pub trees: u64,
    /// Files in them.
    pub files: u64,
    /// Packs in the store.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Blobs in the index.
    pub blobs: u64,
    /// Packs read whole.
    pub packs_read: u64,
    /// Their bytes.
    pub bytes_read: u64,
    /// How long it took.
    pub duration: Duration,
}

impl CheckReport {
    /// How many findings of one severity are kept in full.
    pub const KEPT: u64 = 1000;

    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.errors == 0
    }

    fn add(&mut self, finding: Finding) {
        let count = match finding.severity {
            Severity::Error => &mut self.errors,
            Severity::Note => &mut self.notes,
        };
        *count = count.saturating_add(1);
        if *count <= Self::KEPT {
            self.findings.push(finding);
        }
    }
}

/// Checks a repository. An error means that the check itself could not be carried out.
pub fn check<'a>(
    repo: &'a Repository,
    lock: Option<&'a LockGuard>,
    spec: &'a CheckSpec,
    ctx: &'a Ctx,
) -> BoxFuture<'a, Result<CheckReport>> {
    Box::pin(async move {
        match spec.read_data {
            ReadData::Subset { n, m } if n == 0 || n > m => {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("there is no part {n} of {m}: parts count from 1"),
                ));
            }
            ReadData::Fraction(share) if !(share > 0.0 && share <= 1.0) => {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("{share} is no share of the data: above 0, up to 1"),
                ));
            }
            ReadData::Bytes(0) => {
                return Err(Error::new(ErrorKind::Usage, "0 bytes are no part of the data"));
            }
            _ => {}
        }
        let tools = Tools { repo: repo.clone(), runtime: Handle::current() };
        let spec = *spec;
        let outcome = read::own_thread("check", ctx, move |ctx| all(&tools, spec, ctx)).await;
        if lock.is_some_and(LockGuard::lost)
            && outcome.as_ref().is_err_and(|e| e.kind() == ErrorKind::Cancelled)
        {
            return Err(Error::new(
                ErrorKind::LockLost,
                "the repository's lock was lost during the check; check again",
            ));
        }
        outcome
    })
}

/// How the check reaches the repository.
struct Tools {
    repo: Repository,
    runtime: Handle,
}

fn all(tools: &Tools, spec: CheckSpec, ctx: &Ctx) -> Result<CheckReport> {
    let began = Instant::now();
    let report = Findings { report: Mutex::default(), ctx };
    ctx.events.event(Event::Phase("structure"));
    let known = structure::check(tools, &report)?;
    if spec.read_data != ReadData::None {
        ctx.events.event(Event::Phase("data"));
        data::check(tools, &known, spec.read_data, &report)?;
    }
    report.go_on()?;
    let mut report = report.report.into_inner().unwrap_or_else(PoisonError::into_inner);
    // Errors first; within them, the order of discovery depends on which thread was faster.
    report.findings.sort_by(|a, b| {
        (a.severity != Severity::Error, &a.object, &a.text).cmp(&(
            b.severity != Severity::Error,
            &b.object,
            &b.text,
        ))
    });
    report.duration = began.elapsed();
    Ok(report)
}

/// Takes findings from all threads.
struct Findings<'a> {
    report: Mutex<CheckReport>,
    ctx: &'a Ctx,
}

impl Findings<'_> {
    fn error(&self, object: impl Into<String>, text: impl Into<String>) {
        let finding = Finding { severity: Severity::Error, object: object.into(), text: text.into() };
        let fault =
            Fault { path: finding.object.clone().into(), action: "check", error: finding.text.clone() };
        self.ctx.events.event(Event::Fault(fault));
        self.update(|report| report.add(finding));
    }

    fn note(&self, object: impl Into<String>, text: impl Into<String>) {
        let finding = Finding { severity: Severity::Note, object: object.into(), text: text.into() };
        self.update(|report| report.add(finding));
    }

    fn update<T>(&self, change: impl FnOnce(&mut CheckReport) -> T) -> T {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn stopped(&self) -> bool {
        self.ctx.cancel.is_cancelled()
    }

    fn go_on(&self) -> Result<()> {
        if self.stopped() {
            return Err(Error::new(ErrorKind::Cancelled, "the check was cancelled"));
        }
        Ok(())
    }
}

/// Runs `work` on all threads; each takes its share from a queue. The first error is what comes back.
fn on_threads(work: impl Fn() -> Result<()> + Sync) -> Result<()> {
    let first = Mutex::new(None);
    let keep = |error: Error| {
        first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    };
    std::thread::scope(|scope| {
        let run = || {
            if let Err(e) = work() {
                keep(e);
            }
        };
        let handles: Vec<_> = (0..read::threads())
            .map_while(|n| {
                std::thread::Builder::new().name(format!("check-{n}")).spawn_scoped(scope, run).ok()
            })
            .collect();
        if handles.is_empty() {
            run();
        }
        for handle in handles {
            if handle.join().is_err() {
                keep(Error::new(ErrorKind::Internal, "a thread of the check met a bug"));
            }
        }
    });
    first.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_counted_beyond_what_is_kept() {
        let mut report = CheckReport::default();
        for _ in 0..CheckReport::KEPT + 5 {
            report.add(Finding { severity: Severity::Error, object: "o".into(), text: "t".into() });
        }
        report.add(Finding { severity: Severity::Note, object: "o".into(), text: "t".into() });
        assert_eq!((report.errors, report.notes), (CheckReport::KEPT + 5, 1));
        assert_eq!(report.findings.len() as u64, CheckReport::KEPT + 1);
        assert!(!report.is_sound());
    }

    #[test]
    fn the_first_error_of_a_thread_is_told_and_a_panic_is_one() {
        assert!(on_threads(|| Ok(())).is_ok());
        let error = on_threads(|| Err(Error::new(ErrorKind::Auth, "no"))).expect_err("an error");
        assert_eq!(error.kind(), ErrorKind::Auth);
        let error = on_threads(|| panic!("on purpose")).expect_err("an error");
        assert_eq!(error.kind(), ErrorKind::Internal);
    }
}
