//! A repository in a directory, laid out as restic does on disk.
//!
//! A file is written under a temporary name, made durable, then renamed, so that it is whole or not there.

mod direct;
mod spare;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustix::io::Errno;

use super::{Entry, FileKind, FileName, PutMode, PutPayload, Store};
use crate::error::{Error, ErrorKind, Result};
use crate::file_system::is_of_one_machine;
use crate::id::Id;
use crate::work_pool::WorkPool;

/// Threads for file work: enough to keep a network file system busy.
const THREADS: usize = 4;

/// From this length on a pack is written past the page cache.
const DIRECT_FROM: usize = 1 << 20;
/// A longer part of a pack is read past it, unless it is there. Shorter ones, and those of directories, may be wanted again.
const DIRECT_READ_ABOVE: usize = 1 << 20;

pub(super) struct LocalStore {
    files: Arc<Files>,
    pool: WorkPool,
}

/// The blocking side.
struct Files {
    base: PathBuf,
    spare: spare::Spare,
    /// A config was read or written: what lies here is a repository.
    made: AtomicBool,
}

impl LocalStore {
    pub(super) fn new(base: PathBuf) -> Result<Self> {
        Ok(Self {
            files: Arc::new(Files { base, spare: spare::Spare::default(), made: AtomicBool::new(false) }),
            pool: WorkPool::new("holdfast-file", THREADS)?,
        })
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let files = Arc::clone(&self.files);
        self.pool.run(move || work(&files)).await?
    }
}

/// What an I/O error on the repository means.
fn io_error(what: &str, path: &Path, error: io::Error) -> Error {
    let kind = match Errno::from_io_error(&error) {
        Some(Errno::NOENT) => ErrorKind::Missing,
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => ErrorKind::AccessDenied,
        Some(Errno::NOSPC | Errno::DQUOT) => ErrorKind::Full,
        Some(Errno::NOTDIR) => ErrorKind::ForeignContent,
        // EIO, ESTALE, ETIMEDOUT and the like: a network file system that is away, and may come back.
        _ => ErrorKind::Unreachable,
    };
    Error::with_source(kind, format!("{what} {} failed", path.display()), error)
}

impl Files {
    fn path(&self, name: FileName) -> PathBuf {
        self.base.join(name.path())
    }

    /// Modes as restic chooses them: for the owner alone, or for the group too when the config is.
    fn modes(&self) -> (u32, u32) {
        let group = fs::metadata(self.base.join("config")).is_ok_and(|m| m.mode() & 0o040 != 0);
        if group { (0o770, 0o440) } else { (0o700, 0o400) }
    }

    fn list(&self, kind: FileKind) -> Result<Vec<Entry>> {
        match self.listed(kind)? {
            Some(entries) => Ok(entries),
            None => self.refuse_absent(kind).map(|()| Vec::new()),
        }
    }

    /// What a kind's directory holds; `None` when it does not exist.
    fn listed(&self, kind: FileKind) -> Result<Option<Vec<Entry>>> {
        let mut entries = Vec::new();
        let base = self.base.join(kind.directory());
        match kind {
            FileKind::Config => match fs::metadata(&base) {
                Ok(meta) => {
                    entries.push(Entry { id: Id::default(), size: meta.len(), modified: Some(meta.mtime()) });
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(io_error("looking at", &base, e)),
            },
            FileKind::Pack => {
                let Some(directories) = read_dir_if_there(&base)? else { return Ok(None) };
                for directory in directories {
                    let name = directory.file_name();
                    let path = base.join(&name);
                    if name.len() == 2
                        && is_directory(&directory, &path)?
                        && !list_ids(&path, kind, &mut entries)?
                    {
                        // So it looks when the file system goes away in the middle.
                        return Err(Error::new(
                            ErrorKind::Listing,
                            format!("{} vanished while the packs were listed", path.display()),
                        ));
                    }
                }
            }
            kind => return Ok(list_ids(&base, kind, &mut entries)?.then_some(entries)),
        }
        Ok(Some(entries))
    }

    /// An error unless a kind's directory, which does not exist, can be believed to hold nothing. Every client makes all
    /// directories first, but what copies a repository may leave out the empty ones, and some file systems keep none. So
    /// there may be none of locks, and none of what a repository has that holds nothing at all. Any other one tells that
    /// something is amiss, such as a share of which only a part is mounted: taken for no snapshots and no packs it would
    /// be a sound repository, whose index is to be emptied.
    fn refuse_absent(&self, kind: FileKind) -> Result<()> {
        let absent = |why: &str| {
            let path = self.base.join(kind.directory());
            Err(Error::new(
                ErrorKind::Listing,
                format!(
                    "{} does not exist, {why}: look whether all of the repository is mounted, or what became of the \
                     directory; if nothing was in it, make it anew",
                    path.display()
                ),
            ))
        };
        if self.listed(FileKind::Config)?.is_none_or(|config| config.is_empty()) {
            // No repository was made here yet, unless it was just read.
            return if self.made.load(Ordering::Relaxed) {
                absent("nor does the config any more")
            } else {
                Ok(())
            };
        }
        match kind {
            FileKind::Lock => return Ok(()),
            FileKind::Key => return absent("but without keys nobody can open the repository"),
            _ => {}
        }
        for other in FileKind::CONTENT.into_iter().filter(|other| *other != kind) {
            if self.listed(other)?.is_some_and(|found| !found.is_empty()) {
                return absent(&format!("but there are files in {}", other.directory()));
            }
        }
        Ok(())
    }

    /// Notes what a call of the config that went well tells.
    fn note(&self, name: FileName) {
        if name.kind == FileKind::Config {
            self.made.store(true, Ordering::Relaxed);
        }
    }

    fn get(&self, name: FileName, range: Option<Range<u64>>) -> Result<Bytes> {
        let path = self.path(name);
        let file = File::open(&path).map_err(|e| io_error("opening", &path, e))?;
        let Some(range) = range else { return read_whole(file, &path, name.kind.longest()) };
        // The range comes from an index, which may say anything: no memory before the file is known to have it.
        let size = file.metadata().map_err(|e| io_error("looking at", &path, e))?.len();
        if range.end > size {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{} ends at byte {size}, the index says it has {}", path.display(), range.end),
            ));
        }
        let length = usize::try_from(range.end.saturating_sub(range.start))
            .map_err(|_| Error::new(ErrorKind::Internal, "a range is longer than memory"))?;
        // Long stretches of packs are read once.
        if name.kind == FileKind::Pack && length > DIRECT_READ_ABOVE && is_of_one_machine(&self.base) {
            let read = direct::read(&file, &range, &self.spare);
            if let Some(bytes) = read.map_err(|e| io_error("reading", &path, e))? {
                return Ok(bytes);
            }
        }
        self.spare
            .filled(length, |bytes| file.read_exact_at(bytes, range.start))
            .map_err(|e| io_error("reading", &path, e))
    }

    fn get_suffix(&self, name: FileName, len: u64) -> Result<Bytes> {
        let path = self.path(name);
        let mut file = File::open(&path).map_err(|e| io_error("opening", &path, e))?;
        let size = file.metadata().map_err(|e| io_error("looking at", &path, e))?.len();
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(size.saturating_sub(len)))
            .and_then(|_| file.read_to_end(&mut bytes))
            .map_err(|e| io_error("reading", &path, e))?;
        Ok(Bytes::from(bytes))
    }

    fn size(&self, name: FileName) -> Result<u64> {
        let path = self.path(name);
        fs::metadata(&path).map(|m| m.len()).map_err(|e| io_error("looking at", &path, e))
    }

    fn put(&self, name: FileName, body: &PutPayload, mode: PutMode) -> Result<()> {
        let path = self.path(name);
        let (directory_mode, file_mode) = self.modes();
        // A lock need not outlive a crash of the machine, since its holder does not. Others could see it empty for a
        // while if they looked through another machine.
        let durable = name.kind != FileKind::Lock || !is_of_one_machine(&self.base);
        let past_the_cache = name.kind == FileKind::Pack
            && body.content_length() >= DIRECT_FROM
            && is_of_one_machine(&self.base);
        let how = Writing { mode, file_mode, durable, past_the_cache };
        let write = || write_file(&path, body, how);
        match write() {
            // Old repositories lack some of the 256 directories; a deleted one comes back too.
            Err(e) if e.kind() == ErrorKind::Missing && name.kind != FileKind::Config => {
                if let Some(parent) = path.parent() {
                    make_directory(parent, directory_mode)?;
                }
                write()
            }
            other => other,
        }
    }

    fn extra_path(&self, path: &str) -> Result<PathBuf> {
        let relative = Path::new(path);
        // `..` may lead to the storage's own files above a repository, never to an absolute path.
        if relative.components().any(|c| matches!(c, Component::RootDir | Component::Prefix(_))) {
            return Err(Error::new(ErrorKind::Usage, format!("{path:?} is not relative to the location")));
        }
        Ok(self.base.join(relative))
    }

    fn is_empty(&self) -> Result<bool> {
        match fs::read_dir(&self.base) {
            Ok(mut entries) => match entries.next() {
                None => Ok(true),
                Some(Ok(_)) => Ok(false),
                Some(Err(e)) => Err(io_error("listing", &self.base, e)),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let parent =
                    self.base.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                if parent.is_dir() {
                    Ok(true)
                } else {
                    // A volume that is not mounted looks like this: not the same as an empty place.
                    Err(Error::with_source(
                        ErrorKind::BucketNotFound,
                        format!("neither {} nor the directory above it exists", self.base.display()),
                        e,
                    ))
                }
            }
            Err(e) => Err(io_error("listing", &self.base, e)),
        }
    }

    fn prepare(&self) -> Result<()> {
        let (mode, _) = self.modes();
        make_directory(&self.base, mode)?;
        for kind in [FileKind::Key, FileKind::Lock, FileKind::Snapshot, FileKind::Index, FileKind::Pack] {
            make_directory(&self.base.join(kind.directory()), mode)?;
        }
        for byte in 0..=255_u8 {
            make_directory(&self.base.join(format!("data/{byte:02x}")), mode)?;
        }
        sync_directory(&self.base.join("data"))?;
        sync_directory(&self.base)
    }

    /// Temporary files, restic's too, that were last written more than `age` ago.
    fn remove_unfinished(&self, age: Duration) -> Result<u64> {
        let mut directories = vec![self.base.clone()];
        for kind in [FileKind::Key, FileKind::Lock, FileKind::Snapshot, FileKind::Index] {
            directories.push(self.base.join(kind.directory()));
        }
        directories.push(self.base.join(crate::unreadable::DIRECTORY));
        directories.extend((0..=255_u8).map(|byte| self.base.join(format!("data/{byte:02x}"))));
        let now = SystemTime::now();
        let mut removed = 0_u64;
        for directory in directories {
            for entry in read_dir(&directory)? {
                if !entry.file_name().to_str().is_some_and(is_temporary) {
                    continue;
                }
                // One that cannot be looked at is just being finished by somebody.
                let written = entry.metadata().and_then(|m| m.modified());
                if written.is_ok_and(|time| now.duration_since(time).is_ok_and(|passed| passed > age)) {
                    remove(&entry.path())?;
                    removed = removed.saturating_add(1);
                }
            }
        }
        Ok(removed)
    }

    fn list_extra(&self, directory: &str, limit: usize) -> Result<Vec<String>> {
        let path = self.extra_path(directory)?;
        let mut names = Vec::new();
        for entry in read_dir(&path)? {
            if names.len() >= limit {
                break;
            }
            let mut name = entry.file_name().to_string_lossy().into_owned();
            // Of one that cannot be looked at nobody knows.
            if fs::metadata(entry.path()).is_ok_and(|meta| meta.is_dir()) {
                name.push('/');
            }
            names.push(name);
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// All of a file that has `most` bytes or fewer.
fn read_whole(file: File, path: &Path, most: u64) -> Result<Bytes> {
    let length = file.metadata().map_err(|e| io_error("looking at", path, e))?.len();
    if length > most {
        return Err(super::too_long(&format!("reading {}", path.display()), length, most));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    // It may be growing.
    file.take(most).read_to_end(&mut bytes).map_err(|e| io_error("reading", path, e))?;
    Ok(Bytes::from(bytes))
}

/// `<id>-tmp-<random>`, or the same for the files with names of their own.
fn is_temporary(name: &str) -> bool {
    let named = ["config", "repository.yaml"];
    super::unfinished(name).is_some_and(|of| named.contains(&of) || of.parse::<Id>().is_ok())
}

/// All entries of a directory; none when it does not exist.
fn read_dir(path: &Path) -> Result<Vec<fs::DirEntry>> {
    Ok(read_dir_if_there(path)?.unwrap_or_default())
}

/// All entries of a directory; `None` when it does not exist.
fn read_dir_if_there(path: &Path) -> Result<Option<Vec<fs::DirEntry>>> {
    match fs::read_dir(path) {
        Ok(entries) => entries.collect::<io::Result<_>>().map(Some).map_err(|e| listing_error(path, e)),
        // A link that leads nowhere is none.
        Err(e) if e.kind() == io::ErrorKind::NotFound && !is_link(path) => Ok(None),
        Err(e) => Err(listing_error(path, e)),
    }
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink())
}

fn listing_error(path: &Path, error: io::Error) -> Error {
    match io_error("listing", path, error) {
        e if e.kind() == ErrorKind::AccessDenied => e,
        e => Error::with_source(
            ErrorKind::Listing,
            format!("{} could not be listed to its end", path.display()),
            e,
        ),
    }
}

/// Whether an entry is a directory, or a symbolic link to one. An error where it leads nowhere: packs may lie there.
fn is_directory(entry: &fs::DirEntry, path: &Path) -> Result<bool> {
    match entry.file_type() {
        Ok(kind) if kind.is_symlink() => {
            fs::metadata(path).map(|meta| meta.is_dir()).map_err(|e| listing_error(path, e))
        }
        Ok(kind) => Ok(kind.is_dir()),
        Err(e) => Err(listing_error(path, e)),
    }
}

/// Adds the files of a directory. Whether it exists.
fn list_ids(path: &Path, kind: FileKind, entries: &mut Vec<Entry>) -> Result<bool> {
    let Some(found) = read_dir_if_there(path)? else { return Ok(false) };
    for entry in found {
        let Some(id) = entry.file_name().to_str().and_then(|n| n.parse::<Id>().ok()) else { continue };
        // Whoever moves a part of a repository to another disk leaves links behind, which all other calls follow.
        let linked = entry.file_type().is_ok_and(|t| t.is_symlink());
        let meta = match if linked { fs::metadata(entry.path()) } else { entry.metadata() } {
            Ok(meta) => meta,
            // Removed between the listing and the look at it.
            Err(e) if e.kind() == io::ErrorKind::NotFound && !linked => continue,
            Err(e) => return Err(listing_error(path, e)),
        };
        // An empty lock is one that another client is about to write, or died writing.
        if !meta.is_file() || (kind == FileKind::Lock && meta.len() == 0) {
            continue;
        }
        entries.push(Entry { id, size: meta.len(), modified: Some(meta.mtime()) });
    }
    Ok(true)
}

fn make_directory(path: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|e| io_error("making", path, e))
}

fn sync_directory(path: &Path) -> Result<()> {
    let result = File::open(path).and_then(|d| d.sync_all());
    match result {
        Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::INVAL | Errno::NOTSUP)) => Ok(()),
        other => other.map_err(|e| io_error("making durable", path, e)),
    }
}

/// Removes the temporary file unless it was renamed away.
struct Temporary<'a> {
    path: &'a Path,
    armed: bool,
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if self.armed {
            let _ = fs::remove_file(self.path);
        }
    }
}

/// How a file is written.
#[derive(Debug, Clone, Copy)]
struct Writing {
    mode: PutMode,
    file_mode: u32,
    durable: bool,
    /// Written past the page cache where that works ([`direct`]).
    past_the_cache: bool,
}

fn write_file(path: &Path, body: &PutPayload, how: Writing) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut random = [0_u8; 8];
    crate::crypto::random(&mut random)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary_path = directory.join(format!("{name}-tmp-{}", data_encoding::HEXLOWER.encode(&random)));
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary_path)
        .map_err(|e| io_error("creating", &temporary_path, e))?;
    let mut temporary = Temporary { path: &temporary_path, armed: true };
    // Finds out early that the disk is full; file systems that cannot do it are as good without.
    if let Err(e) = rustix::fs::fallocate(
        &file,
        rustix::fs::FallocateFlags::empty(),
        0,
        body.content_length().max(1) as u64,
    ) && matches!(e, Errno::NOSPC | Errno::DQUOT)
    {
        return Err(io_error("reserving space for", path, e.into()));
    }
    let write = if how.past_the_cache { direct::write_all } else { write_all };
    write(&file, body)
        .and_then(|()| file.set_len(body.content_length() as u64))
        .and_then(|()| file.set_permissions(fs::Permissions::from_mode(how.file_mode)))
        .and_then(|()| if how.durable { file.sync_all() } else { Ok(()) })
        .map_err(|e| io_error("writing", &temporary_path, e))?;
    let written = file.metadata().map_err(|e| io_error("looking at", &temporary_path, e))?.len();
    if written != body.content_length() as u64 {
        return Err(Error::new(
            ErrorKind::Unreachable,
            format!(
                "{} has {written} bytes after {} were written",
                temporary_path.display(),
                body.content_length()
            ),
        ));
    }
    match how.mode {
        PutMode::ContentAddressed => {
            fs::rename(&temporary_path, path).map_err(|e| io_error("renaming to", path, e))?;
            temporary.armed = false;
        }
        PutMode::CreateNew => create_new(&temporary_path, path, body)?,
    }
    drop(temporary);
    if how.durable { sync_directory(directory) } else { Ok(()) }
}

/// Writes all bytes from the file's beginning.
fn write_all(file: &File, body: &PutPayload) -> io::Result<()> {
    let mut offset = 0;
    for piece in body {
        file.write_all_at(piece, offset)?;
        offset += piece.len() as u64;
    }
    Ok(())
}

/// Gives the temporary file its name unless that is taken: by a link, or, where there are no links, by creating.
fn create_new(temporary: &Path, path: &Path, body: &PutPayload) -> Result<()> {
    let taken = |e: io::Error| {
        if e.kind() == io::ErrorKind::AlreadyExists {
            Error::with_source(
                ErrorKind::AlreadyInitialized,
                format!("{} is there already", path.display()),
                e,
            )
        } else {
            io_error("creating", path, e)
        }
    };
    match fs::hard_link(temporary, path) {
        Ok(()) => Ok(()),
        Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::PERM | Errno::NOTSUP | Errno::NOSYS)) => {
            let file =
                OpenOptions::new().write(true).create_new(true).mode(0o400).open(path).map_err(taken)?;
            write_all(&file, body).and_then(|()| file.sync_all()).map_err(|e| io_error("writing", path, e))
        }
        Err(e) => Err(taken(e)),
    }
}

fn remove(path: &Path) -> Result<()> {
    // Of a link the link alone: what it leads to may be somebody else's.
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(io_error("removing", path, e)),
    }
}

#[async_trait::async_trait]
impl Store for LocalStore {
    async fn list(&self, kind: FileKind) -> Result<Vec<Entry>> {
        self.run(move |f| f.list(kind)).await
    }

    async fn get(&self, name: FileName, range: Option<Range<u64>>) -> Result<Bytes> {
        self.run(move |f| f.get(name, range).inspect(|_| f.note(name))).await
    }

    async fn get_suffix(&self, name: FileName, len: u64) -> Result<Bytes> {
        self.run(move |f| f.get_suffix(name, len)).await
    }

    async fn size(&self, name: FileName) -> Result<u64> {
        self.run(move |f| f.size(name)).await
    }

    async fn put(&self, name: FileName, body: PutPayload, mode: PutMode) -> Result<()> {
        self.run(move |f| f.put(name, &body, mode).inspect(|()| f.note(name))).await
    }

    async fn delete(&self, name: FileName) -> Result<()> {
        self.run(move |f| remove(&f.path(name))).await
    }

    async fn is_empty(&self) -> Result<bool> {
        self.run(Files::is_empty).await
    }

    async fn prepare(&self) -> Result<()> {
        self.run(Files::prepare).await
    }

    async fn get_extra(&self, path: &str) -> Result<Option<Bytes>> {
        let path = self.files.extra_path(path)?;
        self.run(move |_| match File::open(&path) {
            Ok(file) => read_whole(file, &path, super::LONGEST_EXTRA).map(Some),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error("reading", &path, e)),
        })
        .await
    }

    async fn put_extra(&self, path: &str, body: Bytes, mode: PutMode) -> Result<()> {
        let path = self.files.extra_path(path)?;
        let body = PutPayload::from(body);
        self.run(move |_| {
            let write = || {
                if let Some(parent) = path.parent() {
                    make_directory(parent, 0o700)?;
                }
                write_file(
                    &path,
                    &body,
                    Writing { mode, file_mode: 0o600, durable: true, past_the_cache: false },
                )
            };
            match write() {
                // Another's removal may have taken the directory along in between.
                Err(e) if e.kind() == ErrorKind::Missing => write(),
                other => other,
            }
        })
        .await
    }

    async fn delete_extra(&self, path: &str) -> Result<()> {
        let path = self.files.extra_path(path)?;
        self.run(move |f| {
            remove(&path)?;
            // Buckets have no empty directories; neither shall a directory that was made for this file stay.
            if let Some(parent) = path.parent().filter(|p| p.starts_with(&f.base) && *p != f.base) {
                let _ = fs::remove_dir(parent);
            }
            Ok(())
        })
        .await
    }

    async fn list_extra(&self, directory: &str, limit: usize) -> Result<Vec<String>> {
        let directory = directory.to_owned();
        self.run(move |f| f.list_extra(&directory, limit)).await
    }

    async fn remove_unfinished(&self, age: Duration) -> Result<u64> {
        self.run(move |f| f.remove_unfinished(age)).await
    }

    async fn lists_at_once(&self) -> bool {
        self.run(|f| Ok(is_of_one_machine(&f.base))).await.unwrap_or(false)
    }

    fn describe(&self) -> String {
        self.files.base.display().to_string()
    }
}
