//! `cargo xtask gen` and `cargo xtask check`: what must stay in step with the code, and what the code must keep;
//! `cargo xtask fuzz`: what no input may do to it. Not a build system: building and testing are cargo's and make's.

mod changelog;
mod fuzz;
mod generate;
mod layering;
mod licences;
mod links;
mod reference;
mod sources;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::{Problem, Workspace};

/// Generates and checks what must stay in step with the code.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write the CRDs, the chart's CRDs and the API reference.
    Gen,
    /// Check that generated files are up to date and that the rules of the project are kept.
    Check,
    /// Run the engine's fuzz targets under libFuzzer, guided by coverage; a finding is a failure.
    Fuzz(fuzz::Options),
}

/// Something went wrong before anything could be judged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file or directory.
    #[error("cannot {action} {path}")]
    File {
        action: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// cargo metadata.
    #[error("cannot run `cargo metadata`: is cargo in PATH?")]
    Cargo(#[source] std::io::Error),
    /// cargo metadata.
    #[error("`cargo metadata` failed: {0}")]
    Metadata(String),
    /// cargo metadata.
    #[error("cannot read the answer of `cargo metadata`")]
    MetadataJson(#[source] serde_json::Error),
    /// deny.toml.
    #[error("cannot read the rules in deny.toml")]
    Rules(#[source] toml::de::Error),
    /// Fuzzing could not begin.
    #[error("{0}")]
    Fuzz(String),
    /// A definition.
    #[error("cannot write the CRD of {kind} as JSON")]
    CrdJson {
        kind: String,
        #[source]
        source: serde_json::Error,
    },
    /// A definition.
    #[error("cannot write the CRD of {kind} as YAML")]
    CrdYaml {
        kind: String,
        #[source]
        source: Box<serde_saphyr::SerializeError>,
    },
}

fn main() -> ExitCode {
    let workspace = Workspace::open();
    let outcome = match Arguments::parse().command {
        Command::Gen => generate::write(&workspace).map(|()| Vec::new()),
        Command::Check => check(&workspace),
        Command::Fuzz(options) => match fuzz::run(&workspace, &options) {
            Ok(true) => Ok(Vec::new()),
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(error),
        },
    };
    match outcome {
        Ok(problems) if problems.is_empty() => ExitCode::SUCCESS,
        Ok(problems) => {
            for problem in &problems {
                eprintln!("{problem}");
            }
            eprintln!("\n{} to mend", plural(problems.len(), "problem"));
            ExitCode::FAILURE
        }
        Err(error) => {
            let mut cause = Some(&error as &dyn std::error::Error);
            let mut text = Vec::new();
            while let Some(current) = cause {
                text.push(current.to_string());
                cause = current.source();
            }
            eprintln!("error: {}", text.join(": "));
            ExitCode::FAILURE
        }
    }
}

fn check(workspace: &Workspace) -> Result<Vec<Problem>, Error> {
    let mut problems = Vec::new();
    for (what, found) in [
        ("generated files are up to date", generate::check(workspace)?),
        ("crates use only what lies below them", layering::check(workspace)?),
        ("files are small, named and introduced; crates inherit the lints", sources::check(workspace)?),
        ("notes on changes say something", changelog::check(workspace)?),
        ("links in the documents lead somewhere", links::check(workspace)?),
        ("licences of dependencies are allowed", licences::check(workspace)?),
    ] {
        println!("{} {what}", if found.is_empty() { "ok    " } else { "FAILED" });
        problems.extend(found);
    }
    Ok(problems)
}

fn plural(count: usize, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}
