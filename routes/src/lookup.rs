//! The best match for a request. The cost grows with the segments of the path, never with the number of routes.
//!
//! Input: all matchers once; then host, path and facts per request. Output: the entry that precedence picks. Must not:
//! allocate per request, or know what a route does. Regexes are the exception in cost: they are tried last, in order of
//! their priority, one by one within their host.
//!
//! Paths of one host form a tree of segments. Exact paths and templates are found depth first, literal before parameter,
//! which is their precedence; prefixes and rests are found deepest first, which is theirs.

use crate::pattern::{HostPattern, Matcher, PathPattern, Segment};
use crate::request::{RequestFacts, bare_host};
use hashbrown::{Equivalent, HashMap, HashTable};
use std::borrow::Cow;
use std::hash::{Hash, Hasher};
use xxhash_rust::xxh3::xxh3_64;

/// One alternative of one route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry {
    pub route: u32,
    pub alternative: u16,
}

/// How an entry stands at its node; declared in the order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// The path ends here.
    End,
    /// At least one more segment follows, which may be empty.
    Rest,
    /// Whatever follows.
    Prefix,
}

#[derive(Clone, Copy, Debug)]
struct Leaf {
    kind: Kind,
    /// No conditions to check.
    free: bool,
    entry: Entry,
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// The child for a parameter; 0 is the first root and so never a child.
    param: u32,
    leaves: Vec<Leaf>,
}

#[derive(Clone, Debug)]
struct Edge {
    parent: u32,
    segment: Box<str>,
}

struct EdgeRef<'a> {
    parent: u32,
    segment: &'a str,
}

impl Hash for Edge {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.parent, &*self.segment).hash(state);
    }
}

impl Hash for EdgeRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.parent, self.segment).hash(state);
    }
}

impl PartialEq for Edge {
    fn eq(&self, other: &Self) -> bool {
        self.parent == other.parent && self.segment == other.segment
    }
}

impl Eq for Edge {}

impl Equivalent<Edge> for EdgeRef<'_> {
    fn equivalent(&self, key: &Edge) -> bool {
        self.parent == key.parent && *self.segment == *key.segment
    }
}

#[derive(Clone, Debug)]
struct HostSlot {
    root: u32,
    /// Higher priority first.
    regexes: Vec<Entry>,
}

/// The positions of routes by their ids, which stand in the routes alone.
#[derive(Clone, Debug, Default)]
pub struct ById(HashTable<u32>);

impl ById {
    /// `id` gives a route's again.
    pub fn build<'r>(routes: usize, id: impl Fn(u32) -> &'r str) -> ById {
        let hash = |at: &u32| xxh3_64(id(*at).as_bytes());
        let mut table = HashTable::with_capacity(routes);
        for at in 0..routes as u32 {
            table.insert_unique(hash(&at), at, hash);
        }
        ById(table)
    }

    pub fn find<'r>(&self, wanted: &str, id: impl Fn(u32) -> &'r str) -> Option<u32> {
        self.0.find(xxh3_64(wanted.as_bytes()), |at| id(*at) == wanted).copied()
    }
}

/// All matchers of a rule set, arranged for lookup.
#[derive(Clone, Debug, Default)]
pub struct Index {
    exact: HashMap<Box<str>, u32>,
    wildcard: HashMap<Box<str>, u32>,
    any: Option<u32>,
    slots: Vec<HostSlot>,
    nodes: Vec<Node>,
    edges: HashMap<Edge, u32>,
}

impl Index {
    /// Arranges `matchers`; `get` gives the matcher of an entry again.
    pub fn build<'m>(entries: impl Iterator<Item = Entry>, get: impl Fn(Entry) -> &'m Matcher) -> Index {
        let mut index = Index::default();
        for entry in entries {
            index.insert(entry, get(entry));
        }
        for node in &mut index.nodes {
            node.leaves.sort_by_key(|leaf| (leaf.kind, get(leaf.entry).order(), leaf.entry));
            node.leaves.shrink_to_fit();
        }
        for slot in &mut index.slots {
            let rank = |entry: &Entry| (std::cmp::Reverse(get(*entry).specificity()), *entry);
            slot.regexes.sort_by_cached_key(rank);
        }
        index
    }

    fn slot(&mut self, host: &HostPattern) -> u32 {
        let known = match host {
            HostPattern::Any => self.any,
            HostPattern::Exact(name) => self.exact.get(name).copied(),
            HostPattern::Wildcard(suffix) => self.wildcard.get(suffix).copied(),
        };
        if let Some(slot) = known {
            return slot;
        }
        let slot = self.slots.len() as u32;
        self.slots.push(HostSlot { root: self.nodes.len() as u32, regexes: Vec::new() });
        self.nodes.push(Node::default());
        match host {
            HostPattern::Any => self.any = Some(slot),
            HostPattern::Exact(name) => drop(self.exact.insert(name.clone(), slot)),
            HostPattern::Wildcard(suffix) => drop(self.wildcard.insert(suffix.clone(), slot)),
        }
        slot
    }

    fn insert(&mut self, entry: Entry, matcher: &Matcher) {
        let slot = self.slot(&matcher.host) as usize;
        let root = self.slots[slot].root;
        let (node, kind) = match &matcher.path {
            PathPattern::Exact(text) => (self.descend(root, literal_segments(text)), Kind::End),
            PathPattern::Prefix(text) => (self.descend(root, literal_segments(text)), Kind::Prefix),
            PathPattern::Template(segments) => (self.descend(root, segments.iter().cloned()), Kind::End),
            PathPattern::Rest(segments, _) => (self.descend(root, segments.iter().cloned()), Kind::Rest),
            PathPattern::Regex(..) => return self.slots[slot].regexes.push(entry),
        };
        let free = matcher.conditions.are_none();
        self.nodes[node as usize].leaves.push(Leaf { kind, free, entry });
    }

    fn descend(&mut self, root: u32, segments: impl Iterator<Item = Segment>) -> u32 {
        segments.fold(root, |parent, segment| {
            let fresh = self.nodes.len() as u32;
            let child = match segment {
                Segment::Literal(text) => *self.edges.entry(Edge { parent, segment: text }).or_insert(fresh),
                Segment::Param(_) => {
                    let param = &mut self.nodes[parent as usize].param;
                    if *param == 0 {
                        *param = fresh;
                    }
                    *param
                }
            };
            if child == fresh {
                self.nodes.push(Node::default());
            }
            child
        })
    }

    /// The entry that wins. `path` is in matching form; `get` gives the matcher of an entry.
    pub fn find<'m>(
        &self,
        facts: &RequestFacts<'_>,
        path: &str,
        get: impl Fn(Entry) -> &'m Matcher,
    ) -> Option<Entry> {
        let host = lower(bare_host(facts.host));
        let search = Search { index: self, facts, get };
        if let Some(slot) = self.exact.get(&*host)
            && let Some(entry) = search.host(*slot, path)
        {
            return Some(entry);
        }
        if !self.wildcard.is_empty() {
            let mut rest: &str = &host;
            while let Some((_, suffix)) = rest.split_once('.') {
                // A star stands for a label at least.
                let stands = host.len() - suffix.len() > 1;
                if let Some(slot) = self.wildcard.get(suffix).filter(|_| stands)
                    && let Some(entry) = search.host(*slot, path)
                {
                    return Some(entry);
                }
                rest = suffix;
            }
        }
        search.host(self.any?, path)
    }

    /// Groups of entries that stand at one place with one kind, or among one host's regexes: only within a group can two
    /// routes tie. The flag says whether others stand at the same place with another kind.
    pub fn groups(&self) -> impl Iterator<Item = (Vec<Entry>, bool)> {
        let regexes = self.slots.iter().map(|slot| (slot.regexes.clone(), true));
        let leaves = self.nodes.iter().flat_map(|node| {
            let of = |kind| {
                let own = node.leaves.iter().filter(move |leaf| leaf.kind == kind).map(|leaf| leaf.entry);
                let own: Vec<Entry> = own.collect();
                let crowded = own.len() < node.leaves.len();
                (own, crowded)
            };
            [of(Kind::End), of(Kind::Rest), of(Kind::Prefix)]
        });
        leaves.chain(regexes).filter(|(group, _)| !group.is_empty())
    }
}

/// Lower case without a copy when it is that already.
pub fn lower(host: &str) -> Cow<'_, str> {
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

fn literal_segments(text: &str) -> impl Iterator<Item = Segment> + '_ {
    text.split('/').skip(1).map(|part| Segment::Literal(part.into()))
}

struct Search<'i, 'f, G> {
    index: &'i Index,
    facts: &'f RequestFacts<'f>,
    get: G,
}

impl<'m, G: Fn(Entry) -> &'m Matcher> Search<'_, '_, G> {
    fn host(&self, slot: u32, path: &str) -> Option<Entry> {
        let slot = &self.index.slots[slot as usize];
        let rest = path.strip_prefix('/');
        self.ends(slot.root, rest)
            .or_else(|| self.prefixes(slot.root, rest))
            .or_else(|| self.regexes(slot, path))
    }

    fn leaf(&self, node: u32, kind: Kind) -> Option<Entry> {
        let holds = |leaf: &&Leaf| {
            leaf.kind == kind && (leaf.free || (self.get)(leaf.entry).conditions.hold(self.facts))
        };
        self.index.nodes[node as usize].leaves.iter().find(holds).map(|leaf| leaf.entry)
    }

    /// The children for the first segment of `rest`: the literal one, then the parameter.
    fn children<'p>(&self, node: u32, rest: &'p str) -> ([Option<u32>; 2], Option<&'p str>) {
        let (segment, rest) = match memchr::memchr(b'/', rest.as_bytes()) {
            Some(at) => (&rest[..at], Some(&rest[at + 1..])),
            None => (rest, None),
        };
        let literal = self.index.edges.get(&EdgeRef { parent: node, segment }).copied();
        let param =
            Some(self.index.nodes[node as usize].param).filter(|param| *param != 0 && !segment.is_empty());
        ([literal, param], rest)
    }

    /// Exact paths and templates. `rest` is `None` when the path is used up.
    fn ends(&self, node: u32, rest: Option<&str>) -> Option<Entry> {
        let Some(rest) = rest else { return self.leaf(node, Kind::End) };
        let (children, rest) = self.children(node, rest);
        children.into_iter().flatten().find_map(|child| self.ends(child, rest))
    }

    /// Rests and prefixes, the deepest first.
    fn prefixes(&self, node: u32, rest: Option<&str>) -> Option<Entry> {
        let Some(rest) = rest else { return self.leaf(node, Kind::Prefix) };
        let (children, deeper) = self.children(node, rest);
        let found = children.into_iter().flatten().find_map(|child| self.prefixes(child, deeper));
        found.or_else(|| self.leaf(node, Kind::Rest)).or_else(|| self.leaf(node, Kind::Prefix))
    }

    fn regexes(&self, slot: &HostSlot, path: &str) -> Option<Entry> {
        let holds = |entry: &&Entry| {
            let matcher = (self.get)(**entry);
            matcher.path.matches(path) && matcher.conditions.hold(self.facts)
        };
        slot.regexes.iter().find(holds).copied()
    }
}
