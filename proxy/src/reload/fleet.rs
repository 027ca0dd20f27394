//! A replica and its fleet's store: what others changed comes into force here, and what the store has lost is put back.
//!
//! Input: what the store holds. Output: the same in force here, and in this replica's own copy. Must not: take back an acknowledged change
//! because a store came back without it, or put one replica's past over the fleet's.

use super::Reloader;
use crate::live::Live;
use crate::state::fleet::{Fleet, Held};
use banyan_routes::state::{Heard, State, Told, forgotten, goes_on, heard, in_force};
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
        let Some(fleet) = self.fleet.clone().filter(|_| !self.state_store.is_given_away()) else { return };
        let Ok(held) = fleet.fetch(self.state_store.last().sequence).await else { return };
        let told = Told {
            revision: held.state.revision,
            last_hash: held.last_hash.as_deref(),
            entries: &held.entries,
        };
        let ours = || self.state_store.audit().unwrap_or_default();
        match heard(&self.state, self.state_store.last(), &told, ours) {
            Heard::Same => {}
            Heard::Follows => self.take_over(held, false),
            Heard::Another => {
                let Ok(mut whole) = fleet.fetch(0).await else { return };
                if let Some(at) = goes_on(self.state_store.last(), &whole.entries) {
                    tracing::error!("the fleet's log has lost entries; they are kept here");
                    whole.entries.drain(..at);
                    return self.take_over(whole, false);
                }
                let ours = self.state_store.audit().unwrap_or_default();
                let lost = forgotten(&ours, &whole.entries, self.is_member);
                tracing::error!(
                    ways_back = lost.len(),
                    "the fleet's log is not the one known here; it is taken over"
                );
                self.unsent.extend(lost);
                self.keep_unsent();
                self.take_over(whole, true);
            }
            Heard::PutBack => self.put_back(&fleet, held.state.revision).await,
        }
        self.is_member = true;
        self.send_unsent().await;
    }

    fn take_over(&mut self, held: Held, anew: bool) {
        self.state_store.adopt(&held.state, &held.entries, anew);
        tracing::info!(revision = held.state.revision, "the fleet's state was changed elsewhere");
        self.state = Arc::new(held.state);
        self.publish_state();
    }

    /// A store that was restarted from an old copy, or emptied, is told again what had been acknowledged.
    async fn put_back(&self, fleet: &Fleet, found: u64) {
        let entries = match self.state_store.audit() {
            Ok(entries) => entries,
            Err(error) => {
                tracing::error!(
                    error,
                    "the fleet's store has lost changes, and the copy here cannot be read"
                );
                return;
            }
        };
        tracing::error!(
            found,
            known = self.state.revision,
            "the fleet's store has lost changes; they are put back"
        );
        if let Err(why) = fleet.restore(found, &self.state, self.state_store.last(), &entries).await {
            tracing::warn!(?why, "not put back; tried again with the next beat");
        }
    }

    /// The state in force, to everything that shows or obeys it.
    pub(super) fn publish_state(&mut self) {
        let Some(serving) = self.serving.clone() else { return };
        let served = Arc::new(in_force(&self.state, &self.unsent, &serving.table));
        let before = std::mem::replace(&mut self.served, served);
        if let Some(fleet) = &self.fleet {
            fleet.serve(serving.table.revision.as_str(), self.state.revision);
        }
        let live = Live::new(serving.clone(), self.kills(), self.served.clone());
        for (route, runtime) in serving.table.routes.iter().zip(&serving.routes) {
            let rolled_back =
                |state: &State| state.routes.get(&*route.id).is_some_and(|route| route.rolled_back);
            // What was compared before a rollback says nothing of what comes after it.
            if rolled_back(&before) && !rolled_back(&self.served) {
                runtime.evidence().restart(live.number);
            }
        }
        self.live.publish(live);
        self.count_routes();
        self.count_kills();
    }
}
