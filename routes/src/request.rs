//! The part of a request that deciding may see, borrowed from wherever it came from.
//!
//! Input: the parsed head of a request. Output: first values of headers, query keys and cookies. Must not: copy, decode
//! beyond what matching states, or know pingora.

use http::{HeaderMap, HeaderName, Method, header};
use std::borrow::Cow;
use std::net::IpAddr;

/// A request, as routes see it.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    pub method: &'a Method,
    /// As sent: any case, with or without a port.
    pub host: &'a str,
    /// The raw path, starting with a slash, without the query.
    pub path: &'a str,
    /// The raw query, without the question mark.
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    pub client_ip: Option<IpAddr>,
    /// The name of the listener it came in by.
    pub listener: &'a str,
    /// The endpoint of PrivateLink that it came by.
    pub endpoint: Option<&'a str>,
    /// Of a token that has been verified.
    pub claims: Option<&'a Claims>,
}

/// What a verified token says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims(pub serde_json::Map<String, serde_json::Value>);

impl Claims {
    /// A claim as text; what is neither text nor a number is none.
    pub fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        match self.0.get(name)? {
            serde_json::Value::String(text) => Some(Cow::Borrowed(text)),
            serde_json::Value::Number(number) => Some(Cow::Owned(number.to_string())),
            _ => None,
        }
    }

    /// What its `scope` (words) or `scp` (words or a list) allows.
    pub fn has_scope(&self, wanted: &str) -> bool {
        ["scope", "scp"].iter().filter_map(|name| self.0.get(*name)).any(|scopes| match scopes {
            serde_json::Value::String(words) => words.split(' ').any(|word| word == wanted),
            serde_json::Value::Array(list) => list.iter().any(|word| word.as_str() == Some(wanted)),
            _ => false,
        })
    }
}

impl<'a> RequestFacts<'a> {
    /// The first value of a header.
    pub fn header(&self, name: &HeaderName) -> Option<&'a [u8]> {
        self.headers.get(name).map(|value| value.as_bytes())
    }

    /// The first value of a query key; raw bytes, percent encoding and `+` untouched. A key without `=` has an empty value.
    pub fn query(&self, key: &str) -> Option<&'a str> {
        self.query?.split('&').find_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name == key).then_some(value)
        })
    }

    /// The first value of a cookie, over all `Cookie` headers; quotes are part of the value.
    pub fn cookie(&self, name: &str) -> Option<&'a str> {
        self.headers.get_all(header::COOKIE).iter().find_map(|line| {
            let line = std::str::from_utf8(line.as_bytes()).ok()?;
            line.split(';').find_map(|pair| {
                let (key, value) = pair.split_once('=')?;
                (key.trim() == name).then(|| value.trim())
            })
        })
    }
}

/// The host without its port and a trailing dot. `[::1]:80` gives `[::1]`.
pub fn bare_host(host: &str) -> &str {
    let end = match host.strip_prefix('[') {
        Some(rest) => rest.find(']').map_or(host.len(), |at| at + 2),
        None => host.rfind(':').unwrap_or(host.len()),
    };
    let name = &host[..end];
    name.strip_suffix('.').unwrap_or(name)
}
