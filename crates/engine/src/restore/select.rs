//! Which paths of a snapshot a restore takes: include and exclude patterns, counted from the root of what is
//! restored.
//!
//! Not here: what one pattern means (`pattern`), reading trees or touching the target.

use crate::error::Result;
use crate::pattern::Pattern;

/// What the patterns say about one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The path itself is to be restored.
    pub(crate) selected: bool,
    /// Something below it may be to be restored.
    pub(crate) descend: bool,
}

/// Include and exclude patterns, parsed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

impl Selection {
    /// Parses patterns; a malformed one is `ErrorKind::Usage`, so that a typing error never restores too little.
    pub(crate) fn new(include: &[String], exclude: &[String]) -> Result<Self> {
        let parse = |list: &[String]| list.iter().map(|p| Pattern::parse(p)).collect::<Result<Vec<_>>>();
        Ok(Self { include: parse(include)?, exclude: parse(exclude)? })
    }

    /// Whether there is any include pattern, so that "nothing matched" can happen.
    pub(crate) fn is_narrowed(&self) -> bool {
        !self.include.is_empty()
    }

    /// The verdict on a path, given as its names from the root of what is restored.
    pub(crate) fn verdict(&self, path: &[&[u8]]) -> Verdict {
        if self.exclude.iter().any(|p| p.matches(path)) {
            return Verdict { selected: false, descend: false };
        }
        if self.include.is_empty() || self.include.iter().any(|p| p.matches(path)) {
            return Verdict { selected: true, descend: true };
        }
        Verdict { selected: false, descend: self.include.iter().any(|p| p.may_match_below(path)) }
    }

    /// Marks, in `seen`, the include patterns that match `path`.
    pub(crate) fn mark(&self, path: &[&[u8]], seen: &mut [bool]) {
        for (pattern, seen) in self.include.iter().zip(seen) {
            *seen = *seen || pattern.matches(path);
        }
    }

    /// The include patterns as they were written.
    pub(crate) fn includes(&self) -> impl Iterator<Item = &str> {
        self.include.iter().map(Pattern::text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn verdict(include: &[&str], exclude: &[&str], path: &str) -> (bool, bool) {
        let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let selection = Selection::new(&own(include), &own(exclude)).expect("good patterns");
        let path: Vec<&[u8]> = path.split('/').filter(|n| !n.is_empty()).map(str::as_bytes).collect();
        let v = selection.verdict(&path);
        (v.selected, v.descend)
    }

    #[test]
    fn everything_is_selected_without_patterns() {
        assert_eq!(verdict(&[], &[], "a/b"), (true, true));
    }

    #[test]
    fn anchored_patterns_start_at_the_root_and_take_what_is_below() {
        assert_eq!(verdict(&["/a/b"], &[], "a"), (false, true));
        assert_eq!(verdict(&["/a/b"], &[], "a/b"), (true, true));
        assert_eq!(verdict(&["/a/b"], &[], "a/b/c/d"), (true, true));
        assert_eq!(verdict(&["/a/b"], &[], "a/c"), (false, false));
        assert_eq!(verdict(&["/a/b"], &[], "x/a/b"), (false, false));
    }

    #[test]
    fn relative_patterns_match_at_any_depth() {
        assert_eq!(verdict(&["*.txt"], &[], "a/b/c.txt"), (true, true));
        assert_eq!(verdict(&["b/c"], &[], "a/b/c"), (true, true));
        assert_eq!(verdict(&["b/c"], &[], "a/b/d"), (false, true));
    }

    #[test]
    fn a_star_stays_within_one_name_and_two_do_not() {
        assert!(!verdict(&["/a/*.txt"], &[], "a/b/c.txt").0);
        assert!(verdict(&["/a/**/c.txt"], &[], "a/b/x/c.txt").0);
        assert!(verdict(&["/a/**/c.txt"], &[], "a/c.txt").0);
    }

    #[test]
    fn excludes_win() {
        assert_eq!(verdict(&["/a"], &["*.o"], "a/x.o"), (false, false));
        assert_eq!(verdict(&[], &["/a/cache"], "a/cache/x"), (false, false));
        assert_eq!(verdict(&[], &["/a/cache"], "a/cachex"), (true, true));
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for bad in ["", "[a", "a\\", "!x", "a/../b"] {
            let error = Selection::new(&[bad.to_owned()], &[]).expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::Usage);
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "a*".repeat(40) + "b";
        assert!(!verdict(&[&pattern], &[], &"a".repeat(250)).0);
    }

    #[test]
    fn includes_that_matched_nothing_can_be_named() {
        let selection = Selection::new(&["/a".into(), "/zz".into()], &[]).expect("good");
        let mut seen = vec![false; 2];
        selection.mark(&[b"a"], &mut seen);
        assert_eq!(seen, [true, false]);
        assert_eq!(selection.includes().collect::<Vec<_>>(), ["/a", "/zz"]);
        assert!(selection.is_narrowed());
    }
}
