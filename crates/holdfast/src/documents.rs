//! Shell completions and man pages, made from the command line itself, so that they never say anything else.

use std::io::Write as _;
use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

use crate::Cli;

/// Writes the completions of a shell to standard output.
pub(crate) fn completion(shell: Shell) -> std::io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "holdfast", &mut script);
    std::io::stdout().write_all(&script)
}

/// Writes a page for each command into a directory, which is made when it is absent.
pub(crate) fn man(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    // Without the version in the pages' names of commands: packages of two versions differ only where they do.
    clap_mangen::generate_to(command(), directory)
}

fn command() -> Command {
    Cli::command().disable_help_subcommand(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let directory = tempfile::tempdir().unwrap();
        man(&directory.path().join("new")).unwrap();
        let mut pages: Vec<String> = std::fs::read_dir(directory.path().join("new"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        pages.sort();
        let mut commands = vec!["holdfast".to_owned()];
        let mut stack = vec![(String::from("holdfast"), command())];
        while let Some((name, command)) = stack.pop() {
            for sub in command.get_subcommands().filter(|c| !c.is_hide_set()) {
                let name = format!("{name}-{}", sub.get_name());
                commands.push(name.clone());
                stack.push((name, sub.clone()));
            }
        }
        let mut expected: Vec<String> = commands.iter().map(|name| format!("{name}.1")).collect();
        expected.sort();
        assert_eq!(pages, expected);
        let page = std::fs::read_to_string(directory.path().join("new/holdfast-repo-copy.1")).unwrap();
        assert!(page.contains("from\\-repo"), "{page}");
    }

    /// The commands below a command, itself first, each with the help that it prints.
    fn helps(page: &mut String, name: &str, command: &Command) {
        use std::fmt::Write as _;
        let mut stack = vec![(name.to_owned(), command.clone())];
        while let Some((name, mut command)) = stack.pop() {
            let help = command.render_long_help().to_string();
            let help: Vec<&str> = help.lines().map(str::trim_end).collect();
            write!(page, "\n## {name}\n```text\n{}\n```\n", help.join("\n").trim()).unwrap();
            let mut below: Vec<_> = command
                .get_subcommands()
                .filter(|c| !c.is_hide_set() && c.get_name() != "help")
                .map(|c| (format!("{name} {}", c.get_name()), c.clone()))
                .collect();
            below.reverse();
            stack.extend(below);
        }
    }

    const HOW: &str = "Generated from the program by its tests; do not edit. To write it anew after a change:\n\
         `HOLDFAST_WRITE_REFERENCE=1 cargo test -p holdfast --bin holdfast reference`.\n";

    /// The commands of `holdfast repo`.
    fn repo_reference() -> String {
        let mut page = format!("# The commands of `holdfast repo`\n\n{HOW}");
        let mut program = command().term_width(100);
        program.build();
        helps(&mut page, "holdfast repo", program.find_subcommand("repo").unwrap());
        page
    }

    /// The commands on a cluster, and the exit codes.
    fn cli_reference() -> String {
        use std::fmt::Write as _;
        let mut page = format!(
            "# The commands of `holdfast`\n\n{HOW}\n\
             Commands on a cluster take the kubeconfig as kubectl does. Installed (or linked) as `kubectl-holdfast` \
             somewhere on the `PATH`, the same program answers to `kubectl holdfast`. `holdfast repo`, which needs no \
             cluster, has [a page of its own](repo.md).\n\n\
             Results go to standard output, everything else to standard error.\n\n\
             ## Exit codes\n| code | meaning |\n|---|---|\n"
        );
        for (code, meaning) in holdfast_cli::exit::MEANINGS {
            writeln!(page, "| {code} | {meaning} |").unwrap();
        }
        let mut program = command().term_width(100);
        program.build();
        for sub in program.get_subcommands().filter(|c| !c.is_hide_set()) {
            // One has a page of its own; the others are for the cluster, not for people.
            if !["repo", "operator", "run", "help"].contains(&sub.get_name()) {
                helps(&mut page, &format!("holdfast {}", sub.get_name()), sub);
            }
        }
        page
    }

    #[test]
    fn the_reference_says_what_the_program_says() {
        for (name, page) in [("repo.md", repo_reference()), ("cli.md", cli_reference())] {
            let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference").join(name);
            if std::env::var_os("HOLDFAST_WRITE_REFERENCE").is_some() {
                std::fs::write(&at, &page).unwrap();
            }
            let written = std::fs::read_to_string(&at).unwrap_or_default();
            assert!(
                written == page,
                "docs/reference/{name} is not up to date; its first lines say how to write it anew"
            );
        }
    }

    #[test]
    fn every_shell_completes_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "holdfast", &mut script);
            let script = String::from_utf8(script).unwrap();
            for word in ["repo", "snapshots", "retry-lock", "blobs-per-file", "new-claim", "max-age"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
