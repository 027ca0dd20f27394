//! One page that needs nothing else: styles, script and the report are in it.

use crate::testrun::score::Report;

const PAGE: &str = include_str!("page.html");

pub fn write(report: &Report) -> String {
    // In a script element only these could end it, or begin another.
    let json = serde_json::to_string(report)
        .unwrap_or_default()
        .replace('<', "\\u003c")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029");
    PAGE.replacen("\"REPORT\"", &json, 1)
}
