//! A document as lines, one value each, so that two can stand side by side.
//!
//! Input: a `Node`, and what to show of a value. Output: indented lines. Must not: show a value that it was not given back.

use super::node::{Element, Node};

/// What is shown of values, and of keys.
struct Shown<'a> {
    value: &'a dyn Fn(&str) -> String,
    key: &'a dyn Fn(&str) -> String,
}

/// Lines of one document; what comes later is cut.
pub const LINES_MAX: usize = 2_000;

pub fn lines(node: &Node, show: &dyn Fn(&str) -> String, key: &dyn Fn(&str) -> String) -> Vec<String> {
    let mut out = Vec::new();
    let shown = Shown { value: show, key };
    write(node, "", "", 0, &shown, &mut out);
    if out.len() > LINES_MAX {
        out.truncate(LINES_MAX);
        out.push("…".into());
    }
    out
}

fn write(node: &Node, label: &str, end: &str, depth: usize, show: &Shown<'_>, out: &mut Vec<String>) {
    if out.len() > LINES_MAX {
        return;
    }
    let indent = "  ".repeat(depth);
    let comma = |at: usize, of: usize| if at + 1 < of { "," } else { "" };
    match node {
        Node::Null => out.push(format!("{indent}{label}null{end}")),
        Node::Bool(it) => out.push(format!("{indent}{label}{it}{end}")),
        Node::Number(text) => out.push(format!("{indent}{label}{}{end}", (show.value)(text))),
        Node::Text(text) => {
            out.push(format!("{indent}{label}{}{end}", serde_json::Value::from((show.value)(text))))
        }
        Node::List(items) => {
            out.push(format!("{indent}{label}["));
            for (at, item) in items.iter().enumerate() {
                write(item, "", comma(at, items.len()), depth + 1, show, out);
            }
            out.push(format!("{indent}]{end}"));
        }
        Node::Map(map) => {
            out.push(format!("{indent}{label}{{"));
            for (at, (key, value)) in map.iter().enumerate() {
                let label = format!("{}: ", serde_json::Value::from((show.key)(key)));
                write(value, &label, comma(at, map.len()), depth + 1, show, out);
            }
            out.push(format!("{indent}}}{end}"));
        }
        Node::Element(element) => write_element(element, depth, show, out),
    }
}

fn write_element(element: &Element, depth: usize, show: &Shown<'_>, out: &mut Vec<String>) {
    let indent = "  ".repeat(depth);
    let attributes: String = element
        .attributes
        .iter()
        .map(|(name, value)| {
            // Without its namespace, which is long and says little.
            let name = (show.key)(name.rsplit('}').next().unwrap_or_default());
            format!(" {name}=\"{}\"", (show.value)(value))
        })
        .collect();
    let name = (show.key)(&element.name);
    match element.children.as_slice() {
        [] => out.push(format!("{indent}<{name}{attributes}/>")),
        [Node::Text(text)] => {
            out.push(format!("{indent}<{name}{attributes}>{}</{name}>", (show.value)(text)))
        }
        children => {
            out.push(format!("{indent}<{name}{attributes}>"));
            for child in children {
                match child {
                    Node::Text(text) => out.push(format!("{indent}  {}", (show.value)(text))),
                    other => write(other, "", "", depth + 1, show, out),
                }
            }
            out.push(format!("{indent}</{name}>"));
        }
    }
}
