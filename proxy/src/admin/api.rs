//! What the API says: routes, backends, revision, explain.
//!
//! Input: the snapshot that serves. Output: versioned JSON values; shapes are in `openapi`. Must not: change anything.

use crate::admin::access::Caller;
use crate::admin::board::Row;
use crate::admin::{Answer, json_answer, problem};
use crate::evidence::Evidence;
use crate::live::Live;
use crate::proxy::Shared;
use crate::rule_dir;
use crate::targets::live_breaker::Hand;
use banyan_routes::evidence::{CONFIDENCE, Window};
use banyan_routes::ids::Side;
use banyan_routes::request_line::OwnedRequest;
use banyan_routes::table::{Route, RouteTable, Stage};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

pub fn revision(shared: &Shared, live: &Live) -> Value {
    let table = &live.serving.table;
    let stages: Map<String, Value> =
        stage_counts(table).into_iter().map(|(name, count)| (name.into(), json!(count))).collect();
    json!({
        "version": 1,
        "banyan": env!("CARGO_PKG_VERSION"),
        "revision": table.revision,
        "state_revision": live.state.revision,
        "routes": table.routes.len(),
        "stages": stages,
        "last_reload_accepted": shared.metrics.reload_successful.get() == 1,
        "accepted_at_unix_s": shared.metrics.reload_timestamp.get(),
        "kill": live.kills.scopes(table),
        "draining": shared.is_draining(),
        "store": store(shared),
        "fleet": fleet(shared),
    })
}

/// Where state is kept, and whether it can be.
pub fn store(shared: &Shared) -> Value {
    let kind = if shared.fleet.is_some() { "redis" } else { "embedded" };
    json!({
        "kind": kind,
        "up": shared.metrics.store_up.get() == 1,
        "controller": shared.metrics.controller.get() == 1,
        "unsent": shared.metrics.unsent.get(),
    })
}

/// All replicas that have been heard of lately, and what each serves.
fn fleet(shared: &Shared) -> Value {
    let Some(fleet) = &shared.fleet else { return Value::Null };
    json!({ "id": fleet.id, "replicas": fleet.replicas() })
}

/// Whose token it was, and what it may.
pub fn whoami(caller: &Caller) -> Answer {
    json_answer(200, &json!({ "version": 1, "name": caller.name, "role": caller.role.as_str() }))
}

/// What no route claims, as templates.
pub fn unclaimed(shared: &Shared, live: &Live) -> Value {
    let taken = |id: &str| id == "default" || live.serving.table.position(id).is_some();
    let found = shared.discovery.found.lock().unwrap_or_else(PoisonError::into_inner);
    json!({ "version": 1, "seen": found.seen, "not_kept": found.not_kept, "templates": found.templates(taken) })
}

pub fn routes(live: &Live) -> Value {
    let table = &live.serving.table;
    let routes: Vec<Row<'_>> =
        table.routes.iter().enumerate().map(|(at, route)| Row::of(live, at, route)).collect();
    json!({ "version": 1, "revision": table.revision, "routes": routes })
}

/// One route with the rule as it was written, which of very many routes is read again from `rules_dir`, and left out when its file has changed since.
/// `None`: no such id.
pub fn route(live: &Live, rules_dir: &Path, id: &str) -> Option<Value> {
    let serving = &live.serving;
    let at = serving.table.position(id)? as usize;
    let route = &serving.table.routes[at];
    let mut value = json!(Row::of(live, at, route));
    value["version"] = json!(1);
    value["revision"] = json!(serving.table.revision);
    if let Some(file) = serving.files.get(route.origin.0 as usize) {
        let text = |name: &str| {
            let sources = rule_dir::sources(rules_dir).ok()?;
            sources.into_iter().find(|source| source.name == name).map(|source| source.text)
        };
        if let Some(raw) = file.route(route.origin.1 as usize, id, text) {
            value["file"] = json!(file.source.name);
            value["rule"] = strip_nulls(json!(*raw));
        }
    }
    let functions: Vec<Value> =
        Side::ALL.iter().filter_map(|side| function(live, at, route, *side)).collect();
    if !functions.is_empty() {
        value["functions"] = Value::Array(functions);
    }
    Some(value)
}

/// What comparisons of one route add up to, in the last `hours` or in all that are kept. `None`: no such id.
pub fn evidence(live: &Live, id: &str, hours: Option<u64>) -> Option<Value> {
    let serving = &live.serving;
    let at = serving.table.position(id)? as usize;
    let evidence = serving.routes[at].evidence();
    let now = SystemTime::now();
    let since = hours.and_then(|hours| now.checked_sub(Duration::from_secs(hours.saturating_mul(3_600))));
    let window = evidence.window(since, now);
    let mut value = window_json(&window);
    value["version"] = json!(1);
    value["route"] = json!(id);
    value["revision"] = json!(serving.table.revision);
    value["hours"] = json!(hours);
    value["controls_known"] = json!(evidence.controls());
    Some(value)
}

/// Counts, bounds and times.
pub fn window_json(window: &Window) -> Value {
    let sum = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
    json!({
        "eligible": window.eligible,
        "sampled": window.sampled,
        "dropped": sum(&window.dropped),
        "dropped_by": window.dropped,
        "inconclusive": sum(&window.inconclusive),
        "inconclusive_by": window.inconclusive,
        "compared": window.compared(),
        "mismatched": window.mismatched,
        "distinct_requests": window.distinct(),
        "controls": window.controls,
        "coverage": window.coverage(),
        "parity_upper_bound": window.upper_bound(),
        "parity_upper_bound_anytime": window.anytime_bound(),
        "parity_upper_bound_weighted": window.weighted_bound(),
        "confidence": CONFIDENCE,
        "latency": { "p50": window.quantiles(0.5), "p99": window.quantiles(0.99), "cold_starts": window.cold_starts },
    })
}

/// The differences of one route, or of all, the most frequent first. `None`: no such id.
pub fn differences(live: &Live, id: Option<&str>) -> Option<Value> {
    let found = of_routes(live, id, |evidence| {
        let all = evidence.differences().into_iter();
        all.map(|(cluster, state)| {
            let mut value = json!(cluster);
            value["state"] = json!(state.as_str());
            value
        })
        .collect()
    })?;
    Some(json!({ "version": 1, "differences": found }))
}

/// Rules that would cover what is noise, with what they rest on and the lines to pin them by. `None`: no such id.
pub fn proposals(live: &Live, id: Option<&str>) -> Option<Value> {
    let found = of_routes(live, id, |evidence| {
        let all = evidence.proposals().into_iter();
        all.map(|it| {
            json!({
                "path": it.path,
                "rule": it.rule.to_string(),
                "controls": it.controls,
                "controls_differing": it.controls_differing,
                "compared": it.compared,
                "serverless_differing": it.serverless_differing,
            })
        })
        .collect()
    })?;
    let ids: BTreeSet<&str> = found.iter().filter_map(|it| it["route"].as_str()).collect();
    let patches: Map<String, Value> = ids
        .into_iter()
        .map(|id| {
            let of = found.iter().filter(|it| it["route"] == id);
            let rules: Map<String, Value> =
                of.filter_map(|it| Some((it["path"].as_str()?.to_owned(), it["rule"].clone()))).collect();
            (id.to_owned(), json!({ "shadow": { "rules": rules } }))
        })
        .collect();
    Some(json!({ "version": 1, "proposals": found, "patches": patches }))
}

fn of_routes(live: &Live, id: Option<&str>, of: impl Fn(&Evidence) -> Vec<Value>) -> Option<Vec<Value>> {
    let serving = &live.serving;
    let ids: Vec<&str> = match id {
        Some(id) => vec![serving.table.position(id).map(|_| id)?],
        None => serving.table.routes.iter().map(|route| &*route.id).collect(),
    };
    let one = |id: &str| {
        let at = serving.table.position(id)? as usize;
        let found = of(serving.routes[at].evidence_if_any()?);
        Some(found.into_iter().map(|value| with_route(value, id)).collect::<Vec<_>>())
    };
    Some(ids.into_iter().filter_map(one).flatten().collect())
}

fn with_route(mut value: Value, id: &str) -> Value {
    value["route"] = json!(id);
    value
}

/// What a side's function has used, from its REPORT lines; without figures until `log_tail` has brought the first.
fn function(live: &Live, at: usize, route: &Route, side: Side) -> Option<Value> {
    let backend = &live.serving.backends[route.backend(side)? as usize];
    let function = backend.function.as_ref()?;
    let mut value = json!({
        "side": side.as_str(),
        "backend": backend.definition.id,
        "function": function.label,
        "region": function.region,
        "log_tail": function.target.log_tail,
    });
    if let Some(figures) = live.serving.routes[at].figures(side) {
        let (requests, gb_second) = function.prices();
        value["reports"] = json!(figures.reports);
        value["cold_starts"] = json!(figures.cold_starts);
        value["billed_seconds_mean"] = json!(figures.billed);
        value["memory_configured_mb"] = json!(figures.memory_mb);
        value["memory_used_mb"] = json!(figures.used_mb_max);
        value["cost_per_million_requests"] = json!(figures.cost_per_million(requests, gb_second));
        value["hint"] = json!(figures.hint());
    }
    Some(value)
}

/// A field that was not written does not stand in what is shown.
fn strip_nulls(value: Value) -> Value {
    let empty = |value: &Value| {
        value.is_null()
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(Map::is_empty)
    };
    match value {
        Value::Object(map) => {
            let kept = map
                .into_iter()
                .map(|(key, value)| (key, strip_nulls(value)))
                .filter(|(_, value)| !empty(value));
            Value::Object(kept.collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(strip_nulls).collect()),
        other => other,
    }
}

pub fn backends(shared: &Shared, live: &Live) -> Value {
    let backend = |running: &std::sync::Arc<crate::targets::backend::RunningBackend>| {
        let endpoints: Vec<Value> = running
            .endpoints()
            .iter()
            .map(|endpoint| {
                json!({
                    "address": endpoint.address.to_string(),
                    "authority": endpoint.authority,
                    "healthy": endpoint.healthy.load(Ordering::Relaxed),
                    "ejected": endpoint.is_ejected(),
                })
            })
            .collect();
        json!({
            "id": running.definition.id,
            "kind": if running.function.is_some() { "lambda" } else { "urls" },
            "function": running.function.as_ref().map(|function| &function.label),
            "region": running.function.as_ref().map(|function| &function.region),
            "signed": running.definition.needs_whole_body(),
            "available": running.available(),
            "unavailable_cause": running.authorised().err(),
            "checked": running.definition.health.is_some(),
            "health_ratio": running.health_ratio(),
            "breaker": running.breaker.as_ref().map(|breaker| json!({
                "state": breaker.state().as_str(),
                "held": breaker.hand() != Hand::Auto,
                "observe": breaker.rule.observe,
            })),
            "endpoints": endpoints,
        })
    };
    let backends: Vec<Value> = live.serving.backends.iter().map(backend).collect();
    let credentials = shared.supplies.credentials.state(SystemTime::now());
    json!({ "version": 1, "backends": backends, "credentials": credentials })
}

/// `{method, url, headers: {name: value}, client_ip, listener}` -> the explanation, with kills and health as they are.
pub fn explain(live: &Live, body: &Value) -> Answer {
    match request_of(body) {
        Ok(request) => {
            let now = |at: u32, route: &Route| live.conditions(at, route, None);
            json_answer(200, &banyan_routes::explain::explain(&live.serving.table, &request, now))
        }
        Err(error) => problem(400, "not a request", &error),
    }
}

fn request_of(body: &Value) -> Result<OwnedRequest, String> {
    const FIELDS: [&str; 5] = ["method", "url", "headers", "client_ip", "listener"];
    let fields = body.as_object().ok_or("expected a JSON object")?;
    if let Some(odd) = fields.keys().find(|field| !FIELDS.contains(&field.as_str())) {
        return Err(format!("`{odd}` is not known; expected {}", FIELDS.join(", ")));
    }
    let is_text = |field: &str| fields.get(field).is_none_or(Value::is_string);
    if let Some(odd) = FIELDS.iter().find(|field| **field != "headers" && !is_text(field)) {
        return Err(format!("`{odd}` is not a string"));
    }
    let text = |field: &str| body.get(field).and_then(Value::as_str);
    let url = text("url").ok_or("`url` is missing; expected an absolute URL")?;
    let mut request = OwnedRequest::new(text("method").unwrap_or("GET"), url)?;
    if let Some(headers) = body.get("headers") {
        let headers = headers.as_object().ok_or("`headers` is not a map; expected {name: value}")?;
        for (name, value) in headers {
            request.header(
                name,
                value.as_str().ok_or_else(|| format!("the header `{name}` is not a string"))?,
            )?;
        }
    }
    request.listener = text("listener").unwrap_or_default().to_owned();
    let address = text("client_ip").map(|ip| ip.parse().map_err(|_| format!("`{ip}` is not an address")));
    request.client_ip = address.transpose()?;
    Ok(request)
}

/// The stage names of all routes, for status.
fn stage_counts(table: &RouteTable) -> Vec<(&'static str, usize)> {
    let count =
        |name: &&'static str| table.routes.iter().filter(|route| route.stage.as_str() == *name).count();
    Stage::NAMES.iter().map(|name| (*name, count(name))).collect()
}
