//! Compiled patterns of one match, and how specific it is.
//!
//! Input: the raw `Match` of a file. Output: `Matcher`, which holds or does not hold for `RequestFacts`, and `Specificity`,
//! an `Ord` that is the precedence of 03-rules. Must not: allocate while matching.

use crate::request::RequestFacts;
use crate::values::ValueMatch;
use http::{HeaderName, Method};
use regex::bytes::Regex;
use std::cmp::Reverse;
use std::ops::Deref;

/// Which hosts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Any,
    /// Lower case, no port.
    Exact(Box<str>),
    /// `*.example.com` is held as `example.com`; one or more labels in front of it match.
    Wildcard(Box<str>),
}

impl HostPattern {
    /// Lower case text with `*.` in front only; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let (name, wildcard) = match lower.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (lower.as_str(), false),
        };
        if name.starts_with('[') && name.ends_with(']') && !wildcard {
            let address = name[1..name.len() - 1].parse::<std::net::Ipv6Addr>();
            return address
                .map(|_| HostPattern::Exact(name.into()))
                .map_err(|_| format!("`{text}` is not an IPv6 address"));
        }
        if name.contains(':') {
            return Err(format!("`{text}` has a port; ports are ignored in matching, leave it out"));
        }
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if name.is_empty() || name.len() > 253 || !name.split('.').all(label) {
            return Err(format!("`{text}` is not a host name"));
        }
        Ok(if wildcard { HostPattern::Wildcard(name.into()) } else { HostPattern::Exact(name.into()) })
    }

    fn rank(&self) -> (u8, usize) {
        match self {
            HostPattern::Any => (0, 0),
            HostPattern::Wildcard(suffix) => (1, suffix.len()),
            HostPattern::Exact(_) => (2, 0),
        }
    }
}

/// One segment of a path pattern. Texts are in the form `path::read_path` gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    Literal(Box<str>),
    /// `{name}`: one segment that is not empty.
    Param(Box<str>),
}

/// Which paths.
#[derive(Clone, Debug)]
pub enum PathPattern {
    /// Every path: the prefix `/`.
    Exact(Box<str>),
    Template(Vec<Segment>),
    /// `prefix: /a`, without its trailing slash; empty for every path.
    Prefix(Box<str>),
    /// `/a/{id}/{rest*}`: the segments before the rest, and its name.
    Rest(Vec<Segment>, Box<str>),
    Regex(Regex, i32),
}

impl PathPattern {
    /// The bytes before the first `{}`, which is what prefixes and rests are ranked by.
    pub fn literal_start(&self) -> usize {
        match self {
            PathPattern::Exact(text) | PathPattern::Prefix(text) => text.len(),
            PathPattern::Template(segments) | PathPattern::Rest(segments, _) => {
                let literals = segments.iter().map_while(|segment| match segment {
                    Segment::Literal(text) => Some(text.len() + 1),
                    Segment::Param(_) => None,
                });
                literals.sum::<usize>() + 1
            }
            PathPattern::Regex(..) => 0,
        }
    }

    /// As API Gateway writes it: `/orders/{id}`, `/files/{rest+}`; what a prefix or a regex leaves open is `{proxy+}`.
    pub fn resource(&self) -> String {
        let joined = |segments: &[Segment]| -> String {
            let text = segments.iter().map(|segment| match segment {
                Segment::Literal(text) => format!("/{text}"),
                Segment::Param(name) => format!("/{{{name}}}"),
            });
            text.collect()
        };
        match self {
            PathPattern::Exact(text) => text.to_string(),
            PathPattern::Template(segments) => joined(segments),
            PathPattern::Rest(segments, name) => format!("{}/{{{name}+}}", joined(segments)),
            PathPattern::Prefix(text) => format!("{text}/{{proxy+}}"),
            PathPattern::Regex(..) => "/{proxy+}".into(),
        }
    }

    /// The names of `resource` with the raw parts of `path` they stand for.
    pub fn parameters<'a>(&'a self, path: &'a str) -> Vec<(&'a str, &'a str)> {
        let segments = match self {
            PathPattern::Template(segments) | PathPattern::Rest(segments, _) => segments.as_slice(),
            PathPattern::Exact(_) | PathPattern::Prefix(_) | PathPattern::Regex(..) => &[],
        };
        let parts = path.split('/').skip(1);
        let mut found: Vec<(&str, &str)> = segments
            .iter()
            .zip(parts)
            .filter_map(|(segment, part)| match segment {
                Segment::Param(name) => Some((&**name, part)),
                Segment::Literal(_) => None,
            })
            .collect();
        let (name, skipped) = match self {
            PathPattern::Rest(segments, name) => (&**name, segments.len()),
            PathPattern::Prefix(text) => ("proxy", text.split('/').count() - 1),
            PathPattern::Regex(..) => ("proxy", 0),
            PathPattern::Exact(_) | PathPattern::Template(_) => return found,
        };
        let rest = path.match_indices('/').nth(skipped).map_or("", |(at, _)| &path[at + 1..]);
        if !rest.is_empty() {
            found.push((name, rest));
        }
        found
    }

    /// Segment kinds from left to right: a literal outranks a parameter, a parameter outranks the end.
    fn shape(&self) -> Vec<u8> {
        match self {
            PathPattern::Template(segments) | PathPattern::Rest(segments, _) => segments
                .iter()
                .map(|segment| if matches!(segment, Segment::Literal(_)) { 2 } else { 1 })
                .collect(),
            PathPattern::Exact(_) | PathPattern::Prefix(_) | PathPattern::Regex(..) => Vec::new(),
        }
    }

    /// Whether a path in matching form is matched. Lookup walks its tree instead; this is the plain meaning, for `explain`
    /// and for tests that hold the tree to it.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            PathPattern::Exact(text) => **text == *path,
            PathPattern::Prefix(text) => {
                path.strip_prefix(&**text).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            PathPattern::Template(segments) => {
                let mut parts = path.split('/').skip(1);
                segments.iter().all(|segment| parts.next().is_some_and(|part| segment.matches(part)))
                    && parts.next().is_none()
            }
            PathPattern::Rest(segments, _) => {
                let mut parts = path.split('/').skip(1);
                segments.iter().all(|segment| parts.next().is_some_and(|part| segment.matches(part)))
                    && parts.next().is_some()
            }
            PathPattern::Regex(regex, _) => regex.is_match(path.as_bytes()),
        }
    }
}

impl Segment {
    pub fn matches(&self, part: &str) -> bool {
        match self {
            Segment::Literal(text) => **text == *part,
            Segment::Param(_) => !part.is_empty(),
        }
    }
}

/// What a header, query key or cookie must be.
#[derive(Clone, Debug)]
pub enum ValuePattern {
    Exact(Box<str>),
    Present,
    /// A full match.
    Regex(Regex),
}

impl ValuePattern {
    pub fn compile(raw: &ValueMatch) -> Result<Self, String> {
        Ok(match raw {
            ValueMatch::Exact(text) => ValuePattern::Exact(text.as_str().into()),
            ValueMatch::Present => ValuePattern::Present,
            ValueMatch::Regex(text) => ValuePattern::Regex(full_regex(text)?),
        })
    }

    pub fn matches(&self, value: Option<&[u8]>) -> bool {
        match (self, value) {
            (_, None) => false,
            (ValuePattern::Present, Some(_)) => true,
            (ValuePattern::Exact(text), Some(value)) => text.as_bytes() == value,
            (ValuePattern::Regex(regex), Some(value)) => regex.is_match(value),
        }
    }
}

/// A regex that must match the whole text; bounded in size so that a rule cannot eat the memory.
pub fn full_regex(text: &str) -> Result<Regex, String> {
    // The pattern is compiled alone first, so that unbalanced brackets cannot close the group around it.
    let build = |text: &str| regex::bytes::RegexBuilder::new(text).size_limit(1 << 20).build();
    let shorten = |error: regex::Error| {
        let text = error.to_string();
        text.lines().last().unwrap_or(&text).trim_start_matches("error: ").to_owned()
    };
    build(text).map_err(shorten)?;
    build(&format!("^(?:{text})$")).map_err(shorten)
}

/// The parts of a match besides host and path; all must hold. Most matches have none, and there may be 100,000 of them: those take no room.
#[derive(Clone, Debug, Default)]
pub struct Conditions(Option<Box<Parts>>);

#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// Empty: every method.
    pub methods: Vec<Method>,
    pub headers: Vec<(HeaderName, ValuePattern)>,
    pub query: Vec<(Box<str>, ValuePattern)>,
    pub cookies: Vec<(Box<str>, ValuePattern)>,
    pub listener: Option<Box<str>>,
}

/// Why a match does not hold, for `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    Host,
    Path,
    Method,
    Header(String),
    Query(String),
    Cookie(String),
    Listener,
}

impl From<Parts> for Conditions {
    fn from(parts: Parts) -> Conditions {
        Conditions((parts.rank() != NO_PARTS.rank()).then(|| Box::new(parts)))
    }
}

impl Deref for Conditions {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        self.0.as_deref().unwrap_or(&NO_PARTS)
    }
}

static NO_PARTS: Parts = Parts {
    methods: Vec::new(),
    headers: Vec::new(),
    query: Vec::new(),
    cookies: Vec::new(),
    listener: None,
};

impl Conditions {
    /// Nothing to look at.
    pub fn are_none(&self) -> bool {
        self.0.is_none()
    }
}

impl Parts {
    /// The first condition that fails, or `None` when all hold.
    pub fn miss(&self, facts: &RequestFacts<'_>) -> Option<Miss> {
        if !self.methods.is_empty() && !self.methods.contains(facts.method) {
            return Some(Miss::Method);
        }
        if let Some((name, _)) =
            self.headers.iter().find(|(name, pattern)| !pattern.matches(facts.header(name)))
        {
            return Some(Miss::Header(name.to_string()));
        }
        if let Some((key, _)) =
            self.query.iter().find(|(key, pattern)| !pattern.matches(facts.query(key).map(str::as_bytes)))
        {
            return Some(Miss::Query(key.to_string()));
        }
        let cookie = |(name, pattern): &&(Box<str>, ValuePattern)| {
            !pattern.matches(facts.cookie(name).map(str::as_bytes))
        };
        if let Some((name, _)) = self.cookies.iter().find(cookie) {
            return Some(Miss::Cookie(name.to_string()));
        }
        if self.listener.as_deref().is_some_and(|listener| listener != facts.listener) {
            return Some(Miss::Listener);
        }
        None
    }

    pub fn hold(&self, facts: &RequestFacts<'_>) -> bool {
        self.miss(facts).is_none()
    }

    /// How specific they are: method given, then numbers of headers, queries and cookies, then listener given.
    pub fn rank(&self) -> (bool, usize, usize, usize, bool) {
        let given = (!self.methods.is_empty(), self.headers.len(), self.query.len(), self.cookies.len());
        (given.0, given.1, given.2, given.3, self.listener.is_some())
    }
}

/// One alternative of a route's `match`.
#[derive(Clone, Debug)]
pub struct Matcher {
    pub host: HostPattern,
    pub path: PathPattern,
    pub conditions: Conditions,
}

/// Precedence: the greater one wins. Two that are equal and can hold at once are a load error.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Specificity {
    host: (u8, usize),
    path: PathRank,
    conditions: (bool, usize, usize, usize, bool),
}

/// Ordered from the least specific class to the most.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathRank {
    Regex(i32),
    /// Literal start in bytes, then the shape behind it.
    Prefix(usize, Vec<u8>),
    Template(Vec<u8>),
    Exact,
}

impl Matcher {
    pub fn miss(&self, host: &str, path: &str, facts: &RequestFacts<'_>) -> Option<Miss> {
        let host_holds = match &self.host {
            HostPattern::Any => true,
            HostPattern::Exact(name) => **name == *host,
            HostPattern::Wildcard(suffix) => {
                host.strip_suffix(&**suffix).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
            }
        };
        if !host_holds {
            Some(Miss::Host)
        } else if !self.path.matches(path) {
            Some(Miss::Path)
        } else {
            self.conditions.miss(facts)
        }
    }

    pub fn specificity(&self) -> Specificity {
        let path = match &self.path {
            PathPattern::Exact(_) => PathRank::Exact,
            PathPattern::Template(_) => PathRank::Template(self.path.shape()),
            PathPattern::Prefix(_) | PathPattern::Rest(..) => {
                PathRank::Prefix(self.path.literal_start(), self.path.shape())
            }
            PathPattern::Regex(_, priority) => PathRank::Regex(*priority),
        };
        Specificity { host: self.host.rank(), path, conditions: self.conditions.rank() }
    }

    /// For sorting alternatives of one place in the tree, the best first.
    pub fn order(&self) -> Reverse<(bool, usize, usize, usize, bool)> {
        Reverse(self.conditions.rank())
    }
}

/// `/orders/{id}` or `/files/{rest*}` -> its pattern; `text` must be in matching form already.
pub fn parse_path(text: &str) -> Result<PathPattern, String> {
    if !text.contains(['{', '}']) {
        return Ok(PathPattern::Exact(text.into()));
    }
    let parts: Vec<&str> = text.split('/').skip(1).collect();
    let mut segments = Vec::with_capacity(parts.len());
    let mut names: Vec<&str> = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        let inner = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
        let Some(inner) = inner.filter(|inner| !inner.contains(['{', '}'])) else {
            if part.contains(['{', '}']) {
                return Err(format!(
                    "`{part}` mixes text and a name; a name takes a whole segment, as in `/orders/{{id}}`"
                ));
            }
            segments.push(Segment::Literal((*part).into()));
            continue;
        };
        let (name, rest) = inner.strip_suffix('*').map_or((inner, false), |name| (name, true));
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(format!("`{{{inner}}}` is not a name; letters, digits and `_` are"));
        }
        if names.contains(&name) {
            return Err(format!("the name `{name}` stands twice"));
        }
        names.push(name);
        if rest && at + 1 == parts.len() {
            return Ok(PathPattern::Rest(segments, name.into()));
        }
        if rest {
            return Err(format!("`{{{inner}}}` takes all that follows, so it must be the last segment"));
        }
        segments.push(Segment::Param(name.into()));
    }
    Ok(PathPattern::Template(segments))
}
