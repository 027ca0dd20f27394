//! What is told of each route: in lists, and in the snapshot that the console, `top` and whoever else watches gets once a second.
//!
//! Input: the snapshot that serves, figures, evidence. Output: shapes that are written as JSON as they are. Must not: build a tree of values for it:
//! 500 routes a second are written while somebody only looks.

use crate::evidence::Brief;
use crate::figures::Figures;
use crate::live::{Live, RouteRuntime};
use crate::metrics::ROUTES_NAMED_MAX;
use crate::proxy::Shared;
use crate::reload::ramp::told;
use banyan_routes::ids::{SharePpm, Side};
use banyan_routes::life::RouteState;
use banyan_routes::table::Route;
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

/// One route as lists show it.
#[derive(Serialize)]
pub struct Row<'a> {
    id: &'a str,
    owner: Option<&'a str>,
    group: Option<&'a str>,
    stage: &'static str,
    share_ppm: u32,
    killed: bool,
    state: Option<&'a RouteState>,
    gate: Option<Gate>,
    silence: Value,
    cohort: &'a str,
    legacy: Option<&'a str>,
    serverless: Option<&'a str>,
    requests: Counts,
}

/// What the controller last said of a ramp that moves by itself.
#[derive(Serialize)]
struct Gate {
    verdict: String,
    reasons: Vec<GateReason>,
}

#[derive(Serialize)]
struct GateReason {
    gate: String,
    text: String,
}

#[derive(Serialize)]
struct Counts {
    legacy: Count,
    serverless: Count,
    /// Answers of Banyan itself.
    own: Count,
}

#[derive(Serialize)]
struct Count {
    answered: u64,
    failed: u64,
}

impl<'a> Row<'a> {
    pub fn of(live: &'a Live, at: usize, route: &'a Route) -> Row<'a> {
        let table = &live.serving.table;
        let runtime = &live.serving.routes[at];
        let backend = |side| route.backend(side).map(|backend| &*table.backend(backend).id);
        let conditions = live.conditions(at as u32, route, None);
        Row {
            id: &route.id,
            owner: route.owner.as_deref(),
            group: table.group(route),
            stage: route.stage.as_str(),
            share_ppm: conditions.share.get(),
            killed: conditions.killed,
            state: live.state.routes.get(&*route.id),
            gate: gate(runtime),
            silence: silence(route, runtime),
            cohort: &table.cohort(route).name,
            legacy: backend(Side::Legacy),
            serverless: backend(Side::Serverless),
            requests: Counts {
                legacy: count(runtime, 0),
                serverless: count(runtime, 1),
                own: count(runtime, 2),
            },
        }
    }
}

fn count(runtime: &RouteRuntime, slot: usize) -> Count {
    Count {
        answered: runtime.metrics.answered[slot].load(Ordering::Relaxed),
        failed: runtime.metrics.failed[slot].load(Ordering::Relaxed),
    }
}

fn gate(runtime: &RouteRuntime) -> Option<Gate> {
    let verdict = runtime.watched_if_any()?.verdict.lock().unwrap_or_else(PoisonError::into_inner);
    let (verdict, reasons) = verdict.as_ref().map(told)?;
    let reasons = reasons.into_iter().map(|(gate, text)| GateReason { gate, text }).collect();
    Some(Gate { verdict, reasons })
}

/// Whether the route's legacy side may be switched off, and who would miss it.
fn silence(route: &Route, runtime: &RouteRuntime) -> Value {
    let Some((watched, quiet_for)) = runtime.watched_if_any().zip(route.quiet_for) else {
        return Value::Null;
    };
    let Some(known) = watched.silence.lock().unwrap_or_else(PoisonError::into_inner).clone() else {
        return Value::Null;
    };
    json!({
        "quiet_seconds": known.quiet_seconds(),
        "needed_seconds": quiet_for.as_secs(),
        "proved": known.proves(quiet_for),
        "watched_since_unix_s": known.watched_since_unix_s,
        "last_legacy_unix_s": known.last_legacy_unix_s,
        "legacy_requests": known.legacy_requests,
        "callers": watched.callers.last(),
    })
}

/// Everything that changes from second to second.
#[derive(Serialize)]
struct Snapshot<'a> {
    version: u32,
    at_unix_ms: u64,
    revision: Value,
    routes: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    row: Row<'a>,
    now: Sides<Figures>,
    approved_ppm: u32,
    parity: Option<Brief>,
    health: Sides<Option<Health>>,
}

#[derive(Serialize)]
struct Sides<T> {
    legacy: T,
    serverless: T,
}

#[derive(Serialize)]
struct Health {
    available: bool,
    ratio: f64,
}

/// As JSON, in one line.
pub fn snapshot(shared: &Shared, live: &Live, revision: Value, now: Duration) -> String {
    let table = &live.serving.table;
    let routes = table.routes.iter().enumerate().take(ROUTES_NAMED_MAX);
    let routes = routes.map(|(at, route)| line(shared, live, at, route, now)).collect();
    let snapshot = Snapshot { version: 1, at_unix_ms: now.as_millis() as u64, revision, routes };
    serde_json::to_string(&snapshot).unwrap_or_default()
}

fn line<'a>(shared: &Shared, live: &'a Live, at: usize, route: &'a Route, now: Duration) -> Line<'a> {
    let [legacy, serverless] = shared.figures.just_now(&route.id);
    let evidence = live.serving.routes[at].evidence_if_any();
    let brief = evidence.map(|evidence| evidence.brief(UNIX_EPOCH + now));
    let health = |side| {
        let backend = &live.serving.backends[route.backend(side)? as usize];
        Some(Health { available: backend.available(), ratio: backend.health_ratio() })
    };
    Line {
        row: Row::of(live, at, route),
        now: Sides { legacy, serverless },
        approved_ppm: approved(route).get(),
        parity: brief.filter(|it| it.compared > 0),
        health: Sides { legacy: health(Side::Legacy), serverless: health(Side::Serverless) },
    }
}

/// The share that the rules approve in the end.
fn approved(route: &Route) -> SharePpm {
    let last = route.ramp.as_ref().and_then(|ramp| ramp.steps.last());
    last.map_or(route.stage.share(), |step| step.at)
}

/// How a route has done in the last half hour. `None`: no such id.
pub fn history(shared: &Shared, live: &Live, id: &str) -> Option<Value> {
    live.serving.table.position(id)?;
    Some(json!({ "version": 1, "route": id, "points": shared.figures.points(id) }))
}
