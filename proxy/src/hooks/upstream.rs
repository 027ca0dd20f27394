//! Phase 2: a prepared peer for the side that was chosen; once per try.
//!
//! Input: the decision. Output: a peer with the route's timeouts, and a turn on a backend with a cap. Must not: resolve or build TLS
//! configuration, or lock anything where there is no cap.

use crate::answers::Cause;
use crate::caps::{Closing, Full, Permit, SOON};
use crate::context::{Context, Probe, Sent};
use crate::hooks::again;
use crate::live::Live;
use crate::proxy::Shared;
use crate::targets::backend::{BREAKER_OPEN, Endpoint, NO_ADDRESS, RunningBackend};
use crate::targets::dial::Capped;
use crate::targets::live_breaker::Admission;
use crate::targets::tunnel::{self, TunnelConnect};
use banyan_routes::egress::{Caller, Denied, EgressRule};
use banyan_routes::file::Protocol;
use banyan_routes::ids::Side;
use banyan_routes::table::{Route, Timeouts};
use banyan_routes::terms::FailureKind;
use http::{Version, header};
use pingora_core::upstreams::peer::{ALPN, HttpPeer};
use pingora_error::{Error, ErrorType, Result};
use pingora_proxy::Session;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A backend of hundreds of addresses that are all gone must not hold a request for all of them.
const OTHER_ADDRESSES_MAX: usize = 3;

pub async fn peer(shared: &Shared, session: &Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
    ctx.tries += 1;
    ctx.request_bytes = 0;
    if let Some(capture) = ctx.capture.as_mut().filter(|_| ctx.tries > 1) {
        // The framework hands the whole body over again with each try.
        capture.request.reset();
    }
    let Some(live) = ctx.live.clone() else { return Err(Error::new_in(ErrorType::HTTPStatus(503))) };
    let alone = ctx.upgrade || session.req_header().version == Version::HTTP_10;
    // What the last try was let through for is over.
    (ctx.probe, ctx.in_use) = (None, None);
    let (backend, endpoint) = loop {
        let side = ctx.decision.as_ref().map_or(Side::Legacy, |decision| decision.side);
        let number = ctx.route().and_then(|route| route.backend(side));
        let Some(number) = number else { return Err(Error::new_in(ErrorType::HTTPStatus(503))) };
        let backend = live.serving.backends[number as usize].clone();
        let rule = match let_out(&live, ctx, number) {
            Ok(rule) => rule,
            Err(cause) => return Err(refused(ctx, cause)),
        };
        let cause = match ready(ctx, &backend, alone).await {
            Ok(endpoint) if rule.is_some_and(|rule| !rule.may_send_to(endpoint.address.ip())) => {
                return Err(refused(ctx, "egress_address"));
            }
            Ok(endpoint) => break (backend, endpoint),
            Err(cause) => cause,
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
    if alone {
        // Websockets have no form over HTTP/2 here, and an HTTP/1.0 client needs an answer whose framing we can change.
        peer.options.alpn = ALPN::H1;
        peer.options.custom_l4 = Some(backend.dials.alone.clone());
    }
    if ctx.upgrade {
        peer.options.read_timeout = None;
        let (connect, opened) = TunnelConnect::new(backend.dials.alone.clone());
        peer.options.custom_l4 = Some(Arc::new(connect));
        ctx.opened = Some(opened);
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
    ctx.sent = Some(Sent::new(backend, endpoint, false));
    Ok(peer)
}

/// An address; or why nothing can be sent now.
async fn ready(
    ctx: &mut Context,
    backend: &Arc<RunningBackend>,
    alone: bool,
) -> Result<Arc<Endpoint>, Cause> {
    let cost = backend.cost(alone);
    // One that is good for this try as well keeps its turn; any other would be waited for in vain.
    ctx.permit =
        ctx.permit.take().filter(|it| backend.cap.as_ref().is_some_and(|(cap, _)| it.is_for(cap, cost)));
    backend.authorised()?;
    if let Some(capped) = backend.cap.as_ref().filter(|_| ctx.permit.is_none()) {
        // In a box of its own: few backends have a cap.
        ctx.permit = Some(Box::pin(turn(ctx, backend, capped, cost)).await?);
    }
    let avoid = ctx.sent.as_ref().filter(|_| ctx.failed.is_some()).map(|sent| sent.endpoint.address);
    let endpoint = backend.pick(avoid).ok_or(NO_ADDRESS)?;
    match backend.admit() {
        Admission::Free => Ok(endpoint),
        Admission::Probe => {
            // Whatever ends this try gives it back.
            ctx.probe = Some(Probe(backend.clone()));
            Ok(endpoint)
        }
        Admission::Refused(_) => Err(BREAKER_OPEN),
    }
}

/// Its turn among those that want a connection: in order for one caller, by turns between callers.
async fn turn(
    ctx: &Context,
    backend: &RunningBackend,
    (cap, rule): &Capped,
    cost: u32,
) -> Result<Permit, Cause> {
    let begun = Instant::now();
    let total = ctx.route().and_then(|route| route.policy.timeouts.total);
    let left = total.map_or(Duration::MAX, |total| total.saturating_sub(ctx.started.elapsed()));
    let entering = async {
        match &ctx.endpoint {
            Some(endpoint) => cap.enter(rule, cost, &**endpoint).await,
            None => cap.enter(rule, cost, &ctx.client.address).await,
        }
    };
    let entered = tokio::time::timeout(left, entering).await.unwrap_or(Err(Full::Late));
    backend.queue_seconds.observe(begun.elapsed().as_secs_f64());
    entered.map_err(|full| match full {
        Full::Queue => "backend_queue_full",
        Full::Late => "backend_queue_timeout",
    })
}

fn refused(ctx: &mut Context, cause: Cause) -> Box<Error> {
    ctx.cause = Some(cause);
    Error::explain(ErrorType::HTTPStatus(403), cause)
}

/// The rule by which this caller may be sent there, on a listener that has egress rules; or why it may not.
fn let_out<'a>(live: &'a Live, ctx: &Context, backend: u32) -> Result<Option<&'a EgressRule>, Cause> {
    let exits = live.serving.exits.get(ctx.listener).map_or(&[][..], Vec::as_slice);
    if exits.is_empty() {
        return Ok(None);
    }
    let (address, endpoint) = (Some(ctx.client.address), ctx.endpoint.clone());
    let caller = Caller { address, endpoint, ..Caller::default() };
    let mut nearest = Denied::Caller;
    for exit in exits {
        let rule = &live.serving.table.egress[exit.rule];
        if rule.callers.have(&caller) {
            match exit.keeps_from[backend as usize] {
                None => return Ok(Some(rule)),
                Some(miss) => nearest = nearest.max(miss),
            }
        }
    }
    Err(nearest.cause())
}

/// Whether this caller may be sent to every backend of a route.
pub fn lets_out_all(live: &Live, ctx: &Context, route: &Route) -> bool {
    Side::ALL
        .into_iter()
        .filter_map(|side| route.backend(side))
        .all(|number| let_out(live, ctx, number).is_ok())
}

/// Which connection it has become: whoever rests on it now, it is this request's.
pub async fn connected(ctx: &mut Context, socket: RawFd) -> Result<()> {
    let Some((cap, _)) = ctx.sent.as_ref().and_then(|sent| sent.backend.cap.as_ref()) else { return Ok(()) };
    match cap.begin(socket) {
        Ok(used) => ctx.in_use = used,
        Err(Closing) => {
            // It was closed for another one between the pool and here; nothing was sent. Whoever keeps it has to see that first.
            tokio::time::sleep(SOON).await;
            ctx.tries -= 1;
            let mut error = Error::explain(again::AGAIN, "closed for another connection");
            error.set_retry(true);
            return Err(error);
        }
    }
    Ok(())
}

fn set_timeouts(peer: &mut HttpPeer, timeouts: &Timeouts, remaining: Option<Duration>) {
    let least = |parts: [Option<Duration>; 3]| parts.into_iter().flatten().min();
    let options = &mut peer.options;
    options.connection_timeout = least([timeouts.connect, timeouts.per_try, remaining]);
    options.total_connection_timeout = options.connection_timeout;
    options.read_timeout = least([timeouts.first_byte, timeouts.per_try, remaining]);
    options.write_timeout = least([timeouts.first_byte, remaining, None]);
}
