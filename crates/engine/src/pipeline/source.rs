//! The system calls that read a source: listing, metadata, extended attributes, opening without side effects.
//!
//! Everything is relative to an open directory, so that a directory renamed while it is read cannot lead
//! elsewhere. Not here: which files are read, and when (`walk`, `read`).

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, SeekFrom, Statx, StatxFlags};
use rustix::io::Errno;

use super::file::LinkKey;
use crate::format::node::{Node, NodeType, Xattr, go_mode};
use crate::format::time::Time;

/// What the kernel knows of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) kind: NodeType,
    /// The kernel's `st_mode`.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) mtime: Time,
    pub(crate) ctime: Time,
    pub(crate) inode: u64,
    pub(crate) links: u64,
    pub(crate) device: u64,
    pub(crate) rdev: u64,
    /// 512-byte units that the file takes on disk.
    pub(crate) blocks: u64,
    /// When it was made, where the file system says so.
    pub(crate) born: Option<Time>,
}

impl From<Statx> for Stat {
    fn from(s: Statx) -> Self {
        let mode = u32::from(s.stx_mode);
        Self {
            kind: NodeType::from_st_mode(mode),
            mode,
            uid: s.stx_uid,
            gid: s.stx_gid,
            size: s.stx_size,
            mtime: Time::new(s.stx_mtime.tv_sec, s.stx_mtime.tv_nsec),
            ctime: Time::new(s.stx_ctime.tv_sec, s.stx_ctime.tv_nsec),
            inode: s.stx_ino,
            links: u64::from(s.stx_nlink),
            device: rustix::fs::makedev(s.stx_dev_major, s.stx_dev_minor),
            rdev: rustix::fs::makedev(s.stx_rdev_major, s.stx_rdev_minor),
            blocks: s.stx_blocks,
            born: StatxFlags::from_bits_retain(s.stx_mask)
                .contains(StatxFlags::BTIME)
                .then(|| Time::new(s.stx_btime.tv_sec, s.stx_btime.tv_nsec)),
        }
    }
}

impl Stat {
    /// The node that the format keeps of this, without content, subtree, link target and attributes.
    pub(crate) fn node(&self, name: &[u8]) -> Node {
        let has_links =
            matches!(self.kind, NodeType::File | NodeType::Symlink | NodeType::Dev | NodeType::CharDev);
        Node {
            name: name.to_vec(),
            kind: self.kind,
            mode: go_mode::from_st_mode(self.mode),
            mtime: self.mtime,
            // Reading a file changes its access time; keeping it would make every tree new each time.
            atime: self.mtime,
            ctime: self.ctime,
            uid: self.uid,
            gid: self.gid,
            inode: self.inode,
            device_id: self.device_id(),
            links: if has_links { self.links } else { 0 },
            device: if matches!(self.kind, NodeType::Dev | NodeType::CharDev) { self.rdev } else { 0 },
            ..Node::default()
        }
    }

    /// Only hard links need the device number, and it differs from mount to mount, which would make every tree new.
    /// restic's `device-id-for-hardlinks` keeps it for pipes too, by the way it counts their links; so do we, for
    /// identical trees.
    fn device_id(&self) -> u64 {
        let kept = match self.kind {
            NodeType::Dir => false,
            NodeType::Fifo => true,
            _ => self.links > 1,
        };
        if kept { self.device } else { 0 }
    }

    /// What all names of the file share.
    pub(crate) fn link_key(&self) -> LinkKey {
        LinkKey { device: self.device, inode: self.inode, born: self.born }
    }

    /// Whether some of the file's blocks may be missing on disk.
    pub(crate) fn may_have_holes(&self) -> bool {
        self.blocks.saturating_mul(512) < self.size
    }

    /// Whether content or metadata changed between two looks at the same open file.
    pub(crate) fn differs(&self, later: &Self) -> bool {
        self.size != later.size || self.mtime != later.mtime || self.ctime != later.ctime
    }
}

const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// Metadata of a name in a directory; a symbolic link is not followed.
pub(crate) fn stat_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<Stat, Errno> {
    // Not `STATX_DONT_SYNC`: what a network file system has cached may be of any age, and a file that another node has
    // changed would be taken for the one of the last backup.
    rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, WANTED).map(Stat::from)
}

/// Metadata of something open.
pub(crate) fn stat_open(fd: BorrowedFd<'_>) -> Result<Stat, Errno> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, WANTED).map(Stat::from)
}

/// Metadata of a path, symbolic links followed: what lies between the file system's root and a backup's root.
pub(crate) fn stat_path(path: &Path) -> Result<Stat, Errno> {
    rustix::fs::statx(CWD, path, AtFlags::empty(), WANTED).map(Stat::from)
}

/// Opens a path's directory for `*_at` calls, symbolic links on the way followed.
pub(crate) fn open_path_dir(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Opens without touching the access time where the kernel allows it (owner or `CAP_FOWNER` only).
fn open_quietly(dir: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(dir, name, flags, Mode::empty()),
        other => other,
    }
}

/// Opens a subdirectory for listing.
pub(crate) fn open_dir(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    open_quietly(dir, name, OFlags::DIRECTORY)
}

/// Opens a regular file for reading. Non-blocking, because a pipe may have taken its place since it was listed.
pub(crate) fn open_file(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    open_quietly(dir, name, OFlags::NONBLOCK | OFlags::NOCTTY)
}

/// All names of a directory but `.` and `..`, ascending by raw bytes.
pub(crate) fn list(dir: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>]) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    let mut entries = RawDir::new(dir, buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// A buffer for [`list`].
pub(crate) fn list_buffer() -> Vec<MaybeUninit<u8>> {
    vec![MaybeUninit::uninit(); 64 * 1024]
}

/// Where a symbolic link points.
pub(crate) fn read_link(dir: BorrowedFd<'_>, name: &CStr) -> Result<Vec<u8>, Errno> {
    rustix::fs::readlinkat(dir, name, Vec::new()).map(CString::into_bytes)
}

/// What carries extended attributes.
#[derive(Clone, Copy)]
pub(crate) enum Carrier<'a> {
    /// An open file or directory.
    Open(BorrowedFd<'a>),
    /// Something that must not be opened or followed: link, pipe, device.
    Name(BorrowedFd<'a>, &'a CStr),
}

impl Carrier<'_> {
    /// The kernel has no `listxattrat` before 6.13: the open directory's entry in `/proc` stands in for it.
    fn proc_path(dir: BorrowedFd<'_>, name: &CStr) -> Vec<u8> {
        let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
        path.extend_from_slice(name.to_bytes());
        path
    }

    fn list(self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(fd) => rustix::fs::flistxattr(fd, buffer),
            Self::Name(dir, name) => rustix::fs::llistxattr(Self::proc_path(dir, name), buffer),
        }
    }

    fn get(self, attribute: &CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fgetxattr(fd, attribute, buffer),
            Self::Name(dir, name) => rustix::fs::lgetxattr(Self::proc_path(dir, name), attribute, buffer),
        }
    }
}

/// The kernel's limit for a list of names and for one value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const XATTR_MAX: usize = 64 * 1024;

/// All extended attributes in the kernel's order; none where the file system has no such thing.
pub(crate) fn xattrs(of: Carrier<'_>) -> Result<Vec<Xattr>, Errno> {
    let mut small = [0_u8; 512];
    let large;
    let names = match of.list(&mut small) {
        Ok(0) | Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Vec::new()),
        Ok(length) => small.get(..length).unwrap_or_default(),
        Err(Errno::RANGE) => {
            large = grown(|buffer| of.list(buffer))?;
            large.as_slice()
        }
        // Without /proc the attributes of links and devices cannot be asked for; they hardly ever have any.
        Err(Errno::NOENT) if matches!(of, Carrier::Name(..)) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let mut value = [0_u8; 512];
        let value = match of.get(name, &mut value) {
            Ok(length) => value.get(..length).unwrap_or_default().to_vec(),
            Err(Errno::RANGE) => grown(|buffer| of.get(name, buffer))?,
            // Removed since it was listed.
            Err(Errno::NODATA) => continue,
            Err(e) => return Err(e),
        };
        found.push(Xattr { name: name.to_string_lossy().into_owned(), value });
    }
    Ok(found)
}

fn grown(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0_u8; XATTR_MAX];
    let length = call(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

/// A stretch of a file: data or a hole, up to but not including `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) hole: bool,
    pub(crate) end: u64,
}

/// What lies at `offset` of a file of `size` bytes, as far as the file system tells. A hole that ends at or before
/// `offset` is the end of a file that was cut.
pub(crate) fn stretch(fd: BorrowedFd<'_>, offset: u64, size: u64) -> Stretch {
    match rustix::fs::seek(fd, SeekFrom::Data(offset)) {
        // No data behind the offset: a hole up to the end. Where that is by now has to be asked: a file that was cut
        // answers alike, and never held the zeros up to the size that it had. Reading tells why it cannot be asked.
        Err(Errno::NXIO) => match stat_open(fd) {
            Ok(now) => Stretch { hole: true, end: now.size.min(size) },
            Err(_) => Stretch { hole: false, end: size },
        },
        Ok(data) if data > offset => Stretch { hole: true, end: data.min(size) },
        Ok(_) => {
            let end = rustix::fs::seek(fd, SeekFrom::Hole(offset)).unwrap_or(size);
            Stretch {
                hole: false,
                end: end.clamp(offset.saturating_add(1), size.max(offset.saturating_add(1))),
            }
        }
        // The file system does not tell: everything is data.
        Err(_) => Stretch { hole: false, end: size },
    }
}

/// Reads at `offset` until the buffer is full or the file ends; says how much was read.
pub(crate) fn read_full(fd: BorrowedFd<'_>, buffer: &mut [u8], mut offset: u64) -> Result<usize, Errno> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..) {
        if rest.is_empty() {
            break;
        }
        match rustix::io::pread(fd.as_fd(), rest, offset) {
            Ok(0) => break,
            Ok(count) => {
                filled += count;
                offset = offset.saturating_add(count as u64);
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::FileExt;

    #[test]
    fn names_come_sorted_and_raw() {
        let dir = tempfile::tempdir().unwrap();
        for name in [&b"b"[..], b"a b", b"\xff\xfe", b"B", b"\xc3\xa4"] {
            File::create(dir.path().join(std::ffi::OsStr::from_bytes(name))).unwrap();
        }
        let fd = File::open(dir.path()).unwrap();
        let names = list(fd.as_fd(), &mut list_buffer()).unwrap();
        let raw: Vec<&[u8]> = names.iter().map(|n| n.to_bytes()).collect();
        assert_eq!(raw, [&b"B"[..], b"a b", b"b", b"\xc3\xa4", b"\xff\xfe"]);
    }

    #[test]
    fn holes_and_data_are_told_apart() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 << 20).unwrap();
        file.write_all_at(&[1; 8192], 1 << 20).unwrap();
        let fd = file.as_fd();
        assert_eq!(stretch(fd, 0, 4 << 20), Stretch { hole: true, end: 1 << 20 });
        assert_eq!(stretch(fd, 1 << 20, 4 << 20), Stretch { hole: false, end: (1 << 20) + 8192 });
        assert_eq!(stretch(fd, 2 << 20, 4 << 20), Stretch { hole: true, end: 4 << 20 });
        assert!(stat_open(fd).unwrap().may_have_holes());
        // Cut since its size was asked for: within the last hole, and below where the reader is.
        file.set_len(3 << 20).unwrap();
        assert_eq!(stretch(fd, 2 << 20, 4 << 20), Stretch { hole: true, end: 3 << 20 });
        file.set_len(1 << 20).unwrap();
        assert_eq!(stretch(fd, 2 << 20, 4 << 20), Stretch { hole: true, end: 1 << 20 });
    }

    #[test]
    fn long_attributes_are_read_whole() {
        // tmpfs knows user attributes only since Linux 6.6, so this needs the build's own file system.
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("f");
        let file = File::create(&path).unwrap();
        for (name, length) in [("user.a", 3000), ("user.b", 0)] {
            rustix::fs::fsetxattr(&file, name, &vec![7; length], rustix::fs::XattrFlags::empty()).unwrap();
        }
        let lengths = |found: Vec<Xattr>| {
            let mut all: Vec<_> = found.into_iter().map(|x| (x.name, x.value.len())).collect();
            all.sort();
            all
        };
        let expected = [("user.a".to_owned(), 3000), ("user.b".to_owned(), 0)];
        assert_eq!(lengths(xattrs(Carrier::Open(file.as_fd())).unwrap()), expected);
        let parent = File::open(dir.path()).unwrap();
        assert_eq!(lengths(xattrs(Carrier::Name(parent.as_fd(), c"f")).unwrap()), expected);
    }
}
