//! Phase 1: who asks, for what, and which side answers.
//!
//! Input: the request head. Output: route and decision in the context, or an answer of our own. Must not: await anything but
//! writing that answer.

use crate::answers::{answer, refuse};
use crate::authorizers::Refused as Unverified;
use crate::brings::{Brings, Header};
use crate::claims;
use crate::context::Context;
use crate::facts::{self, Client, facts, target};
use crate::fleet_limit::FleetLimit;
use crate::hooks::admission::{Checked, Denied};
use crate::hooks::authorize::{self, Look, Unasked};
use crate::hooks::upstream::lets_out_all;
use crate::hooks::{admission, hygiene};
use crate::live::{Live, RouteRuntime};
use crate::proxy::Shared;
use crate::proxy_protocol::Proxied;
use crate::shadow::tee::Capture;
use crate::trace::Trace;
use banyan_routes::cors::{Added, Cors};
use banyan_routes::decide::{Decision, Reason, Refusal, Shadow, decide, shadow};
use banyan_routes::evidence::Loss;
use banyan_routes::file::Scheme;
use banyan_routes::ids::PPM;
use banyan_routes::ids::Side;
use banyan_routes::override_header::{self, OVERRIDE_HEADER};
use banyan_routes::path::PathFault;
use banyan_routes::request::{RequestFacts, bare_host};
use banyan_routes::table::{Action, Found, Redirect, Route, RouteTable, ShadowRule, Stage, Unroutable};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use pingora_error::Result;
use pingora_proxy::Session;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

/// `Ok(true)`: answered here.
pub async fn run(shared: &Shared, session: &mut Session, ctx: &mut Context) -> Result<bool> {
    identify(shared, session, ctx);
    match hygiene::refusal(&shared.settings.limits, session, ctx.brings) {
        Some((status, cause)) => {
            refuse(session, ctx, status, cause, true).await?;
            return Ok(true);
        }
        None => match chosen(shared, session, ctx).await {
            Next::Forward => {
                if ctx.brings.has(Header::Override) {
                    session.req_header_mut().remove_header(OVERRIDE_HEADER);
                }
                if ctx.brings.has(Header::Expect) {
                    hygiene::expectation(session);
                }
                return Ok(false);
            }
            Next::Refuse(status, cause, close) => refuse(session, ctx, status, cause, close).await?,
            Next::Answer(status, headers, body) => {
                ctx.status = status;
                answer(session, ctx, status, headers, body).await?;
            }
            // Whoever knows has been asked, and asks again: nobody is let through on that.
            Next::Ask(_) => refuse(session, ctx, 503, Unverified::Away.cause(), false).await?,
        },
    }
    Ok(true)
}

/// What happens next, once everybody who has to be asked has been.
async fn chosen(shared: &Shared, session: &Session, ctx: &mut Context) -> Next {
    let mut next = choose(shared, session, ctx);
    for _ in 0..QUESTIONS {
        let Next::Ask(question) = next else { break };
        // In boxes of their own: hardly any request waits for them.
        match question {
            Question::Authorizer(it) => Box::pin(authorize::ask(shared, session, ctx, *it)).await,
            Question::Room(limit, key) => ctx.said = Some(Box::pin(limit.admits(&key)).await),
        }
        next = choose(shared, session, ctx);
    }
    next
}

/// Of one kind each.
const QUESTIONS: usize = 2;

/// What happens after choosing.
enum Next {
    Forward,
    Refuse(u16, &'static str, bool),
    Answer(u16, Added, Bytes),
    Ask(Question),
}

/// What only somebody else knows.
enum Question {
    Authorizer(Box<Unasked>),
    Room(Arc<FleetLimit>, Vec<u8>),
}

impl Next {
    fn denied(ctx: &mut Context, found: Found, denied: Denied) -> Next {
        ctx.found = Some(found);
        ctx.cause = Some(denied.cause);
        Next::Answer(denied.status, denied.headers, denied.body)
    }
}

/// Client, trace and listener, without headers that the client may not use; sets how long the connection may idle afterwards.
fn identify(shared: &Shared, session: &mut Session, ctx: &mut Context) {
    let inet = |address: Option<&pingora_core::protocols::l4::socket::SocketAddr>| {
        address.and_then(|a| a.as_inet().copied())
    };
    let proxied = session.digest().and_then(|digest| digest.proxy_digest.as_ref());
    let proxied = proxied.and_then(|it| it.user_data.as_ref()?.downcast_ref::<Proxied>());
    let seen = proxied.map(|it| it.source).or_else(|| inet(session.client_addr()));
    let peer = seen.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip());
    ctx.endpoint = proxied.and_then(|it| it.endpoint.clone());
    ctx.listener = shared.listener_of(inet(session.server_addr()));
    let tls = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
    let request = session.req_header();
    ctx.client = Client::new(peer, tls, &request.headers, &shared.settings.trusted_proxies);
    let (trusted, underscores) = (ctx.client.trusted, shared.settings.underscore_headers);
    ctx.brings = Brings::of(request, |name| claims::is_refused(name, trusted, underscores));
    if !shared.unobserved {
        let traced = ctx.brings.has(Header::TraceParent) || ctx.brings.has(Header::XRay);
        ctx.trace = Trace::begin(traced.then_some(&request.headers), shared.settings.observe.traces);
    }
    ctx.upgrade = ctx.brings.has(Header::Upgrade) && facts::is_websocket(request);
    ctx.messages = facts::is_grpc(request);
    if ctx.brings.has(Header::Refused) {
        claims::strip(session.req_header_mut(), trusted, underscores);
    }
    // The framework keeps connections for ever after their first request. Only where it is kept at all: setting this turns
    // keep-alive on for HTTP/1.0 clients that did not ask for it.
    // With memory short, nobody stays who may bring nothing for a minute.
    if shared.leaving.is_leaving() || shared.memory.is_short() {
        session.set_keepalive(None);
    } else if session.get_keepalive().is_some() {
        session.set_keepalive(Some(shared.settings.limits.idle.as_secs().max(1)));
    }
    if !ctx.upgrade && ctx.brings.has(Header::Upgrade) {
        // The framework would open a tunnel for it.
        session.req_header_mut().remove_header(&header::UPGRADE);
    }
    // A body that stops coming is given up like a connection that rests; a websocket may be silent.
    session.set_read_timeout(if ctx.upgrade { None } else { Some(shared.settings.limits.idle) });
}

fn choose(shared: &Shared, session: &Session, ctx: &mut Context) -> Next {
    let Some(live) = ctx.live.clone() else { return Next::Refuse(503, "no_rules", false) };
    let request = session.req_header();
    let Some(host) = facts::host(request) else { return Next::Refuse(400, "host_missing", true) };
    if !host.is_empty() && !facts::is_host(host) {
        return Next::Refuse(400, "malformed_host", true);
    }
    if hygiene::is_misdirected(session, host) {
        return Next::Refuse(421, "misdirected", true);
    }
    let Some((path, query)) = target(request) else { return Next::Refuse(400, "ambiguous_path", true) };
    ctx.public_host = host.into();
    let listener = shared.settings.listeners.get(ctx.listener).map_or("", |listener| listener.name.as_str());
    if !hygiene::known_method(&live.serving.table, &request.method) {
        return Next::Refuse(if request.method == Method::TRACE { 405 } else { 501 }, "method", true);
    }
    let endpoint = ctx.endpoint.clone();
    let facts = RequestFacts {
        path,
        query,
        endpoint: endpoint.as_deref(),
        ..facts(request, host, &request.uri, &ctx.client, listener)
    };
    let table = &live.serving.table;
    if let Some(preflight) = preflight(table, &facts) {
        let (found, headers) = preflight;
        ctx.found = Some(found);
        return Next::Answer(204, headers, Bytes::new());
    }
    let found = match table.find(&facts) {
        Ok(found) => found,
        Err(Unroutable::Ambiguous(fault)) => return Next::Refuse(400, ambiguous(fault), true),
        Err(Unroutable::NoRoute) => {
            shared.metrics.unclaimed.inc();
            shared.discovery.see(host, facts.method, path);
            return Next::Refuse(404, "no_route", false);
        }
    };
    let route = table.route(found.route);
    if route.matches.is_empty() {
        shared.metrics.unclaimed.inc();
        shared.discovery.see(host, facts.method, path);
    }
    let claims = match admission::claims(shared, route, &request.headers) {
        Ok(claims) => claims,
        Err(denied) => return Next::denied(ctx, found, denied),
    };
    let facts = RequestFacts { claims: claims.as_deref(), ..facts };
    if let Some(denied) = admission::overload(shared, route.priority) {
        return Next::denied(ctx, found, denied);
    }
    let matched = found.normalised.as_deref().unwrap_or(path);
    match authorize::look(shared, route, &facts, matched, ctx) {
        Look::Passed => {}
        Look::Refused(why) => return Next::denied(ctx, found, admission::unverified(why)),
        Look::Ask(unasked) => {
            ctx.claims.clone_from(&claims);
            ctx.found = Some(found);
            return Next::Ask(Question::Authorizer(unasked));
        }
    }
    let said = ctx.said.take();
    match admission::check(shared, &live, found.route, route, &facts, session, said) {
        Checked::Passed => {}
        Checked::Denied(denied) => return Next::denied(ctx, found, denied),
        Checked::Ask(limit, key) => return Next::Ask(Question::Room(limit, key)),
    }
    let next = match &route.action {
        Action::Forward => side(shared, &live, found.route, &facts, ctx),
        Action::Redirect(redirect) => {
            let path = found.normalised.as_deref().unwrap_or(path);
            Next::Answer(
                redirect.status.as_u16(),
                location(redirect, ctx, path, query, found.alternative),
                Bytes::new(),
            )
        }
        Action::Respond(respond) => {
            let mut headers = respond.headers.clone();
            if !respond.body.is_empty() && !headers.iter().any(|(name, _)| *name == header::CONTENT_TYPE) {
                headers.push((header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")));
            }
            Next::Answer(respond.status.as_u16(), headers, Bytes::copy_from_slice(respond.body.as_bytes()))
        }
    };
    ctx.found = Some(found);
    ctx.claims = claims;
    next
}

/// A preflight asks for another method than its own: the route of that method answers it, if it has `cors`.
fn preflight(table: &RouteTable, facts: &RequestFacts<'_>) -> Option<(Found, Added)> {
    if !Cors::is_preflight(facts.method, facts.headers) {
        return None;
    }
    let wanted = facts.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    let method = Method::from_bytes(wanted.as_bytes()).ok()?;
    let found = table.find(&RequestFacts { method: &method, ..*facts }).ok()?;
    let headers = table.route(found.route).policy.cors.as_ref()?.preflight(facts.headers);
    Some((found, headers))
}

fn side(shared: &Shared, live: &Arc<Live>, index: u32, facts: &RequestFacts<'_>, ctx: &mut Context) -> Next {
    let table = &live.serving.table;
    let route = table.route(index);
    let runtime = &live.serving.routes[index as usize];
    if let Some(retry) = &route.policy.retry {
        runtime.earn(retry.budget.get());
    }
    let by_user = matches!(route.stage, Stage::Canary(_) | Stage::Ramp);
    let forced =
        if ctx.brings.has(Header::Override) { override_side(shared, facts.headers, &route.id) } else { None };
    let forced = forced.filter(|_| by_user);
    match decide(route, table.cohort(route), facts, live.conditions(index, route, forced), rand::random) {
        Ok(mut decision) => {
            let ceiling = live.serving.ceilings[index as usize].as_deref();
            if decision.side == Side::Serverless && ceiling.is_some_and(|ceiling| !ceiling.admits()) {
                decision = Decision { side: Side::Legacy, reason: Reason::Ceiling, ..decision };
                runtime.over_ceiling.fetch_add(1, Ordering::Relaxed);
            }
            // A copy is the caller's as well: it goes nowhere its caller may not.
            if let Some(rule) = &route.shadow
                && !ctx.upgrade
                && lets_out_all(live, ctx, route)
            {
                let method = if ctx.brings.has(Header::Method) { &Method::POST } else { facts.method };
                ctx.capture = sampled(shared, live, runtime, route, rule, &decision, method);
            }
            ctx.decision = Some(decision);
            Next::Forward
        }
        Err(Refusal::KilledWithoutLegacy) => Next::Refuse(503, "killed_without_legacy", false),
    }
}

/// What is kept of a request that the sample takes; decided when its headers are read.
fn sampled(
    shared: &Shared,
    live: &Live,
    runtime: &RouteRuntime,
    route: &Route,
    rule: &ShadowRule,
    decision: &Decision,
    method: &Method,
) -> Option<Box<Capture>> {
    let side = match shadow(route, decision, method) {
        Shadow::None => return None,
        Shadow::Unsafe => {
            runtime.lose(&shared.metrics, &route.id, Loss::Unsafe);
            return None;
        }
        Shadow::Copy(side) => Some(side),
        Shadow::Verify => None,
    };
    let evidence = runtime.evidence();
    if !evidence.knows(live.number) {
        return None;
    }
    evidence.eligible.fetch_add(1, Ordering::Relaxed);
    if rand::random_range(0..PPM) >= rule.sample.get() {
        return None;
    }
    evidence.sampled.fetch_add(1, Ordering::Relaxed);
    // What would be dropped in the end costs nothing when it is dropped now.
    let backend =
        route.backend(side.unwrap_or(Side::Serverless)).map(|at| &live.serving.backends[at as usize]);
    let loss = if backend.is_some_and(|it| it.shadow_breaker.is_open()) {
        Some(Loss::Breaker)
    } else if backend.is_some_and(|it| it.places.is_behind()) || !shared.shadow.has_room() {
        Some(Loss::QueueFull)
    } else {
        None
    };
    if let Some(loss) = loss {
        runtime.lose_of(live.number, &shared.metrics, &route.id, loss);
        return None;
    }
    Some(Capture::new(side, rule.max_body_bytes as usize, &shared.shadow.budget))
}

/// A good override's side; a bad one is counted. The header itself is stripped on the way to the backend in any case.
fn override_side(shared: &Shared, headers: &HeaderMap, route: &str) -> Option<Side> {
    let value = headers.get(OVERRIDE_HEADER)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let key = shared.settings.override_key.as_deref();
    let side = key
        .zip(value.to_str().ok())
        .and_then(|(key, value)| override_header::verify(key, value, route, now).ok());
    if side.is_none() {
        shared.metrics.overrides_refused.inc();
    }
    side
}

fn ambiguous(fault: PathFault) -> &'static str {
    match fault {
        PathFault::EncodedSlash => "ambiguous_path_encoded_slash",
        PathFault::DotSegment | PathFault::AboveRoot => "ambiguous_path_dot_segment",
        PathFault::EmptySegment => "ambiguous_path_empty_segment",
        PathFault::Backslash => "ambiguous_path_backslash",
        PathFault::Parameters => "ambiguous_path_parameters",
        PathFault::NearGuard => "ambiguous_path_near_guard",
        PathFault::NotAbsolute | PathFault::BadByte | PathFault::BadEscape | PathFault::HiddenByte => {
            "malformed_path"
        }
    }
}

/// `Location` of a redirect: what the rule names replaces what the client used.
fn location(redirect: &Redirect, ctx: &Context, path: &str, query: Option<&str>, alternative: u16) -> Added {
    let scheme = match redirect.scheme {
        Some(Scheme::Http) => "http",
        Some(Scheme::Https) => "https",
        None => ctx.client.scheme(),
    };
    let host = match &redirect.host {
        Some(host) => host,
        // A scheme or port that changes makes the client's own port meaningless.
        None if redirect.scheme.is_some() || redirect.port.is_some() => bare_host(&ctx.public_host),
        None => &*ctx.public_host,
    };
    let default = if scheme == "https" { 443 } else { 80 };
    let port = redirect.port.filter(|port| *port != default).map_or(String::new(), |port| format!(":{port}"));
    let path = match &redirect.path {
        Some(rewrite) => rewrite.apply(path, usize::from(alternative)),
        None => path.to_owned(),
    };
    let query = query.map_or(String::new(), |query| format!("?{query}"));
    let value = HeaderValue::from_str(&format!("{scheme}://{host}{port}{path}{query}"));
    value.map(|value| (header::LOCATION, value)).into_iter().collect()
}
