//! Bodies by their media type: JSON by value, text by line, anything else by byte.
//!
//! Input: decoded bodies. Output: differences, or why there is no knowing. Must not: call two bodies equal of which one was
//! not seen to its end.

use super::{Answer, Difference, Ignore, Kind, Unknown, json};
use http::{HeaderMap, header};

/// Characters of a line that are looked at; a longer one is compared by its bytes all the same.
const LINES_MAX: usize = 20_000;

pub fn compare(
    legacy: &Answer<'_>,
    serverless: &Answer<'_>,
    ignore: &Ignore,
    found: &mut Vec<Difference>,
) -> Option<Unknown> {
    let empty = legacy.body.is_empty() && serverless.body.is_empty();
    let (a, b) = (media_type(legacy.headers), media_type(serverless.headers));
    if a != b && !empty && !ignore.header("content-type") {
        let path = "header.content-type".into();
        found.push(Difference { path, kind: Kind::MediaType, legacy: a.clone(), serverless: b.clone() });
    }
    let cut = legacy.truncated || serverless.truncated;
    if legacy.body == serverless.body {
        return cut.then_some(Unknown::Truncated);
    }
    if cut {
        // Two pieces of documents cannot be walked, and a difference in one may be nothing but where it was cut.
        return Some(Unknown::Truncated);
    }
    if is_json(&a) && is_json(&b) {
        match json::compare(legacy.body, serverless.body, ignore, found) {
            json::Walk::Done => return None,
            json::Walk::OverBudget => return Some(Unknown::Budget),
            // What only calls itself JSON is text.
            json::Walk::NotJson => {}
        }
    }
    if is_text(&a)
        && is_text(&b)
        && let (Ok(a), Ok(b)) = (std::str::from_utf8(legacy.body), std::str::from_utf8(serverless.body))
    {
        lines(a, b, found);
        return None;
    }
    bytes(legacy.body, serverless.body, found);
    None
}

/// `application/json`, without parameters, in lower case.
fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn is_json(media_type: &str) -> bool {
    media_type == "application/json" || media_type.ends_with("+json")
}

fn is_text(media_type: &str) -> bool {
    media_type.starts_with("text/")
        || is_json(media_type)
        || media_type == "application/xml"
        || media_type.ends_with("+xml")
}

/// The first line that differs, and whether one text goes on; ends of lines are not compared.
fn lines(a: &str, b: &str, found: &mut Vec<Difference>) {
    let (mut left, mut right) = (a.lines(), b.lines());
    for number in 1..=LINES_MAX {
        match (left.next(), right.next()) {
            (Some(a), Some(b)) if a.trim_end() == b.trim_end() => {}
            (None, None) => return,
            (a, b) => {
                let shape = |line: Option<&str>| {
                    line.map_or("absent".into(), |line| format!("text({})", line.chars().count()))
                };
                found.push(Difference {
                    path: format!("line {number}"),
                    kind: Kind::Text,
                    legacy: shape(a),
                    serverless: shape(b),
                });
                return;
            }
        }
    }
    found.push(Difference {
        path: format!("line {LINES_MAX}"),
        kind: Kind::Text,
        legacy: "text".into(),
        serverless: "text".into(),
    });
}

fn bytes(a: &[u8], b: &[u8], found: &mut Vec<Difference>) {
    let shape = |bytes: &[u8]| format!("bytes({})", bytes.len());
    let (path, kind) = match a.iter().zip(b).position(|(a, b)| a != b) {
        Some(at) => (format!("byte {at}"), Kind::Bytes),
        None => ("length".to_owned(), Kind::Length),
    };
    found.push(Difference { path, kind, legacy: shape(a), serverless: shape(b) });
}
