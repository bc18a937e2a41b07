//! The directory a restore writes into. Every path is resolved beneath it by the kernel, and no symbolic link
//! is ever followed, whoever swaps what while the restore runs.
//!
//! Not here: what is written into files, nor owners, modes and times (`attributes`).

use std::fs::DirBuilder;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;

/// Hexadecimal digits at the end of a temporary name.
const TEMP_DIGITS: usize = 24;
/// Temporary names begin with this, so that people know what a leftover is.
const TEMP_PREFIX: &str = ".holdfast-restore-";

/// The kernel takes paths shorter than 4096 bytes; longer ones are walked in pieces of at most this.
const PIECE: usize = 4000;

/// A directory to write into, and all below it.
pub(crate) struct Target {
    root: OwnedFd,
    path: PathBuf,
    /// The kernel (or a seccomp profile) has no `openat2`: walk name by name instead.
    by_name: AtomicBool,
}

impl Target {
    /// Opens the directory, making it and its parents when they are absent.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| {
            Error::with_source(
                ErrorKind::Target,
                format!("cannot make the target directory {}", path.display()),
                e,
            )
        })?;
        Self::open(path)?.ok_or_else(|| {
            Error::new(ErrorKind::Target, format!("the target directory {} went away", path.display()))
        })
    }

    /// Opens the directory; `None` when it is absent. The path itself is the caller's: links in it are followed.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
            Ok(root) => Ok(Some(Self { root, path: path.to_owned(), by_name: AtomicBool::new(false) })),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(Error::with_source(
                ErrorKind::Target,
                format!("cannot open the target directory {}", path.display()),
                io::Error::from(e),
            )),
        }
    }

    /// Where the target lies, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes all of it durable. Only now does a disk that fails, or a quota that is used up, say so for what was written
    /// through the page cache.
    pub(crate) fn write_out(&self) -> Result<()> {
        rustix::fs::syncfs(&self.root).map_err(|e| {
            let kind = match e {
                Errno::NOSPC | Errno::DQUOT => ErrorKind::TargetFull,
                _ => ErrorKind::Target,
            };
            Error::with_source(
                kind,
                format!("{} could not be written out", self.path.display()),
                io::Error::from(e),
            )
        })
    }

    /// The root's descriptor.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens the directory at `rel` (names joined by `/`, empty for the root itself).
    pub(crate) fn dir(&self, rel: &[u8]) -> io::Result<Dir> {
        if rel.is_empty() {
            return Ok(Dir { fd: self.open_piece(self.root.as_fd(), b".")? });
        }
        let mut at: Option<OwnedFd> = None;
        for piece in pieces(rel) {
            let from = at.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
            at = Some(self.open_piece(from, piece)?);
        }
        at.map(|fd| Dir { fd }).ok_or_else(|| Errno::NOENT.into())
    }

    fn open_piece(&self, from: BorrowedFd<'_>, piece: &[u8]) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        if !self.by_name.load(Ordering::Relaxed) {
            match rustix::fs::openat2(from, piece, flags, Mode::empty(), beneath) {
                Err(Errno::NOSYS | Errno::PERM) => self.by_name.store(true, Ordering::Relaxed),
                // The kernel could not prove the path safe because something moved meanwhile.
                Err(Errno::AGAIN) => {}
                other => return Ok(other?),
            }
        }
        let mut at: Option<OwnedFd> = None;
        for name in piece.split(|b| *b == b'/') {
            if name == b".." {
                return Err(Errno::XDEV.into());
            }
            let from = at.as_ref().map_or(from, AsFd::as_fd);
            at = Some(rustix::fs::openat(from, name, flags, Mode::empty())?);
        }
        at.ok_or_else(|| Errno::NOENT.into())
    }
}

/// Cuts a path at its slashes into stretches the kernel accepts.
fn pieces(rel: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = rel;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if rest.len() <= PIECE {
            return Some(std::mem::take(&mut rest));
        }
        let head = rest.get(..PIECE).unwrap_or(rest);
        // A name has at most 255 bytes, so there is a slash to cut at; if not, the kernel refuses the name.
        let cut = head.iter().rposition(|b| *b == b'/').unwrap_or(rest.len());
        let (piece, tail) = rest.split_at_checked(cut).unwrap_or((rest, &[]));
        rest = tail.strip_prefix(b"/").unwrap_or(tail);
        Some(piece)
    })
}

/// An open directory beneath the target. Its methods take single names, never paths.
pub(crate) struct Dir {
    fd: OwnedFd,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dir {
    /// What lies at `name`, itself and not what a link points to; `None` when nothing does.
    pub(crate) fn stat(&self, name: &[u8]) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The directory's own attributes.
    pub(crate) fn stat_self(&self) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(&self.fd)?)
    }

    /// Opens a subdirectory.
    pub(crate) fn subdir(&self, name: &[u8]) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self { fd: rustix::fs::openat(&self.fd, name, flags, Mode::empty())? })
    }

    /// Opens a plain file to read and write it. Anything else at that name is an error, and a pipe that was put
    /// there meanwhile does not block.
    pub(crate) fn open_file(&self, name: &[u8], write: bool) -> io::Result<OwnedFd> {
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it is not a plain file any more"));
        }
        Ok(fd)
    }

    /// Makes a new plain file readable by nobody else; fails when the name is taken.
    pub(crate) fn create_file(&self, name: &[u8]) -> io::Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)?)
    }

    /// Makes a subdirectory that only its owner may enter until its own mode is set.
    pub(crate) fn make_dir(&self, name: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.fd, name, Mode::RWXU)?)
    }

    /// Gives a subdirectory's owner the right to work in it; its own mode comes back with its attributes.
    pub(crate) fn unlock_dir(&self, name: &[u8]) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())?;
        let mode = Mode::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) | Mode::RWXU;
        // A descriptor of this sort only names the directory; this is how to change what it names.
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        Ok(rustix::fs::chmodat(CWD, path, mode, AtFlags::empty())?)
    }

    /// Makes a symbolic link.
    pub(crate) fn make_symlink(&self, name: &[u8], points_to: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(points_to, &self.fd, name)?)
    }

    /// Makes a pipe or device.
    pub(crate) fn make_special(&self, name: &[u8], kind: FileType, device: u64) -> io::Result<()> {
        Ok(rustix::fs::mknodat(&self.fd, name, kind, Mode::RUSR | Mode::WUSR, device)?)
    }

    /// Makes `name` another name of the file `of` in `from`; a symbolic link is linked itself, not followed.
    pub(crate) fn make_hard_link(&self, name: &[u8], from: &Self, of: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::linkat(&from.fd, of, &self.fd, name, AtFlags::empty())?)
    }

    /// The device of its file system.
    pub(crate) fn device(&self) -> io::Result<u64> {
        Ok(self.stat_self()?.st_dev)
    }

    /// Moves `temp` over `name`, whatever non-directory lies there.
    pub(crate) fn rename(&self, temp: &[u8], name: &[u8]) -> io::Result<()> {
        rustix::fs::renameat(&self.fd, temp, &self.fd, name)?;
        Ok(())
    }

    /// Removes a name that is no directory; fine when it is absent.
    pub(crate) fn unlink(&self, name: &[u8]) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn remove_empty_dir(&self, name: &[u8]) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// All names in the directory with their types (`Unknown` where the file system does not tell).
    pub(crate) fn list(&self) -> io::Result<Vec<(Vec<u8>, FileType)>> {
        // The position belongs to the open description, so read through one of our own.
        let fd = self.subdir(b".")?.fd;
        let mut buffer = vec![MaybeUninit::<u8>::uninit(); 32 * 1024];
        let mut rows = Vec::new();
        let mut dir = RawDir::new(&fd, &mut buffer);
        while let Some(entry) = dir.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                rows.push((name.to_vec(), entry.file_type()));
            }
        }
        Ok(rows)
    }

    /// Removes whatever lies at `name`, a directory with all it holds. Stays on one file system: something
    /// mounted below makes it fail, and is not emptied. Returns how many names were removed.
    pub(crate) fn remove_all(&self, name: &[u8]) -> io::Result<u64> {
        self.remove_by(name, &|_| Fate::Goes)
    }

    /// Removes of what lies at `name` all that is to go by its `fate`, which is asked for each path with its names from
    /// this directory. Directories that lead to something that stays, stay. As for the rest as [`Self::remove_all`].
    pub(crate) fn remove_by(&self, name: &[u8], fate: &dyn Fn(&[Vec<u8>]) -> Fate) -> io::Result<u64> {
        let Some(stat) = self.stat(name)? else { return Ok(0) };
        let top = fate(&[name.to_vec()]);
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            if top != Fate::Goes {
                return Ok(0);
            }
            self.unlink(name)?;
            return Ok(1);
        }
        if top == Fate::Stays {
            return Ok(0);
        }
        let device = self.device()?;
        let mut removed = 0_u64;
        // The directories are reopened, not held, so that depth costs no descriptors.
        let mut stack = vec![self.emptied(vec![name.to_vec()], top, device, fate, &mut removed)?];
        while let Some(last) = stack.last_mut() {
            if let Some((next, its)) = last.below.pop() {
                let mut path = last.path.clone();
                path.push(next);
                stack.push(self.emptied(path, its, device, fate, &mut removed)?);
                continue;
            }
            let Some(done) = stack.pop() else { break };
            if done.stays {
                stack.last_mut().into_iter().for_each(|above| above.stays = true);
                continue;
            }
            let Some((name, above)) = done.path.split_last() else { break };
            self.walk(above)?.remove_empty_dir(name)?;
            removed = removed.saturating_add(1);
        }
        Ok(removed)
    }

    /// Whether the directory at `name` holds, at any depth, something that `is_meant`, given its names from this one.
    pub(crate) fn holds_any(&self, name: &[u8], is_meant: &dyn Fn(&[Vec<u8>]) -> bool) -> io::Result<bool> {
        let mut pending = vec![vec![name.to_vec()]];
        while let Some(mut path) = pending.pop() {
            let dir = self.walk(&path)?;
            for (inner, kind) in dir.list()? {
                path.push(inner.clone());
                if is_meant(&path) {
                    return Ok(true);
                }
                if dir.is_dir(&inner, kind)? {
                    pending.push(path.clone());
                }
                path.pop();
            }
        }
        Ok(false)
    }

    /// Whether an entry is a directory. Not every file system says so in its list.
    fn is_dir(&self, name: &[u8], listed: FileType) -> io::Result<bool> {
        Ok(match listed {
            FileType::Unknown => {
                self.stat(name)?.is_some_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory)
            }
            kind => kind == FileType::Directory,
        })
    }

    /// The directory below this one at `path`.
    pub(crate) fn walk(&self, path: &[Vec<u8>]) -> io::Result<Self> {
        let mut at = self.subdir(b".")?;
        for name in path {
            at = at.subdir(name)?;
        }
        Ok(at)
    }

    /// Removes all but the subdirectories of the directory at `path`, and what stays.
    fn emptied(
        &self,
        path: Vec<Vec<u8>>,
        own: Fate,
        device: u64,
        fate: &dyn Fn(&[Vec<u8>]) -> Fate,
        removed: &mut u64,
    ) -> io::Result<Emptied> {
        let mut emptied = Emptied { path, below: Vec::new(), stays: own != Fate::Goes };
        let Some((dir, names)) = self.listed(&emptied.path, own, device)? else {
            return if own == Fate::Goes {
                Err(io::Error::other("another file system is mounted there"))
            } else {
                Ok(emptied)
            };
        };
        for (name, kind) in names {
            emptied.path.push(name.clone());
            let its = fate(&emptied.path);
            emptied.path.pop();
            if its == Fate::Stays {
                emptied.stays = true;
            } else if dir.is_dir(&name, kind)? {
                emptied.below.push((name, its));
            } else if its == Fate::Goes {
                dir.unlink(&name)?;
                *removed = removed.saturating_add(1);
            } else {
                emptied.stays = true;
            }
        }
        Ok(emptied)
    }

    /// The directory at `path` and what it holds. None where another file system than `device` is mounted on it, and where it
    /// cannot be looked into and its own `fate` is to stay.
    pub(crate) fn listed(&self, path: &[Vec<u8>], fate: Fate, device: u64) -> io::Result<Option<Listed>> {
        let look = || -> io::Result<Option<Listed>> {
            let dir = self.walk(path)?;
            if dir.device()? != device {
                return Ok(None);
            }
            let names = dir.list()?;
            Ok(Some((dir, names)))
        };
        match look() {
            Err(e) if fate != Fate::Goes && is_out_of_sight(&e) => Ok(None),
            looked => looked,
        }
    }
}

/// A directory and what it holds.
type Listed = (Dir, Vec<(Vec<u8>, FileType)>);

fn is_out_of_sight(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// What becomes of a path when what lies there is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It goes, a directory with all it holds but for what stays.
    Goes,
    /// It stays, but something in it may go.
    GoesInPart,
    /// It stays, with all it holds.
    Stays,
}

/// A directory on its way out.
struct Emptied {
    path: Vec<Vec<u8>>,
    /// Its subdirectories that are still to be looked into, and what becomes of them.
    below: Vec<(Vec<u8>, Fate)>,
    /// It stays, for itself or for something in it.
    stays: bool,
}

/// The name under which `path` of `snapshot` is written until it is whole. The same run again finds what an
/// interrupted one had written.
pub(crate) fn temp_name(snapshot: &Id, path: &[u8]) -> Vec<u8> {
    let mut seed = snapshot.as_bytes().to_vec();
    seed.extend_from_slice(path);
    let digest = Id::hash(&seed).to_hex();
    format!("{TEMP_PREFIX}{}", digest.get(..TEMP_DIGITS).unwrap_or(&digest)).into_bytes()
}

/// Whether a name is one of [`temp_name`].
pub(crate) fn is_temp_name(name: &[u8]) -> bool {
    name.strip_prefix(TEMP_PREFIX.as_bytes()).is_some_and(|digits| {
        digits.len() == TEMP_DIGITS
            && digits.iter().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn target() -> (tempfile::TempDir, Target) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let target = Target::create(&dir.path().join("t")).expect("target");
        (dir, target)
    }

    /// Both ways of resolving a path must refuse the same things.
    fn both_ways(check: impl Fn(&Target, &Path)) {
        for by_name in [false, true] {
            let (dir, target) = target();
            target.by_name.store(by_name, Ordering::Relaxed);
            check(&target, dir.path());
        }
    }

    #[test]
    fn a_link_in_the_path_is_never_followed() {
        both_ways(|target, outside| {
            std::fs::create_dir(outside.join("secret")).expect("mkdir");
            std::os::unix::fs::symlink(outside.join("secret"), outside.join("t/link")).expect("symlink");
            std::os::unix::fs::symlink(".", outside.join("t/self")).expect("symlink");
            for path in [&b"link"[..], b"self", b"self/self", b"..", b"self/../.."] {
                assert!(target.dir(path).is_err(), "{:?} was opened", std::ffi::OsStr::from_bytes(path));
            }
        });
    }

    #[test]
    fn a_link_or_a_pipe_in_place_of_a_file_is_not_opened() {
        let (outside, target) = target();
        std::fs::write(outside.path().join("victim"), "x").expect("write");
        let root = target.dir(b"").expect("root");
        root.make_symlink(b"link", b"../victim").expect("symlink");
        root.make_special(b"pipe", FileType::Fifo, 0).expect("fifo");
        for name in [&b"link"[..], b"pipe"] {
            assert!(root.open_file(name, true).is_err());
            assert!(root.create_file(name).is_err());
        }
    }

    #[test]
    fn paths_longer_than_the_kernel_takes_work() {
        both_ways(|target, _| {
            let name = "d".repeat(200);
            let mut path = Vec::new();
            for depth in 0..40 {
                target.dir(&path).expect("parent").make_dir(name.as_bytes()).expect("mkdir");
                if depth > 0 {
                    path.push(b'/');
                }
                path.extend_from_slice(name.as_bytes());
            }
            assert!(path.len() > 4096);
            target.dir(&path).expect("deep directory").create_file(b"f").expect("file");
            let removed = target.dir(b"").expect("root").remove_all(name.as_bytes()).expect("removed");
            assert_eq!(removed, 41);
        });
    }

    #[test]
    fn removing_a_tree_does_not_follow_links() {
        let (outside, target) = target();
        std::fs::create_dir(outside.path().join("keep")).expect("mkdir");
        std::fs::write(outside.path().join("keep/f"), "x").expect("write");
        let root = target.dir(b"").expect("root");
        root.make_dir(b"d").expect("mkdir");
        root.subdir(b"d").expect("d").make_symlink(b"l", b"../../keep").expect("symlink");
        assert_eq!(root.remove_all(b"d").expect("removed"), 2);
        assert!(outside.path().join("keep/f").exists());
        assert_eq!(root.remove_all(b"absent").expect("nothing to remove"), 0);
    }

    #[test]
    fn temporary_names_are_stable_and_differ() {
        let id = Id::hash(b"snapshot");
        assert_eq!(temp_name(&id, b"a/b"), temp_name(&id, b"a/b"));
        assert_ne!(temp_name(&id, b"a/b"), temp_name(&id, b"a/c"));
        assert!(
            temp_name(&id, b"a").starts_with(TEMP_PREFIX.as_bytes()) && is_temp_name(&temp_name(&id, b"a"))
        );
        assert!(!is_temp_name(b".holdfast-restore-notes") && !is_temp_name(b"a"));
    }
}
