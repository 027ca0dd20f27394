//! A replica and its fleet's store: what others changed comes into force here, and what the store has lost is put back.
//!
//! Input: what the store holds. Output: the same in force here, and in this replica's own copy. Must not: take back an acknowledged change
//! because a store came back without it, or put one replica's past over the fleet's.

use super::Reloader;
use crate::live::Live;
use crate::state::fleet::{Fleet, Told};
use std::sync::Arc;
use std::time::Duration;

/// How long a start waits for the store before it serves what it knew last.
const FIRST_WAIT: Duration = Duration::from_secs(2);

impl Reloader {
    /// Before anything serves: the fleet's state, or the copy of it.
    pub async fn join_fleet(&mut self) {
        let Some(fleet) = self.fleet.clone() else { return };
        let first = tokio::time::timeout(FIRST_WAIT, fleet.changed.notified()).await;
        if first.is_err() {
            tracing::warn!(
                revision = self.state.revision,
                "the fleet's store does not answer; the state known last serves"
            );
        }
        self.catch_up().await;
    }

    /// Whatever the others have changed meanwhile.
    pub async fn catch_up(&mut self) {
        let Some(fleet) = self.fleet.clone() else { return };
        let Ok(told) = fleet.fetch(self.state_store.last().sequence).await else { return };
        if told.state.revision < self.state.revision && self.put_back(&fleet, &told).await {
            return;
        }
        if told.state.revision != self.state.revision || !self.follows(&told) {
            self.take_over(&fleet, told).await;
        }
        self.send_unsent().await;
    }

    /// Whether what the store holds continues what is known here.
    fn follows(&self, told: &Told) -> bool {
        let last = self.state_store.last();
        match (told.entries.first(), told.entries.last()) {
            (Some(first), Some(end)) => {
                first.previous == last.hash && Some(&end.hash) == told.last_hash.as_ref()
            }
            _ => told.last_hash.as_ref().is_none_or(|hash| *hash == last.hash),
        }
    }

    async fn take_over(&mut self, fleet: &Fleet, told: Told) {
        let anew = !self.follows(&told);
        let told = if anew {
            tracing::warn!("the fleet's log is not the one known here; it is taken over whole");
            match fleet.fetch(0).await {
                Ok(whole) => whole,
                Err(_) => return,
            }
        } else {
            told
        };
        self.state_store.adopt(&told.state, &told.entries, anew);
        tracing::info!(revision = told.state.revision, "the fleet's state was changed elsewhere");
        self.state = Arc::new(told.state);
        self.publish_state();
    }

    /// A store that was restarted from an old copy, or emptied, is told again what had been acknowledged. `false`: it is another fleet's.
    async fn put_back(&self, fleet: &Fleet, told: &Told) -> bool {
        let Ok(entries) = self.state_store.audit() else { return false };
        let known =
            told.last_hash.as_ref().is_none_or(|hash| entries.iter().any(|entry| entry.hash == *hash));
        if !known {
            return false;
        }
        tracing::error!(
            found = told.state.revision,
            known = self.state.revision,
            "the fleet's store has lost changes; they are put back"
        );
        let put = fleet.restore(told.state.revision, &self.state, self.state_store.last(), &entries).await;
        if let Err(why) = put {
            tracing::warn!(?why, "not put back; tried again with the next beat");
        }
        true
    }

    /// The state in force, to everything that shows or obeys it.
    pub(super) fn publish_state(&mut self) {
        let served = self.with_unsent();
        let before = std::mem::replace(&mut self.served, served);
        let Some(serving) = self.serving.clone() else { return };
        for (route, runtime) in serving.table.routes.iter().zip(&serving.routes) {
            let rolled_back = |state: &crate::state::store::State| {
                state.routes.get(&*route.id).is_some_and(|route| route.rolled_back)
            };
            // What was compared before a rollback says nothing of what comes after it.
            if rolled_back(&before) && !rolled_back(&self.served) {
                runtime.evidence().restart();
            }
        }
        if let Some(fleet) = &self.fleet {
            fleet.serve(serving.table.revision.as_str(), self.state.revision);
        }
        self.live.publish(Live::new(serving, self.kills(), self.served.clone()));
        self.count_shares();
        self.count_kills();
    }
}
