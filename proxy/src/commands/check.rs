//! `banyan check` and `banyan test`.
//!
//! Input: a rule directory. Output: every problem, as text with carets, JSON, SARIF or GitHub annotations. Must not: need a
//! running proxy, or files that only the proxy's machine has.

use crate::commands::rules::{NoRules, Rules, load};
use crate::exit::Exit;
use crate::say;
use banyan_routes::problem::{Report, Severity, Source, report};
use banyan_routes::rule_tests;
use clap::ValueEnum;
use serde_json::json;
use std::io::IsTerminal;
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckOutput {
    Text,
    Json,
    Sarif,
    Github,
}

pub fn check(dir: &Path, deny_warnings: bool, output: CheckOutput) -> Exit {
    let (sources, problems, rules) = match load(dir) {
        Ok(rules) => {
            let mut problems = rules.warnings.clone();
            problems.extend(
                rule_tests::run(&rules.table, &rules.files).into_iter().filter_map(|result| result.problem),
            );
            (rules.sources.clone(), problems, Some(rules))
        }
        Err(NoRules::Invalid(sources, problems)) => (sources, problems, None),
        Err(NoRules::Unreadable(error)) => {
            eprintln!("banyan: {error}");
            return Exit::Usage;
        }
    };
    let reports = report(&sources, &problems);
    let errors = reports.iter().filter(|report| report.severity == Severity::Error).count();
    let warnings = reports.len() - errors;
    match output {
        CheckOutput::Text => text(&sources, &reports, rules.as_ref(), errors, warnings),
        CheckOutput::Json => {
            say!("{:#}", told(&sources, &reports, rules.as_ref()));
        }
        CheckOutput::Sarif => say!("{:#}", sarif(dir, &reports)),
        CheckOutput::Github => reports.iter().for_each(|report| say!("{}", github(dir, report))),
    }
    if errors > 0 || (deny_warnings && warnings > 0) { Exit::No } else { Exit::Ok }
}

fn told(sources: &[Source], reports: &[Report], rules: Option<&Rules>) -> serde_json::Value {
    let revision = rules.map(|rules| rules.table.revision.to_string());
    let valid = reports.iter().all(|report| report.severity != Severity::Error);
    json!({ "version": 1, "valid": valid, "files": sources.len(), "routes": rules.map(count), "revision": revision, "problems": reports })
}

/// Draws problems on stdout as a compiler would.
pub fn draw(sources: &[Source], reports: &[Report]) {
    let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    for report in reports {
        say!("{}\n", report.draw(sources, color));
    }
}

fn text(sources: &[Source], reports: &[Report], rules: Option<&Rules>, errors: usize, warnings: usize) {
    draw(sources, reports);
    match rules {
        Some(rules) if errors == 0 => {
            let tests: usize = rules.files.iter().map(|file| file.rules.tests.len()).sum();
            say!(
                "ok: {} routes in {} files, {tests} tests passed, {warnings} warnings, revision {}",
                count(rules),
                sources.len(),
                rules.table.revision
            );
        }
        _ => say!("{errors} errors, {warnings} warnings"),
    }
}

/// As written, without the default that is made of `defaults.legacy`.
fn count(rules: &Rules) -> usize {
    rules.table.routes.len() - usize::from(rules.table.has_default)
}

fn location(dir: &Path, file: &str) -> String {
    if dir.is_file() { dir.display().to_string() } else { dir.join(file).display().to_string() }
}

fn github(dir: &Path, report: &Report) -> String {
    let level = if report.severity == Severity::Error { "error" } else { "warning" };
    let place = match (&report.file, report.line, report.column) {
        (Some(file), Some(line), Some(column)) => {
            format!("file={},line={line},col={column},", location(dir, file))
        }
        _ => String::new(),
    };
    let text = report.line().replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    format!("::{level} {place}title={}::{text}", report.code)
}

fn sarif(dir: &Path, reports: &[Report]) -> serde_json::Value {
    let mut codes: Vec<&str> = reports.iter().map(|report| report.code).collect();
    codes.sort_unstable();
    codes.dedup();
    let rules: Vec<_> = codes.iter().map(|code| json!({ "id": code })).collect();
    let results: Vec<_> = reports
        .iter()
        .map(|report| {
            let mut result = json!({
                "ruleId": report.code,
                "level": if report.severity == Severity::Error { "error" } else { "warning" },
                "message": { "text": report.line() },
            });
            if let (Some(file), Some(line), Some(column)) = (&report.file, report.line, report.column) {
                result["locations"] = json!([{ "physicalLocation": {
                    "artifactLocation": { "uri": location(dir, file) },
                    "region": { "startLine": line, "startColumn": column }
                } }]);
            }
            result
        })
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{ "tool": { "driver": { "name": "banyan", "version": env!("CARGO_PKG_VERSION"), "rules": rules } }, "results": results }]
    })
}

/// Loads or reports: for commands that need valid rules. `Err` carries the exit code. With `json`, problems are told as `check` does.
pub fn load_or_report(dir: &Path, json: bool) -> Result<Rules, Exit> {
    load(dir).map_err(|no_rules| match no_rules {
        NoRules::Unreadable(error) => {
            eprintln!("banyan: {error}");
            Exit::Usage
        }
        NoRules::Invalid(sources, problems) => {
            let reports = report(&sources, &problems);
            if json {
                say!("{:#}", told(&sources, &reports, None));
            } else {
                draw(&sources, &reports);
            }
            Exit::No
        }
    })
}

/// `banyan test`: each test with its outcome.
pub fn test(dir: &Path) -> Exit {
    let rules = match load_or_report(dir, false) {
        Ok(rules) => rules,
        Err(exit) => return exit,
    };
    let results = rule_tests::run(&rules.table, &rules.files);
    let mut failed = Vec::new();
    for result in &results {
        say!("{} {}", if result.problem.is_none() { "ok  " } else { "FAIL" }, result.request);
        failed.extend(result.problem.clone());
    }
    if !failed.is_empty() {
        say!("");
        draw(&rules.sources, &report(&rules.sources, &failed));
    }
    say!("{} passed, {} failed", results.len() - failed.len(), failed.len());
    if failed.is_empty() { Exit::Ok } else { Exit::No }
}
