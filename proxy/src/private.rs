//! Embedded stores that only their owner may read.
//!
//! Input: a path. Output: an open database. Must not: leave a moment in which others can open the file.

use redb::{Database, DatabaseError, StorageError};
use std::fs::OpenOptions;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

const OWNER_ONLY: u32 = 0o600;

pub fn create(path: &Path) -> Result<Database, DatabaseError> {
    let made =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(OWNER_ONLY).open(path);
    let file = made.map_err(|error| DatabaseError::Storage(StorageError::Io(error)))?;
    // One that was there already may have been made by an older version.
    let _ = file.set_permissions(std::fs::Permissions::from_mode(OWNER_ONLY));
    drop(file);
    Database::create(path)
}
