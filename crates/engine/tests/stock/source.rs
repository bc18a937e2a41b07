//! A directory that holds everything a file system can, and what must survive of it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use holdfast_engine::Id;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

/// Owner of everything in the source; a number without a name, so that restic writes none.
pub(crate) const OWNER: (u32, u32) = (54_321, 54_322);

/// Bytes that do not compress and differ with `seed`.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Makes a directory with everything that makes backups hard. Needs root, for owners and devices.
pub(crate) fn build_source(at: &Path) {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test makes device nodes and foreign owners: run it as root"
    );
    fs::create_dir_all(at).unwrap();
    let dir = |name: &str| {
        let path = at.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    };
    let names = dir("names");
    for (i, name) in odd_names().into_iter().enumerate() {
        fs::write(names.join(OsStr::from_bytes(&name)), format!("content {i}")).unwrap();
    }
    let sizes = dir("sizes");
    for (i, size) in [0, 1, 15, 511 * 1024, 512 * 1024, 512 * 1024 + 1, 5_000_000].into_iter().enumerate() {
        fs::write(sizes.join(size.to_string()), noise(i as u64, size)).unwrap();
    }
    fs::write(sizes.join("zeros"), vec![0; 3_000_000]).unwrap();
    fs::write(sizes.join("text"), "the same line again\n".repeat(90_000)).unwrap();
    // Above the largest chunk without any cut: the hash is the same at every place.
    fs::write(sizes.join("ones"), vec![1; 9 << 20]).unwrap();
    let sparse = File::create(sizes.join("sparse")).unwrap();
    sparse.set_len(30 << 20).unwrap();
    sparse.write_all_at(&noise(77, 700_000), 5 << 20).unwrap();
    sparse.write_all_at(b"in the middle of a hole", 20 << 20).unwrap();

    let many = dir("many");
    for i in 0..200_u16 {
        let sub = many.join(format!("d{}", i % 10));
        fs::create_dir_all(&sub).unwrap();
        fs::write(sub.join(format!("f{i}")), noise(1000 + u64::from(i), 100 + (usize::from(i) * 37) % 3000))
            .unwrap();
    }
    dir("empty");

    let links = dir("links");
    fs::write(links.join("a"), noise(5, 600_000)).unwrap();
    fs::hard_link(links.join("a"), links.join("b")).unwrap();
    fs::hard_link(links.join("a"), at.join("a link from above")).unwrap();
    symlink("a", links.join("to a")).unwrap();
    symlink("/nowhere/at all", links.join("dangling")).unwrap();
    symlink(OsStr::from_bytes(b"not text \xff"), links.join("raw")).unwrap();

    let special = dir("special");
    let node = |name: &str, kind, device| {
        rustix::fs::mknodat(CWD, special.join(name), kind, Mode::from(0o640), device).unwrap();
    };
    node("pipe", FileType::Fifo, 0);
    node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    node("disk", FileType::BlockDevice, rustix::fs::makedev(254, 300));
    let _socket = std::os::unix::net::UnixListener::bind(special.join("socket")).unwrap();

    let meta = dir("meta");
    for mode in [0o000, 0o400, 0o777, 0o4755, 0o2755, 0o1644, 0o7777] {
        let path = meta.join(format!("mode {mode:o}"));
        fs::write(&path, "m").unwrap();
    }
    let attributes = meta.join("attributes");
    fs::write(&attributes, "x").unwrap();
    for (name, value) in [("user.text", &b"value"[..]), ("user.empty", b""), ("user.bytes", b"\x00\xff\n")] {
        rustix::fs::setxattr(&attributes, name, value, XattrFlags::empty()).unwrap();
    }
    rustix::fs::setxattr(&meta, "user.of a directory", b"d", XattrFlags::empty()).unwrap();
    for (name, _) in odd_times() {
        fs::write(meta.join(name), "t").unwrap();
    }
    let granted = dir("granted");
    settle(at);
    for mode in [0o000, 0o400, 0o777, 0o4755, 0o2755, 0o1644, 0o7777] {
        let path = meta.join(format!("mode {mode:o}"));
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    for (name, (seconds, nanos)) in odd_times() {
        set_mtime(&meta.join(name), seconds, nanos);
    }
    fs::set_permissions(&special, fs::Permissions::from_mode(0o1777)).unwrap();
    grant(&granted);
    set_mtime(&meta, 1_500_000_000, 5);
}

/// An access control list as the kernel takes it: each entry is a tag, permissions, and a user or group.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

/// Access control lists and a capability: rights beyond the mode, which the kernel keeps as attributes, changes along with
/// the mode, hands down to new files, and takes away with the owner.
fn grant(at: &Path) {
    // The tags of <linux/posix_acl.h>: owner, user, group, named group, mask, all others.
    const NOBODY: u32 = u32::MAX;
    let (mine, theirs) = (Uid::from_raw(OWNER.0), Gid::from_raw(OWNER.1));
    let list = |mask: u16| {
        acl(&[
            (1, 7, NOBODY),
            (2, 6, 1234),
            (4, 5, NOBODY),
            (8, 1, 4321),
            (16, mask, NOBODY),
            (32, 0, NOBODY),
        ])
    };
    let (program, read, inner) = (at.join("program"), at.join("read"), at.join("inner"));
    fs::create_dir(&inner).unwrap();
    // Of before the directory hands rights down: it has none itself.
    for path in [&program, &read, &inner.join("plain")] {
        fs::write(path, "granted").unwrap();
    }
    settle(at);
    let knows_lists = [
        (read.as_path(), "system.posix_acl_access", list(7)),
        (&inner, "system.posix_acl_access", list(5)),
        (&inner, "system.posix_acl_default", list(3)),
    ]
    .into_iter()
    .all(|(path, name, value)| match rustix::fs::setxattr(path, name, &value, XattrFlags::empty()) {
        Ok(()) => true,
        Err(rustix::io::Errno::NOTSUP) => false,
        Err(e) => panic!("{name} of {}: {e}", path.display()),
    });
    if knows_lists {
        // Made after that, with the rights that were handed down.
        let heir = inner.join("heir");
        fs::write(&heir, "granted").unwrap();
        rustix::fs::chownat(CWD, &heir, Some(mine), Some(theirs), AtFlags::SYMLINK_NOFOLLOW).unwrap();
        set_mtime(&heir, 1_600_000_001, 0);
        set_mtime(&inner, 1_600_000_002, 0);
    } else {
        // Past the test harness, which keeps what a test prints to itself.
        let told = format!(
            "WARNING: the file system of {} knows no access control lists: NOT TESTED\n",
            at.display()
        );
        std::io::stderr().write_all(told.as_bytes()).unwrap();
    }
    // To listen below port 1024: revision 2, effective, in the permitted set (`VFS_CAP_REVISION_2` and what follows).
    let capability: Vec<u8> =
        [0x0200_0001_u32, 1 << 10, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    rustix::fs::setxattr(&program, CAPABILITY, &capability, XattrFlags::empty()).unwrap();
}

const CAPABILITY: &str = "security.capability";

/// Gives everything the test's owner and a time of its own. Directories after what is in them.
pub(crate) fn settle(path: &Path) {
    let metadata = fs::symlink_metadata(path).unwrap();
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            settle(&entry.unwrap().path());
        }
    }
    let (uid, gid) = OWNER;
    // Another owner, and be it the same, takes it away.
    let mut capability = [0; 64];
    let found = rustix::fs::lgetxattr(path, CAPABILITY, &mut capability[..]).ok();
    rustix::fs::chownat(
        CWD,
        path,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .unwrap();
    if let Some(length) = found {
        rustix::fs::lsetxattr(path, CAPABILITY, &capability[..length], XattrFlags::empty()).unwrap();
    }
    set_mtime(path, 1_600_000_000 + i64::try_from(path.as_os_str().len()).unwrap(), 123_456_789);
}

fn set_mtime(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn odd_times() -> [(&'static str, (i64, i64)); 5] {
    [
        ("before 1970", (-86_400 * 365, 999_999_999)),
        ("the first second", (0, 0)),
        ("round", (1_700_000_000, 500_000_000)),
        ("after 2038", (4_000_000_000, 1)),
        ("just before 1970", (-1, 1)),
    ]
}

fn odd_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        "plain",
        "with space",
        " leading",
        "trailing ",
        "quote\"",
        "apostrophe'",
        "back\\slash",
        "new\nline",
        "tab\t",
        "bell\u{7}",
        "escape\u{1b}",
        "delete\u{7f}",
        "<html>&amp;",
        "umlaut ä",
        "中文",
        "emoji 🦀",
        "-dash",
        "..dots",
        "{brace}",
        "line\u{2028}separator",
        "no\u{a0}break",
        "zero\u{200b}width",
        "bom\u{feff}",
        "private\u{e000}",
        "unassigned\u{378}",
        "nonchar\u{fffe}",
        "tag\u{e0001}",
        "combining e\u{301}",
        "$(rm)",
        "*",
        "?",
        "%41",
    ]
    .map(|name| name.as_bytes().to_vec())
    .to_vec();
    names.extend([
        b"latin \xe4".to_vec(),
        b"\xff".to_vec(),
        b"cut \xe4\xb8".to_vec(),
        b"mixed \xc3\xa4\xc3".to_vec(),
    ]);
    names.push(b"long ".iter().copied().chain([b'x'; 250]).collect());
    names
}

/// Everything that must survive, of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    size: u64,
    /// SHA-256 of a file's content, target of a link, number of a device.
    content: Vec<u8>,
    xattrs: BTreeMap<String, Vec<u8>>,
    /// The first path of the same inode.
    same_as: Option<PathBuf>,
}

impl Facts {
    /// Whether it is a file with other names.
    pub(crate) fn is_linked(&self) -> bool {
        self.same_as.is_some()
    }
}

/// The facts of everything below a directory, by relative path; sockets left out.
pub(crate) fn facts(root: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut all = BTreeMap::new();
    let mut inodes = HashMap::new();
    collect(root, Path::new(""), &mut inodes, &mut all);
    all
}

fn collect(root: &Path, at: &Path, inodes: &mut HashMap<u64, PathBuf>, all: &mut BTreeMap<PathBuf, Facts>) {
    let path = if at.as_os_str().is_empty() { root.to_owned() } else { root.join(at) };
    let metadata = fs::symlink_metadata(&path).unwrap();
    let kind = metadata.file_type();
    let (kind, content) = if kind.is_dir() {
        ("dir", Vec::new())
    } else if kind.is_symlink() {
        ("symlink", fs::read_link(&path).unwrap().into_os_string().into_vec())
    } else if kind.is_file() {
        ("file", Id::hash(&fs::read(&path).unwrap()).as_bytes().to_vec())
    } else if kind.is_fifo() {
        ("fifo", Vec::new())
    } else if kind.is_socket() {
        return;
    } else {
        (if kind.is_block_device() { "block" } else { "char" }, metadata.rdev().to_le_bytes().to_vec())
    };
    let same_as = (metadata.nlink() > 1 && kind == "file")
        .then(|| inodes.entry(metadata.ino()).or_insert_with(|| at.to_owned()).clone());
    let facts = Facts {
        kind,
        mode: if kind == "symlink" { 0 } else { metadata.mode() },
        owner: (metadata.uid(), metadata.gid()),
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        size: if kind == "file" { metadata.len() } else { 0 },
        content,
        xattrs: xattrs(&path),
        same_as,
    };
    all.insert(at.to_owned(), facts);
    if kind == "dir" {
        let mut names: Vec<_> =
            fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            collect(root, &at.join(name), inodes, all);
        }
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| {
            let kept = [&b"user."[..], b"system.posix_acl_", CAPABILITY.as_bytes()];
            kept.iter().any(|kept| name.starts_with(kept))
        })
        .map(|name| {
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            value.truncate(length);
            (String::from_utf8(name.to_vec()).unwrap(), value)
        })
        .collect()
}

/// Fails with the first difference between two directories.
pub(crate) fn assert_same(expected: &Path, found: &Path, what: &str) {
    assert_same_except(expected, found, &[], what);
}

/// As [`assert_same`], without looking at these paths.
pub(crate) fn assert_same_except(expected: &Path, found: &Path, except: &[&str], what: &str) {
    let (mut expected, mut found) = (facts(expected), facts(found));
    for path in except.iter().map(Path::new) {
        assert!(expected.remove(path).is_some() && found.remove(path).is_some(), "{}", path.display());
    }
    for (path, facts) in &expected {
        assert_eq!(Some(facts), found.get(path), "{what}: {}", path.display());
    }
    let extra: Vec<_> = found.keys().filter(|path| !expected.contains_key(*path)).collect();
    assert!(extra.is_empty(), "{what}: {extra:?} should not be there");
}

/// Appends to a file.
pub(crate) fn append(path: &Path, bytes: &[u8]) {
    File::options().append(true).open(path).unwrap().write_all(bytes).unwrap();
}
