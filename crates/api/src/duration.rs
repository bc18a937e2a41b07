//! Durations as people write them (`12h`, `1h30m`, `90s`). Not for measuring: only for settings.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What a duration looks like; also the pattern in the schema, so that the API server refuses what we cannot read.
const PATTERN: &str = "^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$";

/// A length of time in hours, minutes and seconds, such as `12h` or `1h30m`.
///
/// The subset of Go's notation that a person uses in a manifest. A type of our own, because parsing never
/// panics (a setting that overflows is an error) and because 12 hours are printed as `12h`, not as `43200s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(time::Duration);

/// A text that is not a duration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not a duration: write hours, minutes and seconds, such as 12h, 1h30m or 90s")]
pub struct ParseDurationError {
    text: String,
}

impl Duration {
    /// A duration of whole hours.
    pub const fn from_hours(hours: u32) -> Self {
        Self(time::Duration::from_secs(hours as u64 * 3600))
    }

    /// A duration of whole minutes.
    pub const fn from_minutes(minutes: u32) -> Self {
        Self(time::Duration::from_secs(minutes as u64 * 60))
    }

    /// A duration of whole seconds, cut to the longest that can be written: 999,999 hours.
    pub const fn from_secs(seconds: u64) -> Self {
        let longest = 999_999 * 3600;
        Self(time::Duration::from_secs(if seconds < longest { seconds } else { longest }))
    }

    /// Whole seconds.
    pub const fn as_secs(self) -> u64 {
        self.0.as_secs()
    }

    /// The standard library's form.
    pub const fn to_std(self) -> time::Duration {
        self.0
    }
}

impl From<Duration> for time::Duration {
    fn from(value: Duration) -> Self {
        value.0
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.0.as_secs();
        let parts = [(total / 3600, 'h'), (total % 3600 / 60, 'm'), (total % 60, 's')];
        if total == 0 {
            return f.write_str("0s");
        }
        for (value, unit) in parts.into_iter().filter(|(value, _)| *value > 0) {
            write!(f, "{value}{unit}")?;
        }
        Ok(())
    }
}

impl FromStr for Duration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseDurationError { text: text.chars().take(64).collect() };
        let mut rest = text;
        let mut seconds: u64 = 0;
        for (unit, factor) in [('h', 3600), ('m', 60), ('s', 1)] {
            if let Some((digits, after)) = rest.split_once(unit) {
                if digits.is_empty() || digits.len() > 6 || !digits.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(refuse());
                }
                let value: u64 = digits.parse().map_err(|_| refuse())?;
                seconds += value * factor;
                rest = after;
            }
        }
        if text.is_empty() || !rest.is_empty() {
            return Err(refuse());
        }
        Ok(Self(time::Duration::from_secs(seconds)))
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl schemars::JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": PATTERN, "minLength": 2, "maxLength": 21})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints_what_people_write() {
        for (text, seconds, printed) in [
            ("12h", 43_200, "12h"),
            ("1h30m", 5_400, "1h30m"),
            ("90s", 90, "1m30s"),
            ("120m", 7_200, "2h"),
            ("1h0m5s", 3_605, "1h5s"),
            ("0s", 0, "0s"),
        ] {
            let duration: Duration = text.parse().unwrap();
            assert_eq!(duration.as_secs(), seconds, "{text}");
            assert_eq!(duration.to_string(), printed);
            assert_eq!(printed.parse::<Duration>().unwrap(), duration);
        }
    }

    #[test]
    fn refuses_everything_else_with_the_text_in_the_message() {
        for text in ["", "12", "h", "1.5h", "-1h", "30m1h", "1h1h", "9999999h", "1d", "1h ", "१h", "1e9h"] {
            let error = text.parse::<Duration>().unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }
}
