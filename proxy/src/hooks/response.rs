//! Phase 4: the answer as the client shall see it.
//!
//! Input: the backend's response head. Output: another try where the rule says so; else `Location`, cookies, CORS, edits, our
//! cookie and the attribution header. Must not: change the body.

use crate::brings::{Brings, Header};
use crate::context::{ATTRIBUTION, Context};
use crate::facts::nominated;
use crate::hooks::again::{AGAIN, plan};
use crate::proxy::Shared;
use crate::wire;
use banyan_routes::decide::{OWN_COOKIE, own_key_text};
use banyan_routes::rewrite::{Addresses, cookie_with_domain, public_location};
use banyan_routes::table::HeaderEdits;
use banyan_routes::terms::FailureKind;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, Version, header};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

/// Before the answer is accepted: a status that the rule answers with another try.
pub fn received(
    shared: &Shared,
    session: &Session,
    ctx: &mut Context,
    response: &ResponseHeader,
) -> Result<()> {
    if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS {
        ctx.interims += 1;
        if ctx.interims > INTERIMS_MAX {
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, "too many interim answers").into_up());
        }
        return Ok(());
    }
    if response.status == StatusCode::SWITCHING_PROTOCOLS {
        let to = response.headers.get(header::UPGRADE);
        let websocket = to.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
        if !(ctx.upgrade && websocket) {
            // Nobody asked for a tunnel; what follows would be read by no one's rules.
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, "101 to an ordinary request").into_up());
        }
        if let Some(opened) = ctx.opened.take() {
            opened.keep();
        }
    }
    let brings = Brings::of_hop(&response.headers);
    if (brings.has(Header::ContentLength) || brings.has(Header::TransferEncoding))
        && let Some(odd) = odd_framing(response)
    {
        return Err(Error::explain(ErrorType::InvalidHTTPHeader, odd).into_up());
    }
    if let Some(sent) = &ctx.sent {
        let took = sent.at.elapsed();
        sent.backend.response_seconds.observe(took.as_secs_f64());
        ctx.first_byte = Some(ctx.started.elapsed());
        if let Some(capture) = &mut ctx.capture {
            capture.took = took;
        }
    }
    if let Some(capture) = &mut ctx.capture {
        capture.status = response.status.as_u16();
        capture.headers = response.headers.clone();
    }
    let status = response.status.as_u16();
    ctx.settle(status >= 500);
    if status == 403 {
        signature_refused(shared, ctx, response);
    }
    if status >= 429 && plan(shared, session, ctx, FailureKind::Status(status), false) {
        let mut error = Error::new_up(AGAIN);
        error.set_retry(true);
        return Err(error);
    }
    Ok(())
}

/// Hints before an answer; more is a flood.
const INTERIMS_MAX: u8 = 16;

/// What a client might find another end of the answer by than we do.
fn odd_framing(response: &ResponseHeader) -> Option<&'static str> {
    let mut lengths = response.headers.get_all(header::CONTENT_LENGTH).iter();
    let digits = |value: &HeaderValue| !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit);
    if lengths.next().is_some_and(|length| !digits(length)) || lengths.next().is_some() {
        return Some("an odd Content-Length");
    }
    let mut codings = response.headers.get_all(header::TRANSFER_ENCODING).iter();
    let chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    if codings.next().is_some_and(|coding| !chunked(coding)) || codings.next().is_some() {
        return Some("an odd Transfer-Encoding");
    }
    None
}

/// A 403 may be the application's own; AWS's names what it did not like of a signature or of its key.
fn signature_refused(shared: &Shared, ctx: &mut Context, response: &ResponseHeader) {
    const NAMES: [&str; 7] = [
        "ExpiredTokenException",
        "IncompleteSignatureException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationTokenException",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    ];
    let Some(sent) = ctx.sent.as_ref().filter(|sent| sent.backend.signature.is_some()) else { return };
    let named = response.headers.get("x-amzn-errortype").and_then(|value| value.to_str().ok());
    let named = named.and_then(|named| named.split(':').next()).unwrap_or_default();
    if let Some(name) = NAMES.iter().find(|name| **name == named) {
        let id = &sent.backend.definition.id;
        shared.metrics.signature_refused.with_label_values(&[&**id]).inc();
        ctx.detail = Some((*name).into());
    }
}

/// The head on its way to the client.
pub fn run(
    shared: &Shared,
    session: &mut Session,
    ctx: &mut Context,
    response: &mut ResponseHeader,
) -> Result<()> {
    if response.status == StatusCode::SWITCHING_PROTOCOLS {
        ctx.status = 101;
        wire::tunnel();
        return attribute(ctx, response);
    }
    if matches!(response.status.as_u16(), 100..=199 | 204) {
        // There is no body, whatever they say.
        response.remove_header(&header::CONTENT_LENGTH);
        response.remove_header(&header::TRANSFER_ENCODING);
    }
    if response.status == StatusCode::NOT_MODIFIED {
        response.remove_header(&header::TRANSFER_ENCODING);
    }
    if response.status.is_informational() {
        return Ok(());
    }
    ctx.status = response.status.as_u16();
    // A client that does not read keeps what is written for it; another request of its connection has another time.
    session.as_downstream_mut().set_write_timeout(ctx.left(true));
    hop_by_hop(session, response)?;
    public(ctx, response)?;
    if let Some(edits) = ctx.route().and_then(|route| route.policy.response_headers.as_ref()) {
        edit_response(response, edits)?;
    }
    if let Some(cors) = ctx.route().and_then(|route| route.policy.cors.as_ref()) {
        for name in [
            "access-control-allow-origin",
            "access-control-allow-credentials",
            "access-control-expose-headers",
        ] {
            response.remove_header(name);
        }
        for (name, value) in cors.response(&session.req_header().headers) {
            response.append_header(name, value)?;
        }
    }
    if let Some(key) = ctx.decision.as_ref().and_then(|decision| decision.fresh_key) {
        response.append_header(header::SET_COOKIE, own_cookie(&own_key_text(&key), ctx.client.https))?;
    }
    if shared.leaving.is_leaving() {
        session.set_keepalive(None);
    }
    attribute(ctx, response)
}

/// A year; identity is worth nothing if it is lost between visits.
fn own_cookie(key: &str, https: bool) -> HeaderValue {
    let secure = if https { "; Secure" } else { "" };
    let text = format!("{OWN_COOKIE}={key}; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

/// What belongs to the connection to the backend stays there.
fn hop_by_hop(session: &mut Session, response: &mut ResponseHeader) -> Result<()> {
    let brings = Brings::of_hop(&response.headers);
    if brings.has(Header::Connection) {
        for name in nominated(&response.headers).iter().filter(|name| *name != "upgrade") {
            response.remove_header(name.as_str());
        }
    }
    if brings.has(Header::HopByHop) || brings.has(Header::Upgrade) {
        for name in ["keep-alive", "proxy-connection", "proxy-authenticate", "te", "trailer", "upgrade"] {
            response.remove_header(name);
        }
    }
    if session.req_header().version <= Version::HTTP_10 && brings.has(Header::TransferEncoding) {
        // An HTTP/1.0 client does not know chunks: the end of the connection is the end of the body.
        response.remove_header(&header::TRANSFER_ENCODING);
        session.set_keepalive(None);
    }
    Ok(())
}

/// `Location` and cookie domains, turned back to what the client knows.
fn public(ctx: &Context, response: &mut ResponseHeader) -> Result<()> {
    let (Some(rewrite), Some(found), Some(sent)) = (ctx.rewrite(), &ctx.found, &ctx.sent) else {
        return Ok(());
    };
    if rewrite.location_public
        && let Some(location) = response.headers.get(header::LOCATION).and_then(|value| value.to_str().ok())
    {
        let sent_host =
            rewrite.host.as_deref().or(sent.backend.host(&sent.endpoint)).unwrap_or(&ctx.public_host);
        let addresses = Addresses {
            backend: &[&sent.endpoint.authority, &sent.endpoint.text, sent_host],
            public_scheme: ctx.client.scheme(),
            public_host: &ctx.public_host,
        };
        if let Some(public) = public_location(location, rewrite, usize::from(found.alternative), &addresses) {
            response.insert_header(header::LOCATION, public)?;
        }
    }
    if let Some(domain) = &rewrite.cookie_domain {
        let cookies: Vec<HeaderValue> =
            response.headers.get_all(header::SET_COOKIE).iter().cloned().collect();
        let changed = |cookie: &HeaderValue| {
            let text = cookie.to_str().ok().and_then(|text| cookie_with_domain(text, domain));
            text.and_then(|text| HeaderValue::from_str(&text).ok())
        };
        if cookies.iter().any(|cookie| changed(cookie).is_some()) {
            response.remove_header(&header::SET_COOKIE);
            for cookie in cookies {
                let cookie = changed(&cookie).unwrap_or(cookie);
                response.append_header(header::SET_COOKIE, cookie)?;
            }
        }
    }
    Ok(())
}

fn edit_response(response: &mut ResponseHeader, edits: &HeaderEdits) -> Result<()> {
    for name in &edits.remove {
        response.remove_header(name);
    }
    for (name, value) in &edits.set {
        response.insert_header(name, value)?;
    }
    for (name, value) in &edits.add {
        response.append_header(name, value)?;
    }
    Ok(())
}

fn attribute(ctx: &Context, response: &mut ResponseHeader) -> Result<()> {
    match ctx.attribution() {
        Some(value) => response.insert_header(ATTRIBUTION, value),
        None => Ok(()),
    }
}

/// Counts a chunk of the answer and holds it to the total time.
pub fn body(ctx: &mut Context, chunk: Option<&Bytes>) -> Result<()> {
    ctx.response_bytes += chunk.map_or(0, |chunk| chunk.len() as u64);
    if let (Some(capture), Some(chunk)) = (&mut ctx.capture, chunk) {
        capture.answer.add(chunk);
    }
    let total = ctx.route().and_then(|route| route.policy.timeouts.total).filter(|_| !ctx.upgrade);
    match total {
        Some(total) if ctx.started.elapsed() > total => {
            ctx.cause = Some("total_timeout");
            Err(Error::explain(ErrorType::ReadTimedout, "total timeout").into_up())
        }
        Some(_) | None => Ok(()),
    }
}
