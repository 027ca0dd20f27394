//! JUnit XML, one test case for each method and path. Source: the schema of the Jenkins xUnit plugin, junit-10.xsd.

use crate::testrun::score::{Exchange, Report};
use std::collections::BTreeMap;
use std::fmt::Write;

pub fn write(report: &Report) -> String {
    let mut cases: BTreeMap<&str, Vec<&Exchange>> = BTreeMap::new();
    for it in &report.exchanges {
        // The query belongs to the request and not to the name of its test.
        cases.entry(it.request.split('?').next().unwrap_or_default()).or_default().push(it);
    }
    let differs = |all: &[&Exchange]| all.iter().any(|it| it.verdict == "mismatch");
    let unknown =
        |all: &[&Exchange]| all.iter().all(|it| !matches!(it.verdict.as_str(), "mismatch" | "match"));
    let failures = cases.values().filter(|all| differs(all)).count();
    let skipped = cases.values().filter(|all| unknown(all)).count();
    // The claim is a test too: a run of requests without evidence has not passed.
    let claim_fails = usize::from(report.exit_code != 0);
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        out,
        "<testsuites>\n<testsuite name=\"banyan compare\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{skipped}\">",
        cases.len() + 1,
        failures + claim_fails,
    );
    let reasons = escaped(&report.reasons.join("\n"));
    let _ = match claim_fails {
        0 => writeln!(
            out,
            "<testcase classname=\"banyan.compare\" name=\"parity\"><system-out>{reasons}</system-out></testcase>"
        ),
        _ => writeln!(
            out,
            "<testcase classname=\"banyan.compare\" name=\"parity\"><failure message=\"{}\">{reasons}</failure></testcase>",
            report.verdict.as_str()
        ),
    };
    for (name, all) in &cases {
        let _ = write!(out, "<testcase classname=\"banyan.compare.requests\" name=\"{}\">", escaped(name));
        if differs(all) {
            let wrong: Vec<&&Exchange> = all.iter().filter(|it| it.verdict == "mismatch").collect();
            let text: Vec<String> =
                wrong.iter().map(|it| format!("{}: {}", it.request, it.differences.join(", "))).collect();
            let _ = write!(
                out,
                "<failure message=\"{} of {} differ\">{}</failure>",
                wrong.len(),
                all.len(),
                escaped(&text.join("\n"))
            );
        } else if unknown(all) {
            let _ =
                write!(out, "<skipped message=\"{}\"/>", escaped(all.first().map_or("", |it| &it.verdict)));
        }
        out.push_str("</testcase>\n");
    }
    if report.exchanges_left_out > 0 {
        let _ = writeln!(
            out,
            "<system-out>{} further requests are counted in `parity` and not named here</system-out>",
            report.exchanges_left_out
        );
    }
    out.push_str("</testsuite>\n</testsuites>\n");
    out
}

/// Also without the characters that XML 1.0 has no way to write.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(letter),
            it if it.is_control() || matches!(it, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            it => out.push(it),
        }
    }
    out
}
