//! A node: one entry of a directory, as trees store it.
//!
//! Not here: where nodes come from (`pipeline::walk`) and how they are put back (`restore`).

use serde::{Deserialize, Deserializer, Serialize};

use super::gojson;
use super::time::Time;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;

/// Kinds of node. Sockets are never backed up but may be met in old trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum NodeType {
    /// A regular file.
    #[default]
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A block device.
    Dev,
    /// A character device.
    CharDev,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// Anything else a file system may hold.
    Irregular,
}

impl NodeType {
    /// The format's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "dir",
            Self::Symlink => "symlink",
            Self::Dev => "dev",
            Self::CharDev => "chardev",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::Irregular => "irregular",
        }
    }

    /// The type that `st_mode` says.
    pub fn from_st_mode(st_mode: u32) -> Self {
        match st_mode & 0o170_000 {
            0o100_000 => Self::File,
            0o040_000 => Self::Dir,
            0o120_000 => Self::Symlink,
            0o060_000 => Self::Dev,
            0o020_000 => Self::CharDev,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            _ => Self::Irregular,
        }
    }
}

/// Bits of Go's `os.FileMode`, in which the format keeps modes.
pub mod go_mode {
    /// Directory.
    pub const DIR: u32 = 1 << 31;
    /// Symbolic link.
    pub const SYMLINK: u32 = 1 << 27;
    /// Block device, or character device together with [`CHAR_DEVICE`].
    pub const DEVICE: u32 = 1 << 26;
    /// Named pipe.
    pub const NAMED_PIPE: u32 = 1 << 25;
    /// Socket.
    pub const SOCKET: u32 = 1 << 24;
    /// Set user id.
    pub const SETUID: u32 = 1 << 23;
    /// Set group id.
    pub const SETGID: u32 = 1 << 22;
    /// Character device.
    pub const CHAR_DEVICE: u32 = 1 << 21;
    /// Sticky.
    pub const STICKY: u32 = 1 << 20;
    /// Anything else.
    pub const IRREGULAR: u32 = 1 << 19;
    /// Permissions.
    pub const PERM: u32 = 0o777;

    /// From the kernel's `st_mode`.
    pub fn from_st_mode(st_mode: u32) -> u32 {
        let mut mode = st_mode & PERM;
        mode |= match st_mode & 0o170_000 {
            0o100_000 => 0,
            0o040_000 => DIR,
            0o120_000 => SYMLINK,
            0o060_000 => DEVICE,
            0o020_000 => DEVICE | CHAR_DEVICE,
            0o010_000 => NAMED_PIPE,
            0o140_000 => SOCKET,
            _ => IRREGULAR,
        };
        for (kernel, go) in [(0o4000, SETUID), (0o2000, SETGID), (0o1000, STICKY)] {
            if st_mode & kernel != 0 {
                mode |= go;
            }
        }
        mode
    }

    /// Permissions with setuid, setgid and sticky as `chmod` takes them (`0o7777` at most).
    pub fn to_chmod(mode: u32) -> u32 {
        let mut bits = mode & PERM;
        for (kernel, go) in [(0o4000, SETUID), (0o2000, SETGID), (0o1000, STICKY)] {
            if mode & go != 0 {
                bits |= kernel;
            }
        }
        bits
    }
}

/// One extended attribute. POSIX ACLs are attributes too (`system.posix_acl_access`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xattr {
    /// Its name, e.g. `user.comment`.
    pub name: String,
    /// Its value.
    pub value: Vec<u8>,
}

/// One entry of a directory. Names and link targets are raw bytes, as the kernel has them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// File name; never a path.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: NodeType,
    /// Go's `os.FileMode` (see [`go_mode`]).
    pub mode: u32,
    /// Last change of the content.
    pub mtime: Time,
    /// Last access; the writer puts mtime here unless asked otherwise.
    pub atime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Owner's name; empty in what we write.
    pub user: String,
    /// Group's name; empty in what we write.
    pub group: String,
    /// Inode number.
    pub inode: u64,
    /// Device the file lies on; 0 unless it has several hard links.
    pub device_id: u64,
    /// Bytes of content, files only.
    pub size: u64,
    /// Number of hard links: files, symlinks, devices.
    pub links: u64,
    /// Target of a symbolic link.
    pub link_target: Vec<u8>,
    /// Extended attributes in the kernel's order.
    pub xattrs: Vec<Xattr>,
    /// `st_rdev` of a device.
    pub device: u64,
    /// Chunks of a file in order: `Some` (maybe empty) for files, `None` for all else.
    pub content: Option<Vec<Id>>,
    /// Tree of a directory.
    pub subtree: Option<Id>,
    /// What went wrong when it was read.
    pub error: String,
}

impl Node {
    /// Appends the node's JSON: the bytes restic writes for it.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"name\":");
        gojson::write_name(out, &self.name);
        out.extend_from_slice(b",\"type\":\"");
        out.extend_from_slice(self.kind.as_str().as_bytes());
        out.push(b'"');
        write_number(out, "mode", u64::from(self.mode));
        for (key, time) in [("mtime", self.mtime), ("atime", self.atime), ("ctime", self.ctime)] {
            write_key(out, key);
            out.push(b'"');
            time.write(out);
            out.push(b'"');
        }
        for (key, number) in [("uid", self.uid), ("gid", self.gid)] {
            write_key(out, key);
            push_decimal(out, u64::from(number));
        }
        write_text(out, "user", self.user.as_bytes());
        write_text(out, "group", self.group.as_bytes());
        write_number(out, "inode", self.inode);
        write_number(out, "device_id", self.device_id);
        write_number(out, "size", self.size);
        write_number(out, "links", self.links);
        write_text(out, "linktarget", &self.link_target);
        if std::str::from_utf8(&self.link_target).is_err() {
            write_key(out, "linktarget_raw");
            write_base64(out, &self.link_target);
        }
        self.write_xattrs(out);
        write_number(out, "device", self.device);
        write_key(out, "content");
        match &self.content {
            None => out.extend_from_slice(b"null"),
            Some(ids) => {
                out.push(b'[');
                for (i, id) in ids.iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    write_id(out, id);
                }
                out.push(b']');
            }
        }
        if let Some(id) = &self.subtree {
            write_key(out, "subtree");
            write_id(out, id);
        }
        write_text(out, "error", self.error.as_bytes());
        out.push(b'}');
    }

    fn write_xattrs(&self, out: &mut Vec<u8>) {
        if self.xattrs.is_empty() {
            return;
        }
        write_key(out, "extended_attributes");
        out.push(b'[');
        for (i, xattr) in self.xattrs.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.extend_from_slice(b"{\"name\":");
            gojson::write_string(out, xattr.name.as_bytes());
            out.extend_from_slice(b",\"value\":");
            write_base64(out, &xattr.value);
            out.push(b'}');
        }
        out.push(b']');
    }
}

fn write_key(out: &mut Vec<u8>, key: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

/// A number, left out when zero.
fn write_number(out: &mut Vec<u8>, key: &str, value: u64) {
    if value != 0 {
        write_key(out, key);
        push_decimal(out, value);
    }
}

/// A string, left out when empty.
fn write_text(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    if !value.is_empty() {
        write_key(out, key);
        gojson::write_string(out, value);
    }
}

fn write_id(out: &mut Vec<u8>, id: &Id) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + 64, 0);
    if let Some(place) = out.get_mut(start..) {
        data_encoding::HEXLOWER.encode_mut(id.as_bytes(), place);
    }
    out.push(b'"');
}

fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(data_encoding::BASE64.encode(bytes).as_bytes());
    out.push(b'"');
}

fn push_decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0_u8; 20];
    let mut used = 0;
    for place in digits.iter_mut().rev() {
        *place = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
        used += 1;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let stored = Stored::deserialize(deserializer)?;
        stored.try_into().map_err(serde::de::Error::custom)
    }
}

/// The node's JSON as it is read; unknown fields (Windows attributes, newer clients) are passed over.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Stored {
    name: String,
    #[serde(rename = "type")]
    kind: Option<NodeType>,
    mode: u32,
    mtime: Time,
    atime: Time,
    ctime: Time,
    uid: u32,
    gid: u32,
    user: String,
    group: String,
    inode: u64,
    device_id: u64,
    size: u64,
    links: u64,
    linktarget: String,
    linktarget_raw: Option<String>,
    extended_attributes: Option<Vec<StoredXattr>>,
    device: u64,
    content: Option<Vec<Id>>,
    subtree: Option<Id>,
    error: String,
}

#[derive(Deserialize)]
struct StoredXattr {
    name: String,
    /// `null` and absent both mean empty: Go writes `null` for an empty slice that was never made.
    #[serde(default)]
    value: Option<String>,
}

impl TryFrom<Stored> for Node {
    type Error = Error;

    fn try_from(stored: Stored) -> Result<Self> {
        let kind = stored
            .kind
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("node {:?} has no type", stored.name)))?;
        let link_target = match stored.linktarget_raw {
            Some(raw) if !raw.is_empty() => decode_base64(&raw)?,
            _ => stored.linktarget.into_bytes(),
        };
        let xattrs = stored
            .extended_attributes
            .unwrap_or_default()
            .into_iter()
            .map(|x| Ok(Xattr { name: x.name, value: decode_base64(&x.value.unwrap_or_default())? }))
            .collect::<Result<_>>()?;
        Ok(Self {
            name: gojson::unquote(&stored.name)?,
            kind,
            mode: stored.mode,
            mtime: stored.mtime,
            atime: stored.atime,
            ctime: stored.ctime,
            uid: stored.uid,
            gid: stored.gid,
            user: stored.user,
            group: stored.group,
            inode: stored.inode,
            device_id: stored.device_id,
            size: stored.size,
            links: stored.links,
            link_target,
            xattrs,
            device: stored.device,
            content: stored.content,
            subtree: stored.subtree,
            error: stored.error,
        })
    }
}

fn decode_base64(text: &str) -> Result<Vec<u8>> {
    data_encoding::BASE64
        .decode(text.as_bytes())
        .map_err(|e| Error::with_source(ErrorKind::Corrupt, "a node holds bytes that are not base64", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(node: &Node) -> String {
        let mut out = Vec::new();
        node.write_json(&mut out);
        String::from_utf8(out).unwrap()
    }

    /// A node with every field set, and its JSON in the order and form restic 0.19 writes.
    fn full() -> (Node, &'static str) {
        let node = Node {
            name: b"caf\xc3\xa9 \"1\"".to_vec(),
            kind: NodeType::File,
            mode: 0o644 | go_mode::SETUID,
            mtime: Time::new(1_700_000_000, 5),
            atime: Time::new(1_700_000_001, 0),
            ctime: Time::new(-1, 500_000_000),
            uid: 1000,
            gid: 0,
            user: "me".into(),
            group: "us".into(),
            inode: u64::MAX,
            device_id: 66_305,
            size: 9,
            links: 2,
            link_target: vec![0xff, b'/'],
            xattrs: vec![
                Xattr { name: "user.a".into(), value: b"1".to_vec() },
                Xattr { name: "user.b".into(), value: Vec::new() },
            ],
            device: 7,
            content: Some(vec![Id::from_bytes([0xab; 32])]),
            subtree: Some(Id::from_bytes([1; 32])),
            error: "<oops>".into(),
        };
        let json = concat!(
            r#"{"name":"café \\\"1\\\"","type":"file","mode":8389028,"#,
            r#""mtime":"2023-11-14T22:13:20.000000005Z","atime":"2023-11-14T22:13:21Z","ctime":"1969-12-31T23:59:59.5Z","#,
            r#""uid":1000,"gid":0,"user":"me","group":"us","inode":18446744073709551615,"device_id":66305,"size":9,"#,
            r#""links":2,"linktarget":"\ufffd/","linktarget_raw":"/y8=","#,
            r#""extended_attributes":[{"name":"user.a","value":"MQ=="},{"name":"user.b","value":""}],"device":7,"#,
            r#""content":["abababababababababababababababababababababababababababababababab"],"#,
            r#""subtree":"0101010101010101010101010101010101010101010101010101010101010101","error":"\u003coops\u003e"}"#,
        );
        (node, json)
    }

    #[test]
    fn the_order_and_form_of_fields_is_restics() {
        let (node, expected) = full();
        assert_eq!(json(&node), expected);
        assert_eq!(serde_json::from_str::<Node>(expected).unwrap(), node);
        let empty = Node { name: b"e".to_vec(), content: Some(Vec::new()), ..Node::default() };
        assert_eq!(
            json(&empty),
            concat!(
                r#"{"name":"e","type":"file","mtime":"1970-01-01T00:00:00Z","atime":"1970-01-01T00:00:00Z","#,
                r#""ctime":"1970-01-01T00:00:00Z","uid":0,"gid":0,"content":[]}"#
            )
        );
    }

    #[test]
    fn what_other_clients_write_is_read() {
        let node: Node = serde_json::from_str(
            r#"{"name":"C:","type":"dir","mode":2147484096,"mtime":"2020-01-01T00:00:00+02:00","uid":0,"gid":0,
            "generic_attributes":{"windows.x":1},"extended_attributes":[{"name":"n","value":null}],"content":null,"new":[1]}"#,
        )
        .unwrap();
        assert_eq!(node.mtime, Time::new(1_577_829_600, 0));
        assert_eq!(node.xattrs, [Xattr { name: "n".into(), value: Vec::new() }]);
        assert_eq!(node.content, None);
        assert!(serde_json::from_str::<Node>(r#"{"name":"x"}"#).is_err(), "a node without a type");
        assert!(
            serde_json::from_str::<Node>(r#"{"name":"a\"b","type":"file"}"#).is_err(),
            "an unquoted quote"
        );
    }

    #[test]
    fn modes_convert_both_ways() {
        for (kernel, go, kind) in [
            (0o100_644, 0o644, NodeType::File),
            (0o104_755, 0o755 | go_mode::SETUID, NodeType::File),
            (0o041_777, 0o777 | go_mode::DIR | go_mode::STICKY, NodeType::Dir),
            (0o042_750, 0o750 | go_mode::DIR | go_mode::SETGID, NodeType::Dir),
            (0o120_777, 0o777 | go_mode::SYMLINK, NodeType::Symlink),
            (0o060_660, 0o660 | go_mode::DEVICE, NodeType::Dev),
            (0o020_666, 0o666 | go_mode::DEVICE | go_mode::CHAR_DEVICE, NodeType::CharDev),
            (0o010_600, 0o600 | go_mode::NAMED_PIPE, NodeType::Fifo),
            (0o140_755, 0o755 | go_mode::SOCKET, NodeType::Socket),
        ] {
            assert_eq!(go_mode::from_st_mode(kernel), go, "{kernel:o}");
            assert_eq!(go_mode::to_chmod(go), kernel & 0o7777, "{kernel:o}");
            assert_eq!(NodeType::from_st_mode(kernel), kind);
        }
    }
}
