//! XML -> `Node`: the infoset that applications see. XML 1.0, Namespaces in XML, SOAP 1.1 section 5 (multiRef).
//!
//! Input: decoded text. Output: elements with resolved names; prefixes, comments, the declaration and space between elements are
//! gone. Must not: resolve external entities, or read a document type: what brings one is compared as text.

use super::Unknown;
use super::bounds::is_too_much_xml;
use super::node::{Budget, DEPTH_MAX, Element, Node};
use roxmltree::{Document, Node as Xml, ParsingOptions};
use std::collections::{BTreeMap, BTreeSet};

/// `Ok(None)`: not XML, or with a document type.
pub fn read(text: &str, budget: &mut Budget) -> Result<Option<Node>, Unknown> {
    if is_too_much_xml(text) {
        return Err(Unknown::Budget);
    }
    let options = ParsingOptions {
        allow_dtd: false,
        nodes_limit: super::node::NODES_MAX as u32,
        ..ParsingOptions::default()
    };
    let document = match Document::parse_with_options(text, options) {
        Ok(document) => document,
        Err(roxmltree::Error::NodesLimitReached) => return Err(Unknown::Budget),
        Err(_) => return Ok(None),
    };
    let pointed: BTreeSet<&str> =
        document.descendants().filter_map(|node| node.attribute("href")?.strip_prefix('#')).collect();
    // One that nobody points to is an element like any other.
    let targets: BTreeMap<&str, Xml<'_, '_>> = document
        .descendants()
        .filter(|node| node.tag_name().name() == "multiRef")
        .filter_map(|node| Some((node.attribute("id").filter(|id| pointed.contains(id))?, node)))
        .collect();
    let mut root = element(document.root_element(), &targets, 0, budget)?;
    // Beside the root, as the sheet of a document is named.
    let root_at = document.root_element().range().start;
    let beside = |after: bool| {
        let all = document.root().children();
        let side = all.filter(move |it| (it.range().start > root_at) == after);
        side.filter_map(|it| it.pi()).map(instruction).collect::<Vec<Node>>()
    };
    if let Node::Element(element) = &mut root {
        for (name, children) in [("?before", beside(false)), ("?after", beside(true))] {
            budget.spend(children.len())?;
            if !children.is_empty() {
                element.children.push(apart(name, children));
            }
        }
    }
    Ok(Some(root))
}

/// A processing instruction is an element of its own kind.
fn instruction(it: roxmltree::PI<'_>) -> Node {
    let children = it.value.map(|value| Node::Text(value.into())).into_iter().collect();
    apart(&format!("?{}", it.target), children)
}

fn apart(name: &str, children: Vec<Node>) -> Node {
    let (namespace, name) = ("".into(), name.into());
    Node::Element(Box::new(Element { namespace, name, attributes: BTreeMap::new(), children }))
}

fn element(
    node: Xml<'_, '_>,
    targets: &BTreeMap<&str, Xml<'_, '_>>,
    depth: usize,
    budget: &mut Budget,
) -> Result<Node, Unknown> {
    if depth > DEPTH_MAX {
        return Err(Unknown::Budget);
    }
    budget.spend(1 + node.attributes().len())?;
    // A reference stands for what it points to; the target itself, at the end of the body, is then nobody's child.
    let href = node.attribute("href").and_then(|href| href.strip_prefix('#')).and_then(|id| targets.get(id));
    let source = href.copied().unwrap_or(node);
    let own = node.attributes().filter(|it| href.is_some() && it.name() != "href");
    let attributes = source
        .attributes()
        .filter(|it| !(href.is_some() && matches!(it.name(), "id" | "root" | "encodingStyle")))
        .chain(own)
        .map(|it| {
            let name = match it.namespace() {
                Some(namespace) => format!("{{{namespace}}}{}", it.name()),
                None => it.name().to_owned(),
            };
            (name.into(), it.value().into())
        })
        .collect();
    let has_elements = source.children().any(|child| child.is_element() || child.is_pi());
    let mut children: Vec<Node> = Vec::new();
    for child in source.children() {
        if child.is_element() {
            let is_target = child.tag_name().name() == "multiRef"
                && child.attribute("id").is_some_and(|id| targets.contains_key(id));
            if !is_target {
                children.push(element(child, targets, depth + 1, budget)?);
            }
        } else if let Some(it) = child.pi() {
            budget.spend(1)?;
            children.push(instruction(it));
        } else if let Some(text) = child.text().filter(|_| child.is_text()) {
            match children.last_mut() {
                // A comment or a CDATA section in the middle does not make two texts.
                Some(Node::Text(before)) => *before = format!("{before}{text}").into(),
                _ => children.push(Node::Text(text.into())),
            }
        }
    }
    if has_elements {
        // Space alone is how a document is laid out; beside words it is one space.
        children.retain_mut(|child| match child {
            Node::Text(text) => {
                *text = collapse(text).into();
                **text != *" "
            }
            _ => true,
        });
    }
    let name = node.tag_name();
    let namespace = name.namespace().unwrap_or_default().into();
    Ok(Node::Element(Box::new(Element { namespace, name: name.name().into(), attributes, children })))
}

/// Space in running text is one space; that beside a block is none. A no-break space is none of it.
pub fn collapse(text: &str) -> String {
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
