//! The house rules that a machine can check: headers, length, and that a file imports only from files above it.

#![expect(clippy::expect_used, reason = "a test says what it needs by failing")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 500;
const CRATES: [&str; 3] = ["routes", "proxy", "legacy-sim"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("workspace").to_owned()
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn all_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for name in CRATES {
        rust_files(&root().join(name), &mut found);
    }
    found
}

#[test]
fn every_file_opens_with_a_header_and_is_short() {
    let mut wrong = Vec::new();
    for path in all_files() {
        let text = fs::read_to_string(&path).expect("text");
        if !text.starts_with("//!") {
            wrong.push(format!("{}: no //! header", path.display()));
        }
        let lines = text.lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("{}: {lines} lines", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The modules of a crate in the order of its `lib.rs`.
fn modules(lib: &Path) -> Vec<String> {
    let text = fs::read_to_string(lib).expect("lib.rs");
    let names = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';').map(str::to_owned));
    names.collect()
}

/// The top-level modules a file names by `crate::`.
fn imports(text: &str) -> BTreeSet<String> {
    let names = text.split("crate::").skip(1);
    names
        .map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .filter(|name: &String| !name.is_empty())
        .collect()
}

#[test]
fn a_file_imports_only_from_files_above_it() {
    let mut wrong = Vec::new();
    for name in CRATES {
        let src = root().join(name).join("src");
        let order = modules(&src.join("lib.rs"));
        let mut files = Vec::new();
        rust_files(&src, &mut files);
        for path in files {
            let relative = path.strip_prefix(&src).expect("inside");
            let first =
                relative.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
            let own = first.trim_end_matches(".rs").to_owned();
            let Some(position) = order.iter().position(|module| *module == own) else { continue };
            for import in imports(&fs::read_to_string(&path).expect("text")) {
                let at = order.iter().position(|module| *module == import);
                if at.is_some_and(|at| at > position) {
                    wrong.push(format!(
                        "{}: imports `{import}`, which stands below it in lib.rs",
                        path.display()
                    ));
                }
            }
        }
        assert!(order.len() > 5, "{name}: the list of modules was not found");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_path_of_a_machine_and_no_unfinished_mark_is_committed() {
    let marks = ["todo!(", "unimplemented!(", "FIXME", "XXX", "#[ignore"];
    let mut wrong = Vec::new();
    for path in all_files().into_iter().filter(|path| !path.ends_with("tidy.rs")) {
        let text = fs::read_to_string(&path).expect("text");
        wrong.extend(
            marks
                .iter()
                .filter(|mark| text.contains(**mark))
                .map(|mark| format!("{}: {mark}", path.display())),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
