//! The loop that asks the plan of each ramp that moves by itself, once a second, and does what it says.
//!
//! Input: counts that the workers keep anyway. Output: changes like a person's, in the same log. Must not: cost a request anything, or
//! act on a window in which the share was another.

use super::Reloader;
use crate::change::{ChangeAsked, What};
use crate::live::RouteRuntime;
use banyan_routes::ids::Side;
use banyan_routes::life::Change;
use banyan_routes::plan::{CONTROLLER, Outcomes, Seen, Verdict, plan};
use banyan_routes::table::{Route, Stage};
use jiff::Timestamp;
use std::collections::VecDeque;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Windows are no longer than this, whatever a rule says.
const WINDOW_MAX: Duration = Duration::from_secs(600);

/// What was counted up to one moment.
#[derive(Clone)]
struct Counted {
    at: Instant,
    requests: [u64; 2],
    failed: [u64; 2],
    buckets: [Vec<(f64, u64)>; 2],
}

/// One route's counts since its share last changed.
#[derive(Default)]
pub struct Watch {
    share_ppm: u32,
    since: Option<Counted>,
    lately: VecDeque<Counted>,
}

impl Reloader {
    /// One round over all ramps.
    pub fn judge(&mut self) {
        let Some(serving) = self.serving.clone() else { return };
        let now = Timestamp::now();
        let frozen =
            serving.table.freezes.iter().find(|freeze| freeze.is_on(now)).map(|freeze| &*freeze.name);
        self.metrics.gate.reset();
        for (route, runtime) in serving.table.routes.iter().zip(&serving.routes) {
            if route.stage != Stage::Ramp || route.ramp.as_ref().is_none_or(|ramp| ramp.gates.is_none()) {
                continue;
            }
            let state = self.state.routes.get(&*route.id).cloned().unwrap_or_default();
            let watch = self.watches.entry(route.id.clone()).or_default();
            let (since_change, lately) = watch.see(route, runtime, state.share_ppm);
            let evidence = runtime.evidence_if_any().map(|evidence| evidence.window(None, SystemTime::now()));
            let seen = Seen { now_unix_s: unix(), since_change, lately, evidence: evidence.as_ref(), frozen };
            let Some(verdict) = plan(route, &serving.table, &state, &seen) else { continue };
            self.tell(route, runtime, &verdict);
            match &verdict {
                Verdict::Advance => self.act(route, Change::Promote, "all gates are open"),
                Verdict::RollBack(reason) => {
                    self.act(route, Change::Rollback, &format!("{}: {reason}", reason.gate()))
                }
                Verdict::Hold(_) => {}
            }
        }
    }

    fn tell(&self, route: &Route, runtime: &RouteRuntime, verdict: &Verdict) {
        let set =
            |gate: &str| self.metrics.gate.with_label_values(&[&*route.id, gate, verdict.as_str()]).set(1);
        match verdict {
            Verdict::Advance => set("all"),
            Verdict::Hold(reasons) => reasons.iter().for_each(|reason| set(reason.gate())),
            Verdict::RollBack(reason) => set(reason.gate()),
        }
        *runtime.verdict.lock().unwrap_or_else(PoisonError::into_inner) = Some(verdict.clone());
    }

    fn act(&mut self, route: &Route, change: Change, reason: &str) {
        let asked = ChangeAsked {
            what: What::Route { id: route.id.to_string(), change },
            actor: CONTROLLER.to_owned(),
            reason: reason.to_owned(),
            if_revision: None,
            dry_run: false,
        };
        if let Err(why) = self.change(&asked) {
            tracing::warn!(route = %route.id, action = change.as_str(), ?why, "the controller's change was not made");
        }
    }
}

impl Watch {
    /// Counts since the share changed, and in the window of the rule that ends the ramp.
    fn see(&mut self, route: &Route, runtime: &RouteRuntime, share_ppm: u32) -> (Outcomes, Outcomes) {
        let counted = Counted::now(runtime);
        if self.since.is_none() || self.share_ppm != share_ppm {
            *self = Watch { share_ppm, since: Some(counted.clone()), lately: VecDeque::new() };
        }
        let rule = route.ramp.as_ref().and_then(|ramp| ramp.gates.as_ref()?.roll_back.as_ref());
        let window = rule.map_or(Duration::ZERO, |rule| rule.window).min(WINDOW_MAX);
        // The newest that is as old as the window stays: what came after it is the window.
        while self.lately.get(1).is_some_and(|second| counted.at.duration_since(second.at) >= window) {
            self.lately.pop_front();
        }
        self.lately.push_back(counted.clone());
        let from =
            |start: Option<&Counted>| start.map_or_else(Outcomes::default, |start| counted.after(start));
        (from(self.since.as_ref()), from(self.lately.front()))
    }
}

impl Counted {
    fn now(runtime: &RouteRuntime) -> Counted {
        let metrics = &runtime.metrics;
        let fallbacks = metrics.fallbacks.load(Ordering::Relaxed);
        let get = |counts: &[std::sync::atomic::AtomicU64; 3], side: Side| {
            // A request that legacy answered because serverless failed is a failure of serverless's.
            let extra = if side == Side::Serverless { fallbacks } else { 0 };
            counts[side.index()].load(Ordering::Relaxed) + extra
        };
        Counted {
            at: Instant::now(),
            requests: Side::ALL.map(|side| get(&metrics.answered, side)),
            failed: Side::ALL.map(|side| get(&metrics.failed, side)),
            buckets: Side::ALL.map(|side| metrics.buckets(side)),
        }
    }

    fn after(&self, start: &Counted) -> Outcomes {
        let less = |now: [u64; 2], then: [u64; 2]| [0, 1].map(|at| now[at].saturating_sub(then[at]));
        Outcomes {
            requests: less(self.requests, start.requests),
            failed: less(self.failed, start.failed),
            p99_seconds: [0, 1].map(|at| quantile(&self.buckets[at], &start.buckets[at], 0.99)),
        }
    }
}

/// Within its bucket by proportion, as Prometheus does it.
fn quantile(now: &[(f64, u64)], then: &[(f64, u64)], q: f64) -> Option<f64> {
    let before = |at: usize| then.get(at).map_or(0, |it| it.1);
    let counts: Vec<(f64, u64)> = now
        .iter()
        .enumerate()
        .map(|(at, (bound, count))| (*bound, count.saturating_sub(before(at))))
        .collect();
    let all = counts.last()?.1;
    let rank = all as f64 * q;
    let at = counts.iter().position(|(_, count)| *count as f64 >= rank).filter(|_| all > 0)?;
    let (low, below) = if at == 0 { (0.0, 0) } else { counts[at - 1] };
    let (high, count) = counts[at];
    let part = (rank - below as f64) / (count - below).max(1) as f64;
    Some(if high.is_finite() { low + (high - low) * part } else { low })
}

fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// For who shows it.
pub fn told(verdict: &Verdict) -> (String, Vec<(String, String)>) {
    let one = |reason: &banyan_routes::plan::Reason| (reason.gate().to_owned(), reason.to_string());
    let reasons = match verdict {
        Verdict::Advance => Vec::new(),
        Verdict::Hold(reasons) => reasons.iter().map(one).collect(),
        Verdict::RollBack(reason) => vec![one(reason)],
    };
    (verdict.as_str().to_owned(), reasons)
}
