//! All that is known beside the rules, and how one replica's copy of it keeps up with a fleet's.
//!
//! Input: what is known here, and what the fleet's store holds. Output: what is in force here, and what has to be taken over or put back.
//! Must not: take back a way back: a rollback or a kill that is in force stays so until a person lifts it, whatever a store forgets.

use crate::audit::{Entry, START};
use crate::life::{Asked, Change, RouteState};
use crate::table::RouteTable;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Counts every change.
    pub revision: u64,
    pub routes: BTreeMap<String, RouteState>,
    /// Kill switches of a whole fleet, as `all`, `group:<name>` and `route:<id>`; those of one replica are files.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub kills: BTreeSet<String>,
}

/// The end of the chain: where the next entry joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Last {
    pub sequence: u64,
    pub hash: String,
}

impl Default for Last {
    fn default() -> Last {
        Last { sequence: 0, hash: START.to_owned() }
    }
}

impl Last {
    pub fn of(entry: &Entry) -> Last {
        Last { sequence: entry.sequence, hash: entry.hash.clone() }
    }

    /// The entry with its place in the chain.
    pub fn seal(&self, entry: Entry) -> Entry {
        Entry { sequence: self.sequence + 1, previous: self.hash.clone(), ..entry }.sealed()
    }
}

/// A rollback or a kill that is in force here and not kept yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayBack {
    pub scope: BackScope,
    pub actor: String,
    pub reason: String,
    /// When it was asked for; it may be kept much later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_unix_s: Option<u64>,
}

impl WayBack {
    pub fn new(scope: BackScope, actor: &str, reason: &str, at_unix_s: u64) -> WayBack {
        WayBack { scope, actor: actor.to_owned(), reason: reason.to_owned(), at_unix_s: Some(at_unix_s) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackScope {
    Rollback {
        route: String,
    },
    /// `all`, `group:<name>`, `route:<id>`.
    Kill {
        scope: String,
    },
}

/// What is kept, with the ways back that are not.
pub fn in_force(state: &State, unsent: &[WayBack], table: &RouteTable) -> State {
    let mut all = state.clone();
    for back in unsent {
        let id = match &back.scope {
            BackScope::Rollback { route } => route,
            BackScope::Kill { scope } => {
                all.kills.insert(scope.clone());
                continue;
            }
        };
        let Some(at) = table.position(id.as_str()) else { continue };
        let by =
            Asked { actor: &back.actor, reason: &back.reason, at_unix_s: 0, frozen: None, headroom: None };
        let now = all.routes.get(id).cloned().unwrap_or_default();
        if let Ok(after) = now.after(Change::Rollback, table.route(at), table, &by) {
            all.routes.insert(id.clone(), after);
        }
    }
    all
}

/// What the fleet's store said.
pub struct Told<'a> {
    pub revision: u64,
    /// Of its last entry; `None`: it holds none.
    pub last_hash: Option<&'a str>,
    /// Those behind the sequence that is known here.
    pub entries: &'a [Entry],
}

/// What to do about it.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Same,
    /// Its entries continue what is known here.
    Follows,
    /// Its log is another one: it is taken over whole.
    Another,
    /// It has forgotten what had been acknowledged.
    PutBack,
}

/// `ours` is asked for only where the store knows less than this replica.
pub fn heard(state: &State, last: &Last, told: &Told<'_>, ours: impl FnOnce() -> Vec<Entry>) -> Heard {
    let follows = match (told.entries.first(), told.entries.last()) {
        (Some(first), Some(end)) => first.previous == last.hash && Some(end.hash.as_str()) == told.last_hash,
        _ => told.last_hash.is_none_or(|hash| hash == last.hash),
    };
    if told.revision < state.revision {
        // An end that we know is our own past; one that we do not know is somebody else's.
        let known = told.last_hash.is_none_or(|hash| ours().iter().any(|entry| entry.hash == hash));
        return if known { Heard::PutBack } else { Heard::Another };
    }
    match follows {
        true if told.revision == state.revision => Heard::Same,
        true => Heard::Follows,
        false => Heard::Another,
    }
}

/// Where a log that has lost its beginning goes on from what is known here.
pub fn goes_on(last: &Last, theirs: &[Entry]) -> Option<usize> {
    theirs.iter().position(|entry| entry.previous == last.hash)
}

/// Ways back of our log that a log taken over instead does not have, and nobody had lifted. To who has not been of this fleet yet
/// (`member`), a log without a common beginning is another fleet's, and our past is none of its business.
pub fn forgotten(ours: &[Entry], theirs: &[Entry], member: bool) -> Vec<WayBack> {
    let common = ours.iter().zip(theirs).take_while(|(a, b)| a.hash == b.hash).count();
    let mut lost: Vec<WayBack> = Vec::new();
    let others = common == 0 && !member;
    for entry in ours.iter().skip(if others { ours.len() } else { common }) {
        let rollback = || BackScope::Rollback { route: entry.scope.clone() };
        let kill = || BackScope::Kill { scope: entry.scope.clone() };
        let (scope, on) = match entry.action.as_str() {
            "rollback" => (rollback(), true),
            "resume" => (rollback(), false),
            "kill" => (kill(), true),
            "unkill" => (kill(), false),
            _ => continue,
        };
        lost.retain(|back| back.scope != scope);
        if on {
            lost.push(WayBack::new(scope, &entry.actor, &entry.reason, entry.at_unix_s));
        }
    }
    lost
}
