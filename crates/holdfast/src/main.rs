//! The one binary: dispatches to the operator, the runner and the command line, and is the only place where
//! logging, the TLS provider and the runtime are set up and where an exit code is decided.

mod completion;
mod documents;

use std::error::Error as StdError;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Threads for network and timers. Files and computing have threads of their own in the engine.
const RUNTIME_THREADS: usize = 2;
/// Exit code when nothing could even begin.
const FATAL: u8 = 1;

/// Backs up and restores Kubernetes applications, in repositories that restic can read.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, arg_required_else_help = true, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    #[command(flatten)]
    Cluster(holdfast_cli::cluster::Command),
    /// Work on a repository directly, with no cluster
    Repo(Box<holdfast_cli::repo::RepoArgs>),
    /// Run the operator in a cluster
    Operator(Box<holdfast_operator::Options>),
    /// Carry out one run inside a Job (started by the operator)
    Run(holdfast_runner::Options),
    /// Print the completions of a shell; load them as its manual says
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write a man page for each command into a directory
    Man {
        /// The directory
        #[arg(value_name = "DIRECTORY")]
        directory: PathBuf,
    },
    /// Print the version
    Version,
}

/// How a role logs.
#[derive(Debug, Clone, Copy)]
enum Log {
    /// JSON lines for collectors.
    Json,
    /// Lines for people.
    Text,
}

fn main() -> ExitCode {
    holdfast_simd::allocator::give_back_early();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some((program, words)) = arguments.split_first()
        && completion::is_asked(Some(program))
    {
        return ExitCode::from(written(completion::answer(words)));
    }
    let Cli { role } = command_line(arguments);
    let (log, level) = match &role {
        Role::Operator(_) => (Log::Json, "info"),
        Role::Run(_) => (Log::Text, "info"),
        // People get errors from the command itself, once; a log beside them would say the same again.
        Role::Cluster(_) | Role::Repo(_) | Role::Completion { .. } | Role::Man { .. } | Role::Version => {
            (Log::Text, "off")
        }
    };
    start_logging(log, level);
    // One provider for all TLS of the process. An error means that there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .thread_name("runtime")
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(perform(role));
            // What still runs was abandoned by its role: it must not keep the process.
            runtime.shutdown_background();
            ExitCode::from(code)
        }
        Err(e) => {
            complain(&e);
            ExitCode::from(FATAL)
        }
    }
}

/// Reads the command line. Called as `kubectl-holdfast`, which is how kubectl calls its plugins, it behaves the same and
/// names itself as it was called.
fn command_line(arguments: Vec<OsString>) -> Cli {
    let mut command = Cli::command();
    if is_plugin(arguments.first()) {
        command = command.bin_name("kubectl holdfast");
    }
    let wanted = Wanted::of(&arguments);
    let parsed =
        command.try_get_matches_from_mut(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.unwrap_or_else(|error| {
        let error = error.format(&mut command);
        if wanted.is_repo {
            std::process::exit(holdfast_cli::repo::refuse(&error, wanted.json).into());
        }
        error.exit()
    })
}

/// What can be told of arguments before they are parsed, and when they cannot be.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    /// A command of `holdfast repo`.
    is_repo: bool,
    /// Answers in JSON.
    json: bool,
}

impl Wanted {
    fn of(arguments: &[OsString]) -> Self {
        let is_repo = arguments.get(1).is_some_and(|word| word == "repo");
        // What comes after it is a command of somebody else's.
        let json = arguments.iter().take_while(|word| *word != "--").any(|word| word == "--json");
        Self { is_repo, json }
    }
}

fn is_plugin(program: Option<&OsString>) -> bool {
    program.and_then(|path| Path::new(path).file_stem()).is_some_and(|name| name == "kubectl-holdfast")
}

async fn perform(role: Role) -> u8 {
    match role {
        Role::Cluster(command) => holdfast_cli::cluster::run(command).await,
        Role::Repo(args) => holdfast_cli::repo::run(*args).await,
        Role::Run(options) => u8::try_from(holdfast_runner::run(options).await).unwrap_or(FATAL),
        Role::Operator(options) => match holdfast_operator::run(*options).await {
            Ok(()) => 0,
            Err(e) => {
                complain(&e);
                FATAL
            }
        },
        Role::Completion { shell } => written(documents::completion(shell)),
        Role::Man { directory } => written(documents::man(&directory)),
        Role::Version => {
            let version = concat!("holdfast ", env!("CARGO_PKG_VERSION"));
            u8::from(writeln!(std::io::stdout(), "{version}").is_err())
        }
    }
}

/// The exit code of something that only writes.
fn written(result: std::io::Result<()>) -> u8 {
    match result {
        Ok(()) => 0,
        // A reader that has gone away has read enough.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => 0,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "error: {e}");
            FATAL
        }
    }
}

/// Prints an error and its causes once, on one line: in the log, and for a person who started the process by hand.
fn complain(error: &dyn StdError) {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    tracing::error!("{text}");
}

/// Logs go to standard error: standard output belongs to results and to the runner's events.
fn start_logging(log: Log, level: &str) {
    let filter = ["HOLDFAST_LOG", "RUST_LOG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
        .and_then(|value| EnvFilter::try_new(value).ok())
        .unwrap_or_else(|| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log {
        Log::Json => builder.json().flatten_event(true).with_current_span(false).init(),
        Log::Text => builder.with_target(false).with_ansi(false).init(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_wanted_also_by_arguments_that_cannot_be_parsed() {
        let of = |line: &str| Wanted::of(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(of("holdfast repo backup --json --what"), Wanted { is_repo: true, json: true });
        assert_eq!(of("holdfast repo backup -- x --json"), Wanted { is_repo: true, json: false });
        assert_eq!(of("holdfast snapshots --json"), Wanted { is_repo: false, json: true });
        assert_eq!(of("holdfast"), Wanted { is_repo: false, json: false });
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_plugin_of_kubectl_is_known_by_its_name() {
        let plugin = |name: &str| is_plugin(Some(&OsString::from(name)));
        assert!(plugin("kubectl-holdfast") && plugin("/usr/local/bin/kubectl-holdfast"));
        assert!(!plugin("holdfast") && !plugin("/kubectl-holdfast/holdfast") && !is_plugin(None));
        let arguments = ["kubectl-holdfast", "snapshots", "-n", "shop"].map(OsString::from);
        assert!(matches!(command_line(arguments.to_vec()).role, Role::Cluster(_)));
    }
}
