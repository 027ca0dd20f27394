//! Phase 2: a prepared peer for the side that was chosen; once per try.
//!
//! Input: the decision. Output: a peer with the route's timeouts. Must not: resolve, lock or build TLS configuration.

use crate::context::{Context, Probe, Sent};
use crate::hooks::again;
use crate::proxy::Shared;
use crate::targets::backend::{BREAKER_OPEN, NO_ADDRESS};
use crate::targets::live_breaker::Admission;
use crate::targets::tunnel::{self, TunnelConnect};
use banyan_routes::file::Protocol;
use banyan_routes::ids::Side;
use banyan_routes::table::Timeouts;
use banyan_routes::terms::FailureKind;
use http::{Version, header};
use pingora_core::upstreams::peer::{ALPN, HttpPeer};
use pingora_error::{Error, ErrorType, Result};
use pingora_proxy::Session;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A backend of hundreds of addresses that are all gone must not hold a request for all of them.
const OTHER_ADDRESSES_MAX: usize = 3;

pub fn peer(shared: &Shared, session: &Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
    ctx.tries += 1;
    ctx.request_bytes = 0;
    if let Some(capture) = ctx.capture.as_mut().filter(|_| ctx.tries > 1) {
        // The framework hands the whole body over again with each try.
        capture.request.reset();
    }
    let Some(live) = ctx.live.clone() else { return Err(Error::new_in(ErrorType::HTTPStatus(503))) };
    // What the last try was let through for is over.
    ctx.probe = None;
    let (backend, endpoint, probe) = loop {
        let side = ctx.decision.as_ref().map_or(Side::Legacy, |decision| decision.side);
        let number = ctx.route().and_then(|route| route.backend(side));
        let Some(backend) = number.map(|number| live.serving.backends[number as usize].clone()) else {
            return Err(Error::new_in(ErrorType::HTTPStatus(503)));
        };
        let avoid = ctx.sent.as_ref().filter(|_| ctx.failed.is_some()).map(|sent| sent.endpoint.address);
        let cause = match (backend.authorised(), backend.pick(avoid)) {
            (Ok(()), Some(endpoint)) => match backend.admit() {
                Admission::Free => break (backend, endpoint, false),
                Admission::Probe => break (backend, endpoint, true),
                Admission::Refused(_) => BREAKER_OPEN,
            },
            (Err(cause), _) => cause,
            (Ok(()), None) => NO_ADDRESS,
        };
        if !again::fall_back(shared, ctx, FailureKind::Connect) {
            ctx.cause = Some(cause);
            return Err(Error::explain(ErrorType::HTTPStatus(503), cause));
        }
    };
    let timeouts = ctx.route().map(|route| route.policy.timeouts).unwrap_or_default();
    let remaining = timeouts.total.map(|total| total.saturating_sub(ctx.started.elapsed()));
    if remaining.is_some_and(|remaining| remaining.is_zero()) {
        ctx.cause = Some("total_timeout");
        return Err(Error::explain(ErrorType::HTTPStatus(504), "total timeout"));
    }
    let mut peer = Box::new(endpoint.peer.clone());
    set_timeouts(&mut peer, &timeouts, remaining);
    let request = session.req_header();
    if ctx.upgrade || request.version == Version::HTTP_10 {
        // Websockets have no form over HTTP/2 here, and an HTTP/1.0 client needs an answer whose framing we can change.
        peer.options.alpn = ALPN::H1;
    }
    if ctx.upgrade {
        peer.options.read_timeout = None;
        peer.options.custom_l4 = Some(Arc::new(TunnelConnect { timeout: peer.options.connection_timeout }));
        peer.group_key ^= tunnel::GROUP;
    }
    let bodyless = ctx.whole
        || !request.headers.contains_key(header::TRANSFER_ENCODING)
            && request.headers.get(header::CONTENT_LENGTH).is_none_or(|length| length.as_bytes() == b"0")
            && request.version != Version::HTTP_2;
    if !bodyless && !matches!(peer.options.alpn, ALPN::H1) && backend.definition.protocol != Protocol::H1 {
        // Over HTTP/2 the wait for an answer begins with the first byte sent, so a long upload or stream would be cut.
        peer.options.read_timeout = remaining;
    }
    // Once per backend: the fallback's has its own addresses.
    if ctx.sent.as_ref().is_none_or(|sent| !Arc::ptr_eq(&sent.backend, &backend)) {
        ctx.other_addresses = backend.endpoints().len().saturating_sub(1).min(OTHER_ADDRESSES_MAX);
    }
    ctx.probe = probe.then(|| Probe(backend.clone()));
    ctx.sent = Some(Sent { backend, endpoint: Arc::clone(&endpoint), at: Instant::now(), settled: false });
    Ok(peer)
}

fn set_timeouts(peer: &mut HttpPeer, timeouts: &Timeouts, remaining: Option<Duration>) {
    let least = |parts: [Option<Duration>; 3]| parts.into_iter().flatten().min();
    let options = &mut peer.options;
    options.connection_timeout = least([timeouts.connect, timeouts.per_try, remaining]);
    options.total_connection_timeout = options.connection_timeout;
    options.read_timeout = least([timeouts.first_byte, timeouts.per_try, remaining]);
    options.write_timeout = least([timeouts.first_byte, remaining, None]);
}
