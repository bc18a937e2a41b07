//! The `testbed` program: the library's functions as commands. Data on stdout, talk on stderr.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use holdfast_testbed::{
    Error, HOLDFAST_IMAGE, Health, Layout, Part, Progress, Result, S3Env, Testbed, archive, build,
    build_holdfast_image, build_minio, chain, down, health, kopia, restic, rustic, slow_line, up, verify,
};

/// A real two-node Kubernetes with storage and an S3 server on this machine.
///
/// Everything is kept in one directory: `HOLDFAST_TESTBED_DIR`, or ~/.cache/holdfast/testbed.
#[derive(Parser)]
#[command(name = "testbed", version)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install missing Debian packages and build programs and images that are not there yet.
    Build {
        /// Build only a part.
        #[arg(long)]
        only: Option<Only>,
        /// Then also the second S3 server, which only some tests want (3 minutes).
        #[arg(long, conflicts_with = "only")]
        with_minio: bool,
    },
    /// Bring the bed up (about 15 s once built); does nothing if it is up and well.
    Up,
    /// Take the bed down, in whatever state it is.
    Down {
        /// Then fail unless the machine is as it was before `up`.
        #[arg(long)]
        verify: bool,
    },
    /// Say how the bed is; exits with 0 if it is up, 3 if it is down, 4 if it is broken.
    Status,
    /// Print the directory of the built programs (kubectl, helm, …); works without a bed.
    Bin,
    /// Print shell exports: `eval "$(testbed env)"`.
    Env {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Import image archives into every node.
    LoadImage {
        /// Archives as `docker save` writes them.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Print the path of an image's archive, built if it is missing: pause, tools, postgres, holdfast.
    Image {
        /// The image's name.
        name: String,
        /// The release binary that the holdfast image is made of.
        #[arg(long, default_value = "target/release/holdfast")]
        binary: PathBuf,
    },
    /// Print the path of an unpacked stock restic: 0.14.0, 0.18.0 or 0.19.1.
    Restic {
        /// Version, or Debian suite.
        version: String,
    },
    /// Print the path of rustic 0.11.4, compiled from its crate if it is missing (minutes).
    Rustic,
    /// Print the path of kopia 0.22.3, built if it is missing (minutes).
    Kopia,
    /// Stop, start or look at the S3 server.
    S3 {
        #[command(subcommand)]
        task: S3Task,
    },
    /// Stop, start or look at the second S3 server, minio; the first start builds it (3 minutes).
    Minio {
        #[command(subcommand)]
        task: MinioTask,
    },
    /// Hand on connections with latency, until killed; for benchmarks.
    SlowLine {
        /// Address and port to listen on.
        #[arg(long)]
        listen: SocketAddr,
        /// Where connections go.
        #[arg(long)]
        to: SocketAddr,
        /// How much longer an answer takes, in milliseconds.
        #[arg(long)]
        milliseconds: u64,
    },
    /// Run kubectl as the cluster's administrator.
    #[command(disable_help_flag = true)]
    Kubectl {
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run helm as the cluster's administrator.
    #[command(disable_help_flag = true)]
    Helm {
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Only {
    Bin,
    Images,
}

#[derive(Subcommand)]
enum S3Task {
    /// Start it unless it runs.
    Start,
    /// Kill it, as a crash would; the data stays.
    Stop,
    /// Exits with 0 if it answers, 3 if not.
    Status,
    /// Make a bucket.
    CreateBucket {
        /// Its name, 3 characters or more.
        name: String,
    },
    /// List a bucket's objects.
    Ls {
        /// The bucket.
        bucket: String,
        /// Only keys that start so.
        #[arg(default_value = "")]
        prefix: String,
    },
}

#[derive(Subcommand)]
enum MinioTask {
    /// Build it if it is missing, and start it unless it runs.
    Start,
    /// Kill it, as a crash would; the data stays.
    Stop,
    /// Exits with 0 if it answers, 3 if not.
    Status,
    /// Print shell exports: endpoint, keys, authority.
    Env,
    /// Make a bucket.
    CreateBucket {
        /// Its name, 3 characters or more.
        name: String,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("testbed: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    let layout = Layout::from_env()?;
    let progress = Progress::new();
    match task {
        Task::Build { only, with_minio } => {
            let part = match only {
                None => Part::All,
                Some(Only::Bin) => Part::Programs,
                Some(Only::Images) => Part::Images,
            };
            build(&layout, part, &progress)?;
            if with_minio {
                build_minio(&layout, &progress)?;
            }
            progress.say("everything is built");
        }
        Task::Up => {
            let env = up(&layout, &progress)?;
            progress.say(&format!("export KUBECONFIG={}", env.kubeconfig.display()));
        }
        Task::Down { verify: check } => {
            down(&layout, &progress)?;
            if check {
                verify(&layout)?;
                progress.say("the machine is as it was");
            }
        }
        Task::Status => return status(&layout),
        Task::Bin => line(&layout.bin().display().to_string())?,
        Task::Env { json } => print_env(&Testbed::connect_to(layout)?, json)?,
        Task::LoadImage { files } => Testbed::connect_to(layout)?.load_images(&files)?,
        Task::Image { name, binary } => {
            let path = match name.as_str() {
                "holdfast" => build_holdfast_image(&layout, &binary, &progress)?,
                name => archive(&layout, name, &progress)?,
            };
            line(&path.display().to_string())?;
        }
        Task::Restic { version } => {
            let restic = restic(&layout, &version)?;
            progress.say(&format!("restic {}", restic.version));
            line(&restic.program.display().to_string())?;
        }
        Task::Minio { task } => return minio(&Testbed::connect_to(layout)?, task, &progress),
        Task::Rustic => line(&rustic(&layout, &progress)?.display().to_string())?,
        Task::Kopia => line(&kopia(&layout, &progress)?.display().to_string())?,
        Task::S3 { task } => return s3(&Testbed::connect_to(layout)?, task),
        Task::SlowLine { listen, to, milliseconds } => {
            slow_line(listen, to, Duration::from_millis(milliseconds))?;
        }
        Task::Kubectl { arguments } => {
            return become_program(Testbed::connect_to(layout)?.kubectl().args(arguments));
        }
        Task::Helm { arguments } => {
            return become_program(Testbed::connect_to(layout)?.helm().args(arguments));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Data on stdout. A reader that has seen enough (`| head -1`) is no failure.
fn line(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(source) if source.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::File { action: "write", path: "standard output".into(), source })
        }
        _ => Ok(()),
    }
}

/// Only returns if it cannot.
fn become_program(command: &mut std::process::Command) -> Result<ExitCode> {
    // The commands of the library have no input; a person's kubectl has (`apply -f -`).
    command.stdin(std::process::Stdio::inherit());
    let program = command.get_program().to_string_lossy().into_owned();
    Err(Error::Start { program, source: command.exec() })
}

fn status(layout: &Layout) -> Result<ExitCode> {
    let code = match health(layout)? {
        Health::Down => {
            line("down")?;
            3
        }
        Health::Broken(reason) => {
            line(&format!("broken: {reason}"))?;
            4
        }
        Health::Up => {
            let bed = Testbed::connect_to(layout.clone())?;
            let env = bed.env();
            line("up")?;
            line(&format!("  API server  {}", env.server))?;
            for node in &env.nodes {
                line(&format!(
                    "  node {}     {} (first process {})",
                    node.name, node.address, node.init_pid
                ))?;
            }
            let word = if bed.s3().is_up() { "" } else { " (stopped)" };
            line(&format!("  S3          {}{word}", env.s3.endpoint))?;
            line(&format!("  logs        {}", layout.logs().display()))?;
            0
        }
    };
    Ok(ExitCode::from(code))
}

fn print_env(bed: &Testbed, json: bool) -> Result<()> {
    let env = bed.env();
    if json {
        let text = serde_json::to_string_pretty(env)
            .map_err(|source| Error::State { path: bed.layout().run().join("env.json"), source })?;
        line(&text)?;
        return Ok(());
    }
    export("KUBECONFIG", &env.kubeconfig.display().to_string())?;
    export("HOLDFAST_IMAGE", HOLDFAST_IMAGE)?;
    export_s3(&env.s3)?;
    line(&format!("export PATH='{}':\"$PATH\"", env.bin.display()))
}

fn export(name: &str, value: &str) -> Result<()> {
    line(&format!("export {name}='{}'", value.replace('\'', r"'\''")))
}

fn export_s3(s3: &S3Env) -> Result<()> {
    let ca = s3.ca_file.display().to_string();
    export("HOLDFAST_TESTBED_S3_ENDPOINT", &s3.endpoint)?;
    export("HOLDFAST_TESTBED_S3_CA", &ca)?;
    export("HOLDFAST_TESTBED_S3_DATA", &s3.data_dir.display().to_string())?;
    export("RESTIC_CACERT", &ca)?;
    export("AWS_ACCESS_KEY_ID", &s3.access_key)?;
    export("AWS_SECRET_ACCESS_KEY", &s3.secret_key)?;
    export("AWS_DEFAULT_REGION", &s3.region)
}

fn minio(bed: &Testbed, task: MinioTask, progress: &Progress) -> Result<ExitCode> {
    let minio = bed.minio();
    match task {
        MinioTask::Start => minio.start(progress)?,
        MinioTask::Stop => minio.stop()?,
        MinioTask::CreateBucket { name } => minio.create_bucket(&name)?,
        MinioTask::Env => export_s3(&minio.env()?)?,
        MinioTask::Status => {
            let up = minio.is_up();
            line(if up { "up" } else { "stopped" })?;
            return Ok(if up { ExitCode::SUCCESS } else { ExitCode::from(3) });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn s3(bed: &Testbed, task: S3Task) -> Result<ExitCode> {
    let s3 = bed.s3();
    match task {
        S3Task::Start => s3.start()?,
        S3Task::Stop => s3.stop()?,
        S3Task::CreateBucket { name } => s3.create_bucket(&name)?,
        S3Task::Ls { bucket, prefix } => {
            s3.list_objects(&bucket, &prefix)?.iter().try_for_each(|key| line(key))?;
        }
        S3Task::Status => {
            let up = s3.is_up();
            line(if up { "up" } else { "stopped" })?;
            return Ok(if up { ExitCode::SUCCESS } else { ExitCode::from(3) });
        }
    }
    Ok(ExitCode::SUCCESS)
}
