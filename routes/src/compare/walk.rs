//! Two documents side by side, value by value.
//!
//! Input: two `Node`s and the rules. Output: differences, each with its path. Must not: go over its budget, or call anything equal
//! that it did not look at.

use super::align::{Step, by_key, by_order, by_value, is_in_order};
use super::node::{Budget, Element, Node};
use super::rules::Rules;
use super::shape::{decimal, is_whole};
use super::steps::{step, within};
use super::typed::{Held, Typed};
use super::{DIFFERENCES_MAX, Difference, Kind, Unknown, Value};
use std::collections::{BTreeMap, HashSet};

/// Names of fields that tell the items of a list apart, the likeliest first.
const KEYS: [&str; 12] =
    ["id", "key", "code", "sku", "uuid", "number", "ref", "name", "flight", "account", "isbn", "email"];

pub struct Walker<'a> {
    pub rules: &'a Rules,
    pub found: &'a mut Vec<Difference>,
    pub budget: Budget,
    /// As many are listed as there is room for, and none of them twice.
    pub full: bool,
}

impl Walker<'_> {
    fn add(&mut self, path: &str, kind: Kind, legacy: Value, serverless: Value) {
        if self.full {
            return;
        }
        if self.found.len() >= DIFFERENCES_MAX {
            // A path that differs again says nothing new: it makes room for one that had not differed yet.
            let same = |a: &Difference, b: &Difference| a.kind == b.kind && a.path == b.path;
            if self.found.iter().any(|it| it.kind == kind && it.path == path) {
                return;
            }
            let again = (1..self.found.len())
                .rev()
                .find(|at| self.found[..*at].iter().any(|it| same(it, &self.found[*at])));
            let Some(at) = again else {
                self.full = true;
                return;
            };
            self.found.remove(at);
        }
        self.found.push(Difference { path: path.to_owned(), kind, legacy, serverless });
    }

    pub fn walk(&mut self, a: &Node, b: &Node, path: &mut String) -> Result<(), Unknown> {
        if self.rules.ignores(path) {
            return Ok(());
        }
        self.budget.spend(2)?;
        match (a, b) {
            (Node::Map(a), Node::Map(b)) => self.maps(a, b, path),
            (Node::List(a), Node::List(b)) => {
                let (a, b): (Vec<&Node>, Vec<&Node>) = (a.iter().collect(), b.iter().collect());
                self.lists(&a, &b, path, "[]")
            }
            (Node::Element(a), Node::Element(b)) => self.elements(a, b, path),
            (Node::Null, Node::Null) => Ok(()),
            (Node::Bool(a), Node::Bool(b)) if a == b => Ok(()),
            (Node::Number(one), Node::Number(other)) | (Node::Text(one), Node::Text(other)) => {
                if one != other {
                    self.scalars(a, b, one, other, path);
                }
                Ok(())
            }
            _ => {
                let kind = if a.kind() == b.kind() { Kind::Value } else { Kind::Type };
                self.add(path, kind, a.value(), b.value());
                Ok(())
            }
        }
    }

    fn scalars(&mut self, a: &Node, b: &Node, one: &str, other: &str, path: &str) {
        let rule = self.rules.at(path);
        let is_number = matches!(a, Node::Number(_));
        let equal = is_number && decimal(one) == decimal(other);
        // Equal in all but zeros at the end: no rule makes that a difference but one that asks for the same digits.
        if equal && is_whole(one) == is_whole(other) && rule != Some(&Typed::Exact) {
            return;
        }
        match rule.map_or(Held::NotMeant, |typed| typed.holds(one, other)) {
            Held::Yes => return,
            Held::No => return self.add(path, Kind::Shape, a.value(), b.value()),
            Held::NotMeant => {}
        }
        let kind = if equal {
            // The same value, written as a whole number here and with a fraction there: readers in some languages care.
            Kind::NumberFormat
        } else if !is_number && one.split_whitespace().eq(other.split_whitespace()) {
            Kind::Space
        } else {
            Kind::Value
        };
        self.add(path, kind, a.value(), b.value());
    }

    fn maps(
        &mut self,
        a: &BTreeMap<Box<str>, Node>,
        b: &BTreeMap<Box<str>, Node>,
        path: &mut String,
    ) -> Result<(), Unknown> {
        for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
            within(path, &step(key), |path| match (a.get(key), b.get(key)) {
                (Some(a), Some(b)) => self.walk(a, b, path),
                (one, other) => self.alone(one, other, path, true),
            })?;
        }
        Ok(())
    }

    /// Of a value that only one side has. `named`: the path is its own, and not that of what holds it.
    fn alone(
        &mut self,
        legacy: Option<&Node>,
        serverless: Option<&Node>,
        path: &str,
        named: bool,
    ) -> Result<(), Unknown> {
        self.budget.spend(1)?;
        if !(named && self.rules.is_optional(path)) {
            let kind = if legacy.is_some() { Kind::Missing } else { Kind::Extra };
            let value = |node: Option<&Node>| node.map_or_else(Value::absent, Node::value);
            self.add(path, kind, value(legacy), value(serverless));
        }
        Ok(())
    }

    /// The same things in another order are told as that, and not as many differences.
    fn lists(&mut self, a: &[&Node], b: &[&Node], path: &mut String, item: &str) -> Result<(), Unknown> {
        self.budget.spend(a.len() + b.len())?;
        let rules = self.rules;
        let prints = |items: &[&Node], path: &mut String| -> Vec<u64> {
            within(path, item, |path| items.iter().map(|node| node.fingerprint(path, rules)).collect())
        };
        let (left, right) = (prints(a, path), prints(b, path));
        let unordered = rules.is_unordered(path);
        let by_place = !unordered || rules.is_empty();
        let steps = if by_place && left == right {
            (0..a.len()).map(|at| Step::Same(at, at)).collect()
        } else {
            self.steps(a, b, &left, &right, path, item, unordered)?
        };
        for step in steps {
            within(path, item, |path| match step {
                Step::Same(_, _) if rules.is_empty() => Ok(()),
                Step::Same(x, y) | Step::Changed(x, y) => self.walk(a[x], b[y], path),
                // A text is at the path of its element, which may be there or not; its text may not come and go.
                Step::Legacy(x) => self.alone(Some(a[x]), None, path, !item.is_empty()),
                Step::Serverless(y) => self.alone(None, Some(b[y]), path, !item.is_empty()),
            })?;
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "two lists, twice, and where they are")]
    fn steps(
        &mut self,
        a: &[&Node],
        b: &[&Node],
        left: &[u64],
        right: &[u64],
        path: &mut String,
        item: &str,
        unordered: bool,
    ) -> Result<Vec<Step>, Unknown> {
        let counted = |path: &str, this: &mut Self| {
            let count = |items: &[&Node]| Value::shaped(&format!("list({})", items.len()));
            this.add(path, Kind::Order, count(a), count(b));
        };
        let mut sorted = (left.to_vec(), right.to_vec());
        sorted.0.sort_unstable();
        sorted.1.sort_unstable();
        if sorted.0 == sorted.1 {
            if !unordered {
                counted(path, self);
            }
            let steps = by_value(left, right);
            return Ok(if unordered { self.in_step(a, b, left, steps) } else { steps });
        }
        let keyed = within(path, item, |path| keys(a, b, path, self.rules));
        if let Some((one, other)) = keyed {
            let steps = by_key(&one, &other);
            if !unordered && !is_in_order(&steps) {
                counted(path, self);
            }
            return Ok(steps);
        }
        if unordered {
            let steps = by_value(left, right);
            return Ok(self.in_step(a, b, left, steps));
        }
        by_order(left, right, &mut self.budget)
    }

    /// Items that only rules make alike are each other's by their values: the smallest of one side is the smallest of the other, wherever they stand.
    fn in_step(&self, a: &[&Node], b: &[&Node], left: &[u64], steps: Vec<Step>) -> Vec<Step> {
        if self.rules.is_empty() {
            return steps;
        }
        let mut alike: BTreeMap<u64, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
        let mut sorted = Vec::with_capacity(steps.len());
        for step in steps {
            match step {
                Step::Same(x, y) => {
                    let group = alike.entry(left[x]).or_default();
                    group.0.push(x);
                    group.1.push(y);
                }
                other => sorted.push(other),
            }
        }
        for (_, (mut one, mut other)) in alike {
            one.sort_by_cached_key(|at| a[*at].by_size());
            other.sort_by_cached_key(|at| b[*at].by_size());
            sorted.extend(one.into_iter().zip(other).map(|(x, y)| Step::Same(x, y)));
        }
        sorted
    }

    fn elements(&mut self, a: &Element, b: &Element, path: &mut String) -> Result<(), Unknown> {
        if a.name != b.name {
            self.add(path, Kind::Type, Value::shaped(&a.shape()), Value::shaped(&b.shape()));
            return Ok(());
        }
        if a.namespace != b.namespace {
            self.add(path, Kind::Namespace, Value::string(&a.namespace), Value::string(&b.namespace));
        }
        for name in
            a.attributes.keys().chain(b.attributes.keys().filter(|name| !a.attributes.contains_key(*name)))
        {
            let node =
                |element: &Element| element.attributes.get(name).map(|value| Node::Text(value.clone()));
            within(path, &format!("/@{name}"), |path| match (node(a), node(b)) {
                (Some(a), Some(b)) => self.walk(&a, &b, path),
                (one, other) => self.alone(one.as_ref(), other.as_ref(), path, true),
            })?;
        }
        let (left, right) = (children(a), children(b));
        // Of those that have to be there: what is left out or may come and go has no place.
        let rules = self.rules;
        let stays = |name: &str, path: &mut String| {
            name.is_empty()
                || rules.is_empty()
                || within(path, &format!("/{name}"), |path| !rules.is_optional(path))
        };
        let names = |element: &Element, path: &mut String| -> Vec<Box<str>> {
            element.children.iter().map(name).filter(|name| stays(name, path)).map(Into::into).collect()
        };
        let (one, other) = (names(a, path), names(b, path));
        if one != other {
            let mut sorted = (one, other);
            sorted.0.sort_unstable();
            sorted.1.sort_unstable();
            if sorted.0 == sorted.1 && !self.rules.is_unordered(path) {
                let shape = |it: &Element| Value::shaped(&format!("element({})", it.children.len()));
                self.add(path, Kind::Order, shape(a), shape(b));
            }
        }
        for name in left.keys().chain(right.keys().filter(|name| !left.contains_key(*name))) {
            let (a, b) = (
                left.get(name).map_or(&[][..], Vec::as_slice),
                right.get(name).map_or(&[][..], Vec::as_slice),
            );
            // The text of an element is at the element's own path.
            let item = if name.is_empty() { String::new() } else { format!("/{name}") };
            match (a, b) {
                ([one], [other]) => within(path, &item, |path| self.walk(one, other, path))?,
                _ => self.lists(a, b, path, &item)?,
            }
        }
        Ok(())
    }
}

fn name(node: &Node) -> &str {
    match node {
        Node::Element(element) => &element.name,
        _ => "",
    }
}

fn children(element: &Element) -> BTreeMap<&str, Vec<&Node>> {
    let mut groups: BTreeMap<&str, Vec<&Node>> = BTreeMap::new();
    for child in &element.children {
        groups.entry(name(child)).or_default().push(child);
    }
    groups
}

/// The values of a field that tells all items apart, on both sides, and is mostly the same on both.
fn keys<'a>(
    a: &[&'a Node],
    b: &[&'a Node],
    path: &mut String,
    rules: &Rules,
) -> Option<(Vec<&'a str>, Vec<&'a str>)> {
    if a.is_empty() || b.is_empty() || rules.ignores(path) {
        return None;
    }
    KEYS.iter().find_map(|key| {
        // A value that rules let differ tells nothing apart: a member, an attribute or an element.
        let is_free = !rules.is_empty()
            && [step(key), format!("/@{key}"), format!("/{key}")].iter().any(|step| {
                within(path, step, |path| {
                    rules.ignores(path) || rules.at(path).is_some_and(|typed| *typed != Typed::Exact)
                })
            });
        if is_free {
            return None;
        }
        let unique = |items: &[&'a Node]| -> Option<Vec<&'a str>> {
            let values = items.iter().map(|item| item.field(key)).collect::<Option<Vec<_>>>()?;
            let distinct: HashSet<&str> = values.iter().copied().collect();
            (distinct.len() == values.len()).then_some(values)
        };
        let (one, other) = (unique(a)?, unique(b)?);
        let known: HashSet<&str> = one.iter().copied().collect();
        let common = other.iter().filter(|value| known.contains(**value)).count();
        (common * 2 >= one.len().min(other.len())).then_some((one, other))
    })
}
