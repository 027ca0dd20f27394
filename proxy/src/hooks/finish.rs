//! Phase 5: the request is over: counted, timed and logged.
//!
//! Input: the context, and the error if there was one. Output: metrics and one access log line. Must not: block: the
//! connection is not reused before this returns.

use crate::access_log::{self, Line, NAME_MAX, PATH_MAX, cut, key, quoted};
use crate::brings::Header;
use crate::context::Context;
use crate::hooks::fail;
use crate::metrics::{NONE, Seen};
use crate::proxy::Shared;
use crate::shadow::queue::{Ask, Exchange};
use crate::spans::{Attribute, Kind, Span};
use crate::tap::Decided;
use crate::trace::{TRACESTATE, Trace};
use banyan_routes::evidence::Loss;
use banyan_routes::ids::Side;
use banyan_routes::path::split_target;
use banyan_routes::request::bare_host;
use banyan_routes::table::Stage;
use http::{Version, header};
use pingora_error::Error;
use pingora_proxy::Session;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of `tracestate` that a span carries.
const STATE_MAX: usize = 512;

pub fn run(shared: &Shared, session: &Session, error: Option<&Error>, ctx: &mut Context) {
    if let Some(error) = error
        && ctx.cause.is_none()
    {
        let (status, cause) = fail::status(error, ctx);
        ctx.cause = Some(cause);
        // Once an answer has begun its status stands; the cause says that it was cut short.
        if ctx.status == 0 || status == fail::CLIENT_GONE {
            ctx.status = status;
        }
    }
    let elapsed = ctx.started.elapsed();
    if !shared.unobserved {
        count(shared, session, ctx, elapsed);
    }
    let shadow = if ctx.capture.is_some() { mirror(shared, session, error, ctx) } else { None };
    let failed = ctx.status >= 500;
    if shared.spans.wants(&ctx.trace, failed) {
        shared.spans.offer(span(session, ctx, elapsed, failed));
    }
    let logged = shared.log.is_on() && sampled(shared, ctx) && !shared.unobserved;
    let tapped = shared.taps.any();
    if logged || tapped {
        let write = |line: &mut Line<'_>| write(line, shared, session, ctx, elapsed, shadow.as_ref());
        if tapped {
            let (side, reason) = words(ctx);
            let route = ctx.route().map_or(NONE, |route| &route.id);
            shared
                .taps
                .offer(&Decided { route, side, reason, status: ctx.status }, || access_log::line(write));
        }
        if logged {
            shared.log.send(write);
        }
    }
}

/// Side and reason, as metrics and log call them.
fn words(ctx: &Context) -> (&'static str, &'static str) {
    ctx.decision.as_ref().map_or((NONE, NONE), |it| (it.side.as_str(), it.reason.as_str()))
}

fn count(shared: &Shared, session: &Session, ctx: &Context, took: Duration) {
    let decision = ctx.decision.as_ref().map(|decision| (decision.side, decision.reason));
    match (ctx.runtime(), ctx.route()) {
        (Some(runtime), Some(route)) => {
            let seen = Seen { decision, code: ctx.status, took, trace_id: ctx.trace.trace_id };
            runtime.metrics.count(&shared.metrics, &route.id, &seen);
            // A side that is to be switched off: who still comes to it is few, and worth a name.
            if route.quiet_for.is_some()
                && route.stage == Stage::Serverless
                && let Some((Side::Legacy, reason)) = decision
            {
                let agent = session.req_header().headers.get(header::USER_AGENT);
                let agent = agent.and_then(|agent| agent.to_str().ok()).unwrap_or_default();
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
                runtime.watched().callers.see(ctx.client.address, agent, reason.as_str(), now);
            }
        }
        _ => {
            let code = ctx.status.to_string();
            shared.metrics.requests.with_label_values(&[NONE, NONE, NONE, &code]).inc();
        }
    }
    if let Some(cause) = ctx.cause {
        shared.metrics.refused.with_label_values(&[cause]).inc();
    }
}

/// The request as a collector knows it. No query, like the log.
fn span(session: &Session, ctx: &Context, took: Duration, failed: bool) -> Span {
    let request = session.req_header();
    let target = String::from_utf8_lossy(request.raw_path());
    let (side, reason) = words(ctx);
    let route = ctx.route().map_or(NONE, |route| &route.id);
    let mut attributes = vec![
        ("http.request.method", Attribute::from(request.method.as_str())),
        ("url.path", cut(split_target(&target).0, PATH_MAX).into()),
        ("url.scheme", ctx.client.scheme().into()),
        ("server.address", cut(bare_host(&ctx.public_host), NAME_MAX).into()),
        ("http.response.status_code", u64::from(ctx.status).into()),
        ("banyan.route", route.into()),
        ("banyan.side", side.into()),
        ("banyan.reason", reason.into()),
    ];
    if let Some(live) = &ctx.live {
        attributes.push(("banyan.revision", live.serving.table.revision.as_str().into()));
    }
    if let Some(sent) = &ctx.sent {
        attributes.push(("banyan.backend", (&*sent.backend.definition.id).into()));
    }
    if let Some(cause) = ctx.cause {
        attributes.push(("error.type", cause.into()));
    }
    let name = [request.method.as_str(), " ", route].concat().into();
    let start = SystemTime::now().checked_sub(took).unwrap_or(UNIX_EPOCH);
    let state = request.headers.get(TRACESTATE).filter(|_| ctx.trace.from_w3c);
    // As much as everybody has to carry (W3C Trace Context, 3.3.1.5); a part of it would say something else.
    let state = state.and_then(|state| state.to_str().ok()).filter(|state| state.len() <= STATE_MAX);
    let state = state.map(Box::from);
    Span { trace: ctx.trace, kind: Kind::Server, linked: None, state, name, start, took, failed, attributes }
}

/// Hands a sampled request over, and says under which span its copy goes. One that was cut short is counted, and not compared with a whole one.
fn mirror(shared: &Shared, session: &Session, error: Option<&Error>, ctx: &mut Context) -> Option<Trace> {
    let whole = error.is_none() && ctx.cause.is_none() && ctx.status != 0;
    let mut capture = ctx.capture.take()?;
    let (live, found, decision) = (ctx.live.as_ref()?, ctx.found.as_ref()?, ctx.decision.as_ref()?);
    let loss = match capture.status {
        // The side that was to be the shadow has answered, after the other had failed.
        _ if Some(decision.side) == capture.shadow => Some(Loss::Fallback),
        // An answer to a condition or a range; the copy asks without them.
        206 | 304 | 412 | 416 if ctx.brings.has(Header::Condition) => Some(Loss::Conditional),
        _ => None,
    };
    if let Some(loss) = loss {
        let runtime = &live.serving.routes[found.route as usize];
        runtime.lose_of(live.number, &shared.metrics, &live.serving.table.route(found.route).id, loss);
        return None;
    }
    let ask = Ask {
        live: live.clone(),
        found: found.clone(),
        decision: decision.clone(),
        client: ctx.client,
        public_host: ctx.public_host.clone(),
        brings: ctx.brings,
        trace: ctx.trace,
        shadow: ctx.trace.child(),
        head: session.req_header().clone(),
        http2: session.as_downstream().is_http2(),
    };
    capture.cold = ctx.report.is_some_and(|report| report.init.is_some());
    let shadow = ask.shadow;
    shared.shadow.offer(Exchange { ask, capture }, whole).then_some(shadow)
}

/// Failures always; successes by the share in the settings, chosen by the trace so that replicas agree.
fn sampled(shared: &Shared, ctx: &Context) -> bool {
    let share = shared.settings.observe.sample;
    ctx.status >= 400 || ctx.cause.is_some() || ctx.trace.falls_in(share)
}

/// The request as the log knows it.
fn write(
    line: &mut Line<'_>,
    shared: &Shared,
    session: &Session,
    ctx: &Context,
    elapsed: Duration,
    shadow: Option<&Trace>,
) {
    let request = session.req_header();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    line.seconds(key!("time"), now);
    line.clean(quoted!("trace_id"), ctx.trace.id());
    line.clean(quoted!("span_id"), ctx.trace.span());
    if let Some(shadow) = shadow {
        line.clean(quoted!("shadow_id"), shadow.span());
    }
    line.text(quoted!("http.request.method"), request.method.as_str());
    let target = request.raw_path();
    let path = memchr::memchr(b'?', target).map_or(target, |query| &target[..query]);
    line.foreign(quoted!("url.path"), path, PATH_MAX);
    line.clean(quoted!("url.scheme"), ctx.client.scheme());
    let host = bare_host(&ctx.public_host);
    line.text(quoted!("server.address"), cut(host, NAME_MAX));
    if let Some(port) = ctx.public_host[host.len()..].strip_prefix(':').and_then(|port| port.parse().ok()) {
        line.number(key!("server.port"), port);
    }
    line.clean(quoted!("network.protocol.version"), version(request.version));
    line.address(quoted!("client.address"), ctx.client.address);
    if let Some(endpoint) = &ctx.endpoint {
        line.text(quoted!("client.vpce"), endpoint);
    }
    if let Some(agent) = request.headers.get(header::USER_AGENT) {
        line.foreign(quoted!("user_agent.original"), agent.as_bytes(), NAME_MAX);
    }
    let listener = shared.settings.listeners.get(ctx.listener).map_or("", |listener| &listener.name);
    line.clean(quoted!("listener"), listener);
    line.number(key!("http.response.status_code"), u64::from(ctx.status));
    if let Some(route) = ctx.route() {
        line.clean(quoted!("route"), route.id.as_bytes());
        line.clean(quoted!("stage"), route.stage.as_str());
    }
    // `none` for answers of Banyan itself, as metrics call them.
    let (side, reason) = words(ctx);
    line.clean(quoted!("side"), side);
    line.clean(quoted!("reason"), reason);
    if let Some(bucket) = ctx.decision.as_ref().and_then(|decision| decision.bucket) {
        line.number(key!("bucket"), u64::from(bucket));
    }
    if let Some(sent) = &ctx.sent {
        line.clean(quoted!("backend"), sent.backend.definition.id.as_bytes());
        line.clean(quoted!("backend.address"), sent.endpoint.text.as_bytes());
    }
    if let Some(live) = &ctx.live {
        line.clean(quoted!("revision"), live.serving.table.revision.as_str());
    }
    line.seconds(key!("duration"), elapsed);
    if let Some(first_byte) = ctx.first_byte {
        line.seconds(key!("first_byte"), first_byte);
    }
    line.number(key!("http.request.header.size"), ctx.brings.bytes);
    line.number(key!("http.request.body.size"), ctx.request_bytes);
    line.number(key!("http.response.body.size"), ctx.response_bytes);
    if ctx.tries > 1 {
        line.number(key!("tries"), u64::from(ctx.tries));
    }
    if ctx.upgrade {
        line.flag(key!("upgrade"));
    }
    if let Some(report) = &ctx.report {
        line.seconds(key!("faas.billed"), report.billed);
        if let Some(init) = report.init {
            line.seconds(key!("faas.init"), init);
            line.flag(key!("faas.coldstart"));
        }
    }
    if let Some(cause) = ctx.cause {
        line.clean(quoted!("cause"), cause);
    }
    if let Some(detail) = &ctx.detail {
        line.text(quoted!("detail"), detail);
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        Version::HTTP_09 => "0.9",
        _ => "1.1",
    }
}
