//! Phase 3: the request as the backend shall see it.
//!
//! Input: the head, cleaned of hop-by-hop headers by the framework. Output: path, host, forwarding and trace headers, and the
//! route's edits. Must not: pass on anything that only we may say.

use crate::brings::Header;
use crate::context::Context;
use crate::facts::{X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO};
use crate::hooks::hygiene;
use crate::settings::Limits;
use crate::trace::{TRACEPARENT, TRACESTATE, XRAY};
use banyan_routes::address::AddressText;
use banyan_routes::table::HeaderEdits;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Uri, header};
use pingora_error::{Error, ErrorType, OrErr, Result};
use pingora_http::RequestHeader;
use std::time::Duration;

// As text: the framework copies a `HeaderName` before it reads it again.
const SHADOW: &str = "x-banyan-shadow";
const FOR: &str = X_FORWARDED_FOR;
const PROTO: &str = X_FORWARDED_PROTO;
const HOST: &str = X_FORWARDED_HOST;

/// `body` is the whole of it where the backend needs it whole; empty otherwise.
pub fn run(request: &mut RequestHeader, ctx: &mut Context, body: &[u8]) -> Result<()> {
    shape(request, ctx)?;
    let Some(sent) = &ctx.sent else { return Ok(()) };
    if let Err((status, cause)) = sent.backend.authorise(request, body) {
        ctx.cause = Some(cause);
        return Err(Error::explain(ErrorType::HTTPStatus(status), cause));
    }
    Ok(())
}

/// Everything but proofs of who is calling.
pub fn shape(request: &mut RequestHeader, ctx: &Context) -> Result<()> {
    roomy(request)?;
    target(request, ctx)?;
    forwarded(request, ctx)?;
    host(request, ctx)?;
    if ctx.brings.has(Header::Cookie) {
        one_cookie_line(request)?;
    }
    if ctx.shadow {
        request.insert_header(SHADOW, HeaderValue::from_static("1"))?;
    }
    if matches!(request.method, Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS)
        && (ctx.brings.has(Header::ContentLength) || ctx.brings.has(Header::TransferEncoding))
        && hygiene::has_body(request)
    {
        // A backend that does not read such a body would take it for the next request on the connection.
        request.insert_header(header::CONNECTION, HeaderValue::from_static("close"))?;
    }
    traced(request, ctx)?;
    if ctx.sent.as_ref().is_some_and(|sent| sent.backend.signature.is_some()) {
        // They would be signed with our key, and say what the client wants said.
        let names = request.headers.keys().filter(|name| name.as_str().starts_with("x-amz-"));
        for name in names.cloned().collect::<Vec<HeaderName>>() {
            request.remove_header(&name);
        }
    }
    if let Some(edits) = ctx.route().and_then(|route| route.policy.request_headers.as_ref()) {
        edit_request(request, edits)?;
    }
    Ok(())
}

/// With so few headers, and room for so many, a map that is made anew costs less than one that grows.
const FEW: usize = 3;
const ROOM: usize = 12;

/// A client that sends a header or two gets maps for a header or two from the framework, which would grow three times for those that are added here.
fn roomy(request: &mut RequestHeader) -> Result<()> {
    let plain = request.raw_path().starts_with(b"/") && request.raw_path_is_utf8();
    if request.headers.len() > FEW || !request.has_case() || !plain || !request.extensions.is_empty() {
        return Ok(());
    }
    let mut head = RequestHeader::build(request.method.clone(), b"/", Some(ROOM))?;
    head.set_uri(request.uri.clone());
    head.set_version(request.version);
    for (name, value) in request.case_header_iter() {
        head.append_header(name.clone(), value.clone())?;
    }
    *request = head;
    Ok(())
}

/// The trace goes on in both forms, under our span.
fn traced(request: &mut RequestHeader, ctx: &Context) -> Result<()> {
    if ctx.trace.is_none() {
        return Ok(());
    }
    // A state belongs to the parent it came with (W3C Trace Context, section 3.3.1).
    if !ctx.trace.from_w3c && ctx.brings.has(Header::TraceState) {
        request.remove_header(TRACESTATE);
    }
    let client = if ctx.brings.has(Header::XRay) { request.headers.get(XRAY) } else { None };
    request.insert_header(XRAY, ctx.trace.xray(client))?;
    request.insert_header(TRACEPARENT, ctx.trace.header())
}

/// The path to send. Untouched when nothing rewrites it: the original bytes go on.
fn target(request: &mut RequestHeader, ctx: &Context) -> Result<()> {
    let Some(found) = &ctx.found else { return Ok(()) };
    let rewrite = ctx.rewrite().and_then(|rewrite| rewrite.path.as_ref());
    let origin_form = request.raw_path().starts_with(b"/");
    let prefix = ctx.sent.as_ref().map_or("", |sent| &sent.backend.definition.path_prefix);
    if rewrite.is_none() && found.normalised.is_none() && origin_form && prefix.is_empty() {
        return Ok(());
    }
    let raw = std::str::from_utf8(request.raw_path()).unwrap_or("/");
    let (path, query) = if origin_form {
        banyan_routes::path::split_target(raw)
    } else {
        (request.uri.path(), request.uri.query())
    };
    let path = found.normalised.as_deref().unwrap_or(path);
    let path = match rewrite {
        Some(rewrite) => rewrite.apply(path, usize::from(found.alternative)),
        None => path.to_owned(),
    };
    let target = query.map_or_else(|| format!("{prefix}{path}"), |query| format!("{prefix}{path}?{query}"));
    let target = PathAndQuery::try_from(target).or_err(ErrorType::InvalidHTTPHeader, "rewritten path")?;
    request.set_uri(Uri::from(target));
    Ok(())
}

/// The Host of the rule, of the backend, or the client's own. Set in any case: over HTTP/2 a rewritten path has lost it.
fn host(request: &mut RequestHeader, ctx: &Context) -> Result<()> {
    let ruled = ctx.rewrite().and_then(|rewrite| rewrite.host.as_deref());
    let backend = ctx.sent.as_ref().and_then(|sent| sent.backend.host(&sent.endpoint));
    let host = ruled.or(backend).unwrap_or(&ctx.public_host);
    if host.is_empty() {
        // An HTTP/1.0 client without a Host; as HTTP/1.1 the request needs one.
        let authority = ctx.sent.as_ref().map_or("", |sent| &sent.endpoint.authority);
        return request.insert_header(header::HOST, authority);
    }
    if request.headers.get(header::HOST).is_some_and(|sent| sent.as_bytes() == host.as_bytes()) {
        return Ok(());
    }
    request.insert_header(header::HOST, host)
}

/// HTTP/2 clients may send a cookie line in pieces; for HTTP/1.1 they are one line (RFC 9113 section 8.2.3).
fn one_cookie_line(request: &mut RequestHeader) -> Result<()> {
    if request.headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return Ok(());
    }
    let lines: Vec<&[u8]> =
        request.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let joined =
        HeaderValue::from_bytes(&lines.join(&b"; "[..])).or_err(ErrorType::InvalidHTTPHeader, "cookies")?;
    request.insert_header(header::COOKIE, joined)
}

/// Who asked, for whom, by which way. What a stranger claims is replaced, what our own proxies say is added to.
fn forwarded(request: &mut RequestHeader, ctx: &Context) -> Result<()> {
    let value =
        |text: &[u8]| HeaderValue::from_bytes(text).or_err(ErrorType::InvalidHTTPHeader, "forwarding header");
    let peer = AddressText::of(ctx.client.peer);
    let peer = peer.as_bytes();
    if ctx.client.trusted {
        let earlier = request.headers.get_all(FOR).iter().filter(|line| line.to_str().is_ok());
        let chain: Vec<&[u8]> = earlier.map(HeaderValue::as_bytes).chain([peer]).collect();
        let chain = value(&chain.join(&b", "[..]))?;
        request.insert_header(FOR, chain)?;
    } else {
        request.insert_header(FOR, value(peer)?)?;
    }
    if !ctx.client.trusted || !request.headers.contains_key(PROTO) {
        request.insert_header(PROTO, HeaderValue::from_static(ctx.client.scheme()))?;
    }
    if !ctx.client.trusted || !request.headers.contains_key(HOST) {
        let host = request.headers.get(header::HOST).filter(|it| it.as_bytes() == ctx.public_host.as_bytes());
        let host = host.cloned().map_or_else(|| value(ctx.public_host.as_bytes()), Ok)?;
        request.insert_header(HOST, host)?;
    }
    request.append_header("via", HeaderValue::from_static("1.1 banyan"))?;
    Ok(())
}

pub fn edit_request(request: &mut RequestHeader, edits: &HeaderEdits) -> Result<()> {
    for name in &edits.remove {
        request.remove_header(name);
    }
    for (name, value) in &edits.set {
        request.insert_header(name, value)?;
    }
    for (name, value) in &edits.add {
        request.append_header(name, value)?;
    }
    Ok(())
}

/// Counts a chunk of the request body against the limit, and holds it to the total time.
pub fn body(ctx: &mut Context, chunk: Option<&bytes::Bytes>, limits: &Limits) -> Result<()> {
    ctx.request_bytes += chunk.map_or(0, |chunk| chunk.len() as u64);
    if let (Some(capture), Some(chunk)) = (&mut ctx.capture, chunk) {
        capture.request.add(chunk);
    }
    let tunnel = ctx.status == 101;
    let total = ctx.route().and_then(|route| route.policy.timeouts.total).filter(|_| !tunnel);
    if total.is_some_and(|total| ctx.started.elapsed() > total) {
        ctx.cause = Some("total_timeout");
        return Err(Error::explain(ErrorType::HTTPStatus(504), "total timeout").into_down());
    }
    if tunnel {
        return Ok(());
    }
    if chunk.is_some() {
        rate(ctx, limits)?;
    }
    if ctx.request_bytes <= limits.body_bytes {
        return Ok(());
    }
    ctx.cause = Some("body_too_large");
    Err(Error::explain(ErrorType::HTTPStatus(413), "request body over the limit").into_down())
}

/// A body that comes a byte at a time holds a place for ever.
const SLOW_AFTER: Duration = Duration::from_secs(10);

/// Whether the body comes fast enough. A stream of messages has no rate.
pub fn rate(ctx: &mut Context, limits: &Limits) -> Result<()> {
    let Some(slowest) = limits.body_rate.filter(|_| !ctx.messages) else { return Ok(()) };
    let so_far = ctx.started.elapsed();
    if so_far <= SLOW_AFTER || ctx.request_bytes as f64 >= slowest as f64 * so_far.as_secs_f64() {
        return Ok(());
    }
    ctx.cause = Some("body_rate");
    Err(Error::explain(ErrorType::HTTPStatus(408), "request body too slow").into_down())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_roomy_is_the_same_request() {
        let written = |head: &RequestHeader| {
            let mut bytes = Vec::new();
            head.header_to_h1_wire(&mut bytes);
            let target = String::from_utf8_lossy(head.raw_path()).into_owned();
            (bytes, target, head.method.clone(), head.version)
        };
        for target in ["/a/b?c=d", "/", "*", "http://h/a", "/\u{e9}"] {
            for count in 0..=FEW + 1 {
                let mut head = RequestHeader::build("PUT", target.as_bytes(), Some(count)).expect("head");
                head.set_version(http::Version::HTTP_11);
                for number in 0..count {
                    head.append_header(format!("X-TeNaNt-{}", number / 2), format!("v{number}"))
                        .expect("header");
                }
                let before = written(&head);
                roomy(&mut head).expect("roomy");
                assert_eq!(written(&head), before, "{target} with {count}");
            }
        }
    }
}
