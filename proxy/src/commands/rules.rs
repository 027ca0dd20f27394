//! Reading rules for a command: what every offline command starts with.
//!
//! Input: a directory or file. Output: sources, and the compiled table or its problems. Must not: print.

use crate::rule_dir;
use banyan_routes::compile::{ReadFile, compile, read_all};
use banyan_routes::problem::{Place, Problem, Source};
use banyan_routes::table::RouteTable;
use std::path::Path;

/// A rule set that compiled.
pub struct Rules {
    pub sources: Vec<Source>,
    pub files: Vec<ReadFile>,
    pub table: RouteTable,
    pub warnings: Vec<Problem>,
}

/// Why there is none.
pub enum NoRules {
    /// The directory cannot be read.
    Unreadable(String),
    Invalid(Vec<Source>, Vec<Problem>),
}

pub fn load(dir: &Path) -> Result<Rules, NoRules> {
    let sources = rule_dir::sources(dir).map_err(|error| {
        if !dir.exists() {
            return NoRules::Unreadable(error.to_string());
        }
        let problem = Problem::error("rules_unreadable", Place::Nowhere, error.to_string());
        NoRules::Invalid(Vec::new(), vec![problem.expected("files that can be read as UTF-8")])
    })?;
    let compiled = read_all(&sources)
        .and_then(|files| compile(&files).map(|(table, warnings)| (files, table, warnings)));
    match compiled {
        Ok((files, table, warnings)) => Ok(Rules { sources, files, table, warnings }),
        Err(problems) => Err(NoRules::Invalid(sources, problems)),
    }
}
