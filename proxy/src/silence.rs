//! Since when a route's legacy side has answered nobody.
//!
//! Input: its count, looked at again and again. Output: how long it has been silent. Must not: take a time in which nobody looked for one in
//! which nobody came.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A process that was away for longer has not looked meanwhile: what it knew of silence ends.
const AWAY_MAX_S: u64 = 600;

/// One route, since it is in stage `serverless`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// Since when somebody has looked, without a gap.
    pub watched_since_unix_s: u64,
    pub looked_unix_s: u64,
    pub last_legacy_unix_s: Option<u64>,
    /// Requests that legacy has answered meanwhile.
    pub legacy_requests: u64,
    /// It was retired already.
    pub retired: bool,
    #[serde(skip)]
    counted: Option<u64>,
}

impl Silence {
    pub fn quiet_seconds(&self) -> u64 {
        let from = self.last_legacy_unix_s.unwrap_or(0).max(self.watched_since_unix_s);
        self.looked_unix_s.saturating_sub(from)
    }

    pub fn proves(&self, quiet_for: Duration) -> bool {
        self.quiet_seconds() >= quiet_for.as_secs()
    }
}

impl Silence {
    /// Watched from now on.
    pub fn from(now_unix_s: u64) -> Silence {
        Silence { watched_since_unix_s: now_unix_s, ..Silence::default() }
    }

    /// `count` is of the requests that legacy has answered in this process.
    pub fn see(&mut self, count: u64, retired: bool, now_unix_s: u64) {
        if self.looked_unix_s > 0 && now_unix_s.saturating_sub(self.looked_unix_s) > AWAY_MAX_S {
            *self = Silence { retired: self.retired, ..Silence::from(now_unix_s) };
        }
        if self.retired && !retired {
            // It came back, and has everything to prove anew.
            *self = Silence { counted: self.counted, ..Silence::from(now_unix_s) };
        }
        let before = self.counted.replace(count).unwrap_or(count);
        if count > before {
            self.legacy_requests += count - before;
            self.last_legacy_unix_s = Some(now_unix_s);
        }
        self.looked_unix_s = now_unix_s;
        self.retired |= retired;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_begins_with_the_last_request_and_ends_with_a_gap_in_looking() {
        let mut silence = Silence::from(1_000);
        // What was counted before the first look is from before the watch.
        for (at, count) in [(1_000, 40), (1_001, 40), (1_002, 43), (1_100, 43)] {
            silence.see(count, false, at);
        }
        assert_eq!((silence.quiet_seconds(), silence.legacy_requests), (98, 3));
        assert!(silence.proves(Duration::from_secs(98)) && !silence.proves(Duration::from_secs(99)));
        silence.see(43, true, 5_000);
        assert_eq!((silence.quiet_seconds(), silence.retired), (0, true), "nobody looked for an hour");
    }
}
