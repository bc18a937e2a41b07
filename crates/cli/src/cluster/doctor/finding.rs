//! What the doctor says: one thing, how bad it is, and what to do. Pure.

use std::fmt::Write as _;

use serde::Serialize;

use crate::text::{counted, safe};

/// How bad it is, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) enum Severity {
    /// Backups or restores do not work, or something was left in a bad state.
    Error,
    /// It works, but something is at risk.
    Warning,
    /// It could not be looked at.
    Unknown,
    /// It is well.
    Ok,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Finding {
    /// How bad it is.
    pub(super) severity: Severity,
    /// What was looked at, as one word: the same for every finding of one check.
    pub(super) check: &'static str,
    /// The object, as `Kind namespace/name`, when it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) object: Option<String>,
    /// What was found.
    pub(super) message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

impl Finding {
    fn new(severity: Severity, check: &'static str, message: impl Into<String>) -> Self {
        Self { severity, check, object: None, message: message.into(), remedy: None }
    }

    /// Something is wrong.
    pub(super) fn error(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, check, message)
    }

    /// Something is at risk.
    pub(super) fn warning(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, check, message)
    }

    /// It could not be looked at.
    pub(super) fn unknown(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Unknown, check, message)
    }

    /// It is well.
    pub(super) fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Ok, check, message)
    }

    /// The same, about an object.
    pub(super) fn about(mut self, object: impl Into<String>) -> Self {
        self.object = Some(object.into());
        self
    }

    /// The same, with what to do.
    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// The findings as a page; without `all`, what is well is only counted.
pub(super) fn page(findings: &[Finding], all: bool) -> String {
    let of = |severity: Severity| findings.iter().filter(|f| f.severity == severity).count() as u64;
    let mut page = String::new();
    for finding in findings.iter().filter(|f| all || f.severity != Severity::Ok) {
        let mark = match finding.severity {
            Severity::Error => "✗",
            Severity::Warning => "!",
            Severity::Unknown => "?",
            Severity::Ok => "✓",
        };
        let object = finding.object.as_ref().map(|o| format!(" {}:", safe(o))).unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = writeln!(page, "{mark} {}:{object} {}", finding.check, safe(&finding.message));
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(page, "    → {}", safe(remedy));
        }
    }
    let (errors, warnings, unknown) = (of(Severity::Error), of(Severity::Warning), of(Severity::Unknown));
    let _ = write!(page, "{}", counted(of(Severity::Ok), "check is well", "checks are well"));
    if errors > 0 {
        let _ = write!(page, ", {}", counted(errors, "error", "errors"));
    }
    if warnings > 0 {
        let _ = write!(page, ", {}", counted(warnings, "warning", "warnings"));
    }
    if unknown > 0 {
        let _ = write!(page, ", {unknown} could not be looked at");
    }
    page.push('\n');
    page
}
