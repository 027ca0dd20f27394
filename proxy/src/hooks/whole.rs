//! Phase 1, where a side needs the whole body before its first byte: functions, and signed requests with a body.
//!
//! Input: the decision. Output: tries, made by our own client, until one answers; or the request left to the framework where
//! there is no body to hold. Must not: send a request twice that may have had an effect (law 7).

use crate::answers::refuse;
use crate::brings::{Brings, Header, acts_as};
use crate::client::exchange::Answer;
use crate::context::Context;
use crate::facts::nominated;
use crate::hooks::again::{self, AGAIN};
use crate::hooks::held::{self, Held};
use crate::hooks::{fail, invoke, reply, response, rewrite, upstream};
use crate::proxy::Shared;
use crate::targets::backend::RunningBackend;
use crate::targets::dial::SHARE;
use crate::targets::function::PAYLOAD_MAX;
use banyan_routes::ids::Side;
use bytes::Bytes;
use http::{HeaderName, header};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Why a try gave no answer.
pub struct Failure {
    pub error: Box<Error>,
    /// Whether anything of the request was sent.
    pub sent: bool,
}

impl Failure {
    pub fn unsent(error: Box<Error>) -> Failure {
        Failure { error, sent: false }
    }
}

/// `Ok(true)`: answered here.
pub async fn run(shared: &Shared, session: &mut Session, ctx: &mut Context) -> Result<bool> {
    let Some((limit, over)) = needed(ctx) else { return Ok(false) };
    let held =
        match held::read(shared, session, ctx, limit.min(shared.settings.limits.body_bytes), over).await {
            Ok(held) => held,
            Err(error) => return given_up(session, ctx, error, true).await,
        };
    ctx.whole = true;
    let copy = |ctx: &mut Context, body: &Bytes| {
        if let Some(capture) = &mut ctx.capture {
            capture.request.reset();
            capture.request.add(body);
        }
    };
    loop {
        if held.bytes.is_empty() && !leads_to_function(ctx) {
            // Nothing to hold: the framework can do all of it, signatures included.
            ctx.whole = false;
            return Ok(false);
        }
        again::pause(ctx).await;
        let peer = match upstream::peer(shared, session, ctx).await {
            Ok(peer) => *peer,
            Err(error) => return given_up(session, ctx, error, false).await,
        };
        ctx.request_bytes = held.bytes.len() as u64;
        copy(ctx, &held.bytes);
        let Some(backend) = ctx.sent.as_ref().map(|sent| sent.backend.clone()) else { return Ok(false) };
        let reused_may_be_stale = ctx.tries <= again::STALE_TRIES_MAX;
        let tried = one_try(shared, session, ctx, &backend, peer, &held).await;
        let Err(Tried { failure: Failure { error, sent }, stale }) = tried else { return Ok(true) };
        let begun = session.response_written().is_some_and(|response| !response.status.is_informational());
        if begun || *error.esource() == ErrorSource::Downstream {
            return Err(error);
        }
        if *error.etype() == AGAIN {
            continue;
        }
        if *error.etype() == SHARE && ctx.shares < again::SHARES_MAX {
            (ctx.shares, ctx.tries) = (ctx.shares + 1, ctx.tries - 1);
            continue;
        }
        let replayable = ctx.route().is_some_and(|route| {
            route.replayable(acts_as(&session.req_header().method, &session.req_header().headers))
        });
        if stale && replayable && reused_may_be_stale {
            continue;
        }
        if again::kind(&error).is_some() {
            ctx.settle(true);
        }
        let cause = ctx.cause.take();
        let planned = again::kind(&error).is_some_and(|kind| again::plan(shared, session, ctx, kind, !sent));
        if planned {
            ctx.detail = None;
            continue;
        }
        ctx.cause = cause;
        return given_up(session, ctx, error, false).await;
    }
}

/// A failed try; `stale` when it was a pooled connection that the other side had closed.
struct Tried {
    failure: Failure,
    stale: bool,
}

async fn one_try(
    shared: &Shared,
    session: &mut Session,
    ctx: &mut Context,
    backend: &Arc<RunningBackend>,
    peer: HttpPeer,
    held: &Held,
) -> Result<(), Tried> {
    let result = match &backend.function {
        Some(function) => invoke::run(shared, session, ctx, backend, function, peer, held).await,
        None => forward(shared, session, ctx, backend, peer, &held.bytes).await,
    };
    result.map_err(|failure| {
        let stale = failure.error.retry == pingora_error::RetryType::ReusedOnly && failure.sent;
        let mut failure = failure;
        failure.error.set_retry(false);
        Tried { failure, stale }
    })
}

/// How much may be held, and what to say when it is more; `None` when this request needs none of this.
fn needed(ctx: &Context) -> Option<(u64, &'static str)> {
    let route = ctx.route()?;
    let decision = ctx.decision.as_ref()?;
    let falls_back = decision.side == Side::Serverless && route.policy.fallback.is_some();
    let sides: &[Side] = match (decision.side, falls_back) {
        (Side::Legacy, _) => &[Side::Legacy],
        (Side::Serverless, true) => &[Side::Serverless, Side::Legacy],
        (Side::Serverless, false) => &[Side::Serverless],
    };
    let limits = sides.iter().filter_map(|side| limit(ctx, *side));
    limits.min_by_key(|(limit, _)| *limit)
}

/// What a side's backend can take as a whole body.
fn limit(ctx: &Context, side: Side) -> Option<(u64, &'static str)> {
    let backend = backend(ctx, side)?;
    if backend.function.is_some() {
        return Some((PAYLOAD_MAX as u64, "body_too_large_for_function"));
    }
    let sign = backend.definition.sign.as_ref()?;
    Some((sign.body_max_bytes, "body_too_large_to_sign"))
}

fn backend(ctx: &Context, side: Side) -> Option<&Arc<RunningBackend>> {
    let live = ctx.live.as_ref()?;
    Some(&live.serving.backends[ctx.route()?.backend(side)? as usize])
}

/// Whether this try, or the fallback after it, is a function's: the framework cannot call those.
fn leads_to_function(ctx: &Context) -> bool {
    let Some(decision) = &ctx.decision else { return false };
    let is_function = |side| backend(ctx, side).is_some_and(|backend| backend.function.is_some());
    let falls_back = ctx.route().is_some_and(|route| route.policy.fallback.is_some());
    is_function(decision.side) || decision.side == Side::Serverless && falls_back && is_function(Side::Legacy)
}

/// The refusal of a request that no try answered. `unread`: its body is still on the wire.
async fn given_up(session: &mut Session, ctx: &mut Context, error: Box<Error>, unread: bool) -> Result<bool> {
    let (status, cause) = fail::status(&error, ctx);
    if status == fail::CLIENT_GONE {
        return Err(error);
    }
    let cause = ctx.cause.unwrap_or(cause);
    refuse(session, ctx, status, cause, unread).await?;
    Ok(true)
}

/// A backend by URL, with a body that is held.
async fn forward(
    shared: &Shared,
    session: &mut Session,
    ctx: &mut Context,
    backend: &RunningBackend,
    peer: HttpPeer,
    body: &Bytes,
) -> Result<(), Failure> {
    let mut head = plain_head(session.req_header(), body.len()).map_err(Failure::unsent)?;
    rewrite::run(&mut head, ctx, body).map_err(Failure::unsent)?;
    let mut answer = send(shared, session, ctx.left(false), backend, peer, head, body.clone()).await?;
    let head = answer.head.clone();
    let after = |error| Failure { error, sent: true };
    let begin = async {
        response::received(shared, session, ctx, &head)?;
        reply::head(shared, session, ctx, head, None).await
    };
    match begin.await {
        Ok(true) => {}
        Ok(false) => {
            // A body that nobody will see is not waited for.
            answer.abandon().await;
            return Ok(());
        }
        Err(error) => {
            answer.abandon().await;
            return Err(after(error));
        }
    }
    loop {
        let passed = match bounded(session, ctx.left(true), answer.chunk()).await {
            Ok(Some(chunk)) => reply::chunk(session, ctx, chunk).await,
            Ok(None) => break,
            Err(error) => Err(error),
        };
        if let Err(error) = passed {
            answer.abandon().await;
            return Err(after(error));
        }
    }
    answer.release(&shared.supplies.client).await;
    reply::end(session).await.map_err(after)
}

/// One exchange, given up when the client goes.
pub async fn send(
    shared: &Shared,
    session: &mut Session,
    left: Option<Duration>,
    backend: &RunningBackend,
    peer: HttpPeer,
    head: RequestHeader,
    body: Bytes,
) -> Result<Answer, Failure> {
    let client = &shared.supplies.client;
    let cap = backend.cap.as_ref().map(|(cap, _)| cap);
    let mut peer = peer;
    peer.options.custom_l4 = Some(backend.dials.whole.clone());
    let sending = async { Ok(client.send_within(cap, &peer, head, body).await) };
    match bounded(session, left, sending).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(failed)) => {
            let mut error = failed.error;
            if !failed.reused && error.retry == pingora_error::RetryType::ReusedOnly {
                error.set_retry(false);
            }
            Err(Failure { error, sent: failed.sent })
        }
        Err(error) => Err(Failure { error, sent: true }),
    }
}

/// Waits for `work`, for `left` at most, or for the client to go away: nobody would read the answer.
pub async fn bounded<T>(
    session: &mut Session,
    left: Option<Duration>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let late = async {
        match left {
            Some(left) => tokio::time::sleep(left).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        result = work => result,
        () = late => Err(Error::explain(ErrorType::ReadTimedout, "time limit").into_up()),
        gone = session.as_downstream_mut().read_body_or_idle(true) => Err(match gone {
            Ok(_) => Error::explain(ErrorType::ConnectionClosed, "client closed").into_down(),
            Err(error) => error.into_down(),
        }),
    }
}

/// The client's head without what belongs to its connection, for a body of this length.
pub fn plain_head(request: &RequestHeader, length: usize) -> Result<RequestHeader> {
    const HOP_FLAGS: [Header; 5] =
        [Header::Connection, Header::TransferEncoding, Header::Upgrade, Header::Expect, Header::HopByHop];
    const HOP: [HeaderName; 10] = [
        header::CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::EXPECT,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
    ];
    let mut head = request.clone();
    let brings = Brings::of_hop(&request.headers);
    let ours = |name: &str| name == "host" || name.starts_with("x-forwarded-");
    if brings.has(Header::Connection) {
        for name in nominated(&request.headers).iter().filter(|name| !ours(name)) {
            head.remove_header(name.as_str());
        }
    }
    if HOP_FLAGS.into_iter().any(|flag| brings.has(flag)) {
        for name in &HOP {
            head.remove_header(name);
        }
    }
    head.set_version(http::Version::HTTP_11);
    if length > 0 || brings.has(Header::ContentLength) {
        head.insert_header(header::CONTENT_LENGTH, length)?;
    }
    Ok(head)
}
