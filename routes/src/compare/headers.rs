//! The headers that mean something to a client. Transport headers, and those that change by themselves, say nothing.
//!
//! Input: both sides' headers. Output: differences. Must not: compare what a server puts on for itself: dates, ids, its name.

use super::form::split_unquoted;
use super::rules::Rules;
use super::typed::{Held, Typed};
use super::{Answer, Difference, Kind, Value};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// How a header is read before it is compared.
#[derive(Clone, Copy)]
enum Reading {
    /// As a set of parts between commas, order and case apart.
    Set,
    /// As a set of words that have their case.
    Words,
    /// As a set of parts between semicolons, order and case apart.
    Directives,
    /// As a list in which the order counts, and case does not.
    List,
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
    (header::ALLOW, Reading::Words),
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
    (header::ACCESS_CONTROL_ALLOW_METHODS, Reading::Words),
    (header::ACCESS_CONTROL_ALLOW_HEADERS, Reading::Set),
    (header::ACCESS_CONTROL_EXPOSE_HEADERS, Reading::Set),
    (header::ACCESS_CONTROL_MAX_AGE, Reading::Exact),
    // What a browser is told to guard against.
    (header::CONTENT_SECURITY_POLICY, Reading::Policy),
    (header::STRICT_TRANSPORT_SECURITY, Reading::Directives),
    (header::X_CONTENT_TYPE_OPTIONS, Reading::Set),
    (header::X_FRAME_OPTIONS, Reading::Set),
    (header::REFERRER_POLICY, Reading::List),
];
/// Nobody sets a cookie to last until then.
const LONG_GONE_YEAR: u32 = 2025;

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
        let rule = rules.at(&path);
        let reading = if rule == Some(&Typed::Exact) { Reading::Exact } else { reading };
        let (a, b) = (read(legacy, name, reading, &own), read(serverless, name, reading, &own));
        // A rule may be about what is sent, or about what it comes to.
        let sent = |headers| read(headers, name, Reading::Exact, &own);
        let held = |typed: &Typed| {
            typed.holds(&a, &b) == Held::Yes || typed.holds(&sent(legacy), &sent(serverless)) == Held::Yes
        };
        if a == b || rule.is_some_and(held) {
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
    let parts = |separator: char, case: &dyn Fn(&str) -> String| {
        let of = |line: Cow<'_, str>| {
            split_unquoted(&line, separator).map(|it| case(it.trim())).collect::<Vec<_>>()
        };
        lines(headers, name).flat_map(of).filter(|part| !part.is_empty()).collect::<Vec<String>>()
    };
    let lower = |part: &str| part.to_ascii_lowercase();
    // One that is there and says nothing is there.
    let or_empty = |text: String| {
        if text.is_empty() && headers.contains_key(name) { "\"\"".to_owned() } else { text }
    };
    match reading {
        Reading::Set => set(parts(',', &lower).into_iter().collect()),
        Reading::Words => set(parts(',', &str::to_owned).into_iter().collect()),
        Reading::Directives => set(parts(';', &lower).into_iter().collect()),
        Reading::List => parts(',', &lower).join(","),
        Reading::Presence if headers.contains_key(name) => "present".into(),
        Reading::Presence => String::new(),
        Reading::Exact => or_empty(lines(headers, name).collect::<Vec<_>>().join(", ")),
        Reading::Target => {
            or_empty(headers.get(name).map(|value| where_to(&text(value), own)).unwrap_or_default())
        }
        Reading::Links => set(lines(headers, name)
            .flat_map(|line| addresses(&line).into_iter().map(|part| link(part, own)).collect::<Vec<_>>())
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
        Err(_) => value
            .as_bytes()
            .iter()
            .map(|byte| match byte {
                0..=0x7f => char::from(*byte).to_string(),
                // Marked by what no text has.
                byte => format!("\u{fdd0}{byte:02x}"),
            })
            .collect::<String>()
            .into(),
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

/// Parts of a `Link`: a comma inside an address parts nothing.
fn addresses(line: &str) -> Vec<&str> {
    let (mut parts, mut start, mut inside) = (Vec::new(), 0, None);
    for (at, letter) in line.char_indices() {
        match (inside, letter) {
            (None, '<') => inside = Some('>'),
            (None, '"') => inside = Some('"'),
            (Some(end), letter) if letter == end => inside = None,
            (None, ',') => {
                parts.push(&line[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&line[start..]);
    parts
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
    let nonce = |it: &str| {
        let inside = it.strip_prefix("'nonce-").and_then(|it| it.strip_suffix('\''));
        inside.is_some_and(|it| !it.is_empty())
    };
    let word = |it| if nonce(it) { "'nonce-…'" } else { it };
    let directives =
        line.split(';').map(|it| it.split_ascii_whitespace().map(word).collect::<Vec<_>>().join(" "));
    directives.filter(|it| !it.is_empty()).collect::<Vec<_>>().join(";")
}

/// The scheme that a part of `WWW-Authenticate` begins; its parameters are further parts.
fn scheme(part: &str) -> Option<String> {
    let first = part.split_ascii_whitespace().next()?;
    (!first.contains('=')).then(|| first.to_ascii_lowercase())
}

/// Names and attributes; values are identities, which differ. Those of one name stay in their order: the last one counts.
fn cookies(headers: &HeaderMap) -> String {
    let mut all: Vec<(String, String)> = lines(headers, &header::SET_COOKIE)
        .map(|line| {
            let mut parts = line.split(';').map(str::trim);
            // Without a `=` it is all name.
            let pair = parts.next().unwrap_or_default();
            let (name, value) = pair.split_once('=').unwrap_or((pair, "…"));
            let empty = if value.trim_matches('"').is_empty() { "=" } else { "" };
            // Of an attribute that is said twice, the last one.
            let attributes: BTreeMap<String, String> =
                parts.filter(|part| !part.is_empty()).filter_map(cookie_attribute).collect();
            let attributes: Vec<String> =
                attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
            (name.to_owned(), format!("{name}{empty};{}", attributes.join(";")))
        })
        .collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all.into_iter().map(|(_, cookie)| cookie).collect::<Vec<_>>().join(",")
}

/// `None`: browsers do not see it.
fn cookie_attribute(part: &str) -> Option<(String, String)> {
    let (name, value) = part.split_once('=').unwrap_or((part, ""));
    let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
    let value = match name.as_str() {
        // A date long gone takes the cookie away; any other differs by nature.
        "expires" => match cookie_year(value)? {
            ..LONG_GONE_YEAR => "gone".into(),
            _ => "later".into(),
        },
        // Where it is valid is told by case; other words are not.
        "path" => value.to_owned(),
        _ => value.to_ascii_lowercase(),
    };
    Some((name, value))
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
