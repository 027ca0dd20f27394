//! The handles of one route: found once, then one pointer away; and which requests were remarkable.
//!
//! Input: finished requests. Output: counters, histograms, exemplars. Must not: wait: an exemplar that finds its place taken is not kept.

use super::{Metrics, OTHER};
use banyan_routes::decide::{Reason, SLOTS, slot};
use banyan_routes::evidence::Loss;
use banyan_routes::ids::Side;
use pingora_prometheus::prometheus::{Histogram, IntCounter};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, SystemTime};

/// What comes of a copy, and why one is not compared.
pub const SHADOW_RESULTS: [&str; 3] = ["answered", "failed", "timeout"];
pub const VERDICTS: [&str; 3] = ["match", "mismatch", "inconclusive"];

/// What `side` and `reason` say when no backend was asked.
pub const NONE: &str = "none";

/// Statuses with a handle of their own; the rest are looked up by label, which is slower and rare. All 500 codes would be
/// 8 KB for each route and decision.
const CODES: [u16; 28] = [
    101, 200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 408, 409, 412, 413,
    422, 429, 499, 500, 502, 503, 504,
];

type Codes = Box<[OnceLock<IntCounter>; CODES.len()]>;

/// One request by which a figure can be followed into the traces and the log.
#[derive(Clone, Copy, Debug)]
pub struct Exemplar {
    pub trace_id: [u8; 16],
    pub seconds: f64,
    pub at: SystemTime,
    pub reason: &'static str,
    pub code: u16,
}

/// The last that failed, and the slowest of late, of one side.
#[derive(Default)]
struct Remarkable {
    /// Microseconds that a request has to take to be the slowest.
    slowest: AtomicU64,
    failed: Mutex<Option<Exemplar>>,
    slow: Mutex<Option<Exemplar>>,
}

/// For so long the slowest request stays the slowest.
const SLOWEST_FOR: Duration = Duration::from_secs(60);

/// A finished request, as it is counted.
#[derive(Clone, Copy)]
pub struct Seen {
    /// `None`: an answer of our own.
    pub decision: Option<(Side, Reason)>,
    pub code: u16,
    pub took: Duration,
    pub trace_id: [u8; 16],
}

/// What one route counts.
#[derive(Default)]
pub struct RouteMetrics {
    /// Legacy, serverless, and answers of our own: for `status`, which must not parse our own metrics.
    pub answered: [AtomicU64; 3],
    pub failed: [AtomicU64; 3],
    /// Tries on serverless that failed, and were answered by legacy.
    pub fallbacks: AtomicU64,
    /// Made with the first request: a large rule set has thousands of routes that get none for long.
    handles: OnceLock<Box<Handles>>,
    /// Whether it has series of its own.
    named: OnceLock<bool>,
}

/// Each is made when it is first needed; from then on it is a pointer away.
#[derive(Default)]
struct Handles {
    requests: [OnceLock<Codes>; SLOTS],
    duration: [OnceLock<Histogram>; 3],
    remarkable: [Remarkable; 3],
    shadow: [OnceLock<IntCounter>; SHADOW_RESULTS.len()],
    comparisons: [OnceLock<IntCounter>; VERDICTS.len()],
}

impl RouteMetrics {
    /// Its label.
    pub fn name<'a>(&self, metrics: &Metrics, route: &'a str) -> &'a str {
        if *self.named.get_or_init(|| metrics.names.of(route) == route) { route } else { OTHER }
    }

    /// Counts one answered request.
    pub fn count(&self, metrics: &Metrics, route: &str, seen: &Seen) {
        let (side, reason) =
            seen.decision.map_or((NONE, NONE), |(side, reason)| (side.as_str(), reason.as_str()));
        let code = seen.code;
        let labelled = || {
            metrics.requests.with_label_values(&[self.name(metrics, route), side, reason, &code.to_string()])
        };
        let handles = self.handles.get_or_init(Box::default);
        match CODES.binary_search(&code) {
            Ok(at) => {
                let codes = handles.requests[slot(seen.decision)].get_or_init(Box::default);
                codes[at].get_or_init(labelled).inc();
            }
            Err(_) => labelled().inc(),
        }
        let slot = seen.decision.map_or(2, |(side, _)| side.index());
        self.answered[slot].fetch_add(1, Ordering::Relaxed);
        let labelled = || metrics.request_duration.with_label_values(&[self.name(metrics, route), side]);
        handles.duration[slot].get_or_init(labelled).observe(seen.took.as_secs_f64());
        let remarkable = &handles.remarkable[slot];
        let failed = code >= 500;
        if failed {
            self.failed[slot].fetch_add(1, Ordering::Relaxed);
        }
        let took_us = seen.took.as_micros() as u64;
        if failed || took_us > remarkable.slowest.load(Ordering::Relaxed) {
            remarkable.keep(seen, reason, failed, took_us);
        }
    }

    /// Counts what came of a copy: one of `SHADOW_RESULTS`.
    pub fn count_shadow(&self, metrics: &Metrics, route: &str, result: &str) {
        let labelled = || metrics.shadow.with_label_values(&[self.name(metrics, route), result]);
        let handles = self.handles.get_or_init(Box::default);
        if let Some(at) = SHADOW_RESULTS.iter().position(|it| *it == result) {
            handles.shadow[at].get_or_init(labelled).inc();
        }
    }

    /// Counts a comparison: one of `VERDICTS`.
    pub fn count_verdict(&self, metrics: &Metrics, route: &str, verdict: &str) {
        let labelled = || metrics.comparisons.with_label_values(&[self.name(metrics, route), verdict]);
        let handles = self.handles.get_or_init(Box::default);
        if let Some(at) = VERDICTS.iter().position(|it| *it == verdict) {
            handles.comparisons[at].get_or_init(labelled).inc();
        }
    }

    /// The last that failed and the slowest of late, of a side or (2) of our own answers.
    pub fn exemplars(&self, slot: usize) -> [Option<Exemplar>; 2] {
        self.handles.get().map_or([None, None], |handles| handles.remarkable[slot].now())
    }

    /// How many took up to how long, by side; none before its first answer.
    pub fn buckets(&self, side: Side) -> Vec<(f64, u64)> {
        use pingora_prometheus::prometheus::core::Metric;
        let histogram = self.handles.get().and_then(|handles| handles.duration[side.index()].get());
        let Some(histogram) = histogram else { return Vec::new() };
        let metric = histogram.metric();
        let all = metric.get_histogram();
        let bounded = all.get_bucket().iter().map(|it| (it.upper_bound(), it.cumulative_count()));
        // What took longer than the last bound is in none of them.
        bounded.chain([(f64::INFINITY, all.get_sample_count())]).collect()
    }

    /// Takes the series of a route that is gone out of the registry; requests still under way count into the void.
    pub fn forget(&self, metrics: &Metrics, route: &str) {
        // What all routes without a name share stays.
        if self.name(metrics, route) == OTHER {
            return;
        }
        metrics.names.forget(route);
        for side in Side::ALL.map(Side::as_str).into_iter().chain([NONE]) {
            let _ = metrics.request_duration.remove_label_values(&[route, side]);
        }
        let _ = metrics.fallbacks.remove_label_values(&[route]);
        let _ = metrics.parity_bound.remove_label_values(&[route]);
        let _ = metrics.coverage.remove_label_values(&[route]);
        for result in SHADOW_RESULTS {
            let _ = metrics.shadow.remove_label_values(&[route, result]);
        }
        for loss in Loss::ALL {
            let _ = metrics.shadow_dropped.remove_label_values(&[route, loss.as_str()]);
        }
        for verdict in VERDICTS {
            let _ = metrics.comparisons.remove_label_values(&[route, verdict]);
            let _ = metrics.controls.remove_label_values(&[route, verdict]);
        }
        let _ = metrics.retries.remove_label_values(&[route]);
        let requests = self.handles.get().map_or(&[][..], |handles| &handles.requests[..]);
        for (slot, codes) in requests.iter().enumerate() {
            let Some(codes) = codes.get() else { continue };
            let (side, reason) = match Side::ALL.get(slot / Reason::ALL.len()) {
                Some(side) => (side.as_str(), Reason::ALL[slot % Reason::ALL.len()].as_str()),
                None => (NONE, NONE),
            };
            for (code, _) in CODES.iter().zip(codes.iter()).filter(|(_, counter)| counter.get().is_some()) {
                let _ = metrics.requests.remove_label_values(&[route, side, reason, &code.to_string()]);
            }
        }
    }
}

impl Remarkable {
    fn keep(&self, seen: &Seen, reason: &'static str, failed: bool, took_us: u64) {
        let exemplar = Exemplar {
            trace_id: seen.trace_id,
            seconds: seen.took.as_secs_f64(),
            at: SystemTime::now(),
            reason,
            code: seen.code,
        };
        if failed && let Ok(mut place) = self.failed.try_lock() {
            *place = Some(exemplar);
        }
        if took_us > self.slowest.load(Ordering::Relaxed)
            && let Ok(mut place) = self.slow.try_lock()
        {
            self.slowest.store(took_us, Ordering::Relaxed);
            *place = Some(exemplar);
        }
    }

    fn now(&self) -> [Option<Exemplar>; 2] {
        let of = |place: &Mutex<Option<Exemplar>>| place.lock().ok().and_then(|place| *place);
        let slow = of(&self.slow);
        let is_old = |it: &Exemplar| it.at.elapsed().is_ok_and(|age| age > SLOWEST_FOR);
        if slow.as_ref().is_some_and(is_old) {
            self.slowest.store(0, Ordering::Relaxed);
        }
        [of(&self.failed), slow.filter(|it| !is_old(it))]
    }
}
