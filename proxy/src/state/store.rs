//! State and audit log, in one file: what is acknowledged is on the disk.
//!
//! Input: a new state with its audit entry. Output: the same after any restart. Must not: write one without the other, or acknowledge
//! what a crash could take back.

use crate::private;
use banyan_routes::audit::{Entry, START};
use banyan_routes::life::RouteState;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

const FILE: &str = "state.redb";
/// One row, as JSON.
const STATE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("state");
const CURRENT: &str = "current";
/// Sequence -> entry, as JSON.
const AUDIT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("audit");

/// All that is known beside the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Counts every change.
    pub revision: u64,
    pub routes: BTreeMap<String, RouteState>,
}

pub struct StateStore {
    database: Result<Database, String>,
    last: (u64, String),
}

impl StateStore {
    /// Never fails: without a file nothing can be changed, and kill switches work all the same.
    pub fn open(dir: &Path) -> (StateStore, State) {
        let opened = private::create(&dir.join(FILE)).map_err(redb::Error::from).and_then(|database| {
            let (state, last) = read(&database)?;
            Ok((database, state, last))
        });
        match opened {
            Ok((database, state, last)) => (StateStore { database: Ok(database), last }, state),
            Err(error) => {
                tracing::error!(%error, "{FILE} cannot be used; no state can be changed");
                let last = (0, START.to_owned());
                (StateStore { database: Err(error.to_string()), last }, State::default())
            }
        }
    }

    /// The entry's sequence, chain and hash are filled in here. On the disk when this returns.
    pub fn commit(&mut self, state: &State, entry: Entry) -> Result<Entry, String> {
        let database = self.database.as_ref().map_err(Clone::clone)?;
        let entry = Entry { sequence: self.last.0 + 1, previous: self.last.1.clone(), ..entry }.sealed();
        write(database, state, &entry).map_err(|error| error.to_string())?;
        self.last = (entry.sequence, entry.hash.clone());
        Ok(entry)
    }

    /// All entries, the oldest first.
    pub fn audit(&self) -> Result<Vec<Entry>, String> {
        let database = self.database.as_ref().map_err(Clone::clone)?;
        entries(database).map_err(|error| error.to_string())
    }
}

fn write(database: &Database, state: &State, entry: &Entry) -> Result<(), redb::Error> {
    let json = |text: serde_json::Result<Vec<u8>>| text.unwrap_or_default();
    let transaction = database.begin_write()?;
    transaction.open_table(STATE)?.insert(CURRENT, json(serde_json::to_vec(state)).as_slice())?;
    transaction.open_table(AUDIT)?.insert(entry.sequence, json(serde_json::to_vec(entry)).as_slice())?;
    transaction.commit()?;
    Ok(())
}

fn read(database: &Database) -> Result<(State, (u64, String)), redb::Error> {
    let transaction = database.begin_write()?;
    let corrupt = |what: &str, error: serde_json::Error| redb::Error::Corrupted(format!("{what}: {error}"));
    let (state, last) = {
        let states = transaction.open_table(STATE)?;
        let audit = transaction.open_table(AUDIT)?;
        let state = match states.get(CURRENT)? {
            Some(value) => serde_json::from_slice(value.value()).map_err(|error| corrupt("state", error))?,
            None => State::default(),
        };
        let last = match audit.last()? {
            Some((sequence, value)) => {
                let entry: Entry =
                    serde_json::from_slice(value.value()).map_err(|error| corrupt("audit", error))?;
                (sequence.value(), entry.hash)
            }
            None => (0, START.to_owned()),
        };
        (state, last)
    };
    transaction.commit()?;
    Ok((state, last))
}

fn entries(database: &Database) -> Result<Vec<Entry>, redb::Error> {
    let transaction = database.begin_read()?;
    let mut all = Vec::new();
    for row in transaction.open_table(AUDIT)?.iter()? {
        let (_, value) = row?;
        let entry = serde_json::from_slice(value.value());
        all.push(entry.map_err(|error| redb::Error::Corrupted(format!("audit: {error}")))?);
    }
    Ok(all)
}
