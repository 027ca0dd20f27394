//! What reloads, shares and kill switches look like in the metrics.
//!
//! Input: what serves. Output: gauges. Must not: stand between a rule and its first request: set after it is in force.

use super::Reloader;
use crate::metrics::ROUTES_NAMED_MAX;
use std::time::{SystemTime, UNIX_EPOCH};

impl Reloader {
    /// For who shows it, once a second.
    pub fn look_at_store(&self) {
        let (up, leads) = match &self.fleet {
            Some(fleet) => (fleet.is_up(), fleet.leads()),
            None => (self.state_store.is_usable(), true),
        };
        for backend in self.serving.iter().flat_map(|serving| &serving.backends) {
            backend.show_breaker();
            let (id, now) = (&*backend.definition.id, backend.connections());
            for (state, count) in [("in_use", now.in_use), ("idle", now.idle), ("queued", now.queued)] {
                self.metrics.connections.open.with_label_values(&[id, state]).set(i64::from(count));
            }
            self.metrics.connections.wait.with_label_values(&[id]).set(now.wait.as_secs_f64());
        }
        for (rule, way) in self.serving.iter().flat_map(|it| it.table.egress.iter().zip(&it.ways)) {
            let wait = way.cap.as_ref().map_or(0.0, |(cap, _)| cap.figures().wait.as_secs_f64());
            self.metrics.connections.egress_wait.with_label_values(&[&*rule.id]).set(wait);
        }
        self.metrics.store_up.set(i64::from(up));
        self.metrics.controller.set(i64::from(leads));
        self.metrics.unsent.set(self.unsent.len() as i64);
    }

    pub(super) fn count(&self, accepted: bool, seconds: f64) {
        self.metrics.reload_successful.set(i64::from(accepted));
        self.metrics
            .reload_seconds
            .with_label_values(&[if accepted { "accepted" } else { "refused" }])
            .observe(seconds);
        if accepted {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            self.metrics.reload_timestamp.set(now as i64);
        }
    }

    pub(super) fn count_shares(&self) {
        self.metrics.route_share.reset();
        let Some(serving) = &self.serving else { return };
        for route in serving.table.routes.iter().take(ROUTES_NAMED_MAX) {
            let last = route.ramp.as_ref().and_then(|ramp| ramp.steps.last());
            let approved = last.map_or(route.stage.share(), |step| step.at);
            let actual =
                self.served.routes.get(&*route.id).map_or(route.stage.share(), |it| it.effective(route));
            self.metrics.route_share.with_label_values(&[&*route.id, "approved"]).set(approved.ratio());
            self.metrics.route_share.with_label_values(&[&*route.id, "actual"]).set(actual.ratio());
        }
    }

    pub(super) fn count_kills(&self) {
        self.metrics.kill_switch.reset();
        self.metrics.kill_switch.with_label_values(&["all"]).set(i64::from(self.kills().all));
        let Some(serving) = &self.serving else { return };
        for scope in self.kills().scopes(&serving.table) {
            self.metrics.kill_switch.with_label_values(&[scope.as_str()]).set(1);
        }
    }
}
