//! What all event formats share: the request as a function may see it, and how its parts become text.
//!
//! Input: a request head as it would be sent to a backend, its whole body. Output: JSON of one of three formats. Must not: lose a
//! byte of the body, or a value of a header.

use banyan_routes::backend::EventFormat;
use banyan_routes::request::Claims;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

/// One request, borrowed.
pub struct EventRequest<'a> {
    pub method: &'a Method,
    /// Raw, as it would be sent.
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    pub host: &'a str,
    pub body: &'a [u8],
    pub client: IpAddr,
    pub protocol: &'static str,
    pub request_id: &'a str,
    pub time: Timestamp,
    /// As API Gateway writes the matched path, and the names in it with what they stand for.
    pub resource: &'a str,
    pub parameters: &'a [(&'a str, &'a str)],
    pub account: &'a str,
    pub backend: &'a str,
    pub region: &'a str,
    pub caller: Caller<'a>,
}

/// Who calls, where somebody has looked.
#[derive(Clone, Copy, Default)]
pub struct Caller<'a> {
    /// Of a verified token.
    pub claims: Option<&'a Claims>,
    /// What an authorizer said of it.
    pub principal: Option<&'a str>,
    pub context: Option<&'a Map<String, Value>>,
}

/// The event of a request, in the format its function expects.
pub fn event(format: EventFormat, request: &EventRequest<'_>) -> Vec<u8> {
    // Headers and context take about a kilobyte and a half; base64 a third more than the body.
    let mut out = Vec::with_capacity(2048 + request.body.len() * 4 / 3);
    // Writing strings and maps to memory has no way to fail.
    let _ = match format {
        EventFormat::V2 => serde_json::to_writer(&mut out, &super::v2::Event::new(request)),
        EventFormat::V1 => serde_json::to_writer(&mut out, &super::v1::Event::new(request)),
        EventFormat::Alb { multi_value } => {
            serde_json::to_writer(&mut out, &super::alb::Event::new(request, multi_value))
        }
    };
    out
}

impl<'a> EventRequest<'a> {
    pub fn header(&self, name: HeaderName) -> Cow<'a, str> {
        self.headers.get(name).map_or(Cow::Borrowed(""), text)
    }

    /// The first label of the host, as `domainPrefix` wants it.
    pub fn domain_prefix(&self) -> &'a str {
        self.host.split(['.', ':']).next().unwrap_or_default()
    }

    /// `12/Mar/2020:19:03:58 +0000`.
    pub fn request_time(&self) -> String {
        self.time.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string()
    }

    /// The body as text where it is text, else base64; and which it is.
    pub fn body(&self) -> (Cow<'a, str>, bool) {
        let plain = !self.headers.contains_key(header::CONTENT_ENCODING)
            && self.headers.get(header::CONTENT_TYPE).is_some_and(|value| is_text(&text(value)));
        match std::str::from_utf8(self.body) {
            Ok(body) if plain || body.is_empty() => (Cow::Borrowed(body), false),
            Ok(_) | Err(_) => (Cow::Owned(STANDARD.encode(self.body)), true),
        }
    }
}

impl Caller<'_> {
    /// As HTTP APIs give it: `jwt` and `lambda`.
    pub fn v2(&self) -> Option<Value> {
        let mut all = Map::new();
        if let Some(claims) = self.claims {
            all.insert("jwt".into(), token(claims));
        }
        if let Some(context) = self.context {
            all.insert("lambda".into(), Value::Object(context.clone()));
        }
        (!all.is_empty()).then_some(Value::Object(all))
    }

    /// As REST APIs give it: the context flat and as text, beside the principal.
    pub fn v1(&self) -> Option<Value> {
        let mut all = Map::new();
        if let Some(claims) = self.claims {
            all.insert("claims".into(), token(claims)["claims"].take());
        }
        if let Some(principal) = self.principal {
            all.insert("principalId".into(), principal.into());
        }
        for (name, value) in self.context.into_iter().flatten() {
            all.insert(name.clone(), said(value).into());
        }
        (!all.is_empty()).then_some(Value::Object(all))
    }
}

/// Claims as text, and the scopes as a list.
fn token(claims: &Claims) -> Value {
    let scopes = claims.0.get("scope").or_else(|| claims.0.get("scp"));
    let scopes = scopes.and_then(|scopes| match scopes {
        Value::String(words) => Some(words.split(' ').map(Value::from).collect::<Vec<_>>()),
        Value::Array(list) => Some(list.clone()),
        _ => None,
    });
    let claims: Map<String, Value> =
        claims.0.iter().map(|(name, value)| (name.clone(), said(value).into())).collect();
    serde_json::json!({"claims": claims, "scopes": scopes})
}

fn said(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(said).collect::<Vec<_>>().join(" ")),
        other => other.to_string(),
    }
}

/// A header's value as text; bytes that are no UTF-8 become the characters of ISO 8859-1, which is what they mostly are.
pub fn text(value: &HeaderValue) -> Cow<'_, str> {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(value.as_bytes().iter().map(|byte| char::from(*byte)).collect()),
    }
}

/// Content types whose bodies AWS passes on as they are.
fn is_text(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.starts_with("text/")
        || essence.ends_with("+json")
        || essence.ends_with("+xml")
        || matches!(essence.as_str(), "application/json" | "application/xml" | "application/javascript")
}

/// Every key of the query with its values, in order; decoded, `+` included, or raw.
pub fn query_lists(query: Option<&str>, decode: bool) -> Vec<(Cow<'_, str>, Vec<Cow<'_, str>>)> {
    let mut lists: Vec<(Cow<'_, str>, Vec<Cow<'_, str>>)> = Vec::new();
    // A target may hold thousands of keys.
    let mut places: HashMap<Cow<'_, str>, usize> = HashMap::new();
    let read = |part| if decode { decoded(part) } else { Cow::Borrowed(part) };
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (read(key), read(value));
        match places.entry(key.clone()) {
            Entry::Occupied(place) => lists[*place.get()].1.push(value),
            Entry::Vacant(place) => {
                place.insert(lists.len());
                lists.push((key, vec![value]));
            }
        }
    }
    lists
}

/// Every header with its values, in order of first sight.
pub fn header_lists(headers: &HeaderMap) -> Vec<(&HeaderName, Vec<Cow<'_, str>>)> {
    headers.keys().map(|name| (name, headers.get_all(name).iter().map(text).collect())).collect()
}

/// Percent-decoded; what is no UTF-8 afterwards stays as it was written.
pub fn decoded(part: &str) -> Cow<'_, str> {
    let part = if part.contains('+') { Cow::Owned(part.replace('+', " ")) } else { Cow::Borrowed(part) };
    match part {
        Cow::Borrowed(part) => percent_decode_str(part).decode_utf8().unwrap_or(Cow::Borrowed(part)),
        Cow::Owned(part) => match percent_decode_str(&part).decode_utf8() {
            Ok(Cow::Owned(text)) => Cow::Owned(text),
            Ok(Cow::Borrowed(_)) | Err(_) => Cow::Owned(part),
        },
    }
}

/// A map written in the order of its pairs.
pub struct Pairs<K, V>(pub Vec<(K, V)>);

impl<K: serde::Serialize, V: serde::Serialize> serde::Serialize for Pairs<K, V> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// The same, or null when there is nothing: what REST APIs send for an empty map.
pub fn or_null<K, V>(pairs: Vec<(K, V)>) -> Option<Pairs<K, V>> {
    (!pairs.is_empty()).then_some(Pairs(pairs))
}
