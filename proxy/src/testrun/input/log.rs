//! Access logs: common and combined, as nginx and Apache write them, and Banyan's own JSON lines.
//!
//! Input: text. Output: its GET and HEAD requests: a log holds no bodies, so nothing else can be asked again. Must not: stop at a line
//! that is none; it is counted.

use crate::testrun::record::Recorded;
use regex::Regex;
use serde_json::Value;
use std::sync::LazyLock;

#[expect(clippy::unwrap_used, reason = "the pattern is a constant, and a test reads lines by it")]
static LINE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"^(\S+) \S+ \S+ \[([^\]]+)\] "([A-Z]+) (\S+)[^"]*" (\d{3}) \S+(?: "[^"]*" "([^"]*)")?"#)
        .unwrap()
});

pub fn read(text: &str, skip: &mut impl FnMut(&'static str)) -> Vec<Recorded> {
    let mut requests = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let read = if line.starts_with('{') { own(line) } else { combined(line) };
        match read {
            Some(recorded) if matches!(recorded.method.as_str(), "GET" | "HEAD") => requests.push(recorded),
            Some(_) => skip("not GET or HEAD"),
            None => skip("not a line of an access log"),
        }
    }
    requests
}

fn combined(line: &str) -> Option<Recorded> {
    let parts = LINE.captures(line)?;
    let mut recorded = Recorded::new(&parts[3], &parts[4].replace("\\\"", "\"")).ok()?;
    let at = jiff::fmt::strtime::parse("%d/%b/%Y:%H:%M:%S %z", &parts[2])
        .ok()
        .and_then(|it| it.to_timestamp().ok());
    recorded.at_ms = at.map(|at| at.as_millisecond().max(0) as u64);
    recorded.session = Some(parts[1].to_owned());
    if let Some(agent) = parts.get(6).filter(|agent| agent.as_str() != "-") {
        recorded.header("user-agent", agent.as_str());
    }
    Some(recorded)
}

fn own(line: &str) -> Option<Recorded> {
    let value: Value = serde_json::from_str(line).ok()?;
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    // Queries are redacted there unless they were asked for.
    let path = text("url.path")?;
    let target = text("url.query")
        .filter(|query| !query.is_empty())
        .map_or(path.to_owned(), |query| format!("{path}?{query}"));
    let mut recorded = Recorded::new(text("http.request.method")?, &target).ok()?;
    recorded.session = text("client.address").map(str::to_owned);
    recorded.at_ms = value.get("time").and_then(Value::as_f64).map(|at| (at * 1e3) as u64);
    Some(recorded)
}
