//! Changes beside the rules, made by the thread that also reloads, so that the two never meet.
//!
//! Input: what was asked. Output: a new snapshot, with its entry in the log kept before. Must not: acknowledge what is not kept, or make a
//! way back wait for the log: a kill and a rollback are in force at once, and are kept when the store is there again.

use super::Reloader;
use crate::change::{ChangeAsked, Changed, Held, Moved, NotChanged, Scope, What};
use crate::settings::Event;
use crate::state::fleet::NotKept;
use crate::targets::live_breaker::{self, Hand};
use banyan_routes::audit::Entry;
use banyan_routes::ids::{SharePpm, Side};
use banyan_routes::life::{Asked, Change, Headroom, RouteState};
use banyan_routes::plan::CONTROLLER;
use banyan_routes::state::{BackScope, State, WayBack};
use banyan_routes::table::{Route, Stage};
use jiff::Timestamp;
use serde_json::json;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Others in the fleet may be first, again and again, but not for ever.
pub(super) const CONFLICTS_MAX: u32 = 5;

/// A change that was looked at, and not made yet.
pub(super) struct Planned {
    before: Option<RouteState>,
    after: Option<RouteState>,
    state: State,
    pub(super) entry: Entry,
}

impl Reloader {
    /// One change beside the rules: checked, kept, and only then in force. A way back is in force first, whether it can be kept or not.
    pub async fn change(&mut self, asked: &ChangeAsked) -> Result<Changed, NotChanged> {
        let planned = self.planned(asked)?;
        if asked.dry_run {
            return Ok(self.told(asked, &planned, true));
        }
        if let What::Breaker { backend, hand } = &asked.what {
            // In force whether the log can be told or not.
            self.hold_breaker(backend, *hand);
        }
        let kept = match self.way_back(asked) {
            Some(_)
                if self.state_store.is_given_away()
                    && self.fleet.as_ref().is_none_or(|fleet| !fleet.is_up()) =>
            {
                // Requests are another process's, and there is nobody through whom it would hear of this.
                return Err(NotChanged::Store("another process has taken over; ask again".into()));
            }
            Some(back) => self.go_back(asked, back).await?,
            // In force already, whatever comes of the log.
            None if matches!(asked.what, What::Breaker { .. }) => {
                self.keep_first(asked).await.unwrap_or_else(|why| {
                    tracing::error!(?why, "a breaker held by hand could not be put into the audit log");
                    false
                })
            }
            None => self.keep_first(asked).await?,
        };
        if let What::Route { id, change: Change::Resume } = &asked.what {
            // A rollback that waits to be kept is lifted with the one that is in force.
            self.forget(&BackScope::Rollback { route: id.clone() });
        }
        tracing::warn!(
            actor = asked.actor,
            action = asked.what.action(),
            scope = asked.what.scope(),
            reason = asked.reason,
            kept,
            "state changed"
        );
        self.tell_others(asked, &planned);
        Ok(self.told(asked, &planned, kept))
    }

    /// `false`: done, and not in the log.
    async fn keep_first(&mut self, asked: &ChangeAsked) -> Result<bool, NotChanged> {
        for _ in 0..CONFLICTS_MAX {
            // Others may have changed what this was planned on.
            let planned = self.planned(asked)?;
            let kept = match &asked.what {
                What::Kill { scope, on } => self.switch(scope, *on, asked, &planned).await,
                What::Route { .. } | What::Breaker { .. } => self.keep(asked, &planned).await.map(|()| true),
            };
            match kept {
                Err(NotKept::Conflict) => self.catch_up().await,
                Err(NotKept::Lease) => {
                    return Err(NotChanged::Store("another replica is the controller now".into()));
                }
                Err(NotKept::Away(error)) => return Err(NotChanged::Store(error)),
                Err(NotKept::Unknown(error)) => return Err(NotChanged::Unsure(error)),
                Ok(kept) => return Ok(kept),
            }
        }
        Err(NotChanged::Store("other replicas were first, again and again".into()))
    }

    /// Webhooks, of what has just come into force.
    pub(super) fn tell_others(&self, asked: &ChangeAsked, planned: &Planned) {
        let (What::Route { id, change }, Some(before), Some(after)) =
            (&asked.what, &planned.before, &planned.after)
        else {
            return;
        };
        let event = match change {
            Change::Rollback => Event::RolledBack,
            Change::Hold => Event::Held,
            _ if after.share_ppm > before.share_ppm => Event::AfterRaise,
            _ => return,
        };
        let what = json!({
            "route": id,
            "action": change.as_str(),
            "actor": asked.actor,
            "reason": asked.reason,
            "share_ppm": before.share_ppm,
            "to_share_ppm": after.share_ppm,
            "at_unix_s": unix(),
            "state_revision": self.state.revision,
            "rules_revision": planned.entry.rules_revision,
        });
        self.webhooks.tell(event, &what);
    }

    pub(super) fn planned(&self, asked: &ChangeAsked) -> Result<Planned, NotChanged> {
        let serving = self.serving.as_ref().ok_or(NotChanged::NoRules)?;
        let revision = self.state.revision;
        if asked.if_revision.is_some_and(|wanted| wanted != revision) {
            return Err(NotChanged::Revision { is: revision });
        }
        let mut state = State::clone(&self.state);
        state.revision += 1;
        let (mut before, mut after) = (None, None);
        match &asked.what {
            What::Route { id, change } => {
                let at =
                    serving.table.position(id.as_str()).ok_or_else(|| NotChanged::Unknown(id.clone()))?;
                let route = serving.table.route(at);
                // A way back is planned on what is kept: that it is in force here already does not keep it.
                let from = if *change == Change::Rollback { &self.state } else { &self.served };
                let now = from.routes.get(id).cloned().unwrap_or_default();
                let clock = Timestamp::now();
                let frozen = serving.table.freezes.iter().find(|freeze| freeze.is_on(clock));
                let by = Asked {
                    actor: &asked.actor,
                    reason: &asked.reason,
                    at_unix_s: unix(),
                    frozen: frozen.map(|freeze| &*freeze.name),
                    headroom: self.headroom(route),
                };
                let then = now.after(*change, route, &serving.table, &by).map_err(NotChanged::Refused)?;
                state.routes.insert(id.clone(), then.clone());
                (before, after) = (Some(now), Some(then));
            }
            What::Kill { scope, on } => {
                if scope.file(&serving.table, &self.kills()).is_none() {
                    return Err(NotChanged::Unknown(scope.to_string()));
                }
                match (*on, self.fleet.is_some()) {
                    (true, true) => drop(state.kills.insert(scope.to_string())),
                    (false, _) => state.kills.retain(|kill| !scope.names(kill)),
                    (true, false) => {}
                }
            }
            What::Breaker { backend, .. } => {
                let found = serving.backends.iter().find(|it| *it.definition.id == **backend);
                let found = found.ok_or_else(|| NotChanged::Unknown(backend.clone()))?;
                if found.breaker.is_none() {
                    return Err(NotChanged::NoBreaker(backend.clone()));
                }
            }
        }
        let entry = Entry {
            sequence: 0,
            at_unix_s: unix(),
            actor: asked.actor.clone(),
            action: asked.what.action().to_owned(),
            scope: asked.what.scope(),
            reason: asked.reason.clone(),
            rules_revision: serving.table.revision.to_string(),
            revision_before: revision,
            revision_after: state.revision,
            before: before.clone(),
            after: after.clone(),
            previous: String::new(),
            hash: String::new(),
        };
        Ok(Planned { before, after, state, entry })
    }

    fn told(&self, asked: &ChangeAsked, planned: &Planned, kept: bool) -> Changed {
        let traffic = match &asked.what {
            What::Route { id, .. } => self.moves(id, planned),
            What::Kill { scope, on } => Some(self.kills_move(scope, *on)),
            What::Breaker { .. } => None,
        };
        let breaker = match &asked.what {
            What::Breaker { backend, hand } => self.breaker(backend, *hand, asked.dry_run),
            What::Route { .. } | What::Kill { .. } => None,
        };
        Changed {
            version: 1,
            action: asked.what.action(),
            scope: asked.what.scope(),
            dry_run: asked.dry_run,
            kept,
            state_revision: self.state.revision,
            before_share_ppm: self.share_of(asked, &planned.before),
            after_share_ppm: self.share_of(asked, &planned.after),
            before: planned.before.clone(),
            after: planned.after.clone(),
            traffic,
            breaker,
        }
    }

    fn hold_breaker(&self, id: &str, hand: Hand) {
        let backends = self.serving.iter().flat_map(|serving| &serving.backends);
        for backend in backends.filter(|it| *it.definition.id == *id) {
            if let Some(breaker) = &backend.breaker {
                breaker.hold(hand);
                backend.show_breaker();
            }
        }
    }

    /// As it is, or as it would be.
    fn breaker(&self, id: &str, hand: Hand, dry_run: bool) -> Option<Held> {
        let backend = self.serving.as_ref()?.backends.iter().find(|it| *it.definition.id == *id)?;
        let is = backend.breaker.as_ref()?.state();
        let state = match hand {
            Hand::Open if dry_run => live_breaker::State::Open,
            Hand::Close if dry_run => live_breaker::State::Closed,
            Hand::Open | Hand::Close | Hand::Auto => is,
        };
        let state = state.as_str();
        Some(Held { backend: id.to_owned(), state, held: hand != Hand::Auto })
    }

    /// In force, whatever the stage: a canary's is in its rule.
    fn share_of(&self, asked: &ChangeAsked, state: &Option<RouteState>) -> Option<u32> {
        let What::Route { id, .. } = &asked.what else { return None };
        let table = &self.serving.as_ref()?.table;
        let route = table.route(table.position(id.as_str())?);
        Some(state.as_ref()?.effective(route).get())
    }

    /// How much of the last hour's traffic would have gone elsewhere.
    fn moves(&self, id: &str, planned: &Planned) -> Option<Moved> {
        let serving = self.serving.as_ref()?;
        let at = serving.table.position(id)?;
        let route = serving.table.route(at);
        let share = |state: &Option<RouteState>| state.as_ref().map(|state| state.effective(route));
        let requests = self.traffic.last_hour(id, &serving.routes[at as usize]);
        Some(Moved::new(requests, share(&planned.before)?, share(&planned.after)?))
    }

    fn kills_move(&self, scope: &Scope, on: bool) -> Moved {
        let mut moved = Moved {
            requests_last_hour: 0,
            would_move: 0,
            would_refuse: 0,
            to: if on { Side::Legacy } else { Side::Serverless }.as_str(),
        };
        let Some(serving) = &self.serving else { return moved };
        for (route, runtime) in serving.table.routes.iter().zip(&serving.routes) {
            let covered = match scope {
                Scope::All => true,
                Scope::Group(name) => serving.table.group(route) == Some(name),
                Scope::Route(id) => *route.id == **id,
            };
            if covered {
                let share =
                    self.served.routes.get(&*route.id).map_or(route.stage.share(), |it| it.effective(route));
                let one = Moved::new(self.traffic.last_hour(&route.id, runtime), SharePpm::ZERO, share);
                moved.requests_last_hour += one.requests_last_hour;
                match route.stage {
                    Stage::Retired if on => moved.would_refuse += one.would_move,
                    _ => moved.would_move += one.would_move,
                }
            }
        }
        moved
    }

    /// What a way back would bring to the route's legacy backend, where that says what it takes.
    fn headroom(&self, route: &Route) -> Option<Headroom> {
        self.headroom_with(route, &mut HashMap::new())
    }

    /// The same for many routes: a backend's rate is added up once.
    pub(super) fn headroom_with(&self, route: &Route, rates: &mut HashMap<u32, u64>) -> Option<Headroom> {
        let serving = self.serving.as_ref()?;
        let backend = route.backend(Side::Legacy)?;
        let capacity_rps = u64::from(serving.table.backend(backend).capacity_rps?);
        let rate = *rates.entry(backend).or_insert_with(|| self.traffic.rate_of(serving, backend));
        // The others of a fleet have about as much each.
        let replicas = self.fleet.as_ref().map_or(1, |fleet| fleet.replicas().len().max(1)) as u64;
        Some(Headroom { needs_rps: rate * replicas, capacity_rps })
    }

    /// Into the store, and from there into force.
    pub(super) async fn keep(&mut self, asked: &ChangeAsked, planned: &Planned) -> Result<(), NotKept> {
        match self.fleet.clone() {
            None => {
                let kept = self.state_store.commit(&planned.state, planned.entry.clone());
                kept.map_err(NotKept::Away)?;
            }
            Some(fleet) => {
                let entry = self.state_store.last().seal(planned.entry.clone());
                // A way back needs nobody's leave.
                let is_back = matches!(asked.what, What::Route { change: Change::Rollback, .. });
                let as_leader = asked.actor == CONTROLLER && !is_back;
                fleet.commit(self.state.revision, &planned.state, &entry, as_leader).await?;
                self.state_store.adopt(&planned.state, &[entry], false);
            }
        }
        self.state = Arc::new(planned.state.clone());
        self.publish_state();
        Ok(())
    }

    /// The kill switch of this replica is a file; the log is told, and takes nothing back.
    async fn switch(
        &mut self,
        scope: &Scope,
        on: bool,
        asked: &ChangeAsked,
        planned: &Planned,
    ) -> Result<bool, NotKept> {
        let lifts = |kill: &String| scope.names(kill);
        if !on && self.state.kills.iter().any(lifts) {
            // The fleet's: no replica lifts it alone.
            self.keep(asked, planned).await?;
            self.turn(scope, false)?;
            return Ok(true);
        }
        if let Err(error) = self.turn(scope, on) {
            if !on {
                return Err(error);
            }
            // Without its file it is in force all the same, and made when there is a place for it.
            tracing::error!(?error, "a kill switch could not be made a file");
            let scope = BackScope::Kill { scope: scope.to_string() };
            self.force(vec![WayBack::new(scope, &asked.actor, &asked.reason, unix())]);
            return Ok(false);
        }
        if !on {
            self.forget(&BackScope::Kill { scope: scope.to_string() });
        }
        match self.keep(asked, planned).await {
            Err(NotKept::Away(error) | NotKept::Unknown(error)) => {
                tracing::error!(error, "a kill switch could not be put into the audit log");
                Ok(false)
            }
            other => other.map(|()| true),
        }
    }

    /// The file is the switch of this replica.
    pub(super) fn turn(&mut self, scope: &Scope, on: bool) -> Result<(), NotKept> {
        let Some(serving) = &self.serving else { return Ok(()) };
        let Some(file) = scope.file(&serving.table, &self.kills()) else { return Ok(()) };
        let file = self.state_dir.join(file);
        turn(&file, on).map_err(|error| NotKept::Away(format!("{}: {error}", file.display())))?;
        self.look_at_kills();
        Ok(())
    }

    pub fn audit(&self) -> Result<Vec<Entry>, String> {
        self.state_store.audit()
    }
}

/// What the file holds is not read. On the disk when this returns.
fn turn(file: &Path, on: bool) -> std::io::Result<()> {
    let done = if on {
        std::fs::File::create(file).and_then(|made| made.sync_all())
    } else {
        std::fs::remove_file(file)
    };
    match done {
        // It was off already.
        Err(error) if !on && error.kind() == std::io::ErrorKind::NotFound => {}
        result => result?,
    }
    match file.parent().map_or(Ok(()), |dir| std::fs::File::open(dir)?.sync_all()) {
        // Nor is there a directory: it is off, and that is kept.
        Err(error) if !on && error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

pub(super) fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
