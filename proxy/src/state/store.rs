//! State and audit log, in one file: what is acknowledged is on the disk.
//!
//! Input: a new state with its audit entry. Output: the same after any restart. Must not: write one without the other, or acknowledge
//! what a crash could take back. In a fleet it is the copy that a replica starts from when the fleet's store is away.

use crate::private;
use banyan_routes::audit::Entry;
use banyan_routes::state::{Last, State};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use std::path::Path;

const FILE: &str = "state.redb";
/// One row, as JSON.
const STATE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("state");
const CURRENT: &str = "current";
/// Sequence -> entry, as JSON.
const AUDIT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("audit");
/// Anything that is kept beside, and may be lost: name -> JSON.
const NOTES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("notes");

pub struct StateStore {
    database: Result<Database, String>,
    /// A successor may have the file.
    given_away: bool,
    last: Last,
}

impl StateStore {
    /// Never fails: without a file nothing can be changed, and kill switches work all the same.
    pub fn open(dir: &Path) -> (StateStore, State) {
        let opened = private::create(&dir.join(FILE)).map_err(redb::Error::from).and_then(|database| {
            let (state, last) = read(&database)?;
            Ok((database, state, last))
        });
        match opened {
            Ok((database, state, last)) => {
                (StateStore { database: Ok(database), given_away: false, last }, state)
            }
            Err(error) => {
                tracing::error!(%error, "{FILE} cannot be used; no state can be changed");
                let last = Last::default();
                (StateStore { database: Err(error.to_string()), given_away: false, last }, State::default())
            }
        }
    }

    /// Closes the file; nothing can be changed until it is opened again.
    pub fn close(&mut self) {
        self.database = Err("a successor is being started; try again in a moment".into());
        self.given_away = true;
    }

    pub fn is_given_away(&self) -> bool {
        self.given_away
    }

    pub fn last(&self) -> &Last {
        &self.last
    }

    pub fn is_usable(&self) -> bool {
        self.database.is_ok()
    }

    /// The entry's sequence, chain and hash are filled in here. On the disk when this returns.
    pub fn commit(&mut self, state: &State, entry: Entry) -> Result<Entry, String> {
        let database = self.database.as_ref().map_err(Clone::clone)?;
        let entry = self.last.seal(entry);
        write(database, state, std::slice::from_ref(&entry), false).map_err(|error| error.to_string())?;
        self.last = Last::of(&entry);
        Ok(entry)
    }

    /// What a fleet's store has acknowledged: entries that follow ours, or (`anew`) the whole log.
    pub fn adopt(&mut self, state: &State, entries: &[Entry], anew: bool) {
        if let Some(entry) = entries.last() {
            self.last = Last::of(entry);
        } else if anew {
            self.last = Last::default();
        }
        let Ok(database) = &self.database else { return };
        if let Err(error) = write(database, state, entries, anew) {
            tracing::error!(%error, "the copy of the fleet's state could not be kept; a restart without its store would not know it");
        }
    }

    /// All entries, the oldest first.
    pub fn audit(&self) -> Result<Vec<Entry>, String> {
        let database = self.database.as_ref().map_err(Clone::clone)?;
        entries(database).map_err(|error| error.to_string())
    }

    pub fn note(&self, name: &str, value: &impl Serialize) {
        let Ok(database) = &self.database else { return };
        let keep = || {
            let transaction = database.begin_write()?;
            transaction
                .open_table(NOTES)?
                .insert(name, serde_json::to_vec(value).unwrap_or_default().as_slice())?;
            transaction.commit()?;
            Ok::<(), redb::Error>(())
        };
        if let Err(error) = keep() {
            tracing::warn!(%error, name, "a note could not be kept");
        }
    }

    pub fn noted<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Option<T> {
        let transaction = self.database.as_ref().ok()?.begin_read().ok()?;
        let value = transaction.open_table(NOTES).ok()?.get(name).ok()??;
        serde_json::from_slice(value.value()).ok()
    }
}

fn write(database: &Database, state: &State, entries: &[Entry], anew: bool) -> Result<(), redb::Error> {
    let json = |text: serde_json::Result<Vec<u8>>| text.unwrap_or_default();
    let transaction = database.begin_write()?;
    if anew {
        transaction.delete_table(AUDIT)?;
    }
    transaction.open_table(STATE)?.insert(CURRENT, json(serde_json::to_vec(state)).as_slice())?;
    {
        let mut audit = transaction.open_table(AUDIT)?;
        for entry in entries {
            audit.insert(entry.sequence, json(serde_json::to_vec(entry)).as_slice())?;
        }
    }
    transaction.commit()?;
    Ok(())
}

fn read(database: &Database) -> Result<(State, Last), redb::Error> {
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
                Last { sequence: sequence.value(), hash: entry.hash }
            }
            None => Last::default(),
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
