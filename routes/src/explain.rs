//! Why a request goes where it goes: the winner, every loser with its reason, and the arithmetic of the bucket.
//!
//! Input: a table and a request, and what the state says. Output: `Explanation`, for people and as JSON. Must not: decide
//! by other code than live traffic does; it calls the same `find` and `decide`.

use crate::decide::{Conditions, Refusal, decide, key_of};
use crate::ids::{PPM, Side};
use crate::lookup::lower;
use crate::path::{normalise, read_path};
use crate::pattern::Miss;
use crate::request::bare_host;
use crate::request_line::OwnedRequest;
use crate::table::{Action, Found, Route, RouteTable, Unroutable};
use crate::terms::KeySource;
use serde::Serialize;

#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    pub version: u32,
    pub request: String,
    pub revision: String,
    /// The status Banyan answers with itself, when no backend is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cohort: Option<String>,
    /// Which source gave the user's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_ppm: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arithmetic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side: Option<Side>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_sent: Option<String>,
    pub lost: Vec<Lost>,
}

/// A route that did not get the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lost {
    pub route: String,
    pub why: String,
}

/// Explains one request. `now` is asked for what the rules do not hold: kills, shares, health.
pub fn explain(
    table: &RouteTable,
    request: &OwnedRequest,
    now: impl Fn(u32, &Route) -> Conditions,
) -> Explanation {
    let mut told = outcome(table, request, now);
    told.lost = losers(table, request, told.route.as_deref());
    told
}

/// The same without the losers, whose number grows with the routes.
pub fn outcome(
    table: &RouteTable,
    request: &OwnedRequest,
    now: impl Fn(u32, &Route) -> Conditions,
) -> Explanation {
    let query = request.query.as_ref().map_or(String::new(), |query| format!("?{query}"));
    let mut told = Explanation {
        version: 1,
        request: format!("{} {}://{}{}{query}", request.method, request.scheme, request.host, request.path),
        revision: table.revision.to_string(),
        status: None,
        why: None,
        route: None,
        stage: None,
        cohort: None,
        key: None,
        bucket: None,
        share_ppm: None,
        arithmetic: None,
        side: None,
        reason: None,
        backend: None,
        path_sent: None,
        lost: Vec::new(),
    };
    let found = match table.find(&request.facts()) {
        Ok(found) => found,
        Err(Unroutable::Ambiguous(fault)) => {
            told.status = Some(400);
            told.why = Some(fault.to_string());
            return told;
        }
        Err(Unroutable::NoRoute) => {
            told.status = Some(404);
            told.why = Some("no route claims it, and `defaults.legacy` is not set".into());
            return told;
        }
    };
    let route = table.route(found.route);
    told.route = Some(route.id.to_string());
    match &route.action {
        Action::Forward => forward(&mut told, table, request, &found, now(found.route, route)),
        Action::Redirect(redirect) => told.status = Some(redirect.status.as_u16()),
        Action::Respond(respond) => told.status = Some(respond.status.as_u16()),
    }
    told
}

fn forward(
    told: &mut Explanation,
    table: &RouteTable,
    request: &OwnedRequest,
    found: &Found,
    now: Conditions,
) {
    let route = table.route(found.route);
    let cohort = table.cohort(route);
    told.stage = Some(route.stage.as_str());
    // What a user without a key would get cannot be foretold: the identity is random.
    let decision = match decide(route, cohort, &request.facts(), now, || [0; 16]) {
        Ok(decision) => decision,
        Err(Refusal::KilledWithoutLegacy) => {
            told.status = Some(503);
            told.why = Some("the kill switch is on, and this route has no legacy side".into());
            return;
        }
    };
    if let Some(bucket) = decision.bucket {
        told.cohort = Some(cohort.name.to_string());
        told.share_ppm = Some(now.share.get());
        let compare = |bucket: u32| if bucket < now.share.get() { "<" } else { ">=" };
        if decision.fresh_key.is_some() {
            told.key = Some(KeySource::OwnCookie.to_string());
            told.why = Some("the request carries no key; a random identity would be set as our cookie, and the side follows it".into());
            told.arithmetic = Some(format!(
                "bucket(\"{}\", random) < {} for {} of users",
                cohort.name,
                now.share.get(),
                now.share
            ));
            told.reason = Some(decision.reason.as_str());
            return;
        }
        if let Some((source, value)) = key_of(cohort, &request.facts()) {
            told.key = Some(source.to_string());
            let shown = redact(source, &value);
            told.arithmetic = Some(format!(
                "xxh3(\"{}\", {shown}) mod {PPM} = {bucket} {} {} ({})",
                cohort.name,
                compare(bucket),
                now.share.get(),
                now.share
            ));
        }
        told.bucket = Some(bucket);
    }
    told.side = Some(decision.side);
    told.reason = Some(decision.reason.as_str());
    told.backend = route.backend(decision.side).map(|backend| table.backend(backend).id.to_string());
    told.path_sent = Some(table.path_sent(found, decision.side, &request.path));
}

/// Keys are people: session ids and tokens are shown by their ends only.
fn redact(source: &KeySource, value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    match source {
        KeySource::ClientIp | KeySource::ClientVpce | KeySource::Query(_) => format!("\"{text}\""),
        KeySource::Cookie(_) | KeySource::Header(_) | KeySource::Jwt(_) | KeySource::OwnCookie => {
            // Short values would be shown whole.
            let head: String = text.chars().take(if value.len() >= 8 { 2 } else { 0 }).collect();
            format!("\"{head}...\" ({} bytes)", value.len())
        }
    }
}

/// Every route but the winner, and why it lost.
pub fn losers(table: &RouteTable, request: &OwnedRequest, winner: Option<&str>) -> Vec<Lost> {
    let facts = request.facts();
    let host = lower(bare_host(facts.host)).into_owned();
    let Ok(read) = read_path(facts.path) else { return Vec::new() };
    let path = if read.strict_fault.is_some() {
        normalise(&read.text).unwrap_or_default()
    } else {
        read.text.into_owned()
    };
    let others = table.routes.iter().filter(|route| Some(&*route.id) != winner);
    let why = |route: &Route| {
        let misses: Vec<Option<Miss>> =
            route.matches.iter().map(|matcher| matcher.miss(&host, &path, &facts)).collect();
        if misses.iter().any(Option::is_none) {
            return "it matches, and the winner is more specific".to_owned();
        }
        // The alternative that came furthest says most.
        let depth = |miss: &Miss| match miss {
            Miss::Host => 0,
            Miss::Path => 1,
            Miss::Method => 2,
            Miss::Header(_) => 3,
            Miss::Query(_) => 4,
            Miss::Cookie(_) => 5,
            Miss::Listener => 6,
        };
        match misses.into_iter().flatten().max_by_key(depth) {
            None => "it takes only what no route claims".to_owned(),
            Some(Miss::Host) => format!("the host `{host}` does not match"),
            Some(Miss::Path) => format!("the path `{path}` does not match"),
            Some(Miss::Method) => format!("the method {} does not match", facts.method),
            Some(Miss::Header(name)) => format!("the header `{name}` is absent or different"),
            Some(Miss::Query(key)) => format!("the query key `{key}` is absent or different"),
            Some(Miss::Cookie(name)) => format!("the cookie `{name}` is absent or different"),
            Some(Miss::Listener) => "it came in by another listener".to_owned(),
        }
    };
    others.map(|route| Lost { route: route.id.to_string(), why: why(route) }).collect()
}

/// The text form of `explain`.
pub fn show(told: &Explanation) -> String {
    let mut lines = vec![format!("request    {}", told.request), format!("revision   {}", told.revision)];
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.push(format!("{name:<10} {value}"));
        }
    };
    line("route", told.route.clone());
    line("stage", told.stage.map(str::to_owned));
    line("cohort", told.cohort.clone());
    line("key", told.key.clone());
    line("bucket", told.arithmetic.clone());
    line("side", told.side.map(|side| side.to_string()));
    line("reason", told.reason.map(str::to_owned));
    line("backend", told.backend.clone());
    line("path sent", told.path_sent.clone());
    line("status", told.status.map(|status| format!("{status} (answered by Banyan itself)")));
    line("why", told.why.clone());
    if !told.lost.is_empty() {
        lines.push("lost".to_owned());
        lines.extend(told.lost.iter().map(|lost| format!("  {:<24} {}", lost.route, lost.why)));
    }
    lines.join("\n") + "\n"
}
