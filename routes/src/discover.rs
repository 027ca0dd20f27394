//! Paths that no route claims, as templates: which routes a team has still to write.
//!
//! Input: methods and paths as they come. Output: templates with counts, and a rule for each as YAML. Must not: grow with the number of
//! paths: what varies is one node, and what is too much is counted as such.

use http::Method;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Different segments at one place beyond which they are taken for values of a parameter.
const VALUES_MAX: usize = 12;
/// One part in so many of a place's requests makes a word of a segment.
const WORD_PART: u64 = 20;
const DEPTH_MAX: usize = 12;
/// Of all; what comes to a full tree is only counted.
const NODES_MAX: usize = 20_000;
/// Of an id, before its number.
const STEM_MAX: usize = 48;
/// In the report, the most frequent first.
const TEMPLATES_MAX: usize = 500;

#[derive(Default)]
struct Node {
    /// Requests that came this way.
    seen: u64,
    /// Requests that end here, by method.
    methods: BTreeMap<String, u64>,
    children: BTreeMap<String, Node>,
    /// All that varies at this place.
    any: Option<Box<Node>>,
    /// So many different ones came that all are taken for values.
    varies: bool,
}

/// What was seen so far.
#[derive(Default)]
pub struct Unclaimed {
    hosts: BTreeMap<String, Node>,
    nodes: usize,
    pub seen: u64,
    /// Seen, and not kept: the tree is full.
    pub not_kept: u64,
}

/// One template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Template {
    pub host: String,
    /// `/orders/{id}`
    pub path: String,
    pub methods: Vec<String>,
    pub requests: u64,
    /// A route for it, in stage `legacy`, without its backend.
    pub rule: String,
}

impl Unclaimed {
    pub fn see(&mut self, host: &str, method: &Method, path: &str) {
        self.seen += 1;
        let method = if is_known(method) { method.as_str() } else { "OTHER" };
        let host = host.rsplit_once(':').map_or(host, |(name, port)| {
            if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
        });
        if !self.hosts.contains_key(host) && (self.hosts.len() >= VALUES_MAX * 8 || self.nodes >= NODES_MAX) {
            self.not_kept += 1;
            return;
        }
        let mut node = self.hosts.entry(host.to_ascii_lowercase()).or_default();
        for segment in path.split('/').skip(1).take(DEPTH_MAX) {
            node.seen += 1;
            let known = node.children.contains_key(segment);
            if !known && (is_value(segment) || node.varies) {
                self.nodes += usize::from(node.any.is_none());
                node = node.any.get_or_insert_default();
                continue;
            }
            if !known {
                if self.nodes >= NODES_MAX {
                    self.not_kept += 1;
                    return;
                }
                self.nodes += 1;
                if node.children.len() + 1 > VALUES_MAX {
                    // So many different ones are values; those that have much of the traffic are words all the same.
                    let mut any = node.any.take().map_or_else(Node::default, |any| *any);
                    let all = node.seen;
                    let (words, values): (BTreeMap<_, _>, BTreeMap<_, _>) =
                        std::mem::take(&mut node.children)
                            .into_iter()
                            .partition(|(_, child)| child.seen * WORD_PART >= all && child.seen > 1);
                    node.children = words;
                    self.nodes -= values.len().min(self.nodes);
                    values.into_values().for_each(|child| any.absorb(child));
                    node.any = Some(Box::new(any));
                    node.varies = true;
                    node = node.any.get_or_insert_default();
                    continue;
                }
            }
            node = node.children.entry(segment.to_owned()).or_default();
        }
        node.seen += 1;
        *node.methods.entry(method.to_owned()).or_default() += 1;
    }

    /// The most frequent first; their rules get ids that are not `taken`.
    pub fn templates(&self, taken: impl Fn(&str) -> bool) -> Vec<Template> {
        let mut all = Vec::new();
        for (host, root) in &self.hosts {
            root.collect(host, String::new(), &mut Vec::new(), &mut all);
        }
        all.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.path.cmp(&b.path)));
        all.truncate(TEMPLATES_MAX);
        let mut ids = BTreeMap::new();
        for template in &mut all {
            template.rule = rule(&template.host, &template.path, &template.methods, &mut ids, &taken);
        }
        all
    }
}

impl Node {
    fn absorb(&mut self, other: Node) {
        self.seen += other.seen;
        for (method, count) in other.methods {
            *self.methods.entry(method).or_default() += count;
        }
        for (segment, child) in other.children {
            self.children.entry(segment).or_default().absorb(child);
        }
        if let Some(any) = other.any {
            self.any.get_or_insert_default().absorb(*any);
        }
    }

    fn collect(&self, host: &str, path: String, names: &mut Vec<String>, all: &mut Vec<Template>) {
        if !self.methods.is_empty() {
            let shown = if path.is_empty() { "/".to_owned() } else { path.clone() };
            let methods: Vec<String> = self.methods.keys().cloned().collect();
            all.push(Template {
                host: host.to_owned(),
                path: shown,
                requests: self.methods.values().sum(),
                methods,
                rule: String::new(),
            });
        }
        for (segment, child) in &self.children {
            child.collect(host, format!("{path}/{segment}"), names, all);
        }
        if let Some(any) = &self.any {
            let name = name_after(path.rsplit('/').next().unwrap_or_default(), names);
            names.push(name.clone());
            any.collect(host, format!("{path}/{{{name}}}"), names, all);
            names.pop();
        }
    }
}

fn is_known(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS]
        .contains(method)
}

/// Numbers, UUIDs, hashes, and anything long with digits in it.
fn is_value(segment: &str) -> bool {
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    let hex = segment.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    (digits > 0 && digits == segment.len())
        || (hex && digits > 0 && segment.len() >= 8)
        || (digits >= 4 && segment.len() >= 8)
        || segment.contains(['{', '}', '%'])
        || segment.len() > 64
}

/// `/orders/{order_id}`: after what stands before it, and no name twice.
fn name_after(before: &str, taken: &[String]) -> String {
    let plain: String = before.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let stem = match plain.strip_suffix('s').filter(|stem| stem.len() > 1) {
        _ if plain.is_empty() || plain.starts_with(|c: char| c.is_ascii_digit()) => "id".to_owned(),
        Some(stem) => format!("{stem}_id"),
        None => format!("{plain}_id"),
    };
    let mut name = stem.clone();
    let mut number = 2;
    while taken.contains(&name) {
        name = format!("{stem}_{number}");
        number += 1;
    }
    name
}

/// `ids` counts how often each stem was used: asking for the next free one by one would be quadratic.
fn rule(
    host: &str,
    path: &str,
    methods: &[String],
    ids: &mut BTreeMap<String, u32>,
    taken: &impl Fn(&str) -> bool,
) -> String {
    let fixed = path.split('/').filter(|segment| !segment.contains('{'));
    let mut stem: String = fixed
        .flat_map(|segment| segment.split(['-', '.', '_']))
        .map(|word| word.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join("-");
    if stem.is_empty() {
        stem = "root".into();
    }
    if path.ends_with('}') {
        stem.push_str("-one");
    }
    stem.truncate(STEM_MAX);
    let id = loop {
        let count = ids.entry(stem.clone()).or_default();
        *count += 1;
        let id = if *count == 1 { stem.clone() } else { format!("{stem}-{count}") };
        // `a-2` may be a path of its own.
        let is_free = *count == 1 || !ids.contains_key(&id);
        if is_free && !taken(&id) {
            break id;
        }
    };
    let methods: Vec<&str> = methods.iter().map(String::as_str).filter(|method| *method != "OTHER").collect();
    let mut text = format!("- id: {id}\n  match: {{");
    if !host.is_empty() {
        let _ = write!(text, "host: {host:?}, ");
    }
    let _ = write!(text, "path: {path:?}");
    if !methods.is_empty() {
        let _ = write!(text, ", methods: [{}]", methods.join(", "));
    }
    text.push_str("}\n  stage: legacy\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(paths: impl IntoIterator<Item = (Method, String)>) -> Vec<Template> {
        let mut unclaimed = Unclaimed::default();
        for (method, path) in paths {
            unclaimed.see("shop.example:8080", &method, &path);
        }
        unclaimed.templates(|id| id == "default")
    }

    #[test]
    fn what_varies_becomes_a_parameter_and_what_does_not_stays() {
        let orders = (0..500).map(|n| (Method::GET, format!("/orders/{n}/lines/{}", n % 7)));
        let names = (0..40).map(|n| {
            (Method::GET, format!("/people/{}", ["ann", "ben", "kim", "lee"][n % 4].repeat(n / 4 + 1)))
        });
        let few = ["red", "blue"].map(|colour| (Method::POST, format!("/paint/{colour}")));
        let root = [(Method::GET, "/".to_owned())];
        let found = seen(orders.chain(names).chain(few).chain(root));
        let shown: Vec<(&str, u64)> = found.iter().map(|it| (it.path.as_str(), it.requests)).collect();
        assert_eq!(
            shown,
            [
                ("/orders/{order_id}/lines/{line_id}", 500),
                ("/people/{people_id}", 40),
                ("/", 1),
                ("/paint/blue", 1),
                ("/paint/red", 1)
            ]
        );
        assert_eq!(
            found[0].rule,
            "- id: orders-lines-one\n  match: {host: \"shop.example\", path: \"/orders/{order_id}/lines/{line_id}\", methods: [GET]}\n  stage: legacy\n"
        );
    }

    #[test]
    fn a_flood_of_paths_stays_bounded() {
        let mut unclaimed = Unclaimed::default();
        for n in 0..200_000u64 {
            let word = |salt: u64| {
                format!("{:x}", (n * 2_654_435_761 + salt) % 10_007)
                    .replace(|c: char| c.is_ascii_digit(), "q")
            };
            unclaimed.see(
                &format!("h{}.example", n % 300),
                &Method::GET,
                &format!("/{}/{}/{}", word(1), word(2), word(3)),
            );
        }
        assert!(unclaimed.nodes <= NODES_MAX, "{}", unclaimed.nodes);
        assert!(unclaimed.templates(|_| false).len() <= TEMPLATES_MAX && unclaimed.not_kept > 0);
        assert_eq!(unclaimed.seen, 200_000);
    }
}
