//! Patterns that leave files out of a backup: the last that matches decides, one that begins with `!` takes back in.
//!
//! Nothing is taken back in below a directory that is left out, since that is not looked into. Not here: what one
//! pattern means (`pattern`).

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use holdfast_pattern::Pattern;

use crate::error::Result;

/// A list of patterns, ready to be asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Excludes {
    /// Each with whether a match leaves the file out.
    patterns: Vec<(Pattern, bool)>,
}

impl Excludes {
    /// Parses the patterns.
    pub(crate) fn new(patterns: &[String]) -> Result<Self> {
        let parsed = patterns.iter().map(|text| Ok(Pattern::parse_rule(text)?));
        Ok(Self { patterns: parsed.collect::<Result<_>>()? })
    }

    /// Patterns that another program may have written: those that cannot be read are passed over.
    pub(crate) fn of_others(patterns: impl Iterator<Item = String>) -> Self {
        let readable = patterns.filter_map(|text| Self::new(&[text]).ok());
        Self { patterns: readable.flat_map(|one| one.patterns).collect() }
    }

    /// Whether a backup leaves out this path: by itself, or because it does not enter a directory above it.
    pub(crate) fn leave_out(&self, path: &[&[u8]]) -> bool {
        (1..=path.len()).any(|length| path.get(..length).is_some_and(|above| self.decide(above)))
    }

    fn decide(&self, names: &[&[u8]]) -> bool {
        self.patterns.iter().rev().find(|(pattern, _)| pattern.matches(names)).is_some_and(|(_, out)| *out)
    }

    /// No patterns: nothing is left out.
    pub(crate) fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether this absolute path is left out.
    pub(crate) fn matches(&self, path: &Path) -> bool {
        let names: Vec<&[u8]> = path
            .components()
            .filter_map(|component| match component {
                Component::Normal(name) => Some(name.as_bytes()),
                _ => None,
            })
            .collect();
        self.decide(&names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn left_out(patterns: &[&str], path: &str) -> bool {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        Excludes::new(&patterns).unwrap().matches(Path::new(path))
    }

    #[test]
    fn patterns_are_matched_against_absolute_paths() {
        for (pattern, path, expected) in [
            ("*.o", "/src/a.o", true),
            ("*.o", "/src/a.oo", false),
            ("cache", "/home/cache", true),
            ("cache", "/home/mycache", false),
            ("/cache", "/home/cache", false),
            ("/home/cache", "/home/cache", true),
            ("home/*.txt", "/srv/home/a.txt", true),
            ("home/*.txt", "/srv/home/x/a.txt", false),
            ("/srv/**/tmp", "/srv/tmp", true),
            ("dir/", "/x/dir", true),
        ] {
            assert_eq!(left_out(&[pattern], path), expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn the_last_match_decides() {
        let patterns = ["*.log", "!keep.log"];
        assert!(left_out(&patterns, "/var/a.log"));
        assert!(!left_out(&patterns, "/var/keep.log"));
        assert!(left_out(&["!keep.log", "*.log"], "/var/keep.log"));
    }

    #[test]
    fn an_impossible_pattern_is_the_users_fault() {
        for bad in ["[a", "", "!"] {
            assert_eq!(Excludes::new(&[bad.to_owned()]).unwrap_err().kind(), ErrorKind::Usage, "{bad}");
        }
    }
}
