//! HTML -> `Node`, as a browser reads it. WHATWG HTML, section 13.2.
//!
//! Input: decoded text. Output: elements, with what is made anew for every page taken out: nonces, tokens against forged forms,
//! hashes in the names of assets. Must not: take out what a user sees or what a form sends otherwise.

use super::Unknown;
use super::node::{Budget, DEPTH_MAX, Element, Node};
use scraper::{ElementRef, Html};
use std::collections::BTreeMap;

/// Names of form fields and meta elements that hold a token against forged requests.
const TOKENS: [&str; 10] = [
    "csrf",
    "_csrf",
    "csrf_token",
    "csrf-token",
    "_token",
    "authenticity_token",
    "csrfmiddlewaretoken",
    "__requestverificationtoken",
    "__viewstate",
    "__eventvalidation",
];
/// Digits and letters from here on are a hash and not a version or a word.
const HASH_MIN: usize = 8;

pub fn read(text: &str, budget: &mut Budget) -> Result<Node, Unknown> {
    let document = Html::parse_document(text);
    element(document.root_element(), false, 0, budget)
}

fn element(
    source: ElementRef<'_>,
    verbatim: bool,
    depth: usize,
    budget: &mut Budget,
) -> Result<Node, Unknown> {
    if depth > DEPTH_MAX {
        return Err(Unknown::Budget);
    }
    let raw = source.value();
    let name = raw.name();
    let holds_token = [raw.attr("name"), raw.attr("id")]
        .into_iter()
        .flatten()
        .any(|it| TOKENS.contains(&it.to_ascii_lowercase().as_str()));
    let mut attributes: BTreeMap<Box<str>, Box<str>> = BTreeMap::new();
    for (key, value) in raw.attrs() {
        let value: String = match key {
            // As long as they are there: an empty one, or a word, works no more.
            "nonce" | "integrity" if is_made(value) => "…".into(),
            "value" | "content" if holds_token && is_made(value) => "…".into(),
            "class" => {
                let mut names: Vec<&str> = value.split_ascii_whitespace().collect();
                names.sort_unstable();
                names.dedup();
                names.join(" ")
            }
            // What a page links to or shows is content, whatever its name looks like.
            "src" | "href" if matches!(name, "script" | "link") => without_hash(value),
            _ => value.to_owned(),
        };
        attributes.insert(key.into(), value.into());
    }
    budget.spend(1 + attributes.len())?;
    let verbatim = verbatim || matches!(name, "pre" | "textarea" | "script" | "style");
    let mut children: Vec<Node> = Vec::new();
    // What a template holds hangs in a fragment of its own.
    let inside = source.children().flat_map(|child| {
        let fragment = child.value().is_fragment();
        let own = (!fragment).then_some(child);
        own.into_iter().chain(child.children().filter(move |_| fragment))
    });
    for child in inside {
        if let Some(inner) = ElementRef::wrap(child) {
            children.push(element(inner, verbatim, depth + 1, budget)?);
        } else if let Some(text) = child.value().as_text() {
            let text = if verbatim {
                text.to_string()
            } else {
                text.split_whitespace().collect::<Vec<_>>().join(" ")
            };
            match children.last_mut() {
                _ if text.is_empty() => {}
                Some(Node::Text(before)) => *before = format!("{before} {text}").into(),
                _ => children.push(Node::Text(text.into())),
            }
        }
    }
    Ok(Node::Element(Box::new(Element { namespace: "".into(), name: name.into(), attributes, children })))
}

/// Long, and no word.
fn is_made(value: &str) -> bool {
    value.len() >= HASH_MIN && value.bytes().any(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
}

/// `/app.3f9a2b1c.js?v=9` -> `/app.….js?v=9`.
fn without_hash(target: &str) -> String {
    let mut out = String::with_capacity(target.len());
    for part in target.split_inclusive(['.', '-', '/', '?', '&', '=', '_']) {
        let bare = part.trim_end_matches(['.', '-', '/', '?', '&', '=', '_']);
        let letters = bare.bytes().any(|byte| byte.is_ascii_alphabetic());
        let digits = bare.bytes().any(|byte| byte.is_ascii_digit());
        let is_hash =
            bare.len() >= HASH_MIN && letters && digits && bare.bytes().all(|byte| byte.is_ascii_hexdigit());
        out.push_str(if is_hash { "…" } else { bare });
        out.push_str(&part[bare.len()..]);
    }
    out
}
