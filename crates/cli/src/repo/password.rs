//! Passwords as files and commands hold them, and what of that is the password. As restic takes them: a mark of the
//! encoding and white space around are no part of it. Not here: which file or command (`access`).

use std::process::{Command, Stdio};

use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use crate::failure::{Failure, Result};
use crate::text::decode;

/// The password in a file's bytes, and after it what earlier releases took for it, where that differs. They left blanks
/// at the ends, and repositories were made so.
pub(super) fn in_file(bytes: &[u8]) -> Option<Vec<SecretString>> {
    let text = decode(bytes)?;
    let earlier = std::str::from_utf8(bytes).ok().map(|text| text.trim_end_matches(['\n', '\r']));
    let mut found = vec![SecretString::from(text.trim())];
    if let Some(earlier) = earlier.filter(|earlier| *earlier != text.trim()) {
        found.push(SecretString::from(earlier));
    }
    found.retain(|password| !password.expose_secret().is_empty());
    Some(found)
}

/// Runs a command and takes what it prints. Its words are those of a shell, but no shell is started.
pub(super) fn printed_by(command: &str, from: &str) -> Result<SecretString> {
    let bad = |why: String| {
        Failure::usage(
            format!("get the password from the command of {from}: {why}"),
            "run it by hand: it has to print the password, and to exit with 0",
        )
    };
    let words = words(command).ok_or_else(|| bad("a quote in it has no end".to_owned()))?;
    let (program, arguments) = words.split_first().ok_or_else(|| bad("it is empty".to_owned()))?;
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| bad(format!("{program} cannot be run: {e}")))?;
    let printed = Zeroizing::new(output.stdout);
    if !output.status.success() {
        return Err(bad(format!("it ended with {}", output.status)));
    }
    let text = std::str::from_utf8(&printed).map_err(|_| bad("it prints what is not UTF-8".to_owned()))?;
    Ok(SecretString::from(text.trim()))
}

/// The words of a command line, quotes and backslashes taken as a shell does. `None` for a quote without its end.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => {
                let next = chars.next()?;
                let word = word.get_or_insert_default();
                if quote.is_some() && !matches!(next, '"' | '\\' | '$' | '`') {
                    word.push('\\');
                }
                word.push(next);
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Vec<String> {
        let found = in_file(bytes).unwrap();
        found.iter().map(|password| password.expose_secret().to_owned()).collect()
    }

    #[test]
    fn white_space_around_is_no_part_of_a_password_but_once_was() {
        assert_eq!(all(b"secret\r\n"), ["secret"]);
        assert_eq!(all(b" sec ret \r\n"), ["sec ret", " sec ret "]);
        assert_eq!(all("\u{a0}pass\u{2003}\n".as_bytes()), ["pass", "\u{a0}pass\u{2003}"]);
        assert_eq!(all(b" \n"), [" "]);
        assert_eq!(all(b"\n"), Vec::<String>::new());
    }

    #[test]
    fn a_mark_of_the_encoding_tells_it_and_is_no_part_of_the_password() {
        assert_eq!(all(b"\xef\xbb\xbfpass\n"), ["pass", "\u{feff}pass"]);
        assert_eq!(all(b"\xff\xfep\0\xfc\0\n\0"), ["pü"]);
        assert_eq!(all(b"\xfe\xff\0p\0\xfc"), ["pü"]);
        assert!(in_file(b"\xfe\xff\0p\0").is_none() && in_file(b"\xffpass").is_none());
    }

    #[test]
    fn a_command_is_split_as_a_shell_splits_it() {
        let split = |line: &str| words(line).map(|words| words.join("|"));
        assert_eq!(
            split(r#"sh -c 'cat "a b"' "c 'd' \"e\" \n" f\ g"#).unwrap(),
            r#"sh|-c|cat "a b"|c 'd' "e" \n|f g"#
        );
        assert_eq!(split("pass ''").unwrap(), "pass|");
        assert_eq!(split("  ").unwrap(), "");
        assert_eq!(split("pass 'a"), None);
        assert_eq!(split(r"pass \"), None);
    }

    #[test]
    fn what_a_command_prints_is_trimmed_and_its_failure_told() {
        let password = printed_by("sh -c \"printf ' my pass \\n\\n'\"", "x").unwrap();
        assert_eq!(password.expose_secret(), "my pass");
        for bad in ["false", "", "no-such-program-anywhere"] {
            assert!(printed_by(bad, "--password-command").unwrap_err().cause.contains("--password-command"));
        }
    }
}
