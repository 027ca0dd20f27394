//! How often legacy may be asked twice: so seldom that it does not feel it.
//!
//! Input: exchanges as they come. Output: whether this one has a control. Must not: pass 5 a second for a route, or the route's
//! share of its requests once the first 60 are made.

use banyan_routes::ids::{PPM, SharePpm};
use banyan_routes::noise::CONTROLS_MIN;
use std::time::{Duration, Instant};

/// At first; some of them will say nothing.
const BURST: u64 = 2 * CONTROLS_MIN;
/// 5 a second.
const GAP: Duration = Duration::from_millis(200);

pub struct Controls {
    /// Millionths of a control.
    earned: u64,
    last: Option<Instant>,
}

impl Default for Controls {
    fn default() -> Controls {
        // Enough to say something at all, at once.
        Controls { earned: BURST * u64::from(PPM), last: None }
    }
}

impl Controls {
    pub fn take(&mut self, share: SharePpm, now: Instant) -> bool {
        if share == SharePpm::ZERO {
            return false;
        }
        self.earned = (self.earned + u64::from(share.get())).min(BURST * u64::from(PPM));
        let waited = self.last.is_none_or(|last| now.duration_since(last) >= GAP);
        if !waited || self.earned < u64::from(PPM) {
            return false;
        }
        self.earned -= u64::from(PPM);
        self.last = Some(now);
        true
    }
}
