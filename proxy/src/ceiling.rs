//! What serverless gets at most, whatever the share says.
//!
//! Input: the rule, and one question a request. Output: whether there is room. Must not: lock, or count what another process sends.

use banyan_routes::table::Ceiling;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};

pub struct CeilingGuard {
    pub rule: Ceiling,
    /// With a second's worth at once.
    limiter: Option<DefaultDirectRateLimiter>,
    /// No more today: too many have failed.
    pub failures_spent: AtomicBool,
}

impl CeilingGuard {
    pub fn new(rule: Ceiling) -> CeilingGuard {
        let per_second = rule.rps.and_then(NonZeroU32::new);
        CeilingGuard {
            rule,
            limiter: per_second.map(|rps| RateLimiter::direct(Quota::per_second(rps))),
            failures_spent: AtomicBool::new(rule.failures_per_day == Some(0)),
        }
    }

    /// Takes one place, if there is one.
    pub fn admits(&self) -> bool {
        if self.failures_spent.load(Ordering::Relaxed) || self.rule.rps == Some(0) {
            return false;
        }
        self.limiter.as_ref().is_none_or(|limiter| limiter.check().is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_so_many_places_and_zero_has_none() {
        let guard = |rps, failures_per_day| CeilingGuard::new(Ceiling { rps, failures_per_day });
        let ten = guard(Some(10), None);
        assert_eq!((0..100).filter(|_| ten.admits()).count(), 10);
        assert!(!guard(Some(0), None).admits() && !guard(None, Some(0)).admits());
        let failures = guard(None, Some(5));
        assert!(failures.admits());
        failures.failures_spent.store(true, Ordering::Relaxed);
        assert!(!failures.admits());
    }
}
