//! Rollbacks and kills: in force first, kept afterwards, and sent again until they are.
//!
//! Input: what somebody asked for, or the plan says. Output: the same in force at once on this replica. Must not: wait for a store, or be
//! forgotten by a restart.

use super::Reloader;
use super::changes::{CONFLICTS_MAX, unix};
use crate::change::{ChangeAsked, NotChanged, Scope, What};
use crate::state::fleet::NotKept;
use banyan_routes::life::Change;
use banyan_routes::plan::{CONTROLLER, Reason};
use banyan_routes::state::{BackScope, WayBack};
use std::time::{Duration, Instant};

/// In the notes of the state directory.
pub(super) const UNSENT: &str = "unsent";
/// Of one second, at most: the thread has kill switches to look at.
pub(super) const TURN: Duration = Duration::from_millis(300);

impl Reloader {
    /// `None`: not one; a kill where there is no fleet is a file.
    pub(super) fn way_back(&self, asked: &ChangeAsked) -> Option<WayBack> {
        let scope = match &asked.what {
            What::Route { id, change: Change::Rollback } => BackScope::Rollback { route: id.clone() },
            What::Kill { scope, on: true } if self.fleet.is_some() => {
                BackScope::Kill { scope: scope.to_string() }
            }
            What::Route { .. } | What::Kill { .. } | What::Breaker { .. } => return None,
        };
        Some(WayBack::new(scope, &asked.actor, &asked.reason, unix()))
    }

    /// Whether it will come into force at once, and has nothing but the files of the state directory to outlive a restart.
    pub fn has_to_be_kept(&self, asked: &ChangeAsked) -> bool {
        !asked.dry_run && self.way_back(asked).is_some() && self.planned(asked).is_ok()
    }

    /// Whether it is kept as well.
    pub(super) async fn go_back(&mut self, asked: &ChangeAsked, back: WayBack) -> Result<bool, NotChanged> {
        self.force(vec![back.clone()]);
        match self.send(&back, asked.if_revision).await {
            Ok(()) => {
                self.forget(&back.scope);
                Ok(true)
            }
            // It was asked for on a condition, and the condition does not hold.
            Err(Unsent::Refused(why)) => {
                self.forget(&back.scope);
                Err(why)
            }
            Err(Unsent::Away(error)) => {
                tracing::error!(
                    error,
                    action = asked.what.action(),
                    scope = asked.what.scope(),
                    "in force on this replica only, and kept when the store is back"
                );
                Ok(false)
            }
        }
    }

    /// USR1 kills everything, USR2 lifts that: for when nothing but the process is left.
    pub async fn kill_by_signal(&mut self, on: bool) {
        let asked = ChangeAsked {
            what: What::Kill { scope: Scope::All, on },
            actor: "signal".to_owned(),
            reason: if on { "USR1" } else { "USR2" }.to_owned(),
            if_revision: None,
            dry_run: false,
        };
        if let Err(why) = self.change(&asked).await {
            tracing::error!(?why, "a kill by signal was not made");
        }
    }

    /// What the plan says of several routes, all at once.
    pub(super) fn roll_back(&mut self, routes: Vec<(Box<str>, Reason)>) {
        let mut backs = Vec::new();
        let mut told = Vec::new();
        for (id, reason) in routes {
            let asked = ChangeAsked {
                what: What::Route { id: id.to_string(), change: Change::Rollback },
                actor: CONTROLLER.to_owned(),
                reason: format!("{}: {reason}", reason.gate()),
                if_revision: None,
                dry_run: false,
            };
            let (Ok(planned), Some(back)) = (self.planned(&asked), self.way_back(&asked)) else { continue };
            if !self.unsent.iter().any(|other| other.scope == back.scope) {
                backs.push(back);
                told.push((asked, planned));
            }
        }
        if backs.is_empty() {
            return;
        }
        self.force(backs);
        for (asked, planned) in told {
            tracing::warn!(
                actor = CONTROLLER,
                scope = asked.what.scope(),
                reason = asked.reason,
                "rolled back"
            );
            self.tell_others(&asked, &planned);
        }
    }

    /// In force when this returns.
    pub(super) fn force(&mut self, backs: Vec<WayBack>) {
        for back in backs {
            if !self.unsent.iter().any(|other| other.scope == back.scope) {
                self.unsent.push(back);
            }
        }
        self.publish_state();
        self.keep_unsent();
        self.metrics.unsent.set(self.unsent.len() as i64);
    }

    pub(super) fn forget(&mut self, scope: &BackScope) {
        let before = self.unsent.len();
        self.unsent.retain(|back| back.scope != *scope);
        if self.unsent.len() != before {
            self.keep_unsent();
            self.publish_state();
        }
    }

    pub(super) fn keep_unsent(&self) {
        self.state_store.note(UNSENT, &self.unsent);
    }

    /// What is in force and not kept yet, for as long as there is time.
    pub(super) async fn send_unsent(&mut self) {
        if self.sending || self.unsent.is_empty() || self.fleet.as_ref().is_some_and(|fleet| !fleet.is_up()) {
            return;
        }
        self.sending = true;
        let begun = Instant::now();
        let mut sent = Vec::new();
        for back in self.unsent.clone() {
            if begun.elapsed() > TURN {
                break;
            }
            match self.send(&back, None).await {
                // It can only be looked at beside rules.
                Err(Unsent::Refused(NotChanged::NoRules)) => break,
                Ok(()) | Err(Unsent::Refused(_)) => sent.push(back.scope),
                Err(Unsent::Away(error)) => {
                    tracing::debug!(error, "still not kept");
                    break;
                }
            }
        }
        self.sending = false;
        if !sent.is_empty() {
            self.unsent.retain(|back| !sent.contains(&back.scope));
            self.keep_unsent();
            self.publish_state();
        }
    }

    /// Into the store; nothing comes into force by it that is not already.
    async fn send(&mut self, back: &WayBack, if_revision: Option<u64>) -> Result<(), Unsent> {
        let what = match &back.scope {
            BackScope::Rollback { route } => What::Route { id: route.clone(), change: Change::Rollback },
            BackScope::Kill { scope } => What::Kill { scope: Scope::parse(scope), on: true },
        };
        if let (What::Kill { scope, .. }, None) = (&what, &self.fleet) {
            // Here the file is what keeps it.
            let scope = scope.clone();
            if let Err(NotKept::Away(error)) = self.turn(&scope, true) {
                return Err(Unsent::Away(error));
            }
        }
        let (actor, reason) = (back.actor.clone(), back.reason.clone());
        let asked = ChangeAsked { what, actor, reason, if_revision, dry_run: false };
        for _ in 0..CONFLICTS_MAX {
            let mut planned = self.planned(&asked).map_err(Unsent::Refused)?;
            planned.entry.at_unix_s = back.at_unix_s.unwrap_or(planned.entry.at_unix_s);
            match self.keep(&asked, &planned).await {
                Ok(()) => return Ok(()),
                Err(NotKept::Conflict) => {
                    let was = std::mem::replace(&mut self.sending, true);
                    Box::pin(self.catch_up()).await;
                    self.sending = was;
                }
                Err(NotKept::Lease) => return Err(Unsent::Away("another replica is the controller".into())),
                Err(NotKept::Away(error) | NotKept::Unknown(error)) => return Err(Unsent::Away(error)),
            }
        }
        Err(Unsent::Away("other replicas were first, again and again".into()))
    }
}

enum Unsent {
    /// There is nothing to keep: it is so already, or nothing is called that any more.
    Refused(NotChanged),
    Away(String),
}
