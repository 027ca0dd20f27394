//! Which paths a lenient server could read as those of a guarded route.
//!
//! Input: a path in matching form, and the route that lookup found for it. Output: whether some reading leads to a route with another guard.
//! Must not: be asked for paths that have one reading; `PathRead::foldable` says which those are.
//!
//! A guard is a condition on who may call, or an answer of our own in place of the backend's. Where a backend folds case, decodes twice,
//! maps Unicode to ASCII, or trims, a path that another route claims could still reach what is guarded.

use crate::lookup::{Entry, Index};
use crate::pattern::{Matcher, PathPattern, Segment};
use crate::request::RequestFacts;
use regex::bytes::Regex;
use std::borrow::Cow;
use unicode_normalization::UnicodeNormalization;

/// How often something may be encoded over what was encoded.
const ROUNDS: usize = 3;

/// All matchers of a rule set, with their literals folded.
#[derive(Clone, Debug)]
pub struct Guard {
    matchers: Vec<Folded>,
    index: Index,
}

#[derive(Clone, Debug)]
struct Folded {
    /// What has to hold; 0 for nothing.
    guard: u32,
    matcher: Matcher,
}

impl Guard {
    /// From the matchers of all routes, each with its guard.
    pub fn build<'m>(matchers: impl Iterator<Item = (u32, &'m Matcher)>) -> Guard {
        let folded = |(guard, matcher): (u32, &Matcher)| Folded { guard, matcher: fold_matcher(matcher) };
        let mut matchers: Vec<Folded> = matchers.map(folded).collect();
        // Of two that are the same when folded, the guarded one wins.
        matchers.sort_by_key(|folded| folded.guard == 0);
        let entries = (0..matchers.len()).map(|at| Entry { route: at as u32, alternative: 0 });
        let index = Index::build(entries, |entry| &matchers[entry.route as usize].matcher);
        Guard { matchers, index }
    }

    /// Whether some server could read `path` as one that another guard than `guard` stands before.
    pub fn is_near(&self, facts: &RequestFacts<'_>, path: &str, guard: u32) -> bool {
        readings(path).iter().any(|text| {
            let found = self.index.find(facts, text, |entry| &self.matchers[entry.route as usize].matcher);
            let other = found.map_or(0, |entry| self.matchers[entry.route as usize].guard);
            other != 0 && other != guard
        })
    }
}

fn fold_matcher(matcher: &Matcher) -> Matcher {
    let text = |text: &str| -> Box<str> { plain(text).into() };
    let segments = |segments: &[Segment]| {
        let fold = |segment: &Segment| match segment {
            Segment::Literal(literal) => Segment::Literal(text(literal)),
            Segment::Param(name) => Segment::Param(name.clone()),
        };
        segments.iter().map(fold).collect()
    };
    let path = match &matcher.path {
        PathPattern::Exact(path) => PathPattern::Exact(text(path)),
        PathPattern::Prefix(path) => PathPattern::Prefix(text(path)),
        PathPattern::Template(path) => PathPattern::Template(segments(path)),
        PathPattern::Rest(path, name) => PathPattern::Rest(segments(path), name.clone()),
        PathPattern::Regex(regex, priority) => {
            // What compiled compiles without regard to case, or stays as it is where it grows too large.
            let folded = Regex::new(&format!("(?i){}", regex.as_str())).unwrap_or_else(|_| regex.clone());
            PathPattern::Regex(folded, *priority)
        }
    };
    Matcher { path, ..matcher.clone() }
}

/// The paths by which servers could look it up.
fn readings(path: &str) -> Vec<String> {
    let text = plain(path);
    let cut = text.split(['\0', '\r', '\n']).next().unwrap_or_default().to_owned();
    let slashed = cut.replace('\\', "/");
    let without = |text: &str| -> String {
        let segments: Vec<&str> =
            text.split('/').map(|it| it.split(';').next().unwrap_or_default()).collect();
        segments.join("/")
    };
    let mut all = vec![resolved(&without(&slashed)), resolved(&slashed), slashed];
    all.dedup();
    all
}

/// Decoded to the end, mapped to ASCII where Unicode has the like of it, in lower case.
fn plain(path: &str) -> String {
    let mut bytes = Cow::Borrowed(path.as_bytes());
    for _ in 0..ROUNDS {
        let decoded = decode_once(&bytes);
        if decoded == *bytes {
            break;
        }
        bytes = Cow::Owned(decoded);
    }
    String::from_utf8_lossy(&overlong(&bytes)).nfkc().flat_map(char::to_lowercase).collect()
}

/// `%2f`, and the `%u002f` of one family of servers.
fn decode_once(bytes: &[u8]) -> Vec<u8> {
    let number = |digits: Option<&[u8]>| {
        let digits =
            std::str::from_utf8(digits?).ok().filter(|it| it.bytes().all(|b| b.is_ascii_hexdigit()))?;
        u32::from_str_radix(digits, 16).ok()
    };
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let unicode = || number(bytes.get(at + 2..at + 6)).and_then(char::from_u32);
        match (bytes[at], bytes.get(at + 1)) {
            (b'%', Some(b'u' | b'U')) if let Some(found) = unicode() => {
                out.extend_from_slice(found.encode_utf8(&mut [0; 4]).as_bytes());
                at += 6;
            }
            (b'%', _) if let Some(found) = number(bytes.get(at + 1..at + 3)) => {
                out.push(found as u8);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// UTF-8 in more bytes than it needs, as careless decoders take it.
fn overlong(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        rest = match rest {
            [0xc0..=0xc1, last @ 0x80..=0xbf, more @ ..] => {
                out.push((first << 6 | last & 0x3f) & 0x7f);
                more
            }
            [0xe0, 0x80..=0x81, last @ 0x80..=0xbf, more @ ..] => {
                out.push((rest[1] << 6 | last & 0x3f) & 0x7f);
                more
            }
            [0xf0, 0x80, 0x80..=0x81, last @ 0x80..=0xbf, more @ ..] => {
                out.push((rest[2] << 6 | last & 0x3f) & 0x7f);
                more
            }
            _ => {
                out.push(*first);
                after
            }
        };
    }
    out
}

/// Slashes merged, dots resolved, spaces and dots at the end of a segment dropped.
fn resolved(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment.trim() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => match segment.trim_end_matches(['.', ' ', '\t']) {
                // More dots than two are a name where they are not nothing.
                "" => {}
                name => segments.push(name),
            },
        }
    }
    format!("/{}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reading_of_a_guarded_place_is_found() {
        for path in [
            "/Admin",
            "/ADMIN/Users",
            "/%2561dmin",
            "/%EF%BD%81dmin",
            "/%C1%A1dmin",
            "/%u0061dmin",
            "/open/..%2Fadmin",
            "/open/%252e%252e/admin",
            "/admin%20",
            "/admin.",
            "/admin;x=1",
            "/open/..;/admin",
        ] {
            let reads = readings(path);
            assert!(reads.iter().any(|it| it == "/admin" || it.starts_with("/admin/")), "{path}: {reads:?}");
        }
    }
}
