//! Newtypes for the names and numbers everything else is keyed by, with their bounds.
//!
//! Input: text from rule files. Output: values that cannot be out of bounds. Must not: know routes or requests.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A share of everything, in millionths: the unit of shares, percents and buckets.
pub const PPM: u32 = 1_000_000;

/// The id of the route that stands for `defaults.legacy`; no rule may take it.
pub const DEFAULT_ROUTE: &str = "default";

/// Who answers: the old system or the new one.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Legacy,
    Serverless,
}

impl Side {
    pub const ALL: [Side; 2] = [Side::Legacy, Side::Serverless];

    pub fn as_str(self) -> &'static str {
        match self {
            Side::Legacy => "legacy",
            Side::Serverless => "serverless",
        }
    }

    /// Position in per-side arrays (`[legacy, serverless]`).
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Side {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Side::ALL
            .into_iter()
            .find(|side| side.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not a side; expected `legacy` or `serverless`"))
    }
}

/// A share of the keys in millionths, never above [`PPM`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SharePpm(u32);

impl SharePpm {
    pub const ZERO: SharePpm = SharePpm(0);
    pub const ONE_PERCENT: SharePpm = SharePpm(10_000);
    pub const HALF: SharePpm = SharePpm(PPM / 2);
    pub const ALL: SharePpm = SharePpm(PPM);

    /// `None` when over one million.
    pub fn new(ppm: u32) -> Option<Self> {
        (ppm <= PPM).then_some(SharePpm(ppm))
    }

    pub fn get(self) -> u32 {
        self.0
    }

    /// 0.0 to 1.0, for gauges.
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / f64::from(PPM)
    }
}

impl fmt::Display for SharePpm {
    /// As a percent without needless zeros: `5%`, `0.25%`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 10_000, self.0 % 10_000);
        if rest == 0 {
            return write!(f, "{whole}%");
        }
        let digits = format!("{rest:04}");
        write!(f, "{whole}.{}%", digits.trim_end_matches('0'))
    }
}

/// The hash of a compiled rule set, as 16 hex digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Revision(String);

impl Revision {
    pub fn from_hash(hash: u64) -> Self {
        Revision(format!("{hash:016x}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `text` may name a route, backend, cohort or group: 1 to 64 of `a-z A-Z 0-9 - _ .`, starting with a letter or
/// digit. They become metric labels, file names (`KILL.<route>`) and URL segments, so nothing else is let in.
pub fn valid_name(text: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    text.len() <= 64 && text.bytes().all(ok) && text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
}
