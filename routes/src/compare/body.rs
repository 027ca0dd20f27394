//! Bodies by their media type: JSON, XML, HTML and forms by value, text by line, anything else by byte.
//!
//! Input: bodies without content coding. Output: differences, or why there is no knowing. Must not: call two bodies equal of which
//! one was not seen to its end.

use super::align::{Step, by_order};
use super::charset::{Decoded, decode, decode_both, is_ascii_compatible};
use super::node::{Budget, Node};
use super::rules::Rules;
use super::typed::Held;
use super::walk::Walker;
use super::{Answer, DIFFERENCES_MAX, Difference, Kind, Unknown, Value, form, html, json, xml};
use http::{HeaderMap, header};
use std::borrow::Cow;
use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_64;

/// Bodies within bodies: parts of a form that are forms.
const NESTED_MAX: usize = 2;

/// What a media type is compared as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Xml,
    Html,
    Form,
    Multipart,
    Text,
    Bytes,
}

impl Format {
    fn of(media_type: &str) -> Format {
        match media_type {
            "application/json" | "text/json" => Format::Json,
            "text/html" | "application/xhtml+xml" => Format::Html,
            "text/xml" | "application/xml" => Format::Xml,
            "application/x-www-form-urlencoded" => Format::Form,
            "application/javascript" | "application/ecmascript" | "application/yaml" => Format::Text,
            it if it.ends_with("+json") => Format::Json,
            it if it.ends_with("+xml") => Format::Xml,
            it if it.starts_with("multipart/") => Format::Multipart,
            it if it.starts_with("text/") => Format::Text,
            _ => Format::Bytes,
        }
    }
}

pub fn compare(
    legacy: &Answer<'_>,
    serverless: &Answer<'_>,
    rules: &Rules,
    found: &mut Vec<Difference>,
) -> Option<Unknown> {
    let empty = legacy.body.is_empty() && serverless.body.is_empty();
    let (a, b) = (content_type(legacy.headers), content_type(serverless.headers));
    // An answer without a body needs no type; two that name one mean something by it.
    let silent = empty && (a.is_empty() || b.is_empty());
    let other_type = bare(a) != bare(b) && !silent;
    let told = other_type && named("header.content-type", Kind::MediaType, &bare(a), &bare(b), rules, found);
    let cut = legacy.truncated || serverless.truncated;
    if legacy.body == serverless.body {
        charsets(a, b, legacy.body, rules, found);
        return cut.then_some(Unknown::Truncated);
    }
    if cut {
        // Two pieces of documents cannot be walked, and a difference in one may be nothing but where it was cut.
        return Some(Unknown::Truncated);
    }
    if legacy.body.is_empty() != serverless.body.is_empty() {
        let kind = if serverless.body.is_empty() { Kind::Missing } else { Kind::Extra };
        let shape = |body: &[u8]| {
            if body.is_empty() { Value::absent() } else { Value::shaped(&format!("bytes({})", body.len())) }
        };
        found.push(Difference {
            path: "body".into(),
            kind,
            legacy: shape(legacy.body),
            serverless: shape(serverless.body),
        });
        return None;
    }
    let budget = Budget::default();
    let mut walker = Walker { rules, found, budget, full: false };
    let (a, b) = if other_type && !told { alike(a, b) } else { (a.into(), b.into()) };
    bodies(&mut walker, (&a, legacy.body), (&b, serverless.body), "", 0).err()
}

/// Two types that the rules hold for one: both are read as the one that says more of the body.
fn alike<'a>(a: &'a str, b: &'a str) -> (Cow<'a, str>, Cow<'a, str>) {
    let says_more = |kind: &str| !matches!(Format::of(&bare(kind)), Format::Bytes | Format::Text);
    let kind = if says_more(a) || !says_more(b) && !a.is_empty() { bare(a) } else { bare(b) };
    let with = |own: &str| [&*kind, own.find(';').map_or("", |at| &own[at..])].concat().into();
    (with(a), with(b))
}

/// The same bytes, to be read in another character set.
fn charsets(a: &str, b: &str, body: &[u8], rules: &Rules, found: &mut Vec<Difference>) {
    let is_text =
        |kind: &str| !matches!(Format::of(&bare(kind)), Format::Bytes | Format::Form | Format::Multipart);
    // What is said in the same words is read in the same way.
    if a == b || !is_text(a) || !is_text(b) {
        return;
    }
    let (one, other) = decode_both((a, body), (b, body));
    // Letters that are the same in most sets are not in those that shift, or take two bytes for each.
    let plain = body.is_ascii() && is_ascii_compatible(one.charset) && is_ascii_compatible(other.charset);
    if one.charset != other.charset && !plain {
        named("header.content-type", Kind::Charset, one.charset, other.charset, rules, found);
    } else if is_unsaid(Format::of(&bare(a)), &one, &other) {
        named("header.content-type", Kind::Charset, one.charset, "", rules, found);
    }
}

/// Serverless leaves to a guess what legacy says. JSON and XML have a set of their own where nothing is said.
fn is_unsaid(format: Format, legacy: &Decoded<'_>, serverless: &Decoded<'_>) -> bool {
    matches!(format, Format::Html | Format::Text)
        && !legacy.guessed
        && serverless.guessed
        && !serverless.text.is_ascii()
}

/// A difference of two names, unless the rules say it is none; whether it was told.
fn named(path: &str, kind: Kind, a: &str, b: &str, rules: &Rules, found: &mut Vec<Difference>) -> bool {
    let held = rules.at(path).map_or(Held::NotMeant, |typed| typed.holds(a, b));
    let absent = (a.is_empty() || b.is_empty()) && rules.is_optional(path);
    let told = held != Held::Yes && !absent && !rules.ignores(path);
    if told {
        let value = |name: &str| if is_name(name) { Value::named(name) } else { Value::string(name) };
        found.push(Difference { path: path.into(), kind, legacy: value(a), serverless: value(b) });
    }
    told
}

/// A media type or a character set, and not what somebody else has put into their place.
pub fn is_name(text: &str) -> bool {
    const TYPES: [&str; 9] =
        ["application", "audio", "font", "image", "message", "model", "multipart", "text", "video"];
    let word = |text: &str| {
        text.len() <= 48
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._+".contains(&byte))
            && !text.as_bytes().windows(6).any(|run| run.iter().all(u8::is_ascii_digit))
    };
    match text.split_once('/') {
        Some((top, sub)) => TYPES.contains(&top) && word(sub),
        None => text.is_empty() || super::charset::is_label(text),
    }
}

/// `prefix` is the path of a part; empty for a whole body.
fn bodies(
    walker: &mut Walker<'_>,
    (a_type, a): (&str, &[u8]),
    (b_type, b): (&str, &[u8]),
    prefix: &str,
    depth: usize,
) -> Result<(), Unknown> {
    if a == b {
        return Ok(());
    }
    let format = Format::of(&bare(a_type));
    if format != Format::of(&bare(b_type)) {
        // Another kind of document; that was said, and there is nothing to lay beside each other.
        return Ok(());
    }
    match format {
        Format::Bytes => return bytes(walker, a, b, prefix),
        Format::Form => {
            let mut path = format!("{prefix}form");
            return walker.walk(&form::urlencoded(a), &form::urlencoded(b), &mut path);
        }
        Format::Multipart if depth < NESTED_MAX => {
            let parts = form::multipart(a_type, a)?.zip(form::multipart(b_type, b)?);
            return match parts {
                Some((one, other)) => multipart(walker, &one, &other, prefix, depth),
                None => bytes(walker, a, b, prefix),
            };
        }
        Format::Multipart | Format::Json | Format::Xml | Format::Html | Format::Text => {}
    }
    let (one, other) = decode_both((a_type, a), (b_type, b));
    if one.damaged || other.damaged {
        return bytes(walker, a, b, prefix);
    }
    let unsaid = is_unsaid(format, &one, &other);
    if unsaid || one.charset != other.charset && !(one.text.is_ascii() && other.text.is_ascii()) {
        let path =
            if prefix.is_empty() { "header.content-type".to_owned() } else { format!("{prefix}charset") };
        let (here, there) = (one.charset, if unsaid { "" } else { other.charset });
        named(&path, Kind::Charset, here, there, walker.rules, walker.found);
    }
    documents(walker, format, &one, &other, prefix)
}

fn documents(
    walker: &mut Walker<'_>,
    format: Format,
    a: &Decoded<'_>,
    b: &Decoded<'_>,
    prefix: &str,
) -> Result<(), Unknown> {
    let budget = &mut walker.budget;
    let pair = match format {
        Format::Json => json::read(&a.text, budget)?.zip(json::read(&b.text, budget)?),
        Format::Xml => xml::read(&a.text, budget)?.zip(xml::read(&b.text, budget)?),
        Format::Html => Some((html::read(&a.text, budget)?, html::read(&b.text, budget)?)),
        Format::Form | Format::Multipart | Format::Text | Format::Bytes => None,
    };
    let Some((one, other)) = pair else {
        // Text, or what only calls itself something else.
        return lines(walker, &a.text, &b.text, prefix);
    };
    let root = match &one {
        Node::Element(element) => format!("{prefix}/{}", element.name),
        _ => format!("{prefix}$"),
    };
    walker.walk(&one, &other, &mut root.clone())
}

fn multipart(
    walker: &mut Walker<'_>,
    a: &[form::Part<'_>],
    b: &[form::Part<'_>],
    prefix: &str,
    depth: usize,
) -> Result<(), Unknown> {
    let group = |parts: &[form::Part<'_>]| {
        let mut names: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (at, part) in parts.iter().enumerate() {
            names.entry(part.name.clone()).or_default().push(at);
        }
        names
    };
    let (left, right) = (group(a), group(b));
    let none = Vec::new();
    for name in left.keys().chain(right.keys().filter(|name| !left.contains_key(*name))) {
        let path = format!("{prefix}part.{name}");
        if walker.rules.ignores(&path) {
            continue;
        }
        let (one, other) = (left.get(name).unwrap_or(&none), right.get(name).unwrap_or(&none));
        for (x, y) in one.iter().zip(other) {
            let (x, y) = (&a[*x], &b[*y]);
            let (one, other) = (bare(&x.media_type), bare(&y.media_type));
            let kind_path = format!("{path}.content-type");
            let told =
                one != other && named(&kind_path, Kind::MediaType, &one, &other, walker.rules, walker.found);
            let (one, other) = if one != other && !told {
                alike(&x.media_type, &y.media_type)
            } else {
                ((&*x.media_type).into(), (&*y.media_type).into())
            };
            let file = |part: &form::Part<'_>| part.file_name.clone().unwrap_or_default();
            let (here, there) = (file(x), file(y));
            let name_path = format!("{path}.filename");
            let held = walker.rules.at(&name_path).is_some_and(|it| it.holds(&here, &there) == Held::Yes);
            if here != there && !held && !walker.rules.ignores(&name_path) {
                // What people call their files says something of them.
                let (legacy, serverless) = (Value::string(&here), Value::string(&there));
                walker.found.push(Difference { path: name_path, kind: Kind::Value, legacy, serverless });
            }
            bodies(walker, (&one, x.body), (&other, y.body), &format!("{path}."), depth + 1)?;
        }
        if one.len() != other.len() && !walker.rules.is_optional(&path) {
            let kind = if one.len() > other.len() { Kind::Missing } else { Kind::Extra };
            let count = |parts: &[usize]| Value::shaped(&format!("list({})", parts.len()));
            walker.found.push(Difference { path, kind, legacy: count(one), serverless: count(other) });
        }
    }
    Ok(())
}

/// A body as it would be compared: its document, or its text. `None`: bytes, or too much to read.
pub fn document(headers: &HeaderMap, body: &[u8]) -> Option<Node> {
    let kind = content_type(headers);
    let format = Format::of(&bare(kind));
    if format == Format::Form {
        return Some(form::urlencoded(body));
    }
    if matches!(format, Format::Bytes | Format::Multipart) {
        return None;
    }
    let (decoded, mut budget) = (decode(kind, body), Budget::default());
    let text = &decoded.text;
    let found = match format {
        Format::Json => json::read(text, &mut budget).ok()?,
        Format::Xml => xml::read(text, &mut budget).ok()?,
        Format::Html => html::read(text, &mut budget).ok(),
        Format::Form | Format::Multipart | Format::Text | Format::Bytes => None,
    };
    (!decoded.damaged).then(|| {
        found.unwrap_or_else(|| Node::List(text.lines().map(|line| Node::Text(line.into())).collect()))
    })
}

/// Lines by their longest common subsequence; how they end (CR LF, LF) is not compared.
fn lines(walker: &mut Walker<'_>, a: &str, b: &str, prefix: &str) -> Result<(), Unknown> {
    let (left, right): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    walker.budget.spend(left.len() + right.len())?;
    let prints = |lines: &[&str]| lines.iter().map(|line| xxh3_64(line.as_bytes())).collect::<Vec<u64>>();
    for step in by_order(&prints(&left), &prints(&right), &mut walker.budget)? {
        let (path, kind, one, other) = match step {
            Step::Same(..) => continue,
            Step::Changed(x, y) => (x, Kind::Text, Some(left[x]), Some(right[y])),
            Step::Legacy(x) => (x, Kind::Missing, Some(left[x]), None),
            Step::Serverless(y) => (y, Kind::Extra, None, Some(right[y])),
        };
        let path = format!("{prefix}line {}", path + 1);
        let held = walker
            .rules
            .at(&path)
            .zip(one.zip(other))
            .map_or(Held::NotMeant, |(typed, (a, b))| typed.holds(a, b));
        let optional = kind != Kind::Text && walker.rules.is_optional(&path);
        if held == Held::Yes
            || optional
            || walker.rules.ignores(&path)
            || walker.found.len() >= DIFFERENCES_MAX
        {
            continue;
        }
        let kind = if held == Held::No { Kind::Shape } else { kind };
        let value = |line: Option<&str>| line.map_or_else(Value::absent, Value::string);
        walker.found.push(Difference { path, kind, legacy: value(one), serverless: value(other) });
    }
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "all kinds of bodies are compared alike")]
fn bytes(walker: &mut Walker<'_>, a: &[u8], b: &[u8], prefix: &str) -> Result<(), Unknown> {
    let shape = |bytes: &[u8]| Value::shaped(&format!("bytes({})", bytes.len()));
    let (path, kind) = match a.iter().zip(b).position(|(a, b)| a != b) {
        Some(at) => (format!("{prefix}byte {at}"), Kind::Bytes),
        None => (format!("{prefix}length"), Kind::Length),
    };
    walker.found.push(Difference { path, kind, legacy: shape(a), serverless: shape(b) });
    Ok(())
}

fn content_type(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// `application/json`, without parameters, in lower case.
fn bare(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}
