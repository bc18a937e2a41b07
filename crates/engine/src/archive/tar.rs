//! POSIX tar (IEEE Std 1003.1, "pax Interchange Format"): ustar headers, with PAX records for what they cannot hold.
//!
//! Written here rather than by a crate because an archive that broke off must stay without its end, which the crates
//! write when they are dropped.

use std::io::{Result, Write};

use super::{Entry, Writer};
use crate::format::node::{Node, NodeType, go_mode};
use crate::format::time::Time;

const BLOCK: usize = 512;
/// The largest number that a field of 12 bytes holds in octal.
const MAX_12: u64 = 0o777_7777_7777;
/// The largest number that a field of 8 bytes holds in octal.
const MAX_8: u64 = 0o777_7777;

/// Writes tar.
pub(super) struct TarWriter<W> {
    out: W,
    /// Bytes of the entry's content so far.
    written: u64,
}

impl<W: Write> TarWriter<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, written: 0 }
    }

    fn pad(&mut self, length: u64) -> Result<()> {
        let over = usize::try_from(length % BLOCK as u64).unwrap_or(0);
        let missing = (BLOCK - over) % BLOCK;
        self.out.write_all([0; BLOCK].get(..missing).unwrap_or_default())
    }
}

impl<W: Write> Writer for TarWriter<W> {
    fn begin(&mut self, name: &[u8], entry: &Entry, link_to: Option<&[u8]>) -> Result<bool> {
        let node = &entry.node;
        let kind = match (node.kind, link_to) {
            (NodeType::File, Some(_)) => b'1',
            (NodeType::File, None) => b'0',
            (NodeType::Symlink, _) => b'2',
            (NodeType::CharDev, _) => b'3',
            (NodeType::Dev, _) => b'4',
            (NodeType::Dir, _) => b'5',
            (NodeType::Fifo, _) => b'6',
            (NodeType::Socket | NodeType::Irregular, _) => return Ok(false),
        };
        let mut name = name.to_vec();
        if node.kind == NodeType::Dir {
            name.push(b'/');
        }
        let link: &[u8] = match node.kind {
            NodeType::Symlink => &node.link_target,
            _ => link_to.unwrap_or_default(),
        };
        let records = records(&name, link, entry);
        if !records.is_empty() {
            let mut header = Header::new(b'x', b"PaxHeaders/entry", records.len() as u64);
            header.number(100, 8, 0o644);
            self.out.write_all(&header.finish())?;
            self.out.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        let mut header = Header::new(kind, &name, entry.size);
        header.number(100, 8, u64::from(go_mode::to_chmod(node.mode)));
        header.number(108, 8, u64::from(node.uid));
        header.number(116, 8, u64::from(node.gid));
        header.number(136, 12, u64::try_from(node.mtime.seconds).unwrap_or(0));
        header.text(157, 100, link);
        header.text(265, 31, node.user.as_bytes());
        header.text(297, 31, node.group.as_bytes());
        if matches!(node.kind, NodeType::Dev | NodeType::CharDev) {
            header.number(329, 8, u64::from(rustix::fs::major(node.device)));
            header.number(337, 8, u64::from(rustix::fs::minor(node.device)));
        }
        self.out.write_all(&header.finish())?;
        self.written = 0;
        Ok(true)
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn end(&mut self) -> Result<()> {
        self.pad(self.written)
    }

    fn finish(mut self) -> Result<()> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()
    }
}

/// One ustar header.
struct Header([u8; BLOCK]);

impl Header {
    fn new(kind: u8, name: &[u8], size: u64) -> Self {
        let mut header = Self([0; BLOCK]);
        header.text(0, 100, name);
        header.number(124, 12, size);
        header.text(156, 1, &[kind]);
        header.text(257, 8, b"ustar\x0000");
        header
    }

    fn text(&mut self, at: usize, room: usize, text: &[u8]) {
        let field = self.0.get_mut(at..at + room).unwrap_or_default();
        for (place, byte) in field.iter_mut().zip(text) {
            *place = *byte;
        }
    }

    /// An octal number with its final NUL; too large ones are in a PAX record, and 0 here.
    fn number(&mut self, at: usize, room: usize, value: u64) {
        let max = if room == 12 { MAX_12 } else { MAX_8 };
        let value = if value > max { 0 } else { value };
        let digits = format!("{value:0width$o}", width = room - 1);
        self.text(at, room - 1, digits.as_bytes());
    }

    fn finish(mut self) -> [u8; BLOCK] {
        self.text(148, 8, b"        ");
        let sum: u64 = self.0.iter().map(|b| u64::from(*b)).sum();
        self.text(148, 8, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

/// The PAX records that an entry needs; empty when the header can hold all.
fn records(name: &[u8], link: &[u8], entry: &Entry) -> Vec<u8> {
    let Node { uid, gid, mtime, user, group, xattrs, .. } = &entry.node;
    let mut out = Vec::new();
    if name.len() > 100 {
        record(&mut out, b"path", name);
    }
    if link.len() > 100 {
        record(&mut out, b"linkpath", link);
    }
    if entry.size > MAX_12 {
        record(&mut out, b"size", entry.size.to_string().as_bytes());
    }
    for (key, id) in [(&b"uid"[..], uid), (b"gid", gid)] {
        if u64::from(*id) > MAX_8 {
            record(&mut out, key, id.to_string().as_bytes());
        }
    }
    for (key, name) in [(&b"uname"[..], user), (b"gname", group)] {
        if name.len() > 31 {
            record(&mut out, key, name.as_bytes());
        }
    }
    let plain = u64::try_from(mtime.seconds).is_ok_and(|seconds| seconds <= MAX_12);
    if mtime.nanos != 0 || !plain {
        record(&mut out, b"mtime", decimal(*mtime).as_bytes());
    }
    for xattr in xattrs {
        record(&mut out, &[b"SCHILY.xattr.", &keyword(xattr.name.as_bytes())[..]].concat(), &xattr.value);
    }
    out
}

/// A name as it may stand in a record's key, which ends at the first equals sign. GNU tar writes and reads it so
/// (`xattr_encode_keyword`).
fn keyword(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    for byte in name {
        match byte {
            b'%' => out.extend_from_slice(b"%25"),
            b'=' => out.extend_from_slice(b"%3D"),
            other => out.push(*other),
        }
    }
    out
}

/// `<length> <key>=<value>\n`, where the length counts itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // Space, equals sign, line feed.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    length = rest + length.to_string().len();
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Seconds with a fraction; before 1970 the fraction counts back from zero.
fn decimal(time: Time) -> String {
    let Time { seconds, nanos } = time;
    if nanos == 0 {
        return seconds.to_string();
    }
    if seconds >= 0 {
        return format!("{seconds}.{nanos:09}");
    }
    let whole = seconds.saturating_add(1).unsigned_abs();
    format!("-{whole}.{:09}", 1_000_000_000_u32.saturating_sub(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::node::Xattr;

    #[test]
    fn a_record_counts_its_own_length() {
        for (value, begin) in [(1, "8 k=v\n".len()), (93, 99), (94, 101), (990, 998)] {
            let mut out = Vec::new();
            record(&mut out, b"k", &vec![b'v'; value]);
            let said: usize = std::str::from_utf8(&out).unwrap().split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, out.len(), "{value}, {begin}");
        }
    }

    #[test]
    fn a_name_in_a_key_keeps_its_equals_signs() {
        let xattr = Xattr { name: "user.a=b%c".into(), value: b"d=e%f".to_vec() };
        let node = Node { xattrs: vec![xattr], ..Node::default() };
        let entry = Entry { path: "/a".into(), node, size: 0, link_to: None };
        let records = records(b"a", b"", &entry);
        let text = String::from_utf8(records).unwrap();
        assert!(text.ends_with(" SCHILY.xattr.user.a%3Db%25c=d=e%f\n"), "{text}");
    }

    #[test]
    fn times_before_1970_count_back() {
        assert_eq!(decimal(Time::new(-1, 1)), "-0.999999999");
        assert_eq!(decimal(Time::new(-2, 500_000_000)), "-1.500000000");
        assert_eq!(decimal(Time::new(5, 7)), "5.000000007");
        assert_eq!(decimal(Time::new(-7, 0)), "-7");
    }

    #[test]
    fn a_writer_that_is_dropped_ends_nothing() {
        let mut out = Vec::new();
        {
            let mut writer = TarWriter::new(&mut out);
            let entry = Entry { path: "/a".into(), node: Node::default(), size: 3, link_to: None };
            assert!(writer.begin(b"a", &entry, None).unwrap());
            writer.data(b"abc").unwrap();
        }
        assert_eq!(out.len(), BLOCK + 3);
    }
}
