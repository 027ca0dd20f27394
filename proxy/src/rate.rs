//! How many requests of one key a second may bring.
//!
//! Input: a rule, and the key of a request. Output: whether it has room, or when it will. Must not: lock, allocate, or grow with the number
//! of keys.

use banyan_routes::bucket::key_hash;
use banyan_routes::table::LimitRule;
use governor::clock::{Clock, DefaultClock};
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{Quota, RateLimiter};
use std::num::NonZeroU32;
use std::time::Duration;

/// Places for keys; two keys share one by chance, once in so many. The seed is the process's own, so that nobody can aim at another's.
pub const PLACES: usize = 1 << 16;

pub struct RateGuard {
    pub rule: LimitRule,
    limiter: RateLimiter<u64, Places, DefaultClock>,
    seed: u64,
}

/// What is known of each place: 8 bytes, changed in place.
struct Places(Box<[InMemoryState]>);

impl StateStore for Places {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        self.0[*key as usize % self.0.len()].measure_and_replace(&NotKeyed::NonKey, f)
    }
}

impl RateGuard {
    pub fn new(rule: &LimitRule) -> RateGuard {
        let places = (0..PLACES).map(|_| InMemoryState::default()).collect();
        let limiter = RateLimiter::new(quota(rule), Places(places), DefaultClock::default());
        RateGuard { rule: rule.clone(), limiter, seed: rand::random() }
    }

    /// One of so many equal parts of it; whoever has room for one at a time at least.
    pub fn share(rule: &LimitRule, parts: u32) -> RateGuard {
        let (per_secs, burst) = (rule.per_secs.saturating_mul(parts), (rule.burst / parts).max(1));
        RateGuard::new(&LimitRule { per_secs, burst, ..rule.clone() })
    }

    /// `Err`: how long until there is room.
    pub fn admits(&self, key: &[u8]) -> Result<(), Duration> {
        let key = key_hash(self.seed, key);
        self.limiter.check_key(&key).map_err(|until| until.wait_time_from(DefaultClock::default().now()))
    }
}

/// `burst` at once, and one more with each period.
pub fn quota(rule: &LimitRule) -> Quota {
    let burst = NonZeroU32::new(rule.burst).unwrap_or(NonZeroU32::MIN);
    Quota::with_period(rule.period()).unwrap_or(Quota::per_second(NonZeroU32::MIN)).allow_burst(burst)
}

#[cfg(test)]
mod tests {
    use super::*;
    use banyan_routes::terms::KeySource;

    #[test]
    fn each_key_has_its_burst_and_is_told_when_there_is_room() {
        let rule = LimitRule { key: KeySource::ClientIp, count: 10, per_secs: 60, burst: 5, shared: false };
        let guard = RateGuard::new(&rule);
        for key in ["a", "b"] {
            assert_eq!((0..50).filter(|_| guard.admits(key.as_bytes()).is_ok()).count(), 5, "{key}");
        }
        let wait = guard.admits(b"a").expect_err("it is spent");
        assert!(wait <= Duration::from_secs(6) && wait > Duration::from_secs(5), "{wait:?}");
    }
}
