//! `cargo xtask fuzz`: coverage-guided runs of the engine's fuzz targets under libFuzzer, with the project's own
//! toolchain. What a target does is in `crates/engine/fuzz`; reading what libFuzzer says is in `said`.
//!
//! cargo-fuzz is not used: it would be one more program to install, and what it adds to these flags, the address
//! sanitizer, needs a nightly compiler and finds nothing in a crate that forbids `unsafe`.

mod said;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;

use crate::Error;
use crate::workspace::Workspace;
use said::Said;

/// Where the targets are, from the root.
const CRATE: &str = "crates/engine/fuzz";

/// How libFuzzer learns which code an input reaches, and what it compares. All of it is in the stable compiler.
const COVERAGE: [&str; 6] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// One input may take this long, in seconds, also on a machine that does other things.
const INPUT_SECONDS: u32 = 60;

/// Address space above the memory limit: libFuzzer's own tables, threads' stacks, the program.
const ADDRESS_SPACE_MIB: u64 = 3072;

#[derive(Args)]
pub(crate) struct Options {
    /// How long each target runs.
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// Only this target; may be given several times. All if none is given.
    #[arg(long)]
    target: Vec<String>,
    /// Targets that run at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// The most memory of a target, in MiB; more is a finding.
    #[arg(long, default_value_t = 1024)]
    memory: u64,
    /// Begin each target's mutations from this number: the same program then goes nearly the same way again
    #[arg(long)]
    seed: Option<u32>,
}

/// What became of one target.
struct Outcome {
    name: String,
    status: ExitStatus,
    said: Said,
    log: PathBuf,
    took: Duration,
}

impl Outcome {
    fn is_finding(&self) -> bool {
        !self.status.success()
    }
}

/// Builds the targets, runs them, prints what each did. Whether nothing was found.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<bool, Error> {
    let known = targets(workspace)?;
    let wanted = choose(&known, &options.target)?;
    if !(options.minutes > 0.0 && options.minutes < 100_000.0) {
        return Err(Error::Fuzz("--minutes must be above 0".to_owned()));
    }
    let output = output_directory(workspace);
    let host = host()?;
    build(workspace, &output, &host)?;
    let runner = Runner { workspace, programs: output.join(host).join("release"), output, options };
    let rounds = wanted.len().div_ceil(options.jobs.max(1));
    println!(
        "{} targets, {} min each, {} at a time: about {:.0} min",
        wanted.len(),
        options.minutes,
        options.jobs.max(1),
        options.minutes * f64::from(u32::try_from(rounds).unwrap_or(u32::MAX)),
    );
    let outcomes = runner.all(&wanted)?;
    print!("{}", table(&outcomes));
    for outcome in outcomes.iter().filter(|o| o.is_finding()) {
        println!("\n{}", runner.explain(outcome));
    }
    Ok(!outcomes.iter().any(Outcome::is_finding))
}

/// Names of all targets, sorted.
fn targets(workspace: &Workspace) -> Result<Vec<String>, Error> {
    let prefix = format!("{CRATE}/fuzz_targets/");
    let files = workspace.files(CRATE)?;
    let mut names: Vec<String> = files
        .iter()
        .filter_map(|file| Some(file.strip_prefix(&prefix)?.strip_suffix(".rs")?.to_owned()))
        .collect();
    names.sort();
    if names.is_empty() { Err(Error::Fuzz(format!("there are no targets in {prefix}"))) } else { Ok(names) }
}

fn choose(known: &[String], wanted: &[String]) -> Result<Vec<String>, Error> {
    match wanted.iter().find(|name| !known.contains(name)) {
        Some(name) => {
            Err(Error::Fuzz(format!("there is no target {name:?}; there are {}", known.join(", "))))
        }
        None if wanted.is_empty() => Ok(known.to_vec()),
        None => Ok(wanted.to_vec()),
    }
}

/// Programs, new inputs, findings and logs; none of it belongs into the tree.
fn output_directory(workspace: &Workspace) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    workspace.path(&target.to_string_lossy()).join("fuzz")
}

fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The machine's own triple. Named to cargo, build scripts and macros are compiled without these flags.
fn host() -> Result<String, Error> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().map_err(Error::Cargo)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .ok_or_else(|| Error::Fuzz("rustc does not say for which machine it compiles".to_owned()))
}

fn build(workspace: &Workspace, output: &Path, host: &str) -> Result<(), Error> {
    // The targets are no part of the workspace, and are to run with its versions all the same: cargo adds to a copy of
    // its lock file what only they use.
    let (ours, theirs) = (workspace.path("Cargo.lock"), workspace.path(CRATE).join("Cargo.lock"));
    fs::copy(&ours, &theirs).map_err(|source| cannot("copy", &ours, source))?;
    let status = Command::new(cargo())
        .args(["build", "--release", "--bins", "--target", host, "--manifest-path"])
        .arg(workspace.path(CRATE).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(output)
        .env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\x1f"))
        .status()
        .map_err(Error::Cargo)?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::Fuzz(
            "the targets do not compile (libFuzzer itself is C++ and needs g++, which hack/prepare installs)"
                .to_owned(),
        ))
    }
}

struct Runner<'a> {
    workspace: &'a Workspace,
    programs: PathBuf,
    output: PathBuf,
    options: &'a Options,
}

impl Runner<'_> {
    /// Runs the targets, some at a time, and gives their outcomes in their order.
    fn all(&self, names: &[String]) -> Result<Vec<Outcome>, Error> {
        let waiting = Mutex::new(names.iter().cloned().collect::<VecDeque<_>>());
        let ended = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..self.options.jobs.max(1) {
                scope.spawn(|| {
                    loop {
                        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                        let Some(name) = next else { return };
                        let outcome = self.one(&name);
                        ended.lock().unwrap_or_else(PoisonError::into_inner).push((name, outcome));
                    }
                });
            }
        });
        let mut ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
        ended.sort_by_key(|(name, _)| names.iter().position(|n| n == name));
        ended.into_iter().map(|(_, outcome)| outcome).collect()
    }

    fn one(&self, name: &str) -> Result<Outcome, Error> {
        let (inputs, findings) = (self.output.join("corpus").join(name), self.findings(name));
        let log = self.output.join("logs").join(format!("{name}.log"));
        for dir in [&inputs, &findings, &self.output.join("logs")] {
            make_dir(dir)?;
        }
        let file = File::create(&log).map_err(|source| cannot("create", &log, source))?;
        let twin = file.try_clone().map_err(|source| cannot("write", &log, source))?;
        let started = Instant::now();
        let status = self
            .command(name, &inputs, &findings)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(twin)
            .status()
            .map_err(|source| cannot("run", &self.programs.join(name), source))?;
        let text = fs::read(&log).map_err(|source| cannot("read", &log, source))?;
        let said = Said::parse(&String::from_utf8_lossy(&text));
        let outcome = Outcome { name: name.to_owned(), status, said, log, took: started.elapsed() };
        println!("{}", line(&outcome));
        Ok(outcome)
    }

    fn findings(&self, name: &str) -> PathBuf {
        self.output.join("findings").join(name)
    }

    /// New inputs go into the first directory; the seeds of the tree are only read.
    fn command(&self, name: &str, inputs: &Path, findings: &Path) -> Command {
        // Without a sanitizer libFuzzer sees memory only once a second; the kernel sees every request.
        let mut command = Command::new("prlimit");
        let space = self.options.memory.saturating_add(ADDRESS_SPACE_MIB).saturating_mul(1 << 20);
        command.arg(format!("--as={space}")).arg("--core=0").arg(self.programs.join(name));
        command
            .arg(inputs)
            .arg(self.workspace.path(&format!("{CRATE}/corpus/{name}")))
            .arg(format!("-max_total_time={:.0}", self.options.minutes * 60.0))
            .arg(format!("-timeout={INPUT_SECONDS}"))
            .arg(format!("-rss_limit_mb={}", self.options.memory))
            .arg(format!("-artifact_prefix={}/", findings.display()))
            .arg("-print_final_stats=1")
            // 0 is libFuzzer's word for a number of its own.
            .arg(format!("-seed={}", self.options.seed.unwrap_or(0)))
            // What is compared counts as progress too: fields are found that are only looked at as a whole.
            .arg("-use_value_profile=1");
        command
    }

    fn explain(&self, outcome: &Outcome) -> String {
        let mut lines =
            vec![format!("{}: {}", outcome.name, outcome.said.reason(&outcome.status.to_string()))];
        match &outcome.said.file {
            Some(file) => {
                let program = self.programs.join(&outcome.name);
                lines.push(format!("  again:  {} {file}", program.display()));
                lines.push(format!("  keep:   cp {file} {CRATE}/corpus/{}/NAME", outcome.name));
            }
            None => lines.push("  no input was kept: the program ended in another way".to_owned()),
        }
        lines.push(format!("  log:    {}", outcome.log.display()));
        lines.join("\n")
    }
}

fn make_dir(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(|source| cannot("create", path, source))
}

fn cannot(action: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::File { action, path: path.display().to_string(), source }
}

fn line(outcome: &Outcome) -> String {
    let said = &outcome.said;
    format!(
        "{:<14} {:>12} {:>9} {:>10} {:>10} {:>9} {:>8}  {}",
        outcome.name,
        said.executions,
        said.per_second,
        said.new_inputs,
        format!("{} (+{})", said.edges, said.edges.saturating_sub(said.edges_of_seeds)),
        format!("{} MiB", said.peak_mib),
        format!("{} s", outcome.took.as_secs()),
        if outcome.is_finding() { "FOUND SOMETHING" } else { "ok" },
    )
}

fn table(outcomes: &[Outcome]) -> String {
    let mut lines = vec![
        String::new(),
        format!(
            "{:<14} {:>12} {:>9} {:>10} {:>10} {:>9} {:>8}  outcome",
            "target", "executions", "a second", "new inputs", "edges", "peak", "took"
        ),
    ];
    lines.extend(outcomes.iter().map(line));
    let executions: u64 = outcomes.iter().map(|o| o.said.executions).sum();
    let found = outcomes.iter().filter(|o| o.is_finding()).count();
    lines.push(format!("fuzz: {} targets, {executions} executions, {found} findings\n", outcomes.len()));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_target_is_named_with_those_there_are() {
        let known = ["config".to_owned(), "tree".to_owned()];
        assert_eq!(choose(&known, &[]).unwrap(), known);
        assert_eq!(choose(&known, &["tree".to_owned()]).unwrap(), ["tree"]);
        let error = choose(&known, &["trees".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("\"trees\"") && error.contains("config, tree"), "{error}");
    }

    #[test]
    fn every_target_of_the_tree_is_found() {
        let names = targets(&Workspace::open()).unwrap();
        assert!(names.len() >= 13 && names.iter().any(|n| n == "repository"), "{names:?}");
        for name in names {
            let seeds = Workspace::open().path(&format!("{CRATE}/corpus/{name}"));
            assert!(seeds.is_dir(), "{name} has no seeds in {}", seeds.display());
        }
    }
}
