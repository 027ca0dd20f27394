//! What was changed, by whom and why, in a chain: each entry holds the hash of the one before it.
//!
//! Input: entries. Output: their hashes, and whether a list of them is whole. Must not: let an entry be changed, taken out or put in
//! without the chain saying where.

use crate::life::RouteState;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// One change that was made. Absent fields say that there was nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// From 1 on, without gaps.
    pub sequence: u64,
    pub at_unix_s: u64,
    pub actor: String,
    /// `promote`, `hold`, `resume`, `share`, `approve`, `rollback`, `kill`, `unkill`.
    pub action: String,
    /// A route's id; `all`, `group:<name>` or `route:<id>` of a kill switch.
    pub scope: String,
    pub reason: String,
    /// Of the rules that served.
    pub rules_revision: String,
    /// Of the state, before and after.
    pub revision_before: u64,
    pub revision_after: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<RouteState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<RouteState>,
    /// Hash of the entry before; of the first, 64 zeros.
    pub previous: String,
    pub hash: String,
}

/// What the first entry follows.
pub const START: &str = "0000000000000000000000000000000000000000000000000000000000000000";

impl Entry {
    /// SHA-256 over the entry as JSON, without its own hash.
    pub fn digest(&self) -> String {
        let bare = Entry { hash: String::new(), ..self.clone() };
        let text = serde_json::to_vec(&bare).unwrap_or_default();
        Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub fn sealed(mut self) -> Entry {
        self.hash = self.digest();
        self
    }
}

/// Where a chain is broken: the sequence of the first entry that does not follow from the one before it.
pub fn verify(entries: &[Entry]) -> Result<(), u64> {
    let mut previous = START;
    for (number, entry) in (1..).zip(entries) {
        if entry.sequence != number || entry.previous != previous || entry.hash != entry.digest() {
            return Err(number);
        }
        previous = &entry.hash;
    }
    Ok(())
}
