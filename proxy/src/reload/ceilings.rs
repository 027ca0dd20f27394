//! Ceilings of ramps: places in a second, failures in a day.
//!
//! Input: a new table; counts that the workers keep anyway. Output: a guard for each route that has a ceiling. Must not: give a route a fresh
//! second's worth with each reload.

use super::Reloader;
use crate::ceiling::CeilingGuard;
use crate::fleet_limit::FleetLimit;
use crate::live::{Limit, Serving};
use crate::rate::RateGuard;
use banyan_routes::ids::Side;
use banyan_routes::table::{Route, RouteTable};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const DAY_S: u64 = 86_400;

/// Failures at the beginning of the day (UTC), by route.
#[derive(Default)]
pub struct Failures {
    day: u64,
    before: HashMap<Box<str>, u64>,
}

impl Failures {
    pub fn look(&mut self, serving: &Serving, now_unix_s: u64) {
        if self.day != now_unix_s / DAY_S {
            *self = Failures { day: now_unix_s / DAY_S, before: HashMap::new() };
        }
        for (at, guard) in serving.ceilings.iter().enumerate() {
            let Some((guard, most)) = guard.as_ref().and_then(|it| Some((it, it.rule.failures_per_day?)))
            else {
                continue;
            };
            let metrics = &serving.routes[at].metrics;
            // What legacy answered because serverless could not is a failure of serverless's.
            let failed = metrics.failed[Side::Serverless.index()].load(Ordering::Relaxed)
                + metrics.fallbacks.load(Ordering::Relaxed);
            let before = self.before.entry(serving.table.routes[at].id.clone()).or_insert(failed);
            if failed < *before {
                // It was away, and its counts began anew.
                *before = 0;
            }
            guard.failures_spent.store(failed - *before >= u64::from(most), Ordering::Relaxed);
        }
    }
}

impl Reloader {
    /// The same for limits.
    pub(super) fn limits(&self, table: &RouteTable) -> Vec<Option<Limit>> {
        let known = |route: &Route| {
            let serving = self.serving.as_ref()?;
            serving.limits[serving.table.position(&route.id)? as usize].clone()
        };
        let guard = |route: &Route| {
            let rule = route.limit.as_deref()?;
            let kept = known(route).filter(|limit| limit.rule() == rule);
            Some(kept.unwrap_or_else(|| match self.fleet.clone().filter(|_| rule.shared) {
                Some(fleet) => {
                    let local =
                        self.metrics.limit_local.with_label_values(&[self.metrics.names.of(&route.id)]);
                    Limit::Fleet(Arc::new(FleetLimit::new(rule, &route.id, fleet, local)))
                }
                None => Limit::Own(Arc::new(RateGuard::new(rule))),
            }))
        };
        table.routes.iter().map(guard).collect()
    }

    /// A guard goes on over a reload, as long as its rule stays.
    pub(super) fn ceilings(&self, table: &RouteTable) -> Vec<Option<Arc<CeilingGuard>>> {
        let known = |route: &Route| {
            let serving = self.serving.as_ref()?;
            serving.ceilings[serving.table.position(&route.id)? as usize].clone()
        };
        let guard = |route: &Route| {
            let rule = route.ramp.as_ref()?.ceiling?;
            let kept = known(route).filter(|guard| guard.rule == rule);
            Some(kept.unwrap_or_else(|| Arc::new(CeilingGuard::new(rule))))
        };
        table.routes.iter().map(guard).collect()
    }
}
