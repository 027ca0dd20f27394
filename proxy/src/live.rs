//! What serves right now: one immutable snapshot, swapped whole.
//!
//! Input: a compiled table with its running backends, and the kill switches. Output: `Live`, loaded once per request.
//! Must not: be changed in place; a response never comes from two rule sets.

use crate::attribution::Attributions;
use crate::callers::Callers;
use crate::ceiling::CeilingGuard;
use crate::evidence::Evidence;
use crate::fleet_limit::FleetLimit;
use crate::lambda::usage::{Figures, Usage};
use crate::metrics::{Metrics, RouteMetrics};
use crate::rate::RateGuard;
use crate::silence::Silence;
use crate::state::kill::KillSet;
use crate::targets::backend::RunningBackend;
use crate::targets::dial::{Capped, Dial};
use arc_swap::ArcSwapOption;
use banyan_routes::compile::ReadFile;
use banyan_routes::decide::Conditions;
use banyan_routes::egress::Denied;
use banyan_routes::evidence::Loss;
use banyan_routes::ids::{SharePpm, Side};
use banyan_routes::plan::Verdict;
use banyan_routes::state::State;
use banyan_routes::table::{LimitRule, Route, RouteTable};
use pingora_prometheus::prometheus::IntCounter;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A table with everything that was prepared for it.
pub struct Serving {
    pub table: RouteTable,
    pub files: Vec<ReadFile>,
    /// In the order of `table.backends`.
    pub backends: Vec<Arc<RunningBackend>>,
    /// In the order of `table.routes`.
    pub routes: Vec<Arc<RouteRuntime>>,
    /// What each route compares, and how, in the same order: evidence holds as long as this stays.
    pub identities: Vec<u64>,
    /// In the same order.
    pub ceilings: Vec<Option<Arc<CeilingGuard>>>,
    /// In the same order.
    pub limits: Vec<Option<Limit>>,
    /// How the connections of each egress rule are made, in the order of `table.egress`.
    pub ways: Vec<Way>,
    pub attributions: Attributions,
    /// For each listener of the settings that speaks HTTP, its egress rules; where there are any, requests need one.
    pub exits: Vec<Vec<Exit>>,
}

/// What an egress rule says of each backend.
pub struct Exit {
    /// Its number in `table.egress`.
    pub rule: usize,
    /// Why it does not lead there, in the order of `table.backends`.
    pub keeps_from: Vec<Option<Denied>>,
}

/// The way out by one egress rule.
pub struct Way {
    pub dial: Dial,
    pub cap: Option<Capped>,
}

/// What guards a route's limit.
#[derive(Clone)]
pub enum Limit {
    Own(Arc<RateGuard>),
    Fleet(Arc<FleetLimit>),
}

impl Limit {
    pub fn rule(&self) -> &LimitRule {
        match self {
            Limit::Own(guard) => &guard.rule,
            Limit::Fleet(guard) => &guard.rule,
        }
    }
}

type Losses = [OnceLock<IntCounter>; Loss::ALL.len()];

/// What is known of a route that somebody is about to move.
#[derive(Default)]
pub struct Watched {
    /// What the controller last said of its ramp.
    pub verdict: Mutex<Option<Verdict>>,
    /// Since when nobody has come to its legacy side.
    pub silence: Mutex<Option<Silence>>,
    /// Who came to its legacy side though serverless serves.
    pub callers: Callers,
}

/// What a route needs while it runs. There may be 100,000: what few of them need is apart.
#[derive(Default)]
pub struct RouteRuntime {
    pub metrics: RouteMetrics,
    /// What its shadows say; made with the first.
    evidence: OnceLock<Box<Evidence>>,
    /// Of a route that ramps or is to be retired; made with the first look at it.
    watched: OnceLock<Box<Watched>>,
    /// Requests that its ceiling has sent to legacy.
    pub over_ceiling: AtomicU64,
    /// Copies lost, by cause; each made with the first.
    lost: OnceLock<Box<Losses>>,
    /// What its functions have used, by `Side::index`; made with the first report.
    usage: [OnceLock<Box<Usage>>; 2],
    /// Millionths of a retry that may be spent; see `RouteRuntime::may_retry`.
    retry_tokens: AtomicI64,
}

/// Retries that may be saved up: 10, so that a quiet route can still retry its first failures.
const RETRY_TOKENS_MAX: i64 = 10 * PPM;
const PPM: i64 = banyan_routes::ids::PPM as i64;

impl RouteRuntime {
    /// Counts a copy that is not sent: losses come with load and size, so they are evidence themselves.
    pub fn lose(&self, metrics: &Metrics, route: &str, loss: Loss) {
        self.lose_of(u64::MAX, metrics, route, loss);
    }

    /// The same of one that was sampled under a `Live`, since when evidence may have begun anew.
    pub fn lose_of(&self, number: u64, metrics: &Metrics, route: &str, loss: Loss) {
        if self.evidence().knows(number) {
            self.evidence().lose(loss);
        }
        let count =
            || metrics.shadow_dropped.with_label_values(&[self.metrics.name(metrics, route), loss.as_str()]);
        self.lost.get_or_init(Box::default)[loss as usize].get_or_init(count).inc();
    }

    pub fn evidence(&self) -> &Evidence {
        self.evidence.get_or_init(Box::default)
    }

    pub fn evidence_if_any(&self) -> Option<&Evidence> {
        self.evidence.get().map(|evidence| &**evidence)
    }

    pub fn watched(&self) -> &Watched {
        self.watched.get_or_init(Box::default)
    }

    pub fn watched_if_any(&self) -> Option<&Watched> {
        self.watched.get().map(|watched| &**watched)
    }

    /// Where the reports of a side's function are added up.
    pub fn usage(&self, side: Side) -> &Usage {
        self.usage[side.index()].get_or_init(Box::default)
    }

    pub fn figures(&self, side: Side) -> Option<Figures> {
        self.usage[side.index()].get()?.figures()
    }

    /// Each request earns its share of a retry.
    pub fn earn(&self, budget_ppm: u32) {
        let earned =
            self.retry_tokens.fetch_add(i64::from(budget_ppm), Ordering::Relaxed) + i64::from(budget_ppm);
        if earned > RETRY_TOKENS_MAX {
            self.retry_tokens.store(RETRY_TOKENS_MAX, Ordering::Relaxed);
        }
    }

    /// Takes one retry out of the budget, or says that it is spent.
    pub fn may_retry(&self, budget_ppm: u32) -> bool {
        if i64::from(budget_ppm) >= PPM {
            return true;
        }
        if self.retry_tokens.fetch_sub(PPM, Ordering::Relaxed) >= PPM {
            return true;
        }
        self.retry_tokens.fetch_add(PPM, Ordering::Relaxed);
        false
    }
}

/// The snapshot of one moment.
pub struct Live {
    pub serving: Arc<Serving>,
    pub kills: KillSet,
    pub state: Arc<State>,
    killed: Box<[bool]>,
    /// The part of the keys that goes to serverless, and whether the route was rolled back; in the order of the routes.
    shares: Box<[(SharePpm, bool)]>,
    /// Of all that this process has made, in their order: by it, evidence knows what was sampled before it began.
    pub number: u64,
}

impl Live {
    pub fn new(serving: Arc<Serving>, kills: KillSet, state: Arc<State>) -> Live {
        let killed = kills.flags(&serving.table);
        let share = |route: &Route| match state.routes.get(&*route.id) {
            Some(known) => (known.effective(route), known.rolled_back),
            None => (route.stage.share(), false),
        };
        let shares = serving.table.routes.iter().map(share).collect();
        static MADE: AtomicU64 = AtomicU64::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed) + 1;
        Live { serving, kills, state, killed, shares, number }
    }

    /// What the decision needs beyond rules and request.
    pub fn conditions(&self, index: u32, route: &Route, override_side: Option<Side>) -> Conditions {
        let serverless = route.backend(Side::Serverless);
        Conditions {
            killed: self.killed[index as usize],
            share: self.shares[index as usize].0,
            rolled_back: self.shares[index as usize].1,
            override_side,
            serverless_available: serverless
                .is_none_or(|backend| self.serving.backends[backend as usize].available()),
        }
    }
}

/// The place the snapshot is loaded from. Empty until the first rule set is accepted.
#[derive(Default)]
pub struct LiveTable {
    current: ArcSwapOption<Live>,
    /// Snapshots taken out of service. A worker that drops the last reference to 100,000 routes would stall for it, so the
    /// control thread holds one more and drops it when it is the only one.
    retired: Mutex<Vec<Arc<Live>>>,
}

impl LiveTable {
    pub fn load(&self) -> Option<Arc<Live>> {
        self.current.load_full()
    }

    /// Publishes; requests under way keep what they have.
    pub fn publish(&self, live: Live) {
        if let Some(old) = self.current.swap(Some(Arc::new(live))) {
            self.retired.lock().unwrap_or_else(PoisonError::into_inner).push(old);
        }
    }

    /// Drops what no request holds any more. Called by the control thread only.
    pub fn bury(&self) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|live| Arc::strong_count(live) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_that_nobody_asks_for_is_small() {
        // There may be 100,000 of them.
        let bytes = size_of::<RouteRuntime>() + size_of::<Route>();
        assert!(bytes <= 800, "{} + {}", size_of::<RouteRuntime>(), size_of::<Route>());
    }
}
