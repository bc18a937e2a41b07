//! Patterns of the command line, and of files with a pattern a line, as restic reads them: blank lines and those that begin with `#` count for nothing,
//! `$NAME` and `${NAME}` are what the environment says, `$$` is a dollar sign.
//!
//! Not here: what a pattern means (the engine).

use std::path::{Path, PathBuf};

use holdfast_engine::rewrite::Patterns;

use super::access::Environment;
use crate::failure::{Failure, Result};
use crate::text::decode;

/// Flags by which files are chosen from a snapshot.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct PatternFlags {
    /// Only what matches this pattern (may be given several times)
    #[arg(short, long, value_name = "PATTERN")]
    include: Vec<String>,
    /// As --include, whatever the case of letters
    #[arg(long, value_name = "PATTERN")]
    iinclude: Vec<String>,
    /// Take patterns of --include from this file, one a line
    #[arg(long, value_name = "FILE")]
    include_file: Vec<PathBuf>,
    /// Take patterns of --iinclude from this file, one a line
    #[arg(long, value_name = "FILE")]
    iinclude_file: Vec<PathBuf>,
    #[command(flatten)]
    exclude: ExcludeFlags,
}

/// Flags by which files are left out.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct ExcludeFlags {
    /// Leave out what matches this pattern (may be given several times)
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// As --exclude, whatever the case of letters
    #[arg(long, value_name = "PATTERN")]
    iexclude: Vec<String>,
    /// Take patterns of --exclude from this file, one a line
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// Take patterns of --iexclude from this file, one a line
    #[arg(long, value_name = "FILE")]
    iexclude_file: Vec<PathBuf>,
}

/// All patterns that were given, those of files too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) include: Patterns,
    pub(super) exclude: Patterns,
}

impl PatternFlags {
    /// Reads the files that are named.
    pub(super) fn read(&self, env: Environment<'_>) -> Result<Given> {
        let all = |given: &[String], files: &[PathBuf]| -> Result<Vec<String>> {
            Ok([given, &read_all(files, env)?].concat())
        };
        Ok(Given {
            include: Patterns {
                exact: all(&self.include, &self.include_file)?,
                any_case: all(&self.iinclude, &self.iinclude_file)?,
            },
            exclude: self.exclude.read(env)?,
        })
    }
}

impl ExcludeFlags {
    /// Reads the files that are named.
    pub(super) fn read(&self, env: Environment<'_>) -> Result<Patterns> {
        let all = |given: &[String], files: &[PathBuf]| -> Result<Vec<String>> {
            Ok([given, &read_all(files, env)?].concat())
        };
        Ok(Patterns {
            exact: all(&self.exclude, &self.exclude_file)?,
            any_case: all(&self.iexclude, &self.iexclude_file)?,
        })
    }

    /// As [`ExcludeFlags::read`], but that an empty pattern and a file without one leave nothing out: what is not there
    /// costs a backup nothing. As restic has it.
    pub(super) fn read_leniently(&self, env: Environment<'_>) -> Result<Patterns> {
        let all = |given: &[String], files: &[PathBuf]| -> Result<Vec<String>> {
            let listed = files.iter().map(|file| read_any(file, env)).collect::<Result<Vec<_>>>()?;
            Ok(given.iter().cloned().chain(listed.concat()).filter(|p| !p.is_empty()).collect())
        };
        Ok(Patterns {
            exact: all(&self.exclude, &self.exclude_file)?,
            any_case: all(&self.iexclude, &self.iexclude_file)?,
        })
    }
}

/// The patterns of all these files, in their order.
fn read_all(files: &[PathBuf], env: Environment<'_>) -> Result<Vec<String>> {
    files.iter().map(|file| read(file, env)).collect::<Result<Vec<_>>>().map(|lists| lists.concat())
}

/// The patterns of a file; one without any is an error, since it would choose everything.
fn read(file: &Path, env: Environment<'_>) -> Result<Vec<String>> {
    let patterns = read_any(file, env)?;
    if patterns.is_empty() {
        return Err(Failure::usage(
            format!("there is no pattern in {}", file.display()),
            "write one a line, or leave the file out",
        ));
    }
    Ok(patterns)
}

fn read_any(file: &Path, env: Environment<'_>) -> Result<Vec<String>> {
    let bytes = std::fs::read(file).map_err(|e| {
        Failure::usage(
            format!("read the patterns in {}: {e}", file.display()),
            "name a file that may be read, with a pattern a line",
        )
    })?;
    let text = decode(&bytes).ok_or_else(|| {
        Failure::usage(
            format!("{} is neither UTF-8 nor UTF-16 text", file.display()),
            "name a text file with a pattern a line",
        )
    })?;
    parse(&text, env).map_err(|name| {
        Failure::usage(
            format!("{} uses the variable {name}, which is not set", file.display()),
            "set it, or write $$ for a dollar sign",
        )
    })
}

/// The patterns; the name of a variable that is not set. (restic takes it for nothing, so that `$DIR/cache` would mean
/// `/cache`.)
fn parse(text: &str, env: Environment<'_>) -> std::result::Result<Vec<String>, String> {
    lines(text).map(|line| expand(line, env)).collect()
}

/// The lines of a list that people write: without what is around them, empty ones and comments.
pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn expand(line: &str, env: Environment<'_>) -> std::result::Result<String, String> {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let (name, left) = braced.unwrap_or_else(|| {
            after
                .split_at(after.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(after.len()))
        });
        if name.is_empty() {
            out.push('$');
        } else {
            out.push_str(&env(name).ok_or_else(|| name.to_owned())?);
        }
        rest = left;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_restic_reads_them() {
        let env = |name: &str| (name == "HOME").then(|| "/home/ann".to_owned());
        let text = "# a comment\n\n  *.log  \r\n$HOME/cache\n${HOME}x\nprice$$\n5$ a\n";
        let expected = ["*.log", "/home/ann/cache", "/home/annx", "price$", "5$ a"];
        assert_eq!(parse(text, &env).unwrap(), expected);
        assert_eq!(parse("$NOWHERE/cache", &env), Err("NOWHERE".to_owned()));
    }

    #[test]
    fn what_editors_on_windows_write_is_text_too() {
        let of = |bytes: &[u8]| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            read_all(&[file.path().to_owned()], &|_| None)
        };
        let wide =
            |unit: fn(u16) -> [u8; 2]| "\u{feff}ä*\r\n".encode_utf16().flat_map(unit).collect::<Vec<_>>();
        for bytes in ["\u{feff}ä*".as_bytes().to_vec(), wide(u16::to_le_bytes), wide(u16::to_be_bytes)] {
            assert_eq!(of(&bytes).unwrap(), ["ä*"]);
        }
        assert!(of(b"a\xff").unwrap_err().cause.contains("UTF-8"));
        assert!(of(b"# nothing\n").unwrap_err().cause.contains("no pattern"));
        let missing = read_all(&["/no/such/file".into()], &|_| None).unwrap_err();
        assert!(missing.cause.contains("/no/such/file"), "{}", missing.cause);
    }

    #[test]
    fn what_is_empty_leaves_nothing_out_of_a_backup() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# nothing\n").unwrap();
        let flags = ExcludeFlags {
            exclude: vec![String::new(), "*.o".to_owned()],
            iexclude_file: vec![file.path().to_owned()],
            ..ExcludeFlags::default()
        };
        let found = flags.read_leniently(&|_| None).unwrap();
        assert_eq!((found.exact, found.any_case), (vec!["*.o".to_owned()], Vec::new()));
        assert!(flags.read(&|_| None).is_err());
        let flags = ExcludeFlags { exclude_file: vec!["/no/such/file".into()], ..ExcludeFlags::default() };
        assert!(flags.read_leniently(&|_| None).is_err());
    }
}
