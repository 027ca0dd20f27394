//! The headers that mean something to a client. Transport headers, and those that change by themselves, say nothing.
//!
//! Input: both sides' headers. Output: differences. Must not: compare what a server puts on for itself: dates, ids, its name.

use super::rules::Rules;
use super::typed::Held;
use super::{Difference, Kind, Value};
use http::{HeaderMap, HeaderName, header};
use std::collections::BTreeSet;

/// Compared as sets of parts, order and case apart.
const LISTS: [HeaderName; 3] = [header::CACHE_CONTROL, header::VARY, header::ALLOW];
/// Whether they are there; their values differ by nature.
const PRESENCE: [HeaderName; 3] = [header::ETAG, header::LAST_MODIFIED, header::WWW_AUTHENTICATE];
/// Compared as they are.
const EXACT: [HeaderName; 3] = [header::CONTENT_LANGUAGE, header::CONTENT_DISPOSITION, header::RETRY_AFTER];

pub fn compare(legacy: &HeaderMap, serverless: &HeaderMap, rules: &Rules, found: &mut Vec<Difference>) {
    let mut check = |name: &HeaderName, of: &dyn Fn(&HeaderMap) -> String| {
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
    // Each side knows itself by another host; where it sends the client is the path.
    check(&header::LOCATION, &|headers| path_of(value(headers, &header::LOCATION)).to_owned());
    check(&header::SET_COOKIE, &cookies);
}

fn value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
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
            let name = parts.next().unwrap_or_default().split('=').next().unwrap_or_default();
            let plain =
                |part: &str| !part.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("expires"));
            let mut attributes: Vec<String> =
                parts.filter(|part| plain(part)).map(str::to_ascii_lowercase).collect();
            attributes.sort();
            format!("{name};{}", attributes.join(";"))
        })
        .collect();
    all.sort();
    all.join(",")
}
