//! What two regular languages have in common: the shortest text that one matches and others match, or do not.
//!
//! Input: anchored patterns. Output: a witness, proof that there is none, or that the search grew too large. Must not: be
//! used per request. Only printable ASCII is searched: nothing else reaches a matcher in a path, and what a header could
//! hold beyond it is no likelier to clash.

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::util::syntax;
use regex_automata::{Anchored, util::start};
use std::collections::{HashMap, VecDeque};

/// States of the product that are visited before giving up: 200,000 take about a quarter of a second.
const STATES_MAX: usize = 200_000;

/// The outcome of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Search {
    Witness(String),
    Disjoint,
    TooLarge,
}

/// A text that all of `with` match in full and none of `without` does.
pub fn common(with: &[&str], without: &[&str]) -> Search {
    let build = |pattern: &&str| {
        let config = dense::Config::new()
            .start_kind(StartKind::Anchored)
            .dfa_size_limit(Some(1 << 22))
            .determinize_size_limit(Some(1 << 23));
        let syntax = syntax::Config::new().unicode(false).utf8(false);
        dense::Builder::new().configure(config).syntax(syntax).build(&format!("^(?:{pattern})$")).ok()
    };
    let automata: Option<Vec<_>> = with.iter().chain(without).map(build).collect();
    let Some(automata) = automata else { return Search::TooLarge };
    let config = start::Config::new().anchored(Anchored::Yes);
    let begin: Option<Vec<_>> = automata.iter().map(|dfa| dfa.start_state(&config).ok()).collect();
    let Some(begin) = begin else { return Search::TooLarge };
    let wanted = with.len();
    let accepts = |states: &[regex_automata::util::primitives::StateID]| {
        states.iter().zip(&automata).enumerate().all(|(number, (state, dfa))| {
            let matched = dfa.is_match_state(dfa.next_eoi_state(*state));
            matched == (number < wanted)
        })
    };
    // Parent links give the witness back without keeping a text per state.
    let mut seen: HashMap<Vec<_>, usize> = HashMap::from([(begin.clone(), 0)]);
    let mut order = vec![(usize::MAX, 0u8)];
    let mut queue = VecDeque::from([(begin, 0usize)]);
    while let Some((states, number)) = queue.pop_front() {
        if accepts(&states) {
            return Search::Witness(witness(&order, number));
        }
        // Letters first, so that samples read like paths.
        let alphabet =
            (b'a'..=b'z').chain(b'/'..=b'9').chain(b'!'..=b'.').chain(b':'..=b'`').chain(b'{'..=b'~');
        for byte in alphabet {
            let next: Vec<_> =
                states.iter().zip(&automata).map(|(state, dfa)| dfa.next_state(*state, byte)).collect();
            let dead = next.iter().zip(&automata).take(wanted).any(|(state, dfa)| dfa.is_dead_state(*state));
            if dead || seen.contains_key(&next) {
                continue;
            }
            if order.len() >= STATES_MAX {
                return Search::TooLarge;
            }
            order.push((number, byte));
            seen.insert(next.clone(), order.len() - 1);
            queue.push_back((next, order.len() - 1));
        }
    }
    Search::Disjoint
}

fn witness(order: &[(usize, u8)], mut number: usize) -> String {
    let mut bytes = Vec::new();
    while number != 0 {
        let (parent, byte) = order[number];
        bytes.push(byte);
        number = parent;
    }
    bytes.reverse();
    String::from_utf8_lossy(&bytes).into_owned()
}
