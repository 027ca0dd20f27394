//! YAML text -> `RuleFile`, or every problem of its shape at once.
//!
//! The good case is one typed pass. Only when that fails is the text read again as a tree: what an error points at is
//! reported, cut out of the tree, and the rest is tried again, so that a reader sees all mistakes and not the first.
//! Must not: judge meaning.

use crate::file::{Egress, Freeze, Route, RuleFile, Test};
use crate::items::{Cut, cut};
use crate::locate::KEY;
use crate::problem::{Place, Problem};
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use serde_yaml::Value;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

/// Problems reported per file; a file with more is a file of another kind.
const PROBLEMS_MAX: usize = 100;

/// Reads one file; `file` is its number in the rule set.
pub fn read(file: usize, text: &str) -> Result<RuleFile, Vec<Problem>> {
    match serde_yaml::from_str::<RuleFile>(text) {
        Ok(rules) if rules.version == 1 => Ok(rules),
        Ok(rules) => Err(vec![
            Problem::error(
                "version_unsupported",
                Place::field(file, "version"),
                format!("version {} is not known", rules.version),
            )
            .expected("version: 1"),
        ]),
        Err(error) => Err(explain(file, text, &error)),
    }
}

/// Routes that were read before, by the text of their item; per file, so that a file that did not change keeps its own.
#[derive(Default)]
pub struct ReadCache {
    files: HashMap<String, HashMap<u128, Arc<Route>>>,
}

/// A file of which more than this many in a hundred items are new is read whole: that is faster than item by item.
const FRESH_PERCENT_MAX: usize = 10;

impl ReadCache {
    /// The same as [`read`], at the cost of what changed since the last time.
    pub fn read(&mut self, file: usize, name: &str, text: &str) -> Result<RuleFile, Vec<Problem>> {
        let Some(cut) = cut(text) else { return read(file, text) };
        let keys: Vec<u128> = cut.items.iter().map(|item| xxh3_128(item.as_bytes())).collect();
        let known = self.files.entry(name.to_owned()).or_default();
        let fresh = keys.iter().filter(|key| !known.contains_key(key)).count();
        let quick = fresh * 100 <= keys.len() * FRESH_PERCENT_MAX;
        let parts = if quick { assemble(&cut, &keys, known) } else { halves(&cut) };
        let rules = match parts {
            Some(rules) => rules,
            None => read(file, text)?,
        };
        // Every real item begins where a text was cut; equal counts mean that there were no other cuts.
        if rules.routes.len() == keys.len() {
            *known = keys.into_iter().zip(rules.routes.iter().cloned()).collect();
        }
        Ok(rules)
    }
}

/// One route of a text that has been read before: where it is thought to stand, or wherever its id is.
pub fn item(text: &str, position: usize, id: &str) -> Option<Arc<Route>> {
    let there =
        cut(text).and_then(|cut| serde_yaml::from_str::<Vec<Arc<Route>>>(cut.items.get(position)?).ok());
    let there = there.into_iter().flatten().find(|route| route.id == id);
    there.or_else(|| read(0, text).ok()?.routes.into_iter().find(|route| route.id == id))
}

/// Items from which reading on two threads pays for starting one.
const HALVES_MIN: usize = 1_000;

/// The file with its items read on two threads: a large file that is new, in half the time. `None` when anything does not fit.
fn halves(cut: &Cut<'_>) -> Option<RuleFile> {
    if cut.items.len() < HALVES_MIN {
        return None;
    }
    let (front, back) = cut.items.split_at(cut.items.len() / 2);
    // A run of items is a list by itself: they stand at one column.
    let list = |items: &[&str]| {
        let routes = serde_yaml::from_str::<Vec<Arc<Route>>>(&items.concat()).ok();
        routes.filter(|routes| routes.len() == items.len())
    };
    let (front, back) = std::thread::scope(|scope| {
        let back = scope.spawn(|| list(back));
        (list(front), back.join().ok().flatten())
    });
    let mut rules = serde_yaml::from_str::<RuleFile>(&cut.rest).ok().filter(|rules| rules.version == 1)?;
    rules.routes = front?;
    rules.routes.extend(back?);
    Some(rules)
}

/// The file from known items and the few new ones; `None` as soon as anything does not fit.
fn assemble(cut: &Cut<'_>, keys: &[u128], known: &HashMap<u128, Arc<Route>>) -> Option<RuleFile> {
    let mut rules = serde_yaml::from_str::<RuleFile>(&cut.rest).ok().filter(|rules| rules.version == 1)?;
    let route = |(item, key): (&&str, &u128)| match known.get(key) {
        Some(route) => Some(route.clone()),
        None => serde_yaml::from_str::<Vec<Arc<Route>>>(item).ok().filter(|routes| routes.len() == 1)?.pop(),
    };
    rules.routes = cut.items.iter().zip(keys).map(route).collect::<Option<_>>()?;
    Some(rules)
}

/// All shape problems of a text that did not pass.
fn explain(file: usize, text: &str, first: &serde_yaml::Error) -> Vec<Problem> {
    let mut tree = match serde_yaml::from_str::<Value>(text) {
        Ok(Value::Mapping(tree)) => tree,
        Ok(Value::Null) => {
            let place = Place::At { file, line: 1, column: 1 };
            return vec![
                Problem::error("file_empty", place, "the file holds nothing")
                    .expected("version: 1 and routes"),
            ];
        }
        Ok(_) => {
            let place = Place::At { file, line: 1, column: 1 };
            return vec![
                Problem::error("type_mismatch", place, "the file is not a map")
                    .expected("version: 1 and routes"),
            ];
        }
        Err(error) => return vec![syntax(file, &error)],
    };
    let mut problems = Vec::new();
    each::<Route>(file, &mut tree, "routes", &mut problems);
    each::<Freeze>(file, &mut tree, "freezes", &mut problems);
    each::<Test>(file, &mut tree, "tests", &mut problems);
    each::<Egress>(file, &mut tree, "egress", &mut problems);
    let mut rest =
        Pruner { file, base: String::new(), route: None, removed: HashMap::new(), pruned: HashSet::new() };
    rest.run::<RuleFile>(Value::Mapping(tree), &mut problems);
    if problems.is_empty() {
        problems.push(syntax(file, first));
    }
    problems.truncate(PROBLEMS_MAX);
    problems
}

/// Takes the list `name` out of the tree and tries each of its items alone.
fn each<T: DeserializeOwned>(
    file: usize,
    tree: &mut serde_yaml::Mapping,
    name: &str,
    problems: &mut Vec<Problem>,
) {
    let Some(Value::Sequence(items)) = tree.get_mut(name) else { return };
    for (index, item) in std::mem::take(items).into_iter().enumerate() {
        let route = item.get("id").and_then(Value::as_str).filter(|_| name == "routes").map(str::to_owned);
        let base = format!("{name}[{index}]");
        let mut pruner = Pruner { file, base, route, removed: HashMap::new(), pruned: HashSet::new() };
        pruner.run::<T>(item, problems);
        if problems.len() >= PROBLEMS_MAX {
            return;
        }
    }
}

/// Cuts bad parts out of one tree until the rest passes.
struct Pruner {
    file: usize,
    base: String,
    route: Option<String>,
    /// Per list path, the original indices already cut out, so that later paths can be counted back.
    removed: HashMap<String, Vec<usize>>,
    pruned: HashSet<String>,
}

impl Pruner {
    fn run<T: DeserializeOwned>(&mut self, mut tree: Value, problems: &mut Vec<Problem>) {
        while problems.len() < PROBLEMS_MAX {
            let Err(error) = serde_path_to_error::deserialize::<_, T>(tree.clone()) else { return };
            let segments: Vec<Segment> = error.path().iter().cloned().collect();
            let path = self.original(&segments);
            let message = plain(&error.inner().to_string());
            let missing = quoted(&message).filter(|_| message.starts_with("missing field"));
            // A field that is missing because it was cut out has been reported already.
            let known = missing.as_ref().is_some_and(|field| self.pruned.contains(&join(&path, field)));
            if !known {
                let mut problem = problem(self.file, &path, &message);
                problem.route = self.route.clone();
                problems.push(problem);
            }
            self.pruned.insert(path);
            if segments.is_empty() || !self.cut(&mut tree, &segments) {
                return;
            }
        }
    }

    /// The path as written in the file: indices counted as if nothing had been cut out.
    fn original(&self, segments: &[Segment]) -> String {
        let mut path = self.base.clone();
        for segment in segments {
            match segment {
                Segment::Seq { index } => {
                    let mut index = *index;
                    for removed in self.removed.get(&path).into_iter().flatten() {
                        index += usize::from(*removed <= index);
                    }
                    path = format!("{path}[{index}]");
                }
                Segment::Map { key } => path = join(&path, key),
                Segment::Enum { variant } => path = join(&path, variant),
                Segment::Unknown => {}
            }
        }
        path
    }

    fn cut(&mut self, tree: &mut Value, segments: &[Segment]) -> bool {
        let Some((last, parents)) = segments.split_last() else { return false };
        let list = self.original(parents);
        let mut node = tree;
        for segment in parents {
            let next = match segment {
                Segment::Seq { index } => node.get_mut(*index),
                Segment::Map { key } => node.get_mut(key.as_str()),
                Segment::Enum { .. } | Segment::Unknown => None,
            };
            let Some(next) = next else { return false };
            node = next;
        }
        match (last, node) {
            (Segment::Map { key }, Value::Mapping(map)) => map.remove(key.as_str()).is_some(),
            (Segment::Seq { index }, Value::Sequence(items)) if *index < items.len() => {
                items.remove(*index);
                let removed = self.removed.entry(list).or_default();
                let mut original = *index;
                removed.iter().for_each(|earlier| original += usize::from(*earlier <= original));
                removed.push(original);
                removed.sort_unstable();
                true
            }
            _ => false,
        }
    }
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

/// The first word in back quotes or double quotes.
fn quoted(message: &str) -> Option<String> {
    message.split(['`', '"']).nth(1).map(str::to_owned)
}

/// The message without serde_yaml's own position, which counts in the tree and not in the file.
fn plain(message: &str) -> String {
    let end = message.rfind(" at line ").unwrap_or(message.len());
    message[..end].to_owned()
}

/// A serde message as a problem: its code, and its "expected" part apart.
fn problem(file: usize, path: &str, message: &str) -> Problem {
    let code = match message {
        _ if message.starts_with("unknown field") => "unknown_field",
        _ if message.starts_with("missing field") => "field_missing",
        _ if message.starts_with("unknown variant") => "unknown_word",
        _ if message.starts_with("duplicate") => "duplicate_key",
        _ if message.starts_with("invalid type") => "type_mismatch",
        _ => "value_invalid",
    };
    let (text, expected) =
        match message.split_once("; expected ").or_else(|| message.split_once(", expected ")) {
            Some((text, expected)) => (text, Some(expected)),
            None => (message, None),
        };
    let place = match code {
        "unknown_field" => Place::field(file, format!("{path}{KEY}")),
        "duplicate_key" => Place::field(
            file,
            quoted(message).map_or(path.to_owned(), |key| format!("{}{KEY}", join(path, &key))),
        ),
        _ => Place::field(file, path),
    };
    let mut problem = Problem::error(code, place, text);
    problem.expected = expected.map(str::to_owned);
    problem
}

/// A text that is no YAML tree at all, at the place the scanner names.
fn syntax(file: usize, error: &serde_yaml::Error) -> Problem {
    let message = plain(&error.to_string());
    let code = if message.contains("duplicate entry") { "duplicate_key" } else { "yaml_syntax" };
    let place = match error.location() {
        Some(at) => Place::At { file, line: at.line(), column: at.column() },
        None => Place::At { file, line: 1, column: 1 },
    };
    Problem::error(code, place, message)
}
