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
/// In these, an element may end in its own tag.
const FOREIGN: [&str; 2] = ["svg", "math"];
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
    let (mut quote, mut names, mut spaced) = (None, 0, true);
    for (at, byte) in text.bytes().enumerate() {
        match quote {
            Some(open) if byte == open => quote = None,
            Some(_) => {}
            None if byte == b'>' => {
                return Tag { end: at, attributes: names, closed: text[..at].ends_with('/') };
            }
            None if matches!(byte, b'"' | b'\'') => quote = Some(byte),
            None => {
                let space = byte.is_ascii_whitespace() || byte == b'/';
                names += usize::from(spaced && !space);
                spaced = space;
            }
        }
    }
    Tag { end: text.len(), attributes: names, closed: false }
}

pub fn is_too_much_html(text: &str) -> bool {
    let mut open: Vec<&str> = Vec::new();
    let (mut formatting, mut reopened) = (0, 0);
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'<', rest.as_bytes()) {
        rest = &rest[at + 1..];
        if let Some(comment) = rest.strip_prefix("!--") {
            rest = comment.find("-->").map_or("", |end| &comment[end + 3..]);
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
            // One that closes nothing near is nothing to a parser either.
            let near = open.iter().rev().take(8).position(|it| it.eq_ignore_ascii_case(name));
            if let Some(back) = near {
                open.truncate(open.len() - 1 - back);
                formatting = open.iter().filter(|it| is_one_of(&FORMATTING, it)).count();
            }
            continue;
        }
        let tag = tag(after);
        rest = &after[tag.end..];
        reopened += formatting;
        if tag.attributes > ATTRIBUTES_MAX || reopened > REOPENED_MAX {
            return true;
        }
        let ends = tag.closed && open.iter().any(|it| is_one_of(&FOREIGN, it));
        if is_one_of(&UNCLOSED, name) || ends {
            continue;
        }
        if is_one_of(&VERBATIM, name) {
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
