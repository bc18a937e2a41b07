//! Owner, mode, extended attributes and times of one restored thing, set in the one order in which none of them
//! undoes another. Failures are handed to the caller one by one; they never stop a restore.
//!
//! Order: owner (it clears setuid and capabilities), extended attributes (they need write permission, which the
//! mode may take away), mode, times. Not here: when this is done.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::Ownership;
use super::target::Dir;
use crate::format::time::Time;

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;

/// What is to be set.
pub(crate) struct Wanted<'a> {
    /// Permission bits with setuid, setgid and sticky: `07777`.
    pub(crate) mode: u32,
    /// Numeric owner.
    pub(crate) uid: u32,
    /// Numeric group.
    pub(crate) gid: u32,
    /// Last access.
    pub(crate) atime: Time,
    /// Last change of content.
    pub(crate) mtime: Time,
    /// Extended attributes, names without a trailing zero.
    pub(crate) xattrs: Vec<(&'a [u8], &'a [u8])>,
}

/// The thing to set it on.
#[derive(Clone, Copy)]
pub(crate) enum Handle<'a> {
    /// An open file or directory.
    Open(BorrowedFd<'a>),
    /// Something that must not or cannot be opened: a pipe, a device. Never followed.
    Special(&'a Dir, &'a [u8]),
    /// A symbolic link itself; it has no mode of its own.
    Link(&'a Dir, &'a [u8]),
}

/// Takes what failed: the action (`chown`, `xattr`, `chmod`, `utimes`) and why.
pub(crate) type Failed<'a> = &'a mut dyn FnMut(&'static str, String);

/// Sets everything that is not yet as wanted. Whose it is then; `None` where that cannot be told, which is a failure.
pub(crate) fn apply(
    on: Handle<'_>,
    wanted: &Wanted<'_>,
    ownership: Ownership,
    failed: Failed<'_>,
) -> Option<Owned> {
    let before = match on.stat() {
        Ok(stat) => stat,
        Err(e) => {
            failed("stat", e.to_string());
            return None;
        }
    };
    let owned = set_owner(on, wanted, ownership, &before, failed);
    set_xattrs(on, wanted, failed);
    if !matches!(on, Handle::Link(..)) {
        set_mode(on, wanted, &before, owned, failed);
    }
    // Setting the times it already has would only renew the change time, and make the next backup read it all.
    if (before.st_mtime, before.st_mtime_nsec) == (wanted.mtime.seconds, wanted.mtime.nanos.into()) {
        return Some(owned);
    }
    let times = Timestamps { last_access: timespec(wanted.atime), last_modification: timespec(wanted.mtime) };
    if let Err(e) = on.set_times(&times) {
        failed("utimes", e.to_string());
    }
    Some(owned)
}

/// Sets the owner and says whether owner and group are now the wanted ones, and whether anything was changed.
fn set_owner(
    on: Handle<'_>,
    wanted: &Wanted<'_>,
    ownership: Ownership,
    before: &Stat,
    failed: Failed<'_>,
) -> Owned {
    let as_before = Owned {
        uid: before.st_uid == wanted.uid,
        gid: before.st_gid == wanted.gid,
        changed: false,
        is: (before.st_uid, before.st_gid),
    };
    if as_before.uid && as_before.gid {
        return as_before;
    }
    if wanted.uid == u32::MAX || wanted.gid == u32::MAX {
        failed("chown", format!("{}:{} is no owner", wanted.uid, wanted.gid));
        return as_before;
    }
    let gid = Gid::from_raw_unchecked(wanted.gid);
    if ownership == Ownership::Keep {
        // An owner may give a file to any group that they are in; nobody promised more.
        if as_before.gid || on.set_owner(None, gid).is_err() {
            return as_before;
        }
        return Owned { gid: true, changed: true, is: (before.st_uid, wanted.gid), ..as_before };
    }
    match on.set_owner(Some(Uid::from_raw_unchecked(wanted.uid)), gid) {
        Ok(()) => Owned { uid: true, gid: true, changed: true, is: (wanted.uid, wanted.gid) },
        Err(e) => {
            failed("chown", e.to_string());
            as_before
        }
    }
}

/// Whose something is, and whether that is as wanted.
#[derive(Clone, Copy)]
pub(crate) struct Owned {
    uid: bool,
    gid: bool,
    changed: bool,
    is: (u32, u32),
}

impl Owned {
    /// In what it matters that it is not whose it was: somebody can do less with it, or somebody else more. A group that
    /// may do no more than everybody loses nothing, and a link's group never may.
    pub(crate) fn difference(self, wanted: &Wanted<'_>, on: Handle<'_>) -> Option<String> {
        let (group, everybody) = (wanted.mode >> 3 & 0o7, wanted.mode & 0o7);
        let by_group = !self.gid && !matches!(on, Handle::Link(..)) && group & !everybody != 0;
        (!self.uid || by_group).then(|| {
            let (uid, gid) = self.is;
            format!("belongs to {uid}:{gid}, and belonged to {}:{}", wanted.uid, wanted.gid)
        })
    }
}

fn set_mode(on: Handle<'_>, wanted: &Wanted<'_>, before: &Stat, owned: Owned, failed: Failed<'_>) {
    let mut mode = wanted.mode & 0o7777;
    let is_dir = rustix::fs::FileType::from_raw_mode(before.st_mode) == rustix::fs::FileType::Directory;
    // A program that runs as its owner must not become one that runs as whoever restores it. On a directory
    // the bits only say whose group new files get.
    let mut dropped = 0;
    if !is_dir && !owned.uid {
        dropped |= mode & SETUID;
    }
    if !is_dir && !owned.gid {
        dropped |= mode & SETGID;
    }
    mode &= !dropped;
    if dropped != 0 {
        failed("setuid", format!("left out of mode {:o} because the owner was not restored", wanted.mode));
    }
    if (owned.changed || before.st_mode & 0o7777 != mode)
        && let Err(e) = on.set_mode(Mode::from_raw_mode(mode))
    {
        failed("chmod", e.to_string());
    }
}

fn set_xattrs(on: Handle<'_>, wanted: &Wanted<'_>, failed: Failed<'_>) {
    let list = match on.list_xattrs() {
        Ok(list) => list,
        // A file system without attributes is only a failure when there are some to set.
        Err(e) if e == Errno::OPNOTSUPP && wanted.xattrs.is_empty() => return,
        Err(e) if e == Errno::OPNOTSUPP => Vec::new(),
        Err(e) => return failed("xattr", io::Error::from(e).to_string()),
    };
    let present: Vec<&[u8]> = list.split(|b| *b == 0).filter(|n| !n.is_empty()).collect();
    for name in &present {
        if !wanted.xattrs.iter().any(|(w, _)| w == name)
            && is_content(name)
            && let Err(e) = on.remove_xattr(name)
            && e != Errno::NODATA
        {
            failed("xattr", format!("remove {}: {}", String::from_utf8_lossy(name), io::Error::from(e)));
        }
    }
    for (name, value) in &wanted.xattrs {
        if present.contains(name) && on.xattr_is(name, value) {
            continue;
        }
        if let Err(e) = on.set_xattr(name, value) {
            failed("xattr", format!("set {}: {}", String::from_utf8_lossy(name), io::Error::from(e)));
        }
    }
}

/// Attributes that belong to the file and not to the machine it lies on: labels and signatures that the system
/// puts there by itself are never removed.
fn is_content(name: &[u8]) -> bool {
    !name.starts_with(b"security.") || name == b"security.capability"
}

fn timespec(time: Time) -> Timespec {
    Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() }
}

/// The path by which the kernel reaches an open descriptor of ours; magic, so never redirected by others.
fn proc_path(fd: BorrowedFd<'_>, name: Option<&[u8]>) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes();
    if let Some(name) = name {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    path
}

impl Handle<'_> {
    fn stat(self) -> io::Result<Stat> {
        Ok(match self {
            Self::Open(fd) => rustix::fs::fstat(fd)?,
            Self::Special(dir, name) | Self::Link(dir, name) => {
                rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?
            }
        })
    }

    fn set_owner(self, uid: Option<Uid>, gid: Gid) -> io::Result<()> {
        match self {
            Self::Open(fd) => rustix::fs::fchown(fd, uid, Some(gid))?,
            Self::Special(dir, name) | Self::Link(dir, name) => {
                rustix::fs::chownat(dir, name, uid, Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
        }
        Ok(())
    }

    fn set_mode(self, mode: Mode) -> io::Result<()> {
        match self {
            Self::Open(fd) => rustix::fs::fchmod(fd, mode)?,
            Self::Special(dir, name) => {
                // fchmodat follows links; a descriptor that only names the thing cannot be swapped for one.
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
                rustix::fs::chmodat(CWD, proc_path(fd.as_fd(), None), mode, AtFlags::empty())?;
            }
            Self::Link(..) => {}
        }
        Ok(())
    }

    fn set_times(self, times: &Timestamps) -> io::Result<()> {
        match self {
            Self::Open(fd) => rustix::fs::futimens(fd, times)?,
            Self::Special(dir, name) | Self::Link(dir, name) => {
                rustix::fs::utimensat(dir, name, times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
        }
        Ok(())
    }

    fn list_xattrs(self) -> Result<Vec<u8>, Errno> {
        let list = |buffer: &mut [u8]| match self {
            Self::Open(fd) => rustix::fs::flistxattr(fd, buffer),
            Self::Special(dir, name) | Self::Link(dir, name) => {
                rustix::fs::llistxattr(proc_path(dir.as_fd(), Some(name)), buffer)
            }
        };
        let mut small = [0_u8; 512];
        let (length, buffer) = match list(&mut small) {
            Err(Errno::RANGE) => {
                // The kernel's own limit on a list.
                let mut large = vec![0_u8; 64 * 1024];
                let length = list(&mut large)?;
                large.truncate(length);
                return Ok(large);
            }
            other => (other?, small),
        };
        Ok(buffer.get(..length).unwrap_or_default().to_vec())
    }

    fn xattr_is(self, attribute: &[u8], value: &[u8]) -> bool {
        let mut buffer = vec![0_u8; value.len().saturating_add(1)];
        let length = match self {
            Self::Open(fd) => rustix::fs::fgetxattr(fd, attribute, buffer.as_mut_slice()),
            Self::Special(dir, name) | Self::Link(dir, name) => {
                rustix::fs::lgetxattr(proc_path(dir.as_fd(), Some(name)), attribute, buffer.as_mut_slice())
            }
        };
        length.is_ok_and(|n| buffer.get(..n) == Some(value))
    }

    fn set_xattr(self, attribute: &[u8], value: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fsetxattr(fd, attribute, value, XattrFlags::empty()),
            Self::Special(dir, name) | Self::Link(dir, name) => rustix::fs::lsetxattr(
                proc_path(dir.as_fd(), Some(name)),
                attribute,
                value,
                XattrFlags::empty(),
            ),
        }
    }

    fn remove_xattr(self, attribute: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fremovexattr(fd, attribute),
            Self::Special(dir, name) | Self::Link(dir, name) => {
                rustix::fs::lremovexattr(proc_path(dir.as_fd(), Some(name)), attribute)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustix::fs::FileType;

    use super::*;
    use crate::restore::target::Target;

    fn wanted(mode: u32) -> Wanted<'static> {
        let stamp = Time::new(1_000_000_000, 123_456_789);
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Wanted { mode, uid, gid, atime: stamp, mtime: stamp, xattrs: Vec::new() }
    }

    fn in_target(check: impl FnOnce(&Path, &Dir)) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let target = Target::create(dir.path()).expect("target");
        check(dir.path(), &target.dir(b"").expect("root"));
    }

    fn faults(on: Handle<'_>, wanted: &Wanted<'_>, ownership: Ownership) -> Vec<&'static str> {
        let mut seen = Vec::new();
        apply(on, wanted, ownership, &mut |action, _| seen.push(action));
        seen
    }

    #[test]
    fn a_file_gets_mode_attributes_and_nanoseconds() {
        in_target(|_, root| {
            let file = root.create_file(b"f").expect("file");
            let mut want = wanted(0o440);
            want.xattrs = vec![(b"user.a", b"\0\xff"), (b"user.empty", b"")];
            rustix::fs::fsetxattr(&file, "user.stale", b"x", XattrFlags::empty()).expect("setxattr");
            let on = Handle::Open(file.as_fd());
            assert_eq!(faults(on, &want, Ownership::Restore), Vec::<&str>::new());
            let stat = rustix::fs::fstat(&file).expect("stat");
            assert_eq!(stat.st_mode & 0o7777, 0o440);
            assert_eq!((stat.st_mtime, stat.st_mtime_nsec), (1_000_000_000, 123_456_789));
            assert_eq!(
                on.list_xattrs().expect("list").split(|b| *b == 0).filter(|n| !n.is_empty()).count(),
                2
            );
            assert!(on.xattr_is(b"user.a", b"\0\xff") && on.xattr_is(b"user.empty", b""));
        });
    }

    #[test]
    fn setuid_needs_the_owner() {
        in_target(|_, root| {
            let file = root.create_file(b"f").expect("file");
            let mut want = wanted(0o6755);
            want.uid += 1;
            let on = Handle::Open(file.as_fd());
            assert_eq!(faults(on, &want, Ownership::Keep), ["setuid"]);
            assert_eq!(rustix::fs::fstat(&file).expect("stat").st_mode & 0o7777, 0o2755);
            assert_eq!(faults(on, &wanted(0o6755), Ownership::Keep), Vec::<&str>::new());
            assert_eq!(rustix::fs::fstat(&file).expect("stat").st_mode & 0o7777, 0o6755);
        });
    }

    #[test]
    fn what_is_left_to_whoever_restores_it_is_told_where_it_matters() {
        let difference = |mode: u32, uid: u32, gid: u32| {
            let mut seen = None;
            in_target(|_, root| {
                let file = root.create_file(b"f").expect("file");
                let (own, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
                let mut want = wanted(mode);
                (want.uid, want.gid) = (own + uid, group + gid);
                let on = Handle::Open(file.as_fd());
                // As it is before anything is tried: tests may run as root, who is in every group.
                let stat = rustix::fs::fstat(&file).expect("stat");
                let owned = Owned {
                    uid: stat.st_uid == want.uid,
                    gid: stat.st_gid == want.gid,
                    changed: false,
                    is: (stat.st_uid, stat.st_gid),
                };
                seen = owned.difference(&want, on);
            });
            seen
        };
        assert_eq!(difference(0o640, 0, 0), None);
        assert!(difference(0o600, 1, 0).is_some_and(|told| told.contains("and belonged to")));
        assert_eq!(difference(0o644, 0, 1), None, "the group may do what everybody may");
        assert_eq!(difference(0o600, 0, 1), None, "nor may it do anything here");
        assert!(difference(0o640, 0, 1).is_some());
        assert!(difference(0o775, 0, 1).is_some());
    }

    #[test]
    fn a_group_is_given_back_where_that_needs_no_right() {
        in_target(|_, root| {
            let file = root.create_file(b"f").expect("file");
            let groups = rustix::process::getgroups().expect("groups");
            let own = rustix::process::getegid();
            // Only root and who is in several groups can see it.
            let is_root = rustix::process::geteuid().is_root();
            let other = groups.into_iter().find(|group| *group != own).map(Gid::as_raw);
            let Some(other) = other.or(is_root.then_some(own.as_raw() + 1)) else { return };
            let mut want = wanted(0o640);
            (want.uid, want.gid) = (want.uid + 1, other);
            let on = Handle::Open(file.as_fd());
            let owned = apply(on, &want, Ownership::Keep, &mut |_, _| {}).expect("a stat");
            assert_eq!(rustix::fs::fstat(&file).expect("stat").st_gid, other);
            assert_eq!(rustix::fs::fstat(&file).expect("stat").st_uid, want.uid - 1, "never the owner");
            assert!(owned.difference(&want, on).is_some_and(|told| told.contains(&format!(":{other}, and"))));
        });
    }

    #[test]
    fn a_link_is_changed_itself_and_a_pipe_without_opening_it() {
        in_target(|path, root| {
            std::fs::write(path.join("victim"), "x").expect("write");
            let before = std::fs::metadata(path.join("victim")).expect("stat").modified().expect("time");
            root.make_symlink(b"l", b"victim").expect("symlink");
            root.make_special(b"p", FileType::Fifo, 0).expect("fifo");
            assert_eq!(
                faults(Handle::Link(root, b"l"), &wanted(0o777), Ownership::Restore),
                Vec::<&str>::new()
            );
            assert_eq!(
                faults(Handle::Special(root, b"p"), &wanted(0o622), Ownership::Restore),
                Vec::<&str>::new()
            );
            assert_eq!(
                std::fs::metadata(path.join("victim")).expect("stat").modified().expect("time"),
                before
            );
            let link = root.stat(b"l").expect("stat").expect("there");
            let pipe = root.stat(b"p").expect("stat").expect("there");
            assert_eq!((link.st_mtime, link.st_mtime_nsec), (1_000_000_000, 123_456_789));
            assert_eq!(pipe.st_mode & 0o7777, 0o622);
        });
    }

    #[test]
    fn an_impossible_owner_is_a_failure_and_not_a_wildcard() {
        in_target(|_, root| {
            let file = root.create_file(b"f").expect("file");
            let mut want = wanted(0o644);
            want.uid = u32::MAX;
            assert_eq!(faults(Handle::Open(file.as_fd()), &want, Ownership::Restore), ["chown"]);
        });
    }
}
