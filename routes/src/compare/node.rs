//! One form for documents of every kind, so that one walk compares them all.
//!
//! Input: what the readers of JSON, XML, HTML and forms make. Output: `Node`, and a fingerprint that is equal for equal values
//! however they were written. Must not: lose a digit: numbers keep what was written.

use super::rules::Rules;
use super::shape::{decimal, is_whole, number};
use super::steps::{step, within};
use super::typed::Held;
use super::{Unknown, Value};
use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_64;

/// Values in one comparison, both sides together: at about 100 bytes each they take 20 MB.
pub const NODES_MAX: usize = 200_000;
/// Nesting; a document this deep is an attack.
pub const DEPTH_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    Null,
    Bool(bool),
    /// As it was written.
    Number(Box<str>),
    Text(Box<str>),
    List(Vec<Node>),
    Map(BTreeMap<Box<str>, Node>),
    Element(Box<Element>),
}

/// Of XML or HTML, with names resolved.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Element {
    /// Empty in HTML.
    pub namespace: Box<str>,
    pub name: Box<str>,
    pub attributes: BTreeMap<Box<str>, Box<str>>,
    /// Elements and texts.
    pub children: Vec<Node>,
}

impl Element {
    /// With its name, where that is a word and not a value.
    pub fn shape(&self) -> String {
        let word = self.name.len() <= 40
            && self.name.bytes().all(|byte| byte.is_ascii_alphabetic() || b"-_:".contains(&byte));
        if word { format!("element({})", self.name) } else { "element".into() }
    }
}

/// Cells of all tables that lists and texts are aligned by, in one comparison.
const CELLS_MAX: usize = 8_000_000;

/// What is left to spend on one comparison: not time, so that it comes out the same on every machine.
pub struct Budget {
    nodes: usize,
    cells: usize,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { nodes: NODES_MAX, cells: CELLS_MAX }
    }
}

impl Budget {
    pub fn spend(&mut self, nodes: usize) -> Result<(), Unknown> {
        self.nodes = self.nodes.checked_sub(nodes).ok_or(Unknown::Budget)?;
        Ok(())
    }

    pub fn spend_cells(&mut self, cells: usize) -> Result<(), Unknown> {
        self.cells = self.cells.checked_sub(cells).ok_or(Unknown::Budget)?;
        Ok(())
    }
}

impl Node {
    pub fn kind(&self) -> &'static str {
        match self {
            Node::Null => "null",
            Node::Bool(_) => "boolean",
            Node::Number(_) => "number",
            Node::Text(_) => "string",
            Node::List(_) => "list",
            Node::Map(_) => "object",
            Node::Element(_) => "element",
        }
    }

    /// What rules about values can be held to: texts and numbers.
    pub fn scalar(&self) -> Option<&str> {
        match self {
            Node::Number(text) | Node::Text(text) => Some(text),
            Node::Null | Node::Bool(_) | Node::List(_) | Node::Map(_) | Node::Element(_) => None,
        }
    }

    /// A value by which an item of a list can be told from the others.
    pub fn field(&self, key: &str) -> Option<&str> {
        match self {
            Node::Map(map) => map.get(key)?.scalar(),
            Node::Element(element) => {
                let inner = || {
                    let named = element.children.iter().find_map(|child| match child {
                        Node::Element(child) if *child.name == *key => Some(child),
                        _ => None,
                    })?;
                    match named.children.as_slice() {
                        [Node::Text(text)] => Some(&**text),
                        _ => None,
                    }
                };
                element.attributes.get(key).map(|it| &**it).or_else(inner)
            }
            Node::Null | Node::Bool(_) | Node::Number(_) | Node::Text(_) | Node::List(_) => None,
        }
    }

    pub fn value(&self) -> Value {
        match self {
            Node::Null => Value::shaped("null"),
            Node::Bool(it) => Value { shape: "boolean".into(), text: Some(it.to_string().into()) },
            Node::Number(text) => Value { shape: "number".into(), text: Some(text.clone()) },
            Node::Text(text) => Value::string(text),
            Node::List(items) => Value::shaped(&format!("list({})", items.len())),
            Node::Map(map) => Value::shaped(&format!("object({})", map.len())),
            Node::Element(element) => Value::shaped(&element.shape()),
        }
    }

    /// Equal for equal values. What the rules leave out, or only hold to a shape, does not count: whoever matches two values by
    /// this has to walk them still when there are rules.
    pub fn fingerprint(&self, path: &mut String, rules: &Rules) -> u64 {
        let mut out = Vec::with_capacity(64);
        self.write(path, rules, &mut out);
        xxh3_64(&out)
    }

    /// All its scalars in their order, numbers by size and not by their digits: what puts those that rules make alike into an order.
    pub fn by_size(&self) -> Vec<(u64, Box<str>)> {
        let mut out = Vec::new();
        self.sizes(&mut out);
        out
    }

    fn sizes(&self, out: &mut Vec<(u64, Box<str>)>) {
        let mut scalar = |text: &str| {
            // The bits of floats are in the order of their values once those of negative ones are turned round.
            let size = number(text).map_or(u64::MAX, |it| {
                let bits = it.to_bits();
                if it.is_sign_negative() { !bits } else { bits | 1 << 63 }
            });
            out.push((size, text.into()));
        };
        match self {
            Node::Null => scalar("null"),
            Node::Bool(it) => scalar(if *it { "true" } else { "false" }),
            Node::Number(text) | Node::Text(text) => scalar(text),
            Node::List(items) => items.iter().for_each(|item| item.sizes(out)),
            Node::Map(map) => map.values().for_each(|value| value.sizes(out)),
            Node::Element(element) => {
                element.attributes.values().for_each(|value| scalar(value));
                element.children.iter().for_each(|child| child.sizes(out));
            }
        }
    }

    fn write(&self, path: &mut String, rules: &Rules, out: &mut Vec<u8>) {
        if !rules.is_empty() {
            if rules.ignores(path) {
                return;
            }
            let typed = rules.at(path).zip(self.scalar());
            if typed.is_some_and(|(typed, text)| typed.holds(text, text) == Held::Yes) {
                return out.push(b'~');
            }
        }
        match self {
            Node::Null => out.push(b'0'),
            Node::Bool(it) => out.push(if *it { b't' } else { b'f' }),
            Node::Number(text) => {
                let (negative, digits, exponent) = decimal(text);
                out.push(if negative { b'-' } else { b'+' });
                out.extend_from_slice(digits.as_bytes());
                out.extend_from_slice(&exponent.to_le_bytes());
                out.push(u8::from(is_whole(text)));
            }
            Node::Text(text) => write_text(text, b'"', out),
            Node::List(items) => {
                let mut forms: Vec<Vec<u8>> = items
                    .iter()
                    .map(|item| {
                        let mut form = Vec::new();
                        within(path, "[]", |path| item.write(path, rules, &mut form));
                        form
                    })
                    .collect();
                if rules.is_unordered(path) {
                    forms.sort_unstable();
                }
                out.push(b'[');
                forms.iter().for_each(|form| {
                    out.extend_from_slice(form);
                    out.push(b',');
                });
                out.push(b']');
            }
            Node::Map(map) => {
                out.push(b'{');
                for (key, value) in map {
                    let step = step(key);
                    within(path, &step, |path| {
                        if !rules.is_optional(path) {
                            write_text(key, b':', out);
                            value.write(path, rules, out);
                        }
                    });
                }
                out.push(b'}');
            }
            Node::Element(element) => {
                write_text(&element.namespace, b'<', out);
                write_text(&element.name, b':', out);
                for (name, value) in &element.attributes {
                    within(path, &format!("/@{name}"), |path| {
                        if !rules.is_optional(path) {
                            write_text(name, b'@', out);
                            Node::Text(value.clone()).write(path, rules, out);
                        }
                    });
                }
                let mut forms: Vec<Vec<u8>> = Vec::with_capacity(element.children.len());
                for child in &element.children {
                    let mut form = Vec::new();
                    match child {
                        Node::Element(inner) => within(path, &format!("/{}", inner.name), |path| {
                            if !rules.is_optional(path) {
                                child.write(path, rules, &mut form);
                            }
                        }),
                        text => text.write(path, rules, &mut form),
                    }
                    forms.push(form);
                }
                if rules.is_unordered(path) {
                    forms.sort_unstable();
                }
                forms.iter().for_each(|form| out.extend_from_slice(form));
                out.push(b'>');
            }
        }
    }
}

fn write_text(text: &str, tag: u8, out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&text.len().to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}
