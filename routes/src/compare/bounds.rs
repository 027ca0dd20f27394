//! What a parser of markup would take too long for, told by its tags alone.
//!
//! Input: decoded text of XML or HTML. Output: whether it is left alone. Must not: read a document as a browser does, or hold up one that people write.

/// Nesting of HTML. How long a parser takes for a document grows with the square of its depth.
pub const NESTED_MAX: usize = 128;
/// Attributes of one element: parsers compare each with all before it.
const ATTRIBUTES_MAX: usize = 1_000;
/// Elements that a parser opens again and again, because they were never closed: `<b>` in each paragraph that follows.
const REOPENED_MAX: usize = 100_000;
/// Elements that end by themselves, or by the next of their kind.
const UNCLOSED: [&str; 25] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track",
    "wbr", "p", "li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "tfoot", "option",
];
/// Those that are opened again. WHATWG HTML, section 13.2.4.3.
const FORMATTING: [&str; 14] =
    ["a", "b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt", "u"];
/// In these, an element may end in its own tag, and none holds text alone.
const FOREIGN: [&str; 2] = ["svg", "math"];
/// Beside special and formatting elements, those that end what is foreign and go on without it. WHATWG HTML, section 13.2.6.5.
const LEAVING: [&str; 5] = ["ruby", "span", "sub", "sup", "var"];
/// Past these, an end tag closes nothing. WHATWG HTML, section 13.2.4.2.
const BARRIERS: [&str; 9] =
    ["applet", "caption", "marquee", "math", "object", "select", "svg", "table", "template"];
/// Those that are closed with all that is open in them, and that no other end tag closes. The same section; those that end by themselves are left out.
const SPECIAL: [&str; 49] = [
    "address",
    "applet",
    "article",
    "aside",
    "blockquote",
    "body",
    "button",
    "caption",
    "center",
    "colgroup",
    "details",
    "dialog",
    "dir",
    "div",
    "dl",
    "fieldset",
    "figcaption",
    "figure",
    "footer",
    "form",
    "frameset",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "head",
    "header",
    "hgroup",
    "html",
    "iframe",
    "listing",
    "main",
    "marquee",
    "menu",
    "nav",
    "noscript",
    "object",
    "ol",
    "pre",
    "search",
    "section",
    "select",
    "summary",
    "table",
    "template",
    "ul",
    "xmp",
];
/// What is inside is text.
const VERBATIM: [&str; 4] = ["script", "style", "textarea", "title"];

fn is_one_of(names: &[&str], name: &str) -> bool {
    names.iter().any(|it| it.eq_ignore_ascii_case(name))
}

/// The rest of a tag behind its name: where it ends, how many attributes it has at most, and whether it ends in `/>`.
struct Tag {
    end: usize,
    attributes: usize,
    closed: bool,
}

fn tag(text: &str) -> Tag {
    let (mut quote, mut names, mut spaced, mut value) = (None, 0, true, false);
    for (at, byte) in text.bytes().enumerate() {
        match quote {
            Some(open) if byte == open => quote = None,
            Some(_) => {}
            None if byte == b'>' => {
                return Tag { end: at, attributes: names, closed: text[..at].ends_with('/') };
            }
            // Anywhere else it is a letter.
            None if value && matches!(byte, b'"' | b'\'') => (quote, value) = (Some(byte), false),
            None => {
                value = byte == b'=' || value && byte.is_ascii_whitespace();
                let space = byte.is_ascii_whitespace() || byte == b'/';
                names += usize::from(spaced && !space);
                spaced = space;
            }
        }
    }
    Tag { end: text.len(), attributes: names, closed: false }
}

/// What follows a comment of HTML; one that is not closed goes on to the end.
fn after_comment(comment: &str) -> &str {
    if let Some(rest) = comment.strip_prefix('>').or_else(|| comment.strip_prefix("->")) {
        return rest;
    }
    let ends = ["-->", "--!>"].iter().filter_map(|end| comment.find(end).map(|at| at + end.len()));
    ends.min().map_or("", |end| &comment[end..])
}

/// What an end tag leaves open. Where parsers differ in what it closes, less is closed here than there.
fn close(open: &mut Vec<&str>, name: &str) {
    let Some(at) = open.iter().rposition(|it| it.eq_ignore_ascii_case(name)) else { return };
    let inside = &open[at + 1..];
    if inside.iter().any(|it| is_one_of(&BARRIERS, it)) {
        return;
    }
    let leaves = |it: &&str| [&SPECIAL[..], &FORMATTING, &LEAVING].iter().any(|names| is_one_of(names, it));
    // A form is closed by itself, whatever has been opened in it.
    let alone = name.eq_ignore_ascii_case("form") || is_one_of(&FOREIGN, name) && inside.iter().any(leaves);
    if alone {
        open.remove(at);
    } else if is_one_of(&SPECIAL, name) || !inside.iter().any(|it| is_one_of(&SPECIAL, it)) {
        // Formatting that was not closed is opened again in what follows.
        let again: Vec<&str> = inside.iter().copied().filter(|it| is_one_of(&FORMATTING, it)).collect();
        open.truncate(at);
        open.extend(again);
    } else if is_one_of(&FORMATTING, name) {
        // What stands in it stays open.
        open.remove(at);
    }
}

pub fn is_too_much_html(text: &str) -> bool {
    let mut open: Vec<&str> = Vec::new();
    let (mut formatting, mut reopened) = (0, 0);
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'<', rest.as_bytes()) {
        rest = &rest[at + 1..];
        if let Some(comment) = rest.strip_prefix("!--") {
            rest = after_comment(comment);
            continue;
        }
        let closes = rest.starts_with('/');
        let named = rest.strip_prefix('/').unwrap_or(rest);
        let end = named.find(|it: char| !it.is_ascii_alphanumeric() && it != '-').unwrap_or(named.len());
        let (name, after) = named.split_at(end);
        rest = after;
        if name.is_empty() {
            continue;
        }
        if closes {
            close(&mut open, name);
            formatting = open.iter().filter(|it| is_one_of(&FORMATTING, it)).count();
            continue;
        }
        let tag = tag(after);
        rest = &after[tag.end..];
        reopened += formatting;
        if tag.attributes > ATTRIBUTES_MAX || reopened > REOPENED_MAX {
            return true;
        }
        let foreign = open.iter().any(|it| is_one_of(&FOREIGN, it));
        if is_one_of(&UNCLOSED, name) && !foreign || tag.closed && foreign {
            continue;
        }
        if is_one_of(&VERBATIM, name) && !foreign {
            let lower = |window: &[u8]| window.eq_ignore_ascii_case(name.as_bytes());
            let closed = memchr::memmem::find_iter(rest.as_bytes(), b"</")
                .find(|at| rest.as_bytes().get(at + 2..at + 2 + name.len()).is_some_and(lower));
            rest = closed.map_or("", |at| &rest[at + 2..]);
            continue;
        }
        open.push(name);
        formatting += usize::from(is_one_of(&FORMATTING, name));
        if open.len() > NESTED_MAX {
            return true;
        }
    }
    false
}

/// Nesting and nodes of XML are bounded by its parser.
pub fn is_too_much_xml(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'<', rest.as_bytes()) {
        rest = &rest[at + 1..];
        let skipped = [("!--", "-->"), ("![CDATA[", "]]>")]
            .iter()
            .find_map(|(start, end)| rest.strip_prefix(start).map(|inner| (inner, *end)));
        if let Some((inner, end)) = skipped {
            rest = inner.find(end).map_or("", |at| &inner[at + end.len()..]);
            continue;
        }
        let tag = tag(rest);
        rest = &rest[tag.end..];
        // The first word is the element's own name.
        if tag.attributes > ATTRIBUTES_MAX + 1 {
            return true;
        }
    }
    false
}
