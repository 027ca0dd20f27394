//! A limit that all replicas share: GCRA in the fleet's store, this replica's share of it while the store is away.
//!
//! Input: a rule and a request's key. Output: whether it has room, or when it will. Must not: hold a request up for a store that does not
//! answer, or let the store grow with the number of keys.

use crate::rate::{PLACES, RateGuard};
use crate::recent::Recent;
use crate::state::fleet::Fleet;
use crate::targets::breaker::millis;
use arc_swap::ArcSwap;
use banyan_routes::bucket::key_hash;
use banyan_routes::table::LimitRule;
use pingora_prometheus::prometheus::IntCounter;
use redis::Script;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The store's time, in microseconds: theoretical arrival (GCRA). The answer is how long to wait, 0 for room.
const TAKE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local arrival = tonumber(redis.call('GET', KEYS[1]) or now)
if arrival < now then arrival = now end
local wait = arrival - now - tonumber(ARGV[2])
if wait > 0 then return math.ceil(wait) end
arrival = arrival + tonumber(ARGV[1])
redis.call('SET', KEYS[1], string.format('%.0f', arrival), 'PX', math.ceil((arrival - now) / 1000) + 1)
return 0
";

/// A store that takes longer is done without.
const ANSWER_MAX: Duration = Duration::from_millis(100);
/// And not asked again for so long, in milliseconds.
const REST: u64 = 1_000;
/// Keys that are known to be spent.
const SPENT: usize = 4_096;

pub struct FleetLimit {
    pub rule: LimitRule,
    route: Box<str>,
    fleet: Arc<Fleet>,
    take: Script,
    spent: Recent<Instant>,
    /// For so many replicas.
    share: ArcSwap<(u32, RateGuard)>,
    /// The store is not asked before.
    again: AtomicU64,
    local: IntCounter,
}

impl FleetLimit {
    pub fn new(rule: &LimitRule, route: &str, fleet: Arc<Fleet>, local: IntCounter) -> FleetLimit {
        let replicas = fleet.size();
        FleetLimit {
            rule: rule.clone(),
            route: route.into(),
            fleet,
            take: Script::new(TAKE),
            spent: Recent::new(SPENT),
            share: ArcSwap::from_pointee((replicas, RateGuard::share(rule, replicas))),
            again: AtomicU64::new(0),
            local,
        }
    }

    /// What can be said without the store: that a key is spent.
    pub fn known(&self, key: &[u8]) -> Option<Duration> {
        self.spent.get(key).and_then(|until| until.checked_duration_since(Instant::now()))
    }

    pub async fn admits(&self, key: &[u8]) -> Result<(), Duration> {
        if millis() >= self.again.load(Ordering::Relaxed) {
            match tokio::time::timeout(ANSWER_MAX, self.ask(key)).await {
                Ok(Some(wait)) if wait.is_zero() => return Ok(()),
                Ok(Some(wait)) => {
                    self.spent.put(key, Instant::now() + wait);
                    return Err(wait);
                }
                Ok(None) | Err(_) => self.again.store(millis() + REST, Ordering::Relaxed),
            }
        }
        self.local.inc();
        self.by_share(key)
    }

    /// `None`: the store does not answer.
    async fn ask(&self, key: &[u8]) -> Option<Duration> {
        let (mut connection, seed) = self.fleet.connection()?;
        let period = self.rule.period().as_micros() as u64;
        let tolerance = period.saturating_mul(u64::from(self.rule.burst.max(1)) - 1);
        // Two keys share a place by chance, as they do in one process.
        let place = format!("{}:{:x}", self.route, key_hash(seed, key) as usize % PLACES);
        let mut call = self.take.prepare_invoke();
        call.key(self.fleet.key("limit", &place)).arg(period).arg(tolerance);
        let wait: u64 = call.invoke_async(&mut connection).await.ok()?;
        Some(Duration::from_micros(wait))
    }

    fn by_share(&self, key: &[u8]) -> Result<(), Duration> {
        let replicas = self.fleet.size();
        if self.share.load().0 != replicas {
            self.share.store(Arc::new((replicas, RateGuard::share(&self.rule, replicas))));
        }
        self.share.load().1.admits(key)
    }
}
