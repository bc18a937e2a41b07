//! `repo dump`: a file or directory of a snapshot to standard output or into a file, without restoring it.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use holdfast_engine::archive::{self, ArchiveReport, ArchiveSpec, Format};
use holdfast_engine::browse;
use holdfast_engine::error::{Error, ErrorKind};
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
    /// Write into this file instead of standard output; it is there only when all of it is. Into a pipe or a device the
    /// data goes as it comes
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
        let output = session.bound(Output::at(target)).await?;
        let out = output.file().try_clone().map_err(|e| cannot(target, e))?;
        let out = io::BufWriter::with_capacity(1 << 20, out);
        let report = session.bound(archive::write(repository, &index, spec, out, &session.ctx)).await?;
        output.keep()?;
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
    Ok(code(&report))
}

/// What the archive's form cannot hold is missing from it.
fn code(report: &ArchiveReport) -> u8 {
    if report.left_out == 0 { exit::OK } else { exit::PARTIAL }
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

fn cannot(target: &Path, error: io::Error) -> Error {
    Error::with_source(ErrorKind::Target, format!("cannot write {}", target.display()), error)
}

/// Where the data goes.
enum Output {
    /// A plain file, which is replaced once all is there.
    Beside(Unfinished),
    /// A pipe, a device or the like that is there already: what reads it waits under this name, and a file that took the
    /// name would go nowhere.
    Into(File),
}

impl Output {
    /// Symbolic links lead to what is meant and stay.
    async fn at(target: &Path) -> holdfast_engine::Result<Self> {
        match fs::metadata(target) {
            Ok(found) if found.is_dir() => Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "{} is a directory; name a file for the archive (`holdfast repo restore` fills a directory)",
                    target.display()
                ),
            )),
            Ok(found) if !found.is_file() => open_waiting(target).await.map(Self::Into),
            Ok(_) => {
                let real = fs::canonicalize(target).map_err(|e| cannot(target, e))?;
                Unfinished::create(&real).map(Self::Beside)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let real = behind_links(target).map_err(|e| cannot(target, e))?;
                Unfinished::create(&real).map(Self::Beside)
            }
            Err(e) => Err(cannot(target, e)),
        }
    }

    fn file(&self) -> &File {
        match self {
            Self::Beside(unfinished) => &unfinished.file,
            Self::Into(file) => file,
        }
    }

    fn keep(self) -> Result<()> {
        match self {
            Self::Beside(unfinished) => Ok(unfinished.keep()?),
            Self::Into(_) => Ok(()),
        }
    }
}

/// Opens what is there. A pipe is open when somebody reads it, for which a thread of its own waits, so that the command
/// can be interrupted meanwhile.
async fn open_waiting(target: &Path) -> holdfast_engine::Result<File> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let path = target.to_owned();
    std::thread::Builder::new()
        .name("open".to_owned())
        .spawn(move || {
            // Nobody listens any more when the command was interrupted.
            let _ = tell.send(File::options().write(true).open(path));
        })
        .map_err(|e| cannot(target, e))?;
    let opened = told.await.unwrap_or_else(|_| Err(io::Error::other("the thread that opens it is gone")));
    opened.map_err(|e| cannot(target, e))
}

/// Where a name leads at which nothing is yet.
fn behind_links(target: &Path) -> io::Result<PathBuf> {
    /// As many as the kernel follows (`path_resolution(7)`).
    const MOST: usize = 40;
    let mut at = target.to_owned();
    for _ in 0..MOST {
        let Ok(to) = fs::read_link(&at) else { return Ok(at) };
        at = at.parent().unwrap_or(Path::new("")).join(to);
    }
    Err(io::Error::other("too many symbolic links"))
}

/// A file beside the target that takes its name when it is whole, and is removed otherwise.
struct Unfinished {
    file: File,
    path: PathBuf,
    target: PathBuf,
    kept: bool,
}

impl Unfinished {
    fn create(target: &Path) -> holdfast_engine::Result<Self> {
        let mut name = target.as_os_str().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let path = PathBuf::from(name);
        // Not readable by others: it may hold what nobody else may read.
        let mut options = File::options();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.write(true).create_new(true).open(&path).map_err(|e| cannot(target, e))?;
        Ok(Self { file, path, target: target.to_owned(), kept: false })
    }

    fn keep(mut self) -> holdfast_engine::Result<()> {
        let done = self.file.flush().and_then(|()| self.file.sync_all());
        done.and_then(|()| fs::rename(&self.path, &self.target)).map_err(|e| cannot(&self.target, e))?;
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

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::{FileTypeExt as _, symlink};

    use super::*;

    async fn write_to(target: &Path, content: &[u8]) {
        let output = Output::at(target).await.unwrap();
        let mut file = output.file();
        file.write_all(content).unwrap();
        output.keep().unwrap();
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn what_is_no_plain_file_is_written_into_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&at).status().unwrap().success());
        let read = std::thread::spawn({
            let at = at.clone();
            move || {
                let mut content = Vec::new();
                File::open(at).unwrap().read_to_end(&mut content).unwrap();
                content
            }
        });
        write_to(&at, b"content").await;
        assert_eq!(read.join().unwrap(), b"content");
        assert!(fs::symlink_metadata(&at).unwrap().file_type().is_fifo());
        assert_eq!(names(directory.path()), ["pipe"]);
        symlink("/dev/null", directory.path().join("null")).unwrap();
        write_to(&directory.path().join("null"), b"content").await;
        assert_eq!(fs::read_link(directory.path().join("null")).unwrap(), Path::new("/dev/null"));
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }

    #[tokio::test]
    async fn a_link_leads_to_the_file_that_is_written_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("sub")).unwrap();
        fs::write(path("sub/old"), "old").unwrap();
        symlink("sub/old", path("a")).unwrap();
        symlink("sub/new", path("b")).unwrap();
        symlink("b", path("c")).unwrap();
        for (link, file) in [("a", "sub/old"), ("c", "sub/new")] {
            write_to(&path(link), b"new").await;
            assert!(fs::symlink_metadata(path(link)).unwrap().is_symlink());
            assert_eq!(fs::read(path(file)).unwrap(), b"new");
        }
        assert_eq!(names(&path("sub")), ["new", "old"]);
        symlink("round", path("round")).unwrap();
        assert!(Output::at(&path("round")).await.is_err());
        assert!(Output::at(&path("sub")).await.is_err());
    }

    #[test]
    fn a_dump_that_broke_off_or_lacks_something_is_no_whole_success() {
        let broken = Failure::from(Error::with_source(
            ErrorKind::Target,
            "the output takes no more",
            io::Error::from_raw_os_error(32),
        ));
        let failure = closed_output(broken);
        assert_eq!((failure.kind, failure.code), (OUTPUT_CLOSED, exit::FATAL));
        assert_eq!(code(&ArchiveReport::default()), exit::OK);
        assert_eq!(code(&ArchiveReport { left_out: 1, ..ArchiveReport::default() }), exit::PARTIAL);
    }
}
