//! JSON -> `Node`. RFC 8259.
//!
//! Input: text. Output: the document, numbers as they were written. Must not: read numbers as floats, or recurse without bound.

use super::Unknown;
use super::node::{Budget, DEPTH_MAX, Node};
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
        Some(b'"') => Node::Text(serde_json::from_str::<String>(text).map_err(too_deep)?.into()),
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(too_deep)?;
            Node::List(items.into_iter().map(|item| node(item, depth + 1, budget)).collect::<Result<_, _>>()?)
        }
        Some(b'{') => {
            let map: BTreeMap<Box<str>, &RawValue> = serde_json::from_str(text).map_err(too_deep)?;
            let pairs = map.into_iter().map(|(key, value)| Ok((key, node(value, depth + 1, budget)?)));
            Node::Map(pairs.collect::<Result<_, Unknown>>()?)
        }
        Some(_) => Node::Number(text.into()),
    })
}
