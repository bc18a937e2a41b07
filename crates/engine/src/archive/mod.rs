//! Snapshots as archives: a directory as tar or zip, a file as it is, streamed and never on a disk in between.
//!
//! An archive is ended well-formed only when all of it is there. On any error the stream stops where it is, so that
//! no program takes it for whole. Not here: where the stream goes.

mod read_ahead;
mod tar;
mod zip;

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::read_ahead::{Piece, ReadAhead};
use crate::browse::{self, Walk};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Ctx, Event, Progress};
use crate::format::node::{Node, NodeType};
use crate::format::pack::BlobKind;
use crate::format::snapshot::Snapshot;
use crate::id::Id;
use crate::index::Index;
use crate::read::{TreeReader, own_thread};
use crate::repository::Repository;

/// The form of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// POSIX tar with PAX records: long names, nanoseconds, extended attributes, hard links, devices.
    #[default]
    Tar,
    /// zip, not compressed; zip64 where needed. Files, directories and symbolic links.
    Zip,
}

/// What to write.
#[derive(Debug, Clone)]
pub struct ArchiveSpec {
    /// The snapshot. The index given with it must have been loaded after it was found.
    pub snapshot: Snapshot,
    /// A path in it. A file is written as it is, a directory as an archive.
    pub path: PathBuf,
    /// Names in the archive begin below this directory, which holds `path`; `/` for whole paths.
    pub base: PathBuf,
    /// The form of a directory's archive.
    pub format: Format,
}

/// What was written. Bytes are of file content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ArchiveReport {
    /// Files, hard links to one counted each.
    pub files: u64,
    /// Their bytes, hard links left out.
    pub bytes: u64,
    /// Entries that the form cannot hold: sockets; in zip also devices and pipes.
    pub left_out: u64,
}

/// Writes a path of a snapshot to `out`.
///
/// # Errors
/// Any error leaves `out` without an archive's end. `Target` when `out` takes no more.
pub async fn write(
    repo: &Repository,
    index: &Arc<Index>,
    spec: ArchiveSpec,
    out: impl Write + Send + 'static,
    ctx: &Ctx,
) -> Result<ArchiveReport> {
    let trees = Arc::new(TreeReader::new(repo.clone(), Arc::clone(index))?);
    let node = browse::find(&trees, &spec.snapshot, &spec.path).await?;
    let root = match &node {
        None => spec.snapshot.tree,
        Some(Node { kind: NodeType::Dir, subtree: Some(tree), .. }) => *tree,
        Some(Node { kind: NodeType::File, content, size, .. }) => {
            let content = content.clone().unwrap_or_default();
            let length = content_length(index, &content)?;
            same_size(&spec.path, *size, length)?;
            let pieces = ReadAhead::of_file(repo, index, content, ctx);
            return own_thread("dump", ctx, move |ctx| copy_file(pieces, out, ctx)).await;
        }
        Some(other) => {
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "{} is a {}; only files and directories can be written out",
                    spec.path.display(),
                    other.kind.as_str()
                ),
            ));
        }
    };
    let walk = Walk::new(trees, spec.path.clone(), root);
    let steps = Steps {
        walk,
        index: Arc::clone(index),
        format: spec.format,
        // The directory itself comes first, so that its owner and mode survive; the root has none.
        first: node.filter(|_| spec.path != spec.base).map(|node| (spec.path.clone(), node)),
        links: HashMap::new(),
        content: Vec::new().into_iter(),
    };
    let pieces = ReadAhead::of_steps(repo, index, steps, ctx);
    let base = spec.base;
    match spec.format {
        Format::Tar => {
            own_thread("dump", ctx, move |ctx| run(pieces, &base, tar::TarWriter::new(out), ctx)).await
        }
        Format::Zip => {
            own_thread("dump", ctx, move |ctx| run(pieces, &base, zip::ZipWriter::new(out), ctx)).await
        }
    }
}

/// One entry on its way into an archive.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: PathBuf,
    pub(crate) node: Node,
    /// Bytes of content that follow: a file's, unless it is a hard link.
    pub(crate) size: u64,
    /// The entry before that is the same file.
    pub(crate) link_to: Option<PathBuf>,
}

/// An archive being written. Nothing is written when a writer is dropped.
trait Writer {
    /// Begins an entry; `false` when the form cannot hold it. `name` is relative.
    fn begin(&mut self, name: &[u8], entry: &Entry, link_to: Option<&[u8]>) -> std::io::Result<bool>;
    /// Content of the entry.
    fn data(&mut self, bytes: &[u8]) -> std::io::Result<()>;
    /// The entry's content is complete.
    fn end(&mut self) -> std::io::Result<()>;
    /// The archive is complete.
    fn finish(self) -> std::io::Result<()>;
}

fn run(pieces: ReadAhead, base: &Path, mut writer: impl Writer, ctx: &Ctx) -> Result<ArchiveReport> {
    let mut report = ArchiveReport::default();
    let mut left: Option<u64> = None;
    ctx.events.event(Event::Phase("dump"));
    for piece in pieces {
        ctx.check()?;
        match piece? {
            Piece::Entry(entry) => {
                finish_entry(&mut writer, left.take())?;
                let name = name_in_archive(base, &entry.path)?;
                let link = entry.link_to.as_deref().map(|to| name_in_archive(base, to)).transpose()?;
                if !writer.begin(&name, &entry, link.as_deref()).map_err(output)? {
                    report.left_out = report.left_out.saturating_add(1);
                    continue;
                }
                if entry.node.kind == NodeType::File {
                    report.files = report.files.saturating_add(1);
                }
                left = Some(entry.size);
            }
            Piece::Data(bytes, _permit) => {
                let rest = left.and_then(|left| left.checked_sub(bytes.len() as u64)).ok_or_else(|| {
                    Error::new(ErrorKind::Corrupt, "a file has more content than the index says")
                })?;
                left = Some(rest);
                writer.data(&bytes).map_err(output)?;
                report.bytes = report.bytes.saturating_add(bytes.len() as u64);
                tell(ctx, &report);
            }
            Piece::End => break,
        }
    }
    ctx.check()?;
    finish_entry(&mut writer, left)?;
    writer.finish().map_err(output)?;
    Ok(report)
}

fn finish_entry(writer: &mut impl Writer, left: Option<u64>) -> Result<()> {
    match left {
        None => Ok(()),
        Some(0) => writer.end().map_err(output),
        Some(_) => Err(Error::new(ErrorKind::Corrupt, "a file has less content than the index says")),
    }
}

fn copy_file(pieces: ReadAhead, mut out: impl Write, ctx: &Ctx) -> Result<ArchiveReport> {
    let mut report = ArchiveReport { files: 1, ..ArchiveReport::default() };
    for piece in pieces {
        ctx.check()?;
        if let Piece::Data(bytes, _permit) = piece? {
            out.write_all(&bytes).map_err(output)?;
            report.bytes = report.bytes.saturating_add(bytes.len() as u64);
            tell(ctx, &report);
        }
    }
    ctx.check()?;
    out.flush().map_err(output)?;
    Ok(report)
}

fn tell(ctx: &Ctx, report: &ArchiveReport) {
    let ArchiveReport { files, bytes, .. } = *report;
    let progress = Progress { files_done: files, bytes_done: bytes, ..Progress::default() };
    ctx.events.event(Event::Progress(progress));
}

fn output(error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::TargetFull,
        _ => ErrorKind::Target,
    };
    Error::with_source(kind, "the output takes no more; what was written is not whole", error)
}

/// The path below `base`, without a leading slash. A name that could lead elsewhere when it is extracted is refused,
/// as in a restore: the format lets a hostile writer put a slash or `..` into one.
fn name_in_archive(base: &Path, path: &Path) -> Result<Vec<u8>> {
    let bytes = path.strip_prefix(base).unwrap_or(path).as_os_str().as_bytes();
    let name = bytes.strip_prefix(b"/").unwrap_or(bytes);
    let bad = name.is_empty() || name.split(|b| *b == b'/').any(|part| matches!(part, b"" | b"." | b".."));
    if bad || name.contains(&0) {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("the snapshot holds the name {}, which no file can have", path.display()),
        ));
    }
    Ok(name.to_vec())
}

/// What comes next in an archive: an entry, or a blob of the last one's content.
struct Steps {
    walk: Walk,
    index: Arc<Index>,
    format: Format,
    first: Option<(PathBuf, Node)>,
    /// The first of each group of hard links, with its content.
    links: HashMap<(u64, u64), (PathBuf, Vec<Id>)>,
    content: std::vec::IntoIter<Id>,
}

enum Step {
    Entry(Box<Entry>),
    Blob(Id, u32),
}

impl Steps {
    async fn next(&mut self) -> Result<Option<Step>> {
        if let Some(id) = self.content.next() {
            let length = blob_length(&self.index, &id)?;
            return Ok(Some(Step::Blob(id, length)));
        }
        let found = match self.first.take() {
            Some(first) => Some(first),
            None => self.walk.next().await?,
        };
        let Some((path, mut node)) = found else { return Ok(None) };
        if !is_single_name(&node.name) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "the snapshot holds the name {:?}, which no file can have",
                    String::from_utf8_lossy(&node.name)
                ),
            ));
        }
        let mut entry = Entry { path, size: 0, link_to: None, node: Node::default() };
        if node.kind == NodeType::File {
            let content = node.content.take().unwrap_or_default();
            let length = content_length(&self.index, &content)?;
            same_size(&entry.path, node.size, length)?;
            entry.link_to = self.link(&node, &entry.path, &content);
            if entry.link_to.is_none() {
                entry.size = length;
                self.content = content.into_iter();
            }
        }
        entry.node = node;
        Ok(Some(Step::Entry(Box::new(entry))))
    }

    /// The entry before of which this is another name. Zip knows no such thing.
    fn link(&mut self, node: &Node, path: &Path, content: &[Id]) -> Option<PathBuf> {
        if node.links < 2 || node.inode == 0 || self.format == Format::Zip {
            return None;
        }
        match self.links.get(&(node.inode, node.device_id)) {
            // A number that was used again for another file proves nothing.
            Some((first, same)) if same == content => Some(first.clone()),
            Some(_) => None,
            None => {
                self.links.insert((node.inode, node.device_id), (path.to_owned(), content.to_vec()));
                None
            }
        }
    }
}

/// Plain bytes of a blob of content.
fn blob_length(index: &Index, id: &Id) -> Result<u32> {
    index.plain_length(BlobKind::Data, id).ok_or_else(|| {
        Error::new(ErrorKind::Missing, format!("the data blob {id} is in no index; run a check"))
    })
}

fn content_length(index: &Index, content: &[Id]) -> Result<u64> {
    content.iter().try_fold(0, |sum: u64, id| Ok(sum.saturating_add(blob_length(index, id)?.into())))
}

/// A file whose chunks are not as long as it is said to be has lost some, or got others, and is no more whole for being
/// well-formed.
fn same_size(path: &Path, said: u64, length: u64) -> Result<()> {
    if said == length {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Corrupt,
        format!("the snapshot says {said} bytes of {}, the chunks it names have {length}", path.display()),
    ))
}

fn is_single_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(|b| matches!(b, b'/' | 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_as_long_as_its_chunks() {
        let error = |said, length| same_size(Path::new("/a"), said, length).map_err(|e| e.kind());
        assert_eq!(error(0, 0), Ok(()));
        assert_eq!(error(5, 5), Ok(()));
        assert_eq!(error(5, 0), Err(ErrorKind::Corrupt), "no content at all");
        assert_eq!(error(5, 6), Err(ErrorKind::Corrupt));
    }

    #[test]
    fn names_stay_below_where_they_are_extracted() {
        let name = |base: &str, path: &str| name_in_archive(Path::new(base), Path::new(path)).ok();
        assert_eq!(name("/", "/data/a").as_deref(), Some(&b"data/a"[..]));
        assert_eq!(name("/data", "/data/a/b").as_deref(), Some(&b"a/b"[..]));
        assert_eq!(name("/", "/a/../b"), None);
        assert_eq!(name("/", "/"), None);
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
            assert!(!is_single_name(bad));
        }
        assert!(is_single_name(b"...") && is_single_name(b"\xff"));
    }
}
