//! What legacy differing from itself teaches: which paths are noise, and which rule would cover them.
//!
//! Input: comparisons of two answers of legacy (controls), and of legacy with serverless. Output: per path and kind whether it is real,
//! noise or not known, with a rule to pin. Must not: call anything noise before there are controls enough, or apply a rule by itself.

use crate::compare::rules::Rules;
use crate::compare::shape::{self, TimeFormat};
use crate::compare::typed::Typed;
use crate::compare::{Difference, Kind, Value, distinct};
use crate::redact;
use crate::stats::is_larger;
use std::collections::BTreeMap;
use std::time::Duration;

/// Controls below which nothing is called noise.
pub const CONTROLS_MIN: u64 = 30;
/// Serverless has to differ this much more often than legacy does from itself to be called real.
const REAL_OVER: f64 = 0.01;
const ALPHA: f64 = 0.05;
/// Paths with statistics of their own; what comes later is counted by its route only.
const PATHS_MAX: usize = 500;
/// Different texts a rule may list.
const TEXTS_MAX: usize = 8;

/// What is known of one path that differs in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Too few controls to say.
    Unknown,
    /// Serverless differs where legacy does not, or not as often.
    Real,
    /// Legacy differs from itself in the same way, and serverless keeps the shape.
    Noise,
    /// Legacy differs from itself; serverless does not keep the shape, or there is none.
    Undecided,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::Unknown => "unknown",
            State::Real => "real",
            State::Noise => "noise",
            State::Undecided => "undecided",
        }
    }
}

/// A rule that a person may pin.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    pub path: String,
    pub rule: Typed,
    /// What it rests on.
    pub controls: u64,
    pub controls_differing: u64,
    pub compared: u64,
    pub serverless_differing: u64,
}

/// One route's statistics.
#[derive(Clone, Debug, Default)]
pub struct Noise {
    controls: u64,
    compared: u64,
    paths: BTreeMap<String, PathNoise>,
}

#[derive(Clone, Debug, Default)]
struct PathNoise {
    /// By kind: how often legacy differed from itself, and serverless from legacy.
    kinds: BTreeMap<Kind, (u64, u64)>,
    learner: Learner,
}

impl Noise {
    /// One control: two answers of legacy, the earlier one first.
    pub fn control(&mut self, differences: &[Difference]) {
        self.controls += 1;
        for it in distinct(differences) {
            if let Some(path) = self.path(&it.path) {
                path.kinds.entry(it.kind).or_default().0 += 1;
                path.learner.control(&it.legacy, &it.serverless);
            }
        }
    }

    /// One comparison of legacy with serverless.
    pub fn compared(&mut self, differences: &[Difference]) {
        self.compared += 1;
        for it in distinct(differences) {
            if let Some(path) = self.path(&it.path) {
                path.kinds.entry(it.kind).or_default().1 += 1;
                path.learner.serverless(&it.legacy, &it.serverless);
            }
        }
    }

    pub fn controls(&self) -> u64 {
        self.controls
    }

    fn path(&mut self, path: &str) -> Option<&mut PathNoise> {
        if !self.paths.contains_key(path) {
            if self.paths.len() >= PATHS_MAX {
                return None;
            }
            self.paths.insert(path.to_owned(), PathNoise::default());
        }
        self.paths.get_mut(path)
    }

    pub fn state(&self, path: &str, kind: Kind) -> State {
        if self.controls < CONTROLS_MIN {
            return State::Unknown;
        }
        let Some(known) = self.paths.get(path) else { return State::Unknown };
        let (own, other) = known.kinds.get(&kind).copied().unwrap_or_default();
        if is_larger((other, self.compared), (own, self.controls), REAL_OVER, ALPHA) {
            return State::Real;
        }
        match (own, known.rule(kind)) {
            // Legacy has never differed here; serverless has, too rarely to be sure how often.
            (0, _) => {
                if other > 0 {
                    State::Real
                } else {
                    State::Unknown
                }
            }
            (_, Some(rule)) if known.learner.covers(&rule) => State::Noise,
            (_, Some(_) | None) => State::Undecided,
        }
    }

    /// Rules for what is noise, by path. Empty below `CONTROLS_MIN`.
    pub fn proposals(&self) -> Vec<Proposal> {
        if self.controls < CONTROLS_MIN {
            return Vec::new();
        }
        let of = |(path, known): (&String, &PathNoise)| {
            // Where serverless differs in a way of its own, a rule would hide it.
            if known.kinds.keys().any(|kind| self.state(path, *kind) == State::Real) {
                return None;
            }
            let (kind, (own, other)) =
                known.kinds.iter().filter(|(_, (own, _))| *own > 0).max_by_key(|(_, (own, _))| *own)?;
            Some(Proposal {
                path: path.clone(),
                rule: known.rule(*kind)?,
                controls: self.controls,
                controls_differing: *own,
                compared: self.compared,
                serverless_differing: *other,
            })
        };
        self.paths.iter().filter_map(of).collect()
    }

    /// The rules with all proposals pinned.
    pub fn pinned(&self, rules: &Rules) -> Rules {
        let mut rules = rules.clone();
        for proposal in self.proposals() {
            rules.add(&proposal.path, proposal.rule);
        }
        rules
    }
}

impl PathNoise {
    fn rule(&self, kind: Kind) -> Option<Typed> {
        match kind {
            Kind::Order => Some(Typed::Unordered),
            Kind::Missing | Kind::Extra => Some(Typed::Optional),
            Kind::Value | Kind::Text | Kind::Header | Kind::Space | Kind::Shape => self.learner.rule(),
            Kind::NumberFormat => Some(Typed::Float { abs: 0.0, rel: 0.0 }),
            Kind::Status
            | Kind::MediaType
            | Kind::Type
            | Kind::Charset
            | Kind::Namespace
            | Kind::Length
            | Kind::Bytes => None,
        }
    }
}

/// Which shapes are still possible, and how far apart two values get.
#[derive(Clone, Debug, Default)]
struct Learner {
    seen: u64,
    /// A value was too long to be looked at.
    blind: bool,
    apart: Shape,
    /// Serverless beside legacy: a copy is answered later than its request.
    beside: Shape,
    beside_seen: u64,
    texts: BTreeMap<String, u64>,
    odd_texts: bool,
    /// The second of two was always the larger whole number.
    falls: bool,
}

/// What all values so far have in common.
#[derive(Clone, Debug, Default)]
struct Shape {
    started: bool,
    uuid: bool,
    jwt: bool,
    hex: Option<usize>,
    time: Option<TimeFormat>,
    epoch: Option<bool>,
    whole: bool,
    number: bool,
    token: Option<(usize, usize)>,
    /// Milliseconds, whole numbers, and parts of the first of two numbers.
    apart_ms: u64,
    apart_count: u64,
    apart_rel: f64,
}

impl Learner {
    fn control(&mut self, first: &Value, second: &Value) {
        self.seen += 1;
        let (Some(a), Some(b)) = (&first.text, &second.text) else {
            self.blind = true;
            return;
        };
        self.apart.add(a, b);
        self.falls |= !matches!((shape::whole(a), shape::whole(b)), (Some(a), Some(b)) if b > a);
        for text in [a, b] {
            let masked = shape::masked(text);
            if self.texts.len() < TEXTS_MAX || self.texts.contains_key(&masked) {
                *self.texts.entry(masked).or_default() += 1;
            } else {
                self.odd_texts = true;
            }
        }
    }

    fn serverless(&mut self, legacy: &Value, serverless: &Value) {
        if let (Some(a), Some(b)) = (&legacy.text, &serverless.text) {
            self.beside_seen += 1;
            self.beside.add(a, b);
            self.odd_texts |= [a, b]
                .into_iter()
                .any(|text| self.texts.len() >= TEXTS_MAX && !self.texts.contains_key(&shape::masked(text)));
        }
    }

    /// Whether what serverless said beside legacy is what a rule of the controls means.
    fn covers(&self, rule: &Typed) -> bool {
        let it = &self.beside;
        if self.beside_seen == 0 {
            return true;
        }
        match rule {
            Typed::Uuid => it.uuid,
            Typed::Jwt => it.jwt,
            Typed::Hex(length) => it.hex.is_some() && (length.is_none() || it.hex == *length),
            Typed::Timestamp { format, .. } => it.time.is_some() && (format.is_none() || it.time == *format),
            Typed::Epoch { millis, .. } => it.epoch == Some(*millis),
            Typed::Counter(_) => it.whole,
            Typed::Float { .. } => it.number,
            Typed::Token { .. } => it.token.is_some(),
            _ => true,
        }
    }

    /// The tightest rule that covers every control.
    fn rule(&self) -> Option<Typed> {
        if self.seen == 0 || self.blind {
            return None;
        }
        let it = &self.apart;
        if it.uuid {
            return Some(Typed::Uuid);
        }
        if it.jwt {
            return Some(Typed::Jwt);
        }
        // What serverless was apart may widen a tolerance, as long as its values are of the same shape.
        let beside = (self.beside_seen > 0).then_some(&self.beside);
        if let Some(format) = it.time {
            let apart =
                it.apart_ms.max(beside.filter(|it| it.time == Some(format)).map_or(0, |it| it.apart_ms));
            return Some(Typed::Timestamp { format: Some(format), tolerance: tolerance(apart) });
        }
        if let Some(millis) = it.epoch {
            let apart =
                it.apart_ms.max(beside.filter(|it| it.epoch == Some(millis)).map_or(0, |it| it.apart_ms));
            return Some(Typed::Epoch { millis, tolerance: tolerance(apart) });
        }
        if it.whole && !self.falls {
            return Some(Typed::Counter(Some((it.apart_count.max(1) * 100).next_power_of_two())));
        }
        if it.number && it.apart_rel <= 0.1 {
            let ladder = [0.0001, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2];
            let rel = ladder.into_iter().find(|step| *step >= it.apart_rel * 1.5)?;
            return Some(Typed::Float { abs: 0.0, rel });
        }
        if it.number {
            return None;
        }
        if let Some(length) = it.hex {
            return Some(Typed::Hex(Some(length)));
        }
        // Each text more than once, or it could be anybody's.
        let fixed = !self.odd_texts && self.texts.values().all(|count| *count >= 2);
        // Nor what names somebody: a rule is read by many, and one customer in another's place is no noise.
        let personal = self.texts.keys().any(|text| redact::class(text).is_some());
        if fixed && !self.texts.is_empty() && !personal {
            return Some(Typed::Like(self.texts.keys().map(|text| text.as_str().into()).collect()));
        }
        let (min, max) = it.token?;
        Some(Typed::Token { min, max })
    }
}

impl Shape {
    fn add(&mut self, a: &str, b: &str) {
        let both = |is: &dyn Fn(&str) -> bool| is(a) && is(b);
        let same = |x: Option<usize>, y: Option<usize>| x.filter(|_| x == y);
        let (uuid, jwt) = (both(&shape::is_uuid), both(&shape::is_jwt));
        let (whole, number) =
            (both(&|it| shape::whole(it).is_some()), both(&|it| shape::number(it).is_some()));
        let hex = same(shape::hex(a), shape::hex(b));
        let times = shape::time(a).zip(shape::time(b)).filter(|(x, y)| x.0 == y.0);
        let epochs = shape::epoch(a).zip(shape::epoch(b)).filter(|(x, y)| x.0 == y.0);
        let tokens = shape::token(a).zip(shape::token(b)).map(|(x, y)| (x.min(y), x.max(y)));
        if let Some((x, y)) = times.map(|(x, y)| (x.1, y.1)).or(epochs.map(|(x, y)| (x.1, y.1))) {
            self.apart_ms = self.apart_ms.max(x.abs_diff(y));
        }
        if let Some((x, y)) = shape::whole(a).zip(shape::whole(b)) {
            self.apart_count = self.apart_count.max(x.abs_diff(y));
        }
        if let Some((x, y)) = shape::number(a).zip(shape::number(b)) {
            let rel = if x == 0.0 { f64::INFINITY } else { ((x - y) / x).abs() };
            self.apart_rel = self.apart_rel.max(rel);
        }
        let (time, epoch) = (times.map(|(x, _)| x.0), epochs.map(|(x, _)| x.0));
        if !self.started {
            *self = Shape {
                started: true,
                uuid,
                jwt,
                hex,
                time,
                epoch,
                whole,
                number,
                token: tokens,
                ..self.clone()
            };
            return;
        }
        self.uuid &= uuid;
        self.jwt &= jwt;
        self.whole &= whole;
        self.number &= number;
        self.hex = self.hex.filter(|_| self.hex == hex);
        self.time = self.time.filter(|_| self.time == time);
        self.epoch = self.epoch.filter(|_| self.epoch == epoch);
        self.token = self.token.zip(tokens).map(|(x, y)| (x.0.min(y.0), x.1.max(y.1)));
    }
}

/// Ten times what was seen, on a ladder people would write; none beyond a day.
fn tolerance(apart_ms: u64) -> Option<Duration> {
    const LADDER: [u64; 7] = [1, 5, 30, 60, 300, 3_600, 86_400];
    let seconds = LADDER.into_iter().find(|step| step * 1_000 >= apart_ms.saturating_mul(10))?;
    Some(Duration::from_secs(seconds))
}
