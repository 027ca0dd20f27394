//! Markdown, for a comment on a change. GitHub Flavored Markdown.

use crate::testrun::score::Report;
use std::fmt::Write;

const SHOWN: usize = 30;

pub fn write(report: &Report) -> String {
    let mut out = format!("# banyan compare: {}\n\n", report.verdict.as_str());
    for reason in &report.reasons {
        let _ = writeln!(out, "{}.\n", cell(reason));
    }
    let rows = [
        (
            "input",
            format!("{} ({}, {} requests)", report.input.file, report.input.format, report.input.requests),
        ),
        ("legacy", report.legacy.clone()),
        ("serverless", report.serverless.clone()),
        ("compared", format!("{} of {}", report.compared, report.requests)),
        ("differ", report.mismatched.to_string()),
        ("coverage", format!("{:.1} %", report.coverage * 100.0)),
        ("seed", report.seed.to_string()),
    ];
    out.push_str("| | |\n| --- | --- |\n");
    for (name, text) in &rows {
        let _ = writeln!(out, "| {name} | {} |", cell(text));
    }
    if !report.noise.is_empty() {
        out.push_str(
            "\n## Noise, learned from legacy beside itself\n\n| path | rule | seen |\n| --- | --- | --- |\n",
        );
        for it in &report.noise {
            let _ = writeln!(
                out,
                "| {} | {} | {} of {} |",
                code(&it.path),
                code(&it.rule),
                it.controls_differing,
                it.controls
            );
        }
    }
    if !report.differences.is_empty() {
        out.push_str("\n## Differences\n\n| count | path | kind | legacy | serverless | for example |\n| ---: | --- | --- | --- | --- | --- |\n");
        for it in report.differences.iter().take(SHOWN) {
            let example = it.examples.first().map_or("", |example| &example.request);
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} |",
                it.count,
                code(&it.path),
                it.kind,
                code(&it.legacy),
                code(&it.serverless),
                code(example)
            );
        }
        let more = report.differences.len().saturating_sub(SHOWN);
        if more > 0 {
            let _ = writeln!(out, "\nAnd {more} more kinds.");
        }
    }
    out
}

fn cell(text: &str) -> String {
    text.replace(['\n', '\r'], " ").replace('|', "\\|").replace('<', "&lt;")
}

/// In back quotes, which nothing in it can close.
fn code(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("`{}`", text.replace(['\n', '\r'], " ").replace('`', "'").replace('|', "\\|"))
    }
}
