//! JSON read piece by piece from a stream, for documents too large to be held: nothing of them is kept but the
//! string that is being looked at.
//!
//! Checks the syntax of everything it passes, also of what it skips. Not here: what the keys mean.

use std::io::{ErrorKind as IoKind, Read};

use crate::error::{Error, ErrorKind, Result};

/// Bytes read at a time.
const BUFFER: usize = 32 << 10;
/// The longest string that is looked at; one that is skipped may have any length.
const MAX_STRING: usize = 64 << 10;
/// Values nested deeper than this are refused.
const MAX_DEPTH: usize = 128;

/// A pull parser.
pub(crate) struct JsonReader<R> {
    input: R,
    buffer: Vec<u8>,
    at: usize,
    text: Vec<u8>,
}

fn malformed(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("not the JSON that belongs here: {what}"))
}

impl<R: Read> JsonReader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, buffer: Vec::new(), at: 0, text: Vec::new() }
    }

    /// The next byte, if there is one; not taken.
    fn look(&mut self) -> Result<Option<u8>> {
        if let Some(byte) = self.buffer.get(self.at) {
            return Ok(Some(*byte));
        }
        self.at = 0;
        self.buffer.resize(BUFFER, 0);
        let read = loop {
            match self.input.read(&mut self.buffer) {
                Err(e) if e.kind() == IoKind::Interrupted => {}
                other => break other,
            }
        };
        let read =
            read.map_err(|e| Error::with_source(ErrorKind::Corrupt, "a compressed file is damaged", e))?;
        self.buffer.truncate(read);
        Ok(self.buffer.first().copied())
    }

    fn take(&mut self) -> Result<u8> {
        let byte = self.look()?.ok_or_else(|| malformed("it ends in its middle"))?;
        self.at = self.at.saturating_add(1);
        Ok(byte)
    }

    /// The first byte of what comes after any white space; not taken.
    fn peek(&mut self) -> Result<u8> {
        loop {
            match self.look()? {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at = self.at.saturating_add(1),
                Some(byte) => return Ok(byte),
                None => return Err(malformed("it ends in its middle")),
            }
        }
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        let found = self.peek()?;
        if found != byte {
            return Err(malformed(&format!("{:?} where {:?} belongs", char::from(found), char::from(byte))));
        }
        self.at = self.at.saturating_add(1);
        Ok(())
    }

    fn word(&mut self, word: &[u8]) -> Result<()> {
        for byte in word {
            if self.take()? != *byte {
                return Err(malformed("an unknown word"));
            }
        }
        Ok(())
    }

    /// Enters an object or a list; false when there is `null` instead.
    fn enter_or_null(&mut self, open: u8) -> Result<bool> {
        if self.peek()? == b'n' {
            self.word(b"null")?;
            return Ok(false);
        }
        self.expect(open)?;
        Ok(true)
    }

    /// Goes on to the next member of what is closed by `close`; false at its end.
    fn next(&mut self, first: bool, close: u8) -> Result<bool> {
        if self.peek()? == close {
            self.at = self.at.saturating_add(1);
            return Ok(false);
        }
        if !first {
            self.expect(b',')?;
        }
        Ok(true)
    }

    /// Reads an object. `name` turns each key into something that needs no borrowing; `member` must read or skip
    /// the value.
    pub(crate) fn object<K>(
        &mut self,
        name: impl Fn(&[u8]) -> K,
        mut member: impl FnMut(&mut Self, K) -> Result<()>,
    ) -> Result<()> {
        self.expect(b'{')?;
        let mut first = true;
        while self.next(first, b'}')? {
            first = false;
            let key = name(self.string()?);
            self.expect(b':')?;
            member(self, key)?;
        }
        Ok(())
    }

    /// Reads a list; `null` is an empty one. `item` must read or skip the value.
    pub(crate) fn list(&mut self, mut item: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        if !self.enter_or_null(b'[')? {
            return Ok(());
        }
        let mut first = true;
        while self.next(first, b']')? {
            first = false;
            item(self)?;
        }
        Ok(())
    }

    /// A string, with its escapes resolved.
    pub(crate) fn string(&mut self) -> Result<&[u8]> {
        self.expect(b'"')?;
        self.text.clear();
        self.rest_of_string(true)?;
        Ok(&self.text)
    }

    fn rest_of_string(&mut self, keep: bool) -> Result<()> {
        loop {
            self.look()?;
            let rest = self.buffer.get(self.at..).unwrap_or_default();
            let plain = rest.iter().position(|b| matches!(b, b'"' | b'\\' | ..=0x1f)).unwrap_or(rest.len());
            if keep {
                if self.text.len().saturating_add(plain) > MAX_STRING {
                    return Err(malformed("a string without end"));
                }
                self.text.extend_from_slice(rest.get(..plain).unwrap_or_default());
            }
            self.at = self.at.saturating_add(plain);
            if plain > 0 {
                continue;
            }
            match self.take()? {
                b'"' => return Ok(()),
                b'\\' => {
                    let escaped = self.escape()?;
                    if keep {
                        let mut bytes = [0; 4];
                        self.text.extend_from_slice(escaped.encode_utf8(&mut bytes).as_bytes());
                    }
                }
                _ => return Err(malformed("a control character in a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<char> {
        Ok(match self.take()? {
            byte @ (b'"' | b'\\' | b'/') => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let mut code = 0_u32;
                for _ in 0..4 {
                    let digit = char::from(self.take()?)
                        .to_digit(16)
                        .ok_or_else(|| malformed("an escape without four hex digits"))?;
                    code = code.wrapping_mul(16).wrapping_add(digit);
                }
                // Halves of surrogate pairs are no characters; nothing that is looked at has any.
                char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            _ => return Err(malformed("an unknown escape")),
        })
    }

    /// A number from 0 to 2^32 - 1.
    pub(crate) fn u32(&mut self) -> Result<u32> {
        let first = self.peek()?;
        let mut value = 0_u64;
        let mut digits = 0_u32;
        while let Some(digit @ b'0'..=b'9') = self.look()? {
            value = value.saturating_mul(10).saturating_add(u64::from(digit.wrapping_sub(b'0')));
            digits = digits.saturating_add(1);
            self.at = self.at.saturating_add(1);
        }
        let next = self.look()?;
        let whole = digits > 0 && !matches!(next, Some(b'.' | b'e' | b'E')) && (first != b'0' || digits == 1);
        u32::try_from(value)
            .ok()
            .filter(|_| whole)
            .ok_or_else(|| malformed("something else where a length or an offset belongs"))
    }

    /// As [`JsonReader::u32`]; `null` is `None`.
    pub(crate) fn u32_or_null(&mut self) -> Result<Option<u32>> {
        if self.peek()? == b'n' {
            self.word(b"null")?;
            return Ok(None);
        }
        self.u32().map(Some)
    }

    /// Passes over a value of any form.
    pub(crate) fn skip(&mut self) -> Result<()> {
        let mut open: Vec<u8> = Vec::new();
        loop {
            match self.peek()? {
                bracket @ (b'{' | b'[') => {
                    if open.len() >= MAX_DEPTH {
                        return Err(malformed("values nested too deeply"));
                    }
                    self.at = self.at.saturating_add(1);
                    let close = if bracket == b'{' { b'}' } else { b']' };
                    if self.next(true, close)? {
                        open.push(close);
                        if close == b'}' {
                            self.skip_key()?;
                        }
                        continue;
                    }
                }
                b'"' => {
                    self.at = self.at.saturating_add(1);
                    self.rest_of_string(false)?;
                }
                b't' => self.word(b"true")?,
                b'f' => self.word(b"false")?,
                b'n' => self.word(b"null")?,
                b'-' | b'0'..=b'9' => {
                    while matches!(self.look()?, Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')) {
                        self.at = self.at.saturating_add(1);
                    }
                }
                _ => return Err(malformed("a character that begins no value")),
            }
            // A value has ended; so may what it is in.
            while let Some(close) = open.last().copied() {
                if self.next(false, close)? {
                    if close == b'}' {
                        self.skip_key()?;
                    }
                    break;
                }
                open.pop();
            }
            if open.is_empty() {
                return Ok(());
            }
        }
    }

    fn skip_key(&mut self) -> Result<()> {
        self.expect(b'"')?;
        self.rest_of_string(false)?;
        self.expect(b':')
    }

    /// Nothing may follow but white space.
    pub(crate) fn end(&mut self) -> Result<()> {
        while let Some(byte) = self.look()? {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Err(malformed("something after its end"));
            }
            self.at = self.at.saturating_add(1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time, so that everything lies across the buffer's end.
    struct Drip<'a>(&'a [u8]);

    impl Read for Drip<'_> {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
            out[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }

    fn skips(json: &str) -> bool {
        let mut reader = JsonReader::new(Drip(json.as_bytes()));
        let dripped = reader.skip().and_then(|()| reader.end()).is_ok();
        let mut reader = JsonReader::new(json.as_bytes());
        let whole = reader.skip().and_then(|()| reader.end()).is_ok();
        assert_eq!(dripped, whole, "{json}");
        whole
    }

    #[test]
    fn skips_what_is_json_and_nothing_else() {
        for good in [
            "{}",
            "[]",
            " [ 1 , -2.5e+3 , \"a\\\"\\u00e4\" , {\"k\" : [ ] , \"l\":{}} , null,true,false ] \n",
            "\"\"",
            "0",
        ] {
            assert!(skips(good), "{good}");
        }
        for bad in [
            "",
            "{",
            "[1",
            "[1,]",
            "{\"a\"}",
            "{\"a\":1,}",
            "{\"a\" 1}",
            "[1 2]",
            "]",
            "nul",
            "\"",
            "\"\n\"",
            "\"\\x\"",
            "\"\\u12\"",
            "{} {}",
            "[}",
            "{]",
            "{1:2}",
        ] {
            assert!(!skips(bad), "{bad}");
        }
        assert!(skips(&format!("{}{}", "[".repeat(128), "]".repeat(128))));
        assert!(!skips(&format!("{}{}", "[".repeat(129), "]".repeat(129))));
    }

    #[test]
    fn numbers_are_whole_and_fit() {
        let read = |json: &str| JsonReader::new(json.as_bytes()).u32().ok();
        assert_eq!(read(" 0,"), Some(0));
        assert_eq!(read("4294967295]"), Some(u32::MAX));
        for bad in ["4294967296", "99999999999999999999999", "-1", "1.0", "1e3", "01", "", "x", "\"1\""] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_a_whole_parser(text in "[\\[\\]{}:,\" \\\\0-9a-fntrule.-]{0,24}") {
            // What another parser takes, this one takes; the other way round numbers are not looked into.
            if serde_json::from_str::<serde_json::Value>(&text).is_ok() {
                proptest::prop_assert!(skips(&text), "{}", text);
            }
        }

        #[test]
        fn strings_come_out_as_they_went_in(text in "\\PC{0,40}[\u{0}-\u{1f}\"\\\\]{0,4}") {
            let json = serde_json::to_string(&text).unwrap();
            let mut reader = JsonReader::new(Drip(json.as_bytes()));
            proptest::prop_assert_eq!(reader.string().unwrap(), text.as_bytes());
        }
    }
}
