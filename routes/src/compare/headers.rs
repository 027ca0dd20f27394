//! The headers that mean something to a client. Transport headers, and those that change by themselves, say nothing.
//!
//! Input: both sides' headers. Output: differences. Must not: compare what a server puts on for itself: dates, ids, its name.

use super::form::split_unquoted;
use super::rules::Rules;
use super::typed::Held;
use super::{Answer, Difference, Kind, Value};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// Compared as sets of parts, order and case apart.
const LISTS: [HeaderName; 3] = [header::CACHE_CONTROL, header::VARY, header::ALLOW];
/// Whether they are there; their values differ by nature.
const PRESENCE: [HeaderName; 2] = [header::ETAG, header::LAST_MODIFIED];
/// Nobody sets a cookie to last until then.
const LONG_GONE_YEAR: u32 = 2000;
/// Compared as they are.
const EXACT: [HeaderName; 3] = [header::CONTENT_LANGUAGE, header::CONTENT_DISPOSITION, header::RETRY_AFTER];

pub fn compare(one: &Answer<'_>, other: &Answer<'_>, rules: &Rules, found: &mut Vec<Difference>) {
    let (legacy, serverless) = (one.headers, other.headers);
    let (legacy_host, serverless_host) = (one.host, other.host);
    let here = brought(legacy) | brought(serverless);
    let mut check = |name: &HeaderName, of: &dyn Fn(&HeaderMap) -> String| {
        // What neither side has, or both have in the same bytes, is the same whatever is read from it.
        let raw = |headers| HeaderMap::get_all(headers, name).iter();
        if here & flag(name) == 0 || raw(legacy).eq(raw(serverless)) {
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
            let parts: BTreeSet<String> = lines(headers, name)
                .flat_map(|line| {
                    line.split(',').map(|part| part.trim().to_ascii_lowercase()).collect::<Vec<_>>()
                })
                .filter(|part| !part.is_empty())
                .collect();
            parts.into_iter().collect::<Vec<_>>().join(",")
        });
    }
    for name in &PRESENCE {
        check(name, &|headers| if headers.contains_key(name) { "present".into() } else { String::new() });
    }
    for name in &EXACT {
        check(name, &|headers| value(headers, name).into_owned());
    }
    check(&header::WWW_AUTHENTICATE, &|headers| {
        let schemes: BTreeSet<String> = lines(headers, &header::WWW_AUTHENTICATE)
            .flat_map(|line| split_unquoted(&line, ',').filter_map(scheme).collect::<Vec<_>>())
            .collect();
        schemes.into_iter().collect::<Vec<_>>().join(",")
    });
    let asked = [legacy_host, serverless_host];
    let own = |host: &str| asked.iter().any(|it| it.eq_ignore_ascii_case(host)) || rules.is_own(host);
    check(&header::LOCATION, &|headers| where_to(&value(headers, &header::LOCATION), &own));
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

/// All lines of a header.
fn lines<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = Cow<'a, str>> {
    headers.get_all(name).iter().map(text)
}

fn value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Cow<'a, str> {
    headers.get(name).map(text).unwrap_or_default()
}

/// Old systems send what is not ASCII as it is: UTF-8, or bytes of another character set, which stay apart here.
fn text(value: &HeaderValue) -> Cow<'_, str> {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => text.into(),
        Err(_) => value.as_bytes().iter().map(|byte| char::from(*byte)).collect::<String>().into(),
    }
}

/// Where a client is sent. Each side knows itself by another host and scheme, so that of an own host the path counts; a host that is nobody's own is
/// part of the target.
fn where_to(location: &str, own: &dyn Fn(&str) -> bool) -> String {
    let at = location.find("://").filter(|at| {
        let scheme = &location[..*at];
        !scheme.is_empty()
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    });
    let (scheme, rest) = match (at, location.strip_prefix("//")) {
        (Some(at), _) => (&location[..at], &location[at + 3..]),
        (None, Some(rest)) => ("", rest),
        (None, None) => return location.to_owned(),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = (rest[..end].to_ascii_lowercase(), &rest[end..]);
    let slash = if path.starts_with('/') { "" } else { "/" };
    let bare = match scheme.to_ascii_lowercase().as_str() {
        "https" => host.strip_suffix(":443"),
        _ => host.strip_suffix(":80"),
    };
    if own(&host) || bare.is_some_and(own) {
        return format!("{slash}{path}");
    }
    let host = bare.unwrap_or(&host);
    format!("{}://{host}{slash}{path}", scheme.to_ascii_lowercase())
}

/// The scheme that a part of `WWW-Authenticate` begins; its parameters are further parts.
fn scheme(part: &str) -> Option<String> {
    let first = part.split_ascii_whitespace().next()?;
    (!first.contains('=')).then(|| first.to_ascii_lowercase())
}

/// Names and attributes; values are identities, which differ.
fn cookies(headers: &HeaderMap) -> String {
    let mut all: Vec<String> = lines(headers, &header::SET_COOKIE)
        .map(|line| {
            let mut parts = line.split(';').map(str::trim);
            // Without a `=` it is all name.
            let pair = parts.next().unwrap_or_default();
            let (name, value) = pair.split_once('=').unwrap_or((pair, "…"));
            let empty = if value.trim_matches('"').is_empty() { "=" } else { "" };
            let mut attributes: Vec<String> =
                parts.filter(|part| !part.is_empty()).map(cookie_attribute).collect();
            attributes.sort();
            format!("{name}{empty};{}", attributes.join(";"))
        })
        .collect();
    all.sort();
    all.join(",")
}

fn cookie_attribute(part: &str) -> String {
    let (name, value) = part.split_once('=').unwrap_or((part, ""));
    let name = name.trim().to_ascii_lowercase();
    match name.as_str() {
        // A date long gone takes the cookie away; any other differs by nature.
        "expires" if cookie_year(value).is_some_and(|year| year < LONG_GONE_YEAR) => "expires=gone".into(),
        "expires" => "expires".into(),
        // Where it is valid is told by case; other words are not.
        "path" => format!("{name}={}", value.trim()),
        _ => format!("{name}={}", value.trim().to_ascii_lowercase()),
    }
}

/// The year of a date as browsers read it, in any of the forms that servers have used. RFC 6265, section 5.1.1.
fn cookie_year(date: &str) -> Option<u32> {
    let numbers = date
        .split(|it: char| !it.is_ascii_alphanumeric() && it != ':')
        .filter(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    // The first number is the day.
    let year = numbers.skip(1).find(|part| part.len() == 2 || part.len() == 4)?;
    match (year.len(), year.parse().ok()?) {
        (2, year @ 70..) => Some(1900 + year),
        (2, year) => Some(2000 + year),
        (_, year) => Some(year),
    }
}
