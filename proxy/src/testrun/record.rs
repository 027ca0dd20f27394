//! One recorded request with what is known of its answers; our own format, a JSON object a line.
//!
//! Input and output: lines such as `{"method": "GET", "url": "/a", "headers": {"accept": "text/html"}}`. Must not: lose a byte of a body:
//! what is not UTF-8 is base64.

use crate::brings::acts_as;
use banyan_routes::ids::Side;
use banyan_routes::table::is_safe;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Milliseconds after the first.
    pub at_ms: Option<u64>,
    /// Requests of one session go one after the other.
    pub session: Option<String>,
    pub method: Method,
    /// By which the client had asked, with its port where one was named. Empty: not known.
    pub host: String,
    /// Path and query.
    pub target: String,
    /// Without `Host` and what belongs to one connection.
    pub headers: HeaderMap,
    pub body: Bytes,
    pub legacy: Option<Stored>,
    pub serverless: Option<Stored>,
    /// Why a side that was asked gave no answer, by `Side::index`.
    pub faults: [Option<Fault>; 2],
}

/// Why a side gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Without a connection.
    Unreachable,
    NoAnswer,
}

/// One answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub truncated: bool,
    pub seconds: Option<f64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default = "get")]
    method: String,
    url: String,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    headers: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    legacy: Option<AnswerLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    serverless: Option<AnswerLine>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    host: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    legacy_fault: Option<Fault>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    serverless_fault: Option<Fault>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AnswerLine {
    status: u16,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    headers: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
}

fn get() -> String {
    "GET".into()
}

impl Recorded {
    pub fn new(method: &str, url: &str) -> Result<Recorded, String> {
        let method =
            Method::from_bytes(method.as_bytes()).map_err(|_| format!("`{method}` is not a method"))?;
        Ok(Recorded {
            at_ms: None,
            session: None,
            method,
            host: host(url),
            target: target(url)?,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            legacy: None,
            serverless: None,
            faults: [None; 2],
        })
    }

    /// Whether it changes nothing, so that it may be asked of anybody.
    pub fn is_safe(&self) -> bool {
        is_safe(acts_as(&self.method, &self.headers))
    }

    /// Method, target and body: what makes it another request than others.
    pub fn fingerprint(&self) -> u64 {
        let parts = [self.method.as_str().as_bytes(), self.target.as_bytes(), &self.body];
        xxh3_64(&parts.join(&b'\n'))
    }

    /// Asks for the whole of what there is, whatever the client had already: as copies of live requests do. An answer that was recorded to
    /// less than that is none to compare with.
    pub fn unconditional(&mut self) {
        if !self.is_safe() {
            return;
        }
        let conditions = CONDITIONS.into_iter().filter(|name| self.headers.remove(name).is_some()).count();
        let partial = |stored: &mut Stored| matches!(stored.status, 206 | 304 | 412 | 416);
        if conditions > 0 {
            self.legacy.take_if(partial);
            self.serverless.take_if(partial);
        }
    }

    /// Keeps what a client would send again.
    pub fn header(&mut self, name: &str, value: &str) {
        let known =
            HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_bytes(value.as_bytes()).ok());
        if let Some((name, value)) = known.filter(|(name, _)| !CONNECTION.contains(&name.as_str())) {
            self.headers.append(name, value);
        }
    }

    pub fn parse(line: &str) -> Result<Recorded, String> {
        let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let mut recorded = Recorded::new(&line.method, &line.url)?;
        for (name, value) in pairs(&line.headers)? {
            recorded.header(&name, &value);
        }
        recorded.body = body(line.body, line.body_base64)?;
        recorded.at_ms = line.at_ms;
        let cookie = recorded.headers.get("cookie").and_then(|it| it.to_str().ok());
        recorded.session = line.session.or_else(|| cookie.map(str::to_owned));
        if !line.host.is_empty() {
            recorded.host = line.host;
        }
        recorded.faults = [line.legacy_fault, line.serverless_fault];
        recorded.legacy = line.legacy.map(Stored::read).transpose()?;
        recorded.serverless = line.serverless.map(Stored::read).transpose()?;
        Ok(recorded)
    }

    pub fn line(&self) -> String {
        let (text, base64) = written(&self.body);
        let line = Line {
            method: self.method.as_str().into(),
            url: self.target.clone(),
            headers: listed(&self.headers),
            body: text,
            body_base64: base64,
            at_ms: self.at_ms,
            session: self.session.clone(),
            legacy: self.legacy.as_ref().map(Stored::write),
            serverless: self.serverless.as_ref().map(Stored::write),
            host: self.host.clone(),
            legacy_fault: self.faults[Side::Legacy.index()],
            serverless_fault: self.faults[Side::Serverless.index()],
        };
        serde_json::to_string(&line).unwrap_or_default()
    }
}

const CONDITIONS: [HeaderName; 6] = [
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_MATCH,
    header::IF_UNMODIFIED_SINCE,
    header::IF_RANGE,
    header::RANGE,
];

/// What belongs to one connection, or is made anew for each.
const CONNECTION: [&str; 9] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "keep-alive",
    "te",
    "upgrade",
    "expect",
    "proxy-connection",
];

impl Stored {
    fn read(line: AnswerLine) -> Result<Stored, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs(&line.headers)? {
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| format!("`{name}` is not the name of a header"))?;
            let value = HeaderValue::from_bytes(value.as_bytes())
                .map_err(|_| format!("the value of `{name}` is not one"))?;
            headers.append(name, value);
        }
        let body = body(line.body, line.body_base64)?;
        Ok(Stored { status: line.status, headers, body, truncated: line.truncated, seconds: line.seconds })
    }

    fn write(&self) -> AnswerLine {
        let (text, base64) = written(&self.body);
        AnswerLine {
            status: self.status,
            headers: listed(&self.headers),
            body: text,
            body_base64: base64,
            truncated: self.truncated,
            seconds: self.seconds,
        }
    }
}

/// Path and query of a URL, or of what is a path already.
pub fn target(url: &str) -> Result<String, String> {
    let rest = match url.split_once("://") {
        Some(("http" | "https", rest)) => rest.find(['/', '?']).map_or("/", |at| &rest[at..]),
        _ if url.starts_with('/') => url,
        _ => return Err(format!("`{url}` is neither an absolute URL nor a path")),
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let target = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    if target.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(format!("`{}` has characters that no request line can hold", url.escape_debug()));
    }
    // Letters beyond ASCII, as people write them, are sent as browsers send them.
    Ok(percent_encoding::utf8_percent_encode(&target, BEYOND).to_string())
}

/// Nothing of ASCII but the space, which would end the target.
const BEYOND: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b' ');

/// Of an absolute URL.
fn host(url: &str) -> String {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default().to_ascii_lowercase()
}

/// A map of names to values, or a list of pairs where a name repeats.
fn pairs(value: &Value) -> Result<Vec<(String, String)>, String> {
    let wrong = || "`headers` is neither {name: value} nor [[name, value]]".to_owned();
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(wrong);
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Object(map) => map.iter().map(|(name, value)| Ok((name.clone(), text(value)?))).collect(),
        Value::Array(list) => list
            .iter()
            .map(|pair| match pair.as_array().map(Vec::as_slice) {
                Some([name, value]) => Ok((text(name)?, text(value)?)),
                _ => Err(wrong()),
            })
            .collect(),
        _ => Err(wrong()),
    }
}

fn listed(headers: &HeaderMap) -> Value {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    if headers.keys_len() == headers.len() {
        let map: Map<String, Value> =
            headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value).into())).collect();
        return if map.is_empty() { Value::Null } else { Value::Object(map) };
    }
    headers.iter().map(|(name, value)| Value::from(vec![name.as_str().to_owned(), text(value)])).collect()
}

fn body(text: Option<String>, base64: Option<String>) -> Result<Bytes, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err("`body` and `body_base64` are both given".into()),
        (Some(text), None) => Ok(Bytes::from(text)),
        (None, Some(coded)) => {
            STANDARD.decode(coded).map(Bytes::from).map_err(|error| format!("`body_base64`: {error}"))
        }
        (None, None) => Ok(Bytes::new()),
    }
}

fn written(body: &Bytes) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(body) {
        _ if body.is_empty() => (None, None),
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(STANDARD.encode(body))),
    }
}
