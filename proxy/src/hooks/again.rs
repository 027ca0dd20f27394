//! After a failed try: the same side again, the other side, or nobody.
//!
//! Input: what failed, and how much of the request was sent. Output: whether the framework shall try again, with the decision
//! changed where that means legacy. Must not: send a request twice that may have had an effect (law 7), or after a byte of
//! an answer went out.

use crate::brings::acts_as;
use crate::context::Context;
use crate::proxy::Shared;
use crate::targets::dial::SHARE;
use banyan_routes::decide::Reason;
use banyan_routes::ids::Side;
use banyan_routes::table::Stage;
use banyan_routes::terms::FailureKind;
use pingora_core::protocols::ALPN;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType};
use pingora_proxy::Session;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Marks an error that has been turned into another try.
pub const AGAIN: ErrorType = ErrorType::Custom("try again");

/// Transparent tries on a fresh connection after a pooled one turned out to be closed.
pub const STALE_TRIES_MAX: u32 = 3;

/// How often a request is sent back to share a connection; each time something has happened to it.
pub const SHARES_MAX: u32 = 1_000;

/// Which failure this is, when it is the backend's.
pub fn kind(error: &Error) -> Option<FailureKind> {
    use ErrorType::*;
    if *error.esource() != ErrorSource::Upstream {
        return None;
    }
    Some(match error.etype() {
        ConnectTimedout | ConnectRefused | ConnectNoRoute | ConnectError | ConnectProxyFailure
        | SocketError | BindError => FailureKind::Connect,
        TLSHandshakeFailure | TLSHandshakeTimedout | InvalidCert | HandshakeError | TLSWantX509Lookup => {
            FailureKind::Connect
        }
        ReadTimedout | WriteTimedout => FailureKind::Timeout,
        HTTPStatus(status) => FailureKind::Status(*status),
        // A broken answer is what a gateway calls 502.
        _ => FailureKind::Status(502),
    })
}

/// Decides about another try and prepares the context for it.
pub fn plan(
    shared: &Shared,
    session: &Session,
    ctx: &mut Context,
    kind: FailureKind,
    nothing_sent: bool,
) -> bool {
    ctx.failed = Some(kind);
    let request = session.as_downstream();
    let answered = request.response_written().is_some_and(|response| !response.status.is_informational());
    if answered || request.retry_buffer_truncated() {
        return false;
    }
    let method = acts_as(&request.req_header().method, &request.req_header().headers);
    let Some(route) = ctx.route() else { return false };
    if !nothing_sent && !route.replayable(method) {
        return false;
    }
    if route.policy.timeouts.total.is_some_and(|total| ctx.started.elapsed() >= total) {
        return false;
    }
    if nothing_sent && kind == FailureKind::Connect && ctx.other_addresses > 0 {
        // Nothing has been sent, so no rule is needed to ask the backend's next address.
        ctx.other_addresses -= 1;
        return true;
    }
    let retry =
        route.policy.retry.as_ref().filter(|retry| ctx.retries < retry.attempts && retry.on.contains(&kind));
    if let Some(retry) = retry
        && ctx.runtime().is_some_and(|runtime| runtime.may_retry(retry.budget.get()))
    {
        if let Some(runtime) = ctx.runtime() {
            let name = runtime.metrics.name(&shared.metrics, &route.id);
            shared.metrics.retries.with_label_values(&[name]).inc();
        }
        ctx.retries += 1;
        ctx.pause = true;
        return true;
    }
    fall_back(shared, ctx, kind)
}

/// Between tries on the same side, so that a backend in trouble is not hit by all of them at once: random, up to 25 ms before the
/// first retry and twice as much before each further one, at most a second.
pub async fn pause(ctx: &mut Context) {
    if std::mem::take(&mut ctx.pause) {
        let most_ms = 25u64.saturating_mul(1 << ctx.retries.saturating_sub(1).min(6)).min(1_000);
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..=most_ms))).await;
    }
}

/// Serverless failed and the rule allows it: legacy answers, with the reason `fallback`.
pub fn fall_back(shared: &Shared, ctx: &mut Context, kind: FailureKind) -> bool {
    let Some(route) = ctx.route() else { return false };
    let serverless = ctx.decision.as_ref().is_some_and(|decision| decision.side == Side::Serverless);
    let possible = serverless && route.stage != Stage::Retired && route.backend(Side::Legacy).is_some();
    let elapsed = ctx.started.elapsed();
    let allowed = route.policy.fallback.as_ref().is_some_and(|fallback| {
        fallback.on.contains(&kind) && fallback.within.is_none_or(|within| elapsed <= within)
    });
    if !possible || !allowed {
        return false;
    }
    if let Some(runtime) = ctx.runtime() {
        let name = runtime.metrics.name(&shared.metrics, &route.id);
        shared.metrics.fallbacks.with_label_values(&[name]).inc();
        runtime.metrics.fallbacks.fetch_add(1, Ordering::Relaxed);
    }
    if let Some(decision) = &mut ctx.decision {
        decision.side = Side::Legacy;
        decision.reason = Reason::Fallback;
    }
    true
}

/// Nothing was sent: the connection could not be made.
pub fn after_connect(
    shared: &Shared,
    session: &Session,
    ctx: &mut Context,
    mut error: Box<Error>,
) -> Box<Error> {
    if *error.etype() == SHARE && ctx.shares < SHARES_MAX {
        // Not a failure of anybody.
        (ctx.shares, ctx.tries) = (ctx.shares + 1, ctx.tries - 1);
        error.set_retry(true);
        return error;
    }
    let kind = kind(&error).unwrap_or(FailureKind::Connect);
    ctx.settle(true);
    error.set_retry(plan(shared, session, ctx, kind, true));
    error
}

/// Whether the backend was waited for in vain while it may wait itself: for the rest of a body that its client does not send. A client that asks first
/// (`Expect`), or sends messages (gRPC), may wait for the backend's word.
fn may_be_the_clients(session: &mut Session, ctx: &Context, error: &Error) -> bool {
    *error.esource() == ErrorSource::Upstream
        && *error.etype() == ErrorType::ReadTimedout
        && !ctx.messages
        && session.response_written().is_none()
        && !session.req_header().headers.contains_key(http::header::EXPECT)
        && !session.as_downstream_mut().is_body_done()
}

/// Something was sent, or at least begun.
pub fn after_sending(
    shared: &Shared,
    peer: &HttpPeer,
    session: &mut Session,
    ctx: &mut Context,
    mut error: Box<Error>,
    reused: bool,
) -> Box<Error> {
    // Every way out must leave this decided: the framework panics on one that is not.
    error.retry.decide_reuse(reused);
    if may_be_the_clients(session, ctx, &error) {
        if !matches!(peer.options.alpn, ALPN::H1) {
            // Over HTTP/2 that time is the whole of the request's: the client may be sending still, or the backend not reading. Nobody is blamed.
            error.set_retry(false);
            return error;
        }
        // While bytes of the client's wait for the backend, it is the writing that times out.
        error.as_down();
    }
    if *error.etype() == AGAIN {
        return error;
    }
    let Some(kind) = kind(&error) else {
        error.set_retry(false);
        return error;
    };
    let stale = error.retry();
    if !stale {
        ctx.settle(true);
    }
    let request = session.as_downstream();
    let fresh = request.response_written().is_none() && !request.retry_buffer_truncated();
    let method = acts_as(&request.req_header().method, &request.req_header().headers);
    let replayable = ctx.route().is_some_and(|route| route.replayable(method));
    let again = (stale && fresh && replayable && ctx.tries <= STALE_TRIES_MAX)
        || plan(shared, session, ctx, kind, false);
    error.set_retry(again);
    error
}
