//! HTML -> `Node`, as a browser reads it. WHATWG HTML, section 13.2.
//!
//! Input: decoded text. Output: elements, with what is made anew for every page taken out: nonces, tokens against forged forms,
//! hashes in the names of assets. Must not: take out what a user sees or what a form sends otherwise.

use super::Unknown;
use super::bounds::{NESTED_MAX, is_too_much_html};
use super::node::{Budget, Element, Node};
use super::xml::collapse;
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

pub fn read(text: &str, budget: &mut Budget) -> Result<Node, Unknown> {
    if is_too_much_html(text) {
        return Err(Unknown::Budget);
    }
    let document = Html::parse_document(text);
    let mut root = element(document.root_element(), false, 0, budget)?;
    if let Node::Element(root) = &mut root
        && let Some(doctype) = doctype(&document)
    {
        root.attributes.insert("doctype".into(), doctype.into());
    }
    Ok(root)
}

/// By another than today's, or without one, a page is laid out by other rules.
fn doctype(document: &Html) -> Option<String> {
    let named = document.tree.root().children().find_map(|child| child.value().as_doctype());
    let id = named.map_or_else(|| "none".to_owned(), |it| it.public_id().to_ascii_lowercase());
    (!id.is_empty()).then_some(id)
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
    if depth > NESTED_MAX {
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
            "nonce" if is_made(value) => "…".into(),
            "value" | "content" if holds_token && is_made(value) => "…".into(),
            "class" => {
                let mut names: Vec<&str> = value.split_ascii_whitespace().collect();
                names.sort_unstable();
                names.dedup();
                names.join(" ")
            }
            // The hash of what is loaded, where its name has one too.
            "integrity" if asset && is_made(value) && is_hashed(raw) => "…".into(),
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

/// Whether a hash was taken out of the name of what is loaded.
fn is_hashed(raw: &scraper::node::Element) -> bool {
    let named = raw.attr("src").or(raw.attr("href"));
    named.is_some_and(|it| without_hash(it) != it)
}

/// Long, and no word.
fn is_made(value: &str) -> bool {
    value.len() >= HASH_MIN && value.bytes().any(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
}

/// What the version of a file is called in a query.
const VERSIONS: [&str; 8] = ["v", "ver", "version", "rev", "h", "hash", "cb", "_"];

/// `/app.3f9a2b1c.js?v=9` -> `/app.….js?v=9`: of the file's name and its version; what stands elsewhere may be whose file it is.
fn without_hash(target: &str) -> String {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let (folder, name) = path.split_at(path.rfind('/').map_or(0, |at| at + 1));
    let mut out = folder.to_owned();
    // Without an ending it is no file.
    if name.contains('.') {
        masked(name, &mut out)
    } else {
        out.push_str(name)
    }
    for pair in query.split_inclusive(['?', '&']) {
        match pair.split_once('=') {
            Some((version, value)) if VERSIONS.contains(&version) => {
                out.extend([version, "="]);
                masked(value, &mut out);
            }
            // All that there is of a query.
            None if !query.contains('=') => masked(pair, &mut out),
            _ => out.push_str(pair),
        }
    }
    out
}

fn masked(text: &str, out: &mut String) {
    for part in text.split_inclusive(['.', '-', '/', '?', '&', '=', '_']) {
        let bare = part.trim_end_matches(['.', '-', '/', '?', '&', '=', '_']);
        let letters = bare.bytes().any(|byte| byte.is_ascii_alphabetic());
        let digits = bare.bytes().any(|byte| byte.is_ascii_digit());
        let is_hash =
            bare.len() >= HASH_MIN && letters && digits && bare.bytes().all(|byte| byte.is_ascii_hexdigit());
        out.push_str(if is_hash { "…" } else { bare });
        out.push_str(&part[bare.len()..]);
    }
}
