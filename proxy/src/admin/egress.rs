//! The way out, as the API tells it: each rule with whom it lets where, and how many are on their way.
//!
//! Input: the snapshot that serves, and the metrics' own counts. Output: JSON. Must not: change anything.

use crate::live::Live;
use crate::proxy::Shared;
use banyan_routes::egress::{EgressRule, To};
use serde_json::{Value, json};

pub fn egress(shared: &Shared, live: &Live) -> Value {
    let metrics = &shared.metrics.egress;
    let rule = |(rule, way): (&EgressRule, &crate::live::Way)| {
        let cap = way.cap.as_ref().map(|(cap, figures)| {
            let now = cap.figures();
            json!({
                "max": figures.max,
                "queue": figures.queue,
                "in_use": now.in_use,
                "idle": now.idle,
                "queued": now.queued,
                "longest_wait_seconds": now.wait.as_secs_f64(),
            })
        });
        let bytes = |way: &str| metrics.bytes.with_label_values(&[&*rule.id, way]).get();
        json!({
            "id": rule.id,
            "listener": rule.listener,
            "callers": {
                "vpce": rule.callers.endpoints,
                "cidr": rule.callers.networks,
                "client_cert": rule.callers.certificates,
                "plan": rule.callers.plans,
            },
            "to": match &rule.to {
                To::Host(host) => json!([host]),
                To::Domains(domains) => json!(domains),
            },
            "ports": rule.ports,
            "connections": cap,
            "connections_total": metrics.connections.with_label_values(&[&*rule.id]).get(),
            "bytes": { "up": bytes("up"), "down": bytes("down") },
        })
    };
    let rules: Vec<Value> = live.serving.table.egress.iter().zip(&live.serving.ways).map(rule).collect();
    json!({ "version": 1, "rules": rules })
}
