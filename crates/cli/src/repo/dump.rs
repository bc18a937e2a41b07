//! `repo dump`: a file or directory of a snapshot to standard output or into a file, without restoring it.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use holdfast_engine::archive::{self, ArchiveReport, ArchiveSpec, Format};
use holdfast_engine::browse;
use holdfast_engine::error::ErrorKind;
use holdfast_engine::repository::Repository;
use serde_json::json;

use super::select::{Filter, Selector};
use super::session::{Session, relative};
use crate::exit;
use crate::failure::{Failure, Result};
use crate::text::{counted, size};
use crate::ui::OUTPUT_CLOSED;

/// Command line of `repo dump`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Id of the snapshot, the beginning of one, or `latest`; with :PATH names begin below that directory
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    snapshot: Selector,
    /// The file or directory, `/` for all; a directory comes as an archive
    // `--path` of the filter is another one.
    #[arg(id = "file", value_name = "PATH")]
    path: String,
    /// Form of a directory's archive
    #[arg(short, long, value_enum, default_value_t)]
    archive: Form,
    /// Write into this file instead of standard output; it is there only when all of it is
    #[arg(short, long, value_name = "FILE")]
    target: Option<PathBuf>,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Form {
    /// tar with long names, nanoseconds, extended attributes and hard links
    #[default]
    Tar,
    /// zip, not compressed: files, directories and symbolic links
    Zip,
}

pub(super) async fn run(session: &Session<'_>, args: &Args) -> Result<u8> {
    if !args.path.starts_with('/') {
        return Err(relative(&args.path));
    }
    let repository = session.open().await?;
    session.reading(&repository, async |_| read(session, &repository, args).await).await
}

async fn read(session: &Session<'_>, repository: &Repository, args: &Args) -> Result<u8> {
    let filter = args.filter.to_engine();
    let found = repository.find_snapshot(&args.snapshot.snapshot, &filter);
    let (_, mut snapshot) = session.bound(found).await?;
    let index = session.bound(repository.load_index(&session.ctx)).await?;
    if let Some(path) = &args.snapshot.path {
        snapshot.tree =
            session.bound(browse::subtree(repository, &index, &snapshot, Path::new(path))).await?;
    }
    let format = match args.archive {
        Form::Tar => Format::Tar,
        Form::Zip => Format::Zip,
    };
    let path = PathBuf::from(args.path.trim_end_matches('/'));
    let path = if path.as_os_str().is_empty() { PathBuf::from("/") } else { path };
    let spec = ArchiveSpec { snapshot, path, base: PathBuf::from("/"), format };
    let report = if let Some(target) = &args.target {
        let unfinished = Unfinished::create(target)?;
        let out = unfinished.file.try_clone().map_err(|e| cannot(target, &e))?;
        let out = io::BufWriter::with_capacity(1 << 20, out);
        let report = session.bound(archive::write(repository, &index, spec, out, &session.ctx)).await?;
        unfinished.keep()?;
        report
    } else {
        // A file may be text; an archive would fill the screen with bytes.
        let on_screen = io::stdout().is_terminal() && {
            let is_dir = browse::subtree(repository, &index, &spec.snapshot, &spec.path);
            session.bound(is_dir).await.is_ok()
        };
        if session.ui.json() || on_screen {
            return Err(Failure::usage(
                "the data itself goes to standard output",
                "redirect it, or name a file with --target",
            ));
        }
        let out = io::BufWriter::with_capacity(1 << 20, io::stdout());
        let result = session.bound(archive::write(repository, &index, spec, out, &session.ctx)).await;
        result.map_err(closed_output)?
    };
    session.ui.close();
    tell(session, args, &report)?;
    Ok(exit::OK)
}

fn tell(session: &Session<'_>, args: &Args, report: &ArchiveReport) -> Result<()> {
    if session.ui.json() {
        let summary = json!({
            "message_type": "summary",
            "files": report.files,
            "bytes": report.bytes,
            "left_out": report.left_out,
            "target": args.target.as_ref().map(|t| t.to_string_lossy()),
        });
        return session.ui.report(&summary.to_string());
    }
    if let Some(target) = &args.target {
        let files = counted(report.files, "file", "files");
        session.ui.say(format!("wrote {files}, {}, to {}", size(report.bytes), target.display()));
    }
    if report.left_out > 0 {
        let left = counted(report.left_out, "entry", "entries");
        session.ui.say(format!("{left} of kinds that the archive's form cannot hold were left out"));
    }
    Ok(())
}

/// A reader that has gone away ends the command without a word, but not well: what it got is not whole.
fn closed_output(failure: Failure) -> Failure {
    let target = ErrorKind::Target.as_str();
    if failure.kind == target && failure.cause.contains("Broken pipe") {
        return Failure { kind: OUTPUT_CLOSED, code: exit::FATAL, ..failure };
    }
    failure
}

fn cannot(target: &Path, error: &io::Error) -> Failure {
    Failure {
        cause: format!("write {}: {error}", target.display()),
        advice: Some("choose a target that can be written to".to_owned()),
        kind: "Target",
        code: exit::FATAL,
    }
}

/// A file beside the target that takes its name when it is whole, and is removed otherwise.
struct Unfinished {
    file: File,
    path: PathBuf,
    target: PathBuf,
    kept: bool,
}

impl Unfinished {
    fn create(target: &Path) -> Result<Self> {
        if target.is_dir() {
            return Err(Failure::usage(
                format!("{} is a directory", target.display()),
                "name a file for the archive; `holdfast repo restore` fills a directory",
            ));
        }
        let mut name = target.as_os_str().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let path = PathBuf::from(name);
        // Not readable by others: it may hold what nobody else may read.
        let mut options = File::options();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.write(true).create_new(true).open(&path).map_err(|e| cannot(target, &e))?;
        Ok(Self { file, path, target: target.to_owned(), kept: false })
    }

    fn keep(mut self) -> Result<()> {
        let done = self.file.flush().and_then(|()| self.file.sync_all());
        done.and_then(|()| fs::rename(&self.path, &self.target)).map_err(|e| cannot(&self.target, &e))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.kept {
            // Whatever prevents it, a name that ends in .part says what it is.
            let _ = fs::remove_file(&self.path);
        }
    }
}
