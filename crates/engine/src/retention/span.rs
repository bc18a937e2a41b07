//! Spans of time as policies write them: `1y5m7d2h`.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Date;
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp, ToSpan as _};

use crate::error::{Error, ErrorKind, Result};
use crate::format::time::OffsetTime;

/// Years, months, days and hours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    /// Calendar years.
    pub years: u32,
    /// Calendar months.
    pub months: u32,
    /// Calendar days.
    pub days: u32,
    /// Hours of 3600 seconds.
    pub hours: u32,
}

impl Span {
    /// Nothing at all: no such rule.
    pub fn is_zero(self) -> bool {
        self == Self::default()
    }

    /// This long before `time`. Days that a month does not have run over into the next one, as in Go and restic:
    /// a month before March 31 is "February 31", March 2 or 3.
    pub(super) fn before(self, time: OffsetTime) -> Timestamp {
        let offset = Offset::from_seconds(time.offset).unwrap_or(Offset::UTC);
        let local = offset.to_datetime(time.timestamp);
        let months = i64::from(local.year()) * 12 + i64::from(local.month())
            - 1
            - i64::from(self.years) * 12
            - i64::from(self.months);
        let day = || {
            let first = Date::new(
                i16::try_from(months.div_euclid(12)).ok()?,
                i8::try_from(months.rem_euclid(12) + 1).ok()?,
                1,
            );
            let days = i64::from(local.day()) - 1 - i64::from(self.days);
            let date = first.ok()?.checked_add(days.days()).ok()?;
            let start = offset.to_timestamp(date.to_datetime(local.time())).ok()?;
            start.checked_sub(SignedDuration::from_hours(i64::from(self.hours))).ok()
        };
        // Before the calendar began everything is younger.
        day().unwrap_or(Timestamp::MIN)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, unit) in [(self.years, 'y'), (self.months, 'm'), (self.days, 'd'), (self.hours, 'h')] {
            if number != 0 {
                write!(f, "{number}{unit}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Span {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::new(
                ErrorKind::Usage,
                format!("{text:?} is no span of time: write years, months, days and hours, e.g. 1y5m7d2h"),
            )
        };
        let mut span = Self::default();
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(bad());
        }
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at_checked(digits).ok_or_else(bad)?;
            let number: u32 = number.parse().map_err(|_| bad())?;
            // Far beyond any calendar, so that sums cannot run over.
            if number > 1_000_000 {
                return Err(bad());
            }
            let mut tail = tail.chars();
            match tail.next() {
                Some('y') => span.years = number,
                Some('m') => span.months = number,
                Some('d') => span.days = number,
                Some('h') => span.hours = number,
                _ => return Err(bad()),
            }
            rest = tail.as_str();
        }
        Ok(span)
    }
}
