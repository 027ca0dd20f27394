//! Evidence that outlives the process: one file.
//!
//! Input: what routes have to keep. Output: the same after a restart or a kill. Must not: stop anything when the disk does.

use crate::evidence::{Kept, WINDOWS_MAX, hour};
use crate::metrics::Metrics;
use crate::private;
use banyan_routes::redact::Redactor;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

const FILE: &str = "evidence.redb";
const KEY_FILE: &str = "evidence.key";
/// Route and hour -> what was counted, as JSON.
const WINDOWS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("windows");
/// Route -> the identity of what was compared, and its differences, as JSON.
const CLUSTERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("clusters");
/// Of all hours together; beyond it the oldest go.
const BYTES_MAX: usize = 64 << 20;

pub struct EvidenceStore {
    /// `None`: it cannot be used, or it is a successor's now.
    database: Mutex<Option<Database>>,
    kept: Mutex<BTreeMap<String, Kept>>,
    /// Of each hour, the oldest first.
    sizes: Mutex<BTreeMap<(u64, String), usize>>,
    pub redactor: Redactor,
}

impl EvidenceStore {
    /// Never fails: without a file, evidence lasts as long as the process.
    pub fn open(dir: &Path, metrics: &Metrics) -> EvidenceStore {
        let redactor = Redactor::new(key(dir).unwrap_or_else(|error| {
            tracing::warn!(%error, "{KEY_FILE} cannot be kept; pseudonyms are new with each start");
            rand::random()
        }));
        let opened =
            private::create(&dir.join(FILE)).map_err(|error| error.to_string()).and_then(|database| {
                let (kept, sizes) = read(&database).map_err(|error| error.to_string())?;
                Ok((database, kept, sizes))
            });
        let (database, kept, sizes) = match opened {
            Ok((database, kept, sizes)) => (Some(database), kept, sizes),
            Err(error) => {
                tracing::warn!(%error, "{FILE} cannot be used; evidence is kept in memory only");
                metrics.evidence_store_errors.inc();
                (None, BTreeMap::new(), BTreeMap::new())
            }
        };
        EvidenceStore {
            database: Mutex::new(database),
            kept: Mutex::new(kept),
            sizes: Mutex::new(sizes),
            redactor,
        }
    }

    /// What is known of a route that nobody has: from before the process began, or from before it went. Given once.
    pub fn take(&self, route: &str) -> Option<Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(route)
    }

    /// Of routes that go: they may come again.
    pub fn give_back(&self, rows: Vec<(&str, Kept)>) {
        if rows.is_empty() {
            return;
        }
        if let Err(error) = self.keep(&rows) {
            tracing::warn!(%error, "evidence cannot be written; it stays in memory");
        }
        let rows = rows.into_iter().map(|(route, kept)| (route.to_owned(), kept));
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).extend(rows);
    }

    /// Writes hours that have changed; without a file there is nothing to do.
    pub fn keep(&self, changed: &[(&str, Kept)]) -> Result<(), String> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = &*database else { return Ok(()) };
        self.write(database, changed).map_err(|error| error.to_string())
    }

    /// Closes the file; what is counted from here on is kept in memory only.
    pub fn close(&self) {
        *self.database.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Opens the file again, after nobody took it over.
    pub fn reopen(&self, dir: &Path) {
        match private::create(&dir.join(FILE)) {
            Ok(database) => *self.database.lock().unwrap_or_else(PoisonError::into_inner) = Some(database),
            Err(error) => {
                tracing::warn!(%error, "{FILE} cannot be used again; evidence is kept in memory only")
            }
        }
    }

    fn write(&self, database: &Database, changed: &[(&str, Kept)]) -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        {
            let mut windows = transaction.open_table(WINDOWS)?;
            let mut clusters = transaction.open_table(CLUSTERS)?;
            let mut sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
            for (route, kept) in changed {
                for (hour, window) in &kept.windows {
                    let value = json(window);
                    windows.insert((*route, *hour), value.as_slice())?;
                    sizes.insert((*hour, (*route).to_owned()), value.len());
                }
                clusters.insert(*route, json(&(kept.identity, &kept.clusters)).as_slice())?;
            }
            let oldest = hour(SystemTime::now()).saturating_sub(WINDOWS_MAX);
            let mut all: usize = sizes.values().sum();
            while let Some(((hour, route), size)) =
                sizes.first_key_value().map(|(key, size)| (key.clone(), *size))
            {
                if hour >= oldest && all <= BYTES_MAX {
                    break;
                }
                windows.remove((route.as_str(), hour))?;
                sizes.pop_first();
                all -= size;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

type Stored = (BTreeMap<String, Kept>, BTreeMap<(u64, String), usize>);

fn read(database: &Database) -> Result<Stored, redb::Error> {
    // Made here, so that reading finds them.
    let transaction = database.begin_write()?;
    transaction.open_table(WINDOWS)?;
    transaction.open_table(CLUSTERS)?;
    transaction.commit()?;
    let transaction = database.begin_read()?;
    let (mut all, mut sizes): Stored = Default::default();
    let oldest = hour(SystemTime::now()).saturating_sub(WINDOWS_MAX);
    for entry in transaction.open_table(WINDOWS)?.iter()? {
        let (key, value) = entry?;
        let (route, hour) = key.value();
        sizes.insert((hour, route.to_owned()), value.value().len());
        match serde_json::from_slice(value.value()) {
            Ok(window) if hour >= oldest => {
                all.entry(route.to_owned()).or_default().windows.insert(hour, window);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(route, %error, "evidence of another version is left out"),
        }
    }
    for entry in transaction.open_table(CLUSTERS)?.iter()? {
        let (route, value) = entry?;
        if let (Some(kept), Ok(clusters)) =
            (all.get_mut(route.value()), serde_json::from_slice(value.value()))
        {
            (kept.identity, kept.clusters) = clusters;
        }
    }
    Ok((all, sizes))
}

/// The key of pseudonyms: made with the first start, readable by its owner only.
fn key(dir: &Path) -> std::io::Result<[u8; 32]> {
    let path = dir.join(KEY_FILE);
    if let Ok(bytes) = std::fs::read(&path)
        && let Ok(key) = <[u8; 32]>::try_from(bytes)
    {
        return Ok(key);
    }
    let key: [u8; 32] = rand::random();
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)?
        .write_all(&key)?;
    Ok(key)
}
