//! Completion of `kubectl holdfast …`. kubectl asks a program called `kubectl_complete-holdfast`: it gives it the words after
//! the plugin's name, the last of which is to be completed and may be empty, and reads a candidate a line, with a tab before
//! what it means, and in the last line a colon and what the shell is to do
//! (kubernetes/kubectl, `pkg/cmd/plugin/plugin_completion.go`; the numbers are cobra's `ShellCompDirective`).
//!
//! Nothing of the cluster is looked up. Shells ask by themselves what `holdfast completion` writes.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use clap::builder::PossibleValue;
use clap::{Arg, Command, CommandFactory as _};

use crate::Cli;

/// The shell is to offer names of files where it is told nothing better.
const DEFAULT: u8 = 0;
/// The shell is to offer nothing but the candidates.
const NO_FILES: u8 = 4;

/// Whether the program was called by the name that kubectl asks.
pub(crate) fn is_asked(program: Option<&OsString>) -> bool {
    program
        .and_then(|path| Path::new(path).file_stem())
        .is_some_and(|name| name == "kubectl_complete-holdfast")
}

/// Writes what kubectl reads.
pub(crate) fn answer(words: &[OsString]) -> std::io::Result<()> {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    std::io::stdout().write_all(page(&words).as_bytes())
}

fn page(words: &[String]) -> String {
    let found = candidates(words);
    let mut text = String::new();
    for Candidate { word, help } in &found {
        // Writing to a String does not fail.
        let _ = match help {
            Some(help) => writeln!(text, "{word}\t{help}"),
            None => writeln!(text, "{word}"),
        };
    }
    let _ = writeln!(text, ":{}", if found.is_empty() { DEFAULT } else { NO_FILES });
    text
}

/// A word that may stand there, and what it means.
#[derive(Debug, PartialEq)]
struct Candidate {
    word: String,
    help: Option<String>,
}

fn candidates(words: &[String]) -> Vec<Candidate> {
    let mut program = Cli::command();
    program.build();
    let Some((last, before)) = words.split_last() else { return Vec::new() };
    let mut command = &program;
    let mut pending: Option<&Arg> = None;
    for word in before {
        if pending.take().is_some() {
            continue;
        }
        if word == "--" {
            // What follows is never a flag or a command.
            return Vec::new();
        }
        if word.starts_with('-') {
            pending = flag(command, word).filter(|arg| arg.get_action().takes_values() && !has_value(word));
        } else if let Some(below) = command.find_subcommand(word) {
            command = below;
        }
    }
    // Shells put before a value what stands before it in its word.
    let mut typed = last.as_str();
    let mut found = if let Some(arg) = pending {
        values(arg)
    } else if let Some((name, part)) = last.split_once('=').filter(|_| last.starts_with("--")) {
        typed = part;
        flag(command, name).map(values).unwrap_or_default()
    } else if last.starts_with('-') {
        flags(command)
    } else {
        let positionals = command.get_positionals().flat_map(values);
        commands(command).chain(positionals).collect()
    };
    found.retain(|candidate| candidate.word.starts_with(typed));
    found
}

/// The flag that a word is, with its value or without.
fn flag<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    let name = word.split('=').next().unwrap_or_default();
    if let Some(long) = name.strip_prefix("--") {
        return command.get_arguments().find(|arg| arg.get_long() == Some(long));
    }
    let short = name.chars().nth(1)?;
    command.get_arguments().find(|arg| arg.get_short() == Some(short))
}

/// Whether a flag's value stands in its own word: `--name=value`, `-nvalue`.
fn has_value(word: &str) -> bool {
    word.contains('=') || (!word.starts_with("--") && word.chars().count() > 2)
}

fn flags(command: &Command) -> Vec<Candidate> {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    let long = shown.filter_map(|arg| {
        let help = arg.get_help().and_then(|help| first_line(&help.to_string()));
        Some(Candidate { word: format!("--{}", arg.get_long()?), help })
    });
    long.collect()
}

fn commands(command: &Command) -> impl Iterator<Item = Candidate> {
    command.get_subcommands().filter(|below| !below.is_hide_set()).map(|below| Candidate {
        word: below.get_name().to_owned(),
        help: below.get_about().and_then(|about| first_line(&about.to_string())),
    })
}

fn values(arg: &Arg) -> Vec<Candidate> {
    let known = |value: PossibleValue| Candidate {
        word: value.get_name().to_owned(),
        help: value.get_help().and_then(|help| first_line(&help.to_string())),
    };
    arg.get_possible_values().into_iter().filter(|value| !value.is_hide_set()).map(known).collect()
}

fn first_line(text: &str) -> Option<String> {
    text.lines().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_of(line: &str) -> String {
        page(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    fn words(line: &str) -> Vec<String> {
        let page = page_of(line);
        let lines = page.lines().filter(|line| !line.starts_with(':'));
        lines.map(|line| line.split('\t').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn commands_flags_and_values_are_completed_where_they_may_stand() {
        assert_eq!(words("rest"), ["restore"]);
        assert!(words("").contains(&"doctor".to_owned()));
        assert_eq!(words("restore --new-c"), ["--new-claim"]);
        assert_eq!(words("restore first --new-c"), ["--new-claim"]);
        assert_eq!(words("repo snap"), ["snapshots"]);
        assert_eq!(
            words("snapshots -n restore --all-n"),
            ["--all-namespaces"],
            "a namespace may be called so"
        );
        assert_eq!(words("snapshots -o y"), ["yaml"]);
        assert_eq!(words("snapshots --output=y"), ["yaml"]);
        assert_eq!(words("snapshots -oyaml --all-n"), ["--all-namespaces"]);
        assert_eq!(words("completion f"), ["fish"]);
        assert_eq!(words("repo backup -- --"), Vec::<String>::new());
    }

    #[test]
    fn kubectl_is_told_what_a_word_means_and_whether_files_may_be_meant() {
        let answer = page_of("doct");
        let (word, rest) = answer.split_once('\t').unwrap();
        assert_eq!(word, "doctor");
        let (help, rest) = rest.split_once('\n').unwrap();
        assert!(!help.is_empty());
        assert_eq!(rest, ":4\n");
        assert_eq!(page_of("repo backup /ho"), ":0\n");
        assert_eq!(page(&[]), ":0\n");
    }

    #[test]
    fn kubectl_asks_by_a_name_of_its_own() {
        let asked = |name: &str| is_asked(Some(&OsString::from(name)));
        assert!(asked("kubectl_complete-holdfast") && asked("/usr/local/bin/kubectl_complete-holdfast"));
        assert!(!asked("kubectl-holdfast") && !asked("holdfast") && !is_asked(None));
    }
}
