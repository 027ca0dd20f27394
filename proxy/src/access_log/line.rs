//! A line, field by field, into a buffer that holds others before it.
//!
//! Input: names of ours and values. Output: an object of JSON and its newline. Must not: write what a client sent unescaped, allocate where the buffer
//! has room, or go through `fmt`. Query strings, cookies and Authorization are for nobody to hand over.

use banyan_routes::address::AddressText;
use std::net::IpAddr;
use std::time::Duration;

/// Most lines are 700 to 900 bytes.
const USUAL_BYTES: usize = 1_024;

/// The beginning of what a client sent, of `max` bytes at most: lines wait in queues, and a request's head may be as large as its limits allow.
pub fn cut(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let end = (0..=max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

/// Of a path, and of a name that a client sent.
pub const PATH_MAX: usize = 2_048;
pub const NAME_MAX: usize = 512;

/// A name as it stands before a number or a flag, put together when the program is compiled.
#[derive(Clone, Copy)]
pub struct Key(pub &'static str);

/// A name as it stands before a string: the quote that begins it is part of it.
#[derive(Clone, Copy)]
pub struct Quoted(pub &'static str);

#[macro_export]
macro_rules! log_key {
    ($name:literal) => {
        $crate::access_log::Key(concat!(",\"", $name, "\":"))
    };
}
pub use log_key as key;

#[macro_export]
macro_rules! log_quoted {
    ($name:literal) => {
        $crate::access_log::Quoted(concat!(",\"", $name, "\":\""))
    };
}
pub use log_quoted as quoted;

/// Builds a line; keys are made by `key!` and `quoted!`.
pub struct Line<'a> {
    bytes: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Line<'a> {
    /// After what the buffer holds.
    pub fn begin(bytes: &'a mut Vec<u8>) -> Line<'a> {
        bytes.reserve(USUAL_BYTES);
        Line { start: bytes.len(), bytes }
    }

    /// Inlined, so that the copy of a key is one of a known length.
    #[inline(always)]
    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A string that holds nothing to be escaped: a word or a name of ours, digits.
    #[inline(always)]
    pub fn clean(&mut self, key: Quoted, value: impl AsRef<[u8]>) {
        self.put(key.0.as_bytes());
        self.put(value.as_ref());
        self.bytes.push(b'"');
    }

    /// A string, escaped.
    #[inline(always)]
    pub fn text(&mut self, key: Quoted, value: &str) {
        if any(value.as_bytes(), is_odd) { self.escaped(key, value) } else { self.clean(key, value) }
    }

    /// What a client sent, of `max` bytes at most: bytes that are not UTF-8 become replacement characters.
    #[inline(always)]
    pub fn foreign(&mut self, key: Quoted, value: &[u8], max: usize) {
        if value.len() <= max && !any(value, |byte| is_odd(byte) | !byte.is_ascii()) {
            self.clean(key, value);
        } else {
            self.escaped(key, cut(&String::from_utf8_lossy(value), max));
        }
    }

    #[cold]
    fn escaped(&mut self, key: Quoted, value: &str) {
        self.put(key.0.as_bytes());
        let mut rest = value.as_bytes();
        while let Some(at) = rest.iter().position(|byte| is_odd(*byte)) {
            let (clean, odd) = rest.split_at(at);
            self.put(clean);
            match odd[0] {
                b @ (b'"' | b'\\') => self.put(&[b'\\', b]),
                b => {
                    let hex = b"0123456789abcdef";
                    self.put(b"\\u00");
                    self.put(&[hex[usize::from(b >> 4)], hex[usize::from(b & 15)]]);
                }
            }
            rest = &odd[1..];
        }
        self.put(rest);
        self.bytes.push(b'"');
    }

    pub fn address(&mut self, key: Quoted, address: IpAddr) {
        self.clean(key, AddressText::of(address).as_bytes());
    }

    #[inline(always)]
    pub fn number(&mut self, key: Key, value: u64) {
        self.put(key.0.as_bytes());
        self.put(itoa::Buffer::new().format(value).as_bytes());
    }

    /// A value that is JSON already, under a name that holds nothing to be escaped.
    pub fn raw(&mut self, name: &str, json: &str) {
        self.put(b",\"");
        self.put(name.as_bytes());
        self.put(b"\":");
        self.put(json.as_bytes());
    }

    pub fn flag(&mut self, key: Key) {
        self.put(key.0.as_bytes());
        self.put(b"true");
    }

    /// Seconds with microseconds.
    #[inline(always)]
    pub fn seconds(&mut self, key: Key, value: Duration) {
        self.number(key, value.as_secs());
        let mut digits = itoa::Buffer::new();
        self.bytes.push(b'.');
        // The digit in front keeps the zeros.
        self.put(&digits.format(1_000_000 + value.subsec_micros()).as_bytes()[1..]);
    }

    pub fn end(self) {
        // Every field begins with a comma; the first one's is where the object begins.
        match self.bytes.get_mut(self.start) {
            Some(first) => *first = b'{',
            None => self.bytes.push(b'{'),
        }
        self.bytes.extend_from_slice(b"}\n");
    }
}

/// Looks at all of them, which a compiler turns into a few at a time; most values hold none.
#[inline(always)]
fn any(bytes: &[u8], odd: impl Fn(u8) -> bool) -> bool {
    bytes.iter().fold(false, |found, byte| found | odd(*byte))
}

/// What JSON does not let stand in a string.
#[inline(always)]
fn is_odd(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\') | (byte == 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_log::line;

    #[test]
    fn what_is_cut_is_still_text() {
        assert_eq!((cut("abc", 3), cut("abcd", 3), cut("aé", 2), cut("", 0)), ("abc", "abc", "a", ""));
    }

    #[test]
    fn a_line_is_json_whatever_the_client_sent() {
        let bytes = line(|line| {
            line.text(quoted!("path"), "/a\"b\\c\n\u{7f}é");
            line.text(quoted!("host"), "é.example");
            line.foreign(quoted!("plain"), b"curl/8.5.0", 10);
            line.foreign(quoted!("long"), b"curl/8.5.0", 4);
            line.foreign(quoted!("bytes"), b"\xff\"\xc3\xa9", 9);
            line.address(quoted!("client"), [192, 0, 2, 7].into());
            line.number(key!("zero"), 0);
            line.number(key!("max"), u64::MAX);
            line.seconds(key!("took"), Duration::from_micros(1_000_042));
            line.seconds(key!("whole"), Duration::from_secs(3));
            line.flag(key!("retried"));
        });
        let value: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!(value["path"], "/a\"b\\c\n\u{7f}é");
        assert_eq!((&value["host"], &value["client"]), (&"é.example".into(), &"192.0.2.7".into()));
        assert_eq!((&value["plain"], &value["long"]), (&"curl/8.5.0".into(), &"curl".into()));
        assert_eq!(value["bytes"], "\u{fffd}\"é");
        assert_eq!(value["max"], u64::MAX);
        assert_eq!(value["took"], 1.000_042);
        assert!(bytes.windows(17).any(|it| it == b"\"whole\":3.000000,"), "microseconds are six digits");
        assert_eq!(value["retried"], true);
        assert_eq!(bytes.iter().filter(|b| **b == b'\n').count(), 1);
        assert_eq!(line(|_| ()), b"{}\n");
    }

    #[test]
    fn a_line_leaves_those_before_it_alone() {
        let mut bytes = b"{}\n".to_vec();
        let mut line = Line::begin(&mut bytes);
        line.number(key!("n"), 7);
        line.end();
        assert_eq!(bytes, b"{}\n{\"n\":7}\n");
    }
}
