//! GoReplay's files: payloads between lines of three monkeys, each with a line of type, id and time.
//!
//! Input: the file's bytes. Output: its requests, with the original response where it was recorded. Must not: trust a length that is
//! not there. Source: GoReplay wiki, "Saving and replaying from file".

use crate::testrun::record::{Recorded, Stored};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use std::collections::HashMap;

/// On a line of its own.
const SEPARATOR: &[u8] = "🐵🙈🙉".as_bytes();

pub fn read(bytes: &[u8], skip: &mut impl FnMut(&'static str)) -> Result<Vec<Recorded>, String> {
    let mut requests: Vec<Recorded> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (number, payload) in split(bytes).into_iter().enumerate() {
        let wrong = |text: String| format!("payload {}: {text}", number + 1);
        let end = payload
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or_else(|| wrong("no line of type, id and time".into()))?;
        let meta = String::from_utf8_lossy(&payload[..end]).into_owned();
        let words: Vec<&str> = meta.split_whitespace().collect();
        let (Some(kind), Some(id)) = (words.first(), words.get(1)) else {
            return Err(wrong(format!("`{meta}` is not a type, an id and a time")));
        };
        let nanos: Option<u64> = words.get(2).and_then(|it| it.parse().ok());
        let message = &payload[end + 1..];
        match *kind {
            "1" => {
                let mut recorded = request(message).map_err(wrong)?;
                recorded.at_ms = nanos.map(|it| it / 1_000_000);
                recorded.session =
                    recorded.headers.get("cookie").and_then(|it| it.to_str().ok()).map(str::to_owned);
                places.insert((*id).to_owned(), requests.len());
                requests.push(recorded);
            }
            "2" => match places.get(*id) {
                Some(at) => {
                    let mut stored = response(message).map_err(wrong)?;
                    // Which says how much there would be.
                    stored.truncated &= requests[*at].method != Method::HEAD;
                    requests[*at].legacy = Some(stored);
                }
                None => skip("an answer without its request"),
            },
            "3" => skip("a replayed answer"),
            other => return Err(wrong(format!("type `{other}` is not 1, 2 or 3"))),
        }
    }
    Ok(requests)
}

fn split(bytes: &[u8]) -> Vec<&[u8]> {
    let (mut parts, mut rest) = (Vec::new(), bytes);
    while let Some(at) = rest.windows(SEPARATOR.len()).position(|window| window == SEPARATOR) {
        let part = &rest[..at];
        let part = part.strip_suffix(b"\r\n").or_else(|| part.strip_suffix(b"\n")).unwrap_or(part);
        parts.push(part);
        rest = &rest[at + SEPARATOR.len()..];
        rest = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")).unwrap_or(rest);
    }
    parts.push(rest);
    parts.retain(|part| !part.iter().all(u8::is_ascii_whitespace));
    parts
}

fn request(message: &[u8]) -> Result<Recorded, String> {
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(message) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Err("the head of the request is cut".into()),
        Err(error) => return Err(error.to_string()),
    };
    let mut recorded = Recorded::new(parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default())?;
    let chunked = parsed.headers.iter().any(is_chunked);
    for header in parsed.headers.iter() {
        recorded.header(header.name, &String::from_utf8_lossy(header.value));
    }
    recorded.body = body(&message[length..], chunked).0;
    Ok(recorded)
}

fn response(message: &[u8]) -> Result<Stored, String> {
    let mut parsed_headers = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Response::new(&mut parsed_headers);
    let length = match parsed.parse(message) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Err("the head of the response is cut".into()),
        Err(error) => return Err(error.to_string()),
    };
    let mut headers = HeaderMap::new();
    for header in parsed.headers.iter() {
        let known = HeaderName::from_bytes(header.name.as_bytes())
            .ok()
            .zip(HeaderValue::from_bytes(header.value).ok());
        if let Some((name, value)) = known {
            headers.append(name, value);
        }
    }
    let chunked = parsed.headers.iter().any(is_chunked);
    let (body, cut) = body(&message[length..], chunked);
    let status = parsed.code.unwrap_or_default();
    let said =
        headers.get("content-length").and_then(|it| it.to_str().ok()).and_then(|it| it.parse::<usize>().ok());
    let truncated = cut || said.is_some_and(|said| said > body.len());
    Ok(Stored { status, headers, body, truncated, seconds: None })
}

fn is_chunked(header: &httparse::Header<'_>) -> bool {
    header.name.eq_ignore_ascii_case("transfer-encoding")
        && header.value.to_ascii_lowercase().ends_with(b"chunked")
}

/// The rest of a message, its chunks put together, and whether it ended before the last of them.
fn body(mut rest: &[u8], chunked: bool) -> (Bytes, bool) {
    if !chunked {
        return (Bytes::copy_from_slice(rest), false);
    }
    let mut out = Vec::new();
    while let Ok(httparse::Status::Complete((start, size))) = httparse::parse_chunk_size(rest) {
        if size == 0 {
            return (Bytes::from(out), false);
        }
        let end = start.saturating_add(size as usize);
        if end > rest.len() {
            out.extend_from_slice(rest.get(start..).unwrap_or_default());
            break;
        }
        out.extend_from_slice(&rest[start..end]);
        rest = rest.get(end + 2..).unwrap_or_default();
    }
    (Bytes::from(out), true)
}
