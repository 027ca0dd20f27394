//! The rules' own `tests:`: requests and where they must go, run by `banyan check`, `banyan test` and before every reload.
//!
//! Input: a compiled table and the files it came from. Output: a result per test. Must not: depend on state; shares and
//! kills are as the rules alone say.

use crate::compile::ReadFile;
use crate::decide::Conditions;
use crate::explain::{losers, outcome};
use crate::file::Test;
use crate::problem::{Place, Problem};
use crate::request_line::OwnedRequest;
use crate::table::{Route, RouteTable};

/// One test that ran.
#[derive(Clone, Debug)]
pub struct TestResult {
    pub request: String,
    /// `None`: passed.
    pub problem: Option<Problem>,
}

/// What the rules alone say: nothing killed, the stage's own share, everything healthy.
pub fn rules_alone(_: u32, route: &Route) -> Conditions {
    Conditions {
        killed: false,
        share: route.stage.share(),
        rolled_back: false,
        override_side: None,
        serverless_available: true,
    }
}

/// Runs every test of every file.
pub fn run(table: &RouteTable, files: &[ReadFile]) -> Vec<TestResult> {
    let mut results = Vec::new();
    for (file, read) in files.iter().enumerate() {
        for (number, test) in read.rules.tests.iter().enumerate() {
            let problem = fails(table, test).map(|(field, text, expected)| {
                let place = Place::field(file, format!("tests[{number}].{field}"));
                Problem::error("test_failed", place, format!("{}: {text}", test.request)).expected(expected)
            });
            results.push(TestResult { request: test.request.clone(), problem });
        }
    }
    results
}

/// Which field of the test fails, what came out, and what was expected.
fn fails(table: &RouteTable, test: &Test) -> Option<(&'static str, String, String)> {
    let mut request = match OwnedRequest::parse(&test.request) {
        Ok(request) => request,
        Err(problem) => return Some(("request", problem, "a method and an absolute URL".into())),
    };
    for (name, value) in test.headers.iter() {
        if let Err(problem) = request.header(name, value) {
            return Some(("headers", problem, "a header".into()));
        }
    }
    request.listener = test.listener.clone().unwrap_or_default();
    let told = outcome(table, &request, rules_alone);
    let route = told.route.as_deref().unwrap_or("none");
    if let Some(expected) = test.route.as_deref()
        && expected != route
    {
        let lost = losers(table, &request, Some(route)).into_iter().find(|lost| lost.route == expected);
        let why = lost.map(|lost| format!(" (`{expected}`: {})", lost.why));
        return Some((
            "route",
            format!("goes to `{route}`{}", why.unwrap_or_default()),
            format!("`{expected}`"),
        ));
    }
    if let Some(expected) = test.side
        && told.side != Some(expected)
    {
        let side = told.side.map_or("no side".to_owned(), |side| side.to_string());
        return Some(("side", format!("is answered by {side}"), expected.to_string()));
    }
    if let Some(expected) = test.status
        && told.status != Some(expected)
    {
        let status =
            told.status.map_or("a backend answers".to_owned(), |status| format!("is answered {status}"));
        return Some(("status", status, expected.to_string()));
    }
    if let Some(expected) = &test.path_sent
        && told.path_sent.as_ref() != Some(expected)
    {
        let sent = told.path_sent.unwrap_or_else(|| "nothing".into());
        return Some(("path_sent", format!("sends `{sent}`"), format!("`{expected}`")));
    }
    None
}

/// Compiles, then runs the tests: what `check`, `run` and every reload ask for.
pub fn compile_and_test(files: &[ReadFile]) -> Result<(RouteTable, Vec<Problem>), Vec<Problem>> {
    let (table, warnings) = crate::compile::compile(files)?;
    let failed: Vec<Problem> = run(&table, files).into_iter().filter_map(|result| result.problem).collect();
    if failed.is_empty() { Ok((table, warnings)) } else { Err([failed, warnings].concat()) }
}
