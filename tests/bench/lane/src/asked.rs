//! A request, judged: which side gets it, and its head for the backend.
//!
//! Input: a parsed head. Output: the decision, and the head as bytes; or a refusal. Must not: build a map of headers for a rule set that does not ask for one.

use crate::Lane;
use crate::head::{Connection, Framing, framing, is_hop};
use banyan::claims::is_refused;
use banyan::facts::is_host;
use banyan::settings::UnderscoreHeaders;
use banyan::trace::Trace;
use banyan_routes::address::AddressText;
use banyan_routes::decide::{Conditions, Decision, decide};
use banyan_routes::ids::SharePpm;
use banyan_routes::path::split_target;
use banyan_routes::request::RequestFacts;
use banyan_routes::table::{Action, Unroutable};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use httparse::Header;
use std::net::IpAddr;

/// What a request is, once it may be passed on.
pub struct Asked<'h> {
    pub method: Method,
    pub path: &'h str,
    pub agent: &'h [u8],
    pub host: &'h str,
    pub route: u32,
    pub decision: Decision,
    pub framing: Framing,
    pub trace: Trace,
    /// The client stays.
    pub keep: bool,
    pub old: bool,
    pub size: usize,
}

/// Status and cause.
pub type Refusal = (u16, &'static str);

/// Judges a request, chooses its side, and writes its head for the backend into `out`.
pub fn asked<'h>(
    lane: &Lane,
    parsed: &httparse::Request<'_, 'h>,
    peer: IpAddr,
    listener: &str,
    size: usize,
    out: &mut Vec<u8>,
) -> std::result::Result<Asked<'h>, Refusal> {
    let (Some(name), Some(target)) = (parsed.method, parsed.path) else {
        return Err((400, "malformed_head"));
    };
    let method = match Method::from_bytes(name.as_bytes()) {
        Ok(Method::TRACE | Method::CONNECT) | Err(_) => return Err((405, "method")),
        Ok(method) if matches!(name, "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "OPTIONS" | "PATCH") => {
            method
        }
        Ok(_) => return Err((501, "method")),
    };
    let old = parsed.version == Some(0);
    let framing = framing(parsed.headers).ok_or((400, "malformed_framing"))?;
    let connection = Connection::read(parsed.headers).ok_or((400, "malformed_head"))?;
    let (mut host, mut agent, mut traced) = (None, &b""[..], false);
    for header in parsed.headers.iter() {
        match header.name.len() {
            4 if header.name.eq_ignore_ascii_case("host") => {
                let text = std::str::from_utf8(header.value).ok().filter(|it| is_host(it));
                if host.replace(text.ok_or((400, "malformed_host"))?).is_some() {
                    return Err((400, "malformed_host"));
                }
            }
            6 if header.name.eq_ignore_ascii_case("expect")
                && !header.value.eq_ignore_ascii_case(b"100-continue") =>
            {
                return Err((417, "expectation"));
            }
            10 if header.name.eq_ignore_ascii_case("user-agent") => agent = header.value,
            11 if header.name.eq_ignore_ascii_case("traceparent") => traced = true,
            15 if header.name.eq_ignore_ascii_case("x-amzn-trace-id") => traced = true,
            _ => {}
        }
    }
    let host = host.or(old.then_some("")).ok_or((400, "host_missing"))?;
    if !target.starts_with('/') || connection.named[..connection.count].iter().any(|name| guarded(name)) {
        return Err((400, "not_of_this_lane"));
    }
    let (path, query) = split_target(target);
    let headers = HeaderMap::new();
    let facts = RequestFacts {
        method: &method,
        host,
        path,
        query,
        headers: &headers,
        client_ip: Some(peer),
        listener,
        endpoint: None,
        claims: None,
    };
    let found = lane.table.find(&facts).map_err(|why| match why {
        Unroutable::Ambiguous(_) => (400, "ambiguous_path"),
        Unroutable::NoRoute => (404, "no_route"),
    })?;
    let route = lane.table.route(found.route);
    if !matches!(route.action, Action::Forward) || found.normalised.is_some() {
        return Err((501, "not_of_this_lane"));
    }
    let now = Conditions {
        killed: false,
        share: route.stage.share(),
        rolled_back: false,
        override_side: None,
        serverless_available: true,
    };
    let decision =
        decide(route, lane.table.cohort(route), &facts, now, rand::random).map_err(|_| (503, "killed"))?;
    let trace = Trace::begin(traced.then(|| trace_headers(parsed.headers)).as_ref(), SharePpm::ZERO);
    let with_body = framing != Framing::None && framing != Framing::Length(0);
    out.clear();
    [name.as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\n"]
        .iter()
        .for_each(|part| out.extend_from_slice(part));
    for header in parsed.headers.iter().filter(|header| !connection.names(header.name) && passes(header.name))
    {
        if !(header.name.eq_ignore_ascii_case("expect") && (old || !with_body)) {
            line(out, header.name.as_bytes(), header.value);
        }
    }
    let text = AddressText::of(peer);
    line(out, b"x-forwarded-for", text.as_bytes());
    out.extend_from_slice(b"x-forwarded-proto: http\r\nvia: 1.1 banyan\r\n");
    line(out, b"x-forwarded-host", host.as_bytes());
    if host.is_empty() {
        line(out, b"Host", b"lane");
    }
    line(out, b"traceparent", trace.header().as_bytes());
    line(out, b"x-amzn-trace-id", trace.xray(None).as_bytes());
    let odd = with_body && matches!(method, Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS);
    out.extend_from_slice(if odd { b"Connection: close\r\n\r\n" } else { b"\r\n" });
    let keep = !connection.close && (!old || connection.keep) && !odd;
    Ok(Asked { method, path, agent, host, route: found.route, decision, framing, trace, keep, old, size })
}

/// What a backend or we rely on, and `Connection` must not take away.
fn guarded(name: &str) -> bool {
    let mut room = [0; 64];
    let lower = lower(name, &mut room);
    !matches!(lower, "upgrade" | "te" | "trailer") && banyan::claims::is_guarded(lower)
}

/// Not of this hop, not for this client to say, and not what we say ourselves.
fn passes(name: &str) -> bool {
    if is_hop(name) {
        return false;
    }
    let mut room = [0; 64];
    let lower = lower(name, &mut room);
    let ours = lower.starts_with('x')
        && matches!(
            lower,
            "x-forwarded-for"
                | "x-forwarded-proto"
                | "x-forwarded-host"
                | "x-amzn-trace-id"
                | "x-banyan-override"
        );
    !ours && lower != "traceparent" && !is_refused(lower, false, UnderscoreHeaders::Drop)
}

/// Names that are too long for the room are nobody's that we know.
fn lower<'r>(name: &str, room: &'r mut [u8; 64]) -> &'r str {
    let Some(place) = room.get_mut(..name.len()) else { return "" };
    place.copy_from_slice(name.as_bytes());
    place.make_ascii_lowercase();
    std::str::from_utf8(place).unwrap_or_default()
}

fn trace_headers(headers: &[Header<'_>]) -> HeaderMap {
    let of = |name: &'static str| {
        headers
            .iter()
            .find(move |it| it.name.eq_ignore_ascii_case(name))
            .and_then(|it| Some((HeaderName::from_static(name), HeaderValue::from_bytes(it.value).ok()?)))
    };
    [of("traceparent"), of("x-amzn-trace-id")].into_iter().flatten().collect()
}

pub fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    [name, b": ", value, b"\r\n"].iter().for_each(|part| out.extend_from_slice(part));
}
