//! Forms -> `Node`: `application/x-www-form-urlencoded` and `multipart/*`.
//!
//! Input: bytes and media type. Output: a map of names to values, a list where a name repeats. Must not: compare boundaries.
//! Source: WHATWG URL, section 5; RFC 7578, RFC 2046 section 5.1.

use super::Unknown;
use super::node::Node;
use percent_encoding::percent_decode;
use std::collections::BTreeMap;

/// Parts of one body.
const PARTS_MAX: usize = 1_000;

pub fn urlencoded(body: &[u8]) -> Node {
    let mut fields: BTreeMap<Box<str>, Vec<Node>> = BTreeMap::new();
    for pair in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        let text = |bytes: &[u8]| -> Box<str> {
            let spaced: Vec<u8> = bytes.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
            let bytes: Vec<u8> = percent_decode(&spaced).collect();
            // What is no text is told apart by its bytes, marked by what no text has.
            let escaped =
                |bytes: &[u8]| bytes.iter().map(|byte| format!("\u{fdd0}{byte:02x}")).collect::<String>();
            String::from_utf8(bytes).unwrap_or_else(|error| escaped(error.as_bytes())).into()
        };
        let value = pair.get(at + 1..).unwrap_or_default();
        fields.entry(text(&pair[..at])).or_default().push(Node::Text(text(value)));
    }
    map(fields)
}

/// One part of a multipart body.
#[derive(Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Of its form field, or its number.
    pub name: String,
    pub file_name: Option<String>,
    pub media_type: String,
    pub body: &'a [u8],
}

/// `Ok(None)`: the body is not what its boundary says.
pub fn multipart<'a>(content_type: &str, body: &'a [u8]) -> Result<Option<Vec<Part<'a>>>, Unknown> {
    let parts = parts(content_type, body);
    if parts.as_ref().is_some_and(|parts| parts.len() > PARTS_MAX) { Err(Unknown::Budget) } else { Ok(parts) }
}

/// One more than there may be, at most.
fn parts<'a>(content_type: &str, body: &'a [u8]) -> Option<Vec<Part<'a>>> {
    let boundary = parameter(content_type, "boundary").filter(|it| !it.is_empty())?;
    let marker = [b"\r\n--", boundary.as_bytes()].concat();
    // The first one may stand at the very start.
    let mut rest =
        body.strip_prefix(&marker[2..]).or_else(|| Some(&body[find(body, &marker)? + marker.len()..]))?;
    let mut parts = Vec::new();
    while !rest.starts_with(b"--") {
        let inner = &rest[find(rest, b"\r\n")? + 2..];
        let end = find(inner, &marker)?;
        let part = &inner[..end];
        let (head, body) = match part.strip_prefix(b"\r\n") {
            Some(body) => (&b""[..], body),
            None => {
                let at = find(part, b"\r\n\r\n")?;
                (&part[..at], &part[at + 4..])
            }
        };
        let head = String::from_utf8_lossy(head);
        let field = |name: &str| {
            let lines = head.split("\r\n").filter_map(|line| line.split_once(':'));
            lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
        };
        let disposition = field("content-disposition").unwrap_or_default();
        parts.push(Part {
            name: parameter(disposition, "name").unwrap_or_else(|| parts.len().to_string()),
            file_name: parameter(disposition, "filename"),
            media_type: field("content-type").unwrap_or("text/plain").to_owned(),
            body,
        });
        if parts.len() > PARTS_MAX {
            break;
        }
        rest = &inner[end + marker.len()..];
    }
    Some(parts)
}

/// A parameter of a header such as `form-data; name="a"`.
pub fn parameter(value: &str, name: &str) -> Option<String> {
    split_unquoted(value, ';').skip(1).find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        let value = value.trim();
        let inside = value.strip_prefix('"').map(|rest| rest.strip_suffix('"').unwrap_or(rest));
        key.trim().eq_ignore_ascii_case(name).then(|| inside.unwrap_or(value).replace("\\\"", "\""))
    })
}

/// Parts of a header's value; what stands in quotes is not parted.
pub fn split_unquoted(value: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    value.split(move |it: char| {
        let was = escaped;
        escaped = quoted && !was && it == '\\';
        quoted ^= it == '"' && !was;
        it == separator && !quoted
    })
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// A name with one value is that value.
pub fn map(fields: BTreeMap<Box<str>, Vec<Node>>) -> Node {
    let one = |mut values: Vec<Node>| if values.len() == 1 { values.remove(0) } else { Node::List(values) };
    Node::Map(fields.into_iter().map(|(name, values)| (name, one(values))).collect())
}
