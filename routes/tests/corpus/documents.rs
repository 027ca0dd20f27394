//! JSON documents grown from a seed, written in another way or changed in one place.
//!
//! Input: a seed. Output: pairs of one document written twice, and pairs of which one has another value, key or item. Must not: depend on how many
//! documents were grown before.

use crate::{JSON, Pair, Side, seeded};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::fmt::Write;

const TIMES: usize = 12;
const KEYS: [&str; 10] =
    ["total", "city", "번호", "seat", "a b", "fareClass", "ok", "x-y", "passengers", "note"];
const WORDS: [&str; 8] =
    ["Seoul", "", "a \"b\" \\ c", "한국어", "line\nbreak", "0", "true", "https://h.example/?q=1"];

#[derive(Clone, Debug, PartialEq)]
enum Json {
    Null,
    Bool(bool),
    /// Its digits.
    Number(String),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

fn grown(rng: &mut StdRng, depth: usize) -> Json {
    let mut keys = KEYS.to_vec();
    keys.shuffle(rng);
    keys.truncate(rng.random_range(3..6));
    Json::Object(keys.into_iter().map(|key| (key.to_owned(), value(rng, depth))).collect())
}

fn value(rng: &mut StdRng, depth: usize) -> Json {
    match rng.random_range(0..if depth == 0 { 6 } else { 9 }) {
        0 => Json::Null,
        1 => Json::Bool(rng.random_bool(0.5)),
        2 => Json::Number(rng.random_range(-99..9_999_999_999_i64).to_string()),
        3 => Json::Number(format!("{}.{}5", rng.random_range(0..999), rng.random_range(0..99))),
        4 | 5 => Json::Text(WORDS[rng.random_range(0..WORDS.len())].to_owned()),
        6 => {
            let count = rng.random_range(2..5);
            Json::List((0..count).map(|at| Json::Text(format!("{at}-{}", rng.random_range(0..99)))).collect())
        }
        7 => {
            let count = rng.random_range(2..4);
            Json::List(
                (0..count)
                    .map(|at| {
                        Json::Object(vec![
                            ("id".to_owned(), Json::Number((at * 7).to_string())),
                            ("price".to_owned(), Json::Number(format!("{}.25", rng.random_range(1..99)))),
                        ])
                    })
                    .collect(),
            )
        }
        _ => grown(rng, depth - 1),
    }
}

/// How a text may be written.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Style {
    Plain,
    /// Other spaces.
    Spaced,
    /// Keys in another order.
    Shuffled,
    /// Letters by their numbers.
    Escaped,
    /// Zeros at the end of fractions.
    Zeros,
}

fn written(json: &Json, style: Style, rng: &mut StdRng, out: &mut String) {
    let gap = if style == Style::Spaced { "\n  " } else { "" };
    match json {
        Json::Null => out.push_str("null"),
        Json::Bool(it) => write!(out, "{it}").unwrap(),
        Json::Number(digits) => {
            out.push_str(digits);
            if style == Style::Zeros && digits.contains('.') {
                out.push_str("00");
            }
        }
        Json::Text(it) => text(it, style, out),
        Json::List(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at == 0 { gap } else { "," });
                written(item, style, rng, out);
                out.push_str(gap);
            }
            out.push(']');
        }
        Json::Object(entries) => {
            let mut entries: Vec<&(String, Json)> = entries.iter().collect();
            if style == Style::Shuffled {
                entries.shuffle(rng);
            }
            out.push('{');
            for (at, (key, item)) in entries.into_iter().enumerate() {
                out.push_str(if at == 0 { gap } else { "," });
                text(key, style, out);
                out.push_str(gap);
                out.push(':');
                out.push_str(gap);
                written(item, style, rng, out);
            }
            out.push('}');
        }
    }
}

fn text(it: &str, style: Style, out: &mut String) {
    if style != Style::Escaped {
        return out.push_str(&serde_json::to_string(it).unwrap());
    }
    out.push('"');
    it.encode_utf16().for_each(|unit| write!(out, "\\u{unit:04X}").unwrap());
    out.push('"');
}

/// What is done to a document in one place.
#[derive(Clone, Copy, Debug)]
enum Change {
    Value,
    Type,
    Null,
    KeyGone,
    KeyMore,
    KeyRenamed,
    ItemGone,
    ItemMore,
    ItemTwice,
    Order,
    LastDigit,
    Fraction,
}

const CHANGES: [(Change, &str); 12] = [
    (Change::Value, "another text"),
    (Change::Type, "a number as text"),
    (Change::Null, "null for a value"),
    (Change::KeyGone, "a key that is gone"),
    (Change::KeyMore, "a key more"),
    (Change::KeyRenamed, "a key in another case"),
    (Change::ItemGone, "an item that is gone"),
    (Change::ItemMore, "an item more"),
    (Change::ItemTwice, "an item twice"),
    (Change::Order, "items in another order"),
    (Change::LastDigit, "the last digit of a number"),
    (Change::Fraction, "a whole number with a fraction"),
];

/// The path of a key, as differences write it.
fn below(path: &str, key: &str) -> String {
    let plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if plain { format!("{path}.{key}") } else { format!("{path}[\"{key}\"]") }
}

/// Changes the first place, by chance among those where it can be done; its path, or `None`.
fn changed(json: &mut Json, change: Change, path: &str, rng: &mut StdRng) -> Option<String> {
    if let Some(path) = done(json, change, path, rng) {
        return Some(path);
    }
    match json {
        Json::Object(entries) => {
            let mut order: Vec<usize> = (0..entries.len()).collect();
            order.shuffle(rng);
            order.into_iter().find_map(|at| {
                let (key, item) = &mut entries[at];
                changed(item, change, &below(path, key), rng)
            })
        }
        // Items are told apart by more than their place: what is inside is told at the list.
        Json::List(items) => {
            items.iter_mut().find_map(|item| changed(item, change, path, rng)).map(|_| path.to_owned())
        }
        _ => None,
    }
}

fn done(json: &mut Json, change: Change, path: &str, rng: &mut StdRng) -> Option<String> {
    let here = || Some(path.to_owned());
    match (change, json) {
        (Change::Value, Json::Text(it)) => {
            it.push('x');
            here()
        }
        (Change::Type, json @ Json::Number(_)) => {
            let Json::Number(digits) = json.clone() else { return None };
            *json = Json::Text(digits);
            here()
        }
        (Change::Null, json @ (Json::Text(_) | Json::Number(_) | Json::Bool(_))) => {
            *json = Json::Null;
            here()
        }
        (Change::KeyGone, Json::Object(entries)) => {
            let (key, _) = entries.remove(rng.random_range(0..entries.len()));
            Some(below(path, &key))
        }
        (Change::KeyMore, Json::Object(entries)) => {
            entries.push(("debug".to_owned(), Json::Null));
            Some(format!("{path}.debug"))
        }
        (Change::KeyRenamed, Json::Object(entries)) => {
            let (key, _) = entries.iter_mut().find(|(key, _)| *key == "total")?;
            *key = "Total".to_owned();
            Some(format!("{path}.total"))
        }
        (Change::ItemGone, Json::List(items)) => {
            items.remove(rng.random_range(0..items.len()));
            here()
        }
        (Change::ItemMore, Json::List(items)) => {
            items.insert(rng.random_range(0..=items.len()), Json::Text("more".to_owned()));
            here()
        }
        (Change::ItemTwice, Json::List(items)) => {
            items.push(items[0].clone());
            here()
        }
        (Change::Order, Json::List(items)) => {
            items.rotate_left(1);
            here()
        }
        (Change::LastDigit, Json::Number(digits)) => {
            let last = digits.pop()?;
            digits.push(if last == '4' { '7' } else { '4' });
            here()
        }
        (Change::Fraction, Json::Number(digits)) if !digits.contains('.') => {
            digits.push_str(".0");
            here()
        }
        _ => None,
    }
}

pub fn pairs() -> Vec<Pair> {
    let mut pairs = Vec::new();
    let side = |json: &Json, style, rng: &mut StdRng| {
        let mut out = String::new();
        written(json, style, rng, &mut out);
        Side::new(JSON, &out)
    };
    for (style, kind) in [
        (Style::Spaced, "JSON with other spaces"),
        (Style::Shuffled, "JSON with keys in another order"),
        (Style::Escaped, "JSON with letters as numbers"),
        (Style::Zeros, "JSON with zeros after fractions"),
    ] {
        let mut rng = seeded(kind);
        for _ in 0..TIMES {
            let json = grown(&mut rng, 2);
            let (a, b) = (side(&json, Style::Plain, &mut rng), side(&json, style, &mut rng));
            pairs.push(Pair::new(kind, None, a, b));
        }
    }
    for (change, kind) in CHANGES {
        let kind = format!("JSON: {kind}");
        let mut rng = seeded(&kind);
        let mut made = 0;
        while made < TIMES {
            let json = grown(&mut rng, 2);
            let mut other = json.clone();
            let Some(path) = changed(&mut other, change, "$", &mut rng).filter(|_| json != other) else {
                continue;
            };
            // Amid another way to write it.
            let (a, b) = (side(&json, Style::Plain, &mut rng), side(&other, Style::Shuffled, &mut rng));
            pairs.push(Pair::new(&kind, Some(&path), a, b));
            made += 1;
        }
    }
    pairs
}
