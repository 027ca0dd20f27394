//! JSON by value: keys in any order, numbers by their digits, lists by position, or as the same things in another order.
//!
//! Input: two documents. Output: differences with paths such as `$.items[].price`. Must not: go through a float: `0.1` and
//! `0.10` are one number, `9007199254740993` and `9007199254740992` are two, `1` and `1.0` are a kind of their own.

use super::{DIFFERENCES_MAX, Difference, Ignore, Kind};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Values looked at in one comparison, both sides together.
const NODES_MAX: usize = 200_000;
/// Nesting; each level is read once more, and a document this deep is an attack.
const DEPTH_MAX: usize = 64;

/// How the walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    Done,
    OverBudget,
    NotJson,
}

pub fn compare(legacy: &[u8], serverless: &[u8], ignore: &Ignore, found: &mut Vec<Difference>) -> Walk {
    let (Ok(a), Ok(b)) =
        (serde_json::from_slice::<&RawValue>(legacy), serde_json::from_slice::<&RawValue>(serverless))
    else {
        return Walk::NotJson;
    };
    let mut walker = Walker { ignore, found, nodes: NODES_MAX };
    match walker.walk(a, b, "$", 0) {
        Some(()) => Walk::Done,
        None => Walk::OverBudget,
    }
}

/// A value, one level of it.
enum Node<'a> {
    Null,
    Bool,
    /// As it was written.
    Number(&'a str),
    String(String),
    List(Vec<&'a RawValue>),
    Map(BTreeMap<String, &'a RawValue>),
}

impl<'a> Node<'a> {
    /// The value was read as JSON already; only its nesting can be too deep for the reader.
    fn read(raw: &'a RawValue) -> Option<Node<'a>> {
        let text = raw.get();
        Some(match text.as_bytes().first()? {
            b'n' => Node::Null,
            b't' | b'f' => Node::Bool,
            b'"' => Node::String(serde_json::from_str(text).ok()?),
            b'[' => Node::List(serde_json::from_str(text).ok()?),
            b'{' => Node::Map(serde_json::from_str(text).ok()?),
            _ => Node::Number(text),
        })
    }

    fn kind(&self) -> &'static str {
        match self {
            Node::Null => "null",
            Node::Bool => "boolean",
            Node::Number(_) => "number",
            Node::String(_) => "string",
            Node::List(_) => "list",
            Node::Map(_) => "object",
        }
    }

    fn shape(&self) -> String {
        match self {
            Node::Null | Node::Bool | Node::Number(_) => self.kind().to_owned(),
            Node::String(text) => format!("string({})", text.chars().count()),
            Node::List(items) => format!("list({})", items.len()),
            Node::Map(map) => format!("object({})", map.len()),
        }
    }
}

struct Walker<'a> {
    ignore: &'a Ignore,
    found: &'a mut Vec<Difference>,
    nodes: usize,
}

impl Walker<'_> {
    fn add(&mut self, path: &str, kind: Kind, legacy: String, serverless: String) {
        if self.found.len() < DIFFERENCES_MAX {
            self.found.push(Difference { path: path.to_owned(), kind, legacy, serverless });
        }
    }

    fn spend(&mut self, nodes: usize) -> Option<()> {
        self.nodes = self.nodes.checked_sub(nodes)?;
        Some(())
    }

    /// `None`: over budget.
    fn walk(&mut self, a: &RawValue, b: &RawValue, path: &str, depth: usize) -> Option<()> {
        if self.ignore.path(path) || a.get() == b.get() {
            return Some(());
        }
        if depth > DEPTH_MAX {
            return None;
        }
        self.spend(2)?;
        match (Node::read(a)?, Node::read(b)?) {
            (Node::Map(a), Node::Map(b)) => self.maps(&a, &b, path, depth),
            (Node::List(a), Node::List(b)) => self.lists(&a, &b, path, depth),
            (Node::Number(a), Node::Number(b)) => {
                match (decimal(a), decimal(b)) {
                    (a_value, b_value) if a_value != b_value => {
                        self.add(path, Kind::Value, "number".into(), "number".into());
                    }
                    // The same value, written as a whole number here and with a fraction there: readers in some languages care.
                    _ if is_whole(a) != is_whole(b) => {
                        self.add(path, Kind::NumberFormat, "number".into(), "number".into());
                    }
                    _ => {}
                }
                Some(())
            }
            (a, b) if a.kind() != b.kind() => {
                self.add(path, Kind::Type, a.shape(), b.shape());
                Some(())
            }
            (Node::String(a), Node::String(b)) if a == b => Some(()),
            (a, b) => {
                self.add(path, Kind::Value, a.shape(), b.shape());
                Some(())
            }
        }
    }

    fn maps(
        &mut self,
        a: &BTreeMap<String, &RawValue>,
        b: &BTreeMap<String, &RawValue>,
        path: &str,
        depth: usize,
    ) -> Option<()> {
        for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
            let path = format!("{path}{}", step(key));
            match (a.get(key), b.get(key)) {
                (Some(a), Some(b)) => self.walk(a, b, &path, depth + 1)?,
                (one, other) if !self.ignore.path(&path) => {
                    self.spend(1)?;
                    let shape = |raw: Option<&&RawValue>| {
                        raw.map_or(Some("absent".to_owned()), |raw| Some(Node::read(raw)?.shape()))
                    };
                    let kind = if one.is_some() { Kind::Missing } else { Kind::Extra };
                    self.add(&path, kind, shape(one)?, shape(other)?);
                }
                _ => {}
            }
        }
        Some(())
    }

    /// By position where that fits; the same things in another order are told as that, and not as many differences.
    fn lists(&mut self, a: &[&RawValue], b: &[&RawValue], path: &str, depth: usize) -> Option<()> {
        self.spend(a.len() + b.len())?;
        if a.len() == b.len() && a.len() > 1 {
            let sorted = |items: &[&RawValue]| {
                let mut forms =
                    items.iter().map(|item| canonical(item, 0)).collect::<Option<Vec<String>>>()?;
                forms.sort_unstable();
                Some(forms)
            };
            let size = |items: &[&RawValue]| items.iter().map(|item| item.get().len()).sum::<usize>();
            self.spend((size(a) + size(b)) / 32)?;
            if let (Some(one), Some(other)) = (sorted(a), sorted(b))
                && one == other
            {
                let same_order = a.iter().zip(b).all(|(a, b)| canonical(a, 0) == canonical(b, 0));
                if !same_order {
                    self.add(path, Kind::Order, format!("list({})", a.len()), format!("list({})", b.len()));
                }
                return Some(());
            }
        }
        let item = format!("{path}[]");
        for (a, b) in a.iter().zip(b) {
            self.walk(a, b, &item, depth + 1)?;
        }
        if a.len() != b.len() && !self.ignore.path(&item) {
            let kind = if a.len() > b.len() { Kind::Missing } else { Kind::Extra };
            self.add(&item, kind, format!("list({})", a.len()), format!("list({})", b.len()));
        }
        Some(())
    }
}

/// `.name`, or `["a name"]` where it would be read as something else.
fn step(key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if plain { format!(".{key}") } else { format!("[{}]", serde_json::Value::from(key)) }
}

/// One text for all writings of the same value: for comparing lists as bags.
fn canonical(raw: &RawValue, depth: usize) -> Option<String> {
    if depth > DEPTH_MAX {
        return None;
    }
    Some(match Node::read(raw)? {
        Node::Null | Node::Bool => raw.get().to_owned(),
        Node::Number(text) => {
            let (negative, digits, exponent) = decimal(text);
            format!(
                "{}{digits}e{exponent}{}",
                if negative { "-" } else { "" },
                if is_whole(text) { "" } else { "." }
            )
        }
        Node::String(text) => serde_json::Value::from(text).to_string(),
        Node::List(items) => {
            let items = items.iter().map(|item| canonical(item, depth + 1)).collect::<Option<Vec<_>>>()?;
            format!("[{}]", items.join(","))
        }
        Node::Map(map) => {
            let pairs = map.iter().map(|(key, value)| {
                Some(format!("{}:{}", serde_json::Value::from(key.as_str()), canonical(value, depth + 1)?))
            });
            format!("{{{}}}", pairs.collect::<Option<Vec<_>>>()?.join(","))
        }
    })
}

/// Sign, digits without zeros at either end, and the power of ten behind them: equal for equal values, whatever was written.
fn decimal(text: &str) -> (bool, String, i64) {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i64 = exponent.parse().unwrap_or(i64::MAX / 2);
    let (negative, mantissa) = mantissa.strip_prefix('-').map_or((false, mantissa), |rest| (true, rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let trimmed = digits.trim_end_matches('0');
    let power =
        exponent.saturating_sub(fraction.len() as i64).saturating_add((digits.len() - trimmed.len()) as i64);
    let significant = trimmed.trim_start_matches('0');
    if significant.is_empty() { (false, "0".into(), 0) } else { (negative, significant.into(), power) }
}

fn is_whole(text: &str) -> bool {
    !text.contains(['.', 'e', 'E'])
}
