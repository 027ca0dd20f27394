//! Routes that tie, and routes that nothing can reach: both are load errors, shown with a request.
//!
//! Input: a built table. Output: problems. Must not: report a tie that a more specific route wins, or a route as
//! unreachable without proof.
//!
//! Both are decided by samples that stand for everything a pattern does not name: see `Fresh`.
//!
//! Ties can only be where lookup keeps two entries side by side (see `Index::groups`). A route can be hidden in two ways
//! only: a regex behind literal routes that leave nothing over, and a prefix behind its own exact path and rest.

use crate::automata::{Search, common};
use crate::lookup::{Entry, lower};
use crate::path::read_path;
use crate::pattern::{HostPattern, Matcher, PathPattern, Segment, ValuePattern};
use crate::problem::{Place, Problem};
use crate::request::RequestFacts;
use crate::table::{Route, RouteTable};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

/// A request made up to show a problem.
#[derive(Clone, Debug)]
pub struct Sample {
    method: Method,
    host: String,
    path: String,
    query: String,
    headers: HeaderMap,
    listener: String,
    shown: Vec<String>,
}

/// All ties and all unreachable routes.
pub fn check(table: &RouteTable) -> Vec<Problem> {
    let fresh = Fresh::of(table);
    let mut problems = Vec::new();
    for (group, crowded) in table.index.groups() {
        ties(table, &fresh, &group, &mut problems);
        for entry in &group {
            let matcher = table.matcher(*entry);
            // Alone at its place, a literal pattern takes the sample made for it.
            let prefix = matches!(matcher.path, PathPattern::Prefix(_));
            if group.len() > 1 || (crowded && prefix) || matches!(matcher.path, PathPattern::Regex(..)) {
                problems.extend(unreachable(table, &fresh, *entry));
            }
        }
    }
    problems
}

/// Text and depth that no pattern of the table names: a sample made of it stands for all that are not named.
struct Fresh {
    segment: String,
    /// One more segment than any pattern has, and at most 16: deeper ones tell nothing new.
    depth: usize,
}

impl Fresh {
    fn of(table: &RouteTable) -> Fresh {
        let matchers = || table.routes.iter().flat_map(|route| &route.matches);
        let longest = matchers().map(|matcher| match &matcher.path {
            PathPattern::Exact(text) | PathPattern::Prefix(text) => text.matches('/').count(),
            PathPattern::Template(segments) | PathPattern::Rest(segments, _) => segments.len() + 1,
            PathPattern::Regex(..) => 0,
        });
        let depth = longest.max().unwrap_or(0).min(15) + 1;
        let mut segment = "7q3z".to_owned();
        let names = |segment: &str| matchers().any(|matcher| names(matcher, segment));
        while names(&segment) {
            segment.push('z');
        }
        Fresh { segment, depth }
    }
}

/// Whether any text of a matcher holds `segment`.
fn names(matcher: &Matcher, segment: &str) -> bool {
    let exact =
        |pattern: &ValuePattern| matches!(pattern, ValuePattern::Exact(text) if text.contains(segment));
    let conditions = &matcher.conditions;
    let path = match &matcher.path {
        PathPattern::Exact(text) | PathPattern::Prefix(text) => text.contains(segment),
        PathPattern::Template(segments) | PathPattern::Rest(segments, _) => {
            segments.iter().any(|part| matches!(part, Segment::Literal(text) if text.contains(segment)))
        }
        PathPattern::Regex(..) => false,
    };
    path || conditions.headers.iter().any(|(_, pattern)| exact(pattern))
        || conditions.query.iter().chain(&conditions.cookies).any(|(_, pattern)| exact(pattern))
}

/// A method that no rule names: what nothing that names methods can take away.
fn no_method() -> Method {
    Method::from_bytes(b"ANY-METHOD").unwrap_or(Method::GET)
}

fn ties(table: &RouteTable, fresh: &Fresh, group: &[Entry], problems: &mut Vec<Problem>) {
    for (number, first) in group.iter().enumerate() {
        for second in &group[number + 1..] {
            let (a, b) = (table.matcher(*first), table.matcher(*second));
            if first.route == second.route || a.specificity() != b.specificity() {
                continue;
            }
            let Some(sample) = tie(table, fresh, *first, *second) else { continue };
            let (earlier, later) = order(table.route(first.route), table.route(second.route));
            let text = format!("ties with route \"{}\" on {}", earlier.id, sample.show());
            let problem = Problem::error("overlap", place(later, "match"), text).route(&*later.id);
            problems.push(
                problem.expected("matches that differ in precedence, or that no request satisfies both of"),
            );
        }
    }
}

/// By where they were written, so that the later one is blamed.
fn order<'r>(a: &'r Route, b: &'r Route) -> (&'r Route, &'r Route) {
    if a.origin <= b.origin { (a, b) } else { (b, a) }
}

fn place(route: &Route, field: &str) -> Place {
    Place::field(route.origin.0 as usize, format!("routes[{}].{field}", route.origin.1))
}

/// A request that both hold for and no more specific route wins, or `None` when there cannot be one.
fn tie(table: &RouteTable, fresh: &Fresh, first: Entry, second: Entry) -> Option<Sample> {
    let (a, b) = (table.matcher(first), table.matcher(second));
    let (x, y) = (&a.conditions, &b.conditions);
    if x.listener.is_some() && y.listener.is_some() && x.listener != y.listener {
        return None;
    }
    let mut methods = common_methods(&x.methods, &y.methods)?;
    if methods.is_empty() {
        methods = vec![Method::GET, no_method()];
    }
    let paths = match (&a.path, &b.path) {
        (PathPattern::Regex(one, _), PathPattern::Regex(other, _)) => {
            let covers = covering(table, first);
            let covers: Vec<&str> = covers.iter().map(String::as_str).collect();
            match common(&[one.as_str(), other.as_str(), "/.*"], &covers) {
                Search::Witness(path) => vec![path],
                Search::Disjoint => return None,
                // Two that cannot be told apart are treated as a tie: different priorities settle it.
                Search::TooLarge => vec!["/...".to_owned()],
            }
        }
        _ => sample_paths(&a.path, fresh),
    };
    let mut sample = Sample::new(&a.host, fresh);
    sample.listener = x.listener.as_deref().or(y.listener.as_deref()).unwrap_or("").to_owned();
    let headers = merged(named(&x.headers), named(&y.headers), fresh)?;
    headers.into_iter().for_each(|(name, value)| sample.header(name, &value));
    let query = merged(text(&x.query), text(&y.query), fresh)?;
    query.into_iter().for_each(|(key, value)| sample.query(key, &value));
    let cookies = merged(text(&x.cookies), text(&y.cookies), fresh)?;
    sample.cookies(&cookies);
    let beaten = |sample: &Sample| {
        winner(table, sample).is_some_and(|winner| table.matcher(winner).specificity() > a.specificity())
    };
    let all = paths.iter().flat_map(|path| methods.iter().map(move |method| (path, method)));
    let mut samples =
        all.map(|(path, method)| Sample { method: method.clone(), path: path.clone(), ..sample.clone() });
    samples.find(|sample| !beaten(sample))
}

/// `Some(empty)` when both take every method.
fn common_methods(a: &[Method], b: &[Method]) -> Option<Vec<Method>> {
    match (a.is_empty(), b.is_empty()) {
        (true, true) => Some(Vec::new()),
        (true, false) => Some(b.to_vec()),
        (false, true) => Some(a.to_vec()),
        (false, false) => {
            let both: Vec<Method> = a.iter().filter(|method| b.contains(method)).cloned().collect();
            (!both.is_empty()).then_some(both)
        }
    }
}

type Named<'a> = Vec<(&'a str, &'a ValuePattern)>;

fn named(headers: &[(HeaderName, ValuePattern)]) -> Named<'_> {
    headers.iter().map(|(name, pattern)| (name.as_str(), pattern)).collect()
}

fn text(values: &[(Box<str>, ValuePattern)]) -> Named<'_> {
    values.iter().map(|(name, pattern)| (&**name, pattern)).collect()
}

/// One value per name that satisfies both lists, or `None` when they contradict each other.
fn merged<'a>(a: Named<'a>, b: Named<'a>, fresh: &Fresh) -> Option<Vec<(&'a str, String)>> {
    let mut names: Vec<&str> = a.iter().chain(&b).map(|(name, _)| *name).collect();
    names.sort_unstable();
    names.dedup();
    let value = |name: &'a str| {
        let patterns: Vec<&ValuePattern> =
            a.iter().chain(&b).filter(|(other, _)| *other == name).map(|(_, p)| *p).collect();
        sample_value(&patterns, fresh).map(|value| (name, value))
    };
    names.into_iter().map(value).collect()
}

/// A value that all patterns take.
fn sample_value(patterns: &[&ValuePattern], fresh: &Fresh) -> Option<String> {
    let exact = patterns.iter().find_map(|pattern| match pattern {
        ValuePattern::Exact(text) => Some(text.to_string()),
        ValuePattern::Present | ValuePattern::Regex(_) => None,
    });
    if let Some(text) = exact {
        return patterns.iter().all(|pattern| pattern.matches(Some(text.as_bytes()))).then_some(text);
    }
    let regexes: Vec<&str> = patterns
        .iter()
        .filter_map(|pattern| match pattern {
            ValuePattern::Regex(regex) => Some(regex.as_str()),
            ValuePattern::Exact(_) | ValuePattern::Present => None,
        })
        .collect();
    if regexes.is_empty() {
        return Some(fresh.segment.clone());
    }
    match common(&regexes, &[]) {
        Search::Witness(text) => Some(text),
        Search::Disjoint => None,
        Search::TooLarge => Some("...".into()),
    }
}

/// Paths the pattern matches that differ in everything another pattern could look at: depth, and a slash at the end.
fn sample_paths(pattern: &PathPattern, fresh: &Fresh) -> Vec<String> {
    let join = |segments: &[Segment]| {
        let parts = segments.iter().map(|segment| match segment {
            Segment::Literal(text) => format!("/{text}"),
            Segment::Param(name) => format!("/{name}-{}", fresh.segment),
        });
        parts.collect::<String>()
    };
    let below = |start: &str| {
        let deep = |depth: usize| format!("{start}{}", format!("/{}", fresh.segment).repeat(depth));
        let depths = (0..=fresh.depth).flat_map(|depth| [deep(depth), format!("{}/", deep(depth))]);
        depths.skip(1).collect::<Vec<_>>()
    };
    match pattern {
        PathPattern::Exact(text) => vec![text.to_string()],
        PathPattern::Prefix(text) if text.is_empty() => below(""),
        PathPattern::Prefix(text) => [below(text), vec![text.to_string()]].concat(),
        PathPattern::Template(segments) => vec![join(segments)],
        PathPattern::Rest(segments, _) => below(&join(segments)),
        PathPattern::Regex(..) => Vec::new(),
    }
}

/// A problem when no request can reach this entry's route.
fn unreachable(table: &RouteTable, fresh: &Fresh, entry: Entry) -> Option<Problem> {
    let matcher = table.matcher(entry);
    let paths = match &matcher.path {
        PathPattern::Regex(regex, _) => {
            let covers = covering(table, entry);
            let covers: Vec<&str> = covers.iter().map(String::as_str).collect();
            match common(&[regex.as_str(), "/.*"], &covers) {
                // The cover may be only a part of what stands before it; without a proof the route stays.
                Search::Witness(_) | Search::TooLarge => return None,
                Search::Disjoint => Vec::new(),
            }
        }
        literal => sample_paths(literal, fresh),
    };
    let methods = match matcher.conditions.methods.as_slice() {
        [] => vec![no_method()],
        methods => methods.to_vec(),
    };
    let own = own_sample(matcher, fresh)?;
    let mut winner_id = None;
    for path in &paths {
        for method in &methods {
            let sample = Sample { method: method.clone(), path: path.clone(), ..own.clone() };
            let winner = winner(table, &sample)?;
            // An equal one is a tie, which has its own problem.
            if winner.route == entry.route || table.matcher(winner).specificity() == matcher.specificity() {
                return None;
            }
            winner_id = Some(&table.route(winner.route).id);
        }
    }
    let route = table.route(entry.route);
    let number = usize::from(entry.alternative);
    let field = if route.matches.len() > 1 { format!("match[{number}]") } else { "match".to_owned() };
    let text = match winner_id {
        Some(id) => format!("no request can reach this: route \"{id}\" is among those that take them all"),
        None => "no request can reach this: more specific routes take them all".to_owned(),
    };
    Some(
        Problem::error("unreachable", place(route, &field), text)
            .route(&*route.id)
            .expected("a match that leaves something over"),
    )
}

/// A request with exactly what the matcher asks for; path and method are set by the caller.
fn own_sample(matcher: &Matcher, fresh: &Fresh) -> Option<Sample> {
    let conditions = &matcher.conditions;
    let mut sample = Sample::new(&matcher.host, fresh);
    sample.listener = conditions.listener.as_deref().unwrap_or(&fresh.segment).to_owned();
    for (name, value) in merged(named(&conditions.headers), Vec::new(), fresh)? {
        sample.header(name, &value);
    }
    for (key, value) in merged(text(&conditions.query), Vec::new(), fresh)? {
        sample.query(key, &value);
    }
    sample.cookies(&merged(text(&conditions.cookies), Vec::new(), fresh)?);
    Some(sample)
}

/// Patterns of the same host that stand before a regex for every request, as regexes. At most 64: the shortest cover most.
fn covering(table: &RouteTable, entry: Entry) -> Vec<String> {
    let own = table.matcher(entry);
    let mut covers: Vec<(usize, String)> = Vec::new();
    for (number, route) in table.routes.iter().enumerate() {
        for matcher in &route.matches {
            let free = matcher.conditions.are_none();
            if number as u32 == entry.route || !free || matcher.host != own.host {
                continue;
            }
            let segments = |segments: &[Segment]| {
                let parts = segments.iter().map(|segment| match segment {
                    Segment::Literal(text) => format!("/{}", regex::escape(text)),
                    Segment::Param(_) => "/[^/]+".to_owned(),
                });
                parts.collect::<String>()
            };
            covers.push(match &matcher.path {
                PathPattern::Exact(text) => (text.len(), regex::escape(text)),
                PathPattern::Prefix(text) => (text.len(), format!("{}(/.*)?", regex::escape(text))),
                PathPattern::Template(parts) => (matcher.path.literal_start(), segments(parts)),
                PathPattern::Rest(parts, _) => {
                    (matcher.path.literal_start(), format!("{}/.*", segments(parts)))
                }
                PathPattern::Regex(regex, priority) => match &own.path {
                    PathPattern::Regex(_, lower) if priority > lower => (0, regex.as_str().to_owned()),
                    _ => continue,
                },
            });
        }
    }
    covers.sort();
    covers.truncate(64);
    covers.into_iter().map(|(_, text)| text).collect()
}

fn winner(table: &RouteTable, sample: &Sample) -> Option<Entry> {
    let facts = RequestFacts {
        method: &sample.method,
        host: &sample.host,
        path: &sample.path,
        query: (!sample.query.is_empty()).then_some(&sample.query),
        headers: &sample.headers,
        client_ip: None,
        endpoint: None,
        listener: &sample.listener,
        claims: None,
    };
    let read = read_path(&sample.path).ok()?;
    table.winner(&facts, &read.text)
}

impl Sample {
    fn new(host: &HostPattern, fresh: &Fresh) -> Sample {
        let host = match host {
            HostPattern::Any => "any-host.example".to_owned(),
            HostPattern::Exact(name) => lower(name).into_owned(),
            HostPattern::Wildcard(suffix) => format!("any-{}.{suffix}", fresh.segment),
        };
        let (path, query, listener) = (String::from("/"), String::new(), String::new());
        Sample {
            method: Method::GET,
            host,
            path,
            query,
            headers: HeaderMap::new(),
            listener,
            shown: Vec::new(),
        }
    }

    fn header(&mut self, name: &str, value: &str) {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
        {
            self.headers.insert(name, value);
        }
        self.shown.push(format!("{name}: {value}"));
    }

    fn query(&mut self, key: &str, value: &str) {
        let separator = if self.query.is_empty() { "" } else { "&" };
        self.query += &format!("{separator}{key}={value}");
    }

    fn cookies(&mut self, cookies: &[(&str, String)]) {
        if !cookies.is_empty() {
            let line =
                cookies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ");
            self.header(header::COOKIE.as_str(), &line);
        }
    }

    /// `GET http://host/path?query` and the headers it needs.
    fn show(&self) -> String {
        let query = if self.query.is_empty() { String::new() } else { format!("?{}", self.query) };
        let mut text = format!("{} http://{}{}{query}", self.method, self.host, self.path);
        self.shown.iter().for_each(|header| text += &format!(" with `{header}`"));
        text
    }
}
