//! Which entries of a snapshot stay in it, by patterns.
//!
//! Not here: what one pattern means (`pattern`).

use std::path::Path;

use holdfast_pattern::{fold, lower_pattern, names};

use crate::error::Result;
use crate::pipeline::Excludes;
use crate::restore::{RestoreSpec, Selection};

/// Patterns as restic has them, in two lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patterns {
    /// Capital and small letters differ.
    pub exact: Vec<String>,
    /// Capital and small letters are the same.
    pub any_case: Vec<String>,
}

/// Which files stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Files {
    /// All of them.
    #[default]
    All,
    /// Those that do not match. Of several patterns that do the last decides; one that begins with `!` takes back in.
    Without(Patterns),
    /// Those that match or lie in a directory that does, with the directories on the way to them.
    Only(Patterns),
}

/// The patterns, parsed.
pub(super) enum Filter {
    All,
    Without { exact: Excludes, any_case: Excludes },
    Only(Selection),
}

/// What the patterns say about an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    /// It stays.
    pub(super) stays: bool,
    /// It stays, as a directory, even when nothing in it does.
    pub(super) stays_empty: bool,
}

impl Filter {
    /// Parses the patterns; a malformed one is `ErrorKind::Usage`.
    pub(super) fn new(files: &Files) -> Result<Self> {
        let small = |list: &[String]| list.iter().map(|p| lower_pattern(p)).collect::<Vec<_>>();
        Ok(match files {
            Files::All => Self::All,
            Files::Without(Patterns { exact, any_case }) => {
                Self::Without { exact: Excludes::new(exact)?, any_case: Excludes::new(&small(any_case))? }
            }
            Files::Only(Patterns { exact, any_case }) => Self::Only(Selection::of(&RestoreSpec {
                include: exact.clone(),
                include_any_case: any_case.clone(),
                ..RestoreSpec::default()
            })?),
        })
    }

    /// The verdict on what lies at this path of the snapshot.
    pub(super) fn verdict(&self, path: &Path, is_dir: bool) -> Verdict {
        match self {
            Self::All => Verdict { stays: true, stays_empty: true },
            Self::Without { exact, any_case } => {
                let out = exact.matches(path) || (!any_case.is_empty() && any_case.matches(&fold(path)));
                Verdict { stays: !out, stays_empty: !out }
            }
            Self::Only(selection) => {
                let verdict = selection.verdict(&names(path));
                Verdict {
                    stays: verdict.selected || (is_dir && verdict.descend),
                    stays_empty: verdict.selected,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(exact: &[&str], any_case: &[&str]) -> Patterns {
        let own = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect();
        Patterns { exact: own(exact), any_case: own(any_case) }
    }

    fn stays(files: &Files, path: &str, is_dir: bool) -> (bool, bool) {
        let Verdict { stays, stays_empty } = Filter::new(files).unwrap().verdict(Path::new(path), is_dir);
        (stays, stays_empty)
    }

    #[test]
    fn either_list_leaves_out_and_only_one_of_them_minds_the_case() {
        let files = Files::Without(patterns(&["*.log", "!keep.log"], &["*.TMP"]));
        for (path, kept) in [
            ("/a/x.log", false),
            ("/a/x.LOG", true),
            ("/a/keep.log", true),
            ("/a/x.tmp", false),
            ("/a/x.TmP", false),
            ("/a/x.txt", true),
        ] {
            assert_eq!(stays(&files, path, false), (kept, kept), "{path}");
        }
    }

    #[test]
    fn what_leads_to_a_match_stays_only_with_it() {
        let files = Files::Only(patterns(&["/home/ann"], &["*.JPG"]));
        assert_eq!(stays(&files, "/home/ann", true), (true, true));
        assert_eq!(stays(&files, "/home/ann/x", false), (true, true));
        assert_eq!(stays(&files, "/home/bob", true), (true, false), "a picture may be in it");
        assert_eq!(stays(&files, "/home/bob/a.jpg", false), (true, true));
        assert_eq!(stays(&files, "/home/bob/a.txt", false), (false, false));
        let anchored = Files::Only(patterns(&["/home/ann"], &[]));
        assert_eq!(stays(&anchored, "/srv", true), (false, false));
        assert_eq!(stays(&anchored, "/", true), (true, false));
    }

    #[test]
    fn a_pattern_that_cannot_be_meant_is_refused() {
        for files in [
            Files::Without(patterns(&["[a"], &[])),
            Files::Without(patterns(&[], &["[a"])),
            Files::Only(patterns(&[""], &[])),
            Files::Only(patterns(&[], &["!a"])),
        ] {
            assert!(Filter::new(&files).is_err(), "{files:?}");
        }
    }
}
