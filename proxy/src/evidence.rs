//! What comparisons of one route add up to, since the process began.
//!
//! Input: verdicts and losses. Output: counts, the bound that they prove, and the differences by path and kind. Must not: be
//! locked by a worker: they only count.

use banyan_routes::compare::{Difference, Verdict};
use serde::Serialize;
use statrs::function::beta::beta_reg;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Kinds of differences remembered for one route; what comes later is counted with the mismatches only.
const CLUSTERS_MAX: usize = 200;
/// The confidence bounds are given with.
pub const CONFIDENCE: f64 = 0.95;

#[derive(Debug, Default)]
pub struct Evidence {
    /// Requests that could have been mirrored.
    pub eligible: AtomicU64,
    /// Those that the sample took.
    pub sampled: AtomicU64,
    pub dropped: AtomicU64,
    pub inconclusive: AtomicU64,
    pub matched: AtomicU64,
    pub mismatched: AtomicU64,
    clusters: Mutex<BTreeMap<(String, &'static str), Cluster>>,
}

/// One path that differs in one way.
#[derive(Clone, Debug, Serialize)]
pub struct Cluster {
    pub path: String,
    pub kind: &'static str,
    pub count: u64,
    /// Shapes of the values, such as `string(5)`; never the values.
    pub legacy: String,
    pub serverless: String,
}

/// One moment's counts.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Counts {
    pub eligible: u64,
    pub sampled: u64,
    pub dropped: u64,
    pub inconclusive: u64,
    pub compared: u64,
    pub mismatched: u64,
}

impl Evidence {
    pub fn add(&self, verdict: &Verdict) {
        match verdict {
            Verdict::Match => &self.matched,
            Verdict::Inconclusive(_) => &self.inconclusive,
            Verdict::Mismatch(differences) => {
                self.remember(differences);
                &self.mismatched
            }
        }
        .fetch_add(1, Ordering::Relaxed);
    }

    fn remember(&self, differences: &[Difference]) {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        for it in differences {
            let key = (it.path.clone(), it.kind.as_str());
            if let Some(cluster) = clusters.get_mut(&key) {
                cluster.count += 1;
            } else if clusters.len() < CLUSTERS_MAX {
                let (legacy, serverless) = (it.legacy.clone(), it.serverless.clone());
                let (path, kind) = key.clone();
                clusters.insert(key, Cluster { path, kind, count: 1, legacy, serverless });
            }
        }
    }

    /// The most frequent first.
    pub fn differences(&self) -> Vec<Cluster> {
        let mut all: Vec<Cluster> =
            self.clusters.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        all.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.path.cmp(&b.path)));
        all
    }

    pub fn counts(&self) -> Counts {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let mismatched = get(&self.mismatched);
        Counts {
            eligible: get(&self.eligible),
            sampled: get(&self.sampled),
            dropped: get(&self.dropped),
            inconclusive: get(&self.inconclusive),
            compared: get(&self.matched) + mismatched,
            mismatched,
        }
    }
}

impl Counts {
    /// The part of all answers that differs is at most this, with 95 % confidence; nothing is known before the first.
    pub fn upper_bound(&self) -> f64 {
        clopper_pearson_upper(self.mismatched, self.compared, 1.0 - CONFIDENCE)
    }

    pub fn coverage(&self) -> f64 {
        if self.eligible == 0 { 0.0 } else { self.compared as f64 / self.eligible as f64 }
    }
}

/// The one-sided upper bound of Clopper and Pearson: the rate at which `k` or fewer of `n` would be seen with chance `alpha`.
/// Source: C. J. Clopper, E. S. Pearson, Biometrika 26 (1934).
pub fn clopper_pearson_upper(k: u64, n: u64, alpha: f64) -> f64 {
    if n == 0 || k >= n {
        return 1.0;
    }
    if k == 0 {
        return 1.0 - alpha.powf(1.0 / n as f64);
    }
    let (a, b) = ((k + 1) as f64, (n - k) as f64);
    let (mut low, mut high) = (k as f64 / n as f64, 1.0);
    // Sixty halvings are beyond the digits of a double.
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if beta_reg(a, b, middle) < 1.0 - alpha { low = middle } else { high = middle }
    }
    high
}
