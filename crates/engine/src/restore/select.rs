//! Which paths of a snapshot a restore takes: include and exclude patterns, counted from the root of what is
//! restored; and which it must not delete although the snapshot does not have them.
//!
//! Not here: what one pattern means (`pattern`), reading trees or touching the target.

use std::path::Path;

use holdfast_pattern::{Pattern, lower, lower_pattern};

use super::RestoreSpec;
use crate::error::Result;
use crate::pipeline::exclude::Excludes;

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
    exact: Patterns,
    /// Parsed from lower case, and held against names in lower case.
    any_case: Patterns,
    /// The include patterns of those as they were written.
    any_case_includes: Vec<String>,
    /// The exclude patterns of those as they were written.
    any_case_excludes: Vec<String>,
    /// What the backup left out: the snapshot lacks it whether it was there or not.
    left_out: Option<Excludes>,
    /// It may have left out caches.
    left_out_caches: bool,
}

#[derive(Debug, Clone, Default)]
struct Patterns {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

impl Patterns {
    /// Parses patterns; a malformed one is `ErrorKind::Usage`, so that a typing error never restores too little.
    fn new(include: &[String], exclude: &[String]) -> Result<Self> {
        let parse = |list: &[String]| list.iter().map(|p| Ok(Pattern::parse(p)?)).collect::<Result<Vec<_>>>();
        Ok(Self { include: parse(include)?, exclude: parse(exclude)? })
    }

    fn is_empty(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    fn exclude(&self, path: &[&[u8]]) -> bool {
        self.exclude.iter().any(|p| p.matches(path))
    }

    fn include(&self, path: &[&[u8]]) -> bool {
        self.include.iter().any(|p| p.matches(path))
    }

    fn may_include_below(&self, path: &[&[u8]]) -> bool {
        self.include.iter().any(|p| p.may_match_below(path))
    }
}

impl Selection {
    /// What a restore is asked for.
    pub(crate) fn of(spec: &RestoreSpec) -> Result<Self> {
        let lower = |list: &[String]| list.iter().map(|p| lower_pattern(p)).collect::<Vec<_>>();
        let exact = Patterns::new(&spec.include, &spec.exclude)?;
        let any_case = Patterns::new(&lower(&spec.include_any_case), &lower(&spec.exclude_any_case))?;
        Ok(Self {
            exact,
            any_case,
            any_case_includes: spec.include_any_case.clone(),
            any_case_excludes: spec.exclude_any_case.clone(),
            left_out: None,
            left_out_caches: false,
        })
    }

    /// Lets stay what a backup with these patterns, as the snapshot keeps them, has left out below `subpath`, and caches
    /// where it may have left out those. A pattern without a leading slash counts from there: had it matched the path to it,
    /// nothing would have been saved. One that cannot be read was written by another program, and is passed over.
    #[must_use]
    pub(crate) fn sparing(mut self, excludes: &[String], subpath: Option<&Path>, caches: bool) -> Self {
        let above = subpath.unwrap_or(Path::new("/")).to_string_lossy();
        let above = above.trim_end_matches('/');
        let below = |text: &String| {
            let (back, pattern) = text.strip_prefix('!').map_or(("", text.as_str()), |rest| ("!", rest));
            let pattern = if pattern.starts_with('/') {
                pattern.strip_prefix(above).filter(|rest| rest.starts_with('/') && rest.len() > 1)?
            } else {
                pattern
            };
            Some(format!("{back}{pattern}"))
        };
        self.left_out = Some(Excludes::of_others(excludes.iter().filter_map(below)));
        self.left_out_caches = caches;
        self
    }

    /// Whether anything may have to stay.
    pub(crate) fn may_spare(&self) -> bool {
        self.has_excludes() || self.left_out.as_ref().is_some_and(|rules| !rules.is_empty())
    }

    /// Whether a path that the snapshot does not have must stay: it was not to be touched, or the backup has left it out.
    pub(crate) fn spares(&self, path: &[&[u8]]) -> bool {
        self.with_any_case(path, |any_case| self.exact.exclude(path) || self.any_case.exclude(any_case))
            || self.left_out.as_ref().is_some_and(|rules| rules.leave_out(path))
    }

    /// Whether a backup that leaves out caches has left out what lies in this directory: only the tag is in the snapshot.
    pub(crate) fn spares_cache(
        &self,
        path: &[&[u8]],
        mut saved: impl Iterator<Item = impl AsRef<[u8]>>,
    ) -> bool {
        let only_tag = saved.next().is_some_and(|name| name.as_ref() == CACHE_TAG) && saved.next().is_none();
        self.left_out_caches && !path.is_empty() && only_tag
    }

    /// Whether there is any include pattern, so that "nothing matched" can happen.
    pub(crate) fn is_narrowed(&self) -> bool {
        !(self.exact.include.is_empty() && self.any_case.include.is_empty())
    }

    /// Whether there is any pattern.
    pub(crate) fn is_partial(&self) -> bool {
        !(self.exact.is_empty() && self.any_case.is_empty())
    }

    /// The verdict on a path, given as its names from the root of what is restored.
    pub(crate) fn verdict(&self, path: &[&[u8]]) -> Verdict {
        self.with_any_case(path, |any_case| {
            if self.exact.exclude(path) || self.any_case.exclude(any_case) {
                return Verdict { selected: false, descend: false };
            }
            if !self.is_narrowed() || self.exact.include(path) || self.any_case.include(any_case) {
                return Verdict { selected: true, descend: true };
            }
            let below = self.exact.may_include_below(path) || self.any_case.may_include_below(any_case);
            Verdict { selected: false, descend: below }
        })
    }

    /// Whether there is any exclude pattern.
    pub(crate) fn has_excludes(&self) -> bool {
        !(self.exact.exclude.is_empty() && self.any_case.exclude.is_empty())
    }

    /// Marks, in `seen`, the exclude patterns that match `path`, in the order of [`Selection::excludes`].
    pub(crate) fn mark_excludes(&self, path: &[&[u8]], seen: &mut [bool]) {
        self.mark_those(|patterns| &patterns.exclude, path, seen);
    }

    fn mark_those(&self, of: impl Fn(&Patterns) -> &[Pattern], path: &[&[u8]], seen: &mut [bool]) {
        self.with_any_case(path, |any_case| {
            let exact = of(&self.exact).iter().map(|pattern| (pattern, path));
            let all = exact.chain(of(&self.any_case).iter().map(|pattern| (pattern, any_case)));
            for ((pattern, path), seen) in all.zip(seen) {
                *seen = *seen || pattern.matches(path);
            }
        });
    }

    /// The exclude patterns as they were written.
    pub(crate) fn excludes(&self) -> impl Iterator<Item = &str> {
        let any_case = self.any_case_excludes.iter().map(String::as_str);
        self.exact.exclude.iter().map(Pattern::text).chain(any_case)
    }

    /// Marks, in `seen`, the include patterns that match `path`, in the order of [`Selection::includes`].
    pub(crate) fn mark(&self, path: &[&[u8]], seen: &mut [bool]) {
        self.mark_those(|patterns| &patterns.include, path, seen);
    }

    /// The include patterns as they were written.
    pub(crate) fn includes(&self) -> impl Iterator<Item = &str> {
        let any_case = self.any_case_includes.iter().map(String::as_str);
        self.exact.include.iter().map(Pattern::text).chain(any_case)
    }

    /// Gives `judge` the path in lower case, which is only made where a pattern asks for it.
    fn with_any_case<T>(&self, path: &[&[u8]], judge: impl FnOnce(&[&[u8]]) -> T) -> T {
        if self.any_case.is_empty() {
            return judge(path);
        }
        let lower: Vec<Vec<u8>> = path.iter().map(|name| lower(name)).collect();
        let lower: Vec<&[u8]> = lower.iter().map(Vec::as_slice).collect();
        judge(&lower)
    }
}

/// Cache Directory Tagging Specification, <https://bford.info/cachedir/>.
const CACHE_TAG: &[u8] = b"CACHEDIR.TAG";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn what_a_backup_left_out_is_spared_and_nothing_else() {
        let parts = |path: &'static str| -> Vec<&[u8]> { path.split('/').map(str::as_bytes).collect() };
        let spares = |spec: &RestoreSpec, path| {
            let selection = Selection::of(spec).expect("good");
            let rules = own(&[
                "/data/claim/cache",
                "*.tmp",
                "!keep.tmp",
                "/data/other/x",
                "claim",
                "[bad",
                "/data/claim/only/*",
                "!/data/claim/only/db",
            ]);
            let sparing = selection.clone().sparing(&rules, Some(Path::new("/data/claim")), false);
            (selection.spares(&parts(path)), sparing.spares(&parts(path)))
        };
        let all = RestoreSpec::default();
        for (path, expected) in [
            ("cache", true),
            ("cache/deep/file", true),
            ("cache/keep.tmp", true),
            ("x/y.tmp", true),
            ("x/keep.tmp", false),
            ("x", false),
            ("x/cache", false),
            ("claim/x", true),
            ("only/a/b", true),
            ("only/db/base/1", false),
        ] {
            assert_eq!(spares(&all, path), (false, expected), "{path}");
        }
        let keep = RestoreSpec { exclude_any_case: own(&["KEEP"]), ..spec(&[], &["/logs/*.db"]) };
        for (path, expected) in [("logs/a.db", true), ("logs", false), ("x/Keep/y", true)] {
            assert_eq!(spares(&keep, path), (expected, expected), "{path}");
        }
        let sparing = Selection::default().sparing(&[], None, true);
        let cache =
            |selection: &Selection, path, saved: &[&str]| selection.spares_cache(&parts(path), saved.iter());
        assert!(cache(&sparing, "c", &["CACHEDIR.TAG"]));
        assert!(!cache(&sparing, "c", &["CACHEDIR.TAG", "file"]) && !cache(&sparing, "c", &[]));
        assert!(!cache(&Selection::default().sparing(&[], None, false), "c", &["CACHEDIR.TAG"]));
        assert!(!sparing.spares_cache(&[], ["CACHEDIR.TAG"].iter()), "a tag in the root means nothing");
    }

    fn own(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    fn spec(include: &[&str], exclude: &[&str]) -> RestoreSpec {
        RestoreSpec { include: own(include), exclude: own(exclude), ..RestoreSpec::default() }
    }

    fn verdict_of(spec: &RestoreSpec, path: &[u8]) -> (bool, bool) {
        let selection = Selection::of(spec).expect("good patterns");
        let path: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|n| !n.is_empty()).collect();
        let v = selection.verdict(&path);
        (v.selected, v.descend)
    }

    fn verdict(include: &[&str], exclude: &[&str], path: &str) -> (bool, bool) {
        verdict_of(&spec(include, exclude), path.as_bytes())
    }

    #[test]
    fn the_case_of_letters_counts_only_where_it_is_to() {
        let include = RestoreSpec {
            include_any_case: own(&["/Bilder/*.JPG", "ÄPFEL", "οδοσ/i"]),
            ..spec(&["/x"], &[])
        };
        for (path, want) in [
            (&b"bILDER"[..], (false, true)),
            (b"bilder/a.Jpg", (true, true)),
            (b"bilder/a.png", (false, true)),
            ("y/äpfel/a".as_bytes(), (true, true)),
            (b"x", (true, true)),
            (b"X", (false, true)),
            ("ΟΔΟΣ/İ".as_bytes(), (true, true)),
        ] {
            assert_eq!(verdict_of(&include, path), want, "{}", String::from_utf8_lossy(path));
        }
        let exclude = RestoreSpec { exclude_any_case: own(&["*.TMP", "C?D"]), ..RestoreSpec::default() };
        assert_eq!(verdict_of(&exclude, b"a/b.tmp"), (false, false));
        assert_eq!(
            verdict_of(&exclude, b"c\xffD"),
            (false, false),
            "a byte that is no UTF-8 is one character"
        );
        assert_eq!(verdict_of(&exclude, b"c\xffE"), (true, true));
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
            let any_case = RestoreSpec { exclude_any_case: own(&[bad]), ..RestoreSpec::default() };
            for spec in [spec(&[bad], &[]), any_case] {
                assert_eq!(Selection::of(&spec).expect_err(bad).kind(), ErrorKind::Usage);
            }
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "a*".repeat(40) + "b";
        assert!(!verdict(&[&pattern], &[], &"a".repeat(250)).0);
    }

    #[test]
    fn excludes_that_matched_nothing_can_be_named() {
        let any_case = own(&["B", "ZZ"]);
        let spec = RestoreSpec { exclude_any_case: any_case, ..spec(&[], &["/a", "/zz"]) };
        let selection = Selection::of(&spec).expect("good");
        let mut seen = vec![false; 4];
        selection.mark_excludes(&[b"a", b"x"], &mut seen);
        selection.mark_excludes(&[b"y", b"b"], &mut seen);
        assert_eq!(seen, [true, false, true, false]);
        assert_eq!(selection.excludes().collect::<Vec<_>>(), ["/a", "/zz", "B", "ZZ"]);
        assert!(selection.has_excludes() && !Selection::default().has_excludes());
    }

    #[test]
    fn includes_that_matched_nothing_can_be_named() {
        let any_case = own(&["/B", "/ZZ"]);
        let spec = RestoreSpec { include_any_case: any_case, ..spec(&["/a", "/zz"], &[]) };
        let selection = Selection::of(&spec).expect("good");
        let mut seen = vec![false; 4];
        selection.mark(&[b"a"], &mut seen);
        selection.mark(&[b"b"], &mut seen);
        assert_eq!(seen, [true, false, true, false]);
        assert_eq!(selection.includes().collect::<Vec<_>>(), ["/a", "/zz", "/B", "/ZZ"]);
        assert!(selection.is_narrowed());
    }
}
