//! JSON -> `Node`. RFC 8259.
//!
//! Input: text. Output: the document, numbers as they were written. Must not: read numbers as floats, or recurse without bound.

use super::Unknown;
use super::node::{Budget, DEPTH_MAX, Element, Node};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// `Ok(None)`: not JSON.
pub fn read(text: &str, budget: &mut Budget) -> Result<Option<Node>, Unknown> {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(raw) => node(raw, 0, budget).map(Some),
        // The reader's own bound of nesting.
        Err(error) if error.to_string().contains("recursion limit") => Err(Unknown::Budget),
        Err(_) => Ok(None),
    }
}

/// Some readers take the first of two values of one key, some the last: both are kept, as something that no single value equals.
fn repeated(before: Node, value: Node) -> Node {
    match before {
        Node::Element(mut all) => {
            all.children.push(value);
            Node::Element(all)
        }
        one => Node::Element(Box::new(Element {
            name: "repeated".into(),
            children: vec![one, value],
            ..Element::default()
        })),
    }
}

/// The members of an object in their order, keys repeated or not.
struct Pairs<'a>(Vec<(Box<str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Pairs<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Pairs<'de>, M::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// The value was read as JSON already; only its nesting can be too deep.
fn node(raw: &RawValue, depth: usize, budget: &mut Budget) -> Result<Node, Unknown> {
    if depth > DEPTH_MAX {
        return Err(Unknown::Budget);
    }
    budget.spend(1)?;
    let text = raw.get();
    let too_deep = |_| Unknown::Budget;
    Ok(match text.as_bytes().first() {
        Some(b'n') | None => Node::Null,
        Some(b't') => Node::Bool(true),
        Some(b'f') => Node::Bool(false),
        // Half of a pair of surrogates is no text: it stands as it was written.
        Some(b'"') => Node::Text(serde_json::from_str::<String>(text).unwrap_or_else(|_| text.into()).into()),
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(too_deep)?;
            Node::List(items.into_iter().map(|item| node(item, depth + 1, budget)).collect::<Result<_, _>>()?)
        }
        Some(b'{') => {
            let Pairs(pairs) = serde_json::from_str(text).map_err(too_deep)?;
            let mut map: BTreeMap<Box<str>, Node> = BTreeMap::new();
            for (key, value) in pairs {
                let value = node(value, depth + 1, budget)?;
                match map.remove(&key) {
                    None => drop(map.insert(key, value)),
                    Some(before) => drop(map.insert(key, repeated(before, value))),
                }
            }
            Node::Map(map)
        }
        Some(_) => Node::Number(text.into()),
    })
}
