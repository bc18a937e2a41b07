//! One pattern for paths, in restic's manner.
//!
//! `*`, `?` and `[a-z]` match within one name, `**` any number of directories, `\` takes the next character
//! literally. A pattern with a leading `/` starts at the root, any other may match at any depth. What matches a
//! directory matches all that is in it. Names are bytes: they need not be UTF-8. Not here: what a match means.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

/// A pattern that means nothing, with why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pattern {text:?} cannot be used: {why}")]
pub struct Malformed {
    /// The pattern as it was written.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// What is said of a name that does not end as it began.
const UNENDED: &str = "it ends inside [ ] or after \\";

/// A pattern, parsed.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    anchored: bool,
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    /// `**`: any number of names.
    Many,
    Name(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Star,
    One,
    Literal(u32),
    Class { negated: bool, ranges: Vec<(u32, u32)> },
}

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// For a malformed one, so that a typing error never selects the wrong files.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let bad = |why| Malformed { text: text.to_owned(), why };
        if text.starts_with('!') {
            return Err(bad(
                "a leading ! (take back an earlier match) is not supported here; write \\! for a name",
            ));
        }
        let anchored = text.starts_with('/');
        let mut parts = Vec::new();
        for name in text.split('/').filter(|n| !n.is_empty() && *n != ".") {
            match name {
                "**" => parts.push(Part::Many),
                ".." => return Err(bad("it contains ..")),
                name => {
                    parts.push(Part::Name(tokens(name).ok_or_else(|| bad(UNENDED))?));
                }
            }
        }
        if parts.is_empty() && !anchored {
            return Err(bad("it is empty"));
        }
        Ok(Self { text: text.to_owned(), anchored, parts })
    }

    /// Parses one of a list in which the last that matches decides; and whether it leaves out what it matches, or takes it
    /// back in, as one with a `!` in front does.
    ///
    /// # Errors
    /// For a malformed one.
    pub fn parse_rule(text: &str) -> Result<(Self, bool), Malformed> {
        match text.strip_prefix('!') {
            Some(rest) => Self::parse(rest)
                .map(|pattern| (pattern, false))
                // As it was written.
                .map_err(|malformed| Malformed { text: text.to_owned(), ..malformed }),
            None => Self::parse(text).map(|pattern| (pattern, true)),
        }
    }

    /// The pattern as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the path, given as its names, or a directory above it, matches.
    pub fn matches(&self, path: &[&[u8]]) -> bool {
        (self.anchored || !path.is_empty()) && matches_prefix(&self.parts, path, !self.anchored)
    }

    /// Whether a longer path that begins with `path` could match.
    pub fn may_match_below(&self, path: &[&[u8]]) -> bool {
        if !self.anchored {
            return true;
        }
        for (part, name) in self.parts.iter().zip(path) {
            match part {
                Part::Many => return true,
                Part::Name(tokens) if !name_matches(tokens, name) => return false,
                Part::Name(_) => {}
            }
        }
        true
    }
}

/// The files that a shell's pattern names, in order; none where nothing matches. A name with a dot in front is no
/// exception, `**` is a `*`, and what cannot be looked into is passed over: as in Go, and so in restic.
///
/// # Errors
/// For a malformed pattern.
pub fn glob(pattern: &str) -> Result<Vec<PathBuf>, Malformed> {
    let bad = || Malformed { text: pattern.to_owned(), why: UNENDED };
    let is_plain = |name: &str| !name.contains(['*', '?', '[', '\\']);
    if is_plain(pattern) {
        let there = std::fs::symlink_metadata(pattern).is_ok();
        return Ok(there.then(|| PathBuf::from(pattern)).into_iter().collect());
    }
    let start = if pattern.starts_with('/') { "/" } else { "" };
    let mut found = vec![PathBuf::from(start)];
    for name in pattern.split('/').filter(|name| !name.is_empty()) {
        let tokens = tokens(name).ok_or_else(bad)?;
        found = if is_plain(name) {
            found.into_iter().map(|above| above.join(name)).collect()
        } else {
            found.iter().flat_map(|above| matching(above, &tokens)).collect()
        };
    }
    found.retain(|path| std::fs::symlink_metadata(path).is_ok());
    Ok(found)
}

/// What of a directory has a name that matches, by name.
fn matching(above: &Path, tokens: &[Token]) -> Vec<PathBuf> {
    let listed = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    let mut names: Vec<_> = std::fs::read_dir(listed)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .filter(|name| name_matches(tokens, name.as_bytes()))
        .collect();
    names.sort_unstable();
    names.into_iter().map(|name| above.join(name)).collect()
}

/// Whether some prefix of `path`, or of what follows any of its beginnings when `anywhere` is set, matches all `parts`.
///
/// What stands between two `**` is looked for from where the part before it ended, and the first place found is as good as
/// any later one, since nothing has to reach the end of the path: the time is the product of both lengths at the most.
fn matches_prefix(parts: &[Part], path: &[&[u8]], mut anywhere: bool) -> bool {
    let mut rest = path;
    for names in parts.split(|part| matches!(part, Part::Many)) {
        let here = |rest: &[&[u8]]| {
            names.len() <= rest.len()
                && names.iter().zip(rest).all(|(part, name)| match part {
                    Part::Name(tokens) => name_matches(tokens, name),
                    Part::Many => false,
                })
        };
        let starts = if anywhere { rest.len() } else { 0 };
        let Some(start) = (0..=starts).find(|start| rest.get(*start..).is_some_and(here)) else {
            return false;
        };
        rest = rest.get(start.saturating_add(names.len())..).unwrap_or_default();
        anywhere = true;
    }
    true
}

fn tokens(name: &str) -> Option<Vec<Token>> {
    let mut out = Vec::new();
    let mut chars = name.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '*' => Token::Star,
            '?' => Token::One,
            '\\' => Token::Literal(u32::from(chars.next()?)),
            '[' => class(&mut chars)?,
            c => Token::Literal(u32::from(c)),
        });
    }
    out.dedup_by(|a, b| *a == Token::Star && *b == Token::Star);
    Some(out)
}

fn class(chars: &mut std::str::Chars<'_>) -> Option<Token> {
    let mut next = chars.next()?;
    // Go knows `^` only; `!` stands for itself.
    let negated = next == '^';
    if negated {
        next = chars.next()?;
    }
    let mut ranges = Vec::new();
    loop {
        if next == ']' && !ranges.is_empty() {
            return Some(Token::Class { negated, ranges });
        }
        let low = if next == '\\' { chars.next()? } else { next };
        next = chars.next()?;
        let mut high = low;
        if next == '-' {
            let end = chars.next()?;
            if end == ']' {
                // `[a-]`: the dash stands for itself.
                ranges.push((u32::from(low), u32::from(low)));
                ranges.push((u32::from('-'), u32::from('-')));
                return Some(Token::Class { negated, ranges });
            }
            high = if end == '\\' { chars.next()? } else { end };
            next = chars.next()?;
        }
        ranges.push((u32::from(low), u32::from(high)));
    }
}

/// One character and what follows it. A byte that is no part of valid UTF-8 counts as a character of its own,
/// above all others.
fn next_char(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    if first < 0x80 {
        return Some((u32::from(first), rest));
    }
    for len in 2..=4 {
        if let Some((head, tail)) = bytes.split_at_checked(len)
            && let Ok(text) = std::str::from_utf8(head)
            && let Some(c) = text.chars().next()
        {
            return Some((u32::from(c), tail));
        }
    }
    Some((0x11_0000 + u32::from(first), rest))
}

fn token_matches(token: &Token, c: u32) -> bool {
    match token {
        Token::Star | Token::One => true,
        Token::Literal(l) => *l == c,
        Token::Class { negated, ranges } => {
            ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
        }
    }
}

/// Whether a pattern without slashes means a name; `None` for a malformed one.
pub fn means(pattern: &str, name: &[u8]) -> Option<bool> {
    Some(name_matches(&tokens(pattern)?, name))
}

/// Matches one whole name. After a mismatch only the latest `*` is tried again one character further, which is
/// enough and keeps the time within pattern length times name length.
fn name_matches(mut tokens: &[Token], mut name: &[u8]) -> bool {
    let mut retry: Option<(&[Token], &[u8])> = None;
    loop {
        let step = match (tokens.split_first(), next_char(name)) {
            (Some((Token::Star, rest)), _) => {
                retry = Some((rest, name));
                tokens = rest;
                continue;
            }
            (None, None) => return true,
            (Some((token, tokens)), Some((c, name))) if token_matches(token, c) => Some((tokens, name)),
            _ => None,
        };
        if let Some(next) = step {
            (tokens, name) = next;
            continue;
        }
        let Some((after_star, from)) = retry else { return false };
        let Some((_, from)) = next_char(from) else { return false };
        retry = Some((after_star, from));
        (tokens, name) = (after_star, from);
    }
}

/// The names of a path, as patterns are matched with.
pub fn names(path: &Path) -> Vec<&[u8]> {
    path.components()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(name.as_bytes()),
            _ => None,
        })
        .collect()
}

/// A path in lower case. Bytes that are no UTF-8 stay as they are.
pub fn fold(path: &Path) -> PathBuf {
    OsStr::from_bytes(&lower(path.as_os_str().as_bytes())).into()
}

/// A pattern as it is held against what is in lower case.
pub fn lower_pattern(pattern: &str) -> String {
    pattern.chars().map(lower_char).collect()
}

/// A name in lower case. Bytes that are no UTF-8 stay as they are.
pub fn lower(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    for part in name.utf8_chunks() {
        let mut bytes = [0; 4];
        for c in part.valid().chars().map(lower_char) {
            out.extend_from_slice(c.encode_utf8(&mut bytes).as_bytes());
        }
        out.extend_from_slice(part.invalid());
    }
    out
}

/// One character for one, whatever stands beside it, as Go has it: İ is i, and Σ is σ at the end of a word too.
fn lower_char(c: char) -> char {
    c.to_lowercase().next().unwrap_or(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shells_pattern_names_files() {
        let place = tempfile::tempdir().unwrap();
        for name in ["a/x.log", "a/.y.log", "b/z.log", "b/w.txt", "b/[z"] {
            let path = place.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let found = |pattern: &str| -> Vec<String> {
            let found = glob(&format!("{}/{pattern}", place.path().display())).unwrap();
            let name = |path: PathBuf| path.strip_prefix(place.path()).unwrap().display().to_string();
            found.into_iter().map(name).collect()
        };
        assert_eq!(found("*/*.log"), ["a/.y.log", "a/x.log", "b/z.log"]);
        assert_eq!(found("?/[w-x].*"), ["a/x.log", "b/w.txt"]);
        assert_eq!(found(r"b/\[z"), ["b/[z"]);
        assert_eq!(found("*/w.txt"), ["b/w.txt"]);
        assert_eq!(found("b/w.txt"), ["b/w.txt"]);
        assert!(found("b/nothing").is_empty() && found("c/*").is_empty());
        assert_eq!(glob("/x/[a").unwrap_err().why, UNENDED);
    }

    /// The rule as it is written down: `**` is any number of names, and what matches a directory matches all in it.
    fn by_the_rule(parts: &[&str], path: &[&[u8]]) -> bool {
        let Some((part, parts)) = parts.split_first() else { return true };
        if *part == "**" {
            return (0..=path.len()).any(|skip| by_the_rule(parts, &path[skip..]));
        }
        path.split_first().is_some_and(|(name, rest)| *name == part.as_bytes() && by_the_rule(parts, rest))
    }

    /// All sequences of at most `length` of these.
    fn sequences<T: Copy>(of: &[T], length: usize) -> Vec<Vec<T>> {
        let mut all = vec![Vec::new()];
        let mut from = 0;
        for _ in 0..length {
            let until = all.len();
            for index in from..until {
                all.extend(
                    of.iter().map(|one| [all[index].as_slice(), &[*one]].concat()).collect::<Vec<_>>(),
                );
            }
            from = until;
        }
        all
    }

    #[test]
    fn many_directories_match_by_the_rule_and_soon() {
        let paths = sequences::<&[u8]>(&[b"a", b"b"], 5);
        for parts in sequences(&["a", "b", "**"], 4).iter().filter(|parts| !parts.is_empty()) {
            let text = parts.join("/");
            let (anywhere, anchored) =
                (Pattern::parse(&text).unwrap(), Pattern::parse(&format!("/{text}")).unwrap());
            for path in &paths {
                assert_eq!(anchored.matches(path), by_the_rule(parts, path), "/{text} on {path:?}");
                let want = (0..path.len()).any(|start| by_the_rule(parts, &path[start..]));
                assert_eq!(anywhere.matches(path), want, "{text} on {path:?}");
            }
        }
        // By trying each place for each `**` this would not end in our time.
        let deep: Vec<&[u8]> = vec![b"a"; 2000];
        assert!(!Pattern::parse("**/a/**/a/**/a/**/a/**/b").unwrap().matches(&deep));
    }

    #[test]
    fn what_is_malformed_says_what_is_wrong() {
        for text in ["", "!a", "a/../b", "[a", "a\\", "a/[b-"] {
            let error = Pattern::parse(text).unwrap_err();
            assert_eq!(error.text, text);
            assert!(
                error.to_string().starts_with(&format!("the pattern {text:?} cannot be used: ")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_name_is_matched_in_a_short_time_whatever_the_pattern() {
        let long = [b'a'; 253];
        assert_eq!(means(&("*a".repeat(2000) + "b"), &long), Some(false));
        assert_eq!(means(&("*a".repeat(30) + "*b"), &long), Some(false));
        assert_eq!(means("*h?p*", b"shop"), Some(true));
        assert_eq!(means("sh[op", b"shop"), None);
    }

    #[test]
    fn classes_escapes_and_questions() {
        for (pattern, name, want) in [
            ("[a-c]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[^a-c]x", "dx", true),
            ("[^a-c]x", "bx", false),
            ("[!a]", "!", true),
            ("[!a]", "b", false),
            ("{a,b}", "a", false),
            ("{a,b}", "{a,b}", true),
            ("[a-]x", "-x", true),
            (r"\*x", "*x", true),
            (r"\*x", "ax", false),
            ("?", "é", true),
            ("a*b*c", "aXXbYYbc", true),
            ("a*b*c", "aXXbYYb", false),
            ("*", "", true),
        ] {
            let tokens = tokens(pattern).expect(pattern);
            assert_eq!(name_matches(&tokens, name.as_bytes()), want, "{pattern} on {name}");
        }
        assert!(name_matches(&tokens("a?b").expect("good"), b"a\xffb"), "an invalid byte is one character");
    }
}
