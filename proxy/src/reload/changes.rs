//! Changes beside the rules, made by the thread that also reloads, so that the two never meet.
//!
//! Input: what was asked. Output: a new snapshot, with its entry in the log on the disk before. Must not: acknowledge what is not kept, or
//! make a kill wait for the log.

use super::Reloader;
use crate::change::{ChangeAsked, Changed, NotChanged, What};
use crate::live::Live;
use crate::state::store::State;
use banyan_routes::audit::Entry;
use banyan_routes::life::{Asked, Change};
use jiff::Timestamp;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

impl Reloader {
    /// One change beside the rules: checked, kept, and only then in force. A kill is in force whether it can be kept or not.
    pub fn change(&mut self, asked: &ChangeAsked) -> Result<Changed, NotChanged> {
        let serving = self.serving.clone().ok_or(NotChanged::NoRules)?;
        let revision = self.state.revision;
        if asked.if_revision.is_some_and(|wanted| wanted != revision) {
            return Err(NotChanged::Revision { is: revision });
        }
        let (before, after) = match &asked.what {
            What::Route { id, change } => {
                let at =
                    *serving.table.by_id.get(id.as_str()).ok_or_else(|| NotChanged::Unknown(id.clone()))?;
                let before = self.state.routes.get(id).cloned().unwrap_or_default();
                let (now, clock) = (SystemTime::now(), Timestamp::now());
                let frozen = serving.table.freezes.iter().find(|freeze| freeze.is_on(clock));
                let by = Asked {
                    actor: &asked.actor,
                    reason: &asked.reason,
                    at_unix_s: unix(now),
                    frozen: frozen.map(|freeze| &*freeze.name),
                };
                let after = before.after(*change, serving.table.route(at), &serving.table, &by);
                (Some(before), Some(after.map_err(NotChanged::Refused)?))
            }
            What::Kill { .. } => (None, None),
        };
        let mut state = State::clone(&self.state);
        state.revision += 1;
        if let (What::Route { id, .. }, Some(after)) = (&asked.what, &after) {
            state.routes.insert(id.clone(), after.clone());
        }
        let entry = Entry {
            sequence: 0,
            at_unix_s: unix(SystemTime::now()),
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
        let switch = match &asked.what {
            What::Kill { scope, on } => {
                let file = scope
                    .file(&serving.table, &self.kills)
                    .ok_or_else(|| NotChanged::Unknown(scope.to_string()))?;
                Some((self.state_dir.join(file), *on))
            }
            What::Route { .. } => None,
        };
        let done = |state_revision| Changed {
            version: 1,
            action: asked.what.action(),
            scope: asked.what.scope(),
            dry_run: asked.dry_run,
            state_revision,
            before: before.clone(),
            after: after.clone(),
        };
        if asked.dry_run {
            return Ok(done(revision));
        }
        if let Some((file, on)) = switch {
            turn(&file, on).map_err(|error| NotChanged::Store(format!("{}: {error}", file.display())))?;
            self.look_at_kills();
            // The switch is what counts; that the log cannot be written is told, and takes nothing back.
            if let Err(error) = self.state_store.commit(&state, entry) {
                tracing::error!(%error, "a kill switch could not be put into the audit log");
                return Ok(done(revision));
            }
            self.state = Arc::new(state);
            return Ok(done(self.state.revision));
        }
        self.state_store.commit(&state, entry).map_err(NotChanged::Store)?;
        self.state = Arc::new(state);
        if let What::Route { id, change: Change::Resume } = &asked.what
            && before.as_ref().is_some_and(|before| before.rolled_back)
            && let Some(at) = serving.table.by_id.get(id.as_str())
        {
            serving.routes[*at as usize].evidence().restart();
        }
        self.live.publish(Live::new(serving, self.kills.clone(), self.state.clone()));
        self.count_shares();
        tracing::warn!(
            actor = asked.actor,
            action = asked.what.action(),
            scope = asked.what.scope(),
            reason = asked.reason,
            "state changed"
        );
        Ok(done(self.state.revision))
    }

    pub fn audit(&self) -> Result<Vec<Entry>, String> {
        self.state_store.audit()
    }
}

/// The file is the switch: what it holds is not read. On the disk when this returns.
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
    file.parent().map_or(Ok(()), |dir| std::fs::File::open(dir)?.sync_all())
}

fn unix(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
