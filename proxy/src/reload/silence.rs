//! Proof of silence: since when a route's legacy side has answered nobody, and who the last ones were.
//!
//! Input: counts that the workers keep anyway, looked at once a second. Output: whether a route may be retired. Must not: take a time that
//! nobody looked at for a time in which nobody came.

use super::Reloader;
use crate::live::Serving;
use crate::silence::Silence;
use banyan_routes::ids::Side;
use banyan_routes::problem::{Place, Problem};
use banyan_routes::table::{Route, RouteTable, Stage};
use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// In the notes of the state directory.
pub const NOTE: &str = "silence";
#[derive(Default)]
pub struct Watchman {
    pub routes: BTreeMap<String, Silence>,
}

impl Watchman {
    /// Whether a route has been retired since the last look.
    pub fn look(&mut self, serving: &Serving, now_unix_s: u64) -> bool {
        let mut any_retired = false;
        self.routes.retain(|id, _| serving.table.position(id.as_str()).is_some());
        for (route, runtime) in serving.table.routes.iter().zip(&serving.routes) {
            if !matches!(route.stage, Stage::Serverless | Stage::Retired) {
                if route.quiet_for.is_some() {
                    self.routes.remove(&*route.id);
                }
                continue;
            }
            // Routes that nobody is going to retire need no line.
            if route.quiet_for.is_some() {
                let known =
                    self.routes.entry(route.id.to_string()).or_insert_with(|| Silence::from(now_unix_s));
                let count = runtime.metrics.answered[Side::Legacy.index()].load(Ordering::Relaxed);
                let retired = route.stage == Stage::Retired;
                any_retired |= retired && !known.retired;
                known.see(count, retired, now_unix_s);
                let watched = runtime.watched();
                watched.callers.next_second();
                *watched.silence.lock().unwrap_or_else(PoisonError::into_inner) = Some(known.clone());
            }
        }
        any_retired
    }

    /// Routes that are to be retired and are not silent yet. A process that has never looked takes the rules' word.
    pub fn refused(&self, table: &RouteTable) -> Vec<Problem> {
        let retired = table.routes.iter().filter(|route| route.stage == Stage::Retired);
        let refused = |route: &Route| {
            let (quiet_for, known) = (route.quiet_for?, self.routes.get(&*route.id)?);
            if known.retired || known.proves(quiet_for) {
                return None;
            }
            let place = Place::field(route.origin.0 as usize, format!("routes[{}].stage", route.origin.1));
            let text = format!(
                "legacy has been silent for {} s; {} requests since it is watched; `banyan show {}` names the last callers",
                known.quiet_seconds(),
                known.legacy_requests,
                route.id
            );
            let expected = format!("{} s of silence (`retire.quiet_for`)", quiet_for.as_secs());
            Some(Problem::error("not_silent", place, text).route(&*route.id).expected(expected))
        };
        retired.filter_map(refused).collect()
    }
}

impl Reloader {
    /// A start is no time to refuse what lies there: it is told, and served.
    pub(super) fn not_silent(&self, table: &RouteTable) -> Vec<Problem> {
        let refused = self.silence.refused(table);
        if self.serving.is_some() {
            return refused;
        }
        for problem in refused {
            tracing::error!(route = problem.route, "retired without proof: {}", problem.text);
        }
        Vec::new()
    }
}
