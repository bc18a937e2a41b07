//! Zip (PKWARE APPNOTE 6.3.10): entries not compressed, sizes and checksums behind the data, zip64 where a field is too
//! small.
//!
//! What is not compressed is written as deflate's stored blocks (RFC 1951, 3.2.4) and not by the method `stored`: that
//! has no end of its own, so that a reader of a stream has to look for the descriptor behind it, which a file can contain
//! (and Java refuses it). Deflate says where it ends.
//!
//! Written here rather than by a crate for names that are not text, and because an archive that broke off must stay
//! without its directory, which the crate writes when it is dropped.

use std::io::{Result, Write};

use super::{Entry, Writer};
use crate::format::node::{Node, NodeType, go_mode};

/// The file's sizes and checksum follow its data.
const FLAG_DESCRIPTOR: u16 = 1 << 3;
/// The name is UTF-8.
const FLAG_UTF8: u16 = 1 << 11;
/// Methods: nothing to unpack, for what has no data; deflate.
const STORED: u16 = 0;
const DEFLATED: u16 = 8;
/// Most bytes of one stored block of deflate, and of the head of one.
const BLOCK: usize = 65_535;
const BLOCK_HEAD: u64 = 5;
/// Version needed to extract: directories, deflate; zip64.
const VERSION: u16 = 20;
const VERSION_64: u16 = 45;
/// Made on Unix, where the upper half of the external attributes is the mode.
const MADE_ON_UNIX: u16 = 3 << 8;

/// Writes zip.
pub(super) struct ZipWriter<W> {
    out: W,
    offset: u64,
    /// Of the current entry's data, what does not yet fill a block.
    block: Vec<u8>,
    /// The archive's directory so far.
    directory: Vec<u8>,
    entries: u64,
    current: Option<Current>,
    /// From this size, offset or count on a field counts as too small: 2^32-1 and 2^16-1, less in tests.
    limit: (u64, u64),
}

struct Current {
    name: Vec<u8>,
    flags: u16,
    /// Date and time as DOS has them.
    dos: (u16, u16),
    mode: u32,
    directory: bool,
    extra: Vec<u8>,
    offset: u64,
    size: u64,
    crc: crc32fast::Hasher,
    /// The descriptor has fields of eight bytes.
    large: bool,
    seconds: i64,
}

impl Current {
    fn method(&self) -> u16 {
        if self.flags & FLAG_DESCRIPTOR == 0 { STORED } else { DEFLATED }
    }
}

/// Bytes that so many take in stored blocks: full ones, and a last one with what is left, be it nothing.
fn packed(size: u64) -> u64 {
    let blocks = (size / BLOCK as u64).saturating_add(1);
    size.saturating_add(blocks.saturating_mul(BLOCK_HEAD))
}

impl<W: Write> ZipWriter<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            offset: 0,
            block: Vec::with_capacity(BLOCK),
            directory: Vec::new(),
            entries: 0,
            current: None,
            limit: (u64::from(u32::MAX), u64::from(u16::MAX)),
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// One stored block of deflate.
    fn put_block(&mut self, bytes: &[u8], last: bool) -> Result<()> {
        let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
        let [low, high] = length.to_le_bytes();
        self.put(&[u8::from(last), low, high, !low, !high])?;
        self.put(bytes)
    }

    /// The value, or the mark that says it is in the zip64 field.
    fn small(&self, value: u64) -> u32 {
        if value >= self.limit.0 { u32::MAX } else { u32::try_from(value).unwrap_or(u32::MAX) }
    }
}

impl<W: Write> Writer for ZipWriter<W> {
    fn begin(&mut self, name: &[u8], entry: &Entry, _link_to: Option<&[u8]>) -> Result<bool> {
        let node = &entry.node;
        let kind = match node.kind {
            NodeType::File => 0o100_000,
            NodeType::Dir => 0o040_000,
            NodeType::Symlink => 0o120_000,
            _ => return Ok(false),
        };
        let mut name = name.to_vec();
        let directory = node.kind == NodeType::Dir;
        if directory {
            name.push(b'/');
        }
        // A name that long fits no field of the format.
        let Ok(name_length) = u16::try_from(name.len()) else {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                "a path is longer than zip can hold; write a tar instead",
            ));
        };
        let target: &[u8] = if node.kind == NodeType::Symlink { &node.link_target } else { b"" };
        let size = entry.size.max(target.len() as u64);
        let large = packed(size) >= self.limit.0;
        let utf8 = if std::str::from_utf8(&name).is_ok() { FLAG_UTF8 } else { 0 };
        let current = Current {
            flags: utf8 | if directory { 0 } else { FLAG_DESCRIPTOR },
            dos: dos_time(node.mtime.seconds),
            mode: kind | go_mode::to_chmod(node.mode),
            directory,
            extra: extra(node),
            offset: self.offset,
            size: 0,
            crc: crc32fast::Hasher::new(),
            large,
            seconds: node.mtime.seconds,
            name,
        };
        let mut header = Vec::new();
        header.extend_from_slice(b"PK\x03\x04");
        let (time, date) = current.dos;
        let version = if large { VERSION_64 } else { VERSION };
        for field in [version, current.flags, current.method(), time, date] {
            header.extend_from_slice(&field.to_le_bytes());
        }
        // Checksum and sizes: unknown yet. With large files their places are in the zip64 field.
        header.extend_from_slice(&[0; 4]);
        header.extend_from_slice(&if large { [0xff; 8] } else { [0; 8] });
        let mut extra = timestamp(current.seconds);
        extra.extend_from_slice(&current.extra);
        if large {
            extra.extend_from_slice(&[1, 0, 16, 0]);
            extra.extend_from_slice(&[0; 16]);
        }
        header.extend_from_slice(&name_length.to_le_bytes());
        header.extend_from_slice(&u16::try_from(extra.len()).unwrap_or(0).to_le_bytes());
        header.extend_from_slice(&current.name);
        header.extend_from_slice(&extra);
        self.put(&header)?;
        self.current = Some(current);
        if !target.is_empty() {
            self.data(target)?;
        }
        Ok(true)
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(current) = &mut self.current {
            current.crc.update(bytes);
            current.size += bytes.len() as u64;
        }
        let mut rest = bytes;
        while self.block.len() + rest.len() >= BLOCK {
            let (now, later) = rest.split_at(BLOCK - self.block.len());
            rest = later;
            if self.block.is_empty() {
                self.put_block(now, false)?;
            } else {
                self.block.extend_from_slice(now);
                let mut block = std::mem::take(&mut self.block);
                self.put_block(&block, false)?;
                block.clear();
                self.block = block;
            }
        }
        self.block.extend_from_slice(rest);
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let Some(current) = self.current.take() else { return Ok(()) };
        let crc = current.crc.clone().finalize();
        let method = current.method();
        let packed = if method == DEFLATED { packed(current.size) } else { current.size };
        if method == DEFLATED {
            let mut block = std::mem::take(&mut self.block);
            self.put_block(&block, true)?;
            block.clear();
            self.block = block;
            let mut descriptor = b"PK\x07\x08".to_vec();
            descriptor.extend_from_slice(&crc.to_le_bytes());
            for size in [packed, current.size] {
                if current.large {
                    descriptor.extend_from_slice(&size.to_le_bytes());
                } else {
                    descriptor.extend_from_slice(&u32::try_from(size).unwrap_or(0).to_le_bytes());
                }
            }
            self.put(&descriptor)?;
        }
        let mut wide = Vec::new();
        // Each of those alone that its own field cannot hold, in this order.
        for value in [current.size, packed, current.offset] {
            if value >= self.limit.0 {
                wide.extend_from_slice(&value.to_le_bytes());
            }
        }
        let version = if wide.is_empty() { VERSION } else { VERSION_64 };
        let mut extra = timestamp(current.seconds);
        extra.extend_from_slice(&current.extra);
        if !wide.is_empty() {
            extra.extend_from_slice(&1_u16.to_le_bytes());
            extra.extend_from_slice(&u16::try_from(wide.len()).unwrap_or(0).to_le_bytes());
            extra.extend_from_slice(&wide);
        }
        let (time, date) = current.dos;
        let (size, offset) = (self.small(current.size), self.small(current.offset));
        let packed = self.small(packed);
        let entry = &mut self.directory;
        entry.extend_from_slice(b"PK\x01\x02");
        for field in [MADE_ON_UNIX | version, version, current.flags, method, time, date] {
            entry.extend_from_slice(&field.to_le_bytes());
        }
        for field in [crc, packed, size] {
            entry.extend_from_slice(&field.to_le_bytes());
        }
        let lengths = [current.name.len(), extra.len(), 0, 0, 0];
        for field in lengths {
            entry.extend_from_slice(&u16::try_from(field).unwrap_or(0).to_le_bytes());
        }
        // The DOS bit for a directory, beside the mode.
        let attributes = current.mode << 16 | if current.directory { 0x10 } else { 0 };
        for field in [attributes, offset] {
            entry.extend_from_slice(&field.to_le_bytes());
        }
        entry.extend_from_slice(&current.name);
        entry.extend_from_slice(&extra);
        self.entries += 1;
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        let start = self.offset;
        let directory = std::mem::take(&mut self.directory);
        self.put(&directory)?;
        let (size, entries) = (directory.len() as u64, self.entries);
        let end = self.offset;
        if start >= self.limit.0 || size >= self.limit.0 || entries >= self.limit.1 {
            let mut record = b"PK\x06\x06".to_vec();
            record.extend_from_slice(&44_u64.to_le_bytes());
            record.extend_from_slice(&(MADE_ON_UNIX | VERSION_64).to_le_bytes());
            record.extend_from_slice(&VERSION_64.to_le_bytes());
            record.extend_from_slice(&[0; 8]);
            for field in [entries, entries, size, start] {
                record.extend_from_slice(&field.to_le_bytes());
            }
            // Where that record is, on the only disk.
            record.extend_from_slice(b"PK\x06\x07\0\0\0\0");
            record.extend_from_slice(&end.to_le_bytes());
            record.extend_from_slice(&1_u32.to_le_bytes());
            self.put(&record)?;
        }
        let count =
            if entries >= self.limit.1 { u16::MAX } else { u16::try_from(entries).unwrap_or(u16::MAX) };
        let mut record = b"PK\x05\x06\0\0\0\0".to_vec();
        record.extend_from_slice(&count.to_le_bytes());
        record.extend_from_slice(&count.to_le_bytes());
        record.extend_from_slice(&self.small(size).to_le_bytes());
        record.extend_from_slice(&self.small(start).to_le_bytes());
        record.extend_from_slice(&[0; 2]);
        self.put(&record)?;
        self.out.flush()
    }
}

/// Info-ZIP's field for the owner.
fn extra(node: &Node) -> Vec<u8> {
    let mut out = b"ux\x0b\0\x01\x04".to_vec();
    out.extend_from_slice(&node.uid.to_le_bytes());
    out.push(4);
    out.extend_from_slice(&node.gid.to_le_bytes());
    out
}

/// Info-ZIP's field for the time in UTC, where it can hold it.
fn timestamp(seconds: i64) -> Vec<u8> {
    let Ok(seconds) = i32::try_from(seconds) else { return Vec::new() };
    let mut out = b"UT\x05\0\x01".to_vec();
    out.extend_from_slice(&seconds.to_le_bytes());
    out
}

/// Time and date as DOS has them, in UTC: two-second steps from 1980 to 2107, the nearest of these.
fn dos_time(seconds: i64) -> (u16, u16) {
    const FIRST: i64 = 315_532_800;
    const LAST: i64 = 4_354_819_198;
    let at = jiff::Timestamp::from_second(seconds.clamp(FIRST, LAST)).unwrap_or_default();
    let at = at.to_zoned(jiff::tz::TimeZone::UTC);
    let part = |value: i8| u16::try_from(value).unwrap_or(0);
    let year = u16::try_from(at.year().saturating_sub(1980)).unwrap_or(0);
    (
        part(at.hour()) << 11 | part(at.minute()) << 5 | (part(at.second()) / 2),
        year << 9 | part(at.month()) << 5 | part(at.day()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::time::Time;
    use std::process::Command;

    #[test]
    fn dos_times_are_the_nearest() {
        let (hour, minute) = (1 << 11, 1 << 5);
        let (year, month) = (1 << 9, 1 << 5);
        assert_eq!(dos_time(0), (0, month + 1));
        // 2026-11-21 11:18:33
        assert_eq!(dos_time(1_795_259_913), (11 * hour + 18 * minute + 16, 46 * year + 11 * month + 21));
        assert_eq!(dos_time(i64::MAX).1, 127 * year + 12 * month + 31);
    }

    /// Python reads the archive by its directory, checks every checksum, and says names and sizes.
    fn python(archive: &std::path::Path) -> String {
        let script = "import sys, zipfile\nz = zipfile.ZipFile(sys.argv[1])\nassert z.testzip() is None\n\
                      n = [(i.filename, i.file_size) for i in z.infolist()]\nprint(len(n), sum(s for _, s in n))";
        let output = Command::new("python3").args(["-c", script]).arg(archive).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A reader of a stream that trusts nothing but what it meets: the header says deflate, and that says where it ends.
    const STREAM: &str = r#"
import struct, sys, zlib
data = open(sys.argv[1], "rb").read()
names = []
while data[:4] == b"PK\x03\x04":
    flags, method = struct.unpack("<HH", data[6:10])
    name, extra = struct.unpack("<HH", data[26:30])
    names.append(data[30:30 + name].decode())
    data = data[30 + name + extra:]
    assert (flags & 8 != 0) == (method == 8), (flags, method)
    if method == 8:
        inflate = zlib.decompressobj(-15)
        content = inflate.decompress(data) + inflate.flush()
        assert inflate.eof
        packed = len(data) - len(inflate.unused_data)
        data = inflate.unused_data
        said = struct.unpack("<IIII", data[:16])
        assert said == (0x08074b50, zlib.crc32(content), packed, len(content)), said
        data = data[16:]
assert data[:4] == b"PK\x01\x02", data[:4]
print(*names)
"#;

    #[test]
    fn content_that_looks_like_entries_stays_content() {
        let directory = tempfile::tempdir().unwrap();
        let entry = |kind, size| Entry {
            path: "/x".into(),
            node: Node { kind, link_target: b"to".to_vec(), ..Node::default() },
            size,
            link_to: None,
        };
        // An archive with one entry, as content of another.
        let inner = directory.path().join("inner.zip");
        let mut writer = ZipWriter::new(std::fs::File::create(&inner).unwrap());
        assert!(writer.begin(b"smuggled", &entry(NodeType::File, 3), None).unwrap());
        writer.data(b"bad").unwrap();
        writer.end().unwrap();
        writer.finish().unwrap();
        let mut hostile = b"PK\x07\x08\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        hostile.extend(std::fs::read(&inner).unwrap());

        let at = directory.path().join("a.zip");
        let mut writer = ZipWriter::new(std::fs::File::create(&at).unwrap());
        let all = BLOCK as u64;
        for (name, size) in
            [("empty", 0), ("one", 1), ("full", all), ("more", all + 1), ("much", 5 * all + 7)]
        {
            assert!(writer.begin(name.as_bytes(), &entry(NodeType::File, size), None).unwrap());
            let content = vec![b'x'; usize::try_from(size).unwrap()];
            content.chunks(100_000).for_each(|part| writer.data(part).unwrap());
            writer.end().unwrap();
        }
        assert!(writer.begin(b"hostile", &entry(NodeType::File, hostile.len() as u64), None).unwrap());
        hostile.chunks(7).for_each(|part| writer.data(part).unwrap());
        writer.end().unwrap();
        for (name, kind) in [("dir", NodeType::Dir), ("link", NodeType::Symlink)] {
            assert!(writer.begin(name.as_bytes(), &entry(kind, 0), None).unwrap());
            writer.end().unwrap();
        }
        writer.finish().unwrap();
        let streamed = Command::new("python3").args(["-c", STREAM]).arg(&at).output().unwrap();
        assert!(streamed.status.success(), "{}", String::from_utf8_lossy(&streamed.stderr));
        let names = String::from_utf8(streamed.stdout).unwrap();
        assert_eq!(names.trim(), "empty one full more much hostile dir/ link");
        let bytes = 1 + all + all + 1 + 5 * all + 7 + hostile.len() as u64 + 2;
        assert_eq!(python(&at).trim(), format!("8 {bytes}"));
    }

    #[test]
    fn a_size_that_only_its_blocks_make_too_long_is_in_zip64() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("a.zip");
        let mut writer = ZipWriter::new(std::fs::File::create(&at).unwrap());
        writer.limit = (3000, 50);
        for size in [2994, 2995, 2996, 2999, 3000] {
            let entry = Entry { path: "/x".into(), node: Node::default(), size, link_to: None };
            assert!(writer.begin(format!("name {size}").as_bytes(), &entry, None).unwrap());
            writer.data(&vec![b'x'; usize::try_from(size).unwrap()]).unwrap();
            writer.end().unwrap();
        }
        writer.finish().unwrap();
        assert_eq!(python(&at).trim(), format!("5 {}", 2994 + 2995 + 2996 + 2999 + 3000));
    }

    #[test]
    fn fields_that_are_too_small_are_continued_in_zip64() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("a.zip");
        // As if 3,000 bytes and 50 entries were the most that the old fields can hold.
        let mut writer = ZipWriter::new(std::fs::File::create(&at).unwrap());
        writer.limit = (3000, 50);
        for n in 0..60_usize {
            let node = Node { mtime: Time::new(1_700_000_000, 0), mode: 0o644, ..Node::default() };
            let size = if n == 30 { 5000 } else { n };
            let entry = Entry { path: "/x".into(), node, size: size as u64, link_to: None };
            assert!(writer.begin(format!("name {n}").as_bytes(), &entry, None).unwrap());
            writer.data(&vec![b'x'; size]).unwrap();
            writer.end().unwrap();
        }
        writer.finish().unwrap();
        assert_eq!(python(&at).trim(), format!("60 {}", (0..60).sum::<usize>() - 30 + 5000));
    }
}
