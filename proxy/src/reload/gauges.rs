//! What reloads, shares and kill switches look like in the metrics.
//!
//! Input: what serves. Output: gauges. Must not: stand between a rule and its first request: set after it is in force.

use super::Reloader;
use crate::metrics::OTHER;
use banyan_routes::ids::SharePpm;
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the gauges of each route say now.
#[derive(Default)]
pub(super) struct ShownRoutes {
    turn: u64,
    routes: HashMap<Box<str>, Shown>,
}

#[derive(Clone, Copy)]
struct Shown {
    /// The last time it was looked at: others have gone since.
    turn: u64,
    stage: &'static str,
    approved: SharePpm,
    actual: SharePpm,
}

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

    /// Of ten thousand routes a reload changes one: only what differs is said again, and no series is away meanwhile.
    pub(super) fn count_routes(&mut self) {
        let Some(serving) = &self.serving else { return };
        self.shown.turn = self.shown.turn.wrapping_add(1);
        for (route, runtime) in serving.table.routes.iter().zip(&serving.routes) {
            if runtime.metrics.name(&self.metrics, &route.id) == OTHER {
                continue;
            }
            let last = route.ramp.as_ref().and_then(|ramp| ramp.steps.last());
            let approved = last.map_or(route.stage.share(), |step| step.at);
            let actual =
                self.served.routes.get(&*route.id).map_or(route.stage.share(), |it| it.effective(route));
            let now = Shown { turn: self.shown.turn, stage: route.stage.as_str(), approved, actual };
            let before = match self.shown.routes.get_mut(&route.id) {
                Some(shown) => Some(std::mem::replace(shown, now)),
                None => self.shown.routes.insert(route.id.clone(), now),
            };
            if before.is_none_or(|before| before.approved != approved || before.actual != actual) {
                self.metrics.route_share.with_label_values(&[&*route.id, "approved"]).set(approved.ratio());
                self.metrics.route_share.with_label_values(&[&*route.id, "actual"]).set(actual.ratio());
            }
            if before.is_none_or(|before| before.stage != now.stage) {
                if let Some(before) = before {
                    let _ = self.metrics.route_stage.remove_label_values(&[&*route.id, before.stage]);
                }
                self.metrics.route_stage.with_label_values(&[&*route.id, now.stage]).set(1);
            }
        }
        let ShownRoutes { turn, routes } = &mut self.shown;
        routes.retain(|id, shown| {
            let stays = shown.turn == *turn;
            if !stays {
                // They are there: they were set when this was noted.
                let _ = self.metrics.route_stage.remove_label_values(&[&**id, shown.stage]);
                for which in ["approved", "actual"] {
                    let _ = self.metrics.route_share.remove_label_values(&[&**id, which]);
                }
            }
            stays
        });
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
