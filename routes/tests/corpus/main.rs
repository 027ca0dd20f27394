//! Pairs of answers with known verdicts: every kind of noise, real differences of every kind amid that noise, and two ways to write one thing.
//!
//! The pairs stand in `pairs/corpus.jsonl`; the modules beside this one made them (`make bless`), and the controls that the noise is learned from.
//! Nothing real may be lost, and no noise reported once the controls are there. The table goes to stderr.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what it needs by failing")]

mod answers;
mod documents;
mod families;
mod markup;

use banyan_routes::compare::rules::Rules;
use banyan_routes::compare::typed::Typed;
use banyan_routes::compare::{Answer, Verdict, compare};
use banyan_routes::noise::CONTROLS_MIN;
use families::{FAMILIES, Family, IN_HEADERS};
use http::{HeaderMap, HeaderName, HeaderValue};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;

pub const SEED: u64 = 20_261_123;
pub const CONTROLS: u64 = 40;
const JSON: &str = "application/json";
const XML: &str = "text/xml; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const FORM: &str = "application/x-www-form-urlencoded";

/// One side's answer, as the committed file writes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Side {
    #[serde(default = "ok", skip_serializing_if = "is_ok")]
    status: u16,
    headers: Vec<(String, String)>,
    /// The body's text is sent in this character set, not in UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    charset: Option<String>,
    body: String,
}

fn ok() -> u16 {
    200
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_ok(status: &u16) -> bool {
    *status == 200
}

impl Side {
    pub fn new(media_type: &str, body: &str) -> Side {
        let headers = vec![("content-type".to_owned(), media_type.to_owned())];
        Side { status: 200, headers, charset: None, body: body.to_owned() }
    }

    /// A header that is empty is not there; each line of a value is a header.
    pub fn with(mut self, name: &str, value: &str) -> Side {
        self.headers.extend(
            value.lines().filter(|line| !line.is_empty()).map(|line| (name.to_owned(), line.to_owned())),
        );
        self
    }

    pub fn in_set(mut self, charset: &str) -> Side {
        self.charset = (charset != "utf-8").then(|| charset.to_owned());
        self
    }

    pub fn with_status(mut self, status: u16) -> Side {
        self.status = status;
        self
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    kind: String,
    /// The path of a real difference; `None` for noise.
    real: Option<String>,
    /// By which the client had asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    host: String,
    legacy: Side,
    serverless: Side,
}

impl Pair {
    pub fn new(kind: &str, real: Option<&str>, legacy: Side, serverless: Side) -> Pair {
        Pair { kind: kind.to_owned(), real: real.map(str::to_owned), host: String::new(), legacy, serverless }
    }

    pub fn asked(mut self, host: &str) -> Pair {
        host.clone_into(&mut self.host);
        self
    }
}

/// For one kind of pairs, whatever stands before it.
pub fn seeded(kind: &str) -> StdRng {
    StdRng::seed_from_u64(
        SEED ^ kind.bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(byte.into())),
    )
}

pub fn verdict(pair: &Pair, rules: &Rules) -> Verdict {
    let headers = |side: &Side| {
        let mut headers = HeaderMap::new();
        for (name, value) in &side.headers {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        headers
    };
    let body = |side: &Side| match &side.charset {
        None => side.body.clone().into_bytes(),
        Some(name) => {
            let set = encoding_rs::Encoding::for_label(name.as_bytes()).unwrap();
            set.encode(&side.body).0.into_owned()
        }
    };
    let (one, other) = (headers(&pair.legacy), headers(&pair.serverless));
    let (a, b) = (body(&pair.legacy), body(&pair.serverless));
    let answer = |status, headers, body| Answer { status, headers, body, truncated: false, host: &pair.host };
    compare(&answer(pair.legacy.status, &one, &a), &answer(pair.serverless.status, &other, &b), rules)
}

/// All families: of bodies, and of headers.
fn families() -> impl Iterator<Item = (Option<&'static str>, &'static Family)> {
    FAMILIES.iter().map(|it| (None, it)).chain(IN_HEADERS.iter().map(|(name, it)| (Some(*name), it)))
}

fn corpus() -> Vec<Pair> {
    let made: Vec<Pair> = families()
        .flat_map(|(header, family)| family.pairs(header))
        .chain(answers::pairs())
        .chain(documents::pairs())
        .chain(markup::pairs())
        .collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pairs/corpus.jsonl");
    if std::env::var_os("BANYAN_BLESS").is_some() {
        let lines: String = made.iter().map(|pair| serde_json::to_string(pair).unwrap() + "\n").collect();
        std::fs::write(path, lines).unwrap();
    }
    let text = std::fs::read_to_string(path).unwrap();
    let kept: Vec<Pair> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(kept == made, "the committed pairs are not what this seed makes; `make bless`");
    kept
}

/// Of one kind: noise pairs, reported, real pairs, lost; the rule that its controls taught.
#[derive(Default)]
struct Row {
    noise: usize,
    reported: usize,
    real: usize,
    lost: usize,
    rule: String,
}

#[test]
fn no_real_difference_is_lost_and_no_noise_is_reported() {
    let pairs = corpus();
    assert!(pairs.len() >= 800, "{}", pairs.len());
    let learned: BTreeMap<&str, (Rules, String)> = families()
        .map(|(header, family)| {
            let rules = family.rules(header, CONTROLS);
            let rule = rules.at(family.path).map(ToString::to_string).unwrap_or_default();
            // What is proposed can be pinned.
            assert_eq!(rules.at(family.path).cloned(), Typed::parse(&rule).ok(), "{rule}");
            (family.kind, (rules, rule))
        })
        .collect();
    let (none, mut table, mut wrong) = (Rules::default(), BTreeMap::<&str, Row>::new(), Vec::new());
    for pair in &pairs {
        let rules = learned.get(pair.kind.as_str());
        let row = table.entry(&pair.kind).or_default();
        row.rule = rules.map(|(_, rule)| rule.clone()).unwrap_or_default();
        let found = verdict(pair, rules.map_or(&none, |(rules, _)| rules));
        let held = match &pair.real {
            None => {
                row.noise += 1;
                row.reported += usize::from(found != Verdict::Match);
                found == Verdict::Match
            }
            Some(path) => {
                row.real += 1;
                // An item that is gone is told at its list.
                let told = matches!(&found, Verdict::Mismatch(all) if all.iter().any(|it| it.path.starts_with(path.as_str())));
                row.lost += usize::from(!told);
                told
            }
        };
        if !held {
            wrong.push(format!("{found:?}: {}", serde_json::to_string(pair).unwrap()));
        }
    }
    let mut out = std::io::stderr().lock();
    writeln!(out, "\n{:<36}{:>6}{:>10}{:>6}{:>6}  learned rule", "kind", "noise", "reported", "real", "lost")
        .unwrap();
    for (kind, row) in &table {
        let Row { noise, reported, real, lost, rule } = row;
        writeln!(out, "{kind:<36}{noise:>6}{reported:>10}{real:>6}{lost:>6}  {rule}").unwrap();
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), pairs.len(), wrong.join("\n"));
}

#[test]
fn below_thirty_controls_nothing_is_noise() {
    for (header, family) in families().filter(|(_, family)| !family.path.is_empty()) {
        assert!(family.rules(header, CONTROLS_MIN - 1).is_empty(), "{}", family.kind);
    }
}
