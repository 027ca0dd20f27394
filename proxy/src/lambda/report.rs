//! The REPORT line at the end of a call's log: what it cost and whether it was a cold start.
//!
//! Input: the header `X-Amz-Log-Result`, base64 of the log's last 4 KB. Output: the figures of the line. Must not: believe that
//! it is there: a function that logs much in its last moment pushes it out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::time::Duration;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    pub billed: Duration,
    pub memory_mb: u64,
    pub used_mb: u64,
    /// How long a new instance took to start; SnapStart calls it a restore.
    pub init: Option<Duration>,
}

impl Report {
    /// From the header's value.
    pub fn read(log_result: &[u8]) -> Option<Report> {
        Report::parse(&String::from_utf8_lossy(&STANDARD.decode(log_result).ok()?))
    }

    /// From the log's text; the last line counts.
    pub fn parse(log: &str) -> Option<Report> {
        let line = &log[log.rfind("REPORT RequestId:")?..];
        let field = |name: &str, unit: &str| -> Option<f64> {
            let mut parts = line.split(['\t', '\n']);
            let part = parts.find_map(|part| part.trim().strip_prefix(name)?.strip_prefix(':'))?;
            let number: f64 = part.trim().strip_suffix(unit)?.trim().parse().ok()?;
            // What a function printed itself can look like this line and say anything; beyond a day and a terabyte it is not AWS.
            (0.0..=1e8).contains(&number).then_some(number)
        };
        let millis = |name| field(name, "ms").map(|ms| Duration::from_secs_f64(ms / 1000.0));
        Some(Report {
            billed: millis("Billed Duration")?,
            memory_mb: field("Memory Size", "MB")? as u64,
            used_mb: field("Max Memory Used", "MB").unwrap_or(0.0) as u64,
            init: millis("Init Duration").or_else(|| millis("Restore Duration")),
        })
    }
}
