//! Names as people type them: near misses, beginnings, `namespace/name`, `kind/name`.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use holdfast_api::names::{dns_label, random_suffix};

use crate::exit;
use crate::failure::{Failure, Result};

/// How alike two names have to be, from 0 to 1, for one to be proposed for the other.
const ALIKE: f64 = 0.8;
/// A name of so many characters or more is proposed for what contains it, and for what it contains.
const CONTAINED: usize = 3;
/// Most names that are proposed.
const PROPOSED: usize = 3;
/// Most names that are listed when nothing is alike.
const LISTED: usize = 10;

/// A failure of usage on a cluster.
pub(super) fn usage(cause: impl Into<String>, advice: impl Into<String>) -> Failure {
    Failure { code: exit::USAGE, ..Failure::usage(cause, advice) }
}

/// The names that could have been meant, the most alike first.
pub(super) fn alike<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let lower = typed.to_lowercase();
    let mut scored: Vec<(f64, &str)> = names
        .into_iter()
        .map(|name| {
            let contained =
                lower.len().min(name.len()) >= CONTAINED && (name.contains(&lower) || lower.contains(name));
            let score = strsim::jaro_winkler(&lower, name);
            (if contained { score.max(ALIKE) } else { score }, name)
        })
        .filter(|(score, _)| *score >= ALIKE)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    scored.dedup_by(|a, b| a.1 == b.1);
    scored.into_iter().take(PROPOSED).map(|(_, name)| name).collect()
}

/// What to say about a name that is not there, given those that are.
pub(super) fn advice(typed: &str, there: &[String], otherwise: &str) -> String {
    let near = alike(typed, there.iter().map(String::as_str));
    if !near.is_empty() {
        return format!("did you mean {}?", near.join(" or "));
    }
    if there.is_empty() || there.len() > LISTED {
        return otherwise.to_owned();
    }
    format!("there is {}", there.join(", "))
}

/// The name that is meant by a whole name or by the beginning of one.
pub(super) enum Meant<'a> {
    /// This one.
    One(&'a str),
    /// Any of these.
    Several(Vec<&'a str>),
    /// None.
    Nothing,
}

/// Finds what is meant. A whole name wins over beginnings.
pub(super) fn meant<'a>(typed: &str, names: &'a [String]) -> Meant<'a> {
    if let Some(exact) = names.iter().find(|name| *name == typed) {
        return Meant::One(exact);
    }
    let mut beginning: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| !typed.is_empty() && name.starts_with(typed))
        .collect();
    beginning.dedup();
    match beginning.as_slice() {
        [] => Meant::Nothing,
        [one] => Meant::One(one),
        _ => Meant::Several(beginning),
    }
}

/// `[NAMESPACE/]NAME` as namespace and name.
pub(super) fn placed(text: &str) -> Result<(Option<String>, String)> {
    let whole = |name: &str| !name.is_empty() && !name.contains('/');
    match text.split_once('/') {
        None if whole(text) => Ok((None, text.to_owned())),
        Some((namespace, name)) if whole(namespace) && whole(name) => {
            Ok((Some(namespace.to_owned()), name.to_owned()))
        }
        _ => Err(usage(format!("{text:?} is no name"), "write NAME or NAMESPACE/NAME")),
    }
}

/// A name for a run: `<what>-<UTC time to the second>-<5 characters>`.
pub(super) fn of_run(what: &str, now: Timestamp) -> Result<String> {
    let mut random = [0_u8; 5];
    getrandom::fill(&mut random).map_err(|e| Failure {
        cause: format!("read random bytes for a name: {e}"),
        advice: Some("give a name yourself".to_owned()),
        kind: "Internal",
        code: exit::FATAL,
    })?;
    let time = now.to_zoned(TimeZone::UTC).strftime("%Y%m%dt%H%M%Sz");
    Ok(dns_label(&format!("{what}-{time}-{}", random_suffix(random))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn near_names_are_proposed_and_far_ones_are_not() {
        let there = ["data", "database", "logs"];
        assert_eq!(alike("dtaa", there), ["data"]);
        assert_eq!(alike("Data", there)[0], "data");
        assert_eq!(alike("zebra", there), Vec::<&str>::new());
        assert_eq!(advice("lgos", &list(&there), "look"), "did you mean logs?");
        assert_eq!(advice("zebra", &list(&["a", "b"]), "look"), "there is a, b");
        assert_eq!(advice("zebra", &[], "look"), "look");
    }

    #[test]
    fn a_beginning_means_one_name_or_asks_which() {
        let names = list(&["daily", "daily-2", "weekly-1"]);
        assert!(matches!(meant("daily", &names), Meant::One("daily")));
        assert!(matches!(meant("w", &names), Meant::One("weekly-1")));
        assert!(matches!(meant("dai", &names), Meant::Several(found) if found == ["daily", "daily-2"]));
        assert!(matches!(meant("x", &names), Meant::Nothing));
        assert!(matches!(meant("", &names), Meant::Nothing));
    }

    #[test]
    fn a_place_is_a_name_with_or_without_a_namespace() {
        assert_eq!(placed("a").unwrap(), (None, "a".to_owned()));
        assert_eq!(placed("n/a").unwrap(), (Some("n".to_owned()), "a".to_owned()));
        for bad in ["", "/a", "n/", "a/b/c"] {
            assert_eq!(placed(bad).unwrap_err().code, exit::USAGE, "{bad}");
        }
    }

    #[test]
    fn names_of_runs_tell_the_time_and_differ() {
        let now = "2026-11-20T02:00:00Z".parse().unwrap();
        let (a, b) = (of_run("backup", now).unwrap(), of_run("backup", now).unwrap());
        assert!(a.starts_with("backup-20261120t020000z-") && a.len() == 29, "{a}");
        assert_ne!(a, b);
    }
}
