//! Vectors: rule files with `tests:` that state the meaning of matching, and bad rule files with the report each must give.
//!
//! A vector needs HTTP knowledge, not Rust: add a line to `tests/vectors/*.yaml`. For a new bad file, put
//! `tests/bad/<code>--<what>.yaml` and run with `BANYAN_BLESS=1` to write its report, then read it.

#![expect(clippy::expect_used, clippy::panic, reason = "a test says what it needs by failing")]

use banyan_routes::compile::read_all;
use banyan_routes::problem::{Source, report};
use banyan_routes::rule_tests::{compile_and_test, run};
use std::fs;
use std::path::{Path, PathBuf};

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .expect("folder of vectors")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

fn source(path: &Path) -> Source {
    let name = path.file_name().expect("name").to_string_lossy().into_owned();
    Source { name, text: fs::read_to_string(path).expect("text") }
}

#[test]
fn every_vector_goes_where_it_says() {
    let mut count = 0;
    let mut failed = Vec::new();
    for path in files("vectors") {
        let sources = vec![source(&path)];
        let draw = |problems: &[_]| {
            report(&sources, problems).iter().map(|r| r.draw(&sources, false)).collect::<Vec<_>>()
        };
        let read = read_all(&sources).unwrap_or_else(|problems| panic!("{}", draw(&problems).join("\n")));
        let table = match banyan_routes::compile::compile(&read) {
            Ok((table, _)) => table,
            Err(problems) => panic!("{}", draw(&problems).join("\n")),
        };
        for result in run(&table, &read) {
            count += 1;
            failed.extend(result.problem.map(|problem| draw(&[problem]).join("")));
        }
    }
    assert!(failed.is_empty(), "{} of {count} vectors failed:\n{}", failed.len(), failed.join("\n"));
    assert!(count >= 200, "only {count} vectors ran");
}

#[test]
fn every_bad_file_gives_its_code_line_and_caret() {
    let bless = std::env::var_os("BANYAN_BLESS").is_some();
    let mut count = 0;
    let mut failed = Vec::new();
    for path in files("bad") {
        let sources = vec![source(&path)];
        let problems = match read_all(&sources).and_then(|files| compile_and_test(&files)) {
            Ok(_) => Vec::new(),
            Err(problems) => problems,
        };
        let reports = report(&sources, &problems);
        let stem = path.file_stem().expect("stem").to_string_lossy().into_owned();
        let code = stem.split("--").next().unwrap_or_default().to_owned();
        if !reports.iter().any(|report| report.code == code) {
            failed.push(format!("{stem}: no problem has the code {code}: {reports:?}"));
        }
        let drawn = reports.iter().map(|report| report.draw(&sources, false) + "\n\n").collect::<String>();
        let golden = path.with_extension("txt");
        if bless {
            fs::write(&golden, &drawn).expect("write golden");
        }
        if fs::read_to_string(&golden).unwrap_or_default() != drawn {
            failed.push(format!("{stem}: the report differs from {}:\n{drawn}", golden.display()));
        }
        count += 1;
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(count >= 40, "only {count} bad files ran");
}
