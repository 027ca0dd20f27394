//! A breaker, held by hand.
//!
//! Input: a backend and a state. Output: the breaker held, or let go, on this replica until the backend's rule changes. Must not: outlive the
//! process; what shall last is a rule.

use crate::admin::access::Caller;
use crate::admin::{Answer, json_answer, problem};
use crate::live::Live;
use crate::targets::live_breaker::Hand;
use serde_json::{Value, json};

/// `{state: open | close | auto}`: a breaker held by hand, on this replica, until it is let go or its backend changes.
pub fn hold(live: &Live, id: &str, body: &Value, caller: &Caller) -> Answer {
    let Some(backend) = live.serving.backends.iter().find(|backend| *backend.definition.id == *id) else {
        return problem(404, "no such backend", id);
    };
    let Some(breaker) = &backend.breaker else {
        return problem(409, "no breaker", "the rules give this backend none");
    };
    let known =
        body.as_object().is_some_and(|fields| fields.keys().all(|it| it == "state" || it == "reason"));
    let hand = match body.get("state").and_then(Value::as_str).filter(|_| known) {
        Some("open") => Hand::Open,
        Some("close") => Hand::Close,
        Some("auto") => Hand::Auto,
        _ => return problem(400, "not a state", "expected {\"state\": \"open\"}, \"close\" or \"auto\""),
    };
    breaker.hold(hand);
    backend.show_breaker();
    let reason = body.get("reason").and_then(Value::as_str).unwrap_or_default();
    tracing::warn!(backend = id, ?hand, actor = caller.name.as_deref(), reason = ?reason, "breaker held by hand");
    json_answer(200, &json!({ "backend": id, "state": breaker.state().as_str(), "held": hand != Hand::Auto }))
}
