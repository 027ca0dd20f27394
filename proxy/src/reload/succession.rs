//! The files of the state directory, while a successor may have them.
//!
//! Input: that a successor is started, or was not ready. Output: files closed, or opened again. Must not: write between the two.

use super::Reloader;
use crate::state::store::StateStore;

impl Reloader {
    /// Closes what one process only can have open. Requests are decided as before; nothing is moved or changed.
    pub fn give_files_away(&mut self) {
        self.store.close();
        self.state_store.close();
    }

    /// Nobody took them: as it was, and what a fleet has done meanwhile.
    pub async fn take_files_back(&mut self) {
        self.store.reopen(&self.state_dir);
        // The state in force is newer than the file only by what could not be kept, and that is sent again.
        let (state_store, _) = StateStore::open(&self.state_dir);
        self.state_store = state_store;
        self.catch_up().await;
    }
}
