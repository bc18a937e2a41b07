//! JSON strings exactly as Go's `encoding/json` and `strconv.Quote` write them.
//!
//! A tree's id is the digest of its JSON, so one differently written character would end deduplication
//! between clients. Not here: the order of fields (see `node`).

use super::goprint::is_print;
use crate::error::{Error, ErrorKind, Result};

const HEX: [u8; 16] = *b"0123456789abcdef";

fn hex(value: u32) -> u8 {
    HEX.get((value & 15) as usize).copied().unwrap_or(b'0')
}

/// Appends `text` as a JSON string with quotes, as `encoding/json` does with HTML escaping on: `<`, `>`, `&`,
/// U+2028 and U+2029 escaped, each byte of invalid UTF-8 replaced by `\ufffd`.
pub fn write_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    write_escaped(out, text);
    out.push(b'"');
}

fn write_escaped(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            write_char(out, c);
        }
        // Go decodes one byte at a time when a sequence is invalid, and writes one replacement for each.
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

fn write_char(out: &mut Vec<u8>, c: char) {
    match c {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\u{8}' => out.extend_from_slice(b"\\b"),
        '\u{c}' => out.extend_from_slice(b"\\f"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        '<' | '>' | '&' | '\0'..='\x1f' | '\u{2028}' | '\u{2029}' => {
            let code = u32::from(c);
            out.extend_from_slice(&[b'\\', b'u', hex(code >> 12), hex(code >> 8), hex(code >> 4), hex(code)]);
        }
        _ => {
            let mut buffer = [0; 4];
            out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
        }
    }
}

/// Appends a file name as a JSON string: `strconv.Quote` first (without its outer quotes), then JSON.
pub fn write_name(out: &mut Vec<u8>, name: &[u8]) {
    out.push(b'"');
    if name.iter().all(|b| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\' | b'<' | b'>' | b'&')) {
        out.extend_from_slice(name);
    } else {
        let mut quoted = Vec::with_capacity(name.len() + 16);
        quote(&mut quoted, name);
        write_escaped(out, &quoted);
    }
    out.push(b'"');
}

/// Appends `text` as `strconv.Quote` writes it, without the outer quotes.
pub fn quote(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            quote_char(out, c);
        }
        for &byte in chunk.invalid() {
            let code = u32::from(byte);
            out.extend_from_slice(&[b'\\', b'x', hex(code >> 4), hex(code)]);
        }
    }
}

fn quote_char(out: &mut Vec<u8>, c: char) {
    match c {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\u{7}' => out.extend_from_slice(b"\\a"),
        '\u{8}' => out.extend_from_slice(b"\\b"),
        '\u{c}' => out.extend_from_slice(b"\\f"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        '\u{b}' => out.extend_from_slice(b"\\v"),
        c if is_print(c) => {
            let mut buffer = [0; 4];
            out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
        }
        c => {
            let code = u32::from(c);
            let (letter, digits) = match code {
                0..=0x1f | 0x7f => (b'x', 2),
                0..=0xffff => (b'u', 4),
                _ => (b'U', 8),
            };
            out.extend_from_slice(&[b'\\', letter]);
            for place in (0..digits).rev() {
                out.push(hex(code >> (4 * place)));
            }
        }
    }
}

/// Undoes [`quote`]: accepts every escape Go's `strconv.Unquote` knows in a double-quoted string, octal too.
pub fn unquote(text: &str) -> Result<Vec<u8>> {
    if !text.bytes().any(|b| matches!(b, b'\\' | b'"' | b'\n')) {
        return Ok(text.as_bytes().to_vec());
    }
    unquote_parts(text)
        .ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("{text:?} is not a quoted file name")))
}

fn unquote_parts(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '"' | '\n' => return None,
            '\\' => {}
            c => {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
        }
        let byte = match rest.next()? {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            '\\' => b'\\',
            '"' => b'"',
            'x' => u8::try_from(code(&mut rest, 2, 16)?).ok()?,
            first @ '0'..='7' => {
                let high = first.to_digit(8)?;
                u8::try_from(high * 64 + code(&mut rest, 2, 8)?).ok()?
            }
            letter @ ('u' | 'U') => {
                let value = code(&mut rest, if letter == 'u' { 4 } else { 8 }, 16)?;
                out.extend_from_slice(char::from_u32(value)?.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            _ => return None,
        };
        out.push(byte);
    }
    Some(out)
}

fn code(rest: &mut std::str::Chars<'_>, digits: u32, radix: u32) -> Option<u32> {
    (0..digits).try_fold(0_u32, |sum, _| {
        let digit = rest.next()?.to_digit(radix)?;
        sum.checked_mul(radix)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;

    fn json(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_string(&mut out, text);
        out
    }

    fn quote_alone(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        quote(&mut out, text);
        out
    }

    /// The digests were made with Go 1.26 over the same inputs: `strconv.Quote` without its outer quotes, and
    /// `json.Marshal`, each followed by a newline.
    #[test]
    fn every_code_point_is_written_as_go_writes_it() {
        let (mut quotes, mut strings) = (Vec::new(), Vec::new());
        for c in (0..0x11_0000).filter_map(char::from_u32) {
            let mut buffer = [0; 4];
            let text = c.encode_utf8(&mut buffer).as_bytes();
            let escaped = quote_alone(text);
            assert_eq!(unquote(std::str::from_utf8(&escaped).unwrap()).unwrap(), text);
            quotes.extend(escaped);
            quotes.push(b'\n');
            strings.extend(json(text));
            strings.push(b'\n');
        }
        assert_eq!(
            Id::hash(&quotes).to_hex(),
            "83628445c4a4459fe91146eea9882b0e98023c37a86bbb08e1c5d57fdff6a70a"
        );
        assert_eq!(
            Id::hash(&strings).to_hex(),
            "8cc3f3082efcb813aef0c6ff4a7876a16da11eca2687ff36b185cee6c22b719a"
        );
    }

    /// As above, over every pair of bytes followed by a cut-off sequence.
    #[test]
    fn invalid_utf8_is_written_as_go_writes_it() {
        let (mut quotes, mut strings) = (Vec::new(), Vec::new());
        for a in 0..=255_u8 {
            for b in 0..=255_u8 {
                let text = [a, b, 0xe2, 0x82, b'x'];
                let escaped = quote_alone(&text);
                assert_eq!(unquote(std::str::from_utf8(&escaped).unwrap()).unwrap(), text);
                quotes.extend(escaped);
                quotes.push(b'\n');
                strings.extend(json(&text));
                strings.push(b'\n');
            }
        }
        assert_eq!(
            Id::hash(&quotes).to_hex(),
            "adb899a387bf5a74f278477efbc2813172968b200f672834ee24e59dde88fe3f"
        );
        assert_eq!(
            Id::hash(&strings).to_hex(),
            "f20e7d89e00a2932b2c6ada69ff1921a00af21a44296631b8ebe81036dcac971"
        );
    }

    #[test]
    fn names_are_quoted_first_and_escaped_second() {
        let mut out = Vec::new();
        write_name(&mut out, b"a\"b\\c<\n\xff");
        assert_eq!(out, br#""a\\\"b\\\\c\u003c\\n\\xff""#);
        out.clear();
        write_name(&mut out, "plain näme".as_bytes());
        assert_eq!(out, "\"plain näme\"".as_bytes());
    }

    #[test]
    fn unquote_knows_gos_escapes_and_refuses_the_rest() {
        assert_eq!(
            unquote(r#"\a\b\f\n\r\t\v\\\"\x41\101\u00e4\U0001F600"#).unwrap(),
            "\u{7}\u{8}\u{c}\n\r\t\u{b}\\\"AAä\u{1F600}".as_bytes()
        );
        assert_eq!(unquote(r"\xff\377").unwrap(), [0xff, 0xff]);
        for bad in
            ["\\", "\\x4", "\\xg0", "\\u12", "\\ud800", "\\U00110000", "\\400", "\\z", "\\'", "a\"b", "a\nb"]
        {
            assert!(unquote(bad).is_err(), "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_name_comes_back(name in proptest::collection::vec(proptest::num::u8::ANY, 0..40)) {
            let mut out = Vec::new();
            write_name(&mut out, &name);
            let stored: String = serde_json::from_slice(&out).unwrap();
            proptest::prop_assert_eq!(unquote(&stored).unwrap(), name);
        }
    }
}
