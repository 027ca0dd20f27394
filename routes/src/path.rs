//! How a request target is read: the one place that says which bytes two servers could read differently.
//!
//! Input: the raw path of a request. Output: the text to match (percent-encoded unreserved bytes decoded, hex digits in
//! upper case) and what the reader found odd, or a refusal. Must not: change what is forwarded, except in
//! `paths: normalise`, where the normalised path is both matched and forwarded. Source: RFC 3986 sections 2.3, 5.2.4, 6.2.2.

use std::borrow::Cow;

/// Why a path is answered 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    #[error("the path holds a control byte, a space or a byte outside ASCII")]
    BadByte,
    #[error("the path holds a backslash")]
    Backslash,
    #[error("a percent sign is not followed by two hex digits")]
    BadEscape,
    #[error("the path hides a control byte, a backslash or an overlong character behind percent encoding")]
    HiddenByte,
    #[error("the path holds a dot segment")]
    DotSegment,
    #[error("the path holds an empty segment")]
    EmptySegment,
    #[error("the path holds an encoded slash")]
    EncodedSlash,
    #[error("the path holds path parameters after a semicolon")]
    Parameters,
    #[error("the dot segments of the path lead above its root")]
    AboveRoot,
    #[error("some servers would read the path as that of a guarded route")]
    NearGuard,
}

/// A path that may be matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRead<'a> {
    /// What patterns are compared with.
    pub text: Cow<'a, str>,
    /// An encoded slash was seen; only a route with `encoded_slash: allow` may take this request.
    pub encoded_slash: bool,
    /// What `paths: strict` refuses in it; only a route with `paths: normalise` may take this request, by [`normalise`].
    pub strict_fault: Option<PathFault>,
    /// It has escapes, capitals, or a dot at the end of a segment: a server that folds such could read another path.
    pub foldable: bool,
}

/// Reads a raw path. Faults that no mode lets through are errors; the others are noted, and judged once the route is known.
pub fn read_path(raw: &str) -> Result<PathRead<'_>, PathFault> {
    let bytes = raw.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(PathFault::NotAbsolute);
    }
    let mut plain = true;
    let mut parameters = false;
    let mut foldable = bytes.last() == Some(&b'.');
    let mut before = b'/';
    for b in bytes {
        match b {
            b'%' => plain = false,
            b'A'..=b'Z' => foldable = true,
            b'/' => foldable |= before == b'.',
            b';' => parameters = true,
            b'\\' => return Err(PathFault::Backslash),
            b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' | b'#' | b'?' => {
                return Err(PathFault::BadByte);
            }
            0..=0x20 | 0x7f.. => return Err(PathFault::BadByte),
            _ => {}
        }
        before = *b;
    }
    let (text, encoded_slash) = if plain { (Cow::Borrowed(raw), false) } else { decode(raw)? };
    let strict_fault = segment_fault(&text).or(parameters.then_some(PathFault::Parameters));
    Ok(PathRead { text, encoded_slash, strict_fault, foldable: foldable || !plain || parameters })
}

/// Decodes unreserved bytes; everything else stays encoded, in upper case.
fn decode(raw: &str) -> Result<(Cow<'_, str>, bool), PathFault> {
    let bytes = raw.as_bytes();
    let mut text = String::with_capacity(raw.len());
    let mut slash = false;
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'%' {
            text.push(char::from(bytes[at]));
            at += 1;
            continue;
        }
        let byte = escaped(bytes, at).ok_or(PathFault::BadEscape)?;
        match byte {
            0..=0x1f | 0x7f | b'\\' => return Err(PathFault::HiddenByte),
            b'/' => slash = true,
            // Overlong UTF-8: a lenient decoder reads an ASCII byte where a strict one reads garbage.
            0xc0 | 0xc1 if continuation(bytes, at + 3, 0x80..=0xbf) => return Err(PathFault::HiddenByte),
            0xe0 if continuation(bytes, at + 3, 0x80..=0x9f) => return Err(PathFault::HiddenByte),
            0xf0 if continuation(bytes, at + 3, 0x80..=0x8f) => return Err(PathFault::HiddenByte),
            _ => {}
        }
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(byte));
        } else {
            text.extend(bytes[at..at + 3].iter().map(|b| char::from(b.to_ascii_uppercase())));
        }
        at += 3;
    }
    Ok((Cow::Owned(text), slash))
}

fn escaped(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
    Some((digit(at + 1)? * 16 + digit(at + 2)?) as u8)
}

fn continuation(bytes: &[u8], at: usize, range: std::ops::RangeInclusive<u8>) -> bool {
    bytes.get(at) == Some(&b'%') && escaped(bytes, at).is_some_and(|byte| range.contains(&byte))
}

/// The first segment that servers read differently. Runs on decoded text, so `%2e%2e` is found as well.
fn segment_fault(text: &str) -> Option<PathFault> {
    let bytes = text.as_bytes();
    let mut start = 1;
    for end in 1..=bytes.len() {
        if end != bytes.len() && bytes[end] != b'/' {
            continue;
        }
        match &bytes[start..end] {
            b"." | b".." => return Some(PathFault::DotSegment),
            // `/..;x/` is a dot segment for servers that cut parameters off first; it is caught as `Parameters`.
            b"" if end != bytes.len() => return Some(PathFault::EmptySegment),
            _ => {}
        }
        start = end + 1;
    }
    None
}

/// `paths: normalise`: dot segments resolved, slashes merged. What comes out is matched and forwarded.
pub fn normalise(text: &str) -> Result<String, PathFault> {
    let mut kept: Vec<&str> = Vec::new();
    let mut directory = false;
    for segment in text.split('/').skip(1) {
        directory = false;
        match segment.split(';').next().unwrap_or(segment) {
            "" if segment.is_empty() => directory = true,
            "." => directory = true,
            ".." => {
                kept.pop().ok_or(PathFault::AboveRoot)?;
                directory = true;
            }
            _ => kept.push(segment),
        }
    }
    let mut path = String::with_capacity(text.len());
    kept.iter().for_each(|segment| {
        path.push('/');
        path.push_str(segment);
    });
    if directory || path.is_empty() {
        path.push('/');
    }
    Ok(path)
}

/// Splits a request target into its path and query.
pub fn split_target(target: &str) -> (&str, Option<&str>) {
    match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    }
}
