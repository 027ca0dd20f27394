//! After some failures in a row a backend gets no shadows for a while.
//!
//! Input: outcomes, from the shadow's thread. Output: whether it rests, asked by workers. Must not: lock.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const FAILURES: u32 = 10;
const REST: Duration = Duration::from_secs(5);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

#[derive(Debug, Default)]
pub struct Breaker {
    failures: AtomicU32,
    /// Milliseconds after the first use of any.
    rests_until: AtomicU64,
}

impl Breaker {
    pub fn is_open(&self) -> bool {
        let until = self.rests_until.load(Ordering::Relaxed);
        until > 0 && millis() < until
    }

    pub fn settle(&self, answered: bool) {
        if answered {
            self.failures.store(0, Ordering::Relaxed);
            self.rests_until.store(0, Ordering::Relaxed);
        } else if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES {
            self.rests_until.store(millis() + REST.as_millis() as u64, Ordering::Relaxed);
        }
    }
}

/// Milliseconds after the first use.
pub fn millis() -> u64 {
    START.elapsed().as_millis() as u64
}
