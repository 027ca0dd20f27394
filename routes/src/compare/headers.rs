//! The headers that mean something to a client. Transport headers, and those that change by themselves, say nothing.
//!
//! Input: both sides' headers. Output: differences. Must not: compare what a server puts on for itself: dates, ids, its name.

use super::rules::Rules;
use super::shape;
use super::typed::Held;
use super::{Difference, Kind, Value};
use http::{HeaderMap, HeaderName, header};
use std::collections::BTreeSet;

/// Compared as sets of parts, order and case apart.
const LISTS: [HeaderName; 3] = [header::CACHE_CONTROL, header::VARY, header::ALLOW];
/// Whether they are there; their values differ by nature.
const PRESENCE: [HeaderName; 2] = [header::ETAG, header::LAST_MODIFIED];
/// 2000: nobody sets a cookie to last until then.
const LONG_GONE_MS: i64 = 946_684_800_000;
/// Compared as they are.
const EXACT: [HeaderName; 3] = [header::CONTENT_LANGUAGE, header::CONTENT_DISPOSITION, header::RETRY_AFTER];

pub fn compare(legacy: &HeaderMap, serverless: &HeaderMap, rules: &Rules, found: &mut Vec<Difference>) {
    let here = brought(legacy) | brought(serverless);
    let mut check = |name: &HeaderName, of: &dyn Fn(&HeaderMap) -> String| {
        // What neither side has, or both have in the same bytes, is the same whatever is read from it.
        let lines = |headers| HeaderMap::get_all(headers, name).iter();
        if here & flag(name) == 0 || lines(legacy).eq(lines(serverless)) {
            return;
        }
        let path = format!("header.{name}");
        if rules.ignores(&path) {
            return;
        }
        let (a, b) = (of(legacy), of(serverless));
        if a == b || rules.at(&path).is_some_and(|typed| typed.holds(&a, &b) == Held::Yes) {
            return;
        }
        if (a.is_empty() || b.is_empty()) && rules.is_optional(&path) {
            return;
        }
        let value = |text: &str| if text.is_empty() { Value::absent() } else { Value::string(text) };
        found.push(Difference { path, kind: Kind::Header, legacy: value(&a), serverless: value(&b) });
    };
    for name in &LISTS {
        check(name, &|headers| {
            let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
            let parts = lines.flat_map(|line| line.split(',')).map(|part| part.trim().to_ascii_lowercase());
            parts
                .filter(|part| !part.is_empty())
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
                .join(",")
        });
    }
    for name in &PRESENCE {
        check(name, &|headers| if headers.contains_key(name) { "present".into() } else { String::new() });
    }
    for name in &EXACT {
        check(name, &|headers| value(headers, name).to_owned());
    }
    check(&header::WWW_AUTHENTICATE, &|headers| {
        value(headers, &header::WWW_AUTHENTICATE).split(' ').next().unwrap_or_default().to_ascii_lowercase()
    });
    // Each side knows itself by another host; where it sends the client is the path. A host that is nobody's own is part of the target.
    let (one, other) = (value(legacy, &header::LOCATION), value(serverless, &header::LOCATION));
    let own = |location: &str| host_of(location).is_none_or(|host| rules.is_own(host));
    let foreign = host_of(one).is_some()
        && host_of(other).is_some()
        && host_of(one) != host_of(other)
        && !(own(one) && own(other));
    check(&header::LOCATION, &|headers| {
        let location = value(headers, &header::LOCATION);
        if foreign { location.to_owned() } else { path_of(location).to_owned() }
    });
    check(&header::SET_COOKIE, &cookies);
}

/// All that are compared.
const COMPARED: [HeaderName; 11] = [
    header::CACHE_CONTROL,
    header::VARY,
    header::ALLOW,
    header::ETAG,
    header::LAST_MODIFIED,
    header::CONTENT_LANGUAGE,
    header::CONTENT_DISPOSITION,
    header::RETRY_AFTER,
    header::WWW_AUTHENTICATE,
    header::LOCATION,
    header::SET_COOKIE,
];

fn flag(name: &HeaderName) -> u16 {
    COMPARED.iter().position(|it| it == name).map_or(0, |at| 1 << at)
}

/// Which of them there are.
fn brought(headers: &HeaderMap) -> u16 {
    headers.keys().fold(0, |all, name| all | flag(name))
}

fn value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// With its port and whoever stands before an `@`; `None`: the location is relative.
fn host_of(location: &str) -> Option<&str> {
    let (_, rest) = location.split_once("://")?;
    Some(rest.split(['/', '?', '#']).next().unwrap_or_default())
}

fn path_of(location: &str) -> &str {
    let Some((_, rest)) = location.split_once("://") else { return location };
    rest.find('/').map_or("/", |at| &rest[at..])
}

/// Names and attributes; values are identities, which differ.
fn cookies(headers: &HeaderMap) -> String {
    let lines = headers.get_all(header::SET_COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut all: Vec<String> = lines
        .map(|line| {
            let mut parts = line.split(';').map(str::trim);
            let (name, value) = parts.next().unwrap_or_default().split_once('=').unwrap_or_default();
            let empty = if value.trim_matches('"').is_empty() { "=" } else { "" };
            let attribute = |part: &str| {
                let part = part.to_ascii_lowercase();
                match part.strip_prefix("expires=") {
                    // A date long gone takes the cookie away; any other differs by nature.
                    Some(date) => {
                        let gone = shape::time(date).is_some_and(|(_, millis)| millis < LONG_GONE_MS);
                        if gone { "expires=gone".into() } else { "expires".into() }
                    }
                    None => part,
                }
            };
            let mut attributes: Vec<String> = parts.map(attribute).collect();
            attributes.sort();
            format!("{name}{empty};{}", attributes.join(";"))
        })
        .collect();
    all.sort();
    all.join(",")
}
