//! What comparisons of one route add up to: counts by hour, differences by path and kind, what is noise.
//!
//! Input: verdicts, controls and losses. Output: a summary, differences, proposals. Must not: be locked by a worker: they only
//! count; or keep a value of an answer: what is kept is redacted.

pub mod store;

use banyan_routes::compare::{Difference, Kind, Verdict, distinct};
use banyan_routes::evidence::{Loss, Window};
use banyan_routes::noise::{Noise, Proposal, State};
use banyan_routes::redact::Redactor;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Kinds of differences remembered for one route; what comes later is counted with the mismatches only.
const CLUSTERS_MAX: usize = 200;
/// Example exchanges of each.
const EXAMPLES_MAX: usize = 3;
/// Hours kept: a week.
pub const WINDOWS_MAX: u64 = 7 * 24;

#[derive(Default)]
pub struct Evidence {
    /// Requests that could have been mirrored; not yet in a window.
    pub eligible: AtomicU64,
    /// Those that the sample took.
    pub sampled: AtomicU64,
    lost: [AtomicU64; Loss::ALL.len()],
    /// The number of the `Live` with which it began anew: what was sampled under an earlier one is no part of it.
    began: AtomicU64,
    ledger: Mutex<Ledger>,
}

#[derive(Default)]
struct Ledger {
    /// By hours since 1970.
    windows: BTreeMap<u64, Window>,
    clusters: BTreeMap<(String, Kind), Cluster>,
    noise: Noise,
    identity: u64,
    /// Hours that the store has not seen as they are.
    dirty: BTreeSet<u64>,
}

/// One path that differs in one way. All of it is redacted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cluster {
    pub path: String,
    pub kind: String,
    pub count: u64,
    pub first_unix_s: u64,
    pub last_unix_s: u64,
    /// Values of the last one: their class or shape, and a pseudonym.
    pub legacy: String,
    pub serverless: String,
    pub examples: Vec<Example>,
}

/// One exchange that differed, by which it is found in the access log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Example {
    pub at_unix_s: u64,
    pub trace_id: String,
    pub method: String,
    pub path: String,
    pub legacy: String,
    pub serverless: String,
}

/// What the store holds of one route; on the way there, only the hours that have changed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    /// Of what was compared, and how; see `Evidence::begin`.
    #[serde(default)]
    pub identity: u64,
    pub windows: BTreeMap<u64, Window>,
    pub clusters: Vec<Cluster>,
}

/// What is asked for most.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Brief {
    pub compared: u64,
    pub mismatched: u64,
    /// The part of the answers that differs is at most this.
    pub upper_bound: f64,
    pub coverage: f64,
}

/// One finished comparison.
pub struct Finished<'a> {
    /// The identity of what it was compared by, and the number of the `Live` that it was sampled under.
    pub under: (u64, u64),
    pub verdict: &'a Verdict,
    /// Equal for equal requests.
    pub request: u64,
    pub method: &'a str,
    pub target: &'a str,
    pub trace_id: &'a str,
    /// Seconds of legacy and serverless, where both answered.
    pub took: Option<(f64, f64)>,
    pub cold: bool,
}

impl Evidence {
    pub fn new(kept: Kept) -> Evidence {
        let kind = |name: &str| Kind::ALL.into_iter().find(|kind| kind.as_str() == name);
        let clusters =
            kept.clusters.into_iter().filter_map(|it| Some(((it.path.clone(), kind(&it.kind)?), it)));
        let ledger = Ledger {
            // Written once more, so that the gauges know of it.
            dirty: kept.windows.keys().next_back().copied().into_iter().collect(),
            windows: kept.windows,
            clusters: clusters.collect(),
            identity: kept.identity,
            ..Ledger::default()
        };
        Evidence { ledger: Mutex::new(ledger), ..Evidence::default() }
    }

    /// What was known before, where nothing has been found since. Call before `begin`, which says whether it still holds.
    pub fn adopt(&self, kept: Kept) {
        let mut before = Evidence::new(kept).ledger.into_inner().unwrap_or_else(PoisonError::into_inner);
        before.settle();
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        if ledger.windows.is_empty() && ledger.clusters.is_empty() {
            *ledger = before;
        }
    }

    /// All of it, for a route that goes.
    pub fn whole(&self, now: SystemTime) -> Kept {
        let ledger = self.folded(now);
        let mut windows = ledger.windows.clone();
        for hour in &ledger.dirty {
            // One that is gone is written empty.
            windows.entry(*hour).or_default();
        }
        Kept { identity: ledger.identity, windows, clusters: ledger.clusters.values().cloned().collect() }
    }

    /// What is compared from now on, and how: backends and rules. Under another identity, what was found says nothing any more.
    /// Call before that `Live` is in force, with its number.
    pub fn begin(&self, identity: u64, number: u64) {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        if ledger.identity != identity {
            self.anew(&mut ledger, identity, number);
        }
    }

    /// After a rollback was lifted: what was found before belongs to what was wrong then.
    pub fn restart(&self, number: u64) {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = ledger.identity;
        self.anew(&mut ledger, identity, number);
    }

    fn anew(&self, ledger: &mut Ledger, identity: u64, number: u64) {
        let dirty = ledger.windows.keys().copied().collect();
        *ledger = Ledger { identity, dirty, ..Ledger::default() };
        for count in [&self.eligible, &self.sampled].into_iter().chain(&self.lost) {
            count.store(0, Ordering::Relaxed);
        }
        self.began.store(number, Ordering::Release);
    }

    /// Whether what is sampled under a `Live` of this number is part of it.
    pub fn knows(&self, number: u64) -> bool {
        number >= self.began.load(Ordering::Acquire)
    }

    fn is_of(&self, ledger: &Ledger, (identity, number): (u64, u64)) -> bool {
        ledger.identity == identity && self.knows(number)
    }

    pub fn lose(&self, loss: Loss) {
        self.lost[loss as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn add(&self, finished: &Finished<'_>, redactor: &Redactor, now: SystemTime) {
        let mut ledger = self.folded(now);
        if !self.is_of(&ledger, finished.under) {
            return;
        }
        ledger.dirty.insert(hour(now));
        let window = ledger.windows.entry(hour(now)).or_default();
        window.verdict(finished.verdict, finished.request);
        if finished.cold {
            window.cold_starts += 1;
        } else if let Some((legacy, serverless)) = finished.took {
            window.took(legacy, serverless);
        }
        let differences = match finished.verdict {
            Verdict::Mismatch(differences) => differences.as_slice(),
            Verdict::Match => &[],
            Verdict::Inconclusive(_) => return,
        };
        ledger.noise.compared(differences);
        for it in distinct(differences) {
            ledger.remember(it, finished, redactor, now);
        }
    }

    /// Two answers of legacy, the earlier one first.
    pub fn control(&self, under: (u64, u64), verdict: &Verdict, now: SystemTime) {
        let differences = match verdict {
            Verdict::Mismatch(differences) => differences.as_slice(),
            Verdict::Match => &[],
            Verdict::Inconclusive(_) => return,
        };
        let mut ledger = self.folded(now);
        if !self.is_of(&ledger, under) {
            return;
        }
        ledger.dirty.insert(hour(now));
        ledger.windows.entry(hour(now)).or_default().controls += 1;
        ledger.noise.control(differences);
    }

    /// What the workers have counted goes into the hour.
    fn folded(&self, now: SystemTime) -> std::sync::MutexGuard<'_, Ledger> {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        let (eligible, sampled) = (take(&self.eligible), take(&self.sampled));
        let lost: Vec<(Loss, u64)> =
            Loss::ALL.into_iter().map(|loss| (loss, take(&self.lost[loss as usize]))).collect();
        if eligible + sampled + lost.iter().map(|(_, count)| count).sum::<u64>() > 0 {
            ledger.dirty.insert(hour(now));
            let window = ledger.windows.entry(hour(now)).or_default();
            window.eligible += eligible;
            window.sampled += sampled;
            lost.into_iter().for_each(|(loss, count)| window.lost(loss, count));
        }
        let oldest = hour(now).saturating_sub(WINDOWS_MAX);
        while ledger.windows.first_key_value().is_some_and(|(hour, _)| *hour < oldest) {
            ledger.windows.pop_first();
        }
        ledger
    }

    /// The hours from `since` on in one.
    pub fn window(&self, since: Option<SystemTime>, now: SystemTime) -> Window {
        let from = since.map_or(0, hour);
        let ledger = self.folded(now);
        ledger.windows.range(from..).fold(Window::default(), |mut all, (_, window)| {
            all.merge(window);
            all
        })
    }

    /// The most frequent first, with what is known of each.
    pub fn differences(&self) -> Vec<(Cluster, State)> {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let state = |(path, kind): &(String, Kind)| ledger.noise.state(path, *kind);
        let mut all: Vec<(Cluster, State)> =
            ledger.clusters.iter().map(|(key, it)| (it.clone(), state(key))).collect();
        all.sort_by(|(a, _), (b, _)| b.count.cmp(&a.count).then_with(|| a.path.cmp(&b.path)));
        all
    }

    pub fn proposals(&self) -> Vec<Proposal> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).noise.proposals()
    }

    pub fn controls(&self) -> u64 {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).noise.controls()
    }

    /// How many were sampled, dropped, equal and not, of all hours; without which requests they were and how long they took, which is most of a window.
    pub fn sums(&self, now: SystemTime) -> Window {
        let ledger = self.folded(now);
        let mut all = Window::default();
        for window in ledger.windows.values() {
            all.sampled += window.sampled;
            for (cause, count) in &window.dropped {
                *all.dropped.entry(cause.clone()).or_default() += count;
            }
            all.matched += window.matched;
            all.mismatched += window.mismatched;
        }
        all
    }

    /// All hours in a few figures.
    pub fn brief(&self, now: SystemTime) -> Brief {
        let all = self.sums(now);
        Brief {
            compared: all.compared(),
            mismatched: all.mismatched,
            upper_bound: all.upper_bound(),
            coverage: all.coverage(),
        }
    }

    /// What has to be written, if anything has changed.
    pub fn to_keep(&self, now: SystemTime) -> Option<Kept> {
        let mut ledger = self.folded(now);
        let dirty = std::mem::take(&mut ledger.dirty);
        if dirty.is_empty() {
            return None;
        }
        // An hour that is gone is written empty.
        let window = |hour: &u64| (*hour, ledger.windows.get(hour).cloned().unwrap_or_default());
        let windows = dirty.iter().map(window).collect();
        Some(Kept {
            identity: ledger.identity,
            windows,
            clusters: ledger.clusters.values().cloned().collect(),
        })
    }

    /// What was to be kept could not be.
    pub fn keep_again(&self, hours: impl Iterator<Item = u64>) {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).dirty.extend(hours);
    }
}

impl Ledger {
    /// What was under way when the process ended, or the route went, is never told of.
    fn settle(&mut self) {
        let (mut sampled, mut told) = (0, 0);
        for window in self.windows.values() {
            sampled += window.sampled;
            told += window.settled();
        }
        if let Some(mut last) = self.windows.last_entry() {
            last.get_mut().lost(Loss::Aborted, sampled.saturating_sub(told));
        }
    }

    fn remember(&mut self, it: &Difference, finished: &Finished<'_>, redactor: &Redactor, now: SystemTime) {
        // The path stays as it is only in memory, where its statistics are; whoever shows it shows the redacted one.
        let key = (it.path.clone(), it.kind);
        let (path, legacy, serverless) = redactor.difference(it);
        if path != it.path
            && !self.clusters.contains_key(&key)
            && let Some(known) = self.clusters.remove(&(path.clone(), it.kind))
        {
            // From before a restart, when only the redacted path was kept.
            self.clusters.insert(key.clone(), known);
        }
        if !self.clusters.contains_key(&key) && self.clusters.len() >= CLUSTERS_MAX {
            return;
        }
        let at = unix(now);
        let cluster = self.clusters.entry(key).or_insert_with(|| Cluster {
            path,
            kind: it.kind.as_str().to_owned(),
            count: 0,
            first_unix_s: at,
            last_unix_s: at,
            legacy: String::new(),
            serverless: String::new(),
            examples: Vec::new(),
        });
        cluster.count += 1;
        cluster.last_unix_s = at;
        let example = || Example {
            at_unix_s: at,
            trace_id: finished.trace_id.to_owned(),
            method: finished.method.to_owned(),
            path: redactor.target(finished.target),
            legacy: legacy.clone(),
            serverless: serverless.clone(),
        };
        // A reservoir: each has the same chance to be one of the examples.
        if cluster.examples.len() < EXAMPLES_MAX {
            cluster.examples.push(example());
        } else if let Some(place) = cluster.examples.get_mut(rand::random_range(0..cluster.count) as usize) {
            *place = example();
        }
        (cluster.legacy, cluster.serverless) = (legacy, serverless);
    }
}

fn unix(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Since 1970.
pub fn hour(now: SystemTime) -> u64 {
    unix(now) / 3_600
}
