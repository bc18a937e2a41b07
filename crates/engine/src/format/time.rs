//! Times as the format writes them: RFC 3339 with nanoseconds, trailing zeros cut, years 0 to 9999.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{Error, ErrorKind};

/// A file's time: seconds since 1970 (UTC) and nanoseconds of the second. Any value a file system can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Seconds since 1970-01-01 00:00:00 UTC, rounded down.
    pub seconds: i64,
    /// Nanoseconds after that, 0 to 999,999,999.
    pub nanos: u32,
}

/// A point in time together with the offset from UTC it was written with.
///
/// Retention counts days in the snapshot's own offset, so it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetTime {
    /// The instant.
    pub timestamp: Timestamp,
    /// Seconds east of UTC.
    pub offset: i32,
}

const SECONDS_PER_DAY: i64 = 86_400;

impl Time {
    /// Builds a time from seconds and nanoseconds; nanoseconds beyond the second are carried over.
    pub fn new(seconds: i64, nanos: u32) -> Self {
        Self {
            seconds: seconds.saturating_add(i64::from(nanos / 1_000_000_000)),
            nanos: nanos % 1_000_000_000,
        }
    }

    /// The same instant as a `jiff` timestamp; the nearest one it can hold.
    pub fn to_timestamp(self) -> Timestamp {
        Timestamp::new(self.seconds, i32::try_from(self.nanos).unwrap_or(0)).unwrap_or(if self.seconds < 0 {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        })
    }

    /// Appends the time as the format writes it, in UTC. Years outside 0..=9999 are moved to the nearest
    /// of these, as restic does, since RFC 3339 cannot say them.
    pub fn write(self, out: &mut Vec<u8>) {
        let days = self.seconds.div_euclid(SECONDS_PER_DAY);
        let (year, mut month, mut day) = civil_from_days(days);
        let clamped = year.clamp(0, 9999);
        if clamped != year && month == 2 && day == 29 && !is_leap(clamped) {
            // Go normalises February 29 of a common year to March 1.
            (month, day) = (3, 1);
        }
        push_civil(out, clamped, month, day, self.seconds.rem_euclid(SECONDS_PER_DAY), self.nanos);
        out.push(b'Z');
    }

    /// Reads an RFC 3339 time with any offset.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (time, _) = parse_rfc3339(text)?;
        Ok(time)
    }
}

impl From<Timestamp> for Time {
    fn from(timestamp: Timestamp) -> Self {
        let nanos = i64::from(timestamp.subsec_nanosecond());
        let seconds = timestamp.as_second() + nanos.div_euclid(1_000_000_000);
        Self { seconds, nanos: u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0) }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Vec::with_capacity(30);
        self.write(&mut out);
        f.write_str(&String::from_utf8_lossy(&out))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_str(TextVisitor(parse_rfc3339)).map(|(time, _)| time)
    }
}

impl OffsetTime {
    /// An instant written in UTC.
    pub fn utc(timestamp: Timestamp) -> Self {
        Self { timestamp, offset: 0 }
    }
}

impl fmt::Display for OffsetTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = Time::from(self.timestamp);
        let mut out = Vec::with_capacity(36);
        if self.offset == 0 {
            time.write(&mut out);
        } else {
            let local = time.seconds.saturating_add(i64::from(self.offset));
            let (year, month, day) = civil_from_days(local.div_euclid(SECONDS_PER_DAY));
            push_civil(
                &mut out,
                year.clamp(0, 9999),
                month,
                day,
                local.rem_euclid(SECONDS_PER_DAY),
                time.nanos,
            );
            out.push(if self.offset < 0 { b'-' } else { b'+' });
            let minutes = self.offset.unsigned_abs() / 60;
            push_digits(&mut out, u64::from(minutes / 60), 2);
            out.push(b':');
            push_digits(&mut out, u64::from(minutes % 60), 2);
        }
        f.write_str(&String::from_utf8_lossy(&out))
    }
}

impl Serialize for OffsetTime {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OffsetTime {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let (time, offset) = d.deserialize_str(TextVisitor(parse_rfc3339))?;
        Ok(Self { timestamp: time.to_timestamp(), offset })
    }
}

struct TextVisitor<T>(fn(&str) -> Result<T, Error>);

impl<T> de::Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time as in RFC 3339")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(E::custom)
    }
}

fn push_civil(out: &mut Vec<u8>, year: i64, month: u32, day: u32, second_of_day: i64, nanos: u32) {
    push_digits(out, year.unsigned_abs(), 4);
    out.push(b'-');
    push_digits(out, u64::from(month), 2);
    out.push(b'-');
    push_digits(out, u64::from(day), 2);
    out.push(b'T');
    let second = second_of_day.unsigned_abs();
    push_digits(out, second / 3600, 2);
    out.push(b':');
    push_digits(out, second / 60 % 60, 2);
    out.push(b':');
    push_digits(out, second % 60, 2);
    if nanos != 0 {
        out.push(b'.');
        push_digits(out, u64::from(nanos), 9);
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

fn push_digits(out: &mut Vec<u8>, value: u64, width: u32) {
    for place in (0..width).rev() {
        let digit = value / 10_u64.pow(place) % 10;
        out.push(b'0' + u8::try_from(digit).unwrap_or(0));
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Days since 1970-01-01 to year, month, day of the proleptic Gregorian calendar
/// (Howard Hinnant, "chrono-compatible low-level date algorithms": eras of 400 years that begin in March).
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let shifted = days.saturating_add(719_468);
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, u32::try_from(month).unwrap_or(1), u32::try_from(day).unwrap_or(1))
}

/// The other way round.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let march_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Instant and offset (seconds east of UTC) of an RFC 3339 time.
fn parse_rfc3339(text: &str) -> Result<(Time, i32), Error> {
    parse_parts(text.as_bytes())
        .ok_or_else(|| Error::new(ErrorKind::Format, format!("{text:?} is not a time as in RFC 3339")))
}

fn parse_parts(text: &[u8]) -> Option<(Time, i32)> {
    let mut rest = text;
    let year = digits(&mut rest, 4)?;
    literal(&mut rest, b'-')?;
    let month = digits(&mut rest, 2)?;
    literal(&mut rest, b'-')?;
    let day = digits(&mut rest, 2)?;
    literal(&mut rest, b'T')?;
    let hour = digits(&mut rest, 2)?;
    literal(&mut rest, b':')?;
    let minute = digits(&mut rest, 2)?;
    literal(&mut rest, b':')?;
    let second = digits(&mut rest, 2)?;
    let month_days = match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=month_days).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut nanos = 0_u32;
    if rest.first() == Some(&b'.') {
        literal(&mut rest, b'.')?;
        let mut place = 100_000_000_u32;
        let mut any = false;
        while let Some((digit @ b'0'..=b'9', tail)) = rest.split_first() {
            nanos = nanos.checked_add(u32::from(digit - b'0') * place)?;
            place /= 10;
            any = true;
            rest = tail;
        }
        if !any {
            return None;
        }
    }
    let (sign, tail) = rest.split_first()?;
    rest = tail;
    let offset = match sign {
        b'Z' => 0,
        b'+' | b'-' => {
            let hours = digits(&mut rest, 2)?;
            literal(&mut rest, b':')?;
            let minutes = digits(&mut rest, 2)?;
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = hours * 3600 + minutes * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => return None,
    };
    if !rest.is_empty() {
        return None;
    }
    let local = days_from_civil(year, month, day) * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second;
    Some((Time { seconds: local - offset, nanos }, i32::try_from(offset).ok()?))
}

fn literal(rest: &mut &[u8], byte: u8) -> Option<()> {
    let (first, tail) = rest.split_first()?;
    *rest = tail;
    (*first == byte).then_some(())
}

fn digits(rest: &mut &[u8], count: usize) -> Option<i64> {
    let (head, tail) = rest.split_at_checked(count)?;
    *rest = tail;
    head.iter().try_fold(0_i64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(seconds: i64, nanos: u32) -> String {
        Time::new(seconds, nanos).to_string()
    }

    #[test]
    fn writes_as_go_does() {
        assert_eq!(text(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(text(1_700_000_000, 120_000_000), "2023-11-14T22:13:20.12Z");
        assert_eq!(text(-1, 999_999_999), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(text(951_782_400, 1), "2000-02-29T00:00:00.000000001Z");
    }

    #[test]
    fn years_beyond_rfc3339_are_moved_to_its_edge() {
        assert_eq!(text(253_402_300_800, 0), "9999-01-01T00:00:00Z", "10000-01-01");
        assert_eq!(text(-62_167_219_201, 0), "0000-12-31T23:59:59Z", "-0001-12-31");
        // 12000-02-29 exists, 9999-02-29 does not.
        assert_eq!(text(days_from_civil(12_000, 2, 29) * SECONDS_PER_DAY, 0), "9999-03-01T00:00:00Z");
        assert!(text(i64::MAX, 0).starts_with("9999-"));
        assert!(text(i64::MIN, 0).starts_with("0000-"));
    }

    #[test]
    fn parses_what_it_writes() {
        for seconds in [-62_167_219_200, -86_401, -1, 0, 1, 68_169_600, 1_709_164_800, 253_402_300_799] {
            for nanos in [0, 1, 500_000_000, 999_999_999] {
                let time = Time::new(seconds, nanos);
                assert_eq!(Time::parse(&time.to_string()).unwrap(), time);
            }
        }
    }

    #[test]
    fn offsets_are_kept_and_applied() {
        let time: OffsetTime = serde_json::from_str("\"2026-03-01T01:30:00.5+05:30\"").unwrap();
        assert_eq!(time.offset, 19_800);
        assert_eq!(Time::from(time.timestamp).to_string(), "2026-02-28T20:00:00.5Z");
        assert_eq!(time.to_string(), "2026-03-01T01:30:00.5+05:30");
        let west: OffsetTime = serde_json::from_str("\"1969-12-31T16:00:00.000000001-08:00\"").unwrap();
        assert_eq!(Time::from(west.timestamp), Time::new(0, 1));
        assert_eq!(west.to_string(), "1969-12-31T16:00:00.000000001-08:00");
    }

    #[test]
    fn refuses_what_is_no_time() {
        for bad in [
            "",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00Zx",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00+24:00",
        ] {
            assert!(Time::parse(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_jiff(seconds in -62_000_000_000_i64..253_000_000_000, nanos in 0_u32..1_000_000_000) {
            let time = Time::new(seconds, nanos);
            proptest::prop_assert_eq!(time.to_string(), time.to_timestamp().to_string());
            proptest::prop_assert_eq!(Time::from(time.to_timestamp()), time);
        }
    }
}
