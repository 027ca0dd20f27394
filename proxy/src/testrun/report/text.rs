//! For a terminal.

use crate::testrun::score::Report;
use std::fmt::Write;

/// Differences shown; the files have them all.
const SHOWN: usize = 20;

pub fn write(report: &Report) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<12} {text}");
    };
    line("verdict", report.verdict.as_str().into());
    report.reasons.iter().for_each(|reason| line("", reason.clone()));
    line(
        "input",
        format!("{} ({}, {} requests)", report.input.file, report.input.format, report.input.requests),
    );
    report.input.left_out.iter().for_each(|(why, count)| line("left out", format!("{count}: {why}")));
    line("legacy", report.legacy.clone());
    line("serverless", report.serverless.clone());
    line(
        "compared",
        format!(
            "{} of {}: {} equal, {} differ",
            report.compared, report.requests, report.matched, report.mismatched
        ),
    );
    report.skipped.iter().for_each(|(why, count)| line("skipped", format!("{count}: {why}")));
    report.inconclusive.iter().for_each(|(why, count)| line("inconclusive", format!("{count}: {why}")));
    report.unanswered.iter().for_each(|(side, count)| line("unanswered", format!("{count} by {side}")));
    for (name, times) in &report.latency {
        if let Some(it) = times {
            let bounds = it
                .ratio_low
                .zip(it.ratio_high)
                .map_or(String::new(), |(low, high)| format!(" ({low:.2} to {high:.2})"));
            let (legacy, serverless) = (it.legacy_seconds * 1e3, it.serverless_seconds * 1e3);
            line(
                name,
                format!(
                    "{legacy:.1} ms legacy, {serverless:.1} ms serverless, ratio {:.2}{bounds}",
                    it.ratio
                ),
            );
        }
    }
    for it in &report.noise {
        line(
            "noise",
            format!(
                "{}: {} (legacy differs from itself in {} of {})",
                it.path, it.rule, it.controls_differing, it.controls
            ),
        );
    }
    for it in report.differences.iter().take(SHOWN) {
        line(
            "differs",
            format!("{} x {} {}: {} -> {}", it.count, it.path, it.kind, it.legacy, it.serverless),
        );
    }
    let more = report.differences.len().saturating_sub(SHOWN);
    if more > 0 {
        line("", format!("and {more} more kinds"));
    }
    out
}
