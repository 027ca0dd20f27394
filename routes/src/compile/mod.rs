//! Rule files -> `RouteTable`, or all problems at once.
//!
//! Input: the texts of a rule directory. Output: the compiled table, with warnings; or every error there is. Must not:
//! let a table exist that has an error in it (law 2), read files, or stop at the first problem.

mod answers;
mod backends;
mod breakers;
mod egress;
mod matches;
mod policy;
mod routes;
mod serverless;

use crate::backend::{Backend, HostMode, Target};
use crate::egress::EgressRule;
use crate::file::{self, Connections, Defaults, Priority, RuleFile};
use crate::guard::Guard;
use crate::ids::{DEFAULT_ROUTE, Revision, Side, valid_name};
use crate::lookup::{ById, Entry, Index};
use crate::overlap;
use crate::problem::{Place, Problem, Source, any_error};
use crate::read::{item, read};
use crate::table::{Action, Cohort, Freeze, Policy, RequireRule, Route, RouteTable};
use crate::terms::KeySource;
use http::Method;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Routes beyond which files are kept without their parsed routes: those take 700 bytes each, half of all that a route costs. A reload then reads all
/// of them again, which takes a second for 100,000, off the workers.
pub const PARSED_MAX: usize = 20_000;

/// A file that was read, kept with the text it came from so that a reload reads only what changed.
#[derive(Clone, Debug)]
pub struct ReadFile {
    pub source: Source,
    pub rules: Arc<RuleFile>,
    /// Of one that has been compiled and is kept without its text and its routes: the hash of the text. It has to be read again before it can be
    /// compiled once more.
    pub lean: Option<u64>,
    /// The hash of each route's meaning, in the order of `rules.routes`; computed once per item, not once per reload.
    hashes: Arc<[u64]>,
}

impl ReadFile {
    pub fn new(source: Source, rules: RuleFile) -> ReadFile {
        let hashes = rules.routes.iter().map(|route| meaning("route", &**route)).collect();
        ReadFile { source, rules: Arc::new(rules), lean: None, hashes }
    }

    /// Gives up what takes much room.
    pub fn lighten(&mut self) {
        let mut rules = RuleFile::clone(&self.rules);
        rules.routes = Vec::new();
        let text = std::mem::take(&mut self.source.text);
        (self.rules, self.hashes, self.lean) =
            (Arc::new(rules), Arc::default(), Some(xxh3_64(text.as_bytes())));
    }

    /// The route `id` as it was written, at its position in `routes`. `text` gives a file's text again; `None` when it has changed.
    pub fn route(
        &self,
        position: usize,
        id: &str,
        text: impl FnOnce(&str) -> Option<String>,
    ) -> Option<Arc<file::Route>> {
        let Some(hash) = self.lean else { return self.rules.routes.get(position).cloned() };
        let text = text(&self.source.name).filter(|text| xxh3_64(text.as_bytes()) == hash)?;
        item(&text, position, id)
    }

    /// A later version of `before`: items that were carried over keep their hash.
    pub fn again(source: Source, rules: RuleFile, before: Option<&ReadFile>) -> ReadFile {
        let Some(before) = before else { return ReadFile::new(source, rules) };
        let pointers = before.rules.routes.iter().map(Arc::as_ptr);
        let known: HashMap<*const file::Route, u64> = pointers.zip(before.hashes.iter().copied()).collect();
        let hash = |route: &Arc<file::Route>| {
            known.get(&Arc::as_ptr(route)).copied().unwrap_or_else(|| meaning("route", &**route))
        };
        let hashes = rules.routes.iter().map(hash).collect();
        ReadFile { source, rules: Arc::new(rules), lean: None, hashes }
    }
}

/// Reads every source. All files are tried, so that problems of all of them are seen.
pub fn read_all(sources: &[Source]) -> Result<Vec<ReadFile>, Vec<Problem>> {
    let mut files = Vec::with_capacity(sources.len());
    let mut problems = Vec::new();
    for (number, source) in sources.iter().enumerate() {
        match read(number, &source.text) {
            Ok(rules) => files.push(ReadFile::new(source.clone(), rules)),
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() { Ok(files) } else { Err(problems) }
}

/// Reads and compiles.
pub fn compile_sources(sources: &[Source]) -> Result<(RouteTable, Vec<Problem>), Vec<Problem>> {
    compile(&read_all(sources)?)
}

/// Compiles files that were read; warnings come with the table.
pub fn compile(files: &[ReadFile]) -> Result<(RouteTable, Vec<Problem>), Vec<Problem>> {
    let mut lowering = Lowering::default();
    let defaults = lowering.defaults(files);
    lowering.backends(files);
    lowering.cohorts(files);
    lowering.freezes(files);
    lowering.base = Arc::new(lowering.base_policy(defaults.as_ref()));
    lowering.route_ids(files);
    for (number, file) in files.iter().enumerate() {
        for (position, route) in file.rules.routes.iter().enumerate() {
            lowering.route(number, position, route);
        }
    }
    lowering.egress_rules(files);
    let has_default = lowering.default_route(defaults.as_ref());
    lowering.finish(files, has_default)
}

/// Everything built so far, and every problem found so far.
#[derive(Default)]
struct Lowering {
    problems: Vec<Problem>,
    backends: Vec<Backend>,
    backend_ids: HashMap<Box<str>, u32>,
    cohorts: Vec<Cohort>,
    cohort_ids: HashMap<Box<str>, u32>,
    groups: Vec<Box<str>>,
    base: Arc<Policy>,
    routes: Vec<Route>,
    egress: Vec<EgressRule>,
    /// Budgets of connections by their names, as they are first met.
    pools: HashMap<String, Connections>,
    /// Ids of all routes of all files, with their place: for duplicates and `after`.
    route_ids: HashMap<String, (usize, usize)>,
}

impl Lowering {
    fn error(
        &mut self,
        code: &'static str,
        file: usize,
        path: impl fmt::Display,
        text: impl Into<String>,
        expected: &str,
    ) {
        let problem = Problem::error(code, Place::field(file, path.to_string()), text);
        self.problems.push(if expected.is_empty() { problem } else { problem.expected(expected) });
    }

    /// The `defaults` of the one file that has them.
    fn defaults(&mut self, files: &[ReadFile]) -> Option<(usize, Defaults)> {
        let mut found: Option<(usize, Defaults)> = None;
        for (number, file) in files.iter().enumerate() {
            let Some(defaults) = &file.rules.defaults else { continue };
            if let Some((first, _)) = &found {
                let text = format!("`defaults` stand in {} already", files[*first].source.name);
                self.error(
                    "defaults_duplicate",
                    number,
                    "defaults",
                    text,
                    "one `defaults` in the whole directory",
                );
            } else {
                found = Some((number, defaults.clone()));
            }
        }
        found
    }

    fn name(&mut self, what: &str, file: usize, path: fmt::Arguments<'_>, name: &str) {
        if !valid_name(name) {
            let text = format!("`{name}` cannot name a {what}");
            self.error(
                "name_invalid",
                file,
                path,
                text,
                "1 to 64 of a-z, A-Z, 0-9, `-`, `_`, `.`, starting with a letter or digit",
            );
        }
    }

    fn route_ids(&mut self, files: &[ReadFile]) {
        for (number, file) in files.iter().enumerate() {
            for (position, route) in file.rules.routes.iter().enumerate() {
                let path = format_args!("routes[{position}].id");
                self.name("route", number, path, &route.id);
                if route.id == DEFAULT_ROUTE {
                    self.error(
                        "id_reserved",
                        number,
                        path,
                        "`default` is the route of what nothing claims",
                        "another id",
                    );
                }
                if route.id == "none" || route.id == "all" {
                    let text = format!(
                        "`{}` is also a word of commands and tests, which would not mean this route",
                        route.id
                    );
                    self.problems.push(
                        Problem::warning("id_ambiguous", Place::field(number, path.to_string()), text)
                            .route(&route.id),
                    );
                }
                if let Some((first, at)) = self.route_ids.insert(route.id.clone(), (number, position)) {
                    let line = crate::locate::locate(&files[first].source.text)
                        .nearest(&format!("routes[{at}].id"))
                        .line;
                    let text =
                        format!("the id `{}` is taken by {}:{line}", route.id, files[first].source.name);
                    self.error("id_duplicate", number, path, text, "an id of its own");
                }
            }
        }
    }

    /// The route for what nothing claims: the last in the table, in no index.
    fn default_route(&mut self, defaults: Option<&(usize, Defaults)>) -> bool {
        let Some((file, Defaults { legacy: Some(name), .. })) = defaults else { return false };
        let Some(backend) = self.backend_ids.get(name.as_str()).copied() else {
            self.error(
                "backend_unknown",
                *file,
                "defaults.legacy",
                format!("no backend is called `{name}`"),
                "a name under `backends`",
            );
            return false;
        };
        let cohort = self.own_cohort(DEFAULT_ROUTE);
        self.routes.push(Route {
            id: DEFAULT_ROUTE.into(),
            owner: None,
            group: None,
            matches: Box::default(),
            action: crate::table::Action::Forward,
            stage: crate::table::Stage::Legacy,
            cohort,
            backends: [Some(backend), None],
            whole_body: self.backends[backend as usize].needs_whole_body(),
            effects: None,
            policy: self.base.clone(),
            shadow: None,
            ramp: None,
            limit: None,
            require: None,
            wants_claims: false,
            priority: Priority::Normal,
            point_of_no_return: false,
            quiet_for: None,
            after: Box::default(),
            origin: (*file as u32, u32::MAX),
        });
        true
    }

    fn finish(
        mut self,
        files: &[ReadFile],
        has_default: bool,
    ) -> Result<(RouteTable, Vec<Problem>), Vec<Problem>> {
        if any_error(&self.problems) {
            return Err(self.problems);
        }
        // The hosts by which the two sides of a comparison may call themselves.
        for route in &mut self.routes {
            let backends = Side::ALL.map(|side| route.backend(side));
            let Some(shadow) = &mut route.shadow else { continue };
            for backend in backends.into_iter().flatten().map(|at| &self.backends[at as usize]) {
                if let Target::Urls(origins) = &backend.target {
                    origins.iter().for_each(|origin| shadow.rules.own(&origin.authority()));
                }
                if let HostMode::Literal(name) = &backend.host {
                    shadow.rules.own(name);
                }
            }
        }
        for route in &mut self.routes {
            let jwt = |source: &KeySource| matches!(source, KeySource::Jwt(_));
            let cohort = &self.cohorts[route.cohort as usize];
            let conditions = cohort.allow.iter().chain(&cohort.deny);
            route.wants_claims = route.require.as_ref().is_some_and(|rule| rule.jwt.is_some())
                || route.limit.as_ref().is_some_and(|limit| jwt(&limit.key))
                || cohort.keys.iter().any(jwt)
                || conditions.into_iter().any(|condition| jwt(&condition.source));
        }
        let table = {
            let routes = &self.routes;
            let entries = routes.iter().enumerate().flat_map(|(number, route)| {
                (0..route.matches.len()).map(move |at| Entry { route: number as u32, alternative: at as u16 })
            });
            let index = Index::build(entries, |entry| {
                &routes[entry.route as usize].matches[usize::from(entry.alternative)]
            });
            let guards = guards(routes);
            let matchers = routes.iter().zip(&guards);
            let matchers = matchers.flat_map(|(route, guard)| route.matches.iter().map(|it| (*guard, it)));
            let guard = guards.iter().any(|guard| *guard > 0).then(|| Box::new(Guard::build(matchers)));
            RouteTable {
                revision: revision(files),
                guard,
                guards,
                any_normalise: routes.iter().any(|route| route.policy.normalise),
                named_methods: named_methods(routes),
                by_id: ById::build(routes.len(), |at| &*routes[at as usize].id),
                has_default,
                index,
                routes: self.routes,
                backends: self.backends,
                cohorts: self.cohorts,
                groups: self.groups,
                freezes: freezes(files),
                egress: self.egress,
            }
        };
        self.problems.extend(overlap::check(&table));
        if any_error(&self.problems) { Err(self.problems) } else { Ok((table, self.problems)) }
    }
}

fn freezes(files: &[ReadFile]) -> Vec<Freeze> {
    let all = files.iter().flat_map(|file| &file.rules.freezes);
    all.map(|it| Freeze {
        name: it.name.as_str().into(),
        from: it.from,
        to: it.to,
        zone: it.zone.as_str().into(),
    })
    .collect()
}

/// Over the meaning, not the text: comments, order of routes and division into files do not change it; tests do not either.
fn revision(files: &[ReadFile]) -> Revision {
    let mut parts: Vec<u64> = Vec::new();
    for ReadFile { rules, hashes, .. } in files {
        parts.extend_from_slice(hashes);
        parts.extend(rules.backends.iter().map(|backend| meaning("backend", &backend)));
        parts.extend(rules.cohorts.iter().map(|cohort| meaning("cohort", &cohort)));
        parts.extend(rules.freezes.iter().map(|freeze| meaning("freeze", freeze)));
        parts.extend(rules.egress.iter().map(|egress| meaning("egress", egress)));
        parts.extend(rules.defaults.iter().map(|defaults| meaning("defaults", defaults)));
    }
    parts.sort_unstable();
    let mut hash = Xxh3::new();
    parts.iter().for_each(|part| hash.update(&part.to_le_bytes()));
    Revision::from_hash(hash.digest())
}

/// The hash of one part of a rule set, by its canonical JSON.
fn meaning(kind: &str, value: &impl serde::Serialize) -> u64 {
    let mut buffer = kind.as_bytes().to_vec();
    // Writing our own shapes to memory has no way to fail; a part left out would only change the hash.
    let _ = serde_json::to_writer(&mut buffer, value);
    xxh3_64(&buffer)
}

/// What stands before each route: 0 for nothing, and the same number for the same conditions.
fn guards<'r>(routes: &'r [Route]) -> Vec<u32> {
    let mut known: Vec<&RequireRule> = Vec::new();
    let number = |route: &'r Route| match route {
        Route { require: Some(rule), .. } => {
            let at = known.iter().position(|it| *it == &**rule).unwrap_or(known.len());
            if at == known.len() {
                known.push(rule);
            }
            at as u32 + 2
        }
        Route { action: Action::Respond(respond), .. } if respond.status.as_u16() >= 400 => 1,
        Route { .. } => 0,
    };
    routes.iter().map(number).collect()
}

/// The methods beyond the common ones that somebody claims.
fn named_methods(routes: &[Route]) -> Vec<Method> {
    let matchers = routes.iter().flat_map(|route| &route.matches);
    let mut methods: Vec<Method> = Vec::new();
    for method in matchers.flat_map(|matcher| &matcher.conditions.methods) {
        if !methods.contains(method) {
            methods.push(method.clone());
        }
    }
    methods
}
