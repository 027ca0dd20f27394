//! Two answers to one request -> the same, different and how, or not to be known.
//!
//! Input: status, headers and decoded bodies of both sides, and what the rules say of paths. Output: `Verdict`. Must not:
//! decide whether a difference matters: that is a matter of evidence, and of people.

pub mod steps;
pub mod shape;
pub mod typed;
pub mod rules;
pub mod node;
pub mod bounds;
pub mod json;
pub mod xml;
pub mod html;
pub mod form;
pub mod charset;
pub mod render;
pub mod align;
pub mod walk;
pub mod headers;
pub mod body;

use http::HeaderMap;
use rules::Rules;
use std::collections::BTreeSet;
use std::fmt;
use typed::Held;

/// Differences that one comparison lists; more say nothing new.
pub const DIFFERENCES_MAX: usize = 50;

/// One side's answer. The body is decoded: no content coding, as sent otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    pub status: u16,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
    /// The body went on past what was kept.
    pub truncated: bool,
    /// By which the client had asked, with its port where one was named: what either side may call itself. Empty: not known.
    pub host: &'a str,
}

/// What kind of thing differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Status,
    Header,
    MediaType,
    Missing,
    Extra,
    Type,
    Value,
    Order,
    NumberFormat,
    /// A value that its rule does not cover.
    Shape,
    Charset,
    Namespace,
    /// White space in a value.
    Space,
    Length,
    Text,
    Bytes,
}

impl Kind {
    pub const ALL: [Kind; 16] = [
        Kind::Status,
        Kind::Header,
        Kind::MediaType,
        Kind::Missing,
        Kind::Extra,
        Kind::Type,
        Kind::Value,
        Kind::Order,
        Kind::NumberFormat,
        Kind::Shape,
        Kind::Charset,
        Kind::Namespace,
        Kind::Space,
        Kind::Length,
        Kind::Text,
        Kind::Bytes,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Status => "status",
            Kind::Header => "header",
            Kind::MediaType => "media_type",
            Kind::Missing => "missing",
            Kind::Extra => "extra",
            Kind::Type => "type",
            Kind::Value => "value",
            Kind::Order => "order",
            Kind::NumberFormat => "number_format",
            Kind::Shape => "shape",
            Kind::Charset => "charset",
            Kind::Namespace => "namespace",
            Kind::Space => "space",
            Kind::Length => "length",
            Kind::Text => "text",
            Kind::Bytes => "bytes",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A side's value where the sides differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// `string(5)`, `number`, `absent`: what a log or a store may hold.
    pub shape: String,
    /// The value itself, if it is short: for learning and for asking, never for storing.
    pub text: Option<Box<str>>,
}

/// Longer values are known by their shape.
const TEXT_MAX: usize = 512;

impl Value {
    pub fn shaped(shape: &str) -> Value {
        Value { shape: shape.into(), text: None }
    }

    pub fn absent() -> Value {
        Value::shaped("absent")
    }

    pub fn string(text: &str) -> Value {
        let short = (text.len() <= TEXT_MAX).then(|| text.into());
        Value { shape: format!("string({})", text.chars().count()), text: short }
    }

    /// A name that says nothing of anybody: a status, a media type, a character set.
    pub fn named(name: &str) -> Value {
        Value { shape: if name.is_empty() { "absent".into() } else { name.into() }, text: Some(name.into()) }
    }
}

/// One difference. Missing and extra are seen from legacy: what serverless lacks, what it adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// `status`, `header.vary`, `$.items[].price`, `line 3`.
    pub path: String,
    pub kind: Kind,
    pub legacy: Value,
    pub serverless: Value,
}

/// Each path and kind once, however many items of a list differ there.
pub fn distinct(differences: &[Difference]) -> impl Iterator<Item = &Difference> {
    let mut seen = BTreeSet::new();
    differences.iter().filter(move |it| seen.insert((&it.path, it.kind)))
}

/// What came of one comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Match,
    /// At most `DIFFERENCES_MAX`, in the order of the document.
    Mismatch(Vec<Difference>),
    /// Why it cannot be known.
    Inconclusive(Unknown),
}

/// Why a comparison says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unknown {
    /// A body is longer than what was kept, and what was kept is equal.
    Truncated,
    /// A content coding that cannot be undone, or that grows past its bounds.
    Undecodable,
    /// Both sides failed with a 5xx: that is no parity.
    BothFailed,
    /// Comparing would take more than its budget.
    Budget,
    /// Legacy, asked as the shadow, gave no answer.
    NoAnswer,
}

impl Unknown {
    pub const ALL: [Unknown; 5] =
        [Unknown::Truncated, Unknown::Undecodable, Unknown::BothFailed, Unknown::Budget, Unknown::NoAnswer];

    pub fn as_str(self) -> &'static str {
        match self {
            Unknown::Truncated => "truncated",
            Unknown::Undecodable => "undecodable",
            Unknown::BothFailed => "both_failed",
            Unknown::Budget => "budget",
            Unknown::NoAnswer => "no_answer",
        }
    }
}

/// What their statuses alone say; `None`: nothing yet.
pub fn statuses(legacy: u16, serverless: u16, rules: &Rules) -> Option<Verdict> {
    if legacy >= 500 && serverless >= 500 {
        return Some(Verdict::Inconclusive(Unknown::BothFailed));
    }
    if legacy == serverless {
        return None;
    }
    let (a, b) = (legacy.to_string(), serverless.to_string());
    if rules.ignores("status") || rules.at("status").is_some_and(|typed| typed.holds(&a, &b) == Held::Yes) {
        return None;
    }
    let (legacy, serverless) = (Value::named(&a), Value::named(&b));
    // The bodies of different statuses answer different questions.
    Some(Verdict::Mismatch(vec![Difference {
        path: "status".into(),
        kind: Kind::Status,
        legacy,
        serverless,
    }]))
}

/// Compares two answers to the same request.
pub fn compare(legacy: &Answer<'_>, serverless: &Answer<'_>, rules: &Rules) -> Verdict {
    if let Some(verdict) = statuses(legacy.status, serverless.status, rules) {
        return verdict;
    }
    let mut found = Vec::new();
    headers::compare(legacy, serverless, rules, &mut found);
    let unknown = body::compare(legacy, serverless, rules, &mut found);
    found.truncate(DIFFERENCES_MAX);
    match (found.is_empty(), unknown) {
        (false, _) => Verdict::Mismatch(found),
        (true, Some(unknown)) => Verdict::Inconclusive(unknown),
        (true, None) => Verdict::Match,
    }
}
