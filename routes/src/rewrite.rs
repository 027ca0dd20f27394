//! Edits of path, host, `Location` and cookie domain, compiled.
//!
//! Input: the raw path that was matched and the alternative that matched it. Output: the path to send, in raw bytes; on the
//! way back, a `Location` or `Set-Cookie` as the client should see it. Must not: decode or re-encode what it passes on.

use crate::pattern::{PathPattern, Segment};

/// One piece of a path template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Text(Box<str>),
    /// The raw segment at this position of the request's path.
    Segment(usize),
    /// Everything from this position on.
    From(usize),
}

/// How the path changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// Parts per alternative of the match: the same name may stand at another position in each.
    Template(Vec<Vec<Part>>),
    Prefix {
        /// Without its trailing slash.
        new: Box<str>,
        /// Per alternative, the literal text that is replaced.
        old: Vec<Box<str>>,
    },
}

/// The rewrite of one side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    pub path: Option<PathRewrite>,
    pub host: Option<Box<str>>,
    pub location_public: bool,
    pub cookie_domain: Option<Box<str>>,
}

impl PathRewrite {
    /// A template over the names of every alternative, or the name that one of them lacks.
    pub fn template(text: &str, alternatives: &[&PathPattern]) -> Result<PathRewrite, String> {
        let parts = alternatives.iter().map(|pattern| template_parts(text, pattern));
        parts.collect::<Result<_, _>>().map(PathRewrite::Template)
    }

    pub fn prefix(text: &str, alternatives: &[&PathPattern]) -> PathRewrite {
        let old = alternatives.iter().map(|pattern| literal_text(pattern).into()).collect();
        PathRewrite::Prefix { new: text.strip_suffix('/').unwrap_or(text).into(), old }
    }

    /// The path to send for `raw`, which alternative `alternative` matched.
    pub fn apply(&self, raw: &str, alternative: usize) -> String {
        let mut out = String::with_capacity(raw.len() + 16);
        match self {
            PathRewrite::Template(alternatives) => {
                for part in &alternatives[alternative] {
                    match part {
                        Part::Text(text) => out.push_str(text),
                        Part::Segment(at) => out.push_str(raw.split('/').nth(at + 1).unwrap_or("")),
                        Part::From(at) => {
                            out.push_str(after_segments(raw, *at).strip_prefix('/').unwrap_or(""))
                        }
                    }
                }
            }
            PathRewrite::Prefix { new, old } => {
                let segments = old[alternative].split('/').count() - 1;
                out.push_str(new);
                out.push_str(after_segments(raw, segments));
            }
        }
        if out.is_empty() {
            out.push('/');
        }
        out
    }

    /// A path of the backend as the client knows it; only a replaced prefix can be put back.
    pub fn reverse(&self, path: &str, alternative: usize) -> Option<String> {
        let PathRewrite::Prefix { new, old } = self else { return None };
        let rest =
            path.strip_prefix(&**new).filter(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']))?;
        let public = format!("{}{rest}", old[alternative]);
        Some(if public.starts_with('/') { public } else { format!("/{public}") })
    }
}

/// `raw` without its first `count` segments: empty, or starting with a slash.
fn after_segments(raw: &str, count: usize) -> &str {
    let mut slashes = raw.match_indices('/').map(|(at, _)| at);
    slashes.nth(count).map_or("", |at| &raw[at..])
}

/// The literal text before the first name; what `prefix:` replaces.
fn literal_text(pattern: &PathPattern) -> String {
    match pattern {
        PathPattern::Exact(text) | PathPattern::Prefix(text) => text.strip_suffix('/').unwrap_or(text).into(),
        PathPattern::Template(segments) | PathPattern::Rest(segments, _) => {
            let literals = segments.iter().map_while(|segment| match segment {
                Segment::Literal(text) => Some(format!("/{text}")),
                Segment::Param(_) => None,
            });
            literals.collect()
        }
        PathPattern::Regex(..) => String::new(),
    }
}

fn template_parts(text: &str, pattern: &PathPattern) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let Some(close) = rest[open..].find('}').map(|at| open + at) else {
            return Err(format!("`{text}` opens a name and does not close it"));
        };
        if open > 0 {
            parts.push(Part::Text(rest[..open].into()));
        }
        let name = rest[open + 1..close].trim_end_matches('*');
        parts.push(
            named(name, pattern)
                .ok_or_else(|| format!("`{{{name}}}` is not a name of every path this route matches"))?,
        );
        rest = &rest[close + 1..];
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.into()));
    }
    Ok(parts)
}

fn named(name: &str, pattern: &PathPattern) -> Option<Part> {
    let (segments, tail) = match pattern {
        PathPattern::Template(segments) => (segments, None),
        PathPattern::Rest(segments, tail) => (segments, Some(tail)),
        PathPattern::Exact(_) | PathPattern::Prefix(_) | PathPattern::Regex(..) => return None,
    };
    if tail.is_some_and(|tail| **tail == *name) {
        return Some(Part::From(segments.len()));
    }
    let at = segments.iter().position(|segment| matches!(segment, Segment::Param(param) if **param == *name));
    at.map(Part::Segment)
}

/// Where a response came from and what the client asked, for turning a `Location` around.
pub struct Addresses<'a> {
    /// Authorities that mean the backend: its URLs' and the Host it was sent.
    pub backend: &'a [&'a str],
    pub public_scheme: &'a str,
    pub public_host: &'a str,
}

/// `Location` as the client should see it, or `None` when it leads elsewhere and stays as it is.
pub fn public_location(
    location: &str,
    rewrite: &Rewrite,
    alternative: usize,
    addresses: &Addresses<'_>,
) -> Option<String> {
    let back = |path: &str| {
        let reversed = rewrite.path.as_ref().and_then(|rewrite| rewrite.reverse(path, alternative));
        reversed.unwrap_or_else(|| path.to_owned())
    };
    if location.starts_with('/') && !location.starts_with("//") {
        let path = back(location);
        return (path != location).then_some(path);
    }
    let (scheme, rest) = location.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = &rest[..end];
    if !addresses.backend.iter().any(|own| same_authority(own, authority, scheme)) {
        return None;
    }
    let path = match &rest[end..] {
        "" => back("/"),
        path if path.starts_with('/') => back(path),
        other => other.to_owned(),
    };
    Some(format!("{}://{}{path}", addresses.public_scheme, addresses.public_host))
}

/// Equal but for case and the scheme's default port.
fn same_authority(own: &str, other: &str, scheme: &str) -> bool {
    let default = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    let bare = |authority: &str| authority.strip_suffix(default).unwrap_or(authority).to_ascii_lowercase();
    bare(own) == bare(other)
}

/// `Set-Cookie` with its `Domain` replaced, or `None` when it has none.
pub fn cookie_with_domain(cookie: &str, domain: &str) -> Option<String> {
    let is_domain =
        |part: &str| part.split_once('=').is_some_and(|(name, _)| name.trim().eq_ignore_ascii_case("domain"));
    // The first part is the cookie itself, whatever its name.
    if !cookie.split(';').skip(1).any(is_domain) {
        return None;
    }
    let mut parts = cookie.split(';');
    let mut out = parts.next().unwrap_or("").to_owned();
    for part in parts {
        out.push(';');
        if is_domain(part) {
            out.push_str(" Domain=");
            out.push_str(domain);
        } else {
            out.push_str(part);
        }
    }
    Some(out)
}
