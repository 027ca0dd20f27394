//! What changes between two rule sets, and what that does to requests that were recorded.
//!
//! Input: two compiled tables with their files. Output: added, removed and changed routes; per recorded request, route and
//! side before and after. Must not: compare text; routes are compared by meaning and id.

use crate::compile::ReadFile;
use crate::explain::outcome;
use crate::ids::SharePpm;
use crate::request_line::OwnedRequest;
use crate::rule_tests::rules_alone;
use crate::table::RouteTable;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diff {
    pub version: u32,
    pub from: String,
    pub to: String,
    pub added: Vec<String>,
    pub removed: Vec<String>,
    pub changed: Vec<Changed>,
    /// Backends, cohorts, defaults, freezes and egress whose meaning changed: `backends.monolith`.
    pub other: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Changed {
    pub route: String,
    pub fields: Vec<Field>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Field {
    pub field: String,
    pub from: Value,
    pub to: Value,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Replay {
    pub requests: usize,
    pub route_changed: usize,
    pub side_changed: usize,
    /// The first of those that changed, at most 20.
    pub examples: Vec<Moved>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Moved {
    pub request: String,
    pub from: String,
    pub to: String,
}

impl Diff {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty() && self.other.is_empty()
    }
}

/// Compares by meaning.
pub fn diff(from: (&RouteTable, &[ReadFile]), to: (&RouteTable, &[ReadFile])) -> Diff {
    let (before, after) = (routes(from.1), routes(to.1));
    let mut result = Diff {
        version: 1,
        from: from.0.revision.to_string(),
        to: to.0.revision.to_string(),
        added: after.keys().filter(|id| !before.contains_key(*id)).cloned().collect(),
        removed: before.keys().filter(|id| !after.contains_key(*id)).cloned().collect(),
        changed: Vec::new(),
        other: Vec::new(),
        replay: None,
    };
    for (id, old) in &before {
        let Some(new) = after.get(id) else { continue };
        let fields = fields(old, new);
        if !fields.is_empty() {
            result.changed.push(Changed { route: id.clone(), fields });
        }
    }
    let (before, after) = (others(from.1), others(to.1));
    let names = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
    result.other = names.filter(|name| before.get(*name) != after.get(*name)).cloned().collect();
    result
}

fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

fn routes(files: &[ReadFile]) -> BTreeMap<String, Value> {
    let all = files.iter().flat_map(|file| &file.rules.routes);
    all.map(|route| (route.id.clone(), json(route))).collect()
}

fn others(files: &[ReadFile]) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for file in files {
        let rules = &file.rules;
        all.extend(rules.backends.iter().map(|(name, value)| (format!("backends.{name}"), json(value))));
        all.extend(rules.cohorts.iter().map(|(name, value)| (format!("cohorts.{name}"), json(value))));
        all.extend(rules.freezes.iter().map(|freeze| (format!("freezes.{}", freeze.name), json(freeze))));
        all.extend(rules.egress.iter().map(|egress| (format!("egress.{}", egress.id), json(egress))));
        all.extend(rules.defaults.iter().map(|defaults| ("defaults".to_owned(), json(defaults))));
    }
    all
}

/// Fields that differ; `null` where one does not say anything.
fn fields(old: &Value, new: &Value) -> Vec<Field> {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return Vec::new() };
    let names = old.keys().chain(new.keys().filter(|name| !old.contains_key(*name)));
    let value =
        |map: &serde_json::Map<String, Value>, name: &String| map.get(name).cloned().unwrap_or(Value::Null);
    names
        .filter(|name| old.get(*name) != new.get(*name))
        .map(|name| Field { field: name.clone(), from: value(old, name), to: value(new, name) })
        .collect()
}

/// Sends recorded requests through both tables.
pub fn replay(from: &RouteTable, to: &RouteTable, requests: &[OwnedRequest]) -> Replay {
    let mut result = Replay { requests: requests.len(), ..Replay::default() };
    for request in requests {
        let (before, after) = (outcome(from, request, rules_alone), outcome(to, request, rules_alone));
        let route_changed = before.route != after.route;
        let side_changed =
            before.side != after.side || before.share_ppm != after.share_ppm && before.side.is_none();
        result.route_changed += usize::from(route_changed);
        result.side_changed += usize::from(side_changed);
        if (route_changed || side_changed) && result.examples.len() < 20 {
            let show = |told: &crate::explain::Explanation| {
                let route = told.route.as_deref().unwrap_or("none");
                // Of a request without a key only the share is known.
                let share = told.share_ppm.and_then(SharePpm::new).map(|share| format!("{share} serverless"));
                match told.side.map(|side| side.to_string()).or(share) {
                    Some(more) => format!("{route} ({more})"),
                    None => route.to_owned(),
                }
            };
            result.examples.push(Moved {
                request: before.request.clone(),
                from: show(&before),
                to: show(&after),
            });
        }
    }
    result
}
