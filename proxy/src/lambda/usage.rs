//! What the calls of one function by one route have used so far, from their REPORT lines.
//!
//! Input: reports. Output: sums and maxima, for `show` and the cost metrics. Must not: lock; figures may be one call apart.

use super::report::Report;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct Usage {
    reports: AtomicU64,
    billed_us: AtomicU64,
    cold_starts: AtomicU64,
    memory_mb: AtomicU64,
    used_mb_max: AtomicU64,
}

/// One moment's figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Calls that a report was read of.
    pub reports: u64,
    pub cold_starts: u64,
    /// Seconds, on average.
    pub billed: f64,
    pub memory_mb: u64,
    pub used_mb_max: u64,
}

impl Usage {
    pub fn add(&self, report: &Report) {
        self.billed_us.fetch_add(report.billed.as_micros() as u64, Ordering::Relaxed);
        self.cold_starts.fetch_add(u64::from(report.init.is_some()), Ordering::Relaxed);
        self.memory_mb.store(report.memory_mb, Ordering::Relaxed);
        self.used_mb_max.fetch_max(report.used_mb, Ordering::Relaxed);
        self.reports.fetch_add(1, Ordering::Relaxed);
    }

    /// `None` before the first report.
    pub fn figures(&self) -> Option<Figures> {
        let reports = self.reports.load(Ordering::Relaxed);
        (reports > 0).then(|| Figures {
            reports,
            cold_starts: self.cold_starts.load(Ordering::Relaxed),
            billed: self.billed_us.load(Ordering::Relaxed) as f64 / 1e6 / reports as f64,
            memory_mb: self.memory_mb.load(Ordering::Relaxed),
            used_mb_max: self.used_mb_max.load(Ordering::Relaxed),
        })
    }
}

impl Figures {
    /// What a million requests like these cost.
    pub fn cost_per_million(&self, requests_per_million: f64, gb_second: f64) -> f64 {
        requests_per_million + 1e6 * self.billed * (self.memory_mb as f64 / 1024.0) * gb_second
    }

    /// Said when at least half of the configured memory is never used. 128 MB is the least there is.
    pub fn hint(&self) -> Option<String> {
        let wasteful = self.memory_mb > 128 && self.used_mb_max > 0 && self.used_mb_max * 2 <= self.memory_mb;
        wasteful.then(|| format!("{} MB configured, {} MB used", self.memory_mb, self.used_mb_max))
    }
}
