//! What the schema knows and the running proxy does not do yet. A rule set that asks for one of these is refused by `run`;
//! ignoring it would be a promise broken in silence.
//!
//! Input: compiled table and files. Output: problems with the code `not_supported_yet`. Must not: outlive its entries: each
//! goes away with the change that brings its engine.

use crate::compile::ReadFile;
use crate::file;
use crate::locate::KEY;
use crate::problem::{Place, Problem};

/// One problem for every use of something that has no engine yet.
pub fn unsupported(files: &[ReadFile]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (number, read) in files.iter().enumerate() {
        let mut found = Found { file: number, problems: &mut problems };
        read.rules.backends.iter().for_each(|(name, backend)| found.backend(name, backend));
    }
    problems
}

struct Found<'a> {
    file: usize,
    problems: &'a mut Vec<Problem>,
}

impl Found<'_> {
    fn add(&mut self, path: String, what: &str) {
        let text = format!("{what}: not supported yet by this version's proxy");
        self.problems.push(Problem::error("not_supported_yet", Place::field(self.file, path), text));
    }

    fn backend(&mut self, name: &str, backend: &file::Backend) {
        let fields = [(backend.connections.is_some(), "connections", "a cap on connections and its queue")];
        for (used, field, what) in fields {
            if used {
                self.add(format!("backends.{name}.{field}{KEY}"), what);
            }
        }
    }
}
