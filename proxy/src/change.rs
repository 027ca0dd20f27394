//! Changes beside the rules, asked for by people: what they are, what came of them.
//!
//! Input: a request of the API. Output: a question to the control thread, and its answer. Must not: change anything itself: the
//! control thread is the only one that does.

use crate::state::kill::KillSet;
use crate::targets::live_breaker::Hand;
use banyan_routes::ids::{PPM, SharePpm, Side};
use banyan_routes::life::{Change, Refused, RouteState};
use banyan_routes::table::RouteTable;
use serde::Serialize;
use std::path::PathBuf;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct ChangeAsked {
    pub what: What,
    pub actor: String,
    pub reason: String,
    /// Only if the state's revision is this one.
    pub if_revision: Option<u64>,
    /// Say what would come of it.
    pub dry_run: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Route {
        id: String,
        change: Change,
    },
    Kill {
        scope: Scope,
        on: bool,
    },
    /// Held on this replica, until it is let go or the backend's rule changes; what shall last is a rule.
    Breaker {
        backend: String,
        hand: Hand,
    },
}

impl What {
    pub fn action(&self) -> &'static str {
        match self {
            What::Route { change, .. } => change.as_str(),
            What::Kill { on: true, .. } => "kill",
            What::Kill { on: false, .. } => "unkill",
            What::Breaker { hand: Hand::Open, .. } => "breaker open",
            What::Breaker { hand: Hand::Close, .. } => "breaker close",
            What::Breaker { hand: Hand::Auto, .. } => "breaker auto",
        }
    }

    pub fn scope(&self) -> String {
        match self {
            What::Route { id, .. } => id.clone(),
            What::Kill { scope, .. } => scope.to_string(),
            What::Breaker { backend, .. } => format!("backend:{backend}"),
        }
    }
}

/// Whom a kill switch is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    All,
    Group(String),
    Route(String),
}

impl Scope {
    /// `all`, `group:<name>`, `route:<id>` or a route's id.
    pub fn parse(text: &str) -> Scope {
        match text.split_once(':') {
            Some(("group", name)) => Scope::Group(name.to_owned()),
            Some(("route", id)) => Scope::Route(id.to_owned()),
            _ if text == "all" => Scope::All,
            _ => Scope::Route(text.to_owned()),
        }
    }

    /// Whether a kill of the fleet is this one: `all`, `group:<name>`, `route:<id>`, as `to_string` gives it.
    pub fn names(&self, kill: &str) -> bool {
        self.to_string() == kill
    }

    /// The file that is the switch. `None`: nothing is called that, and nothing of that name is killed.
    pub fn file(&self, table: &RouteTable, kills: &KillSet) -> Option<PathBuf> {
        match self {
            Scope::All => Some("KILL".into()),
            Scope::Group(name) | Scope::Route(name) => {
                let known = match self {
                    Scope::Group(_) => table.groups.iter().any(|group| **group == **name),
                    Scope::Route(_) | Scope::All => table.position(name.as_str()).is_some(),
                };
                (known || kills.named.contains(name)).then(|| format!("KILL.{name}").into())
            }
        }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Scope::All => f.write_str("all"),
            Scope::Group(name) => write!(f, "group:{name}"),
            Scope::Route(id) => write!(f, "route:{id}"),
        }
    }
}

/// A change that was made, or would be.
#[derive(Clone, Debug, Serialize)]
pub struct Changed {
    pub version: u32,
    pub action: &'static str,
    pub scope: String,
    pub dry_run: bool,
    /// On the disk, or in the fleet's store. Where that is away, a way back is in force on this replica, and kept later.
    pub kept: bool,
    /// Of the state, now.
    pub state_revision: u64,
    /// The part of the keys that goes to serverless, before and after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before_share_ppm: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_share_ppm: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<RouteState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<RouteState>,
    /// How much of what came in the last hour it concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Moved>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Held>,
}

/// A breaker that was asked to be held, or let go.
#[derive(Clone, Debug, Serialize)]
pub struct Held {
    pub backend: String,
    pub state: &'static str,
    pub held: bool,
}

/// What a change of a share would have moved.
#[derive(Clone, Debug, Serialize)]
pub struct Moved {
    /// Of the route, on this replica, in the last hour or since it began.
    pub requests_last_hour: u64,
    /// Of these, about so many would have gone to the other side.
    pub would_move: u64,
    /// And so many would be answered 503: those of retired routes, which have no legacy side.
    #[serde(skip_serializing_if = "is_zero")]
    pub would_refuse: u64,
    pub to: &'static str,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Moved {
    pub fn new(requests: u64, before: SharePpm, after: SharePpm) -> Moved {
        let part = u64::from(before.get().abs_diff(after.get()));
        let to = if after >= before { Side::Serverless } else { Side::Legacy };
        Moved {
            requests_last_hour: requests,
            would_move: requests * part / u64::from(PPM),
            would_refuse: 0,
            to: to.as_str(),
        }
    }
}

/// Why nothing was changed.
#[derive(Clone, Debug)]
pub enum NotChanged {
    Unknown(String),
    Revision {
        is: u64,
    },
    Refused(Refused),
    /// It could not be kept.
    Store(String),
    /// The store did not say in time whether it keeps it.
    Unsure(String),
    NoRules,
    /// The rules give this backend none.
    NoBreaker(String),
}
