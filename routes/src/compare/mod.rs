//! Two answers to one request -> the same, different and how, or not to be known.
//!
//! Input: status, headers and decoded bodies of both sides, and the paths a rule says to ignore. Output: `Verdict`. Must not:
//! decide whether a difference matters: that is a matter of evidence, and of people.

pub mod json;
pub mod headers;
pub mod body;

use http::HeaderMap;
use std::fmt;

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
    Length,
    Text,
    Bytes,
}

impl Kind {
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

/// One difference. Missing and extra are seen from legacy: what serverless lacks, what it adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// `status`, `header.vary`, `$.items[].price`, `line 3`.
    pub path: String,
    pub kind: Kind,
    /// The values' shapes, such as `string(5)`: what a log or a store may hold.
    pub legacy: String,
    pub serverless: String,
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

/// What a rule says to leave out: names of headers, and paths of JSON values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignore {
    /// Lower case.
    headers: Vec<Box<str>>,
    /// `$.items[].price`: exact, without positions.
    paths: Vec<Box<str>>,
}

impl Ignore {
    /// `header.date` or `json:$.traceId`.
    pub fn parse(entries: &[String]) -> Result<Ignore, (usize, String)> {
        let mut ignore = Ignore::default();
        for (at, entry) in entries.iter().enumerate() {
            match entry.split_once(['.', ':']) {
                Some(("header", name)) if !name.is_empty() && entry.starts_with("header.") => {
                    ignore.headers.push(name.to_ascii_lowercase().into());
                }
                Some(("json", path)) if path.starts_with('$') && entry.starts_with("json:") => {
                    ignore.paths.push(path.into());
                }
                _ => {
                    return Err((at, format!("`{entry}` names nothing that can be ignored")));
                }
            }
        }
        Ok(ignore)
    }

    pub fn header(&self, name: &str) -> bool {
        self.headers.iter().any(|known| **known == *name)
    }

    pub fn path(&self, path: &str) -> bool {
        self.paths.iter().any(|known| **known == *path)
    }
}

/// Compares two answers to the same request.
pub fn compare(legacy: &Answer<'_>, serverless: &Answer<'_>, ignore: &Ignore) -> Verdict {
    if legacy.status >= 500 && serverless.status >= 500 {
        return Verdict::Inconclusive(Unknown::BothFailed);
    }
    let mut found = Vec::new();
    if legacy.status != serverless.status {
        found.push(Difference {
            path: "status".into(),
            kind: Kind::Status,
            legacy: legacy.status.to_string(),
            serverless: serverless.status.to_string(),
        });
        // The bodies of different statuses answer different questions.
        return Verdict::Mismatch(found);
    }
    headers::compare(legacy.headers, serverless.headers, ignore, &mut found);
    let unknown = body::compare(legacy, serverless, ignore, &mut found);
    found.truncate(DIFFERENCES_MAX);
    match (found.is_empty(), unknown) {
        (false, _) => Verdict::Mismatch(found),
        (true, Some(unknown)) => Verdict::Inconclusive(unknown),
        (true, None) => Verdict::Match,
    }
}
