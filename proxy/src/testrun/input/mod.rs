//! Files of recorded requests: HAR, GoReplay, our own lines, access logs, lists of curl commands.
//!
//! Input: a file and, if it is said, its format. Output: requests in the order of the file, and what was left out and why. Must not:
//! read half a file: what cannot be understood is an error with its place.

pub mod har;
pub mod gor;
pub mod log;
pub mod curl;

use super::record::Recorded;
use clap::ValueEnum;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// HTTP Archive 1.2, as browsers export it.
    Har,
    /// GoReplay.
    Gor,
    /// Our own: a JSON object a line.
    Jsonl,
    /// Common, combined, or Banyan's own; GET and HEAD only.
    AccessLog,
    /// Commands as browsers copy them.
    Curl,
}

impl Format {
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Har => "har",
            Format::Gor => "gor",
            Format::Jsonl => "jsonl",
            Format::AccessLog => "access-log",
            Format::Curl => "curl",
        }
    }

    fn guess(path: &Path, bytes: &[u8]) -> Format {
        match path.extension().and_then(|it| it.to_str()) {
            Some("har") => return Format::Har,
            Some("gor") => return Format::Gor,
            Some("jsonl" | "ndjson") => return Format::Jsonl,
            Some("log") => return Format::AccessLog,
            Some("sh" | "curl") => return Format::Curl,
            _ => {}
        }
        let start = String::from_utf8_lossy(&bytes[..bytes.len().min(4_096)]).trim_start().to_owned();
        if start.starts_with("curl ") {
            Format::Curl
        } else if start.starts_with('{') && start.contains("\"log\"") && !start.contains("url.path") {
            Format::Har
        } else if start.starts_with('{') && start.contains("url.path") {
            Format::AccessLog
        } else if start.starts_with('{') {
            Format::Jsonl
        } else if start.starts_with("1 ") {
            Format::Gor
        } else {
            Format::AccessLog
        }
    }
}

/// What was read.
#[derive(Debug)]
pub struct Input {
    pub format: Format,
    /// SHA-256 of the file.
    pub digest: String,
    pub requests: Vec<Recorded>,
    /// Why entries of the file are not among them.
    pub left_out: BTreeMap<&'static str, u64>,
}

pub fn read(path: &Path, format: Option<Format>) -> Result<Input, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let format = format.unwrap_or_else(|| Format::guess(path, &bytes));
    let mut left_out = BTreeMap::new();
    let mut skip = |why: &'static str| *left_out.entry(why).or_default() += 1;
    let text = || {
        let wrong = |error: std::str::Utf8Error| format!("not UTF-8 at byte {}", error.valid_up_to());
        std::str::from_utf8(&bytes).map(|text| text.trim_start_matches('\u{feff}')).map_err(wrong)
    };
    let requests = match format {
        Format::Har => text().and_then(|text| har::read(text, &mut skip)),
        Format::Gor => gor::read(&bytes, &mut skip),
        Format::Jsonl => text().and_then(lines),
        Format::AccessLog => Ok(log::read(&String::from_utf8_lossy(&bytes), &mut skip)),
        Format::Curl => text().and_then(curl::read),
    };
    let mut requests =
        requests.map_err(|error| format!("{}: {}: {error}", path.display(), format.as_str()))?;
    // From the first on, whatever clock they were written by.
    let first = requests.iter().filter_map(|it| it.at_ms).min().unwrap_or(0);
    requests.iter_mut().for_each(|it| it.at_ms = it.at_ms.map(|at| at - first));
    requests.iter_mut().for_each(Recorded::unconditional);
    let digest = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Input { format, digest, requests, left_out })
}

fn lines(text: &str) -> Result<Vec<Recorded>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| Recorded::parse(line).map_err(|error| format!("line {}: {error}", number + 1)))
        .collect()
}
