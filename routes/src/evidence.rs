//! What comparisons add up to, by route and hour, and what that proves.
//!
//! Input: verdicts, losses and times of answers. Output: a window that can be kept, merged and summed up. Must not: read a clock, or
//! grow without bound.

use crate::compare::Verdict;
use crate::ids::Side;
use crate::stats::{anytime_upper, clopper_pearson_upper, quantile_ranks};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Requests told apart in one hour; more are counted as one.
const DISTINCT_MAX: usize = 1_024;
/// The confidence bounds are given with.
pub const CONFIDENCE: f64 = 0.95;
const ALPHA: f64 = 1.0 - CONFIDENCE;
/// How often one request counts: a page asked for 3,000 times proves little about the others.
pub const REPEATS_MAX: u8 = 10;

/// Why a request that could have been compared was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    QueueFull,
    Bytes,
    TooLarge,
    Breaker,
    Aborted,
    Conditional,
    Fallback,
    Unsafe,
    Panic,
    /// The backend's connections are all taken, or one was given up for a client.
    Connections,
    /// A write that was not made has nothing to be read back.
    Refused,
    /// A write whose answer does not say where to read it.
    Unread,
}

impl Loss {
    pub const ALL: [Loss; 12] = [
        Loss::QueueFull,
        Loss::Bytes,
        Loss::TooLarge,
        Loss::Breaker,
        Loss::Aborted,
        Loss::Conditional,
        Loss::Fallback,
        Loss::Unsafe,
        Loss::Panic,
        Loss::Connections,
        Loss::Refused,
        Loss::Unread,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Loss::QueueFull => "queue_full",
            Loss::Bytes => "bytes",
            Loss::TooLarge => "too_large",
            Loss::Breaker => "breaker",
            Loss::Aborted => "aborted",
            Loss::Conditional => "conditional",
            Loss::Fallback => "fallback",
            Loss::Unsafe => "unsafe",
            Loss::Panic => "panic",
            Loss::Connections => "connections",
            Loss::Refused => "refused",
            Loss::Unread => "unread",
        }
    }
}

/// Times of answers, in buckets of 4 %.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Latency(BTreeMap<u16, u64>);

/// Buckets for each doubling.
const STEPS: f64 = 16.0;

impl Latency {
    pub fn add(&mut self, seconds: f64) {
        let micros = (seconds * 1e6).max(1.0);
        *self.0.entry((micros.log2() * STEPS) as u16).or_default() += 1;
    }

    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    fn merge(&mut self, other: &Latency) {
        for (bucket, count) in &other.0 {
            *self.0.entry(*bucket).or_default() += count;
        }
    }

    /// The middle of the bucket that holds this rank, in seconds.
    fn at_rank(&self, rank: u64) -> f64 {
        let mut seen = 0;
        let bucket = self.0.iter().find(|(_, count)| {
            seen += **count;
            seen > rank
        });
        bucket.map_or(0.0, |(bucket, _)| ((f64::from(*bucket) + 0.5) / STEPS).exp2() / 1e6)
    }

    pub fn quantile(&self, q: f64) -> f64 {
        self.at_rank(((self.count() as f64 * q) as u64).min(self.count().saturating_sub(1)))
    }
}

/// A quantile of both sides, and how many times the one of serverless is the one of legacy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    pub legacy_seconds: f64,
    pub serverless_seconds: f64,
    pub ratio: f64,
    /// With 95 % confidence; absent while there are too few to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio_low: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio_high: Option<f64>,
}

/// One hour of one route, or several put together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Window {
    pub eligible: u64,
    pub sampled: u64,
    pub matched: u64,
    pub mismatched: u64,
    /// Legacy asked twice.
    pub controls: u64,
    pub dropped: BTreeMap<String, u64>,
    pub inconclusive: BTreeMap<String, u64>,
    /// Answers of functions that had to start first; not in the times.
    pub cold_starts: u64,
    /// Times of both sides, of exchanges in which both answered; by `Side::index`.
    pub latency: [Latency; 2],
    /// How often each request was compared, up to `REPEATS_MAX`.
    requests: BTreeMap<u64, u8>,
}

impl Window {
    pub fn verdict(&mut self, verdict: &Verdict, request: u64) {
        match verdict {
            Verdict::Match => self.matched += 1,
            Verdict::Mismatch(_) => self.mismatched += 1,
            Verdict::Inconclusive(unknown) => {
                *self.inconclusive.entry(unknown.as_str().to_owned()).or_default() += 1;
                return;
            }
        }
        self.seen(request, 1);
    }

    fn seen(&mut self, request: u64, times: u8) {
        if self.requests.len() < DISTINCT_MAX || self.requests.contains_key(&request) {
            let count = self.requests.entry(request).or_default();
            *count = count.saturating_add(times).min(REPEATS_MAX);
        }
    }

    /// How many of those that were sampled it says the end of.
    pub fn settled(&self) -> u64 {
        // These were never sampled.
        let dropped = self.dropped.iter().filter(|(cause, _)| *cause != Loss::Unsafe.as_str());
        let unresolved: u64 = self.inconclusive.values().chain(dropped.map(|(_, count)| count)).sum();
        self.compared() + unresolved
    }

    pub fn lost(&mut self, loss: Loss, count: u64) {
        if count > 0 {
            *self.dropped.entry(loss.as_str().to_owned()).or_default() += count;
        }
    }

    /// Seconds to the head of each side's answer.
    pub fn took(&mut self, legacy: f64, serverless: f64) {
        self.latency[Side::Legacy.index()].add(legacy);
        self.latency[Side::Serverless.index()].add(serverless);
    }

    pub fn merge(&mut self, other: &Window) {
        self.eligible += other.eligible;
        self.sampled += other.sampled;
        self.matched += other.matched;
        self.mismatched += other.mismatched;
        self.controls += other.controls;
        self.cold_starts += other.cold_starts;
        for (cause, count) in &other.dropped {
            *self.dropped.entry(cause.clone()).or_default() += count;
        }
        for (cause, count) in &other.inconclusive {
            *self.inconclusive.entry(cause.clone()).or_default() += count;
        }
        for (mine, theirs) in self.latency.iter_mut().zip(&other.latency) {
            mine.merge(theirs);
        }
        for (request, count) in &other.requests {
            self.seen(*request, *count);
        }
    }

    pub fn compared(&self) -> u64 {
        self.matched + self.mismatched
    }

    /// The part of all answers that differs is at most this, with 95 % confidence; nothing is known before the first.
    pub fn upper_bound(&self) -> f64 {
        clopper_pearson_upper(self.mismatched, self.compared(), ALPHA)
    }

    /// The same, for who looks all the time and acts on it.
    pub fn anytime_bound(&self) -> f64 {
        anytime_upper(self.mismatched, self.compared(), ALPHA)
    }

    /// The same, with each request counted a few times at most.
    pub fn weighted_bound(&self) -> f64 {
        let counted: u64 = self.requests.values().map(|count| u64::from(*count)).sum();
        clopper_pearson_upper(self.mismatched, counted.min(self.compared()), ALPHA)
    }

    pub fn distinct(&self) -> u64 {
        self.requests.len() as u64
    }

    /// Of those that the sample took, which is by chance, and that had something to compare: what is missing has been lost.
    pub fn coverage(&self) -> f64 {
        let refused = self.dropped.get(Loss::Refused.as_str()).copied().unwrap_or_default();
        let meant = self.sampled.saturating_sub(refused);
        if meant == 0 { 0.0 } else { (self.compared() as f64 / meant as f64).min(1.0) }
    }

    /// `None` before both sides have answered once.
    pub fn quantiles(&self, q: f64) -> Option<Quantiles> {
        let [legacy, serverless] = &self.latency;
        if legacy.count() == 0 || serverless.count() == 0 {
            return None;
        }
        let (legacy_seconds, serverless_seconds) = (legacy.quantile(q), serverless.quantile(q));
        let between = |of: &Latency| {
            quantile_ranks(of.count(), q, ALPHA / 2.0).map(|(low, high)| (of.at_rank(low), of.at_rank(high)))
        };
        let both = between(legacy).zip(between(serverless));
        Some(Quantiles {
            legacy_seconds,
            serverless_seconds,
            ratio: serverless_seconds / legacy_seconds,
            ratio_low: both.map(|(legacy, serverless)| serverless.0 / legacy.1),
            ratio_high: both.map(|(legacy, serverless)| serverless.1 / legacy.0),
        })
    }
}
