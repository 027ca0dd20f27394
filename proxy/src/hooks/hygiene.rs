//! Phase 1, before anything is decided: what two servers could read differently, or what is too much, goes no further.
//!
//! Input: the head, in either protocol, and what the wire has found. Output: nothing, or a status and a cause. Must not: repair.

use crate::brings::{Brings, Header};
use crate::certificates::CameFor;
use crate::claims;
use crate::facts;
use crate::settings::Limits;
use crate::wire;
use banyan_routes::request::bare_host;
use banyan_routes::table::RouteTable;
use http::{HeaderValue, Method, Version, header};
use pingora_http::RequestHeader;
use pingora_proxy::Session;

type Refusal = (u16, &'static str);

pub fn refusal(limits: &Limits, session: &Session, brings: Brings) -> Option<Refusal> {
    if let Some(fault) = wire::fault() {
        return Some(fault.answer());
    }
    let request = session.req_header();
    if request.headers.len() > limits.headers {
        return Some((431, "too_many_headers"));
    }
    if brings.bytes > limits.header_bytes {
        return Some((431, "headers_too_large"));
    }
    // In HTTP/1 the wire has seen to it; this is for HTTP/2.
    if request.version == Version::HTTP_2 && !is_sound(request) {
        return Some((400, "malformed_head"));
    }
    if brings.has(Header::ContentLength)
        && let Some(refusal) = framing(request, limits)
    {
        return Some(refusal);
    }
    if brings.has(Header::Connection)
        && let Some(refusal) = nominations(request)
    {
        return Some(refusal);
    }
    if brings.has(Header::Expect) { expected(request) } else { None }
}

/// A target of printable bytes, and an authority or a host.
fn is_sound(request: &RequestHeader) -> bool {
    let named = request.uri.authority().is_some() || request.headers.contains_key(header::HOST);
    named
        && !request.raw_path().is_empty()
        && request.raw_path().iter().all(|byte| (0x21..0x7f).contains(byte))
}

fn framing(request: &RequestHeader, limits: &Limits) -> Option<Refusal> {
    let mut lengths = request.headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next()?;
    let digits = length.as_bytes().iter().all(u8::is_ascii_digit);
    let length = length.to_str().ok().filter(|_| digits).and_then(|text| text.parse::<u64>().ok());
    match length {
        Some(length) if lengths.next().is_none() => {
            (length > limits.body_bytes).then_some((413, "body_too_large"))
        }
        Some(_) | None => Some((400, "malformed_framing")),
    }
}

/// `Connection` may name what belongs to this hop; what a backend, or what we, rely on does not.
fn nominations(request: &RequestHeader) -> Option<Refusal> {
    request.headers.get(header::CONNECTION)?;
    let bad =
        |name: &String| claims::is_guarded(name) && !matches!(name.as_str(), "upgrade" | "te" | "trailer");
    facts::nominated(&request.headers).iter().any(bad).then_some((400, "connection_names_header"))
}

/// There is one expectation, and it is about a body.
fn expected(request: &RequestHeader) -> Option<Refusal> {
    let value = request.headers.get(header::EXPECT)?;
    let known = value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    (!known).then_some((417, "expectation"))
}

/// An expectation about a body that does not come, or from a client that cannot have one, is nothing to pass on. For requests that bring one.
pub fn expectation(session: &mut Session) {
    let request = session.req_header();
    if request.version <= Version::HTTP_10 || !has_body(request) {
        session.req_header_mut().remove_header(&header::EXPECT);
    }
}

/// A request that says it brings a body; of HTTP/2, where nothing needs to be said, one that says how long it is.
pub fn has_body(request: &RequestHeader) -> bool {
    let length = request.headers.get(header::CONTENT_LENGTH).map(HeaderValue::as_bytes);
    length.is_some_and(|length| length != b"0") || request.headers.contains_key(header::TRANSFER_ENCODING)
}

/// The methods everybody knows, and those that a rule names. TRACE would show a client the headers that we add.
pub fn known_method(table: &RouteTable, method: &Method) -> bool {
    match *method {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::DELETE
        | Method::OPTIONS
        | Method::PATCH => true,
        Method::TRACE | Method::CONNECT => false,
        _ => table.named_methods.contains(method),
    }
}

/// A connection made for one certificate's names, and a request for another name.
pub fn is_misdirected(session: &Session, host: &str) -> bool {
    let ssl = session.digest().and_then(|digest| digest.ssl_digest.as_ref());
    let came_for = ssl.and_then(|ssl| ssl.extension.get::<CameFor>());
    came_for.is_some_and(|names| !names.covers(bare_host(host)))
}
