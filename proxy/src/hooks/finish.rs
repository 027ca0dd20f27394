//! Phase 5: the request is over: counted, timed and logged.
//!
//! Input: the context, and the error if there was one. Output: metrics and one access log line. Must not: block: the
//! connection is not reused before this returns.

use crate::access_log::Line;
use crate::context::Context;
use crate::facts::head_bytes;
use crate::hooks::fail;
use crate::proxy::Shared;
use crate::shadow::queue::{Ask, Exchange};
use banyan_routes::evidence::Loss;
use banyan_routes::ids::{PPM, Side};
use banyan_routes::path::split_target;
use banyan_routes::table::Stage;
use http::{Version, header};
use pingora_error::Error;
use pingora_proxy::Session;
use std::time::{SystemTime, UNIX_EPOCH};

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
    let decision = ctx.decision.as_ref().map(|decision| (decision.side, decision.reason));
    let elapsed = ctx.started.elapsed();
    match (ctx.runtime(), ctx.route()) {
        (Some(runtime), Some(route)) => {
            runtime.metrics.count(&shared.metrics, &route.id, decision, ctx.status, elapsed.as_secs_f64());
            // A side that is to be switched off: who still comes to it is few, and worth a name.
            if route.quiet_for.is_some()
                && route.stage == Stage::Serverless
                && let Some((Side::Legacy, reason)) = decision
            {
                let agent = session.req_header().headers.get(header::USER_AGENT);
                let agent = agent.and_then(|agent| agent.to_str().ok()).unwrap_or_default();
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
                runtime.callers.see(ctx.client.address, agent, reason.as_str(), now);
            }
        }
        _ => shared
            .metrics
            .requests
            .with_label_values(&["none", "none", "none", &ctx.status.to_string()])
            .inc(),
    }
    if let Some(cause) = ctx.cause {
        shared.metrics.refused.with_label_values(&[cause]).inc();
    }
    if ctx.capture.is_some() {
        mirror(shared, session, error, ctx);
    }
    if shared.log.is_on() && sampled(shared, ctx) {
        shared.log.send(line(shared, session, ctx, elapsed));
    }
}

/// Hands a sampled request over. One that was cut short is counted, and not compared with a whole one.
fn mirror(shared: &Shared, session: &Session, error: Option<&Error>, ctx: &mut Context) {
    let whole = error.is_none() && ctx.cause.is_none() && ctx.status != 0;
    let Some(mut capture) = ctx.capture.take() else { return };
    let (Some(live), Some(found), Some(decision)) = (&ctx.live, &ctx.found, &ctx.decision) else { return };
    let loss = match capture.status {
        // The side that was to be the shadow has answered, after the other had failed.
        _ if Some(decision.side) == capture.shadow => Some(Loss::Fallback),
        // An answer to a condition or a range; the copy asks without them.
        206 | 304 | 412 | 416 => Some(Loss::Conditional),
        _ => None,
    };
    if let Some(loss) = loss {
        let runtime = &live.serving.routes[found.route as usize];
        return runtime.lose(&shared.metrics, &live.serving.table.route(found.route).id, loss);
    }
    let ask = Ask {
        live: live.clone(),
        found: found.clone(),
        decision: decision.clone(),
        client: ctx.client,
        public_host: ctx.public_host.clone(),
        trace: ctx.trace,
        head: session.req_header().clone(),
        http2: session.as_downstream().is_http2(),
    };
    capture.cold = ctx.report.is_some_and(|report| report.init.is_some());
    shared.shadow.offer(Exchange { ask, capture }, whole);
}

/// Failures always; successes by the share in the settings, chosen by the trace so that replicas agree.
fn sampled(shared: &Shared, ctx: &Context) -> bool {
    let share = shared.settings.log_sample.0.get();
    let dice =
        u32::from_le_bytes([ctx.trace.trace_id[0], ctx.trace.trace_id[1], ctx.trace.trace_id[2], 0]) % PPM;
    ctx.status >= 400 || ctx.cause.is_some() || share >= PPM || dice < share
}

fn line(shared: &Shared, session: &Session, ctx: &Context, elapsed: std::time::Duration) -> Vec<u8> {
    let request = session.req_header();
    let mut line = Line::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    line.seconds("time", now);
    line.text("trace_id", std::str::from_utf8(&ctx.trace.id()).unwrap_or_default());
    line.text("http.request.method", request.method.as_str());
    let target = String::from_utf8_lossy(request.raw_path());
    line.text("url.path", split_target(&target).0);
    line.text("url.scheme", ctx.client.scheme());
    line.text("server.address", &ctx.public_host);
    line.text("network.protocol.version", version(request.version));
    line.text("client.address", &ctx.client.address.to_string());
    if let Some(endpoint) = &ctx.endpoint {
        line.text("client.vpce", endpoint);
    }
    let agent =
        request.headers.get(header::USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()));
    if let Some(agent) = agent {
        line.text("user_agent.original", &agent);
    }
    line.text("listener", shared.settings.listeners.get(ctx.listener).map_or("", |listener| &listener.name));
    line.number("http.response.status_code", u64::from(ctx.status));
    if let Some(route) = ctx.route() {
        line.text("route", &route.id);
        line.text("stage", route.stage.as_str());
    }
    if let Some(decision) = &ctx.decision {
        line.text("side", decision.side.as_str());
        line.text("reason", decision.reason.as_str());
        if let Some(bucket) = decision.bucket {
            line.number("bucket", u64::from(bucket));
        }
    }
    if let Some(sent) = &ctx.sent {
        line.text("backend", &sent.backend.definition.id);
        line.text("backend.address", &sent.endpoint.address.to_string());
    }
    if let Some(live) = &ctx.live {
        line.text("revision", live.serving.table.revision.as_str());
    }
    line.seconds("duration", elapsed);
    if let Some(first_byte) = ctx.first_byte {
        line.seconds("first_byte", first_byte);
    }
    line.number("http.request.header.size", head_bytes(request));
    line.number("http.request.body.size", ctx.request_bytes);
    line.number("http.response.body.size", ctx.response_bytes);
    if ctx.tries > 1 {
        line.number("tries", u64::from(ctx.tries));
    }
    if ctx.upgrade {
        line.flag("upgrade");
    }
    if let Some(report) = &ctx.report {
        line.seconds("faas.billed", report.billed);
        if let Some(init) = report.init {
            line.seconds("faas.init", init);
            line.flag("faas.coldstart");
        }
    }
    if let Some(cause) = ctx.cause {
        line.text("cause", cause);
    }
    if let Some(detail) = &ctx.detail {
        line.text("detail", detail);
    }
    line.end()
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        Version::HTTP_09 => "0.9",
        _ => "1.1",
    }
}
