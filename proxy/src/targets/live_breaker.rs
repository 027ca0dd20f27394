//! The breaker of one backend: what its calls say, and whether the next one is made.
//!
//! Input: outcomes of calls, and the time. Output: whether a call is let through, as one of the few that decide, or not. Must not: lock, or
//! read a clock.
//!
//! Closed, open, half-open: while half-open a few calls go through, and when all have succeeded it closes. Each time in a row it stays open
//! twice as long. Counts of a window are approximate where threads meet at its end.

use banyan_routes::backend::{BreakerRule, Calls, Trip};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const CLOSED: u8 = 0;
const OPEN: u8 = 1;
const HALF_OPEN: u8 = 2;

const AUTO: u8 = 0;
const HELD_OPEN: u8 = 1;
const HELD_CLOSED: u8 = 2;

/// Longer than this nobody is told to wait while others probe.
const MEANWHILE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Closed,
    Open,
    HalfOpen,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::Open => "open",
            State::HalfOpen => "half_open",
        }
    }

    /// As the metric has it.
    pub fn number(self) -> i64 {
        match self {
            State::Closed => 0,
            State::Open => 1,
            State::HalfOpen => 2,
        }
    }
}

/// What a person says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hand {
    Auto,
    Open,
    Close,
}

/// Whether a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Free,
    /// One of those that decide; its end must be told, by `settle` or `give_up`.
    Probe,
    /// Not now; perhaps after this.
    Refused(Duration),
}

#[derive(Debug)]
pub struct LiveBreaker {
    pub rule: BreakerRule,
    hand: AtomicU8,
    state: AtomicU8,
    /// Milliseconds, as all times here.
    until: AtomicU64,
    window_began: AtomicU64,
    all: AtomicU32,
    failed: AtomicU32,
    slow: AtomicU32,
    in_a_row: AtomicU32,
    /// In a row.
    times: AtomicU32,
    probing: AtomicU32,
    probed: AtomicU32,
}

impl LiveBreaker {
    pub fn new(rule: &BreakerRule) -> LiveBreaker {
        LiveBreaker {
            rule: rule.clone(),
            hand: AtomicU8::new(AUTO),
            state: AtomicU8::new(CLOSED),
            until: AtomicU64::new(0),
            window_began: AtomicU64::new(0),
            all: AtomicU32::new(0),
            failed: AtomicU32::new(0),
            slow: AtomicU32::new(0),
            in_a_row: AtomicU32::new(0),
            times: AtomicU32::new(0),
            probing: AtomicU32::new(0),
            probed: AtomicU32::new(0),
        }
    }

    pub fn hold(&self, hand: Hand) {
        self.hand.store(
            match hand {
                Hand::Auto => AUTO,
                Hand::Open => HELD_OPEN,
                Hand::Close => HELD_CLOSED,
            },
            Relaxed,
        );
        if hand != Hand::Open {
            self.close();
        }
    }

    pub fn hand(&self) -> Hand {
        match self.hand.load(Relaxed) {
            HELD_OPEN => Hand::Open,
            HELD_CLOSED => Hand::Close,
            _ => Hand::Auto,
        }
    }

    pub fn state(&self) -> State {
        match (self.hand.load(Relaxed), self.state.load(Relaxed)) {
            (HELD_OPEN, _) => State::Open,
            (HELD_CLOSED, _) | (_, CLOSED) => State::Closed,
            (_, OPEN) => State::Open,
            _ => State::HalfOpen,
        }
    }

    /// Whether a call may get through; asked where a side is chosen.
    pub fn is_available(&self, now: impl Fn() -> u64) -> bool {
        match self.hand.load(Relaxed) {
            HELD_OPEN => false,
            HELD_CLOSED => true,
            _ => self.rule.observe || self.state.load(Relaxed) != OPEN || now() >= self.until.load(Relaxed),
        }
    }

    /// Asked when the call is about to be made.
    pub fn admit(&self, now: impl Fn() -> u64) -> Admission {
        match self.hand.load(Relaxed) {
            HELD_OPEN => return Admission::Refused(MEANWHILE),
            HELD_CLOSED => return Admission::Free,
            _ if self.state.load(Relaxed) == CLOSED => return Admission::Free,
            _ => {}
        }
        if self.state.load(Relaxed) == OPEN {
            let (now, until) = (now(), self.until.load(Relaxed));
            if now < until {
                let wait = Duration::from_millis(until - now);
                return if self.rule.observe { Admission::Free } else { Admission::Refused(wait) };
            }
            if self.state.compare_exchange(OPEN, HALF_OPEN, Relaxed, Relaxed).is_ok() {
                self.probing.store(0, Relaxed);
                self.probed.store(0, Relaxed);
            }
        }
        if self.rule.observe {
            return Admission::Free;
        }
        if self.probing.fetch_add(1, Relaxed) < self.rule.probes {
            return Admission::Probe;
        }
        self.probing.fetch_sub(1, Relaxed);
        Admission::Refused(MEANWHILE)
    }

    /// A probe that says nothing: its client went away.
    pub fn give_up(&self) {
        // After it has closed or opened there is nothing to give back.
        let _ = self.probing.try_update(Relaxed, Relaxed, |probing| probing.checked_sub(1));
    }

    /// The end of a call; a probe is given up besides. `Some`: it has just opened, or (`None` inside) closed.
    pub fn settle(&self, now: u64, probe: bool, failed: bool, took: Duration) -> Option<Option<Trip>> {
        let slow = self.rule.slow.is_some_and(|(most, _)| took > most);
        match self.state.load(Relaxed) {
            // Calls that were made before it opened say nothing of now.
            HALF_OPEN if !probe && !self.rule.observe => return None,
            HALF_OPEN if failed || slow => return self.open(now, Trip::Probe),
            HALF_OPEN => {
                let enough = self.probed.fetch_add(1, Relaxed) + 1 >= self.rule.probes;
                return (enough && self.close()).then_some(None);
            }
            CLOSED => {}
            _ => return None,
        }
        self.count(now, failed, slow);
        if !failed && !slow {
            return None;
        }
        let calls = Calls {
            all: self.all.load(Relaxed),
            failed: self.failed.load(Relaxed),
            slow: self.slow.load(Relaxed),
            failed_in_a_row: self.in_a_row.load(Relaxed),
        };
        self.rule.trips(calls).and_then(|trip| self.open(now, trip))
    }

    fn count(&self, now: u64, failed: bool, slow: bool) {
        let began = self.window_began.load(Relaxed);
        let over = now.saturating_sub(began) > self.rule.window.as_millis() as u64;
        if over && self.window_began.compare_exchange(began, now, Relaxed, Relaxed).is_ok() {
            for counter in [&self.all, &self.failed, &self.slow] {
                counter.store(0, Relaxed);
            }
        }
        self.all.fetch_add(1, Relaxed);
        if slow {
            self.slow.fetch_add(1, Relaxed);
        }
        if failed {
            self.failed.fetch_add(1, Relaxed);
            self.in_a_row.fetch_add(1, Relaxed);
        } else if self.in_a_row.load(Relaxed) > 0 {
            self.in_a_row.store(0, Relaxed);
        }
    }

    fn open(&self, now: u64, trip: Trip) -> Option<Option<Trip>> {
        let times = self.times.load(Relaxed) + 1;
        self.until.store(now + self.rule.stays_open(times).as_millis() as u64, Relaxed);
        let was = self.state.swap(OPEN, Relaxed);
        if was == OPEN {
            return None;
        }
        self.times.store(times, Relaxed);
        Some(Some(trip))
    }

    /// How long it stays open from `now` on.
    pub fn rests(&self, now: u64) -> Duration {
        Duration::from_millis(self.until.load(Relaxed).saturating_sub(now))
    }

    /// Another replica's has opened for so long, or (`None`) closed. `true` when that is news.
    pub fn hear(&self, now: u64, open: Option<Duration>) -> bool {
        let Some(open) = open else { return self.close() };
        let open = open.min(self.rule.open_max).as_millis() as u64;
        self.until.fetch_max(now + open, Relaxed);
        self.times.fetch_max(1, Relaxed);
        self.state.swap(OPEN, Relaxed) != OPEN
    }

    /// `true` when it was not closed before.
    fn close(&self) -> bool {
        for counter in [&self.all, &self.failed, &self.slow, &self.in_a_row, &self.times] {
            counter.store(0, Relaxed);
        }
        self.state.swap(CLOSED, Relaxed) != CLOSED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker(observe: bool) -> LiveBreaker {
        LiveBreaker::new(&BreakerRule {
            failures: 3,
            failure_ppm: 500_000,
            slow: Some((Duration::from_millis(100), 800_000)),
            window: Duration::from_secs(10),
            min_calls: 10,
            open_for: Duration::from_secs(5),
            open_max: Duration::from_secs(15),
            probes: 2,
            observe,
            shared: true,
        })
    }

    const QUICK: Duration = Duration::from_millis(1);

    #[test]
    fn it_opens_probes_and_closes_and_each_time_in_a_row_it_stays_open_longer() {
        let breaker = breaker(false);
        let fail = |now| breaker.settle(now, false, true, QUICK);
        assert_eq!((fail(0), fail(0), fail(0)), (None, None, Some(Some(Trip::FailuresInARow))));
        assert_eq!(breaker.admit(|| 1_000), Admission::Refused(Duration::from_secs(4)));
        assert!(!breaker.is_available(|| 4_999) && breaker.is_available(|| 5_000));
        // Two probes at a time, nobody else.
        assert_eq!(breaker.admit(|| 5_000), Admission::Probe);
        assert_eq!(breaker.admit(|| 5_000), Admission::Probe);
        assert_eq!(breaker.admit(|| 5_000), Admission::Refused(MEANWHILE));
        assert_eq!(breaker.settle(5_100, true, true, QUICK), Some(Some(Trip::Probe)));
        assert_eq!(breaker.admit(|| 5_100), Admission::Refused(Duration::from_secs(10)));
        // The third time it would be 20 s; 15 s is the most.
        assert_eq!(breaker.admit(|| 15_200), Admission::Probe);
        assert_eq!(breaker.settle(15_200, true, true, QUICK), Some(Some(Trip::Probe)));
        assert_eq!(breaker.admit(|| 15_200), Admission::Refused(Duration::from_secs(15)));
        assert_eq!(breaker.admit(|| 31_000), Admission::Probe);
        breaker.give_up();
        for last in [None, Some(None)] {
            assert_eq!(breaker.admit(|| 31_000), Admission::Probe);
            assert_eq!(breaker.settle(31_000, true, false, QUICK), last);
            breaker.give_up();
        }
        assert_eq!((breaker.state(), breaker.admit(|| 31_000)), (State::Closed, Admission::Free));
    }

    #[test]
    fn calls_from_before_it_opened_decide_nothing() {
        let breaker = breaker(false);
        assert_eq!((0..3).filter_map(|_| breaker.settle(0, false, true, QUICK)).count(), 1);
        assert_eq!(breaker.admit(|| 5_000), Admission::Probe);
        // Those that had hung time out one after the other.
        (0..1_000).for_each(|_| assert_eq!(breaker.settle(5_001, false, true, QUICK), None));
        assert_eq!(breaker.state(), State::HalfOpen);
        assert_eq!(breaker.settle(5_002, true, false, QUICK), None);
        breaker.give_up();
        assert_eq!(breaker.admit(|| 5_003), Admission::Probe);
        assert_eq!(breaker.settle(5_003, true, false, QUICK), Some(None));
    }

    #[test]
    fn rates_are_of_a_window_and_need_calls() {
        let breaker = breaker(false);
        // Nine calls, four failed, never three in a row: too few to say.
        for failed in [true, false, true, true, false, false, true, false, false] {
            assert_eq!(breaker.settle(100, false, failed, QUICK), None);
        }
        assert_eq!(breaker.settle(100, false, true, QUICK), Some(Some(Trip::FailureRate)));
        let slow = super::tests::breaker(false);
        let crawl = Duration::from_millis(200);
        for _ in 0..9 {
            assert_eq!(slow.settle(0, false, false, crawl), None);
        }
        // Another window begins.
        assert_eq!(slow.settle(20_000, false, false, crawl), None);
        for _ in 0..8 {
            assert_eq!(slow.settle(20_000, false, false, crawl), None);
        }
        assert_eq!(slow.settle(20_000, false, false, crawl), Some(Some(Trip::SlowRate)));
    }

    #[test]
    fn what_another_replica_says_holds_here() {
        let breaker = breaker(false);
        assert!(
            breaker.hear(0, Some(Duration::from_secs(4))) && !breaker.hear(0, Some(Duration::from_secs(2)))
        );
        assert_eq!(breaker.admit(|| 1_000), Admission::Refused(Duration::from_secs(3)));
        assert_eq!(breaker.admit(|| 4_000), Admission::Probe);
        // Nobody can shut us out for longer than our own rule would.
        assert!(breaker.hear(5_000, Some(Duration::from_secs(3_600))));
        assert_eq!(breaker.rests(5_000), Duration::from_secs(15));
        assert!(breaker.hear(6_000, None) && !breaker.hear(6_000, None));
        assert_eq!(breaker.admit(|| 6_000), Admission::Free);
    }

    #[test]
    fn who_only_observes_lets_everything_through_and_a_hand_beats_both() {
        let breaker = breaker(true);
        for _ in 0..3 {
            breaker.settle(0, false, true, QUICK);
        }
        assert_eq!((breaker.state(), breaker.admit(|| 1)), (State::Open, Admission::Free));
        breaker.hold(Hand::Open);
        assert!(!breaker.is_available(|| 0) && matches!(breaker.admit(|| 0), Admission::Refused(_)));
        breaker.hold(Hand::Close);
        assert_eq!((breaker.state(), breaker.admit(|| 1)), (State::Closed, Admission::Free));
        breaker.hold(Hand::Auto);
        assert_eq!(breaker.hand(), Hand::Auto);
    }
}
