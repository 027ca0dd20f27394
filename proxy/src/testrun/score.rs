//! Answers of both sides -> a report with a verdict.
//!
//! Input: exchanges, rules, what is claimed. Output: `Report`. Must not: pass on no evidence, or let a value into the report that was not
//! asked for.

use crate::decode::decoded;
use crate::mirror::judge::{Raw, judge};
use crate::testrun::play::{Plan, Played};
use crate::testrun::record::{Recorded, Stored};
use banyan_routes::compare::body::{document, is_name};
use banyan_routes::compare::render;
use banyan_routes::compare::rules::Rules;
use banyan_routes::compare::{Difference, Verdict, distinct};
use banyan_routes::evidence::{Quantiles, REPEATS_MAX, Window};
use banyan_routes::ids::Side;
use banyan_routes::noise::Noise;
use banyan_routes::redact::Redactor;
use banyan_routes::stats::{clopper_pearson_upper, samples_needed};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Kinds of differences and examples of each that a report shows.
const CLUSTERS_MAX: usize = 200;
const EXAMPLES_MAX: usize = 2;
/// Requests named one by one.
const REQUESTS_MAX: usize = 10_000;
/// Of a line of a body.
const LINE_MAX: usize = 2_000;

/// What the run has to show.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claim {
    /// The part of the answers that may differ.
    pub allowed: f64,
    pub confidence: f64,
    pub coverage_floor: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RunVerdict {
    Pass,
    Regression,
    NotEnoughEvidence,
    Inconclusive,
}

impl RunVerdict {
    pub fn as_str(self) -> &'static str {
        match self {
            RunVerdict::Pass => "PASS",
            RunVerdict::Regression => "REGRESSION",
            RunVerdict::NotEnoughEvidence => "NOT_ENOUGH_EVIDENCE",
            RunVerdict::Inconclusive => "INCONCLUSIVE",
        }
    }

    pub fn exit_code(self) -> u8 {
        match self {
            RunVerdict::Pass => 0,
            RunVerdict::Regression => 1,
            RunVerdict::NotEnoughEvidence => 2,
            RunVerdict::Inconclusive => 3,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub version: u32,
    pub banyan: String,
    pub verdict: RunVerdict,
    pub exit_code: u8,
    /// Sentences.
    pub reasons: Vec<String>,
    pub mode: String,
    pub seed: u64,
    pub input: InputFacts,
    /// SHA-256 of what was configured: rules, claim and targets.
    pub config_sha256: String,
    pub legacy: String,
    pub serverless: String,
    pub values: String,
    pub claim: Claim,
    pub requests: u64,
    pub compared: u64,
    /// Different requests among those that were compared: a hot one that is asked again and again proves little.
    #[serde(default)]
    pub distinct: u64,
    pub matched: u64,
    pub mismatched: u64,
    pub upper_bound: f64,
    pub coverage: f64,
    pub skipped: BTreeMap<String, u64>,
    pub inconclusive: BTreeMap<String, u64>,
    pub unanswered: BTreeMap<String, u64>,
    pub noise: Vec<Learned>,
    pub differences: Vec<Cluster>,
    pub exchanges: Vec<Exchange>,
    /// Further ones, which are counted and not named.
    #[serde(default)]
    pub exchanges_left_out: u64,
    pub latency: BTreeMap<String, Option<Quantiles>>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct InputFacts {
    pub file: String,
    pub format: String,
    pub sha256: String,
    pub requests: u64,
    pub left_out: BTreeMap<String, u64>,
}

/// A rule that the baseline pass has taught.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Learned {
    pub path: String,
    pub rule: String,
    pub controls: u64,
    pub controls_differing: u64,
}

/// One path that differs in one way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cluster {
    pub path: String,
    pub kind: String,
    pub count: u64,
    pub legacy: String,
    pub serverless: String,
    pub examples: Vec<Example>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Example {
    pub request: String,
    pub legacy: Vec<String>,
    pub serverless: Vec<String>,
}

/// One request of the run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exchange {
    pub request: String,
    /// `match`, `mismatch`, or why it is not known.
    pub verdict: String,
    pub legacy_status: Option<u16>,
    pub serverless_status: Option<u16>,
    /// `path kind`.
    pub differences: Vec<String>,
}

/// Asks legacy twice for some safe requests: what differs is noise. In an order of its own, so that neighbours do not teach the same.
///
/// A rule is taken from it only where serverless keeps to it as well: see `beside`.
pub async fn baseline(plan: &Plan, requests: &[Recorded], count: usize, seed: u64, rules: &Rules) -> Noise {
    let mut noise = Noise::default();
    let Some(legacy) = &plan.legacy else { return noise };
    let mut safe: Vec<&Recorded> = requests.iter().filter(|it| it.is_safe()).collect();
    safe.shuffle(&mut StdRng::seed_from_u64(seed));
    for recorded in safe.iter().cycle().take(if safe.is_empty() { 0 } else { count }) {
        let (first, second) = (legacy.ask(recorded).await, legacy.ask(recorded).await);
        let (Ok(first), Ok(second)) = (first, second) else { continue };
        match judge(Some(raw(&first)), Some(raw(&second)), rules, &recorded.host) {
            Verdict::Match => noise.control(&[]),
            Verdict::Mismatch(differences) => noise.control(&differences),
            Verdict::Inconclusive(_) => {}
        }
    }
    noise
}

/// How often serverless differs in the run itself, in the same terms: where it does so more often than legacy from itself, that is no noise.
pub fn beside(noise: &mut Noise, played: &Played, rules: &Rules) {
    for recorded in &played.exchanges {
        let (one, other) = (recorded.legacy.as_ref().map(raw), recorded.serverless.as_ref().map(raw));
        match judge(one, other, rules, &recorded.host) {
            Verdict::Match => noise.compared(&[]),
            Verdict::Mismatch(differences) => noise.compared(&differences),
            Verdict::Inconclusive(_) => {}
        }
    }
}

/// What the score goes by.
pub struct Terms<'a> {
    pub rules: &'a Rules,
    pub noise: &'a Noise,
    pub claim: Claim,
    pub redactor: &'a Redactor,
    /// Values stand in the report as they are.
    pub raw_values: bool,
}

/// Everything but where the run came from.
pub fn score(played: &Played, terms: &Terms<'_>) -> Report {
    let (mut counted, mut repeats) = (Window::default(), HashMap::<u64, u64>::new());
    let mut clusters: BTreeMap<(String, &'static str), Cluster> = BTreeMap::new();
    let (mut exchanges, mut left_out) = (Vec::new(), 0);
    for recorded in &played.exchanges {
        let (one, other) = (recorded.legacy.as_ref().map(raw), recorded.serverless.as_ref().map(raw));
        let verdict = judge(one, other, terms.rules, &recorded.host);
        let request = format!("{} {}", recorded.method, terms.shown_target(&recorded.target));
        counted.eligible += 1;
        counted.verdict(&verdict, recorded.fingerprint());
        if matches!(verdict, Verdict::Match | Verdict::Mismatch(_)) {
            *repeats.entry(recorded.fingerprint()).or_default() += 1;
        }
        let times = |stored: &Option<Stored>| stored.as_ref().and_then(|stored| stored.seconds);
        if let Some((legacy, serverless)) = times(&recorded.legacy).zip(times(&recorded.serverless)) {
            counted.took(legacy, serverless);
        }
        let differences = match &verdict {
            Verdict::Mismatch(differences) => differences.as_slice(),
            Verdict::Match | Verdict::Inconclusive(_) => &[],
        };
        for it in distinct(differences) {
            cluster(&mut clusters, it, recorded, &request, terms);
        }
        // What differs is named beyond that, up to as many again.
        let room = if verdict == Verdict::Match { REQUESTS_MAX } else { 2 * REQUESTS_MAX };
        if exchanges.len() >= room {
            left_out += 1;
        } else {
            let status = |stored: &Option<Stored>| stored.as_ref().map(|stored| stored.status);
            let named = |it: &Difference| format!("{} {}", terms.shown_path(&it.path), it.kind);
            exchanges.push(Exchange {
                request,
                verdict: match &verdict {
                    Verdict::Match => "match".into(),
                    Verdict::Mismatch(_) => "mismatch".into(),
                    Verdict::Inconclusive(unknown) => unknown.as_str().into(),
                },
                legacy_status: status(&recorded.legacy),
                serverless_status: status(&recorded.serverless),
                differences: distinct(differences).map(named).collect(),
            });
        }
    }
    let mut differences: Vec<Cluster> = clusters.into_values().collect();
    differences
        .sort_by(|a, b| b.count.cmp(&a.count).then_with(|| (&a.path, &a.kind).cmp(&(&b.path, &b.kind))));
    let skipped: BTreeMap<String, u64> =
        played.skipped.iter().map(|(why, count)| ((*why).to_owned(), *count)).collect();
    let proof = Proof {
        distinct: repeats.len() as u64,
        counted: repeats
            .values()
            .map(|count| (*count).min(REPEATS_MAX.into()))
            .sum::<u64>()
            .max(counted.mismatched),
    };
    let (verdict, reasons) = decide(played, &counted, &proof, &terms.claim);
    let side = |side: Side| (side.as_str().to_owned(), played.unanswered[side.index()]);
    Report {
        version: 1,
        banyan: env!("CARGO_PKG_VERSION").into(),
        verdict,
        exit_code: verdict.exit_code(),
        reasons,
        mode: String::new(),
        seed: 0,
        input: InputFacts::default(),
        config_sha256: String::new(),
        legacy: String::new(),
        serverless: String::new(),
        values: if terms.raw_values { "raw" } else { "redacted" }.into(),
        claim: terms.claim.clone(),
        requests: counted.eligible + skipped.values().sum::<u64>(),
        compared: counted.compared(),
        distinct: proof.distinct,
        matched: counted.matched,
        mismatched: counted.mismatched,
        upper_bound: upper_bound(&counted, &proof, &terms.claim),
        coverage: coverage(&counted),
        skipped,
        inconclusive: counted.inconclusive.clone(),
        unanswered: Side::ALL.into_iter().map(side).filter(|(_, count)| *count > 0).collect(),
        noise: learned(terms),
        differences,
        exchanges,
        exchanges_left_out: left_out,
        latency: [("p50", 0.5), ("p99", 0.99)]
            .into_iter()
            .map(|(name, q)| (name.to_owned(), counted.quantiles(q)))
            .collect(),
    }
}

fn learned(terms: &Terms<'_>) -> Vec<Learned> {
    let of = |it: banyan_routes::noise::Proposal| Learned {
        path: terms.shown_path(&it.path),
        rule: it.rule.to_string(),
        controls: it.controls,
        controls_differing: it.controls_differing,
    };
    terms.noise.proposals().into_iter().map(of).collect()
}

/// What the bound rests on: a request that is asked again and again proves little more than once.
struct Proof {
    distinct: u64,
    /// Answers, of each request `REPEATS_MAX` at most; of those that differ every one.
    counted: u64,
}

fn upper_bound(counted: &Window, proof: &Proof, claim: &Claim) -> f64 {
    clopper_pearson_upper(counted.mismatched, proof.counted, 1.0 - claim.confidence)
}

/// Of the requests that were asked, those that could be compared.
fn coverage(counted: &Window) -> f64 {
    if counted.eligible == 0 { 0.0 } else { counted.compared() as f64 / counted.eligible as f64 }
}

fn decide(played: &Played, counted: &Window, proof: &Proof, claim: &Claim) -> (RunVerdict, Vec<String>) {
    let (n, k, asked) = (counted.compared(), counted.mismatched, counted.eligible);
    for side in Side::ALL {
        if asked > 0 && played.unreachable[side.index()] == asked {
            return (RunVerdict::Inconclusive, vec![format!("{} cannot be reached", side.as_str())]);
        }
    }
    if asked == 0 {
        return (RunVerdict::NotEnoughEvidence, vec!["nothing of the input could be asked".into()]);
    }
    let percent = |ratio: f64| format!("{} %", (ratio * 1e5).round() / 1e3);
    if asked > 0 && coverage(counted) < claim.coverage_floor {
        let text = format!(
            "{n} of {asked} requests could be compared; the floor is {}",
            percent(claim.coverage_floor)
        );
        return (RunVerdict::Inconclusive, vec![text]);
    }
    let bound = upper_bound(counted, proof, claim);
    let proved = format!(
        "{k} of {n} answers differ ({} different requests): at most {} of all do, with {} confidence; {} may",
        proof.distinct,
        percent(bound),
        percent(claim.confidence),
        percent(claim.allowed)
    );
    if bound <= claim.allowed {
        (RunVerdict::Pass, vec![proved])
    } else if k > 0 {
        (RunVerdict::Regression, vec![proved])
    } else {
        let needed = samples_needed(claim.allowed, 1.0 - claim.confidence);
        (
            RunVerdict::NotEnoughEvidence,
            vec![
                proved,
                format!(
                    "{needed} compared without a difference would be enough, each request counted {REPEATS_MAX} times at most"
                ),
            ],
        )
    }
}

fn cluster(
    clusters: &mut BTreeMap<(String, &'static str), Cluster>,
    it: &Difference,
    recorded: &Recorded,
    request: &str,
    terms: &Terms<'_>,
) {
    let key = (it.path.clone(), it.kind.as_str());
    if !clusters.contains_key(&key) && clusters.len() >= CLUSTERS_MAX {
        return;
    }
    let cluster = clusters.entry(key).or_insert_with(|| Cluster {
        path: terms.shown_path(&it.path),
        kind: it.kind.as_str().into(),
        count: 0,
        legacy: terms.shown(&it.legacy),
        serverless: terms.shown(&it.serverless),
        examples: Vec::new(),
    });
    cluster.count += 1;
    if cluster.examples.len() < EXAMPLES_MAX {
        let lines =
            |stored: &Option<Stored>| stored.as_ref().map(|stored| terms.lines(stored)).unwrap_or_default();
        cluster.examples.push(Example {
            request: request.to_owned(),
            legacy: lines(&recorded.legacy),
            serverless: lines(&recorded.serverless),
        });
    }
}

impl Terms<'_> {
    fn shown(&self, value: &banyan_routes::compare::Value) -> String {
        match &value.text {
            Some(text) if self.raw_values => text.to_string(),
            _ => self.redactor.value(value),
        }
    }

    fn shown_path(&self, path: &str) -> String {
        if self.raw_values { path.to_owned() } else { self.redactor.path(path) }
    }

    fn shown_target(&self, target: &str) -> String {
        if self.raw_values { target.to_owned() } else { self.redactor.target(target) }
    }

    /// Status, media type and document of an answer.
    fn lines(&self, stored: &Stored) -> Vec<String> {
        let kind =
            stored.headers.get("content-type").and_then(|it| it.to_str().ok()).unwrap_or("no media type");
        let bare = kind.split(';').next().unwrap_or_default().trim();
        let kind = match kind {
            _ if self.raw_values || bare == "no media type" => kind.to_owned(),
            _ if is_name(bare) => bare.to_owned(),
            _ => self.redactor.value(&banyan_routes::compare::Value::string(kind)),
        };
        let mut lines = vec![format!("{} {kind}", stored.status)];
        let body = decoded(&stored.headers, &stored.body).unwrap_or_default();
        let show = |text: &str| {
            if self.raw_values {
                text.chars().take(LINE_MAX).collect()
            } else {
                self.redactor.value(&banyan_routes::compare::Value::string(text))
            }
        };
        match document(&stored.headers, &body) {
            Some(document) => {
                let key = |key: &str| if self.raw_values { key.to_owned() } else { self.redactor.key(key) };
                lines.extend(render::lines(&document, &show, &key));
            }
            None => lines.push(format!("{} bytes", body.len())),
        }
        lines
    }
}

pub fn raw(stored: &Stored) -> Raw<'_> {
    Raw { status: stored.status, headers: &stored.headers, body: &stored.body, truncated: stored.truncated }
}
