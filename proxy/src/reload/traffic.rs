//! How much each route had lately: for what a change would move, and what a way back would bring.
//!
//! Input: counts that the workers keep anyway, looked at once a minute. Output: requests of the last hour, and rates. Must not: cost a
//! request anything, or keep a line for a route without traffic.

use crate::live::{RouteRuntime, Serving};
use banyan_routes::ids::Side;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_secs(60);
/// Sixty minutes lie between sixty-one looks.
const LOOKS: usize = 61;

#[derive(Default)]
pub struct Traffic {
    /// Totals, the oldest first.
    totals: HashMap<Box<str>, VecDeque<u64>>,
    looked: Option<Instant>,
    looks: u64,
}

impl Traffic {
    /// Called often; looks once a minute.
    pub fn look(&mut self, serving: &Serving) {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK) {
            return;
        }
        self.looked = Some(Instant::now());
        self.looks += 1;
        self.totals.retain(|id, _| serving.table.position(id).is_some());
        for (route, runtime) in serving.table.routes.iter().zip(&serving.routes) {
            let total = total(runtime);
            if total == 0 {
                continue;
            }
            let known = self.totals.entry(route.id.clone()).or_default();
            if known.len() == LOOKS {
                known.pop_front();
            }
            known.push_back(total);
        }
    }

    pub fn last_hour(&self, id: &str, runtime: &RouteRuntime) -> u64 {
        let full = self.totals.get(id).filter(|totals| totals.len() == LOOKS);
        let before = full.and_then(|totals| totals.front()).copied().unwrap_or(0);
        total(runtime).saturating_sub(before)
    }

    /// Requests a second of all routes with this legacy backend, on both sides, since the look before last.
    pub fn rate_of(&self, serving: &Serving, backend: u32) -> u64 {
        let Some(looked) = self.looked else { return 0 };
        let routes = serving.table.routes.iter().zip(&serving.routes);
        let of_backend = routes.filter(|(route, _)| route.backend(Side::Legacy) == Some(backend));
        let mut seconds = looked.elapsed().as_secs_f64();
        // So shortly after a look, the minute before it says more.
        let enough = seconds > 5.0 || self.looks < 2;
        let requests: u64 = of_backend
            .map(|(route, runtime)| {
                let totals = self.totals.get(&route.id);
                let back = if enough { 1 } else { 2 };
                let before =
                    totals.and_then(|totals| totals.iter().rev().nth(back - 1)).copied().unwrap_or(0);
                total(runtime).saturating_sub(before)
            })
            .sum();
        if !enough {
            seconds += LOOK.as_secs_f64();
        }
        (requests as f64 / seconds.max(1.0)).ceil() as u64
    }
}

fn total(runtime: &RouteRuntime) -> u64 {
    let answered = &runtime.metrics.answered;
    Side::ALL.iter().map(|side| answered[side.index()].load(Ordering::Relaxed)).sum()
}
