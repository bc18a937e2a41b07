//! Retention: which snapshots a policy keeps, and why. Pure: nothing is read and nothing deleted here.
//!
//! The rules are restic's `forget`, so that a policy means the same with both: snapshots newest first, each rule
//! takes the first of every hour, day, ISO week, month or year in the snapshot's own offset from UTC while its count
//! lasts; the oldest of a group fills a rule that has some left. Not here: deleting (`forget`).

mod group;
mod span;
#[cfg(test)]
mod tests;

use std::fmt;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

use crate::error::{Error, ErrorKind, Result};
use crate::format::snapshot::Snapshot;
use crate::format::time::OffsetTime;
use crate::id::Id;

pub use group::{Group, GroupBy, GroupKey, group};
pub use span::Span;

/// How many snapshots a rule may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// So many.
    Number(u32),
    /// One of every period there is.
    All,
}

impl Default for Keep {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl Keep {
    fn left(self) -> bool {
        self != Self::Number(0)
    }

    fn take(&mut self) {
        if let Self::Number(n) = self {
            *n = n.saturating_sub(1);
        }
    }

    /// As restic's JSON counts: -1 for all.
    pub fn count(self) -> i64 {
        match self {
            Self::Number(n) => i64::from(n),
            Self::All => -1,
        }
    }
}

/// What to keep. A snapshot that any rule keeps is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest.
    pub last: Keep,
    /// The newest of each hour.
    pub hourly: Keep,
    /// The newest of each day.
    pub daily: Keep,
    /// The newest of each ISO week.
    pub weekly: Keep,
    /// The newest of each month.
    pub monthly: Keep,
    /// The newest of each year.
    pub yearly: Keep,
    /// All that are younger than this, counted from the group's newest that is not in the future.
    pub within: Span,
    /// The newest of each hour, among those younger than this.
    pub within_hourly: Span,
    /// The same for days.
    pub within_daily: Span,
    /// The same for ISO weeks.
    pub within_weekly: Span,
    /// The same for months.
    pub within_monthly: Span,
    /// The same for years.
    pub within_yearly: Span,
    /// All that bear every tag of one of these lists. The tag `""` stands for having none.
    pub tags: Vec<Vec<String>>,
}

impl Policy {
    /// Whether it keeps nothing by itself.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What retention needs to know of a snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its id.
    pub id: Id,
    /// Its time, in its own offset.
    pub time: OffsetTime,
    /// Its tags.
    pub tags: &'a [String],
}

impl<'a> Candidate<'a> {
    /// Of a snapshot.
    pub fn of(id: Id, snapshot: &'a Snapshot) -> Self {
        Self { id, time: snapshot.time, tags: &snapshot.tags }
    }
}

/// What is left of each rule's count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Of `last`.
    pub last: Keep,
    /// Of `hourly`.
    pub hourly: Keep,
    /// Of `daily`.
    pub daily: Keep,
    /// Of `weekly`.
    pub weekly: Keep,
    /// Of `monthly`.
    pub monthly: Keep,
    /// Of `yearly`.
    pub yearly: Keep,
}

/// What becomes of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Which one.
    pub id: Id,
    /// Whether it stays.
    pub keep: bool,
    /// Which rules keep it, in restic's words.
    pub reasons: Vec<String>,
    /// What the rules had left after it.
    pub counters: Counters,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Period {
    Each,
    Hour,
    Day,
    Week,
    Month,
    Year,
}

impl Period {
    /// A number that is the same for all times of one period.
    fn of(self, local: DateTime, position: usize) -> i64 {
        let (year, month, day) = (i64::from(local.year()), i64::from(local.month()), i64::from(local.day()));
        match self {
            Self::Each => i64::try_from(position).unwrap_or(i64::MAX),
            Self::Hour => ((year * 100 + month) * 100 + day) * 100 + i64::from(local.hour()),
            Self::Day => (year * 100 + month) * 100 + day,
            Self::Week => {
                let week = local.date().iso_week_date();
                i64::from(week.year()) * 100 + i64::from(week.week())
            }
            Self::Month => year * 100 + month,
            Self::Year => year,
        }
    }
}

/// A counting rule while it is applied.
struct Rule {
    left: Keep,
    period: Period,
    taken: Option<i64>,
    reason: &'static str,
}

/// A rule for what is young enough, while it is applied.
struct YoungRule {
    since: Since,
    span: Span,
    period: Period,
    taken: Option<i64>,
    reason: &'static str,
}

/// From when on a snapshot is young.
#[derive(Clone, Copy)]
enum Since {
    /// No such rule.
    Never,
    /// All are: there is none that is not in the future.
    Always,
    After(Timestamp),
}

impl Since {
    fn holds(self, time: Timestamp) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::After(start) => time > start,
        }
    }
}

/// Judges the snapshots of one group, newest first; of equal times the one that comes first in `snapshots` counts
/// as newer.
///
/// # Errors
/// `Usage` for a policy without any rule, and `Guard` for one that keeps none of these: neither is meant.
pub fn plan(snapshots: &[Candidate<'_>], policy: &Policy, now: Timestamp) -> Result<Vec<Verdict>> {
    if policy.is_empty() {
        return Err(Error::new(ErrorKind::Usage, "the policy has no rule: it would keep nothing"));
    }
    let mut order: Vec<&Candidate<'_>> = snapshots.iter().collect();
    order.sort_by_key(|s| std::cmp::Reverse(s.time.timestamp));
    // The first of the newest, not the last: their offsets may differ.
    let newest = order.iter().map(|s| s.time).find(|t| t.timestamp < now);
    let since = |span: Span| match newest {
        _ if span.is_zero() => Since::Never,
        None => Since::Always,
        Some(newest) => Since::After(span.before(newest)),
    };
    let rule = |left, period, reason| Rule { left, period, taken: None, reason };
    let mut rules = [
        rule(policy.last, Period::Each, "last snapshot"),
        rule(policy.hourly, Period::Hour, "hourly snapshot"),
        rule(policy.daily, Period::Day, "daily snapshot"),
        rule(policy.weekly, Period::Week, "weekly snapshot"),
        rule(policy.monthly, Period::Month, "monthly snapshot"),
        rule(policy.yearly, Period::Year, "yearly snapshot"),
    ];
    let young = |span, period, reason| YoungRule { since: since(span), span, period, taken: None, reason };
    let mut young_rules = [
        young(policy.within_hourly, Period::Hour, "hourly within"),
        young(policy.within_daily, Period::Day, "daily within"),
        young(policy.within_weekly, Period::Week, "weekly within"),
        young(policy.within_monthly, Period::Month, "monthly within"),
        young(policy.within_yearly, Period::Year, "yearly within"),
    ];
    let all_within = since(policy.within);

    let mut verdicts = Vec::with_capacity(order.len());
    for (position, snapshot) in order.iter().enumerate() {
        let oldest = position.saturating_add(1) == order.len();
        let local = local(snapshot.time);
        let mut reasons = Vec::new();
        for list in policy.tags.iter().filter(|list| has_tags(snapshot.tags, list)) {
            reasons.push(format!("has tags [{}]", list.join(", ")));
        }
        if all_within.holds(snapshot.time.timestamp) {
            reasons.push(format!("within {}", policy.within));
        }
        for rule in rules.iter_mut().filter(|rule| rule.left.left()) {
            let period = rule.period.of(local, position);
            let again = rule.taken == Some(period);
            if !again || oldest {
                rule.taken = Some(period);
                rule.left.take();
                reasons.push(format!("{}{}", if again { "oldest " } else { "" }, rule.reason));
            }
        }
        for rule in young_rules.iter_mut().filter(|rule| rule.since.holds(snapshot.time.timestamp)) {
            let period = rule.period.of(local, position);
            let again = rule.taken == Some(period);
            if !again || oldest {
                rule.taken = Some(period);
                reasons.push(format!("{}{} {}", if again { "oldest " } else { "" }, rule.reason, rule.span));
            }
        }
        let [last, hourly, daily, weekly, monthly, yearly] = rules.each_ref().map(|rule| rule.left);
        verdicts.push(Verdict {
            id: snapshot.id,
            keep: !reasons.is_empty(),
            reasons,
            counters: Counters { last, hourly, daily, weekly, monthly, yearly },
        });
    }
    if !verdicts.is_empty() && !verdicts.iter().any(|v| v.keep) {
        return Err(Error::new(
            ErrorKind::Guard,
            format!("the policy would keep none of {} snapshots that belong together", verdicts.len()),
        ));
    }
    Ok(verdicts)
}

/// Whether `tags` has all of `wanted`.
fn has_tags(tags: &[String], wanted: &[String]) -> bool {
    for tag in wanted {
        if tag.is_empty() && tags.is_empty() {
            return true;
        }
        if !tags.contains(tag) {
            return false;
        }
    }
    true
}

/// What a clock showed where the snapshot was taken.
fn local(time: OffsetTime) -> DateTime {
    Offset::from_seconds(time.offset).unwrap_or(Offset::UTC).to_datetime(time.timestamp)
}

impl fmt::Display for Policy {
    /// As restic says it: `keep 3 latest, 7 daily snapshots and all snapshots within 2d of the newest`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<String> = [
            (self.last, "latest"),
            (self.hourly, "hourly"),
            (self.daily, "daily"),
            (self.weekly, "weekly"),
            (self.monthly, "monthly"),
            (self.yearly, "yearly"),
        ]
        .into_iter()
        .filter_map(|(keep, word)| match keep {
            Keep::Number(0) => None,
            Keep::Number(n) => Some(format!("{n} {word}")),
            Keep::All => Some(format!("all {word}")),
        })
        .collect();
        let spans: Vec<String> = [
            (self.within_hourly, "hourly"),
            (self.within_daily, "daily"),
            (self.within_weekly, "weekly"),
            (self.within_monthly, "monthly"),
            (self.within_yearly, "yearly"),
        ]
        .into_iter()
        .filter(|(span, _)| !span.is_zero())
        .map(|(span, word)| format!("{word} snapshots within {span}"))
        .collect();
        let mut text = String::new();
        if !counts.is_empty() {
            text = format!("{} snapshots", counts.join(", "));
        }
        if !spans.is_empty() {
            text =
                [text, spans.join(", ")].into_iter().filter(|t| !t.is_empty()).collect::<Vec<_>>().join(", ");
        }
        let mut parts = vec![text];
        if !self.tags.is_empty() {
            let lists: Vec<String> = self.tags.iter().map(|list| format!("[{}]", list.join(", "))).collect();
            parts.push(format!("all snapshots with tags [{}]", lists.join(" ")));
        }
        if !self.within.is_zero() {
            parts.push(format!("all snapshots within {} of the newest", self.within));
        }
        parts.retain(|part| !part.is_empty());
        if parts.is_empty() { f.write_str("remove") } else { write!(f, "keep {}", parts.join(" and ")) }
    }
}
