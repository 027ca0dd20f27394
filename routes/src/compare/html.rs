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
/// Links that load what a page is made of; others lead somewhere.
const ASSETS: [&str; 7] =
    ["stylesheet", "preload", "modulepreload", "prefetch", "icon", "apple-touch-icon", "manifest"];
/// Digits and letters from here on are a hash and not a version or a word.
const HASH_MIN: usize = 8;

/// Nesting that is parsed at all. How long a parser takes for a document grows with the square of its depth.
const NESTED_MAX: usize = 512;

pub fn read(text: &str, budget: &mut Budget) -> Result<Node, Unknown> {
    if is_too_deep(text) {
        return Err(Unknown::Budget);
    }
    let document = Html::parse_document(text);
    element(document.root_element(), false, 0, budget)
}

/// Elements that end by themselves, or by the next of their kind.
const UNCLOSED: [&str; 28] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track",
    "wbr", "p", "li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "tfoot", "option", "optgroup", "rp",
    "rt",
];
/// What is inside is text.
const VERBATIM: [&str; 4] = ["script", "style", "textarea", "title"];

/// By its tags alone, without reading it as a browser does.
fn is_too_deep(text: &str) -> bool {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'<', rest.as_bytes()) {
        rest = &rest[at + 1..];
        if let Some(comment) = rest.strip_prefix("!--") {
            rest = comment.find("-->").map_or("", |end| &comment[end + 3..]);
            continue;
        }
        let closes = rest.starts_with('/');
        let tag = rest.strip_prefix('/').unwrap_or(rest);
        let end = tag.find(|it: char| !it.is_ascii_alphanumeric() && it != '-').unwrap_or(tag.len());
        let (name, after) = tag.split_at(end);
        rest = after;
        let is_one_of = |names: &[&str]| names.iter().any(|it| it.eq_ignore_ascii_case(name));
        if name.is_empty() || is_one_of(&UNCLOSED) {
            continue;
        }
        if closes {
            // One that closes nothing near is nothing to a parser either.
            let near = open.iter().rev().take(8).position(|it| it.eq_ignore_ascii_case(name));
            near.into_iter().for_each(|back| open.truncate(open.len() - 1 - back));
            continue;
        }
        if is_one_of(&VERBATIM) {
            let lower = |window: &[u8]| window.eq_ignore_ascii_case(name.as_bytes());
            let closed = memchr::memmem::find_iter(rest.as_bytes(), b"</")
                .find(|at| rest.as_bytes().get(at + 2..at + 2 + name.len()).is_some_and(lower));
            rest = closed.map_or("", |at| &rest[at + 2..]);
            continue;
        }
        open.push(name);
        if open.len() > NESTED_MAX {
            return true;
        }
    }
    false
}

/// What begins and ends a line of text, so that space beside it is not seen.
const BLOCKS: [&str; 62] = [
    "html",
    "head",
    "body",
    "title",
    "base",
    "meta",
    "link",
    "script",
    "style",
    "noscript",
    "template",
    "address",
    "article",
    "aside",
    "blockquote",
    "center",
    "details",
    "summary",
    "dialog",
    "dd",
    "div",
    "dl",
    "dt",
    "fieldset",
    "legend",
    "figcaption",
    "figure",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "hgroup",
    "hr",
    "br",
    "li",
    "main",
    "menu",
    "nav",
    "ol",
    "ul",
    "p",
    "search",
    "section",
    "table",
    "caption",
    "colgroup",
    "col",
    "thead",
    "tbody",
    "tfoot",
    "tr",
    "td",
    "th",
    "select",
    "option",
    "optgroup",
    "datalist",
];

fn is_block(name: &str) -> bool {
    BLOCKS.contains(&name)
}

/// Space in running text is one space; that beside a block is none. A no-break space is none of it.
fn collapse(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for part in text.split_inclusive(|it: char| it.is_ascii_whitespace()) {
        let word = part.trim_end_matches(|it: char| it.is_ascii_whitespace());
        out.push_str(word);
        if word.len() < part.len() && !out.ends_with(' ') {
            out.push(' ');
        }
    }
    out
}

/// Takes out the space that is at an edge of a block.
fn trim(children: &mut Vec<Node>, inside_block: bool) {
    let is_edge = |node: Option<&Node>| match node {
        Some(Node::Element(element)) => is_block(&element.name),
        Some(_) => false,
        None => inside_block,
    };
    for at in 0..children.len() {
        let before = is_edge(at.checked_sub(1).and_then(|at| children.get(at)));
        let after = is_edge(children.get(at + 1));
        let Node::Text(text) = &mut children[at] else { continue };
        let trimmed: &str = if before { text.trim_start_matches(' ') } else { &*text };
        let trimmed = if after { trimmed.trim_end_matches(' ') } else { trimmed };
        if trimmed.len() < text.len() {
            let trimmed = trimmed.into();
            *text = trimmed;
        }
    }
    children.retain(|child| !matches!(child, Node::Text(text) if text.is_empty()));
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
    // A form sends what has a name; an id alone names what a script reads.
    let holds_token = raw
        .attr("name")
        .or(raw.attr("id"))
        .is_some_and(|it| TOKENS.contains(&it.to_ascii_lowercase().as_str()));
    let asset = name == "script"
        || name == "link"
            && raw.attr("rel").is_some_and(|rel| {
                rel.split_ascii_whitespace()
                    .any(|it| ASSETS.iter().any(|known| known.eq_ignore_ascii_case(it)))
            });
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
            "src" | "href" if asset => without_hash(value),
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
            let text = if verbatim { text.to_string() } else { collapse(text) };
            match children.last_mut() {
                _ if text.is_empty() => {}
                // A comment in the middle does not make two texts.
                Some(Node::Text(before)) if verbatim => *before = format!("{before}{text}").into(),
                Some(Node::Text(before)) => *before = collapse(&format!("{before}{text}")).into(),
                _ => children.push(Node::Text(text.into())),
            }
        }
    }
    if !verbatim {
        trim(&mut children, is_block(name));
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
