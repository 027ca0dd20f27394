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

/// How a header is read before it is compared.
#[derive(Clone, Copy)]
enum Reading {
    /// As a set of parts, order and case apart.
    Set,
    /// Whether it is there; its value differs by nature.
    Presence,
    /// As it is, line by line.
    Exact,
    /// As an address.
    Target,
    /// As addresses and what each is to this answer.
    Links,
    /// As names of schemes.
    Schemes,
    /// As directives in order; nonces are made anew for each page.
    Policy,
    /// As names and attributes of cookies.
    Cookies,
}

/// All that are compared of any answer.
const COMPARED: [(HeaderName, Reading); 25] = [
    (header::CACHE_CONTROL, Reading::Set),
    (header::VARY, Reading::Set),
    (header::ALLOW, Reading::Set),
    (header::ETAG, Reading::Presence),
    (header::LAST_MODIFIED, Reading::Presence),
    (header::CONTENT_LANGUAGE, Reading::Exact),
    (header::CONTENT_DISPOSITION, Reading::Exact),
    (header::RETRY_AFTER, Reading::Exact),
    (header::WWW_AUTHENTICATE, Reading::Schemes),
    (header::LOCATION, Reading::Target),
    (header::SET_COOKIE, Reading::Cookies),
    (header::CONTENT_LOCATION, Reading::Target),
    (header::LINK, Reading::Links),
    (header::REFRESH, Reading::Exact),
    // What lets pages of other origins read the answer.
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, Reading::Exact),
    (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, Reading::Exact),
    (header::ACCESS_CONTROL_ALLOW_METHODS, Reading::Set),
    (header::ACCESS_CONTROL_ALLOW_HEADERS, Reading::Set),
    (header::ACCESS_CONTROL_EXPOSE_HEADERS, Reading::Set),
    (header::ACCESS_CONTROL_MAX_AGE, Reading::Exact),
    // What a browser is told to guard against.
    (header::CONTENT_SECURITY_POLICY, Reading::Policy),
    (header::STRICT_TRANSPORT_SECURITY, Reading::Set),
    (header::X_CONTENT_TYPE_OPTIONS, Reading::Set),
    (header::X_FRAME_OPTIONS, Reading::Set),
    (header::REFERRER_POLICY, Reading::Set),
];
/// Nobody sets a cookie to last until then.
const LONG_GONE_YEAR: u32 = 2000;

pub fn compare(one: &Answer<'_>, other: &Answer<'_>, rules: &Rules, found: &mut Vec<Difference>) {
    let (legacy, serverless) = (one.headers, other.headers);
    let asked = [one.host, other.host];
    let own = |host: &str| asked.iter().any(|it| it.eq_ignore_ascii_case(host)) || rules.is_own(host);
    let mut check = |name: &HeaderName, reading: Reading| {
        // What both have in the same bytes is the same whatever is read from it.
        let raw = |headers| HeaderMap::get_all(headers, name).iter();
        if raw(legacy).eq(raw(serverless)) {
            return;
        }
        let path = format!("header.{name}");
        if rules.ignores(&path) {
            return;
        }
        let (a, b) = (read(legacy, name, reading, &own), read(serverless, name, reading, &own));
        if a == b || rules.at(&path).is_some_and(|typed| typed.holds(&a, &b) == Held::Yes) {
            return;
        }
        if (a.is_empty() || b.is_empty()) && rules.is_optional(&path) {
            return;
        }
        let value = |text: &str| if text.is_empty() { Value::absent() } else { Value::string(text) };
        found.push(Difference { path, kind: Kind::Header, legacy: value(&a), serverless: value(&b) });
    };
    let here = brought(legacy) | brought(serverless);
    for (at, (name, reading)) in COMPARED.iter().enumerate() {
        if here & (1 << at) != 0 {
            check(name, *reading);
        }
    }
    // Of any other, what a rule was written for.
    for name in rules.headers().iter().filter(|name| flag(name) == 0) {
        check(name, Reading::Exact);
    }
}

fn flag(name: &HeaderName) -> u32 {
    COMPARED.iter().position(|(it, _)| it == name).map_or(0, |at| 1 << at)
}

/// Which of them there are.
fn brought(headers: &HeaderMap) -> u32 {
    headers.keys().fold(0, |all, name| all | flag(name))
}

/// What a header says, as a text that is equal where it says the same. Empty: it is not there.
fn read(headers: &HeaderMap, name: &HeaderName, reading: Reading, own: &dyn Fn(&str) -> bool) -> String {
    let set = |parts: BTreeSet<String>| parts.into_iter().collect::<Vec<_>>().join(",");
    match reading {
        Reading::Set => set(lines(headers, name)
            .flat_map(|line| {
                line.split([',', ';']).map(|part| part.trim().to_ascii_lowercase()).collect::<Vec<_>>()
            })
            .filter(|part| !part.is_empty())
            .collect()),
        Reading::Presence if headers.contains_key(name) => "present".into(),
        Reading::Presence => String::new(),
        Reading::Exact => lines(headers, name).collect::<Vec<_>>().join(", "),
        Reading::Target => headers.get(name).map(|value| where_to(&text(value), own)).unwrap_or_default(),
        Reading::Links => set(lines(headers, name)
            .flat_map(|line| split_unquoted(&line, ',').map(|part| link(part, own)).collect::<Vec<_>>())
            .filter(|part| !part.is_empty())
            .collect()),
        Reading::Schemes => set(lines(headers, name)
            .flat_map(|line| split_unquoted(&line, ',').filter_map(scheme).collect::<Vec<_>>())
            .collect()),
        Reading::Policy => lines(headers, name).map(|line| policy(&line)).collect::<Vec<_>>().join(", "),
        Reading::Cookies => cookies(headers),
    }
}

/// All lines of a header.
fn lines<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = Cow<'a, str>> {
    headers.get_all(name).iter().map(text)
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

/// `</orders?page=2>; rel="next"`, its address as `where_to` has it and its parameters in order. RFC 8288.
fn link(part: &str, own: &dyn Fn(&str) -> bool) -> String {
    let Some((target, rest)) = part.trim().strip_prefix('<').and_then(|part| part.split_once('>')) else {
        return part.trim().to_owned();
    };
    let mut params: Vec<String> = split_unquoted(rest, ';')
        .map(|param| param.trim().replace('"', ""))
        .filter(|param| !param.is_empty())
        .collect();
    params.sort();
    format!("<{}>;{}", where_to(target.trim(), own), params.join(";"))
}

/// `script-src 'self' 'nonce-…'`, with one space between words.
fn policy(line: &str) -> String {
    let word =
        |it| if str::starts_with(it, "'nonce-") && it.len() > "'nonce-'".len() { "'nonce-…'" } else { it };
    let directives =
        line.split(';').map(|it| it.split_ascii_whitespace().map(word).collect::<Vec<_>>().join(" "));
    directives.filter(|it| !it.is_empty()).collect::<Vec<_>>().join(";")
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
