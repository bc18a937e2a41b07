//! The command line of Holdfast, as a person or a script gives it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::kubectl::{Failure, Result};

/// `holdfast` with a kubeconfig.
#[derive(Debug, Clone)]
pub struct Holdfast {
    program: PathBuf,
    kubeconfig: PathBuf,
}

/// What a command came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Exit code; -1 when it was killed.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Holdfast {
    /// Uses this program with this configuration.
    pub fn new(program: PathBuf, kubeconfig: PathBuf) -> Self {
        Self { program, kubeconfig }
    }

    /// The same, by another kubeconfig.
    #[must_use]
    pub fn with_kubeconfig(&self, kubeconfig: PathBuf) -> Self {
        Self { kubeconfig, ..self.clone() }
    }

    /// The same program under another name, as kubectl's plugins are called.
    #[must_use]
    pub fn called(&self, program: PathBuf) -> Self {
        Self { program, ..self.clone() }
    }

    /// The program.
    pub fn program(&self) -> &PathBuf {
        &self.program
    }

    /// Runs `holdfast ARGS`, with nobody to ask, whatever it comes to.
    pub fn run(&self, args: &[&str]) -> Result<Outcome> {
        let done = Command::new(&self.program)
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null())
            .output()
            .map_err(|e| Failure(format!("cannot start {}: {e}", self.program.display())))?;
        Ok(Outcome {
            code: done.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&done.stdout).into_owned(),
            err: String::from_utf8_lossy(&done.stderr).into_owned(),
        })
    }

    /// Runs `holdfast ARGS`, which must end with `code` and say each of `words` somewhere.
    pub fn expect(&self, args: &[&str], code: i32, words: &[&str]) -> Result<Outcome> {
        let outcome = self.run(args)?;
        let said = |word: &str| outcome.out.contains(word) || outcome.err.contains(word);
        match words.iter().find(|word| !said(word)) {
            None if outcome.code == code => Ok(outcome),
            missing => Err(Failure(format!(
                "holdfast {} ended with {} and not {code}, or did not say {missing:?}:\n{}\n{}",
                args.join(" "),
                outcome.code,
                outcome.out,
                outcome.err
            ))),
        }
    }

    /// Runs `holdfast ARGS`, which must end with `code` and print JSON.
    pub fn json(&self, args: &[&str], code: i32) -> Result<Value> {
        let outcome = self.expect(args, code, &[])?;
        serde_json::from_str(&outcome.out)
            .map_err(|e| Failure(format!("holdfast {}: no JSON: {e}\n{}", args.join(" "), outcome.out)))
    }

    /// Runs `holdfast ARGS`, which must end well and print YAML.
    pub fn yaml(&self, args: &[&str]) -> Result<Value> {
        let outcome = self.expect(args, 0, &[])?;
        serde_saphyr::from_str(&outcome.out)
            .map_err(|e| Failure(format!("holdfast {}: no YAML: {e}\n{}", args.join(" "), outcome.out)))
    }
}
