//! How routes do just now, and how they have done: rates, failures and latencies of both sides.
//!
//! Input: the counters that are kept for the metrics, looked at once a second. Output: figures of the last ten seconds, and a point every ten of
//! them for half an hour. Must not: be touched by a request, or grow with anything but routes that have traffic (2,000 at most: 18 KB each).

use crate::live::{Live, RouteRuntime};
use crate::metrics::ROUTES_NAMED_MAX;
use banyan_routes::ids::Side;
use serde::Serialize;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Looks that make up "just now".
const WINDOW: usize = 10;
const EVERY: Duration = Duration::from_secs(1);
/// Points kept: half an hour.
const POINTS: usize = 180;
/// Of the histogram's buckets, the one above all bounds included.
const BUCKETS: usize = 15;

/// What a route had done at one moment, by `Side::index`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub answered: [u64; 2],
    pub failed: [u64; 2],
    /// Cumulative, as the histogram has them.
    pub(crate) buckets: [[u64; BUCKETS]; 2],
}

impl Count {
    pub fn of(runtime: &RouteRuntime) -> Count {
        let mut count = Count::default();
        for side in Side::ALL {
            let at = side.index();
            count.answered[at] = runtime.metrics.answered[at].load(Ordering::Relaxed);
            count.failed[at] = runtime.metrics.failed[at].load(Ordering::Relaxed);
            if count.answered[at] > 0 {
                for (place, (_, seen)) in count.buckets[at].iter_mut().zip(runtime.metrics.buckets(side)) {
                    *place = seen;
                }
                count.buckets[at][BUCKETS - 1] = count.answered[at];
            }
        }
        count
    }
}

/// What one side did between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Answers a second.
    pub rate: f32,
    /// The part of them that failed (status 500 and above); `None` without any.
    pub failed: Option<f32>,
    /// Seconds, by the histogram's buckets.
    pub p50: Option<f32>,
    pub p95: Option<f32>,
}

impl Figures {
    pub fn between(earlier: &Count, later: &Count, seconds: f64, side: Side) -> Figures {
        let at = side.index();
        let answered = later.answered[at].saturating_sub(earlier.answered[at]);
        if answered == 0 {
            return Figures::default();
        }
        let failed = later.failed[at].saturating_sub(earlier.failed[at]);
        let mut counts = [0; BUCKETS];
        for (place, (new, old)) in counts.iter_mut().zip(later.buckets[at].iter().zip(&earlier.buckets[at])) {
            *place = new.saturating_sub(*old);
        }
        Figures {
            rate: (answered as f64 / seconds) as f32,
            failed: Some(failed as f32 / answered as f32),
            p50: quantile(&counts, 0.5),
            p95: quantile(&counts, 0.95),
        }
    }
}

/// Within the bucket it falls in, as if its requests were spread evenly, as Prometheus does; above all bounds it is the last of them.
fn quantile(cumulative: &[u64; BUCKETS], q: f64) -> Option<f32> {
    let bounds = &crate::metrics::LATENCY_BUCKETS_S;
    let total = cumulative[BUCKETS - 1];
    if total == 0 {
        return None;
    }
    let rank = q * total as f64;
    let at = cumulative.iter().position(|seen| *seen as f64 >= rank)?;
    let Some(upper) = bounds.get(at) else { return bounds.last().map(|last| *last as f32) };
    let (lower, below) = match at {
        0 => (0.0, 0),
        at => (bounds[at - 1], cumulative[at - 1]),
    };
    let inside = (cumulative[at] - below) as f64;
    let part = if inside > 0.0 { (rank - below as f64) / inside } else { 1.0 };
    Some((lower + (upper - lower) * part) as f32)
}

/// A point of a route's history: ten seconds up to `at_unix_s`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Point {
    pub at_unix_s: u64,
    pub share_ppm: u32,
    pub legacy: Figures,
    pub serverless: Figures,
}

#[derive(Default)]
struct Pages {
    looks: VecDeque<(Instant, Count)>,
    points: VecDeque<Point>,
}

impl Pages {
    fn just_now(&self) -> [Figures; 2] {
        let (Some((from, earlier)), Some((to, later))) = (self.looks.front(), self.looks.back()) else {
            return Default::default();
        };
        let seconds = to.duration_since(*from).as_secs_f64().max(0.001);
        Side::ALL.map(|side| Figures::between(earlier, later, seconds, side))
    }
}

/// The pages of all routes with traffic.
#[derive(Default)]
pub struct Figurebook {
    pages: Mutex<HashMap<Box<str>, Pages>>,
}

impl Figurebook {
    /// Looks at all routes; `number` counts the looks.
    fn look(&self, live: &Live, number: u64) {
        let serving = &live.serving;
        let now = Instant::now();
        let at_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.retain(|id, _| serving.table.position(id).is_some());
        let routes = serving.table.routes.iter().zip(&serving.routes).enumerate().take(ROUTES_NAMED_MAX);
        for (at, (route, runtime)) in routes {
            let answered = &runtime.metrics.answered;
            if !pages.contains_key(&route.id) && answered.iter().all(|it| it.load(Ordering::Relaxed) == 0) {
                continue;
            }
            let page = pages.entry(route.id.clone()).or_default();
            if page.looks.is_empty() && number > 0 {
                // A second ago there was nothing: what came since is not lost to the first difference.
                page.looks.push_back((now.checked_sub(EVERY).unwrap_or(now), Count::default()));
            }
            page.looks.push_back((now, Count::of(runtime)));
            if page.looks.len() > WINDOW + 1 {
                page.looks.pop_front();
            }
            if number.is_multiple_of(WINDOW as u64) {
                let [legacy, serverless] = page.just_now();
                let share_ppm = live.conditions(at as u32, route, None).share.get();
                page.points.push_back(Point { at_unix_s, share_ppm, legacy, serverless });
                if page.points.len() > POINTS {
                    page.points.pop_front();
                }
            }
        }
    }

    /// Of the last ten seconds, by `Side::index`.
    pub fn just_now(&self, route: &str) -> [Figures; 2] {
        let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.get(route).map(Pages::just_now).unwrap_or_default()
    }

    /// Of the last half hour, the oldest first.
    pub fn points(&self, route: &str) -> Vec<Point> {
        let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.get(route).map(|page| page.points.iter().copied().collect()).unwrap_or_default()
    }

    /// Looks once a second, for ever.
    pub async fn run(&self, live: impl Fn() -> Option<std::sync::Arc<Live>>) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for number in 0.. {
            ticks.tick().await;
            if let Some(live) = live() {
                self.look(&live, number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_lies_where_its_bucket_says() {
        let mut cumulative = [0; BUCKETS];
        assert_eq!(quantile(&cumulative, 0.5), None);
        // 100 requests: 50 up to 1 ms, 45 up to 2.5 ms, 5 above all bounds.
        cumulative.fill(95);
        (cumulative[0], cumulative[BUCKETS - 1]) = (50, 100);
        assert_eq!(quantile(&cumulative, 0.5), Some(0.001));
        assert!((quantile(&cumulative, 0.725).expect("one") - 0.00175).abs() < 1e-6);
        assert_eq!(quantile(&cumulative, 0.95), Some(0.0025));
        assert_eq!(quantile(&cumulative, 0.99), Some(30.0));
    }

    #[test]
    fn figures_are_of_what_came_between() {
        let earlier = Count { answered: [10, 0], failed: [1, 0], buckets: [[10; BUCKETS], [0; BUCKETS]] };
        let later = Count { answered: [30, 0], failed: [6, 0], buckets: [[30; BUCKETS], [0; BUCKETS]] };
        let legacy = Figures::between(&earlier, &later, 10.0, Side::Legacy);
        assert_eq!((legacy.rate, legacy.failed), (2.0, Some(0.25)));
        assert_eq!(Figures::between(&earlier, &later, 10.0, Side::Serverless), Figures::default());
        // A process that began anew has lower counts; nothing is made of that.
        assert_eq!(Figures::between(&later, &earlier, 10.0, Side::Legacy), Figures::default());
    }
}
